//! `coracle replay`: a member's committed messages, in place, from any position on: to standard
//! output, or as an Aeron stream.

mod bound;
mod lines;
mod stream;

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::Failure;
use crate::config::Size;
use crate::storage::recover::confirmed;
use crate::walk::{Kind, Record, Records, Walk, WalkError};
use bound::Bound;
use lines::Lines;
use stream::Stream;

/// How often `--follow` looks for more.
const LOOK: Duration = Duration::from_millis(20);

/// Replay the committed messages of a member on this machine
#[derive(Debug, Args)]
#[command(after_long_help = "\
Reads the member's own files, in place, while it runs or after it has ended: no load on the cluster,
no session. Gives only what is committed, and nothing twice. One line for each message: its bytes as
they are (control characters other than tabs escaped), or with --json an object with position, term
and session.

  coracle replay --dir data/0                       from where the log starts
  coracle replay --dir data/0 --from 65536 --to 131072
  coracle replay --dir data/0 --follow --all --json

A record belongs to the range if it starts in it: [0, P) and [P, Q) together are [0, Q). What is
purged is in a snapshot and not in the log any more: a --from below is an error that says where the
log starts. `coracle log` and --json tell positions.

With --publish each record is one message of an Aeron stream, as it stands in the log: SBE header
(schema 111), its fields, payload. Waits for a subscriber to this channel and stream, goes as fast
as that reads, and ends the stream when all is read; exit code 1 and where to go on if it goes away.

  coracle replay --dir data/0 --follow --publish 10.0.0.9:40123
  ... and there subscribe to aeron:udp?endpoint=10.0.0.9:40123 stream 103

How far: a running member says what is committed in its counters file. One that has closed has left
it there; of one that was killed, what was flushed of it. If that file is lost, it is only certain
up to the newest snapshot, and a line on standard error says so.")]
pub struct ReplayArgs {
    /// The member's data directory
    #[arg(long, short, value_name = "DIR")]
    dir: PathBuf,
    /// Start with the first record at or above this position [default: where the log starts]
    #[arg(long, value_name = "POSITION", value_parser = clap::value_parser!(u64).range(..1 << 63))]
    from: Option<u64>,
    /// End with the last record that starts below this position
    #[arg(long, value_name = "POSITION")]
    to: Option<u64>,
    /// Go on with what is committed from now on
    #[arg(long, short)]
    follow: bool,
    /// Go to the log's end: what is not committed may yet be lost or replaced
    #[arg(long, conflicts_with = "follow")]
    uncommitted: bool,
    /// Session and leadership records too, not only messages
    #[arg(long)]
    all: bool,
    /// One JSON object a line
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    stream: StreamArgs,
}

/// The Aeron stream, if it shall be one.
#[derive(Debug, Args)]
struct StreamArgs {
    /// Send an Aeron stream to this address instead
    #[arg(long, value_name = "HOST:PORT", conflicts_with = "json")]
    publish: Option<String>,
    /// Its stream id
    #[arg(long, value_name = "ID", default_value_t = 103, requires = "publish")]
    stream_id: i32,
    /// Its session id [default: random]
    #[arg(long, value_name = "ID", requires = "publish")]
    session_id: Option<i32>,
    /// Its term length: eight times the longest record, a power of two
    #[arg(
        long,
        value_name = "SIZE",
        default_value = "16MiB",
        requires = "publish"
    )]
    term_length: Size,
}

/// Where records go.
trait Sink {
    /// Takes a record; waits as long as its reader has no room. False: no more is wanted.
    fn take(&mut self, record: &Record<'_>) -> Result<bool, Failure>;
    /// There is nothing to take for `time`. False: no more is wanted.
    fn rest(&mut self, time: Duration) -> Result<bool, Failure>;
    /// That was all.
    fn end(&mut self) -> Result<(), Failure>;
}

/// Runs the command.
///
/// # Errors
/// A directory that cannot be read, a position that is purged, damage below the committed position,
/// or a subscriber that goes away.
pub fn run(args: &ReplayArgs) -> Result<(), Failure> {
    let mut bound = Bound::new(&args.dir, args.uncommitted);
    // Before anything is promised to a subscriber.
    let mut range = Range::open(args, &mut bound)?;
    let mut sink: Box<dyn Sink> = match &args.stream.publish {
        Some(to) => Box::new(Stream::open(to, &args.stream)?),
        None => Box::new(Lines::new(args.json)),
    };
    loop {
        if let Some(open) = &mut range
            && !open.read(args, &mut bound, sink.as_mut())?
        {
            break;
        }
        if !args.follow || !sink.rest(LOOK)? {
            break;
        }
        if range.is_none() {
            range = Range::open(args, &mut bound)?;
        }
    }
    sink.end()?;
    match &range {
        Some(range) => range.require_reached(),
        None => Ok(()),
    }
}

/// The records to give, and how far that has come.
struct Range {
    walk: Walk,
    records: Records,
    from: u64,
    to: u64,
    end: u64,
}

impl Range {
    /// `None` if the member has no log yet.
    fn open(args: &ReplayArgs, bound: &mut Bound) -> Result<Option<Self>, Failure> {
        let Some(mut walk) = Walk::open(&args.dir)? else {
            return Ok(None);
        };
        let limit = bound.look(walk.cluster())?;
        let start = walk.start().max(limit.start);
        let from = args.from.unwrap_or(start);
        if from < start {
            let position = from;
            return Err(WalkError::Gone { position, start }.into());
        }
        walk.seek_before(from)?;
        Ok(Some(Self {
            walk,
            records: Records::default(),
            from,
            to: args.to.unwrap_or(u64::MAX),
            end: limit.end,
        }))
    }

    /// Gives what is there by now. False: that was the last, or no more is wanted.
    fn read(
        &mut self,
        args: &ReplayArgs,
        bound: &mut Bound,
        sink: &mut dyn Sink,
    ) -> Result<bool, Failure> {
        let limit = bound.look(self.walk.cluster())?;
        let position = self.walk.position();
        if limit.start > self.from.max(position) {
            // Purged, or replaced by a snapshot of the leader's: then the bytes that are still open
            // here may be some that were never committed.
            let start = limit.start;
            return Err(WalkError::Gone { position, start }.into());
        }
        self.end = limit.end;
        // Known before anything is read: what is written meanwhile is no damage.
        let certain = match args.uncommitted {
            true => confirmed(&args.dir.join("log"))?,
            false => None,
        };
        while self.walk.position() < self.to || self.records.is_open() {
            let Some(frame) = self.walk.next_frame_above(certain, limit.end)? else {
                return Ok(true);
            };
            if frame.position < self.from {
                continue;
            }
            if let Some(record) = self.records.push(&frame)
                && record.position < self.to
                && (args.all || record.kind == Kind::Message)
                && !sink.take(&record)?
            {
                return Ok(false);
            }
        }
        Ok(false)
    }

    /// Says so if the range begins above what there is.
    fn require_reached(&self) -> Result<(), Failure> {
        let (from, end) = (self.from, self.end);
        if from <= end {
            return Ok(());
        }
        Err(Failure::outcome(format!(
            "nothing is committed at position {from} yet, only up to {end}: --follow waits for more"
        )))
    }
}

#[cfg(test)]
mod tests;
