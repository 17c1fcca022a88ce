//! Who is there, and where functions are done.

use std::collections::{BTreeMap, BTreeSet};

use crate::common::Implementation;
use crate::load::Load;
use crate::world::{Language, World, doing, doing_on, workers};

pub(crate) fn all_workers_are_found(implementation: Implementation) {
    let mut world = World::new(implementation);
    world.start_all();
    world.want("[functions.log_line]\nmin = 1\n");
    let _monitor = world.monitor();
    let status = world.settled("all are found", |status| workers(status).len() == 9);
    let ids: BTreeSet<&str> = workers(&status).iter().map(|worker| worker["id"].as_str().unwrap()).collect();
    assert_eq!(ids.len(), 9, "{status}");
    let mut kinds: BTreeMap<(&str, &str), usize> = BTreeMap::new();
    for worker in workers(&status) {
        let text = |key: &str| worker[key].as_str().unwrap();
        *kinds.entry((text("host"), text("language"))).or_default() += 1;
        assert!(worker["pid"].as_u64().unwrap() > 1, "{worker}");
        assert!(worker["memory"].as_u64().unwrap() > 100_000, "{worker}");
        assert_eq!((text("version"), text("fleet")), ("1", "t"), "{worker}");
        let known = |key: &str| worker[key].as_array().unwrap().clone();
        let all: BTreeSet<String> = [known("functionInUse"), known("functionNotUse")]
            .concat()
            .iter()
            .map(|name| name.as_str().unwrap().to_owned())
            .collect();
        assert_eq!(all, ["fail", "log_line", "reverse", "sleep_ms"].map(str::to_owned).into(), "{worker}");
    }
    assert_eq!(kinds.len(), 9, "{kinds:?}");
    // One that comes late, and one of another fleet that is not ours to look after.
    world.start(1, Language::Python);
    world.start_for(2, Language::Python, "another");
    let late = world.settled("the late one is found", |status| workers(status).len() == 10);
    let before_are_the_same = ids.iter().all(|id| workers(&late).iter().any(|worker| worker["id"] == **id));
    assert!(before_are_the_same, "{late}");
    assert_eq!(doing(&late, "log_line"), 1);
}

pub(crate) fn a_function_moves_to_other_hosts(implementation: Implementation) {
    let on = |host: &str| {
        format!(
            "[functions.log_line]\nmin = 2\nhosts = [\"{host}\"]\n[functions.sleep_ms]\nmin = 1\nhosts = [\"web3\"]\n"
        )
    };
    let (world, _monitor) = World::with_fleet(implementation, &on("web1"));
    world.settled("it is on the first host", |status| doing_on(status, "log_line", "web1") == 2);
    let load = Load::start(&world);
    load.goes_on(20);
    world.want(&on("web2"));
    let status = world.settled("it is on the second host", |status| doing_on(status, "log_line", "web2") == 2);
    assert_eq!(doing(&status, "log_line"), 2, "{status}");
    load.goes_on(20);
    assert_eq!(load.end(), 1, "a job was done twice");
}
