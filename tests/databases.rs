//! The stores in databases, with real ones: PostgreSQL, MariaDB and Redis of Debian's packages, started
//! privately in a temporary directory. Each gets the same battery, and a queue that Debian's C++ gearmand has
//! left in it.
//!
//! The harness is not the usual one, so that each database is started once for all that is done with it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a failed expectation is how a test fails")]
#![allow(clippy::print_stderr, reason = "the log of a database is printed where a failed test shows it")]
#![cfg_attr(
    not(all(feature = "postgres", feature = "mysql", feature = "redis")),
    allow(dead_code, unused_imports, reason = "a part of this is for databases that this build does not know")
)]

mod common;

#[path = "databases/battery.rs"]
mod battery;
#[path = "databases/debian.rs"]
mod debian;
#[path = "databases/edits.rs"]
mod edits;
#[path = "databases/instance.rs"]
mod instance;
#[path = "databases/jobs.rs"]
mod jobs;
#[path = "databases/mariadb.rs"]
mod mariadb;
#[path = "databases/postgres.rs"]
mod postgres;
#[path = "databases/redis.rs"]
mod redis;
#[path = "databases/unwritable.rs"]
mod unwritable;

use std::process::ExitCode;

use libtest_mimic::{Arguments, Failed, Trial};

fn main() -> ExitCode {
    let trial = |name: &str, test: fn()| {
        Trial::test(name, move || {
            test();
            Ok::<(), Failed>(())
        })
    };
    let trials = vec![
        #[cfg(feature = "mysql")]
        trial("mariadb", mariadb::everything),
        #[cfg(feature = "postgres")]
        trial("postgres", postgres::everything),
        #[cfg(feature = "redis")]
        trial("redis", redis::everything),
    ];
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}
