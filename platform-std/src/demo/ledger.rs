//! What became of each message, as far as the client was told.

/// What the client knows of one message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Answered: it must be in every member's history, once.
    Acknowledged,
    /// The leader it was sent to is lost: it may be there, once, or not.
    Unknown,
}

/// The outcomes of messages 0, 1, 2 ... in the order in which they were offered.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    outcomes: Vec<Option<Outcome>>,
    acknowledged: u64,
    lost: u64,
}

impl Ledger {
    /// The number of the next message.
    pub fn next(&self) -> u64 {
        self.outcomes.len() as u64
    }

    /// The next message was offered.
    pub fn offered(&mut self) {
        self.outcomes.push(None);
    }

    /// A message's outcome is known, or known to be unknown.
    pub fn settle(&mut self, number: u64, outcome: Outcome) {
        if let Some(entry) = self.outcomes.get_mut(number as usize) {
            *entry = Some(outcome);
            self.acknowledged += u64::from(outcome == Outcome::Acknowledged);
            self.lost += u64::from(outcome == Outcome::Unknown);
        }
    }

    /// How many were acknowledged.
    pub fn acknowledged(&self) -> u64 {
        self.acknowledged
    }

    /// How many are known to be of unknown outcome; those in flight are not among them yet.
    pub fn lost(&self) -> u64 {
        self.lost
    }

    /// A message's outcome. One that was never settled is unknown.
    pub fn outcome(&self, number: u64) -> Option<Outcome> {
        let entry = self.outcomes.get(number as usize)?;
        Some(entry.unwrap_or(Outcome::Unknown))
    }

    /// The numbers of the messages whose outcome is unknown.
    pub fn unknown(&self) -> Vec<u64> {
        (0..self.next())
            .filter(|n| self.outcome(*n) == Some(Outcome::Unknown))
            .collect()
    }
}
