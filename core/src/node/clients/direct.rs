//! From a datagram straight into the log: the way of what comes in order while nothing waits. So
//! payload is copied once, and not into its stream's window before.

use core::net::SocketAddr;

use crate::limits::FRAME_HEADER;
use crate::log::Log;
use crate::node::clients::admit::{Budget, CALL, Taken, Turn};
use crate::node::clients::ingress::{Assembly, Owner};
use crate::node::clients::link::Bound;
use crate::node::clients::slots::Look;
use crate::node::clients::{Admission, Clients, Memory, Reject, View};
use crate::session::{AllowAll, Authenticator};
use crate::stream::Fragment;
use crate::time::Instant;
use crate::units::Position;
use crate::wire::cluster::{INGRESS_STREAM_ID, SessionMessage};
use crate::wire::frame::{DataFrame, DataHeader, Datagram, FLAG_BEGIN, Kind};

/// What may be taken in this way until `poll_admit` is called: it does the rest, stream by stream.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) struct Direct {
    left: Budget,
    /// What a stream's window holds may not have been looked at: that comes first, whoever's it is.
    pub waits: bool,
}

impl Direct {
    pub(super) const fn new() -> Self {
        Self {
            left: CALL,
            waits: false,
        }
    }

    /// Once more so much.
    pub(super) fn renew(&mut self) {
        self.left = CALL;
    }
}

impl<const N: usize> Clients<N> {
    /// As [`Clients::handle_datagram`] while this member leads: messages of sessions that come in
    /// order are appended to `log` at once, if nothing waits to be, up to what one call of
    /// [`Clients::poll_admit`] takes. All else waits for that.
    ///
    /// # Errors
    /// As there.
    pub fn handle_datagram_leading<L: Log>(
        &mut self,
        now: Instant,
        from: SocketAddr,
        datagram: &[u8],
        admission: &Admission<'_>,
        log: &mut L,
        memory: &mut Memory<'_>,
    ) -> Result<(), Reject> {
        let mut turn = Turn {
            now,
            admission,
            log,
            egress: &mut *memory.egress,
            reassembly: &mut *memory.reassembly,
            // Of what is taken here nothing asks it.
            auth: &mut AllowAll,
        };
        let taken = self.take_directly(from, datagram, &mut turn).unwrap_or(0);
        match datagram.get(taken..) {
            Some([]) if taken > 0 => Ok(()),
            rest => self.handle_datagram(now, from, rest.unwrap_or_default(), memory),
        }
    }

    /// Takes frames from the start of a datagram, if it is the next of its stream and has nothing
    /// but frames as they are; returns how many bytes.
    fn take_directly<L: Log, A: Authenticator>(
        &mut self,
        from: SocketAddr,
        datagram: &[u8],
        turn: &mut Turn<'_, L, A>,
    ) -> Option<usize> {
        let is_free = !self.direct.waits && !self.direct.left.is_spent();
        if !is_free || turn.admission.view != View::Leading {
            return None;
        }
        let first = &DataHeader::parse(datagram).ok()?;
        if first.stream_id != INGRESS_STREAM_ID {
            return None;
        }
        let slot = self.ingress.find(first.session_id)?;
        let stream = self.ingress.get(slot)?;
        let image = &stream.image;
        if !image.is(from, first.stream_id, first.session_id) || !image.is_next(first) {
            return None;
        }
        if !image.takes_whole(datagram.len()) {
            return None;
        }
        let (start, mut assembly) = (image.consumed(), stream.assembly);
        let bound = Bound {
            serial: stream.serial,
            address: from,
            slot,
        };
        let taken = self.take_frames(datagram, bound, start, &mut assembly, turn);
        if let Some(stream) = self.ingress.get_mut_for(slot, &[Look::Time]) {
            stream.assembly = assembly;
            if taken > 0 {
                stream.heard_at = turn.now;
                stream.image.pass(turn.now, taken);
            }
            // Nothing waits in its window: it has nothing for the log.
            if stream.image.is_status_due(turn.now) {
                self.ingress.set_look(Look::Send, slot, true);
            }
        }
        Some(taken)
    }

    /// Takes frames from the start of a datagram that is the next of its stream, which starts at
    /// `start`; returns how many bytes.
    #[inline(always)]
    fn take_frames<L: Log, A: Authenticator>(
        &mut self,
        datagram: &[u8],
        bound: Bound,
        start: Position,
        assembly: &mut Assembly,
        turn: &mut Turn<'_, L, A>,
    ) -> usize {
        let mut left = self.direct.left;
        let (mut taken, mut is_checked) = (0, false);
        loop {
            if matches!(assembly, Assembly::Idle) {
                let rest = datagram.get(taken..).unwrap_or_default();
                let more = self.admit_alike(bound, &mut left, turn, rest, usize::MAX);
                taken += more.unwrap_or(0);
            }
            let rest = datagram.get(taken..).unwrap_or_default();
            if rest.is_empty() {
                break;
            }
            // What is not just like the first counts if all together is a datagram.
            is_checked = is_checked || is_of_frames(datagram);
            let frame = match DataFrame::parse(rest) {
                Ok(frame) if is_checked => frame,
                _ => break,
            };
            if left.is_spent() || !is_of_a_session(&frame, *assembly) {
                break;
            }
            let fragment = Fragment {
                position: start.plus(taken as u64),
                flags: frame.header.flags,
                reserved: frame.header.reserved,
                payload: frame.payload(),
            };
            let outcome = self.take_fragment(&fragment, bound, assembly, turn);
            if matches!(outcome, Taken::Yes | Taken::Last) {
                left.spend(FRAME_HEADER + fragment.payload.len());
                taken += frame.bytes().len();
            }
            if outcome != Taken::Yes {
                break;
            }
        }
        self.direct.left = left;
        taken
    }
}

/// Is this a datagram, without a PAD that stands for bytes that are not here?
#[cold]
fn is_of_frames(datagram: &[u8]) -> bool {
    Datagram::parse(datagram).is_ok_and(|all| all.span() as usize == datagram.len())
}

/// Is this a message of a session, or a part of one? Clients that have none yet are answered by
/// whoever knows them: not here.
fn is_of_a_session(frame: &DataFrame<'_>, assembly: Assembly) -> bool {
    if frame.header.kind != Kind::Data {
        return false;
    }
    if frame.header.flags & FLAG_BEGIN != 0 {
        return SessionMessage::quickly(frame.payload()).is_some();
    }
    match assembly {
        Assembly::Gathering(gathering) => matches!(gathering.owner, Owner::Session(_)),
        Assembly::Idle | Assembly::Skipping => false,
    }
}
