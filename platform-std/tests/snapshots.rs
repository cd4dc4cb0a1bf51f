//! Snapshots, a bounded log and an install, over real sockets and files.

mod common;

use std::path::Path;
use std::time::{Duration, Instant};

use coracle_core::node::App;
use coracle_core::service::{Cluster, Service};
use coracle_core::snapshot::{Progress, SnapshotError, SnapshotReader, SnapshotWriter};
use coracle_core::units::{AppVersion, ClusterId, SessionId};
use coracle_std::client::Client;
use coracle_std::config::{Settings, Size};
use coracle_std::counters::Counter;
use coracle_std::node::{NodeBuilder, NodeHandle};
use coracle_std::storage::snapshots::{newest_valid, positions};

use common::{PATIENCE, Place, Scratch, ask, connect, counter, stop, until};

const LOG_MAX: u64 = 2 << 20;

/// Counts what it is told, and sums its bytes up.
#[derive(Default)]
struct Sum {
    count: u64,
    sum: u64,
}

impl Service for Sum {
    fn on_session_message(&mut self, cluster: &mut Cluster<'_>, session: SessionId, m: &[u8]) {
        self.count += 1;
        for byte in m {
            self.sum = self.sum.wrapping_mul(31).wrapping_add(u64::from(*byte));
        }
        let _closed = cluster
            .offer(
                session,
                &[&self.count.to_le_bytes(), &self.sum.to_le_bytes()],
            )
            .is_err();
    }

    fn digest(&self) -> u64 {
        self.sum ^ self.count
    }

    fn write_snapshot(&mut self, out: &mut SnapshotWriter<'_>) -> Result<Progress, SnapshotError> {
        out.u64(self.count)?;
        out.u64(self.sum)?;
        Ok(Progress::Done)
    }

    fn read_snapshot(&mut self, from: &mut SnapshotReader<'_>) -> Result<(), SnapshotError> {
        self.count = from.u64()?;
        self.sum = from.u64()?;
        Ok(())
    }
}

/// A cluster whose log is short.
fn cluster(scratch: &Scratch, count: u8) -> Vec<Settings> {
    let mut cluster = common::cluster(scratch, count);
    for settings in &mut cluster {
        settings.segment_length = Size(64 << 10);
        settings.message_max = Size(8 << 10);
        settings.window = Size(256 << 10);
        settings.log_max = Size(LOG_MAX);
        settings.snapshot_every = Some(Size(128 << 10));
    }
    cluster
}

fn start(place: Place, settings: &Settings) -> NodeHandle {
    place.start(settings, Sum::default())
}

fn start_as(settings: &Settings, app: App) -> NodeHandle {
    let builder = NodeBuilder::new(settings.clone()).init(true).app(app);
    builder.spawn(Sum::default()).unwrap()
}

/// Offers messages, each after the answer to the one before; gives the last answer.
fn load(client: &mut Client, messages: usize) -> (u64, u64) {
    let mut answer = (0, 0);
    for n in 0..messages {
        let payload = ask(client, &[n as u8; 4000]).payload;
        let at = |i: usize| payload[i..i + 8].try_into().unwrap();
        answer = (u64::from_le_bytes(at(0)), u64::from_le_bytes(at(8)));
    }
    answer
}

/// The bytes of all files of a log.
fn log_bytes(dir: &Path) -> u64 {
    let files = std::fs::read_dir(dir.join("log")).unwrap();
    // A file may be deleted meanwhile.
    files
        .filter_map(|file| Some(file.ok()?.metadata().ok()?.len()))
        .sum()
}

#[test]
fn a_log_stays_within_its_bound_and_a_restart_begins_with_a_snapshot() {
    Place::BOTH.into_iter().for_each(bound);
}

fn bound(place: Place) {
    let scratch = Scratch::new("snapshots-bound");
    let settings = &cluster(&scratch, 1)[0];
    let mut expected = (0, 0);
    for round in 0..3 {
        let node = start(place, settings);
        let mut client = connect(&settings.ingress_endpoints());
        for _ in 0..10 {
            let answer = load(&mut client, 100);
            assert_eq!(answer.0, expected.0 + 100);
            expected = answer;
            let bytes = log_bytes(&settings.dir);
            assert!(bytes <= LOG_MAX, "{bytes} in round {round}");
        }
        client.close().unwrap();
        stop(node);
        assert!(counter(&settings.dir, Counter::LogStart) > 0);
        assert!(counter(&settings.dir, Counter::Snapshot) > 0);
        assert_eq!(
            counter(&settings.dir, Counter::Digest),
            expected.0 ^ expected.1
        );
        assert_eq!(positions(&settings.dir.join("snapshot")).unwrap().len(), 2);
    }
}

#[test]
fn a_damaged_newest_snapshot_is_done_without() {
    Place::BOTH.into_iter().for_each(damaged);
}

fn damaged(place: Place) {
    let scratch = Scratch::new("snapshots-damaged");
    let settings = &cluster(&scratch, 1)[0];
    let node = start(place, settings);
    let mut client = connect(&settings.ingress_endpoints());
    let expected = load(&mut client, 1000);
    client.close().unwrap();
    stop(node);
    let dir = settings.dir.join("snapshot");
    let newest = positions(&dir).unwrap()[1];
    let file = dir.join(format!("{newest:020}")).join("service-0");
    let mut bytes = std::fs::read(&file).unwrap();
    bytes[70] ^= 4;
    std::fs::write(&file, bytes).unwrap();
    let node = start(place, settings);
    let mut client = connect(&settings.ingress_endpoints());
    assert_eq!(load(&mut client, 1).0, expected.0 + 1);
    client.close().unwrap();
    stop(node);
}

#[test]
fn a_member_that_was_away_for_too_long_is_sent_a_snapshot() {
    Place::BOTH.into_iter().for_each(install);
}

fn install(place: Place) {
    let scratch = Scratch::new("snapshots-install");
    let settings = cluster(&scratch, 3);
    let mut nodes: Vec<NodeHandle> = settings.iter().map(|s| start(place, s)).collect();
    let mut client = connect(&settings[0].ingress_endpoints());
    load(&mut client, 20);
    stop(nodes.remove(2));
    let behind = counter(&settings[2].dir, Counter::Applied);
    load(&mut client, 600);
    for one in &settings[..2] {
        until("what it misses to be deleted", || {
            counter(&one.dir, Counter::LogStart) > behind
        });
    }
    // Also one that has just started, and knows of its log's history what is left of it, sends.
    client.close().unwrap();
    nodes.into_iter().for_each(stop);
    let nodes: Vec<NodeHandle> = settings.iter().map(|s| start(place, s)).collect();
    let mut client = connect(&settings[0].ingress_endpoints());
    let deadline = Instant::now() + PATIENCE;
    loop {
        let expected = load(&mut client, 1);
        let digest = counter(&settings[2].dir, Counter::Digest);
        std::thread::sleep(Duration::from_millis(100));
        if counter(&settings[2].dir, Counter::Digest) == expected.0 ^ expected.1 {
            break;
        }
        assert!(
            Instant::now() < deadline,
            "it does not become level: {digest}"
        );
    }
    client.close().unwrap();
    nodes.into_iter().for_each(stop);
    let (set, damaged) = newest_valid(
        &settings[2].dir.join("snapshot"),
        ClusterId(settings[2].cluster),
    )
    .unwrap();
    assert!(set.is_some_and(|set| set.position().get() > behind));
    assert!(damaged.is_empty());
    assert!(counter(&settings[2].dir, Counter::LogStart) > 0);
}

#[test]
fn another_major_version_does_not_start_from_a_snapshot_unless_its_author_says_so() {
    let scratch = Scratch::new("snapshots-major");
    let settings = &cluster(&scratch, 1)[0];
    let (one, two) = (AppVersion::new(1, 0, 0), AppVersion::new(2, 0, 0));
    let node = start_as(settings, App::new(one));
    let mut client = connect(&settings.ingress_endpoints());
    let expected = load(&mut client, 100);
    client.close().unwrap();
    stop(node);
    assert!(counter(&settings.dir, Counter::Snapshot) > 0);
    let refused = start_as(settings, App::new(two)).join().unwrap_err();
    let text = refused.to_string();
    assert!(text.contains("version 1.0.0 of the application"), "{text}");
    let migrates = App {
        version: two,
        reads_from: one,
    };
    let node = start_as(settings, migrates);
    let mut client = connect(&settings.ingress_endpoints());
    assert_eq!(load(&mut client, 1).0, expected.0 + 1);
    client.close().unwrap();
    stop(node);
}

#[test]
fn members_of_two_minor_versions_do_not_take_one_another_for_odd() {
    let scratch = Scratch::new("snapshots-minor");
    let settings = cluster(&scratch, 3);
    let app = |id: usize| App::new(AppVersion::new(1, id as u8, 0));
    let started = settings.iter().enumerate();
    let nodes: Vec<NodeHandle> = started.map(|(id, s)| start_as(s, app(id))).collect();
    let mut client = connect(&settings[0].ingress_endpoints());
    load(&mut client, 200);
    client.close().unwrap();
    for one in &settings {
        until("a snapshot", || counter(&one.dir, Counter::Snapshot) > 0);
    }
    nodes.into_iter().for_each(stop);
    for one in &settings {
        assert_eq!(counter(&one.dir, Counter::Quarantined), 0);
    }
}
