//! What only a bug of ours brings about halts a node: it says why, and nothing leaves any more.

use super::*;
use crate::broken::Broken;
use crate::service::echo::Echo;
use crate::snapshot::{Section, SnapshotError, SnapshotSource};

/// A log with a bug: it finds that what it is told cannot be, and takes nothing.
struct Refusing<'w>(&'w mut Window<Vec<u8>>);

impl Log for Refusing<'_> {
    fn start(&self) -> Position {
        self.0.start()
    }
    fn end(&self) -> Position {
        self.0.end()
    }
    fn chain(&self) -> Option<u32> {
        self.0.chain()
    }
    fn chain_at(&self, at: Position) -> Option<u32> {
        self.0.chain_at(at)
    }
    fn read(&self, at: Position) -> &[u8] {
        self.0.read(at)
    }
    fn room(&mut self, at: Position) -> &mut [u8] {
        self.0.room(at)
    }
    fn lap_end(&self, at: Position) -> Position {
        self.0.lap_end(at)
    }
    fn publish(&mut self, _: Position, _: u32) -> Result<(), Broken> {
        Err(Broken::Publish)
    }
    fn truncate(&mut self, _: Position) -> Result<(), Broken> {
        Err(Broken::Cut)
    }
    fn release(&mut self, below: Position) {
        self.0.release(below);
    }
    fn capacity(&self) -> u64 {
        self.0.capacity()
    }
    fn segment_length(&self) -> u32 {
        self.0.segment_length()
    }
}

impl Bench {
    /// Calls `call` with the log in its present state, and a bug in it.
    fn refusing<R>(
        &mut self,
        call: impl FnOnce(&mut Node<2>, &mut Lent<'_, Refusing<'_>>) -> R,
    ) -> R {
        let good = lent!(self);
        let mut lent = Lent {
            log: &mut Refusing(good.log),
            ingress: good.ingress,
            reassembly: good.reassembly,
            egress: good.egress,
            replay: good.replay,
            catchup: good.catchup,
            assembly: good.assembly,
            services: good.services,
        };
        call(&mut self.node, &mut lent)
    }

    /// It says why it has halted, and owes nobody anything, ever.
    fn has_halted_by(&mut self, broken: Broken) {
        assert_eq!(self.node.halted(), Some(Halt::Broken(broken)));
        let mut events = core::iter::from_fn(|| self.node.poll_event());
        assert!(events.any(|event| event == Event::Halted(Halt::Broken(broken))));
        assert_eq!(self.node.poll_timeout(), None);
        assert!(self.said(60_000).is_empty());
    }
}

/// A follower of member 1, which leads term 1 with one record.
fn follower() -> (Bench, Author) {
    let mut theirs = Author::new();
    let end = theirs.write(1);
    let mut bench = Bench::new(3, &Recovered::fresh(CLUSTER));
    bench.lead(1, 1, &[(1, 0)], end.get(), 0);
    (bench, theirs)
}

#[test]
fn a_follower_whose_log_cannot_take_what_came_halts_and_acknowledges_nothing() {
    let (bench, theirs) = follower();
    let frames = theirs.bytes(Position::ZERO);
    // As the next, and frame by frame behind a hole.
    for is_in_order in [true, false] {
        let mut bench = Bench {
            node: bench.node.clone(),
            window: bench.window.clone(),
            memory: bench.memory.clone(),
        };
        if !is_in_order {
            bench
                .node
                .gaps
                .insert(crate::gaps::Span::new(
                    Position::new(1 << 13),
                    Position::new(1 << 14),
                ))
                .expect("room");
        }
        let taken = bench.refusing(|node, lent| {
            node.handle_datagram(now(2), Door::Member, address(1), &frames, lent)
        });
        assert!(taken.is_err());
        assert_eq!(bench.node.raft().tail.end, Position::ZERO);
        bench.has_halted_by(Broken::Publish);
    }
}

#[test]
fn a_follower_whose_log_cannot_be_cut_halts_and_does_not_join() {
    let mut own = Author::new();
    own.write(1);
    let mut bench = Bench::new(3, &own.recovered(1));
    let settings = bench.settings();
    let mut history = HistorySlice::EMPTY;
    history.entries[0] = TermBase {
        term: term(2),
        base: Position::ZERO,
    };
    (history.len, history.covered_to) = (1, Position::new(96));
    let said = NewLeadershipTerm {
        term: term(2),
        commit: Position::ZERO,
        end: Position::new(96),
        start: TermBase::default(),
        settings,
        history,
    };
    let sender = Sender {
        cluster: CLUSTER,
        incarnation: Incarnation::FIRST,
        member: id(1),
    };
    let body = Body::NewLeadershipTerm(said);
    let mut bytes = [0; CONTROL_MAX];
    let len = MemberMessage { sender, body }.emit(&mut bytes).unwrap();
    for _ in 0..2 {
        let _taken = bench.refusing(|node, lent| {
            node.handle_datagram(now(2), Door::Member, address(1), &bytes[..len], lent)
        });
        if let Some(state) = bench.node.poll_persist() {
            bench.node.handle_persisted(state);
        }
    }
    assert_eq!(bench.node.joined(), Term::ZERO);
    bench.has_halted_by(Broken::Cut);
}

#[test]
fn a_leader_whose_log_cannot_take_its_first_record_halts() {
    let mut bench = Bench::new(1, &Recovered::fresh(CLUSTER));
    for ms in 0..5_000 {
        bench.refusing(|node, lent| node.handle_timeout(now(ms), lent));
        if let Some(state) = bench.node.poll_persist() {
            bench.node.handle_persisted(state);
        }
    }
    assert_eq!(bench.window.end(), Position::ZERO);
    bench.has_halted_by(Broken::Publish);
}

/// What is known of which term wrote what ends elsewhere than the log does.
fn lose_count(node: &mut Node<2>) {
    let (at, end) = (Position::new(1 << 20), Position::new(1 << 21));
    node.history.clear();
    assert!(node.history.push(term(1), at, end));
}

#[test]
fn a_leader_whose_own_record_does_not_go_on_from_its_history_halts() {
    let mut bench = Bench::new(1, &Recovered::fresh(CLUSTER));
    lose_count(&mut bench.node);
    for ms in 0..5_000 {
        let mut lent = lent!(bench);
        bench.node.handle_timeout(now(ms), &mut lent);
        if let Some(state) = bench.node.poll_persist() {
            bench.node.handle_persisted(state);
        }
    }
    assert!(bench.window.end() > Position::ZERO);
    assert_eq!(bench.node.raft().tail.end, Position::ZERO, "nothing grew");
    bench.has_halted_by(Broken::History);
}

#[test]
fn a_follower_whose_frames_do_not_go_on_from_its_history_halts_and_acknowledges_nothing() {
    let mut theirs = Author::new();
    let base = theirs.write(1);
    let end = theirs.write(2);
    let frames = theirs.bytes(Position::ZERO);
    // Frames of the leader's own term, and some of the one before as well.
    for (of, history) in [(2, &[(2, 0)][..]), (2, &[(1, 0), (2, base.get())])] {
        let mut bench = Bench::new(3, &Recovered::fresh(CLUSTER));
        bench.lead(1, of, history, end.get(), 0);
        lose_count(&mut bench.node);
        let alone = match history.len() {
            1 => {
                let mut alone = Author::new();
                alone.write(2);
                alone.bytes(Position::ZERO)
            }
            _ => frames.clone(),
        };
        assert_eq!(bench.datagram(2, 1, &alone), Err(Reject::Halted));
        assert_eq!(bench.node.raft().tail.end, Position::ZERO, "nothing grew");
        bench.has_halted_by(Broken::History);
    }
}

#[test]
fn frames_that_waited_and_do_not_go_on_from_the_history_halt() {
    let mut theirs = Author::new();
    let base = theirs.write(1);
    let end = theirs.write(2);
    let mut bench = Bench::new(3, &Recovered::fresh(CLUSTER));
    bench.lead(1, 2, &[(1, 0)], base.get(), 0);
    for frame in theirs.bytes(Position::ZERO).chunks(96) {
        let _waits = bench.datagram(2, 1, frame);
    }
    assert_eq!(bench.window.end(), base);
    lose_count(&mut bench.node);
    bench.lead(3, 2, &[(1, 0), (2, base.get())], end.get(), 0);
    assert_eq!(bench.node.raft().tail.end, base, "nothing grew");
    bench.has_halted_by(Broken::History);
}

/// Has committed a record of term 2, the second of which an author has as well.
fn committed() -> (Bench, Author, Position) {
    let mut theirs = Author::new();
    let end = theirs.write(2);
    let mut bench = Bench::new(3, &theirs.recovered(2));
    bench.lead(1, 2, &[(2, 0)], end.get(), end.get());
    assert_eq!((bench.node.joined(), bench.node.commit()), (term(2), end));
    (bench, theirs, end)
}

/// It has taken nothing of what was said, has counted it, and goes on.
fn goes_on(mut bench: Bench, frames: &[u8], end: Position) {
    let before = bench.node.counters().corrupt;
    assert!(before > 0);
    let _waits_at_most = bench.datagram(3, 1, frames);
    assert_eq!((bench.window.end(), bench.node.halted()), (end, None));
    assert_eq!(bench.node.raft().tail, Tail { term: term(2), end });
    // A leader that has what is committed is followed all the same.
    let mut theirs = Author::new();
    theirs.write(2);
    let to = theirs.write(4);
    bench.lead(4, 4, &[(2, 0), (4, end.get())], to.get(), 0);
    bench.datagram(5, 1, &theirs.bytes(end)).unwrap();
    let tail = bench.node.raft().tail;
    assert_eq!((tail.term, tail.end), (term(4), to));
    assert_eq!(bench.node.counters().corrupt, before);
}

#[test]
fn a_foreign_history_whose_terms_fall_is_not_joined_and_halts_nobody() {
    let (mut bench, mut theirs, end) = committed();
    let to = theirs.write(1);
    let frames = theirs.bytes(end);
    bench.lead(2, 3, &[(1, 0)], to.get(), 0);
    assert_eq!(bench.node.joined(), Term::ZERO);
    goes_on(bench, &frames, end);
}

#[test]
fn a_foreign_history_whose_terms_fall_at_a_conflict_cuts_nothing_and_halts_nobody() {
    let mut ours = Author::new();
    let settled = ours.write(2);
    ours.write(2);
    let end = ours.write(2);
    let mut bench = Bench::new(3, &ours.recovered(2));
    bench.lead(1, 2, &[(2, 0)], end.get(), settled.get());
    bench.lead(2, 3, &[(1, settled.get())], end.get(), 0);
    assert_eq!((bench.node.joined(), bench.window.end()), (Term::ZERO, end));
    assert!(bench.node.counters().corrupt > 0);
    assert_eq!(bench.node.halted(), None);
}

#[test]
fn a_foreign_history_that_falls_after_a_join_is_not_taken_and_halts_nobody() {
    let (mut bench, mut theirs, end) = committed();
    let to = theirs.write(1);
    let frames = theirs.bytes(end);
    // What comes behind is not said yet.
    bench.lead(2, 3, &[(2, 0), (3, end.get())], end.get(), 0);
    bench.node.known.covered_to = end;
    bench.node.known.len = 1;
    assert_eq!(bench.node.joined(), term(3));
    bench.lead(2, 3, &[(1, 0)], to.get(), 0);
    goes_on(bench, &frames, end);
}

#[test]
fn a_foreign_history_of_terms_to_come_is_malformed_and_halts_nobody() {
    let (mut bench, mut theirs, end) = committed();
    let to = theirs.write(9);
    let frames = theirs.bytes(end);
    bench.lead(2, 3, &[(2, 0), (9, end.get())], to.get(), 0);
    assert!(bench.node.counters().malformed > 0);
    assert!(bench.datagram(3, 1, &frames).is_err());
    assert_eq!((bench.window.end(), bench.node.halted()), (end, None));
}

#[test]
fn a_node_that_is_lent_another_number_of_services_halts() {
    let mut bench = Bench::new(3, &Recovered::fresh(CLUSTER));
    let (mut one, mut two) = (Echo::new(), Echo::new());
    let mut lent = lent!(bench);
    let mut both: [&mut dyn Service; 2] = [&mut one, &mut two];
    assert!(!bench.node.poll_services(now(1), &mut both, &mut lent));
    bench.has_halted_by(Broken::Services);
}

/// Never asked.
struct Nothing;

impl SnapshotSource for Nothing {
    fn open(
        &mut self,
        _: Section,
    ) -> Option<(
        &mut dyn embedded_io::Read<Error = embedded_io::ErrorKind>,
        u64,
    )> {
        None
    }
}

#[test]
fn a_snapshot_for_another_number_of_services_is_not_loaded() {
    let mut bench = Bench::new(3, &Recovered::fresh(CLUSTER));
    let mut lent = lent!(bench);
    let loaded = bench.node.load_snapshot(&mut Nothing, &mut [], &mut lent);
    assert_eq!(loaded.err(), Some(SnapshotError::Services));
}
