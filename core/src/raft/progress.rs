//! What a leader knows of each follower.

use core::time::Duration;

use super::Ages;
use super::group::Hearing;
use super::health::Worst;
use crate::time::Instant;
use crate::units::{Incarnation, Position};
use crate::wire::member::{AppendPosition, Marks};

/// What a leader knows of one follower, in this term. Positions only grow.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Progress {
    /// It has joined this term; before that, nothing it says counts.
    pub joined: bool,
    /// The life of its directory, as it said in its last acknowledgement.
    pub incarnation: Option<Incarnation>,
    /// Whether that is one that counts.
    pub counts: bool,
    /// Whether the roster names it, as far as it has spoken at all: its questions show that it is
    /// alive, also while it has nothing to acknowledge.
    pub lives: bool,
    /// Its log's contiguous end.
    pub received: Position,
    /// What it has flushed.
    pub durable: Position,
    /// What its service has executed.
    pub applied: Position,
    /// How far it lets us send.
    pub limit: Position,
    /// How far we have sent.
    pub sent: Position,
    /// What it has asked for again.
    pub resend: Option<(Position, Position)>,
    /// Whether it hears what is sent to all followers at once.
    pub(super) hearing: Hearing,
    /// When it was last heard, if ever in this term.
    pub heard: Option<Instant>,
    /// When `received` last grew, or the cursor was last set back, or nothing was on its way.
    pub moved: Instant,
    /// For how long its disk and its services have kept work waiting.
    pub ages: Ages,
    /// The worst of these in the last moments.
    pub(super) worst: Worst,
    /// Its state is not the cluster's: it must not lead.
    pub quarantined: bool,
    /// It has handed leadership on because it was unwell.
    pub resting: bool,
    /// It says that it votes.
    pub votes: bool,
    /// The last heartbeat round it has acknowledged.
    pub round: u64,
    /// The commit position it was last told.
    pub commit_told: Position,
    /// Which part of the history it has asked for.
    pub history_from: Option<Position>,
    /// When it is next told of the new term, while it has not joined.
    pub greet_at: Instant,
}

impl Progress {
    pub(super) const fn new(now: Instant, end: Position) -> Self {
        Self {
            joined: false,
            incarnation: None,
            counts: false,
            lives: false,
            received: Position::ZERO,
            durable: Position::ZERO,
            applied: Position::ZERO,
            limit: Position::ZERO,
            sent: end,
            resend: None,
            hearing: Hearing::NEW,
            heard: None,
            moved: now,
            ages: Ages {
                flush_ms: 0,
                service_ms: 0,
            },
            worst: Worst::new(now),
            quarantined: false,
            resting: false,
            votes: false,
            round: 0,
            commit_told: Position::ZERO,
            history_from: None,
            greet_at: now,
        }
    }

    /// Takes an acknowledgement. One of an older round than the last was delayed, and says nothing;
    /// one of a newer round that has less than was known comes from a member that has started
    /// again, and has lost what it had not flushed: it starts anew.
    /// `period` is for how long its worst ages count. True if it has started anew.
    pub(super) fn acknowledge(
        &mut self,
        now: Instant,
        ack: &AppendPosition,
        counts: bool,
        period: Duration,
    ) -> bool {
        if ack.round < self.round {
            return false;
        }
        let restarted = ack.round > self.round && ack.received < self.received;
        let begins = !self.joined || restarted || self.counts != counts;
        if begins {
            *self = Self {
                joined: true,
                counts,
                // It is the same disk, whatever has begun anew.
                worst: self.worst,
                ..Self::new(now, ack.received)
            };
        }
        let ages = Ages {
            flush_ms: ack.flush_age_ms,
            service_ms: ack.service_age_ms,
        };
        self.take_marks(now, &ack.marks(), ages, period);
        (self.quarantined, self.resting) = (ack.quarantined, ack.resting);
        self.votes = ack.votes;
        begins
    }

    #[inline(always)]
    pub(super) fn take_marks(&mut self, now: Instant, marks: &Marks, ages: Ages, period: Duration) {
        if marks.received > self.received {
            self.received = marks.received;
            self.moved = now;
        }
        self.heard = Some(now);
        self.round = marks.round;
        self.sent = self.sent.max(self.received);
        self.hearing.has(self.received);
        self.durable = self.durable.max(marks.durable.min(marks.received));
        self.applied = self.applied.max(marks.applied);
        let limit = marks.received.plus(u64::from(marks.window));
        self.limit = self.limit.max(limit);
        self.ages = ages;
        self.worst.note(now, period, ages);
    }

    /// Whether there is one for [`Progress::due`].
    #[inline]
    pub(super) fn may_be_sent(&self, end: Position) -> bool {
        self.joined && (self.resend.is_some() || self.sent < self.limit.min(end))
    }

    /// The span that may be sent next: first what was asked for again, then from the cursor on.
    pub fn due(&self, end: Position) -> Option<(Position, Position)> {
        if !self.joined {
            return None;
        }
        if let Some((from, to)) = self.resend {
            return Some((from, to.min(end)));
        }
        let to = self.limit.min(end);
        (self.sent < to).then_some((self.sent, to))
    }

    /// Bytes up to `to` have been sent, from `from`.
    pub fn sent(&mut self, from: Position, to: Position) {
        match self.resend {
            Some((at, end)) if at == from => {
                self.resend = (to < end).then_some((to, end));
            }
            _ => self.sent = self.sent.max(to),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{ack, at, id, leader, tail};
    use crate::prng::Prng;
    use crate::units::Position;

    /// What is taken by its marks alone does what the whole acknowledgement does.
    #[test]
    fn marks_do_what_the_acknowledgement_that_they_are_of_does() {
        let mut prng = Prng::new(11);
        let mut raft = leader(tail(1, 640), 96_000);
        raft.flushed = Position::new(96_000);
        let mut by_marks = 0;
        for n in 0..2_000 {
            let mut mark = |below: u64| prng.next() % below;
            let mut said = ack(raft.term().get(), n * 48 / 32 * 32 + mark(40) * 32);
            said.durable = Position::new(mark(3_200) * 32);
            said.applied = Position::new(mark(3_200) * 32);
            (said.window, said.round) = (mark(70_000) as u32, n / 100 + mark(2));
            let (from, now) = (id(1 + mark(2) as u8), at(400 + n));
            let mut short = raft.clone();
            let is_whole = raft.handle_append(now, from, &said, true);
            if short.handle_marks(now, from, &said.marks()).is_some() {
                assert!(is_whole);
                assert_eq!(short, raft, "{n}");
                by_marks += 1;
            }
        }
        assert!((500..1_999).contains(&by_marks), "{by_marks}");
    }
}
