//! The log by multicast on a network of namespaces: how often its bytes leave the leader, and that
//! what some members do not hear reaches them all the same.

use coracle_net::cluster::Cluster;
use coracle_net::namespace::{self, Network};
use coracle_net::stage::{plan, send};
use coracle_net::{gate, say};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// No part of a test waits longer than this for the next sign of life.
const PATIENCE: Duration = Duration::from_secs(60);
const GROUP: &str = "log_multicast = \"239.97.0.1:9002\"";
/// What a line is longer by, so that headers and acknowledgements are few beside the log.
const LONG: usize = 900;

/// The tests of this file share the names of their namespaces, so they take turns.
fn turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

fn namespaces_are_there(test: &str) -> bool {
    match namespace::available() {
        Ok(()) => true,
        Err(missing) => {
            gate::skip(test, &missing);
            false
        }
    }
}

struct Sent {
    /// Log bytes that the leader sent for a byte of log, by its own account.
    log: f64,
    /// Bytes that left its machine, headers, answers to the client and all, for a byte of log.
    link: f64,
}

fn measure(members: u8, settings: &str) -> Sent {
    let network = Network::build(members + 1).expect("it worked for the probe");
    let mut cluster = Cluster::start("multicast", &plan(&network, settings)).expect("they start");
    let leader = cluster.await_leader(PATIENCE).expect("a leader");
    send(&cluster, "first", 100, LONG);
    cluster.await_level(PATIENCE).expect("all members level");
    let taken = |cluster: &Cluster| {
        let [log, end] = ["log_sent", "appended"].map(|name| cluster.counter(leader, name));
        let link = network.bytes_sent(leader).expect("the link counts");
        [log.expect("a counter"), end.expect("a counter"), link].map(|n| n as f64)
    };
    let before = taken(&cluster);
    send(&cluster, "second", 2_000, LONG);
    let level = cluster.await_level(PATIENCE).expect("all members level");
    let after = taken(&cluster);
    assert_eq!(level[leader].role, "leader", "it led all the time");
    let [log, end, link] = [0, 1, 2].map(|n| after[n] - before[n]);
    Sent {
        log: log / end,
        link: link / end,
    }
}

/// Each byte of the log leaves the leader once with multicast, however many members there are, and
/// once for each follower without. What was lost on the way and sent again comes on top, so there
/// is some room above; the members' own account and the link's agree.
#[test]
fn namespaces_multicast_log_leaves_the_leader_once() {
    let _turn = turn();
    if !namespaces_are_there("namespaces_multicast_log_leaves_the_leader_once") {
        return;
    }
    for members in [3, 5, 7] {
        let followers = f64::from(members - 1);
        let to_each = measure(members, "");
        let to_all = measure(members, GROUP);
        say!(
            "multicast: {members} members: log bytes sent for each: {:.3} by multicast, {:.3} to \
             each alone; bytes of its link, answers too: {:.2} and {:.2}",
            to_all.log,
            to_each.log,
            to_all.link,
            to_each.link
        );
        // On a busy machine followers ask for what only waits to be read.
        let most = 1.0 + followers / 5.0;
        assert!((0.99..most).contains(&to_all.log), "{}", to_all.log);
        let each = to_each.log / followers;
        assert!((0.99..1.6).contains(&each), "{}", to_each.log);
        // The echo of each byte is in there too, once.
        assert!(to_all.link < most + 1.5, "{}", to_all.link);
        assert!(to_each.link > followers, "{}", to_each.link);
    }
}

/// While lines are sent, one follower after the other does not hear the group for a moment. What
/// each misses it asks for, and is sent alone; in the end all have the same.
#[test]
fn namespaces_multicast_losses_are_repaired() {
    let _turn = turn();
    if !namespaces_are_there("namespaces_multicast_losses_are_repaired") {
        return;
    }
    let network = Network::build(6).expect("it worked for the probe");
    let plan = plan(&network, GROUP);
    let mut cluster = Cluster::start("multicast", &plan).expect("the nodes start");
    let leader = cluster.await_leader(PATIENCE).expect("a leader");
    send(&cluster, "first", 100, LONG);
    let is_sent = AtomicBool::new(false);
    let followers: Vec<usize> = (0..5).filter(|id| *id != leader).collect();
    let mut rounds = 0;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for round in ["second", "third", "fourth"] {
                send(&cluster, round, 3_000, LONG);
            }
            is_sent.store(true, Ordering::Relaxed);
        });
        for id in followers.iter().cycle() {
            if is_sent.load(Ordering::Relaxed) && rounds >= followers.len() {
                break;
            }
            for hears in [false, true] {
                network.set_hears_groups(*id, hears).expect("a port");
                std::thread::sleep(Duration::from_millis(15));
            }
            rounds += 1;
        }
    });
    send(&cluster, "last", 100, LONG);
    let level = cluster.await_level(PATIENCE).expect("all members level");
    let naks: Vec<u64> = (0..5)
        .map(|id| cluster.counter(id, "naks").expect("a counter"))
        .collect();
    say!(
        "multicast: {rounds} times a follower did not hear the group; asked again {naks:?} times; \
         all level at {}",
        level[leader].applied
    );
    assert!(naks.iter().sum::<u64>() > 0, "nothing was lost: {naks:?}");
}

/// A network that hands one member nothing that is sent to groups: the leader finds out, says so,
/// and serves that one alone.
#[test]
fn namespaces_multicast_does_not_reach_one_member() {
    let _turn = turn();
    if !namespaces_are_there("namespaces_multicast_does_not_reach_one_member") {
        return;
    }
    let network = Network::build(4).expect("it worked for the probe");
    let plan = plan(&network, GROUP);
    let mut cluster = Cluster::start("multicast", &plan).expect("the nodes start");
    let leader = cluster.await_leader(PATIENCE).expect("a leader");
    let deaf = (leader + 1) % 3;
    network.set_hears_groups(deaf, false).expect("a port");
    for round in 0..20 {
        send(&cluster, &format!("round {round}"), 50, 0);
        cluster.await_level(PATIENCE).expect("all members level");
    }
    let before = cluster.counter(deaf, "naks").expect("a counter");
    assert!(before > 0, "it asked for what it did not hear");
    let said = cluster.output(leader);
    assert!(said.contains("does not hear log_multicast"), "{said}");
    say!("multicast: member {deaf} is deaf, asked {before} times and is level");
}
