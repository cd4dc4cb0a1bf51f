//! How large things are on the machine that this is built for: one symbol for each, of its size.
//! `cargo xtask bare` reads them, and says so. What is too large does not compile.
#![no_std]

use core::hint::black_box;
use core::mem::size_of;
use core::net::SocketAddr;

use coracle_core::limits::MEMBERS_MAX;
use coracle_core::node::{Config, Door, Node};
use coracle_core::session::AllowAll;
use coracle_core::time::Now;
use coracle_embedded::{
    Application, Clock, Memory, Network, Next, Nor, OpenError, Profile, Superloop, TurnError,
};
use embedded_storage::nor_flash::{ErrorType, NorFlash, NorFlashErrorKind, ReadNorFlash};

#[path = "interlock.rs"]
#[allow(dead_code, unused_attributes, clippy::duplicate_mod)]
mod interlock;
#[path = "telemetry.rs"]
#[allow(dead_code, unused_attributes, clippy::duplicate_mod)]
mod telemetry;

/// A board that takes no memory itself. The compiler is not told what it does: what it knew to be
/// unreachable had no frames.
pub struct Board;

impl Clock for Board {
    fn now(&mut self) -> Now {
        black_box(Now {
            instant: coracle_core::time::Instant::from_nanos(0),
            wall: coracle_core::time::Timestamp(0),
        })
    }
}

impl Network for Board {
    fn receive(&mut self, into: &mut [u8]) -> Option<(Door, SocketAddr, usize)> {
        black_box(into);
        black_box(None)
    }

    fn send(&mut self, _: Door, to: SocketAddr, bytes: &[u8]) {
        black_box((to, bytes));
    }
}

/// A chip without a driver, of which the compiler knows as little.
pub struct Chip;

impl ErrorType for Chip {
    type Error = NorFlashErrorKind;
}

impl ReadNorFlash for Chip {
    const READ_SIZE: usize = 1;

    fn read(&mut self, _: u32, into: &mut [u8]) -> Result<(), NorFlashErrorKind> {
        black_box(into);
        black_box(Ok(()))
    }

    fn capacity(&self) -> usize {
        1 << 20
    }
}

impl NorFlash for Chip {
    const WRITE_SIZE: usize = 8;
    const ERASE_SIZE: usize = 4096;

    fn erase(&mut self, _: u32, _: u32) -> Result<(), NorFlashErrorKind> {
        black_box(Ok(()))
    }

    fn write(&mut self, _: u32, bytes: &[u8]) -> Result<(), NorFlashErrorKind> {
        black_box(bytes);
        black_box(Ok(()))
    }
}

/// A member of `N` sessions: its node is lent.
pub type Member<const N: usize> = Superloop<
    Board,
    Nor<Chip>,
    interlock::Interlock,
    AllowAll,
    &'static mut [u8],
    N,
    &'static mut Node<N>,
>;

const fn member<const N: usize>() -> usize {
    size_of::<Node<N>>() + size_of::<Member<N>>()
}

macro_rules! sizes {
    ($($name:ident = $size:expr, at most $most:expr;)*) => {
        $(
            #[doc = "A symbol of this size."]
            #[used]
            pub static $name: [u8; $size] = [0; $size];
            const _: () = assert!($size <= $most, "it has grown: see docs/embedded.md");
        )*
        /// All of them, in their order.
        pub const ALL: &[(&str, usize)] = &[$((stringify!($name), $size)),*];
    };
}

const TINY: usize = Profile::TINY.sessions;
const SMALL: usize = Profile::SMALL.sessions;
const APPLIANCE: usize = Profile::APPLIANCE.sessions;

sizes! {
    CORACLE_TINY_NODE = size_of::<Node<TINY>>(), at most 20 * 1024;
    CORACLE_TINY_SUPERLOOP = member::<TINY>(), at most 21 * 1024;
    CORACLE_TINY_MEMORY = Profile::TINY.total(), at most 28 * 1024;
    CORACLE_SMALL_SUPERLOOP = member::<SMALL>(), at most 48 * 1024;
    CORACLE_SMALL_MEMORY = Profile::SMALL.total(), at most 512 * 1024;
    CORACLE_APPLIANCE_SUPERLOOP = member::<APPLIANCE>(), at most 160 * 1024;
    CORACLE_APPLIANCE_MEMORY = Profile::APPLIANCE.total(), at most 24 * 1024 * 1024;
    CORACLE_TELEMETRY = size_of::<telemetry::Telemetry>(), at most 14 * 1024;
}

// What a build for three members gives back.
const _: () = assert!(MEMBERS_MAX > 3 || member::<TINY>() <= 36 * 512);

/// The deepest that a tiny member goes: with this, its frames are made for the machine as well.
///
/// # Errors
/// See `TurnError`.
pub fn turn(member: &mut TinyMember) -> Result<Next, TurnError<NorFlashErrorKind>> {
    member.turn()
}

/// The same of a start.
///
/// # Errors
/// See `OpenError`.
pub fn open(
    node: &'static mut Node<TINY>,
    board: Board,
    flash: Chip,
    config: Config,
    memory: Memory<&'static mut [u8]>,
) -> Result<TinyMember, OpenError<NorFlashErrorKind>> {
    let application = Application {
        service: interlock::Interlock::new(),
        authenticator: AllowAll,
    };
    Superloop::open_in(node, board, Nor::new(flash), application, config, memory)
}

/// See [`turn`].
pub type TinyMember = Member<TINY>;
