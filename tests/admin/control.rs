//! The commands that change something and that gearmand does not know. What they do to workers is in
//! `tests/control.rs`.

use nix::sys::signal::Signal;

use crate::answers::TextAnswer;
use crate::common::{Wire, packet, wait_for};
use crate::{connect, server, submit, worker};

/// Lines that are no good, and what is said to them.
const ERRORS: &[(&str, &str)] = &[
    ("disable worker:1", "ERR INVALID_ARGUMENTS Workers+are+connection:ID,+client:ID+or+host:ADDRESS\r\n"),
    ("drain host:", "ERR INVALID_ARGUMENTS Workers+are+connection:ID,+client:ID+or+host:ADDRESS\r\n"),
    (
        "kick connection:1",
        "ERR INVALID_ARGUMENTS A+connection+id+is+two+numbers+with+a+hyphen,+as+listed+by+show+workers\r\n",
    ),
    ("limit running f x", "ERR INVALID_ARGUMENTS A+limit+is+a+number+of+jobs,+0+for+none\r\n"),
    ("priority job H:t:1 urgent", "ERR INVALID_ARGUMENTS A+priority+is+high,+normal+or+low\r\n"),
    (
        "list jobs colour=red",
        "ERR INVALID_ARGUMENTS \
         Filters+are+function=+state=+unique=+priority=+client=+waiting=+older=+limit=+after=\r\n",
    ),
    ("list jobs state=storing", "ERR INVALID_ARGUMENTS The+state+of+a+job+is+scheduled,+queued+or+running\r\n"),
    ("list jobs older=x", "ERR INVALID_ARGUMENTS An+age+is+a+number+of+seconds,+or+has+the+unit+ms,+s,+m,+h+or+d\r\n"),
    ("list jobs limit=x", "ERR INVALID_ARGUMENTS limit=+and+after=+are+numbers\r\n"),
    ("list jobs limit=1 limit=1", "ERR INVALID_ARGUMENTS Each+filter+can+be+given+once\r\n"),
    ("resume unknown", "ERR NO_SUCH_FUNCTION There+is+no+such+function\r\n"),
    ("cancel jobs unknown", "ERR NO_SUCH_FUNCTION There+is+no+such+function\r\n"),
    ("cancel jobs ", "ERR UNKNOWN_ERROR\r\n"),
    ("cancel jobs", "ERR UNKNOWN_COMMAND Unknown+server+commandcancel\r\n"),
    ("move job H:t:9 f", "ERR NO_SUCH_JOB There+is+no+such+job\r\n"),
    ("priority job nonsense low", "ERR NO_SUCH_JOB There+is+no+such+job\r\n"),
    ("run job H:t:9", "ERR NO_SUCH_JOB There+is+no+such+job\r\n"),
    ("show job H:t:9", "ERR NO_SUCH_JOB There+is+no+such+job\r\n"),
    ("show worker 7-7", "ERR NO_SUCH_WORKER There+is+no+such+worker\r\n"),
    ("disable connection:7-7", "ERR NO_SUCH_WORKER There+is+no+such+worker\r\n"),
    ("enable client:nobody", "ERR NO_SUCH_RULE There+is+no+such+rule\r\n"),
    ("enable connection:7-7", "ERR NO_SUCH_WORKER There+is+no+such+worker\r\n"),
    ("pause a\0b", "ERR BAD_NAME The+name+contains+a+NUL+byte\r\n"),
    ("kick client:nobody", "ERR NO_SUCH_WORKER There+is+no+such+worker\r\n"),
    ("kick connection:7-7", "ERR NO_SUCH_WORKER There+is+no+such+worker\r\n"),
];

/// Commands that lack an argument, or have one too many; the answer repeats the first word as it was typed.
const INCOMPLETE: &[&str] = &[
    "pause",
    "Pause f g",
    "resume ",
    "limit running f",
    "limit f 1",
    "move job H:t:1",
    "move f g",
    "priority job H:t:1",
    "run H:t:1",
    "disable",
    "drain host:h f g",
    "enable",
    "kick host:h f",
    "list",
    "list workers",
];

#[test]
fn what_is_no_good_is_said() {
    let server = server(&[]);
    let mut wire = connect(&server);
    for (line, answer) in ERRORS {
        assert_eq!(wire.text_answer(line), *answer, "{line}");
    }
    for line in INCOMPLETE {
        let word = line.split(' ').next().unwrap_or_default();
        let answer =
            format!("ERR INVALID_ARGUMENTS An+incomplete+set+of+arguments+was+sent+to+this+command+{word}\r\n");
        assert_eq!(wire.text_answer(line), answer, "{line}");
    }
    assert_eq!(wire.text("status"), ".\n", "nothing of that made a function known");
}

/// Commands that are obeyed, in this order, by a server with the jobs H:t:1 of `f` and, scheduled, H:t:2 of
/// `g`.
const OBEYED: &[(&str, &str)] = &[
    ("pause f", "OK"),
    ("pause new", "OK 0"),
    ("RESUME f", "OK"),
    ("limit running f 1", "OK"),
    ("limit running f 0", "OK"),
    ("move job H:t:1 g", "OK"),
    ("move JOBS g f", "OK 2"),
    ("move jobs g f", "OK 0"),
    ("priority job H:t:1 high", "OK"),
    ("priority job H:t:2 LOW", "OK"),
    ("run job H:t:2", "OK"),
    ("disable client:nobody", "OK 0"),
    ("drain client:nobody f", "OK 0"),
    ("enable client:nobody", "OK 0"),
    ("disable host:::FFFF:127.0.0.1 f", "OK 1"),
    ("enable host:127.0.0.1 f", "OK 1"),
    ("disable host:192.0.2.1 f", "OK 0"),
    ("enable host:192.0.2.1 f", "OK 0"),
    ("cancel jobs f", "OK 2"),
    ("kick host:127.0.0.1", "OK 1"),
];

#[test]
fn what_is_done_is_answered_with_ok() {
    let server = server(&[]);
    let mut wire = connect(&server);
    submit(&mut wire, packet::SUBMIT_JOB_BG, b"f\0\0", "H:t:1");
    submit(&mut wire, packet::SUBMIT_JOB_EPOCH, b"g\0\x004000000000\0", "H:t:2");
    let _worker = worker(&server, &["f"]);
    for (line, answer) in OBEYED {
        assert_eq!(wire.text_answer(line), format!("{answer}\r\n"), "{line}");
    }
    assert_eq!(wire.text("status"), "f\t0\t0\t0\ng\t0\t0\t0\n.\n");
}

#[test]
fn names_are_typed_as_they_are_shown() {
    let server = server(&[]);
    let mut wire = worker(&server, &["a space", "tab\there", "new\nline", "back\\slash", "\\x41"]);
    wire.send(packet::SET_CLIENT_ID, b"my id");
    for function in ["a\\x20space", "tab\\x09here", "new\\x0aline", "back\\slash", "\\x5cx41"] {
        assert_eq!(wire.text_answer(&format!("pause {function}")), "OK\r\n");
    }
    let functions = wire.text("show functions");
    assert_eq!(functions.lines().count(), 7, "none is new: {functions}");
    assert_eq!(wire.text_answer("disable client:my\\x20id a\\x20space"), "OK 1\r\n");
    assert_eq!(wire.text("show rules"), "# who\tfunction\tmode\tworkers\nclient:my\\x20id\ta space\tdisabled\t1\n.\n");
}

/// Names of PHP classes and of Windows accounts: what is shown means what it is shown of, in C++ gearmand's
/// listings too.
#[test]
fn a_name_that_looks_like_an_escape_is_the_one_that_exists() {
    let (class, account) = (r"Shop\Export\xAdapter", r"CORP\xadams");
    let server = server(&[]);
    let mut wire = worker(&server, &[class]);
    wire.send(packet::SET_CLIENT_ID, account.as_bytes());
    assert_eq!(wire.text("status"), format!("{class}\t0\t0\t1\n.\n"));
    let column = |wire: &mut Wire, command: &str, index: usize| {
        let lines = wire.text(command);
        lines.lines().nth(1).and_then(|line| line.split('\t').nth(index)).expect("a cell").to_owned()
    };
    let (function, client) = (column(&mut wire, "show functions", 0), column(&mut wire, "show workers", 2));
    assert_eq!([&function, &client], [r"Shop\Export\x5cxAdapter", r"CORP\x5cxadams"]);
    for (function, client) in [(class, account), (&*function, &*client)] {
        for (command, answer) in [
            (format!("pause {function}"), "OK"),
            (format!("limit running {function} 1"), "OK"),
            (format!("disable client:{client} {function}"), "OK 1"),
            (format!("enable client:{client} {function}"), "OK 1"),
            (format!("resume {function}"), "OK"),
            (format!("maxqueue {function} 1"), "OK"),
            (format!("cancel jobs {function}"), "OK 0"),
        ] {
            assert_eq!(wire.text_answer(&command), format!("{answer}\r\n"), "{command}");
        }
    }
    // A name that comes of reading alone is nobody's, and is not made.
    let missing =
        "ERR NO_SUCH_FUNCTION There+is+no+such+function,+neither+as+typed+nor+with+\\xNN+decoded+as+a+byte\r\n";
    for command in
        [r"pause App\xadd", r"limit running App\xadd 1", r"disable client:a App\xadd", r"move jobs f App\xadd"]
    {
        assert_eq!(wire.text_answer(command), missing, "{command}");
    }
    assert!(wire.text_answer(r"drain client:CORP\xade").starts_with("ERR NO_SUCH_WORKER "));
    assert_eq!(wire.text("show functions").lines().count(), 3);
    // Where both exist, what is shown of each means that one, and no other word does.
    wire.send(packet::CAN_DO, b"Shop\\Export\xadapter");
    assert_eq!(wire.text_answer(&format!("pause {function}")), "OK\r\n");
    let paused = wire.text("show functions");
    let paused: Vec<_> = paused.lines().filter(|line| line.split('\t').nth(9) == Some("1")).collect();
    assert!(matches!(paused[..], [line] if line.starts_with(&format!("{function}\t"))), "{paused:?}");
    for name in ["Abc", r"\x41bc"] {
        wire.send(packet::CAN_DO, name.as_bytes());
    }
    wire.expect_nothing();
    let ambiguous = "ERR AMBIGUOUS_NAME Ambiguous+name:+\\x5cx41bc+with+the+backslash+and+Abc+both+exist\r\n";
    for command in [
        r"pause \x41bc",
        r"limit running \x41bc 1",
        r"cancel jobs \x41bc",
        r"move jobs \x41bc f",
        r"list jobs function=\x41bc",
        r"disable client:a \x41bc",
    ] {
        assert_eq!(wire.text_answer(command), ambiguous, "{command}");
    }
    for (word, shown) in [("Abc", "Abc"), (r"\x5cx41bc", r"\x5cx41bc")] {
        assert_eq!(wire.text_answer(&format!("pause {word}")), "OK\r\n");
        let functions = wire.text("show functions");
        let row = functions.lines().find(|line| line.starts_with(&format!("{shown}\t"))).expect("a row");
        assert_eq!(row.split('\t').nth(9), Some("1"), "{functions}");
        assert_eq!(wire.text_answer(&format!("resume {word}")), "OK\r\n");
    }
}

/// A rule for a function that none of its workers offers concerns nobody.
#[test]
fn a_rule_counts_the_workers_that_offer_its_function() {
    let server = server(&[]);
    let mut wire = worker(&server, &["f"]);
    wire.send(packet::SET_CLIENT_ID, b"e");
    let _other = worker(&server, &["g"]);
    for (command, count) in [
        ("disable client:e typo", 0),
        ("drain client:e g", 0),
        ("drain host:127.0.0.1 g", 1),
        ("disable client:e f", 1),
        ("drain host:127.0.0.1", 2),
        ("enable client:e g", 0),
        ("enable client:e", 1),
        ("enable host:127.0.0.1 g", 1),
        ("enable host:127.0.0.1", 2),
    ] {
        assert_eq!(wire.text_answer(command), format!("OK {count}\r\n"), "{command}");
    }
}

/// What the log tells of an operator's word can be given again.
#[test]
fn the_log_writes_names_as_the_tables_do() {
    let server = server(&[]);
    let class = r"Shop\Export\xAdapter";
    let mut wire = worker(&server, &[class, "", "caf\u{e9}"]);
    wire.send(packet::SET_CLIENT_ID, "caf\u{e9} 1".as_bytes());
    for command in [
        r"pause Shop\Export\x5cxAdapter",
        r"pause \e",
        "limit running caf\u{e9} 3",
        "disable client:caf\u{e9}\\x201 caf\u{e9}",
        r"move jobs \e caf\xc3\xa9",
    ] {
        let answer = wire.text_answer(command);
        assert!(answer.starts_with("OK"), "{command}: {answer}");
        let line = format!("{}: done, ", command.replace(r"\xc3\xa9", "\u{e9}"));
        wait_for(&line, || server.log().contains(&line).then_some(()));
    }
}

/// Settings of what nobody uses: told as such, seen, and gone with the same command.
#[test]
fn a_setting_for_what_is_not_there_is_kept_and_told() {
    let server = server(&[]);
    let mut wire = connect(&server);
    for (line, answer) in [
        ("pause typo", "OK 0"),
        ("pause typo", "OK 0"),
        ("limit running typo 3", "OK 0"),
        ("maxqueue typo 3", "OK"),
        ("limit running other 0", "OK 0"),
        ("maxqueue other", "OK"),
        ("maxqueue other 0", "OK"),
        ("disable client:nobody typo", "OK 0"),
        ("drain host:192.0.2.1", "OK 0"),
    ] {
        assert_eq!(wire.text_answer(line), format!("{answer}\r\n"), "{line}");
    }
    assert_eq!(wire.text("status"), ".\n", "monitoring would wait for workers");
    assert_eq!(wire.text("prioritystatus"), ".\n");
    let shown = wire.text("show functions");
    let rows: Vec<_> = shown.lines().skip(1).filter(|line| *line != ".").collect();
    assert!(matches!(rows[..], [row] if row.starts_with("typo\t") && row.ends_with("\t1")), "{rows:?}");
    for line in ["resume typo", "limit running typo 0", "maxqueue typo"] {
        assert!(wire.text("show functions").contains("\ntypo\t"), "{line}");
        assert!(wire.text_answer(line).starts_with("OK"), "{line}");
    }
    assert_eq!(wire.text("show functions").lines().count(), 2);
    // It holds for what comes, and that is no longer there for its settings alone.
    assert_eq!(wire.text_answer("pause later"), "OK 0\r\n");
    let _worker = worker(&server, &["later"]);
    assert_eq!(wire.text("status"), "later\t0\t0\t1\n.\n");
    assert_eq!(wire.text_answer("pause later"), "OK\r\n");
    assert_eq!(wire.text_answer("resume later"), "OK\r\n");
    assert!(wire.text("show functions").contains("\nlater\t"));
}

#[test]
fn a_host_is_an_address_however_it_is_written() {
    let server = server(&[]);
    let mut wire = worker(&server, &["f"]);
    for host in ["localhost", "web1.example.com", "127.0.0.1:4730", "127.0.0.0/8", "*"] {
        for verb in ["disable", "drain", "enable", "kick"] {
            let answer = wire.text_answer(&format!("{verb} host:{host}"));
            assert!(answer.starts_with("ERR INVALID_ARGUMENTS A+host+is+an+IP+address"), "{verb} {host}: {answer}");
        }
    }
    for host in ["127.0.0.1", "::ffff:127.0.0.1", "[::ffff:7f00:1]", "[::ffff:127.0.0.1]"] {
        assert_eq!(wire.text_answer(&format!("disable host:{host}")), "OK 1\r\n", "{host}");
    }
    for host in ["::1", "[::1]", "0:0:0:0:0:0:0:1"] {
        assert_eq!(wire.text_answer(&format!("drain host:{host}")), "OK 0\r\n", "{host}");
    }
    let rules = "# who\tfunction\tmode\tworkers\nhost:127.0.0.1\t-\tdisabled\t1\nhost:::1\t-\tdraining\t0\n.\n";
    assert_eq!(wire.text("show rules"), rules);
    assert_eq!(wire.text_answer("enable host:[::1]"), "OK 0\r\n");
    assert_eq!(wire.text_answer("enable host:::ffff:127.0.0.1"), "OK 1\r\n");
}

#[test]
fn names_have_limits_and_so_has_their_number() {
    let server = server(&["--max-functions", "2"]);
    let mut wire = connect(&server);
    let long = "f".repeat(513);
    for command in [
        format!("pause {long}"),
        format!("limit running {long} 1"),
        format!("disable client:a {long}"),
        format!("drain client:{}", "c".repeat(128)),
    ] {
        assert_eq!(wire.text_answer(&command), "ERR NAME_TOO_LONG The+name+is+too+long\r\n", "{command}");
    }
    // Both are in use, since that is not to be forgotten.
    assert_eq!(wire.text_answer("pause f"), "OK 0\r\n");
    assert_eq!(wire.text_answer("limit running g 1"), "OK 0\r\n");
    assert_eq!(wire.text_answer("limit running h 0"), "OK 0\r\n", "there is none to take back");
    let set = "ERR TOO_MANY_SETTINGS Too+many+paused+or+limited+functions:+resume+one+or+remove+its+limits+first\r\n";
    for command in ["pause h", "limit running h 1", "maxqueue h 1"] {
        assert_eq!(wire.text_answer(command), set, "{command}");
    }
    for serial in 0..1000 {
        assert_eq!(wire.text_answer(&format!("disable client:{serial}")), "OK 0\r\n");
    }
    let full = "ERR TOO_MANY_RULES Too+many+worker+rules+(limit+1000,+and+10000+for+all+connections+together)\r\n";
    assert_eq!(wire.text_answer("disable host:192.0.2.1"), full);
    assert_eq!(wire.text_answer("drain client:7"), "OK 0\r\n", "it takes the place of another");
    assert_eq!(wire.text("show rules").lines().count(), 1002);
}

/// Everything that changes something.
const CHANGES: &[&str] = &[
    "cancel job H:t:1",
    "cancel jobs f",
    "create function g",
    "drop function f",
    "maxqueue f 1",
    "shutdown",
    "pause f",
    "resume f",
    "limit running f 1",
    "move job H:t:1 g",
    "move jobs f g",
    "priority job H:t:1 low",
    "run job H:t:1",
    "disable client:a",
    "drain client:a",
    "enable client:a",
    "kick host:127.0.0.1",
];

#[test]
fn a_read_only_server_is_changed_by_nobody_and_shows_everything() {
    let server = server(&["--admin-read-only", "--allow-shutdown"]);
    let mut wire = connect(&server);
    submit(&mut wire, packet::SUBMIT_JOB_BG, b"f\0\0", "H:t:1");
    for line in CHANGES {
        let answer = "ERR READ_ONLY Text+commands+are+read-only+on+this+server+(admin-read-only)\r\n";
        assert_eq!(wire.text_answer(line), answer, "{line}");
    }
    assert_eq!(wire.text("status"), "f\t1\t0\t0\n.\n");
    for line in ["workers", "show jobs", "show functions", "show workers", "show server", "show rules", "list jobs"] {
        assert!(wire.text(line).ends_with(".\n"), "{line}");
    }
    assert_eq!(wire.text_answer("nonsense"), "ERR UNKNOWN_COMMAND Unknown+server+commandnonsense\r\n");
}

#[test]
fn read_only_begins_and_ends_with_a_reload() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let file = directory.path().join("gearmand.toml");
    let write = |value: &str| std::fs::write(&file, format!("admin-read-only = {value}\n")).expect("write a file");
    write("true");
    let server = server(&["--config-file", file.to_str().expect("a path in UTF-8")]);
    let mut wire = connect(&server);
    assert!(wire.text_answer("pause f").starts_with("ERR READ_ONLY "));
    write("false");
    server.signal(Signal::SIGHUP);
    wait_for("the reload", || (wire.text_answer("pause f") == "OK 0\r\n").then_some(()));
    write("true");
    server.signal(Signal::SIGHUP);
    wait_for("the reload", || wire.text_answer("resume f").starts_with("ERR READ_ONLY ").then_some(()));
}
