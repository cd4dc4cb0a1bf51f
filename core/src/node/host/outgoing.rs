//! A service's messages on their way into the log, in lent memory.
//!
//! A message is kept from when the service offers it until the service sees it in the log. So what
//! is kept is a function of the log up to the service's position, equal on every member; how far it
//! has been appended is the business of whoever leads.

use crate::limits::FRAME_ALIGNMENT;

/// What stands before each message: its length.
const HEAD: usize = 4;

/// First in, first out. Numbers count from 1.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub(super) struct Outgoing {
    /// Where the oldest message is in the memory.
    start: usize,
    /// How many bytes the messages take, with their lengths.
    len: usize,
    /// The number of the last message that was seen in the log.
    seen: u64,
    /// The number of the last message that was offered.
    offered: u64,
}

/// Where the next message to be appended is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub(super) struct Ahead {
    /// The number of the last one that this leader has appended.
    number: u64,
    /// How many bytes behind the oldest message that was.
    bytes: usize,
}

impl Outgoing {
    pub const fn new(seen: u64) -> Self {
        Self {
            start: 0,
            len: 0,
            seen,
            offered: seen,
        }
    }

    pub const fn seen(&self) -> u64 {
        self.seen
    }

    pub const fn offered(&self) -> u64 {
        self.offered
    }

    /// Keeps a message; false if it does not fit. Whether it fits depends on what is kept alone,
    /// never on where that lies.
    pub fn push(&mut self, memory: &mut [u8], parts: &[&[u8]]) -> bool {
        let payload = parts
            .iter()
            .fold(0usize, |sum, part| sum.saturating_add(part.len()));
        let taken = HEAD.saturating_add(payload);
        if taken > memory.len().saturating_sub(self.len) {
            return false;
        }
        if self.start + self.len + taken > memory.len() {
            // To the front of what is moved, and the rest behind it is written over.
            let moved = memory.get_mut(..self.start + self.len);
            let Some(moved) = moved.filter(|moved| self.start <= moved.len()) else {
                return false;
            };
            moved.copy_within(self.start.., 0);
            self.start = 0;
        }
        let mut at = self.start + self.len;
        let head = (payload as u32).to_le_bytes();
        for part in core::iter::once(&&head[..]).chain(parts) {
            if let Some(room) = memory.get_mut(at..at + part.len()) {
                room.copy_from_slice(part);
            }
            at += part.len();
        }
        self.len += taken;
        self.offered += 1;
        true
    }

    /// The oldest message.
    pub fn front<'m>(&self, memory: &'m [u8]) -> Option<&'m [u8]> {
        self.at(memory, 0)
    }

    /// The oldest message has been seen in the log.
    pub fn pop(&mut self, memory: &[u8], ahead: &mut Ahead) {
        let Some(front) = self.front(memory) else {
            return;
        };
        let taken = HEAD + front.len();
        self.start += taken;
        self.len -= taken;
        self.seen += 1;
        ahead.bytes = ahead.bytes.saturating_sub(taken);
    }

    /// A leadership begins: nothing that is kept has been appended in it.
    pub const fn ahead(&self) -> Ahead {
        Ahead {
            number: self.seen,
            bytes: 0,
        }
    }

    /// How many bytes are kept and not appended.
    pub const fn queued(&self, ahead: &Ahead) -> usize {
        self.len - ahead.bytes
    }

    /// The next message to be appended, and its number.
    pub fn next<'m>(&self, memory: &'m [u8], ahead: &Ahead) -> Option<(u64, &'m [u8])> {
        // What was seen in the log meanwhile was appended before.
        let number = ahead.number.max(self.seen) + 1;
        let message = self.at(memory, ahead.bytes)?;
        Some((number, message))
    }

    /// That message has been appended.
    pub fn appended(&self, ahead: &mut Ahead, number: u64, len: usize) {
        ahead.number = number;
        ahead.bytes += HEAD + len;
    }

    /// All that is kept, oldest first.
    pub fn iter<'m>(&self, memory: &'m [u8]) -> impl Iterator<Item = &'m [u8]> {
        let mut behind = 0;
        core::iter::from_fn(move || {
            let message = self.at(memory, behind)?;
            behind += HEAD + message.len();
            Some(message)
        })
    }

    fn at<'m>(&self, memory: &'m [u8], behind: usize) -> Option<&'m [u8]> {
        if behind >= self.len {
            return None;
        }
        let (head, rest) = memory
            .get(self.start + behind..)?
            .split_first_chunk::<HEAD>()?;
        rest.get(..u32::from_le_bytes(*head) as usize)
    }
}

const _: () = assert!(HEAD < FRAME_ALIGNMENT);

#[cfg(test)]
mod tests {
    extern crate std;

    use std::collections::VecDeque;
    use std::vec;
    use std::vec::Vec;

    use super::*;
    use crate::prng::Prng;

    /// Random calls, each answer as a queue would have it, and as one whose bytes lie differently.
    #[test]
    fn it_is_a_queue_and_full_is_a_matter_of_what_it_holds() {
        for seed in 0..50 {
            let mut prng = Prng::new(seed);
            let mut memory = vec![0; 16 + prng.below(60) as usize];
            let mut outgoing = Outgoing::new(5);
            let mut ahead = outgoing.ahead();
            let mut model: VecDeque<(u64, Vec<u8>)> = VecDeque::new();
            let mut appended = 5;
            for step in 0..400u64 {
                match prng.below(3) {
                    0 => {
                        let message = vec![step as u8; prng.below(20) as usize];
                        let held: usize = model.iter().map(|(_, m)| HEAD + m.len()).sum();
                        let fits = held + HEAD + message.len() <= memory.len();
                        let (a, b) = message.split_at(message.len() / 2);
                        assert_eq!(outgoing.push(&mut memory, &[a, b]), fits);
                        if fits {
                            model.push_back((outgoing.offered(), message));
                        }
                    }
                    1 => {
                        let next = outgoing.next(&memory, &ahead);
                        let expected = model.iter().find(|(number, _)| *number > appended);
                        let expected = expected.map(|(n, m)| (*n, m.as_slice()));
                        assert_eq!(next, expected);
                        if let Some((number, message)) = next {
                            outgoing.appended(&mut ahead, number, message.len());
                            appended = number;
                        }
                    }
                    _ => {
                        let front = model.front().map(|(_, m)| m.as_slice());
                        assert_eq!(outgoing.front(&memory), front);
                        // Seen in the log, as others have appended it or this one.
                        outgoing.pop(&memory, &mut ahead);
                        if let Some((number, _)) = model.pop_front() {
                            appended = appended.max(number);
                            assert_eq!(outgoing.seen(), number);
                        }
                    }
                }
                assert!(outgoing.iter(&memory).eq(model.iter().map(|(_, m)| &m[..])));
            }
        }
    }
}
