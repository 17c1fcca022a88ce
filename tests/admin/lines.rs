//! How commands may be written, and how answers come.

use std::io::{ErrorKind, Read, Write};

use crate::common::{Wire, packet};
use crate::{connect, server, submit, worker};

/// Commands whose answers do not change by asking.
const QUESTIONS: [&str; 11] = [
    "status",
    "prioritystatus",
    "workers",
    "show jobs",
    "show unique jobs",
    "version",
    "getpid",
    "verbose",
    "create function abc",
    "maxqueue abc 7",
    "cancel job H:t:9",
];

/// Everything up to the end of the stream.
#[track_caller]
fn read_to_end(wire: &Wire) -> String {
    let mut answer = String::new();
    let mut stream = wire.stream();
    stream.read_to_string(&mut answer).expect("text up to the end of the stream");
    answer
}

/// Sends pieces to a server that may close the connection after any of them.
fn send_while_open<'a>(wire: &Wire, pieces: impl IntoIterator<Item = &'a [u8]>) {
    for piece in pieces {
        if wire.stream().write_all(piece).is_err() {
            return;
        }
    }
}

/// Everything up to the end of the stream. Where the server has closed it with something unread, that is a
/// reset.
#[track_caller]
fn read_until_closed(wire: &Wire) -> String {
    let (mut answer, mut piece) = (Vec::new(), [0; 1024]);
    loop {
        match wire.stream().read(&mut piece) {
            Ok(0) => break,
            Ok(size) => answer.extend_from_slice(&piece[..size]),
            Err(error) if error.kind() == ErrorKind::ConnectionReset => break,
            Err(error) => panic!("cannot read: {error}"),
        }
    }
    String::from_utf8_lossy(&answer).into_owned()
}

/// What one read of the size that C programs use returns.
#[track_caller]
fn read_once(wire: &Wire) -> String {
    let mut buffer = vec![0; 65_535];
    let count = wire.stream().read(&mut buffer).expect("an answer");
    String::from_utf8(buffer[..count].to_vec()).expect("text")
}

#[test]
fn line_ends_and_letter_case_make_no_difference() {
    let server = server(&[]);
    let mut wire = worker(&server, &["abc", "def"]);
    submit(&mut wire, packet::SUBMIT_JOB_BG, b"abc\0u\0", "H:t:1");
    for question in QUESTIONS {
        let expected = wire.text(question);
        let words: Vec<&str> = question.split(' ').collect();
        // Names and handles are of one case; the words before them are not.
        let names = usize::from(words.iter().any(|word| ["abc", "H:t:9"].contains(word)));
        let change = |change: fn(&str) -> String| {
            let count = if words[0] == "maxqueue" { 1 } else { words.len() - names };
            let changed = words[..count].iter().map(|word| change(word));
            changed.chain(words[count..].iter().map(ToString::to_string)).collect::<Vec<_>>().join(" ")
        };
        let capital = |word: &str| word[..1].to_uppercase() + &word[1..];
        for line in [question.to_owned(), change(str::to_uppercase), change(capital), words.join("   ")] {
            for end in ["\n", "\r\n"] {
                wire.send_raw(format!("{line}{end}").as_bytes());
                let mut answer = vec![0; expected.len()];
                wire.stream().read_exact(&mut answer).expect("an answer");
                assert_eq!(String::from_utf8_lossy(&answer), expected, "{line}{}", end.escape_debug());
                wire.expect_nothing();
            }
        }
    }
}

#[test]
fn create_function_keeps_the_last_letter_whatever_ends_the_line() {
    let server = server(&[]);
    let mut wire = connect(&server);
    for line in ["create function abc\n", "create function def\r\n"] {
        wire.send_raw(line.as_bytes());
        assert_eq!(wire.text_line(), "OK\r\n");
    }
    assert_eq!(wire.text("status"), "abc\t0\t0\t0\ndef\t0\t0\t0\n.\n");
}

#[test]
fn a_half_closed_one_shot_gets_its_answer_and_the_end() {
    let server = server(&[]);
    let mut lasting = worker(&server, &["abc", "def"]);
    submit(&mut lasting, packet::SUBMIT_JOB_BG, b"abc\0u\0", "H:t:1");
    for question in QUESTIONS.into_iter().filter(|question| *question != "workers") {
        let expected = lasting.text(question);
        for round in 0..20 {
            let mut wire = connect(&server);
            wire.send_raw(format!("{question}\n").as_bytes());
            wire.finish_sending();
            assert_eq!(read_to_end(&wire), expected, "{question}, round {round}");
        }
    }
    let mut wire = connect(&server);
    wire.send_raw(b"workers\nversion\n");
    wire.finish_sending();
    let answer = read_to_end(&wire);
    assert!(answer.contains(" 127.0.0.1 - : def abc\n") && answer.contains("\n.\nOK "), "{answer}");
    // A line without its end is no command.
    let mut wire = connect(&server);
    wire.send_raw(b"version\nver");
    wire.finish_sending();
    assert_eq!(read_to_end(&wire), lasting.text("version"));
}

#[test]
fn a_single_read_gets_the_answer_to_a_command_in_one_write() {
    let server = server(&[]);
    let names: Vec<String> = (0..300).map(|number| format!("a_function_of_some_length_{number:03}")).collect();
    let _worker = worker(&server, &names.iter().map(String::as_str).collect::<Vec<_>>());
    let mut wire = connect(&server);
    let version = wire.text("version");
    let status: String = names.iter().flat_map(|name| [name, "\t0\t0\t1\n"]).collect();
    for round in 0..20 {
        // The second command is answered with the first one, or after it where that one took its time.
        wire.send_raw(b"status\nversion\n");
        let mut answer = read_once(&wire);
        if !answer.ends_with(&version) {
            answer.push_str(&read_once(&wire));
        }
        assert!(answer == format!("{status}.\n{version}"), "round {round}: {} bytes", answer.len());
        wire.send_raw(b"status\r\n");
        assert!(read_once(&wire) == format!("{status}.\n"), "round {round}");
        wire.send_raw(b"prioritystatus\n");
        assert!(read_once(&wire).ends_with("\n.\n"), "round {round}");
        wire.send_raw(b"workers\n");
        assert!(read_once(&wire).ends_with("\n.\n"), "round {round}");
    }
}

#[test]
fn long_listings_of_jobs_are_whole_and_what_was_asked_next_follows() {
    let server = server(&[]);
    let mut wire = connect(&server);
    let count = 20_000;
    let bodies = (0..count).map(|number| packet::request(packet::SUBMIT_JOB_BG, format!("f\0u{number}\0").as_bytes()));
    wire.send_raw(&bodies.collect::<Vec<_>>().concat());
    for _ in 0..count {
        wire.expect_type(packet::JOB_CREATED);
    }
    wire.send_raw(b"show jobs\nshow unique jobs\nversion\n");
    wire.finish_sending();
    let answer = read_to_end(&wire);
    let mut lists = answer.split(".\n");
    let mut next = || lists.next().unwrap_or_default().lines().map(str::to_owned).collect::<Vec<_>>();
    let [mut jobs, mut uniques, rest] = [next(), next(), next()];
    for list in [&mut jobs, &mut uniques] {
        assert_eq!(list.len(), count);
        list.sort_unstable();
        list.dedup();
        assert_eq!(list.len(), count);
    }
    assert!(rest.len() == 1 && rest[0].starts_with("OK "), "{rest:?}");
}

#[test]
fn long_listings_of_functions_and_connections_are_whole_and_in_order() {
    let server = server(&[]);
    let names: Vec<String> = (0..900).map(|number| format!("{number:03}{}", "f".repeat(500))).collect();
    let _workers = [(); 3].map(|()| worker(&server, &names.iter().map(String::as_str).collect::<Vec<_>>()));
    let mut wire = connect(&server);
    wire.send_raw(b"status\nprioritystatus\nworkers\nversion\n");
    wire.finish_sending();
    let answer = read_to_end(&wire);
    let mut lists = answer.split("\n.\n");
    let mut next = || lists.next().unwrap_or_default().lines().collect::<Vec<_>>();
    for columns in ["0\t0\t3", "0\t0\t0\t3"] {
        let expected: Vec<_> = names.iter().map(|name| format!("{name}\t{columns}")).collect();
        assert_eq!(next(), expected);
    }
    let connections = next();
    assert_eq!(connections.len(), 4, "three workers, and who asks");
    let newest_first: String = names.iter().rev().flat_map(|name| [" ", name]).collect();
    for line in &connections[..3] {
        assert!(line.ends_with(&format!(" - :{newest_first}")), "{line:.80}");
    }
    let version = next();
    assert!(version.len() == 1 && version[0].starts_with("OK "), "{version:?}");
}

#[test]
fn a_line_may_come_in_pieces() {
    let server = server(&[]);
    let mut observer = connect(&server);
    let mut wire = connect(&server);
    let version = observer.text("version");
    for byte in b"version\r\n" {
        wire.send_raw(&[*byte]);
        // The server has read the byte when it answers this.
        observer.expect_nothing();
    }
    assert_eq!(wire.text_line(), version);
}

#[test]
fn a_line_has_a_limit() {
    for (limit, arguments) in [(8192, &[][..]), (100, &["--max-admin-line", "100"])] {
        let server = server(arguments);
        let mut wire = connect(&server);
        // The limit includes the end of the line.
        let longest = "x".repeat(limit - 1);
        wire.send_raw(format!("{longest}\n").as_bytes());
        assert_eq!(wire.text_line(), format!("ERR UNKNOWN_COMMAND Unknown+server+command{longest}\r\n"));
        wire.send_raw(format!("{}\r\n", &longest[1..]).as_bytes());
        assert_eq!(wire.text_line(), format!("ERR UNKNOWN_COMMAND Unknown+server+command{}\r\n", &longest[1..]));
        for too_long in [format!("{longest}x\n"), format!("{longest}x"), "x".repeat(limit * 3)] {
            let mut wire = connect(&server);
            wire.send_raw(b"version\n");
            assert!(wire.text_line().starts_with("OK "));
            wire.send_raw(too_long.as_bytes());
            assert_eq!(wire.text_line(), "ERR LINE_TOO_LONG The+line+is+longer+than+the+limit+(max-admin-line)\r\n");
            wire.expect_end();
        }
        wire.expect_nothing();
    }
}

#[test]
fn a_line_has_so_many_words() {
    let server = server(&[]);
    let mut wire = connect(&server);
    assert_eq!(wire.text("status 2 3 4 5"), ".\n");
    wire.send_raw(b"status 2 3 4 5 6\n");
    assert_eq!(wire.text_line(), "ERR INVALID_ARGUMENTS Too+many+words+in+this+command\r\n");
    wire.expect_nothing();
}

#[test]
fn a_request_that_a_web_page_makes_ends_the_connection() {
    let server = server(&[]);
    let mut observer = connect(&server);
    for (head, word) in [
        ("POST / HTTP/1.1\r\nOrigin: http://evil\r\n\r\n", "POST"),
        ("POST  /x HTTP/1.0\r\nHost: h\r\n", ""),
        ("Host: localhost\r\n\r\n", "Host:"),
        ("GET http://h/ HTTP/1.1\r\n", "GET"),
    ] {
        let wire = connect(&server);
        send_while_open(&wire, [format!("{head}create function f\r\nversion\r\n").as_bytes()]);
        let answer = read_until_closed(&wire);
        assert!(answer.starts_with(&format!("ERR UNKNOWN_COMMAND Unknown+server+command{word}")), "{head}: {answer}");
        assert!(!answer.contains("OK"), "{head}: {answer}");
        // In pieces as well.
        let wire = connect(&server);
        send_while_open(&wire, head.as_bytes().chunks(5).chain([&b"create function f\r\n"[..]]));
        read_until_closed(&wire);
        assert_eq!(observer.text("status"), ".\n", "{head}");
    }
    // A name may look like one all the same.
    assert_eq!(observer.text("create function HTTP/1.1"), "OK\r\n");
}

#[test]
fn a_tls_greeting_with_a_command_in_it_ends_the_connection() {
    let server = server(&[]);
    let mut observer = connect(&server);
    // The head of a record and of a ClientHello, and what a page may choose: the name of the host, or a
    // session.
    let head = b"\x16\x03\x01\x00\x80\x01\x00\x00\x7c\x03\x03random";
    for chosen in [
        &b"\ncreate function f\n"[..],
        b"create function f\r\ncreate function f\nversion\n",
        b"\nversion\ncreate function f\n",
    ] {
        for size in [1, 7, 1000] {
            let wire = connect(&server);
            let greeting = [&head[..], chosen].concat();
            send_while_open(&wire, greeting.chunks(size));
            assert_eq!(read_until_closed(&wire), "ERR UNKNOWN_COMMAND Unknown+server+command\r\n");
            assert_eq!(observer.text("status"), ".\n");
        }
    }
    // Whoever has said a command before may err.
    observer.send_raw(b"\x16\x03\x01\n");
    observer.text_line();
    observer.expect_nothing();
}

#[test]
fn three_unknown_commands_and_none_that_is_known_end_the_connection() {
    let server = server(&[]);
    let mut observer = connect(&server);
    let wire = connect(&server);
    send_while_open(&wire, [&b"EHLO evil\r\nMAIL FROM\r\nRCPT TO\r\ncreate function f\r\n"[..]]);
    let answer = read_until_closed(&wire);
    assert_eq!(answer.matches("ERR UNKNOWN_COMMAND").count(), 3, "{answer}");
    assert!(!answer.contains("OK"), "{answer}");
    assert_eq!(observer.text("status"), ".\n");
    // A known command, or a packet, before them: a person who types, or a tool for a newer server.
    let mut packets = connect(&server);
    packets.expect_nothing();
    for wire in [&mut observer, &mut packets] {
        for _ in 0..10 {
            assert!(wire.text("statsu").starts_with("ERR UNKNOWN_COMMAND"));
        }
        assert!(wire.text("version").starts_with("OK "));
    }
}

#[test]
fn many_lines_at_once_delay_nobody() {
    const LINES: usize = 40_000;
    let server = server(&["--threads", "1"]);
    let (wire, mut other) = (connect(&server), connect(&server));
    std::thread::scope(|scope| {
        let mut stream = wire.stream();
        let lines = "disable host:10.1.2.3\nenable host:10.1.2.3\n".repeat(LINES / 2);
        scope.spawn(move || stream.write_all(lines.as_bytes()).expect("to be read from"));
        let answered = scope.spawn(|| {
            let mut answers = vec![0; LINES * "OK\r\n".len()];
            wire.stream().read_exact(&mut answers).expect("an answer to each line");
        });
        let mut turns = 0;
        while !answered.is_finished() {
            other.expect_nothing();
            turns += 1;
        }
        // A read has room for 1,500 lines, of which a turn works off 16. A loaded machine gives the other
        // fewer turns than it had.
        assert!(turns > LINES / 800, "the other had {turns} turns");
    });
}
