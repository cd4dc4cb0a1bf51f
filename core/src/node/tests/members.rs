//! What is stored is the same in builds of any number of members.

use embedded_io::{ErrorKind, ErrorType, Read, Write};

use super::*;
use crate::log::Roster;
use crate::snapshot::{
    Progress, Section, SnapshotError, SnapshotReader, SnapshotSink, SnapshotSource, SnapshotWriter,
};
use crate::wire::admission::MemberAdmitted;
use crate::wire::golden::bytes;

macro_rules! golden {
    ($name:literal) => {
        bytes(include_str!(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../tests/golden/snapshot/",
            $name
        )))
    };
}

/// A service without a state.
struct Nothing;

impl Service for Nothing {
    fn on_session_message(&mut self, _: &mut Cluster<'_>, _: SessionId, _: &[u8]) {}
    fn digest(&self) -> u64 {
        0
    }
    fn write_snapshot(&mut self, _: &mut SnapshotWriter<'_>) -> Result<Progress, SnapshotError> {
        Ok(Progress::Done)
    }
    fn read_snapshot(&mut self, _: &mut SnapshotReader<'_>) -> Result<(), SnapshotError> {
        Ok(())
    }
}

/// Both sections in memory.
#[derive(Default)]
struct Set {
    sections: [Vec<u8>; 2],
    at: usize,
    is_service: bool,
}

impl SnapshotSink for Set {
    fn section(&mut self, section: Section) -> &mut dyn Write<Error = ErrorKind> {
        self.is_service = section != Section::Consensus;
        self
    }
}

impl SnapshotSource for Set {
    fn open(&mut self, section: Section) -> Option<(&mut dyn Read<Error = ErrorKind>, u64)> {
        self.is_service = section != Section::Consensus;
        self.at = 0;
        let length = self.sections[usize::from(self.is_service)].len() as u64;
        Some((self, length))
    }
}

impl ErrorType for Set {
    type Error = ErrorKind;
}

impl Write for Set {
    fn write(&mut self, bytes: &[u8]) -> Result<usize, ErrorKind> {
        self.sections[usize::from(self.is_service)].extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> Result<(), ErrorKind> {
        Ok(())
    }
}

impl Read for Set {
    fn read(&mut self, into: &mut [u8]) -> Result<usize, ErrorKind> {
        let left = &self.sections[usize::from(self.is_service)][self.at..];
        let len = left.len().min(into.len());
        into[..len].copy_from_slice(&left[..len]);
        self.at += len;
        Ok(len)
    }
}

const AT: Position = Position::new(4096);

fn bench() -> Bench {
    let mut bench = Bench::new(3, &Author::new().recovered(1));
    bench.node.config.cluster = ClusterId(0x0123_4567_89ab_cdef);
    bench.node.config.snapshots.enabled = true;
    bench
}

fn load(consensus: Vec<u8>) -> Result<Roster, SnapshotError> {
    let mut bench = bench();
    let mut set = Set {
        sections: [consensus, golden!("service.hex")],
        ..Set::default()
    };
    let mut lent = lent!(bench);
    let loaded = bench
        .node
        .load_snapshot(&mut set, &mut [&mut Nothing], &mut lent)?;
    assert_eq!(loaded.position, AT);
    Ok(bench.node.roster)
}

/// The roster of a cluster whose `member` has had a new directory.
fn replaced(member: MemberId) -> Roster {
    let mut roster = Roster::FIRST;
    let incarnation = Incarnation(0x1122_3344_5566_7788);
    assert!(roster.admit(member, incarnation, Position::new(2048)));
    roster
}

#[test]
fn a_snapshot_is_these_bytes_whatever_members_there_is_room_for() {
    let mut bench = bench();
    bench
        .node
        .applier
        .restore(AT, Timestamp(1234), term(3), 0xdead_beef);
    bench.node.applier.roster = replaced(id(2));
    bench.node.hosts[0].taking = crate::node::host::Taking::Due;
    bench.node.begin_snapshot(AT);
    let mut set = Set::default();
    let mut lent = lent!(bench);
    let step = bench
        .node
        .poll_snapshot(&mut [&mut Nothing], &mut set, &mut lent);
    assert!(matches!(step, SnapshotStep::Written(_)), "{step:?}");
    assert_eq!(set.sections[1], golden!("service.hex"));
    assert_eq!(set.sections[0], golden!("consensus.hex"));
    assert_eq!(load(golden!("consensus.hex")), Ok(replaced(id(2))));
}

#[test]
fn a_snapshot_that_speaks_of_a_member_without_room_is_refused_and_else_read() {
    let loaded = load(golden!("consensus_of_five.hex"));
    match MemberId::new(4) {
        Some(fifth) => assert_eq!(loaded, Ok(replaced(fifth))),
        None => assert_eq!(loaded, Err(SnapshotError::TooLarge)),
    }
}

#[test]
fn a_record_of_a_member_without_room_halts_and_is_not_passed_over() {
    for member in [2, 4, 6] {
        let mut author = Author::new();
        let admitted = MemberAdmitted {
            term: term(1),
            member: MemberId::FIRST,
            incarnation: Incarnation(9),
        };
        let mut record = admitted.to_bytes();
        record[16] = member;
        author.write(1);
        append(&mut author.0, term(1), &[&record], MTU).unwrap();
        let admitted_at = author.0.end();
        let end = author.write(1);
        let mut bench = Bench::new(3, &author.recovered(1));
        bench.lead(1, 2, &[(1, 0), (2, end.get())], end.get(), end.get());
        let recall = bench.recall().expect("what is committed is on disk only");
        bench.read(recall, &author.bytes(Position::ZERO));
        let mut service = Terms::default();
        bench.execute(&mut service);
        match MemberId::new(member) {
            Some(known) => {
                assert_eq!((bench.node.halted(), &service.0[..]), (None, &[1, 1][..]));
                assert_eq!(bench.node.roster.incarnation(known), Some(Incarnation(9)));
            }
            None => {
                let halt = Halt::NoRoomForMember(admitted_at);
                assert_eq!(
                    (bench.node.halted(), &service.0[..]),
                    (Some(halt), &[1][..])
                );
            }
        }
    }
}
