//! Where the server listens, and with how many threads it serves.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::Stdio;
use std::sync::Mutex;

use crate::common::packet::{self, body};
use crate::common::{DEADLINE, Wire};
use crate::site::{GEARMAND, Site, assert_fails, text};

pub(crate) fn every_address_is_listened_on() {
    let site = Site::new();
    let listen = format!("unix:{}", site.name("socket"));
    let mut server = site.start(&["--listen", "::1", "-L", &listen]);
    let port = server.port();
    assert_eq!(server.addresses(), [format!("127.0.0.1:{port}"), format!("[::1]:{port}"), listen.clone()]);
    let pid = format!("OK {}\n", server.pid());
    for address in &server.addresses()[..2] {
        assert_eq!(Wire::connect(address.parse().unwrap()).text("getpid"), pid, "{address}");
    }
    assert_eq!(ask_unix(&site.path("socket"), "getpid"), pid);
    assert_eq!(fs::metadata(site.path("socket")).unwrap().permissions().mode() & 0o777, 0o660);
    for address in [&listen, &format!("[::1]:{port}"), &format!("127.0.0.1:{port}")] {
        let admin = site.run(&["admin", "-s", address, "getpid"]);
        assert!(admin.status.success(), "{}", text(&admin.stderr));
        assert!(text(&admin.stdout).contains(&server.pid().to_string()), "{address}: {}", text(&admin.stdout));
    }
    server.terminate();
    assert!(!site.path("socket").exists(), "the socket is still there");
}

fn ask_unix(path: &Path, line: &str) -> String {
    let mut stream = UnixStream::connect(path).expect("connect to the UNIX socket");
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream.write_all(format!("{line}\n").as_bytes()).unwrap();
    let mut answer = String::new();
    BufReader::new(stream).read_line(&mut answer).unwrap();
    answer
}

pub(crate) fn a_unix_socket_in_use_is_left_alone() {
    let site = Site::new();
    let listen = format!("unix:{}", site.name("socket"));
    let server = site.start(&["-L", &listen]);
    let second = site.run(&["-p", "0", "-l", "none", "-L", &listen]);
    assert_fails(&second, &[&listen, "another process answers there"]);
    assert_eq!(ask_unix(&site.path("socket"), "getpid"), format!("OK {}\n", server.pid()));
    drop(server);
    // Killed, it leaves a socket behind on which nobody answers.
    assert!(site.path("socket").exists());
    let third = site.start(&["-L", &listen]);
    assert_eq!(ask_unix(&site.path("socket"), "getpid"), format!("OK {}\n", third.pid()));
    let file = format!("unix:{}", site.write("file", "content"));
    assert_fails(&site.run(&["-p", "0", "-l", "none", "-L", &file]), &[&file, "not a socket"]);
    assert_eq!(site.read("file"), "content");
}

pub(crate) fn sockets_of_a_service_manager() {
    let site = Site::new();
    let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
    let unix = UnixListener::bind(site.path("socket")).unwrap();
    let expected = [tcp.local_addr().unwrap().to_string(), format!("unix:{}", site.name("socket"))];
    // The shell makes descriptors 3 and 4 of its standard input and output.
    let mut server = site.start_command(
        site.program("sh")
            .args(["-c", "LISTEN_PID=$$ LISTEN_FDS=2 exec \"$0\" \"$@\" 3<&0 4<&1 </dev/null >/dev/null", GEARMAND])
            // An address of its own, which it is not to take now.
            .args(["-L", "127.0.0.1", "-p", "1", "-l", &site.name("log")])
            .stdin(Stdio::from(OwnedFd::from(tcp.try_clone().unwrap())))
            .stdout(Stdio::from(OwnedFd::from(unix.try_clone().unwrap()))),
    );
    assert_eq!(server.addresses(), expected);
    let pid = format!("OK {}\n", server.pid());
    assert_eq!(server.connect().text("getpid"), pid);
    assert_eq!(ask_unix(&site.path("socket"), "getpid"), pid);
    server.terminate();
    assert!(site.path("socket").exists(), "the manager's socket is not ours to remove");
}

/// A service manager's listening socket stays while the server behind it is another: who connects meanwhile
/// waits.
pub(crate) fn a_restart_behind_the_socket_of_a_service_manager() {
    let site = Site::new();
    let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = tcp.local_addr().unwrap();
    let start = || {
        let exec = "LISTEN_PID=$$ LISTEN_FDS=1 exec \"$0\" \"$@\" 3<&0 </dev/null";
        let mut command = site.program("sh");
        command.args(["-c", exec, GEARMAND, "-l", &site.name("log")]);
        site.start_command(command.stdin(Stdio::from(OwnedFd::from(tcp.try_clone().unwrap()))))
    };
    let mut first = start();
    let mut client = Wire::connect(address);
    client.send(packet::SUBMIT_JOB_BG, &body(&[b"f", b"", b"kept"]));
    let handle = client.expect_type(packet::JOB_CREATED);
    first.terminate();
    assert_eq!(site.heard(), "STOPPING=1\n");
    client.expect_end();
    // Nobody serves, and nobody is refused.
    let mut worker = Wire::connect(address);
    worker.send(packet::CAN_DO, b"f");
    worker.send(packet::GRAB_JOB, b"");
    let mut second = start();
    assert_eq!(worker.expect_type(packet::JOB_ASSIGN), body(&[&handle, b"f", b"kept"]));
    second.terminate();
}

/// Clients and workers at the same time on a server with four threads: each job is done once, and each client
/// gets the results of its own jobs.
pub(crate) fn threads_do_each_job_once() {
    const CLIENTS: usize = 4;
    const WORKERS: usize = 4;
    const JOBS: usize = 500;
    let site = Site::new();
    let mut server = site.start(&["-t", "4"]);
    let done: Mutex<HashMap<Vec<u8>, usize>> = Mutex::default();
    std::thread::scope(|scope| {
        for _ in 0..WORKERS {
            scope.spawn(|| work(server.connect(), &done));
        }
        let clients: Vec<_> = (0..CLIENTS)
            .map(|client| {
                scope.spawn({
                    let wire = server.connect();
                    move || submit(wire, client, JOBS)
                })
            })
            .collect();
        let results: usize = clients.into_iter().map(|client| client.join().expect("a client")).sum();
        assert_eq!(results, CLIENTS * JOBS);
        // Each of them sends a worker home.
        let mut last = server.connect();
        for _ in 0..WORKERS {
            last.send(packet::SUBMIT_JOB_BG, &body(&[b"go home", b"", b""]));
            last.expect_type(packet::JOB_CREATED);
        }
    });
    let done = done.into_inner().unwrap();
    assert_eq!(done.len(), CLIENTS * JOBS, "jobs that were done");
    assert!(done.values().all(|times| *times == 1), "a job was done twice");
    server.terminate();
}

/// Does jobs until it is sent home.
fn work(mut worker: Wire, done: &Mutex<HashMap<Vec<u8>, usize>>) {
    worker.send(packet::CAN_DO, b"count");
    worker.send(packet::CAN_DO, b"go home");
    loop {
        worker.send(packet::GRAB_JOB, b"");
        match worker.recv() {
            (packet::JOB_ASSIGN, assigned) => {
                let mut arguments = assigned.splitn(3, |byte| *byte == 0);
                let [handle, function, workload] = [(); 3].map(|()| arguments.next().expect("an argument"));
                worker.send(packet::WORK_COMPLETE, &body(&[handle, workload]));
                if function == b"go home" {
                    return worker.expect_nothing();
                }
                *done.lock().unwrap().entry(workload.to_vec()).or_default() += 1;
            }
            (packet::NO_JOB, _) => {
                worker.send(packet::PRE_SLEEP, b"");
                worker.expect(packet::NOOP, b"");
            }
            (packet::NOOP, _) => {}
            other => panic!("{other:?}"),
        }
    }
}

/// Submits with a window and waits for the results; how many came.
fn submit(mut client: Wire, number: usize, jobs: usize) -> usize {
    let mut expected: HashSet<Vec<u8>> = HashSet::new();
    let (mut submitted, mut results) = (0, 0);
    while results < jobs {
        while submitted < jobs && submitted - results < 16 {
            let workload = format!("{number} {submitted}").into_bytes();
            client.send(packet::SUBMIT_JOB, &body(&[b"count", b"", &workload]));
            expected.insert(workload);
            submitted += 1;
        }
        match client.recv() {
            (packet::JOB_CREATED, _) => {}
            (packet::WORK_COMPLETE, result) => {
                let workload = result.splitn(2, |byte| *byte == 0).nth(1).expect("a result");
                assert!(expected.remove(workload), "not ours: {}", workload.escape_ascii());
                results += 1;
            }
            other => panic!("{other:?}"),
        }
    }
    results
}
