//! What a node is told at construction, and the memory it is lent at each call.

use core::fmt::Write as _;
use core::net::SocketAddr;
use core::time::Duration;

use super::retain::SEGMENTS_MIN;
use crate::limits::{
    ENDPOINT_MAX, FRAME_ALIGNMENT, MEMBERS_MAX, MESSAGE_MAX, MTU_DEFAULT, MTU_MAX, MTU_MIN,
    SEGMENT_MAX, SEGMENT_MIN, SERVICES_MAX,
};
use crate::log::Log;
use crate::raft::Timing;
use crate::units::{AppVersion, ClusterId, MemberId, MemberSet};

/// Where a member is reached.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct MemberAddress {
    /// The source and destination of member traffic; datagrams from elsewhere are rejects.
    pub member: SocketAddr,
    /// The `host:port` that clients are told, as the operator wrote it.
    pub ingress: heapless::String<ENDPOINT_MAX>,
}

impl MemberAddress {
    /// Where both are known as addresses: clients are told the second one's text.
    pub fn new(member: SocketAddr, ingress: SocketAddr) -> Self {
        let mut text = heapless::String::new();
        // The longest text of a socket address has 58 bytes.
        let _fits = write!(text, "{ingress}").is_ok();
        Self {
            member,
            ingress: text,
        }
    }
}

/// How client sessions are kept.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct SessionTiming {
    /// A session that is not heard from for so long is closed (Aeron: `SESSION_TIMEOUT`).
    pub session_timeout: Duration,
    /// A session whose egress makes no progress for so long is closed.
    pub egress_timeout: Duration,
}

impl Default for SessionTiming {
    /// 10 s as in Aeron, and 5 s.
    fn default() -> Self {
        let session_timeout = Duration::from_secs(10);
        Self {
            session_timeout,
            egress_timeout: Duration::from_secs(5),
        }
    }
}

/// When the leader makes every member take a snapshot, beside when it is asked to.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct SnapshotPolicy {
    /// Whether this member takes snapshots at all: its driver calls `poll_snapshot`.
    pub enabled: bool,
    /// After so many bytes of log since the last one; 0: never for that.
    pub every_bytes: u64,
    /// After so much time since the last one, if the log has grown; zero: never for that.
    pub interval: Duration,
}

/// Which application runs, by its author's own numbers.
///
/// The version is in every snapshot and every term's first record. Members of one major version
/// work together, so that a minor one is rolled out member by member; of two, they do not.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct App {
    /// The version that this is.
    pub version: AppVersion,
    /// The oldest version whose snapshots it reads: those of its own major version, unless the
    /// author says otherwise. The newest is any of its own major version.
    pub reads_from: AppVersion,
}

impl App {
    /// A version that reads the snapshots of its own major version (Aeron: `AppVersionValidator`).
    pub const fn new(version: AppVersion) -> Self {
        let reads_from = AppVersion::from_wire(version.major() << 16);
        Self {
            version,
            reads_from,
        }
    }

    /// Whether a snapshot that `written` has written can be read.
    pub const fn reads(&self, written: AppVersion) -> bool {
        written.major() <= self.version.major() && written.to_wire() >= self.reads_from.to_wire()
    }
}

impl Default for App {
    /// 0.0.1, for who has no versions.
    fn default() -> Self {
        Self::new(AppVersion::new(0, 0, 1))
    }
}

/// What a node is told at construction.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Config {
    /// Names the cluster; every member has the same.
    pub cluster: ClusterId,
    /// This member.
    pub member: MemberId,
    /// All members, this one too, by slot.
    pub members: [Option<MemberAddress>; MEMBERS_MAX],
    /// Where a leader sends the log to all followers at once: a multicast group that the driver of
    /// each has joined, and whose datagrams it hands over as those of the member door. Without one
    /// each follower is sent a copy of its own. Only what this member does as a leader depends on
    /// it: members may differ.
    pub log_group: Option<SocketAddr>,
    /// Elections and heartbeats.
    pub timing: Timing,
    /// Client sessions.
    pub sessions: SessionTiming,
    /// How many of them may be open at once; the same on every member. In effect never more than a
    /// node of `N` slots can serve while it keeps some for refusals: see `Clients::session_limit`.
    pub sessions_max: usize,
    /// The length of a log segment in bytes: a power of two; the same on every member. No log has
    /// more than 2^31 of them: in segments of 64 KiB it is full for ever at 128 TiB.
    pub segment_length: u32,
    /// The longest frame and member datagram in bytes: a multiple of 32; the same on every member.
    pub mtu: usize,
    /// The longest client message in bytes, without headers; the same on every member: what one
    /// member lets into the log, every member's services must be able to take.
    pub message_max: usize,
    /// The largest datagram of an egress stream in bytes: a multiple of 32.
    pub egress_mtu: usize,
    /// The application's version, which members must be able to work together in.
    pub app: App,
    /// How many services run on the log: 1 to `SERVICES_MAX`; the same on every member.
    pub services: usize,
    /// When snapshots are taken.
    pub snapshots: SnapshotPolicy,
    /// The most bytes of log on disk, segments made ahead included; 0: no bound. At least eight
    /// segments, and several times what is between two snapshots; the same on every member: a
    /// leader lets in what its own disk has room for.
    pub log_max: u64,
    /// After how many bytes of log the members compare their state; 0: never. The same on every
    /// member.
    pub checkpoint_every: u64,
    /// For delays and stream session ids. Different on every member and at every start.
    pub seed: u64,
}

/// Why a configuration cannot work.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[non_exhaustive]
pub enum ConfigError {
    /// `member` is not among `members`.
    NotAMember,
    /// `segment_length` is not a power of two from 64 KiB to 1 GiB.
    SegmentLength,
    /// `mtu` or `egress_mtu` is not a multiple of 32 from 256 to 65,504.
    Mtu,
    /// `message_max` is 0, over 16 MiB, or over an eighth of a segment.
    MessageMax,
    /// No session may be open.
    SessionsMax,
    /// There are no services, or more than the node has room for.
    Services,
    /// The bound of the log is less than eight segments, or than two snapshots apart.
    LogMax,
    /// `log_group` is no multicast address, has no port, or is not of the family of this member's.
    LogGroup,
    /// A heartbeat or canvass interval is zero or not well below the leader timeout.
    Timing,
    /// The nomination delay or the ballot timeout is zero: without the first, members that lose
    /// their leader at one moment stand at one moment, again and again; without the second, a
    /// ballot is over before anybody has answered.
    Election,
    /// A period is longer than a year.
    Period,
    /// The node state is of another cluster or another member.
    WrongNodeState,
    /// The node state is older than the log: a backup, or of another directory. Its votes are lost.
    StateBehindLog,
}

impl core::fmt::Display for ConfigError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            Self::NotAMember => "this member is not in the list of members",
            Self::SegmentLength => "the segment length is no power of two from 64 KiB to 1 GiB",
            Self::Mtu => "an MTU is no multiple of 32 from 256 to 65504",
            Self::MessageMax => {
                "the longest message is 0, over 16 MiB or over an eighth of a segment"
            }
            Self::SessionsMax => "no session may be open",
            Self::Services => "there is no service, or more than this node has room for",
            Self::LogMax => {
                "the bound of the log is below eight segments, or below two snapshot periods"
            }
            Self::LogGroup => {
                "the log's group is no multicast address and port of the member endpoint's family"
            }
            Self::Timing => {
                "the heartbeat or canvass interval is 0 or over a third of the leader timeout"
            }
            Self::Election => "the nomination delay or the ballot timeout is 0: nobody would win",
            Self::Period => "a period is longer than a year",
            Self::WrongNodeState => "the node state belongs to another cluster or another member",
            Self::StateBehindLog => "the node state is older than the log: a vote may be lost",
        })
    }
}

impl core::error::Error for ConfigError {}

/// The longest period there may be: what is counted from it in nanoseconds, doubled as often as
/// elections double it, stays far below 64 bits.
const PERIOD_MAX: Duration = Duration::from_secs(365 * 24 * 3600);

impl Config {
    /// Member `member` of `members`, which are by slot: what has to be said of every node. The rest
    /// is this, to be changed where it does not do:
    ///
    /// - periods as [`Timing`] and [`SessionTiming`] have them by default; as many sessions as the
    ///   node has room for
    /// - segments of 64 KiB, datagrams of 1,408 bytes, messages of up to 4 KiB
    /// - one service, of version 0.0.1
    /// - no snapshots and no bound of the log, no multicast group, states are not compared
    ///
    /// `seed` is another one on every member and at every start.
    pub fn new(
        cluster: ClusterId,
        member: MemberId,
        members: [Option<MemberAddress>; MEMBERS_MAX],
        seed: u64,
    ) -> Self {
        Self {
            cluster,
            member,
            members,
            log_group: None,
            timing: Timing::default(),
            sessions: SessionTiming::default(),
            sessions_max: usize::MAX,
            segment_length: SEGMENT_MIN,
            mtu: MTU_DEFAULT,
            message_max: 4 * 1024,
            egress_mtu: MTU_DEFAULT,
            app: App::default(),
            services: 1,
            snapshots: SnapshotPolicy::default(),
            log_max: 0,
            checkpoint_every: 0,
            seed,
        }
    }

    /// Of a node that has not begun. It does not pass [`Self::check`].
    pub(super) const NONE: Self = Self {
        cluster: ClusterId(0),
        member: MemberId::FIRST,
        members: [const { None }; MEMBERS_MAX],
        log_group: None,
        timing: Timing::from_leader_timeout(Duration::ZERO),
        sessions: SessionTiming {
            session_timeout: Duration::ZERO,
            egress_timeout: Duration::ZERO,
        },
        sessions_max: 0,
        segment_length: 0,
        mtu: 0,
        message_max: 0,
        egress_mtu: 0,
        app: App::new(AppVersion::new(0, 0, 1)),
        services: 0,
        snapshots: SnapshotPolicy {
            enabled: false,
            every_bytes: 0,
            interval: Duration::ZERO,
        },
        log_max: 0,
        checkpoint_every: 0,
        seed: 0,
    };

    /// Checks every bound.
    ///
    /// # Errors
    /// The first bound that does not hold.
    pub fn check(&self) -> Result<(), ConfigError> {
        if self.address(self.member).is_none() {
            return Err(ConfigError::NotAMember);
        }
        let segment = self.segment_length;
        if !segment.is_power_of_two() || !(SEGMENT_MIN..=SEGMENT_MAX).contains(&segment) {
            return Err(ConfigError::SegmentLength);
        }
        let mtu_fits =
            |mtu: usize| (MTU_MIN..=MTU_MAX).contains(&mtu) && mtu.is_multiple_of(FRAME_ALIGNMENT);
        if !mtu_fits(self.mtu) || !mtu_fits(self.egress_mtu) {
            return Err(ConfigError::Mtu);
        }
        let longest = MESSAGE_MAX.min(segment as usize / 8);
        if self.message_max == 0 || self.message_max > longest {
            return Err(ConfigError::MessageMax);
        }
        if self.sessions_max == 0 {
            return Err(ConfigError::SessionsMax);
        }
        if self.services == 0 || self.services > SERVICES_MAX {
            return Err(ConfigError::Services);
        }
        let least =
            (SEGMENTS_MIN * u64::from(segment)).max(self.snapshots.every_bytes.saturating_mul(2));
        if self.log_max != 0 && self.log_max < least {
            return Err(ConfigError::LogMax);
        }
        let own = self.address(self.member).map(|a| a.member.is_ipv4());
        let fits = |group: SocketAddr| {
            group.ip().is_multicast() && group.port() != 0 && Some(group.is_ipv4()) == own
        };
        if self.log_group.is_some_and(|group| !fits(group)) {
            return Err(ConfigError::LogGroup);
        }
        let timing = &self.timing;
        let third = timing.leader_timeout / 3;
        let short = |period: Duration| !period.is_zero() && period <= third;
        if !short(timing.heartbeat_interval) || !short(timing.canvass_interval) {
            return Err(ConfigError::Timing);
        }
        if timing.nomination_delay.is_zero() || timing.ballot_timeout.is_zero() {
            return Err(ConfigError::Election);
        }
        let periods = [
            timing.leader_timeout,
            timing.nomination_delay,
            timing.ballot_timeout,
            timing.sick_after,
            self.sessions.session_timeout,
            self.sessions.egress_timeout,
            self.snapshots.interval,
        ];
        if periods.iter().any(|period| *period > PERIOD_MAX) {
            return Err(ConfigError::Period);
        }
        Ok(())
    }

    /// All members.
    pub fn member_set(&self) -> MemberSet {
        let mut set = MemberSet::EMPTY;
        for id in (0..MEMBERS_MAX as u8).filter_map(MemberId::new) {
            if self.address(id).is_some() {
                set.insert(id);
            }
        }
        set
    }

    /// Where `member` is reached.
    pub fn address(&self, member: MemberId) -> Option<&MemberAddress> {
        self.members.get(member.slot()).and_then(Option::as_ref)
    }

    /// Whose address this is. An IPv4 address and the same mapped into IPv6 are equal.
    pub fn member_at(&self, from: SocketAddr) -> Option<MemberId> {
        // Nearly always it is the very address.
        let is_same = |m: &Option<MemberAddress>| matches!(m, Some(a) if a.member == from);
        if let Some(found) = self.members.iter().position(is_same) {
            return MemberId::new(found as u8);
        }
        let canonical = |a: SocketAddr| (a.ip().to_canonical(), a.port());
        let is_from = |a: &MemberAddress| {
            // Ports first: the rest is rarely worth a look.
            a.member.port() == from.port() && canonical(a.member) == canonical(from)
        };
        let found = self
            .members
            .iter()
            .position(|m| m.as_ref().is_some_and(is_from))?;
        MemberId::new(found as u8)
    }
}

/// All the memory a node is lent. It keeps no reference: the same memory is passed to each call.
pub struct Lent<'a, L: Log> {
    /// The log's window.
    pub log: &'a mut L,
    /// Receive windows of ingress streams: equal slots, as many as `clients::places` says.
    pub ingress: &'a mut [u8],
    /// Slots in which clients' fragmented messages are put together.
    pub reassembly: &'a mut [u8],
    /// Send windows of egress streams: as many equal slots.
    pub egress: &'a mut [u8],
    /// Bytes recalled from storage to be executed.
    pub replay: &'a mut [u8],
    /// Bytes recalled from storage to be sent to a follower.
    pub catchup: &'a mut [u8],
    /// Where committed fragmented messages are put together: `message_max` and 64 bytes more; with
    /// several services twice that.
    pub assembly: &'a mut [u8],
    /// What services have armed and offered: one equal share for each, a quarter of it for timers
    /// of 24 bytes, the rest for messages on their way into the log. As long on every member.
    pub services: &'a mut [u8],
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> Config {
        let at = |n: usize, port| SocketAddr::from(([10, 0, 0, 1 + n as u8], port));
        let listed = |n| MemberAddress::new(at(n, 9000), at(n, 9001));
        let members = core::array::from_fn(|n| (n < 3).then(|| listed(n)));
        Config::new(ClusterId(1), MemberId::FIRST, members, 7)
    }

    #[test]
    fn what_has_to_be_said_of_a_node_is_enough() {
        let config = config();
        assert_eq!(config.check(), Ok(()));
        assert_eq!(config.member_set().len(), 3);
        let second = config.members.get(1).cloned().flatten();
        assert_eq!(second.map(|m| m.ingress).as_deref(), Some("10.0.0.2:9001"));
    }

    #[test]
    fn the_longest_address_fits() {
        let ip = core::net::Ipv6Addr::from(u128::MAX);
        let address = core::net::SocketAddrV6::new(ip, u16::MAX, 0, u32::MAX).into();
        let MemberAddress { ingress, .. } = MemberAddress::new(address, address);
        assert_eq!(ingress.parse(), Ok(address));
    }

    #[test]
    fn members_that_could_never_be_elected_are_refused() {
        let with = |change: fn(&mut Timing)| {
            let mut config = config();
            change(&mut config.timing);
            config.check()
        };
        let short = Duration::from_nanos(1);
        for (change, expected) in [
            (
                (|t| t.nomination_delay = Duration::ZERO) as fn(&mut Timing),
                ConfigError::Election,
            ),
            (|t| t.ballot_timeout = Duration::ZERO, ConfigError::Election),
            (
                |t| t.heartbeat_interval = Duration::ZERO,
                ConfigError::Timing,
            ),
            (|t| t.ballot_timeout = Duration::MAX, ConfigError::Period),
            (|t| t.leader_timeout = Duration::MAX, ConfigError::Period),
            (|t| t.sick_after = Duration::MAX, ConfigError::Period),
        ] {
            assert_eq!(with(change), Err(expected));
        }
        let mut brief = config();
        (brief.timing.nomination_delay, brief.timing.ballot_timeout) = (short, short);
        brief.timing.sick_after = Duration::ZERO;
        assert_eq!(brief.check(), Ok(()));
    }

    #[test]
    fn an_application_reads_snapshots_of_its_major_version_or_from_where_its_author_says() {
        let app = App::new(AppVersion::new(2, 1, 0));
        let v = AppVersion::new;
        for (written, is_read) in [
            (v(1, 9, 9), false),
            (v(2, 0, 0), true),
            (v(2, 1, 0), true),
            (v(2, 9, 0), true),
            (v(3, 0, 0), false),
            (AppVersion::from_wire(-1), false),
        ] {
            assert_eq!(app.reads(written), is_read, "{written}");
        }
        let migrates = App {
            reads_from: v(1, 4, 0),
            ..app
        };
        assert!(migrates.reads(v(1, 4, 0)) && migrates.reads(v(2, 5, 0)));
        assert!(!migrates.reads(v(1, 3, 9)) && !migrates.reads(v(3, 0, 0)));
    }
}
