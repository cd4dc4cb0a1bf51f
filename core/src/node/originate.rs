//! Records that the leader appends of its own accord: timers that are due, messages of services,
//! and the action that makes every member take a snapshot.
//!
//! What is due is read off the state of each service at *its* position, once that is past this
//! term's first record: by then it has seen whatever earlier leaders appended. What this leader has
//! appended and not seen committed it remembers, and forgets with its leadership.

use core::time::Duration;

use super::host::HostMemory;
use super::{Halt, Node, SNAPSHOT_ROOM};
use crate::broken::Broken;
use crate::log::{Log, append, encoded_len};
use crate::planted::Planted;
use crate::time::{Instant, Now, Timestamp};
use crate::units::{ServiceMessageId, Term};
use crate::wire::cluster::{ClusterAction, ClusterActionRequest, ServiceMessage, TimerEvent};
use crate::wire::sbe::HEADER;

/// How many timers of one service one call fires at most.
const TIMERS_PER_CALL: usize = 16;
/// How many messages of one service one call appends at most.
const MESSAGES_PER_CALL: usize = 64;

impl<const N: usize, const S: usize> Node<N, S> {
    /// The term in which this member may append records of its own now.
    pub(super) fn originating(&self) -> Option<Term> {
        let term = self.clients.leading()?;
        (term == self.raft.term() && self.raft.admits()).then_some(term)
    }

    /// Whether this member may have something of its own to append.
    #[inline]
    pub(super) fn may_originate(&self, now: Now) -> bool {
        if !self.raft.admits() {
            return false;
        }
        let timestamp = self.timestamp(now);
        let is_owed = self.hosts.iter().any(|host| host.owes(timestamp));
        let snapshots = self.config.snapshots.enabled;
        is_owed || self.heard.strange || snapshots && self.wants_snapshot(now.instant)
    }

    /// Appends what keeps the cluster going: the action of a snapshot, and the admission of a new
    /// directory.
    pub(super) fn originate_actions<L: Log>(&mut self, now: Now, term: Term, log: &mut L) {
        let timestamp = self.timestamp(now);
        self.append_action(term, timestamp, now.instant, log);
        self.append_admission(term, log);
    }

    /// Appends what is due, as far as `log` has room. True if there may be more to do at once.
    /// Bounded by a number of records for each service, and its timers.
    pub(super) fn originate<L: Log>(
        &mut self,
        now: Now,
        term: Term,
        log: &mut L,
        memory: &mut [u8],
    ) -> bool {
        let timestamp = self.timestamp(now);
        let mut more = false;
        for slot in 0..self.hosts.len() {
            let Some(host) = self.hosts.get(slot) else {
                break;
            };
            let is_behind = host.position < self.applier.opened;
            if !host.owes(timestamp)
                || is_behind && !Planted::TimersOfAServiceThatIsBehind.is_active()
            {
                continue;
            }
            let share = HostMemory::of(memory, slot, self.hosts.len());
            more |= self.append_timers(term, timestamp, slot, &share, log);
            more |= self.append_messages(term, timestamp, slot, &share, log);
        }
        more
    }

    fn append_timers<L: Log>(
        &mut self,
        term: Term,
        timestamp: Timestamp,
        slot: usize,
        memory: &HostMemory<'_>,
        log: &mut L,
    ) -> bool {
        let Some(host) = self.hosts.get_mut(slot) else {
            return false;
        };
        for _ in 0..TIMERS_PER_CALL {
            let next = host.next_timer(memory);
            let Some(timer) = next.filter(|t| t.deadline <= timestamp) else {
                return false;
            };
            let event = TimerEvent {
                term,
                correlation: timer.correlation,
                timestamp,
                service: host.id,
                arming: timer.arming,
            };
            let mut bytes = [0; HEADER + TimerEvent::BLOCK as usize];
            let written = event.emit(&mut bytes);
            if written != Some(bytes.len()) {
                self.halt(Halt::Broken(Broken::Encoding));
                return false;
            }
            let appended = append(log, term, &[&bytes], self.config.mtu);
            host.blocked = appended.is_err();
            if let Err(error) = appended {
                self.refused(error);
                return false;
            }
            if let Err(broken) = host.note_fired(&timer) {
                self.halt(Halt::Broken(broken));
                return false;
            }
            host.next_due = host.next_timer(memory).map(|timer| timer.deadline);
        }
        true
    }

    fn append_messages<L: Log>(
        &mut self,
        term: Term,
        timestamp: Timestamp,
        slot: usize,
        memory: &HostMemory<'_>,
        log: &mut L,
    ) -> bool {
        let Some(host) = self.hosts.get_mut(slot) else {
            return false;
        };
        for _ in 0..MESSAGES_PER_CALL {
            let Some((number, payload)) = host.next_outgoing(memory) else {
                return false;
            };
            let message = ServiceMessage {
                term,
                id: ServiceMessageId {
                    service: host.id,
                    number,
                },
                timestamp,
                payload,
            };
            let parts = [&message.header()[..], payload];
            if let Err(error) = append(log, term, &parts, self.config.mtu) {
                self.refused(error);
                return false;
            }
            host.note_appended(number, payload.len());
        }
        true
    }

    fn append_action<L: Log>(
        &mut self,
        term: Term,
        timestamp: Timestamp,
        now: Instant,
        log: &mut L,
    ) {
        if !self.wants_snapshot(now) {
            return;
        }
        let len = HEADER + usize::from(ClusterActionRequest::BLOCK);
        let (start, mtu) = (log.end(), self.config.mtu);
        let taken = encoded_len(start, len, mtu, log.segment_length()).unwrap_or(0);
        let action = ClusterActionRequest {
            term,
            position: start.plus(taken),
            timestamp,
            action: ClusterAction::Snapshot,
            flags: None,
        };
        let mut bytes = [0; SNAPSHOT_ROOM];
        let len = action.emit(&mut bytes).unwrap_or(0);
        let record = bytes.get(..len).unwrap_or_default();
        match append(log, term, &[record], mtu) {
            Ok(_) => {
                self.snapshots.asked = false;
                self.snapshots.appended = Some(term);
            }
            Err(error) => self.refused(error),
        }
    }

    /// When the first timer of a service is due, by the clocks as they were seen last.
    pub(super) fn timer_deadline(&self) -> Option<Instant> {
        self.originating()?;
        // One that is behind this term's first record waits until it has come to it; what the log
        // has no room for, until it has: neither is a matter of time.
        let opened = self.applier.opened;
        let hosts = self.hosts.iter();
        let hosts = hosts.filter(|host| host.position >= opened && !host.blocked);
        let due = hosts.filter_map(|host| host.next_due).min()?;
        let wait = due.0.saturating_sub(self.clock.wall.0).max(0) as u64;
        Some(self.clock.instant.plus(Duration::from_millis(wait)))
    }
}
