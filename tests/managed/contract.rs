//! The contract to the letter: whole answers, the words of errors, and where names and versions come from.
//! What every managed worker has to do is in `tests/contract.rs`.

use std::fs;
use std::process::{Command, Stdio};
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use super::common::{Program, Server, packet};
use super::stage::{FUNCTIONS, Monitor, command, pid, runs, supervisor};

fn servers() -> [Server; 2] {
    [Server::ours(&[]), Server::debian(&[])]
}

fn names(answer: &Value) -> (Value, Value) {
    (answer["functionInUse"].clone(), answer["functionNotUse"].clone())
}

#[test]
fn a_worker_is_given_an_id_and_says_what_it_is() {
    for server in servers() {
        let mut monitor = Monitor::of(&server);
        let before = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64();
        let arguments = ["--fleet-name", "web", "--host-name", "web1", "--worker-version", "7 of 9"];
        let _supervisor = supervisor(&server, &[&FUNCTIONS[..], &arguments].concat());
        monitor.wait_for_workers("setId", 1);
        for bad in [&b""[..], b"a b", b"\xff", &[b'a'; 65], b"{}"] {
            let answer = monitor.say("setId", bad);
            assert_eq!(answer["ok"], false, "{answer}");
            assert!(answer["error"].as_str().unwrap().starts_with("an id "), "{answer}");
        }
        let introduction = monitor.name("web-1.a_b");
        let process = pid(&introduction);
        assert!(runs(process));
        assert!(introduction["started"].as_f64().unwrap() >= before - 1.0, "{introduction}");
        let expected = json!({"ok": true, "contract": 1, "id": "web-1.a_b", "fleet": "web", "host": "web1",
            "pid": process.as_raw(), "language": "rust", "version": "7 of 9", "started": introduction["started"],
            "functions": ["gate", "echo"]});
        assert_eq!(introduction, expected);
        // The id is used once: whoever has the answer can manage the worker, and nobody waits for an id any
        // more.
        assert_eq!(monitor.listed("manage_web-1.a_b").2, 1);
        monitor.wait_for_workers("setId", 0);

        let mut status = monitor.status("web-1.a_b");
        assert!(status["uptime"].as_f64().unwrap() > 0.0, "{status}");
        assert!(status["memory"].as_u64().unwrap() > 1 << 20, "{status}");
        for changing in ["uptime", "memory"] {
            status.as_object_mut().unwrap().remove(changing);
        }
        let expected = json!({"ok": true, "contract": 1, "id": "web-1.a_b", "fleet": "web", "host": "web1",
            "pid": process.as_raw(), "language": "rust", "version": "7 of 9", "started": introduction["started"],
            "state": "idle", "functionInUse": [], "functionNotUse": ["gate", "echo"], "count": {}, "failures": {},
            "running": []});
        assert_eq!(status, expected);
    }
}

#[test]
fn functions_are_in_use_when_the_answer_comes() {
    for server in servers() {
        let mut monitor = Monitor::of(&server);
        let _supervisor = supervisor(&server, &["-f", "echo=cat", "-f", "fail=exit 3"]);
        monitor.name("a");
        // A job that waits already is done as well as one that comes later.
        let mut client = Monitor::of(&server);
        let early = client.submit("echo", b"early");
        monitor.register("a", &["echo"]);
        assert_eq!(client.result(&early), b"early");
        monitor.wait_for_state("a", "idle");
        for _ in 0..20 {
            assert_eq!(names(&monitor.register("a", &["echo"])), (json!(["echo"]), json!(["fail"])));
            monitor.expect_workers("echo", 1);
            assert_eq!(names(&monitor.register("a", &["echo", "fail"])), (json!(["echo", "fail"]), json!([])));
            monitor.expect_workers("fail", 1);
            assert_eq!(names(&monitor.unregister("a", &["fail"])), (json!(["echo"]), json!(["fail"])));
            monitor.expect_workers("fail", 0);
            assert_eq!(names(&monitor.unregister("a", &["echo", "fail"])), (json!([]), json!(["echo", "fail"])));
            monitor.expect_workers("echo", 0);
        }
        monitor.register("a", &["echo", "fail"]);
        assert_eq!(client.run("echo", b"late"), b"late");
        let handle = client.submit("fail", b"x");
        client.wire.expect(packet::WORK_FAIL, &handle);
        let status = monitor.wait_for_state("a", "idle");
        assert_eq!((&status["count"], &status["failures"]), (&json!({"echo": 2, "fail": 1}), &json!({"fail": 1})));
    }
}

#[test]
fn nonsense_is_told_so_and_changes_nothing() {
    let server = Server::ours(&[]);
    let mut monitor = Monitor::of(&server);
    let _supervisor = supervisor(&server, &FUNCTIONS);
    monitor.name("a");
    monitor.register("a", &["echo"]);
    let deep = "[".repeat(100_000);
    for (workload, error) in [
        ("", "workload is not JSON"),
        (&deep, "workload is not JSON"),
        ("[]", "workload is not a JSON object"),
        ("{}", "\"verb\" is missing"),
        (r#"{"verb": "dance"}"#, "\"verb\": \"dance\" is unknown"),
        (r#"{"verb": "registerFunction"}"#, "\"arguments.functions\" is missing"),
        (
            r#"{"verb": "registerFunction", "arguments": {"functions": ["gate", "dance"]}}"#,
            "\"arguments.functions\": \"dance\" is not available on this worker",
        ),
        (
            r#"{"verb": "unregisterFunction", "arguments": {"functions": ["echo", "dance"]}}"#,
            "\"arguments.functions\": \"dance\" is not available on this worker",
        ),
    ] {
        let answer = monitor.say("manage_a", workload.as_bytes());
        assert_eq!(answer["ok"], false, "{workload}: {answer}");
        assert!(answer["error"].as_str().unwrap().starts_with(error), "{answer}");
    }
    let status = monitor.ask("a", &json!({"verb": "status", "arguments": [], "new": {"field": 1}}));
    assert_eq!((names(&status), &status["state"]), ((json!(["echo"]), json!(["gate"])), &json!("idle")));
}

#[test]
fn a_version_is_read_again() {
    let server = Server::ours(&[]);
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("version");
    fs::write(&path, "1\n").unwrap();
    let mut monitor = Monitor::of(&server);
    let _supervisor = supervisor(&server, &["-f", "echo=cat", "--version-file", path.to_str().unwrap()]);
    assert_eq!(monitor.name("a")["version"], "1");
    fs::write(&path, "2\n").unwrap();
    assert_eq!(monitor.status("a")["version"], "1");
    let version = json!({"ok": true, "version": "1", "language": "rust", "contract": 1});
    assert_eq!(monitor.ask("a", &json!({"verb": "version"})), version);
    assert_eq!(monitor.ask("a", &json!({"verb": "reload"})), json!({"ok": true, "version": "2"}));
    assert_eq!(monitor.status("a")["version"], "2");
    fs::remove_file(&path).unwrap();
    let answer = monitor.say("manage_a", br#"{"verb": "reload"}"#);
    assert!(answer["ok"] == false && answer["error"].as_str().unwrap().contains("No such file"), "{answer}");
    assert_eq!(monitor.status("a")["version"], "2");
}

#[test]
fn names_come_from_options_then_the_environment() {
    let server = Server::ours(&[]);
    let mut monitor = Monitor::of(&server);
    let mut by_environment = command(&[server.addr()], &["-f", "echo=cat"]);
    let _first = Program::start(by_environment.env("FLEET_NAME", "mail").env("FLEET_HOST", "mail1"));
    let introduction = monitor.name("a");
    assert_eq!((&introduction["fleet"], &introduction["host"]), (&json!("mail"), &json!("mail1")));
    let mut by_option = command(&[server.addr()], &["-f", "echo=cat", "--fleet-name", "b"]);
    let _second = Program::start(by_option.env("FLEET_NAME", "mail").env("FLEET_HOST", "mail1"));
    let introduction = monitor.name("b");
    assert_eq!((&introduction["fleet"], &introduction["host"]), (&json!("b"), &json!("mail1")));
}

#[test]
fn a_command_line_that_makes_no_sense_ends_with_2() {
    let server = Server::ours(&[]);
    for (arguments, message) in [
        (&["-f", "echo"][..], "must be NAME=COMMAND with --managed"),
        (&["-f", "setId=cat"], "is reserved for managing workers"),
        (&["-f", "f=cat", "--fleet-name", "a b"], "--fleet-name: \"a b\" must have"),
        (&["-f", "f=cat", "--version-file", "/nowhere"], "no version in /nowhere"),
        (&["-f", "f=cat", "-c", "2"], "cannot be used with"),
    ] {
        let mut command: Command = command(&[server.addr()], arguments);
        let output = command.stdin(Stdio::null()).output().unwrap();
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {text}");
        assert!(text.contains(message), "{text}");
    }
}
