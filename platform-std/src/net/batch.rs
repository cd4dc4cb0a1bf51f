//! Datagrams in batches: one system call for up to `BATCH` of them.
//!
//! The only `unsafe` code of the network side is here: the two calls, and what the kernel wrote.

use std::io;
use std::mem::{MaybeUninit, zeroed};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd};
use std::ptr::null_mut;

use socket2::SockAddr;

use super::socket::Socket;

/// The most datagrams of one system call.
pub const BATCH: usize = 32;
/// Room for one datagram: no UDP payload is longer.
const SLOT: usize = 65_536;

/// Datagrams that were received together.
pub struct ReceiveBatch {
    bytes: Box<[u8]>,
    names: Box<[libc::sockaddr_storage]>,
    headers: Box<[libc::mmsghdr]>,
    vectors: Box<[libc::iovec]>,
    len: usize,
}

impl Default for ReceiveBatch {
    fn default() -> Self {
        Self::new()
    }
}

impl ReceiveBatch {
    /// An empty batch. Its memory (2 MiB, of which only what is used is ever touched) is allocated
    /// here, once.
    pub fn new() -> Self {
        // SAFETY: all three are plain C structs of integers and pointers, for which zero is a
        // value.
        let (name, header, vector) = unsafe { (zeroed(), zeroed(), zeroed()) };
        Self {
            bytes: vec![0; SLOT * BATCH].into_boxed_slice(),
            names: vec![name; BATCH].into_boxed_slice(),
            headers: vec![header; BATCH].into_boxed_slice(),
            vectors: vec![vector; BATCH].into_boxed_slice(),
            len: 0,
        }
    }

    /// Receives what is there, without waiting; returns how many datagrams.
    ///
    /// # Errors
    /// Any error but those that mean "nothing there" or "one datagram was refused somewhere".
    pub fn receive(&mut self, socket: &Socket) -> io::Result<usize> {
        self.len = 0;
        for at in 0..BATCH {
            self.vectors[at].iov_base = self.bytes[at * SLOT..].as_mut_ptr().cast();
            self.vectors[at].iov_len = SLOT;
            let header = &mut self.headers[at].msg_hdr;
            header.msg_name = (&raw mut self.names[at]).cast();
            header.msg_namelen = size_of::<libc::sockaddr_storage>() as libc::socklen_t;
            header.msg_iov = &raw mut self.vectors[at];
            header.msg_iovlen = 1;
            header.msg_control = null_mut();
            header.msg_controllen = 0;
        }
        // SAFETY: `headers` has BATCH entries; each points at its own name, vector and bytes, all
        // owned by `self`, of the stated lengths, and not used by anything else during the call.
        let received = unsafe {
            libc::recvmmsg(
                socket.as_fd().as_raw_fd(),
                self.headers.as_mut_ptr(),
                BATCH as libc::c_uint,
                libc::MSG_DONTWAIT,
                null_mut(),
            )
        };
        match usize::try_from(received) {
            Ok(count) => {
                self.len = count.min(BATCH);
                Ok(self.len)
            }
            Err(_) => match receive_error(io::Error::last_os_error()) {
                Some(error) => Err(error),
                None => Ok(0),
            },
        }
    }

    /// The datagrams of the last `receive`, each with its source.
    pub fn datagrams(&self) -> impl Iterator<Item = (SocketAddr, &[u8])> {
        self.headers[..self.len]
            .iter()
            .zip(self.names.iter())
            .enumerate()
            .filter_map(|(at, (header, name))| {
                let len = (header.msg_len as usize).min(SLOT);
                let from = address_of(name)?;
                Some((from, &self.bytes[at * SLOT..at * SLOT + len]))
            })
    }
}

/// What became of a batch that was sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sent {
    /// Datagrams that the kernel took.
    pub taken: u64,
    /// Datagrams that it refused: no buffer, no route, a filter. The protocols send again.
    pub refused: u64,
}

/// Sends datagrams together.
pub struct SendBatch {
    names: Box<[SockAddr]>,
    headers: Box<[libc::mmsghdr]>,
    vectors: Box<[libc::iovec]>,
}

impl Default for SendBatch {
    fn default() -> Self {
        Self::new()
    }
}

impl SendBatch {
    /// Allocates what is needed for `BATCH` datagrams, once.
    pub fn new() -> Self {
        // SAFETY: both are plain C structs of integers and pointers, for which zero is a value.
        let (header, vector) = unsafe { (zeroed(), zeroed()) };
        let nowhere = SockAddr::from(SocketAddr::new(IpAddr::from([0, 0, 0, 0]), 0));
        Self {
            names: vec![nowhere; BATCH].into_boxed_slice(),
            headers: vec![header; BATCH].into_boxed_slice(),
            vectors: vec![vector; BATCH].into_boxed_slice(),
        }
    }

    /// Sends at most `BATCH` datagrams (further ones are not looked at) and never fails: what the
    /// kernel does not take is counted, as a network that loses it would not even tell.
    pub fn send(&mut self, socket: &Socket, datagrams: &[(SocketAddr, &[u8])]) -> Sent {
        let count = datagrams.len().min(BATCH);
        for (at, (to, bytes)) in datagrams.iter().take(count).enumerate() {
            self.names[at] = SockAddr::from(*to);
            // The kernel only reads through this pointer, although C has no way to say so.
            self.vectors[at].iov_base = bytes.as_ptr().cast_mut().cast();
            self.vectors[at].iov_len = bytes.len();
            let header = &mut self.headers[at].msg_hdr;
            header.msg_name = self.names[at].as_ptr().cast_mut().cast();
            header.msg_namelen = self.names[at].len();
            header.msg_iov = &raw mut self.vectors[at];
            header.msg_iovlen = 1;
            header.msg_control = null_mut();
            header.msg_controllen = 0;
        }
        let mut sent = Sent::default();
        let mut at = 0;
        while at < count {
            // SAFETY: entries [at, count) of `headers` were set up above; each points at a name and
            // a vector owned by `self`, and at bytes that the caller lends for the length of this
            // call.
            let taken = unsafe {
                libc::sendmmsg(
                    socket.as_fd().as_raw_fd(),
                    self.headers[at..].as_mut_ptr(),
                    (count - at) as libc::c_uint,
                    libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL,
                )
            };
            match usize::try_from(taken) {
                Ok(taken) => {
                    sent.taken += taken as u64;
                    at += taken.max(1);
                }
                Err(_) => match io::Error::last_os_error().kind() {
                    io::ErrorKind::Interrupted => {}
                    // No buffer for this one means none for the others: leave the kernel alone.
                    io::ErrorKind::WouldBlock => {
                        sent.refused += (count - at) as u64;
                        at = count;
                    }
                    // The error is about the first datagram: skip it.
                    _ => {
                        sent.refused += 1;
                        at += 1;
                    }
                },
            }
        }
        sent
    }
}

/// Errors that a UDP receive reports about datagrams sent earlier, or that mean "nothing there",
/// are no errors of this socket.
fn receive_error(error: io::Error) -> Option<io::Error> {
    match error.raw_os_error() {
        Some(
            libc::EAGAIN
            | libc::EINTR
            | libc::ECONNREFUSED
            | libc::EHOSTUNREACH
            | libc::ENETUNREACH
            | libc::ENETDOWN
            | libc::EPERM
            | libc::ENOBUFS
            | libc::ENOMEM,
        ) => None,
        Some(_) | None => Some(error),
    }
}

fn address_of(name: &libc::sockaddr_storage) -> Option<SocketAddr> {
    let mut storage = MaybeUninit::<libc::sockaddr_storage>::uninit();
    storage.write(*name);
    // SAFETY: written just above, and `socket2` reads only the part that the family says is there.
    let address = unsafe {
        SockAddr::new(
            std::mem::transmute::<libc::sockaddr_storage, socket2::SockAddrStorage>(
                storage.assume_init(),
            ),
            size_of::<libc::sockaddr_storage>() as libc::socklen_t,
        )
    };
    address.as_socket()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exchange(host: &str) {
        let here = Socket::bind(host.parse().unwrap()).unwrap();
        let there = Socket::bind(host.parse().unwrap()).unwrap();
        let payloads: Vec<Vec<u8>> = (0..40u8).map(|n| vec![n; usize::from(n) * 100]).collect();
        let datagrams: Vec<(SocketAddr, &[u8])> =
            payloads.iter().map(|p| (there.local(), &p[..])).collect();
        let mut sender = SendBatch::new();
        let mut receiver = ReceiveBatch::new();
        assert_eq!(receiver.receive(&there).unwrap(), 0);
        let mut got = Vec::new();
        for chunk in datagrams.chunks(BATCH) {
            let sent = sender.send(&here, chunk);
            assert_eq!((sent.taken, sent.refused), (chunk.len() as u64, 0));
            while receiver.receive(&there).unwrap() > 0 {
                for (from, bytes) in receiver.datagrams() {
                    assert_eq!(from, here.local());
                    got.push(bytes.to_vec());
                }
            }
        }
        assert_eq!(got, payloads);
    }

    #[test]
    fn datagrams_cross_over_ipv4() {
        exchange("127.0.0.1:0");
    }

    #[test]
    fn datagrams_cross_over_ipv6() {
        if Socket::bind("[::1]:0".parse().unwrap()).is_err() {
            eprintln!("SKIPPED: this machine has no IPv6 loopback address");
            return;
        }
        exchange("[::1]:0");
    }

    #[test]
    fn a_datagram_that_the_kernel_refuses_does_not_stop_the_others() {
        let here = Socket::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let there = Socket::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let too_long = vec![0u8; 70_000];
        let datagrams: [(SocketAddr, &[u8]); 3] = [
            (there.local(), b"first"),
            (there.local(), &too_long),
            (there.local(), b"last"),
        ];
        let sent = SendBatch::new().send(&here, &datagrams);
        assert_eq!((sent.taken, sent.refused), (2, 1));
        let mut receiver = ReceiveBatch::new();
        assert_eq!(receiver.receive(&there).unwrap(), 2);
        let bytes: Vec<&[u8]> = receiver.datagrams().map(|(_, bytes)| bytes).collect();
        assert_eq!(bytes, [&b"first"[..], b"last"]);
    }
}
