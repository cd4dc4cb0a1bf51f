//! Services that are behind the consensus module come on by themselves, each from its own position,
//! from the window or from what is recalled.

use super::apply::{Bench, FRAMES_MAX, record_of};
use super::host::Taking;
use super::{Consumer, Halt, Lent, Node, Recall};
use crate::log::{FrameError, Frames, Log, Messages};
use crate::time::Now;
use crate::units::Position;
use crate::wire::cluster::Message;

/// A service in the middle of a message: what is recalled next goes on there, since a message may
/// be longer than what is recalled at once, and lie in two segments. There is one at a time, for
/// there is one place to put a message together in.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) struct Laggard {
    slot: usize,
    /// The end of the last frame that it has taken.
    at: Position,
    messages: Messages,
}

impl<const N: usize, const S: usize> Node<N, S> {
    /// Notes which services take more. One that does not keeps no message half put together: others
    /// may need the place.
    pub(super) fn drop_laggard(&mut self, bench: &Bench<'_, '_, '_>) {
        for (host, service) in self.hosts.iter_mut().zip(bench.services.iter()) {
            host.ask(&**service);
        }
        let hosts = &self.hosts;
        let goes_on = |laggard: &Laggard| {
            let host = hosts.get(laggard.slot);
            host.is_some_and(|host| host.ready)
        };
        self.applier.laggard = self.applier.laggard.take().filter(goes_on);
    }

    /// Where the service of this slot reads on, if it is behind and may.
    fn laggard(&self, slot: usize) -> Option<Laggard> {
        let host = self.hosts.get(slot)?;
        if host.position >= self.applier.level || !host.ready || host.taking == Taking::Due {
            return None;
        }
        match &self.applier.laggard {
            Some(laggard) => Some(laggard.clone()).filter(|laggard| laggard.slot == slot),
            None => Some(Laggard {
                slot,
                at: host.position,
                messages: Messages::new(),
            }),
        }
    }

    /// Brings a service that is behind nearer, by a bounded number of frames. True if there may be
    /// more to do at once.
    #[inline(never)]
    pub(super) fn catch_up<L: Log>(
        &mut self,
        now: Now,
        slot: usize,
        bench: &mut Bench<'_, '_, '_>,
        log: &L,
        replay: &[u8],
        assembly: &mut [u8],
    ) -> bool {
        let Some(mut laggard) = self.laggard(slot) else {
            return false;
        };
        let mut budget = FRAMES_MAX;
        while self.take_run(now, &mut laggard, &mut budget, bench, log, replay, assembly) {}
        let Some(at) = self.hosts.get(slot).map(|host| host.position) else {
            return false;
        };
        let is_behind = at < self.applier.level;
        let is_between = laggard.at > at;
        self.applier.laggard = (is_behind && is_between).then_some(laggard);
        is_behind && budget == 0
    }

    /// One run of frames; false if this call has come as far as it can.
    #[allow(
        clippy::too_many_arguments,
        reason = "one caller, which was lent all of it"
    )]
    fn take_run<L: Log>(
        &mut self,
        now: Now,
        laggard: &mut Laggard,
        budget: &mut usize,
        bench: &mut Bench<'_, '_, '_>,
        log: &L,
        replay: &[u8],
        assembly: &mut [u8],
    ) -> bool {
        let (slot, before) = (laggard.slot, laggard.at);
        let (bytes, cold) = self.sources.for_replay(log, replay, before);
        let mut frames = Frames::new(bytes, before, self.config.segment_length);
        if cold {
            frames = frames.verified();
        }
        while *budget > 0 && self.halted.is_none() {
            let (Some(host), Some(service)) = (self.hosts.get_mut(slot), bench.services.get(slot))
            else {
                return false;
            };
            host.ask(&**service);
            if !host.ready {
                return false;
            }
            let Some(frame) = frames.next() else { break };
            // Clients are let in at the pace of the fastest service. This one answers at theirs.
            if frame.end() > self.applier.level || self.is_asked_by_one_who_reads(&frame) {
                return false;
            }
            *budget -= 1;
            laggard.at = frame.end();
            if let Some(message) = laggard.messages.push(frame, assembly) {
                let parsed = Message::parse(message.bytes);
                let record = record_of(message.start, &parsed);
                self.execute_in(now, slot, &message, &record, bench);
            }
            if laggard.messages.is_too_long() {
                self.halt(Halt::MessageTooLong(laggard.at));
                return false;
            }
        }
        // A frame that is cut off at the end of recalled bytes is recalled again, to its end.
        if frames.error().is_some_and(|error| error != FrameError::Cut) && laggard.at == before {
            self.halt(Halt::CorruptLog(before));
        }
        laggard.at > before && *budget > 0
    }

    /// The bytes that a service needs which is behind what the window holds.
    #[inline(never)]
    pub(super) fn recall_for_services<L: Log>(&self, lent: &Lent<'_, L>) -> Option<Recall> {
        for slot in 0..self.hosts.len() {
            let Some(at) = self.laggard(slot).map(|laggard| laggard.at) else {
                continue;
            };
            let (bytes, _) = self.sources.for_replay(&*lent.log, &*lent.replay, at);
            let segment = self.config.segment_length;
            let is_readable = Frames::new(bytes, at, segment).next().is_some();
            if at < lent.log.start() && !is_readable {
                let (log, len) = (&*lent.log, lent.replay.len());
                return Some(self.sources.recall(log, Consumer::Replay, at, len));
            }
        }
        None
    }
}
