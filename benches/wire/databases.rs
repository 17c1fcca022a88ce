//! Private databases: Debian's PostgreSQL, MariaDB and Redis, each in a directory of its own.
//!
//! They keep what they acknowledge: `PostgreSQL` syncs by default, the others are configured to.

use std::fs::{self, File};
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, User, getuid};
use tempfile::TempDir;

use crate::disk;
use crate::failure::{Result, fail};
use crate::options::Options;
use crate::peers::Queue;

/// Databases refuse to run as root; in that case they run as this user.
const USER: &str = "nobody";
/// Where Debian installs the programs of each version of PostgreSQL.
const POSTGRES_VERSIONS: &str = "/usr/lib/postgresql";
const GEARMAN: &str = "gearman";
const START: Duration = Duration::from_mins(1);

/// The options for a table, or a prefix, of this name.
type Naming = dyn Fn(&str) -> Vec<String>;

/// A running database; stopped when it is dropped.
pub(crate) struct Database {
    directory: TempDir,
    child: Option<Child>,
    /// Options of a server for a table, or key prefix, with a given name.
    queue: Box<Naming>,
}

impl Database {
    /// Options of a server that keeps its jobs in the table with this name.
    pub(crate) fn queue(&self, name: &str) -> Queue {
        Queue::new((self.queue)(name))
    }

    fn new(options: &Options) -> Result<Self> {
        let directory = disk::directory(options)?;
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755))?;
        if getuid().is_root() {
            let Some(user) = User::from_name(USER)? else {
                return fail(format!("databases cannot run as root, and there is no user {USER}"));
            };
            chown(directory.path(), Some(user.uid.as_raw()), Some(user.gid.as_raw()))?;
        }
        Ok(Self { directory, child: None, queue: Box::new(|_| Vec::new()) })
    }

    fn file(&self, name: &str) -> String {
        self.directory.path().join(name).display().to_string()
    }

    /// A command that runs as the database's user, in its directory; its output goes to a log there.
    fn command(&self, program: &Path, arguments: &[&str]) -> Result<Command> {
        let mut command = if getuid().is_root() {
            let mut command = Command::new("setpriv");
            command.args(["--reuid", USER, "--regid", "nogroup", "--clear-groups", "--"]).arg(program);
            command
        } else {
            Command::new(program)
        };
        let log = File::options().create(true).append(true).open(self.directory.path().join("log"))?;
        command.args(arguments).current_dir(self.directory.path()).env("HOME", self.directory.path());
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        Ok(command)
    }

    /// Runs a command to its end. `Err` if it fails.
    fn run(&self, program: &Path, arguments: &[&str]) -> Result<()> {
        match self.command(program, arguments)?.status()? {
            status if status.success() => Ok(()),
            status => fail(format!("{} ended with {status}: {}", program.display(), self.last_words())),
        }
    }

    /// Starts the database, and waits until `client` with these arguments succeeds.
    fn start(&mut self, server: &Path, arguments: &[&str], client: &str, question: &[&str]) -> Result<()> {
        // A process group of its own, which is killed as a whole.
        self.child = Some(self.command(server, arguments)?.process_group(0).spawn()?);
        let begun = Instant::now();
        loop {
            if let Some(status) = self.child.as_mut().map(Child::try_wait).transpose()?.flatten() {
                return fail(format!("{} ended with {status}: {}", server.display(), self.last_words()));
            }
            let silent = [Stdio::null(), Stdio::null(), Stdio::null()];
            let [input, output, errors] = silent;
            let answer = Command::new(client).args(question).stdin(input).stdout(output).stderr(errors).status();
            match answer {
                Ok(status) if status.success() => return Ok(()),
                Err(error) => return fail(format!("{client}: {error}: run tests/install-peers.sh")),
                Ok(_) if begun.elapsed() > START => {
                    return fail(format!("{} does not answer: {}", server.display(), self.last_words()));
                }
                Ok(_) => std::thread::sleep(Duration::from_millis(100)),
            }
        }
    }

    /// The end of its log.
    fn last_words(&self) -> String {
        let log = fs::read(self.directory.path().join("log")).unwrap_or_default();
        let log = String::from_utf8_lossy(&log).into_owned();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(5)..].join("; ")
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            // The group may have ended by itself.
            let group = i32::try_from(child.id()).map(|pid| Pid::from_raw(-pid));
            let _gone = group.map(|group| kill(group, Signal::SIGKILL));
            let _status = child.wait();
        }
    }
}

/// `PostgreSQL` with its defaults, on a UNIX socket.
pub(crate) fn postgres(options: &Options) -> Result<Database> {
    let mut versions = match fs::read_dir(POSTGRES_VERSIONS) {
        Ok(entries) => entries.flatten().map(|entry| entry.path().join("bin")).collect(),
        Err(_) => Vec::new(),
    };
    versions.retain(|programs| programs.join("initdb").exists());
    let Some(programs) = versions.first() else {
        return fail(format!("no initdb under {POSTGRES_VERSIONS}: run tests/install-peers.sh"));
    };
    let mut database = Database::new(options)?;
    let data = database.file("data");
    let encoding = ["-E", "UTF8", "--no-locale"];
    let cluster = ["-D", &data, "-U", GEARMAN, "-A", "trust"];
    database.run(&programs.join("initdb"), &[&cluster[..], &encoding].concat())?;
    let directory = database.directory.path().display().to_string();
    let conninfo = format!("host={directory} user={GEARMAN} dbname=postgres");
    let arguments = ["-D", &data, "-k", &directory, "-c", "listen_addresses="];
    database.start(&programs.join("postgres"), &arguments, "psql", &["-X", "-c", "SELECT 1", &conninfo])?;
    database.queue = Box::new(move |name| {
        let (conninfo, table) = (format!("--libpq-conninfo={conninfo}"), format!("--libpq-table={name}"));
        vec!["-q".to_owned(), "Postgres".to_owned(), conninfo, table]
    });
    Ok(database)
}

/// MariaDB with its defaults except for a smaller log, syncing at each commit, on TCP.
pub(crate) fn mariadb(options: &Options) -> Result<Database> {
    let mut database = Database::new(options)?;
    let data = format!("--datadir={}", database.file("data"));
    let install = PathBuf::from("/usr/bin/mariadb-install-db");
    database.run(&install, &["--no-defaults", &data, "--auth-root-authentication-method=normal", "--skip-test-db"])?;
    let (port, socket) = (free_port()?, database.file("socket"));
    let arguments = [
        "--no-defaults",
        &data,
        "--bind-address=127.0.0.1",
        &format!("--port={port}"),
        &format!("--socket={socket}"),
        &format!("--pid-file={}", database.file("pid")),
        "--innodb-flush-log-at-trx-commit=1",
    ];
    // The statement succeeds the first time that the server answers, which ends the wait.
    let statement = format!(
        "CREATE DATABASE {GEARMAN}; CREATE USER {GEARMAN}@'127.0.0.1', {GEARMAN}@localhost; \
         GRANT ALL ON {GEARMAN}.* TO {GEARMAN}@'127.0.0.1', {GEARMAN}@localhost"
    );
    let question = ["--no-defaults", "-u", "root", "-S", &socket, "-e", &statement];
    database.start(Path::new("/usr/sbin/mariadbd"), &arguments, "mariadb", &question)?;
    database.queue = Box::new(move |name| {
        let mut words = vec!["-q".to_owned(), "MySQL".to_owned(), "--mysql-host=127.0.0.1".to_owned()];
        words.extend([format!("--mysql-port={port}"), format!("--mysql-user={GEARMAN}")]);
        words.extend([format!("--mysql-db={GEARMAN}"), format!("--mysql-table={name}")]);
        words
    });
    Ok(database)
}

/// Redis that answers after its data is on the disk, on TCP.
pub(crate) fn redis(options: &Options) -> Result<Database> {
    let mut database = Database::new(options)?;
    let port = free_port()?;
    let directory = database.directory.path().display().to_string();
    let (number, durable) = (port.to_string(), ["--appendonly", "yes", "--appendfsync", "always"]);
    let place = ["--port", &number, "--bind", "127.0.0.1", "--dir", &directory];
    let arguments = [&place[..], &durable].concat();
    database.start(Path::new("/usr/bin/redis-server"), &arguments, "redis-cli", &["-p", &number, "PING"])?;
    database.queue = Box::new(move |name| {
        let mut words = vec!["-q".to_owned(), "redis".to_owned(), "--redis-server=127.0.0.1".to_owned()];
        words.extend([format!("--redis-port={port}"), format!("--redis-prefix={name}")]);
        words
    });
    Ok(database)
}

/// A free port; databases do not report a port that they choose themselves.
fn free_port() -> Result<u16> {
    Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}
