//! A fast 64-bit mixing function for digests: detects divergence, resists nobody.

/// Mixes one word into a digest (the finaliser of `SplitMix64`: a bijection of the sum).
pub const fn word(digest: u64, value: u64) -> u64 {
    let mut z = digest
        .rotate_left(23)
        .wrapping_add(value)
        .wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Mixes the length and all the bytes into a digest. Work: one pass.
pub fn bytes(digest: u64, bytes: &[u8]) -> u64 {
    let mut digest = word(digest, bytes.len() as u64);
    let (words, rest) = bytes.as_chunks();
    for value in words {
        digest = word(digest, u64::from_le_bytes(*value));
    }
    if !rest.is_empty() {
        let mut value = [0; 8];
        for (to, from) in value.iter_mut().zip(rest) {
            *to = *from;
        }
        digest = word(digest, u64::from_le_bytes(value));
    }
    digest
}
