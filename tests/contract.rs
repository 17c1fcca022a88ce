//! The contract of managed workers (`docs/worker-contract.md`), tried on `gearmand work --managed` and on the
//! workers that people copy, through our server and through Debian's gearmand.
//!
//! `tests/contract/subject.rs` names the workers. Whoever has one in another language adds it there; it has
//! to do `reverse`, `sleep_ms` (the workload is milliseconds, and the result too), `log_line` (appends the
//! workload and a process id to the file `LOG_FILE`) and `fail`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a failed expectation is how a test fails")]

mod common;

#[path = "contract/case.rs"]
mod case;
#[path = "contract/scripted.rs"]
mod scripted;
#[path = "contract/subject.rs"]
mod subject;

use std::collections::BTreeMap;
use std::fs;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use case::{Case, FLEET, HOST, VERSION, expect_refusal, lives, names, unix_time};
use common::{Implementation, Program, Wire, packet, wait_for};
use scripted::{HANDLE, Heard, Scripted};
use subject::{SUBJECTS, Subject, child};

/// The functions that every subject could do, sorted.
const FUNCTIONS: [&str; 4] = ["fail", "log_line", "reverse", "sleep_ms"];

/// How long a job takes that others look at.
const LONG: Duration = Duration::from_secs(3);

/// The time in which every answer has to be there.
const BOUND: Duration = Duration::from_secs(1);

/// How long each subject waits at least for its servers to know its functions before it answers: an answer
/// that took longer may come before they do, since it is due within the second.
const EFFECT: Duration = Duration::from_millis(600);

/// Runs the test for every subject through both servers at the same time, and names those that fail.
fn for_each(test: fn(&mut Case)) {
    for_these(&SUBJECTS, test);
}

fn for_these(subjects: &[Subject], test: fn(&mut Case)) {
    common::require_peers();
    let pairs = subjects.iter().flat_map(|subject| {
        [Implementation::Ours, Implementation::Debian].map(|implementation| (*subject, implementation))
    });
    let failed: Vec<String> = std::thread::scope(|scope| {
        let threads: Vec<_> = pairs
            .map(|(subject, implementation)| {
                let name = format!("{} with {implementation:?}", subject.language());
                let thread = std::thread::Builder::new().name(name.clone());
                let run = move || test(&mut Case::new(subject, implementation));
                (name, thread.spawn_scoped(scope, run).expect("a thread"))
            })
            .collect();
        threads.into_iter().filter_map(|(name, thread)| thread.join().is_err().then_some(name)).collect()
    });
    assert!(failed.is_empty(), "failed: {}", failed.join(", "));
}

#[test]
fn a_worker_introduces_itself_and_can_be_managed_when_it_has_answered() {
    for_each(|case| {
        let before = unix_time();
        let worker = case.start();
        case.await_workers("setId", 1);
        assert!(FUNCTIONS.iter().all(|function| case.workers(function) == 0), "it does what nobody asked for");
        let begin = Instant::now();
        let answer = case.set_id("web-1.a_B");
        if begin.elapsed() >= EFFECT {
            case.await_workers("manage_web-1.a_B", 1);
        }
        assert_eq!(case.workers("manage_web-1.a_B"), 1);
        case.await_workers("setId", 0);
        assert_introduces(case, &answer, "web-1.a_B", case.pid(&worker));
        let started = answer["started"].as_f64().expect("a time");
        assert!((before - 1.0..=unix_time()).contains(&started), "{started}");
    });
}

#[test]
fn the_way_to_an_id_is_to_register_to_answer_and_to_drop() {
    common::require_peers();
    let version_file = tempfile::NamedTempFile::new().expect("a file");
    fs::write(&version_file, VERSION).expect("a version");
    for subject in SUBJECTS {
        let server = Scripted::with_job(b"setId", b"w");
        let _worker = Program::start(&mut subject.command(&server.address(), FLEET, version_file.path()));
        let said = |packet_type, body: &'static [u8]| move |heard: &Heard| matches!(heard, Heard::Packet(of, said) if *of == packet_type && said.starts_with(body));
        let registered = server.position("CAN_DO manage_w", said(packet::CAN_DO, b"manage_w"));
        let answered = server.position("an answer", said(packet::WORK_COMPLETE, HANDLE));
        let cant_do = said(packet::CANT_DO, b"setId");
        let dropped = server.position("the end of setId", |heard| match heard {
            Heard::End(functions) => functions.iter().any(|function| function == b"setId"),
            packet @ Heard::Packet(..) => cant_do(packet),
        });
        // Who drops the function before its answer has the job taken away by C++ gearmand.
        assert!(registered < answered && answered < dropped, "{subject:?}: {registered} {answered} {dropped}");
    }
}

/// What the answers to `setId` and `status` share.
fn assert_introduces(case: &Case, answer: &Value, id: &str, pid: u64) {
    let wanted = [
        ("ok", json!(true)),
        ("contract", json!(1)),
        ("id", json!(id)),
        ("fleet", json!(FLEET)),
        ("host", json!(HOST)),
        ("pid", json!(pid)),
        ("language", json!(case.subject.language())),
        ("version", json!(VERSION)),
    ];
    for (field, value) in wanted {
        assert_eq!(answer[field], value, "{field} of {answer}");
    }
    if answer.get("functionInUse").is_none() {
        assert_eq!(names(&answer["functions"]), FUNCTIONS);
    }
}

#[test]
fn a_bad_id_is_refused_and_a_good_one_is_taken_after_it() {
    for_each(|case| {
        let _worker = case.start();
        for bad in ["", "a b", "a/b", "\u{fc}", "a\n", "a\0b", &"a".repeat(65)] {
            expect_refusal(&case.set_id(bad), bad);
        }
        expect_refusal(&case.submit("setId", b"\xff").answer(), "a byte that is no UTF-8");
        let longest = "a".repeat(64);
        assert_eq!(case.set_id(&longest)["id"], json!(longest));
        assert_eq!(case.ask(&longest, "version")["ok"], true);
    });
}

#[test]
fn a_worker_takes_one_id() {
    for_each(|case| {
        let first = case.submit("setId", b"first");
        let second = case.submit("setId", b"second");
        let worker = case.start();
        assert_eq!(first.answer()["pid"], json!(case.pid(&worker)));
        // It has refused the other one, or left it where it was: then it is for the next worker.
        let next = case.start();
        let answer = second.answer();
        if answer["ok"] == true {
            assert_eq!(answer["pid"], json!(case.pid(&next)));
        } else {
            expect_refusal(&answer, "a second id");
        }
        assert_eq!(case.ask("first", "status")["id"], "first");
        assert_eq!(case.workers("manage_first"), 1);
    });
}

#[test]
fn the_status_says_what_was_done_and_what_runs() {
    for_each(|case| {
        let worker = case.start_as("w", &["reverse", "fail", "sleep_ms"]);
        let status = case.ask("w", "status");
        assert_introduces(case, &status, "w", case.pid(&worker));
        assert_eq!((&status["state"], &status["running"]), (&json!("idle"), &json!([])));
        assert!(status["uptime"].as_f64().expect("seconds") > 0.0);
        assert!(status["memory"].as_u64().expect("bytes") > 1 << 20);
        assert_eq!(names(&status["functionInUse"]), ["fail", "reverse", "sleep_ms"]);
        assert_eq!(names(&status["functionNotUse"]), ["log_line"]);
        for field in ["count", "failures"] {
            let numbers = status[field].as_object().unwrap_or_else(|| panic!("{field} of {status} is no object"));
            assert!(numbers.values().all(|number| number == 0), "{status}");
        }

        case.reverse();
        case.reverse();
        assert_eq!(case.submit("fail", b"x").result(), None);
        wait_for("counts", || {
            let status = case.ask("w", "status");
            let (count, failures) = (&status["count"], &status["failures"]);
            let failed_of_reverse = failures["reverse"].as_u64().unwrap_or(0);
            (count["reverse"] == 2 && count["fail"] == 1 && failures["fail"] == 1 && failed_of_reverse == 0)
                .then_some(())
        });

        let before = unix_time();
        let job = case.run_for("w", LONG);
        let status = case.ask("w", "status");
        assert_eq!(status["state"], "working");
        assert_eq!(status["running"].as_array().expect("a list").len(), 1);
        let run = &status["running"][0];
        assert_eq!(run["function"], "sleep_ms");
        assert_eq!(run["handle"].as_str().expect("a handle").as_bytes(), job.handle);
        let since = run["since"].as_f64().expect("a time");
        assert!((before - 1.0..=unix_time()).contains(&since), "{since}");
        assert!(job.result().is_some());
        wait_for("a worker without a job", || (case.ask("w", "status")["state"] == "idle").then_some(()));
    });
}

#[test]
fn functions_are_registered_and_dropped() {
    for_each(|case| {
        let _worker = case.start_as("w", &[]);
        let begin = Instant::now();
        let answer = case.ask_for("w", "registerFunction", &["reverse", "log_line"]);
        if begin.elapsed() >= EFFECT {
            for function in ["reverse", "log_line"] {
                case.await_workers(function, 1);
            }
        }
        assert_eq!(names(&answer["functionInUse"]), ["log_line", "reverse"]);
        assert_eq!(names(&answer["functionNotUse"]), ["fail", "sleep_ms"]);
        assert_eq!([case.workers("reverse"), case.workers("log_line")], [1, 1], "in effect when the answer comes");
        case.reverse();

        // Registering again and dropping again are no errors. PHP's worker reconnects for them.
        case.register("w", &["reverse"]);
        case.await_workers("reverse", 1);
        let begin = Instant::now();
        let answer = case.ask_for("w", "unregisterFunction", &["reverse", "fail"]);
        if begin.elapsed() >= EFFECT {
            case.await_workers("reverse", 0);
        }
        assert_eq!(names(&answer["functionInUse"]), ["log_line"]);
        let waiting = case.submit("reverse", b"later");
        case.await_workers("reverse", 0);
        assert_eq!(case.numbers("reverse"), [1, 0, 0]);

        // A job that was there before the function is done too.
        case.register("w", &["reverse"]);
        assert_eq!(waiting.result(), Some(b"retal".to_vec()));
    });
}

#[test]
fn what_makes_no_sense_is_refused_and_changes_nothing() {
    for_each(|case| {
        let _worker = case.start_as("w", &["fail"]);
        let deep = "[".repeat(100_000);
        let texts = [
            "",
            "junk",
            "{",
            "[]",
            "{}",
            "3",
            "null",
            "\"status\"",
            r#"["status"]"#,
            &deep,
            r#"{"verb": "fly"}"#,
            r#"{"verb": 3}"#,
            r#"{"verb": null}"#,
            r#"{"verb": ["status"]}"#,
            r#"{"verb": "Status"}"#,
            r#"{"verb": "registerFunction"}"#,
            r#"{"verb": "registerFunction", "arguments": 3}"#,
            r#"{"verb": "registerFunction", "arguments": "reverse"}"#,
            r#"{"verb": "registerFunction", "arguments": {}}"#,
            r#"{"verb": "registerFunction", "arguments": {"functions": "reverse"}}"#,
            r#"{"verb": "registerFunction", "arguments": {"functions": {"a": "reverse"}}}"#,
            r#"{"verb": "registerFunction", "arguments": {"functions": ["reverse", 1]}}"#,
            r#"{"verb": "registerFunction", "arguments": {"functions": ["reverse", ["log_line"]]}}"#,
            r#"{"verb": "registerFunction", "arguments": {"functions": ["reverse", "nonesuch"]}}"#,
            r#"{"verb": "unregisterFunction", "arguments": {"functions": ["fail", "nonesuch"]}}"#,
            r#"{"verb": "unregisterFunction", "arguments": {"functions": null}}"#,
        ];
        for text in texts {
            expect_refusal(&case.say("w", text.as_bytes()), &text[..text.len().min(100)]);
        }
        expect_refusal(&case.say("w", b"{\"verb\": \"\xff\"}"), "a byte that is no UTF-8");
        let status = case.say("w", br#"{"verb": "status", "arguments": {"functions": []}, "more": {"new": 1}}"#);
        assert_eq!((&status["ok"], names(&status["functionInUse"])), (&json!(true), vec!["fail".to_owned()]));
    });
}

#[test]
fn every_answer_is_there_within_a_second_while_a_job_runs() {
    for_each(|case| {
        let _worker = case.start_as("w", &["sleep_ms"]);
        let job = case.run_for("w", 2 * LONG);
        let timed = |ask: &dyn Fn() -> Value| {
            let begin = Instant::now();
            let answer = ask();
            assert_eq!(answer["ok"], true, "{answer}");
            begin.elapsed()
        };
        let asks: [&dyn Fn() -> Value; 4] = [
            &|| case.ask("w", "status"),
            &|| case.ask("w", "version"),
            &|| case.ask_for("w", "registerFunction", &["reverse"]),
            &|| case.ask_for("w", "unregisterFunction", &["reverse"]),
        ];
        let rounds: Vec<[Duration; 4]> = (0..5).map(|_| asks.map(timed)).collect();
        assert_eq!(case.ask("w", "status")["state"], "working", "the answers were to come before the result");
        for place in 0..asks.len() {
            let mut durations: Vec<Duration> = rounds.iter().map(|round| round[place]).collect();
            durations.sort_unstable();
            // A pause of the whole machine delays single answers; the median excludes it.
            assert!(durations[durations.len() / 2] < BOUND, "{durations:?} for verb {place}");
            assert!(durations[durations.len() - 1] < 3 * BOUND, "{durations:?} for verb {place}");
        }
        case.register("w", &["reverse"]);
        assert_eq!(job.result(), Some((2 * LONG).as_millis().to_string().into_bytes()));
        case.reverse();
    });
}

#[test]
fn a_function_that_is_dropped_during_its_job_has_this_job_done_and_no_other() {
    for_each(|case| {
        let _worker = case.start_as("w", &["sleep_ms", "reverse"]);
        let running = case.run_for("w", LONG);
        let waiting = case.submit("sleep_ms", b"1");
        let answer = case.ask_for("w", "unregisterFunction", &["sleep_ms"]);
        assert_eq!(names(&answer["functionInUse"]), ["reverse"]);
        assert!(running.result().is_some());
        // This one is done after the next look for a job.
        case.reverse();
        case.await_workers("sleep_ms", 0);
        assert_eq!(case.numbers("sleep_ms"), [1, 0, 0]);
        case.register("w", &["sleep_ms"]);
        assert_eq!(waiting.result(), Some(b"1".to_vec()));
    });
}

#[test]
fn a_worker_that_is_to_end_finishes_its_job_and_takes_no_other() {
    for_each(|case| {
        let mut worker = case.start_as("w", &["sleep_ms"]);
        let running = case.run_for("w", LONG);
        let waiting = case.submit("sleep_ms", b"1");
        case.exit("w");
        let status = case.ask("w", "status");
        assert_eq!((&status["state"], &status["running"][0]["function"]), (&json!("leaving"), &json!("sleep_ms")));
        expect_refusal(&case.ask_for("w", "registerFunction", &["reverse"]), "registerFunction");
        for verb in ["newWorker", "reload"] {
            expect_refusal(&case.ask("w", verb), verb);
        }
        assert_eq!(case.ask_for("w", "unregisterFunction", &["sleep_ms"])["ok"], true);
        case.exit("w");
        assert!(running.result().is_some());
        worker.expect_end(&[]);
        case.await_workers("manage_w", 0);
        case.await_workers("sleep_ms", 0);
        assert_eq!(case.numbers("sleep_ms"), [1, 0, 0]);

        let mut idle = case.start_as("next", &["sleep_ms"]);
        assert_eq!(waiting.result(), Some(b"1".to_vec()));
        case.exit("next");
        idle.expect_end(&[]);
    });
}

#[test]
fn a_new_worker_is_a_sibling_of_the_one_that_was_asked() {
    for_each(|case| {
        let mut worker = case.start_as("w", &["reverse"]);
        let first = case.pid(&worker);
        let pid = case.new_worker("w");
        assert_ne!(pid, first);
        let answer = case.set_id("sibling");
        assert_introduces(case, &answer, "sibling", pid);
        assert_eq!(names(&case.ask("sibling", "status")["functionInUse"]), Vec::<String>::new());
        // It is not the first one's child: it outlives who started it.
        case.exit("w");
        expect_end(case.subject, &mut worker, first);
        case.register("sibling", &["reverse"]);
        case.reverse();
        case.exit("sibling");
        wait_for("the end of the sibling", || (!lives(pid)).then_some(()));
    });
}

#[test]
fn workers_are_not_started_beyond_what_the_host_can_bear() {
    for_each(|case| {
        let _worker = case.start_limited("w");
        expect_refusal(&case.ask("w", "newWorker"), "newWorker beyond the limit");
        assert_eq!(case.ask("w", "status")["ok"], true);
        case.await_workers("setId", 0);
    });
}

/// Waits for the end of a worker which has a sibling.
fn expect_end(subject: Subject, worker: &mut Program, pid: u64) {
    match subject {
        // Its supervisor stays as long as there is another one.
        Subject::Ours => wait_for("the end of a worker", || (!lives(pid)).then_some(())),
        Subject::Php | Subject::Python => worker.expect_end(&[]),
    }
}

#[test]
fn new_code_is_taken_up_without_dropping_a_job() {
    for_each(|case| {
        let worker = case.start_as("w", &["reverse", "sleep_ms"]);
        let version = case.ask("w", "version");
        assert_eq!((&version["language"], &version["contract"]), (&json!(case.subject.language()), &json!(1)));
        assert_eq!(version["version"], VERSION);
        case.set_version("2026-2");
        assert_eq!(case.ask("w", "version")["version"], VERSION, "not before it is told");
        let job = case.run_for("w", LONG);
        // A machine that is busy may not start the new code in time; then nothing has happened.
        let answer = wait_for("new code", || Some(case.ask("w", "reload")).filter(|answer| answer["ok"] == true));
        assert_eq!(answer["version"], "2026-2");
        assert!(job.result().is_some());
        let status = wait_for("the new version", || {
            Some(case.ask("w", "status")).filter(|status| status["version"] == "2026-2")
        });
        assert_eq!((&status["id"], &status["pid"]), (&json!("w"), &json!(case.pid(&worker))));
        assert_eq!(names(&status["functionInUse"]), ["reverse", "sleep_ms"]);
        assert_eq!(status["count"]["sleep_ms"], 1, "what was counted before stays");
        case.reverse();
    });
}

#[test]
fn a_worker_comes_back_with_its_id_after_a_restart_of_the_server() {
    for_each(|case| {
        let worker = case.start_as("w", &["reverse"]);
        case.server.restart();
        case.await_workers("manage_w", 1);
        case.await_workers("reverse", 1);
        assert_eq!(case.workers("setId"), 0);
        let status = case.ask("w", "status");
        assert_eq!((&status["id"], &status["pid"]), (&json!("w"), &json!(case.pid(&worker))));
        case.reverse();
    });
}

#[test]
fn a_worker_of_two_servers_does_the_jobs_of_the_one_that_is_there() {
    for_each(|case| {
        let mut other = Case::new(case.subject, Implementation::Ours);
        let _worker = case.start_at(&format!("{},{}", case.server.addr(), other.server.addr()));
        assert_eq!(case.set_id("w")["ok"], true);
        other.await_workers("manage_w", 1);
        other.await_workers("setId", 0);
        other.register("w", &["reverse"]);
        case.await_workers("reverse", 1);
        case.reverse();
        other.reverse();

        other.server.kill();
        for _ in 0..3 {
            case.reverse();
            assert_eq!(case.ask("w", "status")["ok"], true);
        }
        case.register("w", &["fail"]);
        assert_eq!(case.submit("fail", b"x").result(), None);
        other.server.restart();
        other.await_workers("manage_w", 1);
        other.await_workers("fail", 1);
        other.reverse();
        case.reverse();
    });
}

#[test]
fn no_job_is_lost_or_repeated_while_functions_and_workers_come_and_go() {
    const JOBS: usize = 1000;
    for_each(|case| {
        let mut worker = case.start_as("w", &["log_line"]);
        let mut wire = Wire::connect(case.server.addr());
        for number in 0..JOBS {
            let body = packet::body(&[b"log_line", b"", number.to_string().as_bytes()]);
            wire.send(packet::SUBMIT_JOB_BG, &body);
            wire.expect_type(packet::JOB_CREATED);
            if number % 100 == 0 {
                assert_eq!(case.ask_for("w", "unregisterFunction", &["log_line"])["ok"], true);
                case.register("w", &["log_line"]);
            }
        }
        let first = case.pid(&worker);
        case.new_worker("w");
        assert_eq!(case.set_id("sibling")["ok"], true);
        case.register("sibling", &["log_line"]);
        wait_for("new code", || (case.ask("sibling", "reload")["ok"] == true).then_some(()));
        case.exit("w");
        expect_end(case.subject, &mut worker, first);
        // Each job is a process with some workers: all of them may take a slow machine longer than one wait.
        let mut left = JOBS + 1;
        while left > 0 {
            left = wait_for("the end of more jobs", || Some(case.numbers("log_line")[0]).filter(|now| *now < left));
        }
        wait_for("the end of all jobs", || (case.numbers("log_line")[..2] == [0, 0]).then_some(()));
        let log = fs::read_to_string(case.log()).expect("the log");
        let mut times: BTreeMap<&str, usize> = BTreeMap::new();
        for line in log.lines() {
            *times.entry(line.split(' ').next().expect("a workload")).or_default() += 1;
        }
        let repeated: Vec<_> = times.iter().filter(|(_, times)| **times > 1).collect();
        assert!(repeated.is_empty() && times.len() == JOBS, "{} of {JOBS} jobs, repeated: {repeated:?}", times.len());
    });
}

fn send(pid: u64, signal: Signal) {
    kill(Pid::from_raw(i32::try_from(pid).expect("a process id")), signal).expect("signal a process");
}

/// `gearmand work --managed` has its supervisor signalled; that is in `tests/managed`.
#[test]
fn a_signal_ends_a_worker_after_its_job() {
    for_these(&[Subject::Php, Subject::Python], |case| {
        let mut worker = case.start_as("w", &["sleep_ms"]);
        let job = case.run_for("w", LONG);
        // As a service manager does it that signals all processes of a service.
        let processes = match case.subject {
            Subject::Php => vec![case.pid(&worker), child(worker.pid())],
            Subject::Ours | Subject::Python => vec![case.pid(&worker)],
        };
        for pid in processes {
            send(pid, Signal::SIGTERM);
        }
        wait_for("a worker that leaves", || (case.ask("w", "status")["state"] == "leaving").then_some(()));
        assert!(job.result().is_some());
        worker.expect_end(&[]);
    });
}

#[test]
fn a_php_worker_ends_when_a_job_kills_its_process_and_the_job_goes_back() {
    for_these(&[Subject::Php], |case| {
        let mut worker = case.start_as("w", &["sleep_ms"]);
        let job = case.run_for("w", LONG);
        send(child(worker.pid()), Signal::SIGKILL);
        // Its service manager is told by the exit status that this was no regular end.
        let (_, status) = worker.finish();
        assert_eq!(status.code(), Some(1));
        case.await_workers("manage_w", 0);
        wait_for("the job in the queue", || (case.numbers("sleep_ms") == [1, 0, 0]).then_some(()));
        let _next = case.start_as("next", &["sleep_ms"]);
        assert_eq!(job.result(), Some(LONG.as_millis().to_string().into_bytes()));
    });
}

#[test]
fn the_jobs_of_a_php_worker_that_is_killed_end_with_it_after_the_one_that_runs() {
    for_these(&[Subject::Php], |case| {
        let mut worker = case.start_as("w", &["sleep_ms"]);
        let job = case.run_for("w", LONG);
        let waiting = case.submit("sleep_ms", b"1");
        let orphan = child(worker.pid());
        worker.kill();
        assert_eq!(job.result(), Some(LONG.as_millis().to_string().into_bytes()));
        wait_for("the end of the process that does jobs", || (!lives(orphan)).then_some(()));
        case.await_workers("manage_w", 0);
        case.await_workers("sleep_ms", 0);
        assert_eq!(case.numbers("sleep_ms"), [1, 0, 0]);
        drop(waiting);
    });
}
