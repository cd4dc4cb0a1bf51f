//! The snapshot side of a driver: sets that are written, made durable, kept, loaded, and the log
//! that is purged because of them.

use coracle_core::log::Recovered;
use coracle_core::node::{Lent, Snapshot, SnapshotStep};
use coracle_core::snapshot::{Section, SnapshotError, SnapshotSink, SnapshotSource};
use embedded_io::{ErrorKind, ErrorType, Read, Write};

use super::away::Services;
use super::check::{Checked, Violation, broken};
use super::disk::{Disk, Flush, Name, SECTOR};
use super::member::{Process, SEGMENT};
use super::mind::SERVICES;
use super::spy::SpyLog;
use super::stats::Fault;
use super::storage::segment_of;
use super::world::{Stop, What, World};

/// The consensus module's, and one for each service.
pub const SECTIONS: usize = SERVICES + 1;

/// What is done to a member's snapshots while it is down.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Damage {
    /// Nothing.
    None,
    /// The newest one rots.
    Newest,
    /// All of them do.
    All,
    /// None, but bytes of its log.
    Log,
}

/// A set that is being written, in the memory of the process.
#[derive(Clone, Debug)]
pub struct Taking {
    position: u64,
    sections: [Sheet; SECTIONS],
}

/// One section as it grows.
#[derive(Clone, Debug, Default)]
struct Sheet {
    bytes: Vec<u8>,
    /// Writing fails once there are so many.
    fails_at: Option<usize>,
}

impl ErrorType for Sheet {
    type Error = ErrorKind;
}

impl Write for Sheet {
    fn write(&mut self, bytes: &[u8]) -> Result<usize, ErrorKind> {
        let end = self.bytes.len() + bytes.len();
        if self.fails_at.is_some_and(|at| end > at) {
            return Err(ErrorKind::OutOfMemory);
        }
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> Result<(), ErrorKind> {
        Ok(())
    }
}

impl SnapshotSink for Taking {
    fn section(&mut self, section: Section) -> &mut dyn Write<Error = ErrorKind> {
        &mut self.sections[usize::from(section.to_wire())]
    }
}

/// A written set on its way to the medium: its sections first, then what makes it complete.
#[derive(Clone, Debug)]
pub struct Storing {
    snapshot: Snapshot,
    flushes: Vec<Flush>,
    is_complete: bool,
}

/// A set as it is read.
struct Reading<'a> {
    disk: &'a Disk,
    position: u64,
    sheet: Cursor<'a>,
}

#[derive(Default)]
struct Cursor<'a>(&'a [u8]);

impl ErrorType for Cursor<'_> {
    type Error = ErrorKind;
}

impl Read for Cursor<'_> {
    fn read(&mut self, into: &mut [u8]) -> Result<usize, ErrorKind> {
        // Pieces of any size.
        let len = into.len().min(self.0.len()).min(100);
        let (bytes, rest) = self.0.split_at(len);
        into[..len].copy_from_slice(bytes);
        self.0 = rest;
        Ok(len)
    }
}

impl SnapshotSource for Reading<'_> {
    fn open(&mut self, section: Section) -> Option<(&mut dyn Read<Error = ErrorKind>, u64)> {
        let name = Name::Section(self.position, section.to_wire().into());
        self.sheet = Cursor(self.disk.cached(name)?);
        let len = self.sheet.0.len() as u64;
        Some((&mut self.sheet, len))
    }
}

impl Process {
    /// One call that hands out services.
    pub(super) fn poll_services(&mut self, now: coracle_core::time::Now) -> bool {
        let mut lent = self.memory.lend(&mut self.log);
        let mut services = self.services.lend();
        self.node.poll_services(now, &mut services, &mut lent)
    }

    fn poll_snapshot(&mut self) -> Option<SnapshotStep> {
        let taking = self.taking.as_mut()?;
        let mut lent: Lent<'_, SpyLog> = self.memory.lend(&mut self.log);
        let mut services = self.services.lend();
        Some(self.node.poll_snapshot(&mut services, taking, &mut lent))
    }
}

impl World {
    /// Writes the snapshot that is due, a few steps of it, and purges. True if there is more to do.
    pub(super) fn turn_snapshot(&mut self, member: usize) -> Result<bool, Stop> {
        let mut more = false;
        let due = |p: &Process| p.node.snapshot_due().is_some();
        let is_due = self.members[member].process.as_ref().is_some_and(due);
        // Chance is not asked for nothing.
        let steps = if is_due { self.rng.range(1, 4) } else { 0 };
        for _ in 0..steps {
            if !self.open_taking(member)? {
                break;
            }
            let Some(process) = &mut self.members[member].process else {
                return Ok(false);
            };
            let step = process.poll_snapshot();
            more = step == Some(SnapshotStep::More);
            match step {
                Some(SnapshotStep::Written(snapshot)) => self.store(member, snapshot)?,
                Some(SnapshotStep::Failed(position, _)) => {
                    process.taking = None;
                    self.stats.count(Fault::SnapshotFailed);
                    self.note(member as u8, "snapshot fails", position.get(), 0);
                }
                _ => {}
            }
            self.called(member)?;
        }
        self.purge(member)?;
        Ok(more)
    }

    /// A place for the snapshot that is due; false if there is none to write, or not now.
    fn open_taking(&mut self, member: usize) -> Result<bool, Stop> {
        let fails = !self.is_calm && !self.is_scripted && self.rng.chance(30_000);
        let fails_at = fails.then(|| self.rng.range(0, 1200) as usize);
        let is_full = self.members[member].full_until > self.now;
        let fails_at = if is_full { Some(0) } else { fails_at };
        let section = self.rng.below(SECTIONS as u64) as usize;
        let busy = self.rng.chance(300_000);
        let Some(process) = &mut self.members[member].process else {
            return Ok(false);
        };
        let Some(position) = process.node.snapshot_due().map(|p| p.get()) else {
            return Ok(false);
        };
        if process
            .taking
            .as_ref()
            .is_some_and(|t| t.position == position)
        {
            return Ok(true);
        }
        if process.storing.is_some() {
            // The disk is busy with the one before: it waits, or is given up.
            if busy {
                let error = SnapshotError::Io(ErrorKind::OutOfMemory);
                process
                    .node
                    .abandon_snapshot(&mut process.services.lend(), error);
                self.stats.count(Fault::SnapshotFailed);
                self.called(member)?;
            }
            return Ok(false);
        }
        let mut taking = Taking {
            position,
            sections: Default::default(),
        };
        taking.sections[section].fails_at = fails_at;
        process.taking = Some(taking);
        self.note(member as u8, "snapshot begins", position, 0);
        Ok(true)
    }

    /// A set is written: to the disk with it.
    fn store(&mut self, member: usize, snapshot: Snapshot) -> Result<(), Stop> {
        let m = &mut self.members[member];
        let Some(process) = &mut m.process else {
            return Ok(());
        };
        let Some(taking) = process.taking.take() else {
            return Ok(());
        };
        let position = snapshot.position.get();
        let mut flushes = Vec::new();
        // The consensus module's holds the digests of the others: a difference is found in those.
        let sections = taking.sections.iter().take(self.plan.sections());
        for (index, sheet) in sections.enumerate().rev() {
            self.checker
                .section(member as u8, position, index, &sheet.bytes)?;
            let name = Name::Section(position, index);
            m.disk.create(name, sheet.bytes.len());
            m.disk.write(name, 0, &sheet.bytes);
            flushes.push(m.disk.begin_flush(name));
        }
        process.storing = Some(Storing {
            snapshot,
            flushes,
            is_complete: false,
        });
        let life = m.life;
        self.note(member as u8, "snapshot written", position, 0);
        let after = self.flush_step(member);
        self.schedule(self.now + after, What::SnapshotFlush { member, life });
        Ok(())
    }

    pub(super) fn snapshot_flush_event(
        &mut self,
        member: usize,
        life: u32,
    ) -> Result<bool, Violation> {
        let m = &mut self.members[member];
        let Some(process) = m.process.as_mut().filter(|_| m.life == life) else {
            return Ok(true);
        };
        let Some(storing) = &mut process.storing else {
            return Ok(true);
        };
        let (disk, rng) = (&mut m.disk, &mut self.rng);
        storing
            .flushes
            .retain_mut(|flush| !disk.step_flush(flush, false, rng));
        let position = storing.snapshot.position;
        // A set may not be ahead of the log on the same disk: nobody could go on from it.
        let waits = !storing.flushes.is_empty() || process.journal.durable() < position;
        if waits || !storing.is_complete {
            if !waits {
                storing.is_complete = true;
                let name = Name::Complete(position.get());
                disk.create(name, SECTOR);
                disk.write(name, 0, &[1]);
                storing.flushes.push(disk.begin_flush(name));
            }
            let after = self.flush_step(member);
            self.schedule(self.now + after, What::SnapshotFlush { member, life });
            return Ok(true);
        }
        let snapshot = storing.snapshot;
        process.storing = None;
        process.node.handle_snapshot_stored(snapshot);
        let old: Vec<u64> = disk.snapshots().rev().skip(2).collect();
        for position in old {
            disk.remove_snapshot(position);
        }
        self.stats.snapshots += 1;
        self.note(member as u8, "snapshot stored", position.get(), 0);
        self.want_turn(member, 0);
        self.settle(member)
    }

    /// Deletes the files that are not needed any more.
    fn purge(&mut self, member: usize) -> Result<(), Stop> {
        let m = &mut self.members[member];
        let Some(process) = &mut m.process else {
            return Ok(());
        };
        // A log that is damaged below its snapshot starts there, and has files from below yet.
        let start = m.disk.log_start();
        // The newest slot is in the file of the newest durable byte.
        let slot = process.journal.durable().get().saturating_sub(1);
        let to = segment_of(process.node.purgeable().get().min(slot));
        if to <= start {
            return Ok(());
        }
        m.disk.purge_log(to);
        self.checker.purged(member as u8, to);
        let position = super::storage::position(to);
        process.node.handle_purged(position);
        process.journal.handle_purged(position);
        self.stats.purges += 1;
        self.note(member as u8, "purges", start, to);
        self.called(member)
    }

    /// The log never takes more of the disk than it may.
    pub(super) fn check_bounded(&self, member: usize) -> Checked {
        let bytes = self.members[member].disk.segments().count() as u64 * u64::from(SEGMENT);
        let most = self.plan.log_max;
        if most == 0 || bytes <= most {
            return Ok(());
        }
        let all: Vec<u64> = self.members[member].disk.segments().collect();
        let detail =
            format!("n{member} has {bytes} bytes of log on disk, {most} are allowed: {all:?}");
        broken("Bounded Log", detail)
    }

    /// What happens to snapshots while nobody looks: then the newest is loaded that can be.
    pub(super) fn load_newest(
        &mut self,
        member: usize,
        process: &mut Process,
        recovered: &Recovered,
    ) -> Result<(), Violation> {
        let (start, end) = (recovered.start.position.get(), recovered.tail.end.get());
        let sets: Vec<u64> = self.members[member].disk.snapshots().rev().collect();
        self.members[member].loaded = None;
        for position in sets {
            if position < start || position > end {
                if position > end && self.members[member].damage != Damage::None {
                    // It may be the one that is damaged, and is not looked at again.
                    self.members[member].disk.remove_snapshot(position);
                }
                continue;
            }
            let disk = &self.members[member].disk;
            let mut source = Reading {
                disk,
                position,
                sheet: Cursor::default(),
            };
            process.services = Services::new(self.plan.services, self.plan.services_act);
            let mut lent = process.memory.lend(&mut process.log);
            let mut services = process.services.lend();
            match process
                .node
                .load_snapshot(&mut source, &mut services, &mut lent)
            {
                Ok(_) => {
                    self.stats.loads += 1;
                    self.members[member].loaded = Some(position);
                    self.note(member as u8, "loads", position, 0);
                    return Ok(());
                }
                Err(error) => {
                    self.note(member as u8, "snapshot damaged", position, 0);
                    self.stats.count(Fault::SnapshotDamaged);
                    let known = self.members[member].damage != Damage::None;
                    if !known {
                        let detail = format!("n{member} cannot load {position}: {error}");
                        broken("Snapshots Can Be Loaded", detail)?;
                    }
                    self.members[member].disk.remove_snapshot(position);
                }
            }
        }
        process.services = Services::new(self.plan.services, self.plan.services_act);
        if start > 0 {
            let detail = format!("n{member} starts at {start} and has no snapshot");
            broken("Snapshots Can Be Loaded", detail)?;
        }
        Ok(())
    }

    /// Sets that were not complete are removed, what looks complete is made durable, and damage
    /// that was planned is done, if the member can live with it.
    pub(super) fn prepare_snapshots(&mut self, member: usize) {
        let m = &mut self.members[member];
        m.disk.remove_incomplete();
        let sets: Vec<u64> = m.disk.snapshots().rev().collect();
        for position in &sets {
            let name = Name::Complete(*position);
            m.disk.write(name, 0, &[1]);
            let mut flush = m.disk.begin_flush(name);
            m.disk.step_flush(&mut flush, true, &mut self.rng);
        }
        let start = m.disk.log_start();
        // A set just received is all that the member has: nothing else may be begun with.
        let doomed: &[u64] = match m.damage {
            Damage::Newest if start == 0 || sets.get(1).is_some_and(|older| *older >= start) => {
                &sets[..sets.len().min(1)]
            }
            Damage::All if start == 0 => &sets,
            _ => &[],
        };
        if doomed.is_empty() && m.damage != Damage::Log {
            m.damage = Damage::None;
        }
        for position in doomed {
            let section = self.rng.below(self.plan.sections() as u64) as usize;
            m.disk
                .damage(Name::Section(*position, section), &mut self.rng);
        }
    }
}
