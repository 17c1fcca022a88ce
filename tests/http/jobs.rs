//! Submitting jobs over HTTP, and waiting for them.

use std::io::{Read as _, Write as _};
use std::process::Command;

use serde_json::{Value, json};

use crate::client::{Events, connect, exchange, get, post, request, server, shown};
use crate::common::{Program, Server, Wire, packet, wait_for};

const JOBS: &str = "/api/v1/jobs";

/// A worker of this crate's.
fn worker(server: &Server, function: &str, command: &[&str]) -> Program {
    let mut program = Command::new(env!("CARGO_BIN_EXE_gearmand"));
    program.args(["work", "-s", &server.addr().to_string(), "-f", function, "--"]).args(command);
    Program::start(&mut program)
}

/// Begins to submit a job whose events are read.
fn submit_streaming(server: &Server, body: &Value) -> Events {
    let mut stream = connect(server.http());
    let headers = [("content-type", "application/json"), ("accept", "text/event-stream")];
    stream.write_all(&request("POST", JOBS, &headers, body.to_string().as_bytes())).unwrap();
    Events::of(stream)
}

/// A worker whose packets a test writes.
struct Hand {
    wire: Wire,
    handle: Vec<u8>,
}

impl Hand {
    /// Takes the next job of this function, whose workload is to be this.
    #[track_caller]
    fn take(server: &Server, function: &str, workload: &[u8]) -> Self {
        let mut wire = Wire::connect(server.addr());
        wire.send(packet::CAN_DO, function.as_bytes());
        let assigned = wait_for("a job", || {
            wire.send(packet::GRAB_JOB, b"");
            let (packet_type, body) = wire.recv();
            (packet_type == packet::JOB_ASSIGN).then_some(body)
        });
        let parts: Vec<_> = assigned.splitn(3, |byte| *byte == 0).collect();
        assert_eq!(parts[2], workload);
        Self { handle: parts[0].to_vec(), wire }
    }

    fn say(&mut self, packet_type: u32, arguments: &[&[u8]]) {
        let arguments = [&[self.handle.as_slice()], arguments].concat();
        self.wire.send(packet_type, &packet::body(&arguments));
    }
}

#[test]
fn a_background_job_has_a_handle() {
    let server = server(&[]);
    let body = json!({"function": "ä b", "workload": "x", "unique": "u", "priority": "high", "background": true});
    let created = post(&server, JOBS, &body);
    assert_eq!(created.status, 201, "{}", created.text());
    let handle = created.json()["handle"].as_str().unwrap().to_owned();
    let job = shown(&server, &format!("/api/v1/jobs/{handle}"));
    assert_eq!((&job["function"], &job["priority"], &job["unique"]), (&json!("ä b"), &json!("high"), &json!("u")));
    // The same job again is the same job.
    assert_eq!(post(&server, JOBS, &body).json()["handle"], json!(handle));

    let later =
        json!({"function": "f", "workload_base64": "/w==", "background": true, "due_unix_s": 99_999_999_999_u64});
    let handle = post(&server, JOBS, &later).json()["handle"].as_str().unwrap().to_owned();
    let job = shown(&server, &format!("/api/v1/jobs/{handle}"));
    assert_eq!((&job["state"], &job["due_unix_s"]), (&json!("scheduled"), &json!(99_999_999_999_u64)));
}

#[test]
fn a_result_is_waited_for() {
    let server = server(&[]);
    let _worker = worker(&server, "rev", &["rev"]);
    let answer = post(&server, JOBS, &json!({"function": "rev", "workload": "olleh"}));
    assert_eq!(answer.status, 200, "{}", answer.text());
    let result = answer.json();
    assert_eq!(
        (&result["outcome"], &result["data"], &result["warnings"]),
        (&json!("complete"), &json!("hello"), &json!([]))
    );
    let result = post(&server, JOBS, &json!({"function": "rev", "workload_base64": "Y2Jh"})).json();
    assert_eq!(result["data"], "abc");
}

#[test]
fn each_end_is_told() {
    let server = server(&[]);
    let wait = |work: &dyn Fn(&mut Hand)| {
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| post(&server, JOBS, &json!({"function": "f", "workload": "w"})));
            let mut hand = Hand::take(&server, "f", b"w");
            work(&mut hand);
            let answer = waiting.join().unwrap();
            assert_eq!(answer.status, 200, "{}", answer.text());
            let mut body = answer.json();
            assert_eq!(body["handle"].as_str().unwrap().as_bytes(), hand.handle);
            body.as_object_mut().unwrap().remove("handle");
            body
        })
    };
    let parts = wait(&|hand| {
        hand.say(packet::WORK_DATA, &[b"one "]);
        hand.say(packet::WORK_WARNING, &[b"careful"]);
        hand.say(packet::WORK_STATUS, &[b"1", b"2"]);
        hand.say(packet::WORK_COMPLETE, &[b"two"]);
    });
    assert_eq!(parts, json!({"outcome": "complete", "data": "one two", "warnings": ["careful"]}));
    let bytes = wait(&|hand| hand.say(packet::WORK_COMPLETE, &[b"\xff\0"]));
    assert_eq!(bytes, json!({"outcome": "complete", "data_base64": "/wA=", "warnings": []}));
    let fail = wait(&|hand| hand.say(packet::WORK_FAIL, &[]));
    assert_eq!(fail, json!({"outcome": "fail", "data": "", "warnings": []}));
    let exception = wait(&|hand| {
        hand.say(packet::WORK_DATA, &[b"partial"]);
        hand.say(packet::WORK_EXCEPTION, &[b"boom"]);
    });
    assert_eq!(exception, json!({"outcome": "exception", "data": "boom", "warnings": []}));
}

#[test]
fn events_are_told_as_they_happen() {
    let server = server(&[]);
    let mut events = submit_streaming(&server, &json!({"function": "f", "workload": "w"}));
    let (name, created) = events.next().unwrap();
    assert_eq!(name, "created");
    let handle = created["handle"].clone();
    let mut hand = Hand::take(&server, "f", b"w");
    let mut expect = |hand: &mut Hand, packet_type, arguments: &[&[u8]], name: &str, mut data: Value| {
        hand.say(packet_type, arguments);
        data["handle"] = handle.clone();
        assert_eq!(events.next(), Some((name.to_owned(), data)));
    };
    expect(&mut hand, packet::WORK_STATUS, &[b"1", b"3"], "status", json!({"numerator": 1, "denominator": 3}));
    expect(&mut hand, packet::WORK_DATA, &[b"line\n"], "data", json!({"data": "line\n"}));
    expect(&mut hand, packet::WORK_DATA, &[b"\xff"], "data", json!({"data_base64": "/w=="}));
    expect(&mut hand, packet::WORK_WARNING, &[b"careful"], "warning", json!({"data": "careful"}));
    expect(&mut hand, packet::WORK_COMPLETE, &[b"end"], "complete", json!({"data": "end"}));
    assert_eq!(events.next(), None);

    let mut failing = submit_streaming(&server, &json!({"function": "f", "workload": "x"}));
    let mut hand = Hand::take(&server, "f", b"x");
    hand.say(packet::WORK_EXCEPTION, &[b"boom"]);
    let names: Vec<_> = std::iter::from_fn(|| failing.next()).map(|(name, _)| name).collect();
    assert_eq!(names, ["created", "exception"]);
}

#[test]
fn a_large_result_comes_whole() {
    let server = server(&[]);
    let large = "x".repeat(3_000_000);
    let _worker = worker(&server, "cat", &["cat"]);
    let body = json!({"function": "cat", "workload": large});
    let answer = post(&server, JOBS, &body);
    assert_eq!(answer.json()["data"].as_str().map(str::len), Some(large.len()));
    let mut events = submit_streaming(&server, &body);
    let mut received = 0;
    while let Some((_, event)) = events.next() {
        received += event["data"].as_str().map_or(0, str::len);
    }
    assert_eq!(received, large.len());
}

#[test]
fn a_client_that_goes_away_abandons_its_job() {
    let server = server(&[]);
    let jobs = || shown(&server, "/api/v1/jobs")["jobs"].as_array().unwrap().len();
    let body = json!({"function": "f"});
    let mut plain = connect(server.http());
    let headers = [("content-type", "application/json")];
    plain.write_all(&request("POST", JOBS, &headers, body.to_string().as_bytes())).unwrap();
    let mut streaming = submit_streaming(&server, &body);
    assert_eq!(streaming.next().unwrap().0, "created");
    wait_for("both jobs", || (jobs() == 2).then_some(()));
    drop(plain);
    wait_for("the end of one", || (jobs() == 1).then_some(()));
    drop(streaming);
    wait_for("the end of the other", || (jobs() == 0).then_some(()));
}

#[test]
fn what_the_job_server_refuses_is_told() {
    let server = server(&[]);
    assert!(Wire::connect(server.addr()).text("maxqueue full 1").starts_with("OK"));
    let full = json!({"function": "full", "background": true});
    assert_eq!(post(&server, JOBS, &full).status, 201);
    let refused = post(&server, JOBS, &full);
    refused.expect_error(503, "queue_error");
    assert!(refused.header("retry-after").is_some());
    for body in [
        json!({}),
        json!({"function": 1}),
        json!({"function": "f", "workload": "a", "workload_base64": "YQ=="}),
        json!({"function": "f", "workload_base64": "?"}),
        json!({"function": "f", "unique": "a\u{0}b"}),
        json!({"function": "f", "priority": "urgent"}),
        json!({"function": "f", "due_unix_s": 1}),
        json!({"function": "f", "due_unix_s": 1, "background": true, "priority": "high"}),
        json!({"function": "f", "backgruond": true}),
        json!([]),
    ] {
        post(&server, JOBS, &body).expect_error(400, "bad_body");
    }
    for function in ["a\u{0}b", &"x".repeat(513)] {
        post(&server, JOBS, &json!({"function": function})).expect_error(400, "bad_function");
    }
    post(&server, JOBS, &json!({"function": "f", "unique": "x".repeat(65)})).expect_error(413, "argument_too_large");
    let text = exchange(server.http(), &request("POST", JOBS, &[("x-requested-with", "x")], b"{}"));
    text.expect_error(415, "not_json");
    assert_eq!(get(&server, "/healthz").status, 200);
}

#[test]
fn waiting_ends_with_the_server() {
    let server = server(&[]);
    let mut events = submit_streaming(&server, &json!({"function": "f"}));
    assert_eq!(events.next().unwrap().0, "created");
    server.signal(nix::sys::signal::Signal::SIGTERM);
    let last = std::iter::from_fn(|| events.next()).last();
    assert_eq!(last.map(|(name, _)| name).as_deref(), Some("error"));
}

/// Memory of the server's own, in MiB.
fn anonymous_mib(server: &Server) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.pid())).expect("the server runs");
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).expect("RssAnon");
    line.trim().trim_end_matches(" kB").parse::<usize>().expect("a number") / 1024
}

#[test]
fn an_unread_result_takes_no_more_than_it_has() {
    const MIB: usize = 12;
    let server = server(&[]);
    let before = anonymous_mib(&server);
    let mut streams = Vec::new();
    for accept in ["application/json", "text/event-stream"] {
        let mut stream = connect(server.http());
        let headers = [("content-type", "application/json"), ("accept", accept)];
        stream.write_all(&request("POST", JOBS, &headers, br#"{"function":"f"}"#)).unwrap();
        let mut hand = Hand::take(&server, "f", b"");
        // Each byte of it takes six in JSON.
        hand.say(packet::WORK_COMPLETE, &[&vec![1; MIB << 20]]);
        let mut begun = [0; 1];
        stream.read_exact(&mut begun).expect("the beginning of the answer");
        streams.push((stream, hand));
    }
    let grown = anonymous_mib(&server).saturating_sub(before);
    assert!(grown < 2 * 4 * MIB, "{grown} MiB for two results of {MIB} MiB");
    for (mut stream, _hand) in streams {
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).expect("the whole answer");
        assert!(rest.len() > 6 * (MIB << 20) && rest.ends_with(b"0\r\n\r\n"), "{}", rest.len());
    }
}

#[test]
fn bodies_take_memory_as_they_come() {
    let server = server(&[]);
    let head = |name: &str| {
        let headers = [("content-type", "application/json"), ("transfer-encoding", "chunked"), ("x-name", name)];
        request("POST", JOBS, &headers, b"")
    };
    let begun: Vec<_> = (0..8)
        .map(|_| {
            let mut stream = connect(server.http());
            stream.write_all(&[&head("held")[..], b"1\r\n \r\n"].concat()).unwrap();
            stream
        })
        .collect();
    let job = br#"{"function":"f","background":true}"#;
    let chunk = [format!("{:x}\r\n", job.len()).as_bytes(), job, b"\r\n0\r\n\r\n"].concat();
    let answer = exchange(server.http(), &[head("other"), chunk].concat());
    assert_eq!(answer.status, 201, "{}", answer.text());
    drop(begun);
}

/// Grabs the job of this handle, with a worker that gives itself this id.
#[track_caller]
fn grab(server: &Server, client: &str, timeout_s: &str) -> Wire {
    let mut worker = Wire::connect(server.addr());
    if !client.is_empty() {
        worker.send(packet::SET_CLIENT_ID, client.as_bytes());
    }
    worker.send(packet::CAN_DO_TIMEOUT, &packet::body(&[b"retried", timeout_s.as_bytes()]));
    wait_for("a job", || {
        worker.send(packet::GRAB_JOB, b"");
        (worker.recv().0 == packet::JOB_ASSIGN).then_some(())
    });
    worker
}

#[test]
fn runs_that_came_to_nothing_are_told() {
    let server = server(&[]);
    let body = json!({"function": "retried", "workload": "", "background": true});
    let path = format!("{JOBS}/{}", post(&server, JOBS, &body).json()["handle"].as_str().unwrap());
    assert_eq!(shown(&server, &path)["failed_attempts"], json!([]));
    drop(grab(&server, "first", "0"));
    let mut second = grab(&server, "second", "0");
    second.send(packet::CANT_DO, b"retried");
    let third = grab(&server, "", "1");
    let runs = wait_for("three runs", || {
        let runs = shown(&server, &path)["failed_attempts"].as_array().unwrap().clone();
        (runs.len() == 3).then_some(runs)
    });
    let told: Vec<(&Value, &Value)> = runs.iter().map(|run| (&run["client_id"], &run["end"])).collect();
    let expected = [(json!("first"), "disconnected"), (json!("second"), "given_back"), (Value::Null, "timed_out")];
    for ((client, end), (expected_client, expected_end)) in told.into_iter().zip(expected) {
        assert_eq!((client, end), (&expected_client, &json!(expected_end)), "{runs:?}");
    }
    let time = |run: &Value, key: &str| run[key].as_u64().unwrap();
    assert!(time(&runs[2], "until_unix_ms") - time(&runs[2], "since_unix_ms") >= 1000, "{runs:?}");
    assert!(runs.iter().all(|run| run["address"] == "127.0.0.1"), "{runs:?}");
    assert!(time(&runs[0], "since_unix_ms") <= time(&runs[1], "since_unix_ms"), "{runs:?}");
    drop(third);
    // What runs now is none of them, and lists have none.
    let _fourth = grab(&server, "fourth", "0");
    let job = shown(&server, &path);
    assert_eq!((job["failed_attempts"].as_array().map(Vec::len), &job["attempts"]), (Some(3), &json!(3)), "{job}");
    assert_eq!(shown(&server, JOBS)["jobs"][0].get("failed_attempts"), None);
}
