//! A conversation recorded from gearmand 1.1.20, replayed to the byte.

use crate::common::Wire;
use crate::roles::server;

/// `>` goes to the server, `<` comes from it; W is a worker's connection, C a client's. Then magic, type and
/// length in hexadecimal, and the body. A packet that is not followed by an answer on its connection must not
/// be answered.
///
/// One line differs from what gearmand said. Its WORK_FAIL for an exception ends the handle with a NUL
/// (length 6), which its own client library does not understand; ours is the bare handle, as in every other
/// WORK_FAIL.
const TRANSCRIPT: &str = r"
W > 00524551 00000001 00000003 rev
W > 00524551 00000009 00000000
W < 00524553 0000000a 00000000
W > 00524551 00000004 00000000
C > 00524551 00000007 0000000b rev\0u1\0test
C < 00524553 00000008 00000005 H:t:1
W < 00524553 00000006 00000000
C > 00524551 0000000f 00000005 H:t:1
C < 00524553 00000014 0000000d H:t:1\01\00\00\00
W > 00524551 0000001e 00000000
W < 00524553 0000001f 00000011 H:t:1\0rev\0u1\0test
W > 00524551 0000000c 00000009 H:t:1\01\02
C < 00524553 0000000c 00000009 H:t:1\01\02
C > 00524551 0000000f 00000005 H:t:1
C < 00524553 00000014 0000000d H:t:1\01\01\01\02
C > 00524551 00000029 00000002 u1
C < 00524553 0000002a 0000000c u1\01\01\01\02\01
W > 00524551 0000001c 0000000a H:t:1\0part
C < 00524553 0000001c 0000000a H:t:1\0part
W > 00524551 0000000d 0000000a H:t:1\0tset
C < 00524553 0000000d 0000000a H:t:1\0tset
C > 00524551 00000015 00000008 rev\0u2\0x
C < 00524553 00000008 00000005 H:t:2
W > 00524551 00000009 00000000
W < 00524553 0000000b 0000000b H:t:2\0rev\0x
W > 00524551 00000019 0000000a H:t:2\0boom
C < 00524553 0000000e 00000005 H:t:2
C > 00524551 0000001a 0000000a exceptions
C < 00524553 0000001b 0000000a exceptions
C > 00524551 00000007 00000008 rev\0u3\0x
C < 00524553 00000008 00000005 H:t:3
W > 00524551 00000027 00000000
W < 00524553 0000001f 0000000e H:t:3\0rev\0u3\0x
W > 00524551 00000019 0000000a H:t:3\0boom
C < 00524553 00000019 0000000a H:t:3\0boom
W > 00524551 0000000e 00000005 H:t:3
W < 00524553 00000013 00000030 JOB_NOT_FOUND\0Job given in work result not found
C > 00524551 0000000f 00000005 H:t:9
C < 00524553 00000014 0000000d H:t:9\00\00\00\00
C > 00524551 00000026 0000000d rev\0u4\0red\0\0x
C < 00524553 00000008 00000005 H:t:4
W > 00524551 00000027 00000000
W < 00524553 00000028 00000012 H:t:4\0rev\0u4\0red\0x
W > 00524551 0000000e 00000005 H:t:4
C > 00524551 00000010 00000003 a\0b
C < 00524553 00000011 00000003 a\0b
C > 00524551 00000012 00000047 rev\0UUUUUUUUUUUUUUUUUUUUUUUUUUUUUUUUUUUUUUUUUUUUUUUUUUUUUUUUUUUUUUUUU\0x
C < 00524553 00000013 00000029 ARGUMENT_TOO_LARGE\0Unique value too large
";

/// One line: the connection, the direction and the packet's bytes.
fn parse(line: &str) -> (char, char, Vec<u8>) {
    let mut columns = line.splitn(6, ' ');
    let mut next = || columns.next().unwrap_or_default();
    let [connection, direction] = [next(), next()].map(|column| column.chars().next().expect("a letter or an arrow"));
    let mut bytes = Vec::new();
    for _ in 0..3 {
        bytes.extend(u32::from_str_radix(next(), 16).expect("eight hexadecimal digits").to_be_bytes());
    }
    bytes.extend(next().replace(r"\0", "\0").bytes());
    let length = u32::try_from(bytes.len() - 12).expect("a short body").to_be_bytes();
    assert_eq!(bytes[8..12], length, "the transcript's own length in {line}");
    (connection, direction, bytes)
}

#[test]
fn the_recorded_conversation_is_answered_to_the_byte() {
    let server = server(&[]);
    let [mut worker, mut client] = [(); 2].map(|()| Wire::connect(server.addr()));
    let lines: Vec<&str> = TRANSCRIPT.trim().lines().collect();
    for (index, line) in lines.iter().enumerate() {
        let (connection, direction, bytes) = parse(line);
        let wire = if connection == 'W' { &mut worker } else { &mut client };
        if direction == '<' {
            let (packet_type, body) = wire.recv();
            let expected_type = u32::from_be_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]);
            assert_eq!(
                (packet_type, body.escape_ascii().to_string()),
                (expected_type, bytes[12..].escape_ascii().to_string()),
                "instead of {line}"
            );
            continue;
        }
        wire.send_raw(&bytes);
        let next = lines.get(index + 1).map(|line| parse(line));
        if !matches!(next, Some((next_connection, '<', _)) if next_connection == connection) {
            wire.expect_nothing();
        }
    }
    worker.expect_nothing();
    client.expect_nothing();
}
