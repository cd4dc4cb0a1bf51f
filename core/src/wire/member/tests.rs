extern crate std;

use std::vec::Vec;

use super::*;
use crate::limits::{FRAME_HEADER, MEMBERS_MAX};
use crate::prng::Prng;
use crate::units::{AppVersion, ServiceId};
use crate::wire::Reject;
use crate::wire::frame::{DataFrame, Datagram};
use crate::wire::golden::{damage, golden, newer, shorter};

const SENDER: Sender = Sender {
    cluster: ClusterId(0xC0_FFEE),
    incarnation: Incarnation(1),
    member: match MemberId::new(2) {
        Some(member) => member,
        None => panic!("in range"),
    },
};

const CHECKPOINT: Checkpoint = Checkpoint {
    position: Position::new(2048),
    digest: 0x1122_3344_5566_7788,
};

const SNAPSHOT: Checkpoint = Checkpoint {
    position: Position::new(1024),
    digest: 99,
};

const SETTINGS: SharedSettings = SharedSettings {
    segment_length: 65_536,
    mtu: 1408,
    message_max: 4096,
    sessions_max: 56,
    services: 2,
    app_version: AppVersion::new(1, 2, 3),
    service_memory: 1 << 22,
    checkpoint_every: 1 << 20,
    log_max: 1 << 33,
};

fn member(id: u8) -> MemberId {
    MemberId::new(id).expect("in range")
}

fn slice(entries: &[(u32, u64)], covered_to: u64) -> HistorySlice {
    let mut slice = HistorySlice {
        len: entries.len() as u8,
        covered_to: Position::new(covered_to),
        ..HistorySlice::EMPTY
    };
    for (slot, (term, base)) in slice.entries.iter_mut().zip(entries) {
        *slot = TermBase {
            term: Term::new(*term),
            base: Position::new(*base),
        };
    }
    slice
}

fn elections() -> Vec<(Vec<u8>, Body)> {
    let (term, log_term, position) = (Term::new(5), Term::new(4), Position::new(3200));
    let canvass = CanvassPosition {
        term,
        log_term,
        position,
        hears_leader: true,
        torn: false,
        votes: true,
    };
    let request = RequestVote {
        term,
        log_term,
        position,
        transfer: true,
    };
    let vote = Vote {
        term,
        candidate: member(1),
        granted: true,
    };
    let transfer = TransferLeadership {
        term,
        target: member(0),
    };
    let resign = Resign {
        term,
        end: Position::new(9600),
    };
    [
        (
            golden!("member_canvass_position"),
            Body::CanvassPosition(canvass),
        ),
        (golden!("member_request_vote"), Body::RequestVote(request)),
        (golden!("member_vote"), Body::Vote(vote)),
        (
            golden!("member_transfer_leadership"),
            Body::TransferLeadership(transfer),
        ),
        (golden!("member_resign"), Body::Resign(resign)),
    ]
    .into()
}

fn append() -> AppendPosition {
    AppendPosition {
        term: Term::new(5),
        received: Position::new(9600),
        durable: Position::new(9568),
        applied: Position::new(3200),
        window: 131_072,
        flush_age_ms: 4,
        round: 1 << 40,
        service_age_ms: 250,
        quarantined: true,
        resting: true,
        votes: true,
        checkpoint: CHECKPOINT,
        snapshot: SNAPSHOT,
    }
}

/// Every golden message and what it says.
fn all() -> Vec<(Vec<u8>, Body)> {
    let (term, commit, end) = (Term::new(5), Position::new(3200), Position::new(9600));
    let leadership = NewLeadershipTerm {
        term,
        commit,
        end,
        start: TermBase {
            term: Term::new(1),
            base: Position::ZERO,
        },
        settings: SETTINGS,
        history: slice(&[(1, 0), (3, 640), (5, 3232)], 9600),
    };
    let committed = CommitPosition {
        term,
        commit,
        end,
        round: 77,
        counts: true,
        checkpoint: CHECKPOINT,
        snapshot: SNAPSHOT,
    };
    let part = SnapshotRequest {
        term,
        position: SNAPSHOT.position,
        section: Section::Service(ServiceId::new(1).expect("in range")),
        offset: 1280,
        length: 65_536,
    };
    let repair = RepairRequest {
        term,
        from: Position::new(640),
        to: end,
    };
    let request = HistoryRequest {
        term,
        from: Position::new(640),
    };
    let mut all = elections();
    all.extend([
        (
            golden!("member_new_leadership_term"),
            Body::NewLeadershipTerm(leadership),
        ),
        (
            golden!("member_append_position"),
            Body::AppendPosition(append()),
        ),
        (
            golden!("member_commit_position"),
            Body::CommitPosition(committed),
        ),
        (
            golden!("member_history_request"),
            Body::HistoryRequest(request),
        ),
        (
            golden!("member_snapshot_request"),
            Body::SnapshotRequest(part),
        ),
        (
            golden!("member_repair_request"),
            Body::RepairRequest(repair),
        ),
    ]);
    all
}

fn emitted(message: &MemberMessage) -> Vec<u8> {
    let mut out = [0xee; MEMBER_MESSAGE_MAX];
    let length = message.emit(&mut out).expect("fits");
    out[..length].to_vec()
}

fn read(datagram: &[u8]) -> Result<MemberMessage, Reject> {
    let datagram = Datagram::parse(datagram)?;
    let frame = datagram.frames().next().ok_or(Reject::Short)?;
    MemberMessage::parse_frame(&frame)
}

#[test]
fn every_golden_message_is_read_and_written() {
    for (bytes, body) in all() {
        let message = MemberMessage {
            sender: SENDER,
            body,
        };
        assert_eq!(read(&bytes), Ok(message));
        assert_eq!(emitted(&message), bytes, "{body:?}");
        let mut short = std::vec![0; bytes.len() - 1];
        assert_eq!(message.emit(&mut short), None, "{body:?}");
    }
}

/// A chunk of a snapshot, whose bytes are borrowed from its datagram.
#[test]
fn a_chunk_is_read_and_written_and_its_damage_is_a_reject() {
    let chunk = SnapshotChunk {
        sender: SENDER,
        term: Term::new(5),
        position: SNAPSHOT.position,
        digest: SNAPSHOT.digest,
        section: Section::Service(ServiceId::new(1).expect("in range")),
        offset: 1280,
        is_last: true,
        bytes: b"state",
    };
    let bytes = golden!("member_snapshot_chunk");
    let frame = DataFrame::parse(&bytes).expect("good");
    assert_eq!(SnapshotChunk::parse_frame(&frame), Ok(Some(chunk)));
    let mut out = [0xee; 2048];
    let length = chunk.emit(&mut out).expect("fits");
    assert_eq!(&out[..length], &bytes[..]);
    let other = golden!("member_vote");
    let frame = DataFrame::parse(&other).expect("good");
    assert_eq!(SnapshotChunk::parse_frame(&frame), Ok(None));
    damage(&bytes, |damaged| {
        let Ok(frame) = DataFrame::parse(damaged) else {
            return;
        };
        if let Ok(Some(read)) = SnapshotChunk::parse_frame(&frame) {
            let length = read.emit(&mut out).expect("fits");
            let frame = DataFrame::parse(&out[..length]).expect("ours");
            assert_eq!(SnapshotChunk::parse_frame(&frame), Ok(Some(read)));
        }
    });
    let full = SnapshotChunk {
        bytes: &[7; CHUNK_MAX],
        ..chunk
    };
    let length = full.emit(&mut out).expect("fits");
    assert!(length <= crate::limits::MTU_DEFAULT);
}

#[test]
fn damaged_messages_are_rejects_or_mean_what_they_are_read_as() {
    for (bytes, _) in all() {
        damage(&bytes, |damaged| {
            if let Ok(message) = read(damaged) {
                assert_eq!(damaged.len(), bytes.len());
                assert_eq!(read(&emitted(&message)), Ok(message));
            }
        });
        let length = DataFrame::parse(&bytes).expect("good").header.length();
        for end in FRAME_HEADER..length {
            let cut = MemberMessage::parse(&bytes[FRAME_HEADER..end]);
            assert!(cut.is_err(), "{end} {cut:?}");
        }
    }
}

#[test]
fn blocks_of_a_newer_version_and_a_trailer_are_skipped() {
    for (bytes, body) in all() {
        let payload = DataFrame::parse(&bytes).expect("good").payload();
        let mut bytes = newer(payload, 0, 20);
        bytes.extend_from_slice(b"authentication");
        let message = MemberMessage {
            sender: SENDER,
            body,
        };
        assert_eq!(MemberMessage::parse(&bytes), Ok(message));
        let rejected = MemberMessage::parse(&shorter(payload, 0));
        assert_eq!(rejected, Err(Reject::BlockLength), "{body:?}");
    }
}

#[test]
fn entries_of_a_newer_version_are_longer() {
    let bytes = golden!("member_new_leadership_term");
    let payload = DataFrame::parse(&bytes).expect("good").payload();
    let group = 8 + 120;
    let mut longer = payload[..group].to_vec();
    longer.extend_from_slice(&[24, 0, 3, 0]);
    for entry in payload[group + 4..].chunks(16) {
        longer.extend_from_slice(entry);
        longer.extend_from_slice(&[0xa5; 8]);
    }
    assert_eq!(MemberMessage::parse(&longer), MemberMessage::parse(payload));
    longer[group] = 15;
    assert_eq!(MemberMessage::parse(&longer), Err(Reject::BlockLength));
}

#[test]
fn a_history_that_does_not_ascend_is_a_reject() {
    let golden = golden!("member_new_leadership_term");
    let payload = DataFrame::parse(&golden).expect("good").payload();
    let first = 8 + 120 + 4;
    for (entry, term, base, reject) in [
        (1, 1, 640, Reject::History),
        (1, 5, 640, Reject::History),
        (1, 3, 0, Reject::History),
        (1, 3, 3232, Reject::History),
        (1, 3, 641, Reject::Alignment),
        (1, 3, -32, Reject::Value),
        (1, -3, 640, Reject::Value),
        (1, 1 << 31, 640, Reject::Value),
        (2, 5, 9632, Reject::History),
        // Of a leadership that is to come.
        (2, 6, 3232, Reject::History),
    ] {
        let mut bytes = payload.to_vec();
        let at = first + entry * 16;
        bytes[at..at + 8].copy_from_slice(&i64::to_le_bytes(term));
        bytes[at + 8..at + 16].copy_from_slice(&i64::to_le_bytes(base));
        assert_eq!(
            MemberMessage::parse(&bytes),
            Err(reject),
            "{entry} {term} {base}"
        );
    }
    let mut bytes = payload.to_vec();
    bytes[first - 2] = HISTORY_SLICE_MAX as u8 + 1;
    bytes.resize(4096, 0);
    assert_eq!(MemberMessage::parse(&bytes), Err(Reject::History));
}

#[test]
fn a_frame_that_is_no_message_of_its_sender_is_a_reject() {
    let good = golden!("member_vote");
    for (at, value, reject) in [
        (5, 0x80, Reject::Fragment),
        (12, 1, Reject::Value),
        (16, 107, Reject::Stream),
        (36, 0x58, Reject::UnknownSchema),
        (34, 57, Reject::UnknownTemplate),
        (56, 7, Reject::Value),
    ] {
        let mut bytes = good.clone();
        bytes[at] = value;
        assert_eq!(read(&bytes), Err(reject), "{at}");
    }
    let mut pad = good.clone();
    pad[6] = 0;
    let frame = DataFrame::parse(&pad).expect("a PAD");
    assert_eq!(MemberMessage::parse_frame(&frame), Err(Reject::Fragment));
}

#[test]
fn the_longest_history_fits_and_is_read_again() {
    let mut prng = Prng::new(5);
    let mut longest = 0;
    for _ in 0..5_000 {
        let mut entry = TermBase::default();
        let mut history = HistorySlice::EMPTY;
        history.len = prng.below(HISTORY_SLICE_MAX as u64 + 1) as u8;
        for slot in &mut history.entries[..usize::from(history.len)] {
            entry.term = Term::new(entry.term.get() + 1 + prng.below(1 << 20) as u32);
            entry.base = entry.base.plus(32 + 32 * prng.below(1 << 50));
            *slot = entry;
        }
        history.covered_to = entry.base.plus(32 * prng.below(1 << 10));
        let message = MemberMessage {
            sender: Sender {
                cluster: ClusterId(prng.next()),
                incarnation: Incarnation(prng.next()),
                member: member(prng.below(MEMBERS_MAX as u64) as u8),
            },
            body: Body::NewLeadershipTerm(NewLeadershipTerm {
                term: Term::new(entry.term.get() + prng.below(1 << 20) as u32),
                commit: Position::new(32 * prng.below(1 << 50)),
                end: Position::new(32 * prng.below(1 << 50)),
                start: entry,
                settings: SETTINGS,
                history,
            }),
        };
        let bytes = emitted(&message);
        longest = longest.max(bytes.len());
        assert_eq!(read(&bytes), Ok(message));
    }
    assert_eq!(longest, MEMBER_MESSAGE_MAX);
}
