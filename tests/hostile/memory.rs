//! Peers that together make the server hold more than it has: it stays within its limit, honest peers are
//! served meanwhile, and afterwards the memory comes back.
//!
//! Each attack is made on a server with a small limit, and once more on one with default settings in a small
//! control group. With `HOSTILE_FULL=1` sizes are those of a real attack: no limit is set, or the control
//! group has 512 MiB.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use socket2::SockRef;

use crate::common::packet::{self, body, request};
use crate::common::{DEADLINE, Wire, free_port, wait_for};
use crate::group::Group;
use crate::watched::Watched;

const MIB: usize = 1 << 20;
/// What a server takes beside what it holds: code, caches of the store, free memory between blocks in use.
const BESIDE_KIB: u64 = 32 * 1024;
/// What may be left of an attack, in KiB: the least surplus that the server gives back, and free memory at
/// the end of the heap.
const LEFT_KIB: u64 = 56 * 1024;
/// Within this time the memory comes back.
const COMES_BACK: Duration = Duration::from_secs(10);
/// What an honest peer may wait for a round of everything while an attack goes on. Tests share the machine.
const LONGEST_ROUND: Duration = Duration::from_secs(10);

fn is_full() -> bool {
    std::env::var_os("HOSTILE_FULL").is_some()
}

/// `small` in ordinary runs, `full` where that is asked for.
fn sized<T>(small: T, full: T) -> T {
    if is_full() { full } else { small }
}

/// What is attacked.
struct Stage {
    server: Watched,
    /// What it may hold, in KiB.
    limit_kib: u64,
    /// Whether the attack may take the memory of all connections that could still come.
    refuses_visitors: bool,
    // Behind the server, which must end first.
    group: Option<Group>,
}

impl Stage {
    /// A server with a limit of its own.
    fn limited(arguments: &[&str]) -> Self {
        let server = Watched::start(&[&["--max-memory", "128MiB"], arguments].concat());
        Self { server, limit_kib: 128 * 1024, refuses_visitors: false, group: None }
    }

    /// A server with default settings in a control group.
    fn grouped(arguments: &[&str]) -> Self {
        let bytes = sized(192, 512) << 20;
        let group = Group::new(bytes).expect("a control group");
        let server = Watched::start_in(&group, arguments);
        Self { server, limit_kib: bytes / 1024 / 3 * 2, refuses_visitors: false, group: Some(group) }
    }

    /// Lets `attack` go on while honest peers are served, then takes the attackers away and waits for the
    /// memory.
    fn withstand<T>(&self, attack: impl FnOnce(&Watched) -> T, clean: impl FnOnce(&Watched)) {
        let server = &self.server;
        server.reset_peak();
        let ends = AtomicBool::new(false);
        let (attackers, (rounds, longest)) = thread::scope(|scope| {
            let honest = scope.spawn(|| be_honest(server, self.refuses_visitors, &ends));
            // Served to the end also where the attack fails.
            let end = End(&ends);
            let attackers = attack(server);
            drop(end);
            (attackers, honest.join().expect("an honest peer was not served"))
        });
        let (peak, allowed) = (server.peak_kib(), self.limit_kib + BESIDE_KIB);
        let of_group = self.group.as_ref().map(Group::peak_kib);
        eprintln!("peak {peak} KiB (group: {of_group:?}), {rounds} honest rounds, the longest {longest:?}");
        assert!(peak <= allowed, "a peak of {peak} KiB; {allowed} are allowed");
        assert!(rounds > 0 && longest < LONGEST_ROUND, "{rounds} honest rounds, the longest {longest:?}");
        clean(server);
        let left = Instant::now();
        drop(attackers);
        wait_for("the memory", || (server.grown_kib() < LEFT_KIB).then_some(()));
        let took = left.elapsed();
        eprintln!("{} KiB left after {took:?}", server.grown_kib());
        assert!(took < COMES_BACK, "it took {took:?} for the memory to come back");
        server.await_departures();
        server.serve_a_job();
    }
}

struct End<'a>(&'a AtomicBool);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Peers that connect, work, ask for little and read it. Returns how often all of that was done, and the
/// longest time it took.
fn be_honest(server: &Watched, refuses_visitors: bool, ends: &AtomicBool) -> (usize, Duration) {
    let (mut rounds, mut longest) = (0, Duration::ZERO);
    let (mut client, mut worker) = (server.connect(), server.connect());
    worker.send(packet::CAN_DO, b"honest");
    loop {
        let is_last = ends.load(Ordering::Relaxed);
        let start = Instant::now();
        client.send(packet::SUBMIT_JOB, &body(&[b"honest", b"", b"workload"]));
        match client.recv() {
            (packet::JOB_CREATED, handle) => {
                worker.send(packet::GRAB_JOB, b"");
                worker.expect_type(packet::JOB_ASSIGN);
                worker.send(packet::WORK_COMPLETE, &body(&[&handle, &vec![b'r'; 40_000]]));
                client.expect_type(packet::WORK_COMPLETE);
            }
            // There is a place for everything but more jobs.
            (packet::ERROR, error) => assert!(error.starts_with(b"QUEUE_ERROR\0"), "{}", error.escape_ascii()),
            other => panic!("{other:?}"),
        }
        let mut visitor = server.connect();
        visitor.send(packet::ECHO_REQ, &vec![b'e'; 20_000]);
        match visitor.recv() {
            (packet::ECHO_RES, _) => visit(&mut visitor),
            (packet::ERROR, error) if refuses_visitors => {
                assert!(error.starts_with(b"COULD_NOT_CONNECT\0Memory limit reached"), "{}", error.escape_ascii());
                assert!(client.text("status").ends_with(".\n"));
            }
            other => panic!("{other:?}"),
        }
        rounds += 1;
        longest = longest.max(start.elapsed());
        if is_last {
            return (rounds, longest);
        }
        // The pace of honest peers; nothing is waited for.
        thread::sleep(Duration::from_millis(10));
    }
}

/// One who is there for a moment, and offers and asks for little.
fn visit(visitor: &mut Wire) {
    visitor.send(packet::CAN_DO, b"another");
    visitor.send(packet::GRAB_JOB, b"");
    visitor.expect(packet::NO_JOB, b"");
    assert!(visitor.text("status").ends_with(".\n"));
}

/// An attacker, which swallows little by itself.
fn attacker(server: &Watched) -> TcpStream {
    let stream = TcpStream::connect(server.addr()).expect("connect");
    SockRef::from(&stream).set_recv_buffer_size(64 * 1024).expect("SO_RCVBUF");
    // So long the server reads nothing of one that it has stopped reading from; then its thread has seen
    // enough.
    stream.set_write_timeout(Some(Duration::from_secs(3))).expect("SO_SNDTIMEO");
    stream
}

/// Each of the attackers sends its bytes so many times, until the server reads no more or ends it.
fn send_all(streams: &[TcpStream], bytes: &[u8], times: usize) {
    thread::scope(|scope| {
        for mut stream in streams {
            scope.spawn(move || (0..times).all(|_| stream.write_all(bytes).is_ok()));
        }
    });
}

/// Each of the attackers sends no more, and reads what it is still sent: after that the server has worked off
/// all that it was asked.
fn read_to_end(streams: &[TcpStream]) {
    thread::scope(|scope| {
        for mut stream in streams {
            scope.spawn(move || {
                // Fails where the server has closed the connection.
                let _ = stream.shutdown(Shutdown::Write);
                let _ = std::io::copy(&mut stream, &mut std::io::sink());
            });
        }
    });
}

/// A number of `show server`.
fn shown(server: &Watched, key: &str) -> u64 {
    let shown = server.connect().text("show server");
    let value = shown.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('\t'));
    value.and_then(|value| value.parse().ok()).unwrap_or_else(|| panic!("no {key} in {shown}"))
}

fn await_closed(server: &Watched, count: u64) {
    wait_for("connections to be closed", || (shown(server, "held_connections_closed") >= count).then_some(()));
}

/// A job for which many wait, and data for it that nobody reads.
fn send_data_to_many(server: &Watched, waits: usize) -> Vec<TcpStream> {
    const DATA: usize = 8_000;
    let mut worker = server.connect();
    worker.send(packet::CAN_DO, b"cast");
    let submissions = request(packet::SUBMIT_JOB, &body(&[b"cast", b"same", b""])).repeat(1000);
    let clients: Vec<TcpStream> = (0..4).map(|_| attacker(server)).collect();
    thread::scope(|scope| {
        let submissions = &submissions;
        for client in &clients {
            // There may be fewer waits than are asked for: one gets an ERROR for what is too much.
            scope.spawn(move || {
                let mut read = [0; 8192];
                let mut client: &TcpStream = client;
                client.set_read_timeout(Some(DEADLINE)).expect("SO_RCVTIMEO");
                for _ in 0..waits / 1000 {
                    client.write_all(submissions).expect("the submissions are read");
                    // About as many answers, so that it is read from.
                    let mut left = 1000 * packet::HEADER_SIZE;
                    while left > 0 {
                        left -= client.read(&mut read).expect("an answer").min(left);
                    }
                }
            });
        }
    });
    worker.send(packet::GRAB_JOB, b"");
    let assigned = worker.expect_type(packet::JOB_ASSIGN);
    let handle = assigned.split(|byte| *byte == 0).next().expect("a handle").to_vec();
    for _ in 0..3 {
        worker.send(packet::WORK_DATA, &body(&[&handle, &[b'd'; DATA]]));
        worker.expect_nothing();
    }
    worker.send(packet::WORK_COMPLETE, &body(&[&handle, b""]));
    worker.expect_nothing();
    clients
}

/// One WORK_DATA of 8 kB for 4 x 100,000 waits: 3.2 GB, as it was.
pub(crate) fn data_for_many_waits() {
    Stage::limited(&[]).withstand(|server| send_data_to_many(server, sized(10_000, 100_000)), |_| {});
}

pub(crate) fn group_data_for_many_waits() {
    Stage::grouped(&[]).withstand(|server| send_data_to_many(server, sized(10_000, 100_000)), |_| {});
}

/// Packets of which the end never comes.
fn send_no_end(server: &Watched, size: usize) -> Vec<TcpStream> {
    let attackers: Vec<TcpStream> = (0..40).map(|_| attacker(server)).collect();
    let announced = u32::try_from(64 * MIB).expect("a length");
    let head = [&b"\0REQ"[..], &packet::ECHO_REQ.to_be_bytes(), &announced.to_be_bytes()].concat();
    send_all(&attackers, &[head, vec![b'p'; size]].concat(), 1);
    await_closed(server, 10);
    // There is room for an honest one.
    let mut upload = server.connect();
    upload.send(packet::ECHO_REQ, &vec![b'u'; 4 * MIB]);
    upload.expect_type(packet::ECHO_RES);
    attackers
}

/// 40 x 63 MiB of packets that do not end.
pub(crate) fn packets_that_do_not_end() {
    Stage::limited(&[]).withstand(|server| send_no_end(server, sized(16 * MIB, 63 * MIB)), |_| {});
}

pub(crate) fn group_packets_that_do_not_end() {
    Stage::grouped(&[]).withstand(|server| send_no_end(server, sized(20 * MIB, 63 * MIB)), |_| {});
}

/// Echoes that nobody reads, or that are read at this many bytes a second.
fn send_echoes(server: &Watched, a_second: usize) -> Vec<TcpStream> {
    let attackers: Vec<TcpStream> = (0..40).map(|_| attacker(server)).collect();
    let ends = AtomicBool::new(false);
    thread::scope(|scope| {
        let ends = &ends;
        for mut attacker in attackers.iter().filter(|_| a_second > 0) {
            scope.spawn(move || {
                let mut piece = vec![0; a_second / 20];
                attacker.set_read_timeout(Some(Duration::from_millis(50))).expect("SO_RCVTIMEO");
                while !ends.load(Ordering::Relaxed) {
                    let _ = attacker.read(&mut piece);
                    // A slow reader; nothing is waited for.
                    thread::sleep(Duration::from_millis(50));
                }
            });
        }
        let end = End(ends);
        send_all(&attackers, &request(packet::ECHO_REQ, &vec![b'e'; MIB]), 200);
        await_closed(server, 10);
        drop(end);
    });
    attackers
}

/// 40 connections of echoes unread.
pub(crate) fn echoes_unread() {
    Stage::limited(&[]).withstand(|server| send_echoes(server, 0), |_| {});
}

/// The same, read at 2 kB/s.
pub(crate) fn echoes_read_slowly() {
    Stage::limited(&[]).withstand(|server| send_echoes(server, 2_000), |_| {});
}

pub(crate) fn group_echoes_unread() {
    Stage::grouped(&[]).withstand(|server| send_echoes(server, 0), |_| {});
}

/// A living client that pauses with a MiB waiting for it is kept, however much others hold.
pub(crate) fn a_pause() {
    let stage = Stage::limited(&[]);
    stage.withstand(
        |server| {
            let mut pausing = server.connect();
            SockRef::from(pausing.stream()).set_recv_buffer_size(64 * 1024).expect("SO_RCVBUF");
            pausing.send(packet::ECHO_REQ, &vec![b'p'; MIB - 4096]);
            let attackers = send_echoes(server, 0);
            assert_eq!(pausing.expect_type(packet::ECHO_RES).len(), MIB - 4096);
            attackers
        },
        |_| {},
    );
}

/// Background jobs without a workload, until they are refused. Returns how many were taken.
fn submit_without_end(server: &Watched, enough: usize) -> (TcpStream, usize) {
    let client = TcpStream::connect(server.addr()).expect("connect");
    let taken = AtomicUsize::new(0);
    let refused = AtomicUsize::new(0);
    thread::scope(|scope| {
        scope.spawn(|| {
            let submissions = request(packet::SUBMIT_JOB_BG, &body(&[b"many", b"", b""])).repeat(1000);
            let mut client = &client;
            let mut left = enough;
            while refused.load(Ordering::Relaxed) == 0 && left > 0 && client.write_all(&submissions).is_ok() {
                left -= 1000;
            }
            client.shutdown(Shutdown::Write).expect("half-close");
        });
        let mut reader = std::io::BufReader::with_capacity(MIB, &client);
        let mut header = [0; 12];
        while reader.read_exact(&mut header).is_ok() {
            let length = u32::from_be_bytes([header[8], header[9], header[10], header[11]]);
            let mut answer = vec![0; length as usize];
            reader.read_exact(&mut answer).expect("an answer");
            if u32::from(header[7]) == packet::JOB_CREATED {
                taken.fetch_add(1, Ordering::Relaxed);
            } else {
                assert!(answer.starts_with(b"QUEUE_ERROR\0"), "{}", answer.escape_ascii());
                refused.fetch_add(1, Ordering::Relaxed);
            }
        }
    });
    assert!(refused.into_inner() > 0, "{enough} jobs were taken");
    (client, taken.into_inner())
}

fn submit_to_memory(server: &Watched) {
    let (_client, taken) = submit_without_end(server, 100_000_000);
    eprintln!("{taken} jobs were taken");
    assert!(taken > 100_000, "only {taken} jobs were taken");
    // Workers go on.
    let mut worker = server.connect();
    worker.send(packet::CAN_DO, b"many");
    for _ in 0..1000 {
        worker.send(packet::GRAB_JOB, b"");
        let assigned = worker.expect_type(packet::JOB_ASSIGN);
        let handle = assigned.split(|byte| *byte == 0).next().expect("a handle").to_vec();
        worker.send(packet::WORK_COMPLETE, &body(&[&handle, b""]));
    }
}

/// What frees the memory is the end of the jobs.
fn cancel_all(server: &Watched) {
    cancel_all_by(server.connect());
}

fn cancel_all_by(mut operator: Wire) {
    operator.send_raw(b"cancel jobs many\n");
    let answer = operator.text_line();
    assert!(answer.starts_with("OK "), "{answer}");
}

/// 100,000,000 background jobs without a workload, in memory.
pub(crate) fn jobs_without_workloads() {
    Stage::limited(&["-q", "builtin"]).withstand(submit_to_memory, cancel_all);
}

pub(crate) fn group_jobs_without_workloads() {
    Stage::grouped(&["-q", "builtin"]).withstand(submit_to_memory, cancel_all);
}

/// Jobs until they are refused, and then peers that each can do as many functions as are never refused to one
/// alone, and leave a part of a packet.
fn connect_many(server: &Watched, connections: usize) -> (TcpStream, Vec<TcpStream>) {
    let (client, taken) = submit_without_end(server, 100_000_000);
    eprintln!("{taken} jobs were taken");
    let mut bytes: Vec<u8> = Vec::new();
    for index in 0..99 {
        bytes.extend(request(packet::CAN_DO, format!("common-{index}").as_bytes()));
    }
    let announced = 30_000_u32;
    bytes.extend([&b"\0REQ"[..], &packet::ECHO_REQ.to_be_bytes(), &announced.to_be_bytes(), &[b'p'; 3_800]].concat());
    let attackers = (0..connections).map(|_| {
        let stream = TcpStream::connect(server.addr()).expect("connect");
        // It may have been closed because memory is short.
        let _ = (&stream).write_all(&bytes);
        stream
    });
    (client, attackers.collect())
}

/// Connections, their functions and what is kept of their packets are bounded where jobs take what they may.
pub(crate) fn group_many_workers_beside_jobs() {
    let connections = sized(6_000, 18_000);
    let stage = Stage { refuses_visitors: true, ..Stage::grouped(&["-q", "builtin"]) };
    let operator = stage.server.connect();
    stage.withstand(|server| connect_many(server, connections), move |_| cancel_all_by(operator));
}

/// A Redis that can be made to hang.
struct Redis {
    child: std::process::Child,
    port: String,
}

impl Redis {
    fn start() -> Self {
        let port = free_port();
        let mut command = std::process::Command::new("redis-server");
        command.args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]);
        let child = command.stdout(std::process::Stdio::null()).spawn();
        let child = child.expect("redis-server is missing: run tests/install-peers.sh");
        let redis = Self { child, port: port.to_string() };
        wait_for("Redis", || TcpStream::connect(SocketAddr::from(([127, 0, 0, 1], port))).ok());
        redis
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(i32::try_from(self.child.id()).expect("a process id")), signal).expect("a signal");
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn submit_to_a_store_that_hangs(stage: impl FnOnce(&[&str]) -> Stage) {
    let redis = Redis::start();
    let stage = stage(&["-q", "redis", "--redis-server", "127.0.0.1", "--redis-port", &redis.port]);
    stage.withstand(
        |server| {
            redis.signal(Signal::SIGSTOP);
            // The answers come when the store is given up.
            let clients: Vec<TcpStream> = (0..8).map(|_| attacker(server)).collect();
            let submissions = request(packet::SUBMIT_JOB_BG, &body(&[b"many", b"", b""])).repeat(1000);
            send_all(&clients, &submissions, sized(50, 5_000));
            redis.signal(Signal::SIGCONT);
            read_to_end(&clients);
            clients
        },
        |server| {
            // It works off what it was asked meanwhile, which takes a loaded machine longer than anything
            // else here.
            let end = Instant::now() + 6 * DEADLINE;
            while shown(server, "store_waiting") > 0 {
                assert!(Instant::now() < end, "the store does not come to an end");
                thread::sleep(Duration::from_millis(50));
            }
            cancel_all(server);
        },
    );
}

/// The same for a durable store that does not answer.
pub(crate) fn jobs_for_a_store_that_hangs() {
    submit_to_a_store_that_hangs(Stage::limited);
}

pub(crate) fn group_jobs_for_a_store_that_hangs() {
    submit_to_a_store_that_hangs(Stage::grouped);
}

fn read_no_results(stage: &Stage, size: usize) {
    const PEERS: usize = 20;
    let http: SocketAddr = wait_for("the address of the plugin", || {
        let log = stage.server.server().log();
        let (line, _) = log.split_once("HTTP plugin listening on ")?.1.split_once('\n')?;
        Some(line.split_whitespace().next().and_then(|word| word.parse().ok()).expect("an address"))
    });
    stage.withstand(
        |server| {
            let peers: Vec<TcpStream> = (0..PEERS)
                .map(|_| {
                    let mut peer = TcpStream::connect(http).expect("connect");
                    SockRef::from(&peer).set_recv_buffer_size(64 * 1024).expect("SO_RCVBUF");
                    peer.write_all(b"POST /large HTTP/1.0\r\nContent-Length: 0\r\n\r\n").expect("send");
                    peer
                })
                .collect();
            let result = vec![b'r'; size];
            let mut worker = server.connect();
            worker.send(packet::CAN_DO, b"large");
            let mut ended = 0;
            while ended < PEERS && shown(server, "held_connections_closed") < 5 {
                worker.send(packet::GRAB_JOB, b"");
                let (packet_type, assigned) = worker.recv();
                if packet_type == packet::NO_JOB {
                    continue;
                }
                let handle = assigned.split(|byte| *byte == 0).next().expect("a handle").to_vec();
                worker.send(packet::WORK_COMPLETE, &body(&[&handle, &result]));
                worker.expect_nothing();
                ended += 1;
            }
            peers
        },
        |_| {},
    );
}

const PLUGIN: [&str; 8] = ["-r", "http", "--http-port", "0", "--verbose", "NOTICE", "-q", "builtin"];

/// 20 results of 60 MiB unread over the HTTP plugin.
pub(crate) fn results_unread_over_http() {
    read_no_results(&Stage::limited(&[&PLUGIN[..], &["--max-packet-size", "8MiB"]].concat()), 6 * MIB);
}

pub(crate) fn group_results_unread_over_http() {
    let small = [&PLUGIN[..], &["--max-packet-size", "16MiB"]].concat();
    let arguments = sized(&small[..], &PLUGIN[..]);
    read_no_results(&Stage::grouped(arguments), sized(15, 60) * MIB);
}
