//! `<dir>/counters`: what a node is doing, in a file that other processes map and read.
//!
//! ```text
//!    0  magic "CORACLEc"
//!    8  version u32, number of counters u32
//!   16  cluster u64
//!   24  member u64
//!   32  process id u64 (0 when the node has closed)
//!   40  sequence u64: odd while an update is being written
//!   64  counters, u64 each, in the order of `Counter`
//! ```
//! Little endian, 4,096 bytes. New counters are added at the end and do not change the version. The
//! file's content is not flushed: after a power cut it says what was true some seconds before.

use std::fs::OpenOptions;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering, fence};

use memmap2::{Mmap, MmapMut};

use crate::storage::StorageError;
use crate::storage::segment::sync_dir;

const MAGIC: u64 = u64::from_le_bytes(*b"CORACLEc");
const VERSION: u32 = 1;
const LENGTH: u64 = 4096;
const WORD_VERSION: usize = 1;
const WORD_CLUSTER: usize = 2;
const WORD_MEMBER: usize = 3;
const WORD_PROCESS: usize = 4;
const WORD_SEQUENCE: usize = 5;
const WORD_FIRST: usize = 8;

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident = $text:literal,)*) => {
        /// The counters, in the order of the file.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(usize)]
        #[non_exhaustive]
        pub enum Counter { $($(#[$doc])* $name,)* }

        impl Counter {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$name),*];

            /// What it is called in tables and in JSON.
            pub fn name(self) -> &'static str {
                match self { $(Self::$name => $text),* }
            }
        }
    };
}

counters! {
    /// 0 follower, 1 candidate, 2 leader.
    Role = "role",
    /// The leadership term.
    Term = "term",
    /// The end of the log in memory.
    Appended = "appended",
    /// The end of what is flushed.
    Durable = "durable",
    /// The end of what is committed.
    Committed = "committed",
    /// The end of what the service has executed.
    Applied = "applied",
    /// The digest of the service's state at `applied`.
    Digest = "digest",
    /// Open client sessions.
    Sessions = "sessions",
    /// Datagrams that were refused, whatever the reason.
    Rejects = "rejects",
    /// Datagrams received.
    Received = "received",
    /// Datagrams that the kernel took.
    Sent = "sent",
    /// Datagrams that the kernel refused.
    SendRefused = "send_refused",
    /// Flushes of the log.
    Flushes = "flushes",
    /// Elections this node has won since it started.
    ElectionsWon = "elections_won",
    /// The lowest position whose bytes are not in the segment files yet.
    Written = "written",
    /// The position of the oldest byte of the log.
    LogStart = "log_start",
    /// Bytes of disk that the log takes up.
    LogBytes = "log_bytes",
    /// The position of the newest snapshot, or 0.
    Snapshot = "snapshot",
    /// Snapshots that were given up since the node started.
    SnapshotsFailed = "snapshots_failed",
    /// For how long bytes of the log have waited for the disk, in milliseconds.
    FlushAge = "flush_age_ms",
    /// For how long the slowest service has not moved although there is something to execute, in
    /// milliseconds.
    ServiceAge = "service_age_ms",
    /// 1 if this member's state differs from the others': it must be rebuilt.
    Quarantined = "quarantined",
    /// Steps of the wall clock by more than a second.
    ClockSteps = "clock_steps",
    /// The settings by which this member differs from its leader, and therefore does not join it: a
    /// bit for each, as in a status report.
    SettingsDiffer = "settings_differ",
    /// Services that have panicked on their threads since the node started.
    ServicesFailed = "services_failed",
    /// Bytes of log frames that this member has sent as a leader: once to all, or once to each.
    LogSent = "log_sent",
    /// Requests to send log frames again that this member has made.
    Naks = "naks",
}

/// One consistent reading, indexed by [`Counter`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reading {
    /// The cluster.
    pub cluster: u64,
    /// The member.
    pub member: u64,
    /// The node's process, or 0 if it has closed.
    pub process: u64,
    values: [u64; Counter::ALL.len()],
}

impl Reading {
    /// One value.
    pub fn get(&self, counter: Counter) -> u64 {
        self.values[counter as usize]
    }
}

/// The node's end: one writer.
#[derive(Debug)]
pub struct CountersFile {
    map: MmapMut,
    sequence: u64,
}

impl CountersFile {
    /// Makes the file anew, all counters zero.
    ///
    /// # Errors
    /// Any error of the system, with the file's path.
    pub fn create(path: &Path, cluster: u64, member: u64) -> Result<Self, StorageError> {
        // Under another name first: a reader that has the old file mapped keeps the old file.
        let draft = path.with_extension("tmp");
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(&draft)
            .map_err(StorageError::io("create", &draft))?;
        std::io::Write::write_all(&mut &file, &[0; LENGTH as usize])
            .map_err(StorageError::io("fill", &draft))?;
        // SAFETY: a shared map of a file that was just written whole (so that no access can meet a
        // missing block) and that only grows or is replaced, never truncated, by this program.
        let map = unsafe { MmapMut::map_mut(&file) }.map_err(StorageError::io("map", &draft))?;
        let counters = Self { map, sequence: 0 };
        let head = u64::from(VERSION) | ((Counter::ALL.len() as u64) << 32);
        for (word, value) in [
            (WORD_VERSION, head),
            (WORD_CLUSTER, cluster),
            (WORD_MEMBER, member),
            (WORD_PROCESS, u64::from(std::process::id())),
            (0, MAGIC),
        ] {
            counters.words()[word].store(value.to_le(), Ordering::Release);
        }
        std::fs::rename(&draft, path).map_err(StorageError::io("rename", &draft))?;
        // The name outlives a power cut, though what is in the file may be older.
        if let Some(dir) = path.parent() {
            sync_dir(dir)?;
        }
        Ok(counters)
    }

    /// Publishes new values, all at once for whoever reads them with `CountersReader`.
    pub fn publish(&mut self, values: &[(Counter, u64)]) {
        self.sequence += 1;
        let words = self.words();
        words[WORD_SEQUENCE].store(self.sequence.to_le(), Ordering::Relaxed);
        fence(Ordering::Release);
        for (counter, value) in values {
            words[WORD_FIRST + *counter as usize].store(value.to_le(), Ordering::Relaxed);
        }
        self.sequence += 1;
        self.words()[WORD_SEQUENCE].store(self.sequence.to_le(), Ordering::Release);
    }

    /// Says that the node has closed.
    pub fn close(self) {
        self.words()[WORD_PROCESS].store(0, Ordering::Release);
    }

    fn words(&self) -> &[AtomicU64] {
        words(&self.map)
    }
}

/// Any process's end.
#[derive(Debug)]
pub struct CountersReader {
    map: Mmap,
}

impl CountersReader {
    /// Maps the counters of the data directory `dir`.
    ///
    /// # Errors
    /// Any error of the system, a file that is none of counters, or a newer version.
    pub fn open(dir: &Path) -> Result<Self, StorageError> {
        let path = dir.join("counters");
        let file = OpenOptions::new()
            .read(true)
            .open(&path)
            .map_err(StorageError::io("open", &path))?;
        let length = file
            .metadata()
            .map_err(StorageError::io("examine", &path))?
            .len();
        let damaged = |what: &str| StorageError::Damaged {
            path: path.clone(),
            what: what.into(),
        };
        if length != LENGTH {
            return Err(damaged("it is not 4,096 bytes long"));
        }
        // SAFETY: the length was checked, and the file is never truncated (see `create`).
        let map = unsafe { Mmap::map(&file) }.map_err(StorageError::io("map", &path))?;
        let head = words(&map);
        if u64::from_le(head[0].load(Ordering::Acquire)) != MAGIC {
            return Err(damaged("it does not start as a counters file does"));
        }
        let found = u64::from_le(head[WORD_VERSION].load(Ordering::Relaxed)) as u32;
        if found != VERSION {
            let known = VERSION;
            return Err(StorageError::Newer { path, found, known });
        }
        Ok(Self { map })
    }

    /// One consistent reading. Bounded: after 1,000 tries against a busy writer (or one that died
    /// in mid-update) it takes what it got.
    pub fn read(&self) -> Reading {
        let words = words(&self.map);
        let word = |at: usize| u64::from_le(words[at].load(Ordering::Relaxed));
        let mut values = [0; Counter::ALL.len()];
        for _ in 0..1000 {
            let before = u64::from_le(words[WORD_SEQUENCE].load(Ordering::Acquire));
            for (at, value) in values.iter_mut().enumerate() {
                *value = word(WORD_FIRST + at);
            }
            fence(Ordering::Acquire);
            if before.is_multiple_of(2) && before == word(WORD_SEQUENCE) {
                break;
            }
            std::hint::spin_loop();
        }
        Reading {
            cluster: word(WORD_CLUSTER),
            member: word(WORD_MEMBER),
            process: word(WORD_PROCESS),
            values,
        }
    }
}

fn words(map: &[u8]) -> &[AtomicU64] {
    // SAFETY: an AtomicU64 may hold any 8 bytes; `align_to` keeps to the aligned middle, which is
    // the whole map, because a map starts at a page; and every access to the map is through these
    // atomics.
    let (before, words, _) = unsafe { map.align_to::<AtomicU64>() };
    assert!(before.is_empty(), "a map starts at a page");
    words
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::testing::Scratch;

    #[test]
    fn another_process_reads_what_was_published() {
        let scratch = Scratch::new("counters");
        let path = scratch.path().join("counters");
        let mut counters = CountersFile::create(&path, 7, 2).unwrap();
        counters.publish(&[(Counter::Term, 5), (Counter::Written, 96)]);
        let reader = CountersReader::open(scratch.path()).unwrap();
        let reading = reader.read();
        assert_eq!((reading.cluster, reading.member), (7, 2));
        assert_eq!(reading.process, u64::from(std::process::id()));
        assert_eq!(reading.get(Counter::Term), 5);
        assert_eq!(reading.get(Counter::Written), 96);
        counters.publish(&[(Counter::Term, 6)]);
        assert_eq!(reader.read().get(Counter::Term), 6);
        counters.close();
        assert_eq!(reader.read().process, 0);
    }

    #[test]
    fn other_files_and_other_versions_are_refused() {
        let scratch = Scratch::new("counters-bad");
        let path = scratch.path().join("counters");
        std::fs::write(&path, [0; 4096]).unwrap();
        let error = CountersReader::open(scratch.path()).unwrap_err();
        assert!(matches!(error, StorageError::Damaged { .. }), "{error}");
        let mut bytes = [0; 4096];
        bytes[..8].copy_from_slice(b"CORACLEc");
        bytes[8] = 2;
        std::fs::write(&path, bytes).unwrap();
        let error = CountersReader::open(scratch.path()).unwrap_err();
        assert!(
            matches!(error, StorageError::Newer { found: 2, .. }),
            "{error}"
        );
    }
}
