//! Three machines with the echo service, for another program: it says what to do in lines of
//! standard input, and reads what came of it. So it needs nothing of this project in itself.
//!
//! | line | answer |
//! | --- | --- |
//! | `status` | an array of what `coracle status --json` says of a member; null: it is off |
//! | `kill N` | pulls a machine's plug: `{}` |
//! | `start N` | switches it on, waits until it is up: some words of its console as an object |
//! | `faults LOSS DOUBLED DELAY_MS` | what the switch does, rates out of a thousand: `{}` |
//! | `stack` | the most stack that any machine used: `{"used": bytes, "of": bytes}` |
//!
//! An answer is one line that starts with `= `, or with `! ` and what went wrong. The first comes
//! unasked, when a leader is there: `{"endpoints": ["127.0.0.1:20611", ..]}`. All ends with the
//! input.

use std::io::Write;
use std::time::Duration;

use serde_json::{Map, Value, json};

use crate::cluster::{Cluster, Kind};
use crate::run::{Options, wait_up};
use crate::switch::Faults;
use crate::tools::{self, Service};

/// Serves until its input ends.
///
/// # Errors
/// The machines do not start, or the system's own.
pub fn serve(options: &Options) -> Result<(), String> {
    let image = tools::build(options.arch, Service::Echo)?;
    let kinds = vec![Kind::Machine(options.arch, image); 3];
    let mut cluster = Cluster::prepare(&kinds, options)?;
    let served = start(&mut cluster).and_then(|first| {
        say(&Ok(first))?;
        for line in std::io::stdin().lines() {
            let line = line.map_err(|e| e.to_string())?;
            say(&obey(&mut cluster, &line))?;
        }
        Ok(())
    });
    served.map_err(|error| {
        let last = cluster.last_words();
        format!("{error}\n{last}kept for you: {}", cluster.keep().display())
    })
}

fn start(cluster: &mut Cluster) -> Result<Value, String> {
    for n in 0..cluster.len() {
        cluster.start(n)?;
    }
    for n in 0..cluster.len() {
        wait_up(cluster, n)?;
    }
    cluster.leader(&[])?;
    let endpoints = cluster.endpoints();
    let endpoints = endpoints.split(',').filter_map(|one| one.split_once('='));
    let endpoints: Vec<&str> = endpoints.map(|(_, endpoint)| endpoint).collect();
    Ok(json!({ "endpoints": endpoints }))
}

fn say(answer: &Result<Value, String>) -> Result<(), String> {
    let mut out = std::io::stdout().lock();
    let written = match answer {
        Ok(value) => writeln!(out, "= {value}"),
        Err(error) => writeln!(out, "! {}", error.replace('\n', " / ")),
    };
    written
        .and_then(|()| out.flush())
        .map_err(|e| e.to_string())
}

fn obey(cluster: &mut Cluster, line: &str) -> Result<Value, String> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let numbers: Result<Vec<u64>, _> = words.iter().skip(1).map(|word| word.parse()).collect();
    let numbers = numbers.map_err(|e| format!("{line}: {e}"))?;
    let member = |n: u64| Some(n as usize).filter(|n| *n < cluster.len());
    match (words.first().copied(), numbers.as_slice()) {
        (Some("status"), []) => {
            cluster.check()?;
            let state = |n| cluster.state(n).map(|state| state.json(n));
            Ok((0..cluster.len()).map(state).collect::<Vec<_>>().into())
        }
        (Some("kill"), [n]) => {
            cluster.kill(member(*n).ok_or("no such member")?);
            Ok(json!({}))
        }
        (Some("start"), [n]) => {
            let n = member(*n).ok_or("no such member")?;
            cluster.start(n)?;
            let (_, up) = wait_up(cluster, n)?;
            let number = |key: &&str| Some(((*key).to_owned(), up.number(key)?.into()));
            let keys = ["start", "snapshot", "recovered", "boot_us"];
            let words: Map<String, Value> = keys.iter().filter_map(number).collect();
            Ok(words.into())
        }
        (Some("faults"), [loss, duplicates, delay]) => {
            cluster.switch.set_faults(Faults {
                loss: *loss,
                duplicates: *duplicates,
                delay: Duration::from_millis(*delay),
                cut_off: Vec::new(),
            });
            Ok(json!({}))
        }
        (Some("stack"), []) => {
            let (used, of) = cluster.stack();
            Ok(json!({ "used": used, "of": of }))
        }
        _ => Err(format!("unknown: {line}")),
    }
}
