//! Going to the background: exit status, session, descriptors.

use std::fs;
use std::io::Read;
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::ExitCode;

use gearmand::process::detach::detach;
use gearmand::process::listen::{Listeners, TcpTarget};
use nix::unistd::{Pid, alarm, getpid, getsid};

use crate::{DEADLINE, RoleResult, assert_exit, child, text};

pub(crate) fn role_detach_ready(directory: &str) -> RoleResult {
    let readiness = detach()?;
    eprintln!("on the way");
    let listener = TcpListener::bind("127.0.0.1:0")?;
    fs::write(
        Path::new(directory).join("facts"),
        format!(
            "{}\n{}\n{}\n{}",
            listener.local_addr()?,
            getpid(),
            getsid(Some(Pid::this()))?,
            std::env::current_dir()?.display()
        ),
    )?;
    readiness.ready()?;
    // Lives until the test connects, so that it can be looked at; or until the deadline kills it.
    alarm::set(u32::try_from(DEADLINE.as_secs())?);
    drop(listener.accept()?);
    Ok(ExitCode::SUCCESS)
}

pub(crate) fn detach_returns_when_ready() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().canonicalize().unwrap();
    // `output` reads to the end of both pipes: it returns only once the child has let go of them.
    let output = child("detach_ready", &[path.to_str().unwrap()]).current_dir(&path).output().unwrap();
    assert_exit(&output, 0);
    assert_eq!(text(&output.stderr), "on the way\n");
    let facts = fs::read_to_string(path.join("facts")).unwrap();
    let facts: Vec<&str> = facts.lines().collect();
    let [address, pid, session, working_directory] = facts[..] else {
        panic!("{facts:?}");
    };
    assert_eq!(pid, session, "leads its own session");
    assert_eq!(working_directory, path.to_str().unwrap());
    for descriptor in 0..=2 {
        let target = fs::read_link(format!("/proc/{pid}/fd/{descriptor}")).unwrap();
        assert_eq!(target, Path::new("/dev/null"), "descriptor {descriptor}");
    }
    // The child closes the connection and ends.
    let mut connection = TcpStream::connect(address).unwrap();
    connection.set_read_timeout(Some(DEADLINE)).unwrap();
    assert_eq!(connection.read(&mut [0]).unwrap(), 0);
}

pub(crate) fn role_detach_failed(port: &str) -> RoleResult {
    let readiness = detach()?;
    let target = TcpTarget { host: Some("127.0.0.1".into()), port: port.parse()? };
    match Listeners::bind(&[target], &[], 32) {
        Ok(_) => Err("the port was free".into()),
        Err(error) => {
            readiness.failed(&error.to_string());
            Ok(ExitCode::SUCCESS)
        }
    }
}

pub(crate) fn detach_reports_a_failure() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let output = child("detach_failed", &[&address.port().to_string()]).output().unwrap();
    assert_exit(&output, 1);
    let stderr = text(&output.stderr);
    assert!(stderr.starts_with(&format!("gearmand: cannot listen on {address}: ")), "{stderr}");
}

pub(crate) fn role_detach_dies(how: &str) -> RoleResult {
    let _readiness = detach()?;
    match how {
        "exit" => std::process::exit(7),
        "abort" => std::process::abort(),
        _ => Ok(ExitCode::SUCCESS),
    }
}

pub(crate) fn detach_reports_a_death() {
    for (how, reported) in
        [("exit", "(exit status 7)"), ("abort", "(killed by SIGABRT)"), ("return", "(exit status 0)")]
    {
        let output = child("detach_dies", &[how]).output().unwrap();
        assert_exit(&output, 1);
        let stderr = text(&output.stderr);
        assert!(stderr.contains(reported), "{how}: {stderr}");
    }
}

pub(crate) fn role_detach_threads() -> RoleResult {
    let (_go_on, wait) = std::sync::mpsc::channel::<()>();
    let _thread = std::thread::spawn(move || wait.recv());
    match detach() {
        Ok(_) => Err("forked with threads".into()),
        Err(error) => {
            println!("{error}");
            Ok(ExitCode::SUCCESS)
        }
    }
}

pub(crate) fn detach_wants_one_thread() {
    let output = child("detach_threads", &[]).output().unwrap();
    assert_exit(&output, 0);
    assert!(text(&output.stdout).contains("threads"));
}
