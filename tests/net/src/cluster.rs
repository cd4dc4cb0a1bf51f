//! Real node processes: started, killed, started again, asked how they are.

use std::fs::File;
use std::net::UdpSocket;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::scratch::Scratch;

/// One cluster of `coracle node` processes. All of them are killed when it is dropped.
#[derive(Debug)]
pub struct Cluster {
    binary: PathBuf,
    scratch: Scratch,
    nodes: Vec<Node>,
    client: Vec<String>,
}

/// Where a member listens, both UDP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Addresses {
    /// `host:port` for the other members.
    pub member: String,
    /// `host:port` for clients.
    pub ingress: String,
}

/// What a cluster is made of.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    /// The member list, as each node is given it: they differ where a relay stands between two.
    pub views: Vec<Vec<Addresses>>,
    /// Words before each node's command, to run it somewhere else. Empty: here.
    pub wrappers: Vec<Vec<String>>,
    /// Words before a client's command.
    pub client: Vec<String>,
    /// More lines for the top of each configuration file.
    pub settings: String,
}

/// How a member says it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// Its number.
    pub member: usize,
    /// `leader`, `follower` or `candidate`.
    pub role: String,
    /// Its leadership term.
    pub term: u64,
    /// End of its log.
    pub appended: u64,
    /// End of what it may execute.
    pub committed: u64,
    /// End of what its service has executed.
    pub applied: u64,
    /// Digest of its service's state.
    pub digest: String,
    /// Where its log starts: what was below is purged.
    pub log_start: u64,
    /// Position of its newest snapshot.
    pub snapshot: Option<u64>,
}

#[derive(Debug)]
struct Node {
    config: PathBuf,
    output: PathBuf,
    wrapper: Vec<String>,
    process: Option<Child>,
}

impl Plan {
    /// A plain plan: `members` members on loopback, on ports that were free a moment ago.
    pub fn loopback(members: usize) -> Self {
        Self::on("127.0.0.1", members)
    }

    /// The same at `host`: a name, an address, or an IPv6 address in brackets.
    pub fn on(host: &str, members: usize) -> Self {
        let list = addresses_on(host, members);
        Self {
            views: vec![list; members],
            ..Self::default()
        }
    }
}

/// Addresses at `host` for `members` members, on ports that were free a moment ago.
///
/// # Panics
/// When no port is free.
pub fn addresses_on(host: &str, members: usize) -> Vec<Addresses> {
    let address = || format!("{host}:{}", free_port());
    (0..members)
        .map(|_| Addresses {
            member: address(),
            ingress: address(),
        })
        .collect()
}

/// A UDP port that was free a moment ago, each time another one. It is below the range from which
/// Linux gives out ports by itself, so that nobody takes it while a node is being restarted.
///
/// # Panics
/// When none is free.
pub fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    // Processes that run side by side start far apart.
    let process = u16::try_from(std::process::id() % 997).expect("997 fits");
    (0..10_000)
        .map(|_| 20_000 + (process * 12 + NEXT.fetch_add(1, Ordering::Relaxed)) % 12_000)
        .find(|port| UdpSocket::bind(("127.0.0.1", *port)).is_ok())
        .expect("a port is free")
}

impl Cluster {
    /// Writes the configurations and starts every node for the first time.
    ///
    /// # Errors
    /// In plain words, when the program is not there or a node does not start.
    pub fn start(purpose: &str, plan: &Plan) -> Result<Self, String> {
        let scratch = Scratch::new(purpose);
        let mut nodes = Vec::new();
        for (id, view) in plan.views.iter().enumerate() {
            let config = scratch.join(&format!("node{id}.toml"));
            let data = data_of(&scratch, id);
            std::fs::write(&config, configuration(id, &data, view, &plan.settings))
                .map_err(|error| format!("{}: {error}", config.display()))?;
            let output = scratch.join(&format!("node{id}.log"));
            let wrapper = plan.wrappers.get(id).cloned().unwrap_or_default();
            nodes.push(Node {
                config,
                output,
                wrapper,
                process: None,
            });
        }
        let binary = binary()?;
        let mut cluster = Self {
            binary,
            scratch,
            nodes,
            client: plan.client.clone(),
        };
        for id in 0..cluster.nodes.len() {
            cluster.launch(id, &["--init"])?;
        }
        Ok(cluster)
    }

    /// Starts node `id` again, on the data it left.
    ///
    /// # Errors
    /// When the process cannot be started.
    pub fn restart(&mut self, id: usize) -> Result<(), String> {
        self.launch(id, &[])
    }

    /// SIGKILL: the node gets no chance to say goodbye.
    ///
    /// # Errors
    /// When it was not running.
    pub fn kill(&mut self, id: usize) -> Result<(), String> {
        let process = self.nodes[id].process.take();
        let mut process = process.ok_or_else(|| format!("node {id} was not running"))?;
        if let Ok(Some(status)) = process.try_wait() {
            return Err(format!(
                "node {id} had ended with {status}: {}",
                self.last_words(id)
            ));
        }
        process.kill().map_err(|error| error.to_string())?;
        process.wait().map_err(|error| error.to_string())?;
        Ok(())
    }

    /// Fails if a node that should run has ended.
    ///
    /// # Errors
    /// Which, how, and its last words.
    pub fn check_alive(&mut self) -> Result<(), String> {
        for id in 0..self.nodes.len() {
            let ended = match &mut self.nodes[id].process {
                Some(process) => process.try_wait().map_err(|error| error.to_string())?,
                None => None,
            };
            if let Some(status) = ended {
                return Err(format!(
                    "node {id} ended with {status}: {}",
                    self.last_words(id)
                ));
            }
        }
        Ok(())
    }

    /// How the members that answer are.
    ///
    /// # Errors
    /// When the program cannot be started, or prints what cannot be understood.
    pub fn status(&self) -> Result<Vec<Status>, String> {
        let config = self.nodes[0]
            .config
            .to_str()
            .ok_or("the path is not text")?;
        let output = self.run(&["status", "--json", "--config", config])?;
        let text = String::from_utf8_lossy(&output.stdout);
        let value: Value = serde_json::from_str(text.trim()).map_err(|error| {
            format!(
                "status: {error}: {text} {}",
                String::from_utf8_lossy(&output.stderr)
            )
        })?;
        let members = value["members"]
            .as_array()
            .ok_or_else(|| format!("status: {text}"))?;
        Ok(members.iter().filter_map(Status::read).collect())
    }

    /// Waits until one member leads, and returns it.
    ///
    /// # Errors
    /// The last status, when `patience` ran out.
    pub fn await_leader(&mut self, patience: Duration) -> Result<usize, String> {
        let mut leader = None;
        self.await_status("a leader", patience, |members| {
            let newest = members.iter().map(|status| status.term).max();
            let leads = |status: &&Status| status.role == "leader" && Some(status.term) == newest;
            leader = members.iter().find(leads).map(|status| status.member);
            leader.is_some()
        })?;
        leader.ok_or_else(|| "no leader".to_owned())
    }

    /// Waits until node `id` no longer leads in its own eyes: its counters file says so, whatever
    /// its network is like.
    ///
    /// # Errors
    /// What it says, when `patience` ran out.
    pub fn await_step_down(&mut self, id: usize, patience: Duration) -> Result<(), String> {
        let deadline = Instant::now() + patience;
        loop {
            self.check_alive()?;
            let value = self.counters(id)?;
            match value["role"].as_str() {
                Some(role) if role != "leader" => return Ok(()),
                _ if Instant::now() > deadline => return Err(format!("node {id} says {value}")),
                _ => std::thread::sleep(Duration::from_millis(50)),
            }
        }
    }

    /// What node `id`'s counters file says, whatever its network is like; null if there is none.
    ///
    /// # Errors
    /// When the program cannot be started.
    pub fn counters(&self, id: usize) -> Result<Value, String> {
        let data = data_of(&self.scratch, id);
        let data = data.to_str().ok_or("the path is not text")?;
        let output = self.run(&["status", "--json", "--dir", data])?;
        let text = String::from_utf8_lossy(&output.stdout);
        Ok(serde_json::from_str(text.trim()).unwrap_or_default())
    }

    /// One counter of node `id`.
    ///
    /// # Errors
    /// When there is none of that name.
    pub fn counter(&self, id: usize, name: &str) -> Result<u64, String> {
        let counters = self.counters(id)?;
        let number = counters[name].as_u64();
        number.ok_or_else(|| format!("node {id} has no counter {name}: {counters}"))
    }

    /// Waits until every node is level: the same term, positions and digest.
    ///
    /// # Errors
    /// The last status, when `patience` ran out.
    pub fn await_level(&mut self, patience: Duration) -> Result<Vec<Status>, String> {
        let expected = self.nodes.len();
        self.await_status("all members to be level", patience, |members| {
            are_level(members, expected)
        })
    }

    /// Whether every node is level at this moment.
    pub fn is_level(&self) -> bool {
        self.status()
            .is_ok_and(|members| are_level(&members, self.nodes.len()))
    }

    /// Asks for the status until `accept` does.
    ///
    /// # Errors
    /// What was waited for and the last status, when `patience` ran out; or a node that ended.
    pub fn await_status(
        &mut self,
        awaited: &str,
        patience: Duration,
        mut accept: impl FnMut(&[Status]) -> bool,
    ) -> Result<Vec<Status>, String> {
        let deadline = Instant::now() + patience;
        loop {
            self.check_alive()?;
            let status = self.status();
            if let Ok(members) = &status
                && accept(members)
            {
                return Ok(members.clone());
            }
            if Instant::now() > deadline {
                let words: Vec<String> = (0..self.nodes.len())
                    .map(|id| self.last_words(id))
                    .collect();
                return Err(format!(
                    "waited in vain for {awaited}: {status:?} {words:?}"
                ));
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// A command of the program, to be run where clients run.
    pub fn command(&self, words: &[&str]) -> Command {
        let mut command = wrapped(&self.client, &self.binary);
        command.args(words);
        command
    }

    /// Configuration file of node `id`.
    pub fn config(&self, id: usize) -> &Path {
        &self.nodes[id].config
    }

    /// A file name in the cluster's own directory.
    pub fn file(&self, name: &str) -> PathBuf {
        self.scratch.join(name)
    }

    /// The end of what node `id` has printed.
    pub fn last_words(&self, id: usize) -> String {
        let text = std::fs::read_to_string(&self.nodes[id].output).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(5)..].join(" / ")
    }

    /// All that node `id` has printed.
    pub fn output(&self, id: usize) -> String {
        std::fs::read_to_string(&self.nodes[id].output).unwrap_or_default()
    }

    fn run(&self, words: &[&str]) -> Result<Output, String> {
        let mut command = self.command(words);
        let output = command.stdin(Stdio::null()).output();
        output.map_err(|error| format!("{} does not start: {error}", self.binary.display()))
    }

    fn launch(&mut self, id: usize, flags: &[&str]) -> Result<(), String> {
        let node = &mut self.nodes[id];
        let append = File::options().create(true).append(true).open(&node.output);
        let output = append.map_err(|error| format!("{}: {error}", node.output.display()))?;
        let errors = output.try_clone().map_err(|error| error.to_string())?;
        let mut command = wrapped(&node.wrapper, &self.binary);
        command
            .args(["node", "--config"])
            .arg(&node.config)
            .args(flags);
        command.stdin(Stdio::null()).stdout(output).stderr(errors);
        let process = command.spawn();
        node.process = Some(process.map_err(|error| format!("node {id}: {error}"))?);
        Ok(())
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for id in 0..self.nodes.len() {
                crate::say!("node {id}: {}", self.last_words(id));
            }
        }
        for node in &mut self.nodes {
            if let Some(process) = &mut node.process {
                drop(process.kill());
                drop(process.wait());
            }
        }
    }
}

/// The program under test: `CORACLE_BIN`, or a fresh release build of this repository.
fn binary() -> Result<PathBuf, String> {
    if let Some(path) = std::env::var_os("CORACLE_BIN") {
        let path = PathBuf::from(path);
        return match path.canonicalize() {
            Ok(path) => Ok(path),
            Err(error) => Err(format!("CORACLE_BIN is {}: {error}", path.display())),
        };
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    crate::say!("making sure of a fresh build: cargo build --release");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let status = Command::new(cargo)
        .args(["build", "--release", "--quiet", "--bin", "coracle"])
        .current_dir(&root)
        .stdin(Stdio::null())
        .status()
        .map_err(|error| format!("cargo does not start: {error}"))?;
    if !status.success() {
        return Err(format!("the program does not build: {status}"));
    }
    let path = root.join("target/release/coracle");
    path.canonicalize()
        .map_err(|error| format!("{}: {error}", path.display()))
}

fn data_of(scratch: &Scratch, id: usize) -> PathBuf {
    scratch.join(&format!("data{id}"))
}

fn wrapped(wrapper: &[String], program: &Path) -> Command {
    match wrapper.split_first() {
        Some((first, rest)) => {
            let mut command = Command::new(first);
            command.args(rest).arg(program);
            command
        }
        None => Command::new(program),
    }
}

fn configuration(id: usize, data: &Path, view: &[Addresses], settings: &str) -> String {
    let mut text = format!("member = {id}\ndir = \"{}\"\n{settings}\n", data.display());
    for (member, addresses) in view.iter().enumerate() {
        text += &format!(
            "[[members]]\nid = {member}\nmember = \"{}\"\ningress = \"{}\"\n",
            addresses.member, addresses.ingress
        );
    }
    text
}

impl Status {
    /// One member of what `coracle status --json` says; none for a member that did not answer.
    pub fn read(value: &Value) -> Option<Self> {
        let number = |key: &str| value[key].as_u64();
        Some(Self {
            member: usize::try_from(number("member")?).ok()?,
            role: value["role"].as_str()?.to_lowercase(),
            term: number("term")?,
            appended: number("appended")?,
            committed: number("committed")?,
            applied: number("applied")?,
            digest: value["digest"].to_string(),
            log_start: number("log_start")?,
            snapshot: number("snapshot"),
        })
    }
}

/// Whether so many members are there, one leads, and all have executed the same log.
pub fn are_level(members: &[Status], expected: usize) -> bool {
    members.len() == expected
        && members.iter().any(|status| status.role == "leader")
        && members.windows(2).all(|pair| is_level(&pair[0], &pair[1]))
}

fn is_level(one: &Status, other: &Status) -> bool {
    let parts = |status: &Status| {
        let positions = (status.appended, status.committed, status.applied);
        (status.term, positions, status.digest.clone())
    };
    parts(one) == parts(other) && one.applied == one.appended
}
