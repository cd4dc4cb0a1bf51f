//! The invariants, named after the paper (Ongaro and Ousterhout, figure 3), and ours. Checked after
//! every call into a member, at the cost of what has changed.
//!
//! The checker keeps ghosts: what a perfect observer would know of every log, vote and commit. It
//! reads bytes with its own parser and never asks one member about another.

use std::collections::BTreeMap;

use coracle_core::log::Log;
use coracle_core::service::Role;
use hashbrown::HashMap;

use super::ghost::{GhostLog, Row};
use super::mind::SERVICES;
use super::model::Model;
use super::plan::Plan;

/// A broken invariant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Which one.
    pub invariant: &'static str,
    /// How.
    pub detail: String,
}

/// Shorthand for the result of every check.
pub type Checked = Result<(), Violation>;

pub(super) fn broken(invariant: &'static str, detail: String) -> Checked {
    Err(Violation { invariant, detail })
}

/// What a member shows after a call.
#[derive(Clone, Copy, Debug)]
pub struct Seen {
    /// The member.
    pub member: u8,
    /// Its role.
    pub role: Role,
    /// The term it has joined; 0 if none.
    pub joined: u32,
    /// Its current term.
    pub term: u32,
    /// Its commit position.
    pub commit: u64,
    /// How far all its services have executed.
    pub applied: u64,
    /// How far each service has, and its digest there.
    pub services: [(u64, u64); SERVICES],
    /// The lowest position that its log was cut to during the call.
    pub cut: Option<u64>,
}

/// Whether the medium of `member` holds `frame` where `row` says.
pub type OnMedium<'a> = &'a dyn Fn(u8, &Row, &[u8]) -> bool;

/// What the checker knows of one member.
#[derive(Clone, Debug, Default)]
pub struct MemberGhost {
    /// Its published log.
    pub log: GhostLog,
    /// The role, term and positions last seen in this life.
    pub(super) last: Option<Seen>,
    /// The highest acknowledgement that left: its term and durable position.
    pub(super) acknowledged: (u32, u64),
    /// The durable position that its storage has reported and that was not cut since.
    pub(super) promised: u64,
    /// How much of the committed log its medium is known to hold.
    on_medium: u64,
    /// The newest durable ballot.
    pub(super) ballot: (u32, Option<u8>),
    /// Whether its directory lets it vote.
    pub(super) votes: bool,
    /// The life of its directory.
    pub(super) incarnation: u64,
    /// The newest leadership of which it has acknowledged a record.
    pub(super) spoke_in: u32,
    /// The highest acknowledgement that left before its directory was emptied.
    last_words: (u32, u64),
}

/// All ghosts.
#[derive(Clone, Debug)]
pub struct Checker {
    members: Vec<MemberGhost>,
    leaders: BTreeMap<u32, u8>,
    places: HashMap<(u64, u32), u64>,
    votes: HashMap<(u8, u32), u8>,
    committed: GhostLog,
    commit_of_term: BTreeMap<u32, u64>,
    /// Sections of snapshots: who completed it first, and its bytes.
    sections: HashMap<(u64, usize), (u8, Vec<u8>)>,
    /// The replicated state that the committed log makes.
    pub model: Model,
    /// Logs that were cut.
    pub truncations: u64,
}

impl Checker {
    /// For the cluster of a plan, with room for `sessions` sessions.
    pub fn new(plan: &Plan, sessions: usize) -> Self {
        let ghost = MemberGhost {
            votes: true,
            ..MemberGhost::default()
        };
        Self {
            members: vec![ghost; plan.members],
            leaders: BTreeMap::new(),
            places: HashMap::new(),
            votes: HashMap::new(),
            committed: GhostLog::default(),
            commit_of_term: BTreeMap::new(),
            sections: HashMap::new(),
            model: Model::new(sessions, plan.services, plan.services_act),
            truncations: 0,
        }
    }

    /// Has anything been committed by the leader of this term?
    pub fn committed_in(&self, term: u32) -> bool {
        self.commit_of_term.contains_key(&term)
    }

    pub(super) fn committed_bytes(&self, row: &Row) -> &[u8] {
        match row.end <= self.committed.end() {
            true => self.committed.bytes(row.start, row.end),
            false => &[],
        }
    }

    pub(super) fn ghost(&mut self, member: u8) -> &mut MemberGhost {
        &mut self.members[usize::from(member)]
    }

    /// The first candidate that this member has voted for in this term, which may be this one.
    pub(super) fn vote_of(&mut self, member: u8, term: u32, candidate: u8) -> u8 {
        *self.votes.entry((member, term)).or_insert(candidate)
    }

    /// How many terms had a leader.
    pub fn elections(&self) -> u64 {
        self.leaders.len() as u64
    }

    /// The end of the committed log.
    pub fn committed(&self) -> u64 {
        self.committed.end()
    }

    pub(super) fn member(&self, member: u8) -> &MemberGhost {
        &self.members[usize::from(member)]
    }

    /// The frames of a member's log.
    pub fn rows(&self, member: u8) -> &[Row] {
        self.members[usize::from(member)].log.rows()
    }

    /// Is a frame in the log of this member, with all that is below; with `surely`, durable?
    pub fn holds(&self, member: u8, row: &Row, surely: bool) -> bool {
        let ghost = &self.members[usize::from(member)];
        let there = ghost.log.ending_at(row.end);
        there.is_some_and(|there| there.hash == row.hash) && (!surely || ghost.promised >= row.end)
    }

    /// Does this log have what is committed up to `end`?
    pub fn agrees(&self, log: &GhostLog, end: u64) -> bool {
        log.agrees(&self.committed, end)
    }

    /// The committed log up to `end`: what a log that starts there has let go.
    pub fn committed_prefix(&self, end: u64) -> GhostLog {
        GhostLog::prefix(&self.committed, end)
    }

    /// A member has purged what is below `start`: its snapshot holds what comes of that.
    pub fn purged(&mut self, member: u8, start: u64) {
        let ghost = self.ghost(member);
        ghost.on_medium = ghost.on_medium.max(start);
    }

    /// A member's log is replaced by a snapshot, because it is of another history below: what it
    /// had above is nobody's, for what is committed goes on from the snapshot.
    pub fn replaced(&mut self, member: u8, at: u64) {
        let is_other = {
            let log = &self.members[usize::from(member)].log;
            log.end() > at && !self.agrees(log, at)
        };
        if is_other {
            let ghost = self.ghost(member);
            ghost.promised = ghost.promised.min(at);
            ghost.on_medium = ghost.on_medium.min(at);
        }
    }

    /// A member was sent a section of a snapshot.
    ///
    /// # Errors
    /// It is not what any member has written there.
    pub fn installed(&self, member: u8, position: u64, index: usize, bytes: &[u8]) -> Checked {
        let known = self.sections.get(&(position, index));
        if known.is_some_and(|(_, known)| known == bytes) {
            return Ok(());
        }
        let detail = format!("n{member} was sent other bytes as section {index} of {position}");
        broken("Equal Snapshots", detail)
    }

    /// A member has completed a section of a snapshot.
    ///
    /// # Errors
    /// Another member has other bytes at the same position, or nobody asked for a snapshot there.
    pub fn section(&mut self, member: u8, position: u64, index: usize, bytes: &[u8]) -> Checked {
        if !self.model.is_action(position) {
            let detail = format!("n{member} takes a snapshot of {position} unasked");
            return broken("Snapshots Are Actions", detail);
        }
        let entry = self.sections.entry((position, index));
        let (first, other) = entry.or_insert_with(|| (member, bytes.to_vec()));
        if other != bytes {
            let differ = other.iter().zip(bytes).position(|(a, b)| a != b);
            let detail = format!(
                "n{member} and n{first} have different bytes in section {index} of the snapshot of \
                 {position}, from {differ:?} on: {} and {} of them",
                bytes.len(),
                other.len()
            );
            return broken("Equal Snapshots", detail);
        }
        Ok(())
    }

    /// A member starts: its recovered log, read back by the driver, with what was purged of it
    /// below `start`; how much was confirmed to be durable, and its ballot.
    ///
    /// # Errors
    /// A forgotten ballot, or a log that lacks what was reported durable.
    pub fn started(
        &mut self,
        member: u8,
        recovered: GhostLog,
        start: u64,
        confirmed: u64,
        ballot: (u32, Option<u8>),
        votes: bool,
    ) -> Checked {
        let ghost = &mut self.members[usize::from(member)];
        if votes && ballot.0 < ghost.ballot.0 {
            let detail = format!(
                "n{member} had {:?} on disk, starts with {ballot:?}",
                ghost.ballot
            );
            return broken("Terms Never Forgotten", detail);
        }
        if votes && ballot.0 == ghost.ballot.0 && ghost.ballot.1.is_some() && ballot != ghost.ballot
        {
            let detail = format!(
                "n{member} had {:?} on disk, starts with {ballot:?}",
                ghost.ballot
            );
            return broken("Votes Never Forgotten", detail);
        }
        if votes && recovered.end() < ghost.promised {
            let detail = format!(
                "n{member} reported {} durable and starts with {}",
                ghost.promised,
                recovered.end()
            );
            return broken("Durable Survives", detail);
        }
        ghost.last = None;
        ghost.acknowledged = (0, 0);
        ghost.ballot = ballot;
        // Once admitted, a directory counts, whatever its node state has been told of it.
        ghost.votes |= votes;
        // What a slot on the disk confirms may be acknowledged again at once.
        ghost.promised = ghost.promised.max(confirmed);
        // What was purged is in a snapshot.
        ghost.on_medium = start;
        ghost.log = recovered;
        self.note_places(member, 0)
    }

    /// The newest slot of a member says which leadership it had joined last.
    ///
    /// # Errors
    /// It has acknowledged in a later one: damaged, it would count for less than it has promised.
    pub fn joined(&self, member: u8, joined: u32) -> Checked {
        let spoke_in = self.members[usize::from(member)].spoke_in;
        if joined >= spoke_in {
            return Ok(());
        }
        let detail = format!("n{member} acknowledged in t{spoke_in}, its slot says t{joined}");
        broken("Joins Never Forgotten", detail)
    }

    /// A member's directory has been emptied: nothing that it promised holds any longer.
    pub fn wiped(&mut self, member: u8) {
        let ghost = &mut self.members[usize::from(member)];
        if ghost.votes {
            ghost.last_words = ghost.acknowledged;
        }
        ghost.votes = false;
        self.votes.retain(|(voter, _), _| *voter != member);
        let ghost = &mut self.members[usize::from(member)];
        ghost.promised = 0;
        ghost.spoke_in = 0;
        ghost.on_medium = 0;
        ghost.ballot = (0, None);
        ghost.log = GhostLog::default();
    }

    /// Everything there is to check after a call into a member.
    ///
    /// # Errors
    /// The first broken invariant.
    pub fn observe(&mut self, seen: &Seen, log: &impl Log, on_medium: OnMedium<'_>) -> Checked {
        self.check_cut(seen)?;
        self.follow_log(seen, log)?;
        let before = self.members[usize::from(seen.member)].last;
        if before.is_none_or(|b| b.role != seen.role || b.joined != seen.joined) {
            self.check_leader(seen)?;
        }
        self.check_monotone(seen, before)?;
        if before.is_none_or(|b| b.commit != seen.commit) {
            self.check_commit(seen, on_medium)?;
        }
        if before.is_none_or(|b| b.services != seen.services) {
            self.check_applied(seen)?;
        }
        self.members[usize::from(seen.member)].last = Some(*seen);
        Ok(())
    }

    pub(super) fn check_cut(&mut self, seen: &Seen) -> Checked {
        let Some(cut) = seen.cut else {
            return Ok(());
        };
        let ghost = &mut self.members[usize::from(seen.member)];
        if cut >= ghost.log.end() {
            return Ok(());
        }
        self.truncations += 1;
        let Some(before) = ghost.last else {
            ghost.promised = ghost.promised.min(cut);
            ghost.log.truncate(cut);
            return Ok(());
        };
        let member = seen.member;
        if cut < before.commit.max(seen.commit) {
            let detail = format!("n{member} cut to {cut}, committed {}", before.commit);
            return broken("No Truncation Below Commit", detail);
        }
        if before.role == Role::Leader && seen.role == Role::Leader && before.joined == seen.joined
        {
            let detail = format!("n{member} leads t{} and cut to {cut}", seen.joined);
            return broken("Leader Append-Only", detail);
        }
        let (term, durable) = ghost.acknowledged;
        if seen.joined == term && cut < durable {
            let detail = format!("n{member} acknowledged {durable} in t{term} and cut to {cut}");
            return broken("No Truncation Below Acknowledged", detail);
        }
        ghost.promised = ghost.promised.min(cut);
        ghost.on_medium = ghost.on_medium.min(cut);
        if !ghost.log.truncate(cut) {
            return broken(
                "Whole Frames",
                format!("n{member} cut inside a frame, at {cut}"),
            );
        }
        Ok(())
    }

    fn follow_log(&mut self, seen: &Seen, log: &impl Log) -> Checked {
        let member = seen.member;
        let ghost = &mut self.members[usize::from(member)];
        let end = log.end().get();
        if end == ghost.log.end() {
            return Ok(());
        }
        if end < ghost.log.end() {
            let detail = format!("n{member} went from {} to {end} unsaid", ghost.log.end());
            return broken("Log Never Shrinks Silently", detail);
        }
        match ghost.log.follow(log) {
            Ok(first) => self.note_places(member, first),
            Err(at) => broken(
                "Whole Frames",
                format!("n{member} published no frame at {at}"),
            ),
        }
    }

    fn note_places(&mut self, member: u8, first: usize) -> Checked {
        let ghost = &self.members[usize::from(member)];
        for row in &ghost.log.rows()[first..] {
            let hash = *self.places.entry((row.end, row.term)).or_insert(row.hash);
            if hash != row.hash {
                let detail = format!(
                    "n{member} has other bytes than were seen at (t{}, {})",
                    row.term, row.end
                );
                return broken("Log Matching", detail);
            }
        }
        Ok(())
    }

    pub(super) fn check_leader(&mut self, seen: &Seen) -> Checked {
        if seen.role != Role::Leader {
            return Ok(());
        }
        let leader = *self.leaders.entry(seen.joined).or_insert(seen.member);
        if leader != seen.member {
            let detail = format!("n{leader} and n{} both lead t{}", seen.member, seen.joined);
            return broken("Election Safety", detail);
        }
        let earlier = self.commit_of_term.range(..seen.joined);
        let must_have = earlier.map(|(_, position)| *position).max().unwrap_or(0);
        self.check_complete(seen.member, seen.joined, must_have)
    }

    fn check_complete(&self, member: u8, term: u32, must_have: u64) -> Checked {
        let log = &self.members[usize::from(member)].log;
        if log.agrees(&self.committed, must_have) {
            return Ok(());
        }
        let detail = format!(
            "n{member} leads t{term} without all of the {must_have} bytes committed before it (has \
             {})",
            log.end()
        );
        broken("Leader Completeness", detail)
    }

    fn check_monotone(&self, seen: &Seen, before: Option<Seen>) -> Checked {
        let member = seen.member;
        let log = &self.members[usize::from(member)].log;
        let furthest = seen.services.iter().map(|(applied, _)| *applied).max();
        let furthest = furthest.unwrap_or(0).max(seen.applied);
        if furthest > seen.commit {
            let detail = format!("n{member} applied {furthest} of {}", seen.commit);
            return broken("Applied Within Committed", detail);
        }
        if seen.commit > log.end() {
            let detail = format!("n{member} has {} of {} committed", log.end(), seen.commit);
            return broken("Committed Within Log", detail);
        }
        let Some(before) = before else {
            return Ok(());
        };
        let services = before.services.iter().zip(&seen.services);
        let services = services.map(|((was, _), (is, _))| ("applied", *was, *is));
        let positions = [
            ("commit", before.commit, seen.commit),
            ("applied", before.applied, seen.applied),
            ("term", u64::from(before.term), u64::from(seen.term)),
        ];
        for (what, was, is) in positions.into_iter().chain(services) {
            if is < was {
                let detail = format!("n{member}: {what} went from {was} to {is}");
                return broken("Positions And Terms Monotone", detail);
            }
        }
        Ok(())
    }

    pub(super) fn check_commit(&mut self, seen: &Seen, on_medium: OnMedium<'_>) -> Checked {
        let (member, commit) = (seen.member, seen.commit);
        if commit == 0 {
            return Ok(());
        }
        let known = self.committed.end();
        if !self.members[usize::from(member)]
            .log
            .agrees(&self.committed, commit.min(known))
        {
            let detail = format!(
                "n{member} committed other bytes below {}",
                commit.min(known)
            );
            return broken("State Machine Safety", detail);
        }
        if commit <= known {
            return Ok(());
        }
        if seen.role != Role::Leader {
            let detail = format!("n{member} committed {commit} before any leader did");
            return broken("Leaders Commit First", detail);
        }
        let rows: Vec<Row> = self.members[usize::from(member)].log.above(known).to_vec();
        let mut last_term = 0;
        for row in rows.iter().take_while(|r| r.end <= commit) {
            let bytes = self.members[usize::from(member)]
                .log
                .bytes(row.start, row.end);
            self.committed.adopt(*row, bytes);
            last_term = row.term;
        }
        if self.committed.end() != commit || last_term != seen.joined {
            // Raft 5.4.2: only entries of the leader's own term are committed by counting.
            let detail = format!(
                "n{member} leads t{} and committed t{last_term}",
                seen.joined
            );
            return broken("Own Term Commits First", detail);
        }
        self.commit_of_term.insert(seen.joined, commit);
        self.check_quorum(seen, on_medium)?;
        let new = rows.partition_point(|row| row.end <= commit);
        self.note_admitted(&rows[..new]);
        self.check_newer_leaders(seen)?;
        let Self {
            model, committed, ..
        } = self;
        model
            .apply(committed)
            .or_else(|(invariant, detail)| broken(invariant, detail))
    }

    /// Ghost of the media: what a leader has committed is durable on a quorum of voters right now.
    fn check_quorum(&mut self, seen: &Seen, on_medium: OnMedium<'_>) -> Checked {
        let mut holders = 0;
        for (member, ghost) in self.members.iter_mut().enumerate() {
            for row in self.committed.above(ghost.on_medium) {
                if !on_medium(member as u8, row, self.committed.bytes(row.start, row.end)) {
                    break;
                }
                ghost.on_medium = row.end;
            }
            // What a directory held and said before it was emptied was true then, and may arrive
            // late.
            let (term, durable) = ghost.last_words;
            let has = ghost.votes && ghost.on_medium >= seen.commit;
            let had = !ghost.votes && term == seen.joined && durable >= seen.commit;
            holders += usize::from(has || had);
        }
        if holders <= self.members.len() / 2 {
            let detail = format!(
                "n{} committed {} in t{}, durable on {holders} of {} members",
                seen.member,
                seen.commit,
                seen.joined,
                self.members.len()
            );
            return broken("Commit Within Durable Quorum", detail);
        }
        Ok(())
    }

    /// Leader Completeness the other way round: an old leader commits after a newer one was
    /// elected.
    fn check_newer_leaders(&self, seen: &Seen) -> Checked {
        for (member, ghost) in self.members.iter().enumerate() {
            let Some(last) = ghost.last else { continue };
            if last.role == Role::Leader && last.joined > seen.joined {
                self.check_complete(member as u8, last.joined, seen.commit)?;
            }
        }
        Ok(())
    }

    fn check_applied(&self, seen: &Seen) -> Checked {
        let services = seen.services.into_iter().take(self.model.services());
        for (service, (applied, digest)) in services.enumerate() {
            let expected = self.model.digest_at(service, applied);
            if digest != expected {
                let detail = format!(
                    "service {service} of n{} has digest {digest:x} at {applied}, the log makes \
                     {expected:x}",
                    seen.member
                );
                return broken("State Machine Safety", detail);
            }
        }
        Ok(())
    }
}
