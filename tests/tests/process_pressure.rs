//! Back pressure, end to end, with real processes.
//!
//! `CORACLE_STALL_SECONDS` says how long the service is stalled (15; a minute and more for a long
//! look, which prints as it goes). With `CORACLE_STRICT=true`, on a machine that does nothing else,
//! the other clients' throughput must stay at nine tenths.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use coracle_core::client::OfferError;
use coracle_std::client::{Client, ClientError};
use coracle_tests::process::{Cluster, Plan, Session, records, until};
use rustix::process::Signal;
use serde_json::Value;

/// Messages that a client may have in flight, in the comparison.
const WINDOW: usize = 32;
/// How far the memory of three nodes may rise while nothing moves.
const RISE_MAX_KIB: u64 = 6 << 10;

fn stall_time() -> Duration {
    let seconds = std::env::var("CORACLE_STALL_SECONDS").ok();
    Duration::from_secs(seconds.map_or(15, |s| s.parse().expect("a number of seconds")))
}

/// Offers all that is taken. True if the last offer was refused for lack of room.
fn fill(session: &mut Session) -> bool {
    loop {
        match session.offer_error(1000) {
            None => {}
            Some(OfferError::BackPressured) => return true,
            Some(OfferError::NotConnected) => return false,
            Some(error) => panic!("{error:?}"),
        }
    }
}

/// Offers until nothing is taken any more, however often every member says how it is meanwhile:
/// that each has had its turn, and the log has not grown, is what tells a closed window from a
/// machine that stands still.
fn close_the_window(cluster: &Cluster, session: &mut Session) {
    let mut before = (0, Value::Null, 0);
    until("the window to close", || {
        let is_full = fill(session);
        session.poll(Duration::from_millis(5)).unwrap();
        let all = cluster.answers();
        let ends: Value = all.iter().map(|m| m["appended"].clone()).collect();
        let is_still = is_full && (session.next(), &ends) == (before.0, &before.1);
        let looks = if is_still { before.2 + 1 } else { 0 };
        before = (session.next(), ends, looks);
        (looks == 5).then_some(())
    });
}

/// Nothing moves, and memory stays where it is.
fn watch_the_stall(cluster: &Cluster, session: &mut Session) {
    let (flat, used, began) = (
        cluster.resident_kib(),
        cluster.processor_time(),
        Instant::now(),
    );
    let mut told = Instant::now();
    while began.elapsed() < stall_time() {
        assert!(fill(session), "still back pressure");
        session.poll(Duration::from_millis(50)).unwrap();
        let now = cluster.resident_kib();
        assert!(
            now <= flat + RISE_MAX_KIB,
            "memory rose from {flat} to {now} KiB"
        );
        if told.elapsed() > Duration::from_secs(5) {
            told = Instant::now();
            let seconds = began.elapsed().as_secs();
            println!("stalled for {seconds:>3} s: {now} KiB resident in three nodes");
        }
    }
    let share = (cluster.processor_time() - used).as_secs_f64() / began.elapsed().as_secs_f64();
    println!(
        "three stalled nodes used {:.1} % of one core",
        share * 100.0
    );
}

#[test]
fn a_stalled_service_closes_the_window_and_memory_stays_flat() {
    // Of what a lost leader has not answered the outcome would be unknown.
    let mut plan = Plan::patient();
    plan.program = PathBuf::from(env!("CARGO_BIN_EXE_stallable"));
    let cluster = Cluster::start("stall", plan);
    let mut session = Session::open(&cluster.endpoints(), 0);
    session.stream(500, 64, 1000);

    let stalled = cluster.scratch().join("stalled");
    std::fs::write(&stalled, "").unwrap();
    close_the_window(&cluster, &mut session);
    let accepted = session.next();
    println!(
        "the window closed with {} messages in flight",
        session.in_flight()
    );

    watch_the_stall(&cluster, &mut session);
    assert_eq!(session.next(), accepted, "the window stayed closed");
    // A member that had executed everything before it could see the file has nothing to stall on.
    let all = cluster.answers();
    let is_stalled = |m: &Value| m["service_ready"] == false;
    assert!(all.iter().any(is_stalled), "{all:?}");
    assert!(
        all.iter()
            .all(|m| is_stalled(m) || m["applied"] == m["committed"]),
        "{all:?}"
    );

    std::fs::remove_file(&stalled).unwrap();
    session.drain();
    session.stream(500, 64, 1000);
    let sent = session.next();
    assert_eq!(
        session.close(),
        (0..sent).collect::<Vec<u64>>(),
        "answered once each, in order"
    );
    cluster.level();
    for member in 0..3 {
        assert_eq!(
            records(&cluster.data(member)),
            (0..sent).collect::<Vec<u64>>()
        );
    }
}

/// The longest turn of a client that counts in full: a machine that stood still did nothing.
const TURN: Duration = Duration::from_millis(20);

/// How many messages two clients get answered in `time`.
fn throughput(cluster: &Cluster, time: Duration) -> usize {
    let endpoints = cluster.endpoints();
    let client = || {
        let mut session = Session::open(&endpoints, 0);
        session.stream(200, WINDOW, 200);
        let (mut spent, before) = (Duration::ZERO, session.answered().len());
        while spent < time {
            let began = Instant::now();
            while session.in_flight() < WINDOW && session.offer(200) {}
            session.poll(Duration::from_millis(5)).unwrap();
            spent += began.elapsed().min(TURN);
        }
        let count = session.answered().len() - before;
        session.drain();
        session.close();
        count
    };
    std::thread::scope(|scope| {
        let both = [scope.spawn(client), scope.spawn(client)];
        both.into_iter().map(|thread| thread.join().unwrap()).sum()
    })
}

/// A client that sends and never reads its answers, until it is told to stop or is closed. Counts
/// those of its messages that were taken.
fn never_read(endpoints: &str, taken: &AtomicUsize, stop: &AtomicBool) {
    let mut client = until("a session", || Client::connect(endpoints).ok());
    while !stop.load(Ordering::Relaxed) {
        match client.offer_until(&[b'x'; 4000], Duration::from_millis(50)) {
            Ok(_) => drop(taken.fetch_add(1, Ordering::Relaxed)),
            Err(ClientError::TimedOut) => {}
            Err(_) => break,
        }
    }
    client.close().unwrap();
}

/// Waits until that client is at work.
fn until_sent(taken: &AtomicUsize) {
    until("the client that never reads to send", || {
        (taken.load(Ordering::Relaxed) > 0).then_some(())
    });
}

/// Waits until that client has sent, and can send no more.
fn until_stuck(taken: &AtomicUsize) {
    let (mut before, mut since) = (0, Instant::now());
    until("the client that never reads to be stuck", || {
        let now = taken.load(Ordering::Relaxed);
        if now != before {
            (before, since) = (now, Instant::now());
        }
        (now > 0 && since.elapsed() > Duration::from_millis(300)).then_some(())
    });
}

/// Throughput while a follower is stopped and one more client never reads.
fn throughput_in_trouble(cluster: &Cluster, stalled: u8, time: Duration) -> usize {
    let (stop, endpoints) = (AtomicBool::new(false), cluster.endpoints());
    let taken = AtomicUsize::new(0);
    cluster.signal(stalled, Signal::STOP);
    let count = std::thread::scope(|scope| {
        scope.spawn(|| never_read(&endpoints, &taken, &stop));
        // It may ask the stopped member first, and has to wait for its answer in vain. Then it
        // takes its share of the cluster, like any other, until its own window closes.
        until_stuck(&taken);
        let count = throughput(cluster, time);
        stop.store(true, Ordering::Relaxed);
        count
    });
    cluster.signal(stalled, Signal::CONT);
    // The next comparison starts with nobody left and everybody level.
    until("the sessions' end", || {
        let all = cluster.status();
        all.iter().all(|m| m["sessions"] == 0).then_some(())
    });
    cluster.level();
    count
}

#[test]
fn a_stalled_follower_and_a_client_that_never_reads_leave_the_others_alone() {
    let cluster = Cluster::start("alone", Plan::new());
    let stalled = (cluster.leader() + 1) % 3;
    let time = Duration::from_millis(800);
    let mut ratios = Vec::new();
    // In turns, so that both see the same machine; the middle one of many, because others use it
    // too.
    for _ in 0..9 {
        let alone = throughput(&cluster, time);
        let troubled = throughput_in_trouble(&cluster, stalled, time);
        println!("{alone} messages alone, {troubled} in company");
        ratios.push(troubled as f64 / alone as f64);
    }
    ratios.sort_by(f64::total_cmp);
    let ratio = ratios[ratios.len() / 2];
    println!(
        "others' throughput with a stalled follower and a client that never reads: {ratio:.2}"
    );
    let is_strict = std::env::var("CORACLE_STRICT").is_ok_and(|v| v == "true");
    // With a follower stopped every message waits for the one that is left: where others use the
    // machine too, that is its turn of the processor. Who is held up by the stalled gets nothing.
    let least = if is_strict { 0.9 } else { 0.25 };
    assert!(
        ratio >= least,
        "{ratio:.2} is less than {least}: {ratios:.2?}"
    );
}

#[test]
fn a_client_that_never_reads_is_closed_on_every_member_alike() {
    let cluster = Cluster::start("unread", Plan::new());
    let (stop, endpoints) = (AtomicBool::new(false), cluster.endpoints());
    let taken = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        // It keeps its session alive all the time, but takes no answer.
        scope.spawn(|| never_read(&endpoints, &taken, &stop));
        // Its session is open, then, on the leader at least.
        until_sent(&taken);
        until("its end", || {
            let all = cluster.status();
            all.iter().all(|m| m["sessions"] == 0).then_some(())
        });
        stop.store(true, Ordering::Relaxed);
    });
    for member in cluster.level() {
        assert_eq!(member["sessions"], 0, "{member}");
    }
}
