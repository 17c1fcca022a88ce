//! HUP, and what the service manager hears.

use std::fs;

use nix::sys::signal::Signal;
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;

use crate::common::packet::{self, body};
use crate::common::{Wire, wait_for};
use crate::site::{Daemon, Site};

/// Sends HUP and waits until it has been dealt with.
fn reload(site: &Site, server: &Daemon) {
    server.signal(Signal::SIGHUP);
    let reloading = site.heard();
    assert!(reloading.starts_with("RELOADING=1\nMONOTONIC_USEC="), "{reloading}");
    assert_eq!(site.await_ready(), server.addresses());
}

pub(crate) fn hangup_opens_the_log_anew() {
    let site = Site::new();
    let mut server = site.start(&[]);
    server.await_log("listening on");
    fs::rename(site.path("log"), site.path("log.1")).unwrap();
    reload(&site, &server);
    server.await_log("SIGHUP, reopening log file");
    server.terminate();
    assert!(site.read("log").ends_with("stopped\n"), "{}", site.read("log"));
    assert!(!site.read("log.1").contains("SIGHUP"), "{}", site.read("log.1"));
}

/// Whether one more background job is taken.
fn takes_a_job(client: &mut Wire) -> bool {
    client.send(packet::SUBMIT_JOB, &body(&[b"work", b"", b"workload"]));
    match client.recv() {
        (packet::JOB_CREATED, _) => true,
        (packet::ERROR, error) if error.starts_with(b"QUEUE_ERROR\0Job queue is full") => false,
        other => panic!("{other:?}"),
    }
}

fn start_with_file(site: &Site, content: &str) -> Daemon {
    let file = site.write("gearmand.toml", content);
    let log = site.name("log");
    site.start_command(&mut site.gearmand(&["-p", "0", "-L", "127.0.0.1", "-l", &log, "--config-file", &file]))
}

pub(crate) fn hangup_applies_changed_settings() {
    let site = Site::new();
    let mut server = start_with_file(&site, "max-jobs = 1\nverbose = \"NOTICE\"\nbacklog = 10\n");
    let mut client = server.connect();
    assert_eq!(client.text("verbose"), "OK NOTICE\n");
    assert_eq!([(); 2].map(|()| takes_a_job(&mut client)), [true, false]);
    site.write("gearmand.toml", "max-jobs = 3\nverbose = \"DEBUG\"\nbacklog = 20\nmax-connections = 1\n");
    reload(&site, &server);
    assert_eq!(client.text("verbose"), "OK DEBUG\n");
    assert_eq!([(); 3].map(|()| takes_a_job(&mut client)), [true, true, false]);
    server.connect().expect_error("COULD_NOT_CONNECT");
    for line in ["need a restart: ", "configuration reloaded: these settings changed: "] {
        server.await_log(line);
    }
    let log = site.read("log");
    let said = |words: &str, setting: &str| log.lines().any(|line| line.contains(words) && line.contains(setting));
    assert!(said("need a restart", "backlog"), "{log}");
    assert!(said("configuration reloaded: these settings changed: ", "max-jobs"), "{log}");
    assert!(!log.contains("no setting has changed"), "{log}");
    server.terminate();
    assert!(site.read("log").contains("SIGTERM received\n"), "{}", site.read("log"));
}

/// What is held in memory and how much may be is shown, and the limit is one of the settings that HUP
/// changes.
pub(crate) fn hangup_changes_the_limit_of_memory() {
    let site = Site::new();
    let mut server = start_with_file(&site, "max-memory = \"64MiB\"\nqueue-type = \"builtin\"\n");
    let mut client = server.connect();
    let mut shown = |key: &str| {
        let shown = client.text("show server");
        let value = shown.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('\t'));
        value.and_then(|value| value.parse::<u64>().ok()).unwrap_or_else(|| panic!("no {key}: {shown}"))
    };
    assert_eq!(shown("held_max_bytes"), 64 << 20);
    let mut submitter = server.connect();
    submitter.send(packet::SUBMIT_JOB_BG, &body(&[b"work", b"", &vec![b'w'; 30 << 20]]));
    submitter.expect_type(packet::JOB_CREATED);
    assert!((30 << 20..31 << 20).contains(&shown("held_jobs_bytes")), "{}", shown("held_jobs_bytes"));
    assert!((30 << 20..31 << 20).contains(&shown("held_bytes")), "a workload is counted once: {}", shown("held_bytes"));
    site.write("gearmand.toml", "max-memory = \"32MiB\"\nqueue-type = \"builtin\"\n");
    reload(&site, &server);
    assert_eq!(shown("held_max_bytes"), 32 << 20);
    submitter.send(packet::SUBMIT_JOB_BG, &body(&[b"work", b"", b"one more"]));
    let text = submitter.expect_error("QUEUE_ERROR");
    assert_eq!(text, "Job queue is full: memory limit reached (max-memory)");
    assert_eq!(shown("held_submissions_refused"), 1);
    // Workers go on, and what they end makes room.
    let mut worker = server.connect();
    worker.send(packet::CAN_DO, b"work");
    worker.send(packet::GRAB_JOB, b"");
    let assigned = worker.expect_type(packet::JOB_ASSIGN);
    let handle = assigned.split(|byte| *byte == 0).next().expect("a handle");
    worker.send(packet::WORK_COMPLETE, &body(&[handle, b""]));
    worker.expect_nothing();
    submitter.send(packet::SUBMIT_JOB_BG, &body(&[b"work", b"", b"one more"]));
    submitter.expect_type(packet::JOB_CREATED);
    assert!(shown("held_bytes") < 1 << 20, "{}", shown("held_bytes"));
    server.terminate();
}

/// Nothing that a reload opens waits for somebody else.
pub(crate) fn hangup_survives_a_file_that_is_a_fifo_now() {
    let site = Site::new();
    let mut server = start_with_file(&site, "max-jobs = 1\n");
    fs::remove_file(site.path("gearmand.toml")).unwrap();
    mkfifo(&site.path("gearmand.toml"), Mode::S_IRUSR | Mode::S_IWUSR).unwrap();
    reload(&site, &server);
    server.await_log("reload failed, keeping the running configuration: ");
    server.terminate();
}

pub(crate) fn hangup_survives_a_bad_file() {
    let site = Site::new();
    let mut server = start_with_file(&site, "max-jobs = 1\n");
    let mut client = server.connect();
    assert_eq!([(); 2].map(|()| takes_a_job(&mut client)), [true, false]);
    site.write("gearmand.toml", "max-jobs = 2\n\nmax-jbos = 3\n");
    reload(&site, &server);
    server.await_log("reload failed, keeping the running configuration: ");
    let log = site.read("log");
    assert!(log.contains("gearmand.toml:3"), "the line is not named: {log}");
    assert!(log.contains("max-jbos"), "{log}");
    assert!(!takes_a_job(&mut client), "half of the file was applied");
    fs::remove_file(site.path("gearmand.toml")).unwrap();
    reload(&site, &server);
    assert!(!takes_a_job(&mut client), "a missing file was applied");
    client.expect_nothing();
    server.terminate();
}

pub(crate) fn the_service_manager_is_told() {
    let site = Site::new();
    let mut server = site.start(&[]);
    reload(&site, &server);
    server.signal(Signal::SIGTERM);
    assert_eq!(site.heard(), "STOPPING=1\n");
    server.assert_ends_well();

    let mut server = site.start(&[]);
    let mut client = server.connect();
    assert!(takes_a_job(&mut client));
    server.signal(Signal::SIGUSR1);
    assert_eq!(site.heard(), "STATUS=Draining\n");
    server.signal(Signal::SIGTERM);
    assert_eq!(site.heard(), "STOPPING=1\n");
    server.assert_ends_well();

    // The watchdog is fed more often than asked, and also while the server waits for its last jobs.
    let mut command = site.gearmand(&["-p", "0", "-L", "127.0.0.1", "-l", "none"]);
    let mut server = site.start_command(command.env("WATCHDOG_USEC", "200000"));
    assert_eq!([(); 2].map(|()| site.heard()), ["WATCHDOG=1\n"; 2]);
    let mut client = server.connect();
    assert!(takes_a_job(&mut client));
    server.signal(Signal::SIGUSR1);
    wait_for("draining", || (site.heard() == "STATUS=Draining\n").then_some(()));
    assert_eq!([(); 2].map(|()| site.heard()), ["WATCHDOG=1\n"; 2]);
    server.signal(Signal::SIGTERM);
    wait_for("the end of it", || (site.heard() == "STOPPING=1\n").then_some(()));
    server.assert_ends_well();
}
