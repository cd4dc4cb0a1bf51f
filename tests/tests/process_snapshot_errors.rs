//! Snapshots that cannot be written, or not be believed: said loudly, and the cluster goes on.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use coracle_tests::process::{Cluster, Ended, Mount, Plan, Session, records, run, skip, until};
use rustix::process::Signal;
use serde_json::Value;

fn plan(members: u8) -> Plan {
    let mut plan = Plan::patient();
    plan.members = members;
    plan.extra += "admin = \"allow\"\n";
    plan
}

fn snapshot(cluster: &Cluster, more: &[&str]) -> Ended {
    let endpoints = cluster.endpoints();
    let args = ["snapshot", "--endpoints", &endpoints];
    run(args.iter().chain(more))
}

fn listed(cluster: &Cluster, member: u8) -> Ended {
    let dir = cluster.data(member);
    let args = ["snapshots".as_ref(), "--dir".as_ref(), dir.as_os_str()];
    run(args)
}

/// The folders of a member's snapshots, the oldest first.
fn sets(cluster: &Cluster, member: u8) -> Vec<PathBuf> {
    let entries = fs::read_dir(cluster.data(member).join("snapshot")).unwrap();
    let paths = entries.map(|entry| entry.unwrap().path());
    // What has an extension is no set yet.
    let mut paths: Vec<PathBuf> = paths.filter(|path| path.extension().is_none()).collect();
    paths.sort();
    paths
}

fn stop(cluster: &mut Cluster, member: u8) {
    cluster.signal(member, Signal::TERM);
    assert_eq!(
        cluster.wait(member).code(),
        Some(0),
        "{}",
        cluster.log(member)
    );
}

#[test]
fn a_full_disk_costs_a_member_its_snapshot_and_nothing_else() {
    let mut cluster = Cluster::start("snapshot-full", plan(3));
    cluster.kill(0);
    // Room for one page: a snapshot has at least two files.
    let mount = match Mount::new(&cluster.data(0).join("snapshot"), "4k") {
        Ok(mount) => mount,
        Err(missing) => return skip("full disk under a snapshot", missing),
    };
    cluster.spawn(0);
    let mut session = Session::open(&cluster.endpoints(), 0);
    session.stream(300, 32, 1000);
    cluster.level();
    // It fails at once, and that is told without waiting for what will not come.
    let asked = snapshot(&cluster, &["--json"]);
    asked.expect(1, &["by member 0", "failed to", "a full disk"]);
    assert!(!asked.err.contains("within"), "{asked:?}");
    let said: Value = serde_json::from_str(&asked.out).unwrap();
    for member in said["members"].as_array().unwrap() {
        assert_eq!(member["stored"], member["member"] != 0, "{said}");
    }
    let log = cluster.log(0);
    for word in ["no snapshot was taken", "No space left", "Make room"] {
        assert!(log.contains(word), "no `{word}` in {log}");
    }
    assert_eq!(cluster.counters(0)["snapshots_failed"], 1);
    assert!(sets(&cluster, 0).is_empty(), "nothing is left of it");

    session.stream(300, 32, 1000);
    mount.resize("1m");
    snapshot(&cluster, &[]).expect(0, &[]);
    session.stream(300, 32, 1000);
    session.close();
    cluster.level();
    listed(&cluster, 0).expect(0, &[]);
    cluster.kill(0);
}

#[test]
fn a_damaged_newest_snapshot_is_told_of_and_the_one_before_is_used() {
    let mut cluster = Cluster::start("snapshot-rot", plan(3));
    let mut session = Session::open(&cluster.endpoints(), 0);
    for _ in 0..2 {
        session.stream(300, 32, 1000);
        snapshot(&cluster, &[]).expect(0, &[]);
    }
    session.stream(300, 32, 1000);
    cluster.level();
    let victim = (cluster.leader() + 1) % 3;
    cluster.kill(victim);
    let [older, newest] = &sets(&cluster, victim)[..] else {
        panic!("two are kept: {:?}", sets(&cluster, victim));
    };
    flip(&newest.join("service-0"));
    listed(&cluster, victim).expect(1, &["service-0", "is damaged"]);

    session.stream(300, 32, 1000);
    cluster.spawn(victim);
    cluster.level();
    let log = cluster.log(victim);
    let told = log.lines().find(|line| line.contains("ERROR"));
    let told = told.unwrap_or_else(|| panic!("it is not told of: {log}"));
    for word in ["service-0", "damaged"] {
        assert!(told.contains(word), "no `{word}` in {told}");
    }
    let position: u64 = older
        .file_name()
        .unwrap()
        .to_str()
        .unwrap()
        .parse()
        .unwrap();
    let started = log.lines().rfind(|line| line.contains("started")).unwrap();
    let expected = format!("snapshot={position} ");
    assert!(started.contains(&expected), "no {expected} in {started}");
    session.close();
    cluster.level();
    let first = records(&cluster.data(0));
    for member in 1..3 {
        assert_eq!(records(&cluster.data(member)), first, "member {member}");
    }
}

#[test]
fn the_snapshots_of_another_cluster_are_refused() {
    let with_snapshot = |name: &str, number: u64| {
        let mut plan = plan(1);
        plan.cluster = number;
        let mut cluster = Cluster::start(name, plan);
        let mut session = Session::open(&cluster.endpoints(), 0);
        session.stream(50, 16, 500);
        snapshot(&cluster, &[]).expect(0, &[]);
        session.close();
        stop(&mut cluster, 0);
        cluster
    };
    let (mut ours, theirs) = (with_snapshot("ours", 77), with_snapshot("theirs", 78));
    let own = ours.data(0).join("snapshot");
    let kept = ours.scratch().join("kept");
    fs::rename(&own, &kept).unwrap();
    fs::rename(theirs.data(0).join("snapshot"), &own).unwrap();
    let config = ours.config(0);
    let node = ["node".as_ref(), "--config".as_ref(), config.as_os_str()];
    run(node).expect(3, &["snapshot", "belongs to cluster 78", "says 77"]);

    fs::remove_dir_all(&own).unwrap();
    fs::rename(&kept, &own).unwrap();
    ours.spawn(0);
    assert_eq!(ours.leader(), 0, "nothing was changed");
    assert_eq!(records(&ours.data(0)).len(), 50);
}

/// Turns over a byte in the middle of a file.
fn flip(path: &Path) {
    let file = fs::OpenOptions::new().read(true).write(true).open(path);
    let file = file.unwrap();
    let at = file.metadata().unwrap().len() / 2;
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[!byte[0]], at).unwrap();
}

/// Its own snapshots fail until its log is full, and what comes next it has no room for: then only
/// the leader's snapshot helps, and it asks for it by itself.
#[test]
fn a_member_whose_log_is_full_for_good_is_sent_a_snapshot() {
    let mut plan = plan(3);
    plan.extra = "service = \"echo\"\nsegment_length = \"1MiB\"\nmessage_max = \"64KiB\"\n\
                  window = \"1MiB\"\nlog_max = \"12MiB\"\n"
        .into();
    plan.extra += Plan::PATIENT;
    let mut cluster = Cluster::start("cut-off", plan);
    cluster.kill(0);
    let mount = match Mount::new(&cluster.data(0).join("snapshot"), "4k") {
        Ok(mount) => mount,
        Err(missing) => return skip("full disk under the snapshots", missing),
    };
    assert_ne!(cluster.leader(), 0);
    cluster.spawn(0);
    let mut session = Session::open(&cluster.endpoints(), 0);
    let number = |status: &Value, name: &str| status[name].as_u64().unwrap_or_default();
    let mut looks = (0, 0);
    let (stuck, leader) = until("its log to be full", || {
        // Little once it stands still: the leader keeps what it misses.
        session.stream(if looks.1 == 0 { 50 } else { 1 }, 32, 8000);
        let (own, leader) = (cluster.answer_of(0), cluster.answer_of(cluster.leader()));
        let end = number(&own, "appended");
        // It has had its turn each time that it answers, and with room it would have come on.
        let is_still = end == looks.0 && number(&leader, "appended") > end;
        looks = (end, if is_still { looks.1 + 1 } else { 0 });
        (looks.1 == 5).then_some((own, leader))
    });
    assert_eq!(stuck["snapshot"], Value::Null, "{stuck}");
    // The leader has all that it misses, but it has no room for it, and nothing comes any more.
    let missed = number(&stuck, "appended");
    assert!(number(&leader, "log_start") <= missed, "{leader} {stuck}");
    mount.resize("64m");
    let after = cluster.level();
    assert_eq!(after[0]["snapshot"], leader["snapshot"], "{after:?}");
    assert!(number(&after[0], "appended") > missed, "{after:?}");
    assert!(
        cluster.log(0).contains("receiving a snapshot"),
        "{}",
        cluster.log(0)
    );
    session.stream(300, 32, 1000);
    session.close();
    cluster.level();
    cluster.kill(0);
}
