//! `gearmand top` on a real terminal, against our server and Debian's gearmand, and the commands of `gearmand
//! admin` that C++ gearmand does not know.
//!
//! * `live` types keys into tmux and reads the screen;
//! * `admin` runs the commands, and looks at the exit statuses and at what they changed.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a failed expectation is how a test fails")]

mod common;

#[path = "top/admin.rs"]
mod admin;
#[path = "top/live.rs"]
mod live;
#[path = "top/names.rs"]
mod names;
#[path = "top/once.rs"]
mod once;
#[path = "top/screen.rs"]
mod screen;

use std::process::{Command, Stdio};

use common::{Server, Wire, packet};

/// A worker that has registered these functions, under this id.
#[track_caller]
fn worker(server: &Server, id: &str, functions: &[&str]) -> Wire {
    let mut worker = Wire::connect(server.addr());
    worker.send(packet::SET_CLIENT_ID, id.as_bytes());
    for function in functions {
        worker.send(packet::CAN_DO, function.as_bytes());
    }
    worker.expect_nothing();
    worker
}

/// Submits background jobs and returns their handles.
#[track_caller]
fn submit(server: &Server, function: &str, count: usize) -> Vec<String> {
    let mut client = Wire::connect(server.addr());
    let one = |index: usize| {
        client.send(packet::SUBMIT_JOB_BG, &packet::body(&[function.as_bytes(), format!("u{index}").as_bytes(), b"x"]));
        let (packet_type, handle) = client.recv();
        assert_eq!(packet_type, packet::JOB_CREATED);
        String::from_utf8(handle).expect("a handle")
    };
    (0..count).map(one).collect()
}

/// Grabs a job and returns its handle.
#[track_caller]
fn grab(worker: &mut Wire) -> String {
    worker.send(packet::GRAB_JOB, b"");
    let body = worker.expect_type(packet::JOB_ASSIGN);
    String::from_utf8_lossy(body.split(|byte| *byte == 0).next().unwrap_or_default()).into_owned()
}

/// Runs a tool against a server to its end; its standard output, standard error and exit status.
#[track_caller]
fn run(server: &Server, tool: &str, arguments: &[&str]) -> (String, String, Option<i32>) {
    let output = Command::new(env!("CARGO_BIN_EXE_gearmand"))
        .arg(tool)
        .args(["-s", &server.addr().to_string()])
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .expect("run the tool");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
    (text(output.stdout), text(output.stderr), output.status.code())
}
