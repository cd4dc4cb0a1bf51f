//! A service away from its node: on a thread of its own, or wherever the log can be read (Aeron:
//! `ClusteredServiceContainer`).
//!
//! A container is a copy of what the node keeps for the service (`host/`), as it is before the
//! first record that the service has not executed. It executes the same committed records, so its
//! answers are those of the node and of every other member. What the callbacks have called is then
//! called again on the node, by a stand-in that the node takes for the service: there the same
//! calls have the same outcome, and answers go to clients, timers fire, messages are appended.
//! So a container needs nothing of the node but the committed bytes, and the node waits for none.

use super::apply::record_of;
use super::host::{At, Audience, Effects, Host, HostMemory};
use super::{Halt, Lent, Node};
use crate::log::{FrameError, Frames, Log, Message as Whole, Messages};
use crate::service::{Role, Service};
use crate::units::{MemberId, Position, ServiceId};
use crate::wire::cluster::{ClusterAction, Message};

/// The memory that a container is lent at each call, the same each time.
#[derive(Debug)]
pub struct ContainerLent<'a> {
    /// As long as [`Node::container_memory_len`] says.
    pub service: &'a mut [u8],
    /// Room for one message, as `Lent::assembly`.
    pub assembly: &'a mut [u8],
}

/// How far a call came.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Ran {
    /// All whole frames are executed.
    Through,
    /// The service takes no more: what is left is for a later call.
    NotNow,
    /// The record that ends here makes every member take a snapshot: the service has executed it,
    /// and nothing behind. Go on once it is known whether this member takes one.
    Action(Position),
}

/// See the module. `N` is that of the node.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Container<const N: usize> {
    host: Host<N>,
    messages: Messages,
    /// The end of the last frame taken.
    at: Position,
    member: MemberId,
    role: Role,
    message_max: usize,
    segment_length: u32,
}

impl<const N: usize, const S: usize> Node<N, S> {
    /// How many bytes of memory a container needs, if the node's services are lent `services`
    /// bytes.
    pub fn container_memory_len(&self, services: usize) -> usize {
        services / self.hosts.len().max(1)
    }

    /// What a service needs to run away from this node: right after [`Self::new`], or after
    /// [`Self::load_snapshot`], before the node has executed anything. `memory` is filled for the
    /// container. `None` if there is no such service, or `memory` has another length than needed.
    pub fn container<L: Log>(
        &self,
        service: ServiceId,
        lent: &mut Lent<'_, L>,
        memory: &mut [u8],
    ) -> Option<Container<N>> {
        let slot = self.hosts.iter().position(|host| host.id == service)?;
        let len = self.container_memory_len(lent.services.len());
        let share = lent.services.get(slot * len..(slot + 1) * len)?;
        if memory.len() != len {
            return None;
        }
        memory.copy_from_slice(share);
        let host = self.hosts.get(slot)?.clone();
        Some(Container {
            messages: Messages::new(),
            at: host.position,
            host,
            member: self.config.member,
            role: Role::Follower,
            message_max: self.config.message_max,
            segment_length: self.config.segment_length,
        })
    }
}

impl<const N: usize> Container<N> {
    /// The end of the last record that the service has executed.
    pub fn position(&self) -> Position {
        self.host.position
    }

    /// Where the bytes for the next call start.
    pub fn reads_at(&self) -> Position {
        self.at
    }

    /// Tells the service of its start, if it has not been told, and of this member's role.
    pub fn tell(&mut self, role: Role, service: &mut dyn Service, lent: &mut ContainerLent<'_>) {
        self.role = role;
        let at = self.record_at(self.host.position, self.host.position);
        self.host.tell(at, service, &mut effects(lent.service));
    }

    /// The service ends: its last call.
    pub fn terminate(&mut self, service: &mut dyn Service, lent: &mut ContainerLent<'_>) {
        let at = self.record_at(self.host.position, self.host.position);
        self.host.terminate(at, service, &mut effects(lent.service));
    }

    /// Executes the records in `bytes`, which start at [`Self::reads_at`] and are committed.
    /// Frames that are cut off at the end are left for the next call. The service is asked before
    /// each frame whether it takes more, as on the node. Bounded by the bytes.
    ///
    /// # Errors
    /// [`Halt::CorruptLog`] if the bytes are not those of the log,
    /// [`Halt::MessageTooLong`], [`Halt::ServiceMessage`]: the node comes to the same. And
    /// [`Halt::ServiceBroken`].
    pub fn execute(
        &mut self,
        bytes: &[u8],
        service: &mut dyn Service,
        lent: &mut ContainerLent<'_>,
    ) -> Result<Ran, Halt> {
        let before = self.at;
        let mut frames = Frames::new(bytes, before, self.segment_length).verified();
        loop {
            if service.is_broken() {
                return Err(Halt::ServiceBroken(self.host.id));
            }
            if !service.ready(self.host.position) {
                return Ok(Ran::NotNow);
            }
            let Some(frame) = frames.next() else { break };
            self.at = frame.end();
            let mut messages = core::mem::take(&mut self.messages);
            let message = messages.push(frame, lent.assembly);
            let ran = match message {
                Some(message) => self.take(&message, service, lent.service),
                None => Ok(Ran::Through),
            };
            self.messages = messages;
            if self.messages.is_too_long() {
                return Err(Halt::MessageTooLong(self.at));
            }
            if let Ran::Action(at) = ran? {
                return Ok(Ran::Action(at));
            }
        }
        match frames.error() {
            Some(error) if error != FrameError::Cut => Err(Halt::CorruptLog(self.at)),
            _ => Ok(Ran::Through),
        }
    }

    fn take(
        &mut self,
        message: &Whole<'_>,
        service: &mut dyn Service,
        memory: &mut [u8],
    ) -> Result<Ran, Halt> {
        let at = self.record_at(message.start, message.end);
        let parsed = Message::parse(message.bytes);
        let record = record_of(message.start, &parsed);
        self.host
            .execute(at, &record, service, &mut effects(memory))?;
        Ok(match parsed {
            Ok(Message::ClusterActionRequest(request))
                if request.action == ClusterAction::Snapshot =>
            {
                Ran::Action(message.end)
            }
            _ => Ran::Through,
        })
    }

    fn record_at(&self, start: Position, end: Position) -> At {
        At {
            start,
            end,
            role: self.role,
            member: self.member,
            message_max: self.message_max,
            serves: false,
        }
    }
}

fn effects<const N: usize>(memory: &mut [u8]) -> Effects<'_, '_, N> {
    Effects {
        audience: Audience::Nobody,
        host: HostMemory::of(memory, 0, 1),
    }
}
