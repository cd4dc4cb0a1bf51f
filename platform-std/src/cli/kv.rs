//! `coracle kv`: the key-value service from the command line.

use std::io::{self, Write};
use std::time::{Duration, Instant};

use clap::{Args, Subcommand};
use coracle_core::service::kv::codec::{KEY_MAX, Reply, Request, decode_reply, encode_request};
use serde_json::{Value, json};

use super::Failure;
use super::send::no_answer;
use super::status::ClusterArgs;
use crate::client::{Client, ClientOptions, Egress};
use crate::clock::deadline;

/// Read, write and watch the replicated key-value service
#[derive(Debug, Args)]
#[command(after_long_help = "\
For a cluster whose nodes run `service = \"kv\"` (the default). Every request is a message in the
log, reads too, so all clients see one order of all of them. A key's version is a number that
grows with every write; `cas` writes only if the version is the expected one, 0 for a key that is
not there.

Exit code 1 if the key is not there, the version is another, or the outcome is unknown because the
leader was lost in the middle: then look before you write again.

  coracle kv --endpoints 0=127.0.0.1:9100,1=127.0.0.1:9101,2=127.0.0.1:9102 put colour blue
  export CORACLE_ENDPOINTS=0=127.0.0.1:9100,1=127.0.0.1:9101,2=127.0.0.1:9102
  coracle kv get colour
  coracle kv cas colour 4096 green
  coracle kv watch --prefix orders/")]
pub struct KvArgs {
    #[command(flatten)]
    cluster: ClusterArgs,
    /// One line of JSON for each answer
    #[arg(long, global = true)]
    json: bool,
    /// How long to wait for the cluster, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 10, global = true)]
    timeout: u64,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Set a key
    Put {
        /// The key: 1 to 255 bytes
        key: String,
        /// Its new value
        value: String,
    },
    /// Print a key's value
    Get {
        /// The key
        key: String,
    },
    /// Set a key if its version is the expected one
    Cas {
        /// The key
        key: String,
        /// The version it must have: 0 if it must not be there
        expected: u64,
        /// Its new value
        value: String,
    },
    /// Remove a key
    Delete {
        /// The key
        key: String,
    },
    /// Print every change from now on, until interrupted
    Watch {
        /// The key
        #[arg(required_unless_present = "prefix", default_value = "")]
        key: String,
        /// Watch all keys that start with this instead; the empty text for all
        #[arg(long, conflicts_with = "key")]
        prefix: Option<String>,
    },
}

impl Verb {
    fn request(&self) -> Request<'_> {
        match self {
            Self::Put { key, value } => Request::Put {
                key: key.as_bytes(),
                value: value.as_bytes(),
            },
            Self::Get { key } => Request::Get {
                key: key.as_bytes(),
            },
            Self::Cas {
                key,
                expected,
                value,
            } => Request::Cas {
                expected: *expected,
                key: key.as_bytes(),
                value: value.as_bytes(),
            },
            Self::Delete { key } => Request::Delete {
                key: key.as_bytes(),
            },
            Self::Watch { key, prefix } => match prefix {
                Some(prefix) => Request::WatchPrefix {
                    prefix: prefix.as_bytes(),
                },
                None => Request::Watch {
                    key: key.as_bytes(),
                },
            },
        }
    }

    fn key(&self) -> &str {
        match self {
            Self::Put { key, .. }
            | Self::Get { key }
            | Self::Cas { key, .. }
            | Self::Delete { key } => key,
            Self::Watch { key, prefix } => prefix.as_deref().unwrap_or(key),
        }
    }
}

const CORRELATION: u64 = 1;

/// Runs the command.
///
/// # Errors
/// See the help.
pub fn run(args: &KvArgs) -> Result<(), Failure> {
    let key = args.verb.key();
    let is_prefix = matches!(
        &args.verb,
        Verb::Watch {
            prefix: Some(_),
            ..
        }
    );
    if key.len() > KEY_MAX || (key.is_empty() && !is_prefix) {
        return Err(Failure::usage(format!(
            "a key has 1 to {KEY_MAX} bytes; this one has {}",
            key.len()
        )));
    }
    let timeout = Duration::from_secs(args.timeout);
    let mut options = ClientOptions::new(&args.cluster.list()?);
    options.open_timeout = timeout;
    let mut client = Client::connect_with(&options).map_err(no_answer)?;
    let outcome = ask(args, &mut client, timeout);
    if outcome.is_ok() && matches!(args.verb, Verb::Watch { .. }) {
        return watch(args, client);
    }
    let closed = client.close().map_err(no_answer);
    outcome.and(closed)
}

/// Sends the request, and prints the answer.
fn ask(args: &KvArgs, client: &mut Client, timeout: Duration) -> Result<(), Failure> {
    let request = args.verb.request();
    let message: Vec<u8> = encode_request(CORRELATION, &request).parts().concat();
    let offered = client.offer_until(&message, timeout).map_err(no_answer)?;
    let deadline = deadline(timeout);
    let mut answer = None;
    while answer.is_none() {
        if Instant::now() > deadline {
            return Err(Failure::no_answer(
                "no answer in time: the outcome is unknown; see `coracle status`",
            ));
        }
        let taken = client.poll(Duration::from_millis(100), |egress| match egress {
            Egress::Message { payload, .. } if answer.is_none() => {
                answer = Some(print_reply(args, payload));
            }
            Egress::NewLeader { term, .. } if answer.is_none() && term > offered.term => {
                answer = Some(Err(Failure::outcome(
                    "the leader was lost: it is unknown whether the request was carried out",
                )));
            }
            _ => {}
        });
        taken.map_err(no_answer)?;
    }
    answer.unwrap_or(Ok(()))
}

/// Prints events until interrupted. A watch belongs to the session, which lives on through
/// failovers.
fn watch(args: &KvArgs, mut client: Client) -> Result<(), Failure> {
    loop {
        let mut outcome = Ok(());
        let taken = client.poll(Duration::from_secs(1), |egress| {
            if let (Egress::Message { payload, .. }, Ok(())) = (egress, &outcome) {
                outcome = print_reply(args, payload);
            }
        });
        taken.map_err(no_answer)?;
        outcome?;
    }
}

fn print_reply(args: &KvArgs, payload: &[u8]) -> Result<(), Failure> {
    let (_, reply) = decode_reply(payload).map_err(|error| {
        Failure::outcome(format!(
            "the answer is none of the key-value service ({error:?}): do the nodes run `kv`?"
        ))
    })?;
    let mut out = io::stdout().lock();
    if args.json {
        writeln!(out, "{}", reply_json(&reply))?;
    } else {
        write_reply(&mut out, &args.verb, &reply)?;
    }
    out.flush()?;
    let key = args.verb.key();
    match reply {
        Reply::NotFound => Err(Failure::outcome(format!("there is no key `{key}`"))),
        Reply::Conflict { version: 0 } => Err(Failure::outcome(format!(
            "there is no key `{key}`: expect 0"
        ))),
        Reply::Conflict { version } => Err(Failure::outcome(format!(
            "the version of `{key}` is {version}"
        ))),
        Reply::Full => Err(Failure::outcome(
            "there is no room for this key and value: delete others first",
        )),
        Reply::Refused(refusal) => Err(Failure::outcome(format!("refused: {refusal:?}"))),
        _ => Ok(()),
    }
}

fn write_reply(out: &mut impl Write, verb: &Verb, reply: &Reply<'_>) -> io::Result<()> {
    match reply {
        Reply::Done { version } => match verb {
            Verb::Watch { .. } => writeln!(out, "watching"),
            _ => writeln!(out, "{version}"),
        },
        Reply::Value { value, .. } => {
            out.write_all(value)?;
            writeln!(out)
        }
        Reply::Changed {
            version,
            key,
            value,
        } => {
            write!(out, "{version} put {} ", key.escape_ascii())?;
            out.write_all(value)?;
            writeln!(out)
        }
        Reply::Deleted { version, key } => writeln!(out, "{version} delete {}", key.escape_ascii()),
        _ => Ok(()),
    }
}

fn reply_json(reply: &Reply<'_>) -> Value {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    match reply {
        Reply::Done { version } => json!({ "done": true, "version": version }),
        Reply::Value { version, value } => json!({ "version": version, "value": text(value) }),
        Reply::NotFound => json!({ "error": "not found" }),
        Reply::Conflict { version } => json!({ "error": "conflict", "version": version }),
        Reply::Full => json!({ "error": "full" }),
        Reply::Refused(refusal) => json!({ "error": format!("{refusal:?}") }),
        Reply::Changed {
            version,
            key,
            value,
        } => json!({ "event": "put", "version": version, "key": text(key), "value": text(value) }),
        Reply::Deleted { version, key } => {
            json!({ "event": "delete", "version": version, "key": text(key) })
        }
        _ => json!({ "error": "unknown answer" }),
    }
}
