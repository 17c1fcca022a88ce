//! The HTTP interface as its clients see it: what it shows and does, whom it refuses, what it bears.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a failed expectation is how a test fails")]

mod common;

#[path = "http/actions.rs"]
mod actions;
#[path = "http/client.rs"]
mod client;
#[path = "http/description.rs"]
mod description;
#[path = "http/events.rs"]
mod events;
#[path = "http/fleet.rs"]
mod fleet;
#[path = "http/guard.rs"]
mod guard;
#[path = "http/jobs.rs"]
mod jobs;
#[path = "http/limits.rs"]
mod limits;
#[path = "http/metrics.rs"]
mod metrics;
#[path = "http/names.rs"]
mod names;
#[path = "http/routes.rs"]
mod routes;
