extern crate std;
use std::collections::BTreeMap;
use std::vec;
use std::vec::Vec;

use super::super::codec::{Reply, Request, decode_reply, encode_request};
use super::super::outbox::{Body, Recorder};
use super::*;
use crate::prng::Prng;
use crate::service::Service;

type Model = BTreeMap<Vec<u8>, (Vec<u8>, u64)>;
type Sent = Vec<(SessionId, Vec<u8>)>;

fn session(n: u64) -> SessionId {
    SessionId::new(Position::new(n * 32))
}

/// Executes one request, as the record that ends at `at`; gives back what was sent.
fn send(kv: &mut Kv<Vec<u8>>, at: u64, request: &Request<'_>) -> Sent {
    let bytes = encode_request(at, request).parts().concat();
    let mut outbox = Recorder::default();
    outbox.at(Position::new(at), |cluster| {
        kv.on_session_message(cluster, session(1), &bytes);
    });
    outbox.sent
}

fn put(kv: &mut Kv<Vec<u8>>, key: &[u8], value: &[u8], at: u64) -> Sent {
    send(kv, at, &Request::Put { key, value })
}

fn model(kv: &Kv<Vec<u8>>) -> Model {
    kv.iter()
        .map(|e| (e.key.to_vec(), (e.value.to_vec(), e.version)))
        .collect()
}

/// What a snapshot without watches has to be.
fn expected(model: &Model, digest: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.extend(1_u32.to_le_bytes());
    bytes.extend(0_u32.to_le_bytes());
    bytes.extend((model.len() as u64).to_le_bytes());
    bytes.extend(0_u64.to_le_bytes());
    bytes.extend(digest.to_le_bytes());
    for (key, (value, version)) in model {
        bytes.extend(version.to_le_bytes());
        bytes.extend((value.len() as u32).to_le_bytes());
        bytes.push(key.len() as u8);
        bytes.extend(key);
        bytes.extend(value);
    }
    bytes
}

/// Two members, of which only the first takes a snapshot.
struct Pair {
    saving: Kv<Vec<u8>>,
    other: Kv<Vec<u8>>,
    prng: Prng,
    at: u64,
    full: usize,
}

impl Pair {
    const MEMORY: usize = 700_000;

    fn new(seed: u64, barrier: usize) -> Self {
        let memory = vec![0xaa; Self::MEMORY];
        Self {
            saving: Kv::with_barrier(memory, vec![0x55; barrier]),
            other: Kv::new(vec![0; Self::MEMORY]),
            prng: Prng::new(seed),
            at: 0,
            full: 0,
        }
    }

    /// One random request, which both answer in the same way.
    fn execute(&mut self) {
        self.at += 64;
        let key = [b'k', self.prng.below(16) as u8, self.prng.below(16) as u8];
        let key = &key[..3 - self.prng.below(2) as usize];
        let value = vec![self.at as u8; self.prng.below(9_000) as usize];
        let request = match self.prng.below(4) {
            0 => Request::Delete { key },
            1 => Request::Cas {
                expected: 0,
                key,
                value: &value,
            },
            _ => Request::Put { key, value: &value },
        };
        let answers = [&mut self.saving, &mut self.other].map(|kv| send(kv, self.at, &request));
        assert_eq!(answers[0], answers[1]);
        let reply = decode_reply(&answers[0][0].1).unwrap().1;
        self.full += usize::from(reply == Reply::Full);
        assert_eq!(self.saving.digest(), self.other.digest());
    }
}

/// Random requests between the pieces: the bytes are those of the state at the begin, the answers
/// those of a member that takes no snapshot, and a restored member goes on like the others.
#[test]
fn a_snapshot_is_of_its_begin_whatever_is_executed_meanwhile() {
    let (mut executed, mut waited, mut full) = (0, 0, 0);
    for seed in 0..24 {
        let barrier = [30_000, 100_000, 1_000_000][seed as usize % 3];
        let mut pair = Pair::new(seed, barrier);
        for _ in 0..600 {
            pair.execute();
        }
        let then = model(&pair.saving);
        let digest = pair.saving.digest();
        pair.saving.begin_snapshot();
        let mut body = Body::default();
        pair.full = 0;
        loop {
            while pair.prng.below(12) != 0 {
                if pair.saving.ready(Position::ZERO) {
                    pair.execute();
                    executed += 1;
                } else {
                    waited += 1;
                }
            }
            if body.step(&mut pair.saving) == Ok(Progress::Done) {
                break;
            }
        }
        pair.saving.end_snapshot();
        assert!(body.0 == expected(&then, digest), "seed {seed}");
        let mut restored = Kv::new(vec![0x33; Pair::MEMORY]);
        body.restore(&mut restored).unwrap();
        assert_eq!(model(&restored), then);
        assert_eq!(restored.digest(), digest);
        full += pair.full;
    }
    assert!(executed > 500, "{executed}");
    assert!(waited > 100, "{waited}");
    assert!(full > 100, "answers are Full at times: {full}");
}

/// The same entries, written in another order, among others, into other memory.
#[test]
fn the_bytes_tell_nothing_of_layout_memory_or_barrier() {
    let entry = |n: u64| (n.to_be_bytes(), vec![n as u8; 3_000 + n as usize], 64 + n);
    let mut plain = Kv::new(vec![0; 2_000_000]);
    for n in 0..200 {
        let (key, value, version) = entry(n);
        plain.store.put(&key, &value, version).unwrap().unwrap();
    }
    let mut churned = Kv::with_barrier(vec![0xff; 1_000_000], vec![1; 500_000]);
    for round in 0..5 {
        for n in (0..200).rev() {
            let (key, value, version) = entry(n * 7 % 200);
            let len = value.len() - round * 11;
            churned
                .store
                .put(&key, &value[..len], version)
                .unwrap()
                .unwrap();
            churned.store.put(b"passing", &value, 1).unwrap().unwrap();
        }
    }
    churned.store.remove(b"passing").unwrap();
    for n in 0..200 {
        let (key, value, version) = entry(n);
        churned.store.put(&key, &value, version).unwrap().unwrap();
    }
    assert_eq!(plain.digest(), churned.digest());
    let whole = Body::of(&mut plain);
    assert!(whole.0.len() > 4 * PIECE);
    // Every key is changed between two pieces of the other.
    churned.begin_snapshot();
    let mut body = Body::default();
    let mut at = 100_000;
    while body.step(&mut churned) == Ok(Progress::More) {
        for n in 0..200 {
            at += 64;
            if churned.ready(Position::ZERO) {
                put(&mut churned, &entry(n).0, b"later", at);
            }
        }
    }
    assert!(body.0 == whole.0);
    assert_ne!(plain.digest(), churned.digest());
    // Without a change in between, too.
    let mut restored = Kv::new(vec![0; 1_000_000]);
    body.restore(&mut restored).unwrap();
    assert!(Body::of(&mut restored).0 == whole.0);
}

#[test]
fn a_full_barrier_holds_messages_back_until_the_snapshot_has_moved_on() {
    let mut kv = Kv::with_barrier(vec![0; 2_000_000], vec![0; 100_000]);
    for n in 0..100_u8 {
        put(&mut kv, &[n + 1], &vec![n; 10_000], 64 * u64::from(n));
    }
    let whole = Body::of(&mut kv.clone());
    kv.begin_snapshot();
    assert!(!kv.ready(Position::ZERO), "the head is not written");
    let mut body = Body::default();
    let (mut steps, mut held, mut changed) = (0, 0, 0);
    while body.step(&mut kv) == Ok(Progress::More) {
        steps += 1;
        // From the end, where the snapshot comes last.
        while kv.ready(Position::ZERO) && changed < 100 {
            changed += 1;
            put(
                &mut kv,
                &[101 - changed],
                b"x",
                10_000 + 64 * u64::from(changed),
            );
        }
        held += usize::from(!kv.ready(Position::ZERO));
    }
    assert!(steps >= 7, "{steps}");
    assert!((1..steps).contains(&held), "{held} of {steps}");
    assert_eq!(changed, 100);
    assert!(body.0 == whole.0);
    assert!(kv.ready(Position::ZERO));
}

#[test]
fn without_a_barrier_nothing_is_executed_before_all_is_written() {
    let mut kv = Kv::new(vec![0; 1_000_000]);
    for n in 0..50_u8 {
        put(&mut kv, &[n + 1], &vec![n; 10_000], 64 * u64::from(n));
    }
    assert!(kv.ready(Position::ZERO));
    kv.begin_snapshot();
    let mut body = Body::default();
    while body.step(&mut kv) == Ok(Progress::More) {
        assert!(!kv.ready(Position::ZERO));
    }
    assert!(kv.ready(Position::ZERO));
}

/// Whoever finds it: the node halts, and does not fail at one snapshot after the other.
#[test]
fn overwritten_memory_that_a_snapshot_comes_to_stops_the_service() {
    let mut kv = Kv::new(vec![0; 100_000]);
    for n in 0..50_u8 {
        put(&mut kv, &[n + 1], b"value", 64 * u64::from(n));
    }
    kv.begin_snapshot();
    kv.store.memory_mut().fill(0xff);
    assert_eq!(Body::default().step(&mut kv), Err(SnapshotError::Content));
    assert!(kv.is_broken());
}

/// A driver that does not ask loses the snapshot, and nothing else.
#[test]
fn who_is_not_ready_and_executes_all_the_same_fails_the_snapshot() {
    let mut kv = Kv::with_barrier(vec![0; 1_000_000], vec![0; 20_000]);
    for n in 0..50_u8 {
        put(&mut kv, &[n + 1], &vec![n; 10_000], 64 * u64::from(n));
    }
    kv.begin_snapshot();
    put(&mut kv, b"k", b"v", 9_000);
    let mut body = Body::default();
    assert_eq!(body.step(&mut kv), Err(SnapshotError::TooLarge));
    kv.begin_snapshot();
    let mut body = Body::default();
    assert_eq!(body.step(&mut kv), Ok(Progress::More));
    for n in 0..3 {
        put(&mut kv, &[50 - n], b"v", 10_000 + u64::from(n));
    }
    assert_eq!(body.step(&mut kv), Err(SnapshotError::TooLarge));
    kv.end_snapshot();
    assert!(kv.ready(Position::ZERO));
    let then = model(&kv);
    let digest = kv.digest();
    assert!(Body::of(&mut kv).0 == expected(&then, digest));
}

fn watched() -> Kv<Vec<u8>> {
    let mut kv = Kv::new(vec![0; 500]);
    send(&mut kv, 64, &Request::Watch { key: b"ab" });
    send(&mut kv, 128, &Request::WatchPrefix { prefix: b"" });
    put(&mut kv, b"ab", b"cde", 0x1122_3344_5566_7780);
    put(&mut kv, b"b", b"", 0x1122_3344_5566_77c0);
    kv
}

#[test]
fn watches_survive() {
    let mut kv = watched();
    let mut restored = Kv::new(vec![0; 300]);
    Body::of(&mut kv).restore(&mut restored).unwrap();
    assert_eq!(restored.watches(), 2);
    assert_eq!(restored.digest(), kv.digest());
    let sent = put(&mut kv, b"ab", b"new", 1 << 62);
    assert_eq!(sent.len(), 3, "two watches and the writer");
    assert_eq!(put(&mut restored, b"ab", b"new", 1 << 62), sent);
}

#[test]
fn what_is_cut_or_damaged_is_refused_and_leaves_an_old_or_an_empty_map() {
    let good = Body::of(&mut watched());
    let check = |body: &Body| {
        let mut kv = Kv::new(vec![0; 300]);
        put(&mut kv, b"old", b"old", 64);
        let old = kv.clone();
        let refused = body.restore(&mut kv).unwrap_err();
        assert!(kv == old || kv.is_empty() && kv.watches() == 0);
        assert_eq!(kv.store.len(), kv.iter().count());
        put(&mut kv, b"new", b"new", 128);
        assert!(kv.get(b"new").is_some());
        refused
    };
    for len in 0..good.0.len() {
        let mut cut = good.clone();
        cut.0.truncate(len);
        assert_eq!(check(&cut), SnapshotError::Short, "{len}");
    }
    for at in 0..good.0.len() {
        for mask in [1, 0x10, 0xff] {
            let mut damaged = good.clone();
            damaged.0[at] ^= mask;
            check(&damaged);
        }
    }
    let mut newer = good.clone();
    newer.0[0] = 2;
    assert_eq!(check(&newer), SnapshotError::Content);
    let mut small = Kv::new(vec![0; 60]);
    assert_eq!(good.restore(&mut small), Err(SnapshotError::TooLarge));
    assert!(small.is_empty());
}

#[test]
fn the_body_is_the_golden_bytes() {
    let text = include_str!(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../tests/golden/kv/snapshot.hex"
    ));
    let code = text.lines().filter_map(|line| line.split('#').next());
    let golden: Vec<u8> = code
        .flat_map(str::split_whitespace)
        .map(|word| u8::from_str_radix(word, 16).unwrap())
        .collect();
    let body = Body::of(&mut watched());
    assert_eq!(body.0, golden);
}
