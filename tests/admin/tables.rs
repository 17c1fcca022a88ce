//! Tables of functions, workers and jobs, and what is shown of a single one.
//!
//! In what is expected `|` stands for a tab, and `N` for a time or a rate.

use crate::answers::{TextAnswer, busy};
use crate::common::{Wire, packet};
use crate::{connect, server, submit, worker};

/// Columns and keys whose values depend on time.
const MEASURED: &[&str] = &[
    "oldest_s",
    "in_per_s",
    "out_per_s",
    "failed_per_s",
    "wait_mean_s",
    "wait_p50_s",
    "wait_p99_s",
    "run_mean_s",
    "run_p50_s",
    "run_p90_s",
    "run_p99_s",
    "connected_unix_ms",
    "heard_unix_ms",
    "since_unix_ms",
    "age_s",
    "submitted_unix_ms",
    "file_descriptor",
];

fn measured(name: &str, cell: &str) -> String {
    let is_number = cell.parse::<f64>().is_ok_and(|number| number >= 0.0);
    if MEASURED.contains(&name) && is_number { "N".to_owned() } else { cell.to_owned() }
}

/// A table without its column names, which are checked.
#[track_caller]
fn table(wire: &mut Wire, command: &str, names: &str) -> Vec<String> {
    let answer = wire.text(command);
    let mut lines = answer.strip_suffix(".\n").expect("a dot at the end").lines();
    assert_eq!(lines.next(), Some(&*format!("# {}", names.replace(' ', "\t"))), "{command}");
    let names: Vec<&str> = names.split(' ').collect();
    let shown = |line: &str| {
        if line.starts_with("# ") {
            return line.to_owned();
        }
        let cells: Vec<&str> = line.split('\t').collect();
        assert_eq!(cells.len(), names.len(), "{line}");
        names.iter().zip(cells).map(|(name, cell)| measured(name, cell)).collect::<Vec<_>>().join("|")
    };
    lines.map(shown).collect()
}

/// Pairs of a key and a value, with more values on some lines.
#[track_caller]
fn pairs(wire: &mut Wire, command: &str) -> Vec<String> {
    let answer = wire.text(command);
    let lines = answer.strip_suffix(".\n").unwrap_or_else(|| panic!("{command}: {answer}")).lines();
    lines
        .map(|line| {
            let (key, value) = line.split_once('\t').expect("a tab");
            format!("{key}|{}", measured(key, value).replace('\t', "|"))
        })
        .collect()
}

const FUNCTIONS: &str = "name high normal low scheduled running workers asleep working paused max_running \
    maxqueue_high maxqueue_normal maxqueue_low oldest_s submitted done failed exceptions timed_out requeued cancelled \
    in_per_s out_per_s failed_per_s wait_p50_s wait_p99_s run_mean_s run_p50_s run_p99_s \
    waiting woken disabled draining drained coalesced dropped abandoned wait_mean_s settings_only";
const WORKERS: &str = "id address client_id state connected_unix_ms heard_unix_ms functions running job \
    since_unix_ms done failed exceptions timed_out requeued run_mean_s run_p50_s run_p99_s";
const JOBS: &str =
    "handle unique function priority state age_s attempts background holder progress clients bytes due_unix_s";

#[test]
fn tables_of_nothing_have_column_names() {
    let server = server(&[]);
    let mut wire = connect(&server);
    for (command, names) in [
        ("show functions", FUNCTIONS),
        ("show workers", WORKERS),
        ("list jobs", JOBS),
        ("show rules", "who function mode workers"),
    ] {
        assert!(table(&mut wire, command, names).is_empty(), "{command}");
    }
}

#[test]
fn tables_of_a_busy_server() {
    let (_server, mut connections) = busy();
    let client = connections.last_mut().expect("the client");
    for command in ["pause reverse", "limit running sort 5", "maxqueue sort 30 20 10"] {
        assert_eq!(client.text_answer(command), "OK\r\n");
    }
    assert_eq!(
        table(client, "show functions", FUNCTIONS),
        [
            "later|0|0|0|1|0|0|0|0|0|0|0|0|0|-|1|0|0|0|0|0|0|N|N|N|-|-|-|-|-|0|0|0|0|0|0|0|0|-|0",
            "reverse|0|0|0|0|0|1|0|1|1|0|0|0|0|-|0|0|0|0|0|0|0|N|N|N|-|-|-|-|-|0|0|0|0|0|0|0|0|-|0",
            "sort|1|0|1|0|1|2|0|1|0|5|30|20|10|N|3|0|0|0|0|0|0|N|N|N|N|N|-|-|-|1|0|0|0|0|0|0|0|N|0",
        ]
    );
    assert_eq!(
        table(client, "show workers", WORKERS),
        [
            "0-1|127.0.0.1|first|working|N|N|sort,reverse|1|H:t:1|N|0|0|0|0|0|-|-|-",
            "1-2|127.0.0.1|-|waiting|N|N|sort|0|-|-|0|0|0|0|0|-|-|-",
        ]
    );
    let mut jobs = table(client, "list jobs", JOBS);
    jobs.sort();
    assert_eq!(
        jobs,
        [
            "H:t:1|unique 1|sort|normal|running|N|0|0|0-1|-|1|0|-",
            "H:t:2||sort|high|queued|N|0|0|-|-|1|0|-",
            "H:t:3|unique 2|sort|low|queued|N|0|1|-|-|0|0|-",
            "H:t:4|unique 3|later|normal|scheduled|N|0|1|-|-|0|0|4000000000",
        ]
    );
}

/// The handles of a list of jobs, and how the list ends.
#[track_caller]
fn handles(wire: &mut Wire, filters: &str) -> (Vec<String>, Option<String>) {
    let mut lines = table(wire, format!("list jobs {filters}").trim_end(), JOBS);
    let next = lines.pop_if(|line| line.starts_with("# next ")).map(|line| line["# next ".len()..].to_owned());
    let handle = |line: &String| line.split('|').next().expect("a handle").to_owned();
    let mut handles: Vec<_> = lines.iter().map(handle).collect();
    handles.sort();
    (handles, next)
}

#[test]
fn jobs_are_filtered() {
    let (_server, mut connections) = busy();
    let client = connections.last_mut().expect("the client");
    for (filters, expected) in [
        ("function=sort", &["H:t:1", "H:t:2", "H:t:3"][..]),
        ("function=unknown", &[]),
        ("state=queued", &["H:t:2", "H:t:3"]),
        ("state=SCHEDULED", &["H:t:4"]),
        ("state=running", &["H:t:1"]),
        ("function=sort state=queued", &["H:t:2", "H:t:3"]),
        ("priority=low", &["H:t:3"]),
        ("unique=unique\\x202", &["H:t:3"]),
        ("client=first", &["H:t:1"]),
        ("client=nobody", &[]),
        ("older=0", &["H:t:1", "H:t:2", "H:t:3", "H:t:4"]),
        ("older=1000000", &[]),
        ("older=12d", &[]),
        ("older=0m", &["H:t:1", "H:t:2", "H:t:3", "H:t:4"]),
        ("function=sort state=queued unique= priority=high older=0", &["H:t:2"]),
    ] {
        assert_eq!(handles(client, filters).0, expected, "{filters}");
    }
}

#[test]
fn a_list_of_jobs_is_read_page_by_page() {
    let server = server(&[]);
    let mut wire = connect(&server);
    let mut all = Vec::new();
    for number in 1..=700 {
        let handle = format!("H:t:{number}");
        submit(&mut wire, packet::SUBMIT_JOB_BG, b"f\0\0", &handle);
        all.push(handle);
    }
    all.sort();
    for filters in ["", "function=f state=queued "] {
        assert_eq!(handles(&mut wire, filters), (all.clone(), None), "without a limit it is whole");
        let (mut listed, mut after) = (Vec::new(), String::new());
        loop {
            let (page, next) = handles(&mut wire, &format!("{filters}limit=300{after}"));
            assert!(page.len() <= 300, "{}", page.len());
            listed.extend(page);
            let Some(next) = next else { break };
            after = format!(" after={next}");
        }
        listed.sort();
        assert_eq!(listed, all, "{filters}");
        assert!(handles(&mut wire, &format!("{filters}limit=0")).0.is_empty());
    }
}

#[test]
fn one_job_is_shown_with_the_beginning_of_its_workload() {
    let server = server(&["-q", "builtin"]);
    let mut worker = worker(&server, &["f"]);
    let mut client = connect(&server);
    submit(&mut client, packet::SUBMIT_JOB_HIGH, b"f\0a unique\0a\tb\n", "H:t:1");
    let mut expected = [
        "handle|H:t:1",
        "unique|a unique",
        "function|f",
        "priority|high",
        "state|queued",
        "submitted_unix_ms|N",
        "age_s|N",
        "due_unix_s|-",
        "attempts|0",
        "background|0",
        "stored|0",
        "holder|-",
        "since_unix_ms|-",
        "deadline_unix_ms|-",
        "progress|-",
        "clients|1",
        "bytes|4",
        "preview|a\\x09b\\x0a",
        "preview_encoding|text",
        "preview_truncated|0",
    ];
    assert_eq!(pairs(&mut client, "show job H:t:1"), expected);
    worker.send(packet::GRAB_JOB, b"");
    worker.expect_type(packet::JOB_ASSIGN);
    worker.send(packet::WORK_STATUS, b"H:t:1\x003\x004");
    client.expect_type(packet::WORK_STATUS);
    for (index, line) in [(4, "state|running"), (11, "holder|0-1"), (12, "since_unix_ms|N"), (14, "progress|3/4")] {
        expected[index] = line;
    }
    assert_eq!(pairs(&mut client, "show job H:t:1"), expected);
    // More than is shown, and no text.
    let long = [&b"f\0\0"[..], &[0xff; 2000]].concat();
    submit(&mut client, packet::SUBMIT_JOB_BG, &long, "H:t:2");
    let shown = pairs(&mut client, "show job H:t:2");
    assert!(shown.contains(&"bytes|2000".to_owned()) && shown.contains(&"preview_truncated|1".to_owned()), "{shown:?}");
    assert!(shown.contains(&"preview_encoding|base64".to_owned()), "{shown:?}");
    let preview = shown.iter().find(|line| line.starts_with("preview|")).expect("a preview");
    assert!(preview.len() < 1500, "{preview}");
}

#[test]
fn one_worker_is_shown_with_its_functions_and_jobs() {
    let server = server(&["-q", "builtin"]);
    let mut worker = worker(&server, &["f", "g"]);
    let mut client = connect(&server);
    for (serial, word) in ["done", "failed", "held"].into_iter().enumerate() {
        let handle = format!("H:t:{}", serial + 1);
        submit(&mut client, packet::SUBMIT_JOB_BG, b"f\0\0", &handle);
        worker.send(packet::GRAB_JOB, b"");
        worker.expect_type(packet::JOB_ASSIGN);
        match word {
            "done" => worker.send(packet::WORK_COMPLETE, format!("{handle}\0").as_bytes()),
            "failed" => worker.send(packet::WORK_FAIL, handle.as_bytes()),
            _ => worker.send(packet::WORK_STATUS, format!("{handle}\x001\x002").as_bytes()),
        }
    }
    worker.send(packet::CANT_DO, b"g");
    worker.send(packet::CAN_DO_TIMEOUT, b"h\x00100");
    worker.expect_nothing();
    assert_eq!(client.text_answer("drain connection:0-1 h"), "OK 1\r\n");
    let shown = pairs(&mut client, "show worker 0-1");
    assert_eq!(
        shown[..18],
        [
            "id|0-1",
            "address|127.0.0.1",
            "file_descriptor|N",
            "client_id|-",
            "tls_name|-",
            "connected_unix_ms|N",
            "heard_unix_ms|N",
            "state|working",
            "running|1",
            "done|1",
            "failed|1",
            "exceptions|0",
            "timed_out|0",
            "requeued|0",
            "run_mean_s|N",
            "run_p50_s|N",
            "run_p90_s|N",
            "run_p99_s|N",
        ]
    );
    let mut functions: Vec<Vec<&str>> = shown[18..21].iter().map(|line| line.split('|').collect()).collect();
    functions.sort();
    for (function, expected) in functions.iter().zip([
        "function|f|1|-|1|1|0|0|0",
        "function|g|0|-|0|0|0|0|0|-|-|-",
        "function|h|1|draining|0|0|0|0|0|-|-|-",
    ]) {
        assert!(function.join("|").starts_with(expected), "{function:?} {expected}");
        assert_eq!(function.len(), 12, "{function:?}");
    }
    let job: Vec<&str> = shown[21].split('|').collect();
    let ["job", "H:t:3", "f", since, "1", "2", "-"] = job[..] else { panic!("{job:?}") };
    assert!(since.parse::<u64>().is_ok_and(|since| since > 1_600_000_000_000), "{since}");
    assert_eq!(shown.len(), 22);
}

#[test]
fn the_server_is_shown() {
    let (server, mut connections) = busy();
    let client = connections.last_mut().expect("the client");
    let shown = pairs(client, "show server");
    for line in [
        format!("pid|{}", server.pid()),
        "draining|0".to_owned(),
        "connections_open|3".to_owned(),
        "functions|3".to_owned(),
        "workers_working|1".to_owned(),
        "workers_waiting|1".to_owned(),
        "jobs_queued|2".to_owned(),
        "jobs_scheduled|1".to_owned(),
        "jobs_running|1".to_owned(),
        "submitted|4".to_owned(),
        "done|0".to_owned(),
        "store_state|ok".to_owned(),
        "store_error|-".to_owned(),
    ] {
        assert!(shown.contains(&line), "{line}: {shown:?}");
    }
    assert_eq!(shown.len(), 68, "{shown:?}");
}

#[test]
fn names_cannot_break_a_table() {
    let server = server(&[]);
    let mut wire = worker(&server, &["tab\there", "new\nline", "a,comma"]);
    wire.send(packet::SET_CLIENT_ID, b"my\tid\n.");
    submit(&mut wire, packet::SUBMIT_JOB_BG, b"new\nline\0\n.\n\0\n.\n", "H:t:1");
    assert_eq!(wire.text_answer("disable client:my\\x09id\\x0a. tab\\x09here"), "OK 1\r\n");
    let workers = table(&mut wire, "show workers", WORKERS);
    assert!(workers[0].starts_with("0-1|127.0.0.1|my\\x09id\\x0a.|"), "{workers:?}");
    assert!(workers[0].contains("|a\\x2ccomma,new\\x0aline,tab\\x09here|"), "{workers:?}");
    let jobs = table(&mut wire, "list jobs", JOBS);
    assert!(jobs[0].starts_with("H:t:1|\\x0a.\\x0a|new\\x0aline|normal|queued|"), "{jobs:?}");
    assert!(pairs(&mut wire, "show job H:t:1").contains(&"preview|\\x0a.\\x0a".to_owned()));
    assert!(pairs(&mut wire, "show worker 0-1").contains(&"client_id|my\\x09id\\x0a.".to_owned()));
    let rules = table(&mut wire, "show rules", "who function mode workers");
    assert_eq!(rules, ["client:my\\x09id\\x0a.|tab\\x09here|disabled|1"]);
    let functions = table(&mut wire, "show functions", FUNCTIONS);
    let names: Vec<_> = functions.iter().map(|line| line.split('|').next().expect("a name")).collect();
    assert_eq!(names, ["a,comma", "new\\x0aline", "tab\\x09here"]);
}
