//! CRC-32C: of log frames, node state, slots and snapshots.

/// The CRC-32C of what `crc` is that of, and `bytes` behind it. That of nothing is 0.
pub use coracle_checksum::castagnoli as extend;

/// CRC-32C of any bytes.
#[inline]
pub fn crc32c(bytes: &[u8]) -> u32 {
    extend(0, bytes)
}

#[cfg(test)]
mod tests {
    use super::{crc32c, extend};

    #[test]
    fn a_sum_made_in_pieces_is_the_sum_of_the_whole() {
        let bytes = b"123456789";
        // The check value of the catalogue of CRC algorithms.
        assert_eq!(crc32c(bytes), 0xe306_9283);
        for at in 0..=bytes.len() {
            let (a, b) = bytes.split_at(at);
            assert_eq!(extend(extend(0, a), b), crc32c(bytes));
        }
    }
}
