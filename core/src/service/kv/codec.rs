//! The key-value service's messages as bytes. Clients and the service use the same code.
//!
//! Requests, replies and events share one header, so a reply or event always fits a cluster whose
//! maximum message its request fitted. Little-endian:
//!
//! ```text
//!   0        2         3      4         8              16            24
//!   +--------+---------+------+---------+--------------+-------------+-----+-------+
//!   | "CK"   | version | kind | key len | correlation  | version     | key | value |
//!   +--------+---------+------+---------+--------------+-------------+-----+-------+
//! ```
//! `correlation` is the client's: every reply carries that of its request, every event that of its
//! watch. The 8-byte `version` is the key's: the log position at which it was last written, 0 for a
//! key that is not there. The value is whatever follows the key.

/// The version of this format.
pub const VERSION: u8 = 1;
/// The length of the header in bytes.
pub const HEADER: usize = 24;
/// The longest key in bytes; the shortest has one byte. A watched prefix may be empty.
pub const KEY_MAX: usize = 255;

const MAGIC: [u8; 2] = *b"CK";

/// What a client asks for. Reads go through the log like writes, so each sees every write that was
/// answered before it was asked.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[non_exhaustive]
pub enum Request<'a> {
    /// Set a key. Answers: [`Reply::Done`], [`Reply::Full`].
    Put {
        /// 1 to [`KEY_MAX`] bytes.
        key: &'a [u8],
        /// Any bytes.
        value: &'a [u8],
    },
    /// Read a key. Answers: [`Reply::Value`], [`Reply::NotFound`].
    Get {
        /// 1 to [`KEY_MAX`] bytes.
        key: &'a [u8],
    },
    /// Set a key if its version is `expected`; 0 expects it not to be there. Answers:
    /// [`Reply::Done`], [`Reply::Conflict`], [`Reply::Full`].
    Cas {
        /// The version the caller has seen.
        expected: u64,
        /// 1 to [`KEY_MAX`] bytes.
        key: &'a [u8],
        /// Any bytes.
        value: &'a [u8],
    },
    /// Remove a key. Answers: [`Reply::Done`], [`Reply::NotFound`].
    Delete {
        /// 1 to [`KEY_MAX`] bytes.
        key: &'a [u8],
    },
    /// Be told of every later change of a key, until the session closes or [`Request::Unwatch`].
    /// Answers: [`Reply::Done`], [`Reply::Refused`]; then events with this correlation.
    Watch {
        /// 1 to [`KEY_MAX`] bytes.
        key: &'a [u8],
    },
    /// The same for every key that starts with `prefix`; the empty one watches all.
    WatchPrefix {
        /// At most [`KEY_MAX`] bytes.
        prefix: &'a [u8],
    },
    /// End this session's watch that was asked for with this same correlation. Answers:
    /// [`Reply::Done`], [`Reply::NotFound`].
    Unwatch,
}

/// What the service says.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[non_exhaustive]
pub enum Reply<'a> {
    /// Done. For a write `version` is the key's new version; else the log position it was done at.
    Done {
        /// A log position.
        version: u64,
    },
    /// The key's value.
    Value {
        /// When it was last written.
        version: u64,
        /// Its bytes.
        value: &'a [u8],
    },
    /// There is no such key, or no such watch.
    NotFound,
    /// The key's version is not the expected one.
    Conflict {
        /// What it is; 0 if the key is not there.
        version: u64,
    },
    /// There is no room for this key and value. Nothing was changed.
    Full,
    /// The request was not understood, or may not be carried out. Nothing was changed.
    Refused(Refusal),
    /// An event: a watched key was set.
    Changed {
        /// Its new version.
        version: u64,
        /// The key.
        key: &'a [u8],
        /// The new value.
        value: &'a [u8],
    },
    /// An event: a watched key was removed.
    Deleted {
        /// The log position at which.
        version: u64,
        /// The key.
        key: &'a [u8],
    },
}

/// Why a request was refused, and why bytes do not decode.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[non_exhaustive]
pub enum Refusal {
    /// Not a message of this service, or cut short.
    Malformed,
    /// A message of a newer format than this build knows.
    NewerVersion,
    /// A kind this build does not know.
    UnknownKind,
    /// A key is empty or longer than [`KEY_MAX`].
    KeyLength,
    /// The service's table of watches is full.
    TooManyWatches,
}

impl Refusal {
    const fn code(self) -> u64 {
        match self {
            Self::Malformed => 1,
            Self::NewerVersion => 2,
            Self::UnknownKind => 3,
            Self::KeyLength => 4,
            Self::TooManyWatches => 5,
        }
    }

    const fn from_code(code: u64) -> Self {
        match code {
            2 => Self::NewerVersion,
            3 => Self::UnknownKind,
            4 => Self::KeyLength,
            5 => Self::TooManyWatches,
            // A reason that came later is still a refusal.
            _ => Self::Malformed,
        }
    }
}

mod kind {
    pub const PUT: u8 = 1;
    pub const GET: u8 = 2;
    pub const CAS: u8 = 3;
    pub const DELETE: u8 = 4;
    pub const WATCH: u8 = 5;
    pub const WATCH_PREFIX: u8 = 6;
    pub const UNWATCH: u8 = 7;
    pub const DONE: u8 = 128;
    pub const VALUE: u8 = 129;
    pub const NOT_FOUND: u8 = 130;
    pub const CONFLICT: u8 = 131;
    pub const FULL: u8 = 132;
    pub const REFUSED: u8 = 133;
    pub const CHANGED: u8 = 134;
    pub const DELETED: u8 = 135;
}

/// A message, ready to be sent as the concatenation of [`Encoded::parts`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Encoded<'a> {
    header: [u8; HEADER],
    key: &'a [u8],
    value: &'a [u8],
}

impl Encoded<'_> {
    /// The three parts, for a gathering send.
    pub fn parts(&self) -> [&[u8]; 3] {
        [&self.header, self.key, self.value]
    }

    /// The whole length in bytes.
    pub fn len(&self) -> usize {
        HEADER + self.key.len() + self.value.len()
    }

    /// Never: there is always a header.
    pub fn is_empty(&self) -> bool {
        false
    }
}

fn encode<'a>(
    kind: u8,
    correlation: u64,
    version: u64,
    key: &'a [u8],
    value: &'a [u8],
) -> Encoded<'a> {
    let mut header = [0; HEADER];
    header[..2].copy_from_slice(&MAGIC);
    header[2] = VERSION;
    header[3] = kind;
    header[4..8].copy_from_slice(&(key.len() as u32).to_le_bytes());
    header[8..16].copy_from_slice(&correlation.to_le_bytes());
    header[16..24].copy_from_slice(&version.to_le_bytes());
    Encoded { header, key, value }
}

/// A request as bytes.
pub fn encode_request<'a>(correlation: u64, request: &Request<'a>) -> Encoded<'a> {
    let (kind, version, key, value): (_, _, &[u8], &[u8]) = match *request {
        Request::Put { key, value } => (kind::PUT, 0, key, value),
        Request::Get { key } => (kind::GET, 0, key, &[]),
        Request::Cas {
            expected,
            key,
            value,
        } => (kind::CAS, expected, key, value),
        Request::Delete { key } => (kind::DELETE, 0, key, &[]),
        Request::Watch { key } => (kind::WATCH, 0, key, &[]),
        Request::WatchPrefix { prefix } => (kind::WATCH_PREFIX, 0, prefix, &[]),
        Request::Unwatch => (kind::UNWATCH, 0, &[], &[]),
    };
    encode(kind, correlation, version, key, value)
}

/// A reply or event as bytes.
pub fn encode_reply<'a>(correlation: u64, reply: &Reply<'a>) -> Encoded<'a> {
    let (kind, version, key, value): (_, _, &[u8], &[u8]) = match *reply {
        Reply::Done { version } => (kind::DONE, version, &[], &[]),
        Reply::Value { version, value } => (kind::VALUE, version, &[], value),
        Reply::NotFound => (kind::NOT_FOUND, 0, &[], &[]),
        Reply::Conflict { version } => (kind::CONFLICT, version, &[], &[]),
        Reply::Full => (kind::FULL, 0, &[], &[]),
        Reply::Refused(why) => (kind::REFUSED, why.code(), &[], &[]),
        Reply::Changed {
            version,
            key,
            value,
        } => (kind::CHANGED, version, key, value),
        Reply::Deleted { version, key } => (kind::DELETED, version, key, &[]),
    };
    encode(kind, correlation, version, key, value)
}

/// A message's fields, before its kind is looked at.
struct Fields<'a> {
    kind: u8,
    correlation: u64,
    version: u64,
    key: &'a [u8],
    value: &'a [u8],
}

/// What was wrong with bytes, and the correlation if they got that far.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct DecodeError {
    /// The correlation, or 0 if the header itself is not there.
    pub correlation: u64,
    /// Why.
    pub why: Refusal,
}

fn fields(bytes: &[u8]) -> Result<Fields<'_>, DecodeError> {
    let malformed = |correlation| DecodeError {
        correlation,
        why: Refusal::Malformed,
    };
    let (header, rest) = bytes.split_first_chunk::<HEADER>().ok_or(malformed(0))?;
    let [m0, m1, version, kind, k0, k1, k2, k3, tail @ ..] = *header;
    let [c0, c1, c2, c3, c4, c5, c6, c7, v @ ..] = tail;
    if [m0, m1] != MAGIC {
        return Err(malformed(0));
    }
    let correlation = u64::from_le_bytes([c0, c1, c2, c3, c4, c5, c6, c7]);
    if version > VERSION {
        return Err(DecodeError {
            correlation,
            why: Refusal::NewerVersion,
        });
    }
    let key_len = u32::from_le_bytes([k0, k1, k2, k3]) as usize;
    if key_len > KEY_MAX {
        return Err(DecodeError {
            correlation,
            why: Refusal::KeyLength,
        });
    }
    let (key, value) = rest
        .split_at_checked(key_len)
        .ok_or(malformed(correlation))?;
    Ok(Fields {
        kind,
        correlation,
        version: u64::from_le_bytes(v),
        key,
        value,
    })
}

/// A request from bytes, with its correlation. Bytes after a key that takes no value are ignored,
/// as room for later versions.
///
/// # Errors
/// What is wrong with the bytes: a [`Refusal`] that the service sends back.
pub fn decode_request(bytes: &[u8]) -> Result<(u64, Request<'_>), DecodeError> {
    let f = fields(bytes)?;
    let (key, value) = (f.key, f.value);
    let refuse = |why| DecodeError {
        correlation: f.correlation,
        why,
    };
    let request = match f.kind {
        kind::WATCH_PREFIX => Request::WatchPrefix { prefix: key },
        kind::UNWATCH => Request::Unwatch,
        kind::PUT | kind::GET | kind::CAS | kind::DELETE | kind::WATCH if key.is_empty() => {
            return Err(refuse(Refusal::KeyLength));
        }
        kind::PUT => Request::Put { key, value },
        kind::GET => Request::Get { key },
        kind::CAS => Request::Cas {
            expected: f.version,
            key,
            value,
        },
        kind::DELETE => Request::Delete { key },
        kind::WATCH => Request::Watch { key },
        _ => return Err(refuse(Refusal::UnknownKind)),
    };
    Ok((f.correlation, request))
}

/// A reply or event from bytes, with its correlation.
///
/// # Errors
/// What is wrong with the bytes.
pub fn decode_reply(bytes: &[u8]) -> Result<(u64, Reply<'_>), DecodeError> {
    let f = fields(bytes)?;
    let (version, key, value) = (f.version, f.key, f.value);
    let reply = match f.kind {
        kind::DONE => Reply::Done { version },
        kind::VALUE => Reply::Value { version, value },
        kind::NOT_FOUND => Reply::NotFound,
        kind::CONFLICT => Reply::Conflict { version },
        kind::FULL => Reply::Full,
        kind::REFUSED => Reply::Refused(Refusal::from_code(version)),
        kind::CHANGED => Reply::Changed {
            version,
            key,
            value,
        },
        kind::DELETED => Reply::Deleted { version, key },
        _ => {
            return Err(DecodeError {
                correlation: f.correlation,
                why: Refusal::UnknownKind,
            });
        }
    };
    Ok((f.correlation, reply))
}

#[cfg(test)]
mod tests {
    extern crate std;
    use std::vec::Vec;

    use super::*;
    use crate::prng::Prng;

    fn requests() -> [Request<'static>; 7] {
        [
            Request::Put {
                key: b"k",
                value: b"v",
            },
            Request::Get { key: b"k" },
            Request::Cas {
                expected: u64::MAX,
                key: &[7; KEY_MAX],
                value: &[],
            },
            Request::Delete { key: b"\0" },
            Request::Watch { key: b"k" },
            Request::WatchPrefix { prefix: b"" },
            Request::Unwatch,
        ]
    }

    fn replies() -> [Reply<'static>; 9] {
        [
            Reply::Done { version: 1 },
            Reply::Value {
                version: 2,
                value: b"v",
            },
            Reply::NotFound,
            Reply::Conflict { version: 3 },
            Reply::Full,
            Reply::Refused(Refusal::TooManyWatches),
            Reply::Refused(Refusal::NewerVersion),
            Reply::Changed {
                version: 4,
                key: b"k",
                value: b"v",
            },
            Reply::Deleted {
                version: 5,
                key: b"k",
            },
        ]
    }

    #[test]
    fn what_is_encoded_decodes_to_itself() {
        for (n, request) in requests().iter().enumerate() {
            let encoded = encode_request(n as u64, request);
            let bytes = encoded.parts().concat();
            assert_eq!(bytes.len(), encoded.len());
            assert_eq!(decode_request(&bytes), Ok((n as u64, *request)));
        }
        for (n, reply) in replies().iter().enumerate() {
            let bytes = encode_reply(n as u64, reply).parts().concat();
            assert_eq!(decode_reply(&bytes), Ok((n as u64, *reply)));
        }
    }

    /// The bytes of a golden file: hex digits, `#` starts a comment.
    fn golden(text: &str) -> Vec<u8> {
        let code = text.lines().filter_map(|line| line.split('#').next());
        let words = code.flat_map(str::split_whitespace);
        words.map(|w| u8::from_str_radix(w, 16).unwrap()).collect()
    }

    macro_rules! golden {
        ($name:literal) => {
            golden(include_str!(concat!(
                env!("CARGO_MANIFEST_DIR"),
                "/../tests/golden/kv/",
                $name,
                ".hex"
            )))
        };
    }

    const CORRELATION: u64 = 0x0102_0304_0506_0708;
    const AT: u64 = 0x1122_3344_5566_7780;
    const KEY: &[u8] = b"ab";
    const VALUE: &[u8] = b"cde";

    #[test]
    fn requests_are_the_golden_bytes() {
        let (key, value, expected) = (KEY, VALUE, AT);
        let all = [
            (golden!("put"), Request::Put { key, value }),
            (golden!("get"), Request::Get { key }),
            (
                golden!("cas"),
                Request::Cas {
                    expected,
                    key,
                    value,
                },
            ),
            (golden!("delete"), Request::Delete { key }),
            (golden!("watch"), Request::Watch { key }),
            (
                golden!("watch_prefix"),
                Request::WatchPrefix { prefix: key },
            ),
            (golden!("unwatch"), Request::Unwatch),
        ];
        for (golden, request) in all {
            assert_eq!(
                encode_request(CORRELATION, &request).parts().concat(),
                golden
            );
            assert_eq!(decode_request(&golden), Ok((CORRELATION, request)));
        }
    }

    #[test]
    fn replies_are_the_golden_bytes() {
        let (key, value, version) = (KEY, VALUE, AT);
        let all = [
            (golden!("done"), Reply::Done { version }),
            (golden!("value"), Reply::Value { version, value }),
            (golden!("not_found"), Reply::NotFound),
            (golden!("conflict"), Reply::Conflict { version }),
            (golden!("full"), Reply::Full),
            (golden!("refused"), Reply::Refused(Refusal::TooManyWatches)),
            (
                golden!("changed"),
                Reply::Changed {
                    version,
                    key,
                    value,
                },
            ),
            (golden!("deleted"), Reply::Deleted { version, key }),
        ];
        for (golden, reply) in all {
            assert_eq!(encode_reply(CORRELATION, &reply).parts().concat(), golden);
            assert_eq!(decode_reply(&golden), Ok((CORRELATION, reply)));
        }
    }

    #[test]
    fn hostile_bytes_are_typed_refusals() {
        let good = encode_request(9, &requests()[0]).parts().concat();
        let refused = |at: usize, byte: u8| {
            let mut bytes = good.clone();
            bytes[at] = byte;
            decode_request(&bytes)
                .map(drop)
                .map_err(|e| (e.correlation, e.why))
        };
        assert_eq!(refused(0, b'X'), Err((0, Refusal::Malformed)));
        assert_eq!(refused(2, 2), Err((9, Refusal::NewerVersion)));
        assert_eq!(refused(3, 99), Err((9, Refusal::UnknownKind)));
        assert_eq!(refused(3, 200), Err((9, Refusal::UnknownKind)));
        assert_eq!(refused(4, 0), Err((9, Refusal::KeyLength)));
        assert_eq!(refused(4, 200), Err((9, Refusal::Malformed)));
        assert_eq!(refused(7, 255), Err((9, Refusal::KeyLength)));
        for len in 0..HEADER {
            assert!(decode_request(&good[..len]).is_err());
        }
    }

    #[test]
    fn any_bytes_decode_or_are_refused_and_what_decodes_encodes_back() {
        let mut prng = Prng::new(1);
        let mut decoded = 0;
        for _ in 0..20_000 {
            let len = prng.below(64) as usize;
            let mut bytes: Vec<u8> = (0..len).map(|_| prng.next() as u8).collect();
            for (at, byte) in [
                b'C',
                b'K',
                1,
                prng.below(9) as u8,
                prng.below(9) as u8,
                0,
                0,
                0,
            ]
            .into_iter()
            .enumerate()
            {
                if let Some(to) = bytes.get_mut(at) {
                    *to = byte;
                }
            }
            if let Ok((correlation, request)) = decode_request(&bytes) {
                decoded += 1;
                let again = encode_request(correlation, &request).parts().concat();
                assert_eq!(decode_request(&again), Ok((correlation, request)));
            }
            let reply = decode_reply(&bytes);
            assert!(reply.is_err(), "a request is no reply: {reply:?}");
        }
        assert!(decoded > 1_000, "{decoded}");
    }
}
