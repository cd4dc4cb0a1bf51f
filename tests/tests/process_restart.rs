//! Members that end, in every way, and start again.

use std::time::Duration;

use coracle_tests::process::{Cluster, Plan, Session, records, run, until};
use rustix::process::Signal;

/// What the log of every member must hold: each answered message once, nothing twice, nothing that
/// was not sent, all in the same order.
#[track_caller]
fn require_exactly_once(cluster: &Cluster, answered: &[u64], sent: u64) {
    let first = records(&cluster.data(0));
    for member in 1..3 {
        assert_eq!(records(&cluster.data(member)), first, "member {member}");
    }
    assert!(
        first.is_sorted_by(|a, b| a < b),
        "a message twice, or out of order"
    );
    assert!(
        first.iter().all(|number| *number < sent),
        "a message from nowhere"
    );
    let missing: Vec<&u64> = answered
        .iter()
        .filter(|n| first.binary_search(n).is_err())
        .collect();
    assert!(
        missing.is_empty(),
        "answered, but not in the log: {missing:?}"
    );
}

#[test]
fn kill_9_of_the_leader_and_an_immediate_restart_just_work() {
    let mut cluster = Cluster::start("kill", Plan::new());
    let mut session = Session::open(&cluster.endpoints(), 0);
    for _ in 0..2 {
        session.stream(500, 64, 200);
        // In mid-stream: with messages in flight.
        while session.in_flight() < 32 && session.offer(200) {}
        let leader = cluster.leader();
        cluster.kill(leader);
        cluster.spawn(leader);
        session.stream(500, 64, 3000);
    }
    assert!(session.is_renewed(), "another leader has spoken");
    session.drain();
    let sent = session.next();
    let answered = session.close();
    assert!(answered.len() >= 2000);
    cluster.level();
    require_exactly_once(&cluster, &answered, sent);
}

#[test]
fn a_member_that_missed_much_catches_up() {
    let mut cluster = Cluster::start("catch-up", Plan::new());
    let away = (cluster.leader() + 1) % 3;
    cluster.kill(away);
    let mut session = Session::open(&cluster.endpoints(), 0);
    // More than the leader's window in memory, so that its files are read.
    session.stream(1500, 64, 12_000);
    cluster.spawn(away);
    cluster.level();
    let sent = session.next();
    require_exactly_once(&cluster, &session.close(), sent);
}

#[test]
fn all_members_killed_at_once_come_back_with_everything() {
    let mut cluster = Cluster::start("all", Plan::new());
    let mut session = Session::open(&cluster.endpoints(), 0);
    session.stream(300, 32, 500);
    while session.in_flight() < 32 && session.offer(500) {}
    for member in 0..3 {
        cluster.signal(member, Signal::KILL);
    }
    for member in 0..3 {
        cluster.wait(member);
        cluster.spawn(member);
    }
    cluster.level();
    require_exactly_once(&cluster, session.answered(), session.next());
    let mut session = Session::open(&cluster.endpoints(), session.next());
    session.stream(10, 10, 500);
}

#[test]
fn sigterm_closes_gracefully_and_another_leads() {
    for signal in [Signal::TERM, Signal::INT] {
        let mut cluster = Cluster::start("term", Plan::new());
        let mut session = Session::open(&cluster.endpoints(), 0);
        session.stream(100, 16, 100);
        let old = cluster.leader();
        cluster.signal(old, signal);
        let status = cluster.wait(old);
        assert_eq!(status.code(), Some(0), "{}", cluster.log(old));
        assert!(cluster.log(old).contains("closed"));
        assert_eq!(
            cluster.counters(old)["process"],
            0,
            "its counters say that it has closed"
        );
        let new = until("another leader", || {
            let leader = cluster.leader();
            (leader != old).then_some(leader)
        });
        session.stream(100, 16, 100);
        assert_ne!(new, old);
        cluster.spawn(old);
        cluster.level();
        session.close();
    }
}

#[test]
fn a_second_signal_ends_the_process_at_once() {
    // A leader that is alone has nobody to hand over to, so its close takes a leader timeout.
    let mut plan = Plan::new();
    plan.members = 2;
    plan.extra += "timings = { leader_timeout = \"10s\", session_timeout = \"60s\" }\n";
    let mut cluster = Cluster::prepare("twice", plan);
    for member in 0..2 {
        cluster.spawn(member);
    }
    let leader = cluster.leader();
    cluster.signal(1 - leader, Signal::STOP);
    cluster.signal(leader, Signal::TERM);
    until("the close", || {
        cluster.log(leader).contains("closing").then_some(())
    });
    assert!(
        cluster.is_running(leader),
        "it waits for the other: {}",
        cluster.log(leader)
    );
    cluster.signal(leader, Signal::TERM);
    assert_eq!(
        cluster.wait(leader).code(),
        Some(130),
        "{}",
        cluster.log(leader)
    );
}

#[test]
fn a_single_member_is_a_cluster() {
    let mut plan = Plan::new();
    plan.members = 1;
    let mut cluster = Cluster::start("single", plan);
    let mut session = Session::open(&cluster.endpoints(), 0);
    session.stream(200, 32, 1000);
    session.close();
    cluster.kill(0);
    cluster.spawn(0);
    assert_eq!(cluster.leader(), 0);
    assert_eq!(records(&cluster.data(0)), (0..200).collect::<Vec<u64>>());
    let dir = cluster.data(0);
    let log = run([
        "log".as_ref(),
        "--verify".as_ref(),
        "--dir".as_ref(),
        dir.as_os_str(),
    ]);
    assert_eq!(log.code, Some(0), "{log:?}");
}

#[test]
fn a_follower_that_was_stopped_for_a_while_is_level_again() {
    let cluster = Cluster::start("stopped", Plan::new());
    let stopped = (cluster.leader() + 1) % 3;
    cluster.signal(stopped, Signal::STOP);
    let mut session = Session::open(&cluster.endpoints(), 0);
    session.stream(300, 32, 1000);
    // Longer than a session's or a leader's patience would not change anything; this is no such
    // claim.
    std::thread::sleep(Duration::from_millis(500));
    cluster.signal(stopped, Signal::CONT);
    session.stream(300, 32, 1000);
    let sent = session.next();
    let answered = session.close();
    cluster.level();
    require_exactly_once(&cluster, &answered, sent);
}

#[test]
fn a_cluster_that_stood_still_as_a_whole_keeps_its_leader_and_sessions() {
    let mut plan = Plan::new();
    plan.extra += "timings = { session_timeout = \"1600ms\" }\n";
    let cluster = Cluster::start("still", plan);
    let leader = cluster.leader();
    let mut session = Session::open(&cluster.endpoints(), 0);
    session.stream(100, 16, 100);
    // However long that takes, the session is looked after.
    let before = std::thread::scope(|scope| {
        let level = scope.spawn(|| cluster.level());
        while !level.is_finished() {
            session.poll(Duration::from_millis(50)).unwrap();
        }
        level.join().unwrap()
    });
    for member in 0..3 {
        cluster.signal(member, Signal::STOP);
    }
    // Several leader timeouts, and longer than a client may be silent.
    std::thread::sleep(Duration::from_millis(2_500));
    for member in [(leader + 1) % 3, (leader + 2) % 3, leader] {
        cluster.signal(member, Signal::CONT);
    }
    session.stream(100, 16, 100);
    for (member, now) in cluster.level().iter().enumerate() {
        assert_eq!(now["term"], before[member]["term"], "member {member}");
        assert_eq!(now["leader"], before[member]["leader"], "member {member}");
    }
    session.close();
}
