//! Many messages of sessions, handed to a service by one call.

use core::cell::Cell;

use super::{Cluster, Outbox, Role};
use crate::time::Timestamp;
use crate::units::{MemberId, Position, SessionId};
use crate::wire::cluster::{SESSION_HEADER_LENGTH, SessionMessageHeader};
use crate::wire::frame::{Alike, framed_bound, words};

/// Committed messages of sessions, one after the other: see
/// [`Service::on_session_messages`](super::Service::on_session_messages).
pub struct Messages<'a> {
    frames: Alike<'a>,
    /// Where the last of these bytes ends.
    to: Position,
    /// No more than so many are handed over.
    left: usize,
    /// The reserved value of the frame of the last message that was.
    reserved: u64,
    /// The second and third word of its header, of its session and term, if that is open; else of
    /// none.
    alike: [u64; 2],
    speaker: SessionId,
    time: &'a Cell<Timestamp>,
    member: MemberId,
    role: Role,
    /// How long egress datagrams are, where sessions are let in by what they may be answered.
    egress_mtu: Option<usize>,
    cost: u64,
    floor: &'a mut dyn Floor,
}

/// Words that are in no header.
const NONE: [u64; 2] = [u64::MAX; 2];

/// What is told of messages while they are handed over.
pub(crate) trait Floor: Outbox {
    /// All since the last call were taken for so much egress. Those that follow are of this
    /// session, if any do. Whether it is open.
    fn turn_to(&mut self, session: Option<SessionId>, cost: u64) -> bool;
}

/// What became of a run.
pub(crate) struct Heard {
    /// So many messages were handed over.
    pub count: usize,
    /// Where the last one ends, and the reserved value of its frame.
    pub position: Position,
    pub reserved: u64,
}

/// Where a run begins, and on whom.
#[derive(Clone, Copy)]
pub(crate) struct Beginning {
    pub position: Position,
    pub member: MemberId,
    pub role: Role,
    pub egress_mtu: Option<usize>,
}

impl<'a> Messages<'a> {
    /// At most `most` messages of `frames`, which are committed.
    pub(crate) fn new(
        frames: Alike<'a>,
        most: usize,
        beginning: Beginning,
        time: &'a Cell<Timestamp>,
        floor: &'a mut dyn Floor,
    ) -> Self {
        let Beginning {
            position,
            member,
            role,
            egress_mtu,
        } = beginning;
        Self {
            to: position.plus(frames.rest().len() as u64),
            frames,
            left: most,
            reserved: 0,
            alike: NONE,
            speaker: SessionId::new(Position::ZERO),
            time,
            member,
            role,
            egress_mtu,
            cost: 0,
            floor,
        }
    }

    /// Where the last message that was handed over ends.
    #[inline(always)]
    pub fn position(&self) -> Position {
        self.to.minus(self.frames.rest().len() as u64)
    }

    /// The next message, if there is one, for `on_session_message`. Whoever takes it out has
    /// executed it.
    #[inline(always)]
    pub fn take(&mut self) -> Option<(Cluster<'_>, SessionId, &'a [u8])> {
        while self.left > 0 {
            let mut frames = self.frames.clone();
            let frame = frames.next_whole()?;
            let (header, payload) = frame.payload()?.split_first_chunk()?;
            let [sbe, term, session, timestamp] = words(header);
            let is_alike = sbe == SessionMessageHeader::SBE && [term, session] == self.alike;
            let is_open = is_alike || self.turn_to(header)?;
            let time = self.time.get().max(Timestamp(timestamp as i64));
            self.time.set(time);
            (self.frames, self.reserved) = (frames, frame.reserved);
            self.left -= 1;
            if let Some(mtu) = self.egress_mtu {
                self.cost += framed_bound(SESSION_HEADER_LENGTH + payload.len(), mtu);
            }
            if is_open {
                let (at, outbox) = (self.position(), &mut *self.floor as &mut dyn Outbox);
                let cluster = Cluster::new(time, at, self.member, self.role, outbox);
                return Some((cluster, self.speaker, payload));
            }
        }
        None
    }

    /// The next message is of another session, or of another term: whether that is open; `None` if
    /// it is none.
    #[inline(never)]
    fn turn_to(&mut self, header: &[u8; SESSION_HEADER_LENGTH]) -> Option<bool> {
        let said = SessionMessageHeader::quickly(header)?;
        let [_, term, session, _] = words(header);
        let cost = core::mem::take(&mut self.cost);
        let is_open = self.floor.turn_to(Some(said.session), cost);
        self.speaker = said.session;
        self.alike = if is_open { [term, session] } else { NONE };
        Some(is_open)
    }

    /// The run is over. `most` is what it was begun with.
    pub(crate) fn end(self, most: usize) -> Heard {
        self.floor.turn_to(None, self.cost);
        Heard {
            count: most - self.left,
            position: self.position(),
            reserved: self.reserved,
        }
    }
}
