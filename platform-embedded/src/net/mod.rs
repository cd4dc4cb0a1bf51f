//! Both UDP sockets of a node over smoltcp and an Ethernet port.
//!
//! smoltcp has IP and UDP; Ethernet and who is where on the segment are our own business, see
//! `neighbours`. One packet at a time goes through its queues, so they need room for no more.

mod neighbours;
#[cfg(test)]
mod tests;

use core::net::{Ipv4Addr, SocketAddr, SocketAddrV4};

use coracle_core::node::Door;
use coracle_core::time::Now;
use smoltcp::iface::{
    Config, Interface, PollIngressSingleResult, SocketHandle, SocketSet, SocketStorage,
};
use smoltcp::phy::{Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::socket::udp::{PacketBuffer, PacketMetadata, Socket};
use smoltcp::time::Instant;
use smoltcp::wire::{HardwareAddress, IpAddress, IpCidr, IpEndpoint};

use crate::device::{Clock, Network};
pub use neighbours::{FRAME_MAX, Link, Mac};
use neighbours::{HEADER, Inbound, MTU, Neighbours, write_header};

/// The longest UDP payload that a frame carries.
pub const DATAGRAM_MAX: usize = MTU - 28;
/// How many frames one call looks at, at most, for one that carries a datagram.
const FRAMES_PER_CALL: usize = 64;
/// One way of one door.
const QUEUES: usize = 4;

/// An Ethernet port. Neither call blocks.
pub trait Port {
    /// Copies the next frame, without its check sequence, to the start of `into`: its length.
    /// None if none has arrived. A frame that does not fit is dropped.
    fn receive(&mut self, into: &mut [u8]) -> Option<usize>;

    /// Sends a frame. False if there is no room for it now.
    fn send(&mut self, frame: &[u8]) -> bool;
}

/// What was not sent, or was nothing for this board.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct WireCounters {
    /// Frames that carry no packet for this board.
    pub foreign: u64,
    /// Datagrams that were lost because the port had no room.
    pub lost: u64,
    /// Datagrams to where none can be sent: too long, not IPv4, or elsewhere with no gateway.
    pub unroutable: u64,
}

/// The memory of smoltcp's queues.
#[derive(Debug)]
pub struct WireMemory<'a> {
    sockets: [SocketStorage<'a>; 2],
    marks: [[PacketMetadata; 1]; QUEUES],
    bytes: [[u8; DATAGRAM_MAX]; QUEUES],
}

impl WireMemory<'_> {
    /// For a `static`.
    pub const fn new() -> Self {
        Self {
            sockets: [SocketStorage::EMPTY; 2],
            marks: [[PacketMetadata::EMPTY; 1]; QUEUES],
            bytes: [[0; DATAGRAM_MAX]; QUEUES],
        }
    }
}

impl Default for WireMemory<'_> {
    fn default() -> Self {
        Self::new()
    }
}

/// A board's clock, and its two sockets on an Ethernet port.
pub struct Wire<'a, P, C> {
    clock: C,
    device: Frames<P>,
    interface: Interface,
    sockets: SocketSet<'a>,
    member: SocketHandle,
    client: SocketHandle,
    counters: WireCounters,
}

impl<'a, P: Port, C: Clock> Wire<'a, P, C> {
    /// Opens both sockets, and tells the segment that this board is there. None if a port is 0.
    pub fn new(
        memory: &'a mut WireMemory<'a>,
        mut clock: C,
        port: P,
        link: Link,
        member_port: u16,
        client_port: u16,
    ) -> Option<Self> {
        let mut device = Frames {
            port,
            neighbours: Neighbours::new(link),
            inbound: [0; FRAME_MAX],
            outbound: [0; FRAME_MAX],
            foreign: 0,
            lost: 0,
        };
        let config = Config::new(HardwareAddress::Ip);
        let mut interface = Interface::new(config, &mut device, instant(clock.now()));
        interface.update_ip_addrs(|list| {
            // The list is empty, and has room for one at least.
            let address = IpAddress::Ipv4(link.address);
            let _is_in = list.push(IpCidr::new(address, link.prefix.min(32))).is_ok();
        });
        let WireMemory {
            sockets,
            marks: [m0, m1, m2, m3],
            bytes: [b0, b1, b2, b3],
        } = memory;
        let mut sockets = SocketSet::new(&mut sockets[..]);
        let mut open = |port, marks: [&'a mut [PacketMetadata]; 2], bytes: [&'a mut [u8]; 2]| {
            let ([m_in, m_out], [b_in, b_out]) = (marks, bytes);
            let inbound = PacketBuffer::new(m_in, b_in);
            let mut socket = Socket::new(inbound, PacketBuffer::new(m_out, b_out));
            socket.bind(port).ok()?;
            Some(sockets.add(socket))
        };
        let member = open(member_port, [m0, m1], [b0, b1])?;
        let client = open(client_port, [m2, m3], [b2, b3])?;
        let hello = device.neighbours.announcement();
        let _is_sent = device.port.send(&hello);
        Some(Self {
            clock,
            device,
            interface,
            sockets,
            member,
            client,
            counters: WireCounters::default(),
        })
    }

    /// What was lost.
    pub fn counters(&self) -> WireCounters {
        WireCounters {
            foreign: self.device.foreign,
            lost: self.device.lost,
            ..self.counters
        }
    }

    /// The port, for instance to see whether a frame is there before the processor sleeps.
    pub fn port(&mut self) -> &mut P {
        &mut self.device.port
    }

    /// The clock.
    pub fn clock(&mut self) -> &mut C {
        &mut self.clock
    }

    /// The datagram that waits, if one does.
    fn take(&mut self, into: &mut [u8]) -> Option<(Door, SocketAddr, usize)> {
        for (door, handle) in [(Door::Member, self.member), (Door::Client, self.client)] {
            let socket = self.sockets.get_mut::<Socket<'_>>(handle);
            let Ok((bytes, from)) = socket.recv() else {
                continue;
            };
            let IpAddress::Ipv4(address) = from.endpoint.addr;
            if let Some(room) = into.get_mut(..bytes.len()) {
                room.copy_from_slice(bytes);
                let from = SocketAddrV4::new(address, from.endpoint.port);
                return Some((door, from.into(), bytes.len()));
            }
        }
        None
    }
}

fn instant(now: Now) -> Instant {
    Instant::from_micros((now.instant.nanos() / 1000) as i64)
}

impl<P, C: Clock> Clock for Wire<'_, P, C> {
    fn now(&mut self) -> Now {
        self.clock.now()
    }
}

impl<P: Port, C: Clock> Network for Wire<'_, P, C> {
    fn receive(&mut self, into: &mut [u8]) -> Option<(Door, SocketAddr, usize)> {
        let now = instant(self.clock.now());
        for _ in 0..FRAMES_PER_CALL {
            let (interface, sockets) = (&mut self.interface, &mut self.sockets);
            match interface.poll_ingress_single(now, &mut self.device, sockets) {
                PollIngressSingleResult::None => return None,
                PollIngressSingleResult::PacketProcessed => {}
                PollIngressSingleResult::SocketStateChanged => {
                    if let Some(taken) = self.take(into) {
                        return Some(taken);
                    }
                }
            }
        }
        None
    }

    fn send(&mut self, door: Door, to: SocketAddr, datagram: &[u8]) {
        let hop = match to.ip() {
            core::net::IpAddr::V4(ip) => self.device.neighbours.link().next_hop(ip).map(|_| ip),
            core::net::IpAddr::V6(_) => None,
        };
        let (Some(ip), true) = (hop, datagram.len() <= DATAGRAM_MAX) else {
            self.counters.unroutable += 1;
            return;
        };
        let now = instant(self.clock.now());
        let handle = match door {
            Door::Member => self.member,
            Door::Client => self.client,
        };
        let to = IpEndpoint::new(IpAddress::Ipv4(ip), to.port());
        // The queue is empty: what is put in leaves, or is lost, before this returns.
        let socket = self.sockets.get_mut::<Socket<'_>>(handle);
        if socket.send_slice(datagram, to).is_err() {
            self.counters.unroutable += 1;
        }
        self.interface
            .poll_egress(now, &mut self.device, &mut self.sockets);
    }

    fn resolve(&mut self, host: &str, port: u16) -> Option<SocketAddr> {
        let address: Ipv4Addr = host.parse().ok()?;
        Some(SocketAddrV4::new(address, port).into())
    }
}

/// What smoltcp takes for a device that carries IP packets.
struct Frames<P> {
    port: P,
    neighbours: Neighbours,
    inbound: [u8; FRAME_MAX],
    outbound: [u8; FRAME_MAX],
    foreign: u64,
    lost: u64,
}

impl<P: Port> Device for Frames<P> {
    type RxToken<'a>
        = Packet<'a>
    where
        P: 'a;
    type TxToken<'a>
        = Frame<'a, P>
    where
        P: 'a;

    fn receive(&mut self, _now: Instant) -> Option<(Packet<'_>, Frame<'_, P>)> {
        let mut length = None;
        for _ in 0..FRAMES_PER_CALL {
            let received = self.port.receive(&mut self.inbound)?;
            let frame = self.inbound.get(..received).unwrap_or_default();
            match self.neighbours.handle(frame) {
                Inbound::Packet(_) => {
                    length = Some(received);
                    break;
                }
                // Who asked asks again if this is lost.
                Inbound::Answer(frame) => drop(self.port.send(&frame)),
                Inbound::Nothing => self.foreign += 1,
            }
        }
        let packet = self.inbound.get(HEADER..length?).unwrap_or_default();
        let frame = Frame {
            port: &mut self.port,
            neighbours: &self.neighbours,
            frame: &mut self.outbound,
            lost: &mut self.lost,
        };
        Some((Packet(packet), frame))
    }

    fn transmit(&mut self, _now: Instant) -> Option<Frame<'_, P>> {
        Some(Frame {
            port: &mut self.port,
            neighbours: &self.neighbours,
            frame: &mut self.outbound,
            lost: &mut self.lost,
        })
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ip;
        capabilities.max_transmission_unit = MTU;
        capabilities
    }
}

struct Packet<'a>(&'a [u8]);

impl RxToken for Packet<'_> {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(self.0)
    }
}

struct Frame<'a, P> {
    port: &'a mut P,
    neighbours: &'a Neighbours,
    frame: &'a mut [u8; FRAME_MAX],
    lost: &'a mut u64,
}

impl<P: Port> TxToken for Frame<'_, P> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        let Some((header, rest)) = self.frame.split_first_chunk_mut::<HEADER>() else {
            return f(&mut []);
        };
        // smoltcp asks for no more than the MTU that it was told.
        let packet = rest.get_mut(..len).unwrap_or_default();
        let result = f(packet);
        let to = packet.get(16..20).and_then(|to| to.first_chunk().copied());
        let mac = self.neighbours.mac_of(Ipv4Addr::from(to.unwrap_or([0; 4])));
        write_header(header, mac, self.neighbours.link().mac);
        let frame = self.frame.get(..HEADER + len).unwrap_or_default();
        *self.lost += u64::from(!self.port.send(frame));
        result
    }
}
