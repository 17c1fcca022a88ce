//! Translates the configuration into the settings of the parts.

use std::collections::HashMap;
use std::num::NonZeroU16;

use super::{descriptors, store};
use crate::config::{Config, FunctionDurability, Level};
use crate::job_server::{Durability, JobServer, Policy, price};
use crate::net::connection::Limits;
use crate::net::listener::AcceptSettings;
use crate::net::watch::Patience;
use crate::process::listen::KeepAlive;
use crate::process::memory;
use crate::protocol::FunctionName;
use crate::protocol::packet::{FrameLimits, HEADER_SIZE};

/// The largest packet body for which a response can be written, in bytes: lengths have 32 bits, and a
/// workload is sent with more arguments than it was received with.
const LARGEST_BODY: usize = u32::MAX as usize - 4096;
/// Maximum number of jobs, by the range of slot numbers.
const MOST_JOBS: usize = 4_000_000_000;

/// The memory limits for jobs and peers.
pub(super) fn memory_limits(config: &Config, is_durable: bool) -> memory::Limits {
    memory::Limits::new(config.limits.max_memory, config.limits.max_workload_memory, is_durable)
}

/// The policy of the job server.
pub(super) fn policy(config: &Config, is_durable: bool) -> Policy {
    let Config { jobs, limits, log, timeouts, .. } = config;
    let memory = memory_limits(config, is_durable);
    let own = |own: &FunctionDurability| (own.function.clone(), store::level(own.level));
    let function_durability: HashMap<FunctionName, Durability> = config.function_durability.iter().map(own).collect();
    Policy {
        keeps_jobs: is_durable,
        durability: store::level(config.durability.level),
        function_durability,
        stored_workloads_max: memory.stored,
        storing_workloads_max: memory.storing,
        volatile_workloads_max: memory.volatile,
        handle_prefix: config.job_handle_prefix.clone(),
        worker_wakeup: jobs.worker_wakeup.unwrap_or(0),
        wakeup_timeout_us: u64::try_from(timeouts.wakeup_timeout.as_micros()).unwrap_or(u64::MAX),
        job_retries: jobs.job_retries.and_then(|retries| NonZeroU16::new(retries.into())),
        exceptions: jobs.exceptions,
        memory_max: memory.total,
        max_jobs: match limits.max_jobs {
            0 => usize::try_from(JobServer::most_jobs(memory.total)).unwrap_or(usize::MAX).min(MOST_JOBS),
            most => most,
        },
        max_functions: limits.max_functions,
        max_functions_per_connection: limits.max_functions_per_connection,
        max_jobs_per_connection: u32::try_from(limits.max_jobs_per_connection).unwrap_or(u32::MAX),
        max_pending_jobs_per_connection: u32::try_from(limits.max_pending_jobs_per_connection).unwrap_or(u32::MAX),
        max_waits_per_job: u32::try_from(limits.max_waits_per_job).unwrap_or(u32::MAX),
        tells_submissions: log.log_submissions || log.verbose == Level::Debug,
        turn_budget: price::BUDGET,
    }
}

/// The settings of new connections.
pub(super) fn accept_settings(config: &Config) -> AcceptSettings {
    let Config { network, limits, timeouts, .. } = config;
    let size = |bytes: u64| usize::try_from(bytes).unwrap_or(usize::MAX);
    let keep_alive = KeepAlive {
        idle: network.keepalive_idle,
        interval: network.keepalive_interval,
        count: network.keepalive_count,
        user_timeout: network.tcp_user_timeout,
    };
    AcceptSettings {
        max_connections: descriptors::most_connections(config),
        keep_alive,
        limits: Limits {
            frames: FrameLimits {
                packet: size(limits.max_packet_size).min(LARGEST_BODY) + HEADER_SIZE,
                line: limits.max_admin_line,
            },
            output: size(limits.max_output_buffer),
            patience: Patience { reading: timeouts.write_timeout, silence: keep_alive.effective_user_timeout() },
            first_byte_timeout: timeouts.handshake_timeout,
        },
    }
}
