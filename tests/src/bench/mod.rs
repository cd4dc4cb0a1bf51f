//! The bench: figures of clusters of real processes on loopback, beside the physical limits of the
//! same run.

pub mod catchup;
pub mod chain;
pub mod curves;
pub mod failover;
pub mod figure;
pub mod flush;
pub mod latency;
pub mod load;
pub mod machine;
pub mod multicast;
pub mod peers;
pub mod pipeline;
pub mod place;
pub mod profile;
pub mod resources;
pub mod scale;
pub mod start;
pub mod steady;
pub mod svg;
pub mod throughput;
pub mod timeline;
pub mod trace;
pub mod usage;

use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value, json};

use crate::process::{Cluster, Plan, free_ports};
use figure::Row;
use machine::{Machine, load_average};

/// The rows, in the order in which they run.
pub const ROWS: &str = "abcdefghim";
/// The row that is a timeline of the pipeline, and runs only if it is asked for.
pub const PIPELINE: &str = "p";

/// What to run, and how long.
#[derive(Clone, Debug)]
pub struct Options {
    /// Letters of rows.
    pub rows: String,
    /// How often each row is run, in turn with the others of its group.
    pub rounds: usize,
    /// How long one load lasts in one round.
    pub time: Duration,
    /// How many messages a log to be replayed has.
    pub messages: u64,
    /// Only messages of this length, where there are several.
    pub len: Option<usize>,
    /// As short as it can be and still show that all of it works.
    pub is_quick: bool,
    /// A profile instead of figures.
    pub is_profile: bool,
    /// So long, instead of figures, clusters with tight timings are to keep their leaders.
    pub steady: Option<Duration>,
    /// JSON instead of text.
    pub is_json: bool,
    /// Where the plot of the last row, or the timeline, goes.
    pub svg: PathBuf,
    /// Whether other systems do the same work.
    pub has_peers: bool,
    /// Aeron's jars, as a Java class path, where the user has them.
    pub aeron: Option<String>,
}

impl Options {
    /// Whether a row is to be run.
    pub fn has(&self, row: char) -> bool {
        self.rows.contains(row)
    }

    /// What a load runs before it is measured: caches, branch predictors, windows, cold files.
    pub fn warm_up(&self) -> Duration {
        self.time / 4
    }

    /// The same where some run on a virtual machine that compiles what it has run for a while.
    pub fn peer_warm_up(&self) -> Duration {
        self.warm_up().max(Duration::from_secs(1))
    }
}

/// A cluster that a load is put on.
#[derive(Clone, Copy, Debug)]
pub struct Kind {
    /// `sleep`, `yield`: see the setting `idle`.
    pub idle: &'static str,
    /// Whether every member flushes before it acknowledges.
    pub is_durable: bool,
    /// The longest datagram.
    pub mtu: usize,
    /// How many members.
    pub members: u8,
    /// Whether the log is sent to all followers at once.
    pub multicast: bool,
    /// Whether the log is as long as by default, and goes round in its files; else it is so long
    /// that no snapshot is taken while something is measured.
    pub goes_round: bool,
}

/// Three nodes, the usual datagrams.
pub const THREE: Kind = Kind {
    idle: "yield",
    is_durable: false,
    mtu: coracle_core::limits::MTU_DEFAULT,
    members: 3,
    multicast: false,
    goes_round: false,
};

impl Kind {
    /// What a cluster of this kind is started by.
    pub fn plan(&self) -> Plan {
        let durability = match self.is_durable {
            true => "durable",
            false => "replication-only",
        };
        let mut plan = Plan::new();
        plan.members = self.members;
        plan.extra = format!(
            "service = \"echo\"\nidle = \"{}\"\ndurability = \"{durability}\"\nmtu = {}\n\
             ingress_window = \"4MiB\"\negress_window = \"4MiB\"\nwindow = \"16MiB\"\n",
            self.idle, self.mtu
        );
        if !self.goes_round {
            plan.extra +=
                "segment_length = \"64MiB\"\nlog_max = \"8GiB\"\nsnapshot_every = \"2GiB\"\n";
        }
        if self.multicast {
            // A group of this cluster alone: others may run on this machine.
            let [port] = free_ports(1)[..] else {
                unreachable!("as many as were asked for")
            };
            plan.extra += &format!("log_multicast = \"239.255.66.1:{port}\"\n");
        }
        plan
    }

    /// Starts it, and waits for a leader.
    pub fn start(&self) -> Cluster {
        Cluster::start("bench", self.plan())
    }
}

/// Runs what the options say, printing each row when it is done unless JSON is wanted.
///
/// # Errors
/// In words: what could not be measured.
pub fn run(options: &Options) -> Result<(), String> {
    let machine = Machine::here(&std::env::temp_dir());
    let load_before = load_average();
    if !options.is_json {
        machine.print();
        println!("load      {load_before} before the run");
        println!(
            "spreads   min / median / max of {} rounds; ratios are of values of one round\n",
            options.rounds
        );
    }
    let mut all: Vec<Row> = Vec::new();
    let mut add = |rows: Vec<Row>| {
        for row in rows {
            if !options.is_json {
                row.print();
                println!();
            }
            all.push(row);
        }
    };
    if ['a', 'b', 'c'].iter().any(|row| options.has(*row)) {
        add(latency::measure(options)?);
    }
    if options.has('a') || options.has('d') {
        add(throughput::measure(options)?);
    }
    if options.has('e') {
        add(failover::measure(options)?);
    }
    if options.has('f') {
        add(resources::measure(options)?);
    }
    if options.has('g') {
        add(start::measure(options)?);
    }
    if options.has('h') {
        add(scale::measure(options)?);
    }
    if options.has('i') {
        add(catchup::measure(options)?);
    }
    if options.has('p') {
        add(pipeline::measure(options)?);
    }
    if options.has('m') {
        add(multicast::measure(options)?);
    }
    if options.has_peers {
        add(peers::measure(options)?);
    }
    let load_after = load_average();
    if options.is_json {
        let rows: Vec<Value> = all.iter().map(Row::json).collect();
        println!(
            "{:#}",
            json!({ "machine": machine.json(), "load_before": load_before, "rows": rows,
                    "load_after": load_after, "rounds": options.rounds })
        );
    } else {
        let goals = all.iter().flat_map(|row| &row.lines);
        let reached: Vec<bool> = goals.filter_map(figure::Line::is_reached).collect();
        let met = reached.iter().filter(|is| **is).count();
        println!("load      {load_after} after the run");
        println!("goals     {met} of {} met", reached.len());
    }
    Ok(())
}
