//! The job server in a simulated world: clients, workers and an operator who do anything at any time, over
//! connections that cut bytes anywhere and end at any moment, under two clocks of which one is set back and
//! forth.
//!
//! Everything follows from a seed. After every transition the server's state is compared with a model that is
//! kept apart from it (`model*.rs`, `check.rs`), and so is what the store holds with what the model takes for
//! kept. Each peer also keeps its own account of what it is owed (`peer.rs`), and each connection one of what
//! may reach its peer (`outgoing.rs`).
//!
//! `GEARMAND_SIMULATION_SEEDS` (200) and `GEARMAND_SIMULATION_STEPS` (20000) say how much is simulated;
//! `GEARMAND_SIMULATION_SEED` runs one seed alone. What a failure prints is enough to see it again.

// Helpers of a test fail as a test does.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr)]

#[path = "simulation/check.rs"]
mod check;
#[path = "simulation/disconnect.rs"]
mod disconnect;
#[path = "simulation/finding.rs"]
mod finding;
#[path = "simulation/link.rs"]
mod link;
#[path = "simulation/many_clients.rs"]
mod many_clients;
#[path = "simulation/model.rs"]
mod model;
#[path = "simulation/model_control.rs"]
mod model_control;
#[path = "simulation/model_settings.rs"]
mod model_settings;
#[path = "simulation/model_store.rs"]
mod model_store;
#[path = "simulation/model_submit.rs"]
mod model_submit;
#[path = "simulation/model_work.rs"]
mod model_work;
#[path = "simulation/operator.rs"]
mod operator;
#[path = "simulation/outgoing.rs"]
mod outgoing;
#[path = "simulation/peer.rs"]
mod peer;
#[path = "simulation/policy.rs"]
mod policy;
#[path = "simulation/queue_listing.rs"]
mod queue_listing;
#[path = "simulation/random.rs"]
mod random;
#[path = "simulation/steering.rs"]
mod steering;
#[path = "simulation/store.rs"]
mod store;
#[path = "simulation/turns.rs"]
mod turns;
#[path = "simulation/wire.rs"]
mod wire;
#[path = "simulation/world.rs"]
mod world;
#[path = "simulation/world_store.rs"]
mod world_store;

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use world::World;

/// What must have happened, so that the simulation is known to get there.
const LANDMARKS: &[&str] = &[
    "became due",
    "came back as it was before it was changed",
    "came back from the store",
    "came back without its workload",
    "could not be read",
    "died between its NOOP and its grab",
    "ended before the store was asked to keep it",
    "ended while it was being read",
    "ended while it was being stored",
    "ended while it was paged out",
    "had a client that closed its side",
    "had a client that left before it was stored",
    "had a function of which a decision outlived the server",
    "had a function that was forgotten with its last setting",
    "left with its last client",
    "let a NOOP's time pass",
    "lost its worker",
    "met a full memory",
    "met a full queue",
    "met a store that fails",
    "met a rule that outlived the server",
    "met a server without memory",
    "met a store that was behind",
    "met its equal where it was to be moved",
    "need not be on the disk",
    "outlived a crash",
    "outlived one of its clients",
    "timed out",
    "waited for the store when the server crashed",
    "was abandoned and joined",
    "was abandoned and lost its worker",
    "was answered after its client had closed its side",
    "was answered by the store after its client had gone",
    "was asked for again after the store could not read",
    "was asked for by its handle before it was stored",
    "was asked for by its unique id before it was stored",
    "was asked for when a newer sibling was not stored",
    "was awaited by several from the store",
    "was awaited when the store refused it",
    "was busy when it was to be moved",
    "was cancelled with all others",
    "was cancelled",
    "was changed by an operator who was answered before a crash",
    "was dropped after its last attempt",
    "was finished though nobody wants it",
    "was finished",
    "was ended by a sleeper that could hold no more",
    "was ended by one that had lost it, while another ran it",
    "was ended by one that had lost it, while it waited",
    "was found twice in the store",
    "was given another priority",
    "was given back",
    "was given jobs again",
    "was handed out",
    "was handed to one that was gone already",
    "was not begun by one that left",
    "was given back as not begun",
    "lost a worker that had held it for long",
    "was held back since as many run as may",
    "was held back since its function is paused",
    "was joined before it was stored",
    "was joined by its workload while that was not in memory",
    "was joined by one who waits for it before it was stored",
    "was joined while it was paged out",
    "was joined",
    "was kept when the server stopped",
    "was kicked",
    "was left by its client and refused by the store",
    "was left for the next start",
    "was moved while it was paged out",
    "was moved with all others",
    "was moved",
    "was moved, and found by its workload, while that was not in memory",
    "was not among the first that were read",
    "was not waited for",
    "was one function too many",
    "was one function too many of a connection",
    "was paged out",
    "was part of a flood",
    "was read while the store could not be written",
    "was refused by the store",
    "was removed behind the server's back",
    "was removed while the store was full",
    "was running when it was to be moved",
    "was spoken of after it was taken away",
    "was stored after it had been in memory alone",
    "was stored and lost its worker",
    "was stored and never acknowledged",
    "was stored though another was refused",
    "was stored though that failed",
    "was stored",
    "was there when its function went on",
    "was to be changed by what failed",
    "was to be removed by what failed",
    "was withheld from a worker",
    "was woken when jobs were withheld from it",
    "was woken",
    "was worked off in pieces",
    "was awaited by one connection as often as it may be",
    "went back to sleep after its NOOP",
    "went on in memory alone since the store refused it",
];

#[test]
fn the_server_keeps_its_promises_in_a_hostile_world() {
    let steps = setting("GEARMAND_SIMULATION_STEPS").unwrap_or(20_000);
    if let Some(seed) = setting("GEARMAND_SIMULATION_SEED") {
        eprintln!("seed {seed}: {:?}", simulate(seed, steps));
        return;
    }
    let seeds = setting("GEARMAND_SIMULATION_SEEDS").unwrap_or(200);
    let threads = thread::available_parallelism().map_or(2, usize::from);
    let next_seed = AtomicU64::new(0);
    let work = || {
        let mut happened: BTreeMap<&'static str, u64> = BTreeMap::new();
        loop {
            let seed = next_seed.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds {
                return happened;
            }
            for (what, count) in simulate(seed, steps) {
                *happened.entry(what).or_default() += count;
            }
        }
    };
    let mut happened: BTreeMap<&'static str, u64> = BTreeMap::new();
    thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        for worker in workers {
            for (what, count) in worker.join().unwrap_or_else(|failure| resume_unwind(failure)) {
                *happened.entry(what).or_default() += count;
            }
        }
    });
    eprintln!("{seeds} seeds of {steps} steps: {happened:#?}");
    if seeds.saturating_mul(steps) >= 1_000_000 {
        for landmark in LANDMARKS {
            assert!(happened.contains_key(landmark), "the simulation is too tame: no job or worker {landmark}");
        }
    }
}

/// Runs one seed. If it fails, runs it once more to show what led there.
fn simulate(seed: u64, steps: u64) -> BTreeMap<&'static str, u64> {
    let run = |shows_events| {
        let mut world = World::new(seed, shows_events);
        world.run(steps);
        std::mem::take(&mut world.model.happened)
    };
    match catch_unwind(AssertUnwindSafe(|| run(false))) {
        Ok(happened) => happened,
        Err(failure) => {
            eprintln!(
                "GEARMAND_SIMULATION_SEED={seed} GEARMAND_SIMULATION_STEPS={steps} failed; once more, with events:"
            );
            run(true);
            eprintln!("the second run of seed {seed} did not fail: something in it does not follow from the seed");
            resume_unwind(failure);
        }
    }
}

fn setting(name: &str) -> Option<u64> {
    let value = std::env::var(name).ok()?;
    Some(value.parse().unwrap_or_else(|_| panic!("{name} is no number: {value}")))
}
