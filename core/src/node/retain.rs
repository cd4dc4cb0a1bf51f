//! How much of the log is kept: never more bytes than are configured, whatever others still want.
//!
//! A member purges only when it needs the room: so what others may need to catch up is there for as
//! long as possible, and whoever needs more than that is sent a snapshot. It purges whole segments,
//! below the older of its two snapshots while that is enough, so that a damaged newest one can be
//! done without; below the newest, if that is what it takes. Without a snapshot nothing is purged:
//! the log fills up, and that is back pressure.

use core::time::Duration;

use super::Node;
use crate::log::segment_base;
use crate::time::Instant;
use crate::units::Position;
use crate::wire::member::TermBase;

/// Segments that exist ahead of the one being written, and that one: they count as well.
const SEGMENTS_AHEAD: u64 = 3;
/// Clients' messages leave one segment more to what keeps the cluster going.
const SEGMENTS_KEPT: u64 = SEGMENTS_AHEAD + 1;

/// A follower that is full waits so long for a snapshot of its own.
const CUT_OFF_AFTER: Duration = Duration::from_secs(10);

/// How many segments a bounded log needs at least.
pub(super) const SEGMENTS_MIN: u64 = 8;
const _: () = assert!(SEGMENTS_MIN > SEGMENTS_KEPT);

impl<const N: usize, const S: usize> Node<N, S> {
    /// The oldest byte that this member still has, and the term that wrote it.
    pub fn log_start(&self) -> TermBase {
        self.start
    }

    /// How many bytes of clients' messages and all else a bounded log has room for.
    fn room(&self) -> u64 {
        let kept = SEGMENTS_KEPT * u64::from(self.config.segment_length);
        self.config.log_max.saturating_sub(kept)
    }

    /// After how much log a snapshot is due, by what is configured and by what a bounded log needs:
    /// three to its room, so that one that fails does not fill it up. `None`: never.
    pub(super) fn snapshot_period(&self) -> Option<u64> {
        let bytes = self.config.snapshots.every_bytes;
        let configured = (bytes > 0).then_some(bytes);
        let needed = (self.config.log_max > 0).then(|| self.room() / 3);
        [configured, needed].into_iter().flatten().min()
    }

    /// From where on the log has grown so much that one is due; nowhere while one is on its way.
    pub(super) fn snapshot_from(&self) -> Position {
        let known = &self.snapshots;
        let is_begun = known.appended == Some(self.raft.term());
        match self.snapshot_period() {
            Some(bytes) if self.config.snapshots.enabled && !is_begun => known.last.plus(bytes),
            _ => Position::MAX,
        }
    }

    /// The log is about to be full, and no snapshot on this disk would let any of it go.
    pub(super) fn is_stuck(&self) -> bool {
        let segment = self.config.segment_length;
        let (clients_end, _) = self.disk_limits();
        let is_full = self.raft.tail.end.plus(u64::from(segment)) >= clients_end;
        let helps = |at: Position| segment_base(at, segment) > self.start.base;
        let newest = self.snapshots.stored[0];
        is_full && !newest.is_some_and(|newest| helps(newest.position))
    }

    /// A follower whose log is full, and which has not come to a snapshot for so long that it
    /// cannot be waited for: its own failed, and what the leader has is behind what it has no room
    /// for.
    pub(super) fn is_cut_off(&self, now: Instant) -> bool {
        self.is_stuck()
            && self.leader_end > self.raft.tail.end
            && self.snapshot_due().is_none()
            && now.since(self.last_action_at()) >= CUT_OFF_AFTER
    }

    /// Past this the log must not grow, on disk: for clients' messages, and for all else.
    pub(super) fn disk_limits(&self) -> (Position, Position) {
        let most = self.config.log_max;
        if most == 0 {
            return (Position::MAX, Position::MAX);
        }
        let segment = u64::from(self.config.segment_length);
        let base = segment_base(self.start.base, self.config.segment_length);
        let end = |segments: u64| base.plus(most.saturating_sub(segments * segment));
        (end(SEGMENTS_KEPT), end(SEGMENTS_AHEAD))
    }

    /// Whole segments below this may be deleted, the oldest first; then `handle_purged` is to be
    /// called. At or below `log_start` if there is nothing to delete.
    pub fn purgeable(&self) -> Position {
        let segment = self.config.segment_length;
        let most = self.config.log_max;
        if most == 0 {
            return self.start.base;
        }
        // A quarter of the room is made free at a time, and a segment at least.
        let room = self.room();
        let free = (room / 4).max(u64::from(segment));
        let wanted = self.raft.tail.end.minus(room - free);
        let wanted = wanted.plus(u64::from(segment) - 1);
        let [newest, older] = self.snapshots.stored;
        let Some(newest) = newest else {
            return self.start.base;
        };
        let (clients_end, _) = self.disk_limits();
        let is_full = self.raft.tail.end.plus(u64::from(segment)) >= clients_end;
        let spared = match older {
            _ if is_full => newest,
            Some(older) => older,
            // The log from its start on is what a damaged only snapshot can be done without by.
            None => return self.start.base,
        };
        let behind = self.hosts.iter().map(|host| host.position).min();
        let behind = behind.unwrap_or(self.applier.position);
        let to = wanted.min(spared.position).min(behind);
        segment_base(to, segment).max(self.start.base)
    }

    /// The log starts at `start` now: what was below is deleted, or was never there. The term is
    /// that of the byte at `start`; zero if the driver does not know it.
    pub fn handle_purged(&mut self, start: Position) {
        if start <= self.start.base {
            return;
        }
        // There is room for more of the log.
        self.stir();
        let term = self.history.term_at(start).unwrap_or(self.start.term);
        self.start = TermBase { term, base: start };
    }
}
