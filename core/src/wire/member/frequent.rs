//! The two member messages that come all the time, read from and written to fixed places at once.

use super::code::{APPEND_LENGTH, COMMIT_LENGTH, SENDER_BLOCK, flag, set, template};
use super::{
    AppendPosition, CONSENSUS_STREAM_ID, Checkpoint, CommitPosition, SCHEMA_ID, SCHEMA_VERSION,
    Sender,
};
use crate::limits::{FRAME_ALIGNMENT, FRAME_HEADER, POSITION_MAX};
use crate::units::{ClusterId, Incarnation, MemberId, Position, Term};
use crate::wire::frame::{DATA, FLAGS_WHOLE, VERSION_AND_TYPE, align, words};
use crate::wire::sbe::HEADER;

/// See the module.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Frequent {
    /// [`super::Body::AppendPosition`]
    Append(AppendPosition),
    /// [`super::Body::CommitPosition`]
    Commit(CommitPosition),
}

/// Where the sender's block starts, and where the message's own fields do.
const SENDER: usize = FRAME_HEADER + HEADER;
const OWN: usize = SENDER + SENDER_BLOCK;

type Append = [u8; OWN + APPEND_LENGTH];
type Commit = [u8; OWN + COMMIT_LENGTH];
type Front = [u8; OWN];

impl Frequent {
    /// The one that this datagram is, of our own version and with nothing wrong; else `None`, which
    /// says nothing: see [`super::MemberMessage::parse_frame`].
    #[inline]
    pub fn parse(datagram: &[u8]) -> Option<(Sender, Self)> {
        let front = datagram.first_chunk::<OWN>()?;
        let [kind, places, stream, _] = words(front.first_chunk()?);
        let (length, flags) = (kind as u32 as usize, (kind >> 40) as u8);
        let is_message = kind & VERSION_AND_TYPE == DATA
            && flags & FLAGS_WHOLE == FLAGS_WHOLE
            && places as u32 == 0
            && stream as u32 == CONSENSUS_STREAM_ID as u32
            && datagram.len() >= align(length);
        let session = i64::from((places >> 32) as i32);
        let member = u32_at::<{ SENDER + 16 }, OWN>(front) as i32;
        if !is_message || i64::from(member) != session {
            return None;
        }
        let sender = Sender {
            cluster: ClusterId(u64_at::<SENDER, OWN>(front)),
            incarnation: Incarnation(u64_at::<{ SENDER + 8 }, OWN>(front)),
            member: MemberId::from_wire(member)?,
        };
        let flags = u32_at::<{ SENDER + 20 }, OWN>(front);
        let said = match u64_at::<FRAME_HEADER, OWN>(front) {
            IS_APPEND if length >= OWN + APPEND_LENGTH => append(datagram.first_chunk()?, flags)?,
            IS_COMMIT if length >= OWN + COMMIT_LENGTH => commit(datagram.first_chunk()?, flags)?,
            _ => return None,
        };
        Some((sender, said))
    }

    /// The term that it is said in.
    pub const fn term(&self) -> Term {
        match self {
            Self::Append(said) => said.term,
            Self::Commit(said) => said.term,
        }
    }
}

/// What moves from one acknowledgement to the next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Marks {
    pub received: Position,
    pub durable: Position,
    pub applied: Position,
    pub window: u32,
    pub round: u64,
}

impl AppendPosition {
    fn flags(&self) -> u32 {
        set(self.quarantined, flag::QUARANTINED)
            | set(self.resting, flag::RESTING)
            | set(self.votes, flag::VOTES)
    }

    pub(crate) const fn marks(&self) -> Marks {
        Marks {
            received: self.received,
            durable: self.durable,
            applied: self.applied,
            window: self.window,
            round: self.round,
        }
    }
}

/// What an acknowledgement says beside its marks: nearly always the same as the sender's last. Of
/// one that is well, and whose services are level.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Same {
    incarnation: Incarnation,
    term: Term,
    flags: u32,
    checkpoint: Checkpoint,
    snapshot: Checkpoint,
}

impl Same {
    /// What `said` has in common with others.
    pub fn of(incarnation: Incarnation, said: &AppendPosition) -> Self {
        Self {
            incarnation,
            term: said.term,
            flags: said.flags(),
            checkpoint: said.checkpoint,
            snapshot: said.snapshot,
        }
    }

    pub const fn term(&self) -> Term {
        self.term
    }

    /// The marks of an acknowledgement of that member which is otherwise like this one, tells of no
    /// ages, and was written as by [`emit_append`]. `None` says nothing about any other.
    #[inline]
    pub fn marks(&self, datagram: &[u8], cluster: ClusterId, member: MemberId) -> Option<Marks> {
        let b: &[u8; align(size_of::<Append>())] = datagram.first_chunk()?;
        let (member, flags) = (u64::from(member.get()), u64::from(self.flags));
        let differs = (u64_at::<0, _>(b) ^ kind_of(size_of::<Append>()))
            | (u64_at::<8, _>(b) ^ (member << 32))
            | (u64_at::<16, _>(b) ^ CONSENSUS_STREAM_ID as u64)
            | (u64_at::<FRAME_HEADER, _>(b) ^ IS_APPEND)
            | (u64_at::<SENDER, _>(b) ^ cluster.0)
            | (u64_at::<{ SENDER + 8 }, _>(b) ^ self.incarnation.0)
            | (u64_at::<{ SENDER + 16 }, _>(b) ^ (member | flags << 32))
            | (u64_at::<OWN, _>(b) ^ self.term.to_wire() as u64)
            | u64::from(u32_at::<{ OWN + 36 }, _>(b) | u32_at::<{ OWN + 48 }, _>(b))
            | (u64_at::<{ OWN + 52 }, _>(b) ^ self.checkpoint.position.get())
            | (u64_at::<{ OWN + 60 }, _>(b) ^ self.checkpoint.digest)
            | (u64_at::<{ OWN + 68 }, _>(b) ^ self.snapshot.position.get())
            | (u64_at::<{ OWN + 76 }, _>(b) ^ self.snapshot.digest);
        if differs != 0 {
            return None;
        }
        let [received, durable, applied] = positions([
            u64_at::<{ OWN + 8 }, _>(b),
            u64_at::<{ OWN + 16 }, _>(b),
            u64_at::<{ OWN + 24 }, _>(b),
        ])?;
        Some(Marks {
            received,
            durable,
            applied,
            window: u32_at::<{ OWN + 32 }, _>(b),
            round: u64_at::<{ OWN + 40 }, _>(b),
        })
    }
}

/// The member that a message which comes from one names in its frame's header: nothing is checked.
#[inline]
pub(crate) fn said_by(datagram: &[u8]) -> Option<MemberId> {
    let [_, places, ..] = words(datagram.first_chunk()?);
    MemberId::from_wire((places >> 32) as i32)
}

/// Their SBE headers.
const IS_APPEND: u64 = sbe(APPEND_LENGTH, template::APPEND_POSITION);
const IS_COMMIT: u64 = sbe(COMMIT_LENGTH, template::COMMIT_POSITION);

const fn sbe(own: usize, template: u16) -> u64 {
    (SENDER_BLOCK + own) as u64
        | (template as u64) << 16
        | (SCHEMA_ID as u64) << 32
        | (SCHEMA_VERSION as u64) << 48
}

#[inline(always)]
fn append(b: &Append, flags: u32) -> Option<Frequent> {
    let [received, durable, applied, checkpoint, snapshot] = positions([
        u64_at::<{ OWN + 8 }, _>(b),
        u64_at::<{ OWN + 16 }, _>(b),
        u64_at::<{ OWN + 24 }, _>(b),
        u64_at::<{ OWN + 52 }, _>(b),
        u64_at::<{ OWN + 68 }, _>(b),
    ])?;
    Some(Frequent::Append(AppendPosition {
        term: Term::from_wire(u64_at::<OWN, _>(b) as i64)?,
        received,
        durable,
        applied,
        window: u32_at::<{ OWN + 32 }, _>(b),
        flush_age_ms: u32_at::<{ OWN + 36 }, _>(b),
        round: u64_at::<{ OWN + 40 }, _>(b),
        service_age_ms: u32_at::<{ OWN + 48 }, _>(b),
        quarantined: flags & flag::QUARANTINED != 0,
        resting: flags & flag::RESTING != 0,
        votes: flags & flag::VOTES != 0,
        checkpoint: Checkpoint {
            position: checkpoint,
            digest: u64_at::<{ OWN + 60 }, _>(b),
        },
        snapshot: Checkpoint {
            position: snapshot,
            digest: u64_at::<{ OWN + 76 }, _>(b),
        },
    }))
}

#[inline(always)]
fn commit(b: &Commit, flags: u32) -> Option<Frequent> {
    let [commit, end, checkpoint, snapshot] = positions([
        u64_at::<{ OWN + 8 }, _>(b),
        u64_at::<{ OWN + 16 }, _>(b),
        u64_at::<{ OWN + 32 }, _>(b),
        u64_at::<{ OWN + 48 }, _>(b),
    ])?;
    Some(Frequent::Commit(CommitPosition {
        term: Term::from_wire(u64_at::<OWN, _>(b) as i64)?,
        commit,
        end,
        round: u64_at::<{ OWN + 24 }, _>(b),
        counts: flags & flag::COUNTS != 0,
        checkpoint: Checkpoint {
            position: checkpoint,
            digest: u64_at::<{ OWN + 40 }, _>(b),
        },
        snapshot: Checkpoint {
            position: snapshot,
            digest: u64_at::<{ OWN + 56 }, _>(b),
        },
    }))
}

/// Writes an acknowledgement: see [`super::MemberMessage::emit`].
pub(crate) fn emit_append(sender: &Sender, said: &AppendPosition, out: &mut [u8]) -> Option<usize> {
    const LEN: usize = align(size_of::<Append>());
    let flags = said.flags();
    let b: &mut [u8; LEN] = out.first_chunk_mut()?;
    front(b, size_of::<Append>(), IS_APPEND, sender, flags);
    put_u64::<OWN, LEN>(b, said.term.to_wire() as u64);
    put_u64::<{ OWN + 8 }, LEN>(b, said.received.get());
    put_u64::<{ OWN + 16 }, LEN>(b, said.durable.get());
    put_u64::<{ OWN + 24 }, LEN>(b, said.applied.get());
    put_u32::<{ OWN + 32 }, LEN>(b, said.window);
    put_u32::<{ OWN + 36 }, LEN>(b, said.flush_age_ms);
    put_u64::<{ OWN + 40 }, LEN>(b, said.round);
    put_u32::<{ OWN + 48 }, LEN>(b, said.service_age_ms);
    put_u64::<{ OWN + 52 }, LEN>(b, said.checkpoint.position.get());
    put_u64::<{ OWN + 60 }, LEN>(b, said.checkpoint.digest);
    put_u64::<{ OWN + 68 }, LEN>(b, said.snapshot.position.get());
    put_u64::<{ OWN + 76 }, LEN>(b, said.snapshot.digest);
    // What aligns it.
    put_u64::<{ LEN - 12 }, LEN>(b, 0);
    put_u32::<{ LEN - 4 }, LEN>(b, 0);
    Some(LEN)
}

const _: () = assert!(align(size_of::<Append>()) - size_of::<Append>() == 12);
const _: () = assert!(align(size_of::<Commit>()) == size_of::<Commit>());

/// Writes a heartbeat: see [`super::MemberMessage::emit`].
pub(crate) fn emit_commit(sender: &Sender, said: &CommitPosition, out: &mut [u8]) -> Option<usize> {
    const LEN: usize = size_of::<Commit>();
    let flags = set(said.counts, flag::COUNTS);
    let b: &mut [u8; LEN] = out.first_chunk_mut()?;
    front(b, LEN, IS_COMMIT, sender, flags);
    put_u64::<OWN, LEN>(b, said.term.to_wire() as u64);
    put_u64::<{ OWN + 8 }, LEN>(b, said.commit.get());
    put_u64::<{ OWN + 16 }, LEN>(b, said.end.get());
    put_u64::<{ OWN + 24 }, LEN>(b, said.round);
    put_u64::<{ OWN + 32 }, LEN>(b, said.checkpoint.position.get());
    put_u64::<{ OWN + 40 }, LEN>(b, said.checkpoint.digest);
    put_u64::<{ OWN + 48 }, LEN>(b, said.snapshot.position.get());
    put_u64::<{ OWN + 56 }, LEN>(b, said.snapshot.digest);
    Some(LEN)
}

/// The frame's header, the SBE header and the sender's block.
#[inline(always)]
fn front<const LEN: usize>(b: &mut [u8; LEN], len: usize, sbe: u64, sender: &Sender, flags: u32) {
    let member = u64::from(sender.member.get());
    put_u64::<0, LEN>(b, kind_of(len));
    put_u64::<8, LEN>(b, member << 32);
    put_u64::<16, LEN>(b, CONSENSUS_STREAM_ID as u64);
    put_u64::<24, LEN>(b, 0);
    put_u64::<FRAME_HEADER, LEN>(b, sbe);
    put_u64::<SENDER, LEN>(b, sender.cluster.0);
    put_u64::<{ SENDER + 8 }, LEN>(b, sender.incarnation.0);
    put_u64::<{ SENDER + 16 }, LEN>(b, member | u64::from(flags) << 32);
}

/// The first word of the frame's header.
const fn kind_of(len: usize) -> u64 {
    len as u64 | (FLAGS_WHOLE as u64) << 40 | DATA
}

#[inline(always)]
fn put_u64<const AT: usize, const LEN: usize>(bytes: &mut [u8; LEN], value: u64) {
    let part = bytes.get_mut(AT..).and_then(|rest| rest.first_chunk_mut());
    if let Some(part) = part {
        *part = value.to_le_bytes();
    }
}

#[inline(always)]
fn put_u32<const AT: usize, const LEN: usize>(bytes: &mut [u8; LEN], value: u32) {
    let part = bytes.get_mut(AT..).and_then(|rest| rest.first_chunk_mut());
    if let Some(part) = part {
        *part = value.to_le_bytes();
    }
}

/// All are aligned, and below the highest: looked at together.
#[inline(always)]
fn positions<const COUNT: usize>(values: [u64; COUNT]) -> Option<[Position; COUNT]> {
    let bits = values.iter().fold(0, |bits, value| bits | value);
    let is_good = bits < POSITION_MAX && bits.is_multiple_of(FRAME_ALIGNMENT as u64);
    is_good.then(|| values.map(Position::new))
}

const _: () = assert!(POSITION_MAX.is_power_of_two());

#[inline(always)]
fn u64_at<const AT: usize, const LEN: usize>(bytes: &[u8; LEN]) -> u64 {
    let part = bytes.get(AT..).and_then(|rest| rest.first_chunk());
    u64::from_le_bytes(*part.unwrap_or(&[0; 8]))
}

#[inline(always)]
fn u32_at<const AT: usize, const LEN: usize>(bytes: &[u8; LEN]) -> u32 {
    let part = bytes.get(AT..).and_then(|rest| rest.first_chunk());
    u32::from_le_bytes(*part.unwrap_or(&[0; 4]))
}

const _: () = assert!(size_of::<Append>() < 256 && size_of::<Front>() < size_of::<Commit>());

#[cfg(test)]
mod tests {
    use super::super::{Body, MemberMessage};
    use super::*;
    use crate::prng::Prng;
    use crate::wire::frame::DataFrame;

    fn messages() -> [MemberMessage; 2] {
        let checkpoint = |at| Checkpoint {
            position: Position::new(at),
            digest: 7 * at,
        };
        let sender = Sender {
            cluster: ClusterId(5),
            incarnation: Incarnation(6),
            member: MemberId::new(2).expect("in range"),
        };
        let append = Body::AppendPosition(AppendPosition {
            term: Term::new(3),
            received: Position::new(96),
            durable: Position::new(64),
            applied: Position::new(32),
            window: 1,
            flush_age_ms: 2,
            round: 4,
            service_age_ms: 5,
            quarantined: true,
            resting: false,
            votes: true,
            checkpoint: checkpoint(32),
            snapshot: checkpoint(64),
        });
        let commit = Body::CommitPosition(CommitPosition {
            term: Term::new(3),
            commit: Position::new(96),
            end: Position::new(128),
            round: 9,
            counts: true,
            checkpoint: checkpoint(32),
            snapshot: checkpoint(64),
        });
        [append, commit].map(|body| MemberMessage { sender, body })
    }

    fn body(said: Frequent) -> Body {
        match said {
            Frequent::Append(said) => Body::AppendPosition(said),
            Frequent::Commit(said) => Body::CommitPosition(said),
        }
    }

    #[test]
    fn it_reads_what_is_written_and_nothing_else_than_any_message_is_read_as() {
        let mut prng = Prng::new(1);
        for message in messages() {
            let mut sound = [0; 256];
            sound.fill(0xaa);
            let len = message.emit(&mut sound).expect("room");
            let mut other = [0xaa; 256];
            assert_eq!(message.emit_any(&mut other), Some(len));
            assert_eq!(sound, other);
            assert_eq!(message.emit(&mut other[..len - 1]), None);
            let read = Frequent::parse(&sound[..len]);
            let read = read.map(|(sender, said)| (sender, body(said)));
            assert_eq!(read, Some((message.sender, message.body)));
            let mut taken = 0;
            for _ in 0..20_000 {
                let mut bytes = sound;
                let at = prng.next() as usize % len;
                bytes[at] ^= 1 << (prng.next() % 8);
                let cut = match prng.next() % 4 {
                    0 => prng.next() as usize % (len + 1),
                    _ => len,
                };
                let datagram = &bytes[..cut];
                let Some((sender, said)) = Frequent::parse(datagram) else {
                    continue;
                };
                taken += 1;
                let frame = DataFrame::parse(datagram).expect("a frame");
                let body = body(said);
                let slow = MemberMessage::parse_frame(&frame);
                assert_eq!(slow, Ok(MemberMessage { sender, body }));
            }
            assert!(taken > 1000, "most bits are a value's: {taken}");
        }
    }

    /// An acknowledgement is taken by its marks if it differs in nothing else, and whatever one bit
    /// of it may be, only with what it says as a whole.
    #[test]
    fn marks_are_taken_only_of_what_says_the_same_otherwise() {
        let Body::AppendPosition(last) = messages()[0].body else {
            panic!("it is one");
        };
        let sender = messages()[0].sender;
        let same = Same::of(sender.incarnation, &last);
        let said = AppendPosition {
            received: Position::new(320),
            durable: Position::new(288),
            applied: Position::new(256),
            window: 77,
            round: 9,
            flush_age_ms: 0,
            service_age_ms: 0,
            ..last
        };
        let mut bytes = [0; 160];
        let taken = |bytes: &[u8]| same.marks(bytes, sender.cluster, sender.member);
        assert_eq!(emit_append(&sender, &last, &mut bytes), Some(160));
        assert_eq!(taken(&bytes), None, "it tells of ages");
        assert_eq!(emit_append(&sender, &said, &mut bytes), Some(160));
        assert_eq!(taken(&bytes), Some(said.marks()));
        assert_eq!(taken(&bytes[..159]), None);
        let mut all = 0;
        for bit in 0..8 * bytes.len() {
            let mut damaged = bytes;
            damaged[bit / 8] ^= 1 << (bit % 8);
            let Some(marks) = taken(&damaged) else {
                continue;
            };
            all += 1;
            let whole = AppendPosition {
                received: marks.received,
                durable: marks.durable,
                applied: marks.applied,
                window: marks.window,
                round: marks.round,
                ..said
            };
            let parsed = Frequent::parse(&damaged);
            assert_eq!(parsed, Some((sender, Frequent::Append(whole))), "{bit}");
        }
        // Positions but for their lowest and highest bits, window, round; and what nobody reads.
        assert!(
            (3 * 50 + 32 + 64..3 * 64 + 32 + 64 + 64 + 96).contains(&all),
            "{all}"
        );
    }
}
