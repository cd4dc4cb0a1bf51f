extern crate std;

use std::vec::Vec;

use super::*;
use crate::prng::Prng;
use crate::wire::golden::{damage, golden};

fn emitted(frame: &Frame<'_>) -> Vec<u8> {
    let mut out = [0xee; 2048];
    let len = match frame {
        Frame::Data(datagram) => {
            let mut at = 0;
            for frame in datagram.frames() {
                frame.header.emit(&mut out[at..]).expect("fits");
                let payload = frame.payload();
                out[at + 32..][..payload.len()].copy_from_slice(payload);
                out[at + 32 + payload.len()..at + frame.bytes().len()].fill(0);
                at += frame.bytes().len();
            }
            if datagram.is_heartbeat() {
                at = datagram.first().emit(&mut out).expect("fits");
            }
            at
        }
        Frame::Setup(setup) => setup.emit(&mut out).expect("fits"),
        Frame::StatusMessage(message) => message.emit(&mut out).expect("fits"),
        Frame::Nak(nak) => nak.emit(&mut out).expect("fits"),
        Frame::Rttm(rttm) => rttm.emit(&mut out).expect("fits"),
        Frame::Error(error) => error.emit(&mut out).expect("fits"),
    };
    out[..len].to_vec()
}

fn all() -> [Vec<u8>; 9] {
    [
        golden!("frame_data"),
        golden!("frame_data_run"),
        golden!("frame_heartbeat"),
        golden!("frame_setup"),
        golden!("frame_status_message"),
        golden!("frame_status_message_group"),
        golden!("frame_nak"),
        golden!("frame_rttm"),
        golden!("frame_error"),
    ]
}

#[test]
fn every_golden_frame_is_written_as_it_is_read() {
    for bytes in all() {
        let frame = parse_datagram(&bytes).expect("good");
        assert_eq!(emitted(&frame), bytes, "{frame:?}");
    }
}

#[test]
fn damaged_frames_are_rejects_or_mean_what_they_are_read_as() {
    for bytes in all() {
        damage(&bytes, |damaged| {
            let Ok(frame) = parse_datagram(damaged) else {
                return;
            };
            assert!(!matches!(frame, Frame::Data(_)) || damaged.len() % 32 == 0);
            let again = emitted(&frame);
            let again = parse_datagram(&again).expect("we read what we write");
            if !matches!(frame, Frame::Data(_)) {
                assert_eq!(again, frame);
            }
        });
    }
}

#[test]
fn a_data_frame_is_what_the_offsets_say() {
    let bytes = golden!("frame_data");
    let datagram = Datagram::parse(&bytes).expect("good");
    let expected = DataHeader {
        frame_length: 37,
        flags: FLAGS_WHOLE,
        kind: Kind::Data,
        term_offset: 64,
        session_id: -2,
        stream_id: 101,
        term_id: 7,
        reserved: 0x1122_3344_5566_7788,
    };
    let frames: Vec<_> = datagram.frames().collect();
    assert_eq!(frames.len(), 1);
    assert_eq!(frames[0].header, expected);
    assert_eq!(frames[0].payload(), b"hello");
    assert_eq!(datagram.span(), 64);
}

#[test]
fn a_run_of_frames_ends_with_the_pad_that_jumps() {
    let bytes = golden!("frame_data_run");
    let datagram = Datagram::parse(&bytes).expect("good");
    let seen: Vec<_> = datagram
        .frames()
        .map(|frame| {
            (
                frame.header.kind,
                frame.header.aligned_len(),
                frame.payload().len(),
            )
        })
        .collect();
    let expected = [
        (Kind::Data, 64, 32),
        (Kind::Data, 64, 1),
        (Kind::Pad, 32, 0),
        (Kind::Pad, 96, 0),
    ];
    assert_eq!(seen, expected);
    assert_eq!(datagram.span(), 256);
    assert_eq!(datagram.first().term_offset + 256, 64 * 1024);

    let mut followed = bytes.clone();
    followed.extend_from_slice(&bytes[..64]);
    let offset = (64 * 1024i32).to_le_bytes();
    followed[bytes.len() + 8..][..4].copy_from_slice(&offset);
    assert_eq!(Datagram::parse(&followed), Err(Reject::DatagramShape));
}

#[test]
fn frames_of_one_datagram_follow_one_another() {
    let bytes = golden!("frame_data_run");
    // The second frame's offset, session, stream and term.
    for at in [64 + 9, 64 + 12, 64 + 16, 64 + 20] {
        let mut other = bytes.clone();
        other[at] ^= 0x02;
        assert_eq!(Datagram::parse(&other), Err(Reject::DatagramShape), "{at}");
    }
    for kind in [TYPE_SETUP, 7] {
        let mut other = bytes.clone();
        other[64 + 6..64 + 8].copy_from_slice(&kind.to_le_bytes());
        assert_eq!(Datagram::parse(&other), Err(Reject::UnknownType));
    }
    // The longest and the shortest of 32 bits: of a sum with them a machine may not hold more.
    for length in [i32::MAX, -1, i32::MIN] {
        let mut other = bytes.clone();
        other[64..68].copy_from_slice(&length.to_le_bytes());
        assert_eq!(Datagram::parse(&other), Err(Reject::FrameLength));
    }
    let mut trailing = bytes.clone();
    trailing.push(0);
    assert_eq!(Datagram::parse(&trailing), Err(Reject::Short));
    let mut zero = golden!("frame_data");
    zero.extend_from_slice(&[0; 32]);
    assert_eq!(Datagram::parse(&zero), Err(Reject::FrameLength));
}

#[test]
fn a_heartbeat_has_no_frames() {
    let bytes = golden!("frame_heartbeat");
    let datagram = Datagram::parse(&bytes).expect("good");
    assert!(datagram.is_heartbeat());
    assert!(datagram.first().is_end_of_stream());
    assert_eq!(datagram.frames().count(), 0);
    assert_eq!(datagram.span(), 0);
    let mut long = bytes.clone();
    long.extend_from_slice(&[0; 32]);
    assert_eq!(Datagram::parse(&long), Err(Reject::FrameLength));
}

#[test]
fn control_frames_are_what_the_offsets_say() {
    let setup = Setup {
        flags: FLAG_GROUP,
        term_offset: 1408,
        session_id: -77,
        stream_id: 101,
        initial_term_id: i32::MAX,
        active_term_id: i32::MIN,
        term_length: 65536,
        mtu: 1408,
        ttl: 3,
    };
    assert_eq!(Setup::parse(&golden!("frame_setup")), Ok(setup));
    let status = StatusMessage {
        flags: FLAG_SEND_SETUP,
        session_id: 5,
        stream_id: 102,
        term_id: 8,
        term_offset: 96,
        window: 131_072,
        receiver_id: -6,
        group_tag: None,
    };
    assert_eq!(
        StatusMessage::parse(&golden!("frame_status_message")),
        Ok(status)
    );
    let group = StatusMessage {
        flags: 0,
        term_offset: 0,
        window: 0,
        receiver_id: 77,
        group_tag: Some(-3),
        ..status
    };
    assert_eq!(
        StatusMessage::parse(&golden!("frame_status_message_group")),
        Ok(group)
    );
    let nak = Nak {
        session_id: 4,
        stream_id: 100,
        term_id: 2,
        term_offset: 320,
        length: 2816,
    };
    assert_eq!(Nak::parse(&golden!("frame_nak")), Ok(nak));
    let rttm = Rttm {
        reply: true,
        session_id: 4,
        stream_id: 101,
        echo_timestamp: 1_234_567_890_123,
        reception_delta: -1,
        receiver_id: 42,
    };
    assert_eq!(Rttm::parse(&golden!("frame_rttm")), Ok(rttm));
    let error = ErrFrame {
        session_id: 4,
        stream_id: 101,
        receiver_id: 42,
        group_tag: Some(9),
        code: 11,
        text: b"full!!",
    };
    assert_eq!(ErrFrame::parse(&golden!("frame_error")), Ok(error));
}

#[test]
fn a_setup_that_no_stream_can_have_is_a_reject() {
    let good = golden!("frame_setup");
    for (at, value, reject) in [
        (8, 1409, Reject::Alignment),
        (8, -32, Reject::Alignment),
        (8, 65536, Reject::Value),
        (24, i32::MAX - 1, Reject::Value),
        (28, 65536 + 32, Reject::Value),
        (28, 32768, Reject::Value),
        (28, i32::MIN, Reject::Value),
        (32, 0, Reject::Value),
        (32, 1400, Reject::Alignment),
        (32, 65_536, Reject::Value),
    ] {
        let mut bytes = good.clone();
        bytes[at..at + 4].copy_from_slice(&i32::to_le_bytes(value));
        assert_eq!(Setup::parse(&bytes), Err(reject), "{at} {value}");
    }
}

#[test]
fn an_error_text_that_is_too_long_is_cut() {
    let text = [b'x'; ERROR_TEXT_MAX + 1];
    let error = ErrFrame {
        session_id: 1,
        stream_id: 2,
        receiver_id: 3,
        group_tag: None,
        code: 4,
        text: &text,
    };
    let mut out = [0; ErrFrame::LENGTH_MAX];
    assert_eq!(error.emit(&mut out), Some(ErrFrame::LENGTH_MAX));
    assert_eq!(
        ErrFrame::parse(&out).map(|error| error.text.len()),
        Ok(ERROR_TEXT_MAX)
    );
    assert_eq!(error.emit(&mut out[..ErrFrame::LENGTH_MAX - 1]), None);
}

#[test]
fn what_is_written_is_read_again() {
    let mut prng = Prng::new(7);
    for _ in 0..20_000 {
        let header = DataHeader {
            frame_length: 32 + prng.below(1 << 20) as i32,
            flags: prng.next() as u8,
            kind: if prng.below(2) == 0 {
                Kind::Data
            } else {
                Kind::Pad
            },
            term_offset: (prng.below(1 << 26) * 32) as i32,
            session_id: prng.next() as i32,
            stream_id: prng.next() as i32,
            term_id: prng.next() as i32,
            reserved: prng.next() as i64,
        };
        let mut out = [0; 64];
        assert_eq!(header.emit(&mut out), Some(32));
        assert_eq!(DataHeader::parse(&out), Ok(header));
        let message = StatusMessage {
            flags: prng.next() as u8,
            session_id: prng.next() as i32,
            stream_id: prng.next() as i32,
            term_id: prng.next() as i32,
            term_offset: (prng.below(1 << 26) * 32) as i32,
            window: prng.below(1 << 31) as i32,
            receiver_id: prng.next() as i64,
            group_tag: (prng.below(2) == 0).then(|| prng.next() as i64),
        };
        let length = message.emit(&mut out).expect("fits");
        assert_eq!(
            parse_datagram(&out[..length]),
            Ok(Frame::StatusMessage(message))
        );
        assert_eq!(message.emit(&mut out[..length - 1]), None);
    }
}

#[test]
fn noise_is_refused_or_read_but_never_fatal() {
    let mut prng = Prng::new(11);
    for _ in 0..50_000 {
        let mut noise = [0; 96];
        for byte in &mut noise {
            *byte = prng.next() as u8;
        }
        // Past the first checks, so that the later ones see noise as well.
        let flags = noise[5];
        noise[..8].copy_from_slice(&[prng.below(97) as u8, 0, 0, 0, 0, flags, 0, 0]);
        noise[6] = prng.below(9) as u8;
        let length = prng.below(97) as usize;
        if let Ok(Frame::Data(datagram)) = parse_datagram(&noise[..length]) {
            assert!(datagram.frames().count() <= 3);
        }
    }
}

#[test]
fn positions_wrap_with_the_term_id() {
    let term = 64 * 1024;
    assert_eq!(position(5, 0, 5, term), Some(Position::ZERO));
    let wrapped = position(i32::MIN + 1, 32, i32::MAX, term);
    assert_eq!(wrapped, Some(Position::new(2 * 65536 + 32)));
    assert_eq!(position(4, 0, 5, term), None, "before the first term");
    assert_eq!(position(5, -32, 5, term), None);
    assert_eq!(position(5, 65536 + 32, 5, term), None);
    assert_eq!(position(5, 0, 5, term + 32), None);
}

#[test]
fn a_place_is_found_again_from_its_position() {
    let mut prng = Prng::new(1);
    for _ in 0..10_000 {
        let term_length = 1u32 << (16 + prng.below(15));
        let initial = prng.next() as i32;
        let offset = (prng.below(u64::from(term_length)) & !31) as i32;
        let term_id = initial.wrapping_add(prng.below(1 << 31) as i32);
        let at = position(term_id, offset, initial, term_length).expect("in range");
        assert_eq!(locate(at, initial, term_length), Some((term_id, offset)));
    }
    assert_eq!(locate(Position::MAX, 0, SEGMENT_MIN), None);
}

#[test]
fn alignment_saturates() {
    assert_eq!([0, 1, 32, 33].map(align), [0, 32, 32, 64]);
    assert_eq!(align(usize::MAX) % FRAME_ALIGNMENT, 0);
}

#[test]
fn unknown_types_and_versions_are_typed() {
    let resolution = [12, 0, 0, 0, 0, 0, 7, 0, 0, 0, 0, 0];
    assert_eq!(parse_datagram(&resolution), Err(Reject::UnknownType));
    let newer = [12, 0, 0, 0, 1, 0, 1, 0, 0, 0, 0, 0];
    assert_eq!(parse_datagram(&newer), Err(Reject::FrameVersion));
    assert_eq!(parse_datagram(&newer[..7]), Err(Reject::Short));
}
