//! A flash chip that does not exist. It forgets nothing, but it must be erased before it is
//! written, and the power may go in the middle of either.

use coracle_core::prng::Prng;
use embedded_storage::nor_flash::{
    ErrorType, NorFlash, NorFlashError, NorFlashErrorKind, ReadNorFlash,
};

use super::PowerCut;
use super::power::Power;

const WORD: usize = 8;
/// What is erased at once, in bytes.
pub const UNIT: usize = 4096;

impl NorFlashError for PowerCut {
    fn kind(&self) -> NorFlashErrorKind {
        NorFlashErrorKind::Other
    }
}

/// How a word is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Word {
    Erased,
    Written,
    /// The power went while it was written or erased: what is read of it differs from time to time.
    Weak,
}

/// See the module's text.
#[derive(Clone, Debug)]
pub struct Chip {
    pub(super) bytes: Vec<u8>,
    words: Vec<Word>,
    /// How often each unit was erased.
    pub(super) erased: Vec<u32>,
    pub(super) power: Power,
    prng: Prng,
}

impl Chip {
    /// A chip of `len` bytes, or a few more, that was used for something else.
    pub fn new(len: usize) -> Self {
        let len = len.next_multiple_of(UNIT);
        Self {
            // What a chip has in it that was used for something else.
            bytes: vec![0x5a; len],
            words: vec![Word::Written; len / WORD],
            erased: vec![0; len / UNIT],
            power: Power::on(),
            prng: Prng::new(7),
        }
    }

    /// What a board finds that starts again.
    pub fn start_again(&mut self, prng: &mut Prng) {
        self.power.start_again();
        self.prng = Prng::new(prng.below(u64::MAX));
    }
}

impl ErrorType for Chip {
    type Error = PowerCut;
}

impl ReadNorFlash for Chip {
    const READ_SIZE: usize = 4;

    fn read(&mut self, offset: u32, bytes: &mut [u8]) -> Result<(), PowerCut> {
        self.power.read()?;
        let at = offset as usize;
        assert!(at.is_multiple_of(4) && bytes.len().is_multiple_of(4));
        bytes.copy_from_slice(&self.bytes[at..at + bytes.len()]);
        for (n, byte) in bytes.iter_mut().enumerate() {
            if self.words[(at + n) / WORD] == Word::Weak && self.prng.below(16) == 0 {
                *byte ^= 1 << self.prng.below(8);
            }
        }
        Ok(())
    }

    fn capacity(&self) -> usize {
        self.bytes.len()
    }
}

impl NorFlash for Chip {
    const WRITE_SIZE: usize = WORD;
    const ERASE_SIZE: usize = UNIT;

    fn write(&mut self, offset: u32, bytes: &[u8]) -> Result<(), PowerCut> {
        let at = offset as usize;
        assert!(at.is_multiple_of(WORD) && bytes.len().is_multiple_of(WORD));
        let words = at / WORD..(at + bytes.len()) / WORD;
        for word in words.clone() {
            assert_eq!(self.words[word], Word::Erased, "written twice: {offset:#x}");
        }
        let is_cut = self.power.change()?;
        let most = (bytes.len() / WORD) as u64;
        let done = if is_cut {
            self.prng.below(most + 1)
        } else {
            most
        } as usize;
        let len = done * WORD;
        self.bytes[at..at + len].copy_from_slice(&bytes[..len]);
        self.words[words.start..words.start + done].fill(Word::Written);
        if !is_cut {
            return Ok(());
        }
        if done < most as usize {
            // Of the word that was being written, some bits are.
            let (from, to) = (len, len + WORD);
            let torn = self.bytes[at + from..at + to].iter_mut();
            let depth = [0, 0xff][self.prng.below(2) as usize];
            for (byte, meant) in torn.zip(&bytes[from..to]) {
                *byte = meant | (self.prng.below(256) as u8 & depth);
            }
            self.words[words.start + done] = Word::Weak;
        }
        Err(PowerCut)
    }

    fn erase(&mut self, from: u32, to: u32) -> Result<(), PowerCut> {
        let (from, to) = (from as usize, to as usize);
        assert!(from.is_multiple_of(UNIT) && to.is_multiple_of(UNIT) && from < to);
        let is_cut = self.power.change()?;
        let most = ((to - from) / UNIT) as u64;
        let done = if is_cut {
            self.prng.below(most + 1)
        } else {
            most
        } as usize;
        let end = from + done * UNIT;
        self.bytes[from..end].fill(0xff);
        self.words[from / WORD..end / WORD].fill(Word::Erased);
        for unit in from / UNIT..end / UNIT {
            self.erased[unit] += 1;
        }
        if !is_cut {
            return Ok(());
        }
        if done < most as usize {
            // Of the unit that was being erased, some bits are, and none is to be relied upon.
            let depth = self.prng.below(4);
            for at in end..end + UNIT {
                self.bytes[at] |= match depth {
                    0 => 0,
                    1 => self.prng.below(256) as u8 & self.prng.below(256) as u8,
                    2 => self.prng.below(256) as u8 | self.prng.below(256) as u8,
                    _ => 0xff,
                };
            }
            self.words[end / WORD..(end + UNIT) / WORD].fill(Word::Weak);
        }
        Err(PowerCut)
    }
}
