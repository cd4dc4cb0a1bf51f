//! What a member must never forget: its term and its vote.

use super::sector::{SECTOR, Sector, SectorError};
use crate::limits::{MEMBERS_MAX, MEMBERS_STORED};
use crate::units::{ClusterId, Incarnation, MemberId, Position, Term};

const MAGIC: [u8; 4] = *b"CrcN";
const HAS_VOTE: u16 = 1;
const MAY_VOTE: u16 = 2;
const QUARANTINED: u16 = 4;
const ROSTER_AT: usize = 64;
const _: () = assert!(ROSTER_AT + 8 + 16 * MEMBERS_STORED <= SECTOR - 8);

/// A member of this number is spoken of, and this build has no room for it ([`MEMBERS_MAX`]).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct NoRoom(pub u8);

impl From<NoRoom> for SectorError {
    fn from(member: NoRoom) -> Self {
        Self::NoRoomForMember(member.0)
    }
}

/// A member's number in a sector.
fn member_of(number: u8) -> Result<MemberId, SectorError> {
    match MemberId::new(number) {
        Some(member) => Ok(member),
        None if usize::from(number) < MEMBERS_STORED => Err(NoRoom(number).into()),
        None => Err(SectorError::BadField),
    }
}

/// Which life of each member's data directory counts, as of a position of the log.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Roster {
    /// The end of the last record that has changed it.
    pub at: Position,
    members: [(Incarnation, Position); MEMBERS_MAX],
}

impl Roster {
    /// The entry of a member whose first directory counts.
    const UNCHANGED: (Incarnation, Position) = (Incarnation::FIRST, Position::ZERO);

    /// What `init` makes of every member.
    pub const FIRST: Self = Self {
        at: Position::ZERO,
        members: [Self::UNCHANGED; MEMBERS_MAX],
    };

    /// The incarnation that counts.
    pub fn incarnation(&self, member: MemberId) -> Option<Incarnation> {
        self.members.get(member.slot()).map(|(one, _)| *one)
    }

    /// The end of the record that has made it count; 0 for the first.
    pub fn since(&self, member: MemberId) -> Position {
        let entry = self.members.get(member.slot());
        entry.map_or(Position::ZERO, |(_, since)| *since)
    }

    /// A record that ends at `end` makes this incarnation count. False if the roster knows that
    /// record, or later ones, already.
    pub fn admit(&mut self, member: MemberId, incarnation: Incarnation, end: Position) -> bool {
        let is_news = end > self.at;
        if let Some(entry) = self.members.get_mut(member.slot()).filter(|_| is_news) {
            *entry = (incarnation, end);
            self.at = end;
        }
        is_news
    }

    /// The entries that are stored, by slot, whatever this build has room for.
    pub fn entries(&self) -> impl Iterator<Item = (Incarnation, Position)> {
        let none = core::iter::repeat(Self::UNCHANGED);
        self.members
            .iter()
            .copied()
            .chain(none)
            .take(MEMBERS_STORED)
    }

    /// What a snapshot, or a node state, says. `next` is asked for each stored entry.
    ///
    /// # Errors
    /// [`NoRoom`] for a member's second directory where this build has no room for the member;
    /// else that of `next`.
    pub(crate) fn read<E: From<NoRoom>>(
        at: Position,
        mut next: impl FnMut(usize) -> Result<(Incarnation, Position), E>,
    ) -> Result<Self, E> {
        let mut roster = Self { at, ..Self::FIRST };
        for slot in 0..MEMBERS_STORED {
            let entry = next(slot)?;
            match roster.members.get_mut(slot) {
                Some(place) => *place = entry,
                None if entry == Self::UNCHANGED => {}
                None => return Err(NoRoom(slot as u8).into()),
            }
        }
        Ok(roster)
    }
}

impl Default for Roster {
    fn default() -> Self {
        Self::FIRST
    }
}

/// Raft's persistent state besides the log (Figure 2: `currentTerm`, `votedFor`), and who this is.
///
/// Kept in two sectors that are written in turn, each flush before the next; the newer good one
/// counts. A torn write is one that was never acted upon.
///
/// ```text
/// 16 cluster u64 | 24 incarnation u64 | 32 term i32 | 36 member u8 | 37 vote u8
/// 64 roster: at u64, then seven times incarnation u64, since u64
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct NodeState {
    /// The cluster.
    pub cluster: ClusterId,
    /// This member.
    pub member: MemberId,
    /// The life of its data directory.
    pub incarnation: Incarnation,
    /// The highest term it has seen.
    pub term: Term,
    /// Whom it voted for in that term.
    pub vote: Option<MemberId>,
    /// Whether it may vote and stand at all: not if the directory came to be in any other way than
    /// by `init`.
    pub votes: bool,
    /// Whether its state was found to differ from the others': it must not lead until it has been
    /// rebuilt from theirs. Not in version 1.
    pub quarantined: bool,
    /// Whose votes and marks count, as far as this member has executed the log.
    pub roster: Roster,
}

impl NodeState {
    /// The version that this code writes, and the newest it reads.
    pub const VERSION: u16 = 2;

    /// Of a member at its first start in its first directory: it may vote, and has not yet.
    pub const fn first(cluster: ClusterId, member: MemberId) -> Self {
        Self {
            cluster,
            member,
            incarnation: Incarnation::FIRST,
            term: Term::ZERO,
            vote: None,
            votes: true,
            quarantined: false,
            roster: Roster::FIRST,
        }
    }

    /// The bytes of a sector with this state. `seq` grows by one with every write; the sector is
    /// written to place `seq % 2`.
    pub fn encode(&self, seq: u64) -> [u8; SECTOR] {
        let vote = if self.vote.is_some() { HAS_VOTE } else { 0 };
        let votes = if self.votes { MAY_VOTE } else { 0 };
        let quarantined = if self.quarantined { QUARANTINED } else { 0 };
        let flags = vote | votes | quarantined;
        let mut sector = Sector::new(MAGIC, Self::VERSION, flags, seq);
        sector.put(16, self.cluster.0.to_le_bytes());
        sector.put(24, self.incarnation.0.to_le_bytes());
        sector.put(32, self.term.to_session_id().to_le_bytes());
        sector.put(36, [self.member.get()]);
        sector.put(37, [self.vote.map_or(0, MemberId::get)]);
        sector.put(ROSTER_AT, self.roster.at.get().to_le_bytes());
        for (slot, (incarnation, since)) in self.roster.entries().enumerate() {
            let at = ROSTER_AT + 8 + 16 * slot;
            sector.put(at, incarnation.0.to_le_bytes());
            sector.put(at + 8, since.get().to_le_bytes());
        }
        sector.seal(0)
    }

    /// The state in the first `SECTOR` bytes, with its sequence number.
    ///
    /// # Errors
    /// See [`SectorError`].
    pub fn decode(bytes: &[u8]) -> Result<(u64, Self), SectorError> {
        let sector = Sector::open(bytes, MAGIC, Self::VERSION, 0)?;
        let flags = sector.flags();
        let vote = if flags & HAS_VOTE == 0 {
            None
        } else {
            Some(member_of(sector.0[37])?)
        };
        let state = Self {
            cluster: ClusterId(sector.u64(16)),
            member: member_of(sector.0[36])?,
            incarnation: Incarnation(sector.u64(24)),
            term: Term::from_session_id(sector.u32(32) as i32).ok_or(SectorError::BadField)?,
            vote,
            votes: flags & MAY_VOTE != 0,
            quarantined: sector.version() > 1 && flags & QUARANTINED != 0,
            roster: Roster::read(Position::new(sector.u64(ROSTER_AT)), |slot| {
                let at = ROSTER_AT + 8 + 16 * slot;
                // Version 1 had no roster: zeros.
                let incarnation = Incarnation(sector.u64(at).max(Incarnation::FIRST.0));
                Ok::<_, SectorError>((incarnation, Position::new(sector.u64(at + 8))))
            })?,
        };
        Ok((sector.seq(), state))
    }

    /// The newer of two sectors with its sequence number; `None` if both are blank.
    ///
    /// # Errors
    /// What [is sound and not for this build](SectorError::is_sound) in either, or the damage of
    /// one where the other is no good either: then it is not known whom this member voted for, and
    /// it must not run.
    pub fn newest(a: &[u8], b: &[u8]) -> Result<Option<(u64, Self)>, SectorError> {
        match (Self::decode(a), Self::decode(b)) {
            (Err(error), _) | (_, Err(error)) if error.is_sound() => Err(error),
            (Ok(a), Ok(b)) => Ok(Some(if a.0 > b.0 { a } else { b })),
            (Ok(good), Err(_)) | (Err(_), Ok(good)) => Ok(Some(good)),
            (Err(SectorError::Blank), Err(SectorError::Blank)) => Ok(None),
            (Err(SectorError::Blank), Err(error)) | (Err(error), Err(_)) => Err(error),
        }
    }
}
