//! Who a node is, as text in the first sectors of its disk: written once by whoever makes the disk,
//! read at every start.
//!
//! ```text
//! coracle 1
//! cluster 12648478
//! member 0
//! address 10.77.0.10/24
//! gateway 10.77.0.1
//! ports 9000 9100
//! peer 0 10.77.0.10:9000 10.77.0.10:9100
//! peer 1 10.77.0.11:9000 10.77.0.11:9100
//! segment_length 65536
//! log_max 4194304
//! leader_timeout_ms 400
//! admin allow
//! sum 1a2b3c4d
//! ```
//! A peer is a member's number, where it talks to members, and where clients are told to find it.
//! With `admin allow` every session may make the cluster take a snapshot, with `admin deny`, or no
//! such line, none may.
//! All that members must share and is not here is the same by construction, because it is compiled
//! in. The sum is the CRC-32C of all lines before its own; the rest of the block is zeros.

use core::fmt::{self, Write as _};
use core::net::{Ipv4Addr, SocketAddr};
use core::str::{FromStr, SplitAsciiWhitespace};

use coracle_core::castagnoli::crc32c;
use coracle_core::limits::{ENDPOINT_MAX, MEMBERS_MAX, MEMBERS_STORED};
use coracle_core::node::MemberAddress;
use coracle_core::units::{ClusterId, MemberId};

/// The length of the block in bytes: what follows is the node's.
pub const BLOCK: usize = 4096;
/// The first line: a word, and the version of what follows.
const FIRST: &str = "coracle 1";

/// What a disk says.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Identity {
    /// The cluster.
    pub cluster: ClusterId,
    /// Which of its members this is.
    pub member: MemberId,
    /// Its IP address.
    pub address: Ipv4Addr,
    /// How many leading bits all addresses on its segment share.
    pub prefix: u8,
    /// Who passes on what is for elsewhere.
    pub gateway: Option<Ipv4Addr>,
    /// The UDP ports for members and for clients.
    pub ports: (u16, u16),
    /// All members, this one too.
    pub members: [Option<MemberAddress>; MEMBERS_MAX],
    /// The length of a log segment.
    pub segment_length: u32,
    /// The most bytes of log.
    pub log_max: u64,
    /// How long a leader may be silent.
    pub leader_timeout_ms: u32,
    /// Whether every session may make the cluster take a snapshot; else none may.
    pub admin: bool,
}

/// Why a disk does not say who it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum IdentityError {
    /// There is nothing: make a disk with the host's tool.
    Blank,
    /// It does not begin as it should, or is of a newer version.
    Unknown,
    /// The sum is missing or does not hold.
    Sum,
    /// A line of this number, from 1, is none of those above, or says something impossible.
    Line(usize),
    /// A line names this member, and this build has no room for it: see the features `members-5`
    /// and `members-7`.
    NoRoomForMember(usize),
    /// This is nowhere said.
    Missing(&'static str),
}

impl fmt::Display for IdentityError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Blank => f.write_str("the disk is blank: make one with the host's tool"),
            Self::Unknown => f.write_str("the disk's first block is not ours, or newer than this"),
            Self::Sum => f.write_str("the disk's first block is damaged: its sum does not hold"),
            Self::Line(line) => write!(f, "line {line} of the disk's first block makes no sense"),
            Self::NoRoomForMember(member) => write!(
                f,
                "the disk's first block names member {member}, and this build has room for \
                 {MEMBERS_MAX}: build with the feature `members-5` or `members-7`"
            ),
            Self::Missing(what) => write!(f, "the disk's first block does not say its `{what}`"),
        }
    }
}

/// The lines so far.
#[derive(Default)]
struct Draft {
    cluster: Option<ClusterId>,
    member: Option<MemberId>,
    address: Option<(Ipv4Addr, u8)>,
    gateway: Option<Ipv4Addr>,
    ports: Option<(u16, u16)>,
    members: [Option<MemberAddress>; MEMBERS_MAX],
    segment_length: Option<u32>,
    log_max: Option<u64>,
    leader_timeout_ms: Option<u32>,
    admin: bool,
}

fn next<T: FromStr>(words: &mut SplitAsciiWhitespace<'_>) -> Option<T> {
    words.next()?.parse().ok()
}

/// A line that would make sense in a build with room for more members: the one that it names.
fn without_room(line: &str) -> Option<usize> {
    let mut words = line.split_ascii_whitespace();
    matches!(words.next()?, "member" | "peer").then_some(())?;
    let member = next::<usize>(&mut words)?;
    (MEMBERS_MAX..MEMBERS_STORED)
        .contains(&member)
        .then_some(member)
}

impl Draft {
    /// None if the line makes no sense.
    fn add(&mut self, line: &str) -> Option<()> {
        let mut words = line.split_ascii_whitespace();
        let words = &mut words;
        match words.next()? {
            "cluster" => self.cluster = Some(ClusterId(next(words)?)),
            "member" => self.member = Some(MemberId::new(next(words)?)?),
            "address" => {
                let (address, prefix) = words.next()?.split_once('/')?;
                let prefix = prefix.parse().ok().filter(|prefix| *prefix <= 32)?;
                self.address = Some((address.parse().ok()?, prefix));
            }
            "gateway" => self.gateway = Some(next(words)?),
            "ports" => self.ports = Some((next(words)?, next(words)?)),
            "peer" => {
                let slot = self.members.get_mut(next::<usize>(words)?)?;
                let member: SocketAddr = next(words)?;
                let ingress: heapless::String<ENDPOINT_MAX> = next(words)?;
                *slot = Some(MemberAddress { member, ingress });
            }
            "segment_length" => self.segment_length = Some(next(words)?),
            "log_max" => self.log_max = Some(next(words)?),
            "leader_timeout_ms" => self.leader_timeout_ms = Some(next(words)?),
            "admin" => {
                self.admin = match words.next()? {
                    "allow" => true,
                    "deny" => false,
                    _ => return None,
                }
            }
            _ => return None,
        }
        words.next().is_none().then_some(())
    }

    fn finish(self) -> Result<Identity, IdentityError> {
        use IdentityError::Missing;
        let (address, prefix) = self.address.ok_or(Missing("address"))?;
        let member = self.member.ok_or(Missing("member"))?;
        if self.members.get(member.slot()).is_none_or(Option::is_none) {
            return Err(Missing("peer"));
        }
        Ok(Identity {
            cluster: self.cluster.ok_or(Missing("cluster"))?,
            member,
            address,
            prefix,
            gateway: self.gateway,
            ports: self.ports.ok_or(Missing("ports"))?,
            members: self.members,
            segment_length: self.segment_length.ok_or(Missing("segment_length"))?,
            log_max: self.log_max.ok_or(Missing("log_max"))?,
            leader_timeout_ms: self.leader_timeout_ms.ok_or(Missing("leader_timeout_ms"))?,
            admin: self.admin,
        })
    }
}

impl Identity {
    /// Reads a disk's first block. Work: the block twice.
    ///
    /// # Errors
    /// See [`IdentityError`].
    pub fn decode(block: &[u8; BLOCK]) -> Result<Self, IdentityError> {
        let end = block.iter().position(|byte| *byte == 0).unwrap_or(BLOCK);
        let text = block.get(..end).unwrap_or_default();
        let text = core::str::from_utf8(text).map_err(|_| IdentityError::Unknown)?;
        if text.is_empty() {
            return Err(IdentityError::Blank);
        }
        let (first, rest) = text.split_once('\n').ok_or(IdentityError::Unknown)?;
        if first != FIRST {
            return Err(IdentityError::Unknown);
        }
        let last = text.trim_end().rsplit_once('\n');
        let (above, last) = last.ok_or(IdentityError::Sum)?;
        let sum = last.strip_prefix("sum ").ok_or(IdentityError::Sum)?;
        let sum = u32::from_str_radix(sum, 16).map_err(|_| IdentityError::Sum)?;
        let covered = above.len() + 1;
        if crc32c(text.as_bytes().get(..covered).unwrap_or_default()) != sum {
            return Err(IdentityError::Sum);
        }
        let mut draft = Draft::default();
        let lines = rest.lines().zip(2..);
        for (line, number) in lines.filter(|(line, _)| !line.starts_with("sum ")) {
            let wrong = || match without_room(line) {
                Some(member) => IdentityError::NoRoomForMember(member),
                None => IdentityError::Line(number),
            };
            draft.add(line).ok_or_else(wrong)?;
        }
        draft.finish()
    }

    /// Writes it. None if it does not fit, which no identity that was decoded does.
    pub fn encode(&self) -> Option<[u8; BLOCK]> {
        let mut text = heapless::String::<BLOCK>::new();
        self.write(&mut text).ok()?;
        let sum = crc32c(text.as_bytes());
        writeln!(text, "sum {sum:08x}").ok()?;
        let mut block = [0; BLOCK];
        block
            .get_mut(..text.len())?
            .copy_from_slice(text.as_bytes());
        Some(block)
    }

    fn write(&self, out: &mut impl fmt::Write) -> fmt::Result {
        writeln!(out, "{FIRST}")?;
        writeln!(out, "cluster {}", self.cluster.0)?;
        writeln!(out, "member {}", self.member.slot())?;
        writeln!(out, "address {}/{}", self.address, self.prefix)?;
        if let Some(gateway) = self.gateway {
            writeln!(out, "gateway {gateway}")?;
        }
        writeln!(out, "ports {} {}", self.ports.0, self.ports.1)?;
        for (slot, member) in self.members.iter().enumerate() {
            if let Some(MemberAddress { member, ingress }) = member {
                writeln!(out, "peer {slot} {member} {ingress}")?;
            }
        }
        writeln!(out, "segment_length {}", self.segment_length)?;
        writeln!(out, "log_max {}", self.log_max)?;
        writeln!(out, "leader_timeout_ms {}", self.leader_timeout_ms)?;
        match self.admin {
            true => writeln!(out, "admin allow"),
            false => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use coracle_core::prng::Prng;

    use super::*;

    fn identity() -> Identity {
        let listed = |n: usize| MemberAddress {
            member: SocketAddr::from(([10, 77, 0, 10 + n as u8], 9000)),
            ingress: "10.77.0.10:9100".parse().expect("short"),
        };
        Identity {
            cluster: ClusterId(0xc0ac1e),
            member: MemberId::new(2).expect("a member"),
            address: Ipv4Addr::new(10, 77, 0, 12),
            prefix: 24,
            gateway: Some(Ipv4Addr::new(10, 77, 0, 1)),
            ports: (9000, 9100),
            members: core::array::from_fn(|n| (n < 3).then(|| listed(n))),
            segment_length: 65_536,
            log_max: 4 << 20,
            leader_timeout_ms: 400,
            admin: true,
        }
    }

    /// A block of this text, with a sum that holds.
    fn block(text: &str) -> [u8; BLOCK] {
        let text = std::format!("{text}sum {:08x}\n", crc32c(text.as_bytes()));
        let mut block = [0; BLOCK];
        block[..text.len()].copy_from_slice(text.as_bytes());
        block
    }

    #[test]
    fn what_is_written_is_read() {
        let mut identity = identity();
        assert_eq!(
            Identity::decode(&identity.encode().unwrap()),
            Ok(identity.clone())
        );
        (identity.gateway, identity.admin) = (None, false);
        assert_eq!(Identity::decode(&identity.encode().unwrap()), Ok(identity));
    }

    #[test]
    fn a_blank_foreign_or_damaged_disk_says_so() {
        assert_eq!(Identity::decode(&[0; BLOCK]), Err(IdentityError::Blank));
        assert_eq!(
            Identity::decode(&[0xff; BLOCK]),
            Err(IdentityError::Unknown)
        );
        let newer = block("coracle 2\n");
        assert_eq!(Identity::decode(&newer), Err(IdentityError::Unknown));
        let mut damaged = identity().encode().unwrap();
        damaged[30] ^= 1;
        assert_eq!(Identity::decode(&damaged), Err(IdentityError::Sum));
    }

    #[test]
    fn every_line_is_needed_and_understood() {
        let whole = identity().encode().unwrap();
        let end = whole.iter().position(|b| *b == 0).unwrap();
        let text = std::str::from_utf8(&whole[..end]).unwrap();
        let lines: std::vec::Vec<&str> = text.lines().filter(|l| !l.starts_with("sum")).collect();
        for (at, line) in lines.iter().enumerate().skip(1) {
            let without = lines.iter().enumerate().filter(|(n, _)| *n != at);
            let without: std::string::String =
                without.map(|(_, l)| std::format!("{l}\n")).collect();
            let may_lack = ["gateway", "peer", "admin"].map(|word| line.starts_with(word));
            let may_lack = may_lack.contains(&true);
            let decoded = Identity::decode(&block(&without));
            assert!(
                may_lack || matches!(decoded, Err(IdentityError::Missing(_))),
                "{line}"
            );
        }
        for line in [
            "cluster",
            "member 7",
            "member 0 1",
            "address 10.0.0.1/33",
            "ports 1",
            "peer 7 10.0.0.1:1 a:1",
            "colour blue",
            "admin",
            "admin perhaps",
            "admin allow all",
            "",
        ] {
            let text = std::format!("{}\n{line}\n", lines.join("\n"));
            let expected = Err(IdentityError::Line(lines.len() + 1));
            assert_eq!(Identity::decode(&block(&text)), expected, "{line}");
        }
        let text = lines.join("\n").replace("member 2", "member 6") + "\n";
        let unlisted = Identity::decode(&block(&text));
        let expected = match MEMBERS_MAX {
            7 => IdentityError::Missing("peer"),
            _ => IdentityError::NoRoomForMember(6),
        };
        assert_eq!(unlisted, Err(expected));
        let text = std::format!("{}\npeer 3 10.0.0.1:1 a:1\n", lines.join("\n"));
        let fourth = Identity::decode(&block(&text)).map(|found| found.members.get(3).cloned());
        match MEMBERS_MAX {
            3 => assert_eq!(fourth, Err(IdentityError::NoRoomForMember(3))),
            _ => assert!(fourth.is_ok_and(|found| found.flatten().is_some())),
        }
    }

    #[test]
    fn nobody_administers_unless_the_disk_says_so() {
        let text = identity().encode().unwrap();
        let end = text.iter().position(|b| *b == 0).unwrap();
        let text = std::str::from_utf8(&text[..end]).unwrap();
        let (text, _) = text.split_once("sum ").unwrap();
        let says = |line: &str| {
            let text = text.replace("admin allow\n", line);
            Identity::decode(&block(&text)).map(|identity| identity.admin)
        };
        assert_eq!(says("admin allow\n"), Ok(true));
        assert_eq!([says("admin deny\n"), says("")], [Ok(false), Ok(false)]);
    }

    #[test]
    fn no_bytes_make_it_panic() {
        let mut prng = Prng::new(7);
        let good = identity().encode().unwrap();
        for _ in 0..2_000 {
            let mut bytes = good;
            for _ in 0..3 {
                bytes[prng.below(400) as usize] = prng.below(256) as u8;
            }
            let decoded = Identity::decode(&bytes);
            assert!(decoded.is_err() || decoded == Ok(identity()));
        }
    }
}
