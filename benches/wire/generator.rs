//! The load generator: one thread, one epoll, any number of clients and workers, one write per connection per
//! turn.
//!
//! It is the same for every peer. With two cores, server and generator have one each.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::time::{Duration, Instant};

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};

use crate::failure::{Result, fail};
use crate::protocol::{HEADER, response};
use crate::roles::{Client, FUNCTION, Grabber, Role, Submission, Tally, Worker};

const READ_BUFFER: usize = 256 * 1024;
/// A server that sends nothing for this long while an answer is due has failed.
const SILENCE: Duration = Duration::from_secs(20);
/// Time limit of a phase.
const PHASE: Duration = Duration::from_mins(10);
/// Connections opened before the server's answers are awaited: fewer than the listen backlog of gearmand, 32.
const CONNECT_BATCH: usize = 16;

struct Connection {
    stream: TcpStream,
    role: Role,
    input: Vec<u8>,
    output: Vec<u8>,
    written: usize,
}

/// Connections to one server.
pub(crate) struct Generator {
    port: u16,
    /// Function of the jobs that clients submit.
    function: &'static [u8],
    epoll: Epoll,
    events: Vec<EpollEvent>,
    connections: Vec<Connection>,
    buffer: Vec<u8>,
    dirty: Vec<usize>,
    workers: usize,
    /// Counters of the connections.
    pub(crate) tally: Tally,
}

impl Generator {
    /// A generator without connections, for the server at `port` of 127.0.0.1.
    pub(crate) fn new(port: u16) -> Result<Self> {
        Self::of(FUNCTION, port)
    }

    /// A generator whose clients submit jobs of `function`.
    pub(crate) fn of(function: &'static [u8], port: u16) -> Result<Self> {
        Ok(Self {
            port,
            function,
            epoll: Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?,
            events: vec![EpollEvent::empty(); 512],
            connections: Vec::new(),
            buffer: vec![0; READ_BUFFER],
            dirty: Vec::new(),
            workers: 0,
            tally: Tally::default(),
        })
    }

    /// Adds sleeping workers: each has asked for a job and got NO_JOB.
    pub(crate) fn add_sleepers(&mut self, count: usize) -> Result<()> {
        self.add_workers(count)?;
        self.open(0)?;
        self.all_asleep()
    }

    /// Adds workers that stay silent until [`Generator::drain`] or another start.
    pub(crate) fn add_workers(&mut self, count: usize) -> Result<()> {
        self.add_prefetching(count, 1)
    }

    /// Like [`Generator::add_workers`]; each keeps `window` grabs outstanding.
    pub(crate) fn add_prefetching(&mut self, count: usize, window: usize) -> Result<()> {
        for _ in 0..count {
            self.workers += 1;
            self.add(Role::Worker(Worker::new(self.function, window)))?;
        }
        self.greeted()
    }

    /// Adds clients that stay silent until [`Generator::open`].
    pub(crate) fn add_clients(
        &mut self,
        count: usize,
        submission: Submission,
        window: usize,
        workload: usize,
    ) -> Result<()> {
        for _ in 0..count {
            let seed = (u64::from(self.port) << 32) | self.connections.len() as u64;
            self.add(Role::Client(Client::new(self.function, submission, window, workload, seed)))?;
        }
        self.greeted()
    }

    /// Adds a worker that only sends grabs.
    pub(crate) fn add_grabber(&mut self, window: usize) -> Result<()> {
        self.add(Role::Grabber(Grabber::new(window)))?;
        self.greeted()
    }

    fn add(&mut self, role: Role) -> Result<()> {
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port))?;
        stream.set_nonblocking(true)?;
        stream.set_nodelay(true)?;
        let index = self.connections.len();
        let interest = EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT | EpollFlags::EPOLLET;
        self.epoll.add(&stream, EpollEvent::new(interest, index as u64))?;
        let mut output = Vec::new();
        role.greet(&mut output);
        self.connections.push(Connection { stream, role, input: Vec::new(), output, written: 0 });
        self.dirty.push(index);
        self.flush()?;
        if self.connections.len().is_multiple_of(CONNECT_BATCH) {
            self.greeted()?;
        }
        Ok(())
    }

    /// Waits until the server has answered every connection.
    fn greeted(&mut self) -> Result<()> {
        self.until(|generator| generator.tally.greeted == generator.connections.len())
    }

    /// Waits until every worker has got NO_JOB.
    fn all_asleep(&mut self) -> Result<()> {
        self.until(|generator| generator.tally.asleep == generator.workers)
    }

    /// Lets clients submit `budget` jobs and waits until all of them have ended.
    pub(crate) fn run_count(&mut self, budget: u64) -> Result<()> {
        self.open(budget)?;
        self.until(|generator| generator.tally.budget == 0 && generator.tally.outstanding == 0)
    }

    /// Lets clients submit jobs for `length`, then waits until all of them have ended.
    pub(crate) fn run_for(&mut self, length: Duration) -> Result<()> {
        let end = Instant::now() + length;
        self.open(u64::MAX)?;
        self.until(|_| Instant::now() >= end)?;
        self.run_count(0)
    }

    /// Starts the workers and waits until they have completed `jobs` queued jobs and sleep.
    pub(crate) fn drain(&mut self, jobs: u64) -> Result<()> {
        self.open(0)?;
        self.until(|generator| generator.tally.worked >= jobs)?;
        self.all_asleep()
    }

    /// Lets the workers complete `jobs` more queued jobs; they keep further jobs that they were assigned.
    pub(crate) fn work(&mut self, jobs: u64) -> Result<()> {
        let enough = self.tally.worked + jobs;
        self.open(0)?;
        self.until(|generator| generator.tally.worked >= enough)
    }

    /// Handles what arrives within `length`.
    pub(crate) fn linger(&mut self, length: Duration) -> Result<()> {
        let end = Instant::now() + length;
        while Instant::now() < end {
            self.turn(Duration::from_millis(5))?;
        }
        Ok(())
    }

    fn open(&mut self, budget: u64) -> Result<()> {
        self.tally.budget = budget;
        for (index, connection) in self.connections.iter_mut().enumerate() {
            connection.role.begin(&mut connection.output, &mut self.tally);
            self.dirty.push(index);
        }
        self.flush()
    }

    fn until(&mut self, done: impl Fn(&Self) -> bool) -> Result<()> {
        let begun = Instant::now();
        while !done(self) {
            if !self.turn(SILENCE)? {
                return fail(format!("the server is silent; {:?}", Summary(&self.tally)));
            }
            if begun.elapsed() > PHASE {
                return fail(format!("this takes too long; {:?}", Summary(&self.tally)));
            }
        }
        Ok(())
    }

    /// Reads available data, then writes the responses to it. Returns false if nothing arrived within
    /// `patience`.
    fn turn(&mut self, patience: Duration) -> Result<bool> {
        let patience = u16::try_from(patience.as_millis()).unwrap_or(u16::MAX);
        let count = match self.epoll.wait(&mut self.events, patience) {
            Err(nix::errno::Errno::EINTR) => return Ok(true),
            result => result?,
        };
        for at in 0..count {
            let index = usize::try_from(self.events[at].data()).unwrap_or_default();
            let connection = &mut self.connections[index];
            connection.read(&mut self.buffer, &mut self.tally)?;
            if !connection.output.is_empty() {
                self.dirty.push(index);
            }
        }
        self.flush()?;
        Ok(count > 0)
    }

    fn flush(&mut self) -> Result<()> {
        for index in self.dirty.drain(..) {
            self.connections[index].write()?;
        }
        Ok(())
    }
}

impl Connection {
    /// Reads until a short read shows that the socket is empty.
    fn read(&mut self, buffer: &mut [u8], tally: &mut Tally) -> Result<()> {
        loop {
            let length = match self.stream.read(buffer) {
                Ok(0) => return fail("the server closed a connection"),
                Ok(length) => length,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error.into()),
            };
            let fresh = &buffer[..length];
            if self.input.is_empty() {
                let used = take(&mut self.role, fresh, &mut self.output, tally)?;
                self.input.extend_from_slice(&fresh[used..]);
            } else {
                self.input.extend_from_slice(fresh);
                let used = take(&mut self.role, &self.input, &mut self.output, tally)?;
                self.input.drain(..used);
            }
            if length < buffer.len() {
                return Ok(());
            }
        }
    }

    /// Writes what fits; the rest waits for EPOLLOUT.
    fn write(&mut self) -> Result<()> {
        while self.written < self.output.len() {
            match self.stream.write(&self.output[self.written..]) {
                Ok(length) => self.written += length,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
        self.output.clear();
        self.written = 0;
        Ok(())
    }
}

/// Passes the complete packets at the start of `bytes` to `role` and returns their total length.
fn take(role: &mut Role, bytes: &[u8], output: &mut Vec<u8>, tally: &mut Tally) -> Result<usize> {
    let mut at = 0;
    while let Some(packet) = response(&bytes[at..])? {
        role.take(&packet, output, tally)?;
        at += HEADER + packet.body.len();
    }
    Ok(at)
}

/// A tally without its many latencies.
struct Summary<'a>(&'a Tally);

impl std::fmt::Debug for Summary<'_> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Tally { outstanding, ended, worked, noops, asleep, greeted, .. } = self.0;
        write!(
            formatter,
            "{outstanding} outstanding, {ended} ended, {worked} worked, {noops} NOOPs, {asleep} asleep, {greeted} greeted"
        )
    }
}
