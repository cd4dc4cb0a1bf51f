//! What a node is told: the TOML file, its defaults, and the ratios that must hold between values.
//!
//! Every key has a default except who the members are. Unknown keys are errors, so that a misspelt
//! one is not silently ignored. `node --check` prints the outcome.

mod multicast;
mod quantity;
mod validate;

use std::fmt;
use std::path::{Path, PathBuf};

use coracle_core::node::App;
use serde::Deserialize;

pub use quantity::{Size, Span};
pub use validate::ConfigError;

/// The whole configuration of one node, as in its TOML file.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Names the cluster: members of another cluster are rejected, and so are their log files.
    #[serde(default = "defaults::cluster")]
    pub cluster: u64,
    /// Which of `members` this node is.
    pub member: u8,
    /// Where the log, the vote and the counters are kept. One directory for each node.
    pub dir: PathBuf,
    /// Every member of the cluster, this one included: the same list on every node.
    pub members: Vec<MemberSettings>,
    /// The service that runs when the node is started by the `coracle` command.
    #[serde(default)]
    pub service: ServiceKind,
    /// That service runs on a thread of its own: the node's thread does not wait for it. Without
    /// this both are one thread, which is faster as long as the service is.
    #[serde(default)]
    pub service_thread: bool,
    /// The memory of the key-value service, for keys, values and 26 bytes for each; an eighth stays
    /// free. The same on every member. What is not used takes none of the machine's memory.
    #[serde(default = "defaults::kv_memory")]
    pub kv_memory: Size,
    /// What the key-value service may keep of old values for a snapshot that is being written: as
    /// much as the entries that change meanwhile take, if messages are not to wait for it. With `0`
    /// they wait until all is written.
    #[serde(default = "defaults::kv_barrier")]
    pub kv_barrier: Size,
    /// What one service may have armed and offered: timers of 24 bytes in a quarter of it, its
    /// messages on their way into the log in the rest. The same on every member.
    #[serde(default = "defaults::service_memory")]
    pub service_memory: Size,
    /// When a message counts as safe on this member.
    #[serde(default)]
    pub durability: Durability,
    /// What the node's thread does when there is nothing to do.
    #[serde(default)]
    pub idle: Idle,
    /// Length of one log file, a power of two. The same on every member, for ever.
    #[serde(default = "defaults::segment_length")]
    pub segment_length: Size,
    /// The most bytes of disk that the log takes up, files made ahead of need included; at least
    /// eight files. On no member less than on the leader. What is older than the snapshots is
    /// deleted when the room is needed.
    #[serde(default = "defaults::log_max")]
    pub log_max: Size,
    /// A snapshot is taken after so many bytes of log; without this, an eighth of `log_max`.
    #[serde(default)]
    pub snapshot_every: Option<Size>,
    /// A snapshot is taken after so much time, if the log has grown; without this, never for that.
    #[serde(default)]
    pub snapshot_interval: Option<Span>,
    /// After so many bytes of log the members compare the digests of their state; `0`: never. The
    /// same on every member.
    #[serde(default = "defaults::checkpoint_every")]
    pub checkpoint_every: Size,
    /// Who may make the cluster take a snapshot, beside its own policy. The leader's setting
    /// counts.
    #[serde(default)]
    pub admin: Admin,
    /// How much of the newest log is held in memory, a power of two.
    #[serde(default = "defaults::window")]
    pub window: Size,
    /// The largest datagram that is sent, a multiple of 32. The same on every member.
    #[serde(default = "defaults::mtu")]
    pub mtu: Size,
    /// `address:port` of an IPv4 multicast group: a leader sends each byte of the log once for all
    /// followers, through the interface of its `member` endpoint. The same on every member: one
    /// that does not hear the group is sent the log alone. Without this each follower is sent a
    /// copy of its own.
    #[serde(default)]
    pub log_multicast: Option<String>,
    /// How many hops away from its leader a member may be to hear that; 1: on the same network.
    #[serde(default = "defaults::log_multicast_hops")]
    pub log_multicast_hops: u8,
    /// The longest message of a client. The same on every member.
    #[serde(default = "defaults::message_max")]
    pub message_max: Size,
    /// How many client sessions may be open at once; a further client is refused with a text. The
    /// same on every member: a small board in the cluster sets the bound for all.
    #[serde(default = "defaults::sessions_max")]
    pub sessions_max: u32,
    /// How many bytes a session may have sent and not yet had consumed. This, and the next, for
    /// each session that there may be, is reserved as addresses; memory is taken by what is in
    /// them, and by 32 MiB of what was.
    #[serde(default = "defaults::ingress_window")]
    pub ingress_window: Size,
    /// How many bytes of answers are kept for a client that has not taken them yet.
    #[serde(default = "defaults::egress_window")]
    pub egress_window: Size,
    /// Times; see each.
    #[serde(default)]
    pub timings: Timings,
    /// The application's version: its author's business, not its operator's, so no key of the file.
    #[serde(skip)]
    pub app: App,
}

/// One member of the cluster.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MemberSettings {
    /// 0 to 6, each once.
    pub id: u8,
    /// `host:port` (UDP) on which it talks to the other members.
    pub member: String,
    /// `host:port` (UDP) on which it talks to clients.
    pub ingress: String,
}

/// The times that matter to elections and sessions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Timings {
    /// How often a leader says that it lives.
    pub heartbeat: Span,
    /// How long a follower waits without hearing its leader before it looks for a new one.
    pub leader_timeout: Span,
    /// How long a member asks around before it stands for election.
    pub canvass: Span,
    /// A candidate waits a random time up to this, so that two rarely stand at once.
    pub nomination: Span,
    /// How long a candidate waits for votes.
    pub ballot: Span,
    /// A leader whose disk or service has stood still for so long hands over to a member that is
    /// well; without this, twice `leader_timeout`. `0 ms`: never.
    pub sick_after: Option<Span>,
    /// A session whose client is not heard from for this long is closed.
    pub session_timeout: Span,
    /// A session whose client takes no answers for this long is closed.
    pub egress_timeout: Span,
}

impl Default for Timings {
    fn default() -> Self {
        Self {
            heartbeat: Span::from_millis(50),
            leader_timeout: Span::from_millis(400),
            canvass: Span::from_millis(20),
            nomination: Span::from_millis(50),
            ballot: Span::from_millis(150),
            sick_after: None,
            session_timeout: Span::from_millis(10_000),
            egress_timeout: Span::from_millis(5_000),
        }
    }
}

impl Timings {
    /// After what time a leader is unwell; zero: never.
    pub fn sick_after(&self) -> Span {
        self.sick_after.unwrap_or(Span(self.leader_timeout.0 * 2))
    }
}

/// The services that ship with the `coracle` command.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum ServiceKind {
    /// A replicated map from keys to values: see `coracle kv --help`.
    #[default]
    Kv,
    /// Answers every message with itself.
    Echo,
}

/// When a message counts as safe on a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Durability {
    /// When a flush of the file that holds it has returned.
    #[default]
    Durable,
    /// When it has been handed to the operating system: a power cut of a majority loses messages
    /// that were acknowledged.
    ReplicationOnly,
}

/// Which client sessions may administer: that is, make the cluster take a snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Admin {
    /// None.
    #[default]
    Deny,
    /// Every session: for a network that only operators and their programs reach.
    Allow,
}

/// What the node's thread does when there is nothing to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Idle {
    /// Sleeps until a datagram, a finished flush or the next timer.
    #[default]
    Sleep,
    /// Offers its core to others, and looks again.
    Yield,
    /// Looks again at once, for machines with many cores: least latency, one whole core; if
    /// `durable`, the thread that flushes takes another one, and so do services on threads.
    Spin,
}

impl Settings {
    /// Reads and validates a TOML file.
    ///
    /// # Errors
    /// See [`ConfigError`]; each says what to do.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|error| ConfigError::Unreadable {
            path: path.to_path_buf(),
            error,
        })?;
        let settings: Self = toml::from_str(&text).map_err(|error| ConfigError::Syntax {
            path: path.to_path_buf(),
            error: error.to_string(),
        })?;
        Ok(settings)
    }

    /// The defaults for member `member` of `members`, with its data in `dir`.
    pub fn new(member: u8, members: Vec<MemberSettings>, dir: impl Into<PathBuf>) -> Self {
        Self {
            cluster: defaults::cluster(),
            member,
            dir: dir.into(),
            members,
            service: ServiceKind::default(),
            service_thread: false,
            kv_memory: defaults::kv_memory(),
            kv_barrier: defaults::kv_barrier(),
            service_memory: defaults::service_memory(),
            durability: Durability::default(),
            idle: Idle::default(),
            segment_length: defaults::segment_length(),
            log_max: defaults::log_max(),
            snapshot_every: None,
            snapshot_interval: None,
            checkpoint_every: defaults::checkpoint_every(),
            admin: Admin::default(),
            window: defaults::window(),
            mtu: defaults::mtu(),
            log_multicast: None,
            log_multicast_hops: defaults::log_multicast_hops(),
            message_max: defaults::message_max(),
            sessions_max: defaults::sessions_max(),
            ingress_window: defaults::ingress_window(),
            egress_window: defaults::egress_window(),
            timings: Timings::default(),
            app: App::default(),
        }
    }

    /// After how many bytes of log a snapshot is taken.
    pub fn snapshot_bytes(&self) -> Size {
        self.snapshot_every.unwrap_or(Size(self.log_max.0 / 8))
    }

    /// This node's own entry in `members`; `None` only before validation.
    pub fn own(&self) -> Option<&MemberSettings> {
        self.members.iter().find(|m| m.id == self.member)
    }

    /// The ingress addresses as a client is given them: `0=host:port,1=host:port`.
    pub fn ingress_endpoints(&self) -> String {
        let mut text = String::new();
        for member in &self.members {
            if !text.is_empty() {
                text.push(',');
            }
            text.push_str(&format!("{}={}", member.id, member.ingress));
        }
        text
    }
}

impl Settings {
    /// The lines about what runs on the log, and for how many.
    fn fmt_services(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let service = match self.service {
            ServiceKind::Kv => "kv",
            ServiceKind::Echo => "echo",
        };
        writeln!(f, "service = \"{service}\"")?;
        writeln!(f, "service_thread = {}", self.service_thread)?;
        writeln!(f, "kv_memory = \"{}\"", self.kv_memory)?;
        writeln!(f, "kv_barrier = \"{}\"", self.kv_barrier)?;
        writeln!(f, "service_memory = \"{}\"", self.service_memory)
    }
}

impl fmt::Display for Settings {
    /// The effective values, as a TOML file that would give them.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let quoted = |text: &dyn fmt::Display| toml::Value::String(text.to_string()).to_string();
        writeln!(f, "cluster = {}", self.cluster)?;
        writeln!(f, "member = {}", self.member)?;
        writeln!(f, "dir = {}", quoted(&self.dir.display()))?;
        self.fmt_services(f)?;
        let durability = match self.durability {
            Durability::Durable => "durable",
            Durability::ReplicationOnly => "replication-only",
        };
        writeln!(f, "durability = \"{durability}\"")?;
        let idle = match self.idle {
            Idle::Sleep => "sleep",
            Idle::Yield => "yield",
            Idle::Spin => "spin",
        };
        writeln!(f, "idle = \"{idle}\"")?;
        writeln!(f, "segment_length = \"{}\"", self.segment_length)?;
        writeln!(f, "log_max = \"{}\"", self.log_max)?;
        match self.snapshot_every {
            Some(size) => writeln!(f, "snapshot_every = \"{size}\"")?,
            None => {
                let every = self.snapshot_bytes();
                writeln!(f, "# snapshot_every = \"{every}\" (an eighth of log_max)")?;
            }
        }
        match self.snapshot_interval {
            Some(span) => writeln!(f, "snapshot_interval = \"{span}\"")?,
            None => writeln!(f, "# snapshot_interval: off; for example \"1 h\"")?,
        }
        writeln!(f, "checkpoint_every = \"{}\"", self.checkpoint_every)?;
        let admin = match self.admin {
            Admin::Deny => "deny",
            Admin::Allow => "allow",
        };
        writeln!(f, "admin = \"{admin}\"")?;
        writeln!(f, "window = \"{}\"", self.window)?;
        writeln!(f, "mtu = \"{}\"", self.mtu)?;
        self.fmt_multicast(f)?;
        writeln!(f, "message_max = \"{}\"", self.message_max)?;
        writeln!(f, "sessions_max = {}", self.sessions_max)?;
        writeln!(f, "ingress_window = \"{}\"", self.ingress_window)?;
        writeln!(f, "egress_window = \"{}\"", self.egress_window)?;
        for member in &self.members {
            writeln!(f, "\n[[members]]")?;
            writeln!(f, "id = {}", member.id)?;
            writeln!(f, "member = {}", quoted(&member.member))?;
            writeln!(f, "ingress = {}", quoted(&member.ingress))?;
        }
        let t = &self.timings;
        writeln!(f, "\n[timings]")?;
        writeln!(f, "heartbeat = \"{}\"", t.heartbeat)?;
        writeln!(f, "leader_timeout = \"{}\"", t.leader_timeout)?;
        writeln!(f, "canvass = \"{}\"", t.canvass)?;
        writeln!(f, "nomination = \"{}\"", t.nomination)?;
        writeln!(f, "ballot = \"{}\"", t.ballot)?;
        let sick_after = t.sick_after();
        match t.sick_after {
            Some(_) => writeln!(f, "sick_after = \"{sick_after}\"")?,
            None => writeln!(f, "# sick_after = \"{sick_after}\" (twice leader_timeout)")?,
        }
        writeln!(f, "session_timeout = \"{}\"", t.session_timeout)?;
        writeln!(f, "egress_timeout = \"{}\"", t.egress_timeout)
    }
}

mod defaults {
    use super::Size;

    pub fn cluster() -> u64 {
        1
    }
    pub fn kv_memory() -> Size {
        Size(256 << 20)
    }
    pub fn kv_barrier() -> Size {
        Size(64 << 20)
    }
    pub fn service_memory() -> Size {
        Size(4 << 20)
    }
    pub fn segment_length() -> Size {
        Size(16 << 20)
    }
    pub fn log_max() -> Size {
        Size(1 << 30)
    }
    pub fn checkpoint_every() -> Size {
        Size(1 << 20)
    }
    pub fn window() -> Size {
        Size(8 << 20)
    }
    pub fn mtu() -> Size {
        Size(coracle_core::limits::MTU_DEFAULT as u64)
    }
    pub fn log_multicast_hops() -> u8 {
        1
    }
    pub fn message_max() -> Size {
        Size(1 << 20)
    }
    pub fn sessions_max() -> u32 {
        1_000
    }
    pub fn ingress_window() -> Size {
        Size(256 << 10)
    }
    pub fn egress_window() -> Size {
        Size(2 << 20)
    }
}
