//! Records as lines on standard output.

use std::io::{self, BufWriter, StdoutLock, Write};
use std::time::Duration;

use super::super::Failure;
use super::Sink;
use crate::walk::{Kind, Record};

/// One line for each record.
pub struct Lines {
    out: BufWriter<StdoutLock<'static>>,
    json: bool,
}

impl Lines {
    /// Text, or with `json` objects.
    pub fn new(json: bool) -> Self {
        let out = BufWriter::new(io::stdout().lock());
        Self { out, json }
    }
}

impl Sink for Lines {
    fn take(&mut self, record: &Record<'_>) -> Result<bool, Failure> {
        write_record(&mut self.out, self.json, record)?;
        Ok(true)
    }

    fn rest(&mut self, time: Duration) -> Result<bool, Failure> {
        self.out.flush()?;
        std::thread::sleep(time);
        Ok(true)
    }

    fn end(&mut self) -> Result<(), Failure> {
        Ok(self.out.flush()?)
    }
}

fn write_record(out: &mut impl Write, json: bool, record: &Record<'_>) -> io::Result<()> {
    let body = record.body();
    if json {
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
