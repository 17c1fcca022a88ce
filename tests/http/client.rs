//! A client of HTTP for tests: what it sends is what a test writes, and what comes back is told whole.

use std::fmt::Write as _;
use std::io::{BufRead as _, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};

use serde_json::Value;

use crate::common::{DEADLINE, Server};

/// An answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// The header lines, in lower case up to their colon.
    headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body, which is JSON.
    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        assert_eq!(self.header("content-type"), Some("application/json"), "{}", self.text());
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.text()))
    }

    /// Wants this status and this error.
    #[track_caller]
    pub(crate) fn expect_error(&self, status: u16, code: &str) {
        let body = self.json();
        assert_eq!((self.status, body["error"]["code"].as_str()), (status, Some(code)), "{body}");
        assert!(body["error"]["message"].as_str().is_some_and(|message| message.len() > 5), "{body}");
    }
}

/// A server that serves HTTP on a free port, and keeps jobs in memory.
#[track_caller]
pub(crate) fn server(arguments: &[&str]) -> Server {
    let listen = if arguments.contains(&"--http-listen") { &[][..] } else { &["--http-listen", "127.0.0.1:0"] };
    Server::ours(&[&["-q", "builtin", "--verbose", "INFO"], listen, arguments].concat())
}

#[track_caller]
pub(crate) fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect_timeout(&address, DEADLINE).expect("connect");
    stream.set_read_timeout(Some(DEADLINE)).expect("SO_RCVTIMEO");
    stream.set_write_timeout(Some(DEADLINE)).expect("SO_SNDTIMEO");
    stream
}

/// The head and body of a request, after which the server closes.
pub(crate) fn request(method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Vec<u8> {
    let mut head = format!("{method} {path} HTTP/1.1\r\nconnection: close\r\n");
    if !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("host")) {
        head.push_str("host: localhost\r\n");
    }
    for (name, value) in headers {
        let _ = write!(head, "{name}: {value}\r\n");
    }
    if !body.is_empty() {
        let _ = write!(head, "content-length: {}\r\n", body.len());
    }
    [head.as_bytes(), b"\r\n", body].concat()
}

/// Sends bytes and reads the answer.
#[track_caller]
pub(crate) fn exchange(address: SocketAddr, bytes: &[u8]) -> Answer {
    let mut stream = connect(address);
    // A server that refuses a request does not read all of it.
    let _ = stream.write_all(bytes);
    read_answer(&mut BufReader::new(stream))
}

/// Reads an answer to its end.
#[track_caller]
pub(crate) fn read_answer(stream: &mut BufReader<TcpStream>) -> Answer {
    let mut answer = read_head(stream);
    if answer.header("transfer-encoding") == Some("chunked") {
        while let Some(chunk) = read_chunk(stream) {
            answer.body.extend_from_slice(&chunk);
        }
    } else if let Some(length) = answer.header("content-length").and_then(|length| length.parse().ok()) {
        answer.body.resize(length, 0);
        stream.read_exact(&mut answer.body).expect("the whole body");
    }
    answer
}

/// Reads the head of an answer.
#[track_caller]
pub(crate) fn read_head(stream: &mut BufReader<TcpStream>) -> Answer {
    let status = line(stream);
    let status = status.strip_prefix("HTTP/1.").and_then(|rest| rest.get(2..5)?.parse().ok());
    let mut answer = Answer { status: status.expect("a status line"), headers: Vec::new(), body: Vec::new() };
    loop {
        let line = line(stream);
        if line.is_empty() {
            return answer;
        }
        let (name, value) = line.split_once(": ").expect("a header line");
        answer.headers.push((name.to_ascii_lowercase(), value.to_owned()));
    }
}

#[track_caller]
fn line(stream: &mut BufReader<TcpStream>) -> String {
    let mut line = String::new();
    stream.read_line(&mut line).expect("a line");
    assert!(line.ends_with("\r\n"), "the answer ends within a line: {line:?}");
    line.trim_end().to_owned()
}

/// Reads a chunk; none at the end of the body.
#[track_caller]
pub(crate) fn read_chunk(stream: &mut BufReader<TcpStream>) -> Option<Vec<u8>> {
    let size = usize::from_str_radix(&line(stream), 16).expect("the size of a chunk");
    let mut chunk = vec![0; size];
    stream.read_exact(&mut chunk).expect("the whole chunk");
    assert_eq!(line(stream), "");
    (size > 0).then_some(chunk)
}

#[track_caller]
pub(crate) fn get(server: &Server, path: &str) -> Answer {
    exchange(server.http(), &request("GET", path, &[], b""))
}

/// The JSON at a path.
#[track_caller]
pub(crate) fn shown(server: &Server, path: &str) -> Value {
    let answer = get(server, path);
    assert_eq!(answer.status, 200, "{path}: {}", answer.text());
    answer.json()
}

/// Posts JSON, or nothing where that is null.
#[track_caller]
pub(crate) fn post(server: &Server, path: &str, body: &Value) -> Answer {
    let body = if body.is_null() { String::new() } else { body.to_string() };
    exchange(server.http(), &request("POST", path, &[("content-type", "application/json")], body.as_bytes()))
}

/// Events of a stream.
pub(crate) struct Events {
    stream: BufReader<TcpStream>,
    rest: String,
}

impl Events {
    /// Reads the head of the answer, whose body is a stream of events.
    #[track_caller]
    pub(crate) fn of(stream: TcpStream) -> Self {
        let mut stream = BufReader::new(stream);
        let head = read_head(&mut stream);
        assert_eq!((head.status, head.header("content-type")), (200, Some("text/event-stream")));
        Self { stream, rest: String::new() }
    }

    /// The next event: its name and its data. None at the end.
    #[track_caller]
    pub(crate) fn next(&mut self) -> Option<(String, Value)> {
        loop {
            if let Some((event, rest)) = self.rest.split_once("\n\n") {
                let (event, rest) = (event.to_owned(), rest.to_owned());
                self.rest = rest;
                if event.starts_with(':') {
                    continue;
                }
                let (name, data) = event.split_once('\n').expect("a name and data");
                let name = name.strip_prefix("event: ").expect("a name");
                let data = data.strip_prefix("data: ").expect("data");
                return Some((name.to_owned(), serde_json::from_str(data).expect("JSON")));
            }
            let chunk = read_chunk(&mut self.stream)?;
            self.rest.push_str(std::str::from_utf8(&chunk).expect("UTF-8"));
        }
    }
}
