//! One file of the log: a header that stays on this machine, then `segment_length` bytes of stream.
//!
//! ```text
//!      0  slot 0    512 bytes, written together with the data it speaks of
//!    512  slot 1    512 bytes, the other one of the two (others are beside the data: `slots.rs`)
//!   1024  label     written once: magic "CORACLEs", version u32, cluster u64, base u64,
//!                   segment length u32, start - base u32; CRC-32C of these 36 bytes
//!   4096  data      the bytes [base, base + segment_length) of the stream, frames as on the wire
//! ```
//! The stream's bytes below `start` do not exist in this file. It is above `base` only in the first
//! file of a log that goes on after a snapshot. Labels of version 1 have zeros there.
//!
//! A file is made under another name, then renamed. Its bytes are written as zeros, so that later
//! writes neither allocate blocks nor convert extents (a flush then costs half), before it gets its
//! name or afterwards (`ahead.rs`). Where no flush is waited for its blocks are only reserved, if
//! the file system can: the bytes read as zeros, and are not written twice.
//!
//! A file that was purged becomes a later one of the same log (`spares.rs`): then its slots and its
//! first block are zeros, and all else is what was there. None of that can be taken for the log's:
//! each frame says where it belongs, and that was below. What a truncation has left is harder to
//! tell, and recovery has to do that anyway.

use std::fs::{File, OpenOptions};
use std::io::{self, IoSlice, IoSliceMut, Write};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{SeekFrom, seek};
use rustix::io::{Errno, ReadWriteFlags, preadv2, pwritev2};

use super::dir::exists;
use super::error::StorageError;
use super::label::{LABEL_LENGTH, LABEL_OFFSET, Label, LabelError, VERSION};

/// Bytes before the stream's bytes in each segment file.
pub const HEADER_LENGTH: u64 = 4096;
/// What file systems read, and keep, as one: both ends of a file's stream are at multiples.
pub(super) const BLOCK: u64 = 4096;
/// How a new file's bytes come to be zeros.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fill {
    /// Each is written: flushes are short later.
    Written,
    /// Their blocks are reserved, which costs next to nothing.
    Reserved,
}

/// An open segment file.
#[derive(Debug)]
pub struct Segment {
    file: File,
    path: PathBuf,
    label: Label,
    /// Whether this process has made it with its blocks reserved only.
    is_blank: bool,
}

impl Segment {
    /// The file name of the segment that starts at `base`.
    pub fn name(base: u64) -> String {
        format!("{base:020}.seg")
    }

    /// The base in a file name that `name` made.
    pub fn base_of(name: &str) -> Option<u64> {
        let digits = name.strip_suffix(".seg")?;
        if digits.len() == 20 {
            digits.parse().ok()
        } else {
            None
        }
    }

    /// Makes a new file in `dir`, with room for every byte of it, flushed before it gets its name.
    ///
    /// # Errors
    /// Any error of the system, with the file's path.
    pub fn create(dir: &Path, label: Label, fill: Fill) -> Result<Self, StorageError> {
        let path = dir.join(Self::name(label.base));
        let draft = dir.join(format!("{}.tmp", Self::name(label.base)));
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(&draft)
            .map_err(StorageError::io("create", &draft))?;
        #[cfg(test)]
        super::testing::require_room(&draft)?;
        let is_blank = write_blank(&mut file, &label, fill).inspect_err(|_| {
            // If there was no room, what it has must not stay taken. The first failure counts.
            drop(std::fs::remove_file(&draft));
        });
        let is_blank = is_blank.map_err(StorageError::io("fill", &draft))?;
        file.sync_all().map_err(StorageError::io("flush", &draft))?;
        std::fs::rename(&draft, &path).map_err(StorageError::io("rename", &draft))?;
        sync_dir(dir)?;
        Ok(Self {
            file,
            path,
            label,
            is_blank,
        })
    }

    /// Makes the next file of a log of one that is not needed any more, `spare`. Its blocks are
    /// there and written; all but the header and the first block stays as it is. The directory is
    /// still to be flushed.
    ///
    /// # Errors
    /// Any error of the system, with the file's path; and if it has another length.
    pub(super) fn recycle(dir: &Path, spare: &Path, label: Label) -> Result<Self, StorageError> {
        let path = dir.join(Self::name(label.base));
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .open(spare)
            .map_err(StorageError::io("open", spare))?;
        let length = file
            .metadata()
            .map_err(StorageError::io("examine", spare))?
            .len();
        if length != HEADER_LENGTH + u64::from(label.segment_length) {
            return Err(StorageError::Damaged {
                path: spare.to_path_buf(),
                what: format!("it is {length} bytes long, not as long as others"),
            });
        }
        let mut head = [0; HEADER_LENGTH as usize + BLOCK as usize];
        head[LABEL_OFFSET as usize..][..LABEL_LENGTH].copy_from_slice(&label.encode());
        write_through(&file, &head).map_err(StorageError::io("write", spare))?;
        std::fs::rename(spare, &path).map_err(StorageError::io("rename", spare))?;
        Ok(Self {
            file,
            path,
            label,
            is_blank: false,
        })
    }

    /// Opens an existing file and reads its label.
    ///
    /// # Errors
    /// Any error of the system, a damaged label, a newer version, or a file of the wrong length.
    pub fn open(path: &Path, writable: bool) -> Result<Self, StorageError> {
        let file = OpenOptions::new()
            .read(true)
            .write(writable)
            .open(path)
            .map_err(StorageError::io("open", path))?;
        let mut bytes = [0u8; LABEL_LENGTH];
        file.read_exact_at(&mut bytes, LABEL_OFFSET)
            .map_err(StorageError::io("read", path))?;
        let label = Label::decode(&bytes).map_err(|error| match error {
            LabelError::Newer(found) => StorageError::Newer {
                path: path.to_path_buf(),
                found,
                known: VERSION,
            },
            LabelError::Damaged => StorageError::Damaged {
                path: path.to_path_buf(),
                what: "its label does not match its checksum".into(),
            },
        })?;
        let length = file
            .metadata()
            .map_err(StorageError::io("examine", path))?
            .len();
        if length != HEADER_LENGTH + u64::from(label.segment_length) {
            return Err(StorageError::Damaged {
                path: path.to_path_buf(),
                what: format!("it is {length} bytes long, not what its label says"),
            });
        }
        let path = path.to_path_buf();
        Ok(Self {
            file,
            path,
            label,
            is_blank: false,
        })
    }

    /// Checks that the file belongs to this cluster and has the configured length.
    ///
    /// # Errors
    /// [`StorageError::Foreign`].
    pub fn belongs(&self, cluster: u64, segment_length: u32) -> Result<(), StorageError> {
        let foreign = |what, expected, found| StorageError::Foreign {
            path: self.path.clone(),
            what,
            expected,
            found,
        };
        if self.label.cluster != cluster {
            return Err(foreign("cluster", cluster, self.label.cluster));
        }
        if self.label.segment_length != segment_length {
            let found = self.label.segment_length.into();
            return Err(foreign("segment length", segment_length.into(), found));
        }
        Ok(())
    }

    /// What the file says about itself.
    pub fn label(&self) -> Label {
        self.label
    }

    /// From which byte of the stream on, given by how far behind the base it is, its blocks are
    /// reserved only, up to its end: all that can be read there is zeros. None if the file system
    /// does not say so.
    pub fn reserved_from(&self) -> Option<u32> {
        if self.is_blank {
            return Some(0);
        }
        let end = HEADER_LENGTH + u64::from(self.label.segment_length);
        let hole = seek(&self.file, SeekFrom::Hole(HEADER_LENGTH)).ok()?;
        let is_rest = seek(&self.file, SeekFrom::Data(hole)) == Err(Errno::NXIO);
        let from = hole.checked_sub(HEADER_LENGTH)?;
        (is_rest && hole < end).then_some(from as u32)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether it is the file that it was when it was opened: one that is purged may become
    /// another one while somebody has it open.
    ///
    /// # Errors
    /// Any error of the system, with the file's path.
    pub fn is_still(&self) -> Result<bool, StorageError> {
        let mut bytes = [0u8; LABEL_LENGTH];
        self.file
            .read_exact_at(&mut bytes, LABEL_OFFSET)
            .map_err(StorageError::io("read", &self.path))?;
        Ok(Label::decode(&bytes) == Ok(self.label))
    }

    /// Writes stream bytes from `offset` bytes after the base on.
    ///
    /// # Errors
    /// Any error of the system, with the file's path.
    pub fn write_data(&self, offset: u64, bytes: &[u8]) -> Result<(), StorageError> {
        self.write(HEADER_LENGTH + offset, bytes)
    }

    /// The same for bytes at the log's end, in two pieces: with one call, so that none of what may
    /// be there already is gone in between. If they end in another block than they begin in, the
    /// rest of that is zeros afterwards, unless it is kept: so no block is written in part that the
    /// system would have to read for that. (One is kept that was written a moment ago.)
    ///
    /// # Errors
    /// Any error of the system, with the file's path.
    pub fn write_end(
        &self,
        offset: u64,
        pieces: [&[u8]; 2],
        keeps_rest: bool,
    ) -> Result<(), StorageError> {
        const ZEROS: &[u8] = &[0; BLOCK as usize];
        let [first, second] = pieces.map(<[u8]>::len);
        let end = offset + (first + second) as u64;
        let is_in_one = !offset.is_multiple_of(BLOCK) && offset / BLOCK == end / BLOCK;
        let rest = match is_in_one || keeps_rest {
            true => 0,
            false => (end.next_multiple_of(BLOCK) - end) as usize,
        };
        let parts = [pieces[0], pieces[1], &ZEROS[..rest]];
        #[cfg(test)]
        super::testing::write_blocks(&self.path, HEADER_LENGTH + offset, first + second + rest)?;
        if write_all_three(&self.file, parts, HEADER_LENGTH + offset) {
            return Ok(());
        }
        // The disk is full, or a signal came in between: what is missing is written, or the error
        // is told.
        let mut at = offset;
        for part in parts {
            self.write_data(at, part)?;
            at += part.len() as u64;
        }
        Ok(())
    }

    /// Writes zeros to bytes of the stream, given by how far behind the base they are, and waits
    /// until the disk has taken them.
    ///
    /// # Errors
    /// Any error of the system, with the file's path.
    pub fn write_zeros(&self, from: u32, until: u32) -> Result<(), StorageError> {
        const ZEROS: &[u8] = &[0; 64 << 10];
        let mut at = from;
        while at < until {
            let run = ZEROS.len().min((until - at) as usize);
            self.write_data(at.into(), &ZEROS[..run])?;
            at += run as u32;
        }
        let offset = HEADER_LENGTH + u64::from(from);
        write_back(&self.file, offset, (until - from).into())
            .map_err(StorageError::io("write back", &self.path))
    }

    /// Reads stream bytes from `offset` bytes after the base on: all of `bytes`.
    ///
    /// # Errors
    /// Any error of the system, with the file's path.
    pub fn read_data(&self, offset: u64, bytes: &mut [u8]) -> Result<(), StorageError> {
        self.read(HEADER_LENGTH + offset, bytes)
    }

    /// As [`Self::read_data`], if the system has all of it in memory. If not, false: what `bytes`
    /// are then means nothing. Waits for no disk.
    pub fn read_cached(&self, offset: u64, bytes: &mut [u8]) -> bool {
        let (offset, len) = (HEADER_LENGTH + offset, bytes.len());
        #[cfg(test)]
        if super::testing::read_blocks(&self.path, offset, len).is_err() {
            return false;
        }
        let mut parts = [IoSliceMut::new(bytes)];
        preadv2(&self.file, &mut parts, offset, ReadWriteFlags::NOWAIT) == Ok(len)
    }

    /// Waits until everything written before is on the disk.
    ///
    /// # Errors
    /// Any error of the system; then nothing written before may be believed (fsync is not
    /// repeatable).
    pub fn flush(&self) -> Result<(), StorageError> {
        self.file
            .sync_data()
            .map_err(StorageError::io("flush", &self.path))
    }

    /// Reads from anywhere in the file.
    pub(super) fn read(&self, offset: u64, bytes: &mut [u8]) -> Result<(), StorageError> {
        #[cfg(test)]
        super::testing::read_blocks(&self.path, offset, bytes.len())?;
        self.file
            .read_exact_at(bytes, offset)
            .map_err(StorageError::io("read", &self.path))
    }

    /// Writes to anywhere in the file.
    pub(super) fn write(&self, offset: u64, bytes: &[u8]) -> Result<(), StorageError> {
        #[cfg(test)]
        super::testing::write_blocks(&self.path, offset, bytes.len())?;
        self.file
            .write_all_at(bytes, offset)
            .map_err(StorageError::io("write", &self.path))
    }
}

/// Opens the file in the directory `log` that starts at `base`, which is made if it is missing.
///
/// # Errors
/// As `Segment::open`, `Segment::belongs` and `Segment::create`.
pub fn ensure(
    log: &Path,
    cluster: u64,
    base: u64,
    segment_length: u32,
    fill: Fill,
) -> Result<Arc<Segment>, StorageError> {
    let path = log.join(Segment::name(base));
    let segment = if exists(&path)? {
        let segment = Segment::open(&path, true)?;
        segment.belongs(cluster, segment_length)?;
        segment
    } else {
        let label = Label::starting_at(base, cluster, segment_length);
        Segment::create(log, label, fill)?
    };
    Ok(Arc::new(segment))
}

/// Flushes a directory, so that names made or changed in it live through a power cut.
///
/// # Errors
/// Any error of the system, with the directory's path.
pub fn sync_dir(dir: &Path) -> Result<(), StorageError> {
    #[cfg(test)]
    super::testing::note_flushed(dir);
    File::open(dir)
        .and_then(|file| file.sync_all())
        .map_err(StorageError::io("flush the directory", dir))
}

/// Waits until the disk has taken bytes that were written. Not a flush: that would also bring the
/// file's length and the disk's own cache to rest, and the log's flushes would wait for it.
///
/// # Errors
/// Any error of the system.
pub(super) fn write_back(file: &File, offset: u64, len: u64) -> io::Result<()> {
    let wait = libc::SYNC_FILE_RANGE_WAIT_BEFORE
        | libc::SYNC_FILE_RANGE_WRITE
        | libc::SYNC_FILE_RANGE_WAIT_AFTER;
    let (offset, len) = (offset as libc::off64_t, len as libc::off64_t);
    // SAFETY: a call with an open file and numbers; it touches no memory of ours.
    if unsafe { libc::sync_file_range(file.as_raw_fd(), offset, len, wait) } == 0 {
        return Ok(());
    }
    let error = io::Error::last_os_error();
    match error.raw_os_error() {
        // Not every system has it (sandboxes): a flush does more than is wanted.
        Some(libc::ENOSYS | libc::EOPNOTSUPP) => file.sync_data(),
        _ => Err(error),
    }
}

/// False if they were not, or not all of them.
fn write_all_three(file: &File, parts: [&[u8]; 3], offset: u64) -> bool {
    let slices = parts.map(IoSlice::new);
    let (pieces, count) = (slices.as_ptr().cast::<libc::iovec>(), slices.len() as i32);
    // SAFETY: `IoSlice` is an `iovec` by its documentation, and there are so many, of bytes that
    // are borrowed for the call.
    let written = unsafe { libc::pwritev(file.as_raw_fd(), pieces, count, offset as libc::off_t) };
    let all: usize = parts.iter().map(|part| part.len()).sum();
    usize::try_from(written) == Ok(all)
}

/// Writes to a file's start, and waits until that is on the disk: that alone. A flush would write
/// back all of the file that was not written back yet, and nobody needs that any more.
fn write_through(file: &File, bytes: &[u8]) -> io::Result<()> {
    match pwritev2(file, &[IoSlice::new(bytes)], 0, ReadWriteFlags::DSYNC) {
        Ok(written) if written == bytes.len() => Ok(()),
        // Not every system has it.
        Ok(_) | Err(Errno::INTR | Errno::NOSYS | Errno::OPNOTSUPP | Errno::INVAL) => {
            file.write_all_at(bytes, 0)?;
            file.sync_data()
        }
        Err(error) => Err(error.into()),
    }
}

/// Whether its blocks are reserved only.
fn write_blank(file: &mut File, label: &Label, fill: Fill) -> io::Result<bool> {
    let length = HEADER_LENGTH + u64::from(label.segment_length);
    let reserve = || rustix::fs::fallocate(&*file, rustix::fs::FallocateFlags::empty(), 0, length);
    let is_reserved = match rustix::io::retry_on_intr(reserve) {
        Ok(()) => true,
        // Not every file system has it; writing all bytes reserves them as well.
        Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => false,
        Err(other) => return Err(other.into()),
    };
    let is_blank = is_reserved && fill == Fill::Reserved;
    if !is_blank {
        let zeros = vec![0u8; 256 << 10];
        let mut left = length;
        while left > 0 {
            let run = left.min(zeros.len() as u64) as usize;
            file.write_all(&zeros[..run])?;
            left -= run as u64;
        }
    }
    file.write_all_at(&label.encode(), LABEL_OFFSET)?;
    Ok(is_blank)
}

#[cfg(test)]
mod tests {
    use super::super::testing::Scratch;
    use super::*;

    const LABEL: Label = Label {
        cluster: 7,
        base: 1 << 16,
        start: 1 << 16,
        segment_length: 1 << 16,
    };

    #[test]
    fn what_is_written_is_read_back() {
        for fill in [Fill::Written, Fill::Reserved] {
            write_and_read(fill);
        }
    }

    fn write_and_read(fill: Fill) {
        let scratch = Scratch::new("segment");
        let segment = Segment::create(scratch.path(), LABEL, fill).unwrap();
        segment.write_data(64, b"bytes").unwrap();
        segment.flush().unwrap();
        let path = scratch.path().join(Segment::name(LABEL.base));
        let again = Segment::open(&path, false).unwrap();
        assert_eq!(again.label(), LABEL);
        let mut bytes = [0; 7];
        again.read_data(63, &mut bytes).unwrap();
        assert_eq!(&bytes, b"\0bytes\0");
        assert_eq!(Segment::base_of("00000000000000065536.seg"), Some(65536));
        assert_eq!(Segment::base_of("00000000000000065536.seg.tmp"), None);
    }

    #[test]
    fn the_rest_of_a_block_that_is_begun_is_zeros_and_of_one_that_was_begun_is_kept() {
        let scratch = Scratch::new("segment-end");
        let segment = Segment::create(scratch.path(), LABEL, Fill::Reserved).unwrap();
        let length = LABEL.segment_length as usize;
        let mut model = vec![9; length];
        segment.write_data(0, &model).unwrap();
        // From where to where, up to where zeros follow, and in which quarter the pieces meet.
        for (from, to, zeros, split) in [
            (0, 96, 4096, 4),
            (96, 128, 128, 1),
            (128, 4096, 4096, 2),
            (4096, 8192, 8192, 0),
            (8192, 8224, 12288, 4),
            (8224, 12320, 16384, 3),
            (12320, 30000, 32768, 1),
            (28000, 30000, 30000, 1),
            (30000, 65536, 65536, 2),
        ] {
            let bytes = vec![from as u8 | 1; to - from];
            let pieces = bytes.split_at(bytes.len() * split / 4);
            let keeps_rest = to == zeros;
            segment
                .write_end(from as u64, pieces.into(), keeps_rest)
                .unwrap();
            model[from..to].copy_from_slice(&bytes);
            model[to..zeros].fill(0);
            let mut found = vec![0; length];
            segment.read_data(0, &mut found).unwrap();
            assert!(found == model, "{from} to {to}");
        }
    }

    #[test]
    fn another_cluster_a_newer_version_and_damage_are_told_apart() {
        let scratch = Scratch::new("label");
        let segment = Segment::create(scratch.path(), LABEL, Fill::Written).unwrap();
        assert!(segment.belongs(7, 1 << 16).is_ok());
        let foreign = segment.belongs(8, 1 << 16).unwrap_err();
        assert!(matches!(
            foreign,
            StorageError::Foreign {
                what: "cluster",
                ..
            }
        ));
        let foreign = segment.belongs(7, 1 << 17).unwrap_err();
        assert!(foreign.to_string().contains("segment length"), "{foreign}");

        let path = segment.path().to_path_buf();
        segment.write(LABEL_OFFSET + 8, &[3]).unwrap();
        let newer = Segment::open(&path, false).unwrap_err();
        assert!(
            matches!(newer, StorageError::Newer { found: 3, .. }),
            "{newer}"
        );
        segment.write(LABEL_OFFSET + 8, &[2]).unwrap();
        segment.write(LABEL_OFFSET + 12, &[8]).unwrap();
        let damaged = Segment::open(&path, false).unwrap_err();
        assert!(matches!(damaged, StorageError::Damaged { .. }), "{damaged}");
    }
}
