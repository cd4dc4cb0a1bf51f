//! openraft's log and state machine: entries in memory and, where a member flushes, in a
//! write-ahead log that a thread of its own writes, all that has come meanwhile as one group.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::io;
use std::ops::RangeBounds;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, mpsc};

use futures_util::{Stream, TryStreamExt};
use openraft::entry::RaftEntry;
use openraft::storage::{EntryResponder, IOFlushed, RaftLogStorage, RaftStateMachine};
use openraft::type_config::alias::{
    EntryOf, LogIdOf, SnapshotMetaOf, SnapshotOf, StoredMembershipOf, VoteOf,
};
use openraft::{EntryPayload, LogState, OptionalSend, RaftLogReader, RaftSnapshotBuilder};

use super::{Text, Types};
use crate::wal::Wal;

/// What a member remembers of its log.
#[derive(Default)]
struct Memory {
    entries: BTreeMap<u64, EntryOf<Types>>,
    purged: Option<LogIdOf<Types>>,
    vote: Option<VoteOf<Types>>,
}

/// What is to be written, and who is to hear of it.
struct Group {
    bytes: Vec<u8>,
    done: Done,
}

enum Done {
    Entries(IOFlushed<Types>),
    Vote(tokio::sync::oneshot::Sender<io::Result<()>>),
}

impl Done {
    fn tell(self, result: io::Result<()>) {
        match self {
            Self::Entries(callback) => callback.io_completed(result),
            // Who asked may have gone.
            Self::Vote(sender) => drop(sender.send(result)),
        }
    }
}

/// A member's log.
#[derive(Clone)]
pub struct Log {
    memory: Arc<Mutex<Memory>>,
    disk: Option<mpsc::Sender<Group>>,
}

impl Log {
    /// In memory, or also in a file.
    pub fn open(path: Option<&Path>) -> io::Result<Self> {
        let disk = path.map(disk).transpose()?;
        Ok(Self {
            memory: Arc::default(),
            disk,
        })
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().expect("nobody panics with it")
    }

    fn write(&self, bytes: Vec<u8>, done: Done) -> io::Result<()> {
        match &self.disk {
            Some(disk) => disk
                .send(Group { bytes, done })
                .map_err(|_| io::Error::other("the thread that flushes has ended")),
            None => {
                done.tell(Ok(()));
                Ok(())
            }
        }
    }
}

/// Starts the thread that flushes.
fn disk(path: &Path) -> io::Result<mpsc::Sender<Group>> {
    let mut wal = Wal::create(path)?;
    let (sender, receiver) = mpsc::channel::<Group>();
    std::thread::spawn(move || {
        while let Ok(first) = receiver.recv() {
            let mut done = Vec::new();
            for group in std::iter::once(first).chain(receiver.try_iter()) {
                wal.note(&[&group.bytes]);
                done.push(group.done);
            }
            let result = wal.flush();
            for done in done {
                done.tell(match &result {
                    Ok(()) => Ok(()),
                    Err(error) => Err(io::Error::other(error.to_string())),
                });
            }
        }
    });
    Ok(sender)
}

impl RaftLogReader<Types> for Log {
    async fn try_get_log_entries<RB>(&mut self, range: RB) -> io::Result<Vec<EntryOf<Types>>>
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        let memory = self.memory();
        Ok(memory
            .entries
            .range(range)
            .map(|(_, e)| e.clone())
            .collect())
    }

    async fn read_vote(&mut self) -> io::Result<Option<VoteOf<Types>>> {
        Ok(self.memory().vote)
    }
}

impl RaftLogStorage<Types> for Log {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> io::Result<LogState<Types>> {
        let memory = self.memory();
        let last = memory.entries.values().next_back().map(RaftEntry::log_id);
        Ok(LogState {
            last_purged_log_id: memory.purged,
            last_log_id: last.or(memory.purged),
        })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &VoteOf<Types>) -> io::Result<()> {
        self.memory().vote = Some(*vote);
        let bytes = postcard::to_stdvec(vote).map_err(io::Error::other)?;
        let (sender, receiver) = tokio::sync::oneshot::channel();
        self.write(bytes, Done::Vote(sender))?;
        receiver.await.map_err(io::Error::other)?
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<Types>) -> io::Result<()>
    where
        I: IntoIterator<Item = EntryOf<Types>> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let mut bytes = Vec::new();
        let mut memory = self.memory();
        for entry in entries {
            if self.disk.is_some() {
                bytes = postcard::to_extend(&entry, bytes).map_err(io::Error::other)?;
            }
            memory.entries.insert(entry.index(), entry);
        }
        drop(memory);
        self.write(bytes, Done::Entries(callback))
    }

    async fn truncate_after(&mut self, last: Option<LogIdOf<Types>>) -> io::Result<()> {
        let first = last.map_or(0, |last| last.index + 1);
        self.memory().entries.split_off(&first);
        Ok(())
    }

    async fn purge(&mut self, until: LogIdOf<Types>) -> io::Result<()> {
        let mut memory = self.memory();
        memory.entries = memory.entries.split_off(&(until.index + 1));
        memory.purged = Some(until);
        Ok(())
    }
}

/// The service: an echo. Its state is how far it is.
#[derive(Clone, Default)]
pub struct Machine {
    applied: Option<LogIdOf<Types>>,
    membership: StoredMembershipOf<Types>,
    snapshot: Arc<Mutex<Option<SnapshotMetaOf<Types>>>>,
}

fn of(meta: SnapshotMetaOf<Types>) -> SnapshotOf<Types, ()> {
    openraft::Snapshot { meta, snapshot: () }
}

impl RaftSnapshotBuilder<Types> for Machine {
    type SnapshotData = ();

    async fn build_snapshot(&mut self) -> io::Result<SnapshotOf<Types, ()>> {
        let meta = SnapshotMetaOf::<Types> {
            last_log_id: self.applied,
            last_membership: self.membership.clone(),
        };
        *self.snapshot.lock().expect("nobody panics with it") = Some(meta.clone());
        Ok(of(meta))
    }
}

impl RaftStateMachine<Types> for Machine {
    type SnapshotData = ();
    type SnapshotBuilder = Self;

    async fn applied_state(
        &mut self,
    ) -> io::Result<(Option<LogIdOf<Types>>, StoredMembershipOf<Types>)> {
        Ok((self.applied, self.membership.clone()))
    }

    async fn apply<S>(&mut self, mut entries: S) -> io::Result<()>
    where
        S: Stream<Item = io::Result<EntryResponder<Types>>> + Unpin + OptionalSend,
    {
        while let Some((entry, responder)) = entries.try_next().await? {
            self.applied = Some(entry.log_id());
            let answer = match entry.payload {
                EntryPayload::Normal(text) => text,
                EntryPayload::Blank => Text(bytes::Bytes::new()),
                EntryPayload::Membership(membership) => {
                    self.membership = StoredMembershipOf::<Types>::new(self.applied, membership);
                    Text(bytes::Bytes::new())
                }
            };
            if let Some(responder) = responder {
                responder.send(answer);
            }
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Self {
        self.clone()
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMetaOf<Types>,
        (): Self::SnapshotData,
    ) -> io::Result<()> {
        self.applied = meta.last_log_id;
        self.membership = meta.last_membership.clone();
        *self.snapshot.lock().expect("nobody panics with it") = Some(meta.clone());
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> io::Result<Option<SnapshotOf<Types, ()>>> {
        let snapshot = self.snapshot.lock().expect("nobody panics with it");
        Ok(snapshot.clone().map(of))
    }
}
