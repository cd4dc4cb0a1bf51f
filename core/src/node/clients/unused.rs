//! Stream memory that holds nothing just now, for drivers that can give it back to their system.
//!
//! A stream goes round and round its window, so after a while it has touched all of it, however
//! little is in it at a time. With a thousand sessions that would be a thousand whole windows. Of
//! what was touched only what lies between a stream's two ends is needed: a session has a window as
//! large as the longest message while it has one on its way, and nearly nothing else.

use core::ops::Range;

use crate::node::clients::Clients;
use crate::node::clients::link::Link;
use crate::node::clients::slots::share_len;
use crate::stream::Held;
use crate::units::Position;

/// How many slots a call looks at.
const LOOKS: usize = 32;

/// Which of the lent memories.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum StreamMemory {
    /// What clients send.
    Ingress,
    /// What they are sent.
    Egress,
}

/// Bytes that nobody will read before they are written again.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Unused {
    /// Where.
    pub memory: StreamMemory,
    /// One or two ranges of it; one may be empty.
    pub ranges: [Range<usize>; 2],
}

/// How much of each slot was touched, as far as is known.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) struct Touched<const N: usize> {
    /// Ingress and egress.
    slots: [[Slot; N]; 2],
    /// Of all slots.
    total: u64,
    next: usize,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
struct Slot {
    bytes: u32,
    /// The end of the stream when it was last looked at.
    end: Position,
}

impl<const N: usize> Touched<N> {
    pub const fn new() -> Self {
        const NOTHING: Slot = Slot {
            bytes: 0,
            end: Position::ZERO,
        };
        Self {
            slots: [[NOTHING; N]; 2],
            total: 0,
            next: 0,
        }
    }

    /// Notes what a slot of `len` bytes holds, and how much of it was touched meanwhile; what may
    /// be given back is more than `least`.
    fn look(
        &mut self,
        at: (usize, usize),
        len: usize,
        held: Option<Held>,
        limits: (u64, u64),
    ) -> bool {
        let (keep, least) = limits;
        let slot = self
            .slots
            .get_mut(at.0)
            .and_then(|slots| slots.get_mut(at.1));
        let Some(slot) = slot else {
            return false;
        };
        let before = slot.bytes;
        if let Some(held) = &held {
            // Another stream than the last one may be anywhere.
            let moved = match held.end < slot.end {
                true => len as u64,
                false => held.end.since(slot.end),
            };
            slot.bytes = (u64::from(before) + moved).min(len as u64) as u32;
            slot.end = held.end;
        }
        self.total += u64::from(slot.bytes.saturating_sub(before));
        let used = held.map_or(0, |held| held.end.since(held.start));
        let spare = u64::from(slot.bytes).saturating_sub(used);
        if self.total <= keep || spare <= least {
            return false;
        }
        slot.bytes = used.min(len as u64) as u32;
        self.total = self.total.saturating_sub(spare);
        true
    }
}

impl<const N: usize> Clients<N> {
    /// Memory of a stream's slot that holds nothing, if streams have touched more than `keep` bytes
    /// of the `ingress` and `egress` bytes that are lent, and this slot has its part in that. Looks
    /// at a few slots, at others with each call. Whoever calls may change those bytes; nobody has
    /// to.
    pub fn poll_unused(&mut self, keep: u64, ingress: usize, egress: usize) -> Option<Unused> {
        let least = keep.checked_div(4 * self.places as u64).unwrap_or(0);
        for _ in 0..LOOKS {
            let at = self.touched.next;
            self.touched.next = if at + 1 < 2 * self.places { at + 1 } else { 0 };
            let (memory, slot, lent) = match at.checked_sub(self.places) {
                None => (StreamMemory::Ingress, at, ingress),
                Some(slot) => (StreamMemory::Egress, slot, egress),
            };
            let len = share_len(lent, self.places);
            let held = match memory {
                StreamMemory::Ingress => self.ingress.get(slot).map(|s| s.image.held()),
                StreamMemory::Egress => {
                    let link = self.links.get(slot);
                    link.and_then(Link::publication).map(|p| p.held())
                }
            };
            if self
                .touched
                .look((memory as usize, slot), len, held, (keep, least))
            {
                let whole = [0..len, 0..0];
                let ranges = held.map_or(whole, |held| held.unused(len));
                let start = slot * len;
                let ranges = ranges.map(|range| start + range.start..start + range.end);
                return Some(Unused { memory, ranges });
            }
        }
        None
    }
}
