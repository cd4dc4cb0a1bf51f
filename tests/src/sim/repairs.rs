//! Log bytes that rot while a process is down, and what comes back from the others.

use coracle_core::log::Recovered;

use super::disk::{Disk, Name};
use super::ghost::GhostLog;
use super::member::{Member, Process, SEGMENT};
use super::snapshots::Damage;
use super::stats::Fault;
use super::storage::{DATA_AT, SEGMENT_FILE, segment_of};
use super::world::{Stop, World};

/// The longest run of bytes that rots at once.
const ROT_MAX: u64 = 5000;

impl World {
    /// Bytes of a log rot that recovery has just found sound: durable, committed and confirmed
    /// ones only, for whatever else is lost is lost for good. True if that was done.
    ///
    /// It is done to one member at a time, while all directories count: what a quorum holds must
    /// stay with one that is sound.
    pub(super) fn rot_log(&mut self, member: usize, found: &(Recovered, GhostLog)) -> bool {
        let (recovered, ghost) = found;
        if self.members[member].damage != Damage::Log {
            return false;
        }
        self.members[member].damage = Damage::None;
        let is_sound = |m: &Member| m.rotten == 0 && m.votes && !m.wipe_next;
        if self.members.len() < 3
            || !self.members.iter().all(is_sound)
            || self.divergence.is_there()
        {
            return false;
        }
        let (start, end) = (recovered.start.position.get(), recovered.confirmed.get());
        // Of another history than the committed one, nobody else may have it: then it must halt.
        if start >= end || !self.checker.agrees(ghost, end) {
            return false;
        }
        let at = self.rng.range(start, end - 1);
        let segment_end = segment_of(at) + u64::from(SEGMENT);
        let len = self.rng.skewed(ROT_MAX).clamp(1, end.min(segment_end) - at);
        let m = &mut self.members[member];
        let name = Name::Segment(segment_of(at));
        m.disk
            .rot(name, DATA_AT + (at - segment_of(at)) as usize, len as usize);
        m.rotten = end;
        self.stats.count(Fault::LogRot);
        self.note(member as u8, "log rots", at, len);
        true
    }

    /// What recovery found is what was damaged, and nothing else.
    pub(super) fn see_damage(&mut self, member: usize, found: &Recovered) -> Result<(), String> {
        let m = &mut self.members[member];
        match found.corrupt {
            Some(at) if at.get() >= m.rotten => {
                return Err(format!("corrupt at {at}, where nothing rots"));
            }
            Some(_) => {}
            None => m.rotten = 0,
        }
        Ok(())
    }

    /// What has rotten is healed from the others; or, if the snapshot has all that was confirmed,
    /// it is as good as purged.
    pub(super) fn note_damage(&mut self, member: usize, process: &Process, found: &Recovered) {
        if found.corrupt.is_some() {
            let m = &self.members[member];
            let is_needless = process.node.healing().is_none();
            let loaded = m.loaded.filter(|_| is_needless).unwrap_or(0);
            self.checker.purged(member as u8, loaded.max(m.rotten));
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
            true => Err(Stop::Anew),
            false => Ok(()),
        }
    }
}

/// The newest set of a log whose damage is all below it, and that goes on above.
pub fn needless(disk: &Disk, recovered: &Recovered) -> Option<u64> {
    let corrupt = recovered.corrupt?.get();
    let newest = disk.snapshots().next_back()?;
    (corrupt < newest && newest < recovered.confirmed.get()).then_some(newest)
}
