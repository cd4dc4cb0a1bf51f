//! CRC-32C: of log frames, node state, slots and snapshots.

use crc::{Crc, Table};

/// RFC 3720, appendix B.4. Sixteen lanes: 16 KiB of constants, once.
pub(crate) static CRC_32C: Crc<u32, Table<16>> = Crc::<u32, Table<16>>::new(&crc::CRC_32_ISCSI);

/// CRC-32C of any bytes.
pub fn crc32c(bytes: &[u8]) -> u32 {
    CRC_32C.checksum(bytes)
}

/// The CRC-32C of what `crc` is that of, and `bytes` behind it. That of nothing is 0.
pub fn extend(crc: u32, bytes: &[u8]) -> u32 {
    // What an earlier piece ended with is what the next begins with, before reflection.
    let mut digest = CRC_32C.digest_with_initial((!crc).reverse_bits());
    digest.update(bytes);
    digest.finalize()
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
