//! The commands of a story that concern services, their state, and what is kept of it.

use coracle_core::node::SnapshotRefusal;

use super::commands::{Said, each, member, members, number, until};
use crate::sim::member::SEGMENT;
use crate::sim::mind::{Order, SERVICES};
use crate::sim::plan::{Plan, WorkPlan};
use crate::sim::snapshots::Damage;
use crate::sim::world::World;

/// Members whose logs are bounded, and a client that fills them.
pub fn bounded(members: usize) -> Plan {
    let plan = Plan::scripted(members);
    Plan {
        log_max: 8 * u64::from(SEGMENT),
        work: WorkPlan {
            message_max: 1000,
            ..plan.work
        },
        ..plan
    }
}

/// Does what one line says.
pub fn perform(world: &mut World, command: &str, rest: &[&str]) -> Said {
    match command {
        "tell" => tell(world, rest),
        "stall" => stall(world, rest),
        "unstall" => each(world, rest, |w, m| {
            w.members[m].stalled = [false; SERVICES];
            w.want_turn(m, 0);
            Ok(())
        }),
        "wall" => wall(world, rest),
        "snapshot" => snapshot(world, rest),
        "wipe" => each(world, rest, |w, m| {
            w.members[m].wipe_next = true;
            w.crash(m, false)
        }),
        "rot" => each(world, rest, |w, m| {
            w.members[m].damage = Damage::Newest;
            Ok(())
        }),
        "rot-log" => each(world, rest, |w, m| {
            w.members[m].damage = Damage::Log;
            Ok(())
        }),
        "heard" => Ok(world.checker.model.take_heard().concat()),
        "snapshots" => Ok(snapshots(world)),
        _ => Err("no such command".into()),
    }
}

fn tell(world: &mut World, words: &[&str]) -> Said {
    let [service, what, rest @ ..] = words else {
        return Err("whom and what?".into());
    };
    let argument = |at: usize| rest.get(at).map_or(Ok(0), |word| number(word));
    let order = Order {
        service: number(service)? as u8,
        what: *what.as_bytes().first().ok_or("what?")?,
        number: argument(0)? as u8,
        ms: argument(1)? as u16,
    };
    let client = world.clients.first_mut().ok_or("no client")?;
    client.orders.push_back(order.message());
    let wanted = world.client_wants(1)?;
    until(world, "answer", |w| w.clients[0].acknowledged >= wanted)?;
    Ok(String::new())
}

fn stall(world: &mut World, words: &[&str]) -> Said {
    let (first, services) = words.split_first().ok_or("which member?")?;
    let member = member(world, first)?;
    for service in services {
        let stalled = world.members[member].stalled.get_mut(number(service)?);
        *stalled.ok_or("no such service")? = true;
    }
    Ok(String::new())
}

fn wall(world: &mut World, words: &[&str]) -> Said {
    let [whose, ms] = words else {
        return Err("whose, and how far?".into());
    };
    let ms = ms.parse().map_err(|_| format!("{ms} is no number"))?;
    let member = member(world, whose)?;
    world.members[member].clock.step_wall(ms);
    Ok(String::new())
}

fn snapshot(world: &mut World, words: &[&str]) -> Said {
    let mut said = String::new();
    for member in members(world, words)? {
        let process = world.members[member].process.as_mut().ok_or("it is down")?;
        let asked: Result<(), SnapshotRefusal> = process.node.request_snapshot();
        if let Err(refusal) = asked {
            said.push_str(&format!("refused: {refusal:?}\n"));
        }
        world.want_turn(member, 0);
    }
    Ok(said)
}

/// The newest snapshots of each member, where its log starts, and what it has started from.
fn snapshots(world: &World) -> String {
    let mut text = String::new();
    for m in &world.members {
        let sets: Vec<String> = m.disk.snapshots().rev().map(|at| at.to_string()).collect();
        let sets = match sets.is_empty() {
            true => "none".into(),
            false => sets.join(" "),
        };
        text.push_str(&format!(
            "n{}: {sets}, log from {}",
            m.id,
            m.disk.log_start()
        ));
        text.push_str(&match m.loaded {
            Some(at) => format!(", began at {at}\n"),
            None => "\n".into(),
        });
    }
    text
}
