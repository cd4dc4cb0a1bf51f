//! Three nodes in three network namespaces with addresses of their own.

use coracle_net::cluster::Cluster;
use coracle_net::namespace::{self, Host, Network};
use coracle_net::stage::{plan, send};
use coracle_net::{gate, say};
use std::process::{Child, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// No part of a test waits longer than this for the next sign of life.
const PATIENCE: Duration = Duration::from_secs(60);

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

/// A child that is killed when the test ends.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

const HELPER: &str = env!("CARGO_BIN_EXE_coracle-net");

fn asks(from: &Host, to: &Host) -> bool {
    let mut command = from.command(HELPER);
    command
        .arg("ask")
        .arg(format!("{}:9000", to.address))
        .arg("hello")
        .stderr(Stdio::null());
    command.status().expect("ip starts").success()
}

/// The harness itself: hosts reach each other, a cut one does not, and comes back, both with its
/// link down and with its link gone.
#[test]
fn namespaces_self_test() {
    let _turn = turn();
    if !namespaces_are_there("namespaces_self_test") {
        return;
    }
    let network = Network::build(3).expect("it worked for the probe");
    let [a, b, c] = network.hosts() else {
        panic!("three hosts")
    };
    let echoes: Vec<Killed> = [a, b]
        .map(|host| {
            let mut command = host.command(HELPER);
            command.arg("echo").arg(format!("{}:9000", host.address));
            Killed(command.spawn().expect("ip starts"))
        })
        .into();
    assert!(asks(c, a));
    assert!(asks(c, b));
    network.set_link_down(0).expect("a link can be set down");
    assert!(!asks(c, a), "a host with its link down answers");
    assert!(asks(c, b));
    network.set_link_up(0).expect("a link can be set up");
    assert!(asks(c, a));
    network.remove_link(0).expect("a link can be removed");
    assert!(!asks(c, a), "a host without a link answers");
    network.restore_link(0).expect("a link can be made again");
    assert!(asks(c, a));
    drop(echoes);
    say!("namespaces_self_test: two cuts, two returns");
}

/// The leader is cut off and steps down, the others go on, it comes back and is level again: once
/// with its link down, so that its own sends fail, and once with its link taken away altogether.
#[test]
fn namespaces_leader_is_cut_off_and_comes_back() {
    let _turn = turn();
    if !namespaces_are_there("namespaces_leader_is_cut_off_and_comes_back") {
        return;
    }
    let network = Network::build(4).expect("it worked for the probe");
    let mut cluster = Cluster::start("namespaces", &plan(&network, "")).expect("the nodes start");
    let mut leader = cluster.await_leader(PATIENCE).expect("a leader");
    send(&cluster, "first", 1_000, 0);
    for round in ["down", "gone"] {
        let cut = leader;
        match round {
            "down" => network.set_link_down(cut),
            _ => network.remove_link(cut),
        }
        .expect("a link can be cut");
        cluster
            .await_step_down(cut, PATIENCE)
            .expect("it may not go on leading alone");
        cluster
            .await_status("another leader", PATIENCE, |members| {
                let found = members.iter().find(|status| status.role == "leader");
                leader = found.map_or(cut, |status| status.member);
                leader != cut
            })
            .expect("the others elect");
        send(&cluster, round, 1_000, 0);
        match round {
            "down" => network.set_link_up(cut),
            _ => network.restore_link(cut),
        }
        .expect("a link can be restored");
        let level = cluster.await_level(PATIENCE).expect("all members level");
        say!(
            "namespaces: link of leader {cut} {round}, {leader} led on, all level at {}",
            level[cut].applied
        );
        leader = cluster.await_leader(PATIENCE).expect("a leader");
    }
    send(&cluster, "last", 100, 0);
    cluster.await_level(PATIENCE).expect("all members level");
}
