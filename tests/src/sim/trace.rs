//! The last events of a run, kept as numbers and written out only when something has gone wrong.

use std::collections::VecDeque;

use super::clock::Nanos;

/// One thing that happened.
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    /// When, in virtual time.
    pub at: Nanos,
    /// The step of the run.
    pub step: u64,
    /// Whom it concerns: a member, or a client above the members.
    pub who: u8,
    /// What, in a word or two.
    pub what: &'static str,
    /// Two numbers that say more: positions, terms, peers.
    pub a: u64,
    /// The second one.
    pub b: u64,
}

/// A ring of the newest entries.
#[derive(Clone, Debug)]
pub struct Trace {
    entries: VecDeque<Entry>,
    keep: usize,
}

impl Trace {
    /// Keeps the newest `keep` entries.
    pub fn new(keep: usize) -> Self {
        Self {
            entries: VecDeque::with_capacity(keep),
            keep,
        }
    }

    /// Notes one thing.
    pub fn note(&mut self, entry: Entry) {
        if self.keep == 0 {
            return;
        }
        if self.entries.len() == self.keep {
            self.entries.pop_front();
        }
        self.entries.push_back(entry);
    }

    /// The newest entries, one a line, oldest first.
    pub fn text(&self) -> String {
        let mut text = String::new();
        for e in &self.entries {
            text.push_str(&format!(
                "  {:>9}.{:06} ms  step {:>8}  {:>3}  {:<24} {:>10} {:>10}\n",
                e.at / 1_000_000,
                e.at % 1_000_000,
                e.step,
                name(e.who),
                e.what,
                e.a,
                e.b
            ));
        }
        text
    }
}

/// Members are `n0` to `n6`, clients `c0` and up, the world itself `-`.
pub fn name(who: u8) -> String {
    match who {
        0..=6 => format!("n{who}"),
        WORLD => "-".into(),
        _ => format!("c{}", who - 7),
    }
}

/// Nobody in particular.
pub const WORLD: u8 = u8::MAX;
