//! A connection of a test: raw packets and text lines, nothing interpreted.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};

use super::{DEADLINE, packet};

/// A blocking connection to a job server. Every wait ends after [`DEADLINE`] with a failed test.
pub(crate) struct Wire {
    stream: TcpStream,
    echoes: u32,
}

impl Wire {
    /// Connects; replies are not delayed by Nagle's algorithm on our side.
    #[track_caller]
    pub(crate) fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect_timeout(&address, DEADLINE)
            .unwrap_or_else(|error| panic!("cannot connect to {address}: {error}"));
        stream.set_nodelay(true).expect("TCP_NODELAY");
        stream.set_read_timeout(Some(DEADLINE)).expect("SO_RCVTIMEO");
        stream.set_write_timeout(Some(DEADLINE)).expect("SO_SNDTIMEO");
        Self { stream, echoes: 0 }
    }

    /// The socket, for what a test wants to do with it beyond packets (half-close, options, local address).
    pub(crate) fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// Sends one request packet; `body` is [`packet::body`] of its arguments.
    #[track_caller]
    pub(crate) fn send(&mut self, packet_type: u32, body: &[u8]) {
        self.send_raw(&packet::request(packet_type, body));
    }

    /// Sends bytes as they are.
    #[track_caller]
    pub(crate) fn send_raw(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap_or_else(|error| panic!("cannot send {} bytes: {error}", bytes.len()));
    }

    /// Closes the sending side and keeps reading.
    pub(crate) fn finish_sending(&self) {
        self.stream.shutdown(Shutdown::Write).expect("half-close");
    }

    /// Receives one packet: its type and its body. Fails at the end of the stream.
    #[track_caller]
    pub(crate) fn recv(&mut self) -> (u32, Vec<u8>) {
        self.recv_or_end().expect("the server closed the connection where a packet was expected")
    }

    /// Receives one packet, or `None` when the server closed the connection between two packets.
    #[track_caller]
    pub(crate) fn recv_or_end(&mut self) -> Option<(u32, Vec<u8>)> {
        let mut header = [0; 12];
        if !self.fill(&mut header) {
            return None;
        }
        let word = |at: usize| [header[at], header[at + 1], header[at + 2], header[at + 3]];
        assert_eq!(&word(0), b"\0RES", "magic of {}", header.escape_ascii());
        let mut body = vec![0; u32::from_be_bytes(word(8)) as usize];
        assert!(body.is_empty() || self.fill(&mut body), "the stream ended inside a packet");
        Some((u32::from_be_bytes(word(4)), body))
    }

    /// Receives one packet and compares it.
    #[track_caller]
    pub(crate) fn expect(&mut self, packet_type: u32, body: &[u8]) {
        let (got_type, got_body) = self.recv();
        assert!(
            got_type == packet_type && got_body == body,
            "expected type {packet_type} \"{}\", got type {got_type} \"{}\"",
            shown(body),
            shown(&got_body)
        );
    }

    /// Receives one packet of this type and returns its body.
    #[track_caller]
    pub(crate) fn expect_type(&mut self, packet_type: u32) -> Vec<u8> {
        let (got_type, body) = self.recv();
        assert_eq!(got_type, packet_type, "body \"{}\"", shown(&body));
        body
    }

    /// Receives an ERROR with this code (`JOB_NOT_FOUND`, ...) and returns its text.
    #[track_caller]
    pub(crate) fn expect_error(&mut self, code: &str) -> String {
        let body = self.expect_type(packet::ERROR);
        let body = String::from_utf8_lossy(&body);
        let (got_code, text) = body.split_once('\0').expect("an ERROR has two arguments");
        assert_eq!(got_code, code, "{text}");
        text.to_owned()
    }

    /// Proves that nothing is on its way to this connection: what the server had sent before it answers an
    /// `ECHO_REQ` would arrive first.
    #[track_caller]
    pub(crate) fn expect_nothing(&mut self) {
        self.echoes += 1;
        let token = format!("nothing before this {}", self.echoes);
        self.send(packet::ECHO_REQ, token.as_bytes());
        self.expect(packet::ECHO_RES, token.as_bytes());
    }

    /// Waits for the end of the stream; any byte before it fails the test. A reset counts as an end.
    #[track_caller]
    pub(crate) fn expect_end(&mut self) {
        let mut byte = [0; 1];
        match self.stream.read(&mut byte) {
            Ok(0) => {}
            Ok(_) => panic!("expected the connection to be closed, got byte {:#04x}", byte[0]),
            Err(error) if error.kind() == ErrorKind::ConnectionReset => {}
            Err(error) => panic!("expected the connection to be closed: {error}"),
        }
    }

    /// Sends a text line (without its newline) and returns the answer whole, terminators included: a listing
    /// (`status`, `workers`, `prioritystatus`, `show ...`, `list ...`) up to its `.` line, anything else one
    /// line.
    #[track_caller]
    pub(crate) fn text(&mut self, line: &str) -> String {
        self.send_raw(format!("{line}\n").as_bytes());
        let command = line.split(' ').next().unwrap_or_default().to_ascii_lowercase();
        let listing = ["status", "workers", "prioritystatus", "show", "list"].contains(&command.as_str());
        let mut answer = self.text_line();
        while listing && !answer.starts_with("ERR ") && answer != ".\n" && !answer.ends_with("\n.\n") {
            answer.push_str(&self.text_line());
        }
        answer
    }

    /// Reads up to and with a newline. One byte a read: nothing of what follows may be swallowed.
    #[track_caller]
    pub(crate) fn text_line(&mut self) -> String {
        let mut line = Vec::new();
        let mut byte = [0; 1];
        while byte[0] != b'\n' {
            assert!(self.fill(&mut byte), "the stream ended after \"{}\"", line.escape_ascii());
            line.push(byte[0]);
        }
        String::from_utf8_lossy(&line).into_owned()
    }

    /// Fills `bytes`; false when the stream ended before the first one.
    #[track_caller]
    fn fill(&mut self, bytes: &mut [u8]) -> bool {
        let mut filled = 0;
        while filled < bytes.len() {
            match self.stream.read(&mut bytes[filled..]) {
                Ok(0) if filled == 0 => return false,
                Ok(0) => panic!("the stream ended after {filled} of {} bytes", bytes.len()),
                Ok(count) => filled += count,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::ConnectionReset && filled == 0 => {
                    return false;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    panic!("nothing arrived within {DEADLINE:?}")
                }
                Err(error) => panic!("cannot read: {error}"),
            }
        }
        true
    }
}

/// A body for a failure message: escaped, and cut where it gets long.
fn shown(body: &[u8]) -> String {
    const LONGEST: usize = 300;
    if body.len() <= LONGEST {
        body.escape_ascii().to_string()
    } else {
        format!("{}... ({} bytes)", body[..LONGEST].escape_ascii(), body.len())
    }
}
