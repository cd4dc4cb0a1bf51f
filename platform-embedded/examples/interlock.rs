//! A setpoint and its interlock, agreed on by three controllers: whichever of them drives the
//! output, all have the same setpoint, the same trips, and the same idea of who is still watching.
//!
//! A client sends 8 bytes: a command (u32) and its argument (i32, little-endian), and is answered
//! with 16: whether it was taken, the setpoint, the trips, how many changes there were. Without a
//! word from any operator for so long, the interlock trips by itself: by the cluster's time, which
//! is the same everywhere.
//!
//! It has no `main`: where that comes from, and what the board is, is the firmware's business.
#![no_std]

use core::time::Duration;

use coracle_core::castagnoli::extend;
use coracle_core::node::{Config, Node};
use coracle_core::service::{
    Cluster, Progress, Service, SnapshotError, SnapshotReader, SnapshotWriter,
};
use coracle_core::session::AllowAll;
use coracle_core::time::{Instant, Timestamp};
use coracle_core::units::SessionId;
use coracle_embedded::{
    Application, Clock, Memory, Network, Next, Nor, OpenError, Superloop, TurnError,
};
use embedded_storage::nor_flash::NorFlash;

/// Puts the setpoint to the argument. Refused outside its limits, and while anything is tripped.
pub const SET: u32 = 1;
/// An input of this number has tripped: the output goes to its safe state.
pub const TRIP: u32 = 2;
/// An operator has looked at the input of this number: it counts no more.
pub const RESET: u32 = 3;
/// An operator is there.
pub const WATCH: u32 = 4;

/// The trip that nobody's silence raises but the operators'.
pub const SILENCE: u32 = 31;
const LIMITS: core::ops::RangeInclusive<i32> = 0..=1_000;
const PATIENCE: Duration = Duration::from_secs(30);
const WATCHDOG: i64 = 1;
const FORMAT: u32 = 1;

/// The replicated state machine.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Interlock {
    setpoint: i32,
    trips: u32,
    changes: u64,
    digest: u32,
}

impl Interlock {
    /// Nothing is set and nothing has tripped.
    pub const fn new() -> Self {
        Self {
            setpoint: 0,
            trips: 0,
            changes: 0,
            digest: 0,
        }
    }

    /// What the output shall be; `None`: its safe state. Only the leader drives it.
    pub const fn output(&self) -> Option<i32> {
        if self.trips == 0 {
            Some(self.setpoint)
        } else {
            None
        }
    }

    fn apply(&mut self, command: u32, argument: i32) -> bool {
        let bit = u32::try_from(argument)
            .ok()
            .and_then(|n| 1_u32.checked_shl(n));
        match (command, bit) {
            (SET, _) if self.trips == 0 && LIMITS.contains(&argument) => self.setpoint = argument,
            (TRIP, Some(bit)) => self.trips |= bit,
            (RESET, Some(bit)) => self.trips &= !bit,
            (WATCH, _) => return true,
            _ => return false,
        }
        self.changes += 1;
        let [a, b] = [command.to_le_bytes(), argument.to_le_bytes()];
        self.digest = extend(extend(self.digest, &a), &b);
        true
    }

    fn watch(cluster: &mut Cluster<'_>) {
        let deadline = Timestamp(cluster.time().0 + PATIENCE.as_millis() as i64);
        // There is room for ten timers in the least memory, and this is one.
        let _armed = cluster.schedule_timer(WATCHDOG, deadline).is_ok();
    }
}

impl Service for Interlock {
    fn on_session_message(
        &mut self,
        cluster: &mut Cluster<'_>,
        session: SessionId,
        message: &[u8],
    ) {
        let Some((command, argument)) = message.split_first_chunk::<4>() else {
            return;
        };
        let argument = argument.first_chunk().map_or(0, |a| i32::from_le_bytes(*a));
        let is_taken = self.apply(u32::from_le_bytes(*command), argument);
        Self::watch(cluster);
        let parts = [
            &u32::from(is_taken).to_le_bytes()[..],
            &self.setpoint.to_le_bytes(),
            &self.trips.to_le_bytes(),
            &(self.changes as u32).to_le_bytes(),
        ];
        // Who is gone meanwhile needs no answer.
        let _answered = cluster.offer(session, &parts).is_ok();
    }

    fn on_timer_event(&mut self, _: &mut Cluster<'_>, _: i64, _: Timestamp) {
        self.apply(TRIP, SILENCE as i32);
    }

    fn digest(&self) -> u64 {
        u64::from(self.digest)
    }

    /// All of it at once: it is 24 bytes.
    fn write_snapshot(&mut self, out: &mut SnapshotWriter<'_>) -> Result<Progress, SnapshotError> {
        out.u32(FORMAT)?;
        out.u32(self.setpoint as u32)?;
        out.u32(self.trips)?;
        out.u64(self.changes)?;
        out.u32(self.digest)?;
        Ok(Progress::Done)
    }

    fn read_snapshot(&mut self, from: &mut SnapshotReader<'_>) -> Result<(), SnapshotError> {
        if from.u32()? != FORMAT {
            return Err(SnapshotError::Content);
        }
        *self = Self {
            setpoint: from.u32()? as i32,
            trips: from.u32()?,
            changes: from.u64()?,
            digest: from.u32()?,
        };
        Ok(())
    }
}

/// What a controller's board has beside clock and network.
pub trait Controller: Clock + Network {
    /// Drives the output, or puts it in its safe state. Called after every turn.
    fn drive(&mut self, output: Option<i32>);

    /// Sleeps until then, or until a datagram arrives.
    fn sleep(&mut self, until: Option<Instant>);
}

/// How many clients may be connected: a panel, a supervisor, and a slot for who is refused.
pub const SESSIONS: usize = 4;

/// Runs for ever, or until this controller must not go on: then its board is reset. The node is a
/// `static`'s, as the memory is.
///
/// # Errors
/// See [`OpenError`] and [`TurnError`].
pub fn run<T: Controller, F: NorFlash>(
    node: &mut Node<SESSIONS>,
    board: T,
    flash: F,
    config: Config,
    memory: Memory<&mut [u8]>,
) -> Result<TurnError<F::Error>, OpenError<F::Error>> {
    let application = Application {
        service: Interlock::new(),
        authenticator: AllowAll,
    };
    let device = Nor::new(flash);
    let mut node = Superloop::open_in(node, board, device, application, config, memory)?;
    loop {
        let next = match node.turn() {
            Ok(next) => next,
            Err(error) => return Ok(error),
        };
        let is_leader = node.node().role() == coracle_core::service::Role::Leader;
        let output = node.service().output().filter(|_| is_leader);
        node.board().drive(output);
        match next {
            Next::Now => {}
            Next::At(at) => node.board().sleep(Some(at)),
            Next::Datagram => node.board().sleep(None),
        }
    }
}
