extern crate std;
use std::collections::BTreeMap;
use std::vec;
use std::vec::Vec;

use super::codec::{Refusal, Reply, Request, decode_reply, encode_request};
use super::outbox::Recorder;
use super::*;
use crate::prng::Prng;
use crate::units::Position;

/// The service, its log position, and what it sent.
struct Bench {
    kv: Kv<Vec<u8>>,
    outbox: Recorder,
    position: u64,
}

impl Bench {
    fn new(capacity: usize) -> Self {
        Self {
            kv: Kv::new(vec![0; capacity]),
            outbox: Recorder::default(),
            position: 0,
        }
    }

    fn send(&mut self, session: u64, correlation: u64, request: &Request<'_>) -> Vec<Sent> {
        let bytes = encode_request(correlation, request).parts().concat();
        self.send_bytes(session, &bytes)
    }

    fn send_bytes(&mut self, session: u64, bytes: &[u8]) -> Vec<Sent> {
        self.position += 64;
        let Self { kv, outbox, .. } = self;
        outbox.at(Position::new(self.position), |cluster| {
            kv.on_session_message(cluster, id(session), bytes);
        });
        self.outbox.sent.drain(..).map(Sent::from).collect()
    }

    fn close(&mut self, session: u64) {
        self.position += 64;
        let Self { kv, outbox, .. } = self;
        outbox.at(Position::new(self.position), |cluster| {
            kv.on_session_close(cluster, id(session), CloseReason::ClientAction);
        });
    }
}

fn id(session: u64) -> SessionId {
    SessionId::new(Position::new(session * 32))
}

/// One message to a client.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Sent {
    session: u64,
    bytes: Vec<u8>,
}

impl From<(SessionId, Vec<u8>)> for Sent {
    fn from((session, bytes): (SessionId, Vec<u8>)) -> Self {
        Self {
            session: session.opened_at().get() / 32,
            bytes,
        }
    }
}

impl Sent {
    fn told(&self) -> (u64, u64, Reply<'_>) {
        let (correlation, reply) = decode_reply(&self.bytes).unwrap();
        (self.session, correlation, reply)
    }
}

#[track_caller]
fn assert_sent(sent: &[Sent], expected: &[(u64, u64, Reply<'_>)]) {
    let sent: Vec<_> = sent.iter().map(Sent::told).collect();
    assert_eq!(sent, expected);
}

const PUT_A: Request<'_> = Request::Put {
    key: b"a",
    value: b"1",
};

#[test]
fn a_key_is_put_read_compared_and_removed() {
    let mut bench = Bench::new(1_000);
    let get = Request::Get { key: b"a" };
    let cas = |expected| Request::Cas {
        expected,
        key: b"a",
        value: b"2",
    };
    let delete = Request::Delete { key: b"a" };
    assert_sent(&bench.send(1, 10, &get), &[(1, 10, Reply::NotFound)]);
    let done = Reply::Done { version: 128 };
    assert_sent(&bench.send(1, 11, &PUT_A), &[(1, 11, done)]);
    let value = Reply::Value {
        version: 128,
        value: b"1",
    };
    assert_sent(&bench.send(2, 12, &get), &[(2, 12, value)]);
    let conflict = Reply::Conflict { version: 128 };
    assert_sent(&bench.send(2, 13, &cas(0)), &[(2, 13, conflict)]);
    let done = Reply::Done { version: 320 };
    assert_sent(&bench.send(2, 14, &cas(128)), &[(2, 14, done)]);
    let done = Reply::Done { version: 384 };
    assert_sent(&bench.send(1, 15, &delete), &[(1, 15, done)]);
    assert_sent(&bench.send(1, 16, &delete), &[(1, 16, Reply::NotFound)]);
    let conflict = Reply::Conflict { version: 0 };
    assert_sent(&bench.send(1, 17, &cas(320)), &[(1, 17, conflict)]);
    let done = Reply::Done { version: 576 };
    assert_sent(&bench.send(1, 18, &cas(0)), &[(1, 18, done)]);
}

#[test]
fn watchers_are_told_before_the_writer_until_their_session_closes() {
    let mut bench = Bench::new(1_000);
    bench.send(1, 1, &Request::Watch { key: b"a" });
    bench.send(2, 2, &Request::WatchPrefix { prefix: b"" });
    bench.send(2, 3, &Request::Watch { key: b"b" });
    let changed = Reply::Changed {
        version: 256,
        key: b"a",
        value: b"1",
    };
    let done = Reply::Done { version: 256 };
    assert_sent(
        &bench.send(3, 9, &PUT_A),
        &[(1, 1, changed), (2, 2, changed), (3, 9, done)],
    );
    bench.close(1);
    assert_eq!(bench.kv.watches(), 2);
    let done = Reply::Done { version: 384 };
    assert_sent(&bench.send(2, 2, &Request::Unwatch), &[(2, 2, done)]);
    assert_sent(
        &bench.send(1, 3, &Request::Unwatch),
        &[(1, 3, Reply::NotFound)],
    );
    let sent = bench.send(3, 9, &Request::Delete { key: b"a" });
    assert_sent(&sent, &[(3, 9, Reply::Done { version: 512 })]);
    bench.send(3, 9, &Request::WatchPrefix { prefix: b"ab" });
    let put = Request::Put {
        key: b"abc",
        value: b"",
    };
    assert_eq!(bench.send(3, 9, &put).len(), 2);
    let delete = Request::Delete { key: b"abc" };
    let deleted = Reply::Deleted {
        version: 704,
        key: b"abc",
    };
    let done = Reply::Done { version: 704 };
    assert_sent(&bench.send(1, 7, &delete), &[(3, 9, deleted), (1, 7, done)]);
}

#[test]
fn what_does_not_fit_changes_nothing() {
    let mut bench = Bench::new(100);
    bench.send(1, 1, &PUT_A);
    let digest = bench.kv.digest();
    let big = Request::Put {
        key: b"a",
        value: &[0; 80],
    };
    assert_sent(&bench.send(1, 2, &big), &[(1, 2, Reply::Full)]);
    assert_eq!(bench.kv.digest(), digest);
    assert_eq!(bench.kv.get(b"a").map(|e| e.version), Some(64));
    for _ in 0..WATCHES_MAX {
        bench.send(1, 3, &Request::WatchPrefix { prefix: b"z" });
    }
    let refused = Reply::Refused(Refusal::TooManyWatches);
    assert_sent(
        &bench.send(2, 4, &Request::Watch { key: b"a" }),
        &[(2, 4, refused)],
    );
}

#[test]
fn watches_and_versions_are_in_the_digest() {
    let mut one = Bench::new(500);
    let mut two = Bench::new(500);
    one.send(1, 1, &Request::Watch { key: b"a" });
    two.send(1, 1, &Request::WatchPrefix { prefix: b"a" });
    assert_ne!(one.kv.digest(), two.kv.digest());
    one.close(1);
    two.close(1);
    assert_eq!(one.kv.digest(), two.kv.digest());
    two.send(1, 1, &Request::Get { key: b"a" });
    assert_eq!(one.kv.digest(), two.kv.digest());
    one.send(1, 1, &PUT_A);
    two.send(1, 1, &PUT_A);
    assert_ne!(one.kv.digest(), two.kv.digest());
}

/// Random bytes, mostly good requests with a damaged byte: one reply each, and two members agree.
#[test]
fn hostile_bytes_get_one_answer_and_the_same_on_every_member() {
    let mut prng = Prng::new(3);
    let mut members = [Bench::new(600), Bench::new(600)];
    let mut refused = 0;
    for n in 0..5_000 {
        let key = [prng.below(5) as u8];
        let request = match prng.below(4) {
            0 => Request::Get { key: &key },
            1 => Request::Delete { key: &key },
            2 => Request::Cas {
                expected: 0,
                key: &key,
                value: &[1; 100],
            },
            _ => PUT_A,
        };
        let mut bytes = encode_request(n, &request).parts().concat();
        let at = prng.below(bytes.len() as u64) as usize;
        bytes[at] = prng.next() as u8;
        bytes.truncate(prng.below(200) as usize);
        let [one, two] = &mut members;
        let sent = one.send_bytes(1, &bytes);
        assert_eq!(sent, two.send_bytes(1, &bytes));
        let reply = sent.last().expect("always answered").told().2;
        refused += usize::from(matches!(reply, Reply::Refused(_)));
        assert_eq!(one.kv.digest(), two.kv.digest());
    }
    assert!((100..4_900).contains(&refused), "{refused}");
}

/// The answers of a `BTreeMap` with versions.
#[test]
fn it_answers_as_a_map_would() {
    let mut prng = Prng::new(4);
    let mut bench = Bench::new(100_000);
    let mut model: BTreeMap<Vec<u8>, (u64, Vec<u8>)> = BTreeMap::new();
    for n in 0..3_000 {
        let key = vec![b'k'; 1 + prng.below(20) as usize];
        let value = vec![n as u8; prng.below(30) as usize];
        let version = bench.position + 64;
        let current = model.get(&key).map_or(0, |(version, _)| *version);
        let expected = if prng.below(2) == 0 { current } else { 1 };
        let (key_ref, value_ref) = (key.as_slice(), value.as_slice());
        let (request, reply) = match prng.below(4) {
            0 => {
                let reply = match model.get(&key) {
                    Some((version, value)) => Reply::Value {
                        version: *version,
                        value,
                    },
                    None => Reply::NotFound,
                };
                (Request::Get { key: key_ref }, reply)
            }
            1 if current == 0 => (Request::Delete { key: key_ref }, Reply::NotFound),
            1 => (Request::Delete { key: key_ref }, Reply::Done { version }),
            _ => {
                let request = Request::Cas {
                    expected,
                    key: key_ref,
                    value: value_ref,
                };
                let reply = match expected == current {
                    true => Reply::Done { version },
                    false => Reply::Conflict { version: current },
                };
                (request, reply)
            }
        };
        assert_sent(&bench.send(1, n, &request), &[(1, n, reply)]);
        match (request, reply) {
            (Request::Delete { .. }, _) => drop(model.remove(&key)),
            (Request::Cas { .. }, Reply::Done { .. }) => {
                model.insert(key.clone(), (version, value.clone()));
            }
            _ => {}
        }
    }
    let stored: Vec<_> = bench.kv.iter().map(|e| e.key.to_vec()).collect();
    assert_eq!(stored, model.keys().cloned().collect::<Vec<_>>());
}

#[test]
fn overwritten_memory_stops_the_service_without_an_answer_and_without_a_panic() {
    let mut prng = Prng::new(11);
    let mut stopped = 0;
    for _ in 0..400 {
        let mut bench = Bench::new(4096);
        for key in 0..20 {
            let put = Request::Put {
                key: &[key],
                value: &[key; 9],
            };
            bench.send(1, 0, &put);
        }
        for byte in bench.kv.store.memory_mut().iter_mut().take(20 * 36) {
            if prng.below(8) == 0 {
                *byte = prng.below(256) as u8;
            }
        }
        for key in 0..20 {
            let request = match prng.below(3) {
                0 => Request::Get { key: &[key] },
                1 => Request::Delete { key: &[key] },
                _ => Request::Put {
                    key: &[key],
                    value: &[key; 40],
                },
            };
            let sent = bench.send(1, 0, &request);
            if bench.kv.is_broken() {
                assert_eq!(sent, [], "no answer");
                assert!(!bench.kv.ready(Position::ZERO));
                stopped += 1;
                break;
            }
        }
        // Nor does what only reads come to one, or go round for ever.
        assert!(bench.kv.iter().count() <= 20);
    }
    assert!(stopped > 350, "{stopped}");
}
