//! `coracle tail`: a spy on a member's log, in place, never past what is committed.

use std::io::{self, BufWriter, Write};
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::Failure;
use crate::counters::{Counter, CountersReader};
use crate::walk::{Kind, Record, Records, Walk};

/// Follow the committed messages of a member on this machine
#[derive(Debug, Args)]
#[command(after_long_help = "\
Reads the member's own files, in place, while it runs: no load on the cluster, no session. Prints
only what is committed, and no message twice; from where the log starts, if what was before is
purged. One line for each message: its bytes as they are (control characters other than tabs
escaped), or with --json an object with position, term and session.

  coracle tail --dir data/0
  coracle tail --dir data/0 --follow --all --json")]
pub struct TailArgs {
    /// The member's data directory
    #[arg(long, short, value_name = "DIR")]
    dir: PathBuf,
    /// Wait for more
    #[arg(long, short)]
    follow: bool,
    /// Session and leadership records too, not only messages
    #[arg(long)]
    all: bool,
    /// One JSON object a line
    #[arg(long)]
    json: bool,
}

/// Runs the command.
///
/// # Errors
/// A directory that cannot be read, or damage below the committed position.
pub fn run(args: &TailArgs) -> Result<(), Failure> {
    let mut out = BufWriter::new(io::stdout().lock());
    let mut records = Records::default();
    let mut walk = None;
    loop {
        // Opened anew each time: a restarted node makes a new counters file.
        let reading = CountersReader::open(&args.dir)?.read();
        // What is committed may not have reached the files yet: it is in the node's memory first.
        let limit = reading
            .get(Counter::Committed)
            .min(reading.get(Counter::Written));
        if walk.is_none() {
            walk = Walk::open(&args.dir)?;
        }
        if let Some(walk) = &mut walk {
            while let Some(frame) = walk.next_frame(limit)? {
                if let Some(record) = records.push(&frame) {
                    write_record(&mut out, args, &record)?;
                }
            }
        }
        out.flush()?;
        if !args.follow {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn write_record(out: &mut impl Write, args: &TailArgs, record: &Record<'_>) -> io::Result<()> {
    if !args.all && record.kind != Kind::Message {
        return Ok(());
    }
    let body = if record.kind == Kind::Message {
        record.body
    } else {
        &[]
    };
    if args.json {
        let line = serde_json::json!({
            "position": record.position,
            "term": record.term,
            "kind": record.kind.name(),
            "session": record.session,
            "length": body.len(),
            "message": String::from_utf8_lossy(body),
        });
        return writeln!(out, "{line}");
    }
    if record.kind != Kind::Message {
        return writeln!(out, "[{} at {}]", record.kind.name(), record.position);
    }
    write_text(out, body)
}

/// Bytes as a line of text: UTF-8 as it is, line ends and control characters escaped.
fn write_text(out: &mut impl Write, bytes: &[u8]) -> io::Result<()> {
    for chunk in bytes.utf8_chunks() {
        for character in chunk.valid().chars() {
            if character.is_control() && character != '\t' {
                write!(out, "{}", character.escape_default())?;
            } else {
                write!(out, "{character}")?;
            }
        }
        write!(out, "{}", chunk.invalid().escape_ascii())?;
    }
    writeln!(out)
}
