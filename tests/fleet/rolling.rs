//! New versions, and hosts that are taken out.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::common::Implementation;
use crate::load::Load;
use crate::world::{World, doing, doing_on, run, workers};

const WANTED: &str = "[functions.log_line]\nmin = 4\n[functions.sleep_ms]\nmin = 2\n";

fn ids(status: &Value) -> BTreeSet<String> {
    workers(status).iter().map(|worker| worker["id"].as_str().unwrap().to_owned()).collect()
}

pub(crate) fn all_workers_are_replaced_under_load(implementation: Implementation) {
    let (world, _monitor) = World::with_fleet(implementation, WANTED);
    let before = world.settled("all is as wanted", |status| {
        workers(status).len() == 9 && doing(status, "log_line") == 4 && doing(status, "sleep_ms") == 2
    });
    let load = Load::start(&world);
    load.goes_on(20);
    // The new code is there; then it is wanted.
    world.set_version("2");
    world.want(&format!("version = \"2\"\n{WANTED}"));
    let after = world.settled("all are of version 2", |status| {
        !workers(status).is_empty()
            && workers(status).iter().all(|worker| worker["version"] == "2")
            && doing(status, "log_line") == 4
            && doing(status, "sleep_ms") == 2
    });
    assert!(ids(&before).is_disjoint(&ids(&after)), "{after}");
    load.goes_on(20);
    // The same without another version.
    run(&mut world.fleet(&["roll", "--on", "web1"]));
    let rolled = world.settled("those of one host are others", |_| true);
    let of_host = |status: &Value, host: &str| -> BTreeSet<String> {
        let there = workers(status).iter().filter(|worker| worker["host"] == host);
        there.map(|worker| worker["id"].as_str().unwrap().to_owned()).collect()
    };
    assert!(of_host(&after, "web1").is_disjoint(&of_host(&rolled, "web1")), "{rolled}");
    assert_eq!(of_host(&after, "web2"), of_host(&rolled, "web2"));
    load.goes_on(20);
    assert_eq!(load.end(), 1, "a job was done twice");
}

pub(crate) fn a_host_is_stopped_and_started(implementation: Implementation) {
    let (mut world, _monitor) = World::with_fleet(implementation, WANTED);
    world.settled("all is as wanted", |status| workers(status).len() == 9 && doing(status, "log_line") == 4);
    let load = Load::start(&world);
    run(&mut world.fleet(&["stop", "web2"]));
    let status = world.settled("the others do its work", |status| doing(status, "log_line") == 4);
    assert!(workers(&status).iter().all(|worker| worker["host"] != "web2"), "{status}");
    assert_eq!(status["stopped_hosts"], serde_json::json!(["web2"]));
    load.goes_on(20);
    // A worker that comes there is not used, until the host is started again.
    run(&mut world.fleet(&["start", "web2"]));
    world.want(
        "[functions.log_line]\nmin = 4\n[functions.sleep_ms]\nmin = 2\n[functions.fail]\nmin = 1\nhosts = [\"web2\"]\n",
    );
    world.start(1, crate::world::Language::Ours);
    world.settled("it is used again", |status| doing_on(status, "fail", "web2") == 1);
    assert_eq!(load.end(), 1, "a job was done twice");
}
