//! Redis, with a password, which answers when jobs are on the disk.

use std::cell::Cell;
use std::process::Command;

use gearmand::job_server::StoreFailure;
use gearmand::protocol::Priority;
use gearmand::store::Changes;
use gearmand::store::location::{Access, Location};

use super::battery::{self, Database};
use super::common::free_port;
use super::debian::{Kept, kept_of};
use super::instance::{Instance, program, words};
use super::jobs::{TestJob, adding, assert_same, open, read};
use super::unwritable;

const PASSWORD: &str = "secret";
/// The smallest limit of a value that Redis knows, doubled.
const VALUE_MAX: usize = 2 << 20;

/// The test.
pub(crate) fn everything() {
    let mut database = Redis::start();
    passwords(&database);
    battery::run(&mut database);
    strangers(&database);
    untouched(&database);
    made_up(&database);
    full(&database);
    // A primary that is not there.
    let replicate = |primary: &[&str]| drop(database.cli(&[&["REPLICAOF"], primary].concat()));
    unwritable::read_only(
        &database.location("read_only"),
        || replicate(&["127.0.0.1", "1"]),
        || replicate(&["NO", "ONE"]),
    );
    database.by_socket.set(true);
    battery::round_trip(&database.location("by_socket"));
}

/// Wrong passwords and places.
fn passwords(database: &Redis) {
    let at = |host: &str, password: &str| Location::Redis {
        host: host.to_owned(),
        port: database.port,
        password: password.to_owned(),
        prefix: "passwords".to_owned(),
    };
    battery::cannot_open(&at("127.0.0.1", ""), "Redis asks for a password: add --redis-password=...");
    battery::cannot_open(&at("127.0.0.1", "wr0ng"), "check the password");
    battery::cannot_open(&at(&database.instance.file("no/socket"), "wr0ng"), "the directory of the server's socket");
}

/// Keys that merely share the prefix are nobody's jobs.
fn strangers(database: &Redis) {
    let keys = [
        &["SET", "mine-plain", "no second hyphen"][..],
        &["RPUSH", "mine-list-x", "a"],
        &["HSET", "mine-hash-x", "color", "red"],
        &["HSET", "mine2-f-u", "data", "x", "priority", "1"],
        &["HSET", "m?ne-f-u", "data", "x", "priority", "1"],
    ];
    for command in keys {
        database.cli(command);
    }
    let job = TestJob::new(1, "f", "u", b"w");
    let mut store = open(&database.location("mine"), Access::Own);
    store.commit(&adding(std::slice::from_ref(&job))).unwrap();
    let (jobs, replayed) = read(&mut *store);
    assert_same(&jobs, std::slice::from_ref(&job));
    assert_eq!(replayed.quarantined, 0);
    for command in keys {
        assert_eq!(database.cli(&["EXISTS", command[1]]), "1", "{}", command[1]);
    }
    let (jobs, _) = read(&mut *open(&database.location("m?ne"), Access::Own));
    assert_eq!(jobs.len(), 1, "a question mark in the prefix is no pattern");
    // A copied key is a job of its own, with a number of its own.
    database.cli(&["COPY", "mine-f-u", "mine-f-copy"]);
    database.cli(&["HSET", "mine-f-copy", "unique", "copy"]);
    drop(store);
    let mut store = open(&database.location("mine"), Access::Own);
    let copied = read(&mut *store).0;
    assert_eq!(copied.iter().map(|job| job.number).collect::<Vec<_>>(), [1, 2]);
    assert_eq!(read(&mut *store).0, copied);
}

/// C++ gearmand's own entries keep their fields when they are taken over, and what it has run leaves nothing
/// behind.
fn untouched(database: &Redis) {
    database.cli(&["HSET", "own-f-u1", "data", "one", "priority", "0"]);
    let job = TestJob::new(7, "f", "u7", b"seven");
    let mut store = open(&database.location("own"), Access::Own);
    store.commit(&adding(std::slice::from_ref(&job))).unwrap();
    assert_eq!(read(&mut *store).0.len(), 2);
    for (key, fields) in [("own-f-u1", "data\none\npriority\n0"), ("own-f-u7", "data\nseven\npriority\n1")] {
        assert_eq!(database.cli(&["HGETALL", key]), fields);
        assert_eq!(database.cli(&["EXISTS", &format!("gearmand:own:job:{key}")]), "1");
    }
    drop(store);
    database.cli(&["DEL", "own-f-u7"]);
    read(&mut *open(&database.location("own"), Access::Read));
    assert_eq!(database.cli(&["EXISTS", "gearmand:own:job:own-f-u7"]), "1", "whoever only looks deletes nothing");
    let mut store = open(&database.location("own"), Access::Own);
    let left = read(&mut *store).0;
    assert_eq!(left.iter().map(|job| job.number).collect::<Vec<_>>(), [8]);
    assert_eq!(database.cli(&["EXISTS", "gearmand:own:job:own-f-u7"]), "0");
    store.commit(&Changes { removes: vec![left[0].key()], ..Changes::default() }).unwrap();
    assert_eq!(database.cli(&["KEYS", "*own-f-*"]), "");
}

/// The unique ids that libgearman makes up tell where a function with hyphens ends.
fn made_up(database: &Redis) {
    let uuid = "f1aa111c-87c8-11f0-8e2a-0242ac120002";
    database.cli(&["HSET", &format!("made-with-hyphens-{uuid}"), "data", "w", "priority", "1"]);
    let (jobs, _) = read(&mut *open(&database.location("made"), Access::Own));
    assert_eq!(jobs.len(), 1);
    assert_eq!((&jobs[0].function[..], &jobs[0].unique[..]), (&b"with-hyphens"[..], uuid.as_bytes()));
}

/// Redis without memory keeps what it has, and says so.
fn full(database: &Redis) {
    let mut store = open(&database.location("full"), Access::Own);
    let job = |number: u64| TestJob::new(number, "f", &format!("u{number}"), b"w");
    store.commit(&adding(&[job(1), job(5)])).unwrap();
    database.cli(&["CONFIG", "SET", "maxmemory", "1"]);
    let error = store.commit(&adding(&[job(2), job(3)])).unwrap_err();
    assert_eq!(error.failure, StoreFailure::Full, "{error}");
    assert!(error.text.contains("maxmemory"), "{error}");
    // What it has is read, and can be removed.
    for number in [1, 5] {
        assert_eq!(store.load(&[job(number).key()], 1 << 20).unwrap()[0].as_deref(), Some(&b"w"[..]));
    }
    store.commit(&Changes { removes: vec![job(5).key()], sync: true, ..Changes::default() }).unwrap();
    assert_eq!(store.load(&[job(5).key()], 1 << 20).unwrap(), [None]);
    database.cli(&["CONFIG", "SET", "maxmemory", "0"]);
    store.commit(&adding(&[job(4)])).unwrap();
    assert_same(&read(&mut *store).0, &[job(1), job(4)]);
}

/// A running Redis.
pub(crate) struct Redis {
    instance: Instance,
    port: u16,
    by_socket: Cell<bool>,
}

impl Redis {
    /// Starts one, empty.
    pub(crate) fn start() -> Self {
        let mut instance = Instance::new();
        // Nobody's outgoing connection gets this one while the database is away.
        let port = free_port();
        let server = program(&["/usr/bin/redis-server"]);
        let (socket, directory) = (instance.file("socket"), instance.path().display().to_string());
        let command = words(&[
            &server,
            "--port",
            &port.to_string(),
            "--bind",
            "127.0.0.1",
            "--unixsocket",
            &socket,
            "--unixsocketperm",
            "777",
            "--dir",
            &directory,
            "--requirepass",
            PASSWORD,
            "--appendonly",
            "yes",
            "--appendfsync",
            "always",
            "--proto-max-bulk-len",
            &VALUE_MAX.to_string(),
        ]);
        instance.start(command, |instance| Self::answers(instance, port));
        Self { instance, port, by_socket: Cell::new(false) }
    }

    fn command(port: u16, arguments: &[&str]) -> Command {
        let mut command = Command::new("redis-cli");
        command.args(["-p", &port.to_string(), "--no-auth-warning", "-a", PASSWORD]).args(arguments);
        command
    }

    fn answers(_: &Instance, port: u16) -> bool {
        let output = Self::command(port, &["PING"]).output().expect("redis-cli");
        String::from_utf8_lossy(&output.stdout).trim() == "PONG"
    }

    #[track_caller]
    pub(crate) fn cli(&self, arguments: &[&str]) -> String {
        let output = Self::command(self.port, arguments).output().expect("redis-cli");
        assert!(output.status.success(), "{arguments:?}");
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }
}

impl Database for Redis {
    fn location(&self, name: &str) -> Location {
        let socket = self.by_socket.get();
        Location::Redis {
            host: if socket { self.instance.file("socket") } else { "127.0.0.1".to_owned() },
            port: self.port,
            password: PASSWORD.to_owned(),
            prefix: name.to_owned(),
        }
    }

    fn debian_options(&self, name: &str) -> Vec<String> {
        vec![
            "-q".to_owned(),
            "redis".to_owned(),
            "--redis-server=127.0.0.1".to_owned(),
            format!("--redis-port={}", self.port),
            format!("--redis-password={PASSWORD}"),
            format!("--redis-prefix={name}"),
        ]
    }

    fn word(&self) -> &'static str {
        "Redis"
    }

    fn debian_keeps_due_times(&self) -> bool {
        false
    }

    fn put_beside(&self, name: &str) -> Vec<Kept> {
        // Newer versions name function and unique id; which tells how the keys without names are to be read.
        let fields = ["data", "newer", "priority", "2", "function", "with-hyphens", "unique", "na-med"];
        self.cli(&[&["HSET", &format!("{name}-with-hyphens-na-med")][..], &fields].concat());
        // Old versions wrote plain strings.
        self.cli(&["SET", &format!("{name}-old-style"), "plain string"]);
        vec![
            kept_of(b"with-hyphens", b"na-med", Priority::Low, 0, b"newer"),
            kept_of(b"old", b"style", Priority::Normal, 0, b"plain string"),
        ]
    }

    fn spoil(&self, name: &str) {
        self.cli(&["HSET", &format!("{name}-f-u1"), "priority", "5"]);
        self.cli(&["HSET", &format!("gearmand:{name}:job:{name}-f-u3"), "when", "soon"]);
    }

    fn rows(&self, name: &str) -> usize {
        self.cli(&["KEYS", &format!("{name}-*")]).lines().filter(|line| !line.is_empty()).count()
    }

    fn quarantined(&self, name: &str) -> usize {
        let keys = self.cli(&["KEYS", &format!("quarantine:{name}-*")]);
        keys.lines().filter(|line| !line.is_empty()).count()
    }

    fn make_former_quarantine(&self, name: &str) {
        for unique in ["u1", "u3"] {
            let key = format!("{name}-f-{unique}");
            self.cli(&["RENAME", &format!("quarantine:{key}"), &format!("set-aside:{key}")]);
            let side = |first: &str| format!("gearmand:{name}:job:{first}:{key}");
            self.cli(&["RENAME", &side("quarantine"), &side("set-aside")]);
        }
        self.cli(&["HDEL", &format!("gearmand:{name}:meta"), "quarantine"]);
    }

    fn put_stranger(&self, name: &str) {
        self.cli(&["HSET", &format!("{name}-g-u1"), "data", "stranger", "priority", "1"]);
    }

    fn put_numbered(&self, name: &str, number: u64) {
        let (key, number) = (format!("{name}-h-u9"), number.to_string());
        self.cli(&["HSET", &key, "data", "stranger", "priority", "1"]);
        let side = format!("gearmand:{name}:job:{key}");
        self.cli(&["HSET", &side, "id", &number, "function", "h", "unique", "u9"]);
    }

    fn swallow(&self, _name: &str) -> Option<()> {
        None
    }

    fn sever(&mut self) {
        self.cli(&["CLIENT", "KILL", "TYPE", "normal"]);
    }

    fn strangers_quarantined(&self, name: &str) -> usize {
        usize::from(self.cli(&["HGET", &format!("quarantine:{name}-g-u1"), "data"]) == "stranger")
    }

    fn make_newer(&self, name: &str) {
        self.cli(&["HSET", &format!("gearmand:{name}:meta"), "format", "99"]);
    }

    fn refused(&self) -> (TestJob, &'static str) {
        (TestJob::new(2, "f", "u2", &vec![b'x'; VALUE_MAX + 1]), "proto-max-bulk-len")
    }

    fn make_former(&self, name: &str, job: &TestJob) {
        // All fields stood in one hash.
        let (function, number) = (job.function.escape_ascii(), job.number);
        let key = format!("{name}-{function}-job:{number}");
        let side = format!("gearmand:{name}:job:{key}");
        let fields = self.cli(&["HGETALL", &side]);
        let fields: Vec<&str> = fields.split('\n').collect();
        self.cli(&[&["HSET", &key], &fields[..]].concat());
        self.cli(&["DEL", &side]);
    }

    fn make_foreign(&self, _name: &str) -> Option<()> {
        None
    }

    fn described(&self, name: &str) -> String {
        self.cli(&["KEYS", &format!("{name}*")])
    }

    fn kill(&mut self) {
        self.instance.kill();
    }

    fn start_again(&mut self) {
        let port = self.port;
        self.instance.start_again(|instance| Self::answers(instance, port));
    }
}
