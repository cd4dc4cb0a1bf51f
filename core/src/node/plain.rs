//! The way of nearly all that is committed: messages of sessions, one to a frame, into a node's
//! only service. The same as [`super::apply`] does with them, with everything looked at once that
//! no such message changes.

use super::Node;
use super::apply::Bench;
use super::dues::Due;
use super::host::{Audience, Effects, HostMemory, Taking};
use crate::limits::FRAME_HEADER;
use crate::log::checksum::Checksums;
use crate::log::{Log, scan};
use crate::service::Role;
use crate::time::Now;
use crate::units::{Position, Term};
use crate::wire::cluster::SessionMessageHeader;
use crate::wire::frame::{WHOLE, align, words};

/// A message that is all that is committed and not executed.
pub(super) struct Alone<'l> {
    header: SessionMessageHeader,
    payload: &'l [u8],
    end: Position,
    /// Of its frame.
    term: Term,
    chain: u32,
}

impl<const N: usize, const S: usize> Node<N, S> {
    /// Up to where messages of sessions meet nothing that is to be done with but to execute them,
    /// as long as nothing stirs this node; zero if there may be something now.
    pub(super) fn plain_to(&self) -> Position {
        let level = self.applier.level;
        let [host] = &*self.hosts else {
            return Position::ZERO;
        };
        let is_level = host.position == level && self.applier.laggard.is_none();
        let is_told = host.is_told(self.raft.role()) && host.taking == Taking::No;
        // What is served while what comes before is not is looked at each time.
        let opened = self.applier.opened;
        let is_one_leadership = opened == Position::MAX || level >= opened;
        match is_level && is_told && is_one_leadership && !self.may_be_held_up() {
            true => self.plain_end(),
            false => Position::ZERO,
        }
    }

    /// Whether something halts the node, holds it up, or ends in a snapshot: that goes the long
    /// way.
    fn may_be_held_up(&self) -> bool {
        let is_snapshot_near = self.taking_at().is_some() || self.is_snapshot_due();
        is_snapshot_near || self.applier.has_piled_up() || self.halted.is_some()
    }

    /// What is behind a checkpoint is not looked at.
    fn plain_end(&self) -> Position {
        let clear_to = self.checkpoints.clear_to(self.config.checkpoint_every);
        clear_to.minus(1)
    }

    /// The message that is all there is to execute, where it is known that nothing else may be to
    /// be done.
    #[inline(always)]
    pub(super) fn alone<'l, L: Log>(&self, log: &'l L) -> Option<Alone<'l>> {
        #[cfg(test)]
        if super::tests::plain::is_closed() {
            return None;
        }
        let (start, end) = (self.applier.position, self.raft.commit());
        // What is in the window was found to be good when it came there.
        if end > self.dues.plain_to || start >= end || start < log.start() {
            return None;
        }
        debug_assert!(self.dues.plain_to <= self.plain_to());
        let bytes = log.read(start);
        let [kind, places, _, reserved] = words(bytes.first_chunk()?);
        let length = kind as u32 as usize;
        if kind >> 32 != WHOLE || align(length) as u64 != end.since(start) {
            return None;
        }
        let (header, payload) = bytes.get(FRAME_HEADER..length)?.split_first_chunk()?;
        Some(Alone {
            header: SessionMessageHeader::quickly(header)?,
            payload,
            end,
            term: Term::new((places >> 32) as u32),
            chain: Checksums::from_reserved(reserved as i64).chain,
        })
    }

    /// Executes it, and does all that follows from that; false, and nothing is done, if the service
    /// is not ready for it.
    #[inline(always)]
    pub(super) fn execute_alone(
        &mut self,
        now: Now,
        message: &Alone<'_>,
        bench: &mut Bench<'_, '_, '_>,
    ) -> bool {
        let Alone { header, end, .. } = message;
        let (start, end) = (self.applier.position, *end);
        let at = self.at(start, end);
        let ([host], [service]) = (&mut *self.hosts, &mut *bench.services) else {
            return false;
        };
        if !service.ready(start) {
            return false;
        }
        let mut effects = Effects {
            audience: Audience::Clients(&mut self.clients, &mut bench.memory),
            host: HostMemory::of(bench.hosts, 0, 1),
        };
        host.execute_message(at, header, message.payload, &mut **service, &mut effects);
        if at.role == Role::Leader {
            let len = message.payload.len();
            self.clients.apply_message(header.session, len);
        }
        #[cfg(test)]
        super::tests::plain::note_alone();
        self.applier
            .take_plain(end, message.term, message.chain, host.time());
        host.moved = now.instant;
        (host.ready, self.applier.ready) = (true, true);
        let broken = self.clients.broken();
        if broken.is_some() || service.is_broken() || host.has_own() {
            self.halt_if(broken);
            self.note_services(now, bench.services, bench.hosts);
        } else {
            (host.digest, host.digest_at) = (service.digest(), end);
            self.dues.done(Due::SERVICES);
            if !self.clients.is_quiet_to_admit() {
                self.dues.add(Due::INGRESS);
            }
        }
        true
    }

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
        if self.may_be_held_up() {
            return;
        }
        let last = self.raft.commit().min(self.plain_end());
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
