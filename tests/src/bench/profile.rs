//! `bench --profile`: where processor time goes under the throughput load, by room of the code map.
//!
//! `perf` takes samples of the leader, of a follower and of this process, which is the client. What
//! the compiler has put into another function counts for that one.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use super::load::{Load, Shape, Wait};
use super::{Kind, Options, THREE};

/// As in the first throughput row.
const IN_FLIGHT: usize = 4096;
/// The longest datagram there.
const MTU: usize = 8192;
/// Samples a second: no multiple of what anything else does in a second.
const FREQUENCY: &str = "1997";
/// What takes less in all three is summed up.
const LEAST: f64 = 1.0;

/// Samples by room.
type Rooms = BTreeMap<String, u64>;

/// Measures, and prints a table.
///
/// # Errors
/// In words: `perf` is missing, or may not be used.
pub fn run(options: &Options) -> Result<(), String> {
    let kind = Kind { mtu: MTU, ..THREE };
    let cluster = kind.start();
    let leader = cluster.leader();
    let len = options.len.unwrap_or(32);
    let shape = Shape {
        wait: Wait::Yield,
        len,
        mtu: MTU,
    };
    let mut load = Load::open(&cluster.endpoints(), shape)?;
    load.flood(IN_FLIGHT, options.warm_up())?;
    let processes = [
        cluster.process(leader),
        cluster.process(u8::from(leader == 0)),
        std::process::id(),
    ];
    let path = |process: &u32| cluster.scratch().join(format!("perf-{process}"));
    let recording: Vec<Child> = processes
        .iter()
        .map(|process| record(*process, &path(process), options))
        .collect::<Result<_, _>>()?;
    // Until `perf` has ended by itself, and a little longer: it takes a while to begin.
    let echoed = load.flood(IN_FLIGHT, options.time * 2)?;
    for mut child in recording {
        let status = child.wait().map_err(|e| e.to_string())?;
        if !status.success() {
            return Err("`perf record` has failed: is `perf_event_paranoid` above 1?".into());
        }
    }
    let mut rooms = Vec::new();
    for process in &processes {
        rooms.push(fold(&script(&path(process))?));
    }
    println!(
        "profile: {len} B, replication-only, yield, datagrams of {MTU} B, {IN_FLIGHT} in flight; \
         {:.0} thousand echoes a second\nmeanwhile; percent of each process's samples\n",
        echoed.rate / 1000.0
    );
    print(&rooms);
    Ok(())
}

fn record(process: u32, path: &Path, options: &Options) -> Result<Child, String> {
    let mut perf = Command::new("perf");
    perf.args(["record", "-q", "-g", "-e", "cpu-clock", "-F", FREQUENCY])
        .args(["-p", &process.to_string(), "-o"])
        .arg(path)
        .args(["--", "sleep", &options.time.as_secs_f64().to_string()])
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    perf.spawn()
        .map_err(|e| format!("`perf` does not start: {e} (Debian: linux-perf)"))
}

fn script(path: &PathBuf) -> Result<String, String> {
    let mut perf = Command::new("perf");
    perf.args(["script", "--no-inline", "-F", "comm,ip,sym", "-i"]);
    let output = perf.arg(path).output().map_err(|e| e.to_string())?;
    match output.status.success() {
        true => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
        false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
    }
}

/// Samples by room: each is a name of a thread, then a line for each function, innermost first,
/// then an empty line.
fn fold(script: &str) -> Rooms {
    let mut rooms = Rooms::new();
    let mut stack: Vec<&str> = Vec::new();
    for line in script.lines().chain([""]) {
        match line.split_once(char::is_alphanumeric) {
            Some(("", _)) => stack.clear(),
            Some(_) => stack.push(symbol(line)),
            None if stack.is_empty() => {}
            None => {
                *rooms.entry(room(&stack)).or_default() += 1;
                stack.clear();
            }
        }
    }
    rooms
}

/// The name after the address.
fn symbol(line: &str) -> &str {
    let line = line.trim();
    line.split_once(' ').map_or("", |(_, name)| name)
}

/// Where a sample belongs: a system call with all that the kernel does for it, or the room of the
/// innermost function.
fn room(stack: &[&str]) -> String {
    let call = stack
        .iter()
        .find_map(|name| name.strip_prefix("__x64_sys_"));
    if let Some(call) = call {
        return format!("kernel: {call}");
    }
    let innermost = stack[0];
    for (package, name) in [
        ("coracle_core::", "core"),
        ("coracle_std::", "platform-std"),
        ("coracle_checksum::", "checksum"),
        ("coracle_tests::", "bench"),
    ] {
        if let Some((_, path)) = innermost.split_once(package) {
            let part = |text: &str| -> String {
                text.chars()
                    .take_while(|c| c.is_ascii_lowercase() || *c == '_')
                    .collect()
            };
            let first = part(path);
            let second = path.split_once("::").map(|(_, rest)| part(rest));
            return match (name, second) {
                ("checksum", _) => name.into(),
                (_, Some(second)) if first == "node" && !second.is_empty() => {
                    format!("{name}/{first}/{second}")
                }
                _ => format!("{name}/{first}"),
            };
        }
    }
    match innermost {
        name if name.contains("memmove") || name.contains("memcpy") => "copies (libc)".into(),
        name if name.contains("hdrhistogram") => "latency histogram".into(),
        name if stack.iter().any(|s| s.contains("do_syscall_64")) || name.starts_with("asm_") => {
            "kernel: other".into()
        }
        _ => "other".into(),
    }
}

fn print(all: &[Rooms]) {
    let totals: Vec<u64> = all.iter().map(|rooms| rooms.values().sum()).collect();
    let share = |rooms: &Rooms, name: &str, total: u64| {
        rooms.get(name).copied().unwrap_or(0) as f64 * 100.0 / total.max(1) as f64
    };
    let mut names: Vec<&String> = all.iter().flat_map(|rooms| rooms.keys()).collect();
    names.sort_unstable();
    names.dedup();
    let mut rows: Vec<(String, Vec<f64>)> = Vec::new();
    let mut rest = vec![0.0; all.len()];
    for name in names {
        let shares = all.iter().zip(&totals);
        let shares: Vec<f64> = shares.map(|(r, total)| share(r, name, *total)).collect();
        if shares.iter().all(|share| *share < LEAST) {
            rest.iter_mut()
                .zip(&shares)
                .for_each(|(sum, share)| *sum += share);
        } else {
            rows.push((name.clone(), shares));
        }
    }
    rows.sort_by(|a, b| b.1[0].total_cmp(&a.1[0]));
    rows.push(("all else".into(), rest));
    println!("| room | leader | follower | client |\n|---|---|---|---|");
    for (name, shares) in rows {
        let shares: Vec<String> = shares.iter().map(|share| format!("{share:.1}")).collect();
        println!("| {name} | {} |", shares.join(" | "));
    }
    println!(
        "| samples | {} | {} | {} |",
        totals[0], totals[1], totals[2]
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    const SCRIPT: &str = "\
coracle 
\t    5561 coracle_core::node::apply::<impl coracle_core::node::Node<_,_>>::poll_services
\t    5562 main

coracle 
\tffffff01 _copy_to_iter
\tffffff02 __x64_sys_sendmmsg
\tffffff03 do_syscall_64

coracle 
\t    7f01 __memmove_avx512_unaligned_erms

coracle 
\t    5563 <coracle_core::service::echo::Echo as coracle_core::service::Service>::digest
\t    5561 coracle_core::node::apply::<impl coracle_core::node::Node<_,_>>::poll_services
";

    #[test]
    fn a_sample_is_its_system_call_s_or_its_innermost_room_s() {
        let rooms = fold(SCRIPT);
        let expected = [
            ("copies (libc)", 1),
            ("core/node/apply", 1),
            ("core/service", 1),
            ("kernel: sendmmsg", 1),
        ];
        assert_eq!(rooms, expected.map(|(room, n)| (room.to_owned(), n)).into());
    }
}
