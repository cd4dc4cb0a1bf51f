//! The multicast group of the log.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};

use super::Settings;
use crate::net::Group;

impl Settings {
    /// The group that a leader sends the log to, if there is one.
    pub fn log_group(&self) -> Option<SocketAddrV4> {
        self.log_multicast.as_ref()?.parse().ok()
    }

    /// The same, and how it is reached by a member whose endpoint has the address `own`.
    pub fn group(&self, own: SocketAddr) -> Option<Group> {
        let interface = match own {
            SocketAddr::V4(own) => *own.ip(),
            SocketAddr::V6(_) => Ipv4Addr::UNSPECIFIED,
        };
        Some(Group {
            address: self.log_group()?,
            interface,
            hops: self.log_multicast_hops,
        })
    }

    pub(super) fn fmt_multicast(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.log_multicast {
            Some(group) => {
                let quoted = toml::Value::String(group.clone());
                writeln!(f, "log_multicast = {quoted}")?;
            }
            None => writeln!(f, "# log_multicast: off; for example \"239.1.1.1:9200\"")?,
        }
        writeln!(f, "log_multicast_hops = {}", self.log_multicast_hops)
    }

    pub(super) fn validate_multicast(&self) -> Result<(), String> {
        let Some(text) = &self.log_multicast else {
            return Ok(());
        };
        let hint = "write the `address:port` of an IPv4 multicast group, the same on every \
                    member, for example \"239.1.1.1:9200\"";
        let Ok(group) = text.parse::<SocketAddrV4>() else {
            return Err(format!("`log_multicast` is `{text}`: {hint}"));
        };
        if !group.ip().is_multicast() {
            return Err(format!(
                "`log_multicast` is `{text}`, which is no multicast address (224.0.0.0 to \
                 239.255.255.255): {hint}"
            ));
        }
        if group.ip().octets()[..3] == [224, 0, 0] {
            return Err(format!(
                "`log_multicast` is `{text}`: groups of 224.0.0.x belong to the network's own \
                 protocols; {hint}"
            ));
        }
        if group.port() == 0 {
            return Err(format!("`log_multicast` has port 0: {hint}"));
        }
        if self.log_multicast_hops == 0 {
            return Err(
                "`log_multicast_hops` is 0, and no datagram would leave this machine: make it 1 \
                 for members on one network"
                    .into(),
            );
        }
        let is_v6 = |endpoint: &str| endpoint.parse::<SocketAddr>().is_ok_and(|a| a.is_ipv6());
        if let Some(member) = self.members.iter().find(|m| is_v6(&m.member)) {
            return Err(format!(
                "`log_multicast` is an IPv4 group, and member {} is at `{}`: give the members \
                 IPv4 endpoints, or leave `log_multicast` out",
                member.id, member.member
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::{MemberSettings, Settings};

    fn two(host: &str) -> Settings {
        let members = (0..2_u8)
            .map(|id| MemberSettings {
                id,
                member: format!("{host}:{}", 9000 + u16::from(id)),
                ingress: format!("{host}:{}", 9100 + u16::from(id)),
            })
            .collect();
        Settings::new(1, members, "data/1")
    }

    #[test]
    fn a_group_is_a_multicast_address_with_a_port_and_says_so_otherwise() {
        let mut settings = two("127.0.0.1");
        settings.log_multicast = Some("239.1.1.1:9200".into());
        settings.log_multicast_hops = 3;
        settings.validate().unwrap();
        let group = settings.group("10.0.0.7:9000".parse().unwrap()).unwrap();
        assert_eq!(group.address, "239.1.1.1:9200".parse().unwrap());
        assert_eq!((group.interface, group.hops), ([10, 0, 0, 7].into(), 3));
        let again: Settings = toml::from_str(&settings.to_string()).unwrap();
        assert_eq!(again, settings);
        for (text, part) in [
            ("239.1.1.1", "address:port"),
            ("[ff05::1]:9200", "IPv4"),
            ("localhost:9200", "address:port"),
            ("10.0.0.1:9200", "no multicast address"),
            ("224.0.0.9:9200", "own protocols"),
            ("239.1.1.1:0", "port 0"),
        ] {
            settings.log_multicast = Some(text.into());
            let refusal = settings.validate().unwrap_err().to_string();
            assert!(refusal.contains(part), "`{refusal}` does not say `{part}`");
        }
        settings.log_multicast = Some("239.1.1.1:9200".into());
        settings.log_multicast_hops = 0;
        let refusal = settings.validate().unwrap_err().to_string();
        assert!(refusal.contains("log_multicast_hops"), "{refusal}");
        let mut settings = two("[::1]");
        settings.validate().unwrap();
        settings.log_multicast = Some("239.1.1.1:9200".into());
        let refusal = settings.validate().unwrap_err().to_string();
        assert!(refusal.contains("IPv4 endpoints"), "{refusal}");
    }
}
