//! A leader whose settings are not this member's.

use super::*;
use crate::wire::member::Setting;

/// A member with two records of term 1, all of which is committed.
fn follower() -> (Bench, u64) {
    let mut ours = Author::new();
    ours.write(1);
    let end = ours.write(1).get();
    (Bench::new(3, &ours.recovered(1)), end)
}

fn names(bench: &Bench) -> Vec<&'static str> {
    let differing = bench.node.status().settings_differ;
    differing.iter().map(Setting::name).collect()
}

#[test]
fn who_has_other_settings_does_not_join_and_says_once_which() {
    let (mut bench, end) = follower();
    let history = [(1, 0), (2, end)];
    let other = SharedSettings {
        message_max: 2048,
        segment_length: SEGMENT * 2,
        ..bench.settings()
    };
    bench.lead_with(1, 2, &history, (end + 96, end), other);
    bench.lead_with(2, 2, &history, (end + 96, end), other);
    assert_eq!(bench.node.raft().joined(), None);
    let told: Vec<Event> = bench.events();
    let leader = id(1);
    let (own, theirs) = (u64::from(SEGMENT), u64::from(SEGMENT) * 2);
    let segment = Event::SettingDiffers {
        leader,
        setting: Setting::SegmentLength,
        own,
        theirs,
    };
    let message = Event::SettingDiffers {
        leader,
        setting: Setting::MessageMax,
        own: 1024,
        theirs: 2048,
    };
    assert_eq!(told, [segment, message]);
    assert_eq!(names(&bench), ["segment_length", "message_max"]);
    let is_ack = |(_, body): &(SocketAddr, Body)| matches!(body, Body::AppendPosition(_));
    assert!(!bench.said(3).iter().any(is_ack), "it acknowledges nothing");
    // What the leader sends it of its log is not taken either.
    let mut theirs = Author::new();
    (0..3).for_each(|_| _ = theirs.write(1));
    let frames = theirs.bytes(Position::new(end));
    assert_eq!(bench.datagram(4, 1, &frames), Err(Reject::Stale));
    // Another leader has its settings.
    bench.lead(5, 3, &[(1, 0), (3, end)], end + 96, end);
    assert_eq!(bench.node.raft().joined(), Some(term(3)));
    assert!(names(&bench).is_empty());
}

#[test]
fn who_differs_from_a_quorum_stands_for_no_election_until_it_does_not() {
    let (mut bench, end) = follower();
    let other = SharedSettings {
        message_max: 2048,
        ..bench.settings()
    };
    // Nobody follows that leader: nobody knows who is right.
    bench.lead_with(1, 2, &[(1, 0), (2, end)], (end + 96, end), other);
    assert!(!bench.node.raft().is_unfit());
    // A quorum does.
    bench.lead_with(2, 2, &[(1, 0), (2, end)], (end + 96, end + 96), other);
    assert!(bench.node.raft().is_unfit() && !bench.node.is_quarantined());
    (3..5_000).step_by(7).for_each(|ms| bench.timeout(ms));
    assert_eq!(bench.node.raft().term(), term(2), "it has not stood");
    bench.lead(5_000, 3, &[(1, 0), (3, end)], end + 96, end);
    assert!(!bench.node.raft().is_unfit());
    assert_eq!(bench.node.raft().joined(), Some(term(3)));
}

#[test]
fn a_leader_tells_its_own_settings() {
    let mut ours = Author::new();
    ours.write(1);
    let mut bench = Bench::new(3, &ours.recovered(1));
    bench.be_elected();
    let said = bench.said(1_001);
    let told = said.into_iter().find_map(|(_, body)| match body {
        Body::NewLeadershipTerm(said) => Some(said.settings),
        _ => None,
    });
    let expected = SharedSettings {
        segment_length: SEGMENT,
        mtu: MTU as u32,
        message_max: 1024,
        // One of two slots is kept for refusals.
        sessions_max: 1,
        services: 1,
        app_version: App::default().version,
        service_memory: 1 << 16,
        checkpoint_every: 192,
        log_max: 0,
    };
    assert_eq!(told, Some(expected));
}
