//! From the clients' windows into the log: the only place of this room that appends.

use crate::limits::FRAME_HEADER;
use crate::log::{Log, append, encoded_len};
use crate::node::clients::ingress::Assembly;
use crate::node::clients::link::{Bound, Close, Link, Stage};
use crate::node::clients::slots::share;
use crate::node::clients::{Admission, Clients, Count, Memory, View};
use crate::session::Authenticator;
use crate::stream::Fragment;
use crate::time::Instant;
use crate::units::{Position, SessionId, Term};
use crate::wire::cluster::{Message, SESSION_HEADER_LENGTH, SessionCloseEvent, SessionOpenEvent};
use crate::wire::frame::align;

/// How many fragments of one ingress stream are looked at before the next has its turn.
const SHARE_MAX: usize = 16;
/// How many fragments one call looks at.
const CALL_MAX: usize = 128;

/// What a call of `poll_admit` was lent.
pub(super) struct Turn<'t, L, A> {
    pub now: Instant,
    pub admission: &'t Admission<'t>,
    pub log: &'t mut L,
    pub egress: &'t mut [u8],
    pub auth: &'t mut A,
}

/// Whether a fragment was dealt with.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) enum Taken {
    /// It may leave its window.
    Yes,
    /// Something has no room: it stays, and is looked at again.
    Held,
}

impl<const N: usize> Clients<N> {
    /// Takes what clients have sent, round and round their streams, and appends to the log what belongs
    /// there; says to clients what is owed to them. True if it left off for the length of the call: call
    /// again soon. At most 128 fragments, and every egress connection once.
    ///
    /// While no leader is known nothing is taken.
    pub fn poll_admit<L: Log, A: Authenticator>(
        &mut self,
        now: Instant,
        admission: &Admission<'_>,
        log: &mut L,
        memory: &mut Memory<'_>,
        auth: &mut A,
    ) -> bool {
        let mut turn = Turn {
            now,
            admission,
            log,
            egress: &mut *memory.egress,
            auth,
        };
        for slot in 0..N {
            self.settle(slot, &mut turn);
        }
        if admission.view == View::Unknown {
            return false;
        }
        let mut left = CALL_MAX;
        let mut is_more = false;
        for _ in 0..N {
            let slot = self.admit_next;
            self.admit_next = (slot + 1).checked_rem(N).unwrap_or(0);
            let share = SHARE_MAX.min(left);
            let taken =
                self.admit_stream(slot, share, memory.ingress, memory.reassembly, &mut turn);
            left -= taken;
            is_more |= taken == share;
            if left == 0 {
                break;
            }
        }
        is_more
    }

    /// The term in which this member may append now.
    pub(super) fn term<L, A>(&self, turn: &Turn<'_, L, A>) -> Option<Term> {
        match turn.admission.view {
            View::Leading => self.leading,
            View::Following { .. } | View::Unknown => None,
        }
    }

    /// Does what is owed on one egress connection: makes its stream, speaks first, opens, closes.
    fn settle<L: Log, A>(&mut self, slot: usize, turn: &mut Turn<'_, L, A>) {
        self.open_stream(turn.now, slot, turn.egress.len());
        let Some(link) = self.links.get(slot) else {
            return;
        };
        let connected = link.is_connected();
        match &link.stage {
            Stage::Answer(answer) if connected => {
                let answer = *answer;
                self.say_answer(turn.now, slot, answer, turn.admission, turn.egress);
            }
            Stage::Challenge { said: false, .. } if connected => {
                self.say_challenge(slot, turn.egress);
            }
            Stage::Accepted { .. } if connected => self.append_open(slot, turn),
            Stage::Open(live) => {
                let close = live.close;
                if connected && live.greeting.is_some() {
                    self.say_greeting(slot, turn.admission.endpoints, turn.egress);
                }
                if matches!(close, Close::Owed(_)) {
                    self.append_close(slot, turn);
                }
            }
            _ => {}
        }
    }

    /// Appends the open event of an accepted client whose egress is connected.
    fn append_open<L: Log, A>(&mut self, slot: usize, turn: &mut Turn<'_, L, A>) {
        let (Some(term), Some(link)) = (self.term(turn), self.links.get(slot)) else {
            return;
        };
        let Stage::Accepted { principal, bound } = &link.stage else {
            return;
        };
        let bound = *bound;
        let mut event = SessionOpenEvent {
            term,
            correlation: link.request.correlation_id,
            session: SessionId::new(turn.log.end()),
            timestamp: turn.admission.timestamp,
            response_stream_id: link.request.response_stream_id,
            response_channel: &link.request.response_channel,
            principal,
        };
        let mut buffer = [0; OPEN_MAX];
        // Twice: the id does not change the length, and the length decides about a PAD before it.
        let len = event.emit(&mut buffer).unwrap_or(0);
        let Some(start) = record_start(turn.log, len, self.config.mtu) else {
            return;
        };
        event.session = SessionId::new(start);
        let written = event.emit(&mut buffer);
        let Some(bytes) = written.and_then(|written| buffer.get(..written)) else {
            return;
        };
        if append(turn.log, term, &[bytes], self.config.mtu).is_ok() {
            let session = SessionId::new(start);
            if let Some(link) = self.links.get_mut(slot) {
                link.stage = Stage::Appended { session, bound };
            }
            self.count(Count::OpenAppended);
        }
    }

    /// Appends the close event that is owed for an open session.
    pub(super) fn append_close<L: Log, A>(&mut self, slot: usize, turn: &mut Turn<'_, L, A>) {
        let Some(term) = self.term(turn) else {
            return;
        };
        let Some(live) = self.links.get_mut(slot).and_then(Link::live_mut) else {
            return;
        };
        let Close::Owed(reason) = live.close else {
            return;
        };
        let event = SessionCloseEvent {
            term,
            session: live.session,
            timestamp: turn.admission.timestamp,
            reason,
        };
        let mut buffer = [0; SESSION_HEADER_LENGTH * 2];
        let written = event.emit(&mut buffer);
        let bytes = written.and_then(|written| buffer.get(..written));
        assert!(bytes.is_some(), "of fixed length");
        let parts = [bytes.unwrap_or_default()];
        if append(turn.log, term, &parts, self.config.mtu).is_ok() {
            live.close = Close::Appended;
            self.count(Count::CloseAppended);
        }
    }

    /// Takes up to `share` fragments of one stream; how many it took.
    fn admit_stream<L: Log, A: Authenticator>(
        &mut self,
        slot: usize,
        share_max: usize,
        ingress: &[u8],
        reassembly: &mut [u8],
        turn: &mut Turn<'_, L, A>,
    ) -> usize {
        let bytes = share(ingress, slot, N);
        for taken in 0..share_max {
            let Some(stream) = self.ingress.get(slot) else {
                return taken;
            };
            let Some(fragment) = stream.image.peek(bytes) else {
                return taken;
            };
            let from = Bound {
                serial: stream.serial,
                address: stream.image.source(),
            };
            let mut assembly = stream.assembly;
            let outcome = self.take_fragment(&fragment, from, &mut assembly, reassembly, turn);
            let Some(stream) = self.ingress.get_mut(slot) else {
                return taken;
            };
            stream.assembly = assembly;
            if outcome == Taken::Held {
                self.count(Count::IngressHeld);
                return taken;
            }
            stream.image.consume(bytes);
        }
        share_max
    }

    fn take_fragment<L: Log, A: Authenticator>(
        &mut self,
        fragment: &Fragment<'_>,
        from: Bound,
        assembly: &mut Assembly,
        reassembly: &mut [u8],
        turn: &mut Turn<'_, L, A>,
    ) -> Taken {
        if fragment.is_begin() {
            // A message that was not finished never will be.
            self.abandon(assembly);
        }
        if fragment.is_whole() {
            return self.take_message(fragment.payload, from, turn);
        }
        if fragment.is_begin() {
            return self.begin_message(fragment, from, assembly, reassembly, turn);
        }
        match *assembly {
            Assembly::Gathering { slot, len } => {
                self.extend_message(fragment, from, (slot, len), assembly, reassembly, turn)
            }
            Assembly::Idle | Assembly::Skipping => {
                if fragment.is_end() {
                    *assembly = Assembly::Idle;
                }
                Taken::Yes
            }
        }
    }

    fn abandon(&mut self, assembly: &mut Assembly) {
        if let Assembly::Gathering { slot, .. } = *assembly {
            self.pool.give_back(slot);
        }
        *assembly = Assembly::Idle;
    }

    /// The first fragment of several. A session's message gets a reassembly slot only if it would be
    /// admitted now: a client that does not read must not keep a slot from others.
    fn begin_message<L: Log, A: Authenticator>(
        &mut self,
        fragment: &Fragment<'_>,
        from: Bound,
        assembly: &mut Assembly,
        reassembly: &mut [u8],
        turn: &mut Turn<'_, L, A>,
    ) -> Taken {
        if let Ok(Message::SessionMessage(message)) = Message::parse(fragment.payload) {
            let header = message.header;
            let Some(slot) = self.recognise(turn, header.term, header.session, from) else {
                *assembly = Assembly::Skipping;
                return Taken::Yes;
            };
            if self.links.get(slot).is_some_and(Link::is_half_full) {
                return Taken::Held;
            }
        }
        let slots = reassembly
            .len()
            .checked_div(self.config.message_max)
            .unwrap_or(0);
        let Some(slot) = self.pool.take(slots) else {
            return Taken::Held;
        };
        self.extend_message(fragment, from, (slot, 0), assembly, reassembly, turn)
    }

    /// One more fragment of the message of which `len` bytes lie in `slot` of the pool.
    fn extend_message<L: Log, A: Authenticator>(
        &mut self,
        fragment: &Fragment<'_>,
        from: Bound,
        (slot, len): (usize, usize),
        assembly: &mut Assembly,
        reassembly: &mut [u8],
        turn: &mut Turn<'_, L, A>,
    ) -> Taken {
        let start = slot.saturating_mul(self.config.message_max);
        let place = reassembly.get_mut(start..start.saturating_add(self.config.message_max));
        let place = place.unwrap_or_default();
        let end = len.saturating_add(fragment.payload.len());
        let Some(room) = place.get_mut(len..end) else {
            let known = if len == 0 {
                fragment.payload
            } else {
                place.get(..len).unwrap_or_default()
            };
            self.refuse_too_long(known, from, turn);
            self.pool.give_back(slot);
            *assembly = if fragment.is_end() {
                Assembly::Idle
            } else {
                Assembly::Skipping
            };
            return Taken::Yes;
        };
        room.copy_from_slice(fragment.payload);
        if !fragment.is_end() {
            *assembly = Assembly::Gathering { slot, len: end };
            return Taken::Yes;
        }
        // If it is held, this last fragment stays in the window and is copied again next time.
        let taken = self.take_message(place.get(..end).unwrap_or_default(), from, turn);
        if taken == Taken::Yes {
            self.pool.give_back(slot);
            *assembly = Assembly::Idle;
        }
        taken
    }

    /// A message is longer than the cluster's maximum: its session is told, and nothing stalls.
    pub(super) fn refuse_too_long<L: Log, A: Authenticator>(
        &mut self,
        start: &[u8],
        from: Bound,
        turn: &mut Turn<'_, L, A>,
    ) {
        self.count(Count::MessageTooLong);
        if let Ok(Message::SessionMessage(message)) = Message::parse(start) {
            let header = message.header;
            if let Some(slot) = self.recognise(turn, header.term, header.session, from) {
                self.say_too_long(slot, header.session, turn.egress);
            }
        }
    }

    /// The link of an open session that may be spoken for from there, in this term. What is not
    /// recognised is counted and dropped: a message of an old leadership is never executed in a new
    /// one (Aeron: `onIngressMessage`), and after a session's end nothing of it is.
    pub(super) fn recognise<L, A>(
        &mut self,
        turn: &Turn<'_, L, A>,
        term: Term,
        session: SessionId,
        from: Bound,
    ) -> Option<usize> {
        let Some(leading) = self.term(turn) else {
            self.count(Count::MessageIgnored);
            return None;
        };
        if term != leading {
            self.count(Count::StaleTerm);
            return None;
        }
        let slot = self.serving(session);
        let live = slot.and_then(|slot| self.links.get_mut(slot)?.live_mut());
        let (Some(slot), Some(live)) = (slot, live) else {
            self.count(Count::UnknownSession);
            return None;
        };
        if live.close != Close::No {
            self.count(Count::UnknownSession);
            return None;
        }
        if !live.bind(from) {
            self.count(Count::ForeignSource);
            return None;
        }
        live.heard_at = turn.now;
        Some(slot)
    }
}

/// The longest open event in bytes.
const OPEN_MAX: usize = 512;
const _: () = assert!(
    OPEN_MAX
        >= crate::wire::sbe::HEADER
            + SessionOpenEvent::BLOCK as usize
            + 2 * crate::wire::sbe::VAR_LENGTH
            + crate::limits::CHANNEL_MAX
            + crate::limits::PRINCIPAL_MAX
);

/// Where a record of `len` bytes would start if it were appended now: behind a PAD, if its first frame
/// does not fit the rest of the segment.
fn record_start<L: Log>(log: &L, len: usize, mtu: usize) -> Option<Position> {
    let end = log.end();
    let first = len.min(mtu.saturating_sub(FRAME_HEADER));
    let taken = encoded_len(end, first, mtu, log.segment_length())?;
    let frame = align(FRAME_HEADER + first) as u64;
    Some(end.plus(taken.saturating_sub(frame)))
}
