//! The receive side of one Aeron stream, in a slot of lent memory (Aeron: `PublicationImage`).
//!
//! Frames land in the slot where their position says, in any order; what has arrived without a hole
//! is peeked at and consumed from the front, in place. What the peer must hear (status, loss, the
//! echo of a round-trip measurement) is derived from positions when polled, so each may be lost.

mod owed;

use core::net::SocketAddr;
use core::time::Duration;

use crate::limits::FRAME_HEADER;
use crate::stream::arrivals::{Arrivals, NotTaken, Range};
use crate::stream::geometry::{Held, Ring, Segments};
use crate::stream::{Fragment, earlier, is_same};
use crate::time::Instant;
use crate::units::Position;
use crate::wire::frame::{
    DATA, DataFrame, DataHeader, Datagram, FLAG_BEGIN, Kind, Rttm, Setup, TYPE_DATA,
    VERSION_AND_TYPE, align, pair, words,
};

/// How often a receiver reports, in every state and with or without data.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct ImageTiming {
    /// A status message at least this often (Aeron: `RCV_STATUS_MESSAGE_TIMEOUT`, 200 ms).
    pub status: Duration,
    /// From seeing a hole to asking for it; absorbs reordering.
    pub nak_delay: Duration,
    /// From asking for a hole to asking again; doubles up to `nak_repeat_max`.
    pub nak_repeat: Duration,
    /// The longest time between two requests for the same hole.
    pub nak_repeat_max: Duration,
    /// Without any datagram for this long the sender is lost (Aeron: `IMAGE_LIVENESS_TIMEOUT`, 10
    /// s).
    pub liveness: Duration,
}

impl ImageTiming {
    /// Aeron's times, except for requests of lost data, which here allow for some reordering.
    pub const DEFAULT: Self = Self {
        status: Duration::from_millis(200),
        nak_delay: Duration::from_millis(1),
        nak_repeat: Duration::from_millis(10),
        nak_repeat_max: Duration::from_millis(80),
        liveness: Duration::from_secs(10),
    };
}

impl Default for ImageTiming {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// Why a SETUP makes no image.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[non_exhaustive]
pub enum SetupReject {
    /// The length of its term buffers is not a power of two from 64 KiB to 1 GiB.
    SegmentLength,
    /// Its MTU is not a possible one, or too large for the slot.
    Mtu,
    /// It names no position where a frame may start.
    Position,
}

/// Why a datagram of data changed nothing, or not everything it could have.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[non_exhaustive]
pub enum DataReject {
    /// It names no place in this stream, or a frame longer than its SETUP allows.
    Malformed,
    /// It is of another stream or session.
    Foreign,
    /// It names bytes beyond the window; they were dropped.
    OutOfWindow,
    /// Too many holes to remember another; it was dropped.
    TooManyHoles,
}

/// What has become of the sender.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum ImageState {
    /// Alive, or ended with data still to consume.
    Active,
    /// It said that it ended, and everything was consumed.
    Ended,
    /// Nothing was heard for the liveness time.
    Lost,
}

/// The hole that is being asked for.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
struct Loss {
    start: Position,
    ask_at: Instant,
    repeat: Duration,
}

/// The receive side of one stream.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Image {
    #[cfg_attr(feature = "defmt", defmt(Debug2Format))]
    source: SocketAddr,
    stream_id: i32,
    session_id: i32,
    receiver_id: i64,
    segments: Segments,
    mtu: u32,
    ring: Ring,
    timing: ImageTiming,
    consumed: Position,
    arrivals: Arrivals,
    /// The highest position the sender is known to have reached.
    high_water: Position,
    /// No message has begun yet: frames before the first BEGIN belong to one whose start was
    /// missed.
    joining: bool,
    ended_at: Option<Position>,
    closing: bool,
    pub(crate) heard_at: Instant,
    status_position: Position,
    status_at: Instant,
    loss: Option<Loss>,
    echo: Option<Rttm>,
    dropped: u32,
}

impl Image {
    /// Makes the image that `setup` from `source` asks for, in a slot of `slot_len` bytes.
    ///
    /// The window is the largest power of two that leaves one MTU of slack in the slot, at most
    /// half of the sender's segment (Aeron: `aeron_receiver_window_length`). `receiver_id` is any
    /// number that tells this receiver from others.
    pub fn new(
        now: Instant,
        source: SocketAddr,
        setup: &Setup,
        receiver_id: i64,
        slot_len: usize,
        timing: ImageTiming,
    ) -> Result<Self, SetupReject> {
        let segments = Segments::new(setup.initial_term_id, setup.term_length)
            .ok_or(SetupReject::SegmentLength)?;
        let ring = Ring::fit(slot_len, setup.mtu as usize, segments.length() / 2)
            .ok_or(SetupReject::Mtu)?;
        let joined_at = segments
            .position(setup.active_term_id, setup.term_offset)
            .ok_or(SetupReject::Position)?;
        Ok(Self {
            source,
            stream_id: setup.stream_id,
            session_id: setup.session_id,
            receiver_id,
            segments,
            mtu: setup.mtu,
            ring,
            timing,
            consumed: joined_at,
            arrivals: Arrivals::new(joined_at),
            high_water: joined_at,
            joining: true,
            ended_at: None,
            closing: false,
            heard_at: now,
            status_position: joined_at,
            status_at: now,
            loss: None,
            echo: None,
            dropped: 0,
        })
    }

    /// Takes a datagram of DATA and PAD frames, or a heartbeat. Bounded by the datagram's length.
    ///
    /// Frames that have arrived before are ignored.
    ///
    /// # Errors
    /// [`DataReject`] says what was dropped. Frames in front of the one that did not fit are kept;
    /// a datagram that is of another stream or no part of this one changes nothing.
    pub fn handle_data(
        &mut self,
        now: Instant,
        datagram: &Datagram<'_>,
        slot: &mut [u8],
    ) -> Result<(), DataReject> {
        let first = datagram.first();
        if first.stream_id != self.stream_id || first.session_id != self.session_id {
            return Err(DataReject::Foreign);
        }
        let at = self
            .segments
            .position(first.term_id, first.term_offset)
            .ok_or(DataReject::Malformed)?;
        if datagram.is_heartbeat() {
            return self.handle_heartbeat(now, first, at);
        }
        if u64::from(datagram.span()) > self.segments.remaining(at) {
            return Err(DataReject::Malformed);
        }
        self.heard_at = now;
        let taken = self.take_frames(datagram, at, slot);
        self.skip(slot);
        self.watch_for_loss(now);
        if taken.is_err() {
            self.dropped = self.dropped.saturating_add(1);
        }
        taken
    }

    /// The sender repeats its SETUP: it has not heard us, so the next status is due now.
    pub fn handle_setup(&mut self, now: Instant) {
        self.heard_at = now;
        self.status_at = now;
    }

    /// A round-trip measurement that asks for its echo.
    pub fn handle_rttm(&mut self, rttm: &Rttm) {
        if rttm.reply {
            self.echo = Some(Rttm {
                reply: false,
                reception_delta: 0,
                receiver_id: self.receiver_id,
                ..*rttm
            });
        }
    }

    /// From now on every status says that nobody reads here any more.
    pub fn close(&mut self, now: Instant) {
        self.closing = true;
        self.status_at = now;
    }

    /// Does a datagram of so many bytes from there, which begins so, hold the next frames of this
    /// stream, and has nothing before or behind it arrived that is still here? Then, if it has no
    /// PAD, it may be taken as it is, with [`Self::pass`]: no frame in it is longer than the SETUP
    /// allows.
    #[inline(always)]
    pub(crate) fn is_next(
        &self,
        source: SocketAddr,
        header: &[u8; FRAME_HEADER],
        len: usize,
    ) -> bool {
        let ([kind, place, stream, _], at) = (words(header), self.consumed);
        let differs = (place ^ pair(self.segments.offset(at), self.session_id))
            | (stream ^ pair(self.stream_id, self.segments.id(at)))
            | (kind ^ DATA) & VERSION_AND_TYPE;
        let is_heartbeat = kind as u32 == 0;
        differs == 0
            && !is_heartbeat
            && !self.joining
            && !self.segments.is_past(at)
            && self.arrivals.is_level(at)
            && len <= self.mtu as usize
            && len as u64 <= self.segments.remaining(at)
            && is_same(&self.source, &source)
    }

    /// Whole frames from the start of such a datagram, so many bytes of it, were consumed where
    /// they arrived: they need no place here.
    #[inline(always)]
    pub fn pass(&mut self, now: Instant, len: usize) {
        let (start, end) = (self.consumed, self.consumed.plus(len as u64));
        if self.arrivals.extend(Range { start, end }) {
            (self.heard_at, self.consumed) = (now, end);
            if self.high_water > end {
                return self.watch_for_loss(now);
            }
            // Nothing is missing: all that was sent, as far as is known, is here.
            (self.high_water, self.loss) = (end, None);
        }
    }

    /// The first fragment that is not consumed. Nothing if it has not arrived.
    pub fn peek<'s>(&self, slot: &'s [u8]) -> Option<Fragment<'s>> {
        let frame = self.front(slot)?;
        Some(Fragment {
            position: self.consumed,
            flags: frame.header.flags,
            reserved: frame.header.reserved,
            payload: frame.payload(),
        })
    }

    /// Consumes the fragment that `peek` shows, and with it PADs behind it; nothing happens if it
    /// shows none. At most window / 32 steps, and no frame is stepped over twice.
    pub fn consume(&mut self, slot: &[u8]) {
        if let Some(frame) = self.front(slot) {
            self.consumed = self.consumed.plus(frame.header.aligned_len() as u64);
            self.skip(slot);
        }
    }

    /// [`Self::peek`] and [`Self::consume`] in one.
    pub fn take<'s>(&mut self, slot: &'s [u8]) -> Option<Fragment<'s>> {
        let fragment = self.peek(slot)?;
        self.take_peeked(&fragment, slot);
        Some(fragment)
    }

    /// Consumes the fragment that `peek` has just shown: [`Self::consume`], without looking again.
    pub fn take_peeked(&mut self, fragment: &Fragment<'_>, slot: &[u8]) {
        let len = FRAME_HEADER + fragment.payload.len();
        self.take_to(self.consumed.plus(align(len) as u64), slot);
    }

    /// What has arrived in order and is not consumed, as far as it lies in one piece, and behind
    /// how many of these bytes a frame that starts lies elsewhere.
    #[inline]
    pub fn waiting<'s>(&self, slot: &'s [u8]) -> (&'s [u8], usize) {
        let waiting = match self.joining {
            true => 0,
            false => self.arrivals.contiguous().since(self.consumed) as usize,
        };
        let offset = self.ring.offset(self.consumed);
        let run = slot.get(offset..).unwrap_or_default();
        let run = run.get(..waiting).unwrap_or(run);
        (run, self.ring.window() as usize - offset)
    }

    /// Consumes whole messages of [`Self::waiting`], up to `at`.
    pub fn take_to(&mut self, at: Position, slot: &[u8]) {
        self.consumed = at;
        if self.is_to_skip(slot) {
            self.skip(slot);
        }
    }

    /// Is the next frame one that `skip` is for? Looks at its type only.
    fn is_to_skip(&self, slot: &[u8]) -> bool {
        let at = self.ring.offset(self.consumed);
        let kind = slot.get(at + 6..).and_then(|b| b.first_chunk::<2>());
        let is_data = kind == Some(&TYPE_DATA.to_le_bytes());
        self.consumed < self.arrivals.contiguous() && (self.joining || !is_data)
    }

    /// When `poll_control` will have something, or `state` will change, if nothing arrives before.
    /// A moment that has passed once the sender is lost: the owner lets go of the image then.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let liveness = self.heard_at.plus(self.timing.liveness);
        let ask = self.loss.map(|l| l.ask_at);
        earlier(Some(self.status_at.min(liveness)), ask)
    }

    /// What has become of the sender.
    pub fn state(&self, now: Instant) -> ImageState {
        if self.ended_at.is_some_and(|end| self.consumed >= end) {
            ImageState::Ended
        } else if now >= self.heard_at.plus(self.timing.liveness) {
            ImageState::Lost
        } else {
            ImageState::Active
        }
    }

    /// Is this the image of that stream? Sources differ in address, so one cannot speak for
    /// another.
    #[inline(always)]
    pub fn is(&self, source: SocketAddr, stream_id: i32, session_id: i32) -> bool {
        self.session_id == session_id
            && self.stream_id == stream_id
            && is_same(&self.source, &source)
    }

    /// Where status messages and requests go.
    pub fn source(&self) -> SocketAddr {
        self.source
    }

    /// The stream.
    pub fn stream_id(&self) -> i32 {
        self.stream_id
    }

    /// The session of the stream.
    pub fn session_id(&self) -> i32 {
        self.session_id
    }

    /// Everything below was consumed.
    pub fn consumed(&self) -> Position {
        self.consumed
    }

    /// Everything below has arrived.
    pub fn received(&self) -> Position {
        self.arrivals.contiguous()
    }

    /// What is not consumed.
    pub fn held(&self) -> Held {
        self.ring.held(self.consumed, self.arrivals.end())
    }

    /// The window in bytes.
    pub fn window(&self) -> u32 {
        self.ring.window()
    }

    /// How many datagrams were dropped because they were out of the window or left too many holes.
    pub fn dropped(&self) -> u32 {
        self.dropped
    }

    fn handle_heartbeat(
        &mut self,
        now: Instant,
        head: &DataHeader,
        at: Position,
    ) -> Result<(), DataReject> {
        // Aeron: flow control over and under run, for heartbeats half a segment above and one
        // below.
        let half = u64::from(self.segments.length() / 2);
        if at > self.consumed.plus(half) || at.plus(half * 2) < self.consumed {
            return Err(DataReject::OutOfWindow);
        }
        self.heard_at = now;
        self.high_water = self.high_water.max(at);
        if head.is_end_of_stream() && at >= self.arrivals.contiguous() {
            self.ended_at = Some(at);
        }
        self.watch_for_loss(now);
        Ok(())
    }

    fn take_frames(
        &mut self,
        datagram: &Datagram<'_>,
        mut at: Position,
        slot: &mut [u8],
    ) -> Result<(), DataReject> {
        if self.take_whole(datagram, at, slot) {
            return Ok(());
        }
        for frame in datagram.frames() {
            let end = at.plus(frame.header.aligned_len() as u64);
            self.take_frame(&frame, Range { start: at, end }, slot)?;
            self.high_water = self.high_water.max(end);
            at = end;
        }
        Ok(())
    }

    /// Takes a datagram that is the next, has its room, and lies in it as it came: nearly all do.
    /// False, and nothing has changed, if it is not so.
    fn take_whole(&mut self, datagram: &Datagram<'_>, at: Position, slot: &mut [u8]) -> bool {
        let (bytes, window) = (datagram.bytes(), self.ring.window() as usize);
        let (offset, end) = (self.ring.offset(at), at.plus(bytes.len() as u64));
        let is_plain = bytes.len() == datagram.span() as usize
            && bytes.len() <= self.mtu as usize
            && offset + bytes.len() <= window
            && end <= self.consumed.plus(window as u64);
        let place = slot.get_mut(offset..offset + bytes.len());
        let Some(place) = place.filter(|_| is_plain) else {
            return false;
        };
        if !self.arrivals.extend(Range { start: at, end }) {
            return false;
        }
        place.copy_from_slice(bytes);
        self.high_water = self.high_water.max(end);
        true
    }

    /// Puts one frame in its place. A PAD costs only its header, so it may jump past the window.
    fn take_frame(
        &mut self,
        frame: &DataFrame<'_>,
        range: Range,
        slot: &mut [u8],
    ) -> Result<(), DataReject> {
        let bytes = frame.bytes();
        if bytes.len() > self.mtu as usize {
            return Err(DataReject::Malformed);
        }
        let stored_end = range.start.plus(bytes.len() as u64);
        if stored_end > self.consumed.plus(u64::from(self.ring.window())) {
            return Err(DataReject::OutOfWindow);
        }
        match self.arrivals.check(range) {
            Ok(()) => {}
            Err(NotTaken::Overlap) => return Ok(()),
            Err(NotTaken::Full) => return Err(DataReject::TooManyHoles),
        }
        let offset = self.ring.offset(range.start);
        let Some(place) = slot.get_mut(offset..offset + bytes.len()) else {
            return Err(DataReject::OutOfWindow);
        };
        place.copy_from_slice(bytes);
        self.arrivals
            .insert(range)
            .map_err(|_| DataReject::TooManyHoles)
    }

    /// Consumes what no application is to see: PADs, and the rest of a message whose start was
    /// missed. Each step consumes a frame, so at most window / 32 steps.
    fn skip(&mut self, slot: &[u8]) {
        while let Some(frame) = self.front(slot) {
            let is_pad = frame.header.kind == Kind::Pad;
            let is_middle = self.joining && frame.header.flags & FLAG_BEGIN == 0;
            if !is_pad && !is_middle {
                self.joining = false;
                break;
            }
            self.consumed = self.consumed.plus(frame.header.aligned_len() as u64);
        }
    }

    fn front<'s>(&self, slot: &'s [u8]) -> Option<DataFrame<'s>> {
        if self.consumed >= self.arrivals.contiguous() {
            return None;
        }
        DataFrame::parse(slot.get(self.ring.offset(self.consumed)..)?).ok()
    }

    /// The first hole below what the sender is known to have sent.
    fn hole(&self) -> Option<Range> {
        let start = self.arrivals.contiguous();
        let end = self.arrivals.hole_end().unwrap_or(self.high_water);
        (end > start).then_some(Range { start, end })
    }

    fn watch_for_loss(&mut self, now: Instant) {
        let Some(hole) = self.hole() else {
            self.loss = None;
            return;
        };
        let delay = match self.loss {
            Some(loss) if loss.start == hole.start => return,
            // This hole was there behind the one that just closed: no need to wait for reordering.
            Some(_) => Duration::ZERO,
            None => self.timing.nak_delay,
        };
        self.loss = Some(Loss {
            start: hole.start,
            ask_at: now.plus(delay),
            repeat: self.timing.nak_repeat,
        });
    }
}
