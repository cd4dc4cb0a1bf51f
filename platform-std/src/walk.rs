//! Walking the frames of a data directory, from the published layout alone.
//!
//! Nothing here uses the core's code for frames, checksums or messages: the checker of `demo` and
//! `coracle log --verify` shall not repeat the mistakes of what they check. The layout: section 0
//! of Aeron's data header (32 bytes, little endian), `reserved_value` = CRC-32C of the frame in its
//! low half, and in its high half a CRC-32 that goes on from the frame before.

mod records;

use std::path::{Path, PathBuf};

use coracle_core::units::Position;

use crate::crc::{CRC32, CRC32C};
use crate::storage::dir::segment_bases;
use crate::storage::{Segment, StorageError};

pub use records::{Kind, Record, Records, kind_of};

const HEADER: usize = 32;
const BUFFER: usize = 1 << 20;
/// No frame is longer: it fits a datagram.
const FRAME_MAX: usize = 65_536;
const STREAM: i32 = 100;

/// One frame, as it stands in a file.
#[derive(Clone, Copy, Debug)]
pub struct Frame<'a> {
    /// Where it starts in the log.
    pub position: u64,
    /// Where it ends.
    pub end: u64,
    /// The leadership term that wrote it.
    pub term: i32,
    /// BEGIN 0x80, END 0x40.
    pub flags: u8,
    /// It fills a segment's end and carries nothing.
    pub is_pad: bool,
    /// What it carries.
    pub payload: &'a [u8],
    /// The checksum that stands in it.
    pub checksum: u32,
    /// The chain that stands in it.
    pub chain: u32,
}

/// Why a walk cannot go on.
#[derive(Debug)]
#[non_exhaustive]
pub enum WalkError {
    /// A file cannot be read.
    Storage(StorageError),
    /// The bytes at a position are deleted, or never were here: the log goes on behind.
    Gone {
        /// The position that was wanted.
        position: u64,
        /// Where the log starts, or goes on.
        start: u64,
    },
    /// The bytes at a position are not the frame that must be there.
    Bad {
        /// The position.
        position: u64,
        /// What is wrong.
        what: &'static str,
    },
}

impl std::fmt::Display for WalkError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Storage(error) => error.fmt(f),
            Self::Gone { position, start } => write!(
                f,
                "there is no log at position {position} any more: it goes on at {start}. What was \
                 before is in a snapshot"
            ),
            Self::Bad { position, what } => write!(f, "at position {position}: {what}"),
        }
    }
}

impl std::error::Error for WalkError {}

impl From<StorageError> for WalkError {
    fn from(error: StorageError) -> Self {
        Self::Storage(error)
    }
}

/// The header of a frame, as far as it can be checked alone.
struct Head {
    /// Header and payload, without alignment bytes.
    length: usize,
    end: u64,
    term: i32,
    flags: u8,
    is_pad: bool,
    checksum: u32,
    chain: u32,
    /// The header with zeros where the checksums are: what they were made of.
    blanked: [u8; HEADER],
}

impl Head {
    /// The header of the frame at `position`; `None` where nothing was ever written.
    fn parse(bytes: &[u8], position: u64, segment: u64) -> Result<Option<Self>, &'static str> {
        let Some(header) = bytes.first_chunk::<HEADER>() else {
            return Err("the file ends in a header");
        };
        let i32_at = |at: usize| {
            i32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]])
        };
        let length = usize::try_from(i32_at(0)).map_err(|_| "this is no frame header")?;
        if length == 0 {
            return Ok(None);
        }
        if !(HEADER..=FRAME_MAX).contains(&length) || header[4] != 0 {
            return Err("this is no frame header");
        }
        let kind = u16::from_le_bytes([header[6], header[7]]);
        if kind > 1 || i32_at(16) != STREAM {
            return Err("this is no frame of a log");
        }
        let place = (u64::try_from(i32_at(20)), u64::try_from(i32_at(8)));
        if place != (Ok(position / segment), Ok(position % segment)) {
            return Err("this frame belongs to another place in the log");
        }
        let aligned = length.next_multiple_of(HEADER) as u64;
        if position % segment + aligned > segment {
            return Err("this frame crosses its segment's end");
        }
        let mut blanked = *header;
        blanked[24..].fill(0);
        Ok(Some(Self {
            length,
            end: position + aligned,
            term: i32_at(12),
            flags: header[5],
            is_pad: kind == 0,
            checksum: i32_at(24) as u32,
            chain: i32_at(28) as u32,
            blanked,
        }))
    }
}

/// A walk over the frames of one directory, in order.
#[derive(Debug)]
pub struct Walk {
    log: PathBuf,
    segment_length: u64,
    cluster: u64,
    start: u64,
    at: u64,
    chain: Option<u32>,
    segment: Option<Segment>,
    buffer: Vec<u8>,
    /// The position of the buffer's first byte, and how many of its bytes count.
    buffered: (u64, usize),
}

impl Walk {
    /// From the oldest frame of the data directory `dir` on; `None` if it has no log yet.
    ///
    /// # Errors
    /// Any error of the system; a file that is none of ours.
    pub fn open(dir: &Path) -> Result<Option<Self>, StorageError> {
        let log = dir.join("log");
        let Some(segment) = first_segment(&log)? else {
            return Ok(None);
        };
        let label = segment.label();
        let genesis = CRC32.of(&label.cluster.to_le_bytes());
        Ok(Some(Self {
            log,
            segment_length: label.segment_length.into(),
            cluster: label.cluster,
            start: label.start,
            at: label.start,
            chain: (label.start == 0).then_some(genesis),
            segment: Some(segment),
            buffer: vec![0; BUFFER],
            buffered: (label.start, 0),
        }))
    }

    /// Where the log started when it was opened: 0, or above if it was purged or begun after a
    /// snapshot.
    pub fn start(&self) -> u64 {
        self.start
    }

    /// The next frame's position.
    pub fn position(&self) -> u64 {
        self.at
    }

    /// The cluster whose log this is.
    pub fn cluster(&self) -> u64 {
        self.cluster
    }

    /// Goes back to a frame at or below `position`, whatever stands there: the first of the segment
    /// that holds it. The chain before it is not known.
    ///
    /// # Errors
    /// [`WalkError::Gone`] if the log starts above `position`.
    pub fn seek_before(&mut self, position: u64) -> Result<(), WalkError> {
        let start = self.start;
        if position < start {
            return Err(WalkError::Gone { position, start });
        }
        self.seek((position / self.segment_length * self.segment_length).max(start))
    }

    /// Goes on at the frame at `position`, without a known chain before it.
    ///
    /// # Errors
    /// [`WalkError::Gone`] if the log starts above.
    pub fn seek(&mut self, position: u64) -> Result<(), WalkError> {
        let start = self.start;
        if position < start {
            return Err(WalkError::Gone { position, start });
        }
        self.at = position;
        self.chain = None;
        self.buffered = (position, 0);
        Ok(())
    }

    /// The next frame that ends at or below `limit`, both its checksums verified; `None` if there
    /// is none: the limit is reached, or zeros follow. Behind a log's end may also be what was in
    /// the file before: see [`Self::next_frame_above`].
    ///
    /// # Errors
    /// See [`WalkError`].
    pub fn next_frame(&mut self, limit: u64) -> Result<Option<Frame<'_>>, WalkError> {
        if self.at + HEADER as u64 > limit || !self.fill(limit)? {
            return Ok(None);
        }
        let found = self.look(limit);
        if !matches!(found, Ok(Some(_)))
            && let Some(segment) = &self.segment
            && !segment.is_still()?
        {
            // A running member needs this file no more, and has made another one of it.
            return Err(self.gone()?);
        }
        let Some(head) = found? else {
            return Ok(None);
        };
        let position = std::mem::replace(&mut self.at, head.end);
        self.chain = Some(head.chain);
        let offset = (position - self.buffered.0) as usize + HEADER;
        let payload = match head.is_pad {
            true => &[],
            false => &self.buffer[offset..][..head.length - HEADER],
        };
        Ok(Some(Frame {
            position,
            end: head.end,
            term: head.term,
            flags: head.flags,
            is_pad: head.is_pad,
            payload,
            checksum: head.checksum,
            chain: head.chain,
        }))
    }

    /// The same. What is not whole, or does not follow, is damage only below what is `certain` to
    /// be of the log; else it is the end.
    ///
    /// # Errors
    /// See [`WalkError`].
    pub fn next_frame_above(
        &mut self,
        certain: Option<Position>,
        limit: u64,
    ) -> Result<Option<Frame<'_>>, WalkError> {
        match self.next_frame(limit) {
            Err(WalkError::Bad { position, .. })
                if certain.is_some_and(|at| position >= at.get()) =>
            {
                Ok(None)
            }
            found => found,
        }
    }

    fn gone(&self) -> Result<WalkError, StorageError> {
        let start = segment_bases(&self.log)?.first().copied();
        let (position, start) = (self.at, start.unwrap_or_default());
        Ok(WalkError::Gone { position, start })
    }

    /// Verifies the frame at the buffer's place for `at`.
    fn look(&self, limit: u64) -> Result<Option<Head>, WalkError> {
        let offset = (self.at - self.buffered.0) as usize;
        let bytes = &self.buffer[offset..self.buffered.1];
        let position = self.at;
        let bad = |what| Err(WalkError::Bad { position, what });
        let head = match Head::parse(bytes, position, self.segment_length) {
            Ok(Some(head)) if head.end <= limit => head,
            Ok(_) => return Ok(None),
            Err(what) => return bad(what),
        };
        let covered = match head.is_pad {
            true => HEADER,
            false => (head.end - position) as usize,
        };
        let Some(body) = bytes.get(HEADER..covered) else {
            return bad("the file ends in a frame");
        };
        if CRC32C.extend(CRC32C.of(&head.blanked), body) != head.checksum {
            return bad("the frame's checksum does not hold");
        }
        let follows =
            |before| CRC32.extend(CRC32.extend(before, &head.blanked), body) == head.chain;
        match self.chain.is_none_or(follows) {
            true => Ok(Some(head)),
            false => bad("the frame does not follow from the one before it"),
        }
    }

    /// Makes the buffer hold a whole frame at `at`, if the file does. False: there is no file.
    fn fill(&mut self, limit: u64) -> Result<bool, WalkError> {
        let (start, len) = self.buffered;
        let base = self.at / self.segment_length * self.segment_length;
        let segment_end = base + self.segment_length;
        let wanted = segment_end.min(limit).min(self.at + FRAME_MAX as u64);
        if self.at >= start && wanted <= start + len as u64 {
            return Ok(true);
        }
        if self.segment.as_ref().is_none_or(|s| s.label().base != base) {
            let path = self.log.join(Segment::name(base));
            if !path.exists() {
                let later = segment_bases(&self.log)?.into_iter().find(|b| *b > base);
                return later.map_or(Ok(false), |start| {
                    let position = self.at;
                    Err(WalkError::Gone { position, start })
                });
            }
            let segment = Segment::open(&path, false)?;
            if segment.label().base != base {
                // It has become another one since it was opened.
                return Err(self.gone()?);
            }
            self.segment = Some(segment);
        }
        let len = (segment_end.min(limit) - self.at).min(BUFFER as u64) as usize;
        if let Some(segment) = &self.segment {
            segment.read_data(self.at - base, &mut self.buffer[..len])?;
        }
        self.buffered = (self.at, len);
        Ok(true)
    }
}

/// The oldest file of a log; a node that runs may delete it meanwhile, or make another one of it.
fn first_segment(log: &Path) -> Result<Option<Segment>, StorageError> {
    let mut last = None;
    loop {
        let Some(first) = segment_bases(log)?.first().copied() else {
            return Ok(None);
        };
        match Segment::open(&log.join(Segment::name(first)), false) {
            Ok(segment) if segment.label().base == first => return Ok(Some(segment)),
            _ if last != Some(first) => last = Some(first),
            opened => return opened.map(Some),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::storage::label::Label;
    use crate::storage::segment::Fill;
    use crate::storage::testing::{Scratch, make_another};
    use coracle_core::log::{Log, Window, append, checksum::genesis};
    use coracle_core::units::{ClusterId, Position, Term};

    const SEGMENT: u32 = 64 << 10;

    /// A directory with messages that the core's `append` has written.
    pub(crate) fn written(scratch: &Scratch, messages: &[Vec<u8>]) -> u64 {
        let log = scratch.path().join("log");
        std::fs::create_dir_all(&log).unwrap();
        let mut window = Window::new(vec![0; (1 << 20) + 1408], 1408, SEGMENT).unwrap();
        window
            .load(Position::ZERO, Some(genesis(ClusterId(7))), Term::ZERO)
            .expect("a boundary");
        for message in messages {
            let mut header = [0u8; 32];
            header[..8].copy_from_slice(&[24, 0, 1, 0, 111, 0, 17, 0]);
            header[16..24].copy_from_slice(&96i64.to_le_bytes());
            append(&mut window, Term::new(3), &[&header, message], 1408).unwrap();
        }
        let end = window.end().get();
        let bytes = window.read(Position::ZERO);
        for (number, part) in bytes.chunks(SEGMENT as usize).enumerate() {
            let label = Label::starting_at(number as u64 * u64::from(SEGMENT), 7, SEGMENT);
            let segment = Segment::create(&log, label, Fill::Written).unwrap();
            segment.write_data(0, part).unwrap();
        }
        end
    }

    #[test]
    fn a_walk_finds_what_the_core_has_written() {
        let messages: Vec<Vec<u8>> = (0..200).map(|n| vec![n as u8; n * 17]).collect();
        let scratch = Scratch::new("walk");
        let end = written(&scratch, &messages);
        let mut walk = Walk::open(scratch.path()).unwrap().unwrap();
        let mut records = Records::default();
        let mut found = Vec::new();
        while let Some(frame) = walk.next_frame(u64::MAX / 2).unwrap() {
            if let Some(record) = records.push(&frame) {
                assert_eq!(record.kind, Kind::Message);
                assert_eq!((record.session, record.term), (Some(96), 3));
                found.push(record.body().to_vec());
            }
        }
        assert_eq!(walk.position(), end);
        assert_eq!(found, messages);
    }

    #[test]
    fn a_log_that_does_not_start_at_0_is_walked_from_where_it_does() {
        let scratch = Scratch::new("walk-purged");
        let messages: Vec<Vec<u8>> = (0..200).map(|n| vec![n as u8; 1000]).collect();
        let end = written(&scratch, &messages);
        let log = scratch.path().join("log");
        let mut behind = Walk::open(scratch.path()).unwrap().unwrap();
        std::fs::remove_file(log.join(Segment::name(0))).unwrap();
        let length = u64::from(SEGMENT);
        let mut walk = Walk::open(scratch.path()).unwrap().unwrap();
        assert_eq!((walk.start(), walk.position()), (length, length));
        while walk.next_frame(u64::MAX / 2).unwrap().is_some() {}
        assert_eq!(walk.position(), end);
        let gone = walk.seek(96).unwrap_err();
        assert!(gone.to_string().contains("goes on at 65536"), "{gone}");
        // Who has the deleted file open reads it to its end; then whatever is missing is told.
        std::fs::remove_file(log.join(Segment::name(length))).unwrap();
        let error = loop {
            match behind.next_frame(u64::MAX / 2) {
                Ok(frame) => assert!(frame.is_some(), "this is not the end"),
                Err(error) => break error,
            }
        };
        let is_gone = matches!(
            error,
            WalkError::Gone {
                position: 65536,
                start: 131072
            }
        );
        assert!(is_gone, "{error}");
    }

    /// Neither for damage nor for the log's end.
    #[test]
    fn a_file_that_becomes_another_one_meanwhile_is_taken_for_one_that_is_gone() {
        let scratch = Scratch::new("walk-another");
        // More than is read at once.
        let messages: Vec<Vec<u8>> = (0..200).map(|n| vec![n as u8; 1000]).collect();
        written(&scratch, &messages);
        let log = scratch.path().join("log");
        let mut early = Walk::open(scratch.path()).unwrap().unwrap();
        let mut late = Walk::open(scratch.path()).unwrap().unwrap();
        let end = late.next_frame(u64::MAX / 2).unwrap().unwrap().end;
        make_another(&log, 0, 8 * u64::from(SEGMENT));
        // One has read the bytes before, of the other not even the first.
        assert!(late.next_frame(u64::MAX / 2).is_ok());
        late.seek(end).unwrap();
        for walk in [&mut early, &mut late] {
            let at = walk.position();
            let error = walk.next_frame(u64::MAX / 2).unwrap_err();
            let WalkError::Gone { position, start } = error else {
                panic!("{error}");
            };
            assert_eq!((position, start), (at, SEGMENT.into()));
        }
    }

    #[test]
    fn a_log_that_starts_in_mid_segment_is_walked_from_there() {
        let scratch = Scratch::new("walk-middle");
        let end = written(&scratch, &[vec![1; 100], vec![2; 100], vec![3; 100]]);
        let path = scratch.path().join("log").join(Segment::name(0));
        let mut bytes = vec![0; (end - 192) as usize];
        let whole = Segment::open(&path, false).unwrap();
        whole.read_data(192, &mut bytes).unwrap();
        let label = Label::starting_at(192, 7, SEGMENT);
        let segment = Segment::create(&scratch.path().join("log"), label, Fill::Written).unwrap();
        segment.write_data(192, &bytes).unwrap();
        let mut walk = Walk::open(scratch.path()).unwrap().unwrap();
        assert_eq!(walk.start(), 192);
        assert_eq!(walk.next_frame(end).unwrap().unwrap().position, 192);
        assert!(walk.seek(0).is_err());
    }

    #[test]
    fn one_changed_bit_is_found() {
        let scratch = Scratch::new("walk-bit");
        written(&scratch, &[vec![1; 100], vec![2; 100], vec![3; 100]]);
        let path = scratch.path().join("log").join(Segment::name(0));
        let segment = Segment::open(&path, true).unwrap();
        segment.write_data(192 + 70, &[6]).unwrap();
        let mut walk = Walk::open(scratch.path()).unwrap().unwrap();
        assert!(walk.next_frame(1 << 40).unwrap().is_some());
        let error = walk.next_frame(1 << 40).unwrap_err();
        let is_found = matches!(error, WalkError::Bad { position: 192, .. });
        assert!(is_found, "{error}");
    }

    #[test]
    fn behind_what_is_certain_a_frame_of_another_place_is_the_end() {
        let scratch = Scratch::new("walk-other-place");
        let end = written(&scratch, &[vec![1; 100], vec![2; 100]]);
        let path = scratch.path().join("log").join(Segment::name(0));
        let segment = Segment::open(&path, true).unwrap();
        let mut bytes = [0; 192];
        segment.read_data(0, &mut bytes).unwrap();
        segment.write_data(end, &bytes).unwrap();
        for (certain, is_end) in [(Some(end), true), (Some(end + 32), false), (None, false)] {
            let mut walk = Walk::open(scratch.path()).unwrap().unwrap();
            let certain = certain.map(Position::new);
            let mut next =
                || Ok::<_, WalkError>(walk.next_frame_above(certain, 1 << 40)?.is_some());
            assert!(next().unwrap() && next().unwrap());
            let found = next();
            assert_eq!(matches!(found, Ok(false)), is_end, "{found:?}");
        }
    }

    #[test]
    fn a_walk_never_goes_past_its_limit() {
        let scratch = Scratch::new("walk-limit");
        let end = written(&scratch, &[vec![1; 100], vec![2; 100]]);
        let mut walk = Walk::open(scratch.path()).unwrap().unwrap();
        assert!(walk.next_frame(191).unwrap().is_none());
        assert!(walk.next_frame(192).unwrap().is_some());
        assert!(walk.next_frame(192).unwrap().is_none());
        assert!(walk.next_frame(end).unwrap().is_some());
        assert!(walk.next_frame(end).unwrap().is_none());
    }
}
