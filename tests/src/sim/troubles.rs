//! Troubles: what goes wrong in a run, drawn from its plan.

use std::rc::Rc;

use coracle_core::service::Role;
use coracle_core::units::MemberId;

use super::check::Violation;
use super::clock::{Nanos, SECOND};
use super::mind::SERVICES;
use super::net::FIRST_CLIENT;
use super::plan::Trouble;
use super::snapshots::Damage;
use super::stats::Fault;
use super::world::{What, World};

impl World {
    pub(super) fn trouble_event(&mut self) -> Result<bool, Violation> {
        if self.is_calm || self.is_scripted {
            return Ok(true);
        }
        if let Some(trouble) = self.plan.draw(&mut self.rng) {
            self.cause(trouble)?;
        }
        self.schedule_trouble();
        Ok(true)
    }

    /// Puts the next trouble on the calendar.
    pub fn schedule_trouble(&mut self) {
        let after = self.rng.range(1, 2 * self.plan.trouble_every);
        self.schedule(self.now + after, What::Trouble);
    }

    fn cause(&mut self, trouble: Trouble) -> Result<(), Violation> {
        let member = self.rng.below(self.members.len() as u64) as usize;
        let leader = self.leader().unwrap_or(member);
        let lasts = self
            .rng
            .range(self.plan.trouble_most / 10, self.plan.trouble_most);
        match trouble {
            Trouble::Isolate => self.isolate(member, lasts),
            Trouble::IsolateLeader => self.isolate(leader, lasts),
            Trouble::Split => self.split(lasts, false),
            Trouble::Bridge => self.split(lasts, true),
            Trouble::OneWay => self.cut_one_way(member, lasts),
            Trouble::Heal => {
                self.net.heal();
                self.stats.count(Fault::Heal);
            }
            Trouble::Kill => self.light_fuse(member, false),
            Trouble::KillLeader => self.light_fuse(leader, false),
            Trouble::Power => self.light_fuse(member, true),
            Trouble::PowerAll => self.all_lose_power()?,
            Trouble::Wipe => self.wipe(member),
            Trouble::Stall => {
                let one = self.rng.below(2 * SERVICES as u64) as usize;
                let stalled = &mut self.members[member].stalled;
                match stalled.get_mut(one) {
                    Some(stalled) => *stalled = true,
                    None => *stalled = [true; SERVICES],
                }
                self.stats.count(Fault::ServiceStall);
                self.schedule(self.now + lasts, What::Unstall(member));
            }
            Trouble::Pause => {
                self.members[member].paused_until = self.now + lasts;
                self.stats.count(Fault::NotPolled);
            }
            Trouble::SlowDisk => self.slow_disk(member, lasts),
            Trouble::WallStep => self.step_wall(member),
            Trouble::Rate => self.change_rate(member),
            Trouble::Resign => self.resign(leader)?,
            Trouble::Transfer => self.transfer(leader, member)?,
            Trouble::ClientGone | Trouble::ClientSilent => self.trouble_client(trouble, lasts),
            Trouble::Snapshot => self.ask_snapshot(leader)?,
            Trouble::Rot => {
                let damage = match self.rng.below(10) {
                    0..3 => Damage::All,
                    3..6 => Damage::Newest,
                    _ => Damage::Log,
                };
                let is_everywhere = damage == Damage::Log && self.rng.chance(300_000);
                for doomed in 0..self.members.len() {
                    if doomed == member || is_everywhere {
                        self.members[doomed].damage = damage;
                        self.light_fuse(doomed, false);
                    }
                }
            }
        }
        Ok(())
    }

    /// A member that leads, the newest if there are several.
    pub fn leader(&self) -> Option<usize> {
        let leads = |(i, m): (usize, &super::member::Member)| {
            let shown = m.shown()?;
            (shown.role == Role::Leader).then_some((shown.term, i))
        };
        self.members
            .iter()
            .enumerate()
            .filter_map(leads)
            .max()
            .map(|(_, i)| i)
    }

    fn cut_for(&mut self, links: Vec<(u8, u8)>, lasts: Nanos) {
        for (from, to) in &links {
            self.net.cut(*from, *to);
        }
        self.note_world("cut links", links.len() as u64, lasts);
        self.schedule(self.now + lasts, What::Mend(Rc::from(links)));
    }

    fn isolate(&mut self, member: usize, lasts: Nanos) {
        let others = (0..self.members.len() as u8).filter(|o| usize::from(*o) != member);
        let links: Vec<(u8, u8)> = others
            .flat_map(|o| [(member as u8, o), (o, member as u8)])
            .collect();
        self.stats.count(Fault::Isolate);
        self.note(member as u8, "isolated", lasts, 0);
        self.cut_for(links, lasts);
    }

    fn split(&mut self, lasts: Nanos, bridge: bool) {
        let count = self.members.len() as u8;
        let side: Vec<bool> = (0..count).map(|_| self.rng.chance(500_000)).collect();
        let joint = self.rng.below(u64::from(count)) as u8;
        let mut links = Vec::new();
        for from in 0..count {
            for to in 0..count {
                let spared = bridge && (from == joint || to == joint);
                if side[usize::from(from)] != side[usize::from(to)] && !spared {
                    links.push((from, to));
                }
            }
        }
        self.stats.count(if bridge {
            Fault::Bridge
        } else {
            Fault::CutBothWays
        });
        self.cut_for(links, lasts);
    }

    fn cut_one_way(&mut self, member: usize, lasts: Nanos) {
        let count = self.members.len() as u64;
        let to = self.rng.below(count) as u8;
        let mut links = vec![(member as u8, to)];
        if self.rng.chance(300_000) {
            // Deaf or mute towards everybody, clients too.
            let deaf = self.rng.chance(500_000);
            let peers =
                (0..count as u8).chain((0..self.clients.len() as u8).map(|c| c + FIRST_CLIENT));
            links = peers
                .filter(|p| usize::from(*p) != member)
                .map(|p| {
                    if deaf {
                        (p, member as u8)
                    } else {
                        (member as u8, p)
                    }
                })
                .collect();
        }
        self.stats.count(Fault::CutOneWay);
        self.cut_for(links, lasts);
    }

    /// The member dies some calls from now, which may be in the middle of a turn.
    fn light_fuse(&mut self, member: usize, power: bool) {
        let calls = self.rng.skewed(300) as u32;
        let m = &mut self.members[member];
        if m.is_up() && m.fuse.is_none() {
            m.fuse = Some((calls, power));
        }
    }

    fn all_lose_power(&mut self) -> Result<(), Violation> {
        self.stats.count(Fault::PowerLossAll);
        for member in 0..self.members.len() {
            self.crash(member, true)?;
        }
        Ok(())
    }

    /// Emptied directories may never be so many that the others are no quorum.
    fn wipe(&mut self, member: usize) {
        for m in &mut self.members {
            // An emptied directory that was admitted, and knows for good, is one like any other.
            m.votes |= m.votes_for_good();
        }
        let wiped = self.members.iter().filter(|m| m.is_doomed()).count();
        let most = (self.members.len() - 1) / 2;
        let is_rotten = self.members.iter().any(|m| m.rotten.is_some());
        let is_spared = self.divergence.is_there() || is_rotten;
        let m = &mut self.members[member];
        if wiped < most && !is_spared && m.votes && m.is_up() && m.fuse.is_none() {
            m.wipe_next = true;
            self.light_fuse(member, false);
        }
    }

    /// An operator asks the leader for a snapshot.
    fn ask_snapshot(&mut self, leader: usize) -> Result<(), Violation> {
        if self.members[leader].request_snapshot() {
            self.stats.count(Fault::SnapshotAsked);
            self.note(leader as u8, "is asked for a snapshot", 0, 0);
        }
        self.want_turn(leader, 0);
        self.observe(leader)
    }

    fn step_wall(&mut self, member: usize) {
        let ms = self.rng.skewed(3_600_000) as i64;
        let back = self.rng.chance(500_000);
        self.members[member]
            .clock
            .step_wall(if back { -ms } else { ms });
        self.stats.count(Fault::WallStep);
    }

    fn change_rate(&mut self, member: usize) {
        let drift = self.plan.drift.max(10_000);
        let rate = self.rng.range(1_000_000 - drift, 1_000_000 + drift);
        self.members[member].clock.set_rate(self.now, rate);
        self.stats.count(Fault::RateChange);
        self.want_turn(member, 0);
    }

    fn resign(&mut self, leader: usize) -> Result<(), Violation> {
        let now = self.members[leader].clock.read(self.now);
        if !self.members[leader].resign(now) {
            return Ok(());
        }
        self.stats.count(Fault::Resign);
        self.note(leader as u8, "resigns", 0, 0);
        self.want_turn(leader, 0);
        // It has a second to hand over, then it is gone.
        self.members[leader].fuse_at = Some(self.now + SECOND);
        self.observe(leader)
    }

    fn transfer(&mut self, leader: usize, target: usize) -> Result<(), Violation> {
        let now = self.members[leader].clock.read(self.now);
        let Some(target) = MemberId::new(target as u8) else {
            return Ok(());
        };
        if self.members[leader].transfer(now, target) {
            self.stats.count(Fault::Transfer);
            self.note(leader as u8, "hands over to", u64::from(target.get()), 0);
        }
        self.want_turn(leader, 0);
        self.observe(leader)
    }

    fn trouble_client(&mut self, trouble: Trouble, lasts: Nanos) {
        if self.clients.is_empty() {
            return;
        }
        let client = self.rng.below(self.clients.len() as u64) as usize;
        if trouble == Trouble::ClientGone {
            self.stats.count(Fault::ClientGone);
            self.clients[client].vanish();
        } else {
            self.stats.count(Fault::ClientSilent);
            self.clients[client].silent_until = self.now + lasts;
        }
        self.schedule(self.now + lasts, What::Client(client));
    }
}
