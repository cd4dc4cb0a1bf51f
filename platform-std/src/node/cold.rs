//! The cold reads of a node: one at a time for each of two consumers, into memory that is lent to
//! the node when it is asked for nothing else.

use coracle_core::node::{Consumer, ReadError, Recall};

use crate::storage::StorageError;
use crate::storage::snapshots::ReadDone;

/// One for what is executed, or sent to a damaged member, and one for all others.
const CONSUMERS: usize = 2;

/// Which of them.
pub fn consumer(recall: &Recall) -> usize {
    match recall.consumer {
        Consumer::Replay | Consumer::Repair => 0,
        _ => 1,
    }
}

/// A read under way.
#[derive(Clone, Copy, Debug)]
struct UnderWay {
    recall: Recall,
    /// How often the log had been cut when it began; `None` if nobody waits for it any more.
    cuts: Option<u64>,
}

/// See the module's text.
#[derive(Debug)]
pub struct Cold {
    under_way: [Option<UnderWay>; CONSUMERS],
    /// A buffer as long as the node's; none while a reader has it.
    spare: [Option<Vec<u8>>; CONSUMERS],
}

impl Cold {
    /// Nothing is under way. The buffers are as long as the node's memory for each consumer.
    pub fn new(lengths: [usize; CONSUMERS]) -> Self {
        Self {
            under_way: [None; CONSUMERS],
            spare: lengths.map(|len| Some(vec![0; len])),
        }
    }

    /// The buffer for a read, unless one is under way.
    pub fn take_buffer(&mut self, at: usize) -> Option<Vec<u8>> {
        match self.under_way.get(at)? {
            None => self.spare.get_mut(at)?.take(),
            Some(_) => None,
        }
    }

    /// The read began, after so many cuts of the log; or there is a reader that could not begin it,
    /// and the buffer is back: the node asks again.
    pub fn begun(&mut self, at: usize, recall: Recall, cuts: u64, back: Option<Vec<u8>>) {
        if back.is_none() {
            let cuts = Some(cuts);
            self.under_way[at] = Some(UnderWay { recall, cuts });
        }
        self.spare[at] = back;
    }

    /// What was read, if the node is to be told: it is in the node's memory then, in the place of
    /// what was there. What `is_of_use` says no to, or nobody waits for, leaves that memory alone:
    /// the node takes it for what it has been told last.
    pub fn done(
        &mut self,
        at: usize,
        read: ReadDone,
        memory: &mut Vec<u8>,
        is_of_use: impl FnOnce(&Recall, u64) -> bool,
    ) -> Option<(Recall, Result<usize, ReadError>)> {
        let (mut bytes, result) = read;
        let under_way = self.under_way[at].take();
        let wanted = under_way.filter(|read| {
            let UnderWay { recall, cuts } = read;
            cuts.is_some_and(|cuts| is_of_use(recall, cuts))
        });
        if wanted.is_some() {
            std::mem::swap(memory, &mut bytes);
        }
        self.spare[at] = Some(bytes);
        let recall = wanted?.recall;
        let result = result.map_err(|error: StorageError| {
            tracing::error!(%error, "cold read");
            ReadError
        });
        Some((recall, result))
    }

    /// The node begins anew, and the log's readers have ended: only pieces of snapshots may still
    /// be read, for nobody.
    pub fn forget(&mut self, lengths: [usize; CONSUMERS]) {
        for (at, len) in lengths.into_iter().enumerate() {
            match &mut self.under_way[at] {
                Some(read) if matches!(read.recall.consumer, Consumer::Snapshot { .. }) => {
                    read.cuts = None;
                }
                ended => {
                    *ended = None;
                    self.spare[at].get_or_insert_with(|| vec![0; len]);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use coracle_core::snapshot::Section;
    use coracle_core::units::Position;

    use super::*;

    fn recall(consumer: Consumer) -> Recall {
        Recall {
            consumer,
            at: Position::new(96),
            len: 4,
            cuts: 0,
        }
    }

    fn begin(cold: &mut Cold, recall: Recall) -> Vec<u8> {
        let at = consumer(&recall);
        let buffer = cold.take_buffer(at).expect("nothing is under way");
        cold.begun(at, recall, 7, None);
        assert!(cold.take_buffer(at).is_none(), "one at a time");
        buffer
    }

    #[test]
    fn the_node_is_told_of_what_it_waits_for_and_has_it_in_its_memory() {
        let (mut cold, mut memory) = (Cold::new([4; 2]), vec![1; 4]);
        let recall = recall(Consumer::Replay);
        drop(begin(&mut cold, recall));
        let told = cold.done(0, (vec![2; 4], Ok(4)), &mut memory, |_, cuts| cuts == 7);
        assert_eq!(told, Some((recall, Ok(4))));
        assert_eq!(memory, [2; 4]);
        assert_eq!(cold.take_buffer(0), Some(vec![1; 4]));
    }

    /// The node has what it was told last in there: frames that it executes next, bytes of a
    /// snapshot that wait to be stored. It would take others for damage, and halt.
    #[test]
    fn what_the_node_is_not_told_of_leaves_its_memory_alone() {
        for consumer in [Consumer::Replay, Consumer::Catchup] {
            let (mut cold, mut memory) = (Cold::new([4; 2]), vec![1; 4]);
            let at = super::consumer(&recall(consumer));
            let buffer = begin(&mut cold, recall(consumer));
            let told = cold.done(at, (buffer, Ok(4)), &mut memory, |_, _| false);
            assert_eq!(told, None);
            assert_eq!(memory, [1; 4]);
            assert!(cold.take_buffer(at).is_some(), "it may ask again");
        }
    }

    #[test]
    fn a_piece_that_the_node_before_has_asked_for_is_not_what_this_one_asks_for() {
        let consumer = Consumer::Snapshot {
            position: Position::new(64),
            section: Section::Consensus,
        };
        let (mut cold, mut memory) = (Cold::new([4; 2]), vec![1; 4]);
        let buffer = begin(&mut cold, recall(consumer));
        drop(begin(&mut cold, recall(Consumer::Replay)));
        cold.forget([4; 2]);
        assert!(cold.take_buffer(0).is_some(), "that reader has ended");
        assert!(cold.take_buffer(1).is_none(), "that one has not");
        let told = cold.done(1, (buffer, Ok(4)), &mut memory, |_, _| true);
        assert_eq!((told, &memory[..]), (None, &[1; 4][..]));
        assert!(cold.take_buffer(1).is_some());
    }

    #[test]
    fn a_read_that_no_reader_could_begin_is_not_waited_for() {
        let mut cold = Cold::new([4; 2]);
        let buffer = cold.take_buffer(1);
        cold.begun(1, recall(Consumer::Catchup), 7, buffer);
        assert!(cold.take_buffer(1).is_some());
    }
}
