//! Golden bytes of each session message, written by hand from the published layout, so that a
//! mistake in this crate's codec cannot agree with itself.

use coracle_peer::codec::{self, AdminCode, Egress, EventCode};

/// Bytes from digits, with spaces for the reader.
fn bytes(digits: &str) -> Vec<u8> {
    let digits: Vec<u8> = digits
        .bytes()
        .filter(|digit| !digit.is_ascii_whitespace())
        .collect();
    digits
        .chunks(2)
        .map(|pair| {
            let pair = std::str::from_utf8(pair).expect("digits are ASCII");
            u8::from_str_radix(pair, 16).expect("two hexadecimal digits")
        })
        .collect()
}

#[test]
fn golden_session_connect_request() {
    let golden = bytes(
        "1000 0300 6f00 1100
         0807060504030201 66000000 00030000
         0e000000 6165726f6e3a7564703f656e643d
         04000000 73656372
         03000000 723d31",
    );
    let made = codec::connect_request(
        0x0102_0304_0506_0708,
        102,
        "aeron:udp?end=",
        codec::PROTOCOL_VERSION,
        b"secr",
        "r=1",
    );
    assert_eq!(made, golden);
}

#[test]
fn golden_session_message_header() {
    let golden = bytes(
        "1800 0100 6f00 1100
         0700000000000000 4001000000000000 e8030000 00000000",
    );
    assert_eq!(codec::message_header(7, 0x140, 1000).to_vec(), golden);
    let mut message = golden;
    message.extend_from_slice(b"echo");
    let expected = Egress::Message {
        term: 7,
        session: 0x140,
        timestamp: 1000,
        payload: b"echo",
    };
    assert_eq!(codec::decode(&message), Ok(expected));
}

#[test]
fn golden_session_close_request() {
    let golden = bytes("1000 0400 6f00 1100 0700000000000000 4001000000000000");
    assert_eq!(codec::close_request(7, 0x140), golden);
}

#[test]
fn golden_session_keep_alive() {
    let golden = bytes("1000 0500 6f00 1100 0700000000000000 4001000000000000");
    assert_eq!(codec::keep_alive(7, 0x140), golden);
}

#[test]
fn golden_session_event() {
    let golden = bytes(
        "2c00 0200 6f00 1100
         4001000000000000 0807060504030201 0700000000000000
         02000000 02000000 00030000 00ca9a3b00000000
         09000000 303d613a312c313d62",
    );
    let expected = Egress::Event {
        session: 0x140,
        correlation: 0x0102_0304_0506_0708,
        term: 7,
        leader: 2,
        code: EventCode::Redirect,
        version: 0x300,
        heartbeat_timeout_ns: 1_000_000_000,
        detail: "0=a:1,1=b",
    };
    assert_eq!(codec::decode(&golden), Ok(expected));
    for cut in 0..golden.len() {
        assert!(codec::decode(&golden[..cut]).is_err(), "cut at {cut}");
    }
}

#[test]
fn golden_session_event_of_an_older_schema_is_read_as_sbe_prescribes() {
    let golden = bytes(
        "2000 0200 6f00 0500
         4001000000000000 0807060504030201 0700000000000000
         02000000 00000000
         00000000",
    );
    let decoded = codec::decode(&golden).expect("it is whole");
    let Egress::Event {
        code,
        version,
        detail,
        ..
    } = decoded
    else {
        panic!("{decoded:?}")
    };
    assert_eq!((code, version, detail), (EventCode::Ok, 0, ""));
}

#[test]
fn golden_new_leader_event() {
    let golden = bytes(
        "1400 0600 6f00 1100
         0800000000000000 4001000000000000 01000000
         0b000000 303d613a312c313d623a32",
    );
    let expected = Egress::NewLeader {
        term: 8,
        session: 0x140,
        leader: 1,
        endpoints: "0=a:1,1=b:2",
    };
    assert_eq!(codec::decode(&golden), Ok(expected));
    let members = codec::members("0=a:1,1=b:2").expect("two members");
    assert_eq!(members, [(0, "a:1".to_owned()), (1, "b:2".to_owned())]);
    assert!(codec::members("0=a:1,b:2").is_err());
}

#[test]
fn golden_snapshot_request() {
    let golden = bytes(
        "1c00 1a00 6f00 1100
         0700000000000000 4001000000000000 0807060504030201
         00000000
         00000000",
    );
    let made = codec::snapshot_request(7, 0x140, 0x0102_0304_0506_0708);
    assert_eq!(made, golden);
}

#[test]
fn golden_admin_response() {
    let golden = bytes(
        "1800 1b00 6f00 1100
         4001000000000000 0807060504030201
         00000000 02000000
         02000000 6e6f
         03000000 010203",
    );
    let expected = Egress::AdminResponse {
        session: 0x140,
        correlation: 0x0102_0304_0506_0708,
        request: 0,
        code: AdminCode::UnauthorisedAccess,
        message: "no",
        payload: &[1, 2, 3],
    };
    assert_eq!(codec::decode(&golden), Ok(expected));
    for cut in 0..golden.len() {
        assert!(codec::decode(&golden[..cut]).is_err(), "cut at {cut}");
    }
}

#[test]
fn golden_unknown_templates_are_skipped_and_other_schemas_refused() {
    assert_eq!(
        codec::decode(&bytes("0000 e703 6f00 1100")),
        Ok(Egress::Other(999))
    );
    assert!(codec::decode(&bytes("0000 0100 7000 1100")).is_err());
}
