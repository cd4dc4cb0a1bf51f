//! The file in which a node's counters are: see `tests/copies/src/table.rs`, which writes it.

use std::collections::BTreeMap;
use std::path::Path;

/// The kinds of calls, in the order of the file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Into sockets.
    Send,
    /// Out of sockets.
    Receive,
    /// Into files at an offset: the log.
    Write,
    /// Out of files at an offset.
    Read,
    /// `write` and `read`: a first file's zeros, wake-ups, lines of the program's log.
    Other,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::Send,
        Self::Receive,
        Self::Write,
        Self::Read,
        Self::Other,
    ];
}

const PLACES_AT: usize = 256;

/// What was counted of one kind, or at one place.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counts {
    /// Calls.
    pub calls: u64,
    /// Bytes of anything.
    pub bytes: u64,
    /// Bytes of payload.
    pub marked: u64,
}

impl Counts {
    /// Of another place as well.
    pub fn add(&mut self, more: Self) {
        self.calls += more.calls;
        self.bytes += more.bytes;
        self.marked += more.marked;
    }

    fn since(self, before: Self) -> Self {
        Self {
            calls: self.calls - before.calls,
            bytes: self.bytes - before.bytes,
            marked: self.marked - before.marked,
        }
    }
}

/// All counters of a process at one moment, or what they have grown by.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Table {
    kinds: [Counts; 5],
    /// By the address that the call returns to.
    pub places: BTreeMap<u64, Counts>,
}

impl Table {
    /// Reads the file.
    ///
    /// # Errors
    /// There is none, nothing was counted in it, or it did not hold all that was to be counted.
    pub fn read(path: &Path) -> Result<Self, String> {
        let bytes = std::fs::read(path).map_err(|error| format!("{}: {error}", path.display()))?;
        Self::parse(&bytes).map_err(|what| format!("{}: {what}", path.display()))
    }

    fn parse(bytes: &[u8]) -> Result<Self, &'static str> {
        let words: Vec<u64> = bytes
            .chunks_exact(8)
            .map(|word| {
                word.iter()
                    .rev()
                    .fold(0, |n, byte| n << 8 | u64::from(*byte))
            })
            .collect();
        let counts = |words: &[u64]| match *words {
            [calls, bytes, marked] => Counts {
                calls,
                bytes,
                marked,
            },
            _ => Counts::default(),
        };
        let (Some(head), Some(places)) = (words.get(..PLACES_AT / 8), words.get(PLACES_AT / 8..))
        else {
            return Err("the process has counted nothing: was the library preloaded?");
        };
        if head[0] > 0 {
            return Err("more places copy than the table holds");
        }
        let mut kinds = [Counts::default(); 5];
        for (kind, words) in kinds.iter_mut().zip(head[1..].chunks_exact(3)) {
            *kind = counts(words);
        }
        let places = places
            .chunks_exact(4)
            .filter(|place| place[0] != 0)
            .map(|place| (place[0], counts(&place[1..])))
            .collect();
        Ok(Self { kinds, places })
    }

    /// What went through calls of a kind.
    pub fn of(&self, kind: Kind) -> Counts {
        self.kinds[kind as usize]
    }

    /// What has come since `before`.
    pub fn since(&self, before: &Self) -> Self {
        let kind = |at: usize| self.kinds[at].since(before.kinds[at]);
        let place = |(address, counts): (&u64, &Counts)| {
            let earlier = before.places.get(address).copied().unwrap_or_default();
            (*address, counts.since(earlier))
        };
        Self {
            kinds: [0, 1, 2, 3, 4].map(kind),
            places: self.places.iter().map(place).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(words: &[u64]) -> Vec<u8> {
        words.iter().flat_map(|word| word.to_le_bytes()).collect()
    }

    #[test]
    fn counters_are_where_they_are_written_and_grow() {
        let mut words = vec![0; 32 + 8];
        words[1..4].copy_from_slice(&[1, 100, 64]);
        words[4..7].copy_from_slice(&[2, 200, 128]);
        words[36..40].copy_from_slice(&[0x1234, 3, 300, 192]);
        let before = Table::parse(&bytes(&words)).unwrap();
        let place = Counts {
            calls: 3,
            bytes: 300,
            marked: 192,
        };
        assert_eq!(before.of(Kind::Send).bytes, 100);
        assert_eq!(before.of(Kind::Receive).marked, 128);
        assert_eq!(before.places, [(0x1234, place)].into());
        (words[2], words[39]) = (150, 200);
        let after = Table::parse(&bytes(&words)).unwrap().since(&before);
        assert_eq!(after.of(Kind::Send).bytes, 50);
        assert_eq!(after.places[&0x1234].marked, 8);
        words[0] = 1;
        assert!(Table::parse(&bytes(&words)).is_err());
        assert!(Table::parse(&[]).is_err());
    }
}
