//! Finds the queue that the server's settings name.

use std::path::PathBuf;
use std::sync::Arc;

use super::{ToolError, tell, user_name};
use crate::config::{self, Config, ListenAddress, QueueChoice, Sources, resolve};
use crate::process::state_directory::{self, Environment};
use crate::store::location::{Location, defaults};

/// The store for a queue setting; `None` for memory. `default_file` is the file in the state directory, for a
/// queue without a file name.
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

/// The settings of the local server: from its configuration file or the given one, the environment, and the
/// defaults.
fn settings(config_file: Option<PathBuf>) -> Result<Config, String> {
    let mut words = vec!["gearmand".into()];
    if let Some(path) = config_file {
        words.extend(["--config-file".into(), path.into_os_string()]);
    }
    let matches = config::command().try_get_matches_from(words).map_err(|error| error.to_string())?;
    let resolved = resolve(&Sources::of_process(matches)).map_err(|errors| errors.to_string())?;
    Ok(resolved.config)
}

/// The queue of the local server, and its handle prefix.
///
/// # Errors
/// The settings are wrong, they keep jobs in memory, or the file cannot be determined.
pub(super) fn queue(config_file: Option<PathBuf>) -> Result<(Location, Arc<str>), ToolError> {
    let config = settings(config_file).map_err(ToolError::Usage)?;
    let is_root = nix::unistd::geteuid().is_root();
    let is_in_state_directory = matches!(config.queue, QueueChoice::Default | QueueChoice::Sqlite { path: None, .. });
    let default_file = if is_in_state_directory {
        let directory = state_directory::choose(&Environment::of_process(), is_root)
            .map_err(|error| ToolError::Usage(format!("{error}; or name a queue with --from")))?;
        state_directory::queue_file(&directory, port(&config))
    } else {
        PathBuf::new()
    };
    if is_in_state_directory && !default_file.exists() {
        return Err(ToolError::Open(format!(
            "the server's queue {} does not exist; name another with --from, the server's --config-file, or its port \
             with GEARMAND_PORT",
            default_file.display()
        )));
    }
    let location = location(&config.queue, default_file).ok_or_else(|| {
        ToolError::Usage(
            "the server is configured to keep jobs in memory, where they cannot be read; name a queue with --from, or \
             the server's --config-file"
                .to_owned(),
        )
    })?;
    Ok((location, config.job_handle_prefix.into()))
}

/// The handle prefix for jobs that have none. Wrong settings are reported, but not an error here.
pub(super) fn handle_prefix(tool: &str) -> Arc<str> {
    match settings(None) {
        Ok(config) => config.job_handle_prefix.into(),
        Err(errors) => {
            tell(tool, format_args!("the server's settings are invalid, and are ignored: {errors}"));
            let matches = config::command().get_matches_from(["gearmand"]);
            let defaults = resolve(&Sources::command_line_only(matches));
            defaults.map_or_else(|_| "H:".into(), |resolved| resolved.config.job_handle_prefix.into())
        }
    }
}

/// The port in the file name of the server's queue: its first TCP port.
fn port(config: &Config) -> u16 {
    let of_tcp = |address: &ListenAddress| match address {
        ListenAddress::All { port } | ListenAddress::Host { port, .. } => Some(*port),
        ListenAddress::Ip(address) => Some(address.port()),
        ListenAddress::Unix(_) => None,
    };
    config.listen.iter().find_map(of_tcp).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn location_of(options: &[&str]) -> Option<Location> {
        let words = std::iter::once("gearmand").chain(options.iter().copied());
        let matches = config::command().try_get_matches_from(words).unwrap();
        let config = resolve(&Sources::command_line_only(matches)).unwrap().config;
        location(&config.queue, "/state/file".into())
    }

    #[test]
    fn settings_become_stores_with_the_names_of_gearmand() {
        let sqlite = |path: &str, keep_primary_key| Location::Sqlite {
            path: path.into(),
            table: defaults::SQLITE_TABLE.to_owned(),
            keep_primary_key,
        };
        assert!(location_of(&[]) == Some(sqlite("/state/file", false)));
        assert!(location_of(&["-q", "builtin"]).is_none());
        assert!(location_of(&["-q", "libsqlite3", "--sqlite-keep-primary-key"]) == Some(sqlite("/state/file", true)));
        assert!(location_of(&["-q", "libsqlite3", "--libsqlite3-db=/q"]) == Some(sqlite("/q", false)));
        let postgres = Location::Postgres { conninfo: "host=h".to_owned(), table: defaults::POSTGRES_TABLE.to_owned() };
        assert!(location_of(&["-q", "Postgres", "--libpq-conninfo=host=h"]) == Some(postgres));
        let mysql = Location::Mysql {
            host: "localhost".to_owned(),
            port: 3306,
            user: user_name(),
            password: "p".to_owned(),
            database: "d".to_owned(),
            table: defaults::MYSQL_TABLE.to_owned(),
        };
        assert!(location_of(&["-q", "MySQL", "--mysql-db=d", "--mysql-password=p"]) == Some(mysql));
        let redis = Location::Redis {
            host: "127.0.0.1".to_owned(),
            port: 6379,
            password: String::new(),
            prefix: defaults::REDIS_PREFIX.to_owned(),
        };
        assert!(location_of(&["-q", "redis"]) == Some(redis));
    }

    #[test]
    fn the_file_is_called_by_the_first_port_of_tcp() {
        let port_of = |options: &[&str]| {
            let words = std::iter::once("gearmand").chain(options.iter().copied());
            let matches = config::command().try_get_matches_from(words).unwrap();
            port(&resolve(&Sources::command_line_only(matches)).unwrap().config)
        };
        assert_eq!(port_of(&[]), 4730);
        assert_eq!(port_of(&["-L", "unix:/s", "-L", "localhost:7", "-p", "8"]), 7);
        assert_eq!(port_of(&["-L", "unix:/s"]), 0);
    }
}
