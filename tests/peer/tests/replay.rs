//! `coracle replay --publish` read by the real Aeron client: every record as it is in the files.

use std::fs;
use std::path::Path;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use coracle_net::cluster::{Cluster, free_port};
use coracle_net::relay::{self, Relay};
use coracle_net::say;
use coracle_peer::driver::Subscription;
use coracle_peer::echo::{self, Echo, PATIENCE};
use coracle_peer::session::IngressStyle;

/// Aeron cluster's stream for logs that are replayed.
const STREAM: i32 = 103;
/// Header of a frame, and what frames are aligned to.
const HEADER: usize = 32;
/// A segment file's own header.
const SEGMENT_HEADER: usize = 4096;

/// The records of a log, from its files alone: messages put together from their frames.
fn records(log: &Path) -> Vec<Vec<u8>> {
    let mut paths: Vec<_> = fs::read_dir(log)
        .expect("a log")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.extension().is_some_and(|end| end == "seg"))
        .collect();
    paths.sort();
    let mut found = Vec::new();
    let mut open = Vec::new();
    for path in paths {
        let bytes = fs::read(path).expect("a segment");
        let mut rest = &bytes[SEGMENT_HEADER..];
        while let Some((header, _)) = rest.split_first_chunk::<HEADER>() {
            let length = i32::from_le_bytes(header[..4].try_into().expect("four bytes"));
            let length = usize::try_from(length).expect("a length");
            if length == 0 {
                break;
            }
            let (flags, is_pad) = (header[5], header[6] == 0);
            if !is_pad {
                if flags & 0x80 != 0 {
                    open.clear();
                }
                open.extend_from_slice(&rest[HEADER..length]);
                if flags & 0x40 != 0 {
                    found.push(open.clone());
                }
            }
            rest = &rest[length.next_multiple_of(HEADER).min(rest.len())..];
        }
    }
    found
}

/// A replay; it ends with this value.
struct Replay(Child);

impl Replay {
    fn start(cluster: &Cluster, dir: &Path, to: &str, more: &[&str]) -> Self {
        let mut command = cluster.command(&["replay", "--all", "--publish", to, "--dir"]);
        command.arg(dir).args(more);
        Self(command.spawn().expect("the replay starts"))
    }

    fn await_end(&mut self) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.0.try_wait().expect("our own child") {
                assert!(status.success(), "{status}");
                return;
            }
            assert!(Instant::now() < deadline, "the replay does not end");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Replay {
    fn drop(&mut self) {
        // Ended already is fine too.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// Takes what comes and compares, until `expected` has come and nothing else.
fn require(subscription: &mut Subscription, expected: &[Vec<u8>], taken: &mut usize) {
    let mut last_life = Instant::now();
    while *taken < expected.len() {
        let polled = subscription.poll(16, &mut |bytes| {
            let record = expected.get(*taken).expect("no more than there are");
            assert!(bytes == record, "record {taken} is another");
            *taken += 1;
        });
        if polled.expect("a poll") > 0 {
            last_life = Instant::now();
        }
        let (count, silence) = (expected.len(), last_life.elapsed());
        assert!(silence < PATIENCE, "silence after {taken} of {count}");
    }
}

fn await_no_image(subscription: &mut Subscription) {
    let deadline = Instant::now() + PATIENCE;
    while subscription.images() > 0 {
        let more = subscription.poll(16, &mut |_| panic!("a record too many"));
        more.expect("a poll");
        assert!(Instant::now() < deadline, "the stream does not end");
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn aeron_client_subscribes_to_a_replay() {
    let (mut cluster, client, leader) = echo::cluster("127.0.0.1", "");
    let session = client.connect(&IngressStyle::default(), leader);
    let mut echo = Echo::new(session.expect("a session"));
    echo.run(1_000, &mut cluster).expect("a thousand messages");
    cluster.await_level(PATIENCE).expect("level members");
    let member = (leader + 1) % 3;
    let dir = cluster.file(&format!("data{member}"));

    // One that follows, while messages come.
    let endpoint = client.fresh_endpoint();
    let channel = format!("aeron:udp?endpoint={endpoint}");
    let driver = client.driver();
    let mut live = driver.subscribe(&channel, STREAM).expect("a subscription");
    let mut follower = Replay::start(&cluster, &dir, &endpoint, &["--follow"]);
    let mut taken = 0;
    require(&mut live, &records(&dir.join("log")), &mut taken);
    echo.run(2_000, &mut cluster).expect("a thousand more");
    cluster.await_level(PATIENCE).expect("level members");
    let all = records(&dir.join("log"));
    assert!(all.len() > 2_000);
    require(&mut live, &all, &mut taken);
    say!("aeron_client: {taken} records of a replay that follows");
    let id = follower.0.id().to_string();
    let told = Command::new("kill").args(["-TERM", &id]).status();
    assert!(told.expect("kill starts").success());
    await_no_image(&mut live);
    follower.await_end();

    // One that ends, over a way that loses, to a reader that begins late.
    let port = free_port();
    let right = format!("127.0.0.1:{port}").parse().expect("an address");
    let relay = Relay::between(None, right, relay::every_nth_data(20), relay::nothing());
    let relay = relay.expect("the relay's doors open");
    let door = relay.left_door().to_string();
    let mut replay = Replay::start(&cluster, &dir, &door, &["--stream-id", "7"]);
    std::thread::sleep(Duration::from_millis(300));
    let channel = format!("aeron:udp?endpoint={right}");
    let mut late = driver.subscribe(&channel, 7).expect("a subscription");
    let mut taken = 0;
    require(&mut late, &all, &mut taken);
    await_no_image(&mut late);
    replay.await_end();
    say!(
        "aeron_client: {taken} records of a replay over loss, {} lost",
        relay.lost()
    );
    assert!(relay.lost() > 10, "the relay lost something to repair");
}
