//! A device that only sends: measurements into a cluster, in less than 16 KiB of memory: 14 KiB of
//! its own, and 2 KiB of stack while it turns.
//!
//! It keeps one session, over leaders that come and go. A measurement that finds no room in the
//! window is refused, so that whoever measures decides what becomes of it: the window is what the
//! cluster has not acknowledged yet.
//!
//! It has no `main`: where that comes from, and what the board is, is the firmware's business.
#![no_std]

use coracle_core::client::{
    Client, ClientConfig, ClientError, ClientTiming, EGRESS_IMAGES, Lent, State,
};
use coracle_core::node::Door;
use coracle_core::stream::{CONTROL_MAX, Output, slot_len};
use coracle_core::time::Instant;
use coracle_embedded::{Clock, Network};

/// The longest datagram that this device sends: several measurements of a few bytes each.
const MTU: usize = 512;
/// The longest that the cluster sends: what `coracle` and Aeron are set to by default.
const CLUSTER_MTU: usize = 1408;
/// What is on its way, and not acknowledged.
const WINDOW: usize = 1024;
/// The longest datagram that is taken in.
const DATAGRAM: usize = CLUSTER_MTU;
const INGRESS: usize = slot_len(WINDOW, MTU);
const EGRESS: usize = EGRESS_IMAGES * slot_len(2 * 1024, CLUSTER_MTU);
const ASSEMBLY: usize = 256;

/// A session into a cluster, and all its memory.
#[derive(Debug)]
pub struct Telemetry {
    client: Client,
    own: &'static str,
    members: &'static str,
    seed: u64,
    ingress: [u8; INGRESS],
    egress: [u8; EGRESS],
    /// Answers are not read, but an event that tells of a new leader may be long.
    assembly: [u8; ASSEMBLY],
}

fn config(own: &str, members: &str, seed: u64) -> Result<ClientConfig, ClientError> {
    let config = ClientConfig::new(own, members, seed).ok_or(ClientError::EgressChannel)?;
    Ok(ClientConfig {
        mtu: MTU as u32,
        segment_length: 64 * 1024,
        ..config
    })
}

impl Telemetry {
    /// A device that answers at `own` (`aeron:udp?endpoint=host:port`), of a cluster that is at
    /// `members` (`0=host:port,1=host:port`). `seed` is another one at every start.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn new(
        now: Instant,
        own: &'static str,
        members: &'static str,
        seed: u64,
    ) -> Result<Self, ClientError> {
        let (mut ingress, mut egress) = ([0; INGRESS], [0; EGRESS]);
        let mut assembly = [0; ASSEMBLY];
        let lent = Lent {
            ingress: &mut ingress,
            egress: &mut egress,
            assembly: &mut assembly,
        };
        let client = Client::new(now, config(own, members, seed)?, &lent)?;
        Ok(Self {
            client,
            own,
            members,
            seed,
            ingress,
            egress,
            assembly,
        })
    }

    /// Sends a measurement, or says that there is no room for it, or no cluster.
    pub fn send(&mut self, now: Instant, measurement: &[u8]) -> bool {
        let (client, mut lent) = self.lend();
        client.offer(now, &[measurement], &mut lent).is_ok()
    }

    /// Whether the cluster takes measurements.
    pub fn is_open(&self) -> bool {
        matches!(self.client.state(), State::Open { .. })
    }

    /// One turn: takes in what has arrived and sends what is due. Says when to turn again, at the
    /// latest.
    ///
    /// # Errors
    /// See [`ClientError`]: never, if there was none at the beginning.
    pub fn turn<B: Clock + Network>(&mut self, board: &mut B) -> Result<Instant, ClientError> {
        let now = board.now().instant;
        if matches!(self.client.state(), State::Closed(_)) {
            // With a new stream: the cluster takes two of one seed for one.
            self.seed = self.seed.wrapping_add(1);
            let config = config(self.own, self.members, self.seed)?;
            let (client, lent) = self.lend();
            *client = Client::new(now, config, &lent)?;
        }
        let (client, mut lent) = self.lend();
        let mut datagram = [0; DATAGRAM];
        while let Some((_, from, len)) = board.receive(&mut datagram) {
            let bytes = datagram.get(..len).unwrap_or_default();
            // What is refused was not for this device.
            let _taken = client.handle_datagram(now, from, bytes, &mut lent).is_ok();
        }
        client.handle_timeout(now, &mut lent);
        while client.poll_egress(now, &mut lent).is_some() {}
        while let Some(resolve) = client.poll_resolve() {
            let member = resolve.member;
            let address = resolve.endpoint.parse().ok();
            client.handle_resolved(member, address);
        }
        let mut scratch = [0; CONTROL_MAX];
        while let Some(transmit) = client.poll_transmit(now, &lent) {
            let bytes = match &transmit.payload {
                Output::Frames(bytes) => bytes,
                Output::Control(control) => control.emit(&mut scratch),
            };
            board.send(Door::Client, transmit.to, bytes);
        }
        let idle = now.plus(ClientTiming::DEFAULT.keep_alive);
        Ok(self.client.poll_timeout().map_or(idle, |at| at.min(idle)))
    }

    fn lend(&mut self) -> (&mut Client, Lent<'_>) {
        let lent = Lent {
            ingress: &mut self.ingress,
            egress: &mut self.egress,
            assembly: &mut self.assembly,
        };
        (&mut self.client, lent)
    }
}
