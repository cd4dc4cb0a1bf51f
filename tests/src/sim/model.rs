//! What the committed log amounts to, worked out from its bytes alone: the history that every
//! member's service must have, and the messages that clients may count as done.

use std::collections::BTreeSet;

use hashbrown::HashMap;

use super::ghost::{Assembler, GhostLog, Record, mix, record};
use super::work::Tag;

/// One step of the history service: `kind`, the record's end, the session, the bytes.
pub fn digest_step(digest: u64, kind: u8, position: u64, session: u64, bytes: &[u8]) -> u64 {
    let mut head = [0; 24];
    head[0] = kind;
    head[8..16].copy_from_slice(&position.to_le_bytes());
    head[16..24].copy_from_slice(&session.to_le_bytes());
    mix(mix(digest, &head), bytes)
}

/// Where every history starts.
pub const DIGEST_ZERO: u64 = 0x00c0_7ac1_e000;

/// The replicated state after each committed record.
#[derive(Clone, Debug)]
pub struct Model {
    capacity: usize,
    rows: usize,
    assembler: Assembler,
    open: BTreeSet<u64>,
    digests: Vec<(u64, u64)>,
    done: HashMap<(u8, u16), Vec<u64>>,
    sessions_of: HashMap<(u8, u16), u64>,
    /// Client messages in the committed log.
    pub messages: u64,
    /// Sessions opened in the committed log.
    pub opened: u64,
}

impl Model {
    /// The state before the first record, of members with room for `capacity` sessions.
    pub fn new(capacity: usize) -> Self {
        Self {
            capacity,
            rows: 0,
            assembler: Assembler::default(),
            open: BTreeSet::new(),
            digests: vec![(0, DIGEST_ZERO)],
            done: HashMap::new(),
            sessions_of: HashMap::new(),
            messages: 0,
            opened: 0,
        }
    }

    /// Applies what has been committed since.
    ///
    /// # Errors
    /// What the log may not contain: a message twice or out of order within its session, or a
    /// record that does not parse.
    pub fn apply(&mut self, committed: &GhostLog) -> Result<(), String> {
        while let Some(row) = committed.rows().get(self.rows) {
            self.rows += 1;
            let frame = committed.bytes(row.start, row.end);
            let mut assembler = std::mem::take(&mut self.assembler);
            let outcome = match assembler.take(row, frame) {
                None => Ok(()),
                Some(bytes) => match record(bytes) {
                    Some(record) => self.execute(row.end, record),
                    None => Err(format!("the record that ends at {} is too short", row.end)),
                },
            };
            self.assembler = assembler;
            outcome?;
        }
        Ok(())
    }

    /// The digest that a service must have once it has applied everything up to `position`.
    pub fn digest_at(&self, position: u64) -> u64 {
        let after = self.digests.partition_point(|(end, _)| *end <= position);
        self.digests[after - 1].1
    }

    /// Is this message in the committed history?
    pub fn is_done(&self, tag: Tag) -> bool {
        self.done
            .get(&(tag.client, tag.life))
            .is_some_and(|seqs| seqs.binary_search(&tag.seq).is_ok())
    }

    fn execute(&mut self, end: u64, record: Record<'_>) -> Result<(), String> {
        let digest = self.digests.last().map_or(DIGEST_ZERO, |d| d.1);
        let next = match record {
            Record::Message { session, payload } => {
                if !self.open.contains(&session) {
                    return Ok(());
                }
                self.message(session, payload)?;
                digest_step(digest, b'm', end, session, payload)
            }
            Record::Open { session } => {
                if self.open.len() >= self.capacity || !self.open.insert(session) {
                    return Ok(());
                }
                self.opened += 1;
                digest_step(digest, b'o', end, session, &[])
            }
            Record::Close { session } => {
                if !self.open.remove(&session) {
                    return Ok(());
                }
                digest_step(digest, b'c', end, session, &[])
            }
            Record::NewTerm { term } => digest_step(digest, b't', end, term, &[]),
            Record::Other => return Ok(()),
        };
        self.digests.push((end, next));
        Ok(())
    }

    fn message(&mut self, session: u64, payload: &[u8]) -> Result<(), String> {
        self.messages += 1;
        let Some(tag) = Tag::read(payload) else {
            return Ok(());
        };
        if !tag.matches(payload) {
            return Err(format!(
                "{tag:?} of session {session} has other bytes than were sent"
            ));
        }
        let life = (tag.client, tag.life);
        let owner = *self.sessions_of.entry(life).or_insert(session);
        if owner != session {
            return Err(format!(
                "{tag:?} is in session {session}, earlier ones in {owner}"
            ));
        }
        let seqs = self.done.entry(life).or_default();
        match seqs.last() {
            Some(last) if *last == tag.seq => Err(format!("{tag:?} is there twice")),
            Some(last) if *last > tag.seq => Err(format!("{tag:?} comes after {last}")),
            _ => {
                seqs.push(tag.seq);
                Ok(())
            }
        }
    }
}
