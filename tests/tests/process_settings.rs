//! A member whose settings are not the others': it does not join, says why, and harms nobody.

use std::fs;

use coracle_tests::process::{Cluster, Plan, Session, run, until};
use rustix::process::Signal;

/// Puts a line at the top of a member's configuration, or takes it away.
fn set(cluster: &Cluster, member: u8, line: &str) {
    let text = cluster.config_text(member, &cluster.data(member));
    fs::write(cluster.config(member), format!("{line}{text}")).unwrap();
}

fn stop(cluster: &mut Cluster, member: u8) {
    cluster.signal(member, Signal::TERM);
    assert_eq!(cluster.wait(member).code(), Some(0));
}

#[test]
fn a_member_with_another_longest_message_does_not_join_until_it_is_corrected() {
    let mut cluster = Cluster::prepare("settings", Plan::patient());
    set(&cluster, 2, "message_max = \"512 KiB\"\n");
    cluster.spawn(0);
    cluster.spawn(1);
    cluster.leader();
    cluster.spawn(2);
    let mut session = Session::open(&cluster.endpoints(), 0);
    session.stream(500, 32, 1000);
    let odd = until("the odd member to say which setting differs", || {
        let status = cluster.status_of(2);
        (status["settings_differ"][0] == "message_max").then_some(status)
    });
    assert_eq!(odd["appended"], 0, "it stores nothing: {odd}");
    let log = until("the odd member's log", || {
        let log = cluster.log(2);
        log.contains("does not join").then_some(log)
    });
    for said in [
        "message_max",
        "512 KiB",
        "1 MiB",
        "Give every member the same",
    ] {
        assert!(log.contains(said), "`{said}` is not in {log}");
    }
    let config = cluster.config(2);
    until("a table and counters that say so", || {
        let table = run(["status".as_ref(), "--config".as_ref(), config.as_os_str()]);
        let is_said = table.out.contains("DOES NOT JOIN: other message_max")
            && cluster.counters(2)["settings_differ"][0] == "message_max";
        is_said.then_some(())
    });

    // It does not take the place of a leader that stops, nor keep the others from having one.
    let leader = cluster.leader();
    stop(&mut cluster, leader);
    cluster.spawn(leader);
    assert_ne!(cluster.leader(), 2);
    session.stream(500, 32, 1000);

    stop(&mut cluster, 2);
    set(&cluster, 2, "");
    cluster.spawn(2);
    session.stream(500, 32, 1000);
    let level = cluster.level();
    assert!(
        level.iter().all(|m| m["settings_differ"][0].is_null()),
        "{level:?}"
    );
    // Its disk counts now: with another member away there is a quorum.
    let leader = cluster.leader();
    cluster.kill(leader);
    session.stream(500, 32, 1000);
    session.close();
}
