//! The session messages of schema 111, from the published layout (`aeron-cluster-codecs.xml`,
//! schema version 17): little-endian, an 8-byte header, fields in order, variable parts last.
//!
//! Field offsets are counted from the end of the header. The tests keep golden bytes of each
//! message, written by hand from the same page.

/// Schema id of Aeron Cluster.
pub const SCHEMA: u16 = 111;
/// Version of the schema that this client writes.
pub const SCHEMA_VERSION: u16 = 17;
/// Length of the header of every message.
pub const HEADER: usize = 8;
/// Length of a session message's header and fields, before the application's bytes.
pub const SESSION_HEADER: usize = 32;
/// Version 0.3.0 of the session protocol, packed as Aeron does: major, minor, patch by byte.
pub const PROTOCOL_VERSION: i32 = 3 << 8;

/// Outcome of a connect request, as the cluster puts it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventCode {
    /// The session is open.
    Ok,
    /// Refused, with a text.
    Error,
    /// Ask the leader instead.
    Redirect,
    /// The credentials were refused.
    AuthenticationRejected,
    /// The session was closed.
    Closed,
    /// A code this client does not know.
    Unknown(i32),
}

/// What a cluster sends to a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Egress<'a> {
    /// Bytes from the service: template 1.
    Message {
        /// Leadership term in which it was sent.
        term: i64,
        /// Session it is for.
        session: i64,
        /// The cluster's time.
        timestamp: i64,
        /// The service's bytes.
        payload: &'a [u8],
    },
    /// An answer to a connect request, or the end of a session: template 2.
    Event {
        /// Session it is about.
        session: i64,
        /// Number of the connect request.
        correlation: i64,
        /// Current leadership term.
        term: i64,
        /// Current leader.
        leader: i32,
        /// Outcome.
        code: EventCode,
        /// Version of the session protocol the cluster speaks, 0 from an old one.
        version: i32,
        /// After how many nanoseconds of silence a leader counts as lost.
        heartbeat_timeout_ns: i64,
        /// Member list or error text.
        detail: &'a str,
    },
    /// A new leader took over the session: template 6.
    NewLeader {
        /// New leadership term.
        term: i64,
        /// Session it is for.
        session: i64,
        /// New leader.
        leader: i32,
        /// Ingress endpoints of all members.
        endpoints: &'a str,
    },
    /// The answer to an operator's request: template 27.
    AdminResponse {
        /// Session it is for.
        session: i64,
        /// Number of the request.
        correlation: i64,
        /// What was asked for: 0 is a snapshot.
        request: i32,
        /// Outcome.
        code: AdminCode,
        /// Why not, in words.
        message: &'a str,
        /// Bytes that go with the request.
        payload: &'a [u8],
    },
    /// Another message of the schema, which a client may ignore.
    Other(u16),
}

/// Outcome of an operator's request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AdminCode {
    /// Done, or begun.
    Ok,
    /// Not done.
    Error,
    /// The session may not.
    UnauthorisedAccess,
    /// A code this client does not know.
    Unknown(i32),
}

/// Asks for a session: template 3.
pub fn connect_request(
    correlation: i64,
    response_stream: i32,
    response_channel: &str,
    version: i32,
    credentials: &[u8],
    client_info: &str,
) -> Vec<u8> {
    let mut bytes = header(16, 3);
    bytes.extend_from_slice(&correlation.to_le_bytes());
    bytes.extend_from_slice(&response_stream.to_le_bytes());
    bytes.extend_from_slice(&version.to_le_bytes());
    variable(&mut bytes, response_channel.as_bytes());
    variable(&mut bytes, credentials);
    variable(&mut bytes, client_info.as_bytes());
    bytes
}

/// What goes before the application's bytes in a session message: template 1.
pub fn message_header(term: i64, session: i64, timestamp: i64) -> [u8; SESSION_HEADER] {
    let mut bytes = header(24, 1);
    for field in [term, session, timestamp] {
        bytes.extend_from_slice(&field.to_le_bytes());
    }
    bytes.try_into().expect("8 + 24 bytes were written")
}

/// Ends a session: template 4.
pub fn close_request(term: i64, session: i64) -> Vec<u8> {
    two_fields(4, term, session)
}

/// Keeps a session open: template 5.
pub fn keep_alive(term: i64, session: i64) -> Vec<u8> {
    two_fields(5, term, session)
}

/// Asks the cluster to take a snapshot: template 26, request type 0, without further bytes.
pub fn snapshot_request(term: i64, session: i64, correlation: i64) -> Vec<u8> {
    let mut bytes = header(28, 26);
    for field in [term, session, correlation] {
        bytes.extend_from_slice(&field.to_le_bytes());
    }
    bytes.extend_from_slice(&0i32.to_le_bytes());
    variable(&mut bytes, b"");
    bytes
}

/// Reads a message from the cluster.
///
/// # Errors
/// What is wrong with it, in plain words.
pub fn decode(bytes: &[u8]) -> Result<Egress<'_>, String> {
    let block_length = usize::from(u16_at(bytes, 0)?);
    let template = u16_at(bytes, 2)?;
    let schema = u16_at(bytes, 4)?;
    if schema != SCHEMA {
        return Err(format!("schema {schema} is not {SCHEMA}"));
    }
    let body = bytes.get(HEADER..).ok_or("shorter than its header")?;
    let block = body
        .get(..block_length)
        .ok_or("shorter than its own block length")?;
    let rest = &body[block_length..];
    match template {
        1 => Ok(Egress::Message {
            term: i64_at(block, 0)?,
            session: i64_at(block, 8)?,
            timestamp: i64_at(block, 16)?,
            payload: rest,
        }),
        2 => Ok(Egress::Event {
            session: i64_at(block, 0)?,
            correlation: i64_at(block, 8)?,
            term: i64_at(block, 16)?,
            leader: i32_at(block, 24)?,
            code: event_code(i32_at(block, 28)?),
            // Fields that older schema versions end before.
            version: i32_at(block, 32).unwrap_or(0),
            heartbeat_timeout_ns: i64_at(block, 36).unwrap_or(i64::MIN),
            detail: text(rest)?,
        }),
        6 => Ok(Egress::NewLeader {
            term: i64_at(block, 0)?,
            session: i64_at(block, 8)?,
            leader: i32_at(block, 16)?,
            endpoints: text(rest)?,
        }),
        27 => {
            let (message, rest) = split_variable(rest)?;
            let (payload, _) = split_variable(rest)?;
            Ok(Egress::AdminResponse {
                session: i64_at(block, 0)?,
                correlation: i64_at(block, 8)?,
                request: i32_at(block, 16)?,
                code: admin_code(i32_at(block, 20)?),
                message: std::str::from_utf8(message).map_err(|error| error.to_string())?,
                payload,
            })
        }
        other => Ok(Egress::Other(other)),
    }
}

/// Splits a member list, `0=host:port,1=host:port`.
///
/// # Errors
/// The entry that is not of that form.
pub fn members(list: &str) -> Result<Vec<(i32, String)>, String> {
    list.split(',')
        .map(|entry| {
            let (id, endpoint) = entry.split_once('=').ok_or(entry)?;
            let id = id.trim().parse().map_err(|_| entry)?;
            Ok((id, endpoint.to_owned()))
        })
        .collect::<Result<_, &str>>()
        .map_err(|entry| format!("'{entry}' is no member of '{list}'"))
}

fn event_code(code: i32) -> EventCode {
    match code {
        0 => EventCode::Ok,
        1 => EventCode::Error,
        2 => EventCode::Redirect,
        3 => EventCode::AuthenticationRejected,
        4 => EventCode::Closed,
        other => EventCode::Unknown(other),
    }
}

fn admin_code(code: i32) -> AdminCode {
    match code {
        0 => AdminCode::Ok,
        1 => AdminCode::Error,
        2 => AdminCode::UnauthorisedAccess,
        other => AdminCode::Unknown(other),
    }
}

fn header(block_length: u16, template: u16) -> Vec<u8> {
    [block_length, template, SCHEMA, SCHEMA_VERSION]
        .iter()
        .flat_map(|v| v.to_le_bytes())
        .collect()
}

fn two_fields(template: u16, term: i64, session: i64) -> Vec<u8> {
    let mut bytes = header(16, template);
    bytes.extend_from_slice(&term.to_le_bytes());
    bytes.extend_from_slice(&session.to_le_bytes());
    bytes
}

fn variable(bytes: &mut Vec<u8>, part: &[u8]) {
    let length = u32::try_from(part.len()).expect("a test's text is short");
    bytes.extend_from_slice(&length.to_le_bytes());
    bytes.extend_from_slice(part);
}

fn text(rest: &[u8]) -> Result<&str, String> {
    let (part, _) = split_variable(rest)?;
    std::str::from_utf8(part).map_err(|error| error.to_string())
}

/// A variable part, and what comes after it.
fn split_variable(rest: &[u8]) -> Result<(&[u8], &[u8]), String> {
    let length = u32::from_le_bytes(chunk(rest, 0)?) as usize;
    let split = rest.get(4..).and_then(|rest| rest.split_at_checked(length));
    split.ok_or_else(|| "a variable part runs over the end".to_owned())
}

fn chunk<const N: usize>(bytes: &[u8], at: usize) -> Result<[u8; N], String> {
    let part = bytes.get(at..at + N).ok_or("a field runs over the end")?;
    Ok(part.try_into().expect("the slice is N long"))
}

fn u16_at(bytes: &[u8], at: usize) -> Result<u16, String> {
    chunk(bytes, at).map(u16::from_le_bytes)
}

fn i32_at(bytes: &[u8], at: usize) -> Result<i32, String> {
    chunk(bytes, at).map(i32::from_le_bytes)
}

fn i64_at(bytes: &[u8], at: usize) -> Result<i64, String> {
    chunk(bytes, at).map(i64::from_le_bytes)
}
