//! The commands that talk to a cluster: `send` and `kv`.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use coracle_tests::process::{Cluster, Ended, Plan, coracle, run, until};
use serde_json::Value;

#[test]
fn send_prints_every_answer_in_order() {
    let cluster = Cluster::start("send", Plan::patient());
    let lines: String = (0..3000)
        .map(|n| format!("{n} {}\n", "y".repeat(n % 900)))
        .collect();
    let file = cluster.scratch().join("lines");
    std::fs::write(&file, &lines).unwrap();
    let endpoints = cluster.endpoints();
    let ended = run([
        "send".as_ref(),
        "--timeout".as_ref(),
        "60".as_ref(),
        "--endpoints".as_ref(),
        endpoints.as_ref(),
        "--file".as_ref(),
        file.as_os_str(),
    ]);
    assert_eq!(ended.code, Some(0), "{}", ended.err);
    assert!(ended.out == lines, "the answers are not the lines");

    // The same from standard input.
    let mut command = Command::new(coracle());
    command.args(["send", "--timeout", "60", "--endpoints", &endpoints]);
    command.stdin(std::fs::File::open(&file).unwrap());
    let ended = Ended::from(command.output().unwrap());
    assert_eq!(ended.code, Some(0), "{}", ended.err);
    assert!(ended.out == lines, "the answers are not the lines");
    let nobody = "0=127.0.0.1:9";
    let args = ["send", "--timeout", "1", "--endpoints", nobody];
    run(args).expect(5, &["no member answers"]);
    run(["send", "--file", "/no/such/file", "--endpoints", nobody]).expect(2, &["/no/such/file"]);
}

fn kv_cluster(name: &str) -> Cluster {
    let mut plan = Plan::new();
    plan.extra = "service = \"kv\"\n".into();
    Cluster::start(name, plan)
}

fn kv(cluster: &Cluster, args: &[&str]) -> Ended {
    let endpoints = cluster.endpoints();
    let first = ["kv", "--timeout", "60", "--endpoints", &endpoints];
    run(first.into_iter().chain(args.iter().copied()))
}

#[test]
fn kv_writes_reads_compares_and_deletes() {
    let mut cluster = kv_cluster("kv");
    kv(&cluster, &["get", "colour"]).expect(1, &["colour"]);
    assert_eq!(kv(&cluster, &["put", "colour", "blue"]).code, Some(0));
    let got = kv(&cluster, &["get", "colour"]);
    assert_eq!((got.code, got.out.as_str()), (Some(0), "blue\n"), "{got:?}");

    let got = kv(&cluster, &["get", "colour", "--json"]);
    let got: Value = serde_json::from_str(&got.out).unwrap();
    let version = got["version"].as_u64().unwrap().to_string();
    let stale = kv(&cluster, &["cas", "colour", "0", "red"]);
    assert_eq!(stale.code, Some(1), "{stale:?}");
    let swapped = kv(&cluster, &["cas", "colour", &version, "green"]);
    assert_eq!(swapped.code, Some(0), "{swapped:?}");

    // What was written outlives its leader.
    let leader = cluster.leader();
    cluster.kill(leader);
    cluster.spawn(leader);
    assert_eq!(kv(&cluster, &["get", "colour"]).out, "green\n");
    assert_eq!(kv(&cluster, &["delete", "colour"]).code, Some(0));
    assert_eq!(kv(&cluster, &["get", "colour"]).code, Some(1));
    kv(&cluster, &["get", ""]).expect(2, &["a key has 1 to"]);
    cluster.level();
}

#[test]
fn kv_watch_tells_of_every_change() {
    let cluster = kv_cluster("watch");
    let mut command = Command::new(coracle());
    command.args(["kv", "--json", "--timeout", "60"]);
    command.args(["--endpoints", &cluster.endpoints()]);
    command.args(["watch", "--prefix", "orders/"]);
    let mut watch = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(watch.stdout.take().unwrap()).lines();
    // The answer to the request itself: from here on, nothing is missed.
    let first = lines.next().unwrap().unwrap();
    for key in ["orders/1", "others/2", "orders/3"] {
        assert_eq!(kv(&cluster, &["put", key, "new"]).code, Some(0));
    }
    for key in ["orders/1", "orders/3"] {
        let line = lines.next().unwrap().unwrap();
        assert!(
            line.contains(key),
            "{key} is not in {line}; first was {first}"
        );
    }
    watch.kill().unwrap();
    watch.wait().unwrap();
    until("the watch's session to be closed", || {
        let all = cluster.status();
        all.iter().all(|m| m["sessions"] == 0).then_some(())
    });
}
