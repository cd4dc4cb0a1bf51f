//! From the clients' windows into the log: with `direct`, which comes before, the only place of
//! this room that appends.

use crate::broken::Broken;
use crate::limits::FRAME_HEADER;
use crate::log::{AppendError, Log, append, encoded_len};
use crate::node::clients::link::{Bound, Close, Link, Stage};
use crate::node::clients::slots::Look;
use crate::node::clients::{Admission, Clients, Count, Memory, View};
use crate::session::Authenticator;
use crate::time::Instant;
use crate::units::{Position, SessionId, Term};
use crate::wire::cluster::{SESSION_HEADER_LENGTH, SessionCloseEvent, SessionOpenEvent};
use crate::wire::frame::align;

/// What one call looks at. With small messages it is as much as fills some datagrams to each
/// follower: what a turn costs in system calls and datagrams is shared by all that is in it.
const CALL: Budget = Budget {
    fragments: 512,
    bytes: 64 << 10,
};
/// What each stream with something to say may have of a call at least: its part of `CALL`, which
/// is all of it for one alone, or this.
const SHARE: Budget = Budget {
    fragments: 16,
    bytes: 4 << 10,
};

/// How much may still be looked at: so many fragments, of so many bytes. The last one may be longer
/// than that.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) struct Budget {
    pub fragments: usize,
    pub bytes: usize,
}

impl Budget {
    /// The part of one among so many streams.
    fn share(self, streams: usize) -> Self {
        let part = |all: usize| all.checked_div(streams).unwrap_or(all);
        Self {
            fragments: part(self.fragments).max(SHARE.fragments),
            bytes: part(self.bytes).max(SHARE.bytes),
        }
    }

    fn min(self, other: Self) -> Self {
        Self {
            fragments: self.fragments.min(other.fragments),
            bytes: self.bytes.min(other.bytes),
        }
    }

    /// Without what was spent of `whole` to leave `rest`.
    fn without(self, whole: Self, rest: Self) -> Self {
        Self {
            fragments: self
                .fragments
                .saturating_sub(whole.fragments - rest.fragments),
            bytes: self.bytes.saturating_sub(whole.bytes - rest.bytes),
        }
    }

    /// How many fragments were spent to leave `rest`.
    pub(super) fn fragments_without(self, rest: Self) -> usize {
        self.fragments.saturating_sub(rest.fragments)
    }

    /// Is it no more than `other` in one of both?
    pub(super) const fn is_within(self, other: Self) -> bool {
        self.fragments <= other.fragments || self.bytes <= other.bytes
    }

    /// No more fragments than a share has at least.
    pub(super) fn shorten(&mut self) {
        self.fragments = self.fragments.min(SHARE.fragments);
    }

    #[inline(always)]
    pub(super) fn is_spent(self) -> bool {
        self.fragments == 0 || self.bytes == 0
    }

    #[inline(always)]
    pub(super) fn spend(&mut self, bytes: usize) {
        self.fragments = self.fragments.saturating_sub(1);
        self.bytes = self.bytes.saturating_sub(bytes);
    }
}

/// What a call of `poll_admit` was lent.
pub(super) struct Turn<'t, L, A> {
    pub now: Instant,
    pub admission: &'t Admission<'t>,
    pub log: &'t mut L,
    pub egress: &'t mut [u8],
    pub reassembly: &'t mut [u8],
    pub auth: &'t mut A,
}

/// Whether a fragment was dealt with.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) enum Taken {
    /// It may leave its window.
    Yes,
    /// It may, and it has freed a reassembly slot that another stream waits for: the next one's
    /// turn.
    Last,
    /// It stays, and is looked at again: the log has no room.
    Full,
    /// It stays, and is looked at again: something else has no room.
    Held,
}

impl<const N: usize> Clients<N> {
    /// Takes what clients have sent, round and round their streams, and appends to the log what
    /// belongs there; says to clients what is owed to them. True if it left off for the length of
    /// the call: call again soon. At most 512 fragments and somewhat more than 64 KiB; looks at the
    /// streams and egress connections that have changed, or still have something to be done.
    ///
    /// While no leader is known nothing is taken.
    pub fn poll_admit<L: Log, A: Authenticator>(
        &mut self,
        now: Instant,
        admission: &Admission<'_>,
        log: &mut L,
        memory: &mut Memory<'_>,
        auth: &mut A,
    ) -> bool {
        let mut turn = Turn {
            now,
            admission,
            log,
            egress: &mut *memory.egress,
            reassembly: &mut *memory.reassembly,
            auth,
        };
        self.direct.renew();
        if self.is_quiet_to_admit() {
            return false;
        }
        let mut from = 0;
        while let Some(slot) = self.links.looks(Look::Admit).next(from) {
            from = slot + 1;
            // Before it is looked at: what changes meanwhile is looked at once more.
            self.links.set_look(Look::Admit, slot, false);
            self.settle(slot, &mut turn);
            if self.links.get(slot).is_some_and(Link::owes) {
                self.links.set_look(Look::Admit, slot, true);
            }
        }
        if admission.view == View::Unknown {
            return false;
        }
        self.admit_streams(memory.ingress, &mut turn)
    }

    /// Has nobody anything for the log, and is nobody owed anything, as it was when last looked at?
    pub fn is_quiet_to_admit(&self) -> bool {
        self.ingress.looks(Look::Admit).is_empty() && self.links.looks(Look::Admit).is_empty()
    }

    /// Has so much gone straight into the log since the last [`Clients::poll_admit`] that a driver
    /// had better come to that before it receives more? What waits elsewhere is not copied into a
    /// window, and out of it again.
    pub fn is_fed(&self) -> bool {
        self.direct.is_fed()
    }

    /// As [`Clients::poll_admit`] where that would find nothing to do: datagrams may go straight
    /// into the log again.
    pub fn renew(&mut self) {
        self.direct.renew();
    }

    /// Gives every stream its turn, in a circle. The next call starts with the first one that found
    /// the log full before it had its turn, so that a busy stream cannot keep the log from the
    /// others. Whether there may be more to take at once.
    fn admit_streams<L: Log, A: Authenticator>(
        &mut self,
        ingress: &[u8],
        turn: &mut Turn<'_, L, A>,
    ) -> bool {
        let start = self.admit_next;
        // Slots that no stream is in have their place in the circle, but take no time.
        let next = (start + 1).checked_rem(N).unwrap_or(0);
        let mut left = CALL;
        let waiting = self.streams_waiting();
        let each = CALL.share(waiting);
        let mut is_more = false;
        let mut starved = None;
        let mut from = start;
        // None is added meanwhile, and those that are taken out lie behind.
        for _ in 0..self.ingress.looks(Look::Admit).len() {
            let Some(slot) = self.ingress.looks(Look::Admit).next_round(from) else {
                break;
            };
            let share = each.min(left);
            let mut rest = share;
            let outcome = self.admit_stream(slot, &mut rest, waiting <= 1, ingress, turn);
            let is_untouched = rest == share;
            if is_untouched && outcome == Taken::Full {
                starved = starved.or(Some(slot));
            }
            left = left.without(share, rest);
            is_more |= rest.is_spent() || outcome == Taken::Last;
            if outcome == Taken::Yes && !rest.is_spent() {
                self.ingress.set_look(Look::Admit, slot, false);
            }
            from = slot + 1;
            if left.is_spent() {
                starved = starved.or(Some(from));
                break;
            }
        }
        self.direct.waits = self.direct.waits && self.streams_waiting() > 0;
        self.admit_next = starved.unwrap_or(next);
        is_more
    }

    /// How many streams have something that was not looked at.
    fn streams_waiting(&self) -> usize {
        let slots = self.ingress.looks(Look::Admit).iter();
        let streams = slots.filter_map(|slot| self.ingress.get(slot));
        let waiting = streams.filter(|s| s.image.received() > s.image.consumed());
        waiting.count()
    }

    /// The term in which this member may append now.
    pub(super) fn term<L, A>(&self, turn: &Turn<'_, L, A>) -> Option<Term> {
        match turn.admission.view {
            View::Leading => self.leading,
            View::Following { .. } | View::Unknown => None,
        }
    }

    /// Does what is owed on one egress connection: makes its stream, speaks first, opens, closes.
    fn settle<L: Log, A>(&mut self, slot: usize, turn: &mut Turn<'_, L, A>) {
        self.open_stream(turn.now, slot, turn.egress.len());
        let Some(link) = self.links.get(slot) else {
            return;
        };
        let connected = link.is_connected();
        match &link.stage {
            Stage::Answer(answer) if connected => {
                let answer = *answer;
                self.say_answer(turn.now, slot, answer, turn.admission, turn.egress);
            }
            Stage::Challenge { said: false, .. } if connected => {
                self.say_challenge(slot, turn.egress);
            }
            Stage::Accepted { .. } if connected => self.append_open(slot, turn),
            Stage::Open(live) => {
                let close = live.close;
                if connected && live.greeting.is_some() {
                    self.say_greeting(slot, turn.admission.endpoints, turn.egress);
                }
                if matches!(close, Close::Owed(_)) {
                    self.append_close(slot, turn);
                }
            }
            _ => {}
        }
    }

    /// Appends the open event of an accepted client whose egress is connected.
    fn append_open<L: Log, A>(&mut self, slot: usize, turn: &mut Turn<'_, L, A>) {
        let (Some(term), Some(link)) = (self.term(turn), self.links.get(slot)) else {
            return;
        };
        let Stage::Accepted { principal, bound } = &link.stage else {
            return;
        };
        let bound = *bound;
        let mut event = SessionOpenEvent {
            term,
            correlation: link.request.correlation_id,
            session: SessionId::new(turn.log.end()),
            timestamp: turn.admission.timestamp,
            response_stream_id: link.request.response_stream_id,
            response_channel: &link.request.response_channel,
            principal,
        };
        let mut buffer = [0; OPEN_MAX];
        // Twice: the id does not change the length, and the length decides about a PAD before it.
        let len = event.emit(&mut buffer).unwrap_or(0);
        let Some(start) = record_start(turn.log, len, self.config.log_mtu) else {
            return;
        };
        event.session = SessionId::new(start);
        let written = event.emit(&mut buffer);
        let Some(bytes) = written.and_then(|written| buffer.get(..written)) else {
            return;
        };
        if let Err(error) = append(turn.log, term, &[bytes], self.config.log_mtu) {
            return self.refused(error);
        }
        let session = SessionId::new(start);
        if let Some(link) = self.links.get_mut(slot) {
            link.stage = Stage::Appended { session, bound };
        }
        self.count(Count::OpenAppended);
    }

    /// Appends the close event that is owed for an open session.
    pub(super) fn append_close<L: Log, A>(&mut self, slot: usize, turn: &mut Turn<'_, L, A>) {
        let Some(term) = self.term(turn) else {
            return;
        };
        let Some(live) = self.links.get_mut(slot).and_then(Link::live_mut) else {
            return;
        };
        let Close::Owed(reason) = live.close else {
            return;
        };
        let event = SessionCloseEvent {
            term,
            session: live.session,
            timestamp: turn.admission.timestamp,
            reason,
        };
        let mut buffer = [0; SESSION_HEADER_LENGTH * 2];
        let written = event.emit(&mut buffer);
        let Some(bytes) = written.and_then(|written| buffer.get(..written)) else {
            self.broken = Some(Broken::Encoding);
            return;
        };
        match append(turn.log, term, &[bytes], self.config.log_mtu) {
            Ok(_) => {
                live.close = Close::Appended;
                self.count(Count::CloseAppended);
            }
            Err(error) => self.refused(error),
        }
    }

    /// A record was not appended: no matter if there was no room for it.
    #[cold]
    pub(super) fn refused(&mut self, error: AppendError) {
        if let AppendError::Broken(broken) = error {
            self.broken = Some(broken);
        }
    }

    /// The link of an open session that may be spoken for from there, in this term. What is not
    /// recognised is counted and dropped: a message of an old leadership is never executed in a new
    /// one (Aeron: `onIngressMessage`), and after a session's end nothing of it is.
    pub(super) fn recognise<L, A>(
        &mut self,
        turn: &Turn<'_, L, A>,
        term: Term,
        session: SessionId,
        from: Bound,
    ) -> Option<usize> {
        let Some(leading) = self.term(turn) else {
            self.count(Count::MessageIgnored);
            return None;
        };
        if term != leading {
            self.count(Count::StaleTerm);
            return None;
        }
        let slot = self.serving(session);
        let live = slot.and_then(|slot| self.links.get_mut(slot)?.live_mut());
        let (Some(slot), Some(live)) = (slot, live) else {
            self.count(Count::UnknownSession);
            return None;
        };
        if live.close != Close::No {
            self.count(Count::UnknownSession);
            return None;
        }
        if !live.bind(from) {
            self.count(Count::ForeignSource);
            return None;
        }
        live.heard_at = turn.now;
        Some(slot)
    }
}

/// The longest open event in bytes.
const OPEN_MAX: usize = 512;
const _: () = assert!(
    OPEN_MAX
        >= crate::wire::sbe::HEADER
            + SessionOpenEvent::BLOCK as usize
            + 2 * crate::wire::sbe::VAR_LENGTH
            + crate::limits::CHANNEL_MAX
            + crate::limits::PRINCIPAL_MAX
);

/// Where a record of `len` bytes would start if it were appended now: behind a PAD, if its first
/// frame does not fit the rest of the segment.
fn record_start<L: Log>(log: &L, len: usize, mtu: usize) -> Option<Position> {
    let end = log.end();
    let first = len.min(mtu.saturating_sub(FRAME_HEADER));
    let taken = encoded_len(end, first, mtu, log.segment_length())?;
    let frame = align(FRAME_HEADER + first) as u64;
    Some(end.plus(taken.saturating_sub(frame)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_divide_a_call_and_none_has_less_than_a_share() {
        assert_eq!(CALL.share(0), CALL);
        assert_eq!(CALL.share(1), CALL);
        for streams in 2..=64 {
            let each = CALL.share(streams);
            assert!(each.fragments >= SHARE.fragments && each.bytes >= SHARE.bytes);
            assert!(each == SHARE || each.fragments * streams <= CALL.fragments);
        }
        assert_eq!(CALL.share(64), SHARE);
    }

    #[test]
    fn what_one_spends_the_others_have_no_more() {
        let mut rest = SHARE;
        rest.spend(1000);
        assert!(!rest.is_spent());
        let left = CALL.without(SHARE, rest);
        assert_eq!(left.fragments, CALL.fragments - 1);
        assert_eq!(left.bytes, CALL.bytes - 1000);
        rest.spend(1 << 20);
        assert!(rest.is_spent() && CALL.without(CALL, rest.min(CALL)).bytes == 0);
    }
}
