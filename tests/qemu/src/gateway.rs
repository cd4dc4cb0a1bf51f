//! The router on the machines' segment: it passes datagrams between them and sockets of this host,
//! so neither a bridge nor root is needed.
//!
//! Each machine's two doors have a port of 127.0.0.1. What arrives there from a program's socket
//! goes to the machine as it is, from 127.0.0.1 and that program's port: to a machine the host is
//! somewhere behind its gateway. What a machine sends there leaves from the port of its door. So
//! both sides see the same addresses for the same things, and nothing is translated within
//! messages.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use crate::switch::{Mac, Switch};

/// Its Ethernet address.
pub const MAC: Mac = [0x52, 0x54, 0, 0x77, 0, 1];
/// Its address on the segment.
pub const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
/// A header without options.
const IP_HEADER: usize = 20;
const UDP_HEADER: usize = 8;
/// No longer packet fits a frame.
const PACKET_MAX: usize = 1500;

/// One door of one machine.
#[derive(Clone, Copy, Debug)]
pub struct Door {
    /// The machine's Ethernet address.
    pub mac: Mac,
    /// Its socket.
    pub at: SocketAddrV4,
    /// The port of 127.0.0.1 behind which it is.
    pub port: u16,
}

/// Opens the ports of all doors; `uplink` is the switch's last port.
///
/// # Errors
/// A port is taken.
pub fn start(switch: &Switch, uplink: usize, doors: &[Door]) -> std::io::Result<()> {
    let mut sockets = Vec::new();
    for door in doors {
        let socket = Arc::new(UdpSocket::bind((Ipv4Addr::LOCALHOST, door.port))?);
        socket.set_read_timeout(Some(Duration::from_secs(1)))?;
        sockets.push((door.at, socket.clone()));
        let (switch, door) = (switch.clone(), *door);
        thread::spawn(move || {
            let mut datagram = [0; 65_536];
            loop {
                // Refusals of programs that have ended are told here; they harm nobody.
                if let Ok((len, SocketAddr::V4(from))) = socket.recv_from(&mut datagram)
                    && let Some(frame) = framed(&door, from, &datagram[..len])
                {
                    switch.pass(uplink, &frame);
                }
            }
        });
    }
    let asked = switch.clone();
    switch.set_uplink(Box::new(move |frame| {
        if let Some(answer) = answer(frame) {
            // Not from here: the switch calls this while it is busy.
            let asked = asked.clone();
            thread::spawn(move || asked.pass(uplink, &answer));
        } else if let Some((from, to, payload)) = unframed(frame)
            && let Some((_, socket)) = sockets.iter().find(|(at, _)| *at == from)
        {
            // As with any network, what cannot be sent is lost.
            drop(socket.send_to(payload, (Ipv4Addr::LOCALHOST, to)));
        }
    }));
    Ok(())
}

/// A frame that asks every machine for its address, as a network is full of while one starts.
pub fn question(to: Ipv4Addr) -> Vec<u8> {
    arp(1, [0xff; 6], [0; 6], to)
}

fn arp(what: u8, to: Mac, mac: Mac, ip: Ipv4Addr) -> Vec<u8> {
    let start = [&to[..], &MAC, &[8, 6, 0, 1, 8, 0, 6, 4, 0, what]].concat();
    [&start[..], &MAC, &ADDRESS.octets(), &mac, &ip.octets()].concat()
}

/// The answer to a machine that asks for the gateway's address.
fn answer(frame: &[u8]) -> Option<Vec<u8>> {
    let is_question = frame.get(12..14)? == [8, 6] && frame.get(20..22)? == [0, 1];
    if !is_question || frame.get(38..42)? != ADDRESS.octets() {
        return None;
    }
    let mac: Mac = *frame.get(22..28)?.first_chunk()?;
    let ip: [u8; 4] = *frame.get(28..32)?.first_chunk()?;
    Some(arp(2, mac, mac, ip.into()))
}

fn sum(bytes: &[u8]) -> u32 {
    let words = bytes.chunks(2).map(|pair| match *pair {
        [high, low] => u32::from(high) << 8 | u32::from(low),
        [high] => u32::from(high) << 8,
        _ => 0,
    });
    words.sum()
}

/// RFC 1071.
fn folded(mut sum: u32) -> [u8; 2] {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    (!(sum as u16)).to_be_bytes()
}

/// The frame that brings a datagram to a door. None: it is too long.
fn framed(door: &Door, from: SocketAddrV4, payload: &[u8]) -> Option<Vec<u8>> {
    let length = IP_HEADER + UDP_HEADER + payload.len();
    if length > PACKET_MAX {
        return None;
    }
    let (source, target) = (from.ip().octets(), door.at.ip().octets());
    let total = (length as u16).to_be_bytes();
    let mut ip = [0x45, 0, total[0], total[1], 0, 0, 0x40, 0, 64, 17, 0, 0].to_vec();
    ip.extend([source, target].concat());
    let header_sum = folded(sum(&ip));
    ip[10..12].copy_from_slice(&header_sum);
    let udp_length = ((UDP_HEADER + payload.len()) as u16).to_be_bytes();
    let ports = [from.port().to_be_bytes(), door.at.port().to_be_bytes()].concat();
    let pseudo = sum(&source) + sum(&target) + 17 + sum(&udp_length);
    let udp_sum = folded(pseudo + sum(&ports) + sum(&udp_length) + sum(payload));
    // RFC 768: a sum of zero is sent as ones, as zero says that there is none.
    let udp_sum = if udp_sum == [0, 0] {
        [0xff, 0xff]
    } else {
        udp_sum
    };
    let ethernet = [&door.mac[..], &MAC, &[8, 0]].concat();
    Some([&ethernet[..], &ip, &ports, &udp_length, &udp_sum, payload].concat())
}

/// From which socket, to which port of the host, and what. None: it is no datagram for the host.
fn unframed(frame: &[u8]) -> Option<(SocketAddrV4, u16, &[u8])> {
    let ip = frame.get(14..)?;
    let header = usize::from(ip.first()? & 15) * 4;
    if frame.get(12..14)? != [8, 0] || ip.get(9)? != &17 || ip.get(16..20)? != [127, 0, 0, 1] {
        return None;
    }
    let source: [u8; 4] = *ip.get(12..16)?.first_chunk()?;
    let udp = ip.get(header..)?;
    let [p0, p1, q0, q1, l0, l1] = *udp.first_chunk::<6>()?;
    let from = SocketAddrV4::new(source.into(), u16::from_be_bytes([p0, p1]));
    let length = usize::from(u16::from_be_bytes([l0, l1]));
    let payload = udp.get(UDP_HEADER..length)?;
    Some((from, u16::from_be_bytes([q0, q1]), payload))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_datagram_comes_out_of_its_frame_and_the_sums_hold() {
        let door = Door {
            mac: [2; 6],
            at: "10.77.0.10:9000".parse().unwrap(),
            port: 1,
        };
        for len in [0, 1, 2, 77, 1408, 1472] {
            let payload: Vec<u8> = (0..len).map(|n| n as u8).collect();
            let from = "127.0.0.1:40000".parse().unwrap();
            let mut frame = framed(&door, from, &payload).unwrap();
            assert_eq!(folded(sum(&frame[14..34])), [0, 0]);
            let pseudo = sum(&frame[26..34]) + 17 + sum(&frame[38..40]);
            assert_eq!(folded(pseudo + sum(&frame[34..])), [0, 0], "{len}");
            assert_eq!(unframed(&frame), None, "it is for the machine");
            frame[26..34].rotate_left(4);
            let (_, to, found) = unframed(&frame).unwrap();
            assert_eq!((to, found), (9000, &payload[..]));
        }
        assert_eq!(
            framed(&door, "127.0.0.1:1".parse().unwrap(), &[0; 1473]),
            None
        );
    }

    #[test]
    fn who_asks_for_the_gateway_is_answered() {
        let asked = question(ADDRESS);
        let answered = answer(&asked).unwrap();
        assert_eq!(answered[..6], MAC);
        assert_eq!(answered[20..22], [0, 2]);
        assert_eq!(answer(&answered), None);
        assert_eq!(answer(&question(Ipv4Addr::new(10, 77, 0, 9))), None);
    }
}
