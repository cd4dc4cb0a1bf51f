//! The network: links that lose, duplicate, delay, reorder and cut, and that replay old datagrams.

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::rc::Rc;

use super::clock::{MILLI, Nanos};
use super::rng::Rng;
use super::stats::{Fault, Stats};

/// Whoever has an address: members are 0 to 6, clients 7 and up.
pub type Peer = u8;
/// The number of the first client.
pub const FIRST_CLIENT: Peer = 7;
const PEERS: usize = 32;
const ARCHIVE: usize = 256;

/// A member's two sockets.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Door {
    /// Member traffic.
    Member,
    /// Client traffic.
    Client,
}

/// The address of a member's door.
pub fn member_address(member: u8, door: Door) -> SocketAddr {
    let port = match door {
        Door::Member => 9000,
        Door::Client => 9001,
    };
    SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 0, 0, member + 1)), port)
}

/// The address of a client's `life`-th socket.
pub fn client_address(client: u8, life: u16) -> SocketAddr {
    let port = 20_000 + (life % 20_000);
    SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 0, 1, client + 1)), port)
}

/// The group that a leader may send the log to, at every member's member door.
pub const GROUP: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(239, 1, 1, 1)), 9002);

/// Who is at `address`, and at which of a member's doors.
pub fn peer_at(address: SocketAddr) -> Option<(Peer, Door)> {
    let IpAddr::V4(ip) = address.ip() else {
        return None;
    };
    match (ip.octets(), address.port()) {
        ([10, 0, 0, n @ 1..=7], 9000) => Some((n - 1, Door::Member)),
        ([10, 0, 0, n @ 1..=7], 9001) => Some((n - 1, Door::Client)),
        ([10, 0, 1, n @ 1..=24], _) => Some((FIRST_CLIENT + n - 1, Door::Client)),
        _ => None,
    }
}

/// One datagram on its way.
#[derive(Clone, Debug)]
pub struct Datagram {
    /// The source address.
    pub from: SocketAddr,
    /// The destination address.
    pub to: SocketAddr,
    /// The bytes.
    pub bytes: Rc<[u8]>,
}

/// How bad the links are. Probabilities are millionths.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkPlan {
    /// A datagram is lost.
    pub loss: u64,
    /// A datagram arrives twice.
    pub duplicate: u64,
    /// A datagram takes up to `late` instead.
    pub delay: u64,
    /// The least delay of a good link.
    pub least: Nanos,
    /// Its greatest: links reorder within this range.
    pub most: Nanos,
    /// The greatest delay of a late datagram.
    pub late: Nanos,
    /// An old datagram of the archive arrives with this one.
    pub replay: u64,
    /// A NAK between members asks for a place further on or back.
    pub damage_naks: u64,
}

impl LinkPlan {
    /// Links without faults.
    pub const fn calm() -> Self {
        Self {
            loss: 0,
            duplicate: 0,
            delay: 0,
            least: MILLI / 10,
            most: MILLI / 2,
            late: 0,
            replay: 0,
            damage_naks: 0,
        }
    }
}

/// The network between all peers.
#[derive(Clone, Debug)]
pub struct Net {
    plan: LinkPlan,
    rng: Rng,
    /// Bit `to` of `blocked[from]`: nothing gets through that way.
    blocked: [u32; PEERS],
    archive: VecDeque<Datagram>,
    /// How many datagrams from one to all do not reach another next, for a scenario.
    losing: Vec<(Peer, Peer, usize)>,
    /// Bytes of log that were sent to each member alone and, last, to all, for a scenario.
    log_sent: [usize; 8],
}

impl Net {
    /// A network with no cuts.
    pub fn new(plan: LinkPlan, rng: Rng) -> Self {
        Self {
            plan,
            rng,
            blocked: [0; PEERS],
            archive: VecDeque::new(),
            losing: Vec::new(),
            log_sent: [0; 8],
        }
    }

    /// From now on the links are like this.
    pub fn set_plan(&mut self, plan: LinkPlan) {
        self.plan = plan;
    }

    /// Nothing gets from `from` to `to`.
    pub fn cut(&mut self, from: Peer, to: Peer) {
        self.blocked[usize::from(from)] |= 1 << to;
    }

    /// Everything gets from `from` to `to` again.
    pub fn mend(&mut self, from: Peer, to: Peer) {
        self.blocked[usize::from(from)] &= !(1 << to);
    }

    /// No link is cut any more.
    pub fn heal(&mut self) {
        self.blocked = [0; PEERS];
    }

    /// Is the link cut in this direction?
    pub fn is_cut(&self, from: Peer, to: Peer) -> bool {
        self.blocked[usize::from(from)] & (1 << to) != 0
    }

    /// No old datagram comes back from here on.
    pub fn forget_archive(&mut self) {
        self.archive.clear();
    }

    /// The next `count` datagrams that `from` sends to all do not reach `to`.
    pub fn lose(&mut self, from: Peer, to: Peer, count: usize) {
        self.losing.push((from, to, count));
    }

    /// Whether a datagram that `from` sends to all is one that `to` does not hear.
    pub fn loses(&mut self, from: SocketAddr, to: Peer) -> bool {
        let from = peer_at(from).map_or(Peer::MAX, |(from, _)| from);
        let is_left = |l: &&mut (Peer, Peer, usize)| (l.0, l.1) == (from, to) && l.2 > 0;
        match self.losing.iter_mut().find(is_left) {
            Some(losing) => {
                losing.2 -= 1;
                true
            }
            None => false,
        }
    }

    /// A member sends a datagram of log.
    pub fn note_log(&mut self, to: SocketAddr, len: usize, stats: &mut Stats) {
        let to_one = peer_at(to).map(|(peer, _)| usize::from(peer));
        self.log_sent[to_one.unwrap_or(7)] += len;
        match to_one {
            Some(_) => stats.log_to_one += len as u64,
            None => stats.log_to_all += len as u64,
        }
    }

    /// Bytes of log sent since this was last asked: to each member alone and, last, to all.
    pub fn take_log_sent(&mut self) -> [usize; 8] {
        std::mem::take(&mut self.log_sent)
    }

    /// Takes one datagram and says when it, or what becomes of it, arrives.
    pub fn send(
        &mut self,
        now: Nanos,
        datagram: Datagram,
        stats: &mut Stats,
        mut arrive: impl FnMut(Nanos, Datagram),
    ) {
        let (Some((from, _)), Some((to, door))) = (peer_at(datagram.from), peer_at(datagram.to))
        else {
            return;
        };
        if self.is_cut(from, to) {
            return;
        }
        if self.plan.replay > 0 {
            self.replay(now, &datagram, stats, &mut arrive);
        }
        if self.rng.chance(self.plan.loss) {
            stats.count(Fault::Loss);
            return;
        }
        let datagram = if door == Door::Member && self.rng.chance(self.plan.damage_naks) {
            damage_nak(&mut self.rng, datagram, stats)
        } else {
            datagram
        };
        if self.rng.chance(self.plan.duplicate) {
            stats.count(Fault::Duplicate);
            let at = now + self.delay(stats);
            arrive(at, datagram.clone());
        }
        let at = now + self.delay(stats);
        arrive(at, datagram);
    }

    fn delay(&mut self, stats: &mut Stats) -> Nanos {
        if self.rng.chance(self.plan.delay) {
            stats.count(Fault::Delay);
            return self.rng.range(self.plan.most, self.plan.late);
        }
        self.rng.range(self.plan.least, self.plan.most)
    }

    fn replay(
        &mut self,
        now: Nanos,
        datagram: &Datagram,
        stats: &mut Stats,
        arrive: &mut impl FnMut(Nanos, Datagram),
    ) {
        if self.rng.chance(self.plan.replay) && !self.archive.is_empty() {
            let at = self.rng.below(self.archive.len() as u64) as usize;
            stats.count(Fault::Replay);
            arrive(now + self.plan.least, self.archive[at].clone());
        }
        if self.rng.chance(100_000) {
            if self.archive.len() == ARCHIVE {
                // A random one goes, so that some stay for the whole run.
                let at = self.rng.below(ARCHIVE as u64) as usize;
                self.archive.swap_remove_back(at);
            }
            self.archive.push_back(datagram.clone());
        }
    }
}

/// A NAK of Aeron's has its term offset at byte 20 and its type, 2, at byte 6. A peer whose log
/// differs asks for places that are no frame boundaries here; this makes that common.
fn damage_nak(rng: &mut Rng, datagram: Datagram, stats: &mut Stats) -> Datagram {
    if datagram.bytes.len() != 28 || datagram.bytes.get(6..8) != Some(&[2, 0]) {
        return datagram;
    }
    stats.count(Fault::DamagedNak);
    let mut bytes = datagram.bytes.to_vec();
    let offset = i32::from_le_bytes([bytes[20], bytes[21], bytes[22], bytes[23]]);
    let by = 32 * rng.range(1, 40) as i32;
    let offset = if rng.chance(500_000) {
        (offset - by).max(0)
    } else {
        offset + by
    };
    bytes[20..24].copy_from_slice(&offset.to_le_bytes());
    Datagram {
        bytes: bytes.into(),
        ..datagram
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn datagram() -> Datagram {
        Datagram {
            from: member_address(0, Door::Member),
            to: member_address(1, Door::Member),
            bytes: Rc::from([1u8; 32]),
        }
    }

    fn arrivals(net: &mut Net, count: usize) -> usize {
        let mut stats = Stats::default();
        let mut arrived = 0;
        for _ in 0..count {
            net.send(0, datagram(), &mut stats, |_, _| arrived += 1);
        }
        arrived
    }

    #[test]
    fn a_link_cut_one_way_lets_nothing_through_that_way_only() {
        let mut net = Net::new(LinkPlan::calm(), Rng::new(1));
        net.cut(1, 0);
        assert_eq!(arrivals(&mut net, 10), 10);
        net.cut(0, 1);
        assert_eq!(arrivals(&mut net, 10), 0);
        net.heal();
        assert_eq!(arrivals(&mut net, 10), 10);
    }

    #[test]
    fn loss_and_duplication_come_as_often_as_planned() {
        let lossy = LinkPlan {
            loss: 300_000,
            ..LinkPlan::calm()
        };
        let arrived = arrivals(&mut Net::new(lossy, Rng::new(1)), 10_000);
        assert!((6_700..7_300).contains(&arrived), "{arrived}");
        let doubling = LinkPlan {
            duplicate: 300_000,
            ..LinkPlan::calm()
        };
        let arrived = arrivals(&mut Net::new(doubling, Rng::new(1)), 10_000);
        assert!((12_700..13_300).contains(&arrived), "{arrived}");
    }

    #[test]
    fn an_address_says_who_is_there() {
        assert_eq!(
            peer_at(member_address(3, Door::Client)),
            Some((3, Door::Client))
        );
        assert_eq!(
            peer_at(client_address(2, 5)),
            Some((FIRST_CLIENT + 2, Door::Client))
        );
    }
}
