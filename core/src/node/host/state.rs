//! A service's own replicated state in its section of a snapshot: what stands before the service's
//! bytes.
//!
//! ```text
//! format u32 = 1
//! time i64, armings u64, the number of the last message seen in the log u64
//! sessions u32: id i64, request u64, close reason i64 (-1: none is asked for)
//! timers u32: deadline i64, arming u64, correlation i64, in the order in which they are due
//! messages on their way u32: each with its length
//! ```

use heapless::Vec;

use super::outgoing::Outgoing;
use super::{Host, HostMemory, OpenSession, Taking};
use crate::planted::Planted;
use crate::service::CloseReason;
use crate::snapshot::{SnapshotError, SnapshotReader, SnapshotWriter};
use crate::time::Timestamp;
use crate::timer::{Timer, Timers};
use crate::units::{Position, SessionId};

const FORMAT: u32 = 1;

impl<const N: usize> Host<N> {
    /// Work: the sessions, timers and messages there are.
    pub fn write_state(
        &self,
        out: &mut SnapshotWriter<'_>,
        memory: &HostMemory<'_>,
    ) -> Result<(), SnapshotError> {
        out.u32(FORMAT)?;
        out.i64(self.time.0)?;
        out.u64(self.timers.armings())?;
        out.u64(self.outgoing.seen())?;
        out.u32(self.sessions.len() as u32)?;
        for session in &self.sessions {
            out.i64(session.id.to_wire())?;
            out.u64(session.request)?;
            let closing = session.closing.map_or(-1, |reason| reason.to_wire().into());
            out.i64(closing)?;
        }
        out.u32(self.timers.len() as u32)?;
        for timer in self.timers.iter(memory.timers) {
            out.i64(timer.deadline.0)?;
            out.u64(timer.arming)?;
            out.i64(timer.correlation)?;
        }
        let waiting = self.outgoing.offered() - self.outgoing.seen();
        out.u32(waiting as u32)?;
        for message in self.outgoing.iter(memory.outgoing) {
            out.bytes(message)?;
        }
        Ok(())
    }

    /// Takes over what `write_state` wrote for `position`. `scratch` holds one message.
    pub fn read_state(
        &mut self,
        position: Position,
        from: &mut SnapshotReader<'_>,
        memory: &mut HostMemory<'_>,
        scratch: &mut [u8],
    ) -> Result<(), SnapshotError> {
        if from.u32()? != FORMAT {
            return Err(SnapshotError::Content);
        }
        let time = Timestamp(from.i64()?);
        let mut timers = Timers::with_armings(from.u64()?);
        let seen = from.u64()?;
        let mut outgoing = match Planted::ServiceMessageCounterNotRestored.is_active() {
            true => Outgoing::new(0),
            false => Outgoing::new(seen),
        };
        let mut sessions = Vec::new();
        for _ in 0..from.u32()? {
            let session = read_session(from)?;
            sessions
                .push(session)
                .map_err(|_| SnapshotError::TooLarge)?;
        }
        for _ in 0..from.u32()? {
            let timer = Timer {
                deadline: Timestamp(from.i64()?),
                arming: from.u64()?,
                correlation: from.i64()?,
            };
            let restored = timers.restore(memory.timers, &timer);
            restored.map_err(|_| SnapshotError::TooLarge)?;
        }
        for _ in 0..from.u32()? {
            let message = from.bytes(scratch)?;
            if !outgoing.push(memory.outgoing, &[message]) {
                return Err(SnapshotError::TooLarge);
            }
        }
        *self = Self {
            position,
            time,
            sessions,
            timers,
            taking: Taking::No,
            ahead: outgoing.ahead(),
            outgoing,
            ..Self::new(self.id, self.moved)
        };
        Ok(())
    }
}

fn read_session(from: &mut SnapshotReader<'_>) -> Result<OpenSession, SnapshotError> {
    let id = SessionId::from_wire(from.i64()?).ok_or(SnapshotError::Content)?;
    let request = from.u64()?;
    let closing = match from.i64()? {
        -1 => None,
        number => {
            let number = i32::try_from(number).map_err(|_| SnapshotError::Content)?;
            Some(CloseReason::from_wire(number).map_err(|_| SnapshotError::Content)?)
        }
    };
    Ok(OpenSession {
        id,
        request,
        closing,
    })
}
