//! The life of a session, one story each.

use super::std::string::ToString;
use super::std::vec;
use super::std::vec::Vec;
use core::time::Duration;

use super::member::{SESSION, Script, address};
use super::*;
use crate::units::Term;
use crate::wire::cluster::EventCode;

pub const SECOND: Duration = Duration::from_secs(1);

fn member(id: u8) -> MemberId {
    MemberId::new(id).unwrap()
}

fn echo(world: &mut World, messages: &[Vec<u8>], time: Duration) {
    let before = world.answers().len();
    let mut waiting = messages.iter().peekable();
    let end = world.now.plus(time);
    while world.answers().len() < before + messages.len() && world.now < end {
        while let Some(message) = waiting.peek() {
            match world.offer(message) {
                Ok(_) => waiting.next(),
                Err(OfferError::BackPressured) => break,
                Err(error) => panic!("{error:?} in {:?}", world.client.state()),
            };
        }
        world.turn();
        world.advance();
    }
    let answers = world.answers();
    assert!(
        answers[before..] == *messages,
        "{} of {}",
        answers.len() - before,
        messages.len()
    );
}

pub fn messages(seed: u64, count: usize, longest: u64) -> Vec<Vec<u8>> {
    let mut prng = Prng::new(seed);
    (0..count)
        .map(|_| {
            let bound = 1 + prng.below(longest);
            (0..=prng.below(bound)).map(|_| prng.next() as u8).collect()
        })
        .collect()
}

#[test]
fn a_session_opens_wherever_the_leader_is_and_messages_of_all_sizes_come_back() {
    for seed in 0..6 {
        let leader = (seed % 3) as u8;
        let mut scripts = [Script::Redirect(Some(leader)); 3];
        scripts[usize::from(leader)] = Script::Lead;
        let mut world = World::new(seed, scripts);
        world.lose = if seed > 2 { 10 } else { 0 };
        world.open();
        let State::Open {
            session, leader: l, ..
        } = world.client.state()
        else {
            panic!()
        };
        assert_eq!((session, l), (SESSION, member(leader)));
        // Who was asked in vain is told that nobody listens any more.
        world.run(Duration::from_millis(20), |_| false);
        let connected = world.members.iter().filter_map(|m| m.egress.as_ref());
        let count = connected.filter(|egress| egress.is_connected()).count();
        assert!(count == 1 || world.lose > 0);
        echo(&mut world, &messages(seed, 60, 64 * 1024), SECOND * 120);
    }
}

#[test]
fn dead_members_are_passed_over_and_names_are_looked_up() {
    for seed in 0..6 {
        let mut config = ClientConfig::new(
            "aeron:udp?endpoint=192.0.2.100:7000",
            "0=zero.example:9000,1=one.example:9000,2=unknown.example:9000",
            seed,
        )
        .unwrap();
        config.timing.connect = Duration::from_millis(300);
        let scripts = [Script::Lead, Script::Dead, Script::Dead];
        let mut world = World::with(config, scripts, Memory::new(65_536, 65_536, 65_536));
        world.names = vec![
            ("zero.example:9000", address(0)),
            ("one.example:9000", address(1)),
        ];
        world.open();
        echo(&mut world, &messages(seed, 5, 100), SECOND * 5);
    }
}

#[test]
fn redirects_in_circles_are_slowed_down_and_end() {
    let mut config =
        ClientConfig::new("aeron:udp?endpoint=192.0.2.100:7000", ENDPOINTS, 1).unwrap();
    config.timing.open = SECOND * 2;
    let circle = [Some(1), Some(2), Some(0)].map(Script::Redirect);
    let mut world = World::with(config, circle, Memory::new(65_536, 65_536, 65_536));
    // In the pause after a round, nobody who was asked keeps a stream to us.
    let pauses = |w: &World| w.client.retry_at.is_some_and(|at| at > w.now);
    assert!(world.run(SECOND, pauses));
    world.run(Duration::from_millis(5), |_| false);
    let mut streams = world.members.iter().filter_map(|m| m.egress.as_ref());
    assert!(streams.all(|egress| !egress.is_connected()));
    let is_over = world.run(SECOND * 10, |w| {
        matches!(w.client.state(), State::Closed(_))
    });
    assert!(is_over);
    assert_eq!(world.client.state(), State::Closed(ClosedReason::NoAnswer));
    let asked: usize = world.members.iter().map(|m| m.heard.len()).sum();
    assert!((10..400).contains(&asked), "{asked}");
}

#[test]
fn a_member_that_knows_no_leader_or_says_nothing_is_left_for_the_next() {
    let scripts = [Script::Redirect(None), Script::Silent, Script::Lead];
    for seed in 0..6 {
        let mut world = World::new(seed, scripts);
        world.open();
        assert_eq!(world.client.state().session(), Some(SESSION));
    }
}

#[test]
fn a_reply_to_another_request_opens_nothing() {
    let mut config =
        ClientConfig::new("aeron:udp?endpoint=192.0.2.100:7000", ENDPOINTS, 0).unwrap();
    config.timing.reply = SECOND * 5;
    let memory = Memory::new(65_536, 65_536, 65_536);
    let mut world = World::with(config, [Script::Silent; 3], memory);
    let asks = |w: &World| w.members.iter().any(|m| m.egress.is_some());
    assert!(world.run(SECOND, asks));
    let State::AwaitingReply {
        member,
        correlation,
    } = world.client.state()
    else {
        panic!()
    };
    let id = member.get();
    let list = world.members[0].endpoints.clone();
    world.members[member.slot()].event(correlation ^ 1, EventCode::Ok, Some(id), &list);
    world.run(SECOND, |_| false);
    let waiting = State::AwaitingReply {
        member,
        correlation,
    };
    assert_eq!(world.client.state(), waiting);
    world.members[member.slot()].event(correlation, EventCode::Ok, Some(id), &list);
    world.open();
}

#[test]
fn a_member_that_refuses_the_stream_is_left_at_once() {
    for seed in 0..6 {
        let refuse = Script::RefuseStream;
        let mut world = World::new(seed, [refuse, refuse, Script::Lead]);
        let is_open = world.run(Duration::from_millis(50), |w| {
            w.client.state().term().is_some()
        });
        assert!(is_open, "{:?}", world.events);
    }
}

#[test]
fn a_challenge_is_answered_by_configuration_or_by_the_application() {
    let mut config =
        ClientConfig::new("aeron:udp?endpoint=192.0.2.100:7000", ENDPOINTS, 1).unwrap();
    let by_hand = config.clone();
    config.challenge_credentials = heapless::Vec::from_slice(b"open sesame").ok();
    let memory = || Memory::new(65_536, 65_536, 65_536);
    let mut world = World::with(config, [Script::Challenge; 3], memory());
    world.open();

    for (credentials, is_right) in [(&b"open sesame"[..], true), (b"open", false)] {
        let mut world = World::with(by_hand.clone(), [Script::Challenge; 3], memory());
        assert!(world.run(SECOND * 5, |w| !w.client.challenge().is_empty()));
        assert_eq!(world.client.challenge(), b"who goes there?");
        let now = world.now;
        assert!(
            world
                .client
                .respond(now, credentials, &mut world.memory.lent())
        );
        assert!(
            !world
                .client
                .respond(now, credentials, &mut world.memory.lent())
        );
        world.run(SECOND, |w| {
            matches!(w.client.state(), State::Open { .. } | State::Closed(_))
        });
        match world.client.state() {
            State::Open { .. } => assert!(is_right),
            state => {
                assert!(!is_right);
                assert_eq!(state, State::Closed(ClosedReason::AuthenticationRejected));
            }
        }
    }
}

#[test]
fn a_refusal_is_kept_in_the_clusters_words() {
    let mut world = World::new(1, [Script::Refuse(EventCode::Error); 3]);
    assert!(world.run(SECOND * 5, |w| matches!(w.client.state(), State::Closed(_))));
    assert_eq!(world.client.state(), State::Closed(ClosedReason::Rejected));
    assert_eq!(world.client.detail(), "too many sessions");
    assert_eq!(world.offer(b"x"), Err(OfferError::Closed));
}

#[test]
fn an_idle_session_is_kept_alive_each_second() {
    let mut world = World::new(0, [Script::Redirect(Some(1)), Script::Lead, Script::Dead]);
    world.open();
    world.run(SECOND * 10, |_| false);
    let alive = world.members[1]
        .heard
        .iter()
        .filter(|h| *h == "keep-alive")
        .count();
    assert!((9..=11).contains(&alive), "{alive}");
    assert!(matches!(world.client.state(), State::Open { .. }));
}

#[test]
fn a_new_leader_takes_the_session_over_and_nothing_is_sent_twice() {
    for seed in 0..4 {
        let mut world = World::new(
            seed,
            [Script::Lead, Script::Redirect(Some(0)), Script::Dead],
        );
        world.lose = if seed > 1 { 10 } else { 0 };
        world.open();
        echo(&mut world, &messages(seed, 20, 4000), SECOND * 20);
        // Three messages reach the old leader and are not answered; then it is gone.
        world.members[0].is_mute = true;
        for n in 0..3 {
            let offered = world.offer(&[n; 10]).unwrap();
            assert_eq!(offered.term, Term::new(3));
        }
        world.run(SECOND, |_| false);
        world.members[0].script = Script::Dead;
        let now = world.now;
        world.members[1].lead(now, 4, client_address());
        assert!(world.run(SECOND * 5, |w| w.said.contains(&Said::NewLeader(4, 1))));
        world.open();
        assert_eq!(world.client.state().term(), Some(Term::new(4)));
        echo(&mut world, &messages(seed + 50, 20, 4000), SECOND * 20);
        assert_eq!(world.members[1].messages, messages(seed + 50, 20, 4000));
        assert!(world.members[1].heard.contains(&"keep-alive".to_string()));
        let new = Event::NewLeader {
            term: Term::new(4),
            leader: member(1),
        };
        assert!(world.events.contains(&new));
    }
}

#[test]
fn after_the_new_leader_the_old_one_is_not_heard() {
    let mut world = World::new(0, [Script::Lead, Script::Dead, Script::Dead]);
    world.open();
    let now = world.now;
    world.members[1].lead(now, 4, client_address());
    world.members[0].say(b"before");
    assert!(world.run(SECOND, |w| w.said.len() == 2), "{:?}", world.said);
    world.members[0].say(b"after");
    world.run(SECOND * 3, |_| false);
    let expected = [Said::Message(3, b"before".to_vec()), Said::NewLeader(4, 1)];
    assert_eq!(world.said, expected);
    assert!(!world.members[0].heard.contains(&"send setup".to_string()));
    // An older leadership, late, changes nothing either.
    let now = world.now;
    world.members[2].lead(now, 4, client_address());
    world.run(SECOND * 2, |_| false);
    assert_eq!(world.said, expected);
    echo(&mut world, &messages(1, 5, 100), SECOND);
}

#[test]
fn what_the_old_leader_has_said_comes_before_the_new_one() {
    for payload in [b"short".to_vec(), vec![8; 5000]] {
        let mut world = World::new(0, [Script::Lead, Script::Dead, Script::Dead]);
        world.open();
        world.reads = false;
        let now = world.now;
        world.members[1].lead(now, 4, client_address());
        world.run(SECOND, |_| false);
        world.members[0].say(&payload);
        world.run(SECOND, |_| false);
        world.reads = true;
        world.run(SECOND, |_| false);
        assert_eq!(
            world.said,
            [Said::Message(3, payload), Said::NewLeader(4, 1)]
        );
    }
}

#[test]
fn a_stream_that_is_not_the_leaders_is_not_heard() {
    let mut world = World::new(0, [Script::Lead, Script::Dead, Script::Dead]);
    world.open();
    let now = world.now;
    world.members[1].script = Script::Lead;
    world.members[1].open_egress(now, client_address());
    world.members[1].say(b"psst");
    world.members[1].event(0, EventCode::Closed, None, "psst");
    world.run(SECOND, |_| false);
    assert!(world.members[1].egress.as_ref().unwrap().is_drained());
    assert_eq!(world.said, []);
    assert!(matches!(world.client.state(), State::Open { .. }));
}

#[test]
fn without_a_new_leader_the_session_waits_and_then_is_over() {
    let mut world = World::new(0, [Script::Lead, Script::Dead, Script::Dead]);
    world.open();
    world.members[0].script = Script::Dead;
    let waits = |w: &World| matches!(w.client.state(), State::AwaitingNewLeader { .. });
    assert!(world.run(SECOND * 6, waits));
    assert_eq!(world.offer(b"x"), Err(OfferError::NotConnected));
    assert!(world.run(SECOND * 3, |w| matches!(w.client.state(), State::Closed(_))));
    assert_eq!(world.client.state(), State::Closed(ClosedReason::NoLeader));
    assert_eq!(world.client.poll_timeout(), None);
}

#[test]
fn a_leader_that_comes_back_in_time_goes_on() {
    let mut world = World::new(0, [Script::Lead, Script::Dead, Script::Dead]);
    world.members[0].is_mute = true;
    world.open();
    world.members[0].script = Script::Dead;
    let waits = |w: &World| matches!(w.client.state(), State::AwaitingNewLeader { .. });
    world.offer(b"on its way").unwrap();
    assert!(world.run(SECOND * 6, waits));
    world.members[0].script = Script::Lead;
    world.open();
    assert!(world.events.contains(&Event::Reconnected));
    assert!(world.run(SECOND, |w| w.members[0].messages == [b"on its way"]));
}

#[test]
fn the_cluster_may_close_a_session() {
    let mut world = World::new(0, [Script::Lead, Script::Dead, Script::Dead]);
    world.open();
    world.members[0].event(0, EventCode::Error, Some(0), "careful");
    world.members[0].event(0, EventCode::Closed, Some(0), "timed out");
    assert!(world.run(SECOND, |w| matches!(w.client.state(), State::Closed(_))));
    assert_eq!(world.client.state(), State::Closed(ClosedReason::ByCluster));
    assert!(world.events.contains(&Event::Error));
    assert_eq!(world.client.detail(), "timed out");
}

#[test]
fn a_client_that_closes_says_so_after_its_last_message() {
    let mut world = World::new(0, [Script::Lead, Script::Dead, Script::Dead]);
    world.open();
    world.offer(b"last").unwrap();
    let now = world.now;
    world.client.close(now, &mut world.memory.lent());
    assert_eq!(world.client.state(), State::Closing);
    assert_eq!(world.offer(b"too late"), Err(OfferError::Closed));
    world.run(SECOND * 2, |_| false);
    assert_eq!(world.client.state(), State::Closed(ClosedReason::ByClient));
    assert_eq!(world.members[0].messages, [b"last"]);
    let heard = &world.members[0].heard;
    assert!(
        heard.starts_with(&["connect".to_string(), "close".to_string()]),
        "{heard:?}"
    );
    assert!(heard.contains(&"end".to_string()), "{heard:?}");
    let egress = world.members[0].egress.as_ref().unwrap();
    assert!(!egress.is_connected());
}

#[test]
fn a_stalled_cluster_presses_back_and_nothing_accepted_is_lost() {
    let mut world = World::new(0, [Script::Lead, Script::Dead, Script::Dead]);
    world.open();
    world.members[0].is_stalled = true;
    let mut accepted = 0;
    let error = loop {
        match world.offer(&[accepted as u8; 5000]) {
            Ok(_) => accepted += 1,
            Err(error) => break error,
        }
        world.turn();
        world.advance();
    };
    assert_eq!(error, OfferError::BackPressured);
    world.run(SECOND * 4, |_| false);
    assert_eq!(world.offer(&[0; 5000]), Err(OfferError::BackPressured));
    assert!(world.client.pending() > 100_000);
    let too_long = vec![0; world.client.message_max() + 1];
    assert_eq!(world.offer(&too_long), Err(OfferError::TooLong));
    world.members[0].is_stalled = false;
    assert!(world.run(SECOND * 20, |w| w.answers().len() == accepted));
    assert!(
        world.members[0]
            .messages
            .iter()
            .enumerate()
            .all(|(n, m)| m[0] == n as u8)
    );
}

#[test]
fn less_than_16_kib_is_enough() {
    let mut config =
        ClientConfig::new("aeron:udp?endpoint=192.0.2.100:7000", ENDPOINTS, 3).unwrap();
    config.segment_length = 1 << 16;
    config.mtu = 512;
    let memory = Memory {
        ingress: vec![0; slot_len(2048, 512)],
        egress: vec![0; EGRESS_IMAGES * slot_len(2048, 1408)],
        assembly: vec![0; 2048],
    };
    let lent = memory.ingress.len() + memory.egress.len() + memory.assembly.len();
    assert!(lent < 12 * 1024);
    assert!(size_of::<Client>() < 5 * 1024);
    let mut world = World::with(config, [Script::Lead, Script::Dead, Script::Dead], memory);
    world.lose = 5;
    world.open();
    echo(&mut world, &messages(3, 200, 1800), SECOND * 100);
    assert_eq!(world.client.message_max(), 4 * 480 - 32);
}

#[test]
fn hostile_datagrams_do_no_harm() {
    for seed in 0..20 {
        let mut world = World::new(seed, [Script::Lead, Script::Dead, Script::Dead]);
        let mut prng = Prng::new(seed);
        world.open();
        let mut sample: Vec<Vec<u8>> = Vec::new();
        for turn in 0..400 {
            let _any = world.offer(&[1; 300]);
            world.turn();
            sample.extend(world.link.values().map(|entry| entry.2.clone()).take(2));
            world.advance();
            let index = prng.below(sample.len().max(1) as u64) as usize;
            let Some(mut bytes) = sample.get(index).cloned() else {
                continue;
            };
            let at = prng.below(bytes.len().min(90) as u64) as usize;
            bytes[at] ^= 1 << prng.below(8);
            let from = if turn % 2 == 0 {
                address(0)
            } else {
                address(9)
            };
            let mut lent = world.memory.lent();
            let _any = world
                .client
                .handle_datagram(world.now, from, &bytes, &mut lent);
            if turn % 100 == 0 {
                sample.clear();
            }
        }
        // Alive or closed, but never stuck: there is always a next moment.
        let is_closed = matches!(world.client.state(), State::Closed(_));
        assert!(is_closed || world.client.poll_timeout().is_some());
    }
}

#[test]
fn bad_configurations_are_refused() {
    let build = |channel: &str, endpoints: &str, memory: &mut Memory| {
        let config = ClientConfig::new(channel, endpoints, 1).unwrap();
        Client::new(Instant::default(), config, &memory.lent()).err()
    };
    let channel = "aeron:udp?endpoint=192.0.2.100:7000";
    let good = || Memory::new(8192, 8192, 0);
    assert_eq!(build(channel, ENDPOINTS, &mut good()), None);
    assert_eq!(
        build("aeron:ipc", ENDPOINTS, &mut good()),
        Some(ClientError::EgressChannel)
    );
    assert_eq!(
        build(channel, "", &mut good()),
        Some(ClientError::IngressEndpoints)
    );
    let mut small = good();
    small.ingress.truncate(2000);
    assert_eq!(
        build(channel, ENDPOINTS, &mut small),
        Some(ClientError::Ingress)
    );
    let mut small = good();
    small.egress.truncate(600);
    assert_eq!(
        build(channel, ENDPOINTS, &mut small),
        Some(ClientError::Egress)
    );
}
