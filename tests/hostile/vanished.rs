//! Hosts that vanish: neither an end of stream nor a reset ever comes from them.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use nix::libc;
use nix::sched::{CloneFlags, unshare};
use socket2::SockRef;

use crate::common::packet::{self, body};
use crate::common::{DEADLINE, wait_for};
use crate::watched::{RETAINED_KIB, Watched};

/// Two workers hold a job each when their host vanishes, one of them while something is being sent to it.
/// Both jobs go to the next worker.
///
/// The network is one of its own, in which the server and the workers are; switching its only interface off
/// leaves both sides without a word of the other. The server is then watched through a UNIX socket.
pub(crate) fn gives_its_job_back() {
    std::thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace of its own");
        switch_loopback("up");
        in_own_network();
    })
    .join()
    .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
}

fn in_own_network() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("socket");
    let listen = format!("unix:{}", socket.display());
    // Seconds instead of the defaults' half a minute; that those are what sockets get is tested below.
    let keep_alive = ["--keepalive-idle", "1", "--keepalive-interval", "1", "--keepalive-count", "2"];
    let server = Watched::start(&[&["--listen", &listen, "--tcp-user-timeout", "3s"], &keep_alive[..]].concat());
    let mut silent = server.connect();
    let mut client = server.connect();
    let mut written_to = server.connect();
    for worker in [&mut silent, &mut written_to] {
        worker.send(packet::CAN_DO, b"precious");
        client.send(packet::SUBMIT_JOB_BG, &body(&[b"precious", b"", b"workload"]));
        client.expect_type(packet::JOB_CREATED);
        worker.send(packet::GRAB_JOB, b"");
        worker.expect_type(packet::JOB_ASSIGN);
    }
    let watcher = UnixStream::connect(&socket).unwrap();
    assert_eq!(status(&watcher), "precious\t2\t2\t2");
    // The network is gone before its answer is acknowledged, or before it is sent.
    written_to.send(packet::ECHO_REQ, &vec![b'e'; 1_000_000]);
    switch_loopback("down");
    // The client's connection is given up as well.
    wait_for("both jobs to be back", || (status(&watcher) == "precious\t2\t0\t0").then_some(()));
    wait_for("the end of all but the watcher", || (server.connections() == 1).then_some(()));
    do_a_job(&socket);
    do_a_job(&socket);
    wait_for("the end of the worker", || (status(&watcher) == "precious\t0\t0\t0").then_some(()));
    drop(watcher);
    switch_loopback("up");
    server.assert_recovered(RETAINED_KIB);
}

/// A client that does not read is not closed while its host answers, for longer than a dead host has. When
/// the host vanishes, it is.
pub(crate) fn busy_reader() {
    std::thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace of its own");
        switch_loopback("up");
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("socket");
        let listen = format!("unix:{}", socket.display());
        let keep_alive = ["--keepalive-idle", "1", "--keepalive-interval", "1", "--keepalive-count", "1"];
        let server = Watched::start(&[&["--listen", &listen, "--tcp-user-timeout", "2s"], &keep_alive[..]].concat());
        let mut busy = server.connect();
        // Of this much the kernel has room for the rest, and none of it is in the server's own memory.
        busy.send(packet::ECHO_REQ, &vec![b'e'; 1_000_000]);
        let mut large = server.connect();
        large.send(packet::ECHO_REQ, &vec![b'e'; 16_000_000]);
        // This is what they do meanwhile, and waits for nothing.
        std::thread::sleep(Duration::from_millis(3500));
        assert_eq!(server.connections(), 2, "a living peer was closed");
        assert_eq!(large.recv().1.len(), 16_000_000);
        switch_loopback("down");
        wait_for("the end of both", || (server.connections() == 0).then_some(()));
        switch_loopback("up");
    })
    .join()
    .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
}

fn switch_loopback(state: &str) {
    let switched = Command::new("ip").args(["link", "set", "lo", state]).status().expect("ip of iproute2");
    assert!(switched.success(), "ip link set lo {state}");
}

/// The line of `precious` in the answer to `status`.
fn status(mut watcher: &UnixStream) -> String {
    watcher.set_read_timeout(Some(DEADLINE)).unwrap();
    watcher.write_all(b"status\n").unwrap();
    let lines: Vec<String> =
        BufReader::new(watcher).lines().map(Result::unwrap).take_while(|line| line != ".").collect();
    lines.into_iter().find(|line| line.starts_with("precious")).expect("a line of this function")
}

/// Has one job done by our own worker.
fn do_a_job(socket: &Path) {
    let server = format!("unix:{}", socket.display());
    let worker = Command::new(env!("CARGO_BIN_EXE_gearmand"))
        .args(["work", "-s", &server, "-f", "precious", "--count", "1", "--", "true"])
        .output()
        .unwrap();
    assert!(worker.status.success(), "{}", String::from_utf8_lossy(&worker.stderr));
}

/// A default server's accepted sockets have the options by which a vanished host is noticed within a minute.
pub(crate) fn sockets_are_kept_alive_by_default() {
    let server = Watched::start(&[]);
    let mut wire = server.connect();
    wire.expect_nothing();
    let workers = wire.text("workers");
    let descriptor = workers.split(' ').next().and_then(|number| number.parse().ok()).expect("a descriptor");
    let copy = copy_of(server.server().pid(), descriptor);
    let socket = SockRef::from(&copy);
    assert_eq!(
        socket.peer_addr().unwrap().as_socket(),
        wire.stream().local_addr().ok(),
        "the server's end of this connection"
    );
    assert!(socket.tcp_nodelay().unwrap(), "TCP_NODELAY");
    assert!(socket.keepalive().unwrap(), "SO_KEEPALIVE");
    let (idle, interval) = (socket.tcp_keepalive_time().unwrap(), socket.tcp_keepalive_interval().unwrap());
    let probes = socket.tcp_keepalive_retries().unwrap();
    assert!((Duration::from_secs(10)..=Duration::from_secs(20)).contains(&idle), "{idle:?}");
    assert_eq!((interval, probes), (Duration::from_secs(2), 5));
    assert_eq!(socket.tcp_user_timeout().unwrap(), Some(Duration::from_secs(30)));
    drop(copy);
    drop(wire);
    server.assert_recovered(RETAINED_KIB);
}

/// A descriptor of ours for what `descriptor` is in the process `pid`, a child of ours.
#[allow(unsafe_code, reason = "no safe interface to these two system calls is among our dependencies")]
fn copy_of(pid: u32, descriptor: RawFd) -> OwnedFd {
    assert!(fs::exists(format!("/proc/{pid}/fd/{descriptor}")).unwrap(), "descriptor {descriptor}");
    // SAFETY: both calls take numbers and return a new descriptor, which nobody else owns, or -1.
    unsafe {
        let process = libc::syscall(libc::SYS_pidfd_open, pid, 0);
        assert!(process >= 0, "pidfd_open: {}", std::io::Error::last_os_error());
        let process = OwnedFd::from_raw_fd(RawFd::try_from(process).unwrap());
        let copy = libc::syscall(libc::SYS_pidfd_getfd, process.as_raw_fd(), descriptor, 0);
        assert!(copy >= 0, "pidfd_getfd: {}", std::io::Error::last_os_error());
        OwnedFd::from_raw_fd(RawFd::try_from(copy).unwrap())
    }
}
