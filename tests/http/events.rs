//! The stream of events.

use std::io::{BufReader, Write as _};
use std::net::TcpStream;

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::client::{Events, connect, read_answer, request, server};
use crate::common::{Server, Wire, packet};

fn ask(server: &Server) -> TcpStream {
    let mut stream = connect(server.http());
    stream.write_all(&request("GET", "/api/v1/events", &[], b"")).unwrap();
    stream
}

#[test]
fn each_second_tells_of_the_server_and_its_busiest_functions() {
    let server = server(&[]);
    let mut events = Events::of(ask(&server));
    let (name, first) = events.next().expect("an event");
    assert_eq!((name.as_str(), first["jobs"]["queued"].as_u64()), ("overview", Some(0)));
    let mut client = Wire::connect(server.addr());
    for number in 0..30 {
        for _ in 0..=number {
            client.send(packet::SUBMIT_JOB_BG, &packet::body(&[format!("f{number}").as_bytes(), b"", b"x"]));
            client.expect_type(packet::JOB_CREATED);
        }
    }
    let all = (1..=30).sum::<u64>();
    let mut await_event = |is_it: &dyn Fn(&Value) -> bool| loop {
        let (name, overview) = events.next().expect("an event");
        assert_eq!(name, "overview");
        if overview["jobs"]["queued"].as_u64() == Some(all) && is_it(&overview) {
            break overview;
        }
    };
    // The busiest functions are chosen before the jobs are counted: only those of a later event are of all
    // jobs.
    let complete = await_event(&|_| true);
    let overview = await_event(&|overview| *overview != complete);
    let top: Vec<_> =
        overview["top"].as_array().unwrap().iter().map(|function| function["name"].as_str().unwrap()).collect();
    let expected: Vec<_> = (10..30).rev().map(|number| format!("f{number}")).collect();
    assert_eq!(top, expected);
}

#[test]
fn streams_are_counted_and_end_with_the_server() {
    let mut server = server(&["--http-max-connections", "100"]);
    let mut streams: Vec<_> = (0..64).map(|_| Events::of(ask(&server))).collect();
    read_answer(&mut BufReader::new(ask(&server))).expect_error(503, "too_many_streams");
    let mut first = streams.remove(0);
    first.next().expect("an event");
    server.signal(Signal::SIGTERM);
    while first.next().is_some() {}
    assert!(server.wait().success());
}
