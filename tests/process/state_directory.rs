//! The directory of the queue: made, found again, and handed over.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::ExitCode;

use gearmand::process::privileges::{Account, drop_to};
use gearmand::process::state_directory::{Environment, prepare, queue_file};

use crate::{RoleResult, USER, assert_exit, child, text};

fn in_state_home(path: &Path) -> Environment {
    Environment { xdg_state_home: Some(path.into()), ..Environment::default() }
}

fn service(path: &Path) -> Environment {
    Environment { state_directory: Some(path.into()), ..Environment::default() }
}

pub(crate) fn state_directory_is_made_once() {
    let home = tempfile::tempdir().unwrap();
    let state_home = home.path().join("not/there");
    let made = prepare(&in_state_home(&state_home), false, None).unwrap();
    assert_eq!(made, state_home.join("gearmand"));
    assert_eq!(fs::metadata(&made).unwrap().permissions().mode() & 0o027, 0, "others have no business there");
    fs::set_permissions(&made, Permissions::from_mode(0o700)).unwrap();
    assert_eq!(prepare(&in_state_home(&state_home), false, None).unwrap(), made);
    assert_eq!(fs::metadata(&made).unwrap().permissions().mode() & 0o777, 0o700, "it is left as it is");
}

pub(crate) fn state_directory_that_is_a_file() {
    let home = tempfile::tempdir().unwrap();
    fs::write(home.path().join("gearmand"), "").unwrap();
    let error = prepare(&in_state_home(home.path()), false, None).unwrap_err().to_string();
    let path = home.path().join("gearmand").display().to_string();
    assert!(error.contains(&path) && error.contains("--libsqlite3-db"), "{error}");
}

/// Becomes the user for whom the directory was prepared, and writes its queue.
pub(crate) fn role_state_directory(directory: &str) -> RoleResult {
    let account = Account::find(USER)?;
    let path = prepare(&service(Path::new(directory)), true, Some((account.uid(), account.gid())))?;
    drop_to(&account)?;
    let file = queue_file(&path, 4730);
    println!("{}", fs::read_to_string(&file)?);
    fs::write(&file, "new")?;
    fs::write(path.join("gearmand-4731.sqlite3"), "another")?;
    Ok(ExitCode::SUCCESS)
}

pub(crate) fn state_directory_is_handed_over() {
    let base = tempfile::tempdir().unwrap();
    fs::set_permissions(base.path(), Permissions::from_mode(0o755)).unwrap();
    let directory = base.path().join("state");
    fs::create_dir(&directory).unwrap();
    let ours = ["gearmand-4730.sqlite3", "gearmand-4730.sqlite3-wal", "gearmand-4730.sqlite3.lock"];
    for name in ours.iter().chain(&["operators.txt"]) {
        fs::write(directory.join(name), "old").unwrap();
        fs::set_permissions(directory.join(name), Permissions::from_mode(0o600)).unwrap();
    }
    let output = child("state_directory", &[directory.to_str().unwrap()]).output().unwrap();
    assert_exit(&output, 0);
    assert_eq!(text(&output.stdout), "old\n");
    assert_eq!(fs::read_to_string(directory.join("gearmand-4730.sqlite3")).unwrap(), "new");
    let user = Account::find(USER).unwrap().uid();
    for name in ours {
        assert_eq!(fs::metadata(directory.join(name)).unwrap().uid(), user, "{name}");
    }
    assert_eq!(fs::metadata(directory.join("operators.txt")).unwrap().uid(), 0, "what is not ours stays as it is");
}

pub(crate) fn state_directory_gives_no_linked_file_away() {
    for link in [|from: &Path, to: &Path| symlink(from, to), |from: &Path, to: &Path| fs::hard_link(from, to)] {
        let base = tempfile::tempdir().unwrap();
        let (secret, directory) = (base.path().join("secret"), base.path().join("state"));
        fs::write(&secret, "x").unwrap();
        fs::create_dir(&directory).unwrap();
        let trap = directory.join("gearmand-1.sqlite3");
        link(&secret, &trap).unwrap();
        let account = Account::find(USER).unwrap();
        let error = prepare(&service(&directory), true, Some((account.uid(), account.gid()))).unwrap_err().to_string();
        assert!(error.contains(&trap.display().to_string()), "{error}");
        assert_eq!(fs::metadata(&secret).unwrap().uid(), 0);
    }
}

pub(crate) fn role_state_directory_denied(directory: &str) -> RoleResult {
    drop_to(&Account::find(USER)?)?;
    for environment in [service(Path::new(directory)), in_state_home(Path::new(directory))] {
        match prepare(&environment, false, None) {
            Ok(path) => println!("granted {}", path.display()),
            Err(error) => println!("{error}"),
        }
    }
    Ok(ExitCode::SUCCESS)
}

pub(crate) fn state_directory_of_another() {
    let directory = tempfile::tempdir().unwrap();
    fs::set_permissions(directory.path(), Permissions::from_mode(0o755)).unwrap();
    let path = directory.path().to_str().unwrap();
    let output = child("state_directory_denied", &[path]).output().unwrap();
    assert_exit(&output, 0);
    let stdout = text(&output.stdout);
    let lines: Vec<&str> = stdout.lines().collect();
    assert!(lines[0].starts_with(&format!("cannot write into the state directory {path}: ")), "{stdout}");
    assert!(lines[1].starts_with(&format!("cannot create the state directory {path}/gearmand: ")), "{stdout}");
}
