//! The log's files while a node runs: groups are written here, flushed on a thread of their own,
//! and the next files are made ahead of need, the oldest deleted when nobody needs them, on others.

use std::path::PathBuf;
use std::sync::Arc;

use coracle_core::log::{Group, Journal, Log, Seed, Window, segment_base};
use coracle_core::units::{ClusterId, Mark, Position, Term};

use super::dir::segment_bases;
use super::error::StorageError;
use super::purge::{PurgeJob, purge};
use super::recover::{Reader, seed_at};
use super::segment::{HEADER_LENGTH, Segment, ensure};
use crate::config::Durability;
use crate::waker::Waker;
use crate::worker::Worker;

/// How many files ahead of the one being written exist already.
const AHEAD: usize = 2;

/// A cold read: into the buffer that comes with it.
struct ReadJob {
    at: Position,
    len: usize,
    bytes: Vec<u8>,
}

/// The buffer, and how many bytes at its start were read.
type ReadDone = (Vec<u8>, Result<usize, StorageError>);

/// How many bytes of log fit in whole files that take up `log_max` bytes of disk at most: what the
/// core is told to be its bound, because it knows nothing of headers.
pub fn room(log_max: u64, segment_length: u32) -> u64 {
    let length = u64::from(segment_length);
    log_max / (length + HEADER_LENGTH) * length
}

/// See the module's text.
pub struct LogStore {
    log: PathBuf,
    cluster: u64,
    segment_length: u32,
    durability: Durability,
    journal: Journal,
    current: Option<Arc<Segment>>,
    ahead: [Option<Arc<Segment>>; AHEAD],
    flusher: Worker<Arc<Segment>, Result<(), StorageError>>,
    maker: Worker<u64, Result<Arc<Segment>, StorageError>>,
    readers: [Worker<ReadJob, ReadDone>; 2],
    purger: Worker<PurgeJob, Result<Seed, StorageError>>,
    /// No byte below is there, or will be soon.
    gone: Position,
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
        durability: Durability,
        journal: Journal,
        waker: &Waker,
    ) -> Result<Self, StorageError> {
        let refused = |error| StorageError::io("start a thread for", &log)(error);
        let flusher = Worker::spawn("flusher", waker.clone(), |segment: Arc<Segment>| {
            segment.flush()
        })
        .map_err(refused)?;
        let dir = log.clone();
        let maker = Worker::spawn("segments", waker.clone(), move |base| {
            ensure(&dir, cluster.0, base, segment_length)
        })
        .map_err(refused)?;
        let reader = |name: &str| {
            let mut reader = Reader::new(&log, segment_length);
            Worker::spawn(name, waker.clone(), move |mut job: ReadJob| {
                let len = job.len.min(job.bytes.len());
                let read = reader.read(job.at, &mut job.bytes[..len]);
                (job.bytes, read)
            })
            .map_err(refused)
        };
        let readers = [reader("replay")?, reader("catchup")?];
        let dir = log.clone();
        let purger =
            Worker::spawn("purge", waker.clone(), move |job| purge(&dir, job)).map_err(refused)?;
        let start = segment_base(journal.start(), segment_length).get();
        let last = segment_bases(&log)?.last().copied();
        Ok(Self {
            log,
            cluster: cluster.0,
            segment_length,
            durability,
            journal,
            current: None,
            ahead: [const { None }; AHEAD],
            flusher,
            maker,
            readers,
            purger,
            gone: Position::ZERO,
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

    /// How many bytes of disk the log takes up, with the files made, or being made, ahead of need.
    pub fn bytes(&self) -> u64 {
        let length = u64::from(self.segment_length);
        let base = segment_base(self.start(), self.segment_length).get();
        self.files_end.saturating_sub(base) / length * (length + HEADER_LENGTH)
    }

    /// Starts to delete the files whose bytes are all below `below`, oldest first. Never the one
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
        self.purger.submit(PurgeJob {
            start: self.start(),
            limit,
            segment_length: self.segment_length,
        });
        true
    }

    /// The purge under way, once it is done: where the log starts now, and after what.
    ///
    /// # Errors
    /// Any error of the system, with the file's path: the log starts somewhere above where it did,
    /// and the node must be started anew.
    pub fn poll_purge(&mut self) -> Option<Result<Seed, StorageError>> {
        let result = self.purger.poll()?;
        if let Ok(seed) = &result {
            self.journal.handle_purged(seed.position);
        }
        Some(result)
    }

    /// Writes healed bytes over damaged ones and waits until they are durable: rare, and nothing
    /// else that this member has to do is urgent until it is healed.
    ///
    /// # Errors
    /// Any error of the system, with the file's path.
    pub fn repair(&self, at: Position, bytes: &[u8]) -> Result<(), StorageError> {
        let base = segment_base(at, self.segment_length);
        let segment = ensure(&self.log, self.cluster, base.get(), self.segment_length)?;
        segment.write_data(at.since(base), bytes)?;
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

    /// Whether one of the threads has something for `poll` or `poll_read`.
    pub fn is_ready(&self) -> bool {
        self.flusher.is_done()
            || self.maker.is_done()
            || self.purger.is_done()
            || self.readers.iter().any(Worker::is_done)
    }

    /// One turn: takes what the flush thread has done, and gives it the next group. The mark is
    /// news for the node. Bounded by the bytes in the window.
    ///
    /// # Errors
    /// Any: the node must stop, and nothing that was not acknowledged before counts.
    pub fn poll(
        &mut self,
        joined: Term,
        window: &mut Window<Vec<u8>>,
    ) -> Result<Option<Mark>, StorageError> {
        if let Some(cut) = window.take_cut() {
            self.journal.handle_truncated(cut);
            self.cuts += 1;
            self.find_chain(window)?;
        }
        let mut mark = None;
        if let Some(result) = self.flusher.poll() {
            result?;
            self.flushes += 1;
            mark = Some(self.journal.handle_flushed());
        }
        if let Some(made) = self.maker.poll() {
            self.keep(made?);
        }
        if !self.flusher.is_idle() {
            return Ok(mark);
        }
        let base = segment_base(self.journal.written(), self.segment_length).get();
        if !self.prepare(base)? {
            return Ok(mark);
        }
        if let Some(group) = self.journal.poll_group(joined, window) {
            let segment = self.segment_for(group.slot_segment.get())?;
            write_group(&segment, &group, window)?;
            window.set_written(self.journal.written());
            match self.durability {
                Durability::Durable => self.flusher.submit(segment),
                Durability::ReplicationOnly => mark = Some(self.journal.handle_flushed()),
            }
        }
        Ok(mark)
    }

    /// Waits for the flush in flight, if there is one: when the node closes.
    ///
    /// # Errors
    /// That of the flush.
    pub fn wait(&mut self) -> Result<Option<Mark>, StorageError> {
        match self.flusher.wait() {
            Some(result) => {
                result?;
                self.flushes += 1;
                Ok(Some(self.journal.handle_flushed()))
            }
            None => Ok(None),
        }
    }

    /// Waits for all threads, whatever comes of their jobs: before the log is replaced. Then this
    /// is not used any more.
    pub fn wait_for_all(&mut self) {
        drop(self.flusher.wait());
        drop(self.maker.wait());
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
        reader.submit(ReadJob { at, len, bytes });
        None
    }

    /// The cold read of a consumer, once it is done.
    pub fn poll_read(&mut self, consumer: usize) -> Option<ReadDone> {
        self.readers[consumer].poll()
    }

    /// Whether the file that starts at `base` can be written now; sees to it that it will be.
    fn prepare(&mut self, base: u64) -> Result<bool, StorageError> {
        let length = u64::from(self.segment_length);
        if self.current.as_ref().is_none_or(|s| s.label().base != base) {
            let found = self
                .ahead
                .iter_mut()
                .find(|s| s.as_ref().is_some_and(|s| s.label().base == base));
            match found.and_then(Option::take) {
                Some(segment) => self.current = Some(segment),
                // The first file, and after a truncation to an older one: made here, on the spot.
                None if self.maker.is_idle() => {
                    self.current =
                        Some(ensure(&self.log, self.cluster, base, self.segment_length)?);
                }
                None => return Ok(false),
            }
        }
        self.files_end = self.files_end.max(base + length);
        let is_room = self.bytes() + length + HEADER_LENGTH <= self.bytes_max;
        if self.maker.is_idle() && is_room {
            for next in (1..=AHEAD as u64).map(|n| base + n * length) {
                let is_there = self.ahead.iter().flatten().any(|s| s.label().base == next);
                if !is_there {
                    self.files_end = self.files_end.max(next + length);
                    self.maker.submit(next);
                    break;
                }
            }
        }
        Ok(true)
    }

    fn keep(&mut self, segment: Arc<Segment>) {
        let current = self.current.as_ref().map_or(0, |s| s.label().base);
        // An entry at or below the current file is left from before a truncation, or was used.
        let free = self
            .ahead
            .iter_mut()
            .find(|s| s.as_ref().is_none_or(|s| s.label().base <= current));
        if let Some(free) = free {
            *free = Some(segment);
        }
    }

    fn segment_for(&self, base: u64) -> Result<Arc<Segment>, StorageError> {
        match &self.current {
            Some(segment) if segment.label().base == base => Ok(Arc::clone(segment)),
            // A confirming slot for the file before, or a truncation in an older one.
            _ => ensure(&self.log, self.cluster, base, self.segment_length),
        }
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
        segment.write_data(at.since(group.slot_segment), &run[..len])?;
        at = at.plus(len as u64);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::recover::recover;
    use super::super::testing::Scratch;
    use super::*;
    use coracle_core::log::append;

    const CLUSTER: ClusterId = ClusterId(7);
    const SEGMENT: u32 = 64 << 10;
    const MTU: usize = 1408;

    fn window() -> Window<Vec<u8>> {
        Window::new(vec![0; (32 << 10) + MTU], MTU, SEGMENT).unwrap()
    }

    fn open(scratch: &Scratch) -> (LogStore, Window<Vec<u8>>, Position) {
        let mut window = window();
        let recovered = recover(scratch.path(), CLUSTER, None, &mut window).unwrap();
        let journal = recovered.journal(CLUSTER, SEGMENT);
        let waker = Waker::new().unwrap();
        let log = scratch.path().to_path_buf();
        let store =
            LogStore::new(log, CLUSTER, SEGMENT, Durability::Durable, journal, &waker).unwrap();
        (store, window, recovered.tail.end)
    }

    fn settle(store: &mut LogStore, window: &mut Window<Vec<u8>>) {
        // Some turns more than it takes to confirm the last group.
        for _ in 0..10_000 {
            store.poll(Term::new(1), window).unwrap();
            let is_durable = store.journal().durable() == window.end();
            if is_durable && !store.journal().is_flushing() && store.maker.is_idle() {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        panic!("the log does not become durable");
    }

    #[test]
    fn what_is_durable_is_there_after_a_restart_over_several_files() {
        let scratch = Scratch::new("store");
        let (mut store, mut window, end) = open(&scratch);
        assert_eq!(end, Position::ZERO);
        let message = vec![0x5A; 5000];
        for _ in 0..60 {
            let term = Term::new(1);
            while append(&mut window, term, &[&message], MTU).is_err() {
                window.release(window.end());
                settle(&mut store, &mut window);
            }
        }
        settle(&mut store, &mut window);
        let end = window.end();
        let chain = window.chain();
        assert!(end.get() > 4 * u64::from(SEGMENT));
        drop(store);

        let (store, window, recovered) = open(&scratch);
        assert_eq!(recovered, end);
        assert_eq!(window.end(), end);
        assert_eq!(window.chain(), chain);
        let found = seed_at(scratch.path(), Position::ZERO, end, SEGMENT).unwrap();
        assert_eq!(found.and_then(|seed| seed.chain), chain);
        drop(store);
        let mut other = Window::new(vec![0; 64 << 10], MTU, SEGMENT).unwrap();
        let foreign = recover(scratch.path(), ClusterId(8), None, &mut other).unwrap_err();
        assert!(matches!(foreign, StorageError::Foreign { .. }), "{foreign}");
    }

    #[test]
    fn what_is_cut_off_is_not_readable_from_then_on() {
        let scratch = Scratch::new("store-cut");
        let (mut store, mut window, _) = open(&scratch);
        write(&mut store, &mut window, 2);
        let (cut, end) = (Position::new(5152), window.end());
        assert_eq!(store.readable(&window), end);
        window.truncate(cut);
        // Other bytes are in the log there, and may be committed; in the file the old ones are.
        append(&mut window, Term::new(2), &[&[0x77; 5000]], MTU).unwrap();
        assert_eq!(store.readable(&window), cut);
    }

    fn write(store: &mut LogStore, window: &mut Window<Vec<u8>>, messages: usize) {
        for _ in 0..messages {
            while append(window, Term::new(1), &[&[0x5A; 5000]], MTU).is_err() {
                window.release(window.end());
                settle(store, window);
            }
        }
        settle(store, window);
    }

    fn purged(store: &mut LogStore, below: Position) -> Option<Seed> {
        if !store.purge(below) {
            return None;
        }
        assert!(!store.purge(below), "one at a time");
        loop {
            if let Some(result) = store.poll_purge() {
                return Some(result.unwrap());
            }
            std::thread::yield_now();
        }
    }

    #[test]
    fn a_purge_deletes_whole_files_below_and_the_log_goes_on_from_there() {
        let scratch = Scratch::new("store-purge");
        let (mut store, mut window, _) = open(&scratch);
        write(&mut store, &mut window, 60);
        let length = u64::from(SEGMENT);
        let end = window.end();
        let files = |store: &LogStore| {
            let bases = segment_bases(scratch.path()).unwrap();
            assert_eq!(store.bytes(), bases.len() as u64 * (length + HEADER_LENGTH));
            assert_eq!(store.start().get(), bases[0]);
            bases
        };
        assert_eq!(purged(&mut store, Position::new(length - 32)), None);
        let before = seed_at(
            scratch.path(),
            Position::ZERO,
            Position::new(length * 2),
            SEGMENT,
        );
        let seed = purged(&mut store, Position::new(length * 2 + 4000)).unwrap();
        assert_eq!(Some(seed), before.unwrap());
        assert_eq!((seed.position.get(), seed.term), (length * 2, Term::new(1)));
        assert_eq!(files(&store)[0], length * 2);
        assert_eq!(purged(&mut store, Position::new(length * 2 + 4000)), None);
        // Whatever is asked for, the file with the newest slot stays.
        let seed = purged(&mut store, end.plus(9 * length)).unwrap();
        assert_eq!(seed.position, segment_base(end.minus(1), SEGMENT));
        assert_eq!(files(&store)[0], seed.position.get());
        write(&mut store, &mut window, 20);
        let (end, chain) = (window.end(), window.chain());
        drop(store);

        let (mut store, mut window, recovered) = open(&scratch);
        assert_eq!((recovered, window.chain()), (end, chain));
        assert_eq!(store.start(), seed.position);
        write(&mut store, &mut window, 20);
        files(&store);
        let mut reader = Reader::new(scratch.path(), SEGMENT);
        assert_eq!(reader.read(Position::ZERO, &mut [0; 32]).unwrap(), 0);
    }

    #[test]
    fn files_are_not_made_ahead_beyond_the_bound() {
        let scratch = Scratch::new("store-bound");
        let (mut store, mut window, _) = open(&scratch);
        let file = u64::from(SEGMENT) + HEADER_LENGTH;
        store.set_bytes_max(4 * file + 5);
        assert_eq!(room(4 * file + 5, SEGMENT), 4 * u64::from(SEGMENT));
        while window.end().get() < room(4 * file + 5, SEGMENT) - 6000 {
            write(&mut store, &mut window, 1);
            assert!(store.bytes() <= 4 * file, "{}", store.bytes());
        }
        assert_eq!(segment_bases(scratch.path()).unwrap().len(), 4);
    }

    #[test]
    fn a_file_that_is_missing_between_others_is_named() {
        let scratch = Scratch::new("store-missing");
        let (mut store, mut window, _) = open(&scratch);
        write(&mut store, &mut window, 60);
        drop(store);
        let name = Segment::name(2 * u64::from(SEGMENT));
        std::fs::remove_file(scratch.path().join(&name)).unwrap();
        let mut again = super::tests::window();
        let error = recover(scratch.path(), CLUSTER, None, &mut again).unwrap_err();
        assert!(
            matches!(error, StorageError::SegmentMissing { .. }),
            "{error}"
        );
        assert!(error.to_string().contains(&name), "{error}");
    }

    #[test]
    fn damage_below_what_was_confirmed_is_reported_not_cut_and_can_be_written_over() {
        let scratch = Scratch::new("store-damage");
        let (mut store, mut window, _) = open(&scratch);
        for _ in 0..4 {
            append(&mut window, Term::new(1), &[&[1; 500]], MTU).unwrap();
            settle(&mut store, &mut window);
        }
        let end = window.end();
        drop(store);
        let path = scratch.path().join(Segment::name(0));
        let segment = Segment::open(&path, true).unwrap();
        let mut good = [0; 1];
        segment.read_data(600, &mut good).unwrap();
        segment.write_data(600, &[!good[0]]).unwrap();
        drop(segment);
        let mut again = super::tests::window();
        let recovered = recover(scratch.path(), CLUSTER, None, &mut again).unwrap();
        assert_eq!(recovered.corrupt, Some(Position::new(544)));
        assert_eq!(recovered.tail.end, end);
        let (store, _, _) = super::tests::open(&scratch);
        store.repair(Position::new(600), &good).unwrap();
        drop(store);
        let mut healed = super::tests::window();
        let recovered = recover(scratch.path(), CLUSTER, None, &mut healed).unwrap();
        assert_eq!((recovered.corrupt, recovered.tail.end), (None, end));
    }
}
