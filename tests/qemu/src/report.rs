//! The figures of a run.

use std::time::Duration;

/// One name and its figure.
#[derive(Debug, Default)]
pub struct Report(Vec<(String, String)>);

impl Report {
    /// Adds a line.
    pub fn add(&mut self, name: &str, figure: impl Into<String>) {
        self.0.push((name.to_owned(), figure.into()));
    }

    /// As a table.
    pub fn text(&self) -> String {
        let line = |(name, figure): &(String, String)| format!("  {name:<34} {figure}\n");
        self.0.iter().map(line).collect()
    }
}

/// A time with three digits or so.
pub fn time(time: Duration) -> String {
    match time.as_micros() {
        0..10_000 => format!("{} us", time.as_micros()),
        10_000..10_000_000 => format!("{} ms", time.as_millis()),
        _ => format!("{:.1} s", time.as_secs_f64()),
    }
}

/// Median, 99th percentile and maximum.
pub fn spread(times: &[Duration]) -> String {
    let mut sorted = times.to_vec();
    sorted.sort_unstable();
    let at = |share: usize| sorted.get((sorted.len() * share / 100).min(sorted.len() - 1));
    match (at(50), at(99), sorted.last()) {
        (Some(median), Some(late), Some(last)) => format!(
            "p50 {}, p99 {}, max {} ({} writes)",
            time(*median),
            time(*late),
            time(*last),
            sorted.len()
        ),
        _ => "none".into(),
    }
}
