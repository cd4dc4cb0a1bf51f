//! The commands of a story that concern the log sent to all followers at once.

use super::commands::{Said, number, one_way};
use crate::sim::plan::Plan;
use crate::sim::world::World;

/// Members with a group for the log.
pub fn plan(members: usize) -> Plan {
    Plan {
        multicast: true,
        ..Plan::scripted(members)
    }
}

/// Datagrams to all that do not reach one.
pub fn lose(world: &mut World, words: &[&str]) -> Said {
    let [link, count] = words else {
        return Err("from whom > to whom, and how many?".into());
    };
    let (from, to) = one_way(world, link)?;
    world.net.lose(from, to, number(count)?);
    Ok(String::new())
}

/// Bytes of log that members have sent.
pub fn sent(world: &mut World) -> String {
    let [alone @ .., all] = world.net.take_log_sent();
    let mut text = format!("to all: {all}");
    for (member, bytes) in alone.iter().enumerate().filter(|(_, bytes)| **bytes > 0) {
        text.push_str(&format!(", to n{member} alone: {bytes}"));
    }
    text.push('\n');
    text
}
