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

/// Mixes the length and all the bytes into a digest, eight at a time, the last ones filled up with
/// zeros. Work: one pass.
pub fn bytes(digest: u64, bytes: &[u8]) -> u64 {
    let mut digest = word(digest, bytes.len() as u64);
    // Whole words on their own: of a length that is not known, eight bytes are a call to copy them.
    let (words, rest) = bytes.as_chunks();
    for bytes in words {
        digest = word(digest, u64::from_le_bytes(*bytes));
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_words_filled_up_with_zeros() {
        let text = *b"0123456789abcdefghi";
        for len in 0..=text.len() {
            let mut padded = [0; 24];
            padded[..len].copy_from_slice(&text[..len]);
            let mut expected = word(7, len as u64);
            for at in (0..len).step_by(8) {
                let mut eight = [0; 8];
                eight.copy_from_slice(&padded[at..at + 8]);
                expected = word(expected, u64::from_le_bytes(eight));
            }
            assert_eq!(bytes(7, &text[..len]), expected, "{len}");
        }
    }
}
