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

/// The golden messages: hex digits, `#` starts a comment.
fn golden() -> Vec<Vec<u8>> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/golden/wire");
    let files = std::fs::read_dir(folder).expect("the golden messages");
    let mut paths: Vec<_> = files.map(|file| file.expect("a file").path()).collect();
    paths.sort();
    let bytes = |path: &std::path::PathBuf| {
        let text = std::fs::read_to_string(path).expect("text");
        let code = text.lines().filter_map(|line| line.split('#').next());
        code.flat_map(str::split_whitespace)
            .map(|word| u8::from_str_radix(word, 16).expect("two hex digits"))
            .collect()
    };
    paths.iter().map(bytes).collect()
}

#[test]
fn wire() {
    let mut examples = golden();
    assert!(examples.len() > 20);
    let text = [
        "aeron:udp?endpoint=localhost:20110|alias=x",
        "0=a:1,1=[::1]:2,2=10.0.0.1:3",
    ];
    examples.extend(text.map(|text| text.as_bytes().to_vec()));
    feed(1, 200_000, &examples, coracle_fuzz::wire::run);
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

#[test]
fn node() {
    let mut prng = Prng::new(8);
    let runs: Vec<Vec<u8>> = (0..200)
        .map(|_| coracle_fuzz::node::example(&mut prng))
        .collect();
    feed(3, 20_000, &runs, coracle_fuzz::node::run);
}

#[test]
fn recovery() {
    let mut prng = Prng::new(9);
    let damages: Vec<Vec<u8>> = (0..100)
        .map(|_| (0..prng.below(40)).map(|_| prng.next() as u8).collect())
        .collect();
    feed(4, 4_000, &damages, coracle_fuzz::recovery::run);
}

#[test]
fn snapshot() {
    let seed = coracle_fuzz::snapshot::seed();
    assert_eq!(
        coracle_fuzz::snapshot::run(&seed),
        2,
        "a node starts from it"
    );
    feed(5, 20_000, &[seed], coracle_fuzz::snapshot::run);
}
