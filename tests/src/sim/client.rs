//! One client: the core's client half, and somebody who uses it.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::rc::Rc;

use coracle_core::client::{self, ClientConfig, ClosedReason, Egress, OfferError, State};
use coracle_core::stream::{CONTROL_MAX, Output};
use coracle_core::time::Instant;

use super::check::{Checked, Violation, broken};
use super::clock::{MILLI, Nanos};
use super::member::{MESSAGE_MAX, SEGMENT};
use super::net::{Datagram, Door, FIRST_CLIENT, client_address, member_address};
use super::plan::{Plan, WorkPlan};
use super::rng::Rng;
use super::work::Tag;
use super::world::{What, World};

/// The memory of a client, window and mtu each.
const MEMORY: usize = 32 * 1024 + 2048;
/// How long a client waits before it opens a new session.
const PAUSE: Nanos = 100 * MILLI;

struct Memory {
    ingress: Vec<u8>,
    egress: Vec<u8>,
    assembly: Vec<u8>,
}

impl Memory {
    fn new() -> Self {
        Self {
            ingress: vec![0; 2 * MEMORY],
            egress: vec![0; client::EGRESS_IMAGES * MEMORY],
            assembly: vec![0; MESSAGE_MAX + 64],
        }
    }

    fn lend(&mut self) -> client::Lent<'_> {
        client::Lent {
            ingress: &mut self.ingress,
            egress: &mut self.egress,
            assembly: &mut self.assembly,
        }
    }
}

/// A client and its workload.
pub struct Client {
    id: u8,
    life: u16,
    rng: Rng,
    work: WorkPlan,
    mtu: u32,
    core: Option<Box<client::Client>>,
    memory: Memory,
    inbox: VecDeque<Datagram>,
    /// Offered to the present leader and not answered: sequence number and length.
    offered: VecDeque<(u64, usize)>,
    seq: u64,
    send_at: Nanos,
    reopen_at: Nanos,
    turn_at: Option<Nanos>,
    /// After how many messages this session is closed.
    close_after: u64,
    /// What the cluster said when it last refused.
    detail: String,
    /// A story's messages, sent before any others.
    pub orders: VecDeque<Vec<u8>>,
    /// How many messages this client may still send; none once it is to stop.
    pub quota: u64,
    /// Messages that were answered.
    pub acknowledged: u64,
    /// Offers that were refused because the window was closed.
    pub back_pressured: u64,
    /// Whether it takes what the cluster sends it.
    pub reads: bool,
    /// It neither reads nor sends before this.
    pub silent_until: Nanos,
}

impl Client {
    /// A client that has no session yet.
    pub fn new(id: u8, plan: &Plan, rng: &mut Rng) -> Self {
        Self {
            id,
            life: 0,
            rng: rng.fork(),
            work: plan.work,
            mtu: plan.mtu as u32,
            core: None,
            memory: Memory::new(),
            inbox: VecDeque::new(),
            offered: VecDeque::new(),
            seq: 0,
            send_at: 0,
            reopen_at: 0,
            turn_at: None,
            close_after: if plan.work.messages == 0 {
                u64::MAX
            } else {
                rng.range(20, 2000)
            },
            detail: String::new(),
            orders: VecDeque::new(),
            quota: plan.work.messages / plan.clients as u64,
            acknowledged: 0,
            back_pressured: 0,
            reads: true,
            silent_until: 0,
        }
    }

    /// The process dies: its session stays open until the cluster notices.
    pub fn vanish(&mut self) {
        self.core = None;
        self.inbox.clear();
        self.offered.clear();
    }

    /// Offered and not answered.
    pub fn unanswered(&self) -> usize {
        self.offered.len()
    }

    /// How many sessions it has had.
    pub fn lives(&self) -> u16 {
        self.life
    }

    /// Sends no more.
    pub fn stop(&mut self) {
        self.quota = 0;
    }

    /// One line of what it shows.
    pub fn line(&self) -> String {
        format!(
            "c{} life {} {:?}, {} offered and open, {} acknowledged {}",
            self.id,
            self.life,
            self.core.as_ref().map(|c| c.state()),
            self.offered.len(),
            self.acknowledged,
            self.detail
        )
    }

    fn address(&self) -> SocketAddr {
        client_address(self.id, self.life)
    }

    fn open(&mut self, now: Nanos, members: usize) -> Option<()> {
        self.life += 1;
        self.seq = 0;
        self.offered.clear();
        self.inbox.clear();
        let channel = format!("aeron:udp?endpoint={}", self.address());
        let endpoints: Vec<String> = (0..members as u8)
            .map(|m| format!("{m}={}", member_address(m, Door::Client)))
            .collect();
        let seed = self.rng.bits();
        let mut config = ClientConfig::new(&channel, &endpoints.join(","), seed)?;
        config.segment_length = SEGMENT;
        config.mtu = self.mtu;
        let lent = self.memory.lend();
        let core = client::Client::new(Instant::from_nanos(now), config, &lent).ok()?;
        self.core = Some(Box::new(core));
        Some(())
    }

    /// The next message, if one may be sent now.
    fn next_message(&mut self, now: Nanos) -> Option<(Tag, usize)> {
        let may = self.quota > 0
            && now >= self.send_at
            && (self.offered.len() as u64) < self.work.in_flight;
        if !may {
            return None;
        }
        let longest = self.work.message_max;
        let len = if self.rng.chance(50_000) {
            longest
        } else {
            self.rng.skewed(longest)
        };
        let tag = Tag {
            client: self.id,
            life: self.life,
            seq: self.seq,
        };
        Some((tag, len as usize))
    }

    fn offer_all(&mut self, now: Nanos) {
        let mut message = Vec::new();
        while let Some((tag, len)) = self.next_message(now) {
            tag.message(len, &mut message);
            if let Some(order) = self.orders.front() {
                message.clone_from(order);
            }
            let len = message.len();
            let Some(core) = &mut self.core else {
                return;
            };
            let mut lent = self.memory.lend();
            match core.offer(Instant::from_nanos(now), &[&message], &mut lent) {
                Ok(_) => {
                    self.orders.pop_front();
                    self.offered.push_back((tag.seq, len));
                    self.seq += 1;
                    self.quota -= 1;
                    if self.rng.chance(300_000) {
                        self.send_at = now + self.rng.range(1, self.work.think);
                    }
                }
                Err(OfferError::BackPressured) => {
                    self.back_pressured += 1;
                    self.send_at = now + self.rng.range(1, 10 * MILLI);
                }
                Err(_) => {
                    self.send_at = now + 5 * MILLI;
                }
            }
        }
    }

    /// Takes one answer: it belongs to the oldest message that this leader was given.
    fn take(&mut self, payload: &[u8]) -> Result<Option<Tag>, String> {
        let expected = self.offered.pop_front();
        let tag = Tag::read(payload);
        match (expected, tag) {
            (None, _) => Err(format!(
                "c{} was answered {tag:?} and asked nothing",
                self.id
            )),
            (Some((_, len)), None) if len == payload.len() => Ok(None),
            (Some((seq, _)), Some(tag))
                if (tag.client, tag.life, tag.seq) == (self.id, self.life, seq) =>
            {
                Ok(Some(tag))
            }
            (Some(expected), tag) => Err(format!(
                "c{} life {} expected an answer to {expected:?}, got {tag:?} of {} bytes",
                self.id,
                self.life,
                payload.len()
            )),
        }
    }
}

/// An answer; nothing of what else may be said.
fn payload_of(egress: &Egress<'_>) -> Option<Vec<u8>> {
    match egress {
        Egress::Message { payload, .. } => Some(payload.to_vec()),
        _ => None,
    }
}

impl World {
    /// A datagram reaches a client's socket.
    pub(super) fn deliver_to_client(&mut self, client: usize, datagram: Datagram) {
        let most = self.plan.turn.inbox;
        let Some(c) = self.clients.get_mut(client) else {
            return;
        };
        if c.address() != datagram.to || c.core.is_none() || c.inbox.len() >= most {
            return;
        }
        c.inbox.push_back(datagram);
        self.stats.datagrams += 1;
        let after = self.rng.below(self.plan.turn.most);
        self.want_client(client, after);
    }

    fn want_client(&mut self, client: usize, after: Nanos) {
        let c = &mut self.clients[client];
        let at = (self.now + after).max(c.silent_until);
        if c.turn_at.is_none_or(|t| t > at || t < self.now) {
            c.turn_at = Some(at);
            self.schedule(at, What::Client(client));
        }
    }

    /// A scenario's client may send `count` more; returns how many answers that makes in all.
    ///
    /// # Errors
    /// There is no client.
    pub fn client_wants(&mut self, count: u64) -> Result<u64, String> {
        let c = self.clients.first_mut().ok_or("no client")?;
        c.quota = count;
        let wanted = c.acknowledged + c.offered.len() as u64 + count;
        self.want_client(0, 0);
        Ok(wanted)
    }

    pub(super) fn client_event(&mut self, client: usize) -> Result<bool, Violation> {
        let (now, members) = (self.now, self.members.len());
        let c = &mut self.clients[client];
        if c.turn_at.is_some_and(|at| at <= now) {
            c.turn_at = None;
        }
        if c.silent_until > now {
            c.inbox.clear();
            self.want_client(client, 0);
            return Ok(true);
        }
        if c.core.is_none() {
            if c.reopen_at > now {
                let after = c.reopen_at - now;
                self.want_client(client, after);
                return Ok(true);
            }
            if c.open(now, members).is_none() {
                let detail = format!("c{client} cannot be made");
                broken("Clients Open", detail)?;
            }
        }
        self.client_receive(client)?;
        if self.clients[client].reads {
            self.client_egress(client)?;
        }
        self.client_say(client);
        self.client_rest(client);
        Ok(true)
    }

    fn client_receive(&mut self, client: usize) -> Checked {
        let now = Instant::from_nanos(self.now);
        for datagram in core::mem::take(&mut self.clients[client].inbox) {
            let mut bytes: &[u8] = &datagram.bytes;
            // A client that reads takes what it can from where it arrived, in every second life.
            while let c = &mut self.clients[client]
                && c.reads
                && (u16::from(c.id) + c.life).is_multiple_of(2)
                && let Some(core) = &mut c.core
                && let Some(egress) = core.take_egress(now, datagram.from, &mut bytes)
            {
                let payload = payload_of(&egress);
                self.client_hear(client, payload)?;
            }
            let c = &mut self.clients[client];
            if let Some(core) = c.core.as_mut().filter(|_| !bytes.is_empty()) {
                let mut lent = c.memory.lend();
                // A refusal is for the client to count.
                let _refused = core
                    .handle_datagram(now, datagram.from, bytes, &mut lent)
                    .is_err();
            }
        }
        let c = &mut self.clients[client];
        let Some(core) = &mut c.core else {
            return Ok(());
        };
        core.handle_timeout(now, &mut c.memory.lend());
        while let Some(resolve) = core.poll_resolve() {
            let address = resolve.endpoint.parse().ok();
            let member = resolve.member;
            core.handle_resolved(member, address);
        }
        Ok(())
    }

    fn client_egress(&mut self, client: usize) -> Checked {
        let now = Instant::from_nanos(self.now);
        loop {
            let c = &mut self.clients[client];
            let Some(core) = &mut c.core else {
                return Ok(());
            };
            let mut lent = c.memory.lend();
            let Some(egress) = core.poll_egress(now, &mut lent) else {
                return Ok(());
            };
            let payload = payload_of(&egress);
            self.client_hear(client, payload)?;
        }
    }

    /// What the cluster has said: an answer, or that there is another leader.
    fn client_hear(&mut self, client: usize, payload: Option<Vec<u8>>) -> Checked {
        let c = &mut self.clients[client];
        let Some(payload) = payload else {
            // What is unanswered now will never be answered.
            c.offered.clear();
            self.note(FIRST_CLIENT + client as u8, "hears a new leader", 0, 0);
            return Ok(());
        };
        let tag = c.take(&payload).map_err(|detail| Violation {
            invariant: "Answers In Order",
            detail,
        })?;
        c.acknowledged += 1;
        if let Some(tag) = tag {
            self.note(
                FIRST_CLIENT + client as u8,
                "is answered",
                tag.life.into(),
                tag.seq,
            );
            self.checker.answered(tag, &payload)?;
        }
        Ok(())
    }

    fn client_say(&mut self, client: usize) {
        let now = self.now;
        let c = &mut self.clients[client];
        c.offer_all(now);
        let close = c.seq >= c.close_after && c.offered.is_empty();
        let Some(core) = &mut c.core else {
            return;
        };
        let instant = Instant::from_nanos(now);
        if close && matches!(core.state(), State::Open { .. }) {
            c.close_after = c.rng.range(20, 2000);
            core.close(instant, &mut c.memory.lend());
        }
        let from = client_address(c.id, c.life);
        for _ in 0..256 {
            let c = &mut self.clients[client];
            let Some(core) = &mut c.core else {
                return;
            };
            let lent = c.memory.lend();
            let Some(transmit) = core.poll_transmit(instant, &lent) else {
                return;
            };
            let mut scratch = [0; CONTROL_MAX];
            let bytes: Rc<[u8]> = match transmit.payload {
                Output::Frames(frames) => Rc::from(frames),
                Output::Control(control) => Rc::from(control.emit(&mut scratch)),
            };
            let to = transmit.to;
            self.send(Datagram { from, to, bytes }, 0);
        }
    }

    fn client_rest(&mut self, client: usize) {
        let now = self.now;
        let c = &mut self.clients[client];
        let Some(core) = &mut c.core else {
            return;
        };
        while core.poll_event().is_some() {}
        if let State::Closed(reason) = core.state() {
            c.detail = core.detail().to_string();
            c.core = None;
            c.offered.clear();
            let refused = reason == ClosedReason::Rejected;
            c.reopen_at = now + if refused { 5 * PAUSE } else { PAUSE };
            self.note(FIRST_CLIENT + client as u8, "is closed", reason as u64, 0);
            self.want_client(client, PAUSE);
            return;
        }
        let due = core.poll_timeout().map_or(now + PAUSE, |at| at.nanos());
        let due = if c.quota > 0 && (c.offered.len() as u64) < c.work.in_flight {
            due.min(c.send_at)
        } else {
            due
        };
        let after = due.saturating_sub(now).clamp(1_000, PAUSE);
        self.want_client(client, after);
    }
}
