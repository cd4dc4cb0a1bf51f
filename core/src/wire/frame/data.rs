//! DATA and PAD frames, and the datagrams that carry them.

use super::{
    Alike, BASE_HEADER, Base, FLAG_END_OF_STREAM, FLAGS_WHOLE, TYPE_DATA, TYPE_PAD, align,
};
use crate::limits::{FRAME_ALIGNMENT, FRAME_HEADER};
use crate::wire::{Reader, Reject, Writer};

/// Which of the two frames that fill a stream.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum Kind {
    /// Carries a payload.
    Data,
    /// Stands for `frame_length` bytes that are never sent; only its header is.
    Pad,
}

/// The header of a DATA or PAD frame (Aeron: `DataHeaderFlyweight`).
///
/// ```text
///   0        4  5  6   8        12       16       20       24              32
///   +--------+--+--+---+--------+--------+--------+--------+---------------+
///   | length |v |fl|typ| offset | session| stream | term id| reserved value|
///   +--------+--+--+---+--------+--------+--------+--------+---------------+
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct DataHeader {
    /// Header and payload in bytes, without the alignment; 0 in a heartbeat, else at least 32.
    pub frame_length: i32,
    /// `FLAG_BEGIN` and others.
    pub flags: u8,
    /// DATA or PAD.
    pub kind: Kind,
    /// Where in its term buffer the frame starts: a multiple of 32, not negative.
    pub term_offset: i32,
    /// The session.
    pub session_id: i32,
    /// The stream.
    pub stream_id: i32,
    /// The term buffer.
    pub term_id: i32,
    /// For the application; in a log frame the two checksums.
    pub reserved: i64,
}

impl DataHeader {
    /// A DATA frame that holds one whole message of `payload` bytes, at the start of term 0.
    /// `None` if the length does not fit 31 bits.
    pub fn message(session_id: i32, stream_id: i32, payload: usize) -> Option<Self> {
        let length = payload.checked_add(FRAME_HEADER)?;
        Some(Self {
            frame_length: i32::try_from(length).ok()?,
            flags: FLAGS_WHOLE,
            kind: Kind::Data,
            term_offset: 0,
            session_id,
            stream_id,
            term_id: 0,
            reserved: 0,
        })
    }

    /// Reads the 32 bytes at the start of `bytes`.
    ///
    /// # Errors
    /// [`Reject::Short`], [`Reject::FrameVersion`], [`Reject::UnknownType`] unless DATA or PAD,
    /// [`Reject::FrameLength`] unless 0 or at least 32, [`Reject::Alignment`].
    #[inline]
    pub fn parse(bytes: &[u8]) -> Result<Self, Reject> {
        // Headers are most of what a node looks at: their bounds are checked once.
        let Some(b) = bytes.first_chunk::<FRAME_HEADER>() else {
            return Err(Self::too_short(bytes));
        };
        if b[4] != 0 {
            return Err(Reject::FrameVersion);
        }
        let header = Self {
            frame_length: i32_at::<0>(b),
            flags: b[5],
            kind: kind_of(u16::from_le_bytes([b[6], b[7]]))?,
            term_offset: i32_at::<8>(b),
            session_id: i32_at::<12>(b),
            stream_id: i32_at::<16>(b),
            term_id: i32_at::<20>(b),
            reserved: i64::from(i32_at::<28>(b)) << 32 | i64::from(i32_at::<24>(b) as u32),
        };
        if header.frame_length != 0 && header.frame_length < FRAME_HEADER as i32 {
            return Err(Reject::FrameLength);
        }
        if header.term_offset < 0 || header.term_offset % FRAME_ALIGNMENT as i32 != 0 {
            return Err(Reject::Alignment);
        }
        Ok(header)
    }

    /// What is wrong with fewer bytes than a header has.
    #[cold]
    fn too_short(bytes: &[u8]) -> Reject {
        match Base::read(&mut Reader::new(bytes)).and_then(|base| kind_of(base.kind)) {
            Ok(_) => Reject::Short,
            Err(reject) => reject,
        }
    }

    /// Writes the 32 bytes.
    #[inline]
    pub fn emit(&self, out: &mut [u8]) -> Option<usize> {
        *out.first_chunk_mut::<FRAME_HEADER>()? = self.to_bytes();
        Some(FRAME_HEADER)
    }

    pub(in crate::wire) fn write(&self, writer: &mut Writer<'_>) {
        writer.put(&self.to_bytes());
    }

    #[inline]
    fn to_bytes(self) -> [u8; FRAME_HEADER] {
        let kind = match self.kind {
            Kind::Data => TYPE_DATA,
            Kind::Pad => TYPE_PAD,
        };
        let mut bytes = [0; FRAME_HEADER];
        bytes[..4].copy_from_slice(&self.frame_length.to_le_bytes());
        bytes[5] = self.flags;
        bytes[6..8].copy_from_slice(&kind.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.term_offset.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.session_id.to_le_bytes());
        bytes[16..20].copy_from_slice(&self.stream_id.to_le_bytes());
        bytes[20..24].copy_from_slice(&self.term_id.to_le_bytes());
        bytes[24..].copy_from_slice(&self.reserved.to_le_bytes());
        bytes
    }

    /// The frame's length in bytes; 0 in a heartbeat (or if negative, which `parse` refuses).
    #[inline]
    pub fn length(&self) -> usize {
        usize::try_from(self.frame_length).unwrap_or(0)
    }

    /// Is this a heartbeat, which takes no place in the stream?
    #[inline]
    pub fn is_heartbeat(&self) -> bool {
        self.frame_length == 0
    }

    /// How many bytes the frame takes in the stream, with alignment.
    #[inline]
    pub fn aligned_len(&self) -> usize {
        align(self.length())
    }

    /// How many bytes the frame takes in a datagram, with alignment: a PAD only its header.
    #[inline]
    pub fn wire_len(&self) -> usize {
        match self.kind {
            Kind::Data => self.aligned_len(),
            Kind::Pad => FRAME_HEADER,
        }
    }

    /// Does the frame hold a whole message?
    #[inline]
    pub fn is_whole(&self) -> bool {
        self.flags & FLAGS_WHOLE == FLAGS_WHOLE
    }

    /// Has the sender closed the stream here?
    pub fn is_end_of_stream(&self) -> bool {
        self.flags & FLAG_END_OF_STREAM != 0
    }
}

/// One DATA or PAD frame of a datagram.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct DataFrame<'a> {
    /// The header.
    pub header: DataHeader,
    bytes: &'a [u8],
}

impl<'a> DataFrame<'a> {
    /// The frame at the start of `bytes`, alignment included.
    ///
    /// # Errors
    /// As [`DataHeader::parse`]; [`Reject::FrameLength`] if it is a heartbeat's header or reaches
    /// beyond `bytes`.
    #[inline]
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Reject> {
        let header = DataHeader::parse(bytes)?;
        if header.is_heartbeat() {
            return Err(Reject::FrameLength);
        }
        let bytes = bytes.get(..header.wire_len()).ok_or(Reject::FrameLength)?;
        Ok(Self { header, bytes })
    }

    /// What the frame carries; nothing if it is a PAD.
    #[inline]
    pub fn payload(&self) -> &'a [u8] {
        let end = match self.header.kind {
            Kind::Data => self.header.length(),
            Kind::Pad => FRAME_HEADER,
        };
        self.bytes.get(FRAME_HEADER..end).unwrap_or_default()
    }

    /// The bytes as they came: header, payload and alignment. A PAD is its header.
    #[inline]
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }
}

/// A datagram of DATA and PAD frames, checked: of one session, stream and term buffer, each frame
/// starting where the one before ends.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Datagram<'a> {
    first: DataHeader,
    bytes: &'a [u8],
    span: u32,
}

impl<'a> Datagram<'a> {
    /// Checks a whole datagram. The work is bounded by its length.
    ///
    /// # Errors
    /// As [`DataFrame::parse`] for every frame; [`Reject::DatagramShape`] if frames differ in
    /// session, stream or term, leave gaps, follow a PAD that fills the term, or are followed by
    /// other bytes.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Reject> {
        let first = DataHeader::parse(bytes)?;
        let is_heartbeat = first.is_heartbeat() && bytes.len() == FRAME_HEADER;
        let (mut span, mut rest): (usize, &[u8]) = (0, &[]);
        // A PAD longer than its header stands for bytes that are not here, so it can only be last.
        // One of 32 bytes may stand anywhere: an aborted claim (Aeron: `TermScanner`).
        let mut jumped = false;
        if !is_heartbeat {
            span = alike(bytes);
            rest = bytes.get(span..).unwrap_or_default();
        }
        while !rest.is_empty() {
            let frame = DataFrame::parse(rest)?;
            let header = frame.header;
            let offset = i32::try_from(span)
                .ok()
                .and_then(|span| first.term_offset.checked_add(span));
            if jumped
                || offset != Some(header.term_offset)
                || header.term_id != first.term_id
                || header.session_id != first.session_id
                || header.stream_id != first.stream_id
            {
                return Err(Reject::DatagramShape);
            }
            jumped = header.wire_len() != header.aligned_len();
            span = span.saturating_add(header.aligned_len());
            rest = rest.get(frame.bytes.len()..).unwrap_or_default();
        }
        let span = u32::try_from(span).map_err(|_| Reject::FrameLength)?;
        Ok(Self { first, bytes, span })
    }

    /// The header of the first frame: session, stream, and where the datagram starts.
    #[inline]
    pub fn first(&self) -> &DataHeader {
        &self.first
    }

    /// Is this a heartbeat, without frames?
    pub fn is_heartbeat(&self) -> bool {
        self.first.is_heartbeat()
    }

    /// How many bytes of the stream the datagram stands for; 0 for a heartbeat.
    pub fn span(&self) -> u32 {
        self.span
    }

    /// All of its bytes. Longer than a PAD at its end is [`Datagram::span`].
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// Its frames, in order; none in a heartbeat.
    #[inline]
    pub fn frames(&self) -> DataFrames<'a> {
        let rest = if self.is_heartbeat() { &[] } else { self.bytes };
        DataFrames { rest }
    }
}

/// The frames of a [`Datagram`].
#[derive(Clone, Debug)]
pub struct DataFrames<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for DataFrames<'a> {
    type Item = DataFrame<'a>;

    #[inline]
    fn next(&mut self) -> Option<DataFrame<'a>> {
        // `Datagram::parse` has seen every frame, so this only fails at the end.
        let frame = DataFrame::parse(self.rest).ok()?;
        self.rest = self.rest.get(frame.bytes.len()..).unwrap_or_default();
        Some(frame)
    }
}

/// Does it say, as far as it says anything, that it is of this stream?
#[inline]
pub(crate) fn names_stream(datagram: &[u8], stream_id: i32) -> bool {
    let header = datagram.first_chunk();
    header.is_some_and(|header| words(header)[2] as u32 == stream_id as u32)
}

/// How many bytes are whole DATA frames with nothing wrong, one behind the other, from the start of
/// `bytes` on. What is behind them is something else, or is to be looked at more closely.
fn alike(bytes: &[u8]) -> usize {
    let Some(first) = bytes.first_chunk() else {
        return 0;
    };
    let [_, places, ..] = words(first);
    let offset = places as u32;
    // An offset that is none, or would be none behind so many bytes, is left to who says what is
    // wrong with it.
    if offset > i32::MAX as u32 || !offset.is_multiple_of(FRAME_ALIGNMENT as u32) {
        return 0;
    }
    let most = bytes.len().min((i32::MAX as u32 - offset) as usize);
    let Some(mut frames) = Alike::as_first(bytes).map(|all| all.within(most)) else {
        return 0;
    };
    while frames.next().is_some() {}
    most - frames.rest().len()
}

/// Of the first word of a header: version and type, and what they are in a DATA frame.
pub(crate) const VERSION_AND_TYPE: u64 = 0xffff_00ff << 32;
pub(crate) const DATA: u64 = (TYPE_DATA as u64) << 48;

/// The same of a DATA frame with a whole message and nothing else that stands out, without its
/// length: so this is all that is behind the length in that word.
pub(crate) const WHOLE: u64 = DATA >> 32 | (FLAGS_WHOLE as u64) << 8;

/// A header as four words: length, version, flags and type; offset and session; stream and term
/// id; the reserved value.
#[inline(always)]
pub(crate) fn words(header: &[u8; FRAME_HEADER]) -> [u64; FRAME_HEADER / 8] {
    let (words, _) = header.as_chunks();
    core::array::from_fn(|at| words.get(at).map_or(0, |word| u64::from_le_bytes(*word)))
}

/// The header that [`words`] takes apart.
#[inline(always)]
pub(crate) fn from_words(words: [u64; FRAME_HEADER / 8]) -> [u8; FRAME_HEADER] {
    let mut header = [0; FRAME_HEADER];
    let (parts, _) = header.as_chunks_mut();
    for (part, word) in parts.iter_mut().zip(words) {
        *part = word.to_le_bytes();
    }
    header
}

/// One of these words: of two halves, the first in front.
#[inline(always)]
pub(crate) const fn pair(first: i32, second: i32) -> u64 {
    first as u32 as u64 | (second as u32 as u64) << 32
}

/// Of a frame that was written here, at the start of `bytes`: how many bytes it is long, in a
/// datagram and in its stream.
#[inline]
pub(crate) fn step(bytes: &[u8]) -> Option<(usize, usize)> {
    let [kind, ..] = words(bytes.first_chunk()?);
    let aligned = align(kind as u32 as usize);
    match kind & VERSION_AND_TYPE {
        _ if (kind as i32) < FRAME_HEADER as i32 => None,
        DATA => Some((aligned, aligned)),
        0 => Some((FRAME_HEADER, aligned)),
        _ => None,
    }
}

const _: () = assert!(TYPE_PAD == 0 && FRAME_ALIGNMENT == 32);

#[inline]
const fn kind_of(number: u16) -> Result<Kind, Reject> {
    match number {
        TYPE_DATA => Ok(Kind::Data),
        TYPE_PAD => Ok(Kind::Pad),
        _ => Err(Reject::UnknownType),
    }
}

#[inline]
const fn i32_at<const AT: usize>(b: &[u8; FRAME_HEADER]) -> i32 {
    i32::from_le_bytes([b[AT], b[AT + 1], b[AT + 2], b[AT + 3]])
}

const _: () = assert!(BASE_HEADER < FRAME_HEADER);
