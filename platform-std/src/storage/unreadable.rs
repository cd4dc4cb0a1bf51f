//! Blocks of the log that the disk cannot give back (`EIO`).
//!
//! Below what the newest slot says was durable for certain, such a block is damage like any other:
//! the frames that have bytes in it are asked of the other members, and written over. Above that
//! the end of the log could as well be a write that was cut, which is no damage, and a member that
//! took one for the other would forget what it has acknowledged. So there it is an error, unless
//! the log is seen to end before; so it is where the slots are that say what was certain, in a
//! file's header and where the newest of those leads.

use std::io;

use coracle_core::units::Position;

use super::error::StorageError;
use super::recover::Reader;
use super::segment::{BLOCK, Segment};

/// What stands for bytes that cannot be read. No frame's header begins like this, and where it is
/// within a frame the checksum tells.
const NOTHING: u8 = 0xE1;

/// Whether the disk could not give something back.
pub(super) fn is_unreadable(error: &StorageError) -> bool {
    let is_eio = |error: &io::Error| error.raw_os_error() == Some(libc::EIO);
    matches!(error, StorageError::Io { error, .. } if is_eio(error))
}

/// As [`Reader::read`], with other bytes in place of those in unreadable blocks that end at or
/// below `certain`. Above that it reads up to the first such block, and says what is wrong with it:
/// a file that was used before has bytes behind the log's end of which nobody needs any.
///
/// # Errors
/// Any error of the system, with the file's path.
pub(super) fn read(
    reader: &mut Reader,
    at: Position,
    bytes: &mut [u8],
    certain: Position,
) -> Result<(usize, Option<StorageError>), StorageError> {
    match reader.read(at, bytes) {
        Err(error) if is_unreadable(&error) => tracing::error!(%error, "a part of the log"),
        other => return Ok((other?, None)),
    }
    let mut done = 0;
    while done < bytes.len() {
        let from = at.plus(done as u64);
        let end = block_end(from.get());
        let run = ((end - from.get()) as usize).min(bytes.len() - done);
        let run = &mut bytes[done..done + run];
        done += match reader.read(from, run) {
            // The file ends here.
            Ok(0) => break,
            Ok(len) => len,
            Err(error) if is_unreadable(&error) && end <= certain.get() => {
                tracing::error!(%error, "what cannot be read is taken for damaged");
                run.fill(NOTHING);
                run.len()
            }
            Err(error) if is_unreadable(&error) && done > 0 => return Ok((done, Some(error))),
            Err(error) => return Err(error),
        };
    }
    Ok((done, None))
}

/// Writes `bytes` of the stream from `offset` bytes after the segment's base on, whole blocks at a
/// time: whatever else is in one that cannot be read is lost, and is damage until it is written as
/// well. Only blocks that end at or below `certain` bytes after the base.
///
/// # Errors
/// Any error of the system, with the file's path.
pub(super) fn write_over(
    segment: &Segment,
    offset: u64,
    bytes: &[u8],
    certain: u64,
) -> Result<(), StorageError> {
    let end = offset + bytes.len() as u64;
    let mut at = offset;
    while at < end {
        let next = block_end(at);
        let start = next - BLOCK;
        let mut block = [NOTHING; BLOCK as usize];
        match segment.read_data(start, &mut block) {
            Err(error) if is_unreadable(&error) && next <= certain => block.fill(NOTHING),
            read => read?,
        }
        let until = end.min(next);
        let healed = &bytes[(at - offset) as usize..(until - offset) as usize];
        block[(at - start) as usize..(until - start) as usize].copy_from_slice(healed);
        segment.write_data(start, &block)?;
        at = until;
    }
    Ok(())
}

/// Where the block ends that the byte at `at` is in. (A segment's base is a multiple as well.)
fn block_end(at: u64) -> u64 {
    (at / BLOCK + 1) * BLOCK
}
