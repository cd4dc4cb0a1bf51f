//! How much stack a function needs, by the frames that the compiler has made: its own, and the
//! deepest of what it calls. Read from objects that were built with `-Zemit-stack-sizes`.
//!
//! An object has one section for each function, and relocations for what that names. Whatever
//! function is named counts as called. What is not seen is what is called through a table (a
//! service, a writer), and the frames of libraries that were built without those sizes.

use std::collections::HashMap;

const RELA: u32 = 4;
const REL: u32 = 9;
const SYMBOLS: u32 = 2;
const EXECUTABLE: u32 = 4;
const UNDEFINED: usize = 0;

/// A function is a section of an object.
type Function = (usize, usize);

/// What is known of a number of objects.
#[derive(Default)]
pub struct Frames {
    objects: usize,
    sizes: HashMap<Function, u64>,
    calls: HashMap<Function, Vec<Called>>,
    named: HashMap<String, Function>,
}

enum Called {
    Here(Function),
    Elsewhere(String),
}

struct Section {
    kind: u32,
    flags: u32,
    at: usize,
    len: usize,
    link: usize,
    info: usize,
    name: usize,
}

struct Symbol {
    name: String,
    section: usize,
}

impl Frames {
    /// Takes all objects of a library. False if it is none.
    pub fn add_library(&mut self, bytes: &[u8]) -> bool {
        let Some(mut rest) = bytes.strip_prefix(b"!<arch>\n") else {
            return false;
        };
        while let Some((header, behind)) = rest.split_first_chunk::<60>() {
            let len = std::str::from_utf8(&header[48..58]);
            let Some(len) = len.ok().and_then(|len| len.trim().parse::<usize>().ok()) else {
                return false;
            };
            let Some(member) = behind.get(..len) else {
                return false;
            };
            if member.starts_with(b"\x7fELF\x01\x01") {
                // What is no object after all has no functions.
                let _is_read = self.add_object(member).is_some();
            }
            rest = behind.get(len.next_multiple_of(2)..).unwrap_or_default();
        }
        true
    }

    fn add_object(&mut self, file: &[u8]) -> Option<()> {
        self.objects += 1;
        let object = self.objects;
        let sections = sections(file)?;
        let table = sections.iter().find(|s| s.kind == SYMBOLS)?;
        let symbols = symbols(file, table, sections.get(table.link)?)?;
        let is_code = |n: usize| sections.get(n).is_some_and(|s| s.flags & EXECUTABLE != 0);
        for symbol in &symbols {
            if !symbol.name.is_empty() && is_code(symbol.section) {
                self.named
                    .insert(symbol.name.clone(), (object, symbol.section));
            }
        }
        let names = sections.get(half(file, 50)?)?;
        for relocations in sections.iter().filter(|s| matches!(s.kind, REL | RELA)) {
            let of = sections.get(relocations.info)?;
            let is_sizes = name(file, names, of.name)? == ".stack_sizes";
            let step = if relocations.kind == REL { 8 } else { 12 };
            for entry in (0..relocations.len).step_by(step) {
                let at = relocations.at + entry;
                let place = word(file, at)?;
                let symbol = symbols.get(word(file, at + 4)? >> 8)?;
                if is_sizes && is_code(symbol.section) {
                    let size = number(file.get(of.at + place + 4..)?)?;
                    self.sizes.insert((object, symbol.section), size);
                } else if is_code(relocations.info) {
                    let called = match symbol.section {
                        UNDEFINED => Called::Elsewhere(symbol.name.clone()),
                        section if is_code(section) => Called::Here((object, section)),
                        _ => continue,
                    };
                    let caller = (object, relocations.info);
                    self.calls.entry(caller).or_default().push(called);
                }
            }
        }
        Some(())
    }

    /// The stack that the function needs whose mangled name has `part` in it, and the frames on the
    /// way to where it is deepest. None if there is no such function, or it has no size.
    pub fn deepest(&self, part: &str) -> Option<Vec<(u64, &str)>> {
        let (_, root) = self
            .named
            .iter()
            .find(|(name, function)| name.contains(part) && self.sizes.contains_key(function))?;
        let mut known = HashMap::new();
        self.walk(*root, &mut known);
        let names: HashMap<_, _> = self.named.iter().map(|(n, f)| (*f, n.as_str())).collect();
        let mut way = Vec::new();
        let mut next = Some(*root);
        while let Some(function) = next {
            let size = self.sizes.get(&function).copied().unwrap_or(0);
            way.push((size, names.get(&function).copied().unwrap_or("?")));
            next = known.get(&function).and_then(|(_, next)| *next);
        }
        Some(way)
    }

    fn walk(&self, at: Function, known: &mut HashMap<Function, (u64, Option<Function>)>) -> u64 {
        if let Some((depth, _)) = known.get(&at) {
            return *depth;
        }
        // Whoever comes back here goes round: no deeper.
        known.insert(at, (0, None));
        let (mut below, mut next) = (0, None);
        for called in self.calls.get(&at).into_iter().flatten() {
            let function = match called {
                Called::Here(function) => Some(function),
                Called::Elsewhere(name) => self.named.get(name),
            };
            let Some(function) = function.filter(|f| **f != at) else {
                continue;
            };
            let depth = self.walk(*function, known);
            if depth > below {
                (below, next) = (depth, Some(*function));
            }
        }
        let depth = self.sizes.get(&at).copied().unwrap_or(0) + below;
        known.insert(at, (depth, next));
        depth
    }
}

fn sections(file: &[u8]) -> Option<Vec<Section>> {
    let (at, each, count) = (word(file, 32)?, half(file, 46)?, half(file, 48)?);
    let section = |n: usize| {
        let field = |n_th: usize| word(file, at + n * each + 4 * n_th);
        Some(Section {
            name: field(0)?,
            kind: field(1)? as u32,
            flags: field(2)? as u32,
            at: field(4)?,
            len: field(5)?,
            link: field(6)?,
            info: field(7)?,
        })
    };
    (0..count).map(section).collect()
}

fn symbols(file: &[u8], table: &Section, names: &Section) -> Option<Vec<Symbol>> {
    let symbol = |entry: usize| {
        let at = table.at + entry;
        Some(Symbol {
            name: name(file, names, word(file, at)?)?.to_owned(),
            section: half(file, at + 14)?,
        })
    };
    (0..table.len).step_by(16).map(symbol).collect()
}

fn name<'f>(file: &'f [u8], names: &Section, at: usize) -> Option<&'f str> {
    let bytes = file.get(names.at + at..names.at + names.len)?;
    let end = bytes.iter().position(|byte| *byte == 0)?;
    std::str::from_utf8(&bytes[..end]).ok()
}

fn word(file: &[u8], at: usize) -> Option<usize> {
    let bytes = file.get(at..)?.first_chunk()?;
    Some(u32::from_le_bytes(*bytes) as usize)
}

fn half(file: &[u8], at: usize) -> Option<usize> {
    let bytes = file.get(at..)?.first_chunk()?;
    Some(u16::from_le_bytes(*bytes).into())
}

/// A number in groups of seven bits, the lowest first (LEB128).
fn number(bytes: &[u8]) -> Option<u64> {
    let mut value = 0;
    for (n, byte) in bytes.iter().take(9).enumerate() {
        value |= u64::from(byte & 0x7f) << (7 * n);
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_deepest_way_counts_and_a_circle_ends() {
        let mut frames = Frames::default();
        let [a, b, c, d] = [(1, 1), (1, 2), (2, 1), (2, 2)];
        frames.sizes = HashMap::from([(a, 100), (b, 10), (c, 20), (d, 300)]);
        let elsewhere = |name: &str| Called::Elsewhere(name.to_owned());
        frames.calls = HashMap::from([
            (
                a,
                vec![Called::Here(b), elsewhere("c"), elsewhere("memcpy")],
            ),
            (b, vec![elsewhere("d")]),
            (c, vec![Called::Here(c)]),
            (d, vec![elsewhere("a")]),
        ]);
        let named = [("a", a), ("b", b), ("c", c), ("d", d)];
        frames.named = named.map(|(n, f)| (n.to_owned(), f)).into();
        let way = frames.deepest("a").unwrap();
        assert_eq!(way, [(100, "a"), (10, "b"), (300, "d")]);
        assert_eq!(frames.deepest("nobody"), None);
    }

    #[test]
    fn numbers_have_groups_of_seven_bits() {
        assert_eq!(number(&[0x08]), Some(8));
        assert_eq!(number(&[0xe8, 0x2c]), Some(5736));
        assert_eq!(number(&[0x80]), None);
        assert!(!Frames::default().add_library(b"no library"));
    }
}
