//! Three machines without an operating system, whose nodes run the echo service. They are QEMU's,
//! and `tests/qemu` runs them as a process of its own, which is told what to do in lines: nothing
//! of this project is in this one.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use coracle_net::cluster::{Status, are_level};
use serde_json::Value;

use crate::echo::Members;

/// The machines. All are off when it is dropped.
#[derive(Debug)]
pub struct Machines {
    process: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
    endpoints: Vec<String>,
}

/// How a machine has started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Up {
    /// Where its log starts.
    pub start: u64,
    /// The position of the snapshot that its node started from; 0: none.
    pub snapshot: u64,
    /// The end of the log that it recovered.
    pub recovered: u64,
}

impl Machines {
    /// Builds the image, switches three machines on, and waits until one leads. Flags of
    /// `coracle-qemu`, such as `--arch riscv32`, are in `CORACLE_QEMU_FLAGS`.
    ///
    /// # Errors
    /// In plain words.
    pub fn start() -> Result<Self, String> {
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let flags = std::env::var("CORACLE_QEMU_FLAGS").unwrap_or_default();
        let run = "run --release --quiet -p coracle-qemu -- --serve";
        let mut process = Command::new(cargo)
            .args(run.split(' '))
            .args(flags.split_whitespace())
            .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("../.."))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| format!("cargo does not start: {error}"))?;
        let (input, output) = (process.stdin.take(), process.stdout.take());
        let mut machines = Self {
            process,
            input,
            output: BufReader::new(output.ok_or("no output")?),
            endpoints: Vec::new(),
        };
        let first = machines.answer()?;
        let listed = first["endpoints"].as_array().into_iter().flatten();
        machines.endpoints = listed
            .filter_map(|one| Some(one.as_str()?.to_owned()))
            .collect();
        Ok(machines)
    }

    /// Where clients find each member.
    pub fn endpoints(&self) -> &[String] {
        &self.endpoints
    }

    /// How the members are that are on, by the last lines of their consoles.
    ///
    /// # Errors
    /// A machine has ended that was not killed.
    pub fn status(&mut self) -> Result<Vec<Status>, String> {
        let answer = self.ask("status")?;
        let members = answer.as_array().ok_or_else(|| answer.to_string())?;
        Ok(members.iter().filter_map(Status::read).collect())
    }

    /// Whether all three are on, and level.
    ///
    /// # Errors
    /// As [`Machines::status`].
    pub fn are_level(&mut self) -> Result<bool, String> {
        Ok(are_level(&self.status()?, self.endpoints.len()))
    }

    /// Waits until they are.
    ///
    /// # Errors
    /// As [`Machines::status`]; or their last words, when `patience` ran out.
    pub fn await_level(&mut self, patience: Duration) -> Result<Vec<Status>, String> {
        let deadline = Instant::now() + patience;
        loop {
            let status = self.status()?;
            if are_level(&status, self.endpoints.len()) {
                return Ok(status);
            }
            if Instant::now() > deadline {
                return Err(format!("waited in vain for level members: {status:?}"));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// The member that leads in the newest term.
    ///
    /// # Errors
    /// As [`Machines::status`], or none does.
    pub fn leader(&mut self) -> Result<usize, String> {
        let status = self.status()?;
        let leaders = status.iter().filter(|one| one.role == "leader");
        let newest = leaders.max_by_key(|one| one.term);
        newest
            .map(|one| one.member)
            .ok_or_else(|| format!("no leader: {status:?}"))
    }

    /// Pulls a machine's plug.
    ///
    /// # Errors
    /// In plain words.
    pub fn kill(&mut self, member: usize) -> Result<(), String> {
        self.ask(&format!("kill {member}")).map(drop)
    }

    /// Switches it on again, and waits until its node is up.
    ///
    /// # Errors
    /// It does not come up.
    pub fn restart(&mut self, member: usize) -> Result<Up, String> {
        let answer = self.ask(&format!("start {member}"))?;
        let number = |key: &str| answer[key].as_u64().ok_or_else(|| answer.to_string());
        Ok(Up {
            start: number("start")?,
            snapshot: number("snapshot")?,
            recovered: number("recovered")?,
        })
    }

    /// From now on so many frames of a thousand are lost, and doubled, and each is late by up to
    /// `delay_ms` milliseconds.
    ///
    /// # Errors
    /// In plain words.
    pub fn set_faults(&mut self, lost: u32, doubled: u32, delay_ms: u32) -> Result<(), String> {
        let line = format!("faults {lost} {doubled} {delay_ms}");
        self.ask(&line).map(drop)
    }

    fn ask(&mut self, line: &str) -> Result<Value, String> {
        let input = self.input.as_mut().ok_or("no input")?;
        writeln!(input, "{line}").map_err(|error| format!("{line}: {error}"))?;
        self.answer()
    }

    fn answer(&mut self) -> Result<Value, String> {
        let mut line = String::new();
        loop {
            line.clear();
            let len = self.output.read_line(&mut line);
            if len.map_err(|error| error.to_string())? == 0 {
                return Err("the machines' process has ended".to_owned());
            }
            if let Some(error) = line.strip_prefix("! ") {
                return Err(error.trim().to_owned());
            }
            if let Some(answer) = line.strip_prefix("= ") {
                return serde_json::from_str(answer).map_err(|error| format!("{line}: {error}"));
            }
            // What it says to people, before it fails.
            eprint!("{line}");
        }
    }
}

impl Members for Machines {
    fn check_alive(&mut self) -> Result<(), String> {
        self.status().map(drop)
    }
}

impl Drop for Machines {
    fn drop(&mut self) {
        // At the end of its input it switches all off, and ends.
        drop(self.input.take());
        drop(self.process.wait());
    }
}
