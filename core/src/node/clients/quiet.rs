//! What need not be looked at, because nothing has changed since it was looked at last.
//!
//! A driver that does not sleep asks again and again, and with many clients nearly every stream has
//! nothing to say. Whoever has looked at all of them notes how often they had been touched, and
//! when one will have something to do by itself; until either changes, the answer is the same.

use crate::node::clients::Clients;
use crate::node::clients::link::{Close, Link, Stage, Stream};
use crate::time::Instant;

/// How often ingress streams and egress connections have been touched.
type Touches = (u32, u32);

/// When all was looked at: how often things had been touched, and the time before which there is
/// nothing to do. That costs a look at all of them too, and is only asked for when nothing was
/// touched between two looks.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
struct Look {
    touches: Touches,
    until: Option<Instant>,
}

/// See the module.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub(super) struct Quiet {
    /// Nothing was to be sent then, and nothing will be before that time.
    transmit: Look,
    /// As much for what happens because nothing happens.
    timeout: Look,
    /// Nobody had anything for the log, and no connection was owed anything.
    admit: Option<Touches>,
    /// When time was last said to have passed.
    pub looked_at: Instant,
}

impl<const N: usize> Clients<N> {
    fn touches(&self) -> Touches {
        (self.ingress.touches(), self.links.touches())
    }

    fn is_quiet(&self, look: Look, now: Instant) -> bool {
        look.until.is_some_and(|until| now < until) && look.touches == self.touches()
    }

    fn look_after(&self, before: Look) -> Look {
        let touches = self.touches();
        let never = Instant::from_nanos(u64::MAX);
        let is_again = touches == before.touches;
        let until = is_again.then(|| self.poll_timeout().unwrap_or(never));
        Look { touches, until }
    }

    pub(super) fn is_quiet_to_transmit(&self, now: Instant) -> bool {
        self.is_quiet(self.quiet.transmit, now)
    }

    /// No stream has anything to send.
    pub(super) fn note_nothing_to_transmit(&mut self) {
        self.quiet.transmit = self.look_after(self.quiet.transmit);
    }

    pub(super) fn is_quiet_in_time(&self, now: Instant) -> bool {
        self.is_quiet(self.quiet.timeout, now)
    }

    /// All was looked at. What is being put together for nobody has a time of its own.
    pub(super) fn note_all_in_time(&mut self) {
        self.quiet.timeout = self.look_after(self.quiet.timeout);
        if self.quiet.timeout.until.is_some() && self.pool.taken() > 0 {
            self.quiet.timeout.until = None;
        }
    }

    /// Has nobody anything for the log, and is nobody owed anything, as it was when last looked at?
    pub fn is_quiet_to_admit(&self) -> bool {
        self.quiet.admit == Some(self.touches())
    }

    /// No stream has had anything, or all that it had was taken (`is_empty`).
    pub(super) fn note_admitted(&mut self, is_empty: bool) {
        let is_settled = |link: &Link| match &link.stage {
            Stage::Open(live) => live.greeting.is_none() && !matches!(live.close, Close::Owed(_)),
            Stage::Leaving { .. } => true,
            _ => false,
        };
        let is_quiet = is_empty
            && self
                .links
                .iter()
                .all(|(_, link)| is_settled(link) && matches!(link.stream, Stream::Ready { .. }));
        self.quiet.admit = is_quiet.then(|| self.touches());
    }
}
