//! A Gearman job server, and its tools.
//!
//! The crate is one binary. It is also a library, so that tests, benchmarks and the simulation can use its
//! parts. To read the code, begin with [`job_server`], which is the server as a pure state machine, and
//! continue outwards.
//!
//! # The layers
//! A module imports from its own layer or from one below, never from one above. `tests/tidy.rs` checks this.
//!
//! * 5: `main`: the command line;
//! * 4: [`daemon`]: assembling, reloading and stopping the parts;
//! * 3: [`net`]: sockets, time and tasks; [`http`]: HTTP; [`process`]: the operating system; [`client`]: the
//!   tools; [`store_tools`]: tools for stored queues;
//! * 2: [`hub`]: the one lock; [`outbox`]: output queues; [`admin`]: text commands and views; [`store`]:
//!   storage of jobs;
//! * 1: [`job_server`]: jobs, functions and connections, without bytes, clocks or sockets; [`fleet`]:
//!   planning for a fleet of workers;
//! * 0: [`protocol`]: parsing and encoding; [`stats`]: published gauges; [`config`]: settings; [`log_level`]:
//!   names of log levels.
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
pub mod stats;
pub mod store;
pub mod store_tools;
