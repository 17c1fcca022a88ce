//! Who is refused what.

use std::io::{BufReader, Write as _};
use std::net::SocketAddr;

use nix::sys::signal::Signal;
use serde_json::json;

use crate::client::{Answer, connect, exchange, get, post, read_answer, request, server};
use crate::common::{Server, wait_for};

const PAUSE: &str = "/api/v1/functions/f/pause";
const JSON: (&str, &str) = ("content-type", "application/json");
const TOKEN: &str = "a-token-of-16-characters-and-more";

#[track_caller]
fn pause(address: SocketAddr, headers: &[(&str, &str)]) -> Answer {
    exchange(address, &request("POST", PAUSE, headers, b""))
}

#[test]
fn names_of_others_are_refused() {
    let plain = server(&[]);
    for host in ["localhost", "LOCALHOST:1", "127.0.0.1:99", "[::1]"] {
        let answer = exchange(plain.http(), &request("GET", "/healthz", &[("host", host)], b""));
        assert_eq!((answer.status, answer.text().as_str()), (200, "ok\n"), "{host}");
    }
    for host in ["example.org", "localhost.example.org", "10.1.2.3:4731", "127.0.0.1.nip.io", ""] {
        for path in ["/", "/metrics", "/api/v1/jobs", "/nothing"] {
            exchange(plain.http(), &request("GET", path, &[("host", host)], b"")).expect_error(421, "unknown_host");
        }
    }
    // The address says it too, and counts.
    let absolute = request("GET", "http://example.org/healthz", &[("host", "localhost")], b"");
    exchange(plain.http(), &absolute).expect_error(421, "unknown_host");
    exchange(plain.http(), b"GET /healthz HTTP/1.1\r\nconnection: close\r\n\r\n").expect_error(400, "bad_host");
    let twice = request("GET", "/healthz", &[("host", "localhost"), ("host", "localhost")], b"");
    exchange(plain.http(), &twice).expect_error(400, "bad_host");
    // Health checks of old have no name.
    assert_eq!(exchange(plain.http(), b"GET /healthz HTTP/1.0\r\n\r\n").status, 200);

    let named = server(&["--http-allowed-host", "Jobs.Example.org"]);
    let answer = exchange(named.http(), &request("GET", "/healthz", &[("host", "jobs.example.org:4731")], b""));
    assert_eq!(answer.status, 200);
    exchange(named.http(), &request("GET", "/healthz", &[("host", "example.org")], b""))
        .expect_error(421, "unknown_host");
}

#[test]
fn pages_of_other_sites_change_nothing() {
    let server = server(&[]);
    let own = format!("http://{}", server.http());
    let host = server.http().to_string();
    assert_eq!(pause(server.http(), &[JSON]).status, 200);
    assert_eq!(pause(server.http(), &[("x-requested-with", "curl")]).status, 200);
    // A page of this server's, with and without what browsers say of it over TLS and localhost alone.
    assert_eq!(pause(server.http(), &[("origin", &own), ("host", &host)]).status, 200);
    let vouched = [("origin", &*own), ("host", &*host), ("sec-fetch-site", "same-origin")];
    assert_eq!(pause(server.http(), &vouched).status, 200);

    for origin in ["http://example.org", "null", "http://localhost:1", "https://127.0.0.1"] {
        pause(server.http(), &[JSON, ("origin", origin)]).expect_error(403, "cross_site");
        pause(server.http(), &[JSON, ("origin", origin), ("host", &host)]).expect_error(403, "cross_site");
    }
    for site in ["cross-site", "same-site", "", "Same-Origin"] {
        pause(server.http(), &[JSON, ("sec-fetch-site", site)]).expect_error(403, "cross_site");
    }
    // What a form can send.
    pause(server.http(), &[]).expect_error(415, "not_json");
    for content_type in
        ["application/x-www-form-urlencoded", "text/plain", "multipart/form-data", "text/plain; application/json"]
    {
        let headers = [("content-type", content_type), ("x-requested-with", "curl")];
        exchange(server.http(), &request("POST", PAUSE, &headers, b"{}")).expect_error(415, "not_json");
    }
    let body = request("POST", PAUSE, &[("x-requested-with", "curl")], b"{}");
    exchange(server.http(), &body).expect_error(415, "not_json");
    exchange(server.http(), &request("DELETE", "/api/v1/functions/f", &[], b"")).expect_error(415, "not_json");
    // Nothing is told to other sites.
    assert_eq!(get(&server, "/api/v1/jobs").header("access-control-allow-origin"), None);
    let preflight = [("origin", "http://example.org"), ("access-control-request-method", "POST")];
    assert_eq!(exchange(server.http(), &request("OPTIONS", PAUSE, &preflight, b"")).status, 403);
}

/// Where `server` is reached that listens on all addresses.
fn local(server: &Server) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], server.http().port()))
}

#[test]
fn an_open_address_takes_a_token() {
    let open = server(&["--http-listen", "0.0.0.0:0"]);
    let own = nix::unistd::gethostname().expect("a host name").into_string().expect("text");
    wait_for("the warning in the log", || open.log().contains("no token is set").then_some(()));
    // Looking goes by the machine's name.
    let look = exchange(local(&open), &request("GET", "/api/v1/functions", &[("host", &own)], b""));
    let foreign = request("GET", "/api/v1/functions", &[("host", "jobs.example.org")], b"");
    exchange(local(&open), &foreign).expect_error(421, "unknown_host");
    assert_eq!(look.status, 200);
    pause(local(&open), &[JSON]).expect_error(403, "no_token_set");
    let submit = request("POST", "/api/v1/jobs", &[JSON], br#"{"function":"f","background":true}"#);
    exchange(local(&open), &submit).expect_error(403, "no_token_set");

    let guarded = server(&["--http-listen", "0.0.0.0:0", "--http-token", TOKEN]);
    let missing = pause(local(&guarded), &[JSON]);
    missing.expect_error(401, "token_missing");
    assert_eq!(missing.header("www-authenticate"), Some("Bearer"));
    for wrong in ["", "Bearer", "Bearer a", &format!("Bearer {TOKEN}x"), &format!("Basic {TOKEN}"), &TOKEN[1..]] {
        pause(local(&guarded), &[JSON, ("authorization", wrong)]).expect_error(401, "token_wrong");
    }
    let right = format!("Bearer {TOKEN}");
    assert_eq!(pause(local(&guarded), &[JSON, ("authorization", &right)]).status, 200);
    wait_for("the action in the log", || guarded.log().contains("over HTTP with a token").then_some(()));
    let log = guarded.log();
    assert!(!log.contains(TOKEN) && !log.contains("no token is set"), "{log}");
    assert_eq!(exchange(local(&guarded), &request("GET", "/api/v1/jobs", &[], b"")).status, 200);
}

#[test]
fn what_a_proxy_hands_on_is_not_local() {
    let plain = server(&[]);
    for header in [("x-forwarded-for", "10.1.2.3"), ("forwarded", "for=10.1.2.3"), ("via", "1.1 proxy")] {
        pause(plain.http(), &[JSON, header]).expect_error(403, "no_token_set");
        let look = exchange(plain.http(), &request("GET", "/api/v1/functions", &[header], b""));
        assert_eq!(look.status, 200);
    }
    let guarded = server(&["--http-token", TOKEN]);
    let token = format!("Bearer {TOKEN}");
    let through = [JSON, ("x-forwarded-for", "10.1.2.3"), ("authorization", &token)];
    assert_eq!(pause(guarded.http(), &through).status, 200);
}

#[test]
fn a_token_is_needed_on_a_local_address_where_one_is_set() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("token");
    std::fs::write(&file, format!("{TOKEN}\n")).unwrap();
    let server = server(&["--http-token-file", file.to_str().unwrap(), "--http-token", "another-token-of-16"]);
    pause(server.http(), &[JSON]).expect_error(401, "token_missing");
    for token in [TOKEN, "another-token-of-16"] {
        assert_eq!(pause(server.http(), &[JSON, ("authorization", &format!("Bearer {token}"))]).status, 200);
    }
    assert_eq!(get(&server, "/api/v1/jobs").status, 200);
}

#[test]
fn a_new_token_in_the_file_counts_from_the_next_reload() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("token");
    std::fs::write(&file, TOKEN).unwrap();
    let server = server(&["--http-token-file", file.to_str().unwrap()]);
    let with = |token: &str| pause(server.http(), &[JSON, ("authorization", &format!("Bearer {token}"))]).status;
    assert_eq!((with(TOKEN), with("another-token-of-16")), (200, 401));
    std::fs::write(&file, "another-token-of-16").unwrap();
    server.signal(Signal::SIGHUP);
    wait_for("the new token", || (with("another-token-of-16") == 200).then_some(()));
    assert_eq!(with(TOKEN), 401);
    // One that is none leaves things as they are.
    std::fs::write(&file, "short").unwrap();
    server.signal(Signal::SIGHUP);
    wait_for("the log", || server.log().contains("keeping the previous HTTP tokens: ").then_some(()));
    assert_eq!(with("another-token-of-16"), 200);
}

#[test]
fn read_only_is_read_only() {
    let server = server(&["--http-read-only"]);
    for path in [PAUSE, "/api/v1/jobs", "/api/v1/workers/kick", "/api/v1/jobs/H:x:1/cancel", "/nothing"] {
        post(&server, path, &json!({"function": "f"})).expect_error(403, "read_only");
    }
    assert_eq!(get(&server, "/api/v1/jobs").status, 200);
}

#[test]
fn answers_tell_browsers_what_not_to_do() {
    let server = server(&[]);
    for path in ["/", "/assets/style.css", "/api/v1/jobs", "/nothing", "/metrics"] {
        let answer = get(&server, path);
        let policy = answer.header("content-security-policy").expect("a policy");
        assert!(policy.contains("default-src 'self'") && policy.contains("frame-ancestors 'none'"), "{policy}");
        assert!(!policy.contains("unsafe"), "{policy}");
        assert_eq!(answer.header("x-content-type-options"), Some("nosniff"), "{path}");
        assert_eq!(answer.header("x-frame-options"), Some("DENY"), "{path}");
        assert_eq!(answer.header("referrer-policy"), Some("no-referrer"), "{path}");
    }
}

#[test]
fn a_refused_request_ends_before_its_body() {
    let server = server(&["--http-read-only"]);
    let mut stream = connect(server.http());
    // The body never comes.
    stream.write_all(&request("POST", PAUSE, &[JSON, ("content-length", "60000")], b"")).unwrap();
    read_answer(&mut BufReader::new(stream)).expect_error(403, "read_only");
}
