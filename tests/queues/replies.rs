//! Answers to jobs that are being stored: their order, to whom they go, and what they promise.

use std::io::{ErrorKind, Read};
use std::net::SocketAddr;
use std::process::Command;

use nix::sys::signal::Signal;

use super::peers::{QueueFile, Worker, counted, job, shown, submit, text, words};
use crate::common::packet::{self, body};
use crate::common::{Program, Server, Wire, wait_for};
use crate::durable::Submission;
use crate::site::Site;

const FUNCTION: &str = "kept";

/// Holds a file locked, so that jobs cannot be stored.
struct Lock(Program);

impl Lock {
    #[track_caller]
    fn take(file: &QueueFile) -> Self {
        let mut sqlite = Program::start(Command::new("sqlite3").arg("-batch").arg(file.path()));
        sqlite.send_line(".timeout 5000");
        sqlite.send_line("BEGIN IMMEDIATE; SELECT 'locked';");
        sqlite.expect_line("locked");
        Self(sqlite)
    }

    #[track_caller]
    fn release(mut self) {
        self.0.send_line("COMMIT;");
        self.0.expect_end(&[]);
    }
}

/// A foreground job from beginning to end.
#[track_caller]
fn serve_a_job(address: SocketAddr) {
    let (mut client, mut worker) = (Wire::connect(address), Worker::connect(address, &["asked"]));
    client.send(packet::SUBMIT_JOB, &body(&[b"asked", b"", b"question"]));
    let handle = client.expect_type(packet::JOB_CREATED);
    assert_eq!(worker.work(1)[0].handle, handle);
    client.expect(packet::WORK_COMPLETE, &body(&[&handle, b"question"]));
}

/// That nothing has come.
#[track_caller]
fn expect_silence(wire: &Wire) {
    wire.stream().set_nonblocking(true).expect("O_NONBLOCK");
    let error = wire.stream().read(&mut [0]).expect_err("an answer that was to wait");
    assert_eq!(error.kind(), ErrorKind::WouldBlock);
    wire.stream().set_nonblocking(false).expect("no O_NONBLOCK");
}

/// One connection asks for this and that: what comes later waits for a job that is being stored, and for
/// others nothing does.
pub(crate) fn answers_keep_their_order() {
    const ROUNDS: usize = 50;
    let file = QueueFile::new();
    let server = Server::ours(&words(&file.options(&[])));
    let mut client = Wire::connect(server.addr());
    let lock = Lock::take(&file);
    let mut bytes = Vec::new();
    for round in 0..ROUNDS {
        let workload = format!("background {round}");
        bytes.extend(job(FUNCTION, "", workload.as_bytes()).request());
        bytes.extend(packet::request(packet::SUBMIT_JOB, &body(&[b"waited-for", b"", b"foreground"])));
        bytes.extend(packet::request(packet::ECHO_REQ, format!("echo {round}").as_bytes()));
        bytes.extend(packet::request(packet::GET_STATUS, format!("H:nobody:{round}").as_bytes()));
        bytes.extend(b"version\n");
        bytes.extend(job(FUNCTION, &format!("u{round}"), b"another").request());
    }
    client.send_raw(&bytes);
    serve_a_job(server.addr());
    expect_silence(&client);
    lock.release();
    let (mut background, mut waited_for) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        background.push(client.expect_type(packet::JOB_CREATED));
        waited_for.push(client.expect_type(packet::JOB_CREATED));
        client.expect(packet::ECHO_RES, format!("echo {round}").as_bytes());
        client.expect(packet::STATUS_RES, &body(&[format!("H:nobody:{round}").as_bytes(), b"0", b"0", b"0", b"0"]));
        assert!(client.text_line().starts_with("OK "));
        background.push(client.expect_type(packet::JOB_CREATED));
    }
    // The handles are those of the jobs, not of others.
    let done = Worker::connect(server.addr(), &[FUNCTION]).work(background.len());
    for (index, (done, handle)) in done.iter().zip(&background).enumerate() {
        let expected = if index % 2 == 0 { format!("background {}", index / 2) } else { "another".to_owned() };
        assert_eq!((text(&done.handle), text(&done.workload)), (text(handle), expected));
    }
    let mut worker = Worker::connect(server.addr(), &["waited-for"]);
    for handle in &waited_for {
        assert_eq!(worker.work(1)[0].handle, *handle);
        client.expect(packet::WORK_COMPLETE, &body(&[handle, b"foreground"]));
    }
}

/// A client that has closed its side is told of its jobs all the same.
pub(crate) fn a_half_closed_client_is_answered() {
    const JOBS: usize = 50;
    let file = QueueFile::new();
    let server = Server::ours(&words(&file.options(&[])));
    let mut client = Wire::connect(server.addr());
    let lock = Lock::take(&file);
    let jobs: Vec<Submission> = (0..JOBS).map(|serial| job(FUNCTION, &format!("u{serial}"), b"w")).collect();
    client.send_raw(&jobs.iter().flat_map(Submission::request).collect::<Vec<u8>>());
    client.finish_sending();
    serve_a_job(server.addr());
    expect_silence(&client);
    lock.release();
    let handles: Vec<_> = jobs.iter().map(|_| client.expect_type(packet::JOB_CREATED)).collect();
    client.expect_end();
    let done: Vec<_> =
        Worker::connect(server.addr(), &[FUNCTION]).work(JOBS).into_iter().map(|done| done.handle).collect();
    assert_eq!(done, handles);
}

pub(crate) fn every_durability_survives_a_kill() {
    const JOBS: usize = 100;
    for durability in ["always", "interval:50ms", "off"] {
        let file = QueueFile::new();
        let mut server = Server::ours(&words(&file.options(&["--durability", durability])));
        let address = server.addr();
        assert_eq!(shown(address, "durability"), durability);
        let syncs = counted(address, "syncs");
        let jobs: Vec<Submission> = (0..JOBS).map(|serial| job(FUNCTION, &format!("u{serial}"), b"w")).collect();
        let handles = submit(&mut Wire::connect(address), &jobs);
        match durability {
            // By itself, with nothing more to do.
            "interval:50ms" => wait_for("a sync", || (counted(address, "syncs") > syncs).then_some(())),
            "off" => assert_eq!(counted(address, "syncs"), syncs),
            _ => assert!(counted(address, "syncs") > syncs),
        }
        server.kill();
        server.restart();
        let mut worker = Worker::connect(address, &[FUNCTION]);
        let done: Vec<_> = worker.work(JOBS).into_iter().map(|done| done.handle).collect();
        assert_eq!(done, handles, "{durability}");
        worker.expect_no_job();
    }
}

/// Submits a job of this function. Returns how many syncs that took by the time it was acknowledged.
#[track_caller]
fn syncs_for(client: &mut Wire, address: SocketAddr, function: &str) -> u64 {
    let syncs = counted(address, "syncs");
    submit(client, &[job(function, "", b"w")]);
    counted(address, "syncs") - syncs
}

pub(crate) fn durability_of_a_function() {
    for (of_all, of_mail, all_syncs, mail_syncs) in [("off", "always", 0, 1), ("always", "off", 1, 0)] {
        let function = format!("mail={of_mail}");
        let server = Server::ours(&["--durability", of_all, "--function-durability", &function]);
        let (address, mut client) = (server.addr(), Wire::connect(server.addr()));
        assert_eq!(shown(address, "durability"), format!("{of_all}, mail {of_mail}"));
        for _ in 0..3 {
            assert_eq!(syncs_for(&mut client, address, "other"), all_syncs, "durability {of_all}");
            assert_eq!(syncs_for(&mut client, address, "mail"), mail_syncs, "mail {of_mail}");
        }
    }
}

/// HUP changes what a job is promised, and when it is kept.
pub(crate) fn durability_is_reloaded() {
    let site = Site::new();
    let (file, log) = (site.write("gearmand.toml", "durability = \"always\"\n"), site.name("log"));
    let mut command = site.gearmand(&["-p", "0", "-L", "127.0.0.1", "-l", &log, "--config-file", &file]);
    let mut server = site.start_command(&mut command);
    let (address, mut client) = (server.addr(), server.connect());
    let reload = |content: &str| {
        site.write("gearmand.toml", content);
        server.signal(Signal::SIGHUP);
        assert!(site.heard().starts_with("RELOADING=1\n"));
        site.await_ready();
    };
    assert_eq!(syncs_for(&mut client, address, FUNCTION), 1);
    reload("durability = \"off\"\n");
    assert_eq!(shown(address, "durability"), "off");
    assert_eq!(syncs_for(&mut client, address, FUNCTION), 0);
    // The ends of jobs need not be on the disk any more, either.
    let (syncs, removed) = (counted(address, "syncs"), counted(address, "removed"));
    Worker::connect(address, &[FUNCTION]).work(1);
    wait_for("a job that is removed", || (counted(address, "removed") > removed).then_some(()));
    assert_eq!(counted(address, "syncs"), syncs, "the end of a job was synced");
    reload("durability = \"interval:1h\"\n");
    assert_eq!(shown(address, "durability"), "interval:3600000ms");
    assert_eq!(syncs_for(&mut client, address, FUNCTION), 0);
    // What was kept before is on the disk within the new time.
    reload("durability = \"interval:50ms\"\nfunction-durability = [\"mail=always\"]\n");
    assert_eq!(shown(address, "durability"), "interval:50ms, mail always");
    wait_for("a sync", || (counted(address, "syncs") > syncs).then_some(()));
    let syncs = counted(address, "syncs");
    submit(&mut client, &[job(FUNCTION, "", b"w")]);
    wait_for("another sync", || (counted(address, "syncs") > syncs).then_some(()));
    assert!(syncs_for(&mut client, address, "mail") >= 1);
    server.terminate();
}
