//! A service on a thread of its own.

use std::any::Any;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use coracle_core::node::{Container, Halt, Ran};
use coracle_core::service::Service;
use coracle_core::units::Position;

use super::executor::{Executor, Memory};
use super::link::{Link, Look, Outlet, Rest};
use super::stand_in::StandIn;
use super::{Ended, News, Orders};
use crate::clock::Clock;
use crate::config::Idle;
use crate::node::SESSIONS;
use crate::storage::recover::Reader;
use crate::waker::Waker;

/// How many bytes of log are read and executed at once, between two looks at what else is to do.
const CHUNK: usize = 256 << 10;
/// How often a thread that waits is told that it is to end.
const ASK_AGAIN: Duration = Duration::from_millis(1);

/// What a service's thread needs of the member.
#[derive(Clone, Debug)]
pub struct Surroundings {
    /// The name of the thread.
    pub name: String,
    /// The directory of the log's files.
    pub log: PathBuf,
    /// The length of a log segment.
    pub segment_length: u32,
    /// Wakes the node's thread.
    pub waker: Waker,
    /// The member's clocks.
    pub clock: Clock,
    /// What the thread does while there is nothing to do.
    pub idle: Idle,
}

/// What the node's driver does with a service that runs away from it.
pub trait Away {
    /// The service starts on its thread, as `container` says.
    ///
    /// # Errors
    /// The system refuses another thread.
    fn leave(
        &mut self,
        container: Container<SESSIONS>,
        memory: Memory,
        around: &Surroundings,
    ) -> io::Result<()>;

    /// One turn: takes what the service has done, and tells it that what is below `limit` is
    /// committed and in the files. True if there was news.
    fn turn(&mut self, limit: Position) -> bool;

    /// Whether a turn would find news.
    fn is_ready(&self) -> bool;

    /// Why the service has ended, once.
    fn take_ended(&mut self) -> Option<Ended>;

    /// Brings the service back, so that its state can be replaced. False if it does not come within
    /// this time, or is no more.
    fn come_back(&mut self, within: Duration) -> bool;

    /// The node closes: lets the service execute `on_terminate`; false as above.
    fn terminate(&mut self, within: Duration) -> bool;

    /// What the node takes for the service.
    fn as_service(&mut self) -> &mut dyn Service;
}

/// A service that runs on a thread of its own, once the node has started.
#[derive(Debug)]
pub struct OnThread<S> {
    /// While it is here.
    service: Option<S>,
    stand_in: StandIn,
    link: Arc<Link>,
    thread: Option<JoinHandle<Option<S>>>,
    told: Orders,
    ended: Option<Ended>,
}

impl<S: Service + Send + 'static> OnThread<S> {
    /// Not started yet.
    pub fn new(service: S) -> Self {
        Self {
            stand_in: StandIn::new(Position::ZERO, service.digest()),
            service: Some(service),
            link: Arc::default(),
            thread: None,
            told: Orders::default(),
            ended: None,
        }
    }

    fn join(&mut self, within: Duration) -> bool {
        let Some(thread) = &self.thread else {
            return self.service.is_some();
        };
        let deadline = Instant::now() + within;
        while !thread.is_finished() {
            if Instant::now() >= deadline {
                return false;
            }
            self.link.ring();
            std::thread::sleep(ASK_AGAIN);
        }
        // The thread catches what the service panics with.
        self.service = self.thread.take().and_then(|thread| thread.join().ok()?);
        self.service.is_some()
    }
}

impl<S> Drop for OnThread<S> {
    fn drop(&mut self) {
        // A thread that is in a callback ends when that returns: nobody waits for it.
        self.link.stop();
    }
}

impl<S: Service + Send + 'static> Away for OnThread<S> {
    fn leave(
        &mut self,
        container: Container<SESSIONS>,
        memory: Memory,
        around: &Surroundings,
    ) -> io::Result<()> {
        let Some(service) = self.service.take() else {
            return Err(io::Error::other("this service has failed"));
        };
        self.stand_in = StandIn::new(container.position(), service.digest());
        self.link = Arc::default();
        self.told = Orders::default();
        let executor = Executor::new(container, service, memory);
        let (link, around) = (Arc::clone(&self.link), around.clone());
        let thread = std::thread::Builder::new().name(around.name.clone());
        self.thread = Some(thread.spawn(move || run(executor, &link, &around))?);
        Ok(())
    }

    fn turn(&mut self, limit: Position) -> bool {
        let had_news = self.link.take(&mut self.stand_in);
        if had_news && let Some(ended) = self.link.take_ended() {
            self.stand_in.give_up();
            self.ended = Some(ended);
        }
        let orders = self.stand_in.orders();
        let ordered = std::mem::replace(&mut self.told, orders) != orders;
        self.link
            .tell(limit, ordered.then_some(orders), self.stand_in.backlog());
        had_news
    }

    fn is_ready(&self) -> bool {
        // What is decided while the node executes, or takes a snapshot, is told in the next turn.
        self.link.has_news() || self.stand_in.orders() != self.told
    }

    fn take_ended(&mut self) -> Option<Ended> {
        self.ended.take()
    }

    fn come_back(&mut self, within: Duration) -> bool {
        self.link.stop();
        self.join(within)
    }

    fn terminate(&mut self, within: Duration) -> bool {
        self.link.terminate();
        self.join(within)
    }

    fn as_service(&mut self) -> &mut dyn Service {
        match &mut self.service {
            Some(service) => service,
            None => &mut self.stand_in,
        }
    }
}

fn run<S: Service>(
    mut executor: Executor<S, SESSIONS>,
    link: &Link,
    around: &Surroundings,
) -> Option<S> {
    let ran = catch_unwind(AssertUnwindSafe(|| {
        Round::new(link, around).run(&mut executor)
    }));
    match ran {
        Ok(Ok(())) => return Some(executor.into_service()),
        Ok(Err(ended)) => link.end(ended),
        Err(panic) => link.end(Ended::Panicked(text_of(&*panic))),
    }
    around.waker.wake();
    None
}

fn text_of(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
    text.unwrap_or_else(|| "a panic without a text".into())
}

/// What the thread works with.
struct Round<'a> {
    link: &'a Link,
    around: &'a Surroundings,
    reader: Reader,
    bytes: Vec<u8>,
    news: News,
}

impl<'a> Round<'a> {
    fn new(link: &'a Link, around: &'a Surroundings) -> Self {
        Self {
            link,
            around,
            reader: Reader::new(&around.log, around.segment_length),
            bytes: vec![0; CHUNK],
            news: News::default(),
        }
    }

    fn run<S: Service>(mut self, executor: &mut Executor<S, SESSIONS>) -> Result<(), Ended> {
        loop {
            let desk = self.link.look();
            if desk.is_stopped {
                executor.stop();
                return Ok(());
            }
            if desk.is_closing {
                executor.terminate();
                return Ok(());
            }
            let mut busy = executor.obey(&desk.orders);
            if !desk.calls_full {
                busy |= self.execute(executor)?;
            }
            if !desk.pieces_full {
                busy |= self.save(executor);
            }
            executor.background(self.around.clock.now());
            if busy {
                executor.tell(&mut self.news);
                self.link.publish(&mut self.news);
                self.around.waker.wake();
                continue;
            }
            match self.around.idle {
                Idle::Spin => std::hint::spin_loop(),
                Idle::Yield => std::thread::yield_now(),
                Idle::Sleep => self.rest(executor, &desk),
            }
        }
    }

    fn rest<S: Service>(&self, executor: &Executor<S, SESSIONS>, looked: &Look) {
        let log = executor.reads_at();
        let rest = Rest {
            log,
            pieces: executor.is_saving() && !executor.is_later(),
            stalled: executor.is_later() || (log.is_none() && !executor.is_waiting()),
        };
        self.link.sleep(looked, rest);
    }

    /// Executes the next piece of log, if there is one.
    fn execute<S: Service>(&mut self, executor: &mut Executor<S, SESSIONS>) -> Result<bool, Ended> {
        let Some(at) = executor.reads_at() else {
            return Ok(false);
        };
        let len = (self.link.limit().since(at) as usize).min(self.bytes.len());
        if len == 0 {
            return Ok(false);
        }
        let read = self.reader.read(at, &mut self.bytes[..len]);
        let read = read.map_err(Ended::Storage)?;
        match executor.run(&self.bytes[..read], &mut self.news) {
            Ok(Ran::Through) if executor.at() == at => Err(Ended::Halted(Halt::CorruptLog(at))),
            Ok(_) => Ok(executor.at() > at),
            Err(halt) => {
                // The node is to come as far, and to the same.
                executor.tell(&mut self.news);
                self.link.publish(&mut self.news);
                Err(Ended::Halted(halt))
            }
        }
    }

    /// Writes the next piece of a snapshot, if there is one.
    fn save<S: Service>(&mut self, executor: &mut Executor<S, SESSIONS>) -> bool {
        let (true, Some(at)) = (executor.is_saving(), executor.saving()) else {
            return false;
        };
        executor.tell(&mut self.news);
        let mut outlet = Outlet {
            link: self.link,
            waker: &self.around.waker,
            news: &mut self.news,
            at,
        };
        let saved = executor.save(&mut outlet);
        self.news.saved = saved;
        !executor.is_later() || !self.news.pieces.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use coracle_core::service::echo::Echo;

    use super::*;

    #[test]
    fn what_is_decided_while_the_node_works_is_told_before_it_sleeps() {
        let mut away = OnThread::new(Echo::default());
        let at = Position::new(96);
        away.stand_in.take(&mut News {
            executed: at,
            action: Some(at),
            ..News::default()
        });
        assert!(!away.is_ready());
        // Asked there again, the node takes no snapshot.
        assert!(!away.stand_in.ready(at));
        assert!(away.is_ready());
        away.turn(at);
        assert!(!away.is_ready());
    }
}
