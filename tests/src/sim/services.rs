//! The services that simulated members run.

use coracle_core::service::{
    CloseReason, Cluster, LeadershipTerm, OfferError, Progress, Role, Service, SnapshotError,
    SnapshotReader, SnapshotWriter, TimerError,
};
use coracle_core::time::Timestamp;
use coracle_core::units::{Position, ServiceId, SessionId};

use super::mind::{Answer, Ground, Heard, Mind};

/// How many bytes of a snapshot one step writes at most.
const STEP: usize = 400;

/// Keeps a hash of everything that was applied, in order, and does what its [`Mind`] makes of it.
/// The first one sends every message back.
#[derive(Clone, Debug)]
pub struct History {
    mind: Mind,
    /// While false, nothing is taken.
    pub ready: bool,
    /// Whether messages are sent back.
    pub echo: bool,
    /// The first answer of the cluster that a service must never get here.
    pub refused: Option<u64>,
    /// What of the state is not what the log makes.
    pub flipped: u64,
    /// The snapshot that is being written, as the state was when it began, and how far it is.
    writing: Option<(Vec<u8>, usize)>,
    /// Nothing is kept of the state when a snapshot begins.
    is_late: bool,
}

struct Through<'a, 'c>(&'a mut Cluster<'c>);

fn offered(outcome: Result<(), OfferError>) -> Answer {
    match outcome {
        Ok(()) => Answer::Done,
        Err(OfferError::UnknownSession) => Answer::UnknownSession,
        Err(OfferError::TooLong) => Answer::TooLong,
        Err(OfferError::Full) => Answer::Full,
        Err(_) => Answer::OutsideLog,
    }
}

fn timed<T>(outcome: Result<T, TimerError>, answer: impl Fn(T) -> Answer) -> Answer {
    match outcome {
        Ok(value) => answer(value),
        Err(TimerError::Full) => Answer::Full,
        Err(_) => Answer::OutsideLog,
    }
}

impl Ground for Through<'_, '_> {
    fn sessions(&self) -> Vec<u64> {
        self.0.sessions().map(|id| id.opened_at().get()).collect()
    }

    fn arm(&mut self, correlation: i64, deadline: i64) -> Answer {
        let outcome = self.0.schedule_timer(correlation, Timestamp(deadline));
        timed(outcome, |()| Answer::Done)
    }

    fn cancel(&mut self, correlation: i64) -> Answer {
        timed(self.0.cancel_timer(correlation), |was| match was {
            true => Answer::WasArmed,
            false => Answer::WasNotArmed,
        })
    }

    fn say(&mut self, bytes: &[u8]) -> Answer {
        let (a, b) = bytes.split_at(bytes.len() / 3);
        offered(self.0.offer_to_log(&[a, b]))
    }

    fn close(&mut self, session: u64) -> Answer {
        offered(self.0.close_session(SessionId::new(Position::new(session))))
    }
}

impl History {
    /// What the digest would be if nothing had flipped.
    pub fn sound_digest(&self) -> u64 {
        self.mind.digest
    }

    /// Service `number` before the first record; `acts` as a [`Mind`] does.
    pub fn new(number: usize, acts: bool) -> Self {
        Self {
            mind: Mind::new(number, acts),
            ready: true,
            echo: number == 0,
            refused: None,
            flipped: 0,
            writing: None,
            is_late: number == 1,
        }
    }

    fn step(&mut self, cluster: &mut Cluster<'_>, kind: u8, number: u64, extra: i64, bytes: &[u8]) {
        let heard = Heard {
            kind,
            position: cluster.position().get(),
            time: cluster.time().0,
            number,
            extra,
            bytes,
        };
        self.mind.hear(&heard, &mut Through(cluster));
    }

    /// Outside the log everything is refused.
    fn try_in_vain(&mut self, cluster: &mut Cluster<'_>) {
        let mut ground = Through(cluster);
        let answers = [
            ground.arm(1, 0),
            ground.cancel(1),
            ground.say(b"?"),
            ground.close(0),
        ];
        if answers.iter().any(|a| *a != Answer::OutsideLog) {
            self.refused.get_or_insert(cluster.position().get());
        }
    }
}

impl Service for History {
    fn ready(&self, _: Position) -> bool {
        self.ready
    }

    fn on_start(&mut self, cluster: &mut Cluster<'_>) {
        self.try_in_vain(cluster);
    }

    fn on_role_change(&mut self, cluster: &mut Cluster<'_>, _: Role) {
        self.try_in_vain(cluster);
    }

    fn on_session_open(&mut self, cluster: &mut Cluster<'_>, session: SessionId, _: &[u8]) {
        self.step(cluster, b'o', session.opened_at().get(), 0, &[]);
    }

    fn on_session_close(
        &mut self,
        cluster: &mut Cluster<'_>,
        session: SessionId,
        reason: CloseReason,
    ) {
        let reason = reason.to_wire().into();
        self.step(cluster, b'c', session.opened_at().get(), reason, &[]);
    }

    fn on_session_message(
        &mut self,
        cluster: &mut Cluster<'_>,
        session: SessionId,
        message: &[u8],
    ) {
        self.step(cluster, b'm', session.opened_at().get(), 0, message);
        if self.echo && cluster.offer(session, &[message]).is_err() {
            // The session is open here and the message was short enough to come in.
            self.refused.get_or_insert(cluster.position().get());
        }
    }

    fn on_timer_event(&mut self, cluster: &mut Cluster<'_>, correlation: i64, due: Timestamp) {
        self.step(cluster, b'x', correlation as u64, due.0, &[]);
    }

    fn on_service_message(&mut self, cluster: &mut Cluster<'_>, from: ServiceId, message: &[u8]) {
        self.step(cluster, b's', from.get().into(), 0, message);
    }

    fn on_new_leadership_term(&mut self, cluster: &mut Cluster<'_>, term: &LeadershipTerm) {
        let leader = term.leader.get().into();
        self.step(cluster, b't', u64::from(term.term.get()), leader, &[]);
    }

    fn digest(&self) -> u64 {
        self.mind.digest ^ self.flipped
    }

    fn begin_snapshot(&mut self) {
        // As one does that writes all at once: its state is that of the first call that writes.
        if !self.is_late {
            self.writing = Some((self.mind.to_bytes(), 0));
        }
    }

    fn write_snapshot(&mut self, out: &mut SnapshotWriter<'_>) -> Result<Progress, SnapshotError> {
        let mind = &self.mind;
        let (bytes, at) = self.writing.get_or_insert_with(|| (mind.to_bytes(), 0));
        let end = (*at + STEP).min(bytes.len());
        out.put(&bytes[*at..end])?;
        *at = end;
        Ok(match end == bytes.len() {
            true => Progress::Done,
            false => Progress::More,
        })
    }

    fn end_snapshot(&mut self) {
        self.writing = None;
    }

    fn read_snapshot(&mut self, from: &mut SnapshotReader<'_>) -> Result<(), SnapshotError> {
        let mut bytes = vec![0; usize::try_from(from.left()).unwrap_or(0)];
        from.take(&mut bytes)?;
        self.mind = self.mind.restored(&bytes).ok_or(SnapshotError::Content)?;
        // Whatever the state was, it is the cluster's now.
        self.flipped = 0;
        Ok(())
    }
}
