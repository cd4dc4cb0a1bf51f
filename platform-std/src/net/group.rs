//! The multicast group of the log: a socket that hears it, and how another sends to it.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket};

use socket2::SockRef;

use super::socket::{Socket, udp};

/// A group, and how to reach it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Group {
    /// Its address and port.
    pub address: SocketAddrV4,
    /// The address of the interface that it is heard and sent through.
    pub interface: Ipv4Addr,
    /// How many routers may pass it on, and one more.
    pub hops: u8,
}

/// Why a group cannot be used.
#[derive(Debug)]
pub struct GroupError {
    /// The group.
    pub group: Group,
    /// What was tried.
    what: &'static str,
    /// What the system said.
    pub error: io::Error,
}

impl fmt::Display for GroupError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Group {
            address, interface, ..
        } = self.group;
        write!(
            f,
            "cannot {} the multicast group {address} of `log_multicast` on the interface with the \
             address {interface}: {}. ",
            self.what, self.error
        )?;
        f.write_str(match self.error.raw_os_error() {
            Some(libc::ENODEV | libc::EADDRNOTAVAIL) => {
                "No interface has this address: correct the `member` endpoint of this member"
            }
            Some(libc::EADDRINUSE) => {
                "Another program has this port for itself: stop it, or use another port on all \
                 members"
            }
            Some(libc::ENOBUFS) => "This machine is in too many groups (net.ipv4.igmp_max_*)",
            _ => "Correct `log_multicast`, or leave it out: the log is then sent to each follower",
        })
    }
}

impl std::error::Error for GroupError {}

impl Group {
    fn error(self, what: &'static str) -> impl Fn(io::Error) -> GroupError {
        move |error| GroupError {
            group: self,
            what,
            error,
        }
    }

    /// A socket that hears this group and nothing else. Several on one machine may.
    ///
    /// # Errors
    /// See [`GroupError`].
    pub fn listen(self) -> Result<Socket, GroupError> {
        let address = SocketAddr::V4(self.address);
        let socket = udp(address, true).map_err(self.error("hear"))?;
        SockRef::from(&socket)
            .join_multicast_v4(self.address.ip(), &self.interface)
            .map_err(self.error("join"))?;
        Ok(socket)
    }

    /// From now on what `socket` sends to groups goes out through this one's interface. Only if
    /// some of `others` are on this machine as well it is handed to them.
    ///
    /// # Errors
    /// See [`GroupError`].
    pub fn prepare(self, socket: &Socket, others: &[IpAddr]) -> Result<(), GroupError> {
        let socket = SockRef::from(socket);
        let is_shared = others.iter().any(|other| is_here(*other));
        socket
            .set_multicast_if_v4(&self.interface)
            .and_then(|()| socket.set_multicast_ttl_v4(self.hops.into()))
            .and_then(|()| socket.set_multicast_loop_v4(is_shared))
            .map_err(self.error("send to"))
    }
}

/// Whether an address is one of this machine's, or not known yet.
fn is_here(address: IpAddr) -> bool {
    UdpSocket::bind((address, 0)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::super::batch::{ReceiveBatch, SendBatch};
    use super::*;

    const HERE: Ipv4Addr = Ipv4Addr::LOCALHOST;

    /// A group of this test alone: its port is one that is free.
    fn group() -> Group {
        let free = UdpSocket::bind((HERE, 0)).unwrap();
        Group {
            address: SocketAddrV4::new(
                Ipv4Addr::new(239, 255, 77, 1),
                free.local_addr().unwrap().port(),
            ),
            interface: HERE,
            hops: 1,
        }
    }

    #[test]
    fn each_listener_on_the_machine_hears_whole_datagrams_with_their_sender() {
        let group = group();
        let sender = Socket::bind((HERE, 0).into()).unwrap();
        group.prepare(&sender, &[IpAddr::V4(HERE)]).unwrap();
        let ears = [group.listen().unwrap(), group.listen().unwrap()];
        ears.iter().for_each(ReceiveBatch::join);
        let payloads: Vec<Vec<u8>> = (0..40_u8)
            .map(|n| vec![n; 1408 - usize::from(n % 3)])
            .collect();
        let to = SocketAddr::V4(group.address);
        let datagrams: Vec<(SocketAddr, &[u8])> = payloads.iter().map(|p| (to, &p[..])).collect();
        let sent = SendBatch::new().send(&sender, &datagrams);
        assert_eq!((sent.taken, sent.refused), (40, 0));
        let mut inbound = ReceiveBatch::new();
        for ear in &ears {
            let mut got = Vec::new();
            while inbound.receive(ear).unwrap() {
                for (from, bytes) in inbound.datagrams() {
                    assert_eq!(from, sender.local());
                    got.push(bytes.to_vec());
                }
            }
            assert_eq!(got, payloads);
        }
    }

    #[test]
    fn a_machine_without_other_members_hears_nothing_of_its_own() {
        let group = group();
        let sender = Socket::bind((HERE, 0).into()).unwrap();
        // TEST-NET-1: no machine has it.
        let away = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
        group.prepare(&sender, &[away]).unwrap();
        assert!(!SockRef::from(&sender).multicast_loop_v4().unwrap());
        group.prepare(&sender, &[away, IpAddr::V4(HERE)]).unwrap();
        assert!(SockRef::from(&sender).multicast_loop_v4().unwrap());
    }

    #[test]
    fn an_interface_that_is_not_there_is_named() {
        let interface = Ipv4Addr::new(192, 0, 2, 1);
        let group = Group {
            interface,
            ..group()
        };
        let text = group.listen().unwrap_err().to_string();
        assert!(
            text.contains("192.0.2.1") && text.contains("`member`"),
            "{text}"
        );
    }

    #[test]
    fn a_port_that_another_program_keeps_for_itself_is_an_error() {
        let group = group();
        let _kept = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, group.address.port())).unwrap();
        let text = group.listen().unwrap_err().to_string();
        assert!(text.contains("another port"), "{text}");
    }
}
