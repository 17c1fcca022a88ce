//! What is done over HTTP is done.

use std::io::Write as _;

use serde_json::{Value, json};

use crate::client::{connect, post, request, server, shown};
use crate::common::{Server, Wire, packet, wait_for};

/// Does an action and returns how much it affected.
#[track_caller]
fn act(server: &Server, path: &str, body: &Value) -> u64 {
    let answer = post(server, path, body);
    assert_eq!(answer.status, 200, "{path}: {}", answer.text());
    answer.json()["affected"].as_u64().expect("a number")
}

/// Submits a background job and returns where it is.
#[track_caller]
fn submit(client: &mut Wire, function: &str) -> String {
    client.send(packet::SUBMIT_JOB_BG, &packet::body(&[function.as_bytes(), b"", b"x"]));
    format!("/api/v1/jobs/{}", String::from_utf8(client.expect_type(packet::JOB_CREATED)).unwrap())
}

#[test]
fn functions_are_paused_emptied_and_moved() {
    let server = server(&[]);
    let mut client = Wire::connect(server.addr());
    let mut worker = Wire::connect(server.addr());
    worker.send(packet::CAN_DO, b"f");
    worker.expect_nothing();
    assert_eq!(act(&server, "/api/v1/functions/f/pause", &Value::Null), 1);
    assert_eq!(shown(&server, "/api/v1/functions/f")["paused"], true);
    for _ in 0..3 {
        submit(&mut client, "f");
    }
    worker.send(packet::GRAB_JOB, b"");
    worker.expect(packet::NO_JOB, b"");
    assert_eq!(act(&server, "/api/v1/functions/f/move-jobs", &json!({"to": "g"})), 3);
    assert_eq!(shown(&server, "/api/v1/functions/g")["queued"]["normal"], 3);
    assert_eq!(act(&server, "/api/v1/functions/g/cancel-jobs", &Value::Null), 3);
    assert_eq!(shown(&server, "/api/v1/jobs")["jobs"], json!([]));
    assert_eq!(act(&server, "/api/v1/functions/f/resume", &Value::Null), 1);
    submit(&mut client, "f");
    worker.send(packet::GRAB_JOB, b"");
    worker.expect_type(packet::JOB_ASSIGN);
    post(&server, "/api/v1/functions/none/cancel-jobs", &Value::Null).expect_error(404, "no_such_function");
}

#[test]
fn jobs_are_changed_one_by_one() {
    let server = server(&[]);
    let mut client = Wire::connect(server.addr());
    let job = submit(&mut client, "f");
    assert_eq!(act(&server, &format!("{job}/priority"), &json!({"priority": "high"})), 1);
    assert_eq!(shown(&server, &job)["priority"], "high");
    assert_eq!(act(&server, &format!("{job}/move"), &json!({"to": "g"})), 1);
    assert_eq!(shown(&server, &job)["function"], "g");
    post(&server, &format!("{job}/run"), &Value::Null).expect_error(409, "job_is_not_scheduled");
    let mut worker = Wire::connect(server.addr());
    worker.send(packet::CAN_DO, b"g");
    worker.send(packet::GRAB_JOB, b"");
    worker.expect_type(packet::JOB_ASSIGN);
    post(&server, &format!("{job}/move"), &json!({"to": "f"})).expect_error(409, "job_is_running");
    assert_eq!(act(&server, &format!("{job}/cancel"), &Value::Null), 1);
    post(&server, &format!("{job}/cancel"), &Value::Null).expect_error(404, "no_such_job");
}

#[test]
fn workers_are_withheld_jobs_and_closed() {
    let server = server(&[]);
    let mut worker = Wire::connect(server.addr());
    worker.send(packet::SET_CLIENT_ID, b"w-1");
    worker.send(packet::CAN_DO, b"f");
    worker.expect_nothing();
    let worker_of = || shown(&server, "/api/v1/workers")["workers"][0].clone();
    let id = worker_of()["id"].clone();
    for (who, state) in [
        (json!({"connection": id}), "disabled"),
        (json!({"client": "w-1"}), "disabled"),
        (json!({"host": "127.0.0.1"}), "disabled"),
    ] {
        act(&server, "/api/v1/workers/disable", &who);
        assert_eq!(worker_of()["state"], state, "{who}");
        act(&server, "/api/v1/workers/enable", &who);
        assert_eq!(worker_of()["state"], "waiting", "{who}");
    }
    let one = json!({"client": "w-1", "function": "f"});
    act(&server, "/api/v1/workers/drain", &one);
    assert_eq!(
        shown(&server, "/api/v1/rules")["rules"],
        json!([{"who": "client:w-1", "who_id": "client:w-1", "function": "f", "function_id": "f", "mode": "draining", "workers": 1}])
    );
    act(&server, "/api/v1/workers/enable", &one);
    post(&server, "/api/v1/workers/enable", &one).expect_error(404, "no_such_rule");
    assert_eq!(act(&server, "/api/v1/workers/kick", &json!({"client": "w-1"})), 1);
    worker.expect_end();
    post(&server, "/api/v1/workers/kick", &json!({"connection": id})).expect_error(404, "no_such_worker");
}

/// Names are any bytes; JSON has none that are not UTF-8.
#[test]
fn names_that_are_not_utf8_are_given_in_base64() {
    let server = server(&[]);
    let mut worker = Wire::connect(server.addr());
    worker.send(packet::SET_CLIENT_ID, b"w\xff");
    worker.send(packet::CAN_DO, b"f\xff");
    worker.expect_nothing();
    let rules = || shown(&server, "/api/v1/rules")["rules"].clone();
    // The base64 of the client id and of the function.
    let whom = json!({"client_base64": "d/8=", "function_base64": "Zv8="});
    assert_eq!(act(&server, "/api/v1/workers/drain", &whom), 1);
    assert_eq!([&rules()[0]["who_id"], &rules()[0]["function_id"]], ["client:w%FF", "f%FF"]);
    post(&server, "/api/v1/workers/enable", &json!({"client": "w\u{fffd}"})).expect_error(404, "no_such_rule");
    assert_eq!(act(&server, "/api/v1/workers/enable", &whom), 1);
    assert_eq!(rules(), json!([]));

    let new = json!({"function_base64": "Zv8=", "unique_base64": "/w==", "background": true});
    let created = post(&server, "/api/v1/jobs", &new);
    assert_eq!(created.status, 201, "{}", created.text());
    let job = format!("/api/v1/jobs/{}", created.json()["handle"].as_str().expect("a handle"));
    assert_eq!(shown(&server, "/api/v1/jobs?unique=%FF")["jobs"][0]["function_id"], "f%FF");
    assert_eq!(act(&server, &format!("{job}/move"), &json!({"to_base64": "Z/8="})), 1);
    assert_eq!(shown(&server, &job)["function_id"], "g%FF");
    assert_eq!(act(&server, "/api/v1/functions/g%FF/move-jobs", &json!({"to_base64": "Zv8="})), 1);
    worker.send(packet::GRAB_JOB_UNIQ, b"");
    let assigned = worker.expect_type(packet::JOB_ASSIGN_UNIQ);
    assert!(assigned.ends_with(b"\0f\xff\0\xff\0"), "{}", assigned.escape_ascii());

    for (path, body) in [
        ("/api/v1/workers/drain", json!({"client_base64": "d/8"})),
        ("/api/v1/workers/drain", json!({"client": "a", "client_base64": "d/8="})),
        ("/api/v1/workers/drain", json!({"host": "127.0.0.1", "client_base64": "d/8="})),
        ("/api/v1/workers/drain", json!({"client": "a", "function": "f", "function_base64": "Zv8="})),
        ("/api/v1/functions/f/move-jobs", json!({})),
        ("/api/v1/functions/f/move-jobs", json!({"to": "a", "to_base64": "Zv8="})),
        ("/api/v1/jobs", json!({"workload": "no function"})),
        ("/api/v1/jobs", json!({"function_base64": "Zv8=", "unique": "a", "unique_base64": "/w=="})),
    ] {
        post(&server, path, &body).expect_error(400, "bad_body");
    }
    // NUL.
    post(&server, "/api/v1/jobs", &json!({"function_base64": "AA=="})).expect_error(400, "bad_function");
}

#[test]
fn a_worker_is_shown_with_the_rules_that_mean_it() {
    let server = server(&[]);
    let mut workers = [b"w-1", b"w-2"].map(|id| {
        let mut worker = Wire::connect(server.addr());
        worker.send(packet::SET_CLIENT_ID, id);
        worker.send(packet::CAN_DO, b"f");
        worker.expect_nothing();
        worker
    });
    let list = shown(&server, "/api/v1/workers?client=w-1");
    let id = list["workers"][0]["id"].as_str().expect("an id").to_owned();
    assert_eq!(list["workers"][0].get("rules"), None, "a list of many has none");
    for whom in [
        json!({"connection": id}),
        json!({"client": "w-1", "function": "g"}),
        json!({"client": "w-2"}),
        json!({"host": "127.0.0.1", "function": "f"}),
        json!({"host": "127.0.0.2"}),
    ] {
        act(&server, "/api/v1/workers/disable", &whom);
    }
    let rules = shown(&server, &format!("/api/v1/workers/{id}"))["rules"].clone();
    let rules: Vec<_> = rules.as_array().expect("rules").iter().map(|rule| [&rule["who"], &rule["function"]]).collect();
    let own = json!(format!("connection:{id}"));
    let [client, host, f, g] = [json!("client:w-1"), json!("host:127.0.0.1"), json!("f"), json!("g")];
    assert_eq!(rules, [[&own, &Value::Null], [&client, &g], [&host, &f]]);
    workers.iter_mut().for_each(Wire::expect_nothing);
}

#[test]
fn what_was_begun_is_done_though_its_client_goes() {
    const JOBS: usize = 100_000;
    let server = server(&[]);
    let mut client = Wire::connect(server.addr());
    let job = packet::request(packet::SUBMIT_JOB_BG, b"f\0\0");
    for _ in 0..JOBS / 1000 {
        client.send_raw(&job.repeat(1000));
        for _ in 0..1000 {
            client.expect_type(packet::JOB_CREATED);
        }
    }
    let cancel = request("POST", "/api/v1/functions/f/cancel-jobs", &[("x-requested-with", "test")], b"");
    let mut stream = connect(server.http());
    stream.write_all(&cancel).expect("send");
    let queued = || shown(&server, "/api/v1/functions/f")["queued"]["normal"].as_u64();
    // A client that goes before its request was read has begun nothing.
    wait_for("the first jobs to end", || (queued() != Some(JOBS as u64)).then_some(()));
    drop(stream);
    wait_for("the end of all jobs", || (queued() == Some(0)).then_some(()));
}

#[test]
fn the_workers_of_a_function_are_counted_by_what_the_rules_say_to_it() {
    let server = server(&[]);
    let mut worker = Wire::connect(server.addr());
    worker.send(packet::SET_CLIENT_ID, b"w-1");
    worker.send(packet::CAN_DO, b"f");
    worker.send(packet::CAN_DO, b"g");
    worker.expect_nothing();
    act(&server, "/api/v1/workers/drain", &json!({"client": "w-1", "function": "f"}));
    let states = |function: &str| shown(&server, &format!("/api/v1/functions/{function}"))["worker_states"].clone();
    assert_eq!([&states("f")["drained"], &states("f")["waiting"]], [1, 0]);
    assert_eq!([&states("g")["drained"], &states("g")["waiting"]], [0, 1]);
    let all = shown(&server, "/api/v1/functions")["functions"].clone();
    assert_eq!([&all[0]["worker_states"]["drained"], &all[1]["worker_states"]["waiting"]], [1, 1]);
}

/// Over HTTP, too, an answer comes when what it tells is committed.
#[test]
fn what_is_answered_outlives_a_kill() {
    let mut server = Server::ours(&["--http-listen", "127.0.0.1:0"]);
    for _ in 0..3 {
        // Nobody uses it yet; the setting holds for what comes.
        assert_eq!(act(&server, "/api/v1/functions/f/pause", &Value::Null), 0);
        server.kill();
        server.restart();
        assert_eq!(shown(&server, "/api/v1/functions/f")["paused"], true);
        act(&server, "/api/v1/functions/f/resume", &Value::Null);
        let mut client = Wire::connect(server.addr());
        let jobs: Vec<String> = (0..200).map(|_| submit(&mut client, "f")).collect();
        assert_eq!(act(&server, "/api/v1/functions/f/cancel-jobs", &Value::Null), jobs.len() as u64);
        server.kill();
        server.restart();
        assert_eq!(shown(&server, "/api/v1/jobs")["jobs"], json!([]));
    }
}
