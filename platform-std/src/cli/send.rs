//! `coracle send`: lines in, answers out.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Write};
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, TryRecvError, sync_channel};
use std::time::{Duration, Instant};

use clap::Args;

use super::Failure;
use super::status::ClusterArgs;
use crate::client::{Client, ClientOptions, Egress, OfferError};

/// Send lines as messages, print the answers
#[derive(Debug, Args)]
#[command(after_long_help = "\
Each line of the input is one message; the answer to each is printed as one line, in the same order.
For services that answer every message once (echo does; for key-value use `coracle kv`).

No message is sent twice. If the leader is lost, the messages in flight are of unknown outcome: they
are named on standard error by their line, the rest goes on with the new leader, and the exit code
is 1.

  seq 1000 | coracle send --endpoints 0=127.0.0.1:9100,1=127.0.0.1:9101,2=127.0.0.1:9102
  coracle send --config node.toml --file orders.txt > answers.txt")]
pub struct SendArgs {
    #[command(flatten)]
    cluster: ClusterArgs,
    /// Read this file instead of standard input
    #[arg(long, short, value_name = "FILE")]
    file: Option<PathBuf>,
    /// How many messages may be on their way at once
    #[arg(long, value_name = "MESSAGES", default_value_t = 256)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=65536))]
    window: u32,
    /// How long to wait for the cluster, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 10)]
    timeout: u64,
}

/// Bytes in flight at most: a quarter of what the cluster keeps for a session's answers.
const WINDOW_BYTES: usize = 256 << 10;

/// While the oldest message is unanswered for so long, the leader may be lost: nothing more is
/// offered to it, because all of that would be of unknown outcome.
const HOLD_BACK: Duration = Duration::from_millis(150);

/// A message on its way: its line, its length, and when it was offered.
type Flight = (u64, usize, Instant);

struct Sender {
    client: Client,
    lines: Receiver<io::Result<Vec<u8>>>,
    is_at_end: bool,
    /// A line that was read and not taken yet.
    next: Option<Vec<u8>>,
    line: u64,
    window: usize,
    flights: VecDeque<Flight>,
    flying: usize,
    answered: u64,
    unknown: Vec<u64>,
    heard: Instant,
}

/// Runs the command.
///
/// # Errors
/// See the help.
pub fn run(args: &SendArgs) -> Result<(), Failure> {
    let endpoints = args.cluster.list()?;
    let timeout = Duration::from_secs(args.timeout);
    let lines = read_lines(args.file.clone())?;
    let mut options = ClientOptions::new(&endpoints);
    options.open_timeout = timeout;
    let client = Client::connect_with(&options).map_err(no_answer)?;
    let start = Instant::now();
    let mut sender = Sender {
        client,
        lines,
        is_at_end: false,
        next: None,
        line: 0,
        window: args.window as usize,
        flights: VecDeque::new(),
        flying: 0,
        answered: 0,
        unknown: Vec::new(),
        heard: start,
    };
    let mut out = BufWriter::new(io::stdout().lock());
    while !sender.is_done() {
        sender.offer_lines()?;
        sender.take_answers(&mut out)?;
        if sender.heard.elapsed() > timeout {
            sender.give_up();
            sender.summary(start);
            return Err(Failure::no_answer(format!(
                "no answer for {} s; see `coracle status`",
                args.timeout
            )));
        }
    }
    out.flush()?;
    sender.summary(start);
    let unknown = sender.unknown.len();
    sender.client.close().map_err(no_answer)?;
    if unknown > 0 {
        return Err(Failure::outcome(format!(
            "the outcome of {unknown} messages is unknown; nothing was sent twice"
        )));
    }
    Ok(())
}

impl Sender {
    fn is_done(&self) -> bool {
        self.is_at_end && self.next.is_none() && self.flights.is_empty()
    }

    fn has_room(&self) -> bool {
        let Some((_, _, oldest)) = self.flights.front() else {
            return true;
        };
        let is_small = self.flights.len() < self.window && self.flying < WINDOW_BYTES;
        is_small && oldest.elapsed() < HOLD_BACK
    }

    fn offer_lines(&mut self) -> Result<(), Failure> {
        while self.has_room() {
            if self.next.is_none() {
                match self.lines.try_recv() {
                    Ok(line) => self.next = Some(line?),
                    Err(TryRecvError::Empty) => break,
                    Err(TryRecvError::Disconnected) => {
                        self.is_at_end = true;
                        break;
                    }
                }
                self.line += 1;
            }
            let Some(line) = &self.next else {
                break;
            };
            match self.client.offer(line) {
                Ok(_) => {
                    if self.flights.is_empty() {
                        self.heard = Instant::now();
                    }
                    self.flights
                        .push_back((self.line, line.len(), Instant::now()));
                    self.flying += line.len();
                    self.next = None;
                }
                Err(OfferError::TooLong) => {
                    return Err(Failure::usage(format!(
                        "line {} is too long: {} bytes",
                        self.line,
                        line.len()
                    )));
                }
                // Not now. If it is closed, the poll that follows says why.
                Err(_) => break,
            }
        }
        if self.flights.is_empty() && self.next.is_none() {
            // Waiting for input, not for the cluster.
            self.heard = Instant::now();
        }
        Ok(())
    }

    fn take_answers(&mut self, out: &mut impl Write) -> Result<(), Failure> {
        let mut written = Ok(());
        let Self {
            client,
            flights,
            flying,
            answered,
            unknown,
            heard,
            ..
        } = self;
        let wait = Duration::from_millis(5);
        let taken = client.poll(wait, |egress| match egress {
            Egress::Message { payload, .. } => {
                if let Some((_, bytes, _)) = flights.pop_front() {
                    *flying -= bytes;
                    *answered += 1;
                }
                *heard = Instant::now();
                if written.is_ok() {
                    written = out.write_all(payload).and_then(|()| out.write_all(b"\n"));
                }
            }
            Egress::NewLeader { leader, .. } => {
                *heard = Instant::now();
                *flying = 0;
                if !flights.is_empty() {
                    eprintln!("coracle: the leader was lost, member {leader} leads now");
                }
                for (line, _, _) in flights.drain(..) {
                    eprintln!("coracle: line {line}: outcome unknown");
                    unknown.push(line);
                }
            }
            _ => {}
        });
        if let Err(error) = taken {
            self.give_up();
            return Err(no_answer(error));
        }
        written?;
        if taken.is_ok_and(|count| count > 0) && self.flights.is_empty() {
            // Somebody types: let them see the answers.
            out.flush()?;
        }
        Ok(())
    }

    fn give_up(&mut self) {
        for (line, _, _) in self.flights.drain(..) {
            eprintln!("coracle: line {line}: outcome unknown");
            self.unknown.push(line);
        }
    }

    fn summary(&self, start: Instant) {
        let seconds = start.elapsed().as_secs_f64();
        eprintln!(
            "coracle: {} answered, {} unknown, in {seconds:.2} s ({:.0} messages/s)",
            self.answered,
            self.unknown.len(),
            self.answered as f64 / seconds.max(1e-9)
        );
    }
}

/// Reads lines on a thread of their own, a bounded number ahead: input may be slow, and must not
/// keep the session from being served.
fn read_lines(file: Option<PathBuf>) -> Result<Receiver<io::Result<Vec<u8>>>, Failure> {
    let mut input: Box<dyn BufRead + Send> = match file {
        Some(path) => {
            let file = File::open(&path).map_err(|error| {
                Failure::usage(format!("cannot read {}: {error}", path.display()))
            })?;
            Box::new(BufReader::new(file))
        }
        None => Box::new(BufReader::new(io::stdin())),
    };
    let (sender, receiver) = sync_channel(1024);
    std::thread::Builder::new()
        .name("input".into())
        .spawn(move || {
            loop {
                let mut line = Vec::new();
                let read = match input.read_until(b'\n', &mut line) {
                    Ok(0) => return,
                    Ok(_) => {
                        if line.last() == Some(&b'\n') {
                            line.pop();
                        }
                        Ok(line)
                    }
                    Err(error) => Err(error),
                };
                let is_error = read.is_err();
                if sender.send(read).is_err() || is_error {
                    return;
                }
            }
        })?;
    Ok(receiver)
}

/// What a lost or refused session means for a command.
pub fn no_answer(error: crate::client::ClientError) -> Failure {
    Failure::no_answer(error.to_string())
}
