//! What a member has noted of its own pipeline, and how much of the time its parts work at once.

use std::path::Path;

/// A step of the pipeline that had a part of the log.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Note {
    /// Which stage, as the member calls it.
    pub stage: String,
    /// The first position of the part.
    pub from: u64,
    /// Where the part ends.
    pub to: u64,
    /// When the step began, in nanoseconds of the machine's clock.
    pub begun: u64,
    /// When it ended.
    pub ended: u64,
}

impl Note {
    fn parse(line: &str) -> Option<Self> {
        let mut words = line.split(' ');
        let stage = words.next()?.to_owned();
        let mut number = || words.next()?.parse().ok();
        Some(Self {
            stage,
            from: number()?,
            to: number()?,
            begun: number()?,
            ended: number()?,
        })
    }
}

/// All that one member has noted.
#[derive(Clone, Debug)]
pub struct Trace {
    notes: Vec<Note>,
}

impl Trace {
    /// Reads the file that a member has written at its end.
    ///
    /// # Errors
    /// In words.
    pub fn read(path: &Path) -> Result<Self, String> {
        let text = std::fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))?;
        Self::parse(&text).map_err(|line| format!("{}: what is `{line}`?", path.display()))
    }

    fn parse(text: &str) -> Result<Self, String> {
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        let notes = lines.map(|line| Note::parse(line).ok_or_else(|| line.to_owned()));
        let notes = notes.collect::<Result<_, _>>()?;
        Ok(Self { notes })
    }

    /// The end of the oldest step: from here on nothing is missing.
    pub fn first(&self) -> u64 {
        self.notes.first().map_or(u64::MAX, |note| note.ended)
    }

    /// What was at work in `window`, in part at least.
    pub fn within(&self, window: [u64; 2]) -> impl Iterator<Item = &Note> {
        let notes = self.notes.iter();
        notes.filter(move |note| note.ended > window[0] && note.begun < window[1])
    }

    /// How far the stage was at `time`.
    fn mark(&self, stage: &str, time: u64) -> Option<u64> {
        let notes = self.notes.iter().rev();
        let mut before = notes.filter(|note| note.stage == stage && note.ended <= time);
        before.next().map(|note| note.to)
    }

    /// How many bytes of the log are past `first` and not yet past `last`, on average of a
    /// thousand moments in `window`.
    pub fn between(&self, first: &str, last: &str, window: [u64; 2]) -> f64 {
        let step = ((window[1] - window[0]) / 1000).max(1);
        let moments = (0..1000).map(|n| window[0] + n * step);
        let bytes: Vec<f64> = moments
            .filter_map(|at| Some(self.mark(first, at)?.saturating_sub(self.mark(last, at)?)))
            .map(|bytes| bytes as f64)
            .collect();
        bytes.iter().sum::<f64>() / bytes.len() as f64
    }
}

/// How much of a time somebody was at work, of: each member's thread, each member's disk. A thread
/// does one step at a time, so its own stages count as one.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct AtWork {
    /// One at least.
    pub any: f64,
    /// Two at least.
    pub two: f64,
    /// Two at least, with parts of the log that have nothing in common: what a pipeline does, or a
    /// follower that is behind the other one.
    pub apart: f64,
}

/// A part of the log at a worker, until some time.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Span {
    begun: u64,
    ended: u64,
    worker: usize,
    from: u64,
    to: u64,
}

/// Looks at all of `window`.
pub fn at_work(members: &[&Trace], window: [u64; 2]) -> AtWork {
    let mut spans = Vec::new();
    for (member, trace) in members.iter().enumerate() {
        spans.extend(trace.within(window).map(|note| Span {
            begun: note.begun.max(window[0]),
            ended: note.ended.min(window[1]),
            worker: member * 2 + usize::from(note.stage == "flush"),
            from: note.from,
            to: note.to,
        }));
    }
    spans.sort_unstable();
    let mut moments: Vec<u64> = spans.iter().flat_map(|s| [s.begun, s.ended]).collect();
    moments.sort_unstable();
    moments.dedup();
    let (mut active, mut next) = (Vec::<Span>::new(), spans.into_iter().peekable());
    let mut times = [0; 3];
    for pair in moments.windows(2) {
        active.retain(|span| span.ended > pair[0]);
        while let Some(span) = next.next_if(|span| span.begun <= pair[0]) {
            active.push(span);
        }
        let two = |is_so: fn(&Span, &Span) -> bool| {
            let others = |a: &Span| active.iter().any(|b| a.worker != b.worker && is_so(a, b));
            active.iter().any(others)
        };
        let all = [
            !active.is_empty(),
            two(|_, _| true),
            two(|a, b| a.to <= b.from),
        ];
        for (time, is_so) in times.iter_mut().zip(all) {
            *time += if is_so { pair[1] - pair[0] } else { 0 };
        }
    }
    let [any, two, apart] = times.map(|time| time as f64 / (window[1] - window[0]) as f64);
    AtWork { any, two, apart }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trace(text: &str) -> Trace {
        Trace::parse(text).unwrap()
    }

    #[test]
    fn a_line_that_is_no_note_is_an_error() {
        assert_eq!(trace("# words\nwrite 0 32 5 9\n").notes.len(), 1);
        assert_eq!(Trace::parse("write 0 32 5").unwrap_err(), "write 0 32 5");
    }

    #[test]
    fn steps_of_one_thread_do_not_overlap_and_those_of_two_do() {
        let leader = trace("append 0 32 0 10\ntransmit 0 32 10 20\nwrite 0 32 5 20\n");
        let work = |any, two, apart| AtWork { any, two, apart };
        assert_eq!(at_work(&[&leader], [0, 40]), work(0.5, 0.0, 0.0));
        let follower = trace("append 0 32 15 30\nwrite 0 32 30 35\n");
        let both = [&leader, &follower];
        assert_eq!(at_work(&both, [0, 40]), work(0.875, 0.125, 0.0));
        // The disk has the first part, and the thread the next.
        let flushing = trace("flush 0 32 0 40\nappend 32 64 10 20\n");
        assert_eq!(at_work(&[&flushing], [0, 40]), work(1.0, 0.25, 0.25));
    }

    #[test]
    fn what_is_between_two_stages_is_an_average_over_time() {
        let leader = trace("append 0 100 0 0\nanswer 0 0 0 0\nanswer 0 100 0 500\n");
        assert_eq!(leader.between("append", "answer", [0, 1000]), 50.0);
    }
}
