//! Managed workers: the contract between them and a monitor, the desired state of a fleet, and what is to be done next.
//!
//! Nothing here talks to anybody. `gearmand work --managed` is a worker that keeps the contract, `gearmand fleet` the
//! monitor; both are tools of the client side. The dashboard speaks the same contract.
//!
//! `docs/worker-contract.md` is the contract of workers (`setId`, `manage_<id>`), for authors in any language. The
//! contract of monitors (`fleet_<name>`) is in `docs/fleet.md`. Their messages are the types of [`contract`] and
//! [`report`].

pub mod contract;
pub mod decide;
pub mod desired;
mod lenient;
pub mod report;
mod time;

pub use contract::{Introduction, Refusal, Request, Run, Status, Verb, WorkerId, WorkerState};
