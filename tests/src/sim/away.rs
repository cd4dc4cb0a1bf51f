//! Services of simulated members, of which one may run away from its node, as on a thread of its
//! own: it is further than the node, or far behind, and what it has done reaches the node late.

use coracle_core::node::{Halt, Node};
use coracle_core::service::Service;
use coracle_core::units::{Position, ServiceId};
use coracle_std::apart::{Executor, Memory as Own, News, StandIn};

use super::check::broken;
use super::disk::Disk;
use super::member::{MESSAGE_MAX, Memory, Process, SESSIONS};
use super::mind::{SERVICES, SHARE};
use super::rng::Rng;
use super::services::History;
use super::spy::SpyLog;
use super::storage::read_log;
use super::world::{Stop, World};

/// One seed in so many has such services.
const ONE_IN: u64 = 4;
/// How many bytes of log one step executes at most: a few records.
const STEP: u64 = 3000;

/// All services of one process.
#[derive(Debug)]
pub struct Services {
    /// Those that run on the node's thread.
    here: heapless::Vec<History, SERVICES>,
    away: Option<Away>,
}

/// The service of a slot, and what the node takes for it.
#[derive(Debug)]
struct Away {
    slot: usize,
    executor: Executor<History, SESSIONS>,
    stand_in: StandIn,
    news: News,
    /// Of its own: what it decides changes nothing in runs without such services.
    rng: Rng,
}

impl Services {
    /// So many before the first record; `acts` as a `Mind` does.
    pub fn new(count: usize, acts: bool) -> Self {
        Self {
            here: (0..count).map(|n| History::new(n, acts)).collect(),
            away: None,
        }
    }

    /// What the node is handed.
    pub fn lend(&mut self) -> heapless::Vec<&mut dyn Service, SERVICES> {
        let here = self.here.iter_mut().map(|s| s as &mut dyn Service);
        let mut all: heapless::Vec<_, SERVICES> = here.collect();
        if let Some(away) = &mut self.away {
            all[away.slot] = &mut away.stand_in;
        }
        all
    }

    /// The service of a slot, wherever it runs.
    pub fn history(&mut self, slot: usize) -> &mut History {
        match &mut self.away {
            Some(away) if away.slot == slot => away.executor.service(),
            _ => &mut self.here[slot],
        }
    }

    /// What the digest of the node's service would be if nothing had flipped.
    pub fn sound_digest(&self, slot: usize) -> u64 {
        match &self.away {
            Some(away) if away.slot == slot => away.stand_in.digest(),
            _ => self.here[slot].sound_digest(),
        }
    }

    /// The slot of the service that runs away from the node.
    pub fn away(&self) -> Option<usize> {
        self.away.as_ref().map(|away| away.slot)
    }

    /// The service of `slot` leaves, with the state it has now.
    fn leave(
        &mut self,
        slot: usize,
        node: &Node<SESSIONS, SERVICES>,
        memory: &mut Memory,
        log: &mut SpyLog,
        rng: Rng,
    ) {
        let mut own = Own {
            service: vec![0; SHARE],
            assembly: vec![0; MESSAGE_MAX + 64],
        };
        let id = ServiceId::new(slot as u8).expect("a slot of three");
        let container = node.container(id, &mut memory.lend(log), &mut own.service);
        let container = container.expect("one for each service");
        let service = self.here[slot].clone();
        self.away = Some(Away {
            slot,
            stand_in: StandIn::new(container.position(), service.digest()),
            executor: Executor::new(container, service, own),
            news: News::default(),
            rng,
        });
    }
}

impl Away {
    /// One step of its thread: what is below `limit` may be executed.
    fn step(&mut self, limit: Position, disk: &Disk, all: bool) -> Result<bool, Halt> {
        let mut busy = self.executor.obey(&self.stand_in.orders());
        if let Some(at) = self.executor.reads_at() {
            let most = if all { STEP } else { self.rng.range(1, STEP) };
            let mut bytes = vec![0; limit.since(at).min(most.max(64)) as usize];
            let len = read_log(disk, at.get(), &mut bytes);
            let before = self.news.calls.len();
            self.executor.run(&bytes[..len], &mut self.news)?;
            busy |= self.executor.reads_at() != Some(at) || self.news.calls.len() > before;
        }
        if self.executor.is_saving() && (all || self.rng.chance(700_000)) {
            self.executor.tell(&mut self.news);
            let mut pieces = Pieces(&mut self.news.pieces);
            let saved = self.executor.save(&mut pieces);
            self.news.saved = saved;
            busy = true;
        }
        self.executor.tell(&mut self.news);
        Ok(busy)
    }
}

struct Pieces<'a>(&'a mut Vec<u8>);

impl embedded_io::ErrorType for Pieces<'_> {
    type Error = embedded_io::ErrorKind;
}

impl embedded_io::Write for Pieces<'_> {
    fn write(&mut self, bytes: &[u8]) -> Result<usize, embedded_io::ErrorKind> {
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> Result<(), embedded_io::ErrorKind> {
        Ok(())
    }
}

impl World {
    /// In some runs, one of a member's services leaves its node; not the same one each time.
    pub(super) fn part(&mut self, member: usize, process: &mut Process) {
        let seed = self.plan.seed;
        if self.is_scripted || seed % ONE_IN != 1 {
            return;
        }
        let life = u64::from(self.members[member].life);
        let mut rng = Rng::new(seed ^ (life << 8) ^ (member as u64) << 32);
        let slot = rng.below(self.plan.services as u64) as usize;
        let Process {
            services,
            node,
            memory,
            log,
            ..
        } = process;
        services.leave(slot, node, memory, log, rng);
        self.stats.parted += 1;
    }

    /// A turn of the thread of the service that runs away from its node.
    pub(super) fn turn_away(&mut self, member: usize) -> Result<bool, Stop> {
        let m = &mut self.members[member];
        let stalled = m.stalled;
        let Some(process) = &mut m.process else {
            return Ok(false);
        };
        let durable = process.journal.durable();
        let in_files = process
            .log
            .window
            .cut()
            .map_or(durable, |cut| cut.min(durable));
        let limit = process.node.commit().min(in_files);
        let Some(away) = &mut process.services.away else {
            return Ok(false);
        };
        away.executor.service().ready = !stalled[away.slot];
        let calm = self.is_calm;
        let mut more = false;
        let steps = if calm { 16 } else { away.rng.below(6) };
        for _ in 0..steps {
            match away.step(limit, &m.disk, calm) {
                Ok(busy) => more |= busy,
                Err(halt) => {
                    let detail = format!("a service away from n{member} halts: {halt}");
                    broken("Never Halts", detail)?;
                }
            }
        }
        // What it has done is on its way for a while, and there may be more of it by then.
        if calm || away.rng.chance(600_000) {
            away.stand_in.take(&mut away.news);
        }
        Ok(more)
    }
}
