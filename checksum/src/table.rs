//! A CRC of 32 bits, reflected, by tables: sixteen bytes at once, as in "A Systematic Approach to
//! Building High Performance Software-Based CRC Generators" (Kounavis and Berry, 2005). For
//! processors without the instructions, and for what is too short for them.

/// How many bytes are taken at once.
const LANES: usize = 16;

/// By how many bytes come behind it in a block, and by value: what a byte adds to the sum. 16 KiB.
pub struct Table([[u32; 256]; LANES]);

impl Table {
    /// Of this polynomial, reflected.
    pub const fn new(polynomial: u32) -> Self {
        let mut lanes = [[0; 256]; LANES];
        let mut value = 0;
        while value < 256 {
            let mut sum = value as u32;
            let mut bit = 0;
            while bit < 8 {
                sum = (sum >> 1) ^ (polynomial & (sum & 1).wrapping_neg());
                bit += 1;
            }
            lanes[0][value] = sum;
            value += 1;
        }
        let mut lane = 1;
        while lane < LANES {
            let mut value = 0;
            while value < 256 {
                let before = lanes[lane - 1][value];
                lanes[lane][value] = (before >> 8) ^ lanes[0][(before & 0xff) as usize];
                value += 1;
            }
            lane += 1;
        }
        Self(lanes)
    }

    /// The sum of what `crc` is that of, and `bytes` behind it. No index is out of range: each is a
    /// byte.
    #[inline]
    pub fn sum(&self, crc: u32, bytes: &[u8]) -> u32 {
        let [last, ..] = &self.0;
        let (blocks, rest) = bytes.as_chunks::<LANES>();
        let mut sum = !crc;
        for block in blocks {
            let mut mixed = *block;
            for (byte, before) in mixed.iter_mut().zip(sum.to_le_bytes()) {
                *byte ^= before;
            }
            let lanes = self.0.iter().rev().zip(mixed);
            sum = lanes.fold(0, |sum, (lane, byte)| sum ^ lane[usize::from(byte)]);
        }
        for byte in rest {
            let [low, ..] = sum.to_le_bytes();
            sum = (sum >> 8) ^ last[usize::from(byte ^ low)];
        }
        !sum
    }
}
