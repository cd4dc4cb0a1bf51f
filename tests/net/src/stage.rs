//! A cluster whose members, and whose client, are each on a host of a network of their own.

use crate::cluster::{Addresses, Cluster, Plan};
use crate::namespace::{Host, Network};

/// A member on each host but the last, which is the client's; all with the echo service and, on
/// top, `settings`.
///
/// # Panics
/// Without a host.
pub fn plan(network: &Network, settings: &str) -> Plan {
    let (client, hosts) = network.hosts().split_last().expect("some hosts");
    let list: Vec<Addresses> = hosts
        .iter()
        .map(|host| Addresses {
            member: format!("{}:9000", host.address),
            ingress: format!("{}:9001", host.address),
        })
        .collect();
    Plan {
        views: vec![list; hosts.len()],
        wrappers: hosts.iter().map(Host::wrapper).collect(),
        client: client.wrapper(),
        settings: format!("service = \"echo\"\n{settings}"),
    }
}

/// Sends `count` lines, each longer by `more`, from the client's host and checks the echo.
///
/// # Panics
/// When they do not come back.
pub fn send(cluster: &Cluster, round: &str, count: usize, more: usize) {
    let rest = "-".repeat(more);
    let text: String = (0..count)
        .map(|number| format!("{round} line {number}{rest}\n"))
        .collect();
    let file = cluster.file(round);
    std::fs::write(&file, &text).expect("a scratch file can be written");
    let config = cluster.config(0).to_str().expect("it is text");
    let mut command = cluster.command(&["send", "--config", config, "--file"]);
    let output = command.arg(&file).output().expect("the program starts");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "send: {}: {errors}", output.status);
    assert!(
        output.stdout == text.as_bytes(),
        "send: the replies are not the lines: {errors}"
    );
}
