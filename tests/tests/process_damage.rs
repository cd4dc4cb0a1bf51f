//! Log bytes that were durable and rot: each member heals from the others.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;

use coracle_tests::process::{Cluster, Plan, Session, records, run};
use rustix::process::Signal;
use serde_json::Value;

/// Where the stream's bytes begin in a segment file: behind slots and label.
const DATA: u64 = 4096;

/// Turns over bytes of a member's first log file, from this position of the log on.
fn damage(cluster: &Cluster, member: u8, at: u64, len: usize) {
    let path = cluster.data(member).join("log/00000000000000000000.seg");
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .open(path)
        .unwrap();
    let mut bytes = vec![0; len];
    file.read_exact_at(&mut bytes, DATA + at).unwrap();
    for byte in &mut bytes {
        *byte = !*byte;
    }
    file.write_all_at(&bytes, DATA + at).unwrap();
}

fn verify(cluster: &Cluster, member: u8, code: i32, words: &[&str]) {
    let dir = cluster.data(member);
    let ended = run([
        "log".as_ref(),
        "--verify".as_ref(),
        "--dir".as_ref(),
        dir.as_os_str(),
    ]);
    ended.expect(code, words);
}

/// Every member is damaged, each in another place: none could be elected, and yet all come back.
#[test]
fn members_damaged_in_different_places_heal_one_another() {
    let mut cluster = Cluster::start("rot", Plan::patient());
    let mut session = Session::open(&cluster.endpoints(), 0);
    session.stream(600, 32, 400);
    cluster.level();
    let sent = session.next();
    let answered = session.close();
    cluster.level();
    for member in 0..3 {
        cluster.signal(member, Signal::KILL);
    }
    for member in 0..3 {
        cluster.wait(member);
        // A frame's payload, a run of frames, and a header: each member's own.
        let (at, len) = [(10_000, 1), (40_000, 5_000), (90_016, 8)][usize::from(member)];
        damage(&cluster, member, at, len);
        verify(&cluster, member, 1, &["position"]);
    }
    for member in 0..3 {
        cluster.spawn(member);
    }
    cluster.level();
    for member in 0..3 {
        let log = cluster.log(member);
        assert!(log.contains("is asked for from the other members"), "{log}");
        assert!(log.contains("healed"), "{log}");
    }
    let mut session = Session::open(&cluster.endpoints(), sent);
    session.stream(100, 16, 200);
    session.close();
    cluster.level();
    for member in 0..3 {
        cluster.signal(member, Signal::TERM);
        cluster.wait(member);
        verify(&cluster, member, 0, &[]);
    }
    let first = records(&cluster.data(0));
    for member in 1..3 {
        assert_eq!(records(&cluster.data(member)), first, "member {member}");
    }
    let missing = answered.iter().filter(|n| first.binary_search(n).is_err());
    assert_eq!(missing.count(), 0);
}

/// What is damaged below the newest snapshot is asked for by nobody, now and at the next start;
/// what is damaged above it is healed.
#[test]
fn damage_below_the_snapshot_needs_no_healing() {
    let mut plan = Plan::patient();
    plan.extra += "admin = \"allow\"\n";
    let mut cluster = Cluster::start("rot-below", plan);
    let mut session = Session::open(&cluster.endpoints(), 0);
    session.stream(300, 32, 400);
    let asked = run(["snapshot", "--json", "--endpoints", &cluster.endpoints()]);
    asked.expect(0, &[]);
    let said: Value = serde_json::from_str(&asked.out).unwrap();
    let at = said["members"][0]["snapshot"].as_u64().unwrap();
    session.stream(300, 32, 400);
    let sent = session.next();
    session.close();
    cluster.level();
    for member in 0..3 {
        cluster.signal(member, Signal::KILL);
        cluster.wait(member);
    }
    damage(&cluster, 0, 10_000, 1);
    damage(&cluster, 1, 10_000, 1);
    damage(&cluster, 1, at + 50_000, 500);
    for round in 0..2 {
        for member in 0..3 {
            cluster.spawn(member);
        }
        cluster.level();
        let healed = |member| cluster.log(member).matches("is healed").count();
        assert_eq!([healed(0), healed(1), healed(2)], [0, 1, 0], "{round}");
        for member in 0..3 {
            cluster.signal(member, Signal::TERM);
            cluster.wait(member);
        }
    }
    for member in 0..3 {
        cluster.spawn(member);
    }
    let mut session = Session::open(&cluster.endpoints(), sent);
    session.stream(100, 16, 200);
    session.close();
    cluster.level();
}
