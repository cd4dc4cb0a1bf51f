//! A server around raft-rs: one thread that does network, consensus and log, three processes,
//! TCP connections between them and to clients. Each turn takes what has arrived, proposes all
//! requests in one step, sends, flushes once, and sends what had to be durable first.

use std::collections::{BTreeMap, VecDeque};
use std::io::{self, ErrorKind};
use std::net::TcpListener;
use std::time::{Duration, Instant};

use protobuf::Message as _;
use raft::eraftpb::{Entry, EntryType, Message, MessageType};
use raft::{RawNode, StateRole, storage::MemStorage};

use crate::cluster::{Member, Said};
use crate::wal::Wal;
use crate::wire::{Wait, Wire};

/// The library's unit of time: heartbeats after 10 of these, elections after 100.
const TICK: Duration = Duration::from_millis(10);

struct Server {
    node: RawNode<MemStorage>,
    wal: Wal,
    wait: Wait,
    listener: TcpListener,
    /// To the other members, by id.
    peers: BTreeMap<u64, Wire>,
    /// Clients and those who have not said who they are, by number.
    others: BTreeMap<u64, Wire>,
    next: u64,
    /// Whose entries of this term are not answered yet, in order.
    asked: VecDeque<u64>,
    term: u64,
    requests: Vec<Entry>,
    changed: bool,
}

/// Runs a member until its process is ended.
pub fn run(member: &Member) -> io::Result<()> {
    let wal = match &member.wal {
        Some(path) => Wal::create(path)?,
        None => Wal::none(),
    };
    let listener = TcpListener::bind(("127.0.0.1", member.ports[member.id as usize - 1]))?;
    listener.set_nonblocking(true)?;
    let mut peers = BTreeMap::new();
    // Of two members the one with the higher id connects.
    for id in 1..member.id {
        let mut wire = Wire::connect(member.ports[id as usize - 1])?;
        wire.put(&[&Said::member(member.id)]);
        peers.insert(id, wire);
    }
    let mut server = Server {
        node: super::member(member.id).map_err(io::Error::other)?,
        wal,
        wait: member.wait,
        listener,
        peers,
        others: BTreeMap::new(),
        next: 0,
        asked: VecDeque::new(),
        term: 0,
        requests: Vec::new(),
        changed: false,
    };
    server.run(member.id)
}

impl Server {
    fn run(&mut self, id: u64) -> io::Result<()> {
        let (mut ticked, mut turns, mut has_stood) = (Instant::now(), 0_u32, false);
        loop {
            self.changed = false;
            turns = turns.wrapping_add(1);
            // Connections are rare, and the clock costs as much as an empty read.
            let is_calm = turns.is_multiple_of(64) || self.wait == Wait::Block;
            if is_calm {
                self.accept()?;
            }
            self.hear_members()?;
            self.hear_others()?;
            if is_calm && ticked.elapsed() >= TICK {
                ticked = Instant::now();
                self.node.tick();
                super::compact(&self.node).map_err(io::Error::other)?;
            }
            // The first election need not wait for a timeout.
            if id == 1 && self.peers.len() == 2 && !has_stood {
                has_stood = true;
                self.node.campaign().map_err(io::Error::other)?;
            }
            while self.node.has_ready() {
                self.changed = true;
                self.ready()?;
            }
            self.send()?;
            if !self.changed {
                let wires = self.peers.values().chain(self.others.values());
                self.wait.idle(wires, TICK)?;
            }
        }
    }

    fn accept(&mut self) -> io::Result<()> {
        match self.listener.accept() {
            Ok((socket, _)) => {
                self.others.insert(self.next, Wire::new(socket)?);
                self.next += 1;
                Ok(())
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn hear_members(&mut self) -> io::Result<()> {
        for wire in self.peers.values_mut() {
            // A member is lost only at the end of a measurement: then all of them end.
            self.changed |= wire.receive()?;
            while let Some(frame) = wire.take()? {
                let message = Message::parse_from_bytes(frame).map_err(io::Error::other)?;
                self.node.step(message).map_err(io::Error::other)?;
            }
        }
        Ok(())
    }

    fn hear_others(&mut self) -> io::Result<()> {
        let (mut gone, mut members) = (Vec::new(), Vec::new());
        let is_leader = self.node.raft.state == StateRole::Leader;
        for (number, wire) in &mut self.others {
            match wire.receive() {
                Ok(is_more) => self.changed |= is_more,
                // A client may go.
                Err(_) => gone.push(*number),
            }
            while let Some(frame) = wire.take()? {
                match Said::parse(frame)? {
                    Said::Member(id) => members.push((*number, id)),
                    Said::Client => wire.put(&[&[u8::from(is_leader)]]),
                    Said::Request(text) => {
                        let entry = Entry {
                            data: text.to_vec().into(),
                            ..Entry::default()
                        };
                        self.requests.push(entry);
                        self.asked.push_back(*number);
                    }
                }
            }
        }
        for (number, id) in members {
            if let Some(wire) = self.others.remove(&number) {
                self.peers.insert(id, wire);
            }
        }
        for number in gone {
            self.others.remove(&number);
        }
        self.propose()
    }

    /// All requests of a turn in one step, so that the library tells followers of all at once.
    fn propose(&mut self) -> io::Result<()> {
        if self.requests.is_empty() {
            return Ok(());
        }
        self.changed = true;
        let mut message = Message::default();
        message.set_msg_type(MessageType::MsgPropose);
        message.set_from(self.node.raft.id);
        message.set_entries(std::mem::take(&mut self.requests).into());
        self.node.step(message).map_err(io::Error::other)
    }

    fn ready(&mut self) -> io::Result<()> {
        let mut ready = self.node.ready();
        // A leader's: these need nothing of its own on disk.
        self.post(ready.take_messages())?;
        self.answer(ready.take_committed_entries());
        // Before the flush, so that followers flush meanwhile.
        self.send()?;
        let store = self.node.store().clone();
        if *ready.snapshot() != raft::eraftpb::Snapshot::default() {
            let snapshot = ready.snapshot().clone();
            store
                .wl()
                .apply_snapshot(snapshot)
                .map_err(io::Error::other)?;
        }
        for entry in ready.entries() {
            let head = [entry.term.to_le_bytes(), entry.index.to_le_bytes()].concat();
            self.wal.note(&[&head, &entry.data]);
        }
        store
            .wl()
            .append(ready.entries())
            .map_err(io::Error::other)?;
        if let Some(state) = ready.hs() {
            if ready.must_sync() {
                let numbers = [state.term, state.vote, state.commit].map(u64::to_le_bytes);
                self.wal.note(&[&numbers.concat()]);
            }
            store.wl().set_hardstate(state.clone());
        }
        // What is noted is flushed even where the library does not ask for it: that is entries
        // and votes, and nothing else.
        self.wal.flush()?;
        self.post(ready.take_persisted_messages())?;
        let mut light = self.node.advance(ready);
        if let Some(commit) = light.commit_index() {
            store.wl().mut_hard_state().set_commit(commit);
        }
        self.post(light.take_messages())?;
        self.answer(light.take_committed_entries());
        self.node.advance_apply();
        Ok(())
    }

    /// The service: an echo.
    fn answer(&mut self, entries: Vec<Entry>) {
        if self.term != self.node.raft.term {
            self.term = self.node.raft.term;
            self.asked.clear();
        }
        if self.node.raft.state != StateRole::Leader {
            return;
        }
        for entry in entries {
            let is_request = entry.get_entry_type() == EntryType::EntryNormal;
            if entry.term != self.term || entry.data.is_empty() || !is_request {
                continue;
            }
            let client = self.asked.pop_front();
            if let Some(wire) = client.and_then(|number| self.others.get_mut(&number)) {
                wire.put(&[&entry.data]);
            }
        }
    }

    fn post(&mut self, messages: Vec<Message>) -> io::Result<()> {
        for message in messages {
            if let Some(wire) = self.peers.get_mut(&message.to) {
                let bytes = message.write_to_bytes().map_err(io::Error::other)?;
                wire.put(&[&bytes]);
            }
        }
        Ok(())
    }

    fn send(&mut self) -> io::Result<()> {
        for wire in self.peers.values_mut() {
            self.changed |= wire.flush()?;
        }
        for wire in self.others.values_mut() {
            // That a client has gone is seen when it is read from.
            self.changed |= wire.flush().unwrap_or(false);
        }
        Ok(())
    }
}
