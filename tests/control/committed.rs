//! What an operator was told to be done is done after a kill that comes at once, with no word in between.

use crate::common::{Server, Wire, grab_all, grab_nothing, packet};
use crate::stage::{Operator, grab, played_worker, server, submit};

/// Jobs at once, before the first answer is read.
const BURST: usize = 500;

/// Submits so many background jobs and returns their handles.
#[track_caller]
fn flood(server: &Server, function: &str, count: usize) -> Vec<String> {
    let mut client = Wire::connect(server.addr());
    let job = packet::request(packet::SUBMIT_JOB_BG, &packet::body(&[function.as_bytes(), b"", b"x"]));
    let mut handles = Vec::with_capacity(count);
    while handles.len() < count {
        let burst = BURST.min(count - handles.len());
        client.send_raw(&job.repeat(burst));
        for _ in 0..burst {
            handles.push(String::from_utf8(client.expect_type(packet::JOB_CREATED)).expect("a handle in ASCII"));
        }
    }
    handles
}

#[track_caller]
fn complete(worker: &mut Wire, handle: &str) {
    worker.send(packet::WORK_COMPLETE, &packet::body(&[handle.as_bytes(), b""]));
    worker.expect_nothing();
}

/// A server that is killed as soon as the last of these commands is answered.
#[track_caller]
fn killed_after(server: &mut Server, commands: &[&str]) -> Operator {
    let mut operator = Operator::new(server);
    for command in commands {
        operator.ok(command);
    }
    server.kill();
    server.restart();
    Operator::new(server)
}

#[test]
fn of_many_jobs_that_were_cancelled_none_comes_back() {
    let mut server = server(&[]);
    flood(&server, "f", 20_000);
    let mut operator = killed_after(&mut server, &["cancel jobs f"]);
    assert_eq!(operator.status("f").jobs, 0);
    grab_nothing(&mut played_worker(&server, "", &["f"]));
}

#[test]
fn many_jobs_that_were_moved_are_there_once_and_where_they_were_moved() {
    let mut server = server(&[]);
    flood(&server, "f", 20_000);
    let mut operator = killed_after(&mut server, &["move jobs f g"]);
    assert_eq!((operator.status("f").jobs, operator.status("g").jobs), (0, 20_000));
}

#[test]
fn each_word_on_a_job_holds() {
    let mut server = server(&[]);
    for round in 0..3 {
        let handles = flood(&server, "f", 4);
        killed_after(&mut server, &[&format!("cancel job {}", handles[0])]);
        killed_after(&mut server, &[&format!("move job {} g", handles[1])]);
        killed_after(&mut server, &[&format!("priority job {} high", handles[3])]);
        let mut of_g = played_worker(&server, "", &["g"]);
        assert_eq!(grab(&mut of_g), handles[1], "round {round}");
        let mut of_f = played_worker(&server, "", &["f"]);
        assert_eq!([grab(&mut of_f), grab(&mut of_f)], [handles[3].clone(), handles[2].clone()], "round {round}");
        grab_nothing(&mut of_f);
        complete(&mut of_g, &handles[1]);
        for handle in &handles[2..] {
            complete(&mut of_f, handle);
        }
    }
    let mut client = Wire::connect(server.addr());
    client.send(packet::SUBMIT_JOB_EPOCH, &packet::body(&[b"later", b"", b"4000000000", b"due"]));
    let later = String::from_utf8(client.expect_type(packet::JOB_CREATED)).expect("a handle in ASCII");
    killed_after(&mut server, &[&format!("run job {later}")]);
    assert_eq!(grab_all(&mut played_worker(&server, "", &["later"])), ["due"]);
}

#[test]
fn each_decision_holds_and_so_does_its_end() {
    let mut server = server(&[]);
    for round in 0..2 {
        let mut operator = killed_after(&mut server, &["pause f"]);
        assert_eq!(operator.function("f")["paused"], "1", "round {round}");
        let mut operator = killed_after(&mut server, &["limit running f 3"]);
        assert_eq!(operator.function("f")["max_running"], "3", "round {round}");
        let mut operator = killed_after(&mut server, &["maxqueue f 1 2 3"]);
        assert!(operator.function("f").values().any(|value| value.contains('2')), "{:?}", operator.function("f"));
        let mut operator = killed_after(&mut server, &["disable client:c f"]);
        assert_eq!(operator.table("show rules").len(), 1, "round {round}");
        let mut operator = killed_after(&mut server, &["enable client:c f"]);
        assert_eq!(operator.table("show rules"), [], "round {round}");
        let mut operator = killed_after(&mut server, &["resume f"]);
        assert_eq!(operator.function("f")["paused"], "0", "round {round}");
        // It goes with its limits.
        let mut operator = killed_after(&mut server, &["drop function f"]);
        assert!(operator.table("show functions").iter().all(|row| row["name"] != "f"), "round {round}");
    }
}

#[test]
fn what_follows_a_word_on_the_same_connection_is_answered_after_it() {
    for store in crate::stage::STORES {
        let server = server(store);
        let mut wire = Wire::connect(server.addr());
        submit(&mut wire, packet::SUBMIT_JOB_BG, "f", "", "");
        let answers = |wire: &mut Wire, count: usize| (0..count).map(|_| wire.text_line()).collect::<Vec<_>>();
        wire.send_raw(b"pause f\nverbose\ncancel jobs f\nresume f\ncancel job H:t:1\nverbose\nmaxqueue f 0\n");
        let expected = ["OK", "OK INFO", "OK 1", "OK", "ERR UNKNOWN_JOB", "OK INFO", "OK"];
        let answers = answers(&mut wire, expected.len());
        assert_eq!(answers.iter().map(|answer| answer.trim_end()).collect::<Vec<_>>(), expected);
        // Packets between words, and one whose peer sends nothing more.
        let echo = packet::request(packet::ECHO_REQ, b"x");
        wire.send_raw(&[b"pause g\n", &echo[..], b"resume g\n"].concat());
        wire.finish_sending();
        assert_eq!(wire.text_line(), "OK 0\r\n");
        wire.expect(packet::ECHO_RES, b"x");
        assert_eq!(wire.text_line(), "OK 0\r\n");
        wire.expect_end();
    }
}
