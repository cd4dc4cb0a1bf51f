//! One bound, non-blocking UDP socket.

use std::fmt;
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd};

use socket2::{Domain, Protocol, SockAddr, Type};

/// What the kernel is asked to hold for us in each direction. It may grant less (Linux:
/// `net.core.rmem_max`, `net.core.wmem_max`); the protocols repair what does not fit.
const BUFFER_BYTES: usize = 4 << 20;

/// A bound UDP socket that never blocks.
#[derive(Debug)]
pub struct Socket {
    socket: UdpSocket,
    local: SocketAddr,
}

/// Why a socket could not be bound.
#[derive(Debug)]
pub struct BindError {
    /// The address.
    pub address: SocketAddr,
    /// What the system said.
    pub error: io::Error,
}

impl fmt::Display for BindError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot bind UDP {}: {}. ", self.address, self.error)?;
        f.write_str(match self.error.kind() {
            io::ErrorKind::AddrInUse => {
                "Another process uses this port: stop it, or configure another port"
            }
            io::ErrorKind::AddrNotAvailable => {
                "This machine has no such address: correct this member's endpoints"
            }
            io::ErrorKind::PermissionDenied => "Use a port above 1023, or allow this one",
            _ => "Correct this member's endpoints",
        })
    }
}

impl std::error::Error for BindError {}

impl Socket {
    /// Binds `address` and nothing else.
    ///
    /// # Errors
    /// See [`BindError`].
    pub fn bind(address: SocketAddr) -> Result<Self, BindError> {
        udp(address, false).map_err(|error| BindError { address, error })
    }

    /// The address that is bound, with the port that port 0 became.
    pub fn local(&self) -> SocketAddr {
        self.local
    }
}

/// A bound socket; `is_shared`: others may bind the same address, if they all say so.
pub(super) fn udp(address: SocketAddr, is_shared: bool) -> io::Result<Socket> {
    let domain = Domain::for_address(address);
    let socket = socket2::Socket::new(domain, Type::DGRAM, Some(Protocol::UDP))?;
    if address.is_ipv6() {
        // `[::]` shall not take IPv4 too: only the configured address is bound.
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_address(is_shared)?;
    socket.set_nonblocking(true)?;
    socket.set_recv_buffer_size(BUFFER_BYTES)?;
    socket.set_send_buffer_size(BUFFER_BYTES)?;
    socket.bind(&SockAddr::from(address))?;
    let socket: UdpSocket = socket.into();
    let local = socket.local_addr()?;
    Ok(Socket { socket, local })
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
