//! Command line, environment and configuration file, resolved once into one checked [`Config`].
//!
//! The options are declared once, in `args`; the file and the environment use the same names, parsers and defaults. The
//! command line beats the environment (`GEARMAND_*`), which beats the file, which beats the defaults; a list given by one
//! source replaces the list of the lesser one. Everything wrong is reported at once, each thing with its place.
//!
//! Nothing here opens a socket, logs or prints: the caller gets a `Config`, warnings and the text of `--check`.

mod address;
mod args;
mod documents;
mod environment;
mod error;
mod file;
mod foreign;
mod http;
mod promptly;
mod queue;
mod resolve;
mod settings;
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

/// The settings of a server, complete and checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// What to listen on, never empty, without duplicates.
    pub listen: Vec<ListenAddress>,
    /// How connections are accepted and kept.
    pub network: Network,
    /// The process: its identity, its files, its threads.
    pub process: Process,
    /// What happens to jobs.
    pub jobs: Jobs,
    /// Where background jobs are kept.
    pub queue: QueueChoice,
    /// How far a background job must have come before it is acknowledged.
    pub durability: Durability,
    /// Functions with a level of their own, each once.
    pub function_durability: Vec<FunctionDurability>,
    /// Bytes on the disk of the queue's file that are kept for removing jobs; `None` for as many as suit the disk, 0 for none.
    pub store_reserve: Option<u64>,
    /// First part of job handles, before the colon and the number; 1 to `HANDLE_PREFIX_MAX` bytes without white space.
    pub job_handle_prefix: String,
    /// Where HTTP is served, and who may do what there.
    pub http: Http,
    /// What is logged, how, and where to.
    pub log: Log,
    /// How much of everything is accepted.
    pub limits: Limits,
    /// How long the server waits.
    pub timeouts: Timeouts,
    /// `--check`: print [`Resolved::report`] and exit instead of serving.
    pub check: bool,
}

impl Config {
    /// Where the HTTP plugin listens: on the TCP addresses of [`Self::listen`], with its own port. Empty without it.
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
