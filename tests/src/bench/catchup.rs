//! Row i: a follower that was away comes back while clients go on.

use std::path::PathBuf;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use coracle_std::counters::{Counter, CountersReader};
use rustix::process::Signal;

use super::Options;
use super::figure::{Line, Row, Unit};
use super::load::{Latencies, Load, Shape, Wait};
use super::start::{FRAME, replay};
use crate::process::{Cluster, PATIENCE, Plan};

/// Who is no further behind is level: what is on its way under load.
const LEVEL: u64 = 1 << 20;
/// Messages on their way while the follower comes back.
const IN_FLIGHT: usize = 256;

#[derive(Default)]
struct Found {
    level: Vec<f64>,
    rate: Vec<f64>,
    before: Vec<f64>,
    meanwhile: Vec<f64>,
}

/// Measures.
///
/// # Errors
/// In words.
pub fn measure(options: &Options) -> Result<Vec<Row>, String> {
    let long = match options.is_quick {
        true => options.messages,
        false => options.messages * 10,
    };
    let mut found = Found::default();
    for _ in 0..options.rounds {
        found.add(options)?;
    }
    let count = options.messages;
    let what = format!(
        "a follower is away for {count} messages of 32 B, and comes back; default settings, \
         {IN_FLIGHT} in flight all the time"
    );
    let mut row = Row::new('i', &what);
    row.lines = vec![
        Line::new("until level", Unit::Millis, found.level),
        Line::new("caught up", Unit::Kilo, found.rate),
        Line::new("clients, meanwhile", Unit::Kilo, found.meanwhile)
            .beside("with all three", found.before),
    ];
    row.notes.push(
        "from the start of its process, until it has executed all but the last MiB that is \
         committed; what is sent meanwhile counts"
            .into(),
    );
    // Long to write and quick to read: it has little spread.
    Ok(vec![replay('i', long, options.rounds.min(2))?, row])
}

impl Found {
    fn add(&mut self, options: &Options) -> Result<(), String> {
        let mut plan = Plan::new();
        plan.extra = "service = \"echo\"\nlog_max = \"32GiB\"\nsnapshot_every = \"8GiB\"\n".into();
        let mut cluster = Cluster::start("catch-up", plan);
        let leader = cluster.leader();
        let away = u8::from(leader == 0);
        let shape = Shape {
            wait: Wait::Yield,
            len: 32,
            mtu: coracle_core::limits::MTU_DEFAULT,
        };
        let mut load = Load::open(&cluster.endpoints(), shape)?;
        load.flood(IN_FLIGHT, options.warm_up())?;
        self.before
            .push(load.flood(IN_FLIGHT, options.time)?.rate / 1000.0);
        cluster.signal(away, Signal::TERM);
        cluster.wait(away);
        load.send(options.messages, IN_FLIGHT)?;
        let began = Instant::now();
        let watched = watch([cluster.data(leader), cluster.data(away)], began);
        cluster.spawn(away);
        let mut latencies = Latencies::new();
        while !watched.is_finished() {
            load.turn(IN_FLIGHT, &mut latencies)?;
        }
        let took = began.elapsed().as_secs_f64();
        load.drain()?;
        let seen = watched.join().map_err(|_| "the watching thread died")?;
        let (time, bytes) = seen.ok_or("the follower does not come to be level")?;
        let millis = time.as_secs_f64() * 1000.0;
        self.level.push(millis);
        self.rate.push((bytes / FRAME) as f64 / millis);
        self.meanwhile
            .push(latencies.count() as f64 / took / 1000.0);
        Ok(())
    }
}

/// Looks at the counters of a leader, and of a follower that is about to start, until the follower
/// is level: how long that took, and how many bytes of log it has received or executed.
fn watch([leader, away]: [PathBuf; 2], began: Instant) -> JoinHandle<Option<(Duration, u64)>> {
    let open = |dir: &PathBuf| CountersReader::open(dir).ok();
    let before = open(&away).map(|reader| reader.read());
    let had = before.map_or(0, |reading| reading.get(Counter::Appended));
    std::thread::spawn(move || {
        let leader = open(&leader)?;
        let deadline = began + PATIENCE;
        while Instant::now() < deadline {
            let committed = leader.read().get(Counter::Committed);
            let reading = open(&away).map(|reader| reader.read());
            let applied = reading.filter(|reading| reading.process != 0);
            let applied = applied.map_or(0, |reading| reading.get(Counter::Applied));
            if applied + LEVEL >= committed {
                return Some((began.elapsed(), applied.saturating_sub(had)));
            }
            std::thread::sleep(Duration::from_micros(500));
        }
        None
    })
}
