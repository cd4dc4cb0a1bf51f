//! What the committed log amounts to, worked out from its bytes alone: the history that every
//! member's services must have, and the messages that clients may count as done.

use std::collections::BTreeSet;

use hashbrown::{HashMap, HashSet};

use super::ghost::{Assembler, GhostLog, Kind, Record, record};
use super::model_service::ModelService;
use super::work::Tag;

/// The replicated state after each committed record.
#[derive(Clone, Debug)]
pub struct Model {
    capacity: usize,
    rows: usize,
    assembler: Assembler,
    open: BTreeSet<u64>,
    time: i64,
    services: Vec<ModelService>,
    done: HashMap<(u8, u16), Vec<u64>>,
    sessions_of: HashMap<(u8, u16), u64>,
    fired: HashSet<(usize, u64)>,
    actions: BTreeSet<u64>,
    /// Client messages in the committed log.
    pub messages: u64,
    /// Sessions opened in the committed log.
    pub opened: u64,
    /// Timers that have fired.
    pub timers: u64,
    /// Messages of services in the committed log.
    pub said: u64,
}

/// A broken invariant's name, and how.
pub type Broken = (&'static str, String);

impl Model {
    /// The state before the first record, of members with room for `capacity` sessions.
    pub fn new(capacity: usize, services: usize, acts: bool) -> Self {
        Self {
            capacity,
            rows: 0,
            assembler: Assembler::default(),
            open: BTreeSet::new(),
            time: 0,
            services: (0..services)
                .map(|number| ModelService::new(number, acts))
                .collect(),
            done: HashMap::new(),
            sessions_of: HashMap::new(),
            fired: HashSet::new(),
            actions: BTreeSet::new(),
            messages: 0,
            opened: 0,
            timers: 0,
            said: 0,
        }
    }

    /// Applies what has been committed since.
    ///
    /// # Errors
    /// What the log may not contain: a message twice or out of order within its session or service,
    /// a timer that fires twice or too early, or a record that does not parse.
    pub fn apply(&mut self, committed: &GhostLog) -> Result<(), Broken> {
        while let Some(row) = committed.rows().get(self.rows) {
            self.rows += 1;
            let frame = committed.bytes(row.start, row.end);
            let mut assembler = std::mem::take(&mut self.assembler);
            let outcome = match assembler.take(row, frame) {
                None => Ok(()),
                Some(bytes) => match record(bytes) {
                    Some(record) => self.execute(row.end, record),
                    None => {
                        let detail = format!("the record that ends at {} is too short", row.end);
                        Err(("Session Order", detail))
                    }
                },
            };
            self.assembler = assembler;
            outcome?;
        }
        Ok(())
    }

    /// How many services there are.
    pub fn services(&self) -> usize {
        self.services.len()
    }

    /// The digest that a service must have once it has applied everything up to `position`.
    pub fn digest_at(&self, service: usize, position: u64) -> u64 {
        self.services[service].digest_at(position)
    }

    /// What services have heard of timers and of one another, for a story: since the last call.
    pub fn take_heard(&mut self) -> Vec<String> {
        let services = self.services.iter_mut();
        services.flat_map(ModelService::take_heard).collect()
    }

    /// Is this message in the committed history?
    pub fn is_done(&self, tag: Tag) -> bool {
        self.done
            .get(&(tag.client, tag.life))
            .is_some_and(|seqs| seqs.binary_search(&tag.seq).is_ok())
    }

    /// Does a committed record that ends at `position` ask for a snapshot?
    pub fn is_action(&self, position: u64) -> bool {
        self.actions.contains(&position)
    }

    /// What services wait for that the cluster owes them, if a leader's wall clock shows `wall`.
    pub fn owed(&self, wall: i64) -> Option<String> {
        let now = wall.max(self.time);
        self.services.iter().find_map(|service| service.owed(now))
    }

    fn execute(&mut self, end: u64, record: Record<'_>) -> Result<(), Broken> {
        if let Some(time) = record.timestamp {
            self.time = self.time.max(time);
        }
        match record.kind {
            Kind::Message { session, payload } => {
                if self.open.contains(&session) {
                    self.message(session, payload)
                        .map_err(|detail| ("Session Order", detail))?;
                    self.all(b'm', end, session, 0, payload);
                }
            }
            Kind::Open { session } => {
                if self.open.len() < self.capacity && self.open.insert(session) {
                    self.opened += 1;
                    for service in &mut self.services {
                        service.open(session);
                    }
                    self.all(b'o', end, session, 0, &[]);
                }
            }
            Kind::Close { session, reason } => {
                if self.open.remove(&session) {
                    for service in &mut self.services {
                        service.close(session);
                    }
                    self.all(b'c', end, session, reason, &[]);
                }
            }
            Kind::NewTerm { term, leader } => self.all(b't', end, term, leader, &[]),
            Kind::Timer {
                service,
                correlation,
                arming,
            } => {
                let time = record.timestamp.unwrap_or(i64::MIN);
                self.timer(end, time, service, correlation, arming)?;
            }
            Kind::Service {
                service,
                number,
                payload,
            } => {
                let from = self.service(service)?;
                from.take(number, payload)
                    .map_err(|detail| ("Service Messages Once", detail))?;
                self.said += 1;
                self.all(b's', end, service as u64, 0, payload);
            }
            Kind::Snapshot => {
                self.actions.insert(end);
            }
            Kind::Other => {}
        }
        Ok(())
    }

    fn service(&mut self, service: usize) -> Result<&mut ModelService, Broken> {
        let unknown = || ("Known Services", format!("there is no service {service}"));
        self.services.get_mut(service).ok_or_else(unknown)
    }

    fn all(&mut self, kind: u8, end: u64, number: u64, extra: i64, bytes: &[u8]) {
        for service in &mut self.services {
            service.hear(self.time, kind, end, number, extra, bytes);
        }
    }

    fn timer(
        &mut self,
        end: u64,
        time: i64,
        service: usize,
        correlation: i64,
        arming: u64,
    ) -> Result<(), Broken> {
        let is_first = self.fired.insert((service, arming));
        let now = self.time;
        let whose = self.service(service)?;
        let fired = whose
            .fire(time, correlation, arming)
            .map_err(|detail| ("Timers Fire In Time", detail))?;
        if !is_first {
            let detail = format!("arming {arming} of service {service} has a second event");
            return Err(("Timers Fire Once", detail));
        }
        if let Some(deadline) = fired {
            whose.hear(now, b'x', end, correlation as u64, deadline, &[]);
            self.timers += 1;
        }
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
