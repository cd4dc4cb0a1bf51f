//! Other systems on the work of `cargo xtask bench --peers`, which runs this program and reads the
//! one line of JSON that it prints.

use std::path::PathBuf;
use std::process::ExitCode;

use serde_json::{Value, json};

mod arguments;
mod cluster;
mod etcd;
mod frame;
mod load;
mod open;
mod raftrs;
mod versions;
mod wal;
mod wire;

use arguments::Arguments;
use load::Work;

const HELP: &str = "\
usage: rivals run SYSTEM --len N --in-flight N --seconds S --warm-up S --wait yield|block
                         --dir DIR [--durable]
       rivals core SYSTEM --len N --batch N --rounds N [--codec]
       rivals member SYSTEM ...   one of three; `run` starts these
       rivals versions

SYSTEM of `run`: raft-rs, openraft, etcd; of `core` and `member`: raft-rs, openraft. What each does
is in README.md. One line of JSON on standard output; errors, in words, on standard error.";

fn main() -> ExitCode {
    let mut arguments = Arguments::new(std::env::args().skip(1).collect());
    match chosen(&mut arguments) {
        Ok(Some(line)) => {
            println!("{line}");
            ExitCode::SUCCESS
        }
        Ok(None) => ExitCode::SUCCESS,
        Err(text) => {
            eprintln!("rivals: {text}");
            ExitCode::FAILURE
        }
    }
}

fn chosen(arguments: &mut Arguments) -> Result<Option<Value>, String> {
    let chore = arguments.next().ok_or(HELP)?;
    if chore == "versions" {
        return versions::all().map(Some);
    }
    let system = arguments.next().ok_or(HELP)?;
    match chore.as_str() {
        "run" => run(&system, arguments).map(Some),
        "core" => core(&system, arguments).map(Some),
        "member" => {
            let member = cluster::Member::parse(arguments)?;
            arguments.finish()?;
            let ended = match system.as_str() {
                "raft-rs" => raftrs::node::run(&member),
                "openraft" => open::node::run(&member),
                _ => return Err(HELP.into()),
            };
            match ended {
                Err(error) if !wire::is_end(&error) => {
                    Err(format!("{system}, member {}: {error}", member.id))
                }
                _ => Ok(None),
            }
        }
        _ => Err(HELP.into()),
    }
}

fn run(system: &str, arguments: &mut Arguments) -> Result<Value, String> {
    let work = Work {
        len: arguments.number("--len")?,
        in_flight: arguments.number("--in-flight")?,
        time: arguments.time("--seconds")?,
        warm_up: arguments.time("--warm-up")?,
        wait: arguments.wait()?,
        is_durable: arguments.has("--durable"),
    };
    let dir = PathBuf::from(arguments.word("--dir")?);
    arguments.finish()?;
    match system {
        "raft-rs" | "openraft" => load::run(system, &work, &dir),
        "etcd" => etcd::run(&work, &dir),
        _ => Err(HELP.into()),
    }
}

fn core(system: &str, arguments: &mut Arguments) -> Result<Value, String> {
    let load = raftrs::core::Load {
        len: arguments.number("--len")?,
        batch: arguments.number("--batch")?,
        rounds: arguments.number("--rounds")?,
        has_codec: arguments.has("--codec"),
    };
    arguments.finish()?;
    let time = match system {
        "raft-rs" => raftrs::core::run(&load)?,
        "openraft" if !load.has_codec => open::core::run(&load)?,
        _ => return Err(HELP.into()),
    };
    let count = load.batch * load.rounds;
    Ok(json!({ "count": count, "rate": count as f64 / time.as_secs_f64() }))
}
