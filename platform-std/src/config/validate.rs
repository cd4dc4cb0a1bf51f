//! What must hold between the values of a configuration, and what to say when it does not.

use std::fmt;
use std::io;
use std::path::PathBuf;

use coracle_core::limits::{
    ENDPOINT_MAX, FRAME_ALIGNMENT, MEMBERS_MAX, MESSAGE_MAX, MTU_MAX, MTU_MIN, SEGMENT_MAX,
    SEGMENT_MIN,
};

use super::{ServiceKind, Settings, Size};
use crate::node::SESSIONS_MAX;
use crate::storage::segment::HEADER_LENGTH;

/// Why a configuration is refused. Each text says what to do.
#[derive(Debug)]
#[non_exhaustive]
pub enum ConfigError {
    /// The file cannot be read.
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// The file is not TOML, or has an unknown key or a value of the wrong kind.
    Syntax {
        /// The file.
        path: PathBuf,
        /// Where and what.
        error: String,
    },
    /// A value is out of its bounds, or does not go with another.
    Value(String),
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreadable { path, error } => write!(
                f,
                "cannot read the configuration {}: {error}. Give its path with --config, or give \
                 --member, --dir and one --peer for each member",
                path.display()
            ),
            Self::Syntax { path, error } => {
                write!(f, "in the configuration {}: {error}", path.display())
            }
            Self::Value(text) => f.write_str(text),
        }
    }
}

impl std::error::Error for ConfigError {}

/// The key-value service counts its bytes with 32 bits.
const KV_MEMORY_MAX: u64 = 4 << 30;

/// The most that the log's window may be, in bytes: of more there is no address space everywhere.
const WINDOW_MAX: u64 = 64 << 30;

impl Settings {
    /// Checks every bound and every ratio.
    ///
    /// # Errors
    /// [`ConfigError::Value`] for the first that does not hold.
    pub fn validate(&self) -> Result<(), ConfigError> {
        self.validate_members()
            .and_then(|()| self.validate_multicast())
            .and_then(|()| self.validate_sizes())
            .and_then(|()| self.validate_kv())
            .and_then(|()| self.validate_service_memory())
            .and_then(|()| self.validate_snapshots())
            .and_then(|()| self.validate_timings())
            .map_err(ConfigError::Value)
    }

    fn validate_members(&self) -> Result<(), String> {
        if self.members.is_empty() || self.members.len() > MEMBERS_MAX {
            return Err(format!(
                "`members` lists {} members: a cluster has 1 to {MEMBERS_MAX}; add one \
                 [[members]] entry for each",
                self.members.len()
            ));
        }
        for (at, member) in self.members.iter().enumerate() {
            let id = member.id;
            if usize::from(id) >= self.members.len() {
                return Err(format!(
                    "member id {id} is out of range: number the {} members 0 to {}",
                    self.members.len(),
                    self.members.len() - 1
                ));
            }
            if self.members.iter().skip(at + 1).any(|m| m.id == id) {
                return Err(format!("member id {id} is listed twice: give each its own"));
            }
            for (key, endpoint) in [("member", &member.member), ("ingress", &member.ingress)] {
                validate_endpoint(id, key, endpoint)?;
            }
        }
        let mut endpoints: Vec<&str> = self
            .members
            .iter()
            .flat_map(|m| [m.member.as_str(), m.ingress.as_str()])
            .collect();
        endpoints.sort_unstable();
        if let Some(pair) = endpoints.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(format!(
                "`{}` is used twice: every member and every ingress endpoint needs its own port",
                pair[0]
            ));
        }
        if self.own().is_none() {
            return Err(format!(
                "`member = {}` is not among `members`: list this node too, the same list on every \
                 node",
                self.member
            ));
        }
        Ok(())
    }

    fn validate_sizes(&self) -> Result<(), String> {
        let segment = self.segment_length.0;
        within(
            "segment_length",
            self.segment_length,
            SEGMENT_MIN.into(),
            SEGMENT_MAX.into(),
        )?;
        power_of_two("segment_length", self.segment_length)?;
        within("mtu", self.mtu, MTU_MIN as u64, MTU_MAX as u64)?;
        if !self.mtu.0.is_multiple_of(FRAME_ALIGNMENT as u64) {
            return Err(format!(
                "`mtu` is {} bytes: make it a multiple of {FRAME_ALIGNMENT}, for example {}",
                self.mtu.0,
                self.mtu.0 / 32 * 32
            ));
        }
        power_of_two("window", self.window)?;
        if self.window.0 > WINDOW_MAX {
            return Err(format!(
                "`window` is {}: it must be at most {}, all of which is memory",
                self.window,
                Size(WINDOW_MAX)
            ));
        }
        let longest = (segment / 8).min(MESSAGE_MAX as u64);
        within("message_max", self.message_max, 1, longest).map_err(|e| {
            format!("{e} (an eighth of `segment_length`: raise that to allow longer messages)")
        })?;
        // A whole message, its frames' headers and pads must fit in the window while it is
        // appended.
        let needed = (self.message_max.0 * 2).next_power_of_two().max(64 << 10);
        if self.window.0 < needed {
            return Err(format!(
                "`window` is {}: at least {} is needed for messages of {}; raise `window` or lower \
                 `message_max`",
                self.window,
                Size(needed),
                self.message_max
            ));
        }
        if !(1..=SESSIONS_MAX as u32).contains(&self.sessions_max) {
            return Err(format!(
                "`sessions_max` is {}: it must be between 1 and {SESSIONS_MAX}",
                self.sessions_max
            ));
        }
        for (key, size) in [
            ("ingress_window", self.ingress_window),
            ("egress_window", self.egress_window),
        ] {
            power_of_two(key, size)?;
            within(key, size, 64 << 10, 1 << 30)?;
        }
        // A whole answer, cut into frames with their headers, waits there until it is taken.
        let needed = self.message_max.0 + self.message_max.0 / 4;
        if self.egress_window.0 < needed {
            return Err(format!(
                "`egress_window` is {}: at least {} is needed for answers of {}; raise it or lower \
                 `message_max`",
                self.egress_window,
                Size(needed.next_power_of_two()),
                self.message_max
            ));
        }
        Ok(())
    }

    fn validate_kv(&self) -> Result<(), String> {
        if self.service != ServiceKind::Kv {
            return Ok(());
        }
        within("kv_memory", self.kv_memory, 64 << 10, KV_MEMORY_MAX)?;
        // One longest value, and room for others while that is kept.
        let needed = self.message_max.0 * 4;
        if self.kv_barrier.0 != 0 {
            within("kv_barrier", self.kv_barrier, needed, KV_MEMORY_MAX).map_err(|e| {
                format!("{e}, or 0 (four times `message_max`: lower that for a smaller one)")
            })?;
        }
        Ok(())
    }

    fn validate_service_memory(&self) -> Result<(), String> {
        within("service_memory", self.service_memory, 1 << 10, 1 << 30)
    }

    fn validate_snapshots(&self) -> Result<(), String> {
        let file = self.segment_length.0 + HEADER_LENGTH;
        if self.log_max.0 / file < 8 {
            return Err(format!(
                "`log_max` is {} with a `segment_length` of {}: make it at least {}, eight files \
                 with their headers, or shorten the segments",
                self.log_max,
                self.segment_length,
                Size((8 * file).next_multiple_of(1 << 20))
            ));
        }
        // The log from the older of two snapshots on is kept, and the next is written meanwhile.
        let every = self.snapshot_bytes();
        within("snapshot_every", every, 64 << 10, self.log_max.0 / 4).map_err(|e| {
            format!("{e} (a quarter of `log_max`, which has to hold the log between snapshots)")
        })?;
        if self.checkpoint_every.0 != 0 {
            let most = self.log_max.0;
            within("checkpoint_every", self.checkpoint_every, 4 << 10, most)
                .map_err(|e| format!("{e}, or 0 to compare nothing (the bound is `log_max`)"))?;
        }
        if self.snapshot_interval.is_some_and(|i| i.0.as_secs() == 0) {
            return Err(
                "`snapshot_interval` is below a second: leave it out to take snapshots by bytes \
                 of log only"
                    .into(),
            );
        }
        Ok(())
    }

    fn validate_timings(&self) -> Result<(), String> {
        let t = &self.timings;
        for (key, span) in [
            ("heartbeat", t.heartbeat),
            ("canvass", t.canvass),
            ("nomination", t.nomination),
            ("ballot", t.ballot),
        ] {
            if span.0.as_millis() == 0 {
                return Err(format!(
                    "`timings.{key}` is {span}: at least 1 ms is needed"
                ));
            }
        }
        if t.leader_timeout.0 < t.heartbeat.0 * 4 {
            return Err(format!(
                "`timings.leader_timeout` is {} with a heartbeat of {}: make it at least four \
                 heartbeats, so that three lost ones cause no election",
                t.leader_timeout, t.heartbeat
            ));
        }
        let sick_after = t.sick_after();
        if !sick_after.0.is_zero() && sick_after.0 < t.leader_timeout.0 {
            return Err(format!(
                "`timings.sick_after` is {sick_after} with a leader timeout of {}: make it at \
                 least that, or a leader would hand over for one slow flush; 0 ms switches it off",
                t.leader_timeout
            ));
        }
        if t.session_timeout.0 < t.leader_timeout.0 * 4 {
            return Err(format!(
                "`timings.session_timeout` is {} with a leader timeout of {}: make it at least \
                 four times that, or sessions would not live through a failover",
                t.session_timeout, t.leader_timeout
            ));
        }
        if t.egress_timeout.0 < t.heartbeat.0 * 10 {
            return Err(format!(
                "`timings.egress_timeout` is {}: make it at least ten heartbeats ({})",
                t.egress_timeout, t.heartbeat
            ));
        }
        Ok(())
    }
}

fn validate_endpoint(id: u8, key: &str, endpoint: &str) -> Result<(), String> {
    let hint = "write `host:port`, an IPv6 address in brackets: `[::1]:9000`";
    if endpoint.len() > ENDPOINT_MAX {
        return Err(format!(
            "`{key}` of member {id} is longer than {ENDPOINT_MAX} bytes: {hint}"
        ));
    }
    let Some((host, port)) = endpoint.rsplit_once(':') else {
        return Err(format!(
            "`{key}` of member {id} is `{endpoint}`, without a port: {hint}"
        ));
    };
    if host.is_empty() || (host.contains(':') && !(host.starts_with('[') && host.ends_with(']'))) {
        return Err(format!("`{key}` of member {id} is `{endpoint}`: {hint}"));
    }
    match port.parse::<u16>() {
        Ok(port) if port != 0 => Ok(()),
        Ok(_) | Err(_) => Err(format!(
            "`{key}` of member {id} has port `{port}`: ports are 1 to 65535"
        )),
    }
}

fn power_of_two(key: &str, size: Size) -> Result<(), String> {
    if size.0.is_power_of_two() {
        Ok(())
    } else {
        Err(format!(
            "`{key}` is {size}: it must be a power of two, for example {}",
            Size(size.0.clamp(1, 1 << 40).next_power_of_two())
        ))
    }
}

fn within(key: &str, size: Size, low: u64, high: u64) -> Result<(), String> {
    if (low..=high).contains(&size.0) {
        Ok(())
    } else {
        Err(format!(
            "`{key}` is {size}: it must be between {} and {}",
            Size(low),
            Size(high)
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Admin, MemberSettings, Span};
    use super::*;

    fn three() -> Settings {
        let members = (0..3)
            .map(|id| MemberSettings {
                id,
                member: format!("127.0.0.1:{}", 9000 + u16::from(id)),
                ingress: format!("127.0.0.1:{}", 9100 + u16::from(id)),
            })
            .collect();
        Settings::new(1, members, "data/1")
    }

    fn refusal(change: impl FnOnce(&mut Settings)) -> String {
        let mut settings = three();
        change(&mut settings);
        settings.validate().unwrap_err().to_string()
    }

    #[test]
    fn the_defaults_are_valid_and_print_as_a_file_that_gives_them() {
        let settings = three();
        settings.validate().unwrap();
        let again: Settings = toml::from_str(&settings.to_string()).unwrap();
        assert_eq!(again, settings);
        let mut settings = three();
        settings.snapshot_every = Some(Size(64 << 20));
        settings.snapshot_interval = Some(Span::from_millis(3_600_000));
        settings.admin = Admin::Allow;
        settings.checkpoint_every = Size(0);
        settings.timings.sick_after = Some(Span::from_millis(0));
        settings.sessions_max = 1_024;
        settings.validate().unwrap();
        let again: Settings = toml::from_str(&settings.to_string()).unwrap();
        assert_eq!(again, settings);
    }

    #[test]
    fn the_key_value_service_may_be_without_a_barrier() {
        let mut settings = three();
        settings.kv_barrier = Size(0);
        settings.validate().unwrap();
        let again: Settings = toml::from_str(&settings.to_string()).unwrap();
        assert_eq!(again.kv_barrier, Size(0));
        settings.kv_barrier = Size(1);
        settings.service = ServiceKind::Echo;
        settings.validate().unwrap();
    }

    #[test]
    fn unknown_keys_are_errors() {
        let text = format!("leader_timeout = \"1 s\"\n{}", three());
        let error = toml::from_str::<Settings>(&text).unwrap_err();
        assert!(error.to_string().contains("leader_timeout"), "{error}");
    }

    #[test]
    fn each_refusal_names_its_key() {
        let cases: [(String, &str); 22] = [
            (refusal(|s| s.window = Size(1 << 63)), "at most 64 GiB"),
            (refusal(|s| s.sessions_max = 0), "sessions_max"),
            (refusal(|s| s.sessions_max = 1_025), "between 1 and 1024"),
            (refusal(|s| s.service_memory = Size(9)), "service_memory"),
            (refusal(|s| s.kv_memory = Size(5 << 30)), "kv_memory"),
            (refusal(|s| s.kv_barrier = Size(1 << 20)), "kv_barrier"),
            (
                refusal(|s| s.egress_window = Size(1 << 20)),
                "egress_window",
            ),
            (refusal(|s| s.mtu = Size(1400)), "mtu"),
            (refusal(|s| s.log_max = Size(128 << 20)), "log_max"),
            (
                refusal(|s| s.snapshot_every = Some(Size(512 << 20))),
                "a quarter of `log_max`",
            ),
            (
                refusal(|s| s.snapshot_every = Some(Size(1))),
                "snapshot_every",
            ),
            (
                refusal(|s| s.snapshot_interval = Some(Span::from_millis(5))),
                "snapshot_interval",
            ),
            (
                refusal(|s| s.checkpoint_every = Size(1)),
                "checkpoint_every",
            ),
            (
                refusal(|s| s.timings.sick_after = Some(Span::from_millis(399))),
                "timings.sick_after",
            ),
            (refusal(|s| s.window = Size(1 << 20)), "window"),
            (refusal(|s| s.message_max = Size(4 << 20)), "message_max"),
            (
                refusal(|s| s.segment_length = Size(3 << 20)),
                "power of two",
            ),
            (refusal(|s| s.member = 6), "not among"),
            (refusal(|s| s.members[2].id = 1), "listed twice"),
            (
                refusal(|s| s.members[2].member = "::1:9".into()),
                "brackets",
            ),
            (
                refusal(|s| s.members[2].ingress = "127.0.0.1:9000".into()),
                "used twice",
            ),
            (
                refusal(|s| s.timings.leader_timeout = Span::from_millis(60)),
                "four heartbeats",
            ),
        ];
        for (text, part) in cases {
            assert!(text.contains(part), "`{text}` does not say `{part}`");
        }
    }
}
