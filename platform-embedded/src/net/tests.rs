//! Boards on one segment, among them one that is not there.

extern crate std;

use std::boxed::Box;
use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::vec::Vec;

use coracle_core::prng::Prng;
use coracle_core::time::Timestamp;

use super::neighbours::BROADCAST;
use super::*;

/// All frames that were sent, and which each port has yet to see.
#[derive(Default)]
struct Segment {
    frames: Vec<(usize, Vec<u8>)>,
    queues: Vec<VecDeque<Vec<u8>>>,
    is_full: bool,
}

struct Plug {
    segment: Rc<RefCell<Segment>>,
    number: usize,
}

impl Port for Plug {
    fn receive(&mut self, into: &mut [u8]) -> Option<usize> {
        let frame = self.segment.borrow_mut().queues[self.number].pop_front()?;
        into[..frame.len()].copy_from_slice(&frame);
        Some(frame.len())
    }

    fn send(&mut self, frame: &[u8]) -> bool {
        let mut segment = self.segment.borrow_mut();
        if segment.is_full {
            return false;
        }
        segment.frames.push((self.number, frame.to_vec()));
        for (number, queue) in segment.queues.iter_mut().enumerate() {
            if number != self.number {
                queue.push_back(frame.to_vec());
            }
        }
        true
    }
}

/// It stands still: nothing here may need time to pass.
struct Still;

impl Clock for Still {
    fn now(&mut self) -> Now {
        Now {
            instant: coracle_core::time::Instant::from_nanos(1),
            wall: Timestamp(1),
        }
    }
}

type Board = Wire<'static, Plug, Still>;

fn mac(number: usize) -> Mac {
    [0x52, 0x54, 0, 0, 0, number as u8]
}

fn ip(number: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, 0, 0, number as u8)
}

fn at(number: usize, port: u16) -> SocketAddr {
    SocketAddr::from((ip(number), port))
}

fn link(number: usize) -> Link {
    Link {
        mac: mac(number),
        address: ip(number),
        prefix: 24,
        gateway: None,
    }
}

fn board(segment: &Rc<RefCell<Segment>>, number: usize) -> Board {
    let plug = Plug {
        segment: segment.clone(),
        number,
    };
    let memory = Box::leak(Box::new(WireMemory::new()));
    Wire::new(memory, Still, plug, link(number), 9000, 9001).expect("ports")
}

fn boards<const N: usize>() -> (Rc<RefCell<Segment>>, [Board; N]) {
    let segment = Rc::new(RefCell::new(Segment {
        queues: (0..N).map(|_| VecDeque::new()).collect(),
        ..Segment::default()
    }));
    let boards = core::array::from_fn(|number| board(&segment, number));
    (segment, boards)
}

/// All that has arrived.
fn received(board: &mut Board) -> Vec<(Door, SocketAddr, Vec<u8>)> {
    let mut into = [0; 2048];
    let mut all = Vec::new();
    while let Some((door, from, len)) = board.receive(&mut into) {
        all.push((door, from, into[..len].to_vec()));
    }
    all
}

#[test]
fn datagrams_of_all_lengths_come_through_both_doors() {
    let (_, [mut a, mut b]) = boards();
    for len in (0..=DATAGRAM_MAX).step_by(97).chain([DATAGRAM_MAX]) {
        let bytes: Vec<u8> = (0..len).map(|n| n as u8).collect();
        a.send(Door::Member, at(1, 9000), &bytes);
        a.send(Door::Client, at(1, 9001), &bytes);
        a.send(Door::Client, at(1, 9000), &bytes);
        let expected = [
            (Door::Member, at(0, 9000), bytes.clone()),
            (Door::Client, at(0, 9001), bytes.clone()),
            (Door::Member, at(0, 9001), bytes),
        ];
        assert_eq!(received(&mut b), expected, "{len}");
    }
    assert_eq!(a.counters(), WireCounters::default());
}

/// smoltcp #594 and #1101: a neighbour that is not there neither holds up datagrams for others, nor
/// is it the only one that is looked for. The clock stands still meanwhile.
#[test]
fn an_absent_peer_holds_up_nobody() {
    let (segment, [mut a, mut b, mut c]) = boards();
    let absent = 9;
    for round in 0..200_u8 {
        a.send(Door::Member, at(absent, 9000), &[round; 100]);
        a.send(Door::Member, at(1, 9000), &[round]);
        a.send(Door::Member, at(2, 9000), &[round]);
        let expected = [(Door::Member, at(0, 9000), Vec::from([round]))];
        assert_eq!(received(&mut b), expected);
        assert_eq!(received(&mut c), expected);
        b.send(Door::Member, at(absent, 9000), &[round; 100]);
        b.send(Door::Member, at(0, 9000), &[round]);
        assert_eq!(
            received(&mut a),
            [(Door::Member, at(1, 9000), Vec::from([round]))]
        );
    }
    // One frame for each datagram, and the three announcements: nobody asks for anybody.
    assert_eq!(segment.borrow().frames.len(), 3 + 200 * 5);
    assert_eq!(a.counters().lost, 0);
}

#[test]
fn who_was_heard_is_sent_frames_of_its_own_and_who_moved_is_found() {
    let (segment, [mut a, mut b]) = boards();
    let last_to = || -> Mac {
        let segment = segment.borrow();
        let (_, frame) = segment.frames.last().expect("one");
        *frame.first_chunk().expect("a header")
    };
    a.send(Door::Member, at(1, 9000), b"?");
    // `b` announced itself, but `a` looks at what arrives only when asked to.
    assert_eq!(last_to(), BROADCAST);
    received(&mut a);
    a.send(Door::Member, at(1, 9000), b"?");
    assert_eq!(last_to(), mac(1));
    received(&mut b);
    b.send(Door::Member, at(0, 9000), b"!");
    assert_eq!(last_to(), mac(0));
    // Another board with the same address: its announcement is enough.
    let mut other = Neighbours::new(Link {
        mac: mac(77),
        ..link(1)
    });
    assert_eq!(other.handle(&[0; 20]), Inbound::Nothing);
    segment.borrow_mut().queues[0].push_back(other.announcement().to_vec());
    received(&mut a);
    a.send(Door::Member, at(1, 9000), b"?");
    assert_eq!(last_to(), mac(77));
}

#[test]
fn who_asks_for_our_address_is_answered_and_others_are_not() {
    let (segment, [mut a, mut b]) = boards();
    received(&mut a);
    let asking = Neighbours::new(link(200));
    let mut question = asking.announcement();
    question[38..42].copy_from_slice(&ip(0).octets());
    segment
        .borrow_mut()
        .queues
        .iter_mut()
        .for_each(|q| q.push_back(question.to_vec()));
    assert!(received(&mut a).is_empty() && received(&mut b).is_empty());
    let segment = segment.borrow();
    let [.., (0, answer)] = segment.frames.as_slice() else {
        panic!("{:?}", segment.frames);
    };
    assert_eq!(segment.frames.len(), 3);
    assert_eq!(answer[..14], [&mac(200)[..], &mac(0)[..], &[8, 6]].concat());
    assert_eq!(answer[20..22], [0, 2]);
    assert_eq!(answer[22..32], [&mac(0)[..], &ip(0).octets()[..]].concat());
}

#[test]
fn more_neighbours_than_there_is_room_for_are_served_too() {
    let mut neighbours = Neighbours::new(link(0));
    for number in 1..250 {
        let hello = Neighbours::new(link(number)).announcement();
        assert_eq!(neighbours.handle(&hello), Inbound::Nothing);
        assert_eq!(neighbours.mac_of(ip(number)), mac(number));
    }
    let known = (1..250)
        .filter(|n| neighbours.mac_of(ip(*n)) == mac(*n))
        .count();
    assert_eq!(known, 32);
    assert_eq!(neighbours.mac_of(ip(1)), BROADCAST);
}

#[test]
fn what_is_for_elsewhere_goes_to_the_gateway_or_nowhere() {
    let gateway = Some(ip(1));
    let link = Link { gateway, ..link(0) };
    let elsewhere = Ipv4Addr::new(192, 168, 3, 4);
    assert_eq!(link.next_hop(elsewhere), gateway);
    assert_eq!(link.next_hop(ip(3)), Some(ip(3)));
    for nobody in [
        Ipv4Addr::BROADCAST,
        Ipv4Addr::UNSPECIFIED,
        Ipv4Addr::new(224, 0, 0, 1),
    ] {
        assert_eq!(link.next_hop(nobody), None);
    }
    let mut neighbours = Neighbours::new(link);
    neighbours.handle(&Neighbours::new(self::link(1)).announcement());
    assert_eq!(neighbours.mac_of(elsewhere), mac(1));
    assert!(Link { prefix: 0, ..link }.is_local(elsewhere));
    assert!(!Link { prefix: 32, ..link }.is_local(ip(1)));
    let (segment, [mut a, _b]) = boards();
    a.send(Door::Client, (elsewhere, 9).into(), b"lost");
    a.send(
        Door::Client,
        "[::1]:9".parse().expect("an address"),
        b"lost",
    );
    a.send(Door::Client, at(1, 0), b"lost");
    a.send(Door::Client, at(1, 9000), &[0; DATAGRAM_MAX + 1]);
    assert_eq!(a.counters().unroutable, 4);
    assert_eq!(segment.borrow().frames.len(), 2);
}

#[test]
fn a_port_without_room_loses_datagrams_and_goes_on() {
    let (segment, [mut a, mut b]) = boards();
    segment.borrow_mut().is_full = true;
    a.send(Door::Member, at(1, 9000), b"lost");
    segment.borrow_mut().is_full = false;
    a.send(Door::Member, at(1, 9000), b"next");
    let expected = [(Door::Member, at(0, 9000), Vec::from(*b"next"))];
    assert_eq!(received(&mut b), expected);
    assert_eq!(a.counters().lost, 1);
}

#[test]
fn no_frame_makes_it_panic_and_a_good_one_behind_a_thousand_is_found() {
    let (segment, [mut a, mut b]) = boards();
    let mut prng = Prng::new(3);
    a.send(Door::Member, at(1, 9000), &[1; 300]);
    let good = segment.borrow().frames.last().expect("sent").1.clone();
    received(&mut b);
    for _ in 0..1_000 {
        let mut frame = good.clone();
        for _ in 0..=prng.below(4) {
            let at = prng.below(60) as usize;
            frame[at] = prng.below(256) as u8;
        }
        frame.truncate(prng.below(400) as usize);
        segment.borrow_mut().queues[1].push_back(frame);
    }
    a.send(Door::Member, at(1, 9000), b"good");
    let mut found = Vec::new();
    for _ in 0..1_100 {
        found.extend(received(&mut b));
    }
    let (_, _, last) = found.last().expect("the good one");
    assert_eq!(last, b"good");
}
