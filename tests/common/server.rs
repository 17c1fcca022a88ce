//! A job server as a child process of the test: ours, or the C++ one that Debian packages.

use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use super::{DEADLINE, wait_for};

/// Where Debian's gearman-job-server puts its program.
const DEBIAN_GEARMAND: &str = "/usr/sbin/gearmand";

/// Chooses the server that [`Server::under_test`] starts: unset or `ours`, or `debian`.
const CHOICE: &str = "GEARMAND_UNDER_TEST";

/// Whose server runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Implementation {
    /// The program of this crate.
    Ours,
    /// The C++ gearmand of Debian's package gearman-job-server.
    Debian,
}

impl Implementation {
    /// The choice of the environment variable `GEARMAND_UNDER_TEST`.
    ///
    /// With `debian` the tests that ask for it run against the C++ server: what fails there as well is the
    /// fault of the test or of the client library, not of our server.
    pub(crate) fn under_test() -> Self {
        match std::env::var(CHOICE).as_deref() {
            Err(_) | Ok("" | "ours") => Self::Ours,
            Ok("debian") => Self::Debian,
            Ok(other) => panic!("{CHOICE} is \"{other}\"; it may be \"ours\" or \"debian\""),
        }
    }
}

/// A running server on a port of 127.0.0.1 of its own. It is killed when this is dropped; if that happens
/// because the test fails, its log is printed.
pub(crate) struct Server {
    implementation: Implementation,
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
    directory: TempDir,
    child: Child,
    addresses: Vec<String>,
    address: SocketAddr,
}

impl Server {
    /// Starts our server on a free port of 127.0.0.1, with `-l stderr` and these arguments; it is ready to
    /// accept when this returns.
    #[track_caller]
    pub(crate) fn ours(arguments: &[&str]) -> Self {
        Self::start(Implementation::Ours, arguments, &[])
    }

    /// Starts our server as [`Server::ours`] does, with these variables in its environment.
    #[track_caller]
    pub(crate) fn ours_with(arguments: &[&str], environment: &[(String, String)]) -> Self {
        Self::start(Implementation::Ours, arguments, environment)
    }

    /// Starts Debian's gearmand on a free port with these arguments; it is ready to accept when this returns.
    #[track_caller]
    pub(crate) fn debian(arguments: &[&str]) -> Self {
        Self::start(Implementation::Debian, arguments, &[])
    }

    /// Starts the server that `GEARMAND_UNDER_TEST` names, ours by default.
    #[track_caller]
    pub(crate) fn under_test(arguments: &[&str]) -> Self {
        Self::start(Implementation::under_test(), arguments, &[])
    }

    #[track_caller]
    fn start(implementation: Implementation, arguments: &[&str], environment: &[(String, String)]) -> Self {
        let directory = TempDir::new().expect("a temporary directory");
        let arguments: Vec<String> = arguments.iter().map(ToString::to_string).collect();
        let environment = environment.to_vec();
        let (child, addresses) = launch(implementation, &arguments, &environment, &directory, None)
            .unwrap_or_else(|why| panic!("{implementation:?} server did not start: {why}"));
        let address = first_tcp(&addresses);
        Self { implementation, arguments, environment, directory, child, addresses, address }
    }

    /// Whose server this is.
    pub(crate) fn implementation(&self) -> Implementation {
        self.implementation
    }

    /// Where it listens on TCP (the first such address).
    pub(crate) fn addr(&self) -> SocketAddr {
        self.address
    }

    /// Where it serves HTTP, where it was started with `--http-listen`.
    #[track_caller]
    pub(crate) fn http(&self) -> SocketAddr {
        let http = self.addresses.iter().find_map(|address| address.strip_prefix("http://")?.parse().ok());
        http.unwrap_or_else(|| panic!("no address of HTTP among {:?}", self.addresses))
    }

    /// The port of [`Server::addr`].
    pub(crate) fn port(&self) -> u16 {
        self.address.port()
    }

    /// All the addresses it announced: `127.0.0.1:43210`, `[::1]:43210`, `unix:/path`.
    pub(crate) fn addresses(&self) -> &[String] {
        &self.addresses
    }

    /// The process id.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it has logged so far.
    pub(crate) fn log(&self) -> String {
        log(&self.directory)
    }

    /// Sends it a signal.
    #[track_caller]
    pub(crate) fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.pid()).expect("a process id");
        kill(Pid::from_raw(pid), signal).expect("signal the server");
    }

    /// Waits until it has ended by itself.
    #[track_caller]
    pub(crate) fn wait(&mut self) -> ExitStatus {
        let child = &mut self.child;
        wait_for("the end of the server", || child.try_wait().expect("wait for the server"))
    }

    /// Ends it in order, with SIGTERM, and waits for that.
    #[track_caller]
    pub(crate) fn terminate(&mut self) -> ExitStatus {
        self.signal(Signal::SIGTERM);
        self.wait()
    }

    /// Ends it at once, with SIGKILL.
    #[track_caller]
    pub(crate) fn kill(&mut self) {
        self.signal(Signal::SIGKILL);
        self.wait();
    }

    /// Ends it with SIGTERM, if it still runs, and starts it anew with the same arguments on the same port.
    #[track_caller]
    pub(crate) fn restart(&mut self) {
        if self.child.try_wait().expect("wait for the server").is_none() {
            self.terminate();
        }
        let end = Instant::now() + DEADLINE;
        // Somebody who looks for a free port may hold it for a moment.
        loop {
            match launch(self.implementation, &self.arguments, &self.environment, &self.directory, Some(self.port())) {
                Ok((child, addresses)) => {
                    self.child = child;
                    self.addresses = addresses;
                    return;
                }
                Err(why) if Instant::now() > end => panic!("the server did not come back: {why}"),
                Err(_) => {}
            }
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Fails only for a process that has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- log of the {:?} server:\n{}---", self.implementation, self.log());
        }
    }
}

type Launched = Result<(Child, Vec<String>), String>;

/// Starts a server on `port`, or on any free one, and waits until it accepts.
fn launch(
    implementation: Implementation,
    arguments: &[String],
    environment: &[(String, String)],
    directory: &TempDir,
    port: Option<u16>,
) -> Launched {
    match (implementation, port) {
        (Implementation::Ours, Some(port)) => launch_ours(arguments, environment, directory, port),
        // Not any port: one from the range of outgoing connections may be another's while the server
        // restarts.
        (Implementation::Ours, None) => loop {
            let port = free_port();
            match launch_ours(arguments, environment, directory, port) {
                // Between the choice of a port and the server's bind somebody else took it.
                Err(why) if why.contains(&format!(":{port}: the address is in use")) => {}
                launched => return launched,
            }
        },
        (Implementation::Debian, Some(port)) => launch_debian(arguments, directory, port),
        (Implementation::Debian, None) => {
            // Between the choice of a port and the server's bind somebody else may take it.
            let attempt = || launch_debian(arguments, directory, free_port());
            attempt().or_else(|_| attempt()).or_else(|_| attempt())
        }
    }
}

fn launch_ours(arguments: &[String], environment: &[(String, String)], directory: &TempDir, port: u16) -> Launched {
    let notify_path = directory.path().join("notify");
    let _ = fs::remove_file(&notify_path);
    let notify = UnixDatagram::bind(&notify_path).expect("a notification socket");
    // Short, to notice a server that dies instead.
    notify.set_read_timeout(Some(Duration::from_millis(50))).expect("SO_RCVTIMEO");
    let mut command = program(environment);
    command
        .args(["--port", &port.to_string(), "-l", "stderr"])
        .args(listen(arguments))
        // The default port is for one server alone.
        .args(if arguments.iter().any(|argument| argument == "--http-listen") {
            &[][..]
        } else {
            &["--http-listen", "off"]
        })
        .args(arguments)
        .env("NOTIFY_SOCKET", &notify_path);
    let mut child = spawn(command, environment, directory);
    let end = Instant::now() + DEADLINE;
    let mut message = [0; 4096];
    while Instant::now() < end {
        if let Ok(length) = notify.recv(&mut message)
            && let Some(addresses) = listening(&String::from_utf8_lossy(&message[..length]))
        {
            return Ok((child, addresses));
        }
        if let Some(status) = child.try_wait().expect("wait for the server") {
            return Err(format!("it ended with {status}:\n{}", log(directory)));
        }
    }
    end_of(child);
    Err(format!("no READY=1 within {DEADLINE:?}:\n{}", log(directory)))
}

/// Names a control group in which our server is started, by its directory.
pub(crate) const CONTROL_GROUP: &str = "TEST_CONTROL_GROUP";

/// Our program. The shell enters a control group before it becomes the program, which looks at the group's
/// limits first of all.
fn program(environment: &[(String, String)]) -> Command {
    let binary = env!("CARGO_BIN_EXE_gearmand");
    let Some((_, group)) = environment.iter().find(|(name, _)| name == CONTROL_GROUP) else {
        return Command::new(binary);
    };
    let mut command = Command::new("sh");
    command.args(["-c", r#"echo $$ > "$0/cgroup.procs" && exec "$@""#, group, binary]);
    command
}

/// Where it listens, unless a test says that. C++ gearmand takes this option once.
fn listen(arguments: &[String]) -> &'static [&'static str] {
    if arguments.iter().any(|argument| argument == "-L") { &[] } else { &["-L", "127.0.0.1"] }
}

/// The addresses of a notification that says `READY=1` and `STATUS=Listening on A, B`.
fn listening(message: &str) -> Option<Vec<String>> {
    if !message.lines().any(|line| line == "READY=1") {
        return None;
    }
    let list = message.lines().find_map(|line| line.strip_prefix("STATUS=Listening on "))?;
    Some(list.split(", ").map(str::to_owned).collect())
}

fn launch_debian(arguments: &[String], directory: &TempDir, port: u16) -> Launched {
    assert!(PathBuf::from(DEBIAN_GEARMAND).exists(), "{DEBIAN_GEARMAND} is missing: run tests/install-peers.sh");
    let pid_file = directory.path().join("gearmand.pid");
    let mut command = Command::new(DEBIAN_GEARMAND);
    command
        .args(["--port", &port.to_string(), "-l", "stderr"])
        .args(listen(arguments))
        .arg("--pid-file")
        .arg(&pid_file)
        .args(arguments)
        .current_dir(directory.path());
    let mut child = spawn(command, &[], directory);
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let end = Instant::now() + DEADLINE;
    while Instant::now() < end {
        if owns_port(child.id(), port) && TcpStream::connect(address).is_ok() {
            return Ok((child, vec![address.to_string()]));
        }
        if let Some(status) = child.try_wait().expect("wait for the server") {
            return Err(format!("it ended with {status}:\n{}", log(directory)));
        }
        std::thread::sleep(super::POLL_INTERVAL);
    }
    end_of(child);
    Err(format!("port {port} not bound within {DEADLINE:?}:\n{}", log(directory)))
}

/// Starts the process with its output in the log of `directory` and an environment of which only
/// `environment` has server settings.
fn spawn(mut command: Command, environment: &[(String, String)], directory: &TempDir) -> Child {
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("GEARMAND_") {
            command.env_remove(name);
        }
    }
    // Where a server of ours keeps its queue, so that a restart finds it.
    command.env("STATE_DIRECTORY", directory.path());
    command.envs(environment.iter().map(|(name, value)| (name, value)));
    let log = File::options().create(true).append(true).open(log_path(directory)).expect("a log file");
    command
        .stdin(Stdio::null())
        .stdout(log.try_clone().expect("a log file"))
        .stderr(log)
        .spawn()
        .unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"))
}

fn end_of(mut child: Child) {
    let _ = child.kill();
    let _ = child.wait();
}

fn log_path(directory: &TempDir) -> PathBuf {
    directory.path().join("log")
}

fn log(directory: &TempDir) -> String {
    let bytes = fs::read(log_path(directory)).unwrap_or_default();
    String::from_utf8_lossy(&bytes).into_owned()
}

fn first_tcp(addresses: &[String]) -> SocketAddr {
    addresses
        .iter()
        .find_map(|address| address.parse().ok())
        .unwrap_or_else(|| panic!("no TCP address among {addresses:?}"))
}

/// A port that nobody listens on, below the range from which outgoing connections get theirs. Tests that run
/// at the same time start their search at different places.
pub(crate) fn free_port() -> u16 {
    const LOWEST: u16 = 12_000;
    const COUNT: u32 = 18_000;
    /// More ports than a test needs, so that processes with ids next to each other keep apart.
    const STRIDE: u32 = 61;
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let process = std::process::id() % COUNT;
    loop {
        let step = NEXT.fetch_add(1, Ordering::Relaxed);
        let port = LOWEST + u16::try_from((process * STRIDE + step) % COUNT).expect("less than COUNT");
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return port;
        }
    }
}

/// Whether this process itself listens on `port`, so that no other server is mistaken for it.
fn owns_port(pid: u32, port: u16) -> bool {
    const LISTENING: &str = "0A";
    let table = fs::read_to_string("/proc/net/tcp").expect("/proc/net/tcp");
    let suffix = format!(":{port:04X}");
    let sockets: Vec<PathBuf> = table
        .lines()
        .skip(1)
        .map(|line| line.split_whitespace().collect::<Vec<_>>())
        .filter(|fields| fields[1].ends_with(&suffix) && fields[3] == LISTENING)
        .map(|fields| PathBuf::from(format!("socket:[{}]", fields[9])))
        .collect();
    let Ok(descriptors) = fs::read_dir(format!("/proc/{pid}/fd")) else {
        return false;
    };
    descriptors.flatten().filter_map(|entry| fs::read_link(entry.path()).ok()).any(|target| sockets.contains(&target))
}
