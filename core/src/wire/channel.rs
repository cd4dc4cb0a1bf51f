//! Channels and endpoints as text: `aeron:udp?endpoint=host:port|...` and lists of ingress
//! endpoints.
//!
//! The core resolves no names: an [`Endpoint`] that is not a literal address is the driver's to
//! look up. Aeron: `ChannelUri`, `AeronCluster.parseIngressEndpoints`.

use core::fmt::{self, Write};
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::limits::{CHANNEL_MAX, ENDPOINT_MAX, ENDPOINTS_MAX};
use crate::units::{MemberId, MemberSet};
use crate::wire::Reject;

const PREFIX: &str = "aeron:udp?";
const ENDPOINT_KEY: &str = "endpoint";

/// A UDP channel with an endpoint.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Channel<'a> {
    /// Where it leads.
    pub endpoint: Endpoint<'a>,
    params: &'a str,
}

impl<'a> Channel<'a> {
    /// Reads a channel. Of a parameter that stands twice, the last counts, as in Aeron.
    ///
    /// # Errors
    /// [`Reject::Channel`] if it is longer than `CHANNEL_MAX`, not UDP, has an empty key or a key
    /// without a value, or has no endpoint; [`Reject::Endpoint`] if that cannot be read.
    pub fn parse(text: &'a str) -> Result<Self, Reject> {
        if text.len() > CHANNEL_MAX {
            return Err(Reject::Channel);
        }
        let params = text.strip_prefix(PREFIX).ok_or(Reject::Channel)?;
        for param in params.split('|') {
            match param.split_once('=') {
                Some((key, _)) if !key.is_empty() => {}
                _ => return Err(Reject::Channel),
            }
        }
        let endpoint = find(params, ENDPOINT_KEY).ok_or(Reject::Channel)?;
        Ok(Self {
            endpoint: Endpoint::parse(endpoint)?,
            params,
        })
    }

    /// The value of a parameter such as `term-length`.
    pub fn param(&self, key: &str) -> Option<&'a str> {
        find(self.params, key)
    }
}

/// Writes the channel that leads to `address`; `None` if it does not fit `out`.
pub fn format_channel(out: &mut [u8], address: SocketAddr) -> Option<&str> {
    let mut text = Text::new(out);
    write!(text, "{PREFIX}{ENDPOINT_KEY}={address}").ok()?;
    text.finish()
}

fn find<'a>(params: &'a str, key: &str) -> Option<&'a str> {
    let pairs = params.split('|').filter_map(|param| param.split_once('='));
    pairs
        .filter(|(name, _)| *name == key)
        .map(|(_, value)| value)
        .next_back()
}

/// A host and a port.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Endpoint<'a> {
    /// A name, an IPv4 address, or an IPv6 address without its brackets.
    pub host: &'a str,
    /// The port; 0 is "any" where we bind, and nowhere to send to.
    pub port: u16,
}

impl<'a> Endpoint<'a> {
    /// Reads `name:port`, `192.0.2.1:port` or `[2001:db8::1]:port`.
    ///
    /// # Errors
    /// [`Reject::Endpoint`], also if longer than `ENDPOINT_MAX`.
    pub fn parse(text: &'a str) -> Result<Self, Reject> {
        if text.len() > ENDPOINT_MAX {
            return Err(Reject::Endpoint);
        }
        let (host, port) = text.rsplit_once(':').ok_or(Reject::Endpoint)?;
        let host = match host.strip_prefix('[') {
            Some(rest) => {
                let host = rest.strip_suffix(']').ok_or(Reject::Endpoint)?;
                let _: Ipv6Addr = host.parse().map_err(|_| Reject::Endpoint)?;
                host
            }
            None if is_name(host) => host,
            None => return Err(Reject::Endpoint),
        };
        // `u16::from_str` takes a sign, which no endpoint has.
        if !port.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(Reject::Endpoint);
        }
        let port = port.parse().map_err(|_| Reject::Endpoint)?;
        Ok(Self { host, port })
    }

    /// The address, if the host is one and not a name.
    pub fn literal(&self) -> Option<SocketAddr> {
        let ip = match self.host.parse::<Ipv4Addr>() {
            Ok(v4) => IpAddr::V4(v4),
            Err(_) => IpAddr::V6(self.host.parse().ok()?),
        };
        Some(SocketAddr::new(ip, self.port))
    }
}

impl fmt::Display for Endpoint<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// What may stand for a host outside brackets: RFC 1123 names and dotted addresses; `_` because
/// container names have it.
fn is_name(host: &str) -> bool {
    let is_part = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
    !host.is_empty() && host.bytes().all(is_part)
}

/// The ingress endpoints of a cluster: `0=host:port,1=host:port,...`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Endpoints<'a> {
    text: &'a str,
    members: MemberSet,
}

impl<'a> Endpoints<'a> {
    /// Checks a list. Members may stand in any order (Aeron's schema speaks of the leader first).
    ///
    /// # Errors
    /// [`Reject::EndpointList`] if it is empty, longer than `ENDPOINTS_MAX`, or names a member
    /// twice or one that cannot be; [`Reject::Endpoint`].
    pub fn parse(text: &'a str) -> Result<Self, Reject> {
        if text.len() > ENDPOINTS_MAX {
            return Err(Reject::EndpointList);
        }
        let mut members = MemberSet::EMPTY;
        for entry in text.split(',') {
            let (member, _) = parse_entry(entry)?;
            if members.contains(member) {
                return Err(Reject::EndpointList);
            }
            members.insert(member);
        }
        Ok(Self { text, members })
    }

    /// Who is in the list.
    pub fn members(&self) -> MemberSet {
        self.members
    }

    /// The entries, in the order of the list.
    pub fn iter(&self) -> impl Iterator<Item = (MemberId, Endpoint<'a>)> + use<'a> {
        // `parse` has read every entry already, so none is lost here.
        self.text
            .split(',')
            .filter_map(|entry| parse_entry(entry).ok())
    }

    /// The endpoint of a member.
    pub fn get(&self, member: MemberId) -> Option<Endpoint<'a>> {
        self.iter()
            .find(|(id, _)| *id == member)
            .map(|(_, endpoint)| endpoint)
    }
}

fn parse_entry(entry: &str) -> Result<(MemberId, Endpoint<'_>), Reject> {
    let (id, endpoint) = entry.split_once('=').ok_or(Reject::EndpointList)?;
    if id.is_empty() || !id.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(Reject::EndpointList);
    }
    let id = id.parse().map_err(|_| Reject::EndpointList)?;
    let member = MemberId::new(id).ok_or(Reject::EndpointList)?;
    Ok((member, Endpoint::parse(endpoint)?))
}

/// Writes a list of ingress endpoints; `None` if it does not fit `out`.
pub fn format_endpoints<'b, 'e>(
    out: &'b mut [u8],
    endpoints: impl IntoIterator<Item = (MemberId, Endpoint<'e>)>,
) -> Option<&'b str> {
    let mut text = Text::new(out);
    let mut separator = "";
    for (member, endpoint) in endpoints {
        write!(text, "{separator}{member}={endpoint}").ok()?;
        separator = ",";
    }
    text.finish()
}

/// Text written into bytes of ours.
struct Text<'b> {
    out: &'b mut [u8],
    at: usize,
}

impl<'b> Text<'b> {
    fn new(out: &'b mut [u8]) -> Self {
        Self { out, at: 0 }
    }

    fn finish(self) -> Option<&'b str> {
        let Self { out, at } = self;
        core::str::from_utf8(out.get(..at)?).ok()
    }
}

impl Write for Text<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let end = self.at.saturating_add(text.len());
        let slot = self.out.get_mut(self.at..end).ok_or(fmt::Error)?;
        slot.copy_from_slice(text.as_bytes());
        self.at = end;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::MEMBERS_MAX;
    use crate::wire::golden::damage;

    #[test]
    fn a_channel_leads_to_its_endpoint() {
        let text = "aeron:udp?term-length=64k|endpoint=gw-1.example:20110|mtu=1408";
        let channel = Channel::parse(text).expect("good");
        assert_eq!(channel.endpoint.host, "gw-1.example");
        assert_eq!(channel.endpoint.port, 20110);
        assert_eq!(channel.endpoint.literal(), None);
        assert_eq!(channel.param("mtu"), Some("1408"));
        assert_eq!(channel.param("mt"), None);
        let twice = Channel::parse("aeron:udp?endpoint=a:1|endpoint=b:2").expect("good");
        assert_eq!(twice.endpoint.host, "b");
    }

    #[test]
    fn literals_are_addresses() {
        let v4 = Endpoint::parse("192.0.2.7:80").expect("good");
        assert_eq!(v4.literal(), Some("192.0.2.7:80".parse().expect("good")));
        let v6 = Endpoint::parse("[2001:db8::7]:65535").expect("good");
        let address = "[2001:db8::7]:65535".parse().expect("good");
        assert_eq!(v6.literal(), Some(address));
        assert_eq!(v6.host, "2001:db8::7");
        let mut out = [0; CHANNEL_MAX];
        let text = format_channel(&mut out, address).expect("fits");
        assert_eq!(text, "aeron:udp?endpoint=[2001:db8::7]:65535");
        let channel = Channel::parse(text).expect("good");
        assert_eq!(channel.endpoint.literal(), Some(address));
    }

    #[test]
    fn channels_that_lead_nowhere_are_rejects() {
        let long = [b'a'; CHANNEL_MAX + 1];
        let long = core::str::from_utf8(&long).expect("ascii");
        for text in [
            "",
            "aeron:",
            "aeron:ipc",
            "aeron:udp",
            "aeron:udp?",
            "aeron:udp?mtu=1408",
            "aeron:udp?endpoint",
            "aeron:udp?endpoint=a:1|",
            "aeron:udp?endpoint=a:1||mtu=1",
            "aeron:udp?=a:1|endpoint=a:1",
            "aeron-spy:aeron:udp?endpoint=a:1",
            long,
        ] {
            assert_eq!(Channel::parse(text), Err(Reject::Channel), "{text}");
        }
    }

    #[test]
    fn endpoints_that_are_none_are_rejects() {
        let long = [b'a'; ENDPOINT_MAX + 1];
        let long = core::str::from_utf8(&long).expect("ascii");
        for text in [
            "",
            ":1",
            "a",
            "a:",
            "a:b",
            "a:65536",
            "a:+1",
            "a:-1",
            "a:1:2",
            "2001:db8::7:80",
            "[2001:db8::7]",
            "[2001:db8::7:80",
            "[a]:80",
            "[]:80",
            "a b:1",
            "a\u{e9}:1",
            long,
        ] {
            assert_eq!(Endpoint::parse(text), Err(Reject::Endpoint), "{text}");
        }
    }

    #[test]
    fn a_list_is_read_as_it_is_written() {
        let member = |id| MemberId::new(id).expect("in range");
        let text = "2=c.example:7,0=192.0.2.1:5,1=[::1]:6";
        let list = Endpoints::parse(text).expect("good");
        assert_eq!(list.members(), MemberSet::first(3));
        assert_eq!(list.get(member(1)).map(|one| one.port), Some(6));
        assert_eq!(list.get(member(0)).map(|one| one.port), Some(5));
        let list = Endpoints::parse("0=a:1,2=b:2").expect("good");
        assert_eq!(list.get(member(1)), None);
        let list = Endpoints::parse(text).expect("good");
        let mut out = [0; ENDPOINTS_MAX];
        assert_eq!(format_endpoints(&mut out, list.iter()), Some(text));
        assert_eq!(
            format_endpoints(&mut out[..text.len() - 1], list.iter()),
            None
        );
    }

    #[test]
    fn lists_that_name_a_member_wrongly_are_rejects() {
        for text in [
            "",
            ",",
            "0",
            "=a:1",
            "0=a:1,",
            "0=a:1,0=b:2",
            "7=a:1",
            "+1=a:1",
            "-1=a:1",
            "256=a:1",
        ] {
            assert_eq!(Endpoints::parse(text), Err(Reject::EndpointList), "{text}");
        }
        assert_eq!(Endpoints::parse("0=a,1=b:2"), Err(Reject::Endpoint));
    }

    #[test]
    fn the_longest_list_fits_its_bound() {
        let host = [b'h'; ENDPOINT_MAX - 6];
        let host = core::str::from_utf8(&host).expect("ascii");
        let endpoint = Endpoint { host, port: 65535 };
        let members = (0..MEMBERS_MAX as u8).filter_map(MemberId::new);
        let mut out = [0; ENDPOINTS_MAX];
        let text = format_endpoints(&mut out, members.map(|id| (id, endpoint))).expect("fits");
        assert!(Endpoints::parse(text).is_ok());
    }

    #[test]
    fn damaged_text_is_a_reject_or_means_what_it_is_read_as() {
        let text = "0=a.example:20110,1=192.0.2.1:20110,2=[2001:db8::3]:20110";
        damage(text.as_bytes(), |damaged| {
            let Ok(text) = core::str::from_utf8(damaged) else {
                return;
            };
            if let Ok(list) = Endpoints::parse(text) {
                let mut out = [0; ENDPOINTS_MAX];
                let again = format_endpoints(&mut out, list.iter()).expect("fits");
                let again = Endpoints::parse(again).expect("we read what we write");
                assert!(again.iter().eq(list.iter()), "{text}");
            }
        });
        let text = "aeron:udp?endpoint=[2001:db8::3]:20110|term-length=64k";
        damage(text.as_bytes(), |damaged| {
            if let Some(channel) = core::str::from_utf8(damaged)
                .ok()
                .and_then(|text| Channel::parse(text).ok())
            {
                assert!(
                    channel
                        .endpoint
                        .literal()
                        .is_none_or(|a| a.port() == channel.endpoint.port)
                );
            }
        });
    }
}
