//! Real processes whose leader sends the log to a multicast group, on the loopback interface.

use std::fs;

use coracle_tests::process::{Cluster, Plan, Session, free_ports, until};

/// A group of one test alone.
fn group() -> String {
    let port = free_ports(1)[0];
    format!("log_multicast = \"239.255.66.2:{port}\"\n")
}

fn plan(group: &str) -> Plan {
    let mut plan = Plan::patient();
    plan.extra += group;
    plan
}

fn stream(cluster: &Cluster) {
    Session::open(&cluster.endpoints(), 0).stream(2_000, 256, 200);
}

/// Log bytes that a leader has sent, and how long its log is.
fn sent(cluster: &Cluster, leader: u8) -> (u64, u64) {
    let counters = cluster.counters(leader);
    let counter = |name: &str| counters[name].as_u64().expect("a counter");
    (counter("log_sent"), counter("appended"))
}

#[test]
fn the_log_leaves_once_for_all_and_who_was_away_is_sent_it_alone() {
    let mut cluster = Cluster::start("multicast", plan(&group()));
    // Who has just joined is sent what it misses alone.
    cluster.level();
    let leader = cluster.leader();
    let before = sent(&cluster, leader);
    stream(&cluster);
    cluster.level();
    let after = sent(&cluster, leader);
    let (bytes, log) = (after.0 - before.0, after.1 - before.1);
    // Two followers: without the group it would be twice the log, and more if something was lost.
    assert!(bytes >= log && bytes < log * 3 / 2, "{bytes} for {log}");
    let away = (leader + 1) % 3;
    cluster.kill(away);
    stream(&cluster);
    cluster.spawn(away);
    cluster.level();
    cluster.kill(leader);
    let other = cluster.leader();
    assert_ne!(other, leader);
    stream(&cluster);
    cluster.spawn(leader);
    cluster.level();
}

#[test]
fn a_member_without_the_group_is_found_out_and_sent_the_log_alone() {
    let group = group();
    let mut cluster = Cluster::prepare("deaf", plan(&group));
    let text = cluster.config_text(2, &cluster.data(2)).replace(&group, "");
    fs::write(cluster.config(2), text).unwrap();
    cluster.spawn(0);
    cluster.spawn(1);
    let leader = cluster.leader();
    cluster.spawn(2);
    let log = until("the leader to find out", || {
        stream(&cluster);
        cluster.level();
        let log = cluster.log(leader);
        log.contains("does not hear log_multicast").then_some(log)
    });
    assert!(log.contains("member=2"), "{log}");
}
