//! One durable job at a time, from the first second after a start, compared with beanstalkd.
//!
//! Both keep a log that is flushed before a job is acknowledged (`beanstalkd -f0`). The client is the same
//! for both: it blocks, and has one outstanding request. Ours has one connection as a client and one as a
//! worker, as Gearman requires.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::disk;
use crate::failure::{Result, fail};
use crate::measuring::{self, percentile};
use crate::options::{Options, Sizes};
use crate::peers::{Kind, Peer, Queue};
use crate::protocol::{
    CAN_DO, GRAB_JOB_ALL, HEADER, JOB_ASSIGN_UNIQ, JOB_CREATED, REQUEST, SUBMIT_JOB_BG, WORK_COMPLETE, append,
    response, split,
};
use crate::report::{Bar, Line, Series};
use crate::roles::FUNCTION;
use crate::rows::WORKLOAD;

/// Path in Debian's package.
const BEANSTALKD: &str = "/usr/bin/beanstalkd";
/// Time limit of a server for an answer, and for starting to listen.
const SILENCE: Duration = Duration::from_secs(10);
/// The bars: ratio of ours to beanstalkd.
const SUBMIT: f64 = 1.25;
const LIFE: f64 = 0.65;

/// A queue that processes one job at a time.
trait OneByOne {
    /// Submits a job, and waits until it is acknowledged.
    fn submit(&mut self, number: u64) -> Result<()>;
    /// Takes a job and completes it.
    fn work(&mut self) -> Result<()>;
}

/// This server, with a client's and a worker's connection.
struct Gearman {
    client: Link,
    worker: Link,
}

/// beanstalkd, with one connection.
struct Beanstalk(Link);

/// A connection with one outstanding request.
struct Link {
    stream: TcpStream,
    input: Vec<u8>,
    output: Vec<u8>,
}

impl Link {
    fn connect(port: u16) -> Result<Self> {
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(SILENCE))?;
        Ok(Self { stream, input: Vec::new(), output: Vec::new() })
    }

    fn send(&mut self) -> Result<()> {
        self.stream.write_all(&self.output)?;
        self.output.clear();
        Ok(())
    }

    fn receive(&mut self) -> Result<()> {
        let mut buffer = [0; 4096];
        match self.stream.read(&mut buffer)? {
            0 => fail("the server closed a connection"),
            length => {
                self.input.extend_from_slice(&buffer[..length]);
                Ok(())
            }
        }
    }

    /// The body of the next packet, which must be of this type.
    fn packet(&mut self, kind: u32) -> Result<Vec<u8>> {
        loop {
            if let Some(packet) = response(&self.input)? {
                let (found, body) = (packet.kind, packet.body.to_vec());
                self.input.drain(..HEADER + body.len());
                return if found == kind {
                    Ok(body)
                } else {
                    fail(format!("packet type {found} where {kind} was due"))
                };
            }
            self.receive()?;
        }
    }

    /// The next line, which must begin with `begins`; returned without that.
    fn line(&mut self, begins: &str) -> Result<String> {
        loop {
            if let Some(end) = memchr::memchr(b'\n', &self.input) {
                let line: Vec<u8> = self.input.drain(..=end).collect();
                let line = String::from_utf8_lossy(&line).trim_end().to_owned();
                return match line.strip_prefix(begins) {
                    Some(rest) => Ok(rest.trim().to_owned()),
                    None => fail(format!("{line:?} where {begins} was due")),
                };
            }
            self.receive()?;
        }
    }

    fn skip(&mut self, bytes: usize) -> Result<()> {
        while self.input.len() < bytes {
            self.receive()?;
        }
        self.input.drain(..bytes);
        Ok(())
    }
}

impl Gearman {
    fn connect(port: u16) -> Result<Self> {
        let (client, mut worker) = (Link::connect(port)?, Link::connect(port)?);
        append(&mut worker.output, REQUEST, CAN_DO, &[FUNCTION]);
        worker.send()?;
        Ok(Self { client, worker })
    }
}

impl OneByOne for Gearman {
    fn submit(&mut self, number: u64) -> Result<()> {
        let unique = format!("{number:036}");
        let parts = [FUNCTION, b"\0", unique.as_bytes(), b"\0", &[0x55; WORKLOAD]];
        append(&mut self.client.output, REQUEST, SUBMIT_JOB_BG, &parts);
        self.client.send()?;
        self.client.packet(JOB_CREATED).map(drop)
    }

    fn work(&mut self) -> Result<()> {
        append(&mut self.worker.output, REQUEST, GRAB_JOB_ALL, &[]);
        self.worker.send()?;
        let job = self.worker.packet(JOB_ASSIGN_UNIQ)?;
        let (handle, _) = split(&job)?;
        append(&mut self.worker.output, REQUEST, WORK_COMPLETE, &[handle, b"\0"]);
        self.worker.send()
    }
}

impl OneByOne for Beanstalk {
    fn submit(&mut self, _: u64) -> Result<()> {
        write!(self.0.output, "put 0 0 60 {WORKLOAD}\r\n")?;
        self.0.output.extend_from_slice(&[0x55; WORKLOAD]);
        self.0.output.extend_from_slice(b"\r\n");
        self.0.send()?;
        self.0.line("INSERTED").map(drop)
    }

    fn work(&mut self) -> Result<()> {
        self.0.output.extend_from_slice(b"reserve\r\n");
        self.0.send()?;
        let job = self.0.line("RESERVED")?;
        self.0.skip(WORKLOAD + 2)?;
        let id = job.split(' ').next().unwrap_or_default();
        write!(self.0.output, "delete {id}\r\n")?;
        self.0.send()?;
        self.0.line("DELETED").map(drop)
    }
}

/// A beanstalkd that flushes each job; killed when it is dropped.
struct Server {
    child: Child,
    port: u16,
}

impl Server {
    fn start(directory: &Path, options: &Options) -> Result<Self> {
        let log = File::options().create(true).append(true).open(options.output.join("beanstalkd.log"))?;
        let mut command = Command::new(BEANSTALKD);
        command.args(["-l", "127.0.0.1", "-p", "0", "-f0", "-b"]).arg(directory);
        let child = command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).spawn();
        let Ok(child) = child else {
            return fail(format!("cannot start {BEANSTALKD}: tests/install-peers.sh installs it"));
        };
        let mut server = Self { child, port: 0 };
        let begun = Instant::now();
        while server.port == 0 {
            if begun.elapsed() > SILENCE || server.child.try_wait()?.is_some() {
                return fail("beanstalkd does not listen; see its log");
            }
            std::thread::sleep(Duration::from_millis(1));
            server.port = measuring::listening_port(server.child.id(), None)?.unwrap_or(0);
        }
        Ok(server)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _gone = self.child.kill();
        let _status = self.child.wait();
    }
}

/// Median and 99th percentile of a submission, or of a job from submission to end, in microseconds.
fn measure(queue: &mut impl OneByOne, life: bool, length: Duration) -> Result<[f64; 2]> {
    let mut latencies = Vec::new();
    let (begun, mut number) = (Instant::now(), 0);
    while begun.elapsed() < length {
        let start = Instant::now();
        queue.submit(number)?;
        if life {
            queue.work()?;
        }
        latencies.push(u32::try_from(start.elapsed().as_nanos()).unwrap_or(u32::MAX));
        number += 1;
    }
    Ok([percentile(&mut latencies, 50), percentile(&mut latencies, 99)])
}

/// Submissions, and jobs from submission to end, each with servers that have just started without jobs.
pub(crate) fn one(options: &Options, sizes: Sizes) -> Result<Vec<Line>> {
    disk::expect_disk(&options.directory)?;
    let mut lines = Vec::new();
    let loads = [
        (false, SUBMIT, ["submit, p50 µs", "submit, p99 µs"]),
        (true, LIFE, ["submit to end, p50 µs", "submit to end, p99 µs"]),
    ];
    for (life, bar, names) in loads {
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for _ in 0..options.rounds {
            let directory = disk::directory(options)?;
            let peer = Peer::start_on(Kind::Ours, &Queue::file(&directory.path().join("jobs.sqlite3")), options)?;
            ours.push(measure(&mut Gearman::connect(peer.port)?, life, sizes.round)?);
            peer.check_port()?;
            drop(peer);
            let directory = disk::directory(options)?;
            let server = Server::start(directory.path(), options)?;
            theirs.push(measure(&mut Beanstalk(Link::connect(server.port)?), life, sizes.round)?);
        }
        let series = |name, rounds: &[[f64; 2]], metric: usize| Series {
            name,
            rounds: rounds.iter().map(|metrics| metrics[metric]).collect(),
        };
        for (metric, name) in names.into_iter().enumerate() {
            let bar = if metric == 0 { Bar::Ratio(bar) } else { Bar::Information };
            let theirs = vec![series("beanstalkd -f0", &theirs, metric)];
            lines.push(Line::new("one", name, series("ours", &ours, metric), theirs, bar));
        }
    }
    Ok(lines)
}
