//! How long committed traffic stands still while a large state is snapshotted.

use std::collections::VecDeque;
use std::io;
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use coracle_core::service::kv::codec::{Reply, Request, decode_reply, encode_request};
use coracle_std::client::{Client, ClientOptions, Egress, OfferError};
use coracle_tests::process::{Cluster, Plan, coracle};
use serde_json::{Value, json};

const HELP: &str = "\
Fills the key-value service of a cluster of real node processes on this machine, keeps a steady load
of small requests, half of them puts, half gets, that are due at fixed times whatever the answers do
(an open loop), and measures what a client sees: without a snapshot, while one is written in steps
(the default), and while one blocks the service (`kv_barrier = 0`).

usage: gap [--mib N] [--members N] [--rate N] [--seconds N] [--stepwise] [--json]

  --mib N      key-value state in MiB (default 1024)
  --members N  node processes (default 3)
  --rate N     requests a second (default 2000)
  --seconds N  how long without a snapshot (default 10)
  --stepwise   only a snapshot in steps

The gap is the time from one answer, or from when the next request was due, to the next answer:
all answers are to committed messages. The latency of a request counts from when it was due. A
session that is lost is opened anew, which the gap includes.";

/// The length of a value that fills the state.
const VALUE: usize = 4096;
/// Requests that fill the state and are not answered yet, at most.
const FILLING: usize = 256;
/// One key in so many is asked for by the load.
const HOT: u64 = 16;
/// No part may be silent for longer.
const PATIENCE: Duration = Duration::from_secs(60);
/// The load goes on for so long after a snapshot is stored.
const AFTER: Duration = Duration::from_millis(500);

struct Options {
    mib: u64,
    members: u8,
    rate: u64,
    seconds: u64,
    is_stepwise_only: bool,
    is_json: bool,
}

/// How snapshots are taken: a name, and the setting.
const WAYS: [(&str, &str); 2] = [("in steps", "64MiB"), ("blocking", "0")];

fn main() -> ExitCode {
    let options = match parse(std::env::args().skip(1)) {
        Ok(options) => options,
        Err(text) => {
            println!("{text}");
            return ExitCode::from(2);
        }
    };
    if !options.is_json {
        print_heading(&options);
    }
    let mut found = Vec::new();
    let ways = if options.is_stepwise_only { 1 } else { 2 };
    for (name, barrier) in &WAYS[..ways] {
        // No panic here: the nodes end with their cluster's value.
        match measure(&options, barrier) {
            Ok(measured) if options.is_json => found.push(measured.to_json(name)),
            Ok(measured) => measured.print(name),
            Err(text) => {
                println!("snapshot {name}: {text}");
                return ExitCode::FAILURE;
            }
        }
    }
    if options.is_json {
        let (mib, members, rate) = (options.mib, options.members, options.rate);
        let ways = Value::from(found);
        println!(
            "{}",
            json!({ "state_mib": mib, "members": members, "rate": rate, "snapshots": ways })
        );
    }
    ExitCode::SUCCESS
}

fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Options, String> {
    let mut options = Options {
        mib: 1024,
        members: 3,
        rate: 2000,
        seconds: 10,
        is_stepwise_only: false,
        is_json: false,
    };
    while let Some(flag) = arguments.next() {
        let mut number = |least: u64, most: u64| {
            let value = arguments.next().and_then(|text| text.parse().ok());
            let value = value.filter(|n| (least..=most).contains(n));
            value.ok_or_else(|| format!("{flag} needs a number, {least} to {most}\n\n{HELP}"))
        };
        match flag.as_str() {
            "--mib" => options.mib = number(1, 2900)?,
            "--members" => options.members = number(1, 7)? as u8,
            "--rate" => options.rate = number(1, 1_000_000)?,
            "--seconds" => options.seconds = number(1, 3600)?,
            "--stepwise" => options.is_stepwise_only = true,
            "--json" => options.is_json = true,
            _ => return Err(HELP.to_owned()),
        }
    }
    Ok(options)
}

/// What a client saw of one stretch of time.
#[derive(Default)]
struct Seen {
    gap: Duration,
    /// Sessions.
    lost: u32,
    /// Of each request, ascending.
    latencies: Vec<Duration>,
}

/// One cluster: without a snapshot, and while one is taken.
struct Measured {
    quiet: Seen,
    during: Seen,
    /// Until the slowest member has stored it.
    took: Duration,
    /// Of one member's snapshot.
    bytes: u64,
}

fn measure(options: &Options, barrier: &str) -> Result<Measured, String> {
    let mib = options.mib;
    let mut plan = Plan::new();
    plan.members = options.members;
    // The log holds all of it, so that no snapshot is taken but the one that is asked for.
    plan.extra = format!(
        "service = \"kv\"\nadmin = \"allow\"\nkv_memory = \"{}MiB\"\nkv_barrier = \"{barrier}\"\n\
         log_max = \"{}MiB\"\nsnapshot_every = \"{}MiB\"\n",
        mib * 4 / 3 + 64,
        (mib * 16).max(2048),
        (mib * 4).max(512)
    );
    let cluster = Cluster::start("gap", plan);
    let mut load = Load::open(&cluster, options)?;
    let entries = (mib << 20) / (VALUE as u64 + 26 + 9);
    load.fill(entries)?;
    eprintln!("kv_barrier = {barrier}: {mib} MiB of state in {entries} entries are there");
    load.rest(Duration::from_secs(3))?;
    let end = Instant::now() + Duration::from_secs(options.seconds);
    let quiet = load.run(|| Ok(Instant::now() < end))?;

    let mut snapshot = Some(take_snapshot(&cluster)?);
    let (mut took, mut end) = (Duration::ZERO, None);
    let during = load.run(|| {
        if let Some(child) = snapshot.take_if(|child| !matches!(child.try_wait(), Ok(None))) {
            took = outcome(child)?;
            end = Some(Instant::now() + AFTER);
        }
        Ok(end.is_none_or(|end| Instant::now() < end))
    })?;
    let bytes = snapshot_bytes(&cluster).map_err(|error| format!("the snapshot: {error}"))?;
    Ok(Measured {
        quiet,
        during,
        took,
        bytes,
    })
}

fn take_snapshot(cluster: &Cluster) -> Result<Child, String> {
    let mut command = Command::new(coracle());
    command.args(["snapshot", "--json", "--timeout", "600", "--endpoints"]);
    command.arg(cluster.endpoints());
    let child = command.stdout(Stdio::piped()).spawn();
    child.map_err(|error| format!("`coracle snapshot` does not start: {error}"))
}

/// How long the slowest member took.
fn outcome(child: Child) -> Result<Duration, String> {
    let output = child.wait_with_output().map_err(|e| e.to_string())?;
    let text = String::from_utf8_lossy(&output.stdout);
    let said: Value = serde_json::from_str(&text).unwrap_or_default();
    let members = said["members"]
        .as_array()
        .filter(|_| output.status.success());
    let after = members.and_then(|all| {
        all.iter()
            .filter_map(|m| m["stored_after_ms"].as_u64())
            .max()
    });
    after
        .map(Duration::from_millis)
        .ok_or_else(|| format!("it is not stored: {text}"))
}

fn snapshot_bytes(cluster: &Cluster) -> io::Result<u64> {
    let mut newest = None;
    for set in std::fs::read_dir(cluster.data(0).join("snapshot"))? {
        // What has an extension is no set yet, or none any more.
        let set = Some(set?.path()).filter(|set| set.extension().is_none());
        newest = newest.max(set);
    }
    let mut bytes = 0;
    for file in std::fs::read_dir(newest.unwrap_or_default())? {
        bytes += file?.metadata()?.len();
    }
    Ok(bytes)
}

/// One session, and what it has asked.
struct Load {
    options: ClientOptions,
    client: Client,
    period: Duration,
    entries: u64,
    correlation: u64,
    /// Requests without an answer: their correlation, and when they were due.
    asked: VecDeque<(u64, Instant)>,
    heard: Instant,
    seen: Seen,
}

impl Load {
    fn open(cluster: &Cluster, of: &Options) -> Result<Self, String> {
        let options = ClientOptions::new(&cluster.endpoints());
        let client = Client::connect_with(&options).map_err(|e| e.to_string())?;
        Ok(Self {
            options,
            client,
            period: Duration::from_secs(1) / of.rate as u32,
            entries: 0,
            correlation: 0,
            asked: VecDeque::new(),
            heard: Instant::now(),
            seen: Seen::default(),
        })
    }

    /// Puts all entries.
    fn fill(&mut self, entries: u64) -> Result<(), String> {
        self.entries = entries;
        let mut next = 0;
        while next < entries || !self.asked.is_empty() {
            while next < entries && self.asked.len() < FILLING {
                // No two values alike.
                let mut value = [next as u8; VALUE];
                value[..8].copy_from_slice(&next.to_le_bytes());
                if !self.put(next, &value, Instant::now())? {
                    break;
                }
                next += 1;
            }
            self.poll(Duration::from_millis(5))?;
        }
        Ok(())
    }

    /// Keeps the session alive.
    fn rest(&mut self, time: Duration) -> Result<(), String> {
        let end = Instant::now() + time;
        while Instant::now() < end {
            self.poll(Duration::from_millis(100))?;
        }
        Ok(())
    }

    /// Asks at the due times while `goes_on`, and then waits for the answers.
    fn run(&mut self, mut goes_on: impl FnMut() -> Result<bool, String>) -> Result<Seen, String> {
        self.seen = Seen::default();
        let mut due = Instant::now();
        self.heard = due;
        let mut goes = true;
        while goes || !self.asked.is_empty() {
            while goes && due <= Instant::now() {
                // In no order, and few enough that the small values leave the state large.
                let hot = self.entries.div_ceil(HOT);
                let key = self.correlation.wrapping_mul(0x9E37_79B9_7F4A_7C15) % hot * HOT;
                let is_taken = match self.correlation % 2 {
                    0 => self.put(key, &self.correlation.to_le_bytes(), due)?,
                    _ => self.ask(&Request::Get { key: &name(key) }, due)?,
                };
                if !is_taken {
                    break;
                }
                due += self.period;
            }
            let wait = due.saturating_duration_since(Instant::now());
            self.poll(wait.min(Duration::from_millis(5)))?;
            goes = goes && goes_on()?;
        }
        self.seen.latencies.sort_unstable();
        Ok(std::mem::take(&mut self.seen))
    }

    fn put(&mut self, key: u64, value: &[u8], due: Instant) -> Result<bool, String> {
        let key = &name(key);
        self.ask(&Request::Put { key, value }, due)
    }

    /// False if the cluster takes nothing at the moment.
    fn ask(&mut self, request: &Request<'_>, due: Instant) -> Result<bool, String> {
        let message = encode_request(self.correlation, request).parts().concat();
        match self.client.offer(&message) {
            Ok(_) => {
                self.asked.push_back((self.correlation, due));
                self.correlation += 1;
                Ok(true)
            }
            // A closed session is opened anew by `poll`.
            Err(OfferError::TooLong) => Err("the cluster's messages are too short".into()),
            Err(_) => Ok(false),
        }
    }

    fn poll(&mut self, wait: Duration) -> Result<(), String> {
        let (asked, heard, seen) = (&mut self.asked, &mut self.heard, &mut self.seen);
        let mut refused = None;
        let polled = self.client.poll(wait, |egress| {
            let Egress::Message { payload, .. } = egress else {
                return;
            };
            let correlation = match decode_reply(payload) {
                Ok((number, Reply::Done { .. } | Reply::Value { .. })) => number,
                other => {
                    refused = Some(format!("an unexpected answer: {other:?}"));
                    return;
                }
            };
            // What a lost leader has not answered, nobody answers.
            while let Some((number, due)) = asked.pop_front() {
                if number == correlation {
                    seen.add(Instant::now(), *heard, due);
                    *heard = Instant::now();
                    break;
                }
            }
        });
        if let Some(text) = refused {
            return Err(text);
        }
        if let Err(error) = polled {
            eprintln!("{error}; opening another session");
            self.seen.lost += 1;
            self.asked.clear();
            self.client = Client::connect_with(&self.options).map_err(|e| e.to_string())?;
        }
        let silence = self.heard.elapsed();
        match self.asked.is_empty() || silence < PATIENCE {
            true => Ok(()),
            false => Err(format!("no answer for {silence:?}")),
        }
    }
}

/// A key by its number.
fn name(number: u64) -> [u8; 9] {
    let mut name = *b"k00000000";
    let mut left = number;
    for place in name[1..].iter_mut().rev() {
        *place = b'0' + (left % 10) as u8;
        left /= 10;
    }
    name
}

impl Seen {
    fn add(&mut self, now: Instant, heard: Instant, due: Instant) {
        self.gap = self.gap.max(now.saturating_duration_since(heard.max(due)));
        self.latencies.push(now.saturating_duration_since(due));
    }

    /// The latency that so many of a thousand requests do not exceed.
    fn latency(&self, of_1000: usize) -> Duration {
        let at = (self.latencies.len() * of_1000 / 1000).min(self.latencies.len().max(1) - 1);
        self.latencies.get(at).copied().unwrap_or_default()
    }

    fn columns(&self) -> [Duration; 5] {
        let [p50, p99, p999, worst] = [500, 990, 999, 1000].map(|of| self.latency(of));
        [self.gap, p50, p99, p999, worst]
    }

    fn print(&self, name: &str) {
        print!("{name:<28}");
        for time in self.columns() {
            print!("{:>10.2}", millis(time));
        }
        let lost = match self.lost {
            0 => String::new(),
            lost => format!("   {lost} sessions lost"),
        };
        println!("{:>10}{lost}", self.latencies.len());
    }

    fn to_json(&self) -> Value {
        let [gap, p50, p99, p999, worst] = self.columns().map(millis);
        json!({ "requests": self.latencies.len(), "sessions_lost": self.lost,
                "worst_gap_ms": gap, "latency_p50_ms": p50,
                "latency_p99_ms": p99, "latency_p999_ms": p999, "latency_worst_ms": worst })
    }
}

fn millis(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e5).round() / 100.0
}

fn print_heading(options: &Options) {
    println!(
        "{} MiB of key-value state on {} nodes; {} requests a second\n",
        options.mib, options.members, options.rate
    );
    println!(
        "{:<28}{:>10}{:>10}{:>10}{:>10}{:>10}{:>10}",
        "milliseconds", "worst gap", "p50", "p99", "p99.9", "worst", "requests"
    );
}

impl Measured {
    fn print(&self, name: &str) {
        self.quiet.print("no snapshot");
        self.during.print(&format!("snapshot {name}"));
        let (size, took) = (self.bytes >> 20, self.took.as_secs_f64());
        println!("    {size} MiB on each disk, stored everywhere after {took:.2} s");
    }

    fn to_json(&self, name: &str) -> Value {
        json!({ "way": name, "quiet": self.quiet.to_json(), "during": self.during.to_json(),
                "snapshot_ms": self.took.as_millis() as u64, "snapshot_bytes": self.bytes })
    }
}
