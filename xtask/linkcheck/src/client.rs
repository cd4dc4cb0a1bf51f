//! A client of the cluster, and the check that every answer is the echo of what was sent.

use core::cell::RefCell;
use core::net::SocketAddr;

use coracle_core::client::{Client, ClientConfig, Egress, Lent, State};
use coracle_core::stream::Output;

use crate::Failed;
use crate::pool::Pool;
use crate::world::World;

const MESSAGE_MAX: usize = crate::MESSAGE_MAX;

/// A client with its memory. It sends message n once message n - 1 was answered.
pub struct Caller<'w> {
    world: &'w RefCell<World>,
    address: SocketAddr,
    client: Client,
    ingress: &'static mut [u8],
    egress: &'static mut [u8],
    assembly: &'static mut [u8],
    datagram: &'static mut [u8],
    message: &'static mut [u8],
    awaited: Option<usize>,
    /// Sends nothing new.
    pub is_paused: bool,
    pub answered: u32,
    pub unknown: u32,
    /// How often it had to say who it is.
    pub challenged: u32,
    /// What the client has told of its session.
    pub events: u32,
}

impl<'w> Caller<'w> {
    pub fn new(
        world: &'w RefCell<World>,
        address: SocketAddr,
        config: ClientConfig,
        pool: &mut Pool,
    ) -> Result<Self, Failed> {
        let ingress = pool.take(64 * 1024 + crate::MTU);
        let egress = pool.take(2 * (64 * 1024 + crate::MTU));
        let assembly = pool.take(MESSAGE_MAX + 64);
        let lent = Lent {
            ingress,
            egress,
            assembly,
        };
        let now = world.borrow().now;
        let client = Client::new(now, config, &lent).map_err(|_| Failed("making a client"))?;
        let Lent {
            ingress,
            egress,
            assembly,
        } = lent;
        Ok(Self {
            world,
            address,
            client,
            ingress,
            egress,
            assembly,
            datagram: pool.take(crate::MTU),
            message: pool.take(MESSAGE_MAX),
            awaited: None,
            is_paused: false,
            answered: 0,
            unknown: 0,
            challenged: 0,
            events: 0,
        })
    }

    pub fn state(&self) -> State {
        self.client.state()
    }

    /// Asks for the session's end.
    pub fn close(&mut self) {
        let now = self.world.borrow().now;
        let mut lent = Lent {
            ingress: self.ingress,
            egress: self.egress,
            assembly: self.assembly,
        };
        self.client.close(now, &mut lent);
    }

    /// One turn: takes in what has arrived, sends the next message, sends what is due.
    pub fn turn(&mut self) -> Result<(), Failed> {
        let mut lent = Lent {
            ingress: self.ingress,
            egress: self.egress,
            assembly: self.assembly,
        };
        let now = self.world.borrow().now;
        loop {
            let arrived = self.world.borrow_mut().receive(self.address, self.datagram);
            let Some((from, len)) = arrived else { break };
            let datagram = self.datagram.get(..len).unwrap_or_default();
            self.client
                .handle_datagram(now, from, datagram, &mut lent)
                .map_err(|_| Failed("members send frames"))?;
        }
        self.client.handle_timeout(now, &mut lent);
        while let Some(egress) = self.client.poll_egress(now, &mut lent) {
            match egress {
                Egress::Message { payload, .. } => {
                    let sent = self.awaited.take().and_then(|len| self.message.get(..len));
                    if sent != Some(payload) {
                        return Err(Failed("the echo is what was sent"));
                    }
                    self.answered += 1;
                }
                _ => self.unknown += u32::from(self.awaited.take().is_some()),
            }
        }
        let is_challenged = matches!(self.client.state(), State::Challenged { .. });
        if is_challenged && self.client.challenge() == b"secret?" {
            let has_answered = self.client.respond(now, crate::SECRET, &mut lent);
            self.challenged += u32::from(has_answered);
        }
        while self.client.poll_event().is_some() {
            self.events += 1;
        }
        let is_ready = self.awaited.is_none() && !self.is_paused;
        if is_ready && matches!(self.client.state(), State::Open { .. }) {
            let len = 1 + (self.answered as usize * 271) % MESSAGE_MAX;
            let message = self.message.get_mut(..len).unwrap_or_default();
            message.fill(self.answered as u8);
            if self.client.offer(now, &[message], &mut lent).is_ok() {
                self.awaited = Some(len);
            }
        }
        while let Some(resolve) = self.client.poll_resolve() {
            let (member, address) = (resolve.member, resolve.endpoint.parse().ok());
            self.client.handle_resolved(member, address);
        }
        while let Some(transmit) = self.client.poll_transmit(now, &lent) {
            let mut world = self.world.borrow_mut();
            match &transmit.payload {
                Output::Frames(bytes) => world.send(self.address, transmit.to, bytes),
                Output::Control(control) => {
                    let mut scratch = [0; coracle_core::stream::CONTROL_MAX];
                    world.send(self.address, transmit.to, control.emit(&mut scratch));
                }
            }
        }
        Ok(())
    }
}
