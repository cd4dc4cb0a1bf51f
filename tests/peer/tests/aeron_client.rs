//! The real Aeron C client over the real C media driver, first against itself, then against
//! clusters of Coracle nodes.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use coracle_net::cluster::{Cluster, Status, free_port};
use coracle_net::relay::{self, Relay};
use coracle_net::{say, scratch::Scratch};
use coracle_peer::codec::{AdminCode, SESSION_HEADER};
use coracle_peer::driver::{Driver, Offered};
use coracle_peer::echo::{self, Echo, IN_FLIGHT, PATIENCE};
use coracle_peer::session::{Arrival, EgressChannel, IngressStyle, Session};
use coracle_peer::workload;

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

/// The whole story: redirected by a follower, 100,000 messages of up to 64 KiB byte for byte, the
/// leader killed in mid-stream, a new leader followed, the killed node level again, the session
/// closed.
#[test]
fn aeron_client_lives_through_a_leader_kill() {
    let _turn = turn();
    let (mut cluster, client, leader) = echo::cluster("127.0.0.1", "");
    let session = client
        .connect(&IngressStyle::default(), leader + 1)
        .expect("a session");
    let state = session.state().clone();
    say!("aeron_client: {state:?}");
    assert!(state.redirects >= 1, "a follower redirects: {state:?}");
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
    while echo.waiting() < IN_FLIGHT / 2 {
        echo.step(MESSAGES).expect("the stream goes on");
    }
    cluster.kill(killed).expect("the leader was alive");
    say!(
        "aeron_client: killed leader {killed} with {} in flight",
        echo.waiting()
    );
    let leaders = echo.session.state().new_leaders;
    while echo.session.state().new_leaders == leaders {
        echo.step(MESSAGES).expect("a new leader announces itself");
    }
    cluster
        .restart(killed)
        .expect("the killed node starts again");
    echo.run(MESSAGES, &mut cluster).expect("the second half");
    let (echoed, unknown) = (echo.echoed, echo.unknown());
    say!(
        "aeron_client: {echoed} messages, {} bytes echoed, {unknown} unknown, {:?}",
        echo.bytes,
        began.elapsed()
    );
    assert!(
        unknown <= IN_FLIGHT,
        "{unknown} unknown, {IN_FLIGHT} in flight at most"
    );
    assert_eq!(echoed + unknown as u64, MESSAGES);

    let closed = echo.session.close(PATIENCE).expect("the session closes");
    let level = cluster.await_level(PATIENCE).expect("all members level");
    say!(
        "aeron_client: closed in term {}; all level at {}",
        closed.term,
        level[0].applied
    );
}

/// One session through five leaders in a row, each killed, so that members lead it again to whom it
/// has had streams before.
#[test]
fn aeron_client_follows_leader_after_leader() {
    const ROUND: u64 = 2_000;
    const KILLS: u64 = 5;
    let _turn = turn();
    let (mut cluster, client, leader) = echo::cluster("127.0.0.1", "");
    let session = client
        .connect(&IngressStyle::default(), leader)
        .expect("a session");
    let mut echo = Echo::new(session);
    for kill in 1..=KILLS {
        echo.run(kill * ROUND, &mut cluster)
            .expect("every message and its echo");
        let state = echo.session.state().clone();
        let killed = usize::try_from(state.leader).expect("a member's number");
        cluster.kill(killed).expect("the leader was alive");
        while echo.session.state().new_leaders == state.new_leaders {
            echo.step(kill * ROUND + 100)
                .expect("a new leader announces itself");
        }
        cluster
            .restart(killed)
            .expect("the killed node starts again");
        echo.run(kill * ROUND + 100, &mut cluster)
            .expect("the new leader answers");
        // Until it is level another kill would take the quorum away. The session stays alive.
        while !cluster.is_level() {
            echo.step(0).expect("the session stays alive");
        }
    }
    let (echoed, unknown) = (echo.echoed, echo.unknown());
    say!("aeron_client_follows_leader_after_leader: {echoed} echoed, {unknown} unknown");
    assert!(unknown <= IN_FLIGHT * 5, "{unknown} unknown");
    assert_eq!(echoed + unknown as u64, KILLS * ROUND + 100);
    echo.session.close(PATIENCE).expect("the session closes");
}

/// The way between client and cluster loses one data datagram in twenty, both ways: the driver asks
/// the leader again, and the leader the driver.
#[test]
fn aeron_client_over_loss() {
    const COUNT: u64 = 20_000;
    let _turn = turn();
    let (mut cluster, client, leader) = echo::cluster("127.0.0.1", "");
    let losing = || relay::every_nth_data(20);
    let ingress = client.endpoint(leader).parse().expect("an address");
    let there = Relay::between(None, ingress, losing(), relay::nothing()).expect("doors");
    let answers = client.fresh_endpoint();
    let listened = answers.parse().expect("an address");
    let back = Relay::between(None, listened, losing(), relay::nothing()).expect("doors");
    let egress = EgressChannel {
        told: EgressChannel::direct(&back.left_door().to_string()).told,
        listened: EgressChannel::direct(&answers).listened,
    };
    let first = i32::try_from(leader).expect("a small number");
    let members = [(first, there.left_door().to_string())];
    let style = IngressStyle::default();
    let session = Session::connect(client.driver(), &egress, &style, &members, first, PATIENCE);
    let mut echo = Echo::new(session.expect("a session"));
    echo.run(COUNT, &mut cluster)
        .expect("every message and its echo");
    let (lost_there, lost_back) = (there.lost(), back.lost());
    say!("aeron_client_over_loss: {COUNT} echoed, {lost_there} and {lost_back} datagrams lost");
    assert!(lost_there > 100, "something was lost on the way there");
    assert!(lost_back > 100, "something was lost on the way back");
    assert_eq!((echo.echoed, echo.unknown()), (COUNT, 0));
    echo.session.close(PATIENCE).expect("the session closes");
    cluster.await_level(PATIENCE).expect("all members level");
}

/// Members and client know each other by name, or by IPv6 address.
#[test]
fn aeron_client_by_name_and_over_ipv6() {
    let _turn = turn();
    for host in ["localhost", "[::1]"] {
        let (mut cluster, client, leader) = echo::cluster(host, "");
        let session = client
            .connect(&IngressStyle::default(), leader + 1)
            .expect("a session");
        converse(session, 1_000, workload::MESSAGE_MAX, &mut cluster);
        say!("aeron_client_by_name_and_over_ipv6: echoed at {host}");
    }
}

/// Clients with other buffers than the defaults: datagrams and segments small and large. A message
/// is at most an eighth of a segment.
#[test]
fn aeron_client_with_other_buffers() {
    let _turn = turn();
    let (mut cluster, client, leader) = echo::cluster("127.0.0.1", "");
    let parameters = [
        ("term-length=64k", 8 * 1024 - SESSION_HEADER),
        ("term-length=16m|mtu=8192", workload::MESSAGE_MAX),
        ("term-length=64m|mtu=65504", workload::MESSAGE_MAX),
        ("term-length=1m|mtu=256", workload::MESSAGE_MAX),
    ];
    for (parameters, longest) in parameters {
        let parameters = parameters.to_owned();
        say!("aeron_client_with_other_buffers: {parameters}");
        let style = IngressStyle {
            parameters,
            ..IngressStyle::default()
        };
        let session = client.connect(&style, leader).expect("a session");
        converse(session, 1_000, longest, &mut cluster);
    }
}

/// Two sessions whose messages share one ingress stream, as those of one driver's clients do when
/// their ingress is not exclusive.
#[test]
fn aeron_client_sessions_share_an_ingress_stream() {
    let _turn = turn();
    let (mut cluster, client, leader) = echo::cluster("127.0.0.1", "");
    let style = IngressStyle {
        is_shared: true,
        ..IngressStyle::default()
    };
    let first = client.connect(&style, leader).expect("a session");
    let second = client.connect(&style, leader).expect("another session");
    assert_ne!(first.state().session, second.state().session);
    let mut echoes = [Echo::new(first), Echo::new(second)];
    while echoes.iter().any(|echo| echo.echoed < 1_000) {
        for echo in &mut echoes {
            echo.step(1_000).expect("both go on");
        }
        cluster.check_alive().expect("the nodes go on");
    }
    for echo in echoes {
        echo.session.close(PATIENCE).expect("the session closes");
    }
}

/// What is refused is refused with a text: another major version, and a session too many.
#[test]
fn aeron_client_is_refused_with_a_reason() {
    /// More than any node of the program serves.
    const MANY: usize = 100;
    let _turn = turn();
    let (_cluster, client, leader) = echo::cluster("127.0.0.1", "sessions_max = 40\n");
    let style = IngressStyle {
        version: 1 << 16,
        ..IngressStyle::default()
    };
    let Err(why) = client.connect(&style, leader) else {
        panic!("version 1 was accepted")
    };
    say!("aeron_client_is_refused_with_a_reason: {why}");
    assert!(why.contains("Error") && why.contains("version"), "{why}");

    let style = IngressStyle {
        is_shared: true,
        ..IngressStyle::default()
    };
    let mut sessions = Vec::new();
    let refused = (0..MANY).find_map(|_| {
        // Those that are open stay so: each says now and then that it lives.
        for session in &mut sessions {
            let arrivals = Session::poll(session).expect("the session stays open");
            assert_eq!(arrivals, [], "the session stays open");
        }
        client
            .connect(&style, leader)
            .map(|session| sessions.push(session))
            .err()
    });
    let why = refused.expect("the sessions have a limit");
    say!(
        "aeron_client_is_refused_with_a_reason: after {} sessions: {why}",
        sessions.len()
    );
    assert!(why.contains("Error") && why.contains("limit"), "{why}");
    let one = sessions.pop().expect("at least one was open");
    one.close(PATIENCE).expect("the session closes");
    let next = client.connect(&style, leader).expect("there is room again");
    next.close(PATIENCE).expect("the session closes");
}

/// A client that says nothing for the session timeout is told that its session is closed.
#[test]
fn aeron_client_that_is_silent_is_closed() {
    let _turn = turn();
    let settings = "[timings]\nsession_timeout = \"2s\"\n";
    let (mut cluster, client, leader) = echo::cluster("127.0.0.1", settings);
    let mut session = client
        .connect(&IngressStyle::default(), leader)
        .expect("a session");
    let mut has_ended = false;
    let began = Instant::now();
    while !has_ended {
        let arrivals = session.listen().expect("a poll");
        has_ended = arrivals.contains(&Arrival::Closed);
        cluster.check_alive().expect("the nodes go on");
        assert!(began.elapsed() < PATIENCE, "nobody closed the session");
        std::thread::sleep(Duration::from_millis(10));
    }
    say!("aeron_client_that_is_silent_is_closed: told so");
}

/// The driver does not tell of the last little that its client has consumed: not before that is a
/// quarter of the window. A client that has little to read is not taken for one that does not read.
#[test]
fn aeron_client_with_little_to_read_stays() {
    let _turn = turn();
    let settings = "[timings]\negress_timeout = \"1s\"\n";
    let (mut cluster, client, leader) = echo::cluster("127.0.0.1", settings);
    let mut session = client
        .connect(&IngressStyle::default(), leader)
        .expect("a session");
    for _ in 0..3 {
        let quiet = Instant::now();
        while quiet.elapsed() < Duration::from_secs(2) {
            let arrivals = session.poll().expect("the session stays open");
            assert_eq!(arrivals, [], "nothing was said");
            cluster.check_alive().expect("the nodes go on");
            std::thread::sleep(Duration::from_millis(10));
        }
        let mut echo = Echo::new(session);
        echo.run(5, &mut cluster)
            .expect("every message and its echo");
        session = echo.session;
    }
    session.close(PATIENCE).expect("the session closes");
    say!("aeron_client_with_little_to_read_stays: through three silences");
}

/// An operator's request through the session: every member stores a snapshot of what was answered
/// before; and it is refused where the settings do not allow it.
#[test]
fn aeron_client_takes_a_snapshot() {
    const COUNT: u64 = 1_000;
    let _turn = turn();
    let (mut cluster, client, leader) = echo::cluster("127.0.0.1", "admin = \"allow\"\n");
    let session = client
        .connect(&IngressStyle::default(), leader)
        .expect("a session");
    let mut echo = Echo::new(session);
    echo.run(COUNT, &mut cluster)
        .expect("every message and its echo");
    let level = cluster.await_level(PATIENCE).expect("all members level");
    let answer = echo.session.request_snapshot(PATIENCE).expect("an answer");
    assert_eq!(answer, (AdminCode::Ok, String::new()));
    let stored = cluster
        .await_status("every member to store it", PATIENCE, |members| {
            let has = |m: &Status| m.snapshot.is_some_and(|at| at >= level[0].applied);
            members.len() == 3 && members.iter().all(has)
        })
        .expect("every member has a snapshot");
    say!("aeron_client_takes_a_snapshot: {:?}", stored[0].snapshot);
    assert!(stored.iter().all(|m| m.snapshot == stored[0].snapshot));
    echo.run(2 * COUNT, &mut cluster)
        .expect("the session goes on");
    echo.session.close(PATIENCE).expect("the session closes");
    cluster.await_level(PATIENCE).expect("all members level");
}

#[test]
fn aeron_client_may_take_no_snapshot_unless_the_settings_say_so() {
    let _turn = turn();
    let (mut cluster, client, leader) = echo::cluster("127.0.0.1", "admin = \"deny\"\n");
    let session = client
        .connect(&IngressStyle::default(), leader)
        .expect("a session");
    let mut echo = Echo::new(session);
    echo.run(100, &mut cluster).expect("every message");
    let (code, why) = echo.session.request_snapshot(PATIENCE).expect("an answer");
    say!("aeron_client_may_take_no_snapshot: {code:?}, {why}");
    assert_eq!(code, AdminCode::UnauthorisedAccess);
    assert!(why.contains("admin"), "{why}");
    echo.run(200, &mut cluster).expect("the session goes on");
    echo.session.close(PATIENCE).expect("the session closes");
    let level = cluster.await_level(PATIENCE).expect("all members level");
    assert!(level.iter().all(|m| m.snapshot.is_none()), "{level:?}");
}

/// Sends `count` messages of at most `longest` bytes, checks every echo, and closes.
fn converse(session: Session<'_>, count: u64, longest: usize, cluster: &mut Cluster) {
    let mut echo = Echo::new(session);
    echo.longest = longest;
    echo.run(count, cluster)
        .expect("every message and its echo");
    assert_eq!((echo.echoed, echo.unknown()), (count, 0));
    echo.session.close(PATIENCE).expect("the session closes");
}
