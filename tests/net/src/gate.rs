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

/// Says that a test cannot run here. Panics in CI, where that is a failure.
pub fn skip(test: &str, why: &str, install: &str) {
    assert!(
        !is_ci(),
        "{test}: {why}, install {install} (nothing is skipped in CI)"
    );
    say!("SKIPPED: {test}: {why}, install {install}");
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
