//! Where a service runs that is away from its node.

use coracle_core::node::{Container, ContainerLent, Halt, Ran};
use coracle_core::service::{Progress, Role, Service, SnapshotError, SnapshotWriter};
use coracle_core::snapshot::Sums;
use coracle_core::time::Now;
use coracle_core::units::Position;
use embedded_io::{ErrorKind, Write};

use super::calls::Noted;
use super::{News, Orders};

/// The memory of one container: see `coracle_core::node::ContainerLent`.
#[derive(Clone, Debug)]
pub struct Memory {
    /// What the service has armed and offered.
    pub service: Vec<u8>,
    /// Where messages are put together.
    pub assembly: Vec<u8>,
}

impl Memory {
    fn lent(&mut self) -> ContainerLent<'_> {
        ContainerLent {
            service: &mut self.service,
            assembly: &mut self.assembly,
        }
    }
}

/// See the module's text. `N` is that of the node.
#[derive(Debug)]
pub struct Executor<S, const N: usize> {
    container: Container<N>,
    service: S,
    memory: Memory,
    role: Role,
    started: bool,
    /// It waits for what is decided on the action that ends here.
    action: Option<Position>,
    /// The snapshot that is being written.
    saving: Option<Position>,
    /// Nothing of it is written: until then nothing is executed, because a service may write all at
    /// once what it has then.
    is_first: bool,
    /// It is written, and the node has not said so.
    is_saved: bool,
    /// The service had nothing to write when last asked.
    is_later: bool,
}

impl<S: Service, const N: usize> Executor<S, N> {
    /// `memory` as `Node::container` has filled it.
    pub fn new(container: Container<N>, service: S, memory: Memory) -> Self {
        Self {
            container,
            service,
            memory,
            role: Role::Follower,
            started: false,
            action: None,
            saving: None,
            is_first: false,
            is_saved: false,
            is_later: false,
        }
    }

    /// The service, back.
    pub fn into_service(self) -> S {
        self.service
    }

    /// The snapshot that is being written.
    pub fn saving(&self) -> Option<Position> {
        self.saving
    }

    /// The service.
    pub fn service(&mut self) -> &mut S {
        &mut self.service
    }

    /// The end of what it has read of the log.
    pub fn at(&self) -> Position {
        self.container.reads_at()
    }

    /// Where the bytes for [`Self::run`] start; `None` while it waits for what is decided on a
    /// snapshot or to begin with it, or while the service takes no more.
    pub fn reads_at(&self) -> Option<Position> {
        let may = !self.is_waiting() && self.service.ready(self.container.position());
        may.then(|| self.container.reads_at())
    }

    /// Whether it waits for what is decided on a snapshot, or to begin with it.
    pub fn is_waiting(&self) -> bool {
        self.action.is_some() || self.is_first
    }

    /// Does what the stand-in wants. True if something came of it.
    pub fn obey(&mut self, orders: &Orders) -> bool {
        let mut changed = false;
        if !self.started || orders.role != self.role {
            (self.started, self.role) = (true, orders.role);
            let mut lent = self.memory.lent();
            self.container
                .tell(orders.role, &mut self.service, &mut lent);
            changed = true;
        }
        if self.saving.is_some() && self.saving != orders.taken {
            (self.saving, self.is_first) = (None, false);
            self.service.end_snapshot();
            changed = true;
        }
        if let Some(at) = self.action.filter(|at| *at <= orders.decided) {
            self.action = None;
            if orders.taken == Some(at) {
                self.service.begin_snapshot();
                (self.saving, self.is_saved, self.is_first) = (Some(at), false, true);
                self.is_later = false;
            }
            changed = true;
        }
        changed
    }

    /// Executes the records in `bytes`: see `Container::execute`.
    ///
    /// # Errors
    /// Those of `Container::execute`.
    pub fn run(&mut self, bytes: &[u8], news: &mut News) -> Result<Ran, Halt> {
        let mut noted = Noted {
            service: &mut self.service,
            calls: &mut news.calls,
        };
        let mut lent = self.memory.lent();
        let ran = self.container.execute(bytes, &mut noted, &mut lent)?;
        if let Ran::Action(at) = ran {
            self.action = Some(at);
        }
        Ok(ran)
    }

    /// Completes the news with where it stands.
    pub fn tell(&self, news: &mut News) {
        news.executed = self.container.position();
        news.action = self.action;
        news.saving = self.saving;
    }

    /// Whether there is more of a snapshot to write.
    pub fn is_saving(&self) -> bool {
        self.saving.is_some() && !self.is_saved
    }

    /// Whether the service has more to write, and had nothing when last asked.
    pub fn is_later(&self) -> bool {
        self.is_saving() && self.is_later
    }

    /// The service goes back, as it is: what it keeps for a snapshot is kept for nobody.
    pub fn stop(&mut self) {
        if self.saving.take().is_some() {
            self.service.end_snapshot();
        }
    }

    /// Writes the next piece of the snapshot; what came of it, if that was the last.
    pub fn save(
        &mut self,
        sink: &mut dyn Write<Error = ErrorKind>,
    ) -> Option<Result<(), SnapshotError>> {
        // The sums that count are made where the section is written.
        (self.is_first, self.is_later) = (false, false);
        let mut sums = Sums::new();
        let mut out = SnapshotWriter::new(sink, &mut sums);
        let saved = match self.service.write_snapshot(&mut out) {
            Ok(Progress::Done) => Ok(()),
            Ok(progress) => {
                self.is_later = progress == Progress::Later;
                return None;
            }
            Err(error) => Err(error),
        };
        self.is_saved = true;
        Some(saved)
    }

    /// Work outside determinism.
    pub fn background(&mut self, now: Now) {
        self.service.on_background_work(now);
    }

    /// The node closes.
    pub fn terminate(&mut self) {
        let mut lent = self.memory.lent();
        self.container.terminate(&mut self.service, &mut lent);
    }
}
