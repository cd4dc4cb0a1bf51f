//! What clients send: messages that say who sent them, so that the checker knows each one again.

use super::ghost::mix;

/// Which message: the client, the life of its session, and a number that grows by one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Tag {
    /// The client.
    pub client: u8,
    /// How many sessions this client had before.
    pub life: u16,
    /// The number within the session.
    pub seq: u64,
}

impl Tag {
    /// Shorter messages carry no tag.
    pub const LEN: usize = 8;

    /// The message of `len` bytes with this tag; a short one is filler alone.
    pub fn message(self, len: usize, into: &mut Vec<u8>) {
        into.clear();
        if len >= Self::LEN {
            into.extend_from_slice(&self.word().to_le_bytes());
        }
        let filler = mix(1, &self.word().to_le_bytes()).to_le_bytes();
        while into.len() < len {
            into.push(filler[into.len() % 8]);
        }
    }

    /// The tag of a message, if it is long enough to carry one.
    pub fn read(message: &[u8]) -> Option<Self> {
        let word = u64::from_le_bytes(message.get(..Self::LEN)?.try_into().ok()?);
        Some(Self {
            client: (word >> 56) as u8,
            life: (word >> 40) as u16,
            seq: word & 0xff_ffff_ffff,
        })
    }

    /// Are these the bytes that were sent under this tag?
    pub fn matches(self, message: &[u8]) -> bool {
        let filler = mix(1, &self.word().to_le_bytes()).to_le_bytes();
        let rest = message.get(Self::LEN..).unwrap_or_default();
        rest.iter()
            .zip(filler.iter().cycle())
            .all(|(have, want)| have == want)
    }

    const fn word(self) -> u64 {
        (self.client as u64) << 56 | (self.life as u64) << 40 | (self.seq & 0xff_ffff_ffff)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_known_again_and_damage_is_seen() {
        let tag = Tag {
            client: 3,
            life: 500,
            seq: 70_000,
        };
        let mut message = Vec::new();
        for len in [8, 9, 31, 4000] {
            tag.message(len, &mut message);
            assert_eq!(message.len(), len);
            assert_eq!(Tag::read(&message), Some(tag));
            assert!(tag.matches(&message));
        }
        message[3999] ^= 1;
        assert!(!tag.matches(&message));
        tag.message(7, &mut message);
        assert_eq!(Tag::read(&message), None);
    }
}
