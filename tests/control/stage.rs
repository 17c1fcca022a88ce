//! A server, real workers, clients, and the operator.

use std::collections::BTreeMap;
use std::process::Command;

use crate::FUNCTIONS;
use crate::bindings::{self, Binding};
use crate::common::packet::{self, body};
use crate::common::{Program, Server, Wire, wait_for};

/// What `gearman -w` and `gearmand work` run for a job: it waits at the gate if there is one, or gives back
/// its workload.
const COMMAND: &str =
    r#"exec 2>/dev/null; workload=$(cat); if [ -p "$workload" ]; then exec cat "$workload"; fi; printf %s "$workload""#;

/// Where jobs are kept: in memory, and in SQLite, which is the default.
pub(crate) const STORES: [&[&str]; 2] = [&["-q", "builtin"], &[]];

/// Whose worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// libgearman, as the tool of gearman-tools.
    Tool,
    /// libgearman in PHP.
    Php,
    /// Perl's `Gearman::Worker`.
    Perl,
    /// `gearmand work`.
    Ours,
}

pub(crate) const KINDS: [Kind; 4] = [Kind::Tool, Kind::Php, Kind::Perl, Kind::Ours];

/// A running server, and whose worker is tried with it.
pub(crate) struct Stage {
    pub(crate) server: Server,
    pub(crate) kind: Kind,
}

/// Runs the test with every kind of worker and of store, and names those with which it fails.
pub(crate) fn for_each(test: fn(&Stage)) {
    bindings::require_peers();
    let mut failed = Vec::new();
    for store in STORES {
        // Those of one store at the same time.
        failed.extend(std::thread::scope(|scope| {
            let threads: Vec<_> = KINDS
                .iter()
                .map(|kind| {
                    let name = format!("{kind:?} {store:?}");
                    let thread = std::thread::Builder::new().name(name.clone());
                    let run = || test(&Stage { server: server(store), kind: *kind });
                    (name, thread.spawn_scoped(scope, run).expect("a thread"))
                })
                .collect();
            threads.into_iter().filter_map(|(name, thread)| thread.join().is_err().then_some(name)).collect::<Vec<_>>()
        }));
    }
    assert!(failed.is_empty(), "failed with: {}", failed.join(", "));
}

/// Runs the test with jobs in memory, and in SQLite.
pub(crate) fn for_each_store(test: fn(Server)) {
    for store in STORES {
        let result = std::panic::catch_unwind(|| test(server(store)));
        assert!(result.is_ok(), "failed with {store:?}");
    }
}

/// A server that logs what the operator does, and whose handles are `H:t:1`, `H:t:2`, ...
pub(crate) fn server(arguments: &[&str]) -> Server {
    Server::ours(&[&["--job-handle-prefix", "H:t", "--verbose", "INFO"], arguments].concat())
}

impl Stage {
    /// Starts a worker and waits until the server knows it; `count` workers are there then.
    #[track_caller]
    pub(crate) fn start_worker(&self, count: u64) -> Program {
        start_worker(&self.server, self.kind, count)
    }

    pub(crate) fn operator(&self) -> Operator {
        Operator::new(&self.server)
    }

    pub(crate) fn client(&self) -> Wire {
        Wire::connect(self.server.addr())
    }

    /// Has the workers do a job, for which they ask after everything that happened until now.
    #[track_caller]
    pub(crate) fn have_one_done(&self) {
        have_one_done(&self.server);
    }
}

#[track_caller]
pub(crate) fn start_worker(server: &Server, kind: Kind, count: u64) -> Program {
    let port = server.port().to_string();
    let with_command = |mut command: Command| {
        for function in FUNCTIONS {
            command.args(["-f", function]);
        }
        command.args(["--", "sh", "-c", COMMAND]);
        command
    };
    let mut command = match kind {
        Kind::Tool => {
            let mut command = Command::new("gearman");
            command.args(["-w", "-h", "127.0.0.1", "-p", &port]);
            with_command(command)
        }
        Kind::Ours => {
            let mut command = Command::new(env!("CARGO_BIN_EXE_gearmand"));
            command.args(["work", "-h", "127.0.0.1", "-p", &port]);
            with_command(command)
        }
        Kind::Php => Binding::Php.worker(server.port()),
        Kind::Perl => Binding::Perl.worker(server.port()),
    };
    let worker = Program::start(&mut command);
    let mut operator = Operator::new(server);
    for function in FUNCTIONS {
        operator.await_status(function, |status| status.workers == count);
    }
    worker
}

#[track_caller]
pub(crate) fn have_one_done(server: &Server) {
    let mut client = Wire::connect(server.addr());
    let handle = submit(&mut client, packet::SUBMIT_JOB, "reverse", "", "abc");
    let done = result(&mut client);
    assert_eq!((done.packet_type, done.handle), (packet::WORK_COMPLETE, handle));
}

/// Has the store do all that it was asked for until now: it acknowledges a job when that and everything
/// before it is on the disk.
#[track_caller]
pub(crate) fn await_store(server: &Server) {
    submit(&mut Wire::connect(server.addr()), packet::SUBMIT_JOB_BG, "last", "", "");
}

/// Submits a job and returns its handle, whatever is said meanwhile of the progress of an earlier one.
#[track_caller]
pub(crate) fn submit(client: &mut Wire, packet_type: u32, function: &str, unique: &str, workload: &str) -> String {
    client.send(packet_type, &body(&[function.as_bytes(), unique.as_bytes(), workload.as_bytes()]));
    loop {
        let (packet_type, body) = client.recv();
        if packet_type != packet::WORK_STATUS {
            assert_eq!(packet_type, packet::JOB_CREATED, "{}", body.escape_ascii());
            return String::from_utf8(body).expect("a handle in ASCII");
        }
    }
}

/// How a job ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Done {
    pub(crate) packet_type: u32,
    pub(crate) handle: String,
    pub(crate) result: String,
}

/// Waits for the end of a job, whatever its worker said of its progress.
#[track_caller]
pub(crate) fn result(client: &mut Wire) -> Done {
    loop {
        let (packet_type, body) = client.recv();
        if packet_type != packet::WORK_STATUS {
            let text = String::from_utf8(body).expect("text");
            let (handle, result) = text.split_once('\0').unwrap_or((&text, ""));
            return Done { packet_type, handle: handle.to_owned(), result: result.to_owned() };
        }
    }
}

#[track_caller]
pub(crate) fn expect_complete(client: &mut Wire, handle: &str, result_of_job: &str) {
    let expected =
        Done { packet_type: packet::WORK_COMPLETE, handle: handle.to_owned(), result: result_of_job.to_owned() };
    assert_eq!(result(client), expected);
}

/// A worker that the test plays: it has registered these functions.
#[track_caller]
pub(crate) fn played_worker(server: &Server, client_id: &str, functions: &[&str]) -> Wire {
    let mut worker = Wire::connect(server.addr());
    if !client_id.is_empty() {
        worker.send(packet::SET_CLIENT_ID, client_id.as_bytes());
    }
    for function in functions {
        worker.send(packet::CAN_DO, function.as_bytes());
    }
    worker.expect_nothing();
    worker
}

/// The same, asleep.
#[track_caller]
pub(crate) fn played_sleeper(server: &Server, client_id: &str, functions: &[&str]) -> Wire {
    let mut worker = played_worker(server, client_id, functions);
    fall_asleep(&mut worker);
    worker
}

#[track_caller]
pub(crate) fn fall_asleep(worker: &mut Wire) {
    worker.send(packet::PRE_SLEEP, b"");
    worker.expect_nothing();
}

/// Asks for a job, and returns its handle.
#[track_caller]
pub(crate) fn grab(worker: &mut Wire) -> String {
    worker.send(packet::GRAB_JOB, b"");
    let assigned = String::from_utf8(worker.expect_type(packet::JOB_ASSIGN)).expect("text");
    assigned.split('\0').next().expect("a handle").to_owned()
}

/// The numbers of a line of `status`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Status {
    pub(crate) jobs: u64,
    pub(crate) running: u64,
    pub(crate) workers: u64,
}

/// Whoever types text commands.
pub(crate) struct Operator {
    wire: Wire,
}

pub(crate) type Row = BTreeMap<String, String>;

impl Operator {
    pub(crate) fn new(server: &Server) -> Self {
        Self { wire: Wire::connect(server.addr()) }
    }

    /// A command that is obeyed, whatever it says of how much was changed.
    #[track_caller]
    pub(crate) fn ok(&mut self, command: &str) {
        let answer = self.wire.text(command);
        let count = answer.strip_prefix("OK").and_then(|rest| rest.strip_suffix("\r\n"));
        assert!(
            count.is_some_and(|count| count.trim().bytes().all(|byte| byte.is_ascii_digit())),
            "{command}: {answer}"
        );
    }

    /// A command that is refused. Returns the code.
    #[track_caller]
    pub(crate) fn refused(&mut self, command: &str) -> String {
        let answer = self.wire.text(command);
        let code = answer.strip_prefix("ERR ").and_then(|rest| rest.split([' ', '\r']).next());
        code.unwrap_or_else(|| panic!("{command}: {answer}")).to_owned()
    }

    /// The answer to a command that is answered with a table.
    #[track_caller]
    pub(crate) fn table(&mut self, command: &str) -> Vec<Row> {
        let answer = self.wire.text(command);
        let mut lines = answer.lines();
        let names: Vec<&str> =
            lines.next().and_then(|line| line.strip_prefix("# ")).expect("column names").split('\t').collect();
        let rows = lines.take_while(|line| *line != "." && !line.starts_with("# "));
        rows.map(|row| {
            let cells: Vec<&str> = row.split('\t').collect();
            assert_eq!(cells.len(), names.len(), "{row}");
            names.iter().zip(cells).map(|(name, cell)| ((*name).to_owned(), cell.to_owned())).collect()
        })
        .collect()
    }

    /// The row of `show functions` for a function.
    #[track_caller]
    pub(crate) fn function(&mut self, name: &str) -> Row {
        let row = self.table("show functions").into_iter().find(|row| row["name"] == name);
        row.unwrap_or_else(|| panic!("no function {name}"))
    }

    /// The rows of `show workers` of those that can still do something.
    #[track_caller]
    pub(crate) fn workers(&mut self) -> Vec<Row> {
        self.table("show workers").into_iter().filter(|row| row["functions"] != "-").collect()
    }

    /// The id of the only worker.
    #[track_caller]
    pub(crate) fn worker_id(&mut self) -> String {
        let workers = self.workers();
        assert_eq!(workers.len(), 1, "{workers:?}");
        workers[0]["id"].clone()
    }

    /// Waits until the worker of this id is shown in this state.
    #[track_caller]
    pub(crate) fn await_state(&mut self, id: &str, state: &str) {
        wait_for(&format!("{id} to be {state}"), || {
            self.table("show workers").iter().any(|row| row["id"] == id && row["state"] == state).then_some(())
        });
    }

    #[track_caller]
    pub(crate) fn status(&mut self, function: &str) -> Status {
        let answer = self.wire.text("status");
        let line = answer.lines().find_map(|line| line.strip_prefix(function)?.strip_prefix('\t'));
        let numbers: Vec<u64> = line
            .into_iter()
            .flat_map(|line| line.split('\t'))
            .map(|number| number.parse().expect("a number"))
            .collect();
        match numbers[..] {
            [jobs, running, workers] => Status { jobs, running, workers },
            _ => Status::default(),
        }
    }

    /// Waits until the line of `status` is as wanted.
    #[track_caller]
    pub(crate) fn await_status(&mut self, function: &str, is_wanted: impl Fn(Status) -> bool) {
        wait_for(&format!("the status of {function}"), || is_wanted(self.status(function)).then_some(()));
    }

    /// A value of an answer that is pairs of a key and a value.
    #[track_caller]
    pub(crate) fn value(&mut self, command: &str, key: &str) -> String {
        let answer = self.wire.text(command);
        let value = answer.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('\t'));
        value.unwrap_or_else(|| panic!("no {key}: {answer}")).to_owned()
    }
}
