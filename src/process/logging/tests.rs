use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::time::{Duration, Instant};

use tracing::{debug, error, info, warn};

use super::*;
use crate::log_level::{audit, fatal, notice};

/// The longest wait.
const PATIENCE: Duration = Duration::from_secs(20);

pub(super) fn to_file(path: &Path, level: Level) -> Settings {
    Settings {
        level,
        destination: Destination::File(path.to_owned()),
        format: Format::Human,
        syslog: false,
        journald: false,
        tells_terminal: false,
    }
}

/// Runs `events` with a log in a new file. Returns the lines it wrote.
fn lines(settings: impl FnOnce(&Path) -> Settings, events: impl FnOnce(&LogHandle)) -> Vec<String> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("gearmand.log");
    let (subscriber, handle) = build(&settings(&path)).unwrap();
    tracing::subscriber::with_default(subscriber, || events(&handle));
    finish(&handle);
    fs::read_to_string(&path).unwrap().lines().map(str::to_owned).collect()
}

/// Waits until the log is written.
pub(super) fn finish(handle: &LogHandle) {
    assert!(handle.0.queue.flush(PATIENCE), "the log is not written");
}

fn one_of_each() {
    debug!("event");
    info!("event");
    notice!("event");
    warn!("event");
    error!("event");
    fatal!("event");
}

#[test]
fn each_threshold_lets_its_own_level_and_the_graver_ones_through() {
    for threshold in Level::ALL {
        let seen: Vec<String> = lines(|path| to_file(path, threshold), |_| one_of_each())
            .iter()
            .map(|line| line.split_whitespace().next().unwrap().to_owned())
            .collect();
        let expected: Vec<&str> = ["DEBUG", "INFO", "NOTICE", "WARNING", "ERROR", "FATAL"]
            .into_iter()
            .filter(|name| name.parse::<Level>().unwrap() <= threshold)
            .collect();
        assert_eq!(seen, expected, "{threshold}");
    }
}

#[test]
fn the_level_changes_while_running() {
    let lines = lines(
        |path| to_file(path, Level::Error),
        |handle| {
            for (level, text) in [(Level::Error, "no"), (Level::Notice, "yes"), (Level::Error, "no more")] {
                handle.set_level(level);
                assert_eq!(handle.level(), level);
                notice!("{text}");
            }
        },
    );
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert!(lines[0].ends_with(" yes"), "{lines:?}");
}

#[test]
fn the_human_line_has_the_columns_of_gearmand() {
    let lines = lines(
        |path| to_file(path, Level::Debug),
        |_| {
            std::thread::scope(|scope| {
                let dispatch = tracing::dispatcher::get_default(Clone::clone);
                std::thread::Builder::new()
                    .name("proc".into())
                    .spawn_scoped(scope, move || {
                        tracing::dispatcher::with_default(&dispatch, || {
                            notice!(jobs = 3, function = %"a b", ok = true, "accepted,f,u,0");
                            info!("plain");
                            debug!("detail");
                        });
                    })
                    .unwrap();
            });
        },
    );
    // "   INFO 2026-11-23 18:00:00.123456 [  proc ] "
    let (prefix, message) = lines[0].split_at(7 + 1 + 26 + 1 + 9 + 1);
    assert_eq!(message, "accepted,f,u,0 jobs=3 function=\"a b\" ok=true");
    assert_eq!(&prefix[..8], " NOTICE ");
    assert_eq!(&prefix[34..], " [  proc ] ");
    chrono::NaiveDateTime::parse_from_str(&prefix[8..34], "%Y-%m-%d %H:%M:%S%.6f").unwrap();
    assert_eq!(&lines[1][34..], " [  proc ] plain");
    assert!(lines[2].contains(" detail -> ") && lines[2].contains("tests.rs:"), "{}", lines[2]);
}

#[test]
fn a_peer_cannot_forge_lines_or_fields() {
    let hostile = "f\n  FATAL 2026-01-01 \x1b[2J\r\u{85}\u{2028}";
    let human =
        lines(|path| to_file(path, Level::Info), |_| info!(function = hostile, client = "x ok=true", "job {hostile}"));
    assert_eq!(human.len(), 1, "{human:?}");
    assert!(!human[0].chars().any(char::is_control), "{human:?}");
    assert!(human[0].contains(r#"client="x ok=true""#), "{human:?}");
    assert!(human[0].contains(r"job f\n  FATAL 2026-01-01 \u{1b}[2J\r\u{85}\u{2028} "), "{human:?}");
}

#[test]
fn what_somebody_did_is_written_at_every_threshold() {
    for level in Level::ALL {
        let lines = lines(|path| to_file(path, level), |_| audit!("pause f: done, by somebody"));
        assert_eq!(lines.len(), 1, "{level:?}");
        assert!(lines[0].contains("NOTICE") && lines[0].contains("by somebody"), "{lines:?}");
    }
}

#[test]
fn json_lines_hold_the_event_whole() {
    let json = lines(
        |path| Settings { format: Format::Json, ..to_file(path, Level::Notice) },
        |_| notice!(jobs = 7_u64, name = "a\nb", "two\nlines"),
    );
    assert_eq!(json.len(), 1, "{json:?}");
    let value: serde_json::Value = serde_json::from_str(&json[0]).unwrap();
    assert_eq!(value["level"], "NOTICE");
    assert_eq!(value["message"], "two\nlines");
    assert_eq!(value["fields"], serde_json::json!({"jobs": 7, "name": "a\nb"}));
    chrono::DateTime::parse_from_rfc3339(value["time"].as_str().unwrap()).unwrap();
}

#[test]
fn reopening_follows_a_rotation() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("log");
    let rotated = directory.path().join("log.1");
    let (subscriber, handle) = build(&to_file(&path, Level::Info)).unwrap();
    tracing::subscriber::with_default(subscriber, || {
        info!("first");
        finish(&handle);
        fs::rename(&path, &rotated).unwrap();
        info!("second");
        finish(&handle);
        assert!(!path.exists(), "the file moved away is still the one open");
        handle.reopen();
        info!("third");
    });
    finish(&handle);
    let old = fs::read_to_string(&rotated).unwrap();
    let new = fs::read_to_string(&path).unwrap();
    assert!(old.contains("first") && old.contains("second"), "{old}");
    assert!(new.contains("third") && new.lines().count() == 1, "{new}");
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o111, 0, "not executable");
}

#[test]
fn a_failing_reopen_keeps_the_old_file() {
    let directory = tempfile::tempdir().unwrap();
    let inner = directory.path().join("inner");
    fs::create_dir(&inner).unwrap();
    let path = inner.join("log");
    let (subscriber, handle) = build(&to_file(&path, Level::Info)).unwrap();
    let moved = directory.path().join("moved");
    tracing::subscriber::with_default(subscriber, || {
        fs::rename(&inner, &moved).unwrap();
        handle.reopen();
        info!("still here");
    });
    finish(&handle);
    let text = fs::read_to_string(moved.join("log")).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    assert!(lines[0].starts_with("  ERROR ") && lines[0].contains("cannot reopen log file "), "{text}");
    assert!(lines[1].contains("still here"), "{text}");
}

#[test]
fn the_words_stderr_and_none_are_no_files() {
    assert_eq!(Destination::from_option("stderr"), Destination::Stderr);
    assert_eq!(Destination::from_option("none"), Destination::None);
    assert_eq!(Destination::from_option("./none"), Destination::File(PathBuf::from("./none")));
    for destination in [Destination::Stderr, Destination::None] {
        let (_subscriber, handle) =
            build(&Settings { destination, ..to_file(Path::new("unused"), Level::Fatal) }).unwrap();
        handle.reopen();
        finish(&handle);
    }
    for name in ["stderr", "none", "unused"] {
        assert!(!Path::new(name).exists(), "{name} was created");
    }
}

#[test]
fn without_an_output_no_callsite_is_enabled() {
    let (subscriber, _handle) =
        build(&Settings { destination: Destination::None, ..to_file(Path::new("unused"), Level::Debug) }).unwrap();
    assert_eq!(subscriber.max_level_hint(), Some(LevelFilter::OFF));
}

/// A log with only the two local sockets, and the receiving ends.
struct Local {
    directory: tempfile::TempDir,
    syslog: UnixDatagram,
    journal: UnixDatagram,
}

impl Local {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let bind = |name| {
            let socket = UnixDatagram::bind(directory.path().join(name)).unwrap();
            socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
            socket
        };
        let (syslog, journal) = (bind("syslog"), bind("journal"));
        Self { directory, syslog, journal }
    }

    fn log(&self) -> (impl Subscriber + Send + Sync + use<>, LogHandle) {
        let settings = Settings {
            destination: Destination::None,
            syslog: true,
            journald: true,
            ..to_file(Path::new("unused"), Level::Info)
        };
        let path = |name| self.directory.path().join(name).display().to_string();
        build_with_sockets(&settings, &path("syslog"), &path("journal")).unwrap()
    }
}

fn received(socket: &UnixDatagram) -> String {
    let mut buffer = vec![0; 65536];
    let length = socket.recv(&mut buffer).unwrap();
    String::from_utf8(buffer[..length].to_vec()).unwrap()
}

#[test]
fn syslog_and_the_journal_get_the_level_as_priority() {
    let local = Local::new();
    let (subscriber, _log) = local.log();
    tracing::subscriber::with_default(subscriber, one_of_each);
    let pid = std::process::id();
    for priority in [6, 5, 4, 3, 0] {
        let datagram = received(&local.syslog);
        assert!(datagram.starts_with(&format!("<{}>", 8 + priority)), "{datagram}");
        assert!(datagram.ends_with(&format!(" gearmand[{pid}]: event")), "{datagram}");
        let datagram = received(&local.journal);
        let fields: Vec<&str> = datagram.lines().collect();
        assert!(fields.contains(&format!("PRIORITY={priority}").as_str()), "{datagram}");
        assert!(fields.contains(&"MESSAGE=event"), "{datagram}");
    }
}

#[test]
fn journal_fields_cannot_be_forged_and_long_text_is_cut() {
    let local = Local::new();
    let long = "ä".repeat(20_000);
    let (subscriber, _log) = local.log();
    tracing::subscriber::with_default(subscriber, || {
        info!(function = "f\nPRIORITY=0", "x\nPRIORITY=0");
        info!("{long}");
    });
    let datagram = received(&local.journal);
    let priorities: Vec<&str> = datagram.lines().filter(|line| line.starts_with("PRIORITY=")).collect();
    assert_eq!(priorities, ["PRIORITY=6"], "{datagram}");
    assert!(datagram.contains("GEARMAN_FUNCTION=f\\nPRIORITY=0\n"), "{datagram}");
    received(&local.syslog);
    assert!(received(&local.syslog).len() < 8100);
}

#[test]
fn a_receiver_that_does_not_read_never_blocks_and_a_new_one_is_found() {
    let mut local = Local::new();
    let (subscriber, log) = local.log();
    let start = Instant::now();
    tracing::subscriber::with_default(subscriber, || {
        for _ in 0..5_000 {
            info!("into the void");
        }
        assert!(start.elapsed() < PATIENCE);
        finish(&log);
        assert!(log.left_out() > 0, "a queue of datagrams is short");
        let path = local.directory.path().join("syslog");
        fs::remove_file(&path).unwrap();
        local.syslog = UnixDatagram::bind(&path).unwrap();
        local.syslog.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        info!("hello again");
    });
    assert!(received(&local.syslog).ends_with("hello again"));
}
