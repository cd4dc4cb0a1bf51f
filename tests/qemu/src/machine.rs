//! One virtual machine: QEMU's process, and what its console says.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Instant;

use crate::switch::Mac;
use crate::tools::Arch;

/// How many lines are kept for who wants to know what went wrong.
const LINES: usize = 30;

/// What a machine is made of.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Which processor.
    pub arch: Arch,
    /// The image.
    pub kernel: PathBuf,
    /// Its disk.
    pub disk: PathBuf,
    /// Where its console is written, besides.
    pub log: PathBuf,
    /// The port of 127.0.0.1 that its frames come from.
    pub port: u16,
    /// The one that they go to.
    pub switch: u16,
    /// Its Ethernet address.
    pub mac: Mac,
}

impl Plan {
    fn command(&self) -> Command {
        let mut command = Command::new(self.arch.qemu());
        command.args(self.arch.machine());
        command.args([
            "-accel",
            "tcg",
            "-m",
            "16",
            "-nodefaults",
            "-no-user-config",
        ]);
        command.args(["-no-reboot", "-display", "none", "-serial", "stdio"]);
        command.args(["-global", "virtio-mmio.force-legacy=false", "-kernel"]);
        command.arg(&self.kernel);
        let [a, b, c, d, e, f] = self.mac;
        let disk = self.disk.display();
        let (port, switch) = (self.port, self.switch);
        for (flag, value) in [
            (
                "-drive",
                format!("id=d0,file={disk},format=raw,if=none,cache=writeback"),
            ),
            ("-device", "virtio-blk-device,drive=d0".into()),
            (
                "-netdev",
                format!(
                    "dgram,id=n0,local.type=inet,local.host=127.0.0.1,local.port={port},\
                     remote.type=inet,remote.host=127.0.0.1,remote.port={switch}"
                ),
            ),
            (
                "-device",
                format!(
                    "virtio-net-device,netdev=n0,\
                     mac={a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}"
                ),
            ),
        ] {
            command.arg(flag).arg(value);
        }
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        command.stderr(Stdio::inherit());
        command
    }
}

/// The console's newest lines of each kind, as words.
#[derive(Clone, Debug, Default)]
pub struct Console {
    /// When the node was up, and what it said then.
    pub up: Option<(Instant, Words)>,
    /// How its member is, and which log and snapshot it has: said at one moment.
    pub member: Option<(Words, Words)>,
    /// How the machine is.
    pub machine: Option<Words>,
    /// The last ones.
    pub lines: VecDeque<String>,
    /// The first half of `member`.
    half: Option<Words>,
}

/// A line of the kind `word value word value`.
#[derive(Clone, Debug, Default)]
pub struct Words(Vec<String>);

impl Words {
    /// The word behind `key`.
    pub fn get(&self, key: &str) -> Option<&str> {
        let at = self.0.iter().position(|word| word == key)?;
        self.0.get(at + 1).map(String::as_str)
    }

    /// The same as a number.
    pub fn number(&self, key: &str) -> Option<u64> {
        self.get(key)?.parse().ok()
    }

    /// The word at a place.
    pub fn at(&self, place: usize) -> &str {
        self.0.get(place).map_or("", String::as_str)
    }
}

impl Console {
    fn add(&mut self, line: &str) {
        let words = Words(line.split_whitespace().map(str::to_owned).collect());
        match words.at(0) {
            "up" => self.up = Some((Instant::now(), words)),
            "member" => self.half = Some(words),
            "log" => self.member = self.half.take().map(|half| (half, words)),
            "machine" => self.machine = Some(words),
            _ => {}
        }
        if self.lines.len() == LINES {
            self.lines.pop_front();
        }
        self.lines.push_back(line.to_owned());
    }
}

/// A machine that is on. Dropping it pulls the plug.
#[derive(Debug)]
pub struct Machine {
    child: Child,
    console: Arc<Mutex<Console>>,
    /// When it was switched on.
    pub began: Instant,
}

impl Machine {
    /// Switches it on.
    ///
    /// # Errors
    /// The system's own.
    pub fn start(plan: &Plan) -> Result<Self, String> {
        let log = File::options().create(true).append(true).open(&plan.log);
        let log = log.map_err(|e| format!("{}: {e}", plan.log.display()))?;
        let began = Instant::now();
        let child = plan.command().spawn();
        let mut child = child.map_err(|e| format!("{} does not start: {e}", plan.arch.qemu()))?;
        let console = Arc::new(Mutex::new(Console::default()));
        if let Some(output) = child.stdout.take() {
            let console = console.clone();
            thread::spawn(move || listen(output, &console, log));
        }
        Ok(Self {
            child,
            console,
            began,
        })
    }

    /// What its console says.
    pub fn console(&self) -> Console {
        let console = self.console.lock();
        console.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Its exit code, if it has ended of its own accord.
    pub fn ended(&mut self) -> Option<i32> {
        let status = self.child.try_wait().ok()??;
        Some(status.code().unwrap_or(-1))
    }

    /// Its process.
    pub fn process(&self) -> u32 {
        self.child.id()
    }

    /// Pulls the plug.
    pub fn kill(mut self) {
        self.end();
    }

    fn end(&mut self) {
        // That it has ended already is fine too.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.end();
    }
}

fn listen(output: ChildStdout, console: &Mutex<Console>, mut log: File) {
    for line in BufReader::new(output).lines().map_while(Result::ok) {
        // The file is for people: the run does not depend on it.
        drop(writeln!(log, "{line}"));
        let mut console = console.lock().unwrap_or_else(PoisonError::into_inner);
        console.add(line.trim_end());
    }
}
