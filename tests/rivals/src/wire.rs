//! A TCP connection that is never waited for, with what arrived and what is to be sent.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::frame::{self, Frames};

/// One read.
const READ: usize = 256 << 10;
/// How long a server may take to open its port.
const PATIENCE: Duration = Duration::from_secs(20);

/// What a process does when there is nothing to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Wait {
    /// Offers its core, and looks again.
    Yield,
    /// Sleeps in `poll` until a connection has something.
    Block,
}

impl Wait {
    /// By its name on the command line.
    pub fn named(name: &str) -> Option<Self> {
        match name {
            "yield" => Some(Self::Yield),
            "block" => Some(Self::Block),
            _ => None,
        }
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Yield => "yield",
            Self::Block => "block",
        }
    }

    /// Until one of `wires` has something, or `most` is over.
    pub fn idle<'w>(self, wires: impl Iterator<Item = &'w Wire>, most: Duration) -> io::Result<()> {
        if self == Self::Yield {
            std::thread::yield_now();
            return Ok(());
        }
        let mut fds: Vec<PollFd<'_>> = wires.map(Wire::interest).collect();
        let time = Timespec::try_from(most).map_err(io::Error::other)?;
        match poll(&mut fds, Some(&time)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

/// A connection.
pub struct Wire {
    socket: TcpStream,
    frames: Frames,
    out: Vec<u8>,
    sent: usize,
    room: Vec<u8>,
}

impl Wire {
    /// Of a connection that exists.
    pub fn new(socket: TcpStream) -> io::Result<Self> {
        socket.set_nodelay(true)?;
        socket.set_nonblocking(true)?;
        Ok(Self {
            socket,
            frames: Frames::default(),
            out: Vec::new(),
            sent: 0,
            room: vec![0; READ],
        })
    }

    /// To a port of this machine, which may be opened only in a moment.
    pub fn connect(port: u16) -> io::Result<Self> {
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        let began = Instant::now();
        loop {
            match TcpStream::connect(address) {
                Ok(socket) => return Self::new(socket),
                Err(error) if began.elapsed() > PATIENCE => return Err(error),
                Err(_) => std::thread::sleep(Duration::from_millis(10)),
            }
        }
    }

    /// Puts a frame among what is to be sent.
    pub fn put(&mut self, parts: &[&[u8]]) {
        frame::put(&mut self.out, parts);
    }

    /// The next frame that has arrived.
    pub fn take(&mut self) -> io::Result<Option<&[u8]>> {
        Ok(self.frames.take()?)
    }

    /// Reads once. False if nothing was there.
    pub fn receive(&mut self) -> io::Result<bool> {
        match self.socket.read(&mut self.room) {
            Ok(0) => Err(ErrorKind::UnexpectedEof.into()),
            Ok(len) => {
                self.frames.add(&self.room[..len]);
                Ok(true)
            }
            Err(error) if is_nothing(&error) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Writes what the system takes. False if it took nothing.
    pub fn flush(&mut self) -> io::Result<bool> {
        let before = self.sent;
        while self.sent < self.out.len() {
            match self.socket.write(&self.out[self.sent..]) {
                Ok(len) => self.sent += len,
                Err(error) if is_nothing(&error) => return Ok(self.sent > before),
                Err(error) => return Err(error),
            }
        }
        let has_moved = self.sent > before;
        self.out.clear();
        self.sent = 0;
        Ok(has_moved)
    }

    fn interest(&self) -> PollFd<'_> {
        let mut flags = PollFlags::IN;
        flags.set(PollFlags::OUT, self.sent < self.out.len());
        PollFd::from_borrowed_fd(self.socket.as_fd(), flags)
    }
}

/// Whether the other end has gone, as all do at the end of a measurement.
pub fn is_end(error: &io::Error) -> bool {
    use ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
    matches!(error.kind(), BrokenPipe | ConnectionReset | UnexpectedEof)
}

fn is_nothing(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn a_way_to_wait_is_found_by_its_name() {
        for wait in [Wait::Yield, Wait::Block] {
            assert_eq!(Wait::named(wait.name()), Some(wait));
        }
        assert_eq!(Wait::named("spin"), None);
    }

    #[test]
    fn what_the_system_does_not_take_at_once_is_sent_later() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut one = Wire::connect(listener.local_addr().unwrap().port()).unwrap();
        let mut other = Wire::new(listener.accept().unwrap().0).unwrap();
        let text = vec![9; 16 << 20];
        one.put(&[&text]);
        let found = loop {
            one.flush().unwrap();
            other.receive().unwrap();
            if let Some(frame) = other.take().unwrap() {
                break frame.to_vec();
            }
        };
        assert_eq!(found, text);
        assert_eq!(one.out.len(), 0);
        drop(one);
        Wait::Block.idle([&other].into_iter(), PATIENCE).unwrap();
        let error = other.receive().unwrap_err();
        assert!(is_end(&error), "the other end is closed: {error}");
    }
}
