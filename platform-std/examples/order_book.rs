//! An order book as a replicated service: price-time priority, orders that expire, snapshots.
//!
//! ```text
//! cargo run --example order_book -- node.toml &
//! cargo run --example client -- 0=127.0.0.1:9100 'sell 101 5' 'buy 102 3 60000' 'cancel 1'
//!
//! buy PRICE QUANTITY [MILLISECONDS]    accepted N, then at once or later: bought Q at P in N
//! sell PRICE QUANTITY [MILLISECONDS]   accepted N, then at once or later: sold Q at P in N
//! cancel N                             cancelled N
//! ```
//! An order that is not filled rests until it is cancelled, `expired N`, or its session closes. One
//! that is not filled by [`TRADES_MAX`] trades at once is `killed N`. Whatever is not understood or
//! has no room is `refused: ...`, and has changed nothing.
//!
//! It is deterministic: its state depends on nothing but what the cluster hands to it. The maps are
//! ordered, the time is the cluster's, and every bound is a number of orders.

use std::collections::{BTreeMap, BTreeSet};

use coracle_core::service::{
    CloseReason, Cluster, Progress, Service, SnapshotError, SnapshotReader, SnapshotWriter,
};
use coracle_core::time::Timestamp;
use coracle_core::units::{Position, SessionId};
use coracle_std::{config::Settings, node::NodeBuilder, signals::StopSignal};

/// How many orders rest, at most: bounds the memory, and the work when a session closes.
pub const ORDERS_MAX: usize = 10_000;
/// How many trades one order makes, at most: bounds the work of one message.
pub const TRADES_MAX: usize = 100;
/// A snapshot: the version of its format, and how many bytes are written between two messages.
const FORMAT: u32 = 1;
const PIECE: usize = 64 * 1024;

/// One order, with what is left of it.
#[derive(Clone, Debug)]
struct Order {
    session: SessionId,
    is_buy: bool,
    price: u32,
    open: u32,
    /// Milliseconds from when it was placed.
    lifetime: Option<u32>,
}

impl Order {
    /// The best price is the lowest rank.
    fn rank(&self) -> u32 {
        match self.is_buy {
            true => u32::MAX - self.price,
            false => self.price,
        }
    }

    fn trades_with(&self, resting: &Self) -> bool {
        // This price, ranked as the other side ranks.
        resting.rank() <= u32::MAX - self.rank()
    }
}

/// The replicated state, and the snapshot that is being written.
#[derive(Debug, Default)]
pub struct OrderBook {
    /// What rests, by number. Numbers ascend in the order of the log: they are the time priority.
    orders: BTreeMap<u64, Order>,
    /// Rank and number of the sells, and of the buys: the first is the next to trade.
    sides: [BTreeSet<(u32, u64)>; 2],
    /// The number of the newest order.
    newest: u64,
    digest: u64,
    /// What is left to write of a snapshot: the book is small enough to be encoded at its begin.
    saved: Vec<u8>,
}

/// Done, or why nothing was changed.
type Outcome = Result<(), &'static str>;

impl OrderBook {
    fn execute(&mut self, cluster: &mut Cluster<'_>, session: SessionId, text: &[u8]) -> Outcome {
        let text = std::str::from_utf8(text).map_err(|_| "not text")?;
        let words: Vec<_> = text.split_whitespace().collect();
        let number = |word: &str| word.parse::<u32>().ok().filter(|n| *n > 0);
        let (is_buy, price, open, lifetime) = match words[..] {
            ["cancel", order] => {
                return self.cancel(cluster, session, order.parse().map_err(|_| "not a number")?);
            }
            [verb @ ("buy" | "sell"), price, open, ref lifetime @ ..] if lifetime.len() < 2 => (
                verb == "buy",
                price,
                open,
                lifetime.first().map(|n| number(n)),
            ),
            _ => return Err("say buy, sell or cancel"),
        };
        let order = Order {
            session,
            is_buy,
            price: number(price).ok_or("not a price")?,
            open: number(open).ok_or("not a quantity")?,
            lifetime: lifetime.map(|n| n.ok_or("not a time")).transpose()?,
        };
        self.place(cluster, order)
    }

    fn place(&mut self, cluster: &mut Cluster<'_>, mut order: Order) -> Outcome {
        if self.orders.len() >= ORDERS_MAX {
            return Err("the book is full");
        }
        let number = self.newest + 1;
        // First of all: whether there is room for a timer is the same on every member, and an order
        // that could not expire must not have traded.
        if let Some(millis) = order.lifetime {
            let deadline = Timestamp(cluster.time().0.saturating_add(millis.into()));
            let armed = cluster.schedule_timer(number as i64, deadline);
            armed.map_err(|_| "too many orders that expire")?;
        }
        self.newest = number;
        tell(cluster, order.session, &format!("accepted {number}"));
        let is_done = self.trade(cluster, number, &mut order);
        self.record([number, order.open.into(), order.price.into()]);
        if is_done && order.open > 0 {
            self.sides[usize::from(order.is_buy)].insert((order.rank(), number));
            self.orders.insert(number, order);
            return Ok(());
        }
        disarm(cluster, number, &order);
        if !is_done {
            tell(cluster, order.session, &format!("killed {number}"));
        }
        Ok(())
    }

    /// Trades with the best orders of the other side, each at its own price. False if that is more
    /// than one message may cause.
    fn trade(&mut self, cluster: &mut Cluster<'_>, number: u64, order: &mut Order) -> bool {
        for _ in 0..TRADES_MAX {
            let Some(&(_, other)) = self.sides[usize::from(!order.is_buy)].first() else {
                return true;
            };
            let resting = self.orders.get_mut(&other);
            let resting = resting.expect("what is in a side is in the book");
            if order.open == 0 || !order.trades_with(resting) {
                return true;
            }
            let (price, quantity) = (resting.price, order.open.min(resting.open));
            order.open -= quantity;
            resting.open -= quantity;
            let is_filled = resting.open == 0;
            let theirs = (resting.session, resting.is_buy, other);
            for (session, is_buy, number) in [(order.session, order.is_buy, number), theirs] {
                let done = if is_buy { "bought" } else { "sold" };
                tell(
                    cluster,
                    session,
                    &format!("{done} {quantity} at {price} in {number}"),
                );
            }
            self.record([number, other, quantity.into()]);
            if is_filled {
                self.remove(cluster, other);
            }
        }
        order.open == 0
    }

    fn cancel(&mut self, cluster: &mut Cluster<'_>, session: SessionId, number: u64) -> Outcome {
        let order = self.orders.get(&number);
        if order.is_none_or(|order| order.session != session) {
            return Err("no such order of yours rests");
        }
        self.remove(cluster, number);
        tell(cluster, session, &format!("cancelled {number}"));
        Ok(())
    }

    /// Takes an order out of the book.
    fn remove(&mut self, cluster: &mut Cluster<'_>, number: u64) -> Option<Order> {
        let order = self.orders.remove(&number)?;
        self.sides[usize::from(order.is_buy)].remove(&(order.rank(), number));
        disarm(cluster, number, &order);
        self.record([number, 0, 0]);
        Some(order)
    }

    /// Everything that changes the book goes into the digest, so members that differ are found.
    fn record(&mut self, change: [u64; 3]) {
        for word in change {
            self.digest = (self.digest.rotate_left(5) ^ word).wrapping_mul(0x517c_c1b7_2722_0a95);
        }
    }

    fn read(from: &mut SnapshotReader<'_>) -> Result<Self, SnapshotError> {
        if from.u32()? != FORMAT {
            return Err(SnapshotError::Content);
        }
        let mut book = Self::default();
        (book.newest, book.digest) = (from.u64()?, from.u64()?);
        for _ in 0..from.u32()? {
            let number = from.u64()?;
            let order = Order {
                session: SessionId::new(Position::new(from.u64()?)),
                is_buy: from.u32()? == 1,
                price: from.u32()?,
                open: from.u32()?,
                lifetime: Some(from.u32()?).filter(|millis| *millis > 0),
            };
            let is_sound = order.open > 0 && number <= book.newest;
            book.sides[usize::from(order.is_buy)].insert((order.rank(), number));
            let is_twice = book.orders.insert(number, order).is_some();
            if !is_sound || is_twice || book.orders.len() > ORDERS_MAX {
                return Err(SnapshotError::Content);
            }
        }
        Ok(book)
    }
}

impl Service for OrderBook {
    fn on_session_message(&mut self, cluster: &mut Cluster<'_>, session: SessionId, text: &[u8]) {
        if let Err(why) = self.execute(cluster, session, text) {
            tell(cluster, session, &format!("refused: {why}"));
        }
    }

    /// Nobody is left who could cancel them, or be told of their trades.
    fn on_session_close(&mut self, cluster: &mut Cluster<'_>, closed: SessionId, _: CloseReason) {
        let theirs = self.orders.iter().filter(|(_, o)| o.session == closed);
        let theirs: Vec<u64> = theirs.map(|(number, _)| *number).collect();
        for number in theirs {
            self.remove(cluster, number);
        }
    }

    fn on_timer_event(&mut self, cluster: &mut Cluster<'_>, number: i64, _: Timestamp) {
        if let Some(order) = self.remove(cluster, number as u64) {
            tell(cluster, order.session, &format!("expired {number}"));
        }
    }

    fn digest(&self) -> u64 {
        self.digest
    }

    fn begin_snapshot(&mut self) {
        self.saved = FORMAT.to_le_bytes().to_vec();
        self.saved.extend(self.newest.to_le_bytes());
        self.saved.extend(self.digest.to_le_bytes());
        self.saved.extend((self.orders.len() as u32).to_le_bytes());
        // Timers are no part of it: the cluster keeps them, and brings them back with the book.
        for (number, order) in &self.orders {
            self.saved.extend(number.to_le_bytes());
            self.saved
                .extend(order.session.opened_at().get().to_le_bytes());
            let lifetime = order.lifetime.unwrap_or(0);
            for field in [order.is_buy.into(), order.price, order.open, lifetime] {
                self.saved.extend(field.to_le_bytes());
            }
        }
    }

    fn write_snapshot(&mut self, out: &mut SnapshotWriter<'_>) -> Result<Progress, SnapshotError> {
        let piece = self.saved.len().min(PIECE);
        out.put(&self.saved[..piece])?;
        self.saved.drain(..piece);
        match self.saved.is_empty() {
            true => Ok(Progress::Done),
            false => Ok(Progress::More),
        }
    }

    fn end_snapshot(&mut self) {
        self.saved = Vec::new();
    }

    fn read_snapshot(&mut self, from: &mut SnapshotReader<'_>) -> Result<(), SnapshotError> {
        *self = Self::read(from)?;
        Ok(())
    }
}

fn tell(cluster: &mut Cluster<'_>, session: SessionId, text: &str) {
    // Who has gone meanwhile is no error: its close follows in the log.
    let _gone = cluster.offer(session, &[text.as_bytes()]);
}

fn disarm(cluster: &mut Cluster<'_>, number: u64, order: &Order) {
    if order.lifetime.is_some() {
        let _fired = cluster.cancel_timer(number as i64);
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let usage = "usage: order_book node.toml";
    let settings = Settings::load(std::env::args().nth(1).ok_or(usage)?.as_ref())?;
    let node = NodeBuilder::new(settings)
        .init(true)
        .stop_signal(StopSignal::register()?);
    Ok(node.run(OrderBook::default())?)
}
