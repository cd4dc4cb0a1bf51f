//! What the demo prints at its end.

use std::time::Duration;

use serde_json::{Value, json};

use super::checker::Found;
use super::recovery::Recovery;
use crate::cli::role_name;
use crate::counters::{Counter, Reading};
use coracle_core::service::Role;

/// Why not every acknowledged message may be found in the directories.
const UNCHECKED: &str = "a log longer than its bound is deleted where snapshots cover it, so no \
    directory can say whether they were there once and in one order; what they left is in the \
    states, whose digests are compared";

/// One kill of a leader.
#[derive(Clone, Copy, Debug)]
pub struct Kill {
    /// Who was killed.
    pub member: u8,
    /// Who led then.
    pub successor: u8,
    /// Messages in flight when the leader was killed.
    pub in_flight: usize,
    /// Messages offered to it after that, before the client knew.
    pub offered_later: u64,
    /// Messages whose outcome is unknown because of it.
    pub unknown: u64,
    /// From the kill to the first answer of the new leader.
    pub failover: Duration,
    /// From the restart of the killed node until it was level with the leader.
    pub catch_up: Duration,
}

/// All of it.
#[derive(Clone, Debug)]
pub struct Report {
    pub service: &'static str,
    pub acknowledged: u64,
    pub unknown: Vec<String>,
    pub unknown_executed: Vec<String>,
    pub bytes: u64,
    /// Time under load, without the failovers.
    pub loaded: Duration,
    /// Round trips in microseconds: p50, p99, p99.9, largest.
    pub round_trips: [u64; 4],
    pub window_messages: usize,
    pub window_bytes: usize,
    pub most_in_flight: usize,
    pub leader_timeout: Duration,
    pub kills: Vec<Kill>,
    /// How often the session has heard of a new leader.
    pub leader_changes: u64,
    /// Just before the nodes were stopped.
    pub last: Vec<Reading>,
    pub found: Vec<Found>,
    pub faults: Vec<String>,
    /// With `--snapshot`.
    pub recovery: Option<Recovery>,
}

impl Report {
    fn per_second(&self) -> (f64, f64) {
        let seconds = self.loaded.as_secs_f64().max(1e-9);
        let megabytes = self.bytes as f64 / 1e6;
        (self.acknowledged as f64 / seconds, megabytes / seconds)
    }

    /// For people.
    pub fn print(&self) {
        let (messages, megabytes) = self.per_second();
        println!("\nservice        {}", self.service);
        println!(
            "acknowledged   {} messages, {:.1} MB, each durable on two of three members",
            self.acknowledged,
            self.bytes as f64 / 1e6
        );
        println!(
            "throughput     {messages:.0} messages/s, {megabytes:.1} MB/s (failovers left out)"
        );
        let [p50, p99, p999, max] = self.round_trips.map(|us| us as f64 / 1e3);
        println!(
            "round trip     p50 {p50:.2} ms, p99 {p99:.2} ms, p99.9 {p999:.2} ms, max {max:.2} ms"
        );
        println!(
            "window         {} messages or {} KiB in flight; at most {} were",
            self.window_messages,
            self.window_bytes >> 10,
            self.most_in_flight
        );
        for kill in &self.kills {
            println!(
                "failover       {:.0} ms: leader {} killed with {} messages in flight, {} more \
                 offered before the client knew, {} of unknown outcome; {} took over (leader \
                 timeout {} ms); level again {:.0} ms after its restart",
                kill.failover.as_secs_f64() * 1e3,
                kill.member,
                kill.in_flight,
                kill.offered_later,
                kill.unknown,
                kill.successor,
                self.leader_timeout.as_millis(),
                kill.catch_up.as_secs_f64() * 1e3
            );
        }
        self.print_failovers();
        if let Some(recovery) = &self.recovery {
            recovery.print();
        }
        println!(
            "unknown        {} messages, of which {} were executed{}",
            self.unknown.len(),
            self.unknown_executed.len(),
            list(&self.unknown)
        );
        println!(
            "\nmember  role        term    appended     durable   committed     applied  digest"
        );
        for (member, r) in self.last.iter().enumerate() {
            println!(
                "{member:>6}  {:<9} {:>6} {:>11} {:>11} {:>11} {:>11}  {:016x}",
                role(r),
                r.get(Counter::Term),
                r.get(Counter::Appended),
                r.get(Counter::Durable),
                r.get(Counter::Committed),
                r.get(Counter::Applied),
                r.get(Counter::Digest)
            );
        }
        self.print_verdict();
    }

    fn print_failovers(&self) {
        let times = self.kills.iter().map(|kill| kill.failover);
        let Some(longest) = times.clone().max() else {
            return;
        };
        let most = self.leader_timeout * 3;
        println!(
            "failovers      {} of {} within three leader timeouts ({} ms); longest {} ms",
            times.filter(|time| *time <= most).count(),
            self.kills.len(),
            most.as_millis(),
            longest.as_millis()
        );
    }

    fn print_verdict(&self) {
        println!();
        for (member, found) in self.found.iter().enumerate() {
            println!(
                "checked        directory of member {member}: {} messages from position {} to {}, \
                 order {:08x}, digest {:016x}",
                found.checked, found.start, found.applied, found.order, found.digest
            );
        }
        let unchecked = self.unchecked();
        if unchecked > 0 {
            println!("not checked    {unchecked} acknowledged messages, the oldest: {UNCHECKED}");
        }
        if self.faults.is_empty() {
            println!(
                "verdict        good: every acknowledged message{} is in every member's history \
                 exactly once, in one order; all digests are equal; every killed node is \
                 level again{}",
                match unchecked {
                    0 => "",
                    _ => " whose log is still there",
                },
                match self.recovery {
                    Some(_) =>
                        "; the lost directory was filled and counts; all started from \
                                snapshots",
                    None => "",
                }
            );
        } else {
            for fault in &self.faults {
                println!("verdict        BAD: {fault}");
            }
        }
    }

    /// How many acknowledged messages some directory does not hold any more.
    fn unchecked(&self) -> u64 {
        let held = |found: &Found| found.checked - found.executed_unknown.len() as u64;
        let least = self.found.iter().map(held).min().unwrap_or(0);
        self.acknowledged.saturating_sub(least)
    }

    /// For programs.
    pub fn json(&self) -> Value {
        let (messages, megabytes) = self.per_second();
        let [p50, p99, p999, max] = self.round_trips;
        json!({
            "good": self.faults.is_empty(),
            "faults": self.faults,
            "service": self.service,
            "acknowledged": self.acknowledged,
            "unknown": self.unknown,
            "unknown_executed": self.unknown_executed,
            "bytes": self.bytes,
            "messages_per_second": messages.round(),
            "megabytes_per_second": (megabytes * 10.0).round() / 10.0,
            "round_trip_us": { "p50": p50, "p99": p99, "p99.9": p999, "max": max },
            "window": {
                "messages": self.window_messages,
                "bytes": self.window_bytes,
                "most_in_flight": self.most_in_flight,
            },
            "leader_timeout_ms": self.leader_timeout.as_millis() as u64,
            "recovery": self.recovery.as_ref().map(Recovery::json),
            "not_checked": { "messages": self.unchecked(), "because": UNCHECKED },
            "leader_changes": self.leader_changes,
            "kills": self.kills.iter().map(kill_json).collect::<Vec<_>>(),
            "members": self.last.iter().zip(&self.found).enumerate()
                .map(|(member, (r, f))| member_json(member, r, f)).collect::<Vec<_>>(),
        })
    }
}

fn kill_json(kill: &Kill) -> Value {
    json!({
        "member": kill.member,
        "successor": kill.successor,
        "in_flight": kill.in_flight,
        "offered_later": kill.offered_later,
        "unknown": kill.unknown,
        "failover_ms": kill.failover.as_millis() as u64,
        "catch_up_ms": kill.catch_up.as_millis() as u64,
    })
}

fn member_json(member: usize, r: &Reading, found: &Found) -> Value {
    json!({
        "member": member,
        "role": role(r),
        "term": r.get(Counter::Term),
        "appended": r.get(Counter::Appended),
        "durable": r.get(Counter::Durable),
        "committed": r.get(Counter::Committed),
        "applied": r.get(Counter::Applied),
        "digest": format!("{:016x}", r.get(Counter::Digest)),
        "checked": {
            "applied": found.applied,
            "log_start": found.start,
            "messages": found.checked,
            "order": format!("{:08x}", found.order),
            "digest": format!("{:016x}", found.digest),
        },
    })
}

fn role(reading: &Reading) -> &'static str {
    let role = Role::from_wire(reading.get(Counter::Role) as i32);
    role.map_or("?", role_name)
}

/// All of them if they are lines of a file; else nobody knows them by number.
fn list(names: &[String]) -> String {
    match names.first() {
        Some(first) if first.starts_with("line") => format!(": {}", names.join(", ")),
        Some(_) | None => String::new(),
    }
}
