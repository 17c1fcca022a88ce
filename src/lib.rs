//! A Gearman job server, and the tools that go with it.
//!
//! The crate is one binary; it is a library too so that tests, benchmarks and the simulation reach its parts. Whoever
//! wants to know it begins with [`job_server`], which is the server as a pure state machine, and reads outwards.
//!
//! # The layers
//! A module imports from its own layer or from one below, never from one above. `tests/tidy.rs` holds this.
//!
//! | layer | modules | what they know |
//! | --- | --- | --- |
//! | 5 | `main` | the command line |
//! | 4 | [`daemon`] | how the parts are put together, reloaded and stopped |
//! | 3 | [`net`], [`http`], [`process`], [`client`], [`queue`] | sockets, time and tasks; HTTP; the operating system; the tools; queues from outside |
//! | 2 | [`hub`], [`outbox`], [`admin`], [`store`] | the one lock; what waits to be written; answers to text commands; where jobs are kept |
//! | 1 | [`job_server`], [`fleet`] | jobs, functions, connections, and nothing of bytes, clocks or sockets; what a fleet of workers is to do next |
//! | 0 | [`protocol`], [`stats`], [`config`], [`log_level`] | bytes and their meaning; published numbers; settings; names of log levels |
//!
//! Only layers 3 to 5 say tokio; the one exception is `protocol::packet`, which offers the client side a codec.

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
