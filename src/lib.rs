//! A Gearman job server.

pub mod admin;
pub mod client;
pub mod config;
pub mod daemon;
pub mod hub;
pub mod job_server;
pub mod log_level;
pub mod net;
pub mod outbox;
pub mod process;
pub mod protocol;
pub mod stats;
