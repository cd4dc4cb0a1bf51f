//! openraft's network: frames of postcard on TCP. Replication is a stream on a connection of its
//! own, requests one after the other without waiting for answers, as openraft wants it for
//! throughput; whatever else there is to say has a connection and is answered before the next.

use std::future::Future;
use std::io;

use futures_util::{Stream, StreamExt};
use openraft::base::{BoxFuture, BoxStream};
use openraft::error::{RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::{RPCOption, RaftNetworkFactory, RaftNetworkV2};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, StreamAppendResult, VoteRequest,
    VoteResponse,
};
use openraft::type_config::alias::{SnapshotOf, VoteOf};
use openraft::{BasicNode, OptionalSend};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};

use super::Types;
use crate::cluster::Said;
use crate::frame::{self, Frames};

/// What a member is asked.
#[derive(Serialize, Deserialize)]
pub enum Question {
    /// Part of the replication stream.
    Stream(AppendEntriesRequest<Types>),
    /// Alone: a heartbeat.
    Append(AppendEntriesRequest<Types>),
    /// For its vote.
    Vote(VoteRequest<Types>),
    /// Whether it would.
    PreVote(VoteRequest<Types>),
    /// To install a snapshot: its metadata are all of it.
    Snapshot(
        VoteOf<Types>,
        openraft::type_config::alias::SnapshotMetaOf<Types>,
    ),
}

/// The receiving half of a connection.
pub struct Reader {
    socket: OwnedReadHalf,
    frames: Frames,
    room: Vec<u8>,
}

impl Reader {
    /// Of a connection's half.
    pub fn new(socket: OwnedReadHalf) -> Self {
        Self {
            socket,
            frames: Frames::default(),
            room: vec![0; 256 << 10],
        }
    }

    /// Waits until more has come.
    pub async fn more(&mut self) -> io::Result<()> {
        match self.socket.read(&mut self.room).await? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            len => {
                self.frames.add(&self.room[..len]);
                Ok(())
            }
        }
    }

    /// A frame that is already here.
    pub fn ready(&mut self) -> io::Result<Option<&[u8]>> {
        Ok(self.frames.take()?)
    }

    /// The next value of some type.
    pub async fn next<T: DeserializeOwned>(&mut self) -> io::Result<T> {
        loop {
            if let Some(frame) = self.frames.take()? {
                return postcard::from_bytes(frame).map_err(io::Error::other);
            }
            self.more().await?;
        }
    }
}

/// A frame with a value in it.
pub fn framed(value: &impl Serialize) -> io::Result<Vec<u8>> {
    let bytes = postcard::to_stdvec(value).map_err(io::Error::other)?;
    let mut out = Vec::with_capacity(bytes.len() + 8);
    frame::put(&mut out, &[&bytes]);
    Ok(out)
}

/// Where members are: their addresses are in the membership.
pub struct Network {
    /// Whose.
    pub id: u64,
}

impl RaftNetworkFactory<Types> for Network {
    type Network = Link;

    async fn new_client(&mut self, _: u64, node: &BasicNode) -> Link {
        Link {
            id: self.id,
            address: node.addr.clone(),
            open: None,
        }
    }
}

/// To one member.
pub struct Link {
    id: u64,
    address: String,
    open: Option<(Reader, OwnedWriteHalf)>,
}

fn unreachable(error: io::Error) -> RPCError<Types> {
    RPCError::Unreachable(Unreachable::new(&error))
}

impl Link {
    async fn connect(&self) -> io::Result<(Reader, OwnedWriteHalf)> {
        let socket = TcpStream::connect(&self.address).await?;
        socket.set_nodelay(true)?;
        let (reader, mut writer) = socket.into_split();
        let mut hello = Vec::new();
        frame::put(&mut hello, &[&Said::member(self.id)]);
        writer.write_all(&hello).await?;
        Ok((Reader::new(reader), writer))
    }

    async fn ask<T: DeserializeOwned>(
        &mut self,
        question: &Question,
        option: RPCOption,
    ) -> Result<T, RPCError<Types>> {
        // Taken, so that an answer that came too late is never taken for the next one's.
        let open = self.open.take();
        let exchange = async {
            let (mut reader, mut writer) = match open {
                Some(open) => open,
                None => self.connect().await?,
            };
            writer.write_all(&framed(question)?).await?;
            let answer = reader.next().await?;
            Ok::<_, io::Error>((answer, (reader, writer)))
        };
        let in_time = tokio::time::timeout(option.soft_ttl(), exchange).await;
        let late = |_| io::Error::from(io::ErrorKind::TimedOut);
        let exchanged = in_time.map_err(late).and_then(|exchanged| exchanged);
        let (answer, open) = exchanged.map_err(unreachable)?;
        self.open = Some(open);
        Ok(answer)
    }
}

/// Writes the requests as they come; ends with the stream or the connection.
async fn write_all_of<S>(mut input: S, mut writer: OwnedWriteHalf) -> io::Result<()>
where
    S: Stream<Item = AppendEntriesRequest<Types>> + Unpin,
{
    while let Some(request) = input.next().await {
        writer
            .write_all(&framed(&Question::Stream(request))?)
            .await?;
    }
    writer.shutdown().await
}

type Answers<'s> = BoxStream<'s, Result<StreamAppendResult<Types>, RPCError<Types>>>;

impl RaftNetworkV2<Types> for Link {
    type SnapshotData = ();

    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<Types>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<Types>, RPCError<Types>> {
        self.ask(&Question::Append(rpc), option).await
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
            let (reader, writer) = self.connect().await.map_err(unreachable)?;
            let requests = tokio::spawn(write_all_of(input, writer));
            let answers = futures_util::stream::unfold(Some(reader), |reader| async {
                let mut reader = reader?;
                match reader.next::<StreamAppendResult<Types>>().await {
                    Ok(answer) => {
                        let next = answer.is_ok().then_some(reader);
                        Some((Ok(answer), next))
                    }
                    // All requests are written and answered.
                    Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => None,
                    Err(error) => Some((Err(unreachable(error)), None)),
                }
            });
            let answers = Owning {
                answers: Box::pin(answers),
                requests,
            };
            let answers: Answers<'s> = Box::pin(answers);
            Ok(answers)
        })
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<Types>,
        option: RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        self.ask(&Question::Vote(rpc), option).await
    }

    async fn pre_vote(
        &mut self,
        rpc: VoteRequest<Types>,
        option: RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        self.ask(&Question::PreVote(rpc), option).await
    }

    async fn full_snapshot(
        &mut self,
        vote: VoteOf<Types>,
        snapshot: SnapshotOf<Types, ()>,
        _: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        option: RPCOption,
    ) -> Result<SnapshotResponse<Types>, StreamingError<Types>> {
        let question = Question::Snapshot(vote, snapshot.meta);
        self.ask(&question, option).await.map_err(|error| {
            let error = io::Error::other(error.to_string());
            StreamingError::Unreachable(Unreachable::new(&error))
        })
    }
}

/// The answers, with the task that writes the requests: both end together.
struct Owning<S> {
    answers: std::pin::Pin<Box<S>>,
    requests: tokio::task::JoinHandle<io::Result<()>>,
}

impl<S: Stream> Stream for Owning<S> {
    type Item = S::Item;

    fn poll_next(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<S::Item>> {
        self.answers.as_mut().poll_next(context)
    }
}

impl<S> Drop for Owning<S> {
    fn drop(&mut self) {
        self.requests.abort();
    }
}
