//! A server whose disk fails, the client that submits to it, and those who must not notice.

use std::collections::{HashMap, HashSet};

use gearmand::store::location::Access;

use crate::common::{Server, Wire, packet, wait_for};
use crate::durable::{self, Contents, Random, Submission};
use crate::shim::Shim;
use crate::shim::trace::{Kind, Record, Trace};

const FUNCTIONS: &[&str] = &["kept"];
const DUE_S: u64 = 4_000_000_000;

/// A server under the shim, and what its client was told.
pub(crate) struct Stage {
    pub(crate) shim: Shim,
    pub(crate) server: Server,
    client: Wire,
    random: Random,
    serial: u64,
    acknowledged: HashMap<u64, (String, Submission)>,
    refused: HashSet<u64>,
    ended: HashSet<u64>,
}

impl Stage {
    #[track_caller]
    pub(crate) fn new(seed: u64) -> Self {
        println!("seed {seed}");
        let shim = Shim::new();
        let arguments = shim.arguments();
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let server = Server::ours_with(&arguments, &shim.environment());
        let client = Wire::connect(server.addr());
        let (acknowledged, refused, ended) = (HashMap::new(), HashSet::new(), HashSet::new());
        Self { shim, server, client, random: Random::new(seed), serial: 0, acknowledged, refused, ended }
    }

    /// Submits jobs, all of them before the first answer is read. Tells how many were acknowledged; the
    /// others were refused with the right error.
    #[track_caller]
    pub(crate) fn submit(&mut self, jobs: u64) -> u64 {
        let mut bytes = Vec::new();
        let mut submissions = Vec::new();
        for _ in 0..jobs {
            self.serial += 1;
            let submission = Submission::any(&mut self.random, self.serial, FUNCTIONS, DUE_S);
            bytes.extend(submission.request());
            submissions.push((self.serial, submission));
        }
        self.client.send_raw(&bytes);
        let mut acknowledged = 0;
        for (serial, submission) in submissions {
            let (packet_type, body) = self.client.recv();
            let body = String::from_utf8_lossy(&body).into_owned();
            match packet_type {
                packet::JOB_CREATED => {
                    acknowledged += 1;
                    self.acknowledged.insert(serial, (body, submission));
                }
                packet::ERROR => {
                    let (code, text) = body.split_once('\0').expect("an ERROR has two arguments");
                    assert_eq!(code, "QUEUE_ERROR", "{text}");
                    self.refused.insert(serial);
                }
                other => panic!("a submission was answered with type {other}"),
            }
        }
        acknowledged
    }

    /// Lets a worker take and end one job.
    #[track_caller]
    pub(crate) fn end_one(&mut self) {
        let mut worker = Wire::connect(self.server.addr());
        worker.send(packet::CAN_DO, FUNCTIONS[0].as_bytes());
        worker.send(packet::GRAB_JOB, b"");
        let body = worker.expect_type(packet::JOB_ASSIGN);
        let handle = body.split(|byte| *byte == 0).next().expect("a handle");
        worker.send(packet::WORK_COMPLETE, &packet::body(&[handle, b""]));
        worker.expect_nothing();
        let handle = String::from_utf8_lossy(handle);
        let serial = self.acknowledged.iter().find(|(_, (known, _))| *known == handle).map(|(serial, _)| *serial);
        self.ended.insert(serial.expect("a job that was acknowledged"));
    }

    /// A line of `show store`.
    #[track_caller]
    pub(crate) fn shown(&self, key: &str) -> Option<String> {
        let answer = Wire::connect(self.server.addr()).text("show store");
        assert!(!answer.starts_with("ERR"), "show store: {answer}");
        answer.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('\t').map(str::to_owned))
    }

    /// Waits until jobs are taken again, and everything that was to be done is done in the file.
    #[track_caller]
    pub(crate) fn recover(&mut self) {
        wait_for("a job that is acknowledged", || (self.submit(1) == 1).then_some(()));
        wait_for("show store to say ok", || (self.shown("state").as_deref() == Some("ok")).then_some(()));
        assert_eq!(self.shown("error").unwrap_or_default(), "", "the error of a store that works");
        assert_eq!(self.submit(10), 10, "the store is well, and refuses jobs");
        let file = self.shim.database();
        wait_for("the file to hold what was acknowledged and nothing else", || {
            let contents = durable::read(&file, Access::Read).ok()?;
            self.judge(&contents).is_empty().then_some(())
        });
    }

    /// Kills the server, and wants everything that was acknowledged, and nothing else.
    #[track_caller]
    pub(crate) fn kill_and_judge(&mut self) {
        self.server.kill();
        let contents = durable::read(&self.shim.database(), Access::Own).expect("a file that opens");
        let wrong = self.judge(&contents);
        assert!(wrong.is_empty(), "after the kill:\n  {}", wrong.join("\n  "));
        assert!(!contents.jobs.is_empty());
        assert_eq!(retried(&self.shim.trace()), None);
    }

    /// Kills the server while its store fails, and wants everything that was acknowledged. What was refused
    /// may be there too, and what has ended: nobody could say so to the disk.
    #[track_caller]
    pub(crate) fn kill_and_look(&mut self) {
        self.server.kill();
        let contents = durable::read(&self.shim.database(), Access::Own).expect("a file that opens");
        let mut there: HashMap<u64, (String, Submission)> = HashMap::new();
        for job in contents.jobs {
            there.insert(job.submission.serial().expect("a job of the test"), (job.handle, job.submission));
        }
        for (serial, job) in self.acknowledged.iter().filter(|(serial, _)| !self.ended.contains(serial)) {
            assert_eq!(there.get(serial), Some(job), "{} was acknowledged", job.0);
        }
        let submitted =
            there.keys().all(|serial| self.acknowledged.contains_key(serial) || self.refused.contains(serial));
        assert!(submitted, "jobs came back that nobody had submitted");
        assert_eq!(retried(&self.shim.trace()), None);
    }

    /// What the file says, against what the client was told.
    fn judge(&self, contents: &Contents) -> Vec<String> {
        let mut wrong = Vec::new();
        let mut there = HashSet::new();
        for job in &contents.jobs {
            let serial = job.submission.serial().expect("a job of the test");
            there.insert(serial);
            match self.acknowledged.get(&serial) {
                Some(_) if self.ended.contains(&serial) => {
                    wrong.push(format!("{} has ended, and is there", job.handle));
                }
                Some((handle, submission)) if (handle, submission) == (&job.handle, &job.submission) => {}
                Some((handle, _)) => wrong.push(format!("{} is not as it was submitted: {handle}", job.handle)),
                None => {
                    let refused = self.refused.contains(&serial);
                    wrong.push(format!("{} was not acknowledged (refused: {refused})", job.handle));
                }
            }
        }
        let lost =
            self.acknowledged.iter().filter(|(serial, _)| !there.contains(serial) && !self.ended.contains(serial));
        wrong.extend(lost.map(|(_, (handle, _))| format!("{handle} was acknowledged, and is lost")));
        if contents.quarantined > 0 {
            wrong.push(format!("{} entries make no sense", contents.quarantined));
        }
        wrong
    }
}

/// A sync that failed says that nobody knows what is on the disk. The next one would succeed and mean
/// nothing: the file must be opened anew before anything else is done to it.
///
/// Tells what was done to a descriptor whose sync had failed.
pub(crate) fn retried(trace: &Trace) -> Option<String> {
    let mut failed: HashSet<i32> = HashSet::new();
    for (index, record) in trace.records.iter().enumerate() {
        match record.kind {
            Kind::Opened | Kind::Closed => {
                failed.remove(&record.fd);
            }
            Kind::Written | Kind::Resized | Kind::Synced if failed.contains(&record.fd) => {
                let Record { kind, fd, .. } = record;
                return Some(format!("record {index}: {kind:?} on descriptor {fd}, whose sync had failed"));
            }
            Kind::Synced if record.error != 0 => {
                failed.insert(record.fd);
            }
            _ => {}
        }
    }
    None
}
