//! `tshark` reads Coracle's traffic: every datagram is Aeron, and a damaged one is found out.

use coracle_net::capture::{Capture, Report, available};
use coracle_net::scratch::Scratch;
use coracle_net::{frames, gate, say};
use std::net::UdpSocket;

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
        Err((why, install)) => {
            gate::skip(test, &why, install);
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
