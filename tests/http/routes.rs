//! What is at which address.

use std::io::{BufRead as _, BufReader};

use nix::sys::ptrace;
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::client::{Answer, exchange, get, post, request, server, shown};
use crate::common::{Server, Wire, packet, wait_for};

/// Submits a background job and returns its handle.
#[track_caller]
fn submit(client: &mut Wire, function: &[u8], unique: &str, workload: &[u8]) -> String {
    client.send(packet::SUBMIT_JOB_BG, &packet::body(&[function, unique.as_bytes(), workload]));
    String::from_utf8(client.expect_type(packet::JOB_CREATED)).unwrap()
}

/// A worker that holds a job of this function.
#[track_caller]
fn busy_worker(server: &Server, function: &[u8]) -> (Wire, String) {
    let mut worker = Wire::connect(server.addr());
    worker.send(packet::SET_CLIENT_ID, b"w-1");
    worker.send(packet::CAN_DO, function);
    worker.send(packet::GRAB_JOB, b"");
    let assigned = worker.expect_type(packet::JOB_ASSIGN);
    let handle = assigned.split(|byte| *byte == 0).next().unwrap();
    (worker, String::from_utf8(handle.to_vec()).unwrap())
}

#[test]
fn a_server_is_ready_until_it_drains() {
    let server = Server::ours(&["--http-listen", "127.0.0.1:0"]);
    assert_eq!(get(&server, "/healthz").text(), "ok\n");
    assert_eq!(shown(&server, "/readyz"), json!({"ready": true, "reasons": [], "warnings": []}));
    let mut client = Wire::connect(server.addr());
    submit(&mut client, b"f", "", b"");
    let (mut worker, handle) = busy_worker(&server, b"f");
    server.signal(Signal::SIGUSR1);
    let answer = wait_for("the drain to begin", || Some(get(&server, "/readyz")).filter(|answer| answer.status == 503));
    assert_eq!(answer.json()["reasons"][0]["code"], "draining");
    assert_eq!(get(&server, "/healthz").status, 200);
    worker.send(packet::WORK_COMPLETE, &packet::body(&[handle.as_bytes(), b""]));
}

#[test]
fn a_server_without_a_store_is_ready_and_says_so() {
    let server = server(&[]);
    let readiness = shown(&server, "/readyz");
    assert_eq!((&readiness["ready"], &readiness["warnings"][0]["code"]), (&json!(true), &json!("memory_only")));
    assert!(get(&server, "/metrics").text().contains("\ngearmand_store_memory_only 1\n"));
}

/// The thread of HTTP answers by itself, so it asks the other one.
#[test]
fn a_job_server_whose_thread_is_stuck_is_neither_healthy_nor_ready() {
    let server = server(&[]);
    let thread = Pid::from_raw(i32::try_from(server.pid()).unwrap());
    // A tracer stops a single thread: the first one, which serves jobs.
    ptrace::seize(thread, ptrace::Options::empty()).unwrap();
    ptrace::interrupt(thread).unwrap();
    waitpid(thread, Some(WaitPidFlag::__WALL)).unwrap();
    get(&server, "/healthz").expect_error(503, "not_responding");
    let readiness = get(&server, "/readyz");
    assert_eq!((readiness.status, &readiness.json()["reasons"][0]["code"]), (503, &json!("not_responding")));
    ptrace::detach(thread, None).unwrap();
    assert_eq!(get(&server, "/healthz").status, 200);
    assert_eq!(get(&server, "/readyz").status, 200);
}

#[test]
fn functions_workers_and_jobs_are_shown() {
    let server = server(&[]);
    let mut client = Wire::connect(server.addr());
    for number in 0..5 {
        submit(&mut client, b"f", &format!("u{number}"), b"some text");
    }
    let (_worker, running) = busy_worker(&server, b"f");

    let functions = shown(&server, "/api/v1/functions");
    let function = &functions["functions"][0];
    assert_eq!(
        (&function["name"], &function["queued"]["normal"], &function["running"]),
        (&json!("f"), &json!(4), &json!(1))
    );
    assert_eq!(shown(&server, "/api/v1/functions/f")["workers"], 1);
    assert_eq!(shown(&server, "/api/v1/server")["jobs"], json!({"queued": 4, "scheduled": 0, "running": 1}));
    assert_eq!(shown(&server, "/api/v1/server")["read_only"], false);

    let workers = shown(&server, "/api/v1/workers?client=w-1&state=working&function=f&host=127.0.0.1");
    assert_eq!((workers["workers"].as_array().unwrap().len(), &workers["next"]), (1, &Value::Null));
    let id = workers["workers"][0]["id"].as_str().unwrap();
    let worker = shown(&server, &format!("/api/v1/workers/{id}"));
    assert_eq!((&worker["client_id"], &worker["jobs"][0]["handle"]), (&json!("w-1"), &json!(running)));
    assert_eq!(shown(&server, "/api/v1/workers?client=another")["workers"], json!([]));

    let job = shown(&server, &format!("/api/v1/jobs/{running}?preview=4"));
    assert_eq!((&job["state"], &job["holder"]), (&json!("running"), &json!(id)));
    assert_eq!(job["preview"], json!({"content": "some", "encoding": "text", "truncated": true}));
    assert_eq!(shown(&server, "/api/v1/jobs?unique=u3&function=f")["jobs"][0]["unique"], "u3");
    assert_eq!(shown(&server, "/api/v1/rules"), json!({"rules": []}));
    assert!(shown(&server, "/api/v1/history")["interval_s"].as_u64().is_some_and(|interval| interval > 0));
    assert!(shown(&server, "/api/v1/functions/f/history")["queued"].is_array());
}

#[test]
fn lists_are_paged() {
    let server = server(&[]);
    let mut client = Wire::connect(server.addr());
    let mut expected: Vec<String> = (0..7).map(|_| submit(&mut client, b"f", "", b"")).collect();
    let mut seen: Vec<String> = Vec::new();
    let mut path = "/api/v1/jobs?limit=2".to_owned();
    loop {
        let page = shown(&server, &path);
        let jobs = page["jobs"].as_array().unwrap();
        assert!(jobs.len() <= 2, "{page}");
        seen.extend(jobs.iter().map(|job| job["handle"].as_str().unwrap().to_owned()));
        match page["next"].as_str() {
            Some(next) => path = format!("/api/v1/jobs?limit=2&after={next}"),
            None => break,
        }
    }
    seen.sort();
    expected.sort();
    assert_eq!(seen, expected);

    let connections: Vec<Wire> = (0..5)
        .map(|_| {
            let mut worker = Wire::connect(server.addr());
            worker.send(packet::CAN_DO, b"g");
            worker.expect_nothing();
            worker
        })
        .collect();
    let first = shown(&server, "/api/v1/workers?function=g&limit=3");
    let next = first["next"].as_str().expect("a second page");
    let second = shown(&server, &format!("/api/v1/workers?function=g&limit=3&after={next}"));
    let count = |page: &Value| page["workers"].as_array().unwrap().len();
    assert_eq!(count(&first) + count(&second), connections.len());
}

#[test]
fn names_are_any_bytes() {
    let server = server(&[]);
    let mut client = Wire::connect(server.addr());
    let name = b"\xff/\xc3\xa4 \"%?#\n.";
    submit(&mut client, name, "", b"\xfe\x00");
    let id = shown(&server, "/api/v1/functions")["functions"][0]["id"].as_str().unwrap().to_owned();
    assert_eq!(id, "%FF%2F%C3%A4%20%22%25%3F%23%0A.");
    assert_eq!(shown(&server, &format!("/api/v1/functions/{id}"))["queued"]["normal"], 1);
    let jobs = shown(&server, &format!("/api/v1/jobs?function={id}"));
    assert_eq!(jobs["jobs"][0]["function_id"], json!(id));
    let handle = jobs["jobs"][0]["handle"].as_str().unwrap().replace(':', "%3a");
    let preview = shown(&server, &format!("/api/v1/jobs/{handle}"))["preview"].clone();
    assert_eq!(preview, json!({"content": "/gA=", "encoding": "base64", "truncated": false}));
}

#[test]
fn long_lists_are_whole() {
    let server = server(&[]);
    let mut client = Wire::connect(server.addr());
    for number in 0..2000 {
        assert!(client.text(&format!("create function f{number:04}")).starts_with("OK"));
    }
    let functions = shown(&server, "/api/v1/functions");
    let names: Vec<_> = functions["functions"].as_array().unwrap().iter().map(|it| it["name"].clone()).collect();
    let expected: Vec<_> = (0..2000).map(|number| json!(format!("f{number:04}"))).collect();
    assert_eq!(names, expected);
}

#[test]
fn functions_are_made_limited_and_forgotten() {
    let server = server(&[]);
    let affected = |answer: Answer| {
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer.json()["affected"].as_u64()
    };
    assert_eq!(affected(post(&server, "/api/v1/functions/a%20b", &Value::Null)), Some(1));
    assert_eq!(shown(&server, "/api/v1/functions/a%20b")["name"], "a b");
    let limits = json!({"max_running": 3, "max_queue": [1, 2, 4]});
    assert_eq!(affected(post(&server, "/api/v1/functions/a%20b/limits", &limits)), Some(1));
    let function = shown(&server, "/api/v1/functions/a%20b");
    assert_eq!((&function["max_running"], &function["max_queue"]), (&json!(3), &json!([1, 2, 4])));
    let drop = || {
        let headers = [("x-requested-with", "test")];
        exchange(server.http(), &request("DELETE", "/api/v1/functions/a%20b", &headers, b""))
    };
    assert_eq!(affected(drop()), Some(1));
    drop().expect_error(404, "no_such_function");
}

#[test]
fn what_makes_no_sense_is_an_error() {
    let server = server(&[]);
    for (path, status, code) in [
        ("/nothing", 404, "no_such_route"),
        ("/api/v1", 404, "no_such_route"),
        ("/api/v1/functions/", 404, "no_such_route"),
        ("/api/v1/functions/none", 404, "no_such_function"),
        ("/api/v1/functions/none/history", 404, "no_such_function"),
        ("/api/v1/workers/1-1", 404, "no_such_worker"),
        ("/api/v1/workers/x", 404, "no_such_worker"),
        ("/api/v1/jobs/H:x:1", 404, "no_such_job"),
        ("/assets/none.js", 404, "no_such_asset"),
        ("/assets/..%2fopenapi.json", 404, "no_such_asset"),
        ("/api/v1/jobs?limit=0", 400, "bad_parameter"),
        ("/api/v1/jobs?limit=1001", 400, "bad_parameter"),
        ("/api/v1/jobs?limit=99999999999999999999", 400, "bad_parameter"),
        ("/api/v1/jobs?limit=1&limit=2", 400, "bad_parameter"),
        ("/api/v1/jobs?state=done", 400, "bad_parameter"),
        ("/api/v1/jobs?after=x", 400, "bad_parameter"),
        ("/api/v1/jobs?older_than_s=NaN", 400, "bad_parameter"),
        ("/api/v1/jobs?older_than_s=1e999", 400, "bad_parameter"),
        ("/api/v1/jobs?functoin=f", 400, "unknown_parameter"),
        ("/api/v1/workers?after=1", 400, "bad_parameter"),
        ("/api/v1/workers?state=%ff", 400, "bad_parameter"),
        ("/api/v1/jobs/H:x:1?preview=65537", 400, "bad_parameter"),
    ] {
        get(&server, path).expect_error(status, code);
    }
    for (path, body, status, code) in [
        ("/api/v1/functions/f/limits", json!({}), 400, "bad_body"),
        ("/api/v1/functions/f/limits", json!({"max_running": -1}), 400, "bad_body"),
        ("/api/v1/functions/f/limits", json!({"max_queue": [1, 2]}), 400, "bad_body"),
        ("/api/v1/functions/f/limits", json!({"max_runing": 1}), 400, "bad_body"),
        ("/api/v1/functions/f/pause", json!({"paused": true}), 400, "bad_body"),
        ("/api/v1/functions/%00", Value::Null, 400, "bad_function"),
        ("/api/v1/functions/f/move-jobs", json!({"to": "a\u{0}b"}), 400, "bad_function"),
        ("/api/v1/functions/f/move-jobs", Value::Null, 400, "bad_body"),
        ("/api/v1/jobs/H:x:1/cancel", Value::Null, 404, "no_such_job"),
        ("/api/v1/jobs/H:x:1/priority", json!({"priority": "urgent"}), 400, "bad_body"),
        ("/api/v1/workers/kick", json!({}), 400, "bad_body"),
        ("/api/v1/workers/kick", json!({"client": "a", "host": "b"}), 400, "bad_body"),
        ("/api/v1/workers/kick", json!({"client": "a", "function": "f"}), 400, "bad_body"),
        ("/api/v1/workers/kick", json!({"connection": "1"}), 400, "bad_body"),
    ] {
        post(&server, path, &body).expect_error(status, code);
    }
    let wrong = post(&server, "/api/v1/rules", &Value::Null);
    wrong.expect_error(405, "wrong_method");
    assert_eq!(wrong.header("allow"), Some("GET,HEAD"));
}

#[test]
fn files_are_kept_by_browsers_while_they_are_the_same() {
    let server = server(&[]);
    for path in ["/", "/assets/style.css", "/api/v1/openapi.json"] {
        let first = get(&server, path);
        let tag = first.header("etag").expect("a tag").to_owned();
        assert_eq!((first.status, first.header("cache-control")), (200, Some("no-cache")), "{path}");
        let again = exchange(server.http(), &request("GET", path, &[("if-none-match", &tag)], b""));
        assert_eq!((again.status, again.body.len()), (304, 0), "{path}");
        let other = exchange(server.http(), &request("GET", path, &[("if-none-match", "\"x\"")], b""));
        assert_eq!(other.status, 200, "{path}");
    }
}

#[test]
fn a_taken_address_is_an_error_only_where_it_was_asked_for() {
    let first = server(&[]);
    let taken = first.http().to_string();
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_gearmand"));
    command.args(["-p", "0", "-L", "127.0.0.1", "-q", "builtin", "-l", "none", "--http-listen", &taken]);
    let output = command.output().expect("run the program");
    let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        !output.status.success() && complaint.contains(&taken) && complaint.contains("--http-listen"),
        "{complaint}"
    );
}

#[test]
fn a_server_does_without_the_default_address_where_it_is_taken() {
    // By this test, or by whoever has it.
    let _held = std::net::TcpListener::bind("127.0.0.1:4780");
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_gearmand"));
    command.args(["-p", "0", "-L", "127.0.0.1", "-q", "builtin", "-l", "stderr", "--verbose", "NOTICE"]);
    command.env_remove("GEARMAND_HTTP_LISTEN").stderr(std::process::Stdio::piped());
    let mut child = command.spawn().expect("run the program");
    let mut said = String::new();
    let mut lines = BufReader::new(child.stderr.take().expect("a pipe")).lines();
    while !said.contains(" listening on 127.0.0.1:") {
        said += &lines.next().expect("a line about listening").expect("text");
    }
    let _ = child.kill();
    let _ = child.wait();
    assert!(said.contains("HTTP is not served: ") && said.contains("127.0.0.1:4780"), "{said}");
    assert!(!said.contains("http://"), "{said}");
}

#[test]
fn a_workload_that_only_the_store_has_is_shown() {
    let server = Server::ours(&["--http-listen", "127.0.0.1:0", "--max-workload-memory", "1MiB"]);
    let mut client = Wire::connect(server.addr());
    let handles: Vec<String> =
        (0..500).map(|index| submit(&mut client, b"f", &format!("u{index}"), &[b'w'; 4096])).collect();
    let path = format!("/api/v1/jobs/{}", handles[499]);
    // A store that does not answer within a second is asked again: then there is no preview.
    let previewed =
        |path: &str| wait_for("a preview", || Some(shown(&server, path)).filter(|job| !job["preview"].is_null()));
    let job = previewed(&path);
    assert_eq!((&job["workload_bytes"], &job["preview"]["truncated"]), (&json!(4096), &json!(true)), "{job}");
    assert_eq!(job["preview"]["content"].as_str().map(str::len), Some(1024));
    let job = previewed(&format!("{path}?preview=65536"));
    assert_eq!(job["preview"]["content"].as_str().map(str::len), Some(4096));
    // Who wants nothing of it does not trouble the store.
    let job = shown(&server, &format!("{path}?preview=0"));
    assert_eq!((&job["workload_bytes"], job.get("preview")), (&Value::Null, None));
}
