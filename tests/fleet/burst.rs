//! More workers while many jobs wait, fewer when none do.

use std::time::{Duration, Instant};

use crate::common::{Implementation, Wire, packet, wait_for};
use crate::load::local;
use crate::world::{Language, World, doing, workers};

/// How many jobs wait at a time until there are workers enough, and how long each takes in milliseconds.
const JOBS: u64 = 150;
const TIME_MS: &str = "200";

/// How many jobs have not ended, as the server itself knows. A monitor's status may be a second old.
fn left(client: &mut Wire) -> u64 {
    let listing = client.text("status");
    let total = listing.lines().find_map(|line| line.strip_prefix("sleep_ms\t")?.split('\t').next()?.parse().ok());
    total.expect("the function in the listing")
}

pub(crate) fn a_burst_brings_workers_and_quiet_takes_them(implementation: Implementation) {
    let mut world = World::new(implementation);
    for (host, language) in Language::ALL.into_iter().enumerate() {
        world.start(host, language);
    }
    world.want(
        "scale_down_after = \"2s\"\nmax_workers_per_host = 3\n\
         [functions.sleep_ms]\nmin = 1\nmax = 7\nscale_up_queue = 5\nscale_up_cooldown = \"1s\"\n",
    );
    let _monitor = world.monitor();
    let before = world.settled("one worker does it", |status| doing(status, "sleep_ms") == 1);
    assert_eq!(workers(&before).len(), 3, "{before}");
    let mut client = Wire::connect(local(&world));
    let mut submitted = 0;
    let mut fill_up = || {
        for _ in left(&mut client)..JOBS {
            client.send(packet::SUBMIT_JOB_BG, &packet::body(&[b"sleep_ms", b"", TIME_MS.as_bytes()]));
            client.expect_type(packet::JOB_CREATED);
            submitted += 1;
        }
    };
    fill_up();
    // New workers have to start, those of PHP and Python beside all that the machine does. Meanwhile jobs go
    // on coming: else a few workers could have done all of them before the last one is there.
    let begin = Instant::now();
    let most = world.wait("seven workers do it", |status| {
        fill_up();
        doing(status, "sleep_ms") == 7
    });
    assert!(begin.elapsed() < Duration::from_secs(30), "it took {:?}", begin.elapsed());
    assert!(workers(&most).len() <= 9, "no more than three on a host: {most}");
    wait_for("the end of all jobs", || {
        let status = world.status();
        let function = status["functions"][0].clone();
        (function["waiting"] == 0 && function["running"] == 0).then_some(())
    });
    let begin = Instant::now();
    let least = world.settled("one worker does it, and one is on each host", |status| {
        doing(status, "sleep_ms") == 1 && workers(status).len() == 3
    });
    // Two seconds of quiet for the function, two for those without any, and the looks between.
    assert!(begin.elapsed() < Duration::from_secs(20), "it took {:?}", begin.elapsed());
    assert!(begin.elapsed() > Duration::from_secs(1), "nobody waited for quiet");
    let done: u64 = workers(&least).iter().filter_map(|worker| worker["count"]["sleep_ms"].as_u64()).sum();
    assert!(done <= submitted, "{least}");
}
