//! The power goes at every write, flush and erasure of a workload, and again at every one of the
//! start that follows: all that was acknowledged is there, and term and vote never go back.

mod board;

use board::rig::{Known, Rig, Step, formatted};
use board::{Handle, Kind, PowerCut};
use coracle_core::prng::Prng;
use coracle_embedded::{Storage, StoreError};

use Step::{Append, Cut, Purge, Receive, Repair, Rest, Snapshot, Vote};

/// All that a member does, several times round a log of four segments.
const WORKLOAD: &[Step] = &[
    Append(3, 100),
    Vote,
    Append(6, 1_300),
    Rest,
    Cut(2),
    Append(1, 40),
    Append(8, 1_300),
    Append(9, 1_300),
    Append(9, 1_300),
    Snapshot(4),
    Append(9, 1_300),
    Append(9, 1_300),
    Cut(7),
    Append(9, 1_300),
    Append(9, 1_300),
    Repair(5),
    Append(9, 1_300),
    Snapshot(0),
    Purge,
    Rest,
    Cut(12),
    Append(9, 1_300),
    Append(9, 1_300),
    Append(9, 1_300),
    Append(9, 1_300),
    Append(9, 1_300),
    Vote,
    Vote,
    Append(9, 1_300),
    Append(9, 1_300),
    Append(9, 1_300),
    Append(9, 1_300),
    Append(9, 1_300),
    Append(9, 1_300),
    Snapshot(2),
    Purge,
    Append(9, 1_300),
    Append(9, 1_300),
    Append(9, 1_300),
    Receive(100_000),
    Append(3, 1_300),
    Cut(1),
    Append(3, 900),
    Rest,
    Vote,
];

/// What a member does that has just started.
const AFTER: &[Step] = &[Append(2, 700), Vote, Cut(1), Append(4, 1_300), Snapshot(1)];

fn is_cut<T>(done: Result<T, StoreError<PowerCut>>) -> Option<T> {
    match done {
        Ok(done) => Some(done),
        Err(StoreError::Device(PowerCut)) => None,
        Err(error) => panic!("{error:?}"),
    }
}

/// Does all steps; what is known when the power goes, if it does.
fn work(rig: &mut Rig, steps: &[Step]) -> Option<Known> {
    for step in steps {
        if is_cut(rig.step(*step)).is_none() {
            return Some(rig.known());
        }
    }
    None
}

/// Starts again with a power cut at each call; then without one, and goes on.
fn start_again(device: &Handle, known: &Known, is_thorough: bool) -> u64 {
    let mut cuts = 0;
    for calls in 0.. {
        let device = device.fork();
        if is_thorough {
            device.with(|device| device.cut_after(calls));
        }
        let started = is_cut(known.clone().start(&device));
        let cut = match started {
            None => Some(known.clone()),
            Some(rig) if !is_thorough => {
                // What one start has believed and acted upon, the next believes as well.
                let mut rig = is_cut(rig.known().start(&device)).expect("nothing is cut");
                work(&mut rig, AFTER)
            }
            Some(mut rig) => work(
                &mut rig,
                &AFTER[..if is_thorough { 1 } else { AFTER.len() }],
            ),
        };
        let Some(known) = cut else {
            break;
        };
        cuts += 1;
        device.with(|device| device.start_again(&mut Prng::new(calls)));
        let mut rig = is_cut(known.start(&device)).expect("nothing is cut");
        assert!(work(&mut rig, &AFTER[..1]).is_none());
    }
    cuts
}

/// How many power cuts there were, at every call, or every few.
fn cut_everywhere(kind: Kind, seeds: u64, every: usize, is_thorough: bool) -> u64 {
    let blank = formatted(kind);
    let mut cuts = 0;
    for calls in (0..).step_by(every) {
        let mut is_over = false;
        for seed in 0..seeds {
            let device = blank.fork();
            let mut rig = Rig::new(&device).unwrap();
            device.with(|device| device.cut_after(calls));
            let Some(known) = work(&mut rig, WORKLOAD) else {
                is_over = true;
                break;
            };
            let mut prng = Prng::new(seed << 32 | calls);
            device.with(|device| device.start_again(&mut prng));
            cuts += 1 + start_again(&device, &known, is_thorough);
        }
        if is_over {
            break;
        }
    }
    cuts
}

#[test]
fn flash_loses_nothing_that_was_acknowledged() {
    let cuts = cut_everywhere(Kind::Flash, 4, 1, false);
    assert!(cuts > 1_000, "{cuts}");
}

#[test]
fn a_disk_loses_nothing_that_was_acknowledged() {
    let cuts = cut_everywhere(Kind::Disk, 4, 1, false);
    assert!(cuts > 1_000, "{cuts}");
}

#[test]
fn flash_loses_nothing_if_the_power_goes_again_at_the_start() {
    let cuts = cut_everywhere(Kind::Flash, 1, 9, true);
    assert!(cuts > 4_000, "{cuts}");
}

#[test]
fn a_disk_loses_nothing_if_the_power_goes_again_at_the_start() {
    let cuts = cut_everywhere(Kind::Disk, 1, 1, true);
    assert!(cuts > 1_000, "{cuts}");
}

/// Whatever is in memory when the power goes, and whichever order it was written in.
#[test]
fn a_buffered_disk_loses_nothing_that_was_acknowledged() {
    for blocks in [1, 4] {
        let cuts = cut_everywhere(Kind::Buffered(blocks), 4, 1, false);
        assert!(cuts > 800, "{cuts}");
    }
}

#[test]
fn a_buffered_disk_loses_nothing_if_the_power_goes_again_at_the_start() {
    let cuts = cut_everywhere(Kind::Buffered(4), 1, 1, true);
    assert!(cuts > 500, "{cuts}");
}

/// Where a byte rots, and when: before the set was read, in its middle, and in what was read
/// already, which nobody looks at again.
#[test]
fn what_rots_before_it_was_read_back_does_not_count_and_the_older_set_does() {
    // Both places are 7 units; the second stands before the first, both before records and states.
    const UNIT: usize = 4096;
    for kind in [Kind::Flash, Kind::Disk] {
        let device = formatted(kind);
        let spares = if kind == Kind::Flash { 2 } else { 0 };
        let len = device.with(|device| device.capacity()) as usize;
        let places = [1, 2].map(|n| len - (2 + 2 + spares + 7 * n) * UNIT);
        let mut rig = Rig::new(&device).unwrap();
        assert!(work(&mut rig, &[Append(9, 1_300), Snapshot(0), Append(3, 900)]).is_none());
        let end_of_service = UNIT + 5_000;
        for (pieces, at) in [(0, 70), (1, 70), (1, UNIT + 70), (2, end_of_service)] {
            assert!(rig.rots_after(pieces, places[1] + at), "{pieces} {at}");
        }
        assert!(!rig.rots_after(9, places[1] + 70));
        assert!(rig.rots_after(0, places[0] + 70), "the other place's turn");
        let mut rig = is_cut(rig.known().start(&device)).expect("nothing is cut");
        assert!(work(&mut rig, AFTER).is_none());
    }
}
