//! The two checksums of a log frame.
//!
//! The *checksum* (CRC-32C) says whether this frame's bytes are as they were written, wherever it
//! was found. The *chain* (CRC-32/ISO-HDLC, seeded with the chain of the frame before) says whether
//! everything before it is the same as well: equal chains at equal positions mean equal logs. Two
//! polynomials, so that no damage goes unseen by both. Both detect errors and prove nothing against
//! an attacker; safety rests on (term, position).

pub use crate::castagnoli::crc32c;
pub(super) use coracle_checksum::{seal as seal_all, verify, verify_own};

use crate::castagnoli::extend;
use crate::limits::FRAME_HEADER;
use crate::units::ClusterId;

/// Both checksums of one frame.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Checksums {
    /// CRC-32C of this frame alone.
    pub own: u32,
    /// CRC-32/ISO-HDLC of this frame, seeded with the chain before it.
    pub chain: u32,
}

impl Checksums {
    /// As they stand in a frame's reserved value.
    pub const fn from_reserved(value: i64) -> Self {
        Self {
            own: value as u32,
            chain: ((value as u64) >> 32) as u32,
        }
    }

    /// The frame's reserved value.
    pub const fn to_reserved(self) -> i64 {
        (((self.chain as u64) << 32) | self.own as u64) as i64
    }
}

/// The chain before the first frame of a cluster's log: logs of two clusters never agree.
pub fn genesis(cluster: ClusterId) -> u32 {
    hdlc(0, &cluster.0.to_le_bytes())
}

/// CRC-32C of a frame: its header with the reserved value as 0, then its `body` up to the
/// alignment.
pub(super) fn own_of(header: &[u8; FRAME_HEADER], body: &[u8]) -> u32 {
    extend(extend(0, header), body)
}

/// CRC-32/ISO-HDLC of any bytes, going on from `before`.
fn hdlc(before: u32, bytes: &[u8]) -> u32 {
    coracle_checksum::hdlc(before, bytes)
}

/// Both of a frame: its own, and CRC-32/ISO-HDLC of the same bytes, going on from the chain
/// `before`. The reserved value in `header` counts as 0.
#[inline]
pub(super) fn both_of(before: u32, header: &[u8; FRAME_HEADER], body: &[u8]) -> Checksums {
    let (own, chain) = coracle_checksum::both(before, header, body);
    Checksums { own, chain }
}

/// The chain that [`both_of`] went on from, where it came to `after`: a CRC can be run backwards,
/// so a sound frame says which chain stands before it. A bit at a time: for one frame now and then.
pub(super) fn chain_before(after: u32, header: &[u8], body: &[u8]) -> u32 {
    // CRC-32/ISO-HDLC, reflected. Its highest bit is set, so a step that used it can be told.
    const POLYNOMIAL: u32 = 0xedb8_8320;
    let mut state = !after;
    for byte in header.iter().chain(body).rev() {
        for _ in 0..8 {
            let was_used = state >> 31 == 1;
            let shifted = if was_used { state ^ POLYNOMIAL } else { state };
            state = shifted << 1 | u32::from(was_used);
        }
        state ^= u32::from(*byte);
    }
    !state
}

#[cfg(test)]
mod tests {
    extern crate std;

    use super::*;

    #[test]
    fn the_check_values_of_both_polynomials() {
        // The catalogue of parametrised CRC algorithms: CRC-32/ISCSI and CRC-32/ISO-HDLC.
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
        assert_eq!(hdlc(hdlc(0, b"1234"), b"56789"), 0xcbf4_3926);
    }

    #[test]
    fn a_checksum_in_two_parts_is_that_of_the_whole() {
        let bytes: [u8; 200] = core::array::from_fn(|i| (i * 7) as u8);
        let header = bytes.first_chunk().expect("long enough");
        for len in FRAME_HEADER..bytes.len() {
            let whole = crc32c(&bytes[..len]);
            assert_eq!(own_of(header, &bytes[FRAME_HEADER..len]), whole);
        }
    }

    #[test]
    fn a_chain_goes_on_from_its_seed() {
        let header = [0; FRAME_HEADER];
        let first = both_of(7, &header, b"1234567812345678").chain;
        assert_eq!(first, hdlc(hdlc(7, &header), b"1234567812345678"));
    }

    #[test]
    fn a_chain_can_be_run_backwards() {
        for seed in [0, 1, 0x8000_0000, 0xdead_beef, u32::MAX] {
            for len in 0..40u8 {
                let body: std::vec::Vec<u8> = (0..len).map(|n| n.wrapping_mul(97) ^ len).collect();
                let after = hdlc(hdlc(seed, b"some header"), &body);
                assert_eq!(chain_before(after, b"some header", &body), seed);
            }
        }
    }

    #[test]
    fn the_reserved_value_holds_the_own_checksum_low_and_the_chain_high() {
        let sums = Checksums {
            own: 0x1122_3344,
            chain: 0xaabb_ccdd,
        };
        assert_eq!(sums.to_reserved() as u64, 0xaabb_ccdd_1122_3344);
        assert_eq!(Checksums::from_reserved(sums.to_reserved()), sums);
    }
}
