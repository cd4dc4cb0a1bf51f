//! Log bytes that rot while a process is down, and what comes back from the others.
//!
//! Several members may be damaged at once, in several places, also in what is confirmed here and
//! committed nowhere. The rule of the simulation: each frame that rots is held by another member at
//! that moment. What is committed stays so, and must heal. What is not may be overwritten before it
//! is asked for: then the member may give up, and is replaced as an operator would do it; so only
//! as many members are put at that risk as the cluster can do without.

use coracle_core::log::Recovered;

use super::check::Checked;
use super::disk::{Disk, Name};
use super::ghost::{GhostLog, Row};
use super::member::{Member, SEGMENT};
use super::snapshots::Damage;
use super::stats::Fault;
use super::storage::{DATA_AT, SEGMENT_FILE, segment_of};
use super::world::{Stop, World};

/// The longest run of bytes that rots at once.
const ROT_MAX: u64 = 5000;

/// What has rotten of a log.
#[derive(Clone, Debug)]
pub struct Rotten {
    /// The log as it was, up to what was confirmed.
    pub log: GhostLog,
    /// The frames that are damaged, in order.
    pub frames: Vec<Row>,
    /// Some are not committed: nobody may have them when they are asked for.
    pub is_at_risk: bool,
}

impl Rotten {
    /// Whether a frame was in the log, with all that is below.
    pub fn had(&self, row: &Row) -> bool {
        let there = self.log.ending_at(row.end);
        there.is_some_and(|there| there.hash == row.hash)
    }

    /// Whether no frame between the damaged ones is sound.
    fn is_one_place(&self) -> bool {
        let pairs = self.frames.iter().zip(self.frames.iter().skip(1));
        pairs.into_iter().all(|(a, b)| a.end == b.start)
    }

    /// Whether some of it is still damaged, in a log of `member` that starts at `start`.
    pub fn is_left(&self, member: &Member, start: u64) -> bool {
        self.frames.iter().any(|row| {
            let bytes = self.log.bytes(row.start, row.end);
            row.start >= start && !member.has_bytes(row, bytes)
        })
    }

    /// From where to where it is damaged.
    pub(super) fn range(&self) -> (u64, u64) {
        let (first, last) = (self.frames.first(), self.frames.last());
        (first.map_or(0, |r| r.start), last.map_or(0, |r| r.end))
    }
}

impl Member {
    /// Its directory may come to count for nothing.
    pub(super) fn is_doomed(&self) -> bool {
        let is_at_risk = self.rotten.as_ref().is_some_and(|r| r.is_at_risk);
        !self.votes || self.wipe_next || is_at_risk
    }

    /// Whether a frame can be read here.
    fn has_bytes(&self, row: &Row, bytes: &[u8]) -> bool {
        let len = if row.pad { row.meaning() } else { bytes.len() };
        self.log_start() <= row.start && self.holds(row.start, &bytes[..len])
    }

    /// Where its log starts.
    fn log_start(&self) -> u64 {
        match &self.board {
            Some(board) => board.log_start(),
            None => self.disk.log_start(),
        }
    }

    /// Whether these bytes of the log, which are in one segment, are on its medium.
    pub(super) fn holds(&self, at: u64, bytes: &[u8]) -> bool {
        if let Some(board) = &self.board {
            return board.holds(at, bytes);
        }
        let base = segment_of(at);
        let at = DATA_AT + (at - base) as usize;
        let file = self.disk.durable(Name::Segment(base));
        let there = file.and_then(|file| file.get(at..at + bytes.len()));
        there == Some(bytes)
    }

    /// Bytes of the log rot, which are in one segment.
    fn rot(&mut self, at: u64, len: usize) {
        if let Some(board) = &mut self.board {
            board.rot(at, len);
            return;
        }
        let name = Name::Segment(segment_of(at));
        self.disk
            .rot(name, DATA_AT + (at - segment_of(at)) as usize, len);
    }
}

impl World {
    /// Bytes of a log rot that recovery has just found sound: confirmed ones, which another member
    /// has as well. True if that was done.
    pub(super) fn rot_log(
        &mut self,
        member: usize,
        (start, end): (u64, u64),
        ghost: &GhostLog,
    ) -> bool {
        if self.members[member].damage != Damage::Log {
            return false;
        }
        self.members[member].damage = Damage::None;
        let m = &self.members[member];
        let is_spared = m.rotten.is_some() || !m.votes || m.wipe_next;
        if self.members.len() < 3 || is_spared || self.divergence.is_there() {
            return false;
        }
        if start >= end {
            return false;
        }
        let doomed = self.members.iter().filter(|m| m.is_doomed()).count();
        let may_be_lost = doomed < (self.members.len() - 1) / 2;
        let mut is_at_risk = false;
        for _ in 0..self.rot_places() {
            // Near the end is what is not committed.
            let tail = end.saturating_sub(ROT_MAX).max(start);
            let from = if self.rng.chance(500_000) {
                start
            } else {
                tail
            };
            let at = self.rng.range(from, end - 1);
            let segment_end = segment_of(at) + u64::from(SEGMENT);
            let len = self.rng.skewed(ROT_MAX).clamp(1, end.min(segment_end) - at);
            let hit = ghost.above(at).iter().take_while(|r| r.start < at + len);
            let hit: Vec<Row> = hit.copied().collect();
            let is_committed = hit
                .last()
                .is_some_and(|r| self.checker.agrees(ghost, r.end));
            let is_held = hit.iter().all(|row| self.is_held(member, ghost, row, true));
            if !is_held || !(is_committed || may_be_lost) {
                continue;
            }
            is_at_risk |= !is_committed;
            self.members[member].rot(at, len as usize);
        }
        let mut log = ghost.clone();
        log.truncate(end);
        let m = &self.members[member];
        let is_gone = |r: &&Row| !m.has_bytes(r, log.bytes(r.start, r.end));
        let frames: Vec<Row> = log.above(start).iter().filter(is_gone).copied().collect();
        if frames.is_empty() {
            return false;
        }
        let rotten = Rotten {
            log,
            frames,
            is_at_risk,
        };
        let (from, to) = rotten.range();
        self.stats.count(if is_at_risk {
            Fault::TailRot
        } else {
            Fault::LogRot
        });
        if self.members.iter().any(|m| m.rotten.is_some()) {
            self.stats.count(Fault::LogRotAtOnce);
        }
        self.members[member].rotten = Some(rotten);
        self.note(member as u8, "log rots", from, to);
        true
    }

    /// In how many places a log rots now. What is sound between two damages of one member is asked
    /// of the others all the same: if it has rotten with them, nobody can be healed. So either one
    /// member is damaged in several places, or several members in one place each.
    fn rot_places(&mut self) -> u64 {
        let mut rotten = self.members.iter().filter_map(|m| m.rotten.as_ref());
        match rotten.clone().all(Rotten::is_one_place) {
            false => 0,
            true if rotten.next().is_some() => 1,
            true => self.rng.range(1, 3),
        }
    }

    /// Whether another member has a frame of this log; with `surely`, one that will keep it if it
    /// is committed.
    fn is_held(&self, member: usize, log: &GhostLog, row: &Row, surely: bool) -> bool {
        let bytes = log.bytes(row.start, row.end);
        let others = self.members.iter().filter(|m| usize::from(m.id) != member);
        let mut holders = others.filter(|m| {
            let is_fit = !surely || !m.is_doomed();
            is_fit && self.checker.holds(m.id, row, surely) && m.has_bytes(row, bytes)
        });
        holders.next().is_some()
    }

    /// Whether a frame that this member misses is nowhere to be had any more.
    pub(super) fn is_lost(&self, member: usize) -> bool {
        let m = &self.members[member];
        let Some(rotten) = m.rotten.as_ref().filter(|r| r.is_at_risk) else {
            return false;
        };
        rotten.frames.iter().any(|row| {
            let is_here = m.has_bytes(row, rotten.log.bytes(row.start, row.end));
            !is_here && !self.is_held(member, &rotten.log, row, false)
        })
    }

    /// What cannot be healed any more is replaced: the next start is that of an empty directory.
    pub(super) fn give_up(&mut self, member: usize) {
        self.stats.count(Fault::RotReplaced);
        let m = &mut self.members[member];
        m.rotten = None;
        m.wipe_next = true;
        self.note(member as u8, "is given up", 0, 0);
    }

    /// The operator's part once faults have stopped.
    pub(super) fn replace_lost(&mut self) -> Checked {
        for member in 0..self.members.len() {
            if self.members[member].is_up() && self.is_lost(member) {
                self.give_up(member);
                self.crash(member, false)?;
            }
        }
        Ok(())
    }

    /// What the driver knows already of a log that it recovers: what was let go, and what of it has
    /// rotten.
    pub(super) fn known_log(&self, member: usize, start: u64) -> GhostLog {
        match &self.members[member].rotten {
            // A log that was replaced starts where what has rotten may have had another history.
            Some(rotten) if self.checker.agrees(&rotten.log, start) => rotten.log.clone(),
            _ => self.checker.committed_prefix(start),
        }
    }

    /// What recovery found is what was damaged, and nothing else.
    pub(super) fn see_damage(
        &mut self,
        member: usize,
        found: Option<(u64, u64)>,
    ) -> Result<(), String> {
        let m = &mut self.members[member];
        match (found, &m.rotten) {
            (None, _) => m.rotten = None,
            (Some((at, _)), None) => return Err(format!("corrupt at {at}, where nothing rots")),
            (Some((at, to)), Some(rotten)) => {
                let (first, last) = rotten.range();
                // A write of healed bytes that was cut may have come to the disk in part.
                if at < first || at >= to || to > last {
                    return Err(format!("corrupt are {at}..{to}, rotten {first}..{last}"));
                }
            }
        }
        Ok(())
    }

    /// If the snapshot has all that was confirmed, what has rotten is as good as purged.
    pub(super) fn note_damage(&mut self, member: usize, is_damaged: bool, is_needless: bool) {
        if is_damaged {
            let m = &self.members[member];
            let loaded = m.loaded.filter(|_| is_needless).unwrap_or(0);
            self.checker.purged(member as u8, loaded);
        }
    }

    /// Writes what has come for damaged bytes. When nothing is left to heal, the process begins
    /// anew.
    pub(super) fn turn_repair(&mut self, member: usize) -> Result<(), Stop> {
        let may_fail = !self.is_calm && !self.is_scripted;
        let m = &mut self.members[member];
        let Some(process) = &mut m.process else {
            return Ok(());
        };
        let Some(repair) = process.node.poll_repair() else {
            return Ok(());
        };
        let (at, base) = (repair.at.get(), segment_of(repair.at.get()));
        let name = Name::Segment(base);
        m.disk.create(name, SEGMENT_FILE);
        let bytes = &process.memory.catchup[..repair.len];
        m.disk.write(name, DATA_AT + (at - base) as usize, bytes);
        if may_fail && self.rng.chance(50_000) {
            return Err(Stop::Crash { power: true });
        }
        let mut flush = m.disk.begin_flush(name);
        m.disk.step_flush(&mut flush, true, &mut self.rng);
        process.node.handle_repaired(repair);
        let is_healed = process.node.is_healed();
        self.note(member as u8, "repairs", at, repair.end.get());
        self.called(member)?;
        match is_healed {
            true => Err(Stop::Anew { is_rebuilt: false }),
            false => Ok(()),
        }
    }
}

/// The newest set of a log whose damage begins below it, and that goes on above.
pub fn needless(disk: &Disk, recovered: &Recovered) -> Option<u64> {
    if recovered.agrees == Some(false) {
        // It is of another history, and is replaced.
        return None;
    }
    let corrupt = recovered.corrupt?.get();
    let newest = disk.snapshots().next_back()?;
    (corrupt < newest && newest < recovered.confirmed.get()).then_some(newest)
}
