//! One session of the library's client that puts load on a cluster with the echo service.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use coracle_std::client::{Client, ClientOptions, Egress, OfferError};
use hdrhistogram::Histogram;

/// What a process does while there is nothing to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Wait {
    /// Offers its core to others, and looks again.
    Yield,
    /// Sleeps until something comes.
    Block,
}

impl Wait {
    /// A word for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Yield => "yield",
            Self::Block => "block",
        }
    }

    /// The other way round.
    pub fn named(name: &str) -> Option<Self> {
        [Self::Yield, Self::Block]
            .into_iter()
            .find(|wait| wait.name() == name)
    }
}

/// Latencies of one run.
#[derive(Clone, Debug)]
pub struct Latencies(Histogram<u64>);

impl Default for Latencies {
    fn default() -> Self {
        Self::new()
    }
}

impl Latencies {
    /// None yet: from a nanosecond to a minute, to a thousandth.
    #[allow(clippy::missing_panics_doc, reason = "the bounds are constants")]
    pub fn new() -> Self {
        Self(Histogram::new_with_bounds(1, 60_000_000_000, 3).expect("bounds that are some"))
    }

    /// One more.
    pub fn add(&mut self, time: Duration) {
        self.0.saturating_record(time.as_nanos() as u64);
    }

    /// What so many of a thousand do not exceed, in microseconds. Of none it is no number.
    pub fn micros(&self, of_1000: u32) -> f64 {
        if self.0.is_empty() {
            return f64::NAN;
        }
        self.0.value_at_quantile(f64::from(of_1000) / 1000.0) as f64 / 1000.0
    }

    /// How many.
    pub fn count(&self) -> u64 {
        self.0.len()
    }
}

/// What a run came to.
#[derive(Clone, Debug)]
pub struct Echoed {
    /// Answers to messages that were sent in the run's time.
    pub latencies: Latencies,
    /// Answers in a second.
    pub rate: f64,
}

/// How a session is opened.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// What the client's thread does without work.
    pub wait: Wait,
    /// The length of a message.
    pub len: usize,
    /// The longest datagram.
    pub mtu: usize,
}

/// No part of a run may be silent for longer.
const PATIENCE: Duration = Duration::from_secs(20);

/// One session.
pub struct Load {
    client: Client,
    wait: Wait,
    text: Vec<u8>,
    next: u64,
    /// Without an answer: the number of each, and when it was due.
    asked: VecDeque<(u64, Instant)>,
    heard: Instant,
    leaders: u64,
}

impl Load {
    /// Opens a session.
    ///
    /// # Errors
    /// In words.
    pub fn open(endpoints: &str, shape: Shape) -> Result<Self, String> {
        Self::open_among(1, endpoints, shape)
    }

    /// Opens one of so many sessions of this process: the more there are, the smaller are its
    /// windows.
    ///
    /// # Errors
    /// In words.
    pub fn open_among(sessions: usize, endpoints: &str, shape: Shape) -> Result<Self, String> {
        let window = ((4 << 20) / sessions).next_power_of_two().max(128 << 10);
        let mut options = ClientOptions::new(endpoints);
        options.mtu = shape.mtu;
        (options.ingress_window, options.egress_window) = (window, window);
        options.message_max = options.message_max.min(window / 4);
        let client = Client::connect_with(&options).map_err(|e| e.to_string())?;
        Ok(Self {
            client,
            wait: shape.wait,
            text: (0..shape.len).map(|n| n as u8).collect(),
            next: 0,
            asked: VecDeque::new(),
            heard: Instant::now(),
            leaders: 0,
        })
    }

    /// With one message on its way. Its latency is from when it is handed to the client.
    ///
    /// # Errors
    /// In words.
    pub fn closed(&mut self, time: Duration) -> Result<Echoed, String> {
        self.flood(1, time)
    }

    /// With `in_flight` messages on their way, if the cluster takes so many.
    ///
    /// # Errors
    /// In words.
    pub fn flood(&mut self, in_flight: usize, time: Duration) -> Result<Echoed, String> {
        let began = Instant::now();
        self.heard = began;
        let mut latencies = Latencies::new();
        while began.elapsed() < time {
            self.fill(in_flight)?;
            self.poll(Some(&mut latencies))?;
        }
        let rate = latencies.count() as f64 / began.elapsed().as_secs_f64();
        self.drain()?;
        Ok(Echoed { latencies, rate })
    }

    /// A run begins whose turns the caller makes.
    pub fn begin(&mut self) {
        self.heard = Instant::now();
    }

    /// One turn of a run: sends until `in_flight` are on their way, and takes what has come.
    ///
    /// # Errors
    /// In words.
    pub fn turn(&mut self, in_flight: usize, latencies: &mut Latencies) -> Result<(), String> {
        if self.asked.is_empty() {
            self.begin();
        }
        self.fill(in_flight)?;
        self.poll(Some(latencies)).map(drop)
    }

    /// So many messages, and the answers to all of them.
    ///
    /// # Errors
    /// In words.
    pub fn send(&mut self, count: u64, in_flight: usize) -> Result<(), String> {
        let last = self.next + count;
        self.heard = Instant::now();
        while self.next < last {
            let left = (last - self.next) as usize;
            self.fill(in_flight.min(self.asked.len() + left))?;
            self.poll(None)?;
        }
        self.drain()
    }

    /// At a constant rate whatever the answers do: a latency is from when its message was due.
    ///
    /// # Errors
    /// In words.
    pub fn open_loop(&mut self, a_second: u32, time: Duration) -> Result<Echoed, String> {
        let began = Instant::now();
        let period = Duration::from_secs(1) / a_second;
        let (mut due, end) = (began, began + time);
        self.heard = began;
        let mut latencies = Latencies::new();
        while due < end {
            while due <= Instant::now() && due < end && self.offer(due)? {
                due += period;
            }
            self.poll(Some(&mut latencies))?;
        }
        while !self.asked.is_empty() {
            self.poll(Some(&mut latencies))?;
        }
        let rate = latencies.count() as f64 / began.elapsed().as_secs_f64();
        Ok(Echoed { latencies, rate })
    }

    /// Until the answer to a message that was sent to another leader than at the call.
    ///
    /// # Errors
    /// In words.
    pub fn until_another_leader(&mut self) -> Result<Instant, String> {
        let before = self.leaders;
        self.heard = Instant::now();
        loop {
            let was_another = self.leaders > before;
            let answered = self.poll(None)?;
            // A new leader clears what was asked before, so this answers what it was asked itself.
            if was_another && answered > 0 {
                return Ok(Instant::now());
            }
            self.fill(1)?;
        }
    }

    fn fill(&mut self, in_flight: usize) -> Result<(), String> {
        if self.asked.len() >= in_flight {
            return Ok(());
        }
        let now = Instant::now();
        while self.asked.len() < in_flight && self.offer(now)? {}
        Ok(())
    }

    /// False if the cluster takes nothing at the moment.
    fn offer(&mut self, due: Instant) -> Result<bool, String> {
        let len = self.text.len().min(8);
        self.text[..len].copy_from_slice(&self.next.to_le_bytes()[..len]);
        match self.client.offer(&self.text) {
            Ok(_) => {
                self.asked.push_back((self.next, due));
                self.next += 1;
                Ok(true)
            }
            Err(OfferError::BackPressured | OfferError::NotConnected) => Ok(false),
            Err(error) => Err(format!("the cluster takes no message: {error:?}")),
        }
    }

    /// Waits for the answers to all that is on its way.
    ///
    /// # Errors
    /// In words.
    pub fn drain(&mut self) -> Result<(), String> {
        while !self.asked.is_empty() {
            self.poll(None)?;
        }
        Ok(())
    }

    /// How many answers have come.
    fn poll(&mut self, mut latencies: Option<&mut Latencies>) -> Result<usize, String> {
        let timeout = match self.wait {
            // A due message must not wait: 20,000 a second are due every 50 us.
            Wait::Yield => Duration::ZERO,
            Wait::Block => Duration::from_millis(20),
        };
        let (asked, leaders, text) = (&mut self.asked, &mut self.leaders, &self.text);
        let (mut now, mut count, mut wrong) = (None, 0, false);
        let polled = self.client.poll(timeout, |egress| match egress {
            Egress::Message { payload, .. } => {
                let Some((number, due)) = asked.pop_front() else {
                    wrong = true;
                    return;
                };
                let len = payload.len().min(8);
                wrong |= payload.len() != text.len();
                wrong |= payload[..len] != number.to_le_bytes()[..len];
                wrong |= payload[len..] != text[len..];
                count += 1;
                let now = *now.get_or_insert_with(Instant::now);
                if let Some(latencies) = latencies.as_mut() {
                    latencies.add(now.saturating_duration_since(due));
                }
            }
            Egress::NewLeader { .. } => {
                // What the old leader has not answered, nobody answers.
                asked.clear();
                *leaders += 1;
            }
            _ => {}
        });
        polled.map_err(|error| error.to_string())?;
        if wrong {
            return Err("an answer is not the echo of what was asked".into());
        }
        match now {
            Some(now) => self.heard = now,
            None => {
                if !self.asked.is_empty() && self.heard.elapsed() > PATIENCE {
                    return Err(format!("no answer for {PATIENCE:?}"));
                }
                if self.wait == Wait::Yield {
                    std::thread::yield_now();
                }
            }
        }
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_of_what_was_added() {
        let mut latencies = Latencies::new();
        assert!(latencies.micros(500).is_nan());
        for micros in 1..=1000 {
            latencies.add(Duration::from_micros(micros));
        }
        assert_eq!(latencies.count(), 1000);
        for (of_1000, expected) in [(500, 500.0), (990, 990.0), (1000, 1000.0)] {
            let found = latencies.micros(of_1000);
            assert!((found - expected).abs() <= expected / 500.0, "{found}");
        }
    }

    #[test]
    fn a_way_to_wait_is_found_by_its_name() {
        for wait in [Wait::Yield, Wait::Block] {
            assert_eq!(Wait::named(wait.name()), Some(wait));
        }
        assert_eq!(Wait::named("spin"), None);
    }
}
