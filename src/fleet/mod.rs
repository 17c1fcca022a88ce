//! Managed workers: the contract between them and a monitor, the desired state of a fleet, and its
//! reconciliation.
//!
//! Nothing here does I/O over the network. `gearmand work --managed` is a worker that implements the
//! contract, `gearmand fleet` is the monitor; both are client tools. The dashboard uses the same contract.
//!
//! `docs/worker-contract.md` is the contract of workers (`setId`, `manage_<id>`), for authors in any
//! language. The contract of monitors (`fleet_<name>`) is in `docs/fleet.md`. Their messages are the types of
//! [`contract`] and [`report`].

pub mod contract;
pub mod desired;
mod lenient;
pub mod reconcile;
pub mod report;
mod time;

pub use contract::{Activity, Identity, Introduction, Refusal, Request, Run, Status, Verb, WorkerId, WorkerState};
