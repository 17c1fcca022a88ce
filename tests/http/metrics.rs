//! What Prometheus reads.

use std::collections::HashMap;
use std::io::Write as _;
use std::process::{Command, Stdio};

use crate::client::{get, server};
use crate::common::{Server, Wire, packet};

const PROMTOOL: &str = "/usr/bin/promtool";

/// Has Prometheus' own tool find what is wrong.
#[track_caller]
fn check(metrics: &str) {
    let mut tool = Command::new(PROMTOOL)
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{PROMTOOL}: {error}; run tests/install-peers.sh"));
    tool.stdin.take().unwrap().write_all(metrics.as_bytes()).unwrap();
    let output = tool.wait_with_output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    assert!(output.status.success() && said.is_empty(), "{}", String::from_utf8_lossy(&said));
}

/// Samples by name and labels.
fn samples(metrics: &str) -> HashMap<&str, f64> {
    let samples = metrics.lines().filter(|line| !line.starts_with('#'));
    samples.map(|line| line.rsplit_once(' ').unwrap()).map(|(name, value)| (name, value.parse().unwrap())).collect()
}

#[test]
fn metrics_say_what_happened() {
    let server = server(&[]);
    let mut client = Wire::connect(server.addr());
    let mut worker = Wire::connect(server.addr());
    worker.send(packet::CAN_DO, b"f");
    for number in 0..5 {
        client.send(packet::SUBMIT_JOB_BG, &packet::body(&[b"f", b"", b"x"]));
        client.expect_type(packet::JOB_CREATED);
        if number < 3 {
            worker.send(packet::GRAB_JOB, b"");
            let assigned = worker.expect_type(packet::JOB_ASSIGN);
            let handle = assigned.split(|byte| *byte == 0).next().unwrap();
            match number {
                0 => worker.send(packet::WORK_COMPLETE, &packet::body(&[handle, b""])),
                1 => worker.send(packet::WORK_FAIL, handle),
                _ => {}
            }
            worker.expect_nothing();
        }
    }
    let answer = get(&server, "/metrics");
    assert_eq!(answer.header("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
    let text = answer.text();
    check(&text);
    let samples = samples(&text);
    for (name, value) in [
        // Those of exporters for gearmand.
        ("gearman_up", 1.0),
        (concat!("gearman_version_info{version=\"", env!("CARGO_PKG_VERSION"), "\"}"), 1.0),
        ("gearman_jobs{function=\"f\"}", 3.0),
        ("gearman_jobs_running{function=\"f\"}", 1.0),
        ("gearman_jobs_waiting{function=\"f\"}", 2.0),
        ("gearman_workers{function=\"f\"}", 1.0),
        // Our own.
        ("gearmand_jobs_queued{function=\"f\",priority=\"normal\"}", 2.0),
        ("gearmand_jobs_queued{function=\"f\",priority=\"high\"}", 0.0),
        ("gearmand_jobs_submitted_total{function=\"f\"}", 5.0),
        ("gearmand_jobs_ended_total{function=\"f\",outcome=\"done\"}", 1.0),
        ("gearmand_jobs_ended_total{function=\"f\",outcome=\"failed\"}", 1.0),
        ("gearmand_server_jobs_submitted_total", 5.0),
        ("gearmand_job_wait_seconds_count{function=\"f\"}", 3.0),
        ("gearmand_job_run_seconds_count{function=\"f\"}", 2.0),
        ("gearmand_job_run_seconds_bucket{function=\"f\",le=\"+Inf\"}", 2.0),
        ("gearmand_workers{state=\"working\"}", 1.0),
        ("gearmand_function_workers{function=\"f\",state=\"working\"}", 1.0),
        ("gearmand_store_failing", 0.0),
        ("gearmand_draining", 0.0),
    ] {
        assert_eq!(samples.get(name), Some(&value), "{name} in:\n{text}");
    }
    assert!(samples["gearmand_start_time_seconds"] > 1.7e9);
    assert!(samples["gearmand_memory_bytes"] > 1e5);
    // What is kept in memory is on no disk.
    assert!(!samples.keys().any(|name| name.starts_with("gearmand_store_disk")));
}

#[test]
fn metrics_say_what_the_store_takes() {
    let server = Server::ours(&["--http-listen", "127.0.0.1:0"]);
    let mut client = Wire::connect(server.addr());
    client.send(packet::SUBMIT_JOB_BG, &packet::body(&[b"f", b"", b"x"]));
    client.expect_type(packet::JOB_CREATED);
    let text = get(&server, "/metrics").text();
    check(&text);
    let samples = samples(&text);
    assert!(samples["gearmand_store_commit_seconds_count"] >= 1.0);
    assert!(samples["gearmand_store_commit_seconds_sum"] > 0.0);
    assert!(samples["gearmand_store_disk_free_bytes"] > 0.0 && samples["gearmand_store_reserve_bytes"] > 0.0);
    // It was looked at before the job came.
    assert!(samples.contains_key("gearmand_store_wal_bytes"));
    let store = get(&server, "/api/v1/server").text();
    assert!(store.contains("\"reserve_bytes\":"), "{store}");
}

#[test]
fn no_name_breaks_the_format() {
    let server = server(&[]);
    let mut client = Wire::connect(server.addr());
    let names: [&[u8]; 9] = [
        b"\"} 1\n# HELP x",
        b"\\",
        b"\\n",
        b"\n",
        b"\xff",
        b"%FF",
        "\u{fffd}%FF".as_bytes(),
        "\u{1f916}\u{202e}".as_bytes(),
        b"\xc3\x28\x01\x7f",
    ];
    for name in names {
        client.send(packet::SUBMIT_JOB_BG, &packet::body(&[name, b"", b""]));
        client.expect_type(packet::JOB_CREATED);
    }
    let text = get(&server, "/metrics").text();
    check(&text);
    let functions = text.lines().filter(|line| line.starts_with("gearman_jobs{")).count();
    assert_eq!(functions, names.len());
}

#[test]
fn many_functions_are_told_in_pieces() {
    let server = server(&[]);
    let mut client = Wire::connect(server.addr());
    for number in 0..3000 {
        client.send_raw(format!("create function f{number}\r\n").as_bytes());
    }
    for _ in 0..3000 {
        assert!(client.text_line().starts_with("OK"));
    }
    let text = get(&server, "/metrics").text();
    check(&text);
    assert_eq!(text.lines().filter(|line| line.starts_with("gearman_workers{")).count(), 3000);
}
