//! Workers and monitors that do not do as they should.

use std::collections::BTreeSet;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::common::{Implementation, Program, Wire, packet, wait_for};
use crate::load::local;
use crate::world::{Language, PATIENCE, World, doing, run, workers};

/// A worker that says how it is, as this process, and refuses all else. It ends with the server.
fn refuser(world: &World, pid: u32) {
    let mut wire = Wire::connect(local(world));
    wire.send(packet::CAN_DO, b"manage_refuser");
    wire.expect_nothing();
    wire.stream().set_read_timeout(Some(PATIENCE)).unwrap();
    let status = json!({
        "ok": true, "id": "refuser", "fleet": "t", "host": "elsewhere", "pid": pid, "language": "none", "version": "1",
        "functionInUse": [], "functionNotUse": ["log_line"], "count": [], "memory": null,
    });
    wire.send(packet::GRAB_JOB, b"");
    thread::spawn(move || {
        while let Some((packet_type, body)) = wire.recv_or_end() {
            match packet_type {
                packet::NO_JOB => wire.send(packet::PRE_SLEEP, b""),
                packet::JOB_ASSIGN => {
                    let parts: Vec<&[u8]> = body.splitn(3, |byte| *byte == 0).collect();
                    let asked: Value = serde_json::from_slice(parts[2]).unwrap();
                    let answer = if asked["verb"] == "status" {
                        status.to_string()
                    } else {
                        json!({"ok": false, "error": "not now"}).to_string()
                    };
                    wire.send(packet::WORK_COMPLETE, &packet::body(&[parts[0], answer.as_bytes()]));
                    wire.send(packet::GRAB_JOB, b"");
                }
                _ => wire.send(packet::GRAB_JOB, b""),
            }
        }
    });
}

pub(crate) fn a_worker_that_refuses_holds_up_nobody(implementation: Implementation) {
    let (world, _monitor) = World::with_fleet(implementation, "");
    refuser(&world, 1);
    world.wait("it is found", |status| workers(status).len() == 10);
    // It is the only one that is allowed to do this, and does not.
    world.want("[functions.log_line]\nmin = 1\nhosts = [\"elsewhere\"]\n[functions.sleep_ms]\nmin = 2\n");
    let status = world.wait("what it refuses is told, and the other function is done", |status| {
        let unmet = status["unmet"].as_array().cloned().unwrap_or_default();
        unmet.iter().any(|line| line.as_str().unwrap().contains("log_line")) && doing(status, "sleep_ms") == 2
    });
    let refusals = |status: &Value| {
        let events = status["events"].as_array().cloned().unwrap_or_default();
        events.iter().filter(|event| event["error"] == "not now").count()
    };
    // To do it, and to start another one that does.
    let before = refusals(&status);
    assert!((1..=2).contains(&before), "{status}");
    run(&mut world.fleet(&["--timeout", "60s", "stop", "web2"]));
    let after = world.report();
    assert!(workers(&after).iter().all(|worker| worker["host"] != "web2"), "{after}");
    assert!(refusals(&after) <= 2, "it is asked again and again: {after}");
}

/// The strange things of a report that name this.
fn strange<'a>(status: &'a Value, of: &str) -> Vec<&'a str> {
    let lines = status["strange"].as_array().map_or(&[][..], Vec::as_slice).iter().filter_map(Value::as_str);
    lines.filter(|line| line.contains(of)).collect()
}

pub(crate) fn two_connections_are_told_from_two_workers(implementation: Implementation) {
    let mut world = World::new(implementation);
    // The same server by two names.
    let port = world.server.port();
    let mut keeper = Command::new(env!("CARGO_BIN_EXE_gearmand"));
    keeper.args(["work", "--managed", "--fleet-name", "t", "--host-name", "twice", "-f", "log_line=cat"]);
    keeper.env("GEARMAN_SERVERS", format!("127.0.0.1:{port},localhost:{port}"));
    world.workers.push(Program::start(&mut keeper));
    world.want("");
    let _monitor = world.monitor();
    let status = world.wait("a server that is listed twice is told", |status| {
        !strange(status, "list each server once in its GEARMAN_SERVERS").is_empty()
    });
    assert_eq!(strange(&status, "duplicate id"), [""; 0]);
    refuser(&world, 11);
    refuser(&world, 12);
    world.wait("two workers with one id are told", |status| {
        let lines = strange(status, "duplicate id refuser: two workers");
        lines.iter().any(|line| line.contains("process 11 on elsewhere, process 12 on elsewhere"))
    });
}

pub(crate) fn a_roll_outlives_its_monitor(implementation: Implementation) {
    let (world, monitor) = World::with_fleet(implementation, "[functions.log_line]\nmin = 4\n");
    let ids = |status: &Value| -> BTreeSet<String> {
        workers(status).iter().map(|worker| worker["id"].to_string()).collect()
    };
    let before = ids(&world.settled("four do it", |status| doing(status, "log_line") == 4));
    let mut roll = Program::start(&mut world.fleet(&["roll"]));
    world.wait("the first one is replaced", |status| !status.is_null() && !ids(status).is_superset(&before));
    drop(monitor);
    let _monitor = world.monitor();
    let after = world.settled("all are replaced", |status| ids(status).is_disjoint(&before));
    assert_eq!((doing(&after, "log_line"), &after["outdated"]), (4, &json!(0)));
    // Whoever gave the order is told that somebody else took it over.
    assert_eq!(roll.finish().1.code(), Some(1));
}

pub(crate) fn what_a_monitor_does_not_do_at_first_it_does_soon(implementation: Implementation) {
    let mut world = World::new(implementation);
    world.start(0, Language::Ours);
    world.wait("it waits for an id", |status| status["unnamed"] == 1);
    // The monitor holds back at first; a start that it did not order must not keep it from one that it
    // orders.
    world.want("interval = \"1s\"\n[functions.log_line]\nmin = 2\n");
    let _monitor = world.monitor();
    let begin = Instant::now();
    let status = world.settled("a second one is started", |status| doing(status, "log_line") == 2);
    assert!(begin.elapsed() < Duration::from_secs(15), "it took {:?}: {status}", begin.elapsed());
}

pub(crate) fn of_two_monitors_one_gives_way(implementation: Implementation) {
    let (world, first) = World::with_fleet(implementation, "[functions.log_line]\nmin = 4\n");
    world.settled("four do it", |status| doing(status, "log_line") == 4);
    let signal = |program: &Program, signal: Signal| {
        kill(Pid::from_raw(i32::try_from(program.pid()).unwrap()), signal).unwrap();
    };
    signal(&first, Signal::SIGSTOP);
    let second = world.monitor_that_is_heard();
    wait_for("the second one takes the first one for dead", || {
        second.line().expect("a line").contains("considered dead").then_some(())
    });
    wait_for("it looks after the fleet", || second.line().expect("a line").contains("monitoring fleet").then_some(()));
    signal(&first, Signal::SIGCONT);
    let end = Instant::now() + PATIENCE;
    let monitors = || {
        let mut wire = Wire::connect(local(&world));
        let status = wire.text("status");
        let line = status.lines().find(|line| line.starts_with("fleet_t\t")).expect("a monitor");
        line.rsplit('\t').next().unwrap().parse::<u32>().unwrap()
    };
    while monitors() > 1 {
        assert!(Instant::now() < end, "two monitors look after one fleet");
        thread::sleep(Duration::from_millis(100));
    }
    world.settled("one of them answers, and all is as it was", |status| doing(status, "log_line") == 4);
}
