//! What the tests of golden messages share. The messages are `tests/golden/wire/*.hex`: bytes laid
//! out from the published offsets, a field a line, not written by our own `emit`.

extern crate std;

use std::vec::Vec;

/// The bytes of a golden file: hex digits, `#` starts a comment.
pub fn bytes(text: &str) -> Vec<u8> {
    let code = text.lines().filter_map(|line| line.split('#').next());
    let words = code.flat_map(str::split_whitespace);
    words
        .map(|word| u8::from_str_radix(word, 16).expect("two hex digits"))
        .collect()
}

/// Shows `check` the message cut at every length, and with every single bit and byte turned over.
pub fn damage(bytes: &[u8], mut check: impl FnMut(&[u8])) {
    for len in 0..bytes.len() {
        check(&bytes[..len]);
    }
    let mut copy = bytes.to_vec();
    for at in 0..copy.len() {
        for mask in [1, 2, 4, 8, 16, 32, 64, 128, 255] {
            copy[at] ^= mask;
            check(&copy);
            copy[at] ^= mask;
        }
    }
}

/// The SBE message at `at` with `more` bytes at the end of its block, as a newer version writes it.
pub fn newer(bytes: &[u8], at: usize, more: u16) -> Vec<u8> {
    let block = u16::from_le_bytes([bytes[at], bytes[at + 1]]);
    let version = u16::from_le_bytes([bytes[at + 6], bytes[at + 7]]);
    let end = at + 8 + usize::from(block);
    let mut copy = bytes[..end].to_vec();
    copy.extend((0..more).map(|_| 0xa5));
    copy.extend_from_slice(&bytes[end..]);
    copy[at..at + 2].copy_from_slice(&(block + more).to_le_bytes());
    copy[at + 6..at + 8].copy_from_slice(&(version + 100).to_le_bytes());
    copy
}

/// The SBE message at `at` with the last byte of its block taken away.
pub fn shorter(bytes: &[u8], at: usize) -> Vec<u8> {
    let block = u16::from_le_bytes([bytes[at], bytes[at + 1]]);
    let mut copy = bytes.to_vec();
    copy.remove(at + 8 + usize::from(block) - 1);
    copy[at..at + 2].copy_from_slice(&(block - 1).to_le_bytes());
    copy
}

/// A golden file, by its name without `.hex`.
macro_rules! golden {
    ($name:literal) => {
        $crate::wire::golden::bytes(include_str!(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../tests/golden/wire/",
            $name,
            ".hex"
        )))
    };
}
pub(in crate::wire) use golden;
