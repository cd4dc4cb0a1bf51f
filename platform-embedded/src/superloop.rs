//! One node, one loop.

use core::borrow::BorrowMut;

use coracle_core::log::{Journal, Log, SECTOR, Window, WindowError};
use coracle_core::node::{
    CONTROL_MAX, Config, ConfigError, Consumer, Event, Halt, Lent, Node, ReadError, Snapshot,
    SnapshotRefusal,
};
use coracle_core::raft::TransferError;
use coracle_core::service::Service;
use coracle_core::session::Authenticator;
use coracle_core::time::{Instant, Now};
use coracle_core::units::MemberId;

use crate::device::{Clock, Network, Storage};
use crate::keeper::{load, recover};
use crate::store::{Store, StoreError, Wear};

/// How many datagrams one turn receives, and sends, at most.
const DATAGRAMS_PER_TURN: usize = 64;
/// How often one turn asks the node for more ingress, and for more messages to execute, at most.
const ROUNDS_PER_TURN: usize = 16;

/// The memory of a node. `B` is anything that holds bytes: `&'static mut [u8]`, `[u8; 65536]`.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Memory<B> {
    /// The log's window: a power of two of at least two MTUs, and one MTU more.
    pub log: B,
    /// Receive windows of clients' streams: `N` equal slots.
    pub ingress: B,
    /// Where clients' fragmented messages are put together: slots of the longest message.
    pub reassembly: B,
    /// Send windows of clients' streams: `N` equal slots.
    pub egress: B,
    /// Log bytes read back to be executed: a longest message with its frames.
    pub replay: B,
    /// Log bytes read back for a follower that is behind: one MTU at least.
    pub catchup: B,
    /// Where committed fragmented messages are put together: one longest message and 64 bytes.
    pub assembly: B,
    /// What the service has armed and offered: a quarter for timers of 24 bytes, the rest for its
    /// messages on their way into the log.
    pub services: B,
    /// One datagram, and one sector at least.
    pub datagram: B,
}

/// What to do until the next turn.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum Next {
    /// There is more to do: turn again at once.
    Now,
    /// Sleep until then, or until a datagram arrives.
    At(Instant),
    /// Sleep until a datagram arrives.
    Datagram,
}

/// Why a node does not start.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[non_exhaustive]
pub enum OpenError<E> {
    /// See [`StoreError`].
    Store(StoreError<E>),
    /// The memory for the log does not do.
    Window(WindowError),
    /// The configuration does not do, or is not the device's.
    Config(ConfigError),
    /// A piece of [`Memory`] is shorter than said there.
    TooLittleMemory,
    /// The log may grow larger than the device has room for, or snapshots are on and it has none
    /// for them: see [`Store::log_max`] and [`Store::takes_snapshots`].
    TooLittleStorage,
    /// More services than the one that a superloop has.
    Services,
    /// A node began anew, and the snapshot that its service's state came of cannot be read any
    /// more: the log from its start on would be executed by a service that has a state. Start it
    /// again, with a service that has none.
    StateLeft,
}

/// Why a node stops. It must not be turned again: restart it, or see to its device.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[non_exhaustive]
pub enum TurnError<E> {
    /// The device failed, or is full. What was acknowledged is durable.
    Store(StoreError<E>),
    /// The node refuses to go on.
    Halted(Halt),
    /// The node began anew, with a snapshot or a healed log, and could not.
    Open(OpenError<E>),
}

impl<E> From<StoreError<E>> for TurnError<E> {
    fn from(error: StoreError<E>) -> Self {
        Self::Store(error)
    }
}

/// What runs on a node, and who may connect to it.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Application<S, A> {
    /// The replicated state machine.
    pub service: S,
    /// Who may open a session; `AllowAll` of core's `session` lets everybody in.
    pub authenticator: A,
}

/// A node with its application, its memory and its board. `N` is the number of client sessions.
///
/// `P` is the node, or where it is: a board lends it as it lends the memory, with
/// [`Superloop::open_in`].
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Superloop<T, D, S, A, B, const N: usize, P = Node<N>> {
    pub(super) node: P,
    pub(super) journal: Journal,
    pub(super) window: Window<B>,
    pub(super) memory: Rest<B>,
    datagram: B,
    pub(super) application: Application<S, A>,
    pub(super) board: T,
    pub(super) store: Store<D>,
    /// A snapshot that is written, and waits for the log to be durable up to it.
    pub(super) written: Option<Snapshot>,
}

/// The memory besides the window.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Rest<B> {
    ingress: B,
    reassembly: B,
    egress: B,
    pub(super) replay: B,
    pub(super) catchup: B,
    assembly: B,
    services: B,
}

impl<B> Memory<B> {
    /// The log's, the datagram's, and the rest between them.
    fn divide(self) -> (B, Rest<B>, B) {
        let rest = Rest {
            ingress: self.ingress,
            reassembly: self.reassembly,
            egress: self.egress,
            replay: self.replay,
            catchup: self.catchup,
            assembly: self.assembly,
            services: self.services,
        };
        (self.log, rest, self.datagram)
    }
}

impl<B: AsRef<[u8]> + AsMut<[u8]>> Rest<B> {
    pub(super) fn lend<'a>(&'a mut self, window: &'a mut Window<B>) -> Lent<'a, Window<B>> {
        Lent {
            log: window,
            ingress: self.ingress.as_mut(),
            reassembly: self.reassembly.as_mut(),
            egress: self.egress.as_mut(),
            replay: self.replay.as_mut(),
            catchup: self.catchup.as_mut(),
            assembly: self.assembly.as_mut(),
            services: self.services.as_mut(),
        }
    }
}

impl<T, D, S, A, B, const N: usize> Superloop<T, D, S, A, B, N>
where
    T: Clock + Network,
    D: Storage,
    S: Service,
    A: Authenticator,
    B: AsRef<[u8]> + AsMut<[u8]>,
{
    /// [`Self::open_in`] with a node of its own: for who has a stack with room for three.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub fn open(
        board: T,
        device: D,
        application: Application<S, A>,
        config: Config,
        memory: Memory<B>,
    ) -> Result<Self, OpenError<D::Error>> {
        Self::open_in(Node::vacant(), board, device, application, config, memory)
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
    /// Starts a node, or starts it again: reads the device and decides what of it may be believed.
    /// Work: the whole log once.
    ///
    /// It begins in the place where it is, and whatever it was before is forgotten. So `node` is a
    /// reference to a `static` that holds a [`Node::vacant`], or a box with one.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub fn open_in(
        mut node: P,
        mut board: T,
        device: D,
        application: Application<S, A>,
        config: Config,
        memory: Memory<B>,
    ) -> Result<Self, OpenError<D::Error>> {
        let (log, mut memory, datagram) = memory.divide();
        let has_enough = memory.replay.as_ref().len() >= config.mtu
            && memory.catchup.as_ref().len() >= config.mtu
            && datagram.as_ref().len() >= config.mtu.max(SECTOR);
        if !has_enough {
            return Err(OpenError::TooLittleMemory);
        }
        let length = config.segment_length;
        let mut window = Window::new(log, config.mtu, length).map_err(OpenError::Window)?;
        let (mut store, state) = Store::open(device, length).map_err(OpenError::Store)?;
        if config.log_max > store.log_max()
            || (config.snapshots.enabled && !store.takes_snapshots())
        {
            return Err(OpenError::TooLittleStorage);
        }
        if config.services != 1 {
            return Err(OpenError::Services);
        }
        let (scratch, now) = (&mut memory.replay, board.now());
        let found = recover(config.cluster, &mut store, &mut window, scratch);
        let recovered = found.map_err(OpenError::Store)?;
        let journal = recovered.journal(config.cluster, &window);
        let begun = node.borrow_mut().begin(config, state, &recovered, now);
        begun.map_err(OpenError::Config)?;
        let mut application = application;
        let lent = (&mut window, &mut memory);
        load(
            node.borrow_mut(),
            &mut store,
            lent,
            &mut application.service,
        )?;
        Ok(Self {
            node,
            journal,
            window,
            memory,
            datagram,
            application,
            board,
            store,
            written: None,
        })
    }

    /// One turn: takes in what has arrived, executes what is committed, makes durable what must be,
    /// and sends what is due. Work: bounded, but for the device's own time.
    ///
    /// # Errors
    /// See [`TurnError`].
    pub fn turn(&mut self) -> Result<Next, TurnError<D::Error>> {
        let now = self.board.now();
        let mut is_busy = self.receive(now);
        let mut lent = self.memory.lend(&mut self.window);
        self.node.borrow_mut().handle_timeout(now, &mut lent);
        is_busy |= self.serve(now);
        is_busy |= self.make_durable(now)?;
        is_busy |= self.recall().map_err(TurnError::Store)?;
        is_busy |= self.keep()?;
        is_busy |= self.send(now);
        if let Some(halt) = self.node.borrow().halted() {
            return Err(TurnError::Halted(halt));
        }
        Ok(match self.node.borrow().poll_timeout() {
            _ if is_busy => Next::Now,
            Some((at, _)) => Next::At(at),
            None => Next::Datagram,
        })
    }

    /// Closes gracefully: a leader hands over first. Turn until [`Superloop::is_resigned`].
    pub fn resign(&mut self) {
        let now = self.board.now();
        self.node.borrow_mut().resign(now);
    }

    /// Whether a resigning node has nothing left to hand over.
    pub fn is_resigned(&self) -> bool {
        self.node.borrow().is_resigned()
    }

    /// Hands leadership to another member.
    ///
    /// # Errors
    /// See [`TransferError`].
    pub fn transfer(&mut self, target: MemberId) -> Result<(), TransferError> {
        let now = self.board.now();
        self.node.borrow_mut().transfer(now, target)
    }

    /// Asks for a snapshot: the leader makes every member take one.
    ///
    /// # Errors
    /// See [`SnapshotRefusal`].
    pub fn request_snapshot(&mut self) -> Result<(), SnapshotRefusal> {
        self.node.borrow_mut().request_snapshot()
    }

    /// The next event, oldest first. Lossy: who wants them all asks after each turn.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.node.borrow_mut().poll_event()
    }

    /// The node, to ask it how it is.
    pub fn node(&self) -> &Node<N> {
        self.node.borrow()
    }

    /// The log's window, to look at what was appended last.
    pub fn log(&self) -> &Window<B> {
        &self.window
    }

    /// The service, to look at its state.
    pub fn service(&self) -> &S {
        &self.application.service
    }

    /// The storage device, to look at it.
    pub fn device(&self) -> &D {
        self.store.device()
    }

    /// How often what of the storage was erased.
    pub fn wear(&self) -> Wear {
        self.store.wear()
    }

    /// The board.
    pub fn board(&mut self) -> &mut T {
        &mut self.board
    }

    /// Ends the node as a power cut would, and gives board and device back.
    pub fn into_parts(self) -> (T, D) {
        (self.board, self.store.into_device())
    }

    /// True if it stopped before there was nothing left.
    fn receive(&mut self, now: Now) -> bool {
        for _ in 0..DATAGRAMS_PER_TURN {
            let into = self.datagram.as_mut();
            let Some((door, from, len)) = self.board.receive(into) else {
                return false;
            };
            let datagram = into.get(..len).unwrap_or_default();
            let mut lent = self.memory.lend(&mut self.window);
            // What is refused has been counted by the node.
            let _taken = self
                .node
                .borrow_mut()
                .handle_datagram(now, door, from, datagram, &mut lent)
                .is_ok();
        }
        true
    }

    fn serve(&mut self, now: Now) -> bool {
        let Application {
            service,
            authenticator,
        } = &mut self.application;
        let mut lent = self.memory.lend(&mut self.window);
        let mut is_busy = false;
        for _ in 0..ROUNDS_PER_TURN {
            is_busy = self
                .node
                .borrow_mut()
                .poll_ingress(now, authenticator, &mut lent);
            is_busy |= self.node.borrow_mut().poll_service(now, service, &mut lent);
            if !is_busy {
                break;
            }
        }
        while let Some(resolve) = self.node.borrow_mut().poll_resolve() {
            let address = self.board.resolve(&resolve.host, resolve.port);
            self.node.borrow_mut().handle_resolved(resolve.id, address);
        }
        is_busy
    }

    /// Term and vote, a truncation, and one group of the log. True if something was written: then
    /// there may be more.
    fn make_durable(&mut self, now: Now) -> Result<bool, StoreError<D::Error>> {
        let mut has_written = false;
        if let Some(state) = self.node.borrow_mut().poll_persist() {
            self.store.write_state(&state)?;
            self.node.borrow_mut().handle_persisted(state);
            has_written = true;
        }
        if let Some(cut) = self.window.take_cut() {
            self.journal.handle_truncated(cut);
        }
        self.find_chain()?;
        let Some(group) = self
            .journal
            .poll_group(self.node.borrow().joined(), &self.window)
        else {
            return Ok(has_written);
        };
        self.store.write_group(&group, &self.window)?;
        self.window.set_written(self.journal.written());
        let mark = self.journal.handle_flushed();
        self.node.borrow_mut().handle_durable(mark);
        let mut lent = self.memory.lend(&mut self.window);
        self.node.borrow_mut().handle_timeout(now, &mut lent);
        Ok(true)
    }

    /// After a truncation below the window, the chain at the log's end is on the device only.
    fn find_chain(&mut self) -> Result<(), StoreError<D::Error>> {
        let end = self.window.end();
        if self.window.chain().is_some() {
            return Ok(());
        }
        let scratch = self.datagram.as_mut();
        let chain = self.store.chain_below(end, scratch);
        if let Some(chain) = chain.map_err(StoreError::Device)? {
            self.window.set_chain(end, chain);
        }
        Ok(())
    }

    /// Reads from the device what the window has let go and somebody needs. A device that fails is
    /// said to have failed: the node would take it for a damaged log.
    fn recall(&mut self) -> Result<bool, StoreError<D::Error>> {
        let lent = self.memory.lend(&mut self.window);
        let Some(recall) = self.node.borrow_mut().poll_recall(&lent) else {
            return Ok(false);
        };
        let into = match recall.consumer {
            Consumer::Replay => self.memory.replay.as_mut(),
            Consumer::Repair => self.memory.replay.as_mut(),
            Consumer::Catchup | Consumer::Annals => self.memory.catchup.as_mut(),
            Consumer::Snapshot { position, section } => {
                let into = self.memory.catchup.as_mut();
                let len = recall.len.min(into.len());
                let into = into.get_mut(..len).unwrap_or_default();
                let at = recall.at.get();
                let read = self.store.read_snapshot(position, section, at, into);
                let read = read.map_err(StoreError::Device)?.ok_or(ReadError);
                self.node.borrow_mut().handle_recalled(recall, read);
                return Ok(true);
            }
        };
        // Behind what was written lie old bytes of another history.
        let written = self.journal.written().since(recall.at);
        let len = written.min(recall.len as u64).min(into.len() as u64) as usize;
        let into = into.get_mut(..len).unwrap_or_default();
        let read = self.store.read(recall.at, into);
        let read = read.map_err(StoreError::Device)?;
        self.node.borrow_mut().handle_recalled(recall, Ok(read));
        Ok(true)
    }

    /// True if it stopped before there was nothing left.
    fn send(&mut self, now: Now) -> bool {
        let mut scratch = [0; CONTROL_MAX];
        let lent = self.memory.lend(&mut self.window);
        for _ in 0..DATAGRAMS_PER_TURN {
            let Some(due) = self
                .node
                .borrow_mut()
                .poll_transmit(now, &lent, &mut scratch)
            else {
                return false;
            };
            self.board.send(due.door, due.to, due.bytes);
        }
        true
    }
}
