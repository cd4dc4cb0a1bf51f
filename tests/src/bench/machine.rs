//! What a figure was measured on.

use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

/// The machine, and what runs on it.
#[derive(Clone, Debug)]
pub struct Machine {
    cpu: String,
    cores: usize,
    kernel: String,
    files: String,
    rustc: String,
    commit: String,
}

impl Machine {
    /// Asks the system. `data` is where the nodes keep their logs.
    pub fn here(data: &Path) -> Self {
        let cpuinfo = read("/proc/cpuinfo");
        let model = cpuinfo
            .lines()
            .find_map(|line| line.strip_prefix("model name")?.split_once(':'));
        Self {
            cpu: model.map_or("unknown".into(), |(_, name)| name.trim().into()),
            cores: std::thread::available_parallelism().map_or(0, usize::from),
            kernel: read("/proc/sys/kernel/osrelease").trim().into(),
            files: file_system(data),
            rustc: said("rustc", &["--version"]),
            commit: said("git", &["describe", "--always", "--dirty"]),
        }
    }

    /// Prints it.
    pub fn print(&self) {
        let Self { cpu, cores, .. } = self;
        println!("machine   {cpu}, {cores} cores, Linux {}", self.kernel);
        println!("data on   {}", self.files);
        let version = env!("CARGO_PKG_VERSION");
        println!(
            "versions  Coracle {version} ({}), {}, release build",
            self.commit, self.rustc
        );
    }

    /// As JSON.
    pub fn json(&self) -> Value {
        json!({ "cpu": self.cpu, "cores": self.cores, "kernel": self.kernel,
                "file_system": self.files, "rustc": self.rustc, "commit": self.commit,
                "coracle": env!("CARGO_PKG_VERSION") })
    }
}

/// The load averages of 1, 5 and 15 minutes.
pub fn load_average() -> String {
    let text = read("/proc/loadavg");
    let three: Vec<&str> = text.split_whitespace().take(3).collect();
    three.join(" ")
}

/// The file system that holds `path`.
fn file_system(path: &Path) -> String {
    let path = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let mounts = read("/proc/self/mounts");
    let holding = mounts.lines().filter_map(|line| {
        let mut words = line.split(' ');
        let (device, at, kind) = (words.next()?, words.next()?, words.next()?);
        path.starts_with(at)
            .then(|| (at.len(), format!("{kind} on {device}")))
    });
    holding
        .max()
        .map_or("an unknown file system".into(), |(_, text)| text)
}

fn read(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

fn said(program: &str, args: &[&str]) -> String {
    let output = Command::new(program)
        .args(args)
        .current_dir(crate::process::root())
        .output();
    let text = output.map(|o| String::from_utf8_lossy(&o.stdout).trim().to_owned());
    text.ok()
        .filter(|text| !text.is_empty())
        .unwrap_or_else(|| format!("{program} unknown"))
}
