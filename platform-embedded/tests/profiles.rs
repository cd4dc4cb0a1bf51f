//! The profiles: how large they are, and that the least of them does all that the others do; and
//! the examples.

mod board;
#[path = "../examples/interlock.rs"]
#[allow(unused_attributes, dead_code, clippy::duplicate_mod)]
mod interlock;
#[path = "../examples/sizes.rs"]
#[allow(unused_attributes, dead_code)]
mod sizes;
#[path = "../examples/telemetry.rs"]
#[allow(unused_attributes, clippy::duplicate_mod)]
mod telemetry;

use board::client::Caller;
use board::trio::{Cluster, SEGMENT, address, endpoints};
use board::{Board, Kind};
use coracle_core::service::{Cluster as Context, OfferError, Outbox, Role, Service, TimerError};
use coracle_core::time::Timestamp;
use coracle_core::units::{MemberId, Position, SessionId};
use coracle_embedded::{Clock, Profile};
use interlock::{Interlock, RESET, SET, SILENCE, TRIP, WATCH};
use telemetry::Telemetry;

fn size(name: &str) -> usize {
    let found = sizes::ALL.iter().find(|(known, _)| *known == name);
    found.expect("it is listed").1
}

#[test]
fn a_tiny_member_leaves_18_of_64_kib_for_its_stack() {
    let tiny = size("CORACLE_TINY_SUPERLOOP") + size("CORACLE_TINY_MEMORY");
    assert!(tiny <= 46 * 1024, "{tiny}");
}

#[test]
fn memory_that_is_too_little_is_not_divided() {
    let profile = Profile::TINY;
    let mut bytes = vec![0; profile.total()];
    assert!(profile.split(&mut bytes[1..]).is_none());
    let memory = profile.split(&mut bytes).expect("it is as much as it says");
    assert_eq!(memory.log.len(), profile.log_window + profile.mtu);
    assert_eq!(memory.datagram.len(), 512);
}

#[test]
fn three_tiny_members_elect_commit_go_round_and_recover() {
    let log_max = 8 * u64::from(SEGMENT);
    let mut cluster = Cluster::of(Profile::TINY, 21, Kind::Flash, log_max);
    let mut caller = Caller::new(cluster.world.clone(), address(8, 20001), endpoints());
    caller.keys = 40;
    caller.limit(Profile::TINY.client_mtu, 300);
    let mut rounds = 0;
    while cluster.committed().get() < 2 * log_max {
        for _ in 0..5_000 {
            cluster.step();
            caller.turn();
        }
        let victim = rounds % 3;
        cluster.cut_power(victim);
        for _ in 0..if rounds % 2 == 0 { 300 } else { 8_000 } {
            cluster.step();
            caller.turn();
        }
        cluster.start(victim);
        cluster.run_until("level", |c| c.is_level() && c.running().count() == 3);
        cluster.assert_has_all(&caller);
        rounds += 1;
        assert!(rounds < 100, "{}", cluster.committed());
    }
}

#[test]
fn a_telemetry_device_sends_to_whoever_leads() {
    let log_max = 8 * u64::from(SEGMENT);
    let mut cluster = Cluster::new(22, Kind::Disk, log_max);
    let own = address(9, 20002);
    cluster.world.borrow_mut().bind(own);
    let mut board = Board {
        world: cluster.world.clone(),
        member: address(9, 20003),
        client: own,
    };
    let (channel, members) = (
        format!("aeron:udp?endpoint={own}").leak(),
        endpoints().leak(),
    );
    let now = board.now().instant;
    let mut device = Telemetry::new(now, channel, members, 7).expect("as configured");
    let mut run = |cluster: &mut Cluster, milliseconds: u32| {
        let mut sent = 0;
        for _ in 0..milliseconds {
            cluster.step();
            device.turn(&mut board).expect("as configured");
            let now = board.now().instant;
            if (now.nanos() / 1_000_000).is_multiple_of(20) {
                sent += u32::from(device.send(now, b"42.1 degrees"));
            }
        }
        assert!(device.is_open());
        sent
    };
    assert!(run(&mut cluster, 5_000) > 150);
    let before = cluster.committed();
    let leader = cluster.leader().unwrap().node().status().member.slot();
    cluster.cut_power(leader);
    assert!(run(&mut cluster, 10_000) > 200);
    assert!(cluster.committed().since(before) > 20_000);
}

/// What a service has sent and armed.
#[derive(Default)]
struct Effects {
    answers: Vec<Vec<u8>>,
    deadline: Option<Timestamp>,
}

impl Outbox for Effects {
    fn offer(&mut self, _: SessionId, parts: &[&[u8]]) -> Result<(), OfferError> {
        self.answers.push(parts.concat());
        Ok(())
    }

    fn close_session(&mut self, _: SessionId) -> Result<(), OfferError> {
        Ok(())
    }

    fn schedule_timer(&mut self, _: i64, deadline: Timestamp) -> Result<(), TimerError> {
        self.deadline = Some(deadline);
        Ok(())
    }
}

#[test]
fn an_interlock_refuses_while_it_is_tripped_and_trips_when_nobody_watches() {
    let mut service = Interlock::new();
    let mut effects = Effects::default();
    let me = MemberId::new(0).unwrap();
    let mut say = |service: &mut Interlock, command: u32, argument: i32| {
        let at = Position::new(64);
        let mut cluster = Context::new(Timestamp(1_000), at, me, Role::Leader, &mut effects);
        let message = [command.to_le_bytes(), argument.to_le_bytes()].concat();
        service.on_session_message(&mut cluster, SessionId::new(at), &message);
        let answer = effects.answers.pop().expect("it is answered");
        answer[0] == 1
    };
    assert!(say(&mut service, SET, 500));
    assert!(!say(&mut service, SET, 1_001), "over the limit");
    assert_eq!(service.output(), Some(500));
    assert!(say(&mut service, TRIP, 3));
    assert_eq!(service.output(), None);
    assert!(!say(&mut service, SET, 1), "while it is tripped");
    assert!(say(&mut service, RESET, 3));
    assert!(say(&mut service, WATCH, 0));
    assert_eq!(service.output(), Some(500));
    assert_eq!(effects.deadline, Some(Timestamp(31_000)));
    let at = Position::new(96);
    let mut cluster = Context::new(Timestamp(31_000), at, me, Role::Leader, &mut effects);
    service.on_timer_event(&mut cluster, 1, Timestamp(31_000));
    assert_eq!(service.output(), None);
    let mut say = |command, argument: i32| {
        let mut cluster = Context::new(Timestamp(31_000), at, me, Role::Leader, &mut effects);
        let message = [u32::to_le_bytes(command), argument.to_le_bytes()].concat();
        service.on_session_message(&mut cluster, SessionId::new(at), &message);
        service.output()
    };
    assert_eq!(say(RESET, SILENCE as i32), Some(500));
}
