//! A log that is written round and round, and a disk that is lost.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use crate::cluster::{Cluster, LOG_MAX};
use crate::host;
use crate::load::Load;
use crate::report::{Report, time};
use crate::run::{machine_leads, progress, wait_up};
use crate::state::State;

/// How often the log's length goes through it.
const TIMES: u64 = 2;

/// An operator asks for a snapshot, while nothing else would bring one about: every member must
/// have stored one of what was committed when asked, all at one position, and the command must say
/// of each what the member's console says.
///
/// # Errors
/// The cluster refuses, or the answer is not what the members say.
pub fn ask_for_one(cluster: &mut Cluster, report: &mut Report) -> Result<(), String> {
    let leader = machine_leads(cluster)?;
    let committed = cluster.level()?.committed;
    let before = cluster.until("everybody's word", states)?;
    let newest = before.iter().map(|s| s.snapshot).max().unwrap_or_default();
    let began = Instant::now();
    let answer = host::snapshot(&cluster.endpoints())?;
    let took = began.elapsed();
    let said: Vec<u64> = answer["members"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|one| one["stored"].as_bool()?.then(|| one["snapshot"].as_u64())?)
        .collect();
    let at = said.first().copied().unwrap_or_default();
    if said != vec![at; cluster.len()] || at < committed || at <= newest {
        return Err(format!(
            "asked at {committed}, with {newest} there: {answer}"
        ));
    }
    cluster.until("consoles that name the snapshot", |cluster| {
        let all = states(cluster)?;
        all.iter().all(|state| state.snapshot == at).then_some(())
    })?;
    let line = format!("all stored it at {at}, {} after the question", time(took));
    println!(
        "`coracle snapshot`, member {leader} leads: {line}\n{}",
        cluster.table()
    );
    report.add("a snapshot that was asked for", line);
    Ok(())
}

/// How all of them are.
fn states(cluster: &Cluster) -> Option<Vec<State>> {
    (0..cluster.len()).map(|n| cluster.state(n)).collect()
}

/// Writes more than the log may hold: members take snapshots by themselves, and give up what is
/// below them.
///
/// # Errors
/// The log grows beyond its bound, or stands still.
pub fn go_round(cluster: &mut Cluster, load: &Load, report: &mut Report) -> Result<(), String> {
    let before = cluster.until("everybody's word", states)?;
    let before = before.iter().map(|s| s.appended).max().unwrap_or_default();
    let began = Instant::now();
    load.set_fast(true);
    let mut most = 0;
    let ends = cluster.until("a log that was written twice", |cluster| {
        let all = states(cluster)?;
        let lengths = all.iter().map(|s| s.appended.saturating_sub(s.start));
        most = most.max(lengths.max()?);
        let is_round = |committed: u64| committed >= before + TIMES * LOG_MAX;
        (most > LOG_MAX || all.iter().all(|s| is_round(s.committed))).then_some(all)
    })?;
    load.set_fast(false);
    progress(cluster, load, 50)?;
    let through = ends.iter().map(|s| s.committed).min().unwrap_or_default() - before;
    let line = format!(
        "{} KiB went through a log of {} KiB in {}; no member kept more than {} KiB",
        through >> 10,
        LOG_MAX >> 10,
        time(began.elapsed()),
        most >> 10
    );
    println!("the log went round: {line}\n{}", cluster.table());
    report.add("log, and what went through it", line);
    // Nothing of what was there before can be left, as that is longer ago than a log is long.
    let has_purged = ends.iter().all(|s| s.start > before && s.snapshot > before);
    match most <= LOG_MAX && has_purged {
        true => Ok(()),
        false => Err(format!("logs of {most} bytes: {ends:?}")),
    }
}

/// A follower's disk is lost: it gets a new one, which is empty, and what was in the log at the
/// beginning nobody has any more. So it is sent a snapshot, and counts again when it is level.
///
/// # Errors
/// It does not come back.
pub fn lose_a_disk(cluster: &mut Cluster, load: &Load, report: &mut Report) -> Result<(), String> {
    let leader = cluster.leader(&[])?;
    let mut followers = (0..cluster.len()).filter(|n| *n != leader);
    let lost = followers.find(|n| cluster.is_machine(*n));
    let lost = lost.ok_or("no follower is a machine")?;
    let number = SystemTime::now().duration_since(UNIX_EPOCH);
    let number = number.map_err(|e| e.to_string())?.as_nanos() as u64;
    cluster.kill(lost);
    cluster.replace_disk(lost, number)?;
    progress(cluster, load, 50)?;
    cluster.start(lost)?;
    let began = Instant::now();
    let (_, up) = wait_up(cluster, lost)?;
    if [up.number("recovered"), up.number("snapshot")] != [Some(0); 2] {
        return Err(format!("the new disk is not empty: {up:?}"));
    }
    let state = cluster.until("a member with a new disk that counts again", |cluster| {
        let state = cluster.state(lost)?;
        (state.votes && state.start > 0 && state.snapshot > 0).then_some(state)
    })?;
    let line = format!(
        "counts again after {}, with a snapshot of {} and the log above",
        time(began.elapsed()),
        state.start
    );
    println!("member {lost} lost its disk: {line}\n{}", cluster.table());
    report.add("a follower's disk lost, a new one", line);
    progress(cluster, load, 50)
}
