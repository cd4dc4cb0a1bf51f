//! All bulk memory of a node: allocated once, lent to every call.

use coracle_core::log::{Window, window_len};
use coracle_core::node::Lent;
use coracle_core::stream::slot_len;

use super::{NodeError, SESSIONS};
use crate::config::Settings;

/// How many clients may be in the middle of a fragmented message at once, at least.
const REASSEMBLY_SLOTS: usize = 16;
/// Bytes that one cold read for a follower asks for.
const CATCHUP: usize = 1 << 20;

/// The buffers of `Lent`. Untouched pages cost nothing.
pub struct Memory {
    pub window: Window<Vec<u8>>,
    pub ingress: Vec<u8>,
    pub reassembly: Vec<u8>,
    pub egress: Vec<u8>,
    pub replay: Vec<u8>,
    pub catchup: Vec<u8>,
    pub assembly: Vec<u8>,
    pub services: Vec<u8>,
}

impl Memory {
    pub fn new(settings: &Settings, services: usize) -> Result<Self, NodeError> {
        let mtu = settings.mtu.0 as usize;
        let message = settings.message_max.0 as usize;
        let bytes = vec![0; window_len(settings.window.0 as usize, mtu)];
        let window = Window::new(bytes, mtu, settings.segment_length.0 as u32)
            .map_err(|error| std::io::Error::other(format!("log window: {error:?}")))?;
        // A client's own MTU may be as large as a datagram.
        let ingress = slot_len(settings.ingress_window.0 as usize, 1 << 16) * SESSIONS;
        let egress = slot_len(settings.egress_window.0 as usize, mtu) * SESSIONS;
        Ok(Self {
            window,
            ingress: vec![0; ingress],
            reassembly: vec![0; (message + 64) * REASSEMBLY_SLOTS],
            egress: vec![0; egress],
            // At least one message with all its headers, and the frames around it.
            replay: vec![0; (message * 2).max(CATCHUP)],
            catchup: vec![0; CATCHUP],
            assembly: vec![0; (message + 64) * 2],
            services: vec![0; settings.service_memory.0 as usize * services],
        })
    }

    pub fn lent(&mut self) -> Lent<'_, Window<Vec<u8>>> {
        Lent {
            log: &mut self.window,
            ingress: &mut self.ingress,
            reassembly: &mut self.reassembly,
            egress: &mut self.egress,
            replay: &mut self.replay,
            catchup: &mut self.catchup,
            assembly: &mut self.assembly,
            services: &mut self.services,
        }
    }
}
