//! A member of a cluster of one for a Cortex-M3, with its flash in memory: it formats, starts,
//! leads, takes a snapshot, and logs what happens as `defmt` frames. They leave through ARM's
//! semihosting, as they would through a debugger.
#![no_std]
#![no_main]

mod semihosting;

use core::net::SocketAddr;
use core::panic::PanicInfo;
use core::time::Duration;

use coracle_core::log::NodeState;
use coracle_core::node::{Config, Door, MemberAddress, Node, SnapshotPolicy};
use coracle_core::service::echo::Echo;
use coracle_core::session::AllowAll;
use coracle_core::time::{Instant, Now, Timestamp};
use coracle_core::units::{ClusterId, MemberId};
use coracle_core::wire::frame::parse_datagram;
use coracle_embedded::{
    Application, Clock, Network, Next, Nor, OpenError, Profile, Store, Superloop,
};
use embedded_storage::nor_flash::{
    ErrorType, NorFlash, NorFlashError, NorFlashErrorKind, ReadNorFlash,
};
use semihosting::{exit, take};

const PROFILE: Profile = Profile::TINY;
const FLASH: usize = 1 << 20;
const UNIT: usize = 4096;
const SEGMENT: u32 = 64 * 1024;
const CLUSTER: ClusterId = ClusterId(0xc0ac1e);
/// Virtual milliseconds within which all of it has to come about.
const PATIENCE: u64 = 20_000;

/// Flash in memory.
struct Chip(&'static mut [u8; FLASH]);

impl Chip {
    fn part(&mut self, at: u32, len: usize) -> Result<&mut [u8], Broken> {
        let part = self.0.get_mut(at as usize..).and_then(|b| b.get_mut(..len));
        part.ok_or(Broken)
    }
}

impl ErrorType for Chip {
    type Error = Broken;
}

/// It was asked for what it does not have.
#[derive(Clone, Copy, Debug, defmt::Format)]
struct Broken;

impl NorFlashError for Broken {
    fn kind(&self) -> NorFlashErrorKind {
        NorFlashErrorKind::OutOfBounds
    }
}

impl ReadNorFlash for Chip {
    const READ_SIZE: usize = 4;

    fn read(&mut self, at: u32, into: &mut [u8]) -> Result<(), Broken> {
        into.copy_from_slice(self.part(at, into.len())?);
        Ok(())
    }

    fn capacity(&self) -> usize {
        FLASH
    }
}

impl NorFlash for Chip {
    const WRITE_SIZE: usize = 8;
    const ERASE_SIZE: usize = UNIT;

    fn erase(&mut self, from: u32, to: u32) -> Result<(), Broken> {
        self.part(from, (to - from) as usize)?.fill(0xff);
        Ok(())
    }

    fn write(&mut self, at: u32, bytes: &[u8]) -> Result<(), Broken> {
        self.part(at, bytes.len())?.copy_from_slice(bytes);
        Ok(())
    }
}

/// A clock that stands where it is set, and a network without anybody on it.
struct Board {
    now: Instant,
}

impl Clock for Board {
    fn now(&mut self) -> Now {
        Now {
            instant: self.now,
            wall: Timestamp((self.now.nanos() / 1_000_000) as i64),
        }
    }
}

impl Network for Board {
    fn receive(&mut self, _: &mut [u8]) -> Option<(Door, SocketAddr, usize)> {
        None
    }

    fn send(&mut self, _: Door, _: SocketAddr, _: &[u8]) {}
}

type Member = Superloop<
    Board,
    Nor<Chip>,
    Echo,
    AllowAll,
    &'static mut [u8],
    { PROFILE.sessions },
    &'static mut Node<{ PROFILE.sessions }>,
>;

fn open() -> Result<Member, OpenError<Broken>> {
    let memory = take!([u8; PROFILE.total()] = [0; _]);
    let flash = Nor::new(Chip(take!([u8; FLASH] = [0; _])));
    let at = |port| SocketAddr::from(([10, 0, 0, 1], port));
    let mut members = [const { None }; 7];
    members[0] = Some(MemberAddress::new(at(9000), at(9001)));
    let mut config = Config {
        segment_length: SEGMENT,
        snapshots: SnapshotPolicy {
            enabled: true,
            ..SnapshotPolicy::default()
        },
        ..Config::new(CLUSTER, MemberId::FIRST, members, 1)
    };
    PROFILE.apply(&mut config);
    // What a chip says that was never formatted.
    let blank = Nor::new(Chip(take!([u8; FLASH] = [0xff; _])));
    if let Err(error) = Store::open(blank, SEGMENT) {
        defmt::error!("{}", error);
    }
    let first = NodeState::first(CLUSTER, MemberId::FIRST);
    let flash = Store::format(flash, SEGMENT, &first).map_err(OpenError::Store)?;
    let application = Application {
        service: Echo::new(),
        authenticator: AllowAll,
    };
    let memory = PROFILE.split(memory).ok_or(OpenError::TooLittleMemory)?;
    let node = take!(Node<{ PROFILE.sessions }> = Node::vacant());
    let board = Board {
        now: Instant::from_nanos(1),
    };
    Superloop::open_in(node, board, flash, application, config, memory)
}

/// Turns until nothing is left to do, and logs what the member tells.
fn turn(member: &mut Member) {
    loop {
        match member.turn() {
            Ok(Next::Now) => {}
            Ok(_) => break,
            Err(error) => {
                defmt::error!("{}", error);
                exit(false);
            }
        }
    }
    while let Some(event) = member.poll_event() {
        defmt::info!("{}", event);
    }
    let board = member.board();
    board.now = board.now.plus(Duration::from_millis(1));
}

#[unsafe(no_mangle)]
extern "C" fn _start() -> ! {
    let mut member = match open() {
        Ok(member) => member,
        Err(error) => {
            defmt::error!("{}", error);
            exit(false)
        }
    };
    defmt::info!("{}", NodeState::first(CLUSTER, MemberId::FIRST));
    let mut asked = false;
    for _ in 0..PATIENCE {
        turn(&mut member);
        asked = asked || member.request_snapshot().is_ok();
        let status = member.node().status();
        if asked && status.snapshot.is_some() {
            break;
        }
    }
    defmt::info!("{}", member.node().status());
    if let Err(reject) = parse_datagram(&[0; 4]) {
        defmt::warn!("{}", reject);
    }
    let narrow = Config {
        mtu: 100,
        ..member.node().config().clone()
    };
    if let Err(error) = narrow.check() {
        defmt::warn!("{}", error);
    }
    exit(asked)
}

#[panic_handler]
fn panic(_: &PanicInfo<'_>) -> ! {
    exit(false)
}
