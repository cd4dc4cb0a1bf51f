//! The streams from the cluster: the leader's, and one more while leaders change.

use core::net::SocketAddr;

use heapless::Vec;

use super::EGRESS_IMAGES;
use crate::limits::MEMBERS_MAX;
use crate::stream::{
    Assembled, Assembly, Control, Fragment, Image, ImageState, ImageTiming, SetupReject,
    elicit_setup,
};
use crate::time::Instant;
use crate::wire::frame::{Alike, Datagram, Rttm, Setup, StatusMessage};

/// How many streams that were given up are remembered, so that what is still on its way of them
/// makes no new image. A member that a session was asked of in vain leaves one.
const RETIRED_MAX: usize = MEMBERS_MAX + 1;
const _: () = assert!(RETIRED_MAX > EGRESS_IMAGES);

/// How many status messages for streams without an image wait to be sent. Each is elicited again.
const OWED_MAX: usize = 4;

/// A whole message from the cluster.
pub enum Found<'l> {
    /// It lies in its image's slot.
    InPlace(&'l [u8]),
    /// It was put together: this many bytes.
    Assembled(usize),
}

/// The images, in slots of equal length, and which of them is the leader's.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Images {
    stream_id: i32,
    receiver_id: i64,
    timing: ImageTiming,
    images: [Option<Image>; EGRESS_IMAGES],
    heard_at: [Instant; EGRESS_IMAGES],
    current: Option<usize>,
    assembly: Assembly,
    /// The slot that the unfinished message comes from.
    assembling: usize,
    #[cfg_attr(feature = "defmt", defmt(Debug2Format))]
    retired: Vec<(SocketAddr, i32), RETIRED_MAX>,
    #[cfg_attr(feature = "defmt", defmt(Debug2Format))]
    owed: Vec<(SocketAddr, StatusMessage), OWED_MAX>,
}

impl Images {
    /// None yet.
    pub const fn new(stream_id: i32, receiver_id: i64, timing: ImageTiming) -> Self {
        Self {
            stream_id,
            receiver_id,
            timing,
            images: [const { None }; EGRESS_IMAGES],
            heard_at: [Instant::from_nanos(0); EGRESS_IMAGES],
            current: None,
            assembly: Assembly::new(),
            assembling: 0,
            retired: Vec::new(),
            owed: Vec::new(),
        }
    }

    /// A stream is announced. It takes a free slot, or that of the stream that was silent the
    /// longest and is not the leader's.
    pub fn handle_setup(
        &mut self,
        now: Instant,
        from: SocketAddr,
        setup: &Setup,
        egress: &[u8],
    ) -> Result<(), SetupReject> {
        if setup.stream_id != self.stream_id || self.is_retired(from, setup.session_id) {
            return Ok(());
        }
        if let Some(slot) = self.find(from, setup.session_id) {
            self.heard(slot, now);
            if let Some(image) = self.image_mut(slot) {
                image.handle_setup(now);
            }
            return Ok(());
        }
        let len = slot_length(egress);
        let image = Image::new(now, from, setup, self.receiver_id, len, self.timing)?;
        let slot = self.slot_for_another();
        self.drop_image(slot);
        self.heard(slot, now);
        if let Some(place) = self.images.get_mut(slot) {
            *place = Some(image);
        }
        Ok(())
    }

    /// Data. Of a stream without an image it elicits a SETUP. What an image drops it asks for
    /// again.
    pub fn handle_data(
        &mut self,
        now: Instant,
        from: SocketAddr,
        data: &Datagram<'_>,
        egress: &mut [u8],
    ) {
        let first = data.first();
        if first.stream_id != self.stream_id {
            return;
        }
        let Some(slot) = self.find(from, first.session_id) else {
            if !self.is_retired(from, first.session_id) {
                let status = elicit_setup(first, self.receiver_id);
                self.owe(from, status);
            }
            return;
        };
        self.heard(slot, now);
        let memory = slot_mut(egress, slot);
        if let Some(image) = self.image_mut(slot) {
            let _dropped = image.handle_data(now, data, memory);
        }
    }

    /// The first frame of a datagram, if that is the next of the leader's stream, nothing of this
    /// waits here, and it holds a whole message: what it carries, and what is behind it.
    #[inline(always)]
    pub fn first<'d>(&self, from: SocketAddr, datagram: &'d [u8]) -> Option<(&'d [u8], &'d [u8])> {
        let image = self.image(self.current?)?;
        let header = datagram.first_chunk()?;
        if !image.is_next(from, header, datagram.len()) {
            return None;
        }
        let mut frames = Alike::as_first(datagram)?;
        let frame = frames.next_whole()?;
        Some((frame.payload()?, frames.rest()))
    }

    /// Such a frame, of so many bytes, was consumed where it arrived.
    #[inline(always)]
    pub fn pass(&mut self, now: Instant, len: usize) {
        let Some(slot) = self.current else {
            return;
        };
        // What had begun before it does not go on.
        if self.assembling == slot {
            self.assembly.reset();
        }
        self.heard(slot, now);
        if let Some(image) = self.image_mut(slot) {
            image.pass(now, len);
        }
    }

    /// A round-trip measurement.
    pub fn handle_rttm(&mut self, from: SocketAddr, rttm: &Rttm) {
        if let Some(slot) = self.find(from, rttm.session_id)
            && let Some(image) = self.image_mut(slot)
        {
            image.handle_rttm(rttm);
        }
    }

    /// Lets go of streams that have ended or fallen silent. True if the leader's was one of them.
    pub fn handle_timeout(&mut self, now: Instant) -> bool {
        let mut lost_leader = false;
        for slot in 0..EGRESS_IMAGES {
            let is_over = self
                .image(slot)
                .is_some_and(|image| image.state(now) != ImageState::Active);
            if is_over {
                lost_leader |= self.current == Some(slot);
                self.drop_image(slot);
            }
        }
        lost_leader
    }

    /// The next whole message and the slot it came from, in order, the older stream first so that
    /// what the old leader said is heard before the new one. At most all fragments that have
    /// arrived.
    pub fn next<'l>(
        &mut self,
        egress: &'l [u8],
        assembly: &mut [u8],
    ) -> Option<(usize, Found<'l>)> {
        let first = self.current.unwrap_or(0);
        for step in 0..EGRESS_IMAGES {
            let slot = (first + step) % EGRESS_IMAGES;
            let memory = slot_of(egress, slot);
            while let Some(fragment) = self.image_mut(slot).and_then(|image| image.take(memory)) {
                if let Some(found) = self.take(slot, &fragment, assembly) {
                    return Some((slot, found));
                }
            }
        }
        None
    }

    /// A status, a request for lost data, or the like that is owed to a sender.
    pub fn poll_transmit(&mut self, now: Instant) -> Option<(SocketAddr, Control)> {
        if let Some((to, status)) = self.owed.pop() {
            return Some((to, Control::StatusMessage(status)));
        }
        self.images.iter_mut().flatten().find_map(|image| {
            let control = image.poll_control(now)?;
            Some((image.source(), control))
        })
    }

    /// When something will be due, if nothing arrives before.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let images = self.images.iter().flatten();
        images.filter_map(Image::poll_timeout).min()
    }

    /// The stream in `slot` is the leader's. The others are given up for good.
    pub fn set_current(&mut self, now: Instant, slot: usize) {
        for other in (0..EGRESS_IMAGES).filter(|other| *other != slot) {
            self.retire(now, other);
        }
        self.current = Some(slot);
    }

    /// All streams are given up for good: another member will be asked.
    pub fn retire_all(&mut self, now: Instant) {
        for slot in 0..EGRESS_IMAGES {
            self.retire(now, slot);
        }
    }

    /// Is the stream in `slot` the leader's?
    pub fn is_current(&self, slot: usize) -> bool {
        self.current == Some(slot)
    }

    /// Has the leader's stream arrived, and is it alive?
    pub fn is_current_alive(&self, now: Instant) -> bool {
        self.current
            .and_then(|slot| self.image(slot))
            .is_some_and(|image| image.state(now) == ImageState::Active)
    }

    /// Tells all senders that nobody reads here any more.
    pub fn close(&mut self, now: Instant) {
        for image in self.images.iter_mut().flatten() {
            image.close(now);
        }
    }

    /// A fragmented message needs the one assembly buffer, which belongs to the leader's stream if
    /// there is one: of another only whole messages are heard.
    fn take<'l>(
        &mut self,
        slot: usize,
        fragment: &Fragment<'l>,
        assembly: &mut [u8],
    ) -> Option<Found<'l>> {
        let is_owner = self.current.is_none_or(|current| current == slot);
        if fragment.is_whole() {
            if self.assembling == slot {
                self.assembly.reset();
            }
            return Some(Found::InPlace(fragment.payload));
        }
        if !is_owner {
            return None;
        }
        if self.assembling != slot {
            self.assembling = slot;
            self.assembly.reset();
        }
        match self.assembly.push(fragment, assembly) {
            Assembled::Message(len) => Some(Found::Assembled(len)),
            Assembled::Partial | Assembled::Stray | Assembled::TooLong => None,
        }
    }

    fn slot_for_another(&self) -> usize {
        let others = (0..EGRESS_IMAGES).filter(|slot| self.current != Some(*slot));
        others
            .min_by_key(|slot| {
                let is_taken = self.image(*slot).is_some();
                (is_taken, self.heard_at.get(*slot).copied())
            })
            .unwrap_or(0)
    }

    fn retire(&mut self, now: Instant, slot: usize) {
        let Some(image) = self.image_mut(slot) else {
            return;
        };
        // Its sender may as well know at once; if this is lost, it finds out by itself.
        image.close(now);
        let farewell = image.poll_status(now);
        let key = (image.source(), image.session_id());
        self.owe(key.0, farewell);
        if self.retired.is_full() {
            self.retired.remove(0);
        }
        // There is room: one was just taken out.
        let _room = self.retired.push(key);
        self.drop_image(slot);
    }

    fn drop_image(&mut self, slot: usize) {
        if let Some(place) = self.images.get_mut(slot) {
            *place = None;
        }
        if self.assembling == slot {
            self.assembly.reset();
        }
        if self.current == Some(slot) {
            self.current = None;
        }
    }

    fn is_retired(&self, source: SocketAddr, session_id: i32) -> bool {
        self.retired.contains(&(source, session_id))
    }

    fn owe(&mut self, to: SocketAddr, status: Option<StatusMessage>) {
        if let Some(status) = status {
            // One that finds no room is elicited again, or is a farewell that nobody depends on.
            let _room = self.owed.push((to, status));
        }
    }

    fn find(&self, source: SocketAddr, session_id: i32) -> Option<usize> {
        (0..EGRESS_IMAGES).find(|slot| {
            self.image(*slot)
                .is_some_and(|image| image.is(source, self.stream_id, session_id))
        })
    }

    fn heard(&mut self, slot: usize, now: Instant) {
        if let Some(heard_at) = self.heard_at.get_mut(slot) {
            *heard_at = now;
        }
    }

    fn image(&self, slot: usize) -> Option<&Image> {
        self.images.get(slot)?.as_ref()
    }

    fn image_mut(&mut self, slot: usize) -> Option<&mut Image> {
        self.images.get_mut(slot)?.as_mut()
    }
}

/// The length of each slot of the egress memory, in bytes.
pub const fn slot_length(egress: &[u8]) -> usize {
    egress.len() / EGRESS_IMAGES
}

fn slot_of(egress: &[u8], slot: usize) -> &[u8] {
    let len = slot_length(egress);
    egress.get(slot * len..(slot + 1) * len).unwrap_or(&[])
}

fn slot_mut(egress: &mut [u8], slot: usize) -> &mut [u8] {
    let len = slot_length(egress);
    egress
        .get_mut(slot * len..(slot + 1) * len)
        .unwrap_or(&mut [])
}
