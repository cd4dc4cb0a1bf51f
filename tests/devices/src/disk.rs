//! A disk under a cache that is written back: what was not flushed may be lost, sector by sector.

use std::collections::BTreeSet;

use coracle_core::prng::Prng;
use coracle_embedded::Storage;

use super::PowerCut;
use super::power::Power;

const SECTOR: usize = 512;

/// A disk that survives a power cut sector by sector: what was not flushed is there, not there, or
/// torn.
#[derive(Clone, Debug)]
pub struct Disk {
    safe: Vec<u8>,
    seen: Vec<u8>,
    /// Sectors that were written since they were flushed.
    dirty: BTreeSet<usize>,
    pub(super) power: Power,
}

impl Disk {
    /// A disk of `len` bytes, all ones.
    pub fn new(len: usize) -> Self {
        let blank = vec![0xff; len];
        Self {
            safe: blank.clone(),
            seen: blank,
            dirty: BTreeSet::new(),
            power: Power::on(),
        }
    }

    /// What a board finds that starts again after a power cut.
    pub fn start_again(&mut self, prng: &mut Prng) {
        // All lost, all there, or each as it comes: every one is a trap of its own.
        let style = prng.below(5);
        for sector in std::mem::take(&mut self.dirty) {
            let from = sector * SECTOR;
            let to = (from + SECTOR).min(self.safe.len());
            let (safe, seen) = (&mut self.safe[from..to], &mut self.seen[from..to]);
            let len = match (style, prng.below(3)) {
                (0, _) | (2.., 0) => 0,
                (2.., 1) => prng.below(safe.len() as u64) as usize,
                _ => safe.len(),
            };
            safe[..len].copy_from_slice(&seen[..len]);
            seen.copy_from_slice(safe);
        }
        self.power.start_again();
    }

    /// What a board finds that was reset with its power on: the disk's cache lives on.
    pub fn reset(&mut self) {
        self.power.start_again();
    }

    /// What a power cut cannot take away.
    pub fn durable(&self) -> &[u8] {
        &self.safe
    }

    /// The same without what was not flushed.
    #[must_use]
    pub fn safe(&self) -> Self {
        Self {
            safe: self.safe.clone(),
            seen: self.safe.clone(),
            dirty: BTreeSet::new(),
            power: Power::on(),
        }
    }

    /// Bytes rot.
    pub fn rot(&mut self, at: usize, len: usize) {
        for bytes in [&mut self.safe, &mut self.seen] {
            bytes[at..at + len].iter_mut().for_each(|b| *b = !*b);
        }
    }
}

impl Storage for Disk {
    type Error = PowerCut;

    fn capacity(&self) -> u64 {
        self.seen.len() as u64
    }

    fn read(&mut self, at: u64, into: &mut [u8]) -> Result<(), PowerCut> {
        self.power.read()?;
        let at = at as usize;
        into.copy_from_slice(&self.seen[at..at + into.len()]);
        Ok(())
    }

    fn write(&mut self, at: u64, bytes: &[u8]) -> Result<(), PowerCut> {
        assert!(at.is_multiple_of(32) && bytes.len().is_multiple_of(32));
        if self.power.change()? {
            return Err(PowerCut);
        }
        let at = at as usize;
        let end = at + bytes.len();
        self.seen[at..end].copy_from_slice(bytes);
        self.dirty.extend(at / SECTOR..end.div_ceil(SECTOR));
        Ok(())
    }

    fn flush(&mut self) -> Result<(), PowerCut> {
        if self.power.change()? {
            return Err(PowerCut);
        }
        for sector in std::mem::take(&mut self.dirty) {
            let from = sector * SECTOR;
            let to = (from + SECTOR).min(self.safe.len());
            self.safe[from..to].copy_from_slice(&self.seen[from..to]);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_flushed_survives_every_power_cut() {
        let mut kept = 0;
        for seed in 0..50 {
            let mut disk = Disk::new(4 * SECTOR);
            disk.write(0, &[1; SECTOR]).unwrap();
            disk.flush().unwrap();
            disk.write(0, &[2; 2 * SECTOR]).unwrap();
            assert!(disk.durable().starts_with(&[1; SECTOR]));
            disk.start_again(&mut Prng::new(seed));
            let torn = disk.durable()[..SECTOR].iter().rposition(|b| *b == 2);
            let whole = torn.map_or(0, |at| at + 1);
            assert_eq!(disk.durable()[whole..SECTOR], [1; SECTOR][whole..]);
            kept += usize::from(whole > 0);
        }
        assert!((10..40).contains(&kept), "{kept}");
    }

    #[test]
    fn a_reset_keeps_what_was_written() {
        let mut disk = Disk::new(SECTOR);
        disk.write(32, &[3; 32]).unwrap();
        disk.power.cut_after(0);
        assert_eq!(disk.write(64, &[4; 32]), Err(PowerCut));
        assert_eq!(disk.read(0, &mut [0; 32]), Err(PowerCut));
        disk.reset();
        let mut read = [0; 32];
        disk.read(32, &mut read).unwrap();
        assert_eq!(read, [3; 32]);
        assert_eq!(disk.durable()[32], 0xff);
    }
}
