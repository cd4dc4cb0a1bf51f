//! Recovery takes frames that are alike by runs; taken one by one they must come to the same.

extern crate std;

use core::cell::Cell;
use std::vec;
use std::vec::Vec;

use super::purged::{CAPACITY, CLUSTER};
use super::*;
use crate::limits::SEGMENT_MIN;
use crate::prng::Prng;
use crate::units::{Position, Term};

const MTU: usize = 512;

std::thread_local! {
    static IS_ASKED: Cell<bool> = const { Cell::new(false) };
    static IN_RUNS: Cell<u64> = const { Cell::new(0) };
}

/// Whether each frame is to be looked at on its own just now.
pub(super) fn is_asked() -> bool {
    IS_ASKED.get()
}

/// So many bytes were taken as one run.
pub(super) fn note(len: usize) {
    IN_RUNS.set(IN_RUNS.get() + len as u64);
}

/// A log of a few segments: short and long messages of ascending terms, and where each frame ends,
/// with its chain.
fn log_of(prng: &mut Prng) -> (Vec<u8>, Vec<(Position, u32)>) {
    let mut log = Window::new(vec![0; 8192 + MTU], MTU, SEGMENT_MIN).expect("large enough");
    let seed = Seed::genesis(CLUSTER);
    let loaded = log.load(seed.position, seed.chain, seed.term);
    loaded.expect("a boundary");
    let (mut bytes, mut ends, mut term) = (Vec::new(), Vec::new(), 1);
    let len = u64::from(SEGMENT_MIN) / 2 * (1 + prng.below(4));
    while log.end().get() < len {
        term += u32::from(prng.below(60) == 0);
        let most = if prng.below(8) == 0 { 2000 } else { 40 };
        let payload = vec![prng.next() as u8; prng.below(most) as usize];
        let from = log.end();
        append(&mut log, Term::new(term), &[&payload], MTU).expect("room");
        let mut at = from;
        while at < log.end() {
            let run = log.read(at);
            let frames = Frames::new(run, at, SEGMENT_MIN);
            ends.extend(frames.map(|frame| (frame.end(), frame.chain)));
            bytes.extend_from_slice(run);
            at = at.plus(run.len() as u64);
        }
        log.set_written(log.end());
        log.release(log.end());
    }
    (bytes, ends)
}

/// Bits that have rotten, zeros, and what stood there in another log.
fn damage(bytes: &mut Vec<u8>, other: &[u8], prng: &mut Prng) {
    for _ in 0..prng.below(4) {
        let at = prng.below(bytes.len() as u64) as usize & !31;
        let len = (1 + prng.below(3000)) as usize;
        let end = (at + len).min(bytes.len());
        match prng.below(5) {
            0 => bytes[at..end].fill(0),
            1 => {
                let end = end.min(other.len()).max(at);
                bytes[at..end].copy_from_slice(other.get(at..end).unwrap_or(&[]));
            }
            2 => bytes.truncate(end),
            // In a header, often.
            _ => {
                bytes[at + prng.below(40).min((end - at - 1) as u64) as usize] ^= 1 << prng.below(8)
            }
        }
        if bytes.is_empty() {
            return;
        }
    }
}

/// Where recovery begins, what it knows, and how much it is fed at once.
fn plan(prng: &mut Prng, ends: &[(Position, u32)]) -> (Recovery, u64) {
    let mut end_of = |count: usize| ends[prng.below(count as u64) as usize];
    let (a, b, c, snapshot) = (
        end_of(ends.len()),
        end_of(ends.len()),
        end_of(ends.len()),
        end_of(ends.len()),
    );
    let (confirmed, intended) = (a.max(b), a.max(b).0.max(c.0));
    let start = match prng.below(3) {
        0 => Seed {
            position: a.min(b).0,
            chain: (prng.below(2) == 0).then_some(a.min(b).1),
            term: Term::ZERO,
        },
        _ => Seed::genesis(CLUSTER),
    };
    let slot = Slot {
        seq: 9,
        cluster: CLUSTER,
        joined: Term::new(prng.below(12) as u32),
        confirmed: confirmed.0,
        intended,
        chain: (prng.below(4) > 0).then_some(confirmed.1 ^ u32::from(prng.below(8) == 0)),
        segment_length: SEGMENT_MIN,
        segment: segment_base(confirmed.0, SEGMENT_MIN),
        place: SlotPlace::Head,
    };
    let slot = (prng.below(8) > 0 || start.position > Position::ZERO).then_some(slot);
    let capacity = match prng.below(3) {
        0 => 32 * (1 + prng.below(200)),
        _ => CAPACITY,
    };
    let recovery = Recovery::new(CLUSTER, SEGMENT_MIN, start, slot, capacity);
    let mut recovery = recovery.expect("our own");
    if prng.below(2) == 0 {
        recovery.compare(Seed {
            position: snapshot.0.minus(32 * prng.below(2)),
            chain: (prng.below(8) > 0).then_some(snapshot.1 ^ u32::from(prng.below(4) == 0)),
            term: Term::ZERO,
        });
    }
    (recovery, 512 + prng.below(8) * 3000)
}

#[test]
fn frames_in_runs_come_to_the_same_as_one_by_one() {
    let (mut whole, mut damaged, mut unlike) = (0, 0, 0);
    for seed in 0..3000 {
        let mut prng = Prng::new(seed);
        let (mut bytes, ends) = log_of(&mut prng);
        let (other, _) = log_of(&mut prng);
        damage(&mut bytes, &other, &mut prng);
        let (mut recovery, chunk) = plan(&mut prng, &ends);
        let mut again = recovery.clone();
        while let Some(at) = recovery.wanted() {
            let len = bytes.len() as u64;
            let end = segment_end(at, SEGMENT_MIN).get().min(len);
            let end = end.min(at.get() + chunk);
            let fed = bytes.get(at.get() as usize..end as usize).unwrap_or(&[]);
            recovery.feed(fed);
            IS_ASKED.set(true);
            again.feed(fed);
            IS_ASKED.set(false);
            assert_eq!(recovery, again, "seed {seed}, fed at {at}");
        }
        match recovery.finish() {
            Ok(found) if found.corrupt.is_none() => whole += 1,
            Ok(_) => damaged += 1,
            Err(_) => unlike += 1,
        }
    }
    assert!(
        whole > 500 && damaged > 500 && unlike > 10,
        "{whole} {damaged} {unlike}"
    );
    assert!(IN_RUNS.get() > 3000 * u64::from(SEGMENT_MIN) / 4);
}
