//! Members of one cluster: machines on a switch, and perhaps a process of this host.

use std::fmt::Write as _;
use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use coracle_core::node::MemberAddress;
use coracle_core::units::{ClusterId, MemberId};
use coracle_embedded::identity::Identity;

use crate::disk::{self, Life};
use crate::gateway::{self, Door};
use crate::host::{Scratch, coracle, free_ports, status};
use crate::machine::{Machine, Plan};
use crate::run::Options;
use crate::state::State;
use crate::switch::{Mac, Switch};
use crate::tools::Arch;

/// The number that names the cluster.
const CLUSTER: u64 = 0x00c0_ac1e;
const SEGMENT: u32 = 64 << 10;
const SEGMENTS: u64 = 16;
/// The most bytes of a member's log.
pub const LOG_MAX: u64 = SEGMENTS * SEGMENT as u64;
/// A segment file's header on Linux.
const FILE_HEADER: u64 = 4096;
/// The doors' ports on a machine.
const DOORS: (u16, u16) = (9000, 9100);
/// How long anything may take on the slowest machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// What a member is.
#[derive(Clone, Debug)]
pub enum Kind {
    /// A virtual machine with this image.
    Machine(Arch, PathBuf),
    /// `coracle node` on this host.
    Linux,
}

struct Member {
    kind: Kind,
    plan: Option<Plan>,
    identity: Identity,
    machine: Option<Machine>,
    process: Option<Child>,
}

/// The members, their switch, and where clients find them.
pub struct Cluster {
    scratch: Scratch,
    members: Vec<Member>,
    /// The switch between the machines.
    pub switch: Switch,
    ports: Vec<(u16, u16)>,
    leader_timeout: Duration,
    /// The most stack that any machine ever used that is off now, and how much each has.
    stack: (u64, u64),
}

fn address(member: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, 77, 0, 10 + member as u8)
}

fn mac(member: usize) -> Mac {
    [0x52, 0x54, 0, 0x77, 0, 0x10 + member as u8]
}

impl Cluster {
    /// Makes disks and directories, and starts the switch; no member yet.
    ///
    /// # Errors
    /// The system's own.
    pub fn prepare(kinds: &[Kind], options: &Options) -> Result<Self, String> {
        let scratch = Scratch::new().map_err(|e| e.to_string())?;
        let count = kinds.len();
        let numbers = free_ports(3 * count)?;
        let ports: Vec<_> = numbers[..2 * count]
            .chunks(2)
            .map(|p| (p[0], p[1]))
            .collect();
        let frames = &numbers[2 * count..];
        let wires: Vec<_> = (0..count).map(|n| (frames[n], mac(n))).collect();
        let switch = Switch::start(&wires, options.seed).map_err(|e| e.to_string())?;
        let is_machine = |n: &usize| matches!(kinds[*n], Kind::Machine(..));
        let doors: Vec<Door> = (0..count)
            .filter(is_machine)
            .flat_map(|n| {
                let door = |inside, port| Door {
                    mac: mac(n),
                    at: SocketAddrV4::new(address(n), inside),
                    port,
                };
                [door(DOORS.0, ports[n].0), door(DOORS.1, ports[n].1)]
            })
            .collect();
        gateway::start(&switch, count, &doors).map_err(|e| e.to_string())?;
        let mut cluster = Self {
            scratch,
            members: Vec::new(),
            switch,
            ports,
            leader_timeout: options.leader_timeout,
            stack: (0, 0),
        };
        for (n, kind) in kinds.iter().enumerate() {
            let member = cluster.make(n, kind, kinds, frames[n])?;
            cluster.members.push(member);
        }
        Ok(cluster)
    }

    fn make(&self, n: usize, kind: &Kind, kinds: &[Kind], port: u16) -> Result<Member, String> {
        let path = |name: &str| self.scratch.path().join(format!("{name}-{n}"));
        let identity = self.identity(n, kinds);
        let plan = match kind {
            Kind::Linux => {
                let text = self.settings(n, &path("data"));
                std::fs::write(path("node.toml"), text).map_err(|e| e.to_string())?;
                None
            }
            Kind::Machine(arch, kernel) => {
                let plan = Plan {
                    arch: *arch,
                    kernel: kernel.clone(),
                    disk: path("disk"),
                    log: path("console"),
                    port,
                    switch: self.switch.port(),
                    mac: mac(n),
                };
                disk::make(&plan.disk, &identity, Life::First).map_err(|e| e.to_string())?;
                Some(plan)
            }
        };
        Ok(Member {
            kind: kind.clone(),
            plan,
            identity,
            machine: None,
            process: None,
        })
    }

    fn identity(&self, member: usize, kinds: &[Kind]) -> Identity {
        let listed = |n: usize| {
            let (to_members, to_clients) = *self.ports.get(n)?;
            let member: SocketAddr = match kinds.get(n)? {
                Kind::Machine(..) => (address(n), DOORS.0).into(),
                Kind::Linux => (Ipv4Addr::LOCALHOST, to_members).into(),
            };
            let ingress = format!("127.0.0.1:{to_clients}").parse().ok()?;
            Some(MemberAddress { member, ingress })
        };
        Identity {
            cluster: ClusterId(CLUSTER),
            member: MemberId::new(member as u8).expect("three members"),
            address: address(member),
            prefix: 24,
            gateway: Some(gateway::ADDRESS),
            ports: DOORS,
            members: std::array::from_fn(listed),
            segment_length: SEGMENT,
            log_max: LOG_MAX,
            leader_timeout_ms: self.leader_timeout.as_millis() as u32,
            admin: true,
        }
    }

    /// The configuration of a member on this host. What all members must share is what the image
    /// has compiled in.
    fn settings(&self, member: usize, dir: &Path) -> String {
        let log_max = SEGMENTS * (u64::from(SEGMENT) + FILE_HEADER);
        let timeout = self.leader_timeout.as_millis();
        let dir = dir.display().to_string();
        let mut text = format!(
            "cluster = {CLUSTER}\nmember = {member}\ndir = {dir:?}\nservice = \"kv\"\n\
             kv_memory = \"256 KiB\"\nkv_barrier = \"32 KiB\"\nsegment_length = \"64 KiB\"\n\
             log_max = {log_max}\ncheckpoint_every = \"64 KiB\"\nmessage_max = \"4 KiB\"\n\
             sessions_max = 7\nservice_memory = \"64 KiB\"\nadmin = \"allow\"\n"
        );
        for (n, (to_members, to_clients)) in self.ports.iter().enumerate() {
            write!(
                text,
                "[[members]]\nid = {n}\nmember = \"127.0.0.1:{to_members}\"\n\
                 ingress = \"127.0.0.1:{to_clients}\"\n"
            )
            .expect("a string grows");
        }
        write!(
            text,
            "[timings]\nheartbeat = \"{} ms\"\nleader_timeout = \"{timeout} ms\"\n",
            timeout / 8
        )
        .expect("a string grows");
        text
    }

    /// How many members there are.
    pub fn len(&self) -> usize {
        self.members.len()
    }

    /// Whether a member is a virtual machine.
    pub fn is_machine(&self, n: usize) -> bool {
        self.members[n].plan.is_some()
    }

    /// A machine's address on the segment.
    pub fn address(&self, n: usize) -> Ipv4Addr {
        address(n)
    }

    /// Where clients find the members.
    pub fn endpoints(&self) -> String {
        let one = |(n, (_, port)): (usize, &(u16, u16))| format!("{n}=127.0.0.1:{port}");
        let all: Vec<String> = self.ports.iter().enumerate().map(one).collect();
        all.join(",")
    }

    /// Starts a member.
    ///
    /// # Errors
    /// The system's own.
    pub fn start(&mut self, n: usize) -> Result<(), String> {
        let config = self.scratch.path().join(format!("node.toml-{n}"));
        let log = self.scratch.path().join(format!("console-{n}"));
        let member = &mut self.members[n];
        if let Some(plan) = &member.plan {
            member.machine = Some(Machine::start(plan)?);
            return Ok(());
        }
        let log = File::options().create(true).append(true).open(log);
        let process = Command::new(coracle()?)
            .args(["node", "--init", "--config"])
            .arg(config)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log.map_err(|e| e.to_string())?)
            .spawn();
        member.process = Some(process.map_err(|e| format!("coracle does not start: {e}"))?);
        Ok(())
    }

    /// Starts a machine in member 0's place with a disk that nobody has made: its exit code.
    ///
    /// # Errors
    /// It goes on, or the system's own.
    pub fn start_blank(&mut self) -> Result<i32, String> {
        let Some(plan) = &self.members[0].plan else {
            return Err("member 0 is no machine".into());
        };
        let disk = self.scratch.path().join("blank");
        File::create(&disk)
            .and_then(|file| file.set_len(1 << 20))
            .map_err(|e| e.to_string())?;
        let mut machine = Machine::start(&Plan {
            disk,
            ..plan.clone()
        })?;
        let began = Instant::now();
        while began.elapsed() < PATIENCE {
            if let Some(code) = machine.ended() {
                return Ok(code);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Err("a machine with a blank disk goes on".into())
    }

    /// Pulls a member's plug.
    pub fn kill(&mut self, n: usize) {
        self.stack = self.stack();
        let member = &mut self.members[n];
        if let Some(machine) = member.machine.take() {
            machine.kill();
        }
        if let Some(mut process) = member.process.take() {
            // That it has ended already is fine too.
            drop(process.kill());
            drop(process.wait());
        }
    }

    /// Gives a machine that is off a new disk, in place of one that is lost.
    ///
    /// # Errors
    /// The system's own.
    pub fn replace_disk(&mut self, n: usize, number: u64) -> Result<(), String> {
        let member = &self.members[n];
        let Some(plan) = member.plan.as_ref().filter(|_| !self.is_on(n)) else {
            return Err(format!("member {n} is no machine that is off"));
        };
        std::fs::remove_file(&plan.disk)
            .and_then(|()| disk::make(&plan.disk, &member.identity, Life::Replaced(number)))
            .map_err(|e| e.to_string())
    }

    /// The most stack that any machine ever used, and how much each has.
    pub fn stack(&self) -> (u64, u64) {
        let machines = self.members.iter().filter_map(|m| m.machine.as_ref());
        let used = machines.filter_map(|machine| {
            let words = machine.console().machine?;
            Some((words.number("stack")?, words.number("of")?))
        });
        used.fold(self.stack, |a, b| (a.0.max(b.0), a.1.max(b.1)))
    }

    /// A member's machine, if it is one and on.
    pub fn machine(&self, n: usize) -> Option<&Machine> {
        self.members[n].machine.as_ref()
    }

    /// A machine's disk.
    pub fn disk(&self, n: usize) -> Option<&Path> {
        self.members[n]
            .plan
            .as_ref()
            .map(|plan| plan.disk.as_path())
    }

    fn is_on(&self, n: usize) -> bool {
        self.members[n].machine.is_some() || self.members[n].process.is_some()
    }

    /// How a member is, if it is on and says so: machines on their console, others when asked.
    pub fn state(&self, n: usize) -> Option<State> {
        let member = &self.members[n];
        if let Some(machine) = &member.machine {
            return State::of_console(&machine.console());
        }
        member.process.as_ref()?;
        let endpoint = format!("{n}=127.0.0.1:{}", self.ports[n].1);
        let answer = status(&endpoint)?;
        State::of_answer(&answer["members"][0])
    }

    /// All members' states as a table.
    pub fn table(&self) -> String {
        let mut text = format!(
            "  {:<6} {:<8} {:<10} {:>5} {:>6} {:>9} {:>9} {:>9} {:>9} {:>9} {:>8} {:>6} {:>7}\n",
            "member",
            "what",
            "role",
            "term",
            "leader",
            "start",
            "snapshot",
            "durable",
            "commit",
            "applied",
            "sessions",
            "idle %",
            "stack"
        );
        for (n, member) in self.members.iter().enumerate() {
            let what = match &member.kind {
                Kind::Machine(arch, _) => arch.name(),
                Kind::Linux => "linux",
            };
            let Some(state) = self.state(n) else {
                let how = if self.is_on(n) { "starting" } else { "off" };
                text += &format!("  {n:<6} {what:<8} {how}\n");
                continue;
            };
            let machine = self.machine(n).and_then(|m| m.console().machine);
            let of = |key| {
                machine
                    .as_ref()
                    .and_then(|m| m.get(key))
                    .unwrap_or("-")
                    .to_owned()
            };
            let leader = state.leader.map_or("-".to_owned(), |id| id.to_string());
            text += &format!("  {n:<6} {what:<8} {:<10} {:>5} ", state.role, state.term);
            text += &format!(
                "{leader:>6} {:>9} {:>9} {:>9} {:>9} {:>9} {:>8} {:>6} {:>7}\n",
                state.start,
                state.snapshot,
                state.durable,
                state.committed,
                state.applied,
                state.sessions,
                of("idle"),
                of("stack")
            );
        }
        text
    }

    /// Whether all machines that should be on are.
    ///
    /// # Errors
    /// One has ended.
    pub fn check(&mut self) -> Result<(), String> {
        for (n, member) in self.members.iter_mut().enumerate() {
            if let Some(code) = member.machine.as_mut().and_then(Machine::ended) {
                return Err(format!("machine {n} has ended with {code}"));
            }
        }
        Ok(())
    }

    /// Waits for something.
    ///
    /// # Errors
    /// It does not happen, or a machine stops meanwhile.
    pub fn until<T>(
        &mut self,
        what: &str,
        mut is_so: impl FnMut(&Self) -> Option<T>,
    ) -> Result<T, String> {
        let began = Instant::now();
        loop {
            if let Some(value) = is_so(self) {
                return Ok(value);
            }
            self.check()?;
            if began.elapsed() > PATIENCE {
                return Err(format!("in vain: waited for {what}"));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Waits until one member leads in the newest term, and all others that are on follow it;
    /// `without` are not asked.
    ///
    /// # Errors
    /// As [`Cluster::until`].
    pub fn leader(&mut self, without: &[usize]) -> Result<usize, String> {
        self.until("a leader", |cluster| {
            let others = (0..cluster.len()).filter(|n| !without.contains(n) && cluster.is_on(*n));
            let all: Vec<_> = others.map(|n| Some((n, cluster.state(n)?))).collect();
            let all = all.into_iter().collect::<Option<Vec<_>>>()?;
            let newest = all.iter().map(|(_, state)| state.term).max()?;
            let leads = |(_, s): &&(usize, State)| s.role == "leader" && s.term == newest;
            let leader = all.iter().find(leads)?.0;
            let follows = |s: &State| s.term == newest && s.leader == Some(leader as u64);
            all.iter().all(|(_, s)| follows(s)).then_some(leader)
        })
    }

    /// Waits until all members are on, have executed the same log, and have come to the same state.
    ///
    /// # Errors
    /// As [`Cluster::until`].
    pub fn level(&mut self) -> Result<State, String> {
        self.until("members level with one another", |cluster| {
            let all = (0..cluster.len()).map(|n| cluster.state(n));
            let all = all.collect::<Option<Vec<_>>>()?;
            let first = all.first()?;
            let is_level = |s: &State| {
                let at = [s.appended, s.durable, s.committed, s.applied];
                at == [first.appended; 4] && s.term == first.term && s.digest == first.digest
            };
            all.iter().all(is_level).then(|| first.clone())
        })
    }

    /// Leaves disks and consoles where they are; says where.
    pub fn keep(&mut self) -> PathBuf {
        self.scratch.is_kept = true;
        self.scratch.path().to_owned()
    }

    /// The last lines of all consoles, for who has to find out.
    pub fn last_words(&self) -> String {
        let mut text = String::new();
        for n in 0..self.len() {
            let path = self.scratch.path().join(format!("console-{n}"));
            let all = std::fs::read_to_string(path).unwrap_or_default();
            let lines: Vec<&str> = all.lines().collect();
            let last = lines.iter().skip(lines.len().saturating_sub(25));
            text += &format!("--- member {n} said last:\n");
            last.for_each(|line| text += &format!("{line}\n"));
        }
        text
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        (0..self.len()).for_each(|n| self.kill(n));
        self.switch.end();
    }
}
