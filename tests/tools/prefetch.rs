//! `gearmand work --prefetch`: what is done, in which order and how often, what goes back, and the packets of
//! it.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::process::Command;

use nix::sys::signal::Signal;
use tempfile::TempDir;

use crate::common::{Gate, Program, Server, Wire, packet, wait_for};
use crate::{fifo, output, read_from, run, signal, tool, worker};

const SERVERS: [fn(&[&str]) -> Server; 2] = [Server::ours, Server::debian];

/// These numbers, each on a line of its own.
fn lines_of(numbers: std::ops::Range<u32>) -> String {
    let numbers: Vec<String> = numbers.map(|number| number.to_string() + "\n").collect();
    numbers.concat()
}

/// Submits background jobs with the workloads `from`, ..., `to`.
fn submit_numbers(server: &Server, from: u32, to: u32) {
    let mut client = Wire::connect(server.addr());
    for number in from..=to {
        client.send(packet::SUBMIT_JOB_BG, &packet::body(&[b"f", b"", number.to_string().as_bytes()]));
        client.expect_type(packet::JOB_CREATED);
    }
}

/// Queued and running jobs of `f`, by the column of `status` that every server has.
fn total_and_running(server: &Server) -> (u64, u64) {
    let status = Wire::connect(server.addr()).text("status");
    let line = status.lines().find_map(|line| line.strip_prefix("f\t")).unwrap();
    let mut columns = line.split('\t').map(|number| number.parse().unwrap());
    (columns.next().unwrap(), columns.next().unwrap())
}

/// A worker of `f`, what it says to people being its standard output.
fn heard(server: &Server, arguments: &[&str]) -> Program {
    let mut command = Command::new("sh");
    command.args(["-c", "exec \"$@\" 2>&1", "sh", env!("CARGO_BIN_EXE_gearmand"), "work", "-f", "f"]);
    command.args(["--server", &server.addr().to_string()]).args(arguments);
    Program::start(&mut command)
}

/// How many attempts the jobs have lost, of each job.
fn attempts(server: &Server) -> Vec<u32> {
    let jobs = Wire::connect(server.addr()).text("show jobs");
    let attempts = jobs.lines().filter_map(|line| line.split('\t').nth(1));
    attempts.map(|number| number.parse().unwrap()).collect()
}

#[test]
fn results_are_right_and_jobs_are_done_once_in_order() {
    for start in SERVERS {
        let server = start(&[]);
        let directory = TempDir::new().unwrap();
        let file = directory.path().join("done");
        submit_numbers(&server, 1, 150);
        let script = format!("(cat; echo) >> '{}'", file.display());
        let mut all = worker(&server, &["-f", "f", "--prefetch", "32", "--count", "150", "--", "sh", "-c", &script]);
        all.expect_end(&[]);
        let expected: String = lines_of(1..151);
        assert_eq!(fs::read_to_string(file).unwrap(), expected);
        wait_for("the end of all jobs", || (total_and_running(&server) == (0, 0)).then_some(()));

        let _worker = worker(&server, &["-f", "rev", "--prefetch", "4", "--", "rev"]);
        let lines: String = lines_of(100..200);
        let reversed: String =
            (100..200).map(|number| number.to_string().chars().rev().chain(['\n']).collect::<String>()).collect();
        assert_eq!(output(&server, "submit", &["-f", "rev", "--lines"], lines.as_bytes(), 0).0, reversed);
    }
}

#[test]
fn no_more_jobs_are_taken_than_are_to_be_done() {
    for start in SERVERS {
        let server = start(&[]);
        submit_numbers(&server, 1, 20);
        let arguments = ["-f", "f", "--prefetch", "16", "-c", "3", "--count", "7", "--", "true"];
        worker(&server, &arguments).expect_end(&[]);
        wait_for("13 jobs", || (total_and_running(&server) == (13, 0)).then_some(()));
        assert_eq!(attempts(&server), [0; 13]);
    }
}

#[test]
fn jobs_in_hand_go_back_when_the_worker_stops() {
    // Of ours also a job that may be tried only once goes on; C++ gearmand counts whatever comes back.
    for (start, arguments, attempts_lost) in [(SERVERS[0], &["-j", "1"][..], 0), (SERVERS[1], &[], 3)] {
        let server = start(arguments);
        let directory = TempDir::new().unwrap();
        let fifo = fifo(&directory);
        submit_numbers(&server, 1, 10);
        let mut stopped = heard(&server, &["--prefetch", "4", "--", "sh", "-c", &read_from(&fifo)]);
        wait_for("4 jobs in hand", || (total_and_running(&server) == (10, 4)).then_some(()));
        signal(&stopped, Signal::SIGTERM);
        // Otherwise the job might end before the worker has noticed the signal.
        wait_for("the signal", || stopped.line().filter(|line| line.contains("stopping")));
        // The one that was begun is done.
        fs::write(&fifo, "").unwrap();
        stopped.expect_end(&[]);
        assert_eq!(total_and_running(&server), (9, 0));
        assert_eq!(attempts(&server).iter().sum::<u32>(), attempts_lost);
        let file = directory.path().join("done");
        let script = format!("(cat; echo) >> '{}'", file.display());
        worker(&server, &["-f", "f", "--count", "9", "--", "sh", "-c", &script]).expect_end(&[]);
        let done = fs::read_to_string(file).unwrap();
        let mut done: Vec<u32> = done.lines().map(|line| line.parse().unwrap()).collect();
        done.sort_unstable();
        assert_eq!(done, (2..=10).collect::<Vec<_>>());
    }
}

/// A second signal kills the command. What was never begun loses no attempt, also where there is only one.
#[test]
fn jobs_in_hand_go_back_when_the_worker_is_to_end_at_once() {
    let server = Server::ours(&["-j", "1"]);
    let directory = TempDir::new().unwrap();
    let fifo = fifo(&directory);
    submit_numbers(&server, 1, 10);
    let worker = heard(&server, &["--prefetch", "4", "--", "sh", "-c", &read_from(&fifo)]);
    wait_for("4 jobs in hand", || (total_and_running(&server) == (10, 4)).then_some(()));
    signal(&worker, Signal::SIGTERM);
    wait_for("the first signal", || worker.line().filter(|line| line.contains("stopping")));
    signal(&worker, Signal::SIGTERM);
    wait_for("all jobs to be back", || (total_and_running(&server).1 == 0).then_some(()));
    assert_eq!(total_and_running(&server), (10, 0), "jobs were dropped");
    assert_eq!(attempts(&server).iter().sum::<u32>(), 0);
}

#[test]
fn jobs_in_hand_are_not_done_once_the_connection_is_lost() {
    let mut server = Server::ours(&["-q", "builtin"]);
    let directory = TempDir::new().unwrap();
    let (fifo, file) = (fifo(&directory), directory.path().join("done"));
    submit_numbers(&server, 1, 8);
    let script = format!("(cat; echo) >> '{}'; {}", file.display(), read_from(&fifo));
    let worker = heard(&server, &["--prefetch", "4", "--", "sh", "-c", &script]);
    wait_for("4 jobs in hand", || (total_and_running(&server) == (8, 4)).then_some(()));
    server.restart();
    // Otherwise the job might end before the worker has noticed.
    wait_for("the end of the connection", || worker.line().filter(|line| line.contains("will be dropped")));
    fs::write(&fifo, "").unwrap();
    // The server has forgotten all; what is done now was submitted after that.
    submit_numbers(&server, 9, 9);
    wait_for("the new job", || fs::read_to_string(&file).unwrap().lines().nth(1).map(|line| assert_eq!(line, "9")));
    fs::write(&fifo, "").unwrap();
}

#[test]
fn what_does_not_go_together_is_refused() {
    let server = Server::ours(&[]);
    for (arguments, why) in [
        (
            &["-f", "f", "--prefetch", "2", "--timeout", "1", "--", "true"][..],
            "--prefetch cannot be used with --timeout",
        ),
        (&["-f", "f=true", "--managed", "--prefetch", "2"], "cannot be used with"),
        (&["-f", "f", "--prefetch", "0", "--", "true"], "0 is not in 1..=1000"),
    ] {
        let output = run(&mut tool(&server, "work", arguments), b"");
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.code() == Some(2) && stderr.contains(why), "{arguments:?}: {stderr}");
    }
}

/// The worker that `docs/prefetch.md` shows to authors of others.
#[test]
fn the_documented_worker_does_its_jobs_and_gives_back_the_rest() {
    let document = include_str!("../../docs/prefetch.md");
    let (_, program) = document.split_once("```python\n").unwrap();
    let (program, _) = program.split_once("```").unwrap();
    for start in SERVERS {
        let server = start(&[]);
        let lines: String = lines_of(100..400);
        let reversed: String =
            (100..400).map(|number| number.to_string().chars().rev().chain(['\n']).collect::<String>()).collect();
        let mut command = Command::new("python3");
        let mut worker = Program::start(command.args(["-c", program]).arg(server.addr().to_string()));
        for _ in 0..2 {
            assert_eq!(output(&server, "submit", &["-f", "reverse", "--lines"], lines.as_bytes(), 0).0, reversed);
        }
        signal(&worker, Signal::SIGTERM);
        worker.expect_end(&[]);
    }
}

/// The server's end of a worker's connection.
struct Script(TcpStream);

impl Script {
    /// Starts a worker, and takes its connection.
    fn start(arguments: &[&str]) -> (Self, Program) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_gearmand"));
        Self::take(command.args(["work", "-f", "f"]).args(arguments).args(["--", "cat"]))
    }

    /// Starts a worker whose jobs wait at this gate, what it says to people being its standard output.
    fn start_at_gate(arguments: &[&str], gate: &Gate) -> (Self, Program) {
        let mut command = Command::new("sh");
        command.args(["-c", "exec \"$@\" 2>&1", "sh", env!("CARGO_BIN_EXE_gearmand"), "work", "-f", "f"]);
        Self::take(command.args(arguments).args(["--", "cat", gate.workload()]))
    }

    fn take(command: &mut Command) -> (Self, Program) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        command.env_remove("GEARMAN_SERVER").env("GEARMAN_SERVERS", listener.local_addr().unwrap().to_string());
        let worker = Program::start(command);
        (Self(listener.accept().unwrap().0), worker)
    }

    /// The worker must send exactly this next.
    #[track_caller]
    fn expects(&mut self, packet_type: u32, arguments: &[&[u8]]) {
        let expected = packet::request(packet_type, &packet::body(arguments));
        let mut received = vec![0; expected.len()];
        self.0.read_exact(&mut received).unwrap();
        assert_eq!(received.escape_ascii().to_string(), expected.escape_ascii().to_string());
    }

    fn says(&mut self, packet_type: u32, arguments: &[&[u8]]) {
        let mut packet = packet::request(packet_type, &packet::body(arguments));
        packet[..4].copy_from_slice(b"\0RES");
        self.0.write_all(&packet).unwrap();
    }

    fn assigns(&mut self, handle: &[u8]) {
        self.says(packet::JOB_ASSIGN_UNIQ, &[handle, b"f", b"", b"x"]);
    }

    fn expects_grabs(&mut self, count: usize) {
        (0..count).for_each(|_| self.expects(packet::GRAB_JOB_ALL, &[]));
    }
}

#[test]
fn each_answer_is_counted_and_a_worker_sleeps_only_with_empty_hands() {
    let (mut server, worker) = Script::start(&["--prefetch", "3"]);
    server.expects(packet::CAN_DO, &[b"f"]);
    server.expects_grabs(1);
    server.says(packet::NO_JOB, &[]);
    server.expects(packet::PRE_SLEEP, &[]);
    // Each job allows one more, up to three.
    server.says(packet::NOOP, &[]);
    server.expects_grabs(1);
    server.assigns(b"H:1");
    server.expects_grabs(1);
    server.expects(packet::WORK_COMPLETE, &[b"H:1", b"x"]);
    server.expects_grabs(1);
    server.assigns(b"H:2");
    server.expects_grabs(1);
    server.expects(packet::WORK_COMPLETE, &[b"H:2", b"x"]);
    server.expects_grabs(1);
    // Three are open. A job is done, while a wake-up for nothing comes.
    server.says(packet::NOOP, &[]);
    server.assigns(b"H:3");
    server.expects(packet::WORK_COMPLETE, &[b"H:3", b"x"]);
    server.expects_grabs(1);
    // Again three. Two are for nothing, and the result was refused: the error is not the answer to the grab
    // after it.
    server.says(packet::NO_JOB, &[]);
    server.says(packet::NO_JOB, &[]);
    server.says(packet::ERROR, &[b"ARGUMENT_TOO_LARGE", b"no"]);
    server.expects(packet::WORK_FAIL, &[b"H:3"]);
    // It may hold one again, and with this job one more.
    server.assigns(b"H:4");
    server.expects_grabs(1);
    server.expects(packet::WORK_COMPLETE, &[b"H:4", b"x"]);
    server.expects_grabs(1);
    server.says(packet::NO_JOB, &[]);
    server.says(packet::NO_JOB, &[]);
    server.expects(packet::PRE_SLEEP, &[]);
    drop(worker);
}

#[test]
fn a_worker_that_stops_says_that_it_has_begun_nothing_of_what_it_gives_back() {
    let (mut server, mut worker) = Script::start(&["--prefetch", "2"]);
    server.expects(packet::CAN_DO, &[b"f"]);
    server.expects_grabs(1);
    signal(&worker, Signal::SIGTERM);
    server.expects(packet::OPTION_REQ, &[b"not-begun"]);
    server.expects(packet::RESET_ABILITIES, &[]);
    server.expects(packet::ECHO_REQ, &[b"done"]);
    // It came before the server read that.
    server.assigns(b"H:1");
    server.says(packet::ERROR, &[b"UNKNOWN_OPTION", b"not here"]);
    server.says(packet::ECHO_RES, &[b"done"]);
    worker.expect_end(&[]);
    assert_eq!(server.0.read(&mut [0]).unwrap(), 0);
}

#[test]
fn a_job_that_was_not_asked_for_is_not_done() {
    // A first job that ended at once would let the worker ask for the third.
    let gate = Gate::new();
    let (mut server, worker) = Script::start_at_gate(&["--prefetch", "2"], &gate);
    server.expects(packet::CAN_DO, &[b"f"]);
    server.expects_grabs(1);
    for handle in [b"H:1", b"H:2", b"H:3"] {
        server.assigns(handle);
    }
    wait_for("the complaint", || worker.line().filter(|line| line.contains("that was not requested")));
    gate.open("");
    // Whatever it has sent by then, it ends the connection.
    let mut rest = Vec::new();
    let _ = server.0.read_to_end(&mut rest);
    assert!(!rest.windows(3).any(|handle| handle == b"H:3"), "{}", rest.escape_ascii());
    drop(worker);
}
