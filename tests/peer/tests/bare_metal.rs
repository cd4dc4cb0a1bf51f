//! The same unmodified C client over the C media driver, against three machines that have no
//! operating system: only the node and its drivers. Needs QEMU: `cargo xtask peer --bare`.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use coracle_net::say;
use coracle_peer::echo::{Client, Echo, IN_FLIGHT, PATIENCE};
use coracle_peer::machines::Machines;
use coracle_peer::session::{Arrival, IngressStyle};

/// The longest message that the image takes: its memory is fixed.
const MESSAGE_MAX: usize = 4096;
/// How long a session of the image lives without a word.
const SESSION_TIMEOUT: Duration = Duration::from_secs(10);

/// These tests take turns: each wants the machine for itself.
fn turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

fn machines() -> (Machines, Client, usize) {
    let mut machines = Machines::start().expect("three machines and a leader");
    let leader = machines.leader().expect("a leader");
    let client = Client::start("127.0.0.1", machines.endpoints().to_vec());
    (machines, client, leader)
}

/// Sends on until a new leader speaks up.
fn follow(echo: &mut Echo<'_>, until: u64) {
    let before = echo.session.state().new_leaders;
    while echo.session.state().new_leaders == before {
        echo.step(until).expect("a new leader announces itself");
    }
}

/// Redirected by a follower; 10,000 messages of up to 4 KiB, each echo compared byte for byte,
/// which is several times what a member's log may hold; the leader's plug pulled in mid-stream, the
/// new leader followed; the machine switched on again, which starts from its snapshot, and level;
/// the session closed.
#[test]
fn bare_metal_lives_through_a_leader_kill() {
    const MESSAGES: u64 = 10_000;
    let _turn = turn();
    let (mut machines, client, leader) = machines();
    let session = client
        .connect(&IngressStyle::default(), leader + 1)
        .expect("a session");
    let state = session.state().clone();
    say!("bare_metal: {state:?}");
    assert!(state.redirects >= 1, "a follower redirects: {state:?}");

    let began = Instant::now();
    let mut echo = Echo::new(session);
    echo.longest = MESSAGE_MAX;
    echo.run(MESSAGES / 2, &mut machines)
        .expect("the first half");
    let killed = usize::try_from(echo.session.state().leader).expect("a member's number");
    while echo.waiting() < IN_FLIGHT / 2 {
        echo.step(MESSAGES).expect("the stream goes on");
    }
    machines.kill(killed).expect("the leader was on");
    follow(&mut echo, MESSAGES);
    let up = machines.restart(killed).expect("it starts again");
    say!("bare_metal: machine {killed} is up again: {up:?}");
    assert!(up.snapshot > 0 && up.start > 0, "{up:?}");
    assert!(up.recovered >= up.snapshot, "{up:?}");
    echo.run(MESSAGES, &mut machines).expect("the second half");
    let (echoed, unknown) = (echo.echoed, echo.unknown());
    let (bytes, took) = (echo.bytes, began.elapsed());
    say!("bare_metal: {echoed} messages, {bytes} bytes echoed, {unknown} unknown, {took:?}");
    assert!(unknown <= IN_FLIGHT, "{unknown} unknown");
    assert_eq!(echoed + unknown as u64, MESSAGES);

    echo.session.close(PATIENCE).expect("the session closes");
    let level = machines.await_level(PATIENCE).expect("all members level");
    say!("bare_metal: all level: {:?}", level[0]);
    assert!(level.iter().all(|one| one.log_start > 0), "{level:?}");
}

/// One session through three leaders, each killed and switched on again.
#[test]
fn bare_metal_follows_leader_after_leader() {
    const ROUND: u64 = 500;
    const KILLS: u64 = 3;
    let _turn = turn();
    let (mut machines, client, leader) = machines();
    let session = client
        .connect(&IngressStyle::default(), leader)
        .expect("a session");
    let mut echo = Echo::new(session);
    echo.longest = MESSAGE_MAX;
    for kill in 1..=KILLS {
        echo.run(kill * ROUND, &mut machines)
            .expect("every message and its echo");
        let killed = usize::try_from(echo.session.state().leader).expect("a member's number");
        machines.kill(killed).expect("the leader was on");
        follow(&mut echo, kill * ROUND + 50);
        machines.restart(killed).expect("it starts again");
        echo.run(kill * ROUND + 50, &mut machines)
            .expect("the new leader answers");
        // Until it is level another kill would take the quorum away. The session stays alive.
        while !machines.are_level().expect("all go on") {
            echo.step(0).expect("the session stays alive");
        }
    }
    let (echoed, unknown) = (echo.echoed, echo.unknown());
    say!("bare_metal_follows_leader_after_leader: {echoed} echoed, {unknown} unknown");
    assert!(unknown as u64 <= KILLS * IN_FLIGHT as u64, "{unknown}");
    assert_eq!(echoed + unknown as u64, KILLS * ROUND + 50);
    echo.session.close(PATIENCE).expect("the session closes");
}

/// Of two sessions that have nothing to send one says that it lives, and stays; the other one does
/// not, and is told that it is closed.
#[test]
fn bare_metal_closes_who_is_silent_and_nobody_else() {
    let _turn = turn();
    let (mut machines, client, leader) = machines();
    let style = IngressStyle::default();
    let mut alive = client.connect(&style, leader).expect("a session");
    let mut silent = client.connect(&style, leader).expect("another session");
    let began = Instant::now();
    let mut closed = None;
    while closed.is_none() || began.elapsed() < 2 * SESSION_TIMEOUT {
        assert_eq!(alive.poll().expect("it stays open"), []);
        if closed.is_none() {
            let arrivals = silent.listen().expect("a poll");
            closed = arrivals.contains(&Arrival::Closed).then(|| began.elapsed());
        }
        assert!(began.elapsed() < PATIENCE, "nobody closed the session");
        std::thread::sleep(Duration::from_millis(5));
    }
    say!("bare_metal: the silent session was closed after {closed:?}");
    let mut echo = Echo::new(alive);
    echo.longest = MESSAGE_MAX;
    echo.run(200, &mut machines)
        .expect("every message and its echo");
    assert_eq!((echo.echoed, echo.unknown()), (200, 0));
    echo.session.close(PATIENCE).expect("the session closes");
}

/// The network loses two frames in a hundred, doubles two, and each is up to 2 ms late: between the
/// machines as between them and the driver.
#[test]
fn bare_metal_over_loss() {
    const MESSAGES: u64 = 2_000;
    let _turn = turn();
    let (mut machines, client, leader) = machines();
    let session = client
        .connect(&IngressStyle::default(), leader)
        .expect("a session");
    let mut echo = Echo::new(session);
    echo.longest = MESSAGE_MAX;
    machines.set_faults(20, 20, 2).expect("a bad network");
    echo.run(MESSAGES, &mut machines)
        .expect("every message and its echo");
    machines.set_faults(0, 0, 0).expect("a good network");
    let (echoed, unknown) = (echo.echoed, echo.unknown());
    let leaders = 1 + echo.session.state().new_leaders as usize;
    say!("bare_metal_over_loss: {echoed} echoed, {unknown} unknown, {leaders} leaders");
    assert!(unknown <= (leaders - 1) * IN_FLIGHT, "{unknown} unknown");
    assert_eq!(echoed + unknown as u64, MESSAGES);
    echo.session.close(PATIENCE).expect("the session closes");
    machines.await_level(PATIENCE).expect("all members level");
}
