//! All bulk memory of a node: allocated once, lent to every call.

use std::time::Duration;

use coracle_core::log::{Window, window_len};
use coracle_core::node::Lent;
use coracle_core::node::clients::{StreamMemory, Unused, places};
use coracle_core::stream::slot_len;
use coracle_core::time::Instant;

use super::{Core, NodeError, SESSIONS};
use crate::config::Settings;
use crate::mapped::Mapped;

/// How many clients may be in the middle of a fragmented message at once, at least.
const REASSEMBLY_SLOTS: usize = 16;
/// Bytes that one cold read for a follower asks for.
const CATCHUP: usize = 1 << 20;

/// What clients' streams may have touched of their windows before what is not in use is given back
/// to the system.
const STREAMS_KEEP: u64 = 32 << 20;
/// How often that is looked for. In each turn it would cost up to a twentieth of a busy one, in
/// cache lines of streams that nobody else asks for.
const LOOK_EVERY: Duration = Duration::from_micros(500);

/// The buffers of `Lent`. Untouched pages cost nothing.
pub struct Memory {
    pub window: Window<Vec<u8>>,
    pub ingress: Mapped,
    pub reassembly: Vec<u8>,
    pub egress: Mapped,
    pub replay: Vec<u8>,
    pub catchup: Vec<u8>,
    pub assembly: Vec<u8>,
    pub services: Vec<u8>,
    /// When streams are looked at again for what they do not use.
    look_at: Instant,
}

impl Memory {
    pub fn new(settings: &Settings, services: usize) -> Result<Self, NodeError> {
        let mtu = settings.mtu.0 as usize;
        let message = settings.message_max.0 as usize;
        let bytes = vec![0; window_len(settings.window.0 as usize, mtu)];
        let window = Window::new(bytes, mtu, settings.segment_length.0 as u32)
            .map_err(|error| std::io::Error::other(format!("log window: {error:?}")))?;
        // A client's own MTU may be as large as a datagram.
        let places = places(SESSIONS, settings.sessions_max as usize);
        let ingress = slot_len(settings.ingress_window.0 as usize, 1 << 16) * places;
        let egress = slot_len(settings.egress_window.0 as usize, mtu) * places;
        Ok(Self {
            window,
            ingress: Mapped::sparse(ingress)?,
            reassembly: vec![0; (message + 64) * REASSEMBLY_SLOTS],
            egress: Mapped::sparse(egress)?,
            // At least one message with all its headers, and the frames around it.
            replay: vec![0; (message * 2).max(CATCHUP)],
            catchup: vec![0; CATCHUP],
            assembly: vec![0; (message + 64) * 2],
            services: vec![0; settings.service_memory.0 as usize * services],
            look_at: Instant::from_nanos(0),
        })
    }

    /// Gives back to the system what streams have touched and do not use, now and then. Some, not
    /// all: it is a system call each.
    pub fn give_back(&mut self, now: Instant, node: &mut Core) {
        if now < self.look_at {
            return;
        }
        self.look_at = now.plus(LOOK_EVERY);
        for _ in 0..4 {
            let unused = node.poll_unused(STREAMS_KEEP, &self.lent());
            let Some(unused) = unused else { return };
            self.forget(unused);
        }
    }

    fn forget(&mut self, unused: Unused) {
        let memory = match unused.memory {
            StreamMemory::Ingress => &mut self.ingress,
            StreamMemory::Egress => &mut self.egress,
        };
        for range in unused.ranges {
            memory.forget(range);
        }
    }

    pub fn lent(&mut self) -> Lent<'_, Window<Vec<u8>>> {
        Lent {
            log: &mut self.window,
            ingress: self.ingress.as_mut(),
            reassembly: &mut self.reassembly,
            egress: self.egress.as_mut(),
            replay: &mut self.replay,
            catchup: &mut self.catchup,
            assembly: &mut self.assembly,
            services: &mut self.services,
        }
    }
}
