//! What stands in each file of the log about the file itself: see `segment.rs` for where.

use coracle_core::limits::{FRAME_ALIGNMENT, POSITION_MAX, SEGMENT_MAX};

use crate::crc::CRC32C;

/// Where the label is.
pub const LABEL_OFFSET: u64 = 1024;
/// The format version that this program writes, and the newest it reads.
pub const VERSION: u32 = 2;

const MAGIC: [u8; 8] = *b"CORACLEs";
/// Bytes of the label.
pub(super) const LABEL_LENGTH: usize = 40;

/// What a segment file says about itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Label {
    /// The cluster that the stream belongs to.
    pub cluster: u64,
    /// The position of the first byte that this file has room for: a multiple of the length.
    pub base: u64,
    /// The position of the first byte that exists in this file, a frame's start: `base`, or above
    /// it in the first file of a log that goes on after a snapshot.
    pub start: u64,
    /// Bytes of stream in each file.
    pub segment_length: u32,
}

/// Why bytes are no label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum LabelError {
    /// Not a segment file, or its label is damaged.
    Damaged,
    /// Written by a newer program.
    Newer(u32),
}

impl Label {
    /// Of the file that holds the byte at `start`, and none below it.
    pub fn starting_at(start: u64, cluster: u64, segment_length: u32) -> Self {
        let base = start - start % u64::from(segment_length);
        Self {
            cluster,
            base,
            start,
            segment_length,
        }
    }

    /// Its bytes.
    pub(super) fn encode(&self) -> [u8; LABEL_LENGTH] {
        let mut bytes = [0u8; LABEL_LENGTH];
        bytes[0..8].copy_from_slice(&MAGIC);
        bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
        bytes[12..20].copy_from_slice(&self.cluster.to_le_bytes());
        bytes[20..28].copy_from_slice(&self.base.to_le_bytes());
        bytes[28..32].copy_from_slice(&self.segment_length.to_le_bytes());
        let skipped = self.start.saturating_sub(self.base) as u32;
        bytes[32..36].copy_from_slice(&skipped.to_le_bytes());
        let crc = CRC32C.of(&bytes[..36]);
        bytes[36..40].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// # Errors
    /// See [`LabelError`].
    pub fn decode(bytes: &[u8; LABEL_LENGTH]) -> Result<Self, LabelError> {
        let u32_at = |at: usize| bytes[at..at + 4].try_into().map(u32::from_le_bytes);
        let u64_at = |at: usize| bytes[at..at + 8].try_into().map(u64::from_le_bytes);
        let (Ok(version), Ok(cluster), Ok(base)) = (u32_at(8), u64_at(12), u64_at(20)) else {
            return Err(LabelError::Damaged);
        };
        let (Ok(segment_length), Ok(skipped), Ok(crc)) = (u32_at(28), u32_at(32), u32_at(36))
        else {
            return Err(LabelError::Damaged);
        };
        if bytes[0..8] != MAGIC {
            return Err(LabelError::Damaged);
        }
        // The version stays where it is in every version to come, so it is looked at first.
        if version > VERSION {
            return Err(LabelError::Newer(version));
        }
        let is_length = segment_length.is_power_of_two() && segment_length <= SEGMENT_MAX;
        if CRC32C.of(&bytes[..36]) != crc || !is_length {
            return Err(LabelError::Damaged);
        }
        let is_base = base.is_multiple_of(segment_length.into()) && base <= POSITION_MAX;
        let is_start = skipped < segment_length && skipped.is_multiple_of(FRAME_ALIGNMENT as u32);
        if !is_base || !is_start {
            return Err(LabelError::Damaged);
        }
        Ok(Self {
            cluster,
            base,
            start: base + u64::from(skipped),
            segment_length,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LABEL: Label = Label {
        cluster: 7,
        base: 1 << 16,
        start: 1 << 16,
        segment_length: 1 << 16,
    };

    fn golden(text: &str) -> [u8; LABEL_LENGTH] {
        let code = text.lines().filter_map(|line| line.split('#').next());
        let bytes: Vec<u8> = code
            .flat_map(str::split_whitespace)
            .map(|word| u8::from_str_radix(word, 16).unwrap())
            .collect();
        bytes.try_into().unwrap()
    }

    #[test]
    fn a_label_is_these_bytes_and_those_of_version_1_are_read() {
        let label = Label::starting_at((3 << 16) + 4096, 0x0123_4567_89ab_cdef, 1 << 16);
        assert_eq!((label.base, label.start), (3 << 16, (3 << 16) + 4096));
        let bytes = golden(include_str!("../../../tests/golden/log/label.hex"));
        assert_eq!(label.encode(), bytes);
        assert_eq!(Label::decode(&bytes), Ok(label));
        let old = golden(include_str!("../../../tests/golden/log/label_v1.hex"));
        let start = label.base;
        assert_eq!(Label::decode(&old), Ok(Label { start, ..label }));
        for bit in 0..bytes.len() * 8 {
            let mut bad = bytes;
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(Label::decode(&bad).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn a_label_with_a_start_outside_of_its_file_is_damaged() {
        for skipped in [16u32, 1 << 16, u32::MAX] {
            let mut bytes = LABEL.encode();
            bytes[32..36].copy_from_slice(&skipped.to_le_bytes());
            let crc = CRC32C.of(&bytes[..36]);
            bytes[36..40].copy_from_slice(&crc.to_le_bytes());
            assert_eq!(Label::decode(&bytes), Err(LabelError::Damaged), "{skipped}");
        }
    }
}
