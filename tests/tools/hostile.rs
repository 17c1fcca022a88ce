//! The tools against servers that are dead, hostile or mad: each says what happened, within its time and its
//! memory, and runs nothing for them.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

use crate::common::{Program, packet, wait_for};
use crate::run;

/// The most memory that a tool may map, in KiB: more than the longest answer that it keeps.
const MEMORY_KIB: u32 = 2 << 20;

/// A server that does this on each connection. It ends with the test's process.
fn fake(serve: impl Fn(TcpStream) + Send + Sync + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let serve = Arc::new(serve);
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let serve = Arc::clone(&serve);
            std::thread::spawn(move || serve(stream));
        }
    });
    address
}

/// A packet of a server.
fn answer(packet_type: u32, arguments: &[&[u8]]) -> Vec<u8> {
    let body = packet::body(arguments);
    [b"\0RES", &packet_type.to_be_bytes()[..], &u32::try_from(body.len()).unwrap().to_be_bytes(), &body].concat()
}

/// Takes connections and says nothing.
fn silent() -> SocketAddr {
    fake(|mut stream| {
        let _ = std::io::copy(&mut stream, &mut std::io::sink());
    })
}

/// Answers the first job as submitted, and then says something else without end.
fn takes_a_job_and_floods(created: Vec<u8>, then: &[u8]) -> SocketAddr {
    let then = then.repeat((1 << 16) / then.len() + 1);
    fake(move |mut stream| {
        let (mut asked, mut some) = (Vec::new(), [0; 4096]);
        // What comes before the submission may be answered later.
        while !asked.windows(8).any(|packet| packet == b"\0REQ\0\0\0\x07") {
            match stream.read(&mut some) {
                Ok(count @ 1..) => asked.extend_from_slice(&some[..count]),
                _ => return,
            }
        }
        if stream.write_all(&created).is_ok() {
            while stream.write_all(&then).is_ok() {}
        }
    })
}

/// Says something as soon as it is asked, and then something else without end.
fn endless(first: Vec<u8>, then: &[u8]) -> SocketAddr {
    let then = then.repeat((1 << 16) / then.len() + 1);
    fake(move |mut stream| {
        let mut asked = [0; 4096];
        if stream.read(&mut asked).is_ok_and(|count| count > 0) && stream.write_all(&first).is_ok() {
            while stream.write_all(&then).is_ok() {}
        }
    })
}

/// Answers each line with this, as often as one asks.
fn to_each_line(said: &'static [u8]) -> SocketAddr {
    fake(move |mut stream| {
        let mut byte = [0];
        while stream.read(&mut byte).is_ok_and(|count| count > 0) {
            if byte == *b"\n" && stream.write_all(said).is_err() {
                return;
            }
        }
    })
}

/// A shell's command line in which `"$@"` is a tool that talks to this server.
fn in_shell(script: &str, server: SocketAddr, arguments: &[&str]) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", script, "sh", env!("CARGO_BIN_EXE_gearmand")]).args(arguments);
    command.env_remove("GEARMAN_SERVER").env("GEARMAN_SERVERS", server.to_string());
    command.env_remove("FLEET_NAME").env_remove("FLEET_HOST");
    command
}

/// Runs a tool, with bounded memory, that must end with this status; its output and its errors.
#[track_caller]
fn ends(server: SocketAddr, arguments: &[&str], status: i32) -> (String, String) {
    let script = format!("ulimit -v {MEMORY_KIB} && exec \"$@\"");
    let output = run(&mut in_shell(&script, server, arguments), b"");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    let (stdout, stderr) = (text(output.stdout), text(output.stderr));
    assert_eq!(output.status.code(), Some(status), "{arguments:?}\n{stdout}\n{stderr}");
    (stdout, stderr)
}

/// Starts a tool, what it says to people being its standard output.
fn heard(server: SocketAddr, arguments: &[&str]) -> Program {
    Program::start(&mut in_shell("exec \"$@\" 2>&1", server, arguments))
}

/// Waits until a program says something.
#[track_caller]
fn says(program: &Program, what: &str) -> String {
    wait_for(what, || program.line().filter(|line| line.contains(what)))
}

/// Runs a tool on a terminal of so many columns; what the terminal is sent.
fn on_terminal(columns: usize, server: SocketAddr, arguments: &[&str]) -> Vec<u8> {
    let words: Vec<String> = arguments.iter().map(|word| format!("'{word}'")).collect();
    let script =
        format!("stty rows 24 cols {columns} && exec '{}' {}", env!("CARGO_BIN_EXE_gearmand"), words.join(" "));
    let mut command = Command::new("script");
    command.args(["--quiet", "--return", "--command", &script, "/dev/null"]);
    command.env_remove("GEARMAN_SERVER").env("GEARMAN_SERVERS", server.to_string()).env("SHELL", "/bin/sh");
    let output = run(&mut command, b"");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    output.stdout
}

#[test]
fn a_silent_server_is_given_up() {
    let server = silent();
    for (arguments, why) in [
        (&["admin", "--timeout", "0.3", "status"][..], "no answer from"),
        (&["admin", "--timeout", "0.3", "list-jobs"], "no answer from"),
        (&["admin", "--timeout", "0.3", "cancel-job", "H:x:1"], "no answer from"),
        (&["top", "--once", "--timeout", "0.3"], "no answer within"),
        (&["submit", "--server-timeout", "0.4", "--reconnect", "0.1", "-f", "f", "x"], "the server is silent"),
        (&["fleet", "status"], "no answer"),
    ] {
        let (stdout, stderr) = ends(server, arguments, 3);
        assert!(stdout.is_empty() && stderr.contains(why), "{arguments:?}: {stdout}{stderr}");
    }
    let worker = heard(server, &["work", "--server-timeout", "0.4", "-f", "f", "--", "cat"]);
    says(&worker, "the server is silent");
    let worker = heard(server, &["work", "--managed", "--server-timeout", "0.4", "-f", "f=cat"]);
    says(&worker, "the server is silent");
}

#[test]
fn a_monitor_says_when_it_found_no_server() {
    let directory = TempDir::new().unwrap();
    let file = directory.path().join("fleet.toml");
    std::fs::write(&file, "answer_timeout = \"500ms\"\n").unwrap();
    let monitor = heard(silent(), &["fleet", "--connect-timeout", "0.5", "run", file.to_str().unwrap()]);
    let line = says(&monitor, "no answer within");
    let form: String = line.chars().map(|letter| if letter.is_ascii_digit() { '0' } else { letter }).collect();
    assert!(form.starts_with("0000-00-00 00:00:00 gearmand fleet: 000.0.0.0:"), "{line}");
}

#[test]
fn a_server_that_answers_late_is_not_given_up() {
    // It answers questions whether it is there, and takes its time for the job. Each of those answers is due
    // within half of the timeout.
    let server = fake(|mut stream| {
        let mut echoes = 0;
        loop {
            let mut header = [0; 12];
            if stream.read_exact(&mut header).is_err() {
                return;
            }
            let size = u32::from_be_bytes(header[8..].try_into().unwrap());
            let mut body = vec![0; size as usize];
            stream.read_exact(&mut body).unwrap();
            let said = match u32::from_be_bytes(header[4..8].try_into().unwrap()) {
                packet::ECHO_REQ if echoes == 3 => answer(packet::WORK_COMPLETE, &[b"H:1", b"late"]),
                packet::ECHO_REQ => {
                    echoes += 1;
                    answer(packet::ECHO_RES, &[&body])
                }
                packet::SUBMIT_JOB => answer(packet::JOB_CREATED, &[b"H:1"]),
                _ => answer(packet::OPTION_RES, &[&body]),
            };
            stream.write_all(&said).unwrap();
        }
    });
    let (stdout, stderr) = ends(server, &["submit", "--server-timeout", "3", "-f", "f", "x"], 0);
    assert_eq!((stdout.as_str(), stderr.as_str()), ("late", ""));
}

#[test]
fn an_endless_listing_is_given_up() {
    let line = |cells: &str| format!("{}{cells}\n", "x".repeat(60_000)).into_bytes();
    for (arguments, first, then) in [
        (&["admin", "status"][..], &b""[..], line("\t0\t0\t0")),
        (&["admin", "--json", "show-unique-jobs"], b"", line("")),
        (&["admin", "show-functions"], b"# name high\n", line("\t1")),
        (&["admin", "show-server"], b"", line("\tx")),
        (&["admin", "raw", "workers"], b"", line("")),
        (&["top", "--once", "--timeout", "20"], b"", line("\tx")),
        (&["fleet", "status"], b"", line("\t0\t0\t0")),
    ] {
        let (stdout, stderr) = ends(endless(first.to_vec(), &then), arguments, 3);
        assert!(stdout.is_empty() && stderr.contains("listing is too large"), "{arguments:?}: {stderr}");
    }
    // Lines without letters, and a line without an end.
    let (_, stderr) = ends(endless(b"# a b c d e f\n".to_vec(), b"\n"), &["admin", "show-workers"], 3);
    assert!(stderr.contains("listing is too large"), "{stderr}");
    let (_, stderr) = ends(endless(Vec::new(), b"x"), &["admin", "workers"], 3);
    assert!(stderr.contains("line exceeds"), "{stderr}");
    // Page after page without a job.
    let pages = to_each_line(b"# handle function\n# next 7\n.\n");
    let (_, stderr) = ends(pages, &["admin", "--timeout", "0.5", "list-jobs"], 3);
    assert!(stderr.contains("no job from") && stderr.contains("--timeout"), "{stderr}");
}

#[test]
fn a_flood_of_errors_is_a_few_lines() {
    let error = answer(packet::ERROR, &[b"NO\nNO", b"\x1b[2Jno\xe2\x80\xae"]);
    let created = [answer(packet::OPTION_RES, &[b"exceptions"]), answer(packet::JOB_CREATED, &[b"H:1"])].concat();
    let flood = takes_a_job_and_floods(created, &error);
    let (_, stderr) = ends(flood, &["submit", "--timeout", "1.5", "-f", "f", "x"], 3);
    let lines = stderr.lines().count();
    assert!((5..20).contains(&lines), "{lines} lines");
    assert!(stderr.contains(r"server error NO\x0aNO: \x1b[2Jno\xe2\x80\xae"), "{stderr}");
    // A worker goes on; it says no more than that in the same time.
    for arguments in [&["work", "-f", "f", "--", "cat"][..], &["work", "--managed", "-f", "f=cat"]] {
        let worker = heard(endless(Vec::new(), &error), arguments);
        says(&worker, "further messages about the server suppressed");
        let begin = Instant::now();
        while begin.elapsed() < Duration::from_millis(500) {
            std::thread::yield_now();
        }
        drop(worker);
    }
}

#[test]
fn a_server_that_closes_each_connection_is_given_up() {
    let server = fake(drop);
    let begin = Instant::now();
    let arguments = ["submit", "-u", "once", "--reconnect", "1", "-f", "f", "x"];
    let (_, stderr) = ends(server, &arguments, 3);
    assert!(begin.elapsed() < Duration::from_secs(10) && stderr.lines().count() < 40, "{stderr}");
}

/// Answers each GRAB_JOB with a job of this function.
fn assigns(function: &'static str) -> SocketAddr {
    fake(move |mut stream| {
        let mut header = [0; 12];
        while stream.read_exact(&mut header).is_ok() {
            let mut body = vec![0; u32::from_be_bytes(header[8..].try_into().unwrap()) as usize];
            stream.read_exact(&mut body).unwrap();
            if u32::from_be_bytes(header[4..8].try_into().unwrap()) == packet::GRAB_JOB_ALL {
                let job = answer(packet::JOB_ASSIGN, &[b"H:1", function.as_bytes(), b"x"]);
                if stream.write_all(&job).is_err() {
                    return;
                }
            }
        }
    })
}

#[test]
fn a_command_runs_for_no_function_but_its_own() {
    let directory = TempDir::new().unwrap();
    let mark = directory.path().join("mark");
    let touch = |path: &Path| path.to_str().unwrap().to_owned();
    let worker = heard(assigns("other"), &["work", "-f", "mine", "--", "touch", &touch(&mark)]);
    says(&worker, "a job of other, which is not registered there; it was not run");
    // One that it could do, and that the monitor has not told it to do; its own id, which it has not been
    // given.
    let script = format!("mine=touch '{}'", touch(&mark));
    for function in ["mine", "manage_x", "setId\n"] {
        let worker = heard(assigns(function), &["work", "--managed", "-f", &script]);
        says(&worker, "which is not registered there; it was not run");
    }
    assert!(!mark.exists());
}

/// What a terminal obeys, or what deceives whoever reads on it.
fn is_harmful(text: &str) -> bool {
    let is = |letter: char| matches!(letter, '\u{0}'..='\u{8}' | '\u{b}'..='\u{1f}' | '\u{7f}'..='\u{9f}' | '\u{200e}' | '\u{202a}'..='\u{202e}' | '\u{2028}' | '\u{2066}'..='\u{2069}');
    text.replace("\r\n", "\n").chars().any(is)
}

#[test]
fn names_command_no_terminal() {
    const NAME: &str = "a\u{1b}[31m\u{9b}2J\u{202e}\u{2066}\u{2028}\u{7f}\u{e9}";
    const LISTING: &[u8] = "a\u{1b}[31m\u{9b}2J\u{202e}\u{2066}\u{2028}\u{7f}\u{e9}\t1\t0\t0\n.\n".as_bytes();
    let server = to_each_line(LISTING);
    for arguments in
        [&["admin", "status"][..], &["admin", "show-functions"], &["admin", "show-server"], &["top", "--once"]]
    {
        let (stdout, _) = ends(server, arguments, 0);
        assert!(
            !is_harmful(&stdout) && stdout.contains("[31m") && stdout.contains('\u{e9}'),
            "{arguments:?}: {stdout}"
        );
    }
    let (stdout, _) = ends(server, &["admin", "--json", "status"], 0);
    assert!(!is_harmful(&stdout), "{stdout}");
    let document: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(document[0]["function"], NAME);
    // As they are on the wire, but not for a terminal.
    for arguments in [&["admin", "--raw", "status"][..], &["admin", "raw", "status"]] {
        assert_eq!(ends(server, arguments, 0).0.as_bytes(), LISTING);
        let shown = String::from_utf8(on_terminal(80, server, arguments)).unwrap();
        assert!(!is_harmful(&shown) && shown.contains("[31m"), "{shown:?}");
    }
}

#[test]
fn tables_are_cut_to_the_terminal_and_whole_in_a_pipe() {
    const LISTING: &[u8] =
        "a-function-with-a-name-that-is-longer-than-the-terminal-is-wide\t1\t0\t0\n\u{6f22}\u{5b57}\t12345\t0\t7\n.\n"
            .as_bytes();
    let server = to_each_line(LISTING);
    let shown = String::from_utf8(on_terminal(50, server, &["admin", "status"])).unwrap();
    let lines: Vec<&str> = shown.lines().collect();
    assert_eq!(lines[0].trim_end(), "FUNCTION                   TOTAL  RUNNING  WORKERS", "{shown}");
    assert!(lines[1].contains("~      1        0        0") && lines[2].contains("12345        0        7"), "{shown}");
    let (whole, _) = ends(server, &["admin", "status"], 0);
    assert!(whole.contains("that-is-longer-than-the-terminal-is-wide"), "{whole}");
}
