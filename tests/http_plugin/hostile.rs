//! Requests that are late, endless, or no requests.

use std::io::Write as _;
use std::time::Duration;

use super::mutations::{Random, mutate};
use super::stage::{Peer, Stage, body, header, post, split};
use crate::common::{DEADLINE, Wire, packet, wait_for};

/// How many mutated requests are sent.
const MUTATIONS: usize = 2000;
/// How many of them are open at the same time.
const AT_ONCE: usize = 50;

/// The server serves others, over HTTP and by packets.
#[track_caller]
fn assert_serves(stage: &Stage) {
    assert_eq!(body(&stage.ask(&post("show", &[], b"still here"))), b"show|-|still here");
    assert!(Wire::connect(stage.server.addr()).text("version").starts_with("OK "));
}

/// Waits until nobody is connected but whoever asks, and the worker.
#[track_caller]
fn await_departures(stage: &Stage) {
    let mut admin = Wire::connect(stage.server.addr());
    wait_for("all peers to be gone", || {
        let listing = admin.text("workers");
        (listing.lines().filter(|line| line.contains(" - :")).count() == 2).then_some(())
    });
}

/// Memory of the process's own, in KiB.
fn anonymous_kib(stage: &Stage) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", stage.server.pid())).expect("the server runs");
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).expect("RssAnon");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

#[test]
fn mutated_requests_hurt_nobody() {
    let seed = std::env::var("HTTP_PLUGIN_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(20_260_214);
    eprintln!("HTTP_PLUGIN_SEED={seed}");
    let stage = Stage::ours(&["--handshake-timeout", "2s"]);
    stage.start_worker();
    let requests = [
        post("show", &["X-Gearman-Unique: u", "Host: x"], b"hello"),
        post("show", &["X-Gearman-Background: true", "X-Gearman-Priority: high"], b"\0\r\n\r\nPOST / HTTP/1.1\r\n\r\n"),
        post("data", &["Expect: 100-continue"], &[b'x'; 2000]),
        b"HEAD /fail HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n".to_vec(),
        b"GET /a%20b?x=1 HTTP/1.1\r\nTransfer-Encoding: chunked\r\nContent-Length: 4294967295\r\n\r\n".to_vec(),
    ];
    let mut random = Random::new(seed);
    for round in 0..MUTATIONS / AT_ONCE {
        let peers: Vec<Peer> = (0..AT_ONCE)
            .map(|_| {
                let mut request = random.pick(&requests).clone();
                mutate(&mut random, &mut request, random_other(&requests, round));
                let peer = Peer::connect(stage.http);
                // Whoever is refused early may not be read from to the end.
                let _ = peer.stream().write_all(&request);
                if round % 2 == 0 {
                    peer.finish_sending_if_open();
                }
                peer
            })
            .collect();
        assert_serves(&stage);
        drop(peers);
    }
    await_departures(&stage);
}

/// What is spliced into the requests of a round.
fn random_other(requests: &[Vec<u8>], round: usize) -> &[u8] {
    &requests[round % requests.len()]
}

#[test]
fn a_request_byte_by_byte_is_served() {
    let stage = Stage::ours(&[]);
    stage.start_worker();
    let mut peer = Peer::connect(stage.http);
    for byte in post("show", &["X-Gearman-Unique: u"], b"slow") {
        peer.send(&[byte]);
    }
    assert_eq!(body(&peer.answer()), b"show|u|slow");
}

#[test]
fn who_does_not_finish_a_request_in_time_is_closed() {
    let stage = Stage::ours(&["--handshake-timeout", "1s"]);
    stage.start_worker();
    let parts: [&[u8]; 5] = [
        b"",
        b"GET",
        b"GET /show HTTP/1.1\r\n",
        b"POST /show HTTP/1.1\r\nContent-Length: 9\r\n\r\n",
        b"GET /show HTTP/1.1\r\nX:",
    ];
    let peers = parts.map(|part| stage.peer(part));
    for (peer, part) in peers.into_iter().zip(parts) {
        assert_eq!(peer.answer(), b"", "{}", part.escape_ascii());
    }
    // A job that takes longer is another matter.
    let waiting = stage.peer(&post("nobody", &[], b""));
    assert_eq!(waiting.answer_within(Duration::from_millis(1500)), None);
    assert_serves(&stage);
}

#[test]
fn a_client_that_stops_in_its_workload_submits_nothing() {
    let stage = Stage::ours(&[]);
    stage.start_worker();
    let peer = stage.peer(b"POST /f HTTP/1.1\r\nX-Gearman-Background: true\r\nContent-Length: 9\r\n\r\nhalf");
    peer.finish_sending();
    assert_eq!(peer.answer(), b"");
    await_departures(&stage);
    assert_eq!(stage.status("f"), None);
    assert_serves(&stage);
}

#[test]
fn heads_and_workloads_have_limits() {
    let stage = Stage::ours(&["--max-packet-size", "1MiB"]);
    stage.start_worker();
    let head = |filler: usize| format!("GET /show HTTP/1.1\r\nX: {}\r\n\r\n", "y".repeat(filler)).into_bytes();
    let around = head(0).len();
    assert_eq!(body(&stage.ask(&head(8192 - around))), b"show|-|");
    assert_eq!(stage.ask(&head(8193 - around)), b"");
    // A head without an end.
    let mut endless = Peer::connect(stage.http);
    endless.send(b"GET /show HTTP/1.1\r\n");
    wait_for("the end of a head without one", || endless.stream().write_all(b"X-Header: y\r\n").is_err().then_some(()));
    for length in ["1048577", "4294967295", "99999999999999999999"] {
        let request = format!("POST /show HTTP/1.1\r\nContent-Length: {length}\r\n\r\nbegin");
        let peer = stage.peer(request.as_bytes());
        peer.finish_sending();
        let answer = peer.answer();
        assert!(answer.starts_with(b"HTTP/1.1 413 CONTENT_TOO_LARGE\r\n"), "{length}: {}", answer.escape_ascii());
    }
    // One that sends all of it all the same is answered.
    let answer = stage.ask(&post("show", &[], &vec![b'x'; (1 << 20) + 1]));
    assert!(answer.starts_with(b"HTTP/1.1 413"), "{}", answer.escape_ascii());
    let most = (1 << 20) - b"kept\0-\0".len();
    let answer = stage.ask(&post("kept", &["X-Gearman-Background: true"], &vec![b'x'; most]));
    assert_eq!(header(&split(&answer).0, "X-Gearman-Command"), Some("JOB_CREATED"));
    assert_serves(&stage);
}

#[test]
fn a_result_in_pieces_has_the_limit_of_a_whole_one() {
    let stage = Stage::ours(&["--max-packet-size", "1MiB"]);
    let mut worker = Wire::connect(stage.server.addr());
    worker.send(packet::CAN_DO, b"f");
    for (size, status) in [(500_000, "200 OK"), (600_000, "500 INTERNAL_SERVER_ERROR")] {
        let peer = stage.peer(&post("f", &[], b""));
        stage.await_jobs("f", 1);
        worker.send(packet::GRAB_JOB, b"");
        let assignment = worker.expect_type(packet::JOB_ASSIGN);
        let handle = assignment.split(|byte| *byte == 0).next().expect("a handle");
        let piece = vec![b'x'; size];
        worker.send(packet::WORK_DATA, &packet::body(&[handle, &piece]));
        worker.send(packet::WORK_COMPLETE, &packet::body(&[handle, &piece]));
        let answer = peer.answer();
        assert!(answer.starts_with(format!("HTTP/1.1 {status}\r\n").as_bytes()), "{size}: {}", split(&answer).0);
        assert_eq!(body(&answer).len(), if status == "200 OK" { 2 * size } else { 0 });
    }
}

#[test]
fn announced_workloads_take_no_memory() {
    let stage = Stage::ours(&[]);
    stage.start_worker();
    assert_serves(&stage);
    let before = anonymous_kib(&stage);
    let peers: Vec<Peer> =
        (0..200).map(|_| stage.peer(b"POST /show HTTP/1.1\r\nContent-Length: 60000000\r\n\r\nbegin")).collect();
    let mut admin = Wire::connect(stage.server.addr());
    wait_for("all peers to be known", || {
        (admin.text("workers").lines().filter(|line| line.contains(" - :")).count() >= peers.len() + 2).then_some(())
    });
    assert_serves(&stage);
    let grown = anonymous_kib(&stage).saturating_sub(before);
    assert!(grown < 200 * 32, "{grown} KiB for {} peers that have sent nothing", peers.len());
    drop((peers, admin));
    await_departures(&stage);
}

#[test]
fn a_second_request_is_not_run_and_a_flood_behind_the_first_ends_the_connection() {
    let stage = Stage::ours(&[]);
    let both = [post("first", &[], b""), post("second", &["X-Gearman-Background: true"], b"")].concat();
    let mut peer = stage.peer(&both);
    stage.await_jobs("first", 1);
    let end = std::time::Instant::now() + DEADLINE;
    while peer.stream().write_all(&[b'x'; 4096]).is_ok() {
        assert!(std::time::Instant::now() < end, "the server reads on and on");
    }
    stage.await_jobs("first", 0);
    assert_eq!(stage.status("second"), None);
    stage.start_worker();
    peer = stage.peer(&[post("show", &[], b"a"), post("show", &[], b"b")].concat());
    assert_eq!(body(&peer.answer()), b"show|-|a");
    assert_serves(&stage);
}

#[test]
fn who_does_not_read_the_answer_is_closed() {
    let stage = Stage::ours(&["--write-timeout", "1s"]);
    stage.start_worker();
    // More than the kernel's buffers take.
    let peer = stage.peer(&post("show", &[], &vec![b'x'; 32 << 20]));
    stage.await_jobs("show", 0);
    await_departures(&stage);
    drop(peer);
    assert_serves(&stage);
}

#[test]
fn data_of_all_requests_has_a_limit() {
    const PEERS: usize = 12;
    const PIECE: usize = 60 * 1024;
    let stage = Stage::ours(&[]);
    let mut worker = Wire::connect(stage.server.addr());
    worker.send(packet::CAN_DO, b"f");
    let peers: Vec<Peer> =
        (0..PEERS).map(|number| stage.peer(&post("f", &[], number.to_string().as_bytes()))).collect();
    stage.await_jobs("f", PEERS as u64);
    let before = anonymous_kib(&stage);
    // 30 MiB for each: nine find room, and three do not.
    for _ in 0..PEERS {
        worker.send(packet::GRAB_JOB, b"");
        let assignment = worker.expect_type(packet::JOB_ASSIGN);
        let handle = assignment.split(|byte| *byte == 0).next().expect("a handle");
        let piece = packet::body(&[handle, &vec![b'x'; PIECE]]);
        (0..512).for_each(|_| worker.send(packet::WORK_DATA, &piece));
        worker.expect_nothing();
    }
    let answers: Vec<_> = std::thread::scope(|scope| {
        let asked: Vec<_> = peers.into_iter().map(|peer| scope.spawn(|| peer.answer_within(DEADLINE / 4))).collect();
        asked.into_iter().filter_map(|peer| peer.join().expect("no panic")).collect()
    });
    let refused = answers.iter().filter(|answer| answer.starts_with(b"HTTP/1.1 503 SERVICE_UNAVAILABLE\r\n")).count();
    assert!(refused >= PEERS - 9, "{refused} were refused");
    let grown = anonymous_kib(&stage).saturating_sub(before);
    assert!(grown < 400 * 1024, "{grown} KiB");
    assert!(Wire::connect(stage.server.addr()).text("version").starts_with("OK "));
}
