//! Log bytes to followers: to all of them at once if there is a group for that, and to each alone.

use super::dues::Due;
use super::transmit::{Owes, Run, Sweep, What};
use super::{Consumer, Door, Lent, Node, Recall};
use crate::limits::MEMBERS_MAX;
use crate::log::{Log, scan};
use crate::raft::{Leader, State};
use crate::units::{MemberId, MemberSet, Position, Term};

/// The turn of all, behind those of the members.
const ALL: u8 = MEMBERS_MAX as u8;

impl<const N: usize, const S: usize> Node<N, S> {
    /// Log frames: all at once and the followers in turn, each from its own cursor, from wherever
    /// the bytes are.
    #[inline]
    pub(super) fn owed_frames<'l, L: Log>(&mut self, lent: &'l Lent<'_, L>) -> Option<Owes<'l>> {
        if !self.dues.has(Due::FRAMES) {
            return None;
        }
        let (end, last) = (self.raft.tail.end, self.sweep.member);
        let again = self.frames_again(lent, end);
        let owed = again.or_else(|| self.next_frames(lent, end));
        // Whose turn comes later in this round is asked by the next call.
        let goes_on = owed.is_some() && self.sweep.is_before_last(self.raft.others());
        let owes =
            goes_on || matches!(self.raft.state(), State::Leader(leader) if leader.owes_bytes(end));
        if !owes || owed.is_none() {
            self.dues.done(Due::FRAMES);
        }
        match owed.is_none() {
            true if owes => self.dues.add(Due::RECALL),
            // Nobody has had a turn.
            true => self.sweep.member = last,
            false => {}
        }
        owed
    }

    /// To the next follower what the one before was sent: nearly always both have the same.
    #[inline(always)]
    fn frames_again<'l, L: Log>(
        &mut self,
        lent: &'l Lent<'_, L>,
        end: Position,
    ) -> Option<Owes<'l>> {
        let (
            Run {
                from, len, sent, ..
            },
            others,
        ) = (self.sweep.run, self.raft.others());
        let member = others.after(MemberId::new(self.sweep.member)?)?;
        let State::Leader(leader) = &mut self.raft.state else {
            return None;
        };
        let (to, progress) = (
            from.plus(len as u64),
            leader.progress.get_mut(member.slot())?,
        );
        let is_owed = len > 0 && to <= end && progress.is_to_be_sent(from, to);
        if !is_owed || self.config.log_group.is_some() {
            return None;
        }
        let bytes = lent.log.read(from).get(..sent)?;
        let address = self.config.address(member)?.member;
        progress.sent_alone(from, to);
        self.sweep.member = member.get();
        self.counters.log_sent += sent as u64;
        Some(Owes {
            door: Door::Member,
            to: address,
            what: What::InPlace(bytes),
        })
    }

    #[inline(always)]
    fn next_frames<'l, L: Log>(
        &mut self,
        lent: &'l Lent<'_, L>,
        end: Position,
    ) -> Option<Owes<'l>> {
        // Nearly always the first that is asked is owed some.
        let owed = self.frames_in_turn(lent, end);
        owed.or_else(|| self.frames_to_any(lent, end))
    }

    #[inline(never)]
    fn frames_to_any<'l, L: Log>(
        &mut self,
        lent: &'l Lent<'_, L>,
        end: Position,
    ) -> Option<Owes<'l>> {
        (0..self.raft.others().len()).find_map(|_| self.frames_in_turn(lent, end))
    }

    /// To the one whose turn it is, or to all.
    #[inline(always)]
    fn frames_in_turn<'l, L: Log>(
        &mut self,
        lent: &'l Lent<'_, L>,
        end: Position,
    ) -> Option<Owes<'l>> {
        let (others, term) = (self.raft.others(), self.raft.term());
        let State::Leader(leader) = &mut self.raft.state else {
            return None;
        };
        let is_grouped = self.config.log_group.is_some();
        let member = self.sweep.take_turn(others, is_grouped);
        let edge = if is_grouped { leader.edge() } else { None };
        let (from, to, is_resend) = due_to(leader, member, end, edge)?;
        let (mtu, segment) = (self.config.mtu, self.config.segment_length);
        let bytes = self.sources.for_catchup(&*lent.log, &*lent.catchup, from);
        // What was asked for again may end in mid-frame: whole frames are sent, one at least.
        let least = if is_resend { mtu } else { 0 };
        let due = to.since(from).min(bytes.len() as u64) as usize;
        let wanted = bytes.get(..due.max(least).min(bytes.len()))?;
        let newest = (from.plus(wanted.len() as u64) == end).then_some(term);
        let run = self.sweep.run(wanted, from, mtu, segment, newest);
        let bytes = bytes.get(..run.sent).filter(|run| !run.is_empty())?;
        leader.frames_sent(member, from, from.plus(run.len as u64));
        let to = match member {
            Some(member) => self.config.address(member)?.member,
            None => self.config.log_group?,
        };
        self.counters.log_sent += bytes.len() as u64;
        Some(Owes {
            door: Door::Member,
            to,
            what: What::InPlace(bytes),
        })
    }

    /// Bytes that followers are owed and that the window has let go.
    #[inline(never)]
    pub(super) fn recall_for_followers<L: Log>(&self, lent: &Lent<'_, L>) -> Option<Recall> {
        let State::Leader(leader) = self.raft.state() else {
            return None;
        };
        if self.is_serving() {
            return None;
        }
        let (end, mtu) = (self.raft.tail.end, self.config.mtu);
        let mut wanted = None;
        let progress = match leader.owes_bytes(end) {
            true => &leader.progress[..],
            false => &[],
        };
        for progress in progress {
            let Some((from, _)) = progress.due(end) else {
                continue;
            };
            // What was purged is here no more: that member will ask for a snapshot.
            if from >= lent.log.start() || from < self.start.base {
                continue;
            }
            let bytes = self.sources.for_catchup(&*lent.log, &*lent.catchup, from);
            // A PAD whose header alone was recalled is a frame, but not one that can be sent.
            let run = scan::run(bytes, from, mtu, self.config.segment_length);
            if (1..=bytes.len()).contains(&run) {
                // Somebody still reads what was recalled last: others wait for their turn.
                return None;
            }
            // Read already, and no frame starts there: who asked for it is no follower of ours.
            if !self.sources.has_catchup_from(from) {
                wanted = wanted.or(Some(from));
            }
        }
        let other = self.recall_annals(lent);
        if let Some(recall) = other.or_else(|| self.recall_snapshot(lent.catchup)) {
            return Some(recall);
        }
        let len = lent.catchup.len();
        wanted.map(|at| self.sources.recall(&*lent.log, Consumer::Catchup, at, len))
    }
}

/// Whether the log's newest bytes, from `from` on, need not be walked to be sent as one datagram:
/// they are few, and begin with a frame of the newest term, so all are of that. A PAD is not among
/// them, as that ends with its segment.
#[inline(always)]
fn is_one(bytes: &[u8], from: Position, mtu: usize, segment: u32, term: Term) -> bool {
    let end = from.plus(bytes.len() as u64);
    let is_within = (from.get() ^ end.get()) < u64::from(segment);
    bytes.len() <= mtu && is_within && scan::starts_with(bytes, from, term, segment)
}

/// What `member` is to be sent alone or, without one, all; and whether it was asked for again.
#[inline(always)]
fn due_to(
    leader: &Leader,
    member: Option<MemberId>,
    end: Position,
    edge: Option<Position>,
) -> Option<(Position, Position, bool)> {
    let Some(member) = member else {
        let (from, to) = leader.due_to_all(end, edge?)?;
        return Some((from, to, false));
    };
    let progress = leader.progress.get(member.slot())?;
    let (from, to) = progress.due_alone(end, edge)?;
    Some((from, to, progress.resend.is_some()))
}

impl Run {
    #[inline(never)]
    fn of(bytes: &[u8], from: Position, mtu: usize, segment: u32) -> Self {
        let len = scan::run(bytes, from, mtu, segment);
        let run = bytes.get(..len).unwrap_or(bytes);
        Self {
            from,
            of: bytes.len(),
            len,
            sent: scan::sent(run).len(),
        }
    }
}

impl Sweep {
    /// What of `bytes`, the log's from `from` on, makes one datagram. Nearly always those that one
    /// follower is sent are those that the one before was. If they are the `newest`, and this is
    /// the leader's term, they end with a whole frame.
    #[inline(always)]
    fn run(
        &mut self,
        bytes: &[u8],
        from: Position,
        mtu: usize,
        segment: u32,
        newest: Option<Term>,
    ) -> Run {
        if (self.run.from, self.run.of) != (from, bytes.len()) {
            self.run = match newest {
                Some(term) if is_one(bytes, from, mtu, segment, term) => Run {
                    from,
                    of: bytes.len(),
                    len: bytes.len(),
                    sent: bytes.len(),
                },
                _ => Run::of(bytes, from, mtu, segment),
            };
        }
        debug_assert_eq!(self.run, Run::of(bytes, from, mtu, segment));
        self.run
    }

    /// Whether another follower's turn comes before the circle begins anew.
    #[inline(always)]
    fn is_before_last(&self, others: MemberSet) -> bool {
        let last = MemberId::new(self.member);
        last.is_some_and(|last| others.after(last).is_some())
    }

    /// Whose turn it is: the followers' in a circle, then, if there is a group, everybody's, which
    /// is `None`.
    #[inline]
    fn take_turn(&mut self, others: MemberSet, is_grouped: bool) -> Option<MemberId> {
        let next = match MemberId::new(self.member) {
            Some(last) => others.after(last),
            None => others.lowest(),
        };
        let next = match is_grouped {
            true => next,
            false => next.or(others.lowest()),
        };
        self.member = next.map_or(ALL, MemberId::get);
        next
    }
}
