extern crate std;

use std::vec::Vec;

use super::*;
use crate::prng::Prng;
use crate::time::Timestamp;
use crate::units::ServiceMessageId;
use crate::wire::golden::{damage, golden, newer, shorter};

const TERM: Term = Term::new(3);
const SESSION: SessionId = SessionId::new(Position::new(4096));
const TIME: Timestamp = Timestamp(1_700_000_000_123);
const LIST: &str = "0=a.example:20110,1=b.example:20110,2=[2001:db8::3]:20110";
const CHANNEL: &str = "aeron:udp?endpoint=192.0.2.9:40123";

fn member(id: u8) -> MemberId {
    MemberId::new(id).expect("in range")
}

fn service(id: u8) -> ServiceId {
    ServiceId::new(id).expect("in range")
}

/// Every golden message of the version that we write, and what it says.
fn all() -> Vec<(Vec<u8>, Message<'static>)> {
    let mut all = requests();
    all.extend(responses());
    all.extend(records());
    all
}

fn requests() -> Vec<(Vec<u8>, Message<'static>)> {
    let header = SessionMessageHeader {
        term: TERM,
        session: SESSION,
        timestamp: TIME,
    };
    let message = SessionMessage {
        header,
        payload: b"abc",
    };
    let connect = SessionConnectRequest {
        correlation: -9,
        response_stream_id: 102,
        version: PROTOCOL_VERSION,
        response_channel: CHANNEL,
        credentials: b"secret",
        client_info: b"name=x version=1",
    };
    let close = SessionCloseRequest {
        term: TERM,
        session: SESSION,
    };
    let alive = SessionKeepAlive {
        term: TERM,
        session: SESSION,
    };
    let answer = ChallengeResponse {
        correlation: -9,
        session: SESSION,
        credentials: b"proof",
    };
    let admin = AdminRequest {
        term: TERM,
        session: SESSION,
        correlation: -9,
        request: AdminRequestType::Snapshot,
        payload: &[1, 2],
    };
    [
        (
            golden!("cluster_session_message"),
            Message::SessionMessage(message),
        ),
        (
            golden!("cluster_session_connect_request"),
            Message::SessionConnectRequest(connect),
        ),
        (
            golden!("cluster_session_close_request"),
            Message::SessionCloseRequest(close),
        ),
        (
            golden!("cluster_session_keep_alive"),
            Message::SessionKeepAlive(alive),
        ),
        (
            golden!("cluster_challenge_response"),
            Message::ChallengeResponse(answer),
        ),
        (
            golden!("cluster_admin_request"),
            Message::AdminRequest(admin),
        ),
    ]
    .into()
}

fn responses() -> Vec<(Vec<u8>, Message<'static>)> {
    let event = SessionEvent {
        session: Some(SESSION),
        correlation: -9,
        term: Some(TERM),
        leader: Some(member(2)),
        code: EventCode::Ok,
        version: PROTOCOL_VERSION,
        leader_heartbeat_timeout_ns: Some(10_000_000_000),
        detail: LIST,
    };
    let leader = NewLeaderEvent {
        term: TERM,
        session: SESSION,
        leader: member(1),
        ingress_endpoints: LIST,
    };
    let challenge = Challenge {
        correlation: -9,
        session: SESSION,
        challenge: &[0, 255, 1],
    };
    let admin = AdminResponse {
        session: SESSION,
        correlation: -9,
        request: AdminRequestType::Snapshot,
        code: AdminResponseCode::UnauthorisedAccess,
        message: "no",
        payload: &[],
    };
    [
        (
            golden!("cluster_session_event"),
            Message::SessionEvent(event),
        ),
        (
            golden!("cluster_new_leader_event"),
            Message::NewLeaderEvent(leader),
        ),
        (golden!("cluster_challenge"), Message::Challenge(challenge)),
        (
            golden!("cluster_admin_response"),
            Message::AdminResponse(admin),
        ),
    ]
    .into()
}

fn offered() -> ServiceMessage<'static> {
    ServiceMessage {
        term: TERM,
        id: ServiceMessageId {
            service: service(4),
            number: 7,
        },
        timestamp: TIME,
        payload: b"abc",
    }
}

fn records() -> Vec<(Vec<u8>, Message<'static>)> {
    let timer = TimerEvent {
        term: TERM,
        correlation: -9,
        timestamp: TIME,
        service: service(4),
        arming: 7,
    };
    let open = SessionOpenEvent {
        term: TERM,
        correlation: -9,
        session: SESSION,
        timestamp: TIME,
        response_stream_id: 102,
        response_channel: CHANNEL,
        principal: b"ops",
    };
    let close = SessionCloseEvent {
        term: TERM,
        session: SESSION,
        timestamp: TIME,
        reason: CloseReason::Timeout,
    };
    let action = ClusterActionRequest {
        term: TERM,
        position: Position::new(8192),
        timestamp: TIME,
        action: ClusterAction::Snapshot,
        flags: Some(1),
    };
    let term = NewLeadershipTermEvent {
        term: TERM,
        position: Position::new(4192),
        timestamp: TIME,
        base: Position::new(4096),
        leader: member(2),
        log_session_id: TERM.to_session_id(),
        time_unit: TimeUnit::Millis,
        app_version: semantic_version(1, 0, 2),
    };
    [
        (golden!("cluster_timer_event"), Message::TimerEvent(timer)),
        (
            golden!("cluster_service_message"),
            Message::ServiceMessage(offered()),
        ),
        (
            golden!("cluster_session_open_event"),
            Message::SessionOpenEvent(open),
        ),
        (
            golden!("cluster_session_close_event"),
            Message::SessionCloseEvent(close),
        ),
        (
            golden!("cluster_cluster_action_request"),
            Message::ClusterActionRequest(action),
        ),
        (
            golden!("cluster_new_leadership_term_event"),
            Message::NewLeadershipTermEvent(term),
        ),
    ]
    .into()
}

fn emitted(message: &Message<'_>) -> Vec<u8> {
    let mut out = [0xee; 1024];
    let length = message.emit(&mut out).expect("fits");
    out[..length].to_vec()
}

#[test]
fn every_golden_message_is_read_and_written() {
    for (bytes, message) in all() {
        assert_eq!(Message::parse(&bytes), Ok(message));
        assert_eq!(emitted(&message), bytes, "{message:?}");
        let mut short = std::vec![0; bytes.len() - 1];
        assert_eq!(message.emit(&mut short), None, "{message:?}");
    }
}

#[test]
fn damaged_messages_are_rejects_or_mean_what_they_are_read_as() {
    for (bytes, message) in all() {
        damage(&bytes, |damaged| {
            let Ok(read) = Message::parse(damaged) else {
                return;
            };
            assert_eq!(Message::parse(&emitted(&read)), Ok(read));
            let may_be_cut = matches!(
                message,
                Message::SessionMessage(_) | Message::ServiceMessage(_)
            );
            assert!(damaged.len() == bytes.len() || may_be_cut, "{read:?}");
        });
    }
}

#[test]
fn blocks_of_a_newer_version_are_longer_and_of_a_broken_one_shorter() {
    for (bytes, message) in all() {
        assert_eq!(Message::parse(&newer(&bytes, 0, 12)), Ok(message));
        let shorter = shorter(&bytes, 0);
        let rejected = Message::parse(&shorter);
        assert_eq!(rejected, Err(Reject::BlockLength), "{message:?}");
    }
}

#[test]
fn older_versions_lack_what_came_later() {
    let connect = SessionConnectRequest {
        correlation: -9,
        response_stream_id: 102,
        version: 0,
        response_channel: "aeron:udp?endpoint=h:1",
        credentials: &[],
        client_info: &[],
    };
    let bytes = golden!("cluster_session_connect_request_v1");
    let expected = Message::SessionConnectRequest(connect);
    assert_eq!(Message::parse(&bytes), Ok(expected));
    assert!(is_compatible(connect.version));

    let event = SessionEvent {
        session: None,
        correlation: -9,
        term: None,
        leader: None,
        code: EventCode::Error,
        version: 0,
        leader_heartbeat_timeout_ns: None,
        detail: "no leader",
    };
    let bytes = golden!("cluster_session_event_v5");
    assert_eq!(Message::parse(&bytes), Ok(Message::SessionEvent(event)));
    // Ours says the same with explicit nulls.
    let ours = emitted(&Message::SessionEvent(event));
    assert_eq!(Message::parse(&ours), Ok(Message::SessionEvent(event)));
}

#[test]
fn an_old_leadership_term_event_has_milliseconds() {
    let mut bytes = golden!("cluster_new_leadership_term_event");
    bytes[0] = 40;
    bytes[6] = 3;
    bytes.truncate(48);
    let Ok(Message::NewLeadershipTermEvent(event)) = Message::parse(&bytes) else {
        panic!("version 3 is read");
    };
    assert_eq!((event.time_unit, event.app_version), (TimeUnit::Millis, 0));
}

#[test]
fn the_session_header_is_as_long_as_aeron_says() {
    let bytes = golden!("cluster_session_message");
    let Ok(Message::SessionMessage(message)) = Message::parse(&bytes) else {
        panic!("a session message");
    };
    assert_eq!(message.header.to_bytes(), bytes[..SESSION_HEADER_LENGTH]);
    assert_eq!(message.payload, &bytes[SESSION_HEADER_LENGTH..]);
}

#[test]
fn what_we_do_not_know_is_typed() {
    let good = golden!("cluster_session_keep_alive");
    let changed = |at: usize, value: u8| {
        let mut bytes = good.clone();
        bytes[at] = value;
        bytes
    };
    assert_eq!(Message::parse(&changed(4, 110)), Err(Reject::UnknownSchema));
    assert_eq!(
        Message::parse(&changed(2, 99)),
        Err(Reject::UnknownTemplate)
    );
    // A term and a session below zero.
    assert_eq!(Message::parse(&changed(15, 0x80)), Err(Reject::Value));
    assert_eq!(Message::parse(&changed(23, 0x80)), Err(Reject::Value));
    let mut event = golden!("cluster_session_event");
    event[8 + 28] = 5;
    assert_eq!(Message::parse(&event), Err(Reject::Enumerator));
    let mut event = golden!("cluster_session_event");
    event[8 + 44 + 4] = 0xff;
    assert_eq!(Message::parse(&event), Err(Reject::Text));
    let mut event = golden!("cluster_session_event");
    event[8 + 44..][..4].copy_from_slice(&u32::MAX.to_le_bytes());
    assert_eq!(Message::parse(&event), Err(Reject::VarData));
}

#[test]
fn only_the_major_version_decides() {
    assert_eq!(PROTOCOL_VERSION, 768);
    assert_eq!(semantic_version(1, 2, 3), 0x01_02_03);
    assert!(is_compatible(semantic_version(0, 255, 255)));
    assert!(!is_compatible(semantic_version(1, 3, 0)));
    // Not a packed version at all: what Aeron reads in bits 16 to 23 still decides.
    assert!(!is_compatible(-1));
}

#[test]
fn what_is_written_is_read_again() {
    let mut prng = Prng::new(3);
    let mut noise = [0u8; 200];
    for _ in 0..5_000 {
        for byte in &mut noise {
            *byte = prng.next() as u8;
        }
        let data = &noise[..prng.below(200) as usize];
        let text = &LIST[..prng.below(LIST.len() as u64) as usize];
        let term = Term::new(prng.next() as u32);
        let session = SessionId::new(Position::new(prng.next()));
        let correlation = prng.next() as i64;
        let messages = [
            Message::SessionMessage(SessionMessage {
                header: SessionMessageHeader {
                    term,
                    session,
                    timestamp: Timestamp(prng.next() as i64),
                },
                payload: data,
            }),
            Message::SessionEvent(SessionEvent {
                session: (prng.below(2) == 0).then_some(session),
                correlation,
                term: (prng.below(2) == 0).then_some(term),
                leader: MemberId::new(prng.below(9) as u8),
                code: EventCode::from_wire(prng.below(5) as i32).expect("listed"),
                version: prng.next() as i32,
                leader_heartbeat_timeout_ns: (prng.below(2) == 0).then_some(correlation),
                detail: text,
            }),
            Message::SessionConnectRequest(SessionConnectRequest {
                correlation,
                response_stream_id: prng.next() as i32,
                version: prng.next() as i32,
                response_channel: text,
                credentials: data,
                client_info: text.as_bytes(),
            }),
            Message::SessionOpenEvent(SessionOpenEvent {
                term,
                correlation,
                session,
                timestamp: Timestamp(prng.next() as i64),
                response_stream_id: prng.next() as i32,
                response_channel: text,
                principal: data,
            }),
        ];
        for message in messages {
            assert_eq!(Message::parse(&emitted(&message)), Ok(message));
        }
    }
}
