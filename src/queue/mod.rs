//! Queues from outside: what the settings name.

use std::path::PathBuf;

use crate::config::QueueChoice;
use crate::store::location::{Location, defaults};

/// The store that a setting means; `None` for memory. `default_file` is the one of the state directory, for a queue that
/// names no file.
pub fn location(queue: &QueueChoice, default_file: PathBuf) -> Option<Location> {
    let location = match queue.clone() {
        QueueChoice::Builtin => return None,
        QueueChoice::Default => {
            Location::Sqlite { path: default_file, table: defaults::SQLITE_TABLE.to_owned(), keep_primary_key: false }
        }
        QueueChoice::Sqlite { path, table, keep_primary_key } => {
            Location::Sqlite { path: path.unwrap_or(default_file), table, keep_primary_key }
        }
        QueueChoice::Postgres { conninfo, table } => {
            Location::Postgres { conninfo: conninfo.reveal().to_owned(), table }
        }
        QueueChoice::Mysql { host, port, user, password, database, table } => Location::Mysql {
            host,
            port,
            user: user.unwrap_or_else(user_name),
            password: password.reveal().to_owned(),
            database,
            table,
        },
        QueueChoice::Redis { host, port, password, prefix } => {
            Location::Redis { host, port, password: password.reveal().to_owned(), prefix }
        }
    };
    Some(location)
}

/// The name of the user that this process runs as: the one by which MySQL knows it where none is given.
fn user_name() -> String {
    let user = nix::unistd::User::from_uid(nix::unistd::geteuid());
    user.ok().flatten().map_or_else(String::new, |user| user.name)
}
