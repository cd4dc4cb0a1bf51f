//! What is counted, by kind, in a bounded table.

use crate::wire::Reject as Malformed;

/// Something that happened at the clients' door. The order is part of the counters' file: append
/// only.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[repr(u8)]
#[non_exhaustive]
pub enum Count {
    /// A client's message was appended to the log.
    MessageAppended,
    /// An open event was appended.
    OpenAppended,
    /// A close event was appended.
    CloseAppended,
    /// A message of another leadership term was dropped, as Aeron does.
    StaleTerm,
    /// A message for a session that is not open, or is closing, was dropped.
    UnknownSession,
    /// A message came from a source that its session is not bound to.
    ForeignSource,
    /// A message was longer than `message_max`; its client was told.
    MessageTooLong,
    /// A message did not parse.
    MessageMalformed,
    /// A message that this member does not act on: session messages to a follower, unknown
    /// templates.
    MessageIgnored,
    /// A connect request that had come before.
    ConnectRepeated,
    /// A connect request was answered with an error or a rejection.
    ConnectRefused,
    /// A connect request was answered with where the leader is.
    ConnectRedirected,
    /// A connect request named a channel that cannot be answered.
    ConnectUnanswerable,
    /// The log, the pool or the session's egress had no room: a message stayed in its window.
    /// Counted each time that it is looked at.
    IngressHeld,
    /// A message to a client was dropped because its egress slot is full; the session is closed.
    EgressOverflow,
    /// A session was closed because its client did not take its egress.
    EgressTimeout,
    /// A session was closed because its client was not heard from.
    SessionTimeout,
    /// A SETUP found no free ingress slot.
    ImageLimit,
    /// A SETUP that no image can be made of.
    ImageRefused,
    /// A datagram of a stream that is not ours, or not known.
    UnknownStream,
    /// A datagram that its image did not take: out of its window, or too many holes.
    DataDropped,
    /// A host name of a response channel did not resolve.
    ResolveFailed,
    /// A message was for a session that has not heard yet who leads: it went nowhere.
    EgressUnheard,
    /// A client's driver refuses an egress stream.
    EgressRefused,
    /// A status message or NAK named a place that its egress stream has not, or no longer.
    FeedbackStale,
}

/// How many kinds there are.
pub const COUNTS: usize = Count::FeedbackStale as usize + 1;

/// How often each [`Count`] happened since the start; saturates.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Counters {
    counts: [u64; COUNTS],
    malformed: [u64; Malformed::COUNT],
}

impl Default for Counters {
    fn default() -> Self {
        Self::new()
    }
}

impl Counters {
    /// Nothing has happened.
    pub const fn new() -> Self {
        Self {
            counts: [0; COUNTS],
            malformed: [0; Malformed::COUNT],
        }
    }

    /// How often this happened.
    pub fn get(&self, count: Count) -> u64 {
        self.counts.get(count as usize).copied().unwrap_or_default()
    }

    /// All counts, in the order of [`Count`].
    pub fn counts(&self) -> &[u64; COUNTS] {
        &self.counts
    }

    /// Datagrams and messages that did not parse, in the order of `wire::Reject::index`.
    pub fn malformed(&self) -> &[u64; Malformed::COUNT] {
        &self.malformed
    }

    pub(super) fn count(&mut self, count: Count) {
        self.add(count, 1);
    }

    pub(super) fn add(&mut self, count: Count, times: u64) {
        if let Some(counter) = self.counts.get_mut(count as usize) {
            *counter = counter.saturating_add(times);
        }
    }

    pub(super) fn count_malformed(&mut self, reject: Malformed) {
        if let Some(counter) = self.malformed.get_mut(reject.index()) {
            *counter = counter.saturating_add(1);
        }
    }
}
