use std::os::unix::fs::MetadataExt;

use coracle_core::limits::FRAME_ALIGNMENT;

use super::super::testing::Scratch;
use super::*;

const LENGTH: u32 = 64 << 10;
const CLUSTER: u64 = 7;

fn make(scratch: &Scratch, number: u64) -> Arc<Segment> {
    let base = number * u64::from(LENGTH);
    ensure(scratch.path(), None, CLUSTER, base, LENGTH, Fill::Reserved).unwrap()
}

fn names(scratch: &Scratch) -> Vec<String> {
    let mut names: Vec<String> = list(scratch.path())
        .unwrap()
        .iter()
        .map(|path| path.file_name().unwrap().to_str().unwrap().to_owned())
        .collect();
    names.sort_unstable();
    names
}

fn inode(path: &Path) -> u64 {
    std::fs::metadata(path).unwrap().ino()
}

#[test]
fn spares_are_used_in_the_order_in_which_they_come() {
    let mut spares = Spares::none(100);
    assert!(spares.is_empty() && spares.take().is_none());
    spares.add(300, 500);
    spares.add(500, 600);
    assert_eq!(spares.bytes(), 3 * (100 + HEADER_LENGTH));
    assert_eq!(spares.take(), Some(300));
    assert_eq!(spares.take(), Some(400));
    spares.add(600, 700);
    assert!(spares.take_beyond(0).is_empty());
    assert_eq!(spares.take_beyond(1), 500..600);
    spares.add(700, 1000);
    assert_eq!(spares.take_beyond(2 * (100 + HEADER_LENGTH)), 600..800);
    assert_eq!(spares.take_all(), 800..1000);
    assert!(spares.take_beyond(1).is_empty());
    assert!(spares.is_empty() && spares.take().is_none());
    spares.add(1100, 1200);
    assert_eq!(spares.take(), Some(1100));
}

#[test]
fn a_spare_becomes_another_file_with_a_new_head() {
    let scratch = Scratch::new("spares");
    let old = make(&scratch, 3);
    let stuff = vec![0x5A; LENGTH as usize];
    old.write_data(0, &stuff).unwrap();
    old.write(0, &[1; 512]).unwrap();
    old.write(512, &[2; 512]).unwrap();
    let file = inode(old.path());
    set_aside_below(scratch.path(), 4 * u64::from(LENGTH)).unwrap();
    assert_eq!(segment_bases(scratch.path()).unwrap(), [0; 0]);
    assert!(old.is_still().unwrap());

    let base = 9 * u64::from(LENGTH);
    let spare = Some(3 * u64::from(LENGTH));
    let new = ensure(scratch.path(), spare, CLUSTER, base, LENGTH, Fill::Reserved).unwrap();
    assert_eq!(names(&scratch), [Segment::name(base)]);
    assert_eq!(inode(new.path()), file);
    assert_eq!(new.label(), Label::starting_at(base, CLUSTER, LENGTH));
    assert!(new.is_still().unwrap() && new.is_unused().unwrap());
    // Nothing is there to be filled: its blocks are written.
    assert_eq!(new.reserved_from(), None);
    let again = Segment::open(new.path(), false).unwrap();
    assert_eq!(again.label(), new.label());
    let mut slots = [1; 1024];
    again.read(0, &mut slots).unwrap();
    assert_eq!(slots, [0; 1024]);
    let mut rest = vec![0; stuff.len() - 4096];
    again.read_data(4096, &mut rest).unwrap();
    assert_eq!(rest, stuff[4096..]);
    assert!(!old.is_still().unwrap());
}

#[test]
fn a_spare_that_is_no_good_is_deleted_and_the_file_made_anew() {
    let scratch = Scratch::new("spares-bad");
    let base = 9 * u64::from(LENGTH);
    let damage: [fn(&Path); 2] = [
        |path| std::fs::write(path, b"short").unwrap(),
        |path| std::fs::remove_file(path).unwrap(),
    ];
    for damage in damage {
        let path = make(&scratch, 3).path().to_path_buf();
        set_aside_below(scratch.path(), base).unwrap();
        assert!(!path.exists());
        damage(&path_of(scratch.path(), 3 * u64::from(LENGTH)));
        let spare = Some(3 * u64::from(LENGTH));
        let new = ensure(scratch.path(), spare, CLUSTER, base, LENGTH, Fill::Reserved).unwrap();
        assert_eq!(names(&scratch), [Segment::name(base)]);
        let mut first = [1; FRAME_ALIGNMENT];
        new.read_data(0, &mut first).unwrap();
        assert_eq!(first, [0; FRAME_ALIGNMENT]);
        std::fs::remove_file(new.path()).unwrap();
    }
}

#[test]
fn a_file_that_is_there_is_not_replaced_by_a_spare() {
    let scratch = Scratch::new("spares-there");
    make(&scratch, 3);
    let there = make(&scratch, 9);
    there.write_data(0, &[7; 64]).unwrap();
    set_aside_below(scratch.path(), 4 * u64::from(LENGTH)).unwrap();
    let (base, spare) = (there.label().base, Some(3 * u64::from(LENGTH)));
    let found = ensure(scratch.path(), spare, CLUSTER, base, LENGTH, Fill::Reserved).unwrap();
    let mut first = [0; 64];
    found.read_data(0, &mut first).unwrap();
    assert_eq!(first, [7; 64]);
    assert_eq!(names(&scratch), [Segment::name(base)]);
}

#[test]
fn spares_are_deleted_one_by_one_and_all_at_once() {
    let scratch = Scratch::new("spares-gone");
    for number in 0..6 {
        make(&scratch, number);
    }
    let length = u64::from(LENGTH);
    set_aside_below(scratch.path(), 5 * length).unwrap();
    assert_eq!(names(&scratch).len(), 6);
    remove(scratch.path(), length..3 * length, LENGTH).unwrap();
    assert_eq!(names(&scratch).len(), 4);
    remove(scratch.path(), length..3 * length, LENGTH).unwrap();
    remove_all(scratch.path()).unwrap();
    assert_eq!(names(&scratch), [Segment::name(5 * length)]);
    remove_below(scratch.path(), 6 * length).unwrap();
    assert!(names(&scratch).is_empty());
}
