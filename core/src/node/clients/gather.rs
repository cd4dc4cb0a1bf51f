//! From fragments to messages: in place where a message came whole, else in a shared reassembly
//! slot.

use crate::limits::FRAME_HEADER;
use crate::log::{Appending, Log};
use crate::node::clients::admit::{Budget, Taken, Turn};
use crate::node::clients::egress::framed_bound;
use crate::node::clients::ingress::{Assembly, Ingress, Owner};
use crate::node::clients::link::{Bound, Link};
use crate::node::clients::slots::{self, Slots};
use crate::node::clients::{Clients, Count};
use crate::session::Authenticator;
use crate::stream::Fragment;
use crate::wire::cluster::{Message, SESSION_HEADER_LENGTH, SessionMessage, SessionMessageHeader};
use crate::wire::frame::{align, words};

/// A message that is being put together.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) struct Gathering {
    /// The slot of the pool that its first `len` bytes lie in.
    pub slot: usize,
    pub len: usize,
    pub owner: Owner,
}

impl<const N: usize> Clients<N> {
    /// Takes fragments of one stream, of several that wait or `is_alone`, until `share` is spent;
    /// what stopped it.
    pub(super) fn admit_stream<L: Log, A: Authenticator>(
        &mut self,
        slot: usize,
        share: &mut Budget,
        is_alone: bool,
        ingress: &[u8],
        turn: &mut Turn<'_, L, A>,
    ) -> Taken {
        let bytes = slots::share(ingress, slot, self.places);
        while !share.is_spent() {
            let stream = self.ingress.get(slot);
            let Some((stream, fragment)) = stream.and_then(|s| Some((s, s.image.peek(bytes)?)))
            else {
                return Taken::Yes;
            };
            let from = Bound {
                serial: stream.serial,
                address: stream.image.source(),
                slot,
            };
            let mut assembly = stream.assembly;
            let len = FRAME_HEADER + fragment.payload.len();
            let outcome = self.take_fragment(&fragment, from, &mut assembly, turn);
            if let Some(stream) = self.ingress.get_mut(slot) {
                stream.assembly = assembly;
                if matches!(outcome, Taken::Yes | Taken::Last) {
                    stream.image.take_peeked(&fragment, bytes);
                }
            }
            match outcome {
                Taken::Yes => {
                    if !is_alone && matches!(assembly, Assembly::Gathering(_)) {
                        // The slots are shared by all: others are soon let come.
                        share.shorten();
                    }
                    share.spend(len);
                    self.admit_alike_waiting(slot, from, share, bytes, turn);
                }
                Taken::Last => {
                    share.spend(len);
                    return outcome;
                }
                Taken::Full | Taken::Held => {
                    self.count(Count::IngressHeld);
                    return outcome;
                }
            }
        }
        Taken::Yes
    }

    /// As [`Clients::admit_alike`], of what waits in the window of stream `slot`.
    fn admit_alike_waiting<L: Log, A: Authenticator>(
        &mut self,
        slot: usize,
        from: Bound,
        share: &mut Budget,
        bytes: &[u8],
        turn: &mut Turn<'_, L, A>,
    ) {
        let Some(start) = self.ingress.get(slot).map(|stream| stream.image.consumed()) else {
            return;
        };
        let message = |ingress: &Slots<Ingress, N>, len| {
            let image = &ingress.get(slot)?.image;
            image.whole_at(start.plus(len), bytes)
        };
        let taken = self.admit_alike(from, share, turn, message);
        if let Some(len) = taken.filter(|len| *len > 0)
            && let Some(stream) = self.ingress.get_mut(slot)
        {
            stream.image.take_to(start.plus(len), bytes);
        }
    }

    /// Takes the next messages of a session, each whole in its frame, while they begin alike: of
    /// the same session and term. What [`Clients::take_message`] does with each of them, with all
    /// looked at once that none of them changes. Stops before the first that is something else, or
    /// that is refused or has no room: that one is looked at in full. `message` gives what is in
    /// the frame behind so many bytes, if that is a whole message. Returns how many bytes it took.
    #[inline(never)]
    pub(super) fn admit_alike<'b, L: Log, A: Authenticator>(
        &mut self,
        from: Bound,
        share: &mut Budget,
        turn: &mut Turn<'_, L, A>,
        message: impl Fn(&Slots<Ingress, N>, u64) -> Option<&'b [u8]>,
    ) -> Option<u64> {
        let said = SessionMessage::quickly(message(&self.ingress, 0)?)?;
        let SessionMessageHeader { term, session, .. } = said.header;
        if self.term(turn) != Some(term) {
            return None;
        }
        // What is in flight, and that its client was heard, makes nothing due.
        let link = self.links.visit(self.serving(session)?)?;
        let most = link.in_flight_max()?;
        let live = link.live_mut().filter(|live| live.is_heard_from(from))?;
        let (log, mtu) = (&mut *turn.log, self.config.mtu);
        let mut run = Appending::open(log, term, self.config.log_mtu).ok()?;
        let head = SessionMessageHeader {
            timestamp: turn.admission.timestamp,
            ..said.header
        };
        let ([sbe, term, session, _], head) = (words(&said.header.to_bytes()), head.to_bytes());
        let (mut taken, mut in_flight) = (0, live.in_flight);
        let (before, mut left) = (*share, *share);
        while !left.is_spent() && in_flight <= most {
            let next = message(&self.ingress, taken);
            let Some((start, payload)) = next.and_then(|m| m.split_first_chunk()) else {
                break;
            };
            let len = SESSION_HEADER_LENGTH + payload.len();
            let of = words(start);
            let differs = (of[0] ^ sbe) | (of[1] ^ term) | (of[2] ^ session);
            if differs != 0 || len > self.config.message_max || !run.push(len, &[&head, payload]) {
                break;
            }
            in_flight = in_flight.saturating_add(framed_bound(len, mtu));
            left.spend(FRAME_HEADER + len);
            taken += align(FRAME_HEADER + len) as u64;
        }
        (live.in_flight, *share) = (in_flight, left);
        let count = before.fragments_without(left);
        if count > 0 {
            live.heard_at = turn.now;
            let (end, chain) = run.seal();
            if let Err(broken) = log.publish(end, chain) {
                self.broken = Some(broken);
                return None;
            }
            self.counters.add(Count::MessageAppended, count as u64);
        }
        Some(taken)
    }

    pub(super) fn take_fragment<L: Log, A: Authenticator>(
        &mut self,
        fragment: &Fragment<'_>,
        from: Bound,
        assembly: &mut Assembly,
        turn: &mut Turn<'_, L, A>,
    ) -> Taken {
        if fragment.is_begin() {
            // A message that was not finished never will be.
            self.abandon(assembly, Assembly::Idle);
        }
        if fragment.is_whole() {
            return self.take_message(fragment.payload, from, false, turn);
        }
        if fragment.is_begin() {
            return self.begin_message(fragment, from, assembly, turn);
        }
        match *assembly {
            Assembly::Gathering(gathering) => {
                self.extend_message(fragment, from, gathering, assembly, turn)
            }
            Assembly::Idle | Assembly::Skipping => {
                if fragment.is_end() {
                    *assembly = Assembly::Idle;
                }
                Taken::Yes
            }
        }
    }

    /// The first fragment of several. A session's message gets a reassembly slot only if it would
    /// be admitted now: a client that does not read must not keep a slot from others.
    fn begin_message<L: Log, A: Authenticator>(
        &mut self,
        fragment: &Fragment<'_>,
        from: Bound,
        assembly: &mut Assembly,
        turn: &mut Turn<'_, L, A>,
    ) -> Taken {
        let mut owner = Owner::Nobody {
            until: turn.now.plus(self.config.connect_timeout),
        };
        if let Ok(Message::SessionMessage(message)) = Message::parse(fragment.payload) {
            let header = message.header;
            let Some(slot) = self.recognise(turn, header.term, header.session, from) else {
                *assembly = Assembly::Skipping;
                return Taken::Yes;
            };
            if self.links.get(slot).is_some_and(Link::is_half_full) {
                return Taken::Held;
            }
            owner = Owner::Session(header.session);
        }
        let slots = turn.reassembly.len().checked_div(self.config.message_max);
        let Some(slot) = self.pool.take(slots.unwrap_or(0), from.slot) else {
            return Taken::Held;
        };
        let gathering = Gathering {
            slot,
            len: 0,
            owner,
        };
        self.extend_message(fragment, from, gathering, assembly, turn)
    }

    /// One more fragment of a message.
    fn extend_message<L: Log, A: Authenticator>(
        &mut self,
        fragment: &Fragment<'_>,
        from: Bound,
        gathering: Gathering,
        assembly: &mut Assembly,
        turn: &mut Turn<'_, L, A>,
    ) -> Taken {
        // Out of the turn for as long as a message in it is looked at.
        let reassembly = core::mem::take(&mut turn.reassembly);
        let start = gathering.slot.saturating_mul(self.config.message_max);
        let place = reassembly.get_mut(start..start.saturating_add(self.config.message_max));
        let place = place.unwrap_or_default();
        let end = gathering.len.saturating_add(fragment.payload.len());
        let room = place.get_mut(gathering.len..);
        let taken = match room.and_then(|room| room.get_mut(..fragment.payload.len())) {
            None => {
                self.refuse_too_long(gathering.owner, from, turn);
                *assembly = Assembly::Skipping;
                self.give_back(gathering.slot)
            }
            Some(room) => {
                room.copy_from_slice(fragment.payload);
                *assembly = Assembly::Gathering(gathering);
                if fragment.is_end() {
                    // If it is held, this last fragment stays in the window, and is copied once
                    // more.
                    let message = place.get(..end).unwrap_or_default();
                    match self.take_message(message, from, true, turn) {
                        Taken::Yes | Taken::Last => self.give_back(gathering.slot),
                        held => held,
                    }
                } else {
                    let len = end;
                    *assembly = Assembly::Gathering(Gathering { len, ..gathering });
                    Taken::Yes
                }
            }
        };
        turn.reassembly = reassembly;
        if fragment.is_end() && matches!(taken, Taken::Yes | Taken::Last) {
            *assembly = Assembly::Idle;
        }
        taken
    }

    /// A slot of the pool is free again. Whoever waits for one shall have it before this stream's
    /// next message does.
    fn give_back(&mut self, slot: usize) -> Taken {
        if self.pool.give_back(slot) {
            Taken::Last
        } else {
            Taken::Yes
        }
    }

    /// Gives up the message that is being put together.
    pub(super) fn abandon(&mut self, assembly: &mut Assembly, next: Assembly) {
        if let Assembly::Gathering(gathering) = *assembly {
            self.pool.give_back(gathering.slot);
        }
        *assembly = next;
    }

    /// Gives up unfinished messages that `ends` picks by their owners; looks at each that there is.
    pub(super) fn abandon_all(&mut self, ends: impl Fn(Owner) -> bool) {
        let mut from = 0;
        while let Some((taken, slot)) = self.pool.next(from) {
            from = taken + 1;
            let Some(mut assembly) = self.ingress.get(slot).map(|stream| stream.assembly) else {
                continue;
            };
            if matches!(assembly, Assembly::Gathering(gathering) if ends(gathering.owner)) {
                self.abandon(&mut assembly, Assembly::Skipping);
                if let Some(stream) = self.ingress.get_mut(slot) {
                    stream.assembly = assembly;
                }
            }
        }
    }

    /// A message is longer than the cluster's maximum: its session is told, and nothing stalls.
    pub(super) fn refuse_too_long<L, A>(
        &mut self,
        owner: Owner,
        from: Bound,
        turn: &mut Turn<'_, L, A>,
    ) {
        self.count(Count::MessageTooLong);
        let (Owner::Session(session), Some(term)) = (owner, self.term(turn)) else {
            return;
        };
        if let Some(slot) = self.recognise(turn, term, session, from) {
            self.say_too_long(slot, session, turn.egress);
        }
    }
}
