//! The ingress side: which streams come in, and what arrives on them.

use core::net::SocketAddr;
use core::time::Duration;

use crate::lookup::Places;
use crate::node::clients::gather::Gathering;
use crate::node::clients::slots::{Look, share_len, share_mut};
use crate::node::clients::{Clients, Count, Memory, Reject};
use crate::stream::{DataReject, Image, ImageState, ImageTiming, elicit_setup};
use crate::time::Instant;
use crate::units::SessionId;
use crate::wire::cluster::INGRESS_STREAM_ID;
use crate::wire::frame::{DataHeader, Datagram, Frame, Rttm, Setup, StatusMessage, parse_datagram};

/// How many unknown senders are remembered until they have been asked for a SETUP. One that finds
/// no place sends again and is remembered then.
pub(super) const STRANGERS_MAX: usize = 8;

/// After this long without a datagram a stream may lose its slot to a new one: Aeron's senders send
/// at least ten heartbeats in that time.
const SILENCE: Duration = Duration::from_secs(1);

/// For so long it is not looked again whether a stream may lose its slot, if none may.
const FULL: Duration = Duration::from_millis(10);

/// A sender whose SETUP we have not seen: this member has restarted, or the frame was lost.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) struct Stranger {
    pub from: SocketAddr,
    /// Asks for the SETUP.
    pub owed: StatusMessage,
}

/// One ingress stream and the message that is being put together from it.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) struct Ingress {
    pub image: Image,
    pub heard_at: Instant,
    /// Ascends with every image: a session may move to a younger one only.
    pub serial: u64,
    pub assembly: Assembly,
}

/// Where a fragmented message stands.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) enum Assembly {
    /// The next fragment begins a message.
    Idle,
    /// A message is being put together.
    Gathering(Gathering),
    /// The rest of a message that is not wanted.
    Skipping,
}

/// On whose behalf a reassembly slot is held, and so for how long at most.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) enum Owner {
    /// An open session: until its message is complete, or it is closed.
    Session(SessionId),
    /// A client without a session.
    Nobody { until: Instant },
}

/// Which slots of the reassembly memory are taken. More than `N` are never needed.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) struct Pool<const N: usize> {
    taken: Places<N>,
    /// The stream whose message is in a slot that is taken.
    holders: [usize; N],
    /// Somebody found none free since one was last taken.
    is_wanted: bool,
}

impl<const N: usize> Pool<N> {
    pub(super) const fn new() -> Self {
        Self {
            taken: Places::new(),
            holders: [0; N],
            is_wanted: false,
        }
    }

    /// Takes one of the first `count` slots for a stream. Looks at as many as are taken.
    pub(super) fn take(&mut self, count: usize, holder: usize) -> Option<usize> {
        let mut slots = 0..count.min(N);
        let slot = slots.find(|slot| !self.taken.contains(*slot));
        self.is_wanted = slot.is_none();
        let slot = slot?;
        *self.holders.get_mut(slot)? = holder;
        self.taken.insert(slot);
        Some(slot)
    }

    /// True if somebody has been waiting for it.
    pub(super) fn give_back(&mut self, slot: usize) -> bool {
        self.taken.remove(slot);
        self.is_wanted
    }

    /// The slots that are taken, with the streams that hold them, from `slot` on.
    pub(super) fn next(&self, slot: usize) -> Option<(usize, usize)> {
        let slot = self.taken.next(slot)?;
        Some((slot, self.holders.get(slot).copied()?))
    }

    /// How many slots are taken.
    pub(super) fn taken(&self) -> usize {
        self.taken.len()
    }
}

impl<const N: usize> Clients<N> {
    /// Takes a datagram from the client door: SETUP, DATA and heartbeats of ingress streams; status
    /// messages, NAKs and round-trip measurements of egress streams. Work is bounded by the length
    /// of the datagram, and if there is no place for a new stream by `N`. Nothing is acted on here:
    /// see [`Clients::poll_admit`].
    ///
    /// # Errors
    /// What the datagram was refused for; it has been counted. The driver may ignore it.
    pub fn handle_datagram(
        &mut self,
        now: Instant,
        from: SocketAddr,
        datagram: &[u8],
        memory: &mut Memory<'_>,
    ) -> Result<(), Reject> {
        let taken = match parse_datagram(datagram) {
            Ok(Frame::Data(data)) => self.handle_data(now, from, &data, memory),
            Ok(Frame::Setup(setup)) => self.handle_setup(now, from, &setup, memory),
            Ok(Frame::Rttm(rttm)) => self.handle_rttm(from, &rttm),
            Ok(frame) => self.handle_feedback(now, &frame, memory),
            Err(malformed) => Err(Reject::Malformed(malformed)),
        };
        if let Err(reject) = taken {
            self.count_reject(reject);
        }
        taken
    }

    fn handle_data(
        &mut self,
        now: Instant,
        from: SocketAddr,
        data: &Datagram<'_>,
        memory: &mut Memory<'_>,
    ) -> Result<(), Reject> {
        let DataHeader {
            stream_id,
            session_id,
            ..
        } = *data.first();
        if stream_id != INGRESS_STREAM_ID {
            return Err(Reject::Refused(Count::UnknownStream));
        }
        let Some(slot) = self.ingress.find(session_id) else {
            self.remember_stranger(now, from, data.first());
            return Err(Reject::Refused(Count::UnknownStream));
        };
        let bytes = share_mut(memory.ingress, slot, self.places);
        let Some(ingress) = self.ingress.get_mut(slot) else {
            return Err(Reject::Refused(Count::UnknownStream));
        };
        if !ingress.image.is(from, stream_id, session_id) {
            return Err(Reject::Refused(Count::ForeignSource));
        }
        ingress.heard_at = now;
        self.direct.waits |= !data.is_heartbeat();
        let taken = ingress.image.handle_data(now, data, bytes);
        taken.map_err(|reject| {
            Reject::Refused(match reject {
                DataReject::Foreign => Count::UnknownStream,
                _ => Count::DataDropped,
            })
        })
    }

    fn handle_setup(
        &mut self,
        now: Instant,
        from: SocketAddr,
        setup: &Setup,
        memory: &Memory<'_>,
    ) -> Result<(), Reject> {
        if setup.stream_id != INGRESS_STREAM_ID {
            return Err(Reject::Refused(Count::UnknownStream));
        }
        if let Some(known) = self.ingress.find(setup.session_id) {
            return match self.ingress.get_mut(known) {
                Some(known) if known.image.is(from, setup.stream_id, setup.session_id) => {
                    known.image.handle_setup(now);
                    known.heard_at = now;
                    Ok(())
                }
                _ => Err(Reject::Refused(Count::ForeignSource)),
            };
        }
        let Some(slot) = self.image_slot(now) else {
            return Err(Reject::Refused(Count::ImageLimit));
        };
        let len = share_len(memory.ingress.len(), self.places);
        let timing = ImageTiming::DEFAULT;
        let image = Image::new(now, from, setup, self.receiver_id, len, timing)
            .map_err(|_| Reject::Refused(Count::ImageRefused))?;
        self.serial = self.serial.saturating_add(1);
        let ingress = Ingress {
            image,
            heard_at: now,
            serial: self.serial,
            assembly: Assembly::Idle,
        };
        self.remove_image(slot);
        self.ingress.put(slot, setup.session_id, ingress);
        self.strangers
            .retain(|stranger| stranger.owed.session_id != setup.session_id);
        Ok(())
    }

    fn handle_rttm(&mut self, from: SocketAddr, rttm: &Rttm) -> Result<(), Reject> {
        let slot = self.ingress.find(rttm.session_id);
        match slot.and_then(|slot| self.ingress.get_mut(slot)) {
            Some(ingress) if ingress.image.is(from, rttm.stream_id, rttm.session_id) => {
                ingress.image.handle_rttm(rttm);
                Ok(())
            }
            _ => self.handle_egress_rttm(rttm),
        }
    }

    /// A slot for a new stream: a free one, or that of the stream which was silent for longest, if
    /// that is long and no session is bound to it. So streams of clients that crashed, or never
    /// were, keep nobody out for the whole liveness time.
    ///
    /// Only if there is no free one, all streams and links are looked at, and if that was in vain
    /// not again for a while: anybody may send what asks for a slot.
    fn image_slot(&mut self, now: Instant) -> Option<usize> {
        if let Some(slot) = self.ingress.free() {
            return Some(slot);
        }
        if now < self.full_until {
            return None;
        }
        let mut bound = Places::<N>::new();
        for (_, link) in self.links.iter() {
            if let Some(by) = link.bound()
                && self
                    .ingress
                    .get(by.slot)
                    .is_some_and(|s| s.serial == by.serial)
            {
                bound.insert(by.slot);
            }
        }
        let silent = self.ingress.iter().filter(|(slot, stream)| {
            now >= stream.heard_at.plus(SILENCE) && !bound.contains(*slot)
        });
        let longest = silent.min_by_key(|(_, stream)| stream.heard_at);
        let slot = longest.map(|(slot, _)| slot);
        if slot.is_none() {
            self.full_until = now.plus(FULL);
        }
        slot
    }

    /// Asks an unknown sender for its SETUP, unless there would be no place for it.
    fn remember_stranger(&mut self, now: Instant, from: SocketAddr, first: &DataHeader) {
        let Some(owed) = elicit_setup(first, self.receiver_id) else {
            return;
        };
        let stranger = Stranger { from, owed };
        // Full: the sender's next heartbeat finds a place.
        let is_needless = self.strangers.is_full() || self.strangers.contains(&stranger);
        if !is_needless && self.image_slot(now).is_some() {
            let _there_is_room = self.strangers.push(stranger);
        }
    }

    /// Forgets the streams that ended or fell silent. Looks at those that have changed or whose
    /// time has come.
    pub(super) fn expire_images(&mut self, now: Instant) {
        let mut from = 0;
        while let Some(slot) = self.ingress.looks(Look::Time).next(from) {
            from = slot + 1;
            let image = self.ingress.get(slot).map(|stream| &stream.image);
            let ends = image.is_some_and(|image| image.state(now) != ImageState::Active);
            let due = image.and_then(Image::poll_timeout).filter(|_| !ends);
            if ends {
                self.remove_image(slot);
            }
            self.ingress.looked_in_time(slot, due);
        }
    }

    fn remove_image(&mut self, slot: usize) {
        if let Some(mut ingress) = self.ingress.remove(slot) {
            self.abandon(&mut ingress.assembly, Assembly::Idle);
        }
    }
}
