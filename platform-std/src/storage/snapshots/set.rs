//! Snapshot sets on the disk: which there are, whether they are sound, and reading them.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use coracle_core::limits::SERVICES_MAX;
use coracle_core::log::Seed;
use coracle_core::snapshot::{
    BEGIN_LENGTH, Begin, End, FormatError, Section, SnapshotError, SnapshotSource, VERSION,
    Verifier,
};
use coracle_core::units::{ClusterId, Position};
use embedded_io::{ErrorKind, ErrorType, Read};

use super::super::dir::{exists, list};
use super::super::error::StorageError;

/// How many sections a set may have.
pub(super) const SECTIONS_MAX: usize = 1 + SERVICES_MAX;
/// Bytes that are read at once.
const CHUNK: usize = 256 << 10;

/// All sections that there may be, in order.
pub(super) fn sections() -> impl Iterator<Item = Section> {
    (0..SECTIONS_MAX as u16).filter_map(Section::from_wire)
}

/// The name of a section's file.
pub fn file_name(section: Section) -> String {
    match section {
        Section::Consensus => "consensus".into(),
        Section::Service(service) => format!("service-{service}"),
    }
}

/// The name of a set's directory.
pub(super) fn set_name(position: Position) -> String {
    format!("{:020}", position.get())
}

/// What an entry of the snapshot directory is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    /// A set that was complete when it got its name.
    Set(Position),
    /// A set that another member has begun to send, with the digest of its consensus section.
    Part(Position, u64),
    /// What a process was writing, or removing, when it ended.
    Draft,
}

/// The entries of a snapshot directory, in ascending order of names; others are left alone. None,
/// if there is no such directory.
///
/// # Errors
/// Any error of the system, with the directory's path.
pub fn entries(dir: &Path) -> Result<Vec<(Entry, PathBuf)>, StorageError> {
    if !exists(dir)? {
        return Ok(Vec::new());
    }
    let mut paths = list(dir)?;
    paths.sort_unstable();
    let known = |path: PathBuf| Some((entry(path.file_name()?.to_str()?)?, path));
    Ok(paths.into_iter().filter_map(known).collect())
}

fn entry(name: &str) -> Option<Entry> {
    let position = |digits: &str| {
        let is_name = digits.len() == 20 && digits.bytes().all(|b| b.is_ascii_digit());
        let value: u64 = digits.parse().ok().filter(|_| is_name)?;
        Some(Position::new(value))
    };
    if name.ends_with(".tmp") {
        return Some(Entry::Draft);
    }
    match name.strip_suffix(".part") {
        Some(name) => {
            let (digits, digest) = name.split_once('-')?;
            let digest = u64::from_str_radix(digest, 16).ok()?;
            position(digits).map(|position| Entry::Part(position, digest))
        }
        None => position(name).map(Entry::Set),
    }
}

/// The positions of the complete sets, in ascending order.
///
/// # Errors
/// Any error of the system, with the directory's path.
pub fn positions(dir: &Path) -> Result<Vec<Position>, StorageError> {
    let sets = entries(dir)?.into_iter();
    Ok(sets
        .filter_map(|(entry, _)| match entry {
            Entry::Set(position) => Some(position),
            Entry::Part(..) | Entry::Draft => None,
        })
        .collect())
}

/// A section of a sound set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SectionFile {
    /// Which one it is.
    pub section: Section,
    /// The file.
    pub path: PathBuf,
    /// Its length in bytes, marks included.
    pub length: u64,
    /// What it says at its end: the length of its body, and its digest.
    pub end: End,
}

/// A set all of whose bytes were read and found sound.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotSet {
    /// Its directory.
    pub path: PathBuf,
    /// What its consensus section says at its beginning.
    pub begin: Begin,
    /// Its sections, the consensus section first.
    pub sections: Vec<SectionFile>,
}

impl SnapshotSet {
    /// The state is that of the log up to here.
    pub fn position(&self) -> Position {
        self.begin.position
    }

    /// Where a log goes on after it.
    pub fn seed(&self) -> Seed {
        Seed {
            position: self.begin.position,
            chain: Some(self.begin.chain),
            term: self.begin.term,
        }
    }

    /// Its length in bytes.
    pub fn bytes(&self) -> u64 {
        self.sections.iter().map(|s| s.length).sum()
    }

    /// The same set, whose directory is `path` now.
    pub(super) fn moved_to(mut self, path: PathBuf) -> Self {
        for section in &mut self.sections {
            section.path = path.join(file_name(section.section));
        }
        self.path = path;
        self
    }

    /// Opens all of its files, which are then read on even if it is removed.
    ///
    /// # Errors
    /// Any error of the system, with the file's path.
    pub fn reader(&self) -> Result<SetReader, StorageError> {
        let open = |section: &SectionFile| {
            let file = File::open(&section.path);
            let file = file.map_err(StorageError::io("open", &section.path))?;
            Ok((section.clone(), FileRead::new(file)))
        };
        let files: Result<_, StorageError> = self.sections.iter().map(open).collect();
        Ok(SetReader { files: files? })
    }
}

/// A set that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damaged {
    /// The position in its directory's name.
    pub position: Position,
    /// The file, or the directory if a file is missing.
    pub path: PathBuf,
    /// What is wrong.
    pub what: String,
}

impl std::fmt::Display for Damaged {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "the snapshot at position {} is damaged: {} ({}). It is not used, and is removed when \
             the next one is on the disk: check the disk, and keep a copy if you want to know why",
            self.position,
            self.what,
            self.path.display()
        )
    }
}

/// Why a set was not found sound.
#[derive(Debug)]
pub enum SetError {
    /// It is damaged: the one before may be used.
    Damaged(Damaged),
    /// It may well be sound, but is not ours to read: of another cluster, of a newer format, or not
    /// readable for this user. To fall back would hide that.
    Refused(StorageError),
}

/// The newest set that is sound, and those above it that are damaged, the newest first. Reads all
/// bytes of what it looks at.
///
/// # Errors
/// A set of another cluster or of a newer format, files that this user may not read, or a directory
/// that cannot be listed.
pub fn newest_valid(
    dir: &Path,
    cluster: ClusterId,
) -> Result<(Option<SnapshotSet>, Vec<Damaged>), StorageError> {
    let mut damaged = Vec::new();
    for position in positions(dir)?.into_iter().rev() {
        match verify(&dir.join(set_name(position)), position, Some(cluster)) {
            Ok(set) => return Ok((Some(set), damaged)),
            Err(SetError::Damaged(one)) => damaged.push(one),
            Err(SetError::Refused(error)) => return Err(error),
        }
    }
    Ok((None, damaged))
}

/// Reads all of a set: every section sound, and all of the same position of the same log. Without a
/// `cluster`, that of the consensus section counts.
///
/// # Errors
/// See [`SetError`].
pub fn verify(
    path: &Path,
    position: Position,
    cluster: Option<ClusterId>,
) -> Result<SnapshotSet, SetError> {
    let damaged = |path: PathBuf, what: String| {
        SetError::Damaged(Damaged {
            position,
            path,
            what,
        })
    };
    let mut set: Option<SnapshotSet> = None;
    let mut scratch = vec![0; CHUNK];
    for section in sections() {
        let file = path.join(file_name(section));
        let cluster = cluster.or(set.as_ref().map(|set| set.begin.cluster));
        let found = verify_section(&file, section, cluster, position, &mut scratch);
        let (begin, length, end) = match found {
            Ok(Some(found)) => found,
            // Which services must be there, the consensus section says: see `is_whole`.
            Ok(None) if section != Section::Consensus => continue,
            Ok(None) => return Err(damaged(file, "the file is missing".into())),
            Err(SectionError::Damaged(what)) => return Err(damaged(file, what)),
            Err(SectionError::Refused(error)) => return Err(SetError::Refused(error)),
        };
        let set = set.get_or_insert_with(|| SnapshotSet {
            path: path.to_path_buf(),
            begin,
            sections: Vec::new(),
        });
        if !is_of_one_set(&set.begin, &begin) {
            let what = "it is of another snapshot than the consensus section".into();
            return Err(damaged(file, what));
        }
        set.sections.push(SectionFile {
            section,
            path: file,
            length,
            end,
        });
    }
    let of_all = |what: String| damaged(path.to_path_buf(), what);
    let set = set.ok_or_else(|| of_all("it is empty".into()))?;
    match is_whole(&set) {
        Ok(true) => Ok(set),
        Ok(false) => Err(of_all(
            "its services' files are not those that the consensus section names".into(),
        )),
        Err(error) => Err(of_all(error.to_string())),
    }
}

/// Whether the services' sections are those that the consensus section names: its body ends with
/// their number (u32) and the length and digest of each (u64, u64), in order.
fn is_whole(set: &SnapshotSet) -> io::Result<bool> {
    let Some((consensus, services)) = set.sections.split_first() else {
        return Ok(false);
    };
    let mut expected = (services.len() as u32).to_le_bytes().to_vec();
    for service in services {
        expected.extend_from_slice(&service.end.length.to_le_bytes());
        expected.extend_from_slice(&service.end.digest.to_le_bytes());
    }
    let length = expected.len() as u64;
    if consensus.end.length < length {
        return Ok(false);
    }
    let mut found = vec![0; expected.len()];
    let offset = BEGIN_LENGTH as u64 + consensus.end.length - length;
    File::open(&consensus.path)?.read_exact_at(&mut found, offset)?;
    Ok(found == expected)
}

/// Sections of one position are written from one log: what the begin marks say of it is equal.
fn is_of_one_set(a: &Begin, b: &Begin) -> bool {
    let of_log = |x: &Begin| (x.cluster, x.position, x.term, x.chain, x.segment_length);
    of_log(a) == of_log(b) && a.timestamp == b.timestamp
}

enum SectionError {
    Damaged(String),
    Refused(StorageError),
}

/// Reads a whole section; `None` if there is no file.
fn verify_section(
    path: &Path,
    section: Section,
    cluster: Option<ClusterId>,
    position: Position,
    scratch: &mut [u8],
) -> Result<Option<(Begin, u64, End)>, SectionError> {
    let damaged = |error: io::Error| SectionError::Damaged(error.to_string());
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) if error.raw_os_error() == Some(libc::EIO) => return Err(damaged(error)),
        // That says nothing of what is in it: no right to read it, too many open files.
        Err(error) => return Err(SectionError::Refused(StorageError::io("open", path)(error))),
    };
    let length = file.metadata().map_err(damaged)?.len();
    let mut mark = [0; BEGIN_LENGTH];
    let begin = match file.read_exact_at(&mut mark, 0) {
        Ok(()) => Begin::decode(&mark),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Err(FormatError::NoMark),
        Err(error) => return Err(damaged(error)),
    };
    let begin = match begin {
        Ok(begin) => begin,
        Err(FormatError::Newer(found)) => {
            return Err(SectionError::Refused(StorageError::Newer {
                path: path.to_path_buf(),
                found: found.into(),
                known: VERSION.into(),
            }));
        }
        Err(error) => return Err(SectionError::Damaged(error.to_string())),
    };
    let cluster = cluster.unwrap_or(begin.cluster);
    if begin.cluster != cluster {
        return Err(SectionError::Refused(StorageError::Foreign {
            path: path.to_path_buf(),
            what: "cluster",
            expected: cluster.0,
            found: begin.cluster.0,
        }));
    }
    let mut source = FileRead::new(file);
    let at = Some(position);
    let run = Verifier::run(&mut source, length, cluster, section, at, scratch);
    match run {
        Ok(found) => Ok(Some((found.begin, length, found.end))),
        Err(error) => Err(SectionError::Damaged(match (error, source.error) {
            (SnapshotError::Io(_), Some(error)) => error.to_string(),
            (error, _) => error.to_string(),
        })),
    }
}

/// The open files of a set: read through from their beginnings, or anywhere.
#[derive(Debug)]
pub struct SetReader {
    files: Vec<(SectionFile, FileRead)>,
}

impl SetReader {
    /// Reads bytes of a section from `offset` on: as many as there are and fit; 0 at its end, or if
    /// there is no such section.
    ///
    /// # Errors
    /// Any error of the system, with the file's path.
    pub fn read_at(
        &self,
        section: Section,
        offset: u64,
        bytes: &mut [u8],
    ) -> Result<usize, StorageError> {
        let Some((found, read)) = self.files.iter().find(|(f, _)| f.section == section) else {
            return Ok(0);
        };
        let left = usize::try_from(found.length.saturating_sub(offset)).unwrap_or(usize::MAX);
        let len = left.min(bytes.len());
        let read = read.file.read_exact_at(&mut bytes[..len], offset);
        read.map_err(StorageError::io("read", &found.path))?;
        Ok(len)
    }

    /// Why a read through `SnapshotSource` failed, which says only of what kind that was; the first
    /// of these errors.
    pub fn take_error(&mut self) -> Option<StorageError> {
        self.files.iter_mut().find_map(|(section, read)| {
            let error = read.error.take()?;
            Some(StorageError::io("read", &section.path)(error))
        })
    }
}

impl SnapshotSource for SetReader {
    fn open(&mut self, section: Section) -> Option<(&mut dyn Read<Error = ErrorKind>, u64)> {
        let (found, read) = self.files.iter_mut().find(|(f, _)| f.section == section)?;
        read.rewind();
        Some((read, found.length))
    }
}

/// Reads pieces of complete sets, wherever they are, keeping the last file open: a set that is
/// removed while it is sent can be sent to its section's end.
#[derive(Debug)]
pub struct SectionReader {
    dir: PathBuf,
    open: Option<(PathBuf, File)>,
}

impl SectionReader {
    /// Of the sets in the snapshot directory `dir`.
    pub fn new(dir: &Path) -> Self {
        Self {
            dir: dir.to_path_buf(),
            open: None,
        }
    }

    /// Reads bytes of a section from `offset` on: all of `bytes`, or as many as there are.
    ///
    /// # Errors
    /// Any error of the system, with the file's path.
    pub fn read(
        &mut self,
        position: Position,
        section: Section,
        offset: u64,
        bytes: &mut [u8],
    ) -> Result<usize, StorageError> {
        let path = self.dir.join(set_name(position)).join(file_name(section));
        let open = match self.open.take() {
            Some(open) if open.0 == path => open,
            _ => {
                let file = File::open(&path).map_err(StorageError::io("open", &path))?;
                (path, file)
            }
        };
        let (path, file) = self.open.insert(open);
        let mut len = 0;
        while let Some(room) = bytes.get_mut(len..).filter(|room| !room.is_empty()) {
            match file.read_at(room, offset + len as u64) {
                Ok(0) => break,
                Ok(read) => len += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(StorageError::io("read", path)(error)),
            }
        }
        Ok(len)
    }
}

/// Reads a file from its beginning on, many bytes at once, and keeps the error that ended it.
#[derive(Debug)]
struct FileRead {
    file: File,
    /// Where in the file the buffer's end is.
    at: u64,
    buffer: Vec<u8>,
    /// How many bytes of the buffer are given out.
    given: usize,
    error: Option<io::Error>,
}

impl FileRead {
    fn new(file: File) -> Self {
        Self {
            file,
            at: 0,
            buffer: Vec::new(),
            given: 0,
            error: None,
        }
    }

    fn rewind(&mut self) {
        (self.at, self.given) = (0, 0);
        self.buffer.clear();
    }
}

impl ErrorType for FileRead {
    type Error = ErrorKind;
}

impl Read for FileRead {
    fn read(&mut self, bytes: &mut [u8]) -> Result<usize, ErrorKind> {
        if self.given == self.buffer.len() {
            self.given = 0;
            self.buffer.resize(CHUNK, 0);
            let read = loop {
                match self.file.read_at(&mut self.buffer, self.at) {
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    other => break other,
                }
            };
            self.buffer.truncate(*read.as_ref().unwrap_or(&0));
            match read {
                Ok(read) => self.at += read as u64,
                Err(error) => {
                    let kind = kind_of(&error);
                    self.error = Some(error);
                    return Err(kind);
                }
            }
        }
        let left = self.buffer.get(self.given..).unwrap_or_default();
        let len = left.len().min(bytes.len());
        bytes[..len].copy_from_slice(&left[..len]);
        self.given += len;
        Ok(len)
    }
}

/// What the core is told of an error: its kind.
pub(super) fn kind_of(error: &io::Error) -> ErrorKind {
    match error.kind() {
        io::ErrorKind::NotFound => ErrorKind::NotFound,
        io::ErrorKind::PermissionDenied => ErrorKind::PermissionDenied,
        io::ErrorKind::InvalidInput => ErrorKind::InvalidInput,
        io::ErrorKind::InvalidData => ErrorKind::InvalidData,
        io::ErrorKind::TimedOut => ErrorKind::TimedOut,
        io::ErrorKind::Interrupted => ErrorKind::Interrupted,
        io::ErrorKind::Unsupported => ErrorKind::Unsupported,
        io::ErrorKind::OutOfMemory => ErrorKind::OutOfMemory,
        io::ErrorKind::WriteZero => ErrorKind::WriteZero,
        _ => ErrorKind::Other,
    }
}
