//! How a member is.

use serde_json::{Value, json};

use crate::machine::Console;

/// How a member is, as it says itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    pub role: String,
    pub term: u64,
    pub leader: Option<u64>,
    pub appended: u64,
    pub durable: u64,
    pub committed: u64,
    pub applied: u64,
    pub digest: String,
    pub sessions: u64,
    /// Where its log starts.
    pub start: u64,
    /// Its newest snapshot's position; zero if it has none.
    pub snapshot: u64,
    /// Whether it counts: one with a new disk does not at first.
    pub votes: bool,
}

impl State {
    /// The lines of a console.
    pub fn of_console(console: &Console) -> Option<Self> {
        let (words, log) = console.member.as_ref()?;
        let number = |key| words.number(key);
        Some(Self {
            role: words.at(2).to_lowercase(),
            term: number("term")?,
            leader: number("leader"),
            appended: number("appended")?,
            durable: number("durable")?,
            committed: number("committed")?,
            applied: number("applied")?,
            digest: words.get("digest")?.to_owned(),
            sessions: number("sessions")?,
            start: log.number("start")?,
            snapshot: log.number("snapshot")?,
            votes: words.get("without").is_none(),
        })
    }

    /// The answer to a status query over the network.
    pub fn of_answer(json: &Value) -> Option<Self> {
        let number = |key: &str| json[key].as_u64();
        Some(Self {
            role: json["role"].as_str()?.to_owned(),
            term: number("term")?,
            leader: number("leader"),
            appended: number("appended")?,
            durable: number("durable")?,
            committed: number("committed")?,
            applied: number("applied")?,
            digest: json["digest"].as_str().unwrap_or_default().to_owned(),
            sessions: number("sessions").unwrap_or_default(),
            start: number("log_start")?,
            snapshot: number("snapshot").unwrap_or_default(),
            votes: json["votes"].as_bool()?,
        })
    }

    /// The same names as `coracle status --json` has.
    pub fn json(&self, member: usize) -> Value {
        json!({
            "member": member,
            "role": self.role,
            "term": self.term,
            "leader": self.leader,
            "appended": self.appended,
            "durable": self.durable,
            "committed": self.committed,
            "applied": self.applied,
            "digest": self.digest,
            "sessions": self.sessions,
            "log_start": self.start,
            "snapshot": (self.snapshot > 0).then_some(self.snapshot),
            "votes": self.votes,
        })
    }
}
