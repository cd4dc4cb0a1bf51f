//! Little-endian integers read from and written to bytes, bounds checked once, here.

use crate::wire::Reject;

/// Reads forward through bytes that came from outside.
#[derive(Clone, Debug)]
pub struct Reader<'a> {
    rest: &'a [u8],
    short: Reject,
}

impl<'a> Reader<'a> {
    /// Reads `bytes`; running out of them is [`Reject::Short`].
    #[inline]
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self::with_reject(bytes, Reject::Short)
    }

    /// Reads `bytes`; running out of them is `short`.
    #[inline]
    pub const fn with_reject(bytes: &'a [u8], short: Reject) -> Self {
        Self { rest: bytes, short }
    }

    /// What is left.
    #[inline]
    pub const fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// The next `len` bytes.
    ///
    /// # Errors
    /// The reject given at construction if fewer are left; so for every other method here.
    #[inline]
    pub fn take(&mut self, len: usize) -> Result<&'a [u8], Reject> {
        let (taken, rest) = self.rest.split_at_checked(len).ok_or(self.short)?;
        self.rest = rest;
        Ok(taken)
    }

    /// The next `N` bytes.
    ///
    /// # Errors
    /// See [`Reader::take`].
    #[inline]
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], Reject> {
        let (taken, rest) = self.rest.split_first_chunk::<N>().ok_or(self.short)?;
        self.rest = rest;
        Ok(*taken)
    }

    /// The next byte.
    ///
    /// # Errors
    /// See [`Reader::take`].
    #[inline]
    pub fn u8(&mut self) -> Result<u8, Reject> {
        self.array().map(u8::from_le_bytes)
    }

    /// The next 16 bits.
    ///
    /// # Errors
    /// See [`Reader::take`].
    #[inline]
    pub fn u16(&mut self) -> Result<u16, Reject> {
        self.array().map(u16::from_le_bytes)
    }

    /// The next 32 bits.
    ///
    /// # Errors
    /// See [`Reader::take`].
    #[inline]
    pub fn u32(&mut self) -> Result<u32, Reject> {
        self.array().map(u32::from_le_bytes)
    }

    /// The next 32 bits, signed.
    ///
    /// # Errors
    /// See [`Reader::take`].
    #[inline]
    pub fn i32(&mut self) -> Result<i32, Reject> {
        self.array().map(i32::from_le_bytes)
    }

    /// The next 64 bits.
    ///
    /// # Errors
    /// See [`Reader::take`].
    #[inline]
    pub fn u64(&mut self) -> Result<u64, Reject> {
        self.array().map(u64::from_le_bytes)
    }

    /// The next 64 bits, signed.
    ///
    /// # Errors
    /// See [`Reader::take`].
    #[inline]
    pub fn i64(&mut self) -> Result<i64, Reject> {
        self.array().map(i64::from_le_bytes)
    }
}

/// Writes forward into a buffer of ours. What does not fit is remembered, and `finish` says so.
#[derive(Debug)]
pub struct Writer<'a> {
    out: &'a mut [u8],
    at: usize,
    full: bool,
}

impl<'a> Writer<'a> {
    /// Writes from the start of `out`.
    #[inline]
    pub const fn new(out: &'a mut [u8]) -> Self {
        Self {
            out,
            at: 0,
            full: false,
        }
    }

    /// Writes `bytes`.
    #[inline]
    pub fn put(&mut self, bytes: &[u8]) -> &mut Self {
        let rest = self.out.get_mut(self.at..);
        match rest.and_then(|rest| rest.get_mut(..bytes.len())) {
            Some(slot) if !self.full => {
                slot.copy_from_slice(bytes);
                self.at += bytes.len();
            }
            _ => self.full = true,
        }
        self
    }

    /// Writes `len` zero bytes.
    #[inline]
    pub fn zeros(&mut self, len: usize) -> &mut Self {
        let end = self.at.saturating_add(len);
        match self.out.get_mut(self.at..end) {
            Some(slot) if !self.full => {
                slot.fill(0);
                self.at = end;
            }
            _ => self.full = true,
        }
        self
    }

    /// Writes a byte.
    #[inline]
    pub fn u8(&mut self, value: u8) -> &mut Self {
        self.put(&value.to_le_bytes())
    }

    /// Writes 16 bits.
    #[inline]
    pub fn u16(&mut self, value: u16) -> &mut Self {
        self.put(&value.to_le_bytes())
    }

    /// Writes 32 bits.
    #[inline]
    pub fn u32(&mut self, value: u32) -> &mut Self {
        self.put(&value.to_le_bytes())
    }

    /// Writes 32 bits, signed.
    #[inline]
    pub fn i32(&mut self, value: i32) -> &mut Self {
        self.put(&value.to_le_bytes())
    }

    /// Writes 64 bits.
    #[inline]
    pub fn u64(&mut self, value: u64) -> &mut Self {
        self.put(&value.to_le_bytes())
    }

    /// Writes 64 bits, signed.
    #[inline]
    pub fn i64(&mut self, value: i64) -> &mut Self {
        self.put(&value.to_le_bytes())
    }

    /// How many bytes were written; `None` if not all of them fitted.
    #[inline]
    pub const fn finish(&self) -> Option<usize> {
        if self.full { None } else { Some(self.at) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_writer_that_ran_out_stays_full() {
        let mut out = [0; 3];
        let mut writer = Writer::new(&mut out);
        assert_eq!(writer.u32(1).u8(2).finish(), None);
        assert_eq!(out, [0; 3]);
    }

    #[test]
    fn a_reader_that_ran_out_says_what_it_was_told_to_say() {
        let mut reader = Reader::with_reject(&[1, 2, 3], Reject::VarData);
        assert_eq!(reader.u16(), Ok(0x0201));
        assert_eq!(reader.u16(), Err(Reject::VarData));
        assert_eq!(reader.u8(), Ok(3));
    }
}
