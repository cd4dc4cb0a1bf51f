//! What was counted, as a table, and whether it is as it should be.

use std::collections::BTreeMap;

use super::table::{Counts, Kind, Table};

/// Whether the program is as it should be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Expect {
    /// It keeps to all limits.
    Within,
    /// It exceeds every one, by the copy that was planted.
    Beyond,
}

/// What a node is while it is counted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    Leader,
    Follower,
}

impl Role {
    fn name(self) -> &'static str {
        match self {
            Self::Leader => "leader",
            Self::Follower => "follower",
        }
    }
}

/// The longest message that is in one frame, with the usual datagrams of 1,408 bytes.
const WHOLE_MAX: usize = 1408 - 64;
/// How far a figure may be from what it should be: what was lost and sent again.
const MARGIN: f64 = 0.05;

/// What copies of payload are for, by the file that makes them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum What {
    /// Into the log's window: the one that has to be.
    Window,
    /// Of the echo service's answer into the client's stream: it is a message of its own.
    Answer,
    /// Anything else.
    Further,
}

impl What {
    fn of(place: &str) -> Self {
        let is = |files: &[&str]| files.iter().any(|file| place.starts_with(file));
        // The third is of frames that come ahead of others.
        if is(&[
            "core/src/log/append.rs:",
            "core/src/log/receive.rs:",
            "core/src/log/scan.rs:",
        ]) {
            Self::Window
        } else if is(&[
            "core/src/stream/publication.rs:",
            "core/src/stream/cutting.rs:",
        ]) {
            Self::Answer
        } else {
            Self::Further
        }
    }
}

/// What one node did for each byte of payload.
pub struct Found {
    role: Role,
    durability: String,
    len: usize,
    payload: f64,
    /// By the line that copies.
    places: Vec<(String, Counts)>,
    kinds: [Counts; 5],
}

impl Found {
    pub fn new(
        role: Role,
        durability: &str,
        len: usize,
        payload: u64,
        grown: &Table,
        names: &BTreeMap<u64, String>,
    ) -> Self {
        let mut lines: BTreeMap<&str, Counts> = BTreeMap::new();
        for (address, counts) in &grown.places {
            if let Some(name) = names.get(address) {
                lines.entry(name).or_default().add(*counts);
            }
        }
        let places = lines.into_iter().map(|(name, c)| (name.to_owned(), c));
        Self {
            role,
            durability: durability.to_owned(),
            len,
            payload: payload as f64,
            places: places.collect(),
            kinds: Kind::ALL.map(|kind| grown.of(kind)),
        }
    }

    /// How often payload was copied for that.
    fn copies(&self, what: What) -> f64 {
        let of_it = self
            .places
            .iter()
            .filter(|(name, _)| What::of(name) == what);
        of_it.map(|(_, counts)| counts.marked).sum::<u64>() as f64 / self.payload
    }

    /// What went through calls of a kind.
    fn moved(&self, kind: Kind) -> f64 {
        self.kinds[kind as usize].marked as f64 / self.payload
    }

    /// How many further copies there are, and why they have to be (docs/performance.md).
    fn allowed(&self) -> f64 {
        match (self.role, self.len > WHOLE_MAX) {
            (_, false) => 0.0,
            // Put together before it is in the log, so that no half message of a client that
            // stops stands in it; and for the service, which is handed it in one piece.
            (Role::Leader, true) => 2.0,
            (Role::Follower, true) => 1.0,
        }
    }

    /// What is wrong, if anything is.
    pub fn judge(&self, expect: Expect) -> Option<String> {
        let is = |found: f64, wanted: f64| (found - wanted).abs() <= MARGIN;
        let (window, further) = (self.copies(What::Window), self.copies(What::Further));
        let written = self.moved(Kind::Write);
        let (allowed, who) = (self.allowed(), self.who());
        if expect == Expect::Beyond {
            let is_found = further > allowed + 1.0 - MARGIN;
            return (!is_found).then(|| {
                format!("{who}: the planted copy was not found: {further:.3} further copies")
            });
        }
        if further > allowed + MARGIN {
            let places = self.further().join(", ");
            return Some(format!(
                "{who}: {further:.3} copies beside those into the window and to storage, of which \
                 {allowed} may be: {places}"
            ));
        }
        let answers = match self.role {
            Role::Leader => 1.0,
            Role::Follower => 0.0,
        };
        // Less than one would mean that not all is seen.
        let rest = [
            ("into the window", window, 1.0),
            ("to storage", written, 1.0),
            ("of answers", self.copies(What::Answer), answers),
        ];
        let odd = rest.iter().find(|(_, found, wanted)| !is(*found, *wanted));
        odd.map(|(what, found, wanted)| {
            format!("{who}: {found:.3} copies {what}, where {wanted} are to be")
        })
    }

    fn who(&self) -> String {
        let Self {
            role,
            durability,
            len,
            ..
        } = self;
        format!("{}, {len} B, {durability}", role.name())
    }

    /// The lines that make further copies of payload.
    fn further(&self) -> Vec<String> {
        let is_further = |(name, counts): &&(String, Counts)| {
            What::of(name) == What::Further && counts.marked as f64 > self.payload / 1000.0
        };
        let line = |(name, counts): &(String, Counts)| {
            format!("{name} ({:.3})", counts.marked as f64 / self.payload)
        };
        self.places.iter().filter(is_further).map(line).collect()
    }

    /// The lines that copy most, payload or not.
    pub fn print_places(&self) {
        println!(
            "{}, bytes for each of payload, and how many of it:",
            self.who()
        );
        let mut places: Vec<&(String, Counts)> = self.places.iter().collect();
        places.sort_by_key(|(_, counts)| std::cmp::Reverse(counts.bytes));
        for (name, counts) in places {
            let of = |bytes: u64| bytes as f64 / self.payload;
            if of(counts.bytes) >= 0.001 {
                let (bytes, marked) = (of(counts.bytes), of(counts.marked));
                println!("{bytes:>10.3}{marked:>8.3}  {name}");
            }
        }
    }
}

/// The table of `docs/performance.md`.
pub fn print_table(all: &[Found]) {
    println!("\nFor each byte of payload, copies in user space, and what system calls moved:");
    let heads = [
        "window",
        "further",
        "answer",
        "all bytes",
        "received",
        "sent",
        "stored",
        "read",
    ];
    print!("{:<7}{:<18}{:<10}", "bytes", "durability", "role");
    heads.iter().for_each(|head| print!("{head:>10}"));
    println!("{:>14}", "other writes");
    for found in all {
        let all_bytes: u64 = found.places.iter().map(|(_, counts)| counts.bytes).sum();
        let of = |bytes: u64| bytes as f64 / found.payload;
        let figures = [
            found.copies(What::Window),
            found.copies(What::Further),
            found.copies(What::Answer),
            of(all_bytes),
            found.moved(Kind::Receive),
            found.moved(Kind::Send),
            found.moved(Kind::Write),
            found.moved(Kind::Read),
        ];
        let role = found.role.name();
        print!("{:<7}{:<18}{role:<10}", found.len, found.durability);
        figures.iter().for_each(|figure| print!("{figure:>10.2}"));
        println!("{:>14.2}", of(found.kinds[Kind::Other as usize].bytes));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(role: Role, len: usize, places: &[(&str, u64)]) -> Found {
        let counts = |marked| Counts {
            calls: 1,
            bytes: marked,
            marked,
        };
        let places = places
            .iter()
            .map(|(name, n)| ((*name).to_owned(), counts(*n)));
        Found {
            role,
            durability: "durable".into(),
            len,
            payload: 1000.0,
            places: places.collect(),
            kinds: [counts(1000); 5],
        }
    }

    const WINDOW: (&str, u64) = ("core/src/log/receive.rs:96", 1000);

    #[test]
    fn one_copy_into_the_window_is_all_that_may_be() {
        let good = found(Role::Follower, 32, &[WINDOW]);
        assert_eq!(good.judge(Expect::Within), None);
        assert!(good.judge(Expect::Beyond).is_some());
        let third = found(Role::Follower, 32, &[WINDOW, ("core/src/x.rs:7", 1000)]);
        let said = third.judge(Expect::Within).unwrap();
        let words = "follower, 32 B, durable: 1.000 copies beside";
        assert!(
            said.starts_with(words) && said.ends_with("core/src/x.rs:7 (1.000)"),
            "{said}"
        );
        assert_eq!(third.judge(Expect::Beyond), None);
    }

    #[test]
    fn a_long_message_is_put_together_and_what_is_not_seen_is_an_error() {
        let assembled = ("core/src/log/messages.rs:94", 1000);
        let long = found(Role::Follower, 65_536, &[WINDOW, assembled]);
        assert_eq!(long.judge(Expect::Within), None);
        let said = found(Role::Follower, 32, &[])
            .judge(Expect::Within)
            .unwrap();
        assert!(said.contains("0.000 copies into the window"), "{said}");
        let said = found(Role::Leader, 32, &[WINDOW])
            .judge(Expect::Within)
            .unwrap();
        assert!(said.contains("of answers"), "{said}");
    }
}
