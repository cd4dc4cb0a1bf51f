//! Runs commands one after another, prints each with its time, and counts.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// So many lines of what a step printed last are repeated at the end if it failed: long outputs are
/// shortened by who keeps them.
const REPEATED: usize = 40;

/// What came of the steps so far.
#[derive(Default)]
pub struct Steps {
    passed: usize,
    failed: usize,
    skipped: usize,
    done: Vec<(String, Duration, Outcome)>,
    deadline: Option<Instant>,
    /// What failed, and its last lines.
    failures: Vec<(String, VecDeque<String>)>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Outcome {
    Passed,
    Failed,
    Skipped,
}

/// Tests counted in the output of `cargo test`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Counts {
    passed: usize,
    failed: usize,
    ignored: usize,
}

impl Steps {
    /// Steps that must all be done within so many minutes: what is not by then fails, unrun.
    pub fn within(minutes: u64) -> Self {
        Self {
            deadline: Some(Instant::now() + Duration::from_secs(60 * minutes)),
            ..Self::default()
        }
    }

    /// The time a step may take, in seconds.
    fn seconds_for(&self, minutes: u32) -> u64 {
        let wanted = 60 * u64::from(minutes);
        match self.deadline {
            Some(deadline) => deadline
                .saturating_duration_since(Instant::now())
                .as_secs()
                .min(wanted),
            None => wanted,
        }
    }

    /// Runs a command. Its tests are counted if it is a test runner, else it counts as one. It is
    /// ended after `minutes`, which is a failure.
    pub fn run(&mut self, name: &str, minutes: u32, command: &mut Command) {
        println!("\n==> {name}");
        let began = Instant::now();
        let seconds = self.seconds_for(minutes);
        if seconds == 0 {
            println!("FAILED: no time is left for this step");
            return self.record(name, Duration::ZERO, false);
        }
        let mut last = VecDeque::new();
        let (is_success, counts) = match run_counted(&mut bounded(command, seconds), &mut last) {
            Ok(result) => result,
            Err(error) => {
                let program = command.get_program().to_string_lossy();
                println!("cannot run `{program}`: {error}");
                (false, Counts::default())
            }
        };
        if !is_success {
            self.failures.push((name.to_owned(), last));
        }
        if counts == Counts::default() {
            return self.record(name, began.elapsed(), is_success);
        }
        self.passed += counts.passed;
        // Runners that die before their summary have still failed.
        self.failed += counts.failed.max(usize::from(!is_success));
        self.skipped += counts.ignored;
        self.note(name, began.elapsed(), is_success);
    }

    /// Runs a check of our own.
    pub fn check(&mut self, name: &str, check: impl FnOnce() -> bool) {
        println!("\n==> {name}");
        let began = Instant::now();
        let is_success = check();
        self.record(name, began.elapsed(), is_success);
    }

    /// A step that cannot run here: allowed on a developer's machine, a failure in CI.
    pub fn cannot(&mut self, name: &str, missing: &str) {
        println!("\n==> {name}");
        if is_ci() {
            println!("FAILED: {missing}. In CI nothing is skipped.");
            return self.record(name, Duration::ZERO, false);
        }
        println!("SKIPPED: {missing}.");
        self.skipped += 1;
        self.done
            .push((name.to_owned(), Duration::ZERO, Outcome::Skipped));
    }

    /// Prints the table of steps and the closing line; says whether nothing failed.
    pub fn finish(self) -> bool {
        for (name, lines) in &self.failures {
            println!("\n==> {name}: what it printed last, again");
            lines.iter().for_each(|line| print!("{line}"));
        }
        println!();
        for (name, time, outcome) in &self.done {
            let outcome = match outcome {
                Outcome::Passed => "ok",
                Outcome::Failed => "FAILED",
                Outcome::Skipped => "SKIPPED",
            };
            println!("{:>8.1} s  {outcome:<8} {name}", time.as_secs_f64());
        }
        println!();
        if self.skipped > 0 {
            println!(
                "{} SKIPPED here: see above for what is missing",
                self.skipped
            );
        }
        println!("{} passed, {} failed", self.passed, self.failed);
        self.failed == 0 && self.passed > 0
    }

    fn record(&mut self, name: &str, time: Duration, is_success: bool) {
        match is_success {
            true => self.passed += 1,
            false => self.failed += 1,
        }
        self.note(name, time, is_success);
    }

    fn note(&mut self, name: &str, time: Duration, is_success: bool) {
        let outcome = match is_success {
            true => Outcome::Passed,
            false => Outcome::Failed,
        };
        println!("<== {name}: {outcome:?} after {:.1} s", time.as_secs_f64());
        self.done.push((name.to_owned(), time, outcome));
    }
}

/// Whether this is continuous integration, where nothing may be skipped.
pub fn is_ci() -> bool {
    std::env::var("CI").is_ok_and(|v| v == "true")
}

/// The same command under `timeout`, which also ends what it started.
fn bounded(command: &Command, seconds: u64) -> Command {
    let mut bounded = Command::new("timeout");
    bounded.args(["--kill-after=20", &seconds.to_string()]);
    bounded.arg(command.get_program()).args(command.get_args());
    for (key, value) in command.get_envs() {
        match value {
            Some(value) => bounded.env(key, value),
            None => bounded.env_remove(key),
        };
    }
    if let Some(folder) = command.get_current_dir() {
        bounded.current_dir(folder);
    }
    bounded
}

/// Runs to the end, passing its output on, keeping its last lines and counting its tests.
fn run_counted(
    command: &mut Command,
    last: &mut VecDeque<String>,
) -> std::io::Result<(bool, Counts)> {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut counts = Counts::default();
    if let Some(output) = child.stdout.take() {
        let mut output = BufReader::new(output);
        let mut line = Vec::new();
        while output.read_until(b'\n', &mut line)? > 0 {
            let text = String::from_utf8_lossy(&line);
            // `print!`, so that under test this is not taken for the tests' own output.
            print!("{text}");
            std::io::stdout().flush()?;
            counts.add(&text);
            if last.len() == REPEATED {
                last.pop_front();
            }
            last.push_back(text.into_owned());
            line.clear();
        }
    }
    let status = child.wait()?;
    if !status.success() {
        println!("exit: {status} (124 means it took too long)");
    }
    Ok((status.success(), counts))
}

impl Counts {
    /// Adds what a line like `test result: ok. 3 passed; 0 failed; 1 ignored; ...` says.
    fn add(&mut self, line: &str) {
        let Some(result) = line.trim().strip_prefix("test result: ") else {
            return;
        };
        for part in result.split([';', '.']) {
            let mut words = part.split_whitespace();
            let number = words.next().and_then(|n| n.parse::<usize>().ok());
            let (Some(number), Some(what)) = (number, words.next()) else {
                continue;
            };
            match what {
                "passed" => self.passed += number,
                "failed" => self.failed += number,
                "ignored" => self.ignored += number,
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::process::Command;

    use super::{Counts, Steps};

    fn shell(steps: &mut Steps, script: &str) {
        steps.run("shell", 1, Command::new("sh").args(["-c", script]));
    }

    #[test]
    fn the_summary_line_of_a_test_runner_is_counted() {
        let mut counts = Counts::default();
        counts.add("running 4 tests");
        counts.add("test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 7 filtered out; ");
        counts.add("test result: FAILED. 1 passed; 2 failed; 0 ignored; finished in 0.40s");
        let expected = Counts {
            passed: 4,
            failed: 2,
            ignored: 1,
        };
        assert_eq!(counts, expected);
    }

    #[test]
    fn a_command_counts_as_its_tests_or_as_one() {
        let mut steps = Steps::default();
        shell(&mut steps, "echo 'test result: ok. 3 passed; 0 failed;'");
        shell(&mut steps, "true");
        assert_eq!((steps.passed, steps.failed), (4, 0));
        assert!(steps.finish());
    }

    #[test]
    fn every_kind_of_failure_is_counted() {
        let mut steps = Steps::default();
        shell(&mut steps, "false");
        shell(
            &mut steps,
            "echo 'test result: ok. 3 passed; 0 failed;'; exit 101",
        );
        shell(
            &mut steps,
            "echo 'test result: FAILED. 1 passed; 2 failed;'; exit 101",
        );
        steps.run("none", 1, &mut Command::new("/no/such/program"));
        steps.check("check", || false);
        assert_eq!((steps.passed, steps.failed), (4, 6));
        assert!(!steps.finish());
    }

    #[test]
    fn what_takes_too_long_fails_and_the_rest_is_not_run() {
        let mut steps = Steps::within(0);
        shell(&mut steps, "true");
        assert_eq!((steps.passed, steps.failed), (0, 1));
        let mut late = super::bounded(Command::new("sleep").arg("60"), 1);
        let counted = super::run_counted(&mut late, &mut VecDeque::new());
        assert_eq!(counted.unwrap(), (false, Counts::default()));
    }

    #[test]
    fn the_last_lines_of_a_failure_are_kept() {
        let mut steps = Steps::default();
        shell(&mut steps, "seq 50; false");
        shell(&mut steps, "seq 50");
        let [(_, lines)] = steps.failures.as_slice() else {
            panic!("one of them failed");
        };
        assert_eq!(lines.len(), super::REPEATED);
        assert_eq!(lines.back().map(|line| line.trim()), Some("50"));
    }

    #[test]
    fn no_test_at_all_is_a_failure() {
        assert!(!Steps::default().finish());
    }
}
