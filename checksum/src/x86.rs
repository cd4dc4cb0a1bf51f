//! SSE 4.2 has CRC-32C; PCLMULQDQ multiplies polynomials, from which any CRC can be made: Gopal and
//! others, "Fast CRC Computation for Generic Polynomials Using PCLMULQDQ Instruction" (Intel,
//! 2009). The constants are the reflected ones of that paper and of zlib.

use core::arch::x86_64::{
    __cpuid, __m128i, _mm_clmulepi64_si128, _mm_crc32_u8, _mm_crc32_u64, _mm_cvtsi32_si128,
    _mm_extract_epi32, _mm_set_epi64x, _mm_srli_si128, _mm_xor_si128, _xgetbv,
};
use core::sync::atomic::{AtomicU8, Ordering};

use super::{HEADER, seal_with, verify_own_with, verify_with};

const UNKNOWN: u8 = 0;
const ABSENT: u8 = 1;
/// SSE 4.2 and PCLMULQDQ.
pub const SSE: u8 = 2;
/// These with AVX's encoding, whose third operand saves copies of registers.
pub const AVX: u8 = 3;

/// What is there. Several threads may find out at once: the same.
static INSTRUCTIONS: AtomicU8 = AtomicU8::new(UNKNOWN);

/// Folds 128 bits over 128 bits: x^(128+32) and x^(128-32) modulo the polynomial.
const FOLD_1: (i64, i64) = (0x0_ccaa_009e, 0x1_7519_97d0);
/// Over 512 bits.
const FOLD_4: (i64, i64) = (0x1_c6e4_1596, 0x1_5444_2bd4);
/// x^95 divided by the polynomial, in 64 bits, and the polynomial (Barrett).
const BARRETT: (i64, i64) = (0xb4e5_b025_f701_1641_u64 as i64, 0x1_db71_0641);

#[inline]
pub fn instructions() -> u8 {
    let found = INSTRUCTIONS.load(Ordering::Relaxed);
    // The likeliest is asked for first.
    if found == AVX {
        return AVX;
    }
    match found {
        UNKNOWN => find_out(),
        found => found,
    }
}

#[inline]
pub fn are_present() -> bool {
    instructions() >= SSE
}

#[cold]
fn find_out() -> u8 {
    // Intel's manual, CPUID leaf 1: ECX bit 1 is PCLMULQDQ, 19 SSE 4.1, 20 SSE 4.2, 27 OSXSAVE, 28
    // AVX. The registers of the first three are those of SSE2, which this module is compiled for
    // only where programs may use it.
    const WANTED: u32 = 1 << 1 | 1 << 19 | 1 << 20;
    const WITH_AVX: u32 = 1 << 27 | 1 << 28;
    // SAFETY: every x86-64 processor has the instruction.
    #[allow(unused_unsafe, reason = "safe in newer versions of the library")]
    let has = unsafe { __cpuid(1) }.ecx;
    let found = match has & WANTED == WANTED {
        // SAFETY: OSXSAVE says that there is XGETBV.
        true if has & WITH_AVX == WITH_AVX && unsafe { keeps_avx() } => AVX,
        true => SSE,
        false => ABSENT,
    };
    INSTRUCTIONS.store(found, Ordering::Relaxed);
    found
}

/// Does the system keep AVX's registers (Intel's manual: XCR0, bits 1 and 2)? Without a system
/// nobody has said so.
#[target_feature(enable = "xsave")]
fn keeps_avx() -> bool {
    // SAFETY: XCR0 is there wherever XGETBV is.
    #[allow(unused_unsafe, reason = "safe in newer versions of the library")]
    let kept = unsafe { _xgetbv(0) };
    kept & 0b110 == 0b110
}

/// See [`super::castagnoli`]; `None` if the processor cannot.
#[inline]
pub fn castagnoli(crc: u32, bytes: &[u8]) -> Option<u32> {
    // SAFETY: the processor has SSE 4.2.
    are_present().then(|| unsafe { castagnoli_sse(crc, bytes) })
}

/// See [`super::both`]; `None` if the processor cannot, or `body` does not consist of 32 bytes
/// each, as a frame's does.
#[inline(always)]
pub fn both(before: u32, header: &[u8; HEADER], body: &[u8]) -> Option<(u32, u32)> {
    if !body.len().is_multiple_of(32) {
        return None;
    }
    match instructions() {
        // SAFETY: the processor has AVX, SSE 4.1, SSE 4.2 and PCLMULQDQ, and the system keeps AVX.
        AVX => Some(unsafe { both_avx(before, header, body) }),
        // SAFETY: the processor has SSE 4.1, SSE 4.2 and PCLMULQDQ.
        SSE => Some(unsafe { both_sse(before, header, body) }),
        _ => None,
    }
}

/// See [`super::seal`]; `None` if the processor cannot.
#[inline]
pub fn seal(before: u32, bytes: &mut [u8]) -> Option<u32> {
    match instructions() {
        // SAFETY: the processor has AVX, SSE 4.1, SSE 4.2 and PCLMULQDQ, and the system keeps AVX.
        AVX => Some(unsafe { seal_avx(before, bytes) }),
        // SAFETY: the processor has SSE 4.1, SSE 4.2 and PCLMULQDQ.
        SSE => Some(unsafe { seal_sse(before, bytes) }),
        _ => None,
    }
}

/// See [`super::hdlc`], of the blocks of 16 bytes in `bytes`; `None` if the processor cannot, or
/// there is none.
#[inline]
pub fn hdlc(crc: u32, bytes: &[u8]) -> Option<u32> {
    let (first, rest) = bytes.split_first_chunk::<16>()?;
    // SAFETY: the processor has SSE 4.1, SSE 4.2 and PCLMULQDQ.
    are_present().then(|| unsafe { hdlc_sse(crc, first, rest) })
}

#[target_feature(enable = "sse4.2")]
fn castagnoli_sse(crc: u32, bytes: &[u8]) -> u32 {
    let (words, rest) = bytes.as_chunks::<8>();
    let mut sum = u64::from(!crc);
    for word in words {
        sum = _mm_crc32_u64(sum, u64::from_le_bytes(*word));
    }
    let mut sum = sum as u32;
    for byte in rest {
        sum = _mm_crc32_u8(sum, *byte);
    }
    !sum
}

/// Sixteen bytes as two words.
type Block = [u8; 16];

#[inline]
fn words(block: &Block) -> (u64, u64) {
    let both = u128::from_le_bytes(*block);
    (both as u64, (both >> 64) as u64)
}

#[inline]
#[target_feature(enable = "sse4.2,pclmulqdq")]
fn load(block: &Block) -> __m128i {
    let (low, high) = words(block);
    _mm_set_epi64x(high as i64, low as i64)
}

#[inline]
#[target_feature(enable = "sse4.2,pclmulqdq")]
fn own_of(sum: u64, block: &Block) -> u64 {
    let (low, high) = words(block);
    _mm_crc32_u64(_mm_crc32_u64(sum, low), high)
}

#[inline]
#[target_feature(enable = "sse4.2,pclmulqdq")]
fn fold(sum: __m128i, next: __m128i, keys: __m128i) -> __m128i {
    let low = _mm_clmulepi64_si128(sum, keys, 0x00);
    let high = _mm_clmulepi64_si128(sum, keys, 0x11);
    _mm_xor_si128(_mm_xor_si128(next, low), high)
}

#[target_feature(enable = "sse4.1,sse4.2,pclmulqdq")]
pub fn verify_sse(
    before: u32,
    bytes: &[u8],
    is_wanted: impl Fn(&[u8; HEADER], usize) -> bool,
) -> (usize, u32) {
    verify_with(before, bytes, is_wanted, |before, header, body| {
        both_of::<2>(before, header, body)
    })
}

#[target_feature(enable = "avx,sse4.1,sse4.2,pclmulqdq")]
pub fn verify_avx(
    before: u32,
    bytes: &[u8],
    is_wanted: impl Fn(&[u8; HEADER], usize) -> bool,
) -> (usize, u32) {
    verify_with(before, bytes, is_wanted, |before, header, body| {
        both_of::<3>(before, header, body)
    })
}

#[target_feature(enable = "sse4.2")]
pub fn verify_own(bytes: &[u8], is_wanted: impl Fn(&[u8; HEADER], usize) -> bool) -> usize {
    verify_own_with(bytes, is_wanted, |header, body| {
        let words = header.as_chunks().0.iter().chain(body.as_chunks().0);
        let sum = words.fold(u64::from(!0u32), |sum, word| {
            _mm_crc32_u64(sum, u64::from_le_bytes(*word))
        });
        !(sum as u32)
    })
}

#[target_feature(enable = "sse4.1,sse4.2,pclmulqdq")]
fn seal_sse(before: u32, bytes: &mut [u8]) -> u32 {
    seal_with(before, bytes, |before, header, body| {
        both_of::<4>(before, header, body)
    })
}

#[target_feature(enable = "avx,sse4.1,sse4.2,pclmulqdq")]
fn seal_avx(before: u32, bytes: &mut [u8]) -> u32 {
    seal_with(before, bytes, |before, header, body| {
        both_of::<5>(before, header, body)
    })
}

#[target_feature(enable = "sse4.1,sse4.2,pclmulqdq")]
fn both_sse(before: u32, header: &[u8; HEADER], body: &[u8]) -> (u32, u32) {
    both_of::<0>(before, header, body)
}

#[target_feature(enable = "avx,sse4.1,sse4.2,pclmulqdq")]
fn both_avx(before: u32, header: &[u8; HEADER], body: &[u8]) -> (u32, u32) {
    both_of::<1>(before, header, body)
}

/// One for each of its callers, so that it becomes a part of that and is encoded as that is.
#[inline]
#[target_feature(enable = "sse4.1,sse4.2,pclmulqdq")]
fn both_of<const CALLER: u8>(before: u32, header: &[u8; HEADER], body: &[u8]) -> (u32, u32) {
    let keys = _mm_set_epi64x(FOLD_1.0, FOLD_1.1);
    let ([first, second], _) = header.as_chunks::<16>() else {
        unreachable!("two blocks are a header");
    };
    // The second half of the second block counts as 0.
    let (low, _) = words(second);
    let own = own_of(u64::from(!0u32), first);
    let own = _mm_crc32_u64(_mm_crc32_u64(own, low), 0);
    let sum = _mm_xor_si128(_mm_cvtsi32_si128(!before as i32), load(first));
    let sum = fold(sum, _mm_set_epi64x(0, low as i64), keys);
    let (own, sum) = body_of::<true>(own, sum, body);
    (!(own as u32), reduce(sum, keys))
}

#[target_feature(enable = "sse4.1,sse4.2,pclmulqdq")]
fn hdlc_sse(crc: u32, first: &Block, rest: &[u8]) -> u32 {
    let sum = _mm_xor_si128(_mm_cvtsi32_si128(!crc as i32), load(first));
    let (_, sum) = body_of::<false>(0, sum, rest);
    reduce(sum, _mm_set_epi64x(FOLD_1.0, FOLD_1.1))
}

/// Goes on with both over the blocks of `body`, which are an even number if they come in pairs.
#[inline]
#[target_feature(enable = "sse4.1,sse4.2,pclmulqdq")]
fn body_of<const IN_PAIRS: bool>(mut own: u64, mut sum: __m128i, body: &[u8]) -> (u64, __m128i) {
    let keys = _mm_set_epi64x(FOLD_1.0, FOLD_1.1);
    let (mut blocks, _) = body.as_chunks::<16>();
    // Long frames in four lanes, which do not wait for one another.
    if blocks.len() >= 8
        && let ([first, fours @ ..], rest) = blocks.as_chunks::<4>()
    {
        let wide = _mm_set_epi64x(FOLD_4.0, FOLD_4.1);
        own = first.iter().fold(own, |own, block| own_of(own, block));
        let [a, b, c, d] = first;
        let mut a = fold(sum, load(a), keys);
        let (mut b, mut c, mut d) = (load(b), load(c), load(d));
        for four in fours {
            own = four.iter().fold(own, |own, block| own_of(own, block));
            a = fold(a, load(&four[0]), wide);
            b = fold(b, load(&four[1]), wide);
            c = fold(c, load(&four[2]), wide);
            d = fold(d, load(&four[3]), wide);
        }
        sum = fold(fold(fold(a, b, keys), c, keys), d, keys);
        blocks = rest;
    }
    if IN_PAIRS {
        let (pairs, _) = blocks.as_chunks::<2>();
        for [first, second] in pairs {
            own = own_of(own_of(own, first), second);
            sum = fold(fold(sum, load(first), keys), load(second), keys);
        }
        return (own, sum);
    }
    for block in blocks {
        own = own_of(own, block);
        sum = fold(sum, load(block), keys);
    }
    (own, sum)
}

/// From 128 bits to the 32 of the sum: to 96 first, and of these the rest that is left when they
/// are divided by the polynomial. Their upper 64 are all that it takes to know the quotient.
#[inline]
#[target_feature(enable = "sse4.1,sse4.2,pclmulqdq")]
fn reduce(sum: __m128i, keys: __m128i) -> u32 {
    let to_96 = _mm_clmulepi64_si128(sum, keys, 0x10);
    let sum = _mm_xor_si128(to_96, _mm_srli_si128(sum, 8));
    let barrett = _mm_set_epi64x(BARRETT.1, BARRETT.0);
    let quotient = _mm_clmulepi64_si128(sum, barrett, 0x00);
    let product = _mm_clmulepi64_si128(quotient, barrett, 0x10);
    !(_mm_extract_epi32(_mm_xor_si128(sum, product), 2) as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What one processor runs, another does not: each way is compared here with the tables.
    #[test]
    fn both_encodings_and_the_tables_agree() {
        let bytes: [u8; 600] = core::array::from_fn(|i| (i * 37 + i / 5) as u8);
        let header: &[u8; HEADER] = bytes.first_chunk().unwrap();
        for len in (0..500).step_by(32) {
            let body = &bytes[HEADER..][..len];
            let expected = crate::both_by_table(!7, header, body);
            if are_present() {
                // SAFETY: the processor has SSE 4.1, SSE 4.2 and PCLMULQDQ.
                assert_eq!(unsafe { both_sse(!7, header, body) }, expected, "{len}");
            }
            if instructions() == AVX {
                // SAFETY: the processor has AVX too, and the system keeps it.
                assert_eq!(unsafe { both_avx(!7, header, body) }, expected, "{len}");
            }
        }
    }
}
