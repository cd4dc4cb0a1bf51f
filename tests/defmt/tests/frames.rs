//! What the device says, word for word.
//!
//! `cargo xtask defmt` builds the device and starts this test, with the program's path and the
//! emulator's name in the environment.

use std::process::Command;

use defmt_decoder::{DecodeError, Table};

/// The program for the device, where the strings are, too.
const DEVICE: &str = "CORACLE_DEFMT_DEVICE";
/// What runs it here: QEMU's user mode.
const EMULATOR: &str = "CORACLE_DEFMT_EMULATOR";

fn setting(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set: run `cargo xtask defmt`"))
}

/// Every frame as text: its level and its message.
fn decode(program: &[u8], frames: &[u8]) -> Vec<String> {
    let table = Table::parse(program).expect("a sound program");
    let table = table.expect("a program that logs with defmt");
    let mut decoder = table.new_stream_decoder();
    decoder.received(frames);
    let mut lines = Vec::new();
    loop {
        match decoder.decode() {
            Ok(frame) => {
                let level = frame.level().map_or("-", |level| level.as_str());
                lines.push(format!("{level} {}", frame.display_message()));
            }
            Err(DecodeError::UnexpectedEof) => return lines,
            Err(DecodeError::Malformed) => panic!("frame {} is malformed", lines.len()),
        }
    }
}

const EXPECTED: [&str; 10] = [
    "error NodeState(Blank)",
    "info NodeState { cluster: ClusterId(12626974), member: MemberId(0), incarnation: \
     Incarnation(1), term: Term(0), vote: None, votes: true, quarantined: false, roster: Roster { \
     at: Position(0), members: [(Incarnation(1), Position(0)), (Incarnation(1), Position(0)), \
     (Incarnation(1), Position(0)), (Incarnation(1), Position(0)), (Incarnation(1), Position(0)), \
     (Incarnation(1), Position(0)), (Incarnation(1), Position(0))] } }",
    "info RoleChanged { role: Candidate, term: Term(1) }",
    "info Joined { term: Term(1), leader: MemberId(0) }",
    "info RoleChanged { role: Leader, term: Term(1) }",
    "info snapshot stored at 192",
    "info SnapshotStored(Position(192))",
    "info Status { member: MemberId(0), incarnation: Incarnation(1), role: Leader, term: Term(1), \
     leader: Some(MemberId(0)), appended: Position(192), durable: Position(192), committed: \
     Position(192), applied: Position(192), digest: 0, start: Position(0), snapshot: \
     Some(Position(192)), snapshot_failed: None, sessions: 0, flush_age_ms: 0, log_full: false, \
     service_age_ms: 0, quarantined: false, settings_differ: SettingSet(0), votes: true, halted: \
     None }",
    "warn Short",
    "warn Mtu",
];

#[test]
fn the_frames_of_a_device_say_what_has_happened() {
    let device = setting(DEVICE);
    let program = std::fs::read(&device).expect("the device's program");
    let output = Command::new(setting(EMULATOR)).arg(&device).output();
    let output = output.expect("the emulator starts");
    let lines = decode(&program, &output.stdout);
    assert!(output.status.success(), "{}: {lines:#?}", output.status);
    assert_eq!(lines, EXPECTED);
}
