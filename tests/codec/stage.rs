//! A job server in this process, its connections, and the peers at their other ends.

use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::ops::ControlFlow;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use gearmand::admin::{Admin, Process};
use gearmand::hub::Hub;
use gearmand::job_server::{Durability, Policy};
use gearmand::net::Clock;
use gearmand::net::connection::{Limits, Server, serve};
use gearmand::net::listings::{Listings, keep_order};
use gearmand::net::pressure::Pressure;
use gearmand::net::timer::keep_time;
use gearmand::net::turn::Turns;
use gearmand::net::watch::Patience;
use gearmand::protocol::packet::FrameLimits;
use gearmand::stats::{ConnectionGauges, Stats};
use gearmand::store::Workloads;
use gearmand::store::location::Access;
use gearmand::store::sqlite::SqliteStore;
use gearmand::store::write_queue::WriteQueue;
use gearmand::store::writer::{self, Settings};
use tempfile::TempDir;
use tokio::task::{AbortHandle, JoinSet, yield_now};

use crate::script::{PREFIX, Script};

/// How long anything may take that a server does at once.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// The server and what runs in it.
pub(crate) struct Stage {
    pub(crate) hub: Arc<Hub>,
    server: Arc<Server>,
    limits: Limits,
    connections: JoinSet<()>,
    /// What runs beside the connections.
    tasks: [AbortHandle; 2],
    store: Option<Kept>,
}

struct Kept {
    queue: Arc<WriteQueue>,
    writer: JoinHandle<()>,
    directory: TempDir,
}

fn open_store(directory: &TempDir) -> SqliteStore {
    SqliteStore::open(&directory.path().join("queue"), "gearman_queue", false, Access::Own, &Arc::from(PREFIX)).unwrap()
}

impl Stage {
    /// To be called within a runtime.
    pub(crate) fn new(script: &Script) -> Self {
        let clock = Arc::new(Clock::start());
        let stats = Arc::new(Stats::default());
        let queue = script.has_store.then(|| Arc::new(WriteQueue::default()));
        let policy = Policy {
            handle_prefix: PREFIX.to_owned(),
            keeps_jobs: script.has_store,
            durability: Durability::Off,
            max_jobs: 60,
            max_functions: 60,
            max_pending_jobs_per_connection: 20,
            ..Policy::default()
        };
        let hub = Arc::new(Hub::new(policy, Arc::clone(&stats), queue.clone()));
        let store = queue.map(|queue| {
            let directory = tempfile::tempdir().unwrap();
            let (told, time) = (Arc::clone(&hub), Arc::clone(&clock));
            let settings =
                Settings { durability: Durability::Off, interval: Duration::from_secs(1), probe: None, reserve: None };
            let report = Box::new(move |reports| told.stored(time.now(), reports));
            let store = Box::new(open_store(&directory));
            let writer = writer::spawn(store, Arc::clone(&queue), settings, stats, report).unwrap();
            Kept { queue, writer, directory }
        });
        let process = Process {
            version: "fuzzed",
            allow_shutdown: AtomicBool::new(true),
            is_read_only: AtomicBool::new(script.is_read_only),
            log_level: Box::new(|| "INFO"),
            shutdown: Box::new(|_| {}),
        };
        let admin = Arc::new(Admin::new(Arc::clone(&hub), process));
        let listings = Arc::new(Listings::default());
        let tasks = [
            tokio::spawn(keep_time(Arc::clone(&hub), Arc::clone(&clock))).abort_handle(),
            tokio::spawn(keep_order(Arc::clone(&listings))).abort_handle(),
        ];
        let pressure = Pressure::new(Arc::clone(&hub.shared_stats().memory));
        Self {
            server: Arc::new(Server {
                hub: Arc::clone(&hub),
                admin,
                clock,
                listings,
                pressure,
                turns: Arc::new(Turns::new(1)),
            }),
            hub,
            limits: Limits {
                frames: FrameLimits { packet: script.packet, line: 8192 },
                output: script.output,
                patience: Patience::default(),
                first_byte_timeout: None,
            },
            connections: JoinSet::new(),
            tasks,
            store,
        }
    }

    /// A new peer that is called `name`.
    pub(crate) fn connect(&mut self, name: &str) -> Peer {
        let (ours, theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        theirs.set_nonblocking(true).unwrap();
        let gauges = Arc::new(ConnectionGauges::new(theirs.as_raw_fd(), name.to_owned()));
        let stream = tokio::net::UnixStream::from_std(theirs).unwrap();
        self.connections.spawn(serve(Arc::clone(&self.server), self.limits, gauges, stream));
        Peer { stream: ours, unsent: Vec::new(), received: Vec::new(), has_ended: false }
    }

    /// Fails if a connection's task has panicked.
    fn check_tasks(&mut self) {
        while let Some(ended) = self.connections.try_join_next() {
            ended.unwrap();
        }
    }

    /// Waits until `done` says that it is; meanwhile the server has its turns.
    pub(crate) async fn until(&mut self, what: &str, mut done: impl FnMut(&mut Self) -> bool) {
        let begun = Instant::now();
        for round in 0.. {
            self.check_tasks();
            if done(self) {
                return;
            }
            assert!(begun.elapsed() < PATIENCE, "{what}: not within {PATIENCE:?}");
            if round < 100 {
                yield_now().await;
            } else {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
    }

    /// How many jobs there are of a function.
    pub(crate) fn jobs_of(&self, function: &[u8]) -> usize {
        let mut count = 0;
        self.each_job(|of, _| count += usize::from(of == function));
        count
    }

    fn each_job(&self, mut see: impl FnMut(&[u8], Vec<u8>)) {
        let mut place = Some(0);
        while let Some(from) = place {
            place = self.hub.list_jobs(from, |job| {
                assert!(job.background && job.clients == 0, "a foreground job is there and nobody waits: {job:?}");
                let mut handle = Vec::new();
                job.handle.write(&mut handle);
                see(job.function.as_bytes(), handle);
                ControlFlow::Continue(())
            });
        }
    }

    /// Everybody has gone: nothing must be left but background jobs, and when these are cancelled nothing at
    /// all.
    pub(crate) async fn finish(mut self) {
        self.until("the end of all connections", |stage| stage.connections.is_empty()).await;
        assert!(self.hub.stats().connections.is_empty(), "connections are published that have ended");
        self.until("the store's answers", |stage| {
            stage.hub.unanswered_job_count() == 0 && stage.hub.waiting_changes() == 0
        })
        .await;
        let mut handles = Vec::new();
        self.each_job(|_, handle| handles.push(handle));
        assert_eq!(handles.len(), self.hub.job_count(), "jobs are counted that are not listed");
        for handle in handles {
            let name = handle.escape_ascii().to_string();
            assert!(self.hub.cancel_job(self.server.clock.now(), &handle), "{name} is listed and cannot be cancelled");
        }
        // A running job goes when its worker does, and they all have.
        assert_eq!((self.hub.job_count(), self.hub.workload_bytes()), (0, 0), "jobs and bytes of workloads");
        self.tasks.iter().for_each(AbortHandle::abort);
        if let Some(Kept { queue, writer, directory }) = self.store.take() {
            assert_eq!(self.hub.kept_job_count(), 0, "jobs that the store is taken to have");
            queue.close(self.hub.last_number());
            writer.join().unwrap();
            let mut rows = Vec::new();
            let mut store = open_store(&directory);
            let take = &mut |job, _| {
                rows.push(format!("{job:?}"));
                Workloads::Wanted
            };
            gearmand::store::Store::replay(&mut store, take).unwrap();
            assert!(rows.is_empty(), "the store has kept what was cancelled: {rows:?}");
        }
    }
}

/// The other end of a connection.
pub(crate) struct Peer {
    stream: UnixStream,
    unsent: Vec<u8>,
    pub(crate) received: Vec<u8>,
    /// The server has closed.
    pub(crate) has_ended: bool,
}

impl Peer {
    /// Sends what the server takes, and the rest with the next call.
    pub(crate) fn send(&mut self, bytes: &[u8]) {
        self.unsent.extend_from_slice(bytes);
        while !self.unsent.is_empty() {
            match self.stream.write(&self.unsent) {
                Ok(count) => drop(self.unsent.drain(..count)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                // It does not read any more.
                Err(_) => self.unsent.clear(),
            }
        }
    }

    /// Reads what has come, so many bytes at most.
    pub(crate) fn read(&mut self, most: usize) {
        let mut buffer = vec![0; most.min(1 << 16)];
        let mut left = most;
        while left > 0 && !self.has_ended {
            let room = left.min(buffer.len());
            match self.stream.read(&mut buffer[..room]) {
                Ok(0) => self.has_ended = true,
                Ok(count) => {
                    self.received.extend_from_slice(&buffer[..count]);
                    left -= count;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(_) => self.has_ended = true,
            }
        }
    }

    /// Closes its side. What is not sent is not sent any more.
    pub(crate) fn half_close(&mut self) {
        self.unsent.clear();
        // The server may have closed before.
        let _ = self.stream.shutdown(Shutdown::Write);
    }

    /// Whether all that it wanted to say is said.
    pub(crate) fn has_said_all(&self) -> bool {
        self.unsent.is_empty()
    }
}
