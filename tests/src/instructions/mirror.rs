//! A service that says what it is told, and keeps no state: what is counted is the core, and not
//! the digest of every byte that `Echo` keeps.

use coracle_core::service::{
    Cluster, Progress, Service, SnapshotError, SnapshotReader, SnapshotWriter,
};
use coracle_core::units::SessionId;

#[derive(Default)]
pub struct Mirror;

impl Service for Mirror {
    fn on_session_message(&mut self, cluster: &mut Cluster<'_>, from: SessionId, message: &[u8]) {
        let offered = cluster.offer(from, &[message]);
        assert!(offered.is_ok(), "the session is open, and its client reads");
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
