//! raft-rs (the crate `raft`, of TiKV): a library without transport and storage. `node` is a
//! server around it, `core` is it alone.

pub mod core;
pub mod node;

use raft::{Config, RawNode, storage::MemStorage};

/// What one of its members is: the settings that its authors' own users have, with batches.
fn member(id: u64) -> raft::Result<RawNode<MemStorage>> {
    let config = Config {
        id,
        election_tick: 100,
        heartbeat_tick: 10,
        // Those of TiKV: 1 MiB a message, 256 messages on their way to a follower.
        max_size_per_msg: 1 << 20,
        max_inflight_msgs: 256,
        pre_vote: true,
        check_quorum: true,
        // Entries that are appended while a message to a follower still waits go into it.
        batch_append: true,
        ..Config::default()
    };
    let storage = MemStorage::new_with_conf_state((vec![1, 2, 3], vec![]));
    let logger = slog::Logger::root(slog::Discard, slog::o!());
    RawNode::new(&config, storage, &logger)
}

/// Entries that are kept for members that are behind; twice as many are held before some go.
const KEPT: u64 = 32_768;

/// Lets go of entries that all members have: the library's memory storage keeps all it is given.
fn compact(node: &RawNode<MemStorage>) -> raft::Result<()> {
    use raft::{StateRole, Storage};
    let raft = &node.raft;
    let mut least = raft.raft_log.applied;
    if raft.state == StateRole::Leader {
        let matched = raft.prs().iter().map(|(_, progress)| progress.matched);
        least = matched.min().unwrap_or(0).min(least);
    }
    let until = least.saturating_sub(KEPT);
    if until > node.store().first_index()? + KEPT {
        node.store().wl().compact(until)?;
    }
    Ok(())
}
