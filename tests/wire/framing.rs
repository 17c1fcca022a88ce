//! The stream: packets and lines mixed, cut anywhere, and broken.

use std::io::Read;

use crate::common::packet::{self, request};
use crate::common::{Server, Wire};
use crate::roles::{connect, server};

/// Requests of many kinds, binary and text, each answered the same whenever it is sent, if `f` has no worker.
fn mixed_requests() -> Vec<Vec<u8>> {
    vec![
        request(packet::ECHO_REQ, b"one"),
        b"version\n".to_vec(),
        request(packet::GET_STATUS, b"H:t:4000000000"),
        b"getpid\r\n".to_vec(),
        b"nonsense\n".to_vec(),
        request(packet::SET_CLIENT_ID, b"idle"),
        request(packet::GRAB_JOB, b""),
        request(packet::SUBMIT_JOB_BG, b"f\0the only one\0workload"),
        request(packet::SUBMIT_JOB_LOW, b"f\0too few"),
        b"status\n".to_vec(),
        request(packet::ECHO_REQ, b"\n\0REQ\n\nstatus\n"),
        request(99, b"\0REQ"),
        b"\n".to_vec(),
        request(packet::WORK_FAIL, b"nobody's"),
        request(packet::OPTION_REQ, b"exceptions"),
        b"show unique jobs\n".to_vec(),
        b"VERBOSE\r\n".to_vec(),
        request(packet::ECHO_REQ, b"last"),
    ]
}

/// A server, and what it answers to the mixed requests when they are sent one after another.
fn answered() -> (Server, Vec<u8>) {
    let server = server(&[]);
    let mut wire = connect(&server);
    let mut answers = Vec::new();
    // The first time makes the job and the function.
    for requests in [mixed_requests(), mixed_requests()] {
        answers.clear();
        for bytes in requests {
            wire.send_raw(&bytes);
            wire.send(packet::ECHO_REQ, b"after each");
            answers.extend(read_until(&mut wire, b"\0RES\0\0\0\x11\0\0\0\x0aafter each"));
        }
    }
    assert_eq!(answers.windows(4).filter(|window| window == b"\0RES").count(), 10, "{}", answers.escape_ascii());
    (server, answers)
}

/// Reads up to `end` and returns what stands before it.
#[track_caller]
fn read_until(wire: &mut Wire, end: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut piece = [0; 4096];
    while !bytes.ends_with(end) {
        let count =
            wire.stream().read(&mut piece).unwrap_or_else(|error| panic!("{error} after {}", bytes.escape_ascii()));
        assert!(count > 0, "the stream ended after {}", bytes.escape_ascii());
        bytes.extend_from_slice(&piece[..count]);
    }
    bytes.truncate(bytes.len() - end.len());
    bytes
}

/// Sends `pieces` so that the server reads each of them for itself, and checks the answer.
///
/// What was sent before an ECHO_REQ on another connection is read before that is answered: the server looks
/// at its connections in the order in which something arrived.
#[track_caller]
fn check_pieces(server: &Server, observer: &mut Wire, pieces: &[&[u8]], expected: &[u8]) {
    let mut wire = connect(server);
    for piece in pieces {
        wire.send_raw(piece);
        observer.expect_nothing();
    }
    let mut answer = vec![0; expected.len()];
    wire.stream().read_exact(&mut answer).expect("the whole answer");
    assert_eq!(answer.escape_ascii().to_string(), expected.escape_ascii().to_string());
    wire.expect_nothing();
}

#[test]
fn packets_and_lines_in_one_write_are_answered_in_order() {
    let (server, expected) = answered();
    let mut observer = connect(&server);
    check_pieces(&server, &mut observer, &[&mixed_requests().concat()], &expected);
    let many = mixed_requests().concat().repeat(500);
    check_pieces(&server, &mut observer, &[&many], &expected.repeat(500));
}

#[test]
fn a_stream_may_be_cut_anywhere() {
    let (server, expected) = answered();
    let mut observer = connect(&server);
    let stream = mixed_requests().concat();
    for cut in 1..stream.len() {
        let (front, back) = stream.split_at(cut);
        check_pieces(&server, &mut observer, &[front, back], &expected);
    }
}

#[test]
fn a_stream_may_come_in_pieces_of_any_size() {
    let (server, expected) = answered();
    let mut observer = connect(&server);
    let stream = mixed_requests().concat();
    for size in [1, 2, 3, 5, 7, 11, 12, 13, 31] {
        let pieces: Vec<&[u8]> = stream.chunks(size).collect();
        check_pieces(&server, &mut observer, &pieces, &expected);
    }
}

#[test]
fn a_large_packet_may_be_cut_anywhere() {
    let server = server(&[]);
    let mut observer = connect(&server);
    let body: Vec<u8> = (0_u32..200_000).map(|index| index.to_le_bytes()[index as usize % 3]).collect();
    let stream = [request(packet::ECHO_REQ, &body), b"version\n".to_vec()].concat();
    let mut wire = connect(&server);
    let mut expected = request(packet::ECHO_RES, &body);
    expected[..4].copy_from_slice(b"\0RES");
    expected.extend_from_slice(wire.text("version").as_bytes());
    let near = |place: usize| place.saturating_sub(2)..=place + 2;
    let cuts = (1..=30).chain(near(32 * 1024)).chain(near(64 * 1024)).chain(near(64 * 1024 + 12));
    for cut in cuts.chain(near(128 * 1024)).chain(body.len()..stream.len()) {
        let (front, back) = stream.split_at(cut);
        let (middle, back) = back.split_at(1);
        check_pieces(&server, &mut observer, &[front, middle, back], &expected);
    }
}

#[test]
fn an_oversized_packet_may_be_cut_anywhere() {
    let server = server(&["--max-packet-size", "1KiB"]);
    let mut observer = connect(&server);
    let stream = [request(packet::SUBMIT_JOB, &[0; 1500]), request(packet::ECHO_REQ, b"x")].concat();
    let mut wire = connect(&server);
    wire.send_raw(&stream);
    let (packet_type, body) = wire.recv();
    let mut expected = [request(packet_type, &body), request(packet::ECHO_RES, b"x")].concat();
    expected[..4].copy_from_slice(b"\0RES");
    expected[12 + body.len()..16 + body.len()].copy_from_slice(b"\0RES");
    assert_eq!(packet_type, packet::ERROR);
    for cut in (1..40).chain(1490..stream.len()) {
        let (front, back) = stream.split_at(cut);
        check_pieces(&server, &mut observer, &[front, back], &expected);
    }
}

#[test]
fn a_broken_magic_closes_its_connection_alone() {
    let server = server(&[]);
    let mut other = connect(&server);
    for broken in [&b"\0\0\0\0\0\0\0\0\0\0\0\0"[..], b"\0REX", b"\0X", b"\0req\0\0\0\x10\0\0\0\0", b"\0\n"] {
        let mut wire = connect(&server);
        // What was asked before the stream broke is answered.
        wire.send_raw(&[&request(packet::ECHO_REQ, b"before")[..], broken].concat());
        wire.expect(packet::ECHO_RES, b"before");
        wire.expect_end();
        other.expect_nothing();
    }
}

#[test]
fn a_header_that_announces_4_gib_is_answered_at_once_and_others_are_served() {
    let server = server(&[]);
    let mut wire = connect(&server);
    wire.send_raw(b"\0REQ\0\0\0\x07\xff\xff\xff\xff");
    wire.expect_error("ARGUMENT_TOO_LARGE");
    wire.send_raw(&vec![0; 1 << 20]);
    connect(&server).expect_nothing();
}

#[test]
fn a_background_job_followed_by_the_end_of_the_stream_is_taken() {
    let server = server(&[]);
    let mut observer = connect(&server);
    for round in 0..100 {
        let mut wire = connect(&server);
        let unique = format!("f\0{round}\0");
        wire.send(packet::SUBMIT_JOB_BG, unique.as_bytes());
        drop(wire);
    }
    crate::common::wait_for("100 jobs", || observer.text("status").starts_with("f\t100\t").then_some(()));
}

#[test]
fn answers_are_sent_to_a_half_closed_connection() {
    let server = server(&[]);
    let mut wire = connect(&server);
    wire.send_raw(&[&request(packet::ECHO_REQ, b"last words")[..], b"version\n"].concat());
    wire.finish_sending();
    wire.expect(packet::ECHO_RES, b"last words");
    assert!(wire.text_line().starts_with("OK "));
    wire.expect_end();
}

/// Whoever had much to say once, and then little, holds nobody up who has much to say after it.
#[test]
fn those_with_much_to_say_have_their_turn_one_after_the_other() {
    let server = server(&[]);
    let much = request(packet::ECHO_REQ, &[b'e'; 100]).repeat(200);
    let mut wires: Vec<Wire> = (0..8).map(|_| connect(&server)).collect();
    // All at once, and then each while the others are silent.
    for wire in &mut wires {
        wire.send_raw(&much);
    }
    for wire in &mut wires {
        (0..200).for_each(|_| wire.expect(packet::ECHO_RES, &[b'e'; 100]));
    }
    for wire in &mut wires {
        wire.send_raw(&much);
        (0..200).for_each(|_| wire.expect(packet::ECHO_RES, &[b'e'; 100]));
        wire.expect_nothing();
    }
}
