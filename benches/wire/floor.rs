//! The floor: the cost of the kernel alone.
//!
//! A single-threaded epoll server that runs the jobs of one function, with one FIFO and no rules: it reads
//! headers, copies bodies and trusts its peers completely. It batches as a good server does: read everything
//! available, answer, one write per connection per turn. The cost of a real server above this is its own.
//!
//! It runs in its own process, the benchmark's binary started with [`ARGUMENT`].

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::signal::Signal;

use crate::failure::Result;
use crate::protocol::{
    ECHO_REQ, ECHO_RES, GRAB_JOB_ALL, HEADER, JOB_ASSIGN_UNIQ, JOB_CREATED, NO_JOB, NOOP, PRE_SLEEP, RESPONSE,
    SUBMIT_JOB, SUBMIT_JOB_BG, WORK_COMPLETE, append, header,
};
use crate::roles::FUNCTION;

/// The first argument that makes the benchmark's binary this server.
pub(crate) const ARGUMENT: &str = "--serve-floor";

/// Handles are this and eight hexadecimal digits: the job's slot.
const PREFIX: &[u8] = b"H:floor:";
const HANDLE: usize = PREFIX.len() + 8;
/// Epoll data of the listener; connections use their index.
const LISTENER: u64 = u64::MAX;
/// The client of a background job.
const NOBODY: usize = usize::MAX;
const READ_BUFFER: usize = 64 * 1024;

struct Connection {
    stream: TcpStream,
    /// The start of a packet whose rest has not arrived.
    input: Vec<u8>,
    output: Vec<u8>,
}

struct Job {
    client: usize,
    /// Unique, NUL, workload: the tail of both `SUBMIT_JOB` and `JOB_ASSIGN_UNIQ`. Its memory is reused for
    /// the slot's next job.
    tail: Vec<u8>,
}

#[derive(Default)]
struct Floor {
    connections: Vec<Option<Connection>>,
    jobs: Vec<Job>,
    free: Vec<usize>,
    queue: VecDeque<usize>,
    /// Jobs of functions that no worker has registered.
    others: Vec<usize>,
    sleepers: VecDeque<usize>,
    dirty: Vec<usize>,
}

/// Listens on a free port of 127.0.0.1 and serves until it or the benchmark is killed.
pub(crate) fn serve() -> Result<()> {
    nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?;
    let listener = TcpListener::bind("127.0.0.1:0")?;
    listener.set_nonblocking(true)?;
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
    epoll.add(&listener, EpollEvent::new(EpollFlags::EPOLLIN, LISTENER))?;
    let mut floor = Floor::default();
    let mut buffer = vec![0; READ_BUFFER];
    let mut events = [EpollEvent::empty(); 256];
    loop {
        let count = match epoll.wait(&mut events, EpollTimeout::NONE) {
            Err(nix::errno::Errno::EINTR) => continue,
            result => result?,
        };
        for event in &events[..count] {
            if event.data() == LISTENER {
                floor.accept(&listener, &epoll)?;
            } else {
                let index = usize::try_from(event.data()).unwrap_or(NOBODY);
                let gone = EpollFlags::EPOLLRDHUP | EpollFlags::EPOLLHUP | EpollFlags::EPOLLERR;
                floor.read(index, &mut buffer, event.events().intersects(gone));
                if event.events().contains(EpollFlags::EPOLLOUT) {
                    floor.dirty.push(index);
                }
            }
        }
        floor.flush();
    }
}

impl Floor {
    fn accept(&mut self, listener: &TcpListener, epoll: &Epoll) -> Result<()> {
        loop {
            let stream = match listener.accept() {
                Ok((stream, _)) => stream,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error.into()),
            };
            stream.set_nonblocking(true)?;
            stream.set_nodelay(true)?;
            let index = self.connections.len();
            let interest = EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT | EpollFlags::EPOLLRDHUP | EpollFlags::EPOLLET;
            epoll.add(&stream, EpollEvent::new(interest, index as u64))?;
            self.connections.push(Some(Connection { stream, input: Vec::new(), output: Vec::new() }));
        }
    }

    /// Reads until a short read shows that the socket is empty; if the peer is `gone`, to the end of the
    /// stream.
    fn read(&mut self, index: usize, buffer: &mut [u8], gone: bool) {
        loop {
            let Some(Some(connection)) = self.connections.get_mut(index) else {
                return;
            };
            let length = match connection.stream.read(buffer) {
                Ok(length) if length > 0 => length,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Ok(_) | Err(_) => {
                    self.connections[index] = None;
                    self.sleepers.retain(|sleeper| *sleeper != index);
                    return;
                }
            };
            let mut input = std::mem::take(&mut connection.input);
            if input.is_empty() {
                let used = self.packets(index, &buffer[..length]);
                input.extend_from_slice(&buffer[used..length]);
            } else {
                input.extend_from_slice(&buffer[..length]);
                let used = self.packets(index, &input);
                input.drain(..used);
            }
            if let Some(connection) = &mut self.connections[index] {
                connection.input = input;
            }
            if length < buffer.len() && !gone {
                return;
            }
        }
    }

    /// Handles the complete packets at the start of `bytes` and returns their total length.
    fn packets(&mut self, from: usize, bytes: &[u8]) -> usize {
        let mut at = 0;
        while let Some((kind, length)) = header(&bytes[at..])
            && let Some(body) = bytes.get(at + HEADER..at + HEADER + length)
        {
            self.packet(from, kind, body);
            at += HEADER + length;
        }
        at
    }

    fn packet(&mut self, from: usize, kind: u32, body: &[u8]) {
        match kind {
            SUBMIT_JOB => self.submit(from, from, body),
            SUBMIT_JOB_BG => self.submit(from, NOBODY, body),
            GRAB_JOB_ALL => match self.queue.pop_front() {
                Some(slot) => {
                    let tail = std::mem::take(&mut self.jobs[slot].tail);
                    self.send(from, JOB_ASSIGN_UNIQ, &[&handle(slot), b"\0bench\0", &tail]);
                    self.jobs[slot].tail = tail;
                }
                None => self.send(from, NO_JOB, &[]),
            },
            WORK_COMPLETE => {
                let digits = std::str::from_utf8(&body[PREFIX.len()..HANDLE]).unwrap_or_default();
                if let Ok(slot) = usize::from_str_radix(digits, 16) {
                    self.send(self.jobs[slot].client, WORK_COMPLETE, &[body]);
                    self.free.push(slot);
                }
            }
            PRE_SLEEP if self.queue.is_empty() => self.sleepers.push_back(from),
            PRE_SLEEP => self.send(from, NOOP, &[]),
            ECHO_REQ => self.send(from, ECHO_RES, &[body]),
            _ => {}
        }
    }

    fn submit(&mut self, from: usize, client: usize, body: &[u8]) {
        let function = memchr::memchr(0, body).unwrap_or_default();
        let slot = self.free.pop().unwrap_or_else(|| {
            self.jobs.push(Job { client, tail: Vec::new() });
            self.jobs.len() - 1
        });
        let job = &mut self.jobs[slot];
        job.client = client;
        job.tail.clear();
        job.tail.extend_from_slice(&body[function + 1..]);
        let is_done = &body[..function] == FUNCTION;
        if is_done {
            self.queue.push_back(slot);
        } else {
            self.others.push(slot);
        }
        self.send(from, JOB_CREATED, &[&handle(slot)]);
        if is_done && let Some(sleeper) = self.sleepers.pop_front() {
            self.send(sleeper, NOOP, &[]);
        }
    }

    fn send(&mut self, to: usize, kind: u32, parts: &[&[u8]]) {
        if let Some(Some(connection)) = self.connections.get_mut(to) {
            if connection.output.is_empty() {
                self.dirty.push(to);
            }
            append(&mut connection.output, RESPONSE, kind, parts);
        }
    }

    /// One write per connection with output; the rest waits for EPOLLOUT.
    fn flush(&mut self) {
        for index in self.dirty.drain(..) {
            if let Some(Some(connection)) = self.connections.get_mut(index)
                && !connection.output.is_empty()
                && let Ok(length) = connection.stream.write(&connection.output)
            {
                connection.output.drain(..length);
            }
        }
    }
}

fn handle(slot: usize) -> [u8; HANDLE] {
    let mut handle = [0; HANDLE];
    handle[..PREFIX.len()].copy_from_slice(PREFIX);
    for (place, digit) in handle[PREFIX.len()..].iter_mut().enumerate() {
        *digit = b"0123456789abcdef"[(slot >> (28 - 4 * place)) & 15];
    }
    handle
}
