//! Starts: whose the file is, and what happens where there is none, or none that can be used.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::os::unix::process::CommandExt;
use std::process::Command;

use nix::unistd::{User, getuid};

use super::peers::{QueueFile, Worker, job, read, shown, submit, words};
use crate::common::{Wire, free_port, wait_for};
use crate::site::{Daemon, GEARMAND, Site, assert_fails, text};

const FUNCTION: &str = "kept";
/// The number of the user and of the group that own nothing.
const NOBODY: u32 = 65_534;

/// Ends a server, of which the service manager hears.
#[track_caller]
fn stop(site: &Site, mut server: Daemon) {
    server.terminate();
    assert_eq!(site.heard(), "STOPPING=1\n");
}

/// Two servers do not share a file. In one directory each has its own, by its port.
pub(crate) fn a_queue_has_one_server() {
    let (first_site, second_site, file) = (Site::new(), Site::new(), QueueFile::new());
    let first = first_site.start(&words(&file.options(&[])));
    let path = file.path().display().to_string();
    let log = second_site.name("log");
    let arguments = ["-p", "0", "-L", "127.0.0.1", "-l", &log];
    let options = file.options(&[]);
    let second = second_site.run(&[&arguments[..], &words(&options)].concat());
    let said = [&path[..], "another server (pid ", &first.pid().to_string(), "choose another file or port"];
    assert_fails(&second, &said);
    assert_eq!(second.status.code(), Some(1));
    assert!(second_site.read("log").contains("cannot start"), "{}", second_site.read("log"));
    // Nor does it help that the lock file is removed. The first server makes it again within a second.
    fs::remove_file(format!("{path}.lock")).expect("a lock file");
    let second = second_site.run(&[&arguments[..], &words(&options)].concat());
    assert_fails(&second, &[&path, "another server", "choose another file or port"]);
    // The first serves on.
    let handles = submit(&mut first.connect(), &[job(FUNCTION, "u", b"w")]);
    stop(&first_site, first);
    // Nor is the file in the way of the next one.
    let third = first_site.start(&words(&file.options(&[])));
    assert_eq!(Worker::connect(third.addr(), &[FUNCTION]).work(1)[0].handle, handles[0]);
    let here = first_site.start(&[]);
    let there = first_site.start(&[]);
    let of = |server: &Daemon| shown(server.addr(), "store");
    assert_ne!(of(&here), of(&there));
    // By the same port they would meet, and the port is taken.
    let same = first_site.run(&["-p", &here.port(), "-L", "127.0.0.1", "-l", &log]);
    assert_fails(&same, &[&here.port(), "in use"]);
    for server in [third, here, there] {
        stop(&first_site, server);
    }
}

/// Has a program run as an ordinary user, which root is not.
fn as_ordinary_user(command: &mut Command) -> &mut Command {
    if getuid().is_root() { command.uid(NOBODY).gid(NOBODY) } else { command }
}

/// Nobody asked for a durable queue, and no state directory can be where it would be: the server serves, and
/// says so.
pub(crate) fn no_state_directory() {
    let site = Site::new();
    fs::set_permissions(site.path(""), Permissions::from_mode(0o777)).expect("chmod");
    let file = site.write("file", "");
    let (log, errors) = (site.name("log"), site.path("stderr"));
    let arguments = ["-p", "0", "-L", "127.0.0.1", "-l", &log];
    for home in ["/nonexistent", "/dev/null", ""] {
        let mut command = site.gearmand(&arguments);
        command.env_remove("STATE_DIRECTORY").env_remove("XDG_STATE_HOME").env("HOME", home);
        command.args(["--http-listen", "127.0.0.1:0"]).stderr(fs::File::create(&errors).expect("a file"));
        let server = site.start_command(as_ordinary_user(&mut command));
        let warning = "background jobs are kept in memory and lost when the server stops";
        for place in ["log", "stderr"] {
            let said = wait_for("a warning", || Some(site.read(place)).filter(|said| said.contains(warning)));
            assert!(said.contains(if home.is_empty() { "HOME is not set" } else { home }), "{said}");
        }
        assert_eq!(
            (shown(server.addr(), "state"), shown(server.addr(), "store")),
            ("memory".to_owned(), String::new())
        );
        let handles = submit(&mut server.connect(), &[job(FUNCTION, "u", b"w"), job(FUNCTION, "", b"w")]);
        assert_eq!(Worker::connect(server.addr(), &[FUNCTION]).work(1)[0].handle, handles[0]);
        stop(&site, server);
        assert!(site.read("log").contains("stopping; 1 jobs in memory are lost"), "{}", site.read("log"));
        fs::remove_file(&log).expect("remove the log");
    }
    // Who asks for one gets one, or no server.
    let mut command = site.gearmand(&[&arguments[..], &["-q", "libsqlite3"]].concat());
    let output = command.env("STATE_DIRECTORY", format!("{file}/state")).output().expect("run the program");
    assert_eq!(output.status.code(), Some(1));
    assert_fails(&output, &[&format!("{file}/state"), "--libsqlite3-db"]);
}

/// A state directory that is there or was named, and cannot be used: no start. An existing queue is never
/// passed over.
pub(crate) fn state_directories_that_cannot_be_used() {
    let site = Site::new();
    let port = free_port().to_string();
    let queue = |directory: &str| {
        fs::create_dir_all(site.path(directory)).expect("a directory");
        site.write(&format!("{directory}/gearmand-{port}.sqlite3"), "a queue")
    };
    let mode = |path: &str, mode| fs::set_permissions(site.path(path), Permissions::from_mode(mode)).expect("chmod");
    // All of it is of the user of this test, which is root where it can be, and the server is an ordinary
    // user's.
    site.write("file", "");
    let kept = [queue("read-only"), queue("home/.local/state/gearmand"), queue("unreadable")];
    mode("read-only", 0o555);
    mode("home/.local/state/gearmand", 0o555);
    mode("unreadable", 0o777);
    mode(&format!("unreadable/gearmand-{port}.sqlite3"), 0o000);
    symlink(site.path("not-mounted"), site.path("link")).expect("a link");
    for (variable, value, names) in [
        ("STATE_DIRECTORY", "file", "file is not a directory"),
        ("STATE_DIRECTORY", "file/below", "file/below"),
        ("STATE_DIRECTORY", "read-only", "read-only"),
        ("STATE_DIRECTORY", "link", "link is a dangling symbolic link"),
        ("STATE_DIRECTORY", "unreadable", "unreadable"),
        ("XDG_STATE_HOME", "file", "file/gearmand"),
        ("HOME", "home", "home/.local/state/gearmand"),
    ] {
        // One that starts all the same is ended.
        let mut command = site.program("timeout");
        let log = site.name("log");
        site.write("log", "");
        mode("log", 0o666);
        command.args(["20", GEARMAND, "-p", &port, "-L", "127.0.0.1", "-l", &log]);
        for other in ["STATE_DIRECTORY", "XDG_STATE_HOME", "HOME"] {
            command.env_remove(other);
        }
        command.env(variable, site.name(value));
        let output = as_ordinary_user(&mut command).output().expect("run the program");
        assert_eq!(output.status.code(), Some(1), "{variable}={value}");
        assert_fails(&output, &[&site.name(names), "--queue-type builtin"]);
        let log = site.read("log");
        assert!(log.contains("cannot start: ") && log.contains(&site.name(names)), "{log}");
    }
    mode(&format!("unreadable/gearmand-{port}.sqlite3"), 0o644);
    assert!(kept.iter().all(|path| fs::read_to_string(path).expect("a file") == "a queue"));
}

/// A state directory on a file system that is mounted read-only, for root.
pub(crate) fn a_state_directory_that_is_mounted_read_only() {
    let site = Site::new();
    fs::create_dir(site.path("state")).expect("a directory");
    let path = site.name("state");
    let script = "mount --bind \"$1\" \"$1\" && mount -o remount,bind,ro \"$1\" && exec timeout 20 \"$0\" -p 0 -L 127.0.0.1 -l none";
    let output = site.program("unshare").args(["-m", "sh", "-c", script, GEARMAND, &path]).output().expect("unshare");
    assert_eq!(output.status.code(), Some(1));
    assert_fails(&output, &[&path, "Read-only file system", "--queue-type builtin"]);
}

/// A file that makes no sense is left as it is.
pub(crate) fn a_corrupt_file_is_refused() {
    let site = Site::new();
    let (path, log) = (site.name("queue"), site.name("log"));
    let arguments = ["-p", "0", "-L", "127.0.0.1", "-l", &log, "-q", "libsqlite3", "--libsqlite3-db", &path];
    let server = site.start_command(&mut site.gearmand(&arguments));
    let jobs: Vec<_> = (0..500).map(|serial| job(FUNCTION, &format!("u{serial}"), &[7; 100])).collect();
    submit(&mut server.connect(), &jobs);
    stop(&site, server);
    let whole = fs::read(&path).expect("the file");
    // No database at all, or one with a page of the table overwritten.
    let mut damaged = whole.clone();
    damaged[4096..8 * 4096].fill(0xa5);
    for content in [b"no database, but long enough for the head of one. ".repeat(20), damaged] {
        fs::write(&path, &content).expect("write the file");
        let output = site.run(&arguments);
        assert_eq!(output.status.code(), Some(1), "{}", text(&output.stderr));
        assert_fails(&output, &["cannot start", &path, "restore a backup", ".recover"]);
        assert!(site.read("log").contains(".recover"), "{}", site.read("log"));
        assert!(fs::read(&path).expect("the file") == content, "the file was changed");
    }
    fs::write(&path, &whole).expect("write the file");
    let server = site.start_command(&mut site.gearmand(&arguments));
    assert_eq!(Worker::connect(server.addr(), &[FUNCTION]).work(jobs.len()).len(), jobs.len());
    stop(&site, server);
}

/// Root's server gives the directory, and what is in it, to the user that it becomes.
pub(crate) fn the_queue_belongs_to_the_user() {
    let site = Site::new();
    let user = User::from_name("nobody").expect("the users").expect("a user nobody");
    let files = || fs::read_dir(site.path("state")).expect("the directory").map(|entry| entry.expect("a file").path());
    // Not one of those that outgoing connections get: between the two starts nobody must take it.
    let port = free_port().to_string();
    let arguments = ["-p", &port, "-L", "127.0.0.1", "-l", "none"];
    // First as root, who leaves a queue.
    let server = site.start_command(&mut site.gearmand(&arguments));
    let handles = submit(&mut server.connect(), &[job(FUNCTION, "u", b"w")]);
    stop(&site, server);
    assert!(files().all(|path| fs::metadata(path).expect("a file").uid() == 0));
    let arguments = ["-p", &port, "-L", "127.0.0.1", "-l", "none", "-u", "nobody"];
    let server = site.start_command(&mut site.gearmand(&arguments));
    assert_eq!(Worker::connect(server.addr(), &[FUNCTION]).work(1)[0].handle, handles[0]);
    let kept = submit(&mut Wire::connect(server.addr()), &[job(FUNCTION, "", b"of nobody")]);
    let owned = || {
        files().chain([site.path("state")]).all(|path| fs::metadata(path).expect("a file").uid() == user.uid.as_raw())
    };
    assert!(owned() && files().count() >= 2);
    let path = site.path("state").join(format!("gearmand-{port}.sqlite3"));
    assert_eq!(read(&path).jobs[0].handle.as_bytes(), kept[0]);
    stop(&site, server);
    assert!(owned());
}
