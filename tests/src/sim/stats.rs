//! What a run, or many runs, amounted to.

use std::fmt;

/// Each kind of fault that the simulator injects.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(usize)]
#[allow(missing_docs, reason = "the names are what is printed")]
pub enum Fault {
    Loss,
    Duplicate,
    Delay,
    Replay,
    Overflow,
    CutBothWays,
    CutOneWay,
    Bridge,
    Isolate,
    Heal,
    DamagedNak,
    WallStep,
    RateChange,
    Kill,
    PowerLoss,
    KillAll,
    PowerLossAll,
    Restart,
    Wipe,
    Torn,
    SlowFlush,
    ServiceStall,
    NotPolled,
    Resign,
    Transfer,
    ClientGone,
    ClientSilent,
    SnapshotAsked,
    SnapshotFailed,
    SnapshotDamaged,
    InstallFailed,
    LogRot,
    TailRot,
    LogRotAtOnce,
    RotReplaced,
    ReadFailed,
}

impl Fault {
    const COUNT: usize = Self::ReadFailed as usize + 1;

    const NAMES: [&'static str; Self::COUNT] = [
        "loss",
        "duplicate",
        "delay",
        "replay",
        "overflow",
        "cut-both-ways",
        "cut-one-way",
        "bridge",
        "isolate",
        "heal",
        "damaged-nak",
        "wall-step",
        "rate-change",
        "kill",
        "power-loss",
        "kill-all",
        "power-loss-all",
        "restart",
        "wipe",
        "torn-write",
        "slow-flush",
        "service-stall",
        "not-polled",
        "resign",
        "transfer",
        "client-gone",
        "client-silent",
        "snapshot-asked",
        "snapshot-failed",
        "snapshot-damaged",
        "install-failed",
        "log-rot",
        "tail-rot",
        "log-rot-at-once",
        "rot-replaced",
        "read-failed",
    ];

    /// The name that is printed.
    pub const fn name(self) -> &'static str {
        Self::NAMES[self as usize]
    }
}

/// Counts of one run, or of many added up.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Runs.
    pub seeds: u64,
    /// Calls into the core.
    pub steps: u64,
    /// Virtual nanoseconds.
    pub virtual_nanos: u64,
    /// Leaders that were seen, one a term.
    pub elections: u64,
    /// Client messages in the committed log.
    pub committed: u64,
    /// Bytes of the committed log.
    pub committed_bytes: u64,
    /// Client messages whose answer the client has received.
    pub acknowledged: u64,
    /// Sessions that were opened.
    pub sessions: u64,
    /// Logs that were cut on joining a term.
    pub truncations: u64,
    /// Offers that a closed window refused.
    pub back_pressured: u64,
    /// Datagrams that arrived.
    pub datagrams: u64,
    /// Timers that have fired, in the committed log.
    pub timers: u64,
    /// Messages of services in the committed log.
    pub said: u64,
    /// Snapshots that members have stored.
    pub snapshots: u64,
    /// Starts from a snapshot.
    pub loads: u64,
    /// Processes of which a service ran away from the node.
    pub parted: u64,
    /// Starts of boards.
    pub boards: u64,
    /// How often the start of a log was deleted.
    pub purges: u64,
    /// Snapshots that members have been sent whole.
    pub installs: u64,
    /// Leaderships that were handed over because a disk or a service stood still.
    pub hand_overs: u64,
    /// Bytes of log that leaders have sent to all at once.
    pub log_to_all: u64,
    /// Bytes of log that leaders have sent to one.
    pub log_to_one: u64,
    faults: Faults,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Faults([u64; Fault::COUNT]);

impl Default for Faults {
    fn default() -> Self {
        Self([0; Fault::COUNT])
    }
}

impl Stats {
    /// One more fault of this kind.
    pub fn count(&mut self, fault: Fault) {
        self.faults.0[fault as usize] += 1;
    }

    /// How many faults of this kind there were.
    pub fn faults(&self, fault: Fault) -> u64 {
        self.faults.0[fault as usize]
    }

    /// Adds another run's counts.
    pub fn add(&mut self, other: &Self) {
        self.seeds += other.seeds;
        self.steps += other.steps;
        self.virtual_nanos += other.virtual_nanos;
        self.elections += other.elections;
        self.committed += other.committed;
        self.committed_bytes += other.committed_bytes;
        self.acknowledged += other.acknowledged;
        self.sessions += other.sessions;
        self.truncations += other.truncations;
        self.back_pressured += other.back_pressured;
        self.datagrams += other.datagrams;
        self.timers += other.timers;
        self.said += other.said;
        self.snapshots += other.snapshots;
        self.loads += other.loads;
        self.parted += other.parted;
        self.boards += other.boards;
        self.purges += other.purges;
        self.installs += other.installs;
        self.hand_overs += other.hand_overs;
        self.log_to_all += other.log_to_all;
        self.log_to_one += other.log_to_one;
        for (mine, theirs) in self.faults.0.iter_mut().zip(other.faults.0) {
            *mine += theirs;
        }
    }
}

impl fmt::Display for Stats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "seeds {}, steps {}, virtual time {} s, datagrams {}",
            self.seeds,
            self.steps,
            self.virtual_nanos / 1_000_000_000,
            self.datagrams
        )?;
        writeln!(
            f,
            "elections {}, truncations {}, sessions {}, messages committed {} ({} KiB of log), \
             acknowledged {}, offers pushed back {}",
            self.elections,
            self.truncations,
            self.sessions,
            self.committed,
            self.committed_bytes / 1024,
            self.acknowledged,
            self.back_pressured
        )?;
        writeln!(
            f,
            "timers fired {}, messages of services {}, snapshots {}, starts from one {}, \
             purges {}, installs {}, services away {}, starts of boards {}, hand-overs of the \
             unwell {}, log sent to all {} KiB, to one {} KiB",
            self.timers,
            self.said,
            self.snapshots,
            self.loads,
            self.purges,
            self.installs,
            self.parted,
            self.boards,
            self.hand_overs,
            self.log_to_all / 1024,
            self.log_to_one / 1024
        )?;
        write!(f, "faults:")?;
        for (name, count) in Fault::NAMES.iter().zip(self.faults.0) {
            if count > 0 {
                write!(f, " {name} {count}")?;
            }
        }
        Ok(())
    }
}
