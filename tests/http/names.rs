//! Names of functions, workers and hosts in addresses and bodies: each can be seen and steered, whatever its
//! bytes are.

use serde_json::{Value, json};

use crate::client::{exchange, get, post, request, server, shown};
use crate::common::{Server, Wire, packet};

/// Names, and how they stand in addresses.
const NAMES: &[(&[u8], &str)] = &[
    (b"", "="),
    (b".", "=."),
    (b"..", "=.."),
    (b"=", "%3D"),
    (b"=.", "%3D."),
    (br"Shop\Export\xAdapter", "Shop%5CExport%5CxAdapter"),
    (b"Shop\\Export\xadapter", "Shop%5CExport%ADapter"),
    (b"a b", "a%20b"),
];

#[track_caller]
fn affected(server: &Server, path: &str, body: &Value) -> u64 {
    let answer = post(server, path, body);
    assert_eq!(answer.status, 200, "{path}: {}", answer.text());
    answer.json()["affected"].as_u64().expect("a number")
}

#[test]
fn every_function_can_be_seen_and_steered() {
    let server = server(&[]);
    let mut client = Wire::connect(server.addr());
    let mut worker = Wire::connect(server.addr());
    for (name, segment) in NAMES {
        let path = format!("/api/v1/functions/{segment}");
        client.send(packet::SUBMIT_JOB_BG, &packet::body(&[name, b"", b"x"]));
        client.expect_type(packet::JOB_CREATED);
        worker.send(packet::CAN_DO, name);
        worker.expect_nothing();
        assert_eq!(shown(&server, &path)["queued"]["normal"], 1, "{segment}");
        assert!(shown(&server, &format!("{path}/history"))["queued"].is_array(), "{segment}");
        assert_eq!(shown(&server, &format!("/api/v1/jobs?function={segment}"))["jobs"].as_array().unwrap().len(), 1);
        assert_eq!(
            shown(&server, &format!("/api/v1/workers?function={segment}"))["workers"].as_array().unwrap().len(),
            1
        );
        assert_eq!(affected(&server, &format!("{path}/pause"), &Value::Null), 1, "{segment}");
        assert_eq!(shown(&server, &path)["paused"], true, "{segment}");
        assert_eq!(affected(&server, &format!("{path}/limits"), &json!({"max_running": 1, "max_queue": [1, 1, 1]})), 1);
        client.send(packet::SUBMIT_JOB_BG, &packet::body(&[name, b"", b"x"]));
        client.expect_error("QUEUE_ERROR");
        assert_eq!(affected(&server, &format!("{path}/resume"), &Value::Null), 1);
        assert_eq!(affected(&server, &format!("{path}/move-jobs"), &json!({"to": "elsewhere"})), 1);
        assert_eq!(affected(&server, "/api/v1/functions/elsewhere/move-jobs", &target(name)), 1, "{segment}");
        assert_eq!(affected(&server, &format!("{path}/cancel-jobs"), &Value::Null), 1);
        worker.send(packet::CANT_DO, name);
        worker.expect_nothing();
        let headers = [("x-requested-with", "test")];
        let dropped = exchange(server.http(), &request("DELETE", &path, &headers, b""));
        assert_eq!(dropped.status, 200, "{segment}: {}", dropped.text());
        get(&server, &path).expect_error(404, "no_such_function");
    }
    assert_eq!(client.text("status"), "elsewhere\t0\t0\t0\n.\n");
}

fn target(name: &[u8]) -> Value {
    use base64::Engine as _;
    json!({"to_base64": base64::engine::general_purpose::STANDARD.encode(name)})
}

/// What such names have in a store comes back, with what was decided of them.
#[test]
fn jobs_and_settings_of_every_function_outlive_the_server() {
    let mut server = Server::ours(&["--verbose", "INFO", "--http-listen", "127.0.0.1:0"]);
    let mut client = Wire::connect(server.addr());
    for (name, segment) in NAMES {
        client.send(packet::SUBMIT_JOB_BG, &packet::body(&[name, b"", b"x"]));
        client.expect_type(packet::JOB_CREATED);
        assert_eq!(affected(&server, &format!("/api/v1/functions/{segment}/pause"), &Value::Null), 1);
    }
    server.restart();
    for (_, segment) in NAMES {
        let function = shown(&server, &format!("/api/v1/functions/{segment}"));
        assert_eq!((&function["queued"]["normal"], &function["paused"]), (&json!(1), &json!(true)), "{segment}");
    }
}

#[test]
fn what_is_not_there_yet_is_told_and_what_can_never_be_is_refused() {
    let server = server(&[]);
    assert_eq!(affected(&server, "/api/v1/functions/typo/pause", &Value::Null), 0);
    assert_eq!(affected(&server, "/api/v1/functions/typo/limits", &json!({"max_queue": [1, 2, 3]})), 0);
    assert_eq!(shown(&server, "/api/v1/functions/typo")["settings_only"], true);
    assert_eq!(affected(&server, "/api/v1/functions/typo/resume", &Value::Null), 0);
    assert_eq!(affected(&server, "/api/v1/functions/typo/limits", &json!({"max_queue": [0, 0, 0]})), 0);
    get(&server, "/api/v1/functions/typo").expect_error(404, "no_such_function");
    for verb in ["disable", "drain", "kick"] {
        for host in ["localhost", "web1.example.com", "127.0.0.1:80", ""] {
            post(&server, &format!("/api/v1/workers/{verb}"), &json!({"host": host})).expect_error(400, "bad_host");
        }
    }
    let mut worker = Wire::connect(server.addr());
    worker.send(packet::CAN_DO, b"f");
    worker.expect_nothing();
    for host in ["127.0.0.1", "::ffff:127.0.0.1", "[::ffff:7f00:1]"] {
        assert_eq!(affected(&server, "/api/v1/workers/disable", &json!({"host": host})), 1, "{host}");
    }
    assert_eq!(affected(&server, "/api/v1/workers/drain", &json!({"host": "[::1]"})), 0);
    let rules = shown(&server, "/api/v1/rules")["rules"].clone();
    let hosts: Vec<_> = rules.as_array().unwrap().iter().map(|rule| rule["who"].clone()).collect();
    assert_eq!(hosts, ["host:127.0.0.1", "host:::1"]);
}

/// A name that is no UTF-8 is told twice: to be read, and to be given back.
#[test]
fn ids_that_are_no_text_can_be_given_back() {
    let server = server(&[]);
    let mut worker = Wire::connect(server.addr());
    worker.send(packet::SET_CLIENT_ID, b"w\xff");
    worker.send(packet::CAN_DO, b"f");
    worker.expect_nothing();
    let shown_worker = shown(&server, "/api/v1/workers")["workers"][0].clone();
    assert_eq!((&shown_worker["client_id"], &shown_worker["client_id_base64"]), (&json!("w\u{fffd}"), &json!("d/8=")));
    let whom = json!({"client_base64": shown_worker["client_id_base64"]});
    assert_eq!(affected(&server, "/api/v1/workers/disable", &whom), 1);
    let mut client = Wire::connect(server.addr());
    client.send(packet::SUBMIT_JOB_BG, &packet::body(&[b"f", b"u\xff", b"x"]));
    client.expect_type(packet::JOB_CREATED);
    let job = shown(&server, "/api/v1/jobs")["jobs"][0].clone();
    assert_eq!((&job["unique"], &job["unique_base64"]), (&json!("u\u{fffd}"), &json!("df8=")));
    // And in text.
    let mut wire = Wire::connect(server.addr());
    let list = wire.text(r"list jobs unique=u\xff");
    assert!(list.contains("\tu\\xff\tf\t"), "{list}");
    assert!(wire.text("show rules").contains("client:w\\xff\t"));
    assert_eq!(wire.text(r"enable client:w\xff"), "OK 1\r\n");
}
