//! The bytes of a snapshot: sections, each with a begin mark, an end mark and two checksums.
//!
//! A snapshot set has one section for the consensus state and one for each service. Each is written
//! and read as a stream, in pieces of any size, through `embedded-io`; where the bytes are kept is
//! the driver's business. What stands in a section's body is its owner's.
//!
//! ```text
//!    0  magic "CORSNAP1"   8  version u16, section u16, application version i32
//!   16  cluster u64       24  position u64: the state is that of the log up to here
//!   32  term u32, of the record that asked for it; chain u32, of the log at `position`
//!   40  timestamp i64     48  segment length u32, zeros up to 60; CRC-32C of these 60 bytes
//!   64  body, as long as it is
//!       magic "CORSNEND", body length u64, digest u64, zeros up to 28; CRC-32C of these 28 bytes
//! ```
//! Sections of one position are equal, byte for byte, on every member, but for the version of the
//! application and the sum that has it in it: whoever has it can go on sending what another has
//! begun to send, and one number, which leaves that version out, tells whether two members agree.

mod format;
mod reader;
pub(crate) mod whole;
mod writer;

pub use format::{BEGIN_LENGTH, Begin, END_LENGTH, End, FormatError, VERSION};
pub use reader::{SnapshotReader, Suspended, Verifier};
pub use writer::{SnapshotWriter, Sums};

use crate::units::AppVersion;
pub use crate::units::Section;

use embedded_io::{ErrorKind, Read, Write};

/// Where a snapshot is written to. The driver's; lent to each call that writes.
pub trait SnapshotSink {
    /// Where the next bytes of a section go. Everything written is kept in order.
    fn section(&mut self, section: Section) -> &mut dyn Write<Error = ErrorKind>;
}

/// Where a snapshot is read from.
pub trait SnapshotSource {
    /// A section from its first byte on, and its whole length in bytes; `None` if there is none.
    fn open(&mut self, section: Section) -> Option<(&mut dyn Read<Error = ErrorKind>, u64)>;
}

/// Whether a service has more of its snapshot to write.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum Progress {
    /// Call again: messages may be executed in between.
    More,
    /// Nothing can be written just now: the bytes are made elsewhere. Call again in a while.
    Later,
    /// All of it is written.
    Done,
}

/// Why a snapshot was not written, or not taken over.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[non_exhaustive]
pub enum SnapshotError {
    /// This service has none: what `Service` says unless told otherwise.
    Unsupported,
    /// What was read or written through failed.
    #[cfg_attr(feature = "defmt", defmt(Debug2Format))]
    Io(ErrorKind),
    /// A section ends before its owner has read all it expects.
    Short,
    /// A section is missing.
    Missing(Section),
    /// The bytes are not those of a section, or are damaged.
    Format(FormatError),
    /// The section is sound, but its owner cannot make sense of it.
    Content,
    /// The version of the application that wrote it is none that this one reads.
    AppVersion(AppVersion),
    /// It does not fit this build's tables or this node's memory.
    TooLarge,
    /// The call was handed another number of services than the node is configured for.
    Services,
}

impl core::fmt::Display for SnapshotError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Unsupported => f.write_str("the service does not write snapshots"),
            Self::Io(kind) => write!(f, "reading or writing failed: {kind:?}"),
            Self::Short => f.write_str("a section ends too early"),
            Self::Missing(Section::Consensus) => f.write_str("the consensus section is missing"),
            Self::Missing(Section::Service(service)) => {
                write!(f, "the section of service {service} is missing")
            }
            Self::Format(error) => write!(f, "{error}"),
            Self::Content => f.write_str("a section says what its owner does not understand"),
            Self::AppVersion(written) => write!(
                f,
                "version {written} of the application wrote it, which this version does not read"
            ),
            Self::TooLarge => f.write_str("it is larger than what this node has room for"),
            Self::Services => f.write_str("the node is configured for another number of services"),
        }
    }
}

impl core::error::Error for SnapshotError {}

impl embedded_io::Error for SnapshotError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Io(kind) => *kind,
            Self::Unsupported => ErrorKind::Unsupported,
            Self::TooLarge => ErrorKind::OutOfMemory,
            _ => ErrorKind::InvalidData,
        }
    }
}

impl From<FormatError> for SnapshotError {
    fn from(error: FormatError) -> Self {
        Self::Format(error)
    }
}

#[cfg(test)]
mod tests;
