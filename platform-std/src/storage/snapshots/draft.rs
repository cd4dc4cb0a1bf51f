//! A set while it is written.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use coracle_core::snapshot::{Section, SnapshotSink};
use coracle_core::units::Position;
use embedded_io::{ErrorKind, ErrorType, Write};

use super::super::error::StorageError;
use super::set::{SECTIONS_MAX, file_name, kind_of, set_name};

/// Bytes that a section gathers before they are given out to be written.
pub(super) const PIECE: usize = 1 << 20;
/// A section that gathers more, in one go, writes them itself: some services write all in one go.
const BUFFER: usize = 4 * PIECE;

/// Bytes of a section's file, and where they belong in it.
#[derive(Debug)]
pub struct Piece {
    pub(super) path: PathBuf,
    pub(super) file: Arc<File>,
    offset: u64,
    pub(super) bytes: Vec<u8>,
}

impl Piece {
    /// Hands the bytes to the system.
    pub(super) fn write(&self) -> Result<(), StorageError> {
        let written = self.file.write_all_at(&self.bytes, self.offset);
        written.map_err(StorageError::io("write", &self.path))
    }

    /// Waits until the disk has taken the bytes. Not a flush: that would also bring the file's new
    /// length and the disk's own cache to rest, each time, and the log's flushes would wait for it.
    pub(super) fn write_back(&self) -> Result<(), StorageError> {
        let wait = libc::SYNC_FILE_RANGE_WAIT_BEFORE
            | libc::SYNC_FILE_RANGE_WRITE
            | libc::SYNC_FILE_RANGE_WAIT_AFTER;
        let (from, len) = (
            self.offset as libc::off64_t,
            self.bytes.len() as libc::off64_t,
        );
        // SAFETY: a call with an open file and numbers; it touches no memory of ours.
        let result = unsafe { libc::sync_file_range(self.file.as_raw_fd(), from, len, wait) };
        match result {
            0 => Ok(()),
            _ => Err(StorageError::io("write back", &self.path)(
                io::Error::last_os_error(),
            )),
        }
    }
}

/// A set that has no name yet. Its owner writes into it through [`SnapshotSink`]; the first write
/// that fails is kept with its file, and all later ones of that section fail like it.
#[derive(Debug)]
pub struct Draft {
    pub(super) position: Position,
    pub(super) path: PathBuf,
    /// A buffer that came back.
    spare: Vec<u8>,
    sections: [Option<SectionWriter>; SECTIONS_MAX],
}

impl Draft {
    /// Makes the directory `<position>.tmp` in `dir`.
    pub(super) fn create(dir: &Path, position: Position) -> Result<Self, StorageError> {
        let path = dir.join(format!("{}.tmp", set_name(position)));
        if path.exists() {
            std::fs::remove_dir_all(&path).map_err(StorageError::io("remove", &path))?;
        }
        std::fs::create_dir(&path).map_err(StorageError::io("create the directory", &path))?;
        Ok(Self {
            position,
            path,
            spare: Vec::new(),
            sections: [const { None }; SECTIONS_MAX],
        })
    }

    /// Gives all files out, each with what is still to be written of it.
    pub(super) fn close(self) -> Result<Vec<Piece>, StorageError> {
        let mut pieces = Vec::with_capacity(SECTIONS_MAX);
        for mut writer in self.sections.into_iter().flatten() {
            if let Some(error) = writer.error.take() {
                return Err(error);
            }
            pieces.extend(writer.piece(Vec::new()));
        }
        Ok(pieces)
    }

    /// Why a write failed, if one did.
    pub(super) fn into_error(self) -> Option<StorageError> {
        let mut writers = self.sections.into_iter().flatten();
        writers.find_map(|writer| writer.error)
    }

    /// A piece was written, or it and all that follows in its file has failed: the system says so
    /// once, the last flush would succeed.
    pub(super) fn give_back(&mut self, piece: Piece, written: Result<(), StorageError>) {
        if let Err(error) = written {
            let mut writers = self.sections.iter_mut().flatten();
            if let Some(writer) = writers.find(|writer| writer.path == piece.path) {
                writer.error.get_or_insert(error);
            }
        }
        self.spare = piece.bytes;
    }

    /// Whether no section has gathered a whole piece.
    pub(super) fn is_level(&self) -> bool {
        let mut writers = self.sections.iter().flatten();
        writers.all(|writer| writer.buffer.len() < PIECE)
    }

    /// A whole piece that was gathered, to be written by another thread.
    pub(super) fn take_piece(&mut self) -> Option<Piece> {
        let due = |writer: &&mut SectionWriter| writer.buffer.len() >= PIECE;
        let writer = self.sections.iter_mut().flatten().find(due)?;
        writer.piece(std::mem::take(&mut self.spare))
    }
}

impl SnapshotSink for Draft {
    fn section(&mut self, section: Section) -> &mut dyn Write<Error = ErrorKind> {
        let slot = &mut self.sections[usize::from(section.to_wire())];
        slot.get_or_insert_with(|| SectionWriter::create(self.path.join(file_name(section))))
    }
}

#[derive(Debug)]
struct SectionWriter {
    path: PathBuf,
    file: Option<Arc<File>>,
    /// Where the buffer belongs in the file.
    offset: u64,
    buffer: Vec<u8>,
    error: Option<StorageError>,
}

impl SectionWriter {
    fn create(path: PathBuf) -> Self {
        let (file, error) = match File::create(&path) {
            Ok(file) => (Some(Arc::new(file)), None),
            Err(error) => (None, Some(StorageError::io("create", &path)(error))),
        };
        Self {
            path,
            file,
            offset: 0,
            buffer: Vec::new(),
            error,
        }
    }

    /// What is gathered; `buffer` takes its place.
    fn piece(&mut self, mut buffer: Vec<u8>) -> Option<Piece> {
        buffer.clear();
        let bytes = std::mem::replace(&mut self.buffer, buffer);
        let offset = self.offset;
        self.offset += bytes.len() as u64;
        Some(Piece {
            path: self.path.clone(),
            file: self.file.clone()?,
            offset,
            bytes,
        })
    }

    /// Hands what is gathered to the system, on this thread; an error is kept.
    fn write_out(&mut self) {
        if self.error.is_some() {
            return;
        }
        if let Some(piece) = self.piece(Vec::new()) {
            self.error = piece.write().err();
            self.buffer = piece.bytes;
            self.buffer.clear();
        }
    }

    fn check(&self) -> Result<(), ErrorKind> {
        match &self.error {
            Some(StorageError::Io { error, .. }) => Err(kind_of(error)),
            Some(_) => Err(ErrorKind::Other),
            None => Ok(()),
        }
    }
}

impl ErrorType for SectionWriter {
    type Error = ErrorKind;
}

impl Write for SectionWriter {
    fn write(&mut self, bytes: &[u8]) -> Result<usize, ErrorKind> {
        self.check()?;
        if self.buffer.len() >= BUFFER {
            self.write_out();
            self.check()?;
        }
        let len = bytes.len().min(BUFFER - self.buffer.len());
        self.buffer.extend_from_slice(&bytes[..len]);
        Ok(len)
    }

    /// Nothing is flushed before the set is complete.
    fn flush(&mut self) -> Result<(), ErrorKind> {
        self.check()
    }
}
