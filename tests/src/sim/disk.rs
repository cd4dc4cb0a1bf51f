//! A disk of one member: files of 512-byte sectors under a write-back cache.
//!
//! A write lands in the cache. A flush of one file takes several steps; each puts some dirty
//! sectors on the medium, with the bytes they have by then, and only its end promises anything. A
//! kill of the process keeps the cache, but what was dirty may have become *stale*: clean in the
//! cache's books and never written (as after a failed write-back), so that only writing it again
//! helps. A loss of power keeps, for each sector that was not on the medium, the old bytes or the
//! new ones.

use std::collections::BTreeMap;

use super::rng::Rng;

/// What a medium writes or loses whole.
pub const SECTOR: usize = 512;

/// Which file: the two slots of the node state, a segment, or a part of a snapshot.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
pub enum Name {
    /// Term, vote and identity.
    State,
    /// The log segment with this base.
    Segment(u64),
    /// A section, by number, of the snapshot of this position.
    Section(u64, usize),
    /// What makes the snapshot of this position complete: the new name of its directory.
    Complete(u64),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Sector {
    /// Cache and medium agree.
    Clean,
    /// The cache is newer; the next flush writes it.
    Dirty,
    /// The cache is newer, but no flush will write it.
    Stale,
}

#[derive(Clone, Debug)]
struct File {
    cache: Vec<u8>,
    medium: Vec<u8>,
    sectors: Vec<Sector>,
}

impl File {
    fn new(len: usize) -> Self {
        Self {
            cache: vec![0; len],
            medium: vec![0; len],
            sectors: vec![Sector::Clean; len.div_ceil(SECTOR)],
        }
    }

    fn write(&mut self, at: usize, bytes: &[u8]) {
        let end = at + bytes.len();
        self.cache[at..end].copy_from_slice(bytes);
        for sector in at / SECTOR..end.div_ceil(SECTOR) {
            self.sectors[sector] = Sector::Dirty;
        }
    }

    fn persist(&mut self, sector: usize) {
        let from = sector * SECTOR;
        let to = (from + SECTOR).min(self.cache.len());
        self.medium[from..to].copy_from_slice(&self.cache[from..to]);
        self.sectors[sector] = Sector::Clean;
    }

    fn revert(&mut self, sector: usize) {
        let from = sector * SECTOR;
        let to = (from + SECTOR).min(self.cache.len());
        self.cache[from..to].copy_from_slice(&self.medium[from..to]);
        self.sectors[sector] = Sector::Clean;
    }
}

/// One member's files.
#[derive(Clone, Debug, Default)]
pub struct Disk {
    files: BTreeMap<Name, File>,
    /// What the labels of the segment files say: the log's first byte.
    log_start: u64,
}

/// A flush under way: the sectors that were dirty when it began and are not on the medium yet.
#[derive(Clone, Debug)]
pub struct Flush {
    /// The file.
    pub name: Name,
    left: Vec<usize>,
}

impl Disk {
    /// Makes a file of `len` zero bytes, durable at once (created, flushed and its directory too,
    /// before it is used). Does nothing if it is there.
    pub fn create(&mut self, name: Name, len: usize) {
        self.files.entry(name).or_insert_with(|| File::new(len));
    }

    /// Writes into the cache. The file exists and is long enough.
    pub fn write(&mut self, name: Name, at: usize, bytes: &[u8]) {
        if let Some(file) = self.files.get_mut(&name) {
            file.write(at, bytes);
        }
    }

    /// The file as the process sees it.
    pub fn cached(&self, name: Name) -> Option<&[u8]> {
        self.files.get(&name).map(|f| f.cache.as_slice())
    }

    /// The file as it is on the medium.
    pub fn durable(&self, name: Name) -> Option<&[u8]> {
        self.files.get(&name).map(|f| f.medium.as_slice())
    }

    /// The bases of all segments, ascending.
    pub fn segments(&self) -> impl Iterator<Item = u64> {
        self.files.keys().filter_map(|name| match name {
            Name::Segment(base) => Some(*base),
            _ => None,
        })
    }

    /// The positions of all snapshots that look complete, ascending.
    pub fn snapshots(&self) -> impl DoubleEndedIterator<Item = u64> {
        self.files.keys().filter_map(|name| match name {
            // Made in the directory, and perhaps not yet on the medium.
            Name::Complete(at) if self.files[name].cache.first() == Some(&1) => Some(*at),
            _ => None,
        })
    }

    /// The first byte of the log.
    pub fn log_start(&self) -> u64 {
        self.log_start
    }

    /// Removes the log's files below `start`, which is where one of them begins.
    pub fn purge_log(&mut self, start: u64) {
        self.log_start = start;
        self.files
            .retain(|name, _| !matches!(name, Name::Segment(base) if *base < start));
    }

    /// Removes the whole log: what comes in its place starts at `start`.
    pub fn restart_log(&mut self, start: u64) {
        self.log_start = start;
        self.files
            .retain(|name, _| !matches!(name, Name::Segment(_)));
    }

    /// Removes a file, durably.
    pub fn remove(&mut self, name: Name) {
        self.files.remove(&name);
    }

    /// Removes every part of the snapshot of `position`, what makes it complete first.
    pub fn remove_snapshot(&mut self, position: u64) {
        self.remove(Name::Complete(position));
        self.files
            .retain(|name, _| !matches!(name, Name::Section(at, _) if *at == position));
    }

    /// Keeps no sections but those of complete snapshots.
    pub fn remove_incomplete(&mut self) {
        let complete: Vec<u64> = self.snapshots().collect();
        self.files
            .retain(|name, _| !matches!(name, Name::Section(at, _) if !complete.contains(at)));
    }

    /// The log starts at `start` now, in whatever file that is.
    pub fn start_log_at(&mut self, start: u64) {
        self.purge_log(super::storage::segment_of(start));
        self.log_start = start;
    }

    /// Bytes of a file rot, on the medium.
    pub fn rot(&mut self, name: Name, at: usize, len: usize) {
        if let Some(file) = self.files.get_mut(&name) {
            for bytes in [&mut file.cache, &mut file.medium] {
                for byte in &mut bytes[at..at + len] {
                    *byte = !*byte;
                }
            }
        }
    }

    /// A bit of a file rots, on the medium.
    pub fn damage(&mut self, name: Name, rng: &mut Rng) {
        if let Some(file) = self.files.get_mut(&name) {
            let bit = rng.below(8 * file.cache.len() as u64) as usize;
            for bytes in [&mut file.cache, &mut file.medium] {
                bytes[bit / 8] ^= 1 << (bit % 8);
            }
        }
    }

    /// Begins a flush of one file.
    pub fn begin_flush(&self, name: Name) -> Flush {
        let left = self.files.get(&name).map_or_else(Vec::new, |file| {
            let dirty = |(i, s): (usize, &Sector)| (*s == Sector::Dirty).then_some(i);
            file.sectors.iter().enumerate().filter_map(dirty).collect()
        });
        Flush { name, left }
    }

    /// Puts a random part of what is left on the medium; true once all of it is.
    pub fn step_flush(&mut self, flush: &mut Flush, last: bool, rng: &mut Rng) -> bool {
        let Some(file) = self.files.get_mut(&flush.name) else {
            return true;
        };
        let some = rng.range(1, 3) * 333_333;
        flush.left.retain(|sector| {
            let now = last || rng.chance(some);
            if now && file.sectors[*sector] == Sector::Dirty {
                file.persist(*sector);
            }
            !now
        });
        flush.left.is_empty()
    }

    /// The process dies; the cache lives on. Each dirty sector goes stale `stale` times in a
    /// million.
    pub fn kill(&mut self, stale: u64, rng: &mut Rng) {
        for file in self.files.values_mut() {
            for sector in &mut file.sectors {
                if *sector == Sector::Dirty && rng.chance(stale) {
                    *sector = Sector::Stale;
                }
            }
        }
    }

    /// The power goes: every sector that is not on the medium is there after all, or is as it was.
    /// Returns how many were lost while others were kept.
    pub fn lose_power(&mut self, rng: &mut Rng) -> u64 {
        // All lost, all kept, or anything between: each is a different trap.
        let kept = rng.pick(&[0, 100_000, 500_000, 900_000, 1_000_000]);
        let mut lost = 0;
        for file in self.files.values_mut() {
            for i in 0..file.sectors.len() {
                match file.sectors[i] {
                    Sector::Clean => {}
                    Sector::Dirty if rng.chance(kept) => file.persist(i),
                    Sector::Dirty | Sector::Stale => {
                        file.revert(i);
                        lost += 1;
                    }
                }
            }
        }
        lost
    }

    /// Everything is gone.
    pub fn wipe(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STATE: Name = Name::State;

    fn written() -> (Disk, Rng) {
        let mut disk = Disk::default();
        disk.create(STATE, 2048);
        disk.write(STATE, 100, &[7; 1000]);
        (disk, Rng::new(3))
    }

    #[test]
    fn only_a_finished_flush_survives_any_loss_of_power() {
        for seed in 0..50 {
            let (mut disk, _) = written();
            let mut rng = Rng::new(seed);
            let mut flush = disk.begin_flush(STATE);
            while !disk.step_flush(&mut flush, false, &mut rng) {}
            disk.write(STATE, 1500, &[9; 10]);
            disk.lose_power(&mut rng);
            assert_eq!(disk.cached(STATE).unwrap()[100..1100], [7; 1000]);
        }
    }

    #[test]
    fn an_unflushed_write_is_lost_by_power_and_kept_by_a_kill() {
        let (mut disk, mut rng) = written();
        disk.kill(1_000_000, &mut rng);
        assert_eq!(disk.cached(STATE).unwrap()[100], 7);
        let mut flush = disk.begin_flush(STATE);
        assert!(disk.step_flush(&mut flush, true, &mut rng));
        disk.lose_power(&mut rng);
        let after = disk.cached(STATE).unwrap();
        assert_eq!(after[100..1100], [0; 1000], "stale, so no flush wrote it");
    }

    #[test]
    fn a_loss_of_power_tears_between_sectors_only() {
        let mut torn = 0;
        for seed in 0..50 {
            let (mut disk, _) = written();
            disk.lose_power(&mut Rng::new(seed));
            let after = disk.cached(STATE).unwrap();
            let kept = [after[100] == 7, after[512] == 7, after[1024] == 7];
            assert!(after[100..512].iter().all(|b| (*b == 7) == kept[0]));
            assert!(after[512..1024].iter().all(|b| (*b == 7) == kept[1]));
            torn += u32::from(kept[0] != kept[1]);
        }
        assert!(torn > 0);
    }
}
