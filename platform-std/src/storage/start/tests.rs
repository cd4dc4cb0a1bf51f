use std::fs::File;
use std::os::unix::fs::FileExt;
use std::time::Duration;

use coracle_core::log::{append, segment_base};
use coracle_core::snapshot::{Begin, Section};
use coracle_core::time::Timestamp;
use coracle_core::units::{AppVersion, Mark, MemberId, Term};

use super::super::segment::HEADER_LENGTH;
use super::super::snapshots::{SnapshotStore, tests::write_set};
use super::super::testing::{Scratch, lose_block};
use super::super::{Flushing, LogStore};
use super::*;
use crate::config::{Durability, Idle};
use crate::waker::Waker;

const CLUSTER: ClusterId = ClusterId(7);
const SEGMENT: u32 = 64 << 10;
const MTU: usize = 1408;
const FLUSHING: Flushing = Flushing {
    durability: Durability::Durable,
    idle: Idle::Sleep,
    here_below: Duration::ZERO,
};

fn seed(position: u64, chain: u32) -> Seed {
    Seed {
        position: Position::new(position),
        chain: Some(chain),
        term: Term::new(1),
    }
}

#[test]
fn what_is_done_with_a_log_is_a_table() {
    use Plan::{Keep, Replace, SnapshotMissing};
    use Reason::{EndsBelow, OtherHistory, StartsAbove};
    // The snapshot, the log's start and end and chain at the snapshot.
    let table = [
        // No snapshot.
        (None, 0, 0, None, Keep),
        (None, 0, 900, None, Keep),
        (None, 96, 900, None, SnapshotMissing),
        (None, 96, 96, None, SnapshotMissing),
        // The log holds it, and agrees.
        (Some(seed(320, 5)), 0, 900, Some(5), Keep),
        (Some(seed(320, 5)), 0, 320, Some(5), Keep),
        (Some(seed(320, 5)), 96, 900, Some(5), Keep),
        // It starts just there: after an install, or a purge.
        (Some(seed(320, 5)), 320, 320, None, Keep),
        (Some(seed(320, 5)), 320, 900, None, Keep),
        // It ends below: a new member, or one that was behind.
        (Some(seed(320, 5)), 0, 0, None, Replace(EndsBelow)),
        (Some(seed(320, 5)), 0, 288, None, Replace(EndsBelow)),
        (Some(seed(320, 5)), 96, 288, None, Replace(EndsBelow)),
        // It is of another history, or has no frame that ends there.
        (Some(seed(320, 5)), 0, 900, Some(6), Replace(OtherHistory)),
        (Some(seed(320, 5)), 0, 900, None, Replace(OtherHistory)),
        // A newer snapshot is lost.
        (Some(seed(320, 5)), 352, 900, None, Replace(StartsAbove)),
        (Some(seed(320, 5)), 352, 352, None, Replace(StartsAbove)),
    ];
    for (snapshot, start, end, chain, expected) in table {
        let (start, end) = (Position::new(start), Position::new(end));
        let found = plan(snapshot, Extent { start, end, chain });
        assert_eq!(found, expected, "{snapshot:?} {start} {end} {chain:?}");
    }
}

/// A member's directory.
struct Member {
    dir: DataDir,
    _scratch: Scratch,
}

impl Member {
    fn new(name: &str) -> Self {
        let scratch = Scratch::new(name);
        let dir = DataDir::open(scratch.path()).unwrap();
        dir.make_log(CLUSTER, SEGMENT, Fill::Written).unwrap();
        Self {
            dir,
            _scratch: scratch,
        }
    }

    fn window() -> Window<Vec<u8>> {
        Window::new(vec![0; (32 << 10) + MTU], MTU, SEGMENT).unwrap()
    }

    fn open(&self, may_forget: bool) -> Result<(Opened, Window<Vec<u8>>), StorageError> {
        self.open_with(NodeState {
            term: Term::new(1),
            votes: !may_forget,
            ..NodeState::first(CLUSTER, MemberId::new(0).unwrap())
        })
    }

    fn open_with(&self, state: NodeState) -> Result<(Opened, Window<Vec<u8>>), StorageError> {
        let mut window = Self::window();
        let opened = open(&self.dir, &state, &mut window)?;
        Ok((opened, window))
    }

    /// As by hand.
    fn empty_log(&self) {
        std::fs::remove_dir_all(self.dir.log()).unwrap();
        std::fs::create_dir(self.dir.log()).unwrap();
    }

    /// Appends messages of 5000 times `fill`; gives the position and chain after each.
    fn append(&self, fill: u8, count: usize) -> Vec<(Position, u32)> {
        let (opened, mut window) = self.open(false).unwrap();
        let journal = opened.recovered.journal(CLUSTER, &window);
        let waker = Waker::new().unwrap();
        let log = self.dir.log();
        let mut store = LogStore::new(log, CLUSTER, SEGMENT, FLUSHING, journal, &waker).unwrap();
        let mut ends = Vec::new();
        for _ in 0..count {
            append(&mut window, Term::new(1), &[&[fill; 5000]], MTU).unwrap();
            ends.push((window.end(), window.chain().unwrap()));
            let end = window.end();
            while store.journal().durable() < end || store.journal().is_flushing() {
                let _mark: Option<Mark> = store.poll_flushed(&mut window).unwrap();
                let _mark: Option<Mark> = store.write(Term::new(1), false, &mut window).unwrap();
                std::thread::yield_now();
            }
            window.release(end);
        }
        ends
    }

    /// Stores a snapshot that says of itself what `at` does.
    fn snapshot(&self, at: (Position, u32)) {
        let waker = Waker::new().unwrap();
        let dir = self.dir.snapshots();
        let mut store = SnapshotStore::open(&dir, CLUSTER, 1, &[], &waker).unwrap();
        let begin = Begin {
            cluster: CLUSTER,
            section: Section::Consensus,
            app_version: AppVersion::new(0, 0, 1),
            position: at.0,
            term: Term::new(1),
            chain: at.1,
            timestamp: Timestamp(1),
            segment_length: SEGMENT,
        };
        write_set(&mut store, begin);
    }

    /// Turns over a byte of the frame at `at`.
    fn rot(&self, at: Position) {
        let base = segment_base(at, SEGMENT);
        let path = self.dir.log().join(Segment::name(base.get()));
        let offset = HEADER_LENGTH + at.since(base) + 40;
        let file = File::options().read(true).write(true).open(path).unwrap();
        let mut byte = [0];
        file.read_exact_at(&mut byte, offset).unwrap();
        file.write_all_at(&[!byte[0]], offset).unwrap();
    }

    fn purge(&self, below: Position) {
        for base in segment_bases(&self.dir.log()).unwrap() {
            if base + u64::from(SEGMENT) <= below.get() {
                std::fs::remove_file(self.dir.log().join(Segment::name(base))).unwrap();
            }
        }
    }
}

#[test]
fn a_new_member_goes_on_after_a_snapshot_in_the_middle_of_a_segment() {
    let donor = Member::new("start-donor");
    let ends = donor.append(7, 40);
    for at in [ends[17], ends[25]] {
        let member = Member::new("start-new");
        member.snapshot(at);
        let (opened, window) = member.open(false).unwrap();
        assert_eq!(opened.replaced, Some(Reason::EndsBelow));
        assert_eq!(opened.recovered.start, opened.snapshot.unwrap().seed());
        assert_eq!(
            (window.start(), window.end(), window.chain()),
            (at.0, at.0, Some(at.1))
        );
        // From there on it takes the same bytes to the same chain.
        let rest: Vec<_> = ends.iter().copied().filter(|end| end.0 > at.0).collect();
        assert_eq!(member.append(7, rest.len()), rest);
        let (opened, window) = member.open(false).unwrap();
        assert_eq!(
            (opened.replaced, window.end()),
            (None, rest[rest.len() - 1].0)
        );
        let bases = segment_bases(&member.dir.log()).unwrap();
        assert_eq!(bases[0], segment_base(at.0, SEGMENT).get());
    }
}

#[test]
fn a_log_that_holds_the_snapshot_is_kept_whether_purged_or_not() {
    let member = Member::new("start-kept");
    let ends = member.append(7, 40);
    member.snapshot(ends[30]);
    let (opened, window) = member.open(false).unwrap();
    assert_eq!(
        (opened.replaced, opened.recovered.start.position),
        (None, Position::ZERO)
    );
    member.purge(ends[30].0);
    let (opened, again) = member.open(false).unwrap();
    assert_eq!(opened.replaced, None);
    assert_eq!(
        opened.recovered.start.position,
        segment_base(ends[30].0, SEGMENT)
    );
    assert_eq!((again.end(), again.chain()), (window.end(), window.chain()));
    assert_eq!(opened.snapshot.unwrap().position(), ends[30].0);
}

#[test]
fn a_log_of_another_history_or_that_ends_below_is_replaced() {
    let donor = Member::new("start-other");
    let ends = donor.append(7, 40);
    let member = Member::new("start-replaced");
    member.append(8, 40);
    member.snapshot(ends[30]);
    let (opened, window) = member.open(false).unwrap();
    assert_eq!(opened.replaced, Some(Reason::OtherHistory));
    assert_eq!(
        (window.end(), window.chain()),
        (ends[30].0, Some(ends[30].1))
    );
    // A crash while it was replaced: nothing, or only the older files, are left.
    for left in [0, 1] {
        let member = Member::new("start-crash");
        member.append(8, 40);
        member.snapshot(ends[30]);
        replacing_begins(&member.dir.log(), ends[30].0).unwrap();
        for base in segment_bases(&member.dir.log())
            .unwrap()
            .into_iter()
            .skip(left)
        {
            std::fs::remove_file(member.dir.log().join(Segment::name(base))).unwrap();
        }
        let (opened, window) = member.open(false).unwrap();
        assert_eq!(opened.replaced, Some(Reason::EndsBelow));
        assert_eq!(
            (window.end(), window.chain()),
            (ends[30].0, Some(ends[30].1))
        );
    }
}

/// It would go on from nothing, or from a snapshot that is older than what it has acknowledged.
#[test]
fn a_member_whose_log_files_are_gone_does_not_start_whatever_snapshot_it_has() {
    let is_refused = |member: &Member| {
        for may_forget in [false, true] {
            let error = member.open(may_forget).unwrap_err();
            assert!(matches!(error, StorageError::LogLost { .. }), "{error}");
            let text = error.to_string();
            assert!(
                text.contains("Restore") && text.contains("init --replace"),
                "{text}"
            );
        }
    };
    let member = Member::new("start-emptied");
    let ends = member.append(7, 40);
    member.empty_log();
    is_refused(&member);
    member.snapshot(ends[20]);
    is_refused(&member);
    // The log was being replaced by a newer snapshot than is there now.
    replacing_begins(&member.dir.log(), ends[30].0).unwrap();
    is_refused(&member);
    replacing_begins(&member.dir.log(), ends[20].0).unwrap();
    let (opened, window) = member.open(false).unwrap();
    assert_eq!(
        (opened.replaced, window.end()),
        (Some(Reason::EndsBelow), ends[20].0)
    );
    // That was once: what is lost after it was replaced is lost.
    member.append(7, 3);
    for base in segment_bases(&member.dir.log()).unwrap() {
        std::fs::remove_file(member.dir.log().join(Segment::name(base))).unwrap();
    }
    is_refused(&member);
}

/// Replacing was ended, but not what says that it was under way.
#[test]
fn what_says_that_a_log_is_being_replaced_does_not_outlive_the_next_start() {
    let member = Member::new("start-replacing");
    let ends = member.append(7, 40);
    member.snapshot(ends[30]);
    replacing_begins(&member.dir.log(), ends[30].0).unwrap();
    let (opened, _) = member.open(false).unwrap();
    assert_eq!(opened.replaced, None);
    for base in segment_bases(&member.dir.log()).unwrap() {
        std::fs::remove_file(member.dir.log().join(Segment::name(base))).unwrap();
    }
    let error = member.open(false).unwrap_err();
    assert!(matches!(error, StorageError::LogLost { .. }), "{error}");
}

/// By a build from before: that made the first file when it had a term already.
#[test]
fn a_member_that_never_had_a_term_needs_no_log_file_and_has_one_before_it_has_a_term() {
    let member = Member::new("start-termless");
    member.empty_log();
    let state = NodeState::first(CLUSTER, MemberId::new(0).unwrap());
    let (_, window) = member.open_with(state).unwrap();
    assert_eq!(window.end(), Position::ZERO);
    assert_eq!(segment_bases(&member.dir.log()).unwrap(), [0]);
    member.open(false).unwrap();
}

#[test]
fn a_lost_snapshot_is_an_error_unless_the_member_may_forget() {
    let member = Member::new("start-lost");
    let ends = member.append(7, 40);
    member.snapshot(ends[3]);
    member.snapshot(ends[30]);
    member.purge(ends[30].0);
    let set = member
        .dir
        .snapshots()
        .join(format!("{:020}", ends[30].0.get()));
    std::fs::write(set.join("service-3"), b"rot").unwrap();
    let error = member.open(false).unwrap_err();
    assert!(
        matches!(error, StorageError::SnapshotMissing { .. }),
        "{error}"
    );
    assert!(error.to_string().contains("snapshot"), "{error}");
    let (opened, window) = member.open(true).unwrap();
    assert_eq!(opened.replaced, Some(Reason::StartsAbove));
    assert_eq!(opened.damaged[0].position, ends[30].0);
    assert_eq!((window.end(), window.chain()), (ends[3].0, Some(ends[3].1)));
    // Without any snapshot there is nothing to go on from.
    std::fs::remove_dir_all(member.dir.snapshots()).unwrap();
    let error = member.open(true).unwrap_err();
    assert!(
        matches!(error, StorageError::SnapshotMissing { .. }),
        "{error}"
    );
}

#[test]
fn what_is_damaged_below_the_snapshot_is_not_asked_for() {
    let member = Member::new("start-damaged");
    let ends = member.append(7, 40);
    // In an older file, and in the snapshot's own, below it.
    member.rot(ends[2].0);
    member.rot(ends[28].0);
    let (opened, _) = member.open(false).unwrap();
    assert_eq!(opened.recovered.corrupt, Some(ends[2].0));
    let end = opened.recovered.tail.end;

    member.snapshot(ends[30]);
    for _ in 0..2 {
        let (opened, window) = member.open(false).unwrap();
        assert_eq!((opened.replaced, opened.recovered.corrupt), (None, None));
        assert_eq!(opened.recovered.start.position, ends[30].0);
        assert_eq!((opened.recovered.tail.end, window.end()), (end, end));
    }
    let kept = segment_bases(&member.dir.log()).unwrap();
    assert_eq!(kept[0], segment_base(ends[30].0, SEGMENT).get());
}

#[test]
fn what_cannot_be_read_below_the_snapshot_is_not_asked_for_either() {
    let member = Member::new("start-unreadable");
    let ends = member.append(7, 40);
    let (position, at) = (ends[30].0, ends[28].0);
    let base = segment_base(at, SEGMENT);
    assert_eq!(segment_base(position, SEGMENT), base);
    let path = member.dir.log().join(Segment::name(base.get()));
    lose_block(&path, HEADER_LENGTH + at.since(base) / 4096 * 4096);
    let (opened, _) = member.open(false).unwrap();
    assert!(
        opened
            .recovered
            .corrupt
            .is_some_and(|corrupt| corrupt <= at)
    );
    let end = opened.recovered.tail.end;
    member.snapshot(ends[30]);
    let (opened, window) = member.open(false).unwrap();
    assert_eq!((opened.replaced, opened.recovered.corrupt), (None, None));
    assert_eq!(opened.recovered.start.position, position);
    assert_eq!((opened.recovered.tail.end, window.end()), (end, end));
}

/// Behind the damage the log is sound, and has another chain where the snapshot was taken.
#[test]
fn a_snapshot_of_another_history_than_what_is_sound_behind_damage_replaces_the_log() {
    let donor = Member::new("start-damaged-donor");
    let theirs = donor.append(7, 40);
    for rotten in [2, 28] {
        let member = Member::new("start-damaged-other");
        let ends = member.append(8, 40);
        let at = ends[30].0;
        assert_eq!(at, theirs[30].0, "the same place, another chain");
        member.rot(ends[rotten].0);
        let (opened, _) = member.open(false).unwrap();
        assert_eq!(opened.recovered.corrupt, Some(ends[rotten].0));
        member.snapshot(theirs[30]);
        let (opened, window) = member.open(false).unwrap();
        assert_eq!(opened.replaced, Some(Reason::OtherHistory), "{rotten}");
        assert_eq!(opened.recovered.corrupt, None);
        assert_eq!((window.end(), window.chain()), (at, Some(theirs[30].1)));
    }
}
