//! The queue of jobs and its durability: the options, and the settings that result from them.
//!
//! This module only names a queue. The code that opens it resolves the name, for example to the path of the
//! default file.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::{ArgAction, Args};

use super::value;
use crate::protocol::FunctionName;
use crate::protocol::names::FUNCTION_MAX;

/// The default for the time within which jobs of the level `interval` are on disk.
const DEFAULT_INTERVAL: Duration = Duration::from_millis(50);

/// The kinds of queues: gearmand's name, and whether this build has it.
pub(super) const KINDS: [(&str, bool); 5] = [
    ("builtin", true),
    ("libsqlite3", cfg!(feature = "sqlite")),
    ("Postgres", cfg!(feature = "postgres")),
    ("MySQL", cfg!(feature = "mysql")),
    ("redis", cfg!(feature = "redis")),
];

/// Common other names of the kinds of queues.
const OTHER_NAMES: [(&str, &str); 8] = [
    ("sqlite", "libsqlite3"),
    ("sqlite3", "libsqlite3"),
    ("mariadb", "MySQL"),
    ("postgresql", "Postgres"),
    ("pgsql", "Postgres"),
    ("libpq", "Postgres"),
    ("valkey", "redis"),
    ("memory", "builtin"),
];

/// Kinds of gearmand's queues that no longer exist.
const GONE: [&str; 3] = ["libmemcached", "libtokyocabinet", "libdrizzle"];

/// Options of a single kind of queue, by the prefix of their name.
const OPTIONS_OF: [(&str, &str); 5] = [
    ("libsqlite3-", "libsqlite3"),
    ("sqlite-", "libsqlite3"),
    ("libpq-", "Postgres"),
    ("mysql-", "MySQL"),
    ("redis-", "redis"),
];

/// Which queue, and how safely jobs are kept in it.
#[derive(Args, Clone, Debug, PartialEq, Eq)]
#[command(next_help_heading = "Queue")]
pub(super) struct QueueArgs {
    /// Where queued jobs are kept: builtin (memory), libsqlite3, Postgres, MySQL or redis [default: a SQLite
    /// file in the state directory]
    ///
    /// The file is gearmand-PORT.sqlite3 in $STATE_DIRECTORY, else in /var/lib/gearmand for root, else in the
    /// user's state directory. Where no directory can be had, jobs are kept in memory, with a warning.
    #[arg(short, long, value_name = "NAME")]
    pub(super) queue_type: Option<String>,

    /// When a background job is acknowledged: always (it is on the disk), interval:TIME (it will be by then),
    /// off (the system writes it when it likes)
    ///
    /// A number without a unit counts milliseconds: interval:50 is interval:50ms. None of them loses a job
    /// when the server is killed. A power cut loses nothing with always, and with interval at most what came
    /// in that time.
    #[arg(long, value_name = "LEVEL", default_value = "always")]
    pub(super) durability: Durability,

    /// Another level for the jobs of one function: always, interval or off; can be repeated [default:
    /// --durability]
    #[arg(long, value_name = "NAME=LEVEL", action = ArgAction::Append)]
    pub(super) function_durability: Vec<FunctionDurability>,

    /// Room on the disk of the queue's file that is kept for removing jobs; 0 keeps none [default: a
    /// sixteenth of the disk, 32MiB at most]
    ///
    /// It is a file of this size, FILE.reserve. When the disk is full it is removed: submissions are refused,
    /// and queued jobs can still be handed out and removed, until there is room for at least half of it
    /// again, and for some jobs. It is a quarter of the disk at most. With 0, jobs that finish while the disk
    /// is full may not be removed, and run again after a restart. Databases elsewhere have none.
    #[arg(long, value_name = "SIZE", value_parser = value::bytes::<0, 0x10_0000_0000>)]
    pub(super) store_reserve: Option<u64>,

    /// The file for --queue-type libsqlite3 [default: as without --queue-type]
    #[arg(long, value_name = "PATH")]
    libsqlite3_db: Option<PathBuf>,

    /// The table in the file of --libsqlite3-db
    #[arg(long, value_name = "NAME", default_value = "gearman_queue", value_parser = value::non_empty)]
    libsqlite3_table: String,

    /// Keep the primary key of a C++ gearmand table, so that C++ gearmand can use it again; much slower
    #[arg(long)]
    sqlite_keep_primary_key: bool,

    /// The database for --queue-type Postgres: host=... user=... dbname=..., or postgresql://...
    #[arg(long, value_name = "TEXT")]
    libpq_conninfo: Option<Secret>,

    /// The table in PostgreSQL
    #[arg(long, value_name = "NAME", default_value = "queue", value_parser = value::non_empty)]
    libpq_table: String,

    /// The server for --queue-type MySQL, or MariaDB: a name, an address, or the path of a UNIX socket
    #[arg(long, value_name = "HOST", default_value = "localhost", value_parser = value::non_empty)]
    mysql_host: String,

    /// The port of MySQL
    #[arg(long, value_name = "PORT", default_value = "3306", value_parser = value::port)]
    mysql_port: u16,

    /// The user in MySQL [default: the user that the server runs as]
    #[arg(long, value_name = "NAME")]
    mysql_user: Option<String>,

    /// The password in MySQL; the environment or a file hides it from `ps` [default: none]
    #[arg(long, value_name = "TEXT")]
    mysql_password: Option<Secret>,

    /// The database in MySQL, which must exist
    #[arg(long, value_name = "NAME", value_parser = value::non_empty)]
    mysql_db: Option<String>,

    /// The table in MySQL
    #[arg(long, value_name = "NAME", default_value = "gearman_queue", value_parser = value::non_empty)]
    mysql_table: String,

    /// The server for --queue-type redis: a name, an address, or the path of a UNIX socket
    #[arg(long, value_name = "HOST", default_value = "127.0.0.1", value_parser = value::non_empty)]
    redis_server: String,

    /// The port of Redis
    #[arg(long, value_name = "PORT", default_value = "6379", value_parser = value::port)]
    redis_port: u16,

    /// The password in Redis; the environment or a file hides it from `ps` [default: none]
    #[arg(long, value_name = "TEXT")]
    redis_password: Option<Secret>,

    /// The first part of keys in Redis
    #[arg(long, value_name = "TEXT", default_value = "_gear_", value_parser = value::non_empty)]
    redis_prefix: String,
}

/// A queue, as the settings name it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum QueueChoice {
    /// Not configured: a SQLite file in the state directory if that is available, else memory.
    Default,
    /// Memory.
    Builtin,
    /// A SQLite file.
    Sqlite {
        /// The file; `None` for the one of [`QueueChoice::Default`].
        path: Option<PathBuf>,
        /// Its table.
        table: String,
        /// Whether a table created by C++ gearmand keeps its primary key.
        keep_primary_key: bool,
    },
    /// A table in PostgreSQL.
    Postgres {
        /// The connection string, in libpq's format.
        conninfo: Secret,
        /// The table.
        table: String,
    },
    /// A table in MySQL or MariaDB.
    Mysql {
        /// Host name, address, or the path of a UNIX socket.
        host: String,
        /// TCP port.
        port: u16,
        /// User; `None` for the name of the user that the server runs as.
        user: Option<String>,
        /// Password; empty for none.
        password: Secret,
        /// Database.
        database: String,
        /// The table.
        table: String,
    },
    /// Keys in Redis.
    Redis {
        /// Host name, address, or the path of a UNIX socket.
        host: String,
        /// TCP port.
        port: u16,
        /// Password; empty for none.
        password: Secret,
        /// Prefix of the keys.
        prefix: String,
    },
}

impl QueueArgs {
    /// The queue that the options select.
    ///
    /// # Errors
    /// The missing option, and why it is needed.
    pub(super) fn choice(&self) -> Result<QueueChoice, String> {
        let Some(kind) = &self.queue_type else {
            return Ok(if cfg!(feature = "sqlite") { QueueChoice::Default } else { QueueChoice::Builtin });
        };
        match kind.to_ascii_lowercase().as_str() {
            "libsqlite3" => Ok(QueueChoice::Sqlite {
                path: self.libsqlite3_db.clone(),
                table: self.libsqlite3_table.clone(),
                keep_primary_key: self.sqlite_keep_primary_key,
            }),
            "postgres" => Ok(QueueChoice::Postgres {
                conninfo: self.libpq_conninfo.clone().ok_or(
                    "--queue-type Postgres needs --libpq-conninfo, such as 'host=db user=gearman dbname=gearman'",
                )?,
                table: self.libpq_table.clone(),
            }),
            "mysql" => Ok(QueueChoice::Mysql {
                host: self.mysql_host.clone(),
                port: self.mysql_port,
                user: self.mysql_user.clone(),
                password: self.mysql_password.clone().unwrap_or_default(),
                database: self
                    .mysql_db
                    .clone()
                    .ok_or("--queue-type MySQL needs --mysql-db, the name of a database that exists")?,
                table: self.mysql_table.clone(),
            }),
            "redis" => Ok(QueueChoice::Redis {
                host: self.redis_server.clone(),
                port: self.redis_port,
                password: self.redis_password.clone().unwrap_or_default(),
                prefix: self.redis_prefix.clone(),
            }),
            _ => Ok(QueueChoice::Builtin),
        }
    }
}

/// Why a queue type is unavailable; `None` for an available one.
pub(super) fn refuse(name: &str) -> Option<String> {
    let known = |kind: &str| kind.eq_ignore_ascii_case(name);
    if let Some((kind, built)) = KINDS.iter().find(|(kind, _)| known(kind)) {
        let refusal = || {
            format!(
                "this build does not support queue {kind}; build it with the cargo feature {}, or use one of: {}",
                feature(kind),
                built_kinds()
            )
        };
        return (!built).then(refusal);
    }
    if GONE.iter().any(|kind| known(kind)) {
        return Some(format!(
            "this queue type was removed, and its jobs cannot be imported; leave the option out for a durable queue in \
             a file, or take one of: {}. Jobs that the old server still keeps: send it USR1 once clients use this one, \
             and leave it its workers until it ends",
            built_kinds()
        ));
    }
    let meant = OTHER_NAMES.iter().find(|(other, _)| known(other)).map(|(_, kind)| format!("write {kind}, or "));
    Some(format!(
        "there is no such queue; {}leave the option out for a durable queue in a file, or take one of: {}",
        meant.unwrap_or_default(),
        built_kinds()
    ))
}

fn built_kinds() -> String {
    KINDS.iter().filter(|(_, built)| *built).map(|(kind, _)| *kind).collect::<Vec<_>>().join(", ")
}

fn feature(kind: &str) -> String {
    kind.to_ascii_lowercase().trim_start_matches("lib").trim_end_matches('3').to_owned()
}

/// The kind of queue that an option belongs to; `None` for options of no single kind.
pub(super) fn kind_of_option(name: &str) -> Option<&'static str> {
    OPTIONS_OF.iter().find(|(start, _)| name.starts_with(start)).map(|(_, kind)| *kind)
}

/// Whether the value of an option must not be shown.
pub(super) fn is_secret(name: &str) -> bool {
    name.ends_with("-password") || name == "libpq-conninfo" || name == "http-token"
}

/// Text that must not be shown, such as a password.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// The text itself.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("***")
    }
}

/// How durable a background job must be before it is acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DurabilityLevel {
    /// On disk: a power failure does not lose it.
    Always,
    /// Survives the process, and is on disk within [`Durability::interval`].
    Interval,
    /// Survives the process.
    Off,
}

impl FromStr for DurabilityLevel {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.to_ascii_lowercase().as_str() {
            "always" => Ok(Self::Always),
            "interval" => Ok(Self::Interval),
            "off" => Ok(Self::Off),
            _ => Err("the levels are always, interval and off".to_owned()),
        }
    }
}

impl fmt::Display for DurabilityLevel {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Always => "always",
            Self::Interval => "interval",
            Self::Off => "off",
        })
    }
}

/// The value of `--durability`: a level, and the time of the level `interval`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Durability {
    /// The level of all functions without one of their own.
    pub level: DurabilityLevel,
    /// The time within which jobs of the level [`DurabilityLevel::Interval`] are on disk, for all functions.
    pub interval: Duration,
}

impl FromStr for Durability {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (level, time) = text.split_once(':').map_or((text, None), |(level, time)| (level, Some(time)));
        let wrong = |_| "it is always, off, or interval with a time, such as interval:50ms".to_owned();
        let level = level.parse().map_err(wrong)?;
        let interval = match time {
            Some(time) if level == DurabilityLevel::Interval => value::milliseconds(time)?,
            Some(_) => return Err(format!("only interval has a time; write {level}")),
            None => DEFAULT_INTERVAL,
        };
        Ok(Self { level, interval })
    }
}

impl fmt::Display for Durability {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.level {
            DurabilityLevel::Always | DurabilityLevel::Off => self.level.fmt(formatter),
            DurabilityLevel::Interval => write!(formatter, "interval:{}ms", self.interval.as_millis()),
        }
    }
}

/// The durability level of one function.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FunctionDurability {
    /// The function.
    pub function: FunctionName,
    /// Its level.
    pub level: DurabilityLevel,
}

impl FromStr for FunctionDurability {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        // A name may contain an equals sign, a level does not.
        let (name, level) =
            text.rsplit_once('=').ok_or("write the function, = and its level, such as mail=interval")?;
        // The empty name is valid.
        if name.len() > FUNCTION_MAX {
            return Err(format!("a function has a name of at most {FUNCTION_MAX} bytes"));
        }
        if level.contains(':') {
            return Err("a function has no time of its own; --durability interval:TIME sets it for all".to_owned());
        }
        Ok(Self { function: FunctionName::new(name.as_bytes()), level: level.parse()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_are_read_as_they_are_written() {
        for text in ["always", "off", "interval:50ms", "interval:2000ms"] {
            assert_eq!(text.parse::<Durability>().map(|durability| durability.to_string()), Ok(text.to_owned()));
        }
        assert_eq!("Interval".parse::<Durability>().map(|durability| durability.interval), Ok(DEFAULT_INTERVAL));
        assert_eq!("interval:2s".parse::<Durability>().map(|it| it.interval), Ok(Duration::from_secs(2)));
        for text in ["", "never", "always:1s", "off:", "interval:", "interval:0", "interval:x", "interval:1s:2s"] {
            assert!(text.parse::<Durability>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_function_has_a_level() {
        let read = |text: &str| text.parse::<FunctionDurability>();
        let expected = FunctionDurability { function: FunctionName::new(b"a=b"), level: DurabilityLevel::Off };
        assert_eq!(read("a=b=OFF"), Ok(expected));
        assert!(read("=off").is_ok_and(|level| level.function == FunctionName::new(b"")));
        assert!(read("mail=interval:1s").is_err_and(|reason| reason.contains("--durability interval:TIME")));
        for text in ["mail", "mail=", "mail=never", &format!("{}=off", "x".repeat(FUNCTION_MAX + 1))] {
            assert!(read(text).is_err(), "{text}");
        }
    }

    #[test]
    fn features_are_named_after_their_queues() {
        assert_eq!(KINDS.map(|(kind, _)| feature(kind))[1..], ["sqlite", "postgres", "mysql", "redis"]);
    }

    #[test]
    fn secrets_are_not_printed() {
        let secret = Secret::from("swordfish".to_owned());
        assert!(!format!("{secret:?}").contains("sword"));
        assert_eq!(secret.reveal(), "swordfish");
    }
}
