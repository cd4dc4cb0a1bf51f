//! The log sent to all followers at once: who is level with what was last sent so, and who is
//! served alone.
//!
//! There is no cursor of the group: where it stands follows from the followers' own. The furthest
//! of them is the edge; what is sent to all starts there and moves everybody on who is there and
//! has room. Whoever is behind (it has just joined, its window was full, what it was sent is lost)
//! is served alone from its own cursor, until that has reached the edge. So the slowest follower
//! never holds the others up, and one that hears nothing of what is sent to all still gets all.

use super::{Leader, Progress, Raft};
use crate::planted::Planted;
use crate::time::Instant;
use crate::units::{MemberId, Position};

/// Who has asked so often for bytes again, and has got none meanwhile but what was sent to it
/// alone, does not hear what is sent to all: a network may drop just that.
const DEAF_AFTER: u8 = 8;

/// For how many leader timeouts a deaf follower is served alone before it is tried again.
const REST_OF_TIMEOUTS: u32 = 32;

/// Whether a follower hears what is sent to all.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) struct Hearing {
    /// How far it was sent bytes alone.
    alone: Position,
    /// How often it has asked again since it last had more than that.
    missed: u8,
    /// It is served alone until then.
    deaf_until: Option<Instant>,
}

impl Hearing {
    pub(super) const NEW: Self = Self {
        alone: Position::ZERO,
        missed: 0,
        deaf_until: None,
    };

    /// Bytes up to `to` were sent to it alone.
    pub(super) fn sent_alone(&mut self, to: Position) {
        self.alone = self.alone.max(to);
    }

    /// It has everything up to `received`.
    pub(super) fn has(&mut self, received: Position) {
        if received > self.alone {
            (self.missed, self.deaf_until) = (0, None);
        }
    }

    /// It asks for bytes from `from` on again; true if it is taken for deaf from now on.
    fn missed(&mut self, from: Position, until: Instant) -> bool {
        if from < self.alone {
            // They were sent to it alone, and are lost all the same.
            return false;
        }
        self.missed = self.missed.saturating_add(1);
        let is_news = self.missed >= DEAF_AFTER && self.deaf_until.is_none();
        if is_news {
            self.deaf_until = Some(until);
        }
        is_news
    }
}

impl Progress {
    /// It has been sent all that was sent to all.
    fn is_at(&self, edge: Position) -> bool {
        self.joined && self.hearing.deaf_until.is_none() && self.sent == edge
    }

    /// What it is to be sent alone, if what is sent to all starts at `edge`.
    pub fn due_alone(&self, end: Position, edge: Option<Position>) -> Option<(Position, Position)> {
        let is_left = Planted::WhoIsBehindIsLeftToTheGroup.is_active() && edge.is_some();
        let is_served = is_left || edge.is_some_and(|edge| self.is_at(edge));
        if is_served && self.resend.is_none() {
            return None;
        }
        self.due(end)
    }

    /// Whether nothing stands in the way of sending it the bytes from `from` to `to` next.
    #[inline(always)]
    pub fn is_to_be_sent(&self, from: Position, to: Position) -> bool {
        self.joined && self.resend.is_none() && self.sent == from && self.limit >= to
    }

    /// It was sent them, alone.
    #[inline(always)]
    pub fn sent_alone(&mut self, from: Position, to: Position) {
        self.sent(from, to);
        self.hearing.sent_alone(to);
    }

    /// A while has passed: perhaps its network is mended.
    pub(super) fn listen_again(&mut self, now: Instant) {
        if self.hearing.deaf_until.is_some_and(|until| now >= until) {
            // The next miss is enough.
            (self.hearing.missed, self.hearing.deaf_until) = (DEAF_AFTER - 1, None);
        }
    }
}

impl Leader {
    /// Where the next bytes for all start; `None` if nobody is there to hear them.
    pub fn edge(&self) -> Option<Position> {
        let hears = |p: &&Progress| p.joined && p.hearing.deaf_until.is_none();
        self.progress.iter().filter(hears).map(|p| p.sent).max()
    }

    /// The span that may be sent to all next: as far as any that is there has room.
    pub fn due_to_all(&self, end: Position, edge: Position) -> Option<(Position, Position)> {
        let there = self.progress.iter().filter(|p| p.is_at(edge));
        let to = there.map(|p| p.limit).max()?.min(end);
        (edge < to).then_some((edge, to))
    }

    /// Bytes up to `to` have been sent, from `from`: to `member` alone or, without one, to all.
    #[inline(always)]
    pub fn frames_sent(&mut self, member: Option<MemberId>, from: Position, to: Position) {
        let Some(member) = member else {
            return self.sent_to_all(from, to);
        };
        if let Some(progress) = self.progress.get_mut(member.slot()) {
            progress.sent_alone(from, to);
        }
    }

    /// Bytes up to `to` have been sent to all, from `from`.
    fn sent_to_all(&mut self, from: Position, to: Position) {
        for progress in &mut self.progress {
            if progress.is_at(from) && progress.limit >= to {
                progress.sent = to;
            }
        }
    }
}

impl Raft {
    #[cfg(test)]
    fn frames_sent(&mut self, member: Option<MemberId>, from: Position, to: Position) {
        if let super::State::Leader(leader) = &mut self.state {
            leader.frames_sent(member, from, to);
        }
    }

    /// A follower has asked for the bytes from `from` on again. True if it seems not to hear what
    /// is sent to all: it is served alone from now on, and tried again after a while.
    pub fn note_missed(&mut self, now: Instant, member: MemberId, from: Position) -> bool {
        let rest = self.timing.leader_timeout.saturating_mul(REST_OF_TIMEOUTS);
        let until = now.plus(rest);
        let progress = self.progress_mut(member);
        progress.is_some_and(|p| p.joined && p.hearing.missed(from, until))
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{ack, at, id, leader, tail};
    use super::super::{Raft, State};
    use core::time::Duration;

    use super::*;
    use crate::units::Tail;

    fn position(at: u64) -> Position {
        Position::new(at)
    }

    /// Leads two followers that have joined and have all up to 960.
    fn leading() -> Raft {
        let mut raft = leader(tail(1, 640), 960);
        for follower in [1, 2] {
            assert!(acknowledge(&mut raft, follower, 960, 1, 65_536));
        }
        grow(&mut raft, 1_600);
        raft
    }

    fn acknowledge(raft: &mut Raft, from: u8, received: u64, round: u64, window: u32) -> bool {
        let mut said = ack(raft.term().get(), received);
        (said.round, said.window) = (round, window);
        raft.handle_append(at(500), id(from), &said, true)
    }

    fn grow(raft: &mut Raft, end: u64) {
        let (term, end) = (raft.term(), position(end));
        raft.set_tail(Tail { term, end });
    }

    fn state(raft: &Raft) -> &Leader {
        match raft.state() {
            State::Leader(leader) => leader,
            _ => panic!("it leads"),
        }
    }

    /// What is due to all, and to 1 and 2 alone.
    fn due(raft: &Raft) -> [Option<(u64, u64)>; 3] {
        let (leader, end) = (state(raft), raft.tail.end);
        let edge = leader.edge();
        let plain = |due: Option<(Position, Position)>| due.map(|(a, b)| (a.get(), b.get()));
        let alone = |n: usize| plain(leader.progress[n].due_alone(end, edge));
        let all = edge.and_then(|edge| leader.due_to_all(end, edge));
        [plain(all), alone(1), alone(2)]
    }

    #[test]
    fn who_is_at_the_edge_is_sent_each_byte_once_with_all_others() {
        let mut raft = leading();
        assert_eq!(due(&raft), [Some((960, 1_600)), None, None]);
        raft.frames_sent(None, position(960), position(1_280));
        assert_eq!(due(&raft), [Some((1_280, 1_600)), None, None]);
        raft.frames_sent(None, position(1_280), position(1_600));
        assert_eq!(due(&raft), [None, None, None]);
    }

    #[test]
    fn what_is_asked_for_again_is_sent_to_who_asks() {
        let mut raft = leading();
        raft.frames_sent(None, position(960), position(1_600));
        raft.handle_nak(id(2), position(960), position(1_280));
        assert_eq!(due(&raft), [None, None, Some((960, 1_280))]);
        raft.frames_sent(Some(id(2)), position(960), position(1_280));
        assert_eq!(due(&raft), [None, None, None]);
    }

    #[test]
    fn who_has_no_room_is_served_alone_later_and_holds_nobody_up() {
        let mut raft = leading();
        assert!(acknowledge(&mut raft, 2, 960, 2, 0));
        // Its limit stays what it once was; the room of the others is what counts.
        let mut raft = {
            let State::Leader(leader) = &mut raft.state else {
                panic!("it leads")
            };
            leader.progress[2].limit = position(960);
            raft
        };
        raft.frames_sent(None, position(960), position(1_600));
        grow(&mut raft, 1_920);
        assert_eq!(due(&raft), [Some((1_600, 1_920)), None, None]);
        assert!(acknowledge(&mut raft, 2, 960, 3, 65_536));
        assert_eq!(due(&raft), [Some((1_600, 1_920)), None, Some((960, 1_920))]);
        raft.frames_sent(Some(id(2)), position(960), position(1_600));
        // It has caught up with the edge, and both hear the same again.
        assert_eq!(due(&raft), [Some((1_600, 1_920)), None, None]);
        raft.frames_sent(None, position(1_600), position(1_920));
        assert_eq!(due(&raft), [None, None, None]);
    }

    #[test]
    fn one_that_does_not_hear_what_is_sent_to_all_is_served_alone_and_tried_again() {
        let mut raft = leading();
        let mut end = 1_600;
        for n in 1..=DEAF_AFTER {
            let from = end - 640;
            raft.frames_sent(None, position(from), position(end));
            raft.handle_nak(id(2), position(from), position(end));
            assert_eq!(
                raft.note_missed(at(600), id(2), position(from)),
                n == DEAF_AFTER,
                "{n}"
            );
            raft.frames_sent(Some(id(2)), position(from), position(end));
            let _taken = acknowledge(&mut raft, 1, end, 1, 65_536);
            let _taken = acknowledge(&mut raft, 2, end, 1, 65_536);
            end += 640;
            grow(&mut raft, end);
        }
        let from = end - 640;
        assert_eq!(due(&raft), [Some((from, end)), None, Some((from, end))]);
        raft.frames_sent(None, position(from), position(end));
        assert_eq!(due(&raft), [None, None, Some((from, end))]);
        // What it has beyond what was sent to it alone it can only have heard with the others.
        let mut hears = raft.clone();
        assert!(acknowledge(&mut hears, 2, end, 2, 65_536));
        grow(&mut hears, end + 320);
        assert_eq!(due(&hears), [Some((end, end + 320)), None, None]);
        // And after a while it is tried again; one miss shows that nothing has changed.
        raft.frames_sent(Some(id(2)), position(from), position(end));
        let later = Duration::from_millis(600) + raft.timing.leader_timeout * REST_OF_TIMEOUTS;
        let later = Instant::from_nanos(later.as_nanos() as u64);
        let State::Leader(leader) = &mut raft.state else {
            panic!("it leads")
        };
        leader.progress[2].listen_again(at(700));
        assert_eq!(leader.edge(), Some(position(end)));
        assert!(!leader.progress[2].is_at(position(end)));
        leader.progress[2].listen_again(later);
        assert!(leader.progress[2].is_at(position(end)));
        assert!(!raft.note_missed(later, id(2), position(from)));
        assert!(raft.note_missed(later, id(2), position(end)));
    }
}
