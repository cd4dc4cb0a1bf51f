//! A member's directory was lost, and what it has promised: what counts of both lives.
//!
//! Member 2's old directory comes back now and then, after a new one was started in its place.

use super::*;
use crate::session::AllowAll;
use crate::wire::admission::MemberAdmitted;
use crate::wire::member::{AppendPosition, Checkpoint, CommitPosition};

const NEW: Incarnation = Incarnation(9);

/// How far a follower is: what it has on its disk, and what it has executed.
#[derive(Clone, Copy)]
struct Has {
    durable: Position,
    applied: Position,
}

fn on_disk(durable: Position) -> Has {
    Has {
        durable,
        applied: Position::ZERO,
    }
}

fn executed(durable: Position) -> Has {
    Has {
        durable,
        applied: durable,
    }
}

/// This member leads three; its log has a first record, the one that admits member 2's new
/// directory, which ends at `admitted`, and one more. Only the first is committed.
struct Story {
    bench: Bench,
    admitted: Position,
    end: Position,
    ms: u64,
}

impl Story {
    fn new() -> Self {
        let mut bench = Bench::new(3, &Recovered::fresh(CLUSTER));
        bench.node.config.snapshots.enabled = true;
        bench.be_elected();
        bench.flush();
        let opened = bench.window.end();
        let mut story = Self {
            bench,
            admitted: opened,
            end: opened,
            ms: 1_000,
        };
        story.ack(1, Incarnation::FIRST, on_disk(opened));
        story.ack(2, Incarnation::FIRST, on_disk(opened));
        assert_eq!(story.commit(), opened);
        story.execute();
        // The new directory is level.
        story.ack(2, NEW, on_disk(opened));
        story.admitted = story.append();
        assert!(story.admitted > opened);
        story.bench.node.request_snapshot().unwrap();
        story.end = story.append();
        assert!(story.end > story.admitted);
        story
    }

    /// A leader that was elected with such a log, of which only that much is committed.
    fn elected() -> Self {
        let (mut author, _, admitted) = log_that_admits(2);
        author.write(1);
        let mut bench = Bench::new(3, &Recovered::fresh(CLUSTER));
        follow(&mut bench, &author, admitted);
        bench.be_elected();
        Self {
            end: bench.window.end(),
            bench,
            admitted,
            ms: 2_000,
        }
    }

    /// The log up to there is committed with member 1, and executed here.
    fn commit_all(&mut self, end: Position) {
        self.flushed(end);
        self.ack(1, Incarnation::FIRST, on_disk(end));
        self.execute();
        assert_eq!(self.bench.node.applied(), end);
    }

    fn append(&mut self) -> Position {
        let mut lent = lent!(self.bench);
        let now = now(self.ms);
        self.bench.node.poll_ingress(now, &mut AllowAll, &mut lent);
        self.bench.window.end()
    }

    /// A member's directory of this life says how far it is; that it votes only if it is the first.
    fn ack(&mut self, from: u8, incarnation: Incarnation, has: Has) {
        let (votes, round) = (incarnation == Incarnation::FIRST, self.ms + 1);
        self.ack_in(round, from, incarnation, votes, has);
    }

    fn ack_in(&mut self, round: u64, from: u8, incarnation: Incarnation, votes: bool, has: Has) {
        self.ms += 1;
        let ack = AppendPosition {
            term: self.bench.node.raft().term(),
            received: has.durable,
            durable: has.durable,
            applied: has.applied,
            window: 65_536,
            flush_age_ms: 0,
            round,
            service_age_ms: 0,
            quarantined: false,
            resting: false,
            votes,
            checkpoint: Checkpoint::default(),
            snapshot: Checkpoint::default(),
        };
        let body = Body::AppendPosition(ack);
        self.bench.say_as(self.ms, from, incarnation, body);
    }

    /// All that is committed, and its node state says so.
    fn execute(&mut self) {
        self.bench.execute(&mut Terms::default());
        self.bench.timeout(self.ms);
        assert_eq!(self.bench.node.applied(), self.commit());
    }

    /// This leader's disk has all up to there.
    fn flushed(&mut self, position: Position) {
        let term = self.bench.node.joined();
        self.bench.window.set_written(position);
        self.bench.node.handle_durable(Mark { term, position });
    }

    fn commit(&self) -> Position {
        self.bench.node.commit()
    }

    /// Whether the leader's next heartbeat tells member 2 that it counts, so that it may vote.
    fn tells_that_it_counts(&mut self) -> bool {
        self.ms += 100;
        self.bench.timeout(self.ms);
        let said = self.bench.said(self.ms);
        let counts = |(to, body)| match body {
            Body::CommitPosition(said) if to == address(2) => Some(said.counts),
            _ => None,
        };
        said.into_iter().find_map(counts).expect("a heartbeat")
    }
}

#[test]
fn what_the_old_directory_had_commits_nothing_once_the_new_one_is_admitted() {
    let mut story = Story::new();
    let Story { admitted, end, .. } = story;
    story.flushed(admitted);
    // The old one is back, and has all; this leader's disk is what is waited for.
    story.ack(2, Incarnation::FIRST, on_disk(end));
    story.ack(1, Incarnation::FIRST, on_disk(admitted));
    assert_eq!(story.commit(), admitted);
    story.execute();
    assert_eq!(story.bench.node.roster.incarnation(id(2)), Some(NEW));
    // Of those that count no other has the last record.
    story.flushed(end);
    assert_eq!(story.commit(), admitted);
    story.ack(2, Incarnation::FIRST, on_disk(end));
    assert_eq!(story.commit(), admitted);
    story.ack(1, Incarnation::FIRST, on_disk(end));
    assert_eq!(story.commit(), end);
}

#[test]
fn a_new_directory_votes_only_once_the_others_have_what_the_old_one_helped_to_commit() {
    let mut story = Story::new();
    let Story { admitted, end, .. } = story;
    story.flushed(end);
    // The old one is back, and for as long as nobody has executed the record it counts.
    story.ack(2, Incarnation::FIRST, on_disk(end));
    assert_eq!(story.commit(), end);
    story.execute();
    // Now all know that the new one counts. But it and member 1 would be a quorum, and neither has
    // the last record.
    story.ack(1, Incarnation::FIRST, executed(admitted));
    story.ack(2, NEW, executed(admitted));
    assert!(!story.tells_that_it_counts());
    story.ack(1, Incarnation::FIRST, executed(end));
    story.ack(2, NEW, executed(admitted));
    assert!(story.tells_that_it_counts());
}

#[test]
fn a_leader_that_has_not_executed_all_that_is_committed_tells_nobody_that_it_counts() {
    let mut story = Story::new();
    story.flushed(story.end);
    story.ack(2, Incarnation::FIRST, on_disk(story.end));
    // The old directory counts, but its heartbeats reach whoever is at its address: the new one, if
    // that was started again and knows of the record.
    assert!(!story.tells_that_it_counts());
}

/// Member 1 says that so much is committed, and that this member counts.
fn told_to_count(bench: &mut Bench, ms: u64, commit: Position) -> bool {
    let said = CommitPosition {
        term: term(1),
        commit,
        end: bench.window.end(),
        round: ms,
        counts: true,
        checkpoint: Checkpoint::default(),
        snapshot: Checkpoint::default(),
    };
    bench.say(ms, 1, Body::CommitPosition(said));
    bench.timeout(ms);
    bench.node.raft().votes
}

/// The log of a leader, member 1, with the record that admits the new directory of `member`; where
/// its first record ends, and where that does.
fn log_that_admits(member: u8) -> (Author, Position, Position) {
    let mut author = Author::new();
    let opened = author.write(1);
    let admitted = MemberAdmitted {
        term: term(1),
        member: id(member),
        incarnation: NEW,
    };
    append(&mut author.0, term(1), &[&admitted.to_bytes()], MTU).unwrap();
    let end = author.0.end();
    (author, opened, end)
}

/// All of member 1's log comes, and is executed up to `commit`.
fn follow(bench: &mut Bench, author: &Author, commit: Position) {
    bench.lead(1, 1, &[(1, 0)], author.0.end().get(), commit.get());
    bench.datagram(2, 1, &author.bytes(Position::ZERO)).unwrap();
    bench.execute(&mut Terms::default());
    assert_eq!(bench.node.applied(), commit);
}

#[test]
fn what_was_said_to_the_old_directory_does_not_make_the_new_one_vote() {
    let (author, before, end) = log_that_admits(0);
    let mut bench = Bench::new(3, &Recovered::fresh(CLUSTER));
    let state = NodeState {
        incarnation: NEW,
        votes: false,
        ..state(0)
    };
    let recovered = Recovered::fresh(CLUSTER);
    bench.node = Node::new(config(3), state, &recovered, now(0)).unwrap();
    follow(&mut bench, &author, end);
    // A heartbeat of this leadership to the old directory, that was long on its way.
    assert!(!told_to_count(&mut bench, 3, before));
    assert!(told_to_count(&mut bench, 4, end));
}

#[test]
fn a_leader_lets_no_new_directory_in_before_it_knows_all_that_is_committed() {
    // The last record may be committed too, by the old directory's help: the last leader had not
    // said so yet.
    let mut story = Story::elected();
    let admitted = story.admitted;
    story.ack(1, Incarnation::FIRST, executed(admitted));
    story.ack(2, NEW, executed(admitted));
    assert_eq!(story.commit(), admitted);
    assert!(!story.tells_that_it_counts());
    story.flushed(story.end);
    story.ack(1, Incarnation::FIRST, executed(story.end));
    assert_eq!(story.commit(), story.end);
    story.execute();
    story.ack(2, NEW, executed(admitted));
    assert!(story.tells_that_it_counts());
}

/// It says that it votes, as it did before it was lost: admitted once more, it would count at once,
/// with those who know; and the one in its place with those who do not.
#[test]
fn the_old_directory_is_not_admitted_again_before_it_knows_that_it_was_replaced() {
    let mut story = Story::new();
    let Story { admitted, end, .. } = story;
    story.flushed(end);
    story.ack(1, Incarnation::FIRST, on_disk(end));
    story.execute();
    story.ack(2, Incarnation::FIRST, on_disk(admitted));
    assert_eq!(story.append(), end);
    // Another directory yet, that was never told that it counts.
    story.ack(2, Incarnation(11), on_disk(admitted));
    assert!(story.append() > end);
}

/// While several new directories wait to count, what each of them has executed matters before it
/// does.
#[test]
fn what_the_old_directory_has_executed_the_new_one_has_not() {
    let mut story = Story::new();
    let admitted = story.admitted;
    story.flushed(admitted);
    story.ack(1, Incarnation::FIRST, on_disk(admitted));
    story.execute();
    story.ack(2, Incarnation::FIRST, executed(admitted));
    story.ack(2, NEW, on_disk(admitted));
    let progress = story.bench.node.raft.progress_mut(id(2)).unwrap();
    let has = (progress.counts, progress.durable, progress.applied);
    assert_eq!(has, (false, admitted, Position::ZERO));
}

#[test]
fn a_late_word_that_it_votes_makes_no_directory_count_that_was_admitted_again() {
    let mut story = Story::elected();
    let Story { admitted, end, .. } = story;
    story.commit_all(end);
    let round = story.ms + 1;
    let old = Incarnation::FIRST;
    story.ack_in(round, 2, old, true, on_disk(admitted));
    story.ack_in(round, 2, old, false, executed(admitted));
    let again = story.append();
    assert!(again > end);
    story.commit_all(again);
    assert_eq!(story.bench.node.roster.incarnation(id(2)), Some(old));
    assert!(!story.tells_that_it_counts());
    // Member 1 has not told that it knows of either record.
    story.ack_in(round, 2, old, true, on_disk(admitted));
    assert!(!story.tells_that_it_counts());
}

#[test]
fn what_was_said_to_a_later_directory_does_not_make_an_earlier_one_vote() {
    let mut author = Author::new();
    author.write(1);
    let mut ends = [Position::ZERO; 2];
    for (n, incarnation) in [NEW, Incarnation(11)].into_iter().enumerate() {
        let admitted = MemberAdmitted {
            term: term(1),
            member: id(0),
            incarnation,
        };
        append(&mut author.0, term(1), &[&admitted.to_bytes()], MTU).unwrap();
        ends[n] = author.0.end();
    }
    let state = NodeState {
        incarnation: NEW,
        votes: false,
        ..state(0)
    };
    let recovered = Recovered::fresh(CLUSTER);
    let mut bench = Bench::new(3, &recovered);
    bench.node = Node::new(config(3), state, &recovered, now(0)).unwrap();
    follow(&mut bench, &author, ends[0]);
    // The leader means the directory 11.
    assert!(!told_to_count(&mut bench, 3, ends[1]));
}

#[test]
fn a_directory_that_says_too_early_that_it_votes_does_not_count_by_that() {
    let mut story = Story::elected();
    let Story { admitted, end, .. } = story;
    story.commit_all(end);
    // NEW was never told; 11 takes its place, and member 1 knows of that.
    story.ack(2, Incarnation(11), on_disk(end));
    let second = story.append();
    assert!(second > end);
    story.commit_all(second);
    story.ack(1, Incarnation::FIRST, executed(second));
    story.ack(2, Incarnation(11), executed(second));
    assert!(story.tells_that_it_counts());
    // NEW comes back, with what it had, and is admitted again.
    story.ack(2, NEW, on_disk(admitted));
    let third = story.append();
    assert!(third > second);
    story.commit_all(third);
    assert!(!story.tells_that_it_counts());
    // What 11 was told has reached it after all: it says that it votes.
    let round = story.ms + 1;
    story.ack_in(round, 2, NEW, true, executed(admitted));
    assert!(!story.tells_that_it_counts());
}

#[test]
fn a_leader_that_is_always_behind_with_its_services_tells_all_the_same() {
    let mut story = Story::new();
    let Story { admitted, end, .. } = story;
    story.flushed(admitted);
    story.ack(1, Incarnation::FIRST, on_disk(admitted));
    story.execute();
    story.flushed(end);
    story.ack(1, Incarnation::FIRST, executed(end));
    for _ in 0..100 {
        story.ack(2, NEW, executed(admitted));
        let raft = &mut story.bench.node.raft;
        assert!(raft.progress_mut(id(2)).unwrap().counts, "its marks count");
        // It would not take it.
        let handed = raft.transfer(now(story.ms).instant, id(2));
        assert_eq!(handed, Err(TransferError::BadTarget));
        if story.tells_that_it_counts() {
            return;
        }
    }
    panic!("it is never told");
}
