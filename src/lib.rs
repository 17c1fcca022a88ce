//! A Gearman job server.
#![warn(missing_docs)]

pub mod protocol;
