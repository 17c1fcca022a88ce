//! What every store in a database must do.

use gearmand::job_server::StoreFailure;
use gearmand::protocol::Priority;
use gearmand::store::location::{Access, Location};
use gearmand::store::{Changes, Workloads};

use super::debian::{self, Kept};
use super::jobs::{TestJob, adding, assert_same, open, read, try_open};

/// A database that is tried.
pub(crate) trait Database {
    /// A table or a prefix of this name in it.
    fn location(&self, name: &str) -> Location;
    /// The options of C++ gearmand for the same.
    fn debian_options(&self, name: &str) -> Vec<String>;
    /// What C++ gearmand's options and the store's errors call it.
    fn word(&self) -> &'static str;
    /// What becomes of a function and a unique id when C++ gearmand has kept them.
    fn debian_names<'a>(&self, function: &'a str, unique: &'a str) -> (&'a str, &'a str) {
        (function, &unique[..unique.len().min(63)])
    }
    /// Whether it keeps due times when C++ gearmand writes them.
    fn debian_keeps_due_times(&self) -> bool;
    /// Puts what other versions of C++ gearmand would have left beside what Debian's has left in this queue.
    fn put_beside(&self, name: &str) -> Vec<Kept>;
    /// Makes entries of this queue invalid: of the jobs 1 to 3 that are there, 1 and 3.
    fn spoil(&self, name: &str);
    /// How many jobs this queue has, as the database itself counts them.
    fn rows(&self, name: &str) -> usize;
    /// How many entries of this queue were quarantined, as the operator finds them.
    fn quarantined(&self, name: &str) -> usize;
    /// Puts a job of function `g` with the unique id `u1` and the workload `stranger` into this queue, as if
    /// no server knew of it.
    fn put_stranger(&self, name: &str);
    /// Puts a job of function `h` with the unique id `u9`, the workload `stranger` and this number into this
    /// queue.
    fn put_numbered(&self, name: &str, number: u64);
    /// Makes the database leave out jobs with the workload `swallowed` without a word, where it can.
    fn swallow(&self, name: &str) -> Option<()>;
    /// Ends the connections of all servers, at once and without a word.
    fn sever(&mut self);
    /// Gives the quarantine of this queue, with the jobs 1 and 3, the name that it had in earlier versions.
    fn make_former_quarantine(&self, name: &str);
    /// How many such entries were quarantined.
    fn strangers_quarantined(&self, name: &str) -> usize;
    /// Says that a newer program has written this queue.
    fn make_newer(&self, name: &str);
    /// A job that the database cannot take, and a word of the reason.
    fn refused(&self) -> (TestJob, &'static str);
    /// Gives the job of this number, which has no unique id of its own, the form in which former versions
    /// wrote it.
    fn make_former(&self, name: &str, job: &TestJob);
    /// Makes a table of somebody else's, with the columns `id` and `customer`; `None` where there are no
    /// tables.
    fn make_foreign(&self, name: &str) -> Option<()>;
    /// What the tables are that have this name, or one that begins with it, and their columns.
    fn described(&self, name: &str) -> String;
    /// Kills the database.
    fn kill(&mut self);
    /// Starts it again.
    fn start_again(&mut self);
}

/// Does everything with one database.
pub(crate) fn run(database: &mut dyn Database) {
    // Names that differ in case only are different, but a database may write them in one case.
    round_trip(&database.location("round_trip"));
    changes(&database.location("changes"));
    settings(&database.location("settings"));
    many(&database.location("many"));
    one_server(&database.location("one_server"), database.word());
    reading(&database.location("reading"));
    spoilt(database);
    newer(database);
    former(database);
    foreign(database);
    refused(database);
    inserted(database);
    numbers_at_their_end(database);
    swallowed(database);
    severed(database);
    debian::takeover(database);
    debian::give_back(database);
    super::edits::run(database);
    crash(database);
}

/// What trying again cannot mend is refused at once, with a word of the reason, and without the password.
#[track_caller]
pub(crate) fn cannot_open(location: &Location, word: &str) {
    for access in [Access::Own, Access::Read] {
        let error = try_open(location, access).err().expect("a place that cannot be opened");
        assert_eq!(error.failure, StoreFailure::Refused, "{error}");
        assert!(error.text.contains(word) && !error.text.contains("wr0ng"), "{error}");
    }
}

/// Jobs of every kind.
pub(crate) fn zoo() -> Vec<TestJob> {
    let job = TestJob::new;
    let all_bytes: Vec<u8> = (0..=255).collect();
    let mebibyte: Vec<u8> = all_bytes.iter().copied().cycle().take(1 << 20).collect();
    let mut zoo = vec![
        job(1, "plain", "unique", b"workload"),
        job(2, "plain", "", b"no unique id"),
        job(3, "plain", "", b"nor this"),
        job(4, "plain", "-", b"the workload is the unique id"),
        job(5, "plain", "Unique", b"another case"),
        job(6, "plain", "unique ", b"a space behind"),
        job(7, "with-hyphens-in", "its-name", &all_bytes),
        job(8, "with", "hyphens-in-its-name", b""),
        job(9, "empty", "u9", b""),
        job(10, "large", "u10", &mebibyte),
        job(11, &"f".repeat(512), &"u".repeat(64), b"longest names"),
        job(12, &format!("{}x", "f".repeat(511)), &"u".repeat(64), b"almost the same"),
        job(13, "umlaut", "\u{fc}\u{20ac}\u{1f600}", b"more than ASCII"),
        job(14, "quotes'\"`\\;--%_", "' or 1=1; --", b"' or 1=1; --"),
        job(15, "plain", "H:elsewhere:2", b"a handle for a unique id"),
        job(16, "plain", "job:2", b"like the name of a key"),
        job(17, "spaces and *?[x]", "\t\r\n", b"\0"),
    ];
    let bytes =
        TestJob { function: b"\xff\xfe".to_vec(), unique: b"\xc3\x28".to_vec(), ..job(18, "", "", b"no UTF-8") };
    zoo.push(bytes);
    let reduce = TestJob { reducer: b"reduce\xff".to_vec(), ..job(19, "plain", "u19", b"reduce") };
    zoo.push(reduce);
    let high = TestJob { priority: Priority::High, attempts: 3, ..job(20, "plain", "u20", b"high") };
    zoo.push(high);
    let low =
        TestJob { priority: Priority::Low, attempts: u16::MAX, submitted_s: 0, ..job(21, "plain", "u21", b"low") };
    zoo.push(low);
    let soon = TestJob { due_s: 2_000_000_000, ..job(22, "plain", "u22", b"due in 2033") };
    zoo.push(soon);
    let late = TestJob { due_s: 5_000_000_000, ..job(23, "plain", "u23", b"due in 2128") };
    zoo.push(late);
    zoo.push(job(99, "", "the empty function", b"w"));
    zoo.push(TestJob { prefix: super::jobs::PREFIX, ..job(4_000_000_000, "plain", "u24", b"a large number") });
    zoo
}

/// Everything that a job is made of comes back.
pub(crate) fn round_trip(location: &Location) {
    let zoo = zoo();
    let mut store = open(location, Access::Own);
    let (jobs, replayed) = read(&mut *store);
    assert_eq!((jobs.len(), replayed.last_number), (0, 0), "a new queue is empty");
    store.commit(&adding(&zoo)).unwrap();
    assert_same(&read(&mut *store).0, &zoo);
    let last_number = 9_000_000_000;
    store.commit(&Changes { last_number, ..Changes::default() }).unwrap();
    drop(store);
    let mut store = open(location, Access::Own);
    let (jobs, replayed) = read(&mut *store);
    assert_same(&jobs, &zoo);
    assert_eq!((replayed.last_number, replayed.quarantined), (last_number, 0));
    let keys: Vec<_> = zoo.iter().map(TestJob::key).collect();
    let loaded = store.load(&keys, usize::MAX).unwrap();
    for (job, workload) in zoo.iter().zip(loaded) {
        assert!(workload.is_some_and(|workload| workload == job.workload), "the workload of job {}", job.number);
    }
    // Every one of them goes, and none takes another with it.
    let (first, second): (Vec<_>, Vec<_>) = zoo.iter().cloned().partition(|job| job.number % 2 == 0);
    let removing =
        |jobs: &[TestJob]| Changes { removes: jobs.iter().map(TestJob::key).collect(), ..Changes::default() };
    store.commit(&removing(&first)).unwrap();
    assert_same(&read(&mut *store).0, &second);
    store.commit(&removing(&second)).unwrap();
    assert_eq!(read(&mut *store).0.len(), 0);
}

fn changes(location: &Location) {
    let job = |number: u64| TestJob::new(number, "f", &format!("u{number}"), b"w");
    let mut store = open(location, Access::Own);
    store.commit(&adding(&[job(1), job(2), job(3)])).unwrap();
    let gone = job(9);
    // The unique id of one that ends is free for one that comes in the same transaction, or in a later one.
    let again = TestJob { unique: b"u1".to_vec(), ..job(4) };
    let mut all = adding(&[again.clone(), job(5)]);
    all.removes = vec![job(1).key(), gone.key()];
    all.attempts = vec![(job(2).key(), 7), (gone.key(), 8), (job(1).key(), 9), (job(5).key(), 2)];
    all.sync = false;
    store.commit(&all).unwrap();
    let with_attempts = |job: TestJob, attempts| TestJob { attempts, ..job };
    let expected = [with_attempts(job(2), 7), job(3), again.clone(), with_attempts(job(5), 2)];
    assert_same(&read(&mut *store).0, &expected);
    // A removal that comes late is for the job that it names, not for the one that has its unique id now.
    store.commit(&Changes { removes: vec![job(1).key()], ..Changes::default() }).unwrap();
    store.commit(&Changes { attempts: vec![(job(1).key(), 5)], ..Changes::default() }).unwrap();
    store.commit(&Changes { sync: true, ..Changes::default() }).unwrap();
    assert_same(&read(&mut *store).0, &expected);
    let loaded = store.load(&[job(3).key(), gone.key(), job(1).key(), again.key(), job(3).key()], usize::MAX).unwrap();
    let loaded: Vec<_> = loaded.iter().map(|workload| workload.as_deref()).collect();
    assert_eq!(loaded, [Some(&b"w"[..]), None, None, Some(b"w"), Some(b"w")]);
    assert_eq!(store.load(&[], usize::MAX).unwrap(), Vec::<Option<bytes::Bytes>>::new());
}

/// What the operator has decided is kept beside the jobs.
fn settings(location: &Location) {
    let long = format!("client {} {}", "%FF".repeat(128), "%00".repeat(512));
    let change = |settings: &[(&str, Option<&str>)]| {
        let settings = settings.iter().map(|(name, value)| ((*name).to_owned(), value.map(str::to_owned))).collect();
        Changes { settings, sync: true, ..Changes::default() }
    };
    let pairs = |settings: &[(&str, &str)]| -> Vec<(String, String)> {
        settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    };
    let job = TestJob::new(1, "settings", "u1", b"w");
    let mut store = open(location, Access::Own);
    assert_eq!(read(&mut *store).1.settings, []);
    let many: Vec<(String, Option<String>)> =
        (0..2000).map(|index| (format!("function f{index}"), Some("paused".to_owned()))).collect();
    store.commit(&Changes { settings: many.clone(), sync: true, ..Changes::default() }).unwrap();
    assert_eq!(read(&mut *store).1.settings.len(), many.len());
    let none = many.into_iter().map(|(name, _)| (name, None)).collect();
    store.commit(&Changes { settings: none, sync: true, ..Changes::default() }).unwrap();
    store.commit(&adding(std::slice::from_ref(&job))).unwrap();
    store
        .commit(&change(&[("function f", Some("paused")), ("function F", Some("running=1")), (&long, Some("x"))]))
        .unwrap();
    store
        .commit(&change(&[("function f", Some("queue=1,2,3")), ("function g", None), (&long, Some("draining"))]))
        .unwrap();
    store.commit(&change(&[("function F", None)])).unwrap();
    let expected = pairs(&[(&long, "draining"), ("function f", "queue=1,2,3")]);
    assert_eq!(read(&mut *store).1.settings, expected);
    drop(store);
    assert_eq!(read(&mut *open(location, Access::Read)).1.settings, [], "whoever looks is not told");
    let (jobs, replayed) = read(&mut *open(location, Access::Own));
    assert_same(&jobs, &[job]);
    assert_eq!(replayed.settings, expected);
}

fn many(location: &Location) {
    const JOBS: u64 = 10_000;
    let jobs: Vec<TestJob> = (1..=JOBS)
        .map(|number| TestJob::new(number, "f", &format!("{:x}", number * 7919 % 65_536), &[7; 200]))
        .collect();
    let mut store = open(location, Access::Own);
    for jobs in jobs.chunks(3_333) {
        store.commit(&adding(jobs)).unwrap();
    }
    drop(store);
    let mut store = open(location, Access::Own);
    assert_same(&read(&mut *store).0, &jobs);
    let mut with_workload = 0;
    let mut numbers = Vec::new();
    let take = &mut |job: gearmand::job_server::StoredJob, has_workload| {
        with_workload += u64::from(has_workload);
        assert_eq!(job.workload().len(), if has_workload { 200 } else { 0 });
        numbers.push(job.number);
        if job.number < 100 { Workloads::Wanted } else { Workloads::Unwanted }
    };
    store.replay(take).unwrap();
    assert!((100..=JOBS / 2).contains(&with_workload), "{with_workload} jobs came with a workload");
    assert!(numbers.iter().copied().eq(1..=JOBS), "jobs without workloads come in order, too");
    let removes: Vec<_> = jobs.iter().skip(1).map(TestJob::key).collect();
    store.commit(&Changes { removes, ..Changes::default() }).unwrap();
    assert_same(&read(&mut *store).0, &jobs[..1]);
}

fn one_server(location: &Location, word: &str) {
    let mut first = open(location, Access::Own);
    let error = try_open(location, Access::Own).err().expect("another server has the queue");
    assert_eq!(error.failure, StoreFailure::Locked, "{error}");
    assert!(error.text.contains("another gearmand") && error.text.contains(word), "{error}");
    let job = TestJob::new(1, "f", "u", b"w");
    first.commit(&adding(std::slice::from_ref(&job))).unwrap();
    drop(first);
    assert_same(&read(&mut *open(location, Access::Own)).0, &[job]);
}

fn reading(location: &Location) {
    // Whoever only looks makes nothing; whether that is an error or an empty queue is the database's way.
    if let Ok(mut store) = try_open(location, Access::Read) {
        assert_eq!(read(&mut *store).0.len(), 0);
    }
    let zoo = zoo();
    let mut owner = open(location, Access::Own);
    owner.commit(&adding(&zoo)).unwrap();
    let mut reader = open(location, Access::Read);
    assert_same(&read(&mut *reader).0, &zoo);
    assert_eq!(reader.load(&[zoo[0].key()], usize::MAX).unwrap()[0].as_deref(), Some(&b"workload"[..]));
    let error = reader.commit(&adding(&zoo[..1])).unwrap_err();
    assert_eq!(error.failure, StoreFailure::ReadOnly, "{error}");
    assert_same(&read(&mut *owner).0, &zoo);
}

fn spoilt(database: &dyn Database) {
    let location = database.location("spoilt");
    let jobs: Vec<_> = (1..=3).map(|number| TestJob::new(number, "f", &format!("u{number}"), b"w")).collect();
    open(&location, Access::Own).commit(&adding(&jobs)).unwrap();
    database.spoil("spoilt");
    let (found, replayed) = read(&mut *open(&location, Access::Read));
    assert_same(&found, &jobs[1..2]);
    assert_eq!((replayed.quarantined, database.quarantined("spoilt")), (2, 0), "whoever only looks moves nothing");
    let (found, replayed) = read(&mut *open(&location, Access::Own));
    assert_same(&found, &jobs[1..2]);
    assert_eq!((replayed.quarantined, database.quarantined("spoilt")), (2, 2));
    let (_, replayed) = read(&mut *open(&location, Access::Own));
    assert_eq!(replayed.quarantined, 0, "what was quarantined is out of the way");
    assert_eq!(replayed.last_number, 3, "numbers go on");
    database.make_former_quarantine("spoilt");
    assert_eq!(database.quarantined("spoilt"), 0);
    let (found, replayed) = read(&mut *open(&location, Access::Own));
    assert_same(&found, &jobs[1..2]);
    assert_eq!((replayed.quarantined, database.quarantined("spoilt")), (0, 2), "it has its present name again");
}

fn newer(database: &dyn Database) {
    let location = database.location("newer");
    drop(open(&location, Access::Own));
    database.make_newer("newer");
    for access in [Access::Own, Access::Read] {
        let error = try_open(&location, access).err().expect("a newer format");
        assert_eq!(error.failure, StoreFailure::Corrupt, "{error}");
        assert!(error.text.contains("format 99"), "{error}");
    }
}

/// What former versions wrote is read, and goes.
fn former(database: &dyn Database) {
    let location = database.location("former");
    let jobs = [
        TestJob::new(1, "plain", "", b"one"),
        TestJob::new(2, "plain", "", b"two"),
        TestJob::new(3, "f", "-", b"three"),
    ];
    open(&location, Access::Own).commit(&adding(&jobs)).unwrap();
    for job in &jobs {
        database.make_former("former", job);
    }
    assert_same(&read(&mut *open(&location, Access::Read)).0, &jobs);
    let mut store = open(&location, Access::Own);
    assert_same(&read(&mut *store).0, &jobs);
    let loaded = store.load(&[jobs[2].key()], usize::MAX).unwrap();
    assert_eq!(loaded[0].as_deref(), Some(&b"three"[..]));
    store.commit(&Changes { attempts: vec![(jobs[1].key(), 2)], ..Changes::default() }).unwrap();
    store.commit(&Changes { removes: vec![jobs[0].key(), jobs[2].key()], ..Changes::default() }).unwrap();
    assert_same(&read(&mut *store).0, &[TestJob { attempts: 2, ..jobs[1].clone() }]);
    assert_eq!(database.rows("former"), 1);
}

/// A table that is not gearmand's is left as it is.
fn foreign(database: &dyn Database) {
    let name = "orders";
    if database.make_foreign(name).is_none() {
        return;
    }
    let before = database.described(name);
    assert!(before.contains("customer"), "{before}");
    for access in [Access::Own, Access::Read] {
        let error = try_open(&database.location(name), access).err().expect("somebody else's table");
        assert_ne!(error.failure, StoreFailure::Unreachable, "{error}");
        assert!(error.text.contains("orders is a table with the columns customer, id, and not"), "{error}");
    }
    assert_eq!(database.described(name), before);
}

fn refused(database: &dyn Database) {
    let location = database.location("refused");
    let mut store = open(&location, Access::Own);
    let good = TestJob::new(1, "f", "u1", b"w");
    store.commit(&adding(std::slice::from_ref(&good))).unwrap();
    let (bad, word) = database.refused();
    for batch in [vec![bad.clone()], vec![TestJob::new(3, "f", "u3", b"w"), bad]] {
        let error = store.commit(&adding(&batch)).unwrap_err();
        assert_eq!(error.failure, StoreFailure::Refused, "{error}");
        assert!(error.text.contains(word), "{error}");
        assert_same(&read(&mut *store).0, std::slice::from_ref(&good));
    }
    let next = TestJob::new(4, "f", "u4", b"w");
    store.commit(&adding(std::slice::from_ref(&next))).unwrap();
    assert_same(&read(&mut *store).0, &[good, next]);
}

/// What others put beside a running server keeps no job out, and is a job at the next start.
fn inserted(database: &dyn Database) {
    let location = database.location("inserted");
    let mut store = open(&location, Access::Own);
    let job = |number: u64, function: &str, unique: &str| TestJob::new(number, function, unique, b"w");
    let ours = [job(1, "f", "u1"), job(2, "f", "u2"), job(3, "f", "u3"), job(4, "g", "u1"), job(5, "f", "u5")];
    store.commit(&adding(&ours[..2])).unwrap();
    database.put_stranger("inserted");
    database.put_numbered("inserted", 3);
    let adding = adding(&ours[2..]);
    store.commit(&adding).unwrap_or_else(|error| panic!("a stranger is in the way: {error}"));
    drop(store);
    let mut store = open(&location, Access::Own);
    let (jobs, replayed) = read(&mut *store);
    assert_same(&jobs[..5], &ours);
    assert_eq!((jobs.len(), replayed.quarantined), (7, 0), "{:?}", &jobs[5..]);
    assert!(jobs[5..].iter().all(|job| job.number > 5 && job.workload == b"stranger"), "{:?}", &jobs[5..]);
    store.commit(&Changes { removes: ours.iter().map(TestJob::key).collect(), ..Changes::default() }).unwrap();
    assert_same(&read(&mut *store).0, &jobs[5..]);
    store.commit(&Changes { removes: jobs[5..].iter().map(TestJob::key).collect(), ..Changes::default() }).unwrap();
    assert_eq!((read(&mut *store).0.len(), database.rows("inserted")), (0, 0));
}

/// A row with a number near the last one gets another, and numbers go on where they were.
fn numbers_at_their_end(database: &dyn Database) {
    for (name, number) in [("near_the_end", 999_999_999_998), ("at_the_end", 999_999_999_999), ("beyond", 1 << 62)] {
        let location = database.location(name);
        let job = TestJob::new(1, "f", "u1", b"w");
        open(&location, Access::Own).commit(&adding(std::slice::from_ref(&job))).unwrap();
        database.put_numbered(name, number);
        let (jobs, replayed) = read(&mut *open(&location, Access::Own));
        assert_same(&jobs[..1], &[job]);
        assert_eq!((jobs.len(), jobs[1].number, replayed.last_number, replayed.quarantined), (2, 2, 2, 0), "{name}");
        assert_eq!(jobs[1].workload, b"stranger");
        assert_same(&read(&mut *open(&location, Access::Own)).0, &jobs);
    }
    // One that the store has noted as given stays.
    let location = database.location("given");
    let job = TestJob::new(999_999_999_998, "f", "u1", b"w");
    open(&location, Access::Own).commit(&adding(std::slice::from_ref(&job))).unwrap();
    let (jobs, replayed) = read(&mut *open(&location, Access::Own));
    assert_same(&jobs, &[job]);
    assert_eq!(replayed.last_number, 999_999_999_998);
}

/// What the database leaves out without a word is not kept, and none of its transaction is.
fn swallowed(database: &dyn Database) {
    let location = database.location("swallowed");
    let mut store = open(&location, Access::Own);
    if database.swallow("swallowed").is_none() {
        return;
    }
    let (good, bad) = (TestJob::new(1, "f", "u1", b"w"), TestJob::new(2, "f", "u2", b"swallowed"));
    for batch in [vec![bad.clone()], vec![good.clone(), bad]] {
        let error = store.commit(&adding(&batch)).unwrap_err();
        assert_eq!(error.failure, StoreFailure::Refused, "{error}");
        assert!(error.text.contains("trigger"), "{error}");
        assert_eq!(read(&mut *store).0.len(), 0);
    }
    store.commit(&adding(std::slice::from_ref(&good))).unwrap();
    assert_same(&read(&mut *store).0, &[good]);
}

/// A connection that the database has ended is made again at once, whatever it is needed for.
fn severed(database: &mut dyn Database) {
    let location = database.location("severed");
    let job = |number: u64| TestJob::new(number, "f", &format!("u{number}"), b"w");
    let mut store = open(&location, Access::Own);
    store.commit(&adding(&[job(1), job(2)])).unwrap();
    database.sever();
    store.commit(&adding(&[job(3)])).unwrap_or_else(|error| panic!("refused: {error}"));
    database.sever();
    assert_eq!(store.load(&[job(1).key()], usize::MAX).unwrap_or_else(|error| panic!("{error}")).len(), 1);
    database.sever();
    store.commit(&Changes { removes: vec![job(2).key()], ..Changes::default() }).unwrap();
    assert_same(&read(&mut *store).0, &[job(1), job(3)]);
    let error = try_open(&location, Access::Own).err().expect("the new connection holds the queue, too");
    assert_eq!(error.failure, StoreFailure::Locked, "{error}");
}

fn crash(database: &mut dyn Database) {
    let location = database.location("crash");
    let job = |number: u64| TestJob::new(number, "f", &format!("u{number}"), b"w");
    let mut store = open(&location, Access::Own);
    store.commit(&adding(&[job(1), job(2)])).unwrap();
    database.kill();
    for _ in 0..2 {
        let error = store.commit(&adding(&[job(3)])).unwrap_err();
        assert_eq!(error.failure, StoreFailure::Unreachable, "{error}");
        assert!(error.text.contains(database.word()) && error.text.contains("keep jobs"), "{error}");
    }
    assert_eq!(store.load(&[job(1).key()], usize::MAX).unwrap_err().failure, StoreFailure::Unreachable);
    database.start_again();
    store.commit(&adding(&[job(4)])).unwrap_or_else(|error| panic!("the next call connects anew: {error}"));
    assert_same(&read(&mut *store).0, &[job(1), job(2), job(4)]);
    // Not noticed until the next use.
    database.kill();
    database.start_again();
    store.commit(&adding(&[job(5)])).unwrap_or_else(|error| panic!("it is tried again at once: {error}"));
    assert_same(&read(&mut *store).0, &[job(1), job(2), job(4), job(5)]);
    let error = try_open(&location, Access::Own).err().expect("the new connection holds the queue, too");
    assert_eq!(error.failure, StoreFailure::Locked, "{error}");
}
