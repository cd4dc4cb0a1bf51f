//! The rooms of `core`, and which may name which: imports only point down.

use super::source::{line_of, words};
use super::{File, Violation};

/// Rooms by floor. A room names rooms on lower floors only; on floor 0 also its neighbours.
const FLOORS: [&[&str]; 6] = [
    &[
        "units",
        "time",
        "prng",
        "limits",
        "planted",
        "castagnoli",
        "broken",
        "list",
    ],
    &["wire", "gaps", "timer", "lookup"],
    // A service writes and reads snapshots, so their bytes are on a floor of their own.
    &["snapshot"],
    &["raft", "log", "session", "service", "stream"],
    &["node", "client"],
    // What the compiler checks of all rooms; nothing names it.
    &["facts"],
];

/// What stands above all floors and may name everything.
const ROOF: [&str; 2] = ["lib", "facts"];

fn floor(room: &str) -> Option<usize> {
    FLOORS.iter().position(|rooms| rooms.contains(&room))
}

pub fn check(file: &File, found: &mut Vec<Violation>) {
    let Some(path) = file.path.strip_prefix("core/src/") else {
        return;
    };
    let room = path.split(['/', '.']).next().unwrap_or_default();
    if ROOF.contains(&room) {
        return;
    }
    let Some(own) = floor(room) else {
        let what = format!("`{room}` is on no floor");
        found.push(file.violation(1, what, "enter it in FLOORS in xtask/src/tidy/floors.rs"));
        return;
    };
    for (at, named) in named_rooms(&file.code, depth(path)) {
        let is_allowed = match floor(named) {
            None => true,
            Some(_) if named == room => true,
            Some(0) => true,
            Some(other) => other < own,
        };
        if !is_allowed {
            let what = format!("`{room}` names `{named}`, which is not on a lower floor");
            let fix = "move what both need down, or let `node` bring them together";
            found.push(file.violation(line_of(&file.code, at), what, fix));
        }
    }
}

/// How many `super`s lead from a file's module to the crate's root.
fn depth(path: &str) -> usize {
    let parts = path.split('/').count();
    parts - usize::from(path.ends_with("/mod.rs"))
}

/// The first part of every path from the crate's root, with its offset.
fn named_rooms(code: &str, depth: usize) -> Vec<(usize, &str)> {
    let mut named = Vec::new();
    for (at, word) in words(code) {
        let rest = match word {
            "crate" => &code[at + word.len()..],
            "super" => match climbs(&code[at..], depth) {
                Some(rest) => rest,
                None => continue,
            },
            _ => continue,
        };
        let Some(rest) = rest.trim_start().strip_prefix("::") else {
            continue;
        };
        let rest = rest.trim_start();
        match rest.strip_prefix('{') {
            Some(group) => named.extend(group_heads(group).map(|head| (at, head))),
            None => named.extend(words(rest).next().map(|(_, head)| (at, head))),
        }
    }
    named
}

/// What follows `depth` times `super`; none if there are fewer.
fn climbs(mut code: &str, depth: usize) -> Option<&str> {
    for n in 0..depth {
        if n > 0 {
            code = code.trim_start().strip_prefix("::")?.trim_start();
        }
        code = code.strip_prefix("super")?;
    }
    Some(code)
}

/// The first word of each member of `{a::b, c}`, given what follows the brace.
fn group_heads(group: &str) -> impl Iterator<Item = &str> {
    let (mut depth, mut start, mut heads) = (0, 0, Vec::new());
    for (at, c) in group.char_indices() {
        let is_end = c == '}' && depth == 0;
        if is_end || (c == ',' && depth == 0) {
            heads.push(&group[start..at]);
            start = at + 1;
        }
        match c {
            '}' if is_end => break,
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => {}
        }
    }
    heads
        .into_iter()
        .filter_map(|member| words(member).next().map(|(_, word)| word))
}

#[cfg(test)]
mod tests {
    use super::super::tests::violations;
    use super::check;

    fn count(path: &str, text: &str) -> usize {
        violations(path, text, check).len()
    }

    #[test]
    fn imports_point_down() {
        assert_eq!(count("core/src/raft/mod.rs", "use crate::units::Term;"), 0);
        assert_eq!(count("core/src/raft/mod.rs", "use crate::wire::x;"), 0);
        assert_eq!(count("core/src/units.rs", "use crate::limits::X;"), 0);
        assert_eq!(count("core/src/node/mod.rs", "use crate::raft::x;"), 0);
        assert_eq!(count("core/src/log/scan.rs", "use crate::log::x;"), 0);
        assert_eq!(count("tests/src/lib.rs", "use crate::node::x;"), 0);
        assert_eq!(count("core/src/lib.rs", "use crate::node::x;"), 0);
    }

    #[test]
    fn an_import_up_or_sideways_is_found_however_it_is_written() {
        assert_eq!(count("core/src/raft/mod.rs", "use crate::log::Log;"), 1);
        assert_eq!(count("core/src/wire/mod.rs", "use crate::raft::x;"), 1);
        assert_eq!(count("core/src/units.rs", "fn f(x: crate::wire::X) {}"), 1);
        let group = "use crate::{units::{Term, raft}, stream::{a, b}, session};";
        assert_eq!(count("core/src/log/scan.rs", group), 2);
        assert_eq!(
            count("core/src/log/scan.rs", "use super::super::raft::x;"),
            1
        );
        assert_eq!(count("core/src/log/scan.rs", "use super::raft::x;"), 0);
        assert_eq!(count("core/src/log/mod.rs", "use super::raft::x;"), 1);
    }

    #[test]
    fn a_room_without_a_floor_is_found() {
        assert_eq!(count("core/src/attic/mod.rs", ""), 1);
    }
}
