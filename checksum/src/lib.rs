//! The two checksums of a log frame: CRC-32C, and CRC-32/ISO-HDLC.
//!
//! A crate of its own, because calling a function that needs more of the processor than every
//! processor has is `unsafe`, and `coracle-core` has none of that. Frames are short, so that what
//! counts is the cost of beginning and ending: the general crates take several times the
//! instructions for a frame of 96 bytes.
//!
//! What the processor can do is found out once, without an operating system.
#![no_std]

mod table;
#[cfg(all(target_arch = "x86_64", target_feature = "sse2"))]
mod x86;

use table::Table;

/// What comes first in every frame, in bytes.
pub const HEADER: usize = 32;
/// Where in it the sums stand, to its end: these bytes count as 0.
const RESERVED: usize = 24;

/// RFC 3720, appendix B.4.
static CASTAGNOLI: Table = Table::new(0x82f6_3b78);
/// ISO/IEC 13239 (HDLC), which Ethernet and zlib have as well.
static HDLC: Table = Table::new(0xedb8_8320);

/// The CRC-32C of what `crc` is that of, and `bytes` behind it. That of nothing is 0.
#[inline]
pub fn castagnoli(crc: u32, bytes: &[u8]) -> u32 {
    #[cfg(all(target_arch = "x86_64", target_feature = "sse2"))]
    if let Some(sum) = x86::castagnoli(crc, bytes) {
        return sum;
    }
    castagnoli_by_table(crc, bytes)
}

/// The CRC-32/ISO-HDLC of what `crc` is that of, and `bytes` behind it. That of nothing is 0.
#[inline]
pub fn hdlc(crc: u32, bytes: &[u8]) -> u32 {
    #[cfg(all(target_arch = "x86_64", target_feature = "sse2"))]
    if let Some(sum) = x86::hdlc(crc, bytes) {
        let (_, rest) = bytes.split_at(bytes.len() & !15);
        return match rest {
            [] => sum,
            rest => hdlc_by_table(sum, rest),
        };
    }
    hdlc_by_table(crc, bytes)
}

/// Of a frame of `header`, the last 8 bytes of which count as 0, and `body`: the CRC-32C, and the
/// CRC-32/ISO-HDLC that goes on from `before`.
#[inline]
pub fn both(before: u32, header: &[u8; HEADER], body: &[u8]) -> (u32, u32) {
    #[cfg(all(target_arch = "x86_64", target_feature = "sse2"))]
    if let Some(sums) = x86::both(before, header, body) {
        return sums;
    }
    both_by_table(before, header, body)
}

#[inline(never)]
fn both_by_table(before: u32, header: &[u8; HEADER], body: &[u8]) -> (u32, u32) {
    let mut blanked = *header;
    blanked[RESERVED..].fill(0);
    let own = castagnoli_by_table(castagnoli_by_table(0, &blanked), body);
    (own, hdlc_by_table(hdlc_by_table(before, &blanked), body))
}

#[inline(never)]
fn castagnoli_by_table(crc: u32, bytes: &[u8]) -> u32 {
    CASTAGNOLI.sum(crc, bytes)
}

#[inline(never)]
fn hdlc_by_table(crc: u32, bytes: &[u8]) -> u32 {
    HDLC.sum(crc, bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bit by bit, as the polynomials are defined.
    fn bitwise(polynomial: u32, crc: u32, bytes: &[u8]) -> u32 {
        let sum = bytes.iter().fold(!crc, |crc, byte| {
            (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
                (crc >> 1) ^ (polynomial & (crc & 1).wrapping_neg())
            })
        });
        !sum
    }

    const CASTAGNOLI: u32 = 0x82f6_3b78;
    const HDLC: u32 = 0xedb8_8320;

    fn bytes() -> [u8; 4400] {
        core::array::from_fn(|i| (i * 31 + i / 7 + i / 259) as u8)
    }

    #[test]
    fn the_check_values_of_the_catalogue() {
        assert_eq!(castagnoli(0, b"123456789"), 0xe306_9283);
        assert_eq!(hdlc(hdlc(0, b"1234"), b"56789"), 0xcbf4_3926);
        assert_eq!(castagnoli_by_table(0, b"123456789"), 0xe306_9283);
        assert_eq!(
            hdlc_by_table(hdlc_by_table(0, b"1234"), b"56789"),
            0xcbf4_3926
        );
    }

    #[test]
    fn sums_of_any_length_and_place_are_those_of_the_polynomials() {
        let bytes = bytes();
        for len in (0..300).chain([512, 1376, 4000, 4096, 4099]) {
            for start in [0, 1, 7, 8, 31] {
                let header: &[u8; HEADER] = bytes[start..].first_chunk().unwrap();
                let mut blanked = *header;
                blanked[RESERVED..].fill(0);
                let body = &bytes[start + HEADER..][..len];
                for crc in [0, 1, 0x8000_0000, 0xdead_beef, !0] {
                    let own = bitwise(CASTAGNOLI, bitwise(CASTAGNOLI, 0, &blanked), body);
                    let chain = bitwise(HDLC, bitwise(HDLC, crc, &blanked), body);
                    assert_eq!(both(crc, header, body), (own, chain), "{len} from {start}");
                    assert_eq!(hdlc(crc, body), bitwise(HDLC, crc, body));
                    assert_eq!(castagnoli(crc, body), bitwise(CASTAGNOLI, crc, body));
                }
            }
        }
    }

    #[test]
    fn tables_and_instructions_agree() {
        let bytes = bytes();
        for len in 0..400 {
            let bytes = &bytes[..len];
            let crc = (len as u32).wrapping_mul(0x9e37_79b9);
            assert_eq!(hdlc(crc, bytes), hdlc_by_table(crc, bytes));
            assert_eq!(castagnoli(crc, bytes), castagnoli_by_table(crc, bytes));
        }
    }
}
