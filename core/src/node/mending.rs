//! Log bytes for a member that has lost them: see `repair`. Whoever has them sends them, leader or
//! not.

use super::repair::WINDOW;
use super::transmit::{Due, What};
use super::{Consumer, Door, Lent, Node, ReadError, Recall, Reject};
use crate::log::{Log, scan};
use crate::units::{MemberId, Position};
use crate::wire::member::RepairRequest;

/// What a damaged member is sent.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) struct Mending {
    member: MemberId,
    from: Position,
    to: Position,
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
    #[inline(never)]
    pub(super) fn owed_repair<'l, L: Log>(&mut self, lent: &'l Lent<'_, L>) -> Option<Due<'l>> {
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
        let sound = scan::sound(bytes, run, mending.from, segment);
        let run = bytes.get(..sound).filter(|run| !run.is_empty());
        let Some(run) = run.filter(|_| mending.from < mending.to) else {
            self.mending = None;
            return None;
        };
        mending.from = mending.from.plus(run.len() as u64);
        let to = self.config.address(mending.member)?.member;
        Some(Due {
            door: Door::Member,
            to,
            what: What::InPlace(scan::sent(run)),
        })
    }
}
