//! The formats of this platform's own files against golden bytes, which were laid out and summed by
//! another program. (What stands in slots, frames and the node state is core's; its golden files
//! are checked there.)

use std::path::PathBuf;

use coracle_std::counters::{Counter, CountersFile, CountersReader};
use coracle_std::storage::StorageError;

const CLUSTER: u64 = 0x0123_4567_89ab_cdef;

struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let dir =
            std::env::temp_dir().join(format!("coracle-golden-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        Self(dir)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.0));
    }
}

/// The bytes of a golden file: hex digits, `#` starts a comment.
fn golden(name: &str) -> Vec<u8> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/golden/files");
    let text = std::fs::read_to_string(format!("{folder}/{name}.hex")).unwrap();
    let code = text.lines().filter_map(|line| line.split('#').next());
    code.flat_map(str::split_whitespace)
        .map(|word| u8::from_str_radix(word, 16).expect("two hex digits"))
        .collect()
}

#[test]
fn a_counters_file_is_these_bytes() {
    let scratch = Scratch::new("counters");
    let path = scratch.0.join("counters");
    let mut golden = golden("counters");
    let value_at = |at: usize| u64::from_le_bytes(golden[at..at + 8].try_into().unwrap());
    let values: Vec<(Counter, u64)> = Counter::ALL
        .iter()
        .zip((64..golden.len()).step_by(8))
        .map(|(counter, at)| (*counter, value_at(at)))
        .collect();
    assert_eq!(values.len(), (golden.len() - 64) / 8, "none was taken away");

    // Read: a file that this program did not write.
    let mut file = golden.clone();
    file.resize(4096, 0);
    std::fs::write(&path, &file).unwrap();
    let reading = CountersReader::open(&scratch.0).unwrap().read();
    assert_eq!((reading.cluster, reading.member), (CLUSTER, 4));
    assert_eq!(reading.process, 4321);
    for (counter, value) in &values {
        assert_eq!(reading.get(*counter), *value, "{}", counter.name());
    }

    // Written: the same, but for this process's number, and for counters added since.
    CountersFile::create(&path, CLUSTER, 4)
        .unwrap()
        .publish(&values);
    let written = std::fs::read(&path).unwrap();
    assert_eq!(written.len(), 4096);
    let count = Counter::ALL.len() as u32;
    golden[12..16].copy_from_slice(&count.to_le_bytes());
    golden[32..40].copy_from_slice(&u64::from(std::process::id()).to_le_bytes());
    assert_eq!(written[..golden.len()], golden);
    assert!(written[golden.len()..].iter().all(|b| *b == 0));

    file[8] = 2;
    std::fs::write(&path, &file).unwrap();
    let newer = CountersReader::open(&scratch.0).unwrap_err();
    assert!(
        matches!(newer, StorageError::Newer { found: 2, .. }),
        "{newer}"
    );
}
