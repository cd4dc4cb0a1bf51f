//! A few Aeron frames by hand, from the published layout: enough to mark a capture's ends, to
//! tell a relay what it carries, and to damage a datagram on purpose.

/// Aeron's PAD frame.
pub const PAD: u16 = 0;
/// Aeron's DATA frame.
pub const DATA: u16 = 1;
/// Aeron's NAK frame.
pub const NAK: u16 = 2;
/// Aeron's status message.
pub const SM: u16 = 3;
/// Aeron's ERR frame.
pub const ERR: u16 = 4;
/// Aeron's SETUP frame.
pub const SETUP: u16 = 5;
/// Aeron's RTT measurement frame.
pub const RTTM: u16 = 6;

/// Stream of Coracle's log.
pub const LOG_STREAM: i32 = 100;

/// A frame: base header (length, version 0, flags, type), then `fields` as they are.
pub fn frame(kind: u16, flags: u8, fields: &[u8]) -> Vec<u8> {
    let length = i32::try_from(8 + fields.len()).expect("a test frame is short");
    let mut bytes = Vec::with_capacity(8 + fields.len());
    bytes.extend_from_slice(&length.to_le_bytes());
    bytes.push(0);
    bytes.push(flags);
    bytes.extend_from_slice(&kind.to_le_bytes());
    bytes.extend_from_slice(fields);
    bytes
}

/// `values` as little-endian 32-bit fields.
pub fn fields(values: &[i32]) -> Vec<u8> {
    values
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect()
}

/// A whole-message DATA frame, padded to 32 bytes as it is on the wire.
pub fn data(term_offset: i32, session: i32, stream: i32, term: i32, payload: &[u8]) -> Vec<u8> {
    let mut body = fields(&[term_offset, session, stream, term, 0, 0]);
    body.extend_from_slice(payload);
    let mut bytes = frame(DATA, 0xC0, &body);
    bytes.resize(bytes.len().next_multiple_of(32), 0);
    bytes
}

/// A SETUP frame of a stream that starts at position 0.
pub fn setup(session: i32, stream: i32) -> Vec<u8> {
    frame(
        SETUP,
        0,
        &fields(&[0, session, stream, 0, 0, 65_536, 1_408, 0]),
    )
}

/// A status message at position 0.
pub fn sm(session: i32, stream: i32) -> Vec<u8> {
    frame(SM, 0, &fields(&[session, stream, 0, 0, 32_768, 7, 0]))
}

/// A NAK for one frame at position 0.
pub fn nak(session: i32, stream: i32) -> Vec<u8> {
    frame(NAK, 0, &fields(&[session, stream, 0, 0, 64]))
}

/// A measurement frame that asks for no reply: harmless to anybody who gets it.
pub fn rttm(session: i32, stream: i32) -> Vec<u8> {
    frame(RTTM, 0, &fields(&[session, stream, 0, 0, 0, 0, 7, 0]))
}

/// Type of the first frame, if there is a base header.
pub fn kind(datagram: &[u8]) -> Option<u16> {
    let bytes = datagram.get(6..8)?;
    Some(u16::from_le_bytes([bytes[0], bytes[1]]))
}

/// Stream of a DATA datagram that carries bytes: none for heartbeats and for other frames.
pub fn data_stream(datagram: &[u8]) -> Option<i32> {
    let has_payload = datagram.len() > 32;
    if kind(datagram)? != DATA || !has_payload {
        return None;
    }
    let bytes: [u8; 4] = datagram.get(16..20)?.try_into().ok()?;
    Some(i32::from_le_bytes(bytes))
}

/// Whether a datagram is built of whole Aeron frames and nothing else, by the published layout:
/// the dissector looks closely only at the first frame of a datagram.
///
/// # Errors
/// What is wrong, in a few words.
pub fn check_structure(datagram: &[u8]) -> Result<(), &'static str> {
    let mut rest = datagram;
    while !rest.is_empty() {
        let base: [u8; 8] = match rest.first_chunk() {
            Some(base) => *base,
            None => return Err("a frame is shorter than its base header"),
        };
        let length = u32::from_le_bytes([base[0], base[1], base[2], base[3]]) as usize;
        let kind = u16::from_le_bytes([base[6], base[7]]);
        let taken = match (kind, length) {
            _ if base[4] != 0 => return Err("a frame's version is not 0"),
            // The heartbeat: a DATA header alone, whose length says 0.
            (DATA, 0) => 32,
            // Of padding only the header is sent.
            (PAD, 32..) => 32,
            (DATA, 32..) => length.next_multiple_of(32),
            (NAK, 28) | (SM, 36 | 44) | (SETUP | RTTM, 40) | (ERR, 40..) => length,
            (PAD..=RTTM, _) => return Err("a frame's length does not fit its type"),
            _ => return Err("a frame's type is unknown"),
        };
        rest = match rest.get(taken..) {
            Some(rest) => rest,
            None => return Err("a frame is longer than its datagram"),
        };
        // Padding ends its term and thus its datagram; heartbeats and control frames are alone.
        let may_follow = kind == DATA && length > 0;
        if !may_follow && !rest.is_empty() {
            return Err("something follows a frame that must be the last");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn structure_is_checked_beyond_the_first_frame() {
        let mut two = data(0, 1, 100, 0, b"one");
        two.extend(data(64, 1, 100, 0, b"two"));
        assert_eq!(check_structure(&two), Ok(()));
        for (at, value) in [(64, 200), (64, 5), (64, 0), (68, 1), (70, 77), (0, 31)] {
            let mut damaged = two.clone();
            damaged[at] = value;
            assert!(check_structure(&damaged).is_err(), "byte {at} as {value}");
        }
        assert!(check_structure(&two[..96]).is_err(), "cut short");
    }

    #[test]
    fn frames_have_the_published_lengths() {
        assert_eq!(setup(1, 2).len(), 40);
        assert_eq!(sm(1, 2).len(), 36);
        assert_eq!(nak(1, 2).len(), 28);
        assert_eq!(rttm(1, 2).len(), 40);
        assert_eq!(data(0, 1, 2, 3, b"abc").len(), 64);
    }

    #[test]
    fn only_data_with_bytes_has_a_stream() {
        assert_eq!(data_stream(&data(0, 1, 100, 3, b"abc")), Some(100));
        assert_eq!(data_stream(&data(0, 1, 100, 3, b"")), None);
        assert_eq!(data_stream(&setup(1, 100)), None);
        assert_eq!(data_stream(&[0; 4]), None);
    }
}
