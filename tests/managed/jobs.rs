//! Jobs while functions, workers and servers come and go: each is done, and once.

use std::collections::HashMap;
use std::fs;
use std::hash::{BuildHasher, Hasher, RandomState};

use serde_json::json;

use super::common::{Gate, Program, Server, packet};
use super::stage::{FUNCTIONS, Monitor, command, pid, supervisor, wait_for_end};

#[test]
fn a_worker_that_is_told_to_exit_finishes_its_job() {
    for server in [Server::ours(&[]), Server::debian(&[])] {
        let gate = Gate::new();
        let (mut monitor, mut client) = (Monitor::of(&server), Monitor::of(&server));
        let mut supervisor = supervisor(&server, &FUNCTIONS);
        let process = pid(&monitor.name("a"));
        monitor.register("a", &["gate", "echo"]);
        let job = client.submit("gate", gate.workload().as_bytes());
        monitor.wait_for_state("a", "working");
        monitor.exit("a");
        assert_eq!(monitor.status("a")["state"], "leaving");
        for refused in [
            json!({"verb": "registerFunction", "arguments": {"functions": ["echo"]}}),
            json!({"verb": "newWorker"}),
            json!({"verb": "reload"}),
        ] {
            let answer = monitor.say("manage_a", refused.to_string().as_bytes());
            assert!(
                answer["ok"] == false && answer["error"].as_str().unwrap().contains("is shutting down"),
                "{answer}"
            );
        }
        monitor.ask("a", &json!({"verb": "version"}));
        assert_eq!(monitor.unregister("a", &["echo"])["functionInUse"], json!(["gate"]));
        monitor.exit("a");
        client.submit("echo", b"for somebody else");
        gate.open("done");
        assert_eq!(client.result(&job), b"done");
        wait_for_end(process);
        supervisor.expect_end(&[]);
        monitor.wait_for_workers("echo", 0);
        assert_eq!((monitor.listed("echo"), monitor.listed("setId").2), ((1, 0, 0), 0));
    }
}

#[test]
fn a_worker_of_two_servers_has_one_id_and_does_one_job() {
    let (first, second) = (Server::ours(&[]), Server::ours(&[]));
    let gate = Gate::new();
    let mut supervisor = Program::start(&mut command(&[first.addr(), second.addr()], &FUNCTIONS));
    let (mut of_first, mut of_second) = (Monitor::of(&first), Monitor::of(&second));
    of_second.wait_for_workers("setId", 1);
    let introduction = of_first.name("a");
    of_second.wait_for_workers("manage_a", 1);
    of_second.wait_for_workers("setId", 0);
    of_first.wait_for_workers("setId", 0);
    of_second.register("a", &["gate", "echo"]);
    of_first.changed_in = of_second.changed_in;
    of_first.expect_workers("gate", 1);
    of_second.expect_workers("gate", 1);
    let mut client = Monitor::of(&first);
    let job = client.submit("gate", gate.workload().as_bytes());
    assert_eq!(of_second.wait_for_state("a", "working")["pid"], introduction["pid"]);
    // The other server's job waits for the end of that one, and sees the function dropped before.
    let mut other = Monitor::of(&second);
    let waiting = other.submit("echo", b"second");
    of_first.unregister("a", &["gate"]);
    assert_eq!(of_first.status("a")["count"], json!({}));
    gate.open("first");
    assert_eq!((client.result(&job), other.result(&waiting)), (b"first".to_vec(), b"second".to_vec()));
    assert_eq!(of_first.wait_for_state("a", "idle")["count"], json!({"gate": 1, "echo": 1}));
    of_first.exit("a");
    supervisor.expect_end(&[]);
}

/// Numbers by chance, the same for the same seed.
struct Chance(u64);

impl Chance {
    fn below(&mut self, bound: u64) -> u64 {
        // xorshift64*
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % bound
    }
}

const NAMES: [&str; 4] = ["f0", "f1", "f2", "f3"];

/// Jobs that are submitted and come back, and the workers that do them.
struct Churn {
    chance: Chance,
    client: Monitor,
    monitor: Monitor,
    workers: Vec<String>,
    /// How many ids were given.
    named: usize,
    submitted: usize,
    done: usize,
    waiting: HashMap<Vec<u8>, usize>,
}

impl Churn {
    const WINDOW: usize = 40;

    #[track_caller]
    fn submit(&mut self) {
        let function = NAMES[self.any(NAMES.len())];
        let workload = format!("{}\n", self.submitted);
        self.client.wire.send(packet::SUBMIT_JOB, &packet::body(&[function.as_bytes(), b"", workload.as_bytes()]));
        let handle = std::iter::repeat_with(|| self.receive()).flatten().next().unwrap();
        self.waiting.insert(handle, self.submitted);
        self.submitted += 1;
    }

    /// Takes what comes next: the handle of a new job, or the result of one, which must be that job's.
    #[track_caller]
    fn receive(&mut self) -> Option<Vec<u8>> {
        match self.client.wire.recv() {
            (packet::JOB_CREATED, handle) => Some(handle),
            (packet::WORK_COMPLETE, body) => {
                let (handle, text) = split(&body);
                let expected = self.waiting.remove(handle).map(|number| format!("{number}\n"));
                assert_eq!(expected.as_deref(), Some(text));
                self.done += 1;
                None
            }
            (other, body) => panic!("{other} {}", body.escape_ascii()),
        }
    }

    fn any(&mut self, count: usize) -> usize {
        usize::try_from(self.chance.below(u64::try_from(count).unwrap())).unwrap()
    }

    /// Has a worker start another one, names that, and has the first one exit.
    #[track_caller]
    fn replace_one(&mut self) {
        let place = self.any(self.workers.len());
        let old = self.workers[place].clone();
        let answer = self.monitor.say(&format!("manage_{old}"), br#"{"verb": "newWorker"}"#);
        // On a slow machine the supervisor may be late with its answer. The worker comes all the same.
        let is_late = answer["error"].as_str().is_some_and(|error| error.contains("it may still start one"));
        assert!(answer["ok"] == true || is_late, "{answer}");
        self.workers[place] = self.name_one();
        self.monitor.exit(&old);
    }

    #[track_caller]
    fn name_one(&mut self) -> String {
        let id = format!("w{}", self.named);
        self.named += 1;
        self.monitor.name(&id);
        id
    }

    /// Changes what workers do, and which there are.
    #[track_caller]
    fn stir(&mut self) {
        for _ in 0..4 {
            let place = self.any(self.workers.len());
            let id = self.workers[place].clone();
            let some: Vec<&str> = NAMES.into_iter().filter(|_| self.chance.below(2) == 0).collect();
            match self.chance.below(20) {
                0 => self.replace_one(),
                1..12 => drop(self.monitor.register(&id, &some)),
                12..19 => drop(self.monitor.unregister(&id, &some)),
                _ => drop(self.monitor.ask(&id, &json!({"verb": "reload"}))),
            }
        }
        // No function is without a worker for ever.
        let place = self.any(self.workers.len());
        let id = self.workers[place].clone();
        self.monitor.register(&id, &NAMES);
    }
}

/// Has so many jobs done while functions and workers come and go, and wants to find each once.
fn churn(server: &Server, jobs: usize) {
    let seed = RandomState::new().build_hasher().finish() | 1;
    println!("{:?}, seed {seed}", server.implementation());
    let directory = tempfile::tempdir().unwrap();
    let log = directory.path().join("log");
    // A builtin of the shell appends a line at once.
    let script = format!("read line; echo \"$line\" >> '{}'; echo \"$line\"", log.display());
    let functions: Vec<String> = NAMES.iter().flat_map(|name| ["-f".to_owned(), format!("{name}={script}")]).collect();
    let functions: Vec<&str> = functions.iter().map(String::as_str).collect();
    let _supervisor = supervisor(server, &[&functions[..], &["--workers", "3"]].concat());
    let mut churn = Churn {
        chance: Chance(seed),
        client: Monitor::of(server),
        monitor: Monitor::of(server),
        workers: Vec::new(),
        named: 0,
        submitted: 0,
        done: 0,
        waiting: HashMap::new(),
    };
    for _ in 0..3 {
        let id = churn.name_one();
        churn.workers.push(id);
    }
    while churn.done < jobs {
        while churn.submitted < jobs && churn.waiting.len() < Churn::WINDOW {
            churn.submit();
        }
        // Chance alone may replace too few. What follows registers the functions of those who are new.
        while churn.named <= 3 + churn.submitted / 500 {
            churn.replace_one();
        }
        churn.stir();
        for _ in 0..churn.waiting.len().min(Churn::WINDOW / 2) {
            assert_eq!(churn.receive(), None);
        }
    }
    let text = fs::read_to_string(&log).unwrap();
    let mut lines: Vec<usize> = text.lines().map(|line| line.parse().unwrap()).collect();
    lines.sort_unstable();
    assert!(lines.iter().copied().eq(0..jobs), "{} lines of {jobs} jobs", lines.len());
    for id in churn.workers.clone() {
        assert_eq!(churn.monitor.wait_for_state(&id, "idle")["failures"], json!({}));
    }
    assert!(churn.named > 3 + jobs / 500, "only {} workers", churn.named);
}

#[test]
fn jobs_are_done_once_while_functions_and_workers_come_and_go() {
    churn(&Server::ours(&[]), 5000);
}

#[test]
fn the_same_through_another_server() {
    churn(&Server::debian(&[]), 1500);
}

/// The handle and the result of a job that is done.
fn split(body: &[u8]) -> (&[u8], &str) {
    let end = body.iter().position(|byte| *byte == 0).unwrap();
    (&body[..end], std::str::from_utf8(&body[end + 1..]).unwrap())
}
