//! Data directories as a story needs them: a log of given terms, flushed, before any process
//! starts.

use coracle_core::log::{Log, Roster, Seed, Slot, SlotPlace, Window, append, window_len};
use coracle_core::time::Timestamp;
use coracle_core::units::{MemberId, Position, SessionId, Term};
use coracle_core::wire::cluster::{
    NewLeadershipTermEvent, SESSION_HEADER_LENGTH, SessionMessageHeader, TimeUnit,
};

use crate::sim::disk::Name;
use crate::sim::member::{CLUSTER, Member, SEGMENT, WINDOW};
use crate::sim::rng::Rng;
use crate::sim::storage::{DATA_AT, write_slot, write_state};
use crate::sim::world::World;

impl World {
    /// Gives `member` a log with one record for each of `terms`, and the term `current`.
    pub(super) fn write_disk(
        &mut self,
        member: usize,
        terms: &[u32],
        current: u32,
    ) -> Result<(), String> {
        let mtu = self.plan.mtu;
        let log = build(terms, mtu)?;
        let member = &mut self.members[member];
        store(member, &log, terms.last().copied().unwrap_or(0))?;
        let state = coracle_core::log::NodeState {
            cluster: CLUSTER,
            member: MemberId::new(member.id).ok_or("no such member")?,
            incarnation: member.incarnation,
            term: Term::new(current),
            vote: None,
            votes: true,
            quarantined: false,
            roster: Roster::FIRST,
        };
        write_state(&mut member.disk, 2, &state);
        flush(member, Name::State);
        Ok(())
    }
}

fn flush(member: &mut Member, name: Name) {
    let mut flush = member.disk.begin_flush(name);
    member.disk.step_flush(&mut flush, true, &mut Rng::new(0));
}

fn build(terms: &[u32], mtu: usize) -> Result<Window<Vec<u8>>, String> {
    let mut log = Window::new(vec![0; window_len(WINDOW, mtu)], mtu, SEGMENT)
        .map_err(|e| format!("{e:?}"))?;
    let genesis = Seed::genesis(CLUSTER);
    log.load(genesis.position, genesis.chain, genesis.term)
        .expect("a boundary");
    let mut last = 0;
    for (number, term) in terms.iter().enumerate() {
        let mut bytes = [0; 128];
        let len = if *term == last {
            session_message(Term::new(*term), number, &mut bytes)
        } else {
            first_record(Term::new(*term), log.end(), &mut bytes)
        };
        last = *term;
        let len = len.ok_or("a record is too long")?;
        append(&mut log, Term::new(*term), &[&bytes[..len]], mtu).map_err(|e| format!("{e:?}"))?;
    }
    Ok(log)
}

/// A message of a session that nobody has opened: nothing comes of it, on every member alike.
fn session_message(term: Term, number: usize, out: &mut [u8]) -> Option<usize> {
    let header = SessionMessageHeader {
        term,
        session: SessionId::new(Position::ZERO),
        timestamp: Timestamp(1),
    };
    header.emit(out)?;
    out[SESSION_HEADER_LENGTH] = number as u8;
    Some(SESSION_HEADER_LENGTH + 1)
}

fn first_record(term: Term, base: Position, out: &mut [u8]) -> Option<usize> {
    let event = NewLeadershipTermEvent {
        term,
        position: base.plus(96),
        timestamp: Timestamp(1),
        base,
        leader: MemberId::new(0)?,
        log_session_id: term.to_session_id(),
        time_unit: TimeUnit::Millis,
        app_version: 1,
    };
    event.emit(out)
}

fn store(member: &mut Member, log: &Window<Vec<u8>>, joined: u32) -> Result<(), String> {
    let end = log.end();
    let slot = Slot {
        seq: 1,
        cluster: CLUSTER,
        joined: Term::new(joined),
        confirmed: end,
        intended: end,
        chain: log.chain(),
        segment: Position::ZERO,
        segment_length: SEGMENT,
        place: SlotPlace::Head,
    };
    let name = Name::Segment(0);
    member.disk.create(name, DATA_AT + SEGMENT as usize);
    write_slot(&mut member.disk, &slot);
    let bytes = log.read(Position::ZERO);
    if bytes.len() as u64 != end.get() {
        return Err("the log of a story must fit in one segment".into());
    }
    member.disk.write(name, DATA_AT, bytes);
    flush(member, name);
    Ok(())
}
