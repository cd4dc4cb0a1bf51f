//! When a snapshot is taken again that failed.

use super::*;
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
    let mut service = Terms::default();
    bench.node.see(now(ms));
    bench.node.begin_snapshot(bench.node.raft().tail.end);
    let error = SnapshotError::TooLarge;
    bench.node.abandon_snapshot(&mut [&mut service], error);
    let wants = |after: &u64| bench.node.wants_snapshot(now(ms + after).instant);
    let after = (0..100_000).step_by(500).find(wants);
    after.expect("another is wanted some time")
}

#[test]
fn the_next_attempt_waits_twice_as_long_up_to_a_minute_and_a_success_ends_that() {
    let mut bench = full();
    let mut ms = 0;
    let mut waited = Vec::new();
    for _ in 0..9 {
        waited.push(fail(&mut bench, ms) / 1_000);
        ms += 100_000;
    }
    assert_eq!(waited, [1, 2, 4, 8, 16, 32, 60, 60, 60]);
    // Writing is one half, making it durable the other.
    bench.node.handle_snapshot_stored(Snapshot {
        position: Position::new(64),
        term: term(1),
        chain: 0,
        digest: 0,
    });
    bench.node.handle_snapshot_failed(Position::new(96));
    assert_eq!(fail(&mut bench, ms), 2_000, "the second since it succeeded");
}
