//! When a slot stands beside the data that it speaks of, and not at its file's start.
//!
//! A flush that writes two places waits for both; one that writes two blocks in a row waits hardly
//! longer than for one. So short groups, which somebody waits for one by one, have their slots in
//! the block behind the one in which the log ends:
//!
//! ```text
//!   head: slot, lead      | data ............ | data ..zeros |  zeros   slot slot |
//!                 says that it ends here ----------^    and so this is where to look
//! ```
//! The newest slot at a file's start leads there. As long as the log ends in the same block, the
//! slots of its groups alternate in the last two sectors of the next one; the first group that ends
//! elsewhere has its slot at the file's start, and that leads on. So has the first group after a
//! restart. So:
//! - *The newest durable slot is never written over.* A slot at the start is written over the one
//!   that is not the lead. The log comes to the sectors beside it only after a slot at the start
//!   has said all that they say: before a group that reaches so far, what is durable is confirmed
//!   there, with a flush of its own. Groups that long seldom follow short ones: a lead is of a
//!   short one, so where much is written, all slots are at the start.
//! - *Nothing else is taken for one.* What those sectors held before may be anything that a client
//!   has sent. A slot's checksum is changed by its lead's, and only one that is written with bytes
//!   leads on: to make one up takes the chain at bytes that are yet to come, or luck of one in four
//!   billion, and a crash just then. And it counts only if cluster, segment and the leadership that
//!   was joined are the lead's, and its numbers follow. Older slots at a start lead nowhere: all
//!   that they led to is older still.
//! - *What is not used need not be sound.* A log at rest has its newest slot at the start, and that
//!   leads nowhere: a block behind that cannot be read is nobody's concern.
//!
//! What it costs: if the lead rots, all that it leads to is lost, where it was one slot before; the
//! other one at the start is left. No byte of the log is lost; but damage in those last few KiB
//! would be taken for a write that was cut.
//!
//! Only for a disk below a file system: on a board there is no page to be saved.

use super::Span;
use super::slot::{BESIDE_MAX, BLOCK, Slot, SlotPlace, pair_of};
use crate::planted::Planted;
use crate::units::Term;

/// Gives slots their numbers and places.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub(super) struct Places {
    /// That of the newest slot.
    seq: u64,
    /// Whether any may be beside the data.
    allows_beside: bool,
    lead: Option<Lead>,
}

/// The newest slot at a file's start, if others may be beside the data that it leads to: in the
/// block behind the one in which the log has ended since.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
struct Lead {
    joined: Term,
    sum: u32,
    /// How many slots ago it was written: the newest one is there, if any.
    behind: u8,
}

impl Places {
    /// For a log with a slot of this number as its newest.
    pub(super) const fn behind(seq: u64) -> Self {
        Self {
            seq,
            allows_beside: false,
            lead: None,
        }
    }

    pub(super) fn allow_beside(&mut self) {
        self.allows_beside = true;
    }

    /// Those of the next slot, which is flushed with the bytes of `span`.
    #[inline]
    pub(super) fn next(&mut self, joined: Term, span: Span) -> (u64, SlotPlace) {
        self.seq += 1;
        let place = match self.lead.is_some() {
            true => self.led(joined, span),
            false => self.head(),
        };
        (self.seq, place)
    }

    #[inline(never)]
    fn led(&mut self, joined: Term, span: Span) -> SlotPlace {
        if let Some(lead) = &mut self.lead {
            if self.allows_beside && lead.leads_to(joined, span) {
                lead.behind += 1;
                let (behind, sum) = (lead.behind, lead.sum);
                return SlotPlace::Beside { behind, sum };
            }
            // Not over that one.
            self.seq += u64::from(lead.behind % 2);
        }
        self.head()
    }

    /// The newest slot, which was found at a start, as it is written again: where it is, if that is
    /// at a file's start. One beside the data is not touched (the one that leads there is durable
    /// for certain); what it says is said at the file's start. Neither leads on.
    pub(super) fn again(&mut self, mut found: Slot) -> Slot {
        if let SlotPlace::Beside { behind, .. } = found.place {
            self.seq += 1 + u64::from(behind % 2);
            (found.seq, found.place) = (self.seq, SlotPlace::Head);
        }
        found
    }

    #[inline]
    const fn head(&self) -> SlotPlace {
        match self.allows_beside {
            true => SlotPlace::Lead,
            false => SlotPlace::Head,
        }
    }

    /// This is that slot, at a file's start.
    #[inline(never)]
    pub(super) fn lead(&mut self, slot: Slot) {
        self.lead = slot.beside().map(|_| Lead {
            joined: slot.joined,
            sum: slot.sum(),
            behind: 0,
        });
    }

    /// Whether the newest slot is where a log that ends in `span.start` would be written over it by
    /// these bytes.
    #[inline]
    pub(super) fn is_in_the_way(&self, span: Span) -> bool {
        self.is_newest_beside()
            && span.end > pair_of(span.start)
            && !Planted::TheLogIsWrittenOverItsNewestSlot.is_active()
    }

    /// Whether the newest slot is in the block in which these bytes end, behind them.
    #[inline]
    pub(super) fn is_behind(&self, span: Span) -> bool {
        self.is_newest_beside() && pair_of(span.end) == pair_of(span.start).plus(BLOCK)
    }

    fn is_newest_beside(&self) -> bool {
        self.lead.is_some_and(|lead| lead.behind > 0)
    }
}

impl Lead {
    /// Whether the slot of a group is beside the data. (The log has ended in one block since the
    /// lead: else another slot would be at the start.)
    fn leads_to(&self, joined: Term, span: Span) -> bool {
        !span.is_empty()
            && pair_of(span.end) == pair_of(span.start)
            && joined == self.joined
            && u64::from(self.behind) < BESIDE_MAX
    }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use std::vec;
    use std::vec::Vec;

    use super::*;
    use crate::limits::{FRAME_HEADER, SEGMENT_MIN};
    use crate::log::{Group, Journal, Log, Recovered, Window, append, window_len};
    use crate::units::ClusterId;

    const CLUSTER: ClusterId = ClusterId(3);
    const MTU: usize = 1024;
    const T1: Term = Term::new(1);

    struct Machine {
        journal: Journal,
        log: Window<Vec<u8>>,
    }

    impl Machine {
        fn new() -> Self {
            let bytes = vec![0; window_len(32 << 10, MTU)];
            let mut log = Window::new(bytes, MTU, SEGMENT_MIN).expect("large enough");
            let recovered = Recovered::fresh(CLUSTER);
            recovered.open_window(&mut log).expect("aligned");
            let mut journal = recovered.journal(CLUSTER, &log);
            journal.set_slots_beside();
            Self { journal, log }
        }

        /// So many bytes more, in frames of one KiB and a rest.
        fn append(&mut self, len: usize) {
            for len in [MTU].repeat(len / MTU).into_iter().chain([len % MTU]) {
                if len > 0 {
                    let payload = vec![7; len - FRAME_HEADER];
                    append(&mut self.log, T1, &[&payload], MTU).expect("room");
                }
            }
        }

        /// A group that is durable.
        fn poll(&mut self, joined: Term) -> Option<Group> {
            let group = self.journal.poll_group(joined, &self.log)?;
            self.log.set_written(self.journal.written());
            self.log.release(self.journal.written());
            self.journal.handle_flushed();
            Some(group)
        }

        /// What is written next, after so many bytes more: see `told`.
        fn next(&mut self, len: usize) -> (&'static str, u64, u64) {
            self.append(len);
            told(&self.poll(T1).expect("bytes"))
        }
    }

    /// In which sector the slot is, and from where to where the data.
    fn told(group: &Group) -> (&'static str, u64, u64) {
        let place = match (group.slot.place, group.slot.index()) {
            (SlotPlace::Head, _) => "alone",
            (SlotPlace::Lead, 0) => "head 0",
            (SlotPlace::Lead, _) => "head 1",
            (SlotPlace::Beside { .. }, 0) => "beside 0",
            (SlotPlace::Beside { .. }, _) => "beside 1",
        };
        (place, group.span.start.get(), group.span.end.get())
    }

    #[test]
    fn slots_are_beside_the_data_as_long_as_the_log_ends_in_one_block() {
        let mut machine = Machine::new();
        assert_eq!(machine.next(32), ("head 1", 0, 32));
        assert_eq!(machine.next(992), ("head 0", 32, 1024));
        assert_eq!(machine.next(1024), ("beside 1", 1024, 2048));
        assert_eq!(machine.next(992), ("beside 0", 2048, 3040));
        assert_eq!(machine.next(1024), ("beside 1", 3040, 4064));
        // It ends in the next block, and not over the slot that is there: at the start, and not
        // over the lead.
        assert_eq!(machine.next(3104), ("head 1", 4064, 7168));
        assert_eq!(machine.next(32), ("beside 0", 7168, 7200));
        assert_eq!(machine.next(992), ("head 0", 7200, 8192));
    }

    #[test]
    fn before_the_log_comes_to_its_newest_slot_that_is_said_elsewhere() {
        let mut machine = Machine::new();
        assert_eq!(machine.next(4064), ("head 1", 0, 4064));
        // No slot is there: nothing is in the way.
        assert_eq!(machine.next(4096), ("head 0", 4064, 8160));
        assert_eq!(machine.next(96), ("head 1", 8160, 8256));
        assert_eq!(machine.next(96), ("beside 0", 8256, 8352));
        machine.append(7040);
        let confirming = machine.poll(T1).expect("the slot");
        assert_eq!(told(&confirming), ("head 0", 8352, 8352));
        assert_eq!(confirming.slot.confirmed, confirming.slot.intended);
        let group = machine.poll(T1).expect("the bytes");
        assert_eq!(told(&group), ("head 1", 8352, 15_392));
        assert!(!group.keeps_rest);
        // One that ends just below it is not written over it.
        assert_eq!(machine.next(32), ("head 0", 15_392, 15_424));
        assert_eq!(machine.next(32), ("beside 1", 15_424, 15_456));
        machine.append(4000);
        let group = machine.poll(T1).expect("the bytes");
        assert_eq!(told(&group), ("head 1", 15_456, 19_456));
        assert!(group.keeps_rest);
    }

    #[test]
    fn after_a_restart_it_goes_on_as_before() {
        let mut machine = Machine::new();
        assert_eq!(machine.next(96), ("head 1", 0, 96));
        assert_eq!(machine.next(96), ("head 0", 96, 192));
        assert_eq!(machine.next(96), ("beside 1", 192, 288));
        machine.append(96);
        let newest = machine.poll(T1).expect("bytes").slot;
        assert!(newest.is_beside());
        let mut recovered = Recovered::fresh(CLUSTER);
        recovered.slot = Some(newest);
        recovered.joined = T1;
        recovered.confirmed = newest.confirmed;
        recovered.intended = newest.intended;
        recovered.confirmed_chain = newest.chain;
        recovered.tail.end = newest.intended;
        for joined in [T1, T1.next()] {
            let mut journal = recovered.journal(CLUSTER, &machine.log);
            journal.set_slots_beside();
            let log = machine.log.clone();
            let mut again = Machine { journal, log };
            // What it intended was acknowledged, perhaps; and not over the one that leads there.
            let same = again.poll(joined).expect("the slot");
            let says = |slot: &Slot| (slot.confirmed, slot.intended, slot.joined, slot.chain);
            assert_eq!(says(&same.slot), says(&newest));
            assert_eq!(told(&same), ("alone", 288, 288));
            assert_eq!(same.slot.index(), 1);
            // The tail, which may not be durable.
            let tail = again.poll(joined).expect("bytes");
            assert_eq!(told(&tail), ("head 0", 288, 384));
            again.append(96);
            let next = again.poll(joined).expect("bytes");
            assert!(next.slot.is_beside());
        }
    }
}
