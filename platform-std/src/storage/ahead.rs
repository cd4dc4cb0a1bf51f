//! The log's next files: made ahead of need, and filled with zeros as the disk has time for it.
//!
//! A flush into written blocks is shorter than one into reserved ones, so files are filled before
//! they are needed. But under a load that uses up one file after the other the zeros are as many
//! bytes as the log itself, and flushes queue behind them. So a file is made with its blocks
//! reserved, which takes no time, and zeros are written to it piece by piece: one after the other,
//! and ever larger ones, while the log grows slowly, else small ones with pauses. What of it is not
//! filled when it is needed stays as it is: it reads as zeros in either case.
//!
//! Zeros are written only to a file that the log has not been given yet, and only where the file
//! system has blocks in reserve: what can be read there does not change. [`Ahead::take`] gives none
//! out that a piece is being written to, and no other way leads to one.
//!
//! If there is no room for a file, or for the zeros, it is tried again after a while: only a file
//! that is needed has to be there.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::error::StorageError;
use super::segment::{Fill, Segment};
use super::spares::{Spares, ensure};
use crate::config::Durability;
use crate::waker::Waker;
use crate::worker::Worker;

/// How many files ahead of the one being written exist already.
const FILES: usize = 2;
/// Zeros written at once while the log grows fast: a flush that comes meanwhile waits for no more
/// than these.
const PIECE: u32 = 256 << 10;
/// The most, after some pieces meanwhile the log has hardly grown: the sooner they are through, the
/// fewer flushes meet them.
const PIECE_MAX: u32 = 8 << 20;
/// A log that has grown by more since the last piece is fast.
const GROWTH: u64 = 64 << 10;
/// Then so much time is between two pieces.
const PAUSE: Duration = Duration::from_millis(20);
/// When there was no room, it is tried again after so much time.
const REST: Duration = Duration::from_secs(1);
const NO_ROOM: &str = "no room for the log's next file: it is tried again, and the member goes on \
                       until the file that is being written is full. Make room";

/// A file that the log has not been given yet.
#[derive(Debug)]
struct Next {
    segment: Arc<Segment>,
    /// From where on its bytes are to be filled; none if they are, or are not to be.
    blank: Option<u32>,
}

enum Job {
    /// The base, and of which spare.
    Make(u64, Option<u64>),
    /// From where on, and up to where.
    Fill(Arc<Segment>, u32, u32),
}

enum Done {
    /// The file, and from where on it is to be filled.
    Made(Arc<Segment>, Option<u32>),
    /// The file with this base, and from where on it is still blank.
    Filled(u64, Option<u32>),
}

/// See the module's text.
pub(super) struct Ahead {
    files: [Option<Next>; FILES],
    worker: Worker<Job, Result<Done, StorageError>>,
    durability: Durability,
    /// The base of the file that a piece is being written to.
    filling: Option<u64>,
    /// How long the last piece was.
    piece: u32,
    /// When it was begun, and where the log was then.
    last: Option<(Instant, u64)>,
    /// Where the file ends that is being made.
    making: Option<u64>,
    /// The base of the last file that the log was given, or made by itself.
    given: Option<u64>,
    /// There was no room: nothing is tried until then.
    rests: Option<Instant>,
}

impl Ahead {
    /// For files in the directory `log`. Starts the thread.
    ///
    /// # Errors
    /// The system refuses another thread.
    pub(super) fn new(
        log: PathBuf,
        cluster: u64,
        segment_length: u32,
        durability: Durability,
        waker: &Waker,
    ) -> std::io::Result<Self> {
        let worker = Worker::spawn("segments", waker.clone(), move |job| match job {
            Job::Make(base, spare) => {
                let segment = ensure(&log, spare, cluster, base, segment_length, Fill::Reserved)?;
                let blank = segment.reserved_from();
                Ok(Done::Made(segment, blank))
            }
            Job::Fill(segment, from, until) => fill(&segment, from, until),
        })?;
        Ok(Self {
            files: [const { None }; FILES],
            worker,
            durability,
            filling: None,
            piece: PIECE / 2,
            last: None,
            making: None,
            given: None,
            rests: None,
        })
    }

    /// Whether the thread has nothing to do.
    pub(super) fn is_idle(&self) -> bool {
        self.worker.is_idle()
    }

    /// Whether [`Self::poll`] would find something.
    pub(super) fn is_done(&self) -> bool {
        self.worker.is_done()
    }

    /// Where the file ends that is being made; 0 if none is.
    pub(super) fn making(&self) -> u64 {
        self.making.unwrap_or_default()
    }

    /// Takes what the thread has done, of files above the one that starts at `current`: says where
    /// one ends that is there now.
    ///
    /// # Errors
    /// Any error of the system but that there is no room, with the file's path.
    pub(super) fn poll(&mut self, current: u64) -> Result<Option<u64>, StorageError> {
        let Some(done) = self.worker.poll() else {
            return Ok(None);
        };
        (self.making, self.filling) = (None, None);
        match done {
            Ok(Done::Made(segment, blank)) => {
                if self.rests.take().is_some() {
                    tracing::info!("there is room for the log's next file again");
                }
                let label = segment.label();
                // What the log was given before is not written to, whatever is reserved there.
                let is_new = self.given.is_none_or(|given| given < label.base);
                let is_filled = self.durability == Durability::Durable && is_new;
                let blank = blank.filter(|_| is_filled);
                // An entry at or below the current file is left from before a truncation; one far
                // ahead, from before the log came back.
                let worth = |file: &&mut Option<Next>| match file {
                    Some(file) if file.base() > current => u64::MAX - file.base(),
                    _ => 0,
                };
                if let Some(least) = self.files.iter_mut().min_by_key(worth) {
                    *least = Some(Next { segment, blank });
                }
                Ok(Some(label.base + u64::from(label.segment_length)))
            }
            Ok(Done::Filled(base, blank)) => {
                let mut files = self.files.iter_mut().flatten();
                if let Some(file) = files.find(|file| file.base() == base) {
                    file.blank = blank;
                }
                Ok(None)
            }
            Err(error) if error.is_no_room() => {
                if self.rests.replace(Instant::now() + REST).is_none() {
                    tracing::warn!(%error, "{NO_ROOM}");
                }
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Whether there was no room a moment ago.
    fn rests(&self) -> bool {
        self.rests.is_some_and(|until| Instant::now() < until)
    }

    /// The file that starts at `base`, which is the log's from now on; none if there is none: then
    /// the log makes it by itself. None also as long as zeros are being written to it.
    pub(super) fn take(&mut self, base: u64) -> Option<Arc<Segment>> {
        self.given = self.given.max(Some(base));
        if self.filling == Some(base) {
            return None;
        }
        let is_it = |file: &&mut Option<Next>| file.as_ref().is_some_and(|f| f.base() == base);
        let found = self.files.iter_mut().find(is_it)?.take();
        found.map(|file| file.segment)
    }

    /// Whether the file that starts at `base` is one of these.
    pub(super) fn holds(&self, base: u64) -> bool {
        self.filling == Some(base) || self.files.iter().flatten().any(|f| f.base() == base)
    }

    /// Starts to make the first missing one of the files behind `base`; says where it ends. Of a
    /// spare if there is one, and none at `files_end` or behind exists. Not if there was no room a
    /// moment ago and there is no spare.
    pub(super) fn make(&mut self, base: u64, files_end: u64, spares: &mut Spares) -> Option<u64> {
        if self.rests() && spares.is_empty() {
            return None;
        }
        let length = spares.length();
        let mut next = (1..=FILES as u64).map(|n| base + n * length);
        let missing = next.find(|base| !self.holds(*base))?;
        let spare = (missing >= files_end).then(|| spares.take()).flatten();
        self.worker.submit(Job::Make(missing, spare));
        self.making = Some(missing + length);
        self.making
    }

    /// Starts to write a piece of zeros if there is a file to be filled, the thread has nothing to
    /// do, and it is time for one; the log is written up to `written`.
    pub(super) fn fill(&mut self, written: u64) {
        if !self.worker.is_idle() || self.rests() {
            return;
        }
        let is_due = |file: &&Next| file.blank.is_some() && file.base() > written;
        let blank = self.files.iter().flatten().filter(is_due);
        let Some(file) = blank.min_by_key(|f| f.base()) else {
            return;
        };
        let (segment, from) = (Arc::clone(&file.segment), file.blank.unwrap_or_default());
        if let Some(piece) = self.due(written, Instant::now()) {
            let label = segment.label();
            let until = label.segment_length.min(from.saturating_add(piece));
            self.filling = Some(label.base);
            self.worker.submit(Job::Fill(segment, from, until));
        }
    }

    /// How many zeros are to be written now.
    fn due(&mut self, written: u64, now: Instant) -> Option<u32> {
        let (last, at) = *self.last.get_or_insert((now, written));
        if written.abs_diff(at) <= GROWTH {
            self.piece = (2 * self.piece).min(PIECE_MAX);
        } else if now - last < PAUSE {
            return None;
        } else {
            self.piece = PIECE;
        }
        self.last = Some((now, written));
        Some(self.piece)
    }

    /// Waits for the thread, whatever comes of its job.
    pub(super) fn wait(&mut self) {
        drop(self.worker.wait());
        (self.making, self.filling) = (None, None);
    }
}

impl Next {
    fn base(&self) -> u64 {
        self.segment.label().base
    }
}

fn fill(segment: &Segment, from: u32, until: u32) -> Result<Done, StorageError> {
    let label = segment.label();
    segment.write_zeros(from, until)?;
    let is_all = until == label.segment_length;
    if is_all {
        // So that the first flush of the log's does not also wait for what became of the blocks.
        segment.flush()?;
    }
    Ok(Done::Filled(label.base, (!is_all).then_some(until)))
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Scratch, set_room};
    use super::*;

    const LENGTH: u32 = 2 * PIECE;

    fn ahead(scratch: &Scratch, durability: Durability) -> Ahead {
        let waker = Waker::new().unwrap();
        Ahead::new(scratch.path().to_path_buf(), 7, LENGTH, durability, &waker).unwrap()
    }

    /// Waits for the job under way.
    fn settle(ahead: &mut Ahead, current: u64) {
        while !ahead.is_idle() {
            ahead.poll(current).unwrap();
            std::thread::yield_now();
        }
    }

    /// Fills one small piece.
    fn piece(ahead: &mut Ahead) {
        ahead.piece = PIECE / 2;
        ahead.fill(0);
    }

    /// From where on each file is to be filled.
    fn blanks(ahead: &Ahead) -> Vec<Option<u32>> {
        ahead
            .files
            .iter()
            .flatten()
            .map(|file| file.blank)
            .collect()
    }

    #[test]
    fn files_are_made_at_once_and_filled_piece_by_piece() {
        let scratch = Scratch::new("ahead");
        let mut ahead = ahead(&scratch, Durability::Durable);
        for end in [2, 3] {
            let made = ahead.make(0, 0, &mut Spares::none(LENGTH));
            assert_eq!(made, Some(end * u64::from(LENGTH)));
            settle(&mut ahead, 0);
        }
        assert_eq!(
            ahead.make(0, 0, &mut Spares::none(LENGTH)),
            None,
            "all are there"
        );
        assert_eq!(blanks(&ahead), [Some(0), Some(0)]);
        for expected in [
            [Some(PIECE), Some(0)],
            [None, Some(0)],
            [None, Some(PIECE)],
            [None; 2],
        ] {
            piece(&mut ahead);
            settle(&mut ahead, 0);
            assert_eq!(blanks(&ahead), expected);
        }
        piece(&mut ahead);
        assert!(ahead.is_idle(), "nothing is left to be filled");
    }

    #[test]
    fn a_file_is_not_given_out_while_zeros_are_written_to_it_and_gets_none_afterwards() {
        let scratch = Scratch::new("ahead-taken");
        let mut ahead = ahead(&scratch, Durability::Durable);
        ahead.make(0, 0, &mut Spares::none(LENGTH));
        settle(&mut ahead, 0);
        let base = u64::from(LENGTH);
        piece(&mut ahead);
        assert!(ahead.holds(base));
        assert!(ahead.take(base).is_none(), "a piece is under way");
        settle(&mut ahead, 0);
        let segment = ahead.take(base).unwrap();
        assert!(!ahead.holds(base));
        segment.write_data(PIECE.into(), &[7; 100]).unwrap();
        piece(&mut ahead);
        assert!(ahead.is_idle(), "it is the log's");
        let mut bytes = [1; 200];
        segment
            .read_data(u64::from(PIECE) - 100, &mut bytes)
            .unwrap();
        assert_eq!(
            (&bytes[..100], &bytes[100..]),
            (&[0; 100][..], &[7; 100][..])
        );
        // Nor if the log comes back below it: it may still be the log's.
        drop(segment);
        ahead.make(0, 0, &mut Spares::none(LENGTH));
        settle(&mut ahead, 0);
        assert_eq!(blanks(&ahead), [None]);
    }

    #[test]
    fn what_a_process_before_has_not_filled_is_filled_from_there_on() {
        let scratch = Scratch::new("ahead-again");
        for part in [0, 1, 2] {
            let mut ahead = ahead(&scratch, Durability::Durable);
            assert!(ahead.take(0).is_none());
            ahead.make(0, 0, &mut Spares::none(LENGTH));
            settle(&mut ahead, 0);
            let expected = Some(part * PIECE).filter(|from| *from < LENGTH);
            assert_eq!(blanks(&ahead), [expected]);
            piece(&mut ahead);
            settle(&mut ahead, 0);
        }
        // Whoever is given it is not the one who fills it.
        let mut ahead = ahead(&scratch, Durability::Durable);
        assert!(ahead.take(LENGTH.into()).is_none());
        ahead.make(0, 0, &mut Spares::none(LENGTH));
        settle(&mut ahead, 0);
        assert_eq!(blanks(&ahead), [None]);
    }

    #[test]
    fn a_file_for_which_there_is_no_room_is_tried_again_after_a_while() {
        let scratch = Scratch::new("ahead-full");
        let mut ahead = ahead(&scratch, Durability::Durable);
        set_room(scratch.path(), false);
        for _ in 0..2 {
            assert_eq!(
                ahead.make(0, 0, &mut Spares::none(LENGTH)),
                Some(2 * u64::from(LENGTH))
            );
            assert_eq!(ahead.making(), 2 * u64::from(LENGTH));
            settle(&mut ahead, 0);
            assert_eq!((blanks(&ahead), ahead.making()), (vec![], 0));
            assert_eq!(
                ahead.make(0, 0, &mut Spares::none(LENGTH)),
                None,
                "not at once"
            );
            ahead.rests = Some(Instant::now());
        }
        set_room(scratch.path(), true);
        assert!(
            ahead
                .make(0, LENGTH.into(), &mut Spares::none(LENGTH))
                .is_some()
        );
        settle(&mut ahead, 0);
        assert_eq!(blanks(&ahead), [Some(0)]);
        assert!(
            ahead
                .make(0, LENGTH.into(), &mut Spares::none(LENGTH))
                .is_some(),
            "it rests no more"
        );
    }

    #[test]
    fn where_no_flush_is_waited_for_files_are_not_filled() {
        let scratch = Scratch::new("ahead-reserved");
        let mut ahead = ahead(&scratch, Durability::ReplicationOnly);
        ahead.make(0, 0, &mut Spares::none(LENGTH));
        settle(&mut ahead, 0);
        assert_eq!(blanks(&ahead), [None]);
    }

    #[test]
    fn a_slow_log_gets_ever_larger_pieces_and_a_fast_one_small_ones_with_pauses() {
        let scratch = Scratch::new("ahead-pace");
        let mut ahead = ahead(&scratch, Durability::Durable);
        let start = Instant::now();
        let mut at = |millis: u64, written: u64| {
            let due = ahead.due(written, start + Duration::from_millis(millis));
            due.map(|piece| piece / PIECE)
        };
        assert_eq!(at(0, 32), Some(1));
        assert_eq!(at(1, 64), Some(2));
        assert_eq!(at(2, 64 + GROWTH), Some(4));
        let fast = 65 + 2 * GROWTH;
        assert_eq!(at(3, fast), None);
        assert_eq!(at(21, 9 * fast), None);
        assert_eq!(at(22, 9 * fast), Some(1));
        assert_eq!(at(41, 10 * fast), None);
        assert_eq!(at(42, 10 * fast), Some(1));
        let last = (43..60).map(|millis| at(millis, 10 * fast)).last();
        assert_eq!(last, Some(Some(PIECE_MAX / PIECE)));
    }
}
