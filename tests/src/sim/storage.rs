//! The storage side of a driver: groups, node state, recalls, and time that each takes.

use coracle_core::log::{Group, Log, NodeState, SectorError, Slot, checksum};
use coracle_core::node::ReadError;
use coracle_core::units::Position;

use super::check::Violation;
use super::clock::{MILLI, Nanos};
use super::disk::{Disk, Name, SECTOR};
use super::member::{CLUSTER, SEGMENT};
use super::world::{Stop, What, World};

/// Where a segment file's log bytes begin, behind its two slots.
pub const DATA_AT: usize = 2 * SECTOR;
/// What file systems write as one.
const BLOCK: u64 = 4096;
/// A segment file's length.
pub const SEGMENT_FILE: usize = DATA_AT + SEGMENT as usize;

/// The base of the segment that holds `position`.
pub fn segment_of(position: u64) -> u64 {
    position / u64::from(SEGMENT) * u64::from(SEGMENT)
}

/// Reads log bytes from `at` on out of the files, as far as `into` and the segment go.
pub fn read_log(disk: &Disk, at: u64, into: &mut [u8]) -> usize {
    let base = segment_of(at);
    let from = DATA_AT + (at - base) as usize;
    let Some(bytes) = disk.cached(Name::Segment(base)).and_then(|f| f.get(from..)) else {
        return 0;
    };
    let len = bytes.len().min(into.len());
    into[..len].copy_from_slice(&bytes[..len]);
    len
}

/// The chain of the frame that ends at `end`, by walking its segment.
fn chain_before(disk: &Disk, end: u64) -> Option<u32> {
    if end == 0 {
        return Some(checksum::genesis(CLUSTER));
    }
    if end == disk.log_start() {
        return super::installs::begin_of(disk, end).map(|begin| begin.chain);
    }
    let base = segment_of(end - 1);
    let file = disk.cached(Name::Segment(base))?;
    let mut at = base.max(disk.log_start());
    while at < end {
        let frame = file.get(DATA_AT + (at - base) as usize..)?;
        let row = super::ghost::parse(frame, at, 0)?;
        if row.end == end {
            return Some(u32::from_le_bytes(frame.get(28..32)?.try_into().ok()?));
        }
        at = row.end;
    }
    None
}

impl World {
    pub(super) fn turn_storage(&mut self, member: usize) -> Result<(), Stop> {
        self.take_cut(member);
        self.begin_group(member)?;
        self.begin_persist(member)?;
        self.begin_recall(member)
    }

    /// The journal hears of a truncation before anything else happens to it.
    fn take_cut(&mut self, member: usize) {
        let m = &mut self.members[member];
        let Some(process) = &mut m.process else {
            return;
        };
        if let Some(cut) = process.log.window.take_cut() {
            process.journal.handle_truncated(cut);
        }
        let end = process.log.end();
        if process.log.chain().is_none()
            && let Some(chain) = chain_before(&m.disk, end.get())
        {
            process.log.window.set_chain(end, chain);
        }
    }

    fn begin_group(&mut self, member: usize) -> Result<(), Stop> {
        let m = &mut self.members[member];
        let Some(process) = &mut m.process else {
            return Ok(());
        };
        let joined = process.node.joined();
        let Some(group) = process.journal.poll_group(joined, &process.log) else {
            return Ok(());
        };
        let name = Name::Segment(group.slot.segment.get());
        m.disk.create(name, SEGMENT_FILE);
        write_around(&mut m.disk, &group);
        write_slot(&mut m.disk, &group.slot);
        let (mut at, end) = (group.span.start, group.span.end);
        while at < end {
            let run = process.log.read(at);
            let len = run.len().min(end.since(at) as usize);
            if len == 0 {
                break;
            }
            let place = DATA_AT + at.since(group.slot.segment) as usize;
            m.disk.write(name, place, &run[..len]);
            at = at.plus(len as u64);
        }
        process.log.window.set_written(process.journal.written());
        process.flush = Some((group, m.disk.begin_flush(name)));
        let life = m.life;
        self.check_bounded(member)?;
        self.note(
            member as u8,
            "flush begins",
            group.span.start.get(),
            end.get(),
        );
        let after = self.flush_step(member);
        self.schedule(self.now + after, What::LogFlush { member, life });
        self.called(member)
    }

    pub(super) fn flush_step(&mut self, member: usize) -> Nanos {
        let disk = self.plan.disk;
        if self.members[member].slow_until > self.now {
            // A story's slow disk answers when it is quick again.
            let most = if self.is_scripted { 100 } else { 1000 };
            return self.rng.range(100, most) * MILLI;
        }
        // A flush takes about three steps.
        self.rng.range(disk.least, disk.most) / 3
    }

    pub(super) fn log_flush_event(&mut self, member: usize, life: u32) -> Result<bool, Violation> {
        if self.members[member].life != life {
            return Ok(true);
        }
        let m = &mut self.members[member];
        let Some(process) = &mut m.process else {
            return Ok(true);
        };
        let Some((_, flush)) = &mut process.flush else {
            return Ok(true);
        };
        if m.is_disk_stuck || !m.disk.step_flush(flush, false, &mut self.rng) {
            let after = self.flush_step(member);
            self.schedule(self.now + after, What::LogFlush { member, life });
            return Ok(true);
        }
        if let Some((group, _)) = process.flush.take() {
            m.slot = group.slot.seq;
        }
        self.take_cut(member);
        if let Some(process) = &mut self.members[member].process {
            let mark = process.journal.handle_flushed();
            self.checker.reported(member as u8, mark);
            process.node.handle_durable(mark);
            let (position, term) = (mark.position.get(), u64::from(mark.term.get()));
            self.note(member as u8, "durable", position, term);
        }
        self.want_turn(member, 0);
        self.settle(member)
    }

    /// Ends what an event did to a member: the invariants, and the fuse.
    pub(super) fn settle(&mut self, member: usize) -> Result<bool, Violation> {
        match self.called(member) {
            Ok(()) => Ok(true),
            Err(Stop::Broken(violation)) => Err(violation),
            Err(Stop::Crash { power }) => self.crash(member, power).map(|()| true),
            Err(Stop::Anew { is_rebuilt }) => self.start_anew(member, is_rebuilt).map(|()| true),
        }
    }

    fn begin_persist(&mut self, member: usize) -> Result<(), Stop> {
        let m = &mut self.members[member];
        let Some(process) = &mut m.process else {
            return Ok(());
        };
        if process.state_flush.is_some() {
            return Ok(());
        }
        let Some(state) = process.node.poll_persist() else {
            return Ok(());
        };
        write_state(&mut m.disk, process.state_seq, &state);
        process.state_seq += 1;
        process.state_flush = Some((state, m.disk.begin_flush(Name::State)));
        let life = m.life;
        let after = self.flush_step(member);
        self.schedule(self.now + after, What::StateFlush { member, life });
        self.called(member)
    }

    pub(super) fn state_flush_event(
        &mut self,
        member: usize,
        life: u32,
    ) -> Result<bool, Violation> {
        if self.members[member].life != life {
            return Ok(true);
        }
        let m = &mut self.members[member];
        let Some(process) = &mut m.process else {
            return Ok(true);
        };
        let Some((state, flush)) = &mut process.state_flush else {
            return Ok(true);
        };
        if !m.disk.step_flush(flush, false, &mut self.rng) {
            let after = self.flush_step(member);
            self.schedule(self.now + after, What::StateFlush { member, life });
            return Ok(true);
        }
        let state = *state;
        process.state_flush = None;
        let vote = state.vote.map(|v| v.get());
        self.checker
            .persisted(member as u8, (state.term.get(), vote))?;
        process.node.handle_persisted(state);
        let vote = vote.map_or(u64::MAX, u64::from);
        self.note(
            member as u8,
            "ballot on disk",
            u64::from(state.term.get()),
            vote,
        );
        self.want_turn(member, 0);
        self.settle(member)
    }

    fn begin_recall(&mut self, member: usize) -> Result<(), Stop> {
        let m = &mut self.members[member];
        let Some(process) = &mut m.process else {
            return Ok(());
        };
        if process.recall.is_some() {
            return Ok(());
        }
        let lent = process.memory.lend(&mut process.log);
        let Some(recall) = process.node.poll_recall(&lent) else {
            return Ok(());
        };
        process.recall = Some(recall);
        let life = m.life;
        self.note(member as u8, "recalls", recall.at.get(), recall.len as u64);
        let after = self.rng.range(1, self.plan.disk.least.max(2));
        self.schedule(self.now + after, What::Recall { member, life });
        self.called(member)
    }

    pub(super) fn recall_event(&mut self, member: usize, life: u32) -> Result<bool, Violation> {
        if self.members[member].life != life {
            return Ok(true);
        }
        let m = &mut self.members[member];
        let Some(process) = &mut m.process else {
            return Ok(true);
        };
        let Some(recall) = process.recall.take() else {
            return Ok(true);
        };
        let read = recall_into(&m.disk, process, &recall);
        process.node.handle_recalled(recall, read);
        self.want_turn(member, 0);
        self.settle(member)
    }
}

fn recall_into(
    disk: &Disk,
    process: &mut super::member::Process,
    recall: &coracle_core::node::Recall,
) -> Result<usize, ReadError> {
    use coracle_core::node::Consumer;
    let memory = &mut process.memory;
    let buffer = match recall.consumer {
        Consumer::Replay | Consumer::Repair => &mut memory.replay,
        _ => &mut memory.catchup,
    };
    let want = recall.len.min(buffer.len());
    let buffer = &mut buffer[..want];
    let Consumer::Snapshot { position, section } = recall.consumer else {
        return Ok(read_log(disk, recall.at.get(), buffer));
    };
    // A set is removed once there are two newer ones.
    let name = Name::Section(position.get(), section.to_wire().into());
    let file = disk.cached(name).ok_or(ReadError)?;
    let rest = file.get(recall.at.get() as usize..).ok_or(ReadError)?;
    let len = want.min(rest.len());
    buffer[..len].copy_from_slice(&rest[..len]);
    Ok(len)
}

/// Writes zeros wherever a driver may that spares the system to read a block in part.
fn write_around(disk: &mut Disk, group: &Group) {
    let base = group.slot.segment;
    let mut zero = |from: u64, len: u64| {
        let name = Name::Segment(base.get());
        disk.write(name, DATA_AT + from as usize, &vec![0; len as usize]);
    };
    let end = group.span.end.since(base);
    if !group.keeps_rest && !group.span.is_empty() {
        zero(end, end.next_multiple_of(BLOCK) - end);
    }
    if let Some([first, _]) = group.slot.beside().filter(|_| group.slot.is_first_beside()) {
        zero(first / BLOCK * BLOCK, BLOCK);
    }
}

/// Writes a slot of the log to its place.
pub fn write_slot(disk: &mut Disk, slot: &Slot) {
    let at = match slot.beside().filter(|_| slot.is_beside()) {
        Some(pair) => DATA_AT + pair[slot.index()] as usize,
        None => slot.index() * SECTOR,
    };
    let name = Name::Segment(slot.segment.get());
    disk.write(name, at, &slot.encode());
}

/// The newest slot of the log in the files.
///
/// # Errors
/// One of a newer version.
pub fn newest_slot(disk: &Disk) -> Result<Option<Slot>, SectorError> {
    let mut newest: Option<Slot> = None;
    for base in disk.segments() {
        let file = disk.cached(Name::Segment(base)).unwrap_or_default();
        for slot in file[..DATA_AT].chunks(SECTOR) {
            newest = Slot::newest(newest, Slot::decode(slot))?;
        }
    }
    let Some(lead) = newest else {
        return Ok(None);
    };
    let file = disk.cached(Name::Segment(lead.segment.get()));
    for at in lead.beside().into_iter().flatten() {
        let bytes = file.and_then(|file| file.get(DATA_AT + at as usize..));
        let slot = Slot::decode_beside(bytes.unwrap_or_default(), &lead);
        newest = Slot::newest(newest, slot)?;
    }
    Ok(newest)
}

/// Writes a node state to the slot whose turn it is.
pub fn write_state(disk: &mut Disk, seq: u64, state: &NodeState) {
    disk.create(Name::State, 2 * SECTOR);
    disk.write(Name::State, (seq % 2) as usize * SECTOR, &state.encode(seq));
}

/// The frame boundary `position` as the core has it.
pub fn position(at: u64) -> Position {
    Position::new(at)
}
