//! Three member processes, what they are told, and what they take of the machine.

use std::io;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::arguments::Arguments;
use crate::wire::Wait;

/// What a connection begins with, and what clients say then.
#[derive(Debug, PartialEq, Eq)]
pub enum Said<'f> {
    /// The member of this id connects to another one.
    Member(u64),
    /// Do you lead?
    Client,
    /// What is to be echoed once it is committed.
    Request(&'f [u8]),
}

const MEMBER: u8 = b'M';
const CLIENT: u8 = b'C';
const REQUEST: u8 = b'R';

impl<'f> Said<'f> {
    /// What a frame says.
    ///
    /// # Errors
    /// Nobody says this.
    pub fn parse(frame: &'f [u8]) -> io::Result<Self> {
        let said = match frame.split_first() {
            Some((&MEMBER, id)) => id
                .try_into()
                .ok()
                .map(|id| Self::Member(u64::from_le_bytes(id))),
            Some((&CLIENT, [])) => Some(Self::Client),
            Some((&REQUEST, text)) => Some(Self::Request(text)),
            _ => None,
        };
        said.ok_or_else(|| {
            let text = format!("a frame of {} bytes that says nothing", frame.len());
            io::Error::new(io::ErrorKind::InvalidData, text)
        })
    }

    /// The first words of a member.
    pub fn member(id: u64) -> [u8; 9] {
        let mut bytes = [MEMBER; 9];
        bytes[1..].copy_from_slice(&id.to_le_bytes());
        bytes
    }

    /// The first words of a client, answered by one byte: whether the member leads.
    pub const CLIENT: &'static [u8] = &[CLIENT];
    /// What stands before a request's text.
    pub const REQUEST: &'static [u8] = &[REQUEST];
}

/// What a member process is told.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Member {
    /// 1 to 3.
    pub id: u64,
    /// Of all members, by id.
    pub ports: Vec<u16>,
    /// What it does without work.
    pub wait: Wait,
    /// Where its log is, if it flushes.
    pub wal: Option<PathBuf>,
}

impl Member {
    /// From the command line.
    ///
    /// # Errors
    /// In words.
    pub fn parse(arguments: &mut Arguments) -> Result<Self, String> {
        let ports = arguments.word("--ports")?;
        let ports: Result<Vec<u16>, _> = ports.split(',').map(str::parse).collect();
        let member = Self {
            id: arguments.number("--id")?,
            ports: ports.map_err(|error| format!("--ports: {error}"))?,
            wait: arguments.wait()?,
            wal: arguments.optional("--wal").map(PathBuf::from),
        };
        if member.ports.len() != 3 || !(1..=3).contains(&member.id) {
            return Err("three ports, and an id of 1 to 3".into());
        }
        Ok(member)
    }

    fn arguments(&self) -> Vec<String> {
        let ports: Vec<String> = self.ports.iter().map(u16::to_string).collect();
        let mut words = vec!["--id".into(), self.id.to_string()];
        words.extend(["--ports".into(), ports.join(",")]);
        words.extend(["--wait".into(), self.wait.name().into()]);
        if let Some(wal) = &self.wal {
            words.extend(["--wal".into(), wal.display().to_string()]);
        }
        words
    }
}

/// Ports of this machine that nobody has.
pub fn free_ports(count: usize) -> io::Result<Vec<u16>> {
    let listeners: io::Result<Vec<TcpListener>> = (0..count)
        .map(|_| TcpListener::bind(("127.0.0.1", 0)))
        .collect();
    let port = |listener: &TcpListener| Ok(listener.local_addr()?.port());
    listeners?.iter().map(port).collect()
}

/// Processes that end with this value.
#[derive(Default)]
pub struct Processes(Vec<Child>);

impl Processes {
    /// One more.
    pub fn start(&mut self, command: &mut Command) -> io::Result<()> {
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn()?;
        self.0.push(child);
        Ok(())
    }

    /// Three of this program as members of `system`. Returns them and their ports.
    pub fn members(
        system: &str,
        wait: Wait,
        is_durable: bool,
        dir: &Path,
    ) -> io::Result<(Self, Vec<u16>)> {
        let ports = free_ports(3)?;
        let mut all = Self::default();
        for id in 1..=3 {
            let wal = is_durable.then(|| dir.join(format!("member-{id}.wal")));
            let member = Member {
                id,
                ports: ports.clone(),
                wait,
                wal,
            };
            let mut command = Command::new(std::env::current_exe()?);
            command.args(["member", system]).args(member.arguments());
            all.start(&mut command)?;
        }
        Ok((all, ports))
    }

    /// An error if one of them has ended by itself.
    pub fn check(&mut self) -> Result<(), String> {
        for child in &mut self.0 {
            if let Some(status) = child.try_wait().map_err(|e| e.to_string())? {
                return Err(format!("a member has ended: {status}"));
            }
        }
        Ok(())
    }

    /// Seconds that all of them have run so far.
    pub fn run_time(&self) -> Result<f64, String> {
        self.0.iter().map(|child| run_time(child.id())).sum()
    }
}

impl Drop for Processes {
    fn drop(&mut self) {
        for child in &mut self.0 {
            // Ended already is fine too.
            child.kill().ok();
            child.wait().ok();
        }
    }
}

/// Seconds that all threads of a process have run so far, as the scheduler counts them.
pub fn run_time(process: u32) -> Result<f64, String> {
    let folder = format!("/proc/{process}/task");
    let tasks = std::fs::read_dir(&folder).map_err(|e| format!("{folder}: {e}"))?;
    let times = tasks.flatten().filter_map(|task| {
        // A thread may have ended meanwhile.
        let text = std::fs::read_to_string(task.path().join("schedstat")).ok()?;
        text.split_whitespace().next()?.parse::<f64>().ok()
    });
    Ok(times.sum::<f64>() / 1e9)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_is_understood_and_nothing_else_is() {
        assert_eq!(Said::parse(&Said::member(7)).unwrap(), Said::Member(7));
        assert_eq!(Said::parse(Said::CLIENT).unwrap(), Said::Client);
        let request = [Said::REQUEST, b"text"].concat();
        assert_eq!(Said::parse(&request).unwrap(), Said::Request(b"text"));
        assert_eq!(Said::parse(b"R").unwrap(), Said::Request(b""));
        for wrong in [&b""[..], b"M", b"M1234567", b"M123456789", b"C1", b"X"] {
            assert!(Said::parse(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn a_member_is_told_all_it_is_to_know() {
        for wal in [None, Some(PathBuf::from("/tmp/a b"))] {
            let member = Member {
                id: 2,
                ports: vec![1, 2, 3],
                wait: Wait::Block,
                wal,
            };
            let mut arguments = Arguments::new(member.arguments());
            assert_eq!(Member::parse(&mut arguments).as_ref(), Ok(&member));
            assert_eq!(arguments.finish(), Ok(()));
        }
        for wrong in [
            "--id 4 --ports 1,2,3",
            "--id 1 --ports 1,2",
            "--id 1 --ports 1,2,x",
        ] {
            let words = wrong.split(' ').chain(["--wait", "yield"]);
            let mut arguments = Arguments::new(words.map(str::to_owned).collect());
            assert!(Member::parse(&mut arguments).is_err(), "{wrong}");
        }
    }

    #[test]
    fn this_process_runs() {
        assert!(run_time(std::process::id()).unwrap() > 0.0);
        assert!(run_time(u32::MAX).is_err());
    }
}
