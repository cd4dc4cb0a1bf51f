//! The fuzz targets on stable Rust: random bytes, and good examples with a few bytes damaged.

use coracle_core::prng::Prng;
use coracle_core::service::kv::codec::{Request, encode_request};
/// Calls `run` with every example, then with `rounds` damaged ones. A target that takes next to
/// none of them has not been tested.
fn feed(seed: u64, rounds: usize, examples: &[Vec<u8>], run: fn(&[u8]) -> usize) {
    let mut prng = Prng::new(seed);
    let mut taken: usize = examples.iter().map(|example| run(example)).sum();
    for _ in 0..rounds {
        let mut bytes = match prng.below(4) {
            0 => Vec::new(),
            _ => examples[prng.below(examples.len() as u64) as usize].clone(),
        };
        let longer = prng.below(200) as usize;
        bytes.extend((0..longer).map(|_| prng.next() as u8));
        for _ in 0..prng.below(4) {
            let at = prng.below(bytes.len() as u64) as usize;
            if let Some(byte) = bytes.get_mut(at) {
                *byte = [0, 1, 0x7f, 0x80, 0xff, prng.next() as u8][prng.below(6) as usize];
            }
        }
        bytes.truncate(prng.below(1 + bytes.len() as u64 * 4) as usize);
        taken += run(&bytes);
    }
    println!("{taken} taken in {rounds} rounds");
    assert!(taken > rounds / 4, "{taken} taken in {rounds} rounds");
}

/// An Aeron frame: length, version, flags (whole message), type, and a body of zeros and `payload`.
fn frame(kind: u16, header: usize, payload: &[u8]) -> Vec<u8> {
    let len = (header + payload.len()) as u32;
    let mut bytes = len.to_le_bytes().to_vec();
    bytes.extend([0, 0xc0]);
    bytes.extend(kind.to_le_bytes());
    bytes.resize(header, 0);
    bytes.extend(payload);
    bytes.resize(bytes.len().next_multiple_of(32), 0);
    bytes
}

/// An SBE message of schema 111: header, block of zeros, three empty variable fields.
fn message(template: u16, block: u16) -> Vec<u8> {
    let header = [block, template, 111, 8];
    let mut bytes: Vec<u8> = header.iter().flat_map(|n| n.to_le_bytes()).collect();
    bytes.resize(8 + usize::from(block) + 12, 0);
    bytes
}

#[test]
fn wire() {
    // The smallest block that the decoder takes, for every template that it knows.
    let smallest = |template| {
        let mut blocks = (0..100).map(|block| message(template, block));
        blocks.find(|message| coracle_fuzz::wire::run(message) > 0)
    };
    let mut messages: Vec<Vec<u8>> = (1..=27).filter_map(smallest).collect();
    assert_eq!(messages.len(), 15);
    // DATA, PAD, NAK, SM, ERR, SETUP, RTTM with their header lengths.
    let control = [(0, 32), (2, 28), (3, 36), (4, 40), (5, 40), (6, 40)];
    let frames: Vec<Vec<u8>> = messages
        .iter()
        .map(|message| frame(1, 32, message))
        .chain(control.map(|(kind, header)| frame(kind, header, &[])))
        .collect();
    messages.push(frames.concat());
    messages.extend(frames);
    feed(1, 200_000, &messages, coracle_fuzz::wire::run);
}

#[test]
fn kv() {
    let requests = [
        Request::Put {
            key: b"a",
            value: b"1",
        },
        Request::Get { key: b"a" },
        Request::Delete { key: b"a" },
        Request::WatchPrefix { prefix: b"" },
        Request::Unwatch,
        Request::Cas {
            expected: 64,
            key: b"b",
            value: &[3; 90],
        },
    ];
    let each: Vec<Vec<u8>> = requests
        .iter()
        .enumerate()
        .map(|(n, request)| {
            let message = encode_request(n as u64, request).parts().concat();
            [&[n as u8, message.len() as u8], message.as_slice()].concat()
        })
        .collect();
    let mut prng = Prng::new(7);
    let runs: Vec<Vec<u8>> = (0..50)
        .map(|_| {
            let mut run = Vec::new();
            for _ in 0..20 {
                run.extend_from_slice(&each[prng.below(each.len() as u64) as usize]);
            }
            run
        })
        .collect();
    feed(2, 20_000, &runs, coracle_fuzz::kv::run);
}
