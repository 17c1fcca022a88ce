//! What the operator may decide in the simulation.

use std::collections::HashMap;
use std::num::NonZeroU16;

use gearmand::job_server::{Durability, Policy, price};
use gearmand::protocol::FunctionName;

use super::random::Random;
use super::wire::{FUNCTIONS, PREFIXES};

/// Some settings. Whether jobs are kept is left to others.
pub(crate) fn some_policy(random: &mut Random, has_small_limits: bool) -> Policy {
    const DURABILITIES: [Durability; 3] = [Durability::Always, Durability::Interval, Durability::Off];
    let mut function_durability = HashMap::new();
    if random.chance(20) {
        function_durability.insert(FunctionName::new(random.pick(&FUNCTIONS)), random.pick(&DURABILITIES));
    }
    let policy = Policy {
        handle_prefix: random.pick(&PREFIXES).to_owned(),
        worker_wakeup: random.pick(&[1, 1, 1, 0, 3]),
        wakeup_timeout_us: random.pick(&[100_000, 100_000, 20_000, 300_000]),
        job_retries: random.pick(&[None, None, None, Some(1), Some(1), Some(2), Some(3)]).and_then(NonZeroU16::new),
        exceptions: random.chance(20),
        durability: random.pick(&DURABILITIES),
        function_durability,
        stored_workloads_max: random.pick(&[0, 0, 10, 100, 1 << 20]),
        storing_workloads_max: random.pick(&[700, 4000, u64::MAX, u64::MAX, u64::MAX, u64::MAX, u64::MAX, u64::MAX]),
        volatile_workloads_max: random.pick(&[60, 1000, u64::MAX, u64::MAX, u64::MAX, u64::MAX, u64::MAX, u64::MAX]),
        memory_max: random.pick(&[55_000, 70_000, u64::MAX, u64::MAX, u64::MAX, u64::MAX, u64::MAX, u64::MAX]),
        turn_budget: random.pick(&[1, 20, 100, 300, price::BUDGET, price::BUDGET]),
        ..Policy::default()
    };
    let max_jobs_per_connection = random.pick(&[1, 2, 10_000, 10_000, 10_000, 10_000]);
    if !has_small_limits {
        return Policy { max_jobs_per_connection, ..policy };
    }
    Policy {
        max_jobs: 20,
        max_functions: 9,
        max_functions_per_connection: 3,
        max_jobs_per_connection: max_jobs_per_connection.min(3),
        max_pending_jobs_per_connection: 3,
        max_waits_per_job: random.pick(&[1, 2, 1_000]),
        ..policy
    }
}
