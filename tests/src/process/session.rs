//! A client that counts: every message is numbered, every answer is checked.

use std::collections::VecDeque;
use std::path::Path;
use std::time::{Duration, Instant};

use coracle_std::client::{Client, ClientError, ClientOptions, Egress, OfferError};

use super::{PATIENCE, run};

/// One session of a cluster that runs the echo service.
pub struct Session {
    client: Client,
    in_flight: VecDeque<u64>,
    next: u64,
    answered: Vec<u64>,
    is_renewed: bool,
}

impl Session {
    /// Opens a session; `first` is the number of its first message.
    #[track_caller]
    pub fn open(endpoints: &str, first: u64) -> Self {
        Self::open_with(&ClientOptions::new(endpoints), first)
    }

    /// A session of which one process has many: with small windows.
    #[track_caller]
    pub fn open_small(endpoints: &str, first: u64) -> Self {
        Self::open_with(&Self::small(endpoints), first)
    }

    /// What is asked for by [`Self::open_small`].
    pub fn small(endpoints: &str) -> ClientOptions {
        ClientOptions {
            ingress_window: 64 << 10,
            egress_window: 64 << 10,
            message_max: 4 << 10,
            ..ClientOptions::new(endpoints)
        }
    }

    #[track_caller]
    fn open_with(options: &ClientOptions, first: u64) -> Self {
        let client = super::until("a session", || Client::connect_with(options).ok());
        Self {
            client,
            in_flight: VecDeque::new(),
            next: first,
            answered: Vec::new(),
            is_renewed: false,
        }
    }

    /// The text of a message: its number, and some bytes of its own.
    pub fn text(number: u64, len: usize) -> Vec<u8> {
        let mut text = format!("{number}:").into_bytes();
        let filler = (b'a'..=b'z').cycle().skip(number as usize % 26);
        text.extend(filler.take(len.saturating_sub(text.len())));
        text
    }

    /// Offers the next message; false if the cluster says "not now".
    pub fn offer(&mut self, len: usize) -> bool {
        match self.client.offer(&Self::text(self.next, len)) {
            Ok(_) => {
                self.in_flight.push_back(self.next);
                self.next += 1;
                true
            }
            Err(OfferError::BackPressured | OfferError::NotConnected) => false,
            Err(error) => panic!("offer: {error:?}"),
        }
    }

    /// The error of an offer that is not taken; `None` if one more message was taken.
    pub fn offer_error(&mut self, len: usize) -> Option<OfferError> {
        let outcome = self.client.offer(&Self::text(self.next, len));
        if outcome.is_ok() {
            self.in_flight.push_back(self.next);
            self.next += 1;
        }
        outcome.err()
    }

    /// Takes answers, waiting for the first for up to `timeout`. Answers come in the order of the
    /// messages; only a change of leaders leaves messages without one.
    ///
    /// # Errors
    /// The session is over.
    #[track_caller]
    pub fn poll(&mut self, timeout: Duration) -> Result<(), ClientError> {
        let (in_flight, answered) = (&mut self.in_flight, &mut self.answered);
        let is_renewed = &mut self.is_renewed;
        self.client.poll(timeout, |egress| match egress {
            Egress::Message { payload, .. } => {
                let digits = payload.split(|b| *b == b':').next().unwrap_or_default();
                let text = String::from_utf8_lossy(digits);
                let number: u64 = text.parse().expect("an answer to a numbered message");
                assert_eq!(payload, Self::text(number, payload.len()), "damaged answer");
                assert_eq!(
                    in_flight.pop_front(),
                    Some(number),
                    "an answer out of order"
                );
                answered.push(number);
            }
            Egress::NewLeader { .. } => {
                // What the old leader has not answered stays unknown: nobody else answers it.
                in_flight.clear();
                *is_renewed = true;
            }
            _ => {}
        })?;
        Ok(())
    }

    /// Sends `count` messages, with at most `window` unanswered, and waits for their answers. What
    /// a lost leader has not answered stays unknown.
    #[track_caller]
    pub fn stream(&mut self, count: usize, window: usize, len: usize) {
        let (target, deadline) = (self.answered.len() + count, Instant::now() + PATIENCE);
        while self.answered.len() < target {
            let left = target - self.answered.len();
            while self.in_flight.len() < window.min(left) && self.offer(len) {}
            self.poll(Duration::from_millis(5))
                .expect("the session lives on");
            assert!(
                Instant::now() < deadline,
                "{} of {target} answered",
                self.answered.len()
            );
        }
    }

    /// Waits for the answers to all that is in flight.
    #[track_caller]
    pub fn drain(&mut self) {
        let deadline = Instant::now() + PATIENCE;
        while !self.in_flight.is_empty() {
            self.poll(Duration::from_millis(20))
                .expect("the session lives on");
            assert!(
                Instant::now() < deadline,
                "{} unanswered",
                self.in_flight.len()
            );
        }
    }

    /// The numbers of the messages that were answered, in order.
    pub fn answered(&self) -> &[u64] {
        &self.answered
    }

    /// The number of the next message: how many were taken, if the first was 0.
    pub fn next(&self) -> u64 {
        self.next
    }

    /// How many messages were taken, and are not answered.
    pub fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    /// Whether a new leader has spoken to this session.
    pub fn is_renewed(&self) -> bool {
        self.is_renewed
    }

    /// Ends the session.
    #[track_caller]
    pub fn close(self) -> Vec<u64> {
        self.client.close().expect("closed");
        self.answered
    }
}

/// The numbers of all messages in a member's committed log, as `coracle tail` prints them.
#[track_caller]
pub fn records(dir: &Path) -> Vec<u64> {
    let ended = run(["tail".as_ref(), "--dir".as_ref(), dir.as_os_str()]);
    assert_eq!(ended.code, Some(0), "{}", ended.err);
    let number = |line: &str| line.split(':').next()?.parse().ok();
    ended
        .out
        .lines()
        .map(|line| number(line).expect("a numbered message"))
        .collect()
}
