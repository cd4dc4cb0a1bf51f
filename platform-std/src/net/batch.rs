//! Datagrams in batches: one system call for many of them, and one pass through the kernel's stack
//! for those of equal length to one address, where it can cut them itself (UDP segmentation
//! offload), or hand them over uncut.
//!
//! The only `unsafe` code of the network side is here: the calls, and what the kernel wrote.

use std::io;
use std::mem::{MaybeUninit, zeroed};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd};
use std::ptr::null_mut;

use socket2::SockAddr;

use super::socket::Socket;

/// The most messages of one call that receives; each may be several datagrams.
const RECEIVE: usize = 32;
/// What one call is to receive. A processor's caches hold that while it is looked at, and the next
/// call puts its bytes into the same memory; of long messages 32 would be 2 MiB, which they do not.
const AT_ONCE: usize = 64 << 10;
/// The most datagrams of one call that sends.
pub const BATCH: usize = 128;
/// Room for one datagram, or for what the kernel has joined: no UDP payload is longer.
const SLOT: usize = 65_536;
/// The most that the kernel cuts: one datagram of the longest UDP payload over IPv4.
const JOINED: usize = 65_507;
/// Shorter datagrams leave by themselves: what matters is said in long ones, and in a capture,
/// where joined ones are seen as one, a short message is not taken for a part of another.
const CUT_MIN: usize = 256;
/// The most datagrams that it makes of that (Linux: `UDP_MAX_SEGMENTS`, of its first versions).
const SEGMENTS: usize = 64;

/// Linux: `linux/udp.h`. Not in every version of the `libc` crate.
const UDP_SEGMENT: libc::c_int = 103;
const UDP_GRO: libc::c_int = 104;

/// One control message with a number, as the kernel reads and writes it (`cmsg(3)`): the value
/// follows the header without a gap, and both together end at the alignment of the header.
#[repr(C)]
#[derive(Clone, Copy)]
struct Control<T> {
    header: libc::cmsghdr,
    value: T,
}

impl<T> Control<T> {
    /// Bytes up to the end of the value.
    const LEN: usize = size_of::<libc::cmsghdr>() + size_of::<T>();
}

impl Control<u16> {
    /// "Cut this into datagrams of so many bytes."
    fn segment(size: u16) -> Self {
        // SAFETY: a plain C struct of integers, for which zero is a value.
        let mut header: libc::cmsghdr = unsafe { zeroed() };
        header.cmsg_level = libc::SOL_UDP;
        header.cmsg_type = UDP_SEGMENT;
        header.cmsg_len = Self::LEN as _;
        Self {
            header,
            value: size,
        }
    }
}

/// How many messages a call takes from a socket, after one that has taken `count` of `most`, the
/// longest of so many bytes: short ones many, so that they share what a call costs, long ones few,
/// so that they stay in the caches (see [`AT_ONCE`]). A short one between long ones proves little,
/// so it grows slowly, and only where there may be more.
fn pace(most: usize, count: usize, longest: usize) -> usize {
    let fits = AT_ONCE.checked_div(longest).unwrap_or(RECEIVE);
    let most = if count == most { 2 * most } else { most };
    fits.min(most).clamp(1, RECEIVE)
}

/// Datagrams that were received together. One for each socket.
pub struct ReceiveBatch {
    bytes: Box<[u8]>,
    names: Box<[libc::sockaddr_storage]>,
    headers: Box<[libc::mmsghdr]>,
    vectors: Box<[libc::iovec]>,
    controls: Box<[Control<libc::c_int>]>,
    len: usize,
    /// The last `receive` took as many messages as it could.
    is_full: bool,
    /// How many the next one takes at most.
    most: usize,
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
        // SAFETY: all four are plain C structs of integers and pointers, for which zero is a
        // value.
        let (name, header, vector, control) = unsafe { (zeroed(), zeroed(), zeroed(), zeroed()) };
        Self {
            bytes: vec![0; SLOT * RECEIVE].into_boxed_slice(),
            names: vec![name; RECEIVE].into_boxed_slice(),
            headers: vec![header; RECEIVE].into_boxed_slice(),
            vectors: vec![vector; RECEIVE].into_boxed_slice(),
            controls: vec![control; RECEIVE].into_boxed_slice(),
            len: 0,
            is_full: false,
            most: 1,
        }
    }

    /// From now on the kernel may hand over datagrams of one burst joined, if it can. Then nothing
    /// but a `ReceiveBatch` may receive from this socket.
    pub fn join(socket: &Socket) {
        let on: libc::c_int = 1;
        // SAFETY: reads one integer, for the length of the call.
        let _unless_unknown = unsafe {
            libc::setsockopt(
                socket.as_fd().as_raw_fd(),
                libc::SOL_UDP,
                UDP_GRO,
                (&raw const on).cast(),
                size_of::<libc::c_int>() as libc::socklen_t,
            )
        };
    }

    /// Whether the last `receive` took as much as it could: there may be more.
    pub fn is_full(&self) -> bool {
        self.is_full
    }

    /// Receives what is there, without waiting; false if that is nothing.
    ///
    /// # Errors
    /// Any error but those that mean "nothing there" or "one datagram was refused somewhere".
    pub fn receive(&mut self, socket: &Socket) -> io::Result<bool> {
        (self.len, self.is_full) = (0, false);
        for at in 0..self.most {
            self.vectors[at].iov_base = self.bytes[at * SLOT..].as_mut_ptr().cast();
            self.vectors[at].iov_len = SLOT;
            let header = &mut self.headers[at].msg_hdr;
            header.msg_name = (&raw mut self.names[at]).cast();
            header.msg_namelen = size_of::<libc::sockaddr_storage>() as libc::socklen_t;
            header.msg_iov = &raw mut self.vectors[at];
            header.msg_iovlen = 1;
            header.msg_control = (&raw mut self.controls[at]).cast();
            header.msg_controllen = size_of::<Control<libc::c_int>>() as _;
        }
        // SAFETY: the first `most` of the RECEIVE entries of `headers` point each at a name, a
        // vector, a control and bytes of their own, all owned by `self`, of the stated lengths, and
        // not used by anything else during the call. Whatever integers the kernel writes into a
        // control are values of it.
        let received = unsafe {
            libc::recvmmsg(
                socket.as_fd().as_raw_fd(),
                self.headers.as_mut_ptr(),
                self.most as libc::c_uint,
                libc::MSG_DONTWAIT,
                null_mut(),
            )
        };
        match usize::try_from(received) {
            Ok(count) => {
                self.len = count.min(self.most);
                self.is_full = self.len == self.most;
                let lens = self.headers[..self.len].iter().map(|h| h.msg_len as usize);
                self.most = pace(self.most, self.len, lens.max().unwrap_or_default());
                Ok(self.len > 0)
            }
            Err(_) => match receive_error(io::Error::last_os_error()) {
                Some(error) => Err(error),
                None => Ok(false),
            },
        }
    }

    /// The datagrams of the last `receive`, each with its source.
    pub fn datagrams(&self) -> Datagrams<'_> {
        Datagrams {
            batch: self,
            next: 0,
            joined: None,
        }
    }

    /// Message `at`; `None` if nobody can be answered.
    fn message(&self, at: usize) -> Option<Joined<'_>> {
        let len = (self.headers[at].msg_len as usize).min(SLOT);
        Some(Joined {
            from: address_of(&self.names[at])?,
            bytes: &self.bytes[at * SLOT..at * SLOT + len],
            size: self
                .segment_size(at)
                .filter(|size| *size > 0)
                .unwrap_or(len),
        })
    }

    /// How long each datagram is of those that were joined in message `at`: all but the last.
    fn segment_size(&self, at: usize) -> Option<usize> {
        let control = &self.controls[at];
        // The field's type differs from one C library to the next.
        let len = self.headers[at].msg_hdr.msg_controllen as u64;
        let is_there = len >= Control::<libc::c_int>::LEN as u64
            && control.header.cmsg_level == libc::SOL_UDP
            && control.header.cmsg_type == UDP_GRO;
        is_there.then(|| usize::try_from(control.value).ok())?
    }
}

/// What is left of datagrams of one burst, each of `size` bytes but the last.
struct Joined<'a> {
    from: SocketAddr,
    bytes: &'a [u8],
    size: usize,
}

/// See [`ReceiveBatch::datagrams`]. Not made of the standard library's iterators: what these keep
/// between two datagrams is written in parts and read whole, and a processor waits with that until
/// all that was copied before is in its cache.
pub struct Datagrams<'a> {
    batch: &'a ReceiveBatch,
    next: usize,
    joined: Option<Joined<'a>>,
}

impl<'a> Iterator for Datagrams<'a> {
    type Item = (SocketAddr, &'a [u8]);

    #[inline(always)]
    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(joined) = &mut self.joined {
                let size = joined.size.min(joined.bytes.len());
                let (bytes, rest) = joined.bytes.split_at(size);
                let from = joined.from;
                joined.bytes = rest;
                // One without any bytes is a datagram as well.
                if rest.is_empty() || size == 0 {
                    self.joined = None;
                }
                return Some((from, bytes));
            }
            if self.next == self.batch.len {
                return None;
            }
            self.joined = self.batch.message(self.next);
            self.next += 1;
        }
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

/// Whether the kernel cuts datagrams for us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Offload {
    /// To be found out at the first batch.
    Unknown,
    /// It does, but on the way to those hosts that are [`SendBatch::uncut`].
    On,
    /// It does not know how, or has refused for more hosts than are noted.
    Off,
}

/// How many hosts are noted for which it does not.
const UNCUT: usize = 32;

/// Sends datagrams together, all through one socket.
pub struct SendBatch {
    names: Box<[SockAddr]>,
    headers: Box<[libc::mmsghdr]>,
    vectors: Box<[libc::iovec]>,
    controls: Box<[Control<u16>]>,
    /// How many datagrams each message is.
    counts: Box<[usize]>,
    placed: Box<[bool]>,
    offload: Offload,
    /// Hosts on the way to which a device, or a route, cannot cut: the kernel has refused once.
    uncut: heapless::Vec<IpAddr, UNCUT>,
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
            controls: vec![Control::segment(0); BATCH].into_boxed_slice(),
            counts: vec![0; BATCH].into_boxed_slice(),
            placed: vec![false; BATCH].into_boxed_slice(),
            offload: Offload::Unknown,
            uncut: heapless::Vec::new(),
        }
    }

    /// Sends at most `BATCH` datagrams (further ones are not looked at) and never fails: what the
    /// kernel does not take is counted, as a network that loses it would not even tell. Those to
    /// one address leave in their order.
    pub fn send(&mut self, socket: &Socket, datagrams: &[(SocketAddr, &[u8])]) -> Sent {
        let datagrams = &datagrams[..datagrams.len().min(BATCH)];
        if self.offload == Offload::Unknown && datagrams.len() > 1 {
            self.offload = offload(socket);
        }
        let mut count = self.gather(datagrams);
        let mut sent = Sent::default();
        let mut at = 0;
        while at < count {
            // SAFETY: entries [at, count) of `headers` were set up by `gather`, or by `part`; each
            // points at a name, vectors and a control owned by `self`, and at bytes that the caller
            // lends for the length of this call.
            let taken = unsafe {
                libc::sendmmsg(
                    socket.as_fd().as_raw_fd(),
                    self.headers[at..].as_mut_ptr(),
                    (count - at) as libc::c_uint,
                    libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL,
                )
            };
            let Ok(taken) = usize::try_from(taken) else {
                let error = io::Error::last_os_error();
                match error.kind() {
                    io::ErrorKind::Interrupted => {}
                    // No buffer for this one means none for the others: leave the kernel alone.
                    io::ErrorKind::WouldBlock => {
                        sent.refused += self.datagrams_of(at, count);
                        at = count;
                    }
                    _ if self.counts[at] > 1 && cannot_cut(&error) => {
                        self.refuse(at);
                        count = self.part(at, count);
                    }
                    // The error is about the first message: skip it.
                    _ => {
                        sent.refused += self.datagrams_of(at, at + 1);
                        at += 1;
                    }
                }
                continue;
            };
            let end = (at + taken.max(1)).min(count);
            sent.taken += self.datagrams_of(at, end);
            at = end;
        }
        sent
    }

    /// From now on nothing is joined for the host that message `at` goes to.
    fn refuse(&mut self, at: usize) {
        let host = self.names[at].as_socket().map(|to| to.ip());
        let is_noted =
            host.is_some_and(|host| self.uncut.contains(&host) || self.uncut.push(host).is_ok());
        if !is_noted {
            self.offload = Offload::Off;
        }
    }

    fn datagrams_of(&self, from: usize, to: usize) -> u64 {
        self.counts[from..to].iter().sum::<usize>() as u64
    }

    /// Makes messages of datagrams: one of each, or one of all those to the same address that the
    /// kernel can cut from it. Nothing is copied. Returns how many messages there are.
    fn gather(&mut self, datagrams: &[(SocketAddr, &[u8])]) -> usize {
        self.placed.fill(false);
        let joins = self.offload == Offload::On;
        let (mut used, mut count) = (0, 0);
        for (first, (to, bytes)) in datagrams.iter().enumerate() {
            if self.placed[first] {
                continue;
            }
            let start = used;
            self.place(used, bytes);
            used += 1;
            let (size, mut len) = (bytes.len(), bytes.len());
            let may_join = joins && bytes.len() >= CUT_MIN && !self.uncut.contains(&to.ip());
            let rest = if may_join { first + 1 } else { datagrams.len() };
            for (next, (other, more)) in datagrams.iter().enumerate().skip(rest) {
                if self.placed[next] || other != to {
                    continue;
                }
                let is_full = used - start == SEGMENTS || len + more.len() > JOINED;
                if is_full || more.len() < CUT_MIN || more.len() > size {
                    break;
                }
                self.placed[next] = true;
                self.place(used, more);
                used += 1;
                len += more.len();
                if more.len() < size {
                    break;
                }
            }
            self.names[count] = SockAddr::from(*to);
            self.head(count, start, used - start, size);
            count += 1;
        }
        count
    }

    fn place(&mut self, at: usize, bytes: &[u8]) {
        // The kernel only reads through this pointer, although C has no way to say so.
        self.vectors[at].iov_base = bytes.as_ptr().cast_mut().cast();
        self.vectors[at].iov_len = bytes.len();
    }

    /// Sets up message `at`: `count` vectors, from `start` on, that are datagrams of `size` bytes.
    fn head(&mut self, at: usize, start: usize, count: usize, size: usize) {
        self.counts[at] = count;
        let header = &mut self.headers[at].msg_hdr;
        header.msg_name = self.names[at].as_ptr().cast_mut().cast();
        header.msg_namelen = self.names[at].len();
        header.msg_iov = &raw mut self.vectors[start];
        header.msg_iovlen = count as _;
        header.msg_control = null_mut();
        header.msg_controllen = 0;
        if count > 1 {
            self.controls[at] = Control::segment(size as u16);
            header.msg_control = (&raw mut self.controls[at]).cast();
            header.msg_controllen = size_of::<Control<u16>>() as _;
        }
    }

    /// Makes messages [from, to) such that each is one datagram; returns where they end.
    fn part(&mut self, from: usize, to: usize) -> usize {
        let end = from + self.counts[from..to].iter().sum::<usize>();
        // From the last one on, so that none is written over that is still to be looked at.
        let mut free = end;
        let mut vector: usize = self.counts[..to].iter().sum();
        for at in (from..to).rev() {
            let name = self.names[at].clone();
            for _ in 0..self.counts[at] {
                free -= 1;
                vector -= 1;
                self.names[free] = name.clone();
                self.head(free, vector, 1, 0);
            }
        }
        end
    }
}

/// Asks the kernel whether it knows how to cut datagrams. One that does not would send them joined.
fn offload(socket: &Socket) -> Offload {
    let mut size: libc::c_int = 0;
    let mut len = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: writes one integer, whose length is stated, and that length.
    let outcome = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_UDP,
            UDP_SEGMENT,
            (&raw mut size).cast(),
            &raw mut len,
        )
    };
    if outcome == 0 {
        Offload::On
    } else {
        Offload::Off
    }
}

/// What the kernel says if it could send each datagram, but not cut them: a device without
/// checksums, a route whose packets are shorter, a filter on the way.
fn cannot_cut(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EIO | libc::EINVAL | libc::EMSGSIZE | libc::EOPNOTSUPP)
    )
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
mod tests;
