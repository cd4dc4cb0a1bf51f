//! Is this member's state the cluster's? Digests at equal positions, compared while it runs.
//!
//! Every `checkpoint_every` bytes of the log, the first whole message that ends at or above a
//! multiple of it is a checkpoint. Its digest mixes the log's chain there with the digest of each
//! service, taken when *that* service has executed that message: a function of the log and of the
//! state alone, whoever leads and however the services are timed. The newest complete checkpoint
//! and the newest snapshot travel with every acknowledgement. The leader looks for what a quorum of
//! the members has at one position; that is agreed, and it travels with every heartbeat. Who has
//! something else at that position is the odd one out, and finds that out by itself.
//!
//! What is agreed stays true: it was said of committed bytes, by a quorum. So it is kept from term
//! to term. If no quorum has the same (both members of two differ, or all of three), then nobody
//! can tell who is right: nothing is quarantined, nobody stops, and the leader says it loudly
//! (`Event::NoAgreement`). To guess would put a sound member out of service half of the time.
//!
//! What is not found: a difference that is gone before the next checkpoint, and one in what a
//! digest does not cover. A service that lags by more than the checkpoints that are remembered is
//! compared again once it is nearer.

use core::time::Duration;

use heapless::Vec;

use crate::limits::MEMBERS_MAX;
use crate::time::Instant;
use crate::units::{MemberId, MemberSet, Position};
use crate::wire::member::Checkpoint;

/// How many checkpoints are remembered, of each member and of what was agreed.
const REMEMBERED: usize = 4;

/// Checkpoints of one origin, positions ascending; the oldest make room.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct Known(Vec<Checkpoint, REMEMBERED>);

impl Known {
    const NONE: Self = Self(Vec::new());

    /// True if that is news. What is older than the newest is none; of one position the last word
    /// counts.
    fn note(&mut self, said: Checkpoint) -> bool {
        match self.0.last_mut() {
            _ if said.position == Position::ZERO => return false,
            Some(last) if last.position > said.position || *last == said => return false,
            Some(last) if last.position == said.position => {
                *last = said;
                return true;
            }
            _ => {}
        }
        if self.0.is_full() {
            self.0.remove(0);
        }
        self.0.push(said).is_ok()
    }

    fn at(&self, position: Position) -> Option<u64> {
        let found = self.0.iter().find(|known| known.position == position);
        found.map(|known| known.digest)
    }

    fn newest(&self) -> Checkpoint {
        self.0.last().copied().unwrap_or_default()
    }
}

/// What members have told of one kind of digest, this one too, and what was agreed.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) struct Digests {
    told: [Known; MEMBERS_MAX],
    agreed: Known,
}

impl Digests {
    const fn new() -> Self {
        Self {
            told: [Known::NONE; MEMBERS_MAX],
            agreed: Known::NONE,
        }
    }

    /// `member` has this; true if that is news.
    pub fn note(&mut self, member: MemberId, has: Checkpoint) -> bool {
        let known = self.told.get_mut(member.slot());
        known.is_some_and(|known| known.note(has))
    }

    /// A quorum has this; true if that is news. The first word counts.
    pub fn note_agreed(&mut self, agreed: Checkpoint) -> bool {
        agreed.position > self.agreed().position && self.agreed.note(agreed)
    }

    /// The newest that `member` has told of.
    pub fn of(&self, member: MemberId) -> Checkpoint {
        let known = self.told.get(member.slot());
        known.map_or_else(Checkpoint::default, Known::newest)
    }

    /// The newest that was agreed.
    pub fn agreed(&self) -> Checkpoint {
        self.agreed.newest()
    }

    fn above_agreed(&self, voters: MemberSet) -> impl Iterator<Item = (MemberId, Checkpoint)> {
        let floor = self.agreed.newest().position;
        let told = voters
            .iter()
            .filter_map(|m| Some((m, self.told.get(m.slot())?)));
        let all = told.flat_map(|(m, known)| known.0.iter().map(move |c| (m, *c)));
        all.filter(move |(_, c)| c.position > floor)
    }

    /// Finds the newest that a quorum of members has, counting those in `voters`; true if that is
    /// news. Work: the square of what all have told.
    pub fn agree(&mut self, voters: MemberSet, quorum: usize) -> bool {
        let alike = |one: Checkpoint| {
            let all = self.above_agreed(voters);
            all.filter(|(_, other)| *other == one).count()
        };
        let agreed = self
            .above_agreed(voters)
            .map(|(_, said)| said)
            .filter(|said| alike(*said) >= quorum)
            .max_by_key(|said| said.position);
        agreed.is_some_and(|agreed| self.note_agreed(agreed))
    }

    /// The newest position above what was agreed at which two of `voters` differ.
    pub fn dispute(&self, voters: MemberSet) -> Option<Position> {
        let differs = |(_, one): &(MemberId, Checkpoint)| {
            self.above_agreed(voters)
                .any(|(_, c)| c.position == one.position && c.digest != one.digest)
        };
        let differing = self.above_agreed(voters).filter(differs);
        differing.map(|(_, said)| said.position).max()
    }

    /// Where `member` has something else than was agreed.
    pub fn differs(&self, member: MemberId) -> Option<Position> {
        let known = self.told.get(member.slot())?;
        let differs = |agreed: &&Checkpoint| {
            let own = known.at(agreed.position);
            own.is_some_and(|own| own != agreed.digest)
        };
        self.agreed.0.iter().find(differs).map(|c| c.position)
    }

    fn forget(&mut self, which: MemberSet) {
        for member in which.iter() {
            if let Some(known) = self.told.get_mut(member.slot()) {
                *known = Known::NONE;
            }
        }
    }
}

/// A checkpoint that not every service has come to.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct Open<const S: usize> {
    position: Position,
    chain: u32,
    digests: [Option<u64>; S],
}

/// A difference that no quorum settles.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
struct Dispute {
    position: Position,
    since: Instant,
    is_told: bool,
}

/// What a node knows of checkpoints and snapshots, its own and the others'.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) struct Checkpoints<const S: usize> {
    /// Below this there is none.
    next: u64,
    open: Vec<Open<S>, REMEMBERED>,
    /// Of the state at checkpoints.
    pub states: Digests,
    /// Of whole snapshots.
    pub snapshots: Digests,
    /// Something was learned that was not compared yet.
    pub news: bool,
    dispute: Option<Dispute>,
}

impl<const S: usize> Checkpoints<S> {
    pub const fn new() -> Self {
        Self {
            next: 0,
            open: Vec::new(),
            states: Digests::new(),
            snapshots: Digests::new(),
            news: false,
            dispute: None,
        }
    }

    /// The consensus module has come from `from` to `to` by one whole message, with the log's
    /// `chain` there: is that a checkpoint?
    #[inline]
    pub fn pass(&mut self, every: u64, from: Position, to: Position, chain: u32) {
        if every != 0 && to.get() >= self.next {
            self.pass_multiple(every, from, to, chain);
        }
    }

    #[inline(never)]
    fn pass_multiple(&mut self, every: u64, from: Position, to: Position, chain: u32) {
        let multiple = |position: Position| position.get() / every;
        self.next = (multiple(to) + 1).saturating_mul(every);
        if multiple(from) == multiple(to) {
            return;
        }
        if self.open.is_full() {
            self.open.remove(0);
        }
        let open = Open {
            position: to,
            chain,
            digests: [None; S],
        };
        // There is room now: it cannot be refused.
        let _kept = self.open.push(open).is_ok();
    }

    /// Up to where the consensus module meets no checkpoint; zero while one waits for a digest.
    pub fn clear_to(&self, every: u64) -> Position {
        match every {
            _ if self.is_open() => Position::ZERO,
            0 => Position::MAX,
            _ => Position::new(self.next),
        }
    }

    /// Whether any service's digest is waited for.
    pub fn is_open(&self) -> bool {
        !self.open.is_empty()
    }

    /// The service in `slot`, of `count`, has this digest at `position`.
    pub fn executed(
        &mut self,
        me: MemberId,
        position: Position,
        (slot, count): (usize, usize),
        digest: u64,
    ) {
        let Some(at) = self.open.iter().position(|o| o.position == position) else {
            return;
        };
        let open = &mut self.open[at];
        if let Some(place) = open.digests.get_mut(slot) {
            *place = Some(digest);
        }
        let all = open.digests.iter().take(count);
        let mixed = all
            .copied()
            .try_fold(mix(1, open.chain.into()), |sum, one| Some(mix(sum, one?)));
        let Some(digest) = mixed else {
            return;
        };
        let position = open.position;
        self.open.remove(at);
        self.news |= self.states.note(me, Checkpoint { position, digest });
    }

    /// A term of this member's own begins: what the others told another leader is old.
    pub fn forget_others(&mut self, others: MemberSet) {
        self.states.forget(others);
        self.snapshots.forget(others);
        self.dispute = None;
    }

    /// This member's state is another one now.
    pub fn forget_own(&mut self, me: MemberId) {
        let mut own = MemberSet::EMPTY;
        own.insert(me);
        self.open.clear();
        self.states.forget(own);
        self.snapshots.forget(own);
    }

    /// Something was told: looks for what a quorum of the members has, and for what none has.
    pub fn agree(&mut self, now: Instant, voters: MemberSet, quorum: usize) {
        let states = self.states.agree(voters, quorum);
        let snapshots = self.snapshots.agree(voters, quorum);
        self.news |= states || snapshots;
        let states = self.states.dispute(voters);
        let position = states.or_else(|| self.snapshots.dispute(voters));
        let before = self.dispute;
        self.dispute = position.map(|position| Dispute {
            position,
            since: before.map_or(now, |before| before.since),
            is_told: before.is_some_and(|before| before.is_told),
        });
    }

    /// Where members have differed for `patience` without a quorum to settle it; said once, until
    /// it is settled. Who has not told yet is waited for, so that a difference of one of three is
    /// not called undecided.
    pub fn undecided(&mut self, now: Instant, patience: Duration) -> Option<Position> {
        let dispute = self.dispute.as_mut()?;
        if dispute.is_told || now.since(dispute.since) < patience {
            return None;
        }
        dispute.is_told = true;
        Some(dispute.position)
    }

    /// This member slept: nobody could tell it anything.
    pub fn excuse(&mut self, later: impl Fn(Instant) -> Instant) {
        if let Some(dispute) = &mut self.dispute {
            dispute.since = later(dispute.since);
        }
    }

    /// Where this member is the odd one out.
    pub fn differs(&self, me: MemberId) -> Option<Position> {
        let states = self.states.differs(me);
        states.or_else(|| self.snapshots.differs(me))
    }
}

/// Order matters, and no digest is lost in another.
fn mix(sum: u64, one: u64) -> u64 {
    (sum.rotate_left(23) ^ one).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

#[cfg(test)]
mod tests {
    extern crate std;

    use super::*;

    fn id(n: u8) -> MemberId {
        MemberId::new(n).unwrap()
    }

    fn said(position: u64, digest: u64) -> Checkpoint {
        let position = Position::new(position);
        Checkpoint { position, digest }
    }

    /// Checkpoints of a log with messages that end there; each service's digest is its number.
    fn passed(ends: &[u64], every: u64) -> std::vec::Vec<Checkpoint> {
        let mut known = Checkpoints::<2>::new();
        let mut found = std::vec::Vec::new();
        let mut before = 0;
        for end in ends {
            known.pass(every, Position::new(before), Position::new(*end), 7);
            for slot in 0..2 {
                known.executed(id(0), Position::new(*end), (slot, 2), slot as u64);
            }
            if core::mem::take(&mut known.news) {
                found.push(known.states.of(id(0)));
            }
            before = *end;
        }
        found
    }

    #[test]
    fn the_first_message_at_or_above_a_multiple_is_a_checkpoint() {
        let ends = [960, 1024, 1056, 2016, 5120, 5152];
        let at: std::vec::Vec<u64> = passed(&ends, 1024)
            .iter()
            .map(|c| c.position.get())
            .collect();
        assert_eq!(
            at,
            [1024, 5120],
            "a message longer than that passes several"
        );
        assert_eq!(passed(&ends, 0), [], "switched off");
    }

    #[test]
    fn it_is_complete_when_the_last_service_has_come_to_it() {
        let mut known = Checkpoints::<3>::new();
        let at = |n: u64| Position::new(n);
        known.pass(64, at(0), at(64), 7);
        known.pass(64, at(64), at(128), 8);
        // The third service is not configured.
        for (slot, position) in [(1, 64), (1, 128), (0, 64)] {
            assert_eq!(known.states.of(id(0)), Checkpoint::default());
            known.executed(id(0), at(position), (slot, 2), position);
        }
        assert_eq!(known.states.of(id(0)).position, at(64));
        known.executed(id(0), at(128), (0, 2), 128);
        assert_eq!(known.states.of(id(0)).position, at(128));
        // Other bytes, and the other service's digest, are another digest.
        let digest = |chain, digests: [u64; 2]| {
            let mut known = Checkpoints::<2>::new();
            known.pass(64, at(0), at(64), chain);
            for (slot, digest) in digests.into_iter().enumerate() {
                known.executed(id(0), at(64), (slot, 2), digest);
            }
            known.states.of(id(0)).digest
        };
        assert_eq!(digest(7, [1, 2]), digest(7, [1, 2]));
        for other in [digest(8, [1, 2]), digest(7, [2, 1]), digest(7, [1, 3])] {
            assert_ne!(digest(7, [1, 2]), other);
        }
    }

    #[test]
    fn a_quorum_at_an_equal_position_agrees_and_the_odd_one_out_differs() {
        let voters = MemberSet::first(3);
        let mut digests = Digests::new();
        assert!(digests.note(id(0), said(64, 1)));
        assert!(digests.note(id(1), said(128, 9)));
        assert!(!digests.agree(voters, 2), "not at one position");
        assert!(digests.note(id(0), said(128, 2)));
        assert!(!digests.agree(voters, 2));
        assert_eq!(digests.dispute(voters), Some(Position::new(128)));
        assert!(digests.note(id(2), said(128, 2)));
        assert!(digests.agree(voters, 2) && !digests.agree(voters, 2));
        assert_eq!(digests.agreed(), said(128, 2));
        assert_eq!(digests.dispute(voters), None);
        assert_eq!(digests.differs(id(1)), Some(Position::new(128)));
        assert_eq!(
            (digests.differs(id(0)), digests.differs(id(2))),
            (None, None)
        );
        assert!(!digests.note(id(0), said(64, 5)), "positions only grow");
        assert!(!digests.note_agreed(said(64, 5)));
    }

    #[test]
    fn who_comes_later_to_what_was_agreed_is_compared_then() {
        let mut digests = Digests::new();
        for n in 1..=5 {
            assert!(digests.note_agreed(said(64 * n, n)));
        }
        assert!(digests.note(id(0), said(192, 3)));
        assert_eq!(digests.differs(id(0)), None);
        assert!(digests.note(id(0), said(256, 3)));
        assert_eq!(digests.differs(id(0)), Some(Position::new(256)));
    }

    #[test]
    fn a_difference_without_a_quorum_is_said_once_and_only_after_a_while() {
        let voters = MemberSet::first(2);
        let at = |ms: u64| Instant::from_nanos(ms * 1_000_000);
        let patience = Duration::from_millis(400);
        let mut known = Checkpoints::<1>::new();
        let mut both = |ms: u64, position: u64, digests: [u64; 2]| {
            for (n, digest) in digests.into_iter().enumerate() {
                known.states.note(id(n as u8), said(position, digest));
            }
            known.agree(at(ms), voters, 2);
            assert_eq!((known.differs(id(0)), known.differs(id(1))), (None, None));
            known.undecided(at(ms), patience)
        };
        assert_eq!(both(0, 64, [1, 2]), None);
        assert_eq!(both(400, 128, [1, 2]), Some(Position::new(128)));
        assert_eq!(both(900, 192, [1, 2]), None, "it was said");
        assert_eq!(both(901, 256, [3, 3]), None);
        assert_eq!(both(902, 320, [1, 2]), None);
        assert_eq!(both(1302, 384, [1, 2]), Some(Position::new(384)));
    }
}
