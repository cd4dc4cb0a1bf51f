//! The program that runs the others, and the line that it prints.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

use super::super::Options;
use super::super::load::Wait;
use super::{System, Work};
use crate::process::root;

/// What a system came to.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Found {
    /// Answers in a second.
    pub rate: f64,
    /// Latencies, in microseconds.
    pub p50: f64,
    /// The same.
    pub p99: f64,
    /// Processor time of all members for a message, in microseconds.
    pub members: f64,
}

impl Found {
    /// From a line of JSON.
    ///
    /// # Errors
    /// In words: it is not such a line, or nothing was answered.
    pub fn parse(text: &str) -> Result<Self, String> {
        let line: Value = serde_json::from_str(text.trim())
            .map_err(|error| format!("not the line that was expected ({error}): {text}"))?;
        let number = |key: &str| {
            let number = line[key].as_f64().filter(|n| n.is_finite() && *n >= 0.0);
            number.ok_or_else(|| format!("no `{key}` in: {text}"))
        };
        if number("count")? < 1.0 {
            return Err("nothing was answered".into());
        }
        Ok(Self {
            rate: number("rate")?,
            p50: number("p50_us")?,
            p99: number("p99_us")?,
            members: number("members_us")?,
        })
    }
}

/// What runs the others.
pub struct Program {
    path: PathBuf,
    aeron: Option<String>,
}

/// What the JVM must open to Aeron.
const OPENS: [&str; 4] = [
    "--add-opens",
    "java.base/jdk.internal.misc=ALL-UNNAMED",
    "--add-opens",
    "java.base/sun.nio.ch=ALL-UNNAMED",
];

impl Program {
    /// Builds it, in a folder of its own in the project's target folder. Or what `CORACLE_RIVALS`
    /// names is taken.
    ///
    /// # Errors
    /// In words.
    pub fn build(aeron: Option<String>) -> Result<Self, String> {
        let path = match std::env::var_os("CORACLE_RIVALS") {
            Some(path) => path.into(),
            None => built()?,
        };
        let program = Self { path, aeron };
        if let Some(jars) = &program.aeron {
            let mut javac = Command::new("javac");
            javac.args(["-cp", jars, "-d"]).arg(program.classes());
            javac.arg(root().join("tests/rivals/aeron/Load.java"));
            finish(
                &mut javac,
                "tests/rivals/aeron/Load.java does not compile (it needs a JDK, Debian: \
                 default-jdk-headless, and Aeron's jars)",
            )?;
        }
        Ok(program)
    }

    fn classes(&self) -> PathBuf {
        root().join("target/rivals/aeron")
    }

    /// Which versions of all these are measured.
    ///
    /// # Errors
    /// In words.
    pub fn versions(&self) -> Result<Value, String> {
        let output = finish(Command::new(&self.path).arg("versions"), "no versions")?;
        let text = String::from_utf8_lossy(&output.stdout);
        serde_json::from_str(&text).map_err(|error| format!("versions: {error}: {text}"))
    }

    /// One system at one work.
    ///
    /// # Errors
    /// In words.
    pub fn run(
        &self,
        system: System,
        work: &Work,
        options: &Options,
        dir: &Path,
    ) -> Result<Found, String> {
        let mut command = match (system, &self.aeron) {
            (System::Aeron, Some(jars)) => {
                let mut java = Command::new("java");
                let classes = format!("{jars}:{}", self.classes().display());
                java.args(OPENS).args(["-cp", &classes, "Load", "run"]);
                java
            }
            _ => {
                let mut command = Command::new(&self.path);
                command.args(["run", named(system)]);
                command
            }
        };
        let wait = match system {
            System::RaftRs(wait) => wait,
            System::Aeron => Wait::Yield,
            _ => Wait::Block,
        };
        let command = command
            .args(arguments(work, options, wait))
            .arg("--dir")
            .arg(dir);
        let output = finish(command, "it failed")?;
        Found::parse(&String::from_utf8_lossy(&output.stdout))
    }

    /// A system's core alone, with what else the program is told; under `valgrind` if asked.
    pub fn core(&self, system: &str, words: &[&str], tool: &[&str]) -> Command {
        let mut command = match tool.split_first() {
            Some((tool, words)) => {
                let mut command = Command::new(tool);
                command.args(words).arg(&self.path);
                command
            }
            None => Command::new(&self.path),
        };
        command.args(["core", system]).args(words);
        command
    }
}

fn built() -> Result<PathBuf, String> {
    let target = root().join("target/rivals");
    eprintln!("building tests/rivals (minutes, the first time)");
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or("cargo".into()));
    cargo
        .args([
            "build",
            "--release",
            "--locked",
            "--quiet",
            "--manifest-path",
        ])
        .arg(root().join("tests/rivals/Cargo.toml"))
        .arg("--target-dir")
        .arg(&target)
        .current_dir(root());
    finish(&mut cargo, "tests/rivals does not build")?;
    Ok(target.join("release/rivals"))
}

fn named(system: System) -> &'static str {
    match system {
        System::RaftRs(_) => "raft-rs",
        System::Openraft => "openraft",
        System::Etcd => "etcd",
        System::Aeron => "aeron",
        System::Coracle(_) => "coracle",
    }
}

fn arguments(work: &Work, options: &Options, wait: Wait) -> Vec<String> {
    let mut words = vec!["--len".to_owned(), work.len.to_string()];
    words.extend(["--in-flight".into(), work.in_flight.to_string()]);
    let seconds = options.time.as_secs_f64();
    words.extend(["--seconds".into(), seconds.to_string()]);
    let seconds = options.peer_warm_up().as_secs_f64();
    words.extend(["--warm-up".into(), seconds.to_string()]);
    words.extend(["--wait".into(), wait.name().into()]);
    if work.is_durable {
        words.push("--durable".into());
    }
    words
}

/// Runs to the end, with what it says on standard error if it fails.
///
/// # Errors
/// In words.
pub fn finish(command: &mut Command, what: &str) -> Result<Output, String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command.output();
    let output = output.map_err(|error| format!("{what}: cannot run `{program}`: {error}"))?;
    if output.status.success() {
        return Ok(output);
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(format!("{what}: {}\n{}", output.status, said.trim_end()))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const LINE: &str = r#"{"client_us":1.0,"count":10,"members_us":9.5,"p50_us":2.5,
        "p99_us":7,"rate":1234.5}"#;

    #[test]
    fn a_line_is_read_whole_or_not_at_all() {
        let expected = Found {
            rate: 1234.5,
            p50: 2.5,
            p99: 7.0,
            members: 9.5,
        };
        assert_eq!(Found::parse(LINE), Ok(expected));
        for (from, to) in [
            ("\"count\":10", "\"count\":0"),
            ("1234.5", "null"),
            ("2.5", "-2.5"),
            ("p99_us", "p98_us"),
            ("{", ""),
            ("\"p50_us\":2.5", "\"p50_us\":\"2.5\""),
        ] {
            let line = LINE.replacen(from, to, 1);
            assert!(Found::parse(&line).is_err(), "{line}");
        }
    }

    #[test]
    fn what_failed_is_told_with_its_own_words() {
        let mut shell = Command::new("sh");
        let error = finish(shell.args(["-c", "echo no room >&2; exit 3"]), "it failed");
        let error = error.unwrap_err();
        assert!(error.contains("no room") && error.contains('3'), "{error}");
        assert!(finish(&mut Command::new("/no/such"), "x").is_err());
    }

    #[test]
    fn the_work_is_told_in_full() {
        let options = Options {
            rows: String::new(),
            rounds: 1,
            time: Duration::from_millis(1500),
            messages: 1,
            len: None,
            is_profile: false,
            steady: None,
            is_quick: false,
            is_json: false,
            svg: PathBuf::new(),
            has_peers: true,
            aeron: None,
        };
        let work = super::super::work(288, 4096, true);
        let words = arguments(&work, &options, Wait::Block).join(" ");
        let expected =
            "--len 288 --in-flight 4096 --seconds 1.5 --warm-up 1 --wait block --durable";
        assert_eq!(words, expected);
    }
}
