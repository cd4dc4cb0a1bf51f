//! The smallest service: every message goes back to whoever sent it.

use super::kv::mix;
use super::{
    CloseReason, Cluster, Progress, Service, SnapshotError, SnapshotReader, SnapshotWriter,
};
use crate::units::{Position, SessionId};

/// Sends every message back as it came. Its whole state is a digest of everything that was
/// executed, so two members with equal digests have executed the same events in the same order.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Echo {
    state: State,
    /// The state when the snapshot was begun that is being written.
    saved: Option<State>,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
struct State {
    digest: u64,
    messages: u64,
    unsent: u64,
}

/// The version of a snapshot's body: this number (u32), then digest, messages and unsent (u64). In
/// version 1 the digest was another function of the same events, so it is not read.
const FORMAT: u32 = 2;

impl Echo {
    /// Before the first message.
    pub const fn new() -> Self {
        let state = State {
            digest: 0,
            messages: 0,
            unsent: 0,
        };
        Self { state, saved: None }
    }

    /// How many messages were executed.
    pub const fn messages(&self) -> u64 {
        self.state.messages
    }

    /// How many of them were not sent back, because their session had been closed meanwhile.
    pub const fn unsent(&self) -> u64 {
        self.state.unsent
    }

    #[inline(always)]
    fn record(&mut self, kind: u64, at: Position, session: SessionId, bytes: &[u8]) {
        let what = [kind, at.get(), session.opened_at().get()];
        self.state.digest = mix::event(self.state.digest, what, bytes);
    }

    #[cold]
    fn record_unsent(&mut self, at: Position, session: SessionId) {
        self.state.unsent = self.state.unsent.wrapping_add(1);
        self.record(4, at, session, &[]);
    }
}

impl Service for Echo {
    fn on_session_open(&mut self, cluster: &mut Cluster<'_>, session: SessionId, principal: &[u8]) {
        self.record(1, cluster.position(), session, principal);
    }

    fn on_session_close(
        &mut self,
        cluster: &mut Cluster<'_>,
        session: SessionId,
        reason: CloseReason,
    ) {
        self.record(2, cluster.position(), session, &[reason as u8]);
    }

    /// Work: one pass over the message.
    #[inline(always)]
    fn on_session_message(
        &mut self,
        cluster: &mut Cluster<'_>,
        session: SessionId,
        message: &[u8],
    ) {
        self.state.messages = self.state.messages.wrapping_add(1);
        self.record(3, cluster.position(), session, message);
        if cluster.offer(session, &[message]).is_err() {
            self.record_unsent(cluster.position(), session);
        }
    }

    fn digest(&self) -> u64 {
        self.state.digest
    }

    fn begin_snapshot(&mut self) {
        self.saved = Some(self.state);
    }

    fn write_snapshot(&mut self, out: &mut SnapshotWriter<'_>) -> Result<Progress, SnapshotError> {
        let state = self.saved.unwrap_or(self.state);
        out.u32(FORMAT)?;
        out.u64(state.digest)?;
        out.u64(state.messages)?;
        out.u64(state.unsent)?;
        Ok(Progress::Done)
    }

    fn end_snapshot(&mut self) {
        self.saved = None;
    }

    fn read_snapshot(&mut self, from: &mut SnapshotReader<'_>) -> Result<(), SnapshotError> {
        if from.u32()? != FORMAT {
            return Err(SnapshotError::Content);
        }
        let state = State {
            digest: from.u64()?,
            messages: from.u64()?,
            unsent: from.u64()?,
        };
        *self = Self { state, saved: None };
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use std::vec::Vec;

    use super::*;
    use crate::service::kv::outbox::{Body, Recorder};

    fn run(messages: &[&[u8]]) -> (Echo, Vec<Vec<u8>>) {
        let mut echo = Echo::new();
        let mut outbox = Recorder::default();
        for (n, message) in messages.iter().enumerate() {
            let at = Position::new(64 * (n as u64 + 1));
            outbox.at(at, |cluster| {
                echo.on_session_message(cluster, SessionId::new(Position::ZERO), message);
            });
        }
        let sent = outbox.sent.into_iter().map(|(_, bytes)| bytes).collect();
        (echo, sent)
    }

    #[test]
    fn what_comes_goes_back() {
        let (echo, sent) = run(&[b"one", b"", b"three"]);
        assert_eq!(sent, [b"one".to_vec(), b"".to_vec(), b"three".to_vec()]);
        assert_eq!((echo.messages(), echo.unsent()), (3, 0));
    }

    #[test]
    fn the_digest_tells_order_content_and_length() {
        let all: [&[&[u8]]; 6] = [
            &[],
            &[b"a"],
            &[b"a", b"b"],
            &[b"b", b"a"],
            &[b"ab"],
            &[b"a\0"],
        ];
        let mut digests: Vec<u64> = all.iter().map(|m| run(m).0.digest()).collect();
        digests.sort_unstable();
        digests.dedup();
        assert_eq!(digests.len(), all.len());
    }

    #[test]
    fn a_session_that_is_gone_is_counted_and_in_the_digest() {
        let mut outbox = Recorder {
            refuse: true,
            ..Recorder::default()
        };
        let mut echo = Echo::new();
        outbox.at(Position::new(64), |cluster| {
            echo.on_session_message(cluster, SessionId::new(Position::ZERO), b"a");
        });
        assert_eq!(echo.unsent(), 1);
        assert_ne!(echo.digest(), run(&[b"a"]).0.digest());
    }

    #[test]
    fn a_snapshot_is_the_state_at_its_begin_and_comes_back() {
        let (mut echo, _) = run(&[b"one", b"two"]);
        let then = echo.clone();
        echo.begin_snapshot();
        Recorder::default().at(Position::new(640), |cluster| {
            echo.on_session_message(cluster, SessionId::new(Position::ZERO), b"later");
        });
        let mut body = Body::default();
        assert_eq!(body.step(&mut echo), Ok(Progress::Done));
        echo.end_snapshot();
        assert_eq!(body.0.len(), 28);
        let (mut restored, _) = run(&[b"other"]);
        body.restore(&mut restored).unwrap();
        assert_eq!(restored, then);
        assert_ne!(restored, echo);
    }

    #[test]
    fn what_is_no_snapshot_changes_nothing() {
        let (mut echo, _) = run(&[b"one"]);
        let before = echo.clone();
        let mut newer = Body::of(&mut echo);
        newer.0[0] = FORMAT as u8 + 1;
        assert_eq!(newer.restore(&mut echo), Err(SnapshotError::Content));
        let mut short = Body::of(&mut echo);
        short.0.pop();
        assert_eq!(short.restore(&mut echo), Err(SnapshotError::Short));
        assert_eq!(echo, before);
    }
}
