//! A member of a cluster on this machine: the node's thread, and the door for programs that bring
//! their own `Service`.
//!
//! ```no_run
//! use coracle_core::service::{Cluster, Service};
//! use coracle_core::units::SessionId;
//! use coracle_std::{config::Settings, node::NodeBuilder};
//!
//! #[derive(Default)]
//! struct Counter(u64);
//!
//! impl Service for Counter {
//!     fn on_session_message(&mut self, cluster: &mut Cluster<'_>, session: SessionId, _: &[u8]) {
//!         self.0 += 1;
//!         let _closed = cluster.offer(session, &[&self.0.to_le_bytes()]);
//!     }
//!     fn digest(&self) -> u64 {
//!         self.0
//!     }
//! }
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let settings = Settings::load("node.toml".as_ref())?;
//! NodeBuilder::new(settings).run(Counter::default())?;
//! # Ok(())
//! # }
//! ```

mod begin;
mod cold;
mod doors;
mod events;
mod glance;
mod keeper;
mod memory;
mod peers;
mod runner;
mod services;
mod shared;
mod trace;

pub use runner::Runner;
pub use services::{Hosted, Services};

use std::fmt;
use std::io;
use std::os::fd::BorrowedFd;
use std::path::PathBuf;
use std::thread::JoinHandle;

use coracle_core::limits::SERVICES_MAX;
use coracle_core::node::clients::session_limit;
use coracle_core::node::{App, ConfigError as CoreConfigError, Halt, Node};

use crate::clock::random_seed;
use crate::config::{ConfigError, Settings};
use crate::net::GroupError;
use crate::net::socket::BindError;
use crate::signals::StopSignal;
use crate::storage::log::fill_for;
use crate::storage::{DataDir, NodeStateFile, StorageError};
use coracle_core::log::{NodeState, Roster};
use coracle_core::units::{ClusterId, Incarnation, MemberId, ServiceId, Term};

/// How many client sessions a node has tables for, with some for refusing further ones. Tables that
/// are not used cost no time, and memory of about 3 KiB for each.
pub const SESSIONS: usize = 1_056;

/// The most that `sessions_max` may be.
pub const SESSIONS_MAX: usize = session_limit(SESSIONS, usize::MAX);

/// Why a node ended, or did not start.
#[derive(Debug)]
#[non_exhaustive]
pub enum NodeError {
    /// The settings are not valid.
    Config(ConfigError),
    /// The core refuses the settings.
    Core(CoreConfigError),
    /// The data directory cannot be used, or a disk failed.
    Storage(StorageError),
    /// A socket could not be bound.
    Bind(BindError),
    /// The multicast group of the log cannot be used.
    Group(GroupError),
    /// An endpoint of this member has no address.
    Name {
        /// The endpoint.
        endpoint: String,
        /// What the system said.
        error: io::Error,
    },
    /// The system refused something else.
    System(io::Error),
    /// The node refuses to go on.
    Halted(Halt),
    /// The member must begin anew, and a service that is stuck or has failed cannot.
    Service(ServiceId),
    /// The member must begin anew, without the snapshot that its services' state came of: the log
    /// from its start on would be executed by services that have a state.
    StateLeft,
}

/// What is readable when there is work; see [`Runner::fds`].
pub type Fds<'a> = heapless::Vec<BorrowedFd<'a>, 4>;

/// The core's node, as large as it is here.
type Core = Node<SESSIONS, SERVICES_MAX>;

impl fmt::Display for NodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Config(error) => error.fmt(f),
            Self::Core(error) => error.fmt(f),
            Self::Storage(error) => error.fmt(f),
            Self::Bind(error) => error.fmt(f),
            Self::Group(error) => error.fmt(f),
            Self::Name { endpoint, error } => write!(
                f,
                "this member's own endpoint `{endpoint}` has no address: {error}. Correct it, or \
                 the machine's name service"
            ),
            Self::System(error) => write!(f, "the system refused: {error}"),
            Self::Halted(halt) => write!(
                f,
                "{halt}: this member stops rather than serve what may be wrong. Keep its \
                 directory, and let the others go on"
            ),
            Self::Service(service) => write!(
                f,
                "this member has received a snapshot, or its log was healed, and service {} cannot \
                 take the state over because it is stuck in a callback or has failed: start the \
                 member again",
                service.get()
            ),
            Self::StateLeft => f.write_str(
                "this member begins anew, and the snapshot that its services' state came of cannot \
                 be read any more: start the member again, and they begin with the log",
            ),
        }
    }
}

impl std::error::Error for NodeError {}

impl From<ConfigError> for NodeError {
    fn from(error: ConfigError) -> Self {
        Self::Config(error)
    }
}

impl From<StorageError> for NodeError {
    fn from(error: StorageError) -> Self {
        Self::Storage(error)
    }
}

impl From<BindError> for NodeError {
    fn from(error: BindError) -> Self {
        Self::Bind(error)
    }
}

impl From<GroupError> for NodeError {
    fn from(error: GroupError) -> Self {
        Self::Group(error)
    }
}

impl From<io::Error> for NodeError {
    fn from(error: io::Error) -> Self {
        Self::System(error)
    }
}

/// What is needed to run one member.
#[derive(Clone, Debug)]
pub struct NodeBuilder {
    settings: Settings,
    make: Option<Make>,
    stop: StopSignal,
    trace: Option<PathBuf>,
}

/// How a directory that is missing or empty is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Make {
    /// As `coracle init` does: only for the first start of a new cluster.
    Init,
    /// As `coracle init --replace` does: in place of one that was lost.
    Replace,
}

impl NodeBuilder {
    /// A member with these settings.
    pub fn new(settings: Settings) -> Self {
        Self {
            settings,
            make: None,
            stop: StopSignal::default(),
            trace: None,
        }
    }

    /// Whether a missing or empty directory is made, as `coracle init` does: only for the first
    /// start of a new cluster. A directory that was made before is used as it is.
    #[must_use]
    pub fn init(self, init: bool) -> Self {
        self.make(init.then_some(Make::Init))
    }

    /// Whether, and how, a missing or empty directory is made. A directory that was made before is
    /// used as it is.
    #[must_use]
    pub fn make(mut self, make: Option<Make>) -> Self {
        self.make = make;
        self
    }

    /// Which version of the application the service is, and whose snapshots it reads. Members of
    /// one major version work together, so that a minor one can be rolled out member by member;
    /// without this, the version is 0.0.1.
    #[must_use]
    pub fn app(mut self, app: App) -> Self {
        self.settings.app = app;
        self
    }

    /// What tells the node to close; without this, only its handle does.
    #[must_use]
    pub fn stop_signal(mut self, stop: StopSignal) -> Self {
        self.stop = stop;
        self
    }

    /// For a picture of the pipeline: notes when each stage had which part of the log, and writes
    /// the newest notes to this file when the member closes.
    #[must_use]
    pub fn trace(mut self, path: Option<PathBuf>) -> Self {
        self.trace = path;
        self
    }

    /// Runs the member on this thread until it is told to close.
    ///
    /// # Errors
    /// See [`NodeError`]. After an error nothing that was acknowledged is lost.
    pub fn run(self, services: impl Hosted) -> Result<(), NodeError> {
        self.start(services)?.run()
    }

    /// Starts the member for a poll loop of the caller's own: see [`Runner::poll`]. No thread is
    /// started but those that wait for the disk and for the name service, and those that
    /// [`Services`] ask for.
    ///
    /// # Errors
    /// See [`NodeError`].
    pub fn start<S: Hosted>(self, services: S) -> Result<Runner<S>, NodeError> {
        self.settings.validate()?;
        if !is_initialised(&self.settings) {
            match self.make {
                Some(Make::Init) => init(&self.settings)?,
                Some(Make::Replace) => replace(&self.settings)?,
                None => {}
            }
        }
        Runner::start(self.settings, services, self.stop, self.trace)
    }

    /// Runs the member on a thread of its own.
    ///
    /// # Errors
    /// The system refuses another thread; all else comes out of [`NodeHandle::join`].
    pub fn spawn(self, services: impl Hosted + Send + 'static) -> io::Result<NodeHandle> {
        let stop = self.stop.clone();
        let thread = std::thread::Builder::new()
            .name(format!("member-{}", self.settings.member))
            .spawn(move || self.run(services))?;
        Ok(NodeHandle { thread, stop })
    }
}

/// A member that runs on a thread of its own.
#[derive(Debug)]
pub struct NodeHandle {
    thread: JoinHandle<Result<(), NodeError>>,
    stop: StopSignal,
}

impl NodeHandle {
    /// Tells the member to close: a leader hands over first. Noticed within 100 ms.
    pub fn close(&self) {
        self.stop.set();
    }

    /// Whether the member has ended.
    pub fn is_finished(&self) -> bool {
        self.thread.is_finished()
    }

    /// Waits until the member has ended.
    ///
    /// # Errors
    /// See [`NodeError`]; a service that panics is one of `System`.
    pub fn join(self) -> Result<(), NodeError> {
        self.thread
            .join()
            .unwrap_or_else(|_| Err(NodeError::System(io::Error::other("the service panicked"))))
    }
}

/// Whether the directory of `settings` was made by `init`.
pub fn is_initialised(settings: &Settings) -> bool {
    settings.dir.join("node-state").exists()
}

/// Makes the directory of a member of a new cluster, which must be empty or missing.
///
/// # Errors
/// [`StorageError::NotEmpty`], or any error of the system.
pub fn init(settings: &Settings) -> Result<(), NodeError> {
    make(settings, Incarnation::FIRST, true)
}

/// Makes the directory of a member whose old one was lost; it must be empty or missing. It has a
/// life of its own: the member neither votes nor counts until it has all that is committed, and a
/// quorum of the others knows that it takes the old one's place.
///
/// # Errors
/// [`StorageError::NotEmpty`], a cluster of one or two, or any error of the system.
pub fn replace(settings: &Settings) -> Result<(), NodeError> {
    if settings.members.len() < 3 {
        let text = "in a cluster of one or two there is no quorum without the lost member, so \
                    nobody leads that could fill a new directory: restore the old one from a \
                    copy, or begin a new cluster with `coracle init`";
        return Err(ConfigError::Value(text.into()).into());
    }
    // Never that of `init`, and different from that of any directory before it.
    let random = random_seed() | 1 << 63;
    make(settings, Incarnation(random), false)
}

fn make(settings: &Settings, incarnation: Incarnation, votes: bool) -> Result<(), NodeError> {
    settings.validate()?;
    DataDir::require_empty(&settings.dir)?;
    let dir = DataDir::open(&settings.dir)?;
    let (member, cluster) = (member_id(settings)?, ClusterId(settings.cluster));
    let segment_length = settings.segment_length.0 as u32;
    dir.make_log(cluster, segment_length, fill_for(settings.durability))?;
    let state = NodeState {
        cluster,
        member,
        incarnation,
        term: Term::ZERO,
        vote: None,
        votes,
        quarantined: false,
        roster: Roster::FIRST,
    };
    NodeStateFile::create(dir.path(), &state)?;
    Ok(())
}

fn member_id(settings: &Settings) -> Result<MemberId, NodeError> {
    MemberId::new(settings.member).ok_or(NodeError::Core(CoreConfigError::NotAMember))
}
