//! The way of nearly all that is committed: messages of sessions, one to a frame, into a node's
//! only service. The same as [`super::apply`] does with them, with everything looked at once that
//! no such message changes.

use super::Node;
use super::apply::Bench;
use super::host::{At, Audience, Effects, HostMemory, Taking};
use crate::log::Frames;
use crate::time::Now;
use crate::wire::cluster::SessionMessage;
use crate::wire::frame::FLAGS_WHOLE;

impl<const N: usize, const S: usize> Node<N, S> {
    /// Takes such messages from the start of `frames`, up to the first that is something else, or
    /// that something else is to be done with. Bounded by `budget`.
    pub(super) fn advance_plain(
        &mut self,
        now: Now,
        bench: &mut Bench<'_, '_, '_>,
        frames: Frames<'_>,
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
        let commit = self.raft.commit();
        let mut at = self.at(self.applier.level, self.applier.level);
        let ([host], [service]) = (&mut *self.hosts, &mut *bench.services) else {
            return;
        };
        if host.position != self.applier.level || host.taking != Taking::No {
            return;
        }
        let opened = self.applier.opened;
        let mut effects = Effects {
            audience: Audience::Clients(&mut self.clients, &mut bench.memory),
            host: HostMemory::of(bench.hosts, 0, 1),
        };
        let before = *budget;
        for frame in frames {
            if *budget == 0 || !service.ready(host.position) {
                break;
            }
            let end = frame.end();
            let is_whole = frame.flags & FLAGS_WHOLE == FLAGS_WHOLE && !frame.is_pad;
            if !is_whole || end > commit || end >= clear_to {
                break;
            }
            let Some(said) = SessionMessage::quickly(frame.payload) else {
                break;
            };
            *budget -= 1;
            at = At {
                start: frame.position,
                end,
                serves: frame.position >= opened,
                ..at
            };
            self.applier.take_plain(&frame, said.header.timestamp);
            host.execute_message(at, &said, &mut **service, &mut effects);
            if let Audience::Clients(clients, _) = &mut effects.audience {
                clients.apply_message(said.header.session, said.payload.len());
            }
        }
        #[cfg(test)]
        super::tests::plain::note(before - *budget);
        if *budget < before {
            host.moved = now.instant;
            (host.ready, self.applier.ready) = (true, true);
        }
    }
}
