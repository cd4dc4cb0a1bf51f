//! Taking snapshots, and starting from one.
//!
//! A committed action makes every member take one at the same position. The consensus module stands
//! still there until its own few bytes are written, each service until it has begun; from then on
//! each writes in steps, and goes on executing. The set is complete when the last service is done:
//! then the consensus section is ended, with the lengths and digests of all others, so that it is
//! the whole set that is sound or not.
//!
//! The consensus section's body:
//! ```text
//! format u32 = 1; roster: at u64, seven times incarnation u64, since u64
//! sessions u32: id i64, correlation i64, response stream u32, opened i64, channel, principal
//! services u32: length u64, digest u64 of each section
//! ```

use core::time::Duration;

use heapless::Vec;

use super::host::{HostMemory, Taking};
use super::{Event, Halt, Lent, Node};
use crate::broken::Broken;
use crate::limits::{CHANNEL_MAX, PRINCIPAL_MAX};
use crate::log::{Log, NoRoom, Roster};
use crate::planted::Planted;
use crate::service::Service;
use crate::session::{Channel, Principal, Request, Session, SessionTable};
use crate::snapshot::{
    Begin, End, Progress, Section, SnapshotError, SnapshotReader, SnapshotSink, SnapshotSource,
    SnapshotWriter, Sums,
};
use crate::time::{Instant, Timestamp};
use crate::units::{Incarnation, Position, SessionId, Term};

const FORMAT: u32 = 1;
/// How soon a snapshot is taken again that failed, if a full log waits for it: then after as long
/// as they have failed, up to a minute. What fills a disk is not gone in a second.
const AGAIN: Duration = Duration::from_secs(1);
const AGAIN_MAX: Duration = Duration::from_secs(60);
/// Each attempt is a record in what a full log keeps for what makes room in it, and for the terms
/// to come: so an attempt waits four times as long whenever half of that is gone, as often as this.
const HALVINGS_MAX: u32 = 5;

/// One complete snapshot set.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Snapshot {
    /// Its state is that of the log up to here.
    pub position: Position,
    /// The term of the last record below.
    pub term: Term,
    /// The log's chain at `position`.
    pub chain: u32,
    /// Of all its sections: equal on every member at an equal position.
    pub digest: u64,
}

/// What `poll_snapshot` did.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum SnapshotStep {
    /// No snapshot is being taken, or none of its sections has come to its position.
    Idle,
    /// A piece was written: call again soon.
    More,
    /// All sections are written: make them durable, then call `handle_snapshot_stored`.
    Written(Snapshot),
    /// It is given up; the cluster goes on. Remove what was written.
    Failed(Position, SnapshotError),
}

/// Why no snapshot was asked for.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[non_exhaustive]
pub enum SnapshotRefusal {
    /// This member does not lead.
    NotLeader,
    /// Snapshots are switched off in this member's configuration.
    Disabled,
    /// One is being taken.
    InProgress,
}

impl SnapshotRefusal {
    /// The same in words, for whoever asked.
    pub const fn text(self) -> &'static str {
        match self {
            Self::NotLeader => "this member does not lead",
            Self::Disabled => "snapshots are switched off on this member",
            Self::InProgress => "a snapshot is being taken",
        }
    }
}

/// The set that is being written.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct Set<const S: usize> {
    position: Position,
    term: Term,
    chain: u32,
    timestamp: Timestamp,
    /// `None` until the consensus module's bytes are written: it stands still so long.
    consensus: Option<Sums>,
    ends: Vec<Option<End>, S>,
}

/// What a node knows of snapshots.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) struct Snapshots<const S: usize> {
    /// Somebody asked this leader for one.
    pub asked: bool,
    /// This member has appended the action in this term, and not seen it committed.
    pub appended: Option<Term>,
    /// Where the last action was, and when this member came to it.
    pub last: Position,
    last_at: Instant,
    taking: Option<Set<S>>,
    /// When the first failed on this member since one was stored.
    failing_since: Option<Instant>,
    /// The newest position of which this member has none, since it started.
    pub failed_at: Option<Position>,
    /// Those on this member's disk, the newest first.
    pub stored: [Option<Snapshot>; 2],
}

impl<const S: usize> Snapshots<S> {
    pub const fn new(now: Instant) -> Self {
        Self {
            asked: false,
            appended: None,
            last: Position::ZERO,
            last_at: now,
            taking: None,
            failing_since: None,
            failed_at: None,
            stored: [None; 2],
        }
    }

    /// How long after the last one failed another is taken, if so many bytes are left of what the
    /// log keeps for it.
    fn again(&self, left: u64, kept: u64) -> Duration {
        let halvings = (kept / left.max(1)).checked_ilog2().unwrap_or(0);
        let failing = self.failing_since.map(|since| self.last_at.since(since));
        let again = failing.unwrap_or_default().clamp(AGAIN, AGAIN_MAX);
        again * (1 << (2 * halvings.min(HALVINGS_MAX)))
    }

    fn note_failed(&mut self, now: Instant, position: Position) {
        self.failing_since.get_or_insert(now);
        self.failed_at = Some(position).max(self.failed_at);
    }
}

impl<const N: usize, const S: usize> Node<N, S> {
    /// Asks for a snapshot: the leader appends the action that makes every member take one.
    ///
    /// # Errors
    /// See [`SnapshotRefusal`].
    pub fn request_snapshot(&mut self) -> Result<(), SnapshotRefusal> {
        self.may_snapshot()?;
        self.snapshots.asked = true;
        self.stir();
        Ok(())
    }

    pub(super) fn may_snapshot(&self) -> Result<(), SnapshotRefusal> {
        if self.clients.leading().is_none() {
            return Err(SnapshotRefusal::NotLeader);
        }
        if !self.config.snapshots.enabled {
            return Err(SnapshotRefusal::Disabled);
        }
        if self.snapshots.taking.is_some() || self.snapshots.asked {
            return Err(SnapshotRefusal::InProgress);
        }
        Ok(())
    }

    /// The position of the snapshot that is being taken, if one is: the driver opens a place for
    /// its sections, and calls [`Self::poll_snapshot`] until that says it is written.
    pub fn snapshot_due(&self) -> Option<Position> {
        self.snapshots.taking.as_ref().map(|set| set.position)
    }

    /// The snapshots on this member's disk, the newest first.
    pub fn stored_snapshots(&self) -> [Option<Snapshot>; 2] {
        self.snapshots.stored
    }

    /// A set that was written is durable, or was found at the start: newest last.
    pub fn handle_snapshot_stored(&mut self, snapshot: Snapshot) {
        let newest = self.snapshots.stored[0];
        if newest.is_none_or(|known| known.position < snapshot.position) {
            self.snapshots.stored = [Some(snapshot), newest];
            self.snapshots.failing_since = None;
            self.event(Event::SnapshotStored(snapshot.position));
        }
    }

    /// A set that was written could not be made durable.
    pub fn handle_snapshot_failed(&mut self, position: Position) {
        self.snapshots.note_failed(self.clock.instant, position);
        self.event(Event::SnapshotFailed(position));
    }

    /// Whether a leader shall append the action now: because it was asked, or by policy.
    pub(super) fn wants_snapshot(&self, now: Instant) -> bool {
        let policy = &self.config.snapshots;
        let known = &self.snapshots;
        let on_its_way = known.appended == Some(self.raft.term());
        if !policy.enabled || on_its_way || known.taking.is_some() {
            return false;
        }
        let grown = self.raft.tail.end.since(known.last);
        let by_bytes = self.snapshot_period().is_some_and(|bytes| grown >= bytes);
        let again = || {
            let left = self.disk_limits().1.since(self.raft.tail.end);
            known.again(left, u64::from(self.config.segment_length))
        };
        let by_room = self.is_stuck() && now.since(known.last_at) >= again();
        let by_time =
            !policy.interval.is_zero() && grown > 0 && now.since(known.last_at) >= policy.interval;
        known.asked || by_bytes || by_time || by_room
    }

    /// The action is committed: every member is at `position` now.
    pub(super) fn begin_snapshot(&mut self, position: Position) {
        self.snapshots.last = position;
        self.snapshots.last_at = self.clock.instant;
        self.snapshots.appended = None;
        if !self.config.snapshots.enabled {
            return;
        }
        if self.snapshots.taking.is_some() {
            // This member is still busy with the one before, which is no failure of its disk.
            self.snapshots.failed_at = Some(position);
            self.event(Event::SnapshotFailed(position));
            return;
        }
        let mut ends = Vec::new();
        if ends.resize(self.hosts.len(), None).is_err() {
            return self.halt(Halt::Broken(Broken::Services));
        }
        self.snapshots.taking = Some(Set {
            position,
            term: self.applier.term,
            chain: self.applier.chain,
            timestamp: self.applier.time,
            consensus: None,
            ends,
        });
    }

    /// Where services stop to begin their part of a snapshot.
    pub(super) fn taking_at(&self) -> Option<Position> {
        self.snapshot_due()
    }

    /// When this member came to the last action.
    pub(super) fn last_action_at(&self) -> Instant {
        self.snapshots.last_at
    }

    /// Whether the consensus module must not move before `poll_snapshot` was called.
    pub(super) fn is_snapshot_due(&self) -> bool {
        if Planted::SnapshotLaterThanItsAction.is_active() {
            return false;
        }
        let level = self.applier.level;
        let is_due = |set: &Set<S>| set.consensus.is_none();
        let waits =
            |host: &super::host::Host<N>| host.position == level && host.taking == Taking::Due;
        self.snapshots.taking.as_ref().is_some_and(is_due) || self.hosts.iter().any(waits)
    }

    /// Writes the next piece of the snapshot that is due: the consensus module's bytes at once, of
    /// each service that has come to it one step. `services` as in [`Self::poll_services`].
    pub fn poll_snapshot<L: Log>(
        &mut self,
        services: &mut [&mut dyn Service],
        sink: &mut dyn SnapshotSink,
        lent: &mut Lent<'_, L>,
    ) -> SnapshotStep {
        let Some(mut set) = self.snapshots.taking.take() else {
            return SnapshotStep::Idle;
        };
        let wrote = match self.write_pieces(&mut set, services, sink, lent.services) {
            Ok(wrote) => wrote,
            Err(error) => return self.give_up(&set, services, error),
        };
        if set.ends.iter().any(Option::is_none) {
            self.snapshots.taking = Some(set);
            return match wrote {
                true => SnapshotStep::More,
                false => SnapshotStep::Idle,
            };
        }
        match finish(&mut set, sink) {
            Ok(snapshot) => SnapshotStep::Written(snapshot),
            Err(error) => self.give_up(&set, services, error),
        }
    }

    /// One step of every section that is at the snapshot's position; false if none is.
    fn write_pieces(
        &mut self,
        set: &mut Set<S>,
        services: &mut [&mut dyn Service],
        sink: &mut dyn SnapshotSink,
        memory: &mut [u8],
    ) -> Result<bool, SnapshotError> {
        let mut wrote = false;
        if set.consensus.is_none() {
            let begin = self.begin_mark(set, Section::Consensus);
            let mut sums = Sums::new();
            let mut out = SnapshotWriter::new(sink.section(Section::Consensus), &mut sums);
            out.begin(&begin)?;
            write_roster(&mut out, &self.applier.roster)?;
            write_sessions(&mut out, self.clients.sessions())?;
            set.consensus = Some(sums);
            wrote = true;
        }
        let count = self.hosts.len();
        for (slot, service) in services.iter_mut().enumerate().take(count) {
            let Some(host) = self.hosts.get(slot) else {
                continue;
            };
            let section = Section::Service(host.id);
            let begin = self.begin_mark(set, section);
            let Some(host) = self.hosts.get_mut(slot) else {
                continue;
            };
            let mut sums = match host.taking {
                Taking::No => continue,
                Taking::Due => Sums::new(),
                Taking::Writing(sums) => sums,
            };
            let mut out = SnapshotWriter::new(sink.section(section), &mut sums);
            if host.taking == Taking::Due {
                out.begin(&begin)?;
                host.write_state(&mut out, &HostMemory::of(memory, slot, count))?;
                service.begin_snapshot();
            }
            host.taking = Taking::Writing(Sums::new());
            let progress = service.write_snapshot(&mut out)?;
            let end = match progress {
                Progress::More | Progress::Later => None,
                Progress::Done => Some(out.end()?),
            };
            host.taking = end.map_or(Taking::Writing(sums), |_| Taking::No);
            if let (Some(end), Some(place)) = (end, set.ends.get_mut(slot)) {
                *place = Some(end);
                service.end_snapshot();
            }
            wrote |= progress != Progress::Later;
        }
        Ok(wrote)
    }

    fn begin_mark(&self, set: &Set<S>, section: Section) -> Begin {
        Begin {
            cluster: self.config.cluster,
            section,
            app_version: self.config.app.version,
            position: set.position,
            term: set.term,
            chain: set.chain,
            timestamp: set.timestamp,
            segment_length: self.config.segment_length,
        }
    }

    /// The driver has no place to write the snapshot that is due, or lost it: it is given up, and
    /// the cluster goes on.
    pub fn abandon_snapshot(&mut self, services: &mut [&mut dyn Service], error: SnapshotError) {
        if let Some(set) = self.snapshots.taking.take() {
            self.give_up(&set, services, error);
        }
    }

    fn give_up(
        &mut self,
        set: &Set<S>,
        services: &mut [&mut dyn Service],
        error: SnapshotError,
    ) -> SnapshotStep {
        for (host, service) in self.hosts.iter_mut().zip(services) {
            if matches!(host.taking, Taking::Writing(_)) {
                service.end_snapshot();
            }
            host.taking = Taking::No;
        }
        self.snapshots.note_failed(self.clock.instant, set.position);
        self.event(Event::SnapshotFailed(set.position));
        SnapshotStep::Failed(set.position, error)
    }

    fn check_version(&self, begin: &Begin) -> Result<(), SnapshotError> {
        let written = begin.app_version;
        let is_read = self.config.app.reads(written);
        is_read
            .then_some(())
            .ok_or(SnapshotError::AppVersion(written))
    }

    /// Starts from a snapshot: right after [`Self::new`], with a recovered log that holds its
    /// position. `services` are given their state. Gives back what was loaded.
    ///
    /// # Errors
    /// See [`SnapshotError`]: then the node is as it was, the services may be anything; try an
    /// older set, or do not start.
    pub fn load_snapshot<L: Log>(
        &mut self,
        source: &mut dyn SnapshotSource,
        services: &mut [&mut dyn Service],
        lent: &mut Lent<'_, L>,
    ) -> Result<Snapshot, SnapshotError> {
        let loaded = self.load(source, services, lent);
        if loaded.is_err() {
            self.clients.restore();
        }
        loaded
    }

    fn load<L: Log>(
        &mut self,
        source: &mut dyn SnapshotSource,
        services: &mut [&mut dyn Service],
        lent: &mut Lent<'_, L>,
    ) -> Result<Snapshot, SnapshotError> {
        if services.len() != self.hosts.len() {
            return Err(SnapshotError::Services);
        }
        let cluster = self.config.cluster;
        let (bytes, length) = source
            .open(Section::Consensus)
            .ok_or(SnapshotError::Missing(Section::Consensus))?;
        let mut from = SnapshotReader::new(bytes, length, cluster, Section::Consensus)?;
        let begin = *from.begin();
        self.check_version(&begin)?;
        let roster = read_roster(&mut from)?;
        // In place, for it may be large; on an error it is as empty as it was.
        read_sessions(&mut from, self.clients.restore())?;
        let ends = read_ends::<S>(&mut from)?;
        let end = from.finish()?;
        if ends.len() != services.len() {
            return Err(SnapshotError::Content);
        }
        let mut hosts = self.hosts.clone();
        let count = hosts.len();
        for (slot, (host, service)) in hosts.iter_mut().zip(services).enumerate() {
            let section = Section::Service(host.id);
            let opened = source.open(section);
            let (bytes, length) = opened.ok_or(SnapshotError::Missing(section))?;
            let mut from = SnapshotReader::new(bytes, length, cluster, section)?;
            self.check_version(from.begin())?;
            let mut memory = HostMemory::of(lent.services, slot, count);
            let at = begin.position;
            host.read_state(at, &mut from, &mut memory, lent.assembly)?;
            service.read_snapshot(&mut from)?;
            host.digest = service.digest();
            if ends.get(slot) != Some(&from.finish()?) {
                return Err(SnapshotError::Content);
            }
        }
        self.hosts = hosts;
        let (at, term) = (begin.position, begin.term);
        self.applier.restore(at, begin.timestamp, term, begin.chain);
        self.applier.roster = roster;
        if roster.at > self.roster.at {
            self.roster = roster;
            self.check_own_life();
        }
        self.raft.restore_commit(at);
        self.history.anchor(at, term);
        self.heal_from_snapshot(at, term);
        self.snapshots.last = at;
        let snapshot = Snapshot {
            position: at,
            term,
            chain: begin.chain,
            digest: end.digest,
        };
        self.snapshots.stored = [Some(snapshot), None];
        Ok(snapshot)
    }
}

/// Ends the consensus section, which makes the set complete.
fn finish<const S: usize>(
    set: &mut Set<S>,
    sink: &mut dyn SnapshotSink,
) -> Result<Snapshot, SnapshotError> {
    let sums = set.consensus.get_or_insert_default();
    let mut out = SnapshotWriter::new(sink.section(Section::Consensus), sums);
    out.u32(set.ends.len() as u32)?;
    for end in set.ends.iter().flatten() {
        out.u64(end.length)?;
        out.u64(end.digest)?;
    }
    let digest = out.end()?.digest;
    Ok(Snapshot {
        position: set.position,
        term: set.term,
        chain: set.chain,
        digest,
    })
}

fn write_roster(out: &mut SnapshotWriter<'_>, roster: &Roster) -> Result<(), SnapshotError> {
    out.u32(FORMAT)?;
    out.u64(roster.at.get())?;
    for (incarnation, since) in roster.entries() {
        out.u64(incarnation.0)?;
        out.u64(since.get())?;
    }
    Ok(())
}

impl From<NoRoom> for SnapshotError {
    fn from(_: NoRoom) -> Self {
        Self::TooLarge
    }
}

fn read_roster(from: &mut SnapshotReader<'_>) -> Result<Roster, SnapshotError> {
    if from.u32()? != FORMAT {
        return Err(SnapshotError::Content);
    }
    let at = Position::new(from.u64()?);
    Roster::read(at, |_| {
        Ok((Incarnation(from.u64()?), Position::new(from.u64()?)))
    })
}

fn write_sessions<const N: usize>(
    out: &mut SnapshotWriter<'_>,
    sessions: &SessionTable<N>,
) -> Result<(), SnapshotError> {
    out.u32(sessions.len() as u32)?;
    for session in sessions.iter() {
        out.i64(session.id.to_wire())?;
        out.i64(session.request.correlation_id)?;
        out.u32(session.request.response_stream_id as u32)?;
        out.i64(session.opened_at.0)?;
        out.bytes(session.request.response_channel.as_bytes())?;
        out.bytes(&session.principal)?;
    }
    Ok(())
}

fn read_sessions<const N: usize>(
    from: &mut SnapshotReader<'_>,
    table: &mut SessionTable<N>,
) -> Result<(), SnapshotError> {
    for _ in 0..from.u32()? {
        let id = SessionId::from_wire(from.i64()?).ok_or(SnapshotError::Content)?;
        let correlation_id = from.i64()?;
        let response_stream_id = from.u32()? as i32;
        let opened_at = Timestamp(from.i64()?);
        let mut room = [0; CHANNEL_MAX];
        let channel = core::str::from_utf8(from.bytes(&mut room)?);
        let channel = channel.map_err(|_| SnapshotError::Content)?;
        let response_channel = Channel::try_from(channel).map_err(|_| SnapshotError::TooLarge)?;
        let mut room = [0; PRINCIPAL_MAX];
        let principal = Principal::from_slice(from.bytes(&mut room)?);
        let session = Session {
            id,
            request: Request {
                correlation_id,
                response_stream_id,
                response_channel,
            },
            principal: principal.map_err(|_| SnapshotError::TooLarge)?,
            opened_at,
        };
        match table.apply_open(session) {
            crate::session::Opened::Yes => {}
            crate::session::Opened::TableFull => return Err(SnapshotError::TooLarge),
            _ => return Err(SnapshotError::Content),
        }
    }
    Ok(())
}

/// The ends of all services' sections, which stand at the end of the consensus section's body.
fn read_ends<const S: usize>(from: &mut SnapshotReader<'_>) -> Result<Vec<End, S>, SnapshotError> {
    let mut ends = Vec::new();
    for _ in 0..from.u32()? {
        let end = End {
            length: from.u64()?,
            digest: from.u64()?,
        };
        ends.push(end).map_err(|_| SnapshotError::TooLarge)?;
    }
    Ok(ends)
}
