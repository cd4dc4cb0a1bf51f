//! How much memory a node has, for what: numbers that are known when it is compiled.

use coracle_core::limits::{MTU_DEFAULT, MTU_MIN};
use coracle_core::log::SECTOR;
use coracle_core::node::Config;

use crate::superloop::Memory;

/// Room for a message's own header where it is put together.
const MESSAGE_HEADER: usize = 64;

/// The sizes of a node's memory. The number of sessions is the `N` of its superloop, so all of a
/// node is two things: the superloop itself, and one array of [`Self::total`] bytes.
///
/// ```
/// use coracle_embedded::Profile;
///
/// const PROFILE: Profile = Profile::TINY;
/// static mut MEMORY: [u8; PROFILE.total()] = [0; PROFILE.total()];
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Profile {
    /// Client sessions, each with a stream in and one out.
    pub sessions: usize,
    /// The longest datagram among members, and of answers to clients: a multiple of 32.
    pub mtu: usize,
    /// The longest datagram of a client: what its driver is set to.
    pub client_mtu: usize,
    /// The longest message.
    pub message_max: usize,
    /// The log's bytes in memory: a power of two.
    pub log_window: usize,
    /// What one client may send before it is acknowledged: a power of two.
    pub ingress_window: usize,
    /// What one client may have to read: a power of two, and two of the longest messages with their
    /// headers at least. An Aeron driver tells that its client has read only once that was a
    /// quarter of its own window, of 32 KiB if nothing else is set: with less than 16 KiB here, set
    /// the `rcv-wnd` of its channel to as much as this. A client that has left half of this unsaid
    /// for the egress timeout is closed.
    pub egress_window: usize,
    /// How many clients may be in the middle of a message of several frames at once.
    pub reassemblies: usize,
    /// Log bytes that are read for a member which is behind, or of a snapshot for it, at once.
    pub catchup: usize,
    /// What the service has armed and offered.
    pub services: usize,
}

impl Profile {
    /// A controller: 4 sessions and messages of 384 bytes in at most 64 KiB of RAM, all told. Its
    /// clients are Coracle's: an Aeron driver tells of what its client has read too late for a
    /// window of 1 KiB.
    pub const TINY: Self = Self {
        sessions: 4,
        mtu: 512,
        client_mtu: 512,
        message_max: 384,
        log_window: 8 * 1024,
        ingress_window: 1024,
        egress_window: 1024,
        reassemblies: 2,
        catchup: 1024,
        services: 256,
    };

    /// A gateway without an operating system: 12 sessions, clients as they are set by default.
    pub const SMALL: Self = Self {
        sessions: 12,
        mtu: MTU_DEFAULT,
        client_mtu: MTU_DEFAULT,
        message_max: 4 * 1024,
        log_window: 64 * 1024,
        ingress_window: 8 * 1024,
        egress_window: 16 * 1024,
        reassemblies: 8,
        catchup: 16 * 1024,
        services: 4 * 1024,
    };

    /// An appliance: 64 sessions, and windows for a fast network.
    pub const APPLIANCE: Self = Self {
        sessions: 64,
        mtu: MTU_DEFAULT,
        client_mtu: MTU_DEFAULT,
        message_max: 64 * 1024,
        log_window: 1024 * 1024,
        ingress_window: 128 * 1024,
        egress_window: 128 * 1024,
        reassemblies: 32,
        catchup: 64 * 1024,
        services: 16 * 1024,
    };

    /// The length of each piece of [`Memory`], in its order.
    const fn lengths(&self) -> [usize; 9] {
        let message = self.message_max + MESSAGE_HEADER;
        // A header for each frame, and a frame that is cut at the end.
        let payload = max(self.mtu, MTU_MIN) - 32;
        let frames = self.message_max.div_ceil(payload) * 32;
        let longest = max(self.mtu, self.client_mtu);
        [
            self.log_window + self.mtu,
            self.sessions * (self.ingress_window + self.client_mtu),
            self.reassemblies * message,
            self.sessions * (self.egress_window + self.mtu),
            message + frames + self.mtu,
            max(self.catchup, self.mtu),
            message,
            self.services,
            max(longest, SECTOR),
        ]
    }

    /// How many bytes of memory a node is lent.
    pub const fn total(&self) -> usize {
        let lengths = self.lengths();
        let (mut sum, mut n) = (0, 0);
        while n < lengths.len() {
            sum += lengths[n];
            n += 1;
        }
        sum
    }

    /// Divides memory. `None` if it is less than [`Self::total`].
    pub fn split<'a>(&self, bytes: &'a mut [u8]) -> Option<Memory<&'a mut [u8]>> {
        let mut rest = bytes;
        let mut pieces = self.lengths().map(|length| {
            let taken = core::mem::take(&mut rest).split_at_mut_checked(length);
            taken.map(|(piece, left)| {
                rest = left;
                piece
            })
        });
        let mut next = |n: usize| pieces.get_mut(n).and_then(Option::take);
        Some(Memory {
            log: next(0)?,
            ingress: next(1)?,
            reassembly: next(2)?,
            egress: next(3)?,
            replay: next(4)?,
            catchup: next(5)?,
            assembly: next(6)?,
            services: next(7)?,
            datagram: next(8)?,
        })
    }

    /// Puts the sizes into a configuration that must agree with them.
    pub const fn apply(&self, config: &mut Config) {
        config.mtu = self.mtu;
        config.egress_mtu = self.mtu;
        config.message_max = self.message_max;
    }
}

const fn max(a: usize, b: usize) -> usize {
    if a > b { a } else { b }
}
