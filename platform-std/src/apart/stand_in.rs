//! What the node takes for a service that runs away from it.

use std::cell::Cell;

use coracle_core::service::{
    CloseReason, Cluster, LeadershipTerm, Progress, Role, Service, SnapshotError, SnapshotReader,
    SnapshotWriter,
};
use coracle_core::time::Timestamp;
use coracle_core::units::{Position, ServiceId, SessionId};
use embedded_io::ErrorKind;

use super::calls::Calls;
use super::{News, Orders};

/// How many bytes of a snapshot one step hands on.
const PIECE: usize = 64 << 10;

/// See the module's text.
#[derive(Debug)]
pub struct StandIn {
    calls: Calls,
    executed: Position,
    action: Option<Position>,
    digest: u64,
    pieces: Vec<u8>,
    given: usize,
    saved: Option<Result<(), SnapshotError>>,
    has_failed: bool,
    /// Something is decided where the node asks through `&self`.
    orders: Cell<Orders>,
}

impl StandIn {
    /// Of a service whose state, with this digest, is that at `position`.
    pub fn new(position: Position, digest: u64) -> Self {
        Self {
            calls: Calls::default(),
            executed: position,
            action: None,
            digest,
            pieces: Vec::new(),
            given: 0,
            saved: None,
            has_failed: false,
            orders: Cell::default(),
        }
    }

    /// Takes what the executor has done, and leaves `news` empty.
    pub fn take(&mut self, news: &mut News) {
        self.calls.take(&mut news.calls);
        self.executed = self.executed.max(news.executed);
        self.action = news.action;
        let (saved, taken) = (news.saved.take(), self.orders().taken);
        if taken.is_none() || news.saving != taken {
            // Of a snapshot that was given up.
            news.pieces.clear();
            return;
        }
        if self.given == self.pieces.len() {
            self.pieces.clear();
            self.given = 0;
            std::mem::swap(&mut self.pieces, &mut news.pieces);
        } else {
            // A service that writes faster than the disk is never caught up with.
            if self.given > self.pieces.len() / 2 {
                self.pieces.drain(..std::mem::take(&mut self.given));
            }
            self.pieces.append(&mut news.pieces);
        }
        self.saved = self.saved.take().or(saved);
    }

    /// The service will never do anything again: a snapshot that it is writing, or is to begin, is
    /// not to be.
    pub fn give_up(&mut self) {
        self.has_failed = true;
        self.saved = Some(Err(SnapshotError::Io(ErrorKind::Other)));
    }

    /// What the executor is to do.
    pub fn orders(&self) -> Orders {
        self.orders.get()
    }

    /// How many bytes of calls, and of a snapshot, wait for the node.
    pub fn backlog(&self) -> [usize; 2] {
        [self.calls.len(), self.pieces.len() - self.given]
    }

    fn order(&self, change: impl FnOnce(&mut Orders)) {
        let mut orders = self.orders.get();
        change(&mut orders);
        self.orders.set(orders);
    }

    fn replay(&mut self, cluster: &mut Cluster<'_>) {
        self.digest = self.calls.replay(cluster);
    }
}

impl Service for StandIn {
    fn ready(&self, at: Position) -> bool {
        if self.action == Some(at) && self.orders().decided < at {
            // The node has executed the action and begun no snapshot here.
            self.order(|orders| orders.decided = at);
        }
        at < self.executed
    }

    fn on_role_change(&mut self, _: &mut Cluster<'_>, role: Role) {
        self.order(|orders| orders.role = role);
    }

    fn on_session_open(&mut self, cluster: &mut Cluster<'_>, _: SessionId, _: &[u8]) {
        self.replay(cluster);
    }

    fn on_session_close(&mut self, cluster: &mut Cluster<'_>, _: SessionId, _: CloseReason) {
        self.replay(cluster);
    }

    fn on_session_message(&mut self, cluster: &mut Cluster<'_>, _: SessionId, _: &[u8]) {
        self.replay(cluster);
    }

    fn on_timer_event(&mut self, cluster: &mut Cluster<'_>, _: i64, _: Timestamp) {
        self.replay(cluster);
    }

    fn on_service_message(&mut self, cluster: &mut Cluster<'_>, _: ServiceId, _: &[u8]) {
        self.replay(cluster);
    }

    fn on_new_leadership_term(&mut self, cluster: &mut Cluster<'_>, _: &LeadershipTerm) {
        self.replay(cluster);
    }

    fn digest(&self) -> u64 {
        self.digest
    }

    fn begin_snapshot(&mut self) {
        let at = self.action.expect("the executor waits at the action");
        self.pieces.clear();
        self.given = 0;
        let failed = Err(SnapshotError::Io(ErrorKind::Other));
        self.saved = self.has_failed.then_some(failed);
        self.order(|orders| (orders.decided, orders.taken) = (at, Some(at)));
    }

    fn write_snapshot(&mut self, out: &mut SnapshotWriter<'_>) -> Result<Progress, SnapshotError> {
        if let Some(Err(error)) = &self.saved {
            return Err(*error);
        }
        let end = (self.given + PIECE).min(self.pieces.len());
        let piece = self.pieces.get(self.given..end).unwrap_or_default();
        out.put(piece)?;
        let wrote = !piece.is_empty();
        self.given = end;
        Ok(match (end == self.pieces.len(), &self.saved) {
            (true, Some(_)) => Progress::Done,
            (true, None) if !wrote => Progress::Later,
            _ => Progress::More,
        })
    }

    fn end_snapshot(&mut self) {
        self.order(|orders| orders.taken = None);
        self.pieces.clear();
        self.given = 0;
        self.saved = None;
    }

    /// The state is read where the service is, before it goes away.
    fn read_snapshot(&mut self, _: &mut SnapshotReader<'_>) -> Result<(), SnapshotError> {
        Err(SnapshotError::Unsupported)
    }
}

#[cfg(test)]
mod tests {
    use coracle_core::snapshot::Sums;
    use embedded_io::{ErrorType, Write};

    use super::*;

    const AT: Position = Position::new(96);

    struct Count(usize);

    impl ErrorType for Count {
        type Error = ErrorKind;
    }

    impl Write for Count {
        fn write(&mut self, bytes: &[u8]) -> Result<usize, ErrorKind> {
            self.0 += bytes.len();
            Ok(bytes.len())
        }

        fn flush(&mut self) -> Result<(), ErrorKind> {
            Ok(())
        }
    }

    fn step(stand_in: &mut StandIn, to: &mut Count) -> Result<Progress, SnapshotError> {
        let mut sums = Sums::new();
        stand_in.write_snapshot(&mut SnapshotWriter::new(to, &mut sums))
    }

    fn at_the_action() -> StandIn {
        let mut stand_in = StandIn::new(Position::ZERO, 0);
        stand_in.take(&mut News {
            executed: AT,
            action: Some(AT),
            ..News::default()
        });
        stand_in
    }

    /// The service's thread is always ahead of the disk: it hands over as much as is taken.
    #[test]
    fn a_long_snapshot_takes_no_more_memory_than_what_waits() {
        let mut stand_in = at_the_action();
        stand_in.begin_snapshot();
        let (mut to, mut made) = (Count(0), 0);
        for _ in 0..1000 {
            let waits = stand_in.backlog()[1];
            let more = (1 << 20) - waits.min(1 << 20);
            made += more;
            stand_in.take(&mut News {
                executed: AT,
                saving: Some(AT),
                pieces: vec![0; more],
                ..News::default()
            });
            assert_eq!(step(&mut stand_in, &mut to), Ok(Progress::More));
        }
        assert_eq!(to.0 + stand_in.backlog()[1], made, "nothing is lost");
        let held = stand_in.pieces.capacity();
        assert!(held <= 4 << 20, "{held} bytes are held of {made}");
    }

    #[test]
    fn what_a_service_that_has_failed_is_to_begin_fails() {
        let mut stand_in = at_the_action();
        stand_in.give_up();
        stand_in.begin_snapshot();
        let step = step(&mut stand_in, &mut Count(0));
        assert_eq!(step, Err(SnapshotError::Io(ErrorKind::Other)));
    }
}
