//! Begin and end marks.

use super::Section;
use crate::castagnoli::crc32c;
use crate::time::Timestamp;
use crate::units::{AppVersion, ClusterId, Position, Term};
use crate::wire::{Reader, Reject, Writer};

/// The format that this build writes, and the newest it reads. In version 1 the application's
/// version was in the digest.
pub const VERSION: u16 = 2;
/// The length of a begin mark in bytes.
pub const BEGIN_LENGTH: usize = 64;
/// The length of an end mark in bytes.
pub const END_LENGTH: usize = 32;

const BEGIN_MAGIC: &[u8; 8] = b"CORSNAP1";
const END_MAGIC: &[u8; 8] = b"CORSNEND";

/// Why bytes are no section.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[non_exhaustive]
pub enum FormatError {
    /// There is no begin or no end mark where one must be.
    NoMark,
    /// A checksum does not hold.
    Checksum,
    /// Written by a newer build, in this version of the format.
    Newer(u16),
    /// Of another cluster, section or position than was asked for.
    Foreign,
}

impl core::fmt::Display for FormatError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::NoMark => f.write_str("a begin or end mark is missing"),
            Self::Checksum => f.write_str("a checksum does not hold"),
            Self::Newer(version) => {
                write!(f, "format version {version} is newer than {VERSION}")
            }
            Self::Foreign => f.write_str("it is of another cluster, section or position"),
        }
    }
}

/// What a section says of itself before its body.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Begin {
    /// The cluster.
    pub cluster: ClusterId,
    /// Which section of the set.
    pub section: Section,
    /// The version of the application that wrote it (Aeron: `appVersion`). Members of several minor
    /// versions write equal state: it is not in the digest.
    pub app_version: AppVersion,
    /// The state is that of the log up to here.
    pub position: Position,
    /// The term of the last record below `position`.
    pub term: Term,
    /// The log's chain at `position`.
    pub chain: u32,
    /// The cluster's time there, in milliseconds since 1970.
    pub timestamp: Timestamp,
    /// The length of the log's segments.
    pub segment_length: u32,
}

impl Begin {
    /// The mark's bytes.
    pub fn encode(&self) -> [u8; BEGIN_LENGTH] {
        let mut bytes = [0; BEGIN_LENGTH];
        let mut writer = Writer::new(&mut bytes);
        writer
            .put(BEGIN_MAGIC)
            .u16(VERSION)
            .u16(self.section.to_wire())
            .i32(self.app_version.to_wire())
            .u64(self.cluster.0)
            .u64(self.position.get())
            .u32(self.term.get())
            .u32(self.chain)
            .i64(self.timestamp.0)
            .u32(self.segment_length);
        seal(bytes)
    }

    /// Reads a mark.
    ///
    /// # Errors
    /// See [`FormatError`].
    pub fn decode(bytes: &[u8; BEGIN_LENGTH]) -> Result<Self, FormatError> {
        let mut reader = open(bytes, BEGIN_MAGIC)?;
        let version = reader.u16().map_err(no_mark)?;
        // The version stays where it is in every version to come, so it is looked at first.
        if version > VERSION {
            return Err(FormatError::Newer(version));
        }
        check(bytes)?;
        read_begin(&mut reader).map_err(no_mark)
    }
}

/// A begin mark as a section's digest has it: without the application's version, and without the
/// sum that has that in it.
pub(super) fn summed(mark: &[u8; BEGIN_LENGTH]) -> [u8; BEGIN_LENGTH] {
    const VERSION_AT: usize = BEGIN_MAGIC.len();
    const APP_VERSION_AT: usize = VERSION_AT + 2 + 2;
    const SUM_AT: usize = BEGIN_LENGTH - 4;
    let mut summed = *mark;
    if u16::from_le_bytes([mark[VERSION_AT], mark[VERSION_AT + 1]]) > 1 {
        summed[APP_VERSION_AT..APP_VERSION_AT + 4].fill(0);
        summed[SUM_AT..].fill(0);
    }
    summed
}

fn read_begin(reader: &mut Reader<'_>) -> Result<Begin, Reject> {
    Ok(Begin {
        section: Section::from_wire(reader.u16()?).ok_or(Reject::Value)?,
        app_version: AppVersion::from_wire(reader.i32()?),
        cluster: ClusterId(reader.u64()?),
        position: Position::new(reader.u64()?),
        term: Term::new(reader.u32()?),
        chain: reader.u32()?,
        timestamp: Timestamp(reader.i64()?),
        segment_length: reader.u32()?,
    })
}

/// What stands behind a section's body.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct End {
    /// The length of the body in bytes.
    pub length: u64,
    /// Two CRCs of begin mark, without the application's version, and body: CRC-32C below,
    /// CRC-32/ISO-HDLC above.
    pub digest: u64,
}

impl End {
    /// The mark's bytes.
    pub fn encode(&self) -> [u8; END_LENGTH] {
        let mut bytes = [0; END_LENGTH];
        let mut writer = Writer::new(&mut bytes);
        writer.put(END_MAGIC).u64(self.length).u64(self.digest);
        seal(bytes)
    }

    /// Reads a mark.
    ///
    /// # Errors
    /// See [`FormatError`].
    pub fn decode(bytes: &[u8; END_LENGTH]) -> Result<Self, FormatError> {
        let mut reader = open(bytes, END_MAGIC)?;
        check(bytes)?;
        let length = reader.u64().map_err(no_mark)?;
        let digest = reader.u64().map_err(no_mark)?;
        Ok(Self { length, digest })
    }
}

/// Puts the CRC-32C of all but the last four bytes there.
fn seal<const N: usize>(mut bytes: [u8; N]) -> [u8; N] {
    let (body, sum) = bytes.split_at_mut(N - 4);
    sum.copy_from_slice(&crc32c(body).to_le_bytes());
    bytes
}

fn check<const N: usize>(bytes: &[u8; N]) -> Result<(), FormatError> {
    let (body, sum) = bytes.split_at(N - 4);
    if sum == crc32c(body).to_le_bytes() {
        Ok(())
    } else {
        Err(FormatError::Checksum)
    }
}

fn open<'a>(bytes: &'a [u8], magic: &[u8; 8]) -> Result<Reader<'a>, FormatError> {
    let mut reader = Reader::new(bytes);
    if reader.take(magic.len()) == Ok(magic) {
        Ok(reader)
    } else {
        Err(FormatError::NoMark)
    }
}

const fn no_mark(_: Reject) -> FormatError {
    FormatError::NoMark
}
