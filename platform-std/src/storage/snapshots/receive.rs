//! A set while another member sends it.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use coracle_core::snapshot::Section;
use coracle_core::units::Position;

use super::super::dir::{create_dir, exists};
use super::super::error::StorageError;
use super::set::{SECTIONS_MAX, file_name, sections, set_name};

/// A set that is received, each section from its beginning on. What is there says how far it is, so
/// that it goes on after a restart; whether it is sound is found out at the end, by reading all.
#[derive(Debug)]
pub struct Receiving {
    pub(super) position: Position,
    pub(super) digest: u64,
    pub(super) path: PathBuf,
    files: [Option<(PathBuf, Arc<File>, u64)>; SECTIONS_MAX],
}

impl Receiving {
    /// The name of the directory of a set that is received.
    pub(super) fn path(dir: &Path, position: Position, digest: u64) -> PathBuf {
        dir.join(format!("{}-{digest:016x}.part", set_name(position)))
    }

    /// Goes on with what there is of it in `dir`, or begins it.
    pub(super) fn open(dir: &Path, position: Position, digest: u64) -> Result<Self, StorageError> {
        let path = Self::path(dir, position, digest);
        create_dir(&path)?;
        let mut files = [const { None }; SECTIONS_MAX];
        for section in sections() {
            let file = path.join(file_name(section));
            if exists(&file)? {
                files[usize::from(section.to_wire())] = Some(open(file)?);
            }
        }
        Ok(Self {
            position,
            digest,
            path,
            files,
        })
    }

    /// The last section of which there is something, and how much: of those before there is all.
    pub fn progress(&self) -> (Section, u64) {
        let last = sections()
            .filter(|section| self.received(*section) > 0)
            .last();
        let section = last.unwrap_or(Section::Consensus);
        (section, self.received(section))
    }

    /// How many bytes of a section are there.
    pub fn received(&self, section: Section) -> u64 {
        let file = self.files[usize::from(section.to_wire())].as_ref();
        file.map_or(0, |(_, _, length)| *length)
    }

    /// Takes bytes of a section that belong at `offset`; says up to where it is there now. At 0 the
    /// section begins anew. Bytes behind a hole are not taken, those that are there already change
    /// nothing.
    ///
    /// # Errors
    /// Any error of the system, with the file's path.
    pub fn take(
        &mut self,
        section: Section,
        offset: u64,
        bytes: &[u8],
    ) -> Result<u64, StorageError> {
        let slot = &mut self.files[usize::from(section.to_wire())];
        let (path, file, length) = match slot {
            Some(file) => file,
            None => slot.insert(open(self.path.join(file_name(section)))?),
        };
        if offset > *length {
            return Ok(*length);
        }
        if offset == 0 && *length > 0 {
            file.set_len(0).map_err(StorageError::io("cut", path))?;
            *length = 0;
        }
        let known = usize::try_from(*length - offset).unwrap_or(usize::MAX);
        let new = bytes.get(known..).unwrap_or_default();
        file.write_all_at(new, *length)
            .map_err(StorageError::io("write", path))?;
        *length += new.len() as u64;
        Ok(*length)
    }

    /// Gives all files out to be flushed.
    pub(super) fn close(self) -> Vec<(PathBuf, Arc<File>)> {
        let files = self.files.into_iter().flatten();
        files.map(|(path, file, _)| (path, file)).collect()
    }
}

fn open(path: PathBuf) -> Result<(PathBuf, Arc<File>, u64), StorageError> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(&path)
        .map_err(StorageError::io("open", &path))?;
    let length = file
        .metadata()
        .map_err(StorageError::io("examine", &path))?;
    Ok((path, Arc::new(file), length.len()))
}
