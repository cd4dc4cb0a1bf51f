//! The demo's node processes: this same binary, started three times.

use std::fs::File;
use std::net::{Ipv4Addr, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::cli::Failure;
use crate::config::{MemberSettings, Settings};
use crate::counters::{CountersReader, Reading};

/// What the nodes run under, a program and its arguments: an emulator does not hand itself on to
/// the processes that an emulated one starts, unless the system's kernel knows it.
const RUNNER: &str = "CORACLE_RUNNER";

/// Three members on loopback.
pub struct Nodes {
    dir: PathBuf,
    settings: Settings,
    children: Vec<Option<Child>>,
}

impl Nodes {
    /// Chooses free ports, writes the configuration files below `dir`, and starts the processes.
    /// `shape` may change what the defaults say.
    ///
    /// # Errors
    /// Anything that the system refuses.
    pub fn start(dir: &Path, count: u8, shape: impl Fn(&mut Settings)) -> Result<Self, Failure> {
        std::fs::create_dir_all(dir)?;
        let ports = free_ports(usize::from(count) * 2)?;
        let members: Vec<MemberSettings> = (0..count)
            .zip(ports.chunks(2))
            .map(|(id, ports)| MemberSettings {
                id,
                member: format!("127.0.0.1:{}", ports[0]),
                ingress: format!("127.0.0.1:{}", ports[1]),
            })
            .collect();
        let mut settings = Settings::new(0, members, dir);
        shape(&mut settings);
        settings.validate()?;
        let mut nodes = Self {
            dir: dir.to_path_buf(),
            settings,
            children: (0..count).map(|_| None).collect(),
        };
        for member in 0..count {
            let mut settings = nodes.settings.clone();
            settings.member = member;
            settings.dir = nodes.data(member);
            std::fs::write(nodes.config(member), settings.to_string())?;
            nodes.spawn(member)?;
        }
        Ok(nodes)
    }

    /// What all members are configured with.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// How many there are.
    pub fn count(&self) -> u8 {
        self.children.len() as u8
    }

    /// A member's data directory.
    pub fn data(&self, member: u8) -> PathBuf {
        self.dir.join(format!("node-{member}"))
    }

    /// Starts a member's process.
    ///
    /// # Errors
    /// Anything that the system refuses.
    pub fn spawn(&mut self, member: u8) -> Result<(), Failure> {
        self.spawn_with(member, "--init")
    }

    /// Starts the process of a member whose directory was wiped: as one that knows nothing.
    ///
    /// # Errors
    /// Anything that the system refuses.
    pub fn replace(&mut self, member: u8) -> Result<(), Failure> {
        self.spawn_with(member, "--replace")
    }

    /// Deletes all that a member had. It must not run.
    ///
    /// # Errors
    /// Anything that the system refuses.
    pub fn wipe(&mut self, member: u8) -> Result<(), Failure> {
        Ok(std::fs::remove_dir_all(self.data(member))?)
    }

    fn spawn_with(&mut self, member: u8, flag: &str) -> Result<(), Failure> {
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.log(member))?;
        let runner = std::env::var(RUNNER).unwrap_or_default();
        let child = under(&runner, &std::env::current_exe()?)
            .arg("node")
            .arg("--config")
            .arg(self.config(member))
            .arg(flag)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()?;
        self.children[usize::from(member)] = Some(child);
        Ok(())
    }

    /// SIGKILL, and waits until the process is gone.
    ///
    /// # Errors
    /// Anything that the system refuses.
    pub fn kill(&mut self, member: u8) -> Result<(), Failure> {
        if let Some(mut child) = self.children[usize::from(member)].take() {
            child.kill()?;
            child.wait()?;
        }
        Ok(())
    }

    /// SIGTERM, and waits until the process has closed.
    ///
    /// # Errors
    /// It does not close in time, or not well.
    pub fn close(&mut self, member: u8) -> Result<(), Failure> {
        let Some(mut child) = self.children[usize::from(member)].take() else {
            return Ok(());
        };
        let process = rustix::process::Pid::from_child(&child);
        rustix::process::kill_process(process, rustix::process::Signal::TERM)
            .map_err(std::io::Error::from)?;
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            if let Some(status) = child.try_wait()? {
                if status.success() {
                    return Ok(());
                }
                return Err(self.ended(member, &status.to_string()));
            }
            if Instant::now() > deadline {
                self.children[usize::from(member)] = Some(child);
                return Err(self.ended(member, "no end after SIGTERM"));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Tells of a process that has ended without being asked to.
    ///
    /// # Errors
    /// The first such process, with the end of its log.
    pub fn require_alive(&mut self) -> Result<(), Failure> {
        for member in 0..self.count() {
            let status = match &mut self.children[usize::from(member)] {
                Some(child) => child.try_wait()?,
                None => None,
            };
            if let Some(status) = status {
                return Err(self.ended(member, &status.to_string()));
            }
        }
        Ok(())
    }

    /// What a member's counters file says; `None` before it has one.
    pub fn counters(&self, member: u8) -> Option<Reading> {
        CountersReader::open(&self.data(member))
            .map(|reader| reader.read())
            .ok()
    }

    fn config(&self, member: u8) -> PathBuf {
        self.dir.join(format!("node-{member}.toml"))
    }

    fn log(&self, member: u8) -> PathBuf {
        self.dir.join(format!("node-{member}.log"))
    }

    fn ended(&self, member: u8, how: &str) -> Failure {
        let log = std::fs::read_to_string(self.log(member)).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        let last = lines[lines.len().saturating_sub(10)..].join("\n  ");
        Failure::outcome(format!("member {member}: {how}. Its log ends:\n  {last}"))
    }
}

impl Drop for Nodes {
    fn drop(&mut self) {
        for child in self.children.iter_mut().flatten() {
            // Already gone is fine too.
            drop(child.kill());
            drop(child.wait());
        }
    }
}

/// The command that starts `own` under `runner`; as it is, if that is empty.
fn under(runner: &str, own: &Path) -> Command {
    let mut words = runner.split_whitespace();
    let Some(program) = words.next() else {
        return Command::new(own);
    };
    let mut command = Command::new(program);
    command.args(words).arg(own);
    command
}

/// UDP ports that nobody uses at the moment: below the range from which the system gives ports to
/// sockets that ask for any, so that no client takes the port of a node that was killed.
fn free_ports(count: usize) -> Result<Vec<u16>, Failure> {
    const FIRST: u32 = 12_000;
    const COUNT: u32 = 18_000;
    // Demos that run at once start at different places.
    let start = std::process::id().wrapping_mul(7919);
    let candidates = (0..COUNT).map(|n| (FIRST + start.wrapping_add(n) % COUNT) as u16);
    let free = candidates.filter(|port| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, *port)).is_ok());
    let ports: Vec<u16> = free.take(count).collect();
    if ports.len() < count {
        return Err(Failure::outcome("no UDP ports are free for the nodes"));
    }
    Ok(ports)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    #[test]
    fn nodes_run_under_what_is_asked_for() {
        let plain = super::under(" ", Path::new("/coracle"));
        assert_eq!(
            (plain.get_program(), plain.get_args().len()),
            ("/coracle".as_ref(), 0)
        );
        let emulated = super::under("qemu-aarch64  -L /arm", Path::new("/coracle"));
        assert_eq!(emulated.get_program(), "qemu-aarch64");
        assert!(emulated.get_args().eq(["-L", "/arm", "/coracle"]));
    }
}
