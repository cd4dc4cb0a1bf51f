//! Log bytes that were durable here and cannot be read any more: asked for, checked, written again.
//!
//! They are never cut: they may be what a quorum rests on (Alagappan et al., FAST 2018: a crash is
//! not a corruption). Until they are whole again this member does not stand for election, joins no
//! leadership, and votes only for candidates whose logs reach as far as its own did. It asks every
//! other member in turn, leader or not: so members that are damaged in different places heal one
//! another even when none of them can be elected.
//!
//! What comes must follow, frame by frame, from the chain before the hole, and end at the chain
//! that the newest slot has for its end. If instead a frame of a later leadership turns up, then
//! what was here had been overwritten elsewhere and was never committed: the log ends before it.

use core::time::Duration;

use super::transmit::{Payload, Transmit};
use super::{Consumer, Door, Event, Halt, Lent, Node, ReadError, Recall, Reject};
use crate::log::{Frames, Log, Recovered, scan, starts_frame};
use crate::time::Instant;
use crate::units::{MemberId, Position, Tail, Term};
use crate::wire::member::{Body, RepairRequest};

/// How many bytes are asked for at once, at most.
const WINDOW: u64 = 64 * 1024;
/// How long a member has to answer before the next one is asked.
const PATIENCE: Duration = Duration::from_millis(50);

/// Bytes that the driver writes to their place in storage, and flushes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Repair {
    /// Where they belong.
    pub at: Position,
    /// The first `len` bytes of `Lent::catchup`, all in one segment.
    pub len: usize,
    /// Where the frames that they are end: a PAD is its header alone.
    pub end: Position,
    /// The chain there, and who wrote the last of them.
    tail: (Option<u32>, Term),
}

/// What is to be healed here.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) struct Healing {
    /// Everything below is good, and ends with this chain and term.
    next: Position,
    tail: (Option<u32>, Term),
    /// The end of the damage, and the chain there.
    to: Position,
    to_chain: Option<u32>,
    /// No frame below `to` was written by a later leadership.
    joined: Term,
    /// What has come and is not stored.
    staged: Option<Repair>,
    peer: MemberId,
    next_ask: Instant,
}

/// What a damaged member is sent.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) struct Mending {
    member: MemberId,
    from: Position,
    to: Position,
    /// Where the bytes that were recalled start, and how many they are.
    read: Option<(Position, usize)>,
}

impl Healing {
    /// What a recovered log needs; `None` if it is sound.
    pub fn of(recovered: &Recovered, me: MemberId, now: Instant) -> Option<Self> {
        let next = recovered.corrupt?;
        Some(Self {
            next,
            tail: recovered.corrupt_after,
            to: recovered.confirmed,
            to_chain: recovered.confirmed_chain,
            joined: recovered.joined,
            staged: None,
            peer: me,
            next_ask: now,
        })
    }

    /// What has come is lost: it is asked for again.
    pub fn forget_staged(&mut self) {
        self.staged = None;
    }

    fn staged_to(&self) -> Position {
        self.staged.map_or(self.next, |staged| staged.end)
    }
}

impl<const N: usize, const S: usize> Node<N, S> {
    /// The log bytes that are still to be healed; `None` if the log is sound.
    pub fn healing(&self) -> Option<(Position, Position)> {
        self.healing.as_ref().map(|h| (h.next, h.to))
    }

    pub(super) fn repair_deadline(&self) -> Option<Instant> {
        self.healing.as_ref().map(|h| h.next_ask)
    }

    pub(super) fn owed_repair_request(&mut self, now: Instant) -> Option<Transmit<'static>> {
        let term = self.raft.term();
        let healing = self.healing.as_ref()?;
        if now < healing.next_ask || healing.staged.is_some_and(|s| s.len as u64 >= WINDOW) {
            return None;
        }
        let others = self.raft.others();
        let after = others.iter().find(|m| *m > healing.peer);
        let peer = after.or_else(|| others.iter().next())?;
        let from = healing.staged_to();
        let to = healing.to.min(from.plus(WINDOW));
        let healing = self.healing.as_mut()?;
        healing.peer = peer;
        healing.next_ask = now.plus(PATIENCE);
        self.say(peer, Body::RepairRequest(RepairRequest { term, from, to }))
    }

    /// Frames have come: those that are missed here, if they follow. False if they are not for
    /// this.
    pub(super) fn take_repair<L: Log>(
        &mut self,
        now: Instant,
        datagram: &[u8],
        lent: &mut Lent<'_, L>,
    ) -> bool {
        let segment = self.config.segment_length;
        let Some(at) = scan::stated_position(datagram, segment) else {
            return false;
        };
        let Some(healing) = self.healing.as_mut().filter(|h| at == h.staged_to()) else {
            return false;
        };
        let none = Repair {
            at: healing.next,
            len: 0,
            end: healing.next,
            tail: healing.tail,
        };
        let mut staged = healing.staged.unwrap_or(none);
        let mut frames = Frames::new(datagram, at, segment).verified();
        if let (Some(chain), _) = staged.tail {
            frames = frames.chained(chain);
        }
        let mut newer = None;
        for frame in frames {
            if frame.term > healing.joined {
                newer = Some(frame.position);
                break;
            }
            let room = staged.len..staged.len + frame.bytes.len();
            let room = lent.catchup.get_mut(room);
            let Some(room) = room.filter(|_| frame.end() <= healing.to) else {
                break;
            };
            room.copy_from_slice(frame.bytes);
            staged.len += frame.bytes.len();
            staged.end = frame.end();
            staged.tail = (Some(frame.chain), frame.term);
            if frame.is_pad {
                break;
            }
        }
        healing.staged = (staged.len > 0).then_some(staged);
        healing.next_ask = now.plus(PATIENCE);
        if let Some(newer) = newer.filter(|_| staged.len == 0) {
            self.end_healing_at(newer, lent.log);
        }
        true
    }

    /// Bytes that the driver shall write over the damage: at least these, until `handle_repaired`.
    pub fn poll_repair(&self) -> Option<Repair> {
        self.healing.as_ref()?.staged
    }

    /// They are durable.
    pub fn handle_repaired(&mut self, repair: Repair) {
        let now = self.clock.instant;
        let Some(healing) = &mut self.healing else {
            return;
        };
        if repair.at != healing.next {
            return;
        }
        // What has come meanwhile is asked for again: the memory is free.
        (healing.next, healing.tail, healing.staged) = (repair.end, repair.tail, None);
        healing.next_ask = now;
        if healing.next < healing.to {
            return;
        }
        let to = healing.to;
        let is_other = matches!((healing.tail.0, healing.to_chain), (Some(a), Some(b)) if a != b);
        self.healing = None;
        if is_other {
            // Others hold other bytes of the same leaderships: this is no rot.
            self.halt(Halt::CorruptLog(to));
            return;
        }
        self.raft.heal(now);
        self.event(Event::LogHealed(to));
    }

    /// What was here from `newer` on was overwritten elsewhere.
    fn end_healing_at<L: Log>(&mut self, newer: Position, log: &mut L) {
        let now = self.clock.instant;
        let Some(healing) = self.healing.take() else {
            return;
        };
        if newer < self.raft.commit() {
            self.halt(Halt::ConflictBelowCommit);
            return;
        }
        self.cut(newer, log);
        let (_, term) = healing.tail;
        self.raft.set_tail(Tail { term, end: newer });
        self.raft.heal(now);
        self.event(Event::LogHealed(newer));
    }

    /// A damaged member asks for bytes. Whoever has them sends them; one member is served at a
    /// time.
    pub(super) fn handle_repair_request(
        &mut self,
        now: Instant,
        from: MemberId,
        ask: &RepairRequest,
    ) -> Result<(), Reject> {
        self.raft.handle_history_request(now, from, None);
        let end = self.raft.tail.end;
        // Damage of its own is not passed on: who asks checks each frame, and all that follow.
        let to = ask.to.min(ask.from.plus(WINDOW)).min(end);
        if ask.from < self.start.base || ask.from >= to {
            return Err(Reject::Stale);
        }
        if self.mending.as_ref().is_none_or(|m| m.member == from) {
            self.mending = Some(Mending {
                member: from,
                from: ask.from,
                to,
                read: None,
            });
        }
        Ok(())
    }

    pub(super) fn recall_repair<L: Log>(&self, lent: &Lent<'_, L>) -> Option<Recall> {
        let mending = self.mending.as_ref()?;
        if mending.read.is_some() || mending.from >= lent.log.start() {
            return None;
        }
        let len = lent.replay.len();
        Some(
            self.sources
                .recall(&*lent.log, Consumer::Repair, mending.from, len),
        )
    }

    pub(super) fn repair_recalled(&mut self, recall: Recall, result: Result<usize, ReadError>) {
        self.sources.forget_replay();
        let Some(mending) = &mut self.mending else {
            return;
        };
        match result {
            Ok(len) if len > 0 && recall.at == mending.from => {
                mending.read = Some((recall.at, len));
            }
            // Unreadable here as well, or not what was asked for: somebody else has it.
            _ => self.mending = None,
        }
    }

    /// Whether bytes for a damaged member are in the memory for replay: they leave first.
    pub(super) fn is_mending(&self) -> bool {
        self.mending.as_ref().is_some_and(|m| m.read.is_some())
    }

    /// The next frames for a damaged member.
    pub(super) fn owed_repair<'l, L: Log>(
        &mut self,
        lent: &'l Lent<'_, L>,
    ) -> Option<Transmit<'l>> {
        let (mtu, segment) = (self.config.mtu, self.config.segment_length);
        let mending = self.mending.as_mut()?;
        let bytes = match mending.read {
            Some((at, len)) => {
                let skipped = mending.from.since(at) as usize;
                lent.replay.get(skipped..len).unwrap_or_default()
            }
            None if mending.from >= lent.log.start() => lent.log.read(mending.from),
            None => return None,
        };
        let is_frame = starts_frame(bytes, mending.from, None, segment);
        let run = scan::run(bytes, mending.from, mtu, segment);
        let run = bytes.get(..run).filter(|run| is_frame && !run.is_empty());
        let Some(run) = run.filter(|_| mending.from < mending.to) else {
            self.mending = None;
            return None;
        };
        mending.from = mending.from.plus(run.len() as u64);
        let to = self.config.address(mending.member)?.member;
        Some(Transmit {
            door: Door::Member,
            to,
            payload: Payload::Bytes(scan::sent(run)),
        })
    }
}
