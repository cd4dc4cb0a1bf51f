//! `coracle replay`: the committed messages of a member from any position on.

use std::io::{BufRead, BufReader, ErrorKind};
use std::net::{SocketAddr, UdpSocket};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};

use coracle_core::wire::frame::{
    FLAG_BEGIN, FLAG_END, FLAG_SM_END_OF_STREAM, Frame, Setup, StatusMessage, parse_datagram,
};
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
    let mut cluster = Cluster::start("replay", Plan::patient());
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
    let mut cluster = Cluster::start("follow", Plan::patient());
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
    let mut plan = Plan::patient();
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

/// A subscriber that says what a test wants it to say.
struct Subscriber {
    socket: UdpSocket,
    from: SocketAddr,
    setup: Setup,
    /// All below has arrived; the stream has one segment only.
    position: i32,
    record: Vec<u8>,
    records: Vec<Vec<u8>>,
    /// The sender said that it has nothing more to send, or may not; and that this is the end.
    rests: bool,
    has_ended: bool,
}

impl Subscriber {
    /// Waits for the SETUP of a new stream.
    fn accept(socket: UdpSocket) -> Self {
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut bytes = [0; 65_536];
        let (setup, from) = loop {
            let (len, from) = match socket.recv_from(&mut bytes) {
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                received => received.expect("a stream in time"),
            };
            if let Ok(Frame::Setup(setup)) = parse_datagram(&bytes[..len]) {
                break (setup, from);
            }
        };
        Self {
            socket,
            from,
            setup,
            position: 0,
            record: Vec::new(),
            records: Vec::new(),
            rests: false,
            has_ended: false,
        }
    }

    fn say(&mut self, window: i32, flags: u8) {
        let status = StatusMessage {
            flags,
            session_id: self.setup.session_id,
            stream_id: self.setup.stream_id,
            term_id: self.setup.active_term_id,
            term_offset: self.position,
            window,
            receiver_id: 1,
            group_tag: None,
        };
        let mut bytes = [0; StatusMessage::LENGTH_MAX];
        let len = status.emit(&mut bytes).unwrap();
        self.socket.send_to(&bytes[..len], self.from).unwrap();
        self.rests = false;
    }

    /// Takes a datagram; frames on loopback come in order, and what was sent again is ignored.
    fn take(&mut self) {
        let mut bytes = [0; 65_536];
        let len = loop {
            match self.socket.recv(&mut bytes) {
                // By a signal: of one who stops the process and lets it go on, for instance.
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                received => break received.expect("the stream goes on"),
            }
        };
        let Ok(Frame::Data(datagram)) = parse_datagram(&bytes[..len]) else {
            return;
        };
        let first = datagram.first();
        if datagram.is_heartbeat() && first.term_offset == self.position {
            (self.rests, self.has_ended) = (true, first.is_end_of_stream());
        }
        for frame in datagram.frames() {
            let header = frame.header;
            if header.session_id != self.setup.session_id || header.term_offset != self.position {
                continue;
            }
            self.position += header.aligned_len() as i32;
            if header.flags & FLAG_BEGIN != 0 {
                self.record.clear();
            }
            self.record.extend_from_slice(frame.payload());
            if header.flags & FLAG_END != 0 {
                self.records.push(std::mem::take(&mut self.record));
            }
        }
    }
}

/// The text of a message behind its header of schema 111.
fn text(record: &[u8]) -> String {
    assert_eq!(record[2..6], [1, 0, 111, 0], "a message of schema 111");
    String::from_utf8(record[32..].to_vec()).expect("text")
}

#[test]
fn a_stream_waits_for_its_subscriber_and_says_where_to_go_on() {
    let mut plan = Plan::patient();
    plan.members = 1;
    let mut cluster = Cluster::start("stream", plan);
    let mut session = Session::open(&cluster.endpoints(), 0);
    session.stream(300, 16, 3000);
    session.close();
    cluster.signal(0, Signal::TERM);
    cluster.wait(0);
    let dir = cluster.data(0);
    let messages: Vec<(u64, String)> = replay(&dir, &[])
        .iter()
        .map(|line| {
            let object: Value = serde_json::from_str(line).unwrap();
            (
                position(line),
                object["message"].as_str().unwrap().to_owned(),
            )
        })
        .collect();

    let publish = |from: u64| {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let mut command = Command::new(coracle());
        command.args(["replay", "--from", &from.to_string(), "--dir"]);
        command.arg(&dir).arg("--publish");
        command.arg(socket.local_addr().unwrap().to_string());
        let child = command.stderr(Stdio::piped()).spawn().expect("it starts");
        (child, Subscriber::accept(socket))
    };
    let (child, mut reader) = publish(0);
    const WINDOW: i32 = 32 << 10;
    while reader.records.len() < 100 {
        let granted = reader.position + WINDOW;
        reader.say(WINDOW, 0);
        while !reader.rests {
            reader.take();
        }
        assert!(reader.position <= granted, "more than the window");
    }
    assert!(reader.records.len() < 150, "it waits for the window");
    reader.say(WINDOW, FLAG_SM_END_OF_STREAM);
    let ended = Ended::from(child.wait_with_output().unwrap());
    ended.expect(1, &["went away", "go on with --from "]);
    let next = ended.err.split("--from ").nth(1).expect("a position");
    let next: u64 = next.trim().parse().expect("a number");
    let at = messages.iter().position(|(p, _)| *p >= next).expect("more");
    assert_eq!(at, reader.records.len(), "all that it has said it has read");
    let mut texts: Vec<String> = reader.records.iter().map(|r| text(r)).collect();

    let (child, mut reader) = publish(next);
    while !reader.has_ended {
        reader.say(WINDOW, 0);
        while !reader.rests {
            reader.take();
        }
    }
    reader.say(WINDOW, 0);
    let ended = Ended::from(child.wait_with_output().unwrap());
    ended.expect(0, &[&format!("{} records sent", messages.len() - at)]);
    texts.extend(reader.records.iter().map(|r| text(r)));
    assert!(texts.iter().eq(messages.iter().map(|(_, text)| text)));
}
