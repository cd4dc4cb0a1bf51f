//! Leadership that a member gives up because it is unwell: only to one that is better off, with a
//! quorum that is, and not again before it has rested; and then it does give it up. What others
//! have told a leader, and how its own disk does, is noted here apart from the core, so that the
//! rule is not checked by itself.

use coracle_core::node::{Node, Status};
use coracle_core::raft::Timing;
use coracle_core::units::MemberId;
use coracle_core::wire::frame::DataFrame;
use coracle_core::wire::member::{AppendPosition, Body, MemberMessage};

use super::check::{Checked, broken};
use super::clock::{MILLI, Nanos};
use super::member::SESSIONS;
use super::start::LEADER_TIMEOUT;
use super::stats::Fault;
use super::world::World;

/// The first rest, in so many times `Timing::sick_after`, as the core has it.
const REST_FIRST: u64 = 16;

/// What one process has been told while it led, and done about it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Unwell {
    term: u32,
    told: [Told; 7],
    /// The end of the log when its flushing was last looked at anew, and when that was.
    flush: (u64, Nanos),
    /// Since when its log is full.
    full: Option<Nanos>,
    /// Since when it leads although it should not, and when that was last looked at.
    stays: Option<Nanos>,
    looked: Nanos,
    /// When this process last handed over for that reason, and the end of its rest, how many times
    /// in a row.
    rest: Option<(Nanos, Nanos, u32)>,
}

/// What a member has told a leader.
#[derive(Clone, Copy, Debug, Default)]
struct Told {
    /// In its newest acknowledgement, which came at some time.
    round: u64,
    heard: Option<Nanos>,
    durable: u64,
    /// When it last said that its disk is slow, and that it is no heir for any reason.
    slow: Option<Nanos>,
    unfit: Option<Nanos>,
}

impl Told {
    fn note(&mut self, now: Nanos, ack: &AppendPosition) {
        if ack.round < self.round {
            return;
        }
        (self.round, self.heard, self.durable) = (ack.round, Some(now), ack.durable.get());
        let is_long = |ms: u32| u64::from(ms) * MILLI >= sick_after() / 2;
        if is_long(ack.flush_age_ms) {
            self.slow = Some(now);
        }
        let is_barred = ack.quarantined || ack.resting || !ack.votes;
        if is_barred || is_long(ack.flush_age_ms) || is_long(ack.service_age_ms) {
            self.unfit = Some(now);
        }
    }

    /// It was heard a moment ago, and has not said so for long, by any clock.
    fn is_without(&self, said: Option<Nanos>, now: Nanos) -> bool {
        let patience = LEADER_TIMEOUT.as_nanos() as Nanos * 7 / 10;
        let is_near = self.heard.is_some_and(|at| now - at < patience);
        is_near && said.is_none_or(|at| now - at > 3 * sick_after())
    }
}

fn sick_after() -> Nanos {
    let after = Timing::from_leader_timeout(LEADER_TIMEOUT).sick_after;
    u64::try_from(after.as_nanos()).unwrap_or(Nanos::MAX)
}

impl Unwell {
    fn note(&mut self, now: Nanos, from: usize, ack: &AppendPosition) {
        let term = ack.term.get();
        if self.term != term {
            (self.term, self.told) = (term, Default::default());
        }
        self.told[from].note(now, ack);
    }

    /// Whether a member has told of a slow disk a moment ago, by any clock.
    fn is_slow(&self, now: Nanos, member: usize) -> bool {
        let told = self.told[member].slow.filter(|at| *at < now);
        told.is_some_and(|at| now - at < sick_after() * 8 / 10)
    }

    fn is_resting(&self, now: Nanos, drift: u64) -> bool {
        let margin = |from: Nanos, until: Nanos| (until - from) * 2 * drift / 1_000_000;
        self.rest
            .is_some_and(|(from, until, _)| now + margin(from, until) < until)
    }

    /// It may be resting, by some clock.
    fn may_rest(&self, now: Nanos, drift: u64) -> bool {
        let margin = |from: Nanos, until: Nanos| (until - from) * 2 * drift / 1_000_000;
        self.rest
            .is_some_and(|(from, until, _)| now < until + margin(from, until))
    }

    /// For how long the disk of this process has taken nothing.
    fn watch_disk(&mut self, now: Nanos, status: &Status) -> Nanos {
        let (end, durable) = (status.appended.get(), status.durable.get());
        if durable >= self.flush.0 || end < self.flush.0 {
            self.flush = (end, now);
        }
        self.full = status.log_full.then(|| self.full.unwrap_or(now));
        let unflushed = if durable >= end { now } else { self.flush.1 };
        now - unflushed.min(self.full.unwrap_or(now))
    }

    /// Whether a leader with `node`, of `count` members, is unwell, and has told or heard nothing
    /// that makes it stay.
    fn should_go<const S: usize>(
        &self,
        now: Nanos,
        node: &Node<SESSIONS, S>,
        me: usize,
        disk: Nanos,
    ) -> bool {
        let limit = sick_after() * 5 / 4;
        let count = node.config().member_set().len();
        let service = u64::from(node.status().service_age_ms) * MILLI;
        let others = || (0..count).filter(|m| *m != me).map(|m| &self.told[m]);
        let well = others().filter(|t| t.is_without(t.slow, now)).count();
        let well = well + usize::from(disk < sick_after() / 2);
        let commit = node.commit().get();
        let heir = |t: &Told| t.is_without(t.unfit, now) && t.durable >= commit;
        let is_sick = disk > limit || service > limit;
        self.term == node.joined().get()
            && node.raft().admits()
            && is_sick
            && well > count / 2
            && others().any(heir)
    }

    /// For how many milliseconds it has led although it should not, if that is too long.
    fn stays<const S: usize>(
        &mut self,
        now: Nanos,
        drift: u64,
        node: &Node<SESSIONS, S>,
        me: usize,
    ) -> Option<u64> {
        let disk = self.watch_disk(now, &node.status());
        // A process that was not scheduled could do nothing.
        let is_awake = now - self.looked < LEADER_TIMEOUT.as_nanos() as Nanos / 4;
        self.looked = now;
        let should = is_awake && !self.may_rest(now, drift) && self.should_go(now, node, me, disk);
        let since = self.stays.unwrap_or(now);
        self.stays = should.then_some(since);
        let is_long = now - since >= sick_after() * 3 / 2;
        (should && is_long).then_some((now - since) / MILLI)
    }

    /// Doubles with each time; anew for who was well for as long as it has rested.
    fn begin_rest(&mut self, now: Nanos) {
        let length = |times: u32| sick_after() * (REST_FIRST << times.min(6));
        let times = match self.rest {
            Some((_, until, times)) if now < until + length(times) => times + 1,
            _ => 0,
        };
        self.rest = Some((now, now + length(times), times));
    }
}

impl World {
    /// A member has taken a datagram of another.
    pub(super) fn note_told(&mut self, member: usize, from: usize, bytes: &[u8]) {
        let now = self.now;
        let Some((joined, unwell)) = self.members[member].told() else {
            return;
        };
        let message = DataFrame::parse(bytes).and_then(|f| MemberMessage::parse_frame(&f));
        if let Ok(message) = message
            && let Body::AppendPosition(ack) = &message.body
            && ack.term == joined
            && from < 7
        {
            unwell.note(now, from, ack);
        }
    }

    /// A leader that is unwell, where a quorum and an heir are well, does not go on to lead. Called
    /// after each of its turns.
    pub(super) fn check_stays(&mut self, member: usize) -> Checked {
        let (now, drift) = (self.now, self.plan.drift.max(10_000));
        let m = &mut self.members[member];
        let board = m.board.as_mut().and_then(|b| b.running.as_mut());
        let stays = match (&mut m.process, board) {
            (Some(p), _) => p.unwell.stays(now, drift, &p.node, member),
            (None, Some(r)) => r.unwell.stays(now, drift, r.superloop.node(), member),
            (None, None) => None,
        };
        let Some(ms) = stays else {
            return Ok(());
        };
        let detail = format!("n{member} is unwell, others are not, and it leads for {ms} ms");
        broken("The Unwell Go", detail)
    }

    /// A leader hands over because its disk (for `flush_ms`) or a service stands still.
    pub(super) fn check_hand_over(
        &mut self,
        member: usize,
        to: MemberId,
        flush_ms: u32,
    ) -> Checked {
        self.stats.hand_overs += 1;
        let (now, count) = (self.now, self.members.len());
        let drift = self.plan.drift.max(10_000);
        let heir = usize::from(to.get());
        let rests = |m: usize| {
            let unwell = self.members[m].unwell();
            unwell.is_some_and(|u| u.is_resting(now, drift))
        };
        // Of an heir that has led since, the old leader knows nothing, and nothing comes of it.
        let term = |m: usize| self.members[m].status().map(|status| status.term);
        if rests(member) || rests(heir) && term(heir) <= term(member) {
            let detail = format!("n{member} hands over to n{heir}, and one of them rests");
            return broken("The Unwell Rest", detail);
        }
        let Some((_, unwell)) = self.members[member].told() else {
            return Ok(());
        };
        let is_sick = u64::from(flush_ms) * MILLI >= sick_after();
        let is_slow = |m: usize| match m == member {
            true => is_sick,
            false => unwell.is_slow(now, m),
        };
        let well = (0..count).filter(|m| !is_slow(*m)).count();
        if is_slow(heir) || well <= count / 2 {
            let detail = format!("n{member} hands over to n{heir}, {well} of {count} are well");
            return broken("Handing Over Helps", detail);
        }
        unwell.begin_rest(now);
        self.note(
            member as u8,
            "is unwell",
            u64::from(to.get()),
            flush_ms.into(),
        );
        Ok(())
    }

    /// A disk is slow for a while; or all are, and nobody is better off. Now and then it has no
    /// room for snapshots either, for long enough that the log fills up.
    pub(super) fn slow_disk(&mut self, member: usize, lasts: Nanos) {
        let is_everywhere = self.rng.chance(300_000);
        let is_full = lasts.is_multiple_of(4);
        for slow in 0..self.members.len() {
            if slow == member || is_everywhere {
                self.members[slow].slow_until = self.now + lasts;
                if is_full {
                    self.members[slow].full_until = self.now + 4 * lasts;
                }
                self.stats.count(Fault::SlowFlush);
            }
        }
    }
}
