//! Sizes and times as people write them: `"16 MiB"`, `"400 ms"`, or a bare number of bytes.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::de::{self, Deserialize, Deserializer, Visitor};

/// A number of bytes. Written as `1408`, `"64 KiB"` or `"16MiB"`; multiples are powers of 1024.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Size(pub u64);

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (number, unit) = split(text)?;
        let factor: u64 = match unit {
            "" | "B" => 1,
            "KiB" | "K" | "k" => 1 << 10,
            "MiB" | "M" => 1 << 20,
            "GiB" | "G" => 1 << 30,
            other => {
                return Err(format!(
                    "unknown unit `{other}` in size `{text}`: use B, KiB, MiB or GiB"
                ));
            }
        };
        number
            .checked_mul(factor)
            .map(Self)
            .ok_or_else(|| format!("size `{text}` is too large"))
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (shift, unit) in [(30, "GiB"), (20, "MiB"), (10, "KiB")] {
            if self.0 != 0 && self.0.is_multiple_of(1 << shift) {
                return write!(f, "{} {unit}", self.0 >> shift);
            }
        }
        write!(f, "{} B", self.0)
    }
}

/// A length of time. Written as `"50 ms"`, `"10s"` or `"200us"`; a bare number is refused, because
/// nobody could tell its unit.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Span(pub Duration);

impl Span {
    /// `millis` milliseconds.
    pub const fn from_millis(millis: u64) -> Self {
        Self(Duration::from_millis(millis))
    }
}

impl FromStr for Span {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (number, unit) = split(text)?;
        let nanos: u64 = match unit {
            "us" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "min" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            "" => return Err(format!("`{text}` needs a unit: us, ms, s, min or h")),
            other => {
                return Err(format!(
                    "unknown unit `{other}` in time `{text}`: use us, ms, s, min or h"
                ));
            }
        };
        number
            .checked_mul(nanos)
            .map(|nanos| Self(Duration::from_nanos(nanos)))
            .ok_or_else(|| format!("time `{text}` is too long"))
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nanos = self.0.as_nanos();
        if nanos.is_multiple_of(1_000_000_000) {
            write!(f, "{} s", nanos / 1_000_000_000)
        } else if nanos.is_multiple_of(1_000_000) {
            write!(f, "{} ms", nanos / 1_000_000)
        } else {
            write!(f, "{} us", nanos / 1_000)
        }
    }
}

fn split(text: &str) -> Result<(u64, &str), String> {
    let text = text.trim();
    let digits = text
        .find(|c: char| !c.is_ascii_digit() && c != '_')
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let number = number
        .replace('_', "")
        .parse()
        .map_err(|_| format!("`{text}` does not start with a whole number"))?;
    Ok((number, unit.trim()))
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct SizeVisitor;
        impl Visitor<'_> for SizeVisitor {
            type Value = Size;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number of bytes, or a text such as \"16 MiB\"")
            }
            fn visit_i64<E: de::Error>(self, value: i64) -> Result<Size, E> {
                u64::try_from(value)
                    .map(Size)
                    .map_err(|_| E::custom("a size cannot be negative"))
            }
            fn visit_u64<E: de::Error>(self, value: u64) -> Result<Size, E> {
                Ok(Size(value))
            }
            fn visit_str<E: de::Error>(self, value: &str) -> Result<Size, E> {
                value.parse().map_err(E::custom)
            }
        }
        deserializer.deserialize_any(SizeVisitor)
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_read_as_they_are_written() {
        for text in ["1408 B", "64 KiB", "16 MiB", "1 GiB", "3 B"] {
            assert_eq!(text.parse::<Size>().unwrap().to_string(), text);
        }
        assert_eq!("16MiB".parse::<Size>().unwrap(), Size(16 << 20));
        assert_eq!("1_000".parse::<Size>().unwrap(), Size(1000));
    }

    #[test]
    fn times_need_a_unit() {
        assert_eq!("50ms".parse::<Span>().unwrap().to_string(), "50 ms");
        assert_eq!("1500 us".parse::<Span>().unwrap().to_string(), "1500 us");
        assert_eq!("2 s".parse::<Span>().unwrap(), Span::from_millis(2000));
        assert_eq!("1h".parse::<Span>().unwrap(), "60 min".parse().unwrap());
        assert!("50".parse::<Span>().unwrap_err().contains("needs a unit"));
        assert!("50 d".parse::<Span>().unwrap_err().contains("unknown"));
        assert!("99999999999999999 s".parse::<Span>().is_err());
    }
}
