//! The tools in the server's binary, as their users run them: `gearmand work`, `submit` and `admin` against
//! our server.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a failed expectation is how a test fails")]

mod common;
#[path = "tools/hostile.rs"]
mod hostile;
#[path = "tools/prefetch.rs"]
mod prefetch;

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::mpsc;

use common::{DEADLINE, Program, Server, Wire, packet, wait_for};
use nix::sys::signal::{Signal, kill};
use nix::sys::stat::Mode;
use nix::unistd::{Pid, mkfifo};
use serde_json::{Value, json};
use tempfile::TempDir;

/// A tool that talks to `server`, as the environment tells it.
fn tool(server: &Server, name: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_gearmand"));
    command.arg(name).args(arguments).env_remove("GEARMAN_SERVER").env("GEARMAN_SERVERS", server.addr().to_string());
    command
}

fn worker(server: &Server, arguments: &[&str]) -> Program {
    Program::start(&mut tool(server, "work", arguments))
}

/// Runs a command to its end.
#[track_caller]
fn run(command: &mut Command, stdin: &[u8]) -> Output {
    let shown = format!("{command:?}");
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let pid = Pid::from_raw(i32::try_from(child.id()).unwrap());
    let (mut input, stdin) = (child.stdin.take().unwrap(), stdin.to_vec());
    // A tool need not read its input.
    let writer = std::thread::spawn(move || drop(input.write_all(&stdin)));
    let (sender, ended) = mpsc::channel();
    std::thread::spawn(move || sender.send(child.wait_with_output().unwrap()));
    let Ok(output) = ended.recv_timeout(DEADLINE) else {
        let _ = kill(pid, Signal::SIGKILL);
        panic!("{shown} has not ended within {DEADLINE:?}: {:?}", ended.recv_timeout(DEADLINE));
    };
    writer.join().unwrap();
    output
}

/// Runs a tool that must end with this status, and returns its standard output and standard error.
#[track_caller]
fn output(server: &Server, name: &str, arguments: &[&str], stdin: &[u8], status: i32) -> (String, String) {
    let output = run(&mut tool(server, name, arguments), stdin);
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(status), "{name} {arguments:?}\n{stdout}\n{stderr}");
    (stdout, stderr)
}

#[track_caller]
fn submit(server: &Server, arguments: &[&str]) -> String {
    output(server, "submit", arguments, b"", 0).0
}

#[track_caller]
fn admin_json(server: &Server, arguments: &[&str]) -> Value {
    let (stdout, _) = output(server, "admin", &[&["--json"], arguments].concat(), b"", 0);
    serde_json::from_str(&stdout).unwrap()
}

/// The total and running jobs of a function.
fn jobs_of(server: &Server, function: &str) -> Option<(u64, u64)> {
    let functions = admin_json(server, &["status"]);
    let line = functions.as_array()?.iter().find(|line| line["function"] == function)?;
    Some((line["total"].as_u64()?, line["running"].as_u64()?))
}

#[track_caller]
fn wait_for_jobs(server: &Server, function: &str, total: u64, running: u64) {
    let what = format!("{total} jobs of {function}, {running} of them running");
    wait_for(&what, || (jobs_of(server, function) == Some((total, running))).then_some(()));
}

fn signal(program: &Program, signal: Signal) {
    kill(Pid::from_raw(i32::try_from(program.pid()).unwrap()), signal).unwrap();
}

/// A pipe with a name: whoever opens it waits for the other side.
fn fifo(directory: &TempDir) -> PathBuf {
    let path = directory.path().join("fifo");
    mkfifo(&path, Mode::from_bits_truncate(0o600)).unwrap();
    path
}

fn read_from(fifo: &Path) -> String {
    format!("exec cat '{}'", fifo.display())
}

#[test]
fn words_lines_and_whole_input_are_jobs() {
    let server = Server::ours(&[]);
    let _worker = worker(&server, &["-f", "rev", "--", "rev"]);
    assert_eq!(submit(&server, &["-f", "rev", "hello"]), "olleh");
    assert_eq!(submit(&server, &["-f", "rev", "one", "two"]), "eno\nowt\n");
    assert_eq!(submit(&server, &["-f", "rev", "--raw", "one", "two"]), "enoowt");
    let whole = output(&server, "submit", &["-f", "rev"], b"one\ntwo\n", 0);
    assert_eq!(whole, ("eno\nowt\n".to_owned(), String::new()));
    let lines = output(&server, "submit", &["-f", "rev", "--lines"], b"one\r\n\ntwo", 0);
    assert_eq!(lines, ("eno\n\nowt\n".to_owned(), String::new()));
    assert_eq!(output(&server, "submit", &["-f", "rev", "-n"], b"", 0).0, "");
}

#[test]
fn json_tells_what_became_of_each_job() {
    let server = Server::ours(&["--job-handle-prefix", "H:t"]);
    let script = "read word; echo a warning >&2; test $word = good && echo $GEARMAN_FUNCTION $GEARMAN_JOB_UNIQUE";
    let _worker = worker(&server, &["-f", "f", "--warnings", "--stream", "--", "sh", "-c", script]);
    let (stdout, stderr) = output(&server, "submit", &["-f", "f", "--json", "-u", "-", "good\n", "bad\n"], b"", 1);
    let lines: Vec<Value> = stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let expected = [
        json!({"job": 1, "function": "f", "unique": "-", "handle": "H:t:1", "outcome": "complete", "result": "",
            "data": "f -\n", "warnings": "a warning\n"}),
        json!({"job": 2, "function": "f", "unique": "-", "handle": "H:t:2", "outcome": "failed",
            "warnings": "a warning\n"}),
    ];
    assert_eq!(lines, expected);
    assert_eq!(stderr, "");
}

#[test]
fn a_failing_command_fails_its_job_and_may_say_why() {
    let server = Server::ours(&["--job-handle-prefix", "H:t"]);
    let _plain = worker(&server, &["-f", "plain", "--", "false"]);
    let script = "echo no such luck >&2; exit 3";
    let _talking = worker(&server, &["-f", "talking", "--exception", "--", "sh", "-c", script]);
    let failed = output(&server, "submit", &["-f", "plain", "x"], b"", 1);
    assert_eq!(failed, (String::new(), "gearmand submit: job 1 (H:t:1) failed\n".to_owned()));
    let failed = output(&server, "submit", &["-f", "talking", "x"], b"", 1);
    assert_eq!(failed, (String::new(), "gearmand submit: job 1 (H:t:2) failed: no such luck\n".to_owned()));
    // A client that did not ask for exceptions is told of the failure alone.
    let mut client = Wire::connect(server.addr());
    client.send(packet::SUBMIT_JOB, &packet::body(&[b"talking", b"", b"x"]));
    client.expect(packet::JOB_CREATED, b"H:t:3");
    client.expect(packet::WORK_FAIL, b"H:t:3");
}

#[test]
fn commands_run_at_the_same_time() {
    let server = Server::ours(&[]);
    let directory = TempDir::new().unwrap();
    let fifo = fifo(&directory);
    // Neither can open the pipe before the other does.
    let script =
        format!("read side; if [ $side = one ]; then cat '{0}'; else echo met > '{0}'; echo $side; fi", fifo.display());
    let _worker = worker(&server, &["-f", "meet", "-c", "2", "--", "sh", "-c", &script]);
    assert_eq!(submit(&server, &["-f", "meet", "one\n", "two\n"]), "met\ntwo\n");
}

#[test]
fn ten_thousand_lines_come_back_in_order() {
    const COUNT: usize = 10_000;
    let server = Server::ours(&[]);
    let address = server.addr();
    let echo = std::thread::spawn(move || {
        let mut wire = Wire::connect(address);
        wire.send(packet::CAN_DO, b"echo");
        let mut done = 0;
        while done < COUNT {
            wire.send(packet::GRAB_JOB, b"");
            match wire.recv() {
                (packet::JOB_ASSIGN, body) => {
                    let parts: Vec<&[u8]> = body.splitn(3, |byte| *byte == 0).collect();
                    wire.send(packet::WORK_COMPLETE, &packet::body(&[parts[0], parts[2]]));
                    done += 1;
                }
                (packet::NO_JOB, _) => {
                    wire.send(packet::PRE_SLEEP, b"");
                    wire.expect(packet::NOOP, b"");
                }
                (packet::NOOP, _) => {}
                other => panic!("{other:?}"),
            }
        }
        // The last result has arrived when the server answers this.
        wire.expect_nothing();
    });
    let lines = (0..COUNT).map(|number| format!("line {number}")).collect::<Vec<_>>().join("\n") + "\n";
    let (stdout, _) = output(&server, "submit", &["-f", "echo", "--lines"], lines.as_bytes(), 0);
    assert!(stdout == lines, "{} bytes of {}", stdout.len(), lines.len());
    echo.join().unwrap();
}

#[test]
fn large_workloads_pass_through_a_command() {
    let server = Server::ours(&[]);
    let _whole = worker(&server, &["-f", "whole", "--", "cat"]);
    let _parts = worker(&server, &["-f", "parts", "--stream", "--", "cat"]);
    let workload = (0..1_000_000).map(|number| format!("{number:07}")).collect::<Vec<_>>().join("\n");
    for function in ["whole", "parts"] {
        let (stdout, _) = output(&server, "submit", &["-f", function], workload.as_bytes(), 0);
        assert!(stdout == workload, "{function}: {} bytes", stdout.len());
    }
}

#[test]
fn the_empty_function_name_is_a_name() {
    let server = Server::ours(&["--function-durability", "=off"]);
    let _worker = worker(&server, &["-f", "", "--", "cat"]);
    assert_eq!(submit(&server, &["-f", "", "x"]), "x");
}

#[test]
fn a_typographic_dash_is_explained() {
    let server = Server::ours(&[]);
    for tool in ["submit", "work"] {
        let (_, stderr) = output(&server, tool, &["\u{2013}f", "rev", "x"], b"", 2);
        assert!(stderr.contains("write '-f'"), "{stderr}");
    }
}

#[test]
fn background_jobs_are_taken_listed_and_cancelled() {
    let server = Server::ours(&["--job-handle-prefix", "H:t"]);
    assert_eq!(submit(&server, &["-f", "later", "-b", "-u", "u1", "x"]), "H:t:1\n");
    assert_eq!(submit(&server, &["-f", "later", "--in", "3600", "x", "y"]), "H:t:2\nH:t:3\n");
    assert_eq!(jobs_of(&server, "later"), Some((3, 0)));
    let uniques = admin_json(&server, &["show-unique-jobs"]);
    assert!(uniques.as_array().unwrap().contains(&json!({"unique": "u1"})), "{uniques}");
    let jobs = admin_json(&server, &["show-jobs"]);
    let mut handles: Vec<&str> = jobs.as_array().unwrap().iter().map(|job| job["handle"].as_str().unwrap()).collect();
    handles.sort_unstable();
    assert_eq!(handles, ["H:t:1", "H:t:2", "H:t:3"]);
    assert_eq!(output(&server, "admin", &["cancel-job", "H:t:1"], b"", 0).0, "OK\n");
    let (stdout, stderr) = output(&server, "admin", &["cancel-job", "H:t:99"], b"", 1);
    assert_eq!(stdout, "");
    assert!(stderr.ends_with("UNKNOWN_JOB\n"), "{stderr}");
}

#[test]
fn submissions_with_one_unique_id_are_one_job() {
    let server = Server::ours(&["--job-handle-prefix", "H:t"]);
    assert_eq!(submit(&server, &["-f", "f", "-b", "-u", "same", "first"]), "H:t:1\n");
    let mut second = Program::start(&mut tool(&server, "submit", &["-f", "f", "-u", "same", "second", "third"]));
    let mut observer = Wire::connect(server.addr());
    wait_for("two waiting submissions", || {
        observer.send(packet::GET_STATUS_UNIQUE, b"same");
        observer.expect_type(packet::STATUS_RES_UNIQUE).ends_with(b"\x002").then_some(())
    });
    let mut worker = worker(&server, &["-f", "f", "--count", "1", "--", "cat"]);
    second.expect_end(&["first", "first"]);
    worker.expect_end(&[]);
    assert_eq!(jobs_of(&server, "f"), Some((0, 0)));
}

#[test]
fn priorities_decide_what_runs_first() {
    let server = Server::ours(&[]);
    for (option, workload) in [("-L", "low"), ("--priority=normal", "normal"), ("-I", "high")] {
        submit(&server, &["-f", "f", "-b", option, workload]);
    }
    let directory = TempDir::new().unwrap();
    let file = directory.path().join("order");
    let script = format!("(cat; echo) >> '{}'", file.display());
    worker(&server, &["-f", "f", "--count", "3", "--", "sh", "-c", &script]).expect_end(&[]);
    assert_eq!(fs::read_to_string(file).unwrap(), "high\nnormal\nlow\n");
}

#[test]
fn a_worker_survives_its_server_also_in_the_middle_of_a_job() {
    // In memory: a job that was kept would block the worker again.
    let mut server = Server::ours(&["-q", "builtin"]);
    let directory = TempDir::new().unwrap();
    let fifo = fifo(&directory);
    let script = format!("read what; if [ $what = block ]; then {}; fi; echo $what", read_from(&fifo));
    let _worker = worker(&server, &["-f", "f", "--", "sh", "-c", &script]);
    assert_eq!(submit(&server, &["-f", "f", "before\n"]), "before\n");
    server.restart();
    assert_eq!(submit(&server, &["-f", "f", "between\n"]), "between\n");
    submit(&server, &["-f", "f", "-b", "block\n"]);
    wait_for_jobs(&server, "f", 1, 1);
    server.restart();
    fs::write(&fifo, "").unwrap();
    assert_eq!(submit(&server, &["-f", "f", "after\n"]), "after\n");
}

#[test]
fn a_signal_lets_the_running_job_finish_and_a_second_one_gives_it_back() {
    let server = Server::ours(&[]);
    let directory = TempDir::new().unwrap();
    let fifo = fifo(&directory);
    let arguments = ["-f", "f", "--", "sh", "-c", &read_from(&fifo)];
    let mut first = worker(&server, &arguments);
    let mut client = Program::start(&mut tool(&server, "submit", &["-f", "f", "x"]));
    wait_for_jobs(&server, "f", 1, 1);
    signal(&first, Signal::SIGTERM);
    fs::write(&fifo, "finished").unwrap();
    client.expect_end(&["finished"]);
    first.expect_end(&[]);

    let mut second = worker(&server, &arguments);
    submit(&server, &["-f", "f", "-b", "x"]);
    wait_for_jobs(&server, "f", 1, 1);
    // Different ones: a signal that is still pending would swallow its equal.
    signal(&second, Signal::SIGTERM);
    signal(&second, Signal::SIGINT);
    second.expect_end(&[]);
    wait_for_jobs(&server, "f", 1, 0);
}

#[test]
fn a_command_that_takes_too_long_is_killed() {
    let server = Server::ours(&[]);
    let mut worker =
        worker(&server, &["-f", "f", "--timeout", "0.1", "--exception", "--count", "1", "--", "sleep", "1000"]);
    let (_, stderr) = output(&server, "submit", &["-f", "f", "x"], b"", 1);
    assert!(stderr.ends_with("failed: killed after 0.1 s\n"), "{stderr}");
    worker.expect_end(&[]);
}

#[test]
fn unfinished_jobs_are_lost_with_the_connection_unless_they_can_be_submitted_again() {
    let mut server = Server::ours(&[]);
    let mut plain = Program::start(&mut tool(&server, "submit", &["-f", "plain", "x"]));
    let mut unique = Program::start(&mut tool(&server, "submit", &["-f", "unique", "-u", "u", "y"]));
    wait_for_jobs(&server, "plain", 1, 0);
    wait_for_jobs(&server, "unique", 1, 0);
    server.restart();
    let (lines, status) = plain.finish();
    assert_eq!((lines, status.code()), (vec![], Some(3)));
    let _worker = worker(&server, &["-f", "unique", "--", "cat"]);
    unique.expect_end(&["y"]);
}

#[test]
fn without_a_server_or_in_time_the_status_is_3() {
    let server = Server::ours(&[]);
    let (_, stderr) = output(&server, "submit", &["-f", "nobody", "--timeout", "0.05", "x"], b"", 3);
    assert!(stderr.ends_with("is not finished in time\n"), "{stderr}");
    let directory = TempDir::new().unwrap();
    let nowhere = format!("unix:{}", directory.path().join("nothing").display());
    for (name, arguments) in
        [("submit", &["-f", "f", "x", "-s", &nowhere][..]), ("admin", &["version", "-s", &nowhere])]
    {
        let (stdout, stderr) = output(&server, name, arguments, b"", 3);
        assert_eq!(stdout, "");
        assert!(stderr.contains(&format!("cannot connect to {nowhere}")), "{stderr}");
    }
    // The next server of a list is tried, and a worker serves all that there are.
    let both = format!("{nowhere},{}", server.addr());
    let mut worker = worker(&server, &["-s", &both, "-f", "f", "--count", "1", "--", "cat"]);
    assert_eq!(submit(&server, &["-s", &both, "-f", "f", "found"]), "found");
    worker.expect_end(&[]);
}

#[test]
fn commands_that_cannot_run_are_told_at_the_start() {
    let server = Server::ours(&[]);
    let (_, stderr) = output(&server, "work", &["-f", "f", "--", "no-such-command"], b"", 127);
    assert_eq!(stderr, "gearmand work: command not found: no-such-command\n");
    let (_, stderr) = output(&server, "work", &["-f", "f", "--", "/dev/null"], b"", 126);
    assert_eq!(stderr, "gearmand work: cannot execute /dev/null: not an executable file\n");
    let (_, stderr) = output(&server, "admin", &["version", "--watch", "1"], b"", 2);
    assert_eq!(stderr, "gearmand admin: --watch is for lists\n");
}

#[test]
fn every_admin_command_speaks_text_and_json() {
    let mut server = Server::ours(&["--allow-shutdown"]);
    let admin = |arguments: &[&str]| output(&server, "admin", arguments, b"", 0).0;
    let table = |arguments: &[&str]| admin(arguments).lines().map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(admin(&["create-function", "made"]), "OK\n");
    assert_eq!(admin(&["maxqueue", "made", "1"]), "OK\n");
    submit(&server, &["-f", "made", "-b", "-I", "-u", "u1", "x"]);
    let (_, stderr) = output(&server, "submit", &["-f", "made", "-b", "y"], b"", 1);
    assert!(stderr.ends_with("was rejected: QUEUE_ERROR: Job queue is full\n"), "{stderr}");
    assert_eq!(table(&["status"]), ["FUNCTION  TOTAL  RUNNING  WORKERS", "made          1        0        0"]);
    assert_eq!(table(&[]), table(&["status"]));
    assert_eq!(
        table(&["prioritystatus"]),
        ["FUNCTION  HIGH  NORMAL  LOW  WORKERS", "made         1       0    0        0"]
    );
    assert_eq!(
        admin_json(&server, &["prioritystatus"]),
        json!([{"function": "made", "high": 1, "normal": 0, "low": 0, "workers": 0}])
    );
    assert_eq!(table(&["show-unique-jobs"]), ["UNIQUE", "u1"]);
    assert_eq!(
        table(&["show-jobs"])[0].split_whitespace().collect::<Vec<_>>(),
        ["HANDLE", "RETRIES", "ABANDONED", "BACKGROUND"]
    );
    let job = &admin_json(&server, &["show-jobs"])[0];
    assert_eq!((&job["abandoned"], &job["background"], &job["retries"]), (&json!(false), &json!(true), &json!(0)));
    assert_eq!(admin(&["getpid"]), format!("{}\n", server.pid()));
    assert_eq!(admin_json(&server, &["getpid"]), json!({"pid": server.pid()}));
    let version = admin(&["version"]);
    assert_eq!(admin_json(&server, &["version"]), json!({"version": version.trim_end()}));
    let level = admin(&["verbose"]);
    assert_eq!(admin_json(&server, &["verbose"]), json!({"verbose": level.trim_end()}));
    assert_eq!(admin(&["status", "--raw"]), "made\t1\t0\t0\n.\n");
    assert_eq!(admin(&["raw", "status", "maxqueue made"]), "made\t1\t0\t0\n.\nOK\r\n");
    assert_eq!(output(&server, "admin", &["raw", "nope"], b"", 1).0.split(' ').next(), Some("ERR"));
    worker(&server, &["-f", "made", "--count", "1", "--", "true"]).expect_end(&[]);
    wait_for_jobs(&server, "made", 0, 0);
    // The worker has ended; the server may not have seen that yet.
    wait_for("the end of the worker's connection", || {
        (admin_json(&server, &["status"])[0]["workers"] == 0).then_some(())
    });
    assert_eq!(admin_json(&server, &["drop-function", "made"]), json!({"ok": true}));
    let (stdout, _) = output(&server, "admin", &["drop-function", "made", "--json"], b"", 1);
    assert_eq!(stdout, "{\"error\":\"function not found\"}\n");
    assert_eq!(admin(&["shutdown", "--graceful"]), "OK\n");
    server.wait();
}

#[test]
fn workers_are_listed_with_their_names_and_functions() {
    let server = Server::ours(&[]);
    let mut busy = worker(&server, &["-f", "one", "-f", "two", "--id", "busy", "--", "cat"]);
    let found = wait_for("the worker in the list", || {
        let workers = admin_json(&server, &["workers"]);
        workers.as_array().unwrap().iter().find(|worker| worker["id"] == "busy").cloned()
    });
    let mut functions: Vec<&str> =
        found["functions"].as_array().unwrap().iter().map(|name| name.as_str().unwrap()).collect();
    functions.sort_unstable();
    assert_eq!((functions, &found["address"]), (vec!["one", "two"], &json!("127.0.0.1")));
    assert!(output(&server, "admin", &["workers"], b"", 0).0.starts_with("FD"));
    let mut watch = Program::start(&mut tool(&server, "admin", &["workers", "--watch", "0.01", "--json"]));
    while !watch.line().expect("another list").contains("busy") {}
    signal(&busy, Signal::SIGTERM);
    busy.expect_end(&[]);
    while watch.line().expect("another list").contains("busy") {}
    watch.kill();
}
