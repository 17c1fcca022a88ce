//! Every ERROR packet, provoked on the wire.

use gearmand::protocol::PeerError;
use nix::sys::signal::Signal;

use crate::common::packet::{self, body};
use crate::common::{Server, Wire, wait_for};
use crate::roles::{connect, server, submit, submit_plain};

/// A way to an error.
struct Case {
    /// The error, by the name of its constant, its code and its text as they stand in the protocol's
    /// description.
    error: PeerError,
    code: &'static str,
    text: &'static str,
    /// Options that the server needs for it.
    arguments: &'static [&'static str],
    /// Does what makes `wire` receive the ERROR next.
    provoke: fn(&Server, &mut Wire),
}

/// A case that is one packet to a server with default options.
macro_rules! packet_case {
    ($error:ident, $code:literal, $text:literal, $packet_type:expr, $body:expr) => {
        Case {
            error: PeerError::$error,
            code: $code,
            text: $text,
            arguments: &[],
            provoke: |_, wire| wire.send($packet_type, &$body),
        }
    };
}

const LONG: [u8; 600] = [b'x'; 600];

const ONE_PACKET: &[Case] = &[
    Case {
        error: PeerError::INVALID_MAGIC,
        code: "INVALID_MAGIC",
        text: "Request magic expected",
        arguments: &[],
        provoke: |_, wire| wire.send_raw(b"\0RES\0\0\0\x10\0\0\0\x02hi"),
    },
    packet_case!(COMMAND_NOT_EXPECTED, "INVALID_COMMAND", "Command not expected", packet::NOOP, *b""),
    packet_case!(COMMAND_UNKNOWN, "INVALID_COMMAND", "Invalid command expected", 43, *b"abc"),
    packet_case!(TOO_FEW_ARGUMENTS, "INVALID_PACKET", "Packet has too few arguments", packet::SUBMIT_JOB, *b"f\0u"),
    packet_case!(
        UNIQUE_TOO_LARGE,
        "ARGUMENT_TOO_LARGE",
        "Unique value too large",
        packet::SUBMIT_JOB,
        body(&[b"f", &[b'u'; 65], b""])
    ),
    packet_case!(
        FUNCTION_TOO_LARGE,
        "ARGUMENT_TOO_LARGE",
        "Function name too large",
        packet::SUBMIT_JOB_BG,
        body(&[&LONG, b"u", b"x"])
    ),
    packet_case!(
        HANDLE_TOO_LARGE,
        "ARGUMENT_TOO_LARGE",
        "Error occurred due to GEARMAND_JOB_HANDLE_SIZE being too small from snprintf",
        packet::WORK_FAIL,
        LONG
    ),
    packet_case!(
        EPOCH_OUT_OF_RANGE,
        "INVALID_ARGUMENT",
        "Epoch time is out of range",
        packet::SUBMIT_JOB_EPOCH,
        *b"f\0u\x009223372036854775808\0x"
    ),
    packet_case!(
        DATA_FOR_UNKNOWN_JOB,
        "JOB_NOT_FOUND",
        "Job does not exist on server",
        packet::WORK_DATA,
        *b"H:t:99\0x"
    ),
    packet_case!(
        RESULT_FOR_UNKNOWN_JOB,
        "JOB_NOT_FOUND",
        "Job given in work result not found",
        packet::WORK_COMPLETE,
        *b"H:t:99\0x"
    ),
    packet_case!(
        EXCEPTION_FOR_UNKNOWN_JOB,
        "JOB_NOT_FOUND",
        "An exception was received for a job that does not exist",
        packet::WORK_EXCEPTION,
        *b"H:t:99\0x"
    ),
    packet_case!(
        UNKNOWN_OPTION,
        "UNKNOWN_OPTION",
        "Server does not recognize given option",
        packet::OPTION_REQ,
        *b"warp"
    ),
];

const LIMITS: &[Case] = &[
    Case {
        error: PeerError::PACKET_TOO_LARGE,
        code: "ARGUMENT_TOO_LARGE",
        text: "Packet is larger than the server accepts (max-packet-size)",
        arguments: &["--max-packet-size", "1KiB"],
        provoke: |_, wire| wire.send(packet::SUBMIT_JOB, &[0; 2000]),
    },
    Case {
        error: PeerError::JOB_QUEUE_FULL,
        code: "QUEUE_ERROR",
        text: "Job queue is full",
        arguments: &[],
        provoke: |_, wire| {
            assert_eq!(wire.text("maxqueue f 1"), "OK\r\n");
            submit_plain(wire, "f", "1");
            wire.send(packet::SUBMIT_JOB_BG, b"f\0\0x");
        },
    },
    Case {
        error: PeerError::TOO_MANY_JOBS,
        code: "QUEUE_ERROR",
        text: "Job queue is full: job limit reached (max-jobs)",
        arguments: &["--max-jobs", "1"],
        provoke: |_, wire| {
            submit_plain(wire, "f", "1");
            wire.send(packet::SUBMIT_JOB_BG, b"g\0\0x");
        },
    },
    Case {
        error: PeerError::TOO_MANY_FUNCTIONS,
        code: "QUEUE_ERROR",
        text: "Too many functions on this server (max-functions)",
        arguments: &["--max-functions", "1"],
        provoke: |_, wire| {
            submit_plain(wire, "f", "1");
            wire.send(packet::SUBMIT_JOB_BG, b"g\0u\0x");
        },
    },
    Case {
        error: PeerError::TOO_MANY_WAITS,
        code: "QUEUE_ERROR",
        text: "Too many unfinished jobs on this connection (max-pending-jobs-per-connection)",
        arguments: &["--max-pending-jobs-per-connection", "1"],
        provoke: |_, wire| {
            submit_plain(wire, "f", "1");
            // A background job is not waited for.
            submit(wire, packet::SUBMIT_JOB_BG, "f", "", "2");
            wire.send(packet::SUBMIT_JOB, b"f\0\x003");
        },
    },
    Case {
        error: PeerError::TOO_MANY_WAITS_FOR_JOB,
        code: "QUEUE_ERROR",
        text: "Too many submissions of one unfinished job on this connection (max-waits-per-job)",
        arguments: &["--max-waits-per-job", "1"],
        provoke: |_, wire| {
            submit(wire, packet::SUBMIT_JOB, "f", "u", "1");
            // Another job is another matter, and a background job is not waited for.
            submit(wire, packet::SUBMIT_JOB, "f", "v", "1");
            submit(wire, packet::SUBMIT_JOB_BG, "f", "u", "1");
            wire.send(packet::SUBMIT_JOB, b"f\0u\x001");
        },
    },
    Case {
        error: PeerError::OUT_OF_MEMORY,
        code: "QUEUE_ERROR",
        text: "Job queue is full: workload memory limit reached (max-workload-memory)",
        arguments: &["--queue-type", "builtin", "--max-workload-memory", "1MiB"],
        provoke: |_, wire| {
            let workload = "x".repeat(600_000);
            submit(wire, packet::SUBMIT_JOB_BG, "f", "", &workload);
            wire.send(packet::SUBMIT_JOB, &body(&[b"f", b"", workload.as_bytes()]));
        },
    },
    Case {
        error: PeerError::MEMORY_USED_UP,
        code: "QUEUE_ERROR",
        text: "Job queue is full: memory limit reached (max-memory)",
        arguments: &["--queue-type", "builtin", "--max-memory", "16MiB"],
        provoke: |_, wire| {
            let workload = "x".repeat(600_000);
            (0..20).for_each(|_| drop(submit(wire, packet::SUBMIT_JOB_BG, "f", "", &workload)));
            wire.send(packet::SUBMIT_JOB, &body(&[b"f", b"", workload.as_bytes()]));
        },
    },
    Case {
        error: PeerError::SHUTTING_DOWN,
        code: "SHUTDOWN_GRACEFUL",
        text: "Server is shutting down and rejects new jobs",
        arguments: &["--drain-timeout", "0"],
        provoke: |server, wire| {
            // Without a job that would be lost the server would be drained at once.
            submit_plain(wire, "f", "");
            server.signal(Signal::SIGUSR1);
            wait_for("the server to drain", || std::net::TcpStream::connect(server.addr()).is_err().then_some(()));
            wire.send(packet::SUBMIT_JOB_BG, b"f\0u\0");
        },
    },
];

/// What the store is the reason for. It takes faults to provoke these: see tests/faults.rs, and the
/// simulation.
const OF_THE_STORE: &[PeerError] = &[
    PeerError::STORE_BEHIND,
    PeerError::STORE_FULL,
    PeerError::STORE_READ_ONLY,
    PeerError::STORE_FAILED,
    PeerError::STORE_LOCKED,
    PeerError::STORE_UNREACHABLE,
    PeerError::STORE_CORRUPT,
    PeerError::STORE_REFUSED,
    PeerError::NUMBERS_USED_UP,
];

/// Sent to a connection that is closed at once, and so to another one than that which stays.
const REFUSED_CONNECTION: Case = Case {
    error: PeerError::TOO_MANY_CONNECTIONS,
    code: "COULD_NOT_CONNECT",
    text: "Too many connections on this server (max-connections)",
    arguments: &["--max-connections", "1"],
    provoke: |server, first| {
        first.expect_nothing();
        let mut second = connect(server);
        let error = format!("{}\0{}", REFUSED_CONNECTION.code, REFUSED_CONNECTION.text);
        second.expect(packet::ERROR, error.as_bytes());
        second.expect_end();
        first.expect_nothing();
    },
};

#[test]
fn every_error_is_provoked_and_the_connection_lives() {
    let plain = server(&[]);
    for case in ONE_PACKET {
        check(case, &plain);
    }
    for case in LIMITS {
        check(case, &server(case.arguments));
    }
}

#[track_caller]
fn check(case: &Case, server: &Server) {
    let mut wire = connect(server);
    (case.provoke)(server, &mut wire);
    let (packet_type, body) = wire.recv();
    let expected = format!("{}\0{}", case.code, case.text);
    assert_eq!((packet_type, String::from_utf8_lossy(&body).as_ref()), (packet::ERROR, expected.as_str()));
    wire.expect_nothing();
}

#[test]
fn a_connection_too_many_is_told_and_closed() {
    let server = server(REFUSED_CONNECTION.arguments);
    (REFUSED_CONNECTION.provoke)(&server, &mut connect(&server));
}

#[test]
fn no_error_is_left_out() {
    let cases = || ONE_PACKET.iter().chain(LIMITS).chain([&REFUSED_CONNECTION]);
    // Thousands of connections provoke it, in `hostile memory_group_many_workers_beside_jobs`.
    let is_elsewhere = |error: &PeerError| *error == PeerError::NO_MEMORY_FOR_CONNECTION;
    for error in PeerError::ALL.iter().filter(|error| !OF_THE_STORE.contains(error) && !is_elsewhere(error)) {
        let case = cases().find(|case| case.error == *error);
        let case = case.unwrap_or_else(|| panic!("{error:?} is not provoked by any case"));
        assert_eq!((error.code, error.text), (case.code, case.text), "what the server's table says");
    }
    assert_eq!(cases().count(), PeerError::ALL.len() - OF_THE_STORE.len() - 1, "an error is provoked twice");
}
