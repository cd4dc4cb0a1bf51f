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
    let (blocks, rest) = bytes.as_chunks();
    if !blocks.is_empty() {
        let mut lanes = Lanes::new(digest);
        for block in blocks {
            lanes.take(words(block));
        }
        digest = word(digest, lanes.folded());
    }
    // Whole words on their own: of a length that is not known, eight bytes are a call to copy them.
    let (whole, rest) = rest.as_chunks();
    for value in whole {
        digest = word(digest, u64::from_le_bytes(*value));
    }
    if !rest.is_empty() {
        digest = word(digest, part(rest));
    }
    digest
}

/// Mixes one event into a digest: three words that say what it is, the length of its bytes, and
/// these. Each word tells as in [`bytes`]; but only one multiplication waits for the digest before,
/// so that a processor works on several short events at the same time.
#[inline(always)]
pub fn event(digest: u64, [a, b, c]: [u64; 3], bytes: &[u8]) -> u64 {
    let mut lanes = Lanes::new(0);
    lanes.take([a, b, c, bytes.len() as u64]);
    let (blocks, rest) = bytes.as_chunks();
    for block in blocks {
        lanes.take(words(block));
    }
    if !rest.is_empty() {
        let (whole, rest) = rest.as_chunks();
        lanes.take(core::array::from_fn(|at| match whole.get(at) {
            Some(value) => u64::from_le_bytes(*value),
            None if at == whole.len() => part(rest),
            None => 0,
        }));
    }
    (digest ^ word(0, lanes.folded()))
        .wrapping_mul(ODD)
        .rotate_left(29)
}

/// What a processor works on at the same time.
struct Lanes([u64; 4]);

impl Lanes {
    #[inline(always)]
    const fn new(seed: u64) -> Self {
        Self([seed, !seed, seed ^ ODD, !seed ^ ODD])
    }

    /// A word into each.
    #[inline(always)]
    fn take(&mut self, words: [u64; 4]) {
        for (lane, value) in self.0.iter_mut().zip(words) {
            *lane = (*lane ^ value).wrapping_mul(ODD).rotate_left(29);
        }
    }

    #[inline(always)]
    const fn folded(self) -> u64 {
        let [a, b, c, d] = self.0;
        a ^ b.rotate_left(16) ^ c.rotate_left(32) ^ d.rotate_left(48)
    }
}

#[inline(always)]
fn words(block: &[u8; 32]) -> [u64; 4] {
    let (words, _) = block.as_chunks();
    core::array::from_fn(|at| words.get(at).map_or(0, |word| u64::from_le_bytes(*word)))
}

/// Fewer than eight bytes, and zeros. Not by a loop that copies them: that would be a call.
#[inline(always)]
fn part(bytes: &[u8]) -> u64 {
    let bytes = bytes.iter().rev();
    bytes.fold(0, |word, byte| word << 8 | u64::from(*byte))
}

#[cfg(test)]
mod tests {
    use super::{bytes, event};

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
    fn every_bit_of_an_event_tells() {
        let mut message = [0x5a; 100];
        for len in 0..message.len() {
            let of = |what, message: &[u8]| event(7, what, message.get(..len).unwrap());
            let whole = of([1, 2, 3], &message);
            assert_ne!(whole, event(8, [1, 2, 3], message.get(..len).unwrap()));
            assert_ne!(whole, event(7, [1, 2, 3], message.get(..=len).unwrap()));
            for bit in 0..64 {
                let flipped = 1 << bit;
                assert_ne!(whole, of([1 ^ flipped, 2, 3], &message));
                assert_ne!(whole, of([1, 2 ^ flipped, 3], &message));
                assert_ne!(whole, of([1, 2, 3 ^ flipped], &message));
            }
            for bit in 0..8 * len {
                message[bit / 8] ^= 1 << (bit % 8);
                assert_ne!(whole, of([1, 2, 3], &message), "{len} {bit}");
                message[bit / 8] ^= 1 << (bit % 8);
            }
        }
        let (one, other) = (event(7, [1, 2, 3], b"a"), event(7, [2, 1, 3], b"a"));
        assert_ne!(one, other);
        assert_ne!(
            event(one, [1, 2, 3], b"b"),
            event(event(7, [1, 2, 3], b"b"), [1, 2, 3], b"a")
        );
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
            assert_ne!(
                event(0, [0; 3], &message),
                event(0, [0; 3], &other),
                "{a} {b}"
            );
        }
    }
}
