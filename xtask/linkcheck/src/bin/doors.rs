//! Every door of the embedded platform, on devices, networks and clocks of which the compiler is
//! not told what they do: so it keeps each panic that it cannot prove to be out of reach.
//!
//! This program is linked and looked at, and not run: `cargo xtask linkcheck` fails if any is left
//! but the one that is planted.
#![no_std]
#![no_main]

#[path = "../bare.rs"]
mod bare;
#[path = "../planted.rs"]
mod planted;

use core::fmt::Write;
use core::hint::black_box;
use core::net::SocketAddr;

use bare::{Out, exit};
use coracle_core::log::NodeState;
use coracle_core::node::{Config, Door, MemberAddress, Node};
use coracle_core::service::{
    Cluster, Progress, Service, SnapshotError, SnapshotReader, SnapshotWriter,
};
use coracle_core::session::AllowAll;
use coracle_core::time::{Instant, Now, Timestamp};
use coracle_core::units::{ClusterId, MemberId, SessionId};
use coracle_embedded::identity::{BLOCK, Identity};
use coracle_embedded::{
    Application, Clock, Layout, Memory, Network, Nor, Profile, Storage, Store, Superloop,
};
use embedded_storage::nor_flash::{ErrorType, NorFlash, NorFlashErrorKind, ReadNorFlash};

const SESSIONS: usize = 4;

/// Any board.
struct Board;

impl Clock for Board {
    fn now(&mut self) -> Now {
        black_box(Now {
            instant: Instant::from_nanos(0),
            wall: Timestamp(0),
        })
    }
}

impl Network for Board {
    fn receive(&mut self, into: &mut [u8]) -> Option<(Door, SocketAddr, usize)> {
        black_box(into);
        black_box(None)
    }

    fn send(&mut self, door: Door, to: SocketAddr, bytes: &[u8]) {
        black_box((door, to, bytes));
    }

    fn resolve(&mut self, host: &str, port: u16) -> Option<SocketAddr> {
        black_box((host, port));
        black_box(None)
    }
}

/// Any flash chip, behind its driver.
struct Chip;

impl ErrorType for Chip {
    type Error = NorFlashErrorKind;
}

impl ReadNorFlash for Chip {
    const READ_SIZE: usize = 4;

    fn read(&mut self, at: u32, into: &mut [u8]) -> Result<(), NorFlashErrorKind> {
        black_box((at, into));
        black_box(Ok(()))
    }

    fn capacity(&self) -> usize {
        black_box(0)
    }
}

impl NorFlash for Chip {
    const WRITE_SIZE: usize = 8;
    const ERASE_SIZE: usize = 4096;

    fn erase(&mut self, from: u32, to: u32) -> Result<(), NorFlashErrorKind> {
        black_box((from, to));
        black_box(Ok(()))
    }

    fn write(&mut self, at: u32, bytes: &[u8]) -> Result<(), NorFlashErrorKind> {
        black_box((at, bytes));
        black_box(Ok(()))
    }
}

/// Any device at all: one that rewrites, or one that erases in whatever units it says.
struct Device;

impl Storage for Device {
    type Error = u32;

    fn capacity(&self) -> u64 {
        black_box(0)
    }

    fn erase_size(&self) -> Option<u32> {
        black_box(None)
    }

    fn read(&mut self, at: u64, into: &mut [u8]) -> Result<(), u32> {
        black_box((at, into));
        black_box(Ok(()))
    }

    fn write(&mut self, at: u64, bytes: &[u8]) -> Result<(), u32> {
        black_box((at, bytes));
        black_box(Ok(()))
    }

    fn erase(&mut self, at: u64, len: u64) -> Result<(), u32> {
        black_box((at, len));
        black_box(Ok(()))
    }

    fn flush(&mut self) -> Result<(), u32> {
        black_box(Ok(()))
    }
}

/// Any service, with a state that is written to snapshots and read from them.
struct State(u64);

impl Service for State {
    fn on_session_message(&mut self, cluster: &mut Cluster<'_>, session: SessionId, _: &[u8]) {
        let _offered = cluster.offer(session, &[b"answer"]).is_ok();
    }

    fn digest(&self) -> u64 {
        black_box(self.0)
    }

    fn write_snapshot(&mut self, out: &mut SnapshotWriter<'_>) -> Result<Progress, SnapshotError> {
        out.u64(black_box(self.0))?;
        Ok(black_box(Progress::Done))
    }

    fn read_snapshot(&mut self, from: &mut SnapshotReader<'_>) -> Result<(), SnapshotError> {
        self.0 = from.u64()?;
        Ok(())
    }
}

fn member() -> MemberId {
    black_box(MemberId::FIRST)
}

fn config() -> Config {
    let address: SocketAddr = black_box(([10, 0, 0, 1], 9000).into());
    let members = [(); 7].map(|()| black_box(Some(MemberAddress::new(address, address))));
    black_box(Config::new(black_box(ClusterId(1)), member(), members, 1))
}

type Lent = Memory<&'static mut [u8]>;

/// A member on this device, from the first start on.
fn drive<D: Storage>(device: D, node: &'static mut Node<SESSIONS>, memory: Lent) -> Option<D> {
    let state = black_box(NodeState::first(ClusterId(1), member()));
    let layout = black_box(Layout::of(device.capacity(), device.erase_size(), 0));
    let device = Store::format_as(device, &layout, &state).ok()?;
    let device = Store::format(device, black_box(0), &state).ok()?;
    let application = Application {
        service: State(0),
        authenticator: AllowAll,
    };
    let opened = Superloop::open_in(node, Board, device, application, config(), memory);
    let mut member: Superloop<_, _, _, _, _, SESSIONS, _> = opened.ok()?;
    while black_box(true) {
        black_box(member.turn()).ok()?;
        while let Some(event) = member.poll_event() {
            black_box(event);
        }
        let _asked = member.request_snapshot().is_ok();
        let _transferred = member.transfer(self::member()).is_ok();
        member.resign();
        black_box((member.is_resigned(), member.wear(), member.device()));
        black_box((member.wear().log.each(), member.service().0));
        black_box(member.board());
    }
    let (_, device) = member.into_parts();
    let (mut store, _) = Store::open(device, black_box(0)).ok()?;
    store.write_state(&state).ok()?;
    black_box((
        store.log_max(),
        store.takes_snapshots(),
        store.source().is_some(),
    ));
    Some(store.into_device())
}

/// Who a member is, from a disk's first block.
fn read_identity() -> Option<[u8; BLOCK]> {
    let identity = Identity::decode(&black_box([0; BLOCK]));
    if let Err(error) = identity {
        let _said = write!(Out, "{error}").is_ok();
    }
    black_box(identity).ok()?.encode()
}

/// Called by `_start` with an aligned stack.
extern "C" fn start() -> ! {
    let profile = black_box(Profile::TINY);
    let mut config = config();
    profile.apply(&mut config);
    black_box(config);
    black_box(read_identity());
    black_box(planted::pick(black_box(0)));
    // Never taken: there is no memory.
    let lend = || black_box(None::<(&'static mut Node<SESSIONS>, &'static mut [u8])>);
    if let Some((node, bytes)) = lend()
        && let Some(memory) = profile.split(bytes)
    {
        black_box(drive(Nor::new(Chip), node, memory));
    }
    if let Some((node, bytes)) = lend()
        && let Some(memory) = profile.split(bytes)
    {
        black_box(drive(Device, node, memory));
    }
    exit(black_box(0))
}
