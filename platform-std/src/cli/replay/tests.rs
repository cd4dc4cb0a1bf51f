use clap::Parser;

use super::*;
use crate::counters::{Counter, CountersFile};
use crate::storage::segment::Segment;
use crate::storage::testing::Scratch;
use crate::walk::tests::written;

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    args: ReplayArgs,
}

fn args(scratch: &Scratch, more: &str) -> ReplayArgs {
    let dir = scratch.path().to_str().unwrap();
    let line = ["replay", "--dir", dir].into_iter();
    Line::parse_from(line.chain(more.split_whitespace())).args
}

/// Where each record starts, and its first byte.
#[derive(Default)]
struct Taken(Vec<(u64, u8)>);

impl Sink for Taken {
    fn take(&mut self, record: &Record<'_>) -> Result<bool, Failure> {
        self.0.push((record.position, record.body()[0]));
        Ok(true)
    }

    fn rest(&mut self, _: Duration) -> Result<bool, Failure> {
        Ok(true)
    }

    fn end(&mut self) -> Result<(), Failure> {
        Ok(())
    }
}

fn replay(scratch: &Scratch, more: &str) -> Result<Vec<(u64, u8)>, Failure> {
    let args = args(scratch, more);
    let mut bound = Bound::new(scratch.path(), args.uncommitted);
    let mut taken = Taken::default();
    let mut range = Range::open(&args, &mut bound)?.unwrap();
    range.read(&args, &mut bound, &mut taken)?;
    range.require_reached()?;
    Ok(taken.0)
}

/// 200 messages, the longer ones in several frames and over ends of segments.
fn log(scratch: &Scratch) -> u64 {
    let messages: Vec<Vec<u8>> = (0..200).map(|n| vec![n as u8; 1 + n * 17]).collect();
    written(scratch, &messages)
}

fn committed(scratch: &Scratch, position: u64, start: u64) -> CountersFile {
    let path = scratch.path().join("counters");
    let mut counters = CountersFile::create(&path, 7, 0).unwrap();
    counters.publish(&[
        (Counter::Committed, position),
        (Counter::Written, position),
        (Counter::LogStart, start),
    ]);
    counters
}

#[test]
fn any_two_parts_make_up_the_whole() {
    let scratch = Scratch::new("replay-parts");
    let end = log(&scratch);
    committed(&scratch, end, 0).close();
    let all = replay(&scratch, "--from 0").unwrap();
    let numbers: Vec<u8> = all.iter().map(|(_, first)| *first).collect();
    assert_eq!(numbers, (0..200).collect::<Vec<u8>>());
    assert_eq!(replay(&scratch, "").unwrap(), all);
    for position in (0..end).step_by(1999) {
        let suffix = replay(&scratch, &format!("--from {position}")).unwrap();
        let at = all.iter().position(|(p, _)| *p >= position);
        assert_eq!(suffix, all[at.unwrap_or(200)..], "from {position}");
        let mut whole = replay(&scratch, &format!("--to {position}")).unwrap();
        whole.extend(suffix);
        assert_eq!(whole, all, "to and from {position}");
    }
    let text = replay(&scratch, &format!("--from {}", end + 32)).unwrap_err();
    assert!(text.to_string().contains("--follow waits"), "{text}");
    assert_eq!(replay(&scratch, &format!("--from {end}")).unwrap(), []);
}

#[test]
fn what_is_followed_comes_once_wherever_the_commit_stops() {
    let scratch = Scratch::new("replay-follow");
    let end = log(&scratch);
    let mut counters = committed(&scratch, 0, 0);
    let args = args(&scratch, &format!("--follow --to {}", end - 5000));
    let mut bound = Bound::new(scratch.path(), false);
    let mut range = Range::open(&args, &mut bound).unwrap().unwrap();
    let mut taken = Taken::default();
    let mut goes_on = true;
    for position in (0..=end).step_by(7 * 32) {
        counters.publish(&[(Counter::Committed, position), (Counter::Written, end)]);
        assert!(goes_on || position > end - 5000);
        goes_on = range.read(&args, &mut bound, &mut taken).unwrap();
        let last = taken.0.last().map_or(0, |(p, _)| *p);
        assert!(last < position.max(1), "past the commit: {last}");
    }
    assert!(!goes_on, "it ends at --to");
    counters.publish(&[(Counter::Committed, end)]);
    assert_eq!(
        taken.0,
        replay(&scratch, &format!("--to {}", end - 5000)).unwrap()
    );
}

#[test]
fn a_start_that_is_purged_is_an_error_that_says_where_the_log_starts() {
    let scratch = Scratch::new("replay-purged");
    let end = log(&scratch);
    let all = replay(&scratch, "--uncommitted").unwrap();
    std::fs::remove_file(scratch.path().join("log").join(Segment::name(0))).unwrap();
    let mut counters = committed(&scratch, end, 65_536);
    let text = replay(&scratch, "--from 0").unwrap_err().to_string();
    for part in ["position 0", "goes on at 65536", "in a snapshot"] {
        assert!(text.contains(part), "{text}");
    }
    let left: Vec<_> = all.into_iter().filter(|(p, _)| *p >= 65_536).collect();
    assert_eq!(replay(&scratch, "").unwrap(), left);
    assert_eq!(replay(&scratch, "--from 65536").unwrap(), left);

    // Purged while it is read: also what is still open may not be what was committed.
    let args = args(&scratch, "--follow");
    let mut bound = Bound::new(scratch.path(), false);
    counters.publish(&[(Counter::Committed, 70_000)]);
    let mut range = Range::open(&args, &mut bound).unwrap().unwrap();
    assert!(
        range
            .read(&args, &mut bound, &mut Taken::default())
            .unwrap()
    );
    counters.publish(&[(Counter::Committed, end), (Counter::LogStart, 131_072)]);
    let error = range.read(&args, &mut bound, &mut Taken::default());
    let text = error.unwrap_err().to_string();
    assert!(text.contains("goes on at 131072"), "{text}");
}
