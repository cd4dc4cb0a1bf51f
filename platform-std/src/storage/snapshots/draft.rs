//! A set while it is written.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use coracle_core::snapshot::{Section, SnapshotSink};
use coracle_core::units::Position;
use embedded_io::{ErrorKind, ErrorType, Write};

use super::super::dir::exists;
use super::super::error::StorageError;
use super::super::segment::write_back;
use super::finish::remove;
use super::set::{SECTIONS_MAX, file_name, kind_of, sections};

/// Bytes that a section gathers before they are given out to be written.
pub(super) const PIECE: usize = 1 << 20;
/// What a section has memory for from the beginning: a piece, and what a step adds to nearly one.
const ROOM: usize = PIECE + (256 << 10);
/// A section that gathers more, in one go, writes them itself: some services write all in one go.
const BUFFER: usize = 4 * PIECE;
/// The directory of a set that has no position yet. There is one at a time.
const NAME: &str = "next.tmp";

/// Bytes of a section's file, and where they belong in it.
#[derive(Debug)]
pub struct Piece {
    pub(super) path: Arc<Path>,
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

    /// Waits until the disk has taken the bytes.
    pub(super) fn write_back(&self) -> Result<(), StorageError> {
        write_back(&self.file, self.offset, self.bytes.len() as u64)
            .map_err(StorageError::io("write back", &self.path))
    }
}

/// A set that has no name yet. Its owner writes into it through [`SnapshotSink`]; the first write
/// that fails is kept with its file, and all later ones of that section fail like it.
///
/// It is made before it is needed, by the thread that flushes: to begin a set and to write it takes
/// no memory and no system call of the owner's, as long as a section gathers no more than a piece
/// and a step at once.
#[derive(Debug)]
pub struct Draft {
    /// Of the set, once it is begun.
    pub(super) position: Position,
    pub(super) path: PathBuf,
    /// For the section that gives out the next piece: the buffer of the one before.
    spare: Vec<u8>,
    sections: [Option<SectionWriter>; SECTIONS_MAX],
}

impl Draft {
    /// Makes the directory in `dir`, with files for the consensus module and so many services. What
    /// is left of one that was given up is removed.
    pub(super) fn create(dir: &Path, services: usize) -> Result<Box<Self>, StorageError> {
        let path = dir.join(NAME);
        if exists(&path)? {
            remove(&path)?;
        }
        std::fs::create_dir(&path).map_err(StorageError::io("create the directory", &path))?;
        let mut draft = Box::new(Self {
            position: Position::ZERO,
            path,
            spare: Vec::with_capacity(ROOM),
            sections: [const { None }; SECTIONS_MAX],
        });
        for (section, slot) in sections().zip(&mut draft.sections).take(1 + services) {
            let mut writer = SectionWriter::create(draft.path.join(file_name(section)));
            if let Some(error) = writer.error.take() {
                return Err(error);
            }
            *slot = Some(writer);
        }
        Ok(draft)
    }

    /// Writes what is gathered, and gives all files out. What was made for sections that this set
    /// does not have is removed.
    pub(super) fn close(&mut self) -> Result<Vec<(PathBuf, Arc<File>)>, StorageError> {
        let mut files = Vec::with_capacity(SECTIONS_MAX);
        for writer in self.sections.iter_mut().flatten() {
            if !writer.is_used {
                let path = &writer.path;
                std::fs::remove_file(path).map_err(StorageError::io("remove", path))?;
                continue;
            }
            writer.write_out();
            if let Some(error) = writer.error.take() {
                return Err(error);
            }
            files.extend(Some(writer.path.to_path_buf()).zip(writer.file.clone()));
        }
        Ok(files)
    }

    /// Deletes what was made for a set that was not begun.
    pub(super) fn unmake(&self) -> io::Result<()> {
        let mut writers = self.sections.iter().flatten();
        writers.try_for_each(|writer| std::fs::remove_file(&writer.path))?;
        std::fs::remove_dir(&self.path)
    }

    /// Why a write failed, if one did.
    pub(super) fn take_error(&mut self) -> Option<StorageError> {
        let mut writers = self.sections.iter_mut().flatten();
        writers.find_map(|writer| writer.error.take())
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
        let create = || SectionWriter::create(self.path.join(file_name(section)));
        let writer = slot.get_or_insert_with(create);
        writer.is_used = true;
        writer
    }
}

#[derive(Debug)]
struct SectionWriter {
    path: Arc<Path>,
    /// Whether the set has this section.
    is_used: bool,
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
            path: path.into(),
            is_used: false,
            file,
            offset: 0,
            buffer: Vec::with_capacity(ROOM),
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
            path: Arc::clone(&self.path),
            file: self.file.clone()?,
            offset,
            bytes,
        })
    }

    /// Hands what is gathered to the system, on the caller's thread; an error is kept.
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
