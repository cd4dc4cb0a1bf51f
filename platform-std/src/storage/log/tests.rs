//! Files in a scratch directory, and what is there after a restart.

mod round;

use super::*;
use crate::storage::dir::list;
use crate::storage::recover::{Reader, recover};
use crate::storage::segment::BLOCK;
use crate::storage::testing::{Scratch, lose_block, set_room};
use coracle_core::log::append;

const CLUSTER: ClusterId = ClusterId(7);
const SEGMENT: u32 = 64 << 10;
const MTU: usize = 1408;
const FLUSHING: Flushing = Flushing {
    durability: Durability::Durable,
    idle: Idle::Sleep,
    here_below: Duration::from_secs(10),
};

fn window() -> Window<Vec<u8>> {
    Window::new(vec![0; (32 << 10) + MTU], MTU, SEGMENT).unwrap()
}

fn open(scratch: &Scratch) -> (LogStore, Window<Vec<u8>>, Position) {
    let mut window = window();
    let recovered = recover(scratch.path(), CLUSTER, None, &mut window).unwrap();
    let journal = recovered.journal(CLUSTER, &window);
    let waker = Waker::new().unwrap();
    let log = scratch.path().to_path_buf();
    let store = LogStore::new(log, CLUSTER, SEGMENT, FLUSHING, journal, &waker).unwrap();
    (store, window, recovered.tail.end)
}

fn settle(store: &mut LogStore, window: &mut Window<Vec<u8>>) {
    // Some turns more than it takes to confirm the last group.
    for _ in 0..10_000 {
        store.poll_flushed(window).unwrap();
        store.write(Term::new(1), true, window).unwrap();
        store.flush_here().unwrap();
        let is_durable = store.journal().durable() == window.end();
        if is_durable && !store.journal().is_flushing() && store.ahead.is_idle() {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    panic!("the log does not become durable");
}

#[test]
fn what_is_durable_is_there_after_a_restart_over_several_files() {
    let scratch = Scratch::new("store");
    let (mut store, mut window, end) = open(&scratch);
    assert_eq!(end, Position::ZERO);
    let message = vec![0x5A; 5000];
    for _ in 0..60 {
        let term = Term::new(1);
        while append(&mut window, term, &[&message], MTU).is_err() {
            window.release(window.end());
            settle(&mut store, &mut window);
        }
    }
    settle(&mut store, &mut window);
    let end = window.end();
    let chain = window.chain();
    assert!(end.get() > 4 * u64::from(SEGMENT));
    drop(store);

    let (store, window, recovered) = open(&scratch);
    assert_eq!(recovered, end);
    assert_eq!(window.end(), end);
    assert_eq!(window.chain(), chain);
    let found = seed_at(scratch.path(), Position::ZERO, end, SEGMENT).unwrap();
    assert_eq!(found.and_then(|seed| seed.chain), chain);
    drop(store);
    let mut other = Window::new(vec![0; 64 << 10], MTU, SEGMENT).unwrap();
    let foreign = recover(scratch.path(), ClusterId(8), None, &mut other).unwrap_err();
    assert!(matches!(foreign, StorageError::Foreign { .. }), "{foreign}");
}

fn write(store: &mut LogStore, window: &mut Window<Vec<u8>>, messages: usize) {
    for _ in 0..messages {
        while append(window, Term::new(1), &[&[0x5A; 5000]], MTU).is_err() {
            window.release(window.end());
            settle(store, window);
        }
    }
    settle(store, window);
}

fn purged(store: &mut LogStore, below: Position) -> Option<Position> {
    if !store.purge(below) {
        return None;
    }
    assert!(!store.purge(below), "one at a time");
    loop {
        if let Some(result) = store.poll_purge() {
            return Some(result.unwrap());
        }
        std::thread::yield_now();
    }
}

#[test]
fn a_purge_takes_away_whole_files_below_and_the_log_goes_on_from_there() {
    let scratch = Scratch::new("store-purge");
    let (mut store, mut window, _) = open(&scratch);
    write(&mut store, &mut window, 60);
    let length = u64::from(SEGMENT);
    let end = window.end();
    let files = |store: &LogStore| {
        let bases = segment_bases(scratch.path()).unwrap();
        let files = list(scratch.path()).unwrap().len() as u64;
        assert_eq!(store.bytes(), files * (length + HEADER_LENGTH));
        assert_eq!(store.start().get(), bases[0]);
        bases
    };
    assert_eq!(purged(&mut store, Position::new(length - 32)), None);
    let start = purged(&mut store, Position::new(length * 2 + 4000)).unwrap();
    assert_eq!(start.get(), length * 2);
    assert_eq!(files(&store)[0], length * 2);
    assert_eq!(purged(&mut store, Position::new(length * 2 + 4000)), None);
    // Whatever is asked for, the file with the newest slot stays.
    let start = purged(&mut store, end.plus(9 * length)).unwrap();
    assert_eq!(start, segment_base(end.minus(1), SEGMENT));
    assert_eq!(files(&store)[0], start.get());
    write(&mut store, &mut window, 20);
    let (end, chain) = (window.end(), window.chain());
    drop(store);

    let (mut store, mut window, recovered) = open(&scratch);
    assert_eq!((recovered, window.chain()), (end, chain));
    assert_eq!(store.start(), start);
    write(&mut store, &mut window, 20);
    files(&store);
    let mut reader = Reader::new(scratch.path(), SEGMENT);
    assert_eq!(reader.read(Position::ZERO, &mut [0; 32]).unwrap(), 0);
}

/// The disk has lost what is to be deleted anyway: that is no reason to stop.
#[test]
fn a_file_that_cannot_be_read_is_purged_like_any_other() {
    let scratch = Scratch::new("store-purge-damaged");
    let (mut store, mut window, _) = open(&scratch);
    write(&mut store, &mut window, 60);
    let length = u64::from(SEGMENT);
    let last_to_go = scratch.path().join(Segment::name(length));
    std::fs::write(&last_to_go, b"no segment").unwrap();
    let start = Position::new(length * 2);
    assert_eq!(purged(&mut store, start), Some(start));
    assert_eq!(segment_bases(scratch.path()).unwrap()[0], length * 2);
}

#[test]
fn files_are_not_made_ahead_beyond_the_bound() {
    let scratch = Scratch::new("store-bound");
    let (mut store, mut window, _) = open(&scratch);
    let file = u64::from(SEGMENT) + HEADER_LENGTH;
    store.set_bytes_max(4 * file + 5);
    assert_eq!(room(4 * file + 5, SEGMENT), 4 * u64::from(SEGMENT));
    while window.end().get() < room(4 * file + 5, SEGMENT) - 6000 {
        write(&mut store, &mut window, 1);
        assert!(store.bytes() <= 4 * file, "{}", store.bytes());
    }
    assert_eq!(segment_bases(scratch.path()).unwrap().len(), 4);
}

#[test]
fn a_file_that_is_missing_between_others_is_named() {
    let scratch = Scratch::new("store-missing");
    let (mut store, mut window, _) = open(&scratch);
    write(&mut store, &mut window, 60);
    drop(store);
    let name = Segment::name(2 * u64::from(SEGMENT));
    std::fs::remove_file(scratch.path().join(&name)).unwrap();
    let mut again = self::window();
    let error = recover(scratch.path(), CLUSTER, None, &mut again).unwrap_err();
    assert!(
        matches!(error, StorageError::SegmentMissing { .. }),
        "{error}"
    );
    assert!(error.to_string().contains(&name), "{error}");
}

#[test]
fn damage_below_what_was_confirmed_is_reported_not_cut_and_can_be_written_over() {
    let scratch = Scratch::new("store-damage");
    let (mut store, mut window, _) = open(&scratch);
    for _ in 0..4 {
        append(&mut window, Term::new(1), &[&[1; 500]], MTU).unwrap();
        settle(&mut store, &mut window);
    }
    let end = window.end();
    drop(store);
    let path = scratch.path().join(Segment::name(0));
    let segment = Segment::open(&path, true).unwrap();
    let mut good = [0; 1];
    segment.read_data(600, &mut good).unwrap();
    segment.write_data(600, &[!good[0]]).unwrap();
    drop(segment);
    let mut again = self::window();
    let recovered = recover(scratch.path(), CLUSTER, None, &mut again).unwrap();
    assert_eq!(recovered.corrupt, Some(Position::new(544)));
    assert_eq!(recovered.tail.end, end);
    let (store, _, _) = open(&scratch);
    store.repair(Position::new(600), &good).unwrap();
    drop(store);
    let mut healed = self::window();
    let recovered = recover(scratch.path(), CLUSTER, None, &mut healed).unwrap();
    assert_eq!((recovered.corrupt, recovered.tail.end), (None, end));
}

#[test]
fn what_is_cut_off_is_not_readable_from_then_on() {
    let scratch = Scratch::new("store-cut");
    let (mut store, mut window, _) = open(&scratch);
    append(&mut window, Term::new(1), &[&[0x5A; 10_000]], MTU).unwrap();
    settle(&mut store, &mut window);
    let end = window.end();
    let mut frames =
        coracle_core::log::Frames::new(window.read(Position::ZERO), Position::ZERO, SEGMENT);
    let cut = frames.nth(3).unwrap().end();
    assert_eq!(store.readable(&window), end);
    window.truncate(cut).expect("a boundary");
    // Other bytes are in the log there, and may be committed; in the file the old ones are.
    append(&mut window, Term::new(2), &[&[0x77; 5000]], MTU).unwrap();
    assert_eq!(store.readable(&window), cut);
}

#[test]
fn a_short_group_is_flushed_where_it_was_written_and_a_long_one_by_the_thread() {
    let scratch = Scratch::new("store-here");
    let (mut store, mut window, _) = open(&scratch);
    let term = Term::new(1);
    append(&mut window, term, &[&[1; 500]], MTU).unwrap();
    assert_eq!(store.write(term, true, &mut window).unwrap(), None);
    assert_eq!(
        store.flush_here().unwrap(),
        None,
        "nothing is known of the disk"
    );
    settle(&mut store, &mut window);

    let durable = store.journal().durable();
    append(&mut window, term, &[&[2; 500]], MTU).unwrap();
    assert_eq!(store.write(term, true, &mut window).unwrap(), None);
    assert_eq!(store.journal().durable(), durable, "written is not flushed");
    assert_eq!(store.write(term, true, &mut window).unwrap(), None);
    let mark = store.flush_here().unwrap().unwrap();
    assert_eq!((mark.position, mark.term), (window.end(), term));
    assert_eq!(store.flush_here().unwrap(), None, "once");
    settle(&mut store, &mut window);

    for (len, may_wait) in [(500, false), (20_000, true)] {
        append(&mut window, term, &[&vec![3; len]], MTU).unwrap();
        assert_eq!(store.write(term, may_wait, &mut window).unwrap(), None);
        assert_eq!(store.flush_here().unwrap(), None, "{len} B");
        assert!(store.journal().is_flushing());
        settle(&mut store, &mut window);
    }
}

/// The file that is written has its blocks: only when it is full there has to be another one.
#[test]
fn with_no_room_for_the_next_file_the_log_goes_on_to_the_end_of_this_one() {
    let scratch = Scratch::new("store-full");
    let (mut store, mut window, _) = open(&scratch);
    write(&mut store, &mut window, 1);
    store.wait_for_all();
    drop(store);
    for base in segment_bases(scratch.path()).unwrap().into_iter().skip(1) {
        std::fs::remove_file(scratch.path().join(Segment::name(base))).unwrap();
    }

    let (mut store, mut window, _) = open(&scratch);
    set_room(scratch.path(), false);
    let file = u64::from(SEGMENT) + HEADER_LENGTH;
    while window.end().get() + 6000 < u64::from(SEGMENT) {
        write(&mut store, &mut window, 1);
    }
    while !store.ahead.is_idle() {
        store.write(Term::new(1), false, &mut window).unwrap();
    }
    assert_eq!(store.bytes(), file, "what could not be made does not count");
    // Now it is needed.
    window.release(window.end());
    append(&mut window, Term::new(1), &[&[0x5A; 10_000]], MTU).unwrap();
    let failed = loop {
        let flushed = store.poll_flushed(&mut window).map(drop);
        let written = flushed.and_then(|()| store.write(Term::new(1), false, &mut window));
        if let Err(error) = written {
            break error;
        }
    };
    assert!(failed.to_string().contains("Make room"), "{failed}");
    drop(store);
    set_room(scratch.path(), true);
    let (mut store, mut window, _) = open(&scratch);
    write(&mut store, &mut window, 10);
    assert!(window.end().get() > u64::from(SEGMENT));
}

/// Neighbours, and one further on: one hole, whose first and last frame are in sound blocks, too.
#[test]
fn blocks_that_cannot_be_read_are_damage_and_are_written_over() {
    let scratch = Scratch::new("store-unreadable");
    let (mut store, mut window, _) = open(&scratch);
    write(&mut store, &mut window, 10);
    // Confirms those.
    write(&mut store, &mut window, 1);
    let end = window.end();
    drop(store);
    let path = scratch.path().join(Segment::name(0));
    let mut sound = vec![0; end.get() as usize];
    let segment = Segment::open(&path, false).unwrap();
    segment.read_data(0, &mut sound).unwrap();
    for at in [5, 6, 9] {
        lose_block(&path, at * 4096);
    }
    let mut again = self::window();
    let recovered = recover(scratch.path(), CLUSTER, None, &mut again).unwrap();
    let (from, to) = (recovered.corrupt.unwrap(), recovered.corrupt_to.0);
    // The header is a block as well.
    assert!(
        from.get() <= 4 * 4096 && from.get() + MTU as u64 > 4 * 4096,
        "{from}"
    );
    assert!(
        to.get() >= 9 * 4096 && to.get() < 9 * 4096 + MTU as u64,
        "{to}"
    );
    assert_eq!((recovered.tail.end, again.end()), (end, end));

    let (store, _, _) = open(&scratch);
    let mut at = from;
    while at < to {
        let len = to.since(at).min(1000);
        let healed = &sound[at.get() as usize..][..len as usize];
        store.repair(at, healed).unwrap();
        at = at.plus(len);
        // A restart in the middle goes on from there.
        let mut again = self::window();
        let recovered = recover(scratch.path(), CLUSTER, None, &mut again).unwrap();
        assert!(recovered.corrupt.is_none_or(|c| c.plus(MTU as u64) > at));
        assert_eq!(recovered.tail.end, end);
    }
    drop(store);
    let mut again = self::window();
    let recovered = recover(scratch.path(), CLUSTER, None, &mut again).unwrap();
    assert_eq!((recovered.corrupt, recovered.tail.end), (None, end));
    let mut healed = vec![0; sound.len()];
    segment.read_data(0, &mut healed).unwrap();
    assert!(healed == sound);
}

/// It may have been acknowledged, and reads like a write that was cut: that would be forgotten.
#[test]
fn a_block_that_cannot_be_read_above_what_was_confirmed_is_an_error() {
    let scratch = Scratch::new("store-unreadable-end");
    let (mut store, mut window, _) = open(&scratch);
    write(&mut store, &mut window, 1);
    let confirmed = window.end();
    append(&mut window, Term::new(1), &[&[0x5A; 5000]], MTU).unwrap();
    let end = window.end();
    while store.journal().durable() < end {
        store.poll_flushed(&mut window).unwrap();
        if store.journal().durable() < end {
            store.write(Term::new(1), false, &mut window).unwrap();
        }
    }
    drop(store);
    let mut again = self::window();
    let recovered = recover(scratch.path(), CLUSTER, None, &mut again).unwrap();
    assert_eq!((recovered.confirmed, recovered.tail.end), (confirmed, end));
    // The block in which the one ends and the other begins.
    let path = scratch.path().join(Segment::name(0));
    lose_block(&path, (confirmed.get() / 4096 + 1) * 4096);
    let mut again = self::window();
    let error = recover(scratch.path(), CLUSTER, None, &mut again).unwrap_err();
    assert!(is_unreadable(&error), "{error}");
    // Nor is it written over.
    let (at, bytes) = (confirmed.minus(32), [0; 32]);
    let segment = Segment::open(&path, true).unwrap();
    let certain = confirmed.get();
    let error = write_over(&segment, at.get(), &bytes, certain).unwrap_err();
    assert!(is_unreadable(&error), "{error}");
}

/// Whether the system has a file's bytes in memory is its own affair: what it says it has must be
/// the file's.
#[test]
fn what_is_read_from_memory_is_what_the_reader_would_read() {
    let scratch = Scratch::new("store-cached");
    let (mut store, mut window, _) = open(&scratch);
    write(&mut store, &mut window, 30);
    assert!(window.end().get() > 2 * u64::from(SEGMENT));
    let read = |store: &mut LogStore, at, len| {
        assert!(store.readers.read(0, at, len, vec![0; len]).is_none());
        loop {
            if let Some((bytes, result)) = store.readers.poll(0) {
                return bytes[..result.unwrap()].to_vec();
            }
            std::thread::yield_now();
        }
    };
    let cached = |store: &LogStore, at, len| {
        let mut bytes = vec![0xEE; len];
        let read = store.readers.read_cached(at, len, &mut bytes)?;
        bytes.truncate(read);
        Some(bytes)
    };
    let (first, second) = (Position::new(32), Position::new(u64::from(SEGMENT) + 64));
    let to_end = SEGMENT as usize - 64;
    assert_eq!(cached(&store, first, 100), None, "no file is open");
    let in_first = read(&mut store, first, 100);
    assert_eq!(
        cached(&store, first, 100).unwrap_or(in_first.clone()),
        in_first
    );
    assert_eq!(cached(&store, second, 100), None, "another file is open");
    // As much as the file has, and no more.
    let in_second = read(&mut store, second, to_end + 1000);
    assert_eq!(in_second.len(), to_end);
    let again = cached(&store, second, to_end + 1000);
    assert!(again.unwrap_or(in_second.clone()) == in_second);
    assert_eq!(
        cached(&store, first, 100),
        None,
        "the first is open no more"
    );
    let end = Position::new(2 * u64::from(SEGMENT));
    assert_eq!(cached(&store, end, 100), None, "that is the next file's");
    // What cannot be read is for the reader to tell.
    lose_block(
        &scratch.path().join(Segment::name(u64::from(SEGMENT))),
        8192,
    );
    assert_eq!(cached(&store, second, to_end), None);
}

#[test]
fn a_block_that_cannot_be_read_behind_the_end_is_no_reason_not_to_start() {
    let scratch = Scratch::new("store-behind");
    let (mut store, mut window, _) = open(&scratch);
    write(&mut store, &mut window, 5);
    let end = window.end();
    drop(store);
    let path = scratch.path().join(Segment::name(0));
    let behind = HEADER_LENGTH + end.get().next_multiple_of(BLOCK);
    lose_block(&path, behind + 2 * BLOCK);
    let (store, _, recovered) = open(&scratch);
    assert_eq!(recovered, end);
    drop(store);
    // One that the log may go on in is: a frame that was acknowledged may be there.
    lose_block(&path, behind - BLOCK);
    let mut again = self::window();
    let error = recover(scratch.path(), CLUSTER, None, &mut again).unwrap_err();
    assert!(is_unreadable(&error), "{error}");
}

/// Messages that are waited for one by one, over several blocks, files and restarts.
#[test]
fn what_a_slot_beside_the_data_confirms_is_certain_after_a_restart() {
    let scratch = Scratch::new("store-beside");
    let (mut store, mut window, _) = open(&scratch);
    let path = |at: u64| {
        let base = segment_base(Position::new(at), SEGMENT);
        scratch.path().join(Segment::name(base.get()))
    };
    let (mut beside, mut before) = (0, Position::ZERO);
    for n in 0..800u32 {
        append(&mut window, Term::new(1), &[&[n as u8; 100]], MTU).unwrap();
        while store.journal().durable() < window.end() {
            store.poll_flushed(&mut window).unwrap();
            store.write(Term::new(1), true, &mut window).unwrap();
            store.flush_here().unwrap();
        }
        window.release(window.end());
        let found =
            |window: &mut Window<Vec<u8>>| recover(scratch.path(), CLUSTER, None, window).unwrap();
        let recovered = found(&mut self::window());
        assert_eq!(recovered.tail.end, window.end());
        assert!(recovered.confirmed >= before, "{n}");
        let is_beside = recovered.slot.is_some_and(|slot| slot.is_beside());
        beside += u32::from(is_beside);
        if is_beside && n % 50 == 7 {
            // What it says was durable has rotten: that is damage, and no write that was cut.
            let (segment, at) = (
                Segment::open(&path(before.get() - 1), true),
                before.get() - 40,
            );
            let (segment, at) = (segment.unwrap(), at % u64::from(SEGMENT));
            let mut was = [0];
            segment.read_data(at, &mut was).unwrap();
            segment.write_data(at, &[was[0] ^ 1]).unwrap();
            let damaged = found(&mut self::window());
            assert!(damaged.corrupt.is_some(), "{n}");
            assert_eq!(damaged.tail.end, window.end());
            segment.write_data(at, &was).unwrap();
        }
        before = window.end();
        if n % 97 == 50 {
            drop(store);
            let end;
            (store, window, end) = open(&scratch);
            assert_eq!(end, before);
            settle(&mut store, &mut window);
        }
    }
    assert!(beside > 700, "{beside}");
    assert!(window.end().get() > u64::from(SEGMENT));
}
