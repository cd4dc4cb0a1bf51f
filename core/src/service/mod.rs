//! What a replicated service is, and what it may do.
//!
//! A service is fed the committed messages of the log, in order, on every member alike (Aeron:
//! `ClusteredService`). Anything a callback can observe is a function of the log up to its
//! position, so every member's service reaches the same state and gives the same answers. Up to
//! `SERVICES_MAX` services share one log; each comes on at its own pace.

mod cluster;
pub mod echo;
pub mod kv;
mod messages;

pub use crate::snapshot::{Progress, SnapshotError, SnapshotReader, SnapshotWriter};
pub use crate::wire::cluster::CloseReason;
pub use crate::wire::status::Role;
pub use cluster::{Cluster, OfferError, Outbox, TimerError};
pub use messages::Messages;
pub(crate) use messages::{Beginning, Floor, Heard};

use crate::time::{Now, Timestamp};
use crate::units::{MemberId, Position, ServiceId, SessionId, Term};

/// A leadership term has begun (Aeron: `onNewLeadershipTermEvent`).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct LeadershipTerm {
    /// The term.
    pub term: Term,
    /// Where its first record starts.
    pub base: Position,
    /// Who leads it.
    pub leader: MemberId,
    /// When it began, by the leader's wall clock.
    pub timestamp: Timestamp,
}

/// A replicated state machine.
///
/// Callbacks must be deterministic: their outcome may depend on the arguments, on `Cluster::time`,
/// `position` and `sessions`, and on what was executed before; never on a clock, a random number,
/// `Cluster::member`, `Cluster::role` or the order of a hash map. They must not block for long if
/// they run on the node's thread; one that may has a thread of its own (see the platform).
pub trait Service {
    /// Whether the service can take more now; `at` is the end of the last record that it was
    /// handed. While it says no, nothing is handed to it and nothing is lost. If no service of the
    /// member takes more, the clients' windows close: this is how a service exerts back pressure.
    /// Other services go on.
    fn ready(&self, at: Position) -> bool {
        let _ = at;
        true
    }

    /// Whether the service has found that its own state is not what it must be: only a bug, or bad
    /// memory, brings that about. Asked after what was handed to it; the node halts then.
    fn is_broken(&self) -> bool {
        false
    }

    /// Called once, before anything else; a snapshot has been read before, if there is one. Nothing
    /// may be offered or scheduled here: this call is not in the log.
    fn on_start(&mut self, cluster: &mut Cluster<'_>) {
        let _ = cluster;
    }

    /// A client session was opened.
    fn on_session_open(&mut self, cluster: &mut Cluster<'_>, session: SessionId, principal: &[u8]) {
        let _ = (cluster, session, principal);
    }

    /// A client session was closed: the last call for this session.
    fn on_session_close(
        &mut self,
        cluster: &mut Cluster<'_>,
        session: SessionId,
        reason: CloseReason,
    ) {
        let _ = (cluster, session, reason);
    }

    /// A client's message is committed. Every service on the log sees it.
    fn on_session_message(&mut self, cluster: &mut Cluster<'_>, session: SessionId, message: &[u8]);

    /// Messages of clients are committed, one after the other: hands each to
    /// [`Self::on_session_message`], as long as [`Self::ready`] says so. One call for many, in
    /// which both are called directly; nobody needs another.
    fn on_session_messages(&mut self, messages: &mut Messages<'_>) {
        while self.ready(messages.position()) {
            let Some((mut cluster, session, message)) = messages.take() else {
                break;
            };
            self.on_session_message(&mut cluster, session, message);
        }
    }

    /// A timer that this service scheduled is due: `Cluster::time` is at least its deadline. It is
    /// armed no more.
    fn on_timer_event(&mut self, cluster: &mut Cluster<'_>, correlation: i64, deadline: Timestamp) {
        let _ = (cluster, correlation, deadline);
    }

    /// A message that a service (`from`, which may be this one) has offered into the log is
    /// committed. Every service on the log sees it.
    fn on_service_message(&mut self, cluster: &mut Cluster<'_>, from: ServiceId, message: &[u8]) {
        let _ = (cluster, from, message);
    }

    /// This member's role has changed. Not replicated: it may steer what is done outside the
    /// replicated state, never that state. Nothing may be offered or scheduled here.
    fn on_role_change(&mut self, cluster: &mut Cluster<'_>, role: Role) {
        let _ = (cluster, role);
    }

    /// A new leadership term's first record is committed.
    fn on_new_leadership_term(&mut self, cluster: &mut Cluster<'_>, term: &LeadershipTerm) {
        let _ = (cluster, term);
    }

    /// The node is closing: the last call of all. Nothing may be offered or scheduled here.
    fn on_terminate(&mut self, cluster: &mut Cluster<'_>) {
        let _ = cluster;
    }

    /// Work outside determinism: called now and then, on every member at times of its own. It may
    /// look at the replicated state and must not change it.
    fn on_background_work(&mut self, now: Now) {
        let _ = now;
    }

    /// A digest of the whole replicated state: equal on every member at equal positions. Called
    /// after every batch of messages: keep it up to date as the state changes.
    fn digest(&self) -> u64;

    /// A snapshot of the state as it is now begins: a bounded, small amount of work. What
    /// [`Self::write_snapshot`] writes from here on is this state, whatever is executed meanwhile.
    fn begin_snapshot(&mut self) {}

    /// Writes the next piece of the snapshot begun last: the same bytes on every member, however
    /// they are cut in pieces. A service that writes all at once, and then says `Done`, blocks the
    /// node meanwhile; one that says `More` is handed messages in between, and keeps what they
    /// change for the snapshot (a write barrier).
    ///
    /// # Errors
    /// That of the writer. `Unsupported` by default: then there are no snapshots, and the log is
    /// never purged.
    fn write_snapshot(&mut self, out: &mut SnapshotWriter<'_>) -> Result<Progress, SnapshotError> {
        let _ = out;
        Err(SnapshotError::Unsupported)
    }

    /// The snapshot begun last is complete, or given up: nothing needs to be kept for it any more.
    fn end_snapshot(&mut self) {}

    /// Takes over the state that a snapshot holds, in place of what this service has.
    ///
    /// # Errors
    /// That of the reader, or [`SnapshotError::Content`]. The node then does not start on it.
    fn read_snapshot(&mut self, from: &mut SnapshotReader<'_>) -> Result<(), SnapshotError> {
        let _ = from;
        Err(SnapshotError::Unsupported)
    }
}
