//! Cores alone: three nodes in one process and in memory, without sockets, disks or other threads
//! than a library has itself.

use std::process::Command;
use std::time::Instant;

use serde_json::Value;

use super::super::Options;
use super::super::figure::{Line, Row, Unit};
use super::again;
use super::rival::{Program, finish};
use crate::instructions::Cluster;
use crate::process::root;

/// Messages at once, how often in one run, and the two lengths between which instructions count.
const LOADS: [(usize, usize, [usize; 2]); 2] = [(256, 2000, [20, 120]), (1, 20_000, [200, 1200])];

const WAYS: [(&str, &str, bool); 3] = [
    ("raft-rs", "raft-rs, no codec", false),
    ("raft-rs", "raft-rs, codec", true),
    ("openraft", "openraft, no codec", false),
];

/// Measures, in turns. Which runs failed, and were made again, is added to `failed`.
///
/// # Errors
/// In words.
pub fn measure(
    options: &Options,
    program: &Program,
    failed: &mut Vec<String>,
) -> Result<Vec<Row>, String> {
    let mut rows = Vec::new();
    for (batch, rounds, lengths) in LOADS {
        let rounds = if options.is_quick {
            rounds / 10
        } else {
            rounds
        };
        let (mut ours, mut theirs) = (Vec::new(), vec![Vec::new(); WAYS.len()]);
        for _ in 0..options.rounds {
            ours.push(own(batch, rounds) / 1000.0);
            for ((system, name, has_codec), rates) in WAYS.iter().zip(&mut theirs) {
                let words = words(batch, rounds, *has_codec);
                let words: Vec<&str> = words.iter().map(String::as_str).collect();
                let mut one = || {
                    let output = finish(&mut program.core(system, &words, &[]), system)?;
                    rate(&String::from_utf8_lossy(&output.stdout))
                };
                let what = format!("cores alone, {name}, batches of {batch}");
                rates.push(again(&what, &mut one, failed)? / 1000.0);
            }
        }
        let what = format!("peers, cores alone, three nodes in memory, 32 B, batches of {batch}");
        let mut row = Row::new('p', &what);
        row.lines
            .push(Line::new("Coracle, codec", Unit::Kilo, ours.clone()));
        for ((_, name, _), rates) in WAYS.iter().zip(theirs) {
            let line = Line::new(name, Unit::Kilo, rates);
            row.lines.push(line.beside("Coracle", ours.clone()));
        }
        instructions(&mut row, batch, lengths, program)?;
        row.notes.push(
            "Coracle's rate has its client in it, both checksums and a copy of every datagram; \
             openraft has three tasks and more on all cores"
                .into(),
        );
        rows.push(row);
    }
    Ok(rows)
}

fn words(batch: usize, rounds: usize, has_codec: bool) -> Vec<String> {
    let (batch, rounds) = (batch.to_string(), rounds.to_string());
    let mut words = ["--len", "32", "--batch", &batch, "--rounds", &rounds].map(str::to_owned);
    let mut words: Vec<String> = std::mem::take(&mut words).into();
    if has_codec {
        words.push("--codec".into());
    }
    words
}

/// Messages a second through three cores and a client.
fn own(batch: usize, rounds: usize) -> f64 {
    let mut cluster = Cluster::new(1, true);
    cluster.echo(rounds / 10 + 1, batch);
    let began = Instant::now();
    cluster.echo(rounds, batch);
    (batch * rounds) as f64 / began.elapsed().as_secs_f64()
}

fn rate(text: &str) -> Result<f64, String> {
    let line: Value = serde_json::from_str(text).map_err(|error| error.to_string())?;
    let rate = line["rate"].as_f64();
    rate.ok_or_else(|| format!("no rate in: {text}"))
}

/// Instructions for a message, of all three nodes, where valgrind is here.
fn instructions(
    row: &mut Row,
    batch: usize,
    lengths: [usize; 2],
    program: &Program,
) -> Result<(), String> {
    if Command::new("valgrind").arg("--version").output().is_err() {
        let note = "instructions not counted: valgrind is not installed (Debian: valgrind)";
        row.notes.push(note.into());
        return Ok(());
    }
    let text = std::fs::read_to_string(root().join("tests/instructions.txt"));
    let ours = baseline(&text.unwrap_or_default(), batch).ok_or("tests/instructions.txt")?;
    let label = "Coracle, codec, instructions";
    row.lines.push(Line::new(label, Unit::Count, vec![ours]));
    for (system, name, has_codec) in WAYS.iter().filter(|(system, ..)| *system == "raft-rs") {
        let mut totals = [0; 2];
        for (total, rounds) in totals.iter_mut().zip(lengths) {
            let words = words(batch, rounds, *has_codec);
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            let tool = [
                "valgrind",
                "--tool=callgrind",
                "--callgrind-out-file=/dev/null",
            ];
            let output = finish(&mut program.core(system, &words, &tool), "valgrind")?;
            *total = collected(&String::from_utf8_lossy(&output.stderr))
                .ok_or("callgrind has not said what it counted")?;
        }
        let messages = (batch * (lengths[1] - lengths[0])) as f64;
        let each = (totals[1] - totals[0]) as f64 / messages;
        let line = Line::new(&format!("{name}, instructions"), Unit::Count, vec![each]);
        row.lines.push(line.beside("Coracle", vec![ours]));
    }
    row.notes.push(
        "instructions are of all three nodes for a message that is committed and handed to the \
         service, without a client; Coracle's are those in tests/instructions.txt"
            .into(),
    );
    Ok(())
}

/// What callgrind counted in all.
fn collected(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.split_once("Collected :"));
    line?.1.split_whitespace().next()?.parse().ok()
}

/// Leader and followers together, from the repository's figures.
fn baseline(text: &str, batch: usize) -> Option<f64> {
    let of = |role: &str| {
        let name = format!("commit, batch {batch} / {role}: ");
        let line = text.lines().find_map(|line| line.strip_prefix(&name));
        line?.parse::<f64>().ok()
    };
    Some(of("leader")? + of("follower")?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn callgrind_says_what_it_counted() {
        let text = "==12== Events    : Ir\n==12== Collected : 123456\n==12==\n";
        assert_eq!(collected(text), Some(123_456));
        assert_eq!(collected("==12== Events    : Ir\n"), None);
    }

    #[test]
    fn the_figures_in_the_repository_have_leader_and_followers() {
        let text = "commit, batch 256 / leader: 10.5\ncommit, batch 25 / follower: 1.0\n\
                    commit, batch 256 / follower: 2.0\necho, batch 256 / follower: 3.0\n\
                    commit, batch 256 / client: 4.0\n";
        assert_eq!(baseline(text, 256), Some(12.5));
        assert_eq!(baseline(text, 25), None);
        let file = std::fs::read_to_string(root().join("tests/instructions.txt")).unwrap();
        for (batch, ..) in LOADS {
            assert!(baseline(&file, batch).is_some_and(|count| count > 0.0));
        }
    }

    #[test]
    fn a_core_that_says_no_rate_is_an_error() {
        assert_eq!(rate(r#"{"count":1,"rate":2.5}"#), Ok(2.5));
        assert!(rate(r#"{"count":1}"#).is_err());
        assert!(rate("").is_err());
    }

    #[test]
    fn three_cores_and_a_client_echo() {
        // A node is made on the stack, and has tables for a thousand sessions.
        let roomy = std::thread::Builder::new().stack_size(64 << 20);
        let rate = roomy.spawn(|| own(16, 20)).unwrap().join();
        assert!(rate.unwrap() > 0.0);
    }
}
