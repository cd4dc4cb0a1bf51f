//! Plain output, and the rule for tools that are missing: skipped loudly outside CI, a failure
//! in CI.

use std::fmt::Arguments;
use std::io::Write;
use std::process::{Command, Stdio};

/// Writes one line to standard error at once, past the test runner's capture, so that a long
/// test shows what it does and a skipped one cannot be overlooked.
pub fn say(line: Arguments<'_>) {
    let mut err = std::io::stderr().lock();
    // A closed standard error must not fail a test.
    drop(writeln!(err, "{line}"));
}

/// [`say`] with a format string.
#[macro_export]
macro_rules! say {
    ($($arg:tt)*) => { $crate::gate::say(format_args!($($arg)*)) };
}

/// Whether this run is CI's (`CI=true`), where nothing may be skipped.
pub fn is_ci() -> bool {
    std::env::var("CI").is_ok_and(|value| value == "true" || value == "1")
}

/// Says that a test cannot run here, why, and what to do about it. Panics in CI, where that is a
/// failure.
pub fn skip(test: &str, missing: &Missing) {
    let Missing { why, remedy } = missing;
    assert!(
        !is_ci(),
        "{test}: {why}, {remedy} (nothing is skipped in CI)"
    );
    say!("SKIPPED: {test}: {why}, {remedy}");
}

/// Something that a test needs and that is not there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Missing {
    /// What is missing, in plain words.
    pub why: String,
    /// What to do: `install x`.
    pub remedy: &'static str,
}

impl Missing {
    /// Both parts.
    pub fn new(why: impl Into<String>, remedy: &'static str) -> Self {
        Self {
            why: why.into(),
            remedy,
        }
    }
}

/// Whether `program` can be started at all.
pub fn has_program(program: &str, version_flag: &str) -> bool {
    Command::new(program)
        .arg(version_flag)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

/// Whether this process is root, by the owner of its own entry in `/proc`.
pub fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata("/proc/self").is_ok_and(|entry| entry.uid() == 0)
}
