//! Three members and their clients, on threads of one process, allocate nothing once they have
//! started: but for the threads that make, delete and open files, which name them.

mod counting;

use std::collections::BTreeMap;
use std::net::UdpSocket;
use std::path::PathBuf;
use std::sync::atomic::Ordering::Relaxed;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use coracle_core::service::echo::Echo;
use coracle_std::client::{Client, Egress, OfferError};
use coracle_std::config::{Admin, MemberSettings, Settings, Size};
use coracle_std::counters::{Counter, CountersReader};
use coracle_std::logging::{LogFormat, LogLevel};
use coracle_std::node::{NodeBuilder, NodeHandle};
use counting::{Counting, excused};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// It ends a test that hangs, and measures nothing.
const PATIENCE: Duration = Duration::from_secs(60);

/// From one frame to many.
const LENGTHS: [usize; 4] = [32, 1000, 5000, 100_000];

struct Cluster {
    folder: PathBuf,
    settings: Vec<Settings>,
    members: Vec<Option<NodeHandle>>,
}

impl Cluster {
    fn start() -> Self {
        let name = format!("coracle-allocation-cluster-{}", std::process::id());
        let folder = std::env::temp_dir().join(name);
        let sockets = [(); 6].map(|()| UdpSocket::bind("127.0.0.1:0").unwrap());
        let ports = sockets
            .each_ref()
            .map(|s| s.local_addr().unwrap().to_string());
        drop(sockets);
        let members: Vec<MemberSettings> = (0..3)
            .map(|id| MemberSettings {
                id: id as u8,
                member: ports[id * 2].clone(),
                ingress: ports[id * 2 + 1].clone(),
            })
            .collect();
        let settings = [0, 1, 2].map(|id| {
            let dir = folder.join(id.to_string());
            let mut settings = Settings::new(id, members.clone(), &dir);
            settings.segment_length = Size(4 << 20);
            settings.message_max = Size(256 << 10);
            settings.log_max = Size(64 << 20);
            settings.admin = Admin::Allow;
            settings
        });
        let start = |settings: &Settings| {
            let builder = NodeBuilder::new(settings.clone()).init(true);
            Some(builder.spawn(Echo::default()).unwrap())
        };
        Self {
            members: settings.iter().map(start).collect(),
            settings: settings.into(),
            folder,
        }
    }

    fn endpoints(&self) -> String {
        self.settings[0].ingress_endpoints()
    }

    fn counter(&self, member: usize, counter: Counter) -> u64 {
        let dir = &self.settings[member].dir;
        let reading = CountersReader::open(dir).ok().map(|reader| reader.read());
        reading.map_or(0, |reading| reading.get(counter))
    }

    /// Waits until so many members are what `is_so` says.
    fn until(&self, what: &str, count: usize, is_so: impl Fn(usize) -> bool) {
        let began = Instant::now();
        while (0..3).filter(|member| is_so(*member)).count() < count {
            assert!(began.elapsed() < PATIENCE, "in vain: waited for {what}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn leader(&self) -> usize {
        let leads = |member: &usize| {
            self.members[*member].is_some() && self.counter(*member, Counter::Role) == 2
        };
        let began = Instant::now();
        loop {
            if let Some(leader) = (0..3).find(leads) {
                return leader;
            }
            assert!(began.elapsed() < PATIENCE, "in vain: waited for a leader");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn stop(&mut self, member: usize) {
        if let Some(handle) = self.members[member].take() {
            handle.close();
            handle.join().unwrap();
        }
    }
}

/// Echoes of all lengths, so many of each.
fn echo(client: &mut Client, message: &[u8], count: usize) {
    let began = Instant::now();
    for len in LENGTHS {
        let (mut offered, mut answered) = (0, 0);
        while answered < count {
            while offered < count && offered - answered < 20 {
                match client.offer(&message[..len]) {
                    Ok(_) => offered += 1,
                    Err(OfferError::BackPressured | OfferError::NotConnected) => break,
                    Err(other) => panic!("{other:?}"),
                }
            }
            let polled = client.poll(Duration::from_millis(10), |egress| match egress {
                Egress::Message { .. } => answered += 1,
                // What the old leader has not answered, nobody does.
                Egress::NewLeader { .. } => offered = answered,
                _ => {}
            });
            polled.unwrap();
            assert!(
                began.elapsed() < PATIENCE,
                "{answered} of {count} of {len} bytes"
            );
        }
    }
}

/// Clients that open, talk a little and close, on a thread of their own.
fn visitors(endpoints: &str, count: usize) -> JoinHandle<()> {
    let endpoints = endpoints.to_owned();
    let thread = std::thread::Builder::new().name("visitors".into());
    let run = move || {
        let message = excused(|| vec![2; LENGTHS[3]]);
        for _ in 0..count {
            let mut client = excused(|| Client::connect(&endpoints).unwrap());
            echo(&mut client, &message, 2);
            excused(|| client.close().unwrap());
        }
    };
    thread.spawn(run).unwrap()
}

/// What is done once before it is counted: thread-local data of the standard library, log lines.
fn all_of_it(cluster: &Cluster, client: &mut Client, message: &[u8], count: usize) {
    let visitors = excused(|| visitors(&cluster.endpoints(), 5));
    echo(client, message, count);
    excused(|| visitors.join().unwrap());
}

fn snapshot(cluster: &Cluster, client: &mut Client) {
    excused(|| {
        let before = [0, 1, 2].map(|member| cluster.counter(member, Counter::Snapshot));
        client.request_snapshot(PATIENCE, |_| {}).unwrap();
        let is_stored = |m: usize| cluster.counter(m, Counter::Snapshot) > before[m];
        cluster.until("a snapshot", 3, is_stored);
    });
}

#[test]
fn members_and_clients_allocate_nothing_after_their_start() {
    counting::IS_TRACED.store(std::env::var_os("CORACLE_ALLOCATIONS").is_some(), Relaxed);
    coracle_std::logging::start(LogFormat::Text, LogLevel::Info);
    let mut cluster = Cluster::start();
    let message = vec![1; LENGTHS[3]];
    let mut client = Client::connect(&cluster.endpoints()).unwrap();
    all_of_it(&cluster, &mut client, &message, 50);
    snapshot(&cluster, &mut client);

    let mut found = BTreeMap::new();
    counting::begin();
    all_of_it(&cluster, &mut client, &message, 300);
    found.insert("load", counting::end());

    counting::begin();
    snapshot(&cluster, &mut client);
    found.insert("snapshot", counting::end());

    let leader = cluster.leader();
    counting::begin();
    excused(|| cluster.stop(leader));
    echo(&mut client, &message, 50);
    found.insert("failover", counting::end());

    client.close().unwrap();
    (0..3).for_each(|member| cluster.stop(member));
    std::fs::remove_dir_all(&cluster.folder).unwrap();
    println!("{found:#?}");
    panic!();
}
