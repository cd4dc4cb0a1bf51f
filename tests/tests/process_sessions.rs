//! A thousand sessions at once, over a change of leaders, up to the limit and beyond it.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::scope;
use std::time::{Duration, Instant};

use coracle_core::client::ClosedReason;
use coracle_std::client::{Client, ClientError, ClientOptions};
use coracle_tests::process::{Cluster, PATIENCE, Plan, Session, allow_files, records, until};

const SESSIONS: usize = 1_000;
/// Each has its share of the sessions, and looks after them in turn.
const THREADS: usize = 4;
/// Messages of a session have numbers of their own.
const NUMBERS: u64 = 1_000_000;

/// Opens a share of the sessions, and meanwhile looks after those that are open.
fn open_share(endpoints: &str, share: usize) -> Vec<Session> {
    let mut sessions = Vec::new();
    for number in 0..SESSIONS / THREADS {
        let first = (share * SESSIONS / THREADS + number) as u64 * NUMBERS;
        sessions.push(Session::open_small(endpoints, first));
        if number % 16 == 0 {
            look_after(&mut sessions);
        }
    }
    sessions
}

/// All of them, soon enough to keep them: a session that is polled all the time sends all that its
/// times allow.
fn look_after(sessions: &mut [Session]) {
    for session in sessions {
        session.poll(Duration::ZERO).expect("the session lives on");
    }
}

/// One message of each session, and its answer; over a change of leaders, one more until there is
/// an answer. True if all of them have heard of another leader.
fn round(sessions: &mut [Session]) -> bool {
    let wanted: Vec<usize> = sessions.iter().map(|s| s.answered().len() + 1).collect();
    let deadline = Instant::now() + PATIENCE;
    for turn in 0.. {
        if turn % 32 == 31 {
            look_after(sessions);
        }
        let mut missing = 0;
        for (session, wanted) in sessions.iter_mut().zip(&wanted) {
            if session.answered().len() < *wanted {
                missing += 1;
                if session.in_flight() == 0 {
                    session.offer(100);
                }
                session.poll(Duration::ZERO).expect("the session lives on");
            }
        }
        if missing == 0 {
            break;
        }
        assert!(
            Instant::now() < deadline,
            "{missing} sessions have no answer"
        );
        std::thread::sleep(Duration::from_millis(10));
    }
    sessions.iter().all(Session::is_renewed)
}

/// One more session than there may be.
fn is_refused(endpoints: &str) {
    let options = ClientOptions {
        open_timeout: PATIENCE,
        ..Session::small(endpoints)
    };
    let refused = Client::connect_with(&options).err();
    match refused {
        Some(ClientError::Closed { reason, detail }) => {
            assert_eq!(reason, ClosedReason::Rejected);
            assert!(detail.contains("concurrent session limit"), "{detail}");
        }
        other => panic!("not refused: {other:?}"),
    }
}

/// Where the threads wait for one another, looking after their sessions.
#[derive(Default)]
struct Stages {
    arrived: AtomicUsize,
    begun: AtomicUsize,
}

impl Stages {
    /// A thread has come to this stage's end.
    fn end(&self, stage: usize, sessions: &mut [Session]) {
        self.arrived.fetch_add(1, Ordering::SeqCst);
        while self.begun.load(Ordering::SeqCst) <= stage {
            look_after(sessions);
            std::thread::sleep(Duration::from_millis(300));
        }
    }

    /// Waits until all threads have come to this stage's end.
    fn wait(&self, stage: usize) {
        let deadline = Instant::now() + 2 * PATIENCE;
        while self.arrived.load(Ordering::SeqCst) < stage * THREADS {
            assert!(
                Instant::now() < deadline,
                "in vain: waited for stage {stage}"
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn begin_next(&self, stage: usize) {
        self.begun.store(stage + 1, Ordering::SeqCst);
    }
}

/// What one thread does with its share; the numbers that were answered.
fn live(endpoints: &str, share: usize, stages: &Stages) -> Vec<Vec<u64>> {
    let mut sessions = open_share(endpoints, share);
    for _ in 0..3 {
        round(&mut sessions);
    }
    stages.end(1, &mut sessions);
    while !round(&mut sessions) {}
    for _ in 0..3 {
        round(&mut sessions);
    }
    stages.end(2, &mut sessions);
    let mut answered = Vec::new();
    if share == 0 {
        answered.extend(sessions.pop().map(Session::close));
    }
    stages.end(3, &mut sessions);
    answered.extend(sessions.into_iter().map(Session::close));
    answered
}

/// All sessions are open on this member.
fn has_sessions(cluster: &Cluster, member: u8) {
    let status = cluster.answer_of(member);
    assert_eq!(status["sessions"], SESSIONS as u64, "{status}");
}

/// Each session's answers are in the order of its messages, and each is to a message that is in
/// every log, where none is twice.
fn check(cluster: &Cluster, members: &[u8], answered: &[Vec<u64>]) {
    for numbers in answered {
        assert!(numbers.len() >= 7 && numbers.is_sorted_by(|a, b| a < b));
    }
    for member in members {
        let all = records(&cluster.data(*member));
        let unique: BTreeSet<u64> = all.iter().copied().collect();
        assert_eq!(unique.len(), all.len(), "a message is executed twice");
        assert!(
            answered
                .iter()
                .flatten()
                .all(|number| unique.contains(number))
        );
    }
}

#[test]
fn a_thousand_sessions_live_through_a_change_of_leaders_and_one_more_is_refused() {
    allow_files(2 * SESSIONS as u64).unwrap();
    let mut plan = Plan::new();
    // It is about sessions, not about how fast the disk is, nor whether the machine is busy.
    plan.extra.push_str(
        "sessions_max = 1000\ndurability = \"replication-only\"\n\
         timings = { leader_timeout = \"2 s\", session_timeout = \"30 s\", \
         egress_timeout = \"30 s\" }\n",
    );
    let mut cluster = Cluster::start("sessions", plan);
    let endpoints = cluster.endpoints();
    let idle = cluster.resident_kib();
    let stages = Stages::default();
    let (answered, first) = scope(|scope| {
        let threads: Vec<_> = (0..THREADS)
            .map(|share| {
                scope.spawn({
                    let (endpoints, stages) = (&endpoints, &stages);
                    move || live(endpoints, share, stages)
                })
            })
            .collect();

        stages.wait(1);
        let first = cluster.leader();
        let all = cluster.resident_kib();
        println!("three nodes: {idle} KiB resident idle, {all} KiB with {SESSIONS} sessions");
        has_sessions(&cluster, first);
        is_refused(&endpoints);
        stages.begin_next(1);
        cluster.kill(first);

        stages.wait(2);
        let second = cluster.leader();
        has_sessions(&cluster, second);
        is_refused(&endpoints);
        stages.begin_next(2);

        stages.wait(3);
        // One was closed: there is place for one, and for no other.
        let mut late = Session::open_small(&endpoints, SESSIONS as u64 * NUMBERS);
        late.stream(7, 1, 100);
        is_refused(&endpoints);
        stages.begin_next(3);
        let mut answered = vec![late.close()];
        for thread in threads {
            answered.extend(thread.join().expect("a share of the sessions"));
        }
        (answered, first)
    });
    assert_eq!(answered.len(), SESSIONS + 1);
    let members: Vec<u8> = (0..3).filter(|member| *member != first).collect();
    until("all sessions to be closed", || {
        let is_closed = |member: &u8| cluster.status_of(*member)["sessions"] == 0;
        members.iter().all(is_closed).then_some(())
    });
    check(&cluster, &members, &answered);
}
