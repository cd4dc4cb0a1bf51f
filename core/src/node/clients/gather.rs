//! From fragments to messages: in place where a message came whole, else in a shared reassembly
//! slot.

use crate::broken::Broken;
use crate::limits::FRAME_HEADER;
use crate::log::{Appending, Log};
use crate::node::clients::admit::{Budget, Taken, Turn};
use crate::node::clients::ingress::{Assembly, Owner};
use crate::node::clients::link::{Bound, Link};
use crate::node::clients::slots;
use crate::node::clients::{Clients, Count, View};
use crate::session::Authenticator;
use crate::stream::Fragment;
use crate::time::{Instant, Timestamp};
use crate::wire::cluster::{Message, SESSION_HEADER_LENGTH, SessionMessageHeader};
use crate::wire::frame::{WHOLE, align, framed_bound, words};

/// A message that is being put together.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) struct Gathering {
    /// The slot of the pool that its first `len` bytes lie in.
    pub slot: usize,
    pub len: usize,
    pub owner: Owner,
}

/// Where and when messages were heard, and what the log says of when.
#[derive(Clone, Copy)]
pub(super) struct Heard {
    /// Of the stream.
    pub serial: u64,
    pub at: Instant,
    pub timestamp: Timestamp,
}

/// The words of the frame header that `bytes` start with, and the header of the message behind it.
#[inline(always)]
fn framed(bytes: &[u8]) -> Option<([u64; 4], &[u8; SESSION_HEADER_LENGTH])> {
    let (frame, rest) = bytes.split_first_chunk()?;
    Some((words(frame), rest.first_chunk()?))
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
        let (Some(stream), View::Leading) = (self.ingress.get(slot), turn.admission.view) else {
            return;
        };
        let (start, (run, lap)) = (stream.image.consumed(), stream.image.waiting(bytes));
        let heard = Heard {
            serial: from.serial,
            at: turn.now,
            timestamp: turn.admission.timestamp,
        };
        let taken = self.admit_alike(heard, share, turn.log, run, lap);
        if let Some(len) = taken.filter(|len| *len > 0)
            && let Some(stream) = self.ingress.get_mut(slot)
        {
            stream.image.take_to(start.plus(len as u64), bytes);
        }
    }

    /// Takes the next messages of a session, each whole in its frame, while they begin alike: of
    /// the same session and term. What [`Clients::take_message`] does with each of them, with all
    /// looked at once that none of them changes. Stops before the first that is something else, or
    /// that is refused or has no room, or starts behind `lap` bytes: that one is looked at in full.
    /// `run` starts with the next frame of the stream. Returns how many bytes it took. Only while
    /// this member's view is that it leads.
    #[inline(never)]
    pub(super) fn admit_alike<L: Log>(
        &mut self,
        heard: Heard,
        share: &mut Budget,
        log: &mut L,
        run: &[u8],
        lap: usize,
    ) -> Option<usize> {
        let ([_, places, stream, _], header) = framed(run)?;
        let said = SessionMessageHeader::quickly(header)?;
        let SessionMessageHeader { term, session, .. } = said;
        if self.leading != Some(term) {
            return None;
        }
        // What is in flight, and that its client was heard, makes nothing due.
        let link = self.links.visit(self.serving(session)?)?;
        let most = link.in_flight_max()?;
        let live = link.live_mut()?;
        if !live.is_heard_on(heard.serial) {
            return None;
        }
        let mtu = self.config.mtu;
        let appending = Appending::open(log, term, self.config.log_mtu).ok()?;
        let (room, log_lap, longest) = appending.bounds();
        let longest = longest.min(FRAME_HEADER.saturating_add(self.config.message_max));
        let (run, lap) = (run.get(..room).unwrap_or(run), lap.min(log_lap));
        let [sbe, term, session, _] = words(header);
        let (mut taken, mut in_flight) = (0, live.in_flight);
        let (before, mut left) = (*share, *share);
        while taken < lap && !left.is_spent() && in_flight <= most {
            let frame = run.get(taken..).and_then(framed);
            let Some(([kind, place, named, _], header)) = frame else {
                break;
            };
            let (of, length) = (words(header), kind as u32 as usize);
            let differs = (kind >> 32 ^ WHOLE)
                | (place ^ places.wrapping_add(taken as u64))
                | (named ^ stream)
                | (of[0] ^ sbe)
                | (of[1] ^ term)
                | (of[2] ^ session);
            let end = taken + align(length);
            let is_message = length >= FRAME_HEADER + SESSION_HEADER_LENGTH && length <= longest;
            if differs != 0 || !is_message || end > run.len() {
                break;
            }
            in_flight = in_flight.saturating_add(framed_bound(length - FRAME_HEADER, mtu));
            left.spend(length);
            taken = end;
        }
        (live.in_flight, *share) = (in_flight, left);
        if taken > 0 {
            live.heard_at = heard.at;
            let run = run.get(..taken).unwrap_or_default();
            let sealed = appending.adopt(run, |message| {
                SessionMessageHeader::set_timestamp(message, heard.timestamp);
            });
            let sealed = sealed.ok_or(Broken::Room);
            if let Err(broken) = sealed.and_then(|(end, chain)| log.publish(end, chain)) {
                self.broken = Some(broken);
                return None;
            }
            let count = before.fragments_without(left);
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
