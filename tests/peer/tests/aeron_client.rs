//! The real Aeron C client over the real C media driver, first against itself, then against
//! clusters of Coracle nodes.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use coracle_net::cluster::{Addresses, Cluster, Plan, free_port};
use coracle_net::relay::{self, Relay};
use coracle_net::{say, scratch::Scratch};
use coracle_peer::driver::{Driver, Offered};
use coracle_peer::session::{Arrival, EgressChannel, Session};
use coracle_peer::workload;

/// No part of a test waits longer than this for the next sign of life.
const PATIENCE: Duration = Duration::from_secs(60);

/// The tests of this file take turns: each wants the machine for itself.
fn turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The harness itself: two streams of the real driver, an echo between them, and a relay that
/// loses one data datagram in twenty on the way there.
#[test]
fn aeron_client_driver_self_test() {
    let _turn = turn();
    const COUNT: u64 = 2_000;
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
    while echoed < COUNT {
        if sent < COUNT
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

/// Messages of the cluster test.
const MESSAGES: u64 = 100_000;
/// Messages that may be without their echo at a time.
const IN_FLIGHT: usize = 64;

/// A conversation with the echo service: what was sent, and what came back.
struct Echo<'d> {
    session: Session<'d>,
    /// Next message to send.
    next: u64,
    /// Sent to the present leader, without an echo so far.
    waiting: VecDeque<u64>,
    /// Sent to a leader that is gone, without an echo: their outcome is unknown.
    unknown: VecDeque<u64>,
    echoed: u64,
    bytes: u64,
    last_life: Instant,
}

impl<'d> Echo<'d> {
    fn new(session: Session<'d>) -> Self {
        Self {
            session,
            next: 0,
            waiting: VecDeque::new(),
            unknown: VecDeque::new(),
            echoed: 0,
            bytes: 0,
            last_life: Instant::now(),
        }
    }

    /// Sends up to message `until`, as far as the window and back pressure let it, and takes what
    /// has come. Fails after too long a silence.
    fn step(&mut self, until: u64) -> Result<(), String> {
        while self.next < until
            && self.waiting.len() < IN_FLIGHT
            && self.session.offer(&workload::message(self.next))? == Offered::Taken
        {
            self.waiting.push_back(self.next);
            self.next += 1;
        }
        let arrivals = self.session.poll()?;
        if arrivals.is_empty() {
            std::thread::yield_now();
        } else {
            self.last_life = Instant::now();
        }
        for arrival in arrivals {
            match arrival {
                Arrival::Message(bytes) => self.take_echo(&bytes)?,
                Arrival::NewLeader(leader) => {
                    self.unknown.append(&mut self.waiting);
                    say!(
                        "aeron_client: member {leader} leads, {} unknown",
                        self.unknown.len()
                    );
                }
                Arrival::Closed => return Err("the cluster closed the session".to_owned()),
            }
        }
        if self.last_life.elapsed() > PATIENCE {
            let (echoed, waiting) = (self.echoed, self.waiting.len());
            return Err(format!(
                "silence after {echoed} echoes, {waiting} waiting: {:?}",
                self.session.state()
            ));
        }
        Ok(())
    }

    /// Until every message below `until` has its echo, or counts as unknown.
    fn run(&mut self, until: u64, cluster: &mut Cluster) -> Result<(), String> {
        let mut told = self.next / 10_000;
        while self.next < until || !self.waiting.is_empty() {
            self.step(until)?;
            if self.next / 10_000 > told {
                told = self.next / 10_000;
                say!("aeron_client: {} echoed of {} sent", self.echoed, self.next);
                cluster.check_alive()?;
            }
        }
        Ok(())
    }

    /// Echoes come in the order of their messages. One of an old leader may still be on its way
    /// when a new one speaks up.
    fn take_echo(&mut self, bytes: &[u8]) -> Result<(), String> {
        let is = |number: &u64| bytes == workload::message(*number);
        if self.waiting.front().is_some_and(is) {
            self.waiting.pop_front();
        } else if let Some(at) = self.unknown.iter().position(is) {
            self.unknown.remove(at);
        } else {
            let expected = self
                .waiting
                .front()
                .map(|number| workload::message(*number).len());
            let length = bytes.len();
            let echoed = self.echoed;
            return Err(format!(
                "echo {echoed}: {length} bytes, expected {expected:?}"
            ));
        }
        self.echoed += 1;
        self.bytes += bytes.len() as u64;
        Ok(())
    }
}

fn endpoints(members: &[Addresses]) -> Vec<(i32, String)> {
    (0..)
        .zip(members.iter().map(|addresses| addresses.ingress.clone()))
        .collect()
}

/// The whole story: redirected by a follower, 100,000 messages of up to 64 KiB byte for byte, the
/// leader killed in mid-stream, a new leader followed, the killed node level again, the session
/// closed.
#[test]
fn aeron_client_lives_through_a_leader_kill() {
    let _turn = turn();
    let mut plan = Plan::loopback(3);
    plan.settings = "service = \"echo\"".to_owned();
    let mut cluster = Cluster::start("peer-cluster", &plan).expect("the nodes start");
    let leader = cluster.await_leader(PATIENCE).expect("a leader");
    let follower = (leader + 1) % 3;
    let scratch = Scratch::new("peer");
    let driver = Driver::start(&scratch.join("driver")).expect("the driver starts");
    let egress = EgressChannel::direct(&format!("127.0.0.1:{}", free_port()));
    let members = endpoints(&plan.views[0]);
    let first = i32::try_from(follower).expect("a small number");
    let session = Session::connect(&driver, &egress, &members, first, PATIENCE)
        .unwrap_or_else(|why| panic!("connect: {why}: {}", cluster.last_words(leader)));
    let state = session.state().clone();
    say!("aeron_client: {state:?}");
    assert!(
        state.redirects >= 1,
        "the follower {follower} redirects: {state:?}"
    );
    assert_eq!(
        state.version >> 16,
        0,
        "major version of the session protocol"
    );

    let began = Instant::now();
    let mut echo = Echo::new(session);
    echo.run(MESSAGES / 2, &mut cluster)
        .expect("the first half");
    let killed = usize::try_from(echo.session.state().leader).expect("a member's number");
    while echo.waiting.len() < IN_FLIGHT / 2 {
        echo.step(MESSAGES).expect("the stream goes on");
    }
    cluster.kill(killed).expect("the leader was alive");
    say!(
        "aeron_client: killed leader {killed} with {} in flight",
        echo.waiting.len()
    );
    let leaders = echo.session.state().new_leaders;
    while echo.session.state().new_leaders == leaders {
        echo.step(MESSAGES).expect("a new leader announces itself");
    }
    cluster
        .restart(killed)
        .expect("the killed node starts again");
    echo.run(MESSAGES, &mut cluster).expect("the second half");
    let unknown = echo.unknown.len();
    say!(
        "aeron_client: {} messages, {} bytes echoed, {unknown} unknown, {:?}",
        echo.echoed,
        echo.bytes,
        began.elapsed()
    );
    assert!(
        unknown <= IN_FLIGHT,
        "{unknown} unknown, {IN_FLIGHT} in flight at most"
    );
    assert_eq!(echo.echoed + unknown as u64, MESSAGES);

    let closed = echo.session.close(PATIENCE).expect("the session closes");
    let level = cluster.await_level(PATIENCE).expect("all members level");
    say!(
        "aeron_client: closed in term {}; all level at {}",
        closed.term,
        level[0].applied
    );
    drop(driver);
}

/// The way between client and cluster loses one data datagram in twenty, both ways: the driver asks
/// the leader again, and the leader the driver.
#[test]
fn aeron_client_over_loss() {
    let _turn = turn();
    const COUNT: u64 = 20_000;
    let mut plan = Plan::loopback(3);
    plan.settings = "service = \"echo\"".to_owned();
    let mut cluster = Cluster::start("peer-loss", &plan).expect("the nodes start");
    let leader = cluster.await_leader(PATIENCE).expect("a leader");
    let scratch = Scratch::new("peer");
    let driver = Driver::start(&scratch.join("driver")).expect("the driver starts");
    let losing = || relay::every_nth_data(20);
    let ingress = plan.views[0][leader].ingress.parse().expect("an address");
    let there = Relay::between(None, ingress, losing(), relay::nothing()).expect("doors");
    let client = format!("127.0.0.1:{}", free_port());
    let listened = client.parse().expect("an address");
    let back = Relay::between(None, listened, losing(), relay::nothing()).expect("doors");
    let egress = EgressChannel {
        told: EgressChannel::direct(&back.left_door().to_string()).told,
        listened: EgressChannel::direct(&client).listened,
    };
    let first = i32::try_from(leader).expect("a small number");
    let members = [(first, there.left_door().to_string())];
    let session = Session::connect(&driver, &egress, &members, first, PATIENCE)
        .unwrap_or_else(|why| panic!("connect: {why}: {}", cluster.last_words(leader)));
    let mut echo = Echo::new(session);
    echo.run(COUNT, &mut cluster)
        .expect("every message and its echo");
    let (lost_there, lost_back) = (there.lost(), back.lost());
    say!("aeron_client_over_loss: {COUNT} echoed, {lost_there} and {lost_back} datagrams lost");
    assert!(lost_there > 100, "something was lost on the way there");
    assert!(lost_back > 100, "something was lost on the way back");
    assert_eq!((echo.echoed, echo.unknown.len()), (COUNT, 0));
    echo.session.close(PATIENCE).expect("the session closes");
    cluster.await_level(PATIENCE).expect("all members level");
}

/// Members and client know each other by name, or by IPv6 address.
#[test]
fn aeron_client_by_name_and_over_ipv6() {
    const COUNT: u64 = 1_000;
    let _turn = turn();
    for host in ["localhost", "[::1]"] {
        let mut plan = Plan::on(host, 3);
        plan.settings = "service = \"echo\"".to_owned();
        let mut cluster = Cluster::start("peer-host", &plan).expect("the nodes start");
        let leader = cluster.await_leader(PATIENCE).expect("a leader");
        let scratch = Scratch::new("peer");
        let driver = Driver::start(&scratch.join("driver")).expect("the driver starts");
        let egress = EgressChannel::direct(&format!("{host}:{}", free_port()));
        let members = endpoints(&plan.views[0]);
        let first = i32::try_from((leader + 1) % 3).expect("a small number");
        let session = Session::connect(&driver, &egress, &members, first, PATIENCE)
            .unwrap_or_else(|why| panic!("connect: {why}: {}", cluster.last_words(leader)));
        let mut echo = Echo::new(session);
        echo.run(COUNT, &mut cluster)
            .expect("every message and its echo");
        say!("aeron_client_by_name_and_over_ipv6: {COUNT} echoed at {host}");
        assert_eq!((echo.echoed, echo.unknown.len()), (COUNT, 0));
        echo.session.close(PATIENCE).expect("the session closes");
    }
}
