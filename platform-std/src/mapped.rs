//! Bulk memory for a service, from the system: a page that was never touched takes none of the
//! machine's memory, so a bound may be generous.

use std::io;

use memmap2::{Advice, MmapMut, MmapOptions};

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
