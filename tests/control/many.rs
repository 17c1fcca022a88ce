//! Much of it: many jobs at once, and many commands.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::common::{Server, Wire, packet, wait_for};
use crate::stage::{Operator, Status, for_each_store, played_worker, result, server, submit};

const MANY: usize = 100_000;
/// How long a foreground job may take while much else goes on, without the time in which other programs had
/// the CPUs.
const PROMPT: Duration = Duration::from_secs(1);
/// How long it may take in all, however busy the machine is.
const IN_ALL: Duration = Duration::from_secs(5);

/// Submits background jobs, many in a packet of the network.
fn fill(server: &Server, function: &str, count: usize) {
    let mut client = Wire::connect(server.addr());
    let request = packet::request(packet::SUBMIT_JOB_BG, format!("{function}\0\0workload").as_bytes());
    for start in (0..count).step_by(1000) {
        let count = 1000.min(count - start);
        client.send_raw(&request.repeat(count));
        for _ in 0..count {
            client.expect_type(packet::JOB_CREATED);
        }
    }
}

/// How long each of the server's threads, and this one, has waited for a CPU so far: that is the load of the
/// machine, not the server. Nothing where the kernel does not count it.
fn waits_for_cpu(server: &Server) -> HashMap<PathBuf, Duration> {
    let threads = std::fs::read_dir(format!("/proc/{}/task", server.pid())).expect("the server's threads");
    let files = threads.flatten().map(|thread| thread.path().join("schedstat"));
    let files = files.chain([PathBuf::from("/proc/thread-self/schedstat")]);
    let counted = files.filter_map(|file| {
        let line = std::fs::read_to_string(&file).ok()?;
        Some((file, Duration::from_nanos(line.split_whitespace().nth(1)?.parse().ok()?)))
    });
    counted.collect()
}

/// The longest time for which one of these threads has waited for a CPU since.
fn waited_for_cpu(server: &Server, before: &HashMap<PathBuf, Duration>) -> Duration {
    let now = waits_for_cpu(server);
    let waits = now.iter().map(|(thread, wait)| wait.saturating_sub(before.get(thread).copied().unwrap_or_default()));
    waits.max().unwrap_or_default()
}

/// Has foreground jobs done until `is_over`, and returns how many that were and the longest that one took.
/// Says when it has begun.
fn ping(server: &Server, begun: &Barrier, is_over: &AtomicBool) -> (usize, Duration) {
    let mut client = Wire::connect(server.addr());
    let mut worker = played_worker(server, "", &["ping"]);
    let (mut count, mut longest) = (0, Duration::ZERO);
    begun.wait();
    loop {
        let is_last = is_over.load(Ordering::Relaxed);
        let waits_before = waits_for_cpu(server);
        let start = Instant::now();
        let handle = submit(&mut client, packet::SUBMIT_JOB, "ping", "", "");
        worker.send(packet::GRAB_JOB, b"");
        worker.expect_type(packet::JOB_ASSIGN);
        worker.send(packet::WORK_COMPLETE, &packet::body(&[handle.as_bytes(), b""]));
        assert_eq!(result(&mut client).packet_type, packet::WORK_COMPLETE);
        count += 1;
        let took = start.elapsed();
        assert!(took < IN_ALL, "a job took {took:?}");
        if took > longest {
            longest = longest.max(took.saturating_sub(waited_for_cpu(server, &waits_before)));
        }
        if is_last {
            return (count, longest);
        }
    }
}

#[test]
fn foreground_jobs_are_prompt_while_a_hundred_thousand_are_moved_listed_and_cancelled() {
    for_each_store(|server| {
        fill(&server, "many", MANY);
        for command in ["move jobs many more", "list jobs", "show jobs", "cancel jobs more"] {
            let (begun, is_over) = (Barrier::new(2), AtomicBool::new(false));
            std::thread::scope(|scope| {
                let pings = scope.spawn(|| ping(&server, &begun, &is_over));
                let mut wire = Wire::connect(server.addr());
                begun.wait();
                let answer = wire.text(command);
                is_over.store(true, Ordering::Relaxed);
                let (count, longest) = pings.join().expect("the pings");
                println!("{command}: {count} foreground jobs, the longest took {longest:?}");
                assert!(longest < PROMPT, "{command}: {longest:?}");
                assert!(!answer.starts_with("ERR"), "{command}: {answer}");
                if command.ends_with(" jobs") {
                    assert!(answer.lines().count() > MANY, "{command}: {}", answer.lines().count());
                }
            });
        }
        let mut operator = Operator::new(&server);
        for function in ["many", "more"] {
            assert_eq!(operator.status(function), Status::default());
        }
    });
}

#[test]
fn a_long_command_is_done_to_its_end_though_whoever_gave_it_has_gone() {
    let server = server(&["-q", "builtin"]);
    fill(&server, "many", MANY);
    let mut wire = Wire::connect(server.addr());
    wire.send_raw(b"cancel jobs many\n");
    let mut operator = Operator::new(&server);
    operator.await_status("many", |status| status.jobs < MANY as u64);
    drop(wire);
    let line = format!("cancel jobs many: done, {MANY} changed, by 127.0.0.1 (text command)");
    wait_for("the end of the command in the log", || server.log().contains(&line).then_some(()));
    assert_eq!(operator.status("many"), Status { jobs: 0, running: 0, workers: 0 });
}

/// Memory of the process that is in use, in KiB.
fn memory(server: &Server) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.pid())).expect("/proc");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("VmRSS");
    line.split_whitespace().next().and_then(|number| number.parse().ok()).expect("a number")
}

/// Commands whose effects undo each other, with names of their own.
fn round(server: &Server, first: usize, count: usize) {
    let mut wire = Wire::connect(server.addr());
    let mut client = played_worker(server, "", &[]);
    for serial in first..first + count {
        let job = submit(&mut client, packet::SUBMIT_JOB_BG, "from", &format!("u{serial}"), "");
        let mut commands = String::new();
        for command in [
            "pause to",
            "resume to",
            "limit running to 3",
            "limit running to 0",
            &format!("disable client:client-{serial} to"),
            &format!("drain host:2001:db8::{serial:x}"),
            &format!("enable client:client-{serial} to"),
            &format!("enable host:[2001:db8::{serial:x}]"),
            &format!("priority job {job} high"),
            &format!("move job {job} to"),
            "move jobs to from",
            &format!("cancel job {job}"),
            "cancel jobs from",
        ] {
            writeln!(commands, "{command}").expect("a string takes everything");
        }
        wire.send_raw(commands.as_bytes());
        for command in commands.lines() {
            assert!(wire.text_line().starts_with("OK"), "{command}");
        }
    }
}

#[test]
fn ten_thousand_commands_leave_nothing_behind() {
    for_each_store(|server| {
        round(&server, 0, 200);
        let before = memory(&server);
        round(&server, 200, 800);
        let mut operator = Operator::new(&server);
        assert!(operator.table("show rules").is_empty());
        assert!(operator.table("list jobs").is_empty());
        let functions: Vec<String> =
            operator.table("show functions").into_iter().map(|row| row["name"].clone()).collect();
        assert_eq!(functions, ["from", "to"]);
        wait_for("the store to be empty", || {
            (operator.value("show store", "waiting") == "0" && operator.value("show store", "jobs") == "0")
                .then_some(())
        });
        for function in functions {
            operator.ok(&format!("drop function {function}"));
        }
        let after = memory(&server);
        println!("{before} KiB before, {after} KiB after");
        // What the allocator and SQLite keep varies by some hundred KiB. 100 bytes a command would be a
        // thousand.
        assert!(after < before + 1000, "{before} KiB before, {after} KiB after");
    });
}

#[test]
fn the_log_says_who_did_what() {
    let server = server(&["-q", "builtin", "--allow-shutdown"]);
    let mut operator = Operator::new(&server);
    let mut client = played_worker(&server, "", &[]);
    let job = submit(&mut client, packet::SUBMIT_JOB_BG, "f", "", "");
    let mut worker = played_worker(&server, "w", &["g"]);
    for (command, changed) in [
        ("pause f", 1),
        ("resume f", 1),
        ("limit running f 3", 1),
        ("maxqueue f 1 2 3", 1),
        ("create function h", 1),
        ("drop function h", 1),
        ("disable client:w", 1),
        ("drain host:127.0.0.1 g", 1),
        ("enable client:w", 1),
        ("enable host:127.0.0.1 g", 1),
        ("move jobs f g", 1),
        ("kick client:w", 1),
        (&*format!("move job {job} f"), 1),
        (&*format!("priority job {job} low"), 1),
        ("cancel jobs f", 1),
        ("cancel jobs g", 0),
    ] {
        operator.ok(command);
        let line = format!("{command}: done, {changed} changed, by 127.0.0.1 (text command)");
        wait_for(&line, || server.log().contains(&line).then_some(()));
    }
    worker.expect_end();
    for (command, why) in [
        (&*format!("cancel job {job}"), "there is no such job"),
        (&*format!("run job {job}"), "there is no such job"),
        ("drop function unknown", "there is no such function"),
        ("kick client:w", "there is no such worker"),
    ] {
        operator.refused(command);
        let line = format!("{command}: {why}, 0 changed, by 127.0.0.1 (text command)");
        wait_for(&line, || server.log().contains(&line).then_some(()));
    }
    operator.ok("shutdown");
    wait_for("the log", || server.log().contains("shutdown: by 127.0.0.1 (text command)").then_some(()));
}
