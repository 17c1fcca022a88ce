//! The fleet over HTTP: what managed workers and monitors say, what they are told, and what hostile ones
//! cannot do.

use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::client::{Answer, get, post, server, shown};
use crate::common::{DEADLINE, Server, Wire, packet, wait_for};

/// What a fake says to a question; nothing where it keeps the job and says no more.
type Reply = Option<(u32, Vec<u8>)>;

/// A raw worker of one function that speaks the contract as a test wants it, in a thread of its own.
pub(crate) struct Fake {
    stream: TcpStream,
    /// What it was asked.
    asked: Receiver<Value>,
    thread: Option<JoinHandle<()>>,
}

impl Fake {
    #[track_caller]
    pub(crate) fn start(
        server: &Server,
        function: &str,
        mut answer: impl FnMut(&Value) -> Reply + Send + 'static,
    ) -> Self {
        let mut wire = Wire::connect(server.addr());
        wire.send(packet::CAN_DO, function.as_bytes());
        wire.expect_nothing();
        let stream = wire.stream().try_clone().expect("a second handle");
        let (sender, asked) = channel();
        wire.send(packet::GRAB_JOB, b"");
        let thread = thread::spawn(move || {
            while let Some((packet_type, body)) = wire.recv_or_end() {
                match packet_type {
                    packet::NO_JOB => wire.send(packet::PRE_SLEEP, b""),
                    packet::NOOP => wire.send(packet::GRAB_JOB, b""),
                    packet::JOB_ASSIGN => {
                        let mut parts = body.splitn(3, |byte| *byte == 0);
                        let handle = parts.next().expect("a handle").to_vec();
                        let request: Value = serde_json::from_slice(parts.nth(1).expect("a workload")).expect("JSON");
                        let reply = answer(&request);
                        let _ = sender.send(request);
                        let Some((packet_type, said)) = reply else { continue };
                        let body =
                            if packet_type == packet::WORK_FAIL { handle } else { packet::body(&[&handle, &said]) };
                        wire.send(packet_type, &body);
                        wire.send(packet::GRAB_JOB, b"");
                    }
                    other => panic!("packet of type {other}"),
                }
            }
        });
        Self { stream, asked, thread: Some(thread) }
    }

    /// A worker that answers `status` with this, and each other verb with what it was asked.
    #[track_caller]
    pub(crate) fn managed(server: &Server, id: &str, more: &Value) -> Self {
        let status = status(id, more);
        Self::start(server, &format!("manage_{id}"), move |request| {
            Some(complete(&if request["verb"] == "status" {
                status.clone()
            } else {
                json!({"ok": true, "was": request})
            }))
        })
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        // What it is still sending can be sent.
        let _ = self.stream.shutdown(Shutdown::Read);
        let ended = self.thread.take().map(JoinHandle::join);
        if !thread::panicking() {
            assert!(matches!(ended, Some(Ok(()))), "the worker failed");
        }
    }
}

/// An answer to `status` with more members, or other ones.
fn status(id: &str, more: &Value) -> Value {
    let mut status = json!({
        "ok": true, "contract": 1, "id": id, "fleet": "web", "host": "web1", "pid": 4711, "language": "php",
        "version": "1", "started": 1_795_635_600, "uptime": 12.5, "state": "idle", "functionInUse": ["resize"],
        "functionNotUse": ["mail"], "count": {"resize": 12}, "failures": {"resize": 3}, "memory": 20_971_520,
    });
    for (name, value) in more.as_object().into_iter().flatten() {
        status[name] = value.clone();
    }
    status
}

fn complete(answer: &Value) -> (u32, Vec<u8>) {
    (packet::WORK_COMPLETE, answer.to_string().into_bytes())
}

/// Asks until a round has found what the test looks for.
#[track_caller]
fn eventually<T>(server: &Server, what: &str, look: impl Fn(&Value) -> Option<T>) -> T {
    wait_for(what, || look(&shown(server, "/api/v1/fleet")))
}

/// A monitor's report, with an event and workers that are to be replaced.
pub(crate) fn report(outdated: &[&str]) -> Value {
    let worker = |id: &&str| {
        let mut worker = status(id, &Value::Null);
        worker["outdated"] = json!(true);
        worker
    };
    json!({
        "ok": true, "fleet": "web", "host": "ops1", "pid": 99, "started": 1_795_635_000, "version": "2",
        "settled": false, "outdated": outdated.len(), "workers": outdated.iter().map(worker).collect::<Vec<_>>(),
        "functions": [{"function": "resize", "min": 1, "max": 4, "target": 2, "workers": 1, "waiting": 7, "oldest": 3.5}],
        "unmet": ["resize: no host has room"], "stopped_hosts": ["web9"],
        "events": [{"at": 1_795_721_990, "what": "registered resize at a", "why": "7 jobs wait"}],
    })
}

#[test]
fn what_workers_and_monitors_say_is_shown() {
    let server = server(&[]);
    let empty = json!({"unnamed_workers": 0, "not_asked": 0, "workers": [], "monitors": []});
    assert_eq!(shown(&server, "/api/v1/fleet"), empty);
    let mut unnamed = Wire::connect(server.addr());
    unnamed.send(packet::CAN_DO, b"setId");
    unnamed.expect_nothing();
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs() - 60;
    let running = json!([{"function": "resize", "handle": "H:x:1", "since": since}]);
    let _workers = [
        Fake::managed(&server, "b", &json!({"state": "working", "running": running})),
        Fake::managed(&server, "a", &json!({"host": "web2", "unheard_of": [1]})),
    ];
    let _monitor = Fake::start(&server, "fleet_web", |_| Some(complete(&report(&["b"]))));
    let fleet = eventually(&server, "all", |fleet| {
        let (workers, monitors) = (fleet["workers"].as_array()?, fleet["monitors"].as_array()?);
        let is_heard = |one: &Value| one["silent_s"].is_null();
        let all = workers.len() == 2 && monitors.len() == 1 && workers.iter().chain(monitors).all(is_heard);
        all.then(|| fleet.clone())
    });
    assert_eq!(fleet["unnamed_workers"], 1);
    let [a, b] = [&fleet["workers"][0], &fleet["workers"][1]];
    assert_eq!(
        (&a["id"], &a["host"], &b["id"], &b["state"]),
        (&json!("a"), &json!("web2"), &json!("b"), &json!("working"))
    );
    assert_eq!((&a["functions_in_use"], &a["functions_not_in_use"]), (&json!(["resize"]), &json!(["mail"])));
    assert_eq!((&a["count"], &a["failures"]), (&json!({"resize": 12}), &json!({"resize": 3})));
    assert_eq!((&a["memory_bytes"], &a["uptime_s"]), (&json!(20_971_520), &json!(12.5)));
    assert_eq!((&a["silent_s"], &a["error"], &a["outdated"]), (&Value::Null, &Value::Null, &json!(false)));
    assert_eq!(b["outdated"], true);
    let seconds = b["running"][0]["seconds"].as_f64().unwrap();
    assert!((59.0..90.0).contains(&seconds), "{seconds}");
    let monitor = &fleet["monitors"][0];
    assert_eq!((&monitor["fleet"], &monitor["functions"][0]["target"]), (&json!("web"), &json!(2)));
    assert_eq!(monitor["events"][0]["why"], "7 jobs wait");
    assert_eq!(shown(&server, "/api/v1/server")["fleet"], json!({"workers": 2, "unnamed_workers": 1, "monitors": 1}));
    let metrics = get(&server, "/metrics").text();
    assert!(metrics.contains("\ngearmand_fleet_workers 2\n"), "{metrics}");
    assert!(metrics.contains("\ngearmand_fleet_unnamed_workers 1\n"), "{metrics}");
}

#[test]
fn a_round_serves_all_who_look_and_leaves_nothing_behind() {
    let server = server(&[]);
    let worker = Fake::managed(&server, "a", &Value::Null);
    // This one takes no jobs.
    let mut deaf = Wire::connect(server.addr());
    deaf.send(packet::CAN_DO, b"manage_deaf");
    deaf.expect_nothing();
    let start = Instant::now();
    thread::scope(|scope| {
        let looks: Vec<_> = (0..20).map(|_| scope.spawn(|| shown(&server, "/api/v1/fleet"))).collect();
        let told: Vec<_> = looks.into_iter().map(|look| look.join().unwrap()).collect();
        assert!(told.iter().all(|one| *one == told[0]), "all are told the same");
        assert_eq!(told[0]["workers"][1]["state"], "unknown");
        assert!(told[0]["workers"][1]["silent_s"].as_f64().unwrap() >= 2.0);
    });
    // A round for each of them would take twice as long as that.
    assert!(start.elapsed() >= Duration::from_secs(2) && start.elapsed() < DEADLINE, "{:?}", start.elapsed());
    assert_eq!(worker.asked.try_iter().collect::<Vec<_>>(), [json!({"verb": "status"})]);
    wait_for("the jobs that nobody took to vanish", || {
        (shown(&server, "/api/v1/functions/manage_deaf")["queued"]["high"] == 0).then_some(())
    });
}

#[test]
fn one_who_falls_silent_is_shown_as_he_was() {
    let server = server(&[]);
    let falls_silent = Arc::new(AtomicBool::new(false));
    let is_silent = Arc::clone(&falls_silent);
    let worker = Fake::start(&server, "manage_a", move |_| {
        if is_silent.load(Ordering::SeqCst) { None } else { Some(complete(&status("a", &Value::Null))) }
    });
    // On a slow machine this may be the answer to a later question than the first.
    eventually(&server, "an answer", |fleet| (fleet["workers"][0]["silent_s"].is_null()).then_some(()));
    falls_silent.store(true, Ordering::SeqCst);
    eventually(&server, "silence", |fleet| {
        let worker = &fleet["workers"][0];
        let silent = worker["silent_s"].as_f64()?;
        assert_eq!((&worker["host"], &worker["functions_in_use"]), (&json!("web1"), &json!(["resize"])));
        (silent > 2.0).then_some(())
    });
    drop(worker);
    eventually(&server, "its end", |fleet| (fleet["workers"] == json!([])).then_some(()));
}

#[test]
fn commands_are_given_and_answered() {
    let server = server(&[]);
    let worker = Fake::managed(&server, "a", &Value::Null);
    let _stubborn =
        Fake::start(&server, "manage_stubborn", |_| Some(complete(&json!({"ok": false, "error": "no such code"}))));
    let monitor = Fake::start(&server, "fleet_web", |_| Some(complete(&json!({"ok": true, "did": "begun"}))));
    let command = |path: &str, body: Value| post(&server, &format!("/api/v1/fleet/{path}"), &body);
    let answer = command("workers/a", json!({"verb": "registerFunction", "functions": ["mail"]}));
    let was = json!({"verb": "registerFunction", "arguments": {"functions": ["mail"]}});
    assert_eq!((answer.status, answer.json()), (200, json!({"answer": {"ok": true, "was": was}})));
    for verb in ["newWorker", "exitWorker", "reload", "version"] {
        assert_eq!(command("workers/a", json!({"verb": verb})).json()["answer"]["was"], json!({"verb": verb}));
    }
    assert_eq!(worker.asked.try_iter().count(), 5);
    let answer = command("workers/stubborn", json!({"verb": "reload"}));
    answer.expect_error(409, "refused");
    assert!(answer.text().contains("no such code"), "{}", answer.text());
    assert_eq!(command("monitors/web", json!({"verb": "roll"})).json()["answer"]["did"], "begun");
    command("monitors/web", json!({"verb": "stop", "host": "web1"}));
    let wishes: Vec<_> = monitor.asked.try_iter().collect();
    assert_eq!(
        wishes,
        [json!({"verb": "roll", "arguments": {}}), json!({"verb": "stop", "arguments": {"host": "web1"}})]
    );
    for line in [
        "fleet worker a registerFunction mail: done, by 127.0.0.1 over HTTP",
        "fleet worker stubborn reload: it refused: no such code, by 127.0.0.1 over HTTP",
        "fleet monitor web stop web1: done, by 127.0.0.1 over HTTP",
    ] {
        wait_for(line, || server.log().contains(line).then_some(()));
    }
}

#[test]
fn commands_that_cannot_be_done_say_why() {
    let server = server(&[]);
    let _workers = [
        Fake::start(&server, "manage_junk", |_| Some((packet::WORK_COMPLETE, b"\xff{".to_vec()))),
        Fake::start(&server, "manage_failing", |_| Some((packet::WORK_FAIL, Vec::new()))),
        Fake::start(&server, "manage_silent", |_| None),
    ];
    let command = |path: &str, body: Value| -> Answer { post(&server, &format!("/api/v1/fleet/{path}"), &body) };
    for (path, body, status, code) in [
        ("workers/none", json!({"verb": "reload"}), 404, "no_such_worker"),
        ("workers/a%20b", json!({"verb": "reload"}), 404, "no_such_worker"),
        ("workers/%ff", json!({"verb": "reload"}), 404, "no_such_worker"),
        ("monitors/none", json!({"verb": "roll"}), 404, "no_such_monitor"),
        ("workers/junk", json!({"verb": "unheardOf"}), 400, "bad_body"),
        ("workers/junk", json!({"verb": "registerFunction"}), 400, "bad_body"),
        ("workers/junk", json!({"verb": "reload", "functions": ["f"]}), 400, "bad_body"),
        ("workers/junk", json!({"verb": "registerFunction", "functions": [""]}), 400, "bad_function"),
        ("workers/junk", Value::Null, 400, "bad_body"),
        ("monitors/web", json!({"verb": "stop"}), 400, "bad_body"),
        ("monitors/web", json!({"verb": "roll", "host": "h".repeat(65)}), 400, "bad_body"),
        ("workers/junk", json!({"verb": "reload"}), 502, "bad_answer"),
        ("workers/failing", json!({"verb": "reload"}), 502, "bad_answer"),
        ("workers/silent", json!({"verb": "reload"}), 504, "no_answer"),
    ] {
        command(path, body).expect_error(status, code);
    }
}

#[test]
fn commands_need_what_all_actions_need() {
    let command = |server: &Server| post(server, "/api/v1/fleet/workers/a", &json!({"verb": "exitWorker"}));
    let read_only = server(&["--http-read-only"]);
    let worker = Fake::managed(&read_only, "a", &Value::Null);
    command(&read_only).expect_error(403, "read_only");
    let locked = server(&["--http-token", "token-of-the-test-1234"]);
    let other = Fake::managed(&locked, "a", &Value::Null);
    command(&locked).expect_error(401, "token_missing");
    assert_eq!(worker.asked.try_iter().chain(other.asked.try_iter()).count(), 0);
}

/// The memory that a process has resident, in bytes.
fn resident(server: &Server) -> usize {
    let statm = std::fs::read_to_string(format!("/proc/{}/statm", server.pid())).expect("statm");
    statm.split(' ').nth(1).and_then(|pages| pages.parse::<usize>().ok()).expect("a number of pages") * 4096
}

#[test]
fn thousands_who_do_not_answer_cost_one_round_and_little_memory() {
    const MANY: usize = 6000;
    let server = server(&[]);
    let _deaf: Vec<_> = (0..6)
        .map(|part| {
            let mut deaf = Wire::connect(server.addr());
            for number in part * MANY / 6..(part + 1) * MANY / 6 {
                deaf.send(packet::CAN_DO, format!("manage_{number:05}-{}", "x".repeat(50)).as_bytes());
            }
            deaf.expect_nothing();
            deaf
        })
        .collect();
    let good = Fake::managed(&server, "0", &Value::Null);
    let before = resident(&server);
    // When the round was asked for whose answer is shown.
    let mut asked = Instant::now();
    for _ in 0..2 {
        let start = Instant::now();
        let fleet = shown(&server, "/api/v1/fleet");
        // One round for each 64 of them would take two minutes.
        assert!(start.elapsed() < DEADLINE, "{:?}", start.elapsed());
        let workers = fleet["workers"].as_array().unwrap();
        assert_eq!((workers.len(), &fleet["not_asked"]), (4096, &json!(MANY + 1 - 4096)));
        assert_eq!(
            (&workers[0]["id"], &workers[0]["silent_s"]),
            (&json!("0"), &Value::Null),
            "one who answers is heard"
        );
        assert!(workers[1..].iter().all(|worker| worker["state"] == "unknown"));
        // What a round has found serves others for two seconds, and a round like these takes two.
        let again = shown(&server, "/api/v1/fleet");
        assert!(again == fleet || asked.elapsed() >= Duration::from_secs(4), "{:?}", asked.elapsed());
        assert!(good.asked.recv().is_ok());
        wait_for("another round", || {
            asked = Instant::now();
            (shown(&server, "/api/v1/fleet") != again).then_some(())
        });
    }
    let grown = resident(&server).saturating_sub(before);
    assert!(grown < 64 << 20, "{grown} bytes more");
}

#[test]
fn a_report_of_thousands_of_workers_is_read_and_an_endless_one_is_not() {
    let server = server(&[]);
    let id = |number: usize| format!("w{number:04}");
    let many: Vec<Value> = (0..5000)
        .map(|number| {
            let more = json!({"outdated": number == 1, "functionNotUse": ["f".repeat(200)]});
            status(&id(number), &more)
        })
        .collect();
    let large = json!({"ok": true, "fleet": "web", "host": "ops1", "workers": many}).to_string().into_bytes();
    assert!(large.len() > 2 << 20, "{} bytes", large.len());
    let mut endless = b"{\"ok\": true, \"unmet\": [".to_vec();
    endless.resize(17 << 20, b'[');
    let _monitors = [
        Fake::start(&server, "fleet_web", move |_| Some((packet::WORK_COMPLETE, large.clone()))),
        Fake::start(&server, "fleet_zoo", move |_| Some((packet::WORK_COMPLETE, endless.clone()))),
    ];
    // What harmless mistakes a worker makes is no reason not to hear it.
    let harmless = json!({"count": [], "memory": 1.0, "pid": "4711", "state": "dozing", "version": "v".repeat(256)});
    let _worker = Fake::managed(&server, &id(1), &harmless);
    eventually(&server, "all answers", |fleet| {
        let (worker, [web, zoo]) = (&fleet["workers"][0], [&fleet["monitors"][0], &fleet["monitors"][1]]);
        if [worker, web].iter().any(|one| !one["silent_s"].is_null()) || zoo["error"].is_null() {
            return None;
        }
        assert_eq!((&web["error"], web["workers"].as_array().unwrap().len()), (&Value::Null, 4096));
        assert!(zoo["error"].as_str().unwrap().contains("answer exceeds 16777216 bytes"), "{}", zoo["error"]);
        assert_eq!((&worker["error"], &worker["outdated"]), (&Value::Null, &json!(true)));
        assert_eq!(
            (&worker["pid"], &worker["memory_bytes"], &worker["state"]),
            (&json!(4711), &json!(1), &json!("idle"))
        );
        assert_eq!((&worker["count"], worker["version"].as_str().unwrap().len()), (&json!({}), 256));
        Some(())
    });
}

#[test]
fn hostile_answers_hurt_nobody() {
    let server = server(&[]);
    let huge =
        status("x", &json!({"functionNotUse": (0..300_000).map(|number| format!("f{number}")).collect::<Vec<_>>()}));
    let huge = huge.to_string().into_bytes();
    let deep = [b"{\"ok\":true,\"id\":\"x\",\"a\":".to_vec(), vec![b'['; 500_000]].concat();
    let said = |name: &'static str, packet_type: u32, bytes: Vec<u8>| {
        Fake::start(&server, &format!("manage_{name}"), move |_| Some((packet_type, bytes.clone())))
    };
    let _fakes = [
        said("huge", packet::WORK_COMPLETE, huge),
        said("deep", packet::WORK_COMPLETE, deep),
        said("junk", packet::WORK_COMPLETE, vec![0xff; 70_000]),
        said("empty", packet::WORK_COMPLETE, Vec::new()),
        said("failing", packet::WORK_FAIL, Vec::new()),
        said("liar", packet::WORK_COMPLETE, status("another", &Value::Null).to_string().into_bytes()),
        said("negative", packet::WORK_COMPLETE, status("negative", &json!({"count": -1})).to_string().into_bytes()),
        said("data", packet::WORK_DATA, vec![b'x'; 100_000]),
    ];
    let mut dying = Wire::connect(server.addr());
    dying.send(packet::CAN_DO, b"manage_dying");
    dying.send(packet::PRE_SLEEP, b"");
    let dies = thread::spawn(move || {
        // It goes in the middle of a round.
        dying.expect(packet::NOOP, b"");
        dying.send(packet::GRAB_JOB, b"");
        dying.expect_type(packet::JOB_ASSIGN);
    });
    let strange = json!({"host": "<img src=x>\u{202e}\u{0}", "started": 1e308, "count": {"\u{0}": 1}});
    let _good = Fake::managed(&server, "good", &strange);
    let start = Instant::now();
    let first = shown(&server, "/api/v1/fleet");
    assert!(start.elapsed() < DEADLINE, "{:?}", start.elapsed());
    dies.join().expect("it was asked");
    let find = |fleet: &Value, id: &str| -> Value {
        let workers = fleet["workers"].as_array().unwrap();
        workers.iter().find(|worker| worker["id"] == id).unwrap_or_else(|| panic!("{id} in {fleet}")).clone()
    };
    assert!(find(&first, "dying")["silent_s"].as_f64().is_some_and(|silent| silent >= 2.0), "{first}");
    // Two seconds may be short for large answers on a slow machine: then they are heard in a later round.
    let heard = ["huge", "deep", "junk", "empty", "failing", "liar", "negative", "good"];
    let fleet = eventually(&server, "all who answer", |fleet| {
        heard.iter().all(|&id| find(fleet, id)["silent_s"].is_null()).then(|| fleet.clone())
    });
    let worker = |id: &str| find(&fleet, id);
    for (id, why) in [
        ("huge", "answer exceeds 1048576 bytes"),
        ("deep", "not a JSON object"),
        ("junk", "not a JSON object"),
        ("empty", "not a JSON object"),
        ("failing", "WORK_FAIL"),
        ("liar", "different id: another"),
        ("negative", "invalid answer: "),
    ] {
        let error = worker(id)["error"].as_str().map(str::to_owned);
        assert!(error.as_ref().is_some_and(|error| error.contains(why) && error.len() <= 512), "{id}: {error:?}");
    }
    assert!(worker("data")["silent_s"].as_f64().is_some_and(|silent| silent >= 2.0), "data");
    let good = worker("good");
    assert_eq!((&good["host"], &good["count"]), (&json!("<img src=x>\u{202e}\u{0}"), &json!({})));
    assert_eq!(good["started_unix_s"], 1e11);
}

#[test]
fn large_answers_of_many_are_bounded_together() {
    let server = server(&[]);
    let _fakes: Vec<_> = (0..24)
        .map(|number| {
            let id = format!("w{number:02}");
            let names: Vec<_> = (0..4000).map(|function| format!("f{function:0240}")).collect();
            Fake::managed(&server, &id, &json!({"functionNotUse": names}))
        })
        .collect();
    let before = resident(&server);
    for _ in 0..3 {
        let answer = get(&server, "/api/v1/fleet");
        assert!(answer.status == 200 && answer.body.len() < 40 << 20, "{}: {}", answer.status, answer.body.len());
        let fleet = answer.json();
        let workers = fleet["workers"].as_array().unwrap();
        let refused =
            workers.iter().filter(|worker| worker["error"].as_str().is_some_and(|why| why.contains("together")));
        let silent = workers.iter().filter(|worker| !worker["silent_s"].is_null());
        let unheard = refused.count() + silent.count();
        assert!((24 - 17..24).contains(&unheard), "{unheard} of 24 are not heard");
    }
    let grown = resident(&server).saturating_sub(before);
    assert!(grown < 200 << 20, "{grown} bytes more");
}
