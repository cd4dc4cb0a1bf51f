//! `tshark` reads Coracle's traffic: every datagram is Aeron, and a damaged one is found out.

use coracle_net::capture::{Capture, Report, available};
use coracle_net::cluster::{Addresses, Cluster, Plan, addresses_on};
use coracle_net::relay::{self, Relay};
use coracle_net::scratch::Scratch;
use coracle_net::{frames, gate, say};
use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

/// No part of a test waits longer than this for the next sign of life.
const PATIENCE: Duration = Duration::from_secs(60);

const KINDS: [&str; 4] = ["SETUP", "SM", "DATA", "NAK"];

/// Sends hand-made datagrams through a capture and returns the dissector's report.
fn report_on(datagrams: &[Vec<u8>]) -> Report {
    let scratch = Scratch::new("tshark");
    let sender = UdpSocket::bind(("127.0.0.1", 0)).expect("a port is free");
    let receiver = UdpSocket::bind(("127.0.0.1", 0)).expect("a port is free");
    let target = receiver.local_addr().expect("it is bound");
    let capture = Capture::start("lo", &[target.port()], &scratch.join("hand.pcapng"))
        .expect("tshark captures, as it did for the probe");
    for datagram in datagrams {
        sender.send_to(datagram, target).expect("loopback takes it");
    }
    capture.stop().expect("tshark reads its own capture")
}

fn tshark_is_there(test: &str) -> bool {
    match available("lo") {
        Ok(version) => {
            say!("{test}: {version}");
            true
        }
        Err(missing) => {
            gate::skip(test, &missing);
            false
        }
    }
}

#[test]
fn tshark_check_finds_damage() {
    if !tshark_is_there("tshark_check_finds_damage") {
        return;
    }
    let mut two_frames = frames::data(0, 1, 100, 0, b"one");
    two_frames.extend(frames::data(64, 1, 100, 0, b"two"));
    let good = vec![
        frames::setup(1, 100),
        frames::sm(1, 100),
        two_frames.clone(),
        frames::nak(1, 100),
        frames::data(128, 1, 100, 0, &[7; 1000]),
    ];
    let report = report_on(&good);
    say!("tshark_check_finds_damage: intact: {report}");
    assert_eq!(report.verdict(5, &KINDS), Ok(()));
    assert_eq!(report.seen("DATA"), 3);
    assert!(
        report.verdict(1_000, &KINDS).is_err(),
        "too few must not pass"
    );
    assert!(
        report.verdict(5, &["PAD"]).is_err(),
        "a missing kind must not pass"
    );

    let mut other_version = good[4].clone();
    other_version[4] = 9;
    let mut too_long = two_frames.clone();
    too_long[64] = 200;
    let mut too_short = two_frames;
    too_short[64] = 5;
    let truncated = good[4][..700].to_vec();
    let mut short_nak = good[3][..20].to_vec();
    short_nak[0] = 20;
    let damages = [
        ("version", other_version),
        ("second frame too long", too_long),
        ("second frame too short", too_short),
        ("truncated", truncated),
        ("short NAK", short_nak),
    ];
    for (name, damaged) in damages {
        let mut datagrams = good.clone();
        datagrams.push(damaged);
        let report = report_on(&datagrams);
        let verdict = report.verdict(5, &KINDS);
        say!("tshark_check_finds_damage: {name}: {verdict:?}");
        assert!(verdict.is_err(), "{name} was not found: {report}");
    }
}

/// The port of `host:port`.
fn port(address: &str) -> u16 {
    address
        .parse::<SocketAddr>()
        .expect("a loopback address")
        .port()
}

/// Three members that know each other only through relays, each losing one data datagram in
/// thirty, so that followers have to ask again.
fn lossy_plan(members: &[Addresses]) -> (Plan, Vec<Relay>) {
    let mut plan = Plan::loopback(0);
    plan.views = vec![members.to_vec(); members.len()];
    plan.settings = "service = \"echo\"".to_owned();
    let mut relays = Vec::new();
    for low in 0..members.len() {
        for high in low + 1..members.len() {
            let left: SocketAddr = members[low].member.parse().expect("a loopback address");
            let right = members[high].member.parse().expect("a loopback address");
            let (there, back) = (relay::every_nth_data(30), relay::every_nth_data(30));
            let relay = Relay::between(Some(left), right, there, back).expect("doors open");
            plan.views[low][high].member = relay.left_door().to_string();
            plan.views[high][low].member = relay.right_door().to_string();
            relays.push(relay);
        }
    }
    (plan, relays)
}

/// Lines of 1 byte to about 10 KiB, for `coracle send`.
fn lines(count: usize) -> String {
    (0..count)
        .map(|number| format!("{number:x}{}\n", "m".repeat(number * 37 % 10_000)))
        .collect()
}

/// Sends lines through the cluster with the program's own client; the echo is each line.
fn send(cluster: &Cluster, name: &str, text: &str) {
    let file = cluster.file(name);
    std::fs::write(&file, text).expect("a scratch file can be written");
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

/// Every datagram of a lossy cluster and its client is Aeron to the dissector; then one damaged
/// datagram goes to a node, and the same check fails, while the cluster goes on.
#[test]
fn tshark_reads_every_datagram() {
    if !tshark_is_there("tshark_reads_every_datagram") {
        return;
    }
    let members = addresses_on("127.0.0.1", 3);
    let (plan, relays) = lossy_plan(&members);
    let mut ports: Vec<u16> = members
        .iter()
        .flat_map(|addresses| [port(&addresses.member), port(&addresses.ingress)])
        .collect();
    ports.sort_unstable();
    let scratch = Scratch::new("tshark");
    let capture = Capture::start("lo", &ports, &scratch.join("cluster.pcapng"))
        .expect("tshark captures, as it did for the probe");
    let mut cluster = Cluster::start("tshark", &plan).expect("the nodes start");
    let leader = cluster.await_leader(PATIENCE).expect("a leader");
    send(&cluster, "lines", &lines(1_000));
    cluster.await_level(PATIENCE).expect("all members level");
    let report = capture.stop().expect("tshark reads its capture");
    let lost: u64 = relays.iter().map(Relay::lost).sum();
    say!("tshark_reads_every_datagram: {report} ({lost} lost on purpose)");
    assert_eq!(report.verdict(1_001, &KINDS), Ok(()));

    let capture = Capture::start("lo", &ports, &scratch.join("damaged.pcapng"))
        .expect("tshark captures, as it did before");
    let sender = UdpSocket::bind(("127.0.0.1", 0)).expect("a port is free");
    let mut damaged = frames::data(0, 1, 101, 0, &[7; 100]);
    damaged[4] = 0xFF;
    sender
        .send_to(&damaged, members[leader].ingress.as_str())
        .expect("loopback takes it");
    send(&cluster, "more", &lines(100));
    cluster.check_alive().expect("the nodes go on");
    let report = capture.stop().expect("tshark reads its capture");
    let verdict = report.verdict(101, &["SETUP", "SM", "DATA"]);
    say!("tshark_reads_every_datagram: with one damaged datagram: {verdict:?}");
    assert!(
        verdict.is_err(),
        "the damaged datagram was not found: {report}"
    );
    assert_eq!(
        report.udp - report.aeron,
        1,
        "only the damaged datagram is not Aeron: {report}"
    );
}
