//! `<dir>/node-state`: term and vote in two sectors, written in turn and flushed before they count.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use coracle_core::log::{NodeState, SECTOR, SectorError};

use super::dir::exists;
use super::error::StorageError;
use super::segment::sync_dir;

/// The open file. It knows the sequence number of what it wrote last.
#[derive(Debug)]
pub struct NodeStateFile {
    file: File,
    path: PathBuf,
    seq: u64,
}

impl NodeStateFile {
    /// Makes the file of a member that has never run, under its name only once it is whole. The
    /// caller holds the directory's lock.
    ///
    /// # Errors
    /// [`StorageError::NotEmpty`] if there is one: another process has made it since the directory
    /// was found empty, and may have voted. Any error of the system, with the file's path.
    pub fn create(dir: &Path, state: &NodeState) -> Result<(), StorageError> {
        let path = dir.join("node-state");
        if exists(&path)? {
            let path = dir.to_path_buf();
            return Err(StorageError::NotEmpty { path });
        }
        let draft = dir.join("node-state.tmp");
        let mut bytes = [0u8; 2 * SECTOR];
        bytes[SECTOR..].copy_from_slice(&state.encode(1));
        let mut file = File::create(&draft).map_err(StorageError::io("create", &draft))?;
        file.write_all(&bytes)
            .map_err(StorageError::io("write", &draft))?;
        file.sync_all().map_err(StorageError::io("flush", &draft))?;
        std::fs::rename(&draft, &path).map_err(StorageError::io("rename", &draft))?;
        sync_dir(dir)
    }

    /// Opens the file of a member that was initialised.
    ///
    /// # Errors
    /// [`StorageError::Uninitialised`] if there is none, a newer version, damage, or any error of
    /// the system.
    pub fn open(dir: &Path) -> Result<(Self, NodeState), StorageError> {
        let path = dir.join("node-state");
        if !exists(&path)? {
            let path = dir.to_path_buf();
            return Err(StorageError::Uninitialised { path });
        }
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .open(&path)
            .map_err(StorageError::io("open", &path))?;
        let mut bytes = [0u8; 2 * SECTOR];
        file.read_exact_at(&mut bytes, 0)
            .map_err(StorageError::io("read", &path))?;
        let (a, b) = bytes.split_at(SECTOR);
        match NodeState::newest(a, b) {
            Ok(Some((seq, state))) => {
                let opened = Self { file, path, seq };
                // It may be in the page cache only, of a process that was killed before its flush
                // returned, or whose flush failed: nothing is promised on it until it is durable.
                // To its own sector: the other one is what is durable for certain.
                opened.put(seq, &state)?;
                Ok((opened, state))
            }
            Ok(None) => {
                let what = "both of its sectors are blank".into();
                Err(StorageError::Damaged { path, what })
            }
            Err(error) => Err(sector_error(path, error, NodeState::VERSION)),
        }
    }

    /// Writes the state and waits until it is on the disk.
    ///
    /// # Errors
    /// Any error of the system; the node must not go on.
    pub fn write(&mut self, state: &NodeState) -> Result<(), StorageError> {
        self.seq += 1;
        self.put(self.seq, state)
    }

    fn put(&self, seq: u64, state: &NodeState) -> Result<(), StorageError> {
        let offset = seq % 2 * SECTOR as u64;
        self.file
            .write_all_at(&state.encode(seq), offset)
            .map_err(StorageError::io("write", &self.path))?;
        self.file
            .sync_data()
            .map_err(StorageError::io("flush", &self.path))
    }
}

/// What a sector that cannot be used means for its file.
pub fn sector_error(path: PathBuf, error: SectorError, known: u16) -> StorageError {
    match error {
        SectorError::NewerVersion(found) => StorageError::Newer {
            path,
            found: found.into(),
            known: known.into(),
        },
        other => StorageError::Damaged {
            path,
            what: format!("a sector cannot be read ({other:?})"),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::Scratch;
    use super::*;
    use coracle_core::log::Roster;
    use coracle_core::units::{ClusterId, Incarnation, MemberId, Term};

    fn state(term: u32, vote: Option<u8>) -> NodeState {
        NodeState {
            cluster: ClusterId(7),
            member: MemberId::new(2).unwrap(),
            incarnation: Incarnation::FIRST,
            term: Term::new(term),
            vote: vote.and_then(MemberId::new),
            votes: true,
            quarantined: false,
            roster: Roster::FIRST,
        }
    }

    #[test]
    fn the_newest_state_is_read_back_and_a_torn_write_leaves_the_one_before() {
        let scratch = Scratch::new("node-state");
        let missing = NodeStateFile::open(scratch.path()).unwrap_err();
        assert!(matches!(missing, StorageError::Uninitialised { .. }));
        NodeStateFile::create(scratch.path(), &state(0, None)).unwrap();
        let again = NodeStateFile::create(scratch.path(), &state(0, None)).unwrap_err();
        assert!(matches!(again, StorageError::NotEmpty { .. }), "{again}");
        for term in 1..6 {
            let (mut file, before) = NodeStateFile::open(scratch.path()).unwrap();
            assert_eq!(before.term, Term::new(term - 1));
            file.write(&state(term, Some(1))).unwrap();
        }
        let (file, _) = NodeStateFile::open(scratch.path()).unwrap();
        // The last write went to the sector of its sequence number: tear it.
        let offset = file.seq % 2 * SECTOR as u64;
        file.file.write_all_at(&[0xFF; 100], offset).unwrap();
        let (_, before) = NodeStateFile::open(scratch.path()).unwrap();
        assert_eq!(before, state(4, Some(1)));
        file.file.write_all_at(&[0xFF; 1024], 0).unwrap();
        let error = NodeStateFile::open(scratch.path()).unwrap_err();
        assert!(matches!(error, StorageError::Damaged { .. }), "{error}");
    }
}
