//! One client, one thread, that keeps so many requests on their way, and what came of it.

use std::collections::VecDeque;
use std::io;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use serde_json::{Value, json};

use crate::cluster::{Processes, Said, run_time};
use crate::wire::{Wait, Wire};

/// What is to be done.
#[derive(Clone, Debug)]
pub struct Work {
    /// Of a message, in bytes.
    pub len: usize,
    /// Without an answer.
    pub in_flight: usize,
    /// Measured for so long.
    pub time: Duration,
    /// After so long.
    pub warm_up: Duration,
    /// What client and, where they can, servers do without work.
    pub wait: Wait,
    /// Whether every member flushes before it acknowledges.
    pub is_durable: bool,
}

/// What came of it.
pub struct Found {
    /// Of answers that came in the time.
    latencies: Histogram<u64>,
    seconds: f64,
    /// Answers that came after the time, to what was asked in it.
    late: u64,
    members: f64,
    client: f64,
}

impl Default for Found {
    fn default() -> Self {
        Self::new()
    }
}

impl Found {
    /// Nothing yet.
    pub fn new() -> Self {
        // From a nanosecond to a minute, to a thousandth: as the bench does.
        let latencies = Histogram::new_with_bounds(1, 60_000_000_000, 3);
        Self {
            latencies: latencies.expect("bounds that are some"),
            seconds: 0.0,
            late: 0,
            members: 0.0,
            client: 0.0,
        }
    }

    /// An answer after so long.
    pub fn add(&mut self, time: Duration) {
        self.latencies.saturating_record(time.as_nanos() as u64);
    }

    /// An answer that came after the time.
    pub fn add_late(&mut self) {
        self.late += 1;
    }

    /// How long answers were counted.
    pub fn lasted(&mut self, time: Duration) {
        self.seconds = time.as_secs_f64();
    }

    /// What all answers took of the machine, also the late ones.
    pub fn between(&mut self, before: &Taken, after: &Taken) {
        self.members = after.members - before.members;
        self.client = after.client - before.client;
    }

    /// The line that the bench reads.
    pub fn json(&self) -> Value {
        let count = self.latencies.len() as f64;
        let all = count + self.late as f64;
        let micros = |quantile| self.latencies.value_at_quantile(quantile) as f64 / 1000.0;
        json!({
            "count": self.latencies.len(),
            "rate": count / self.seconds,
            "p50_us": micros(0.5),
            "p99_us": micros(0.99),
            "members_us": self.members * 1e6 / all,
            "client_us": self.client * 1e6 / all,
        })
    }
}

/// A look at the processor time of all processes.
pub struct Taken {
    members: f64,
    client: f64,
}

impl Taken {
    /// So far.
    pub fn so_far(members: &mut Processes) -> Result<Self, String> {
        members.check()?;
        Ok(Self {
            members: members.run_time()?,
            client: run_time(std::process::id())?,
        })
    }
}

/// No part may be silent for longer.
const PATIENCE: Duration = Duration::from_secs(20);

/// A client of one of our servers.
pub struct Client {
    wire: Wire,
    wait: Wait,
    text: Vec<u8>,
    next: u64,
    asked: VecDeque<(u64, Instant)>,
    heard: Instant,
}

impl Client {
    /// Connects to the member that leads.
    pub fn connect(ports: &[u16], work: &Work) -> Result<Self, String> {
        let began = Instant::now();
        loop {
            for port in ports {
                if let Some(wire) = leader(*port).map_err(|e| format!("port {port}: {e}"))? {
                    return Ok(Self {
                        wire,
                        wait: work.wait,
                        text: (0..work.len).map(|n| n as u8).collect(),
                        next: 0,
                        asked: VecDeque::new(),
                        heard: Instant::now(),
                    });
                }
            }
            if began.elapsed() > PATIENCE {
                return Err("no member leads".into());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// With `in_flight` on their way, for some time; then waits for all answers.
    pub fn flood(&mut self, work: &Work, time: Duration, found: &mut Found) -> io::Result<()> {
        let began = Instant::now();
        self.heard = began;
        while began.elapsed() < time {
            if self.asked.len() < work.in_flight {
                let now = Instant::now();
                while self.asked.len() < work.in_flight {
                    self.ask(now);
                }
            }
            self.turn(Some(found))?;
        }
        found.lasted(began.elapsed());
        while !self.asked.is_empty() {
            let before = self.asked.len();
            self.turn(None)?;
            (self.asked.len()..before).for_each(|_| found.add_late());
        }
        Ok(())
    }

    fn ask(&mut self, now: Instant) {
        let len = self.text.len().min(8);
        self.text[..len].copy_from_slice(&self.next.to_le_bytes()[..len]);
        self.wire.put(&[Said::REQUEST, &self.text]);
        self.asked.push_back((self.next, now));
        self.next += 1;
    }

    fn turn(&mut self, mut found: Option<&mut Found>) -> io::Result<()> {
        self.wire.flush()?;
        let mut now = None;
        self.wire.receive()?;
        while let Some(frame) = self.wire.take()? {
            let (number, due) = self.asked.pop_front().ok_or_else(wrong)?;
            let len = self.text.len().min(8);
            let is_echo = frame.len() == self.text.len()
                && frame[..len] == number.to_le_bytes()[..len]
                && frame[len..] == self.text[len..];
            if !is_echo {
                return Err(wrong());
            }
            let now = *now.get_or_insert_with(Instant::now);
            if let Some(found) = found.as_deref_mut() {
                found.add(now.saturating_duration_since(due));
            }
        }
        match now {
            Some(now) => self.heard = now,
            None if self.heard.elapsed() > PATIENCE => {
                return Err(io::Error::other(format!("no answer for {PATIENCE:?}")));
            }
            None => self.wait.idle([&self.wire].into_iter(), PATIENCE)?,
        }
        Ok(())
    }
}

fn wrong() -> io::Error {
    io::Error::other("an answer is not the echo of what was asked")
}

/// A connection to the member at `port`, if it leads.
fn leader(port: u16) -> io::Result<Option<Wire>> {
    let mut wire = Wire::connect(port)?;
    wire.put(&[Said::CLIENT]);
    let began = Instant::now();
    loop {
        wire.flush()?;
        wire.receive()?;
        match wire.take()? {
            Some([0]) => return Ok(None),
            Some([1]) => return Ok(Some(wire)),
            Some(_) => return Err(wrong()),
            None if began.elapsed() > PATIENCE => return Err(io::ErrorKind::TimedOut.into()),
            None => std::thread::sleep(Duration::from_millis(1)),
        }
    }
}

/// The whole of it, against three members of ours.
pub fn run(system: &str, work: &Work, dir: &std::path::Path) -> Result<Value, String> {
    let members = Processes::members(system, work.wait, work.is_durable, dir);
    let (mut members, ports) = members.map_err(|error| format!("members: {error}"))?;
    let mut client = Client::connect(&ports, work)?;
    let mut found = Found::new();
    let mut flood = |time, found: &mut Found| {
        let flooded = client.flood(work, time, found);
        flooded.map_err(|error| format!("the client: {error}"))
    };
    flood(work.warm_up, &mut Found::new())?;
    let before = Taken::so_far(&mut members)?;
    flood(work.time, &mut found)?;
    let after = Taken::so_far(&mut members)?;
    found.between(&before, &after);
    Ok(found.json())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_what_the_bench_reads() {
        let mut found = Found::new();
        for micros in 1..=1000 {
            found.add(Duration::from_micros(micros));
        }
        found.add(Duration::from_micros(1000));
        (0..999).for_each(|_| found.add_late());
        found.lasted(Duration::from_secs(2));
        let taken = |members, client| Taken { members, client };
        found.between(&taken(1.0, 1.0), &taken(1.4, 1.2));
        let line = found.json();
        assert_eq!(line["count"], 1001);
        for (key, expected) in [
            ("rate", 500.5),
            ("p50_us", 501.0),
            ("p99_us", 991.0),
            ("members_us", 200.0),
            ("client_us", 100.0),
        ] {
            let found = line[key].as_f64().unwrap();
            assert!((found - expected).abs() < expected / 500.0, "{key} {found}");
        }
    }
}
