//! What the two halves do for one another, one story each.

use super::std::vec;
use super::std::vec::Vec;
use core::time::Duration;

use super::*;
use crate::prng::Prng;

fn messages(prng: &mut Prng, count: usize, longest: u64) -> Vec<Vec<u8>> {
    (0..count)
        .map(|_| {
            // Mostly small, some as large as can be.
            let bound = 1 + prng.below(longest);
            let len = 1 + prng.below(bound) as usize;
            (0..len).map(|_| prng.next() as u8).collect()
        })
        .collect()
}

#[test]
fn every_message_arrives_once_in_order_and_byte_for_byte() {
    let windows = [(131_072, 131_072), (131_072, 2048), (131_072, 16_384)];
    for seed in 0..8 {
        for (send, receive) in windows {
            let mut world = World::new(seed, BAD, send, receive);
            let sent = messages(&mut Prng::new(seed ^ 0xA5), 80, 64 * 1024);
            let received = world.exchange(&sent, 400_000);
            assert_eq!(received.len(), sent.len(), "seed {seed} window {receive}");
            assert!(received == sent, "seed {seed} window {receive}");
        }
    }
}

#[test]
fn segment_ends_are_padded_and_small_windows_jump_over_them() {
    for (seed, receive) in (0..60).map(|s| (s, 512usize << (s % 6))) {
        // 200 messages of up to 4 KiB cross ends of 64 KiB segments.
        let config = config(1 << 16, 512);
        let mut world = World::with(seed, BAD, &config, 16_384, receive);
        let sent = messages(&mut Prng::new(seed), 200, 4096);
        let received = world.exchange(&sent, 400_000);
        assert!(received == sent, "seed {seed}");
        assert!(world.picture.contains("PAD"));
        assert!(world.publication.tail() > Position::new(1 << 16));
    }
}

#[test]
fn a_slow_consumer_closes_the_window_and_nothing_is_lost() {
    let mut world = World::new(9, CLEAN, 65_536, 4096);
    world.reads = false;
    let sent = messages(&mut Prng::new(9), 500, 900);
    let mut received = world.exchange(&sent, 2000);
    assert!(received.is_empty());
    let pending = world.publication.pending();
    assert!(
        pending > 64_000 - 2048,
        "the sender's slot is full: {pending}"
    );
    let image = world.image.as_ref().unwrap();
    assert_eq!(image.dropped(), 0);
    assert!(image.received().get() <= 4096);
    let offered = world.publication.offer(&[&[0; 2048]], &mut world.send_slot);
    assert_eq!(offered, Err(OfferError::BackPressured));
    // Once it reads again, all that was accepted arrives.
    world.reads = true;
    let accepted = world.publication.tail();
    for _ in 0..5000 {
        world.turn(&mut received);
        world.advance(Duration::from_millis(500));
    }
    assert!(sent.starts_with(&received) && received.len() > 100);
    assert_eq!(world.image.as_ref().unwrap().consumed(), accepted);
    assert!(world.publication.is_drained());
}

#[test]
fn the_first_datagrams_are_aerons() {
    let mut world = World::with(1, CLEAN, &config(1 << 16, 1408), 16_384, 16_384);
    let sent = vec![b"hello".to_vec(), vec![7; 3000], b"end".to_vec()];
    assert_eq!(world.exchange(&sent, 20), sent);
    world.publication.close(world.now);
    for _ in 0..8 {
        world.turn(&mut Vec::new());
        world.advance(Duration::from_millis(100));
    }
    // id/offset of segments; offset+length:flags of frames. The first id is i32::MAX - 1.
    let expected = "\
-> SETUP 2147483646/0
<- SM 2147483646/0 +16384 00
-> DATA 0+37:c0
-> DATA 64+1408:80
-> DATA 1472+1408:00
-> DATA 2880+280:40 3168+35:c0
-> HEARTBEAT 3232 EOS
";
    assert!(world.picture.starts_with(expected), "{}", world.picture);
    let state = world.image.as_ref().map(|i| i.state(world.now));
    assert_eq!(state, Some(ImageState::Ended));
}

#[test]
fn a_lost_last_datagram_is_found_by_the_heartbeat() {
    let mut world = World::with(1, CLEAN, &config(1 << 16, 1408), 16_384, 16_384);
    assert_eq!(world.exchange(&[b"first".to_vec()], 20).len(), 1);
    world.picture.clear();
    world
        .publication
        .offer(&[b"second"], &mut world.send_slot)
        .unwrap();
    world.faults.lose = 100;
    world.turn(&mut Vec::new());
    world.faults.lose = 0;
    let mut received = Vec::new();
    for _ in 0..20 {
        world.advance(Duration::from_secs(1));
        world.turn(&mut received);
    }
    assert_eq!(received, [b"second"]);
    let expected = "\
-> DATA 64+38:c0
<- SM 2147483646/64 +16384 00
-> HEARTBEAT 128
<- NAK 64+64
-> DATA 64+38:c0
";
    assert!(world.picture.starts_with(expected), "{}", world.picture);
}

#[test]
fn a_restarted_receiver_asks_for_setup_and_skips_to_the_next_message() {
    let mut world = World::new(3, CLEAN, 65_536, 2048);
    world.reads = false;
    let long = vec![1; 5000];
    assert!(world.exchange(&[long], 100).is_empty());
    world.image = None;
    world.reads = true;
    let next = b"after".to_vec();
    let received = world.exchange(core::slice::from_ref(&next), 3000);
    assert_eq!(received, [next], "{}", world.picture);
    assert!(world.picture.contains("<- SM 0/0 +0 80\n-> SETUP"));
}

#[test]
fn without_status_messages_the_receiver_is_gone() {
    let mut world = World::new(3, CLEAN, 65_536, 2048);
    assert_eq!(world.exchange(&[b"one".to_vec()], 100).len(), 1);
    assert!(world.publication.is_connected());
    world.faults.lose = 100;
    for _ in 0..400 {
        world.turn(&mut Vec::new());
        world.advance(Duration::from_millis(100));
    }
    assert!(!world.publication.is_connected());
    let offered = world.publication.offer(&[b"two"], &mut world.send_slot);
    assert_eq!(offered, Err(OfferError::NotConnected));
    let state = world.image.as_ref().map(|i| i.state(world.now));
    assert_eq!(state, Some(ImageState::Lost));
    assert!(
        world
            .image
            .as_mut()
            .unwrap()
            .poll_control(world.now)
            .is_none()
    );
}

#[test]
fn a_closing_receiver_disconnects_at_once() {
    let mut world = World::new(3, CLEAN, 65_536, 2048);
    assert_eq!(world.exchange(&[b"one".to_vec()], 100).len(), 1);
    world.image.as_mut().unwrap().close(world.now);
    for _ in 0..3 {
        world.turn(&mut Vec::new());
        world.advance(Duration::from_micros(100));
    }
    assert!(!world.publication.is_connected());
}

/// A receiver tells of a quarter of its own window: of more than a narrow stream's can hold.
#[test]
fn what_a_narrow_stream_has_unsaid_counts_as_unread_before_it_is_full() {
    for (slot_len, receiver, unsaid) in [(8704, 32_768, 4096), (65_536, 4096, 1024)] {
        let config = config(1 << 16, 512);
        let mut publication = Publication::new(Instant::default(), &config, slot_len).unwrap();
        let mut slot = vec![0; slot_len];
        let sm = StatusMessage {
            flags: 0,
            session_id: SESSION,
            stream_id: STREAM,
            term_id: i32::MAX - 1,
            term_offset: 0,
            window: receiver,
            receiver_id: 1,
            group_tag: None,
        };
        let now = Instant::from_nanos(1);
        publication.handle_status(now, &sm).unwrap();
        while publication.tail() < Position::new(unsaid) {
            assert!(!publication.is_unread(), "{}", publication.tail());
            publication.offer(&[&[1; 96]], &mut slot).unwrap();
        }
        assert!(!publication.is_unread());
        publication.offer(&[&[1; 96]], &mut slot).unwrap();
        assert!(publication.is_unread());
    }
}

#[test]
fn a_zero_window_stops_the_sender_and_never_takes_back_what_was_granted() {
    let mut publication =
        Publication::new(Instant::default(), &config(1 << 16, 512), 8192).unwrap();
    let mut slot = vec![0; 8192];
    let now = Instant::from_nanos(1);
    let sm = |window| StatusMessage {
        flags: 0,
        session_id: SESSION,
        stream_id: STREAM,
        term_id: i32::MAX - 1,
        term_offset: 0,
        window,
        receiver_id: 1,
        group_tag: None,
    };
    assert!(matches!(
        publication.poll_transmit(now, &slot),
        Some(Output::Control(_))
    ));
    publication.handle_status(now, &sm(0)).unwrap();
    publication.offer(&[&[1; 100]], &mut slot).unwrap();
    assert_eq!(publication.poll_transmit(now, &slot), None);
    publication.handle_status(now, &sm(512)).unwrap();
    publication.handle_status(now, &sm(0)).unwrap();
    assert!(matches!(
        publication.poll_transmit(now, &slot),
        Some(Output::Frames(_))
    ));
    let mut beyond = sm(512);
    beyond.term_offset = 1024;
    assert_eq!(
        publication.handle_status(now, &beyond),
        Err(StatusReject::Position)
    );
}

#[test]
fn a_request_in_mid_frame_or_out_of_range_is_refused() {
    let mut world = World::new(3, CLEAN, 65_536, 2048);
    world.reads = false;
    world.exchange(&[vec![3; 1000]], 50);
    let ask = |world: &mut World, term_offset, length| {
        let nak = Nak {
            session_id: SESSION,
            stream_id: STREAM,
            term_id: i32::MAX - 1,
            term_offset,
            length,
        };
        world
            .publication
            .handle_nak(world.now, &nak, &world.send_slot)
    };
    assert_eq!(ask(&mut world, 32, 64), Err(StatusReject::Position));
    assert_eq!(ask(&mut world, 2048, 64), Err(StatusReject::Position));
    assert_eq!(ask(&mut world, 0, 0), Ok(()));
    let sent = world.publication.poll_transmit(world.now, &world.send_slot);
    assert!(matches!(sent, Some(Output::Frames(f)) if f.len() == 1056));
    // While the first answer lingers, the same request is ignored.
    assert_eq!(ask(&mut world, 0, 64), Ok(()));
    assert_eq!(
        world.publication.poll_transmit(world.now, &world.send_slot),
        None
    );
}

#[test]
fn hostile_datagrams_change_nothing_they_should_not() {
    for seed in 0..30 {
        let mut prng = Prng::new(seed);
        let mut world = World::new(seed, CLEAN, 65_536, 4096);
        let sent = messages(&mut Prng::new(seed), 20, 2000);
        let mut good = Vec::new();
        world.exchange(&sent[..1], 50);
        for _ in 0..3000 {
            let mut bytes: Vec<u8> = (0..prng.below(120)).map(|_| prng.next() as u8).collect();
            let output = world.publication.poll_transmit(world.now, &world.send_slot);
            if let Some(Output::Frames(frames)) = output {
                good = frames.to_vec();
            }
            if prng.below(2) == 0 && !good.is_empty() {
                bytes = good.clone();
                let at = prng.below(bytes.len().min(40) as u64) as usize;
                bytes[at] ^= 1 << prng.below(8);
            }
            let Ok(frame) = parse_datagram(&bytes) else {
                continue;
            };
            let image = world.image.as_mut().unwrap();
            match frame {
                Frame::Data(d) => {
                    let _any = image.handle_data(world.now, &d, &mut world.receive_slot);
                }
                Frame::StatusMessage(sm) => {
                    let _any = world.publication.handle_status(world.now, &sm);
                }
                Frame::Nak(nak) => {
                    let _any = world
                        .publication
                        .handle_nak(world.now, &nak, &world.send_slot);
                }
                Frame::Setup(setup) => {
                    let len = prng.below(5000) as usize;
                    let timing = ImageTiming::DEFAULT;
                    let _any = Image::new(world.now, address(2), &setup, 5, len, timing);
                }
                _ => {}
            }
            image.consume(&world.receive_slot);
            while image.poll_control(world.now).is_some() {}
            assert!(image.consumed() <= image.received());
            world.now = world.now.plus(Duration::from_millis(1));
            let _any = world.publication.offer(&[&[1; 700]], &mut world.send_slot);
        }
    }
}

#[test]
fn an_echo_is_given_for_a_round_trip_measurement() {
    let mut world = World::new(3, CLEAN, 65_536, 2048);
    world.exchange(&[b"one".to_vec()], 100);
    let ask = Rttm {
        reply: true,
        session_id: SESSION,
        stream_id: STREAM,
        echo_timestamp: 12,
        reception_delta: 3,
        receiver_id: 5,
    };
    let echo = Rttm {
        reply: false,
        reception_delta: 0,
        ..ask
    };
    world.publication.handle_rttm(&ask);
    let sent = world.publication.poll_transmit(world.now, &world.send_slot);
    assert_eq!(sent, Some(Output::Control(Control::Rttm(echo))));
    // An echo is not echoed.
    world.publication.handle_rttm(&echo);
    let sent = world.publication.poll_transmit(world.now, &world.send_slot);
    assert!(!matches!(sent, Some(Output::Control(Control::Rttm(_)))));
}

/// An image that joined at the start of the stream, with a window of 1 KiB, and its slot.
fn image_of_1_kib() -> (Image, Vec<u8>) {
    let mut publication =
        Publication::new(Instant::default(), &config(1 << 16, 256), 8192).unwrap();
    let Some(Output::Control(Control::Setup(setup))) =
        publication.poll_transmit(Instant::default(), &[])
    else {
        panic!("a publication begins with its SETUP");
    };
    let slot = vec![0xEE; slot_len(1024, 256)];
    let (now, timing) = (Instant::default(), ImageTiming::DEFAULT);
    let image = Image::new(now, address(2), &setup, 5, slot.len(), timing).unwrap();
    (image, slot)
}

/// A datagram of one frame.
fn frame(term_offset: i32, flags: u8, payload: &[u8]) -> Vec<u8> {
    let mut header = DataHeader::message(SESSION, STREAM, payload.len()).unwrap();
    header.term_id = i32::MAX - 1;
    header.term_offset = term_offset;
    header.flags = flags;
    let mut bytes = vec![0; header.aligned_len()];
    header.emit(&mut bytes).unwrap();
    bytes[32..32 + payload.len()].copy_from_slice(payload);
    bytes
}

fn give(image: &mut Image, bytes: &[u8], slot: &mut [u8]) -> Result<(), DataReject> {
    let Ok(Frame::Data(datagram)) = parse_datagram(bytes) else {
        panic!("not data");
    };
    image.handle_data(Instant::default(), &datagram, slot)
}

#[test]
fn bytes_beyond_the_window_are_dropped_and_counted() {
    let (mut image, mut slot) = image_of_1_kib();
    let before = slot.clone();
    let outside = Err(DataReject::OutOfWindow);
    assert_eq!(
        give(&mut image, &frame(1024, 0xc0, &[1; 8]), &mut slot),
        outside
    );
    assert_eq!(
        give(&mut image, &frame(992, 0xc0, &[1; 8]), &mut slot),
        outside
    );
    assert_eq!((image.dropped(), &slot), (2, &before));
    assert_eq!(
        give(&mut image, &frame(960, 0xc0, &[1; 8]), &mut slot),
        Ok(())
    );
    // A frame that overlaps one that is there is no part of this stream.
    assert_eq!(
        give(&mut image, &frame(928, 0xc0, &[2; 40]), &mut slot),
        Ok(())
    );
    assert_eq!(
        give(&mut image, &frame(0, 0xc0, &[2; 8 + 200]), &mut slot),
        Ok(())
    );
    assert_eq!(image.received().get(), 256);
    let too_long = Err(DataReject::Malformed);
    assert_eq!(
        give(&mut image, &frame(256, 0xc0, &[2; 240]), &mut slot),
        too_long
    );
}

#[test]
fn who_joins_in_mid_message_sees_the_next_one_first() {
    let (mut image, mut slot) = image_of_1_kib();
    give(&mut image, &frame(0, 0x00, b"middle"), &mut slot).unwrap();
    give(&mut image, &frame(64, 0x40, b"end"), &mut slot).unwrap();
    assert_eq!(image.peek(&slot), None);
    assert_eq!(image.consumed().get(), 128);
    give(&mut image, &frame(128, 0x80, b"begin"), &mut slot).unwrap();
    let fragment = image.peek(&slot).unwrap();
    assert_eq!(
        (fragment.payload, fragment.is_begin()),
        (&b"begin"[..], true)
    );
    // From now on every fragment counts.
    image.consume(&slot);
    give(&mut image, &frame(192, 0x40, b"end"), &mut slot).unwrap();
    assert!(image.peek(&slot).is_some_and(|fragment| fragment.is_end()));
}

#[test]
fn a_small_window_opens_again_as_soon_as_it_is_consumed() {
    let mut world = World::new(4, CLEAN, 65_536, 2048);
    let sent = vec![vec![5; 1000]; 200];
    let start = world.now;
    assert_eq!(world.exchange(&sent, 20_000), sent);
    // 200 kB in windows of 2 KiB and round trips of 100 us: not 100 times 200 ms.
    let took = world.now.since(start);
    assert!(took < Duration::from_millis(200), "{took:?}");
}

#[test]
fn the_pad_before_a_new_segment_takes_only_its_header() {
    let mut world = World::with(3, CLEAN, &config(1 << 16, 1408), 16_384, 16_384);
    // 64 bytes before the end of the segment, with everything consumed.
    let filler = vec![vec![0; 5 * 1376]; 9];
    assert_eq!(world.exchange(&filler, 2000).len(), 9);
    let rest = 65_536 - world.publication.tail().get() as usize - 64;
    assert_eq!(world.exchange(&[vec![0; rest - 2 * 32]], 2000).len(), 1);
    world.run_dry();
    let start = world.publication.tail();
    assert_eq!((start.get(), world.publication.pending()), (65_472, 0));
    let offered = world.publication.offer(&[&[1; 1376]], &mut world.send_slot);
    assert_eq!(offered, Ok(Position::new(65_536 + 1408)));
    assert_eq!(world.publication.pending(), 32 + 1408);
    // A position inside the PAD is none that a receiver can have consumed to.
    let mut inside = StatusMessage {
        flags: 0,
        session_id: SESSION,
        stream_id: STREAM,
        term_id: i32::MAX - 1,
        term_offset: 65_504,
        window: 16_384,
        receiver_id: 5,
        group_tag: None,
    };
    while world
        .publication
        .poll_transmit(world.now, &world.send_slot)
        .is_some()
    {}
    let status = world.publication.handle_status(world.now, &inside);
    assert_eq!(status, Err(StatusReject::Position));
    inside.term_offset = 65_536;
    assert_eq!(world.publication.handle_status(world.now, &inside), Ok(()));
    assert_eq!(world.publication.pending(), 1408);
}

#[test]
fn no_datagram_crosses_the_end_of_a_segment_that_is_full_to_the_last_byte() {
    let mut world = World::with(3, CLEAN, &config(1 << 16, 1408), 16_384, 16_384);
    // The first segment ends with a PAD, so that the second does not end where the ring does.
    let filler = vec![vec![0; 5 * 1376]; 9 + 9];
    assert_eq!(world.exchange(&filler, 4000).len(), 18);
    assert!(world.picture.contains("PAD"));
    let rest = 2 * 65_536 - world.publication.tail().get() as usize;
    assert_eq!(world.exchange(&[vec![0; rest - 64 - 64]], 2000).len(), 1);
    world.picture.clear();
    // 64 bytes are left: one message fills them, the next begins the third segment.
    let sent = [b"last".to_vec(), b"first".to_vec()];
    assert_eq!(world.exchange(&sent, 2000), sent);
    let expected = "-> DATA 65472+36:c0\n-> DATA 0+37:c0\n";
    assert!(world.picture.contains(expected), "{}", world.picture);
}

#[test]
fn both_halves_are_values_that_a_simulator_can_fork() {
    static_assertions::assert_impl_all!(Image: Clone, Eq, core::hash::Hash, Send);
    static_assertions::assert_impl_all!(Publication: Clone, Eq, core::hash::Hash, Send);
    // A thousand sessions have a thousand of each.
    assert!(size_of::<Image>() <= 640 && size_of::<Publication>() <= 512);
}
