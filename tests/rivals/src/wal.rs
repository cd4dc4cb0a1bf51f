//! A write-ahead log: records are gathered, and written and flushed as one group.
//!
//! Its file is written whole beforehand and written over from its start when its end is reached, as
//! a log does that uses purged segments again: so no flush waits for the file to grow, which is the
//! best case for whoever is measured. It is never read back: these servers live as long as a
//! measurement.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// As long as the file is.
const LENGTH: usize = 64 << 20;

/// Where records go.
pub struct Wal {
    file: Option<File>,
    at: usize,
    group: Vec<u8>,
}

impl Wal {
    /// A log that remembers nothing.
    pub fn none() -> Self {
        Self {
            file: None,
            at: 0,
            group: Vec::new(),
        }
    }

    /// In a new file.
    pub fn create(path: &Path) -> io::Result<Self> {
        let file = File::options()
            .create(true)
            .truncate(true)
            .write(true)
            .read(true)
            .open(path)?;
        let zeros = vec![0; 1 << 20];
        for at in (0..LENGTH).step_by(zeros.len()) {
            file.write_all_at(&zeros, at as u64)?;
        }
        file.sync_all()?;
        Ok(Self {
            file: Some(file),
            ..Self::none()
        })
    }

    /// Whether it has a file.
    pub fn is_durable(&self) -> bool {
        self.file.is_some()
    }

    /// A record with its length and checksum joins the group.
    pub fn note(&mut self, parts: &[&[u8]]) {
        if !self.is_durable() {
            return;
        }
        let (mut sum, mut len) = (crc32fast::Hasher::new(), 0);
        for part in parts {
            sum.update(part);
            len += part.len();
        }
        self.group.extend_from_slice(&(len as u32).to_le_bytes());
        self.group.extend_from_slice(&sum.finalize().to_le_bytes());
        for part in parts {
            self.group.extend_from_slice(part);
        }
    }

    /// Writes and flushes the group; does nothing if there is none.
    pub fn flush(&mut self) -> io::Result<()> {
        let Some(file) = &self.file else {
            return Ok(());
        };
        if self.group.is_empty() {
            return Ok(());
        }
        if self.at + self.group.len() > LENGTH {
            self.at = 0;
        }
        file.write_all_at(&self.group, self.at as u64)?;
        self.at += self.group.len();
        self.group.clear();
        file.sync_data()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_is_in_the_file_behind_the_last() {
        let path = std::env::temp_dir().join(format!("rivals-wal-{}", std::process::id()));
        let mut wal = Wal::create(&path).unwrap();
        wal.note(&[b"on", b"e"]);
        wal.note(&[b"two"]);
        wal.flush().unwrap();
        wal.flush().unwrap();
        wal.note(&[b"three"]);
        wal.flush().unwrap();
        let bytes = std::fs::read(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        assert_eq!(bytes.len(), LENGTH);
        let mut left = &bytes[..];
        for text in ["one", "two", "three"] {
            let (head, rest) = left.split_at(8);
            assert_eq!(head[..4], (text.len() as u32).to_le_bytes());
            let sum = crc32fast::hash(text.as_bytes());
            assert_eq!(head[4..], sum.to_le_bytes());
            assert_eq!(&rest[..text.len()], text.as_bytes());
            left = &rest[text.len()..];
        }
        assert!(left.iter().all(|byte| *byte == 0));
    }

    #[test]
    fn without_a_file_nothing_is_gathered() {
        let mut wal = Wal::none();
        wal.note(&[b"one"]);
        assert!(wal.group.is_empty() && !wal.is_durable());
        wal.flush().unwrap();
    }
}
