//! A queue that Debian's C++ gearmand has left, taken over.

use std::collections::BTreeSet;

use gearmand::protocol::Priority;
use gearmand::store::Changes;
use gearmand::store::location::Access;

use super::battery::Database;
use super::common::{Server, Wire, packet};
use super::jobs::{TestJob, adding, open, read};

/// C++ gearmand keeps 63 of these.
const SIXTY_FOUR: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdeX";
const DUE_S: u64 = 2_000_000_000;

/// A submission: packet, function, unique id, due time where the packet has one, workload.
type Submission<'a> = (u32, &'a str, &'a str, Option<u64>, &'a [u8]);

/// C++ gearmand keeps one job without a unique id for each function, and one with `-`.
const SUBMISSIONS: &[Submission<'static>] = &[
    (packet::SUBMIT_JOB_BG, "plain", "u1", None, b"normal"),
    (packet::SUBMIT_JOB_HIGH_BG, "plain", "u2", None, b"high"),
    (packet::SUBMIT_JOB_LOW_BG, "plain", "u3", None, b"low"),
    (packet::SUBMIT_JOB_BG, "plain", "u4", None, b"bin\0ary\xff\x80\r\n"),
    (packet::SUBMIT_JOB_BG, "plain", "u5", None, b""),
    (packet::SUBMIT_JOB_BG, "anonymous", "", None, b"no unique id"),
    (packet::SUBMIT_JOB_BG, "dash", "-", None, b"the workload is the unique id"),
    (packet::SUBMIT_JOB_BG, "with-hyphens", "in-both", None, b"hyphens"),
    (packet::SUBMIT_JOB_BG, "with-hyphens", "u9", None, b"hyphens in the function"),
    (packet::SUBMIT_JOB_BG, "plain", "hyphens-in-unique", None, b"hyphens in the unique id"),
    (packet::SUBMIT_JOB_BG, "quote'd", "it's", None, b"quotes"),
    (packet::SUBMIT_JOB_BG, "plain", SIXTY_FOUR, None, b"the longest unique id"),
    (packet::SUBMIT_JOB_EPOCH, "later", "u12", Some(DUE_S), b"due in 2033"),
];

/// What of a job must survive.
pub(crate) type Kept = (Vec<u8>, Vec<u8>, Priority, u64, Vec<u8>);

/// Lets C++ gearmand write a queue, and takes it over.
pub(crate) fn takeover(database: &dyn Database) {
    let name = "takeover";
    let options = database.debian_options(name);
    let mut server = Server::debian(&options.iter().map(String::as_str).collect::<Vec<_>>());
    let mut client = Wire::connect(server.addr());
    let mut expected = BTreeSet::new();
    for &(kind, function, unique, due, workload) in SUBMISSIONS {
        let due_text = due.map(|due| due.to_string()).unwrap_or_default();
        let mut arguments = vec![function.as_bytes(), unique.as_bytes()];
        if due.is_some() {
            arguments.push(due_text.as_bytes());
        }
        arguments.push(workload);
        client.send(kind, &packet::body(&arguments));
        if due.is_some() && !database.debian_keeps_due_times() {
            client.expect_error("QUEUE_ERROR");
            continue;
        }
        client.expect_type(packet::JOB_CREATED);
        let priority = match kind {
            packet::SUBMIT_JOB_HIGH_BG => Priority::High,
            packet::SUBMIT_JOB_LOW_BG => Priority::Low,
            _ => Priority::Normal,
        };
        let (function, unique) = database.debian_names(function, unique);
        expected.insert(kept_of(function.as_bytes(), unique.as_bytes(), priority, due.unwrap_or(0), workload));
    }
    server.terminate();
    expected.extend(database.put_beside(name));
    assert_eq!(database.rows(name), expected.len());
    let location = database.location(name);
    // Looking first changes nothing of what is taken over afterwards.
    let (jobs, replayed) = read(&mut *open(&location, Access::Read));
    assert_eq!(replayed.quarantined, 0);
    same(&jobs, &expected);
    let mut store = open(&location, Access::Own);
    let (jobs, replayed) = read(&mut *store);
    assert_eq!((replayed.quarantined, replayed.last_number), (0, expected.len() as u64));
    same(&jobs, &expected);
    let keys: Vec<_> = jobs.iter().map(TestJob::key).collect();
    for (job, workload) in jobs.iter().zip(store.load(&keys, usize::MAX).unwrap()) {
        assert_eq!(workload.as_deref(), Some(&job.workload[..]), "job {}", job.number);
    }
    // From now on they are jobs like others: they keep their numbers, work beside new ones, and go one by
    // one.
    let attempts: Vec<_> = keys.iter().map(|key| (key.clone(), 4)).collect();
    let new = TestJob::new(1_000, "plain", "new", b"new");
    store.commit(&Changes { attempts, ..adding(std::slice::from_ref(&new)) }).unwrap();
    drop(store);
    let mut store = open(&location, Access::Own);
    let (again, _) = read(&mut *store);
    let mut wanted: Vec<_> = jobs.iter().map(|job| TestJob { attempts: 4, ..job.clone() }).collect();
    wanted.push(new);
    assert_eq!(again, wanted);
    for (index, job) in wanted.iter().enumerate() {
        store.commit(&Changes { removes: vec![job.key()], ..Changes::default() }).unwrap();
        assert_eq!(read(&mut *store).0, wanted[index + 1..]);
    }
}

/// The parts of a job that must survive.
pub(crate) fn kept_of(function: &[u8], unique: &[u8], priority: Priority, due_s: u64, workload: &[u8]) -> Kept {
    (function.to_vec(), unique.to_vec(), priority, due_s, workload.to_vec())
}

#[track_caller]
fn same(jobs: &[TestJob], expected: &BTreeSet<Kept>) {
    let found: BTreeSet<Kept> =
        jobs.iter().map(|job| kept_of(&job.function, &job.unique, job.priority, job.due_s, &job.workload)).collect();
    let missing: Vec<_> = expected.difference(&found).collect();
    let strange: Vec<_> = found.difference(expected).collect();
    assert!(missing.is_empty() && strange.is_empty(), "missing: {missing:?}\nstrange: {strange:?}");
    assert_eq!(jobs.len(), expected.len());
}

/// Writes a queue, and lets C++ gearmand take it back: it runs every job once, also over its own restarts.
pub(crate) fn give_back(database: &dyn Database) {
    let name = "give_back";
    let jobs = [
        TestJob::new(1, "plain", "u1", b"one"),
        TestJob::new(2, "plain", "", b"two"),
        TestJob::new(3, "plain", "", b"\x01\xfe three"),
        TestJob::new(4, "plain", "-", b"four"),
        TestJob::new(5, "plain", "-", b"five"),
        TestJob::new(6, "plain", "H:elsewhere:2", b"six"),
        TestJob { priority: Priority::Low, ..TestJob::new(7, "other", "u7", &[b'7'; 4096]) },
        TestJob::new(8, "other", "u8", b""),
    ];
    open(&database.location(name), Access::Own).commit(&adding(&jobs)).unwrap();
    assert_eq!(database.rows(name), jobs.len());
    let options = database.debian_options(name);
    let mut server = Server::debian(&options.iter().map(String::as_str).collect::<Vec<_>>());
    let expected: BTreeSet<_> = jobs.iter().map(|job| (job.function.clone(), job.workload.clone())).collect();
    let mut ran = run_all(&server, jobs.len() / 2);
    assert_eq!(ran.len(), jobs.len() / 2, "{}", server.log());
    server.restart();
    ran.extend(run_all(&server, jobs.len()));
    assert_eq!(ran.len(), jobs.len(), "nothing runs twice, or not at all: {}", server.log());
    assert_eq!(ran.into_iter().collect::<BTreeSet<_>>(), expected);
    assert_eq!(database.rows(name), 0);
    server.restart();
    assert_eq!(run_all(&server, 1), [], "{}", server.log());
    server.terminate();
    // What it has run is gone for this server, too.
    assert_eq!(read(&mut *open(&database.location(name), Access::Own)).0, []);
    due_back(database);
}

/// Runs up to so many jobs of the functions `plain` and `other`: functions and workloads.
fn run_all(server: &Server, most: usize) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut worker = Wire::connect(server.addr());
    for function in ["plain", "other"] {
        worker.send(packet::CAN_DO, function.as_bytes());
    }
    let mut ran = Vec::new();
    while ran.len() < most {
        worker.send(packet::GRAB_JOB, b"");
        let (kind, body) = worker.recv();
        if kind == packet::NO_JOB {
            break;
        }
        assert_eq!(kind, packet::JOB_ASSIGN);
        let mut parts = body.splitn(3, |byte| *byte == 0).map(<[u8]>::to_vec);
        let mut part = || parts.next().expect("a part of an assignment");
        let (handle, function, workload) = (part(), part(), part());
        worker.send(packet::WORK_COMPLETE, &packet::body(&[&handle, b""]));
        ran.push((function, workload));
    }
    // Once this is answered, what came before is done.
    worker.send(packet::ECHO_REQ, b"done");
    worker.expect(packet::ECHO_RES, b"done");
    ran
}

/// A job that is not due: databases differ in whether C++ gearmand waits for it, but it is there.
fn due_back(database: &dyn Database) {
    let name = "due_back";
    let late = TestJob { due_s: 5_000_000_000, ..TestJob::new(1, "late", "u1", b"due in 2128") };
    open(&database.location(name), Access::Own).commit(&adding(&[late])).unwrap();
    let options = database.debian_options(name);
    let server = Server::debian(&options.iter().map(String::as_str).collect::<Vec<_>>());
    let status = Wire::connect(server.addr()).text("status");
    assert!(status.contains("late\t1\t0\t0\n"), "{status}\n{}", server.log());
}
