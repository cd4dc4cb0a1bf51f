//! etcd: Debian's server, three processes on loopback, and its own protocol: gRPC. The service is
//! another one: a `Put` changes a key of a map that etcd keeps on disk, with the message as value,
//! and is answered without it.

use std::io;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::{Channel, Endpoint};

use crate::cluster::{Processes, free_ports};
use crate::load::{Found, Taken, Work};

/// `etcdserverpb.PutRequest`, as far as it is used.
#[derive(Clone, PartialEq, prost::Message)]
struct PutRequest {
    #[prost(bytes = "bytes", tag = "1")]
    key: bytes::Bytes,
    #[prost(bytes = "bytes", tag = "2")]
    value: bytes::Bytes,
}

/// `etcdserverpb.ResponseHeader`.
#[derive(Clone, PartialEq, prost::Message)]
struct Header {
    #[prost(uint64, tag = "2")]
    member: u64,
    #[prost(int64, tag = "3")]
    revision: i64,
}

/// `etcdserverpb.PutResponse`, as far as it is used.
#[derive(Clone, PartialEq, prost::Message)]
struct PutResponse {
    #[prost(message, optional, tag = "1")]
    header: Option<Header>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct StatusRequest {}

/// `etcdserverpb.StatusResponse`, as far as it is used.
#[derive(Clone, PartialEq, prost::Message)]
struct StatusResponse {
    #[prost(message, optional, tag = "1")]
    header: Option<Header>,
    #[prost(uint64, tag = "4")]
    leader: u64,
}

const PUT: &str = "/etcdserverpb.KV/Put";
const STATUS: &str = "/etcdserverpb.Maintenance/Status";
/// Keys that are written, in turns: the log and its replication are measured, not a large map.
const KEYS: u64 = 1024;
/// Requests of one connection; etcd's own benchmark has about as many clients on each.
const ON_ONE: usize = 256;
/// How long anything may take to begin.
const PATIENCE: Duration = Duration::from_secs(30);

async fn call<Q, A>(channel: Channel, path: &'static str, question: Q) -> Result<A, String>
where
    Q: prost::Message + Send + Sync + 'static,
    A: prost::Message + Default + Send + Sync + 'static,
{
    let mut client = tonic::client::Grpc::new(channel);
    client.ready().await.map_err(|error| error.to_string())?;
    let codec = tonic_prost::ProstCodec::<Q, A>::default();
    let path = PathAndQuery::from_static(path);
    let answer = client.unary(tonic::Request::new(question), path, codec);
    let answer = answer.await.map_err(|error| error.to_string())?;
    Ok(answer.into_inner())
}

/// The whole of it.
pub fn run(work: &Work, dir: &Path) -> Result<Value, String> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build();
    let runtime = runtime.map_err(|error| error.to_string())?;
    let started = start(work, dir).map_err(|error| {
        format!("etcd does not start ({error}); install it: apt-get install etcd-server")
    });
    let (mut members, ports) = started?;
    runtime.block_on(async {
        let leader = leader(&mut members, &ports).await?;
        let connections = work.in_flight.div_ceil(ON_ONE);
        let mut channels = Vec::new();
        for _ in 0..connections {
            channels.push(connect(leader).await?);
        }
        flood(&channels, work, work.warm_up, &mut Found::new()).await?;
        let mut found = Found::new();
        let before = Taken::so_far(&mut members)?;
        flood(&channels, work, work.time, &mut found).await?;
        let after = Taken::so_far(&mut members)?;
        found.between(&before, &after);
        Ok(found.json())
    })
}

/// Three members, and the ports for clients.
fn start(work: &Work, dir: &Path) -> io::Result<(Processes, Vec<u16>)> {
    let ports = free_ports(6)?;
    let (to_clients, to_members) = ports.split_at(3);
    let cluster: Vec<String> = (1..)
        .zip(to_members)
        .map(|(id, port)| format!("m{id}=http://127.0.0.1:{port}"))
        .collect();
    let mut all = Processes::default();
    for id in 1..=3 {
        let clients = format!("http://127.0.0.1:{}", to_clients[id - 1]);
        let members = format!("http://127.0.0.1:{}", to_members[id - 1]);
        let log = std::fs::File::create(dir.join(format!("m{id}.log")))?;
        let mut command = Command::new("etcd");
        command
            .args(["--name", &format!("m{id}")])
            .arg("--data-dir")
            .arg(dir.join(format!("m{id}")))
            .args([
                "--listen-client-urls",
                &clients,
                "--advertise-client-urls",
                &clients,
            ])
            .args([
                "--listen-peer-urls",
                &members,
                "--initial-advertise-peer-urls",
                &members,
            ])
            .args([
                "--initial-cluster",
                &cluster.join(","),
                "--initial-cluster-state",
                "new",
            ])
            .args(["--logger", "zap", "--log-level", "error"])
            .stderr(Stdio::from(log));
        if !work.is_durable {
            command.arg("--unsafe-no-fsync");
        }
        all.start(&mut command)?;
    }
    Ok((all, to_clients.to_vec()))
}

async fn connect(port: u16) -> Result<Channel, String> {
    let endpoint = Endpoint::from_shared(format!("http://127.0.0.1:{port}"));
    let endpoint = endpoint
        .map_err(|error| error.to_string())?
        .tcp_nodelay(true);
    endpoint.connect().await.map_err(|error| error.to_string())
}

/// The port of the member that leads: a request to another one would be passed on.
async fn leader(members: &mut Processes, ports: &[u16]) -> Result<u16, String> {
    let began = Instant::now();
    loop {
        members.check()?;
        for port in ports {
            let Ok(channel) = connect(*port).await else {
                continue;
            };
            let status = call::<_, StatusResponse>(channel, STATUS, StatusRequest {}).await;
            if let Ok(status) = status
                && status.leader != 0
                && status
                    .header
                    .is_some_and(|header| header.member == status.leader)
            {
                return Ok(*port);
            }
        }
        if began.elapsed() > PATIENCE {
            return Err("no member of etcd leads".into());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// So many callers, each of which has one request on its way.
async fn flood(
    channels: &[Channel],
    work: &Work,
    time: Duration,
    all: &mut Found,
) -> Result<(), String> {
    let began = Instant::now();
    let mut callers = Vec::new();
    for number in 0..work.in_flight {
        let channel = channels[number % channels.len()].clone();
        let text: bytes::Bytes = (0..work.len).map(|n| n as u8).collect::<Vec<_>>().into();
        callers.push(tokio::spawn(async move {
            let mut found = Vec::new();
            let mut at = number as u64;
            while began.elapsed() < time {
                let key = format!("{:08}", at % KEYS).into();
                at += 1;
                let due = Instant::now();
                let question = PutRequest {
                    key,
                    value: text.clone(),
                };
                let answer = call::<_, PutResponse>(channel.clone(), PUT, question).await?;
                if answer.header.is_none_or(|header| header.revision == 0) {
                    return Err("etcd changed nothing".to_owned());
                }
                found.push((due.elapsed(), began.elapsed() <= time));
            }
            Ok(found)
        }));
    }
    all.lasted(time);
    for caller in callers {
        let found = caller.await.map_err(|error| error.to_string())??;
        for (time, is_in_time) in found {
            match is_in_time {
                true => all.add(time),
                false => all.add_late(),
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::*;

    #[test]
    fn messages_are_those_of_etcd() {
        // etcd's rpc.proto: PutRequest has key = 1 and value = 2.
        let put = PutRequest {
            key: "k".into(),
            value: "vv".into(),
        };
        assert_eq!(put.encode_to_vec(), b"\x0a\x01k\x12\x02vv");
        // StatusResponse: header = 1 (member_id = 2, revision = 3, raft_term = 4), version = 2,
        // dbSize = 3, leader = 4.
        let bytes = b"\x0a\x06\x10\x05\x18\x07\x20\x02\x12\x013\x18\x09\x20\x05";
        let status = StatusResponse::decode(&bytes[..]).unwrap();
        let header = Header {
            member: 5,
            revision: 7,
        };
        let expected = StatusResponse {
            header: Some(header),
            leader: 5,
        };
        assert_eq!(status, expected);
    }
}
