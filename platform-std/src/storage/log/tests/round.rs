//! Files that are purged and become the next ones.

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt;

use super::*;
use crate::storage::dir::list;
use crate::storage::testing::set_writes_left;

fn inodes(scratch: &Scratch) -> BTreeSet<u64> {
    let files = list(scratch.path()).unwrap();
    let inode = |path: &PathBuf| std::fs::metadata(path).unwrap().ino();
    files.iter().map(inode).collect()
}

/// What is behind the log's end in such a file is frames of the same length, each where another one
/// will be.
#[test]
fn a_log_that_goes_round_in_its_files_ends_where_it_ends() {
    let scratch = Scratch::new("store-round");
    let (mut store, mut window, _) = open(&scratch);
    let length = u64::from(SEGMENT);
    write(&mut store, &mut window, 80);
    let all = inodes(&scratch);
    store.set_bytes_max(all.len() as u64 * (length + HEADER_LENGTH));
    for round in 0..60 {
        let below = segment_base(window.end().minus(length), SEGMENT);
        if let Some(start) = purged(&mut store, below) {
            assert_eq!(start, below);
        }
        write(&mut store, &mut window, 10);
        assert_eq!(inodes(&scratch), all, "round {round}: no other files");
        if round % 7 != 0 {
            continue;
        }
        let mut again = self::window();
        let recovered = recover(scratch.path(), CLUSTER, None, &mut again).unwrap();
        assert_eq!(
            (recovered.tail.end, recovered.corrupt),
            (window.end(), None)
        );
        assert_eq!(again.chain(), window.chain());
        assert!(!recovered.torn);
    }
    assert!(window.end().get() > 3 * all.len() as u64 * length);
    // The bytes behind the end, in the file that is being written, are old frames.
    let base = segment_base(window.end(), SEGMENT);
    let path = scratch.path().join(Segment::name(base.get()));
    let segment = Segment::open(&path, false).unwrap();
    let behind = window.end().since(base).next_multiple_of(BLOCK);
    let mut behind = vec![0; (length - behind) as usize];
    let at = length - behind.len() as u64;
    segment.read_data(at, &mut behind).unwrap();
    assert!(
        behind.iter().any(|byte| *byte != 0),
        "the test shows nothing"
    );
    let end = window.end();
    drop(store);
    // And so after a restart, which begins with none set aside.
    let (mut store, mut window, recovered) = open(&scratch);
    assert_eq!(recovered, end);
    write(&mut store, &mut window, 20);
    assert_eq!(
        list(scratch.path()).unwrap().len(),
        segment_bases(scratch.path()).unwrap().len()
    );
}

#[test]
fn a_file_that_became_another_one_is_read_by_nobody_as_what_it_was() {
    let scratch = Scratch::new("store-read-round");
    let (mut store, mut window, _) = open(&scratch);
    write(&mut store, &mut window, 60);
    let read = |store: &mut LogStore, at: u64| {
        for consumer in [0, 1] {
            let bytes = vec![0; 4096];
            assert!(
                store
                    .readers
                    .read(consumer, Position::new(at), 4096, bytes)
                    .is_none()
            );
        }
        [0, 1].map(|consumer| {
            loop {
                match store.readers.poll(consumer) {
                    Some((bytes, len)) => break (len.unwrap(), bytes),
                    None => std::thread::yield_now(),
                }
            }
        })
    };
    for (len, bytes) in read(&mut store, 4096) {
        assert_eq!((len, bytes[0] != 0), (4096, true));
    }
    let start = Position::new(2 * u64::from(SEGMENT));
    assert_eq!(purged(&mut store, start), Some(start));
    write(&mut store, &mut window, 40);
    for (len, _) in read(&mut store, 4096) {
        assert_eq!(len, 0);
    }
    let mut bytes = [0; 4096];
    assert_eq!(
        store
            .readers
            .read_cached(Position::new(4096), 4096, &mut bytes),
        None
    );
}

#[test]
fn when_the_disk_is_full_files_set_aside_are_deleted() {
    let scratch = Scratch::new("store-make-room");
    let (mut store, mut window, _) = open(&scratch);
    write(&mut store, &mut window, 60);
    let start = Position::new(3 * u64::from(SEGMENT));
    assert_eq!(purged(&mut store, start), Some(start));
    let before = store.bytes();
    store.make_room();
    assert!(store.poll_purge().is_none());
    while !store.purger.is_idle() {
        assert!(store.poll_purge().is_none());
        std::thread::yield_now();
    }
    let bases = segment_bases(scratch.path()).unwrap();
    assert_eq!(list(scratch.path()).unwrap().len(), bases.len());
    let file = u64::from(SEGMENT) + HEADER_LENGTH;
    assert_eq!(store.bytes(), before - 3 * file);
    write(&mut store, &mut window, 40);
}

/// Until all is durable, and no longer: what a crash then leaves is acknowledged and not confirmed.
fn flush(store: &mut LogStore, window: &mut Window<Vec<u8>>) -> Result<(), StorageError> {
    while store.journal().durable() < window.end() {
        store.poll_flushed(window)?;
        if store.journal().durable() < window.end() {
            store.write(Term::new(1), false, window)?;
        }
    }
    Ok(())
}

/// It is in the window in two runs then, and in the first one's last block.
#[test]
fn an_acknowledged_tail_that_is_written_again_is_there_at_any_time() {
    for writes in 0.. {
        let scratch = Scratch::new("store-again");
        let (mut store, mut window, _) = open(&scratch);
        write(&mut store, &mut window, 5);
        let confirmed = window.end();
        window.release(confirmed);
        append(&mut window, Term::new(1), &[&[0x5A; 9000]], MTU).unwrap();
        let end = window.end();
        assert!(confirmed.get() < 32 << 10 && end.get() > 32 << 10);
        flush(&mut store, &mut window).unwrap();
        drop(store);
        let (mut store, mut window, recovered) = open(&scratch);
        assert_eq!((window.start(), recovered), (confirmed, end));
        set_writes_left(Some(writes));
        let flushed = flush(&mut store, &mut window);
        set_writes_left(None);
        drop(store);
        let mut again = self::window();
        let found = recover(scratch.path(), CLUSTER, None, &mut again).unwrap();
        assert_eq!((found.tail.end, found.corrupt), (end, None), "{writes}");
        if flushed.is_ok() {
            assert!(writes > 2, "the test shows nothing");
            return;
        }
    }
}

fn round(store: &mut LogStore, window: &mut Window<Vec<u8>>) {
    let length = u64::from(SEGMENT);
    purged(store, segment_base(window.end().minus(length), SEGMENT));
    write(store, window, 10);
}

#[test]
fn under_a_lower_bound_the_log_becomes_as_small_as_that() {
    let scratch = Scratch::new("store-lower");
    let (mut store, mut window, _) = open(&scratch);
    write(&mut store, &mut window, 150);
    drop(store);
    let file = u64::from(SEGMENT) + HEADER_LENGTH;
    let (mut store, mut window, _) = open(&scratch);
    assert!(store.bytes() > 6 * file);
    store.set_bytes_max(6 * file);
    for _ in 0..10 {
        round(&mut store, &mut window);
        assert!(store.poll_purge().is_none());
    }
    assert!(store.bytes() <= 6 * file, "{} files", store.bytes() / file);
}

#[test]
fn a_file_set_aside_is_used_where_there_is_no_room_for_a_new_one() {
    let scratch = Scratch::new("store-spare-room");
    let (mut store, mut window, _) = open(&scratch);
    write(&mut store, &mut window, 40);
    store.wait_for_all();
    drop(store);
    // None is ahead.
    let last = segment_base(window.end(), SEGMENT).get();
    for base in segment_bases(scratch.path()).unwrap() {
        if base > last {
            std::fs::remove_file(scratch.path().join(Segment::name(base))).unwrap();
        }
    }
    let (mut store, mut window, _) = open(&scratch);
    set_room(scratch.path(), false);
    write(&mut store, &mut window, 1);
    let start = segment_base(window.end().minus(1), SEGMENT);
    assert_eq!(purged(&mut store, start), Some(start));
    let files = inodes(&scratch);
    for _ in 0..u64::from(SEGMENT) / 5000 {
        window.release(window.end());
        append(&mut window, Term::new(1), &[&[0x5A; 5000]], MTU).unwrap();
        flush(&mut store, &mut window).unwrap();
    }
    assert_eq!(inodes(&scratch), files);
    set_room(scratch.path(), true);
}

#[test]
fn a_log_that_came_back_to_an_older_file_takes_those_that_are_there() {
    let scratch = Scratch::new("store-back");
    let (mut store, mut window, _) = open(&scratch);
    write(&mut store, &mut window, 100);
    let cut = loop {
        let before = window.end();
        if append(&mut window, Term::new(1), &[&[0x5A; 5000]], MTU).is_err() {
            window.release(before);
            continue;
        }
        settle(&mut store, &mut window);
        if segment_base(before, SEGMENT) < segment_base(window.end(), SEGMENT) {
            break before;
        }
    };
    settle(&mut store, &mut window);
    let start = Position::new(5 * u64::from(SEGMENT));
    assert_eq!(purged(&mut store, start), Some(start));
    settle(&mut store, &mut window);
    let (spares, files) = (store.spares.bytes(), inodes(&scratch));
    window.truncate(cut).unwrap();
    for _ in 0..8 {
        append(&mut window, Term::new(2), &[&[1; 64]], MTU).unwrap();
        settle(&mut store, &mut window);
    }
    assert_eq!((store.spares.bytes(), inodes(&scratch)), (spares, files));
    // And then it has nothing more to do.
    for _ in 0..10 {
        store.rested = None;
        store.write(Term::new(1), true, &mut window).unwrap();
        store.ahead.wait();
    }
    store.rested = None;
    store.write(Term::new(1), true, &mut window).unwrap();
    assert!(store.ahead.is_idle());
}
