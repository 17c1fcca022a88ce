//! `gearmand queue` and `gearmand import` as operators run them, on files of our server and of Debian's.
#![cfg(feature = "sqlite")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a failed expectation is how a test fails")]

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use common::packet::{self, body};
use common::{Server, Wire, wait_for};
use gearmand::job_server::{Edit, JobKey, StoredJob, StoredParts};
use gearmand::protocol::{FunctionName, Priority};
use gearmand::store::location::{Access, Location, defaults};
use gearmand::store::{Changes, Workloads};
use serde_json::Value;
use tempfile::TempDir;

/// A tool that knows nothing of this machine's settings.
fn tool(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_gearmand"));
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("GEARMAND_")) {
        command.env_remove(name);
    }
    command.args(arguments).env_remove("STATE_DIRECTORY").stdin(Stdio::null());
    command
}

/// Runs a command that must end with this status; its standard output and standard error.
#[track_caller]
fn output(command: &mut Command, status: i32) -> (String, String) {
    let Output { status: ended, stdout, stderr } = command.output().unwrap();
    let (stdout, stderr) = (String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap());
    assert_eq!(ended.code(), Some(status), "{command:?}\n{stdout}\n{stderr}");
    (stdout, stderr)
}

#[track_caller]
fn run(arguments: &[&str], status: i32) -> (String, String) {
    output(&mut tool(arguments), status)
}

/// What `gearmand queue list` says of the jobs in a file.
#[track_caller]
fn listed(file: &str) -> Vec<Value> {
    let (text, _) = run(&["queue", "list", "--json", "--from", file], 0);
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn column(jobs: &[Value], name: &str) -> Vec<String> {
    jobs.iter().map(|job| job[name].as_str().unwrap().to_owned()).collect()
}

/// A directory for files of queues.
struct Place(TempDir);

impl Place {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn file(&self, name: &str) -> String {
        self.0.path().join(name).to_str().unwrap().to_owned()
    }
}

fn submit(server: &Server, jobs: &[(u32, &[&[u8]])]) {
    let mut client = Wire::connect(server.addr());
    for (packet_type, arguments) in jobs {
        client.send(*packet_type, &body(arguments));
        client.expect_type(packet::JOB_CREATED);
    }
}

const JOBS: [(u32, &[&[u8]]); 4] = [
    (packet::SUBMIT_JOB_BG, &[b"mail", b"u1", b"one"]),
    (packet::SUBMIT_JOB_BG, &[b"mail", b"", b"two"]),
    (packet::SUBMIT_JOB_HIGH_BG, &[b"a-b", b"u-2", b"\0\xff"]),
    (packet::SUBMIT_JOB_EPOCH, &[b"mail", b"u3", b"4102444800", b""]),
];

#[test]
fn a_queue_is_looked_into_beside_its_server_and_moved_without_it() {
    let place = Place::new();
    let (from, to) = (place.file("from.sqlite3"), place.file("to.sqlite3"));
    let arguments = ["-q", "libsqlite3", "--job-handle-prefix", "H:t", "--libsqlite3-db"];
    let server = Server::ours(&[&arguments[..], &[&from]].concat());
    submit(&server, &JOBS);
    let jobs = listed(&from);
    assert_eq!(column(&jobs, "handle"), ["H:t:1", "H:t:2", "H:t:3", "H:t:4"]);
    assert_eq!(column(&jobs, "unique"), ["u1", "", "u-2", "u3"]);
    assert_eq!(column(&jobs, "priority")[2], "high");
    assert_eq!((jobs[3]["due"].as_u64(), jobs[3]["bytes"].as_u64()), (Some(4_102_444_800), Some(0)));
    let (text, _) = run(&["queue", "count", "--from", &from], 0);
    let words: Vec<Vec<&str>> = text.lines().skip(1).map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(words, [["a-b", "1", "1", "0", "0", "0"], ["mail", "3", "0", "3", "0", "1"]]);
    let (text, _) = run(&["queue", "verify", "--from", &from], 0);
    assert!(text.contains("4 jobs are sound"), "{text}");

    let (_, error) = run(&["import", "--from", &from, "--to", &to], 3);
    assert!(error.contains(&from) && error.contains(&server.pid().to_string()), "{error}");
    drop(server);
    let (text, error) = run(&["import", "--from", &from, "--to", &to], 0);
    assert_eq!(text, format!("4 jobs copied to SQLite file {to} (table gearman_queue), 4 left the source\n"));
    assert_eq!(error, "");
    assert_eq!(listed(&to), jobs);
    assert!(listed(&from).is_empty());

    let server = Server::ours(&[&arguments[..], &[&to]].concat());
    let mut worker = Wire::connect(server.addr());
    for function in ["mail", "a-b"] {
        worker.send(packet::CAN_DO, function.as_bytes());
    }
    for expected in [&b"H:t:3\0a-b\0u-2\0\0\xff"[..], b"H:t:1\0mail\0u1\0one", b"H:t:2\0mail\0\0two"] {
        worker.send(packet::GRAB_JOB_UNIQ, b"");
        worker.expect(packet::JOB_ASSIGN_UNIQ, expected);
    }
    worker.send(packet::GRAB_JOB_UNIQ, b"");
    worker.expect(packet::NO_JOB, b"");
}

#[test]
fn a_queue_of_debians_gearmand_is_imported_and_can_be_kept() {
    let place = Place::new();
    let (from, to) = (place.file("debian.db"), place.file("to.sqlite3"));
    let debian = || Server::debian(&["-q", "libsqlite3", "--libsqlite3-db", &from]);
    // Debian's own start fails on an empty workload that it has stored.
    let jobs: Vec<_> = JOBS.into_iter().filter(|(_, arguments)| !arguments.last().unwrap().is_empty()).collect();
    let server = debian();
    submit(&server, &jobs);
    drop(server);
    let (text, _) = run(&["import", "--keep", "--from", &from, "--to", &to], 0);
    assert!(text.starts_with("3 jobs copied to ") && text.contains("all are still in the source"), "{text}");
    let moved = listed(&to);
    assert_eq!(column(&moved, "unique"), ["u1", "", "u-2"]);
    assert_eq!(column(&moved, "priority"), ["normal", "normal", "high"]);
    let server = debian();
    let mut worker = Wire::connect(server.addr());
    worker.send(packet::CAN_DO, b"a-b");
    worker.send(packet::GRAB_JOB_UNIQ, b"");
    let assigned = worker.expect_type(packet::JOB_ASSIGN_UNIQ);
    assert!(assigned.ends_with(b"\0a-b\0u-2\0\0\xff"), "{assigned:?}");
    drop(server);
    // Without --keep the source is emptied, and jobs with a unique id are known again.
    let (text, _) = run(&["import", "--from", &from, "--to", &to], 0);
    assert!(
        text.starts_with("1 jobs copied to ") && text.contains("2 were there already, 3 left the source"),
        "{text}"
    );
    assert!(listed(&from).is_empty());
}

#[test]
fn the_servers_own_queue_is_found_by_its_settings() {
    let place = Place::new();
    let state = place.0.path().join("state");
    let file = state.join("gearmand-4741.sqlite3");
    fs::create_dir(&state).unwrap();
    fill(&file, 0, 3);
    let count = |arguments: &[&str], variables: &[(&str, &str)], status| {
        let mut command = tool(&[&["queue", "count", "--json"], arguments].concat());
        output(command.env("STATE_DIRECTORY", &state).envs(variables.iter().copied()), status)
    };
    let expected = "{\"function\":\"f\",\"high\":0,\"jobs\":3,\"low\":0,\"normal\":3,\"scheduled\":0}\n";
    assert_eq!(count(&[], &[("GEARMAND_PORT", "4741")], 0).0, expected);
    let config = place.file("gearmand.toml");
    fs::write(&config, "listen = ['127.0.0.1:4741']").unwrap();
    assert_eq!(count(&["--config-file", &config], &[], 0).0, expected);
    fs::write(&config, format!("queue-type = 'libsqlite3'\nlibsqlite3-db = '{}'", file.display())).unwrap();
    assert_eq!(count(&["--config-file", &config], &[], 0).0, expected);
    let (_, error) = count(&[], &[("GEARMAND_PORT", "4742")], 3);
    assert!(error.contains("gearmand-4742.sqlite3 does not exist") && error.contains("--from"), "{error}");
    let (_, error) = count(&[], &[("GEARMAND_QUEUE_TYPE", "builtin")], 2);
    assert!(error.contains("in memory") && error.contains("--from"), "{error}");
    let (_, error) = count(&[], &[("GEARMAND_QUEUE_TYPE", "libdrizzle")], 2);
    assert!(error.contains("this queue type was removed"), "{error}");
}

#[test]
fn what_cannot_be_opened_is_told_with_a_status() {
    let place = Place::new();
    let (file, missing) = (place.file("q"), place.file("missing"));
    fill(Path::new(&file), 0, 1);
    for (arguments, status, part) in [
        (&["queue", "list", "--from", &missing][..], 3, missing.as_str()),
        (&["import", "--from", &missing, "--to", &file], 3, &missing),
        (&["import", "--from", &file, "--to", &file], 2, "the same queue"),
        (&["import", "--from", "libmemcached://h", "--to", &file], 2, "USR1"),
        (&["import", "--from", "oracle://h", "--to", &file], 2, "unknown kind of queue oracle"),
        (&["import", "--from", &file], 2, "--to"),
        (&["queue"], 2, "Usage"),
        (&["queue", "list", "--from", &file, "--config-file", "/x"], 2, "cannot be used with"),
    ] {
        let (_, error) = run(arguments, status);
        assert!(error.contains(part), "{arguments:?}: {error}");
    }
    assert!(!Path::new(&missing).exists(), "what is not there is not made");
    let text = place.file("text");
    fs::write(&text, "this is no queue, whatever its name says; ".repeat(100)).unwrap();
    let (_, error) = run(&["queue", "verify", "--from", &text], 3);
    assert!(error.contains(&text), "{error}");
}

/// How many jobs are in a file, while another process writes into it; 0 while there is no table yet.
fn rows(file: &str) -> u64 {
    let Ok(database) = rusqlite::Connection::open_with_flags(file, rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY) else {
        return 0;
    };
    let count = database.query_row("SELECT count(*) FROM gearman_queue", [], |row| row.get::<_, i64>(0));
    count.map_or(0, |count| count.try_into().unwrap())
}

#[test]
fn an_import_that_is_killed_is_taken_up() {
    const MANY: u64 = 20_000;
    let place = Place::new();
    let (from, to) = (place.file("from"), place.file("to"));
    fill(Path::new(&from), 0, MANY);
    fill(Path::new(&to), MANY, 10);
    let mut killed = 0;
    for round in 0..4 {
        let (before, there) = (rows(&from), rows(&to));
        let mut child = tool(&["import", "--from", &from, "--to", &to]).spawn().unwrap();
        // Twice while it copies, twice while it removes.
        let ended = wait_for("a part of the import", || {
            let ended = child.try_wait().unwrap().is_some();
            let begun = if round < 2 { rows(&to) > there + 1 } else { rows(&from) < before };
            (ended || begun).then_some(ended)
        });
        child.kill().unwrap();
        child.wait().unwrap();
        killed += u32::from(!ended);
        if rows(&from) > 0 {
            let (text, _) = run(&["queue", "count", "--from", &to], 0);
            assert!(text.contains("gearmand-import"), "the mark is missing: {text}");
        }
    }
    assert!(killed > 0, "every import was done before it could be killed");
    run(&["import", "--from", &from, "--to", &to], 0);
    assert_eq!((rows(&from), rows(&to)), (0, MANY + 10));
    let mut workloads = BTreeSet::new();
    let mut store = location(Path::new(&to)).open(Access::Read, &"H:t".into()).unwrap();
    store
        .replay(&mut |job, _| {
            assert!(workloads.insert(job.workload().to_vec()), "{} is there twice", job.handle());
            Workloads::Wanted
        })
        .unwrap();
    assert_eq!(workloads, (0..MANY + 10).map(|number| number.to_string().into_bytes()).collect());
}

fn location(path: &Path) -> Location {
    let table = defaults::SQLITE_TABLE.to_owned();
    Location::Sqlite { path: PathBuf::from(path), table, keep_primary_key: false }
}

#[test]
fn what_the_operator_changed_of_a_job_is_listed() {
    let place = Place::new();
    let file = place.file("queue.sqlite3");
    fill(Path::new(&file), 0, 3);
    let mut store = location(Path::new(&file)).open(Access::Own, &"H:t".into()).unwrap();
    let edit = Edit { function: FunctionName::new(b"moved"), priority: Priority::High, due_s: 2_000_000_000 };
    let key = JobKey { number: 2, function: FunctionName::new(b"f"), unique: b"".as_slice().into() };
    store.commit(&Changes { edits: vec![(key, edit)], sync: true, ..Changes::default() }).unwrap();
    drop(store);
    let jobs = listed(&file);
    assert_eq!(column(&jobs, "function"), ["f", "moved", "f"]);
    assert_eq!(column(&jobs, "priority"), ["normal", "high", "normal"]);
    assert_eq!(column(&jobs, "handle"), ["H:t:1", "H:t:2", "H:t:3"]);
}

#[test]
fn a_queue_is_copied_beside_its_server_and_made_smaller_without_it() {
    let place = Place::new();
    let (file, copy) = (place.file("queue.sqlite3"), place.file("copy"));
    let arguments = ["-q", "libsqlite3", "--libsqlite3-db", &file, "--job-handle-prefix", "H:t"];
    let server = Server::ours(&arguments);
    submit(&server, &JOBS);
    let (text, _) = run(&["queue", "backup", &copy, "--from", &file], 0);
    assert!(text.contains(&format!("{copy} is a copy of SQLite file {file}")), "{text}");
    assert_eq!(listed(&copy), listed(&file));
    let (_, error) = run(&["queue", "backup", &copy, "--from", &file], 1);
    assert!(error.contains("choose another"), "{error}");
    let (_, error) = run(&["queue", "compact", "--from", &file], 1);
    assert!(error.contains(&server.pid().to_string()), "{error}");
    let jobs = listed(&file);
    drop(server);
    let (text, _) = run(&["queue", "compact", "--from", &file], 0);
    assert!(text.contains(" bytes before, "), "{text}");
    assert_eq!(listed(&file), jobs);
    for (action, part) in [("backup", "pg_dump -t queue -t queue_meta -t queue_settings"), ("compact", "by itself")] {
        let arguments = [&["queue", action][..], if action == "backup" { &["x"] } else { &[] }].concat();
        let (_, error) = run(&[&arguments[..], &["--from", "postgres://h/d"]].concat(), 2);
        assert!(error.contains(part), "{error}");
    }
    for arguments in [&["queue", "compact"][..], &["queue", "backup", &copy]] {
        let (_, error) = run(&[arguments, &["--from", &place.file("missing")]].concat(), 3);
        assert!(error.contains("missing"), "{error}");
    }
}

/// Fails if a text would control the terminal that shows it.
#[track_caller]
fn expect_harmless(text: &str) {
    assert!(!text.chars().any(|letter| letter.is_control() && letter != '\n'), "{text:?}");
}

#[test]
fn what_peers_chose_is_escaped_for_people() {
    // It sets the title of the terminal, and adds a line that looks like one of the tool's.
    const NAME: &[u8] = b"\x1b]0;title\x07\nmail\xff";
    const UNIQUE: &str = "\x1b]0;title\x07\nmail";
    const SHOWN: &str = r"\x1b]0;title\x07\x0amail";
    let place = Place::new();
    let (from, to) = (place.file("from"), place.file("to"));
    let job = |number, prefix: &str, function, unique, due_s, workload| {
        StoredJob::new(StoredParts {
            number,
            prefix: prefix.into(),
            function: FunctionName::new(function),
            unique,
            reducer: b"",
            priority: Priority::Normal,
            due_s,
            submitted_s: 1_700_000_000,
            attempts: 0,
            workload,
        })
        .unwrap()
    };
    let commit = |path: &str, adds| {
        let mut store = location(Path::new(path)).open(Access::Own, &"H:t".into()).unwrap();
        store.commit(&Changes { adds, last_number: 1, sync: true, ..Changes::default() }).unwrap();
    };
    commit(&from, vec![job(1, "H:t", NAME, UNIQUE.as_bytes(), 0, NAME)]);
    for action in ["list", "count", "verify"] {
        let (text, error) = run(&["queue", action, "--from", &from], 0);
        expect_harmless(&text);
        assert_eq!(error, "");
        let shown = if action == "list" { 2 } else { usize::from(action == "count") };
        assert_eq!(text.matches(SHOWN).count(), shown, "{text}");
        assert_eq!(text.lines().count(), 1 + usize::from(action != "verify"), "{text}");
    }
    // Programs read the same bytes as before.
    assert_eq!(column(&listed(&from), "unique"), [UNIQUE]);

    // The name of the source in the marker of an import.
    let marker = [b"0\n".as_slice(), NAME].concat();
    commit(&to, vec![job(1, "H:import", b"gearmand-import", b"unfinished", 0x7fff_ffff, &marker)]);
    let (text, error) = run(&["import", "--from", &from, "--to", &to], 2);
    assert_eq!(text, "");
    expect_harmless(&error);
    assert!(error.contains(r"an import from \x1b]0;title\x07 into this queue"), "{error}");
    // The names of files, which need not be the operator's own.
    let odd = place.file("\x1b]0;title\x07");
    let (_, error) = run(&["queue", "verify", "--from", &odd], 3);
    expect_harmless(&error);
    assert!(error.contains(r"\x1b]0;title\x07"), "{error}");
}

/// Puts jobs into a new file, without unique ids and with workloads that count on from `first`.
fn fill(path: &Path, first: u64, jobs: u64) {
    let mut store = location(path).open(Access::Own, &"H:t".into()).unwrap();
    let function = FunctionName::new(b"f");
    let job = |number: u64| {
        let workload = (first + number).to_string();
        StoredJob::new(StoredParts {
            number: number + 1,
            prefix: "H:t".into(),
            function: function.clone(),
            unique: b"",
            reducer: b"",
            priority: Priority::Normal,
            due_s: 0,
            submitted_s: 1_700_000_000,
            attempts: 0,
            workload: workload.as_bytes(),
        })
    };
    let adds: Vec<StoredJob> = (0..jobs).map(|number| job(number).unwrap()).collect();
    store.commit(&Changes { adds, last_number: jobs, sync: true, ..Changes::default() }).unwrap();
}
