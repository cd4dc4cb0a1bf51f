//! The client: writes to the key-value service, and remembers what was acknowledged.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use coracle_core::service::kv::codec::{Reply, Request, decode_reply, encode_request};
use coracle_std::client::{Client, ClientOptions, Egress};

/// How many keys are written, in turn.
const KEYS: u64 = 64;
/// How many answers may be outstanding.
const WINDOW: usize = 8;
/// Between two writes.
const PACE: Duration = Duration::from_millis(4);
/// Between two when as much as possible is to be written.
const FAST: Duration = Duration::from_millis(1);
/// The numbers of such writes start here.
const LARGE: u64 = 1 << 40;
/// The length of their values.
const LARGE_VALUE: usize = 2_000;

/// A write that the cluster has answered for.
#[derive(Clone, Copy, Debug)]
pub struct Acknowledged {
    /// Which write: key and value follow from it.
    pub number: u64,
    /// Where it is in the log, as the answer says.
    pub version: u64,
    /// When it was offered.
    pub offered: Instant,
    /// When it was answered.
    pub answered: Instant,
}

/// The key of a write.
pub fn key_of(number: u64) -> Vec<u8> {
    format!("key-{}", number % KEYS).into_bytes()
}

/// The value: its number, and some bytes of lengths up to two frames.
pub fn value_of(number: u64) -> Vec<u8> {
    let mut value = format!("{number}:").into_bytes();
    let len = if number >= LARGE {
        LARGE_VALUE
    } else if number.is_multiple_of(50) {
        1_800
    } else {
        number as usize * 37 % 500
    };
    value.resize(value.len() + len, number as u8);
    value
}

/// What was acknowledged, and what was not.
#[derive(Debug, Default)]
pub struct Record {
    /// All of it, in the order of the answers.
    pub acknowledged: Vec<Acknowledged>,
    /// Writes whose outcome nobody will tell: a leader was lost, or a session.
    pub unknown: u64,
    /// Sessions opened.
    pub sessions: u64,
    /// Answers that no write should have.
    pub wrong: Vec<String>,
    next: u64,
    is_fast: bool,
}

/// A client that goes on and on.
pub struct Load {
    record: Arc<Mutex<Record>>,
    endpoints: String,
    running: Option<(Arc<AtomicBool>, JoinHandle<()>)>,
}

fn connect(endpoints: &str, patience: Duration) -> Result<Client, String> {
    let options = ClientOptions {
        ingress_window: 64 << 10,
        egress_window: 64 << 10,
        message_max: 4096,
        open_timeout: patience,
        ..ClientOptions::new(endpoints)
    };
    Client::connect_with(&options).map_err(|error| error.to_string())
}

impl Load {
    /// A client of these members.
    pub fn new(endpoints: &str) -> Self {
        Self {
            record: Arc::default(),
            endpoints: endpoints.to_owned(),
            running: None,
        }
    }

    /// What was acknowledged so far.
    pub fn record(&self) -> MutexGuard<'_, Record> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on as much as possible is written, or again what it was before.
    pub fn set_fast(&self, is_fast: bool) {
        self.record().is_fast = is_fast;
    }

    /// Begins to write in the background.
    pub fn start(&mut self) {
        let (record, endpoints) = (self.record.clone(), self.endpoints.clone());
        let is_over = Arc::new(AtomicBool::new(false));
        let flag = is_over.clone();
        let thread = thread::spawn(move || {
            while !flag.load(Ordering::Relaxed) {
                // Nobody answers, or the session is over: the next one.
                if let Ok(client) = connect(&endpoints, Duration::from_secs(2)) {
                    lock(&record).sessions += 1;
                    session(client, &record, &flag);
                }
            }
        });
        self.running = Some((is_over, thread));
    }

    /// Ends that.
    pub fn stop(&mut self) {
        if let Some((is_over, thread)) = self.running.take() {
            is_over.store(true, Ordering::Relaxed);
            // A panic there has printed itself; nothing was acknowledged by it.
            drop(thread.join());
        }
    }

    /// Writes one after another, each when the last was answered: how long each took.
    ///
    /// # Errors
    /// The cluster does not answer.
    pub fn round_trips(&self, count: usize) -> Result<Vec<Duration>, String> {
        let mut client = connect(&self.endpoints, Duration::from_secs(10))?;
        let mut times = Vec::new();
        for _ in 0..count {
            let number = take_number(&self.record);
            let offered = Instant::now();
            let (key, value) = (key_of(number), value_of(number));
            let request = Request::Put {
                key: &key,
                value: &value,
            };
            let message = encode_request(number, &request).parts().concat();
            client
                .offer_until(&message, Duration::from_secs(10))
                .map_err(|error| error.to_string())?;
            let before = lock(&self.record).acknowledged.len();
            while lock(&self.record).acknowledged.len() == before {
                let mut pending = BTreeMap::from([(number, offered)]);
                let record = &self.record;
                client
                    .poll(Duration::from_secs(1), |egress| {
                        take(egress, &mut pending, record)
                    })
                    .map_err(|error| error.to_string())?;
                if offered.elapsed() > Duration::from_secs(10) {
                    return Err("a write has no answer within 10 s".into());
                }
            }
            times.push(offered.elapsed());
        }
        client.close().map_err(|error| error.to_string())?;
        Ok(times)
    }

    /// Reads all keys through the cluster: each has the value of its last acknowledged write, or of
    /// one that came after it and whose outcome nobody was told.
    ///
    /// # Errors
    /// What is wrong.
    pub fn read_back(&self) -> Result<usize, String> {
        let mut newest = BTreeMap::<Vec<u8>, Acknowledged>::new();
        for one in &self.record().acknowledged {
            let entry = newest.entry(key_of(one.number)).or_insert(*one);
            if one.version > entry.version {
                *entry = *one;
            }
        }
        let mut client = connect(&self.endpoints, Duration::from_secs(10))?;
        for (key, expected) in &newest {
            let message = encode_request(1, &Request::Get { key }).parts().concat();
            client
                .offer_until(&message, Duration::from_secs(10))
                .map_err(|error| error.to_string())?;
            let mut found = None;
            let began = Instant::now();
            while found.is_none() && began.elapsed() < Duration::from_secs(10) {
                client
                    .poll(Duration::from_secs(1), |egress| {
                        if let Egress::Message { payload, .. } = egress
                            && let Ok((_, Reply::Value { version, value })) = decode_reply(payload)
                        {
                            found = Some((version, value.to_vec()));
                        }
                    })
                    .map_err(|error| error.to_string())?;
            }
            let is_right = found.is_some_and(|(version, value)| {
                let is_it = version == expected.version && value == value_of(expected.number);
                is_it || version > expected.version
            });
            if !is_right {
                let key = String::from_utf8_lossy(key);
                return Err(format!(
                    "{key} does not have what was acknowledged: {expected:?}"
                ));
            }
        }
        client.close().map_err(|error| error.to_string())?;
        Ok(newest.len())
    }
}

fn lock(record: &Mutex<Record>) -> MutexGuard<'_, Record> {
    record.lock().unwrap_or_else(PoisonError::into_inner)
}

fn take_number(record: &Mutex<Record>) -> u64 {
    let mut record = lock(record);
    record.next += 1;
    match record.is_fast {
        true => LARGE + record.next,
        false => record.next,
    }
}

fn take(egress: Egress<'_>, pending: &mut BTreeMap<u64, Instant>, record: &Mutex<Record>) {
    match egress {
        Egress::Message { payload, .. } => match decode_reply(payload) {
            Ok((number, Reply::Done { version })) => {
                if let Some(offered) = pending.remove(&number) {
                    lock(record).acknowledged.push(Acknowledged {
                        number,
                        version,
                        offered,
                        answered: Instant::now(),
                    });
                }
            }
            other => lock(record).wrong.push(format!("{other:?}")),
        },
        // What the old leader has not answered, nobody answers.
        Egress::NewLeader { .. } => {
            lock(record).unknown += pending.len() as u64;
            pending.clear();
        }
        _ => {}
    }
}

/// One session, to its end.
fn session(mut client: Client, record: &Mutex<Record>, is_over: &AtomicBool) {
    let mut pending = BTreeMap::new();
    let mut next = Instant::now();
    loop {
        let is_ending = is_over.load(Ordering::Relaxed);
        let pace = if lock(record).is_fast { FAST } else { PACE };
        if is_ending && pending.is_empty() {
            // The cluster would close it by itself, later.
            drop(client.close());
            return;
        }
        if !is_ending && pending.len() < WINDOW && Instant::now() >= next {
            let number = take_number(record);
            let (key, value) = (key_of(number), value_of(number));
            let request = Request::Put {
                key: &key,
                value: &value,
            };
            let message = encode_request(number, &request).parts().concat();
            if client.offer(&message).is_ok() {
                pending.insert(number, Instant::now());
            }
            next = Instant::now() + pace;
        }
        let polled = client.poll(pace, |egress| take(egress, &mut pending, record));
        if polled.is_err() {
            lock(record).unknown += pending.len() as u64;
            return;
        }
    }
}
