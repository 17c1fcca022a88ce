//! What these tests share: a supervisor of workers, a monitor, and a look at processes and at the server's
//! listing.

use std::fs;
use std::net::SocketAddr;
use std::process::Command;
use std::time::{Duration, Instant};

use nix::sys::signal::{self, Signal};
use nix::unistd::Pid;
use serde_json::{Value, json};

use super::common::{Program, Server, Wire, packet, wait_for};

/// The command line of `gearmand work --managed` for these servers.
pub(crate) fn command(servers: &[SocketAddr], arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_gearmand"));
    let servers: Vec<String> = servers.iter().map(ToString::to_string).collect();
    command.args(["work", "--managed", "--server", &servers.join(",")]).args(arguments);
    command.env_remove("FLEET_NAME").env_remove("FLEET_HOST");
    command
}

/// A supervisor and its workers.
pub(crate) fn supervisor(server: &Server, arguments: &[&str]) -> Program {
    Program::start(&mut command(&[server.addr()], arguments))
}

/// A worker for the jobs of a [`Gate`](super::common::Gate), and of `echo`.
pub(crate) const FUNCTIONS: [&str; 4] = ["-f", "gate=read path; exec cat \"$path\"", "-f", "echo=cat"];

/// So long a worker waits, before it answers, until its servers know of a change of its functions.
const IN_EFFECT: Duration = Duration::from_millis(600);

/// The monitor: a client that waits for each answer.
pub(crate) struct Monitor {
    pub(crate) wire: Wire,
    /// How long the answer to the last change of functions took.
    pub(crate) changed_in: Duration,
}

impl Monitor {
    pub(crate) fn of(server: &Server) -> Self {
        Self { wire: Wire::connect(server.addr()), changed_in: Duration::ZERO }
    }

    /// Submits a job and returns its handle.
    #[track_caller]
    pub(crate) fn submit(&mut self, function: &str, workload: &[u8]) -> Vec<u8> {
        self.wire.send(packet::SUBMIT_JOB, &packet::body(&[function.as_bytes(), b"", workload]));
        self.wire.expect_type(packet::JOB_CREATED)
    }

    /// The result of the job that was submitted.
    #[track_caller]
    pub(crate) fn result(&mut self, handle: &[u8]) -> Vec<u8> {
        let body = self.wire.expect_type(packet::WORK_COMPLETE);
        let result = body.strip_prefix(handle).and_then(|rest| rest.strip_prefix(b"\0"));
        result.unwrap_or_else(|| panic!("{} is of another job", body.escape_ascii())).to_vec()
    }

    /// Has a job done.
    #[track_caller]
    pub(crate) fn run(&mut self, function: &str, workload: &[u8]) -> Vec<u8> {
        let handle = self.submit(function, workload);
        self.result(&handle)
    }

    /// Says this to a function and reads the answer, whatever it is.
    #[track_caller]
    pub(crate) fn say(&mut self, function: &str, workload: &[u8]) -> Value {
        let answer = self.run(function, workload);
        serde_json::from_slice(&answer).unwrap_or_else(|error| panic!("{error}: {}", answer.escape_ascii()))
    }

    /// Gives the next worker that waits this id, and returns how it introduces itself.
    #[track_caller]
    pub(crate) fn name(&mut self, id: &str) -> Value {
        let introduction = self.say("setId", id.as_bytes());
        assert_eq!((&introduction["ok"], &introduction["id"]), (&json!(true), &json!(id)), "{introduction}");
        introduction
    }

    /// Asks a worker for something that it does.
    #[track_caller]
    pub(crate) fn ask(&mut self, id: &str, request: &Value) -> Value {
        let answer = self.say(&format!("manage_{id}"), request.to_string().as_bytes());
        assert_eq!(answer["ok"], true, "{request}: {answer}");
        answer
    }

    #[track_caller]
    pub(crate) fn status(&mut self, id: &str) -> Value {
        self.ask(id, &json!({"verb": "status"}))
    }

    #[track_caller]
    pub(crate) fn register(&mut self, id: &str, functions: &[&str]) -> Value {
        self.change(id, "registerFunction", functions)
    }

    #[track_caller]
    pub(crate) fn unregister(&mut self, id: &str, functions: &[&str]) -> Value {
        self.change(id, "unregisterFunction", functions)
    }

    #[track_caller]
    fn change(&mut self, id: &str, verb: &str, functions: &[&str]) -> Value {
        let begin = Instant::now();
        let answer = self.ask(id, &json!({"verb": verb, "arguments": {"functions": functions}}));
        self.changed_in = begin.elapsed();
        answer
    }

    #[track_caller]
    pub(crate) fn exit(&mut self, id: &str) {
        assert_eq!(self.ask(id, &json!({"verb": "exitWorker"}))["state"], "leaving");
    }

    /// Asks until the worker says that it is in this state.
    #[track_caller]
    pub(crate) fn wait_for_state(&mut self, id: &str, state: &str) -> Value {
        wait_for(state, || Some(self.status(id)).filter(|status| status["state"] == state))
    }

    /// Total jobs, running jobs and workers of a function, in the server's own listing.
    #[track_caller]
    pub(crate) fn listed(&mut self, function: &str) -> (u64, u64, u64) {
        let listing = self.wire.text("status");
        let line = listing.lines().find_map(|line| line.strip_prefix(function)?.strip_prefix('\t'));
        let numbers: Vec<u64> = line.map_or(vec![0; 3], |line| line.split('\t').map(|n| n.parse().unwrap()).collect());
        (numbers[0], numbers[1], numbers[2])
    }

    /// That the server lists so many workers of a function after this monitor's last change. The server knows
    /// of a change before the worker answers. Only on a very slow machine the worker gives up waiting for
    /// that: then it is awaited here.
    #[track_caller]
    pub(crate) fn expect_workers(&mut self, function: &str, count: u64) {
        if self.changed_in < IN_EFFECT {
            assert_eq!(self.listed(function).2, count, "workers of {function}");
        } else {
            self.wait_for_workers(function, count);
        }
    }

    #[track_caller]
    pub(crate) fn wait_for_workers(&mut self, function: &str, count: u64) {
        wait_for(&format!("{count} workers of {function}"), || (self.listed(function).2 == count).then_some(()));
    }
}

/// The process of a worker, of its introduction or status.
pub(crate) fn pid(of: &Value) -> Pid {
    Pid::from_raw(i32::try_from(of["pid"].as_i64().unwrap()).unwrap())
}

/// Whether a process is still there. One that has ended and that nobody has asked for is not.
pub(crate) fn runs(process: Pid) -> bool {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))
}

#[track_caller]
pub(crate) fn wait_for_end(process: Pid) {
    wait_for(&format!("the end of process {process}"), || (!runs(process)).then_some(()));
}

#[track_caller]
pub(crate) fn kill(process: Pid, signal: Signal) {
    signal::kill(process, signal).unwrap();
}

#[track_caller]
pub(crate) fn kill_program(program: &Program, signal: Signal) {
    kill(Pid::from_raw(i32::try_from(program.pid()).unwrap()), signal);
}
