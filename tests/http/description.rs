//! The description of the interface beside the interface.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::Command;

use serde_json::{Value, json};

use crate::client::{Events, connect, post, request, server, shown};
use crate::common::{Wire, packet, wait_for};
use crate::fleet::{Fake, report};

/// What is of another shape than the description says, with its place.
fn differences(description: &Value, schema: &Value, value: &Value, place: &str, found: &mut Vec<String>) {
    if let Some(reference) = schema["$ref"].as_str() {
        let schema = description.pointer(reference.trim_start_matches('#')).unwrap();
        return differences(description, schema, value, place, found);
    }
    if let Some(choices) = schema["oneOf"].as_array() {
        if !value.is_null() {
            differences(description, &choices[0], value, place, found);
        }
        return;
    }
    match value {
        Value::Array(items) => {
            for item in items {
                differences(description, &schema["items"], item, place, found);
            }
        }
        Value::Object(members) if schema["properties"].is_null() => {
            // The names are anybody's.
            let additional = &schema["additionalProperties"];
            assert!(!additional.is_null(), "{place}: no members are described");
            for member in members.values() {
                differences(description, additional, member, place, found);
            }
        }
        Value::Object(members) => {
            let names = |names: Vec<&String>| names.into_iter().cloned().collect::<BTreeSet<String>>();
            let described = names(schema["properties"].as_object().expect(place).keys().collect());
            let given = names(members.keys().collect());
            let needed: BTreeSet<String> = serde_json::from_value(schema["required"].clone()).unwrap();
            let undescribed: Vec<_> = given.difference(&described).collect();
            let missing: Vec<_> = needed.difference(&given).collect();
            if !undescribed.is_empty() || !missing.is_empty() {
                found.push(format!("{place}: undescribed {undescribed:?}, missing {missing:?}"));
            }
            for (name, member) in members {
                differences(description, &schema["properties"][name], member, &format!("{place}.{name}"), found);
            }
        }
        _ => {}
    }
}

#[test]
fn answers_have_the_members_that_are_described() {
    let server = server(&[]);
    let mut client = Wire::connect(server.addr());
    let mut worker = Wire::connect(server.addr());
    let mut submit = || {
        client.send(packet::SUBMIT_JOB_BG, &packet::body(&[b"f", b"", b"x"]));
        String::from_utf8(client.expect_type(packet::JOB_CREATED)).unwrap()
    };
    let handle = submit();
    let mut lost = Wire::connect(server.addr());
    for wire in [&mut lost, &mut worker] {
        wire.send(packet::CAN_DO, b"f");
        wire.expect_nothing();
    }
    lost.send(packet::GRAB_JOB, b"");
    lost.expect_type(packet::JOB_ASSIGN);
    drop(lost);
    wait_for("the job once more", || {
        worker.send(packet::GRAB_JOB, b"");
        (worker.recv().0 == packet::JOB_ASSIGN).then_some(())
    });
    submit();
    worker.send(packet::WORK_STATUS, &packet::body(&[handle.as_bytes(), b"1", b"2"]));
    worker.expect_nothing();
    post(&server, "/api/v1/workers/drain", &json!({"client": "somebody", "function": "f"}));
    let id = shown(&server, "/api/v1/workers")["workers"][0]["id"].as_str().unwrap().to_owned();
    let running = json!([{"function": "f", "handle": "H:x:1", "since": 1}]);
    let _managed = Fake::managed(&server, "a", &json!({"running": running}));
    let _monitor =
        Fake::start(&server, "fleet_web", |_| Some((packet::WORK_COMPLETE, report(&["a"]).to_string().into_bytes())));

    let description = shown(&server, "/api/v1/openapi.json");
    let mut found = Vec::new();
    for (path, schema) in [
        ("/api/v1/server".to_owned(), "Server"),
        ("/api/v1/functions".to_owned(), "Functions"),
        ("/api/v1/functions/f".to_owned(), "Function"),
        ("/api/v1/functions/f/history".to_owned(), "History"),
        ("/api/v1/history".to_owned(), "History"),
        ("/api/v1/workers".to_owned(), "Workers"),
        (format!("/api/v1/workers/{id}"), "Worker"),
        ("/api/v1/jobs".to_owned(), "Jobs"),
        (format!("/api/v1/jobs/{handle}"), "Job"),
        ("/api/v1/rules".to_owned(), "Rules"),
        ("/readyz".to_owned(), "Readiness"),
        ("/api/v1/fleet".to_owned(), "Fleet"),
    ] {
        let value = shown(&server, &path);
        differences(&description, &description["components"]["schemas"][schema], &value, &path, &mut found);
    }
    let mut stream = connect(server.http());
    std::io::Write::write_all(&mut stream, &request("GET", "/api/v1/events", &[], b"")).unwrap();
    let (_, overview) = Events::of(stream).next().unwrap();
    differences(&description, &description["components"]["schemas"]["Overview"], &overview, "overview", &mut found);
    assert!(found.is_empty(), "{found:#?}");
}

/// Requests made up from the description, right ones and wrong ones, get answers of which it speaks.
#[test]
fn schemathesis_finds_nothing() {
    let program = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/clients/venv/bin/schemathesis");
    assert!(program.exists(), "{} is missing: run tests/install-peers.sh", program.display());
    let server = server(&[]);
    let mut client = Wire::connect(server.addr());
    for _ in 0..3 {
        client.send(packet::SUBMIT_JOB_BG, &packet::body(&[b"f", b"", b"x"]));
        client.expect_type(packet::JOB_CREATED);
    }
    let mut worker = Wire::connect(server.addr());
    worker.send(packet::CAN_DO, b"f");
    worker.expect_nothing();
    let address = format!("http://{}", server.http());
    // Streams of events have no end, and nobody works for the jobs that would be waited for.
    let output = Command::new(program)
        .args(["run", &format!("{address}/api/v1/openapi.json"), "--url", &address])
        .args(["--exclude-path", "/api/v1/events", "--exclude-operation-id", "submit"])
        .args([
            "--checks",
            "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance",
        ])
        // One thread: in CPython 3.11 two that parse Python at a time can end each other (gh-106905).
        .args(["--phases", "examples,coverage,fuzzing", "--max-examples", "10", "--seed", "4730", "--workers", "1"])
        .args(["--header", "X-Requested-With: schemathesis", "--request-timeout", "10", "--no-color"])
        .current_dir(tempfile::tempdir().unwrap().path())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
}
