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
/// What the length of a frame is a multiple of.
const ALIGNMENT: usize = 32;

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

/// How many of `bytes` are whole frames of which both sums hold as they stand in their headers, one
/// behind the other, and the first behind the chain `before`; and the chain behind the last.
/// Frames are aligned to 32 bytes. `is_wanted` is asked of each before, with its header and where
/// it starts in `bytes`: at the first that is not, this stops.
#[inline(always)]
pub fn verify(
    before: u32,
    bytes: &[u8],
    is_wanted: impl Fn(&[u8; HEADER], usize) -> bool,
) -> (usize, u32) {
    if let Some((header, body)) = bytes.split_first_chunk()
        && body_len(header) == Some(body.len())
    {
        // Alone, as most are where one message at a time is committed: without what begins and
        // ends a loop over many.
        if is_wanted(header, 0) {
            let (own, chain) = both(before, header, body);
            if stated(header) == together(own, chain) {
                return (bytes.len(), chain);
            }
        }
        return (0, before);
    }
    #[cfg(all(target_arch = "x86_64", target_feature = "sse2"))]
    match x86::instructions() {
        // SAFETY: the processor has AVX, SSE 4.1, SSE 4.2 and PCLMULQDQ, and the system keeps AVX.
        x86::AVX => return unsafe { x86::verify_avx(before, bytes, is_wanted) },
        // SAFETY: the processor has SSE 4.1, SSE 4.2 and PCLMULQDQ.
        x86::SSE => return unsafe { x86::verify_sse(before, bytes, is_wanted) },
        _ => {}
    }
    verify_by_table(before, bytes, is_wanted)
}

/// Not a part of who calls it, where it is next to never called.
#[inline(never)]
fn verify_by_table(
    before: u32,
    bytes: &[u8],
    is_wanted: impl Fn(&[u8; HEADER], usize) -> bool,
) -> (usize, u32) {
    verify_with(before, bytes, is_wanted, both_by_table)
}

/// As [`verify`], of each frame's own sum alone: how many of `bytes` are whole frames of which it
/// holds.
#[inline(always)]
pub fn verify_own(bytes: &[u8], is_wanted: impl Fn(&[u8; HEADER], usize) -> bool) -> usize {
    #[cfg(all(target_arch = "x86_64", target_feature = "sse2"))]
    if x86::are_present() {
        // SAFETY: the processor has SSE 4.2.
        return unsafe { x86::verify_own(bytes, is_wanted) };
    }
    verify_own_with(bytes, is_wanted, own_by_table)
}

/// Writes both sums into each of the frames that `bytes` consist of, where the first comes behind
/// the chain `before`; returns the chain behind the last.
#[inline]
pub fn seal(before: u32, bytes: &mut [u8]) -> u32 {
    if let Some((header, body)) = bytes.split_first_chunk_mut()
        && body_len(header) == Some(body.len())
    {
        // Alone: see above.
        let (own, chain) = both(before, header, body);
        header[RESERVED..].copy_from_slice(&together(own, chain).to_le_bytes());
        return chain;
    }
    #[cfg(all(target_arch = "x86_64", target_feature = "sse2"))]
    if let Some(chain) = x86::seal(before, bytes) {
        return chain;
    }
    seal_by_table(before, bytes)
}

#[inline(never)]
fn seal_by_table(before: u32, bytes: &mut [u8]) -> u32 {
    seal_with(before, bytes, both_by_table)
}

/// How long the body of this header's frame is, with alignment; `None` if that is no length.
#[inline(always)]
fn body_len(header: &[u8; HEADER]) -> Option<usize> {
    let [a, b, c, d, ..] = *header;
    let len = (u32::from_le_bytes([a, b, c, d]) as usize).checked_sub(HEADER)?;
    Some(len.wrapping_add(ALIGNMENT - 1) & !(ALIGNMENT - 1))
}

#[inline(always)]
fn verify_with(
    before: u32,
    bytes: &[u8],
    is_wanted: impl Fn(&[u8; HEADER], usize) -> bool,
    both: impl Fn(u32, &[u8; HEADER], &[u8]) -> (u32, u32),
) -> (usize, u32) {
    let (mut chain, mut rest) = (before, bytes);
    while let Some((header, behind)) = rest.split_first_chunk::<HEADER>()
        && let Some(len) = body_len(header)
        && let Some((body, behind)) = behind.split_at_checked(len)
        && is_wanted(header, bytes.len() - rest.len())
    {
        let (own, next) = both(chain, header, body);
        let stated = stated(header);
        if stated != together(own, next) {
            break;
        }
        // What stands there is the same, and known: the next frame's sums need not wait for this
        // one's.
        (chain, rest) = ((stated >> 32) as u32, behind);
    }
    (bytes.len() - rest.len(), chain)
}

/// `own_of` is given the header with 0 for its sums.
#[inline(always)]
fn verify_own_with(
    bytes: &[u8],
    is_wanted: impl Fn(&[u8; HEADER], usize) -> bool,
    own_of: impl Fn(&[u8; HEADER], &[u8]) -> u32,
) -> usize {
    let chain_as_it_stands = |_, header: &[u8; HEADER], body: &[u8]| {
        let own = own_of(&blanked(header), body);
        (own, (stated(header) >> 32) as u32)
    };
    verify_with(0, bytes, is_wanted, chain_as_it_stands).0
}

#[inline(always)]
fn seal_with(
    before: u32,
    bytes: &mut [u8],
    both: impl Fn(u32, &[u8; HEADER], &[u8]) -> (u32, u32),
) -> u32 {
    let (mut chain, mut rest) = (before, bytes);
    while let Some((header, behind)) = rest.split_first_chunk_mut::<HEADER>()
        && let Some(len) = body_len(header)
        && let Some((body, behind)) = behind.split_at_mut_checked(len)
    {
        let (own, next) = both(chain, header, body);
        header[RESERVED..].copy_from_slice(&together(own, next).to_le_bytes());
        (chain, rest) = (next, behind);
    }
    chain
}

/// A header with 0 for its sums.
#[inline(always)]
fn blanked(header: &[u8; HEADER]) -> [u8; HEADER] {
    let mut blanked = *header;
    blanked[RESERVED..].fill(0);
    blanked
}

/// Both sums as they stand in a header.
#[inline(always)]
fn together(own: u32, chain: u32) -> u64 {
    u64::from(chain) << 32 | u64::from(own)
}

/// Those that stand in this one.
#[inline(always)]
fn stated(header: &[u8; HEADER]) -> u64 {
    let (words, _) = header.as_chunks();
    words.last().map_or(0, |word| u64::from_le_bytes(*word))
}

#[inline(never)]
fn both_by_table(before: u32, header: &[u8; HEADER], body: &[u8]) -> (u32, u32) {
    let blanked = blanked(header);
    let own = own_by_table(&blanked, body);
    (own, hdlc_by_table(hdlc_by_table(before, &blanked), body))
}

/// Of a header whose sums are 0 already.
#[inline(never)]
fn own_by_table(blanked: &[u8; HEADER], body: &[u8]) -> u32 {
    castagnoli_by_table(castagnoli_by_table(0, blanked), body)
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
    extern crate std;

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

    /// Frames with bodies of so many bytes each, without their sums, one behind the other.
    fn frames(lens: &[usize]) -> std::vec::Vec<u8> {
        let mut all = std::vec::Vec::new();
        for len in lens {
            let start = all.len();
            all.extend((HEADER + len).to_le_bytes().into_iter().take(4));
            all.extend_from_slice(&bytes()[start % 97..][..HEADER - 4 + len]);
            all.resize(all.len().next_multiple_of(ALIGNMENT), 0);
        }
        all
    }

    #[test]
    fn frames_that_are_sealed_hold_up_to_the_first_that_is_damaged() {
        for lens in [
            &[0usize][..],
            &[64],
            &[1344],
            &[32, 64, 1, 0, 300, 31],
            &[1344; 3],
            &[200; 20],
        ] {
            let mut all = frames(lens);
            let plain = all.clone();
            let chain = seal(7, &mut all);
            let (mut at, mut before) = (0, 7);
            for len in lens {
                let end = (at + HEADER + len).next_multiple_of(ALIGNMENT);
                let (header, body) = plain[at..end].split_first_chunk().unwrap();
                let (own, next) = both(before, header, body);
                let stated = &all[at + RESERVED..at + HEADER];
                assert_eq!(stated, together(own, next).to_le_bytes());
                assert_eq!(all[at + HEADER..end], *body);
                // Any bit of it, and the end cut off.
                for bit in [0, 40, 8 * RESERVED, 8 * HEADER - 1, 8 * (end - at) - 1] {
                    let mut damaged = all.clone();
                    damaged[at + bit / 8] ^= 1 << (bit % 8);
                    assert_eq!(verify(7, &damaged, |_, _| true), (at, before));
                    // A frame's own sum covers its bytes, and not the chain beside it.
                    let is_chain = (RESERVED + 4..HEADER).contains(&(bit / 8));
                    let sound = if is_chain { all.len() } else { at };
                    assert_eq!(verify_own(&damaged, |_, _| true), sound);
                }
                assert_eq!(verify(7, &all[..end - 1], |_, _| true), (at, before));
                assert_eq!(verify(before, &all[at..end], |_, _| true), (end - at, next));
                (at, before) = (end, next);
            }
            assert_eq!(verify(7, &all, |_, _| true), (all.len(), chain));
            let by_table = verify_with(7, &all, |_, _| true, both_by_table);
            assert_eq!(by_table, (all.len(), chain));
            assert_eq!(verify_own(&all, |_, _| true), all.len());
            assert_eq!(verify_own_with(&all, |_, _| true, own_by_table), all.len());
            let mut sealed = plain;
            assert_eq!(seal_with(7, &mut sealed, both_by_table), chain);
            assert_eq!(sealed, all);
            assert_eq!(verify(8, &all, |_, _| true), (0, 8), "behind another chain");
        }
        assert_eq!((verify(7, &[], |_, _| true), seal(7, &mut [])), ((0, 7), 7));
        // Lengths that are none.
        for length in [0u32, 31, u32::MAX, 1 << 31] {
            let mut bytes = [0; 96];
            bytes[..4].copy_from_slice(&length.to_le_bytes());
            assert_eq!(
                (verify(7, &bytes, |_, _| true), seal(7, &mut bytes)),
                ((0, 7), 7)
            );
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
