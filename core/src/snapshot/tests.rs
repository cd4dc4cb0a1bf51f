extern crate std;

use std::vec;
use std::vec::Vec;

use super::*;
use crate::time::Timestamp;
use crate::units::{AppVersion, ClusterId, Position, ServiceId, Term};

const CLUSTER: ClusterId = ClusterId(7);

/// Keeps what is written.
#[derive(Default)]
struct Kept(Vec<u8>);

impl embedded_io::ErrorType for Kept {
    type Error = ErrorKind;
}

impl Write for Kept {
    fn write(&mut self, bytes: &[u8]) -> Result<usize, ErrorKind> {
        // Never more than three bytes at once: a sink may take less than it is given.
        let len = bytes.len().min(3);
        self.0.extend_from_slice(&bytes[..len]);
        Ok(len)
    }

    fn flush(&mut self) -> Result<(), ErrorKind> {
        Ok(())
    }
}

/// Gives out what was kept.
struct Given<'a>(&'a [u8]);

impl embedded_io::ErrorType for Given<'_> {
    type Error = ErrorKind;
}

impl Read for Given<'_> {
    fn read(&mut self, bytes: &mut [u8]) -> Result<usize, ErrorKind> {
        let len = bytes.len().min(5).min(self.0.len());
        bytes[..len].copy_from_slice(&self.0[..len]);
        self.0 = &self.0[len..];
        Ok(len)
    }
}

fn begin() -> Begin {
    Begin {
        cluster: CLUSTER,
        section: Section::Consensus,
        app_version: AppVersion::new(1, 2, 3),
        position: Position::new(4096),
        term: Term::new(2),
        chain: 0x1234_5678,
        timestamp: Timestamp(99),
        segment_length: 65536,
    }
}

/// A section whose body was written in two steps.
fn section(first: &[u8], second: &[u8]) -> (Vec<u8>, End) {
    let mut kept = Kept::default();
    let mut sums = Sums::new();
    let mut writer = SnapshotWriter::new(&mut kept, &mut sums);
    writer.begin(&begin()).unwrap();
    writer.put(first).unwrap();
    let mut writer = SnapshotWriter::new(&mut kept, &mut sums);
    writer.put(second).unwrap();
    let end = writer.end().unwrap();
    (kept.0, end)
}

fn verify(bytes: &[u8]) -> Result<Verifier, SnapshotError> {
    let mut given = Given(bytes);
    let at = Some(begin().position);
    Verifier::run(
        &mut given,
        bytes.len() as u64,
        CLUSTER,
        Section::Consensus,
        at,
        &mut [0; 7],
    )
}

#[test]
fn a_section_comes_back_as_it_was_written_however_it_was_cut() {
    let (bytes, end) = section(b"some state ", b"and more");
    assert_eq!(section(b"some st", b"ate and more"), (bytes.clone(), end));
    assert_eq!(end.length, 19);
    let found = verify(&bytes).unwrap();
    assert_eq!((found.begin, found.end), (begin(), end));
    let mut given = Given(&bytes);
    let length = bytes.len() as u64;
    let mut reader = SnapshotReader::new(&mut given, length, CLUSTER, Section::Consensus).unwrap();
    assert_eq!(&reader.array::<10>().unwrap(), b"some state");
    assert_eq!(reader.left(), 9);
    assert_eq!(reader.array::<10>(), Err(SnapshotError::Short));
    assert_eq!(reader.finish().unwrap(), end);
}

#[test]
fn any_damage_and_any_cut_is_noticed() {
    let (bytes, _) = section(b"0123456789", b"");
    for at in 0..bytes.len() {
        assert!(verify(&bytes[..at]).is_err(), "cut at {at}");
        for mask in [1, 0x80, 0xff] {
            let mut damaged = bytes.clone();
            damaged[at] ^= mask;
            assert!(verify(&damaged).is_err(), "byte {at} xor {mask}");
        }
    }
    let mut longer = bytes.clone();
    longer.extend_from_slice(&[0; 4]);
    assert!(verify(&longer).is_err());
}

/// Members of two minor versions must not take one another for odd.
#[test]
fn the_applications_version_is_checked_but_not_in_the_digest() {
    let written = |app_version: AppVersion| {
        let mut kept = Kept::default();
        let mut sums = Sums::new();
        let mut writer = SnapshotWriter::new(&mut kept, &mut sums);
        let begin = Begin {
            app_version,
            ..begin()
        };
        writer.begin(&begin).unwrap();
        writer.put(b"state").unwrap();
        let end = writer.end().unwrap();
        (kept.0, end)
    };
    let (old, new) = (AppVersion::new(1, 2, 3), AppVersion::new(1, 3, 0));
    let ((one, end), (other, same)) = (written(old), written(new));
    assert_eq!(end, same);
    assert_ne!(one, other);
    let found = verify(&other).unwrap();
    assert_eq!((found.begin.app_version, found.end), (new, end));
}

#[test]
fn a_set_of_the_first_version_whose_digest_has_the_whole_mark_is_read() {
    let (mut bytes, end) = section(b"state", b"");
    bytes[8] = 1;
    let sum = crate::castagnoli::crc32c(&bytes[..BEGIN_LENGTH - 4]);
    bytes[BEGIN_LENGTH - 4..BEGIN_LENGTH].copy_from_slice(&sum.to_le_bytes());
    assert!(verify(&bytes).is_err(), "with the digest of version 2");
    let mut sums = Sums::new();
    sums.add_mark(&bytes[..BEGIN_LENGTH]);
    sums.add(b"state");
    assert_ne!(sums.end(), end);
    let at = bytes.len() - END_LENGTH;
    bytes[at..].copy_from_slice(&sums.end().encode());
    assert_eq!(verify(&bytes).unwrap().end, sums.end());
}

#[test]
fn a_newer_version_and_a_foreign_section_have_errors_of_their_own() {
    let (mut bytes, _) = section(b"", b"");
    bytes[8] = 3;
    let newer = SnapshotError::Format(FormatError::Newer(3));
    assert_eq!(verify(&bytes).unwrap_err(), newer);
    let (bytes, _) = section(b"", b"");
    let length = bytes.len() as u64;
    let service = Section::Service(ServiceId::default());
    for (cluster, section) in [(ClusterId(8), Section::Consensus), (CLUSTER, service)] {
        let mut given = Given(&bytes);
        let reader = SnapshotReader::new(&mut given, length, cluster, section);
        let foreign = SnapshotError::Format(FormatError::Foreign);
        assert_eq!(reader.err(), Some(foreign));
    }
}

#[test]
fn numbers_and_bytes_of_known_length_come_back() {
    let mut kept = Kept::default();
    let mut sums = Sums::new();
    let mut writer = SnapshotWriter::new(&mut kept, &mut sums);
    writer.begin(&begin()).unwrap();
    writer.u64(1 << 40).unwrap();
    writer.i64(-5).unwrap();
    writer.u32(9).unwrap();
    writer.bytes(b"name").unwrap();
    writer.bytes(b"longer").unwrap();
    writer.end().unwrap();
    let mut given = Given(&kept.0);
    let length = kept.0.len() as u64;
    let mut reader = SnapshotReader::new(&mut given, length, CLUSTER, Section::Consensus).unwrap();
    assert_eq!(reader.u64(), Ok(1 << 40));
    assert_eq!(reader.i64(), Ok(-5));
    assert_eq!(reader.u32(), Ok(9));
    let mut room = vec![0; 5];
    assert_eq!(reader.bytes(&mut room), Ok(&b"name"[..]));
    assert_eq!(reader.bytes(&mut room), Err(SnapshotError::TooLarge));
}

#[test]
fn the_sections_of_a_set_have_numbers() {
    for number in 0..20 {
        let section = Section::from_wire(number);
        assert_eq!(
            section.map(Section::to_wire),
            (number <= 10).then_some(number)
        );
    }
    assert_eq!(Section::from_wire(u16::MAX), None);
}
