//! Emptied directories that take their old ones' places: from a committed record on they count.

use super::check::Checker;
use super::ghost::Row;

impl Checker {
    /// The directory that this member starts with.
    pub fn lives(&mut self, member: u8, incarnation: u64) {
        self.ghost(member).incarnation = incarnation;
    }

    /// These rows are committed, by a quorum of those that counted before.
    pub(super) fn note_admitted(&mut self, rows: &[Row]) {
        for row in rows {
            let Some((member, incarnation)) = admitted(self.committed_bytes(row)) else {
                continue;
            };
            let ghost = self.ghost(member);
            if ghost.incarnation == incarnation {
                ghost.votes = true;
            }
        }
    }
}

/// The member and the incarnation that a frame's record admits: schema 1111, template 90.
fn admitted(frame: &[u8]) -> Option<(u8, u64)> {
    let record = frame.get(32..)?;
    let half = |at: usize| Some(u16::from_le_bytes(record.get(at..at + 2)?.try_into().ok()?));
    if half(2)? != 90 || half(4)? != 1111 {
        return None;
    }
    let member = i32::from_le_bytes(record.get(16..20)?.try_into().ok()?);
    let incarnation = u64::from_le_bytes(record.get(20..28)?.try_into().ok()?);
    Some((member as u8, incarnation))
}
