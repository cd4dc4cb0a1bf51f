//! raft-rs alone: three nodes in one process and in memory, no disk, no sockets.

use std::time::{Duration, Instant};

use protobuf::Message as _;
use raft::eraftpb::{Entry, EntryType, Message, MessageType};
use raft::{RawNode, StateRole, storage::MemStorage};

/// What is to be done.
pub struct Load {
    /// Of a message, in bytes.
    pub len: usize,
    /// Proposed in one step, and committed on all three before the next.
    pub batch: usize,
    /// So often.
    pub rounds: usize,
    /// Whether messages between nodes are encoded and decoded on their way.
    pub has_codec: bool,
}

struct Cluster {
    nodes: Vec<RawNode<MemStorage>>,
    has_codec: bool,
    applied: [usize; 3],
}

/// Runs it; returns how long it took.
pub fn run(load: &Load) -> Result<Duration, String> {
    let mut cluster = Cluster::new(load.has_codec).map_err(|error| error.to_string())?;
    let began = Instant::now();
    cluster.echo(load).map_err(|error| error.to_string())?;
    Ok(began.elapsed())
}

impl Cluster {
    fn new(has_codec: bool) -> raft::Result<Self> {
        let nodes: raft::Result<Vec<_>> = (1..=3).map(super::member).collect();
        let mut cluster = Self {
            nodes: nodes?,
            has_codec,
            applied: [0; 3],
        };
        cluster.nodes[0].campaign()?;
        cluster.settle()?;
        assert_eq!(cluster.nodes[0].raft.state, StateRole::Leader);
        Ok(cluster)
    }

    fn echo(&mut self, load: &Load) -> raft::Result<()> {
        let text: Vec<u8> = (0..load.len).map(|n| n as u8).collect();
        for round in 1..=load.rounds {
            let mut message = Message::default();
            message.set_msg_type(MessageType::MsgPropose);
            message.set_from(1);
            let entry = |_| Entry {
                data: text.clone().into(),
                ..Entry::default()
            };
            let entries: Vec<Entry> = (0..load.batch).map(entry).collect();
            message.set_entries(entries.into());
            self.nodes[0].step(message)?;
            self.settle()?;
            assert_eq!(
                self.applied,
                [round * load.batch; 3],
                "all of it everywhere"
            );
            if round.is_multiple_of(16) {
                for node in &self.nodes {
                    super::compact(node)?;
                }
            }
        }
        Ok(())
    }

    /// Until nobody has anything to say.
    fn settle(&mut self) -> raft::Result<()> {
        loop {
            let mut messages = Vec::new();
            for (at, node) in self.nodes.iter_mut().enumerate() {
                while node.has_ready() {
                    turn(node, &mut messages, &mut self.applied[at])?;
                }
            }
            if messages.is_empty() {
                return Ok(());
            }
            for message in messages {
                let message = match self.has_codec {
                    true => Message::parse_from_bytes(&message.write_to_bytes()?)?,
                    false => message,
                };
                self.nodes[message.to as usize - 1].step(message)?;
            }
        }
    }
}

/// What a node has to say, with all it is asked to store stored at once.
fn turn(
    node: &mut RawNode<MemStorage>,
    messages: &mut Vec<Message>,
    applied: &mut usize,
) -> raft::Result<()> {
    let is_request =
        |entry: &&Entry| !entry.data.is_empty() && entry.get_entry_type() == EntryType::EntryNormal;
    let mut ready = node.ready();
    messages.extend(ready.take_messages());
    *applied += ready.committed_entries().iter().filter(is_request).count();
    node.store().wl().append(ready.entries())?;
    if let Some(state) = ready.hs() {
        node.store().wl().set_hardstate(state.clone());
    }
    messages.extend(ready.take_persisted_messages());
    let mut light = node.advance(ready);
    if let Some(commit) = light.commit_index() {
        node.store().wl().mut_hard_state().set_commit(commit);
    }
    messages.extend(light.take_messages());
    *applied += light.committed_entries().iter().filter(is_request).count();
    node.advance_apply();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_that_is_proposed_is_applied_on_all_three() {
        for (batch, has_codec) in [(1, false), (256, true)] {
            let load = Load {
                len: 32,
                batch,
                rounds: 400,
                has_codec,
            };
            run(&load).unwrap();
        }
    }
}
