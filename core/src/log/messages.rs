//! Putting fragmented messages together again.

use super::scan::FrameRef;
use crate::units::{Position, Term};

/// A whole message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Message<'a> {
    /// Where its first frame starts.
    pub start: Position,
    /// Where its last frame ends.
    pub end: Position,
    /// The leadership term that wrote it.
    pub term: Term,
    /// The message.
    pub bytes: &'a [u8],
}

/// A message that has begun and not ended.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
struct Unfinished {
    start: Position,
    next: Position,
    term: Term,
    len: usize,
}

/// Makes messages of frames. A message in one frame is given in place; the fragments of a longer
/// one are copied to a lent buffer, the same one in every call.
///
/// What a message is, every member decides alike: a BEGIN or a frame of another term discards an
/// unfinished message, PADs in between are skipped, and fragments without a BEGIN are nothing.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Messages {
    unfinished: Option<Unfinished>,
    is_too_long: bool,
}

impl Messages {
    /// No message has begun.
    pub const fn new() -> Self {
        Self {
            unfinished: None,
            is_too_long: false,
        }
    }

    /// The next frame of the log, if it is a whole message; else nothing happens, and it goes to
    /// [`Self::push`].
    #[inline]
    pub fn whole<'b>(&mut self, frame: &FrameRef<'b>) -> Option<Message<'b>> {
        if !frame.begins() || !frame.ends() {
            return None;
        }
        self.unfinished = None;
        Some(Message {
            start: frame.position,
            end: frame.end(),
            term: frame.term,
            bytes: frame.payload,
        })
    }

    /// Takes the next frame of the log. A message that it completes is returned; one longer than
    /// `assembly` is discarded (none is appended: the limit is checked before).
    pub fn push<'b>(&mut self, frame: FrameRef<'b>, assembly: &'b mut [u8]) -> Option<Message<'b>> {
        if let Some(message) = self.whole(&frame) {
            return Some(message);
        }
        if frame.begins() {
            self.unfinished = None;
        }
        let mut message = match self.unfinished.take() {
            Some(message) => message,
            None if frame.begins() => Unfinished {
                start: frame.position,
                next: frame.position,
                term: frame.term,
                len: 0,
            },
            None => return None,
        };
        if message.term != frame.term || message.next != frame.position {
            return None;
        }
        message.next = frame.end();
        let len = message.len + frame.payload.len();
        let Some(room) = assembly.get_mut(message.len..len) else {
            self.is_too_long = true;
            return None;
        };
        room.copy_from_slice(frame.payload);
        message.len = len;
        if !frame.ends() {
            self.unfinished = Some(message);
            return None;
        }
        Some(Message {
            start: message.start,
            end: message.next,
            term: message.term,
            bytes: assembly.get(..len)?,
        })
    }

    /// Where the unfinished message starts, if there is one: reading must start there again if the
    /// assembly buffer is lost.
    pub fn unfinished_since(&self) -> Option<Position> {
        self.unfinished.map(|m| m.start)
    }

    /// Whether a message was discarded because it is longer than the buffer: whoever executes
    /// messages must not go on then.
    pub fn is_too_long(&self) -> bool {
        self.is_too_long
    }

    /// Discards an unfinished message.
    pub fn reset(&mut self) {
        self.unfinished = None;
    }
}
