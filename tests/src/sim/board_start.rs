//! How a board starts, and what it finds then.

use std::cell::RefCell;
use std::rc::Rc;

use coracle_core::log::{Window, window_len};
use coracle_core::session::AllowAll;
use coracle_core::units::MemberId;
use coracle_embedded::{Application, Memory, OpenError, Store, StoreError, Superloop};

use super::board::{Ports, Running, Watched};
use super::board_service::Shared;
use super::check::{Checked, Violation};
use super::ghost::GhostLog;
use super::member::{CLUSTER, EGRESS, INGRESS, MESSAGE_MAX, SEGMENT, SESSIONS, WINDOW};
use super::mind::SHARE;
use super::plan::Profile;
use super::services::History;
use super::snapshots::Damage;
use super::stats::Fault;
use super::unwell::Unwell;
use super::world::World;

/// The longest datagram that any plan has, and more.
const DATAGRAM: usize = 2048;

fn lost(member: usize, detail: impl std::fmt::Display) -> Violation {
    Violation {
        invariant: "Restart Recovers",
        detail: format!("n{member}: {detail}"),
    }
}

/// As large as that of a process with files.
fn memory(mtu: usize) -> Memory<Vec<u8>> {
    Memory {
        log: vec![0; window_len(WINDOW, mtu)],
        ingress: vec![0; SESSIONS * INGRESS],
        reassembly: vec![0; 2 * (MESSAGE_MAX + 64)],
        egress: vec![0; SESSIONS * EGRESS],
        replay: vec![0; 16 * 1024],
        catchup: vec![0; 4 * 1024],
        assembly: vec![0; 2 * (MESSAGE_MAX + 64)],
        services: vec![0; SHARE],
        datagram: vec![0; DATAGRAM],
    }
}

impl World {
    /// Whether boards' devices fail now.
    pub(super) fn has_device_faults(&self) -> bool {
        !self.is_calm && !self.is_scripted && self.plan.profile != Profile::Calm
    }

    /// Starts a board that is down. The power may go in the middle of it, or a read fail: then it
    /// starts again later.
    pub(super) fn start_board(&mut self, member: usize) -> Checked {
        self.damage_board(member)?;
        let clock = self.new_clock();
        let config = self.config(member);
        let (now, mtu, acts) = (clock.read(self.now), self.plan.mtu, self.plan.services_act);
        let faults = self.has_device_faults();
        let cut = (faults && self.rng.chance(150_000)).then(|| self.rng.skewed(200));
        let fails = (faults && self.rng.chance(100_000)).then(|| self.rng.skewed(3000));
        let for_good = self.rng.chance(500_000);
        let m = &mut self.members[member];
        let Some(board) = &mut m.board else {
            return Ok(());
        };
        board.device.with(|device| {
            device.cut_after(cut.unwrap_or(u64::MAX));
            if let Some(reads) = fails {
                device.fail_read(reads, for_good);
            }
        });
        let service = Rc::new(RefCell::new(History::new(0, acts)));
        let application = Application {
            service: Shared(service.clone()),
            authenticator: AllowAll,
        };
        let (node, moments) = Watched::begin();
        let (ports, device) = (Ports::new(now), board.device.clone());
        let opened = Superloop::open_in(node, ports, device, application, config, memory(mtu));
        let superloop = match opened {
            Ok(superloop) => superloop,
            Err(error) => return self.board_did_not_start(member, error),
        };
        board.device.with(|device| device.cut_after(u64::MAX));
        board.forget();
        board.running = Some(Running {
            seed: superloop.node().config().seed,
            superloop,
            service,
            moments,
            unwell: Unwell::default(),
            turn_at: None,
            known: (0, None),
            looked: u64::MAX,
            verified: 0,
        });
        m.clock = clock;
        self.stats.boards += 1;
        self.board_began(member)?;
        self.want_turn(member, 0);
        self.observe_board(member, None)
    }

    fn board_did_not_start(
        &mut self,
        member: usize,
        error: OpenError<coracle_devices::PowerCut>,
    ) -> Checked {
        let has_failed = self.has_read_failed(member);
        let is_device = matches!(error, OpenError::Store(StoreError::Device(_)));
        if !(has_failed || is_device) {
            return Err(lost(member, format!("{error:?}")));
        }
        self.note(member as u8, "dies as it starts", 0, 0);
        self.end(member, !has_failed);
        Ok(())
    }

    /// Whether a device has failed to read since it started.
    pub(super) fn has_read_failed(&mut self, member: usize) -> bool {
        let board = self.members[member].board.as_ref();
        let has_failed = board.is_some_and(|board| board.device.with(|device| device.has_failed()));
        if has_failed {
            self.stats.count(Fault::ReadFailed);
        }
        has_failed
    }

    /// A node began on a board, or began anew: what it has found is what was promised.
    pub(super) fn board_began(&mut self, member: usize) -> Checked {
        let id = member as u8;
        let m = &self.members[member];
        let board = m.board.as_ref();
        let Some((board, running)) = board.and_then(|b| Some((b, b.running.as_ref()?))) else {
            return Ok(());
        };
        let (status, node) = (running.status(), running.superloop.node());
        // The node's start may be a snapshot above what has rotten: that is still there.
        let start = board.start_on_medium().unwrap_or(status.start.get());
        let end = status.appended.get();
        let (confirmed, snapshot) = (status.durable.get(), status.snapshot);
        let state = board.state();
        let state = state.ok_or_else(|| lost(member, "there is no node state"))?;
        let healing = node.healing().map(|(at, to)| (at.get(), to.get()));
        let left = m.rotten.as_ref().filter(|r| r.is_left(m, start));
        let damage = healing.or_else(|| left.map(|rotten| rotten.range()));
        let ghost = self.known_log(member, start);
        let window = running.superloop.log();
        let ghost = follow(member, ghost, (start, end), |ghost| {
            board.follow(ghost, window, end)
        })?;
        self.see_damage(member, damage)
            .map_err(|detail| lost(member, detail))?;
        self.note(id, "starts", confirmed, end);
        self.checker.lives(id, state.incarnation.0);
        self.checker.replaced(id, start);
        let ballot = (state.term.get(), state.vote.map(MemberId::get));
        self.checker
            .started(id, ghost, start, confirmed, ballot, state.votes)?;
        let m = &mut self.members[member];
        m.loaded = snapshot.map(|position| position.get());
        let (loaded, is_needless) = (m.loaded.unwrap_or(0), healing.is_none());
        if let Some(running) = m.board.as_mut().and_then(|b| b.running.as_mut()) {
            running.seed = running.superloop.node().config().seed;
            running.known = (status.start.get(), snapshot);
            // What has rotten below a snapshot stays so.
            running.verified = match damage.is_some() && is_needless {
                true => start.max(loaded),
                false => start,
            };
        }
        self.note_damage(member, damage.is_some(), is_needless);
        if snapshot.is_some() {
            self.stats.loads += 1;
            self.note(id, "loads", loaded, 0);
        }
        Ok(())
    }

    /// What rots on a board while it is down.
    fn damage_board(&mut self, member: usize) -> Checked {
        match std::mem::replace(&mut self.members[member].damage, Damage::None) {
            Damage::None => Ok(()),
            Damage::Log => self.rot_board(member),
            Damage::Newest => {
                self.rot_sets(member, 1);
                Ok(())
            }
            Damage::All => {
                self.rot_sets(member, 2);
                Ok(())
            }
        }
    }

    /// A start looks at the log and dies; then bytes of it rot that it has found sound.
    fn rot_board(&mut self, member: usize) -> Checked {
        let mtu = self.plan.mtu;
        let m = &mut self.members[member];
        let Some(board) = &mut m.board else {
            return Ok(());
        };
        board.device.with(coracle_devices::Device::spare);
        let opened = Store::open(board.device.clone(), SEGMENT);
        let (mut store, _) = opened.map_err(|error| lost(member, format!("{error:?}")))?;
        let window = Window::new(vec![0; window_len(WINDOW, mtu)], mtu, SEGMENT);
        let mut window = window.map_err(|error| lost(member, format!("{error:?}")))?;
        let recovered = store.recover(CLUSTER, &mut window, &mut [0; 16 * 1024]);
        let recovered = recovered.map_err(|error| lost(member, format!("{error:?}")))?;
        board.find();
        if recovered.corrupt.is_some() {
            return Ok(());
        }
        let (start, end) = (recovered.start.position.get(), recovered.tail.end.get());
        // A log that was replaced has nothing of what had rotten.
        let m = &self.members[member];
        let is_left = m.rotten.as_ref().is_some_and(|r| r.is_left(m, start));
        if !is_left {
            self.members[member].rotten = None;
        }
        let ghost = self.known_log(member, start);
        let Some(board) = &self.members[member].board else {
            return Ok(());
        };
        let ghost = follow(member, ghost, (start, end), |ghost| {
            board.follow(ghost, &window, end)
        })?;
        self.members[member].damage = Damage::Log;
        self.rot_log(member, (start, recovered.confirmed.get()), &ghost);
        Ok(())
    }

    /// The newest so many sets rot, if the member can live with it.
    fn rot_sets(&mut self, member: usize, most: usize) {
        let Some(board) = &mut self.members[member].board else {
            return;
        };
        // What is in a disk's cache comes to the disk first.
        board.device.with(coracle_devices::Device::spare);
        let _opened = Store::open(board.device.clone(), SEGMENT).is_ok();
        board.find();
        let (sets, start) = (board.sets(), board.log_start());
        // One of the same position is what was there before it was sent, and counts no more.
        let newest = sets.first().map_or(0, |set| set.0);
        let other = sets.get(1).filter(|set| set.0 >= start && set.0 < newest);
        let is_spare = start == 0 || (most == 1 && other.is_some());
        if !is_spare {
            return;
        }
        for (_, sections) in sets.iter().take(most) {
            let (at, len) = self.rng.pick(sections);
            board.rot_at(at + self.rng.below(len as u64) as usize);
            self.stats.count(Fault::SnapshotDamaged);
        }
    }
}

/// A log that starts and ends there, with what is known of it already.
fn follow(
    member: usize,
    mut known: GhostLog,
    (start, end): (u64, u64),
    read: impl FnOnce(GhostLog) -> Result<GhostLog, u64>,
) -> Result<GhostLog, Violation> {
    if known.end() < start {
        return Err(lost(member, format!("the log starts at {start}")));
    }
    if known.end() > end && !known.truncate(end) {
        return Err(lost(member, format!("the log ends in mid-frame, at {end}")));
    }
    read(known).map_err(|at| lost(member, format!("no frame at {at} of a recovered log")))
}
