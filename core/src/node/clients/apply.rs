//! What committed records do to the table, and what a change of role does to everything else.

use core::net::SocketAddr;

use crate::broken::Broken;
use crate::list;
use crate::node::clients::ingress::Owner;
use crate::node::clients::link::{Answer, Greeting, Live, Stage};
use crate::node::clients::{Clients, Memory};
use crate::session::connect::Refusal;
use crate::session::{Attempt, Channel, Opened, Principal, Request, Session, SessionTable};
use crate::time::Instant;
use crate::units::{Position, SessionId, Term};
use crate::wire::cluster::{CloseReason, SessionOpenEvent};

impl<const N: usize> Clients<N> {
    /// Applies a committed open event that starts at `at`, which is the session's id. On the leader
    /// the client is told. Looks at every link that is being connected.
    ///
    /// Only after `Opened::Yes` does the service hear of the session.
    pub fn apply_open(
        &mut self,
        now: Instant,
        at: Position,
        event: &SessionOpenEvent<'_>,
        endpoints: &str,
        memory: &mut Memory<'_>,
    ) -> Opened {
        let id = SessionId::new(at);
        let outcome = match session(id, event) {
            Some(session) => self.table.apply_open(session),
            None => Opened::Invalid,
        };
        if self.leading.is_none() {
            return outcome;
        }
        match (outcome, self.appended(id)) {
            (Opened::Yes, Some(slot)) => self.open_link(now, id, slot, endpoints, memory.egress),
            (Opened::Yes, None) => self.serve(now, id),
            (_, Some(slot)) => {
                let deadline = now.plus(self.config.connect_timeout);
                if let Some(link) = self.links.get_mut(slot) {
                    link.stage = Stage::Answer(Answer::Refused(Refusal::SessionLimit));
                    link.deadline = deadline;
                }
            }
            (_, None) => {}
        }
        outcome
    }

    /// The link whose open event is the record at this session's position.
    fn appended(&mut self, id: SessionId) -> Option<usize> {
        let mut from = 0;
        while let Some((slot, link)) = self.next_connecting(from) {
            if matches!(&link.stage, Stage::Appended { session, .. } if *session == id) {
                return Some(slot);
            }
            from = slot + 1;
        }
        None
    }

    fn open_link(
        &mut self,
        now: Instant,
        id: SessionId,
        slot: usize,
        endpoints: &str,
        egress: &mut [u8],
    ) {
        let Some(link) = self.links.get_mut(slot) else {
            return;
        };
        let Stage::Appended { bound, .. } = link.stage else {
            return;
        };
        let mut live = Live::new(id, now, Greeting::Opened);
        live.bound = Some(bound);
        link.stage = Stage::Open(live);
        self.note_served(id, slot);
        self.say_greeting(slot, endpoints, egress);
    }

    /// The table, emptied, for the open sessions that a snapshot holds: before anything is applied.
    pub fn restore(&mut self) -> &mut SessionTable<N> {
        self.table.clear();
        &mut self.table
    }

    /// A committed message of this session, `payload` bytes without its header, has been handed to
    /// the service: its answer, if any, is in the egress now.
    #[inline(always)]
    pub fn apply_message(&mut self, session: SessionId, payload: usize) {
        self.apply_messages(session, self.egress_cost(payload));
    }

    /// As [`Clients::apply_message`], of several that cost so much together.
    #[inline(always)]
    pub(in crate::node) fn apply_messages(&mut self, session: SessionId, cost: u64) {
        if self.leading.is_none() {
            return;
        }
        let slot = self.serving(session);
        // Nobody has more to do for it: whose messages were held up is asked again in any case.
        if let Some(live) = slot.and_then(|slot| self.links.visit(slot)?.live_mut()) {
            live.in_flight = live.in_flight.saturating_sub(cost);
        }
    }

    /// Applies a committed close event. On the leader the client is told, and its egress stream
    /// ends once it is drained. `None` if the session is not open: then nobody hears of it.
    pub fn apply_close(
        &mut self,
        now: Instant,
        session: SessionId,
        reason: CloseReason,
        memory: &mut Memory<'_>,
    ) -> Option<Session> {
        let closed = self.table.apply_close(session)?;
        self.abandon_all(|owner| owner == Owner::Session(session));
        if let Some(slot) = self.serving(session) {
            if let Ok(at) = self.served.binary_search_by_key(&session, |(id, _)| *id) {
                list::take(&mut self.served, at);
            }
            self.say_closed(slot, session, reason, memory.egress);
            self.leave(now, slot);
        }
        Some(closed)
    }

    /// A service, executing a committed record, asks for a session's end, or has asked before this
    /// member led: the log is owed a close event. Only the leader serves sessions; on others, and
    /// for a session that is not open, nothing happens.
    pub fn owe_close(&mut self, session: SessionId, reason: CloseReason) {
        let slot = self.serving(session);
        if let Some(live) = slot.and_then(|slot| self.links.get_mut(slot)?.live_mut()) {
            live.owe_close(reason);
        }
    }

    /// This member leads `term` and has applied that term's own first record: the table is now what
    /// every message of this term will meet. Opens a fresh egress stream to every open session;
    /// what remains of an earlier role is dropped if its room is needed.
    pub fn become_leader(&mut self, now: Instant, term: Term) {
        self.step_down(now);
        self.leading = Some(term);
        if self.links.len() + self.table.len() > self.places {
            for slot in 0..self.places {
                self.disconnect(slot);
            }
        }
        for at in 0..self.table.len() {
            if let Some(id) = self.table.id_at(at) {
                self.serve(now, id);
            }
        }
    }

    /// This member no longer leads. Sessions stay open, in the table; their clients see this end of
    /// their egress end. Those who were about to open a session are sent to the next leader.
    pub fn step_down(&mut self, now: Instant) {
        let was_leading = self.leading.take().is_some();
        self.served.clear();
        // What is being put together belongs to the leadership that is over.
        self.abandon_all(|_| true);
        if !was_leading {
            return;
        }
        let deadline = now.plus(self.config.connect_timeout);
        for (slot, link) in self.links.iter_mut() {
            if link.is_opening() {
                link.stage = Stage::Answer(Answer::Redirect);
                link.deadline = deadline;
            } else if link.live().is_some() {
                link.leave(now, deadline);
                self.leaving.insert(slot);
            }
        }
    }

    /// Connects to an open session's client to say that this member leads.
    fn serve(&mut self, now: Instant, id: SessionId) {
        let Some(session) = self.table.get(id) else {
            return;
        };
        let live = Live::new(id, now, Greeting::NewLeader);
        let attempt = Attempt {
            id: 0,
            from: SocketAddr::from(([0, 0, 0, 0], 0)),
        };
        let request = session.request.clone();
        if let Some(slot) = self.free_slot() {
            self.connect(now, slot, request, attempt, Stage::Open(live));
            self.note_served(id, slot);
        }
    }

    /// There may have been fewer slots than open sessions when this member began to lead: more were
    /// allowed when they were opened. Those that are left have their turn as slots become free, or
    /// nobody would ever find out that their clients are gone.
    #[inline]
    pub(super) fn serve_the_rest(&mut self, now: Instant) {
        let is_left = self.leading.is_some() && self.served.len() < self.table.len();
        if is_left && self.links.free().is_some() {
            self.serve_next(now);
        }
    }

    /// The first session that is not served.
    #[inline(never)]
    fn serve_next(&mut self, now: Instant) {
        let ids = (0..self.table.len()).filter_map(|at| self.table.id_at(at));
        let mut left = ids.filter(|id| self.serving(*id).is_none());
        if let Some(id) = left.next() {
            self.serve(now, id);
        }
    }

    fn note_served(&mut self, id: SessionId, slot: usize) {
        let at = self.served.partition_point(|(served, _)| *served < id);
        if list::insert(&mut self.served, at, (id, slot)).is_err() {
            self.broken = Some(Broken::Served);
        }
    }
}

/// The session that an event opens; `None` if it has no room for what the event says, which no
/// leader of this version appends.
fn session(id: SessionId, event: &SessionOpenEvent<'_>) -> Option<Session> {
    Some(Session {
        id,
        request: Request {
            correlation_id: event.correlation,
            response_stream_id: event.response_stream_id,
            response_channel: Channel::try_from(event.response_channel).ok()?,
        },
        principal: Principal::from_slice(event.principal).ok()?,
        opened_at: event.timestamp,
    })
}
