//! Processes that are kept on processors. Where there are more of them than of these, which share
//! one decides how fast all are together, and the system has no reason to change that while all of
//! them look again and again.

use rustix::process::Pid;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// Leader and client on one processor, the followers on another: until this is dropped. What a
/// process starts stays where it was started.
pub struct Placed {
    /// Where this process was before.
    before: CpuSet,
}

impl Placed {
    /// Whether there are two processors for that.
    pub fn is_possible() -> bool {
        two(&own()).is_some()
    }

    /// Keeps this process, which is the client, where `leader` is, and `followers` on the other.
    ///
    /// # Errors
    /// In words.
    pub fn keep(leader: u32, followers: &[u32]) -> Result<Self, String> {
        let before = own();
        let (first, second) = two(&before).ok_or("there are no two processors")?;
        let placed = Self { before };
        keep_on(leader, first)?;
        keep_on(std::process::id(), first)?;
        for follower in followers {
            keep_on(*follower, second)?;
        }
        Ok(placed)
    }
}

/// Those that this process may use.
fn own() -> CpuSet {
    sched_getaffinity(None).unwrap_or_default()
}

fn two(of: &CpuSet) -> Option<(usize, usize)> {
    let mut all = (0..CpuSet::MAX_CPU).filter(|cpu| of.is_set(*cpu));
    Some((all.next()?, all.next()?))
}

impl Drop for Placed {
    fn drop(&mut self) {
        let _not_worse_than_before = keep_in(std::process::id(), &self.before);
    }
}

fn keep_on(process: u32, cpu: usize) -> Result<(), String> {
    let mut only = CpuSet::new();
    only.set(cpu);
    keep_in(process, &only)
}

/// All threads of a process.
fn keep_in(process: u32, cpus: &CpuSet) -> Result<(), String> {
    let folder = format!("/proc/{process}/task");
    let tasks = std::fs::read_dir(&folder).map_err(|e| format!("{folder}: {e}"))?;
    for task in tasks.flatten() {
        let name = task.file_name();
        let thread = name.to_str().and_then(|name| name.parse().ok());
        let Some(thread) = thread.and_then(Pid::from_raw) else {
            continue;
        };
        match sched_setaffinity(Some(thread), cpus) {
            // It has ended since it was listed.
            Ok(()) | Err(rustix::io::Errno::SRCH) => {}
            Err(error) => return Err(format!("{folder}: {error}")),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    fn cpus(process: u32) -> Vec<usize> {
        let pid = i32::try_from(process).ok().and_then(Pid::from_raw);
        let set = sched_getaffinity(pid).unwrap();
        (0..CpuSet::MAX_CPU)
            .filter(|cpu| set.is_set(*cpu))
            .collect()
    }

    #[test]
    fn leader_and_client_share_one_and_it_is_over_with_the_guard() {
        let mut others = [(); 3].map(|()| Command::new("sleep").arg("60").spawn().unwrap());
        let [leader, a, b] = [0, 1, 2].map(|at: usize| others[at].id());
        let before = cpus(std::process::id());
        let is_possible = Placed::is_possible();
        let placed = Placed::keep(leader, &[a, b]);
        assert_eq!(placed.is_ok(), is_possible);
        if placed.is_ok() {
            assert_eq!(cpus(leader), before[..1]);
            assert_eq!(cpus(std::process::id()), before[..1]);
            assert_eq!([cpus(a), cpus(b)], [&before[1..2]; 2]);
        }
        drop(placed);
        assert_eq!(cpus(std::process::id()), before);
        for other in &mut others {
            other.kill().unwrap();
            other.wait().unwrap();
        }
        assert!(Placed::keep(u32::MAX >> 1, &[]).is_err());
        assert_eq!(cpus(std::process::id()), before);
    }
}
