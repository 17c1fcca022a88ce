//! Command line, environment and configuration file, resolved once into one validated [`Config`].
//!
//! The options are declared once, in `args`; the file and the environment use the same names, parsers and
//! defaults. The command line overrides the environment (`GEARMAND_*`), which overrides the file, which
//! overrides the defaults. A list from one source replaces the list from a lower one. All errors are reported
//! at once, each with its location.
//!
//! Nothing here opens a socket, logs or prints: the caller gets a `Config`, warnings and the text of
//! `--check`.

mod address;
mod args;
mod documents;
mod environment;
mod error;
mod file;
mod http;
mod promptly;
mod queue;
mod resolve;
mod settings;
mod unsupported;
mod usage;
mod value;

pub use crate::log_level::Level;
pub use address::{ListenAddress, is_number};
pub use args::{Jobs, Limits, Log, Network, Process, RELOADABLE, ServerArgs, Timeouts, command};
pub use documents::{Page, completed, pages};
pub use error::{ConfigError, ConfigErrors, Origin};
pub use http::{Http, MetricsFunctions};
pub use promptly::read_promptly;
pub use queue::{Durability, DurabilityLevel, FunctionDurability, QueueChoice, Secret};
pub use resolve::{Reload, Resolved, ResolvedSetting, Sources, resolve};
pub use usage::explain;
pub use value::{LogFormat, LogTarget, OptionalCount, OptionalDuration, OptionalSize, ProtocolPlugin, Retries};

/// The settings of a server, complete and validated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The addresses to listen on, never empty, without duplicates.
    pub listen: Vec<ListenAddress>,
    /// Settings of listeners and connections.
    pub network: Network,
    /// Settings of the process: its identity, its files, its threads.
    pub process: Process,
    /// Settings of jobs.
    pub jobs: Jobs,
    /// The store of background jobs.
    pub queue: QueueChoice,
    /// How durable a background job must be before it is acknowledged.
    pub durability: Durability,
    /// Functions with a durability level of their own, without duplicates.
    pub function_durability: Vec<FunctionDurability>,
    /// Bytes on the disk of the queue's file that are reserved for removing jobs; `None` for a size that
    /// suits the disk, 0 for none.
    pub store_reserve: Option<u64>,
    /// Prefix of job handles, before the colon and the number; 1 to `HANDLE_PREFIX_MAX` bytes without white
    /// space.
    pub job_handle_prefix: String,
    /// Settings of the HTTP interface, and its access control.
    pub http: Http,
    /// Settings of the log.
    pub log: Log,
    /// Limits.
    pub limits: Limits,
    /// Timeouts.
    pub timeouts: Timeouts,
    /// `--check`: print [`Resolved::report`] and exit instead of serving.
    pub check: bool,
}

impl Config {
    /// The addresses of the HTTP plugin: the TCP addresses of [`Self::listen`], with its own port. Empty
    /// without the plugin.
    pub fn http_plugin_addresses(&self) -> Vec<ListenAddress> {
        let mut addresses = Vec::new();
        if self.network.protocol.is_some() {
            for address in self.listen.iter().filter_map(|address| address.with_port(self.network.http_port)) {
                if !addresses.contains(&address) {
                    addresses.push(address);
                }
            }
        }
        addresses
    }
}
