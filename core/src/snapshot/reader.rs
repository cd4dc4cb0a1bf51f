//! A section as it is read.

use embedded_io::{ErrorKind, ErrorType, Read, ReadExactError};

use super::format::summed;
use super::whole::read_exact;
use super::{BEGIN_LENGTH, Begin, END_LENGTH, End, FormatError, Section, SnapshotError, Sums};
use crate::units::{ClusterId, Position};

/// Reads a section's body. `embedded_io::Read`, and little-endian integers; at the body's end it
/// reads nothing more. [`Self::finish`] says whether all of it was as it was written.
pub struct SnapshotReader<'a> {
    source: &'a mut dyn Read<Error = ErrorKind>,
    left: u64,
    sums: Sums,
    begin: Begin,
}

/// A section that was read in part: it goes on with [`SnapshotReader::resume`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Suspended {
    left: u64,
    sums: Sums,
    begin: Begin,
}

impl Suspended {
    /// How many bytes of body are left; the end mark follows them.
    pub const fn left(&self) -> u64 {
        self.left
    }
}

impl<'a> SnapshotReader<'a> {
    /// Goes on where another reader was suspended: `source` gives the byte next that it would have
    /// read.
    pub fn resume(source: &'a mut dyn Read<Error = ErrorKind>, at: Suspended) -> Self {
        let Suspended { left, sums, begin } = at;
        Self {
            source,
            left,
            sums,
            begin,
        }
    }

    /// What is needed to go on later.
    pub const fn suspend(&self) -> Suspended {
        Suspended {
            left: self.left,
            sums: self.sums,
            begin: self.begin,
        }
    }

    /// Reads the begin mark of a section that is `length` bytes long, marks included.
    ///
    /// # Errors
    /// See [`SnapshotError`]; [`FormatError::Foreign`] if it is not the `section` of `cluster`.
    pub fn new(
        source: &'a mut dyn Read<Error = ErrorKind>,
        length: u64,
        cluster: ClusterId,
        section: Section,
    ) -> Result<Self, SnapshotError> {
        let marks = (BEGIN_LENGTH + END_LENGTH) as u64;
        let left = length.checked_sub(marks).ok_or(FormatError::NoMark)?;
        let mut bytes = [0; BEGIN_LENGTH];
        read_exact(source, &mut bytes).map_err(exact)?;
        let begin = Begin::decode(&bytes)?;
        if begin.cluster != cluster || begin.section != section {
            return Err(FormatError::Foreign.into());
        }
        let mut sums = Sums::new();
        sums.add_mark(&summed(&bytes));
        Ok(Self {
            source,
            left,
            sums,
            begin,
        })
    }

    /// What the section says of itself.
    pub const fn begin(&self) -> &Begin {
        &self.begin
    }

    /// How many bytes of body are left.
    pub const fn left(&self) -> u64 {
        self.left
    }

    /// Reads what is left of the body and the end mark.
    ///
    /// # Errors
    /// [`SnapshotError::Io`], or a [`FormatError`] if anything was damaged.
    pub fn finish(mut self) -> Result<End, SnapshotError> {
        let mut scratch = [0; 256];
        while self.left > 0 {
            self.read(&mut scratch)?;
        }
        let mut bytes = [0; END_LENGTH];
        read_exact(self.source, &mut bytes).map_err(exact)?;
        let end = End::decode(&bytes)?;
        if end == self.sums.end() {
            Ok(end)
        } else {
            Err(FormatError::Checksum.into())
        }
    }

    /// Fills `bytes`.
    ///
    /// # Errors
    /// [`SnapshotError::Short`] if the body ends before; [`SnapshotError::Io`].
    pub fn take(&mut self, bytes: &mut [u8]) -> Result<(), SnapshotError> {
        if (bytes.len() as u64) > self.left {
            return Err(SnapshotError::Short);
        }
        read_exact(self.source, bytes).map_err(exact)?;
        self.sums.add(bytes);
        self.left -= bytes.len() as u64;
        Ok(())
    }

    /// Reads `N` bytes.
    ///
    /// # Errors
    /// See [`Self::take`]; so for every other method here.
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], SnapshotError> {
        let mut bytes = [0; N];
        self.take(&mut bytes)?;
        Ok(bytes)
    }

    /// Reads a number.
    ///
    /// # Errors
    /// See [`Self::take`].
    pub fn u64(&mut self) -> Result<u64, SnapshotError> {
        self.array().map(u64::from_le_bytes)
    }

    /// Reads a number.
    ///
    /// # Errors
    /// See [`Self::take`].
    pub fn i64(&mut self) -> Result<i64, SnapshotError> {
        self.array().map(i64::from_le_bytes)
    }

    /// Reads a number.
    ///
    /// # Errors
    /// See [`Self::take`].
    pub fn u32(&mut self) -> Result<u32, SnapshotError> {
        self.array().map(u32::from_le_bytes)
    }

    /// Reads what `SnapshotWriter::bytes` wrote to the start of `room`.
    ///
    /// # Errors
    /// [`SnapshotError::TooLarge`] if there is too little room; else see [`Self::take`].
    pub fn bytes<'b>(&mut self, room: &'b mut [u8]) -> Result<&'b [u8], SnapshotError> {
        let length = self.u32()? as usize;
        let room = room.get_mut(..length).ok_or(SnapshotError::TooLarge)?;
        self.take(room)?;
        Ok(room)
    }
}

impl ErrorType for SnapshotReader<'_> {
    type Error = SnapshotError;
}

impl Read for SnapshotReader<'_> {
    fn read(&mut self, bytes: &mut [u8]) -> Result<usize, SnapshotError> {
        let most = usize::try_from(self.left).unwrap_or(usize::MAX);
        let len = bytes.len().min(most);
        let room = bytes.get_mut(..len).unwrap_or_default();
        let read = self.source.read(room).map_err(SnapshotError::Io)?;
        if read == 0 && len > 0 {
            return Err(SnapshotError::Short);
        }
        let read = read.min(len);
        self.sums.add(room.get(..read).unwrap_or_default());
        self.left -= read as u64;
        Ok(read)
    }
}

fn exact(error: ReadExactError<ErrorKind>) -> SnapshotError {
    match error {
        ReadExactError::UnexpectedEof => SnapshotError::Short,
        ReadExactError::Other(kind) => SnapshotError::Io(kind),
    }
}

/// What a sound section is, found by reading all of it before anybody believes any of it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Verifier {
    /// What it says at its beginning.
    pub begin: Begin,
    /// What it says at its end.
    pub end: End,
}

impl Verifier {
    /// Reads a whole section of `length` bytes, in pieces as large as `scratch`.
    ///
    /// # Errors
    /// See [`SnapshotError`].
    pub fn run(
        source: &mut dyn Read<Error = ErrorKind>,
        length: u64,
        cluster: ClusterId,
        section: Section,
        at: Option<Position>,
        scratch: &mut [u8],
    ) -> Result<Self, SnapshotError> {
        let mut reader = SnapshotReader::new(source, length, cluster, section)?;
        if at.is_some_and(|at| at != reader.begin.position) {
            return Err(FormatError::Foreign.into());
        }
        let begin = reader.begin;
        while reader.left > 0 && !scratch.is_empty() {
            reader.read(scratch)?;
        }
        let end = reader.finish()?;
        Ok(Self { begin, end })
    }
}
