//! Detects peers that do not speak Gearman.
//!
//! A web page can make a browser send bytes of its choice to this port: in an HTTP request, or in a TLS
//! greeting that contains a command. After the first sign of this, no input is read as a command.

use crate::protocol::text;

/// This many unknown commands end a connection that has sent nothing else.
const MOST_UNKNOWN: u8 = 3;

/// What a connection has sent so far.
#[derive(Debug, Default)]
pub(super) struct Greeting {
    /// It has sent a packet or a known command.
    is_known: bool,
    unknown: u8,
}

/// The protocol that a peer speaks instead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum OtherProtocol {
    Http,
    /// Bytes that no text command has, such as a TLS greeting.
    Binary,
    /// Lines, none of which is a command.
    Text,
}

impl Greeting {
    /// Notes a valid packet.
    pub(super) const fn packet(&mut self) {
        self.is_known = true;
    }

    /// Notes a line of text, which is a command or not. Returns what the peer speaks if this line ends the
    /// connection.
    pub(super) fn line(&mut self, line: &[u8], is_command: bool) -> Option<OtherProtocol> {
        if text::is_http(line) {
            return Some(OtherProtocol::Http);
        }
        if self.is_known {
            return None;
        }
        if is_command {
            self.is_known = true;
            return None;
        }
        // A tab may be part of a name whose command was left out by mistake.
        if line.iter().any(|byte| byte.is_ascii_control() && *byte != b'\t') {
            return Some(OtherProtocol::Binary);
        }
        self.unknown += 1;
        (self.unknown == MOST_UNKNOWN).then_some(OtherProtocol::Text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_spoken_the_protocol_may_say_anything_but_http() {
        let mut greeting = Greeting::default();
        assert_eq!(greeting.line(b"statsu", false), None);
        assert_eq!(greeting.line(b"status", true), None);
        for line in [&b"x"[..], b"x", b"x", b"x", b"\x16\x03\x01"] {
            assert_eq!(greeting.line(line, false), None);
        }
        assert_eq!(greeting.line(b"GET / HTTP/1.1", false), Some(OtherProtocol::Http));
        let mut greeting = Greeting::default();
        greeting.packet();
        assert_eq!(greeting.line(b"\x16\x03\x01", false), None);
    }

    #[test]
    fn a_first_line_with_control_bytes_and_three_unknown_commands_are_another_protocol() {
        for line in [&b"\x16\x03\x01\x02"[..], b"x\0status", b"\x1b[A", b"\x7f"] {
            assert_eq!(Greeting::default().line(line, false), Some(OtherProtocol::Binary), "{}", line.escape_ascii());
        }
        // Like gearmand, a command ends at a NUL.
        assert_eq!(Greeting::default().line(b"status\0x", true), None);
        let mut greeting = Greeting::default();
        assert_eq!(greeting.line("größe\tx".as_bytes(), false), None);
        assert_eq!(greeting.line(b"", false), None);
        assert_eq!(greeting.line(b"EHLO x", false), Some(OtherProtocol::Text));
    }
}
