//! Log lines to standard error, as text or as JSON.

use tracing_subscriber::filter::LevelFilter;

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, clap::ValueEnum)]
#[non_exhaustive]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One object a line.
    Json,
}

/// How much is logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, clap::ValueEnum)]
#[non_exhaustive]
pub enum LogLevel {
    /// Nothing.
    Off,
    /// What stops the node.
    Error,
    /// What an operator should look into.
    Warn,
    /// Start, close, and changes of leadership: silent at steady state.
    #[default]
    Info,
    /// Sessions too.
    Debug,
}

/// Starts logging for the whole process; a second call does nothing.
pub fn start(format: LogFormat, level: LogLevel) {
    let filter = match level {
        LogLevel::Off => LevelFilter::OFF,
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
    };
    let builder = tracing_subscriber::fmt()
        .with_max_level(filter)
        .with_target(false)
        .with_ansi(false)
        // Else a line that cannot be written (a full disk, a reader that went away) is told of on
        // standard error as well, and that panics: on the node's thread.
        .log_internal_errors(false)
        .with_writer(std::io::stderr);
    // Fails only if logging has been started already.
    let _again = match format {
        LogFormat::Text => builder.try_init().is_err(),
        LogFormat::Json => builder.json().try_init().is_err(),
    };
}
