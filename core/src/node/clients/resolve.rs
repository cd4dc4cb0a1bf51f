//! Host names in response channels: a debt to the driver, because the core resolves nothing itself.

use core::net::SocketAddr;
use core::time::Duration;

use crate::limits::ENDPOINT_MAX;
use crate::node::clients::link::{Link, Stage, Stream};
use crate::node::clients::{Clients, Count};
use crate::wire::channel::Channel;
use crate::wire::cluster::CloseReason;

/// The longest host name that is asked for, in bytes.
pub const HOST_MAX: usize = ENDPOINT_MAX;

/// How long the driver has for an answer, before it is asked again.
pub(super) const RETRY: Duration = Duration::from_secs(1);

/// Names one question: an answer to a question that is no longer asked is ignored.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct ResolveId(pub i32);

/// A host name whose address is wanted.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Resolve {
    /// To be given back with the answer.
    pub id: ResolveId,
    /// The name.
    pub host: heapless::String<HOST_MAX>,
    /// The port, to be part of the answer.
    pub port: u16,
}

impl<const N: usize> Clients<N> {
    /// The next host name to look up; each is asked for once a second until it is answered or its
    /// client is given up. Looks at those that wait for it.
    pub fn poll_resolve(&mut self) -> Option<Resolve> {
        while let Some(slot) = self.unresolved.next(0) {
            self.unresolved.remove(slot);
            let (Some(key), Some(link)) = (self.links.key(slot), self.links.visit(slot)) else {
                continue;
            };
            if let Stream::Unresolved { asked, .. } = &mut link.stream
                && !*asked
            {
                *asked = true;
                if let Some(resolve) = question(key, link) {
                    return Some(resolve);
                }
            }
        }
        None
    }

    /// The answer to `poll_resolve`; `None` if the name has no address: the attempt ends, or the
    /// open session is closed. Answers nobody waits for are ignored.
    pub fn handle_resolved(&mut self, id: ResolveId, address: Option<SocketAddr>) {
        let Some(slot) = self.links.find(id.0) else {
            return;
        };
        let Some(link) = self.links.get_mut(slot) else {
            return;
        };
        if !matches!(link.stream, Stream::Unresolved { .. }) {
            return;
        }
        if let Some(address) = address {
            link.stream = Stream::Resolved(address);
            return;
        }
        match &mut link.stage {
            Stage::Open(live) => {
                live.owe_close(CloseReason::Timeout);
            }
            // The open event is in the log: once it is applied, the session timeout takes over.
            Stage::Appended { .. } => {}
            _ => self.disconnect(slot),
        }
        self.count(Count::ResolveFailed);
    }
}

fn question(key: i32, link: &Link) -> Option<Resolve> {
    let channel = Channel::parse(&link.request.response_channel).ok()?;
    let host = channel.endpoint.host;
    Some(Resolve {
        id: ResolveId(key),
        host: heapless::String::try_from(host).ok()?,
        port: channel.endpoint.port,
    })
}
