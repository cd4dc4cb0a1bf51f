//! Log bytes for a member that has lost them: see `repair`. Whoever has them sends them, leader or
//! not.
//!
//! Who has a hole of its own sends what is sound in it as well: so members heal one another of
//! which none has all. But what it sends there it has to be sure of itself. A frame's own checksum
//! does not cover its chain, so a frame counts as one that it had only if something says that the
//! chain is right too: a frame beside it, or a place that healing has come to, from either side.
//! Sent all the same, it would not be written anywhere, but it would be taken for another branch,
//! and who takes all others for such halts.

use super::repair::WINDOW;
use super::transmit::{Owes, What};
use super::{Consumer, Door, Lent, Node, ReadError, Recall, Reject};
use crate::log::Log;
use crate::log::scan::{self, Sound};
use crate::units::{MemberId, Position};
use crate::wire::member::RepairRequest;

/// What a damaged member is sent.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) struct Mending {
    member: MemberId,
    from: Position,
    to: Position,
    /// The chain of the frame that was sent last, behind which `from` is.
    sent: Option<u32>,
    /// Where the bytes that were recalled start, and how many they are.
    read: Option<(Position, usize)>,
}

impl<const N: usize, const S: usize> Node<N, S> {
    /// A damaged member asks for bytes. Whoever has them sends them; one member is served at a
    /// time.
    pub(super) fn handle_repair_request(
        &mut self,
        from: MemberId,
        ask: &RepairRequest,
    ) -> Result<(), Reject> {
        let end = self.raft.tail.end;
        // Damage of its own is not passed on: each frame is checked before it leaves.
        let to = ask.to.min(ask.from.plus(WINDOW)).min(end);
        if ask.from < self.start.base || ask.from >= to {
            return Err(Reject::Stale);
        }
        if self.mending.as_ref().is_none_or(|m| m.member == from) {
            self.mending = Some(Mending {
                member: from,
                from: ask.from,
                to,
                sent: None,
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
        let is_stale = self.sources.is_stale(&recall);
        let Some(mending) = self.mending.as_mut().filter(|_| !is_stale) else {
            // If it is wanted by now, it is asked for again.
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

    /// The log was cut: what was read of it may be no more. It is asked for again.
    pub(super) fn stop_mending(&mut self) {
        self.mending = None;
    }

    /// Whether bytes for a damaged member are in the memory for replay: they leave first.
    pub(super) fn is_mending(&self) -> bool {
        self.mending.as_ref().is_some_and(|m| m.read.is_some())
    }

    /// The next frames for a damaged member.
    #[inline(never)]
    pub(super) fn owed_repair<'l, L: Log>(&mut self, lent: &'l Lent<'_, L>) -> Option<Owes<'l>> {
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
        let run = scan::run(bytes, mending.from, mtu, segment);
        let hole = self.healing.as_ref();
        let before = mending.sent;
        let before = before.or_else(|| hole.and_then(|hole| hole.chain_before(mending.from)));
        let sound = scan::sound(bytes, run, mending.from, before, segment);
        let is_sure = |s: &Sound<'_>| s.is_borne_out || hole.is_none_or(|h| h.bears_out(&s.first));
        let sound = sound.filter(|sound| mending.from < mending.to && is_sure(sound));
        let Some((run, sound)) = sound.and_then(|sound| Some((bytes.get(..sound.len)?, sound)))
        else {
            self.mending = None;
            return None;
        };
        mending.from = mending.from.plus(run.len() as u64);
        mending.sent = Some(sound.chain);
        let to = self.config.address(mending.member)?.member;
        Some(Owes {
            door: Door::Member,
            to,
            what: What::InPlace(scan::sent(run)),
        })
    }
}
