//! Bulk memory for a service, from the system: a page that was never touched takes none of the
//! machine's memory, so a bound may be generous.

use std::io;
use std::ops::Range;

use memmap2::{Advice, MmapMut, MmapOptions, UncheckedAdvice};

/// Private zeroed memory of a fixed length, mapped without a file.
#[derive(Debug)]
pub struct Mapped(MmapMut);

impl Mapped {
    /// Maps `len` bytes. Work: small, whatever the length.
    ///
    /// # Errors
    /// The system's, for example if its policy is not to promise more memory than it has.
    pub fn new(len: u64) -> io::Result<Self> {
        let len = usize::try_from(len).map_err(|_| io::ErrorKind::OutOfMemory)?;
        MmapMut::map_anon(len).map(Self)
    }

    /// As [`Self::new`], for memory of which far apart pieces are used: nothing is set aside for
    /// all of it, and the system does not take huge pages where a small one was touched.
    ///
    /// # Errors
    /// As there.
    pub fn sparse(len: usize) -> io::Result<Self> {
        let mapped = MmapOptions::new().len(len).no_reserve_swap().map_anon()?;
        // Without huge pages in the kernel there is nothing to ask for.
        let _refused = mapped.advise(Advice::NoHugePage).is_err();
        Ok(Self(mapped))
    }
}

impl Mapped {
    /// Gives whole pages of these bytes back to the system: they read as zeros then, until they are
    /// written again.
    pub fn forget(&mut self, range: Range<usize>) {
        let page = page();
        let (start, end) = (range.start.next_multiple_of(page), range.end / page * page);
        if start >= end || end > self.0.len() {
            return;
        }
        // SAFETY: private memory without a file that is borrowed for writing: nobody holds a
        // reference into it, and any bytes are sound ones. What the call says that is not so would
        // be out of bounds, which is checked, or not aligned, which is made so.
        let _refused = unsafe {
            self.0
                .unchecked_advise_range(UncheckedAdvice::DontNeed, start, end - start)
        }
        .is_err();
    }
}

/// The length of a page of memory.
fn page() -> usize {
    // SAFETY: only asks for a number.
    let len = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    usize::try_from(len).unwrap_or(1 << 16).max(1)
}

impl AsRef<[u8]> for Mapped {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl AsMut<[u8]> for Mapped {
    fn as_mut(&mut self) -> &mut [u8] {
        &mut self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_forgotten_is_zero_and_its_neighbours_are_not() {
        let page = page();
        let mut memory = Mapped::sparse(4 * page).unwrap();
        memory.as_mut().fill(7);
        memory.forget(1..3 * page - 1);
        let bytes = memory.as_ref();
        assert!(
            bytes[..page].iter().all(|b| *b == 7),
            "a page that is not whole"
        );
        assert!(bytes[page..2 * page].iter().all(|b| *b == 0));
        assert!(bytes[2 * page..].iter().all(|b| *b == 7));
        memory.forget(0..8 * page);
        assert_eq!(memory.as_ref()[0], 7, "out of bounds: nothing is done");
    }
}
