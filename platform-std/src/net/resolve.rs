//! Names to addresses, on a thread of its own: a slow name server must not stop the cluster.

use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

use crate::waker::Waker;

/// Looks a `host:port` up, now, on this thread. An IPv4 address is preferred to an IPv6 one of the
/// same name, unless `prefer_v6`.
///
/// # Errors
/// The system's, or "no address" if the name has none.
pub fn resolve(endpoint: &str, prefer_v6: bool) -> io::Result<SocketAddr> {
    let mut first = None;
    for address in endpoint.to_socket_addrs()? {
        if address.is_ipv6() == prefer_v6 {
            return Ok(address);
        }
        first = first.or(Some(address));
    }
    first.ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "the name has no address"))
}

/// What is asked for: for what, the name, and whether an IPv6 address is preferred.
type Question<K> = (K, String, bool);
type Answer<K> = (K, Option<SocketAddr>);

/// How many names may wait for the thread. A name server that does not answer takes seconds for
/// each, and whoever has no answer asks again every second: without a bound, and without looking at
/// who has asked already, what waits would grow for ever, and names that have an address be found
/// hours late.
const WAITING_MAX: usize = 64;

/// Looks names up, on a thread that there is once a name is asked for: an address is its own
/// answer. `K` says what for.
#[derive(Debug)]
pub struct Resolver<K> {
    waker: Option<Waker>,
    questions: Option<Sender<Question<K>>>,
    thread: Option<JoinHandle<()>>,
    /// What the thread was asked for and has not answered.
    waiting: Vec<K>,
    outbox: Sender<Answer<K>>,
    answers: Receiver<Answer<K>>,
}

impl<K: Send + Copy + PartialEq + 'static> Resolver<K> {
    /// `waker` is told of each answer that a thread has found.
    pub fn new(waker: Option<Waker>) -> Self {
        let (outbox, answers) = channel();
        Self {
            waker,
            questions: None,
            thread: None,
            waiting: Vec::new(),
            outbox,
            answers,
        }
    }

    /// Asks. The answer comes through `poll`: of an address at once, of a name when it is found.
    /// Who asks for the same again before that has one answer. None comes if there is no thread to
    /// be had, or 64 names wait for it.
    pub fn ask(&mut self, key: K, endpoint: &str, prefer_v6: bool) {
        if let Ok(address) = endpoint.parse() {
            self.outbox.send((key, Some(address))).ok();
            return;
        }
        // A dead thread answers nothing; whoever asked asks again after a while, or gives up.
        if self.thread.as_ref().is_some_and(JoinHandle::is_finished) {
            (self.questions, self.thread) = (None, None);
            self.waiting.clear();
        }
        if self.waiting.contains(&key) || self.waiting.len() >= WAITING_MAX {
            return;
        }
        if self.questions.is_none() {
            (self.questions, self.thread) = self.spawn().ok().unzip();
        }
        let question = (key, endpoint.to_owned(), prefer_v6);
        let asked = self.questions.as_ref().map(|thread| thread.send(question));
        if matches!(asked, Some(Ok(()))) {
            self.waiting.push(key);
        }
    }

    /// Starts the thread; it ends when the resolver is dropped and its current question answered.
    fn spawn(&self) -> io::Result<(Sender<Question<K>>, JoinHandle<()>)> {
        let (questions, inbox) = channel::<Question<K>>();
        let (outbox, waker) = (self.outbox.clone(), self.waker.clone());
        let thread = std::thread::Builder::new()
            .name("resolver".into())
            .spawn(move || {
                for (key, endpoint, prefer_v6) in inbox {
                    let address = resolve(&endpoint, prefer_v6).ok();
                    if outbox.send((key, address)).is_err() {
                        return;
                    }
                    if let Some(waker) = &waker {
                        waker.wake();
                    }
                }
            })?;
        Ok((questions, thread))
    }

    /// The next answer: `None` inside if the name cannot be resolved now.
    pub fn poll(&mut self) -> Option<(K, Option<SocketAddr>)> {
        let (key, address) = self.answers.try_recv().ok()?;
        self.waiting.retain(|waiting| *waiting != key);
        Some((key, address))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_resolve_to_themselves() {
        let four: SocketAddr = "127.0.0.1:9000".parse().unwrap();
        assert_eq!(resolve("127.0.0.1:9000", true).unwrap(), four);
        let six: SocketAddr = "[::1]:9000".parse().unwrap();
        assert_eq!(resolve("[::1]:9000", false).unwrap(), six);
        assert!(resolve("no port", false).is_err());
    }

    #[test]
    fn answers_carry_their_question() {
        let waker = Waker::new().unwrap();
        let mut resolver = Resolver::new(Some(waker.clone()));
        resolver.ask(7, "127.0.0.1:1", false);
        assert!(resolver.questions.is_none(), "no thread for an address");
        resolver.ask(8, "not an endpoint", false);
        let mut answers = Vec::new();
        while answers.len() < 2 {
            waker.about_to_sleep();
            if let Some(answer) = resolver.poll() {
                answers.push(answer);
            }
            let mask = super::super::wait(&[waker.fd()], std::time::Duration::from_millis(10));
            waker.awake(mask.unwrap() != 0);
        }
        assert_eq!(answers, [(7, "127.0.0.1:1".parse().ok()), (8, None)]);
    }

    /// The thread here is one that never answers.
    #[test]
    fn a_name_server_that_does_not_answer_is_asked_for_few_names_and_once_for_each() {
        let mut resolver = Resolver::new(None);
        let (questions, inbox) = channel();
        resolver.questions = Some(questions);
        for _ in 0..10 {
            for key in 0..3 {
                resolver.ask(key, "nowhere.example:1", false);
            }
        }
        assert_eq!(inbox.try_iter().count(), 3);
        for key in 0..10_000 {
            resolver.ask(key, "nowhere.example:1", false);
        }
        assert_eq!(inbox.try_iter().count(), WAITING_MAX - 3);
        // It has answered, so it may be asked again.
        resolver.outbox.send((2, None)).unwrap();
        assert_eq!(resolver.poll(), Some((2, None)));
        resolver.ask(2, "nowhere.example:1", false);
        assert_eq!(inbox.try_iter().count(), 1);
    }
}
