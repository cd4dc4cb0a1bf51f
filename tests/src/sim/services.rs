//! The services that simulated members run.

use coracle_core::service::{CloseReason, Cluster, LeadershipTerm, Service};
use coracle_core::units::SessionId;

use super::model::{DIGEST_ZERO, digest_step};

/// Keeps a hash of everything that was applied, in order, and sends every message back.
#[derive(Clone, Debug)]
pub struct History {
    digest: u64,
    /// While false, nothing is taken.
    pub ready: bool,
    /// Whether messages are sent back.
    pub echo: bool,
    /// The first answer of the cluster that a service must never get here.
    pub refused: Option<u64>,
}

impl History {
    /// Before the first record.
    pub fn new(echo: bool) -> Self {
        Self {
            digest: DIGEST_ZERO,
            ready: true,
            echo,
            refused: None,
        }
    }

    fn step(&mut self, cluster: &Cluster<'_>, kind: u8, number: u64, bytes: &[u8]) {
        let position = cluster.position().get();
        self.digest = digest_step(self.digest, kind, position, number, bytes);
    }
}

impl Service for History {
    fn ready(&self) -> bool {
        self.ready
    }

    fn on_session_open(&mut self, cluster: &mut Cluster<'_>, session: SessionId, _: &[u8]) {
        self.step(cluster, b'o', session.opened_at().get(), &[]);
    }

    fn on_session_close(
        &mut self,
        cluster: &mut Cluster<'_>,
        session: SessionId,
        _reason: CloseReason,
    ) {
        self.step(cluster, b'c', session.opened_at().get(), &[]);
    }

    fn on_session_message(
        &mut self,
        cluster: &mut Cluster<'_>,
        session: SessionId,
        message: &[u8],
    ) {
        self.step(cluster, b'm', session.opened_at().get(), message);
        if self.echo && cluster.offer(session, &[message]).is_err() {
            // The session is open here and the message was short enough to come in.
            self.refused.get_or_insert(cluster.position().get());
        }
    }

    fn on_new_leadership_term(&mut self, cluster: &mut Cluster<'_>, term: &LeadershipTerm) {
        self.step(cluster, b't', u64::from(term.term.get()), &[]);
    }

    fn digest(&self) -> u64 {
        self.digest
    }
}
