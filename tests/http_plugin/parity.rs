//! The same requests for our server and for gearmand 1.1.20, and the answers compared.
//!
//! Where ours differs on purpose it stands in `deviations`, with the reason. The test fails when another
//! difference appears, and when one of those is no longer there.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::time::Duration;

use super::deviations::{DEVIATIONS, Deviation};
use super::stage::Stage;
use crate::common::{DEADLINE, Implementation};

/// What is written down where gearmand does not answer.
const NOTHING: &str = "nothing, for ever";

/// How long gearmand is given where it does not answer.
const ITS_TIME: Duration = Duration::from_secs(1);

/// Each request is sent to a new server that has a worker.
const REQUESTS: &[(&str, &[u8])] = &[
    ("POST", b"POST /show HTTP/1.0\r\nContent-Length: 5\r\n\r\nhello"),
    ("PUT", b"PUT /show HTTP/1.0\r\nContent-Length: 5\r\n\r\nhello"),
    ("GET", b"GET /show HTTP/1.0\r\n\r\n"),
    ("HEAD", b"HEAD /show HTTP/1.0\r\n\r\n"),
    ("version 1.1", b"POST /show HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello"),
    ("keep-alive is asked for", b"GET /show HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n"),
    ("a binary workload", b"POST /show HTTP/1.0\r\nContent-Length: 6\r\n\r\n\0\r\n\xff\0\n"),
    ("a workload of nothing", b"POST /show HTTP/1.0\r\nContent-Length: 0\r\n\r\n"),
    ("POST without a length", b"POST /show HTTP/1.0\r\n\r\nhello"),
    ("GET with a length", b"GET /show HTTP/1.0\r\nContent-Length: 5\r\n\r\n"),
    ("no slash", b"GET show HTTP/1.0\r\n\r\n"),
    ("many slashes", b"GET ///show HTTP/1.0\r\n\r\n"),
    ("a target that is not decoded", b"GET /a%20b?x=1 HTTP/1.0\r\n\r\n"),
    ("a slash within", b"GET /x/y HTTP/1.0\r\n\r\n"),
    ("many spaces", b"GET   /show   HTTP/1.0\r\n\r\n"),
    ("line feeds alone", b"POST /show HTTP/1.0\nContent-Length: 2\n\nab"),
    ("no function", b"GET / HTTP/1.0\r\n\r\n"),
    ("POST without a function", b"POST // HTTP/1.0\r\n\r\n"),
    ("HEAD without a function", b"HEAD / HTTP/1.0\r\n\r\n"),
    ("TRACE", b"TRACE /show HTTP/1.0\r\n\r\n"),
    ("an unknown method", b"DELETE /show HTTP/1.0\r\n\r\n"),
    ("a method in small letters", b"get /show HTTP/1.0\r\n\r\n"),
    ("version 1.2", b"GET /show HTTP/1.2\r\n\r\n"),
    ("version 0.9", b"GET /show\r\n\r\n"),
    ("a space in the target", b"GET /a b HTTP/1.0\r\n\r\n"),
    ("a space at the end", b"GET /show HTTP/1.0 \r\n\r\n"),
    ("one word", b"hello\r\n\r\n"),
    ("an empty first line", b"\r\nGET /show HTTP/1.0\r\n\r\n"),
    ("names of headers in any letters", b"POST /show HTTP/1.0\r\ncONTENT-lENGTH: 2\r\nx-gearman-UNIQUE: U\r\n\r\nab"),
    ("headers that are none", b"GET /show HTTP/1.0\r\nnothing\r\n: nothing\r\n\r\n"),
    ("a unique id", b"POST /show HTTP/1.0\r\nX-Gearman-Unique: u 1\r\nContent-Length: 2\r\n\r\nab"),
    ("an empty unique id", b"POST /show HTTP/1.0\r\nX-Gearman-Unique: \r\nContent-Length: 2\r\n\r\nab"),
    ("a unique id with spaces around", b"GET /show HTTP/1.0\r\nX-Gearman-Unique:  u \r\n\r\n"),
    ("a unique id without a space", b"GET /show HTTP/1.0\r\nX-Gearman-Unique:u\r\n\r\n"),
    (
        "a unique id of 65 bytes",
        b"GET /show HTTP/1.0\r\nX-Gearman-Unique: uuuuuuuuuuuuuuuuuuuuuuuuuuuuuuuuuuuuuuuuuuuuuuuuuuuuuuuuuuuuuuuuu\r\n\r\n",
    ),
    ("in the background", b"POST /show HTTP/1.0\r\nX-Gearman-Background: true\r\nContent-Length: 2\r\n\r\nab"),
    ("in the BACKGROUND", b"POST /show HTTP/1.0\r\nX-Gearman-Background: TRUE\r\nContent-Length: 2\r\n\r\nab"),
    ("not in the background", b"POST /show HTTP/1.0\r\nX-Gearman-Background: 1\r\nContent-Length: 2\r\n\r\nab"),
    ("background without a space", b"GET /show HTTP/1.0\r\nX-Gearman-Background:true\r\n\r\n"),
    ("HEAD in the background", b"HEAD /show HTTP/1.0\r\nX-Gearman-Background: true\r\n\r\n"),
    ("a high priority", b"GET /show HTTP/1.0\r\nX-Gearman-Priority: high\r\n\r\n"),
    ("an odd priority", b"GET /show HTTP/1.0\r\nX-Gearman-Priority: odd\r\n\r\n"),
    ("a length without a space", b"POST /show HTTP/1.0\r\nContent-Length:2\r\n\r\nab"),
    ("a length with two spaces", b"POST /show HTTP/1.0\r\nContent-Length:  2\r\n\r\nab"),
    ("a negative length", b"POST /show HTTP/1.0\r\nContent-Length: -2\r\n\r\nab"),
    ("a length with a sign", b"POST /show HTTP/1.0\r\nContent-Length: +2\r\n\r\nab"),
    ("a length and a letter", b"POST /show HTTP/1.0\r\nContent-Length: 2x\r\n\r\nab"),
    ("two lengths", b"POST /show HTTP/1.0\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nabc"),
    ("chunks", b"POST /show HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n"),
    ("a failing job", b"GET /fail HTTP/1.0\r\n\r\n"),
    ("HEAD of a failing job", b"HEAD /fail HTTP/1.0\r\n\r\n"),
    ("an exception", b"GET /exception HTTP/1.0\r\n\r\n"),
    ("data before the result", b"GET /data HTTP/1.0\r\n\r\n"),
    ("progress", b"GET /status HTTP/1.0\r\n\r\n"),
    ("a warning", b"GET /warning HTTP/1.0\r\n\r\n"),
    ("a page of another site", b"GET /show HTTP/1.0\r\nHost: h\r\nOrigin: http://evil\r\n\r\n"),
    ("a page of its own site", b"GET /show HTTP/1.0\r\nHost: h\r\nOrigin: http://h\r\nSec-Fetch-Site: same-origin\r\n\r\n"),
    ("another site, by HEAD", b"HEAD /show HTTP/1.0\r\nSec-Fetch-Site: cross-site\r\n\r\n"),
    ("two requests at once", b"GET /show HTTP/1.0\r\n\r\nGET /show HTTP/1.0\r\n\r\n"),
];

/// The answer as it is written down. The version of the server is left out.
fn answer(implementation: Implementation, name: &str, request: &[u8]) -> String {
    let stage = Stage::of(implementation);
    stage.start_worker();
    let peer = stage.peer(request);
    let answer = match implementation {
        Implementation::Ours => Some(peer.answer()),
        Implementation::Debian => {
            let is_ignored = |deviation: &Deviation| deviation.request == name && deviation.theirs == NOTHING;
            peer.answer_within(if DEVIATIONS.iter().any(is_ignored) { ITS_TIME } else { DEADLINE })
        }
    };
    let Some(answer) = answer else { return NOTHING.to_owned() };
    let text = answer.escape_ascii().to_string();
    match text.split_once("Server: Gearman/") {
        Some((before, after)) => {
            let (_, after) = after.split_once(r"\r\n").expect("a line ends");
            format!(r"{before}Server: Gearman/V\r\n{after}")
        }
        None => text,
    }
}

/// Name of the request, our answer, gearmand's.
type Difference = (&'static str, String, String);

fn differences() -> Vec<Difference> {
    const THREADS: usize = 4;
    let difference = |(name, request): &(&'static str, &[u8])| {
        let [ours, theirs] = [Implementation::Ours, Implementation::Debian].map(|whose| answer(whose, name, request));
        (ours != theirs).then_some((*name, ours, theirs))
    };
    std::thread::scope(|scope| {
        let chunks = REQUESTS.chunks(REQUESTS.len().div_ceil(THREADS));
        let threads: Vec<_> =
            chunks.map(|chunk| scope.spawn(move || chunk.iter().filter_map(difference).collect::<Vec<_>>())).collect();
        threads.into_iter().flat_map(|thread| thread.join().expect("the reason stands above")).collect()
    })
}

fn is_listed(deviation: &Deviation, name: &str, ours: &str, theirs: &str) -> bool {
    let Deviation { request, ours: our_answer, theirs: their_answer, .. } = deviation;
    let is_theirs = if their_answer.is_empty() { theirs.is_empty() } else { theirs.starts_with(their_answer) };
    *request == name && *our_answer == ours && is_theirs
}

#[test]
fn our_plugin_answers_as_gearmands_but_for_the_deviations() {
    let differences = differences();
    let mut report = String::new();
    for (name, ours, theirs) in &differences {
        if !DEVIATIONS.iter().any(|deviation| is_listed(deviation, name, ours, theirs)) {
            let _ = writeln!(report, "    {name:?}\n        ours: r\"{ours}\"\n        theirs: r\"{theirs}\"");
        }
    }
    for Deviation { request, .. } in DEVIATIONS {
        if !differences.iter().any(|(name, ..)| name == request) {
            let _ = writeln!(report, "no longer differs: {request}");
        }
    }
    assert!(report.is_empty(), "differences that are not listed so:\n{report}");
}

#[test]
fn every_deviation_is_of_one_request_and_has_a_reason() {
    let names: BTreeSet<&str> = REQUESTS.iter().map(|(name, _)| *name).collect();
    assert_eq!(names.len(), REQUESTS.len(), "two requests of one name");
    let listed: BTreeSet<&str> = DEVIATIONS.iter().map(|deviation| deviation.request).collect();
    assert_eq!(listed.len(), DEVIATIONS.len(), "a request is listed twice");
    assert!(listed.is_subset(&names), "{:?}", listed.difference(&names));
    for Deviation { request, reason, .. } in DEVIATIONS {
        assert!(reason.len() > 20, "{request}: {reason}");
    }
}
