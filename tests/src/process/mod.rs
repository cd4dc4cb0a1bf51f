//! Clusters of real `coracle` processes on loopback, for the tests named `process_*`.
//!
//! Everything here goes through the doors that a user has: the command line, signals, the status
//! query, the counters file, the library's client. Deadlines are generous: they end a test that
//! hangs, they measure nothing.

mod cluster;
pub mod java;
mod mount;
mod ports;
mod scratch;
mod session;
pub mod soak;

pub use cluster::{Cluster, Plan, Reading};
pub use mount::Mount;
pub use ports::free_ports;
pub use scratch::Scratch;
pub use session::{Session, records};

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, kill_process, setrlimit};

/// How long anything may take on the slowest machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// The `coracle` command, built from the sources as they are, with the profile of this test. Or
/// what `CORACLE_BIN` names.
pub fn coracle() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| match std::env::var_os("CORACLE_BIN") {
        Some(path) => path.into(),
        None => build(&["--bin", "coracle"]).join("coracle"),
    })
}

/// A release build aborts where it panics: from now on a panic ends this process's children first.
pub fn end_children_on_panic() {
    let default = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        default(panic);
        end_children();
    }));
}

fn end_children() {
    let tasks = std::fs::read_dir("/proc/self/task").into_iter().flatten();
    for task in tasks.flatten() {
        let children = std::fs::read_to_string(task.path().join("children")).unwrap_or_default();
        let children = children.split_whitespace().filter_map(|id| id.parse().ok());
        for child in children.filter_map(Pid::from_raw) {
            // Ended already is fine too.
            kill_process(child, Signal::KILL).ok();
        }
    }
}

/// An example of the library, built in the same way.
pub fn example(name: &str) -> PathBuf {
    build(&["--example", name]).join("examples").join(name)
}

/// Builds something of `platform-std`; returns the folder of the profile.
fn build(what: &[&str]) -> PathBuf {
    let test = std::env::current_exe().expect("this test has a path");
    // `target/<profile>/deps/<test>`, or `target/<profile>/<program>`.
    let folder = test.parent().expect("it is in a folder");
    let profile = match folder.ends_with("deps") {
        true => folder.parent().expect("target/<profile>"),
        false => folder,
    };
    let target = profile.parent().expect("target/<profile>");
    let mut build = Command::new(std::env::var_os("CARGO").unwrap_or("cargo".into()));
    build
        .args(["build", "--quiet", "--package", "coracle-std"])
        .args(what);
    build.arg("--target-dir").arg(target).current_dir(root());
    if profile.ends_with("release") {
        build.arg("--release");
    }
    let status = build.status().expect("cargo runs");
    assert!(status.success(), "{what:?} does not build");
    profile.to_owned()
}

/// The project's root.
pub fn root() -> &'static Path {
    let own = Path::new(env!("CARGO_MANIFEST_DIR"));
    own.parent().unwrap_or(own)
}

/// Runs `coracle` to its end.
pub fn run<A: AsRef<std::ffi::OsStr>>(args: impl IntoIterator<Item = A>) -> Ended {
    let mut command = Command::new(coracle());
    // Of the caller's environment, only what a test says counts.
    command.args(args).env_remove("CORACLE_ENDPOINTS");
    Ended::from(command.stdin(Stdio::null()).output().expect("it starts"))
}

/// What a process left behind.
#[derive(Clone, Debug)]
pub struct Ended {
    /// Its exit code, if no signal ended it.
    pub code: Option<i32>,
    /// What it wrote to standard output.
    pub out: String,
    /// What it wrote to standard error.
    pub err: String,
}

impl From<Output> for Ended {
    fn from(output: Output) -> Self {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Self {
            code: output.status.code(),
            out: text(&output.stdout),
            err: text(&output.stderr),
        }
    }
}

impl Ended {
    /// Requires an exit code, and words in what was said on standard error.
    #[track_caller]
    pub fn expect(&self, code: i32, words: &[&str]) {
        assert_eq!(self.code, Some(code), "{self:?}");
        for word in words {
            assert!(self.err.contains(word), "no `{word}` in: {}", self.err);
        }
    }
}

/// Waits until `is_so` gives a value.
///
/// # Panics
/// After [`PATIENCE`], with `what` was waited for.
#[track_caller]
pub fn until<T>(what: &str, mut is_so: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(value) = is_so() {
            return value;
        }
        assert!(Instant::now() < deadline, "in vain: waited for {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Lets this process have so many files open: a session is a socket.
///
/// # Errors
/// In words: the hard limit is lower.
pub fn allow_files(count: u64) -> Result<(), String> {
    let limit = getrlimit(Resource::Nofile);
    let (now, most) = (limit.current, limit.maximum);
    if now.is_none_or(|now| now >= count) {
        return Ok(());
    }
    let raised = Rlimit {
        current: Some(count),
        ..limit
    };
    setrlimit(Resource::Nofile, raised).map_err(|error| {
        format!("{count} files at once are refused ({error}): `ulimit -Hn` is {most:?}")
    })
}

/// Says loudly that a test does not run here. In CI nothing is skipped.
///
/// # Panics
/// In CI.
#[track_caller]
pub fn skip(test: &str, missing: &str) {
    let is_ci = std::env::var("CI").is_ok_and(|v| v == "true");
    assert!(!is_ci, "{test}: {missing}, and in CI nothing is skipped");
    // Past the test runner's capture.
    let text = format!("SKIPPED: {test}: {missing}\n");
    std::io::Write::write_all(&mut std::io::stderr(), text.as_bytes()).ok();
}

/// Whether this is root.
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::net::{Ipv4Addr, TcpListener};

    use super::free_ports;
    use super::ports::{BLOCK, BLOCKS, FIRST};

    /// Below 32768, where Linux begins to give ports to sockets that ask for any.
    const _: () = assert!(FIRST + BLOCK * BLOCKS < 32_768);

    #[test]
    fn ports_are_of_one_process_alone_in_use_or_not() {
        let ports = free_ports(2 * usize::from(BLOCK));
        let unique: BTreeSet<u16> = ports.iter().copied().collect();
        assert_eq!(unique.len(), ports.len());
        for port in ports {
            // What another process would have to do first.
            let first = port - (port - FIRST) % BLOCK;
            assert!(TcpListener::bind((Ipv4Addr::LOCALHOST, first)).is_err());
        }
    }
}
