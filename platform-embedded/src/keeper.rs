//! What makes the log short, and whole: snapshots taken and received, segments given up, damage
//! healed.

use core::borrow::BorrowMut;

use coracle_core::log::{Recovered, Window, segment_base};
use coracle_core::node::{Install, Node, SnapshotStep};
use coracle_core::prng::Prng;
use coracle_core::service::Service;
use coracle_core::session::Authenticator;
use coracle_core::snapshot::SnapshotError;
use coracle_core::units::{ClusterId, Position};
use embedded_io::ErrorKind;

use crate::device::{Clock, Network, Storage};
use crate::store::{Finish, Store, StoreError};
use crate::superloop::{OpenError, Rest, Superloop, TurnError};

/// Reads what the device holds. Work: the log and the snapshots once.
///
/// A frame of its own: what is found is not on the stack when a node is made of it, but for this.
#[inline(never)]
pub fn recover<D: Storage, B: AsRef<[u8]> + AsMut<[u8]>>(
    cluster: ClusterId,
    store: &mut Store<D>,
    window: &mut Window<B>,
    scratch: &mut B,
) -> Result<Recovered, StoreError<D::Error>> {
    store.recover(cluster, window, scratch.as_mut())
}

/// Gives node and service what the newest snapshot holds, if there is one.
///
/// # Errors
/// [`StoreError::Snapshot`] or [`StoreError::Device`].
#[inline(never)]
pub fn load<D: Storage, S: Service, B: AsRef<[u8]> + AsMut<[u8]>, const N: usize>(
    node: &mut Node<N>,
    store: &mut Store<D>,
    (window, memory): (&mut Window<B>, &mut Rest<B>),
    service: &mut S,
) -> Result<(), OpenError<D::Error>> {
    let Some(mut source) = store.source() else {
        return Ok(());
    };
    let mut lent = memory.lend(window);
    match node.load_snapshot(&mut source, &mut [service], &mut lent) {
        Ok(_) => Ok(()),
        Err(error) => {
            source.failed().map_err(OpenError::Store)?;
            Err(OpenError::Store(StoreError::Snapshot(error)))
        }
    }
}

impl<T, D, S, A, B, const N: usize, P> Superloop<T, D, S, A, B, N, P>
where
    T: Clock + Network,
    D: Storage,
    S: Service,
    A: Authenticator,
    B: AsRef<[u8]> + AsMut<[u8]>,
    P: BorrowMut<Node<N>>,
{
    /// True if there may be more to do at once.
    pub(super) fn keep(&mut self) -> Result<bool, TurnError<D::Error>> {
        let mut is_busy = self.take_snapshot()?;
        is_busy |= self.finish_snapshot()?;
        is_busy |= self.receive_snapshot()?;
        is_busy |= self.repair()?;
        self.purge()?;
        Ok(is_busy)
    }

    /// Writes the next piece of the snapshot that is due.
    fn take_snapshot(&mut self) -> Result<bool, StoreError<D::Error>> {
        let Some(position) = self.node.borrow().snapshot_due() else {
            return Ok(false);
        };
        let service = &mut self.application.service;
        if self.store.taking() != Some(position) {
            // Of two places one is the newest set's. The other is taken by one that waits for the
            // log, or that is received: this one is given up.
            let is_taken = self.written.is_some() || self.node.borrow().installing().is_some();
            if is_taken || !self.store.takes_snapshots() {
                let error = SnapshotError::Io(ErrorKind::Other);
                self.node
                    .borrow_mut()
                    .abandon_snapshot(&mut [service], error);
                return Ok(true);
            }
            self.store.begin_snapshot(position)?;
        }
        let mut lent = self.memory.lend(&mut self.window);
        let Some(mut sink) = self.store.sink() else {
            return Ok(false);
        };
        let step = self
            .node
            .borrow_mut()
            .poll_snapshot(&mut [service], &mut sink, &mut lent);
        // Of a device that has failed once nothing more is believed, wherever that was.
        sink.failed()?;
        match step {
            SnapshotStep::More => Ok(true),
            SnapshotStep::Written(snapshot) => {
                self.written = Some(snapshot);
                Ok(true)
            }
            SnapshotStep::Failed(position, _) => {
                warn!("no snapshot was taken at {}", position.get());
                self.store.abandon_snapshot();
                Ok(true)
            }
            _ => Ok(false),
        }
    }

    /// A set is never ahead of the log on the same device: nobody could go on from it.
    fn finish_snapshot(&mut self) -> Result<bool, StoreError<D::Error>> {
        let durable = self.journal.durable();
        let Some(snapshot) = self.written.filter(|s| s.position <= durable) else {
            return Ok(false);
        };
        let cluster = self.node.borrow().config().cluster;
        let position = snapshot.position;
        match self.store.finish_snapshot(cluster)? {
            Finish::More => return Ok(true),
            Finish::Stored => {
                info!("snapshot stored at {}", position.get());
                self.node.borrow_mut().handle_snapshot_stored(snapshot);
            }
            Finish::Unsound => {
                warn!("the snapshot at {} cannot be read back", position.get());
                self.node.borrow_mut().handle_snapshot_failed(position);
            }
        }
        self.written = None;
        Ok(true)
    }

    /// Stores what the leader sends of a snapshot, and begins anew with it.
    fn receive_snapshot(&mut self) -> Result<bool, TurnError<D::Error>> {
        let lent = self.memory.lend(&mut self.window);
        let Some(install) = self.node.borrow_mut().poll_install(&lent) else {
            return Ok(false);
        };
        if self.written.is_some() {
            // It is about to be durable, or never will: this log was cut.
            self.written = None;
            self.store.abandon_snapshot();
        }
        match install {
            Install::Store {
                snapshot,
                section,
                offset,
                len,
            } => {
                let bytes = lent.catchup.get(..len).unwrap_or_default();
                let is_stored = self
                    .store
                    .receive_snapshot(snapshot, section, offset, bytes)?;
                self.node.borrow_mut().handle_installed(install, is_stored);
            }
            Install::Finish { .. } => {
                let cluster = self.node.borrow().config().cluster;
                match self.store.finish_snapshot(cluster)? {
                    Finish::More => {}
                    Finish::Stored => {
                        info!("a snapshot from the leader takes the log's place");
                        self.begin_anew()?;
                        // Whatever this member's state was, it is the leader's now.
                        self.node.borrow_mut().handle_rebuilt();
                    }
                    Finish::Unsound => {
                        self.node.borrow_mut().handle_installed(install, false);
                    }
                }
            }
        }
        Ok(true)
    }

    /// Writes what others have sent in place of what is damaged.
    fn repair(&mut self) -> Result<bool, TurnError<D::Error>> {
        let Some(repair) = self.node.borrow_mut().poll_repair() else {
            return Ok(false);
        };
        let bytes = self.memory.catchup.as_ref().get(..repair.len);
        self.store.repair(repair.at, bytes.unwrap_or_default())?;
        self.node.borrow_mut().handle_repaired(repair);
        if self.node.borrow().is_healed() {
            info!("the log is healed");
            self.begin_anew()?;
        }
        Ok(true)
    }

    /// Gives up the segments that nobody needs.
    fn purge(&mut self) -> Result<(), StoreError<D::Error>> {
        let durable = self.journal.durable().minus(1);
        let newest = segment_base(durable, self.node.borrow().config().segment_length);
        let below = self.node.borrow().purgeable().min(newest);
        if below > self.store.start() {
            self.store.purge(below)?;
            info!("the log starts at {}", below.get());
            self.node.borrow_mut().handle_purged(below);
            self.journal.handle_purged(below);
        }
        Ok(())
    }

    /// The node starts again, with what the device holds now.
    #[inline(never)]
    fn begin_anew(&mut self) -> Result<(), TurnError<D::Error>> {
        // The snapshot may be of the newest term: the state must not be older than the log.
        if let Some(state) = self.node.borrow().poll_persist() {
            self.store.write_state(&state)?;
        }
        let now = self.board.now();
        let has_state = self.node.borrow().commit() > Position::ZERO;
        let config = self.node.borrow().config();
        let cluster = config.cluster;
        let seed = Prng::new(config.seed ^ now.instant.nanos()).below(u64::MAX);
        let state = self.store.state();
        self.written = None;
        let scratch = &mut self.memory.replay;
        let found = recover(cluster, &mut self.store, &mut self.window, scratch);
        let recovered = found.map_err(OpenError::Store).map_err(TurnError::Open)?;
        self.journal = recovered.journal(cluster, &self.window);
        // In its place: it is the largest thing there is, and the stack has no room for another.
        let begun = self
            .node
            .borrow_mut()
            .begin_anew(seed, state, &recovered, now);
        begun.map_err(|error| TurnError::Open(OpenError::Config(error)))?;
        let lent = (&mut self.window, &mut self.memory);
        let service = &mut self.application.service;
        load(self.node.borrow_mut(), &mut self.store, lent, service).map_err(TurnError::Open)?;
        match has_state && self.node.borrow().applied() == Position::ZERO {
            true => Err(TurnError::Open(OpenError::StateLeft)),
            false => Ok(()),
        }
    }
}
