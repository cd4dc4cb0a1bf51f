//! `coracle snapshots`: the snapshots in a data directory.

use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use clap::Args;
use coracle_core::units::Position;
use serde_json::{Value, json};

use super::Failure;
use crate::config::Size;
use crate::storage::StorageError;
use crate::storage::snapshots::{Entry, SetError, SnapshotSet, entries, file_name, verify};

/// List and verify the snapshots of a member
#[derive(Debug, Args)]
#[command(after_long_help = "\
A snapshot is the state of the sessions and of every service at one position of the log: with it, a
member starts without the log before, which can then be deleted. One line for each: its position,
the leadership term, the cluster's time there, its size, its sections, and whether every byte of it
is as it was written. Equal positions have equal digests on every member.

The newest two are kept. A member starts from the newest that is sound, and executes the log from
there on again. `part` is one that another member is sending. Works on a running member's directory
too. Exit code 1 if one is damaged.

  coracle snapshots --dir data/0
  coracle snapshots --dir data/0 --json       one object a line")]
pub struct SnapshotsArgs {
    /// The member's data directory
    #[arg(long, short, value_name = "DIR")]
    dir: PathBuf,
    /// One JSON object a line
    #[arg(long)]
    json: bool,
}

/// Runs the command.
///
/// # Errors
/// A directory that cannot be read, or a damaged snapshot.
pub fn run(args: &SnapshotsArgs) -> Result<(), Failure> {
    if !args.dir.join("node-state").exists() {
        return Err(Failure::outcome(format!(
            "{} is no data directory: give that of a member that has run",
            args.dir.display()
        )));
    }
    let mut out = BufWriter::new(io::stdout().lock());
    if !args.json {
        writeln!(out, "{HEADING}")?;
    }
    let mut faults = Vec::new();
    for (entry, path) in entries(&args.dir.join("snapshot"))? {
        let found = match entry {
            Entry::Set(position) => match check(&path, position)? {
                Some(found) => found,
                None => continue,
            },
            Entry::Part(position, _) => Line::Part(position),
            Entry::Draft => continue,
        };
        if let Line::Unusable(_, what) = &found {
            faults.push(what.clone());
        }
        if args.json {
            writeln!(out, "{}", found.to_json())?;
        } else {
            found.write(&mut out)?;
        }
    }
    out.flush()?;
    match faults.into_iter().next() {
        Some(fault) => Err(Failure::outcome(fault)),
        None => Ok(()),
    }
}

const HEADING: &str =
    "    position   term  time                  size        digest            sections";

/// What is said of one entry.
enum Line {
    Sound(SnapshotSet),
    Part(Position),
    Unusable(Position, String),
}

/// Reads a set; `None` if the member that runs has deleted it meanwhile.
fn check(path: &Path, position: Position) -> Result<Option<Line>, StorageError> {
    let what = match verify(path, position, None) {
        Ok(set) => return Ok(Some(Line::Sound(set))),
        Err(_) if !path.exists() => return Ok(None),
        Err(SetError::Damaged(damaged)) => {
            format!("{} is damaged: {}", damaged.path.display(), damaged.what)
        }
        Err(SetError::Refused(error @ StorageError::Newer { .. })) => error.to_string(),
        Err(SetError::Refused(error)) => return Err(error),
    };
    Ok(Some(Line::Unusable(position, what)))
}

impl Line {
    fn write(&self, out: &mut impl Write) -> io::Result<()> {
        match self {
            Self::Sound(set) => {
                let sections: Vec<String> =
                    set.sections.iter().map(|s| file_name(s.section)).collect();
                writeln!(
                    out,
                    "{:>12} {:>6}  {:<20}  {:<10}  {:016x}  {}; verified",
                    set.position(),
                    set.begin.term,
                    utc(set.begin.timestamp.0),
                    Size(set.bytes()).to_string(),
                    digest(set),
                    sections.join(" ")
                )
            }
            Self::Part(position) => writeln!(out, "{position:>12}  part: being received"),
            Self::Unusable(position, what) => writeln!(out, "{position:>12}  {what}"),
        }
    }

    fn to_json(&self) -> Value {
        match self {
            Self::Sound(set) => {
                let section = |s: &crate::storage::snapshots::SectionFile| {
                    json!({
                        "name": file_name(s.section),
                        "bytes": s.length,
                        "digest": format!("{:016x}", s.end.digest),
                    })
                };
                json!({
                    "position": set.position().get(),
                    "state": "verified",
                    "cluster": set.begin.cluster.0,
                    "term": set.begin.term.get(),
                    "time_ms": set.begin.timestamp.0,
                    "bytes": set.bytes(),
                    "digest": format!("{:016x}", digest(set)),
                    "sections": set.sections.iter().map(section).collect::<Vec<_>>(),
                })
            }
            Self::Part(position) => json!({"position": position.get(), "state": "part"}),
            Self::Unusable(position, what) => {
                json!({"position": position.get(), "state": "unusable", "what": what})
            }
        }
    }
}

/// The consensus section's, which covers the others'.
fn digest(set: &SnapshotSet) -> u64 {
    set.sections.first().map_or(0, |section| section.end.digest)
}

/// Milliseconds since 1970 as `2026-01-31T12:00:00Z`.
fn utc(millis: i64) -> String {
    let seconds = millis.div_euclid(1000);
    let (days, second) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    // Days to a date by eras of 400 years that begin with March (Hinnant, "chrono-compatible
    // low-level date algorithms").
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_dates() {
        for (millis, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399_999, "2000-02-28T23:59:59Z"),
            (951_782_400_000, "2000-02-29T00:00:00Z"),
            (1_767_225_600_000, "2026-01-01T00:00:00Z"),
            (-1, "1969-12-31T23:59:59Z"),
        ] {
            assert_eq!(utc(millis), text);
        }
    }
}
