//! What a node is made of when it begins: what its parts are told of its configuration, and of
//! what its storage holds.

use core::time::Duration;

use super::host::Host;
use super::{Config, clients};
use crate::limits::ENDPOINTS_MAX;
use crate::log::{NodeState, Recovered};
use crate::raft::{Ballot, Start};
use crate::time::Instant;
use crate::units::ServiceId;
use crate::wire::member::TermBase;

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
