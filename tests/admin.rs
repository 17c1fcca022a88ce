//! The administrative text protocol, to the byte: what people type and what monitoring parses.
//!
//! * `answers` has every command of gearmand with its answers and errors;
//! * `control` has those that change something and that gearmand does not know, `tables` those that show
//!   something;
//! * `lines` is about how commands are written: line ends, letter case, pieces, limits, half-closed
//!   connections;
//! * `tools` runs gearadmin, and reads answers as tools in the field do.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a failed expectation is how a test fails")]

mod common;

#[path = "admin/answers.rs"]
mod answers;
#[path = "admin/control.rs"]
mod control;
#[path = "admin/lines.rs"]
mod lines;
#[path = "admin/tables.rs"]
mod tables;
#[path = "admin/tools.rs"]
mod tools;

use common::{Server, Wire, packet};

/// A server whose handles are `H:t:1`, `H:t:2`, ...
#[track_caller]
fn server(arguments: &[&str]) -> Server {
    Server::ours(&[&["--job-handle-prefix", "H:t"], arguments].concat())
}

#[track_caller]
fn connect(server: &Server) -> Wire {
    Wire::connect(server.addr())
}

/// Submits a job and checks its handle.
#[track_caller]
fn submit(client: &mut Wire, packet_type: u32, body: &[u8], handle: &str) {
    client.send(packet_type, body);
    client.expect(packet::JOB_CREATED, handle.as_bytes());
}

/// A worker that has registered these functions.
#[track_caller]
fn worker(server: &Server, functions: &[&str]) -> Wire {
    let mut worker = connect(server);
    for function in functions {
        worker.send(packet::CAN_DO, function.as_bytes());
    }
    worker.expect_nothing();
    worker
}
