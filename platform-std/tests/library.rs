//! The library door: nodes and clients in one process, over real sockets and files.

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use coracle_core::service::{Cluster, Service};
use coracle_core::units::{Position, SessionId};
use coracle_std::client::{Client, ClientError, Egress, OfferError};
use coracle_std::config::Settings;
use coracle_std::counters::{Counter, CountersReader};
use coracle_std::node::{NodeBuilder, NodeError, NodeHandle};
use coracle_std::storage::StorageError;

use common::{PATIENCE, Scratch, ask, cluster, connect, leader, start, stop, until};

/// Counts what it is told, answers with the count and the message; can be stalled from outside.
#[derive(Default)]
struct Counting {
    count: u64,
    bytes: u64,
    stalled: Arc<AtomicBool>,
    executed: Arc<AtomicU64>,
    /// Bytes that each answer has more than its message.
    more: usize,
}

impl Service for Counting {
    fn ready(&self, _: Position) -> bool {
        !self.stalled.load(Ordering::Relaxed)
    }

    fn on_session_message(&mut self, cluster: &mut Cluster<'_>, session: SessionId, m: &[u8]) {
        self.count += 1;
        self.bytes += m.len() as u64;
        self.executed.store(self.count, Ordering::Relaxed);
        // A session that has closed meanwhile is no error of the service.
        let _closed = cluster
            .offer(
                session,
                &[&self.count.to_le_bytes(), m, &vec![0; self.more]],
            )
            .is_err();
    }

    fn digest(&self) -> u64 {
        self.count.wrapping_mul(1 << 32) ^ self.bytes
    }
}

#[test]
fn a_cluster_of_one_answers_and_remembers_after_a_restart() {
    let scratch = Scratch::new("library-one");
    let settings = &cluster(&scratch, 1)[0];
    let endpoints = settings.ingress_endpoints();
    for round in 0..3u64 {
        let node = start(settings, Counting::default());
        let mut client = connect(&endpoints);
        for n in 0..20 {
            let message = vec![7; n * 500];
            let answer = ask(&mut client, &message).payload;
            let count = u64::from_le_bytes(answer[..8].try_into().unwrap());
            assert_eq!(count, round * 20 + n as u64 + 1);
            assert_eq!(&answer[8..], message);
        }
        if round == 2 {
            // The longest answer is as long as the longest message.
            let message = vec![3; (1 << 20) - 8];
            assert_eq!(ask(&mut client, &message).payload[8..], message);
        }
        client.close().unwrap();
        stop(node);
    }
    let reading = CountersReader::open(&settings.dir).unwrap().read();
    assert_eq!(reading.process, 0);
    assert_eq!(reading.get(Counter::Applied), reading.get(Counter::Durable));
}

#[test]
fn three_members_reach_one_state_and_live_through_a_graceful_close_of_the_leader() {
    let scratch = Scratch::new("library-three");
    let settings = cluster(&scratch, 3);
    let mut nodes: Vec<Option<NodeHandle>> = settings
        .iter()
        .map(|settings| Some(start(settings, Counting::default())))
        .collect();
    let mut client = connect(&settings[0].ingress_endpoints());
    let longest = vec![9; 200_000];
    let first = ask(&mut client, &longest);
    assert_eq!(&first.payload[8..], longest);
    let leading = leader(&mut client);
    stop(nodes[leading].take().unwrap());
    until("another leader", || leader(&mut client) != leading);
    // Each message was executed once each time that it was offered, but for those times at most
    // that a leader was lost.
    let second = ask(&mut client, b"and on it goes");
    let count = u64::from_le_bytes(second.payload[..8].try_into().unwrap());
    assert!(
        (2..=first.offers + second.offers).contains(&count),
        "{count} after {} and {} offers",
        first.offers,
        second.offers
    );
    client.close().unwrap();
    nodes[leading] = Some(start(&settings[leading], Counting::default()));
    let digests = |settings: &[Settings]| -> Vec<(u64, u64)> {
        settings
            .iter()
            .map(|s| CountersReader::open(&s.dir).unwrap().read())
            .map(|r| (r.get(Counter::Applied), r.get(Counter::Digest)))
            .collect()
    };
    let deadline = Instant::now() + PATIENCE;
    loop {
        let all = digests(&settings);
        if all.iter().all(|one| *one == all[0]) && all[0].0 > 200_000 {
            break;
        }
        assert!(Instant::now() < deadline, "not level: {all:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
    for node in nodes.into_iter().flatten() {
        stop(node);
    }
}

/// It hears the new leader although nothing is polled, and what it heard is kept.
#[test]
fn an_offer_that_waits_while_leaders_change_is_taken_by_the_new_one() {
    let scratch = Scratch::new("library-offer");
    let settings = cluster(&scratch, 3);
    let start = |settings| Some(start(settings, Counting::default()));
    let mut nodes: Vec<Option<NodeHandle>> = settings.iter().map(start).collect();
    let mut client = connect(&settings[0].ingress_endpoints());
    ask(&mut client, b"first");
    let leading = leader(&mut client);
    // Its answer is still unread when its leader is gone.
    let old = client.offer_until(b"second", PATIENCE).unwrap();
    stop(nodes[leading].take().unwrap());
    let message = vec![1; 200_000];
    let offered = loop {
        let offered = client.offer_until(&message, PATIENCE).unwrap();
        if offered.term > old.term {
            break offered;
        }
    };
    let (mut heard, mut is_answered) = (None, false);
    until("an answer of the leader that took it", || {
        let polled = client.poll(Duration::from_millis(20), |egress| match egress {
            Egress::NewLeader { term, .. } => heard = Some(term),
            Egress::Message { term, payload, .. } => {
                assert!(heard <= Some(term), "in order");
                is_answered |= term == offered.term && payload[8..] == message;
            }
            _ => {}
        });
        polled.unwrap();
        // A busy machine may cost it one more leader.
        is_answered || heard > Some(offered.term)
    });
    assert!(heard >= Some(offered.term), "{heard:?} after {offered:?}");
    client.close().unwrap();
    nodes.into_iter().flatten().for_each(stop);
}

#[test]
fn a_stalled_service_closes_the_clients_window_and_loses_nothing() {
    let scratch = Scratch::new("library-stall");
    let settings = &cluster(&scratch, 1)[0];
    let (stalled, executed) = (Arc::new(AtomicBool::new(true)), Arc::new(AtomicU64::new(0)));
    let service = Counting {
        stalled: Arc::clone(&stalled),
        executed: Arc::clone(&executed),
        ..Counting::default()
    };
    stalled.store(false, Ordering::Relaxed);
    let node = start(settings, service);
    let mut client = connect(&settings.ingress_endpoints());
    stalled.store(true, Ordering::Relaxed);
    let message = [5; 1000];
    let (mut offered, mut refusals) = (0u64, 0);
    while refusals < 100 {
        match client.offer(&message) {
            Ok(_) => offered += 1,
            Err(OfferError::BackPressured) => {
                refusals += 1;
                client.poll(Duration::from_millis(5), |_| {}).unwrap();
            }
            Err(other) => panic!("{other:?}"),
        }
        assert!(offered < 1_000_000, "the window never closes");
    }
    assert!(executed.load(Ordering::Relaxed) <= 1);
    stalled.store(false, Ordering::Relaxed);
    let mut answered = 0;
    let deadline = Instant::now() + PATIENCE;
    while answered < offered {
        assert!(Instant::now() < deadline, "{answered} of {offered}");
        client
            .poll(Duration::from_millis(100), |egress| {
                if let Egress::Message { payload, .. } = egress {
                    answered += 1;
                    assert_eq!(payload[..8], answered.to_le_bytes());
                }
            })
            .unwrap();
    }
    assert_eq!(executed.load(Ordering::Relaxed), offered);
    client.close().unwrap();
    stop(node);
}

/// What has piled up is answered at the pace of the client: all at once it would be more than the
/// client's stream holds, and cost it its session.
#[test]
fn long_answers_to_what_piled_up_while_a_service_stood_still_cost_no_session() {
    const MESSAGES: u64 = 3000;
    let scratch = Scratch::new("piled");
    let settings = &cluster(&scratch, 1)[0];
    let service = Counting {
        more: 4000,
        ..Counting::default()
    };
    assert!(MESSAGES * 4000 > 4 * settings.egress_window.0);
    let stalled = service.stalled.clone();
    let node = start(settings, service);
    let mut client = connect(&settings.ingress_endpoints());
    ask(&mut client, b"first");
    stalled.store(true, Ordering::Relaxed);
    for _ in 0..MESSAGES {
        client.offer_until(b"more", PATIENCE).unwrap();
    }
    // All of it is in the log before any is executed: each takes three times 32 bytes.
    let committed = || {
        let reader = CountersReader::open(&settings.dir).unwrap();
        reader.read().get(Counter::Committed)
    };
    let deadline = Instant::now() + PATIENCE;
    while committed() < MESSAGES * 96 {
        assert!(
            Instant::now() < deadline,
            "{} bytes are committed",
            committed()
        );
        client.poll(Duration::from_millis(20), |_| {}).unwrap();
    }
    stalled.store(false, Ordering::Relaxed);
    let (mut answers, deadline) = (0, Instant::now() + PATIENCE);
    while answers < MESSAGES {
        assert!(Instant::now() < deadline, "{answers} answers");
        let is_answer = |egress: Egress<'_>| matches!(egress, Egress::Message { .. });
        let count = |egress: Egress<'_>| answers += u64::from(is_answer(egress));
        client.poll(Duration::from_millis(20), count).unwrap();
    }
    client.close().unwrap();
    node.close();
    node.join().unwrap();
}

#[test]
fn what_cannot_work_is_refused_with_its_reason() {
    let scratch = Scratch::new("library-refused");
    let settings = cluster(&scratch, 2);
    let error = NodeBuilder::new(settings[0].clone())
        .run(Counting::default())
        .unwrap_err();
    let is_uninitialised = matches!(
        error,
        NodeError::Storage(StorageError::Uninitialised { .. })
    );
    assert!(is_uninitialised, "{error}");

    let first = start(&settings[0], Counting::default());
    let deadline = Instant::now() + PATIENCE;
    while CountersReader::open(&settings[0].dir).is_err() {
        assert!(Instant::now() < deadline);
        std::thread::sleep(Duration::from_millis(5));
    }
    let error = NodeBuilder::new(settings[0].clone())
        .run(Counting::default())
        .unwrap_err();
    let is_locked = matches!(error, NodeError::Storage(StorageError::Locked { .. }));
    assert!(is_locked, "{error}");
    stop(first);

    let mut other = settings[0].clone();
    other.cluster = 99;
    let error = NodeBuilder::new(other)
        .run(Counting::default())
        .unwrap_err();
    let is_foreign = matches!(error, NodeError::Storage(StorageError::Foreign { .. }));
    assert!(is_foreign, "{error}");

    let error = Client::connect("nonsense").err().unwrap();
    assert!(matches!(error, ClientError::Endpoints(_)), "{error}");
}
