//! The node's thread: facts in, work, debts out, sleep.

use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use coracle_core::log::NodeState;
use coracle_core::node::{
    Config, Consumer, Event, Node, ReadError, Recall, SessionTiming, SnapshotPolicy, Status,
};
use coracle_core::raft::Timing;
use coracle_core::service::{Role, Service};
use coracle_core::session::AllowAll;
use coracle_core::units::ClusterId;

use super::doors::Doors;
use super::memory::Memory;
use super::peers::{Addresses, Peers};
use super::{NodeError, SESSIONS, is_initialised, member_id};
use crate::clock::{Clock, random_seed};
use crate::config::{Idle, Settings};
use crate::counters::{Counter, CountersFile};
use crate::net::wait;
use crate::signals::StopSignal;
use crate::storage::recover::recover;
use crate::storage::{DataDir, LogStore, NodeStateFile, StorageError};
use crate::waker::Waker;
use crate::worker::Worker;

/// The longest sleep: how soon a signal is noticed at the latest.
const SLEEP_MAX: Duration = Duration::from_millis(100);
/// How long a stalled service waits to be asked again.
const STALLED_SLEEP: Duration = Duration::from_millis(5);

/// After how many bytes of log the members compare their states.
const CHECKPOINT_EVERY: u64 = 1 << 20;

/// A thread that never sleeps polls so often that the log is at rest only after many polls.
const CONFIRM_AFTER_POLLS_AWAKE: u32 = 1 << 17;

/// One running member, for a poll loop of the caller's own; see [`Runner::poll`].
pub struct Runner<S> {
    settings: Settings,
    stop: StopSignal,
    clock: Clock,
    waker: Waker,
    node: Node<SESSIONS>,
    service: S,
    memory: Memory,
    store: LogStore,
    state: Worker<NodeState, Result<(), StorageError>>,
    persisting: Option<NodeState>,
    /// The cold reads under way, each with how often the log had been cut when it began.
    recalls: [Option<(Recall, u64)>; 2],
    spare: [Option<Vec<u8>>; 2],
    doors: Doors,
    peers: Peers,
    counters: CountersFile,
    elections_won: u64,
    dozing: bool,
    _dir: DataDir,
}

impl<S: Service> Runner<S> {
    /// Opens the directory, recovers the log, binds the sockets.
    pub(super) fn start(
        settings: Settings,
        service: S,
        stop: StopSignal,
    ) -> Result<Self, NodeError> {
        if !is_initialised(&settings) {
            let path = settings.dir.clone();
            return Err(StorageError::Uninitialised { path }.into());
        }
        let dir = DataDir::open(&settings.dir)?;
        let (mut file, state) = NodeStateFile::open(dir.path())?;
        check_identity(&dir, &settings, &state)?;
        let waker = Waker::new()?;
        let mut memory = Memory::new(&settings)?;
        let cluster = ClusterId(settings.cluster);
        let recovered = recover(&dir.log(), cluster, &mut memory.window)?;
        let segment_length = settings.segment_length.0 as u32;
        let mut journal = recovered.journal(cluster, segment_length);
        if settings.idle != Idle::Sleep {
            journal.set_confirm_after(CONFIRM_AFTER_POLLS_AWAKE);
        }
        let store = LogStore::new(
            dir.log(),
            cluster,
            segment_length,
            settings.durability,
            journal,
            &waker,
        )?;
        let addresses = Addresses::resolve(&settings)?;
        let doors = Doors::bind(addresses.member, addresses.client)?;
        let peers = Peers::new(&settings, addresses.member, &waker)?;
        let clock = Clock::new();
        let config = core_config(&settings, addresses)?;
        let node = Node::new(config, state, &recovered, clock.now()).map_err(NodeError::Core)?;
        let counters =
            CountersFile::create(&dir.counters(), settings.cluster, settings.member.into())?;
        let spare = [
            Some(vec![0; memory.replay.len()]),
            Some(vec![0; memory.catchup.len()]),
        ];
        if state.quarantined {
            tracing::error!(member = settings.member, "quarantined: {REBUILD}");
        }
        tracing::info!(
            member = settings.member,
            cluster = settings.cluster,
            dir = %settings.dir.display(),
            log_end = recovered.tail.end.get(),
            torn = recovered.torn,
            "started"
        );
        Ok(Self {
            state: Worker::spawn("node-state", waker.clone(), move |state| file.write(&state))?,
            settings,
            stop,
            clock,
            waker,
            node,
            service,
            memory,
            store,
            persisting: None,
            recalls: [None; 2],
            spare,
            doors,
            peers,
            counters,
            elections_won: 0,
            dozing: false,
            _dir: dir,
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

    /// What is readable when there is work: the disk threads' signal, and both sockets.
    pub fn fds(&self) -> [BorrowedFd<'_>; 3] {
        let [member, client] = self.doors.fds();
        [self.waker.fd(), member, client]
    }

    /// The service, as of the last message that was executed.
    pub fn service(&self) -> &S {
        &self.service
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
        self.publish();
        self.counters.close();
        tracing::info!("closed");
        Ok(())
    }

    fn step(&mut self) -> Result<(), NodeError> {
        if self.work()? {
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
        let now = self.clock.now();
        let mut lent = self.memory.lent();
        let mut busy = self.doors.receive(now, &mut self.node, &mut lent)?;
        if let Some(result) = self.state.poll() {
            result?;
            if let Some(state) = self.persisting.take() {
                self.node.handle_persisted(state);
                busy = true;
            }
        }
        self.node.handle_timeout(now, &mut lent);
        busy |= self.node.poll_ingress(now, &mut AllowAll, &mut lent);
        busy |= self.node.poll_service(now, &mut self.service, &mut lent);
        if self.state.is_idle()
            && let Some(state) = self.node.poll_persist()
        {
            self.persisting = Some(state);
            self.state.submit(state);
        }
        let joined = self.node.joined();
        if let Some(mark) = self.store.poll(joined, &mut self.memory.window)? {
            self.node.handle_durable(mark);
            busy = true;
        }
        busy |= self.recall();
        self.peers.poll(&mut self.node);
        let lent = self.memory.lent();
        busy |= self.doors.transmit(now, &mut self.node, &lent);
        while let Some(event) = self.node.poll_event() {
            self.tell(event);
        }
        Ok(busy)
    }

    /// Takes what the readers have read, and asks them for what the node needs.
    fn recall(&mut self) -> bool {
        let mut busy = false;
        for (at, buffer) in [&mut self.memory.replay, &mut self.memory.catchup]
            .into_iter()
            .enumerate()
        {
            let Some((mut bytes, result)) = self.store.poll_read(at) else {
                continue;
            };
            std::mem::swap(buffer, &mut bytes);
            self.spare[at] = Some(bytes);
            if let Some((recall, cuts)) = self.recalls[at].take() {
                if cuts != self.store.cuts() {
                    // The node asks again.
                    continue;
                }
                let result = result.map_err(|error| {
                    tracing::error!(%error, "cold read");
                    ReadError
                });
                self.node.handle_recalled(recall, result);
                busy = true;
            }
        }
        let lent = self.memory.lent();
        if let Some(recall) = self.node.poll_recall(&lent) {
            let at = match recall.consumer {
                Consumer::Replay => 0,
                Consumer::Catchup | Consumer::Annals => 1,
            };
            if self.recalls[at].is_none()
                && let Some(bytes) = self.spare[at].take()
            {
                self.spare[at] = self.store.read(at, recall.at, recall.len, bytes);
                self.recalls[at] = Some((recall, self.store.cuts()));
            }
        }
        busy
    }

    fn idle(&mut self) -> Result<(), NodeError> {
        match self.settings.idle {
            Idle::Spin => std::hint::spin_loop(),
            Idle::Yield => std::thread::yield_now(),
            Idle::Sleep => {
                let sleep = self.doze();
                if !sleep.is_zero() {
                    let readable = wait(&self.fds(), sleep)?;
                    self.waker.awake(readable & 1 != 0);
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
        if !self.service.ready() {
            sleep = sleep.min(STALLED_SLEEP);
        }
        self.waker.about_to_sleep();
        if self.store.is_ready() || self.state.is_done() || sleep.is_zero() {
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
            (Counter::Snapshot, status.snapshot.map_or(0, |at| at.get())),
            (Counter::LogStart, status.start.get()),
            (Counter::FlushAge, status.flush_age_ms.into()),
            (Counter::ServiceAge, status.service_age_ms.into()),
            (Counter::Quarantined, status.quarantined.into()),
            (Counter::ClockSteps, self.node.counters().clock_steps),
        ]);
    }

    fn tell(&mut self, event: Event) {
        match event {
            Event::RoleChanged { role, term } => {
                self.elections_won += u64::from(role == Role::Leader);
                tracing::info!(?role, term = term.get(), "role changed");
            }
            Event::Joined { term, leader } => {
                tracing::info!(term = term.get(), leader = leader.get(), "joined");
            }
            Event::Truncated { from, to } => {
                let (from, to) = (from.get(), to.get());
                tracing::warn!(from, to, "log cut: no quorum had these bytes");
            }
            Event::SessionOpened(session) => tracing::debug!(%session, "session opened"),
            Event::SessionClosed(session) => tracing::debug!(%session, "session closed"),
            Event::Halted(halt) => tracing::error!(%halt, "halted"),
            other => tell_health(other),
        }
    }
}

/// What a log says of a member that is quarantined: by itself, and by its leader.
const REBUILD: &str = "its state is not the others'. It neither leads nor serves snapshots until it \
    is rebuilt: stop it, check its memory and disk, remove its snapshots and its log, and start it \
    again; it is rebuilt from the others";

fn tell_health(event: Event) {
    match event {
        Event::Quarantined(at) => {
            tracing::error!(position = at.get(), "this member is quarantined: {REBUILD}");
        }
        Event::MemberQuarantined(member) => {
            tracing::error!(member = member.get(), "a member is quarantined: {REBUILD}");
        }
        Event::NoAgreement(at) => tracing::error!(
            position = at.get(),
            "members have different states, and no majority has the same: nothing is done about \
             it, because nobody can tell who is right. Compare what they hold (coracle status \
             shows digests), decide whom to believe, and rebuild the others; a service that is \
             not deterministic looks like this"
        ),
        Event::HandingOver { to, ages } => tracing::warn!(
            to = to.get(),
            flush_age_ms = ages.flush_ms,
            service_age_ms = ages.service_ms,
            "this leader is slow and hands over to one that is not: look at its disk (flush age) \
             or at its service (service age)"
        ),
        Event::ClockStepped { by_ms } => tracing::warn!(
            by_ms,
            "the wall clock has stepped: the cluster's time never goes back, timers that are due \
             fire late or at once; look at what sets this machine's clock"
        ),
        _ => {}
    }
}

fn check_identity(
    dir: &DataDir,
    settings: &Settings,
    state: &NodeState,
) -> Result<(), StorageError> {
    let foreign = |what, expected, found| StorageError::Foreign {
        path: dir.node_state(),
        what,
        expected,
        found,
    };
    if state.cluster.0 != settings.cluster {
        return Err(foreign("cluster", settings.cluster, state.cluster.0));
    }
    let found = state.member.get();
    if found != settings.member {
        return Err(foreign("member", settings.member.into(), found.into()));
    }
    Ok(())
}

fn core_config(settings: &Settings, addresses: Addresses) -> Result<Config, NodeError> {
    let t = &settings.timings;
    Ok(Config {
        cluster: ClusterId(settings.cluster),
        member: member_id(settings)?,
        members: addresses.table,
        timing: Timing {
            heartbeat_interval: t.heartbeat.0,
            leader_timeout: t.leader_timeout.0,
            canvass_interval: t.canvass.0,
            nomination_delay: t.nomination.0,
            ballot_timeout: t.ballot.0,
            sick_after: t.leader_timeout.0 * 2,
        },
        sessions: SessionTiming {
            session_timeout: t.session_timeout.0,
            egress_timeout: t.egress_timeout.0,
        },
        // One slot in eight is kept for answering clients that are refused.
        sessions_max: SESSIONS - SESSIONS / 8,
        segment_length: settings.segment_length.0 as u32,
        mtu: settings.mtu.0 as usize,
        message_max: settings.message_max.0 as usize,
        egress_mtu: settings.mtu.0 as usize,
        services: 1,
        snapshots: SnapshotPolicy::default(),
        log_max: 0,
        checkpoint_every: CHECKPOINT_EVERY,
        seed: random_seed(),
    })
}
