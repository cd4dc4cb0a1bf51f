//! What a node is made of when it begins: what its parts are told of its configuration, and of
//! what its storage holds.

use core::time::Duration;

use super::apply::Applier;
use super::checkpoint::Checkpoints;
use super::clients::Clients;
use super::dues::Dues;
use super::health::Health;
use super::host::Host;
use super::repair::Healing;
use super::roster::Heard;
use super::runway::Runway;
use super::settings::Shared;
use super::snapshot::Snapshots;
use super::sources::Sources;
use super::transmit::Sweep;
use super::{Config, ConfigError, Counters, Halt, Node, clients};
use crate::limits::ENDPOINTS_MAX;
use crate::log::{Gaps, History, NodeState, Recovered, Roster};
use crate::planted::Planted;
use crate::raft::{Ballot, Raft, Start};
use crate::service::Role;
use crate::time::{Instant, Now, Timestamp};
use crate::units::{ClusterId, Incarnation, MemberId, MemberSet, Position, ServiceId, Tail, Term};
use crate::wire::member::{HistorySlice, Sender, TermBase};

fn clients_config(config: &Config) -> clients::ClientsConfig {
    clients::ClientsConfig {
        member: config.member,
        mtu: config.egress_mtu,
        log_mtu: config.mtu,
        egress_segment_length: config.segment_length,
        message_max: config.message_max + crate::wire::cluster::SESSION_HEADER_LENGTH,
        sessions_max: config.sessions_max,
        session_timeout: config.sessions.session_timeout,
        egress_timeout: config.sessions.egress_timeout,
        connect_timeout: Duration::from_secs(5),
        seed: config.seed ^ 0x636c_6965_6e74,
    }
}

fn raft_start(config: &Config, state: &NodeState, votes: bool, recovered: &Recovered) -> Start {
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

/// One at a time: each is long.
fn begin_hosts<const N: usize, const S: usize>(
    hosts: &mut heapless::Vec<Host<N>, S>,
    count: usize,
    now: Instant,
) {
    hosts.clear();
    let ids = (0..=u8::MAX).map_while(ServiceId::new);
    for id in ids.take(count.min(S)) {
        // There is room for `S`.
        let _kept = hosts.push(Host::new(id, now)).is_ok();
    }
}

/// The oldest byte of a log as it was recovered.
fn log_start(recovered: &Recovered) -> TermBase {
    let base = recovered.start.position;
    let term = recovered.history.term_at(base);
    TermBase {
        term: term.unwrap_or(recovered.start.term),
        base,
    }
}

fn write_endpoints(list: &mut heapless::String<ENDPOINTS_MAX>, config: &Config) {
    use core::fmt::Write;
    list.clear();
    for member in config.member_set().iter() {
        let Some(address) = config.address(member) else {
            continue;
        };
        let comma = if list.is_empty() { "" } else { "," };
        // `ENDPOINTS_MAX` has room for every member's longest endpoint.
        let _fits = write!(list, "{comma}{member}={}", address.ingress).is_ok();
    }
}

/// How a node starts of which nothing is known.
const NOWHERE: Start = Start {
    me: MemberId::FIRST,
    members: MemberSet::EMPTY,
    votes: false,
    torn: false,
    damaged: false,
    ballot: Ballot {
        term: Term::ZERO,
        vote: None,
    },
    tail: Tail {
        term: Term::ZERO,
        end: Position::ZERO,
    },
    flushed: Position::ZERO,
    timing: Config::NONE.timing,
    seed: 0,
};

const EARLIEST: Instant = Instant::from_nanos(0);

impl<const N: usize, const S: usize> Node<N, S> {
    /// Room for a member, for instance a `static`: it has [halted](Halt::NotBegun), and does
    /// nothing before it is told to [begin](Self::begin).
    pub const fn vacant() -> Self {
        Self {
            config: Config::NONE,
            sender: Sender {
                cluster: ClusterId(0),
                incarnation: Incarnation::FIRST,
                member: MemberId::FIRST,
            },
            votes: false,
            raft: Raft::new(NOWHERE, EARLIEST),
            history: History::new(),
            gaps: Gaps::new(),
            known: HistorySlice::EMPTY,
            history_wanted: None,
            annals: None,
            hole: None,
            leader_end: Position::ZERO,
            clients: Clients::vacant(),
            endpoints: heapless::String::new(),
            applier: Applier::new(),
            hosts: heapless::Vec::new(),
            snapshots: Snapshots::new(EARLIEST),
            checkpoints: Checkpoints::new(),
            health: Health::new(EARLIEST, false),
            shared: Shared::NONE,
            receiving: None,
            serving: None,
            healing: None,
            mending: None,
            start: TermBase {
                term: Term::ZERO,
                base: Position::ZERO,
            },
            sources: Sources::new(),
            clock: Now {
                instant: EARLIEST,
                wall: Timestamp(0),
            },
            roster: Roster::FIRST,
            heard: Heard::new(Position::ZERO, false),
            status_replies: heapless::Vec::new(),
            events: heapless::Vec::new(),
            counters: Counters::ZERO,
            halted: Some(Halt::NotBegun),
            role_seen: Role::Follower,
            dues: Dues::ALL,
            runway: Runway::NONE,
            sweep: Sweep::NONE,
        }
    }

    /// Starts, or starts again, with what its storage holds, in the place where it is. Whatever
    /// this node was before is forgotten, unless an error says that it stays what it is.
    ///
    /// # Errors
    /// See [`ConfigError`].
    #[inline(never)]
    pub fn begin(
        &mut self,
        config: Config,
        mut state: NodeState,
        recovered: &Recovered,
        now: Now,
    ) -> Result<(), ConfigError> {
        config.check()?;
        if config.services > S {
            return Err(ConfigError::Services);
        }
        if state.cluster != config.cluster || state.member != config.member {
            return Err(ConfigError::WrongNodeState);
        }
        // A term is on disk before the first byte that is written in it (Raft 5.4: a vote may have
        // been forgotten otherwise).
        if recovered.tail.term.max(recovered.joined) > state.term {
            return Err(ConfigError::StateBehindLog);
        }
        if Planted::AnEmptyDirectoryVotes.is_active() {
            (state.votes, state.incarnation) = (true, Incarnation::FIRST);
        }
        self.config = config;
        write_endpoints(&mut self.endpoints, &self.config);
        self.events.clear();
        self.become_anew(&state, recovered, now);
        Ok(())
    }

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

    /// One part after the other, each in its place: all at once they need as much stack as there
    /// is memory. All of them are named here, so that none is forgotten.
    #[inline(never)]
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
            dues,
            sweep,
            runway,
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
        clients.begin(clients_config(config));
        *applier = Applier::new();
        begin_hosts(own_hosts, config.services, now.instant);
        *snapshots = Snapshots::new(now.instant);
        *checkpoints = Checkpoints::new();
        *health = Health::new(now.instant, state.quarantined);
        *shared = Shared::NONE;
        (*receiving, *serving, *mending) = (None, None, None);
        *healing = Healing::of(recovered, config.member, now.instant);
        *start = log_start(recovered);
        *sources = Sources::new();
        *heard = Heard::new(state.roster.at, *votes);
        status_replies.clear();
        *counters = Counters::ZERO;
        (*halted, *role_seen) = (None, Role::Follower);
        (*dues, *sweep, *runway) = (Dues::ALL, Sweep::NONE, Runway::NONE);
    }
}
