//! Settings that all members must share: a member with others than its leader does not join it.
//!
//! A leader tells its own with `NewLeadershipTerm`. Whoever would execute the log otherwise (other
//! limits answer a service otherwise), have other bytes in it (segments, frames), or could not hold
//! it (a smaller bound) stays out: it acknowledges nothing, stores nothing and executes nothing,
//! and says which settings differ. To join and be found out by its digests later would be too late:
//! by then it has answered clients, or has led.
//!
//! It goes on to vote, for its log is sound as far as it goes. It stands for election as long as
//! nobody knows whose settings are the cluster's. Once a leader has committed something in its term
//! a quorum shares its settings, so this member is the odd one out, and stands no more: the others
//! would refuse it, and every attempt would cost them an election. It does so again when it hears a
//! leader whose settings are its own: the others have been changed as well.
//!
//! A member is not asked what it thinks of a snapshot policy or of timings: these may differ.

use super::{Event, Node};
use crate::log::Log;
use crate::node::Lent;
use crate::time::Instant;
use crate::units::{MemberId, Term};
use crate::wire::member::{NewLeadershipTerm, SettingSet, SharedSettings};

/// What a node knows of the settings that must be shared.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) struct Shared {
    /// How much memory services are lent, in bytes: it is seen with each call.
    service_memory: u64,
    /// The leader that is not joined, and by which settings this member differs from it.
    refused: Option<(MemberId, Term, SettingSet)>,
    /// A quorum has other settings than this member.
    is_odd: bool,
}

impl Shared {
    /// Nothing.
    pub const NONE: Self = Self {
        service_memory: 0,
        refused: None,
        is_odd: false,
    };
}

impl<const N: usize, const S: usize> Node<N, S> {
    /// The settings by which this member differs from its leader, and therefore does not join it.
    pub fn differing_settings(&self) -> SettingSet {
        let refused = self.shared.refused;
        refused.map_or(SettingSet::NONE, |(_, _, settings)| settings)
    }

    /// This member's own settings, as it tells them when it leads.
    pub fn shared_settings(&self) -> SharedSettings {
        let config = &self.config;
        let number = |value: usize| u32::try_from(value).unwrap_or(u32::MAX);
        SharedSettings {
            segment_length: config.segment_length,
            mtu: number(config.mtu),
            message_max: number(config.message_max),
            sessions_max: number(self.clients.session_limit()),
            services: number(config.services),
            app_version: config.app.version,
            service_memory: self.shared.service_memory,
            checkpoint_every: config.checkpoint_every,
            log_max: config.log_max,
        }
    }

    /// Sees how much memory there is for services.
    pub(super) fn see_memory<L: Log>(&mut self, lent: &Lent<'_, L>) {
        self.shared.service_memory = lent.services.len() as u64;
    }

    /// Whether this member may join a leader, by what that says of its settings.
    pub(super) fn shares_settings(
        &mut self,
        now: Instant,
        leader: MemberId,
        said: &NewLeadershipTerm,
    ) -> bool {
        let own = self.shared_settings();
        let differing = own.differing(&said.settings);
        if differing.is_empty() {
            self.shared.refused = None;
            self.set_odd(now, false);
            return true;
        }
        let refused = Some((leader, said.term, differing));
        if self.shared.refused != refused {
            self.shared.refused = refused;
            for setting in differing.iter() {
                self.event(Event::SettingDiffers {
                    leader,
                    setting,
                    own: own.get(setting),
                    theirs: said.settings.get(setting),
                });
            }
        }
        // What a leader commits in its own term, a quorum has acknowledged to it.
        let first = said.history.as_slice().last();
        let is_led = first.is_some_and(|e| e.term == said.term && e.base < said.commit);
        if is_led {
            self.set_odd(now, true);
        }
        self.receiving = None;
        false
    }

    fn set_odd(&mut self, now: Instant, is_odd: bool) {
        if self.shared.is_odd != is_odd {
            self.shared.is_odd = is_odd;
            self.set_fitness(now);
        }
    }

    /// Whether this member may lead, for all that is known here.
    pub(super) fn set_fitness(&mut self, now: Instant) {
        let unfit = self.is_quarantined() || self.shared.is_odd;
        self.raft.set_unfit(now, unfit);
        self.stir();
    }
}
