//! The node's thread allocates nothing at steady state: messages in, flushed, executed, answered.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::net::UdpSocket;
use std::time::Duration;

use coracle_core::service::echo::Echo;
use coracle_std::client::{Client, Egress, OfferError};
use coracle_std::config::{MemberSettings, Settings};
use coracle_std::net::wait;
use coracle_std::node::{NodeBuilder, Runner};

/// Counts allocations of threads that asked for it.
struct Counting;

thread_local! {
    static COUNT: Cell<Option<u64>> = const { Cell::new(None) };
}

// SAFETY: every call goes to the system's allocator unchanged; the counter is a plain cell of the
// thread, which needs neither memory nor a destructor.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        COUNT.with(|count| count.set(count.get().map(|n| n + 1)));
        // SAFETY: the caller keeps to the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps to the contract of `dealloc`.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn turn(member: &mut Runner<Echo>) {
    let sleep = member.poll().unwrap();
    if !sleep.is_zero() {
        wait(&member.fds(), sleep).unwrap();
    }
}

/// Keeps messages of several frames in flight until so many are answered.
fn load(endpoints: &str, count: u64) {
    let mut client = Client::connect(endpoints).unwrap();
    let message = vec![1; 5000];
    let (mut offered, mut answered) = (0, 0);
    while answered < count {
        while offered < count && offered - answered < 20 {
            match client.offer(&message) {
                Ok(_) => offered += 1,
                Err(OfferError::BackPressured) => break,
                Err(other) => panic!("{other:?}"),
            }
        }
        client
            .poll(Duration::from_millis(10), |egress| {
                answered += u64::from(matches!(egress, Egress::Message { .. }));
            })
            .unwrap();
    }
    client.close().unwrap();
}

#[test]
fn a_member_under_load_allocates_nothing() {
    let (allocations, dir) = run(false);
    std::fs::remove_dir_all(&dir).unwrap();
    assert_eq!(allocations, Some(0));
}

#[test]
fn nor_does_one_that_notes_its_stages_and_they_follow_from_one_another() {
    let (allocations, dir) = run(true);
    let text = std::fs::read_to_string(dir.join("trace")).unwrap();
    std::fs::remove_dir_all(&dir).unwrap();
    assert_eq!(allocations, Some(0));
    for stage in ["append", "write", "flush", "commit", "execute", "answer"] {
        let of_stage = text.lines().filter_map(|line| line.strip_prefix(stage));
        let numbers = |line: &str| -> Vec<u64> {
            let words = line.split_whitespace();
            words.map(|number| number.parse().unwrap()).collect()
        };
        let notes: Vec<Vec<u64>> = of_stage.map(numbers).collect();
        assert!(!notes.is_empty(), "no {stage}");
        for note in &notes {
            assert!(note[0] < note[1] && note[2] <= note[3], "{stage} {note:?}");
        }
        for pair in notes.windows(2) {
            assert_eq!(pair[0][1], pair[1][0], "{stage}: a part is missing");
            assert!(pair[0][3] <= pair[1][3], "{stage} {pair:?}");
        }
    }
}

/// How often a member under load allocates, and its directory.
fn run(traced: bool) -> (Option<u64>, std::path::PathBuf) {
    let sockets = [(); 2].map(|()| UdpSocket::bind("127.0.0.1:0").unwrap());
    let [member, ingress] = sockets
        .each_ref()
        .map(|s| s.local_addr().unwrap().to_string());
    drop(sockets);
    let name = format!("coracle-allocation-{traced}-{}", std::process::id());
    let dir = std::env::temp_dir().join(name);
    let members = vec![MemberSettings {
        id: 0,
        member,
        ingress,
    }];
    let settings = Settings::new(0, members, &dir);
    let endpoints = settings.ingress_endpoints();
    let mut member = NodeBuilder::new(settings)
        .init(true)
        .trace(traced.then(|| dir.join("trace")))
        .start(Echo::default())
        .unwrap();

    // What is made once: the first files, thread-local data of the standard library.
    let warm_up = std::thread::spawn({
        let endpoints = endpoints.clone();
        move || load(&endpoints, 200)
    });
    while !warm_up.is_finished() {
        turn(&mut member);
    }
    warm_up.join().unwrap();

    // 5,000 messages of four frames are 26 MB: the log goes on into another file meanwhile.
    let measured = std::thread::spawn(move || load(&endpoints, 5000));
    COUNT.with(|count| count.set(Some(0)));
    while !measured.is_finished() {
        turn(&mut member);
    }
    let allocations = COUNT.with(|count| count.replace(None));
    measured.join().unwrap();
    assert!(member.status().applied.get() > 25_000_000);
    member.close().unwrap();
    (allocations, dir)
}
