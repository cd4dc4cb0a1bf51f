//! openraft: a library without transport and storage, on the tokio runtime. `store` and `net` are
//! those, `node` is a server around it, `core` is three of them in one process.

pub mod core;
pub mod net;
pub mod node;
pub mod store;

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use openraft::{Config, SnapshotPolicy};
use serde::{Deserialize, Serialize};

/// A message, and its echo.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Text(pub Bytes);

impl fmt::Display for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

openraft::declare_raft_types!(
    /// What openraft works on here.
    pub Types: D = Text, R = Text
);

/// One of its members.
pub type Raft = openraft::Raft<Types, store::Machine>;

/// As long as raft-rs waits here too, in milliseconds.
const ELECTION: u64 = 1000;

/// Settings that its authors' own cluster benchmark has, with a log that is bounded by snapshots as
/// seldom as memory allows.
fn config(election_timeout: u64) -> Result<Arc<Config>, String> {
    let config = Config {
        election_timeout_min: election_timeout,
        election_timeout_max: 2 * election_timeout,
        heartbeat_interval: 100,
        max_payload_entries: 1024,
        purge_batch_size: 1024,
        snapshot_policy: SnapshotPolicy::LogsSinceLast(500_000),
        max_in_snapshot_log_to_keep: 100_000,
        ..Config::default()
    };
    let config = config.validate().map_err(|error| error.to_string())?;
    Ok(Arc::new(config))
}
