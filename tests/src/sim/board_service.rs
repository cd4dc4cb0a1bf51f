//! A service that a superloop has and its observer looks into.

use std::cell::RefCell;
use std::rc::Rc;

use coracle_core::service::{
    CloseReason, Cluster, LeadershipTerm, Progress, Role, Service, SnapshotError, SnapshotReader,
    SnapshotWriter,
};
use coracle_core::time::Timestamp;
use coracle_core::units::{Position, ServiceId, SessionId};

use super::services::History;

/// The same history as somebody else has.
#[derive(Clone, Debug)]
pub struct Shared(pub Rc<RefCell<History>>);

impl Service for Shared {
    fn ready(&self, at: Position) -> bool {
        self.0.borrow().ready(at)
    }

    fn on_start(&mut self, cluster: &mut Cluster<'_>) {
        self.0.borrow_mut().on_start(cluster);
    }

    fn on_role_change(&mut self, cluster: &mut Cluster<'_>, role: Role) {
        self.0.borrow_mut().on_role_change(cluster, role);
    }

    fn on_session_open(&mut self, cluster: &mut Cluster<'_>, id: SessionId, principal: &[u8]) {
        self.0.borrow_mut().on_session_open(cluster, id, principal);
    }

    fn on_session_close(&mut self, cluster: &mut Cluster<'_>, id: SessionId, why: CloseReason) {
        self.0.borrow_mut().on_session_close(cluster, id, why);
    }

    fn on_session_message(&mut self, cluster: &mut Cluster<'_>, id: SessionId, message: &[u8]) {
        self.0.borrow_mut().on_session_message(cluster, id, message);
    }

    fn on_timer_event(&mut self, cluster: &mut Cluster<'_>, correlation: i64, due: Timestamp) {
        self.0
            .borrow_mut()
            .on_timer_event(cluster, correlation, due);
    }

    fn on_service_message(&mut self, cluster: &mut Cluster<'_>, from: ServiceId, message: &[u8]) {
        self.0
            .borrow_mut()
            .on_service_message(cluster, from, message);
    }

    fn on_new_leadership_term(&mut self, cluster: &mut Cluster<'_>, term: &LeadershipTerm) {
        self.0.borrow_mut().on_new_leadership_term(cluster, term);
    }

    fn digest(&self) -> u64 {
        self.0.borrow().digest()
    }

    fn begin_snapshot(&mut self) {
        self.0.borrow_mut().begin_snapshot();
    }

    fn write_snapshot(&mut self, out: &mut SnapshotWriter<'_>) -> Result<Progress, SnapshotError> {
        self.0.borrow_mut().write_snapshot(out)
    }

    fn end_snapshot(&mut self) {
        self.0.borrow_mut().end_snapshot();
    }

    fn read_snapshot(&mut self, from: &mut SnapshotReader<'_>) -> Result<(), SnapshotError> {
        self.0.borrow_mut().read_snapshot(from)
    }
}
