//! What tests with nodes in this process share.

#![allow(dead_code, reason = "not every file of tests uses all of it")]

use std::net::UdpSocket;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use coracle_core::service::Service;
use coracle_std::config::{MemberSettings, Settings};
use coracle_std::counters::{Counter, CountersReader};
use coracle_std::node::{Hosted, NodeBuilder, NodeHandle, Services};

/// How long anything may take.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A directory that is removed in the end.
pub struct Scratch(PathBuf);

impl Scratch {
    pub fn new(name: &str) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let dir = format!("coracle-{name}-{}-{count}", std::process::id());
        Self(std::env::temp_dir().join(dir))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.0));
    }
}

/// The settings of a cluster on free ports of this machine.
pub fn cluster(scratch: &Scratch, count: u8) -> Vec<Settings> {
    let sockets: Vec<UdpSocket> = (0..count * 2)
        .map(|_| UdpSocket::bind("127.0.0.1:0").unwrap())
        .collect();
    let address = |at: u8| sockets[usize::from(at)].local_addr().unwrap().to_string();
    let members: Vec<MemberSettings> = (0..count)
        .map(|id| MemberSettings {
            id,
            member: address(2 * id),
            ingress: address(2 * id + 1),
        })
        .collect();
    (0..count)
        .map(|id| Settings::new(id, members.clone(), scratch.0.join(id.to_string())))
        .collect()
}

/// Where a service runs.
#[derive(Clone, Copy, Debug)]
pub enum Place {
    Node,
    Thread,
}

impl Place {
    pub const BOTH: [Self; 2] = [Self::Node, Self::Thread];

    pub fn add(self, services: Services, service: impl Service + Send + 'static) -> Services {
        match self {
            Self::Node => services.on_node(service),
            Self::Thread => services.on_thread(service),
        }
    }

    /// Starts a member with one service.
    pub fn start(self, settings: &Settings, service: impl Service + Send + 'static) -> NodeHandle {
        start(settings, self.add(Services::new(), service))
    }
}

/// Starts a member, whose directory is made if there is none.
pub fn start(settings: &Settings, services: impl Hosted + Send + 'static) -> NodeHandle {
    let builder = NodeBuilder::new(settings.clone()).init(true);
    builder.spawn(services).unwrap()
}

pub fn stop(node: NodeHandle) {
    node.close();
    node.join().unwrap();
}

pub fn counter(dir: &Path, counter: Counter) -> u64 {
    CountersReader::open(dir).unwrap().read().get(counter)
}

/// Waits until something is so.
pub fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}
