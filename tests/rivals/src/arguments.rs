//! The command line: words that follow a flag, in any order.

use std::time::Duration;

use crate::wire::Wait;

/// What is not taken yet.
#[derive(Debug)]
pub struct Arguments(Vec<String>);

impl Arguments {
    /// All of them.
    pub fn new(words: Vec<String>) -> Self {
        Self(words)
    }

    /// The first word.
    pub fn next(&mut self) -> Option<String> {
        (!self.0.is_empty()).then(|| self.0.remove(0))
    }

    /// The word behind a flag.
    pub fn optional(&mut self, flag: &str) -> Option<String> {
        let at = self.0.iter().position(|word| word == flag)?;
        if at + 1 >= self.0.len() {
            return None;
        }
        self.0.remove(at);
        Some(self.0.remove(at))
    }

    /// The same, which must be there.
    pub fn word(&mut self, flag: &str) -> Result<String, String> {
        self.optional(flag)
            .ok_or_else(|| format!("{flag} needs a word"))
    }

    /// A number behind a flag.
    pub fn number<N: std::str::FromStr>(&mut self, flag: &str) -> Result<N, String> {
        let word = self.word(flag)?;
        word.parse()
            .map_err(|_| format!("{flag}: `{word}` is no such number"))
    }

    /// Seconds behind a flag.
    pub fn time(&mut self, flag: &str) -> Result<Duration, String> {
        let seconds: f64 = self.number(flag)?;
        Duration::try_from_secs_f64(seconds).map_err(|error| format!("{flag}: {error}"))
    }

    /// Behind `--wait`.
    pub fn wait(&mut self) -> Result<Wait, String> {
        let word = self.word("--wait")?;
        Wait::named(&word).ok_or_else(|| format!("--wait: yield or block, not `{word}`"))
    }

    /// Whether a flag without a word is there.
    pub fn has(&mut self, flag: &str) -> bool {
        let at = self.0.iter().position(|word| word == flag);
        at.map(|at| self.0.remove(at)).is_some()
    }

    /// Nothing may be left over.
    pub fn finish(&self) -> Result<(), String> {
        match self.0.first() {
            None => Ok(()),
            Some(word) => Err(format!("what is `{word}`?")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arguments(line: &str) -> Arguments {
        Arguments::new(line.split_whitespace().map(str::to_owned).collect())
    }

    #[test]
    fn flags_come_in_any_order_and_once() {
        let mut found = arguments("run --b 2 --yes --a 1.5 --wait block");
        assert_eq!(found.next().as_deref(), Some("run"));
        assert_eq!(found.time("--a"), Ok(Duration::from_millis(1500)));
        assert_eq!(found.number("--b"), Ok(2));
        assert_eq!(found.wait(), Ok(Wait::Block));
        assert!(found.finish().is_err());
        assert!(found.has("--yes") && !found.has("--yes"));
        assert_eq!(found.finish(), Ok(()));
    }

    #[test]
    fn what_makes_no_sense_is_said() {
        assert!(arguments("--a").word("--a").is_err());
        assert!(arguments("--a x").number::<u64>("--a").is_err());
        assert!(arguments("--a -1").time("--a").is_err());
        assert!(arguments("--wait spin").wait().is_err());
    }
}
