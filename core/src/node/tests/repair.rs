//! Damage that is healed from others: nothing is written before its end was seen.

use super::*;
use crate::log::scan;
use crate::wire::member::{RepairRequest, SnapshotChunk};

/// A log of 24 records of 96 bytes; those from the third to the third last were durable here and
/// are damaged.
struct Damaged {
    bench: Bench,
    author: Author,
    hole: (Position, Position),
    /// Each datagram comes before the one that was sent before it.
    is_overtaken: bool,
}

/// What a driver has done until the damage was healed, in order.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    Asked(u8, u64),
    Wrote(u64, u64),
}

impl Damaged {
    /// With so many bytes of memory for what comes.
    fn new(memory: usize) -> Self {
        Self::of(24, memory)
    }

    /// With so many records instead.
    fn of(records: usize, memory: usize) -> Self {
        let mut author = Author::new();
        let mut ends = Vec::new();
        for _ in 0..records {
            let end = author.write(1);
            ends.push((end, author.0.chain()));
        }
        let mut recovered = author.recovered(1);
        recovered.corrupt = Some(ends[1].0);
        recovered.corrupt_after = (ends[1].1, term(1));
        recovered.corrupt_to = ends[records - 3];
        let mut bench = Bench::new(3, &recovered);
        bench.memory[4] = vec![0; memory];
        Self {
            bench,
            author,
            hole: (ends[1].0, ends[records - 3].0),
            is_overtaken: false,
        }
    }

    fn asks(&mut self, ms: u64) -> Option<(u8, RepairRequest)> {
        // As by a look at the time, but for elections.
        self.bench.node.stir();
        let said = self.bench.said(ms);
        said.into_iter().find_map(|(to, body)| match body {
            Body::RepairRequest(ask) => {
                let member = (0..3).find(|m| address(*m) == to)?;
                Some((member, ask))
            }
            _ => None,
        })
    }

    /// Members 1 and 2 answer with what their logs hold, three records to a datagram; the driver
    /// writes what it is told to.
    fn heal(&mut self, logs: [&Author; 2]) -> Vec<Step> {
        let mut steps = Vec::new();
        let right = self.author.bytes(Position::ZERO);
        for round in 1..200 {
            let ms = round * 60;
            if let Some((member, ask)) = self.asks(ms) {
                steps.push(Step::Asked(member, ask.from.get()));
                let bytes = logs[usize::from(member) - 1].bytes(ask.from);
                // The last datagram goes beyond what is asked for.
                let most = ask.to.since(ask.from).next_multiple_of(3 * 96) as usize;
                let most = most.min(bytes.len());
                let mut datagrams: Vec<_> = bytes[..most].chunks(3 * 96).collect();
                if self.is_overtaken {
                    datagrams.reverse();
                }
                for datagram in datagrams {
                    let _taken = self.bench.datagram(ms, member, datagram);
                }
            }
            if let Some(repair) = self.bench.node.poll_repair() {
                let at = repair.at.get() as usize;
                let written = &self.bench.memory[4][..repair.len];
                assert_eq!(written, &right[at..at + repair.len]);
                steps.push(Step::Wrote(repair.at.get(), repair.end.get()));
                self.bench.node.handle_repaired(repair);
            }
            if self.bench.node.is_healed() {
                return steps;
            }
        }
        panic!("it is not healed: {steps:?}");
    }

    /// What was written is all of the hole, once and in order.
    fn is_whole(&self, steps: &[Step]) {
        let mut at = self.hole.0.get();
        for step in steps {
            if let Step::Wrote(from, to) = step {
                assert_eq!(*from, at, "{steps:?}");
                at = *to;
            }
        }
        assert_eq!(at, self.hole.1.get(), "{steps:?}");
    }
}

#[test]
fn damage_that_fits_in_memory_is_asked_for_once() {
    let mut damaged = Damaged::new(4096);
    let author = Author(damaged.author.0.clone());
    let steps = damaged.heal([&author, &author]);
    damaged.is_whole(&steps);
    assert_eq!(steps[0], Step::Asked(1, 192));
    assert_eq!(steps[1..], [Step::Wrote(192, 22 * 96)]);
}

#[test]
fn datagrams_that_overtake_one_another_are_not_asked_for_again() {
    let mut damaged = Damaged::new(4096);
    damaged.is_overtaken = true;
    let author = Author(damaged.author.0.clone());
    let steps = damaged.heal([&author, &author]);
    assert_eq!(steps, [Step::Asked(1, 192), Step::Wrote(192, 22 * 96)]);
}

#[test]
fn members_that_have_a_part_each_heal_the_last_part_first() {
    // Member 1 ends in the hole, and member 2 is damaged where it begins.
    let mut damaged = Damaged::new(5 * 96);
    let right = damaged.author.bytes(Position::ZERO);
    let mut wrote = Vec::new();
    for round in 1..400 {
        let ms = round * 60;
        if let Some((member, ask)) = damaged.asks(ms) {
            let at = ask.from.get() as usize;
            let holds = if member == 1 {
                0..12 * 96
            } else {
                4 * 96..24 * 96
            };
            if holds.contains(&at) {
                let end = (at + 3 * 96).min(holds.end);
                let _taken = damaged.bench.datagram(ms, member, &right[at..end]);
            }
        }
        if let Some(repair) = damaged.bench.node.poll_repair() {
            let (at, end) = (repair.at.get() as usize, repair.end.get() as usize);
            assert_eq!(damaged.bench.memory[4][..repair.len], right[at..end]);
            wrote.push((at, end));
            damaged.bench.node.handle_repaired(repair);
        }
        if damaged.bench.node.is_healed() {
            break;
        }
    }
    assert!(damaged.bench.node.is_healed(), "{wrote:?}");
    let (from, to) = (damaged.hole.0.get() as usize, damaged.hole.1.get() as usize);
    assert!(wrote[0].0 > from, "{wrote:?}");
    wrote.sort_unstable();
    assert!(wrote.windows(2).all(|w| w[0].1 == w[1].0), "{wrote:?}");
    assert_eq!((wrote[0].0, wrote[wrote.len() - 1].1), (from, to));
}

/// Of a hole that has `parts` parts of three records, members 1 and 2 have every other one: how
/// often all of it was sent, and how many requests there were for each part.
fn healed_by_turns(parts: usize, memory: usize, comes_again: bool) -> (f64, f64) {
    let mut damaged = Damaged::of(3 * parts + 4, memory);
    let right = damaged.author.bytes(Position::ZERO);
    let (from, to) = (damaged.hole.0.get() as usize, damaged.hole.1.get() as usize);
    let (mut asks, mut sent) = (0, 0);
    // What is sound from here on.
    let mut low = to;
    let mut wrote = vec![false; to];
    for ms in (1..400_000).step_by(10) {
        if let Some((member, ask)) = damaged.asks(ms) {
            asks += 1;
            let at = ask.from.get() as usize;
            let part = (at - from) / 288;
            if part % 2 == usize::from(member) % 2 {
                let end = (from + (part + 1) * 288).min(to);
                sent += end - at;
                let _taken = damaged.bench.datagram(ms, member, &right[at..end]);
            }
        }
        if let Some(repair) = damaged.bench.node.poll_repair() {
            let (at, end) = (repair.at.get() as usize, repair.end.get() as usize);
            assert_eq!(damaged.bench.memory[4][..repair.len], right[at..end]);
            assert!(at + memory >= low, "{at} is not known to lead to {low}");
            low = low.min(at);
            wrote[at..end].fill(true);
            damaged.bench.node.handle_repaired(repair);
            // What was sent long ago may come now.
            for part in (0..parts).filter(|_| comes_again) {
                let at = from + part * 288;
                let member = 2 - part as u8 % 2;
                let _taken = damaged.bench.datagram(ms, member, &right[at..at + 288]);
            }
        }
        if damaged.bench.node.is_healed() {
            assert!(wrote[from..].iter().all(|is_written| *is_written));
            let hole = (to - from) as f64;
            return (sent as f64 / hole, f64::from(asks) / parts as f64);
        }
    }
    panic!("it is not healed");
}

/// Once to find where each part ends, and once or twice to write it; not once more for each.
#[test]
fn a_hole_of_many_parts_is_sent_few_times_however_many_they_are() {
    for (parts, most) in [(2, 2.0), (6, 2.0), (12, 2.5), (24, 3.0)] {
        for (memory, comes_again) in [(5 * 96, false), (1024, false), (5 * 96, true)] {
            let (sent, asks) = healed_by_turns(parts, memory, comes_again);
            assert!(sent <= most, "{parts} parts were sent {sent} times");
            assert!(
                asks <= 4.0 * most,
                "{parts} parts took {asks} requests each"
            );
        }
    }
}

#[test]
fn damage_that_does_not_fit_in_memory_is_sent_twice_and_written_the_second_time() {
    // Five records at a time of twenty.
    let mut damaged = Damaged::new(5 * 96);
    let author = Author(damaged.author.0.clone());
    let steps = damaged.heal([&author, &author]);
    damaged.is_whole(&steps);
    let first = |s: &Step| *s == Step::Asked(1, 192);
    assert_eq!(steps.iter().filter(|s| first(s)).count(), 2, "{steps:?}");
    let again = steps.iter().rposition(first).unwrap();
    let wrote = |s: &Step| matches!(s, Step::Wrote(..));
    let begins = steps.iter().position(wrote).unwrap();
    assert!(begins > again, "its end was seen before: {steps:?}");
}

#[test]
fn bytes_of_another_branch_are_never_written() {
    // Member 1 has the same records up to the fifth, and others behind it.
    let mut other = Author::new();
    for record in 0..24 {
        other.write(if record < 5 { 1 } else { 0 });
    }
    for memory in [5 * 96, 4096] {
        let mut damaged = Damaged::new(memory);
        let author = Author(damaged.author.0.clone());
        // What is written is compared with the right bytes at every step.
        let steps = damaged.heal([&other, &author]);
        damaged.is_whole(&steps);
        let asked = |member| move |s: &Step| matches!(s, Step::Asked(m, _) if *m == member);
        let turned = steps.iter().position(asked(2)).unwrap();
        assert!(steps[..turned].iter().all(asked(1)), "{steps:?}");
    }
}

/// Some came of another branch, and its owner was led to ours: no frame starts there any more.
#[test]
fn what_leads_to_a_place_in_nobody_s_log_is_forgotten() {
    let mut other = Author::new();
    for record in 0..24 {
        other.write(if record < 2 { 1 } else { 0 });
    }
    for memory in [5 * 96, 4096] {
        let mut damaged = Damaged::new(memory);
        let (_, ask) = damaged.asks(1).unwrap();
        let bytes = other.bytes(ask.from);
        damaged.bench.datagram(2, 1, &bytes[..3 * 96]).unwrap();
        let right = damaged.author.bytes(Position::ZERO);
        let mut asked = Vec::new();
        for ms in (60..20_000).step_by(60) {
            if let Some((member, ask)) = damaged.asks(ms) {
                asked.push(ask.from.get());
                // Where the three end, no other frame does.
                if asked.contains(&damaged.hole.0.get()) {
                    let len = ask.to.since(ask.from).next_multiple_of(3 * 96) as usize;
                    let bytes = &right[ask.from.get() as usize..];
                    for datagram in bytes[..len.min(bytes.len())].chunks(3 * 96) {
                        let _taken = damaged.bench.datagram(ms, member, datagram);
                    }
                }
            }
            if let Some(repair) = damaged.bench.node.poll_repair() {
                damaged.bench.node.handle_repaired(repair);
            }
            if damaged.bench.node.is_healed() {
                break;
            }
        }
        assert!(damaged.bench.node.is_healed(), "{asked:?}");
    }
}

#[test]
fn whoever_has_bytes_of_no_use_alone_leaves_the_member_damaged() {
    let mut other = Author::new();
    for _ in 0..24 {
        other.write(0);
    }
    let mut damaged = Damaged::new(4096);
    for ms in (60..1_200).step_by(60) {
        let Some((member, ask)) = damaged.asks(ms) else {
            break;
        };
        let most = ask.to.since(ask.from) as usize;
        let bytes = other.bytes(ask.from);
        let _taken = damaged.bench.datagram(ms, member, &bytes[..most]);
        assert_eq!(damaged.bench.node.poll_repair(), None);
    }
    assert!(!damaged.bench.node.is_healed());
    let halted = damaged.bench.node.halted();
    assert_eq!(halted, Some(Halt::DamageNotHealed(damaged.hole.1)));
}

impl Bench {
    /// Member 2 asks for what is between these places; what is read for it.
    fn asked(&mut self, ms: u64, from: usize, to: usize) -> Recall {
        let ask = RepairRequest {
            term: term(1),
            from: Position::new(from as u64),
            to: Position::new(to as u64),
        };
        self.say(ms, 2, Body::RepairRequest(ask));
        let recall = self.recall().expect("it is below the window");
        assert_eq!(recall.consumer, Consumer::Repair);
        recall
    }

    /// The frames that member 2 is sent.
    fn mends(&mut self, ms: u64) -> Vec<u8> {
        let lent = lent!(self);
        let (mut scratch, mut sent) = ([0; CONTROL_MAX], Vec::new());
        while let Some(due) = self.node.poll_transmit(now(ms), &lent, &mut scratch) {
            if scan::stated_position(due.bytes, SEGMENT).is_some() {
                assert_eq!(due.to, address(2));
                sent.extend_from_slice(due.bytes);
            }
        }
        sent
    }
}

impl Damaged {
    /// What member 2 is sent of a log whose storage holds `bytes`, when it asks for what follows
    /// `from`.
    fn sends(&mut self, ms: u64, from: usize, bytes: &[u8]) -> Vec<u8> {
        let recall = self.bench.asked(ms, from, bytes.len());
        self.bench.read(recall, bytes);
        self.bench.mends(ms)
    }

    /// The log with some records damaged so that their own checksums say so, and some only in
    /// their chains.
    fn rotten(&self, records: &[usize], chains: &[usize]) -> Vec<u8> {
        let mut bytes = self.author.bytes(Position::ZERO);
        for record in records {
            bytes[record * 96 + 40] ^= 0xff;
        }
        for record in chains {
            bytes[record * 96 + 28] ^= 0xff;
        }
        bytes
    }
}

/// Both ends of the hole are records: 2 and, as the last of it, 21.
#[test]
fn what_is_sound_in_a_hole_is_sent_to_others() {
    let mut damaged = Damaged::new(4096);
    let right = damaged.author.bytes(Position::ZERO);
    let bytes = damaged.rotten(&[2, 8, 20], &[]);
    for (ms, from, to) in [(1, 0, 2), (2, 3, 8), (3, 7, 8), (4, 9, 20), (5, 21, 24)] {
        if from == 7 {
            // Asked for alone, nothing says of it that its chain is right.
            assert_eq!(damaged.sends(ms, from * 96, &bytes), []);
            continue;
        }
        let sent = damaged.sends(ms, from * 96, &bytes);
        assert!(sent == right[from * 96..to * 96], "{from}..{to}");
    }
    // What stands at its end is known, also where nothing behind it was read.
    assert!(damaged.sends(6, 21 * 96, &bytes[..22 * 96]) == right[21 * 96..22 * 96]);
    let rotten = damaged.rotten(&[2, 8, 20], &[21]);
    assert_eq!(damaged.sends(7, 21 * 96, &rotten[..22 * 96]), []);
    for (ms, bad) in [(8, 2), (9, 8), (10, 20)] {
        assert_eq!(damaged.sends(ms, bad * 96, &bytes), [], "{bad}");
    }
}

/// A chain is in no frame's own checksum. Where the frames beside it are damaged as well, it is
/// taken for damaged: unsent, not passed on as bytes that this log never had.
#[test]
fn a_frame_of_a_hole_whose_chain_nothing_bears_out_is_not_sent() {
    let mut damaged = Damaged::new(4096);
    let right = damaged.author.bytes(Position::ZERO);
    // Where the hole begins, in it, behind what is sound in it, and where it ends.
    let bytes = damaged.rotten(&[3, 6, 8, 13, 20], &[2, 7, 12, 21]);
    for (ms, record) in [(1, 2), (2, 7), (3, 12), (4, 21)] {
        assert_eq!(damaged.sends(ms, record * 96, &bytes), [], "{record}");
    }
    let sent = damaged.sends(5, 9 * 96, &bytes);
    assert!(sent == right[9 * 96..12 * 96]);
    // Of another log, each links with the next; but not with what stands before the hole.
    let mut other = Author::new();
    for record in 0..24 {
        other.write(if record < 1 { 0 } else { 1 });
    }
    let bytes = other.bytes(Position::ZERO);
    assert_eq!(damaged.sends(6, 2 * 96, &bytes), []);
}

/// So members heal one another that have every other record of a hole.
#[test]
fn a_frame_alone_in_a_hole_is_sent_once_healing_has_come_to_it() {
    let mut damaged = Damaged::new(4096);
    let right = damaged.author.bytes(Position::ZERO);
    let bytes = damaged.rotten(&[2, 3, 4, 6, 20], &[]);
    let record = |n: usize| n * 96..(n + 1) * 96;
    assert_eq!(damaged.sends(1, 5 * 96, &bytes), []);
    let (member, _) = damaged.asks(60).expect("nothing was asked for yet");
    let taken = damaged.bench.datagram(61, member, &right[2 * 96..5 * 96]);
    assert_eq!(taken, Ok(()));
    assert!(damaged.sends(62, 5 * 96, &bytes) == right[record(5)]);
    // If that is not where this log's own record goes on, it says nothing.
    let rotten = damaged.rotten(&[2, 3, 4, 6, 20], &[5]);
    assert_eq!(damaged.sends(63, 5 * 96, &rotten), []);
    // It comes from nobody else, who is asked in turn; the place is remembered.
    for ms in (120..600).step_by(60) {
        damaged.asks(ms);
        assert!(
            damaged.sends(ms + 1, 5 * 96, &bytes) == right[record(5)],
            "{ms}"
        );
    }
}

/// What was read for a damaged member is of this log no more once that was cut, nor what is being
/// read.
#[test]
fn a_log_that_was_cut_meanwhile_is_not_sent() {
    for is_read_before in [true, false] {
        let (mut author, mut leader) = (Author::new(), Author::new());
        for record in 0..24 {
            author.write(1);
            leader.write(if record < 10 { 1 } else { 2 });
        }
        let old = author.bytes(Position::ZERO);
        let mut bench = Bench::new(3, &author.recovered(1));
        let recall = bench.asked(1, 8 * 96, 16 * 96);
        if is_read_before {
            bench.read(recall, &old);
        }
        let cut = 10 * 96;
        bench.lead(2, 2, &[(1, 0), (2, cut)], 24 * 96, 0);
        assert_eq!(bench.node.raft().tail.end, Position::new(cut));
        let bytes = leader.bytes(Position::new(cut));
        bench.datagram(3, 1, &bytes[..2 * 96]).unwrap();
        assert_eq!(bench.mends(4), [], "{is_read_before}");
        let again = bench.asked(4, 8 * 96, 16 * 96);
        if !is_read_before {
            bench.read(recall, &old);
        }
        assert_eq!(bench.mends(5), [], "{is_read_before}");
        bench.read(again, &old);
        assert!(bench.mends(6) == old[8 * 96..10 * 96]);
    }
}

/// A datagram that was sent long ago says nothing of what its sender has now.
#[test]
fn bytes_of_another_branch_that_come_late_do_not_refute_who_has_the_right_ones() {
    let mut other = Author::new();
    for _ in 0..24 {
        other.write(0);
    }
    let mut damaged = Damaged::new(4096);
    let author = Author(damaged.author.0.clone());
    let mut is_late = true;
    for ms in (60..2_000).step_by(60) {
        if let Some((member, ask)) = damaged.asks(ms) {
            let log = if member == 1 || is_late {
                &other
            } else {
                &author
            };
            is_late &= member == 1;
            let bytes = log.bytes(ask.from);
            let most = ask.to.since(ask.from) as usize;
            let _taken = damaged.bench.datagram(ms, member, &bytes[..most]);
        }
        assert_eq!(damaged.bench.node.halted(), None);
        if let Some(repair) = damaged.bench.node.poll_repair() {
            damaged.bench.node.handle_repaired(repair);
        }
    }
    assert!(!is_late && damaged.bench.node.is_healed());
}

impl Damaged {
    /// Member 1 leads, and its log begins behind the damage.
    fn led_by_one_that_has_purged(&mut self, ms: u64) {
        let mut history = HistorySlice::EMPTY;
        let base = self.author.0.end();
        history.entries[0] = TermBase {
            term: term(2),
            base,
        };
        (history.len, history.covered_to) = (1, base.plus(96));
        let said = NewLeadershipTerm {
            term: term(2),
            commit: base,
            end: base.plus(96),
            start: TermBase {
                term: term(1),
                base,
            },
            settings: self.bench.settings(),
            history,
        };
        for _ in 0..2 {
            self.bench.say(ms, 1, Body::NewLeadershipTerm(said));
            if let Some(state) = self.bench.node.poll_persist() {
                self.bench.node.handle_persisted(state);
            }
        }
    }
}

/// Else nobody could be elected, if only this member is as far as the leader that is lost.
#[test]
fn a_member_that_waits_for_the_snapshot_of_a_leader_that_is_lost_is_healed_by_others() {
    let mut damaged = Damaged::new(4096);
    let author = Author(damaged.author.0.clone());
    for ms in (1..5_000).step_by(50) {
        damaged.led_by_one_that_has_purged(ms);
        assert!(damaged.bench.node.installing().is_some());
        assert_eq!(damaged.asks(ms), None, "its snapshot comes first, at {ms}");
    }
    let chunk = SnapshotChunk {
        sender: Sender {
            cluster: CLUSTER,
            incarnation: Incarnation::FIRST,
            member: id(1),
        },
        term: term(2),
        position: author.0.end(),
        digest: 5,
        section: crate::units::Section::Consensus,
        offset: 0,
        is_last: false,
        bytes: &[7; 64],
    };
    let mut sent = [0; CONTROL_MAX];
    let len = chunk.emit(&mut sent).unwrap();
    damaged.bench.datagram(5_000, 1, &sent[..len]).unwrap();
    let timeout = damaged.bench.node.config.timing.leader_timeout;
    let quiet = 5_000 + timeout.as_millis() as u64;
    let due = damaged.bench.node.repair_deadline();
    assert_eq!(due, Some(now(quiet).instant));
    assert_eq!(damaged.asks(quiet - 1), None);
    let (member, ask) = damaged.asks(quiet).expect("another is asked");
    let bytes = author.bytes(ask.from);
    damaged
        .bench
        .datagram(quiet, member, &bytes[..3 * 96])
        .unwrap();
    // It is back: what came of the log makes room for what comes of its snapshot, all of it.
    damaged.bench.datagram(quiet, 1, &sent[..len]).unwrap();
    assert_eq!(damaged.bench.memory[4][..64], [7; 64]);
    assert_eq!(damaged.asks(quiet + 100), None);
    let late = damaged
        .bench
        .datagram(quiet, member, &bytes[3 * 96..6 * 96]);
    assert_eq!(late, Err(Reject::Frames));
    // And lost again.
    let again = quiet + timeout.as_millis() as u64;
    let mut steps = Vec::new();
    for ms in (again..again + 1_000).step_by(60) {
        if let Some((member, ask)) = damaged.asks(ms) {
            steps.push(ask.from);
            let most = ask.to.since(ask.from) as usize;
            let bytes = author.bytes(ask.from);
            let _taken = damaged.bench.datagram(ms, member, &bytes[..most]);
        }
        if let Some(repair) = damaged.bench.node.poll_repair() {
            damaged.bench.node.handle_repaired(repair);
        }
    }
    assert!(damaged.bench.node.is_healed(), "{steps:?}");
    assert_eq!(steps[0], damaged.hole.0);
}
