//! The operator's settings for scheduling, and the limits of the state machine.

use std::collections::HashMap;
use std::num::NonZeroU16;

use super::stored::Durability;
use crate::protocol::FunctionName;

/// The settings of a [`JobServer`](super::JobServer). All of them but the prefix and whether there is a store
/// can change while it runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// The part of every job handle before the colon. At most
    /// [`HANDLE_PREFIX_MAX`](crate::protocol::names::HANDLE_PREFIX_MAX) bytes.
    pub handle_prefix: String,
    /// The number of sleeping workers that a job wakes; 0 for all of them.
    pub worker_wakeup: u32,
    /// How long a woken worker may take to ask for a job before the next one is woken, in microseconds.
    pub wakeup_timeout_us: u64,
    /// The number of workers that a job may lose: with the last of these it is dropped. `None` for no limit.
    pub job_retries: Option<NonZeroU16>,
    /// Whether every client gets exceptions, even without having asked for them.
    pub exceptions: bool,
    /// Whether background jobs are kept in a store.
    pub keeps_jobs: bool,
    /// How durable a background job must be in the store before its client is answered.
    pub durability: Durability,
    /// The same for individual functions.
    pub function_durability: HashMap<FunctionName, Durability>,
    /// Memory for workloads of jobs that the store has, in bytes. Beyond it they are only in the store, and
    /// are read back in time for their workers.
    pub stored_workloads_max: u64,
    /// Memory for workloads of jobs that the store was asked to add and does not have yet, in bytes, and for
    /// the operations. Its queue holds about as much again. Beyond it background jobs are refused.
    pub storing_workloads_max: u64,
    /// Memory for workloads of jobs that no store has, in bytes. Beyond it jobs are refused.
    pub volatile_workloads_max: u64,
    /// Memory for everything, in bytes, see [`crate::stats::account`]. Jobs and what is remembered of peers
    /// may take three quarters.
    pub memory_max: u64,
    /// The maximum number of jobs of any kind.
    pub max_jobs: usize,
    /// The maximum number of functions, used or not.
    pub max_functions: usize,
    /// The maximum number of functions that one connection may register.
    pub max_functions_per_connection: usize,
    /// The maximum number of jobs that one connection may hold at a time; beyond it GRAB_JOB gets NO_JOB.
    pub max_jobs_per_connection: u32,
    /// The maximum number of submissions that one connection may wait for at a time.
    pub max_pending_jobs_per_connection: u32,
    /// The maximum number of submissions of one job that one connection may wait for at a time.
    pub max_waits_per_job: u32,
    /// The budget of one lock hold, in the unit of [`price`](super::price).
    pub turn_budget: u32,
    /// Whether each submission that is answered with JOB_CREATED is reported.
    pub tells_submissions: bool,
}

/// The maximum number of functions that the operator can have paused or limited.
const FUNCTIONS_WITH_SETTINGS_MAX: usize = 10_000;

impl Policy {
    /// The maximum number of functions that the operator can have paused or limited, since settings keep them
    /// even if they are unused. At least an eighth of [`max_functions`](Self::max_functions) is left for
    /// others, even if names are made up.
    pub(super) fn max_functions_with_settings(&self) -> usize {
        FUNCTIONS_WITH_SETTINGS_MAX.min(self.max_functions - self.max_functions / 8)
    }

    /// How durable a job of this function must be.
    pub(super) fn durability_of(&self, function: &FunctionName) -> Durability {
        if self.function_durability.is_empty() {
            return self.durability;
        }
        self.function_durability.get(function).copied().unwrap_or(self.durability)
    }
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            handle_prefix: "H:localhost".to_owned(),
            worker_wakeup: 1,
            wakeup_timeout_us: 100_000,
            job_retries: None,
            exceptions: false,
            keeps_jobs: false,
            durability: Durability::Always,
            function_durability: HashMap::new(),
            stored_workloads_max: 64 << 20,
            storing_workloads_max: u64::MAX,
            volatile_workloads_max: u64::MAX,
            memory_max: u64::MAX,
            max_jobs: 4_000_000_000,
            max_functions: 100_000,
            max_functions_per_connection: 100_000,
            max_jobs_per_connection: 10_000,
            max_pending_jobs_per_connection: 1_000_000,
            max_waits_per_job: 1_000,
            turn_budget: super::price::BUDGET,
            tells_submissions: false,
        }
    }
}
