use coracle_core::snapshot::{Begin, End, Section, SnapshotError, SnapshotWriter, Sums};
use coracle_core::time::Timestamp;
use coracle_core::units::{AppVersion, ServiceId, Term};

use super::super::testing::Scratch;
use super::*;

const CLUSTER: ClusterId = ClusterId(7);
/// Those with files made ahead: [`service`] is one of none, and some of these have no section.
const SERVICES: usize = 2;

fn at(position: u64) -> Position {
    Position::new(position)
}

fn service() -> Section {
    Section::Service(ServiceId::new(3).unwrap())
}

fn begin(position: u64, section: Section) -> Begin {
    Begin {
        cluster: CLUSTER,
        section,
        app_version: AppVersion::new(0, 0, 1),
        position: at(position),
        term: Term::new(2),
        chain: 0xABCD,
        timestamp: Timestamp(5),
        segment_length: 1 << 16,
    }
}

fn body(section: Section) -> Vec<u8> {
    vec![section.to_wire() as u8 + 1; 300_000]
}

/// Writes a section; the consensus section names the ends of the services before it.
pub(in super::super) fn write(
    sink: &mut dyn SnapshotSink,
    begin: &Begin,
    services: &[End],
) -> Result<End, SnapshotError> {
    let mut sums = Sums::new();
    let mut writer = SnapshotWriter::new(sink.section(begin.section), &mut sums);
    writer.begin(begin)?;
    writer.put(&body(begin.section))?;
    if begin.section == Section::Consensus {
        writer.u32(services.len() as u32)?;
        for end in services {
            writer.u64(end.length)?;
            writer.u64(end.digest)?;
        }
    }
    writer.end()
}

/// Writes a set with one service.
pub(in super::super) fn write_set(store: &mut SnapshotStore, begin: Begin) {
    assert!(store.begin(begin.position).unwrap());
    let sink = store.sink().unwrap();
    let section = service();
    let end = write(sink, &Begin { section, ..begin }, &[]).unwrap();
    let section = Section::Consensus;
    write(sink, &Begin { section, ..begin }, &[end]).unwrap();
    store.finish();
    let outcome = outcome(store);
    assert!(
        matches!(outcome, Outcome::Stored(p) if p == begin.position),
        "{outcome:?}"
    );
}

fn open(scratch: &Scratch, damaged: &[Damaged]) -> SnapshotStore {
    let waker = Waker::new().unwrap();
    SnapshotStore::open(scratch.path(), CLUSTER, SERVICES, damaged, &waker).unwrap()
}

fn outcome(store: &mut SnapshotStore) -> Outcome {
    loop {
        if let Some(outcome) = store.poll() {
            return outcome;
        }
        std::thread::yield_now();
    }
}

/// Waits until the thread has nothing to do.
fn rest(store: &mut SnapshotStore) {
    while !store.is_idle() {
        assert!(store.poll().is_none());
        std::thread::yield_now();
    }
}

fn take(store: &mut SnapshotStore, position: u64) {
    write_set(store, begin(position, Section::Consensus));
}

fn file(scratch: &Scratch, position: u64, section: Section) -> PathBuf {
    scratch
        .path()
        .join(set::set_name(at(position)))
        .join(file_name(section))
}

/// What the directory holds.
fn found(scratch: &Scratch) -> Vec<Entry> {
    let entries = entries(scratch.path()).unwrap();
    entries.into_iter().map(|(entry, _)| entry).collect()
}

fn damage(path: &Path, offset: usize) {
    let mut bytes = std::fs::read(path).unwrap();
    bytes[offset] ^= 1;
    std::fs::write(path, bytes).unwrap();
}

#[test]
fn a_set_comes_back_as_it_was_written_and_two_are_kept() {
    let scratch = Scratch::new("sets");
    let mut store = open(&scratch, &[]);
    assert_eq!((store.newest(), store.oldest()), (None, None));
    for position in [96, 4096, 8192] {
        take(&mut store, position);
    }
    assert_eq!(
        (store.oldest(), store.newest()),
        (Some(at(4096)), Some(at(8192)))
    );
    assert_eq!(store.counts(), (3, 0));
    assert_eq!(positions(scratch.path()).unwrap(), [at(4096), at(8192)]);
    assert_eq!(
        found(&scratch),
        [Entry::Set(at(4096)), Entry::Set(at(8192)), Entry::Draft],
        "nothing else is left but the place for the next one"
    );
    let (set, damaged) = newest_valid(scratch.path(), CLUSTER).unwrap();
    let set = set.unwrap();
    assert!(damaged.is_empty());
    assert_eq!((set.position(), set.seed().chain), (at(8192), Some(0xABCD)));
    let found: Vec<Section> = set.sections.iter().map(|s| s.section).collect();
    assert_eq!(found, [Section::Consensus, service()]);

    let mut pieces = SectionReader::new(scratch.path());
    let mut piece = [0; 7];
    let length = set.sections[1].length;
    for offset in [70, length - 3, length, length + 9] {
        let read = pieces.read(set.position(), service(), offset, &mut piece);
        let left = length.saturating_sub(offset).min(7);
        assert_eq!(read.unwrap() as u64, left, "at {offset} of {length}");
    }
    let mut reader = set.reader().unwrap();
    std::fs::remove_dir_all(&set.path).unwrap();
    let mut bytes = vec![0; 400_000];
    for section in found {
        let length = coracle_core::snapshot::BEGIN_LENGTH as u64;
        assert_eq!(
            reader
                .read_at(section, length + 299_999, &mut bytes[..1])
                .unwrap(),
            1
        );
        assert_eq!(bytes[0], body(section)[0]);
        for _ in 0..2 {
            use coracle_core::snapshot::{SnapshotReader, SnapshotSource};
            let (source, length) = reader.open(section).unwrap();
            let mut from = SnapshotReader::new(source, length, CLUSTER, section).unwrap();
            assert_eq!(from.left() > 300_000, section == Section::Consensus);
            let mut found = vec![0; 300_000];
            from.take(&mut found).unwrap();
            assert_eq!(found, body(section));
            from.finish().unwrap();
        }
    }
    assert_eq!(reader.read_at(service(), 1 << 40, &mut bytes).unwrap(), 0);
    assert!(reader.take_error().is_none());
}

#[test]
fn a_damaged_newest_set_falls_back_to_the_one_before() {
    let scratch = Scratch::new("fallback");
    let mut store = open(&scratch, &[]);
    take(&mut store, 96);
    take(&mut store, 4096);
    drop(store);
    damage(&file(&scratch, 4096, service()), 1000);
    let (set, damaged) = newest_valid(scratch.path(), CLUSTER).unwrap();
    assert_eq!(set.unwrap().position(), at(96));
    assert_eq!(damaged.len(), 1);
    let text = damaged[0].to_string();
    assert!(
        text.contains("service-3") && text.contains("position 4096"),
        "{text}"
    );
    // It does not push the sound one out, and goes with the next.
    let mut store = open(&scratch, &damaged);
    assert_eq!(
        (store.oldest(), store.newest()),
        (Some(at(96)), Some(at(96)))
    );
    take(&mut store, 8192);
    assert_eq!(positions(scratch.path()).unwrap(), [at(96), at(8192)]);
    drop(store);

    std::fs::remove_file(file(&scratch, 8192, Section::Consensus)).unwrap();
    std::fs::write(file(&scratch, 96, Section::Consensus), b"").unwrap();
    let (set, damaged) = newest_valid(scratch.path(), CLUSTER).unwrap();
    assert_eq!((set, damaged.len()), (None, 2));
    assert!(damaged[0].what.contains("missing"), "{}", damaged[0]);
    // A service's file is gone, or is of a set that was taken with another service state.
    let mut store = open(&scratch, &damaged);
    take(&mut store, 8192);
    std::fs::remove_file(file(&scratch, 8192, service())).unwrap();
    let (_, damaged) = newest_valid(scratch.path(), CLUSTER).unwrap();
    assert!(
        damaged[0].what.contains("services' files"),
        "{}",
        damaged[0]
    );
    drop(store);
    // Taken again where the damaged one is: that is then replaced.
    let mut store = open(&scratch, &damaged);
    take(&mut store, 8192);
    let (set, damaged) = newest_valid(scratch.path(), CLUSTER).unwrap();
    assert_eq!((set.unwrap().position(), damaged.len()), (at(8192), 0));
}

#[test]
fn sections_of_other_positions_clusters_and_formats_are_told_apart() {
    let scratch = Scratch::new("foreign");
    let mut store = open(&scratch, &[]);
    take(&mut store, 96);
    take(&mut store, 4096);
    drop(store);
    let (old, new) = (
        file(&scratch, 96, service()),
        file(&scratch, 4096, service()),
    );
    let kept = std::fs::read(&new).unwrap();
    std::fs::copy(old, &new).unwrap();
    let (set, damaged) = newest_valid(scratch.path(), CLUSTER).unwrap();
    assert_eq!(set.unwrap().position(), at(96));
    assert!(damaged[0].what.contains("another"), "{}", damaged[0]);
    let mut newer = kept.clone();
    newer[8] = 9;
    std::fs::write(&new, newer).unwrap();
    let error = newest_valid(scratch.path(), CLUSTER).unwrap_err();
    assert!(
        matches!(error, StorageError::Newer { found: 9, .. }),
        "{error}"
    );
    std::fs::write(&new, kept).unwrap();
    let error = newest_valid(scratch.path(), ClusterId(8)).unwrap_err();
    assert!(matches!(error, StorageError::Foreign { .. }), "{error}");
    let set = verify(new.parent().unwrap(), at(4096), None).unwrap();
    assert_eq!(set.begin.cluster, CLUSTER);
}

#[test]
fn a_full_disk_fails_the_set_and_nothing_else() {
    let scratch = Scratch::new("full");
    let mut store = open(&scratch, &[]);
    take(&mut store, 96);
    for is_noticed_late in [false, true] {
        assert!(store.begin(at(4096)).unwrap());
        let file = scratch.path().join("next.tmp/service-3");
        std::os::unix::fs::symlink("/dev/full", &file).unwrap();
        let error = if is_noticed_late {
            let sink = store.sink().unwrap().section(service());
            assert_eq!(sink.write(b"little"), Ok(6));
            store.finish();
            match outcome(&mut store) {
                Outcome::Failed(_, error) => error,
                other => panic!("{other:?}"),
            }
        } else {
            let much = vec![7; 1 << 20];
            let mut writes = 0;
            while store
                .sink()
                .unwrap()
                .section(service())
                .write(&much)
                .is_ok()
            {
                writes += 1;
                assert!(store.poll().is_none());
                assert!(
                    writes < 9,
                    "it fails at once when the pieces are not written elsewhere"
                );
            }
            store.abandon().unwrap()
        };
        let text = error.to_string();
        for part in [
            "no snapshot was taken",
            "service-3",
            "No space left",
            "Make room",
        ] {
            assert!(text.contains(part), "{text}");
        }
        assert!(
            is_noticed_late || !store.begin(at(8192)).unwrap(),
            "what is left is deleted first"
        );
        rest(&mut store);
        assert!(!file.exists());
    }
    assert_eq!(store.counts(), (1, 2));
    take(&mut store, 8192);
    assert_eq!(positions(scratch.path()).unwrap(), [at(96), at(8192)]);
}

#[test]
fn drafts_of_a_dead_process_are_removed_and_parts_go_on() {
    let scratch = Scratch::new("remnants");
    let mut store = open(&scratch, &[]);
    take(&mut store, 96);
    assert!(store.begin(at(4096)).unwrap());
    write(store.sink().unwrap(), &begin(4096, service()), &[]).unwrap();
    drop(store);
    for part in [64, 8192] {
        std::fs::create_dir(Receiving::path(scratch.path(), at(part), 0xABC)).unwrap();
    }
    let store = open(&scratch, &[]);
    assert_eq!(store.newest(), Some(at(96)));
    assert_eq!(store.part().unwrap(), Some((at(8192), 0xABC)));
    assert_eq!(found(&scratch).len(), 3, "with the place for the next one");
    drop(store);
    let left = [Entry::Set(at(96)), Entry::Part(at(8192), 0xABC)];
    assert_eq!(found(&scratch), left, "who closes deletes its own");
}

#[test]
fn a_place_that_somebody_has_deleted_costs_one_set() {
    let scratch = Scratch::new("deleted");
    let mut store = open(&scratch, &[]);
    std::fs::remove_dir_all(scratch.path().join("next.tmp")).unwrap();
    assert!(store.begin(at(96)).unwrap());
    let sink = store.sink().unwrap();
    write(sink, &begin(96, Section::Consensus), &[]).unwrap();
    store.finish();
    let outcome = outcome(&mut store);
    assert!(matches!(outcome, Outcome::Failed(p, _) if p == at(96)));
    take(&mut store, 4096);
    assert_eq!(store.counts(), (1, 1));
    assert_eq!(positions(scratch.path()).unwrap(), [at(4096)]);
}

#[test]
fn without_a_place_a_set_fails_for_the_reason_why_none_can_be_made() {
    let scratch = Scratch::new("no-place");
    let mut store = open(&scratch, &[]);
    // It cannot be removed as a directory, and stands in the way of one.
    let file = scratch.path().join("next.tmp");
    store.next = None;
    std::fs::remove_dir_all(&file).unwrap();
    std::fs::write(&file, b"").unwrap();
    let error = store.begin(at(96)).unwrap_err().to_string();
    assert!(error.contains("no snapshot was taken"), "{error}");
    assert!(error.contains("next.tmp"), "{error}");
    std::fs::remove_file(&file).unwrap();
    take(&mut store, 4096);
    assert_eq!(store.counts(), (1, 1));
}

/// The files of a set at 4096, to be sent.
fn sent() -> Vec<(Section, Vec<u8>)> {
    let scratch = Scratch::new("sender");
    let mut store = open(&scratch, &[]);
    take(&mut store, 4096);
    let read = |section| {
        (
            section,
            std::fs::read(file(&scratch, 4096, section)).unwrap(),
        )
    };
    vec![read(Section::Consensus), read(service())]
}

#[test]
fn a_set_is_received_in_pieces_and_over_a_restart() {
    let scratch = Scratch::new("receive");
    let files = sent();
    let mut store = open(&scratch, &[]);
    assert!(store.receive(at(4096), 5).unwrap());
    let receiving = store.receiving().unwrap();
    let (section, bytes) = &files[1];
    assert_eq!(
        receiving.take(*section, 64, &bytes[64..128]).unwrap(),
        0,
        "a hole"
    );
    assert_eq!(receiving.take(*section, 0, &bytes[..100]).unwrap(), 100);
    assert_eq!(receiving.take(*section, 50, &bytes[50..90]).unwrap(), 100);
    assert_eq!(receiving.take(*section, 50, &bytes[50..150]).unwrap(), 150);
    assert!(!store.begin(at(9000)).unwrap(), "one at a time");
    drop(store);

    let mut store = open(&scratch, &[]);
    assert!(store.receive(at(4096), 5).unwrap());
    assert!(store.receive(at(4096), 5).unwrap());
    let receiving = store.receiving().unwrap();
    assert_eq!(receiving.received(*section), 150);
    assert_eq!(receiving.progress(), (*section, 150));
    assert_eq!(
        receiving.take(*section, 0, &bytes[..99]).unwrap(),
        99,
        "anew"
    );
    for (section, bytes) in &files {
        while (receiving.received(*section) as usize) < bytes.len() {
            let from = receiving.received(*section) as usize;
            let until = bytes.len().min(from + 1337);
            receiving
                .take(*section, from as u64, &bytes[from..until])
                .unwrap();
        }
    }
    store.finish_receiving();
    let Outcome::Installed(set) = outcome(&mut store) else {
        panic!("it is sound");
    };
    assert_eq!((set.position(), store.newest()), (at(4096), Some(at(4096))));
    let (found, _) = newest_valid(scratch.path(), CLUSTER).unwrap();
    assert_eq!(found, Some(set));
}

#[test]
fn a_received_set_that_is_not_sound_is_removed() {
    let scratch = Scratch::new("refused");
    let mut store = open(&scratch, &[]);
    std::fs::create_dir(Receiving::path(scratch.path(), at(64), 9)).unwrap();
    assert!(
        !store.receive(at(4096), 5).unwrap(),
        "the part of another set goes first"
    );
    rest(&mut store);
    assert!(store.receive(at(4096), 5).unwrap());
    for (section, mut bytes) in sent() {
        bytes[5000] ^= 1;
        store.receiving().unwrap().take(section, 0, &bytes).unwrap();
    }
    store.finish_receiving();
    let outcome = outcome(&mut store);
    let Outcome::Refused(_, error) = outcome else {
        panic!("{outcome:?}");
    };
    assert!(
        matches!(error, StorageError::SnapshotRefused { .. }),
        "{error}"
    );
    assert_eq!(found(&scratch), [Entry::Draft]);
}

/// What is in memory and could not be flushed would verify the next time, and not be on the disk.
#[test]
fn of_a_received_set_that_cannot_be_made_durable_nothing_is_left() {
    let scratch = Scratch::new("not-durable");
    let mut store = open(&scratch, &[]);
    assert!(store.receive(at(4096), 5).unwrap());
    for (section, bytes) in sent() {
        store.receiving().unwrap().take(section, 0, &bytes).unwrap();
    }
    // There is one of this position, and it cannot be put aside.
    std::fs::create_dir(scratch.path().join(set::set_name(at(4096)))).unwrap();
    let aside = format!("{}.old.tmp", set::set_name(at(4096)));
    std::fs::write(scratch.path().join(aside), b"in the way").unwrap();
    store.finish_receiving();
    let outcome = outcome(&mut store);
    assert!(matches!(outcome, Outcome::Refused(..)), "{outcome:?}");
    assert!(!Receiving::path(scratch.path(), at(4096), 5).exists());
}
