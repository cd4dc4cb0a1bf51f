//! A member that is unwell: what it finds out about itself, what it tells, and what it does then.

use super::*;
use crate::wire::member::{AppendPosition, Checkpoint, CommitPosition};

/// Takes what it is given, as long as it is `ready`; its digest is off by `wrong`.
struct Counting {
    taken: u64,
    ready: bool,
    wrong: u64,
}

impl Counting {
    fn new() -> Self {
        Self {
            taken: 0,
            ready: true,
            wrong: 0,
        }
    }
}

impl Service for Counting {
    fn ready(&self, _: Position) -> bool {
        self.ready
    }
    fn on_session_message(&mut self, _: &mut Cluster<'_>, _: SessionId, _: &[u8]) {}
    fn on_new_leadership_term(&mut self, _: &mut Cluster<'_>, _: &LeadershipTerm) {
        self.taken += 1;
    }
    fn digest(&self) -> u64 {
        self.taken + self.wrong
    }
}

impl Bench {
    pub(super) fn events(&mut self) -> Vec<Event> {
        core::iter::from_fn(|| self.node.poll_event()).collect()
    }

    fn run(&mut self, ms: u64, service: &mut Counting) {
        let mut lent = lent!(self);
        while self.node.poll_service(now(ms), service, &mut lent) {}
    }

    pub(super) fn timeout(&mut self, ms: u64) {
        self.timeout_at(now(ms));
    }

    fn timeout_at(&mut self, now: Now) {
        let mut lent = lent!(self);
        self.node.handle_timeout(now, &mut lent);
        if let Some(state) = self.node.poll_persist() {
            self.node.handle_persisted(state);
        }
    }

    pub(super) fn flush(&mut self) {
        let position = self.window.end();
        self.window.set_written(position);
        let term = self.node.joined();
        self.node.handle_durable(Mark { term, position });
    }

    fn acknowledgement(&mut self, ms: u64, round: u64) -> AppendPosition {
        self.heartbeat(ms, round, Checkpoint::default());
        let said = self.said(ms);
        let ack = said.into_iter().find_map(|(_, body)| match body {
            Body::AppendPosition(ack) => Some(ack),
            _ => None,
        });
        ack.expect("a new round is acknowledged")
    }

    /// Member 1 leads term 1 and says that all of this member's log is committed.
    fn heartbeat(&mut self, ms: u64, round: u64, checkpoint: Checkpoint) {
        let end = self.window.end();
        let said = CommitPosition {
            term: term(1),
            commit: end,
            end,
            round,
            counts: true,
            checkpoint,
            snapshot: Checkpoint::default(),
        };
        self.say(ms, 1, Body::CommitPosition(said));
    }

    /// A follower has all of this leader's log on its disk, and this checkpoint.
    pub(super) fn acknowledge(&mut self, ms: u64, from: u8, checkpoint: Checkpoint) {
        let ack = AppendPosition {
            term: self.node.raft().term(),
            received: self.window.end(),
            durable: self.window.end(),
            applied: Position::ZERO,
            window: 65_536,
            flush_age_ms: 0,
            round: ms,
            service_age_ms: 0,
            quarantined: false,
            resting: false,
            votes: true,
            checkpoint,
            snapshot: Checkpoint::default(),
        };
        self.say(ms, from, Body::AppendPosition(ack));
    }
}

/// A follower of member 1 that has executed four records of 96 bytes: with a checkpoint every 192,
/// those are at 192 and at 384.
fn follower(service: &mut Counting) -> Bench {
    let mut author = Author::new();
    let end = (0..4).map(|_| author.write(1)).last().unwrap();
    let mut bench = Bench::new(3, &author.recovered(1));
    bench
        .window
        .load(Position::ZERO, Seed::genesis(CLUSTER).chain, term(0))
        .expect("aligned");
    let recovered = Recovered::fresh(CLUSTER);
    recovered.open_window(&mut bench.window).expect("aligned");
    bench.node = Node::new(config(3), state(1), &recovered, now(0)).unwrap();
    bench.lead(1, 1, &[(1, 0)], end.get(), end.get());
    let _taken = bench.datagram(2, 1, &author.bytes(Position::ZERO));
    assert_eq!(bench.node.commit(), end);
    bench.run(2, service);
    bench.flush();
    bench
}

/// A leader of three that has executed its first record of 96 bytes in every sense, and with it a
/// checkpoint: see `leads`.
fn leads(members: u8, service: &mut Counting) -> (Bench, u64) {
    let mut author = Author::new();
    author.write(1);
    let mut bench = Bench::new(members, &author.recovered(1));
    bench.be_elected();
    bench.flush();
    let ms = 600;
    for from in 1..members {
        bench.acknowledge(ms, from, Checkpoint::default());
    }
    // What was there before is read from storage.
    let recall = bench.recall().expect("the first record");
    bench.read(recall, &author.bytes(Position::ZERO));
    bench.run(ms, service);
    let end = bench.window.end();
    assert_eq!((bench.node.applied(), end.get()), (end, 192));
    (bench, ms)
}

fn own(bench: &Bench) -> Checkpoint {
    bench.node.checkpoints.states.of(id(0))
}

fn other(bench: &Bench) -> Checkpoint {
    let own = own(bench);
    Checkpoint {
        digest: own.digest ^ 1,
        ..own
    }
}

#[test]
fn a_member_acknowledges_the_newest_checkpoint_that_it_has_come_to() {
    let mut bench = follower(&mut Counting::new());
    let said = bench.acknowledgement(3, 1);
    assert_eq!(said.checkpoint.position, Position::new(384));
    let mut wrong = Counting {
        wrong: 1,
        ..Counting::new()
    };
    let mut differs = follower(&mut wrong);
    let theirs = differs.acknowledgement(3, 1).checkpoint;
    assert_eq!(theirs.position, said.checkpoint.position);
    assert_ne!(theirs.digest, said.checkpoint.digest);
    let mut same = follower(&mut Counting::new());
    assert_eq!(same.acknowledgement(3, 1).checkpoint, said.checkpoint);
}

#[test]
fn the_odd_one_out_quarantines_itself_and_says_so_across_restarts() {
    let mut bench = follower(&mut Counting::new());
    let (agreed, mine) = (other(&bench), own(&bench));
    bench.heartbeat(3, 1, mine);
    assert!(!bench.node.is_quarantined());
    bench.heartbeat(
        4,
        2,
        Checkpoint {
            position: Position::new(480),
            digest: 7,
        },
    );
    assert!(!bench.node.is_quarantined(), "it has not come there");
    let mut bench = follower(&mut Counting::new());
    bench.events();
    bench.heartbeat(3, 1, agreed);
    assert!(bench.node.is_quarantined() && bench.node.status().quarantined);
    let events = bench.events();
    assert!(
        events.contains(&Event::Quarantined(agreed.position)),
        "{events:?}"
    );
    let state = bench.node.poll_persist().expect("it is to be remembered");
    assert!(state.quarantined);
    bench.node.handle_persisted(state);
    assert_eq!(bench.node.poll_persist(), None);
    assert!(bench.acknowledgement(5, 2).quarantined);

    let recovered = Recovered::fresh(CLUSTER);
    let mut again = Node::<2>::new(config(3), state, &recovered, now(0)).unwrap();
    assert!(again.is_quarantined() && again.raft().is_unfit());
    assert_eq!(again.poll_persist(), None);
    again.handle_rebuilt();
    assert!(!again.is_quarantined() && !again.raft().is_unfit());
    let state = again.poll_persist().expect("that is to be remembered, too");
    assert!(!state.quarantined);
}

#[test]
fn a_leader_that_is_the_odd_one_out_hands_over_to_one_of_the_others() {
    let (mut bench, ms) = leads(3, &mut Counting::new());
    let theirs = other(&bench);
    bench.acknowledge(ms + 1, 1, theirs);
    assert!(!bench.node.is_quarantined(), "one against one");
    bench.acknowledge(ms + 2, 2, theirs);
    assert!(bench.node.is_quarantined());
    assert!(
        bench
            .events()
            .contains(&Event::Quarantined(theirs.position))
    );
    let said = bench.said(ms + 3);
    let hands_over = |(_, body): &(SocketAddr, Body)| matches!(body, Body::TransferLeadership(_));
    assert!(said.iter().any(hands_over), "{said:?}");
    let told = |(_, body): &(SocketAddr, Body)| match body {
        Body::CommitPosition(said) => said.checkpoint == theirs,
        _ => false,
    };
    assert!(said.iter().any(told), "{said:?}");
}

#[test]
fn a_leader_names_the_follower_that_is_quarantined_and_a_quorum_agrees_without_it() {
    let (mut bench, ms) = leads(3, &mut Counting::new());
    let (mine, theirs) = (own(&bench), other(&bench));
    bench.acknowledge(ms + 1, 1, theirs);
    bench.acknowledge(ms + 1, 2, mine);
    assert_eq!(bench.node.checkpoints.states.agreed(), mine);
    bench.timeout(ms + 2_000);
    let mut ack = AppendPosition {
        quarantined: true,
        ..follower(&mut Counting::new()).acknowledgement(3, 1)
    };
    ack.term = bench.node.raft().term();
    (ack.received, ack.durable) = (bench.window.end(), bench.window.end());
    let (mut bench, ms) = leads(3, &mut Counting::new());
    bench.events();
    ack.round = ms + 5;
    bench.say(ms + 5, 1, Body::AppendPosition(ack));
    bench.say(ms + 6, 1, Body::AppendPosition(ack));
    assert_eq!(bench.events(), [Event::MemberQuarantined(id(1))]);
    assert!(bench.node.quarantined_members().contains(id(1)));
    let refused = bench.node.transfer(now(ms + 7), id(1));
    assert_eq!(refused, Err(TransferError::BadTarget));
}

#[test]
fn two_that_differ_are_told_of_and_neither_is_quarantined() {
    let (mut bench, ms) = leads(2, &mut Counting::new());
    let theirs = other(&bench);
    bench.events();
    for after in (0..=400).step_by(50) {
        bench.acknowledge(ms + after, 1, theirs);
        bench.timeout(ms + after);
    }
    assert_eq!(bench.events(), [Event::NoAgreement(theirs.position)]);
    assert!(!bench.node.is_quarantined() && bench.node.role() == Role::Leader);
}

#[test]
fn what_a_leader_slept_through_decides_no_dispute() {
    let (mut bench, ms) = leads(2, &mut Counting::new());
    let theirs = other(&bench);
    bench.acknowledge(ms, 1, theirs);
    bench.timeout(ms);
    bench.events();
    // Of the minute no more counts than 100 ms: see `silence.rs`.
    let woken = ms + 60_000;
    for after in (0..300).step_by(50) {
        bench.acknowledge(woken + after, 1, theirs);
        bench.timeout(woken + after);
        assert_eq!(bench.events(), [], "{after}");
    }
    bench.timeout(woken + 300);
    assert_eq!(bench.events(), [Event::NoAgreement(theirs.position)]);
}

#[test]
fn the_age_of_what_waits_for_the_disk_grows_until_it_is_flushed() {
    let mut bench = follower(&mut Counting::new());
    bench.timeout(3);
    assert_eq!(bench.acknowledgement(4, 1).flush_age_ms, 0);
    let (mut leader, ms) = leads(3, &mut Counting::new());
    leader.timeout(ms);
    assert_eq!(leader.node.status().flush_age_ms, 0);
    let mut author = Author::new();
    author.write(1);
    let mut slow = Bench::new(3, &author.recovered(1));
    slow.be_elected();
    let opened = slow.node.clock.instant.nanos() / 1_000_000;
    slow.timeout(opened + 1);
    slow.timeout(opened + 100);
    assert!((90..=100).contains(&slow.node.status().flush_age_ms));
    slow.flush();
    slow.timeout(opened + 101);
    assert_eq!(slow.node.status().flush_age_ms, 0);
}

#[test]
fn the_age_of_a_service_that_stands_still_grows_until_it_takes_more() {
    let mut stuck = Counting {
        ready: false,
        ..Counting::new()
    };
    let mut bench = follower(&mut stuck);
    bench.run(10, &mut stuck);
    assert_eq!(bench.acknowledgement(60, 1).service_age_ms, 60);
    stuck.ready = true;
    bench.run(70, &mut stuck);
    assert_eq!(bench.acknowledgement(80, 2).service_age_ms, 0);
}

/// A second passes in which both followers have all and say that work has waited so long for their
/// disks and services; whether the leader hands over.
fn hands_over(bench: &mut Bench, ms: u64, service: &mut Counting, ages: (u32, u32)) -> bool {
    let (term, end) = (bench.node.raft().term(), bench.window.end());
    bench.events();
    for at in (ms..ms + 1_000).step_by(50) {
        for from in [1, 2] {
            let ack = AppendPosition {
                term,
                received: end,
                durable: end,
                applied: Position::ZERO,
                window: 65_536,
                flush_age_ms: ages.0,
                round: at + 1_000,
                service_age_ms: ages.1,
                quarantined: false,
                resting: false,
                votes: true,
                checkpoint: Checkpoint::default(),
                snapshot: Checkpoint::default(),
            };
            bench.say(at, from, Body::AppendPosition(ack));
        }
        bench.run(at, service);
        bench.timeout(at);
    }
    let is_move = |event: &Event| matches!(event, Event::HandingOver { .. });
    bench.events().iter().any(is_move)
}

#[test]
fn a_leader_whose_service_stands_still_hands_over_and_stays_if_all_do() {
    for (others, moves) in [(0, true), (900, false)] {
        let (mut bench, ms) = leads(3, &mut Counting::new());
        // A record more, which its service does not take.
        let (term, base) = (bench.node.raft().term(), bench.window.end());
        let span = append(&mut bench.window, term, &[&[0; 40]], MTU).unwrap();
        bench.node.grown(term, base, span.end);
        bench.flush();
        let mut stuck = Counting {
            ready: false,
            ..Counting::new()
        };
        let moved = hands_over(&mut bench, ms, &mut stuck, (0, others));
        assert_eq!(moved, moves, "others have waited for {others} ms");
    }
}

#[test]
fn a_leader_whose_log_is_full_and_has_no_snapshot_hands_over_and_stays_if_all_are() {
    let segment = u64::from(SEGMENT);
    let snapshot = |at| Snapshot {
        position: Position::new(at),
        term: term(1),
        chain: 0,
        digest: 0,
    };
    let cases = [
        (None, 0, true),
        // The others' snapshots fail as well.
        (None, 900, false),
        // One that would let nothing go is none, one that would makes room.
        (Some(snapshot(64)), 0, true),
        (Some(snapshot(segment)), 0, false),
    ];
    for (stored, others, moves) in cases {
        let mut service = Counting::new();
        let (mut bench, ms) = leads(3, &mut service);
        // Four segments are kept for what keeps the cluster going: one is all there is.
        bench.node.config.log_max = 5 * segment;
        if let Some(stored) = stored {
            bench.node.handle_snapshot_stored(stored);
        }
        let moved = hands_over(&mut bench, ms, &mut service, (others, 0));
        assert_eq!(moved, moves, "{stored:?}, the others {others} ms");
        let status = bench.node.status();
        assert_eq!(status.log_full, stored != Some(snapshot(segment)));
        assert_eq!(status.flush_age_ms, 0, "it is not the flushes");
    }
}

#[test]
fn a_follower_whose_log_is_full_says_so_until_there_is_room() {
    let mut bench = follower(&mut Counting::new());
    bench.node.config.log_max = 5 * u64::from(SEGMENT);
    bench.timeout(3);
    // It looks often enough to be awake.
    for round in 1..=10 {
        let ms = 50 * round;
        let said = bench.acknowledgement(3 + ms, round);
        assert_eq!(u64::from(said.flush_age_ms), ms);
    }
    bench.node.config.log_max *= 2;
    bench.timeout(504);
    assert_eq!(bench.acknowledgement(505, 11).flush_age_ms, 0);
}

#[test]
fn a_step_of_the_wall_clock_is_seen_and_starts_no_election() {
    let mut bench = follower(&mut Counting::new());
    bench.events();
    let steps = [(10, 3_600_000), (60, -3_600_000), (110, 900), (160, 0)];
    let mut wall = 0;
    for (round, (ms, by)) in steps.into_iter().enumerate() {
        wall += by;
        let mut seen = now(ms);
        seen.wall = Timestamp(seen.wall.0 + wall);
        bench.timeout_at(seen);
        // The heartbeat comes by the same clock.
        bench.node.clock = seen;
        let (end, round) = (bench.window.end(), round as u64 + 1);
        let said = CommitPosition {
            term: term(1),
            commit: end,
            end,
            round,
            counts: true,
            checkpoint: Checkpoint::default(),
            snapshot: Checkpoint::default(),
        };
        bench.node.raft.handle_heartbeat(seen.instant, id(1), &said);
    }
    let stepped = |by_ms| Event::ClockStepped { by_ms };
    assert_eq!(bench.events(), [stepped(3_600_000), stepped(-3_600_000)]);
    assert_eq!(bench.node.counters().clock_steps, 2);
    assert_eq!(
        (bench.node.raft().term(), bench.node.raft().leader()),
        (term(1), Some(id(1)))
    );
}

/// The whole machine stands still for a minute while a flush is under way.
#[test]
fn a_leader_that_slept_while_it_flushed_does_not_hand_over() {
    let (mut bench, ms) = leads(3, &mut Counting::new());
    let mut at = ms;
    for _ in 0..40 {
        at += 50;
        for from in [1, 2] {
            bench.acknowledge(at, from, Checkpoint::default());
        }
        bench.timeout(at);
    }
    assert_eq!(bench.node.role(), Role::Leader);
    let (term, before) = (bench.node.raft().term(), bench.window.end());
    append(&mut bench.window, term, &[&[7; 40]], MTU).unwrap();
    let end = bench.window.end();
    bench.node.grown(term, before, end);
    bench.timeout(at + 2);
    bench.events();
    let woken = at + 60_000;
    bench.timeout(woken);
    assert_eq!(bench.node.role(), Role::Leader, "silence.rs");
    let mut seen = bench.events();
    bench.timeout(woken + 2);
    seen.extend(bench.events());
    assert!(
        !seen.iter().any(|e| matches!(e, Event::HandingOver { .. })),
        "{seen:?}"
    );
}

/// It is woken by what others have said meanwhile, before its driver looks at the time.
#[test]
fn a_leader_that_slept_is_not_unwell_for_what_it_hears_first() {
    let mut service = Counting::new();
    let (mut bench, ms) = leads(3, &mut service);
    assert!(!hands_over(&mut bench, ms, &mut service, (0, 0)));
    let at = ms + 1_000;
    let (term, base) = (bench.node.raft().term(), bench.window.end());
    let span = append(&mut bench.window, term, &[&[0; 40]], MTU).unwrap();
    bench.node.grown(term, base, span.end);
    bench.flush();
    service.ready = false;
    for ms in [at, at + 60_000] {
        for from in [1, 2] {
            bench.acknowledge(ms, from, Checkpoint::default());
        }
        bench.run(ms, &mut service);
        bench.timeout(ms);
    }
    assert!(bench.node.applied() < bench.node.commit());
    assert_eq!(bench.events(), []);
    assert_eq!(bench.node.role(), Role::Leader);
}
