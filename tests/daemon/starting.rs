//! Detaching, the pid file, the user, and the limit of files.

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::process::Command;

use nix::sys::signal::Signal;
use nix::unistd::User;

use crate::common::{Wire, wait_for};
use crate::site::{Site, assert_fails, signal_to, taken_port, text};

pub(crate) fn detaches_when_it_listens() {
    let site = Site::new();
    let (log, pid_file) = (site.name("log"), site.name("pid"));
    let output = site.run(&["-d", "-p", "0", "-L", "127.0.0.1", "-l", &log, "-P", &pid_file, "--verbose", "NOTICE"]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    // All of it is there when the command has returned.
    let pid: u32 = site.read("pid").trim().parse().expect("a process id");
    let address = site.await_ready()[0].parse().expect("an address");
    assert_eq!(Wire::connect(address).text("getpid"), format!("OK {pid}\n"));
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("a living process");
    let session = stat.rsplit(") ").next().and_then(|fields| fields.split(' ').nth(3)).expect("a session");
    assert_eq!(session, pid.to_string(), "it leads a session of its own");
    for stream in 0..3 {
        let target = fs::read_link(format!("/proc/{pid}/fd/{stream}")).expect("a standard stream");
        assert_eq!(target.to_str(), Some("/dev/null"), "stream {stream}");
    }
    signal_to(pid, Signal::SIGTERM);
    wait_for("the end of the daemon", || (!site.path("pid").exists()).then_some(()));
    wait_for("its last word", || site.read("log").contains("stopped").then_some(()));
}

pub(crate) fn detaching_fails_where_the_port_is_in_use() {
    let site = Site::new();
    let (_listener, port) = taken_port();
    let (log, pid_file) = (site.name("log"), site.name("pid"));
    let output = site.run(&["-d", "-p", &port, "-L", "127.0.0.1", "-l", &log, "-P", &pid_file]);
    assert_fails(&output, &["gearmand: ", &format!("127.0.0.1:{port}"), "in use"]);
    assert!(!site.path("pid").exists(), "it wrote a pid file");
    let output = site.run(&["-p", &port, "-L", "127.0.0.1", "-l", &log, "-P", &pid_file]);
    assert_fails(&output, &["in use"]);
}

pub(crate) fn a_pid_file_is_that_of_the_living() {
    let site = Site::new();
    let pid_file = site.name("pid");
    let mut first = site.start(&["-P", &pid_file]);
    let content = format!("{}\n", first.pid());
    assert_eq!(site.read("pid"), content);
    for port in ["0", &first.port()] {
        let second = site.run(&["-p", port, "-L", "127.0.0.1", "-l", "none", "-P", &pid_file]);
        assert_fails(&second, &["gearmand: "]);
        assert_eq!(site.read("pid"), content, "port {port}");
    }
    let second = site.run(&["-p", "0", "-L", "127.0.0.1", "-l", "none", "-P", &pid_file]);
    assert_fails(&second, &["another instance is running", &first.pid().to_string()]);
    first.connect().expect_nothing();
    // Killed, it leaves its file behind, which says nothing any more.
    first.signal(Signal::SIGKILL);
    first.wait();
    assert_eq!(site.read("pid"), content);
    let mut third = site.start(&["-P", &pid_file]);
    assert_eq!(site.read("pid"), format!("{}\n", third.pid()));
    third.terminate();
    assert!(!site.path("pid").exists(), "it is still there");
}

pub(crate) fn a_pid_file_of_a_server_that_locks_nothing() {
    let site = Site::new();
    let program = site.path("gearmand");
    // A copy could not be started while a program that another test starts has inherited its descriptor.
    symlink("/bin/sleep", &program).expect("a program of this name");
    let mut other = Command::new(&program).arg("600").spawn().expect("start it");
    let name = format!("/proc/{}/comm", other.id());
    wait_for("its name", || fs::read_to_string(&name).is_ok_and(|name| name == "gearmand\n").then_some(()));
    let pid_file = site.write("pid", &format!("{}\n", other.id()));
    let refused = site.run(&["-p", "0", "-L", "127.0.0.1", "-l", "none", "-P", &pid_file]);
    other.kill().expect("kill it");
    other.wait().expect("wait for it");
    assert_fails(&refused, &["another instance is running", &other.id().to_string()]);
    assert_eq!(site.read("pid"), format!("{}\n", other.id()));
    site.start(&["-P", &pid_file]).terminate();
}

pub(crate) fn privileges_are_dropped_after_binding() {
    const USER: &str = "nobody";
    let site = Site::new();
    let user = User::from_name(USER).expect("the user data base").expect("a user that every system has");
    let pid_file = site.name("pid");
    let socket = site.name("socket");
    // A port that only root may have.
    let mut server = (600..1000)
        .find(|port| std::net::TcpListener::bind(("127.0.0.1", *port)).is_ok())
        .map(|port: u16| {
            let (port, listen) = (port.to_string(), format!("unix:{socket}"));
            let arguments = ["-p", &port, "-L", "127.0.0.1", "-L", &listen, "-u", USER, "-P", &pid_file, "-l", "none"];
            site.start_command(&mut site.gearmand(&arguments))
        })
        .expect("a free port below 1024");
    server.connect().expect_nothing();
    let status = fs::read_to_string(format!("/proc/{}/status", server.pid())).expect("its status");
    let line = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).expect("a line of status");
        line.split_whitespace().map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(line("Uid:"), vec![user.uid.to_string(); 4]);
    assert_eq!(line("Gid:"), vec![user.gid.to_string(); 4]);
    for capabilities in ["CapEff:", "CapPrm:", "CapAmb:"] {
        assert_eq!(line(capabilities), ["0000000000000000"], "{capabilities}");
    }
    assert!(!line("Groups:").contains(&"0".to_owned()), "root's group");
    let owner = |path: &str| fs::metadata(path).expect("a file").uid();
    assert_eq!([owner(&pid_file), owner(&socket)], [user.uid.as_raw(); 2]);
    server.terminate();
    // The directory is root's: what could not be removed names nobody.
    assert_eq!(site.read("pid"), "");
    let unknown = site.run(&["-p", "0", "-L", "127.0.0.1", "-u", "no-such-user"]);
    assert_fails(&unknown, &["no-such-user"]);
}

pub(crate) fn descriptor_limit() {
    let site = Site::new();
    let server = site.start(&["-f", "100"]);
    let limits = fs::read_to_string(format!("/proc/{}/limits", server.pid())).expect("its limits");
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files")).expect("a limit of open files");
    assert_eq!(line.split_whitespace().next(), Some("100"));
}
