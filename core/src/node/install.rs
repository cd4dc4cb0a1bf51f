//! A snapshot from the leader: for a member whose log ends before the leader's begins, or that has
//! nothing at all.
//!
//! The member asks for a window of bytes of a section, and for the next once that is stored; so it
//! is its own flow control, and takes nothing from the live stream but what is left over. Sections
//! of equal sets are equal byte for byte, so a new leader goes on where the old one stopped, and so
//! does a member that starts again. When all sections are stored, the driver checks the set,
//! replaces the log by one that starts at the snapshot, and starts the node anew from both.

use core::time::Duration;

use super::transmit::{Owes, Scratch, What};
use super::{Consumer, Door, Event, Lent, NAK_REPEAT, Node, ReadError, Recall, Reject};
use crate::gaps::{Gaps, Span};
use crate::log::Log;
use crate::raft::State;
use crate::time::Instant;
use crate::units::{MemberId, Position, Section, ServiceId, Term};
use crate::wire::member::{Body, CHUNK_HEADER, CHUNK_MAX, SnapshotChunk, SnapshotRequest};

/// How many bytes are asked for at once, at most: less if the memory for cold bytes is smaller.
const WINDOW: usize = 64 * 1024;
/// How many ranges of bytes that came ahead are remembered.
const RANGES_MAX: usize = 16;

/// Which snapshot, as members tell each other.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct SnapshotId {
    /// Its position.
    pub position: Position,
    /// The digest of the whole set.
    pub digest: u64,
}

/// What the driver owes a snapshot that is being received.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum Install {
    /// Store these bytes, which are the first `len` of `Lent::catchup`.
    Store {
        /// Of this snapshot; drop what there is of another.
        snapshot: SnapshotId,
        /// The section; its bytes come in order.
        section: Section,
        /// Where in the section they belong; at 0 what there is of the section is dropped.
        offset: u64,
        /// How many.
        len: usize,
    },
    /// All of it is stored: check the set, make it durable, replace the log by one that starts at
    /// its position, and start the node anew.
    Finish {
        /// This snapshot.
        snapshot: SnapshotId,
    },
}

/// The snapshot that this member receives.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) struct Receiving {
    leader: MemberId,
    term: Term,
    /// Which one, once the leader has said.
    id: Option<SnapshotId>,
    section: Section,
    /// What is stored of the section; the next bytes are at the start of the lent memory.
    stored: u64,
    landed: Gaps<RANGES_MAX>,
    /// The section's end, once its last bytes have come.
    end: Option<u64>,
    is_complete: bool,
    /// A whole window waits to be stored.
    is_full: bool,
    next_ask: Instant,
    /// When its leader last sent some of it, or said that it has to be sent.
    heard: Instant,
}

/// The part of a snapshot that this leader sends.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) struct Serving {
    member: MemberId,
    id: SnapshotId,
    section: Section,
    next: u64,
    to: u64,
    /// What was read from storage: from where on, how much, and whether the section ends there.
    read: Option<(u64, usize, bool)>,
}

impl Receiving {
    fn new(leader: MemberId, term: Term, now: Instant) -> Self {
        Self {
            leader,
            term,
            id: None,
            section: Section::Consensus,
            stored: 0,
            landed: Gaps::new(),
            end: None,
            is_complete: false,
            is_full: false,
            next_ask: now,
            heard: now,
        }
    }

    /// By when it counts as not coming, for want of a leader; `None` if all of it is here.
    pub fn comes_until(&self, timeout: Duration) -> Option<Instant> {
        (!self.is_complete).then(|| self.heard.plus(timeout))
    }

    /// What waits to be stored is lost: it is asked for again.
    fn forget_landed(&mut self) {
        self.landed = Gaps::new();
        (self.end, self.is_full) = (None, false);
    }

    /// Another snapshot than the one that was begun: all over again.
    fn restart(&mut self, id: SnapshotId) {
        *self = Self {
            id: Some(id),
            heard: self.heard,
            ..Self::new(self.leader, self.term, self.next_ask)
        };
    }

    /// Where the bytes end that follow on what is stored without a hole.
    fn contiguous(&self, window: u64) -> u64 {
        let from = Position::new(self.stored);
        let to = Position::new(self.window_end(window));
        let hole = self.landed.first_hole(from, to);
        hole.map_or(to, |hole| hole.start).get()
    }

    fn window_end(&self, window: u64) -> u64 {
        let end = self.stored.saturating_add(window);
        self.end.map_or(end, |last| last.min(end))
    }

    fn is_window_full(&self, window: u64) -> bool {
        let to = self.window_end(window);
        let has_end = self.end.is_some_and(|end| end <= to);
        self.contiguous(window) == to && (to > self.stored || has_end)
    }
}

impl<const N: usize, const S: usize> Node<N, S> {
    /// Begins to receive from this leader, or goes on.
    pub(super) fn receive_snapshot(&mut self, now: Instant, leader: MemberId, term: Term) {
        match &mut self.receiving {
            Some(receiving) => {
                if receiving.leader != leader {
                    receiving.next_ask = now;
                }
                (receiving.leader, receiving.term, receiving.heard) = (leader, term, now);
            }
            None => {
                self.receiving = Some(Receiving::new(leader, term, now));
                self.event(Event::InstallBegun { leader });
            }
        }
    }

    /// What was stored of a snapshot before this node started: it goes on there. `stored` bytes of
    /// `section` are there, and all of the sections before it.
    pub fn resume_install(&mut self, snapshot: SnapshotId, section: Section, stored: u64) {
        self.stir();
        // Whose it is and whether it is still wanted is known when a leader is.
        let receiving = Receiving::new(self.config.member, Term::ZERO, self.clock.instant);
        self.receiving = Some(Receiving {
            id: Some(snapshot),
            section,
            stored,
            ..receiving
        });
    }

    /// Whether a snapshot is being received, and how much of its present section is stored.
    pub fn installing(&self) -> Option<(Section, u64)> {
        let receiving = self.receiving.as_ref()?;
        Some((receiving.section, receiving.stored))
    }

    /// When the leader is asked for more.
    pub(super) fn install_deadline(&self) -> Option<Instant> {
        let receiving = self.receiving.as_ref()?;
        let asks = !receiving.is_complete && !receiving.is_full;
        let waits = asks && receiving.term == self.raft.term();
        waits.then_some(receiving.next_ask)
    }

    pub(super) fn owed_snapshot_request(
        &mut self,
        now: Instant,
        memory: &[u8],
        scratch: &mut Scratch,
    ) -> Option<Owes<'static>> {
        let window = window(memory);
        let receiving = self.receiving.as_mut()?;
        let is_asked = receiving.term == self.raft.term() && now >= receiving.next_ask;
        if receiving.is_complete || !is_asked || receiving.is_window_full(window) {
            return None;
        }
        receiving.next_ask = now.plus(NAK_REPEAT);
        let offset = receiving.contiguous(window);
        let request = SnapshotRequest {
            term: receiving.term,
            position: receiving.id.map_or(Position::ZERO, |id| id.position),
            section: receiving.section,
            offset,
            length: receiving.window_end(window).saturating_sub(offset) as u32,
        };
        let leader = receiving.leader;
        self.say(leader, Body::SnapshotRequest(request), scratch)
    }

    /// A part of the snapshot has come.
    pub(super) fn handle_chunk(
        &mut self,
        now: Instant,
        from: MemberId,
        chunk: &SnapshotChunk<'_>,
        memory: &mut [u8],
    ) -> Result<(), Reject> {
        let sender = &chunk.sender;
        if sender.cluster != self.config.cluster || sender.member != from {
            return Err(Reject::Foreign);
        }
        let (window, term) = (window(memory), self.raft.term());
        let receiving = self.receiving.as_mut();
        let receiving = receiving.filter(|r| (r.leader, r.term) == (from, chunk.term));
        let Some(receiving) = receiving.filter(|r| chunk.term == term && !r.is_complete) else {
            return Err(Reject::Stale);
        };
        let id = SnapshotId {
            position: chunk.position,
            digest: chunk.digest,
        };
        if receiving.id != Some(id) {
            let is_first = receiving.id.is_none();
            receiving.restart(id);
            if !is_first {
                // What came is of a section or a place that is not wanted now.
                return Err(Reject::Stale);
            }
        }
        let end = chunk.offset.saturating_add(chunk.bytes.len() as u64);
        let fits = chunk.offset >= receiving.stored && end <= receiving.stored + window;
        if chunk.section != receiving.section || !fits {
            return Err(Reject::Stale);
        }
        let at = (chunk.offset - receiving.stored) as usize;
        let span = Span::new(Position::new(chunk.offset), Position::new(end));
        let room = memory.get_mut(at..at + chunk.bytes.len());
        let (Some(room), Ok(())) = (room, receiving.landed.insert(span)) else {
            return Err(Reject::Stale);
        };
        room.copy_from_slice(chunk.bytes);
        if let Some(healing) = &mut self.healing {
            // It was there, if the leader was not heard for a while.
            healing.forget_staged();
        }
        receiving.heard = now;
        if chunk.is_last {
            receiving.end = Some(end);
        }
        receiving.next_ask = now.plus(NAK_REPEAT);
        receiving.is_full = receiving.is_window_full(window);
        Ok(())
    }

    /// What the driver owes the snapshot that is being received; the same until
    /// [`Self::handle_installed`] is called.
    pub fn poll_install<L: Log>(&self, lent: &Lent<'_, L>) -> Option<Install> {
        let receiving = self.receiving.as_ref()?;
        let snapshot = receiving.id?;
        if receiving.is_complete {
            return Some(Install::Finish { snapshot });
        }
        let window = window(lent.catchup);
        receiving.is_window_full(window).then(|| Install::Store {
            snapshot,
            section: receiving.section,
            offset: receiving.stored,
            len: (receiving.contiguous(window) - receiving.stored) as usize,
        })
    }

    /// The driver has done what it owed. After a `Finish` that was done it starts anew and does not
    /// call this; if it could not be done, the snapshot is received all over again.
    pub fn handle_installed(&mut self, install: Install, done: bool) {
        self.stir();
        let now = self.clock.instant;
        let Some(receiving) = &mut self.receiving else {
            return;
        };
        let Install::Store { len, .. } = install else {
            let (leader, term) = (receiving.leader, receiving.term);
            *receiving = Receiving::new(leader, term, now.plus(RETRY));
            return;
        };
        if !done {
            receiving.next_ask = now.plus(RETRY);
            receiving.forget_landed();
            return;
        }
        receiving.stored = receiving.stored.saturating_add(len as u64);
        receiving.landed = Gaps::new();
        receiving.is_full = false;
        receiving.next_ask = now;
        if receiving.end != Some(receiving.stored) {
            receiving.end = None;
            return;
        }
        (receiving.stored, receiving.end) = (0, None);
        let next = match receiving.section {
            Section::Consensus => ServiceId::new(0),
            Section::Service(service) => ServiceId::new(service.get() + 1),
        };
        match next.filter(|service| service.slot() < self.config.services) {
            Some(service) => receiving.section = Section::Service(service),
            None => receiving.is_complete = true,
        }
    }

    /// The memory for cold bytes was read into: what waited there to be stored is asked for again.
    pub(super) fn forget_staged(&mut self) {
        self.forget_chunks();
        if let Some(healing) = &mut self.healing {
            healing.forget_staged();
        }
    }

    /// The same of a snapshot that is received.
    pub(super) fn forget_chunks(&mut self) {
        if let Some(receiving) = &mut self.receiving {
            receiving.forget_landed();
        }
    }

    /// A member asks for a part of a snapshot: one member is served at a time.
    pub(super) fn handle_snapshot_request(
        &mut self,
        from: MemberId,
        ask: &SnapshotRequest,
    ) -> Result<(), Reject> {
        let leads = matches!(self.raft.state(), State::Leader(_)) && !self.is_quarantined();
        if !leads || ask.term != self.raft.term() {
            return Err(Reject::Stale);
        }
        let stored = self.snapshots.stored.iter().flatten();
        let asked = stored.clone().find(|s| s.position == ask.position);
        let Some(snapshot) = asked.or(self.snapshots.stored[0].as_ref()) else {
            return Err(Reject::Stale);
        };
        if self.serving.as_ref().is_some_and(|s| s.member != from) {
            return Ok(());
        }
        let id = SnapshotId {
            position: snapshot.position,
            digest: snapshot.digest,
        };
        // Of another set than the one asked for, the beginning is sent: it says which it is.
        let is_same = asked.is_some() || ask.position == Position::ZERO;
        let (section, next) = match is_same {
            true => (ask.section, ask.offset),
            false => (Section::Consensus, 0),
        };
        self.serving = Some(Serving {
            member: from,
            id,
            section,
            next,
            to: next.saturating_add(u64::from(ask.length)),
            read: None,
        });
        Ok(())
    }

    /// The bytes of a snapshot that a member has asked for.
    pub(super) fn recall_snapshot(&self, memory: &[u8]) -> Option<Recall> {
        let serving = self.serving.as_ref().filter(|s| s.read.is_none())?;
        let wanted = serving.to.saturating_sub(serving.next);
        Some(Recall {
            consumer: Consumer::Snapshot {
                position: serving.id.position,
                section: serving.section,
            },
            at: Position::new(serving.next),
            len: memory.len().min(wanted as usize),
            cuts: 0,
        })
    }

    /// The driver has read what `recall_snapshot` asked for. Fewer bytes than asked for: the
    /// section ends there.
    pub(super) fn snapshot_recalled(&mut self, recall: Recall, result: Result<usize, ReadError>) {
        self.sources.forget_catchup();
        let Some(serving) = &mut self.serving else {
            return;
        };
        let asked = Consumer::Snapshot {
            position: serving.id.position,
            section: serving.section,
        };
        if recall.consumer != asked || recall.at.get() != serving.next {
            return;
        }
        match result {
            Ok(len) => serving.read = Some((serving.next, len, len < recall.len)),
            Err(ReadError) => {
                let position = serving.id.position;
                self.serving = None;
                // The one before serves as well.
                let known = self.snapshots.stored.into_iter().flatten();
                let mut left = known.filter(|snapshot| snapshot.position != position);
                self.snapshots.stored = [left.next(), left.next()];
                self.event(Event::SnapshotUnreadable(position));
            }
        }
    }

    /// Whether bytes for a member are in the memory for cold bytes: nobody else may use it.
    pub(super) fn is_serving(&self) -> bool {
        self.serving.as_ref().is_some_and(|s| s.read.is_some())
    }

    /// The next part of a snapshot that is due.
    #[inline(never)]
    pub(super) fn owed_chunk(
        &mut self,
        memory: &[u8],
        scratch: &mut Scratch,
    ) -> Option<Owes<'static>> {
        if !matches!(self.raft.state(), State::Leader(_)) || self.is_quarantined() {
            self.serving = None;
            return None;
        }
        let serving = self.serving.as_mut()?;
        let (at, len, is_end) = serving.read?;
        let most = CHUNK_MAX.min(self.config.mtu - CHUNK_HEADER);
        let from = (serving.next - at) as usize;
        let to = len.min(from + most);
        let bytes = memory.get(from..to)?;
        let chunk = SnapshotChunk {
            sender: self.sender,
            term: self.raft.term(),
            position: serving.id.position,
            digest: serving.id.digest,
            section: serving.section,
            offset: serving.next,
            is_last: is_end && to == len,
            bytes,
        };
        let written = chunk.emit(scratch);
        let member = serving.member;
        serving.next = at + to as u64;
        if to == len {
            self.serving = None;
        }
        let to = self.config.address(member)?.member;
        Some(Owes {
            door: Door::Member,
            to,
            what: What::Written(written?),
        })
    }
}

/// How long to wait before something that failed here is tried again.
const RETRY: Duration = Duration::from_secs(1);

const fn window(memory: &[u8]) -> u64 {
    if memory.len() < WINDOW {
        memory.len() as u64
    } else {
        WINDOW as u64
    }
}
