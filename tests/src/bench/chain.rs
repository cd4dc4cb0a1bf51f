//! The raw chain: client, leader, follower, leader, client, in four processes, over the sockets
//! that nodes use and with the same ways to wait, but with no consensus, no log and no session.
//! What a cluster takes beyond this is its own.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use coracle_std::net::Socket;

use super::load::{Latencies, Wait};
use crate::process::{Scratch, free_ports};

/// The word that makes the bench a member of a raw chain.
pub const MEMBER: &str = "raw-member";
/// What every member appends and flushes when it is durable.
pub const BLOCK: usize = 4096;
/// As long as a file of blocks is before it is written from the start again.
const FILE: u64 = 32 << 20;
/// A member that hears nothing for so long ends.
const SILENCE: Duration = Duration::from_secs(10);
/// What was not answered by then is lost.
const PATIENCE: Duration = Duration::from_millis(200);

const REQUEST: u8 = 1;
const REPLICATE: u8 = 2;
const ACK: u8 = 3;
const REPLY: u8 = 4;
/// As long as an acknowledgement is.
const ACK_LEN: usize = 96;
const HEAD: usize = 16;

/// How the processes wait, and whether each has its blocks on disk before it answers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Mode {
    /// How they wait.
    pub wait: Wait,
    /// Whether they flush.
    pub is_durable: bool,
}

/// A file that is written block after block, made and filled beforehand.
pub struct Blocks {
    file: File,
    at: u64,
}

impl Blocks {
    /// # Errors
    /// The system's.
    pub fn create(path: &Path) -> io::Result<Self> {
        let file = File::options()
            .create(true)
            .truncate(true)
            .write(true)
            .open(path)?;
        let zeros = vec![0; 1 << 20];
        for at in (0..FILE).step_by(zeros.len()) {
            file.write_all_at(&zeros, at)?;
        }
        file.sync_all()?;
        Ok(Self { file, at: 0 })
    }

    /// Appends a block and flushes it.
    ///
    /// # Errors
    /// The system's.
    pub fn append(&mut self, block: &[u8; BLOCK]) -> io::Result<()> {
        self.file.write_all_at(block, self.at)?;
        self.at = (self.at + BLOCK as u64) % FILE;
        self.file.sync_data()
    }
}

/// One process's socket, and how it waits.
struct Wire {
    socket: UdpSocket,
    wait: Wait,
    heard: Instant,
    polls: u32,
}

impl Wire {
    fn bind(port: u16, wait: Wait) -> io::Result<Self> {
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        let socket = Socket::bind(address).map_err(|e| io::Error::other(e.to_string()))?;
        let socket = UdpSocket::from(socket.as_fd().try_clone_to_owned()?);
        socket.set_nonblocking(wait != Wait::Block)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        Ok(Self {
            socket,
            wait,
            heard: Instant::now(),
            polls: 0,
        })
    }

    fn port(port: u16) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], port))
    }

    /// The next datagram that is there; with [`Wait::Block`], or that comes within [`PATIENCE`].
    fn poll(&self, bytes: &mut [u8]) -> io::Result<Option<(usize, SocketAddr)>> {
        loop {
            let error = match self.socket.recv_from(bytes) {
                Ok(found) => return Ok(Some(found)),
                Err(error) => error,
            };
            match error.kind() {
                io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => return Ok(None),
                io::ErrorKind::Interrupted | io::ErrorKind::ConnectionRefused => {}
                _ => return Err(error),
            }
        }
    }

    /// The next datagram; `None` after some silence.
    fn receive(&mut self, bytes: &mut [u8]) -> io::Result<Option<(usize, SocketAddr)>> {
        loop {
            if let Some(found) = self.poll(bytes)? {
                self.polls = 0;
                return Ok(Some(found));
            }
            if self.wait == Wait::Block {
                return Ok(None);
            }
            // The clock is not asked at every turn: that would cost as much as the turn itself.
            if self.polls == 0 {
                self.heard = Instant::now();
            }
            self.polls += 1;
            if self.polls.is_multiple_of(64) && self.heard.elapsed() > PATIENCE {
                self.polls = 0;
                return Ok(None);
            }
            std::thread::yield_now();
        }
    }

    fn send(&self, bytes: &[u8], to: SocketAddr) -> io::Result<()> {
        match self.socket.send_to(bytes, to) {
            // A full buffer loses it, as a network would; the client sees.
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(()),
            // An earlier datagram met a process that has ended.
            Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => Ok(()),
            sent => sent.map(drop),
        }
    }
}

/// The client's end of a chain of processes; they end with it.
pub struct Chain {
    wire: Wire,
    leader: SocketAddr,
    members: Vec<Child>,
    next: u64,
    _scratch: Scratch,
}

impl Chain {
    /// Starts three members.
    ///
    /// # Errors
    /// The system's.
    pub fn start(mode: Mode) -> io::Result<Self> {
        let ports = free_ports(4);
        let scratch = Scratch::new("raw");
        let program = std::env::current_exe()?;
        let mut members = Vec::new();
        for own in 0..3 {
            let mut command = Command::new(&program);
            command.arg(MEMBER).arg(mode.wait.name());
            match mode.is_durable {
                true => command.arg(scratch.path().join(format!("blocks-{own}"))),
                false => command.arg("-"),
            };
            command.arg(ports[own].to_string());
            if own == 0 {
                command.args(ports[1..3].iter().map(u16::to_string));
            }
            members.push(command.stdin(Stdio::null()).spawn()?);
        }
        let mut chain = Self {
            wire: Wire::bind(ports[3], mode.wait)?,
            leader: Wire::port(ports[0]),
            members,
            next: 1,
            _scratch: scratch,
        };
        // They make their files first.
        for _ in 0..100 {
            if chain.round(HEAD.max(64))?.is_some() {
                return Ok(chain);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Err(io::Error::other("the raw chain does not answer"))
    }

    /// Its members, the leader first.
    pub fn processes(&self) -> [u32; 3] {
        std::array::from_fn(|at| self.members[at].id())
    }

    /// One request and its answer; `None` if it was lost.
    fn round(&mut self, len: usize) -> io::Result<Option<Duration>> {
        let mut bytes = [0; 2048];
        let number = self.next;
        self.next += 1;
        let began = Instant::now();
        write_head(&mut bytes, REQUEST, number);
        self.wire.send(&bytes[..len], self.leader)?;
        while self.wire.receive(&mut bytes)?.is_some() {
            if head(&bytes) == (REPLY, number) {
                return Ok(Some(began.elapsed()));
            }
        }
        Ok(None)
    }

    /// A closed loop with one datagram of `len` bytes on its way.
    ///
    /// # Errors
    /// The system's.
    pub fn closed(&mut self, len: usize, time: Duration) -> io::Result<Latencies> {
        let mut latencies = Latencies::new();
        let end = Instant::now() + time;
        while Instant::now() < end {
            if let Some(time) = self.round(len)? {
                latencies.add(time);
            }
        }
        Ok(latencies)
    }

    /// Datagrams of `len` bytes at a constant rate, whatever the answers do: a latency is from when
    /// its datagram was due. What was lost is taken for answered when a later one is.
    ///
    /// # Errors
    /// The system's.
    pub fn open_loop(
        &mut self,
        len: usize,
        a_second: u32,
        time: Duration,
    ) -> io::Result<Latencies> {
        let mut bytes = [0; 2048];
        let mut latencies = Latencies::new();
        let mut asked = VecDeque::new();
        let period = Duration::from_secs(1) / a_second;
        let began = Instant::now();
        let (mut due, mut heard) = (began, began);
        while due < began + time || !asked.is_empty() {
            while due <= Instant::now() && due < began + time {
                write_head(&mut bytes, REQUEST, self.next);
                self.wire.send(&bytes[..len], self.leader)?;
                asked.push_back((self.next, due));
                self.next += 1;
                due += period;
            }
            if self.wire.poll(&mut bytes)?.is_none() {
                // At the end there is no later one.
                if heard.elapsed() > SILENCE {
                    break;
                }
                std::thread::yield_now();
                continue;
            }
            heard = Instant::now();
            let (kind, number) = head(&bytes);
            while let (REPLY, Some(&(asked_for, due))) = (kind, asked.front()) {
                if asked_for > number {
                    break;
                }
                latencies.add(heard.saturating_duration_since(due));
                asked.pop_front();
            }
        }
        // What was lost at the very end was due so long ago.
        for (_, due) in asked {
            latencies.add(due.elapsed());
        }
        Ok(latencies)
    }

    /// With `in_flight` datagrams of `len` bytes on their way: how many a second come back.
    ///
    /// # Errors
    /// The system's.
    pub fn pipelined(&mut self, len: usize, in_flight: u64, time: Duration) -> io::Result<f64> {
        let mut bytes = vec![0; 65_536];
        let began = Instant::now();
        let end = began + time;
        let (mut answered, mut replies) = (self.next - 1, 0);
        while Instant::now() < end {
            while self.next - answered <= in_flight {
                write_head(&mut bytes, REQUEST, self.next);
                self.wire.send(&bytes[..len], self.leader)?;
                self.next += 1;
            }
            match self.wire.receive(&mut bytes)? {
                Some(_) if head(&bytes).0 == REPLY => {
                    replies += 1;
                    answered = answered.max(head(&bytes).1);
                }
                Some(_) => {}
                // What is lost is counted as answered, so that it does not hold up the others.
                None => answered = self.next - 1,
            }
        }
        Ok(replies as f64 / began.elapsed().as_secs_f64())
    }
}

impl Drop for Chain {
    fn drop(&mut self) {
        for member in &mut self.members {
            // Ended already is fine too.
            drop(member.kill());
            drop(member.wait());
        }
    }
}

fn write_head(bytes: &mut [u8], kind: u8, number: u64) {
    bytes[0] = kind;
    bytes[8..HEAD].copy_from_slice(&number.to_le_bytes());
}

fn head(bytes: &[u8]) -> (u8, u64) {
    let mut number = [0; 8];
    number.copy_from_slice(&bytes[8..HEAD]);
    (bytes[0], u64::from_le_bytes(number))
}

/// The process of a member: its arguments are how to wait, a file of blocks or `-`, its port, and,
/// for a leader, the followers' ports.
///
/// # Errors
/// The system's, or arguments that are none.
pub fn member(arguments: &[String]) -> io::Result<()> {
    let wrong = || io::Error::other("wrong arguments for a member of a raw chain");
    let [wait, path, ports @ ..] = arguments else {
        return Err(wrong());
    };
    let wait = Wait::named(wait).ok_or_else(wrong)?;
    let ports: Result<Vec<u16>, _> = ports.iter().map(|port| port.parse()).collect();
    let ports = ports.map_err(|_| wrong())?;
    let path = (path != "-").then(|| PathBuf::from(path));
    let blocks = path.as_deref().map(Blocks::create).transpose()?;
    let (own, followers) = ports.split_first().ok_or_else(wrong)?;
    let wire = Wire::bind(*own, wait)?;
    match followers {
        [] => follow(wire, blocks),
        followers => {
            let followers: Vec<SocketAddr> = followers.iter().map(|p| Wire::port(*p)).collect();
            lead(wire, blocks, &followers)
        }
    }
}

fn follow(mut wire: Wire, mut blocks: Option<Blocks>) -> io::Result<()> {
    let (mut bytes, mut heard) = (vec![0; 65_536], Instant::now());
    while heard.elapsed() < SILENCE {
        let Some((_, from)) = wire.receive(&mut bytes)? else {
            continue;
        };
        heard = Instant::now();
        if let Some(blocks) = &mut blocks {
            blocks.append(&[7; BLOCK])?;
        }
        bytes[0] = ACK;
        wire.send(&bytes[..ACK_LEN], from)?;
    }
    Ok(())
}

fn lead(mut wire: Wire, mut blocks: Option<Blocks>, followers: &[SocketAddr]) -> io::Result<()> {
    let (mut bytes, mut heard) = (vec![0; 65_536], Instant::now());
    let mut replied = 0;
    let mut client = None;
    let mut len = 0;
    while heard.elapsed() < SILENCE {
        let Some((received, from)) = wire.receive(&mut bytes)? else {
            continue;
        };
        heard = Instant::now();
        match (head(&bytes), client) {
            ((REQUEST, _), _) => {
                (client, len) = (Some(from), received);
                bytes[0] = REPLICATE;
                for follower in followers {
                    wire.send(&bytes[..len], *follower)?;
                }
                // While the followers receive and flush.
                if let Some(blocks) = &mut blocks {
                    blocks.append(&[7; BLOCK])?;
                }
            }
            // The second of two acknowledgements changes nothing.
            ((ACK, number), Some(client)) if number > replied => {
                replied = number;
                bytes[0] = REPLY;
                wire.send(&bytes[..len], client)?;
            }
            _ => {}
        }
    }
    Ok(())
}
