//! The order book of the examples, as the cluster would call it.

#[allow(dead_code)]
#[path = "../examples/order_book.rs"]
mod order_book;

use std::collections::BTreeMap;

use coracle_core::service::{
    CloseReason, Cluster, OfferError, Outbox, Progress, Role, Service, SnapshotError,
    SnapshotReader, SnapshotWriter, TimerError,
};
use coracle_core::snapshot::{BEGIN_LENGTH, Begin, END_LENGTH, Section, Sums};
use coracle_core::time::Timestamp;
use coracle_core::units::{AppVersion, ClusterId, MemberId, Position, ServiceId, SessionId, Term};
use embedded_io::{ErrorKind, ErrorType, Read, Write};
use order_book::{OrderBook, TRADES_MAX};

/// How many timers the cluster of these tests has room for.
const TIMERS: usize = 5;

/// A cluster of one service: what was sent, what is armed, and what time it is.
#[derive(Default)]
struct Market {
    book: OrderBook,
    desk: Desk,
    position: u64,
    time: i64,
}

#[derive(Clone, Default)]
struct Desk {
    sent: Vec<(u64, String)>,
    timers: BTreeMap<i64, Timestamp>,
}

impl Outbox for Desk {
    fn offer(&mut self, session: SessionId, parts: &[&[u8]]) -> Result<(), OfferError> {
        let text = String::from_utf8(parts.concat()).unwrap();
        self.sent.push((session.opened_at().get() / 32, text));
        Ok(())
    }

    fn close_session(&mut self, _: SessionId) -> Result<(), OfferError> {
        Err(OfferError::UnknownSession)
    }

    fn schedule_timer(&mut self, correlation: i64, deadline: Timestamp) -> Result<(), TimerError> {
        if self.timers.len() == TIMERS {
            return Err(TimerError::Full);
        }
        self.timers.insert(correlation, deadline);
        Ok(())
    }

    fn cancel_timer(&mut self, correlation: i64) -> Result<bool, TimerError> {
        Ok(self.timers.remove(&correlation).is_some())
    }
}

fn session(n: u64) -> SessionId {
    SessionId::new(Position::new(n * 32))
}

impl Market {
    fn call(&mut self, run: impl FnOnce(&mut OrderBook, &mut Cluster<'_>)) -> Vec<(u64, String)> {
        self.position += 64;
        let (time, at) = (Timestamp(self.time), Position::new(self.position));
        let member = MemberId::new(0).unwrap();
        let mut cluster = Cluster::new(time, at, member, Role::Leader, &mut self.desk);
        run(&mut self.book, &mut cluster);
        std::mem::take(&mut self.desk.sent)
    }

    fn send(&mut self, from: u64, text: &str) -> Vec<(u64, String)> {
        self.call(|book, cluster| {
            book.on_session_message(cluster, session(from), text.as_bytes());
        })
    }

    /// Fires what is due by `time`, in the order of deadlines.
    fn pass(&mut self, time: i64) -> Vec<(u64, String)> {
        self.time = time;
        let mut sent = Vec::new();
        while let Some((&id, &deadline)) = self.desk.timers.iter().min_by_key(|(id, at)| (*at, *id))
        {
            if deadline.0 > time {
                break;
            }
            self.desk.timers.remove(&id);
            sent.extend(self.call(|book, cluster| book.on_timer_event(cluster, id, deadline)));
        }
        sent
    }
}

#[track_caller]
fn assert_told(sent: Vec<(u64, String)>, expected: &[(u64, &str)]) {
    let sent: Vec<_> = sent.iter().map(|(to, text)| (*to, &text[..])).collect();
    assert_eq!(sent, expected);
}

#[test]
fn the_best_price_trades_first_and_at_one_price_the_oldest_and_both_are_told() {
    let mut market = Market::default();
    for (from, text) in [(1, "sell 101 5"), (2, "sell 100 2"), (3, "sell 100 4")] {
        market.send(from, text);
    }
    assert_told(market.send(4, "buy 99 1"), &[(4, "accepted 4")]);
    assert_told(
        market.send(5, "buy 101 7"),
        &[
            (5, "accepted 5"),
            (5, "bought 2 at 100 in 5"),
            (2, "sold 2 at 100 in 2"),
            (5, "bought 4 at 100 in 5"),
            (3, "sold 4 at 100 in 3"),
            (5, "bought 1 at 101 in 5"),
            (1, "sold 1 at 101 in 1"),
        ],
    );
    // What is left of the first sell is next; then the buy that rests.
    assert_told(
        market.send(6, "buy 200 4"),
        &[
            (6, "accepted 6"),
            (6, "bought 4 at 101 in 6"),
            (1, "sold 4 at 101 in 1"),
        ],
    );
    assert_told(
        market.send(7, "sell 98 3"),
        &[
            (7, "accepted 7"),
            (7, "sold 1 at 99 in 7"),
            (4, "bought 1 at 99 in 4"),
        ],
    );
    assert_told(
        market.send(8, "buy 98 2"),
        &[
            (8, "accepted 8"),
            (8, "bought 2 at 98 in 8"),
            (7, "sold 2 at 98 in 7"),
        ],
    );
}

#[test]
fn an_order_expires_by_the_clusters_time_unless_it_is_filled_or_cancelled_before() {
    let mut market = Market {
        time: 1_000,
        ..Market::default()
    };
    market.send(1, "sell 10 1 500");
    market.send(1, "sell 11 1 400");
    market.send(1, "sell 12 1 300");
    market.send(2, "buy 10 1 100");
    market.send(1, "cancel 3");
    assert_eq!(market.desk.timers, BTreeMap::from([(2, Timestamp(1_400))]));
    assert_told(market.pass(1_399), &[]);
    assert_told(market.pass(9_000), &[(1, "expired 2")]);
    assert_told(market.send(2, "buy 99 1"), &[(2, "accepted 5")]);
}

#[test]
fn what_is_refused_has_changed_nothing() {
    let mut market = Market::default();
    market.send(1, "sell 10 5");
    let digest = market.book.digest();
    for (text, why) in [
        ("", "say buy, sell or cancel"),
        ("buy 10", "say buy, sell or cancel"),
        ("buy 10 1 1 1", "say buy, sell or cancel"),
        ("buy 0 1", "not a price"),
        ("buy 10 -1", "not a quantity"),
        ("buy 10 4294967296", "not a quantity"),
        ("buy 10 1 soon", "not a time"),
        ("cancel it", "not a number"),
        ("cancel 1", "no such order of yours rests"),
    ] {
        let refused = format!("refused: {why}");
        assert_told(market.send(2, text), &[(2, &refused)]);
    }
    for n in 0..TIMERS as i64 {
        market.desk.timers.insert(100 + n, Timestamp(1));
    }
    let refused = "refused: too many orders that expire";
    assert_told(market.send(2, "buy 10 1 1000"), &[(2, refused)]);
    assert_eq!(market.book.digest(), digest);
}

#[test]
fn a_closed_sessions_orders_and_timers_go_with_it() {
    let mut market = Market::default();
    market.send(1, "sell 10 1 500");
    market.send(2, "sell 10 1");
    let reason = CloseReason::ClientAction;
    let sent = market.call(|book, cluster| book.on_session_close(cluster, session(1), reason));
    assert_told(sent, &[]);
    assert!(market.desk.timers.is_empty());
    assert_eq!(market.send(3, "buy 10 2")[2].0, 2);
}

#[test]
fn one_order_makes_a_bounded_number_of_trades() {
    let mut market = Market::default();
    for _ in 0..TRADES_MAX + 1 {
        market.send(1, "sell 10 1");
    }
    let sent = market.send(2, "buy 10 1000");
    assert_eq!(sent.len(), 2 * TRADES_MAX + 2);
    assert_eq!(sent.last().unwrap().1, "killed 102");
    assert_told(
        market.send(3, "buy 10 1"),
        &[
            (3, "accepted 103"),
            (3, "bought 1 at 10 in 103"),
            (1, "sold 1 at 10 in 101"),
        ],
    );
}

/// Two members, and one that is restored in the middle, stay equal through random orders.
#[test]
fn members_agree_and_so_does_one_that_a_snapshot_brought_back() {
    let mut seed = 1_u64;
    let mut below = |n: u64| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (seed >> 33) % n
    };
    let mut members = [Market::default(), Market::default()];
    let mut then = Vec::new();
    for n in 0..6_000 {
        let verb = ["buy", "sell"][below(2) as usize];
        let mut text = format!("{verb} {} {}", 90 + below(20), 1 + below(9));
        match below(8) {
            0 => text = format!("cancel {}", below(n + 1)),
            1 | 2 => text = format!("{text} {}", 1 + below(500)),
            _ => {}
        }
        let (from, time) = (1 + below(4), n as i64 * 10);
        if n == 3_000 {
            let [one, two] = &mut members;
            let body = Body::of(&mut one.book);
            two.book = OrderBook::default();
            body.restore(&mut two.book).unwrap();
            // Written at the end, after all that is to come: the same bytes.
            one.book.begin_snapshot();
            then = body.0;
        }
        let sent = members.each_mut().map(|market| {
            let mut sent = market.pass(time);
            sent.extend(market.send(from, &text));
            sent
        });
        assert_eq!(sent[0], sent[1]);
        assert_eq!(members[0].book.digest(), members[1].book.digest());
    }
    let mut body = Body::default();
    while body.step(&mut members[0].book) == Progress::More {}
    assert_eq!(body.0, then);
    assert!(then.len() > 300, "orders rested: {}", then.len());
}

#[test]
fn a_damaged_snapshot_leaves_the_book_as_it_was() {
    let mut market = Market::default();
    market.send(1, "sell 10 1");
    let good = Body::of(&mut market.book);
    let mut other = Market::default();
    other.send(2, "buy 9 1");
    let before = Body::of(&mut other.book).0;
    for len in 0..good.0.len() {
        let cut = Body(good.0[..len].to_vec(), Sums::new());
        assert_eq!(cut.restore(&mut other.book), Err(SnapshotError::Short));
    }
    let mut newer = Body(good.0.clone(), Sums::new());
    newer.0[0] = 2;
    assert_eq!(newer.restore(&mut other.book), Err(SnapshotError::Content));
    assert_eq!(Body::of(&mut other.book).0, before);
    good.restore(&mut other.book).unwrap();
    assert_eq!(other.book.digest(), market.book.digest());
}

/// The bytes of a section's body.
#[derive(Default)]
struct Body(Vec<u8>, Sums);

impl Body {
    fn of(book: &mut OrderBook) -> Self {
        let mut body = Self::default();
        book.begin_snapshot();
        while body.step(book) == Progress::More {}
        book.end_snapshot();
        body
    }

    fn step(&mut self, book: &mut OrderBook) -> Progress {
        let mut sink = Bytes(std::mem::take(&mut self.0));
        let mut writer = SnapshotWriter::new(&mut sink, &mut self.1);
        let progress = book.write_snapshot(&mut writer).unwrap();
        self.0 = sink.0;
        progress
    }

    fn restore(&self, book: &mut OrderBook) -> Result<(), SnapshotError> {
        let section = Section::Service(ServiceId::default());
        let begin = Begin {
            cluster: ClusterId(1),
            section,
            app_version: AppVersion::default(),
            position: Position::new(4096),
            term: Term::new(1),
            chain: 0,
            timestamp: Timestamp(0),
            segment_length: 65536,
        };
        let mut source = Bytes([&begin.encode()[..], &self.0].concat());
        let length = (BEGIN_LENGTH + self.0.len() + END_LENGTH) as u64;
        let mut reader = SnapshotReader::new(&mut source, length, ClusterId(1), section)?;
        book.read_snapshot(&mut reader)
    }
}

struct Bytes(Vec<u8>);

impl ErrorType for Bytes {
    type Error = ErrorKind;
}

impl Write for Bytes {
    fn write(&mut self, bytes: &[u8]) -> Result<usize, ErrorKind> {
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> Result<(), ErrorKind> {
        Ok(())
    }
}

impl Read for Bytes {
    fn read(&mut self, bytes: &mut [u8]) -> Result<usize, ErrorKind> {
        let len = bytes.len().min(self.0.len());
        bytes[..len].copy_from_slice(&self.0[..len]);
        self.0.drain(..len);
        Ok(len)
    }
}
