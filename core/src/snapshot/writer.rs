//! A section as it is written.

use embedded_io::{ErrorKind, ErrorType, Write, WriteFmtError};

use super::format::summed;
use super::whole::write_all;
use super::{Begin, End, SnapshotError};
use crate::castagnoli;
use crate::wire::Writer;

/// What a section's end mark will say, as far as it is written or read. It outlives the writer, so
/// that a section can be written in steps.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Sums {
    length: u64,
    castagnoli: u32,
    hdlc: u32,
}

impl Sums {
    /// Nothing is written.
    pub const fn new() -> Self {
        Self {
            length: 0,
            castagnoli: 0,
            hdlc: 0,
        }
    }

    /// How many bytes of body there are so far.
    pub const fn length(&self) -> u64 {
        self.length
    }

    /// The end mark that belongs here.
    pub const fn end(&self) -> End {
        End {
            length: self.length,
            digest: (self.hdlc as u64) << 32 | self.castagnoli as u64,
        }
    }

    pub(super) fn add_mark(&mut self, bytes: &[u8]) {
        self.castagnoli = castagnoli::extend(self.castagnoli, bytes);
        self.hdlc = coracle_checksum::hdlc(self.hdlc, bytes);
    }

    pub(super) fn add(&mut self, bytes: &[u8]) {
        self.add_mark(bytes);
        self.length = self.length.saturating_add(bytes.len() as u64);
    }
}

/// Writes a part of a section's body. `embedded_io::Write`, and little-endian integers.
pub struct SnapshotWriter<'a> {
    sink: &'a mut dyn Write<Error = ErrorKind>,
    sums: &'a mut Sums,
}

impl<'a> SnapshotWriter<'a> {
    /// Goes on with a section whose sums so far are `sums`.
    pub fn new(sink: &'a mut dyn Write<Error = ErrorKind>, sums: &'a mut Sums) -> Self {
        Self { sink, sums }
    }

    /// Writes the begin mark: before all else.
    ///
    /// # Errors
    /// [`SnapshotError::Io`]; so for every other method here.
    pub fn begin(&mut self, begin: &Begin) -> Result<(), SnapshotError> {
        *self.sums = Sums::new();
        let bytes = begin.encode();
        self.sums.add_mark(&summed(&bytes));
        self.write_all(&bytes)
    }

    /// Writes the end mark, and gives it back.
    ///
    /// # Errors
    /// See [`Self::begin`].
    pub fn end(&mut self) -> Result<End, SnapshotError> {
        let end = self.sums.end();
        self.write_all(&end.encode())?;
        self.sink.flush().map_err(SnapshotError::Io)?;
        Ok(end)
    }

    fn write_all(&mut self, bytes: &[u8]) -> Result<(), SnapshotError> {
        write_all(self.sink, bytes).map_err(|error| match error {
            WriteFmtError::Other(kind) => SnapshotError::Io(kind),
            WriteFmtError::FmtError => SnapshotError::Io(ErrorKind::WriteZero),
        })
    }

    /// Writes bytes.
    ///
    /// # Errors
    /// See [`Self::begin`].
    pub fn put(&mut self, bytes: &[u8]) -> Result<(), SnapshotError> {
        self.sums.add(bytes);
        self.write_all(bytes)
    }

    /// Writes a number.
    ///
    /// # Errors
    /// See [`Self::begin`].
    pub fn u64(&mut self, value: u64) -> Result<(), SnapshotError> {
        self.put(&value.to_le_bytes())
    }

    /// Writes a number.
    ///
    /// # Errors
    /// See [`Self::begin`].
    pub fn i64(&mut self, value: i64) -> Result<(), SnapshotError> {
        self.put(&value.to_le_bytes())
    }

    /// Writes a number.
    ///
    /// # Errors
    /// See [`Self::begin`].
    pub fn u32(&mut self, value: u32) -> Result<(), SnapshotError> {
        self.put(&value.to_le_bytes())
    }

    /// Writes the length as 32 bits, and the bytes.
    ///
    /// # Errors
    /// [`SnapshotError::TooLarge`] from 4 GiB on; else see [`Self::begin`].
    pub fn bytes(&mut self, bytes: &[u8]) -> Result<(), SnapshotError> {
        let length = u32::try_from(bytes.len()).map_err(|_| SnapshotError::TooLarge)?;
        self.u32(length)?;
        self.put(bytes)
    }

    /// Writes `N` bytes that `fill` lays out; what it does not fill is zero.
    ///
    /// # Errors
    /// See [`Self::begin`].
    pub fn block<const N: usize>(
        &mut self,
        fill: impl FnOnce(&mut Writer<'_>),
    ) -> Result<(), SnapshotError> {
        let mut bytes = [0; N];
        fill(&mut Writer::new(&mut bytes));
        self.put(&bytes)
    }
}

impl ErrorType for SnapshotWriter<'_> {
    type Error = SnapshotError;
}

impl Write for SnapshotWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> Result<usize, SnapshotError> {
        self.put(bytes).map(|()| bytes.len())
    }

    fn flush(&mut self) -> Result<(), SnapshotError> {
        self.sink.flush().map_err(SnapshotError::Io)
    }
}
