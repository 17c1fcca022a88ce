//! A Gearman job server.

pub mod job_server;
pub mod protocol;
pub mod stats;
