//! A blocking client: one session of a cluster, for programs that have a thread to spare.
//!
//! ```no_run
//! use std::time::Duration;
//! use coracle_std::client::{Client, Egress};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let mut client = Client::connect("0=127.0.0.1:9100,1=127.0.0.1:9101,2=127.0.0.1:9102")?;
//! client.offer_until(b"hello", Duration::from_secs(5))?;
//! client.poll(Duration::from_secs(5), |egress| {
//!     if let Egress::Message { payload, .. } = egress {
//!         println!("{}", String::from_utf8_lossy(payload));
//!     }
//! })?;
//! client.close()?;
//! # Ok(())
//! # }
//! ```

mod kept;

use std::fmt;
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use coracle_core::client::{self as core, ClientConfig, EGRESS_IMAGES, Lent};
pub use coracle_core::client::{ClosedReason, Egress, Event, OfferError, Offered, State};
use coracle_core::limits::MTU_MAX;
use coracle_core::stream::{self, Output, slot_len};
use coracle_core::wire::cluster::AdminResponseCode;

use crate::clock::{Clock, deadline, random_seed};
use crate::net::batch::BATCH;
use crate::net::socket::BindError;
use crate::net::{ReceiveBatch, Resolver, SendBatch, Socket, resolve, wait};
use kept::Kept;

/// Why there is no session, or no longer.
#[derive(Debug)]
#[non_exhaustive]
pub enum ClientError {
    /// The endpoints are not `ID=HOST:PORT,...`, or no name has an address.
    Endpoints(String),
    /// No socket could be had.
    Bind(BindError),
    /// The system refused something else.
    System(io::Error),
    /// The session is over, or never was.
    Closed {
        /// Why.
        reason: ClosedReason,
        /// The cluster's own words, if it had any.
        detail: String,
    },
    /// A message was refused: it is too long for the cluster.
    TooLong {
        /// The longest that the stream takes, in bytes.
        max: usize,
    },
    /// The cluster will not take a snapshot for this session.
    Unauthorised(String),
    /// The cluster takes no snapshot, in its own words why.
    Refused(String),
    /// The time was over before the cluster took the message, or answered.
    TimedOut,
}

impl fmt::Display for ClientError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Endpoints(text) => f.write_str(text),
            Self::Bind(error) => error.fmt(f),
            Self::System(error) => write!(f, "the system refused: {error}"),
            Self::TooLong { max } => write!(f, "the message is longer than {max} bytes"),
            Self::Unauthorised(detail) => write!(
                f,
                "the cluster refuses: {detail}. To let every session make it take snapshots, set \
                 `admin = \"allow\"` on every member and start it again"
            ),
            Self::Refused(detail) => write!(f, "the cluster takes no snapshot: {detail}"),
            Self::TimedOut => f.write_str(
                "the cluster took nothing in time: see `coracle status`, is a quorum running?",
            ),
            Self::Closed { reason, detail } => {
                f.write_str(match reason {
                    ClosedReason::ByClient => "the session is closed",
                    ClosedReason::ByCluster => "the cluster closed the session",
                    ClosedReason::Rejected => "the cluster refused the session",
                    ClosedReason::AuthenticationRejected => "the cluster refused the credentials",
                    ClosedReason::NoAnswer => {
                        "no member answers: are they running, and is this their ingress address?"
                    }
                    ClosedReason::NoLeader => "the leader was lost, and no other spoke in time",
                    _ => "the session is over",
                })?;
                if !detail.is_empty() {
                    write!(f, ": {detail}")?;
                }
                Ok(())
            }
        }
    }
}

impl std::error::Error for ClientError {}

impl From<BindError> for ClientError {
    fn from(error: BindError) -> Self {
        Self::Bind(error)
    }
}

impl From<io::Error> for ClientError {
    fn from(error: io::Error) -> Self {
        Self::System(error)
    }
}

/// How large a client's windows are, and how patient it is.
#[derive(Clone, Debug)]
pub struct ClientOptions {
    /// The members' ingress endpoints: `0=host:port,1=host:port`.
    pub endpoints: String,
    /// Bytes that may be offered and not yet taken by the leader; a power of two.
    pub ingress_window: usize,
    /// Bytes of answers that may be on their way; a power of two.
    pub egress_window: usize,
    /// The longest message in either direction, in bytes.
    pub message_max: usize,
    /// The longest datagram to the cluster, in bytes; a multiple of 32.
    pub mtu: usize,
    /// How long to try to open a session.
    pub open_timeout: Duration,
}

impl ClientOptions {
    /// The defaults for a cluster at these ingress endpoints: `0=host:port,1=host:port`.
    pub fn new(endpoints: &str) -> Self {
        Self {
            endpoints: endpoints.to_owned(),
            ingress_window: 4 << 20,
            egress_window: 1 << 20,
            message_max: 1 << 20,
            mtu: coracle_core::limits::MTU_DEFAULT,
            open_timeout: Duration::from_secs(10),
        }
    }
}

/// One session. Everything happens in the calls: call `poll` at least every second, or the cluster
/// closes the session.
pub struct Client {
    core: core::Client,
    memory: Memory,
    wires: Wires,
    clock: Clock,
    /// When the clock was looked at last: at every poll, which is often enough for offers.
    seen: coracle_core::time::Instant,
    kept: Kept,
}

/// For so long at most, and what it has in hand then, a client hears what is said: after that what
/// is due leaves, however much has come meanwhile.
const HEAR_MAX: Duration = Duration::from_millis(10);
/// Of what waits, so much is in hand.
const IN_HAND: usize = 32;

/// Hears nothing: what is said waits.
const NOBODY: Option<&mut fn(Egress<'_>)> = None;

struct Memory {
    ingress: Vec<u8>,
    egress: Vec<u8>,
    assembly: Vec<u8>,
}

impl Memory {
    fn lent(&mut self) -> Lent<'_> {
        Lent {
            ingress: &mut self.ingress,
            egress: &mut self.egress,
            assembly: &mut self.assembly,
        }
    }
}

struct Wires {
    socket: Socket,
    inbound: ReceiveBatch,
    outbound: SendBatch,
    scratch: Box<[[u8; stream::CONTROL_MAX]; BATCH]>,
    resolver: Resolver<coracle_core::units::MemberId>,
    prefer_v6: bool,
}

impl Client {
    /// Opens a session with the defaults. Blocks until it is open.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn connect(endpoints: &str) -> Result<Self, ClientError> {
        Self::connect_with(&ClientOptions::new(endpoints))
    }

    /// Opens a session. Blocks until it is open.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn connect_with(options: &ClientOptions) -> Result<Self, ClientError> {
        let local = local_address(&options.endpoints)?;
        let socket = Socket::bind(local)?;
        let channel = format!("aeron:udp?endpoint={}", socket.local());
        let mut config = ClientConfig::new(&channel, &options.endpoints, random_seed())
            .ok_or_else(|| ClientError::Endpoints("the list of endpoints is too long".into()))?;
        config.timing.open = options.open_timeout;
        config.mtu = options.mtu as u32;
        let segment = (options.message_max + 64) * 8;
        config.segment_length = segment.next_power_of_two().max(1 << 16) as u32;
        let mut memory = Memory {
            ingress: vec![0; slot_len(options.ingress_window, options.mtu)],
            egress: vec![0; slot_len(options.egress_window, MTU_MAX) * EGRESS_IMAGES],
            assembly: vec![0; options.message_max + 64],
        };
        let clock = Clock::new();
        let core = core::Client::new(clock.instant(), config, &memory.lent()).map_err(|error| {
            ClientError::Endpoints(format!("`{}`: {error:?}", options.endpoints))
        })?;
        ReceiveBatch::join(&socket);
        let wires = Wires {
            prefer_v6: local.is_ipv6(),
            socket,
            inbound: ReceiveBatch::new(),
            outbound: SendBatch::new(),
            scratch: Box::new([[0; stream::CONTROL_MAX]; BATCH]),
            resolver: Resolver::new(None),
        };
        let mut client = Self {
            core,
            memory,
            wires,
            seen: clock.instant(),
            clock,
            kept: Kept::new(options.egress_window * EGRESS_IMAGES),
        };
        while !matches!(client.core.state(), State::Open { .. }) {
            client.poll(Duration::from_millis(20), |_| {})?;
        }
        Ok(client)
    }

    /// Hands a message to the cluster, without waiting. What was taken is sent to the present
    /// leader and to no other; if that is lost before the answer, the outcome is unknown.
    ///
    /// # Errors
    /// [`OfferError::BackPressured`] and [`OfferError::NotConnected`]: `poll`, and try again.
    pub fn offer(&mut self, message: &[u8]) -> Result<Offered, OfferError> {
        let lent = &mut self.memory.lent();
        self.core.offer(self.seen, &[message], lent)
    }

    /// Hands a message to the cluster, and waits until it is taken. What the cluster says meanwhile
    /// is kept for `poll`. That may be that there is another leader: then [`Offered::term`] is the
    /// term of the one that has taken it, and it is not among what that change of leaders has left
    /// with unknown outcome. (While the leader is lost this allocates, for what it has said and
    /// `poll` has not handed over: about twice [`ClientOptions::egress_window`] at most.)
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn offer_until(
        &mut self,
        message: &[u8],
        timeout: Duration,
    ) -> Result<Offered, ClientError> {
        let deadline = deadline(timeout);
        loop {
            self.look();
            match self.offer(message) {
                Ok(offered) => {
                    self.transmit();
                    return Ok(offered);
                }
                Err(OfferError::TooLong) => {
                    let max = self.core.message_max();
                    return Err(ClientError::TooLong { max });
                }
                Err(OfferError::Closed) => self.require_open()?,
                // Back pressure, or no leader at the moment.
                Err(_) => {}
            }
            if Instant::now() >= deadline {
                return Err(ClientError::TimedOut);
            }
            self.turn(NOBODY)?;
            self.hear_new_leader();
            self.sleep(Duration::from_millis(10))?;
        }
    }

    /// Without a leader nothing is taken until another has spoken: that comes after all that the
    /// old one has said.
    fn hear_new_leader(&mut self) {
        let now = self.seen;
        while matches!(self.core.state(), State::AwaitingNewLeader { .. }) && self.kept.has_room() {
            let mut lent = self.memory.lent();
            let Some(egress) = self.core.poll_egress(now, &mut lent) else {
                return;
            };
            self.kept.push(egress);
        }
    }

    /// Makes the cluster take a snapshot, and waits until it says that it has begun to: every
    /// member then writes its own, which `coracle status` shows when it is stored. What else the
    /// cluster says meanwhile goes to `handler`. A new leader is asked again.
    ///
    /// # Errors
    /// [`ClientError::Unauthorised`]; [`ClientError::Refused`], for example while another snapshot
    /// is being taken; see [`ClientError`] for the rest.
    pub fn request_snapshot(
        &mut self,
        timeout: Duration,
        mut handler: impl FnMut(Egress<'_>),
    ) -> Result<(), ClientError> {
        let deadline = deadline(timeout);
        let asked = random_seed() as i64;
        let (mut is_asked, mut answer) = (false, None);
        loop {
            if !is_asked {
                self.look();
                let lent = &mut self.memory.lent();
                is_asked = self.core.request_snapshot(self.seen, asked, lent).is_ok();
                self.transmit();
            }
            let left = deadline.saturating_duration_since(Instant::now());
            self.poll(left.min(Duration::from_millis(20)), |egress| match egress {
                Egress::AdminResponse {
                    correlation,
                    code,
                    message,
                } if correlation == asked => answer = Some((code, message.to_owned())),
                Egress::NewLeader { .. } => {
                    is_asked = false;
                    handler(egress);
                }
                other => handler(other),
            })?;
            return match answer.take() {
                Some((AdminResponseCode::Ok, _)) => Ok(()),
                Some((AdminResponseCode::UnauthorisedAccess, text)) => {
                    Err(ClientError::Unauthorised(text))
                }
                Some((_, text)) => Err(ClientError::Refused(text)),
                None if Instant::now() >= deadline => Err(ClientError::TimedOut),
                None => continue,
            };
        }
    }

    /// Does the session's work and hands over what the cluster says, waiting up to `timeout` for
    /// the first of it. Returns how much that was: 0 when the time is over. If `handler` takes
    /// long, there may be more.
    ///
    /// # Errors
    /// [`ClientError::Closed`] once the session is over.
    pub fn poll(
        &mut self,
        timeout: Duration,
        mut handler: impl FnMut(Egress<'_>),
    ) -> Result<usize, ClientError> {
        let mut until = None;
        self.look();
        // What was offered leaves before anything else is looked at.
        self.transmit();
        loop {
            // In the order in which it was said.
            let mut count = self.kept.hand_over(&mut handler);
            count += self.turn(Some(&mut handler))?;
            count += self.hand_over(&mut handler);
            self.transmit();
            self.require_open()?;
            if count > 0 || timeout.is_zero() {
                return Ok(count);
            }
            let until = *until.get_or_insert_with(|| deadline(timeout));
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(0);
            }
            self.sleep(left)?;
            self.look();
        }
    }

    /// What waits in the streams' windows.
    fn hand_over(&mut self, handler: &mut impl FnMut(Egress<'_>)) -> usize {
        let (begun, mut count) = (self.seen, 0_usize);
        while let Some(egress) = self.core.poll_egress(self.seen, &mut self.memory.lent()) {
            count += 1;
            handler(egress);
            if count.is_multiple_of(IN_HAND) {
                self.seen = self.clock.instant();
                if self.seen.since(begun) >= HEAR_MAX {
                    break;
                }
            }
        }
        count
    }

    /// Where the session stands.
    pub fn state(&self) -> State {
        self.core.state()
    }

    /// The next thing that has happened to the session, for logs.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.core.poll_event()
    }

    /// The longest message that may be offered, in bytes.
    pub fn message_max(&self) -> usize {
        self.core.message_max()
    }

    /// Ends the session; waits until the cluster has been told, a second at most.
    ///
    /// # Errors
    /// The system refused something.
    pub fn close(mut self) -> Result<(), ClientError> {
        self.look();
        self.core.close(self.seen, &mut self.memory.lent());
        while !matches!(self.core.state(), State::Closed(_)) {
            self.look();
            self.turn(NOBODY)?;
            self.hand_over(&mut |_| {});
            self.transmit();
            self.sleep(Duration::from_millis(10))?;
        }
        self.transmit();
        Ok(())
    }

    fn require_open(&self) -> Result<(), ClientError> {
        match self.core.state() {
            State::Closed(reason) => Err(ClientError::Closed {
                reason,
                detail: self.core.detail().to_owned(),
            }),
            _ => Ok(()),
        }
    }

    /// Looks at the clock, for what comes until it is looked at again.
    fn look(&mut self) {
        self.seen = self.clock.instant();
    }

    /// Receives, lets time pass, sends. What the cluster says goes to `handler` where it arrives,
    /// as far as nothing waits before it; returns how much that was.
    fn turn(
        &mut self,
        mut handler: Option<&mut impl FnMut(Egress<'_>)>,
    ) -> Result<usize, ClientError> {
        let (begun, mut count) = (self.seen, 0_usize);
        let mut is_late = false;
        let mut lent = self.memory.lent();
        while !is_late && self.wires.inbound.receive(&self.wires.socket)? {
            let now = self.seen;
            for (from, mut bytes) in self.wires.inbound.datagrams() {
                while !is_late
                    && let Some(handler) = &mut handler
                    && let Some(egress) = self.core.take_egress(now, from, &mut bytes)
                {
                    handler(egress);
                    count += 1;
                    if count.is_multiple_of(IN_HAND) {
                        is_late = self.clock.instant().since(begun) >= HEAR_MAX;
                    }
                }
                if bytes.is_empty() {
                    continue;
                }
                // What is no frame of Aeron's is not for us.
                let _stray = self
                    .core
                    .handle_datagram(now, from, bytes, &mut lent)
                    .is_err();
            }
            self.seen = self.clock.instant();
            is_late |= self.seen.since(begun) >= HEAR_MAX;
        }
        self.core.handle_timeout(self.seen, &mut lent);
        if let Some(question) = self.core.poll_resolve() {
            let (member, prefer_v6) = (question.member, self.wires.prefer_v6);
            match question.endpoint.parse() {
                // No name: nobody has to be asked, and nothing allocated for that.
                Ok(address) => self.core.handle_resolved(member, Some(address)),
                Err(_) => self
                    .wires
                    .resolver
                    .ask(member, question.endpoint, prefer_v6),
            }
        }
        while let Some((member, address)) = self.wires.resolver.poll() {
            self.core.handle_resolved(member, address);
        }
        self.transmit();
        Ok(count)
    }

    fn transmit(&mut self) {
        let now = self.seen;
        let lent = self.memory.lent();
        loop {
            let mut transmits = heapless::Vec::<core::Transmit<'_>, BATCH>::new();
            while !transmits.is_full() {
                let Some(transmit) = self.core.poll_transmit(now, &lent) else {
                    break;
                };
                transmits.push(transmit).unwrap_or_else(|_| unreachable!());
            }
            let mut datagrams = heapless::Vec::<(SocketAddr, &[u8]), BATCH>::new();
            for (transmit, scratch) in transmits.iter().zip(self.wires.scratch.iter_mut()) {
                let bytes = match &transmit.payload {
                    Output::Frames(bytes) => bytes,
                    Output::Control(control) => control.emit(scratch),
                };
                datagrams
                    .push((transmit.to, bytes))
                    .unwrap_or_else(|_| unreachable!());
            }
            self.wires.outbound.send(&self.wires.socket, &datagrams);
            if !transmits.is_full() {
                return;
            }
        }
    }

    /// Waits for a datagram, a timer of the session, or the end of `longest`.
    fn sleep(&mut self, longest: Duration) -> Result<(), ClientError> {
        let mut sleep = longest.min(Duration::from_millis(100));
        if let Some(at) = self.core.poll_timeout() {
            sleep = sleep.min(at.since(self.clock.instant()));
        }
        // Names are looked up by a thread that does not wake us: come back soon while one is
        // wanted.
        if !matches!(self.core.state(), State::Open { .. }) {
            sleep = sleep.min(Duration::from_millis(2));
        }
        wait(&[self.wires.socket.as_fd()], sleep)?;
        Ok(())
    }
}

/// The address of this machine that the cluster reaches us at: the one that packets to it come
/// from.
fn local_address(endpoints: &str) -> Result<SocketAddr, ClientError> {
    let mut last = None;
    for part in endpoints.split(',') {
        let endpoint = part.split_once('=').map_or(part, |(_, endpoint)| endpoint);
        match resolve(endpoint.trim(), false) {
            Ok(remote) => {
                let any = if remote.is_ipv6() {
                    "[::]:0"
                } else {
                    "0.0.0.0:0"
                };
                let probe = UdpSocket::bind(any)?;
                // Sends nothing: it only asks the routing table.
                match probe.connect(remote).and_then(|()| probe.local_addr()) {
                    Ok(local) => return Ok(SocketAddr::new(local.ip(), 0)),
                    Err(error) => last = Some(error),
                }
            }
            Err(error) => last = Some(error),
        }
    }
    let why = last.map_or_else(String::new, |error| format!(": {error}"));
    Err(ClientError::Endpoints(format!(
        "no endpoint of `{endpoints}` can be reached{why}. Write ID=HOST:PORT,ID=HOST:PORT"
    )))
}
