//! Every packet type number, with bodies of every kind. What is expected is written down here by type, apart
//! from the server's own tables.

use crate::common::packet::{self, body};
use crate::common::{Server, Wire};
use crate::roles::{connect, server};

/// What a packet must lead to.
#[derive(Debug, PartialEq, Eq)]
enum Expected {
    /// No packet at all.
    Nothing,
    /// This packet.
    Packet(u32, Vec<u8>),
    /// A JOB_CREATED with some handle.
    Created,
    /// An ERROR of this code.
    Error(&'static str),
}

use Expected::{Created, Error, Nothing, Packet};

/// The longest function name, unique id (and reducer) and handle, in bytes.
const FUNCTION_MAX: usize = 512;
const UNIQUE_MAX: usize = 64;
const HANDLE_MAX: usize = 63;

const KIB_100: usize = 100 * 1024;

/// Numbers that are sent: all that have a meaning, their neighbours, and those at the ends of the number
/// range.
fn numbers() -> impl Iterator<Item = u32> {
    (0..=50).chain([0x7fff_ffff, 0x8000_0000, 0xffff_ffff])
}

/// A body that is right for a type, if it takes one. The handle in it is of no job.
fn well_formed(number: u32) -> &'static [u8] {
    match number {
        1 | 2 => b"f",
        7 | 18 | 21 | 32 | 33 | 34 => b"f\0u\0workload",
        12 => b"H:t:4000000\x001\x002",
        13 | 25 | 28 | 29 => b"H:t:4000000\0workload",
        14 | 15 => b"H:t:4000000",
        22 => b"id",
        23 => b"f\x001000",
        26 => b"exceptions",
        36 => b"f\0u\x004000000000\0workload",
        37 | 38 => b"f\0u\0reducer\0\0workload",
        41 => b"u that nobody has",
        _ => b"",
    }
}

/// The bodies that each type gets.
fn bodies(number: u32) -> Vec<Vec<u8>> {
    let well_formed = well_formed(number);
    let pattern = [0xff, 0x00, 0xfe, 0x80, 0x00, 0xc3, 0x28, 0x00, 0xed, 0xa0, 0x80, 0x00, 0x31, 0x00, 0xf8];
    vec![
        Vec::new(),
        b"x".to_vec(),
        well_formed.to_vec(),
        [well_formed, &vec![b'w'; KIB_100]].concat(),
        vec![b'x'; 300],
        vec![b'x'; KIB_100],
        vec![0],
        vec![0; 300],
        vec![0; KIB_100],
        pattern.to_vec(),
        pattern.repeat(KIB_100 / pattern.len()),
        b"\0REQ\0\0\0\x10\0\0\0\0".to_vec(),
    ]
}

/// The first `count` - 1 arguments end with a NUL, the last is the rest; `None` if there are too few NULs.
fn arguments(body: &[u8], count: usize) -> Option<Vec<&[u8]>> {
    let arguments: Vec<&[u8]> = body.splitn(count, |byte| *byte == 0).collect();
    (arguments.len() == count).then_some(arguments)
}

/// What `body` in a packet of type `number` must lead to, on a connection that is no worker and holds no job.
fn expected(number: u32, body: &[u8]) -> Expected {
    match number {
        1..=4 | 22 => Nothing,
        9 | 30 | 39 => Packet(packet::NO_JOB, Vec::new()),
        7 | 18 | 21 | 32 | 33 | 34 => submission(body, 3),
        36 => match arguments(body, 4) {
            Some(parts) if is_out_of_range(parts[2]) => Error("INVALID_ARGUMENT"),
            _ => submission(body, 4),
        },
        37 | 38 => match arguments(body, 5) {
            Some(parts) if parts[2].len() > UNIQUE_MAX => Error("ARGUMENT_TOO_LARGE"),
            _ => submission(body, 5),
        },
        12 => result(arguments(body, 3)),
        13 | 25 | 28 | 29 => result(arguments(body, 2)),
        14 => result(Some(vec![until_nul(body)])),
        15 | 41 => status(number, until_nul(body)),
        16 => Packet(packet::ECHO_RES, body.to_vec()),
        23 => match arguments(body, 2) {
            None => Error("INVALID_PACKET"),
            Some(_) => Nothing,
        },
        26 if body.len() <= 63 && until_nul(body).eq_ignore_ascii_case(b"exceptions") => {
            Packet(packet::OPTION_RES, body.to_vec())
        }
        26 => Error("UNKNOWN_OPTION"),
        _ => Error("INVALID_COMMAND"),
    }
}

fn submission(body: &[u8], count: usize) -> Expected {
    match arguments(body, count) {
        None => Error("INVALID_PACKET"),
        Some(parts) if parts[0].len() > FUNCTION_MAX || parts[1].len() > UNIQUE_MAX => Error("ARGUMENT_TOO_LARGE"),
        Some(_) => Created,
    }
}

/// The handle is the first part.
fn result(parts: Option<Vec<&[u8]>>) -> Expected {
    match parts {
        None => Error("INVALID_PACKET"),
        Some(parts) if parts[0].len() > HANDLE_MAX => Error("ARGUMENT_TOO_LARGE"),
        Some(_) => Error("JOB_NOT_FOUND"),
    }
}

fn status(number: u32, name: &[u8]) -> Expected {
    let (limit, answer, zeros): (_, _, &[u8]) = match number {
        15 => (HANDLE_MAX, packet::STATUS_RES, b"\x000\x000\x000\x000"),
        _ => (UNIQUE_MAX, packet::STATUS_RES_UNIQUE, b"\x000\x000\x000\x000\x000"),
    };
    if name.len() > limit { Error("ARGUMENT_TOO_LARGE") } else { Packet(answer, [name, zeros].concat()) }
}

fn until_nul(bytes: &[u8]) -> &[u8] {
    bytes.split(|byte| *byte == 0).next().unwrap_or_default()
}

fn is_number(bytes: &[u8]) -> bool {
    std::str::from_utf8(bytes).is_ok_and(|text| text.parse::<i64>().is_ok())
}

/// More digits than 64 bits have room for.
fn is_out_of_range(bytes: &[u8]) -> bool {
    bytes.len() > 19 && bytes.iter().all(u8::is_ascii_digit)
}

/// Sends what is in `bytes` to a new connection, and checks what comes of it and that the connection lives.
#[track_caller]
fn check(server: &Server, what: &str, bytes: &[u8], expected: &Expected) {
    let mut wire = connect(server);
    wire.send_raw(bytes);
    wire.send(packet::ECHO_REQ, b"still here");
    let got = receive_until_echo(&mut wire, *expected != Nothing);
    assert_eq!(got.as_ref(), if *expected == Nothing { None } else { Some(expected) }, "{what}");
}

/// The answer before the ECHO_RES, if there has to be one, and then the ECHO_RES.
#[track_caller]
fn receive_until_echo(wire: &mut Wire, is_answered: bool) -> Option<Expected> {
    let answer = is_answered.then(|| wire.recv()).map(|(packet_type, body)| match packet_type {
        packet::JOB_CREATED => {
            let number = body.strip_prefix(b"H:t:").expect("a handle");
            assert!(is_number(number), "a handle: {}", body.escape_ascii());
            Created
        }
        packet::ERROR => Error(known_code(until_nul(&body))),
        _ => Packet(packet_type, body),
    });
    wire.expect(packet::ECHO_RES, b"still here");
    answer
}

fn known_code(code: &[u8]) -> &'static str {
    [
        "INVALID_MAGIC",
        "INVALID_COMMAND",
        "INVALID_PACKET",
        "INVALID_ARGUMENT",
        "ARGUMENT_TOO_LARGE",
        "JOB_NOT_FOUND",
        "UNKNOWN_OPTION",
    ]
    .into_iter()
    .find(|known| known.as_bytes() == code)
    .unwrap_or_else(|| panic!("an ERROR of an unexpected code {}", code.escape_ascii()))
}

#[test]
fn every_number_with_every_kind_of_body_is_answered_and_the_connection_lives() {
    let server = server(&[]);
    for number in numbers() {
        for body in bodies(number) {
            let what = format!("type {number:#x} with {}", shown(&body));
            check(&server, &what, &packet::request(number, &body), &expected(number, &body));
        }
    }
}

#[test]
fn every_number_with_the_magic_of_a_response_is_refused() {
    let server = server(&[]);
    for number in numbers() {
        for body in [well_formed(number), b"", &vec![b'x'; KIB_100]] {
            let mut bytes = packet::request(number, body);
            bytes[..4].copy_from_slice(b"\0RES");
            check(&server, &format!("type {number:#x} as a response"), &bytes, &Error("INVALID_MAGIC"));
        }
    }
}

#[test]
fn every_number_above_the_size_limit_is_refused_and_skipped() {
    let server = server(&["--max-packet-size", "64KiB"]);
    for number in numbers() {
        let body = vec![0; KIB_100];
        let what = format!("type {number:#x} with 100 KiB");
        check(&server, &what, &packet::request(number, &body), &Error("ARGUMENT_TOO_LARGE"));
    }
}

#[test]
fn the_size_limit_is_that_of_the_body() {
    let server = server(&["--max-packet-size", "64KiB"]);
    let mut wire = connect(&server);
    for (size, is_taken) in [(65_535, true), (65_536, true), (65_537, false), (65_536, true), (10_000_000, false)] {
        let body = vec![b'x'; size];
        wire.send(packet::ECHO_REQ, &body);
        if is_taken {
            wire.expect(packet::ECHO_RES, &body);
        } else {
            assert!(wire.expect_error("ARGUMENT_TOO_LARGE").contains("(max-packet-size)"));
        }
    }
    wire.expect_nothing();
}

#[test]
fn a_unique_id_of_64_bytes_is_whole_everywhere() {
    let server = server(&[]);
    let mut wire = connect(&server);
    let unique = "u".repeat(64);
    wire.send(packet::CAN_DO, b"f");
    for (packet_type, arguments) in [
        (packet::SUBMIT_JOB, &[b"f", unique.as_bytes(), b"w"][..]),
        (packet::SUBMIT_JOB_HIGH, &[b"f", unique.as_bytes(), b"w"]),
        (packet::SUBMIT_JOB_EPOCH, &[b"f", unique.as_bytes(), b"1", b"w"]),
        (packet::SUBMIT_REDUCE_JOB, &[b"f", unique.as_bytes(), b"", b"", b"w"]),
    ] {
        // All are one job.
        wire.send(packet_type, &body(arguments));
        wire.expect(packet::JOB_CREATED, b"H:t:1");
    }
    wire.send(packet::GRAB_JOB_UNIQ, b"");
    wire.expect(packet::JOB_ASSIGN_UNIQ, &body(&[b"H:t:1", b"f", unique.as_bytes(), b"w"]));
    wire.send(packet::GET_STATUS_UNIQUE, unique.as_bytes());
    wire.expect(packet::STATUS_RES_UNIQUE, &body(&[unique.as_bytes(), b"1", b"1", b"0", b"0", b"3"]));
    assert_eq!(wire.text("show unique jobs"), format!("{unique}\n.\n"));
}

#[test]
fn a_unique_id_or_reducer_of_65_bytes_is_refused_everywhere() {
    let server = server(&[]);
    let mut wire = connect(&server);
    let long = [b'u'; 65];
    for number in [7, 18, 21, 32, 33, 34, 36, 37, 38] {
        let bodies = match number {
            36 => vec![body(&[b"f", &long, b"1", b"w"])],
            37 | 38 => vec![body(&[b"f", &long, b"r", b"", b"w"]), body(&[b"f", b"u", &long, b"", b"w"])],
            _ => vec![body(&[b"f", &long, b"w"])],
        };
        for body in bodies {
            wire.send(number, &body);
            assert_eq!(wire.expect_error("ARGUMENT_TOO_LARGE"), "Unique value too large", "type {number}");
        }
    }
    assert_eq!(wire.text("show jobs"), ".\n");
}

#[test]
fn a_reducer_of_64_bytes_is_whole() {
    let server = server(&[]);
    let mut wire = connect(&server);
    let reducer = [b'r'; 64];
    wire.send(packet::CAN_DO, b"f");
    wire.send(packet::SUBMIT_REDUCE_JOB, &body(&[b"f", b"u", &reducer, b"", b"w"]));
    wire.expect(packet::JOB_CREATED, b"H:t:1");
    wire.send(packet::GRAB_JOB_ALL, b"");
    wire.expect(packet::JOB_ASSIGN_ALL, &body(&[b"H:t:1", b"f", b"u", &reducer, b"w"]));
}

#[test]
fn a_handle_may_have_63_bytes() {
    // The longest prefix leaves room for a number of twelve digits.
    let prefix = "p".repeat(50);
    let server = Server::ours(&["--job-handle-prefix", &prefix]);
    let mut wire = connect(&server);
    wire.send(packet::SUBMIT_JOB_BG, b"f\0u\0w");
    let handle = format!("{prefix}:1");
    wire.expect(packet::JOB_CREATED, handle.as_bytes());
    wire.send(packet::GET_STATUS, handle.as_bytes());
    wire.expect(packet::STATUS_RES, &body(&[handle.as_bytes(), b"1", b"0", b"0", b"0"]));
    for (length, is_taken) in [(63, true), (64, false)] {
        let handle = vec![b'h'; length];
        wire.send(packet::GET_STATUS, &handle);
        if is_taken {
            wire.expect(packet::STATUS_RES, &body(&[&handle, b"0", b"0", b"0", b"0"]));
        } else {
            wire.expect_error("ARGUMENT_TOO_LARGE");
        }
        for (number, arguments) in [
            (packet::WORK_STATUS, &[&handle[..], b"1", b"2"][..]),
            (packet::WORK_COMPLETE, &[&handle, b""]),
            (packet::WORK_DATA, &[&handle, b""]),
            (packet::WORK_WARNING, &[&handle, b""]),
            (packet::WORK_EXCEPTION, &[&handle, b""]),
            (packet::WORK_FAIL, &[&handle]),
        ] {
            wire.send(number, &body(arguments));
            wire.expect_error(if is_taken { "JOB_NOT_FOUND" } else { "ARGUMENT_TOO_LARGE" });
        }
    }
}

#[test]
fn a_function_name_may_have_512_bytes() {
    let server = server(&[]);
    let mut wire = connect(&server);
    let name = [b'f'; 512];
    wire.send(packet::CAN_DO, &name);
    wire.send(packet::SUBMIT_JOB, &body(&[&name, b"", b"w"]));
    wire.expect(packet::JOB_CREATED, b"H:t:1");
    wire.send(packet::GRAB_JOB, b"");
    wire.expect(packet::JOB_ASSIGN, &body(&[b"H:t:1", &name, b"w"]));
    for (number, body) in [
        (packet::CAN_DO, vec![b'f'; 513]),
        (packet::CAN_DO_TIMEOUT, body(&[&[b'f'; 513], b"1000"])),
        (packet::CANT_DO, vec![b'f'; 513]),
    ] {
        wire.send(number, &body);
        wire.expect_nothing();
    }
    assert_eq!(wire.text("status"), format!("{}\t1\t1\t1\n.\n", "f".repeat(512)));
    wire.send(packet::SUBMIT_JOB, &body(&[&[b'f'; 513], b"", b"w"]));
    assert_eq!(wire.expect_error("ARGUMENT_TOO_LARGE"), "Function name too large");
}

#[test]
fn an_option_name_may_have_63_bytes_with_what_follows_its_nul() {
    let server = server(&[]);
    let mut wire = connect(&server);
    for option in [&b"exceptions"[..], b"EXCEPTIONS", b"exceptions\0", &[&b"exceptions\0"[..], &[b'z'; 52]].concat()] {
        wire.send(packet::OPTION_REQ, option);
        wire.expect(packet::OPTION_RES, option);
    }
    for option in [&b""[..], b"exception", b"exceptions ", &[&b"exceptions\0"[..], &[b'z'; 53]].concat()] {
        wire.send(packet::OPTION_REQ, option);
        wire.expect_error("UNKNOWN_OPTION");
    }
}

#[test]
fn a_client_id_is_cut_after_127_bytes() {
    let server = server(&[]);
    let mut wire = connect(&server);
    wire.send(packet::SET_CLIENT_ID, &[b'i'; 5000]);
    let workers = wire.text("workers");
    assert!(workers.ends_with(&format!(" 127.0.0.1 {} :\n.\n", "i".repeat(127))), "{workers}");
}

fn shown(body: &[u8]) -> String {
    format!("{} bytes, {}", body.len(), body[..body.len().min(30)].escape_ascii())
}
