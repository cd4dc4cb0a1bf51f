//! UDP ports for nodes.

use std::net::{Ipv4Addr, Ipv6Addr, TcpListener, UdpSocket};
use std::ops::Range;
use std::sync::{Mutex, PoisonError};

/// Below the range from which the system gives ports to sockets that ask for any: so no client can
/// take the port of a node that is being restarted.
pub(super) const FIRST: u16 = 12_000;
/// Ports that one process has for itself at a time.
pub(super) const BLOCK: u16 = 60;
pub(super) const BLOCKS: u16 = 300;

/// Blocks of ports, each for the process that listens on its first port by TCP, which no node
/// uses, until its end. What nobody is bound to at the moment is free for no other process's
/// tests: a node of this one may be about to start there again.
struct Claim {
    held: Vec<TcpListener>,
    left: Range<u16>,
}

static CLAIM: Mutex<Claim> = Mutex::new(Claim {
    held: Vec::new(),
    left: 0..0,
});

impl Claim {
    fn next(&mut self) -> u16 {
        loop {
            if let Some(port) = self.left.find(|port| is_free(*port)) {
                return port;
            }
            self.claim();
        }
    }

    fn claim(&mut self) {
        // Test processes that run at once start at different places.
        let start = std::process::id();
        for n in 0..u32::from(BLOCKS) {
            let block = start.wrapping_add(n) % u32::from(BLOCKS);
            let first = FIRST + block as u16 * BLOCK;
            if let Ok(held) = TcpListener::bind((Ipv4Addr::LOCALHOST, first)) {
                self.held.push(held);
                self.left = first..first + BLOCK;
                return;
            }
        }
        panic!("no free ports");
    }
}

fn is_free(port: u16) -> bool {
    let v4 = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port));
    // A machine without IPv6 is fine; a port that is taken is not.
    let v6 = UdpSocket::bind((Ipv6Addr::LOCALHOST, port));
    let v6_taken = v6.is_err_and(|e| e.kind() == std::io::ErrorKind::AddrInUse);
    v4.is_ok() && !v6_taken
}

/// Ports that nobody uses, on IPv4 and IPv6, and that this process gives to nobody else.
///
/// # Panics
/// If all are taken.
pub fn free_ports(count: usize) -> Vec<u16> {
    let mut claim = CLAIM.lock().unwrap_or_else(PoisonError::into_inner);
    (0..count).map(|_| claim.next()).collect()
}
