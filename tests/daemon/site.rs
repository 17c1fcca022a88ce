//! A place where servers run: a directory for their files, and a service manager that hears what they say.

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Output, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use crate::common::{DEADLINE, Wire, wait_for};

/// The program under test.
pub(crate) const GEARMAND: &str = env!("CARGO_BIN_EXE_gearmand");

pub(crate) struct Site {
    directory: TempDir,
    manager: UnixDatagram,
}

impl Site {
    pub(crate) fn new() -> Self {
        let directory = TempDir::new().expect("a temporary directory");
        // Other users are to reach what is in it.
        fs::set_permissions(directory.path(), PermissionsExt::from_mode(0o755)).expect("chmod");
        let manager = UnixDatagram::bind(directory.path().join("notify")).expect("a datagram socket");
        fs::set_permissions(directory.path().join("notify"), PermissionsExt::from_mode(0o777)).expect("chmod");
        manager.set_read_timeout(Some(DEADLINE)).expect("SO_RCVTIMEO");
        Self { directory, manager }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// The path as an argument.
    pub(crate) fn name(&self, name: &str) -> String {
        self.path(name).into_os_string().into_string().expect("a path in ASCII")
    }

    pub(crate) fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap_or_default()
    }

    pub(crate) fn write(&self, name: &str, content: &str) -> String {
        fs::write(self.path(name), content).expect("write a file");
        self.name(name)
    }

    /// A program with an environment that says nothing but where the service manager is, and where state is
    /// kept.
    pub(crate) fn program(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("GEARMAN") {
                command.env_remove(name);
            }
        }
        command.env("NOTIFY_SOCKET", self.path("notify")).env("STATE_DIRECTORY", self.path("state"));
        // The default port is for one server alone.
        command.env("GEARMAND_HTTP_LISTEN", "off");
        command.stdin(Stdio::null());
        command
    }

    pub(crate) fn gearmand(&self, arguments: &[&str]) -> Command {
        let mut command = self.program(GEARMAND);
        command.args(arguments);
        command
    }

    /// Runs it to its end.
    #[track_caller]
    pub(crate) fn run(&self, arguments: &[&str]) -> Output {
        self.gearmand(arguments).output().expect("run the program")
    }

    /// Starts a server on a free port of 127.0.0.1, with its log in the file `log`, and waits until it
    /// listens.
    #[track_caller]
    pub(crate) fn start(&self, arguments: &[&str]) -> Daemon {
        let log = self.name("log");
        let mut command = self.gearmand(&["-p", "0", "-L", "127.0.0.1", "-l", &log]);
        // The environment gives way to an argument.
        self.start_command(command.env("GEARMAND_VERBOSE", "NOTICE").args(arguments))
    }

    /// Starts a server and waits until it listens.
    #[track_caller]
    pub(crate) fn start_command(&self, command: &mut Command) -> Daemon {
        let child = command.spawn().expect("start the program");
        let addresses = self.await_ready();
        Daemon { child, addresses, log: self.path("log") }
    }

    /// The next thing that the service manager hears.
    #[track_caller]
    pub(crate) fn heard(&self) -> String {
        let mut message = [0; 4096];
        let length = self.manager.recv(&mut message).expect("a message to the service manager");
        String::from_utf8_lossy(&message[..length]).into_owned()
    }

    /// Waits for `READY=1`; the addresses that come with it.
    #[track_caller]
    pub(crate) fn await_ready(&self) -> Vec<String> {
        let message = self.heard();
        assert!(message.starts_with("READY=1\n"), "{message}");
        let list = message.lines().find_map(|line| line.strip_prefix("STATUS=Listening on ")).expect("addresses");
        list.split(", ").map(str::to_owned).collect()
    }
}

/// A running server. It is killed when this is dropped; if that happens because the test fails, its log is
/// printed.
pub(crate) struct Daemon {
    child: Child,
    addresses: Vec<String>,
    log: PathBuf,
}

impl Daemon {
    pub(crate) fn addresses(&self) -> &[String] {
        &self.addresses
    }

    /// The first TCP address.
    pub(crate) fn addr(&self) -> SocketAddr {
        self.addresses.iter().find_map(|address| address.parse().ok()).expect("a TCP address")
    }

    pub(crate) fn port(&self) -> String {
        self.addr().port().to_string()
    }

    #[track_caller]
    pub(crate) fn connect(&self) -> Wire {
        Wire::connect(self.addr())
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    #[track_caller]
    pub(crate) fn signal(&self, signal: Signal) {
        signal_to(self.pid(), signal);
    }

    /// Waits until it has ended by itself.
    #[track_caller]
    pub(crate) fn wait(&mut self) -> ExitStatus {
        wait_for("the end of the server", || self.child.try_wait().expect("wait for the server"))
    }

    #[track_caller]
    pub(crate) fn assert_ends_well(&mut self) {
        let status = self.wait();
        assert!(status.success(), "it ended with {status}");
    }

    /// Ends it in order.
    #[track_caller]
    pub(crate) fn terminate(&mut self) {
        self.signal(Signal::SIGTERM);
        self.assert_ends_well();
    }

    /// Waits until its log says so.
    #[track_caller]
    pub(crate) fn await_log(&self, text: &str) {
        wait_for(text, || fs::read_to_string(&self.log).is_ok_and(|log| log.contains(text)).then_some(()));
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // Fails only for a process that has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- log of the server:\n{}---", fs::read_to_string(&self.log).unwrap_or_default());
        }
    }
}

#[track_caller]
pub(crate) fn signal_to(pid: u32, signal: Signal) {
    kill(Pid::from_raw(i32::try_from(pid).expect("a process id")), signal).expect("signal the server");
}

/// Takes a port, for as long as the listener lives.
pub(crate) fn taken_port() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("its number").port().to_string();
    (listener, port)
}

/// What a program printed.
pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// That it failed, and said this among other things.
#[track_caller]
pub(crate) fn assert_fails(output: &Output, said: &[&str]) {
    let stderr = text(&output.stderr);
    assert!(!output.status.success(), "it succeeded");
    for words in said {
        assert!(stderr.contains(words), "\"{words}\" is missing in: {stderr}");
    }
}
