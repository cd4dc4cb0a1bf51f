//! Disks that are full, and disks that fail: the node stops, says which file, and loses nothing
//! that was acknowledged.

use std::process::{Command, Stdio};
use std::time::Duration;

use coracle_tests::process::{Cluster, Mount, Plan, Session, coracle, records, skip, until};

fn small_files(members: u8) -> Plan {
    let mut plan = Plan::new();
    plan.members = members;
    plan.extra = "service = \"echo\"\nsegment_length = \"1MiB\"\nmessage_max = \"64KiB\"\n\
                  window = \"1MiB\"\n"
        .into();
    plan
}

/// How many messages are on their way, and how long each is: a thread flushes most of those.
const MANY: (usize, usize) = (64, 8000);
/// And this one the node's own thread.
const ONE: (usize, usize) = (1, 32);

/// Sends until the member has ended.
fn stream_until_the_end(
    cluster: &mut Cluster,
    session: &mut Session,
    (in_flight, len): (usize, usize),
) {
    let member = 0;
    until("the disk to end the member", || {
        while session.in_flight() < in_flight && session.offer(len) {}
        // A session that ends with its cluster is fine.
        let is_over = session.poll(Duration::from_millis(5)).is_err();
        (is_over || !cluster.is_running(member)).then_some(())
    });
}

#[test]
fn a_full_disk_stops_a_single_member_and_loses_nothing() {
    let mut cluster = Cluster::prepare("full-one", small_files(1));
    let mount = match Mount::new(&cluster.data(0), "6m") {
        Ok(mount) => mount,
        Err(missing) => return skip("full disk, one member", missing),
    };
    cluster.spawn(0);
    let mut session = Session::open(&cluster.endpoints(), 0);
    stream_until_the_end(&mut cluster, &mut session, MANY);
    assert_eq!(cluster.wait(0).code(), Some(3), "{}", cluster.log(0));
    require_told(&cluster.log(0), &["No space left", ".seg", "Make room"]);
    assert!(session.answered().len() > 100, "it ran before");
    // To the last file that there was room for, not only until one ahead of need could not be made.
    let files = std::fs::read_dir(cluster.data(0).join("log")).unwrap();
    let names = files.map(|file| file.unwrap().file_name().into_string().unwrap());
    let files = names.filter(|name| name.ends_with(".seg")).count() as u64;
    let durable = cluster.counters(0)["durable"].as_u64().unwrap();
    assert!(
        files > 3 && durable > (files - 1) << 20,
        "{files}: {durable}"
    );

    mount.resize("64m");
    cluster.spawn(0);
    cluster.leader();
    require_all(&cluster, 0, &session);
    let mut session = Session::open(&cluster.endpoints(), session.next());
    session.stream(200, 32, 8000);
    session.close();
    cluster.kill(0);
}

#[test]
fn a_full_disk_stops_one_member_of_three_and_the_others_go_on() {
    let mut cluster = Cluster::prepare("full", small_files(3));
    let mount = match Mount::new(&cluster.data(0), "6m") {
        Ok(mount) => mount,
        Err(missing) => return skip("full disk, three members", missing),
    };
    for member in 0..3 {
        cluster.spawn(member);
    }
    let mut session = Session::open(&cluster.endpoints(), 0);
    stream_until_the_end(&mut cluster, &mut session, MANY);
    assert_eq!(cluster.wait(0).code(), Some(3), "{}", cluster.log(0));
    require_told(&cluster.log(0), &["No space left", ".seg", "Make room"]);
    session.stream(200, 32, 8000);

    mount.resize("64m");
    cluster.spawn(0);
    session.stream(200, 32, 8000);
    cluster.level();
    for member in 0..3 {
        require_all(&cluster, member, &session);
    }
    cluster.kill(0);
}

fn may_trace() -> bool {
    let mut probe = Command::new("strace");
    probe.args([
        "-D",
        "-f",
        "-o",
        "/dev/null",
        "-e",
        "inject=fdatasync:error=EIO:when=1",
        "true",
    ]);
    let ended = probe.stderr(Stdio::null()).status();
    ended.is_ok_and(|status| status.success())
}

#[test]
fn a_failed_flush_stops_the_node_and_loses_nothing() {
    if !may_trace() {
        return skip(
            "failed flush",
            "strace is missing, or may not trace (Debian: strace)",
        );
    }
    for (members, load) in [(1, MANY), (3, MANY), (1, ONE), (3, ONE)] {
        let mut cluster = Cluster::prepare("flush", small_files(members));
        // `-D`: the node is our child, the tracer is not.
        let mut command = Command::new("strace");
        command.args(["-D", "-f", "-o", "/dev/null", "-e", "trace=fdatasync"]);
        command.args(["-e", "inject=fdatasync:error=EIO:when=40+"]);
        command
            .arg(coracle())
            .arg("node")
            .arg("--init")
            .arg("--config")
            .arg(cluster.config(0));
        cluster.spawn_as(0, command);
        for member in 1..members {
            cluster.spawn(member);
        }
        let mut session = Session::open(&cluster.endpoints(), 0);
        stream_until_the_end(&mut cluster, &mut session, load);
        assert_eq!(cluster.wait(0).code(), Some(3), "{}", cluster.log(0));
        require_told(
            &cluster.log(0),
            &["cannot flush", "Input/output error", "data-0"],
        );
        if members == 3 {
            session.stream(200, 32, 8000);
        }
        cluster.spawn(0);
        cluster.level();
        for member in 0..members {
            require_all(&cluster, member, &session);
        }
    }
}

#[test]
fn a_leader_under_whose_feet_the_disk_stands_still_is_replaced_and_nothing_is_lost() {
    if !may_trace() {
        return skip(
            "a disk that stands still",
            "strace is missing, or may not trace (Debian: strace)",
        );
    }
    for (in_flight, len) in [ONE, MANY] {
        let mut cluster = Cluster::prepare("still", small_files(3));
        for member in 0..3 {
            cluster.spawn(member);
        }
        let mut session = Session::open(&cluster.endpoints(), 0);
        session.stream(100, in_flight, len);
        let leader = cluster.leader();
        let mut tracer = Command::new("strace")
            .args(["-f", "-o", "/dev/null", "-e", "trace=fdatasync", "-e"])
            // For longer than anybody here waits: until the tracer ends.
            .arg("inject=fdatasync:delay_enter=600000000:when=20")
            .args(["-p", &cluster.process(leader).to_string()])
            .stderr(Stdio::null())
            .spawn()
            .expect("strace starts");
        until("another leader", || {
            session.stream(1, in_flight, len);
            session.is_renewed().then_some(())
        });
        session.stream(200, in_flight, len);
        assert_ne!(cluster.leader(), leader);
        assert!(tracer.try_wait().expect("our own child").is_none());
        // The disk is back.
        tracer.kill().expect("our own child");
        tracer.wait().expect("our own child");
        cluster.level();
        for member in 0..3 {
            require_all(&cluster, member, &session);
        }
    }
}

#[track_caller]
fn require_told(log: &str, words: &[&str]) {
    let last = log.lines().last().unwrap_or_default();
    for word in words {
        assert!(last.contains(word), "no `{word}` in the last words: {log}");
    }
}

/// Every answered message is in the member's log, once and in order.
#[track_caller]
fn require_all(cluster: &Cluster, member: u8, session: &Session) {
    let found = until("the log to be committed again", || {
        let found = records(&cluster.data(member));
        (found.last() >= session.answered().last()).then_some(found)
    });
    assert!(
        found.is_sorted_by(|a, b| a < b),
        "a message twice, or out of order"
    );
    for number in session.answered() {
        assert!(
            found.binary_search(number).is_ok(),
            "{number} was acknowledged and is lost"
        );
    }
}
