//! The `coracle` binary as a user runs it.

use std::fs::OpenOptions;
use std::path::PathBuf;
use std::process::{Child, Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;

struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let dir = format!("coracle-process-{}-{count}", std::process::id());
        let dir = std::env::temp_dir().join(dir);
        // One that was killed has left it, and its process id has come again.
        drop(std::fs::remove_dir_all(&dir));
        std::fs::create_dir_all(&dir).unwrap();
        Self(dir)
    }

    fn path(&self, name: &str) -> String {
        self.0.join(name).to_str().unwrap().to_owned()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.0));
    }
}

fn coracle(args: &[&str]) -> Output {
    let binary = env!("CARGO_BIN_EXE_coracle");
    let output = Command::new(binary).args(args).output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    println!("coracle {args:?}: {:?}\n{text}", output.status.code());
    output
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

#[test]
fn demo_kills_the_leader_and_the_directories_agree() {
    let scratch = Scratch::new();
    let dir = scratch.path("demo");
    let output = coracle(&["demo", "--dir", &dir, "--json"]);
    assert_eq!(output.status.code(), Some(0), "{}", stdout(&output));
    let report: Value = serde_json::from_str(&stdout(&output)).unwrap();
    assert_eq!(report["good"], true);
    assert!(report["acknowledged"].as_u64().unwrap() >= 20_000);
    assert_eq!(report["kills"].as_array().unwrap().len(), 1);

    // The stopped directories, by the other commands.
    let data = format!("{dir}/node-1");
    let verified = coracle(&["log", "--dir", &data, "--verify"]);
    assert_eq!(verified.status.code(), Some(0));
    assert!(stdout(&verified).contains("every checksum holds"));
    let listed = stdout(&coracle(&["log", "--dir", &data, "--count", "3"]));
    assert_eq!(listed.lines().count(), 4);
    assert!(listed.lines().nth(1).unwrap().contains("new-term"));
    let local = stdout(&coracle(&["status", "--dir", &data, "--json"]));
    let local: Value = serde_json::from_str(&local).unwrap();
    assert_eq!(local["process"], 0);
    assert_eq!(local["applied"], report["members"][1]["applied"]);
    let tailed = coracle(&["tail", "--dir", &data, "--json"]);
    let count = stdout(&tailed).lines().count() as u64;
    assert_eq!(
        count,
        report["members"][1]["checked"]["messages"]
            .as_u64()
            .unwrap()
    );

    // One byte of rot in the middle of it.
    let segment = format!("{data}/log/{:020}.seg", 0);
    let mut bytes = std::fs::read(&segment).unwrap();
    bytes[4096 + 200_000] ^= 4;
    std::fs::write(&segment, bytes).unwrap();
    let verified = coracle(&["log", "--dir", &data, "--verify"]);
    assert_eq!(verified.status.code(), Some(1));
}

#[test]
fn demo_with_snapshots_recovers_from_everything_it_breaks() {
    for service in ["echo", "kv"] {
        let output = coracle(&["demo", "--snapshot", "--service", service, "--json"]);
        assert_eq!(output.status.code(), Some(0), "{}", stdout(&output));
        let report: Value = serde_json::from_str(&stdout(&output)).unwrap();
        assert_eq!(report["good"], true, "{report}");
        let recovery = &report["recovery"];
        // It had nothing, and what it needed of the log was gone.
        assert!(recovery["install"]["others_log_start"].as_u64() > Some(0));
        assert!(recovery["install"]["position"].as_u64() > Some(0));
        assert!(recovery["restart"]["digest"].is_string(), "{recovery}");
        for start in recovery["restart"]["log_starts"].as_array().unwrap() {
            assert!(start.as_u64() > Some(0), "{recovery}");
        }
        let unchecked = report["not_checked"]["messages"].as_u64().unwrap();
        assert!(unchecked > 0, "the log was purged: {report}");
        for member in report["members"].as_array().unwrap() {
            let checked = member["checked"]["messages"].as_u64().unwrap();
            let unknown = report["unknown_executed"].as_array().unwrap().len() as u64;
            let all = report["acknowledged"].as_u64().unwrap() + unknown;
            assert!(checked > 0 && checked + unchecked >= all, "{report}");
        }
    }
}

#[test]
fn demo_accounts_for_every_line_of_a_file_on_key_value_too() {
    let scratch = Scratch::new();
    let input = scratch.path("lines");
    let lines: String = (0..10_000).map(|n| format!("line {n}\n")).collect();
    std::fs::write(&input, lines).unwrap();
    let output = coracle(&["demo", "--input", &input, "--service", "kv", "--json"]);
    assert_eq!(output.status.code(), Some(0), "{}", stdout(&output));
    let report: Value = serde_json::from_str(&stdout(&output)).unwrap();
    assert_eq!(report["good"], true);
    let unknown = report["unknown"].as_array().unwrap();
    let window = report["window"]["messages"].as_u64().unwrap();
    // A busy machine may cost a leader that nobody has killed.
    let changes = report["leader_changes"].as_u64().unwrap();
    assert!(changes >= 1, "{report}");
    assert!(unknown.len() as u64 <= changes * window, "{unknown:?}");
    // Every line is either acknowledged or named.
    let acknowledged = report["acknowledged"].as_u64().unwrap();
    assert!(acknowledged + unknown.len() as u64 >= 10_000, "{report}");
    for unknown in unknown {
        assert!(unknown.as_str().unwrap().starts_with("line "));
    }
}

#[test]
fn demo_says_no_when_a_failover_takes_too_long() {
    // No failover takes no time at all.
    let output = coracle(&["demo", "--failover-max", "0ms", "--json"]);
    assert_eq!(output.status.code(), Some(1));
    let report: Value = serde_json::from_str(&stdout(&output)).unwrap();
    assert_eq!(report["good"], false);
    let faults = report["faults"].as_array().unwrap();
    let is_late = |fault: &Value| fault.as_str().unwrap().contains("more than 0 ms");
    assert!(faults.len() == 1 && is_late(&faults[0]), "{faults:?}");
}

#[test]
fn configuration_is_checked_and_its_effective_values_load_again() {
    let scratch = Scratch::new();
    let peer = "0=127.0.0.1:9000,127.0.0.1:9100";
    let dir = scratch.path("data");
    let flags = [
        "node", "--check", "--member", "0", "--dir", &dir, "--peer", peer,
    ];
    let effective = coracle(&flags);
    assert_eq!(effective.status.code(), Some(0));
    let file = scratch.path("node.toml");
    std::fs::write(&file, &effective.stdout).unwrap();
    let again = coracle(&["node", "--check", "--config", &file]);
    assert_eq!(stdout(&again), stdout(&effective));

    std::fs::write(
        &file,
        [&b"heart = \"1 s\"\n"[..], &effective.stdout].concat(),
    )
    .unwrap();
    let unknown = coracle(&["node", "--check", "--config", &file]);
    assert_eq!(unknown.status.code(), Some(2));
    assert!(stderr(&unknown).contains("heart"));
}

#[test]
fn a_directory_is_made_once_and_never_by_accident() {
    let scratch = Scratch::new();
    let dir = scratch.path("data");
    let peer = "0=127.0.0.1:9000,127.0.0.1:9100";
    let member = ["--member", "0", "--dir", &dir, "--peer", peer];
    let node = coracle(&[&["node"], &member[..]].concat());
    assert_eq!(node.status.code(), Some(3));
    assert!(stderr(&node).contains("coracle init"));
    assert!(!scratch.0.join("data").exists());
    let init = coracle(&[&["init"], &member[..]].concat());
    assert_eq!(init.status.code(), Some(0));
    let again = coracle(&[&["init"], &member[..]].concat());
    assert_eq!(again.status.code(), Some(3));
    let other = coracle(&[&["node"], &member[..], &["--cluster", "2"]].concat());
    assert_eq!(other.status.code(), Some(3));
    assert!(stderr(&other).contains("belongs to cluster 1"));
}

#[test]
fn a_member_whose_log_was_emptied_by_hand_is_not_started() {
    let scratch = Scratch::new();
    let log_lines = || std::fs::File::create(scratch.0.join("stderr")).unwrap();
    let (mut node, dir) = alone(&scratch, log_lines());
    until_it_leads(&mut node, &dir);
    drop(node);
    for file in std::fs::read_dir(format!("{dir}/log")).unwrap() {
        std::fs::remove_file(file.unwrap().path()).unwrap();
    }
    // Whether it is told to make a new directory or not.
    let (mut node, _) = alone(&scratch, log_lines());
    assert_eq!(node.0.wait().unwrap().code(), Some(3));
    let text = std::fs::read_to_string(scratch.0.join("stderr")).unwrap();
    assert!(text.contains("there is no log file in"), "{text}");
    assert!(text.contains("init --replace"), "{text}");
}

#[test]
fn no_directory_is_replaced_where_the_others_are_no_quorum() {
    let peers = ["0=127.0.0.1:9,127.0.0.1:10", "1=127.0.0.1:11,127.0.0.1:12"];
    for count in [1, 2] {
        let scratch = Scratch::new();
        let dir = scratch.path("data");
        let mut args = vec!["init", "--replace", "--member", "0", "--dir", &dir];
        for peer in &peers[..count] {
            args.extend(["--peer", peer]);
        }
        let refused = coracle(&args);
        let text = String::from_utf8_lossy(&refused.stderr);
        assert_eq!(refused.status.code(), Some(2), "{text}");
        assert!(text.contains("no quorum without the lost member"), "{text}");
        assert!(!std::path::Path::new(&dir).exists());
    }
}

#[test]
fn nobody_home_is_exit_code_5() {
    let port = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("0={}", port.local_addr().unwrap());
    drop(port);
    let status = coracle(&["status", "--endpoints", &endpoint, "--timeout-ms", "200"]);
    assert_eq!(status.status.code(), Some(5));
    let kv = coracle(&["kv", "--endpoints", &endpoint, "--timeout", "1", "get", "x"]);
    assert_eq!(kv.status.code(), Some(5));
    assert!(stderr(&kv).contains("no member answers"));
}

/// A process that does not outlive its test.
struct Node(Child);

impl Drop for Node {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// A node that is on its own, with its standard error going there.
fn alone(scratch: &Scratch, stderr: std::fs::File) -> (Node, String) {
    let sockets = [(); 2].map(|()| std::net::UdpSocket::bind("127.0.0.1:0").unwrap());
    let [member, ingress] = sockets.map(|socket| socket.local_addr().unwrap());
    let (dir, peer) = (scratch.path("data"), format!("0={member},{ingress}"));
    let node = Command::new(env!("CARGO_BIN_EXE_coracle"))
        .args(["node", "--init", "--member", "0", "--dir", &dir])
        .args(["--peer", &peer])
        .stderr(stderr)
        .spawn()
        .unwrap();
    (Node(node), dir)
}

fn until_it_leads(node: &mut Node, dir: &str) {
    let deadline = Instant::now() + Duration::from_secs(60);
    let leads = || {
        let local = stdout(&coracle(&["status", "--dir", dir, "--json"]));
        serde_json::from_str(&local).is_ok_and(|local: serde_json::Value| local["role"] == "leader")
    };
    while !leads() {
        assert_eq!(node.0.try_wait().unwrap(), None, "it has ended");
        assert!(Instant::now() < deadline, "nobody leads");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The disk for its log lines is full: what it keeps is elsewhere.
#[test]
fn a_node_whose_log_lines_cannot_be_written_goes_on_and_closes() {
    let scratch = Scratch::new();
    let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
    let (mut node, dir) = alone(&scratch, full);
    until_it_leads(&mut node, &dir);
    let process = rustix::process::Pid::from_child(&node.0);
    rustix::process::kill_process(process, rustix::process::Signal::TERM).unwrap();
    assert_eq!(node.0.wait().unwrap().code(), Some(0));
    // The same for what is asked for.
    let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
    let status = Command::new(env!("CARGO_BIN_EXE_coracle"))
        .args(["status", "--dir", &dir])
        .stdout(full.try_clone().unwrap())
        .stderr(full)
        .status();
    assert_eq!(status.unwrap().code(), Some(1));
}

#[test]
fn numbers_that_are_too_large_are_refused_and_not_stumbled_over() {
    let scratch = Scratch::new();
    let dir = scratch.path("data");
    let far = u64::MAX.to_string();
    for command in ["log", "replay"] {
        let output = coracle(&[command, "--dir", &dir, "--from", &far]);
        assert_eq!(output.status.code(), Some(2), "{command}");
    }
    // Nobody waits so long: that no member answers is seen at once.
    let nobody = "0=127.0.0.1:1";
    let args = ["snapshot", "--endpoints", nobody, "--timeout", &far];
    assert_eq!(coracle(&args).status.code(), Some(5));
}
