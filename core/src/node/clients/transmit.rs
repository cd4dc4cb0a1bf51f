//! What is owed to clients, as datagrams.

use core::net::SocketAddr;

use crate::node::clients::Clients;
use crate::node::clients::link::Link;
use crate::node::clients::slots::share;
use crate::stream::{Control, Output, Publication};
use crate::time::Instant;

/// How many datagrams one stream may send before the next has its turn.
const BURST_MAX: u8 = 16;

/// One datagram to a client, from the client door.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct ClientTransmit<'l> {
    /// Where it goes.
    pub to: SocketAddr,
    /// What it holds: frames in the egress memory, or a small frame.
    pub payload: Output<'l>,
}

/// Whose turn it is: ingress streams first, then egress streams, round and round.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub(super) struct Round {
    next: usize,
    sent: u8,
}

impl Round {
    /// To the next of `count` streams.
    fn advance(&mut self, count: usize) {
        let next = self.next + 1;
        self.next = if next < count { next } else { 0 };
        self.sent = 0;
    }
}

impl<const N: usize> Clients<N> {
    /// The next datagram that is due. Ask until `None`. Looks at every stream at most once; a
    /// stream sends at most 16 datagrams before the others have had their turn.
    pub fn poll_transmit<'l>(
        &mut self,
        now: Instant,
        egress: &'l [u8],
    ) -> Option<ClientTransmit<'l>> {
        if let Some(stranger) = self.strangers.pop() {
            return Some(ClientTransmit {
                to: stranger.from,
                payload: Output::Control(Control::StatusMessage(stranger.owed)),
            });
        }
        if self.is_quiet_to_transmit(now) {
            return None;
        }
        self.poll_streams(now, egress)
    }

    #[inline(never)]
    fn poll_streams<'l>(&mut self, now: Instant, egress: &'l [u8]) -> Option<ClientTransmit<'l>> {
        // One more than there are streams: the first may have been in the middle of its turn.
        let (images, links) = (self.ingress.high(), self.links.high());
        for _ in 0..=images + links {
            let next = self.round.next;
            let due = match next.checked_sub(images) {
                _ if self.round.sent >= BURST_MAX => None,
                None => self.poll_ingress_control(now, next),
                Some(slot) => self.poll_egress(now, slot, egress),
            };
            if due.is_some() {
                self.round.sent += 1;
                return due;
            }
            self.round.advance(images + links);
        }
        self.note_nothing_to_transmit();
        None
    }

    fn poll_ingress_control<'l>(
        &mut self,
        now: Instant,
        slot: usize,
    ) -> Option<ClientTransmit<'l>> {
        let image = &mut self.ingress.visit(slot)?.image;
        let control = image.poll_control(now)?;
        Some(ClientTransmit {
            to: image.source(),
            payload: Output::Control(control),
        })
    }

    fn poll_egress<'l>(
        &mut self,
        now: Instant,
        slot: usize,
        egress: &'l [u8],
    ) -> Option<ClientTransmit<'l>> {
        let link = self.links.visit(slot)?;
        let publication: &mut Publication = Link::publication_mut(link)?;
        let to = publication.target();
        let payload = publication.poll_transmit(now, share(egress, slot, N))?;
        Some(ClientTransmit { to, payload })
    }
}
