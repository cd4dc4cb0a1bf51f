//! The options that say which member of which cluster: a file, flags, or both.

use std::path::PathBuf;

use clap::Args;

use super::Failure;
use crate::config::{Admin, Durability, Idle, MemberSettings, ServiceKind, Settings, Size};

/// A configuration file, and flags that override it.
#[derive(Debug, Args)]
pub struct SettingsArgs {
    /// The configuration file; see `coracle node --check` for all of its keys
    #[arg(long, short, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Which member this is: 0, 1, 2 ...
    #[arg(long, short, value_name = "ID")]
    pub member: Option<u8>,
    /// The member's data directory
    #[arg(long, short, value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// A member of the cluster, this one too; once for each
    #[arg(long = "peer", value_name = "ID=HOST:PORT,HOST:PORT", value_parser = peer)]
    #[arg(
        long_help = "A member of the cluster, this one too; once for each: its id, where it talks \
        to other members, where it talks to clients. For example \
        --peer 0=10.0.0.1:9000,10.0.0.1:9100"
    )]
    pub peers: Vec<MemberSettings>,
    /// The number that names the cluster; the same on every member
    #[arg(long, value_name = "NUMBER")]
    pub cluster: Option<u64>,
    /// The service that runs on the members
    #[arg(long, value_enum)]
    pub service: Option<ServiceKind>,
    /// Run it on a thread of its own, for which the node's thread never waits
    #[arg(long)]
    pub service_thread: bool,
    /// Memory of the key-value service, e.g. 1GiB; the same on every member
    #[arg(long, value_name = "SIZE")]
    #[arg(
        long_help = "Memory of the key-value service, for example 1GiB (default 256MiB, at most \
        4GiB); the same on every member. Each entry takes 26 bytes beside its key and value, and \
        an eighth stays free. What is not used takes none of the machine's memory"
    )]
    pub kv_memory: Option<Size>,
    /// What it may keep of old values while a snapshot is written; 0: clients wait instead
    #[arg(long, value_name = "SIZE")]
    #[arg(
        long_help = "What the key-value service may keep of old values while a snapshot is \
        written (default 64MiB). When it is full, clients wait for the snapshot; with 0 they wait \
        until all of it is written. What is not used takes none of the machine's memory"
    )]
    pub kv_barrier: Option<Size>,
    /// When a message counts as safe on this member
    #[arg(long, value_enum)]
    pub durability: Option<Durability>,
    /// The most bytes of disk that the log takes up
    #[arg(long, value_name = "SIZE")]
    #[arg(
        long_help = "The most bytes of disk that the log takes up, for example \"256 MiB\": at \
        least eight segments. Snapshots, of which two are kept, come on top"
    )]
    pub log_max: Option<Size>,
    /// Take a snapshot after so many bytes of log; an eighth of --log-max unless given
    #[arg(long, value_name = "SIZE")]
    pub snapshot_every: Option<Size>,
    /// A multicast group for the log, e.g. 239.1.1.1:9200; the same on every member
    #[arg(long, value_name = "ADDRESS:PORT")]
    #[arg(
        long_help = "The IPv4 multicast group, for example 239.1.1.1:9200, to which a leader sends \
        each byte of the log once for all followers; the same on every member. A member that does \
        not hear it, or has lost something, is sent the log alone. Without this each follower is \
        sent a copy of its own"
    )]
    pub log_multicast: Option<String>,
    /// Which sessions may make the cluster take a snapshot
    #[arg(long, value_enum)]
    #[arg(
        long_help = "Which client sessions may make the cluster take a snapshot, as `coracle \
        snapshot` does; the leader's setting counts, so give every member the same. Snapshots by \
        --snapshot-every are taken in any case"
    )]
    pub admin: Option<Admin>,
    /// What to do when there is nothing to do
    #[arg(long, value_enum)]
    pub idle: Option<Idle>,
}

impl SettingsArgs {
    /// The effective, valid settings.
    ///
    /// # Errors
    /// A file that cannot be read, a missing flag, or values that do not go together.
    pub fn settings(&self) -> Result<Settings, Failure> {
        let mut settings = match &self.config {
            Some(path) => Settings::load(path)?,
            None => self.flags_alone()?,
        };
        if let Some(member) = self.member {
            settings.member = member;
        }
        if let Some(dir) = &self.dir {
            settings.dir.clone_from(dir);
        }
        if !self.peers.is_empty() {
            settings.members.clone_from(&self.peers);
        }
        settings.cluster = self.cluster.unwrap_or(settings.cluster);
        settings.service = self.service.unwrap_or(settings.service);
        settings.service_thread |= self.service_thread;
        settings.kv_memory = self.kv_memory.unwrap_or(settings.kv_memory);
        settings.kv_barrier = self.kv_barrier.unwrap_or(settings.kv_barrier);
        settings.durability = self.durability.unwrap_or(settings.durability);
        settings.log_max = self.log_max.unwrap_or(settings.log_max);
        settings.snapshot_every = self.snapshot_every.or(settings.snapshot_every);
        if self.log_multicast.is_some() {
            settings.log_multicast.clone_from(&self.log_multicast);
        }
        settings.admin = self.admin.unwrap_or(settings.admin);
        settings.idle = self.idle.unwrap_or(settings.idle);
        settings.validate()?;
        Ok(settings)
    }

    fn flags_alone(&self) -> Result<Settings, Failure> {
        let (Some(member), Some(dir)) = (self.member, &self.dir) else {
            return Err(Failure::usage(
                "say who this member is: --config node.toml, or --member 0 --dir data/0 and one \
                 --peer for each member",
            ));
        };
        Ok(Settings::new(member, self.peers.clone(), dir))
    }
}

fn peer(text: &str) -> Result<MemberSettings, String> {
    let hint = "write ID=HOST:PORT,HOST:PORT, for example 0=10.0.0.1:9000,10.0.0.1:9100";
    let (id, endpoints) = text.split_once('=').ok_or(hint)?;
    let (member, ingress) = endpoints.split_once(',').ok_or(hint)?;
    Ok(MemberSettings {
        id: id.trim().parse().map_err(|_| hint)?,
        member: member.trim().to_owned(),
        ingress: ingress.trim().to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_is_an_id_and_two_endpoints() {
        let parsed = peer("2=[::1]:9000,host:9100").unwrap();
        assert_eq!((parsed.id, &parsed.member[..]), (2, "[::1]:9000"));
        assert_eq!(parsed.ingress, "host:9100");
        for wrong in ["", "0", "0=a:1", "x=a:1,b:2"] {
            assert!(peer(wrong).unwrap_err().contains("ID=HOST:PORT"));
        }
    }
}
