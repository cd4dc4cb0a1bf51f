//! A leader among followers that say how they are.

extern crate std;

use super::*;
use crate::raft::tests::{ack, ask, at, canvass, id, leader, persist, tail, vote};
use crate::raft::{Owed, TransferError};
use crate::units::{Mark, Term};
use crate::wire::member::{AppendPosition, TransferLeadership};
use crate::wire::status::Role;

const LIMIT: u64 = 800;

const SLOW_DISK: Ages = Ages {
    flush_ms: LIMIT as u32,
    service_ms: 0,
};
const STUCK_SERVICE: Ages = Ages {
    flush_ms: 0,
    service_ms: LIMIT as u32,
};

/// A leader of three since some 100 ms, that has everything committed.
fn well_led() -> Raft {
    let mut raft = leader(tail(0, 0), 96);
    raft.handle_durable(Mark {
        term: raft.term(),
        position: Position::new(96),
    });
    raft
}

/// What a follower says from 450 to `until`, every 50 ms; then what became of `own`.
fn after(raft: &mut Raft, said: [AppendPosition; 2], until: u64, own: Ages) -> Option<MemberId> {
    for ms in (450..=until).step_by(50) {
        for (n, said) in said.iter().enumerate() {
            let term = raft.term();
            let round = ms;
            let said = AppendPosition {
                term,
                round,
                ..*said
            };
            raft.handle_append(at(ms), id(n as u8 + 1), &said, true);
        }
        raft.handle_timeout(at(ms));
    }
    raft.hand_over_if_unwell(at(until), own)
}

fn sick(flush_age_ms: u32, service_age_ms: u32) -> AppendPosition {
    AppendPosition {
        flush_age_ms,
        service_age_ms,
        ..ack(1, 96)
    }
}

#[test]
fn a_leader_whose_disk_stands_still_hands_over_to_one_of_a_quorum_that_is_well() {
    let well = [ack(1, 96), sick(20, 20)];
    for own in [SLOW_DISK, STUCK_SERVICE] {
        let mut raft = well_led();
        assert_eq!(after(&mut raft, well, 700, own), None, "it is too new");
        let mut raft = well_led();
        assert_eq!(after(&mut raft, well, 1_300, Ages::default()), None);
        assert_eq!(after(&mut raft, well, 1_300, own), Some(id(2)));
        assert!(!raft.admits() && raft.is_resting(at(1_300)));
        assert_eq!(raft.hand_over_if_unwell(at(1_300), own), None);
    }
}

#[test]
fn a_leader_with_a_slow_disk_stays_where_no_quorum_is_better_off() {
    for (said, why) in [
        ([ack(1, 96), sick(400, 0)], "a quorum needs both disks"),
        ([sick(900, 0), sick(900, 0)], "all share a slow storage"),
    ] {
        assert_eq!(
            after(&mut well_led(), said, 1_300, SLOW_DISK),
            None,
            "{why}"
        );
    }
    // Its disk is as good as any: one other that is well is enough.
    let said = [ack(1, 96), sick(0, 900)];
    assert_eq!(
        after(&mut well_led(), said, 1_300, STUCK_SERVICE),
        Some(id(1))
    );
    let all = [sick(0, 400), sick(0, 900)];
    assert_eq!(after(&mut well_led(), all, 1_300, STUCK_SERVICE), None);
    let mut never = well_led();
    never.timing.sick_after = Duration::ZERO;
    let well = [ack(1, 96), ack(1, 96)];
    assert_eq!(
        after(&mut never, well, 1_300, SLOW_DISK),
        None,
        "switched off"
    );
}

#[test]
fn an_acknowledgement_that_leaves_when_a_flush_has_ended_does_not_hide_that_it_was_slow() {
    let mut raft = well_led();
    after(
        &mut raft,
        [sick(700, 0), sick(700, 0)],
        1_300,
        Ages::default(),
    );
    let term = raft.term();
    for n in [1, 2] {
        let said = AppendPosition {
            term,
            round: 1_300,
            ..ack(1, 96)
        };
        raft.handle_append(at(1_310), id(n), &said, true);
    }
    assert_eq!(raft.hand_over_if_unwell(at(1_320), SLOW_DISK), None);
}

#[test]
fn who_is_behind_unheard_resting_or_quarantined_is_no_heir() {
    let resting = AppendPosition {
        resting: true,
        ..ack(1, 96)
    };
    let quarantined = AppendPosition {
        quarantined: true,
        ..ack(1, 96)
    };
    let behind = ack(1, 0);
    for no_heir in [resting, quarantined, behind] {
        let mut raft = well_led();
        raft.handle_append(at(401), id(2), &ack(raft.term().get(), 96), true);
        assert_eq!(raft.commit(), Position::new(96));
        let said = [no_heir, no_heir];
        let heir = after(&mut raft, [no_heir, ack(1, 96)], 1_300, SLOW_DISK);
        assert_eq!(heir, Some(id(2)), "the disk of {no_heir:?} is good");
        let none = after(&mut well_led(), said, 1_300, SLOW_DISK);
        assert!(none.is_none() || no_heir == behind, "{no_heir:?}");
    }
    let mut raft = well_led();
    assert_eq!(
        after(&mut raft, [ack(1, 96); 2], 1_300, Ages::default()),
        None
    );
    assert_eq!(
        raft.hand_over_if_unwell(at(1_800), SLOW_DISK),
        None,
        "unheard"
    );
    let term = raft.term();
    let said = AppendPosition {
        term,
        round: 2_000,
        ..quarantined
    };
    raft.handle_append(at(1_800), id(1), &said, true);
    assert_eq!(
        raft.transfer(at(1_800), id(1)),
        Err(TransferError::BadTarget)
    );
}

#[test]
fn rests_double_and_are_forgotten_after_as_long_in_health() {
    let mut raft = well_led();
    let first = u64::from(REST_FIRST) * LIMIT;
    let mut now = 2_000;
    for times in 0..4 {
        raft.rest(at(now));
        let length = first << times;
        assert!(raft.is_resting(at(now + length - 1)) && !raft.is_resting(at(now + length)));
        now += length;
    }
    for _ in 0..10 {
        raft.rest(at(now));
    }
    let most = first << DOUBLINGS_MAX;
    assert!(raft.is_resting(at(now + most - 1)) && !raft.is_resting(at(now + most)));
    raft.rest(at(now + 2 * most));
    assert!(
        !raft.is_resting(at(now + 2 * most + first)),
        "it starts anew"
    );
}

fn owed(raft: &mut Raft, ms: u64) -> std::vec::Vec<(MemberId, Owed)> {
    core::iter::from_fn(|| raft.poll_owed(at(ms), Position::ZERO)).collect()
}

#[test]
fn a_leader_that_must_not_lead_hands_over_at_once() {
    let mut raft = well_led();
    let term = raft.term().get();
    raft.handle_append(at(401), id(1), &ack(term, 96), true);
    raft.set_unfit(at(402), true);
    assert!(!raft.admits() && !raft.hears_leader(at(402)));
    assert!(owed(&mut raft, 403).contains(&(id(1), Owed::Transfer)));
}

#[test]
fn a_leader_that_must_not_lead_and_has_no_heir_resigns_and_follows() {
    let mut raft = well_led();
    let term = raft.term().get();
    let quarantined = AppendPosition {
        quarantined: true,
        ..ack(term, 96)
    };
    raft.handle_append(at(401), id(1), &quarantined, true);
    raft.set_unfit(at(402), true);
    raft.handle_timeout(at(402));
    let mut said = owed(&mut raft, 403);
    said.retain(|(_, owed)| *owed != Owed::Canvass);
    assert_eq!(said, [(id(1), Owed::Resign), (id(2), Owed::Resign)]);
    raft.handle_timeout(at(404));
    assert_eq!(raft.role(), Role::Follower);
    // It votes, and does not stand.
    for ms in 405..3_000 {
        raft.handle_canvass(at(ms), id(1), &canvass(tail(0, 0), false));
        raft.handle_timeout(at(ms));
        persist(&mut raft);
    }
    assert_eq!(raft.term(), Term::new(term));
    raft.handle_request_vote(at(3_000), id(1), &ask(term + 1, raft.tail));
    persist(&mut raft);
    let granted = Owed::Vote {
        candidate: id(1),
        granted: true,
    };
    assert!(owed(&mut raft, 3_001).contains(&(id(1), granted)));
}

#[test]
fn a_candidate_that_must_not_lead_stands_no_more_and_takes_no_transfer() {
    let mut raft = crate::raft::tests::member(0, 3, tail(1, 64));
    raft.handle_canvass(at(1), id(1), &canvass(tail(1, 64), false));
    let mut ms = 2;
    while raft.role() != Role::Candidate {
        raft.handle_timeout(at(ms));
        ms += 1;
    }
    persist(&mut raft);
    let term = raft.term().get();
    raft.set_unfit(at(ms), true);
    raft.handle_vote(at(ms), id(1), &vote(term, 0, true));
    assert_eq!(raft.role(), Role::Follower);
    let next = Term::new(term + 1);
    assert!(raft.observe_leader(at(ms), next, id(1)));
    persist(&mut raft);
    raft.join(at(ms), next, id(1));
    let target = id(0);
    let said = TransferLeadership { term: next, target };
    raft.handle_transfer(at(ms), id(1), &said);
    assert_eq!(raft.term(), next);
    raft.set_unfit(at(ms), false);
    raft.handle_transfer(at(ms), id(1), &said);
    assert_eq!(raft.role(), Role::Candidate);
}
