//! As much for a leader, whose clients are answered.

use super::*;
use crate::session::AllowAll;
use crate::stream::{Image, ImageTiming};
use crate::wire::frame::{Frame, parse_datagram};
use crate::wire::member::Checkpoint;

/// What the clients of one leader have: they read what they are sent, and say nothing.
#[derive(Default)]
struct Readers(Vec<(Image, Vec<u8>)>);

impl Readers {
    fn handle(&mut self, now: Instant, datagram: &[u8]) {
        let from = SocketAddr::from(([127, 0, 0, 1], 9000));
        match parse_datagram(datagram) {
            Ok(Frame::Setup(setup)) => {
                let known = |(image, _): &(Image, _)| image.session_id() == setup.session_id;
                if !self.0.iter().any(known) {
                    let slot = vec![0; 16 * 1024 + MTU];
                    let timing = ImageTiming::DEFAULT;
                    let image = Image::new(now, from, &setup, 5, slot.len(), timing).unwrap();
                    self.0.push((image, slot));
                }
            }
            Ok(Frame::Data(data)) => {
                let id = data.first().session_id;
                for (image, slot) in self.0.iter_mut().filter(|(i, _)| i.session_id() == id) {
                    let _again = image.handle_data(now, &data, slot);
                }
            }
            _ => {}
        }
    }

    /// Reads so many streams at most; what is to be said of it.
    fn read(&mut self, now: Instant, most: u64) -> Vec<Vec<u8>> {
        let mut said = Vec::new();
        for (image, slot) in &mut self.0 {
            for _ in 0..most {
                if image.peek(slot).is_none() {
                    break;
                }
                image.consume(slot);
            }
            while let Some(control) = image.poll_control(now) {
                said.push(control.emit(&mut [0; crate::stream::CONTROL_MAX]).to_vec());
            }
        }
        said
    }
}

/// One that leads, with clients that do not always read. What they would have said is in the log.
struct Leaders {
    pair: Pair,
    readers: [Readers; 2],
    script: Script,
    was_reading: usize,
    ms: u64,
}

impl Leaders {
    fn new(seed: u64) -> Self {
        let mut script = Script::new(seed);
        for _ in 0..60 {
            script.step();
        }
        script.open();
        let every = [0, 1 << 12][seed as usize % 2];
        let mut pair = Pair::new(&script.recovered(), |config| {
            config.checkpoint_every = every
        });
        pair.place = (seed, 0);
        for (bench, _) in &mut pair.members {
            bench.memory[2] = vec![0; 1 << 17];
        }
        pair.each(|bench, _| bench.be_elected());
        let ms = pair.node().clock.instant.nanos() / 1_000_000;
        Self {
            ms,
            pair,
            readers: Default::default(),
            script,
            was_reading: 0,
        }
    }

    /// Messages of clients are appended: some sessions are open, some are not.
    fn append(&mut self, ms: u64) {
        let count = match self.script.prng.below(4) {
            0 => 1,
            _ => self.script.prng.below(16),
        };
        for _ in 0..count {
            let (roll, len) = (
                self.script.prng.next(),
                self.script.prng.below(300) as usize,
            );
            let open = self.pair.node().clients().sessions();
            let session = open.iter().nth(roll as usize % 3).map(|session| session.id);
            let header = SessionMessageHeader {
                term: self.pair.node().raft().term(),
                session: session.unwrap_or(SessionId::new(Position::new(32))),
                timestamp: Timestamp(900 + ms as i64 + roll as i64 % 5),
            };
            let payload = vec![roll as u8; if roll.is_multiple_of(9) { 3 * len } else { len }];
            self.pair.each(|bench, _| {
                let base = bench.window.end();
                let parts = [&header.to_bytes()[..], &payload];
                let appended = append(&mut bench.window, header.term, &parts, MTU);
                if let Ok(span) = &appended {
                    bench.node.grown(header.term, base, span.end);
                }
                appended.is_ok()
            });
        }
    }

    /// What was sent arrives; clients read some of it, or nothing, and say so.
    fn exchange(&mut self, ms: u64) {
        let most = [1_000, 0, 3][(ms / 200) as usize % 3];
        let readers = RefCell::new(self.readers.iter_mut());
        self.pair.each(|bench, _| {
            let readers = readers.borrow_mut().next().unwrap();
            let lent = lent!(bench);
            let mut scratch = [0; CONTROL_MAX];
            while let Some(due) = bench.node.poll_transmit(now(ms), &lent, &mut scratch) {
                if due.to.port() == 5000 {
                    readers.handle(now(ms).instant, due.bytes);
                }
            }
            let mut lent = lent!(bench);
            let from = SocketAddr::from(([127, 0, 0, 1], 5000));
            for said in readers.read(now(ms).instant, most) {
                let door = Door::Client;
                let handled = &mut bench.node;
                let _taken = handled.handle_datagram(now(ms), door, from, &said, &mut lent);
            }
        });
        self.was_reading += usize::from(self.pair.node().clients().are_reading());
    }

    /// The log is on this member's disk and on another's.
    fn commit(&mut self, ms: u64) {
        let window = &self.pair.members[0].0.window;
        let storage = &mut self.script.storage;
        while storage.len() < window.end().get() as usize {
            storage.extend_from_slice(window.read(Position::new(storage.len() as u64)));
        }
        self.pair
            .each(|bench, _| bench.acknowledge(ms, 1, Checkpoint::default()));
        self.pair.drive(ms, storage);
    }

    fn step(&mut self, step: usize) {
        self.pair.place.1 = step;
        self.ms += 1;
        let ms = self.ms;
        match self.script.prng.below(8) {
            0..=1 => self.append(ms),
            2..=3 => self.exchange(ms),
            4 => {
                self.pair.each(|bench, _| {
                    let mut lent = lent!(bench);
                    bench.node.handle_timeout(now(ms), &mut lent);
                    bench.node.poll_ingress(now(ms), &mut AllowAll, &mut lent)
                });
            }
            5 => self.commit(ms),
            _ => {
                let patience = match self.script.prng.below(12) {
                    0 => self.script.prng.below(12) as u32,
                    _ => u32::MAX,
                };
                self.pair.execute(ms, patience);
            }
        }
    }
}

#[test]
fn a_leader_executes_and_answers_the_same_whichever_way() {
    TAKEN.take();
    ALONE.take();
    let (mut reading, mut streams) = (0, 0);
    for seed in 0..40 {
        let mut leaders = Leaders::new(seed);
        for step in 0..1_500 {
            leaders.step(step);
        }
        let node = leaders.pair.node();
        assert_eq!((node.role(), node.halted()), (Role::Leader, None), "{seed}");
        reading += leaders.was_reading;
        streams += leaders.readers[0].0.len();
    }
    let sum: usize = TAKEN.take().iter().sum();
    let found = (reading, streams, sum, ALONE.take());
    assert!(reading > 300 && streams > 40 && sum > 2_500, "{found:?}");
    assert!(found.3 > 50, "{found:?}");
}

/// All members of the machine stand still for a minute, and no client is in arrears.
#[test]
fn a_leader_that_slept_keeps_its_sessions() {
    use crate::node::clients::Count;
    let mut all = Vec::new();
    for seed in 0..10 {
        let mut leaders = Leaders::new(seed);
        leaders.commit(leaders.ms);
        while leaders.pair.execute(leaders.ms, u32::MAX) {}
        let mut ms = leaders.ms;
        for _ in 0..40 {
            ms += 50;
            leaders.exchange(ms - ms % 600);
            leaders.pair.each(|bench, _| {
                bench.acknowledge(ms, 1, Checkpoint::default());
                bench.acknowledge(ms, 2, Checkpoint::default());
                bench.timeout(ms);
            });
        }
        let closed = |node: &Node<2>| {
            let counters = node.clients().counters();
            counters.get(Count::SessionTimeout) + counters.get(Count::EgressTimeout)
        };
        let before = closed(leaders.pair.node());
        ms += 60_000;
        leaders.pair.each(|bench, _| bench.timeout(ms));
        let node = leaders.pair.node();
        let open = node.clients().sessions().len();
        all.push((node.role(), open, before, closed(node)));
    }
    assert!(
        all.iter().all(|one| one.3 == one.2),
        "role, open, closed before and after: {all:?}"
    );
}
