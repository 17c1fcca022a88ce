//! Clients and workers, and what the server says of its store.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use gearmand::protocol::Priority;
use gearmand::store::location::Access;
use tempfile::TempDir;

use crate::common::packet::{self, body};
use crate::common::{Wire, wait_for};
use crate::durable::{self, Contents, Submission};

/// A background job of normal priority.
pub(crate) fn job(function: &str, unique: &str, workload: &[u8]) -> Submission {
    Submission {
        function: function.into(),
        unique: unique.into(),
        reducer: Vec::new(),
        priority: Priority::Normal,
        due_s: 0,
        workload: workload.to_vec(),
    }
}

/// Submits jobs, all of them before the first answer is read. Returns their handles.
#[track_caller]
pub(crate) fn submit(client: &mut Wire, jobs: &[Submission]) -> Vec<Vec<u8>> {
    let mut handles = Vec::with_capacity(jobs.len());
    // Neither side's buffers need hold all of it.
    for jobs in jobs.chunks(500) {
        client.send_raw(&jobs.iter().flat_map(Submission::request).collect::<Vec<u8>>());
        handles.extend(jobs.iter().map(|_| client.expect_type(packet::JOB_CREATED)));
    }
    handles
}

/// A job as a worker gets it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Assigned {
    pub(crate) handle: Vec<u8>,
    pub(crate) function: Vec<u8>,
    pub(crate) unique: Vec<u8>,
    pub(crate) workload: Vec<u8>,
}

impl Assigned {
    fn of(body: &[u8]) -> Self {
        let parts: Vec<&[u8]> = body.splitn(4, |byte| *byte == 0).collect();
        let [handle, function, unique, workload] = parts[..] else { panic!("JOB_ASSIGN_UNIQ has four arguments") };
        let [handle, function, unique, workload] = [handle, function, unique, workload].map(<[u8]>::to_vec);
        Self { handle, function, unique, workload }
    }
}

/// A worker.
pub(crate) struct Worker {
    wire: Wire,
    /// Jobs that it has not ended yet.
    held: VecDeque<Assigned>,
}

impl Worker {
    #[track_caller]
    pub(crate) fn connect(address: SocketAddr, functions: &[&str]) -> Self {
        let mut wire = Wire::connect(address);
        for function in functions {
            wire.send(packet::CAN_DO, function.as_bytes());
        }
        Self { wire, held: VecDeque::new() }
    }

    pub(crate) fn wire(&mut self) -> &mut Wire {
        &mut self.wire
    }

    /// Takes a job, if there is one now.
    #[track_caller]
    pub(crate) fn grab(&mut self) -> Option<Assigned> {
        self.wire.send(packet::GRAB_JOB_UNIQ, b"");
        match self.wire.recv() {
            (packet::NO_JOB, _) => None,
            (packet::JOB_ASSIGN_UNIQ, body) => {
                let assigned = Assigned::of(&body);
                self.held.push_back(assigned.clone());
                Some(assigned)
            }
            (other, body) => panic!("GRAB_JOB was answered with type {other} \"{}\"", body.escape_ascii()),
        }
    }

    /// Takes a job, and sleeps until there is one.
    #[track_caller]
    pub(crate) fn wait(&mut self) -> Assigned {
        loop {
            if let Some(assigned) = self.grab() {
                return assigned;
            }
            self.wire.send(packet::PRE_SLEEP, b"");
            self.wire.expect(packet::NOOP, b"");
        }
    }

    /// Ends the job that it has had longest: its result is its workload.
    #[track_caller]
    pub(crate) fn complete(&mut self) -> Assigned {
        let done = self.held.pop_front().expect("a job");
        self.wire.send(packet::WORK_COMPLETE, &body(&[&done.handle, &done.workload]));
        done
    }

    /// Takes and ends so many jobs, in their order.
    #[track_caller]
    pub(crate) fn work(&mut self, jobs: usize) -> Vec<Assigned> {
        let work = |_| {
            self.wait();
            self.complete()
        };
        let done = (0..jobs).map(work).collect();
        // The last result has been read.
        self.wire.expect_nothing();
        done
    }

    /// That there is no job for it.
    #[track_caller]
    pub(crate) fn expect_no_job(&mut self) {
        if let Some(assigned) = self.grab() {
            panic!("one more job: {} of {}", assigned.handle.escape_ascii(), assigned.function.escape_ascii());
        }
    }
}

/// A line of `show store`.
#[track_caller]
pub(crate) fn shown(address: SocketAddr, key: &str) -> String {
    let answer = Wire::connect(address).text("show store");
    let value = answer.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('\t').map(str::to_owned));
    value.unwrap_or_else(|| panic!("no {key} in show store: {answer}"))
}

/// A number of `show store`.
#[track_caller]
pub(crate) fn counted(address: SocketAddr, key: &str) -> u64 {
    shown(address, key).parse().expect("a number")
}

/// Waits until `show store` has this value.
#[track_caller]
pub(crate) fn await_shown(address: SocketAddr, key: &str, value: &str) {
    wait_for(&format!("show store to say {key} {value}"), || (shown(address, key) == value).then_some(()));
}

/// Whether a job is known, and whether it runs.
#[track_caller]
pub(crate) fn status_of(client: &mut Wire, handle: &[u8]) -> (bool, bool) {
    client.send(packet::GET_STATUS, handle);
    let status = client.expect_type(packet::STATUS_RES);
    let parts: Vec<&[u8]> = status.split(|byte| *byte == 0).collect();
    assert_eq!(parts[0], handle);
    (parts[1] == b"1", parts[2] == b"1")
}

/// A SQLite file of a test.
pub(crate) struct QueueFile {
    directory: TempDir,
}

impl QueueFile {
    pub(crate) fn new() -> Self {
        Self { directory: TempDir::new().expect("a temporary directory") }
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.directory.path().join("queue.sqlite3")
    }

    /// The options with which our server and Debian's keep jobs in it, and some more.
    pub(crate) fn options(&self, more: &[&str]) -> Vec<String> {
        let path = self.path().display().to_string();
        let options = ["-q", "libsqlite3", "--libsqlite3-db", &path, "--libsqlite3-table", "gearman_queue"];
        options.iter().chain(more).map(ToString::to_string).collect()
    }

    /// What is in it.
    #[track_caller]
    pub(crate) fn read(&self) -> Contents {
        read(&self.path())
    }

    /// Waits until it has exactly the jobs with these handles.
    #[track_caller]
    pub(crate) fn await_handles(&self, handles: &[Vec<u8>]) {
        let mut expected: Vec<String> = handles.iter().map(|handle| text(handle)).collect();
        expected.sort();
        wait_for("the file to hold what is left, and nothing else", || {
            let mut found: Vec<String> = self.read().jobs.into_iter().map(|job| job.handle).collect();
            found.sort();
            (found == expected).then_some(())
        });
    }
}

/// What is in a file.
#[track_caller]
pub(crate) fn read(path: &Path) -> Contents {
    durable::read(path, Access::Read).unwrap_or_else(|error| panic!("{error}"))
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Options as they are handed to a server.
pub(crate) fn words(options: &[String]) -> Vec<&str> {
    options.iter().map(String::as_str).collect()
}
