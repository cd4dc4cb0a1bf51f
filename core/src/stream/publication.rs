//! The send side of one Aeron stream, in a slot of lent memory (Aeron: `NetworkPublication`).
//!
//! A message is cut to frames in the slot, once, and sent and sent again from there until the
//! receiver has consumed it. Everything due is derived from positions when polled: acked <= sent <=
//! tail.

mod config;
mod pad;

pub use config::{ConfigError, OfferError, PublicationConfig, PublicationTiming, StatusReject};

use core::net::SocketAddr;
use core::time::Duration;

use config::message_max;
use pad::Pad;

use crate::limits::FRAME_HEADER;
use crate::stream::cutting::{self, Parts};
use crate::stream::geometry::{Held, Ring, Segments};
use crate::stream::{Control, Output, earlier};
use crate::time::Instant;
use crate::units::Position;
use crate::wire::frame::{
    self, DataHeader, FLAG_BEGIN, FLAG_END, FLAG_END_OF_STREAM, FLAG_SEND_SETUP,
    FLAG_SM_END_OF_STREAM, FLAGS_WHOLE, Kind, Nak, Rttm, Setup, StatusMessage,
};

/// A range that is being sent again, or was just now.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
struct Resend {
    start: Position,
    next: Position,
    end: Position,
    linger_until: Instant,
}

/// The send side of one stream.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Publication {
    #[cfg_attr(feature = "defmt", defmt(Debug2Format))]
    target: SocketAddr,
    stream_id: i32,
    session_id: i32,
    segments: Segments,
    mtu: u32,
    ring: Ring,
    message_max: usize,
    timing: PublicationTiming,
    /// The end of what was offered.
    tail: Position,
    /// The end of what was sent once.
    sent: Position,
    /// The end of what the receiver has granted; never goes back.
    limit: Position,
    /// The receiver has consumed everything below, and will not ask for it again.
    acked: Position,
    /// The window that the receiver last told of, at most half a segment.
    receiver_window: u64,
    /// The last PAD. Only one can be pending: the ring is shorter than a segment.
    pad: Option<Pad>,
    /// The bytes that all PADs before the last one did not take in the slot.
    skipped: u64,
    /// The bytes that all PADs did not take there.
    shift: u64,
    /// How far the tail may go, before more is consumed.
    full: Position,
    resend: Option<Resend>,
    echo: Option<Rttm>,
    closed: bool,
    /// A receiver has answered at some time: from then on SETUP is only sent when asked for.
    answered: bool,
    setup_asked: bool,
    setup_at: Instant,
    heartbeat_at: Instant,
    /// When the receiver counts as gone; none if there is none.
    connected_until: Option<Instant>,
}

impl Publication {
    /// Makes a publication in a slot of `slot_len` bytes; its first SETUP is due at once. What was
    /// sent and not consumed is bounded by the slot's ring, and by a quarter of a segment.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub fn new(
        now: Instant,
        config: &PublicationConfig,
        slot_len: usize,
    ) -> Result<Self, ConfigError> {
        let segments = Segments::new(config.initial_term_id, config.segment_length)
            .ok_or(ConfigError::SegmentLength)?;
        // A quarter, so that a full window and a PAD stay within half a segment of the receiver:
        // beyond that receivers drop datagrams (Aeron: flow control over run).
        let ring = Ring::fit(slot_len, config.mtu as usize, segments.length() / 4)
            .ok_or(ConfigError::Mtu)?;
        Ok(Self {
            target: config.target,
            stream_id: config.stream_id,
            session_id: config.session_id,
            segments,
            mtu: config.mtu,
            ring,
            message_max: message_max(segments, ring, config.mtu),
            timing: config.timing,
            tail: Position::ZERO,
            sent: Position::ZERO,
            limit: Position::ZERO,
            acked: Position::ZERO,
            receiver_window: 0,
            pad: None,
            skipped: 0,
            shift: 0,
            full: Position::new(u64::from(ring.window())),
            resend: None,
            echo: None,
            closed: false,
            answered: false,
            setup_asked: false,
            setup_at: now,
            heartbeat_at: now.plus(config.timing.heartbeat),
            connected_until: None,
        })
    }

    /// Takes the message that the parts are together; returns the position of its end. All of it or
    /// nothing: the work is bounded by the slot.
    ///
    /// # Errors
    /// [`OfferError`].
    pub fn offer(&mut self, parts: &[&[u8]], slot: &mut [u8]) -> Result<Position, OfferError> {
        let len = Parts::new(&[], parts).length();
        self.offer_headed([], parts, len, slot)
    }

    /// As [`Publication::offer`], of parts that are `len` bytes together with a head in front. That
    /// is words (little-endian), which go from registers to the slot: read back from memory, they
    /// would wait for all that was written before.
    #[inline(always)]
    pub(crate) fn offer_headed<const N: usize>(
        &mut self,
        head: [u64; N],
        parts: &[&[u8]],
        len: usize,
        slot: &mut [u8],
    ) -> Result<Position, OfferError> {
        if self.closed {
            return Err(OfferError::Closed);
        }
        if self.connected_until.is_none() {
            return Err(OfferError::NotConnected);
        }
        if len > self.message_max() {
            return Err(OfferError::TooLong);
        }
        if len > cutting::payload_max(self.mtu) || !self.write_one(head, parts, len, slot) {
            self.write_any(head, parts, len, slot)?;
        }
        Ok(self.tail)
    }

    /// The next datagram that is due. Ask until `None`; each costs at most one MTU of steps.
    pub fn poll_transmit<'s>(&mut self, now: Instant, slot: &'s [u8]) -> Option<Output<'s>> {
        self.handle_timeout(now);
        if let Some(echo) = self.echo.take() {
            return Some(Output::Control(Control::Rttm(echo)));
        }
        if let Some(setup) = self.poll_setup(now) {
            return Some(Output::Control(Control::Setup(setup)));
        }
        if let Some(frames) = self.poll_resend(slot) {
            return Some(Output::Frames(frames));
        }
        if self.sent < self.tail
            && let Some((frames, end)) = self.run(slot, self.sent, self.tail, self.limit)
        {
            self.sent = end;
            self.heartbeat_at = now.plus(self.timing.heartbeat);
            return Some(Output::Frames(frames));
        }
        self.poll_heartbeat(now)
            .map(|header| Output::Control(Control::Heartbeat(header)))
    }

    /// Takes note that time has passed: without a status message for long the receiver is gone.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.connected_until.is_some_and(|until| now >= until) {
            self.connected_until = None;
        }
    }

    /// Its owner slept for so long: it has not heard a receiver that may have spoken meanwhile.
    pub(crate) fn excuse(&mut self, now: Instant, slept: Duration) {
        let later = |at: Instant| at.plus(slept).min(now.plus(self.timing.connection));
        self.connected_until = self.connected_until.map(later);
    }

    /// A receiver reports how far it has consumed, or asks for SETUP, or says that it goes away.
    ///
    /// # Errors
    /// [`StatusReject`]; nothing has changed then.
    pub fn handle_status(&mut self, now: Instant, sm: &StatusMessage) -> Result<(), StatusReject> {
        if !self.is(sm.stream_id, sm.session_id) {
            return Err(StatusReject::Foreign);
        }
        if sm.flags & FLAG_SEND_SETUP != 0 {
            // Not a status: its position and window are zero, whatever the stream's position.
            self.setup_asked = true;
            return Ok(());
        }
        let consumed = self
            .segments
            .position(sm.term_id, sm.term_offset)
            .ok_or(StatusReject::Position)?;
        let half = u64::from(self.segments.length() / 2);
        let is_in_pad = self.pad.is_some_and(|pad| pad.is_inside(consumed));
        if consumed > self.sent || self.sent.since(consumed) > half || is_in_pad {
            return Err(StatusReject::Position);
        }
        if sm.flags & FLAG_SM_END_OF_STREAM != 0 {
            self.connected_until = None;
        } else {
            self.connected_until = Some(now.plus(self.timing.connection));
        }
        if !self.answered {
            // The first heartbeat tells a receiver that joined where the stream is.
            self.answered = true;
            self.heartbeat_at = now.plus(self.timing.heartbeat);
        }
        let window = u64::from(sm.window.unsigned_abs()).min(half);
        self.receiver_window = window;
        self.acked = self.acked.max(consumed);
        self.note_room();
        self.limit = self.limit.max(consumed.plus(window));
        Ok(())
    }

    /// A receiver asks for a range again. It is sent from exactly the place named, because
    /// receivers drop a datagram whose first frame they have; a place that no frame starts at is
    /// ignored.
    ///
    /// # Errors
    /// [`StatusReject`]; nothing has changed then.
    pub fn handle_nak(&mut self, now: Instant, nak: &Nak, slot: &[u8]) -> Result<(), StatusReject> {
        if !self.is(nak.stream_id, nak.session_id) {
            return Err(StatusReject::Foreign);
        }
        let start = self
            .segments
            .position(nak.term_id, nak.term_offset)
            .ok_or(StatusReject::Position)?;
        if start < self.acked || start >= self.sent {
            return Err(StatusReject::Position);
        }
        let header = self.header(slot, start).ok_or(StatusReject::Position)?;
        let lingers = self.resend.is_some_and(|r| {
            start >= r.start && start < r.end && (r.next < r.end || now < r.linger_until)
        });
        if lingers {
            return Ok(());
        }
        let len = u64::from(nak.length.unsigned_abs()).max(header.aligned_len() as u64);
        let len = len.min(self.segments.remaining(start));
        self.resend = Some(Resend {
            start,
            next: start,
            end: start.plus(len).min(self.sent),
            linger_until: now.plus(self.timing.linger),
        });
        Ok(())
    }

    /// A round-trip measurement that asks for its echo.
    pub fn handle_rttm(&mut self, rttm: &Rttm) {
        if rttm.reply && self.is(rttm.stream_id, rttm.session_id) {
            self.echo = Some(Rttm {
                reply: false,
                reception_delta: 0,
                ..*rttm
            });
        }
    }

    /// Takes no more messages. What was taken is still sent; then heartbeats say that this is the
    /// end, until the owner lets go of the publication.
    pub fn close(&mut self, now: Instant) {
        if !self.closed {
            self.closed = true;
            self.heartbeat_at = now;
        }
    }

    /// When `poll_transmit` will have something, if nothing arrives and nothing is offered before.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let setup = self.wants_setup().then_some(self.setup_at);
        let heartbeat = self.answered.then_some(self.heartbeat_at);
        earlier(earlier(setup, heartbeat), self.connected_until)
    }

    /// Has `poll_transmit` nothing more, if nothing arrives, nothing is offered and no time comes?
    pub fn is_quiet(&self, now: Instant) -> bool {
        let resends = self.resend.is_some_and(|r| r.next < r.end);
        let is_told = self.echo.is_none() && !self.wants_setup() && now < self.heartbeat_at;
        self.sent == self.tail && is_told && !resends
    }

    /// Is there a receiver, as far as is known?
    pub fn is_connected(&self) -> bool {
        self.connected_until.is_some()
    }

    /// Has the receiver consumed everything?
    pub fn is_drained(&self) -> bool {
        self.acked == self.tail
    }

    /// Is more pending than a receiver that reads would leave unsaid, or half of our window? It
    /// tells how far it has come once it has consumed a quarter of its own since it last did
    /// (Aeron: `PublicationImage.trackRebuild`), which may be more than ours holds.
    pub fn is_unread(&self) -> bool {
        let unsaid = (self.receiver_window / 4).min(u64::from(self.ring.window() / 2));
        self.tail.since(self.acked) > unsaid
    }

    /// How many bytes of the window are taken: offered, and not consumed as far as is known. A
    /// message takes a header for each MTU; the PAD in front of a new segment only its own header.
    pub fn pending(&self) -> u64 {
        let pad = self.pad.filter(|pad| pad.end > self.acked);
        let span = self.tail.since(self.acked);
        span.saturating_sub(pad.map_or(0, Pad::skip))
    }

    /// What was offered and is not consumed, as far as is known.
    pub fn held(&self) -> Held {
        let [start, end] = [self.acked, self.tail].map(|at| self.stored(at));
        self.ring.held(start, end)
    }

    /// How many bytes may be pending at most.
    pub fn window(&self) -> u32 {
        self.ring.window()
    }

    /// The end of what was offered.
    pub fn tail(&self) -> Position {
        self.tail
    }

    /// The end of what the receiver is known to have consumed: it only moves if the receiver does.
    pub fn acked(&self) -> Position {
        self.acked
    }

    /// Where datagrams go.
    pub fn target(&self) -> SocketAddr {
        self.target
    }

    /// The session of the stream.
    pub fn session_id(&self) -> i32 {
        self.session_id
    }

    /// Is this that stream?
    pub fn is(&self, stream_id: i32, session_id: i32) -> bool {
        self.session_id == session_id && self.stream_id == stream_id
    }

    /// The longest message that is ever taken, in bytes: an eighth of a segment (Aeron:
    /// `computeMaxMessageLength`), and with its headers at most the window.
    pub fn message_max(&self) -> usize {
        self.message_max
    }

    fn header_at(&self, at: Position, len: u64, flags: u8, kind: Kind) -> DataHeader {
        DataHeader {
            frame_length: len as i32,
            flags,
            kind,
            term_offset: self.segments.offset(at),
            session_id: self.session_id,
            stream_id: self.stream_id,
            term_id: self.segments.id(at),
            reserved: 0,
        }
    }

    /// Fills the segment, because messages do not cross its end. Only a header is stored and sent.
    fn pad(&mut self, rest: u64, slot: &mut [u8]) -> Result<(), OfferError> {
        if self.segments.is_last(self.tail) {
            return Err(OfferError::Closed);
        }
        if self.room() < FRAME_HEADER as u64 {
            return Err(OfferError::BackPressured);
        }
        let header = self.header_at(self.tail, rest, FLAGS_WHOLE, Kind::Pad);
        let place = self.place(self.tail);
        slot.get_mut(place..)
            .and_then(|place| header.emit(place))
            .ok_or(OfferError::BackPressured)?;
        // More than a window lies between two ends of segments, so the one before was consumed.
        self.skipped += self.pad.map_or(0, Pad::skip);
        let (start, end) = (self.tail, self.tail.plus(rest));
        self.pad = Some(Pad { start, end });
        self.tail = end;
        self.note_room();
        Ok(())
    }

    /// A message in one frame, in this segment: nearly all are. False, and nothing is written, if
    /// it does not fit there now.
    #[inline(always)]
    fn write_one<const N: usize>(
        &mut self,
        head: [u64; N],
        parts: &[&[u8]],
        len: usize,
        slot: &mut [u8],
    ) -> bool {
        let (at, length) = (self.tail, FRAME_HEADER + len);
        let aligned = frame::align(length);
        // No PAD is behind the tail.
        let place = self.ring.offset(at.minus(self.shift));
        debug_assert_eq!(place, self.place(at));
        let fits = aligned as u64 <= self.segments.remaining(at).min(self.room());
        // The slot is at least as long as the one given at construction, so a place is there.
        let place = slot.get_mut(place..place + aligned).filter(|_| fits);
        let Some((header, rest)) = place.and_then(|place| place.split_first_chunk_mut()) else {
            return false;
        };
        *header = frame::from_words([
            length as u64 | u64::from(FLAGS_WHOLE) << 40 | frame::DATA,
            frame::pair(self.segments.offset(at), self.session_id),
            frame::pair(self.stream_id, self.segments.id(at)),
            0,
        ]);
        let Some(rest) = frame::put_all(rest, head, parts) else {
            return false;
        };
        if !rest.is_empty() {
            rest.fill(0);
        }
        self.tail = at.plus(aligned as u64);
        true
    }

    /// A message in as many frames as it needs, behind a PAD if they do not fit the segment.
    #[inline(never)]
    fn write_any<const N: usize>(
        &mut self,
        head: [u64; N],
        parts: &[&[u8]],
        len: usize,
        slot: &mut [u8],
    ) -> Result<(), OfferError> {
        let framed = cutting::framed(len, self.mtu) as u64;
        let rest = self.segments.remaining(self.tail);
        if framed > rest {
            self.pad(rest, slot)?;
        }
        if self.room() < framed {
            return Err(OfferError::BackPressured);
        }
        let head = head.map(u64::to_le_bytes);
        self.write(Parts::new(head.as_flattened(), parts), len, slot);
        Ok(())
    }

    fn write(&mut self, mut parts: Parts<'_>, len: usize, slot: &mut [u8]) {
        let mut left = len;
        let mut begin = FLAG_BEGIN;
        loop {
            let take = left.min(cutting::payload_max(self.mtu));
            left -= take;
            let end = if left == 0 { FLAG_END } else { 0 };
            let frame_len = FRAME_HEADER + take;
            let aligned = frame::align(frame_len);
            let header = self.header_at(self.tail, frame_len as u64, begin | end, Kind::Data);
            let offset = self.place(self.tail);
            // The slot is at least as long as the one given at construction, so a place is there.
            if let Some(place) = slot.get_mut(offset..offset + aligned) {
                let _written = header.emit(place);
                if let Some(payload) = place.get_mut(FRAME_HEADER..frame_len) {
                    parts.copy(payload);
                }
                if let Some(alignment) = place.get_mut(frame_len..) {
                    alignment.fill(0);
                }
            }
            self.tail = self.tail.plus(aligned as u64);
            begin = 0;
            if left == 0 {
                break;
            }
        }
    }

    fn wants_setup(&self) -> bool {
        !self.answered || self.setup_asked
    }

    fn poll_setup(&mut self, now: Instant) -> Option<Setup> {
        if !self.wants_setup() || now < self.setup_at {
            return None;
        }
        self.setup_at = now.plus(self.timing.setup);
        self.setup_asked = false;
        Some(Setup {
            flags: 0,
            term_offset: self.segments.offset(self.sent),
            session_id: self.session_id,
            stream_id: self.stream_id,
            initial_term_id: self.segments.initial_id(),
            active_term_id: self.segments.id(self.sent),
            term_length: self.segments.length(),
            mtu: self.mtu,
            ttl: 0,
        })
    }

    fn poll_resend<'s>(&mut self, slot: &'s [u8]) -> Option<&'s [u8]> {
        let mut resend = self.resend.filter(|r| r.next < r.end)?;
        // Bytes below `acked` may have been overwritten, and nobody needs them.
        let sent = if resend.next < self.acked {
            None
        } else {
            self.run(slot, resend.next, self.sent, resend.end)
        };
        resend.next = sent.map_or(resend.end, |(_, end)| end);
        self.resend = Some(resend);
        sent.map(|(frames, _)| frames)
    }

    /// The heartbeat names the sender's position: from it a receiver learns that the last datagram
    /// was lost. At the tail it would raise the receiver's high-water mark over bytes never sent.
    fn poll_heartbeat(&mut self, now: Instant) -> Option<DataHeader> {
        if !self.answered || now < self.heartbeat_at {
            return None;
        }
        self.heartbeat_at = now.plus(self.timing.heartbeat);
        let end = if self.closed && self.sent == self.tail {
            FLAG_END_OF_STREAM
        } else {
            0
        };
        Some(self.header_at(self.sent, 0, FLAGS_WHOLE | end, Kind::Data))
    }

    /// The header of the frame that starts at `at`; `None` if none does.
    fn header(&self, slot: &[u8], at: Position) -> Option<DataHeader> {
        let header = DataHeader::parse(slot.get(self.place(at)..)?).ok()?;
        let is_here = self.is(header.stream_id, header.session_id)
            && header.term_id == self.segments.id(at)
            && header.term_offset == self.segments.offset(at)
            && !header.is_heartbeat();
        is_here.then_some(header)
    }

    /// Whole frames from `from`, as many as a datagram takes, lie side by side, and fit below
    /// `limit`, and where they end. A PAD ends a datagram; it counts with its header only, as in
    /// Aeron.
    fn run<'s>(
        &self,
        slot: &'s [u8],
        from: Position,
        tail: Position,
        limit: Position,
    ) -> Option<(&'s [u8], Position)> {
        let start = self.place(from);
        let room = limit.since(from).min(u64::from(self.mtu)) as usize;
        // Not across the end of a segment, even where no PAD stands before it.
        let most = tail.since(from).min(self.segments.remaining(from)) as usize;
        // Frames that start here lie side by side; the last of them may be in the slack behind.
        let side = (self.ring.window() as usize).saturating_sub(start);
        let (mut len, mut taken) = (0, 0);
        let bytes = slot.get(start..)?;
        while taken < most && len < side {
            let Some((sent, spans)) = bytes.get(len..).and_then(frame::step) else {
                break;
            };
            if len + sent > room {
                break;
            }
            len += sent;
            taken += spans;
            // A PAD: nothing of it but its header is there.
            if sent != spans {
                break;
            }
        }
        let frames = bytes.get(..len).filter(|frames| !frames.is_empty())?;
        Some((frames, from.plus(taken as u64)))
    }
}
