//! What Prometheus reads.

use std::collections::HashMap;
use std::io::{Read as _, Write as _};
use std::process::{Command, Stdio};

use flate2::read::GzDecoder;

use crate::client::{Answer, exchange, get, request, server};
use crate::common::{Server, Wire, packet, wait_for};

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

/// Those that are taken, where the process may open fewer files.
#[test]
fn the_most_connections_are_those_that_there_is_room_for() {
    let server = server(&["--file-descriptors", "1000"]);
    assert_eq!(samples(&get(&server, "/metrics").text()).get("gearmand_connections_max"), Some(&840.0));
}

#[test]
fn metrics_say_what_happened() {
    let server = server(&["--max-connections", "500"]);
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
        ("gearmand_store_memory_only", 1.0),
        ("gearmand_connections_max", 500.0),
        ("gearmand_http_connections_max", 256.0),
        ("gearmand_log_lines_left_out_total", 0.0),
        ("gearmand_function_workers{function=\"f\",state=\"working\"}", 1.0),
        ("gearmand_store_failing", 0.0),
        ("gearmand_draining", 0.0),
    ] {
        assert_eq!(samples.get(name), Some(&value), "{name} in:\n{text}");
    }
    assert!(samples["gearmand_start_time_seconds"] > 1.7e9);
    assert!(samples["gearmand_memory_bytes"] > 1e5);
    assert!(samples["process_cpu_seconds_total"] > 0.0);
    assert!((1.0..samples["process_max_fds"]).contains(&samples["process_open_fds"]));
    // The third job still runs, since a moment that has a length.
    wait_for("the age of the running job", || {
        let text = get(&server, "/metrics").text();
        let samples = self::samples(&text);
        let ages = [
            "gearmand_oldest_running_job_age_seconds{function=\"f\"}",
            "gearmand_server_oldest_running_job_age_seconds",
        ];
        ages.iter().all(|name| samples[name] > 0.0).then_some(())
    });
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

/// Makes functions without workers and jobs, f0 and so on.
#[track_caller]
fn create_functions(server: &Server, count: usize) {
    let mut client = Wire::connect(server.addr());
    for number in 0..count {
        client.send_raw(format!("create function f{number}\r\n").as_bytes());
    }
    for _ in 0..count {
        assert!(client.text_line().starts_with("OK"));
    }
}

/// Submits jobs in the background.
#[track_caller]
fn submit(client: &mut Wire, function: &[u8], count: usize) {
    for _ in 0..count {
        client.send(packet::SUBMIT_JOB_BG, &packet::body(&[function, b"", b""]));
        client.expect_type(packet::JOB_CREATED);
    }
}

/// How many series there are of each function.
fn series(metrics: &str) -> HashMap<String, usize> {
    let mut series = HashMap::new();
    for line in metrics.lines() {
        if let Some(name) = line.split_once("function=\"").and_then(|(_, rest)| rest.split('"').next()) {
            *series.entry(name.to_owned()).or_default() += 1;
        }
    }
    series
}

#[test]
fn many_functions_are_told_in_pieces() {
    let server = server(&[]);
    create_functions(&server, 3000);
    let text = get(&server, "/metrics").text();
    check(&text);
    assert_eq!(text.lines().filter(|line| line.starts_with("gearman_workers{")).count(), 3000);
}

#[test]
fn a_function_without_jobs_has_few_series() {
    let server = server(&[]);
    create_functions(&server, 1);
    let (mut client, mut worker) = (Wire::connect(server.addr()), Wire::connect(server.addr()));
    worker.send(packet::CAN_DO, b"offered");
    worker.expect_nothing();
    let told = |expected: &[(&str, f64)], absent: &[&str]| {
        let text = get(&server, "/metrics").text();
        check(&text);
        let samples = samples(&text);
        for (name, value) in expected {
            assert_eq!(samples.get(name), Some(value), "{name} in:\n{text}");
        }
        for name in absent {
            assert!(!samples.keys().any(|known| known.contains(name)), "{name} in:\n{text}");
        }
        series(&text)
    };
    let counts = told(
        &[
            ("gearman_workers{function=\"f0\"}", 0.0),
            ("gearmand_jobs_submitted_total{function=\"f0\"}", 0.0),
            ("gearmand_function_workers{function=\"offered\",state=\"waiting\"}", 1.0),
        ],
        &["gearmand_function_paused{", "gearmand_function_max_", "gearmand_job_run_seconds_bucket"],
    );
    assert_eq!((counts["f0"], counts["offered"]), (5, 6));

    // What the operator has set is told of any function.
    for line in ["pause f0", "limit running f0 7", "maxqueue f0 1 2 0"] {
        client.send_raw(format!("{line}\r\n").as_bytes());
        assert!(client.text_line().starts_with("OK"), "{line}");
    }
    told(
        &[
            ("gearmand_function_paused{function=\"f0\"}", 1.0),
            ("gearmand_function_max_running_jobs{function=\"f0\"}", 7.0),
            ("gearmand_function_max_queued_jobs{function=\"f0\",priority=\"normal\"}", 2.0),
        ],
        &["priority=\"low\""],
    );

    // From its first job on a function has its counters, and it keeps all of them when it is idle again.
    submit(&mut client, b"offered", 1);
    let busy = told(&[("gearmand_jobs_ended_total{function=\"offered\",outcome=\"failed\"}", 0.0)], &[])["offered"];
    worker.send(packet::GRAB_JOB, b"");
    let assigned = worker.expect_type(packet::JOB_ASSIGN);
    let handle = assigned.split(|byte| *byte == 0).next().unwrap();
    worker.send(packet::WORK_COMPLETE, &packet::body(&[handle, b""]));
    worker.expect_nothing();
    drop(worker);
    let idle = told(
        &[
            ("gearmand_jobs_ended_total{function=\"offered\",outcome=\"done\"}", 1.0),
            ("gearmand_jobs_queued{function=\"offered\",priority=\"high\"}", 0.0),
            ("gearmand_job_run_seconds_bucket{function=\"offered\",le=\"1.048576\"}", 1.0),
            ("gearmand_job_run_seconds_bucket{function=\"offered\",le=\"2.097152\"}", 1.0),
        ],
        &[],
    );
    assert!(idle["offered"] >= busy && idle["offered"] <= 80, "{idle:?}");
}

#[test]
fn the_functions_that_are_told_can_be_chosen() {
    let told = |which: &str| {
        let server = server(&["--http-metrics-functions", which]);
        create_functions(&server, 5);
        let mut client = Wire::connect(server.addr());
        for (function, jobs) in [(&b"many"[..], 3), (b"some", 2), (b"few", 1)] {
            submit(&mut client, function, jobs);
        }
        let text = get(&server, "/metrics").text();
        check(&text);
        let mut functions: Vec<String> = series(&text).into_keys().collect();
        functions.sort();
        let samples = samples(&text);
        assert_eq!((samples["gearmand_functions"], samples["gearmand_server_jobs_submitted_total"]), (8.0, 6.0));
        (functions.join(" "), samples["gearmand_functions_without_metrics"])
    };
    assert_eq!(told("none"), (String::new(), 8.0));
    assert_eq!(told("top:2"), ("many some".to_owned(), 6.0));
    assert_eq!(told("top:100").1.to_string(), "0");
    assert_eq!(told("all"), ("f0 f1 f2 f3 f4 few many some".to_owned(), 0.0));
}

#[test]
fn whoever_takes_gzip_gets_it() {
    let server = server(&[]);
    create_functions(&server, 3000);
    let ask = |accepted: &str| -> Answer {
        exchange(server.http(), &request("GET", "/metrics", &[("accept-encoding", accepted)], b""))
    };
    let plain = ask("gzip;q=0, deflate");
    assert_eq!((plain.header("content-encoding"), plain.header("vary")), (None, Some("accept-encoding")));
    let compressed = ask("deflate, gzip");
    assert_eq!(compressed.header("content-encoding"), Some("gzip"));
    assert_eq!(compressed.header("content-type"), plain.header("content-type"));
    assert!(compressed.body.len() * 10 < plain.body.len(), "{} of {}", compressed.body.len(), plain.body.len());
    let mut text = String::new();
    GzDecoder::new(&*compressed.body).read_to_string(&mut text).expect("a whole stream of gzip");
    check(&text);
    // Two scrapes differ in the numbers of the server alone.
    let of_functions = |text: &str| -> Vec<String> {
        text.lines().filter(|line| line.contains("function=")).map(str::to_owned).collect()
    };
    assert_eq!(of_functions(&text), of_functions(&plain.text()));
}
