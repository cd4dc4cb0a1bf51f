//! How much stack a start needs: it is painted beforehand, and looked at afterwards.
//!
//! What a board's own compiler makes of it is looked at by `cargo xtask bare`. Here all is larger:
//! this machine's words are, the chip and the board are simulated, and without optimisation nothing
//! shares its place with anything.
#![cfg(target_os = "linux")]

mod board;

use std::alloc::{Layout, alloc, dealloc};
use std::ffi::c_void;
use std::ptr::null_mut;

use board::trio::{Cluster, SEGMENT, SESSIONS, address, config, memory};
use board::{Board, Kind};
use coracle_core::node::Node;
use coracle_core::service::kv::Kv;
use coracle_core::service::{Cluster as Context, Service, SnapshotError, SnapshotReader};
use coracle_core::session::AllowAll;
use coracle_core::units::{Position, SessionId};
use coracle_embedded::{Application, Profile, Superloop};

const STACK: usize = 1024 * 1024;
const PAINT: u64 = 0x5041_494e_5450_4149;
/// The most that a start may take.
const MOST: usize = if cfg!(debug_assertions) { 28 } else { 16 } * 1024;

/// A service that is elsewhere: what a superloop holds by value is moved about when it is made, and
/// the key-value service is not small.
struct Lent<'a>(&'a mut Kv<Vec<u8>>);

impl Service for Lent<'_> {
    fn on_session_message(&mut self, cluster: &mut Context<'_>, from: SessionId, message: &[u8]) {
        self.0.on_session_message(cluster, from, message);
    }

    fn digest(&self) -> u64 {
        self.0.digest()
    }

    fn read_snapshot(&mut self, from: &mut SnapshotReader<'_>) -> Result<(), SnapshotError> {
        self.0.read_snapshot(from)
    }
}

extern "C" fn enter<F: FnOnce()>(run: *mut c_void) -> *mut c_void {
    // SAFETY: it is the option that `depth` waits with, and nobody else looks at it so long.
    let run = unsafe { &mut *run.cast::<Option<F>>() };
    if let Some(run) = run.take() {
        run();
    }
    null_mut()
}

/// How deep a thread has used its stack, with what its library has there.
fn depth<F: FnOnce()>(run: F) -> usize {
    let layout = Layout::from_size_align(STACK, 4096).expect("a power of two");
    let mut run = Some(run);
    // SAFETY: the stack is this function's own, and the thread has ended before it is looked at or
    // given back. What was not written by the thread was written as paint.
    unsafe {
        let stack = alloc(layout).cast::<u64>();
        assert!(!stack.is_null());
        let words = STACK / size_of::<u64>();
        (0..words).for_each(|n| stack.add(n).write(PAINT));
        let mut attributes = std::mem::zeroed();
        assert_eq!(libc::pthread_attr_init(&mut attributes), 0);
        let set = libc::pthread_attr_setstack(&mut attributes, stack.cast(), STACK);
        assert_eq!(set, 0);
        let mut thread = std::mem::zeroed();
        let argument = (&raw mut run).cast();
        let made = libc::pthread_create(&mut thread, &attributes, enter::<F>, argument);
        assert_eq!(made, 0);
        assert_eq!(libc::pthread_join(thread, null_mut()), 0);
        libc::pthread_attr_destroy(&mut attributes);
        let painted = |n: &usize| stack.add(*n).read_volatile() == PAINT;
        let untouched = (0..words).take_while(painted).count();
        dealloc(stack.cast(), layout);
        assert!(untouched > 0, "all of it was used");
        (words - untouched) * size_of::<u64>()
    }
}

/// What `run` needs beside what a thread has in any case.
fn stack_of(run: impl FnOnce()) -> usize {
    depth(run) - depth(|| {})
}

#[test]
fn a_tiny_member_starts_in_its_place() {
    let log_max = 8 * u64::from(SEGMENT);
    let mut cluster = Cluster::of(Profile::TINY, 23, Kind::Flash, log_max);
    let mut caller = board::client::Caller::new(
        cluster.world.clone(),
        address(8, 20001),
        board::trio::endpoints(),
    );
    caller.limit(Profile::TINY.client_mtu, 300);
    // Until there is a snapshot to be read.
    let has_none = |cluster: &Cluster| {
        let member = cluster.members[0].as_ref();
        member.is_some_and(|member| member.node().status().snapshot.is_none())
    };
    while has_none(&cluster) {
        cluster.step();
        caller.turn();
        assert!(cluster.committed().get() < 2 * log_max);
    }
    cluster.cut_power(0);
    let parts = |service| {
        let board = Board {
            world: cluster.world.clone(),
            member: address(0, 9000),
            client: address(0, 9001),
        };
        let application = Application {
            service: Lent(service),
            authenticator: AllowAll,
        };
        let mut config = config(0, 99, log_max);
        Profile::TINY.apply(&mut config);
        let device = cluster.devices[0].clone();
        (board, device, application, config, memory(&Profile::TINY))
    };
    let size = size_of::<Node<SESSIONS>>();

    let mut kv = [0, 1].map(|_| Kv::new(vec![0; 4 * 1024 * 1024]));
    let [first, second] = &mut kv;
    let (board, device, application, config, memory) = parts(first);
    let node = Box::new(Node::<SESSIONS>::vacant());
    let mut started = None;
    let in_place = stack_of(|| {
        let opened = Superloop::open_in(node, board, device, application, config, memory);
        started = Some(opened.map(|member| member.node().status()));
    });
    let status = started.expect("it was run").expect("it starts");
    assert!(status.snapshot > Some(Position::ZERO) && status.appended > Position::ZERO);
    println!("a start in its place: {in_place} bytes of stack; a node: {size}");
    assert!(in_place <= MOST, "{in_place}");

    // So that this test is known to see it: a node that is made on the stack is there.
    let (board, device, application, config, memory) = parts(second);
    let moved = stack_of(|| {
        let opened: Result<Superloop<_, _, _, _, _, SESSIONS>, _> =
            Superloop::open(board, device, application, config, memory);
        assert!(opened.is_ok());
    });
    println!("a start by value: {moved}");
    assert!(moved > size + in_place / 2, "{moved}");
}
