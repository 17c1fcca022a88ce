//! A server with the plugin, peers that speak HTTP to it, and a worker.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use crate::common::{DEADLINE, Implementation, Server, Wire, free_port, packet, wait_for};

/// What [`work`] does. Those that are not named below it answer with the function, the unique id and the
/// workload.
const FUNCTIONS: [&str; 8] = ["show", "a%20b?x=1", "x/y", "fail", "exception", "data", "status", "warning"];

/// A running server whose plugin accepts.
pub(crate) struct Stage {
    pub(crate) server: Server,
    pub(crate) http: SocketAddr,
}

impl Stage {
    /// Our server; its handles are `H:t:1`, `H:t:2`, ...
    #[track_caller]
    pub(crate) fn ours(arguments: &[&str]) -> Self {
        let fixed =
            ["--job-handle-prefix", "H:t", "-r", "http", "--http-port", "0", "--verbose", "NOTICE", "-q", "builtin"];
        let server = Server::ours(&[&fixed[..], arguments].concat());
        // The log is written by a thread of its own, which readiness waits for only briefly.
        let announced = wait_for("the plugin to say where it listens", || {
            let log = server.log();
            let (whole, _) = log.rsplit_once('\n')?;
            let (_, address) = whole.lines().find_map(|line| line.split_once("HTTP plugin listening on "))?;
            Some(address.to_owned())
        });
        let http = announced.split_whitespace().next().and_then(|address| address.parse().ok()).expect("an address");
        Self { server, http }
    }

    /// Debian's.
    #[track_caller]
    pub(crate) fn debian(arguments: &[&str]) -> Self {
        let port = free_port();
        let (port_text, http) = (port.to_string(), SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
        let fixed = ["--job-handle-prefix", "H:t", "-r", "http", "--http-port", &port_text, "-t", "1", "-q", "builtin"];
        let server = Server::debian(&[&fixed[..], arguments].concat());
        wait_for("gearmand's HTTP port", || TcpStream::connect(http).ok());
        Self { server, http }
    }

    #[track_caller]
    pub(crate) fn of(implementation: Implementation) -> Self {
        match implementation {
            Implementation::Ours => Self::ours(&[]),
            Implementation::Debian => Self::debian(&[]),
        }
    }

    /// A peer that has sent these bytes.
    #[track_caller]
    pub(crate) fn peer(&self, request: &[u8]) -> Peer {
        let mut peer = Peer::connect(self.http);
        peer.send(request);
        peer
    }

    /// Sends a request and reads until the end of the stream.
    #[track_caller]
    pub(crate) fn ask(&self, request: &[u8]) -> Vec<u8> {
        self.peer(request).answer()
    }

    /// A worker that has registered the functions, and a thread in which it works until the server ends.
    #[track_caller]
    pub(crate) fn start_worker(&self) {
        let mut wire = Wire::connect(self.server.addr());
        for function in FUNCTIONS {
            wire.send(packet::CAN_DO, function.as_bytes());
        }
        wire.expect_nothing();
        std::thread::spawn(move || work(wire));
    }

    /// The line of `status` for a function: all jobs, running jobs, workers.
    #[track_caller]
    pub(crate) fn status(&self, function: &str) -> Option<(u64, u64, u64)> {
        let listing = Wire::connect(self.server.addr()).text("status");
        let line = listing.lines().find(|line| line.split('\t').next() == Some(function))?;
        let mut numbers = line.split('\t').skip(1).map(|cell| cell.parse().expect("a number"));
        Some((numbers.next()?, numbers.next()?, numbers.next()?))
    }

    /// Waits until a function has so many jobs, running ones included.
    #[track_caller]
    pub(crate) fn await_jobs(&self, function: &str, count: u64) {
        wait_for(&format!("{count} jobs of {function}"), || {
            (self.status(function).map_or(0, |(total, ..)| total) == count).then_some(())
        });
    }
}

/// A connection that speaks HTTP.
pub(crate) struct Peer {
    stream: TcpStream,
}

impl Peer {
    #[track_caller]
    pub(crate) fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect_timeout(&address, DEADLINE).expect("connect");
        stream.set_nodelay(true).expect("TCP_NODELAY");
        stream.set_read_timeout(Some(DEADLINE)).expect("SO_RCVTIMEO");
        stream.set_write_timeout(Some(DEADLINE)).expect("SO_SNDTIMEO");
        Self { stream }
    }

    pub(crate) fn stream(&self) -> &TcpStream {
        &self.stream
    }

    #[track_caller]
    pub(crate) fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).expect("send");
    }

    pub(crate) fn finish_sending(&self) {
        self.stream.shutdown(Shutdown::Write).expect("half-close");
    }

    /// The same, where the server may have closed the connection.
    pub(crate) fn finish_sending_if_open(&self) {
        let _ = self.stream.shutdown(Shutdown::Write);
    }

    /// What comes until the end of the stream.
    #[track_caller]
    pub(crate) fn answer(self) -> Vec<u8> {
        self.answer_within(DEADLINE).expect("the server neither answered nor closed the connection")
    }

    /// What comes until the end of the stream; `None` where nothing comes for so long. A reset is an end.
    #[track_caller]
    pub(crate) fn answer_within(mut self, time: Duration) -> Option<Vec<u8>> {
        self.stream.set_read_timeout(Some(time)).expect("SO_RCVTIMEO");
        let mut answer = Vec::new();
        match self.stream.read_to_end(&mut answer) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => None,
            Err(error) if error.kind() != ErrorKind::ConnectionReset => panic!("cannot read: {error}"),
            Ok(_) | Err(_) => Some(answer),
        }
    }
}

/// A request as text, with a workload whose length it says.
pub(crate) fn post(function: &str, headers: &[&str], workload: &[u8]) -> Vec<u8> {
    let mut request = format!("POST /{function} HTTP/1.1\r\nContent-Length: {}\r\n", workload.len()).into_bytes();
    for header in headers {
        request.extend_from_slice(format!("{header}\r\n").as_bytes());
    }
    request.extend_from_slice(b"\r\n");
    request.extend_from_slice(workload);
    request
}

/// The body of a response, whose head must say its length.
#[track_caller]
pub(crate) fn body(answer: &[u8]) -> &[u8] {
    let (head, body) = split(answer);
    assert_eq!(header(&head, "Content-Length"), Some(body.len().to_string().as_str()), "{head}");
    body
}

/// The head of a response as text, and what follows it.
#[track_caller]
pub(crate) fn split(answer: &[u8]) -> (String, &[u8]) {
    let end = memchr::memmem::find(answer, b"\r\n\r\n");
    let end = end.unwrap_or_else(|| panic!("no head in \"{}\"", answer.escape_ascii()));
    (String::from_utf8_lossy(&answer[..end + 2]).into_owned(), &answer[end + 4..])
}

pub(crate) fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
}

/// Works until the connection ends.
fn work(mut wire: Wire) {
    wire.send(packet::PRE_SLEEP, b"");
    while let Some((packet_type, body)) = wire.recv_or_end() {
        match packet_type {
            packet::NOOP => wire.send(packet::GRAB_JOB_UNIQ, b""),
            packet::NO_JOB => wire.send(packet::PRE_SLEEP, b""),
            packet::JOB_ASSIGN_UNIQ => {
                do_job(&mut wire, &body);
                wire.send(packet::GRAB_JOB_UNIQ, b"");
            }
            other => panic!("the worker was sent a packet of type {other}"),
        }
    }
}

fn do_job(wire: &mut Wire, assignment: &[u8]) {
    let arguments: Vec<&[u8]> = assignment.splitn(4, |byte| *byte == 0).collect();
    let [handle, function, unique, workload] = arguments[..] else { panic!("an assignment has four arguments") };
    let say = |wire: &mut Wire, packet_type: u32, rest: &[&[u8]]| {
        wire.send(packet_type, &packet::body(&[&[handle][..], rest].concat()));
    };
    match function {
        b"fail" => return say(wire, packet::WORK_FAIL, &[]),
        b"exception" => return say(wire, packet::WORK_EXCEPTION, &[b"boom"]),
        b"data" => {
            say(wire, packet::WORK_DATA, &[b"one, "]);
            say(wire, packet::WORK_DATA, &[b"two, "]);
        }
        b"status" => say(wire, packet::WORK_STATUS, &[b"1", b"2"]),
        b"warning" => say(wire, packet::WORK_WARNING, &[b"careful"]),
        _ => {}
    }
    say(wire, packet::WORK_COMPLETE, &[&[function, unique, workload].join(&b'|')]);
}
