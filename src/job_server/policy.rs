//! What the operator decides about scheduling, and the limits of the state machine.

use std::collections::HashMap;
use std::num::NonZeroU16;

use super::stored::Durability;
use crate::protocol::FunctionName;

/// The settings of a [`JobServer`](super::JobServer). All of them but the prefix and whether
/// there is a store can change while it runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Stands before the colon of every job handle. At most [`HANDLE_PREFIX_MAX`](crate::protocol::names::HANDLE_PREFIX_MAX) bytes.
    pub handle_prefix: String,
    /// How many sleeping workers a job wakes; 0 is all of them.
    pub worker_wakeup: u32,
    /// How long a woken worker may take to ask for a job before the next one is woken, in microseconds.
    pub wake_timeout_us: u64,
    /// How often a job may fail by the loss of its worker: at the last of these it is dropped. `None` is no end.
    pub job_retries: Option<NonZeroU16>,
    /// Whether every client gets exceptions, without having asked for them.
    pub exceptions: bool,
    /// Whether background jobs are kept in a store.
    pub keeps_jobs: bool,
    /// How far a background job must have come in the store before its client is told of it.
    pub durability: Durability,
    /// The same for single functions.
    pub function_durability: HashMap<FunctionName, Durability>,
    /// Bytes of memory for workloads of jobs that the store has. Beyond it they are in the store alone, and are read
    /// back in time for their workers.
    pub stored_workloads_max: u64,
    /// Bytes of memory for workloads of jobs that the store is asked to keep and does not have yet, which take about as
    /// much again in its queue, and for what asks the store. Beyond it background jobs are refused.
    pub storing_workloads_max: u64,
    /// Bytes of memory for workloads of jobs that no store has. Beyond it jobs are refused.
    pub volatile_workloads_max: u64,
    /// Bytes of memory for everything, see [`crate::stats::account`]. Jobs and what is remembered of peers
    /// may take three quarters.
    pub memory_max: u64,
    /// Jobs of any kind.
    pub max_jobs: usize,
    /// Functions, used or not.
    pub max_functions: usize,
    /// Functions that one connection may register.
    pub max_functions_per_connection: usize,
    /// Jobs that one connection may hold at a time; beyond it is told that there is none.
    pub max_jobs_per_connection: u32,
    /// Submissions whose end one connection may wait for at a time.
    pub max_waits_per_connection: u32,
    /// Submissions of one job whose end one connection may wait for at a time.
    pub max_waits_per_job: u32,
    /// What one hold of the lock may spend, in the unit of [`price`](super::price).
    pub turn_budget: u32,
    /// Whether each submission that is answered with JOB_CREATED is reported.
    pub tells_submissions: bool,
}

/// The most functions that the operator can have paused or limited.
const FUNCTIONS_WITH_SETTINGS_MAX: usize = 10_000;

impl Policy {
    /// How many functions the operator can have paused or limited, since that keeps them whether anybody uses them or not.
    /// Made-up names leave an eighth of [`max_functions`](Self::max_functions) to others at least.
    pub(super) fn max_functions_with_settings(&self) -> usize {
        FUNCTIONS_WITH_SETTINGS_MAX.min(self.max_functions - self.max_functions / 8)
    }

    /// How far a job of this function must have come.
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
            wake_timeout_us: 100_000,
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
            max_waits_per_connection: 1_000_000,
            max_waits_per_job: 1_000,
            turn_budget: super::price::BUDGET,
            tells_submissions: false,
        }
    }
}
