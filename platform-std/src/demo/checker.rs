//! The verdict: what the stopped data directories say, read without the nodes, the client or the
//! core.
//!
//! Each member's log is walked from its first frame to what its service had executed, and its
//! messages are compared with what was offered: every acknowledged message must be there, once, in
//! the order of the offers; one of unknown outcome may be there, once, in its place; nothing else
//! may be there. A log that was purged is compared from where it starts; with the others, from
//! where the last of them does. Wherever the stream was at rest, it is known which offers are below
//! and which above.

use std::path::Path;

use super::ledger::{Ledger, Outcome};
use super::source::Source;
use crate::cli::Failure;
use crate::counters::{Counter, CountersReader, Reading};
use crate::crc::CRC32C;
use crate::walk::{Kind, Records, Walk};

/// The stream was at rest: every offer below `next` had its outcome, and all that came of them was
/// executed by all members, and is below `position`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rest {
    /// The position of the log.
    pub position: u64,
    /// The number of the next offer.
    pub next: u64,
}

/// What one directory says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// What the service had executed, by the counters file.
    pub applied: u64,
    /// The digest of its state there, by the counters file.
    pub digest: u64,
    /// Where the log starts.
    pub start: u64,
    /// Where the good frames of the log end.
    pub end: u64,
    /// How many messages of clients are in the log below `applied`.
    pub checked: u64,
    /// How many messages of clients are in the log below `applied`, from where all members have it.
    pub messages: u64,
    /// A checksum over all of these, in order.
    pub order: u32,
    /// The chain of the last frame below `applied`.
    pub chain: u32,
    /// The messages of unknown outcome that are there.
    pub executed_unknown: Vec<u64>,
    /// What is wrong.
    pub faults: Vec<String>,
}

/// The messages of a log against the offers: every way in which the log may go on from here.
///
/// After a failover some messages of unknown outcome may be missing, and equal messages may follow
/// one another, so there may be several ways to read a log; each is the number of the next offer,
/// with the messages of unknown outcome that were there on that way.
struct Match<'a> {
    source: &'a Source,
    ledger: &'a Ledger,
    ways: Vec<(u64, Vec<u64>)>,
    expected: Vec<u8>,
}

impl<'a> Match<'a> {
    /// Of a log that goes on at any of these offers.
    fn new(source: &'a Source, ledger: &'a Ledger, at: impl Iterator<Item = u64>) -> Self {
        Self {
            source,
            ledger,
            ways: at.map(|number| (number, Vec::new())).collect(),
            expected: Vec::new(),
        }
    }

    /// The next message of the log. False if it fits nowhere.
    fn take(&mut self, message: &[u8]) -> bool {
        let mut ways: Vec<(u64, Vec<u64>)> = Vec::new();
        for (from, executed) in std::mem::take(&mut self.ways) {
            let mut at = from;
            while let Some(outcome) = self.ledger.outcome(at) {
                self.source.message(at, &mut self.expected);
                let is_new = ways.iter().all(|(next, _)| *next != at + 1);
                if self.expected == message && is_new {
                    let mut executed = executed.clone();
                    if outcome == Outcome::Unknown {
                        executed.push(at);
                    }
                    ways.push((at + 1, executed));
                }
                if outcome == Outcome::Acknowledged {
                    break;
                }
                at += 1;
            }
        }
        self.ways = ways;
        !self.ways.is_empty()
    }

    /// Here the offers below `next` end: the first acknowledged message that is missing, if one is.
    fn rest(&mut self, next: u64) -> Result<(), u64> {
        let mut missing = next;
        for (from, executed) in std::mem::take(&mut self.ways) {
            let lost =
                (from..next).find(|n| self.ledger.outcome(*n) == Some(Outcome::Acknowledged));
            match lost {
                None if from <= next => {
                    self.ways = vec![(next, executed)];
                    return Ok(());
                }
                None => {}
                Some(number) => missing = missing.min(number),
            }
        }
        Err(missing)
    }

    /// The log has ended: the messages of unknown outcome that were in it; or the first
    /// acknowledged message that is missing.
    fn end(mut self) -> Result<Vec<u64>, u64> {
        self.rest(self.ledger.next())?;
        Ok(self.ways.pop().map_or(vec![], |(_, executed)| executed))
    }
}

/// Where the log of a stopped member starts; 0, if there is none.
///
/// # Errors
/// A directory that cannot be read at all.
pub fn log_start(dir: &Path) -> Result<u64, Failure> {
    Ok(Walk::open(dir)?.map_or(0, |walk| walk.start()))
}

/// Where the log of a member may go on with which offers, and all that is known of its places.
#[derive(Clone, Copy, Debug)]
pub struct Known<'a> {
    /// What was offered.
    pub source: &'a Source,
    /// What became of it.
    pub ledger: &'a Ledger,
    /// Where the stream was at rest, in order.
    pub rests: &'a [Rest],
}

impl<'a> Known<'a> {
    /// The offers that a log which starts at `start` may begin with.
    fn of(self, start: u64) -> Match<'a> {
        let Known {
            source,
            ledger,
            rests,
        } = self;
        let below = rests.iter().filter(|rest| rest.position <= start);
        let first = below.map(|rest| rest.next).max().unwrap_or(0);
        let last = if start == 0 { 0 } else { ledger.next() };
        Match::new(source, ledger, first..=last)
    }
}

impl Found {
    /// What is known before the log was looked at.
    fn nothing(counters: &Reading) -> Self {
        Self {
            applied: counters.get(Counter::Applied),
            digest: counters.get(Counter::Digest),
            start: 0,
            end: 0,
            checked: 0,
            messages: 0,
            order: 0,
            chain: 0,
            executed_unknown: Vec::new(),
            faults: Vec::new(),
        }
    }
}

/// Reads one stopped member's directory. The logs of all members have what is at `common` and
/// behind.
///
/// # Errors
/// A directory that cannot be read at all; what is wrong with its content is in `faults`.
pub fn read(dir: &Path, known: Known<'_>, common: u64) -> Result<Found, Failure> {
    let counters = CountersReader::open(dir)?.read();
    let mut found = Found::nothing(&counters);
    let Some(mut walk) = Walk::open(dir)? else {
        found.faults.push("there is no log".into());
        return Ok(found);
    };
    let mut records = Records::default();
    found.start = walk.start();
    let mut comparison = Comparison::new(known, found.start);
    loop {
        let frame = match walk.next_frame(found.applied) {
            Ok(Some(frame)) => frame,
            Ok(None) => break,
            Err(error) => {
                found.faults.push(error.to_string());
                break;
            }
        };
        found.end = frame.end;
        found.chain = frame.chain;
        let Some(record) = records.push(&frame) else {
            continue;
        };
        if record.kind != Kind::Message {
            continue;
        }
        found.checked += 1;
        if record.position >= common {
            found.messages += 1;
            found.order = CRC32C.extend(found.order, &(record.body().len() as u64).to_le_bytes());
            found.order = CRC32C.extend(found.order, record.body());
        }
        comparison.take(record.position, record.body());
    }
    if found.end != found.applied {
        found.faults.push(format!(
            "good frames end at {}, but the service had executed up to {}",
            found.end, found.applied
        ));
    }
    match comparison.end() {
        Ok(executed) => found.executed_unknown = executed,
        Err(fault) => found.faults.push(fault),
    }
    Ok(found)
}

/// One log against the offers, until it does not fit.
struct Comparison<'a> {
    source: &'a Source,
    matching: Match<'a>,
    /// The places where the stream was at rest that are still to come.
    rests: &'a [Rest],
    fault: Option<String>,
}

impl<'a> Comparison<'a> {
    /// Of a log that starts at `start`.
    fn new(known: Known<'a>, start: u64) -> Self {
        let passed = known.rests.partition_point(|rest| rest.position <= start);
        Self {
            source: known.source,
            matching: known.of(start),
            rests: known.rests.get(passed..).unwrap_or_default(),
            fault: None,
        }
    }

    /// The next message, and where it is.
    fn take(&mut self, position: u64, message: &[u8]) {
        while let Some((rest, later)) = self.rests.split_first()
            && rest.position <= position
        {
            self.rests = later;
            if let Err(number) = self.matching.rest(rest.next) {
                let fault = lost(self.source, number);
                self.fault.get_or_insert(fault);
            }
        }
        if self.fault.is_none() && !self.matching.take(message) {
            self.fault = Some(format!(
                "the message at position {position} was not offered there, or is there twice"
            ));
        }
    }

    /// The messages of unknown outcome that are there, or what is wrong.
    fn end(self) -> Result<Vec<u64>, String> {
        match self.fault {
            Some(fault) => Err(fault),
            None => self
                .matching
                .end()
                .map_err(|number| lost(self.source, number)),
        }
    }
}

fn lost(source: &Source, number: u64) -> String {
    let name = source.name(number);
    format!("{name} was acknowledged, but is not in the history in its place")
}

/// What the directories say together; empty if all is well.
pub fn compare(found: &[Found]) -> Vec<String> {
    let mut faults = Vec::new();
    for (member, one) in found.iter().enumerate() {
        for fault in &one.faults {
            faults.push(format!("member {member}: {fault}"));
        }
    }
    let Some(first) = found.first() else {
        return vec!["there is no member".into()];
    };
    for (member, one) in found.iter().enumerate().skip(1) {
        if one.applied != first.applied {
            faults.push(format!(
                "member {member} has executed up to {}, member 0 up to {}",
                one.applied, first.applied
            ));
        } else if one.digest != first.digest {
            faults.push(format!(
                "at position {} the digest of member {member} is {:016x}, of member 0 {:016x}",
                one.applied, one.digest, first.digest
            ));
        }
        if (one.messages, one.order) != (first.messages, first.order) {
            faults.push(format!(
                "the messages of members 0 and {member} are not the same"
            ));
        } else if one.applied == first.applied && one.chain != first.chain {
            faults.push(format!("the logs of members 0 and {member} differ"));
        }
    }
    faults
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ServiceKind;

    fn ledger(outcomes: &str) -> Ledger {
        let mut ledger = Ledger::default();
        for (number, outcome) in outcomes.chars().enumerate() {
            ledger.offered();
            let outcome = match outcome {
                'a' => Outcome::Acknowledged,
                _ => Outcome::Unknown,
            };
            ledger.settle(number as u64, outcome);
        }
        ledger
    }

    /// What a log with these messages (by number) says to offers with these outcomes.
    fn verdict(outcomes: &str, log: &[u64]) -> Result<Vec<u64>, u64> {
        verdict_of(outcomes, log, true)
    }

    fn verdict_of(outcomes: &str, log: &[u64], is_whole: bool) -> Result<Vec<u64>, u64> {
        let source = Source::generated(ServiceKind::Echo);
        let ledger = ledger(outcomes);
        let last = if is_whole { 0 } else { ledger.next() };
        let mut matching = Match::new(&source, &ledger, 0..=last);
        let mut message = Vec::new();
        for number in log {
            source.message(100 + number, &mut message);
            // The offers are messages 0, 1, 2 ...: so 100 and on are never offered.
            if *number < 100 {
                source.message(*number, &mut message);
            }
            if !matching.take(&message) {
                return Err(1000 + number);
            }
        }
        matching.end()
    }

    #[test]
    fn acknowledged_messages_must_be_there_once_and_in_order() {
        assert_eq!(verdict("aaaa", &[0, 1, 2, 3]), Ok(vec![]));
        assert_eq!(verdict("aaaa", &[0, 1, 2]), Err(3));
        assert_eq!(verdict("aaaa", &[0, 2, 1, 3]), Err(1002));
        assert_eq!(verdict("aaaa", &[0, 1, 1, 2, 3]), Err(1001));
        assert_eq!(verdict("aaaa", &[0, 1, 2, 3, 3]), Err(1003));
        assert_eq!(verdict("aa", &[0, 500, 1]), Err(1500));
    }

    #[test]
    fn unknown_messages_may_be_there_once_in_their_place() {
        assert_eq!(verdict("aauuaa", &[0, 1, 4, 5]), Ok(vec![]));
        assert_eq!(verdict("aauuaa", &[0, 1, 2, 4, 5]), Ok(vec![2]));
        assert_eq!(verdict("aauuaa", &[0, 1, 2, 3, 4, 5]), Ok(vec![2, 3]));
        assert_eq!(verdict("aauuaa", &[0, 1, 2, 2, 4, 5]), Err(1002));
        assert_eq!(verdict("aauuaa", &[0, 1, 4, 2, 5]), Err(1002));
        assert_eq!(verdict("aauu", &[0, 1]), Ok(vec![]));
    }

    #[test]
    fn a_log_without_its_beginning_goes_on_at_any_offer() {
        let purged = |log: &[u64]| verdict_of("aauaa", log, false);
        assert_eq!(purged(&[3, 4]), Ok(vec![]));
        assert_eq!(purged(&[2, 3, 4]), Ok(vec![2]));
        assert_eq!(purged(&[4]), Ok(vec![]));
        assert_eq!(purged(&[]), Ok(vec![]));
        assert_eq!(purged(&[1, 3]), Err(4));
        assert_eq!(purged(&[1, 4]), Err(1004));
        assert_eq!(purged(&[4, 3]), Err(1003));
    }

    #[test]
    fn a_place_where_the_stream_was_at_rest_ends_and_begins_what_it_says() {
        let source = Source::generated(ServiceKind::Echo);
        let ledger = ledger("aauaaa");
        let run = |at: std::ops::RangeInclusive<u64>, log: &[u64], rest: u64| {
            let mut matching = Match::new(&source, &ledger, at);
            let mut message = Vec::new();
            for number in log {
                source.message(*number, &mut message);
                assert!(matching.take(&message), "{number}");
            }
            matching.rest(rest).map(|()| matching.ways)
        };
        assert_eq!(run(0..=0, &[0, 1], 3), Ok(vec![(3, vec![])]));
        assert_eq!(run(0..=0, &[0, 1, 2], 3), Ok(vec![(3, vec![2])]));
        assert_eq!(run(0..=0, &[0], 2), Err(1));
        assert_eq!(run(0..=0, &[0, 1, 3], 3), Err(3));
        // Of a log without its beginning it is known from there on what comes next.
        assert_eq!(run(0..=6, &[], 4), Ok(vec![(4, vec![])]));
        assert_eq!(run(0..=6, &[3], 5), Err(4));
    }

    #[test]
    fn differences_between_members_are_told() {
        let good = Found {
            applied: 96,
            digest: 1,
            start: 0,
            end: 96,
            checked: 1,
            messages: 1,
            order: 5,
            chain: 9,
            executed_unknown: vec![],
            faults: vec![],
        };
        assert!(compare(&[good.clone(), good.clone()]).is_empty());
        let other = Found {
            digest: 2,
            ..good.clone()
        };
        assert!(compare(&[good.clone(), other])[0].contains("digest"));
        let behind = Found {
            applied: 64,
            ..good.clone()
        };
        assert!(compare(&[good.clone(), behind])[0].contains("executed up to 64"));
        let other = Found {
            order: 6,
            ..good.clone()
        };
        assert!(compare(&[good, other])[0].contains("not the same"));
    }
}
