//! Every command, its answers and its errors.

use crate::common::{Server, Wire, packet, wait_for};
use crate::{connect, server, submit, worker};

/// Lines that are no good, and what is said to them.
const ERRORS: &[(&str, &str)] = &[
    ("nonsense", "ERR UNKNOWN_COMMAND Unknown+server+commandnonsense\r\n"),
    ("nonsense with words", "ERR UNKNOWN_COMMAND Unknown+server+commandnonsense\r\n"),
    ("NonSense", "ERR UNKNOWN_COMMAND Unknown+server+commandNonSense\r\n"),
    ("", "ERR UNKNOWN_COMMAND Unknown+server+command\r\n"),
    (" status", "ERR UNKNOWN_COMMAND Unknown+server+command\r\n"),
    ("status\t", "ERR UNKNOWN_COMMAND Unknown+server+commandstatus\t\r\n"),
    ("statuses", "ERR UNKNOWN_COMMAND Unknown+server+commandstatuses\r\n"),
    ("stat", "ERR UNKNOWN_COMMAND Unknown+server+commandstat\r\n"),
    ("show", "ERR UNKNOWN_COMMAND Unknown+server+commandshow\r\n"),
    ("show foo", "ERR UNKNOWN_SHOW_ARGUMENTS\r\n"),
    ("show unique", "ERR UNKNOWN_SHOW_ARGUMENTS\r\n"),
    ("show unique foo", "ERR UNKNOWN_SHOW_ARGUMENTS\r\n"),
    ("show jobs foo", "ERR UNKNOWN_SHOW_ARGUMENTS\r\n"),
    ("cancel", "ERR UNKNOWN_COMMAND Unknown+server+commandcancel\r\n"),
    ("cancel job", "ERR UNKNOWN_COMMAND Unknown+server+commandcancel\r\n"),
    ("cancel foo bar", "ERR UNKNOWN_ERROR\r\n"),
    ("cancel job a b", "ERR UNKNOWN_ERROR\r\n"),
    ("cancel job H:t:9", "ERR UNKNOWN_JOB\r\n"),
    ("cancel job nonsense", "ERR UNKNOWN_JOB\r\n"),
    ("drop function unknown", "ERR function not found\r\n"),
    ("shutdown", "ERR UNKNOWN_COMMAND Unknown+server+commandshutdown\r\n"),
    ("shutdown graceful", "ERR UNKNOWN_COMMAND Unknown+server+commandshutdown\r\n"),
    ("maxqueue f 1 2 3 4", "ERR INVALID_ARGUMENTS Too+many+words+in+this+command\r\n"),
    ("a b c d e f", "ERR INVALID_ARGUMENTS Too+many+words+in+this+command\r\n"),
];

/// Commands that lack an argument, or have one too many; the answer repeats the first word as it was typed.
const INCOMPLETE: &[&str] = &[
    "maxqueue",
    "MAXQUEUE",
    "create",
    "create function",
    "create function ",
    "create function a b",
    "create table a",
    "Create",
    "drop",
    "drop function",
    "drop function a b",
    "drop table a",
];

#[test]
fn errors_are_worded_as_gearmand_words_them() {
    let plain = server(&[]);
    let mut wire = connect(&plain);
    for (line, answer) in ERRORS {
        assert_eq!(wire.text_answer(line), *answer, "{line}");
    }
    for line in INCOMPLETE {
        let word = line.split(' ').next().unwrap_or_default();
        let answer =
            format!("ERR INVALID_ARGUMENTS An+incomplete+set+of+arguments+was+sent+to+this+command+{word}\r\n");
        assert_eq!(wire.text_answer(line), answer, "{line}");
    }
    assert_eq!(wire.text("status"), ".\n");
}

pub(crate) trait TextAnswer {
    fn text_answer(&mut self, line: &str) -> String;
}

impl TextAnswer for Wire {
    /// The one line that answers `line`, and nothing after it.
    #[track_caller]
    fn text_answer(&mut self, line: &str) -> String {
        self.send_raw(format!("{line}\n").as_bytes());
        let answer = self.text_line();
        self.expect_nothing();
        answer
    }
}

#[test]
fn values_are_one_word_after_ok() {
    let server = server(&[]);
    let mut wire = connect(&server);
    assert_eq!(wire.text_answer("getpid"), format!("OK {}\n", server.pid()));
    let version = wire.text_answer("version");
    let value = version.strip_prefix("OK ").and_then(|rest| rest.strip_suffix('\n')).expect("OK and a newline");
    let numbers: Vec<&str> = value.split(['.', '+', '-']).collect();
    assert!(numbers.len() >= 3 && numbers[..3].iter().all(|number| number.parse::<u32>().is_ok()), "{value}");
    assert!(!value.contains(char::is_whitespace), "{value}");
    assert_eq!(wire.text_answer("version and more"), version);
    assert_eq!(wire.text_answer("verbose"), "OK ERROR\n");
}

#[test]
fn the_level_of_the_log_has_the_name_that_it_was_set_by() {
    for level in ["FATAL", "ALERT", "CRITICAL", "ERROR", "WARNING", "NOTICE", "INFO", "DEBUG"] {
        let server = server(&["--verbose", level]);
        assert_eq!(connect(&server).text_answer("verbose"), format!("OK {level}\n"));
    }
}

/// A server with two workers, one of which runs one of four jobs.
pub(crate) fn busy() -> (Server, Vec<Wire>) {
    let server = server(&[]);
    let mut first = worker(&server, &["reverse", "sort"]);
    first.send(packet::SET_CLIENT_ID, b"first");
    let second = worker(&server, &["sort"]);
    let mut client = connect(&server);
    submit(&mut client, packet::SUBMIT_JOB, b"sort\0unique 1\0", "H:t:1");
    first.send(packet::GRAB_JOB, b"");
    first.expect_type(packet::JOB_ASSIGN);
    submit(&mut client, packet::SUBMIT_JOB_HIGH, b"sort\0\0", "H:t:2");
    submit(&mut client, packet::SUBMIT_JOB_LOW_BG, b"sort\0unique 2\0", "H:t:3");
    submit(&mut client, packet::SUBMIT_JOB_EPOCH, b"later\0unique 3\x004000000000\0", "H:t:4");
    (server, vec![first, second, client])
}

#[test]
fn listings_of_a_busy_server() {
    let (_server, mut connections) = busy();
    let client = connections.last_mut().expect("the client");
    assert_eq!(client.text("status"), "later\t1\t0\t0\nreverse\t0\t0\t1\nsort\t3\t1\t2\n.\n");
    assert_eq!(client.text("prioritystatus"), "later\t0\t1\t0\t0\nreverse\t0\t0\t0\t1\nsort\t1\t0\t1\t2\n.\n");
    assert_eq!(client.text_answer("priority job H:t:4 high"), "OK\r\n");
    assert_eq!(client.text("status"), "later\t1\t0\t0\nreverse\t0\t0\t1\nsort\t3\t1\t2\n.\n");
    assert_eq!(client.text("prioritystatus"), "later\t1\t0\t0\t0\nreverse\t0\t0\t0\t1\nsort\t1\t0\t1\t2\n.\n");
    assert_eq!(
        sorted(&client.text("show jobs")),
        "H:t:1\t0\t0\t0\nH:t:2\t0\t0\t0\nH:t:3\t0\t0\t1\nH:t:4\t0\t0\t1\n.\n"
    );
    assert_eq!(sorted(&client.text("show unique jobs")), "\nunique 1\nunique 2\nunique 3\n.\n");
    let workers = client.text("workers");
    let lines: Vec<&str> = workers.lines().collect();
    let [first, second, client_line, "."] = lines[..] else {
        panic!("{workers}");
    };
    for (line, rest) in
        [(first, " 127.0.0.1 first : sort reverse"), (second, " 127.0.0.1 - : sort"), (client_line, " 127.0.0.1 - :")]
    {
        let file_descriptor = line.strip_suffix(rest).unwrap_or_else(|| panic!("{line:?} does not end with {rest:?}"));
        assert!(file_descriptor.parse::<u32>().is_ok(), "{line}");
    }
}

/// A listing with its lines in order, the dot last.
fn sorted(listing: &str) -> String {
    let mut lines: Vec<&str> = listing.strip_suffix(".\n").expect("a dot at the end").lines().collect();
    lines.sort_unstable();
    lines.into_iter().chain(["."]).fold(String::new(), |all, line| all + line + "\n")
}

#[test]
fn listings_of_nothing() {
    let server = server(&[]);
    let mut wire = connect(&server);
    for command in ["status", "prioritystatus", "show jobs", "show unique jobs"] {
        assert_eq!(wire.text(command), ".\n", "{command}");
    }
}

const IN_USE: &str = "ERR there are still connected workers or executing clients\r\n";

#[test]
fn a_function_stays_listed_until_it_is_dropped() {
    let server = server(&[]);
    let mut wire = connect(&server);
    assert_eq!(wire.text_answer("create function f"), "OK\r\n");
    assert_eq!(wire.text_answer("create function f"), "OK\r\n");
    assert_eq!(wire.text("status"), "f\t0\t0\t0\n.\n");
    let mut worker = worker(&server, &["f"]);
    assert_eq!(wire.text("status"), "f\t0\t0\t1\n.\n");
    assert_eq!(wire.text_answer("drop function f"), IN_USE);
    submit(&mut wire, packet::SUBMIT_JOB_BG, b"f\0\0", "H:t:1");
    worker.send(packet::GRAB_JOB, b"");
    worker.expect_type(packet::JOB_ASSIGN);
    worker.send(packet::RESET_ABILITIES, b"");
    worker.expect_nothing();
    assert_eq!(wire.text("status"), "f\t1\t0\t0\n.\n");
    let purge = "ERR there are still queued jobs, which this command removes: cancel jobs f\r\n";
    assert_eq!(wire.text_answer("drop function f"), purge);
    assert_eq!(wire.text_answer("cancel jobs f"), "OK 1\r\n");
    assert_eq!(wire.text("status"), "f\t0\t0\t0\n.\n");
    assert_eq!(wire.text_answer("drop function F"), "ERR function not found\r\n");
    assert_eq!(wire.text_answer("drop function f"), "OK\r\n");
    assert_eq!(wire.text("status"), ".\n");
    assert_eq!(wire.text_answer("drop function f"), "ERR function not found\r\n");
}

#[test]
fn a_function_has_a_name_of_at_most_512_bytes_and_there_are_only_so_many() {
    let server = server(&["--max-functions", "2"]);
    let mut wire = connect(&server);
    let long = "f".repeat(512);
    assert_eq!(wire.text_answer(&format!("create function {long}")), "OK\r\n");
    for command in ["create function", "maxqueue"] {
        let answer = wire.text_answer(&format!("{command} {long}f"));
        assert_eq!(answer, "ERR ARGUMENT_TOO_LARGE Function+name+too+large\r\n");
    }
    submit(&mut wire, packet::SUBMIT_JOB_BG, format!("{long}\0\0").as_bytes(), "H:t:1");
    submit(&mut wire, packet::SUBMIT_JOB_BG, b"g\0\0", "H:t:2");
    for command in ["create function h", "maxqueue h 3"] {
        let answer = wire.text_answer(command);
        assert_eq!(answer, "ERR TOO_MANY_FUNCTIONS Too+many+functions+on+this+server+(max-functions)\r\n");
    }
    assert_eq!(wire.text_answer("cancel job H:t:2"), "OK\r\n");
    assert_eq!(wire.text_answer("create function h"), "OK\r\n", "one that is not used makes room");
    assert_eq!(wire.text("status"), format!("{long}\t1\t0\t0\nh\t0\t0\t0\n.\n"));
}

#[test]
fn maxqueue_takes_numbers_and_a_cancelled_job_fails() {
    let server = server(&[]);
    let mut wire = connect(&server);
    for arguments in ["f", "f ", "f 1", "f 1 2", "f 1 2 3", "f -1", "f +1", "f 99999999999999999999"] {
        assert_eq!(wire.text_answer(&format!("maxqueue {arguments}")), "OK\r\n");
    }
    let wanted =
        "ERR INVALID_ARGUMENTS A+limit+is+a+number+of+jobs,+0+for+none:+maxqueue+NAME+[HIGH+[NORMAL+[LOW]]]\r\n";
    for arguments in ["a b 5", "x abc", "f 1.5", "f 1 2 x", "f 1 ", "f 0x5", "f -", "f 1k"] {
        assert_eq!(wire.text_answer(&format!("maxqueue {arguments}")), wanted, "{arguments}");
    }
    assert!(!wire.text("show functions").contains("\na\t"), "what was refused made nothing known");
    let mut client = connect(&server);
    submit(&mut client, packet::SUBMIT_JOB, b"f\0\0", "H:t:1");
    assert_eq!(wire.text_answer("cancel job H:t:1"), "OK\r\n");
    client.expect(packet::WORK_FAIL, b"H:t:1");
    assert_eq!(wire.text_answer("cancel job H:t:1"), "ERR UNKNOWN_JOB\r\n");
}

#[test]
fn names_cannot_break_a_listing() {
    let server = server(&[]);
    let mut wire = worker(&server, &["tab\there", "new\nline", "a space", ""]);
    wire.send(packet::SET_CLIENT_ID, b"my id");
    let status = wire.text("status");
    assert_eq!(status, "\t0\t0\t1\na space\t0\t0\t1\nnew\\x0aline\t0\t0\t1\ntab\\x09here\t0\t0\t1\n.\n");
    let workers = wire.text("workers");
    assert!(workers.ends_with(" 127.0.0.1 my\\x20id :  a\\x20space new\\x0aline tab\\x09here\n.\n"), "{workers}");
    submit(&mut wire, packet::SUBMIT_JOB_BG, b"f\0line\n.\n\0", "H:t:1");
    assert_eq!(wire.text("show unique jobs"), "line\\x0a.\\x0a\n.\n");
}

#[test]
fn a_peer_on_ipv6_is_shown_by_its_address() {
    let server = server(&["-L", "::1"]);
    let address = server.addresses().iter().find(|address| address.starts_with("[::1]:")).expect("an address of IPv6");
    let mut wire = Wire::connect(address.parse().expect("an address"));
    let workers = wire.text("workers");
    assert!(workers.ends_with(" ::1 - :\n.\n"), "{workers}");
}

#[test]
fn shutdown_stops_the_server_where_it_is_allowed() {
    let mut server = server(&["--allow-shutdown"]);
    let mut wire = connect(&server);
    submit(&mut wire, packet::SUBMIT_JOB_BG, b"f\0\0", "H:t:1");
    let answer = wire.text_answer("shutdown now");
    assert_eq!(answer, "ERR INVALID_ARGUMENTS An+incomplete+set+of+arguments+was+sent+to+this+command+shutdown\r\n");
    wire.send_raw(b"shutdown\n");
    assert_eq!(wire.text_line(), "OK\r\n");
    wire.expect_end();
    assert!(server.wait().success());
}

#[test]
fn a_graceful_shutdown_lets_the_jobs_end() {
    let mut server = server(&["--allow-shutdown"]);
    let mut worker = worker(&server, &["f"]);
    let mut client = connect(&server);
    submit(&mut client, packet::SUBMIT_JOB, b"f\0\0", "H:t:1");
    worker.send(packet::GRAB_JOB, b"");
    worker.expect_type(packet::JOB_ASSIGN);
    let mut operator = connect(&server);
    assert_eq!(operator.text_answer("Shutdown Graceful"), "OK\r\n");
    wait_for("the server to take no connections", || {
        std::net::TcpStream::connect(server.addr()).is_err().then_some(())
    });
    client.send(packet::SUBMIT_JOB, b"f\0\0");
    client.expect_error("SHUTDOWN_GRACEFUL");
    worker.send(packet::WORK_COMPLETE, b"H:t:1\0done");
    client.expect(packet::WORK_COMPLETE, b"H:t:1\0done");
    client.expect_end();
    assert!(server.wait().success());
}
