//! A turn of a board's superloop, and what is looked for afterwards: on its device, in its log, in
//! what it has sent.

use coracle_core::node::Event;
use coracle_core::service::Role;
use coracle_core::units::{Mark, Position};
use coracle_embedded::{Next, OpenError, StoreError, TurnError};

use super::board::{Running, SECTIONS};
use super::check::{Checked, Seen, broken};
use super::clock::{MILLI, Nanos};
use super::ghost::Row;
use super::member::Member;
use super::mind::SERVICES;
use super::net::{Datagram, Door, member_address, peer_at};
use super::turn::is_on_medium;
use super::world::{Stop, World};

/// More turns in a row in which there was more to do, and nothing was done.
const IDLE_TURNS_MAX: u64 = 8192;
/// A call that changes something takes so much of what a flush takes.
const CALLS_OF_A_FLUSH: u64 = 8;

type Failed = TurnError<coracle_devices::PowerCut>;

fn running(member: &mut Member) -> Option<&mut Running> {
    member.board.as_mut()?.running.as_mut()
}

impl World {
    /// One turn: the power may go at any call to the device.
    pub(super) fn turn_board(&mut self, member: usize) -> Result<(), Stop> {
        let m = &mut self.members[member];
        let (now, fuse, is_stalled) = (m.clock.read(self.now), m.fuse, m.stalled[0]);
        let Some(board) = &mut m.board else {
            return Ok(());
        };
        let Some(running) = &mut board.running else {
            return Ok(());
        };
        running.turn_at = None;
        running.service.borrow_mut().ready = !is_stalled;
        let ports = running.superloop.board();
        ports.now = now;
        if let Some((left, _)) = fuse {
            board.device.with(|device| device.cut_after(left.into()));
        }
        let before = board.device.with(|device| device.calls());
        let outcome = running.superloop.turn();
        let used = board.device.with(|device| {
            device.cut_after(u64::MAX);
            device.calls() - before
        });
        self.step += 1;
        self.stats.steps += 1;
        let next = match outcome {
            Ok(next) => next,
            Err(error) => return self.board_stopped(member, error),
        };
        self.look_at_board(member)?;
        let has_sent = self.board_sends(member, used)?;
        self.check_stays(member)?;
        self.burn_fuse(member, used)?;
        self.next_turn(member, next, has_sent || used > 0)?;
        Ok(())
    }

    fn next_turn(&mut self, member: usize, next: Next, has_done: bool) -> Checked {
        let m = &mut self.members[member];
        let is_idle = next == Next::Now && !has_done;
        m.polls_in_a_row = if is_idle { m.polls_in_a_row + 1 } else { 0 };
        if m.polls_in_a_row > IDLE_TURNS_MAX {
            let detail = format!("n{member} says there is more to do and does nothing");
            broken("Every Call Bounded", detail)?;
        }
        let idle = 20 * MILLI;
        let after = match next {
            Next::Now => 1 + self.rng.below(self.plan.turn.most),
            Next::At(at) => m.clock.when(at).saturating_sub(self.now).clamp(1, idle),
            Next::Datagram => idle,
        };
        self.check_rest(member, after)?;
        self.want_turn(member, after);
        Ok(())
    }

    fn burn_fuse(&mut self, member: usize, used: u64) -> Result<(), Stop> {
        let Some((left, power)) = &mut self.members[member].fuse else {
            return Ok(());
        };
        match u64::from(*left).checked_sub(used + 1) {
            None => Err(Stop::Crash { power: *power }),
            Some(rest) => {
                *left = rest as u32;
                Ok(())
            }
        }
    }

    /// The turn ended in the middle: what it has done so far is looked at, and it dies.
    fn board_stopped(&mut self, member: usize, error: Failed) -> Result<(), Stop> {
        let has_failed = self.has_read_failed(member);
        let fuse = self.members[member].fuse;
        let power = !has_failed && fuse.is_some_and(|(_, power)| power);
        let seed = self.rng.bits();
        if let Some(board) = &mut self.members[member].board {
            board.lose(power, seed);
        }
        match error {
            // The node is in the middle of beginning anew: nothing that it shows counts.
            TurnError::Open(_) => self.forget_cuts(member),
            _ => self.look_at_board(member)?,
        }
        let is_device = matches!(
            error,
            TurnError::Store(StoreError::Device(_))
                | TurnError::Open(OpenError::Store(StoreError::Device(_)))
        );
        if has_failed || (is_device && fuse.is_some()) {
            return Err(Stop::Crash { power });
        }
        broken("Never Stops", format!("n{member} stops: {error:?}"))?;
        Ok(())
    }

    fn forget_cuts(&mut self, member: usize) {
        let Some(running) = running(&mut self.members[member]) else {
            return;
        };
        while let Some(event) = running.superloop.poll_event() {
            if let Event::Truncated { to, .. } = event {
                self.checker.cut_unseen(member as u8, to.get());
            }
        }
    }

    /// Everything there is to check but what was sent.
    fn look_at_board(&mut self, member: usize) -> Result<(), Stop> {
        let Some(running) = running(&mut self.members[member]) else {
            return Ok(());
        };
        let events: Vec<Event> = std::iter::from_fn(|| running.superloop.poll_event()).collect();
        let cuts = events.iter().filter_map(|event| match event {
            Event::Truncated { to, .. } => Some(to.get()),
            _ => None,
        });
        let cut = cuts.min();
        let taken = std::mem::take(&mut running.superloop.board().taken);
        let is_anew = running.superloop.node().config().seed != running.seed;
        let was = running.known;
        if is_anew {
            if let Some(to) = cut {
                self.checker.cut_unseen(member as u8, to);
            }
            self.members[member].life += 1;
            self.board_began(member)?;
        }
        self.see_ballot(member)?;
        self.see_purge(member);
        self.see_moments(member)?;
        self.observe_board(member, cut.filter(|_| !is_anew))?;
        self.watch_divergence(member)?;
        self.see_durable(member, cut)?;
        self.see_snapshot(member, was.1, is_anew)?;
        for datagram in taken {
            if let Some((from, Door::Member)) = peer_at(datagram.from) {
                self.note_told(member, usize::from(from), &datagram.bytes);
            }
        }
        for event in events {
            self.event(member, event)?;
        }
        Ok(())
    }

    /// Term and vote are on the medium before anything is said because of them.
    fn see_ballot(&mut self, member: usize) -> Checked {
        let Some(board) = &mut self.members[member].board else {
            return Ok(());
        };
        let calls = board.device.with(|device| device.calls());
        match &mut board.running {
            Some(running) if running.looked != calls => running.looked = calls,
            _ => return Ok(()),
        }
        let Some(state) = board.state() else {
            let detail = format!("n{member} has no node state on its medium");
            return broken("Terms Never Forgotten", detail);
        };
        let ballot = (state.term.get(), state.vote.map(|vote| vote.get()));
        if self.checker.ballot(member as u8) == ballot {
            return Ok(());
        }
        let vote = ballot.1.map_or(u64::MAX, u64::from);
        self.note(member as u8, "ballot on disk", ballot.0.into(), vote);
        self.checker.persisted(member as u8, ballot)
    }

    fn see_purge(&mut self, member: usize) {
        let Some(running) = running(&mut self.members[member]) else {
            return;
        };
        let start = running.status().start.get();
        let was = std::mem::replace(&mut running.known.0, start);
        if start > was {
            running.verified = running.verified.max(start);
            self.checker.purged(member as u8, start);
            self.stats.purges += 1;
            self.note(member as u8, "purges", was, start);
        }
    }

    /// What it committed as the leader that it is no more.
    fn see_moments(&mut self, member: usize) -> Checked {
        let Self {
            members, checker, ..
        } = self;
        let board = members[member].board.as_ref();
        let Some(running) = board.and_then(|board| board.running.as_ref()) else {
            return Ok(());
        };
        let node = running.superloop.node();
        let now = (node.role() == Role::Leader).then(|| node.joined().get());
        let on_medium =
            |m: u8, row: &Row, bytes: &[u8]| is_on_medium(&members[usize::from(m)], row, bytes);
        for (term, commit) in running.moments.take() {
            if Some(term) != now {
                checker.had_committed(member as u8, term, commit, &on_medium)?;
            }
        }
        Ok(())
    }

    /// Compares what a board shows with what the checker knows.
    pub(super) fn observe_board(&mut self, member: usize, cut: Option<u64>) -> Checked {
        let Self {
            members, checker, ..
        } = self;
        let board = members[member].board.as_ref();
        let Some(running) = board.and_then(|board| board.running.as_ref()) else {
            return Ok(());
        };
        let service = running.service.borrow();
        if let Some(at) = service.refused {
            let detail = format!("n{member} refused its service's answer at {at}");
            return broken("Same Answers", detail);
        }
        let node = running.superloop.node();
        let mut services = [(0, 0); SERVICES];
        let applied = node.services().next().map_or(0, |s| s.applied.get());
        services[0] = (applied, service.sound_digest());
        let seen = Seen {
            member: member as u8,
            role: node.role(),
            joined: node.joined().get(),
            term: node.raft().term().get(),
            commit: node.commit().get(),
            applied: node.applied().get(),
            services,
            cut,
        };
        let on_medium =
            |m: u8, row: &Row, bytes: &[u8]| is_on_medium(&members[usize::from(m)], row, bytes);
        checker.cut_in_turn(&seen)?;
        let seen = Seen { cut: None, ..seen };
        checker.observe(&seen, running.superloop.log(), &on_medium)
    }

    /// What is reported durable is on the medium, every byte of it.
    fn see_durable(&mut self, member: usize, cut: Option<u64>) -> Checked {
        let m = &self.members[member];
        let Some(running) = m.board.as_ref().and_then(|board| board.running.as_ref()) else {
            return Ok(());
        };
        let node = running.superloop.node();
        let (durable, term) = (node.raft().flushed(), node.joined());
        let verified = running.verified.min(cut.unwrap_or(u64::MAX));
        let log = self.checker.log(member as u8);
        let rows = log.above(verified).iter();
        for row in rows.take_while(|row| row.end <= durable.get()) {
            let had = m.rotten.as_ref().is_some_and(|rotten| rotten.had(row));
            if !had
                && !m.holds(
                    row.start,
                    log.bytes(row.start, row.start + row.meaning() as u64),
                )
            {
                let detail = format!(
                    "n{member} has {durable} durable, and what is at {} is not on its medium",
                    row.start
                );
                return broken("Durable Is On The Medium", detail);
            }
        }
        if durable > Position::new(log.end()) {
            let detail = format!("n{member} has {durable} durable of {}", log.end());
            return broken("Durable Within Log", detail);
        }
        if let Some(running) = self::running(&mut self.members[member]) {
            running.verified = verified.max(durable.get());
        }
        let position = durable;
        self.checker.reported(member as u8, Mark { term, position });
        Ok(())
    }

    /// A set that counts is whole on the medium, and the same as everybody's.
    fn see_snapshot(&mut self, member: usize, was: Option<Position>, is_anew: bool) -> Checked {
        let Some(board) = &mut self.members[member].board else {
            return Ok(());
        };
        let Some(running) = &mut board.running else {
            return Ok(());
        };
        let snapshot = running.status().snapshot;
        running.known.1 = snapshot;
        let Some(position) = snapshot.filter(|_| snapshot != was).map(|p| p.get()) else {
            return Ok(());
        };
        // The cluster's own holds the digest of the other: a difference is found there.
        for index in (0..SECTIONS).rev() {
            let Some(bytes) = board.section(position, index) else {
                let detail = format!("n{member} has no {position} on its medium");
                return broken("Snapshots Are Durable", detail);
            };
            match is_anew {
                true => self
                    .checker
                    .installed(member as u8, position, index, &bytes)?,
                false => self
                    .checker
                    .section(member as u8, position, index, &bytes)?,
            }
        }
        let (count, what) = match is_anew {
            true => (&mut self.stats.installs, "installs"),
            false => (&mut self.stats.snapshots, "snapshot stored"),
        };
        *count += 1;
        self.note(member as u8, what, position, 0);
        Ok(())
    }

    /// What was sent leaves when the device is done. True if there was anything.
    fn board_sends(&mut self, member: usize, used: u64) -> Result<bool, Stop> {
        let busy = self.busy(member, used);
        let m = &mut self.members[member];
        m.paused_until = m.paused_until.max(self.now + busy);
        let Some(running) = running(m) else {
            return Ok(false);
        };
        let sent = std::mem::take(&mut running.superloop.board().sent);
        let has_sent = !sent.is_empty();
        for (door, to, bytes) in sent {
            self.check_transmits(member)?;
            if door == Door::Member {
                self.check_sent(member, to, &bytes)?;
            }
            let from = member_address(member as u8, door);
            self.send(Datagram { from, to, bytes }, busy);
        }
        Ok(has_sent)
    }

    /// How long a device takes for so many calls that change something: the board waits for it.
    fn busy(&mut self, member: usize, calls: u64) -> Nanos {
        if calls == 0 {
            return 0;
        }
        let disk = self.plan.disk;
        let (least, most, calls) = match self.members[member].slow_until > self.now {
            true => (100 * MILLI, 1000 * MILLI, calls.min(CALLS_OF_A_FLUSH)),
            false => (disk.least, disk.most, calls),
        };
        self.rng.range(least, most) * calls / CALLS_OF_A_FLUSH
    }
}
