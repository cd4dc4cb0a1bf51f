//! What a node begins with: at the start of its process, and after a snapshot was installed.

use std::net::SocketAddr;
use std::time::Duration;

use coracle_core::log::{NodeState, Recovered};
use coracle_core::node::{Config, SessionTiming, SnapshotPolicy};
use coracle_core::raft::Timing;
use coracle_core::time::Now;
use coracle_core::units::ClusterId;

use super::memory::Memory;
use super::peers::Addresses;
use super::{Core, Hosted, NodeError, member_id};
use crate::apart::{self, Surroundings};
use crate::clock::{Clock, random_seed};
use crate::config::Settings;
use crate::storage::log::room;
use crate::storage::snapshots::{Damaged, SnapshotSet};
use crate::storage::start::{Reason, open};
use crate::storage::{DataDir, Flushing, LogStore, StorageError};
use crate::waker::Waker;

/// What does not change while the process runs.
pub struct Ground<'a> {
    pub dir: &'a DataDir,
    pub settings: &'a Settings,
    pub waker: &'a Waker,
    pub clock: &'a Clock,
}

/// A node that has what its directory holds, and its log.
pub struct Begun {
    pub node: Box<Core>,
    pub store: LogStore,
    /// Sets that do not count.
    pub damaged: Vec<Damaged>,
}

impl Ground<'_> {
    /// Starts from the newest sound snapshot and the log behind it.
    pub fn begin<S: Hosted>(
        &self,
        config: Config,
        state: NodeState,
        services: &mut S,
        memory: &mut Memory,
    ) -> Result<Begun, NodeError> {
        let cluster = ClusterId(self.settings.cluster);
        let opened = open(self.dir, &state, &mut memory.window)?;
        for damaged in &opened.damaged {
            tracing::error!("{damaged}");
        }
        if let Some(at) = opened.recovered.corrupt {
            let what = format!("the frame at position {at}, which was durable, cannot be read");
            if config.member_set().len() == 1 {
                let path = self.dir.log();
                return Err(StorageError::Damaged { path, what }.into());
            }
            tracing::error!("{what}: it is asked for from the other members");
        }
        match opened.replaced {
            Some(Reason::StartsAbove) => tracing::error!(
                "the newest snapshot is lost, and with it log that this member had acknowledged"
            ),
            Some(reason) => tracing::warn!(?reason, "the log now starts at the snapshot"),
            None => {}
        }
        let segment_length = self.settings.segment_length.0 as u32;
        let journal = opened.recovered.journal(cluster, &memory.window);
        let mut store = LogStore::new(
            self.dir.log(),
            cluster,
            segment_length,
            Flushing {
                durability: self.settings.durability,
                idle: self.settings.idle,
                here_below: self.settings.timings.heartbeat.0,
            },
            journal,
            self.waker,
        )?;
        store.set_bytes_max(self.settings.log_max.0);
        let now = self.clock.now();
        let mut node = make(config, state, &opened.recovered, now)?;
        if let Some(set) = &opened.snapshot {
            load(set, &mut node, services, memory)?;
        }
        self.part(&node, services, memory)?;
        tracing::info!(
            member = self.settings.member,
            cluster = self.settings.cluster,
            dir = %self.settings.dir.display(),
            log_start = opened.recovered.start.position.get(),
            log_end = opened.recovered.tail.end.get(),
            snapshot = opened.snapshot.map(|set| set.position().get()),
            torn = opened.recovered.torn,
            "started"
        );
        Ok(Begun {
            node,
            store,
            damaged: opened.damaged,
        })
    }

    /// Services that have a thread of their own go there, with the state they have now.
    fn part<S: Hosted>(
        &self,
        node: &Core,
        services: &mut S,
        memory: &mut Memory,
    ) -> Result<(), NodeError> {
        for (id, away) in services.away() {
            let mut lent = memory.lent();
            let own = node.container_memory_len(lent.services.len());
            let mut own = apart::Memory {
                service: vec![0; own],
                assembly: vec![0; self.settings.message_max.0 as usize + 64],
            };
            let container = node.container(id, &mut lent, &mut own.service);
            let container = container.expect("one for each service, and memory of its length");
            let around = Surroundings {
                name: format!("service-{}", id.get()),
                log: self.dir.log(),
                segment_length: self.settings.segment_length.0 as u32,
                waker: self.waker.clone(),
                clock: *self.clock,
                idle: self.settings.idle,
            };
            away.leave(container, own, &around)?;
        }
        Ok(())
    }
}

/// A node. It is megabytes long and is made by value, perhaps more than once on its way to where it
/// stays: on a thread of its own, for nobody knows how much stack there is on this one.
fn make(
    config: Config,
    state: NodeState,
    recovered: &Recovered,
    now: Now,
) -> Result<Box<Core>, NodeError> {
    let made = std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().stack_size(16 * size_of::<Core>());
        let making = move || Core::new(config, state, recovered, now).map(Box::new);
        thread
            .spawn_scoped(scope, making)
            .map(|thread| thread.join())
    })?;
    let made = made.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    made.map_err(NodeError::Core)
}

/// How many bytes of log the core may let there be.
fn log_max(settings: &Settings) -> u64 {
    room(settings.log_max.0, settings.segment_length.0 as u32)
}

fn load<S: Hosted>(
    set: &SnapshotSet,
    node: &mut Core,
    services: &mut S,
    memory: &mut Memory,
) -> Result<(), StorageError> {
    let mut reader = set.reader()?;
    let loaded = node.load_snapshot(&mut reader, &mut services.lend(), &mut memory.lent());
    if let Err(error) = loaded {
        let unread = reader.take_error();
        return Err(unread.unwrap_or_else(|| StorageError::SnapshotNotTaken {
            path: set.path.clone(),
            what: error.to_string(),
        }));
    }
    Ok(())
}

/// What the core is told of the settings.
pub fn core_config(
    settings: &Settings,
    addresses: Addresses,
    services: usize,
) -> Result<Config, NodeError> {
    let t = &settings.timings;
    Ok(Config {
        cluster: ClusterId(settings.cluster),
        member: member_id(settings)?,
        members: addresses.table,
        log_group: settings.log_group().map(SocketAddr::V4),
        timing: Timing {
            heartbeat_interval: t.heartbeat.0,
            leader_timeout: t.leader_timeout.0,
            canvass_interval: t.canvass.0,
            nomination_delay: t.nomination.0,
            ballot_timeout: t.ballot.0,
            sick_after: t.sick_after().0,
        },
        sessions: SessionTiming {
            session_timeout: t.session_timeout.0,
            egress_timeout: t.egress_timeout.0,
        },
        sessions_max: settings.sessions_max as usize,
        segment_length: settings.segment_length.0 as u32,
        mtu: settings.mtu.0 as usize,
        message_max: settings.message_max.0 as usize,
        egress_mtu: settings.mtu.0 as usize,
        app: settings.app,
        services,
        snapshots: SnapshotPolicy {
            enabled: true,
            every_bytes: settings.snapshot_bytes().0,
            interval: settings.snapshot_interval.map_or(Duration::ZERO, |i| i.0),
        },
        log_max: log_max(settings),
        checkpoint_every: settings.checkpoint_every.0,
        seed: random_seed(),
    })
}

/// Checks that the directory is this member's, of this cluster.
///
/// # Errors
/// [`StorageError::Foreign`].
pub fn check_identity(
    dir: &DataDir,
    settings: &Settings,
    state: &NodeState,
) -> Result<(), StorageError> {
    let foreign = |what, expected, found| StorageError::Foreign {
        path: dir.node_state(),
        what,
        expected,
        found,
    };
    if state.cluster.0 != settings.cluster {
        return Err(foreign("cluster", settings.cluster, state.cluster.0));
    }
    let found = state.member.get();
    if found != settings.member {
        return Err(foreign("member", settings.member.into(), found.into()));
    }
    Ok(())
}
