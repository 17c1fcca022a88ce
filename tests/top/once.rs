//! `--once` and `--json`.

use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::common::{Program, Server};
use crate::{grab, run, submit, worker};

#[track_caller]
fn document(server: &Server) -> Value {
    let (stdout, stderr, status) = run(server, "top", &["--once", "--json"]);
    assert_eq!((stderr.as_str(), status), ("", Some(0)));
    serde_json::from_str(&stdout).expect("JSON")
}

#[test]
fn all_tables_of_our_server() {
    let server = Server::ours(&["--job-handle-prefix", "H:t"]);
    submit(&server, "rev", 3);
    let mut worker = worker(&server, "me", &["rev", "with space"]);
    let handle = grab(&mut worker);
    let (stdout, stderr, status) = run(&server, "top", &["--once"]);
    assert_eq!((stderr.as_str(), status), ("", Some(0)));
    let has = |words: &[&str]| stdout.lines().any(|line| words.iter().all(|word| line.contains(word)));
    assert!(has(&["2 queued", "1 running", "1 working"]), "{stdout}");
    assert!(has(&["FUNCTION", "QUEUED", "OLDEST"]) && has(&["rev", "2", "1"]), "{stdout}");
    assert!(has(&["me", "127.0.0.1", "working", &handle, "with space,rev"]), "{stdout}");
    assert!(has(&[&handle, "rev", "running"]) && has(&["H:t:3", "rev", "queued"]), "{stdout}");
    let document = document(&server);
    assert_eq!(document["plain"], false);
    assert_eq!(document["all_jobs"], true);
    assert_eq!(document["server"]["jobs_queued"], 2);
    let rev = &document["functions"].as_array().expect("functions")[0];
    assert_eq!((&rev["name"], &rev["queued"], &rev["paused"]), (&json!("rev"), &json!(2), &json!(false)));
    let workers = document["workers"].as_array().expect("workers");
    assert_eq!(workers.len(), 1);
    assert_eq!(workers[0]["functions"], json!(["with space", "rev"]));
    assert_eq!(workers[0]["job"], handle);
    assert_eq!(document["jobs"].as_array().map(Vec::len), Some(3));
}

#[test]
fn what_a_cpp_server_tells() {
    let server = Server::debian(&[]);
    submit(&server, "rev", 3);
    let mut worker = worker(&server, "me", &["rev"]);
    grab(&mut worker);
    let (stdout, stderr, status) = run(&server, "top", &["--once"]);
    assert_eq!((stderr.as_str(), status), ("", Some(0)));
    assert!(stdout.contains("C++ gearmand: limited data"), "{stdout}");
    assert!(stdout.contains("jobs: 2 queued, 1 running"), "{stdout}");
    let document = document(&server);
    assert_eq!(document["plain"], true);
    let rev = &document["functions"][0];
    assert_eq!([&rev["queued"], &rev["running"], &rev["workers"]], [&json!(2), &json!(1), &json!(1)]);
    assert_eq!(document["workers"][0]["functions"], json!(["rev"]));
    assert_eq!(document["rules"], Value::Null);
}

#[test]
fn json_comes_again_and_again_with_rates() {
    let server = Server::ours(&[]);
    submit(&server, "rev", 1);
    let mut command = Command::new(env!("CARGO_BIN_EXE_gearmand"));
    command.args(["top", "--json", "-i", "0.1", "-s", &server.addr().to_string()]);
    let top = Program::start(&mut command);
    let next = || serde_json::from_str::<Value>(&top.line().expect("a line")).expect("JSON");
    assert_eq!(next()["functions"][0]["queued"], 1);
    // One of them joins the job that is there.
    submit(&server, "rev", 51);
    // In one of the next looks; one that follows another too closely says nothing of rates.
    let seen = (0..100).map(|_| next()).find(|document| {
        let rev = &document["functions"][0];
        rev["queued"] == 51 && rev["in_per_s"].as_f64().is_some_and(|rate| rate > 0.0)
    });
    let rate = seen.expect("51 jobs, and how fast they came")["functions"][0]["in_per_s"].as_f64().expect("a rate");
    assert!(rate <= 50.0 / 0.05, "{rate} jobs per second");
}

#[test]
fn without_a_terminal_or_a_server_it_says_so() {
    let server = Server::ours(&[]);
    let (stdout, stderr, status) = run(&server, "top", &[]);
    assert_eq!((stdout.as_str(), status), ("", Some(2)));
    assert!(stderr.contains("is not a terminal: use --once or --json"), "{stderr}");
    let mut server = server;
    server.terminate();
    let (stdout, stderr, status) = run(&server, "top", &["--once"]);
    assert_eq!((stdout.as_str(), status), ("", Some(3)));
    assert!(stderr.starts_with("gearmand top: cannot connect to 127.0.0.1:"), "{stderr}");
    let nowhere = Command::new(env!("CARGO_BIN_EXE_gearmand"))
        .args(["top", "--once", "-s", "no address"])
        .stdin(Stdio::null())
        .output()
        .expect("run the tool");
    assert_eq!(nowhere.status.code(), Some(2));
}
