//! Users and limits.

use std::fs;
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::process::ExitCode;

use gearmand::process::privileges::{Account, drop_to, raise_file_descriptor_limit};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::unistd::{Gid, Uid, getgid, getgroups, getuid, setresuid};

use crate::{RoleResult, USER, assert_exit, child, text};

pub(crate) fn role_privileges(secret: &str) -> RoleResult {
    let account = Account::find(USER)?;
    fs::read(secret)?;
    drop_to(&account)?;
    let mine = (Uid::from_raw(account.uid()), Gid::from_raw(account.gid()));
    let root = Uid::from_raw(0);
    println!("identity {}", (getuid(), getgid()) == mine);
    println!("groups {}", getgroups()?.iter().all(|group| group.as_raw() != 0));
    println!("regained {}", setresuid(root, root, root).is_ok());
    println!("readable {}", fs::read(secret).is_ok());
    for result in [drop_to(&account), Account::find(USER).map(|_| ())] {
        println!("{}", result.err().map_or_else(String::new, |e| e.to_string()));
    }
    Ok(ExitCode::SUCCESS)
}

pub(crate) fn privileges_are_gone() {
    let directory = tempfile::tempdir().unwrap();
    fs::set_permissions(directory.path(), Permissions::from_mode(0o755)).unwrap();
    let secret = directory.path().join("secret");
    fs::write(&secret, "x").unwrap();
    fs::set_permissions(&secret, Permissions::from_mode(0o600)).unwrap();
    let output = child("privileges", &[secret.to_str().unwrap()]).output().unwrap();
    assert_exit(&output, 0);
    assert_eq!(
        text(&output.stdout).lines().collect::<Vec<_>>(),
        [
            "identity true",
            "groups true",
            "regained false",
            "readable false",
            "Must be root to switch users.",
            "Must be root to switch users.",
        ]
    );
}

pub(crate) fn role_limit() -> RoleResult {
    setrlimit(Resource::RLIMIT_NOFILE, 100, 500)?;
    println!("{}", raise_file_descriptor_limit(Some(200))?);
    println!("{:?}", getrlimit(Resource::RLIMIT_NOFILE)?);
    println!("{}", raise_file_descriptor_limit(None)?);
    println!("{:?}", getrlimit(Resource::RLIMIT_NOFILE)?);
    Ok(ExitCode::SUCCESS)
}

pub(crate) fn file_descriptor_limit() {
    let output = child("limit", &[]).output().unwrap();
    assert_exit(&output, 0);
    assert_eq!(text(&output.stdout).lines().collect::<Vec<_>>(), ["200", "(200, 500)", "500", "(500, 500)"]);
}

pub(crate) fn role_limit_refused() -> RoleResult {
    setrlimit(Resource::RLIMIT_NOFILE, 100, 500)?;
    drop_to(&Account::find(USER)?)?;
    match raise_file_descriptor_limit(Some(700)) {
        Ok(limit) => println!("granted {limit}"),
        Err(error) => println!("{error}"),
    }
    println!("{}", raise_file_descriptor_limit(None)?);
    Ok(ExitCode::SUCCESS)
}

pub(crate) fn file_descriptor_limit_is_refused() {
    let output = child("limit_refused", &[]).output().unwrap();
    assert_exit(&output, 0);
    let stdout = text(&output.stdout);
    let lines: Vec<&str> = stdout.lines().collect();
    assert!(lines[0].starts_with("cannot set the limit of open files to 700 (hard limit 500): "), "{stdout}");
    assert_eq!(lines[1], "500", "without a number nothing is refused");
}

pub(crate) fn role_limit_raised() -> RoleResult {
    setrlimit(Resource::RLIMIT_NOFILE, 100, 500)?;
    println!("{}", raise_file_descriptor_limit(Some(600))?);
    println!("{:?}", getrlimit(Resource::RLIMIT_NOFILE)?);
    Ok(ExitCode::SUCCESS)
}

pub(crate) fn file_descriptor_limit_raises_the_hard_one() {
    let output = child("limit_raised", &[]).output().unwrap();
    assert_exit(&output, 0);
    assert_eq!(text(&output.stdout), "600\n(600, 600)\n");
}
