//! The machines' disks, from outside: made before the first start, read after the last.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use coracle_core::log::{Frames, Messages, NodeState, Roster, Window, window_len};
use coracle_core::service::Service;
use coracle_core::service::kv::Kv;
use coracle_core::service::kv::codec::{Request, decode_request};
use coracle_core::snapshot::{Section, SnapshotError, SnapshotReader, SnapshotSource};
use coracle_core::units::{ClusterId, Incarnation, Position, ServiceId, Term};
use coracle_embedded::identity::{BLOCK, Identity};
use coracle_embedded::{Layout, Storage, Store};

use crate::load::{Acknowledged, key_of, value_of};

/// The log's window, when it is recovered here.
const WINDOW: usize = 64 << 10;
const FRAME_MAX: usize = 1 << 16;
/// A session message's header, in front of a client's own bytes.
const HEADER: usize = 32;
/// The memory of the image's key-value service.
const KV: usize = 256 << 10;
/// Room for a snapshot: of the service's three quarters, which is more than its memory.
const SNAPSHOT: u32 = 512 << 10;
/// Units of records, and those of the node's state.
const RECORDS: u32 = 8;
const STATES: u32 = 2;
/// What a disk is divided in.
const UNIT: u64 = 4096;

/// What a disk is made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Life {
    /// The first start of a member of a new cluster.
    First,
    /// In place of a disk that was lost, as `coracle init --replace`: the member counts for nobody
    /// until it has what the others have. The number is that of its life, never the same.
    Replaced(u64),
}

/// Writes by a member's log: key and value by version.
pub type Writes = BTreeMap<u64, (Vec<u8>, Vec<u8>)>;
/// Version and value by key.
pub type Entries = BTreeMap<Vec<u8>, (u64, Vec<u8>)>;

/// A disk's file behind its first block: what the node calls its storage.
struct Disk(File);

impl Storage for Disk {
    type Error = io::Error;

    fn capacity(&self) -> u64 {
        let len = self.0.metadata().map_or(0, |file| file.len());
        len.saturating_sub(BLOCK as u64)
    }

    fn read(&mut self, at: u64, into: &mut [u8]) -> io::Result<()> {
        self.0.read_exact_at(into, at + BLOCK as u64)
    }

    fn write(&mut self, at: u64, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all_at(bytes, at + BLOCK as u64)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.sync_data()
    }
}

fn other(error: impl std::fmt::Debug) -> io::Error {
    io::Error::other(format!("{error:?}"))
}

/// Makes the disk of a member, as large as its log may grow, with two snapshots and the records.
///
/// # Errors
/// The system's own, or an identity that does not fit.
pub fn make(path: &Path, identity: &Identity, life: Life) -> io::Result<()> {
    let file = File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .open(path)?;
    let layout = Layout {
        segment_length: identity.segment_length,
        snapshot_max: SNAPSHOT,
        record_units: RECORDS,
    };
    let records = UNIT * u64::from(RECORDS + STATES);
    file.set_len(BLOCK as u64 + identity.log_max + 2 * u64::from(SNAPSHOT) + records)?;
    let block = identity.encode().ok_or_else(|| other("it does not fit"))?;
    file.write_all_at(&block, 0)?;
    let (incarnation, votes) = match life {
        Life::First => (Incarnation::FIRST, true),
        // Never that of a first one.
        Life::Replaced(number) => (Incarnation(number | 1 << 63), false),
    };
    let state = NodeState {
        cluster: identity.cluster,
        member: identity.member,
        incarnation,
        term: Term::ZERO,
        vote: None,
        votes,
        quarantined: false,
        roster: Roster::FIRST,
    };
    Store::format_as(Disk(file), &layout, &state).map_err(other)?;
    Ok(())
}

/// What is on a disk.
#[derive(Debug)]
pub struct Contents {
    /// Where its log starts: what was below is purged.
    pub start: Position,
    /// Where its log ends, after recovery.
    pub end: Position,
    /// The position of its newest snapshot; zero if it has none.
    pub snapshot: u64,
    /// Every write of a key-value service's client that the log still has.
    writes: Writes,
    /// The newest of each key: the snapshot's, and what the log has above it.
    entries: Entries,
}

impl Contents {
    /// Whether an acknowledged write is there: itself in the log; or, if it is not above the
    /// snapshot, in what came of it, where later writes of its key take its place.
    pub fn has(&self, one: &Acknowledged) -> bool {
        let expected = (key_of(one.number), value_of(one.number));
        let newest = self.entries.get(&expected.0);
        let is_kept = newest.is_some_and(|(version, value)| {
            *version > one.version || (*version == one.version && *value == expected.1)
        });
        match self.writes.get(&one.version) {
            Some(found) => is_kept && *found == expected,
            None => is_kept && one.version <= self.snapshot,
        }
    }

    /// How many writes the log still has.
    pub fn in_log(&self) -> usize {
        self.writes.len()
    }
}

/// Recovers the log on a disk as its node would, but changes nothing, and takes out all writes.
///
/// # Errors
/// The system's own; a disk that its node could not start from.
pub fn read(path: &Path) -> io::Result<Contents> {
    // Recovery may write: not into the original.
    let copy = path.with_extension("copy");
    std::fs::copy(path, &copy)?;
    let contents = read_copy(&copy);
    std::fs::remove_file(&copy)?;
    contents
}

fn read_copy(path: &Path) -> io::Result<Contents> {
    let file = File::options().read(true).write(true).open(path)?;
    let mut block = [0; BLOCK];
    file.read_exact_at(&mut block, 0)?;
    let identity = Identity::decode(&block).map_err(other)?;
    let segment = identity.segment_length;
    let mtu = coracle_core::limits::MTU_DEFAULT;
    let memory = vec![0; window_len(WINDOW, mtu)];
    let mut window = Window::new(memory, mtu, segment).map_err(other)?;
    let mut scratch = vec![0; FRAME_MAX];
    let (mut store, _) = Store::open(Disk(file), segment).map_err(other)?;
    let recovered = store
        .recover(identity.cluster, &mut window, &mut scratch)
        .map_err(other)?;
    if let Some(at) = recovered.corrupt {
        return Err(other(format!("the log is damaged at {at}")));
    }
    let (start, end) = (recovered.start.position, recovered.tail.end);
    let (snapshot, mut entries) = snapshot(&mut store, identity.cluster)?;
    let mut writes = Writes::new();
    let (mut messages, mut assembly) = (Messages::new(), vec![0; FRAME_MAX]);
    let mut at = start;
    while at < end {
        let len = store.read(at, &mut scratch)?;
        let len = (len as u64).min(end.since(at)) as usize;
        let before = at;
        for frame in Frames::new(&scratch[..len], at, segment).verified() {
            at = frame.end();
            let Some(message) = messages.push(frame, &mut assembly) else {
                continue;
            };
            let body = message.bytes.get(HEADER..).unwrap_or_default();
            if let Ok((_, Request::Put { key, value })) = decode_request(body) {
                let (version, key) = (message.end.get(), key.to_vec());
                writes.insert(version, (key.clone(), value.to_vec()));
                if version > snapshot {
                    entries.insert(key, (version, value.to_vec()));
                }
            }
        }
        if at == before {
            return Err(other(format!("there is no sound frame at {at}")));
        }
    }
    Ok(Contents {
        start,
        end,
        snapshot,
        writes,
        entries,
    })
}

/// What the node keeps for a service stands before what that writes itself: when what was executed,
/// then sessions and timers of 24 bytes each. The map arms none, and offers no messages.
fn skip_sessions(from: &mut SnapshotReader<'_>) -> Result<(), SnapshotError> {
    from.array::<28>()?;
    for _ in 0..2 {
        for _ in 0..from.u32()? {
            from.array::<24>()?;
        }
    }
    match from.u32()? {
        0 => Ok(()),
        _ => Err(SnapshotError::Content),
    }
}

/// What the newest snapshot holds, and its position.
fn snapshot(store: &mut Store<Disk>, cluster: ClusterId) -> io::Result<(u64, Entries)> {
    let Some(mut source) = store.source() else {
        return Ok((0, Entries::new()));
    };
    let service = ServiceId::new(0).expect("the first service");
    let section = Section::Service(service);
    let opened = source.open(section).ok_or_else(|| other("no service"))?;
    let (bytes, length) = opened;
    let mut from = SnapshotReader::new(bytes, length, cluster, section).map_err(other)?;
    let position = from.begin().position.get();
    skip_sessions(&mut from).map_err(other)?;
    let mut kv = Kv::new(vec![0; KV]);
    kv.read_snapshot(&mut from).map_err(other)?;
    from.finish().map_err(other)?;
    let entry =
        |e: coracle_core::service::kv::Entry<'_>| (e.key.to_vec(), (e.version, e.value.to_vec()));
    Ok((position, kv.iter().map(entry).collect()))
}
