//! A Gearman job server.
