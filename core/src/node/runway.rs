//! The way of nearly all frames that a follower is sent: the next of its joined leader's log, in a
//! datagram with nothing else about it. The same as `receive` does with them, with everything
//! looked at once that no such datagram changes.
//!
//! **Invariant:** what holds for [`Node::runway_anew`] when a runway is laid holds for as long as
//! it lies. Whatever could end that takes it away: all that is not of every day ([`Node::stir`])
//! and the log's cut ([`Node::cut`]); when time is looked at ([`Node::look`]) it is laid anew; a
//! turn of `raft` and a dispute over states, which are noticed later, are asked for each time. What
//! is left can only move its end out: a flush, and the start of a log of which old parts are
//! deleted.

use core::net::{Ipv4Addr, SocketAddr, SocketAddrV4};

use super::Node;
use super::dues::Due;
use crate::log::scan::Common;
use crate::log::{Log, receive_next, segment_end};
use crate::raft::State;
use crate::time::Instant;
use crate::units::{MemberId, Position, Term};

/// Where frames may land one behind the other.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) struct Runway {
    /// They end here at the latest.
    to: Position,
    /// Who sends them: the joined leader.
    leader: MemberId,
    address: SocketAddr,
    /// Who wrote them: that leadership.
    term: Term,
    /// What is in their headers.
    common: Common,
}

impl Runway {
    /// Nothing may land without a closer look.
    pub const NONE: Self = Self {
        to: Position::ZERO,
        leader: MemberId::FIRST,
        address: SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0)),
        term: Term::ZERO,
        common: Common::NONE,
    };
}

impl<const N: usize, const S: usize> Node<N, S> {
    /// Takes a datagram that is the next frames, all of them. False, and nothing has changed, if
    /// there is anything else about it, or about this member.
    #[inline(always)]
    pub(super) fn land_next<L: Log>(
        &mut self,
        now: Instant,
        from: SocketAddr,
        datagram: &[u8],
        log: &mut L,
    ) -> bool {
        self.runway.to > Position::ZERO && self.land(now, from, datagram, log)
    }

    /// Not a part of who calls it: a leader's way of acknowledgements is there too.
    #[inline(never)]
    fn land<L: Log>(
        &mut self,
        now: Instant,
        from: SocketAddr,
        datagram: &[u8],
        log: &mut L,
    ) -> bool {
        #[cfg(test)]
        if super::tests::plain::is_closed() {
            return false;
        }
        let at = log.end();
        let end = at.plus(datagram.len() as u64);
        let runway = &self.runway;
        let has_news = self.raft.has_turned || self.checkpoints.news;
        if end > runway.to || has_news || from != runway.address {
            return false;
        }
        debug_assert!(self.lies_to(end, log));
        if !receive_next(log, runway.common.frames(datagram, at)) {
            return false;
        }
        #[cfg(test)]
        super::tests::plain::note_landed();
        self.raft.handle_frames(now, runway.leader);
        self.lengthened(runway.term, at, end);
        self.dues.add(Due::SAY);
        true
    }

    /// Whether the runway would be laid as it lies, at least up to `end`.
    fn lies_to<L: Log>(&self, end: Position, log: &L) -> bool {
        let anew = self.runway_anew(self.runway.leader, log);
        let to = self.runway.to;
        end <= anew.to && self.runway == Runway { to, ..anew }
    }

    /// Lays it behind the end of the log, as things are now.
    pub(super) fn lay_runway<L: Log>(&mut self, log: &L) {
        self.runway = match self.raft.state() {
            State::Follower(follower) => self.runway_anew(follower.leader, log),
            _ => Runway::NONE,
        };
    }

    /// Behind the end of the log as it is now, for what this member sends.
    ///
    /// That is no further than what `receive` takes without a look at anything but the frames: they
    /// are of the lap, the segment and the term of the first, and within the limit; nothing has
    /// landed ahead of a hole that they fill. And when they have landed nothing is left to ask for:
    /// no hole, and no more of the leader's history.
    pub(super) fn runway_anew<L: Log>(&self, from: MemberId, log: &L) -> Runway {
        let (State::Follower(follower), Some(term)) = (self.raft.state(), self.raft.joined())
        else {
            return Runway::NONE;
        };
        let (at, segment_length) = (log.end(), log.segment_length());
        // The leadership's own run covers all that is to come.
        let last = self.known.as_slice().last();
        let is_known = last.is_some_and(|last| last.term == term && last.base <= at)
            && self.known.covered_to == Position::MAX;
        let is_whole = self.gaps.is_empty() && self.hole.is_none() && self.leader_end <= at;
        let is_busy =
            self.halted.is_some() || self.healing.is_some() || self.history_wanted.is_some();
        let address = self
            .config
            .address(from)
            .filter(|_| follower.leader == from);
        let Some(address) = address.filter(|_| is_known && is_whole && !is_busy) else {
            return Runway::NONE;
        };
        let to = self.limit(log).min(log.lap_end(at));
        Runway {
            to: to.min(segment_end(at, segment_length)),
            leader: from,
            address: address.member,
            term,
            common: Common::of(at, term, segment_length),
        }
    }
}
