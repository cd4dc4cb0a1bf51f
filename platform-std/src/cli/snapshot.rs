//! `coracle snapshot`: makes every member take one, and waits until it is stored.

use std::io::{self, Write};
use std::time::{Duration, Instant};

use clap::Args;
use coracle_core::node::SnapshotRefusal;
use coracle_core::wire::status::StatusReport;
use serde_json::{Value, json};

use super::Failure;
use super::send::no_answer;
use super::status::{ClusterArgs, query};
use crate::client::{Client, ClientError, ClientOptions};
use crate::clock::deadline;

/// How long a member may take to say how it is.
const STATUS_PATIENCE: Duration = Duration::from_millis(500);
/// After how many looks in vain, one after the other, a member is not waited for any more: one that
/// stands still for a second, or whose answers are lost, is.
const LOOKS_IN_VAIN: u32 = 4;
/// How long to wait before looking again.
const PERIOD: Duration = Duration::from_millis(50);

/// Make every member of a cluster take a snapshot
#[derive(Debug, Args)]
#[command(after_long_help = "\
Asks the leader; every member then takes a snapshot at the same position of the log, while clients
go on. Waits until each has stored one at or above the position that was committed when asked:
a member that starts after that needs no older log. Before an upgrade, or before a member's machine
is taken away, this makes its return short.

The members' settings must say `admin = \"allow\"`: else the cluster refuses, and takes snapshots by
its own policy only (`snapshot_every`, `snapshot_interval`).

Exit code 0 if every member has stored it; 1 if one has not in time, does not answer, or the cluster
refuses; 5 if the cluster does not answer. Each is named.

  coracle snapshot --config node.toml
  coracle snapshot --endpoints 0=10.0.0.1:9100,1=10.0.0.2:9100,2=10.0.0.3:9100 --json
  coracle snapshots --dir data/0        what a member on this machine has stored")]
pub struct SnapshotArgs {
    #[command(flatten)]
    cluster: ClusterArgs,
    /// How long all of it may take, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    timeout: u64,
    /// One line of JSON
    #[arg(long)]
    json: bool,
}

/// What one member has come to.
struct Member {
    id: u8,
    /// How many looks have been in vain since it has answered.
    silent: u32,
    snapshot: Option<u64>,
    /// When its snapshot was seen, after it was asked for.
    stored: Option<Duration>,
    /// The position at which it has failed to take one, after it was asked for.
    failed: Option<u64>,
}

/// Runs the command.
///
/// # Errors
/// See the help.
pub fn run(args: &SnapshotArgs) -> Result<(), Failure> {
    let endpoints = args.cluster.endpoints()?;
    let deadline = deadline(Duration::from_secs(args.timeout));
    let before = query(&endpoints, STATUS_PATIENCE)?;
    let committed = before.iter().flatten().map(|r| r.commit.get()).max();
    let Some(committed) = committed else {
        return Err(Failure::no_answer(
            "no member answers: are they running, and is this the right address?",
        ));
    };
    ask(&args.cluster.list()?, deadline)?;
    let asked = Instant::now();
    let mut members: Vec<Member> = endpoints.iter().map(|(id, _)| Member::new(*id)).collect();
    loop {
        let reports = query(&endpoints, STATUS_PATIENCE)?;
        for (member, report) in members.iter_mut().zip(&reports) {
            member.look(report.as_ref(), committed, asked.elapsed());
        }
        if !members.iter().any(Member::waits) || Instant::now() >= deadline {
            break;
        }
        std::thread::sleep(PERIOD);
    }
    tell(&mut io::stdout().lock(), args.json, committed, &members)?;
    verdict(&members, args.timeout)
}

/// Asks until the cluster has begun: another snapshot may be under way, of an older position.
///
/// # Errors
/// No answer in time, or a refusal that does not pass.
pub fn ask(endpoints: &str, deadline: Instant) -> Result<(), Failure> {
    let left = || deadline.saturating_duration_since(Instant::now());
    let mut options = ClientOptions::new(endpoints);
    options.open_timeout = left();
    let mut client = Client::connect_with(&options).map_err(no_answer)?;
    loop {
        match client.request_snapshot(left(), |_| {}) {
            Ok(()) => break,
            Err(ClientError::Refused(text)) if passes(&text) && !left().is_zero() => {
                client.poll(PERIOD, |_| {}).map_err(no_answer)?;
            }
            Err(error @ (ClientError::Refused(_) | ClientError::Unauthorised(_))) => {
                client.close().map_err(no_answer)?;
                return Err(Failure::outcome(error.to_string()));
            }
            Err(error) => return Err(no_answer(error)),
        }
    }
    client.close().map_err(no_answer)
}

/// Whether a refusal is one that ends by itself.
fn passes(text: &str) -> bool {
    [SnapshotRefusal::InProgress, SnapshotRefusal::NotLeader]
        .map(SnapshotRefusal::text)
        .contains(&text)
}

impl Member {
    fn new(id: u8) -> Self {
        Self {
            id,
            silent: 0,
            snapshot: None,
            stored: None,
            failed: None,
        }
    }

    fn look(&mut self, report: Option<&StatusReport>, wanted: u64, after: Duration) {
        self.silent = match report {
            Some(_) => 0,
            None => self.silent + 1,
        };
        let snapshot = report.and_then(|r| r.snapshot).map(|at| at.get());
        self.snapshot = snapshot.or(self.snapshot);
        if self.snapshot.is_some_and(|at| at >= wanted) {
            self.stored = self.stored.or(Some(after));
        }
        let failed = report.and_then(|r| r.snapshot_failed).map(|at| at.get());
        self.failed = failed.filter(|at| *at >= wanted).or(self.failed);
    }

    fn waits(&self) -> bool {
        self.silent < LOOKS_IN_VAIN && self.stored.is_none() && self.failed.is_none()
    }

    fn text(&self) -> String {
        let at = |snapshot: Option<u64>| {
            snapshot.map_or("none".to_owned(), |at| format!("at position {at}"))
        };
        match (self.stored, self.silent == 0) {
            (None, true) if self.failed.is_some() => format!(
                "member {}  FAILED {}; its newest is {}",
                self.id,
                at(self.failed),
                at(self.snapshot)
            ),
            (Some(after), _) => format!(
                "member {}  stored {}, {:.2} s after it was asked for",
                self.id,
                at(self.snapshot),
                after.as_secs_f64()
            ),
            (None, true) => format!(
                "member {}  NOT stored; its newest is {}",
                self.id,
                at(self.snapshot)
            ),
            (None, false) => format!("member {}  does not answer", self.id),
        }
    }

    fn to_json(&self) -> Value {
        json!({
            "member": self.id,
            "answers": self.silent == 0,
            "stored": self.stored.is_some(),
            "failed_at": self.failed.filter(|_| self.stored.is_none()),
            "snapshot": self.snapshot,
            "stored_after_ms": self.stored.map(|after| after.as_millis() as u64),
        })
    }
}

fn tell(out: &mut impl Write, as_json: bool, committed: u64, members: &[Member]) -> io::Result<()> {
    if as_json {
        let members: Vec<Value> = members.iter().map(Member::to_json).collect();
        let all = json!({ "asked_at": committed, "members": members });
        return writeln!(out, "{all}");
    }
    writeln!(
        out,
        "a snapshot at or above position {committed} was asked for"
    )?;
    let mut members = members.iter();
    members.try_for_each(|member| writeln!(out, "{}", member.text()))
}

fn verdict(members: &[Member], seconds: u64) -> Result<(), Failure> {
    let names = |wrong: &dyn Fn(&&Member) -> bool| {
        let ids = members.iter().filter(wrong).map(|m| m.id.to_string());
        ids.collect::<Vec<_>>().join(", ")
    };
    let failed = names(&|m| m.stored.is_none() && m.failed.is_some());
    if !failed.is_empty() {
        return Err(Failure::outcome(format!(
            "not stored by member {failed}, which failed to: its log says why (a full disk?). The \
             cluster goes on"
        )));
    }
    let late = names(&|m| m.waits());
    if !late.is_empty() {
        return Err(Failure::outcome(format!(
            "not stored within {seconds} s by member {late}: its log says why (a full disk?), or \
             give it more time with --timeout. The cluster goes on"
        )));
    }
    let absent = names(&|m| m.stored.is_none());
    if !absent.is_empty() {
        return Err(Failure::outcome(format!(
            "no answer from member {absent}; every other member has stored the snapshot"
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{Duration, LOOKS_IN_VAIN, Member};

    #[test]
    fn a_member_is_waited_for_until_several_looks_were_in_vain() {
        let mut member = Member::new(1);
        for _ in 0..LOOKS_IN_VAIN {
            assert!(member.waits());
            member.look(None, 0, Duration::ZERO);
        }
        assert!(!member.waits());
    }
}
