//! Facts in: datagrams, time, storage's answers, and the work they make.

use core::net::SocketAddr;

use super::clients::{Admission, Memory, Resolve, ResolveId, Unused, View};
use super::dues::Due;
use super::{
    Consumer, Door, Halt, Lent, Node, RESERVE, ReadError, Recall, Reject, SnapshotRefusal,
};
use crate::limits::SERVICES_MAX;
use crate::log::{Bounded, Log};
use crate::raft::State;
use crate::service::Role;
use crate::session::Authenticator;
use crate::stream::is_same;
use crate::time::{Instant, Now};
use crate::units::{MemberId, Position};
use crate::wire;
use crate::wire::frame::{DataFrame, DataHeader, names_stream};
use crate::wire::member::said_by;
use crate::wire::status::{STATUS_STREAM_ID, StatusQuery, StatusReport};

impl<const N: usize, const S: usize> Node<N, S> {
    /// A datagram has arrived. Whatever it holds, the work is bounded by its length and by the
    /// frames that waited for it.
    ///
    /// # Errors
    /// Why it was not taken; it has been counted, and nothing else has changed. Of a client's it
    /// may be what follows good frames, which were.
    pub fn handle_datagram<L: Log>(
        &mut self,
        now: Now,
        door: Door,
        from: SocketAddr,
        datagram: &[u8],
        lent: &mut Lent<'_, L>,
    ) -> Result<(), Reject> {
        if self.dues.have_come(now.instant) {
            if self.halted.is_some() {
                return Err(Reject::Halted);
            }
            self.look(now, lent);
        }
        let result = match door {
            Door::Client => self.handle_client(now, from, datagram, lent),
            Door::Member
                if self.land_next(now.instant, from, datagram, lent.log)
                    || self.hear_marks(now.instant, from, datagram) =>
            {
                return Ok(());
            }
            Door::Member => match self.member_at(from, datagram) {
                Some(member) if member != self.config.member => {
                    self.handle_member(now, member, datagram, lent)
                }
                _ => Err(Reject::Unlisted),
            },
        };
        self.settle(now, lent.log);
        match result {
            Err(Reject::Wire(_)) => self.counters.malformed += 1,
            Err(Reject::Unlisted) => self.counters.unlisted += 1,
            Err(Reject::Foreign) => self.counters.foreign += 1,
            _ => {}
        }
        result
    }

    /// Sees the clocks. What this member slept through is left out before anything is taken: what
    /// it hears first would else find it unwell.
    #[inline(never)]
    pub(super) fn look<L: Log>(&mut self, now: Now, lent: &Lent<'_, L>) {
        self.see_memory(lent);
        if let Some(slept) = self.raft.look(now.instant) {
            self.excuse(now.instant, slept);
        }
        self.see(now);
        self.lay_runway(&*lent.log);
    }

    /// Which member speaks: by its address, which is compared first with that of whom it must be.
    #[inline]
    fn member_at(&self, from: SocketAddr, datagram: &[u8]) -> Option<MemberId> {
        let likely = match self.raft.state() {
            State::Follower(follower) => Some(follower.leader),
            _ => said_by(datagram),
        };
        let likely = likely.filter(|member| self.is_at(*member, from));
        likely.or_else(|| self.config.member_at(from))
    }

    /// Whether that is the member's address.
    #[inline(always)]
    pub(super) fn is_at(&self, member: MemberId, address: SocketAddr) -> bool {
        match self.config.address(member) {
            Some(known) => is_same(&known.member, &address),
            None => false,
        }
    }

    /// From a client. What is nearly always said, messages of a session of this leader, is taken
    /// first; all else is the rest.
    fn handle_client<L: Log>(
        &mut self,
        now: Now,
        from: SocketAddr,
        datagram: &[u8],
        lent: &mut Lent<'_, L>,
    ) -> Result<(), Reject> {
        let before = lent.log.end();
        let mut taken = 0;
        if self.dues.clients_to > before {
            debug_assert_eq!(self.view(), View::Leading);
            debug_assert!(self.dues.clients_to <= self.clients_end(lent.log.capacity()));
            let timestamp = self.timestamp(now);
            let mut log = Bounded::new(&mut *lent.log, self.dues.clients_to);
            taken = self
                .clients
                .take_alike(now.instant, from, datagram, timestamp, &mut log);
        }
        let result = match datagram.get(taken..) {
            Some([]) if taken > 0 => Ok(()),
            rest => self.handle_client_rest(now, from, rest.unwrap_or_default(), lent),
        };
        let end = lent.log.end();
        if end > before {
            self.grown(self.raft.term(), before, end);
        }
        // A snapshot may be due, for what the log has grown.
        if end >= self.dues.clients_to || !self.clients.is_quiet_to_admit() {
            self.dues.add(Due::INGRESS);
        }
        self.halt_if(self.clients.broken());
        result
    }

    #[inline(never)]
    fn handle_client_rest<L: Log>(
        &mut self,
        now: Now,
        from: SocketAddr,
        datagram: &[u8],
        lent: &mut Lent<'_, L>,
    ) -> Result<(), Reject> {
        let is_status = |header: DataHeader| header.stream_id == STATUS_STREAM_ID;
        if names_stream(datagram, STATUS_STREAM_ID)
            && DataHeader::parse(datagram).is_ok_and(is_status)
        {
            let frame = DataFrame::parse(datagram).map_err(Reject::Wire)?;
            let query = StatusQuery::parse_frame(&frame).map_err(Reject::Wire)?;
            let reply = self.status_replies.push((from, query.correlation));
            self.dues.add(Due::RARELY);
            return reply.map_err(|_| Reject::Wire(wire::Reject::Amplification));
        }
        let mut memory = memory(lent.ingress, lent.egress, lent.reassembly);
        let view = self.view();
        if view != View::Leading {
            let clients = &mut self.clients;
            let taken = clients.handle_datagram(now.instant, from, datagram, &mut memory);
            self.dues.add(Due::INGRESS);
            return taken.map_err(Reject::Client);
        }
        let end = self.clients_end(lent.log.capacity());
        self.dues.clients_to = end.min(self.snapshot_from());
        let admission = Admission {
            view,
            timestamp: self.timestamp(now),
            snapshot: self.may_snapshot().map_err(SnapshotRefusal::text),
            endpoints: &self.endpoints,
        };
        let mut log = Bounded::new(&mut *lent.log, end);
        let taken = self.clients.handle_datagram_leading(
            now.instant,
            from,
            datagram,
            &admission,
            &mut log,
            &mut memory,
        );
        taken.map_err(Reject::Client)
    }

    /// How far what clients say may fill the log. What is refused for want of room stays in the
    /// client's own window.
    fn clients_end(&self, capacity: u64) -> Position {
        let room = match self.raft.admits() {
            true => capacity.saturating_sub(RESERVE),
            false => 0,
        };
        let (clients_end, _) = self.disk_limits();
        self.applier.position.plus(room).min(clients_end)
    }

    /// Moves time on. Call it at `poll_timeout`, and after `handle_persisted` and `handle_durable`;
    /// at any other time it does no harm. Bounded by members and sessions.
    pub fn handle_timeout<L: Log>(&mut self, now: Now, lent: &mut Lent<'_, L>) {
        if self.dues.have_come(now.instant) {
            self.pass_time(now, lent);
        }
    }

    /// Consumes what clients have sent, as far as there is room for it in the log: a bounded number
    /// of fragments. True if there may be more to do at once.
    pub fn poll_ingress<L: Log>(
        &mut self,
        now: Now,
        auth: &mut impl Authenticator,
        lent: &mut Lent<'_, L>,
    ) -> bool {
        if self.dues.have_come(now.instant) {
            if self.halted.is_some() {
                return false;
            }
            self.look(now, lent);
        } else if !self.dues.has(Due::INGRESS) {
            self.clients.renew();
            return false;
        }
        if self.clients.is_quiet_to_admit() && !self.may_originate(now) {
            self.dues.done(Due::INGRESS);
            self.clients.renew();
            return false;
        }
        let before = lent.log.end();
        let capacity = lent.log.capacity();
        let (clients_end, own_end) = self.disk_limits();
        let room = self
            .applier
            .position
            .plus(capacity.saturating_sub(RESERVE / 2));
        // A snapshot makes room: its action may take what is kept from all else.
        let mut more = false;
        if let Some(term) = self.originating() {
            let mut log = Bounded::new(&mut *lent.log, room.min(own_end));
            self.originate_actions(now, term, &mut log);
            let mut log = Bounded::new(&mut *lent.log, room.min(clients_end));
            more = self.originate(now, term, &mut log, lent.services);
            if lent.log.end() > before {
                // Other timers are the next.
                self.dues.come_at(Instant::from_nanos(0));
            }
        }
        match self.clients.is_quiet_to_admit() {
            true => self.clients.renew(),
            false => more |= self.admit(now, auth, lent),
        }
        let end = lent.log.end();
        if end > before {
            self.grown(self.raft.term(), before, end);
        }
        self.halt_if(self.clients.broken());
        more
    }

    /// What clients have sent. What is refused here for want of room stays in the client's own
    /// window.
    fn admit<L: Log>(
        &mut self,
        now: Now,
        auth: &mut impl Authenticator,
        lent: &mut Lent<'_, L>,
    ) -> bool {
        let admission = Admission {
            view: self.view(),
            timestamp: self.timestamp(now),
            snapshot: self.may_snapshot().map_err(SnapshotRefusal::text),
            endpoints: &self.endpoints,
        };
        let end = self.clients_end(lent.log.capacity());
        let mut log = Bounded::new(&mut *lent.log, end);
        let mut memory = memory(lent.ingress, lent.egress, lent.reassembly);
        let more = self
            .clients
            .poll_admit(now.instant, &admission, &mut log, &mut memory, auth);
        if self.clients.take_snapshot_asked() {
            // It was told that this can be done.
            let _begun = self.request_snapshot().is_ok();
        }
        more
    }

    fn view(&self) -> View {
        let term = self.raft.term();
        match self.raft.leader() {
            Some(leader) if leader != self.config.member => View::Following { leader, term },
            Some(_) if self.clients.leading() == Some(term) => View::Leading,
            _ => View::Unknown,
        }
    }

    /// The driver has read the bytes that `poll_recall` asked for: so many, at the start of the
    /// consumer's buffer. If the log was cut since it was asked for, they are dropped, and asked
    /// for again.
    pub fn handle_recalled(&mut self, recall: Recall, result: Result<usize, ReadError>) {
        self.stir();
        if !matches!(recall.consumer, Consumer::Replay | Consumer::Repair) {
            self.forget_staged();
        }
        if matches!(recall.consumer, Consumer::Snapshot { .. }) {
            return self.snapshot_recalled(recall, result);
        }
        if recall.consumer == Consumer::Repair {
            return self.repair_recalled(recall, result);
        }
        // What a follower wanted may have been purged while it was read.
        let is_purged = recall.consumer != Consumer::Replay && recall.at < self.start.base;
        if self.sources.is_stale(&recall) || is_purged {
            // Whatever the buffer held before is gone as well.
            self.sources.recalled(recall, 0);
            return;
        }
        match result {
            Ok(len) if len > 0 && recall.consumer == Consumer::Annals => {
                self.annals_recalled(recall, len);
            }
            Ok(len) if len > 0 => self.sources.recalled(recall, len),
            // A member that cannot read its own log can neither execute it nor serve it.
            Ok(_) | Err(ReadError) => self.halt(Halt::CorruptLog(recall.at)),
        }
    }

    /// Have clients said so much since the last `poll_ingress` that a driver had better come to
    /// that before it receives more from them? If it does not, more bytes are copied once more.
    pub fn is_fed(&self) -> bool {
        self.clients.is_fed()
    }

    /// Stream memory that holds nothing, if streams have touched more than `keep` bytes of what
    /// they are lent: a driver may give it back to its system. See `Clients::poll_unused`.
    pub fn poll_unused<L: Log>(&mut self, keep: u64, lent: &Lent<'_, L>) -> Option<Unused> {
        let (ingress, egress) = (lent.ingress.len(), lent.egress.len());
        self.clients.poll_unused(keep, ingress, egress)
    }

    /// A host name in a client's response channel that the driver shall resolve.
    pub fn poll_resolve(&mut self) -> Option<Resolve> {
        self.clients.poll_resolve()
    }

    /// The answer to `poll_resolve`: `None` if the name has no address.
    pub fn handle_resolved(&mut self, id: ResolveId, address: Option<SocketAddr>) {
        self.stir();
        self.clients.handle_resolved(id, address);
    }

    pub(super) fn report(&self, correlation: u64) -> StatusReport {
        let status = self.status();
        let counters = &self.counters;
        let mut services = [None; SERVICES_MAX];
        for (applied, service) in services.iter_mut().zip(self.services()) {
            *applied = Some(service.applied);
        }
        StatusReport {
            correlation,
            cluster: self.config.cluster,
            incarnation: status.incarnation,
            member: status.member,
            role: match status.role {
                Role::Follower => wire::status::Role::Follower,
                Role::Candidate => wire::status::Role::Candidate,
                Role::Leader => wire::status::Role::Leader,
            },
            term: status.term,
            leader: status.leader,
            sessions: status.sessions,
            start: status.start,
            appended: status.appended,
            durable: status.durable,
            commit: status.committed,
            applied: status.applied,
            digest: status.digest,
            window: 0,
            leaderships: counters.elections as u32,
            rejects: counters.malformed + counters.unlisted + counters.foreign,
            uptime_ms: 0,
            votes: status.votes,
            service_ready: self.applier.ready,
            quarantined: status.quarantined,
            snapshot: status.snapshot,
            snapshot_failed: status.snapshot_failed,
            flush_age_ms: status.flush_age_ms,
            log_full: status.log_full,
            service_age_ms: status.service_age_ms,
            settings_differ: status.settings_differ,
            services,
        }
    }
}

/// The part of the lent memory that clients are served from.
pub(super) fn memory<'a>(
    ingress: &'a mut [u8],
    egress: &'a mut [u8],
    reassembly: &'a mut [u8],
) -> Memory<'a> {
    Memory {
        ingress,
        egress,
        reassembly,
    }
}
