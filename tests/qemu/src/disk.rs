//! The machines' disks, from outside: made before the first start, read after the last.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use coracle_core::log::{Frames, Messages, NodeState, Roster, Window, window_len};
use coracle_core::service::kv::codec::{Request, decode_request};
use coracle_core::units::{Incarnation, Position, Term};
use coracle_embedded::identity::{BLOCK, Identity};
use coracle_embedded::{Storage, Store};

/// The log's window, when it is recovered here.
const WINDOW: usize = 1 << 20;
const FRAME_MAX: usize = 1 << 16;
/// A session message's header, in front of a client's own bytes.
const HEADER: usize = 32;
/// The last write of a key by a member's log, by its version.
pub type Writes = BTreeMap<u64, (Vec<u8>, Vec<u8>)>;

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

/// Makes the disk of a member of a new cluster.
///
/// # Errors
/// The system's own, or an identity that does not fit.
pub fn make(path: &Path, identity: &Identity) -> io::Result<()> {
    let file = File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .open(path)?;
    let segment = u64::from(identity.segment_length);
    let segments = identity.log_max / segment;
    // As much again for snapshots and records. What is never written takes no room here.
    let length = BLOCK as u64 + 2 * segments * segment;
    file.set_len(length.next_multiple_of(4096))?;
    let block = identity.encode().ok_or_else(|| other("it does not fit"))?;
    file.write_all_at(&block, 0)?;
    let state = NodeState {
        cluster: identity.cluster,
        member: identity.member,
        incarnation: Incarnation::FIRST,
        term: Term::ZERO,
        vote: None,
        votes: true,
        quarantined: false,
        roster: Roster::FIRST,
    };
    Store::format(Disk(file), identity.segment_length, &state).map_err(other)?;
    Ok(())
}

/// What is on a disk.
#[derive(Debug)]
pub struct Contents {
    /// Where its log ends, after recovery.
    pub end: Position,
    /// Every write of a key-value service's client.
    pub writes: Writes,
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
    let end = recovered.tail.end;
    let mut writes = Writes::new();
    let (mut messages, mut assembly) = (Messages::new(), vec![0; FRAME_MAX]);
    let mut at = recovered.start.position;
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
                writes.insert(message.end.get(), (key.to_vec(), value.to_vec()));
            }
        }
        if at == before {
            return Err(other(format!("there is no sound frame at {at}")));
        }
    }
    Ok(Contents { end, writes })
}
