//! The demo's client: a stream of messages, each offered once, and what became of each.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use super::ledger::{Ledger, Outcome};
use super::source::Source;
use crate::cli::Failure;
use crate::client::{Client, ClientError, ClientOptions, Egress, OfferError, State};

/// Messages in flight at most.
pub const WINDOW_MESSAGES: usize = 256;
/// Bytes in flight at most, unless a single message is longer: a quarter of what the cluster keeps
/// for a session's answers, so that those can never overflow.
pub const WINDOW_BYTES: usize = 256 << 10;
/// How long the cluster may be silent.
const PATIENCE: Duration = Duration::from_secs(30);

/// A message that was offered and not answered.
struct Flight {
    number: u64,
    bytes: usize,
    offered: Instant,
}

/// See the module's text.
pub struct Load {
    client: Client,
    source: Source,
    ledger: Ledger,
    flights: VecDeque<Flight>,
    flying: usize,
    message: Vec<u8>,
    /// Round trips in microseconds.
    pub round_trips: Histogram<u64>,
    /// The slowest round trip since somebody has set this to zero.
    pub slowest: Duration,
    /// The most messages that were in flight at once.
    pub most_in_flight: usize,
    /// Bytes of messages that were acknowledged.
    pub bytes: u64,
    last_answer: Instant,
    new_leaders: u64,
    fault: Option<String>,
}

impl Load {
    /// Opens a session.
    ///
    /// # Errors
    /// No session can be had.
    pub fn start(endpoints: &str, source: Source) -> Result<Self, Failure> {
        let mut options = ClientOptions::new(endpoints);
        options.open_timeout = PATIENCE;
        let client = Client::connect_with(&options).map_err(failure)?;
        Ok(Self {
            client,
            source,
            ledger: Ledger::default(),
            flights: VecDeque::with_capacity(WINDOW_MESSAGES),
            flying: 0,
            message: Vec::new(),
            round_trips: Histogram::new_with_bounds(1, 60_000_000, 3)
                .map_err(|error| Failure::outcome(error.to_string()))?,
            slowest: Duration::ZERO,
            most_in_flight: 0,
            bytes: 0,
            last_answer: Instant::now(),
            new_leaders: 0,
            fault: None,
        })
    }

    /// What became of each message.
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// How many are in flight.
    pub fn in_flight(&self) -> usize {
        self.flights.len()
    }

    /// Who leads, while the session is open.
    pub fn leader(&self) -> Option<u8> {
        match self.client.state() {
            State::Open { leader, .. } => Some(leader.get()),
            _ => None,
        }
    }

    /// How many changes of leader the session has lived through.
    pub fn new_leaders(&self) -> u64 {
        self.new_leaders
    }

    /// One turn: offers what the window allows (nothing, if `drain`), takes what is answered.
    ///
    /// # Errors
    /// The session is over, an answer is wrong, or the cluster is silent for too long.
    pub fn turn(&mut self, drain: bool) -> Result<(), Failure> {
        while !drain && self.has_room() {
            let number = self.ledger.next();
            self.source.message(number, &mut self.message);
            match self.client.offer(&self.message) {
                Ok(_) => self.note_offer(number),
                Err(OfferError::TooLong) => {
                    return Err(Failure::outcome(format!(
                        "{} of {} bytes is refused as too long",
                        self.source.name(number),
                        self.message.len()
                    )));
                }
                // Not now. If it is closed, the poll that follows says why.
                Err(_) => break,
            }
        }
        self.take_answers(Duration::from_millis(10))?;
        if let Some(fault) = self.fault.take() {
            return Err(Failure::outcome(fault));
        }
        if self.flights.is_empty() && drain {
            self.last_answer = Instant::now();
        }
        if self.last_answer.elapsed() > PATIENCE {
            return Err(Failure::no_answer(format!(
                "no answer for {} s with {} messages in flight; the session is {:?}",
                PATIENCE.as_secs(),
                self.flights.len(),
                self.client.state()
            )));
        }
        Ok(())
    }

    /// Closes the session; gives the outcomes.
    ///
    /// # Errors
    /// The system refuses something.
    pub fn close(self) -> Result<Ledger, Failure> {
        self.client.close().map_err(failure)?;
        Ok(self.ledger)
    }

    fn has_room(&self) -> bool {
        let none = self.flights.is_empty();
        none || (self.flights.len() < WINDOW_MESSAGES && self.flying < WINDOW_BYTES)
    }

    fn note_offer(&mut self, number: u64) {
        self.ledger.offered();
        if self.flights.is_empty() {
            self.last_answer = Instant::now();
        }
        let bytes = self.message.len();
        let offered = Instant::now();
        self.flying += bytes;
        self.flights.push_back(Flight {
            number,
            bytes,
            offered,
        });
        self.most_in_flight = self.most_in_flight.max(self.flights.len());
    }

    fn take_answers(&mut self, wait: Duration) -> Result<(), Failure> {
        let Self {
            client,
            source,
            ledger,
            flights,
            flying,
            message,
            round_trips,
            slowest,
            bytes,
            last_answer,
            new_leaders,
            fault,
            ..
        } = self;
        let taken = client.poll(wait, |egress| match egress {
            Egress::Message { payload, .. } => {
                let Some(flight) = flights.pop_front() else {
                    *fault = Some("an answer came to a message that was not sent".into());
                    return;
                };
                *flying -= flight.bytes;
                *last_answer = Instant::now();
                source.message(flight.number, message);
                if !source.is_answer(flight.number, message, payload) {
                    *fault = Some(format!(
                        "the answer to {} is wrong ({} bytes for {})",
                        source.name(flight.number),
                        payload.len(),
                        flight.bytes
                    ));
                }
                *bytes += flight.bytes as u64;
                let round_trip = flight.offered.elapsed();
                round_trips.saturating_record(round_trip.as_micros() as u64);
                *slowest = round_trip.max(*slowest);
                ledger.settle(flight.number, Outcome::Acknowledged);
            }
            Egress::NewLeader { .. } => {
                *new_leaders += 1;
                *flying = 0;
                for flight in flights.drain(..) {
                    ledger.settle(flight.number, Outcome::Unknown);
                }
            }
            _ => {}
        });
        taken.map(drop).map_err(failure)
    }
}

fn failure(error: ClientError) -> Failure {
    Failure::no_answer(error.to_string())
}
