//! The formats against golden bytes, which were laid out and summed by another program.

extern crate std;

use std::vec::Vec;

use super::checksum::genesis;
use super::*;
use crate::limits::MEMBERS_MAX;
use crate::prng::Prng;
use crate::units::{ClusterId, Incarnation, MemberId, Term};

const CLUSTER: ClusterId = ClusterId(0x0123_4567_89ab_cdef);
const SEGMENT: u32 = 64 * 1024;

fn bytes(text: &str) -> Vec<u8> {
    let code = text.lines().filter_map(|line| line.split('#').next());
    code.flat_map(str::split_whitespace)
        .map(|word| u8::from_str_radix(word, 16).expect("two hex digits"))
        .collect()
}

macro_rules! golden {
    ($name:literal) => {
        bytes(include_str!(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../tests/golden/log/",
            $name
        )))
    };
}

const SLOT: Slot = Slot {
    seq: 9,
    cluster: CLUSTER,
    joined: Term::new(7),
    confirmed: Position::new(65536),
    intended: Position::new(131_072),
    chain: Some(0xdead_beef),
    segment_length: SEGMENT,
    segment: Position::new(65536),
    place: SlotPlace::Head,
};

/// Others may be beside the data that it speaks of.
const LEAD: Slot = Slot {
    confirmed: Position::new(65600),
    intended: Position::new(65696),
    place: SlotPlace::Lead,
    ..SLOT
};

/// One of those.
fn beside() -> Slot {
    Slot {
        seq: 10,
        confirmed: LEAD.intended,
        intended: Position::new(65792),
        chain: None,
        place: SlotPlace::Beside {
            behind: 1,
            sum: LEAD.sum(),
        },
        ..LEAD
    }
}

/// Of a member, and whom it voted for.
fn node_state_of(member: u8, vote: u8) -> NodeState {
    let member = MemberId::new(member).expect("a member");
    let incarnation = Incarnation(0x1122_3344_5566_7788);
    let mut roster = Roster::FIRST;
    roster.admit(member, incarnation, Position::new(4096));
    NodeState {
        cluster: CLUSTER,
        member,
        incarnation,
        term: Term::new(7),
        vote: MemberId::new(vote),
        votes: true,
        quarantined: true,
        roster,
    }
}

/// That of `node_state_of_three.hex`.
fn node_state() -> NodeState {
    node_state_of(2, 1)
}

/// A window of one segment, with everything below `start` gone.
fn window_at(start: u64, chain: u32) -> Window<Vec<u8>> {
    let mut window = Window::new(std::vec![0xee; 4096 + 512], 512, SEGMENT).expect("large enough");
    window
        .load(Position::new(start), Some(chain), Term::new(7))
        .expect("a boundary");
    window
}

#[test]
fn a_frame_is_these_bytes() {
    let golden = golden!("frame.hex");
    let mut window = window_at(3 * u64::from(SEGMENT), genesis(CLUSTER));
    let start = window.end();
    append(&mut window, Term::new(7), &[b"cora", b"", b"cle"], 256).expect("room");
    assert_eq!(window.read(start), golden);

    let mut frames = Frames::new(&golden, start, SEGMENT)
        .verified()
        .chained(genesis(CLUSTER));
    let frame = frames.next().expect("good");
    assert_eq!((frame.payload, frame.term), (&b"coracle"[..], Term::new(7)));
    assert!(frame.begins() && frame.ends() && !frame.is_pad);
    assert_eq!((frames.next(), frames.error()), (None, None));
}

#[test]
fn a_pad_is_these_bytes() {
    let golden = golden!("pad.hex");
    let frame = golden!("frame.hex");
    let start = Position::new(4 * u64::from(SEGMENT) - 96);
    let chain = Frames::new(&frame, Position::new(3 * u64::from(SEGMENT)), SEGMENT)
        .next()
        .map(|f| f.chain)
        .expect("good");
    let mut window = window_at(start.get(), chain);
    append(&mut window, Term::new(7), &[&[1; 100]], 256).expect("room");
    assert_eq!(window.read(start)[..32], golden);
    assert_eq!(window.read(start)[32..96], [0; 64]);
    let len = run(window.read(start), start, 1408, SEGMENT);
    assert_eq!(len, 96, "a PAD travels alone");
    assert_eq!(sent(&window.read(start)[..len]), golden);

    let mut frames = Frames::new(&golden, start, SEGMENT)
        .verified()
        .chained(chain);
    let pad = frames.next().expect("a header alone will do");
    assert_eq!(
        (pad.is_pad, pad.aligned_len, pad.payload),
        (true, 96, &[][..])
    );
}

#[test]
fn a_slot_and_a_node_state_are_these_bytes() {
    assert_eq!(SLOT.encode()[..], golden!("slot.hex"));
    assert_eq!(Slot::decode(&golden!("slot.hex")), Ok(SLOT));
    assert_eq!(LEAD.encode()[..], golden!("slot_lead.hex"));
    assert_eq!(Slot::decode(&golden!("slot_lead.hex")), Ok(LEAD));
    assert_eq!(beside().encode()[..], golden!("slot_beside.hex"));
    let read = Slot::decode_beside(&golden!("slot_beside.hex"), &LEAD);
    assert_eq!(read, Ok(beside()));
    assert_eq!(beside().beside(), Some([7168, 7680]));
    let three = golden!("node_state_of_three.hex");
    assert_eq!(node_state().encode(12)[..], three);
    assert_eq!(NodeState::decode(&three), Ok((12, node_state())));
    let five = NodeState::decode(&golden!("node_state.hex"));
    let first = NodeState::decode(&golden!("node_state_v1.hex"));
    if MEMBERS_MAX < 5 {
        let refused = Err(SectorError::NoRoomForMember(4));
        assert_eq!((five, first), (refused, refused));
        return;
    }
    let state = node_state_of(4, 2);
    assert_eq!(state.encode(12)[..], golden!("node_state.hex"));
    assert_eq!(five, Ok((12, state)));
    let state = NodeState {
        quarantined: false,
        roster: Roster::FIRST,
        ..state
    };
    assert_eq!(first, Ok((12, state)));
}

/// Else a small build would forget a vote for a member that it has no room for.
#[test]
fn no_older_node_state_counts_where_the_newest_speaks_of_a_member_without_room() {
    let old = node_state().encode(4);
    let damaged = [1; SECTOR];
    for (at, value) in [(36, 6), (37, 6), (72 + 6 * 16, 2), (72 + 6 * 16 + 8, 32)] {
        let mut new = node_state().encode(5).to_vec();
        new[at] = value;
        let new = of_version(new, NodeState::VERSION);
        let Ok(read) = NodeState::decode(&new) else {
            let refused = Err(SectorError::NoRoomForMember(6));
            assert_eq!(NodeState::newest(&old, &new), refused, "{at}");
            assert_eq!(NodeState::newest(&new, &old), refused, "{at}");
            assert_eq!(NodeState::newest(&new, &damaged), refused, "{at}");
            assert_ne!(MEMBERS_MAX, 7);
            continue;
        };
        assert_eq!(NodeState::newest(&old, &new), Ok(Some(read)));
        assert_eq!(MEMBERS_MAX, 7);
    }
}

/// The same sector with another version, and the checksum that belongs to it.
fn of_version(mut sector: Vec<u8>, version: u16) -> Vec<u8> {
    sector[4..6].copy_from_slice(&version.to_le_bytes());
    let sum = checksum::crc32c(&sector[..508]);
    sector[508..].copy_from_slice(&sum.to_le_bytes());
    sector
}

#[test]
fn a_newer_version_is_its_own_error() {
    let newer = Err(SectorError::NewerVersion(3));
    let slot = of_version(golden!("slot.hex"), 3);
    assert_eq!(Slot::decode(&slot), newer);
    assert_eq!(
        Slot::newest(Some(SLOT), Slot::decode(&slot)),
        Err(SectorError::NewerVersion(3))
    );
    let state = of_version(golden!("node_state_of_three.hex"), 3);
    assert_eq!(NodeState::decode(&state), Err(SectorError::NewerVersion(3)));
    let good = golden!("node_state_of_three.hex");
    assert_eq!(
        NodeState::newest(&good, &state),
        Err(SectorError::NewerVersion(3))
    );
    // A frame's version is Aeron's: another one is no log frame.
    let mut frame = golden!("frame.hex");
    frame[4] = 1;
    let at = Position::new(3 * u64::from(SEGMENT));
    let mut frames = Frames::new(&frame, at, SEGMENT);
    assert_eq!(frames.next(), None);
    assert_eq!(frames.error(), Some(FrameError::BadHeader));
}

#[test]
fn one_wrong_bit_is_seen_wherever_it_is() {
    let good = golden!("frame.hex");
    let at = Position::new(3 * u64::from(SEGMENT));
    for bit in 0..good.len() * 8 {
        let mut frame = good.clone();
        frame[bit / 8] ^= 1 << (bit % 8);
        let mut frames = Frames::new(&frame, at, SEGMENT)
            .verified()
            .chained(genesis(CLUSTER));
        assert_eq!(frames.next(), None, "bit {bit}");
        assert!(frames.error().is_some());
    }
    for (sector, what) in [
        (golden!("slot.hex"), 0),
        (golden!("node_state_of_three.hex"), 1),
    ] {
        for bit in 0..sector.len() * 8 {
            let mut bad = sector.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            let is_seen = match what {
                0 => Slot::decode(&bad).is_err(),
                _ => NodeState::decode(&bad).is_err(),
            };
            assert!(is_seen, "bit {bit}");
        }
    }
}

#[test]
fn the_newer_node_state_counts_and_damage_to_all_is_an_error() {
    let old = node_state().encode(4);
    let state = NodeState {
        vote: None,
        votes: false,
        quarantined: false,
        ..node_state()
    };
    let new = state.encode(5);
    assert_eq!(NodeState::newest(&old, &new), Ok(Some((5, state))));
    assert_eq!(NodeState::newest(&new, &old), Ok(Some((5, state))));
    let mut torn = new;
    torn[300..].fill(0);
    assert_eq!(NodeState::newest(&old, &torn), Ok(Some((4, node_state()))));
    let blank = [0; SECTOR];
    assert_eq!(NodeState::newest(&blank, &blank), Ok(None));
    let damage = Err(SectorError::BadChecksum);
    assert_eq!(NodeState::newest(&torn, &torn), damage);
    assert_eq!(NodeState::newest(&torn, &blank), damage);
    assert_eq!(NodeState::decode(&new[..511]), Err(SectorError::TooShort));
}

#[test]
fn any_sector_with_a_good_checksum_decodes_without_a_panic() {
    let mut prng = Prng::new(5);
    for _ in 0..2000 {
        let mut slot = golden!("slot.hex");
        let mut state = golden!("node_state_of_three.hex");
        for sector in [&mut slot, &mut state] {
            for _ in 0..prng.below(20) {
                sector[6 + prng.below(60) as usize] = prng.next() as u8;
            }
        }
        if let Ok(found) = Slot::decode(&of_version(slot, 1)) {
            assert_eq!(Slot::decode(&found.encode()), Ok(found));
        }
        if let Ok((seq, found)) = NodeState::decode(&of_version(state, 1)) {
            assert_eq!(NodeState::decode(&found.encode(seq)), Ok((seq, found)));
        }
    }
}
