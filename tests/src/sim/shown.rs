//! What a member shows and is told, whatever it is: a process with files, or a board.

use std::collections::VecDeque;

use coracle_core::node::{Deadline, Node};
use coracle_core::service::Role;
use coracle_core::time::{Instant, Now};
use coracle_core::units::{MemberId, Position, Term};

use super::board::Running;
use super::clock::Nanos;
use super::member::{Member, SESSIONS};
use super::net::Datagram;
use super::unwell::Unwell;

/// What a node shows.
#[derive(Clone, Debug)]
#[expect(missing_docs, reason = "the names are those of the core")]
pub struct Shown {
    pub role: Role,
    pub term: Term,
    pub joined: Term,
    pub end: Position,
    pub commit: Position,
    pub applied: Position,
    pub is_quarantined: bool,
    /// The newest position at which all are known to agree.
    pub agreed: u64,
}

impl Shown {
    fn of<const S: usize>(node: &Node<SESSIONS, S>) -> Self {
        let status = node.status();
        Self {
            role: status.role,
            term: status.term,
            joined: node.joined(),
            end: status.appended,
            commit: status.committed,
            applied: status.applied,
            is_quarantined: status.quarantined,
            agreed: node.agreed_checkpoint().position.get(),
        }
    }

    fn tell<const S: usize>(node: &Node<SESSIONS, S>) -> String {
        let s = node.status();
        let services: Vec<u64> = node.services().map(|s| s.applied.get()).collect();
        format!(
            "{:?} term {} joined {} leader {:?} end {} durable {} commit {} applied {} votes {} \
             sessions {}\n      {:?}\n      services {services:?}, snapshot {:?}, due {:?}, log \
             from {}, healing {:?}",
            s.role,
            s.term,
            node.joined(),
            s.leader,
            s.appended,
            s.durable,
            s.committed,
            s.applied,
            s.votes,
            s.sessions,
            node.counters(),
            s.snapshot,
            node.snapshot_due(),
            node.log_start().base,
            node.healing(),
        )
    }
}

impl Member {
    fn running(&self) -> Option<&Running> {
        self.board.as_ref()?.running.as_ref()
    }

    fn running_mut(&mut self) -> Option<&mut Running> {
        self.board.as_mut()?.running.as_mut()
    }

    /// Whether anything runs on it.
    pub fn is_up(&self) -> bool {
        self.process.is_some() || self.running().is_some()
    }

    /// What it shows, if it is up.
    pub fn shown(&self) -> Option<Shown> {
        match (&self.process, self.running()) {
            (Some(process), _) => Some(Shown::of(&process.node)),
            (None, Some(running)) => Some(Shown::of(running.superloop.node())),
            (None, None) => None,
        }
    }

    /// The same in words.
    pub fn told_in_words(&self) -> String {
        match (&self.process, self.running()) {
            (Some(p), _) => format!(
                "{}, window {}..{}, flushing {}, recalling {:?}, stalled {:?}",
                Shown::tell(&p.node),
                coracle_core::log::Log::start(&p.log),
                coracle_core::log::Log::end(&p.log),
                p.flush.is_some(),
                p.recall,
                self.stalled
            ),
            (None, Some(running)) => format!("board {}", Shown::tell(running.superloop.node())),
            (None, None) => "down".to_owned(),
        }
    }

    /// Whether it is quarantined, and its role.
    pub(super) fn standing(&self) -> Option<(bool, Role)> {
        match (&self.process, self.running()) {
            (Some(process), _) => Some((process.node.is_quarantined(), process.node.role())),
            (None, Some(running)) => {
                let node = running.superloop.node();
                Some((node.is_quarantined(), node.role()))
            }
            (None, None) => None,
        }
    }

    /// When it wants to be called again, and for what.
    pub(super) fn deadline(&self) -> Option<(Instant, Deadline)> {
        match (&self.process, self.running()) {
            (Some(process), _) => process.node.poll_timeout(),
            (None, running) => running?.superloop.node().poll_timeout(),
        }
    }

    /// When its driver next runs.
    pub(super) fn turn_at(&mut self) -> Option<&mut Option<Nanos>> {
        match &mut self.process {
            Some(process) => Some(&mut process.turn_at),
            None => Some(&mut self.board.as_mut()?.running.as_mut()?.turn_at),
        }
    }

    /// Its sockets' receive buffers.
    pub(super) fn inbox(&mut self) -> Option<&mut VecDeque<Datagram>> {
        match &mut self.process {
            Some(process) => Some(&mut process.inbox),
            None => {
                let running = self.board.as_mut()?.running.as_mut()?;
                Some(&mut running.superloop.board().inbox)
            }
        }
    }

    /// Which leadership it has joined, and what it was told of others in it.
    pub(super) fn told(&mut self) -> Option<(Term, &mut Unwell)> {
        match &mut self.process {
            Some(process) => Some((process.node.joined(), &mut process.unwell)),
            None => {
                let running = self.board.as_mut()?.running.as_mut()?;
                Some((running.superloop.node().joined(), &mut running.unwell))
            }
        }
    }

    /// What it was told of others.
    pub(super) fn unwell(&self) -> Option<&Unwell> {
        match &self.process {
            Some(process) => Some(&process.unwell),
            None => Some(&self.running()?.unwell),
        }
    }

    /// What it says of itself; nothing while it is down.
    pub(super) fn status(&self) -> Option<coracle_core::node::Status> {
        match (&self.process, self.running()) {
            (Some(process), _) => Some(process.node.status()),
            (None, Some(running)) => Some(running.superloop.node().status()),
            (None, None) => None,
        }
    }

    /// An operator asks for a snapshot; false if that is refused.
    pub(super) fn request_snapshot(&mut self) -> bool {
        if let Some(process) = &mut self.process {
            return process.node.request_snapshot().is_ok();
        }
        let running = self.running_mut();
        running.is_some_and(|r| r.superloop.request_snapshot().is_ok())
    }

    /// It is told to close; false if nothing runs.
    pub(super) fn resign(&mut self, now: Now) -> bool {
        if let Some(process) = &mut self.process {
            process.node.resign(now);
            return true;
        }
        let Some(running) = self.running_mut() else {
            return false;
        };
        running.superloop.board().now = now;
        running.superloop.resign();
        true
    }

    /// It is told to hand over; false if that is refused.
    pub(super) fn transfer(&mut self, now: Now, target: MemberId) -> bool {
        if let Some(process) = &mut self.process {
            return process.node.transfer(now, target).is_ok();
        }
        let Some(running) = self.running_mut() else {
            return false;
        };
        running.superloop.board().now = now;
        running.superloop.transfer(target).is_ok()
    }

    /// No fault that was planned for its device comes.
    pub(super) fn spare(&mut self) {
        if let Some(board) = &mut self.board {
            board.device.with(coracle_devices::Device::spare);
        }
    }
}
