//! Snapshots that come from the leader: stored as they arrive, and started from.

use coracle_core::node::{Install, SnapshotId};
use coracle_core::snapshot::{BEGIN_LENGTH, Begin};
use coracle_core::units::{Section, ServiceId};

use super::check::{Checked, broken};
use super::disk::{Disk, Name, SECTOR};
use super::snapshots::SECTIONS;
use super::stats::Fault;
use super::world::{Stop, World};

/// A set that is coming, as far as it is stored: it outlives the process, but no loss of power.
#[derive(Clone, Debug)]
pub struct Incoming {
    id: SnapshotId,
    sections: [Vec<u8>; SECTIONS],
    /// Which section comes now.
    index: usize,
}

impl Incoming {
    const fn new(id: SnapshotId) -> Self {
        Self {
            id,
            sections: [const { Vec::new() }; SECTIONS],
            index: 0,
        }
    }

    /// Where a process that starts again goes on.
    pub fn resume(&self) -> (SnapshotId, Section, u64) {
        let service = self.index.checked_sub(1);
        let service = service.and_then(|number| ServiceId::new(number as u8));
        let section = service.map_or(Section::Consensus, Section::Service);
        (self.id, section, self.sections[self.index].len() as u64)
    }
}

/// What the snapshot of `position` says of the log there, if it is on this disk.
pub fn begin_of(disk: &Disk, position: u64) -> Option<Begin> {
    let bytes = disk.cached(Name::Section(position, 0))?;
    Begin::decode(bytes.first_chunk::<BEGIN_LENGTH>()?).ok()
}

impl World {
    /// Does what the node owes the snapshot that it receives, if it receives one.
    pub(super) fn turn_install(&mut self, member: usize) -> Result<(), Stop> {
        let may_fail = !self.is_calm && !self.is_scripted;
        let m = &mut self.members[member];
        let Some(process) = &mut m.process else {
            return Ok(());
        };
        let lent = process.memory.lend(&mut process.log);
        let Some(install) = process.node.poll_install(&lent) else {
            return Ok(());
        };
        if may_fail && self.rng.chance(20_000) {
            self.stats.count(Fault::InstallFailed);
            process.node.handle_installed(install, false);
            return self.called(member);
        }
        match install {
            Install::Store {
                snapshot,
                section,
                offset,
                len,
            } => {
                if m.incoming.as_ref().is_none_or(|i| i.id != snapshot) {
                    m.incoming = Some(Incoming::new(snapshot));
                }
                let index = usize::from(section.to_wire());
                if let Some(incoming) = &mut m.incoming {
                    incoming.index = index;
                    let bytes = &mut incoming.sections[index];
                    if offset == 0 {
                        bytes.clear();
                    }
                    if bytes.len() as u64 != offset {
                        let have = bytes.len();
                        let detail = format!("n{member} stores at {offset}, has {have}");
                        broken("Installs In Order", detail)?;
                    }
                    bytes.extend_from_slice(&process.memory.catchup[..len]);
                }
                process.node.handle_installed(install, true);
                self.note(member as u8, "stores a piece", offset, len as u64);
                self.called(member)
            }
            Install::Finish { snapshot } => {
                self.finish_install(member, snapshot)?;
                // The log is replaced at the start, also if the machine dies right here.
                match may_fail && self.rng.chance(200_000) {
                    true => Err(Stop::Crash { power: true }),
                    false => Err(Stop::Anew { is_rebuilt: true }),
                }
            }
        }
    }

    /// The set is whole: it is made durable. It takes the log's place at the next start.
    fn finish_install(&mut self, member: usize, id: SnapshotId) -> Checked {
        let position = id.position.get();
        let m = &mut self.members[member];
        let incoming = m.incoming.take().filter(|incoming| incoming.id == id);
        let Some(incoming) = incoming else {
            let detail = format!("n{member} shall finish {position} and has stored nothing of it");
            return broken("Installs In Order", detail);
        };
        let write = |disk: &mut Disk, name: Name, bytes: &[u8]| {
            disk.remove(name);
            disk.create(name, bytes.len());
            disk.write(name, 0, bytes);
            let mut flush = disk.begin_flush(name);
            disk.step_flush(&mut flush, true, &mut super::rng::Rng::new(0));
        };
        let sections = incoming.sections.iter().take(self.plan.sections());
        for (index, bytes) in sections.enumerate() {
            self.checker
                .installed(member as u8, position, index, bytes)?;
            write(&mut m.disk, Name::Section(position, index), bytes);
        }
        let mut complete = [0; SECTOR];
        complete[0] = 1;
        write(&mut m.disk, Name::Complete(position), &complete);
        self.stats.installs += 1;
        self.note(member as u8, "installs", position, 0);
        Ok(())
    }

    /// The process ends by itself and starts again at once.
    pub(super) fn start_anew(&mut self, member: usize, is_rebuilt: bool) -> Checked {
        let m = &mut self.members[member];
        m.process = None;
        m.life += 1;
        m.fuse = None;
        m.fuse_at = None;
        self.start(member)?;
        if let Some(process) = self.members[member].process.as_mut().filter(|_| is_rebuilt) {
            process.node.handle_rebuilt();
        }
        self.observe(member)
    }
}
