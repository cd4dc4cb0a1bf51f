//! A cluster of bare-metal nodes in QEMU's virtual machines: elected, written to, cut off, killed,
//! its log written round and round, and its disks read from outside.

use std::time::{Duration, Instant};

use crate::cluster::{Cluster, Kind, LOG_MAX};
use crate::disk::Contents;
use crate::host::{resident, run_time};
use crate::load::Load;
use crate::report::{Report, spread, time};
use crate::switch::Faults;
use crate::tools::{Arch, Service, check};
use crate::{disk, gateway, host, machine, snapshots, tools};

/// How an image ends that cannot start or go on.
const STOPPED: i32 = 3;

/// What is run.
#[derive(Clone, Debug)]
pub struct Options {
    /// The machines' processor.
    pub arch: Arch,
    /// One member is a process of this host.
    pub is_mixed: bool,
    /// Machines are started for another program.
    pub is_served: bool,
    /// How long a leader may be silent.
    pub leader_timeout: Duration,
    /// For the switch's faults.
    pub seed: u64,
    /// How long each of the idle and the faulty phases lasts.
    pub phase: Duration,
    /// How many round trips are measured.
    pub round_trips: usize,
}

/// Runs it all; says how it went on the way.
///
/// # Errors
/// What went wrong, with the consoles' last lines.
pub fn run(options: &Options) -> Result<Report, String> {
    let mut report = Report::default();
    let kinds = kinds(options, &mut report)?;
    let mut cluster = Cluster::prepare(&kinds, options)?;
    let result = phases(&mut cluster, options, &mut report);
    match result {
        Ok(()) => Ok(report),
        Err(error) => {
            let (table, last) = (cluster.table(), cluster.last_words());
            let kept = cluster.keep();
            Err(format!(
                "{error}\n{table}{last}kept for you: {}",
                kept.display()
            ))
        }
    }
}

/// Builds the images; gives what each member is.
fn kinds(options: &Options, report: &mut Report) -> Result<Vec<Kind>, String> {
    let mut archs = vec![options.arch];
    if options.is_mixed {
        let is_there = check(Arch::Riscv32).and_then(|()| tools::toolchain(Arch::Riscv32));
        match is_there {
            Ok(()) => archs.push(Arch::Riscv32),
            // In CI nothing is left out.
            Err(why) if std::env::var("CI").is_ok_and(|v| v == "true") => return Err(why),
            Err(why) => println!("both machines are {}: {why}", options.arch.name()),
        }
    }
    archs.dedup();
    // Before any machine is on: it takes long where it was not built yet.
    host::coracle()?;
    let mut images = Vec::new();
    for arch in archs {
        println!("building the {} image", arch.name());
        let image = tools::build(arch, Service::Kv)?;
        let size = tools::image_size(&image)?;
        report.add(
            &format!("image, {}", arch.name()),
            format!("{:.1} KiB of code and data", size as f64 / 1024.0),
        );
        images.push(Kind::Machine(arch, image));
    }
    let mut kinds: Vec<Kind> = images.iter().cycle().take(3).cloned().collect();
    if options.is_mixed {
        kinds[2] = Kind::Linux;
    }
    Ok(kinds)
}

fn phases(cluster: &mut Cluster, options: &Options, report: &mut Report) -> Result<(), String> {
    boot(cluster, report)?;
    idle(cluster, options.phase, report)?;
    let mut load = Load::new(&cluster.endpoints());
    let times = load.round_trips(options.round_trips)?;
    report.add("commit round trip", spread(&times));
    println!("commit round trip: {}", spread(&times));
    snapshots::ask_for_one(cluster, report)?;
    load.start();
    bad_network(cluster, &load, options.phase, report)?;
    partition(cluster, &load, options.phase, report)?;
    snapshots::go_round(cluster, &load, report)?;
    kill_leader(cluster, &load, report)?;
    snapshots::lose_a_disk(cluster, &load, report)?;
    load.stop();
    end(cluster, &load, report)
}

/// Starts everybody.
fn boot(cluster: &mut Cluster, report: &mut Report) -> Result<(), String> {
    let count = cluster.len();
    match cluster.start_blank()? {
        STOPPED => println!("a machine with a blank disk stops, as it should"),
        code => return Err(format!("a machine with a blank disk ends with {code}")),
    }
    for n in 0..count {
        cluster.start(n)?;
    }
    for n in (0..count)
        .filter(|n| cluster.is_machine(*n))
        .collect::<Vec<_>>()
    {
        let (took, up) = wait_up(cluster, n)?;
        let number = |key| up.number(key).unwrap_or_default();
        println!(
            "member {n} is up {} after QEMU's start; its own code took {} of that",
            time(took),
            time(Duration::from_micros(number("boot_us")))
        );
        if n == 0 {
            report.add("boot, from QEMU's start", time(took));
            let own = Duration::from_micros(number("boot_us"));
            report.add("boot, from the image's first code", time(own));
            let kib = |key| format!("{:.1} KiB", number(key) as f64 / 1024.0);
            report.add("static RAM: code, data, stack", kib("static"));
            report.add("of that one node with its board", kib("node"));
        }
    }
    let leader = cluster.leader(&[])?;
    cluster.level()?;
    println!(
        "member {leader} leads, and all are level:\n{}",
        cluster.table()
    );
    Ok(())
}

/// Waits until a machine's node is up. Until then it is asked for its address all the time: a card
/// that is not ready yet must not be upset by frames that are.
///
/// # Errors
/// As [`Cluster::until`].
pub fn wait_up(cluster: &mut Cluster, n: usize) -> Result<(Duration, machine::Words), String> {
    let question = gateway::question(cluster.address(n));
    cluster.until("a machine's start", |cluster| {
        for _ in 0..20 {
            cluster.switch.pass(cluster.len(), &question);
        }
        let machine = cluster.machine(n)?;
        let (at, words) = machine.console().up?;
        Some((at - machine.began, words))
    })
}

/// What it costs that nobody wants anything.
fn idle(cluster: &Cluster, phase: Duration, report: &mut Report) -> Result<(), String> {
    let machines = || (0..cluster.len()).filter_map(|n| cluster.machine(n));
    let used = || {
        machines()
            .map(|m| run_time(m.process()))
            .collect::<Result<Vec<_>, _>>()
    };
    let (before, began) = (used()?, Instant::now());
    std::thread::sleep(phase);
    let (after, passed) = (used()?, began.elapsed().as_secs_f64());
    let each = before
        .iter()
        .zip(&after)
        .map(|(b, a)| 100.0 * (a - b) / passed);
    let each: Vec<String> = each.map(|share| format!("{share:.1} %")).collect();
    let memory = machines()
        .map(|m| resident(m.process()))
        .collect::<Result<Vec<_>, _>>()?;
    let most = memory.iter().copied().fold(0.0, f64::max);
    println!("idle: {} of a processor, QEMU included", each.join(", "));
    report.add("idle CPU, QEMU included", each.join(", "));
    report.add("resident memory of QEMU, at most", format!("{most:.0} MiB"));
    Ok(())
}

/// Waits until so many more writes were acknowledged.
///
/// # Errors
/// They were not.
pub fn progress(cluster: &mut Cluster, load: &Load, more: usize) -> Result<(), String> {
    let wanted = load.record().acknowledged.len() + more;
    cluster.until("acknowledged writes", |_| {
        (load.record().acknowledged.len() >= wanted).then_some(())
    })
}

fn bad_network(
    cluster: &mut Cluster,
    load: &Load,
    phase: Duration,
    report: &mut Report,
) -> Result<(), String> {
    let before = load.record().acknowledged.len();
    cluster.switch.set_faults(Faults {
        loss: 30,
        duplicates: 30,
        delay: Duration::from_millis(3),
        cut_off: Vec::new(),
    });
    let began = Instant::now();
    progress(cluster, load, 50)?;
    std::thread::sleep(phase.saturating_sub(began.elapsed()));
    cluster.switch.set_faults(Faults::default());
    let count = load.record().acknowledged.len() - before;
    let traffic = cluster.switch.traffic();
    let line = format!(
        "{count} writes acknowledged in {}; {} frames lost, {} doubled, {} late",
        time(began.elapsed()),
        traffic.lost,
        traffic.doubled,
        traffic.delayed
    );
    println!("bad network: {line}\n{}", cluster.table());
    report.add("3 % loss, 3 % doubled, 0-3 ms late", line);
    Ok(())
}

/// Cuts the leader off from everybody: the others go on without it, and it comes back.
fn partition(
    cluster: &mut Cluster,
    load: &Load,
    phase: Duration,
    report: &mut Report,
) -> Result<(), String> {
    let old = machine_leads(cluster)?;
    cluster.switch.set_faults(Faults {
        cut_off: vec![old],
        ..Faults::default()
    });
    let cut = Instant::now();
    let new = cluster.leader(&[old])?;
    progress(cluster, load, 50)?;
    let gap = first_after(load, cut).unwrap_or_default();
    println!(
        "member {old} led and was cut off; member {new} leads:\n{}",
        cluster.table()
    );
    std::thread::sleep(phase.saturating_sub(cut.elapsed()));
    cluster.switch.set_faults(Faults::default());
    cluster.leader(&[])?;
    progress(cluster, load, 50)?;
    println!("the network is whole again:\n{}", cluster.table());
    report.add("leader cut off, next write answered", time(gap));
    Ok(())
}

/// How long after `moment` a write that was offered since then was answered.
fn first_after(load: &Load, moment: Instant) -> Option<Duration> {
    let record = load.record();
    let since = record
        .acknowledged
        .iter()
        .filter(|one| one.offered >= moment);
    let answered = since.map(|one| one.answered).min()?;
    Some(answered - moment)
}

/// Makes sure that the leader is a machine: a process of this host is killed and started again
/// until another member leads.
///
/// # Errors
/// As [`Cluster::until`].
pub fn machine_leads(cluster: &mut Cluster) -> Result<usize, String> {
    loop {
        let leader = cluster.leader(&[])?;
        if cluster.is_machine(leader) {
            return Ok(leader);
        }
        cluster.kill(leader);
        cluster.leader(&[leader])?;
        cluster.start(leader)?;
    }
}

/// Pulls the leader's plug, reads its disk, and switches it on again.
fn kill_leader(cluster: &mut Cluster, load: &Load, report: &mut Report) -> Result<(), String> {
    let leader = machine_leads(cluster)?;
    progress(cluster, load, 50)?;
    cluster.kill(leader);
    let killed = Instant::now();
    progress(cluster, load, 100)?;
    let gap = first_after(load, killed).ok_or("no write was answered after the kill")?;
    println!(
        "member {leader} led and was killed; a write was answered {} later",
        time(gap)
    );
    println!("{}", cluster.table());
    report.add("leader killed, next write answered", time(gap));
    // A leader acknowledges nothing that is not on its own disk.
    let (found, disk) = compare(cluster, leader, load, killed)?;
    let Contents {
        start,
        end,
        snapshot,
        ..
    } = disk;
    println!(
        "its disk has all {found} writes that were acknowledged by then; its log goes from {start} \
         to {end}, its snapshot is at {snapshot}"
    );
    report.add(
        "acknowledged writes on its disk",
        format!(
            "{found} of {found}, {} in the log, the rest in its snapshot",
            disk.in_log()
        ),
    );
    if end.since(start) > LOG_MAX {
        return Err(format!(
            "its log is longer than the {LOG_MAX} bytes it may be"
        ));
    }
    cluster.start(leader)?;
    let (took, up) = wait_up(cluster, leader)?;
    let number = |key| up.number(key).unwrap_or_default();
    let recovered = number("recovered");
    if recovered < end.get() {
        return Err(format!(
            "it recovered its log to {recovered}, and had it to {end}"
        ));
    }
    if start.get() == 0 || number("start") != start.get() || number("snapshot") != snapshot {
        return Err(format!("it did not start from its snapshot: {up:?}"));
    }
    cluster.leader(&[])?;
    progress(cluster, load, 50)?;
    let own = Duration::from_micros(up.number("recovery_us").unwrap_or_default());
    let line = format!(
        "up after {}, {} of it recovery of a snapshot at {snapshot} and a log to {recovered}",
        time(took),
        time(own)
    );
    println!("it is back: {line}\n{}", cluster.table());
    report.add("restart of the killed leader", line);
    Ok(())
}

/// Compares a disk with what had been acknowledged at `moment`: how many writes that was, and what
/// else is on the disk.
fn compare(
    cluster: &Cluster,
    n: usize,
    load: &Load,
    moment: Instant,
) -> Result<(usize, Contents), String> {
    let path = cluster.disk(n).ok_or("this member has no disk image")?;
    let contents = disk::read(path).map_err(|error| format!("the disk of member {n}: {error}"))?;
    let record = load.record();
    let acknowledged = record
        .acknowledged
        .iter()
        .filter(|one| one.answered <= moment);
    let mut count = 0;
    for one in acknowledged {
        count += 1;
        if !contents.has(one) {
            return Err(format!(
                "member {n} has lost {one:?}; its log goes from {} to {}, its snapshot is at {}",
                contents.start, contents.end, contents.snapshot
            ));
        }
    }
    match count {
        0 => Err("nothing was acknowledged".into()),
        _ => Ok((count, contents)),
    }
}

/// All level, all values as acknowledged, and the same on every disk.
fn end(cluster: &mut Cluster, load: &Load, report: &mut Report) -> Result<(), String> {
    let keys = load.read_back()?;
    let state = cluster.level()?;
    println!("all are level at {}:\n{}", state.applied, cluster.table());
    let machines: Vec<usize> = (0..cluster.len())
        .filter(|n| cluster.is_machine(*n))
        .collect();
    let (used, stack) = cluster.stack();
    let kib = |bytes: u64| bytes as f64 / 1024.0;
    let line = format!("{:.1} of {:.0} KiB", kib(used), kib(stack));
    report.add("stack used, at most", line.as_str());
    if 4 * used > 3 * stack {
        return Err(format!(
            "less than a quarter of a machine's stack is spare: {line}"
        ));
    }
    (0..cluster.len()).for_each(|n| cluster.kill(n));
    let mut total = 0;
    for n in machines {
        (total, _) = compare(cluster, n, load, Instant::now())?;
    }
    let record = load.record();
    if let Some(wrong) = record.wrong.first() {
        return Err(format!("an answer that no write should have: {wrong}"));
    }
    report.add(
        "in the end",
        format!(
            "{total} acknowledged writes on every disk, {keys} keys read back, {} writes of \
             unknown outcome, {} sessions",
            record.unknown, record.sessions
        ),
    );
    Ok(())
}
