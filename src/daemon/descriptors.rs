//! The connection limit by file descriptors: a flood of connections must leave enough for HTTP, the store and
//! the log.

use nix::sys::resource::{Resource, getrlimit};
use tracing::{info, warn};

use crate::config::{Config, Resolved};

/// Descriptors of the process itself: standard streams, listeners, runtime, log, store, and a spare one for
/// files that are read temporarily.
const OWN: usize = 32;
/// Maximum number of descriptors for HTTP, including those of jobs that it submits.
const MOST_FOR_HTTP: usize = 128;
/// A limit below this is logged as a warning even if max-connections is not set.
const FEW: usize = 1000;

/// Maximum number of open connections: the configured number, capped by the available descriptors.
pub(super) fn most_connections(config: &Config) -> usize {
    let asked = config.limits.max_connections;
    let Ok((files, _)) = getrlimit(Resource::RLIMIT_NOFILE) else { return asked };
    asked.min(room(usize::try_from(files).unwrap_or(usize::MAX), config))
}

/// How many connections fit into a limit of `files` open files.
fn room(files: usize, config: &Config) -> usize {
    let http = config.http.listen.as_ref().map_or(0, |_| config.http.max_connections.min(MOST_FOR_HTTP));
    // Of a very low limit, half is for connections.
    files - (OWN + http).min(files / 2)
}

/// Logs if the limit is lower than the configured number.
pub(super) fn report(resolved: &Resolved) {
    let (asked, most) = (resolved.config.limits.max_connections, most_connections(&resolved.config));
    if most == asked {
        return;
    }
    let text = format!(
        "at most {most} connections are accepted instead of {asked} (max-connections): the limit of open files is too \
         low; raise --file-descriptors, or the limit of the service (LimitNOFILE)"
    );
    if most < FEW || resolved.is_set("max-connections") { warn!("{text}") } else { info!("{text}") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Sources, command, resolve};

    #[test]
    fn there_is_a_reserve_for_all_else() {
        let room_with = |http: &str, files| {
            let matches = command().get_matches_from(["gearmand", "--http-listen", http]);
            room(files, &resolve(&Sources::command_line_only(matches)).unwrap().config)
        };
        assert_eq!(room_with("off", 1024), 992);
        assert_eq!(room_with("127.0.0.1:0", 1024), 864);
        assert_eq!(room_with("127.0.0.1:0", 32), 16);
        assert_eq!(room_with("off", 0), 0);
    }
}
