//! The pid file between processes.

use std::fs::Permissions;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, ExitCode, Stdio};
use std::{fs, io};

use gearmand::process::pid_file::PidFile;
use gearmand::process::privileges::{Account, drop_to};

use crate::{RoleResult, USER, assert_exit, child, text};

pub(crate) fn role_pid_file(path: &str) -> RoleResult {
    let _pid_file = PidFile::create(Path::new(path))?;
    println!("held");
    io::stdin().read_to_end(&mut Vec::new())?;
    Ok(ExitCode::SUCCESS)
}

/// A child that holds the pid file until its standard input is closed.
struct Holder {
    process: Child,
    stdin: ChildStdin,
    _stdout: BufReader<ChildStdout>,
}

fn holder(path: &str) -> Holder {
    let mut process = child("pid_file", &[path]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut stdout = BufReader::new(process.stdout.take().unwrap());
    let mut line = String::new();
    stdout.read_line(&mut line).unwrap();
    assert_eq!(line, "held\n");
    let stdin = process.stdin.take().unwrap();
    Holder { process, stdin, _stdout: stdout }
}

pub(crate) fn pid_file_outlives_a_kill() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("pid");
    let name = path.to_str().unwrap();
    let mut first = holder(name);
    let expected = format!("{}\n", first.process.id());
    assert_eq!(fs::read_to_string(&path).unwrap(), expected);

    let second = child("pid_file", &[name]).output().unwrap();
    assert_exit(&second, 2);
    let stderr = text(&second.stderr);
    assert!(stderr.contains(&format!("pid {}", first.process.id())), "{stderr}");
    assert_eq!(fs::read_to_string(&path).unwrap(), expected);

    first.process.kill().unwrap();
    first.process.wait().unwrap();
    assert!(path.exists(), "nobody was left to remove it");

    let Holder { process: mut third, stdin, .. } = holder(name);
    assert_eq!(fs::read_to_string(&path).unwrap(), format!("{}\n", third.id()));
    drop(stdin);
    assert!(third.wait().unwrap().success());
    assert!(!path.exists());
}

pub(crate) fn role_pid_file_dropped(path: &str) -> RoleResult {
    let account = Account::find(USER)?;
    let pid_file = PidFile::create(Path::new(path))?;
    pid_file.give_to(account.uid(), account.gid())?;
    drop_to(&account)?;
    drop(pid_file);
    // What is left, if anything, this user's next instance can take over.
    if Path::new(path).exists() {
        println!("left {}", fs::read_to_string(path)?.len());
        drop(PidFile::create(Path::new(path))?);
    }
    Ok(ExitCode::SUCCESS)
}

pub(crate) fn pid_file_of_a_dropped_process() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("pid");
    fs::set_permissions(directory.path(), Permissions::from_mode(0o755)).unwrap();
    let output = child("pid_file_dropped", &[path.to_str().unwrap()]).output().unwrap();
    assert_exit(&output, 0);
    assert_eq!(text(&output.stdout), "left 0\n", "root's directory");
    fs::remove_file(&path).unwrap();

    let nobody = Account::find(USER).unwrap();
    chown(directory.path(), Some(nobody.uid()), Some(nobody.gid())).unwrap();
    let output = child("pid_file_dropped", &[path.to_str().unwrap()]).output().unwrap();
    assert_exit(&output, 0);
    assert_eq!(text(&output.stdout), "", "the user's own directory");
    assert!(!path.exists());
}
