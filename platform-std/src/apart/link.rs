//! What the node's thread and a service's thread share.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use coracle_core::units::Position;
use embedded_io::{ErrorKind, ErrorType, Write};

use super::stand_in::StandIn;
use super::{BACKLOG_MAX, Ended, News, Orders};
use crate::waker::Waker;

/// How many bytes of a snapshot are handed over at once.
const PIECE: usize = 256 << 10;
/// How soon background work is called again at the latest. Not in tests: there nothing but what
/// rings may end a sleep.
const REST: Duration = Duration::from_millis(if cfg!(test) { 60_000 } else { 100 });
/// How long a service that takes nothing waits to be asked again.
const STALLED: Duration = Duration::from_millis(5);

/// Both threads hold it. Locks are held for as long as it takes to copy a few words, or to swap or
/// append buffers of `BACKLOG_MAX` bytes.
#[derive(Debug, Default)]
pub(super) struct Link {
    desk: Mutex<Desk>,
    bell: Condvar,
    /// `AWAKE`, or what the service's thread sleeps for.
    sleep: AtomicU8,
    has_news: AtomicBool,
    limit: AtomicU64,
    /// What the node has taken and made nothing of: bytes of calls, and of a snapshot.
    taken: [AtomicUsize; 2],
}

const AWAKE: u8 = 0;
const FOR_LOG: u8 = 1;
const FOR_ROOM: u8 = 2;

#[derive(Debug, Default)]
struct Desk {
    news: News,
    orders: Orders,
    /// Counts changes of `orders` and of the next two.
    changes: u64,
    is_stopped: bool,
    is_closing: bool,
    ended: Option<Ended>,
}

/// What the service's thread sees when it looks.
#[derive(Clone, Copy)]
pub(super) struct Look {
    pub orders: Orders,
    pub is_stopped: bool,
    pub is_closing: bool,
    /// The node must make something of what was called before more is executed.
    pub calls_full: bool,
    /// The same of a snapshot's bytes.
    pub pieces_full: bool,
    changes: u64,
}

/// What a thread waits for that has nothing to do, beside other orders.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Rest {
    /// More log than up to here, and room for its calls.
    pub log: Option<Position>,
    /// Room for pieces.
    pub pieces: bool,
    /// The service takes nothing: it is to be asked again soon.
    pub stalled: bool,
}

impl Link {
    fn lock(&self) -> MutexGuard<'_, Desk> {
        // Nothing that is done under the lock panics.
        self.desk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut Desk)) {
        let mut desk = self.lock();
        change(&mut desk);
        desk.changes += 1;
        drop(desk);
        self.bell.notify_all();
    }

    /// The service's thread ends at once.
    pub fn stop(&self) {
        self.change(|desk| desk.is_stopped = true);
    }

    /// The service's thread ends after `on_terminate`.
    pub fn terminate(&self) {
        self.change(|desk| desk.is_closing = true);
    }

    /// Wakes the service's thread.
    pub fn ring(&self) {
        drop(self.lock());
        self.bell.notify_all();
    }

    /// The node's thread: takes the news, if there are any.
    pub fn take(&self, stand_in: &mut StandIn) -> bool {
        if !self.has_news.swap(false, Ordering::SeqCst) {
            return false;
        }
        stand_in.take(&mut self.lock().news);
        true
    }

    /// The node's thread: whether there are news.
    pub fn has_news(&self) -> bool {
        self.has_news.load(Ordering::SeqCst)
    }

    /// The node's thread: why the service has ended.
    pub fn take_ended(&self) -> Option<Ended> {
        self.lock().ended.take()
    }

    /// The node's thread: what is committed, what it wants, and how much it has not used yet.
    pub fn tell(&self, limit: Position, orders: Option<Orders>, backlog: [usize; 2]) {
        let was = self.limit.swap(limit.get(), Ordering::SeqCst);
        let mut is_less = false;
        for (taken, now) in self.taken.iter().zip(backlog) {
            is_less |= taken.swap(now, Ordering::SeqCst) != now;
        }
        if let Some(orders) = orders {
            self.change(|desk| desk.orders = orders);
            return;
        }
        let is_news = match self.sleep.load(Ordering::SeqCst) {
            AWAKE => false,
            // Who waits for room for a snapshot has room for calls, and executes.
            FOR_ROOM => is_less || limit.get() > was,
            _ => limit.get() > was,
        };
        if is_news {
            self.ring();
        }
    }

    /// The service's thread: below this all is committed, and in the files.
    pub fn limit(&self) -> Position {
        Position::new(self.limit.load(Ordering::SeqCst))
    }

    /// The service's thread: what the node wants.
    pub fn look(&self) -> Look {
        self.see(&self.lock())
    }

    fn see(&self, desk: &Desk) -> Look {
        let [calls, pieces] = &self.taken;
        let calls = calls.load(Ordering::SeqCst) + desk.news.calls.len();
        let pieces = pieces.load(Ordering::SeqCst) + desk.news.pieces.len();
        Look {
            orders: desk.orders,
            is_stopped: desk.is_stopped,
            is_closing: desk.is_closing,
            calls_full: calls > BACKLOG_MAX,
            pieces_full: pieces > BACKLOG_MAX,
            changes: desk.changes,
        }
    }

    /// The service's thread: hands the news over.
    pub fn publish(&self, news: &mut News) {
        self.lock().news.absorb(news);
        self.has_news.store(true, Ordering::SeqCst);
    }

    /// The service's thread: it ends of itself.
    pub fn end(&self, ended: Ended) {
        self.lock().ended = Some(ended);
        self.has_news.store(true, Ordering::SeqCst);
    }

    /// The service's thread, which has looked: sleeps until what it waits for may be there.
    pub fn sleep(&self, looked: &Look, rest: Rest) {
        let desk = self.lock();
        let for_room = rest.pieces || looked.calls_full;
        let reason = if for_room { FOR_ROOM } else { FOR_LOG };
        self.sleep.store(reason, Ordering::SeqCst);
        // Sequentially consistent on both sides: either the node's thread sees that this one
        // sleeps, and then waits for the lock to ring; or this one sees what it was told.
        let now = self.see(&desk);
        let is_more = rest.log.is_some_and(|at| self.limit() > at) && !now.calls_full;
        let is_there = is_more || (rest.pieces && !now.pieces_full);
        if !is_there && now.changes == looked.changes {
            let time = if rest.stalled { STALLED } else { REST };
            let woken = self.bell.wait_timeout(desk, time);
            drop(woken.unwrap_or_else(PoisonError::into_inner));
        }
        self.sleep.store(AWAKE, Ordering::SeqCst);
    }
}

/// Where a service writes its snapshot to. A service that writes all at once waits here for the
/// node to take it.
pub(super) struct Outlet<'a> {
    pub link: &'a Link,
    pub waker: &'a Waker,
    pub news: &'a mut News,
    /// The snapshot's position.
    pub at: Position,
}

impl ErrorType for Outlet<'_> {
    type Error = ErrorKind;
}

impl Write for Outlet<'_> {
    fn write(&mut self, bytes: &[u8]) -> Result<usize, ErrorKind> {
        self.news.pieces.extend_from_slice(bytes);
        if self.news.pieces.len() >= PIECE {
            self.flush()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> Result<(), ErrorKind> {
        self.link.publish(self.news);
        self.waker.wake();
        loop {
            let look = self.link.look();
            if look.is_stopped || look.is_closing || look.orders.taken != Some(self.at) {
                return Err(ErrorKind::Interrupted);
            }
            if !look.pieces_full {
                return Ok(());
            }
            let rest = Rest {
                log: None,
                pieces: true,
                stalled: false,
            };
            self.link.sleep(&look, rest);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Instant;

    use coracle_core::service::Role;

    use super::*;

    const AT: Position = Position::new(96);
    const FULL: [usize; 2] = [0, BACKLOG_MAX + 1];

    /// The node wants a snapshot, and has room for nothing of it.
    fn full() -> Link {
        let link = Link::default();
        let orders = Orders {
            role: Role::Follower,
            decided: AT,
            taken: Some(AT),
        };
        link.tell(AT, Some(orders), FULL);
        link
    }

    #[test]
    fn a_service_that_writes_all_at_once_is_not_kept_from_closing() {
        let link = full();
        let waker = Waker::new().unwrap();
        link.terminate();
        let mut outlet = Outlet {
            link: &link,
            waker: &waker,
            news: &mut News::default(),
            at: AT,
        };
        let written = outlet.write(&[0; PIECE]);
        assert_eq!(written, Err(ErrorKind::Interrupted));
    }

    #[test]
    fn new_log_wakes_a_service_whose_snapshot_waits_for_the_disk() {
        let link = Arc::new(full());
        let theirs = Arc::clone(&link);
        let thread = std::thread::spawn(move || {
            let rest = Rest {
                log: Some(AT),
                pieces: true,
                stalled: false,
            };
            theirs.sleep(&theirs.look(), rest);
        });
        while link.sleep.load(Ordering::SeqCst) == AWAKE {
            std::thread::yield_now();
        }
        link.tell(AT.plus(64), None, FULL);
        let deadline = Instant::now() + REST / 2;
        while !thread.is_finished() {
            assert!(Instant::now() < deadline, "nobody rings");
            std::thread::yield_now();
        }
        thread.join().unwrap();
    }
}
