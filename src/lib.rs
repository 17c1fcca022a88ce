//! A Gearman job server, and its tools.
//!
//! The crate is one binary. It is also a library, so that tests, benchmarks and the simulation can use its
//! parts. To read the code, begin with [`job_server`], which is the server as a pure state machine, and
//! continue outwards.
//!
//! # The layers
//! A module imports from its own layer or from one below, never from one above. `tests/tidy.rs` checks this.
//!
//! | layer | modules | responsibility |
//! | --- | --- | --- |
//! | 5 | `main` | the command line |
//! | 4 | [`daemon`] | assembling, reloading and stopping the parts |
//! | 3 | [`net`], [`http`], [`process`], [`client`], [`queue`] | sockets, time and tasks; HTTP; the operating system; the tools; tools for stored queues |
//! | 2 | [`hub`], [`outbox`], [`admin`], [`store`] | the one lock; output queues; text commands and views; storage of jobs |
//! | 1 | [`job_server`], [`fleet`] | jobs, functions and connections, without bytes, clocks or sockets; planning for a fleet of workers |
//! | 0 | [`protocol`], [`stats`], [`config`], [`log_level`] | parsing and encoding; published gauges; settings; names of log levels |
//!
//! Only layers 3 to 5 use tokio; the one exception is `protocol::packet`, which offers the client side a
//! codec.

pub mod admin;
pub mod client;
pub mod config;
pub mod daemon;
pub mod fleet;
pub mod http;
pub mod hub;
pub mod job_server;
pub mod log_level;
pub mod net;
pub mod outbox;
pub mod process;
pub mod protocol;
pub mod queue;
pub mod stats;
pub mod store;
