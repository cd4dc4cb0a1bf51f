//! What is owed to clients, as datagrams.

use core::net::SocketAddr;

use crate::node::clients::Clients;
use crate::node::clients::link::Link;
use crate::node::clients::slots::{Look, share};
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

/// Whose turn it is: ingress streams first, numbered from 0, then egress streams, numbered from
/// `N`, round and round.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) struct Round {
    next: usize,
    sent: u8,
}

impl Round {
    /// The first is next.
    pub(super) const FIRST: Self = Self { next: 0, sent: 0 };
}

impl<const N: usize> Clients<N> {
    /// The next datagram that is due. Ask until `None`. Looks at the streams that have changed, or
    /// whose time has come, since they had nothing to send; a stream sends at most 16 datagrams
    /// before the others have had their turn.
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
        self.ingress.pass(now);
        self.links.pass(now);
        while let Some(next) = self.next_to_send() {
            if next != self.round.next {
                self.round = Round { next, sent: 0 };
            }
            if self.round.sent < BURST_MAX {
                let due = match next.checked_sub(N) {
                    None => self.poll_ingress_control(now, next),
                    Some(slot) => self.poll_egress(now, slot, egress),
                };
                if due.is_some() {
                    self.round.sent += 1;
                    self.note_sent(now, next);
                    return due;
                }
                self.note_silent(next);
            }
            self.round = Round {
                next: next + 1,
                sent: 0,
            };
        }
        None
    }

    /// Whether [`Clients::poll_transmit`] would find nothing to send, whatever the time is.
    #[inline]
    pub fn is_quiet_to_send(&self) -> bool {
        let is_quiet = self.ingress.looks(Look::Send).is_empty();
        is_quiet && self.links.looks(Look::Send).is_empty() && self.strangers.is_empty()
    }

    /// The first stream that may have something to send, from the one on whose turn it is.
    fn next_to_send(&self) -> Option<usize> {
        let images = self.ingress.looks(Look::Send);
        let links = self.links.looks(Look::Send);
        let from = self.round.next;
        let link = |from| links.next(from).map(|slot| slot + N);
        match from.checked_sub(N) {
            None => images
                .next(from)
                .or_else(|| link(0))
                .or_else(|| images.next(0)),
            Some(from) => link(from).or_else(|| images.next(0)).or_else(|| link(0)),
        }
    }

    /// Who has sent may have more to send, and has another time to do so by itself.
    fn note_sent(&mut self, now: Instant, stream: usize) {
        let Some(slot) = stream.checked_sub(N) else {
            return self.ingress.set_look(Look::Time, stream, true);
        };
        self.links.set_look(Look::Time, slot, true);
        let publication = self.links.get(slot).and_then(Link::publication);
        if publication.is_some_and(|publication| publication.is_quiet(now)) {
            self.note_silent(stream);
        }
    }

    /// It has nothing to send.
    fn note_silent(&mut self, stream: usize) {
        match stream.checked_sub(N) {
            None => self.ingress.set_look(Look::Send, stream, false),
            Some(slot) => self.links.set_look(Look::Send, slot, false),
        }
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
        let payload = publication.poll_transmit(now, share(egress, slot, self.places))?;
        Some(ClientTransmit { to, payload })
    }
}
