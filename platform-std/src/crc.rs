//! CRC-32 with a table of 256 entries, for file headers and for the checker of stopped directories.
//!
//! Slower than the core's, and on purpose none of its code: what checks the core's checksums shall
//! not repeat its mistakes. Both are reflected, with all ones before and after (RFC 3720 B.4, ISO
//! 3309).

/// A table for one reflected polynomial.
#[derive(Debug)]
pub struct Crc32([u32; 256]);

/// CRC-32C (Castagnoli).
pub static CRC32C: Crc32 = Crc32::new(0x82F6_3B78);
/// CRC-32/ISO-HDLC, as in Ethernet.
pub static CRC32: Crc32 = Crc32::new(0xEDB8_8320);

impl Crc32 {
    const fn new(polynomial: u32) -> Self {
        let mut table = [0u32; 256];
        let mut at = 0;
        while at < 256 {
            let mut value = at as u32;
            let mut bit = 0;
            while bit < 8 {
                value = if value & 1 == 1 {
                    (value >> 1) ^ polynomial
                } else {
                    value >> 1
                };
                bit += 1;
            }
            table[at] = value;
            at += 1;
        }
        Self(table)
    }

    /// The checksum of `bytes`.
    pub fn of(&self, bytes: &[u8]) -> u32 {
        self.extend(0, bytes)
    }

    /// The checksum of what `crc` is the checksum of, followed by `bytes`.
    pub fn extend(&self, crc: u32, bytes: &[u8]) -> u32 {
        let mut state = !crc;
        for byte in bytes {
            let index = (state ^ u32::from(*byte)) & 0xFF;
            state = (state >> 8) ^ self.0[index as usize];
        }
        !state
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_published_check_values() {
        assert_eq!(CRC32C.of(b"123456789"), 0xE306_9283);
        assert_eq!(CRC32.of(b"123456789"), 0xCBF4_3926);
        assert_eq!(CRC32.extend(CRC32.of(b"1234"), b"56789"), 0xCBF4_3926);
    }
}
