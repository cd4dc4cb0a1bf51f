//! The log's files while a node runs: groups are written here, flushed here or on a thread of their
//! own, and the next files are made ahead of need, of the oldest that nobody needs if there are
//! such, on others.

mod purger;
mod readers;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use coracle_core::log::{Group, Journal, Log, Window, segment_base};
use coracle_core::units::{ClusterId, Mark, Position, Term};

use super::ahead::Ahead;
use super::dir::segment_bases;
use super::error::StorageError;
use super::place::Place;
use super::recover::{confirmed, seed_at};
use super::segment::{Fill, HEADER_LENGTH, Segment};
use super::spares::{self, Spares};
use super::unreadable::{is_unreadable, write_over};
use crate::config::{Durability, Idle};
use crate::waker::Waker;
use crate::worker::Worker;

use purger::Purger;
pub use readers::Readers;

/// When there was no room for something else, no files are set aside for so long.
const NO_SPARES: Duration = Duration::from_secs(60);

/// A log with nothing to write counts as a step closer to rest once in this time at most: a thread
/// that looks again and again, while the next message is on its way, looks many times.
const STEP_TO_REST: Duration = Duration::from_millis(1);

/// How many bytes of log fit in whole files that take up `log_max` bytes of disk at most: what the
/// core is told to be its bound, because it knows nothing of headers.
pub fn room(log_max: u64, segment_length: u32) -> u64 {
    let length = u64::from(segment_length);
    log_max / (length + HEADER_LENGTH) * length
}

/// How long a flush took, and whether it failed.
type Flushed = (Duration, Result<(), StorageError>);

/// When a message counts as safe, and who waits for that, and how.
#[derive(Clone, Copy, Debug)]
pub struct Flushing {
    /// See [`Durability`].
    pub durability: Durability,
    /// The node's: see [`Worker::spawn_idling`].
    pub idle: Idle,
    /// If none of late took longer, short groups are flushed where they are written: see
    /// [`LogStore::flush_here`]. Zero: never.
    pub here_below: Duration,
}

impl Flushing {
    /// What follows from the rest of it.
    fn in_effect(self) -> Self {
        // Without it hardly anything is flushed.
        let idle = match self.durability {
            Durability::Durable => self.idle,
            Durability::ReplicationOnly => Idle::Sleep,
        };
        // A thread that spins is not woken: it costs nothing to hand a flush over to it.
        let here_below = match idle {
            Idle::Spin => Duration::ZERO,
            _ => self.here_below,
        };
        Self {
            idle,
            here_below,
            ..self
        }
    }
}

/// See the module's text.
pub struct LogStore {
    log: PathBuf,
    cluster: u64,
    segment_length: u32,
    durability: Durability,
    journal: Journal,
    current: Option<Arc<Segment>>,
    ahead: Ahead,
    flusher: Worker<Arc<Segment>, Flushed>,
    place: Place,
    /// Written, and to be flushed here.
    due: Option<Arc<Segment>>,
    /// When the journal was last asked with nothing to write.
    rested: Option<Instant>,
    readers: Readers,
    purger: Purger,
    spares: Spares,
    /// Where the last file that exists ends.
    files_end: u64,
    bytes_max: u64,
    flushes: u64,
    cuts: u64,
}

impl LogStore {
    /// Takes over from recovery: the log starts where `journal` says. Starts the threads.
    ///
    /// # Errors
    /// The system refuses another thread, or to list the directory.
    pub fn new(
        log: PathBuf,
        cluster: ClusterId,
        segment_length: u32,
        flushing: Flushing,
        mut journal: Journal,
        waker: &Waker,
    ) -> Result<Self, StorageError> {
        let Flushing {
            durability,
            idle,
            here_below,
        } = flushing.in_effect();
        let refused = |error| StorageError::io("start a thread for", &log)(error);
        let flush = |segment: Arc<Segment>| {
            let begun = Instant::now();
            let flushed = segment.flush();
            (begun.elapsed(), flushed)
        };
        let flusher = Worker::spawn_idling("flusher", idle, waker.clone(), flush);
        let flusher = flusher.map_err(refused)?;
        let ahead = Ahead::new(log.clone(), cluster.0, segment_length, durability, waker);
        let ahead = ahead.map_err(refused)?;
        let readers = Readers::new(&log, segment_length, waker).map_err(refused)?;
        let purger = Purger::new(log.clone(), segment_length, &readers, waker).map_err(refused)?;
        spares::remove_all(&log)?;
        if durability == Durability::Durable {
            journal.set_slots_beside();
        }
        let start = segment_base(journal.start(), segment_length).get();
        let last = segment_bases(&log)?.last().copied();
        Ok(Self {
            log,
            cluster: cluster.0,
            segment_length,
            durability,
            journal,
            current: None,
            ahead,
            flusher,
            place: Place::new(here_below),
            due: None,
            rested: None,
            readers,
            purger,
            spares: Spares::none(segment_length),
            files_end: last.map_or(start, |base| base + u64::from(segment_length)),
            bytes_max: u64::MAX,
            flushes: 0,
            cuts: 0,
        })
    }

    /// Where writing and flushing stand.
    pub fn journal(&self) -> &Journal {
        &self.journal
    }

    /// Below this, what is in the files is durable and of the log: a truncation of this very turn
    /// counts, of which the journal hears later.
    pub fn readable(&self, window: &Window<Vec<u8>>) -> Position {
        let durable = self.journal.durable();
        window.cut().map_or(durable, |cut| durable.min(cut))
    }

    /// Sets how many bytes of disk the log may take up: files are not made ahead of need beyond.
    /// What need there is, the core bounds: see [`room`].
    pub fn set_bytes_max(&mut self, bytes: u64) {
        self.bytes_max = bytes;
    }

    /// Where the log starts: no byte below exists.
    pub fn start(&self) -> Position {
        self.journal.start()
    }

    /// Whether the byte at `at` is not to be read any more: it is below the start, or will be once
    /// the purge under way is done.
    pub fn is_gone(&self, at: Position) -> bool {
        at < self.start().max(self.purger.gone())
    }

    /// How many bytes of disk the log takes up, with the files made, or being made, ahead of need,
    /// and those set aside to become the next ones.
    pub fn bytes(&self) -> u64 {
        let length = u64::from(self.segment_length);
        let base = segment_base(self.start(), self.segment_length).get();
        let end = self.files_end.max(self.ahead.making());
        end.saturating_sub(base) / length * (length + HEADER_LENGTH) + self.spares.bytes()
    }

    /// The disk is full, and something else needs room: files set aside to become the log's next
    /// ones are deleted as soon as may be, and for a while.
    pub fn make_room(&mut self) {
        self.purger.keep_none_until(Instant::now() + NO_SPARES);
    }

    /// Starts to set aside the files whose bytes are all below `below`, oldest first. Never the one
    /// that has the newest byte that is durable: its slot says what may be believed. False, and
    /// nothing is done, if there is none, or if such a job is under way.
    ///
    /// What is durable and covered by snapshots, and needed by no member, may be purged: the caller
    /// sees to that. Bounded: the work is another thread's.
    pub fn purge(&mut self, below: Position) -> bool {
        let newest = self.journal.durable().minus(1);
        let limit = segment_base(below.min(newest), self.segment_length);
        if limit <= self.start() || !self.purger.is_idle() {
            return false;
        }
        self.purger.purge(limit);
        true
    }

    /// The purge under way, once it is done: where the log starts now.
    ///
    /// # Errors
    /// Any error of the system, with the file's path: the log starts somewhere above where it did,
    /// and the node must be started anew.
    pub fn poll_purge(&mut self) -> Option<Result<Position, StorageError>> {
        let result = self.purger.poll();
        if let Some(Ok(start)) = &result {
            let from = segment_base(self.start(), self.segment_length);
            self.spares.add(from.get(), start.get());
            self.journal.handle_purged(*start);
        }
        if !self.spares.is_empty() && self.purger.is_idle() {
            let surplus = self.bytes().saturating_sub(self.bytes_max);
            self.purger.remove_some(&mut self.spares, surplus);
        }
        result
    }

    /// Writes healed bytes over damaged ones and waits until they are durable: rare, and nothing
    /// else that this member has to do is urgent until it is healed.
    ///
    /// # Errors
    /// Any error of the system, with the file's path.
    pub fn repair(&self, at: Position, bytes: &[u8]) -> Result<(), StorageError> {
        let base = segment_base(at, self.segment_length);
        let segment = self.ensure(base.get(), None)?;
        match segment.write_data(at.since(base), bytes) {
            // To change a part of a block the system reads the rest of it.
            Err(error) if is_unreadable(&error) => {
                let certain = confirmed(&self.log)?.unwrap_or_default();
                let certain = certain.get().saturating_sub(base.get());
                write_over(&segment, at.since(base), bytes, certain)?;
            }
            written => written?,
        }
        segment.flush()
    }

    /// How many flushes have returned.
    pub fn flushes(&self) -> u64 {
        self.flushes
    }

    /// How often the log was cut: bytes read before a cut may be of what was cut off.
    pub fn cuts(&self) -> u64 {
        self.cuts
    }

    /// Whether one of the threads has something to be polled for.
    pub fn is_ready(&self) -> bool {
        self.flusher.is_done()
            || self.ahead.is_done()
            || self.purger.is_done()
            || self.readers.is_done()
    }

    /// Takes what the flush thread has done: the mark is news for the node.
    ///
    /// # Errors
    /// That of the flush: the node must stop, and nothing that was not acknowledged before counts.
    pub fn poll_flushed(
        &mut self,
        window: &mut Window<Vec<u8>>,
    ) -> Result<Option<Mark>, StorageError> {
        // What was cut off since is not durable, whatever was flushed.
        self.take_cut(window)?;
        match self.flusher.poll() {
            Some(flushed) => self.handle_flushed(flushed, Instant::now()).map(Some),
            None => Ok(None),
        }
    }

    /// Flushes what was written to be flushed here, if anything was: the mark is news for the node.
    /// Blocks for as long as the disk takes.
    ///
    /// # Errors
    /// As [`Self::poll_flushed`].
    pub fn flush_here(&mut self) -> Result<Option<Mark>, StorageError> {
        let Some(segment) = self.due.take() else {
            return Ok(None);
        };
        let begun = Instant::now();
        let flushed = segment.flush();
        let now = Instant::now();
        self.handle_flushed((now - begun, flushed), now).map(Some)
    }

    fn handle_flushed(&mut self, flushed: Flushed, now: Instant) -> Result<Mark, StorageError> {
        let (took, result) = flushed;
        result?;
        self.place.note(took, now);
        self.flushes += 1;
        Ok(self.journal.handle_flushed())
    }

    /// Writes what has gathered, if no flush is under way, and has it flushed; where nobody waits
    /// for that, the mark is news for the node at once. If the caller `may_wait`, some flushes are
    /// left to [`Self::flush_here`], which must be called before the next write. Bounded by the
    /// bytes in the window.
    ///
    /// # Errors
    /// Any: the node must stop, and nothing that was not acknowledged before counts.
    pub fn write(
        &mut self,
        joined: Term,
        may_wait: bool,
        window: &mut Window<Vec<u8>>,
    ) -> Result<Option<Mark>, StorageError> {
        self.take_cut(window)?;
        let current = self.current.as_ref().map_or(0, |s| s.label().base);
        if let Some(end) = self.ahead.poll(current)? {
            self.files_end = self.files_end.max(end);
        }
        let written = self.journal.written().get();
        if !self.flusher.is_idle() || self.due.is_some() {
            self.ahead.fill(written);
            return Ok(None);
        }
        if window.end() <= self.journal.written() {
            self.ahead.fill(written);
            let now = Instant::now();
            if self.rested.is_some_and(|at| now - at < STEP_TO_REST) {
                return Ok(None);
            }
            self.rested = Some(now);
        }
        let base = segment_base(self.journal.written(), self.segment_length).get();
        if !self.prepare(base)? {
            return Ok(None);
        }
        let Some(group) = self.journal.poll_group(joined, window) else {
            return Ok(None);
        };
        let segment = self.segment_for(group.slot.segment.get())?;
        write_group(&segment, &group, window)?;
        window.set_written(self.journal.written());
        if self.durability == Durability::ReplicationOnly {
            return Ok(Some(self.journal.handle_flushed()));
        }
        let len = group.span.end.since(group.span.start);
        match may_wait && self.place.is_here(len, Instant::now()) {
            true => self.due = Some(segment),
            false => self.flusher.submit(segment),
        }
        Ok(None)
    }

    fn take_cut(&mut self, window: &mut Window<Vec<u8>>) -> Result<(), StorageError> {
        if let Some(cut) = window.take_cut() {
            self.journal.handle_truncated(cut);
            self.cuts += 1;
            // That is something to write, whether or not bytes have followed.
            self.rested = None;
            self.find_chain(window)?;
        }
        Ok(())
    }

    /// Waits for the flush in flight, if there is one: when the node closes.
    ///
    /// # Errors
    /// That of the flush.
    pub fn wait(&mut self) -> Result<Option<Mark>, StorageError> {
        match self.flusher.wait() {
            Some(flushed) => self.handle_flushed(flushed, Instant::now()).map(Some),
            None => self.flush_here(),
        }
    }

    /// Waits for all threads, whatever comes of their jobs: before the log is replaced. Then this
    /// is not used any more.
    pub fn wait_for_all(&mut self) {
        drop(self.flusher.wait());
        self.ahead.wait();
        self.purger.wait();
        self.readers.wait();
        // What replaces the log needs room. What is left of them now is deleted at start.
        drop(spares::remove_all(&self.log));
    }

    /// What is read of the files meanwhile.
    pub fn readers(&mut self) -> &mut Readers {
        &mut self.readers
    }

    /// Whether the file that starts at `base` can be written now; sees to it that it will be.
    fn prepare(&mut self, base: u64) -> Result<bool, StorageError> {
        let length = u64::from(self.segment_length);
        if self.current.as_ref().is_none_or(|s| s.label().base != base) {
            match self.ahead.take(base) {
                Some(segment) => self.current = Some(segment),
                // The first file, and after a truncation to an older one: made here, on the spot.
                None if self.ahead.is_idle() => {
                    let spare = (base >= self.files_end)
                        .then(|| self.spares.take())
                        .flatten();
                    self.current = Some(self.ensure(base, spare)?);
                }
                None => return Ok(false),
            }
        }
        self.files_end = self.files_end.max(base + length);
        let is_room = self.bytes() + length + HEADER_LENGTH <= self.bytes_max;
        if self.ahead.is_idle() && (is_room || !self.spares.is_empty()) {
            self.ahead.make(base, self.files_end, &mut self.spares);
        }
        Ok(true)
    }

    fn segment_for(&self, base: u64) -> Result<Arc<Segment>, StorageError> {
        match &self.current {
            Some(segment) if segment.label().base == base => Ok(Arc::clone(segment)),
            // A confirming slot for the file before, or a truncation in an older one.
            _ => self.ensure(base, None),
        }
    }

    fn ensure(&self, base: u64, spare: Option<u64>) -> Result<Arc<Segment>, StorageError> {
        // Only `Ahead::take` gives one of these out: zeros may be written to it.
        assert!(!self.ahead.holds(base), "this file is not the log's yet");
        let fill = fill_for(self.durability);
        spares::ensure(
            &self.log,
            spare,
            self.cluster,
            base,
            self.segment_length,
            fill,
        )
    }

    fn find_chain(&self, window: &mut Window<Vec<u8>>) -> Result<(), StorageError> {
        let end = window.end();
        if window.chain().is_none()
            && let Some(seed) = seed_at(&self.log, self.start(), end, self.segment_length)?
            && let Some(chain) = seed.chain
        {
            window.set_chain(end, chain);
        }
        Ok(())
    }
}

fn write_group(
    segment: &Segment,
    group: &Group,
    window: &Window<Vec<u8>>,
) -> Result<(), StorageError> {
    segment.write_new_slot(&group.slot)?;
    let (start, end) = (group.span.start, group.span.end);
    if start == end {
        return Ok(());
    }
    let first = piece(window, start, end);
    let second = piece(window, start.plus(first.len() as u64), end);
    assert_eq!(
        (first.len() + second.len()) as u64,
        end.since(start),
        "what the journal gives out is in the window, in two runs at most"
    );
    let at = start.since(group.slot.segment);
    segment.write_end(at, [first, second], group.keeps_rest)
}

/// What is in one run of the window from `at` on, up to `end`.
fn piece(window: &Window<Vec<u8>>, at: Position, end: Position) -> &[u8] {
    let run = window.read(at);
    &run[..run.len().min(end.since(at) as usize)]
}

/// How a new file of the log is filled before it gets its name.
pub fn fill_for(durability: Durability) -> Fill {
    match durability {
        Durability::Durable => Fill::Written,
        Durability::ReplicationOnly => Fill::Reserved,
    }
}

#[cfg(test)]
mod tests;
