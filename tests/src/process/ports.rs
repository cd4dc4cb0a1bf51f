//! UDP ports for node processes.

use std::net::{Ipv4Addr, Ipv6Addr, UdpSocket};
use std::sync::atomic::{AtomicU32, Ordering};

/// Below the range from which the system gives ports to sockets that ask for any: so no client can
/// take the port of a node that is being restarted.
const FIRST: u32 = 12_000;
const COUNT: u32 = 18_000;

/// Ports that nobody uses, on IPv4 and IPv6, and that this process gives to nobody else.
///
/// # Panics
/// If all are taken.
pub fn free_ports(count: usize) -> Vec<u16> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    // Test processes that run at once start at different places.
    let start = std::process::id().wrapping_mul(7919);
    let mut ports = Vec::new();
    for _ in 0..COUNT {
        if ports.len() == count {
            return ports;
        }
        let at = start.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed));
        let port = (FIRST + at % COUNT) as u16;
        let v4 = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port));
        // A machine without IPv6 is fine; a port that is taken is not.
        let v6 = UdpSocket::bind((Ipv6Addr::LOCALHOST, port));
        let v6_taken = v6.is_err_and(|e| e.kind() == std::io::ErrorKind::AddrInUse);
        if v4.is_ok() && !v6_taken {
            ports.push(port);
        }
    }
    panic!("no free ports");
}
