//! The log's files while a node runs: groups are written here, flushed here or on a thread of their
//! own, and the next files are made ahead of need, of the oldest that nobody needs if there are
//! such, on others.

use std::io;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use coracle_core::log::{Group, Journal, Log, Window, segment_base};
use coracle_core::units::{ClusterId, Mark, Position, Term};

use super::ahead::Ahead;
use super::dir::segment_bases;
use super::error::StorageError;
use super::place::Place;
use super::recover::{Reader, confirmed, seed_at};
use super::segment::{Fill, HEADER_LENGTH, Segment, ensure};
use super::spares::{self, Spares};
use super::unreadable::{is_unreadable, write_over};
use crate::config::{Durability, Idle};
use crate::waker::Waker;
use crate::worker::Worker;

/// The most that is read for services at once: it is still in a cache when it is executed.
const REPLAY_MAX: usize = 512 << 10;
/// The same, where the node's thread reads: more than the largest frame, and as long as it takes to
/// copy that this thread does nothing else.
const CACHED_MAX: usize = 128 << 10;

/// A log with nothing to write counts as a step closer to rest once in this time at most: a thread
/// that looks again and again, while the next message is on its way, looks many times.
const STEP_TO_REST: Duration = Duration::from_millis(1);

/// A cold read: into the buffer that comes with it.
struct ReadJob {
    at: Position,
    len: usize,
    bytes: Vec<u8>,
}

/// The buffer, and how many bytes at its start were read.
type ReadDone = (Vec<u8>, Result<usize, StorageError>);

/// A reader on a thread of its own, and what it has open.
type Shared = Arc<Mutex<Reader>>;

enum Purge {
    /// What is below becomes spares.
    Below(Position),
    /// These spares are deleted.
    Spares(Range<u64>),
}

/// Says where the log starts, if that is news.
type Purger = Worker<Purge, Result<Option<Position>, StorageError>>;

fn purger(
    log: PathBuf,
    segment_length: u32,
    readers: [&Shared; 2],
    waker: &Waker,
) -> io::Result<Purger> {
    let readers = readers.map(Arc::clone);
    Worker::spawn("purge", waker.clone(), move |purge| match purge {
        Purge::Below(limit) => {
            spares::set_aside_below(&log, limit.get())?;
            // From here on nobody finds them by their names.
            for reader in &readers {
                let mut reader = reader.lock().unwrap_or_else(PoisonError::into_inner);
                reader.forget_below(limit);
            }
            Ok(Some(limit))
        }
        Purge::Spares(bases) => spares::remove(&log, bases, segment_length).map(|()| None),
    })
}

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
    readers: [Worker<ReadJob, ReadDone>; 2],
    /// What the reader for services has open.
    replayed: Shared,
    purger: Purger,
    /// No byte below is there, or will be soon.
    gone: Position,
    spares: Spares,
    /// The disk is full: they are to be deleted.
    is_room_wanted: bool,
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
        journal: Journal,
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
        let [replayed, caught_up] =
            [(); 2].map(|()| Shared::new(Mutex::new(Reader::new(&log, segment_length))));
        let reader = |name: &str, reader: &Shared| {
            let reader = Arc::clone(reader);
            Worker::spawn(name, waker.clone(), move |mut job: ReadJob| {
                let len = job.len.min(job.bytes.len());
                let mut reader = reader.lock().unwrap_or_else(PoisonError::into_inner);
                let read = reader.read(job.at, &mut job.bytes[..len]);
                (job.bytes, read)
            })
            .map_err(refused)
        };
        let readers = [reader("replay", &replayed)?, reader("catchup", &caught_up)?];
        let purger = purger(log.clone(), segment_length, [&replayed, &caught_up], waker);
        let purger = purger.map_err(refused)?;
        spares::remove_all(&log)?;
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
            replayed,
            purger,
            gone: Position::ZERO,
            spares: Spares::none(segment_length),
            is_room_wanted: false,
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
        at < self.start().max(self.gone)
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
    /// ones are deleted, as soon as may be.
    pub fn make_room(&mut self) {
        self.is_room_wanted = true;
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
        self.gone = limit;
        self.purger.submit(Purge::Below(limit));
        true
    }

    /// The purge under way, once it is done: where the log starts now.
    ///
    /// # Errors
    /// Any error of the system, with the file's path: the log starts somewhere above where it did,
    /// and the node must be started anew.
    pub fn poll_purge(&mut self) -> Option<Result<Position, StorageError>> {
        let result = self.purger.poll().and_then(Result::transpose);
        if let Some(Ok(start)) = &result {
            let from = segment_base(self.start(), self.segment_length);
            self.spares.add(from.get(), start.get());
            self.journal.handle_purged(*start);
        }
        if self.is_room_wanted && self.purger.is_idle() {
            self.is_room_wanted = false;
            if !self.spares.is_empty() {
                self.purger.submit(Purge::Spares(self.spares.take_all()));
            }
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
        let segment = self.ensure(base.get())?;
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
            || self.readers.iter().any(Worker::is_done)
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
        let segment = self.segment_for(group.slot_segment.get())?;
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
        drop(self.purger.wait());
        for reader in &mut self.readers {
            drop(reader.wait());
        }
    }

    /// Starts a cold read for consumer 0 or 1, unless it has one under way: then the bytes come
    /// back.
    pub fn read(
        &mut self,
        consumer: usize,
        at: Position,
        len: usize,
        bytes: Vec<u8>,
    ) -> Option<Vec<u8>> {
        let reader = &mut self.readers[consumer];
        if !reader.is_idle() {
            return Some(bytes);
        }
        let len = if consumer == 0 {
            len.min(REPLAY_MAX)
        } else {
            len
        };
        reader.submit(ReadJob { at, len, bytes });
        None
    }

    /// A cold read for services, if all of these bytes, a part of `len`, are in memory and their
    /// file is open: then no other thread is needed, which would have to be woken, and whose
    /// processor they would have to be fetched from. How many there are.
    pub fn read_cached(&self, at: Position, len: usize, bytes: &mut [u8]) -> Option<usize> {
        let len = len.min(bytes.len()).min(CACHED_MAX);
        // Whoever has it locked is reading.
        let reader = self.replayed.try_lock().ok()?;
        reader.read_cached(at, &mut bytes[..len])
    }

    /// The cold read of a consumer, once it is done.
    pub fn poll_read(&mut self, consumer: usize) -> Option<ReadDone> {
        self.readers[consumer].poll()
    }

    /// Whether the file that starts at `base` can be written now; sees to it that it will be.
    fn prepare(&mut self, base: u64) -> Result<bool, StorageError> {
        let length = u64::from(self.segment_length);
        if self.current.as_ref().is_none_or(|s| s.label().base != base) {
            match self.ahead.take(base) {
                Some(segment) => self.current = Some(segment),
                // The first file, and after a truncation to an older one: made here, on the spot.
                None if self.ahead.is_idle() => {
                    self.current = Some(self.ensure(base)?);
                }
                None => return Ok(false),
            }
        }
        self.files_end = self.files_end.max(base + length);
        let is_room = self.bytes() + length + HEADER_LENGTH <= self.bytes_max;
        if self.ahead.is_idle() && (is_room || !self.spares.is_empty()) {
            self.ahead.make(base, length, &mut self.spares);
        }
        Ok(true)
    }

    fn segment_for(&self, base: u64) -> Result<Arc<Segment>, StorageError> {
        match &self.current {
            Some(segment) if segment.label().base == base => Ok(Arc::clone(segment)),
            // A confirming slot for the file before, or a truncation in an older one.
            _ => self.ensure(base),
        }
    }

    fn ensure(&self, base: u64) -> Result<Arc<Segment>, StorageError> {
        // Only `Ahead::take` gives one of these out: zeros may be written to it.
        assert!(!self.ahead.holds(base), "this file is not the log's yet");
        let fill = fill_for(self.durability);
        ensure(&self.log, self.cluster, base, self.segment_length, fill)
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
    segment.write_slot(group.slot_index, &group.slot.encode())?;
    let mut at = group.span.start;
    while at < group.span.end {
        let run = window.read(at);
        let len = run.len().min(group.span.end.since(at) as usize);
        assert!(len > 0, "what the journal gives out is in the window");
        segment.write_end(at.since(group.slot_segment), &run[..len])?;
        at = at.plus(len as u64);
    }
    Ok(())
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
