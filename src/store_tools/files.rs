//! `gearmand queue backup` and `compact`: operations on the whole file of a queue.

use std::io::{self, Write as _};
use std::path::Path;

use super::{ToolError, tell};
use crate::client::printable;
use crate::process::state_directory;
use crate::store::location::Location;

/// Copies the queue to a file, even while a server uses it.
pub(super) fn backup(location: &Location, copy: &Path) -> Result<u8, ToolError> {
    #[cfg(feature = "sqlite")]
    if let Location::Sqlite { path, table, .. } = location {
        require(path)?;
        let bytes = crate::store::sqlite::backup(path, table, copy)?;
        let text = format!("{} is a copy of {location}, {bytes} bytes", copy.display());
        writeln!(io::stdout(), "{}", printable(&text))?;
        return Ok(0);
    }
    Err(ToolError::Usage(format!("{location} is in a database: copy it with {}", means(location))))
}

/// Shrinks the file of a queue that no server uses.
pub(super) fn compact(location: &Location) -> Result<u8, ToolError> {
    #[cfg(feature = "sqlite")]
    if let Location::Sqlite { path, table, .. } = location {
        require(path)?;
        let done = crate::store::sqlite::compact(path, table);
        if let Err(error) = state_directory::give_to_owner_of_directory(path) {
            let path = path.display();
            tell(
                "queue",
                format_args!("cannot give {path} to the owner of its directory: {error}; the server may need that"),
            );
        }
        let (before, after) = done?;
        writeln!(io::stdout(), "{}: {before} bytes before, {after} now", printable(&location.to_string()))?;
        return Ok(0);
    }
    Err(ToolError::Usage(format!("{location} is in a database, which reuses free space by itself")))
}

/// Reports a missing queue differently from one that fails.
#[cfg(feature = "sqlite")]
fn require(path: &Path) -> Result<(), ToolError> {
    match path.metadata() {
        Ok(_) => Ok(()),
        Err(error) => Err(ToolError::Open(format!("SQLite file {}: {error}", path.display()))),
    }
}

/// The command that copies a queue in a database.
fn means(location: &Location) -> String {
    match location {
        Location::Postgres { table, .. } => format!("pg_dump -t {table} -t {table}_meta -t {table}_settings"),
        Location::Mysql { database, table, .. } => {
            format!("mysqldump --single-transaction {database} {table} {table}_meta {table}_settings")
        }
        Location::Redis { .. } => "BGSAVE, and then its dump.rdb, or its appendonlydir".to_owned(),
        Location::Sqlite { .. } => "a build that supports SQLite".to_owned(),
    }
}
