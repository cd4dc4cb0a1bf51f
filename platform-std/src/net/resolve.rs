//! Names to addresses, on a thread of its own: a slow name server must not stop the cluster.

use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::mpsc::{Receiver, Sender, channel};

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

/// Looks names up, on a thread that there is once a name is asked for: an address is its own
/// answer. `K` says what for.
#[derive(Debug)]
pub struct Resolver<K> {
    waker: Option<Waker>,
    questions: Option<Sender<Question<K>>>,
    outbox: Sender<Answer<K>>,
    answers: Receiver<Answer<K>>,
}

impl<K: Send + 'static> Resolver<K> {
    /// `waker` is told of each answer that a thread has found.
    pub fn new(waker: Option<Waker>) -> Self {
        let (outbox, answers) = channel();
        Self {
            waker,
            questions: None,
            outbox,
            answers,
        }
    }

    /// Asks. The answer comes through `poll`: of an address at once, of a name when it is found,
    /// unless there is no thread to be had.
    pub fn ask(&mut self, key: K, endpoint: &str, prefer_v6: bool) {
        if let Ok(address) = endpoint.parse() {
            self.outbox.send((key, Some(address))).ok();
            return;
        }
        if self.questions.is_none() {
            self.questions = self.spawn().ok();
        }
        // A dead thread answers nothing; whoever asked asks again after a while, or gives up.
        let question = (key, endpoint.to_owned(), prefer_v6);
        let asked = self.questions.as_ref().map(|thread| thread.send(question));
        if !matches!(asked, Some(Ok(()))) {
            self.questions = None;
        }
    }

    /// Starts the thread; it ends when the resolver is dropped and its current question answered.
    fn spawn(&self) -> io::Result<Sender<Question<K>>> {
        let (questions, inbox) = channel::<Question<K>>();
        let (outbox, waker) = (self.outbox.clone(), self.waker.clone());
        std::thread::Builder::new()
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
        Ok(questions)
    }

    /// The next answer: `None` inside if the name cannot be resolved now.
    pub fn poll(&self) -> Option<(K, Option<SocketAddr>)> {
        self.answers.try_recv().ok()
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
}
