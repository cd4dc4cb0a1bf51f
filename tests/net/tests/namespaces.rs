//! Three nodes in three network namespaces with addresses of their own.

use coracle_net::namespace::{self, Host, Network};
use coracle_net::{gate, say};
use std::process::{Child, Stdio};

fn namespaces_are_there(test: &str) -> bool {
    match namespace::available() {
        Ok(()) => true,
        Err((why, install)) => {
            gate::skip(test, &why, install);
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
