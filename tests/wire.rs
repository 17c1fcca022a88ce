//! The binary protocol on the wire: raw packets to a running server, and its answers to the byte.
//!
//! * `transcript` replays a recorded conversation with gearmand;
//! * `errors` provokes every ERROR packet, `packets` sends every packet type with bodies of every kind;
//! * `framing` cuts, mixes and breaks the stream;
//! * `jobs`, `results`, `registration`, `retries`, `timing` and `wakeups` are what the packets mean.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a failed expectation is how a test fails")]

mod common;

#[path = "wire/errors.rs"]
mod errors;
#[path = "wire/framing.rs"]
mod framing;
#[path = "wire/jobs.rs"]
mod jobs;
#[path = "wire/late.rs"]
mod late;
#[path = "wire/packets.rs"]
mod packets;
#[path = "wire/registration.rs"]
mod registration;
#[path = "wire/results.rs"]
mod results;
#[path = "wire/retries.rs"]
mod retries;
#[path = "wire/roles.rs"]
mod roles;
#[path = "wire/timing.rs"]
mod timing;
#[path = "wire/transcript.rs"]
mod transcript;
#[path = "wire/wakeups.rs"]
mod wakeups;
