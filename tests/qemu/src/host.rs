//! This host: its ports, its files, its processes.

use std::net::{Ipv4Addr, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// The project's root.
pub fn root() -> PathBuf {
    let own = Path::new(env!("CARGO_MANIFEST_DIR"));
    let root = own.parent().and_then(Path::parent);
    root.unwrap_or(own).to_path_buf()
}

/// The `coracle` command, built from the sources as they are with this program's profile. Or what
/// `CORACLE_BIN` names.
///
/// # Errors
/// It does not build.
pub fn coracle() -> Result<PathBuf, String> {
    static BUILT: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let build = || {
        if let Some(path) = std::env::var_os("CORACLE_BIN") {
            return Ok(path.into());
        }
        let own = std::env::current_exe().map_err(|e| e.to_string())?;
        let folder = own.parent().unwrap_or(Path::new("."));
        let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or("cargo".into()));
        cargo.args([
            "build",
            "--quiet",
            "--package",
            "coracle-std",
            "--bin",
            "coracle",
        ]);
        cargo
            .arg("--target-dir")
            .arg(folder.parent().unwrap_or(folder));
        if folder.ends_with("release") {
            cargo.arg("--release");
        }
        match cargo.current_dir(root()).status() {
            Ok(status) if status.success() => Ok(folder.join("coracle")),
            other => Err(format!("coracle does not build: {other:?}")),
        }
    };
    BUILT.get_or_init(build).clone()
}

/// What a member says of itself over the network.
pub fn status(endpoint: &str) -> Option<serde_json::Value> {
    let output = Command::new(coracle().ok()?)
        .args([
            "status",
            "--json",
            "--timeout-ms",
            "500",
            "--endpoints",
            endpoint,
        ])
        .output();
    serde_json::from_slice(&output.ok()?.stdout).ok()
}

/// Has the members behind `endpoints` take a snapshot, as an operator does; gives what the command
/// has said.
///
/// # Errors
/// The command's own words: a member has not stored it, or the cluster refuses.
pub fn snapshot(endpoints: &str) -> Result<serde_json::Value, String> {
    let output = Command::new(coracle()?)
        .args(["snapshot", "--json", "--endpoints", endpoints])
        .output()
        .map_err(|e| format!("coracle does not start: {e}"))?;
    let (said, why) = (&output.stdout, String::from_utf8_lossy(&output.stderr));
    match output.status.success() {
        true => serde_json::from_slice(said).map_err(|e| e.to_string()),
        false => Err(format!("{why}{}", String::from_utf8_lossy(said))),
    }
}

/// Ports of 127.0.0.1 that nobody uses: below the range from which the system gives some to
/// sockets that ask for any.
///
/// # Errors
/// All are taken.
pub fn free_ports(count: usize) -> Result<Vec<u16>, String> {
    const FIRST: u32 = 12_000;
    const COUNT: u32 = 18_000;
    // Runs at the same time start at different places.
    let start = std::process::id().wrapping_mul(7919);
    let candidates = (0..COUNT).map(|n| (FIRST + start.wrapping_add(n) % COUNT) as u16);
    let free = candidates.filter(|port| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, *port)).is_ok());
    let ports: Vec<u16> = free.take(count).collect();
    match ports.len() == count {
        true => Ok(ports),
        false => Err("no free UDP ports".into()),
    }
}

/// A directory of this run's own, removed at the end unless it is kept.
#[derive(Debug)]
pub struct Scratch {
    path: PathBuf,
    /// Whether it stays.
    pub is_kept: bool,
}

impl Scratch {
    /// # Errors
    /// The system's own.
    pub fn new() -> std::io::Result<Self> {
        let name = format!("coracle-qemu-{}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path)?;
        Ok(Self {
            path,
            is_kept: false,
        })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if !self.is_kept {
            // What is left behind harms nobody.
            drop(std::fs::remove_dir_all(&self.path));
        }
    }
}

/// Seconds that all threads of a process have run so far.
///
/// # Errors
/// The process has ended, or the kernel does not count.
pub fn run_time(process: u32) -> Result<f64, String> {
    let folder = format!("/proc/{process}/task");
    let tasks = std::fs::read_dir(&folder).map_err(|e| format!("{folder}: {e}"))?;
    let times = tasks.flatten().filter_map(|task| {
        // A thread may end meanwhile: it counts no more.
        let text = std::fs::read_to_string(task.path().join("schedstat")).ok()?;
        text.split_whitespace().next()?.parse::<f64>().ok()
    });
    let times: Vec<f64> = times.collect();
    match times.is_empty() {
        true => Err(format!("{folder}: no thread's run time")),
        false => Ok(times.iter().sum::<f64>() / 1e9),
    }
}

/// Resident memory of a process, in MiB.
///
/// # Errors
/// The process has ended.
pub fn resident(process: u32) -> Result<f64, String> {
    let path = format!("/proc/{process}/status");
    let text = std::fs::read_to_string(&path).map_err(|e| format!("{path}: {e}"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<f64>().ok());
    Ok(kib.ok_or_else(|| format!("{path}: no VmRSS"))? / 1024.0)
}
