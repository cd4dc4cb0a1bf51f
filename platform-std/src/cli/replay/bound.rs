//! How far a member's log is committed, whether it runs or not.

use std::io;
use std::path::{Path, PathBuf};

use coracle_core::units::{ClusterId, Position};
use rustix::io::Errno;
use rustix::process::{Pid, test_kill_process};

use super::super::Failure;
use crate::counters::{Counter, CountersReader, Reading};
use crate::storage::StorageError;
use crate::storage::snapshots::newest_valid;

/// What of the log may be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    /// Where a running member says that its log starts; of others the files say it.
    pub start: u64,
    /// The end of what is certain to be committed, and is in the files.
    pub end: u64,
}

/// Looks it up.
pub struct Bound {
    dir: PathBuf,
    uncommitted: bool,
    /// The newest snapshot's position, once it was needed.
    snapshot: Option<u64>,
}

impl Bound {
    /// Of the member in `dir`; with `uncommitted` there is no bound.
    pub fn new(dir: &Path, uncommitted: bool) -> Self {
        Self {
            dir: dir.to_path_buf(),
            uncommitted,
            snapshot: None,
        }
    }

    /// As of now.
    ///
    /// # Errors
    /// Counters of a newer program, or nothing at all says what is committed.
    pub fn look(&mut self, cluster: u64) -> Result<Limit, Failure> {
        if self.uncommitted {
            let end = i64::MAX as u64;
            return Ok(Limit { start: 0, end });
        }
        // Opened anew each time: a restarted node makes a new counters file.
        let why = match CountersReader::open(&self.dir) {
            Ok(reader) => match limit_of(&reader.read(), is_running) {
                Some(limit) => return Ok(limit),
                None => "the member ended before it knew".to_owned(),
            },
            Err(StorageError::Io { error, .. }) if error.kind() == io::ErrorKind::NotFound => {
                "there is no counters file".to_owned()
            }
            Err(error @ StorageError::Damaged { .. }) => error.to_string(),
            Err(error) => return Err(error.into()),
        };
        let end = match self.snapshot {
            Some(position) => position,
            None => self.newest_snapshot(cluster, &why)?,
        };
        self.snapshot = Some(end);
        Ok(Limit { start: 0, end })
    }

    /// All below a snapshot is committed: none is taken of anything else.
    fn newest_snapshot(&self, cluster: u64, why: &str) -> Result<u64, Failure> {
        let sets = self.dir.join("snapshot");
        let found = match sets.is_dir() {
            true => newest_valid(&sets, ClusterId(cluster))?.0,
            false => None,
        };
        let Some(set) = found else {
            return Err(Failure::outcome(format!(
                "nothing says what is committed in {}: {why}, and there is no snapshot. Start the \
                 member, or read all of its log with --uncommitted",
                self.dir.display()
            )));
        };
        let position = Position::get(set.position());
        eprintln!(
            "coracle: nothing says what is committed above the newest snapshot, which is at \
             {position}: {why}. This ends there; start the member to read further, or give \
             --uncommitted"
        );
        Ok(position)
    }
}

/// `None` if a process that is gone has left nothing of use.
fn limit_of(reading: &Reading, is_running: impl Fn(u64) -> bool) -> Option<Limit> {
    let committed = reading.get(Counter::Committed);
    let written = reading.get(Counter::Written);
    match reading.process {
        // Closed: what it knew, and all of that was flushed.
        0 if committed > 0 => Some(Limit {
            start: 0,
            end: committed.min(written),
        }),
        // What is committed may not have reached the files yet: it is in the node's memory first.
        process if process > 0 && is_running(process) => Some(Limit {
            start: reading.get(Counter::LogStart),
            end: committed.min(written),
        }),
        // Killed, or without power since: then bytes that were not flushed are lost, and what
        // stands there instead may never have been committed.
        _ => {
            let end = committed.min(reading.get(Counter::Durable));
            (end > 0).then_some(Limit { start: 0, end })
        }
    }
}

fn is_running(process: u64) -> bool {
    let id = i32::try_from(process).ok().and_then(Pid::from_raw);
    id.is_some_and(|id| !matches!(test_kill_process(id), Err(Errno::SRCH)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::counters::CountersFile;
    use crate::storage::testing::Scratch;

    fn counters(scratch: &Scratch, values: &[(Counter, u64)]) -> CountersFile {
        let path = scratch.path().join("counters");
        let mut counters = CountersFile::create(&path, 7, 0).unwrap();
        counters.publish(values);
        counters
    }

    fn reading(scratch: &Scratch) -> Reading {
        CountersReader::open(scratch.path()).unwrap().read()
    }

    #[test]
    fn what_a_member_says_depends_on_how_it_ended() {
        let scratch = Scratch::new("bound");
        let counters = counters(
            &scratch,
            &[
                (Counter::Committed, 900),
                (Counter::Written, 800),
                (Counter::Durable, 700),
                (Counter::LogStart, 64),
            ],
        );
        let said = reading(&scratch);
        let limit = |start, end| Some(Limit { start, end });
        assert_eq!(limit_of(&said, |_| true), limit(64, 800), "it runs");
        assert_eq!(limit_of(&said, |_| false), limit(0, 700), "it was killed");
        assert!(is_running(said.process), "this process does");
        counters.close();
        let said = reading(&scratch);
        assert_eq!(limit_of(&said, |_| false), limit(0, 800), "it has closed");
    }

    #[test]
    fn a_member_that_ended_too_soon_or_left_no_file_says_nothing() {
        let scratch = Scratch::new("bound-none");
        let mut bound = Bound::new(scratch.path(), false);
        let text = bound.look(7).unwrap_err().to_string();
        assert!(text.contains("no counters file"), "{text}");
        assert!(text.contains("--uncommitted"), "{text}");
        let counters = counters(&scratch, &[(Counter::Written, 800)]);
        assert_eq!(bound.look(7).unwrap(), Limit { start: 0, end: 0 });
        counters.close();
        let text = bound.look(7).unwrap_err().to_string();
        assert!(text.contains("before it knew"), "{text}");
        std::fs::write(scratch.path().join("counters"), [0; 4096]).unwrap();
        let text = bound.look(7).unwrap_err().to_string();
        assert!(text.contains("is damaged"), "{text}");
        let mut bound = Bound::new(scratch.path(), true);
        assert_eq!(bound.look(7).unwrap().end, i64::MAX as u64);
    }
}
