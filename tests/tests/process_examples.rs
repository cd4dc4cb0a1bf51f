//! The library's examples run, and do what their first lines say.

use std::net::UdpSocket;
use std::process::Command;
use std::time::Duration;

use coracle_tests::process::{Cluster, Ended, Plan, example, free_ports, until};
use rustix::process::Signal;

#[test]
fn a_gateway_with_a_member_in_its_poll_loop_serves_its_devices() {
    let mut plan = Plan::new();
    plan.members = 1;
    let mut cluster = Cluster::prepare("gateway", plan);
    let port = free_ports(1)[0];
    let address = format!("127.0.0.1:{port}");
    let mut gateway = Command::new(example("gateway"));
    gateway.arg(cluster.config(0)).arg(&address);
    cluster.spawn_as(0, gateway);
    cluster.leader();

    let mut client = Command::new(example("client"));
    client.args([&cluster.endpoints(), "17", "4"]);
    let ended = Ended::from(client.output().unwrap());
    assert_eq!(
        (ended.code, ended.out.as_str()),
        (Some(0), "17\n21\n"),
        "{ended:?}"
    );

    let device = UdpSocket::bind("127.0.0.1:0").unwrap();
    device
        .set_read_timeout(Some(Duration::from_millis(200)))
        .unwrap();
    let answer = until("the gateway's answer", || {
        device.send_to(b"?", &address).unwrap();
        let mut answer = [0; 100];
        let length = device.recv(&mut answer).ok()?;
        Some(String::from_utf8_lossy(&answer[..length]).into_owned())
    });
    assert!(
        answer.starts_with("21 at ") && answer.contains("Leader"),
        "{answer}"
    );

    cluster.signal(0, Signal::TERM);
    assert_eq!(cluster.wait(0).code(), Some(0), "{}", cluster.log(0));
}
