//! What happens because nothing happened.

use core::time::Duration;

use crate::node::clients::ingress::Owner;
use crate::node::clients::link::{Close, Link, Live, Stage, Stream};
use crate::node::clients::slots::Look;
use crate::node::clients::{Clients, Count};
use crate::stream::Publication;
use crate::time::Instant;
use crate::wire::cluster::CloseReason;

/// How long a drained stream goes on to announce its end, which is repeated every 100 ms.
const LINGER: Duration = Duration::from_millis(250);

/// What has changed is looked at so often at most for what time brings. That comes no sooner after
/// whatever it comes from, but for a few things that may be so much late.
const EVERY: Duration = Duration::from_millis(1);

impl<const N: usize> Clients<N> {
    /// Lets time pass: forgets ingress streams that are gone, gives up attempts to connect, and
    /// finds the sessions that are to be closed (they are by [`Clients::poll_admit`], which
    /// appends). Looks at the ingress streams and egress connections that have changed since, or
    /// whose time has come.
    ///
    /// By when it is to be called again.
    pub fn handle_timeout(&mut self, now: Instant) -> Instant {
        let is_due = self.ingress.may_come(now) || self.links.may_come(now);
        if is_due || now.since(self.looked_at) >= EVERY {
            self.pass_time(now);
        }
        self.looked_at.plus(EVERY)
    }

    fn pass_time(&mut self, now: Instant) {
        self.ingress.pass(now);
        if !self.ingress.looks(Look::Time).is_empty() {
            self.expire_images(now);
        }
        if self.pool.taken() > 0 {
            self.abandon_all(|owner| matches!(owner, Owner::Nobody { until } if now >= until));
        }
        self.links.pass(now);
        if !self.links.looks(Look::Time).is_empty() {
            self.expire_links(now);
        }
        self.serve_the_rest(now);
        self.looked_at = now;
    }

    /// The node slept for so long: it leaves that out of how long clients were silent, or did not
    /// read.
    pub(in crate::node) fn excuse(&mut self, now: Instant, slept: Duration) {
        let later = |at: Instant| at.plus(slept).min(now);
        for (_, ingress) in self.ingress.iter_mut() {
            ingress.image.heard_at = later(ingress.image.heard_at);
        }
        for (_, link) in self.links.iter_mut() {
            link.deadline = link.deadline.plus(slept);
            if let Some(live) = link.live_mut() {
                live.heard_at = later(live.heard_at);
            }
            if let Stream::Ready {
                publication,
                progress,
                ..
            } = &mut link.stream
            {
                // What is answered before its client has spoken again would be lost, and with that
                // the session.
                publication.excuse(now, slept);
                progress.1 = later(progress.1);
            }
        }
    }

    fn expire_links(&mut self, now: Instant) {
        let (session, egress) = (self.config.session_timeout, self.config.egress_timeout);
        let mut from = 0;
        while let Some(slot) = self.links.looks(Look::Time).next(from) {
            from = slot + 1;
            self.expire_link(now, slot);
            let link = self.links.get(slot);
            let due = link.and_then(|link| link.poll_timeout(session, egress));
            self.links.looked_in_time(slot, due);
        }
    }

    fn expire_link(&mut self, now: Instant, slot: usize) {
        let (session, egress) = (self.config.session_timeout, self.config.egress_timeout);
        let looked_at = self.looked_at;
        let Some(link) = self.links.visit(slot) else {
            return;
        };
        if link.note_time(now, looked_at) {
            self.unresolved.insert(slot);
        }
        match &mut link.stage {
            Stage::Open(_) => {
                let overdue = link.overdue(now, session, egress);
                if let (Some(count), Some(live)) = (overdue, link.live_mut())
                    && live.owe_close(CloseReason::Timeout)
                {
                    self.links.touch(slot);
                    self.count(count);
                }
            }
            Stage::Appended { .. } => {}
            _ if now >= link.deadline => self.disconnect(slot),
            _ => {}
        }
    }

    /// When [`Clients::handle_timeout`], [`Clients::poll_transmit`] or [`Clients::poll_resolve`]
    /// may have something to do if nothing arrives, and they had nothing before; never later than
    /// they will. Looks at the streams that have changed.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let (session, egress) = (self.config.session_timeout, self.config.egress_timeout);
        // Before that what has changed is not looked at.
        let soonest = self.looked_at.plus(EVERY);
        let images = self.ingress.earliest(|stream| {
            let at = stream.image.poll_timeout();
            at.map(|at| at.max(soonest))
        });
        let links = self.links.earliest(|link| {
            let at = link.poll_timeout(session, egress);
            at.map(|at| at.max(soonest))
        });
        images.into_iter().chain(links).min()
    }
}

impl Link {
    /// Keeps the stream's own times, and notes when its client last took something.
    ///
    /// Between `looked_at` and the call before it nothing has touched this stream, if it was not
    /// visited then: who had nothing to read at that time had nothing until then.
    ///
    /// True if its address is to be asked for again.
    fn note_time(&mut self, now: Instant, looked_at: Instant) -> bool {
        let mut asks = false;
        let greets = self.live().is_some_and(|live| live.greeting.is_some());
        match &mut self.stream {
            Stream::Unresolved { asked, retry_at } => {
                if now >= *retry_at {
                    *asked = false;
                    asks = true;
                    *retry_at = now.plus(super::resolve::RETRY);
                }
            }
            Stream::Resolved(_) => {}
            Stream::Ready {
                publication,
                progress,
                was_read,
            } => {
                publication.handle_timeout(now);
                if *was_read {
                    progress.1 = progress.1.max(looked_at);
                }
                *was_read = !publication.is_unread() && !greets;
                if publication.acked() > progress.0 || *was_read {
                    *progress = (publication.acked(), now);
                }
                if let Stage::Leaving { lingers } = &mut self.stage
                    && !*lingers
                    && publication.is_drained()
                {
                    *lingers = true;
                    self.deadline = self.deadline.min(now.plus(LINGER));
                }
            }
        }
        asks
    }

    /// Is the client silent, or does it not take its egress? A stream that was never connected
    /// counts as stuck: a new leader's greeting waits for it.
    fn overdue(&self, now: Instant, session: Duration, egress: Duration) -> Option<Count> {
        let live = self.live()?;
        if now >= live.heard_at.plus(session) {
            return Some(Count::SessionTimeout);
        }
        match &self.stream {
            Stream::Ready { progress, .. } if self.is_waiting(live) => {
                (now >= progress.1.plus(egress)).then_some(Count::EgressTimeout)
            }
            _ => None,
        }
    }

    fn is_waiting(&self, live: &Live) -> bool {
        let unread = self.publication().is_some_and(Publication::is_unread);
        unread || live.greeting.is_some()
    }

    fn poll_timeout(&self, session: Duration, egress: Duration) -> Option<Instant> {
        let stream = match &self.stream {
            Stream::Unresolved { retry_at, .. } => Some(*retry_at),
            Stream::Resolved(_) => None,
            Stream::Ready { publication, .. } => publication.poll_timeout(),
        };
        let stage = match (&self.stage, &self.stream) {
            (Stage::Appended { .. }, _) => None,
            (Stage::Open(live), _) if live.close != Close::No => None,
            (Stage::Open(live), Stream::Ready { progress, .. }) if self.is_waiting(live) => {
                Some(live.heard_at.plus(session).min(progress.1.plus(egress)))
            }
            (Stage::Open(live), _) => Some(live.heard_at.plus(session)),
            _ => Some(self.deadline),
        };
        [stream, stage].into_iter().flatten().min()
    }
}
