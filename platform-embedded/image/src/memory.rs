//! All memory of the node, as numbers: a static for each, lent once.

use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicBool, Ordering};

use coracle_core::limits::MTU_DEFAULT;
use coracle_core::log::window_len;
use coracle_core::node::Node;
use coracle_core::stream::slot_len;
use coracle_embedded::net::WireMemory;
use coracle_embedded::{Block, Memory};

use crate::disk::Blocks;

/// The stack, in bytes. A start is deepest, each alike, with 92 KiB: the superloop is moved on it.
/// Turns, and what begins anew in one, stay below that. More than a third of it is spare, and
/// `cargo xtask qemu` fails when a quarter is not.
pub const STACK: usize = 144 * 1024;
/// A machine stops when less of its stack than this was never used, for nothing guards what lies
/// below it. No frame is as large, but for those of the start.
pub const STACK_SPARE: usize = 24 * 1024;
/// Client sessions, and those that are being refused.
pub const SESSIONS: usize = 8;
/// The longest frame: what an Ethernet frame carries.
pub const MTU: usize = MTU_DEFAULT;
/// The longest message of a client.
pub const MESSAGE_MAX: usize = 4096;
/// After so many bytes of log the members compare their state.
pub const CHECKPOINT_EVERY: u64 = 64 * 1024;
/// What the service may have armed and offered.
pub const SERVICES: usize = 64 * 1024;
/// A snapshot is due so many times while the log fills up once.
pub const SNAPSHOTS_PER_LOG: u64 = 8;
/// The memory of the key-value service.
#[cfg(not(feature = "echo"))]
pub const KV: usize = 256 * 1024;
/// What of it may be kept as it was while a snapshot is written: beyond that, clients wait.
#[cfg(not(feature = "echo"))]
pub const KV_BARRIER: usize = 32 * 1024;

const WINDOW: usize = 64 * 1024;
const STREAM: usize = 16 * 1024;

/// A static that is lent once, for ever.
pub struct Once<T> {
    value: UnsafeCell<T>,
    is_taken: AtomicBool,
}

// SAFETY: `take` gives the value to one caller only.
unsafe impl<T> Sync for Once<T> {}

impl<T> Once<T> {
    const fn new(value: T) -> Self {
        Self {
            value: UnsafeCell::new(value),
            is_taken: AtomicBool::new(false),
        }
    }

    /// The value; None if somebody has it.
    #[expect(
        clippy::mut_from_ref,
        reason = "`is_taken` lets one caller have it, once"
    )]
    pub fn take(&'static self) -> Option<&'static mut T> {
        if self.is_taken.swap(true, Ordering::Relaxed) {
            return None;
        }
        // SAFETY: nobody else ever gets here for this value.
        Some(unsafe { &mut *self.value.get() })
    }
}

/// The disk's.
pub static BLOCKS: Once<Blocks> = Once::new([const { Block::EMPTY }; _]);
/// smoltcp's.
pub static WIRE: Once<WireMemory<'static>> = Once::new(WireMemory::new());
/// The node itself: it begins there, for the stack has no room for another.
pub static NODE: Once<Node<SESSIONS>> = Once::new(Node::vacant());
/// The service's.
#[cfg(not(feature = "echo"))]
pub static BARRIER: Once<[u8; KV_BARRIER]> = Once::new([0; KV_BARRIER]);
/// The service's.
#[cfg(not(feature = "echo"))]
pub static STATE: Once<[u8; KV]> = Once::new([0; KV]);

static LOG: Once<[u8; window_len(WINDOW, MTU)]> = Once::new([0; _]);
static INGRESS: Once<[u8; SESSIONS * slot_len(STREAM, MTU)]> = Once::new([0; _]);
static REASSEMBLY: Once<[u8; 4 * (MESSAGE_MAX + 64)]> = Once::new([0; _]);
static EGRESS: Once<[u8; SESSIONS * slot_len(STREAM, MTU)]> = Once::new([0; _]);
static REPLAY: Once<[u8; 2 * MESSAGE_MAX + MTU]> = Once::new([0; _]);
static CATCHUP: Once<[u8; 16 * 1024]> = Once::new([0; _]);
static ASSEMBLY: Once<[u8; MESSAGE_MAX + 64]> = Once::new([0; _]);
static SERVICE: Once<[u8; SERVICES]> = Once::new([0; _]);
static DATAGRAM: Once<[u8; 1536]> = Once::new([0; _]);

/// The node's. None at a second call.
pub fn of_node() -> Option<Memory<&'static mut [u8]>> {
    Some(Memory {
        log: LOG.take()?,
        ingress: INGRESS.take()?,
        reassembly: REASSEMBLY.take()?,
        egress: EGRESS.take()?,
        replay: REPLAY.take()?,
        catchup: CATCHUP.take()?,
        assembly: ASSEMBLY.take()?,
        services: SERVICE.take()?,
        datagram: DATAGRAM.take()?,
    })
}
