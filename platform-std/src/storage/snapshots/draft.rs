//! A set while it is written.

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use coracle_core::snapshot::{Section, SnapshotSink};
use coracle_core::units::Position;
use embedded_io::{ErrorKind, ErrorType, Write};

use super::super::error::StorageError;
use super::set::{SECTIONS_MAX, file_name, kind_of, set_name};

/// Bytes that a section gathers before it writes them.
const BUFFER: usize = 256 << 10;

/// A set that has no name yet. Its owner writes into it through [`SnapshotSink`]; the first write
/// that fails is kept with its file, and all later ones of that section fail like it.
#[derive(Debug)]
pub struct Draft {
    pub(super) position: Position,
    pub(super) path: PathBuf,
    /// An early flush that failed. The system says so once: the last flush would succeed.
    pub(super) broken: Option<StorageError>,
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
            broken: None,
            sections: [const { None }; SECTIONS_MAX],
        })
    }

    /// Writes what is gathered, and gives all files out to be flushed.
    pub(super) fn close(self) -> Result<Vec<(PathBuf, Arc<File>)>, StorageError> {
        if let Some(error) = self.broken {
            return Err(error);
        }
        let mut files = Vec::with_capacity(SECTIONS_MAX);
        for mut writer in self.sections.into_iter().flatten() {
            writer.write_out();
            if let Some(error) = writer.error {
                return Err(error);
            }
            files.extend(writer.file.map(|file| (writer.path, file)));
        }
        Ok(files)
    }

    /// Why a write failed, if one did.
    pub(super) fn into_error(self) -> Option<StorageError> {
        let mut writers = self.sections.into_iter().flatten();
        self.broken
            .or_else(|| writers.find_map(|writer| writer.error))
    }

    /// Whether no file has `bytes` or more that wait to be given out by [`Self::early`].
    pub(super) fn is_level(&self, bytes: u64) -> bool {
        let mut writers = self.sections.iter().flatten();
        writers.all(|writer| writer.unflushed < bytes)
    }

    /// A file of which `bytes` or more were written since this last gave it out.
    pub(super) fn early(&mut self, bytes: u64) -> Option<(PathBuf, Arc<File>)> {
        let due = |writer: &&mut SectionWriter| writer.unflushed >= bytes;
        let writer = self.sections.iter_mut().flatten().find(due)?;
        writer.unflushed = 0;
        let file = writer.file.clone()?;
        Some((writer.path.clone(), file))
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
    buffer: Vec<u8>,
    unflushed: u64,
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
            buffer: Vec::new(),
            unflushed: 0,
            error,
        }
    }

    /// Hands what is gathered to the system; an error is kept.
    fn write_out(&mut self) {
        if let (Some(file), None) = (&self.file, &self.error)
            && let Err(error) = file.as_ref().write_all(&self.buffer)
        {
            self.error = Some(StorageError::io("write", &self.path)(error));
        }
        self.unflushed += self.buffer.len() as u64;
        self.buffer.clear();
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
        // Allocated once: the buffer never grows beyond.
        self.buffer.reserve_exact(BUFFER - self.buffer.len());
        let len = bytes.len().min(BUFFER - self.buffer.len());
        self.buffer.extend_from_slice(&bytes[..len]);
        Ok(len)
    }

    fn flush(&mut self) -> Result<(), ErrorKind> {
        self.write_out();
        self.check()
    }
}
