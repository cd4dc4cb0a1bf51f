//! Simple Binary Encoding, as Aeron's codecs use it: a header, a block of fixed fields, then
//! variable data, each with a 32-bit length. Little endian.
//!
//! A newer peer's block may be longer (the end is skipped) and its message may have more variable
//! data (ignored). An older peer's block is shorter: fields newer than its version are null.

use crate::wire::{Reader, Reject, Writer};

/// The length of a [`Header`] in bytes.
pub const HEADER: usize = 8;
/// The length of the number before variable data, in bytes.
pub const VAR_LENGTH: usize = 4;
/// The null value of an optional `int64`.
pub const NULL_I64: i64 = i64::MIN;
/// The null value of an optional `int32`.
pub const NULL_I32: i32 = i32::MIN;

/// What every message starts with (SBE: `messageHeader`).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Header {
    /// The length of the block of fixed fields, in bytes.
    pub block_length: u16,
    /// Which message.
    pub template: u16,
    /// Of which schema.
    pub schema: u16,
    /// In which version of that schema.
    pub version: u16,
}

impl Header {
    /// Reads the 8 bytes at the start of `bytes`.
    ///
    /// # Errors
    /// [`Reject::Short`].
    #[inline]
    pub fn parse(bytes: &[u8]) -> Result<Self, Reject> {
        let mut reader = Reader::new(bytes);
        Ok(Self {
            block_length: reader.u16()?,
            template: reader.u16()?,
            schema: reader.u16()?,
            version: reader.u16()?,
        })
    }

    #[inline]
    pub(in crate::wire) fn write(&self, writer: &mut Writer<'_>) {
        writer
            .u16(self.block_length)
            .u16(self.template)
            .u16(self.schema)
            .u16(self.version);
    }
}

/// A message opened for reading: its header, its block, and what follows the block.
#[derive(Clone, Debug)]
pub struct Opened<'a> {
    /// The header.
    pub header: Header,
    /// Reads the block; running out of it is [`Reject::BlockLength`].
    pub block: Reader<'a>,
    /// Reads what follows the block; running out of it is [`Reject::VarData`].
    pub tail: Reader<'a>,
}

impl<'a> Opened<'a> {
    /// Opens a message of `schema`.
    ///
    /// # Errors
    /// [`Reject::Short`] if the header or the block reaches beyond `bytes`,
    /// [`Reject::UnknownSchema`].
    #[inline]
    pub fn parse(bytes: &'a [u8], schema: u16) -> Result<Self, Reject> {
        let header = Header::parse(bytes)?;
        if header.schema != schema {
            return Err(Reject::UnknownSchema);
        }
        let mut reader = Reader::new(bytes);
        reader.take(HEADER)?;
        let block = reader.take(usize::from(header.block_length))?;
        Ok(Self {
            header,
            block: Reader::with_reject(block, Reject::BlockLength),
            tail: Reader::with_reject(reader.rest(), Reject::VarData),
        })
    }

    /// Does the message's version have fields that came with `version`?
    #[inline]
    pub const fn since(&self, version: u16) -> bool {
        self.header.version >= version
    }

    /// The next variable data: `varDataEncoding`.
    ///
    /// # Errors
    /// [`Reject::VarData`].
    #[inline]
    pub fn var_data(&mut self) -> Result<&'a [u8], Reject> {
        let length = self.tail.u32()?;
        let length = usize::try_from(length).map_err(|_| Reject::VarData)?;
        self.tail.take(length)
    }

    /// The next variable text: `varAsciiEncoding`.
    ///
    /// # Errors
    /// [`Reject::VarData`], [`Reject::Text`].
    #[inline]
    pub fn var_ascii(&mut self) -> Result<&'a str, Reject> {
        ascii(self.var_data()?)
    }
}

/// The bytes as text.
///
/// # Errors
/// [`Reject::Text`] unless all are ASCII.
pub fn ascii(bytes: &[u8]) -> Result<&str, Reject> {
    match core::str::from_utf8(bytes) {
        Ok(text) if text.is_ascii() => Ok(text),
        _ => Err(Reject::Text),
    }
}

/// Writes variable data with its length.
pub(in crate::wire) fn write_var(writer: &mut Writer<'_>, data: &[u8]) {
    // Longer than `out` can be on any target that we have; `finish` is `None` then anyway.
    let length = u32::try_from(data.len()).unwrap_or(u32::MAX);
    writer.u32(length).put(data);
}
