//! Names as `gearmand admin` shows them mean the same when they are typed, and settings of what is not there
//! are told.

use serde_json::{Value, json};

use crate::common::{Server, Wire, packet};
use crate::run;

/// Names that look like escapes, turn text around, break tables, or are no text at all.
const NAMES: &[&[u8]] = &[
    b"",
    b"-",
    b"a b",
    b"a,b",
    b"tab\there",
    br"Shop\Export\xAdapter",
    b"Shop\\Export\xadapter",
    br"\x41",
    b"\xff\xfe",
    "\u{202e}live\u{85}\u{200b}".as_bytes(),
    "\u{65e5}\u{672c}".as_bytes(),
];

#[track_caller]
fn admin(server: &Server, arguments: &[&str]) -> String {
    let (stdout, stderr, status) = run(server, "admin", arguments);
    assert_eq!((stderr.as_str(), status), ("", Some(0)), "{arguments:?}: {stdout}");
    stdout
}

#[track_caller]
fn functions(server: &Server) -> Vec<Value> {
    let shown = admin(server, &["--json", "show-functions"]);
    serde_json::from_str::<Vec<Value>>(&shown).expect("JSON")
}

fn paused(server: &Server) -> Vec<usize> {
    let is_paused = |(index, function): (usize, &Value)| (function["paused"] == true).then_some(index);
    functions(server).iter().enumerate().filter_map(is_paused).collect()
}

#[test]
fn what_is_shown_of_a_name_means_it() {
    let server = Server::ours(&[]);
    let mut worker = Wire::connect(server.addr());
    for name in NAMES {
        worker.send(packet::CAN_DO, name);
    }
    worker.expect_nothing();
    let shown = functions(&server);
    assert_eq!(shown.len(), NAMES.len());
    let table = admin(&server, &["show-functions", "--columns", "name"]);
    let printed: Vec<&str> = table.lines().skip(1).collect();
    assert_eq!(printed.len(), NAMES.len(), "{table}");
    for (index, function) in shown.iter().enumerate() {
        let name = function["name"].as_str().expect("a name");
        for typed in [name, printed[index]] {
            assert_eq!(admin(&server, &["pause", "--", typed]), "OK\n", "{typed}");
            assert_eq!(paused(&server), [index], "{typed}");
            assert_eq!(admin(&server, &["resume", "--", typed]), "OK\n", "{typed}");
            assert_eq!(admin(&server, &["maxqueue", "--", typed, "9"]), "OK\n", "{typed}");
            assert_eq!(functions(&server)[index]["maxqueue_high"], 9, "{typed}");
            assert_eq!(admin(&server, &["maxqueue", "--", typed]), "OK\n", "{typed}");
            let (out, _, status) = run(&server, "admin", &["disable", "client:nobody", "--", typed]);
            assert_eq!((out.as_str(), status), ("OK 0\n", Some(0)), "{typed}");
            let (out, err, status) = run(&server, "admin", &["enable", "client:nobody", "--", typed]);
            assert_eq!((out.as_str(), status), ("OK 0\n", Some(0)), "{typed}: {err}");
        }
    }
    assert_eq!(functions(&server).len(), NAMES.len(), "none was made");
}

#[test]
fn ids_of_workers_mean_them() {
    let server = Server::ours(&[]);
    for id in [&br"CORP\xadams"[..], b"my id", b"\xff", b"-"] {
        let mut worker = Wire::connect(server.addr());
        worker.send(packet::SET_CLIENT_ID, id);
        worker.send(packet::CAN_DO, b"f");
        worker.expect_nothing();
        let shown: Vec<Value> = serde_json::from_str(&admin(&server, &["--json", "show-workers"])).expect("JSON");
        let who = format!("client:{}", shown[0]["client_id"].as_str().expect("an id"));
        assert_eq!(admin(&server, &["disable", &who]), "OK 1\n", "{who}");
        let rules: Vec<Value> = serde_json::from_str(&admin(&server, &["--json", "show-rules"])).expect("JSON");
        let who = rules[0]["who"].as_str().expect("whom").to_owned();
        assert_eq!(admin(&server, &["enable", &who]), "OK 1\n", "{who}");
        worker.send(packet::CANT_DO, b"f");
        drop(worker);
        crate::common::wait_for("the worker to go", || {
            (admin(&server, &["--json", "show-workers"]) == "[]\n").then_some(())
        });
    }
}

/// A warning for each that may be meant for later, with the command that takes it back; an error for what can
/// never be.
#[test]
fn what_concerns_nothing_yet_is_told() {
    let server = Server::ours(&[]);
    for (arguments, stdout, undo) in [
        (&["pause", "typo"][..], "OK 0\n", "gearmand admin resume typo"),
        (&["limit-running", "typo", "3"], "OK 0\n", "gearmand admin limit-running typo 0"),
        (&["maxqueue", "typo", "3"], "OK\n", "gearmand admin maxqueue typo"),
        (&["disable", "client:nobody"], "OK 0\n", "gearmand admin enable client:nobody"),
        (&["drain", "host:192.0.2.1", "typo"], "OK 0\n", "gearmand admin enable host:192.0.2.1 typo"),
    ] {
        let (out, err, status) = run(&server, "admin", arguments);
        assert_eq!((out.as_str(), status), (stdout, Some(0)), "{arguments:?}: {err}");
        assert!(err.contains("warning:") && err.contains(undo), "{arguments:?}: {err}");
        let undo: Vec<&str> = undo.split(' ').skip(2).collect();
        let (_, err, status) = run(&server, "admin", &undo);
        assert_eq!((err.as_str(), status), ("", Some(0)), "{undo:?}");
    }
    assert_eq!(functions(&server), Vec::<Value>::new(), "each was taken back");
    let (out, err, _) = run(&server, "admin", &["--json", "pause", "typo"]);
    assert_eq!(serde_json::from_str::<Value>(&out).expect("JSON"), json!({"affected": 0}));
    assert!(err.contains("warning:"), "{err}");
    let shown = functions(&server);
    assert_eq!([&shown[0]["settings_only"], &shown[0]["paused"]], [&json!(true), &json!(true)]);
    for host in ["host:localhost", "host:web1.example.com"] {
        let (_, err, status) = run(&server, "admin", &["disable", host]);
        assert_eq!(status, Some(1), "{err}");
        assert!(err.contains("A host is an IP address as listed for workers, such as 10.0.0.1"), "{err}");
    }
    let mut client = Wire::connect(server.addr());
    client.send(packet::CAN_DO, b"offered");
    client.send(packet::SET_CLIENT_ID, b"e");
    client.send(packet::SUBMIT_JOB_BG, b"queued\0\0");
    let (_, handle) = client.recv();
    let handle = String::from_utf8(handle).expect("a handle");
    // The text answers of these do not tell.
    for (arguments, stdout, is_told) in [
        (&["move-jobs", "queued", "misspelt"][..], "OK 1\n", true),
        (&["move-jobs", "misspelt", "queued"], "OK 1\n", false),
        (&["move-job", &handle, "mistyped"], "OK\n", true),
        (&["move-job", &handle, "offered"], "OK\n", false),
        (&["move-job", &handle, "queued"], "OK\n", false),
        (&["disable", "client:e", "misspelt"], "OK 0\n", true),
        (&["disable", "client:e", "offered"], "OK 1\n", false),
    ] {
        let (out, err, status) = run(&server, "admin", arguments);
        assert_eq!((out.as_str(), status), (stdout, Some(0)), "{arguments:?}: {err}");
        assert_eq!(err.contains("warning:"), is_told, "{arguments:?}: {err}");
    }
    let (_, err, status) = run(&server, "admin", &["drop-function", "queued"]);
    assert!(status == Some(1) && err.contains("gearmand admin cancel-jobs queued"), "{err}");
}
