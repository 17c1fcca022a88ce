//! What becomes of the jobs that are asked for over HTTP.

use std::io::Read as _;
use std::net::TcpStream;
use std::process::{Command, Stdio};

use nix::sys::signal::Signal;
use tempfile::NamedTempFile;

use super::stage::{Stage, body, header, post, split};
use crate::common::{Implementation, Program, Wire, packet, wait_for};

/// Debian's worker, which pipes each workload through `command`.
#[track_caller]
fn gearman_worker(stage: &Stage, function: &str, command: &[&str]) -> Program {
    let port = stage.server.port().to_string();
    let worker = Program::start(
        Command::new("gearman").args(["-h", "127.0.0.1", "-p", &port, "-w", "-f", function, "--"]).args(command),
    );
    wait_for("the worker", || stage.status(function).filter(|(.., workers)| *workers > 0));
    worker
}

/// Runs curl on a path of the plugin, with something on its standard input: what it prints, head and body.
#[track_caller]
fn curl(stage: &Stage, function: &str, options: &[&str], input: &[u8]) -> Vec<u8> {
    let mut child = Command::new("curl")
        .args(["--silent", "--show-error", "--max-time", "60", "--include"])
        .args(options)
        .arg(format!("http://{}/{function}", stage.http))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .expect("start curl");
    let mut stdin = child.stdin.take().expect("a pipe");
    let mut stdout = child.stdout.take().expect("a pipe");
    let mut printed = Vec::new();
    std::thread::scope(|scope| {
        scope.spawn(move || std::io::Write::write_all(&mut stdin, input).expect("curl reads its input"));
        stdout.read_to_end(&mut printed).expect("read what curl prints");
    });
    assert!(child.wait().expect("wait for curl").success());
    printed
}

/// Bytes of all values that repeat nowhere near.
fn noise(size: usize) -> Vec<u8> {
    let mut state = 1_u32;
    let next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state.to_be_bytes()[0]
    };
    std::iter::repeat_with(next).take(size).collect()
}

#[test]
fn curl_and_a_real_worker_do_a_job_in_both_versions() {
    let stage = Stage::ours(&[]);
    let _worker = gearman_worker(&stage, "upper", &["tr", "a-z", "A-Z"]);
    let answer = curl(&stage, "upper", &["--http1.1", "--data-binary", "@-"], b"hello");
    let (head, shouted) = split(&answer);
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
    assert_eq!(header(&head, "Connection"), Some("close"));
    assert_eq!(shouted, b"HELLO");
    let answer = curl(&stage, "upper", &["--http1.0", "--data-binary", "@-"], b"hello");
    let (head, shouted) = split(&answer);
    assert!(head.starts_with("HTTP/1.0 200 OK\r\n"), "{head}");
    assert_eq!((header(&head, "Connection"), shouted), (None, &b"HELLO"[..]));
    // A body of the response to HEAD would be an error of curl's.
    let answer = curl(&stage, "upper", &["--head"], b"");
    let (head, rest) = split(&answer);
    assert_eq!((header(&head, "X-Gearman-Job-Handle"), rest), (Some("H:t:3"), &b""[..]));
}

#[test]
fn large_binary_workloads_come_back_as_they_went() {
    let stage = Stage::ours(&[]);
    // It reads all of its input first: the worker writes all of it before it reads.
    let kept = NamedTempFile::new().expect("a temporary file");
    let path = kept.path().to_str().expect("a path in UTF-8");
    let _worker = gearman_worker(&stage, "cat", &["sh", "-c", "cat >$0 && cat $0", path]);
    let workload = noise(4 << 20);
    // It expects to be asked for so much, and would wait a second if it were not.
    let headers = ["--http1.1", "-H", "Expect: 100-continue", "--expect100-timeout", "50", "--data-binary", "@-"];
    let answer = curl(&stage, "cat", &headers, &workload);
    let final_answer = answer.strip_prefix(b"HTTP/1.1 100 Continue\r\n\r\n").expect("the body is asked for");
    assert!(body(final_answer) == workload, "{} bytes came back", body(final_answer).len());
    stage.start_worker();
    let answer = stage.ask(&post("show", &[], &workload));
    let shown = body(&answer).strip_prefix(b"show|-|").expect("what the worker puts before it");
    assert!(shown == workload, "{} bytes came back", shown.len());
}

#[test]
fn a_background_job_is_answered_by_its_handle_and_runs_without_its_client() {
    let stage = Stage::ours(&[]);
    let headers = ["X-Gearman-Background: true"];
    let answer = stage.ask(&post("later", &headers, b"w"));
    let (head, _) = split(&answer);
    assert_eq!(header(&head, "X-Gearman-Command"), Some("JOB_CREATED"));
    assert_eq!(header(&head, "X-Gearman-Job-Handle"), Some("H:t:1"));
    // Also where the peer has closed its side by then.
    let peer = stage.peer(&post("later", &headers, b"v"));
    peer.finish_sending();
    let answer = peer.answer();
    let (head, _) = split(&answer);
    assert_eq!(header(&head, "X-Gearman-Job-Handle"), Some("H:t:2"));
    assert_eq!(stage.status("later"), Some((2, 0, 0)));
    let mut worker = Wire::connect(stage.server.addr());
    worker.send(packet::CAN_DO, b"later");
    worker.send(packet::GRAB_JOB, b"");
    worker.expect(packet::JOB_ASSIGN, b"H:t:1\0later\0w");
}

#[test]
fn priorities_are_those_of_the_queue() {
    for implementation in [Implementation::Ours, Implementation::Debian] {
        let stage = Stage::of(implementation);
        for priority in ["low", "normal", "high"] {
            let priority = format!("X-Gearman-Priority: {priority}");
            stage.ask(&post("f", &["X-Gearman-Background: true", &priority], priority.as_bytes()));
        }
        let listing = Wire::connect(stage.server.addr()).text("prioritystatus");
        assert_eq!(listing, "f\t1\t1\t1\t0\n.\n", "{implementation:?}");
    }
}

#[test]
fn equal_requests_are_one_job_and_all_get_its_result() {
    let stage = Stage::ours(&[]);
    let peers = [
        stage.peer(&post("show", &["X-Gearman-Unique: u"], b"first")),
        stage.peer(&post("show", &["X-Gearman-Unique: u"], b"second")),
        stage.peer(&post("show", &[], b"same")),
        stage.peer(&post("show", &[], b"same")),
    ];
    // Joining shows nowhere else: a client that waits is none that went away.
    stage.await_jobs("show", 2);
    wait_for("all to have joined", || {
        let mut client = Wire::connect(stage.server.addr());
        client.send(packet::GET_STATUS_UNIQUE, b"u");
        let answer = client.expect_type(packet::STATUS_RES_UNIQUE);
        answer.ends_with(b"\x002").then_some(())
    });
    stage.start_worker();
    let answers = peers.map(super::stage::Peer::answer);
    let bodies: Vec<&[u8]> = answers.iter().map(|answer| body(answer)).collect();
    assert_eq!(bodies[0], bodies[1]);
    assert!([&b"show|u|first"[..], b"show|u|second"].contains(&bodies[0]), "{}", bodies[0].escape_ascii());
    assert_eq!(bodies[2..], [b"show|-|same", b"show|-|same"]);
}

#[test]
fn a_job_of_a_client_that_went_away_is_abandoned() {
    let stage = Stage::ours(&[]);
    let gone = stage.peer(&post("f", &[], b"w"));
    let half_gone = stage.peer(&post("f", &[], b"v"));
    stage.await_jobs("f", 2);
    drop(gone);
    stage.await_jobs("f", 1);
    half_gone.finish_sending();
    assert_eq!(half_gone.answer(), b"");
    stage.await_jobs("f", 0);
}

#[test]
fn a_failing_command_and_its_exception_are_told_by_the_command() {
    let stage = Stage::ours(&["--exceptions"]);
    stage.start_worker();
    let answer = stage.ask(&post("exception", &[], b""));
    let (head, text) = split(&answer);
    assert_eq!((header(&head, "X-Gearman-Command"), text), (Some("WORK_EXCEPTION"), &b"boom"[..]));
    let _worker = gearman_worker(&stage, "false", &["false"]);
    let answer = curl(&stage, "false", &["--data-binary", "x"], b"");
    let (head, _) = split(&answer);
    assert_eq!(header(&head, "X-Gearman-Command"), Some("WORK_FAIL"));
}

#[test]
fn its_connections_are_listed_and_counted_like_any_other() {
    let stage = Stage::ours(&["--max-connections", "3"]);
    let mut admin = Wire::connect(stage.server.addr());
    let mut await_connections = |count: usize| {
        wait_for(&format!("{count} connections"), || {
            let listing = admin.text("workers");
            (listing.lines().filter(|line| line.ends_with(" 127.0.0.1 - :")).count() == count).then_some(())
        });
    };
    let first = stage.peer(&post("f", &[], b"w"));
    await_connections(2);
    let second = stage.peer(b"POST /f HTTP/1.1\r\nContent-Length: 5\r\n");
    await_connections(3);
    assert_eq!(stage.peer(b"").answer(), b"", "one too many is closed");
    drop(first);
    await_connections(2);
    drop(second);
    await_connections(1);
    stage.start_worker();
    assert_eq!(body(&stage.ask(&post("show", &[], b"x"))), b"show|-|x");
}

#[test]
fn a_stop_leaves_nobody_waiting() {
    let mut stage = Stage::ours(&[]);
    let waiting = stage.peer(&post("f", &[], b"w"));
    let silent = stage.peer(b"POST /f");
    stage.await_jobs("f", 1);
    assert!(stage.server.terminate().success());
    assert_eq!((waiting.answer(), silent.answer()), (Vec::new(), Vec::new()));
}

#[test]
fn a_drain_takes_no_new_request_and_answers_those_that_wait() {
    let mut stage = Stage::ours(&[]);
    let mut worker = Wire::connect(stage.server.addr());
    worker.send(packet::CAN_DO, b"f");
    // It comes first, so that it is accepted when the other one's job is there: what is not ends with the
    // listening.
    let mut late = stage.peer(b"POST /f HTTP/1.1\r\n");
    let waiting = stage.peer(&post("f", &[], b"w"));
    stage.await_jobs("f", 1);
    stage.server.signal(Signal::SIGUSR1);
    wait_for("the end of listening", || TcpStream::connect(stage.http).is_err().then_some(()));
    late.send(b"\r\n");
    let answer = late.answer();
    let (head, _) = split(&answer);
    assert_eq!(header(&head, "X-Gearman-Command"), Some("ERROR"), "{head}");
    worker.send(packet::GRAB_JOB, b"");
    worker.expect(packet::JOB_ASSIGN, b"H:t:1\0f\0w");
    worker.send(packet::WORK_COMPLETE, b"H:t:1\0done");
    assert_eq!(body(&waiting.answer()), b"done");
    assert!(stage.server.wait().success());
}
