//! The node processes of one test.

use std::fmt::Write;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use super::{Scratch, coracle, free_ports, run, until};

/// What a cluster is to be like.
#[derive(Clone, Debug)]
pub struct Plan {
    /// How many members.
    pub members: u8,
    /// The host part of every endpoint: an address, `[::1]`, or a name.
    pub host: String,
    /// The number that names the cluster.
    pub cluster: u64,
    /// More lines for the top of every configuration file.
    pub extra: String,
    /// What runs: called with `node --config FILE --init`.
    pub program: PathBuf,
}

impl Plan {
    /// Three members on 127.0.0.1 with the echo service and small files.
    pub fn new() -> Self {
        Self {
            members: 3,
            host: "127.0.0.1".into(),
            cluster: 77,
            extra: "service = \"echo\"\nsegment_length = \"8MiB\"\n".into(),
            program: coracle().to_owned(),
        }
    }

    /// The same, with timings by which nobody loses its leadership or its session because the
    /// machine is slow, or stands still now and then: for what is not about that.
    pub fn patient() -> Self {
        let mut plan = Self::new();
        plan.extra += Self::PATIENT;
        plan
    }

    /// Those timings, as a line of [`Self::extra`].
    pub const PATIENT: &str = "timings = { leader_timeout = \"2s\", session_timeout = \"60s\", \
                               egress_timeout = \"60s\" }\n";
}

impl Default for Plan {
    fn default() -> Self {
        Self::new()
    }
}

/// What a member says of itself in answer to a status query.
pub type Reading = Value;

/// The processes; they end with this value.
#[derive(Debug)]
pub struct Cluster {
    plan: Plan,
    ports: Vec<u16>,
    children: Vec<Option<Child>>,
    scratch: Scratch,
}

impl Cluster {
    /// Starts all members, and waits until one of them leads.
    pub fn start(name: &str, plan: Plan) -> Self {
        let mut cluster = Self::prepare(name, plan);
        for member in 0..cluster.plan.members {
            cluster.spawn(member);
        }
        cluster.leader();
        cluster
    }

    /// Writes the configuration files; starts nothing.
    pub fn prepare(name: &str, plan: Plan) -> Self {
        let cluster = Self {
            ports: free_ports(usize::from(plan.members) * 2),
            children: (0..plan.members).map(|_| None).collect(),
            scratch: Scratch::new(name),
            plan,
        };
        for member in 0..cluster.plan.members {
            let text = cluster.config_text(member, &cluster.data(member));
            std::fs::write(cluster.config(member), text).expect("a file in the scratch directory");
        }
        cluster
    }

    /// A member's configuration, with its data in `dir`.
    pub fn config_text(&self, member: u8, dir: &Path) -> String {
        let Plan { cluster, extra, .. } = &self.plan;
        let mut text = format!("cluster = {cluster}\nmember = {member}\n{extra}");
        writeln!(text, "dir = {:?}", dir.display().to_string()).expect("a string grows");
        for id in 0..self.plan.members {
            let (host, [to_members, to_clients]) = (&self.plan.host, self.ports_of(id));
            writeln!(
                text,
                "[[members]]\nid = {id}\nmember = \"{host}:{to_members}\"\n\
                 ingress = \"{host}:{to_clients}\""
            )
            .expect("a string grows");
        }
        text
    }

    /// A member's ports: for members, for clients.
    pub fn ports_of(&self, member: u8) -> [u16; 2] {
        let at = usize::from(member) * 2;
        [self.ports[at], self.ports[at + 1]]
    }

    /// The test's own directory.
    pub fn scratch(&self) -> &Path {
        self.scratch.path()
    }

    /// A member's data directory.
    pub fn data(&self, member: u8) -> PathBuf {
        self.scratch().join(format!("data-{member}"))
    }

    /// A member's configuration file.
    pub fn config(&self, member: u8) -> PathBuf {
        self.scratch().join(format!("node-{member}.toml"))
    }

    /// All that a member has logged.
    pub fn log(&self, member: u8) -> String {
        std::fs::read_to_string(self.log_path(member)).unwrap_or_default()
    }

    fn log_path(&self, member: u8) -> PathBuf {
        self.scratch().join(format!("node-{member}.log"))
    }

    /// Where clients find the members.
    pub fn endpoints(&self) -> String {
        let of = |id| format!("{id}={}:{}", self.plan.host, self.ports_of(id)[1]);
        let all: Vec<String> = (0..self.plan.members).map(of).collect();
        all.join(",")
    }

    /// Starts a member's process.
    pub fn spawn(&mut self, member: u8) {
        let mut command = Command::new(&self.plan.program);
        command
            .arg("node")
            .arg("--config")
            .arg(self.config(member))
            .arg("--init");
        self.spawn_as(member, command);
    }

    /// Starts a member's process by a command of the test's own.
    pub fn spawn_as(&mut self, member: u8, mut command: Command) {
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.log_path(member));
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log.expect("a log file in the scratch directory"))
            .spawn()
            .expect("the process starts");
        self.children[usize::from(member)] = Some(child);
    }

    /// A member's process id.
    pub fn process(&self, member: u8) -> u32 {
        self.children[usize::from(member)]
            .as_ref()
            .expect("it runs")
            .id()
    }

    /// Sends a signal to a member.
    pub fn signal(&self, member: u8, signal: Signal) {
        let child = self.children[usize::from(member)]
            .as_ref()
            .expect("it runs");
        kill_process(Pid::from_child(child), signal).expect("our own process");
    }

    /// Kill -9.
    pub fn kill(&mut self, member: u8) {
        self.signal(member, Signal::KILL);
        self.wait(member);
    }

    /// Waits until a member has ended.
    pub fn wait(&mut self, member: u8) -> ExitStatus {
        let child = &mut self.children[usize::from(member)];
        let status = until("a process's end", || {
            child
                .as_mut()
                .expect("it runs")
                .try_wait()
                .expect("our own child")
        });
        *child = None;
        status
    }

    /// Whether a member's process has not ended.
    pub fn is_running(&mut self, member: u8) -> bool {
        self.children[usize::from(member)]
            .as_mut()
            .is_some_and(|child| child.try_wait().expect("our own child").is_none())
    }

    /// User and system time of all members' processes so far.
    pub fn processor_time(&self) -> Duration {
        let ticks = |member| {
            let stat = self.proc(member, "stat");
            // proc(5): fields 14 and 15; the second, a name in parentheses, may hold anything.
            let fields = stat.rsplit(')').next().unwrap_or_default();
            let times = fields.split_whitespace().skip(11).take(2);
            times.filter_map(|n| n.parse::<u64>().ok()).sum::<u64>()
        };
        let running = (0..self.plan.members).filter(|m| self.children[usize::from(*m)].is_some());
        Duration::from_millis(running.map(ticks).sum::<u64>() * 10)
    }

    /// Resident memory of all members' processes, in KiB.
    pub fn resident_kib(&self) -> u64 {
        let of = |member| {
            let status = self.proc(member, "status");
            let line = status.lines().find(|line| line.starts_with("VmRSS:"));
            let number = line.and_then(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok());
            number.expect("a running process has memory")
        };
        (0..self.plan.members).map(of).sum()
    }

    fn proc(&self, member: u8, file: &str) -> String {
        std::fs::read_to_string(format!("/proc/{}/{file}", self.process(member))).expect("it runs")
    }

    /// What every member answers; `Null` for none.
    pub fn status(&self) -> Vec<Reading> {
        ask(&self.endpoints())
    }

    /// What one member answers; `Null` if nothing.
    pub fn status_of(&self, member: u8) -> Reading {
        let [_, port] = self.ports_of(member);
        let mut all = ask(&format!("{member}={}:{port}", self.plan.host));
        all.pop().unwrap_or_default()
    }

    /// What one member answers, once it does: a query may be lost, or take too long.
    #[track_caller]
    pub fn answer_of(&self, member: u8) -> Reading {
        until("an answer to a status query", || {
            Some(self.status_of(member)).filter(|answer| !answer.is_null())
        })
    }

    /// What all members answer, once all do.
    #[track_caller]
    pub fn answers(&self) -> Vec<Reading> {
        let count = usize::from(self.plan.members);
        until("all members' answers", || {
            let all = self.status();
            (all.len() == count && !all.iter().any(Value::is_null)).then_some(all)
        })
    }

    /// A member's counters file, read by `coracle status --dir`; `Null` if it has none yet.
    pub fn counters(&self, member: u8) -> Reading {
        let dir = self.data(member);
        let ended = run([
            "status".as_ref(),
            "--json".as_ref(),
            "--dir".as_ref(),
            dir.as_os_str(),
        ]);
        serde_json::from_str(&ended.out).unwrap_or_default()
    }

    /// Waits until one member leads, in the newest term that any speaks of.
    #[track_caller]
    pub fn leader(&self) -> u8 {
        until("a leader", || {
            let all = self.status();
            let newest = all.iter().filter_map(|m| m["term"].as_u64()).max()?;
            let leads = |m: &&Value| m["role"] == "leader" && m["term"] == newest;
            all.iter().find(leads)?["member"]
                .as_u64()
                .map(|id| id as u8)
        })
    }

    /// Waits until all members have executed the same log, and have come to the same state.
    #[track_caller]
    pub fn level(&self) -> Vec<Reading> {
        until("members level with one another", || {
            let all = self.status();
            let is_level = |m: &Value| {
                ["appended", "durable", "committed", "applied"]
                    .iter()
                    .all(|key| m[*key].is_u64() && m[*key] == all[0]["appended"])
                    && m["term"] == all[0]["term"]
            };
            (all.len() == usize::from(self.plan.members) && all.iter().all(is_level)).then(|| {
                for member in &all {
                    assert_eq!(member["digest"], all[0]["digest"], "states differ: {all:?}");
                }
                all.clone()
            })
        })
    }
}

fn ask(endpoints: &str) -> Vec<Reading> {
    let ended = run([
        "status",
        "--json",
        "--timeout-ms",
        "500",
        "--endpoints",
        endpoints,
    ]);
    let all: Value = serde_json::from_str(&ended.out).unwrap_or_default();
    let members = all["members"].as_array().cloned().unwrap_or_default();
    let answer = |m: Value| if m["answers"] == true { m } else { Value::Null };
    members.into_iter().map(answer).collect()
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for (member, child) in self.children.iter_mut().enumerate() {
            if let Some(child) = child {
                // Ended already is fine too.
                drop(child.kill());
                drop(child.wait());
            }
            if std::thread::panicking() {
                let path = self.scratch.path().join(format!("node-{member}.log"));
                let text = std::fs::read_to_string(path).unwrap_or_default();
                println!("--- member {member} said:\n{text}");
            }
        }
    }
}
