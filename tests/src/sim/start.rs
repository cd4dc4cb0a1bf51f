//! How a member starts, dies, and starts again.

use std::collections::VecDeque;
use std::time::Duration;

use coracle_core::log::{NodeState, Recovered, Recovery, Roster, Seed, Window, window_len};
use coracle_core::node::{App, Config, MemberAddress, Node, SessionTiming, SnapshotPolicy};
use coracle_core::units::{Incarnation, MemberId, Term};

use super::away::Services;
use super::check::{Checked, Violation};
use super::clock::{Clock, MILLI, SECOND};
use super::disk::{Disk, Name, SECTOR};
use super::ghost::GhostLog;
use super::installs::{Incoming, begin_of};
use super::member::{CLUSTER, MESSAGE_MAX, Member, Memory, Process, SEGMENT, WINDOW};
use super::net::{Door, GROUP, member_address};
use super::repairs::needless;
use super::snapshots::Damage;
use super::spy::SpyLog;
use super::stats::Fault;
use super::storage::{newest_slot, position, read_log, write_slot, write_state};
use super::unwell::Unwell;
use super::world::{What, World};

/// After how many bytes of log members compare their states, here: often.
const CHECKPOINT_EVERY: u64 = 1 << 11;

/// How long a cluster without a leader waits, in these tests.
pub const LEADER_TIMEOUT: Duration = Duration::from_millis(400);

impl Member {
    /// What `init` does to a directory, flushed.
    pub(super) fn init(&mut self) {
        let Some(member) = MemberId::new(self.id) else {
            return;
        };
        let state = NodeState {
            cluster: CLUSTER,
            member,
            incarnation: self.incarnation,
            term: Term::ZERO,
            vote: None,
            votes: self.votes,
            quarantined: false,
            roster: Roster::FIRST,
        };
        if let Some(board) = &mut self.board {
            board.format(&state);
            return;
        }
        write_state(&mut self.disk, 1, &state);
        let mut flush = self.disk.begin_flush(Name::State);
        let mut rng = super::rng::Rng::new(0);
        self.disk.step_flush(&mut flush, true, &mut rng);
    }

    /// Does its medium say that it votes?
    pub(super) fn votes_for_good(&self) -> bool {
        if let Some(board) = &self.board {
            return board.state().is_some_and(|state| state.votes);
        }
        let file = self.disk.durable(Name::State);
        let slots = file.and_then(|file| file.split_at_checked(SECTOR));
        let newest = slots.and_then(|(a, b)| NodeState::newest(a, b).ok()?);
        newest.is_some_and(|(_, state)| state.votes)
    }

    fn read_state(&self) -> Option<(u64, NodeState)> {
        let file = self.disk.cached(Name::State)?;
        let (a, b) = file.split_at_checked(SECTOR)?;
        NodeState::newest(a, b).ok()?
    }
}

/// Reads the newest slot and then the whole log of `disk`. `known` is what the log has let go, and
/// what of it has rotten.
fn recover(disk: &Disk, known: GhostLog) -> Result<(Recovered, GhostLog), String> {
    let newest = newest_slot(disk).map_err(|e| format!("{e:?}"))?;
    let seed = match disk.log_start() {
        0 => Seed::genesis(CLUSTER),
        start => {
            let begin = begin_of(disk, start);
            Seed {
                position: position(start),
                chain: begin.map(|begin| begin.chain),
                term: begin.map_or(Term::ZERO, |begin| begin.term),
            }
        }
    };
    let mut recovery = Recovery::new(CLUSTER, SEGMENT, seed, newest, WINDOW as u64)
        .map_err(|e| format!("{e:?}"))?;
    let newest = disk.snapshots().next_back();
    if let Some((at, begin)) = newest.and_then(|at| Some((at, begin_of(disk, at)?))) {
        recovery.compare(Seed {
            position: position(at),
            chain: Some(begin.chain),
            term: begin.term,
        });
    }
    let mut buffer = vec![0; SEGMENT as usize];
    while let Some(at) = recovery.wanted() {
        let len = read_log(disk, at.get(), &mut buffer);
        recovery.feed(&buffer[..len]);
    }
    let recovered = recovery.finish().map_err(|e| format!("{e:?}"))?;
    let mut ghost = known;
    if ghost.end() < recovered.start.position.get() {
        return Err(format!("the log starts at {}", recovered.start.position));
    }
    while ghost.end() < recovered.tail.end.get() {
        let len = read_log(disk, ghost.end(), &mut buffer);
        let mut at = 0;
        while ghost.end() < recovered.tail.end.get() && at < len {
            let Some(row) = ghost.push(&buffer[at..len]) else {
                return Err(format!("no frame at {} of a recovered log", ghost.end()));
            };
            at += (row.end - row.start) as usize;
        }
        if at == 0 {
            return Err(format!("a recovered log ends at {}", ghost.end()));
        }
    }
    Ok((recovered, ghost))
}

impl World {
    /// Starts a member that is down.
    ///
    /// # Errors
    /// A broken invariant: a forgotten vote, lost bytes, or a directory that cannot be read.
    pub fn start(&mut self, member: usize) -> Checked {
        if self.members[member].board.is_some() {
            return self.start_board(member);
        }
        let broken = |detail: String| Violation {
            invariant: "Restart Recovers",
            detail: format!("n{member}: {detail}"),
        };
        let (state_seq, state) = self.members[member]
            .read_state()
            .ok_or_else(|| broken("the node state cannot be read".into()))?;
        self.rewrite_state(member, state_seq + 1, &state);
        self.prepare_snapshots(member);
        let (recovered, ghost) = self.recover_log(member).map_err(broken)?;
        self.rewrite_slot(member, &recovered);
        let start = recovered.start.position.get();
        let damage = recovered
            .corrupt
            .map(|at| (at.get(), recovered.corrupt_to.0.get()));
        self.see_damage(member, damage).map_err(broken)?;
        self.note(
            member as u8,
            "starts",
            recovered.confirmed.get(),
            recovered.tail.end.get(),
        );
        self.checker.lives(member as u8, state.incarnation.0);
        if recovered.slot.is_some() {
            self.checker.joined(member as u8, recovered.joined.get())?;
        }
        let ballot = (state.term.get(), state.vote.map(MemberId::get));
        self.checker.started(
            member as u8,
            ghost,
            start,
            recovered.confirmed.get(),
            ballot,
            state.votes,
        )?;
        let clock = self.new_clock();
        let mut process = self
            .process(member, (state_seq + 2, state), &recovered, &clock)
            .map_err(broken)?;
        self.load_newest(member, &mut process, &recovered)?;
        self.part(member, &mut process);
        let is_needless = process.node.healing().is_none();
        self.note_damage(member, recovered.corrupt.is_some(), is_needless);
        let m = &mut self.members[member];
        m.damage = Damage::None;
        if let Some((id, section, stored)) = m.incoming.as_ref().map(Incoming::resume) {
            process.node.resume_install(id, section, stored);
        }
        m.clock = clock;
        m.process = Some(process);
        self.want_turn(member, 0);
        self.observe(member)
    }

    /// The process of a member, as it begins.
    fn process(
        &mut self,
        member: usize,
        (state_seq, state): (u64, NodeState),
        recovered: &Recovered,
        clock: &Clock,
    ) -> Result<Process, String> {
        let mut log = window(recovered, self.plan.mtu)?;
        fill(&self.members[member].disk, recovered, &mut log)?;
        let config = self.config(member);
        let node = Node::new(config, state, recovered, clock.read(self.now))
            .map_err(|e| format!("{e:?}"))?;
        let mut journal = recovered.journal(CLUSTER, &log);
        journal.set_slots_beside();
        Ok(Process {
            node: Box::new(node),
            journal,
            log: SpyLog::new(log),
            memory: Memory::new(self.plan.services),
            services: Services::new(self.plan.services, self.plan.services_act),
            taking: None,
            storing: None,
            inbox: VecDeque::new(),
            flush: None,
            state_flush: None,
            recall: None,
            turn_at: None,
            unwell: Unwell::default(),
            state_seq,
        })
    }

    pub(super) fn new_clock(&mut self) -> Clock {
        let rate = self
            .rng
            .range(1_000_000 - self.plan.drift, 1_000_000 + self.plan.drift);
        Clock::new(self.now, rate, &mut self.rng)
    }

    /// The log; a snapshot that came from the leader and lies behind its end takes its place.
    fn recover_log(&mut self, member: usize) -> Result<(Recovered, GhostLog), String> {
        let mut found = recover(
            &self.members[member].disk,
            self.known_log(member, self.members[member].disk.log_start()),
        )?;
        let (sound, ghost) = &found;
        let (seq, flushed) = (
            sound.slot.map_or(0, |slot| slot.seq),
            self.members[member].slot,
        );
        if seq < flushed {
            return Err(format!(
                "slot {flushed} was flushed, and {seq} is the newest"
            ));
        }
        let range = (sound.start.position.get(), sound.confirmed.get());
        if self.rot_log(member, range, ghost) {
            found = recover(
                &self.members[member].disk,
                self.known_log(member, self.members[member].disk.log_start()),
            )?;
        }
        if self.members[member].damage != Damage::None {
            return Ok(found);
        }
        if let Some(at) = needless(&self.members[member].disk, &found.0) {
            self.members[member].disk.start_log_at(at);
            found = recover(
                &self.members[member].disk,
                self.known_log(member, self.members[member].disk.log_start()),
            )?;
        }
        let disk = &mut self.members[member].disk;
        let newest = disk.snapshots().next_back();
        let is_other = found.0.agrees == Some(false);
        if let Some(at) = newest.filter(|at| is_other || *at > found.0.tail.end.get()) {
            disk.restart_log(at);
            // Nothing of what had rotten is left.
            self.members[member].rotten = None;
            self.members[member].slot = 0;
            if is_other {
                self.checker.replaced(member as u8, at);
            }
            found = recover(
                &self.members[member].disk,
                self.known_log(member, self.members[member].disk.log_start()),
            )?;
        }
        Ok(found)
    }

    /// What was read may be in the page cache alone: a vote counts once it is on the medium, so it
    /// is written again and flushed before the node hears of it.
    fn rewrite_state(&mut self, member: usize, seq: u64, state: &NodeState) {
        let disk = &mut self.members[member].disk;
        write_state(disk, seq, state);
        let mut flush = disk.begin_flush(Name::State);
        disk.step_flush(&mut flush, true, &mut self.rng);
    }

    /// So may the slot that says that what is damaged was durable: without it, damage at the end
    /// is a write that was cut.
    fn rewrite_slot(&mut self, member: usize, recovered: &Recovered) {
        let disk = &mut self.members[member].disk;
        if let (Some(_), Some(slot)) = (recovered.corrupt, recovered.slot) {
            write_slot(disk, &slot);
            let mut flush = disk.begin_flush(Name::Segment(slot.segment.get()));
            disk.step_flush(&mut flush, true, &mut self.rng);
        }
    }

    pub(super) fn config(&mut self, member: usize) -> Config {
        let address = |id: u8| {
            let ingress = member_address(id, Door::Client).to_string();
            Some(MemberAddress {
                member: member_address(id, Door::Member),
                ingress: heapless::String::try_from(ingress.as_str()).ok()?,
            })
        };
        let mut members = [const { None }; 7];
        for (id, slot) in members.iter_mut().enumerate().take(self.members.len()) {
            *slot = address(id as u8);
        }
        Config {
            cluster: CLUSTER,
            member: MemberId::new(member as u8).unwrap_or_else(|| unreachable!("at most 7")),
            members,
            log_group: self.plan.multicast.then_some(GROUP),
            timing: self.plan.timing,
            sessions: SessionTiming {
                session_timeout: Duration::from_secs(3),
                egress_timeout: Duration::from_secs(2),
            },
            sessions_max: usize::MAX,
            segment_length: SEGMENT,
            mtu: self.plan.mtu,
            message_max: MESSAGE_MAX,
            egress_mtu: self.plan.mtu,
            app: App::default(),
            services: self.plan.services,
            snapshots: SnapshotPolicy {
                enabled: true,
                every_bytes: self.plan.snapshot_bytes,
                interval: Duration::from_nanos(self.plan.snapshot_interval),
            },
            log_max: self.plan.log_max,
            checkpoint_every: CHECKPOINT_EVERY,
            seed: self.rng.bits(),
        }
    }

    /// A process dies, with `power` its machine.
    ///
    /// # Errors
    /// None of its own; a restart at once may find one.
    pub fn crash(&mut self, member: usize, power: bool) -> Checked {
        let m = &mut self.members[member];
        m.fuse = None;
        m.fuse_at = None;
        if !m.is_up() {
            return Ok(());
        }
        self.end(member, power);
        Ok(())
    }

    /// Whatever runs on a member ends, and starts again later.
    pub(super) fn end(&mut self, member: usize, power: bool) {
        let m = &mut self.members[member];
        m.process = None;
        m.life += 1;
        let life = m.life;
        if let Some(board) = &mut m.board {
            board.end(power, self.rng.bits());
            let fault = if power { Fault::PowerLoss } else { Fault::Kill };
            self.stats.count(fault);
        } else if power {
            let lost = m.disk.lose_power(&mut self.rng);
            m.incoming = None;
            self.stats.count(Fault::PowerLoss);
            if lost > 0 {
                self.stats.count(Fault::Torn);
            }
        } else {
            m.disk.kill(self.plan.disk.stale, &mut self.rng);
            self.stats.count(Fault::Kill);
        }
        if m.wipe_next {
            m.wipe_next = false;
            m.disk.wipe();
            m.slot = 0;
            m.incoming = None;
            m.votes = false;
            m.incarnation = Incarnation(self.rng.bits() | 2);
            m.init();
            self.checker.wiped(member as u8);
            self.stats.count(Fault::Wipe);
        }
        self.note(
            member as u8,
            if power { "loses power" } else { "is killed" },
            0,
            0,
        );
        if !self.is_scripted {
            let soon = self.rng.chance(500_000);
            let most = if soon { 10 * MILLI } else { 2 * SECOND };
            let after = self.rng.range(1, most);
            self.stats.count(Fault::Restart);
            self.schedule(self.now + after, What::Start { member, life });
        }
    }
}

fn window(recovered: &Recovered, mtu: usize) -> Result<Window<Vec<u8>>, String> {
    let memory = vec![0; window_len(WINDOW, mtu)];
    let mut window = Window::new(memory, mtu, SEGMENT).map_err(|e| format!("{e:?}"))?;
    let opened = recovered.open_window(&mut window);
    opened.map_err(|e| format!("{e:?}"))?;
    Ok(window)
}

/// Brings the tail above `confirmed` into the window, to be written again.
fn fill(disk: &Disk, recovered: &Recovered, log: &mut Window<Vec<u8>>) -> Result<(), String> {
    use coracle_core::log::Log;
    let mut buffer = vec![0; SEGMENT as usize];
    while log.end() < recovered.tail.end {
        let left = recovered.tail.end.since(log.end()) as usize;
        let len = read_log(disk, log.end().get(), &mut buffer).min(left);
        if log.fill(&buffer[..len]) == 0 {
            return Err(format!("the tail cannot be loaded at {}", log.end()));
        }
    }
    Ok(())
}
