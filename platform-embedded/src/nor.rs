//! NOR flash as a device: any driver of `embedded_storage`.

use embedded_storage::nor_flash::NorFlash;

use crate::device::Storage;

/// What the log is written in: frames, records and node states are multiples of this.
pub(crate) const GRANULE: usize = 32;

/// A NOR flash. Inside a chip's flash or on SPI, it is what every HAL's driver implements.
///
/// Nothing is ever written twice between two erasures, not even to clear more bits: so flash with
/// an error-correcting code does as well. Whoever wants to use a part of a chip gives a driver of
/// that part (`embassy-embedded-hal` and others have one).
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Nor<F> {
    flash: F,
}

impl<F: NorFlash> Nor<F> {
    /// What the driver must be: checked when it is built, not when it runs.
    const FITS: () = {
        assert!(
            GRANULE.is_multiple_of(F::WRITE_SIZE),
            "the log is written in multiples of 32 bytes"
        );
        assert!(GRANULE.is_multiple_of(F::READ_SIZE), "so it is read");
        assert!(
            F::ERASE_SIZE.is_power_of_two() && F::ERASE_SIZE >= 1024,
            "a unit that is erased is a power of two from 1 KiB on"
        );
    };

    /// Takes the driver.
    pub const fn new(flash: F) -> Self {
        let () = Self::FITS;
        Self { flash }
    }

    /// The driver.
    pub const fn flash(&self) -> &F {
        &self.flash
    }

    /// The driver.
    pub const fn flash_mut(&mut self) -> &mut F {
        &mut self.flash
    }

    /// Gives the driver back.
    pub fn into_flash(self) -> F {
        self.flash
    }
}

/// Offsets are 32 bits there; ours are checked against the capacity, which is no larger.
const fn offset(at: u64) -> u32 {
    if at > u32::MAX as u64 {
        u32::MAX
    } else {
        at as u32
    }
}

impl<F: NorFlash> Storage for Nor<F> {
    type Error = F::Error;

    fn capacity(&self) -> u64 {
        (self.flash.capacity() as u64).min(u32::MAX.into())
    }

    fn erase_size(&self) -> Option<u32> {
        Some(F::ERASE_SIZE as u32)
    }

    fn read(&mut self, at: u64, into: &mut [u8]) -> Result<(), F::Error> {
        let mut at = at;
        let mut left = into;
        while !left.is_empty() {
            // What does not begin or end at a multiple of what is read goes by way of the stack.
            let skip = (at % GRANULE as u64) as usize;
            if skip == 0 && left.len() >= GRANULE {
                let whole = left.len() - left.len() % GRANULE;
                let (now, rest) = left.split_at_mut(whole);
                self.flash.read(offset(at), now)?;
                (at, left) = (at + whole as u64, rest);
                continue;
            }
            let mut granule = [0; GRANULE];
            self.flash.read(offset(at - skip as u64), &mut granule)?;
            let len = left.len().min(GRANULE - skip);
            let (now, rest) = left.split_at_mut(len);
            now.copy_from_slice(granule.get(skip..skip + len).unwrap_or_default());
            (at, left) = (at + len as u64, rest);
        }
        Ok(())
    }

    fn write(&mut self, at: u64, bytes: &[u8]) -> Result<(), F::Error> {
        self.flash.write(offset(at), bytes)
    }

    fn erase(&mut self, at: u64, len: u64) -> Result<(), F::Error> {
        self.flash.erase(offset(at), offset(at + len))
    }

    fn flush(&mut self) -> Result<(), F::Error> {
        Ok(())
    }
}
