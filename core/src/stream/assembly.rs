//! Puts the fragments of a message together, in lent memory.

use crate::stream::Fragment;

/// What became of a fragment.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum Assembled {
    /// It completed a message of this many bytes, which lies at the start of the buffer.
    Message(usize),
    /// More is to come.
    Partial,
    /// It belongs to a message whose start was missed; dropped.
    Stray,
    /// The message is longer than the buffer; dropped, with the rest of it.
    TooLong,
}

/// How much of a message is there. A fragment that begins a message discards an unfinished one.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Assembly {
    filled: Option<usize>,
}

impl Assembly {
    /// Nothing is there.
    pub const fn new() -> Self {
        Self { filled: None }
    }

    /// Is a message unfinished?
    pub const fn is_open(&self) -> bool {
        self.filled.is_some()
    }

    /// Forgets an unfinished message: what follows of it is stray.
    pub const fn reset(&mut self) {
        self.filled = None;
    }

    /// Copies the fragment behind what is there. A message that came whole is better used in place,
    /// and then `reset` has to be called.
    pub fn push(&mut self, fragment: &Fragment<'_>, buffer: &mut [u8]) -> Assembled {
        if fragment.is_begin() {
            self.filled = Some(0);
        }
        let Some(start) = self.filled else {
            return Assembled::Stray;
        };
        let end = start.saturating_add(fragment.payload.len());
        let room = buffer.get_mut(start..);
        let Some(place) = room.and_then(|room| room.get_mut(..fragment.payload.len())) else {
            self.filled = None;
            return Assembled::TooLong;
        };
        place.copy_from_slice(fragment.payload);
        if fragment.is_end() {
            self.filled = None;
            return Assembled::Message(end);
        }
        self.filled = Some(end);
        Assembled::Partial
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::Position;
    use crate::wire::frame::{FLAG_BEGIN, FLAG_END};

    fn fragment(flags: u8, payload: &[u8]) -> Fragment<'_> {
        Fragment {
            position: Position::ZERO,
            flags,
            reserved: 0,
            payload,
        }
    }

    #[test]
    fn a_begin_discards_what_was_unfinished() {
        let mut buffer = [0; 8];
        let mut assembly = Assembly::new();
        let mut push = |flags, payload| assembly.push(&fragment(flags, payload), &mut buffer);
        assert_eq!(push(0, b"x"), Assembled::Stray);
        assert_eq!(push(FLAG_BEGIN, b"lost"), Assembled::Partial);
        assert_eq!(push(FLAG_BEGIN, b"he"), Assembled::Partial);
        assert_eq!(push(0, b"ll"), Assembled::Partial);
        assert_eq!(push(FLAG_END, b"o"), Assembled::Message(5));
        assert_eq!(&buffer[..5], b"hello");
    }

    #[test]
    fn a_message_over_the_limit_is_dropped_to_its_end() {
        let mut buffer = [0; 4];
        let mut assembly = Assembly::new();
        let mut push = |flags, payload| assembly.push(&fragment(flags, payload), &mut buffer);
        assert_eq!(push(FLAG_BEGIN, b"four"), Assembled::Partial);
        assert_eq!(push(0, b"!"), Assembled::TooLong);
        assert_eq!(push(FLAG_END, b"!"), Assembled::Stray);
        assert_eq!(push(FLAG_BEGIN | FLAG_END, b"next"), Assembled::Message(4));
    }
}
