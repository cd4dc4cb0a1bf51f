//! How often each byte of payload is copied by nodes, in user space and through the system: counted
//! in processes of the `coracle` command as it is, by what `tests/copies/` puts before the C
//! library. Payload is told from all else by its bytes, and each copy by the line that makes it.
//!
//! All that is asserted is a count, and no matter of time: nodes may be as slow, and batch as much
//! or as little, as they like.

mod judge;
mod places;
mod table;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use coracle_std::client::{Client, Egress, OfferError};

use crate::process::{Cluster, PATIENCE, Plan, coracle};
pub use judge::Expect;
use judge::{Found, Role};
use table::Table;

/// Of this byte messages consist: `tests/copies/src/lib.rs` looks for it.
const MARK: u8 = 0xA5;

/// How often a load is tried until its leader is not lost.
const TRIES: usize = 4;

/// One load. So little is in flight that no window fills: what waits in one is copied once more.
struct Load {
    len: usize,
    /// Messages that are counted, and as many before that are not.
    count: usize,
    in_flight: usize,
}

const LOADS: [Load; 3] = [
    Load {
        // Just 32 bytes would be moved as two words of a vector, which nobody sees.
        len: 40,
        count: 30_000,
        in_flight: 200,
    },
    Load {
        len: 1 << 10,
        count: 8_000,
        in_flight: 32,
    },
    Load {
        len: 64 << 10,
        count: 200,
        in_flight: 1,
    },
];

/// Loads a cluster with each size of messages and both kinds of durability, prints what was
/// counted, and says what is wrong with it.
///
/// # Errors
/// Something could not be counted.
pub fn run(preload: &Path, expect: Expect) -> Result<Vec<String>, String> {
    if !preload.is_file() {
        return Err(format!("{}: build tests/copies/ first", preload.display()));
    }
    let mut all = Vec::new();
    for durability in ["replication-only", "durable"] {
        for load in &LOADS {
            let found = measure_in_some_try(preload, durability, load)?;
            found.iter().for_each(Found::print_places);
            all.extend(found);
        }
    }
    judge::print_table(&all);
    Ok(all.iter().filter_map(|found| found.judge(expect)).collect())
}

/// On a busy machine a leader may be lost meanwhile: then what was counted is of no use.
fn measure_in_some_try(
    preload: &Path,
    durability: &str,
    load: &Load,
) -> Result<Vec<Found>, String> {
    let mut last = String::new();
    for _ in 0..TRIES {
        match measure(preload, durability, load) {
            Ok(found) => return Ok(found),
            Err(error) => last = error,
        }
        println!("{} B, {durability}: {last}; once more", load.len);
    }
    Err(last)
}

/// What the leader and both followers have copied for the load, the leader first.
fn measure(preload: &Path, durability: &str, load: &Load) -> Result<Vec<Found>, String> {
    let cluster = start(preload, durability, load);
    let mut session = Session::open(&cluster.endpoints(), load)?;
    let leader = cluster.leader();
    let read = |member: u8| Table::read(&counters(&cluster, member));
    session.echo(load)?;
    cluster.level();
    let before = [read(0)?, read(1)?, read(2)?];
    session.echo(load)?;
    cluster.level();
    if cluster.leader() != leader {
        return Err("another leader was elected meanwhile".into());
    }
    let mut found = Vec::new();
    for member in [leader, (leader + 1) % 3, (leader + 2) % 3] {
        let grown = read(member)?.since(&before[usize::from(member)]);
        let process = cluster.process(member);
        let addresses = grown.places.iter().filter(|(_, counts)| counts.bytes > 0);
        let names = places::named(process, coracle(), addresses.map(|(at, _)| *at))?;
        let role = match member == leader {
            true => Role::Leader,
            false => Role::Follower,
        };
        let payload = (load.len * load.count) as u64;
        found.push(Found::new(
            role, durability, load.len, payload, &grown, &names,
        ));
    }
    Ok(found)
}

fn counters(cluster: &Cluster, member: u8) -> PathBuf {
    cluster.scratch().join(format!("copies-{member}"))
}

fn start(preload: &Path, durability: &str, load: &Load) -> Cluster {
    let mut plan = Plan::new();
    plan.extra = format!(
        "service = \"echo\"\nsegment_length = \"8MiB\"\ndurability = \"{durability}\"\n\
         timings.leader_timeout = \"2s\"\n"
    );
    let mut cluster = Cluster::prepare(&format!("copies-{durability}-{}", load.len), plan);
    for member in 0..3 {
        let file = counters(&cluster, member);
        std::fs::write(&file, b"").expect("a file in the scratch directory");
        let mut command = Command::new(coracle());
        command
            .env("LD_PRELOAD", preload)
            .env("CORACLE_COPIES", &file)
            .arg("node")
            .arg("--config")
            .arg(cluster.config(member))
            .arg("--init");
        cluster.spawn_as(member, command);
    }
    cluster.leader();
    cluster
}

/// One session, whose messages are all alike.
struct Session {
    client: Client,
    text: Vec<u8>,
}

impl Session {
    fn open(endpoints: &str, load: &Load) -> Result<Self, String> {
        let client = Client::connect(endpoints).map_err(|error| error.to_string())?;
        let text = vec![MARK; load.len];
        Ok(Self { client, text })
    }

    /// So many messages, and their answers.
    fn echo(&mut self, load: &Load) -> Result<(), String> {
        let (mut asked, mut answered) = (0, 0);
        let (text, mut heard) = (&self.text, Instant::now());
        while answered < load.count {
            while asked < load.count && asked - answered < load.in_flight {
                match self.client.offer(text) {
                    Ok(_) => asked += 1,
                    Err(OfferError::BackPressured | OfferError::NotConnected) => break,
                    Err(error) => return Err(format!("the cluster takes no message: {error:?}")),
                }
            }
            let before = answered;
            let mut other = false;
            let polled = self
                .client
                .poll(Duration::from_millis(20), |egress| match egress {
                    Egress::Message { payload, .. } if payload == text => answered += 1,
                    _ => other = true,
                });
            polled.map_err(|error| error.to_string())?;
            if other {
                return Err("an answer is no echo, or the leader was lost".into());
            }
            if answered > before {
                heard = Instant::now();
            } else if heard.elapsed() > PATIENCE {
                return Err(format!("no answer for {PATIENCE:?}"));
            }
        }
        Ok(())
    }
}
