//! Listening sockets passed by a service manager.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::path::Path;
use std::process::{Child, Command, ExitCode, Stdio};

use gearmand::process::listen::Listeners;

use crate::{DEADLINE, ROLE, RoleResult, assert_exit, text};

pub(crate) fn role_inherited(facts: &str) -> RoleResult {
    let Some(listeners) = Listeners::inherited()? else {
        fs::write(facts, "none")?;
        return Ok(ExitCode::SUCCESS);
    };
    if Listeners::inherited()?.is_some() {
        return Err("inherited twice".into());
    }
    fs::write(facts, listeners.addresses().join("\n"))?;
    listeners.tcp[0].set_nonblocking(false)?;
    listeners.unix[0].set_nonblocking(false)?;
    listeners.tcp[0].accept()?.0.write_all(b"tcp")?;
    listeners.unix[0].accept()?.0.write_all(b"unix")?;
    Ok(ExitCode::SUCCESS)
}

/// Starts the role with a service manager's environment; its standard input and output are what
/// it finds as descriptors 3 and 4.
fn activated(facts: &Path, pid: &str, sockets: [OwnedFd; 2]) -> Child {
    let [first, second] = sockets;
    Command::new("sh")
        .arg("-c")
        .arg(format!("LISTEN_PID={pid} LISTEN_FDS=2 exec \"$0\" \"$@\" 3<&0 4<&1 </dev/null >/dev/null"))
        .arg(std::env::current_exe().unwrap())
        .arg(facts)
        .env(ROLE, "inherited")
        .stdin(Stdio::from(first))
        .stdout(Stdio::from(second))
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

pub(crate) fn socket_activation() {
    let directory = tempfile::tempdir().unwrap();
    let facts = directory.path().join("facts");
    let path = directory.path().join("socket");
    let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = tcp.local_addr().unwrap();
    let unix = UnixListener::bind(&path).unwrap();
    let sockets = || [tcp.try_clone().unwrap().into(), unix.try_clone().unwrap().into()];
    let process = activated(&facts, "$$", sockets());
    let mut answer = String::new();
    let mut connection = TcpStream::connect(address).unwrap();
    connection.set_read_timeout(Some(DEADLINE)).unwrap();
    connection.read_to_string(&mut answer).unwrap();
    let mut connection = UnixStream::connect(&path).unwrap();
    connection.set_read_timeout(Some(DEADLINE)).unwrap();
    connection.read_to_string(&mut answer).unwrap();
    assert_eq!(answer, "tcpunix");
    assert_exit(&process.wait_with_output().unwrap(), 0);
    assert_eq!(fs::read_to_string(&facts).unwrap(), format!("{address}\nunix:{}", path.display()));
    assert!(path.exists(), "the manager's socket is not ours to remove");

    let other = activated(&facts, "1", sockets());
    assert_exit(&other.wait_with_output().unwrap(), 0);
    assert_eq!(fs::read_to_string(&facts).unwrap(), "none", "meant for another process");
}

pub(crate) fn socket_activation_refuses() {
    let directory = tempfile::tempdir().unwrap();
    let facts = directory.path().join("facts");
    let listener = || OwnedFd::from(TcpListener::bind("127.0.0.1:0").unwrap());
    let datagram = OwnedFd::from(UnixDatagram::unbound().unwrap());
    let file = OwnedFd::from(fs::File::open("/dev/null").unwrap());
    for wrong in [datagram, file] {
        let process = activated(&facts, "$$", [listener(), wrong]);
        let output = process.wait_with_output().unwrap();
        assert_exit(&output, 2);
        let stderr = text(&output.stderr);
        assert!(stderr.contains("socket activation: descriptor 4: not a listening socket"), "{stderr}");
        assert!(!facts.exists());
    }
}
