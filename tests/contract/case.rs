//! One subject at one server, steered as a monitor does it: by jobs.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::common::{Implementation, Program, Server, Wire, packet, wait_for};
use crate::subject::Subject;

/// The fleet that every worker is told.
pub(crate) const FLEET: &str = "contract";
/// The host that every worker is told.
pub(crate) const HOST: &str = "here";
/// The version that every worker finds.
pub(crate) const VERSION: &str = "2026-1";

/// A server, and what its workers share.
pub(crate) struct Case {
    pub(crate) subject: Subject,
    pub(crate) server: Server,
    directory: TempDir,
    /// Workers that workers started: nobody's children, to be ended with the test.
    siblings: Vec<i32>,
}

impl Case {
    pub(crate) fn new(subject: Subject, implementation: Implementation) -> Self {
        let server = match implementation {
            Implementation::Ours => Server::ours(&[]),
            Implementation::Debian => Server::debian(&[]),
        };
        let case =
            Self { subject, server, directory: TempDir::new().expect("a temporary directory"), siblings: Vec::new() };
        case.set_version(VERSION);
        case
    }

    /// Where `log_line` writes.
    pub(crate) fn log(&self) -> PathBuf {
        self.directory.path().join("log")
    }

    /// What a worker that is started or reloaded from now on has as its version.
    pub(crate) fn set_version(&self, version: &str) {
        // In one step: who reads it meanwhile gets one or the other.
        let fresh = self.directory.path().join("fresh");
        fs::write(&fresh, format!("{version}\n")).expect("a version file");
        fs::rename(fresh, self.version_file()).expect("a version file");
    }

    fn version_file(&self) -> PathBuf {
        self.directory.path().join("version")
    }

    /// Starts a worker, which has no id yet.
    pub(crate) fn start(&self) -> Program {
        self.start_at(&self.server.addr().to_string())
    }

    /// Starts a worker for these servers, separated by commas.
    pub(crate) fn start_at(&self, servers: &str) -> Program {
        let mut command = self.subject.command(servers, FLEET, &self.version_file());
        command.env("FLEET_HOST", HOST).env("LOG_FILE", self.log());
        Program::start(&mut command)
    }

    /// Starts a worker with this id, which does these functions.
    pub(crate) fn start_as(&self, id: &str, functions: &[&str]) -> Program {
        let program = self.start();
        let answer = self.set_id(id);
        assert_eq!(answer["ok"], true, "{answer}");
        self.register(id, functions);
        program
    }

    /// Starts a worker with this id where one is all that may be.
    pub(crate) fn start_limited(&self, id: &str) -> Program {
        let mut command = self.subject.command(&self.server.addr().to_string(), FLEET, &self.version_file());
        command.env("FLEET_HOST", HOST).env("LOG_FILE", self.log()).env("FLEET_MAX_WORKERS", "1");
        if self.subject == Subject::Ours {
            command.args(["--max-workers", "1"]);
        }
        let program = Program::start(&mut command);
        let answer = self.set_id(id);
        assert_eq!(answer["ok"], true, "{answer}");
        program
    }

    /// The process of a worker that was started.
    pub(crate) fn pid(&self, worker: &Program) -> u64 {
        self.subject.pid(worker)
    }

    /// Tells a worker to exit.
    pub(crate) fn exit(&self, id: &str) {
        let answer = self.ask(id, "exitWorker");
        assert_eq!((&answer["ok"], &answer["state"]), (&json!(true), &json!("leaving")));
    }

    /// The answer of the next worker without an id to this one.
    pub(crate) fn set_id(&self, id: &str) -> Value {
        self.submit("setId", id.as_bytes()).answer()
    }

    /// The answer to a verb without arguments.
    pub(crate) fn ask(&self, id: &str, verb: &str) -> Value {
        self.say(id, json!({ "verb": verb }).to_string().as_bytes())
    }

    /// The answer to a verb with functions.
    pub(crate) fn ask_for(&self, id: &str, verb: &str, functions: &[&str]) -> Value {
        let request = json!({ "verb": verb, "arguments": { "functions": functions } });
        self.say(id, request.to_string().as_bytes())
    }

    /// The answer to any workload.
    pub(crate) fn say(&self, id: &str, workload: &[u8]) -> Value {
        self.submit(&format!("manage_{id}"), workload).answer()
    }

    /// Has a worker do these functions.
    pub(crate) fn register(&self, id: &str, functions: &[&str]) {
        let answer = self.ask_for(id, "registerFunction", functions);
        assert_eq!(answer["ok"], true, "{answer}");
    }

    /// Has a worker start another one, which is ended with the test.
    pub(crate) fn new_worker(&mut self, id: &str) -> u64 {
        let answer = self.ask(id, "newWorker");
        let pid = answer["pid"].as_u64().unwrap_or_else(|| panic!("no pid in {answer}"));
        self.siblings.push(i32::try_from(pid).expect("a process id"));
        pid
    }

    /// Submits a foreground job, and has its handle.
    pub(crate) fn submit(&self, function: &str, workload: &[u8]) -> Job {
        let mut wire = Wire::connect(self.server.addr());
        wire.send(packet::SUBMIT_JOB, &packet::body(&[function.as_bytes(), b"", workload]));
        let handle = wire.expect_type(packet::JOB_CREATED);
        Job { wire, handle }
    }

    /// Does a job of `reverse`.
    pub(crate) fn reverse(&self) {
        assert_eq!(self.submit("reverse", b"abc").result(), Some(b"cba".to_vec()));
    }

    /// Starts a job that takes so long, and returns when it runs.
    pub(crate) fn run_for(&self, id: &str, time: Duration) -> Job {
        let job = self.submit("sleep_ms", time.as_millis().to_string().as_bytes());
        wait_for("a running job", || self.ask(id, "status")["running"].get(0).map(drop));
        job
    }

    /// Of a function: jobs in all, running ones, and workers, as the server's `status` says; zeroes for an
    /// unknown one.
    pub(crate) fn numbers(&self, function: &str) -> [usize; 3] {
        let status = Wire::connect(self.server.addr()).text("status");
        let line = status.lines().find_map(|line| line.strip_prefix(&format!("{function}\t")));
        let mut numbers = line.unwrap_or("0\t0\t0").split('\t').map(|number| number.parse().expect("a number"));
        std::array::from_fn(|_| numbers.next().expect("three numbers"))
    }

    /// How many workers can do a function.
    pub(crate) fn workers(&self, function: &str) -> usize {
        self.numbers(function)[2]
    }

    /// Waits until so many workers can do a function.
    pub(crate) fn await_workers(&self, function: &str, count: usize) {
        wait_for(&format!("{count} workers of {function}"), || (self.workers(function) == count).then_some(()));
    }
}

impl Drop for Case {
    fn drop(&mut self) {
        for pid in &self.siblings {
            // Fails for one that has ended.
            let _ = kill(Pid::from_raw(*pid), Signal::SIGKILL);
        }
    }
}

/// A foreground job that was submitted.
pub(crate) struct Job {
    wire: Wire,
    pub(crate) handle: Vec<u8>,
}

impl Job {
    /// Waits for the result; `None` for a failure.
    pub(crate) fn result(mut self) -> Option<Vec<u8>> {
        match self.wire.recv() {
            (packet::WORK_COMPLETE, body) => {
                let prefix = packet::body(&[&self.handle, b""]);
                Some(body.strip_prefix(&prefix[..]).expect("the handle of the job").to_vec())
            }
            (packet::WORK_FAIL, body) => {
                assert_eq!(body, self.handle);
                None
            }
            (other, body) => panic!("type {other} \"{}\" instead of a result", body.escape_ascii()),
        }
    }

    /// Waits for the result, which is an answer of the contract.
    pub(crate) fn answer(self) -> Value {
        let result = self.result().expect("an answer, not a failure");
        let answer: Value = serde_json::from_slice(&result)
            .unwrap_or_else(|error| panic!("\"{}\" is no JSON: {error}", result.escape_ascii()));
        assert!(answer["ok"].is_boolean(), "no \"ok\" in {answer}");
        answer
    }
}

/// Whether a process is there.
pub(crate) fn lives(pid: u64) -> bool {
    kill(Pid::from_raw(i32::try_from(pid).expect("a process id")), None).is_ok()
}

/// Seconds since 1970.
pub(crate) fn unix_time() -> f64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("a time after 1970").as_secs_f64()
}

/// A list of names, sorted.
pub(crate) fn names(list: &Value) -> Vec<String> {
    let list = list.as_array().unwrap_or_else(|| panic!("{list} is no list"));
    let mut names: Vec<String> = list.iter().map(|name| name.as_str().expect("a name").to_owned()).collect();
    names.sort();
    names
}

/// Wants a refusal that says why.
#[track_caller]
pub(crate) fn expect_refusal(answer: &Value, of: &str) {
    let why = answer["error"].as_str().unwrap_or_default();
    assert!(answer["ok"] == false && !why.is_empty(), "{of} was answered with {answer}");
}
