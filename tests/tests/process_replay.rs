//! `coracle replay`: the committed messages of a member from any position on.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};

use coracle_tests::process::{Cluster, Ended, PATIENCE, Plan, Session, coracle, run, until};
use rustix::process::Signal;
use serde_json::Value;

fn coracle_on(dir: &Path, args: &[&str]) -> Ended {
    let (command, rest) = args.split_first().expect("a command");
    let first = [command.as_ref(), "--dir".as_ref(), dir.as_os_str()];
    run(first.into_iter().chain(rest.iter().map(AsRef::as_ref)))
}

/// What `replay` writes, one line for each record.
#[track_caller]
fn replay(dir: &Path, args: &[&str]) -> Vec<String> {
    let all: Vec<&str> = ["replay", "--json"].iter().chain(args).copied().collect();
    let ended = coracle_on(dir, &all);
    assert_eq!(ended.code, Some(0), "{}", ended.err);
    ended.out.lines().map(str::to_owned).collect()
}

fn position(line: &str) -> u64 {
    let line: Value = serde_json::from_str(line).expect("an object on each line");
    line["position"].as_u64().expect("with a position")
}

/// Where records start, by `coracle log`: every frame that begins one.
fn starts(dir: &Path) -> Vec<u64> {
    let ended = coracle_on(dir, &["log"]);
    assert_eq!(ended.code, Some(0), "{}", ended.err);
    let begins = |line: &&str| line.contains(" whole ") || line.contains(" first ");
    let lines = ended.out.lines().filter(begins);
    let first = |line: &str| line.split_whitespace().next().map(str::parse);
    lines.filter_map(|line| first(line)?.ok()).collect()
}

/// A replay that goes on, and its lines as they come.
struct Following {
    child: Child,
    lines: Receiver<String>,
}

impl Following {
    fn start(dir: &Path, args: &[&str]) -> Self {
        let mut command = Command::new(coracle());
        command.args(["replay", "--follow", "--json", "--dir"]);
        command.arg(dir).args(args).stdout(Stdio::piped());
        let mut child = command.spawn().expect("it starts");
        let out = BufReader::new(child.stdout.take().expect("it is piped"));
        let (to, lines) = channel();
        std::thread::spawn(move || {
            for line in out.lines().map_while(Result::ok) {
                if to.send(line).is_err() {
                    return;
                }
            }
        });
        Self { child, lines }
    }

    #[track_caller]
    fn next(&self) -> String {
        let line = self.lines.recv_timeout(PATIENCE);
        line.expect("another line in time")
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

#[test]
fn a_replay_from_anywhere_is_the_rest_of_the_whole() {
    let mut cluster = Cluster::start("replay", Plan::new());
    let mut session = Session::open(&cluster.endpoints(), 0);
    // Messages of several frames, too.
    session.stream(600, 32, 3000);
    session.close();
    cluster.level();
    let whole = replay(&cluster.data(0), &["--from", "0"]);
    assert_eq!(whole.len(), 600);
    let middle = position(&whole[300]);
    for (from, rest) in [(middle - 1, 300), (middle, 300), (middle + 1, 301)] {
        let text = from.to_string();
        for member in 0..3 {
            let suffix = replay(&cluster.data(member), &["--from", &text]);
            assert_eq!(suffix, whole[rest..], "from {from}, member {member}");
        }
        let before = replay(&cluster.data(0), &["--to", &text]);
        assert_eq!(before, whole[..rest], "to {from}");
    }

    // Of a member that has closed, and of one that was killed.
    cluster.signal(0, Signal::TERM);
    cluster.wait(0);
    cluster.kill(1);
    for member in [0, 1] {
        let stopped = replay(&cluster.data(member), &["--from", &middle.to_string()]);
        assert_eq!(stopped, whole[300..], "member {member}");
    }
    // Nothing says any more what is committed.
    std::fs::remove_file(cluster.data(0).join("counters")).unwrap();
    let lost = coracle_on(&cluster.data(0), &["replay"]);
    lost.expect(1, &["no counters file", "no snapshot", "--uncommitted"]);
    let all = replay(&cluster.data(0), &["--uncommitted"]);
    assert_eq!(all, whole);
}

#[test]
fn a_replay_that_follows_joins_live_without_gap_or_duplicate() {
    let mut cluster = Cluster::start("follow", Plan::new());
    let mut session = Session::open(&cluster.endpoints(), 0);
    session.stream(500, 32, 2000);
    let whole = replay(&cluster.data(0), &["--all"]);
    let middle = position(&whole[whole.len() / 2]);
    let following: Vec<Following> = (0..3)
        .map(|member| {
            let from = ["--all", "--from", &middle.to_string()];
            Following::start(&cluster.data(member), &from)
        })
        .collect();
    session.stream(500, 32, 2000);
    // A follower is away for a while, under the reader that follows it.
    let away = (cluster.leader() + 1) % 3;
    cluster.kill(away);
    session.stream(500, 32, 2000);
    cluster.spawn(away);
    session.stream(500, 32, 2000);
    session.close();
    cluster.level();
    for (member, following) in (0..).zip(&following) {
        let all = starts(&cluster.data(member));
        let expected = all.iter().filter(|start| **start >= middle);
        for start in expected {
            assert_eq!(position(&following.next()), *start, "member {member}");
        }
    }
}

#[test]
fn a_replay_below_a_purged_log_is_refused_and_the_snapshot_bounds_one_without_counters() {
    let mut plan = Plan::new();
    plan.members = 1;
    plan.extra = "service = \"echo\"\nsegment_length = \"64KiB\"\nwindow = \"64KiB\"\n\
                  message_max = \"4KiB\"\nlog_max = \"1MiB\"\nsnapshot_every = \"128KiB\"\n"
        .into();
    let mut cluster = Cluster::start("purged", plan);
    let mut session = Session::open(&cluster.endpoints(), 0);
    let dir = cluster.data(0);
    let start = until("the log to be purged", || {
        session.stream(50, 16, 2000);
        cluster.counters(0)["log_start"]
            .as_u64()
            .filter(|start| *start > 0)
    });
    let refused = coracle_on(&dir, &["replay", "--from", "0"]);
    refused.expect(1, &["position 0", "goes on at", "in a snapshot"]);
    assert!(!replay(&dir, &[]).is_empty());
    let ended = coracle_on(&dir, &["replay", "--from", &start.to_string()]);
    let is_purged_since = ended.code == Some(1) && ended.err.contains("goes on at");
    assert!(ended.code == Some(0) || is_purged_since, "{ended:?}");

    session.close();
    cluster.signal(0, Signal::TERM);
    cluster.wait(0);
    let whole = replay(&dir, &[]);
    let snapshot = cluster.counters(0)["snapshot"]
        .as_u64()
        .expect("one was taken");
    std::fs::remove_file(dir.join("counters")).unwrap();
    let ended = coracle_on(&dir, &["replay", "--json"]);
    let text = snapshot.to_string();
    ended.expect(
        0,
        &["nothing says what is committed", "newest snapshot", &text],
    );
    let bounded: Vec<String> = ended.out.lines().map(str::to_owned).collect();
    let is_below = |line: &&String| position(line) < snapshot;
    let expected: Vec<String> = whole.iter().filter(is_below).cloned().collect();
    assert!(
        expected.len() < whole.len(),
        "there is more above {snapshot}"
    );
    assert_eq!(bounded, expected);
}
