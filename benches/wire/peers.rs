//! The servers under load: how each is started, and the check that it is the one that answers.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use crate::failure::{Result, fail};
use crate::floor;
use crate::measuring;
use crate::options::Options;

/// Number of hash buckets that suits a million jobs in gearmand.
const TUNED: &str = "1000003";
/// Counts the servers started.
static STARTED: AtomicU32 = AtomicU32::new(0);
/// Time limit of a start: C++ gearmand reads a million queued jobs before it answers.
const START: Duration = Duration::from_mins(3);

/// Options of a server's job queue, and the port of its web interface if it has one.
#[derive(Clone, Debug)]
pub(crate) struct Queue {
    options: Vec<String>,
    http: Option<u16>,
}

impl Queue {
    /// In memory.
    pub(crate) fn memory() -> Self {
        Self::new(["-q", "builtin"].map(str::to_owned))
    }

    /// In this SQLite file.
    pub(crate) fn file(path: &Path) -> Self {
        Self::new(["-q".to_owned(), "libsqlite3".to_owned(), format!("--libsqlite3-db={}", path.display())])
    }

    /// Adds a web interface on this port.
    pub(crate) fn with_http(mut self, port: u16) -> Self {
        self.http = Some(port);
        self
    }

    /// A queue with these options.
    pub(crate) fn new(options: impl IntoIterator<Item = String>) -> Self {
        Self { options: options.into_iter().collect(), http: None }
    }
}

/// A server and its configuration for a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The server under test with its defaults.
    Ours,
    /// An earlier build of it (`--before`).
    Before,
    /// gearmand with one I/O thread, waking one worker per job.
    TheirsOne,
    /// gearmand with four I/O threads, waking one worker per job.
    TheirsFour,
    /// gearmand with its defaults: four I/O threads, waking every sleeper.
    TheirsDefault,
    /// [`Kind::TheirsOne`] with large hash tables.
    TheirsOneTuned,
    /// [`Kind::TheirsFour`] with large hash tables.
    TheirsFourTuned,
    /// The raw epoll server.
    Floor,
}

impl Kind {
    /// Its name in the table and the report.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Ours => "ours",
            Self::Before => "before",
            Self::TheirsOne => "-t 1 -w 1",
            Self::TheirsFour => "-t 4 -w 1",
            Self::TheirsDefault => "default",
            Self::TheirsOneTuned => "-t 1 -w 1, tuned",
            Self::TheirsFourTuned => "-t 4 -w 1, tuned",
            Self::Floor => "floor",
        }
    }

    fn arguments(self) -> &'static [&'static str] {
        match self {
            Self::Ours | Self::Before | Self::TheirsDefault | Self::Floor => &[],
            Self::TheirsOne => &["-t", "1", "-w", "1"],
            Self::TheirsFour => &["-t", "4", "-w", "1"],
            Self::TheirsOneTuned => &["-t", "1", "-w", "1", "--hashtable-buckets", TUNED],
            Self::TheirsFourTuned => &["-t", "4", "-w", "1", "--hashtable-buckets", TUNED],
        }
    }
}

/// A running server; killed when it is dropped.
pub(crate) struct Peer {
    pub(crate) kind: Kind,
    pub(crate) port: u16,
    child: Child,
    pid_file: PathBuf,
    http: Option<u16>,
}

impl Peer {
    /// Starts a server on a free port, which keeps jobs in memory, and waits until it listens.
    pub(crate) fn start(kind: Kind, options: &Options) -> Result<Self> {
        Self::start_on(kind, &Queue::memory(), options)
    }

    /// Starts a server on a free port, with this queue, and waits until it listens.
    ///
    /// The port is the one that this process listens on according to `/proc`, so no other server can answer
    /// in its place.
    pub(crate) fn start_on(kind: Kind, queue: &Queue, options: &Options) -> Result<Self> {
        fs::create_dir_all(&options.output)?;
        let stem = kind.name().replace([' ', ','], "");
        let stem = stem.trim_start_matches('-');
        // Two servers of a kind may run at the same time: a pid file each, one log.
        let pid_file = options.output.join(format!("{stem}.{}.pid", STARTED.fetch_add(1, Ordering::Relaxed)));
        let mut command = match kind {
            Kind::Floor => Command::new(std::env::current_exe()?),
            Kind::Ours => Command::new(&options.ours),
            Kind::Before => Command::new(options.before.as_ref().unwrap_or(&options.ours)),
            _ => Command::new(&options.theirs),
        };
        if kind == Kind::Floor {
            command.arg(floor::ARGUMENT);
        } else {
            command.args(["--port", "0", "-L", "127.0.0.1", "-l", "stderr", "--pid-file"]);
            command.arg(&pid_file).args(kind.arguments()).args(&queue.options);
            if matches!(kind, Kind::Ours | Kind::Before) {
                let address = queue.http.map_or_else(|| "off".to_owned(), |port| format!("127.0.0.1:{port}"));
                command.args(["--http-listen", &address]);
            }
        }
        let log = File::options().create(true).append(true).open(options.output.join(format!("{stem}.log")))?;
        let child = command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).spawn();
        let child = match child {
            Ok(child) => child,
            Err(error) => {
                return fail(format!("cannot start {}: {error}", Path::new(command.get_program()).display()));
            }
        };
        let mut peer = Self { kind, port: 0, child, pid_file, http: queue.http };
        let begun = Instant::now();
        while peer.port == 0 {
            if let Some(status) = peer.child.try_wait()? {
                return fail(format!("{} ended at its start: {status}", kind.name()));
            }
            if begun.elapsed() > START {
                return fail(format!("{} does not listen", kind.name()));
            }
            std::thread::sleep(Duration::from_millis(5));
            peer.port = measuring::listening_port(peer.pid(), peer.http)?.unwrap_or(0);
        }
        Ok(peer)
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// CPU time of the server.
    pub(crate) fn cpu(&self) -> Result<Duration> {
        measuring::cpu(self.pid())
    }

    /// Anonymous memory of the server, in bytes.
    pub(crate) fn memory(&self) -> Result<u64> {
        measuring::memory(self.pid())
    }

    /// Resident memory of the server including mapped files, in bytes.
    pub(crate) fn resident(&self) -> Result<u64> {
        measuring::resident(self.pid())
    }

    /// Fails unless the server is still the one that listens on its port.
    pub(crate) fn check_port(&self) -> Result<()> {
        if measuring::listening_port(self.pid(), self.http)? == Some(self.port) {
            Ok(())
        } else {
            fail(format!("{} lost its port", self.kind.name()))
        }
    }

    /// Number of jobs of the benchmark's function, according to the server's `status`.
    pub(crate) fn jobs(&self) -> Result<u64> {
        self.jobs_of("bench")
    }

    /// Number of jobs of a function, according to the server's `status`.
    pub(crate) fn jobs_of(&self, function: &str) -> Result<u64> {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port))?;
        stream.set_read_timeout(Some(START))?;
        stream.write_all(b"status\n")?;
        let mut jobs = 0;
        for line in BufReader::new(&stream).lines() {
            let line = line?;
            if line == "." {
                return Ok(jobs);
            }
            if let Some(counts) = line.strip_prefix(function).and_then(|rest| rest.strip_prefix('\t')) {
                jobs = counts.split('\t').next().and_then(|total| total.parse().ok()).unwrap_or(jobs);
            }
        }
        fail("status ended without its full stop")
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // A server that has ended by itself needs no kill.
        let _gone = self.child.kill();
        let _status = self.child.wait();
        // A killed server cannot remove its pid file; the floor has none.
        let _removed = fs::remove_file(&self.pid_file);
    }
}
