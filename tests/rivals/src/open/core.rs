//! openraft alone: three members in one process, entries in memory, calls instead of sockets.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::{Stream, StreamExt, TryStreamExt};
use openraft::base::{BoxFuture, BoxStream};
use openraft::error::{RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::{RPCOption, RaftNetworkFactory, RaftNetworkV2};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, StreamAppendResult, VoteRequest,
    VoteResponse,
};
use openraft::type_config::alias::{SnapshotOf, VoteOf};
use openraft::{BasicNode, OptionalSend, ServerState};

use super::store::{Log, Machine};
use super::{Raft, Text, Types};
use crate::raftrs::core::Load;

/// All members, once there are all.
type Members = Arc<OnceLock<BTreeMap<u64, Raft>>>;

/// Nothing is lost between calls: no election is wanted, however busy the machine is.
const ELECTION: u64 = 20_000;

struct Calls(Members);

struct Link {
    members: Members,
    target: u64,
}

impl RaftNetworkFactory<Types> for Calls {
    type Network = Link;

    async fn new_client(&mut self, target: u64, _: &BasicNode) -> Link {
        Link {
            members: self.0.clone(),
            target,
        }
    }
}

fn failed(error: impl ToString) -> Unreachable<Types> {
    Unreachable::new(&std::io::Error::other(error.to_string()))
}

impl Link {
    fn member(&self) -> Result<&Raft, RPCError<Types>> {
        let member = self.members.get().and_then(|all| all.get(&self.target));
        member.ok_or_else(|| failed("not there yet").into())
    }
}

type Answers<'s> = BoxStream<'s, Result<StreamAppendResult<Types>, RPCError<Types>>>;

impl RaftNetworkV2<Types> for Link {
    type SnapshotData = ();

    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<Types>,
        _: RPCOption,
    ) -> Result<AppendEntriesResponse<Types>, RPCError<Types>> {
        let answer = self.member()?.append_entries(rpc).await;
        answer.map_err(|error| failed(error).into())
    }

    fn stream_append<'s, S>(
        &'s mut self,
        input: S,
        _: RPCOption,
    ) -> BoxFuture<'s, Result<Answers<'s>, RPCError<Types>>>
    where
        S: Stream<Item = AppendEntriesRequest<Types>> + OptionalSend + Unpin + 'static,
    {
        Box::pin(async move {
            let answers = self.member()?.stream_append(input);
            let answers = answers.map_err(|error| RPCError::from(failed(error)));
            let answers: Answers<'s> = Box::pin(answers);
            Ok(answers)
        })
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<Types>,
        _: RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        let answer = self.member()?.vote(rpc).await;
        answer.map_err(|error| failed(error).into())
    }

    async fn full_snapshot(
        &mut self,
        vote: VoteOf<Types>,
        snapshot: SnapshotOf<Types, ()>,
        _: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _: RPCOption,
    ) -> Result<SnapshotResponse<Types>, StreamingError<Types>> {
        let member = self.member().map_err(failed)?;
        let answer = member.install_full_snapshot(vote, snapshot).await;
        answer.map_err(|error| failed(error).into())
    }
}

/// Runs it; returns how long it took. There is no codec here.
pub fn run(load: &Load) -> Result<Duration, String> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build();
    let runtime = runtime.map_err(|error| error.to_string())?;
    runtime.block_on(async {
        let leader = cluster().await?;
        let text = Bytes::from_iter((0..load.len).map(|n| n as u8));
        let began = Instant::now();
        for _ in 0..load.rounds {
            let texts = (0..load.batch).map(|_| Text(text.clone()));
            let written = leader.client_write_many(texts).await;
            let mut written = written.map_err(|error| error.to_string())?;
            let mut count = 0;
            while let Some(result) = written.next().await {
                let result = result.map_err(|error| error.to_string())?;
                let echo = result.map_err(|error| error.to_string())?.response;
                assert_eq!(echo.0, text);
                count += 1;
            }
            assert_eq!(count, load.batch, "all of it");
        }
        Ok(began.elapsed())
    })
}

/// Three members, of which the first leads.
async fn cluster() -> Result<Raft, String> {
    let members = Members::default();
    let mut all = BTreeMap::new();
    for id in 1..=3 {
        let log = Log::open(None).map_err(|error| error.to_string())?;
        let (config, network) = (super::config(ELECTION)?, Calls(members.clone()));
        let raft = Raft::new(id, config, network, log, Machine::default()).await;
        all.insert(id, raft.map_err(|error| error.to_string())?);
    }
    let leader = all[&1].clone();
    // Nobody else has set it.
    members.set(all).map_err(|_| "set twice")?;
    let nodes = super::node::nodes(&[1, 2, 3]);
    let begun = leader.initialize(nodes).await;
    begun.map_err(|error| error.to_string())?;
    let wait = leader.wait(Some(Duration::from_secs(20)));
    let led = wait
        .state(ServerState::Leader, "the first member leads")
        .await;
    led.map_err(|error| error.to_string())?;
    begins(&leader).await?;
    Ok(leader)
}

/// It says that it leads before it knows so itself where requests are taken: for a moment it has
/// them forwarded, to nobody.
async fn begins(leader: &Raft) -> Result<(), String> {
    let end = Instant::now() + Duration::from_secs(20);
    loop {
        match leader.client_write(Text(Bytes::new())).await {
            Ok(_) => return Ok(()),
            Err(error) if Instant::now() > end => return Err(error.to_string()),
            Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_that_is_written_is_answered() {
        for batch in [1, 256] {
            let load = Load {
                len: 32,
                batch,
                rounds: 20,
                has_codec: false,
            };
            run(&load).unwrap();
        }
    }
}
