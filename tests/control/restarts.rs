//! What the operator has decided when the server dies and comes back.

use crate::common::{grab_all, grab_nothing, packet, wait_for};
use crate::stage::{Operator, grab, played_sleeper, played_worker, server, submit};

#[test]
fn decisions_outlive_a_server_that_is_killed() {
    let mut server = server(&[]);
    let mut operator = Operator::new(&server);
    for command in ["pause f", "pause g", "limit running order 1", "maxqueue count 1 2 3", "disable client:c reverse"] {
        operator.ok(command);
    }
    operator.ok("disable host:127.0.0.9");
    operator.ok("resume g");
    let mut client = played_worker(&server, "", &[]);
    let waits = submit(&mut client, packet::SUBMIT_JOB_BG, "f", "", "");
    let orders = ["a", "b"].map(|unique| submit(&mut client, packet::SUBMIT_JOB_BG, "order", unique, ""));
    submit(&mut client, packet::SUBMIT_JOB_BG, "reverse", "", "withheld");
    let rules = operator.table("show rules");
    // What is acknowledged after them is kept after them.
    server.kill();
    server.restart();

    let mut operator = Operator::new(&server);
    assert_eq!(operator.function("f")["paused"], "1");
    assert_eq!(operator.table("show rules"), rules);
    assert!(operator.table("show functions").iter().all(|row| row["name"] != "g"), "nothing is left of it");
    let said = "restored settings: 1 paused functions, 2 functions with limits, 2 worker rules";
    wait_for(said, || server.log().contains(said).then_some(()));
    let mut worker = played_sleeper(&server, "", &["f"]);
    worker.expect_nothing();
    let mut of_client = played_worker(&server, "c", &["reverse", "order"]);
    assert!(orders.contains(&grab(&mut of_client)));
    grab_nothing(&mut of_client);
    let mut another = played_worker(&server, "d", &["reverse", "order"]);
    assert_eq!(grab_all(&mut another), ["withheld"]);
    let mut client = played_worker(&server, "", &[]);
    // A priority's limit counts the jobs of all.
    for packet_type in [packet::SUBMIT_JOB_HIGH_BG, packet::SUBMIT_JOB_BG] {
        submit(&mut client, packet_type, "count", &packet_type.to_string(), "");
        client.send(packet_type, &packet::body(&[b"count", b"one-too-many", b""]));
        client.expect_type(packet::ERROR);
    }
    // And so does their end.
    operator.ok("resume f");
    worker.expect(packet::NOOP, b"");
    assert_eq!(grab(&mut worker), waits);
    for command in ["limit running order 0", "maxqueue count 0", "enable client:c reverse", "enable host:127.0.0.9"] {
        operator.ok(command);
    }
    // Once this is stored, what was decided before it is too.
    submit(&mut client, packet::SUBMIT_JOB_BG, "f", "last", "");
    server.kill();
    server.restart();
    assert_eq!(server.log().matches("restored settings: ").count(), 1, "{}", server.log());
    assert_eq!(Operator::new(&server).function("f")["paused"], "0");
}
