//! A replicated key-value service: what the binary runs when the user brings none.
//!
//! Every request, reads too, is a message in the log, so all clients see one order of all of them.
//! A key's version is the log position of its last write: never used twice, comparable over keys.

use heapless::Vec;

use super::{
    CloseReason, Cluster, Progress, Service, SnapshotError, SnapshotReader, SnapshotWriter,
};
use crate::units::{Position, SessionId};

pub mod codec;
pub(super) mod mix;
#[cfg(test)]
pub(super) mod outbox;
mod snapshot;
mod store;
#[cfg(test)]
mod tests;
mod tree;

use codec::{DecodeError, KEY_MAX, Refusal, Reply, Request};
use snapshot::Saving;
use store::Store;
pub use store::{Entry, Full};
use tree::Damaged;

/// How many watches all sessions have together, at most.
pub const WATCHES_MAX: usize = 64;

/// Key-value pairs and watches, in lent memory `B`. [`codec`] is what clients send and receive.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Kv<B> {
    store: Store<B>,
    /// Old entries that a snapshot has yet to write.
    barrier: Option<Store<B>>,
    saving: Option<Saving>,
    watches: Vec<Watch, WATCHES_MAX>,
    unsent: u64,
    /// The memory does not hold what was written there.
    damaged: bool,
}

/// Who wants to know of which changes.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct Watch {
    session: SessionId,
    correlation: u64,
    key: Vec<u8, KEY_MAX>,
    is_prefix: bool,
}

impl Watch {
    fn sees(&self, key: &[u8]) -> bool {
        if self.is_prefix {
            key.starts_with(&self.key)
        } else {
            key == self.key.as_slice()
        }
    }

    fn digest(&self) -> u64 {
        let who = mix::word(self.session.opened_at().get(), self.correlation);
        mix::bytes(mix::word(who, u64::from(self.is_prefix)), &self.key)
    }
}

impl<B: AsRef<[u8]> + AsMut<[u8]>> Kv<B> {
    /// An empty map in `memory`, the same length on every member. While a snapshot is written, no
    /// message is taken: see [`Self::with_barrier`]. Each entry takes 26 bytes beside its key and
    /// value; an eighth of the memory is kept free, to move entries together in.
    pub fn new(memory: B) -> Self {
        Self {
            store: Store::new(memory),
            barrier: None,
            saving: None,
            watches: Vec::new(),
            unsent: 0,
            damaged: false,
        }
    }

    /// The same; while a snapshot is written, what messages change is kept for it in `barrier`.
    /// When that is nearly full, messages wait until the snapshot has moved on. It must have room
    /// for a few of the longest entries to be of use; its length does not change any answer.
    pub fn with_barrier(memory: B, barrier: B) -> Self {
        Self {
            barrier: Some(Store::new(barrier)),
            ..Self::new(memory)
        }
    }

    /// Reads a key as of the last executed message: for the driver, not for clients.
    pub fn get(&self, key: &[u8]) -> Option<Entry<'_>> {
        self.store.get(key).ok().flatten()
    }

    /// All entries in the order of their keys.
    pub fn iter(&self) -> impl Iterator<Item = Entry<'_>> {
        self.store.iter()
    }

    /// How many keys there are.
    pub fn len(&self) -> usize {
        self.store.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many watches there are.
    pub fn watches(&self) -> usize {
        self.watches.len()
    }

    /// Carries out one request. Work: that of the store, and at most one event for each watch.
    fn execute<'s>(
        &'s mut self,
        cluster: &mut Cluster<'_>,
        session: SessionId,
        correlation: u64,
        request: Request<'_>,
    ) -> Result<Reply<'s>, Damaged> {
        let version = cluster.position().get();
        Ok(match request {
            Request::Get { key } => match self.store.get(key)? {
                Some(entry) => Reply::Value {
                    version: entry.version,
                    value: entry.value,
                },
                None => Reply::NotFound,
            },
            Request::Put { key, value } => self.put(cluster, key, value)?,
            Request::Cas {
                expected,
                key,
                value,
            } => {
                let entry = self.store.get(key)?;
                let version = entry.map_or(0, |entry| entry.version);
                if version == expected {
                    self.put(cluster, key, value)?
                } else {
                    Reply::Conflict { version }
                }
            }
            Request::Delete { key } => {
                self.put_aside(key)?;
                if !self.store.remove(key)? {
                    return Ok(Reply::NotFound);
                }
                self.tell(cluster, key, &Reply::Deleted { version, key });
                Reply::Done { version }
            }
            Request::Watch { key } => self.watch(session, correlation, version, key, false),
            Request::WatchPrefix { prefix } => {
                self.watch(session, correlation, version, prefix, true)
            }
            Request::Unwatch => {
                let before = self.watches.len();
                self.watches
                    .retain(|w| (w.session, w.correlation) != (session, correlation));
                if self.watches.len() == before {
                    Reply::NotFound
                } else {
                    Reply::Done { version }
                }
            }
        })
    }

    fn put(
        &mut self,
        cluster: &mut Cluster<'_>,
        key: &[u8],
        value: &[u8],
    ) -> Result<Reply<'static>, Damaged> {
        let version = cluster.position().get();
        self.put_aside(key)?;
        if self.store.put(key, value, version)? == Err(Full) {
            return Ok(Reply::Full);
        }
        let event = Reply::Changed {
            version,
            key,
            value,
        };
        self.tell(cluster, key, &event);
        Ok(Reply::Done { version })
    }

    fn watch(
        &mut self,
        session: SessionId,
        correlation: u64,
        version: u64,
        key: &[u8],
        is_prefix: bool,
    ) -> Reply<'static> {
        let Ok(key) = Vec::from_slice(key) else {
            return Reply::Refused(Refusal::KeyLength);
        };
        let watch = Watch {
            session,
            correlation,
            key,
            is_prefix,
        };
        match self.watches.push(watch) {
            Ok(()) => Reply::Done { version },
            Err(_) => Reply::Refused(Refusal::TooManyWatches),
        }
    }

    fn content_digest(&self) -> u64 {
        let digest = mix::word(self.store.digest(), self.unsent);
        self.watches
            .iter()
            .fold(digest, |digest, watch| mix::word(digest, watch.digest()))
    }

    fn tell(&mut self, cluster: &mut Cluster<'_>, key: &[u8], event: &Reply<'_>) {
        for watch in self.watches.iter().filter(|w| w.sees(key)) {
            let encoded = codec::encode_reply(watch.correlation, event);
            let sent = cluster.offer(watch.session, &encoded.parts());
            self.unsent = self.unsent.wrapping_add(u64::from(sent.is_err()));
        }
    }
}

impl<B: AsRef<[u8]> + AsMut<[u8]>> Service for Kv<B> {
    /// Not while a snapshot's first piece is unwritten, or its barrier may be too full. What is
    /// handed in all the same is executed, and the snapshot fails. Nor ever again once the memory
    /// was found to be damaged.
    fn ready(&self, _: Position) -> bool {
        !self.damaged && self.is_ready()
    }

    fn is_broken(&self) -> bool {
        self.damaged
    }

    fn on_session_close(
        &mut self,
        _cluster: &mut Cluster<'_>,
        session: SessionId,
        _reason: CloseReason,
    ) {
        self.check_ready();
        self.watches.retain(|watch| watch.session != session);
    }

    /// A request that writes is told to its watchers first, then answered.
    fn on_session_message(
        &mut self,
        cluster: &mut Cluster<'_>,
        session: SessionId,
        message: &[u8],
    ) {
        self.check_ready();
        let (correlation, reply) = match codec::decode_request(message) {
            Ok((correlation, request)) => {
                match self.execute(cluster, session, correlation, request) {
                    Ok(reply) => (correlation, reply),
                    // No answer is better than one that may be wrong: the node stops.
                    Err(Damaged) => {
                        self.damaged = true;
                        return;
                    }
                }
            }
            Err(DecodeError { correlation, why }) => (correlation, Reply::Refused(why)),
        };
        let encoded = codec::encode_reply(correlation, &reply);
        if cluster.offer(session, &encoded.parts()).is_err() {
            self.unsent = self.unsent.wrapping_add(1);
        }
    }

    /// Work: the number of watches.
    fn digest(&self) -> u64 {
        self.content_digest()
    }

    fn begin_snapshot(&mut self) {
        self.begin();
    }

    /// Work: 128 KiB and one entry.
    fn write_snapshot(&mut self, out: &mut SnapshotWriter<'_>) -> Result<Progress, SnapshotError> {
        self.write(out)
    }

    fn end_snapshot(&mut self) {
        self.end();
    }

    /// What is wrong leaves an empty map; an unknown format what was there.
    fn read_snapshot(&mut self, from: &mut SnapshotReader<'_>) -> Result<(), SnapshotError> {
        self.read(from)
    }
}
