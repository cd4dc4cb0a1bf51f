//! The way of nearly all that is committed: messages of sessions, one to a frame, into a node's
//! only service. The same as [`super::apply`] does with them, with everything looked at once that
//! no such message changes.

use super::Node;
use super::apply::Bench;
use super::host::{Audience, Effects, HostMemory, Taking};
use crate::log::checksum::Checksums;
use crate::log::scan;
use crate::time::Now;

impl<const N: usize, const S: usize> Node<N, S> {
    /// Takes such messages from the start of `bytes`, which hold good frames, up to the first that
    /// is something else, or that something else is to be done with. Bounded by `budget`.
    pub(super) fn advance_plain(
        &mut self,
        now: Now,
        bench: &mut Bench<'_, '_, '_>,
        bytes: &[u8],
        budget: &mut usize,
    ) {
        #[cfg(test)]
        if super::tests::plain::is_closed() {
            return;
        }
        // What may halt the node, holds it up, or ends in a snapshot goes the long way.
        let is_snapshot_near = self.taking_at().is_some() || self.is_snapshot_due();
        if is_snapshot_near || self.applier.has_piled_up() || self.halted.is_some() {
            return;
        }
        let clear_to = self.checkpoints.clear_to(self.config.checkpoint_every);
        let last = self.raft.commit().min(clear_to.minus(1));
        let (start, level) = (self.applier.position, self.applier.level);
        let at = self.at(start, start);
        let ([host], [service]) = (&mut *self.hosts, &mut *bench.services) else {
            return;
        };
        // What is not committed, or behind a checkpoint, is not looked at; nor is what is served
        // while what comes before is not.
        let last = match start < self.applier.opened {
            true => last.min(self.applier.opened),
            false => last,
        };
        let bytes = bytes.get(..last.since(start) as usize).unwrap_or(bytes);
        let alike = scan::alike(bytes, start, self.config.segment_length);
        let Some((frames, term)) = alike else {
            return;
        };
        if host.position != level || host.taking != Taking::No {
            return;
        }
        let mut effects = Effects {
            audience: Audience::Clients(&mut self.clients, &mut bench.memory),
            host: HostMemory::of(bench.hosts, 0, 1),
        };
        let heard = host.hear(at, frames, *budget, &mut **service, &mut effects);
        let time = host.time();
        #[cfg(test)]
        super::tests::plain::note(heard.count);
        if heard.count > 0 {
            *budget -= heard.count;
            let chain = Checksums::from_reserved(heard.reserved as i64).chain;
            self.applier.take_plain(heard.position, term, chain, time);
            host.moved = now.instant;
            (host.ready, self.applier.ready) = (true, true);
        }
    }
}
