//! Proves that `core` and the embedded platform link and run where there is nothing: no std, no
//! allocator, no libc. Three members in static memory elect a leader, a client opens a session and
//! has its messages echoed; the leader is stopped, the client goes on with the next, the first
//! recovers from its flash and catches up; leadership is transferred, and resigned; the session is
//! closed. The client is challenged and answers; events and counters say what went on; the
//! key-value service serves. Exits with 0 if all of that came about.
#![no_std]
#![no_main]

mod bare;
mod client;
mod kv;
mod pool;
mod state;
mod world;

use core::cell::RefCell;
use core::fmt::{self, Write};
use core::net::{Ipv4Addr, SocketAddr};
use core::time::Duration;

use bare::{Out, exit};
use client::Caller;
use coracle_core::client::{ClientConfig, State};
use coracle_core::log::NodeState;
use coracle_core::node::{Config, Event, MemberAddress};
use coracle_core::service::Role;
use coracle_core::service::echo::Echo;
use coracle_core::session::SharedSecret;
use coracle_core::units::{ClusterId, MemberId, Position};
use coracle_embedded::{Application, Memory, Next, Store, Superloop};
use pool::Pool;
use world::{Board, Flash, World};

const MEMBERS: usize = 3;
const SESSIONS: usize = 2;
const SEGMENT: u32 = 64 * 1024;
const MTU: usize = 1408;
const MESSAGE_MAX: usize = 4096;
const CLUSTER: ClusterId = ClusterId(1);

/// What a client must know.
const SECRET: &[u8] = b"open sesame";

type Guard = SharedSecret<'static>;
type Member<'w> = Superloop<Board<'w>, Flash, Echo, Guard, &'static mut [u8], SESSIONS>;

/// Called by `_start` with an aligned stack.
extern "C" fn start() -> ! {
    match run() {
        Ok(()) => exit(0),
        Err(Failed(what)) => {
            let _said = writeln!(Out, "linkcheck FAILED: {what}").is_ok();
            exit(1)
        }
    }
}

/// What did not come about.
struct Failed(&'static str);

impl From<fmt::Error> for Failed {
    fn from(_: fmt::Error) -> Self {
        Self("standard output is closed")
    }
}

fn run() -> Result<(), Failed> {
    let mut pool = Pool::take_all();
    let world = RefCell::new(World::new());
    let mut members: [Option<Member<'_>>; MEMBERS] = [None, None, None];
    for (n, slot) in members.iter_mut().enumerate() {
        let flash = format(n, pool.take(24 * SEGMENT as usize))?;
        *slot = Some(open(n, n as u64, &world, flash, &mut pool)?);
    }
    let config = ClientConfig {
        segment_length: SEGMENT,
        ..ClientConfig::new(
            "aeron:udp?endpoint=10.0.0.9:20001",
            "0=10.0.0.1:9001,1=10.0.0.2:9001,2=10.0.0.3:9001",
            7,
        )
        .ok_or(Failed("a client's configuration"))?
    };
    let caller = Caller::new(&world, address(8, 20001), config, &mut pool)?;
    let mut cluster = Cluster {
        world: &world,
        members,
        caller,
        seen: Seen::default(),
    };
    cluster.run_until("100 messages are echoed", |c| c.caller.answered >= 100)?;
    let leader = cluster.leader().ok_or(Failed("a leader"))?;
    let stopped = cluster.members.get_mut(leader).and_then(Option::take);
    let (_, flash) = stopped.ok_or(Failed("a leader"))?.into_parts();
    cluster.run_until("200 are, without the leader", |c| c.caller.answered >= 200)?;
    if let Some(slot) = cluster.members.get_mut(leader) {
        *slot = Some(open(leader, 9, &world, flash, &mut pool)?);
    }
    cluster.caller.is_paused = true;
    cluster.run_until("all members are level", |c| {
        c.is_level() && c.sessions() == MEMBERS as u32
    })?;
    let target = member_id((cluster.leader().ok_or(Failed("a leader"))? + 1) % MEMBERS)?;
    for member in cluster.leading() {
        member.transfer(target).map_err(|_| Failed("a transfer"))?;
    }
    cluster.caller.is_paused = false;
    cluster.run_until("300 are, after a transfer", |c| c.caller.answered >= 300)?;
    if cluster.leader() != Some(target.slot()) {
        return Err(Failed("the target leads"));
    }
    cluster.leading().for_each(Superloop::resign);
    cluster.run_until("400 are, after a graceful close", |c| {
        c.caller.answered >= 400
    })?;
    if cluster.leader() == Some(target.slot()) {
        return Err(Failed("the one that resigned leads no more"));
    }
    cluster.caller.close();
    let is_closed = |c: &Cluster<'_>| matches!(c.caller.state(), State::Closed(_));
    cluster.run_until("the client has closed", is_closed)?;
    cluster.run_until("no session is open", |c| c.is_level() && c.sessions() == 0)?;
    cluster.require_told()?;
    kv::run(pool.take(64 * 1024))?;
    state::run(&mut pool)?;
    let unknown = cluster.caller.unknown;
    writeln!(Out, "linkcheck: ok, {unknown} of unknown outcome")?;
    Ok(())
}

fn address(n: usize, port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::new(10, 0, 0, 1 + n as u8), port))
}

fn config(member: MemberId, of: usize, seed: u64) -> Config {
    let listed = |n| MemberAddress::new(address(n, 9000), address(n, 9001));
    let members = core::array::from_fn(|n| (n < of).then(|| listed(n)));
    Config {
        segment_length: SEGMENT,
        mtu: MTU,
        message_max: MESSAGE_MAX,
        egress_mtu: MTU,
        ..Config::new(CLUSTER, member, members, seed)
    }
}

fn member_id(n: usize) -> Result<MemberId, Failed> {
    MemberId::new(n as u8).ok_or(Failed("a member id"))
}

fn format(n: usize, flash: &'static mut [u8]) -> Result<Flash, Failed> {
    let state = NodeState::first(CLUSTER, member_id(n)?);
    Store::format(Flash(flash), SEGMENT, &state).map_err(|_| Failed("formatting the flash"))
}

fn open<'w>(
    n: usize,
    seed: u64,
    world: &'w RefCell<World>,
    flash: Flash,
    pool: &mut Pool,
) -> Result<Member<'w>, Failed> {
    let board = Board {
        world,
        member: address(n, 9000),
        client: address(n, 9001),
    };
    let config = config(member_id(n)?, MEMBERS, seed);
    let memory = Memory {
        log: pool.take(16 * 1024 + MTU),
        ingress: pool.take(SESSIONS * 64 * 1024),
        reassembly: pool.take(MESSAGE_MAX + 64),
        egress: pool.take(SESSIONS * 64 * 1024),
        replay: pool.take(2 * MESSAGE_MAX),
        catchup: pool.take(2 * MESSAGE_MAX),
        assembly: pool.take(MESSAGE_MAX + 64),
        services: pool.take(1024),
        datagram: pool.take(MTU),
    };
    let application = Application {
        service: Echo::new(),
        authenticator: SharedSecret::new(SECRET, b"caller"),
    };
    Superloop::open(board, flash, application, config, memory)
        .map_err(|_| Failed("opening a member"))
}

/// Everything that runs.
struct Cluster<'w> {
    world: &'w RefCell<World>,
    members: [Option<Member<'w>>; MEMBERS],
    caller: Caller<'w>,
    seen: Seen,
}

/// How many events of each kind the members have told.
#[derive(Default, Debug)]
struct Seen {
    led: u32,
    joined: u32,
    opened: u32,
    closed: u32,
}

impl Seen {
    fn note(&mut self, event: Event) {
        match event {
            Event::RoleChanged { role, .. } => self.led += u32::from(role == Role::Leader),
            Event::Joined { .. } => self.joined += 1,
            Event::SessionOpened(_) => self.opened += 1,
            Event::SessionClosed(_) => self.closed += 1,
            _ => {}
        }
    }
}

impl<'w> Cluster<'w> {
    /// Events, counters and histories say what has gone on.
    fn require_told(&self) -> Result<(), Failed> {
        let Seen {
            led,
            joined,
            opened,
            closed,
        } = self.seen;
        // Four terms; the session was opened and closed on each member, and on the first that led
        // once more after its restart.
        if led != 4 || joined < 8 || opened < 3 || closed < 3 {
            writeln!(Out, "{:?}", self.seen)?;
            return Err(Failed("events of every term and session"));
        }
        if self.caller.challenged != 1 || self.caller.events == 0 {
            return Err(Failed("a challenge, answered once"));
        }
        for node in self.members.iter().flatten().map(Superloop::node) {
            let status = node.status();
            if node.commit() != status.committed || node.history().last_term() != status.term {
                return Err(Failed("one state, however it is asked for"));
            }
            if node.counters().foreign != 0 || node.config().cluster != CLUSTER {
                return Err(Failed("no message of another cluster"));
            }
            status.write_line(&mut Out).map_err(|_| fmt::Error)?;
        }
        Ok(())
    }

    /// Lets virtual milliseconds pass until something has come about.
    fn run_until(
        &mut self,
        what: &'static str,
        is_reached: fn(&Self) -> bool,
    ) -> Result<(), Failed> {
        for milliseconds in 0..20_000 {
            if is_reached(self) {
                writeln!(Out, "linkcheck: {what} after {milliseconds} ms")?;
                return Ok(());
            }
            self.step()?;
        }
        Err(Failed(what))
    }

    fn step(&mut self) -> Result<(), Failed> {
        self.caller.turn()?;
        for member in self.members.iter_mut().flatten() {
            for _ in 0..100 {
                match member.turn() {
                    Ok(Next::Now) => {}
                    Ok(_) => break,
                    Err(error) => {
                        writeln!(Out, "{error:?}")?;
                        return Err(Failed("a member stopped"));
                    }
                }
            }
            while let Some(event) = member.poll_event() {
                self.seen.note(event);
            }
        }
        let mut world = self.world.borrow_mut();
        world.now = world.now.plus(Duration::from_millis(1));
        Ok(())
    }

    fn leader(&self) -> Option<usize> {
        self.members.iter().position(|member| {
            member
                .as_ref()
                .is_some_and(|member| member.node().role() == Role::Leader)
        })
    }

    fn leading(&mut self) -> impl Iterator<Item = &mut Member<'w>> {
        let members = self.members.iter_mut().flatten();
        members.filter(|member| member.node().role() == Role::Leader)
    }

    fn sessions(&self) -> u32 {
        let running = self.members.iter().flatten();
        running.map(|member| member.node().status().sessions).sum()
    }

    /// All have executed the same log to its end, it is durable, and their services are equal.
    fn is_level(&self) -> bool {
        let running = || self.members.iter().flatten();
        let end = running()
            .map(|member| member.node().status().appended)
            .max();
        let first = running().next().map(|member| member.service());
        self.leader().is_some()
            && end > Some(Position::ZERO)
            && running().all(|member| {
                let status = member.node().status();
                Some(status.applied) == end
                    && Some(status.durable) == end
                    && Some(member.service()) == first
            })
    }
}
