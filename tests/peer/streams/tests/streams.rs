//! The real driver sends to the core's receive half, whose bytes come back by its send half.

use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use coracle_net::relay::{self, Relay};
use coracle_net::{say, scratch::Scratch};
use coracle_peer::driver::{Driver, Offered, Publication, Subscription};
use coracle_peer::workload;
use coracle_peer_streams::{Echo, Plan, Tally};

/// No part of a test waits longer than this for the next sign of life.
const PATIENCE: Duration = Duration::from_secs(30);

/// The driver's ends of both streams, and the echo at the other end.
struct Rig {
    publication: Publication,
    subscription: Subscription,
    echo: Echo,
    relays: Vec<Relay>,
    _driver: Driver,
    _scratch: Scratch,
}

fn bound() -> (UdpSocket, SocketAddr) {
    let socket = UdpSocket::bind(("127.0.0.1", 0)).expect("a port is free");
    let address = socket.local_addr().expect("it is bound");
    (socket, address)
}

impl Rig {
    /// With relays that lose every `lose`th data datagram both ways, or without relays.
    fn start(ingress_window: usize, lose: Option<u64>, forget_after: Option<u64>) -> Self {
        let scratch = Scratch::new("streams");
        let driver = Driver::start(&scratch.join("driver")).expect("the driver starts");
        let (socket, node) = bound();
        let (reserved, client) = bound();
        drop(reserved);
        let (mut to_node, mut to_client) = (node, client);
        let mut relays = Vec::new();
        if let Some(nth) = lose {
            let losing = || relay::every_nth_data(nth);
            let there = Relay::between(None, node, losing(), relay::nothing()).expect("doors");
            let back = Relay::between(None, client, losing(), relay::nothing()).expect("doors");
            (to_node, to_client) = (there.left_door(), back.left_door());
            relays = vec![there, back];
        }
        let egress = format!("aeron:udp?endpoint={client}");
        let ingress = format!("aeron:udp?endpoint={to_node}|term-length=1m");
        let subscription = driver.subscribe(&egress, 102).expect("a subscription");
        let publication = driver.publish(&ingress, 101).expect("a publication");
        let echo = Echo::start(
            socket,
            Plan {
                egress: to_client,
                ingress_window,
                forget_after,
            },
        );
        Self {
            publication,
            subscription,
            echo,
            relays,
            _driver: driver,
            _scratch: scratch,
        }
    }

    /// Sends `count` messages and hands each echo to `take`, until that says that it was the last.
    fn converse(&mut self, count: u64, mut take: impl FnMut(&[u8]) -> bool) {
        let (mut sent, mut is_done) = (0, false);
        let mut last_life = Instant::now();
        while !is_done {
            let message = workload::message(sent);
            if sent < count
                && self.publication.offer(&[&message]).expect("an open stream") == Offered::Taken
            {
                sent += 1;
            }
            let mut hand_over = |bytes: &[u8]| {
                is_done = take(bytes);
                last_life = Instant::now();
            };
            self.subscription.poll(64, &mut hand_over).expect("a poll");
            assert!(
                last_life.elapsed() < PATIENCE,
                "silence after {sent} were sent"
            );
        }
    }

    /// Closes the stream, lets its end arrive, and returns what the echo saw.
    fn finish(self, name: &str) -> Tally {
        let lost: u64 = self.relays.iter().map(Relay::lost).sum();
        drop(self.publication);
        // The driver lingers for a second before it forgets the stream.
        std::thread::sleep(Duration::from_millis(1_500));
        let tally = self.echo.stop();
        say!("{name}: {lost} lost on purpose, {tally:?}");
        assert_eq!(tally.unread, 0, "every datagram of the driver can be read");
        tally
    }
}

fn echo_all(name: &str, window: usize, lose: Option<u64>, count: u64) -> Tally {
    let mut rig = Rig::start(window, lose, None);
    let mut echoed = 0;
    rig.converse(count, |bytes| {
        assert!(
            bytes == workload::message(echoed),
            "message {echoed} came back changed"
        );
        echoed += 1;
        echoed == count
    });
    let tally = rig.finish(name);
    assert_eq!((tally.messages, tally.images), (count, 1));
    assert!(
        tally.has_ended,
        "the end of the stream was heard and everything consumed"
    );
    tally
}

#[test]
fn aeron_client_streams_echo_over_loss() {
    let name = "aeron_client_streams_echo_over_loss";
    let tally = echo_all(name, 128 * 1024, Some(25), 20_000);
    assert!(tally.naks_sent > 0, "lost ingress was asked for: {tally:?}");
    assert!(tally.naks_taken > 0, "lost egress was asked for: {tally:?}");
}

/// A microcontroller's memory: a window of two datagrams.
#[test]
fn aeron_client_streams_fit_a_small_window() {
    echo_all(
        "aeron_client_streams_fit_a_small_window",
        4 * 1024,
        None,
        2_000,
    );
}

/// A receiver that was restarted hears data of a stream it does not know, asks for SETUP, and joins
/// at the next message. What was under way is lost, nothing after that.
#[test]
fn aeron_client_streams_join_again_after_a_restart() {
    const COUNT: u64 = 4_000;
    let mut rig = Rig::start(128 * 1024, None, Some(COUNT / 2));
    let (mut next, mut missed) = (0, 0);
    rig.converse(COUNT, |bytes| {
        while bytes != workload::message(next) {
            assert!(
                (COUNT / 2..COUNT).contains(&next),
                "message {next} is missing or changed"
            );
            missed += 1;
            next += 1;
        }
        next += 1;
        next == COUNT
    });
    let tally = rig.finish("aeron_client_streams_join_again_after_a_restart");
    assert!(tally.elicited > 0, "SETUP was asked for: {tally:?}");
    assert_eq!((tally.messages + missed, tally.images), (COUNT, 2));
}
