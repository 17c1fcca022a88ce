//! Tools in the field: Debian's gearadmin itself, and the ways in which others take answers apart.

use std::io::Read;
use std::process::{Command, Output};

use crate::common::{Server, Wire, packet};
use crate::{connect, server, submit, worker};

/// What gearadmin says: its output, its errors and whether it is content.
type Said = (String, String, bool);

/// Runs Debian's gearadmin.
#[track_caller]
fn gearadmin(server: &Server, arguments: &[&str]) -> Said {
    let Output { stdout, stderr, status } = Command::new("gearadmin")
        .args(["--host", "127.0.0.1", "--port", &server.port().to_string()])
        .args(arguments)
        .output()
        .expect("gearadmin, of Debian's package gearman-tools, can be run");
    let text = |bytes| String::from_utf8(bytes).expect("text");
    (text(stdout), text(stderr), status.success())
}

fn output(text: &str) -> Said {
    (text.to_owned(), String::new(), true)
}

#[test]
fn gearadmin_understands_every_answer() {
    let server = server(&[]);
    let mut worker = worker(&server, &["reverse"]);
    worker.send(packet::SET_CLIENT_ID, b"me");
    submit(&mut worker, packet::SUBMIT_JOB, b"sort\0some unique\0", "H:t:1");
    submit(&mut worker, packet::SUBMIT_JOB_BG, b"sort\0another\0", "H:t:2");
    let said = |arguments: &[&str]| gearadmin(&server, arguments);
    assert_eq!(said(&["--status"]), output("reverse\t0\t0\t1\nsort\t2\t0\t0\n.\n"));
    assert_eq!(said(&["--priority-status"]), output("reverse\t0\t0\t0\t1\nsort\t0\t2\t0\t0\n.\n"));
    assert_eq!(said(&["--show-jobs"]), output("H:t:1\t0\t0\t0\nH:t:2\t0\t0\t1\n.\n"));
    assert_eq!(said(&["--show-unique-jobs"]), output("some unique\nanother\n.\n"));
    assert_eq!(said(&["--getpid"]), output(&format!("{}\n", server.pid())));
    assert_eq!(said(&["--server-verbose"]), output("ERROR\n"));
    let version = worker.text("version");
    assert_eq!(said(&["--server-version"]), output(version.strip_prefix("OK ").expect("OK")));
    assert_eq!(said(&["--create-function", "new"]), output("OK\n"));
    assert_eq!(said(&["--drop-function", "new"]), output("OK\n"));
    let error = |text: &str| (String::new(), format!("Error: {text}\r\n"), true);
    assert_eq!(said(&["--drop-function", "new"]), error("function not found"));
    let in_use = error("there are still connected workers or executing clients");
    assert_eq!(said(&["--drop-function", "reverse"]), in_use);
    let purge = error("there are still queued jobs, which this command removes: cancel jobs sort");
    assert_eq!(said(&["--drop-function", "sort"]), purge);
    assert_eq!(said(&["--cancel-job", "H:t:1"]), output("OK\n"));
    worker.expect(packet::WORK_FAIL, b"H:t:1");
    assert_eq!(said(&["--cancel-job", "H:t:1"]), error("UNKNOWN_JOB"));
    let (workers, errors, is_content) = said(&["--workers"]);
    assert!(errors.is_empty() && is_content, "{errors}");
    let lines: Vec<&str> = workers.lines().collect();
    assert!(lines.iter().any(|line| line.ends_with(" 127.0.0.1 me : reverse")), "{workers}");
    assert!(lines.iter().any(|line| line.ends_with(" 127.0.0.1 - :")), "{workers}");
    assert_eq!(lines.last(), Some(&"."));
}

#[test]
fn gearadmin_asks_several_questions_on_one_connection() {
    let server = server(&[]);
    let arguments = ["--status", "--create-function", "f", "--getpid", "--server-verbose", "--show-jobs"];
    assert_eq!(gearadmin(&server, &arguments), output(&format!("{}\nOK\n.\nERROR\nf\t0\t0\t0\n.\n", server.pid())));
}

/// A function as `status` shows it.
#[derive(Debug, PartialEq, Eq)]
struct Queue {
    name: String,
    total: u64,
    running: u64,
    workers: u64,
}

/// mod_gearman's check_gearman and gearman_top: both commands in one write, one read, then cut by hand.
#[track_caller]
fn read_as_mod_gearman(wire: &mut Wire) -> (Vec<Queue>, String) {
    wire.send_raw(b"status\nversion\n");
    let mut buffer = vec![0; 65_535];
    let count = wire.stream().read(&mut buffer).expect("an answer");
    let text = String::from_utf8(buffer[..count].to_vec()).expect("text");
    let mut lines = text.split('\n');
    let mut queues = Vec::new();
    for line in lines.by_ref() {
        if line == "." {
            break;
        }
        let fields: Vec<&str> = line.split('\t').collect();
        let [name, total, running, workers] = fields[..] else {
            panic!("not four fields in {line:?}");
        };
        let number = |field: &str| field.parse().expect("a number");
        let name = name.to_owned();
        queues.push(Queue { name, total: number(total), running: number(running), workers: number(workers) });
    }
    let version = lines.next().and_then(|line| line.strip_prefix("OK ")).expect("a version after the dot");
    (queues, version.to_owned())
}

/// A connection as python-gearman's administration client takes it out of `workers`.
#[derive(Debug, PartialEq, Eq)]
struct Connected {
    ip: String,
    client_id: String,
    tasks: Vec<String>,
}

/// Lines up to the dot, as python-gearman collects them.
#[track_caller]
fn lines_of<'a>(answer: &'a str) -> Vec<&'a str> {
    let lines: Vec<&'a str> = answer.split('\n').map(|line| line.trim_end_matches('\r')).collect();
    let end = lines.iter().position(|line| *line == ".").expect("a line with a dot");
    assert_eq!(lines[end + 1..], [""], "something after the dot");
    lines[..end].to_vec()
}

/// `workers`, cut at single spaces: the fourth word must be a colon, what follows are functions.
#[track_caller]
fn workers_as_python_gearman(wire: &mut Wire) -> Vec<Connected> {
    let answer = wire.text("workers");
    let connected = lines_of(&answer).into_iter().map(|line| {
        let words: Vec<&str> = line.split(' ').collect();
        assert!(words.len() >= 4 && words[3] == ":", "{line:?}");
        assert!(words[0].parse::<u32>().is_ok(), "{line:?}");
        let tasks = words[4..].iter().map(ToString::to_string).collect();
        Connected { ip: words[1].to_owned(), client_id: words[2].to_owned(), tasks }
    });
    connected.collect()
}

/// `status` or `show jobs`, cut at tabs: exactly four fields, the last three numbers.
#[track_caller]
fn table_as_python_gearman(wire: &mut Wire, command: &str) -> Vec<(String, [u64; 3])> {
    let answer = wire.text(command);
    let rows = lines_of(&answer).into_iter().map(|line| {
        let fields: Vec<&str> = line.split('\t').collect();
        let [name, numbers @ ..] = &fields[..] else {
            panic!("{line:?}");
        };
        let numbers: Vec<u64> = numbers.iter().map(|field| field.parse().expect("a number")).collect();
        (name.to_string(), numbers.try_into().unwrap_or_else(|_| panic!("not four fields in {line:?}")))
    });
    rows.collect()
}

/// A server with two jobs and a worker. Its id and the names of its functions contain spaces and tabs.
fn unfriendly() -> (Server, Wire) {
    let server = server(&[]);
    let mut worker = worker(&server, &["plain", "with space", "with\ttab"]);
    worker.send(packet::SET_CLIENT_ID, b"id : with a colon");
    submit(&mut worker, packet::SUBMIT_JOB_BG, b"plain\0u\0", "H:t:1");
    submit(&mut worker, packet::SUBMIT_JOB_HIGH, b"plain\0\0", "H:t:2");
    worker.send(packet::GRAB_JOB, b"");
    worker.expect_type(packet::JOB_ASSIGN);
    (server, worker)
}

#[test]
fn mod_gearman_finds_its_queues_and_the_version() {
    let (server, _worker) = unfriendly();
    let mut wire = connect(&server);
    let queue = |name: &str, total, running| Queue { name: name.to_owned(), total, running, workers: 1 };
    for _ in 0..3 {
        let (queues, version) = read_as_mod_gearman(&mut wire);
        assert_eq!(queues, [queue("plain", 2, 1), queue("with\\x09tab", 0, 0), queue("with space", 0, 0)]);
        assert!(!version.is_empty() && !version.contains(char::is_whitespace), "{version:?}");
    }
}

#[test]
fn python_gearman_finds_its_fields() {
    let (server, _worker) = unfriendly();
    let mut wire = connect(&server);
    let status = table_as_python_gearman(&mut wire, "status");
    let expected = [("plain", [2, 1, 1]), ("with\\x09tab", [0, 0, 1]), ("with space", [0, 0, 1])]
        .map(|(name, numbers)| (name.to_owned(), numbers));
    assert_eq!(status, expected);
    let mut jobs = table_as_python_gearman(&mut wire, "show jobs");
    jobs.sort();
    assert_eq!(jobs, [("H:t:1".to_owned(), [0, 0, 1]), ("H:t:2".to_owned(), [0, 0, 0])]);
    let workers = workers_as_python_gearman(&mut wire);
    let tasks = ["with\\x09tab", "with\\x20space"].map(str::to_owned);
    assert_eq!(workers.len(), 2);
    assert!(workers.iter().all(|worker| worker.ip == "127.0.0.1"), "{workers:?}");
    assert_eq!(workers[0].client_id, "id\\x20:\\x20with\\x20a\\x20colon");
    assert!(tasks.iter().all(|task| workers[0].tasks.contains(task)), "{workers:?}");
    assert!(workers[1].client_id == "-" && workers[1].tasks.is_empty(), "{workers:?}");
    assert_eq!(wire.text("maxqueue plain 9"), "OK\r\n");
    assert!(wire.text("version").starts_with("OK "));
}

/// Net_Gearman_Manager cuts `workers` by the expression `^(.+?) (.+?) (.+?) :(.*)$`, and errors into three
/// words.
#[test]
fn net_gearman_manager_finds_its_fields() {
    let (server, _worker) = unfriendly();
    let mut wire = connect(&server);
    let answer = wire.text("workers");
    for line in lines_of(&answer) {
        let (front, functions) = line.split_once(" :").expect("a colon");
        assert_eq!(front.split(' ').filter(|word| !word.is_empty()).count(), 3, "{line:?}");
        assert!(functions.is_empty() || functions.starts_with(' '), "{line:?}");
    }
    for line in ["nonsense", "maxqueue", "create", "drop", "a b c d e f"] {
        let answer = wire.text(line);
        let words: Vec<&str> = answer.trim_end().split(' ').collect();
        assert!(words.len() == 3 && words[0] == "ERR", "{answer:?}");
    }
}
