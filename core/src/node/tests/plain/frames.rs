//! The short way of frames into a follower's log, beside the long way of all of them: whatever
//! arrives, in whatever order, and from whomever.

use super::*;
use crate::log::Span;
use crate::wire::member::CommitPosition;

/// A leader's log, with the places of its frames.
struct Leader {
    script: Script,
    ends: Vec<u64>,
}

impl Leader {
    fn of(script: Script) -> Self {
        let frames = Frames::new(&script.storage, Position::ZERO, SEGMENT);
        let ends = frames.map(|frame| frame.end().get()).collect();
        Self { script, ends }
    }

    /// The frames from `at` on that one datagram carries.
    fn datagram(&self, at: u64, most: usize) -> &[u8] {
        let rest = self.script.storage.get(at as usize..).unwrap_or(&[]);
        match run(rest, Position::new(at), most, SEGMENT) {
            0 => sent(rest),
            len => sent(&rest[..len]),
        }
    }

    /// The end of a frame not far from `at`.
    fn near(&self, at: u64, prng: &mut Prng) -> u64 {
        let here = self.ends.partition_point(|end| *end < at) as u64;
        let place = (here + prng.below(8)).saturating_sub(3);
        self.ends.get(place as usize).copied().unwrap_or(0)
    }
}

/// Two leaders whose logs are the same up to here, and the first of them on the disk of the
/// follower up to where `recovered` ends.
fn leaders(seed: u64) -> (Recovered, u64, [Leader; 2]) {
    let steps = |script: &mut Script, count| (0..count).for_each(|_| script.step());
    let begin = || {
        let mut script = Script::new(seed);
        steps(&mut script, seed % 20);
        let recovered = script.recovered();
        steps(&mut script, 30);
        (script, recovered)
    };
    let ((mut first, recovered), (mut second, _)) = (begin(), begin());
    let fork = first.log.end().get();
    steps(&mut first, 90);
    second.of = first.of + 1;
    second.prng = Prng::new(!seed);
    second.begin_term();
    steps(&mut second, 120);
    (recovered, fork, [Leader::of(first), Leader::of(second)])
}

struct Story {
    pair: Pair,
    prng: Prng,
    ms: u64,
    leaders: [Leader; 2],
    /// Which of them leads.
    of: usize,
    fork: u64,
    commit: u64,
    round: u64,
}

impl Story {
    fn end(&self) -> u64 {
        self.pair.members[0].0.window.end().get()
    }

    /// Any of the usual faults of a network, or none.
    fn datagram(&mut self) {
        let (end, leader) = (self.end(), &self.leaders[self.of]);
        let most = [MTU, MTU, 1_400][self.prng.below(3) as usize];
        let (mut from, mut datagram) = (1, leader.datagram(end, most).to_vec());
        match self.prng.below(40) {
            0..=2 => {
                datagram = leader
                    .datagram(leader.near(end, &mut self.prng), most)
                    .to_vec()
            }
            3 => datagram = self.leaders[1 - self.of].datagram(end, most).to_vec(),
            4 if !datagram.is_empty() => {
                let bit = self.prng.below(8 * datagram.len() as u64) as usize;
                datagram[bit / 8] ^= 1 << (bit % 8);
            }
            5 => datagram.truncate(self.prng.below(datagram.len() as u64 + 1) as usize),
            6 => {
                let at = leader.near(end, &mut self.prng);
                datagram.extend_from_slice(leader.datagram(at, MTU));
            }
            7 => from = [0, 2, 9][self.prng.below(3) as usize],
            _ => {}
        }
        let ms = self.ms;
        let _taken = self
            .pair
            .each(|bench, _| bench.datagram(ms, from, &datagram));
    }

    /// The leader says how its log came to be, now and then not all of it.
    fn lead(&mut self) {
        let (ms, script) = (self.ms, &self.leaders[self.of].script);
        let (of, mut history) = (script.of, script.history.clone());
        let mut end = self.end().max(history.last().unwrap().1 + 32);
        if self.prng.below(4) == 0 && history.len() > 1 {
            end = history.pop().unwrap().1;
        }
        let commit = self.commit;
        self.pair
            .each(|bench, _| bench.lead(ms, of, &history, end, commit));
    }

    /// How far the leader is, and how far others are.
    fn commit(&mut self) {
        let leader = &self.leaders[self.of];
        let most = match self.of {
            0 => self.fork,
            _ => leader.script.storage.len() as u64,
        };
        self.commit = most.min(self.commit + self.prng.below(2_000));
        self.round += self.prng.below(2);
        let ahead = self.prng.below(4) / 3 * self.prng.below(1_000);
        let said = CommitPosition {
            term: term(leader.script.of),
            commit: Position::new(self.commit),
            end: Position::new(self.end() + ahead / 32 * 32),
            round: self.round,
            counts: true,
            checkpoint: Default::default(),
            snapshot: Default::default(),
        };
        let ms = self.ms;
        self.pair
            .each(|bench, _| bench.say(ms, 1, Body::CommitPosition(said)));
    }

    /// Storage reads the log while it is written, and may come late.
    fn write(&mut self) {
        let end = self.end();
        let span = (self.prng.below(2) == 0).then(|| {
            let start = end.saturating_sub(self.prng.below(10) * 32);
            Span::new(Position::new(start), Position::new(end))
        });
        let late = self.prng.below(4) / 3 * self.prng.below(6_000);
        let position = Position::new(end.saturating_sub(late) / 32 * 32);
        self.pair.each(|bench, _| {
            // The journal hears of cuts first.
            let _cut = bench.window.take_cut();
            bench.window.set_writing(span);
            bench.window.set_written(position);
            let term = bench.node.joined();
            bench.node.handle_durable(Mark { term, position });
        });
    }

    fn turn(&mut self) {
        self.ms += self.prng.below(20) / 19;
        let ms = self.ms;
        self.pair.each(|bench, _| {
            let mut lent = lent!(bench);
            bench.node.handle_timeout(now(ms), &mut lent);
        });
        if self.prng.below(4) == 0 {
            self.pair.each(|bench, _| bench.said(ms));
        }
    }

    fn step(&mut self) {
        match self.prng.below(32) {
            0 => self.lead(),
            1 => self.commit(),
            2..=4 => self.write(),
            5..=8 => {
                let storage = &self.leaders[self.of].script.storage;
                self.pair.drive(self.ms, storage);
                self.pair.execute(self.ms, u32::MAX);
            }
            9..=15 => self.turn(),
            _ => {
                self.turn();
                (0..=self.prng.below(6)).for_each(|_| self.datagram());
            }
        }
    }
}

#[test]
fn frames_land_the_same_whichever_way() {
    let (mut landed, mut cuts, mut ended, mut holes) = (0, 0, 0, 0);
    for seed in 0..50 {
        LANDED.set(0);
        let (recovered, fork, leaders) = leaders(seed);
        let mut story = Story {
            pair: Pair::new(&recovered, |config| {
                config.log_max = [0, 0, 1 << 20][seed as usize % 3]
            }),
            prng: Prng::new(seed),
            ms: 1,
            leaders,
            of: 0,
            fork,
            commit: 0,
            round: 0,
        };
        story.lead();
        for step in 0..2_000 {
            story.pair.place = (seed, step);
            story.step();
            if step == 900 {
                let before = story.end();
                story.of = 1;
                story.ms += 1;
                story.lead();
                cuts += usize::from(story.end() < before);
            }
        }
        landed += LANDED.get();
        let node = story.pair.node();
        assert_eq!(node.halted(), None, "{seed}");
        ended += usize::from(story.end() == story.leaders[1].script.storage.len() as u64);
        holes += node.counters().naks;
    }
    assert!(
        landed > 1_000 && cuts > 4 && ended > 10 && holes > 50,
        "{landed} landed, {cuts} cuts, {ended} to their end, {holes} holes"
    );
}
