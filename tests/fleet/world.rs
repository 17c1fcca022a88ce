//! Three hosts and a server.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

use crate::common::{Implementation, Program, Server, wait_for};

/// How long anything may take: workers of three languages start beside other tests.
pub(crate) const PATIENCE: Duration = Duration::from_mins(1);
/// The pause between two questions how the fleet is.
const PAUSE: Duration = Duration::from_millis(50);

/// Networks of this process so far.
static NETWORKS: AtomicU8 = AtomicU8::new(0);

/// Runs a command that must do well.
#[track_caller]
pub(crate) fn run(command: &mut Command) {
    let output = command.output().unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

fn ip(arguments: &str) {
    run(Command::new("ip").args(arguments.split(' ')));
}

/// What workers are written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Language {
    Ours,
    Php,
    Python,
}

impl Language {
    pub(crate) const ALL: [Self; 3] = [Self::Ours, Self::Php, Self::Python];
}

/// A host. Its processes end with it.
pub(crate) struct Host {
    pub(crate) name: String,
    /// The end of its cable at the server.
    cable: String,
    /// The server's address as seen from here.
    server: String,
    shell: Child,
    init: u32,
}

impl Host {
    fn new(network: u8, number: u8) -> Self {
        let name = format!("web{number}");
        let script = format!("hostname {name} && ip link set lo up && exec sleep infinity");
        let mut shell = Command::new("unshare")
            .args(["--net", "--uts", "--pid", "--fork", "--kill-child", "--mount", "--mount-proc", "sh", "-c", &script])
            .stdin(Stdio::null())
            .spawn()
            .expect("unshare, of Debian's package util-linux");
        let children = format!("/proc/{0}/task/{0}/children", shell.id());
        let is_sleeping =
            |pid: u32| fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.trim() == "sleep");
        let init = wait_for("the first process of a host", || {
            assert_eq!(shell.try_wait().unwrap(), None, "no namespaces: {script}");
            fs::read_to_string(&children).ok()?.trim().parse().ok().filter(|pid| is_sleeping(*pid))
        });
        let cable = format!("cable{network}x{number}");
        let net = format!("10.{network}.{number}");
        ip(&format!("link add {cable} type veth peer name eth0 netns {init}"));
        ip(&format!("addr add {net}.1/24 dev {cable}"));
        ip(&format!("link set {cable} up"));
        let host = Self { name, cable, server: format!("{net}.1"), shell, init };
        run(host.command("ip").args(["addr", "add", &format!("{net}.2/24"), "dev", "eth0"]));
        run(host.command("ip").args(["link", "set", "eth0", "up"]));
        host
    }

    /// A command on this host.
    pub(crate) fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--target", &self.init.to_string(), "--net", "--uts", "--pid", "--mount", "--"]).arg(program);
        command
    }

    /// Kills a process of this host, which knows it by this pid.
    pub(crate) fn kill(&self, pid: u64) {
        run(self.command("kill").args(["-9", &pid.to_string()]));
    }

    /// Ends all its processes at once.
    pub(crate) fn cut_power(&mut self) {
        run(Command::new("kill").args(["-9", &self.init.to_string()]));
        self.shell.wait().expect("the end of a host");
    }

    /// Pulls the plug of its network, or puts it in again.
    pub(crate) fn plug(&self, is_in: bool) {
        ip(&format!("link set {} {}", self.cable, if is_in { "up" } else { "down" }));
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // `--kill-child` ends the rest; a host without power has ended already.
        let _ = self.shell.kill();
        let _ = self.shell.wait();
    }
}

/// The hosts, the server, and what runs on them.
pub(crate) struct World {
    /// They go first, and take their workers with them: a program's end is that of `nsenter` alone.
    pub(crate) hosts: Vec<Host>,
    pub(crate) workers: Vec<Program>,
    pub(crate) server: Server,
    pub(crate) directory: TempDir,
    network: u8,
}

impl World {
    pub(crate) fn new(implementation: Implementation) -> Self {
        let network = 60 + NETWORKS.fetch_add(1, Ordering::Relaxed);
        let arguments = ["-L", "0.0.0.0"];
        let server = match implementation {
            Implementation::Ours => Server::ours(&arguments),
            Implementation::Debian => Server::debian(&arguments),
        };
        let hosts = (1..=3).map(|number| Host::new(network, number)).collect();
        let world = Self { workers: Vec::new(), hosts, server, directory: TempDir::new().unwrap(), network };
        world.set_version("1");
        world
    }

    /// A host like the one that was there before, with nothing on it.
    pub(crate) fn replace_host(&mut self, index: usize) {
        let number = u8::try_from(index + 1).unwrap();
        // A host whose last process is gone takes its end of the cable with it.
        let cable = self.hosts[index].cable.clone();
        wait_for("the end of a cable", || {
            let shown = Command::new("ip").args(["link", "show", &cable]).output().unwrap();
            (!shown.status.success()).then_some(())
        });
        self.hosts[index] = Host::new(self.network, number);
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// The version of all workers that start from now on.
    pub(crate) fn set_version(&self, version: &str) {
        fs::write(self.path("version.new"), format!("{version}\n")).unwrap();
        fs::rename(self.path("version.new"), self.path("version")).unwrap();
    }

    /// Starts a worker on a host.
    pub(crate) fn start(&mut self, host: usize, language: Language) {
        self.start_for(host, language, "t");
    }

    /// Starts a worker of another fleet.
    pub(crate) fn start_for(&mut self, host: usize, language: Language, fleet: &str) {
        let host = &self.hosts[host];
        let (log, version) = (self.path("log"), self.path("version"));
        let server = format!("{}:{}", host.server, self.server.port());
        let clients = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients");
        let mut command = match language {
            Language::Ours => {
                let mut command = host.command(env!("CARGO_BIN_EXE_gearmand"));
                // A command whose worker is killed before it has passed on the workload has none.
                command.args(["work", "--managed", "--server", &server]).arg("--version-file").arg(&version).args([
                    "-f",
                    r#"log_line=read line || true; test -n "$line" && echo "$line" >> "$LOG_FILE""#,
                    "-f",
                    r#"sleep_ms=read ms || true; sleep "$(printf '%d.%03d' $((ms / 1000)) $((ms % 1000)))"; printf %s "$ms""#,
                    "-f",
                    "fail=exit 1",
                    "-f",
                    "reverse=rev",
                ]);
                command
            }
            Language::Php => {
                let mut command = host.command("php");
                command.arg(clients.join("php/managed_worker.php"));
                command
            }
            Language::Python => {
                let venv = clients.join("venv/bin/python3");
                let mut command = host.command(if venv.exists() { venv } else { "python3".into() });
                command.arg(clients.join("pygearman/managed_worker.py"));
                command
            }
        };
        command
            .env("GEARMAN_SERVERS", &server)
            .env("FLEET_NAME", fleet)
            .env("LOG_FILE", log)
            .env("WORKER_VERSION_FILE", version);
        self.workers.push(Program::start(&mut command));
    }

    /// Starts one of each language on each host.
    pub(crate) fn start_all(&mut self) {
        for host in 0..self.hosts.len() {
            for language in Language::ALL {
                self.start(host, language);
            }
        }
    }

    /// One of each language on each host, and a monitor that has found them; then this is wanted.
    #[track_caller]
    pub(crate) fn with_fleet(implementation: Implementation, wanted: &str) -> (Self, Program) {
        let mut world = Self::new(implementation);
        world.start_all();
        world.want("");
        let monitor = world.monitor();
        world.settled("all are found", |status| workers(status).len() == 9);
        world.want(wanted);
        (world, monitor)
    }

    /// Writes what is wanted: what is the same in all tests, and this.
    pub(crate) fn want(&self, rest: &str) -> PathBuf {
        let interval = if rest.starts_with("interval") { "" } else { "interval = \"300ms\"\n" };
        let text = format!(
            "fleet = \"t\"\n{interval}answer_timeout = \"3s\"\nunresponsive_timeout = \"4s\"\nstart_timeout = \"20s\"\n{rest}"
        );
        let path = self.path("fleet.toml");
        fs::write(self.path("fleet.toml.part"), text).unwrap();
        fs::rename(self.path("fleet.toml.part"), &path).unwrap();
        path
    }

    /// `gearmand fleet`.
    pub(crate) fn fleet(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_gearmand"));
        let server = format!("127.0.0.1:{}", self.server.port());
        command.args(["fleet", "--server", &server, "--fleet-name", "t"]).args(arguments);
        command
    }

    /// Starts a monitor that goes by the file.
    pub(crate) fn monitor(&self) -> Program {
        let path = self.path("fleet.toml");
        Program::start(&mut self.fleet(&["run", path.to_str().unwrap()]))
    }

    /// The same, what it says being its standard output.
    pub(crate) fn monitor_that_is_heard(&self) -> Program {
        let path = self.path("fleet.toml");
        let monitor = self.fleet(&["run", path.to_str().unwrap()]);
        let mut command = Command::new("sh");
        command.args(["-c", "exec \"$@\" 2>&1", "sh"]).arg(monitor.get_program()).args(monitor.get_args());
        Program::start(&mut command)
    }

    /// How the fleet is, as soon as that can be told: a monitor that is late with its answer is asked again.
    #[track_caller]
    pub(crate) fn report(&self) -> Value {
        self.wait("a report", |status| !status.is_null())
    }

    /// How the fleet is; `Null` where nobody has told that in time.
    #[track_caller]
    pub(crate) fn status(&self) -> Value {
        let output = self.fleet(&["--json", "status"]).output().unwrap();
        if !output.status.success() {
            return Value::Null;
        }
        serde_json::from_slice(&output.stdout).expect("JSON")
    }

    /// The fleet as people read it.
    fn shown(&self) -> String {
        let output = self.fleet(&["status"]).output().unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Asks until the fleet is so; returns how it is then.
    #[track_caller]
    pub(crate) fn wait(&self, what: &str, mut is_so: impl FnMut(&Value) -> bool) -> Value {
        let end = Instant::now() + PATIENCE;
        loop {
            let status = self.status();
            if is_so(&status) {
                return status;
            }
            assert!(Instant::now() < end, "not so within {PATIENCE:?}: {what}\n{}", self.shown());
            std::thread::sleep(PAUSE);
        }
    }

    /// Asks until the monitor has nothing more to do.
    #[track_caller]
    pub(crate) fn settled(&self, what: &str, mut is_so: impl FnMut(&Value) -> bool) -> Value {
        self.wait(what, |status| status["settled"] == true && is_so(status))
    }
}

/// The workers of a report.
pub(crate) fn workers(status: &Value) -> &[Value] {
    status["workers"].as_array().map_or(&[], Vec::as_slice)
}

/// How many workers do a function, of those that answer.
pub(crate) fn doing(status: &Value, function: &str) -> usize {
    workers(status).iter().filter(|worker| uses(worker, function) && worker["silent"] == 0.0).count()
}

/// How many workers of a host do a function.
pub(crate) fn doing_on(status: &Value, function: &str, host: &str) -> usize {
    workers(status).iter().filter(|worker| uses(worker, function) && worker["host"] == host).count()
}

fn uses(worker: &Value, function: &str) -> bool {
    worker["functionInUse"].as_array().is_some_and(|names| names.iter().any(|name| name == function))
}
