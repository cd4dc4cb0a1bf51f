//! What the demo sends: the lines of a file, or generated messages; as they are, or as key-value
//! puts.

use std::path::Path;

use coracle_core::service::kv::codec::{Reply, Request, decode_reply, encode_request};

use crate::cli::Failure;
use crate::config::ServiceKind;

/// How many keys the key-value puts go round.
const KEYS: u64 = 512;

/// The messages by number: the same bytes for the same number, at any time.
#[derive(Clone, Debug)]
pub struct Source {
    lines: Option<Vec<Vec<u8>>>,
    service: ServiceKind,
}

impl Source {
    /// Generated messages of 1 byte to 100 KiB, small ones by far the most.
    pub fn generated(service: ServiceKind) -> Self {
        Self {
            lines: None,
            service,
        }
    }

    /// The lines of a file, over and over.
    ///
    /// # Errors
    /// A file that cannot be read, is empty, or has a line longer than `message_max`.
    pub fn file(path: &Path, service: ServiceKind, message_max: u64) -> Result<Self, Failure> {
        let bytes = std::fs::read(path)
            .map_err(|error| Failure::usage(format!("cannot read {}: {error}", path.display())))?;
        let text = bytes.strip_suffix(b"\n").unwrap_or(&bytes);
        if text.is_empty() {
            return Err(Failure::usage(format!("{} is empty", path.display())));
        }
        let lines: Vec<Vec<u8>> = text.split(|b| *b == b'\n').map(<[u8]>::to_vec).collect();
        let longest = message_max.saturating_sub(64) as usize;
        if let Some(at) = lines.iter().position(|line| line.len() > longest) {
            return Err(Failure::usage(format!(
                "line {} of {} is longer than {longest} bytes",
                at + 1,
                path.display()
            )));
        }
        Ok(Self {
            lines: Some(lines),
            service,
        })
    }

    /// How many messages make one whole pass: the lines of the file, or any number.
    pub fn pass(&self) -> u64 {
        self.lines.as_ref().map_or(1, |lines| lines.len() as u64)
    }

    /// What a message is called where its outcome is unknown.
    pub fn name(&self, number: u64) -> String {
        match &self.lines {
            Some(lines) if number < lines.len() as u64 => format!("line {}", number + 1),
            Some(lines) => {
                let (pass, line) = (number / lines.len() as u64, number % lines.len() as u64);
                format!("line {} (pass {})", line + 1, pass + 1)
            }
            None => format!("message {number}"),
        }
    }

    /// Writes message `number` to `out`.
    pub fn message(&self, number: u64, out: &mut Vec<u8>) {
        out.clear();
        match self.service {
            ServiceKind::Echo => self.body(number, out),
            ServiceKind::Kv => {
                let mut value = Vec::new();
                self.body(number, &mut value);
                let key = format!("demo/{}", number % KEYS);
                let request = Request::Put {
                    key: key.as_bytes(),
                    value: &value,
                };
                for part in encode_request(number, &request).parts() {
                    out.extend_from_slice(part);
                }
            }
        }
    }

    /// Whether `reply` is the right answer to message `number`, whose bytes are `message`.
    pub fn is_answer(&self, number: u64, message: &[u8], reply: &[u8]) -> bool {
        match self.service {
            ServiceKind::Echo => message == reply,
            ServiceKind::Kv => {
                matches!(decode_reply(reply), Ok((n, Reply::Done { .. })) if n == number)
            }
        }
    }

    fn body(&self, number: u64, out: &mut Vec<u8>) {
        match &self.lines {
            Some(lines) => {
                let line = (number % lines.len() as u64) as usize;
                out.extend_from_slice(&lines[line]);
            }
            None => generate(number, out),
        }
    }
}

/// 1 byte to 100 KiB: of 100 messages, about 90 up to 1 KiB, 9 up to 16 KiB, one up to 100 KiB; in
/// each class every order of magnitude is equally likely. Starts with its number, as far as that
/// fits.
fn generate(number: u64, out: &mut Vec<u8>) {
    let mut state = number.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ 0x636F_7261_636C_6521;
    let mut next = || {
        // SplitMix64 (Steele, Lea, Flood 2014).
        state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    };
    let largest: u64 = match next() % 100 {
        0 => 100 << 10,
        1..10 => 16 << 10,
        _ => 1 << 10,
    };
    let magnitude = next() % u64::from(largest.ilog2() + 1);
    let len = ((1 << magnitude) + next() % (1 << magnitude)).min(largest) as usize;
    while out.len() < len {
        out.extend_from_slice(&next().to_le_bytes());
    }
    out.truncate(len);
    for (byte, from) in out.iter_mut().zip(number.to_le_bytes()) {
        *byte = from;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generated_messages_cover_one_byte_to_100_kib_and_repeat() {
        let source = Source::generated(ServiceKind::Echo);
        let (mut message, mut again) = (Vec::new(), Vec::new());
        let (mut shortest, mut longest, mut total) = (usize::MAX, 0, 0);
        for number in 0..20_000 {
            source.message(number, &mut message);
            shortest = shortest.min(message.len());
            longest = longest.max(message.len());
            total += message.len();
        }
        assert_eq!(shortest, 1);
        assert!((90 << 10..=100 << 10).contains(&longest), "{longest}");
        assert!(total / 20_000 < 2000, "{}", total / 20_000);
        source.message(777, &mut message);
        source.message(777, &mut again);
        assert_eq!(message, again);
        assert!(source.is_answer(777, &message, &again));
    }
}
