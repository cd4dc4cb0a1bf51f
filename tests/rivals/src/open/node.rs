//! A server around openraft: tokio with a worker for each core, TCP connections between three
//! processes and to clients. What a client has sent by one read is one `client_write_many`.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use bytes::Bytes;
use futures_util::{Stream, StreamExt, TryStreamExt};
use openraft::BasicNode;
use openraft::raft::{AppendEntriesRequest, WriteResult};
use tokio::io::AsyncWriteExt;
use tokio::net::tcp::OwnedWriteHalf;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

use super::net::{Network, Question, Reader, framed};
use super::store::{Log, Machine};
use super::{Raft, Text};
use crate::cluster::{Member, Said};
use crate::frame;

/// Batches of one client whose answers are awaited; each has what one read brought.
const BATCHES: usize = 1024;

/// Runs a member until its process is ended.
pub fn run(member: &Member) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    runtime.block_on(serve(member))
}

/// A member, without its port.
pub async fn start(id: u64, wal: Option<&Path>) -> io::Result<Raft> {
    let config = super::config(super::ELECTION).map_err(io::Error::other)?;
    let (log, network) = (Log::open(wal)?, Network { id });
    let raft = Raft::new(id, config, network, log, Machine::default());
    raft.await.map_err(io::Error::other)
}

/// The members, by their ports.
pub fn nodes(ports: &[u16]) -> BTreeMap<u64, BasicNode> {
    let node = |port: &u16| BasicNode::new(format!("127.0.0.1:{port}"));
    (1..).zip(ports.iter().map(node)).collect()
}

async fn serve(member: &Member) -> io::Result<()> {
    let raft = start(member.id, member.wal.as_deref()).await?;
    let port = member.ports[member.id as usize - 1];
    let listener = TcpListener::bind(("127.0.0.1", port)).await?;
    if member.id == 1 {
        let raft = raft.clone();
        let nodes = nodes(&member.ports);
        tokio::spawn(async move { tell(raft.initialize(nodes).await.map_err(io::Error::other)) });
    }
    accept(listener, raft).await
}

/// Whoever connects is served.
pub async fn accept(listener: TcpListener, raft: Raft) -> io::Result<()> {
    loop {
        let (socket, _) = listener.accept().await?;
        let raft = raft.clone();
        tokio::spawn(async move { tell(connection(socket, raft).await) });
    }
}

/// Why a connection ended, unless the other end just went.
fn tell(ended: io::Result<()>) {
    if let Err(error) = ended
        && !crate::wire::is_end(&error)
    {
        eprintln!("openraft, a connection: {error}");
    }
}

async fn connection(socket: TcpStream, raft: Raft) -> io::Result<()> {
    socket.set_nodelay(true)?;
    let (reader, mut writer) = socket.into_split();
    let mut reader = Reader::new(reader);
    loop {
        reader.more().await?;
        let Some(frame) = reader.ready()? else {
            continue;
        };
        return match Said::parse(frame)? {
            Said::Member(_) => member(reader, writer, raft).await,
            Said::Client => {
                let mut answer = Vec::new();
                frame::put(&mut answer, &[&[u8::from(raft.is_leader())]]);
                writer.write_all(&answer).await?;
                client(reader, writer, raft).await
            }
            Said::Request(_) => Err(io::Error::other("a request before the first words")),
        };
    }
}

async fn member(mut reader: Reader, mut writer: OwnedWriteHalf, raft: Raft) -> io::Result<()> {
    loop {
        let answer = match reader.next().await? {
            Question::Stream(first) => return stream(first, reader, writer, raft).await,
            Question::Append(rpc) => {
                let answer = raft.append_entries(rpc).await;
                framed(&answer.map_err(io::Error::other)?)
            }
            Question::Vote(rpc) => framed(&raft.vote(rpc).await.map_err(io::Error::other)?),
            Question::PreVote(rpc) => framed(&raft.pre_vote(rpc).await.map_err(io::Error::other)?),
            Question::Snapshot(vote, meta) => {
                let snapshot = openraft::Snapshot { meta, snapshot: () };
                let answer = raft.install_full_snapshot(vote, snapshot).await;
                framed(&answer.map_err(io::Error::other)?)
            }
        }?;
        writer.write_all(&answer).await?;
    }
}

/// The rest of a connection on which a leader replicates.
async fn stream(
    first: AppendEntriesRequest<super::Types>,
    reader: Reader,
    mut writer: OwnedWriteHalf,
    raft: Raft,
) -> io::Result<()> {
    let rest = futures_util::stream::unfold(reader, |mut reader| async {
        match reader.next().await {
            Ok(Question::Stream(rpc)) => Some((rpc, reader)),
            // Ended, or nothing that belongs here: the leader connects anew.
            Ok(_) | Err(_) => None,
        }
    });
    let requests = futures_util::stream::iter([first]).chain(rest);
    let mut answers = std::pin::pin!(raft.stream_append(requests));
    while let Some(answer) = answers.next().await {
        let answer = answer.map_err(io::Error::other)?;
        writer.write_all(&framed(&answer)?).await?;
    }
    Ok(())
}

type Batch = std::pin::Pin<Box<dyn Stream<Item = io::Result<Bytes>> + Send>>;

async fn client(mut reader: Reader, writer: OwnedWriteHalf, raft: Raft) -> io::Result<()> {
    let (batches, receiver) = mpsc::channel::<Batch>(BATCHES);
    tokio::spawn(async { tell(answer(receiver, writer).await) });
    loop {
        let mut texts = Vec::new();
        while let Some(frame) = reader.ready()? {
            match Said::parse(frame)? {
                Said::Request(text) => texts.push(Text(Bytes::copy_from_slice(text))),
                other => return Err(io::Error::other(format!("{other:?} from a client"))),
            }
        }
        if !texts.is_empty() {
            let written = raft.client_write_many(texts).await;
            let written = written.map_err(io::Error::other)?;
            let echoes = written.map_err(io::Error::other).and_then(|result| async {
                let result: WriteResult<super::Types> = result;
                result
                    .map(|written| written.response.0)
                    .map_err(io::Error::other)
            });
            if batches.send(Box::pin(echoes)).await.is_err() {
                return Ok(());
            }
        }
        reader.more().await?;
    }
}

/// Answers in the order of requests: those that are there together leave together.
async fn answer(mut batches: mpsc::Receiver<Batch>, mut writer: OwnedWriteHalf) -> io::Result<()> {
    while let Some(batch) = batches.recv().await {
        let mut ready = batch.ready_chunks(BATCHES);
        while let Some(chunk) = ready.next().await {
            let mut out = Vec::new();
            for echo in chunk {
                frame::put(&mut out, &[&echo?]);
            }
            writer.write_all(&out).await?;
        }
    }
    Ok(())
}
