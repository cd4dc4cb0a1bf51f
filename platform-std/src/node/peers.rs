//! Where the members are: names to addresses at the start, and again while the node runs.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use coracle_core::limits::MEMBERS_MAX;
use coracle_core::node::MemberAddress;
use coracle_core::node::clients::ResolveId;
use coracle_core::units::MemberId;

use super::{Core, NodeError};
use crate::config::Settings;
use crate::net::{Resolver, resolve};
use crate::waker::Waker;

/// How often names are looked up again: a member may have moved.
const AGAIN: Duration = Duration::from_secs(5);
/// Stands for "not known yet": nothing can be sent there, and nothing comes from there.
const NOWHERE: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);

/// What a name is looked up for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Question {
    Member(MemberId),
    Client(ResolveId),
}

/// Looks names up in the background.
pub struct Peers {
    resolver: Resolver<Question>,
    /// The members that are configured by name, not by address.
    named: Vec<(MemberId, String)>,
    prefer_v6: bool,
    next: Instant,
}

/// The addresses that a node starts with.
pub struct Addresses {
    pub member: SocketAddr,
    pub client: SocketAddr,
    pub table: [Option<MemberAddress>; MEMBERS_MAX],
}

/// Where this member is, and on which hosts the others are, as far as that is known.
pub struct Places {
    pub member: SocketAddr,
    pub client: SocketAddr,
    pub others: Vec<IpAddr>,
}

impl Addresses {
    /// Looks all names up. Its own must have an address; others may get one later.
    pub fn resolve(settings: &Settings) -> Result<Self, NodeError> {
        let own = |endpoint: &str| {
            resolve(endpoint, false).map_err(|error| NodeError::Name {
                endpoint: endpoint.to_owned(),
                error,
            })
        };
        let Some(me) = settings.own() else {
            return Err(NodeError::Core(coracle_core::node::ConfigError::NotAMember));
        };
        let (member, client) = (own(&me.member)?, own(&me.ingress)?);
        let mut table = [const { None }; MEMBERS_MAX];
        for entry in &settings.members {
            let address = match resolve(&entry.member, member.is_ipv6()) {
                Ok(address) => address,
                Err(error) => {
                    tracing::warn!(
                        member = entry.id,
                        endpoint = %entry.member,
                        %error,
                        "the name has no address yet; trying again in the background"
                    );
                    NOWHERE
                }
            };
            let ingress = heapless::String::try_from(entry.ingress.as_str()).unwrap_or_default();
            if let Some(slot) = table.get_mut(usize::from(entry.id)) {
                *slot = Some(MemberAddress {
                    member: address,
                    ingress,
                });
            }
        }
        Ok(Self {
            member,
            client,
            table,
        })
    }
}

impl Addresses {
    /// What the sockets need to know of them.
    pub fn places(&self) -> Places {
        let members = self.table.iter().flatten().map(|entry| entry.member);
        let others = members.filter(|address| *address != self.member);
        Places {
            member: self.member,
            client: self.client,
            others: others.map(|address| address.ip()).collect(),
        }
    }
}

impl Peers {
    pub fn new(settings: &Settings, own: SocketAddr, waker: &Waker) -> Result<Self, NodeError> {
        let is_name = |endpoint: &str| endpoint.parse::<SocketAddr>().is_err();
        let named = settings
            .members
            .iter()
            .filter(|m| m.id != settings.member && is_name(&m.member))
            .filter_map(|m| Some((MemberId::new(m.id)?, m.member.clone())))
            .collect();
        Ok(Self {
            resolver: Resolver::new(Some(waker.clone())),
            named,
            prefer_v6: own.is_ipv6(),
            next: Instant::now() + AGAIN,
        })
    }

    /// One turn: asks what is due, hands over what is answered.
    pub fn poll(&mut self, node: &mut Core) {
        while let Some(resolve) = node.poll_resolve() {
            let endpoint = format!("{}:{}", resolve.host, resolve.port);
            let question = Question::Client(resolve.id);
            self.resolver.ask(question, &endpoint, self.prefer_v6);
        }
        if !self.named.is_empty() && Instant::now() >= self.next {
            self.next = Instant::now() + AGAIN;
            for (member, endpoint) in &self.named {
                let question = Question::Member(*member);
                self.resolver.ask(question, endpoint, self.prefer_v6);
            }
        }
        while let Some((question, address)) = self.resolver.poll() {
            match (question, address) {
                (Question::Client(id), address) => node.handle_resolved(id, address),
                (Question::Member(member), Some(address)) => {
                    node.set_member_address(member, address);
                }
                (Question::Member(_), None) => {}
            }
        }
    }
}
