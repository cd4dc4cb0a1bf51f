//! Three members and their clients, on threads of one process, allocate nothing once they have
//! started: but for the threads that make, delete and open files, which name them.

mod counting;
#[path = "../../tests/src/process/ports.rs"]
mod ports;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Barrier};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use coracle_core::service::echo::Echo;
use coracle_std::client::{Client, ClientError, ClientOptions, Egress, OfferError};
use coracle_std::config::{Admin, MemberSettings, Settings, Size};
use coracle_std::counters::{Counter, CountersReader};
use coracle_std::logging::{LogFormat, LogLevel};
use coracle_std::node::{NodeBuilder, NodeHandle};
use counting::{Counting, excused};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// It ends a test that hangs, and measures nothing.
const PATIENCE: Duration = Duration::from_secs(60);

type Counts = BTreeMap<String, u64>;

/// Sessions that come and go.
const VISITS: u64 = 5;
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
        let ports = ports::free_ports(6);
        let address = |at: usize| format!("127.0.0.1:{}", ports[at]);
        let members: Vec<MemberSettings> = (0..3)
            .map(|id| MemberSettings {
                id: id as u8,
                member: address(id * 2),
                ingress: address(id * 2 + 1),
            })
            .collect();
        let settings = [0, 1, 2].map(|id| {
            let dir = folder.join(id.to_string());
            let mut settings = Settings::new(id, members.clone(), &dir);
            settings.segment_length = Size(1 << 20);
            settings.message_max = Size(128 << 10);
            settings.log_max = Size(64 << 20);
            settings.snapshot_every = Some(Size(16 << 20));
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

fn connect(endpoints: &str) -> Client {
    let options = ClientOptions {
        open_timeout: PATIENCE,
        ..ClientOptions::new(endpoints)
    };
    Client::connect_with(&options).unwrap()
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

/// Clients that open, talk a little and close, on a thread of their own. It waits twice for
/// `started`: what its start allocates is none of theirs.
fn visitors(endpoints: &str, started: &Arc<Barrier>) -> JoinHandle<()> {
    let (endpoints, started) = (endpoints.to_owned(), Arc::clone(started));
    let thread = std::thread::Builder::new().name("visitors".into());
    let run = move || {
        let message = vec![2; LENGTHS[3]];
        started.wait();
        started.wait();
        for _ in 0..VISITS {
            // A client allocates all that it needs when it opens its session.
            let mut client = excused(|| connect(&endpoints));
            echo(&mut client, &message, 2);
            client.close().unwrap();
        }
    };
    thread.spawn(run).unwrap()
}

/// Sessions that come and go beside one that stays; what was allocated meanwhile.
fn load(cluster: &Cluster, client: &mut Client, message: &[u8], count: usize) -> Counts {
    let started = Arc::new(Barrier::new(2));
    let visitors = visitors(&cluster.endpoints(), &started);
    started.wait();
    counting::begin();
    started.wait();
    echo(client, message, count);
    excused(|| visitors.join().unwrap());
    counting::end()
}

fn snapshot(cluster: &Cluster, client: &mut Client) {
    let before = [0, 1, 2].map(|member| cluster.counter(member, Counter::Snapshot));
    let deadline = Instant::now() + PATIENCE;
    // One that is under way, because the log has grown enough, is no failure.
    while let Err(error) = client.request_snapshot(PATIENCE, |_| {}) {
        let passes = matches!(error, ClientError::Refused(_)) && Instant::now() < deadline;
        assert!(passes, "{error}");
        client.poll(Duration::from_millis(20), |_| {}).unwrap();
    }
    let is_stored = |m: usize| cluster.counter(m, Counter::Snapshot) > before[m];
    cluster.until("a snapshot", 3, is_stored);
}

/// Requires that no thread has allocated but these, each at most so often.
#[track_caller]
fn only(what: &str, found: &Counts, allowed: &[(&str, u64)]) {
    for (thread, count) in found {
        let most = allowed.iter().find(|(name, _)| thread.starts_with(name));
        let most = most.map_or(0, |(_, most)| *most);
        assert!(
            *count <= most,
            "{what}: {thread} has allocated {count} times, {most} may be; CORACLE_ALLOCATIONS=1 \
             shows where: {found:?}"
        );
    }
}

/// Makes a file for the log: its name, and zeros to fill it with.
const FILES: (&str, u64) = ("segments", u64::MAX);
/// Deletes files of the log: lists them.
const PURGE: (&str, u64) = ("purge", u64::MAX);
/// Makes snapshots durable and deletes old ones; makes the files of the next one.
const SETS: (&str, u64) = ("snapshots", u64::MAX);
/// Opens files of the log for members that are far behind, as one may be on a busy machine.
const CATCH_UP: (&str, u64) = ("catchup", u64::MAX);
/// The thread that each client starts for names: its start.
const NAMES: (&str, u64) = ("resolver", 4 * VISITS);

#[test]
fn members_and_clients_allocate_nothing_after_their_start() {
    counting::IS_TRACED.store(std::env::var_os("CORACLE_ALLOCATIONS").is_some(), Relaxed);
    // What is logged at this level is logged here as well.
    coracle_std::logging::start(LogFormat::Text, LogLevel::Debug);
    let mut cluster = Cluster::start();
    let message = vec![1; LENGTHS[3]];
    let mut client = connect(&cluster.endpoints());
    // What is made once: thread-local data of the standard library, the first files.
    load(&cluster, &mut client, &message, 20);
    snapshot(&cluster, &mut client);

    // Nine files full.
    let found = load(&cluster, &mut client, &message, 80);
    only("load", &found, &[FILES, CATCH_UP, NAMES]);
    let files = found.get("segments").copied().unwrap_or_default();
    assert!(files > 0, "what is counted is seen: {found:?}");

    counting::begin();
    excused(|| snapshot(&cluster, &mut client));
    let found = counting::end();
    only("snapshot", &found, &[FILES, CATCH_UP, SETS]);
    assert!(found.contains_key("snapshots"), "it is seen: {found:?}");

    // The log is full on the way: a snapshot for each 16 MiB of it, and old files go.
    let found = load(&cluster, &mut client, &message, 700);
    let all = [FILES, CATCH_UP, SETS, PURGE, NAMES];
    only("a full log", &found, &all);
    assert!(found.contains_key("purge"), "it is seen: {found:?}");
    excused(|| snapshot(&cluster, &mut client));

    let leader = cluster.leader();
    counting::begin();
    excused(|| cluster.stop(leader));
    echo(&mut client, &message, 50);
    only("failover", &counting::end(), &[FILES, CATCH_UP, PURGE]);

    client.close().unwrap();
    (0..3).for_each(|member| cluster.stop(member));
    std::fs::remove_dir_all(&cluster.folder).unwrap();
}
