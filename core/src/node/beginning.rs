//! What a node is made of when it begins: what its parts are told of its configuration, and of
//! what its storage holds.

use core::time::Duration;

use super::apply::Applier;
use super::checkpoint::Checkpoints;
use super::clients::Clients;
use super::health::Health;
use super::host::Host;
use super::repair::Healing;
use super::roster::Heard;
use super::settings::Shared;
use super::snapshot::Snapshots;
use super::sources::Sources;
use super::transmit::Sweep;
use super::{Config, ConfigError, Counters, Node, clients};
use crate::limits::ENDPOINTS_MAX;
use crate::log::{Gaps, NodeState, Recovered};
use crate::raft::{Ballot, Raft, Start};
use crate::service::Role;
use crate::time::{Instant, Now};
use crate::units::{Position, ServiceId};
use crate::wire::member::{HistorySlice, Sender, TermBase};

pub(super) fn clients_config(config: &Config) -> clients::ClientsConfig {
    clients::ClientsConfig {
        member: config.member,
        mtu: config.egress_mtu,
        egress_segment_length: config.segment_length,
        message_max: config.message_max + crate::wire::cluster::SESSION_HEADER_LENGTH,
        sessions_max: config.sessions_max,
        session_timeout: config.sessions.session_timeout,
        egress_timeout: config.sessions.egress_timeout,
        connect_timeout: Duration::from_secs(5),
        leader_heartbeat_timeout: config.timing.leader_timeout,
        seed: config.seed ^ 0x636c_6965_6e74,
    }
}

pub(super) fn raft_start(
    config: &Config,
    state: &NodeState,
    votes: bool,
    recovered: &Recovered,
) -> Start {
    Start {
        me: config.member,
        members: config.member_set(),
        votes,
        torn: recovered.torn,
        damaged: recovered.corrupt.is_some(),
        ballot: Ballot {
            term: state.term,
            vote: state.vote,
        },
        tail: recovered.tail,
        flushed: recovered.confirmed,
        timing: config.timing,
        seed: config.seed,
    }
}

pub(super) fn hosts<const N: usize, const S: usize>(
    count: usize,
    now: Instant,
) -> heapless::Vec<Host<N>, S> {
    let ids = (0..=u8::MAX).map_while(ServiceId::new);
    let hosts = ids.take(count.min(S));
    hosts.map(|id| Host::new(id, now)).collect()
}

/// The oldest byte of a log as it was recovered.
pub(super) fn log_start(recovered: &Recovered) -> TermBase {
    let base = recovered.start.position;
    let term = recovered.history.term_at(base);
    TermBase {
        term: term.unwrap_or(recovered.start.term),
        base,
    }
}

pub(super) fn endpoints(config: &Config) -> heapless::String<ENDPOINTS_MAX> {
    use core::fmt::Write;
    let mut list = heapless::String::new();
    for member in config.member_set().iter() {
        let Some(address) = config.address(member) else {
            continue;
        };
        let comma = if list.is_empty() { "" } else { "," };
        // `ENDPOINTS_MAX` has room for every member's longest endpoint.
        let _fits = write!(list, "{comma}{member}={}", address.ingress).is_ok();
    }
    list
}

impl<const N: usize, const S: usize> Node<N, S> {
    /// The same as [`Self::new`] with the configuration that it has and another seed, in its place:
    /// for who has no room for two. If it fails, what it was is lost as well.
    ///
    /// # Errors
    /// See [`ConfigError`].
    #[inline(never)]
    pub fn begin_anew(
        &mut self,
        seed: u64,
        state: NodeState,
        recovered: &Recovered,
        now: Now,
    ) -> Result<(), ConfigError> {
        if recovered.tail.term.max(recovered.joined) > state.term {
            return Err(ConfigError::StateBehindLog);
        }
        self.config.seed = seed;
        self.become_anew(&state, recovered, now);
        Ok(())
    }

    /// What `Node::new` makes, one part after the other. All of them are named here, so that none
    /// is forgotten.
    fn become_anew(&mut self, state: &NodeState, recovered: &Recovered, now: Now) {
        self.sender = Sender {
            cluster: self.config.cluster,
            incarnation: state.incarnation,
            member: self.config.member,
        };
        let Self {
            config,
            sender: _,
            votes,
            raft,
            history,
            gaps,
            known,
            history_wanted,
            annals,
            hole,
            leader_end,
            clients,
            endpoints: _,
            applier,
            hosts: own_hosts,
            snapshots,
            checkpoints,
            health,
            shared,
            receiving,
            serving,
            healing,
            mending,
            start,
            sources,
            clock,
            roster,
            heard,
            status_replies,
            events: _,
            counters,
            halted,
            role_seen,
            sweep,
        } = self;
        *votes = state.votes;
        let began = raft_start(config, state, *votes, recovered);
        *raft = Raft::new(began, now.instant);
        raft.set_unfit(now.instant, state.quarantined);
        history.clone_from(&recovered.history);
        *gaps = Gaps::new();
        *known = HistorySlice::EMPTY;
        (*history_wanted, *annals, *hole) = (None, None, None);
        (*leader_end, *clock, *roster) = (Position::ZERO, now, state.roster);
        *clients = Clients::new(clients_config(config));
        *applier = Applier::new();
        *own_hosts = hosts(config.services, now.instant);
        *snapshots = Snapshots::new(now.instant);
        *checkpoints = Checkpoints::new();
        *health = Health::new(now.instant, state.quarantined);
        *shared = Shared::default();
        (*receiving, *serving, *mending) = (None, None, None);
        *healing = Healing::of(recovered, config.member, now.instant);
        *start = log_start(recovered);
        *sources = Sources::new();
        *heard = Heard::new((state.roster.at, *votes));
        status_replies.clear();
        *counters = Counters::default();
        (*halted, *role_seen) = (None, Role::Follower);
        *sweep = Sweep::default();
    }
}
