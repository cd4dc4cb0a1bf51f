//! The real Aeron C client over the real C media driver, first against itself, then against
//! clusters of Coracle nodes.

use std::net::UdpSocket;
use std::time::{Duration, Instant};

use coracle_net::relay::{self, Relay};
use coracle_net::{say, scratch::Scratch};
use coracle_peer::driver::{Driver, Offered};
use coracle_peer::workload;

/// No part of a test waits longer than this for the next sign of life.
const PATIENCE: Duration = Duration::from_secs(60);

/// A port that was free a moment ago.
fn free_port() -> u16 {
    let socket = UdpSocket::bind(("127.0.0.1", 0)).expect("a port is free");
    socket.local_addr().expect("it is bound").port()
}

/// The harness itself: two streams of the real driver, an echo between them, and a relay that
/// loses one data datagram in twenty on the way there.
#[test]
fn aeron_client_driver_self_test() {
    const MESSAGES: u64 = 2_000;
    let scratch = Scratch::new("peer");
    let directory = scratch.join("driver");
    let driver = Driver::start(&directory).expect("the driver starts");
    assert_eq!(driver.directory(), directory.to_str().expect("it is text"));
    let (there, back) = (free_port(), free_port());
    let right = format!("127.0.0.1:{there}").parse().expect("an address");
    let relay = Relay::between(None, right, relay::every_nth_data(20), relay::nothing())
        .expect("the relay's doors open");
    let there_in = format!("aeron:udp?endpoint=127.0.0.1:{there}");
    let there_out = format!("aeron:udp?endpoint={}", relay.left_door());
    let back_channel = format!("aeron:udp?endpoint=127.0.0.1:{back}");
    let mut echo_in = driver.subscribe(&there_in, 7).expect("a subscription");
    let mut client_in = driver.subscribe(&back_channel, 8).expect("a subscription");
    let client_out = driver.publish(&there_out, 7).expect("a publication");
    let echo_out = driver.publish(&back_channel, 8).expect("a publication");

    let mut pending: Vec<Vec<u8>> = Vec::new();
    let (mut sent, mut echoed) = (0, 0);
    let mut last_life = Instant::now();
    while echoed < MESSAGES {
        if sent < MESSAGES
            && client_out
                .offer(&[&workload::message(sent)])
                .expect("an open stream")
                == Offered::Taken
        {
            sent += 1;
        }
        echo_in
            .poll(16, &mut |bytes| pending.push(bytes.to_vec()))
            .expect("a poll");
        while let Some(first) = pending.first() {
            if echo_out.offer(&[first]).expect("an open stream") != Offered::Taken {
                break;
            }
            pending.remove(0);
        }
        let before = echoed;
        client_in
            .poll(16, &mut |bytes| {
                assert!(
                    bytes == workload::message(echoed),
                    "message {echoed} came back changed"
                );
                echoed += 1;
            })
            .expect("a poll");
        if echoed > before {
            last_life = Instant::now();
        }
        assert!(
            last_life.elapsed() < PATIENCE,
            "stuck at {echoed} of {sent}"
        );
    }
    say!(
        "aeron_client_driver_self_test: {echoed} messages there and back, {} lost and repaired",
        relay.lost()
    );
    assert!(relay.lost() > 20, "the relay lost something to repair");
    drop((client_out, echo_out, echo_in, client_in));
    drop(driver);
    assert!(
        !directory.join("cnc.dat").exists(),
        "the driver's files are gone"
    );
}
