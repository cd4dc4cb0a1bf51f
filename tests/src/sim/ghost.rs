//! Logs as the checker sees them: read from the published bytes by a parser of its own, so that a
//! mistake in the core's scanner or checksums does not hide itself.

use coracle_core::log::Log;
use coracle_core::units::Position;

/// One frame of a log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Row {
    /// Where the frame starts.
    pub start: u64,
    /// Where it ends, aligned.
    pub end: u64,
    /// The term that wrote it.
    pub term: u32,
    /// A hash of everything up to its end.
    pub hash: u64,
    /// BEGIN and END flags as on the wire.
    pub flags: u8,
    /// Padding at a segment's end: only its header has meaning.
    pub pad: bool,
    /// The length on the wire: header and payload.
    pub len: u32,
}

impl Row {
    /// How many bytes from `start` have a meaning.
    pub fn meaning(&self) -> usize {
        if self.pad { 32 } else { self.len as usize }
    }
}

/// Mixes eight bytes at a time; fast, and far from either checksum of the log.
pub fn mix(mut hash: u64, bytes: &[u8]) -> u64 {
    let (words, rest) = bytes.as_chunks::<8>();
    for word in words {
        hash =
            (hash.rotate_left(23) ^ u64::from_le_bytes(*word)).wrapping_mul(0x9fb2_1c65_1e98_df25);
    }
    for byte in rest {
        hash = (hash.rotate_left(7) ^ u64::from(*byte)).wrapping_mul(0x9fb2_1c65_1e98_df25);
    }
    hash ^ (bytes.len() as u64)
}

/// Reads one frame at the start of `bytes`; `None` if there is no whole, sane one.
pub fn parse(bytes: &[u8], start: u64, before: u64) -> Option<Row> {
    let header = bytes.get(..32)?;
    let word = |at: usize| {
        let four: [u8; 4] = header[at..at + 4].try_into().unwrap_or_default();
        u32::from_le_bytes(four)
    };
    let (len, kind) = (word(0), u16::from_le_bytes([header[6], header[7]]));
    let aligned = u64::from(len).next_multiple_of(32);
    let sane = (32..1 << 24).contains(&len) && kind <= 1 && header[4] == 0 && word(16) == 100;
    if !sane || bytes.len() < aligned as usize {
        return None;
    }
    let pad = kind == 0;
    let mut row = Row {
        start,
        end: start + aligned,
        term: word(12),
        hash: 0,
        flags: header[5],
        pad,
        len,
    };
    row.hash = mix(before, &bytes[..row.meaning()]);
    Some(row)
}

/// A copy of one log from its first byte on, frame by frame.
#[derive(Clone, Debug, Default)]
pub struct GhostLog {
    rows: Vec<Row>,
    bytes: Vec<u8>,
}

impl GhostLog {
    /// The end of the last frame.
    pub fn end(&self) -> u64 {
        self.bytes.len() as u64
    }

    /// The frames.
    pub fn rows(&self) -> &[Row] {
        &self.rows
    }

    /// The bytes from `start` to `end`, which are in the log.
    pub fn bytes(&self, start: u64, end: u64) -> &[u8] {
        &self.bytes[start as usize..end as usize]
    }

    /// The frame that ends at `end`.
    pub fn ending_at(&self, end: u64) -> Option<&Row> {
        let at = self.rows.binary_search_by_key(&end, |r| r.end).ok()?;
        self.rows.get(at)
    }

    /// The frames that end above `position`.
    pub fn above(&self, position: u64) -> &[Row] {
        let from = self.rows.partition_point(|r| r.end <= position);
        &self.rows[from..]
    }

    /// Does this log hold the same bytes up to `end` as `other` does?
    pub fn agrees(&self, other: &Self, end: u64) -> bool {
        end == 0
            || match (self.ending_at(end), other.ending_at(end)) {
                (Some(a), Some(b)) => a.hash == b.hash && a.term == b.term,
                _ => false,
            }
    }

    /// Forgets everything above `end`; false if `end` is no frame boundary of this log.
    pub fn truncate(&mut self, end: u64) -> bool {
        let keep = self.rows.partition_point(|r| r.end <= end);
        self.rows.truncate(keep);
        let at = self.rows.last().map_or(0, |r| r.end);
        self.bytes.truncate(at as usize);
        at == end
    }

    /// Takes over the frame at the start of `bytes`; `None` if there is none.
    pub fn push(&mut self, bytes: &[u8]) -> Option<Row> {
        let before = self.rows.last().map_or(0x5eed, |r| r.hash);
        let row = parse(bytes, self.end(), before)?;
        self.bytes.extend_from_slice(&bytes[..row.meaning()]);
        self.bytes.resize(row.end as usize, 0);
        self.rows.push(row);
        Some(row)
    }

    /// The frames of `other` up to `end`: what a log that starts there has let go.
    pub fn prefix(other: &Self, end: u64) -> Self {
        let rows = other.rows.partition_point(|r| r.end <= end);
        let len = rows.checked_sub(1).map_or(0, |last| other.rows[last].end);
        Self {
            rows: other.rows[..rows].to_vec(),
            bytes: other.bytes[..len as usize].to_vec(),
        }
    }

    /// Takes over the row of another log that goes on where this one ends.
    pub fn adopt(&mut self, row: Row, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
        self.rows.push(row);
    }

    /// Takes over what `log` has published above this end, up to `limit` frames' worth; returns the
    /// position of the first thing that is no frame.
    ///
    /// # Errors
    /// The position at which the published bytes do not parse.
    pub fn follow(&mut self, log: &impl Log) -> Result<usize, u64> {
        let end = log.end().get();
        let first = self.rows.len();
        while self.end() < end {
            let run = log.read(Position::new(self.end()));
            let mut at = 0;
            while self.end() < end && at < run.len() {
                let row = self.push(&run[at..]).ok_or(self.end())?;
                at += (row.end - row.start) as usize;
            }
            if at == 0 {
                return Err(self.end());
            }
        }
        Ok(first)
    }
}

/// What a record in the log says, as far as the checker cares.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Record<'a> {
    /// When it was appended, if it says.
    pub timestamp: Option<i64>,
    /// What it is.
    pub kind: Kind<'a>,
}

/// What a record is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind<'a> {
    /// A session's message.
    Message {
        /// The session.
        session: u64,
        /// What the client sent.
        payload: &'a [u8],
    },
    /// A service's message.
    Service {
        /// The service.
        service: usize,
        /// Its number among that service's.
        number: u64,
        /// What the service offered.
        payload: &'a [u8],
    },
    /// A timer has fired.
    Timer {
        /// The service.
        service: usize,
        /// The service's name for it.
        correlation: i64,
        /// Which arming.
        arming: u64,
    },
    /// A session was opened.
    Open {
        /// The session.
        session: u64,
    },
    /// A session was closed.
    Close {
        /// The session.
        session: u64,
        /// Why.
        reason: i64,
    },
    /// A leadership began.
    NewTerm {
        /// The term.
        term: u64,
        /// Who leads.
        leader: i64,
    },
    /// All members shall take a snapshot.
    Snapshot,
    /// Anything else.
    Other,
}

/// Reads one whole record of schema 111; `None` if it is too short for its kind.
pub fn record(bytes: &[u8]) -> Option<Record<'_>> {
    let half = |at: usize| Some(u16::from_le_bytes([*bytes.get(at)?, *bytes.get(at + 1)?]));
    let word = |at: usize| {
        let four: [u8; 4] = bytes.get(at..at + 4)?.try_into().ok()?;
        Some(i32::from_le_bytes(four))
    };
    let long = |at: usize| {
        let eight: [u8; 8] = bytes.get(at..at + 8)?.try_into().ok()?;
        Some(u64::from_le_bytes(eight))
    };
    let other = Record {
        timestamp: None,
        kind: Kind::Other,
    };
    if half(4)? != 111 {
        return Some(other);
    }
    let body = 8 + usize::from(half(0)?);
    let (timestamp, kind) = match half(2)? {
        1 => {
            let (session, payload) = (long(16)?, bytes.get(body..)?);
            let kind = match session >> 63 {
                0 => Kind::Message { session, payload },
                _ => Kind::Service {
                    service: (session >> 56 & 0x7f) as usize,
                    number: session & 0xff_ffff_ffff_ffff,
                    payload,
                },
            };
            (long(24)?, kind)
        }
        20 => {
            let kind = Kind::Timer {
                correlation: long(16)? as i64,
                service: word(32)? as usize,
                arming: long(36)?,
            };
            (long(24)?, kind)
        }
        21 => (long(32)?, Kind::Open { session: long(24)? }),
        22 => {
            let kind = Kind::Close {
                session: long(16)?,
                reason: word(32)?.into(),
            };
            (long(24)?, kind)
        }
        23 if word(32)? == 2 => (long(24)?, Kind::Snapshot),
        23 => (long(24)?, Kind::Other),
        24 => {
            let kind = Kind::NewTerm {
                term: long(8)?,
                leader: word(40)?.into(),
            };
            (long(24)?, kind)
        }
        _ => return Some(other),
    };
    Some(Record {
        timestamp: Some(timestamp as i64),
        kind,
    })
}

/// Puts records together from frames: a BEGIN or a change of term discards what is unfinished.
#[derive(Clone, Debug, Default)]
pub struct Assembler {
    bytes: Vec<u8>,
    term: u32,
    open: bool,
}

impl Assembler {
    /// Takes one frame; returns a record when it is whole.
    pub fn take(&mut self, row: &Row, frame: &[u8]) -> Option<&[u8]> {
        if row.pad {
            return None;
        }
        if row.flags & 0x80 != 0 {
            self.bytes.clear();
            self.open = true;
        } else if row.term != self.term {
            self.open = false;
        }
        self.term = row.term;
        if !self.open {
            return None;
        }
        self.bytes
            .extend_from_slice(frame.get(32..row.len as usize)?);
        let whole = row.flags & 0x40 != 0;
        self.open = !whole;
        whole.then_some(self.bytes.as_slice())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(term: u32, flags: u8, payload: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0; (32 + payload.len()).next_multiple_of(32)];
        bytes[0..4].copy_from_slice(&(32 + payload.len() as u32).to_le_bytes());
        bytes[5] = flags;
        bytes[6] = 1;
        bytes[12..16].copy_from_slice(&term.to_le_bytes());
        bytes[16..20].copy_from_slice(&100u32.to_le_bytes());
        bytes[32..32 + payload.len()].copy_from_slice(payload);
        bytes
    }

    #[test]
    fn logs_agree_up_to_where_they_part() {
        let (mut a, mut b) = (GhostLog::default(), GhostLog::default());
        for log in [&mut a, &mut b] {
            log.push(&frame(1, 0xc0, b"same"));
        }
        a.push(&frame(1, 0xc0, b"one"));
        b.push(&frame(2, 0xc0, b"one"));
        assert!(a.agrees(&b, 64));
        assert!(!a.agrees(&b, 128));
        assert!(a.truncate(64));
        assert!(!a.agrees(&b, 128), "too short to agree");
    }

    #[test]
    fn a_new_term_discards_an_unfinished_record() {
        let mut assembler = Assembler::default();
        let mut log = GhostLog::default();
        for (term, flags, whole) in [
            (1, 0x80, false),
            (2, 0x40, false),
            (2, 0x80, false),
            (2, 0x40, true),
        ] {
            let bytes = frame(term, flags, b"part");
            let row = log.push(&bytes).unwrap();
            let record = assembler.take(&row, &bytes);
            assert_eq!(record.is_some(), whole);
            if whole {
                assert_eq!(record, Some(b"partpart".as_slice()));
            }
        }
    }
}
