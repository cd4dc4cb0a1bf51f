//! One member's state goes wrong: a bit of it flips, and nothing else shows it. It must find that
//! out and lead no more, and nobody else may believe it of itself.

use coracle_core::service::Role;

use super::check::{Checked, broken};
use super::world::World;

/// One run in so many has such a member.
const ONE_IN: u64 = 4;

/// What is watched.
#[derive(Clone, Debug, Default)]
pub struct Divergence {
    /// The member whose state is wrong, in which life of its process, and from where on.
    flipped: Option<(usize, u32, u64)>,
    /// What each member showed after the last call: whether it is quarantined, and leads.
    shown: [(bool, bool); 7],
}

impl Divergence {
    /// Whether a member's state was made wrong in this run.
    pub fn is_there(&self) -> bool {
        self.flipped.is_some()
    }
}

impl World {
    /// Makes the state of one member wrong, in runs that have this. Not where an emptied directory
    /// waits to count again: who is left to lead could then lack what only this member has.
    pub(super) fn diverge(&mut self) {
        let members = self.members.len();
        let all_count = self.members.iter().all(|m| !m.is_doomed());
        if !self.plan.seed.is_multiple_of(ONE_IN) || members < 3 || !all_count {
            return;
        }
        let member = (self.plan.seed / ONE_IN) as usize % members;
        let life = self.members[member].life;
        let services = self.plan.services;
        let mut service = (self.plan.seed / 64) as usize % services;
        let m = &mut self.members[member];
        let board = m.board.as_mut().and_then(|b| b.running.as_mut());
        let applied = match (&mut m.process, board) {
            (Some(process), _) => {
                // What one that is away has done since, and the node has not heard of, cannot be
                // told.
                let is_away = |service| process.services.away() == Some(service);
                service = (service + usize::from(is_away(service))) % services;
                if is_away(service) {
                    return;
                }
                process.services.history(service).flipped = 1;
                Some(process.node.applied())
            }
            (None, Some(running)) => {
                running.service.borrow_mut().flipped = 1;
                Some(running.superloop.node().applied())
            }
            (None, None) => None,
        };
        if let Some(applied) = applied.map(|applied| applied.get()) {
            self.divergence.flipped = Some((member, life, applied));
            self.note(member as u8, "goes wrong", applied, service as u64);
        }
    }

    /// After every call.
    pub(super) fn watch_divergence(&mut self, member: usize) -> Checked {
        let Some((is_quarantined, role)) = self.members[member].standing() else {
            return Ok(());
        };
        let leads = role == Role::Leader;
        let shown = &mut self.divergence.shown[member];
        let (was_quarantined, led) = std::mem::replace(shown, (is_quarantined, leads));
        let is_wrong = self.divergence.flipped.is_some_and(|(m, ..)| m == member);
        if is_quarantined && !is_wrong {
            let detail = format!("n{member} is, and its state is the cluster's");
            return broken("Only The Odd One Out Is Quarantined", detail);
        }
        if was_quarantined && is_quarantined && leads && !led {
            return broken("The Quarantined Never Lead", format!("n{member} does"));
        }
        Ok(())
    }

    /// Whether the member that went wrong knows it, if it has had the chance: a checkpoint was
    /// agreed since that it has come to, in the same life.
    pub(super) fn is_divergence_found(&self) -> bool {
        let Some((member, life, applied)) = self.divergence.flipped else {
            return true;
        };
        let m = &self.members[member];
        let Some(shown) = m.shown().filter(|_| m.life == life) else {
            return true;
        };
        let is_due = shown.agreed > applied && shown.applied.get() >= shown.agreed;
        !is_due || shown.is_quarantined
    }
}
