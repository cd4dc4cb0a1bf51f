//! The egress side: making and ending streams to clients, and sending a session's messages.

use crate::limits::SEGMENT_MIN;
use crate::list;
use crate::node::clients::link::{Link, Stage, Stream};
use crate::node::clients::slots::{Look, share_len, share_mut};
use crate::node::clients::{Clients, ClientsConfig, Count, Memory, Reject};
use crate::session::{Attempt, Request};
use crate::stream::{OfferError, Publication, PublicationConfig, PublicationTiming, Ring};
use crate::time::{Instant, Timestamp};
use crate::units::SessionId;
use crate::wire::channel::Channel;
use crate::wire::cluster::{CloseReason, SESSION_HEADER_LENGTH, SessionMessageHeader};
use crate::wire::frame::{Frame, Rttm, framed_bound};

/// Why a message was not accepted for a session: the same on every member, whatever its role.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[non_exhaustive]
pub enum EgressError {
    /// Longer than `message_max` with its session header.
    TooLong,
}

impl<const N: usize> Clients<N> {
    /// Sends one message, the concatenation of `parts`, to a session's client. `timestamp` is that
    /// of the record being executed. Finds the session by binary search; copies the message once.
    ///
    /// Unless this leadership `serves` the record being executed, the message goes nowhere: what
    /// was asked of an earlier leader, no client expects an answer to from this one.
    ///
    /// Only the leader sends; on other members, to a session that has not heard yet that this
    /// member leads, and to one that is closed by now, an accepted message goes nowhere (as in
    /// Aeron). If the session's egress slot is full, the message is lost and so are all that
    /// follow, and therefore the session is closed by a replicated event.
    ///
    /// # Errors
    /// See [`EgressError`].
    #[inline]
    pub fn offer(
        &mut self,
        session: SessionId,
        timestamp: Timestamp,
        parts: &[&[u8]],
        serves: bool,
        memory: &mut Memory<'_>,
    ) -> Result<(), EgressError> {
        let payload = parts
            .iter()
            .fold(0usize, |sum, part| sum.saturating_add(part.len()));
        let len = payload.saturating_add(SESSION_HEADER_LENGTH);
        if len > self.config.message_max {
            return Err(EgressError::TooLong);
        }
        if let Some(term) = self.leading.filter(|_| serves) {
            let header = SessionMessageHeader {
                term,
                session,
                timestamp,
            };
            self.send(&header, parts, len, memory.egress);
        }
        Ok(())
    }

    /// One message, of `len` bytes with its header, on the stream of the session that this names.
    #[inline(never)]
    fn send(
        &mut self,
        header: &SessionMessageHeader,
        parts: &[&[u8]],
        len: usize,
        egress: &mut [u8],
    ) {
        let Some(slot) = self.serving(header.session) else {
            return;
        };
        let bytes = share_mut(egress, slot, self.places);
        // The log is owed nothing for it.
        let looks = &[Look::Time, Look::Send];
        let Some(link) = self.links.get_mut_for(slot, looks) else {
            return;
        };
        let unheard = match &link.stage {
            Stage::Open(live) if live.lost => Some(Count::EgressOverflow),
            Stage::Open(live) if live.greeting.is_none() => None,
            _ => Some(Count::EgressUnheard),
        };
        if let Some(count) = unheard {
            return self.count(count);
        }
        let offered = link.publication_mut();
        let offered = offered.map(|p| p.offer_headed(header.to_words(), parts, len, bytes));
        if !matches!(offered, Some(Ok(_))) {
            self.overflow(slot);
        }
    }

    /// Whether this session's client has half a window and more to read.
    pub fn is_reading(&self, session: SessionId) -> bool {
        let slot = self.serving(session);
        slot.and_then(|slot| self.links.get(slot))
            .is_some_and(Link::is_reading)
    }

    /// Whether some client has half a window and more to read. Bounded by `N`.
    pub fn are_reading(&self) -> bool {
        self.leading.is_some() && self.links.iter().any(|(_, link)| link.is_reading())
    }

    /// A message to this session's client was lost: the session must end, or the client would never
    /// know that something is missing.
    pub(super) fn overflow(&mut self, slot: usize) {
        self.count(Count::EgressOverflow);
        if let Some(live) = self.links.get_mut(slot).and_then(Link::live_mut) {
            live.owe_close(CloseReason::Timeout);
            live.lost = true;
        }
    }

    /// The slot of the link that serves an open session; only the leader serves.
    #[inline]
    pub(super) fn serving(&self, session: SessionId) -> Option<usize> {
        let at = self.served.binary_search_by_key(&session, |(id, _)| *id);
        self.served.get(at.ok()?).map(|(_, slot)| *slot)
    }

    /// Starts an egress connection in a slot that is free.
    pub(super) fn connect(
        &mut self,
        now: Instant,
        slot: usize,
        request: Request,
        attempt: Attempt,
        stage: Stage,
    ) {
        let retry_at = now.plus(super::resolve::RETRY);
        let channel = Channel::parse(&request.response_channel).ok();
        let stream = match channel.and_then(|channel| channel.endpoint.literal()) {
            Some(address) => Stream::Resolved(address),
            None => Stream::Unresolved {
                asked: false,
                retry_at,
            },
        };
        let link = Link {
            request,
            attempt,
            stream,
            stage,
            deadline: now.plus(self.config.connect_timeout),
        };
        let key = self.choose_session_id();
        self.links.put(slot, key, link);
        self.connecting.insert(slot);
        self.unresolved.insert(slot);
    }

    /// A free slot, or that of one that is only leaving.
    pub(super) fn free_slot(&mut self) -> Option<usize> {
        if let Some(slot) = self.links.free() {
            return Some(slot);
        }
        loop {
            let slot = self.leaving.next(0)?;
            self.leaving.remove(slot);
            let link = self.links.get(slot);
            if link.is_some_and(|link| matches!(link.stage, Stage::Leaving { .. })) {
                self.disconnect(slot);
                return Some(slot);
            }
        }
    }

    /// Nothing more will be said on this link. What was said is still delivered for a while.
    pub(super) fn leave(&mut self, now: Instant, slot: usize) {
        let deadline = now.plus(self.config.connect_timeout);
        if let Some(link) = self.links.get_mut(slot) {
            link.leave(now, deadline);
            self.leaving.insert(slot);
        }
    }

    /// The next link from `from` on that is neither open nor leaving. Those that are, and were not
    /// when this was last asked, are passed over once.
    pub(super) fn next_connecting(&mut self, from: usize) -> Option<(usize, &Link)> {
        loop {
            let slot = self.connecting.next(from)?;
            let link = self.links.get(slot);
            if link
                .is_some_and(|link| !matches!(link.stage, Stage::Open(_) | Stage::Leaving { .. }))
            {
                return Some((slot, self.links.get(slot)?));
            }
            self.connecting.remove(slot);
        }
    }

    /// Makes the publication of a link whose address is known. A link that cannot have one is
    /// dropped.
    pub(super) fn open_stream(&mut self, now: Instant, slot: usize, egress_len: usize) {
        let (Some(key), Some(link)) = (self.links.key(slot), self.links.visit(slot)) else {
            return;
        };
        let Stream::Resolved(target) = link.stream else {
            return;
        };
        let config = PublicationConfig {
            target,
            stream_id: link.request.response_stream_id,
            session_id: key,
            initial_term_id: self.prng.next() as i32,
            segment_length: self.config.segment_for(share_len(egress_len, self.places)),
            mtu: self.config.mtu as u32,
            timing: PublicationTiming::DEFAULT,
        };
        if let Ok(publication) = Publication::new(now, &config, share_len(egress_len, self.places))
        {
            let progress = (publication.acked(), now);
            link.stream = Stream::Ready {
                publication,
                progress,
                was_read: false,
            };
            self.links.touch(slot);
        }
    }

    /// Lets go of a link and of its stream's session id.
    pub(super) fn disconnect(&mut self, slot: usize) {
        if let Some(key) = self.links.key(slot) {
            if self.retired.is_full() {
                list::take(&mut self.retired, 0);
            }
            // Room was made.
            let _kept = self.retired.push(key).is_ok();
        }
        self.links.remove(slot);
    }

    /// A random id that no stream of ours has or had lately: clients key streams by it, so one that
    /// they still remember would be taken for its predecessor.
    fn choose_session_id(&mut self) -> i32 {
        let mut key = self.prng.next() as i32;
        // At most N + RETIRED_MAX ids are taken, so among one more there is a free one.
        for _ in 0..=N + super::RETIRED_MAX {
            if self.links.find(key).is_none() && !self.retired.contains(&key) {
                break;
            }
            key = key.wrapping_add(1);
        }
        key
    }

    /// The egress that a message is taken for until it is applied: as if it were echoed.
    pub(super) fn egress_cost(&self, payload: usize) -> u64 {
        framed_bound(
            payload.saturating_add(SESSION_HEADER_LENGTH),
            self.config.mtu,
        )
    }

    /// How long egress datagrams are.
    pub(in crate::node) fn egress_mtu(&self) -> usize {
        self.config.mtu
    }

    /// A client's driver measures the round trip of an egress stream.
    pub(super) fn handle_egress_rttm(&mut self, rttm: &Rttm) -> Result<(), Reject> {
        let slot = self.links.find(rttm.session_id);
        let link = slot.and_then(|slot| self.links.get_mut(slot));
        let publication = link.and_then(Link::publication_mut);
        let publication = publication.ok_or(Reject::Refused(Count::UnknownStream))?;
        publication.handle_rttm(rttm);
        Ok(())
    }

    /// What a client's driver says about an egress stream.
    pub(super) fn handle_feedback(
        &mut self,
        now: Instant,
        frame: &Frame<'_>,
        memory: &Memory<'_>,
    ) -> Result<(), Reject> {
        let unknown = Reject::Refused(Count::UnknownStream);
        let session_id = match frame {
            Frame::StatusMessage(status) => status.session_id,
            Frame::Nak(nak) => nak.session_id,
            Frame::Error(error) => error.session_id,
            _ => return Err(unknown),
        };
        let slot = self.links.find(session_id).ok_or(unknown)?;
        let link = self.links.get_mut(slot).ok_or(unknown)?;
        let publication = link.publication_mut().ok_or(unknown)?;
        match frame {
            Frame::StatusMessage(status) => publication.handle_status(now, status),
            Frame::Nak(nak) => {
                let bytes = super::slots::share(memory.egress, slot, self.places);
                publication.handle_nak(now, nak, bytes)
            }
            // The client's driver refuses the stream: it will send no more status messages, and the
            // session ends by its egress timeout.
            _ => return Err(Reject::Refused(Count::EgressRefused)),
        }
        .map_err(|_| Reject::Refused(Count::FeedbackStale))
    }
}

impl ClientsConfig {
    /// The segment length of a stream with a slot of so many bytes: four of its windows, or what
    /// the longest message needs. Receivers grant half a segment at most, and a quarter of that may
    /// be consumed and not be told of: that shall not be most of our window, or it would look as if
    /// the client did not read.
    fn segment_for(&self, slot_len: usize) -> u32 {
        let most = self.egress_segment_length;
        let ring = Ring::fit(slot_len, self.mtu, most / 4);
        let four = ring.map_or(most, |ring| ring.window().saturating_mul(4));
        // Aeron: `FrameDescriptor.computeMaxMessageLength`.
        let eight = u32::try_from(self.message_max.saturating_mul(8)).unwrap_or(most);
        let eight = eight.checked_next_power_of_two().unwrap_or(most);
        four.max(eight).max(SEGMENT_MIN).min(most)
    }
}

/// Why an offer to a stream failed: later is another chance, or never.
pub(super) fn is_temporary(error: OfferError) -> bool {
    matches!(error, OfferError::NotConnected | OfferError::BackPressured)
}
