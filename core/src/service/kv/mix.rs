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

/// Odd, so that multiplying by it loses nothing (the constant of xxHash's first prime).
const ODD: u64 = 0x9e37_79b1_85eb_ca87;

/// Mixes the length and all the bytes into a digest: blocks of 32 bytes in four lanes, which a
/// processor works on at the same time, and the rest word by word. One word that differs always
/// makes the result differ. Work: one pass.
pub fn bytes(digest: u64, bytes: &[u8]) -> u64 {
    let mut digest = word(digest, bytes.len() as u64);
    let (blocks, rest) = bytes.as_chunks::<32>();
    if !blocks.is_empty() {
        let mut lanes = [digest, !digest, digest ^ ODD, !digest ^ ODD];
        for block in blocks {
            let (words, _) = block.as_chunks::<8>();
            for (lane, value) in lanes.iter_mut().zip(words) {
                let mixed = (*lane ^ u64::from_le_bytes(*value)).wrapping_mul(ODD);
                *lane = mixed.rotate_left(29);
            }
        }
        let [a, b, c, d] = lanes;
        let folded = a ^ b.rotate_left(16) ^ c.rotate_left(32) ^ d.rotate_left(48);
        digest = word(digest, folded);
    }
    // Whole words on their own: of a length that is not known, eight bytes are a call to copy them.
    let (words, rest) = rest.as_chunks();
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

#[cfg(test)]
mod tests {
    use super::bytes;

    #[test]
    fn every_bit_of_every_length_tells() {
        let mut message = [0x5a; 100];
        for len in 0..message.len() {
            let whole = bytes(7, message.get(..len).unwrap());
            assert_ne!(whole, bytes(8, message.get(..len).unwrap()));
            assert_ne!(whole, bytes(7, message.get(..=len).unwrap()));
            for bit in 0..8 * len {
                message[bit / 8] ^= 1 << (bit % 8);
                assert_ne!(whole, bytes(7, message.get(..len).unwrap()), "{len} {bit}");
                message[bit / 8] ^= 1 << (bit % 8);
            }
        }
    }

    #[test]
    fn the_order_of_words_and_blocks_tells() {
        let mut message = [0; 96];
        for (n, byte) in message.iter_mut().enumerate() {
            *byte = n as u8;
        }
        let whole = bytes(0, &message);
        for (a, b, len) in [(0, 8, 8), (0, 32, 32), (8, 40, 8), (0, 88, 8), (64, 72, 8)] {
            let mut other = message;
            for n in 0..len {
                other.swap(a + n, b + n);
            }
            assert_ne!(whole, bytes(0, &other), "{a} {b}");
        }
    }
}
