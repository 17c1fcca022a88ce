//! MariaDB, with a user who has a password, on TCP and on a UNIX socket in its own directory.

use std::cell::Cell;

use gearmand::store::location::{Access, Location};

use super::battery::{self, Database};
use super::common::free_port;
use super::debian::Kept;
use super::instance::{Instance, program, words};
use super::jobs::{TestJob, adding, open, read, try_open};
use super::unwritable;

const USER: &str = "gearman";
const PASSWORD: &str = "pass:w@rd";
const DATABASE: &str = "jobs";
/// Small, so that a job need not be large to be too large.
const PACKET_MAX: usize = 2 << 20;

/// The test.
pub(crate) fn everything() {
    let mut database = MariaDb::start();
    passwords(&database);
    too_large(&database);
    battery::run(&mut database);
    let set = |read_only: u8| drop(database.sql("mysql", &format!("SET GLOBAL read_only = {read_only}")));
    unwritable::read_only(&database.location("read_only"), || set(1), || set(0));
    database.by_socket.set(true);
    battery::round_trip(&database.location("by_socket"));
}

/// Wrong passwords, names and places.
fn passwords(database: &MariaDb) {
    let at = |host: &str, password: &str, name: &str| Location::Mysql {
        host: host.to_owned(),
        port: database.port,
        user: USER.to_owned(),
        password: password.to_owned(),
        database: name.to_owned(),
        table: "passwords".to_owned(),
    };
    battery::cannot_open(&at("127.0.0.1", "wr0ng", DATABASE), "1045");
    battery::cannot_open(&at("127.0.0.1", "", DATABASE), "MySQL asks for a password: add --mysql-password=...");
    battery::cannot_open(&at("127.0.0.1", PASSWORD, "nowhere"), "check user, password and database");
    battery::cannot_open(
        &at(&database.instance.file("no/socket"), "wr0ng", DATABASE),
        "of the server's socket does not exist",
    );
    // A socket may come to be when the server starts.
    let error = try_open(&at(&database.instance.file("absent"), "wr0ng", DATABASE), Access::Own).err();
    assert_eq!(error.expect("no socket").failure, gearmand::job_server::StoreFailure::Unreachable);
}

fn too_large(database: &MariaDb) {
    let mut store = open(&database.location("too_large"), Access::Own);
    let job = |size: usize| TestJob::new(1, "f", "u", &vec![b'x'; size]);
    let error = store.commit(&adding(&[job(PACKET_MAX)])).unwrap_err();
    assert_eq!(error.failure, gearmand::job_server::StoreFailure::Refused, "{error}");
    assert!(error.text.contains("max_allowed_packet") && error.text.contains("2097152"), "{error}");
    store.commit(&adding(&[job(PACKET_MAX - 4096)])).unwrap();
    assert_eq!(read(&mut *store).0.len(), 1);
}

/// A running MariaDB.
pub(crate) struct MariaDb {
    instance: Instance,
    port: u16,
    by_socket: Cell<bool>,
}

impl MariaDb {
    /// Starts one, with an empty database and a user for it.
    pub(crate) fn start() -> Self {
        let mut instance = Instance::new();
        let data = format!("--datadir={}", instance.file("data"));
        let install = program(&["/usr/bin/mariadb-install-db"]);
        let small = ["--innodb-log-file-size=32M", "--innodb-buffer-pool-size=32M"];
        let options = ["--no-defaults", &data, "--auth-root-authentication-method=normal", "--skip-test-db"];
        instance.run(&words(&[&[&install[..]], &options[..], &small[..]].concat()));
        // Nobody's outgoing connection gets this one while the database is away.
        let port = free_port();
        let server = program(&["/usr/sbin/mariadbd"]);
        let options = [
            &data,
            "--bind-address=127.0.0.1",
            &format!("--port={port}"),
            &format!("--socket={}", instance.file("socket")),
            &format!("--pid-file={}", instance.file("pid")),
            &format!("--max-allowed-packet={PACKET_MAX}"),
            // The usual one, which takes `unique`, `Unique` and `unique ` for the same.
            "--character-set-server=utf8mb4",
        ];
        let command = words(&[&[&server[..], "--no-defaults"], &options[..], &small[..]].concat());
        instance.start(command, |instance| Self::sql_in(instance, "mysql", "SELECT 1").is_some());
        let database = Self { instance, port, by_socket: Cell::new(false) };
        database.sql("mysql", &format!("CREATE DATABASE {DATABASE}"));
        for host in ["localhost", "127.0.0.1"] {
            database.sql("mysql", &format!("CREATE USER {USER}@{host} IDENTIFIED BY '{PASSWORD}'"));
            database.sql("mysql", &format!("GRANT ALL ON {DATABASE}.* TO {USER}@{host}"));
        }
        database
    }

    fn sql_in(instance: &Instance, database: &str, statement: &str) -> Option<String> {
        let output = std::process::Command::new("mariadb")
            .args([
                "--no-defaults",
                "-u",
                "root",
                "-N",
                "-B",
                "-S",
                &instance.file("socket"),
                database,
                "-e",
                statement,
            ])
            .output()
            .expect("mariadb");
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }

    #[track_caller]
    fn sql(&self, database: &str, statement: &str) -> String {
        Self::sql_in(&self.instance, database, statement).unwrap_or_else(|| panic!("{statement}"))
    }
}

impl Database for MariaDb {
    fn location(&self, name: &str) -> Location {
        let socket = self.by_socket.get();
        Location::Mysql {
            host: if socket { self.instance.file("socket") } else { "127.0.0.1".to_owned() },
            port: if socket { 0 } else { self.port },
            user: USER.to_owned(),
            password: PASSWORD.to_owned(),
            database: DATABASE.to_owned(),
            table: name.to_owned(),
        }
    }

    fn debian_options(&self, name: &str) -> Vec<String> {
        vec![
            "-q".to_owned(),
            "MySQL".to_owned(),
            "--mysql-host=127.0.0.1".to_owned(),
            format!("--mysql-port={}", self.port),
            format!("--mysql-user={USER}"),
            format!("--mysql-password={PASSWORD}"),
            format!("--mysql-db={DATABASE}"),
            format!("--mysql-table={name}"),
        ]
    }

    fn word(&self) -> &'static str {
        "MySQL"
    }

    fn debian_keeps_due_times(&self) -> bool {
        true
    }

    fn put_beside(&self, _name: &str) -> Vec<Kept> {
        Vec::new()
    }

    fn spoil(&self, name: &str) {
        self.sql(DATABASE, &format!("UPDATE {name} SET priority = 5 WHERE job_id = 1"));
        self.sql(DATABASE, &format!("UPDATE {name} SET function_name = NULL WHERE job_id = 3"));
    }

    fn rows(&self, name: &str) -> usize {
        self.sql(DATABASE, &format!("SELECT count(*) FROM {name}")).parse().expect("a number")
    }

    fn quarantined(&self, name: &str) -> usize {
        if self.sql(DATABASE, &format!("SHOW TABLES LIKE '{name}_quarantine'")).is_empty() {
            return 0;
        }
        let count =
            self.sql(DATABASE, &format!("SELECT count(*) FROM {name}_quarantine WHERE reason <> '' AND data = 'w'"));
        count.parse().expect("a number")
    }

    fn make_former_quarantine(&self, name: &str) {
        self.sql(DATABASE, &format!("RENAME TABLE {name}_quarantine TO {name}_set_aside"));
    }

    fn put_stranger(&self, name: &str) {
        self.sql(DATABASE, &format!(
            "INSERT INTO {name} (unique_key, function_name, priority, data, when_to_run) VALUES ('u1', 'g', 1, 'stranger', 0)"
        ));
    }

    fn put_numbered(&self, name: &str, number: u64) {
        self.sql(
            DATABASE,
            &format!(
                "INSERT INTO {name} (job_id, unique_key, function_name, priority, data, when_to_run) \
             VALUES ({number}, 'u9', 'h', 1, 'stranger', 0)"
            ),
        );
    }

    fn swallow(&self, name: &str) -> Option<()> {
        // A trigger can skip a row from MariaDB 11.8 on.
        let version = self.sql("mysql", "SELECT VERSION()");
        let mut parts = version.split('.').map(|part| part.parse().unwrap_or(0));
        if (parts.next()?, parts.next()?) < (11, 8) {
            return None;
        }
        self.sql(
            DATABASE,
            &format!(
                "CREATE TRIGGER swallow BEFORE INSERT ON {name} FOR EACH ROW BEGIN NOT ATOMIC \
             IF NEW.data = 'swallowed' THEN SIGNAL SQLSTATE '02TRG'; END IF; END"
            ),
        );
        Some(())
    }

    fn sever(&mut self) {
        let query = format!("SELECT id FROM information_schema.processlist WHERE user = '{USER}'");
        for id in self.sql("mysql", &query).lines() {
            // It may have ended by itself.
            let _ = Self::sql_in(&self.instance, "mysql", &format!("KILL {id}"));
        }
    }

    fn strangers_quarantined(&self, _name: &str) -> usize {
        0
    }

    fn make_newer(&self, name: &str) {
        self.sql(DATABASE, &format!("UPDATE {name}_meta SET format = 99"));
    }

    fn refused(&self) -> (TestJob, &'static str) {
        (TestJob::new(2, "f", "u2", &vec![b'x'; PACKET_MAX]), "max_allowed_packet")
    }

    fn make_former(&self, name: &str, job: &TestJob) {
        self.sql(DATABASE, &format!("UPDATE {name} SET unique_key = NULL WHERE job_id = {}", job.number));
        self.sql(DATABASE, &format!("ALTER TABLE {name} DROP COLUMN IF EXISTS unique_bytes"));
    }

    fn make_foreign(&self, name: &str) -> Option<()> {
        self.sql(DATABASE, &format!("CREATE TABLE {name} (id INTEGER PRIMARY KEY, customer TEXT)"));
        Some(())
    }

    fn described(&self, name: &str) -> String {
        self.sql(DATABASE, &format!(
            "SELECT table_name, column_name FROM information_schema.columns WHERE table_name LIKE '{name}%' ORDER BY 1, 2"
        ))
    }

    fn kill(&mut self) {
        self.instance.kill();
    }

    fn start_again(&mut self) {
        self.instance.start_again(|instance| Self::sql_in(instance, "mysql", "SELECT 1").is_some());
    }
}
