//! Terms that the history in memory has forgotten, read from the log itself: each frame names its
//! term. So the bound of that history never keeps a member from joining.

use super::dues::Due;
use super::transmit::{Owes, Scratch};
use super::{Consumer, Lent, Node, Recall};
use crate::log::{Frames, Log, segment_base, starts_frame};
use crate::raft::State;
use crate::units::{MemberId, Position};
use crate::wire::member::{HISTORY_SLICE_MAX, HistorySlice, TermBase};

/// A follower's question about forgotten terms. One at a time: others are repeated.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) struct Question {
    member: MemberId,
    from: Position,
    /// Where reading starts: `from`, or its segment's start if no frame of ours starts at `from`.
    at: Position,
    /// How many bytes have been recalled.
    read: Option<usize>,
}

impl<const N: usize, const S: usize> Node<N, S> {
    /// Takes the question if it is about terms that only the log remembers.
    pub(super) fn ask_annals(&mut self, member: MemberId, from: Position) -> bool {
        let forgotten = self.history.known_from().is_none_or(|known| from < known);
        let leads = matches!(self.raft.state(), State::Leader(_));
        let is_here = (self.start.base..self.raft.tail.end).contains(&from);
        if !leads || !forgotten || !is_here {
            return false;
        }
        if self
            .annals
            .is_none_or(|asked| asked.member == member && asked.from != from)
        {
            self.annals = Some(Question {
                member,
                from,
                at: from,
                read: None,
            });
        }
        true
    }

    /// The bytes that the question needs, if the window has let them go.
    pub(super) fn recall_annals<L: Log>(&self, lent: &Lent<'_, L>) -> Option<Recall> {
        let question = self
            .annals
            .filter(|q| q.read.is_none() && q.at < lent.log.start())?;
        let len = lent.catchup.len();
        Some(
            self.sources
                .recall(&*lent.log, Consumer::Annals, question.at, len),
        )
    }

    /// The driver has read what `recall_annals` asked for.
    pub(super) fn annals_recalled(&mut self, recall: Recall, len: usize) {
        self.sources.forget_catchup();
        if let Some(question) = self.annals.as_mut().filter(|q| q.at == recall.at) {
            question.read = Some(len);
        }
    }

    /// The answer, once the bytes are there. Bounded by the memory for recalled bytes.
    pub(super) fn owed_annals<L: Log>(
        &mut self,
        lent: &Lent<'_, L>,
        scratch: &mut Scratch,
    ) -> Option<Owes<'static>> {
        let question = self.annals?;
        if !matches!(self.raft.state(), State::Leader(_)) {
            self.annals = None;
            return None;
        }
        let Question {
            member, at, read, ..
        } = question;
        let segment = self.config.segment_length;
        let bytes = match read {
            Some(len) => lent.catchup.get(..len).unwrap_or(&[]),
            None if at >= lent.log.start() => lent.log.read(at),
            None => return None,
        };
        if !starts_frame(bytes, at, None, segment) {
            let base = segment_base(at, segment).max(self.start.base);
            self.annals = (at != base).then_some(Question {
                at: base,
                read: None,
                ..question
            });
            // From there it may be answered at once.
            self.dues.add(Due::ASK);
            return None;
        }
        self.annals = None;
        let history = slice_of(bytes, at, segment);
        self.say_history(member, history, scratch)
    }
}

/// Which terms wrote the frames in `bytes`, as many as one message carries.
fn slice_of(bytes: &[u8], at: Position, segment_length: u32) -> HistorySlice {
    let mut slice = HistorySlice::EMPTY;
    slice.covered_to = at;
    let mut last = None;
    for frame in Frames::new(bytes, at, segment_length).verified() {
        if last != Some(frame.term) {
            let Some(slot) = slice.entries.get_mut(usize::from(slice.len)) else {
                break;
            };
            *slot = TermBase {
                term: frame.term,
                base: frame.position,
            };
            slice.len += 1;
            last = Some(frame.term);
        }
        slice.covered_to = frame.end();
    }
    slice
}

const _: () = assert!(HISTORY_SLICE_MAX <= u8::MAX as usize);
