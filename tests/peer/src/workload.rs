//! Messages of mixed sizes that anybody can make again from their number.

/// Longest message, in bytes.
pub const MESSAGE_MAX: usize = 64 * 1024;

/// Message `number`: its size and its bytes follow from the number alone. Nine in ten are up to
/// 256 bytes, most of the rest up to 4 KiB, one in a hundred up to 64 KiB; the empty message,
/// the message of one byte and the longest are among them.
pub fn message(number: u64) -> Vec<u8> {
    let mut state = number.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ 0xC0AC_1E00;
    let length = length(number, next(&mut state));
    let mut bytes = Vec::with_capacity(length + 8);
    bytes.extend_from_slice(&number.to_le_bytes());
    while bytes.len() < length {
        bytes.extend_from_slice(&next(&mut state).to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

fn length(number: u64, random: u64) -> usize {
    let spread = usize::try_from(random >> 8).unwrap_or(usize::MAX);
    match number % 100 {
        50 if number % 1_000 == 50 => MESSAGE_MAX,
        51 if number % 1_000 == 51 => 0,
        52 if number % 1_000 == 52 => 1,
        50 => spread % (MESSAGE_MAX + 1),
        51..60 => spread % 4_097,
        _ => spread % 257,
    }
}

/// A step of `SplitMix64`.
fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let mut mixed = *state;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    mixed ^ (mixed >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_mixed_and_reach_both_ends() {
        let lengths: Vec<usize> = (0..10_000).map(|number| message(number).len()).collect();
        assert_eq!(lengths.iter().max(), Some(&MESSAGE_MAX));
        assert_eq!(lengths.iter().min(), Some(&0));
        assert!(lengths.contains(&1));
        assert!(lengths.iter().filter(|length| **length > 1_376).count() > 500);
        let total: usize = lengths.iter().sum();
        assert!(total < 10_000 * 1_024, "a run stays short: {total} bytes");
    }

    #[test]
    fn messages_differ() {
        assert_ne!(message(3), message(4));
        assert_eq!(message(50).len(), MESSAGE_MAX);
    }
}
