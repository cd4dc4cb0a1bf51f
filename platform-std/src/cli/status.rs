//! `coracle status`: how every member is, by asking each, or by one member's counters file.

use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::Args;
use coracle_core::wire::frame::Datagram;
use coracle_core::wire::member::{Setting, SettingSet};
use coracle_core::wire::status::{Role, STATUS_LENGTH, StatusQuery, StatusReport};
use serde_json::{Value, json};

use super::Failure;
use crate::config::Settings;
use crate::counters::{Counter, CountersReader};
use crate::net::{ReceiveBatch, SendBatch, Socket, resolve, wait};

/// How long a look for answers takes. One that takes twice as long or longer counts as two: a
/// machine, or a process, that stood still did not listen.
const LOOK: Duration = Duration::from_millis(20);

/// Show role, term, positions and state digest of every member
#[derive(Debug, Args)]
#[command(after_long_help = "\
Asks every member over UDP and waits for the answers; a member that does not answer is shown as
such. Exit code 5 if none answers, 1 if some do not, or if no member leads.

  coracle status --config node.toml
  coracle status --endpoints 0=10.0.0.1:9100,1=10.0.0.2:9100,2=10.0.0.3:9100 --json
  coracle status --dir data/0        one member on this machine, from its counters file")]
pub struct StatusArgs {
    #[command(flatten)]
    cluster: ClusterArgs,
    /// Read this member's counters file instead of asking anybody
    #[arg(long, short, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// One line of JSON
    #[arg(long)]
    json: bool,
    /// How long to wait for answers, in milliseconds
    #[arg(long, value_name = "MS", default_value_t = 1000)]
    timeout_ms: u64,
}

/// Where a cluster is.
#[derive(Debug, Args)]
pub struct ClusterArgs {
    /// Where the members talk to clients
    #[arg(
        long,
        short,
        value_name = "ID=HOST:PORT,...",
        env = "CORACLE_ENDPOINTS"
    )]
    pub endpoints: Option<String>,
    /// The configuration of any member, for the same
    #[arg(long, short, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

impl ClusterArgs {
    /// The same as a client takes it: `ID=HOST:PORT,...`.
    ///
    /// # Errors
    /// Neither option is given, or it is not well formed.
    pub fn list(&self) -> Result<String, Failure> {
        let parts = self.endpoints()?;
        let parts: Vec<String> = parts.iter().map(|(id, at)| format!("{id}={at}")).collect();
        Ok(parts.join(","))
    }

    /// The members' ids and client endpoints.
    ///
    /// # Errors
    /// Neither option is given, or it is not well formed.
    pub fn endpoints(&self) -> Result<Vec<(u8, String)>, Failure> {
        let text = match (&self.endpoints, &self.config) {
            (Some(text), _) => text.clone(),
            (None, Some(path)) => Settings::load(path)?.ingress_endpoints(),
            (None, None) => {
                return Err(Failure::usage(
                    "say where the cluster is: --endpoints 0=HOST:PORT,1=HOST:PORT,... (or the \
                     same in CORACLE_ENDPOINTS), or --config with a member's file",
                ));
            }
        };
        let mut endpoints = Vec::new();
        for part in text.split(',') {
            let parsed = part
                .split_once('=')
                .and_then(|(id, endpoint)| Some((id.trim().parse().ok()?, endpoint.trim().into())));
            let Some(parsed) = parsed else {
                return Err(Failure::usage(format!(
                    "`{part}` is no endpoint: write ID=HOST:PORT, several with commas between"
                )));
            };
            endpoints.push(parsed);
        }
        Ok(endpoints)
    }
}

/// Runs the command.
///
/// # Errors
/// See the help.
pub fn run(args: &StatusArgs) -> Result<(), Failure> {
    if let Some(dir) = &args.dir {
        return run_local(dir, args.json);
    }
    let endpoints = args.cluster.endpoints()?;
    let timeout = Duration::from_millis(args.timeout_ms);
    let reports = query(&endpoints, timeout)?;
    if args.json {
        let members: Vec<Value> = endpoints
            .iter()
            .zip(&reports)
            .map(|((id, endpoint), report)| member_json(*id, endpoint, report.as_ref()))
            .collect();
        writeln!(io::stdout(), "{}", json!({ "members": members }))?;
    } else {
        write_table(&mut io::stdout().lock(), &endpoints, &reports)?;
    }
    let answered = reports.iter().flatten().count();
    if answered == 0 {
        return Err(Failure::no_answer(
            "no member answers: are they running, and is this the right address?",
        ));
    }
    if answered < reports.len() {
        return Err(Failure::outcome(format!(
            "{} of {} members do not answer",
            reports.len() - answered,
            reports.len()
        )));
    }
    if !reports.iter().flatten().any(|r| r.role == Role::Leader) {
        return Err(Failure::outcome("no member leads at the moment"));
    }
    Ok(())
}

/// Asks every member, again every 100 ms until it answers or has been listened to in vain for
/// `timeout`.
///
/// # Errors
/// No address can be resolved, or no socket can be had.
pub fn query(
    endpoints: &[(u8, String)],
    timeout: Duration,
) -> Result<Vec<Option<StatusReport>>, Failure> {
    let addresses: Vec<Option<SocketAddr>> = endpoints
        .iter()
        .map(|(_, endpoint)| resolve(endpoint, false).ok())
        .collect();
    let Some(sample) = addresses.iter().flatten().next() else {
        return Err(Failure::usage(
            "no endpoint has an address: check the names",
        ));
    };
    let any = if sample.is_ipv6() {
        "[::]:0"
    } else {
        "0.0.0.0:0"
    };
    let any = any.parse().map_err(|_| Failure::usage("no address"))?;
    let socket = Socket::bind(any)?;
    let mut reports = vec![None; endpoints.len()];
    let (mut sender, mut receiver) = (SendBatch::new(), ReceiveBatch::new());
    let mut listened = Duration::ZERO;
    let seed = u64::from(std::process::id()) << 32;
    while listened < timeout && reports.iter().any(Option::is_none) {
        for (at, address) in addresses.iter().enumerate() {
            let (Some(address), None) = (address, &reports[at]) else {
                continue;
            };
            let mut bytes = [0u8; STATUS_LENGTH];
            let correlation = seed + at as u64;
            let query = StatusQuery { correlation };
            if query.emit(&mut bytes).is_some() {
                sender.send(&socket, &[(*address, &bytes)]);
            }
        }
        let again = listened + Duration::from_millis(100);
        while listened < again && reports.iter().any(Option::is_none) {
            let looked = Instant::now();
            wait(&[rustix::fd::AsFd::as_fd(&socket)], LOOK)?;
            listened += looked.elapsed().min(2 * LOOK);
            receiver.receive(&socket)?;
            for (_, bytes) in receiver.datagrams() {
                if let Some(report) = parse(bytes) {
                    let at = report.correlation.wrapping_sub(seed) as usize;
                    if let Some(slot) = reports.get_mut(at) {
                        *slot = Some(report);
                    }
                }
            }
        }
    }
    Ok(reports)
}

fn parse(datagram: &[u8]) -> Option<StatusReport> {
    let frames = Datagram::parse(datagram).ok()?;
    let frame = frames.frames().next()?;
    StatusReport::parse_frame(&frame).ok()
}

/// The name of a role.
pub fn role_name(role: Role) -> &'static str {
    match role {
        Role::Follower => "follower",
        Role::Candidate => "candidate",
        Role::Leader => "leader",
    }
}

fn member_json(id: u8, endpoint: &str, report: Option<&StatusReport>) -> Value {
    let Some(r) = report else {
        return json!({ "member": id, "endpoint": endpoint, "answers": false });
    };
    let services: Vec<u64> = r.services.iter().flatten().map(|at| at.get()).collect();
    json!({
        "member": r.member.get(),
        "endpoint": endpoint,
        "answers": true,
        "cluster": r.cluster.0,
        "incarnation": r.incarnation.0,
        "role": role_name(r.role),
        "term": r.term.get(),
        "leader": r.leader.map(|m| m.get()),
        "appended": r.appended.get(),
        "durable": r.durable.get(),
        "committed": r.commit.get(),
        "applied": r.applied.get(),
        "digest": format!("{:016x}", r.digest),
        "sessions": r.sessions,
        "rejects": r.rejects,
        "leaderships": r.leaderships,
        "uptime_ms": r.uptime_ms,
        "votes": r.votes,
        "service_ready": r.service_ready,
        "log_start": r.start.get(),
        "snapshot": r.snapshot.map(|at| at.get()),
        "snapshot_failed": r.snapshot_failed.map(|at| at.get()),
        "flush_age_ms": r.flush_age_ms,
        "service_age_ms": r.service_age_ms,
        "log_full": r.log_full,
        "quarantined": r.quarantined,
        "settings_differ": r.settings_differ.iter().map(Setting::name).collect::<Vec<_>>(),
        "services": services,
    })
}

fn write_table(
    out: &mut impl Write,
    endpoints: &[(u8, String)],
    reports: &[Option<StatusReport>],
) -> io::Result<()> {
    writeln!(
        out,
        "member  role        term   log start    snapshot    appended     durable   committed     \
         applied  digest            sessions  rejects  flush ms  service ms"
    )?;
    for ((id, endpoint), report) in endpoints.iter().zip(reports) {
        match report {
            None => writeln!(out, "{id:>6}  no answer from {endpoint}")?,
            Some(r) => writeln!(
                out,
                "{:>6}  {:<9} {:>6} {:>11} {:>11} {:>11} {:>11} {:>11} {:>11}  {:016x}  {:>8} \
                 {:>8} {:>9} {:>11}{}",
                r.member.get(),
                role_name(r.role),
                r.term.get(),
                r.start.get(),
                r.snapshot.map_or("-".into(), |at| at.get().to_string()),
                r.appended.get(),
                r.durable.get(),
                r.commit.get(),
                r.applied.get(),
                r.digest,
                r.sessions,
                r.rejects,
                r.flush_age_ms,
                r.service_age_ms,
                remarks(r),
            )?,
        }
    }
    Ok(())
}

/// What an operator should do something about, or know.
fn remarks(r: &StatusReport) -> String {
    let mut remarks = String::new();
    if !r.votes {
        remarks.push_str("  does not count yet");
    }
    if !r.service_ready {
        remarks.push_str("  service stalled");
    }
    if r.quarantined {
        remarks.push_str("  QUARANTINED: its state differs, rebuild it from the others");
    }
    if !r.settings_differ.is_empty() {
        let names: Vec<_> = r.settings_differ.iter().map(Setting::name).collect();
        let names = names.join(", ");
        remarks.push_str(&format!(
            "  DOES NOT JOIN: other {names} than its leader, see its log"
        ));
    }
    if r.log_full {
        remarks.push_str("  LOG FULL: no snapshot on its disk makes room, see its log");
    }
    if let Some(at) = r.snapshot_failed.filter(|at| r.snapshot < Some(*at)) {
        remarks.push_str(&format!("  no snapshot at {at}: see its log"));
    }
    // One service that lags is seen only beside the others.
    if r.services.iter().flatten().count() > 1 {
        for (number, applied) in r.services.iter().enumerate() {
            let behind = applied.map_or(0, |at| r.commit.since(at));
            if behind > 0 {
                remarks.push_str(&format!("  service {number} is {behind} bytes behind"));
            }
        }
    }
    remarks
}

fn run_local(dir: &std::path::Path, as_json: bool) -> Result<(), Failure> {
    let reading = CountersReader::open(dir)?.read();
    let mut out = io::stdout().lock();
    if as_json {
        let mut object = serde_json::Map::new();
        object.insert("cluster".into(), reading.cluster.into());
        object.insert("member".into(), reading.member.into());
        object.insert("process".into(), reading.process.into());
        for counter in Counter::ALL {
            object.insert(counter.name().into(), counter_json(*counter, &reading));
        }
        writeln!(out, "{}", Value::Object(object))?;
        return Ok(());
    }
    writeln!(out, "{:<14} {}", "cluster", reading.cluster)?;
    writeln!(out, "{:<14} {}", "member", reading.member)?;
    match reading.process {
        0 => writeln!(out, "{:<14} none: the node has closed", "process")?,
        process => writeln!(out, "{:<14} {process}", "process")?,
    }
    for counter in Counter::ALL {
        let value = counter_json(*counter, &reading);
        let text = value
            .as_str()
            .map_or_else(|| value.to_string(), str::to_owned);
        writeln!(out, "{:<14} {text}", counter.name())?;
    }
    Ok(())
}

fn counter_json(counter: Counter, reading: &crate::counters::Reading) -> Value {
    let value = reading.get(counter);
    match counter {
        Counter::SettingsDiffer => {
            let settings = SettingSet::from_wire(value as u32);
            settings.iter().map(Setting::name).collect()
        }
        Counter::Role => {
            let role = Role::from_wire(value as i32);
            role.map_or_else(|_| value.into(), |role| role_name(role).into())
        }
        Counter::Digest => format!("{value:016x}").into(),
        _ => value.into(),
    }
}
