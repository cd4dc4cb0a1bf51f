//! The node's thread: facts in, work, debts out, sleep.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use coracle_core::log::NodeState;
use coracle_core::node::{Consumer, Recall, Status};
use coracle_core::session::{AllowAdministration, AllowAll};
use coracle_core::time::Now;
use coracle_core::units::{ClusterId, Position};

use super::begin::{Begun, Ground, check_identity, core_config};
use super::cold::{Cold, consumer};
use super::doors::Doors;
use super::events::{FAILED, REBUILD, is_won, tell};
use super::glance::Glance;
use super::keeper::{Keeper, Turn, purge};
use super::memory::Memory;
use super::peers::{Addresses, Peers};
use super::trace::Trace;
use super::{Core, Fds, Hosted, NodeError, is_initialised};
use crate::apart::Ended;
use crate::clock::{Clock, random_seed};
use crate::config::{Admin, Idle, Settings};
use crate::counters::{Counter, CountersFile};
use crate::net::wait;
use crate::signals::StopSignal;
use crate::storage::snapshots::ReadJob;
use crate::storage::{DataDir, LogStore, NodeStateFile, SnapshotStore, StorageError};
use crate::waker::Waker;
use crate::worker::Worker;

/// The longest sleep: how soon a signal is noticed at the latest.
const SLEEP_MAX: Duration = Duration::from_millis(100);
/// How long a stalled service waits to be asked again.
const STALLED_SLEEP: Duration = Duration::from_millis(5);

/// How long a service on a thread of its own may take to come back from a callback when the member
/// begins anew; then the member stops.
const SERVICE_PATIENCE: Duration = Duration::from_secs(10);
/// How long such a service may take to end when the member closes; then it is left behind.
const CLOSE_PATIENCE: Duration = Duration::from_secs(1);

/// One running member, for a poll loop of the caller's own; see [`Runner::poll`].
pub struct Runner<S> {
    settings: Settings,
    stop: StopSignal,
    clock: Clock,
    waker: Waker,
    node: Box<Core>,
    services: S,
    services_failed: u64,
    memory: Memory,
    store: LogStore,
    keeper: Keeper,
    state: Worker<NodeState, Result<(), StorageError>>,
    persisting: Option<NodeState>,
    /// What is on the disk.
    persisted: NodeState,
    cold: Cold,
    doors: Doors,
    peers: Peers,
    counters: CountersFile,
    elections_won: u64,
    dozing: bool,
    glance: Glance,
    dir: DataDir,
    trace: Option<Trace>,
}

impl<S: Hosted> Runner<S> {
    /// Opens the directory, recovers the log, binds the sockets.
    pub(super) fn start(
        settings: Settings,
        mut services: S,
        stop: StopSignal,
        trace: Option<PathBuf>,
    ) -> Result<Self, NodeError> {
        if !is_initialised(&settings) {
            let path = settings.dir.clone();
            return Err(StorageError::Uninitialised { path }.into());
        }
        let dir = DataDir::open(&settings.dir)?;
        let (mut file, state) = NodeStateFile::open(dir.path())?;
        check_identity(&dir, &settings, &state)?;
        let waker = Waker::new()?;
        let count = services.count();
        let mut memory = Memory::new(&settings, count)?;
        let addresses = Addresses::resolve(&settings)?;
        let (member, places) = (addresses.member, addresses.places());
        let clock = Clock::new();
        let config = core_config(&settings, addresses, count)?;
        let ground = Ground {
            dir: &dir,
            settings: &settings,
            waker: &waker,
            clock: &clock,
        };
        let begun = ground.begin(config, state, &mut services, &mut memory)?;
        let Begun {
            mut node,
            store,
            damaged,
        } = begun;
        let cluster = ClusterId(settings.cluster);
        let sets = SnapshotStore::open(&dir.snapshots(), cluster, count, &damaged, &waker)?;
        let keeper = Keeper::new(sets, &mut node)?;
        let mut doors = Doors::bind(&places, settings.group(member))?;
        let trace = trace.map(|path| doors.watch(path, settings.segment_length.0 as u32));
        let peers = Peers::new(&settings, member, &waker)?;
        let counters =
            CountersFile::create(&dir.counters(), settings.cluster, settings.member.into())?;
        if node.is_quarantined() {
            tracing::error!(member = settings.member, "quarantined: {REBUILD}");
        }
        Ok(Self {
            state: Worker::spawn("node-state", waker.clone(), move |state| file.write(&state))?,
            cold: Cold::new(lengths(&memory)),
            settings,
            stop,
            clock,
            waker,
            node,
            services,
            services_failed: 0,
            memory,
            store,
            keeper,
            persisting: None,
            persisted: state,
            doors,
            peers,
            counters,
            elections_won: 0,
            dozing: false,
            glance: Glance::default(),
            dir,
            trace,
        })
    }

    /// Runs until told to close, then closes: a leader hands over first.
    ///
    /// # Errors
    /// See [`NodeError`].
    pub fn run(mut self) -> Result<(), NodeError> {
        while !self.stop.is_set() {
            self.step()?;
        }
        self.close()
    }

    /// One turn of the member's work, a bounded amount. Call it again as soon as one of
    /// [`Self::fds`] is readable, and at the latest after the time that it returns: zero means that
    /// there is more to do at once. The configured `idle` is the caller's business here.
    ///
    /// # Errors
    /// See [`NodeError`]; then this member has ended.
    pub fn poll(&mut self) -> Result<Duration, NodeError> {
        if std::mem::take(&mut self.dozing) {
            self.waker.awake(true);
        }
        if self.work()? {
            return Ok(Duration::ZERO);
        }
        let sleep = self.doze();
        self.dozing = !sleep.is_zero();
        Ok(sleep)
    }

    /// What is readable when there is work: the disk threads' signal, and the sockets.
    pub fn fds(&self) -> Fds<'_> {
        self.doors.fds(self.waker.fd())
    }

    /// The service, as of the last message that was executed, or all of them.
    pub fn service(&self) -> &S {
        &self.services
    }

    /// Role, term, leader, positions.
    pub fn status(&self) -> Status {
        self.node.status()
    }

    /// Closes: a leader hands over first, for the leader timeout at most.
    ///
    /// # Errors
    /// See [`NodeError`].
    pub fn close(mut self) -> Result<(), NodeError> {
        tracing::info!("closing");
        self.node.resign(self.clock.now());
        let deadline = Instant::now() + self.settings.timings.leader_timeout.0;
        while !self.node.is_resigned() && Instant::now() < deadline {
            self.step()?;
        }
        if let Some(mark) = self.store.wait()? {
            self.node.handle_durable(mark);
        }
        self.terminate_services();
        self.publish();
        self.counters.close();
        if let Some(trace) = &self.trace {
            trace.write()?;
        }
        tracing::info!("closed");
        Ok(())
    }

    fn step(&mut self) -> Result<(), NodeError> {
        if self.work()? {
            self.glance.found();
            return Ok(());
        }
        self.idle()
    }

    /// A turn and what it comes to; true if there may be more to do at once.
    fn work(&mut self) -> Result<bool, NodeError> {
        let busy = self.turn()?;
        self.publish();
        match self.node.halted() {
            Some(halt) => Err(NodeError::Halted(halt)),
            None => Ok(busy),
        }
    }

    /// One turn of the loop; true if there may be more to do at once. Allocates nothing.
    fn turn(&mut self) -> Result<bool, NodeError> {
        self.traced();
        let mut now = self.clock.now();
        let mut lent = self.memory.lent();
        let mut busy = self.doors.receive(now, &mut self.node, &mut lent)?;
        self.traced();
        if let Some(result) = self.state.poll() {
            result?;
            if let Some(state) = self.persisting.take() {
                self.persisted = state;
                self.node.handle_persisted(state);
                busy = true;
            }
        }
        if let Some(mark) = self.store.poll_flushed(&mut self.memory.window)? {
            self.node.handle_durable(mark);
            busy = true;
        }
        self.traced();
        let mut lent = self.memory.lent();
        self.node.handle_timeout(now, &mut lent);
        let more = match self.settings.admin {
            Admin::Deny => self.node.poll_ingress(now, &mut AllowAll, &mut lent),
            Admin::Allow => self
                .node
                .poll_ingress(now, &mut AllowAdministration, &mut lent),
        };
        self.doors.clients_are_behind(more);
        busy |= more;
        self.traced();
        busy |= self.look_after_services()?;
        busy |= self.execute(now);
        self.traced();
        if self.state.is_idle()
            && let Some(state) = self.node.poll_persist()
        {
            self.persisting = Some(state);
            self.state.submit(state);
        }
        // Frames and answers leave before this member writes: nothing in them waits for that, or
        // the core would not give them out.
        let owes_more = self.transmit(now);
        self.traced();
        busy |= owes_more | self.turn_of_storage(&mut now, owes_more)?;
        self.peers.poll(&mut self.node);
        busy |= self.transmit(now);
        self.traced();
        self.memory.give_back(now.instant, &mut self.node);
        self.tell_all();
        Ok(busy)
    }

    /// The part of a turn that writes, perhaps flushes, reads and takes snapshots.
    fn turn_of_storage(&mut self, now: &mut Now, owes_more: bool) -> Result<bool, NodeError> {
        let mut busy = false;
        let (joined, window) = (self.node.joined(), &mut self.memory.window);
        // Others do not wait for this member's disk before they are told.
        let mut mark = self.store.write(joined, !owes_more, window)?;
        self.traced();
        if let Some(flushed) = self.store.flush_here()? {
            (mark, *now) = (Some(flushed), self.clock.now());
        }
        let now = *now;
        if let Some(mark) = mark {
            self.node.handle_durable(mark);
            let mut lent = self.memory.lent();
            self.node.handle_timeout(now, &mut lent);
            self.execute(now);
            busy = true;
        }
        busy |= self.recall();
        if let Some(repair) = self.node.poll_repair() {
            let bytes = &self.memory.catchup[..repair.len];
            self.store.repair(repair.at, bytes)?;
            self.node.handle_repaired(repair);
            if self.node.is_healed() {
                self.begin_anew()?;
            }
            busy = true;
        }
        let mut lent = self.memory.lent();
        let turn = self
            .keeper
            .turn(&mut self.node, &mut self.services.lend(), &mut lent);
        purge(&mut self.store, &mut self.keeper, &mut self.node)?;
        if turn == Turn::Installed {
            self.begin_anew()?;
            // Whatever this member's state was, it is the leader's now.
            self.node.handle_rebuilt();
        }
        Ok(busy | (turn != Turn::Idle))
    }

    /// A step of the turn has ended.
    fn traced(&mut self) {
        if let Some(trace) = &mut self.trace {
            trace.step(&self.node, &self.store, self.doors.left.as_mut());
        }
    }

    /// Hands the services what is committed. True if there is more.
    fn execute(&mut self, now: Now) -> bool {
        let mut lent = self.memory.lent();
        self.node
            .poll_services(now, &mut self.services.lend(), &mut lent)
    }

    /// Sends what is owed. True if there is more.
    fn transmit(&mut self, now: Now) -> bool {
        let lent = self.memory.lent();
        self.doors.transmit(now, &mut self.node, &lent)
    }

    /// Tells the services that run elsewhere how far the log may be executed, and takes what they
    /// have done. True if there was any.
    fn look_after_services(&mut self) -> Result<bool, NodeError> {
        let in_files = self.store.readable(&self.memory.window);
        let limit = self.node.commit().min(in_files);
        let mut busy = false;
        for (id, away) in self.services.away() {
            busy |= away.turn(limit);
            match away.take_ended() {
                None => {}
                Some(Ended::Panicked(what)) => {
                    self.services_failed += 1;
                    self.keeper.lose_hope();
                    let service = id.get();
                    tracing::error!(service, what, "a service has failed: {FAILED}");
                }
                Some(Ended::Halted(halt)) => return Err(NodeError::Halted(halt)),
                Some(Ended::Storage(error)) => return Err(error.into()),
            }
        }
        Ok(busy)
    }

    fn terminate_services(&mut self) {
        let mut lent = self.memory.lent();
        self.node.terminate(&mut self.services.lend(), &mut lent);
        for (id, away) in self.services.away() {
            if !away.terminate(CLOSE_PATIENCE) {
                let service = id.get();
                tracing::warn!(
                    service,
                    "the service is stuck or has failed: it is left behind"
                );
            }
        }
    }

    fn tell_all(&mut self) {
        while let Some(event) = self.node.poll_event() {
            self.elections_won += u64::from(is_won(&event));
            tell(event);
        }
    }

    /// A snapshot from the leader is on the disk, so that the log is replaced; or the log is
    /// healed. The node begins anew with what the disk holds.
    fn begin_anew(&mut self) -> Result<(), NodeError> {
        self.tell_all();
        if let Some(result) = self.state.wait() {
            result?;
            self.persisted = self.persisting.take().unwrap_or(self.persisted);
        }
        // The snapshot may be of the newest term: the state must not be older than the log.
        if let Some(state) = self.node.poll_persist() {
            self.state.submit(state);
            let dead = || NodeError::System(std::io::Error::other("a thread has ended"));
            self.state.wait().ok_or_else(dead)??;
            self.persisted = state;
        }
        for (id, away) in self.services.away() {
            if !away.come_back(SERVICE_PATIENCE) {
                return Err(NodeError::Service(id));
            }
        }
        let mut config = self.node.config().clone();
        config.seed = random_seed();
        let has_state = self.node.commit() > Position::ZERO;
        self.store.wait_for_all();
        let ground = Ground {
            dir: &self.dir,
            settings: &self.settings,
            waker: &self.waker,
            clock: &self.clock,
        };
        let (state, memory) = (self.persisted, &mut self.memory);
        let begun = ground.begin(config, state, &mut self.services, memory)?;
        if has_state && begun.node.applied() == Position::ZERO {
            return Err(NodeError::StateLeft);
        }
        (self.node, self.store) = (begun.node, begun.store);
        self.cold.forget(lengths(&self.memory));
        Ok(())
    }

    /// Takes what the readers have read, and asks them for what the node needs.
    fn recall(&mut self) -> bool {
        let mut busy = false;
        for (at, buffer) in [&mut self.memory.replay, &mut self.memory.catchup]
            .into_iter()
            .enumerate()
        {
            let read = self.store.readers().poll(at);
            let read = match at {
                1 => read.or_else(|| self.keeper.poll_read()),
                _ => read,
            };
            let Some(read) = read else {
                continue;
            };
            let store = &self.store;
            let is_of_use = |recall: &Recall, cuts| cuts == store.cuts() && !is_gone(store, recall);
            if let Some((recall, result)) = self.cold.done(at, read, buffer, is_of_use) {
                self.node.handle_recalled(recall, result);
                busy = true;
            }
        }
        let lent = self.memory.lent();
        if let Some(recall) = self.node.poll_recall(&lent)
            && !is_gone(&self.store, &recall)
            && let Some(bytes) = self.cold.take_buffer(consumer(&recall))
        {
            busy |= self.begin_recall(recall, bytes);
        }
        busy
    }

    /// Reads what the node needs, or asks a reader for it. True if it is there.
    fn begin_recall(&mut self, recall: Recall, mut bytes: Vec<u8>) -> bool {
        let at = consumer(&recall);
        let cached = match recall.consumer {
            Consumer::Replay => self
                .store
                .readers()
                .read_cached(recall.at, recall.len, &mut bytes),
            _ => None,
        };
        let Some(len) = cached else {
            let back = self.read(at, &recall, bytes);
            self.cold.begun(at, recall, self.store.cuts(), back);
            return false;
        };
        self.cold.begun(at, recall, self.store.cuts(), None);
        let read = (bytes, Ok(len));
        let told = self
            .cold
            .done(at, read, &mut self.memory.replay, |_, _| true);
        if let Some((recall, result)) = told {
            self.node.handle_recalled(recall, result);
        }
        true
    }

    /// Starts a cold read; the buffer comes back if the reader is busy.
    fn read(&mut self, at: usize, recall: &Recall, bytes: Vec<u8>) -> Option<Vec<u8>> {
        let Consumer::Snapshot { position, section } = recall.consumer else {
            return self.store.readers().read(at, recall.at, recall.len, bytes);
        };
        let job = ReadJob {
            position,
            section,
            offset: recall.at.get(),
            len: recall.len,
            bytes,
        };
        self.keeper.read(job).map(|job| job.bytes)
    }

    fn idle(&mut self) -> Result<(), NodeError> {
        match self.settings.idle {
            Idle::Spin => std::hint::spin_loop(),
            Idle::Yield => std::thread::yield_now(),
            Idle::Sleep => {
                let begun = Instant::now();
                // Not while the disk is at work: who completes that needs a core as well.
                let is_flushing = self.store.journal().is_flushing();
                if !is_flushing && self.glance.looks_again(begun) {
                    std::thread::yield_now();
                    return Ok(());
                }
                let sleep = self.doze();
                if !sleep.is_zero() {
                    let readable = wait(&self.fds(), sleep)?;
                    self.waker.awake(readable & 1 != 0);
                    self.glance.slept(begun.elapsed(), readable != 0);
                }
            }
        }
        Ok(())
    }

    /// Asks the disk threads to signal from now on, and says how long to wait for that; zero if
    /// something is due already.
    fn doze(&mut self) -> Duration {
        let now = self.clock.instant();
        let mut sleep = SLEEP_MAX;
        if let Some((at, _)) = self.node.poll_timeout() {
            sleep = sleep.min(at.since(now));
        }
        if self.services.is_stalled(self.node.applied()) {
            sleep = sleep.min(STALLED_SLEEP);
        }
        self.waker.about_to_sleep();
        let is_ready = self.store.is_ready() || self.state.is_done() || self.keeper.is_ready();
        let is_ready = is_ready || self.services.away().any(|(_, away)| away.is_ready());
        if is_ready || sleep.is_zero() {
            self.waker.awake(false);
            return Duration::ZERO;
        }
        sleep
    }

    fn publish(&mut self) {
        let status = self.node.status();
        let traffic = self.doors.traffic;
        self.counters.publish(&[
            (Counter::Role, status.role.to_wire() as u64),
            (Counter::Term, status.term.get().into()),
            (Counter::Appended, status.appended.get()),
            (Counter::Durable, status.durable.get()),
            (Counter::Committed, status.committed.get()),
            (Counter::Applied, status.applied.get()),
            (Counter::Digest, status.digest),
            (Counter::Sessions, status.sessions.into()),
            (Counter::Rejects, traffic.rejected),
            (Counter::Received, traffic.received),
            (Counter::Sent, traffic.sent),
            (Counter::SendRefused, traffic.refused),
            (Counter::Flushes, self.store.flushes()),
            (Counter::ElectionsWon, self.elections_won),
            (Counter::Written, self.store.journal().written().get()),
            (Counter::LogStart, status.start.get()),
            (Counter::LogBytes, self.store.bytes()),
            (Counter::Snapshot, status.snapshot.map_or(0, Position::get)),
            (Counter::SnapshotsFailed, self.keeper.failed()),
            (Counter::FlushAge, status.flush_age_ms.into()),
            (Counter::ServiceAge, status.service_age_ms.into()),
            (Counter::Quarantined, status.quarantined.into()),
            (Counter::ClockSteps, self.node.counters().clock_steps),
            (
                Counter::SettingsDiffer,
                status.settings_differ.to_wire().into(),
            ),
            (Counter::ServicesFailed, self.services_failed),
            (Counter::LogSent, self.node.counters().log_sent),
            (Counter::Naks, self.node.counters().naks),
        ]);
    }
}

/// Whether what is asked for is deleted, or is being deleted. Whoever needs it is sent a snapshot.
fn is_gone(store: &LogStore, recall: &Recall) -> bool {
    !matches!(recall.consumer, Consumer::Snapshot { .. }) && store.is_gone(recall.at)
}

fn lengths(memory: &Memory) -> [usize; 2] {
    [&memory.replay, &memory.catchup].map(Vec::len)
}
