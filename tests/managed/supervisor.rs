//! Processes: workers that die, retire or are told to exit, and the supervisor's own end.

use std::fs;
use std::os::unix::fs::symlink;
use std::process::Command;

use nix::sys::signal::Signal;
use nix::unistd::Pid;
use serde_json::{Value, json};

use super::common::{Gate, Program, Server, packet, wait_for};
use super::stage::{FUNCTIONS, Monitor, kill, kill_program, pid, runs, supervisor, wait_for_end};

#[test]
fn a_worker_starts_another_and_the_supervisor_ends_with_the_last() {
    let server = Server::ours(&[]);
    let mut monitor = Monitor::of(&server);
    let mut supervisor = supervisor(&server, &[&FUNCTIONS[..], &["--workers", "2"]].concat());
    let mut processes = vec![pid(&monitor.name("a")), pid(&monitor.name("b"))];
    let started = monitor.ask("a", &json!({"verb": "newWorker"}));
    processes.push(pid(&monitor.name("c")));
    assert_eq!(pid(&started), processes[2]);
    for (number, (id, process)) in ["a", "b", "c"].into_iter().zip(&processes).enumerate() {
        assert!(processes[number..].iter().all(|process| runs(*process)));
        monitor.exit(id);
        wait_for_end(*process);
    }
    // Nobody took their places.
    supervisor.expect_end(&[]);
    assert_eq!(monitor.listed("setId").2, 0);
}

#[test]
fn a_supervisor_has_no_more_workers_than_it_may() {
    let server = Server::ours(&[]);
    let mut monitor = Monitor::of(&server);
    let _supervisor = supervisor(&server, &[&FUNCTIONS[..], &["--max-workers", "2"]].concat());
    monitor.name("a");
    monitor.ask("a", &json!({"verb": "newWorker"}));
    let second = pid(&monitor.name("b"));
    for id in ["a", "b"] {
        let answer = monitor.say(&format!("manage_{id}"), br#"{"verb": "newWorker"}"#);
        assert!(answer["ok"] == false && answer["error"].as_str().unwrap().contains("--max-workers"), "{answer}");
    }
    // A place that is free again is given again.
    monitor.exit("b");
    wait_for_end(second);
    wait_for("another one", || {
        let answer = monitor.say("manage_a", br#"{"verb": "newWorker"}"#);
        (answer["ok"] == true).then_some(())
    });
    monitor.name("c");
}

#[test]
fn a_worker_that_is_killed_is_replaced_and_its_job_done_by_another() {
    let server = Server::ours(&[]);
    let gate = Gate::new();
    let (mut monitor, mut client) = (Monitor::of(&server), Monitor::of(&server));
    let _supervisor = supervisor(&server, &FUNCTIONS);
    let first = pid(&monitor.name("a"));
    monitor.register("a", &["gate"]);
    let job = client.submit("gate", gate.workload().as_bytes());
    monitor.wait_for_state("a", "working");
    kill(first, Signal::SIGKILL);
    // The pause before the next one is a fraction of a second.
    let second = pid(&monitor.name("b"));
    assert_ne!(first, second);
    monitor.wait_for_workers("manage_a", 0);
    monitor.register("b", &["gate"]);
    gate.open("done");
    assert_eq!(client.result(&job), b"done");
}

#[test]
fn the_command_of_a_worker_that_is_killed_dies_with_it() {
    let server = Server::ours(&[]);
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("processes");
    // A shell, a shell that it starts, and a child of that one; all ignore the end of their parents.
    let inner = format!("sleep 1000 & echo $PPID $$ $! > {0}.new; mv {0}.new {0}; wait", file.display());
    let slow = format!("slow=trap '' HUP TERM; sh -c '{inner}'; wait");
    let (mut monitor, mut client) = (Monitor::of(&server), Monitor::of(&server));
    let _supervisor = supervisor(&server, &["-f", &slow]);
    let first = pid(&monitor.name("a"));
    monitor.register("a", &["slow"]);
    client.submit("slow", b"");
    let processes = wait_for("the processes of the command", || fs::read_to_string(&file).ok());
    let processes: Vec<Pid> = processes.split_whitespace().map(|pid| Pid::from_raw(pid.parse().unwrap())).collect();
    assert!(processes.len() == 3 && processes.iter().all(|process| runs(*process)), "{processes:?}");
    // The worker has told its supervisor of the command before it answers.
    monitor.status("a");
    kill(first, Signal::SIGKILL);
    for process in processes {
        wait_for_end(process);
    }
    wait_for("the job in the queue", || (monitor.listed("slow") == (1, 0, 0)).then_some(()));
}

#[test]
fn workers_end_after_their_job_when_the_supervisor_is_gone() {
    let server = Server::ours(&[]);
    let gate = Gate::new();
    let (mut monitor, mut client) = (Monitor::of(&server), Monitor::of(&server));
    let mut supervisor = supervisor(&server, &[&FUNCTIONS[..], &["--workers", "2"]].concat());
    let (busy, idle) = (pid(&monitor.name("a")), pid(&monitor.name("b")));
    monitor.register("a", &["gate"]);
    let job = client.submit("gate", gate.workload().as_bytes());
    monitor.wait_for_state("a", "working");
    supervisor.kill();
    wait_for_end(idle);
    monitor.wait_for_state("a", "leaving");
    let answer = monitor.say("manage_a", br#"{"verb": "newWorker"}"#);
    assert!(answer["ok"] == false && answer["error"].as_str().unwrap().contains("is shutting down"), "{answer}");
    gate.open("done");
    assert_eq!(client.result(&job), b"done");
    wait_for_end(busy);
}

#[test]
fn a_signal_at_the_supervisor_ends_all_after_their_jobs_and_a_second_one_at_once() {
    for at_once in [false, true] {
        let server = Server::ours(&[]);
        let gate = Gate::new();
        let (mut monitor, mut client) = (Monitor::of(&server), Monitor::of(&server));
        let mut supervisor = supervisor(&server, &[&FUNCTIONS[..], &["--workers", "2"]].concat());
        let (busy, idle) = (pid(&monitor.name("a")), pid(&monitor.name("b")));
        monitor.register("a", &["gate"]);
        let job = client.submit("gate", gate.workload().as_bytes());
        monitor.wait_for_state("a", "working");
        kill_program(&supervisor, Signal::SIGTERM);
        wait_for_end(idle);
        monitor.wait_for_state("a", "leaving");
        // As a service manager does that signals all processes; it does not kill the job.
        kill(busy, Signal::SIGTERM);
        kill(busy, Signal::SIGTERM);
        monitor.status("a");
        if at_once {
            kill_program(&supervisor, Signal::SIGTERM);
            supervisor.expect_end(&[]);
            wait_for("the job in the queue", || (monitor.listed("gate") == (1, 0, 0)).then_some(()));
        } else {
            gate.open("done");
            assert_eq!(client.result(&job), b"done");
            supervisor.expect_end(&[]);
        }
        assert!(!runs(busy));
    }
}

#[test]
fn a_worker_that_a_signal_ends_is_replaced() {
    let server = Server::ours(&[]);
    let mut monitor = Monitor::of(&server);
    let _supervisor = supervisor(&server, &FUNCTIONS);
    let first = pid(&monitor.name("a"));
    kill(first, Signal::SIGTERM);
    assert_ne!(pid(&monitor.name("b")), first);
    wait_for_end(first);
}

#[test]
fn a_worker_is_replaced_after_its_jobs() {
    let server = Server::ours(&[]);
    let (mut monitor, mut client) = (Monitor::of(&server), Monitor::of(&server));
    let _supervisor = supervisor(&server, &[&FUNCTIONS[..], &["--max-jobs", "2"]].concat());
    let mut last = Value::Null;
    for id in ["a", "b", "c"] {
        let introduction = monitor.name(id);
        assert_ne!(introduction["pid"], last);
        last = introduction["pid"].clone();
        // One that waits is the next one's.
        for _ in 0..2 {
            client.submit("echo", b"x");
        }
        let left = client.submit("echo", b"y");
        monitor.register(id, &["echo"]);
        for _ in 0..2 {
            assert!(client.wire.expect_type(packet::WORK_COMPLETE).ends_with(b"\0x"));
        }
        wait_for_end(pid(&introduction));
        // The server sees the ends of its connections after that.
        wait_for("the job that waits, alone", || (monitor.listed("echo") == (1, 0, 0)).then_some(()));
        let cleaner = format!("{id}-cleaner");
        let introduction = monitor.name(&cleaner);
        monitor.register(&cleaner, &["echo"]);
        assert_eq!(client.result(&left), b"y");
        monitor.ask(&cleaner, &json!({"verb": "newWorker"}));
        monitor.exit(&cleaner);
        wait_for_end(pid(&introduction));
    }
}

#[test]
fn a_worker_is_replaced_after_its_time_and_finishes_its_job() {
    let server = Server::ours(&[]);
    let gate = Gate::new();
    let (mut monitor, mut client) = (Monitor::of(&server), Monitor::of(&server));
    let _supervisor = supervisor(&server, &[&FUNCTIONS[..], &["--max-lifetime", "5s"]].concat());
    let job = client.submit("gate", gate.workload().as_bytes());
    let first = pid(&monitor.name("a"));
    monitor.register("a", &["gate"]);
    monitor.wait_for_state("a", "leaving");
    gate.open("done");
    assert_eq!(client.result(&job), b"done");
    assert_ne!(pid(&monitor.name("b")), first);
    wait_for_end(first);
}

#[test]
fn a_command_that_wants_too_much_memory_fails() {
    let server = Server::ours(&[]);
    let (mut monitor, mut client) = (Monitor::of(&server), Monitor::of(&server));
    let large = "large=exec dd if=/dev/zero of=/dev/null bs=400M count=1";
    let _supervisor = supervisor(&server, &["-f", large, "-f", "echo=cat", "--max-memory", "200M", "--exception"]);
    let process = pid(&monitor.name("a"));
    monitor.register("a", &["large", "echo"]);
    let job = client.submit("large", b"");
    client.wire.expect(packet::WORK_FAIL, &job);
    assert_eq!(client.run("echo", b"x"), b"x");
    let status = monitor.wait_for_state("a", "idle");
    assert_eq!((pid(&status), &status["failures"]), (process, &json!({"large": 1})));
}

#[test]
fn a_worker_with_too_much_memory_is_replaced() {
    let server = Server::ours(&[]);
    let (mut monitor, mut client) = (Monitor::of(&server), Monitor::of(&server));
    // Less than any process of this program has; no command can be run with it either.
    let _supervisor = supervisor(&server, &["-f", "echo=cat", "--max-memory", "100K"]);
    let first = pid(&monitor.name("a"));
    monitor.register("a", &["echo"]);
    let job = client.submit("echo", b"x");
    client.wire.expect(packet::WORK_FAIL, &job);
    assert_ne!(pid(&monitor.name("b")), first);
    wait_for_end(first);
}

#[test]
fn a_new_worker_is_the_program_that_is_there_now() {
    let server = Server::ours(&[]);
    let directory = tempfile::tempdir().unwrap();
    let (link, next) = (directory.path().join("gearmand"), directory.path().join("next"));
    let program = env!("CARGO_BIN_EXE_gearmand");
    symlink(program, &link).unwrap();
    let mut command = Command::new(&link);
    command.args(["work", "--managed", "-f", "echo=cat", "--server", &server.addr().to_string()]);
    let mut monitor = Monitor::of(&server);
    let mut supervisor = Program::start(&mut command);
    let old = monitor.name("a")["version"].clone();
    // A release that calls itself 2, put in place as releases are. Another process writes it: what this one
    // has open for writing, a child that another test forks may keep open, and then it cannot be run.
    let release = format!("#!/bin/sh\nexec '{program}' \"$@\" --worker-version 2\n");
    let mut write = Command::new("sh");
    write.args(["-c", r#"printf %s "$1" > "$0" && chmod 755 "$0""#]).arg(&next).arg(release);
    assert!(write.status().unwrap().success());
    fs::rename(&next, &link).unwrap();
    let started = monitor.ask("a", &json!({"verb": "newWorker"}));
    let introduction = monitor.name("b");
    assert_eq!((pid(&introduction), &introduction["version"]), (pid(&started), &json!("2")));
    assert_eq!(monitor.status("a")["version"], old);
    monitor.exit("a");
    monitor.exit("b");
    supervisor.expect_end(&[]);
}

#[test]
fn a_program_that_is_gone_is_tried_again() {
    let server = Server::ours(&[]);
    let directory = tempfile::tempdir().unwrap();
    let link = directory.path().join("gearmand");
    symlink(env!("CARGO_BIN_EXE_gearmand"), &link).unwrap();
    let mut command = Command::new(&link);
    command.args(["work", "--managed", "-f", "echo=cat", "--server", &server.addr().to_string()]);
    let mut monitor = Monitor::of(&server);
    let _supervisor = Program::start(&mut command);
    let first = pid(&monitor.name("a"));
    fs::remove_file(&link).unwrap();
    let answer = monitor.say("manage_a", br#"{"verb": "newWorker"}"#);
    assert!(answer["error"].as_str().unwrap().starts_with("cannot start a worker"), "{answer}");
    kill(first, Signal::SIGKILL);
    wait_for_end(first);
    symlink(env!("CARGO_BIN_EXE_gearmand"), &link).unwrap();
    assert_ne!(pid(&monitor.name("b")), first);
}
