//! Ways to a cluster, and ways to look into it.

use std::io::{BufRead, BufReader, ErrorKind};
use std::net::UdpSocket;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use coracle_tests::process::{
    Cluster, Ended, PATIENCE, Plan, Session, coracle, records, run, until,
};
use rustix::process::{Pid, Signal, kill_process};

#[test]
fn a_cluster_runs_by_address_by_name_and_over_ipv6() {
    for host in ["127.0.0.1", "localhost", "[::1]"] {
        let mut plan = Plan::new();
        plan.host = host.into();
        let mut cluster = Cluster::start("ways", plan);
        let mut session = Session::open(&cluster.endpoints(), 0);
        session.stream(200, 32, 2000);
        let leader = cluster.leader();
        cluster.kill(leader);
        session.stream(200, 32, 2000);
        cluster.spawn(leader);
        session.close();
        cluster.level();
    }
}

/// `coracle tail --follow`, and the numbers of the messages it has printed.
struct Tail {
    child: Child,
    numbers: Arc<Mutex<Vec<u64>>>,
}

impl Tail {
    fn follow(cluster: &Cluster, member: u8) -> Self {
        let mut command = Command::new(coracle());
        command
            .args(["tail", "--follow", "--dir"])
            .arg(cluster.data(member));
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let numbers = Arc::new(Mutex::new(Vec::new()));
        let theirs = Arc::clone(&numbers);
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                let number = line.split(':').next().and_then(|n| n.parse().ok());
                theirs
                    .lock()
                    .unwrap()
                    .push(number.expect("a numbered message"));
            }
        });
        Self { child, numbers }
    }

    fn count(&self) -> usize {
        self.numbers.lock().unwrap().len()
    }
}

impl Drop for Tail {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

#[test]
fn tail_follows_every_member_and_misses_nothing() {
    let cluster = Cluster::start("tail", Plan::patient());
    let tails: Vec<Tail> = (0..3)
        .map(|member| Tail::follow(&cluster, member))
        .collect();
    let mut session = Session::open(&cluster.endpoints(), 0);
    session.stream(2000, 64, 5000);
    for tail in &tails {
        until("tail to print everything", || {
            (tail.count() >= 2000).then_some(())
        });
        assert_eq!(
            *tail.numbers.lock().unwrap(),
            (0..2000).collect::<Vec<u64>>()
        );
    }
    session.close();
}

#[test]
fn tail_never_passes_the_commit() {
    let mut plan = Plan::new();
    // A leader whose followers are stopped must not step down while we look.
    plan.extra += "timings = { leader_timeout = \"10s\", session_timeout = \"120s\", \
                   egress_timeout = \"60s\" }\n";
    let cluster = Cluster::start("commit", plan);
    let leader = cluster.leader();
    let tail = Tail::follow(&cluster, leader);
    let mut session = Session::open(&cluster.endpoints(), 0);
    session.stream(100, 16, 500);
    until("tail to print what is committed", || {
        (tail.count() == 100).then_some(())
    });

    for member in (0..3).filter(|m| *m != leader) {
        cluster.signal(member, Signal::STOP);
    }
    let before = cluster.counters(leader);
    until("the window to have room", || {
        while session.in_flight() < 100 && session.offer(500) {}
        session.poll(Duration::from_millis(5)).unwrap();
        (session.in_flight() == 100).then_some(())
    });
    let now = until("the leader's disk to have what is not committed", || {
        session.poll(Duration::from_millis(20)).unwrap();
        let now = cluster.counters(leader);
        let ahead = |key: &str| {
            now[key].as_u64().unwrap() >= before["committed"].as_u64().unwrap() + 50_000
        };
        (ahead("appended") && ahead("written") && ahead("durable")).then_some(now)
    });
    assert_eq!(
        now["committed"], before["committed"],
        "two of three are stopped"
    );
    // Time enough for fifty looks of `tail`.
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!(tail.count(), 100, "tail has passed the commit");
    assert_eq!(records(&cluster.data(leader)).len(), 100);
    assert_eq!(session.answered().len(), 100);

    for member in (0..3).filter(|m| *m != leader) {
        cluster.signal(member, Signal::CONT);
    }
    session.drain();
    until("tail to print the rest", || {
        (tail.count() == 200).then_some(())
    });
    session.close();
}

#[test]
fn the_counters_file_says_what_the_status_query_says() {
    let cluster = Cluster::start("counters", Plan::patient());
    let mut session = Session::open(&cluster.endpoints(), 0);
    session.stream(100, 16, 500);
    const KEYS: [&str; 8] = [
        "member",
        "cluster",
        "role",
        "term",
        "committed",
        "applied",
        "digest",
        "sessions",
    ];
    for (member, asked) in cluster.level().iter().enumerate() {
        // It is written now and then.
        let read = until("a counters file that says the same", || {
            let read = cluster.counters(member as u8);
            let is_same = KEYS.iter().all(|key| read[*key] == asked[*key]);
            is_same.then_some(read)
        });
        assert_eq!(read["process"], cluster.process(member as u8));
        for key in ["received", "sent", "flushes"] {
            assert!(read[key].as_u64().unwrap() > 0, "{key} of member {member}");
        }
    }
    let endpoints = cluster.endpoints();
    let table = until("a table of all members", || {
        let table = run(["status", "--endpoints", &endpoints]);
        (table.code == Some(0)).then_some(table)
    });
    assert_eq!(table.out.matches("leader").count(), 1, "{}", table.out);
    assert_eq!(table.out.matches("follower").count(), 2, "{}", table.out);
    session.close();
}

/// Its own standstill is no silence of the members: it listens for as long as it was told to.
#[test]
fn a_status_query_that_stood_still_asks_again() {
    let mut plan = Plan::patient();
    plan.members = 1;
    let cluster = Cluster::start("query", plan);
    let between = UdpSocket::bind("127.0.0.1:0").unwrap();
    between.set_read_timeout(Some(PATIENCE)).unwrap();
    let timeout = Duration::from_millis(3_000);
    let mut command = Command::new(coracle());
    command.args(["status", "--timeout-ms", &timeout.as_millis().to_string()]);
    command.args([
        "--endpoints",
        &format!("0={}", between.local_addr().unwrap()),
    ]);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let asking = command.spawn().unwrap();
    let signal = |signal| kill_process(Pid::from_child(&asking), signal).unwrap();
    let mut bytes = [0; 2_000];
    let mut receive = || {
        loop {
            match between.recv_from(&mut bytes) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                received => {
                    let (len, from) = received.expect("a datagram in time");
                    return (bytes[..len].to_vec(), from);
                }
            }
        }
    };
    let (_, asks) = receive();
    signal(Signal::STOP);
    // All that it had asked until then is heard, and answered by nobody.
    std::thread::sleep(timeout + Duration::from_millis(500));
    between.set_nonblocking(true).unwrap();
    while between.recv(&mut [0; 2_000]).is_ok() {}
    between.set_nonblocking(false).unwrap();
    signal(Signal::CONT);
    let (query, from) = receive();
    assert_eq!(from, asks);
    let [_, port] = cluster.ports_of(0);
    between.send_to(&query, ("127.0.0.1", port)).unwrap();
    let (mut answer, mut source) = receive();
    // It asks on until it is answered.
    while source == asks {
        (answer, source) = receive();
    }
    between.send_to(&answer, asks).unwrap();
    let ended = Ended::from(asking.wait_with_output().unwrap());
    assert_eq!(ended.code, Some(0), "{ended:?}");
}

#[test]
fn log_lines_are_json_on_request() {
    let mut plan = Plan::new();
    plan.members = 1;
    let mut cluster = Cluster::prepare("json", plan);
    let mut command = Command::new(coracle());
    command.args(["node", "--init", "--log-format", "json", "--config"]);
    command.arg(cluster.config(0));
    cluster.spawn_as(0, command);
    cluster.leader();
    cluster.signal(0, Signal::TERM);
    cluster.wait(0);
    let text = cluster.log(0);
    for line in text.lines() {
        let line: serde_json::Value = serde_json::from_str(line).expect(line);
        assert_eq!(line["level"], "INFO", "{line}");
        assert!(line["timestamp"].is_string() && line["fields"]["message"].is_string());
    }
    assert!(
        text.lines().count() >= 2,
        "it says that it starts and closes: {text}"
    );
}

#[test]
fn an_idle_cluster_sleeps() {
    let cluster = Cluster::start("idle", Plan::patient());
    cluster.level();
    let said = [0, 1, 2].map(|member| cluster.log(member));
    let (before, began) = (cluster.processor_time(), Instant::now());
    std::thread::sleep(Duration::from_secs(10));
    let used = (cluster.processor_time() - before).as_secs_f64() / began.elapsed().as_secs_f64();
    println!(
        "an idle cluster of three used {:.1} % of one core",
        used * 100.0
    );
    assert!(
        used < 0.2,
        "{:.0} % of one core: does it spin?",
        used * 100.0
    );
    assert_eq!(
        [0, 1, 2].map(|member| cluster.log(member)),
        said,
        "logs are silent at steady state"
    );
}
