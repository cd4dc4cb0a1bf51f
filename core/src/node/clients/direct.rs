//! From a datagram straight into the log: the way of what comes in order while nothing waits. So
//! payload is copied once, and not into its stream's window before.

use core::net::SocketAddr;

use crate::limits::FRAME_HEADER;
use crate::log::Log;
use crate::node::clients::admit::{Budget, Taken, Turn};
use crate::node::clients::gather::Heard;
use crate::node::clients::ingress::{Assembly, Ingress, Owner};
use crate::node::clients::link::Bound;
use crate::node::clients::slots::Look;
use crate::node::clients::{Admission, Clients, Memory, Reject, View};
use crate::session::{AllowAll, Authenticator};
use crate::stream::Fragment;
use crate::time::{Instant, Timestamp};
use crate::units::Position;
use crate::wire::cluster::SessionMessage;
use crate::wire::frame::{DataFrame, Datagram, FLAG_BEGIN, Kind, words};

/// The most that is taken in this way until `poll_admit` is called.
const DIRECT: Budget = Budget {
    fragments: 2048,
    bytes: 128 << 10,
};
/// What is left of that when it is enough for a turn: what the driver has received already, it has
/// by then room for. What it receives beyond that waits in its stream's window, and what comes
/// after it as well: so it had better not receive it.
const FED: Budget = Budget {
    fragments: 2048 - 256,
    bytes: (128 - 32) << 10,
};

/// What may still be taken so until `poll_admit` is called: it does the rest, stream by stream.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) struct Direct {
    left: Budget,
    /// What a stream's window holds may not have been looked at: that comes first, whoever's it is.
    pub waits: bool,
}

impl Direct {
    pub(super) const fn new() -> Self {
        Self {
            left: DIRECT,
            waits: false,
        }
    }

    /// Was so much taken that what else is said had better wait where it is?
    pub(super) fn is_fed(self) -> bool {
        !self.waits && self.left.is_within(FED)
    }

    /// Once more so much.
    pub(super) fn renew(&mut self) {
        self.left = DIRECT;
    }
}

impl<const N: usize> Clients<N> {
    /// Appends messages of a session from the start of a datagram to `log`, while this member's
    /// view is that it leads: as [`Clients::handle_datagram_leading`], which is for what is left,
    /// but only those that `admit_alike` takes. Returns how many bytes it took.
    #[inline(always)]
    pub fn take_alike<L: Log>(
        &mut self,
        now: Instant,
        from: SocketAddr,
        datagram: &[u8],
        timestamp: Timestamp,
        log: &mut L,
    ) -> usize {
        let Some((slot, stream)) = self.stream_of_next(from, datagram) else {
            return 0;
        };
        if stream.assembly != Assembly::Idle {
            return 0;
        }
        let heard = Heard {
            serial: stream.serial,
            at: now,
            timestamp,
        };
        let mut left = self.direct.left;
        let taken = self.admit_alike(heard, &mut left, log, datagram, usize::MAX);
        let taken = taken.unwrap_or(0);
        if taken > 0 {
            self.direct.left = left;
            self.note_taken(now, slot, taken);
        }
        taken
    }

    /// As [`Clients::handle_datagram`] while this member leads: messages of sessions that come in
    /// order are appended to `log` at once, if nothing waits to be: at most 128 KiB and 2,048 of
    /// them until [`Clients::poll_admit`] is called, for which all else waits.
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
        let taken = match admission.view {
            View::Leading => self.take_directly(from, datagram, &mut turn).unwrap_or(0),
            View::Following { .. } | View::Unknown => 0,
        };
        match datagram.get(taken..) {
            Some([]) if taken > 0 => Ok(()),
            rest => self.handle_datagram(now, from, rest.unwrap_or_default(), memory),
        }
    }

    /// The stream of which a datagram holds the next frames, if these may be taken from where they
    /// arrived: nothing waits.
    #[inline(always)]
    fn stream_of_next(&self, from: SocketAddr, datagram: &[u8]) -> Option<(usize, &Ingress)> {
        if self.direct.waits || self.direct.left.is_spent() {
            return None;
        }
        let header = datagram.first_chunk()?;
        let slot = self.ingress.find(session_of(header))?;
        let stream = self.ingress.get(slot)?;
        let is_next = stream.image.is_next(from, header, datagram.len());
        is_next.then_some((slot, stream))
    }

    /// So many bytes of such a datagram were taken.
    #[inline(always)]
    fn note_taken(&mut self, now: Instant, slot: usize, taken: usize) {
        if let Some(stream) = self.ingress.get_mut_for(slot, &[Look::Time]) {
            stream.heard_at = now;
            stream.image.pass(now, taken);
            // Nothing waits in its window: it has nothing for the log.
            if stream.image.is_status_due(now) {
                self.ingress.set_look(Look::Send, slot, true);
            }
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
        let (slot, stream) = self.stream_of_next(from, datagram)?;
        let (start, mut assembly) = (stream.image.consumed(), stream.assembly);
        let bound = Bound {
            serial: stream.serial,
            address: from,
            slot,
        };
        let taken = self.take_frames(datagram, bound, start, &mut assembly, turn);
        if let Some(stream) = self.ingress.visit(slot) {
            stream.assembly = assembly;
        }
        if taken > 0 {
            self.note_taken(turn.now, slot, taken);
        }
        Some(taken)
    }

    /// Takes frames from the start of a datagram that is the next of its stream, which starts at
    /// `start`; returns how many bytes.
    fn take_frames<L: Log, A: Authenticator>(
        &mut self,
        datagram: &[u8],
        bound: Bound,
        start: Position,
        assembly: &mut Assembly,
        turn: &mut Turn<'_, L, A>,
    ) -> usize {
        let heard = Heard {
            serial: bound.serial,
            at: turn.now,
            timestamp: turn.admission.timestamp,
        };
        let mut left = self.direct.left;
        let (mut taken, mut is_checked) = (0, false);
        loop {
            if matches!(assembly, Assembly::Idle) {
                let rest = datagram.get(taken..).unwrap_or_default();
                let more = self.admit_alike(heard, &mut left, turn.log, rest, usize::MAX);
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

/// The session id in a frame's header.
#[inline(always)]
fn session_of(header: &[u8; FRAME_HEADER]) -> i32 {
    let [_, place, ..] = words(header);
    (place >> 32) as i32
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
