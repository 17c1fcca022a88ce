//! A server whose memory, descriptors and CPU time are watched from outside.

use std::collections::HashSet;
use std::fs;
use std::net::SocketAddr;
use std::time::Duration;

use crate::common::{CONTROL_GROUP, Server, Wire, packet, wait_for};
use crate::group::Group;

/// The most CPU time that a server without work may use in a second.
const IDLE_CPU: Duration = Duration::from_millis(10);
/// What a recovered server may keep above what it began with, in KiB, where a test does not say otherwise.
///
/// It covers what the allocator does not give back between two live allocations, and tables that have grown.
/// A leak of 100 bytes for each connection or job of the smallest crowd would not fit in.
pub(crate) const RETAINED_KIB: u64 = 3 * 1024;

/// What it may keep besides after it had buffers of a MiB and more: so much free memory the allocator leaves
/// at the end of the heap, by a threshold that the server sets.
pub(crate) const HEAP_KIB: u64 = 8 * 1024;
/// What another attack may add to what those before have left, in KiB: the pages in use lie elsewhere than
/// before.
const GROWTH_KIB: u64 = 768;
/// So many attacks may each leave more than those before, where it is up to the scheduler how much the server
/// has at a time.
const ATTACKS: usize = 4;
/// So many seconds a server may take to come to rest: what is tidied up later makes the first ones busy.
const SECONDS_TO_REST: usize = 5;

/// The server under attack.
pub(crate) struct Watched {
    server: Server,
    anonymous_kib: u64,
    /// Sockets that are no connections.
    sockets: usize,
}

impl Watched {
    /// Starts our server, lets it do some work, and takes note of what it uses then.
    #[track_caller]
    pub(crate) fn start(arguments: &[&str]) -> Self {
        Self::of(Server::ours(arguments))
    }

    /// The same, in a control group.
    #[track_caller]
    pub(crate) fn start_in(group: &Group, arguments: &[&str]) -> Self {
        let directory = group.directory().display().to_string();
        Self::of(Server::ours_with(arguments, &[(CONTROL_GROUP.to_owned(), directory)]))
    }

    #[track_caller]
    fn of(server: Server) -> Self {
        let mut watched = Self { anonymous_kib: 0, sockets: 0, server };
        let (mut client, mut worker) = (watched.connect(), watched.connect());
        serve_a_job(&mut client, &mut worker, b"good");
        watched.sockets = watched.sockets() - 2;
        drop((client, worker));
        watched.await_departures();
        watched.anonymous_kib = watched.anonymous_kib();
        watched
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.server.addr()
    }

    pub(crate) fn connect(&self) -> Wire {
        Wire::connect(self.server.addr())
    }

    pub(crate) fn server(&self) -> &Server {
        &self.server
    }

    /// Memory that is the process's own, in KiB.
    pub(crate) fn anonymous_kib(&self) -> u64 {
        self.status_kib("RssAnon:")
    }

    /// Memory above what it began with, in KiB.
    pub(crate) fn grown_kib(&self) -> u64 {
        self.anonymous_kib().saturating_sub(self.anonymous_kib)
    }

    /// Forgets the highest memory so far.
    pub(crate) fn reset_peak(&self) {
        fs::write(self.proc("clear_refs"), "5").expect("reset the peak");
    }

    /// The most memory since [`Watched::reset_peak`] above what it uses when idle, in KiB.
    pub(crate) fn peak_kib(&self) -> u64 {
        let files = self.status_kib("RssFile:") + self.status_kib("RssShmem:");
        self.status_kib("VmHWM:").saturating_sub(files + self.anonymous_kib)
    }

    fn status_kib(&self, name: &str) -> u64 {
        let status = fs::read_to_string(self.proc("status")).expect("the server's status");
        let line = status.lines().find_map(|line| line.strip_prefix(name)).expect("a line of status");
        line.trim().trim_end_matches(" kB").parse().expect("a number of KiB")
    }

    /// How many descriptors the server has open.
    pub(crate) fn descriptors(&self) -> usize {
        fs::read_dir(self.proc("fd")).expect("the server's descriptors").count()
    }

    /// How many connections it has open.
    pub(crate) fn connections(&self) -> usize {
        self.sockets().saturating_sub(self.sockets)
    }

    /// Other descriptors may come and go: the store opens and closes files. So does the socket on which the
    /// server says that it is ready, which a server with several threads may still have when it serves
    /// others.
    fn sockets(&self) -> usize {
        let datagrams = self.datagram_sockets();
        let descriptors = fs::read_dir(self.proc("fd")).expect("the server's descriptors").flatten();
        let targets = descriptors.filter_map(|descriptor| fs::read_link(descriptor.path()).ok());
        let names = targets.map(|target| target.to_string_lossy().into_owned());
        names.filter(|name| name.starts_with("socket:") && !datagrams.contains(name)).count()
    }

    /// The UNIX sockets for datagrams of all processes, by the names that their descriptors have.
    fn datagram_sockets(&self) -> HashSet<String> {
        const DATAGRAM: &str = "0002";
        let table = fs::read(self.proc("net/unix")).expect("the table of UNIX sockets");
        let table = String::from_utf8_lossy(&table);
        let rows = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
        rows.filter(|row| row.len() > 6 && row[4] == DATAGRAM).map(|row| format!("socket:[{}]", row[6])).collect()
    }

    /// The CPU time of all its threads so far.
    pub(crate) fn cpu(&self) -> Duration {
        let nanoseconds = fs::read_dir(self.proc("task")).expect("the server's threads").flatten().map(|task| {
            let times = fs::read_to_string(task.path().join("schedstat")).unwrap_or_default();
            times.split(' ').next().and_then(|time| time.parse::<u64>().ok()).unwrap_or(0)
        });
        Duration::from_nanos(nanoseconds.sum())
    }

    fn proc(&self, name: &str) -> String {
        format!("/proc/{}/{name}", self.server.pid())
    }

    /// Waits until the server has noticed that all peers are gone.
    #[track_caller]
    pub(crate) fn await_departures(&self) {
        wait_for("the end of all connections", || (self.connections() == 0).then_some(()));
    }

    /// Lets a client have a job done by a worker; each step within a deadline.
    #[track_caller]
    pub(crate) fn serve_a_job(&self) {
        self.serve_a_job_of(b"good");
    }

    /// The same with another function.
    #[track_caller]
    pub(crate) fn serve_a_job_of(&self, function: &[u8]) {
        serve_a_job(&mut self.connect(), &mut self.connect(), function);
    }

    /// All attackers have left: nothing of them may be left, except for `retained_kib` of memory.
    #[track_caller]
    pub(crate) fn assert_recovered(&self, retained_kib: u64) {
        self.await_departures();
        self.serve_a_job();
        self.await_departures();
        let jobs = self.connect().text("show jobs");
        assert_eq!(jobs, ".\n", "jobs were left");
        self.await_departures();
        let grown_kib = self.grown_kib();
        eprintln!("kept {grown_kib} KiB");
        assert!(grown_kib <= retained_kib, "{grown_kib} KiB more than in the beginning; {retained_kib} are allowed");
        self.assert_idle();
    }

    /// Attacks until an attack adds next to nothing to what those before it have left. The first may leave
    /// `retained_kib`.
    ///
    /// The machine decides how much of an attack the server has at one time, and what of it lies between
    /// blocks in use and is not given back, free as it is. So a later attack may leave more than an earlier
    /// one. A leak grows with every attack.
    #[track_caller]
    pub(crate) fn assert_nothing_adds_up(&self, retained_kib: u64, mut attack: impl FnMut()) {
        attack();
        self.assert_recovered(retained_kib);
        let mut kept = vec![self.grown_kib()];
        while kept.len() < ATTACKS {
            attack();
            self.assert_recovered(retained_kib);
            kept.push(self.grown_kib());
            if kept[kept.len() - 1] <= kept[kept.len() - 2] + GROWTH_KIB {
                return;
            }
        }
        panic!("every attack leaves more: {kept:?} KiB");
    }

    /// Looks at the server for seconds in which nobody wants anything of it, until it has rested for one.
    #[track_caller]
    pub(crate) fn assert_idle(&self) {
        let used: Vec<Duration> = (0..SECONDS_TO_REST)
            .map(|_| {
                let before = self.cpu();
                std::thread::sleep(Duration::from_secs(1));
                self.cpu().saturating_sub(before)
            })
            .take_while(|used| *used > IDLE_CPU)
            .collect();
        assert!(used.len() < SECONDS_TO_REST, "{used:?} of CPU time in seconds without work");
    }
}

/// A worker does a job of `function` for a client.
#[track_caller]
pub(crate) fn serve_a_job(client: &mut Wire, worker: &mut Wire, function: &[u8]) {
    worker.send(packet::CAN_DO, function);
    worker.send(packet::PRE_SLEEP, b"");
    worker.expect_nothing();
    client.send(packet::SUBMIT_JOB, &packet::body(&[function, b"", b"workload"]));
    let handle = client.expect_type(packet::JOB_CREATED);
    worker.expect(packet::NOOP, b"");
    worker.send(packet::GRAB_JOB, b"");
    worker.expect(packet::JOB_ASSIGN, &packet::body(&[&handle, function, b"workload"]));
    worker.send(packet::WORK_COMPLETE, &packet::body(&[&handle, b"result"]));
    client.expect(packet::WORK_COMPLETE, &packet::body(&[&handle, b"result"]));
}
