//! `cargo xtask java`: Aeron's own Java client with a cluster of ours.

use std::process::ExitCode;

use coracle_tests::process::{end_children_on_panic, java};

const HELP: &str = "\
java --aeron-classpath JARS

The Java class AeronCluster, as it is, with three processes of `coracle node`: one session through
messages of 8 to 200,000 bytes, twelve seconds with keep-alives alone, a snapshot by admin request,
the kill of its leader, and its end. Every echo is compared. JARS is a Java class path with Aeron
(aeron-all.jar, or aeron-client, aeron-driver, aeron-cluster, aeron-archive and agrona); it needs a
JDK as well (Debian: default-jdk-headless).
";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [flag, jars] = args.as_slice() else {
        eprint!("{HELP}");
        return ExitCode::from(2);
    };
    if flag != "--aeron-classpath" {
        eprint!("{HELP}");
        return ExitCode::from(2);
    }
    end_children_on_panic();
    java::check(jars, |line| println!("java: {line}"));
    ExitCode::SUCCESS
}
