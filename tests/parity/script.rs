//! Conversations with a job server: how they are written, and how they are run.
//!
//! ```text
//! == name of the conversation | options of both servers
//! # remark
//! W CAN_DO reverse                     connection W sends a packet: its type, and its body
//! C SUBMIT_JOB reverse\0unique\0abc
//! C TEXT status                        a line of text, which is ended by \r\n
//! ```
//!
//! A connection is a letter and is opened when it is first used. Beside packet types by name there are:
//!
//! * `#43` for a type by its number, and `RES NAME BODY` for a packet with the magic of a response;
//! * `RAW BYTES` for bytes as they stand there;
//! * `WAIT` to wait until something arrives, for what the server sends by the clock;
//! * `CLOSE` to close the connection, and wait until the server has noticed.
//!
//! In bodies and bytes `\0`, `\n`, `\r`, `\t`, `\s` (space), `\\`, `\xff` and `{x*100}` (100 times x) have a
//! meaning.
//!
//! After every step each connection asks for an ECHO, first the one of the step, and everything that comes
//! before the answer is what the step has led to. So nothing that the server says is missed, and nobody waits
//! for what does not come.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{ErrorKind, Read, Write};

use crate::common::{Server, Wire, packet, wait_for};

/// A conversation.
pub(crate) struct Script {
    pub(crate) name: String,
    pub(crate) options: Vec<String>,
    pub(crate) steps: Vec<Step>,
}

/// One line of a conversation.
pub(crate) struct Step {
    /// The line itself.
    pub(crate) line: String,
    connection: char,
    action: Action,
}

enum Action {
    Send { packet_type: u32, is_response: bool, body: Vec<u8> },
    Text(String),
    Raw(Vec<u8>),
    Wait,
    Close,
}

impl Step {
    /// The type of the packet that is sent, if it is a request.
    pub(crate) fn packet_type(&self) -> Option<u32> {
        match self.action {
            Action::Send { packet_type, is_response: false, .. } => Some(packet_type),
            _ => None,
        }
    }

    /// The line of text that is sent.
    pub(crate) fn text_line(&self) -> Option<&str> {
        match &self.action {
            Action::Text(line) => Some(line),
            _ => None,
        }
    }
}

/// The names of packet types by their numbers.
const NAMES: [&str; 43] = [
    "#0",
    "CAN_DO",
    "CANT_DO",
    "RESET_ABILITIES",
    "PRE_SLEEP",
    "#5",
    "NOOP",
    "SUBMIT_JOB",
    "JOB_CREATED",
    "GRAB_JOB",
    "NO_JOB",
    "JOB_ASSIGN",
    "WORK_STATUS",
    "WORK_COMPLETE",
    "WORK_FAIL",
    "GET_STATUS",
    "ECHO_REQ",
    "ECHO_RES",
    "SUBMIT_JOB_BG",
    "ERROR",
    "STATUS_RES",
    "SUBMIT_JOB_HIGH",
    "SET_CLIENT_ID",
    "CAN_DO_TIMEOUT",
    "ALL_YOURS",
    "WORK_EXCEPTION",
    "OPTION_REQ",
    "OPTION_RES",
    "WORK_DATA",
    "WORK_WARNING",
    "GRAB_JOB_UNIQ",
    "JOB_ASSIGN_UNIQ",
    "SUBMIT_JOB_HIGH_BG",
    "SUBMIT_JOB_LOW",
    "SUBMIT_JOB_LOW_BG",
    "SUBMIT_JOB_SCHED",
    "SUBMIT_JOB_EPOCH",
    "SUBMIT_REDUCE_JOB",
    "SUBMIT_REDUCE_JOB_BACKGROUND",
    "GRAB_JOB_ALL",
    "JOB_ASSIGN_ALL",
    "GET_STATUS_UNIQUE",
    "STATUS_RES_UNIQUE",
];

/// Reads the conversations of a file.
pub(crate) fn parse(text: &str) -> Vec<Script> {
    let mut scripts: Vec<Script> = Vec::new();
    for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        if let Some(title) = line.strip_prefix("== ") {
            let (name, options) = title.split_once(" | ").unwrap_or((title, ""));
            let options = options.split_whitespace().map(str::to_owned).collect();
            scripts.push(Script { name: name.to_owned(), options, steps: Vec::new() });
        } else {
            let script = scripts.last_mut().expect("a conversation begins with its name");
            script.steps.push(parse_step(line));
        }
    }
    scripts
}

fn parse_step(line: &str) -> Step {
    let (connection, rest) = line.split_once(' ').unwrap_or_else(|| panic!("what shall {line:?} be?"));
    let (word, rest) = rest.split_once(' ').unwrap_or((rest, ""));
    let action = match word {
        "TEXT" => Action::Text(rest.to_owned()),
        "RAW" => Action::Raw(unescape(rest)),
        "WAIT" => Action::Wait,
        "CLOSE" => Action::Close,
        "RES" => {
            let (name, body) = rest.split_once(' ').unwrap_or((rest, ""));
            Action::Send { packet_type: number(name), is_response: true, body: unescape(body) }
        }
        name => Action::Send { packet_type: number(name), is_response: false, body: unescape(rest) },
    };
    let connection = connection.chars().next().expect("a letter");
    Step { line: line.to_owned(), connection, action }
}

fn number(name: &str) -> u32 {
    if let Some(number) = name.strip_prefix('#') {
        return number.parse().unwrap_or_else(|_| panic!("no number: {name}"));
    }
    let position = NAMES.iter().position(|known| *known == name).unwrap_or_else(|| panic!("no packet type: {name}"));
    u32::try_from(position).expect("a small number")
}

fn unescape(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        rest = &rest[first.len_utf8()..];
        match first {
            '\\' => {
                let (escape, after) = rest.split_at(1);
                rest = after;
                bytes.push(match escape {
                    "0" => 0,
                    "n" => b'\n',
                    "r" => b'\r',
                    "t" => b'\t',
                    "s" => b' ',
                    "\\" => b'\\',
                    "x" => {
                        let (digits, after) = rest.split_at(2);
                        rest = after;
                        u8::from_str_radix(digits, 16).expect("two hexadecimal digits")
                    }
                    other => panic!("what is \\{other} in {text}?"),
                });
            }
            '{' => {
                let (repeat, after) = rest.split_once('}').expect("a closing brace");
                let (what, count) = repeat.split_once('*').expect("WHAT*COUNT");
                rest = after;
                bytes.extend(unescape(what).repeat(count.parse().expect("a count")));
            }
            other => bytes.extend(other.to_string().bytes()),
        }
    }
    bytes
}

impl Script {
    /// Has the conversation with `server`, and returns what each step has led to.
    pub(crate) fn run(&self, server: &Server) -> Vec<String> {
        let mut run = Run { server, observer: Wire::connect(server.addr()), peers: BTreeMap::new() };
        run.wait_for_connections(1);
        self.steps.iter().map(|step| run.step(step)).collect()
    }
}

/// A conversation that is under way.
struct Run<'a> {
    server: &'a Server,
    /// Sees in `workers` when a connection is gone.
    observer: Wire,
    peers: BTreeMap<char, Peer>,
}

impl Run<'_> {
    fn step(&mut self, step: &Step) -> String {
        let addr = self.server.addr();
        let connection = step.connection;
        if matches!(step.action, Action::Close) {
            let open = 1 + self.peers.values().filter(|peer| peer.is_open).count();
            drop(self.peers.remove(&connection).expect("an open connection"));
            self.wait_for_connections(open - 1);
        } else {
            let peer = self.peers.entry(connection).or_insert_with(|| Peer::new(Wire::connect(addr)));
            match &step.action {
                Action::Send { packet_type, is_response, body } => {
                    let mut bytes = packet::request(*packet_type, body);
                    if *is_response {
                        bytes[..4].copy_from_slice(b"\0RES");
                    }
                    peer.send(&bytes);
                }
                Action::Text(line) => peer.send(&[&unescape(line), &b"\r\n"[..]].concat()),
                Action::Raw(bytes) => peer.send(bytes),
                Action::Wait => peer.wait(),
                Action::Close => {}
            }
        }
        let mut answers = Vec::new();
        if let Some(peer) = self.peers.get_mut(&connection) {
            answers.push((connection, peer.collect()));
        }
        for (name, peer) in &mut self.peers {
            if *name != connection {
                answers.push((*name, peer.collect()));
            }
        }
        self.shown(step, &answers)
    }

    #[track_caller]
    fn wait_for_connections(&mut self, count: usize) {
        let observer = &mut self.observer;
        wait_for("the server to notice the end of a connection", || {
            (observer.text("workers").lines().count() == count + 1).then_some(())
        });
    }

    fn shown(&self, step: &Step, answers: &[(char, Vec<Item>)]) -> String {
        let mut parts = Vec::new();
        for (connection, items) in answers {
            let mut shown: Vec<String> = items.iter().map(|item| self.shown_item(step, item)).collect();
            if matches!(step.action, Action::Text(_)) && shown.last().is_some_and(|last| last == r#"".\n""#) {
                let last = shown.len() - 1;
                shown[..last].sort();
            }
            if !shown.is_empty() {
                parts.push(format!("{connection} {}", shown.join(" ")));
            }
        }
        parts.join(" | ")
    }

    fn shown_item(&self, step: &Step, item: &Item) -> String {
        match item {
            Item::Packet(packet_type, body) => {
                let name =
                    NAMES.get(*packet_type as usize).map_or_else(|| format!("#{packet_type}"), ToString::to_string);
                if body.is_empty() { name } else { format!("{name} {}", shown_bytes(body)) }
            }
            Item::Line(line) => format!("\"{}\"", self.normal(step, line)),
            Item::End => "END".to_owned(),
        }
    }

    /// A line without what is of the process alone: its id, its version, its file descriptors.
    fn normal(&self, step: &Step, line: &[u8]) -> String {
        let line = shown_bytes(line);
        let command = step.line.to_ascii_lowercase();
        let is_value = line.starts_with("OK ");
        if command.contains("getpid") && is_value {
            line.replace(&format!("OK {}", self.server.pid()), "OK PID")
        } else if command.contains("version") && is_value {
            let end = line.find(r"\n").unwrap_or(line.len());
            format!("OK VERSION{}", &line[end..])
        } else if command.contains("workers") && line.contains(" 127.0.0.1 ") {
            format!("FD{}", line.trim_start_matches(|character: char| character.is_ascii_digit()))
        } else {
            line
        }
    }
}

/// Escaped bytes; of many the first, and a hash of all.
fn shown_bytes(bytes: &[u8]) -> String {
    const LONGEST: usize = 300;
    if bytes.len() <= LONGEST {
        return bytes.escape_ascii().to_string().replace(r"\x00", r"\0");
    }
    let mut hasher = DefaultHasher::new();
    bytes.hash(&mut hasher);
    format!("{}...({} bytes, {:x})", shown_bytes(&bytes[..20]), bytes.len(), hasher.finish())
}

/// Something that a server sent.
enum Item {
    Packet(u32, Vec<u8>),
    /// A line with its end.
    Line(Vec<u8>),
    /// The end of the connection.
    End,
}

/// One connection of a conversation.
struct Peer {
    wire: Wire,
    received: Vec<u8>,
    is_open: bool,
    echoes: u32,
}

impl Peer {
    fn new(wire: Wire) -> Self {
        Self { wire, received: Vec::new(), is_open: true, echoes: 0 }
    }

    /// Sends, unless the server has closed the connection: that is seen when it is read from.
    fn send(&mut self, bytes: &[u8]) {
        let _ = self.wire.stream().write_all(bytes);
    }

    /// Waits until something is there, and leaves it to be collected.
    fn wait(&mut self) {
        if self.received.is_empty() {
            self.read();
        }
    }

    /// Everything that the server has said up to now.
    fn collect(&mut self) -> Vec<Item> {
        if !self.is_open {
            return Vec::new();
        }
        self.echoes += 1;
        let token = format!("echo {}", self.echoes).into_bytes();
        self.send(&packet::request(packet::ECHO_REQ, &token));
        self.receive_until(|item| matches!(item, Item::Packet(packet::ECHO_RES, body) if *body == token))
    }

    /// What comes before an item that `is_last`, or up to the end of the connection.
    fn receive_until(&mut self, is_last: impl Fn(&Item) -> bool) -> Vec<Item> {
        let mut items = Vec::new();
        loop {
            match self.next_item() {
                Some(item) if is_last(&item) => return items,
                Some(item) => items.push(item),
                None if self.is_open => self.read(),
                None => {
                    items.push(Item::End);
                    return items;
                }
            }
        }
    }

    /// Takes a whole packet or line off what was received.
    fn next_item(&mut self) -> Option<Item> {
        if self.received.first() == Some(&0) {
            let header = self.received.get(..12)?;
            let word = |at: usize| u32::from_be_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
            assert_eq!(word(0).to_be_bytes(), *b"\0RES");
            let (packet_type, size) = (word(4), 12 + word(8) as usize);
            let body = self.received.get(12..size)?.to_vec();
            self.received.drain(..size);
            return Some(Item::Packet(packet_type, body));
        }
        let end = self.received.iter().position(|byte| *byte == b'\n')?;
        Some(Item::Line(self.received.drain(..=end).collect()))
    }

    /// Reads once.
    fn read(&mut self) {
        let mut piece = [0; 8 * 1024];
        match self.wire.stream().read(&mut piece) {
            Ok(0) => self.is_open = false,
            Ok(count) => self.received.extend_from_slice(&piece[..count]),
            Err(error) if matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe) => {
                self.is_open = false;
            }
            Err(error) => panic!("nothing came after \"{}\": {error}", self.received.escape_ascii()),
        }
    }
}
