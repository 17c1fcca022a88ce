//! What dies, and what comes back.

use std::time::{Duration, Instant};

use serde_json::Value;

use crate::common::{Implementation, Server};
use crate::load::Load;
use crate::world::{Language, World, doing, doing_on, workers};

const WANTED: &str = "[functions.log_line]\nmin = 4\n[functions.sleep_ms]\nmin = 2\n";

/// A fleet of nine that does what is wanted.
fn ready(implementation: Implementation) -> (World, crate::common::Program) {
    let (world, monitor) = World::with_fleet(implementation, WANTED);
    world.settled("all is as wanted", |status| workers(status).len() == 9 && is_wanted(status));
    (world, monitor)
}

fn is_wanted(status: &Value) -> bool {
    doing(status, "log_line") == 4 && doing(status, "sleep_ms") == 2
}

pub(crate) fn killed_workers_are_replaced(implementation: Implementation) {
    let (world, _monitor) = ready(implementation);
    let load = Load::start(&world);
    load.goes_on(20);
    // One of each host, whatever it is doing.
    let before = world.report();
    let mut killed = Vec::new();
    for host in &world.hosts {
        let victim = workers(&before).iter().find(|worker| {
            worker["host"] == host.name.as_str() && !worker["functionInUse"].as_array().unwrap().is_empty()
        });
        let Some(victim) = victim else { continue };
        host.kill(victim["pid"].as_u64().unwrap());
        killed.push(victim["id"].clone());
    }
    assert!(killed.len() >= 2, "{before}");
    world.settled("others do their work", |status| {
        is_wanted(status) && workers(status).iter().all(|worker| !killed.contains(&worker["id"]))
    });
    load.goes_on(20);
    // What a killed worker ran was done again, perhaps after it had been done.
    assert!(load.end() <= 3);
}

pub(crate) fn a_host_without_power_is_made_up_for(implementation: Implementation) {
    let (mut world, _monitor) = ready(implementation);
    let load = Load::start(&world);
    load.goes_on(20);
    world.hosts[0].cut_power();
    world.settled("the others do its work", |status| is_wanted(status) && doing_on(status, "log_line", "web1") == 0);
    load.goes_on(20);
    world.replace_host(0);
    world.start(0, Language::Ours);
    world.settled("the host is back", |status| {
        is_wanted(status) && workers(status).iter().any(|worker| worker["host"] == "web1" && worker["silent"] == 0.0)
    });
    load.goes_on(20);
    assert!(load.end() <= 3);
}

pub(crate) fn a_host_without_network_is_made_up_for(implementation: Implementation) {
    let (world, _monitor) = ready(implementation);
    let load = Load::start(&world);
    load.goes_on(20);
    world.hosts[1].plug(false);
    world.wait("the others do its work", |status| {
        is_wanted(status)
            && workers(status).iter().filter(|worker| worker["host"] == "web2").all(|worker| worker["silent"] != 0.0)
    });
    world.hosts[1].plug(true);
    world.settled("it is back, and nothing is done by too many", |status| {
        is_wanted(status) && workers(status).iter().all(|worker| worker["silent"] == 0.0)
    });
    load.goes_on(20);
    assert!(load.end() <= 3);
}

pub(crate) fn a_killed_monitor_finds_its_fleet_again(implementation: Implementation) {
    let (mut world, monitor) = ready(implementation);
    let load = Load::start(&world);
    let before = world.report();
    // Killed in the middle of something.
    world.want(&format!("version = \"2\"\n{WANTED}"));
    world.set_version("2");
    world.wait("it has begun to replace", |status| workers(status).iter().any(|worker| worker["version"] == "2"));
    drop(monitor);
    load.goes_on(20);
    // Meanwhile one comes that nobody gives an id.
    world.start(2, Language::Python);
    let _monitor = world.monitor();
    let after = world.settled("it goes on", |status| {
        is_wanted(status) && workers(status).len() >= 9 && workers(status).iter().all(|worker| worker["version"] == "2")
    });
    assert!(after["started"].as_f64().unwrap() > before["started"].as_f64().unwrap());
    load.goes_on(20);
    assert_eq!(load.end(), 1, "a job was done twice");
}

pub(crate) fn a_second_monitor_stands_by(implementation: Implementation) {
    let (world, first) = ready(implementation);
    let second = world.monitor_that_is_heard();
    let said = second.line().expect("a line");
    assert!(said.contains("standby: monitor "), "{said}");
    let before = world.report();
    drop(first);
    let after =
        world.settled("the second one looks after it", |status| status["pid"] != before["pid"] && is_wanted(status));
    assert_eq!(after["pid"].as_u64(), Some(u64::from(second.pid())));
    assert_eq!(workers(&after).len(), 9);
}

pub(crate) fn a_restarted_server_keeps_its_fleet(implementation: Implementation) {
    let (mut world, _monitor) = ready(implementation);
    let before = world.report();
    restart(&mut world.server);
    let begin = Instant::now();
    let ids = |status: &Value| {
        let mut ids: Vec<String> = workers(status).iter().map(|worker| worker["id"].to_string()).collect();
        ids.sort();
        ids
    };
    let after = world.settled("all are back", |status| is_wanted(status) && workers(status).len() >= 9);
    assert_eq!(ids(&before), ids(&after), "workers were started or ended for nothing");
    assert!(begin.elapsed() < Duration::from_mins(1));
}

fn restart(server: &mut Server) {
    server.kill();
    server.restart();
}

pub(crate) fn a_host_that_comes_back_gets_its_share(implementation: Implementation) {
    let (mut world, _monitor) = World::with_fleet(implementation, "[functions.log_line]\nmin = 6\n");
    let on = |status: &Value| ["web1", "web2", "web3"].map(|host| doing_on(status, "log_line", host));
    let is_lost = |status: &Value| {
        let lines = status["strange"].as_array().cloned().unwrap_or_default();
        lines.iter().any(|line| line.as_str().unwrap().starts_with("web1 has had no worker for"))
    };
    let before = world.settled("the hosts have the same", |status| on(status) == [2, 2, 2]);
    assert!(!is_lost(&before), "{before}");
    world.hosts[0].cut_power();
    world.settled("the others do its work, and it is told", |status| on(status) == [0, 3, 3] && is_lost(status));
    world.replace_host(0);
    for language in Language::ALL {
        world.start(0, language);
    }
    let after = world.settled("they have the same again", |status| on(status) == [2, 2, 2]);
    assert!(!is_lost(&after), "{after}");
}

pub(crate) fn workers_that_end_as_told_are_no_failures(implementation: Implementation) {
    let (world, _monitor) = World::with_fleet(implementation, "[functions.log_line]\nmin = 6\n");
    world.settled("all is as wanted", |status| doing(status, "log_line") == 6);
    crate::world::run(&mut world.fleet(&["--timeout", "60s", "stop", "web2"]));
    let status = world.settled("the host is empty", |status| workers(status).iter().all(|w| w["host"] != "web2"));
    let events = status["events"].as_array().cloned().unwrap_or_default();
    let ended: Vec<&Value> = events.iter().filter(|event| event["why"] == "exited as requested").collect();
    assert_eq!(ended.len(), 3, "{status}");
    assert!(events.iter().all(|event| event["error"].is_null()), "{status}");
    // Whoever was told to end is not missed.
    let strange = status["strange"].to_string();
    assert!(!strange.contains("has had no worker"), "{strange}");
}
