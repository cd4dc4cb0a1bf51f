//! Cold reads of the log's files: for services, and for members that are behind, on threads of
//! their own.

use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use coracle_core::units::Position;

use super::super::error::StorageError;
use super::super::recover::Reader;
use crate::waker::Waker;
use crate::worker::Worker;

/// The most that is read for services at once: it is still in a cache when it is executed.
const REPLAY_MAX: usize = 512 << 10;
/// The same, where the node's thread reads: more than the largest frame, and as long as it takes to
/// copy that this thread does nothing else.
const CACHED_MAX: usize = 128 << 10;

/// A cold read: into the buffer that comes with it.
struct ReadJob {
    at: Position,
    len: usize,
    bytes: Vec<u8>,
}

/// The buffer, and how many bytes at its start were read.
type ReadDone = (Vec<u8>, Result<usize, StorageError>);

/// What a reader on a thread of its own has open.
pub(super) type Shared = Arc<Mutex<Reader>>;

/// See the module's text.
pub struct Readers {
    workers: [Worker<ReadJob, ReadDone>; 2],
    shared: [Shared; 2],
}

impl Readers {
    /// Starts the threads.
    ///
    /// # Errors
    /// The system refuses one.
    pub(super) fn new(log: &Path, segment_length: u32, waker: &Waker) -> io::Result<Self> {
        let shared = [(); 2].map(|()| Shared::new(Mutex::new(Reader::new(log, segment_length))));
        let worker = |name: &str, reader: &Shared| {
            let reader = Arc::clone(reader);
            Worker::spawn(name, waker.clone(), move |mut job: ReadJob| {
                let len = job.len.min(job.bytes.len());
                let mut reader = reader.lock().unwrap_or_else(PoisonError::into_inner);
                let read = reader.read(job.at, &mut job.bytes[..len]);
                (job.bytes, read)
            })
        };
        let workers = [
            worker("replay", &shared[0])?,
            worker("catchup", &shared[1])?,
        ];
        Ok(Self { workers, shared })
    }

    /// What they have open: it must be let go before a file becomes another one.
    pub(super) fn shared(&self) -> [Shared; 2] {
        self.shared.clone()
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
        let reader = &mut self.workers[consumer];
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
        let reader = self.shared[0].try_lock().ok()?;
        reader.read_cached(at, &mut bytes[..len])
    }

    /// The cold read of a consumer, once it is done.
    pub fn poll(&mut self, consumer: usize) -> Option<ReadDone> {
        self.workers[consumer].poll()
    }

    /// Whether one of them has something to be polled for.
    pub(super) fn is_done(&self) -> bool {
        self.workers.iter().any(Worker::is_done)
    }

    /// Waits for both, whatever comes of it.
    pub(super) fn wait(&mut self) {
        for worker in &mut self.workers {
            drop(worker.wait());
        }
    }
}
