//! `coracle log`: the frames of a data directory.

use std::io::{self, BufWriter, Write};
use std::path::PathBuf;

use super::Failure;
use crate::storage::recover::confirmed;
use crate::walk::{Frame, Walk, kind_of};
use clap::Args;

/// List and verify the frames of a member's log
#[derive(Debug, Args)]
#[command(after_long_help = "\
One line for each frame: where it is, the leadership term that wrote it, what it carries, for which
session, how many bytes, and its checksum. Both checksums of every frame are verified on the way.
The log ends where no whole frame follows, behind what was confirmed to be durable: what a member
that changed its leader has cut off stays there until it is written over, and so does what was in a
file before it was used again; and a running member may be in the middle of a write. It starts at
0, or above if it was purged or begun after a snapshot: see `coracle snapshots`. Works on a running
member's directory too.

  coracle log --dir data/0
  coracle log --dir data/0 --from 65536 --count 20
  coracle log --dir data/0 --verify        exit code 1 and the position if it is damaged")]
pub struct LogArgs {
    /// The member's data directory
    #[arg(long, short, value_name = "DIR")]
    dir: PathBuf,
    /// Only verify, and print a summary
    #[arg(long)]
    verify: bool,
    /// Start at this position, which must be a frame's; without this, where the log starts
    #[arg(long, value_name = "POSITION", value_parser = clap::value_parser!(u64).range(..1 << 63))]
    from: Option<u64>,
    /// Stop after so many frames
    #[arg(long, value_name = "FRAMES", default_value_t = u64::MAX)]
    count: u64,
}

/// Runs the command.
///
/// # Errors
/// A directory that cannot be read, or a damaged frame.
pub fn run(args: &LogArgs) -> Result<(), Failure> {
    let mut out = BufWriter::new(io::stdout().lock());
    let Some(mut walk) = Walk::open(&args.dir)? else {
        return Err(Failure::outcome(format!(
            "{} has no log: give the data directory of a member that has run",
            args.dir.display()
        )));
    };
    let from = args.from.unwrap_or(walk.start());
    if from != walk.start() {
        walk.seek(from)?;
    }
    if !args.verify {
        if walk.start() > 0 {
            writeln!(out, "the log starts at position {}", walk.start())?;
        }
        writeln!(out, "{HEADING}")?;
    }
    let (mut frames, mut messages, mut terms, mut last_term) = (0u64, 0u64, 0u64, 0);
    let certain = confirmed(&args.dir.join("log"))?;
    while frames < args.count {
        let Some(frame) = walk.next_frame_above(certain, i64::MAX as u64)? else {
            break;
        };
        frames += 1;
        messages += u64::from(!frame.is_pad && frame.flags & 0x40 != 0);
        if frame.term != last_term {
            last_term = frame.term;
            terms += 1;
        }
        if !args.verify {
            write_frame(&mut out, &frame)?;
        }
    }
    if args.verify {
        writeln!(
            out,
            "{}: {frames} frames with {messages} records of {terms} terms, positions {} to {}, \
             every checksum holds; the log starts at {}",
            args.dir.display(),
            from,
            walk.position(),
            walk.start()
        )?;
    }
    out.flush()?;
    Ok(())
}

/// The column titles of `write_frame`.
pub const HEADING: &str =
    "    position   term  kind      part    session      length  checksum  chain";

/// One line for one frame.
///
/// # Errors
/// That of the output.
pub fn write_frame(out: &mut impl Write, frame: &Frame<'_>) -> io::Result<()> {
    let begins = frame.flags & 0x80 != 0;
    let part = match (begins, frame.flags & 0x40 != 0) {
        (true, true) => "whole",
        (true, false) => "first",
        (false, false) => "middle",
        (false, true) => "last",
    };
    let (kind, part, session) = if frame.is_pad {
        ("pad", "", None)
    } else if begins {
        let (kind, session) = kind_of(frame.payload);
        (kind.name(), part, session)
    } else {
        ("", part, None)
    };
    let session = session.map_or_else(|| "-".to_owned(), |s| s.to_string());
    writeln!(
        out,
        "{:>12} {:>6}  {kind:<8}  {part:<6} {session:>8}  {:>10}  {:08x}  {:08x}",
        frame.position,
        frame.term,
        frame.payload.len(),
        frame.checksum,
        frame.chain
    )
}

#[cfg(test)]
mod tests {
    use coracle_core::log::{Slot, SlotPlace};
    use coracle_core::units::{ClusterId, Position, Term};

    use super::*;
    use crate::storage::Segment;
    use crate::storage::testing::Scratch;
    use crate::walk::WalkError;
    use crate::walk::tests::written;

    /// Three records of 192 bytes each, the last of which does not follow from the one before.
    fn walked(certain: Option<u64>) -> Result<u64, WalkError> {
        let scratch = Scratch::new("log-tail");
        written(&scratch, &[vec![1; 100], vec![2; 100], vec![3; 100]]);
        let log = scratch.path().join("log");
        let segment = Segment::open(&log.join(Segment::name(0)), true).unwrap();
        segment.write_data(384 + 28, &[0; 4]).unwrap();
        std::fs::write(log.join(Segment::name(64 << 10)), b"no segment").unwrap();
        if let Some(certain) = certain.map(Position::new) {
            let slot = Slot {
                seq: 1,
                cluster: ClusterId(7),
                joined: Term::new(3),
                confirmed: certain,
                intended: certain,
                chain: None,
                segment_length: 64 << 10,
                segment: Position::ZERO,
                place: SlotPlace::Head,
            };
            segment.write_slot(&slot).unwrap();
        }
        let mut walk = Walk::open(scratch.path()).unwrap().unwrap();
        let certain = confirmed(&log).unwrap();
        while walk.next_frame_above(certain, i64::MAX as u64)?.is_some() {}
        Ok(walk.position())
    }

    #[test]
    fn what_was_cut_off_behind_the_log_is_no_damage() {
        assert_eq!(walked(Some(384)).unwrap(), 384);
        for certain in [Some(576), None] {
            let error = walked(certain).unwrap_err();
            let is_damage = matches!(error, WalkError::Bad { position: 384, .. });
            assert!(is_damage, "{error}");
        }
    }
}
