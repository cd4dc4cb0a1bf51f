//! A member whose directory was lost: refused until it is replaced, filled by the others, counted.

use std::fs;

use coracle_tests::process::{Cluster, Plan, Session, records, run, until};
use serde_json::Value;

fn replace(cluster: &Cluster, member: u8) {
    let config = cluster.config(member);
    let args = ["init", "--replace", "--config"].map(std::ffi::OsStr::new);
    let ended = run(args.into_iter().chain([config.as_os_str()]));
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(ended.out.contains("in place of its lost one"), "{ended:?}");
}

#[track_caller]
fn counts(cluster: &Cluster, member: u8) -> Value {
    until("the replaced member to count", || {
        let status = cluster.status_of(member);
        (status["votes"] == true).then_some(status)
    })
}

#[test]
fn a_member_whose_directory_was_lost_is_replaced_and_counts_again() {
    let mut cluster = Cluster::start("replace", Plan::new());
    let lost = (cluster.leader() + 1) % 3;
    let mut session = Session::open(&cluster.endpoints(), 0);
    session.stream(500, 32, 1000);
    cluster.kill(lost);
    fs::remove_dir_all(cluster.data(lost)).unwrap();
    let config = cluster.config(lost);
    run(["node".as_ref(), "--config".as_ref(), config.as_os_str()])
        .expect(3, &["never initialised", "coracle init --replace"]);

    replace(&cluster, lost);
    session.stream(500, 32, 1000);
    cluster.spawn(lost);
    let status = counts(&cluster, lost);
    assert_ne!(status["incarnation"], 1, "a life of its own: {status}");
    let after = cluster.level();
    assert_eq!(after.len(), 3);

    // Without it there is no quorum now: it votes, and its disk counts.
    let leader = cluster.leader();
    cluster.kill(leader);
    session.stream(500, 32, 1000);
    cluster.spawn(leader);
    cluster.level();
    let first = records(&cluster.data(lost));
    for member in 0..3 {
        assert_eq!(records(&cluster.data(member)), first, "member {member}");
    }
    for number in session.answered() {
        assert!(first.binary_search(number).is_ok(), "{number} is lost");
    }
    session.close();
}

#[test]
fn a_replaced_member_counts_for_nothing_before_the_others_say_so() {
    let mut cluster = Cluster::start("replaced-alone", Plan::new());
    for member in 0..3 {
        cluster.kill(member);
    }
    fs::remove_dir_all(cluster.data(0)).unwrap();
    replace(&cluster, 0);
    cluster.spawn(0);
    let alone = until("its answer", || {
        let status = cluster.status_of(0);
        status["votes"].is_boolean().then_some(status)
    });
    assert_eq!(alone["votes"], false, "{alone}");
    assert_eq!(alone["role"], "follower", "{alone}");
    let config = cluster.config(0);
    until("a table that says so", || {
        let table = run(["status".as_ref(), "--config".as_ref(), config.as_os_str()]);
        table.out.contains("does not count yet").then_some(())
    });
    cluster.spawn(1);
    cluster.spawn(2);
    counts(&cluster, 0);
    cluster.level();
}

#[test]
fn a_directory_that_is_there_is_not_replaced() {
    let cluster = Cluster::prepare("replace-full", Plan::new());
    let config = cluster.config(0);
    let made = run(["init".as_ref(), "--config".as_ref(), config.as_os_str()]);
    assert_eq!(made.code, Some(0), "{made:?}");
    let args = ["init".as_ref(), "--replace".as_ref(), "--config".as_ref()];
    run(args.into_iter().chain([config.as_os_str()])).expect(3, &["is not empty", "move"]);
    let both = [
        "node".as_ref(),
        "--init".as_ref(),
        "--replace".as_ref(),
        "--config".as_ref(),
        config.as_os_str(),
    ];
    run(both).expect(2, &["--init", "--replace"]);
}

#[test]
fn a_member_without_whom_there_is_no_quorum_is_not_replaced() {
    for members in [1, 2] {
        let mut plan = Plan::new();
        plan.members = members;
        let cluster = Cluster::prepare("replace-few", plan);
        let config = cluster.config(0);
        let args = ["init".as_ref(), "--replace".as_ref(), "--config".as_ref()];
        let refused = run(args.into_iter().chain([config.as_os_str()]));
        refused.expect(2, &["no quorum without the lost member", "coracle init"]);
        assert!(!cluster.data(0).exists(), "nothing was made");
    }
}
