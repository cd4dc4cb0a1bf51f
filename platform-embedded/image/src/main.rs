//! A Coracle node that is all the software of its machine: no operating system, no heap, no thread.
//!
//! It finds its disk and its network card, reads from the disk who it is, recovers its log, and
//! turns the superloop for ever; between turns the processor sleeps. The console shows a line once
//! a second and at every change of role.
#![no_std]
#![no_main]

mod console;
mod devices;
mod disk;
mod memory;
mod nic;
#[cfg(target_arch = "riscv32")]
mod riscv32;
#[cfg(target_arch = "x86_64")]
mod x86_64;

use core::panic::PanicInfo;
use core::time::Duration;

use console::{Console, say};
use coracle_core::node::{Config, SnapshotPolicy};
use coracle_core::raft::Timing;
#[cfg(feature = "echo")]
use coracle_core::service::echo::Echo;
#[cfg(not(feature = "echo"))]
use coracle_core::service::kv::Kv;
use coracle_core::session::{AllowAll, Attempt, Authenticator, Verdict};
use coracle_core::time::{Instant, Now, Timestamp};
use coracle_embedded::identity::Identity;
use coracle_embedded::net::{Link, Wire};
use coracle_embedded::{Application, Clock, Next, Superloop};
use disk::{Disk, Sectors};
use nic::Nic;
#[cfg(target_arch = "riscv32")]
use riscv32 as arch;
use virtio_drivers::transport::DeviceType;
#[cfg(target_arch = "x86_64")]
use x86_64 as arch;

/// How the machine ends when it cannot start or go on; the console says why.
const STOPPED: u8 = 3;
/// How it ends after a bug.
pub const PANICKED: u8 = 7;
/// How often the console shows how the node is.
const REPORT_NANOS: u64 = 1_000_000_000;
/// The longest sleep, if nothing is due: the console has its line.
const SECOND: Duration = Duration::from_nanos(REPORT_NANOS);

type Board = Wire<'static, Nic, MachineClock>;
/// What the members execute: a key-value map; or, with the feature `echo`, what sends every message
/// back, for clients that know no service of ours.
#[cfg(not(feature = "echo"))]
type Service = Kv<&'static mut [u8]>;
#[cfg(feature = "echo")]
type Service = Echo;
type Node = Superloop<
    Board,
    Disk,
    Service,
    Doorkeeper,
    &'static mut [u8],
    { memory::SESSIONS },
    &'static mut coracle_core::node::Node<{ memory::SESSIONS }>,
>;

/// Lets everybody in; whether a session may have a snapshot taken is the disk's to say.
struct Doorkeeper {
    admin: bool,
}

impl Authenticator for Doorkeeper {
    fn on_connect(&mut self, attempt: Attempt, credentials: &[u8]) -> Verdict {
        AllowAll.on_connect(attempt, credentials)
    }

    fn on_challenge_response(&mut self, attempt: Attempt, credentials: &[u8]) -> Verdict {
        AllowAll.on_challenge_response(attempt, credentials)
    }

    fn may_administer(&mut self, _: &[u8]) -> bool {
        self.admin
    }
}

/// The machine's clocks.
pub struct MachineClock {
    wall_at_zero: i64,
}

impl Clock for MachineClock {
    fn now(&mut self) -> Now {
        let nanos = arch::nanos();
        Now {
            instant: Instant::from_nanos(nanos),
            wall: Timestamp(self.wall_at_zero + (nanos / 1_000_000) as i64),
        }
    }
}

/// Entered once, from the machine's start code.
fn main() -> ! {
    let mut node = start();
    run(&mut node)
}

fn stop(why: core::fmt::Arguments<'_>) -> ! {
    say!("stopped: {why}");
    arch::exit(STOPPED)
}

/// Or the machine stops, saying why.
macro_rules! or_stop {
    ($result:expr, $($what:tt)*) => {
        match $result {
            Ok(value) => value,
            Err(error) => stop(format_args!("{}: {error:?}", format_args!($($what)*))),
        }
    };
}

fn start() -> Node {
    let wall_at_zero = arch::wall_millis() - (arch::nanos() / 1_000_000) as i64;
    let (Some(disk), Some(card)) = (
        devices::find(DeviceType::Block),
        devices::find(DeviceType::Network),
    ) else {
        stop(format_args!(
            "there is no virtio disk, or no virtio network card"
        ))
    };
    let mut disk = or_stop!(Sectors::new(disk), "the disk does not start");
    let nic = or_stop!(Nic::new(card), "the network card does not start");
    let block = or_stop!(disk.first(), "the disk cannot be read");
    let identity = match Identity::decode(&block) {
        Ok(identity) => identity,
        Err(error) => stop(format_args!("{error}")),
    };
    let link = Link {
        mac: nic.mac(),
        address: identity.address,
        prefix: identity.prefix,
        gateway: identity.gateway,
    };
    let (Some(blocks), Some(wire), Some(service), Some(place), Some(memory)) = (
        memory::BLOCKS.take(),
        memory::WIRE.take(),
        service(),
        memory::NODE.take(),
        memory::of_node(),
    ) else {
        stop(format_args!("this machine has started already"))
    };
    let clock = MachineClock { wall_at_zero };
    let (member_port, client_port) = identity.ports;
    let Some(board) = Wire::new(wire, clock, nic, link, member_port, client_port) else {
        stop(format_args!("a port is 0"))
    };
    let application = Application {
        service,
        authenticator: Doorkeeper {
            admin: identity.admin,
        },
    };
    let began = arch::nanos();
    let disk = Disk::new(disk, blocks);
    let opened = Superloop::open_in(place, board, disk, application, config(&identity), memory);
    let node = or_stop!(opened, "the node does not start");
    let status = node.node().status();
    say!(
        "up member {} address {} start {} snapshot {} recovered {} term {} recovery_us {} \
         boot_us {} static {} node {}",
        identity.member,
        identity.address,
        status.start,
        status.snapshot.unwrap_or_default(),
        status.appended,
        status.term,
        (arch::nanos() - began) / 1000,
        arch::nanos() / 1000,
        static_bytes(),
        size_of::<Node>() + size_of_val(node.node()),
    );
    node
}

/// The application, before the first message. None at a second call.
#[cfg(not(feature = "echo"))]
fn service() -> Option<Service> {
    let (state, barrier) = (memory::STATE.take()?, memory::BARRIER.take()?);
    Some(Kv::with_barrier(&mut state[..], &mut barrier[..]))
}

#[cfg(feature = "echo")]
fn service() -> Option<Service> {
    Some(Echo::new())
}

fn config(identity: &Identity) -> Config {
    let timeout = Duration::from_millis(identity.leader_timeout_ms.into());
    let members = identity.members.clone();
    let seed = arch::entropy() ^ (identity.member.slot() as u64) << 56;
    Config {
        timing: Timing::from_leader_timeout(timeout),
        sessions_max: memory::SESSIONS,
        segment_length: identity.segment_length,
        mtu: memory::MTU,
        message_max: memory::MESSAGE_MAX,
        egress_mtu: memory::MTU,
        snapshots: SnapshotPolicy {
            enabled: true,
            every_bytes: identity.log_max / memory::SNAPSHOTS_PER_LOG,
            interval: Duration::ZERO,
        },
        log_max: identity.log_max,
        checkpoint_every: memory::CHECKPOINT_EVERY,
        ..Config::new(identity.cluster, identity.member, members, seed)
    }
}

fn run(node: &mut Node) -> ! {
    let mut report_at = 0;
    let mut slept = 0;
    let mut role = None;
    loop {
        let next = or_stop!(node.turn(), "the node does not go on");
        while let Some(event) = node.poll_event() {
            say!("event {event:?}");
        }
        let now = arch::nanos();
        let is_new = role.replace(node.node().role()) != Some(node.node().role());
        if is_new || now >= report_at {
            report(node, slept, now);
            report_at = now + REPORT_NANOS;
        }
        let until = match next {
            Next::Now => continue,
            Next::At(at) => at,
            Next::Datagram => Instant::from_nanos(now).plus(SECOND),
        };
        let until = until.nanos().min(report_at);
        let nic = node.board().port();
        nic.acknowledge();
        arch::end_interrupts();
        // What arrives from here on interrupts the sleep, or has by then.
        let now = arch::nanos();
        if until > now && !nic.has_frame() {
            arch::sleep(until - now);
            slept += arch::nanos() - now;
        }
    }
}

fn report(node: &mut Node, slept: u64, now: u64) {
    let counters = node.board().counters();
    let idle = slept.saturating_mul(1000) / now.max(1);
    let status = node.node().status();
    // The console takes everything.
    let _is_said = status.write_line(&mut Console).is_ok();
    say!(
        "log start {} snapshot {}",
        status.start,
        status.snapshot.unwrap_or_default()
    );
    let (used, stack) = (stack_used(), stack_size());
    if stack - used < memory::STACK_SPARE {
        stop(format_args!("{used} of {stack} bytes of stack were used"));
    }
    say!(
        "machine up_ms {} idle {}.{} stack {used} of {stack} lost {} foreign {} unroutable {}",
        now / 1_000_000,
        idle / 10,
        idle % 10,
        counters.lost,
        counters.foreign,
        counters.unroutable,
    );
}

unsafe extern "C" {
    static image_end: u8;
}

/// Everything from the image's start to its end, code and stack included.
fn static_bytes() -> usize {
    let end = &raw const image_end as usize;
    end - arch::IMAGE
}

fn stack_size() -> usize {
    let (bottom, top) = arch::stack();
    top as usize - bottom as usize
}

/// How many bytes of the stack were ever used.
fn stack_used() -> usize {
    let (bottom, _) = arch::stack();
    let words = stack_size() / size_of::<u32>();
    // SAFETY: all words from `bottom` to `top` are the stack's; those below what is in use are
    // read, and change only when it grows.
    let untouched = (0..words)
        .take_while(|word| unsafe { bottom.add(*word).read_volatile() } == arch::PAINT)
        .count();
    (words - untouched) * size_of::<u32>()
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    say!("{info}");
    arch::exit(PANICKED)
}
