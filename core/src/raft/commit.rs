//! What is committed: what a quorum has on disk (Raft 5.3 and 5.4.2).

use super::{Leader, Progress, Raft, State};
use crate::limits::MEMBERS_MAX;
use crate::planted::Planted;
use crate::units::{MemberSet, Position};

impl Raft {
    /// Raft 5.3 and 5.4.2: the k-th largest durable mark of this term, never past this leader's own
    /// disk, never short of this term's first record.
    #[inline]
    pub fn advance_commit(&mut self) {
        let own = self.acknowledged();
        let State::Leader(leader) = &self.state else {
            return;
        };
        // Nobody else has what is not committed: nearly always so when this one's own flush ends.
        let is_new = leader.foremost > self.commit;
        if own > self.commit && (is_new || self.quorum() == 1) {
            self.commit_what_is_agreed(own);
        }
    }

    /// As [`Raft::advance_commit`], when a follower that counts has just come to have all up to
    /// `mark` on disk. Of two members, or three, this leader and that one are a quorum, and what
    /// was agreed before by another is committed already.
    #[inline(always)]
    pub(super) fn commit_up_to(&mut self, mark: Position) {
        let State::Leader(leader) = &self.state else {
            return;
        };
        let agreed = mark.min(self.acknowledged());
        match leader.barrier {
            Some(barrier) if self.quorum() == 2 => {
                let is_past = agreed >= barrier || Planted::DropTheOwnTermBarrier.is_active();
                if is_past && agreed > self.commit {
                    self.commit = agreed;
                }
            }
            _ => self.advance_commit(),
        }
    }

    /// How many have to have what is committed, this leader among them.
    #[inline]
    fn quorum(&self) -> usize {
        let minority = usize::from(Planted::CommitWithAMinority.is_active());
        (self.members.quorum() - minority).max(1)
    }

    #[inline(never)]
    fn commit_what_is_agreed(&mut self, own: Position) {
        let State::Leader(leader) = &self.state else {
            return;
        };
        let quorum = self.quorum();
        let others = self.others();
        let agreed = match quorum {
            // Of two members, or three: this one, and whichever other has more.
            2 => leader.marks(others).max().unwrap_or(Position::ZERO),
            _ => leader.agreed(others, quorum, own, self.commit),
        };
        let agreed = agreed.min(own);
        if agreed <= self.commit {
            return;
        }
        let barrier = match leader.barrier {
            Some(end) => end,
            None if Planted::DropTheOwnTermBarrier.is_active() => Position::ZERO,
            None => return,
        };
        if agreed >= barrier || Planted::DropTheOwnTermBarrier.is_active() {
            self.commit = agreed;
        }
    }
}

impl Leader {
    /// What those have on disk that count.
    fn marks(&self, others: MemberSet) -> impl Iterator<Item = Position> {
        let counts = |p: &&Progress| p.joined && p.counts;
        let all = others.iter().filter_map(|member| self.of(member));
        all.filter(counts).map(|p| p.durable)
    }

    /// What so many have at least, with this one's `own`; no less than `commit` is looked for.
    fn agreed(
        &self,
        others: MemberSet,
        quorum: usize,
        own: Position,
        commit: Position,
    ) -> Position {
        // The largest marks above what is committed, as many as a quorum, in descending order.
        let mut best = [Position::ZERO; MEMBERS_MAX];
        let best = best.get_mut(..quorum).unwrap_or_default();
        if let Some(first) = best.first_mut() {
            *first = own;
        }
        for mut mark in self.marks(others).filter(|mark| *mark > commit) {
            for place in &mut *best {
                if mark > *place {
                    core::mem::swap(place, &mut mark);
                }
            }
        }
        best.last().copied().unwrap_or(Position::ZERO)
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{ack, at, id, leader, tail};
    use super::*;
    use crate::prng::Prng;

    /// The short way for a quorum of two is the long one's.
    #[test]
    fn a_quorum_of_two_is_this_leader_and_the_best_of_the_others() {
        let mut prng = Prng::new(3);
        for _ in 0..2_000 {
            let mut raft = leader(tail(1, 640), 9600);
            let mut mark = || Position::new(prng.next() % 300 * 32);
            let (own, commit) = (mark(), mark());
            for follower in [1, 2] {
                let mut said = ack(raft.term().get(), 9600);
                said.durable = mark();
                raft.handle_append(at(400), id(follower), &said, true);
            }
            let (others, State::Leader(leader)) = (raft.others(), raft.state()) else {
                panic!("it leads");
            };
            let short = leader.marks(others).max().unwrap_or(Position::ZERO);
            let long = leader.agreed(others, 2, own, commit);
            assert_eq!(short.min(own).max(commit), long.min(own).max(commit));
        }
    }
}
