//! Clients, workers and operators whose server may be gone at any moment.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use super::book::Book;
use crate::common::{DEADLINE, Program, packet};
use crate::durable::{Random, Submission};

pub(crate) const FUNCTIONS: &[&str] = &["alpha", "beta-gamma", "delta"];

/// Jobs of one program of another library.
const FOREIGN: u64 = 30;

/// The server is gone.
pub(crate) struct Gone;

/// A connection whose other end may die.
pub(crate) struct Link(TcpStream);

impl Link {
    /// # Errors
    /// Where nobody listens any more.
    pub(crate) fn connect(address: SocketAddr) -> Result<Self, Gone> {
        let stream = TcpStream::connect_timeout(&address, DEADLINE).map_err(|_| Gone)?;
        stream.set_nodelay(true).map_err(|_| Gone)?;
        stream.set_read_timeout(Some(DEADLINE)).map_err(|_| Gone)?;
        Ok(Self(stream))
    }

    fn send(&mut self, packet_type: u32, body: &[u8]) -> Result<(), Gone> {
        self.send_raw(&packet::request(packet_type, body))
    }

    fn send_raw(&mut self, bytes: &[u8]) -> Result<(), Gone> {
        self.0.write_all(bytes).map_err(|_| Gone)
    }

    fn recv(&mut self) -> Result<(u32, Vec<u8>), Gone> {
        let mut header = [0; packet::HEADER_SIZE];
        self.fill(&mut header)?;
        let word = |at: usize| u32::from_be_bytes(header[at..at + 4].try_into().expect("four bytes"));
        let mut body = vec![0; word(8) as usize];
        self.fill(&mut body)?;
        Ok((word(4), body))
    }

    fn created(&mut self) -> Result<String, Gone> {
        let (packet_type, body) = self.recv()?;
        assert_eq!(packet_type, packet::JOB_CREATED, "\"{}\"", body.escape_ascii());
        Ok(String::from_utf8(body).expect("a handle"))
    }

    fn line(&mut self) -> Result<String, Gone> {
        let mut line = Vec::new();
        while line.last() != Some(&b'\n') {
            let mut byte = [0];
            self.fill(&mut byte)?;
            line.push(byte[0]);
        }
        Ok(String::from_utf8_lossy(&line).trim_end().to_owned())
    }

    fn fill(&mut self, bytes: &mut [u8]) -> Result<(), Gone> {
        self.0.read_exact(bytes).map_err(|error| {
            assert!(error.kind() != ErrorKind::WouldBlock, "nothing arrived within {DEADLINE:?}");
            Gone
        })
    }
}

/// Sends jobs ahead of the answers.
pub(crate) fn pipeline(
    address: SocketAddr,
    book: &Book,
    client: u64,
    due_s: u64,
    random: &mut Random,
) -> Result<(), Gone> {
    const WINDOW: usize = 16;
    let mut link = Link::connect(address)?;
    let mut unanswered = VecDeque::new();
    loop {
        let mut bytes = Vec::new();
        for _ in 0..random.index(WINDOW + 1 - unanswered.len()) {
            let serial = book.serials(1);
            let submission = Submission::any(random, serial, FUNCTIONS, due_s);
            bytes.extend(submission.request());
            book.submits(serial, client, submission);
            unanswered.push_back(serial);
        }
        link.send_raw(&bytes)?;
        for _ in 0..random.index(unanswered.len() + 1) {
            let handle = link.created()?;
            book.acknowledge(unanswered.pop_front().expect("a job"), Some(handle));
        }
    }
}

/// Waits for each answer, and cancels some of what it submitted.
pub(crate) fn one_by_one(
    address: SocketAddr,
    book: &Book,
    client: u64,
    due_s: u64,
    random: &mut Random,
) -> Result<(), Gone> {
    let mut link = Link::connect(address)?;
    let mut operator = Link::connect(address)?;
    let mut own = Vec::new();
    loop {
        let serial = book.serials(1);
        let submission = Submission::any(random, serial, FUNCTIONS, due_s);
        let request = submission.request();
        book.submits(serial, client, submission);
        link.send_raw(&request)?;
        let handle = link.created()?;
        book.acknowledge(serial, Some(handle.clone()));
        own.push((serial, handle));
        if random.chance(20) {
            let (serial, handle) = own.swap_remove(random.index(own.len()));
            cancel(&mut operator, book, serial, &handle)?;
        }
    }
}

/// Cancels a job that was acknowledged.
pub(crate) fn cancel(operator: &mut Link, book: &Book, serial: u64, handle: &str) -> Result<(), Gone> {
    book.says_over(serial);
    operator.send_raw(format!("cancel job {handle}\n").as_bytes())?;
    let answer = operator.line()?;
    assert!(answer == "OK" || book.others_said_over(serial), "cancel job {handle}: {answer}");
    match answer.as_str() {
        "OK" => book.cancelled(serial),
        _ => book.heard_over(serial),
    }
    Ok(())
}

/// Takes jobs and ends most of them.
pub(crate) fn work(address: SocketAddr, book: &Book, random: &mut Random) -> Result<(), Gone> {
    let mut worker = able(address)?;
    let mut said = None;
    loop {
        let assigned = grab(&mut worker, book)?;
        if let Some(serial) = said.take() {
            book.heard_over(serial);
        }
        match assigned {
            None => {
                worker.send(packet::PRE_SLEEP, b"")?;
                worker.recv()?;
            }
            // The job goes back.
            Some(_) if random.chance(10) => worker = able(address)?,
            Some((serial, handle)) => {
                book.says_over(serial);
                if random.chance(20) {
                    worker.send(packet::WORK_FAIL, handle.as_bytes())?;
                } else {
                    worker.send(packet::WORK_COMPLETE, &packet::body(&[handle.as_bytes(), b"done"]))?;
                }
                said = Some(serial);
            }
        }
    }
}

/// A worker for all functions.
pub(crate) fn able(address: SocketAddr) -> Result<Link, Gone> {
    let mut worker = Link::connect(address)?;
    for function in FUNCTIONS {
        worker.send(packet::CAN_DO, function.as_bytes())?;
    }
    Ok(worker)
}

/// Takes a job, if there is one: its serial number and its handle.
pub(crate) fn grab(worker: &mut Link, book: &Book) -> Result<Option<(u64, String)>, Gone> {
    worker.send(packet::GRAB_JOB_ALL, b"")?;
    loop {
        let (packet_type, body) = worker.recv()?;
        let count = match packet_type {
            packet::JOB_ASSIGN_UNIQ => 4,
            packet::JOB_ASSIGN_ALL => 5,
            packet::NO_JOB => return Ok(None),
            // A wake-up that was on its way.
            packet::NOOP => continue,
            other => panic!("a worker got a packet of type {other}"),
        };
        let arguments: Vec<&[u8]> = body.splitn(count, |byte| *byte == 0).collect();
        let handle = String::from_utf8_lossy(arguments[0]).into_owned();
        let reducer = if count == 5 { arguments[3] } else { b"" };
        let serial = book.assigned(&handle, arguments[1], arguments[2], reducer, arguments[count - 1]);
        return Ok(Some((serial, handle)));
    }
}

/// Ends the job that was grabbed last.
pub(crate) fn complete(worker: &mut Link, book: &Book, serial: u64, handle: &str) -> Result<(), Gone> {
    book.says_over(serial);
    worker.send(packet::WORK_COMPLETE, &packet::body(&[handle.as_bytes(), b""]))
}

/// Sleeps until a job is there.
pub(crate) fn sleep(worker: &mut Link) -> Result<(), Gone> {
    worker.send(packet::PRE_SLEEP, b"")?;
    let (packet_type, _) = worker.recv()?;
    assert_eq!(packet_type, packet::NOOP);
    Ok(())
}

/// A program on somebody else's library, which submits jobs one by one and prints those that were
/// acknowledged.
pub(crate) struct Foreign {
    program: Program,
}

impl Foreign {
    /// Starts one of them; `round` says which.
    pub(crate) fn start(round: u64, port: u16, book: &Book, client: u64) -> Self {
        let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
        let (command, script) = match round % 4 {
            0 => ("php".into(), "flood.php"),
            1 => ("perl".into(), "flood.pl"),
            2 => (tests.join("clients/venv/bin/python"), "flood.py"),
            _ => ("sh".into(), "flood.sh"),
        };
        let first = book.serials(FOREIGN);
        for serial in first..first + FOREIGN {
            let submission = Submission {
                function: FUNCTIONS[0].into(),
                unique: Vec::new(),
                reducer: Vec::new(),
                priority: gearmand::protocol::Priority::Normal,
                due_s: 0,
                workload: format!("{serial} foreign").into(),
            };
            book.submits_foreign(serial, client, submission);
        }
        let mut command = Command::new(command);
        command.arg(tests.join("crash").join(script)).args([port.to_string(), FUNCTIONS[0].to_owned()]);
        command.args([first, first + FOREIGN - 1].map(|serial| serial.to_string()));
        Self { program: Program::start(command.process_group(0)) }
    }

    /// Ends it, and enters what it was told.
    pub(crate) fn finish(mut self, book: &Book) {
        // With what it has started: a `gearman` that the shell leaves behind would submit its job to the next
        // server.
        let group = Pid::from_raw(i32::try_from(self.program.pid()).expect("a process id"));
        killpg(group, Signal::SIGKILL).expect("kill a program and what it has started");
        self.program.kill();
        while let Some(line) = self.program.line() {
            let mut words = line.split(' ');
            let serial = words.next().and_then(|word| word.parse().ok()).expect("a serial number");
            book.acknowledge(serial, words.next().map(str::to_owned));
        }
    }
}
