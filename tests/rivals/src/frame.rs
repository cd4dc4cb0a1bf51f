//! Frames on a TCP connection: a length of four bytes, then so many bytes.

use std::fmt;

/// Longer ones are nobody's: a batch of entries stays far below.
pub const FRAME_MAX: usize = 64 << 20;
const LENGTH: usize = 4;
/// Taken bytes before they are moved over.
const SLACK: usize = 1 << 20;

/// A length that no sender of ours writes.
#[derive(Debug, PartialEq, Eq)]
pub struct TooLong(pub usize);

impl fmt::Display for TooLong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a frame of {} bytes; {FRAME_MAX} is the most", self.0)
    }
}

impl From<TooLong> for std::io::Error {
    fn from(error: TooLong) -> Self {
        Self::new(std::io::ErrorKind::InvalidData, error.to_string())
    }
}

/// Appends a frame that consists of `parts`.
pub fn put(out: &mut Vec<u8>, parts: &[&[u8]]) {
    let len: usize = parts.iter().map(|part| part.len()).sum();
    assert!(len <= FRAME_MAX, "a frame of {len} bytes is ours to avoid");
    out.extend_from_slice(&(len as u32).to_le_bytes());
    for part in parts {
        out.extend_from_slice(part);
    }
}

/// What has arrived, and is not taken yet.
#[derive(Default)]
pub struct Frames {
    bytes: Vec<u8>,
    start: usize,
}

impl Frames {
    /// More of the stream.
    pub fn add(&mut self, bytes: &[u8]) {
        if self.start == self.bytes.len() {
            self.bytes.clear();
            self.start = 0;
        } else if self.start > SLACK {
            self.bytes.drain(..self.start);
            self.start = 0;
        }
        self.bytes.extend_from_slice(bytes);
    }

    /// The next whole frame.
    ///
    /// # Errors
    /// A length above [`FRAME_MAX`].
    pub fn take(&mut self) -> Result<Option<&[u8]>, TooLong> {
        let left = &self.bytes[self.start..];
        let Some((head, rest)) = left.split_first_chunk::<LENGTH>() else {
            return Ok(None);
        };
        let len = u32::from_le_bytes(*head) as usize;
        if len > FRAME_MAX {
            return Err(TooLong(len));
        }
        if rest.len() < len {
            return Ok(None);
        }
        let begin = self.start + LENGTH;
        self.start = begin + len;
        Ok(Some(&self.bytes[begin..self.start]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_come_out_as_they_went_in_however_the_stream_is_cut() {
        let texts: [&[u8]; 4] = [b"", b"a", &[7; 300], b"end"];
        let mut stream = Vec::new();
        for text in texts {
            put(&mut stream, &[text]);
        }
        for step in [1, 3, 5, 64, stream.len()] {
            let (mut frames, mut found) = (Frames::default(), Vec::new());
            for piece in stream.chunks(step) {
                frames.add(piece);
                while let Some(frame) = frames.take().unwrap() {
                    found.push(frame.to_vec());
                }
            }
            assert_eq!(found, texts);
        }
    }

    #[test]
    fn parts_are_one_frame() {
        let mut stream = Vec::new();
        put(&mut stream, &[b"ab", b"", b"c"]);
        assert_eq!(stream, b"\x03\0\0\0abc");
    }

    #[test]
    fn a_length_that_cannot_be_is_refused_and_not_reserved() {
        let mut frames = Frames::default();
        frames.add(&u32::MAX.to_le_bytes());
        assert_eq!(frames.take(), Err(TooLong(u32::MAX as usize)));
    }

    #[test]
    fn memory_of_taken_frames_is_used_again() {
        let (mut frames, mut stream) = (Frames::default(), Vec::new());
        put(&mut stream, &[&[1; 1000]]);
        // A byte of the next frame is always left over, so the buffer is never quite empty.
        frames.add(&stream[..1]);
        for _ in 0..10_000 {
            frames.add(&stream[1..]);
            frames.add(&stream[..1]);
            assert!(frames.take().unwrap().is_some());
        }
        assert!(frames.bytes.len() < 2 * SLACK, "{}", frames.bytes.len());
    }
}
