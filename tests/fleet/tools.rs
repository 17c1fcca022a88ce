//! `gearmand fleet` where no monitor runs.

use std::fs;

use crate::common::Implementation;
use crate::world::{World, doing, run, workers};

pub(crate) fn one_command_does_without_a_monitor(implementation: Implementation) {
    let mut world = World::new(implementation);
    world.start_all();
    world.wait("all wait for an id", |status| status["unnamed"] == 9);
    let path = world.want("[functions.log_line]\nmin = 2\n[functions.sleep_ms]\nmin = 1\nhosts = [\"web3\"]\n");
    let path = path.to_str().unwrap();
    run(&mut world.fleet(&["--timeout", "60", "apply", path]));
    let status = world.wait("it is applied", |status| workers(status).len() == 9);
    assert_eq!((doing(&status, "log_line"), doing(&status, "sleep_ms")), (2, 1));
    assert_eq!((&status["settled"], &status["pid"]), (&false.into(), &0.into()), "no monitor runs");
    // As it is, nothing is to be done; with another wish something is, and a plan does not do it.
    let plan = |rest: &str| {
        world.want(rest);
        let output = world.fleet(&["plan", path]).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    assert_eq!(plan("[functions.log_line]\nmin = 2\n"), "no changes\n");
    let more = plan("[functions.log_line]\nmin = 4\n");
    assert_eq!(more.lines().filter(|line| line.starts_with("register log_line on ")).count(), 2, "{more}");
    let after = world.wait("all nine answer", |status| workers(status).len() >= 9);
    assert_eq!(doing(&after, "log_line"), 2);
    // What cannot be is said, and is no success.
    world.want("[functions.nobody_can]\nmin = 1\n");
    let output = world.fleet(&["--timeout", "60", "apply", path]).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("nobody_can"), "{output:?}");
    run(&mut world.fleet(&["stop", "web1"]));
    let left = world.wait("all that are left answer", |status| workers(status).len() >= 6);
    assert!(workers(&left).len() == 6 && workers(&left).iter().all(|worker| worker["host"] != "web1"), "{left}");
}

pub(crate) fn a_monitor_takes_another_file(implementation: Implementation) {
    let (world, _monitor) = World::with_fleet(implementation, "[functions.log_line]\nmin = 1\n");
    world.settled("one worker does it", |status| doing(status, "log_line") == 1);
    let of_monitor = world.path("fleet.toml");
    let before = fs::read_to_string(&of_monitor).unwrap();
    let (other, strange) = (world.path("other.toml"), world.path("strange.toml"));
    fs::write(&other, before.replace("min = 1", "min = 3")).unwrap();
    run(&mut world.fleet(&["--timeout", "60", "apply", other.to_str().unwrap()]));
    // It has waited until that was done, and the monitor keeps it.
    assert_eq!(doing(&world.report(), "log_line"), 3);
    assert_eq!(fs::read_to_string(&of_monitor).unwrap(), fs::read_to_string(&other).unwrap());
    fs::write(&strange, "fleet = \"t\"\n[functions.log_line]\nmin = 3\nmax = 2\n").unwrap();
    let output = world.fleet(&["apply", strange.to_str().unwrap()]).output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("log_line"), "{output:?}");
    // People see it all in a table.
    let output = world.fleet(&["status"]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.starts_with("fleet t: 9 workers, monitor on ") && text.contains(", settled\n"), "{text}");
    assert_eq!(text.lines().filter(|line| line.starts_with("web")).count(), 9, "{text}");
}
