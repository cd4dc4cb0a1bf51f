//! What tests with nodes in this process share.

#![allow(dead_code, reason = "not every file of tests uses all of it")]

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use coracle_core::service::Service;
use coracle_std::client::{Client, ClientOptions, Egress, State};
use coracle_std::config::{MemberSettings, Settings};
use coracle_std::counters::{Counter, CountersReader};
use coracle_std::node::{Hosted, NodeBuilder, NodeHandle, Services};

#[path = "../../../tests/src/process/ports.rs"]
mod ports;

/// How long anything may take.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A directory that is removed in the end.
pub struct Scratch(PathBuf);

impl Scratch {
    pub fn new(name: &str) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let dir = format!("coracle-{name}-{}-{count}", std::process::id());
        let dir = std::env::temp_dir().join(dir);
        // One that was killed has left it, and its process id has come again.
        drop(std::fs::remove_dir_all(&dir));
        Self(dir)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.0));
    }
}

/// The settings of a cluster on free ports of this machine.
pub fn cluster(scratch: &Scratch, count: u8) -> Vec<Settings> {
    let ports = ports::free_ports(usize::from(count) * 2);
    let address = |at: u8| format!("127.0.0.1:{}", ports[usize::from(at)]);
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

/// Opens a session, however long it takes until somebody leads.
#[track_caller]
pub fn connect(endpoints: &str) -> Client {
    let options = ClientOptions {
        open_timeout: PATIENCE,
        ..ClientOptions::new(endpoints)
    };
    Client::connect_with(&options).unwrap()
}

/// An answer, and what it took.
pub struct Answer {
    pub payload: Vec<u8>,
    /// How often the message was offered. All but the last time a leader was lost, and whether the
    /// message was executed then is unknown.
    pub offers: u64,
}

/// Offers a message and waits for its answer. If the leader is lost before, which a busy machine
/// may do to it, nobody else answers: then it is offered again.
#[track_caller]
pub fn ask(client: &mut Client, message: &[u8]) -> Answer {
    ask_for(client, message, |_| true)
}

/// The same, of a client that may still be owed other answers, before this one.
#[track_caller]
pub fn ask_for(client: &mut Client, message: &[u8], is_it: impl Fn(&[u8]) -> bool) -> Answer {
    let deadline = Instant::now() + PATIENCE;
    let (mut answer, mut offers, mut taken) = (None, 0, None);
    loop {
        let by = *taken.get_or_insert_with(|| {
            offers += 1;
            client.offer_until(message, PATIENCE).unwrap().term
        });
        let polled = client.poll(Duration::from_secs(1), |egress| match egress {
            Egress::Message { payload, .. } if is_it(payload) => answer = Some(payload.to_vec()),
            Egress::NewLeader { term, .. } if term > by => taken = None,
            _ => {}
        });
        polled.unwrap();
        if let Some(payload) = answer {
            return Answer { payload, offers };
        }
        assert!(Instant::now() < deadline, "an answer in time");
    }
}

/// Who leads.
#[track_caller]
pub fn leader(client: &mut Client) -> usize {
    let mut leading = None;
    until("an open session", || {
        client.poll(Duration::ZERO, |_| {}).unwrap();
        if let State::Open { leader, .. } = client.state() {
            leading = Some(leader.slot());
        }
        leading.is_some()
    });
    leading.unwrap()
}
