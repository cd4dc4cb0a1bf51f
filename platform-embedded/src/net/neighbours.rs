//! Whose Ethernet address is whose.
//!
//! A stack that asks for an address before it sends can be starved: smoltcp lets a datagram for a
//! neighbour that does not answer wait in front of all others of its socket, and asks for one
//! neighbour a second, the same absent one each time. So nothing waits here: what is sent to a
//! neighbour that was not heard yet goes to everybody on the segment, and every frame that arrives
//! says where its sender is. A member that is away costs some broadcasts and nothing else.
//!
//! Who can send frames on the segment can so make a neighbour unreachable, as with ARP itself: the
//! segment is trusted.

use core::net::Ipv4Addr;

/// An Ethernet address.
pub type Mac = [u8; 6];

/// Everybody's.
pub const BROADCAST: Mac = [0xff; 6];
/// The length of an Ethernet header in bytes.
pub const HEADER: usize = 14;
/// The longest IP packet in bytes.
pub const MTU: usize = 1500;
/// The longest frame in bytes.
pub const FRAME_MAX: usize = HEADER + MTU;
/// The length in bytes of a frame that asks for an address, or answers.
pub const ARP_FRAME: usize = 42;

/// Members, clients and a gateway: more than that are served all the same, by broadcast.
const NEIGHBOURS_MAX: usize = 32;

const TYPE_IPV4: [u8; 2] = [0x08, 0x00];
const TYPE_ARP: [u8; 2] = [0x08, 0x06];
/// Ethernet, IPv4, and the lengths of their addresses.
const ARP_START: [u8; 6] = [0, 1, 0x08, 0x00, 6, 4];
const ARP_REQUEST: u8 = 1;
const ARP_REPLY: u8 = 2;

/// What a board is called on its segment.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Link {
    /// Its Ethernet address.
    pub mac: Mac,
    /// Its IP address.
    pub address: Ipv4Addr,
    /// How many leading bits all addresses on the segment share.
    pub prefix: u8,
    /// Who passes on what is for elsewhere; without one that is not sent.
    pub gateway: Option<Ipv4Addr>,
}

impl Link {
    /// Whether an address is on the segment.
    pub fn is_local(&self, address: Ipv4Addr) -> bool {
        let shift = 32 - u32::from(self.prefix.min(32));
        let differing = u32::from(address) ^ u32::from(self.address);
        differing.checked_shr(shift).unwrap_or(0) == 0
    }

    /// Whose Ethernet address a packet to `to` is sent to. None: it cannot be sent.
    pub fn next_hop(&self, to: Ipv4Addr) -> Option<Ipv4Addr> {
        let is_one = !(to.is_broadcast() || to.is_multicast() || to.is_unspecified());
        match self.is_local(to) {
            true => Some(to),
            false => self.gateway,
        }
        .filter(|_| is_one)
    }
}

/// What is in a frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Inbound<'a> {
    /// An IPv4 packet, for this board or for everybody.
    Packet(&'a [u8]),
    /// Somebody asks for this board's address: the frame to answer with.
    Answer([u8; ARP_FRAME]),
    /// Nothing more for this board.
    Nothing,
}

/// What was learnt of the others on the segment.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Neighbours {
    link: Link,
    known: [Option<(Ipv4Addr, Mac)>; NEIGHBOURS_MAX],
    /// Where the next new one goes, if there is no room for it.
    next: usize,
}

impl Neighbours {
    /// Nobody is known.
    pub fn new(link: Link) -> Self {
        Self {
            link,
            known: [None; NEIGHBOURS_MAX],
            next: 0,
        }
    }

    /// This board.
    pub fn link(&self) -> &Link {
        &self.link
    }

    /// Where to send a packet to. Work: one look at each entry.
    pub fn mac_of(&self, to: Ipv4Addr) -> Mac {
        let hop = self.link.next_hop(to).unwrap_or(to);
        let found = self.known.iter().flatten().find(|(ip, _)| *ip == hop);
        found.map_or(BROADCAST, |(_, mac)| *mac)
    }

    /// The frame that tells everybody this board's address, for the start: who knew another one
    /// forgets it.
    pub fn announcement(&self) -> [u8; ARP_FRAME] {
        let Link { address, .. } = self.link;
        self.arp(ARP_REQUEST, BROADCAST, [0; 6], address)
    }

    /// Takes a frame apart, and learns where its sender is. Work: one look at each entry.
    pub fn handle<'a>(&mut self, frame: &'a [u8]) -> Inbound<'a> {
        let Some((header, body)) = frame.split_first_chunk::<HEADER>() else {
            return Inbound::Nothing;
        };
        let [d0, d1, d2, d3, d4, d5, s0, s1, s2, s3, s4, s5, t0, t1] = *header;
        let to = [d0, d1, d2, d3, d4, d5];
        let from = [s0, s1, s2, s3, s4, s5];
        if to != self.link.mac && to != BROADCAST {
            return Inbound::Nothing;
        }
        match [t0, t1] {
            TYPE_IPV4 => {
                if let Some([a, b, c, d]) = body.get(12..16).and_then(|s| s.first_chunk().copied())
                {
                    self.learn(Ipv4Addr::new(a, b, c, d), from);
                }
                Inbound::Packet(body)
            }
            TYPE_ARP => self.handle_arp(body),
            _ => Inbound::Nothing,
        }
    }

    fn handle_arp(&mut self, body: &[u8]) -> Inbound<'static> {
        let Some(arp) = body.first_chunk::<28>() else {
            return Inbound::Nothing;
        };
        let (start, arp) = arp.split_at(8);
        if start.first_chunk() != Some(&ARP_START) {
            return Inbound::Nothing;
        }
        let &[m0, m1, m2, m3, m4, m5, i0, i1, i2, i3, .., w0, w1, w2, w3] = arp else {
            return Inbound::Nothing;
        };
        let (mac, ip) = ([m0, m1, m2, m3, m4, m5], Ipv4Addr::new(i0, i1, i2, i3));
        self.learn(ip, mac);
        let is_asked = start.last() == Some(&ARP_REQUEST);
        if !is_asked
            || Ipv4Addr::new(w0, w1, w2, w3) != self.link.address
            || ip == self.link.address
        {
            return Inbound::Nothing;
        }
        Inbound::Answer(self.arp(ARP_REPLY, mac, mac, ip))
    }

    /// Only those on the segment, so that all the gateway passes on does not push them out.
    fn learn(&mut self, ip: Ipv4Addr, mac: Mac) {
        let is_group = mac[0] & 1 != 0;
        if is_group || !self.link.is_local(ip) || ip == self.link.address {
            return;
        }
        let is_its =
            |slot: &&mut Option<(Ipv4Addr, Mac)>| slot.is_some_and(|(known, _)| known == ip);
        let known = &mut self.known;
        if let Some(slot) = known.iter_mut().find(is_its) {
            *slot = Some((ip, mac));
        } else if let Some(free) = known.iter_mut().find(|slot| slot.is_none()) {
            *free = Some((ip, mac));
        } else if let Some(slot) = known.get_mut(self.next) {
            *slot = Some((ip, mac));
            self.next = (self.next + 1) % NEIGHBOURS_MAX;
        }
    }

    fn arp(&self, what: u8, to: Mac, mac: Mac, ip: Ipv4Addr) -> [u8; ARP_FRAME] {
        let mut frame = [0; ARP_FRAME];
        let parts: [&[u8]; 9] = [
            &to,
            &self.link.mac,
            &TYPE_ARP,
            &ARP_START,
            &[0, what],
            &self.link.mac,
            &self.link.address.octets(),
            &mac,
            &ip.octets(),
        ];
        let bytes = parts.iter().flat_map(|part| part.iter());
        frame
            .iter_mut()
            .zip(bytes)
            .for_each(|(to, from)| *to = *from);
        frame
    }
}

/// Writes the header of a frame that carries an IPv4 packet.
pub fn write_header(frame: &mut [u8; HEADER], to: Mac, from: Mac) {
    let bytes = to.iter().chain(&from).chain(&TYPE_IPV4);
    frame
        .iter_mut()
        .zip(bytes)
        .for_each(|(to, from)| *to = *from);
}
