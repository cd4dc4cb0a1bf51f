//! Aeron's own cluster client, the Java class `AeronCluster`, with a cluster of ours.

use std::io::{BufRead, BufReader, Lines, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use super::{Cluster, Plan, root, until};

/// More than the session timeout of ten seconds.
const SILENCE_MS: u32 = 12_000;

/// Compiles the client with these jars, and goes through all that it can do; tells each step.
///
/// # Panics
/// If something is not as it should be.
pub fn check(jars: &str, mut tell: impl FnMut(&str)) {
    let classes = compile(jars);
    let mut plan = Plan::new();
    plan.extra.push_str("admin = \"allow\"\n");
    let mut cluster = Cluster::start("java", plan);
    let mut client = Client::start(jars, &classes, &cluster);
    let opened = client.next();
    assert!(opened.starts_with("open "), "{opened}");
    tell(&format!("a session is open: {opened}"));

    let first = cluster.leader();
    let leader = client.ask("leader");
    assert!(leader.starts_with(&format!("leader {first} ")), "{leader}");
    for (count, length) in [(20_000, 32), (2_000, 1_376), (500, 5_000), (20, 200_000)] {
        client.echo(count, length);
        tell(&format!(
            "{count} messages of {length} bytes came back as they were"
        ));
    }
    assert_eq!(client.ask(&format!("idle {SILENCE_MS}")), "idle");
    client.echo(100, 8);
    tell(&format!(
        "the session lived through {SILENCE_MS} ms of keep-alives"
    ));

    let answer = client.ask("snapshot");
    assert!(answer.starts_with("snapshot 7 OK"), "{answer}");
    for member in 0..3 {
        let folder = cluster.data(member).join("snapshot");
        until("a snapshot", || {
            let sets = coracle_std::storage::snapshots::positions(&folder).ok()?;
            (!sets.is_empty()).then_some(())
        });
    }
    tell("its admin request made every member store a snapshot");

    client.tell("echo 200000 32");
    std::thread::sleep(Duration::from_millis(300));
    cluster.kill(first);
    let echoed = client.next();
    let words: Vec<&str> = echoed.split(' ').collect();
    let [_, answered, _, lost] = words.as_slice() else {
        panic!("{echoed}");
    };
    let number = |text: &str| text.parse::<u64>().expect("a number");
    assert_eq!(number(answered) + number(lost), 200_000, "{echoed}");
    assert!(
        number(lost) <= 64,
        "no more than were on their way: {echoed}"
    );
    let second = client.ask("leader");
    let now = cluster.leader();
    assert_ne!(now, first);
    assert!(second.starts_with(&format!("leader {now} ")), "{second}");
    client.echo(1_000, 32);
    tell(&format!(
        "its leader was killed: {answered} of 200000 answered, {lost} were on their way; then \
         {second}"
    ));
    cluster.spawn(first);
    client.end();
    cluster.level();
    tell("the session is closed, the killed member level");
}

fn compile(jars: &str) -> PathBuf {
    let classes = root().join("target/peer-java");
    let mut javac = Command::new("javac");
    javac.args(["-cp", jars, "-d"]).arg(&classes);
    javac.arg(root().join("tests/peer/java/Client.java"));
    let done = javac.status();
    let is_compiled = done.as_ref().is_ok_and(std::process::ExitStatus::success);
    assert!(
        is_compiled,
        "tests/peer/java/Client.java does not compile ({done:?}): it needs a JDK (Debian: \
         default-jdk-headless) and Aeron's jars"
    );
    classes
}

/// The process of the client; it ends with this value.
struct Client {
    child: Child,
    input: Option<ChildStdin>,
    output: Lines<BufReader<ChildStdout>>,
}

impl Client {
    fn start(jars: &str, classes: &Path, cluster: &Cluster) -> Self {
        let mut java = Command::new("java");
        for module in ["jdk.internal.misc", "sun.nio.ch"] {
            java.args(["--add-opens", &format!("java.base/{module}=ALL-UNNAMED")]);
        }
        java.args(["-cp", &format!("{jars}:{}", classes.display()), "Client"])
            .arg(cluster.scratch().join("driver"))
            .arg(cluster.endpoints())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut child = java.spawn().expect("a Java runtime");
        let output = child.stdout.take().expect("it is a pipe");
        Self {
            input: child.stdin.take(),
            child,
            output: BufReader::new(output).lines(),
        }
    }

    fn tell(&mut self, line: &str) {
        let input = self.input.as_mut().expect("it is not closed");
        writeln!(input, "{line}").expect("the client listens");
    }

    #[track_caller]
    fn next(&mut self) -> String {
        let line = self
            .output
            .next()
            .expect("the client has ended; it said why above");
        line.expect("a line")
    }

    #[track_caller]
    fn ask(&mut self, line: &str) -> String {
        self.tell(line);
        self.next()
    }

    #[track_caller]
    fn echo(&mut self, count: u32, length: u32) {
        let echoed = self.ask(&format!("echo {count} {length}"));
        assert_eq!(echoed, format!("echoed {count} lost 0"));
    }

    #[track_caller]
    fn end(mut self) {
        self.input = None;
        assert_eq!(self.next(), "closed");
        let status = self.child.wait().expect("our own child");
        assert!(status.success(), "{status}");
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        // Ended already is fine too.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
