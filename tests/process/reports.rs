//! What the process reports: its log, and its state to the service manager.

use std::fs;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::ExitCode;

use gearmand::process::logging;
use gearmand::process::logging::{Destination, Format};
use gearmand::process::notify::Notifier;

use crate::{DEADLINE, RoleResult, assert_exit, child, text};

pub(crate) fn role_log(path: &str) -> RoleResult {
    let settings = logging::Settings {
        level: "NOTICE".parse()?,
        destination: Destination::from_option(path),
        format: Format::Human,
        syslog: false,
        journald: false,
        tells_terminal: false,
    };
    let handle = logging::init(&settings)?;
    gearmand::notice!("to standard error");
    if let Some(directory) = Path::new(path).parent() {
        fs::create_dir(directory)?;
        handle.finish();
        handle.reopen();
    }
    gearmand::notice!("to the file");
    handle.finish();
    if logging::init(&settings).is_ok() {
        return Err("installed twice".into());
    }
    Ok(ExitCode::SUCCESS)
}

pub(crate) fn log_without_its_file() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("later/log");
    let output = child("log", &[path.to_str().unwrap()]).output().unwrap();
    assert_exit(&output, 0);
    let stderr = text(&output.stderr);
    let lines: Vec<&str> = stderr.lines().collect();
    assert!(
        lines[0].starts_with("gearmand: cannot open log file ") && lines[0].contains("logging to standard error, "),
        "{stderr}"
    );
    assert!(lines[1].starts_with(" NOTICE ") && lines[1].ends_with(" [  main ] to standard error"), "{stderr}");
    // Installing a second log complains about nothing: by then the file can be opened.
    assert_eq!(lines.len(), 2, "{stderr}");
    let log = fs::read_to_string(&path).unwrap();
    assert!(log.ends_with(" [  main ] to the file\n") && log.lines().count() == 1, "{log}");
}

pub(crate) fn role_notify() -> RoleResult {
    let notifier = Notifier::from_environment()?;
    println!("{:?}", notifier.watchdog_interval());
    notifier.ready(&["127.0.0.1:4730".to_owned()])?;
    Ok(ExitCode::SUCCESS)
}

pub(crate) fn notify_by_environment() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("notify");
    let manager = UnixDatagram::bind(&path).unwrap();
    manager.set_read_timeout(Some(DEADLINE)).unwrap();
    let output = child("notify", &[]).env("NOTIFY_SOCKET", &path).env("WATCHDOG_USEC", "3000000").output().unwrap();
    assert_exit(&output, 0);
    assert_eq!(text(&output.stdout), "Some(1.5s)\n");
    let mut buffer = [0; 1024];
    let length = manager.recv(&mut buffer).unwrap();
    assert_eq!(text(&buffer[..length]), "READY=1\nSTATUS=Listening on 127.0.0.1:4730\n");
    let output = child("notify", &[]).env_remove("NOTIFY_SOCKET").output().unwrap();
    assert_exit(&output, 0);
    assert_eq!(text(&output.stdout), "None\n");
}
