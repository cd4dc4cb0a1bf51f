//! When a snapshot is taken again that failed.

use super::dues::Due;
use super::*;
use crate::session::AllowAll;
use crate::snapshot::SnapshotError;

/// A member whose log is full, and which has no snapshot that would let any of it go.
fn full() -> Bench {
    let mut bench = Bench::new(3, &Author::new().recovered(1));
    bench.node.config.log_max = 8 * u64::from(SEGMENT);
    bench.node.config.snapshots.enabled = true;
    let end = Position::new(4 * u64::from(SEGMENT));
    bench.node.raft.set_tail(Tail { term: term(1), end });
    bench
}

/// The action is committed at `ms`, and the snapshot fails; gives after how many milliseconds
/// another is wanted.
fn fail(bench: &mut Bench, ms: u64) -> u64 {
    fail_for(bench, ms, 500, 100_000)
}

/// As that, to within `step`, and at most `most`.
fn fail_for(bench: &mut Bench, ms: u64, step: usize, most: u64) -> u64 {
    let mut service = Terms::default();
    bench.node.see(now(ms));
    bench.node.begin_snapshot(bench.node.raft().tail.end);
    let error = SnapshotError::TooLarge;
    bench.node.abandon_snapshot(&mut [&mut service], error);
    let wants = |after: &u64| bench.node.wants_snapshot(now(ms + after).instant);
    let after = (0..most).step_by(step).find(wants);
    after.expect("another is wanted some time")
}

#[test]
fn the_next_attempt_waits_twice_as_long_up_to_a_minute_and_a_success_ends_that() {
    let mut bench = full();
    let mut ms = 0;
    let mut waited = Vec::new();
    for _ in 0..9 {
        let after = fail(&mut bench, ms);
        waited.push(after / 1_000);
        ms += after;
    }
    assert_eq!(waited, [1, 1, 2, 4, 8, 16, 32, 60, 60]);
    // Writing is one half, making it durable the other.
    bench.node.see(now(ms));
    bench.node.handle_snapshot_stored(Snapshot {
        position: Position::new(64),
        term: term(1),
        chain: 0,
        digest: 0,
    });
    bench.node.handle_snapshot_failed(Position::new(96));
    assert_eq!(fail(&mut bench, ms), 1_000, "as long as since it succeeded");
}

/// While a log grows fast one is due again and again: as many may fail in a moment.
#[test]
fn many_that_fail_in_a_moment_are_waited_for_no_longer_than_one() {
    let mut bench = full();
    let waited: Vec<u64> = (0..100).map(|at| fail(&mut bench, 10 * at)).collect();
    assert_eq!(waited, [1_000; 100]);
}

/// A disk that fills up on a Friday: whoever makes room on it on Monday in a week finds a log that
/// still has room for the action, and for a new leader's first record.
#[test]
fn attempts_that_fail_for_two_weeks_do_not_use_up_what_is_kept_for_them() {
    const RECORD: u64 = 96;
    const DAY: u64 = 24 * 3_600_000;
    let mut bench = full();
    let (_, own_end) = bench.node.disk_limits();
    let (mut ms, mut attempts) = (0, 0);
    while ms < 14 * DAY {
        let end = bench.node.raft().tail.end.plus(RECORD);
        assert!(own_end.since(end) > 512, "after {} hours", ms / 3_600_000);
        bench.node.raft.set_tail(Tail { term: term(1), end });
        let waited = fail_for(&mut bench, ms, 5_000, 2 * DAY);
        assert!(waited < DAY, "nor is it given up");
        (ms, attempts) = (ms + waited, attempts + 1);
        // For the first hours it is as good as if there were no end to it.
        assert!(ms > 5 * 3_600_000 || waited <= 60_000);
    }
    assert!(attempts > 300);
}

#[test]
fn one_that_is_asked_for_is_on_its_way_with_the_next_call() {
    let mut bench = Bench::new(3, &Author::new().recovered(1));
    bench.node.config.snapshots.enabled = true;
    bench.be_elected();
    let (now, term) = (bench.node.clock, bench.node.raft().term());
    bench.node.clients.become_leader(now.instant, term);
    let mut lent = lent!(bench);
    bench.node.handle_timeout(now, &mut lent);
    assert!(!bench.node.poll_ingress(now, &mut AllowAll, &mut lent));
    assert!(!bench.node.dues.has(Due::INGRESS), "nothing is to be done");
    let end = lent.log.end();
    bench.node.request_snapshot().unwrap();
    bench.node.poll_ingress(now, &mut AllowAll, &mut lent);
    assert!(lent.log.end() > end);
}
