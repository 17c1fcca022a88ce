//! PostgreSQL, on a UNIX socket in its own directory.

use std::fs;

use gearmand::job_server::StoreFailure;
use gearmand::store::location::{Access, Location};

use super::battery::{self, Database};
use super::debian::Kept;
use super::instance::{Instance, program, words};
use super::jobs::{TestJob, try_open};
use super::unwritable;

/// Where Debian puts the programs of each version.
const VERSIONS: &str = "/usr/lib/postgresql";
const USER: &str = "gearman";
/// A user who is asked for a password.
const ASKED: &str = "asked";

/// The test.
pub(crate) fn everything() {
    let mut database = Postgres::start();
    passwords(&database);
    battery::run(&mut database);
    let others =
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND datname = 'postgres'";
    let set = |how: &str| {
        database.sql(&format!("SET transaction_read_only = off; ALTER ROLE {USER} {how}"));
        database.sql(others);
    };
    unwritable::read_only(
        &database.location("read_only"),
        || set("SET default_transaction_read_only = on"),
        || set("RESET default_transaction_read_only"),
    );
}

/// Wrong passwords, names and places.
fn passwords(database: &Postgres) {
    database.sql(&format!("CREATE USER {ASKED} PASSWORD 'secret'"));
    let directory = database.instance.path().display().to_string();
    let at = |conninfo: String| Location::Postgres { conninfo, table: "passwords".to_owned() };
    let of_user = |rest: &str| at(format!("host={directory} dbname=postgres user={ASKED} {rest}"));
    let asks = "PostgreSQL asks for a password: add password=... to --libpq-conninfo";
    battery::cannot_open(&of_user(""), asks);
    battery::cannot_open(&of_user("password=wr0ng"), "SQLSTATE 28P01");
    battery::cannot_open(&at(format!("host={directory} dbname=postgres user=nobody_here")), "nobody_here");
    battery::cannot_open(&at(format!("host={directory} dbname=nowhere user={USER}")), "create the database");
    battery::cannot_open(
        &at(format!("host={directory}/no dbname=postgres user={USER}")),
        "of the server's socket does not exist",
    );
    battery::cannot_open(&at("password=wr0ng nonsense".to_owned()), "the connection string is not valid");
    // A socket may come to be when the server starts.
    let error = try_open(&at(format!("host={directory} port=1 user={USER}")), Access::Own).err();
    assert_eq!(error.expect("no socket").failure, StoreFailure::Unreachable);
}

/// A running PostgreSQL.
pub(crate) struct Postgres {
    instance: Instance,
}

impl Postgres {
    /// Starts one, empty.
    pub(crate) fn start() -> Self {
        let versions = fs::read_dir(VERSIONS).map(|entries| entries.flatten().map(|entry| entry.path())).ok();
        let bin = versions.and_then(|mut versions| versions.find(|path| path.join("bin/initdb").exists()));
        let bin = bin.unwrap_or_else(|| panic!("no initdb under {VERSIONS}: run tests/install-peers.sh")).join("bin");
        let mut instance = Instance::new();
        let (initdb, data) = (program(&[&bin.join("initdb").display().to_string()]), instance.file("data"));
        instance.run(&words(&[
            &initdb,
            "-D",
            &data,
            "-U",
            USER,
            "-A",
            "trust",
            "-E",
            "UTF8",
            "--no-locale",
            "--no-sync",
        ]));
        let rules = instance.path().join("data/pg_hba.conf");
        let trust = fs::read_to_string(&rules).expect("the rules of access");
        fs::write(&rules, format!("local all {ASKED} scram-sha-256\n{trust}")).expect("the rules of access");
        let postgres = program(&[&bin.join("postgres").display().to_string()]);
        let directory = instance.path().display().to_string();
        let command = words(&[&postgres, "-D", &data, "-k", &directory, "-c", "listen_addresses="]);
        instance.start(command, |instance| Self::sql_in(instance, "SELECT 1").is_some());
        Self { instance }
    }

    fn conninfo(instance: &Instance) -> String {
        format!("host={} user={USER} dbname=postgres", instance.path().display())
    }

    fn sql_in(instance: &Instance, statement: &str) -> Option<String> {
        let output = std::process::Command::new("psql")
            .args(["-X", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-c", statement, &Self::conninfo(instance)])
            .output()
            .expect("psql");
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }

    #[track_caller]
    fn sql(&self, statement: &str) -> String {
        Self::sql_in(&self.instance, statement).unwrap_or_else(|| panic!("{statement}"))
    }
}

impl Database for Postgres {
    fn location(&self, name: &str) -> Location {
        Location::Postgres { conninfo: Self::conninfo(&self.instance), table: name.to_owned() }
    }

    fn debian_options(&self, name: &str) -> Vec<String> {
        vec![
            "-q".to_owned(),
            "Postgres".to_owned(),
            format!("--libpq-conninfo={}", Self::conninfo(&self.instance)),
            format!("--libpq-table={name}"),
        ]
    }

    fn word(&self) -> &'static str {
        "PostgreSQL"
    }

    fn debian_keeps_due_times(&self) -> bool {
        true
    }

    fn put_beside(&self, _name: &str) -> Vec<Kept> {
        Vec::new()
    }

    fn spoil(&self, name: &str) {
        self.sql(&format!("UPDATE {name} SET priority = 5 WHERE job_id = 1"));
        self.sql(&format!("UPDATE {name} SET function_name = NULL WHERE job_id = 3"));
    }

    fn rows(&self, name: &str) -> usize {
        self.sql(&format!("SELECT count(*) FROM {name}")).parse().expect("a number")
    }

    fn quarantined(&self, name: &str) -> usize {
        if self.sql(&format!("SELECT to_regclass('{name}_quarantine') IS NULL")) == "t" {
            return 0;
        }
        let count = self.sql(&format!("SELECT count(*) FROM {name}_quarantine WHERE reason <> '' AND data = 'w'"));
        count.parse().expect("a number")
    }

    fn make_former_quarantine(&self, name: &str) {
        self.sql(&format!("ALTER TABLE {name}_quarantine RENAME TO {name}_set_aside"));
    }

    fn put_stranger(&self, name: &str) {
        self.sql(&format!(
            "INSERT INTO {name} (unique_key, function_name, priority, data, when_to_run) VALUES ('u1', 'g', 1, 'stranger', 0)"
        ));
    }

    fn put_numbered(&self, name: &str, number: u64) {
        self.sql(&format!(
            "INSERT INTO {name} (job_id, unique_key, function_name, priority, data, when_to_run) \
             VALUES ({number}, 'u9', 'h', 1, 'stranger', 0)"
        ));
    }

    fn swallow(&self, name: &str) -> Option<()> {
        self.sql(&format!(
            "CREATE FUNCTION swallow() RETURNS trigger LANGUAGE plpgsql AS \
             $$ BEGIN IF NEW.data = 'swallowed' THEN RETURN NULL; END IF; RETURN NEW; END $$; \
             CREATE TRIGGER swallow BEFORE INSERT ON {name} FOR EACH ROW EXECUTE FUNCTION swallow()"
        ));
        Some(())
    }

    fn sever(&mut self) {
        self.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'gearmand'");
    }

    fn strangers_quarantined(&self, _name: &str) -> usize {
        0
    }

    fn make_newer(&self, name: &str) {
        self.sql(&format!("UPDATE {name}_meta SET format = 99"));
    }

    fn refused(&self) -> (TestJob, &'static str) {
        self.sql("ALTER TABLE refused ADD CHECK (data <> 'refused')");
        (TestJob::new(2, "f", "u2", b"refused"), "check constraint")
    }

    fn make_former(&self, name: &str, job: &TestJob) {
        self.sql(&format!("UPDATE {name} SET unique_key = NULL WHERE job_id = {}", job.number));
    }

    fn make_foreign(&self, name: &str) -> Option<()> {
        self.sql(&format!("CREATE TABLE {name} (id INTEGER PRIMARY KEY, customer TEXT)"));
        Some(())
    }

    fn described(&self, name: &str) -> String {
        self.sql(&format!(
            "SELECT table_name, column_name FROM information_schema.columns WHERE table_name LIKE '{name}%' ORDER BY 1, 2"
        ))
    }

    fn kill(&mut self) {
        self.instance.kill();
    }

    fn start_again(&mut self) {
        self.instance.start_again(|instance| Self::sql_in(instance, "SELECT 1").is_some());
    }
}
