//! What a node refuses to start with: each refusal has its documented exit code, and says what to
//! do.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;

use coracle_std::crc::CRC32C;
use coracle_tests::process::{Cluster, Ended, Plan, run};
use rustix::process::Signal;

/// `coracle node` with this configuration, which must refuse to run.
fn node(config: &Path) -> Ended {
    run(["node".as_ref(), "--config".as_ref(), config.as_os_str()])
}

/// A single member that has run and has closed, with its configuration.
fn member_that_has_run(name: &str) -> Cluster {
    let mut plan = Plan::new();
    plan.members = 1;
    let mut cluster = Cluster::start(name, plan);
    cluster.signal(0, Signal::TERM);
    assert_eq!(cluster.wait(0).code(), Some(0), "{}", cluster.log(0));
    cluster
}

/// Rewrites the configuration file, with one piece of it replaced.
fn change(cluster: &Cluster, from: &str, to: &str) {
    let text = fs::read_to_string(cluster.config(0)).unwrap();
    assert!(text.contains(from), "{text}");
    fs::write(cluster.config(0), text.replace(from, to)).unwrap();
}

#[test]
fn an_empty_directory_without_init_explains_itself() {
    let cluster = Cluster::prepare("empty", Plan::new());
    node(&cluster.config(0)).expect(
        3,
        &["never initialised", "coracle init", "--init", "data-0"],
    );
    assert!(!cluster.data(0).exists(), "nothing was made");
}

#[test]
fn init_makes_a_directory_once() {
    let cluster = Cluster::prepare("init", Plan::new());
    let config = cluster.config(0);
    let init = || run(["init".as_ref(), "--config".as_ref(), config.as_os_str()]);
    let first = init();
    assert_eq!(first.code, Some(0), "{first:?}");
    assert!(
        first.out.contains("ready for member 0 of cluster 77"),
        "{first:?}"
    );
    init().expect(3, &["is not empty", "data-0"]);
}

#[test]
fn a_second_process_on_the_same_directory_is_refused() {
    let mut plan = Plan::new();
    plan.members = 1;
    let mut cluster = Cluster::start("second", plan);
    node(&cluster.config(0)).expect(3, &["in use by another process", "data-0"]);
    assert!(cluster.is_running(0), "the first goes on");
}

#[test]
fn an_address_in_use_is_refused() {
    let mut plan = Plan::new();
    plan.members = 1;
    let cluster = Cluster::start("address", plan);
    let other = cluster.scratch().join("other.toml");
    fs::write(
        &other,
        cluster.config_text(0, &cluster.scratch().join("other")),
    )
    .unwrap();
    let port = cluster.ports_of(0)[0].to_string();
    let args = [
        "node".as_ref(),
        "--init".as_ref(),
        "--config".as_ref(),
        other.as_os_str(),
    ];
    run(args).expect(4, &["127.0.0.1", &port]);
}

#[test]
fn a_name_without_an_address_is_refused() {
    let mut plan = Plan::new();
    plan.members = 1;
    plan.host = "no-such-host.invalid".into();
    let cluster = Cluster::prepare("name", plan);
    let config = cluster.config(0);
    let args = [
        "node".as_ref(),
        "--init".as_ref(),
        "--config".as_ref(),
        config.as_os_str(),
    ];
    run(args).expect(4, &["no-such-host.invalid", "has no address"]);
}

#[test]
fn the_directory_of_another_cluster_is_refused() {
    let cluster = member_that_has_run("foreign");
    change(&cluster, "cluster = 77", "cluster = 78");
    node(&cluster.config(0)).expect(3, &["node-state", "belongs to cluster 77", "78"]);
}

#[test]
fn the_directory_of_another_member_is_refused() {
    let mut cluster = Cluster::start("other", Plan::new());
    cluster.signal(1, Signal::TERM);
    cluster.wait(1);
    cluster.signal(0, Signal::TERM);
    cluster.wait(0);
    let text = cluster.config_text(0, &cluster.data(1));
    fs::write(cluster.config(0), text).unwrap();
    node(&cluster.config(0)).expect(3, &["node-state", "belongs to member 1", "says 0"]);
}

#[test]
fn the_log_of_another_cluster_under_this_members_state_is_refused() {
    let cluster = member_that_has_run("log");
    let mut plan = Plan::new();
    (plan.members, plan.cluster) = (1, 99);
    let mut other = Cluster::start("log-other", plan);
    other.kill(0);
    fs::remove_dir_all(cluster.data(0).join("log")).unwrap();
    fs::rename(other.data(0).join("log"), cluster.data(0).join("log")).unwrap();
    node(&cluster.config(0)).expect(3, &[".seg", "99", "77"]);
}

/// Replaces the version of a sector or label, and, if asked to, makes its checksum right again.
fn set_version(path: &Path, at: u64, version: u16, checksum_at: Option<u64>) {
    let file = fs::File::options()
        .read(true)
        .write(true)
        .open(path)
        .unwrap();
    file.write_all_at(&version.to_le_bytes(), at).unwrap();
    if let Some(checksum_at) = checksum_at {
        let start = checksum_at / 512 * 512;
        let mut covered = vec![0; (checksum_at - start) as usize];
        file.read_exact_at(&mut covered, start).unwrap();
        file.write_all_at(&CRC32C.of(&covered).to_le_bytes(), checksum_at)
            .unwrap();
    }
}

#[test]
fn a_newer_node_state_is_refused() {
    let cluster = member_that_has_run("newer-state");
    let path = cluster.data(0).join("node-state");
    for sector in [0, 512] {
        set_version(&path, sector + 4, 9, Some(sector + 508));
    }
    node(&cluster.config(0)).expect(3, &["node-state", "version 9", "newer program"]);
}

#[test]
fn a_newer_log_is_refused() {
    let cluster = member_that_has_run("newer-slot");
    let path = cluster.data(0).join("log/00000000000000000000.seg");
    for sector in [0, 512] {
        set_version(&path, sector + 4, 9, Some(sector + 508));
    }
    node(&cluster.config(0)).expect(3, &[".seg", "version 9", "newer program"]);

    let cluster = member_that_has_run("newer-label");
    let path = cluster.data(0).join("log/00000000000000000000.seg");
    set_version(&path, 1024 + 8, 9, None);
    node(&cluster.config(0)).expect(3, &[".seg", "version 9", "newer program"]);
}

#[test]
fn newer_counters_are_refused_by_who_reads_them() {
    let cluster = member_that_has_run("newer-counters");
    set_version(&cluster.data(0).join("counters"), 8, 9, None);
    let dir = cluster.data(0);
    for command in ["status", "tail"] {
        let ended = run([command.as_ref(), "--dir".as_ref(), dir.as_os_str()]);
        ended.expect(3, &["counters", "version 9", "newer program"]);
    }
}

#[test]
fn a_vote_that_cannot_be_read_is_not_forgotten() {
    let cluster = member_that_has_run("damaged");
    fs::write(cluster.data(0).join("node-state"), [0xA5; 1024]).unwrap();
    node(&cluster.config(0)).expect(3, &["node-state", "is damaged", "move", "--replace"]);
}

#[test]
fn unknown_keys_and_wrong_values_are_refused() {
    let mut plan = Plan::new();
    plan.members = 1;
    for (from, to, words) in [
        (
            "cluster = 77",
            "clutser = 77",
            &["clutser", "unknown field"][..],
        ),
        ("id = 0", "id = 0\nport = 1", &["port", "unknown field"]),
        ("member = 0", "member = 3", &["not among `members`"]),
        (
            "cluster = 77",
            "cluster = 77\nmtu = \"1000\"",
            &["mtu", "multiple of 32"],
        ),
        (
            "cluster = 77",
            "cluster = 77\nwindow = \"3MiB\"",
            &["window", "power of two"],
        ),
        (
            "cluster = 77",
            "cluster = 77\nidle = \"doze\"",
            &["doze", "sleep", "spin"],
        ),
    ] {
        let cluster = Cluster::prepare("wrong", plan.clone());
        change(&cluster, from, to);
        node(&cluster.config(0)).expect(2, words);
    }
    run(["node", "--config", "/no/such/file.toml"]).expect(2, &["/no/such/file.toml", "--config"]);
    run(["node"]).expect(2, &["--config node.toml"]);
    run(["nodes"]).expect(2, &["nodes"]);
}

#[test]
fn check_prints_a_file_that_says_the_same() {
    let cluster = Cluster::prepare("check", Plan::new());
    let check = |path: &Path| {
        let args = ["node", "--check", "--config"].map(AsRef::as_ref);
        let ended = run(args.into_iter().chain([path.as_os_str()]));
        assert_eq!(ended.code, Some(0), "{ended:?}");
        ended.out
    };
    let printed = check(&cluster.config(0));
    for key in [
        "cluster = 77",
        "segment_length = \"8",
        "durability = \"durable\"",
        "heartbeat",
    ] {
        assert!(printed.contains(key), "no `{key}` in {printed}");
    }
    let again = cluster.scratch().join("again.toml");
    fs::write(&again, &printed).unwrap();
    assert_eq!(check(&again), printed);
    assert!(!cluster.data(0).exists(), "nothing was made");
}

#[test]
fn who_asks_nobody_is_told_so() {
    let nobody = "0=127.0.0.1:9,1=127.0.0.1:10";
    let args = ["status", "--timeout-ms", "200", "--endpoints", nobody];
    run(args).expect(5, &["no member answers"]);
    run(["status"]).expect(2, &["--endpoints"]);
    run(["status", "--endpoints", "nonsense"]).expect(2, &["ID=HOST:PORT"]);
    run(["tail", "--dir", "/no/such/dir"]).expect(3, &["/no/such/dir"]);
}

#[test]
fn every_exit_code_is_documented() {
    let help = run(["--help"]).out;
    let codes = help.split("Exit codes:").nth(1).expect("they are listed");
    for code in ["0 ", "1 ", "2 ", "3 ", "4 ", "5 ", "130 "] {
        assert!(codes.contains(code), "{code} is not in {codes}");
    }
}
