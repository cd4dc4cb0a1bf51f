//! A turn of one member's driver: the loop that every platform writes, with the calls left out or
//! cut short now and then, and a chance to die after each.

use std::net::SocketAddr;
use std::rc::Rc;

use coracle_core::log::Log;
use coracle_core::node::{Door as CoreDoor, Event, Halt};
use coracle_core::service::Role;
use coracle_core::session::AllowAll;
use coracle_core::wire::frame::DataFrame;
use coracle_core::wire::member::MemberMessage;

use super::check::{Checked, Seen, Violation, broken};
use super::check_sent::is_log_frame;
use super::clock::{MILLI, Nanos};
use super::ghost::Row;
use super::member::{Member, Process, SEGMENT};
use super::mind::SERVICES;
use super::net::{Datagram, Door, FIRST_CLIENT, GROUP, member_address, peer_at};
use super::stats::Fault;
use super::world::{Stop, What, World};

/// More transmits than this in a millisecond are no work that any input calls for.
const TRANSMITS_MAX: u64 = 50_000;
/// More polls in a row that say "more to do".
const POLLS_MAX: u64 = 8192;

impl World {
    /// A datagram reaches a socket.
    pub(super) fn deliver(&mut self, datagram: Datagram) {
        let Some((peer, _)) = peer_at(datagram.to) else {
            return;
        };
        if peer >= FIRST_CLIENT {
            self.deliver_to_client(usize::from(peer - FIRST_CLIENT), datagram);
            return;
        }
        let most = self.plan.turn.inbox;
        let Some(inbox) = self
            .members
            .get_mut(usize::from(peer))
            .and_then(Member::inbox)
        else {
            return;
        };
        if inbox.len() >= most {
            self.stats.count(Fault::Overflow);
            return;
        }
        inbox.push_back(datagram);
        self.stats.datagrams += 1;
        let after = self.rng.below(self.plan.turn.most);
        self.want_turn(usize::from(peer), after);
    }

    /// The driver of `member` shall run in at most `after`.
    pub fn want_turn(&mut self, member: usize, after: Nanos) {
        let m = &mut self.members[member];
        let at = (self.now + after).max(m.paused_until);
        let life = m.life;
        let Some(turn_at) = m.turn_at() else {
            return;
        };
        if turn_at.is_none_or(|t| t > at || t < self.now) {
            *turn_at = Some(at);
            self.schedule(at, What::Turn { member, life });
        }
    }

    pub(super) fn turn_event(&mut self, member: usize, life: u32) -> Result<bool, Violation> {
        let m = &mut self.members[member];
        let now = Some(self.now);
        let is_due = m.life == life && m.turn_at().is_some_and(|at| *at == now);
        if !is_due {
            return Ok(true);
        }
        if m.paused_until > self.now {
            let left = m.paused_until - self.now;
            if let Some(turn_at) = m.turn_at() {
                *turn_at = None;
            }
            self.want_turn(member, left);
            return Ok(true);
        }
        if m.fuse_at.is_some_and(|at| at <= self.now) {
            self.crash(member, false)?;
            return Ok(true);
        }
        let outcome = match self.members[member].board.is_some() {
            true => self.turn_board(member),
            false => self.turn(member),
        };
        match outcome {
            Ok(()) => Ok(true),
            Err(Stop::Broken(violation)) => Err(violation),
            Err(Stop::Anew { is_rebuilt }) => self.start_anew(member, is_rebuilt).map(|()| true),
            Err(Stop::Crash { power }) => {
                self.crash(member, power)?;
                Ok(true)
            }
        }
    }

    fn skips(&mut self) -> bool {
        self.plan.turn.skip > 0 && self.rng.chance(self.plan.turn.skip)
    }

    fn turn(&mut self, member: usize) -> Result<(), Stop> {
        if let Some(process) = &mut self.members[member].process {
            process.turn_at = None;
        }
        let mut more = self.turn_receive(member)?;
        if !self.skips() {
            self.turn_timeout(member)?;
        }
        more |= self.turn_away(member)?;
        if !self.skips() {
            more |= self.turn_polls(member)?;
        }
        if !self.skips() {
            more |= self.turn_snapshot(member)?;
            self.turn_install(member)?;
            self.turn_repair(member)?;
        }
        more |= self.skips() || {
            self.turn_storage(member)?;
            false
        };
        more |= self.turn_transmit(member)?;
        self.turn_events(member)?;
        self.check_stays(member)?;
        let after = if more {
            1 + self.rng.below(self.plan.turn.most)
        } else {
            self.until_timeout(member)
        };
        self.check_rest(member, after)?;
        self.want_turn(member, after);
        Ok(())
    }

    /// A deadline that stays in the past makes every driver spin.
    pub(super) fn check_rest(&mut self, member: usize, after: Nanos) -> Checked {
        let m = &mut self.members[member];
        m.turns_in_a_row = if after <= 1 { m.turns_in_a_row + 1 } else { 0 };
        if m.turns_in_a_row < POLLS_MAX {
            return Ok(());
        }
        let due = m.deadline();
        broken(
            "Deadlines Pass",
            format!("n{member} is due again and again: {due:?}"),
        )
    }

    fn until_timeout(&self, member: usize) -> Nanos {
        let m = &self.members[member];
        let due = m.process.as_ref().and_then(|p| p.node.poll_timeout());
        // A process that has nothing to wait for looks after its log now and then all the same.
        let idle = 20 * MILLI;
        if m.is_patient {
            return idle;
        }
        due.map_or(idle, |(at, _)| {
            m.clock.when(at).saturating_sub(self.now).min(idle)
        })
        .max(1)
    }

    fn turn_receive(&mut self, member: usize) -> Result<bool, Stop> {
        for _ in 0..16 {
            let m = &mut self.members[member];
            let now = m.clock.read(self.now);
            let Some(process) = &mut m.process else {
                return Ok(false);
            };
            let Some(datagram) = process.inbox.pop_front() else {
                return Ok(false);
            };
            let Some((_, door)) = peer_at(datagram.to) else {
                continue;
            };
            let door = match door {
                Door::Member => CoreDoor::Member,
                Door::Client => CoreDoor::Client,
            };
            let mut lent = process.memory.lend(&mut process.log);
            // A refusal is counted by the node and answered by nobody.
            let _refused = process
                .node
                .handle_datagram(now, door, datagram.from, &datagram.bytes, &mut lent)
                .is_err();
            if let Some((from, Door::Member)) = peer_at(datagram.from) {
                self.note_told(member, usize::from(from), &datagram.bytes);
            }
            self.called(member)?;
        }
        Ok(true)
    }

    fn turn_timeout(&mut self, member: usize) -> Result<(), Stop> {
        let m = &mut self.members[member];
        let now = m.clock.read(self.now);
        let is_patient = m.is_patient;
        if let Some(process) = &mut m.process {
            let before = is_patient.then(|| process.node.clone());
            let mut lent = process.memory.lend(&mut process.log);
            process.node.handle_timeout(now, &mut lent);
            // Law 3: a driver may be late with any call; this one is late until the story goes on.
            if let Some(before) = before
                && process.node.role() == Role::Candidate
                && before.role() != Role::Candidate
            {
                process.node = before;
            }
            process.spoil();
        }
        self.called(member)
    }

    fn turn_polls(&mut self, member: usize) -> Result<bool, Stop> {
        let budget = if self.is_calm {
            64
        } else {
            self.rng.range(1, 32)
        };
        let mut more = false;
        for service in [false, true] {
            more = false;
            for _ in 0..budget {
                let m = &mut self.members[member];
                let now = m.clock.read(self.now);
                let stalled = m.stalled;
                let Some(process) = &mut m.process else {
                    return Ok(false);
                };
                let slots = stalled.into_iter().take(self.plan.services);
                for (slot, stalled) in slots.enumerate() {
                    process.services.history(slot).ready = !stalled;
                }
                more = if service {
                    process.poll_services(now)
                } else {
                    let mut lent = process.memory.lend(&mut process.log);
                    process.node.poll_ingress(now, &mut AllowAll, &mut lent)
                };
                self.called(member)?;
                if !more {
                    break;
                }
            }
        }
        let m = &mut self.members[member];
        m.polls_in_a_row = if more { m.polls_in_a_row + budget } else { 0 };
        if m.polls_in_a_row > POLLS_MAX {
            let detail = format!("n{member} says there is more to do and does nothing");
            broken("Every Call Bounded", detail)?;
        }
        Ok(more)
    }

    fn turn_transmit(&mut self, member: usize) -> Result<bool, Stop> {
        let most = self.plan.turn.transmits;
        for _ in 0..most {
            let m = &mut self.members[member];
            let now = m.clock.read(self.now);
            let Some(process) = &mut m.process else {
                return Ok(false);
            };
            let lent = process.memory.lend(&mut process.log);
            let mut scratch = [0; coracle_core::node::CONTROL_MAX];
            let sent = process.node.poll_transmit(now, &lent, &mut scratch);
            let sent = sent.map(|transmit| {
                let bytes: Rc<[u8]> = Rc::from(transmit.bytes);
                let door = match transmit.door {
                    CoreDoor::Member => Door::Member,
                    CoreDoor::Client => Door::Client,
                };
                (door, transmit.to, bytes)
            });
            self.called(member)?;
            let Some((door, to, bytes)) = sent else {
                return Ok(false);
            };
            self.check_transmits(member)?;
            if door == Door::Member {
                self.check_sent(member, to, &bytes)?;
            }
            let from = member_address(member as u8, door);
            self.send(Datagram { from, to, bytes }, 0);
        }
        Ok(true)
    }

    /// No input calls for more than a few windows full of datagrams to each member in a moment.
    pub(super) fn check_transmits(&mut self, member: usize) -> Checked {
        let moment = self.now / MILLI;
        let m = &mut self.members[member];
        if m.transmits.0 != moment {
            m.transmits = (moment, 0);
        }
        m.transmits.1 += 1;
        if m.transmits.1 <= TRANSMITS_MAX {
            return Ok(());
        }
        broken(
            "Every Call Bounded",
            format!("n{member} transmits without end"),
        )
    }

    pub(super) fn check_sent(
        &mut self,
        member: usize,
        to: SocketAddr,
        bytes: &Rc<[u8]>,
    ) -> Checked {
        let id = member as u8;
        if is_log_frame(bytes) {
            self.net.note_log(to, bytes.len(), &mut self.stats);
            return self.checker.sent_log(id, u64::from(SEGMENT), bytes);
        }
        if to == GROUP {
            let detail = format!("n{member} sent all others something that is no log");
            return broken("Only The Log Goes To All", detail);
        }
        let message = DataFrame::parse(bytes).and_then(|f| MemberMessage::parse_frame(&f));
        match (message, peer_at(to)) {
            (Ok(message), Some((to, _))) => {
                self.tell(id, to, &message.body, bytes);
                self.checker.said(id, &message.body)
            }
            _ => Ok(()),
        }
    }

    fn turn_events(&mut self, member: usize) -> Result<(), Stop> {
        for _ in 0..16 {
            let Some(process) = &mut self.members[member].process else {
                return Ok(());
            };
            let Some(event) = process.node.poll_event() else {
                return Ok(());
            };
            self.event(member, event)?;
        }
        Ok(())
    }

    /// A member says what has happened.
    pub(super) fn event(&mut self, member: usize, event: Event) -> Result<(), Stop> {
        let id = member as u8;
        match event {
            Event::RoleChanged { role, term } => {
                self.note(id, "role", role as u64, u64::from(term.get()));
            }
            Event::Joined { term, leader } => {
                self.note(id, "joined", u64::from(term.get()), u64::from(leader.get()));
            }
            Event::Truncated { from, to } => self.note(id, "cut", from.get(), to.get()),
            Event::SessionOpened(session) => {
                self.note(id, "opened", session.opened_at().get(), 0);
            }
            Event::SessionClosed(session) => {
                self.note(id, "closed", session.opened_at().get(), 0);
            }
            Event::HandingOver { to, ages } => {
                self.check_hand_over(member, to, ages.flush_ms)?;
            }
            // Full members that hold the bytes always heal one that does not.
            Event::Halted(Halt::DamageNotHealed(_)) if self.is_lost(member) => {
                self.give_up(member);
                return Err(Stop::Crash { power: false });
            }
            Event::Halted(halt) => broken("Never Halts", format!("n{id} halts: {halt}"))?,
            _ => {}
        }
        Ok(())
    }

    /// After every call: the invariants, and the fuse.
    pub(super) fn called(&mut self, member: usize) -> Result<(), Stop> {
        self.step += 1;
        self.stats.steps += 1;
        self.observe(member)?;
        self.watch_divergence(member)?;
        let m = &mut self.members[member];
        match &mut m.fuse {
            Some((0, power)) => Err(Stop::Crash { power: *power }),
            Some((left, _)) => {
                *left -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }

    /// Compares what a member shows with what the checker knows.
    pub(super) fn observe(&mut self, member: usize) -> Checked {
        if self.members[member].board.is_some() {
            return self.observe_board(member, None);
        }
        let Self {
            members, checker, ..
        } = self;
        let Some(process) = &mut members[member].process else {
            return Ok(());
        };
        let node = &process.node;
        let seen = Seen {
            member: member as u8,
            role: node.role(),
            joined: node.joined().get(),
            term: node.status().term.get(),
            commit: node.commit().get(),
            applied: node.applied().get(),
            services: services_seen(process),
            cut: process.log.take_witnessed_cut(),
        };
        let mut slots = 0..self.plan.services;
        if let Some(at) = slots.find_map(|slot| process.services.history(slot).refused) {
            let detail = format!("n{member} refused its service's answer at {at}");
            return broken("Same Answers", detail);
        }
        let Some(process) = &members[member].process else {
            return Ok(());
        };
        let on_medium =
            |m: u8, row: &Row, bytes: &[u8]| is_on_medium(&members[usize::from(m)], row, bytes);
        checker.observe(&seen, &process.log, &on_medium)
    }
}

/// How far each service is, by the node, and its digest, by itself.
fn services_seen(process: &Process) -> [(u64, u64); SERVICES] {
    let mut seen = [(0, 0); SERVICES];
    let all = process.node.services().enumerate();
    for (room, (slot, status)) in seen.iter_mut().zip(all) {
        *room = (status.applied.get(), process.services.sound_digest(slot));
    }
    seen
}

/// Does the medium hold this frame? What has rotten counts as held while it can be healed.
pub(super) fn is_on_medium(member: &Member, row: &Row, bytes: &[u8]) -> bool {
    if member.rotten.as_ref().is_some_and(|r| r.had(row)) {
        return true;
    }
    // What is on a board's device and not in its log may be of an earlier life.
    let running = member.board.as_ref().and_then(|b| b.running.as_ref());
    running.is_none_or(|r| r.superloop.log().end().get() >= row.end)
        && member.holds(row.start, &bytes[..row.meaning()])
}
