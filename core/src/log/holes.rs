//! Damage below what was durable: where it begins, and where it ends.

extern crate std;

use std::vec;
use std::vec::Vec;

use super::frame::{Header, seal};
use super::purged::{CAPACITY, CLUSTER, Whole, whole_of};
use super::*;
use crate::limits::{FRAME_HEADER, SEGMENT_MIN};
use crate::prng::Prng;
use crate::units::{Position, Term};

fn recover(log: &Whole, slot: Slot) -> Recovered {
    let found = log.recover_by(4096, Seed::genesis(CLUSTER), Some(slot));
    // A small reader finds the same: a frame of the largest size, and no more.
    let again = log.recover_by(512, Seed::genesis(CLUSTER), Some(slot));
    assert_eq!(found, again);
    found
}

/// The last end of a frame at or below `at`, and the first one above: from where to where a byte
/// damages the log.
fn around(log: &Whole, at: u64) -> ((Position, Option<u32>), (Position, Option<u32>)) {
    let above = log.ends.iter().find(|end| end.0.get() > at);
    let below = log.ends.iter().rfind(|end| end.0.get() <= at);
    let genesis = Seed::genesis(CLUSTER);
    let below = below.map_or((genesis.position, genesis.chain), |e| (e.0, Some(e.1)));
    let above = above.map(|e| (e.0, Some(e.1))).expect("in the log");
    (below, above)
}

/// What a PAD's header does not cover means nothing.
fn counts(log: &Whole, at: u64) -> bool {
    let ((from, _), _) = around(log, at);
    let rest = &log.bytes[from.get() as usize..];
    let header = Header::parse(rest).expect("sound");
    !header.is_pad || at < from.plus(FRAME_HEADER as u64).get()
}

#[test]
fn a_hole_is_from_the_first_bad_frame_to_the_sound_ones_that_lead_to_the_end() {
    let sound = whole_of(2, &[7; 300]);
    let confirmed = sound.ends[sound.ends.len() - 5];
    let slot = sound.slot(confirmed);
    let mut multiple = 0;
    for seed in 0..400 {
        let mut prng = Prng::new(seed);
        let mut log = sound.clone();
        let mut places = Vec::new();
        for _ in 0..=prng.below(3) {
            let at = prng.below(confirmed.0.get());
            let len = (1 + prng.below(2000)).min(confirmed.0.get() - at);
            for byte in at..at + len {
                log.bytes[byte as usize] ^= 1 + prng.below(255) as u8;
                places.extend(counts(&sound, byte).then_some(byte));
            }
        }
        let found = recover(&log, slot);
        let (Some(lowest), Some(highest)) = (places.iter().min(), places.iter().max()) else {
            assert_eq!(found.corrupt, None, "seed {seed}");
            continue;
        };
        let (from, to) = (around(&sound, *lowest).0, around(&sound, *highest).1);
        assert_eq!(found.corrupt, Some(from.0), "seed {seed}");
        assert_eq!(found.corrupt_after.0, from.1, "seed {seed}");
        assert_eq!(found.corrupt_to, to, "seed {seed}");
        assert_eq!(
            (found.tail.end, found.chain),
            (log.end().0, Some(log.end().1))
        );
        assert_eq!(found.tail.term, Term::new(2));
        assert_eq!(found.confirmed_chain, Some(confirmed.1));
        let known_from = found.history.known_from();
        assert_eq!(known_from, Some(to.0), "seed {seed}");
        multiple += u32::from(to.0 > from.0.plus(4096));
    }
    assert!(multiple > 100);
}

#[test]
fn a_missing_file_is_a_hole_too() {
    let mut log = whole_of(2, &[7; 300]);
    let (from, to) = (u64::from(SEGMENT_MIN), 2 * u64::from(SEGMENT_MIN));
    let slot = log.slot(log.end());
    let before = around(&log, from).0;
    let behind = around(&log, to - 1).1;
    log.bytes[from as usize..to as usize].fill(0);
    let found = recover(&log, slot);
    assert_eq!((found.corrupt, found.corrupt_to), (Some(before.0), behind));

    // A reader that has nothing there skips the file.
    let mut recovery = Recovery::new(
        CLUSTER,
        SEGMENT_MIN,
        Seed::genesis(CLUSTER),
        Some(slot),
        CAPACITY,
    )
    .expect("our own");
    let mut asked = 0;
    while let Some(at) = recovery.wanted() {
        let is_there = !(from..to).contains(&at.get());
        asked += u32::from(!is_there);
        let start = at.get() as usize;
        let end = segment_end(at, SEGMENT_MIN).get().min(log.end().0.get()) as usize;
        recovery.feed(if is_there {
            &log.bytes[start..end]
        } else {
            &[]
        });
    }
    assert_eq!(recovery.finish(), Ok(found));
    assert!(asked <= 2, "{asked}");
}

#[test]
fn what_a_client_has_sent_is_never_taken_for_a_frame() {
    // Two frames in the payload, one after the other, of the right place, sums and chain.
    let plain = whole_of(2, &[7; 448]);
    let victim = plain.ends[20].0;
    let mut payload = vec![7; 448];
    let mut chain = 99;
    for n in 0..2u32 {
        // Behind the carrying frame's own header.
        let at = victim.plus(u64::from(FRAME_HEADER as u32 + 32 + n * 96));
        let header = Header {
            length: 96,
            flags: 0xC0,
            is_pad: false,
            segment_offset: at.since(segment_base(at, SEGMENT_MIN)) as u32,
            segment: (at.get() / u64::from(SEGMENT_MIN)) as u32,
            term: Term::new(2),
            sums: checksum::Checksums { own: 0, chain: 0 },
        };
        let from = 32 + n as usize * 96;
        header.emit(&mut payload[from..from + 96]);
        chain = seal(&header, &mut payload[from..from + 96], chain);
    }
    let mut log = whole_of(2, &payload);
    let ends = |log: &Whole| log.ends.iter().map(|e| e.0).collect::<Vec<_>>();
    assert_eq!(ends(&log), ends(&plain), "frames of one size");
    let slot = log.slot(log.end());
    let at = victim.get() as usize;
    let forged = &log.bytes[at + 64..at + 512];
    let mut frames = Frames::new(forged, victim.plus(64), SEGMENT_MIN)
        .verified()
        .linked(None);
    assert_eq!(frames.by_ref().count(), 2, "it looks like frames");
    log.bytes[at + 3] ^= 1;
    let found = recover(&log, slot);
    let (position, chain) = log.ends[21];
    assert_eq!(found.corrupt, Some(victim));
    assert_eq!(found.corrupt_to, (position, Some(chain)));
}

#[test]
fn frames_of_another_history_are_believed_only_where_they_lead_to_the_end() {
    let (log, other) = (whole_of(2, &[7; 300]), whole_of(2, &[8; 300]));
    let slot = log.slot(log.end());
    let (from, to) = (log.ends[20].0.get() as usize, log.ends[30].0.get() as usize);
    // A write that was lost: what stands there is older, whole and linked.
    let mut lost = log.clone();
    lost.bytes[from..to].copy_from_slice(&other.bytes[from..to]);
    let found = recover(&lost, slot);
    assert_eq!(found.corrupt, Some(log.ends[20].0));
    assert_eq!(found.corrupt_to, (log.ends[30].0, Some(log.ends[30].1)));

    // From the start: nothing is bad, and it leads elsewhere.
    let mut lost = log.clone();
    lost.bytes[..to].copy_from_slice(&other.bytes[..to]);
    let found = recover(&lost, slot);
    assert_eq!(found.corrupt, Some(Position::ZERO));
    assert_eq!(found.corrupt_after.0, Seed::genesis(CLUSTER).chain);
    assert_eq!(found.corrupt_to, (log.ends[30].0, Some(log.ends[30].1)));

    // To the end: all of it is another log.
    let found = recover(&other, slot);
    assert_eq!(found.corrupt, Some(Position::ZERO));
    assert_eq!(found.corrupt_to, (log.end().0, Some(log.end().1)));
    assert_eq!(found.tail.term, Term::new(2));
}

#[test]
fn a_hole_that_reaches_the_end_hides_the_last_term() {
    let mut log = whole_of(2, &[7; 300]);
    let mut slot = log.slot(log.end());
    slot.joined = Term::new(9);
    let last = log.bytes.len() - 1;
    log.bytes[last] ^= 1;
    let found = recover(&log, slot);
    let (end, chain) = log.end();
    assert_eq!(found.corrupt_to, (end, Some(chain)));
    assert_eq!((found.tail.end, found.tail.term), (end, Term::new(9)));
    assert_eq!(found.history.known_from(), None);

    // Frames of a leadership that was never joined are none of this log's.
    slot.joined = Term::new(1);
    let middle = log.ends[10].0.get() as usize + 40;
    log.bytes[last] ^= 1;
    log.bytes[middle] ^= 1;
    assert_eq!(recover(&log, slot).corrupt_to, (end, Some(chain)));
}

#[test]
fn a_snapshot_of_another_history_is_told_behind_damage_too() {
    let log = whole_of(2, &[7; 300]);
    let slot = log.slot(log.end());
    let agrees = |log: &Whole, at: (Position, u32)| {
        let seed = Seed::genesis(CLUSTER);
        let mut recovery =
            Recovery::new(CLUSTER, SEGMENT_MIN, seed, Some(slot), CAPACITY).expect("our own");
        recovery.compare(Seed {
            position: at.0,
            chain: Some(at.1),
            term: Term::ZERO,
        });
        while let Some(at) = recovery.wanted() {
            let end = segment_end(at, SEGMENT_MIN).get().min(log.end().0.get());
            recovery.feed(&log.bytes[at.get() as usize..end as usize]);
        }
        recovery.finish().expect("fits").agrees
    };
    let mut damaged = log.clone();
    damaged.bytes[log.ends[20].0.get() as usize + 50] ^= 1;
    for (at, chain) in [log.ends[10], log.ends[21], log.ends[22], log.end()] {
        for log in [&log, &damaged] {
            assert_eq!(agrees(log, (at, chain)), Some(true), "{at}");
            assert_eq!(agrees(log, (at, chain ^ 1)), Some(false), "{at}");
        }
        assert_eq!(
            agrees(&log, (at.minus(32), chain)),
            Some(false),
            "in a frame"
        );
    }
    assert_eq!(
        agrees(&damaged, (log.ends[21].0.minus(32), 5)),
        None,
        "in the damage"
    );
    assert_eq!(
        agrees(&log, (log.end().0.plus(32), 5)),
        None,
        "it does not reach there"
    );
}
