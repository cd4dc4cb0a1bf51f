//! A service that says what it is told, and keeps no state: what is counted is the core, and not
//! the digest of every byte that `Echo` keeps.

use coracle_core::service::{
    Cluster, Progress, Service, SnapshotError, SnapshotReader, SnapshotWriter,
};
use coracle_core::units::SessionId;

pub struct Mirror {
    /// Whether it answers. One that does not is what a consensus library alone would be counted
    /// with.
    pub answers: bool,
    /// Messages that were executed.
    pub executed: u64,
}

impl Service for Mirror {
    fn on_session_message(&mut self, cluster: &mut Cluster<'_>, from: SessionId, message: &[u8]) {
        self.executed += 1;
        if self.answers {
            let offered = cluster.offer(from, &[message]);
            assert!(offered.is_ok(), "the session is open, and its client reads");
        }
    }

    fn digest(&self) -> u64 {
        0
    }

    fn write_snapshot(&mut self, _: &mut SnapshotWriter<'_>) -> Result<Progress, SnapshotError> {
        Ok(Progress::Done)
    }

    fn read_snapshot(&mut self, _: &mut SnapshotReader<'_>) -> Result<(), SnapshotError> {
        Ok(())
    }
}
