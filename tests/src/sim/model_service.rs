//! One service as the committed log makes it: sessions, timers, messages on their way, and the room
//! for them, kept in ordinary maps and queues. Nothing here is the core's code.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::member::MESSAGE_MAX;
use super::mind::{Answer, Ground, Heard, Mind, SHARE};

/// A quarter of a share, in timers of 24 bytes.
const TIMERS: usize = SHARE / 4 / 24;
/// The rest, in bytes, of which each message takes four more than it is long.
const ROOM: usize = SHARE - SHARE / 4;

#[derive(Clone, Copy, Debug)]
struct Armed {
    deadline: i64,
    arming: u64,
}

#[derive(Clone, Debug, Default)]
struct State {
    sessions: BTreeSet<u64>,
    closing: BTreeSet<u64>,
    timers: BTreeMap<i64, Armed>,
    armings: u64,
    outgoing: VecDeque<Vec<u8>>,
    seen: u64,
}

/// See the module.
#[derive(Clone, Debug)]
pub struct ModelService {
    number: usize,
    state: State,
    mind: Mind,
    digests: Vec<(u64, u64)>,
    /// For a story, whose services do not act by themselves.
    heard: Option<Vec<String>>,
}

impl Ground for State {
    fn sessions(&self) -> Vec<u64> {
        self.sessions.iter().copied().collect()
    }

    fn arm(&mut self, correlation: i64, deadline: i64) -> Answer {
        if !self.timers.contains_key(&correlation) && self.timers.len() == TIMERS {
            return Answer::Full;
        }
        self.armings += 1;
        let arming = self.armings;
        self.timers.insert(correlation, Armed { deadline, arming });
        Answer::Done
    }

    fn cancel(&mut self, correlation: i64) -> Answer {
        match self.timers.remove(&correlation) {
            Some(_) => Answer::WasArmed,
            None => Answer::WasNotArmed,
        }
    }

    fn say(&mut self, bytes: &[u8]) -> Answer {
        if bytes.len() > MESSAGE_MAX {
            return Answer::TooLong;
        }
        let held: usize = self.outgoing.iter().map(|m| 4 + m.len()).sum();
        if held + 4 + bytes.len() > ROOM {
            return Answer::Full;
        }
        self.outgoing.push_back(bytes.to_vec());
        Answer::Done
    }

    fn close(&mut self, session: u64) -> Answer {
        if !self.sessions.contains(&session) {
            return Answer::UnknownSession;
        }
        self.closing.insert(session);
        Answer::Done
    }
}

impl ModelService {
    /// Before the first record.
    pub fn new(number: usize, acts: bool) -> Self {
        let mind = Mind::new(number, acts);
        Self {
            number,
            state: State::default(),
            digests: vec![(0, mind.digest)],
            mind,
            heard: (!acts).then(Vec::new),
        }
    }

    /// The digest after everything up to `position`.
    pub fn digest_at(&self, position: u64) -> u64 {
        // The newest ones are asked for most.
        let newest = self.digests.iter().rev().take(8);
        if let Some((_, digest)) = newest.into_iter().find(|(end, _)| *end <= position) {
            return *digest;
        }
        let after = self.digests.partition_point(|(end, _)| *end <= position);
        self.digests[after - 1].1
    }

    /// What it has heard of timers and services since the last call.
    pub fn take_heard(&mut self) -> Vec<String> {
        self.heard.as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// A session is open from here on.
    pub fn open(&mut self, session: u64) {
        self.state.sessions.insert(session);
    }

    /// A session is closed from here on.
    pub fn close(&mut self, session: u64) {
        self.state.sessions.remove(&session);
        self.state.closing.remove(&session);
    }

    /// A callback.
    pub fn hear(
        &mut self,
        time: i64,
        kind: u8,
        position: u64,
        number: u64,
        extra: i64,
        bytes: &[u8],
    ) {
        let heard = Heard {
            kind,
            position,
            time,
            number,
            extra,
            bytes,
        };
        if let Some(lines) = &mut self.heard {
            let number = self.number;
            match (kind, bytes) {
                (b'x', _) => lines.push(format!("service {number}: timer {}\n", heard.number)),
                (b's', [what]) => {
                    lines.push(format!("service {number}: {what} from {}\n", heard.number));
                }
                _ => {}
            }
        }
        self.mind.hear(&heard, &mut self.state);
        self.digests.push((position, self.mind.digest));
    }

    /// An event for an arming is committed; gives the deadline if it counts.
    ///
    /// # Errors
    /// It came before the deadline, or was never armed.
    pub fn fire(
        &mut self,
        time: i64,
        correlation: i64,
        arming: u64,
    ) -> Result<Option<i64>, String> {
        let number = self.number;
        if arming == 0 || arming > self.state.armings {
            return Err(format!("service {number} has no arming {arming}"));
        }
        let Some(armed) = self.state.timers.get(&correlation).copied() else {
            return Ok(None);
        };
        if armed.arming != arming {
            return Ok(None);
        }
        if time < armed.deadline {
            let due = armed.deadline;
            return Err(format!(
                "arming {arming} of service {number} is due at {due} and fires at {time}"
            ));
        }
        self.state.timers.remove(&correlation);
        // Who armed this one had armed the earlier ones: it knew what is due before.
        let due = (armed.deadline, armed.arming);
        let mut waiting = self.state.timers.values().map(|t| (t.deadline, t.arming));
        if let Some(missed) = waiting.find(|t| *t < due && t.1 < arming) {
            return Err(format!(
                "arming {arming} of service {number} fires before {missed:?} (deadline, arming)"
            ));
        }
        Ok(Some(armed.deadline))
    }

    /// A message of this service is committed.
    ///
    /// # Errors
    /// It is not the next one, or was never offered.
    pub fn take(&mut self, number: u64, payload: &[u8]) -> Result<(), String> {
        let service = self.number;
        let next = self.state.seen + 1;
        if number != next {
            return Err(format!(
                "message {number} of service {service} is there, {next} is next"
            ));
        }
        match self.state.outgoing.pop_front() {
            Some(message) if message == payload => {
                self.state.seen = number;
                Ok(())
            }
            _ => Err(format!(
                "message {number} of service {service} is not what it offered"
            )),
        }
    }

    /// What this service waits for and would have by `now`, if the cluster owed it nothing.
    pub fn owed(&self, now: i64) -> Option<String> {
        let number = self.number;
        let due = self.state.timers.iter().find(|(_, t)| t.deadline <= now);
        if let Some((correlation, armed)) = due {
            return Some(format!(
                "timer {correlation} of service {number}, {armed:?}, has not fired by {now}"
            ));
        }
        if !self.state.outgoing.is_empty() {
            let left = self.state.outgoing.len();
            return Some(format!(
                "{left} messages of service {number} are not in the log"
            ));
        }
        let open = self.state.closing.first()?;
        Some(format!(
            "session {open} that service {number} closed is open"
        ))
    }
}
