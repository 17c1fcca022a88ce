//! The log: what is always in it, and what becomes of the server where nobody takes its lines.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::process::Stdio;

use nix::pty::openpty;
use nix::sys::signal::Signal;
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;

use crate::common::packet::{self, body};
use crate::common::{DEADLINE, Wire, wait_for};
use crate::site::{Daemon, Site};

/// More lines than may wait for the log's thread, and than a pipe takes.
const MANY: usize = 30_000;

/// A background job for each number.
fn submit(wire: &mut Wire, count: usize) {
    for number in 0..count {
        wire.send(packet::SUBMIT_JOB_BG, &body(&[b"f", number.to_string().as_bytes(), b""]));
        if number % 1000 == 999 || number + 1 == count {
            for _ in 0..=number % 1000 {
                wire.expect_type(packet::JOB_CREATED);
            }
        }
    }
}

/// The address of HTTP.
fn http(server: &Daemon) -> SocketAddr {
    let address = server.addresses().iter().find_map(|address| address.strip_prefix("http://")).expect("an address");
    address.parse().expect("an address")
}

/// The answer to a GET, head and all.
fn get(address: SocketAddr, path: &str) -> String {
    let mut stream = TcpStream::connect_timeout(&address, DEADLINE).expect("connect");
    stream.set_read_timeout(Some(DEADLINE)).expect("SO_RCVTIMEO");
    write!(stream, "GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").expect("send");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    answer
}

/// That it serves, is well, knows what it has left out, and ends when it is told to.
#[track_caller]
fn assert_serves_and_ends(site: &Site, server: &mut Daemon) {
    submit(&mut server.connect(), MANY);
    assert!(get(http(server), "/healthz").starts_with("HTTP/1.1 200 "));
    let metrics = get(http(server), "/metrics");
    let line = metrics.lines().find_map(|line| line.strip_prefix("gearmand_log_lines_left_out_total "));
    assert!(line.expect("the metric").trim().parse::<u64>().expect("a number") > 0, "nothing was left out");
    server.signal(Signal::SIGHUP);
    assert!(site.heard().starts_with("RELOADING=1\n"));
    site.await_ready();
    server.connect().expect_nothing();
    server.terminate();
}

const OPTIONS: [&str; 9] =
    ["-p", "0", "-L", "127.0.0.1", "-q", "builtin", "--log-submissions", "--http-listen", "127.0.0.1:0"];

pub(crate) fn a_pipe_that_nobody_reads() {
    let site = Site::new();
    let (unread, stderr) = std::io::pipe().expect("a pipe");
    let mut command = site.gearmand(&OPTIONS);
    command.args(["-l", "stderr"]).stderr(stderr);
    let mut server = site.start_command(&mut command);
    drop(command);
    assert_serves_and_ends(&site, &mut server);
    drop(unread);
}

pub(crate) fn a_fifo_that_nobody_reads() {
    let site = Site::new();
    let fifo = site.name("fifo");
    mkfifo(fifo.as_str(), Mode::S_IRUSR | Mode::S_IWUSR).expect("a FIFO");
    let mut server = site.start_command(site.gearmand(&OPTIONS).args(["-l", &fifo]).stderr(Stdio::null()));
    assert_serves_and_ends(&site, &mut server);
}

/// The lines of the log without what stands before their text.
fn texts(log: &str) -> Vec<&str> {
    log.lines().filter_map(|line| Some(line.split_once(" ] ")?.1)).collect()
}

pub(crate) fn what_is_always_written() {
    let site = Site::new();
    let log = site.name("log");
    let arguments = ["-p", "0", "-L", "127.0.0.1", "-l", &log, "--http-listen", "127.0.0.1:0"];
    let mut server = site.start_command(&mut site.gearmand(&arguments));
    // At the level that C++ gearmand has by default.
    assert_eq!(server.connect().text("verbose"), "OK ERROR\n");
    submit(&mut server.connect(), 1);
    server.signal(Signal::SIGHUP);
    assert!(site.heard().starts_with("RELOADING=1\n"));
    site.await_ready();
    server.signal(Signal::SIGUSR1);
    server.assert_ends_well();
    let said = site.read("log");
    let listening = format!("gearmand {} listening on {}", env!("CARGO_PKG_VERSION"), server.addresses().join(", "));
    let said = texts(&said);
    let kept = said.iter().position(|line| line.starts_with("background jobs are kept in SQLite file "));
    assert!(kept.is_some_and(|place| said[place].ends_with(", durability always; 0 jobs restored")), "{said:?}");
    assert_eq!(
        said[kept.unwrap() + 1..],
        [
            &listening[..],
            "SIGHUP, reopening log file",
            "configuration reloaded: no setting has changed",
            "SIGUSR1 received",
            "draining: new jobs and connections are rejected; jobs to wait for (running, or in memory only): 0",
            "stopping; 1 jobs are kept for the next start",
            "stopped"
        ]
    );
}

pub(crate) fn submissions_are_written_where_that_is_wanted() {
    let site = Site::new();
    let mut server = site.start(&["--verbose", "ERROR", "--log-submissions", "--max-jobs", "1"]);
    let mut wire = server.connect();
    wire.send(packet::SUBMIT_JOB_BG, &body(&[b"f", b"one", b""]));
    wire.expect_type(packet::JOB_CREATED);
    // The same once more, and one that is refused.
    wire.send(packet::SUBMIT_JOB_HIGH_BG, &body(&[b"f", b"one", b""]));
    wire.expect_type(packet::JOB_CREATED);
    wire.send(packet::SUBMIT_JOB_BG, &body(&[b"f", b"two", b""]));
    wire.expect_error("QUEUE_ERROR");
    server.terminate();
    let log = site.read("log");
    let accepted: Vec<&str> = texts(&log).into_iter().filter(|line| line.starts_with("accepted,")).collect();
    assert_eq!(accepted, ["accepted,f,one,0"; 2], "{log}");
}

/// A server in the foreground says on its terminal what is always written, wherever its log is.
pub(crate) fn a_terminal_sees_what_is_always_written() {
    let site = Site::new();
    let terminal = openpty(None, None).expect("a terminal");
    let mut command = site.gearmand(&["-p", "0", "-L", "127.0.0.1", "-l", &site.name("log")]);
    command.stderr(terminal.slave);
    let mut server = site.start_command(&mut command);
    drop(command);
    submit(&mut server.connect(), 1);
    server.terminate();
    let seen = read_terminal(terminal.master);
    assert_eq!(seen.replace('\r', ""), site.read("log"));
    assert!(seen.contains(" listening on ") && seen.trim_end().ends_with("stopped"), "{seen}");
}

/// All that was written to a terminal that nobody has open any more.
fn read_terminal(master: OwnedFd) -> String {
    let mut seen = Vec::new();
    // It ends with an error.
    let _ = File::from(master).read_to_end(&mut seen);
    String::from_utf8(seen).expect("text")
}

/// HUP may come as soon as the pid file tells whom to send it to.
pub(crate) fn a_hangup_as_soon_as_there_is_a_pid_file() {
    for _ in 0..20 {
        let site = Site::new();
        let (log, pid_file) = (site.name("log"), site.name("pid"));
        let arguments = ["-p", "0", "-L", "127.0.0.1", "-q", "builtin", "-l", &log, "-P", &pid_file];
        let mut child = site.gearmand(&arguments).spawn().expect("start the program");
        let start = std::time::Instant::now();
        while fs::read_to_string(&pid_file).unwrap_or_default().trim().is_empty() {
            assert!(start.elapsed() < DEADLINE, "no pid file");
        }
        crate::site::signal_to(child.id(), Signal::SIGHUP);
        site.await_ready();
        assert!(site.heard().starts_with("RELOADING=1\n"));
        site.await_ready();
        crate::site::signal_to(child.id(), Signal::SIGTERM);
        let status = wait_for("its end", || child.try_wait().expect("wait for it"));
        assert!(status.success(), "it ended with {status}");
        assert!(site.read("log").contains("SIGHUP, reopening log file"), "{}", site.read("log"));
    }
}
