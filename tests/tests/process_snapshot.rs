//! Snapshots that an operator asks for, from the command line.

use coracle_tests::process::{Cluster, Ended, Plan, Session, run};
use serde_json::Value;

fn with_admin(admin: &str) -> Plan {
    let mut plan = Plan::patient();
    plan.extra += &format!("admin = \"{admin}\"\n");
    plan
}

fn snapshot(cluster: &Cluster, more: &[&str]) -> Ended {
    let endpoints = cluster.endpoints();
    let args = ["snapshot", "--endpoints", &endpoints];
    run(args.iter().chain(more))
}

#[test]
fn every_member_stores_the_snapshot_that_is_asked_for_under_load() {
    let cluster = Cluster::start("admin", with_admin("allow"));
    let mut session = Session::open(&cluster.endpoints(), 0);
    session.stream(500, 32, 1000);
    let asked = std::thread::scope(|scope| {
        let asked = scope.spawn(|| snapshot(&cluster, &["--json"]));
        while !asked.is_finished() {
            session.stream(50, 32, 1000);
        }
        asked.join().unwrap()
    });
    asked.expect(0, &[]);
    let said: Value = serde_json::from_str(&asked.out).unwrap();
    let at = said["asked_at"].as_u64().unwrap();
    assert!(at > 500 * 1000, "what was answered is committed: {said}");
    let members = said["members"].as_array().unwrap();
    assert_eq!(members.len(), 3, "{said}");
    for member in members {
        assert_eq!(member["stored"], true, "{said}");
        assert!(member["snapshot"].as_u64().unwrap() >= at, "{said}");
        assert_eq!(member["snapshot"], members[0]["snapshot"], "{said}");
    }
    cluster.level();
    for member in 0..3 {
        let dir = cluster.data(member);
        let args = ["snapshots".as_ref(), "--json".as_ref(), "--dir".as_ref()];
        let listed = run(args.into_iter().chain([dir.as_os_str()]));
        listed.expect(0, &[]);
        let set: Value = serde_json::from_str(listed.out.lines().last().unwrap()).unwrap();
        assert_eq!(set["position"], members[0]["snapshot"], "{}", listed.out);
        assert_eq!(set["state"], "verified", "{}", listed.out);
    }
}

#[test]
fn nobody_may_ask_unless_the_settings_say_so() {
    let cluster = Cluster::start("no-admin", with_admin("deny"));
    snapshot(&cluster, &[]).expect(1, &["admin = \"allow\"", "may not administer"]);
    for member in cluster.answers() {
        assert_eq!(member["snapshot"], Value::Null, "{member}");
    }
}

#[test]
fn a_member_that_does_not_answer_is_named_and_the_others_have_it() {
    let mut cluster = Cluster::start("admin-absent", with_admin("allow"));
    let absent = (cluster.leader() + 1) % 3;
    cluster.kill(absent);
    let asked = snapshot(&cluster, &[]);
    asked.expect(1, &[&format!("no answer from member {absent}")]);
    assert_eq!(
        asked.out.matches("stored at position").count(),
        2,
        "{asked:?}"
    );
    // It gets the snapshot's place in the log, and takes its own there.
    cluster.spawn(absent);
    cluster.level();
    snapshot(&cluster, &[]).expect(0, &[]);
}

#[test]
fn a_cluster_that_is_not_there_is_told_so() {
    let cluster = Cluster::prepare("admin-none", with_admin("allow"));
    snapshot(&cluster, &[]).expect(5, &["no member answers"]);
}
