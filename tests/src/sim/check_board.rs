//! What only boards are asked: they are looked at after whole turns.

use coracle_core::service::Role;

use super::check::{Checked, Checker, OnMedium, Seen};
use super::ghost::GhostLog;

impl Checker {
    /// The log of a member.
    pub fn log(&self, member: u8) -> &GhostLog {
        &self.member(member).log
    }

    /// The ballot of a member that is on its medium.
    pub fn ballot(&self, member: u8) -> (u32, Option<u8>) {
        self.member(member).ballot
    }

    /// A log was cut in a turn that did not end: nothing above is promised.
    pub fn cut_unseen(&mut self, member: u8, to: u64) {
        let ghost = self.ghost(member);
        ghost.promised = ghost.promised.min(to);
    }

    /// A log was cut in a turn in which more may have been committed afterwards.
    ///
    /// # Errors
    /// It was cut where it must not be.
    pub fn cut_in_turn(&mut self, seen: &Seen) -> Checked {
        let commit = self.member(seen.member).last.map_or(0, |last| last.commit);
        self.check_cut(&Seen { commit, ..*seen })
    }

    /// A member has committed as the leader of a term, and was that no more when its turn ended.
    ///
    /// # Errors
    /// It could not.
    pub fn had_committed(
        &mut self,
        member: u8,
        term: u32,
        commit: u64,
        on_medium: OnMedium<'_>,
    ) -> Checked {
        let last = self.member(member).last;
        let Some(last) = last.filter(|_| commit > self.committed()) else {
            return Ok(());
        };
        let seen = Seen {
            role: Role::Leader,
            joined: term,
            commit,
            ..last
        };
        self.check_leader(&seen)?;
        self.check_commit(&seen, on_medium)
    }
}
