//! Between the core and the disk for what makes the log short: snapshots written and received, and
//! old segments deleted.

use coracle_core::log::Window;
use coracle_core::node::{Install, Lent, Snapshot, SnapshotId, SnapshotStep};
use coracle_core::service::Service;
use coracle_core::snapshot::SnapshotError;
use coracle_core::units::Position;
use embedded_io::ErrorKind;

use super::Core;
use crate::storage::snapshots::{Outcome, ReadDone, ReadJob};
use crate::storage::{LogStore, SnapshotStore, StorageError};

type Memory<'a> = Lent<'a, Window<Vec<u8>>>;

/// Whose set it was that is given up, in the words of the log.
const OWN: &str = "snapshot";
const LEADERS: &str = "snapshot from the leader";

/// See the module's text.
pub struct Keeper {
    sets: SnapshotStore,
    /// What the set that is being made durable is to the node.
    written: Option<Snapshot>,
    /// The set that was received and is being verified.
    finishing: Option<SnapshotId>,
    /// A service of this member has failed: no set will ever be complete.
    is_hopeless: bool,
    /// There was no room for something.
    is_room_wanted: bool,
}

/// What a turn came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Turn {
    /// Nothing to do at once.
    Idle,
    /// There may be more to do at once.
    Busy,
    /// A snapshot was received and is on the disk: the node begins anew with it.
    Installed,
}

impl Keeper {
    /// Takes over the sets; goes on with one that was being received.
    ///
    /// # Errors
    /// Any error of the system, with the path.
    pub fn new(mut sets: SnapshotStore, node: &mut Core) -> Result<Self, StorageError> {
        if let Some((position, digest)) = sets.part()?
            && sets.receive(position, digest)?
            && let Some(receiving) = sets.receiving()
        {
            let (section, stored) = receiving.progress();
            node.resume_install(SnapshotId { position, digest }, section, stored);
        }
        Ok(Self {
            sets,
            written: None,
            finishing: None,
            is_hopeless: false,
            is_room_wanted: false,
        })
    }

    /// A service of this member has failed: from now on no set of its own will be complete. Each is
    /// given up at once, so that whoever asked for it is told, and the place is free for one that
    /// the leader sends.
    pub fn lose_hope(&mut self) {
        self.is_hopeless = true;
    }

    /// One turn. Bounded by a step of the service, and by what is received at once.
    pub fn turn(
        &mut self,
        node: &mut Core,
        services: &mut [&mut dyn Service],
        lent: &mut Memory<'_>,
    ) -> Turn {
        let mut busy = false;
        if let Some(outcome) = self.sets.poll() {
            if let Outcome::Installed(_) = outcome {
                self.finishing = None;
                return Turn::Installed;
            }
            self.tell(node, outcome);
            busy = true;
        }
        busy |= self.write(node, services, lent);
        busy |= self.receive(node, lent);
        match busy {
            true => Turn::Busy,
            false => Turn::Idle,
        }
    }

    /// Whether a turn would find something to do.
    pub fn is_ready(&self) -> bool {
        self.sets.is_ready()
    }

    /// See [`SnapshotStore::read`].
    pub fn read(&mut self, job: ReadJob) -> Option<ReadJob> {
        self.sets.read(job)
    }

    /// See [`SnapshotStore::poll_read`].
    pub fn poll_read(&mut self) -> Option<ReadDone> {
        self.sets.poll_read()
    }

    /// How many snapshots were given up.
    pub fn failed(&self) -> u64 {
        self.sets.counts().1
    }

    /// A set is given up.
    fn note(&mut self, error: &StorageError, what: &str, position: Position) {
        self.is_room_wanted |= error.is_no_room();
        tracing::error!(%error, position = position.get(), "{what}");
    }

    fn tell(&mut self, node: &mut Core, outcome: Outcome) {
        match outcome {
            Outcome::Stored(_) => {
                if let Some(snapshot) = self.written.take() {
                    node.handle_snapshot_stored(snapshot);
                }
            }
            Outcome::Failed(position, error) => {
                self.note(&error, OWN, position);
                self.written = None;
                node.handle_snapshot_failed(position);
            }
            Outcome::Refused(position, error) => {
                self.note(&error, LEADERS, position);
                if let Some(snapshot) = self.finishing.take() {
                    node.handle_installed(Install::Finish { snapshot }, false);
                }
            }
            Outcome::Installed(_) => {}
        }
    }

    /// Writes the next piece of the snapshot that is due; waits while the disk lags behind, so that
    /// the log's flushes do not.
    fn write(
        &mut self,
        node: &mut Core,
        services: &mut [&mut dyn Service],
        lent: &mut Memory<'_>,
    ) -> bool {
        let Some(position) = node.snapshot_due() else {
            return false;
        };
        if self.sets.sink().is_none() && !self.begin(node, services, position) {
            return true;
        }
        if self.is_hopeless {
            node.abandon_snapshot(services, SnapshotError::Io(ErrorKind::Other));
            self.sets.abandon();
            let position = position.get();
            tracing::warn!(position, "no snapshot was taken: a service has failed");
            return true;
        }
        if !self.sets.is_ready_for_more() {
            return false;
        }
        let Some(sink) = self.sets.sink() else {
            return false;
        };
        match node.poll_snapshot(services, sink, lent) {
            SnapshotStep::Written(snapshot) => {
                self.written = Some(snapshot);
                self.sets.finish();
                true
            }
            SnapshotStep::Failed(position, error) => {
                match self.sets.abandon() {
                    Some(reason) => self.note(&reason, OWN, position),
                    None => {
                        let position = position.get();
                        tracing::warn!(%error, position, "no snapshot was taken");
                    }
                }
                true
            }
            SnapshotStep::More => true,
            _ => false,
        }
    }

    /// Opens a place for a set; if there is none, it is given up. The node stands still until it
    /// has a place, so it does not wait for the one before to be on the disk.
    fn begin(
        &mut self,
        node: &mut Core,
        services: &mut [&mut dyn Service],
        position: Position,
    ) -> bool {
        match self.sets.begin(position) {
            Ok(true) => return true,
            Ok(false) => tracing::warn!(
                position = position.get(),
                "no snapshot was taken: another one is not on the disk yet. Take them less often"
            ),
            Err(error) => self.note(&error, OWN, position),
        }
        node.abandon_snapshot(services, SnapshotError::Io(ErrorKind::Other));
        false
    }

    /// Stores what the leader has sent.
    fn receive(&mut self, node: &mut Core, lent: &Memory<'_>) -> bool {
        if node.installing().is_none()
            && self.finishing.is_none()
            && self.sets.receiving().is_some()
        {
            self.sets.give_up_receiving();
            return true;
        }
        let Some(install) = node.poll_install(lent) else {
            return false;
        };
        let (Install::Store { snapshot, .. } | Install::Finish { snapshot }) = install;
        if self.finishing.is_some() {
            return false;
        }
        let stored = match self.sets.receive(snapshot.position, snapshot.digest) {
            Ok(true) => self.store(install, snapshot, lent),
            // Something else is under way on the thread: it wakes this one.
            Ok(false) => return false,
            Err(error) => Err(error),
        };
        match stored {
            Ok(true) => node.handle_installed(install, true),
            Ok(false) => {}
            Err(error) => {
                self.note(&error, LEADERS, snapshot.position);
                node.handle_installed(install, false);
            }
        }
        true
    }

    /// Whether it is done.
    fn store(
        &mut self,
        install: Install,
        snapshot: SnapshotId,
        lent: &Memory<'_>,
    ) -> Result<bool, StorageError> {
        match install {
            Install::Finish { .. } => {
                self.sets.finish_receiving();
                self.finishing = Some(snapshot);
                Ok(false)
            }
            Install::Store {
                section,
                offset,
                len,
                ..
            } => {
                let bytes = lent.catchup.get(..len).unwrap_or_default();
                if let Some(receiving) = self.sets.receiving() {
                    receiving.take(section, offset, bytes)?;
                }
                Ok(true)
            }
        }
    }
}

/// Sets aside the segments that nobody needs; deletes those if there was no room for a snapshot.
///
/// # Errors
/// Any error of the system, with the file's path.
pub fn purge(
    store: &mut LogStore,
    keeper: &mut Keeper,
    node: &mut Core,
) -> Result<(), StorageError> {
    if std::mem::take(&mut keeper.is_room_wanted) {
        store.make_room();
    }
    if let Some(result) = store.poll_purge() {
        let start = result?;
        node.handle_purged(start);
        tracing::debug!(start = start.get(), "log purged");
    }
    let below = node.purgeable();
    if below > store.start() {
        store.purge(below);
    }
    Ok(())
}
