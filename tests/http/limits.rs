//! What the interface bears: crowds, large and broken requests, and those who do not read.

use std::io::{BufReader, Read as _, Write as _};
use std::net::Shutdown;
use std::time::{Duration, Instant};

use socket2::SockRef;

use crate::client::{connect, exchange, get, read_answer, request, server};
use crate::common::{DEADLINE, Server, Wire, packet, wait_for};

/// The server serves both protocols.
#[track_caller]
fn expect_alive(server: &Server) {
    assert_eq!(get(server, "/healthz").status, 200);
    Wire::connect(server.addr()).expect_nothing();
}

#[test]
fn connections_are_counted() {
    let server = server(&["--http-max-connections", "2"]);
    let mut held: Vec<_> = (0..2).map(|_| connect(server.http())).collect();
    for stream in &mut held {
        stream.write_all(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n").unwrap();
        let answer = read_answer(&mut BufReader::new(stream.try_clone().unwrap()));
        assert_eq!(answer.status, 200);
    }
    get(&server, "/api/v1/functions").expect_error(503, "too_many_connections");
    // Questions of health have connections of their own.
    for path in ["/healthz", "/readyz", "/metrics"] {
        assert_eq!(get(&server, path).status, 200, "{path}");
    }
    let health: Vec<_> = (0..8)
        .map(|_| {
            let mut stream = connect(server.http());
            stream.write_all(b"GET /heal").unwrap();
            stream
        })
        .collect();
    // Beyond those, one that still sends is told all the same.
    let mut refused = connect(server.http());
    refused.write_all(&request("POST", "/", &[], &[b' '; 4096])).unwrap();
    let mut text = String::new();
    refused.read_to_string(&mut text).expect("a refusal and the end");
    assert!(text.starts_with("HTTP/1.1 503 ") && text.contains("too_many_connections"), "{text}");
    drop(health);
    // The job server has room all the same.
    Wire::connect(server.addr()).expect_nothing();
    drop(held);
    wait_for("room for a connection", || {
        let mut stream = connect(server.http());
        stream.write_all(&request("GET", "/healthz", &[], b"")).ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        answer.starts_with("HTTP/1.1 200 ").then_some(())
    });
}

#[test]
fn large_requests_are_refused() {
    let server = server(&["--max-packet-size", "1MiB"]);
    let json = ("content-type", "application/json");
    let long = "x".repeat(70_000);
    let answer = exchange(server.http(), &request("GET", "/", &[("x-long", &long)], b""));
    assert_eq!(answer.status, 431);
    let answer = exchange(server.http(), &request("GET", &format!("/{long}"), &[], b""));
    assert!([414, 431].contains(&answer.status), "{answer:?}");
    let many: Vec<_> = (0..200).map(|_| ("x-many", "x")).collect();
    assert_eq!(exchange(server.http(), &request("GET", "/", &many, b"")).status, 431);
    let body = vec![b' '; 65 * 1024];
    exchange(server.http(), &request("POST", "/api/v1/functions/f/pause", &[json], &body))
        .expect_error(413, "body_too_large");
    // In pieces whose sum nobody announces.
    let chunk = [b"10400\r\n".as_slice(), &body, b"\r\n0\r\n\r\n"].concat();
    let head = request("POST", "/api/v1/functions/f/pause", &[json, ("transfer-encoding", "chunked")], b"");
    exchange(server.http(), &[head, chunk].concat()).expect_error(413, "body_too_large");
    // Announced, and never sent.
    let huge = [json, ("content-length", "99999999999999")];
    exchange(server.http(), &request("POST", "/api/v1/jobs", &huge, b"")).expect_error(413, "body_too_large");
    let workload = "x".repeat(1024 * 1024);
    let job = format!(r#"{{"function":"f","background":true,"workload":"{workload}"}}"#);
    exchange(server.http(), &request("POST", "/api/v1/jobs", &[json], job.as_bytes()))
        .expect_error(413, "argument_too_large");
    expect_alive(&server);
}

#[test]
fn deep_json_is_refused() {
    let server = server(&[]);
    let body = "[".repeat(60_000);
    let json = ("content-type", "application/json");
    for path in ["/api/v1/jobs", "/api/v1/functions/f/limits"] {
        exchange(server.http(), &request("POST", path, &[json], body.as_bytes())).expect_error(400, "bad_body");
    }
    expect_alive(&server);
}

#[test]
fn broken_requests_are_survived() {
    let server = server(&[]);
    let broken: [&[u8]; 16] = [
        b"\0REQ\0\0\0\x10\0\0\0\0",
        b"\r\n\r\n\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET / HTTP/1.1\nhost: localhost\n\n",
        b"GET /\0 HTTP/1.1\r\nhost: localhost\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: \xff\xfe\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: localhost\r\nx: \0\r\n\r\n",
        b"GET /%zz%f?%=%&&=&limit HTTP/1.1\r\nhost: localhost\r\n\r\n",
        b"GET /api/v1/functions/% HTTP/1.1\r\nhost: localhost\r\n\r\n",
        b"GET /../../etc/passwd HTTP/1.1\r\nhost: localhost\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"CONNECT localhost:22 HTTP/1.1\r\nhost: localhost\r\n\r\n",
        b"POST /api/v1/jobs HTTP/1.1\r\nhost: localhost\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nhello",
        b"POST /api/v1/jobs HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
        b"POST /api/v1/jobs HTTP/1.1\r\nhost: localhost\r\ncontent-length: -1\r\n\r\n",
    ];
    for bytes in broken {
        let mut stream = connect(server.http());
        let _ = stream.write_all(bytes);
        let _ = stream.shutdown(Shutdown::Write);
        let mut answer = Vec::new();
        // However it ends, it ends.
        let _ = stream.read_to_end(&mut answer);
        let text = String::from_utf8_lossy(&answer);
        assert!(answer.is_empty() || text.starts_with("HTTP/1.1 "), "{}: {text}", bytes.escape_ascii());
        assert!(!text.starts_with("HTTP/1.1 5"), "{}: {text}", bytes.escape_ascii());
        assert!(!text.contains("root:"), "{text}");
    }
    expect_alive(&server);
}

#[test]
fn lists_that_are_read_have_a_number() {
    let server = server(&[]);
    let mut client = Wire::connect(server.addr());
    let name = "f".repeat(500);
    for number in 0..5_000 {
        client.send_raw(format!("create function {name}{number}\r\n").as_bytes());
    }
    for _ in 0..5_000 {
        assert!(client.text_line().starts_with("OK"));
    }
    let slow: Vec<_> = (0..16)
        .map(|_| {
            let mut stream = connect(server.http());
            // Its kernel would else take most of the list, and the server's the rest.
            SockRef::from(&stream).set_recv_buffer_size(64 * 1024).unwrap();
            stream.write_all(&request("GET", "/api/v1/functions", &[], b"")).unwrap();
            let mut begun = [0; 1];
            stream.read_exact(&mut begun).expect("the beginning of the list");
            stream
        })
        .collect();
    for path in ["/api/v1/functions", "/api/v1/workers", "/api/v1/jobs", "/api/v1/rules"] {
        get(&server, path).expect_error(503, "too_many_readers");
    }
    expect_alive(&server);
    drop(slow);
    wait_for("the list", || (get(&server, "/api/v1/functions").status == 200).then_some(()));
}

/// Reads until the server closes, and returns how long that took.
#[track_caller]
fn until_closed(server: &Server, sent: &[u8]) -> Duration {
    let mut stream = connect(server.http());
    stream.set_read_timeout(Some(Duration::from_secs(40))).unwrap();
    stream.write_all(sent).unwrap();
    let start = Instant::now();
    let mut rest = Vec::new();
    match stream.read_to_end(&mut rest) {
        Ok(_) => {}
        Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "not closed"),
    }
    start.elapsed()
}

#[test]
fn whoever_says_nothing_is_closed() {
    let server = server(&[]);
    std::thread::scope(|scope| {
        for sent in [&b""[..], b"GET / HT", b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n"] {
            let server = &server;
            scope.spawn(move || {
                let took = until_closed(server, sent);
                assert!(took > Duration::from_secs(10) && took < Duration::from_secs(30), "{took:?}");
            });
        }
    });
}

#[test]
fn whoever_does_not_read_is_closed_and_delays_nobody() {
    let server = server(&[]);
    let mut client = Wire::connect(server.addr());
    // Answers of more bytes than the kernel takes of a server, whatever the peer does.
    for number in 0..20_000 {
        client.send_raw(format!("create function f{number:0100}\r\n").as_bytes());
    }
    for _ in 0..20_000 {
        assert!(client.text_line().starts_with("OK"));
    }
    let slow: Vec<_> = ["/api/v1/functions", "/metrics"]
        .into_iter()
        .map(|path| {
            let mut stream = connect(server.http());
            // Its kernel would else read up to 32 MB for it.
            SockRef::from(&stream).set_recv_buffer_size(64 * 1024).unwrap();
            stream.write_all(&request("GET", path, &[], b"")).unwrap();
            stream
        })
        .collect();
    // Meanwhile others are served, and jobs run.
    let start = Instant::now();
    let slow_readers = || {
        let metrics = get(&server, "/metrics").text();
        let line = metrics.lines().find(|line| line.starts_with("gearmand_http_slow_readers_total ")).unwrap();
        line.rsplit(' ').next().unwrap().parse::<usize>().unwrap()
    };
    while slow_readers() < slow.len() {
        assert!(start.elapsed() < Duration::from_secs(90), "they are not closed");
        let asked = Instant::now();
        client.send(packet::ECHO_REQ, b"x");
        client.expect(packet::ECHO_RES, b"x");
        assert!(asked.elapsed() < DEADLINE / 4, "{:?}", asked.elapsed());
    }
    assert!(start.elapsed() > Duration::from_secs(25), "closed too early: {:?}", start.elapsed());
    for mut stream in slow {
        let mut rest = Vec::new();
        let ended = stream.read_to_end(&mut rest);
        assert!(ended.is_err() || !rest.ends_with(b"0\r\n\r\n"), "the answer was sent whole");
    }
}
