//! One run: faults first and safety all the time, then no faults and progress within a bound.

use super::check::{Violation, broken};
use super::clock::MILLI;
use super::member::SESSIONS;
use super::plan::{Plan, Profile};
use super::stats::Stats;
use super::world::{What, World};

/// How many events of a failing run are kept.
pub const KEEP: usize = 200;

/// What to run otherwise than the seed says.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// Lean towards this trouble.
    pub profile: Option<Profile>,
    /// Keep so many events for the report of a failure; none by default.
    pub keep: usize,
}

/// A broken invariant, and how to see it again.
#[derive(Clone, Debug)]
pub struct Failure {
    /// The invariant.
    pub violation: Violation,
    /// The step after which it was broken.
    pub step: u64,
    /// The plan, the last events, and the command that replays them.
    pub scenario: String,
}

/// What came of a run.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The counts.
    pub stats: Stats,
    /// What went wrong.
    pub failure: Option<Failure>,
}

/// Runs one seed.
pub fn run(seed: u64, options: Options) -> Outcome {
    let plan = Plan::new(seed, options.profile);
    let mut world = World::new(plan, options.keep);
    let violation = go(&mut world).err();
    world.finish_stats();
    let failure = violation.map(|violation| Failure {
        scenario: scenario(&world, &violation, options),
        step: world.step,
        violation,
    });
    Outcome {
        stats: world.stats,
        failure,
    }
}

fn go(world: &mut World) -> Result<(), Violation> {
    for member in 0..world.members.len() {
        world.start(member)?;
    }
    for client in 0..world.clients.len() {
        world.schedule(0, What::Client(client));
    }
    world.schedule_trouble();
    world.run_until(world.plan.safety / 2)?;
    world.diverge();
    world.run_until(world.plan.safety)?;
    world.calm_down()?;
    let until = world.now + world.plan.liveness;
    progress(world, until)?;
    for client in &mut world.clients {
        client.stop();
    }
    level(world, until)
}

/// Clients are served again.
fn progress(world: &mut World, until: u64) -> Result<(), Violation> {
    let before: Vec<u64> = world.clients.iter().map(|c| c.acknowledged).collect();
    // One slot in eight, at least one, answers clients that are refused.
    let wanted = before.len().min(SESSIONS - 1);
    loop {
        let served = world.clients.iter().zip(&before);
        let served = served.filter(|(c, b)| c.acknowledged >= **b + 3).count();
        if served >= wanted && world.leader().is_some() {
            return Ok(());
        }
        if world.now >= until {
            let detail = format!(
                "{served} of {wanted} clients were served within {} ms of the last fault\n{}",
                world.plan.liveness / MILLI,
                table(world)
            );
            return broken("Liveness", detail);
        }
        world.replace_lost()?;
        world.run_until(world.now + 50 * MILLI)?;
    }
}

/// All members come to have the same log, all of it committed and applied.
fn level(world: &mut World, until: u64) -> Result<(), Violation> {
    loop {
        if is_level(world) && world.is_divergence_found() {
            return Ok(());
        }
        if world.now >= until {
            let owed = world.leader().and_then(|leader| owed(world, leader));
            let detail = format!("the members are not level: {owed:?}\n{}", table(world));
            return broken("Liveness", detail);
        }
        world.replace_lost()?;
        world.run_until(world.now + 50 * MILLI)?;
    }
}

fn is_level(world: &World) -> bool {
    let Some(leader) = world.leader() else {
        return false;
    };
    let shown = |member: usize| {
        let shown = world.members[member].shown()?;
        Some((shown.joined, shown.end, shown.commit, shown.applied))
    };
    let first = shown(leader);
    let done = first.is_some_and(|(_, end, commit, applied)| end == commit && commit == applied);
    let level = done && (0..world.members.len()).all(|m| shown(m) == first);
    level && owed(world, leader).is_none()
}

/// What services wait for in spite of a leader that could do it.
fn owed(world: &World, leader: usize) -> Option<String> {
    let wall = world.members[leader].clock.read(world.now).wall;
    world.checker.model.owed(wall.0)
}

/// One line a member: what it shows at the end.
pub fn table(world: &World) -> String {
    let mut text = String::new();
    for m in &world.members {
        text.push_str(&format!("    n{} {}\n", m.id, m.told_in_words()));
    }
    for c in &world.clients {
        text.push_str(&format!(
            "    {}
",
            c.line()
        ));
    }
    text
}

fn scenario(world: &World, violation: &Violation, options: Options) -> String {
    let profile = options
        .profile
        .map_or_else(String::new, |p| format!(" --profile {p:?}"));
    format!(
        "{}\n\nlast events (time, step, who, what):\n{}\nbroken at {} ms, step {}: {}\n  {}\n{}\n\
         replay: cargo xtask sim --seed {}{profile}\n",
        world.plan,
        world.trace.text(),
        world.now / MILLI,
        world.step,
        violation.invariant,
        violation.detail,
        table(world),
        world.plan.seed,
    )
}

impl World {
    fn finish_stats(&mut self) {
        self.stats.seeds = 1;
        self.stats.virtual_nanos = self.now;
        self.stats.elections = self.checker.elections();
        self.stats.committed = self.checker.model.messages;
        self.stats.sessions = self.checker.model.opened;
        self.stats.timers = self.checker.model.timers;
        self.stats.said = self.checker.model.said;
        self.stats.committed_bytes = self.checker.committed();
        self.stats.truncations = self.checker.truncations;
        self.stats.acknowledged = self.clients.iter().map(|c| c.acknowledged).sum();
        self.stats.back_pressured = self.clients.iter().map(|c| c.back_pressured).sum();
    }
}
