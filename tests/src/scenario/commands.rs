//! The commands of a story, one line each.
//!
//! ```text
//! cluster N [bounded | multicast]
//!                           N members with empty, initialised directories, all down; with logs of
//!                           eight segments at most and longer messages; with a group for the log
//! disk M T T T [in TERM]    member M's directory holds one record for each T, written in that term
//! start all | M..           processes start          crash all | M..       they are killed
//! power all | M..           their machines lose power
//! patient all | M..         their timeouts wait      eager all | M..       and go on
//! cut A B | cut A>B | heal  links
//! lose A>B K                the next K datagrams that A sends to all do not reach B
//! elect M                   the others are patient until M leads
//! wait MS                   time passes
//! leader                    time passes until a leader has committed in its term
//! level [M..]               time passes until all running ones have the same committed log
//! slow M.. | quick M..      their flushes hardly end, or do as before
//! stuck M..                 their flushes do not end before they are quick again
//! full M.. | roomy M..      snapshots that they take fail, or succeed again
//! propose K                 a client's K messages are committed and answered
//! offer K [to M]            a client sends K messages, nobody waits
//! resign M | transfer A B   graceful ends of a leadership
//! replay KIND A B           the last message of this kind from A to B arrives again
//! tell S arm C MS | tell S cancel C | tell S say K
//!                           a client tells service S to arm a timer, or to say K to all of them
//! stall M S.. | unstall M   these services of M take nothing, or all do
//! wall M MS                 M's wall clock jumps
//! snapshot M                M is asked for a snapshot
//! wipe M.. | rot M          M dies and its directory is emptied; its newest snapshot rots
//! rot-log M                 M is down, and a part of its log rots
//! roles | logs | said       what there is to see
//! sent                      bytes of log that were sent since: to all at once, and to one
//! heard | snapshots         what services have heard since; what is on the disks
//! ```

use super::{group, services};
use crate::sim::check::{Checked, Violation};
use crate::sim::clock::MILLI;
use crate::sim::member::Process;
use crate::sim::net::{Datagram, Door, member_address};
use crate::sim::plan::Plan;
use crate::sim::run::table;
use crate::sim::world::{What, World};
use coracle_core::service::Role;
use coracle_core::units::MemberId;

/// A story's cluster.
#[derive(Default)]
pub struct Stage {
    world: Option<World>,
}

pub(super) type Said = Result<String, String>;

impl Stage {
    /// Does what one line says and gives what it prints.
    pub fn perform(&mut self, line: &str) -> Said {
        let words: Vec<&str> = line.split_whitespace().collect();
        let (command, rest) = words.split_first().ok_or("no command")?;
        if *command == "cluster" {
            let members = number(rest.first().ok_or("how many?")?)?;
            let plan = match rest.get(1) {
                Some(&"bounded") => services::bounded(members),
                Some(&"multicast") => group::plan(members),
                _ => Plan::scripted(members),
            };
            self.world = Some(World::new(plan, 400));
            if let Some(world) = &mut self.world {
                world.is_scripted = true;
            }
            return Ok(String::new());
        }
        let world = self.world.as_mut().ok_or("no cluster yet")?;
        match *command {
            "disk" => disk(world, rest),
            "start" => each(world, rest, |w, m| w.start(m)),
            "crash" => each(world, rest, |w, m| w.crash(m, false)),
            "power" => each(world, rest, |w, m| w.crash(m, true)),
            "patient" => each(world, rest, |w, m| {
                w.members[m].is_patient = true;
                Ok(())
            }),
            "eager" => each(world, rest, |w, m| {
                w.members[m].is_patient = false;
                w.want_turn(m, 0);
                Ok(())
            }),
            "cut" => cut(world, rest),
            "heal" => {
                world.net.heal();
                Ok(String::new())
            }
            "wait" => wait(world, rest),
            "elect" => elect(world, rest),
            "leader" => leader(world),
            "slow" => each(world, rest, |w, m| {
                w.members[m].slow_until = u64::MAX;
                Ok(())
            }),
            "quick" => each(world, rest, |w, m| {
                w.members[m].slow_until = 0;
                w.members[m].is_disk_stuck = false;
                Ok(())
            }),
            "stuck" => each(world, rest, |w, m| {
                w.members[m].is_disk_stuck = true;
                Ok(())
            }),
            "full" | "roomy" => each(world, rest, |w, m| {
                w.members[m].full_until = if *command == "full" { u64::MAX } else { 0 };
                Ok(())
            }),
            "level" => level(world, rest),
            "propose" => propose(world, rest),
            "offer" => offer(world, rest),
            "resign" => resign(world, rest),
            "transfer" => transfer(world, rest),
            "replay" => replay(world, rest),
            "roles" => Ok(roles(world)),
            "logs" => Ok(logs(world)),
            "said" => Ok(std::mem::take(&mut world.said).concat()),
            "lose" => group::lose(world, rest),
            "sent" => Ok(group::sent(world)),
            _ => services::perform(world, command, rest),
        }
    }
}

pub(super) fn number(word: &str) -> Result<usize, String> {
    word.parse().map_err(|_| format!("{word} is no number"))
}

pub(super) fn members(world: &World, words: &[&str]) -> Result<Vec<usize>, String> {
    if words == ["all"] {
        return Ok((0..world.members.len()).collect());
    }
    words.iter().map(|w| member(world, w)).collect()
}

pub(super) fn member(world: &World, word: &str) -> Result<usize, String> {
    let member = number(word.trim_start_matches('n'))?;
    (member < world.members.len())
        .then_some(member)
        .ok_or_else(|| format!("no member {member}"))
}

fn two(world: &World, words: &[&str]) -> Result<(usize, usize), String> {
    match words {
        [a, b] => Ok((member(world, a)?, member(world, b)?)),
        _ => Err("two members are needed".into()),
    }
}

pub(super) fn text(violation: Violation) -> String {
    format!("{}: {}", violation.invariant, violation.detail)
}

pub(super) fn each(
    world: &mut World,
    words: &[&str],
    act: impl Fn(&mut World, usize) -> Checked,
) -> Said {
    for member in members(world, words)? {
        act(world, member).map_err(text)?;
    }
    Ok(String::new())
}

fn disk(world: &mut World, words: &[&str]) -> Said {
    let (first, rest) = words.split_first().ok_or("which member?")?;
    let member = member(world, first)?;
    let mut terms = Vec::new();
    let mut current = None;
    let mut words = rest.iter();
    while let Some(word) = words.next() {
        if *word == "in" {
            current = Some(number(words.next().ok_or("in which term?")?)? as u32);
        } else {
            terms.push(number(word)? as u32);
        }
    }
    let current = current.or(terms.last().copied()).unwrap_or(0);
    world.write_disk(member, &terms, current)?;
    Ok(String::new())
}

pub(super) fn one_way(world: &World, word: &str) -> Result<(u8, u8), String> {
    let (from, to) = word.split_once('>').ok_or("from whom > to whom?")?;
    Ok((member(world, from)? as u8, member(world, to)? as u8))
}

fn cut(world: &mut World, words: &[&str]) -> Said {
    if let [word] = words {
        let (from, to) = one_way(world, word)?;
        world.net.cut(from, to);
        return Ok(String::new());
    }
    let (a, b) = two(world, words)?;
    world.net.cut(a as u8, b as u8);
    world.net.cut(b as u8, a as u8);
    Ok(String::new())
}

pub(super) fn pass(world: &mut World, ms: u64) -> Result<(), String> {
    world.run_until(world.now + ms * MILLI).map_err(text)
}

fn wait(world: &mut World, words: &[&str]) -> Said {
    pass(world, number(words.first().ok_or("how long?")?)? as u64)?;
    Ok(String::new())
}

/// Lets time pass until `done`, at most ten seconds of it.
pub(super) fn until(
    world: &mut World,
    what: &str,
    done: impl Fn(&World) -> bool,
) -> Result<(), String> {
    for _ in 0..10_000 {
        if done(world) {
            return Ok(());
        }
        pass(world, 1)?;
    }
    Err(format!("no {what} within ten seconds\n{}", table(world)))
}

fn leads(world: &World, member: usize) -> bool {
    world.members[member].process.as_ref().is_some_and(|p| {
        p.node.role() == Role::Leader && world.checker.committed_in(p.node.joined().get())
    })
}

fn is_elected(world: &World, member: usize) -> bool {
    let process = world.members[member].process.as_ref();
    process.is_some_and(|p| p.node.role() == Role::Leader)
}

fn elect(world: &mut World, words: &[&str]) -> Said {
    let member = member(world, words.first().ok_or("whom?")?)?;
    let before: Vec<bool> = world.members.iter().map(|m| m.is_patient).collect();
    for (id, m) in world.members.iter_mut().enumerate() {
        m.is_patient = id != member;
    }
    until(world, "leadership", |w| is_elected(w, member))?;
    for (m, before) in world.members.iter_mut().zip(before) {
        m.is_patient = before;
    }
    Ok(who(world, member))
}

fn who(world: &World, member: usize) -> String {
    let term = world.members[member]
        .process
        .as_ref()
        .map(|p| p.node.joined());
    term.map_or_else(String::new, |term| format!("n{member} leads t{term}\n"))
}

fn leader(world: &mut World) -> Said {
    let any = |w: &World| (0..w.members.len()).find(|m| leads(w, *m));
    until(world, "leader", |w| any(w).is_some())?;
    Ok(any(world).map_or_else(String::new, |m| who(world, m)))
}

fn level(world: &mut World, words: &[&str]) -> Said {
    let wanted = members(world, if words.is_empty() { &["all"] } else { words })?;
    until(world, "level log", |w| {
        let mut shown = wanted.iter().filter_map(|m| {
            let node = &w.members[*m].process.as_ref()?.node;
            Some((
                node.joined(),
                node.status().appended,
                node.commit(),
                node.applied(),
            ))
        });
        let first = shown.next();
        first.is_some_and(|(_, end, commit, applied)| end == commit && commit == applied)
            && shown.all(|s| Some(s) == first)
    })?;
    Ok(String::new())
}

fn propose(world: &mut World, words: &[&str]) -> Said {
    let count = number(words.first().ok_or("how many?")?)? as u64;
    let wanted = world.client_wants(count)?;
    until(world, "answer", |w| w.clients[0].acknowledged >= wanted)?;
    Ok(String::new())
}

fn offer(world: &mut World, words: &[&str]) -> Said {
    let count = number(words.first().ok_or("how many?")?)? as u64;
    world.client_wants(count)?;
    Ok(String::new())
}

fn resign(world: &mut World, words: &[&str]) -> Said {
    let member = member(world, words.first().ok_or("who?")?)?;
    let now = world.members[member].clock.read(world.now);
    if let Some(process) = &mut world.members[member].process {
        process.node.resign(now);
    }
    world.want_turn(member, 0);
    Ok(String::new())
}

fn transfer(world: &mut World, words: &[&str]) -> Said {
    let (from, to) = two(world, words)?;
    let now = world.members[from].clock.read(world.now);
    let target = MemberId::new(to as u8).ok_or("no such member")?;
    let process = world.members[from].process.as_mut().ok_or("it is down")?;
    let refused = process.node.transfer(now, target).err();
    world.want_turn(from, 0);
    Ok(refused.map_or_else(String::new, |error| format!("refused: {error:?}\n")))
}

fn replay(world: &mut World, words: &[&str]) -> Said {
    let (kind, rest) = words.split_first().ok_or("which message?")?;
    let (from, to) = two(world, rest)?;
    let key = ((*kind).to_string(), from as u8, to as u8);
    let bytes = world.heard.get(&key).cloned().ok_or("there was none")?;
    let datagram = Datagram {
        from: member_address(from as u8, Door::Member),
        to: member_address(to as u8, Door::Member),
        bytes,
    };
    world.schedule(world.now, What::Deliver(datagram));
    pass(world, 20)?;
    Ok(String::new())
}

fn roles(world: &World) -> String {
    let role = |m: &crate::sim::member::Member| match &m.process {
        None => format!("n{} is down\n", m.id),
        Some(p) => {
            let status = p.node.status();
            let leader = match (status.role, status.leader) {
                (Role::Leader, _) => String::new(),
                (_, Some(leader)) => format!(", hears {leader:?}"),
                (_, None) => ", hears no leader".into(),
            };
            let role = format!("{:?}", status.role).to_lowercase();
            format!("n{} {role} in t{}{leader}\n", m.id, status.term)
        }
    };
    world.members.iter().map(role).collect()
}

/// The term of each record, with a bar behind what is known to be committed.
fn logs(world: &World) -> String {
    let mut text = String::new();
    for m in &world.members {
        let commit = m.process.as_ref().map_or(0, |p| p.node.commit().get());
        text.push_str(&format!("n{}:", m.id));
        let mut is_open = commit > 0;
        for row in world
            .checker
            .rows(m.id)
            .iter()
            .filter(|r| !r.pad && r.flags & 0x40 != 0)
        {
            if is_open && row.start >= commit {
                text.push_str(" |");
                is_open = false;
            }
            text.push_str(&format!(" {}", row.term));
        }
        text.push_str(if is_open { " |" } else { "" });
        let is_damaged = |p: &Process| p.node.healing().is_some();
        if m.process.as_ref().is_some_and(is_damaged) {
            text.push_str(", damaged");
        }
        text.push('\n');
    }
    text
}
