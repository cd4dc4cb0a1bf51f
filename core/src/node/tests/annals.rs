//! Questions about terms that the history in memory has forgotten.

use super::*;
use crate::log::History;
use crate::wire::member::HistoryRequest;

/// A log of so many terms, each with one record of 96 bytes: what its member recovers, and all
/// bytes.
fn log_of(terms: u32) -> (Recovered, Vec<u8>) {
    let mut author = Author::new();
    let mut history = History::new();
    let mut storage = Vec::new();
    for of in 1..=terms {
        let base = author.0.end();
        let end = author.write(of);
        storage.extend(author.bytes(base));
        author.0.set_written(end);
        author.0.release(end);
        assert!(history.push(term(of), base, end));
    }
    let mut recovered = author.recovered(terms);
    recovered.history = history;
    assert!(recovered.history.known_from() > Some(Position::ZERO));
    (recovered, storage)
}

/// Member 1 wants to know how the log of this leader came to be from there on.
fn ask(bench: &mut Bench, ms: u64, from: u64) {
    let request = HistoryRequest {
        term: bench.node.raft().term(),
        from: Position::new(from),
    };
    bench.say(ms, 1, Body::HistoryRequest(request));
}

/// The answer that starts with the first term, if that is due.
fn first_terms(bench: &mut Bench, ms: u64) -> Option<HistorySlice> {
    let is_first =
        |slice: &HistorySlice| slice.as_slice().first().is_some_and(|e| e.term == term(1));
    bench.histories(ms).into_iter().find(is_first)
}

#[test]
fn terms_that_the_history_has_forgotten_are_read_from_the_log() {
    let (recovered, storage) = log_of(HISTORY_TERMS as u32 + 50);
    let mut bench = Bench::new(3, &recovered);
    bench.be_elected();
    bench.histories(900);
    ask(&mut bench, 900, 0);
    let recall = bench.recall().unwrap();
    assert_eq!(
        (recall.consumer, recall.at),
        (Consumer::Annals, Position::ZERO)
    );
    bench.read(recall, &storage);
    let first = first_terms(&mut bench, 901).expect("the oldest terms");
    assert_eq!(first.as_slice().len(), HISTORY_SLICE_MAX);
    assert_eq!(
        first.covered_to,
        Position::new(HISTORY_SLICE_MAX as u64 * 96)
    );
}

/// Where no frame starts there is nothing to be said of: the answer starts with the segment. That
/// is in memory here, so nobody waits for it, nor for time to pass.
#[test]
fn a_question_from_amid_a_frame_is_answered_from_the_start_of_its_segment_at_once() {
    let (mut recovered, storage) = log_of(HISTORY_TERMS as u32 + 10);
    (recovered.confirmed, recovered.intended) = (Position::ZERO, Position::ZERO);
    recovered.confirmed_chain = Author::new().0.chain();
    let mut bench = Bench::new(3, &recovered);
    assert_eq!(bench.window.fill(&storage), storage.len());
    bench.be_elected();
    bench.histories(900);
    ask(&mut bench, 900, 32);
    let answer = (0..2).find_map(|_| first_terms(&mut bench, 900));
    assert!(answer.is_some());
}
