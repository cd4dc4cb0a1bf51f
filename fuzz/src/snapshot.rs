//! Snapshots that a member starts from: sections of any bytes, and sound ones with any body. A node
//! takes a set or refuses it; if it refuses, it is as it was. What it takes it can write again, and
//! that is the same set.

use coracle_core::log::{NodeState, Recovered, Seed, Window};
use coracle_core::node::{Config, Lent, MemberAddress, Node};
use coracle_core::service::Service;
use coracle_core::service::kv::Kv;
use coracle_core::snapshot::{
    Begin, END_LENGTH, Section, SnapshotError, SnapshotSource, SnapshotWriter, Sums, Verifier,
};
use coracle_core::time::{Instant, Now, Timestamp};
use coracle_core::units::{AppVersion, ClusterId, MemberId, Position, ServiceId, Term};
use embedded_io::{ErrorKind, Read};

const CLUSTER: ClusterId = ClusterId(1);
const SEGMENT: u32 = 64 * 1024;
const MTU: usize = 1408;
const SESSIONS: usize = 3;
const AT: Position = Position::new(4096);

/// A set in memory.
struct Set {
    sections: [Vec<u8>; 2],
    reading: Reading,
}

#[derive(Default)]
struct Reading {
    bytes: Vec<u8>,
    at: usize,
}

impl embedded_io::ErrorType for Reading {
    type Error = ErrorKind;
}

impl Read for Reading {
    fn read(&mut self, into: &mut [u8]) -> Result<usize, ErrorKind> {
        let left = &self.bytes[self.at..];
        let len = left.len().min(into.len());
        into[..len].copy_from_slice(&left[..len]);
        self.at += len;
        Ok(len)
    }
}

impl SnapshotSource for Set {
    fn open(&mut self, section: Section) -> Option<(&mut dyn Read<Error = ErrorKind>, u64)> {
        let bytes = self.sections.get(usize::from(section.to_wire()))?.clone();
        let len = bytes.len() as u64;
        self.reading = Reading { bytes, at: 0 };
        Some((&mut self.reading, len))
    }
}

/// Keeps what is written.
#[derive(Default)]
struct Kept(Vec<u8>);

impl embedded_io::ErrorType for Kept {
    type Error = ErrorKind;
}

impl embedded_io::Write for Kept {
    fn write(&mut self, bytes: &[u8]) -> Result<usize, ErrorKind> {
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> Result<(), ErrorKind> {
        Ok(())
    }
}

/// A sound section with this body.
fn sound(section: Section, body: &[u8]) -> Vec<u8> {
    let begin = Begin {
        cluster: CLUSTER,
        section,
        app_version: AppVersion::new(0, 0, 1),
        position: AT,
        term: Term::new(2),
        chain: 7,
        timestamp: Timestamp(9),
        segment_length: SEGMENT,
    };
    let mut kept = Kept::default();
    let mut sums = Sums::new();
    let mut out = SnapshotWriter::new(&mut kept, &mut sums);
    out.begin(&begin).expect("memory takes everything");
    out.put(body).expect("memory takes everything");
    out.end().expect("memory takes everything");
    kept.0
}

/// The consensus section's last bytes name the service's section: made right, so that a body gets
/// as far as its content allows.
fn with_manifest(body: &[u8], service: &[u8]) -> Vec<u8> {
    let mut whole = body.to_vec();
    whole.extend_from_slice(&1_u32.to_le_bytes());
    // An end mark: magic, length, digest.
    let end = &service[service.len() - END_LENGTH..];
    whole.extend_from_slice(&end[8..24]);
    whole
}

fn node() -> Node<SESSIONS> {
    let member = MemberId::new(0).expect("0 is a member");
    let address = |n: usize, port: u16| ([10, 0, 0, 1 + n as u8], port).into();
    let listed = |n| MemberAddress::new(address(n, 9000), address(n, 9001));
    let members = std::array::from_fn(|n| (n < 3).then(|| listed(n)));
    let config = Config {
        segment_length: SEGMENT,
        mtu: MTU,
        egress_mtu: MTU,
        checkpoint_every: 192,
        ..Config::new(CLUSTER, member, members, 5)
    };
    let state = NodeState {
        term: Term::new(2),
        ..NodeState::first(CLUSTER, member)
    };
    let recovered = Recovered::empty(Seed {
        position: AT,
        chain: Some(7),
        term: Term::new(2),
    });
    let now = Now {
        instant: Instant::from_nanos(1),
        wall: Timestamp(1),
    };
    Node::new(config, state, &recovered, now).expect("a good configuration")
}

fn load(set: &mut Set) -> Result<(), SnapshotError> {
    let mut node = node();
    let before = node.clone();
    let mut kv = Kv::new(vec![0; 4096]);
    let mut log = Window::new(vec![0; 8 * 1024], MTU, SEGMENT).expect("large enough");
    let mut memory: [Vec<u8>; 7] = std::array::from_fn(|_| vec![0; 4096 + 64]);
    let [
        ingress,
        reassembly,
        egress,
        replay,
        catchup,
        assembly,
        services,
    ] = &mut memory;
    let mut lent = Lent {
        log: &mut log,
        ingress,
        reassembly,
        egress,
        replay,
        catchup,
        assembly,
        services,
    };
    let loaded = node.load_snapshot(set, &mut [&mut kv], &mut lent);
    match loaded {
        Ok(snapshot) => {
            assert_eq!(snapshot.position, AT);
            assert_eq!(node.applied(), AT);
            let digests: Vec<u64> = node.services().map(|s| s.digest).collect();
            assert_eq!(digests, [kv.digest()]);
            Ok(())
        }
        Err(error) => {
            assert!(node == before, "a set that is refused changes nothing");
            Err(error)
        }
    }
}

/// The first byte says what the others are, the next two how many of them are the first section's.
/// Says how much was taken: 1 for sound sections, 1 more for a set that a node starts from.
pub fn run(bytes: &[u8]) -> usize {
    let Some(([kind, low, high], rest)) = bytes.split_first_chunk() else {
        return 0;
    };
    let service = Section::Service(ServiceId::default());
    let first = usize::from(u16::from_le_bytes([*low, *high]));
    let (a, b) = rest.split_at(first.min(rest.len()));
    let sections = match kind % 3 {
        0 => [a.to_vec(), b.to_vec()],
        1 => [sound(Section::Consensus, a), sound(service, b)],
        _ => {
            let service = sound(service, b);
            let body = with_manifest(a, &service);
            [sound(Section::Consensus, &body), service]
        }
    };
    let mut sound_ones = 0;
    for (at, section) in [Section::Consensus, service].into_iter().enumerate() {
        let mut reading = Reading {
            bytes: sections[at].clone(),
            at: 0,
        };
        let length = sections[at].len() as u64;
        let mut scratch = [0; 64];
        let found = Verifier::run(
            &mut reading,
            length,
            CLUSTER,
            section,
            Some(AT),
            &mut scratch,
        );
        assert!(
            found.is_ok() || kind % 3 == 0,
            "what was written sound is sound"
        );
        sound_ones += usize::from(found.is_ok());
    }
    let mut set = Set {
        sections,
        reading: Reading::default(),
    };
    usize::from(sound_ones == 2) + usize::from(load(&mut set).is_ok())
}

/// A set that is taken, as a start for others: a roster, no session, and an empty service.
pub fn seed() -> Vec<u8> {
    let mut roster = vec![1, 0, 0, 0];
    roster.extend_from_slice(&0_u64.to_le_bytes());
    for _ in 0..7 {
        roster.extend_from_slice(&1_u64.to_le_bytes());
        roster.extend_from_slice(&0_u64.to_le_bytes());
    }
    roster.extend_from_slice(&0_u32.to_le_bytes());
    let mut host = vec![1, 0, 0, 0];
    host.extend_from_slice(&[0; 24]);
    host.extend_from_slice(&[0; 12]);
    let mut kept = Kept::default();
    let mut sums = Sums::new();
    let mut kv = Kv::new(vec![0; 4096]);
    kv.begin_snapshot();
    let mut out = SnapshotWriter::new(&mut kept, &mut sums);
    while kv
        .write_snapshot(&mut out)
        .expect("memory takes everything")
        == coracle_core::snapshot::Progress::More
    {}
    host.extend_from_slice(&kept.0);
    let mut bytes = vec![2];
    bytes.extend_from_slice(&(roster.len() as u16).to_le_bytes());
    bytes.extend_from_slice(&roster);
    bytes.extend_from_slice(&host);
    bytes
}
