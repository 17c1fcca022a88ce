//! The commands of `gearmand admin` that C++ gearmand does not know.

use serde_json::{Value, json};

use crate::common::{Server, Wire, packet};
use crate::{grab, run, submit, worker};

#[track_caller]
fn admin(server: &Server, arguments: &[&str]) -> String {
    let (stdout, stderr, status) = run(server, "admin", arguments);
    assert_eq!((stderr.as_str(), status), ("", Some(0)), "{arguments:?}: {stdout}");
    stdout
}

#[track_caller]
fn json(server: &Server, arguments: &[&str]) -> Value {
    serde_json::from_str(&admin(server, &[&["--json"], arguments].concat())).expect("JSON")
}

/// What a command says that fails.
#[track_caller]
fn refused(server: &Server, arguments: &[&str], status: i32) -> String {
    let (stdout, stderr, ended) = run(server, "admin", arguments);
    assert_eq!((stdout.as_str(), ended), ("", Some(status)), "{arguments:?}: {stderr}");
    stderr
}

fn server() -> Server {
    Server::ours(&["--job-handle-prefix", "H:t"])
}

#[test]
fn functions_are_paused_limited_and_shown() {
    let server = server();
    submit(&server, "rev", 3);
    let mut worker = worker(&server, "me", &["rev"]);
    assert_eq!(admin(&server, &["pause", "rev"]), "OK\n");
    worker.send(packet::GRAB_JOB, b"");
    worker.expect(packet::NO_JOB, b"");
    let table = admin(&server, &["show-functions"]);
    assert!(table.starts_with("NAME  HIGH  NORMAL  LOW") && table.lines().count() == 2, "{table}");
    assert_eq!(admin(&server, &["show-functions", "--columns", "paused,name"]), "PAUSED  NAME\nyes     rev\n");
    let why = refused(&server, &["show-functions", "--columns", "bogus"], 2);
    assert!(why.contains("unknown column bogus; known: name, high,"), "{why}");
    assert_eq!(json(&server, &["resume", "rev"]), json!({"ok": true}));
    assert_eq!(admin(&server, &["limit-running", "rev", "1"]), "OK\n");
    grab(&mut worker);
    worker.send(packet::GRAB_JOB, b"");
    worker.expect(packet::NO_JOB, b"");
    let functions = json(&server, &["show-functions"]);
    let rev = &functions[0];
    assert_eq!([&rev["paused"], &rev["max_running"], &rev["running"]], [&json!(false), &json!(1), &json!(1)]);
    // A name that has a space is said as it is.
    let (stdout, stderr, status) = run(&server, "admin", &["pause", "with space"]);
    assert_eq!((stdout.as_str(), status), ("OK 0\n", Some(0)), "{stderr}");
    assert!(stderr.contains("warning: "), "{stderr}");
    let names: Vec<Value> =
        json(&server, &["show-functions"]).as_array().unwrap().iter().map(|f| f["name"].clone()).collect();
    assert_eq!(names, ["rev", "with space"]);
}

#[test]
fn jobs_are_listed_shown_moved_and_cancelled() {
    let server = server();
    submit(&server, "rev", 250);
    // Whoever moves jobs to a function that nobody knows is warned.
    for function in ["sort", "mail"] {
        admin(&server, &["create-function", function]);
    }
    let handles = |arguments: &[&str]| -> (usize, Value) {
        let page = json(&server, &[&["list-jobs"], arguments].concat());
        (page["jobs"].as_array().expect("jobs").len(), page["next"].clone())
    };
    let (count, next) = handles(&[]);
    assert_eq!(count, 100);
    let next = next.as_str().expect("a place to go on").to_owned();
    assert_eq!(handles(&["--after", &next, "--limit", "1000"]), (150, Value::Null));
    assert_eq!(handles(&["--unique", "u7", "--function", "rev", "--state", "queued"]), (1, Value::Null));
    assert_eq!(handles(&["--older", "1000"]).0, 0);
    let text = admin(&server, &["list-jobs", "--limit", "1"]);
    assert!(text.starts_with("HANDLE") && text.contains("(more: --after "), "{text}");
    let job = json(&server, &["show-job", "H:t:1"]);
    assert_eq!([&job["function"], &job["state"], &job["bytes"]], [&json!("rev"), &json!("queued"), &json!(1)]);
    admin(&server, &["priority-job", "H:t:1", "high"]);
    assert_eq!(json(&server, &["show-job", "H:t:1"])["priority"], "high");
    assert_eq!(handles(&["--priority", "high"]).0, 1);
    admin(&server, &["move-job", "H:t:1", "sort"]);
    assert_eq!(json(&server, &["show-job", "H:t:1"])["function"], "sort");
    admin(&server, &["move-jobs", "rev", "mail", "--yes"]);
    assert_eq!(handles(&["--function", "mail", "--limit", "1000"]).0, 249);
    admin(&server, &["cancel-jobs", "mail", "-y"]);
    assert_eq!(handles(&["--limit", "1000"]).0, 1);
    let why = refused(&server, &["show-job", "H:t:99999"], 1);
    assert!(why.contains("NO_SUCH_JOB") && !why.contains('+') && !why.contains("does not know"), "{why}");
    refused(&server, &["run-job", "H:t:1"], 1);
}

#[test]
fn a_scheduled_job_is_run_now() {
    let server = server();
    let mut client = Wire::connect(server.addr());
    client.send(packet::SUBMIT_JOB_EPOCH, &packet::body(&[b"later", b"u", b"99999999999", b"x"]));
    client.expect(packet::JOB_CREATED, b"H:t:1");
    assert_eq!(json(&server, &["show-job", "H:t:1"])["state"], "scheduled");
    admin(&server, &["run-job", "H:t:1"]);
    assert_eq!(json(&server, &["show-job", "H:t:1"])["state"], "queued");
}

#[test]
fn tables_are_for_people_and_count_failures_of_both_kinds() {
    let server = server();
    submit(&server, "rev", 2);
    let mut worker = worker(&server, "me", &["rev"]);
    let first = grab(&mut worker);
    worker.send(packet::WORK_FAIL, first.as_bytes());
    let second = grab(&mut worker);
    worker.send(packet::WORK_EXCEPTION, &packet::body(&[second.as_bytes(), b"why"]));
    worker.expect_nothing();
    let cell = |arguments: &[&str], heading: &str| {
        let text = admin(&server, arguments);
        let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
        let place = lines[0].iter().position(|word| *word == heading).expect(&text);
        lines[1][place].to_owned()
    };
    assert_eq!(cell(&["show-workers"], "FAILED"), "2");
    let apart = ["show-workers", "--columns", "failed,exceptions,heard_unix_ms"];
    assert_eq!((cell(&apart, "FAILED"), cell(&apart, "EXCEPTIONS")), ("1".to_owned(), "1".to_owned()));
    let heard = cell(&apart, "HEARD");
    assert!(heard.ends_with('s') && heard.len() < 7, "{heard}");
    assert_eq!(cell(&["show-functions"], "PAUSED"), "no");
    assert!(cell(&["show-functions"], "OUT/S").contains('.'));
    let server_facts = admin(&server, &["show-server"]);
    assert!(server_facts.contains("\nmemory ") && !server_facts.contains("_unix_ms"), "{server_facts}");
    assert!(json(&server, &["show-workers"])[0]["heard_unix_ms"].as_u64() > Some(1_000_000_000_000));
}

#[test]
fn workers_are_shown_withheld_from_and_kicked() {
    let server = server();
    submit(&server, "rev", 2);
    let mut busy = worker(&server, "me", &["rev"]);
    let handle = grab(&mut busy);
    let workers = json(&server, &["show-workers"]);
    let id = workers[0]["id"].as_str().expect("an id").to_owned();
    assert_eq!([&workers[0]["state"], &workers[0]["job"]], [&json!("working"), &json!(handle)]);
    let one = json(&server, &["show-worker", &id]);
    assert_eq!(one["functions"][0]["name"], "rev");
    assert_eq!(one["jobs"][0]["handle"], handle);
    admin(&server, &["drain", &format!("connection:{id}")]);
    assert_eq!(json(&server, &["show-workers"])[0]["state"], "draining");
    admin(&server, &["disable", "host:127.0.0.1", "rev"]);
    let rules = json(&server, &["show-rules"]);
    assert_eq!(rules.as_array().map(Vec::len), Some(2), "{rules}");
    admin(&server, &["enable", "host:127.0.0.1", "rev"]);
    admin(&server, &["enable", &format!("connection:{id}")]);
    assert_eq!(json(&server, &["show-workers"])[0]["state"], "working");
    assert_eq!(json(&server, &["show-rules"]), json!([]));
    // No terminal, so there is nobody to ask.
    admin(&server, &["kick", "client:me"]);
    assert_eq!(busy.recv_or_end(), None);
    let jobs = json(&server, &["show-server"])["jobs_queued"].clone();
    assert_eq!(jobs, 2);
    assert!(refused(&server, &["kick", "127.0.0.1"], 2).contains("connection:ID, client:CLIENT_ID or host:ADDRESS"));
}

#[test]
fn a_cpp_server_does_not_know_them_and_that_is_said() {
    let server = Server::debian(&[]);
    for arguments in [
        &["show-functions"][..],
        &["show-workers"],
        &["list-jobs"],
        &["show-job", "H:x:1"],
        &["show-worker", "1-2"],
        &["show-server"],
        &["show-rules"],
        &["pause", "f"],
        &["resume", "f"],
        &["limit-running", "f", "1"],
        &["cancel-jobs", "f"],
        &["move-job", "H:x:1", "f"],
        &["move-jobs", "f", "g"],
        &["priority-job", "H:x:1", "low"],
        &["run-job", "H:x:1"],
        &["disable", "host:h"],
        &["drain", "client:c", "f"],
        &["enable", "host:h"],
        &["kick", "connection:1-2"],
    ] {
        let why = refused(&server, arguments, 1);
        assert!(why.contains("this server does not know the command: it is C++ gearmand"), "{arguments:?}: {why}");
    }
    let (stdout, _, status) = run(&server, "admin", &["--json", "show-functions"]);
    assert_eq!((stdout.as_str(), status), ("{\"error\":\"UNKNOWN_SHOW_ARGUMENTS\"}\n", Some(1)));
}
