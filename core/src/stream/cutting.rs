//! How a message is cut to frames: every frame but the last is one MTU long.

use crate::limits::FRAME_HEADER;
use crate::wire::frame::align;

/// How many bytes of a message a frame of `mtu` bytes carries at most.
pub const fn payload_max(mtu: u32) -> usize {
    (mtu as usize).saturating_sub(FRAME_HEADER)
}

/// The bytes of stream that a message of `len` bytes takes, with headers and alignment. An empty
/// message takes a header. More than there can be, if a frame of `mtu` bytes carries nothing.
pub const fn framed(len: usize, mtu: u32) -> usize {
    let (Some(rest), Some(count)) = (
        len.checked_rem(payload_max(mtu)),
        len.checked_div(payload_max(mtu)),
    ) else {
        return usize::MAX;
    };
    let whole = count.saturating_mul(mtu as usize);
    if rest > 0 || len == 0 {
        whole.saturating_add(align(FRAME_HEADER + rest))
    } else {
        whole
    }
}

/// The longest message that takes at most `room` bytes of stream; `room` is a multiple of 32. None
/// but the empty one in frames of no length.
pub const fn unframed(room: usize, mtu: u32) -> usize {
    let mtu_len = mtu as usize;
    let (Some(whole), Some(rest)) = (room.checked_div(mtu_len), room.checked_rem(mtu_len)) else {
        return 0;
    };
    whole * payload_max(mtu) + rest.saturating_sub(FRAME_HEADER)
}

/// Reads forward over the parts of a message: one in front, and then the others.
pub struct Parts<'a> {
    front: &'a [u8],
    parts: &'a [&'a [u8]],
}

impl<'a> Parts<'a> {
    /// From the first byte of `front`.
    pub const fn new(front: &'a [u8], parts: &'a [&'a [u8]]) -> Self {
        Self { front, parts }
    }

    /// The length of what is left, in bytes; saturates.
    pub fn length(&self) -> usize {
        let lengths = self.parts.iter().map(|part| part.len());
        lengths.fold(self.front.len(), usize::saturating_add)
    }

    /// Fills `place` with the next bytes, as far as there are any.
    pub fn copy(&mut self, mut place: &mut [u8]) {
        while !place.is_empty() {
            let len = self.front.len().min(place.len());
            let (bytes, rest) = self.front.split_at(len);
            let (head, tail) = core::mem::take(&mut place).split_at_mut(len);
            head.copy_from_slice(bytes);
            (self.front, place) = (rest, tail);
            if self.front.is_empty() {
                let Some((part, others)) = self.parts.split_first() else {
                    return;
                };
                (self.front, self.parts) = (part, others);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_of_whole_frames_has_no_empty_one_behind() {
        assert_eq!(framed(0, 512), 32);
        assert_eq!(framed(1, 512), 64);
        assert_eq!(framed(480, 512), 512);
        assert_eq!(framed(481, 512), 576);
        assert_eq!(framed(960, 512), 1024);
    }

    #[test]
    fn the_longest_message_of_a_room_fits_it_and_one_byte_more_does_not() {
        for mtu in [256, 512, 1408, 65_504] {
            for room in (mtu as usize..200_000).step_by(4096) {
                let room = align(room);
                let longest = unframed(room, mtu);
                assert!(framed(longest, mtu) <= room, "{room} of {mtu}");
                assert!(framed(longest + 1, mtu) > room, "{room} of {mtu}");
            }
        }
    }

    #[test]
    fn parts_are_read_as_one() {
        let mut parts = Parts::new(b"", &[b"ab", b"", b"cde"]);
        assert_eq!(parts.length(), 5);
        let mut place = [0; 4];
        parts.copy(&mut place);
        assert_eq!(&place, b"abcd");
        parts.copy(&mut place);
        assert_eq!(&place, b"ebcd");
    }
}
