//! Appending, scanning, landing and putting together again, in windows of a few kilobytes.

extern crate std;

use std::vec;
use std::vec::Vec;

use super::*;
use crate::limits::SEGMENT_MIN;
use crate::prng::Prng;
use crate::units::Term;

const SEGMENT: u32 = SEGMENT_MIN;
const MTU: usize = 256;
const CAPACITY: usize = 4096;
const T1: Term = Term::new(1);
const T2: Term = Term::new(2);

fn window() -> Window<Vec<u8>> {
    window_at(Position::ZERO)
}

fn window_at(start: Position) -> Window<Vec<u8>> {
    let bytes = vec![0xee; window_len(CAPACITY, MTU)];
    let mut window = Window::new(bytes, MTU, SEGMENT).expect("large enough");
    window.load(start, Some(0), Term::ZERO).expect("a boundary");
    window
}

fn at(position: u64) -> Position {
    Position::new(position)
}

/// All readers and storage are done with everything.
fn let_go(window: &mut Window<Vec<u8>>) {
    let end = window.end();
    window.release(end);
    window.set_written(end);
}

fn contents(log: &impl Log, from: Position) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut position = from;
    while position < log.end() {
        let run = log.read(position);
        assert!(!run.is_empty());
        bytes.extend_from_slice(run);
        position = position.plus(run.len() as u64);
    }
    assert_eq!(position, log.end());
    bytes
}

#[test]
fn a_window_refuses_memory_it_cannot_use() {
    let new = |len, frame, segment| Window::new(vec![0; len], frame, segment).err();
    assert_eq!(new(3 * MTU, MTU, SEGMENT), None);
    assert_eq!(new(3 * MTU - 1, MTU, SEGMENT), Some(WindowError::TooSmall));
    assert_eq!(new(0, MTU, SEGMENT), Some(WindowError::TooSmall));
    let bad_frame = Some(WindowError::BadFrameLength);
    assert_eq!(new(4096, 0, SEGMENT), bad_frame);
    assert_eq!(new(4096, 100, SEGMENT), bad_frame);
    let bad_segment = Some(WindowError::BadSegmentLength);
    assert_eq!(new(4096, MTU, SEGMENT - 1), bad_segment);
    assert_eq!(new(4096, MTU, SEGMENT / 2), bad_segment);
}

#[test]
fn a_full_window_refuses_and_changes_nothing() {
    let mut log = window();
    while append(&mut log, T1, &[&[1; 90]], MTU).is_ok() {}
    assert_eq!(log.end(), at(CAPACITY as u64));
    let before = log.clone();
    let long = [7; 500];
    assert_eq!(append(&mut log, T1, &[&long], MTU), Err(AppendError::Full));
    assert_eq!(log, before);
    let end = log.end();
    assert!(log.room(end).is_empty());

    // Neither reader nor storage alone makes room.
    log.release(end);
    assert_eq!(append(&mut log, T1, &[&long], MTU), Err(AppendError::Full));
    log.set_written(at(1280));
    append(&mut log, T1, &[&long], MTU).expect("room now");
    assert!(log.start() > Position::ZERO && log.start() <= at(1280));
    assert!(log.read(Position::ZERO).is_empty());
}

#[test]
fn behind_the_last_segment_that_a_frame_can_name_is_no_room() {
    for (len, fits) in [(90, 4), (400, 1), (2_000, 0)] {
        let start = last_end(SEGMENT).minus(512);
        let mut log = window_at(start);
        let message = vec![7; len];
        for _ in 0..fits {
            append(&mut log, T1, &[&message], MTU).expect("room");
        }
        let refused = append(&mut log, T1, &[&message], MTU);
        assert_eq!(refused, Err(AppendError::Full));
        // What was let in can be read.
        let bytes = contents(&log, start);
        let frames = Frames::new(&bytes, start, SEGMENT).chained(0);
        assert_eq!(frames.filter(FrameRef::begins).count(), fits);
    }
}

#[test]
fn bytes_in_flight_to_storage_are_no_room() {
    let mut log = window();
    append(&mut log, T1, &[&[1; 500]], MTU).expect("room");
    let end = log.end();
    log.set_writing(Some(Span::new(Position::ZERO, end)));
    log.truncate(at(256)).expect("a boundary");
    assert!(log.room(at(256)).is_empty());
    assert_eq!(append(&mut log, T2, &[b"x"], MTU), Err(AppendError::Full));
    log.set_writing(None);
    assert!(append(&mut log, T2, &[b"x"], MTU).is_ok());
}

#[test]
fn a_message_too_long_or_on_an_unknown_chain_is_refused() {
    let mut log = window();
    let long = vec![0; crate::limits::MESSAGE_MAX];
    let refused = append(&mut log, T1, &[&long, b"x"], MTU);
    assert_eq!(refused, Err(AppendError::TooLong));
    log.load(at(1024), None, T1).expect("a boundary");
    let refused = append(&mut log, T1, &[b"x"], MTU);
    assert_eq!(refused, Err(AppendError::ChainUnknown));
    assert!(!log.set_chain(at(992), 5));
    assert!(log.set_chain(at(1024), 5));
    assert!(append(&mut log, T1, &[b"x"], MTU).is_ok());
}

#[test]
fn a_truncation_pulls_everything_back_to_a_frame_boundary() {
    let mut log = window();
    let first = append(&mut log, T1, &[b"one"], MTU).expect("room");
    let chain = log.chain();
    let second = append(&mut log, T1, &[b"two"], MTU).expect("room");
    log.set_written(second.end);
    log.truncate(second.start).expect("a boundary");
    assert_eq!((log.end(), log.chain()), (first.end, chain));
    assert_eq!(log.written(), first.end);
    log.set_written(second.end);
    assert_eq!(log.written(), first.end, "a late word from storage");
    assert_eq!(log.take_cut(), Some(first.end));
    assert_eq!(log.take_cut(), None);
    append(&mut log, T2, &[b"2"], MTU).expect("room");
    assert_eq!(log.chain_at(first.end), chain);
}

#[test]
fn our_own_mistakes_are_refused_and_change_nothing() {
    let mut log = window();
    append(&mut log, T1, &[&[0; 100]], MTU).expect("room");
    append(&mut log, T1, &[&[0; 100]], MTU).expect("room");
    let before = log.clone();
    // In mid-frame, in mid-alignment, behind the end.
    for end in [32, 192, 7, 352] {
        assert_eq!(log.truncate(at(end)), Err(Broken::Cut), "{end}");
    }
    // Below the end, where no frame can end, more than the window holds, and across a lap.
    for end in [288, 321, 320 + log.capacity(), 1 << 40] {
        assert_eq!(log.publish(at(end), 1), Err(Broken::Publish), "{end}");
    }
    for from in [288, 321] {
        assert!(log.room(at(from)).is_empty(), "{from}");
    }
    assert_eq!(log.load(at(33), None, T1), Err(WindowError::BadStart));
    assert_eq!(append(&mut log, T1, &[b"x"], 63), Err(AppendError::BadMtu));
    assert_eq!(encoded_len(at(0), 1, 63, SEGMENT), None);
    assert_eq!(log, before);
}

#[test]
fn every_boundary_of_a_long_log_reads_as_it_was_written() {
    for seed in 0..40 {
        let mut prng = Prng::new(seed);
        let mut log = window_at(at(prng.below(8) * 32 * 77));
        let first = log.start();
        let mut whole = Vec::new();
        let mut frames = Vec::new();
        for n in 0..600 {
            let message = vec![n as u8; prng.below(700) as usize];
            let end = log.end();
            let Ok(span) = append(&mut log, T1, &[&message], MTU) else {
                let_go(&mut log);
                continue;
            };
            let len = encoded_len(end, message.len(), MTU, SEGMENT);
            assert_eq!((span.start, Some(span.len())), (end, len));
            let new = contents(&log, span.start);
            for frame in split(&new, span.start) {
                frames.push(frame);
            }
            whole.extend_from_slice(&new);
            if prng.below(20) == 0 && frames.len() > 2 {
                let (cut, chain) = frames[frames.len() - 2];
                if cut >= log.start() {
                    frames.truncate(frames.len() - 1);
                    log.truncate(cut).expect("a boundary");
                    assert_eq!(log.take_cut(), Some(cut));
                    whole.truncate(cut.since(first) as usize);
                    assert_eq!(log.chain(), Some(chain));
                }
            }
            for (boundary, chain) in frames.iter().filter(|f| f.0 >= log.start()) {
                let from = boundary.since(first) as usize;
                assert_eq!(contents(&log, *boundary), whole[from..], "seed {seed}");
                assert_eq!(log.chain_at(*boundary), Some(*chain));
            }
        }
        assert!(whole.len() > SEGMENT as usize);
    }
}

/// The ends of the frames in `bytes`, with their chains; segments do not matter to it.
fn split(bytes: &[u8], start: Position) -> Vec<(Position, u32)> {
    let mut found = Vec::new();
    let mut from = 0;
    while from < bytes.len() {
        let position = start.plus(from as u64);
        let mut frames = Frames::new(&bytes[from..], position, SEGMENT).verified();
        let frame = frames.next().expect("good");
        found.push((frame.end(), frame.chain));
        from += frame.aligned_len;
    }
    found
}

#[test]
fn only_a_frame_boundary_of_that_term_is_answered() {
    let mut log = window();
    append(&mut log, T1, &[&[0; 1000]], MTU).expect("room");
    for position in (0..1200).step_by(8).map(at) {
        let is_boundary = position.get() % 256 == 0 && position < log.end();
        assert_eq!(boundary(&log, position, None).is_some(), is_boundary);
        assert_eq!(boundary(&log, position, Some(T1)).is_some(), is_boundary);
        assert_eq!(boundary(&log, position, Some(T2)), None);
    }
}

#[test]
fn a_run_is_whole_frames_of_one_term_in_one_segment() {
    let mut log = window_at(at(u64::from(SEGMENT) - 1024));
    let start = log.start();
    for term in [T1, T1, T2] {
        append(&mut log, term, &[&[0; 64]], MTU).expect("room");
    }
    append(&mut log, T2, &[&[0; 650]], MTU).expect("room");
    let bytes = log.read(start);
    assert_eq!(run(bytes, start, 1408, SEGMENT), 192, "the term ends");
    assert_eq!(run(bytes, start, 191, SEGMENT), 96);
    assert_eq!(run(bytes, start, 95, SEGMENT), 0);
    let second = start.plus(192);
    let rest = log.read(second);
    let len = run(rest, second, 1408, SEGMENT);
    let end = second.plus(len as u64);
    assert_eq!(len, 96 + 2 * 256, "a PAD comes after it");
    let pad = log.read(end);
    assert_eq!(run(pad, end, 1408, SEGMENT), 224);
    for room in (0..224).step_by(32) {
        let none = run(&pad[..room], end, 1408, SEGMENT);
        assert_eq!(none, 0, "of its {room} bytes only");
    }
    assert_eq!(sent(pad).len(), 32);
}

#[test]
fn messages_come_out_as_they_went_in() {
    let mut prng = Prng::new(9);
    let mut log = window();
    let mut messages = Messages::new();
    let mut assembly = vec![0; 2048];
    let mut position = log.start();
    let mut expected = Vec::new();
    let mut count = 0;
    for n in 0..2000u32 {
        let message: Vec<u8> = (0..prng.below(1500))
            .map(|i| (i as u32 + n) as u8)
            .collect();
        let (a, b) = message.split_at(prng.below(message.len() as u64 + 1) as usize);
        if let Ok(span) = append(&mut log, T1, &[a, b], MTU) {
            expected.push((span.end, message));
        }
        while position < log.end() {
            for frame in Frames::new(log.read(position), position, SEGMENT).verified() {
                position = frame.end();
                if let Some(message) = messages.push(frame, &mut assembly) {
                    let (end, bytes) = expected.remove(0);
                    assert_eq!((message.end, message.bytes), (end, &bytes[..]));
                    count += 1;
                }
            }
        }
        assert!(expected.is_empty());
        let_go(&mut log);
    }
    assert!(count > 1900 && log.end() > at(10 * u64::from(SEGMENT)));
}

#[test]
fn an_unfinished_message_ends_with_its_term() {
    let mut log = window();
    append(&mut log, T1, &[&[1; 600]], MTU).expect("room");
    log.truncate(at(256)).expect("a boundary");
    append(&mut log, T2, &[&[2; 300]], MTU).expect("room");
    let mut messages = Messages::new();
    let mut assembly = [0; 1024];
    let mut found = Vec::new();
    let bytes = contents(&log, Position::ZERO);
    for frame in Frames::new(&bytes, Position::ZERO, SEGMENT) {
        if let Some(message) = messages.push(frame, &mut assembly) {
            found.push((message.start, message.bytes.to_vec()));
        }
        if frame.position == Position::ZERO {
            assert_eq!(messages.unfinished_since(), Some(Position::ZERO));
        }
    }
    assert_eq!(found, [(at(256), vec![2; 300])]);

    // The tail of a message whose BEGIN was never seen is nothing, nor is one that does not fit.
    let mut messages = Messages::new();
    let last = |frame: &FrameRef<'_>| frame.position >= at(512);
    for frame in Frames::new(&bytes, Position::ZERO, SEGMENT).filter(last) {
        assert_eq!(messages.push(frame, &mut assembly), None);
    }
    for frame in Frames::new(&bytes, Position::ZERO, SEGMENT) {
        assert_eq!(messages.push(frame, &mut assembly[..299]), None);
    }
}

/// A leader's log of `count` messages as datagrams, and its bytes.
fn datagrams(prng: &mut Prng, count: u32) -> (Vec<Vec<u8>>, Vec<u8>, History<8>) {
    let (mut log, mut history) = (window(), History::new());
    let (mut sends, mut whole) = (Vec::new(), Vec::new());
    for n in 0..count {
        let term = Term::new(1 + n / 40);
        let message = vec![n as u8; prng.below(600) as usize];
        let span = append(&mut log, term, &[&message], MTU).expect("let go each time");
        assert!(history.push(term, span.start, span.end));
        let mut position = span.start;
        while position < span.end {
            let bytes = log.read(position);
            let len = run(bytes, position, 2 * MTU, SEGMENT);
            sends.push(sent(&bytes[..len]).to_vec());
            whole.extend_from_slice(&bytes[..len]);
            position = position.plus(len as u64);
        }
        let_go(&mut log);
    }
    (sends, whole, history)
}

#[test]
fn frames_may_come_in_any_order_any_number_of_times() {
    for seed in 0..20 {
        let mut prng = Prng::new(seed);
        let (sends, whole, history) = datagrams(&mut prng, 300);
        let mut log = window();
        let mut gaps = Gaps::<6>::new();
        let mut got = Vec::new();
        let mut first_missing = 0;
        let mut sum = Received::default();
        let mut rounds = 0;
        while got.len() < whole.len() {
            rounds += 1;
            assert!(rounds < 100_000, "seed {seed} is stuck at {}", got.len());
            let ahead = prng.below(12) as usize;
            let index = (first_missing + ahead).saturating_sub(3);
            let mut datagram = sends[index.min(sends.len() - 1)].clone();
            if prng.below(8) == 0 {
                let byte = prng.below(datagram.len() as u64) as usize;
                datagram[byte] ^= 1 << prng.below(8);
            }
            let before = log.end();
            let received = receive(&mut log, &mut gaps, &datagram, |p| history.term_at(p));
            sum.ahead += received.ahead;
            sum.duplicates += received.duplicates;
            sum.no_room += received.no_room;
            got.extend(contents(&log, before));
            while first_missing < sends.len() {
                let stated = scan::stated_position(&sends[first_missing], SEGMENT);
                if stated.is_none_or(|s| s >= log.end()) {
                    break;
                }
                first_missing += 1;
            }
            if prng.below(3) == 0 {
                let_go(&mut log);
            }
        }
        assert_eq!(got, whole, "seed {seed}");
        assert!(sum.ahead > 50 && sum.duplicates > 50 && sum.no_room > 0);
        assert!(gaps.is_empty());
    }
}

#[test]
fn bytes_of_another_term_or_another_past_do_not_land() {
    let mut leader = window();
    append(&mut leader, T1, &[b"one"], MTU).expect("room");
    append(&mut leader, T2, &[b"two"], MTU).expect("room");
    let bytes = leader.read(Position::ZERO);
    let (one, two) = bytes.split_at(64);
    let in_t1 = |_| Some(T1);
    let in_order = |p: Position| Some(if p < at(64) { T1 } else { T2 });

    let (mut log, mut gaps) = (window(), Gaps::<4>::new());
    let received = receive(&mut log, &mut gaps, two, in_t1);
    assert_eq!((received.wrong_term, received.ahead), (1, 0));
    assert!(gaps.is_empty());

    // The same positions and terms, after another past.
    let (mut log, mut gaps) = (window(), Gaps::<4>::new());
    append(&mut log, T1, &[b"other"], MTU).expect("room");
    let received = receive(&mut log, &mut gaps, two, in_order);
    assert_eq!((received.mismatched, received.published), (1, 0));

    // It lands ahead, is found out when the hole fills, and is a hole again.
    let (mut log, mut gaps) = (window(), Gaps::<4>::new());
    let mut other = window();
    append(&mut other, T1, &[b"other"], MTU).expect("room");
    assert_eq!(receive(&mut log, &mut gaps, two, in_order).ahead, 1);
    let other = other.read(Position::ZERO);
    let received = receive(&mut log, &mut gaps, other, in_order);
    assert_eq!((received.mismatched, received.published), (1, 64));
    assert_eq!(
        gaps.first_hole(log.end(), at(128)),
        Some(Span::new(at(64), at(128)))
    );

    // What is not known to be the leader's waits.
    let (mut log, mut gaps) = (window(), Gaps::<4>::new());
    let received = receive(&mut log, &mut gaps, one, |_| None);
    assert_eq!((received.ahead, log.end()), (1, Position::ZERO));
    let mut more = Received::default();
    publish_landed(&mut log, &mut gaps, in_order, &mut more);
    assert_eq!((more.published, log.end()), (64, at(64)));
}

#[test]
fn any_bytes_are_received_without_a_panic() {
    let mut prng = Prng::new(77);
    let (sends, _, history) = datagrams(&mut prng, 60);
    let (mut log, mut gaps) = (window(), Gaps::<4>::new());
    for _ in 0..20_000 {
        let mut datagram = sends[prng.below(sends.len() as u64) as usize].clone();
        for _ in 0..prng.below(4) {
            let header = datagram.len().min(32) as u64;
            datagram[prng.below(header) as usize] = prng.next() as u8;
        }
        datagram.truncate(1 + prng.below(datagram.len() as u64) as usize);
        let end = log.end();
        receive(&mut log, &mut gaps, &datagram, |p| history.term_at(p));
        split(&contents(&log, end), end);
        let_go(&mut log);
    }
}

/// A chain is in no frame's own checksum: where it has rotten only the frames beside it show it.
#[test]
fn a_frame_whose_chain_has_rotten_is_not_sound() {
    let mut log = window();
    for byte in 0..3 {
        append(&mut log, T1, &[&[byte; 30]], MTU).unwrap();
    }
    let bytes = contents(&log, at(0));
    let sound = |bytes: &[u8], from: usize| {
        let rest = &bytes[from..];
        let sound = scan::sound(rest, rest.len(), at(from as u64), None, SEGMENT);
        sound.map_or(0, |sound| sound.len)
    };
    assert_eq!(sound(&bytes, 0), 192);
    // That the second does not follow the first says of neither that it is the sound one.
    for (frame, before) in [(0, 0), (1, 0), (2, 128)] {
        let mut rotten = bytes.clone();
        rotten[64 * frame + 29] ^= 0xff;
        assert_eq!(sound(&rotten, 0), before, "{frame}");
    }
    let mut rotten = bytes.clone();
    rotten[64 + 29] ^= 0xff;
    assert_eq!(sound(&rotten, 64), 0, "it does not lead on");
    assert_eq!(sound(&rotten, 128), 64);
    rotten[64 + 40] ^= 1;
    assert_eq!(sound(&rotten, 64), 0, "by its own checksum");
}

/// Between two bad frames, or at the end of what was read, nothing beside a frame says that its
/// chain is as it was written; what stood before it does, if that is known.
#[test]
fn a_frame_alone_is_borne_out_by_the_chain_before_it() {
    let mut log = window();
    let first = append(&mut log, T1, &[&[0; 30]], MTU).unwrap().end;
    let before = log.chain();
    append(&mut log, T1, &[&[1; 30]], MTU).unwrap();
    let bytes = &contents(&log, first)[..64];
    let sound = |bytes: &[u8], before| {
        let sound = scan::sound(bytes, bytes.len(), first, before, SEGMENT);
        sound.map(|sound| (sound.len, sound.is_borne_out))
    };
    assert_eq!(sound(bytes, None), Some((64, false)));
    assert_eq!(sound(bytes, before), Some((64, true)));
    let mut rotten = bytes.to_vec();
    rotten[28] ^= 0xff;
    assert_eq!(sound(&rotten, None), Some((64, false)));
    assert_eq!(sound(&rotten, before), None);
}
