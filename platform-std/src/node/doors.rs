//! The sockets of a node, two and one for the log's group, and the batches that go through them.

use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;

use coracle_core::log::Window;
use coracle_core::node::{CONTROL_MAX, Door, Lent};
use coracle_core::time::Now;

use super::peers::Places;
use super::trace::{Left, Trace};
use super::{Core, Fds, NodeError};
use crate::net::batch::{BATCH, Sent};
use crate::net::{Group, ReceiveBatch, SendBatch, Socket};

/// How many batches are sent in one turn at most: other work comes round.
const SENT: usize = 2;
/// After so many datagrams through one door other work comes round as well.
const RECEIVED: u64 = 128;
/// The same for so many bytes: what a turn has received is in a cache when it is written, sent and
/// executed.
const RECEIVED_BYTES: usize = 128 << 10;

/// The most turns in a row in which clients are not heard: they also say how far they have read,
/// and that they are there.
const UNHEARD: u32 = 3;

/// Whether what clients say had better stay in their socket for a while. While the node has more of
/// it than it takes in a turn, that would wait in their windows instead: it is copied once more.
#[derive(Debug, Default)]
struct Waiting {
    are_behind: bool,
    /// Turns in a row.
    unheard: u32,
}

impl Waiting {
    /// Whether they are not heard in this turn.
    fn pass_by(&mut self) -> bool {
        let is_passed = self.are_behind && self.unheard < UNHEARD;
        self.unheard = if is_passed { self.unheard + 1 } else { 0 };
        is_passed
    }
}

/// What went through the doors since the start.
#[derive(Clone, Copy, Debug, Default)]
pub struct Traffic {
    pub received: u64,
    pub rejected: u64,
    pub sent: u64,
    pub refused: u64,
}

/// See the module's text.
pub struct Doors {
    member: Socket,
    client: Socket,
    /// What a leader sends to all followers at once. From the same address as all else that it
    /// sends, so that the check of the source is the same.
    group: Option<Socket>,
    /// Of each socket.
    inbound: [ReceiveBatch; 3],
    to_members: SendBatch,
    to_clients: SendBatch,
    scratch: Box<[[u8; CONTROL_MAX]; BATCH]>,
    clients: Waiting,
    pub traffic: Traffic,
    /// What has left, if somebody wants to know.
    pub left: Option<Left>,
}

type Datagrams<'l> = heapless::Vec<(SocketAddr, &'l [u8]), BATCH>;

impl Doors {
    pub fn bind(places: &Places, group: Option<Group>) -> Result<Self, NodeError> {
        let member = Socket::bind(places.member)?;
        let client = Socket::bind(places.client)?;
        let group = match group {
            Some(group) => {
                group.prepare(&member, &places.others)?;
                Some(group.listen()?)
            }
            None => None,
        };
        for socket in [&member, &client].into_iter().chain(&group) {
            ReceiveBatch::join(socket);
        }
        Ok(Self {
            member,
            client,
            group,
            inbound: Default::default(),
            to_members: SendBatch::new(),
            to_clients: SendBatch::new(),
            scratch: Box::new([[0; CONTROL_MAX]; BATCH]),
            clients: Waiting::default(),
            traffic: Traffic::default(),
            left: None,
        })
    }

    /// From now on, notes what leaves, for the trace that this gives back.
    pub fn watch(&mut self, path: PathBuf, segment_length: u32) -> Trace {
        let (trace, left) = Trace::new(path, segment_length);
        self.left = Some(left);
        trace
    }

    /// What to poll for readability, behind `first`.
    pub fn fds<'a>(&'a self, first: BorrowedFd<'a>) -> Fds<'a> {
        let sockets = [&self.member, &self.client].into_iter().chain(&self.group);
        std::iter::once(first)
            .chain(sockets.map(AsFd::as_fd))
            .collect()
    }

    /// Whether the node has more of what clients have said than it could take in its turn.
    pub fn clients_are_behind(&mut self, are_behind: bool) {
        self.clients.are_behind = are_behind;
    }

    /// Hands the node what has arrived. True if anything has.
    pub fn receive(
        &mut self,
        now: Now,
        node: &mut Core,
        lent: &mut Lent<'_, Window<Vec<u8>>>,
    ) -> Result<bool, NodeError> {
        let mut any = false;
        let own = self.member.local();
        let doors = [(Door::Member, &self.member), (Door::Client, &self.client)];
        // What is said to the group is for members, and by members.
        let group = self.group.as_ref().map(|socket| (Door::Member, socket));
        let doors = doors.into_iter().chain(group);
        for ((door, socket), inbound) in doors.zip(&mut self.inbound) {
            let is_client = door == Door::Client;
            if is_client && self.clients.pass_by() {
                continue;
            }
            let (before, mut len) = (self.traffic.received, 0);
            while inbound.receive(socket)? {
                any = true;
                for (from, bytes) in inbound.datagrams() {
                    len += bytes.len();
                    // A leader on a machine with other members hears what it says to the group.
                    if door == Door::Member && from == own {
                        continue;
                    }
                    self.traffic.received += 1;
                    // One copy too many, for `cargo xtask copies` to find.
                    #[cfg(coracle_planted)]
                    let bytes = &*std::hint::black_box(bytes.to_vec());
                    if node.handle_datagram(now, door, from, bytes, lent).is_err() {
                        self.traffic.rejected += 1;
                    }
                }
                let count = self.traffic.received - before;
                let is_much = count >= RECEIVED || len >= RECEIVED_BYTES;
                let is_fed = is_client && (self.clients.are_behind || node.is_fed());
                if is_fed || is_much || !inbound.is_full() {
                    break;
                }
            }
        }
        Ok(any)
    }

    /// Sends what the node owes. True if there is more.
    pub fn transmit(
        &mut self,
        now: Now,
        node: &mut Core,
        lent: &Lent<'_, Window<Vec<u8>>>,
    ) -> bool {
        for _ in 0..SENT {
            let (mut to_members, mut to_clients) = (Datagrams::new(), Datagrams::new());
            let mut is_all = false;
            for scratch in self.scratch.iter_mut() {
                let Some(due) = node.poll_transmit(now, lent, scratch) else {
                    is_all = true;
                    break;
                };
                if let Some(left) = &mut self.left {
                    left.look(due.door, due.bytes);
                }
                let datagrams = match due.door {
                    Door::Member => &mut to_members,
                    Door::Client => &mut to_clients,
                };
                datagrams
                    .push((due.to, due.bytes))
                    .unwrap_or_else(|_| unreachable!("as many as there are places to write"));
            }
            // Clients first: what they are told, they wait for.
            let doors = [
                (&self.client, &mut self.to_clients, &to_clients),
                (&self.member, &mut self.to_members, &to_members),
            ];
            for (socket, batch, datagrams) in doors {
                if !datagrams.is_empty() {
                    let Sent { taken, refused } = batch.send(socket, datagrams);
                    self.traffic.sent += taken;
                    self.traffic.refused += refused;
                }
            }
            if is_all {
                return false;
            }
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_who_are_behind_are_heard_in_one_turn_of_four() {
        let mut clients = Waiting::default();
        assert!(!clients.pass_by());
        clients.are_behind = true;
        let passed: Vec<bool> = (0..8).map(|_| clients.pass_by()).collect();
        assert_eq!(passed, [true, true, true, false, true, true, true, false]);
        assert!(clients.pass_by());
        clients.are_behind = false;
        assert!(!clients.pass_by());
    }
}
