//! `gearmand top`: shows the functions, workers and jobs of a server live in a terminal, with actions on
//! them.
//!
//! It uses only the text protocol, and therefore works with any server: one that does not know this program's
//! listings is queried with the commands of C++ gearmand (`cpp_compat`). State and rendering are separate:
//! `app` (with `list`, `keys`, `actions`) is changed by events and depends on neither terminal nor
//! connection, `render` (with `table`, `panels`) draws it, `terminal` has the main loop, and
//! `connection_task` the connection, over which `fetch` queries the `data`. `batch` prints instead.

mod actions;
mod app;
mod batch;
mod connection_task;
mod cpp_compat;
mod data;
mod fetch;
mod keys;
mod list;
mod panels;
mod render;
mod table;
mod terminal;
#[cfg(test)]
mod tests;
mod views;

use std::io::{self, IsTerminal};
use std::time::Duration;

use super::address::{ServerAddress, ServerArgs};
use super::{ToolError, values};

/// Shortest interval between two updates.
const SHORTEST_INTERVAL: Duration = Duration::from_millis(50);

/// What `gearmand top` is told.
#[derive(Debug, clap::Args)]
#[command(after_help = "Keys: Tab or 1 to 4 choose the view, ? shows all keys. NO_COLOR disables colours.\n\nExit \
    status: 0 quit, 1 the terminal or standard output failed, 2 usage, 3 no server reachable or no answer in time \
    (with --once).")]
pub struct TopArgs {
    #[command(flatten)]
    server: ServerArgs,
    /// Refresh interval, such as 500ms or 5m; without a unit: seconds
    #[arg(long, short = 'i', value_name = "TIME", default_value = "1s", value_parser = values::time)]
    interval: Duration,
    /// Print the tables and exit
    #[arg(long)]
    once: bool,
    /// Print JSON: one document with --once, else one per line at each interval
    #[arg(id = "top_json", long = "json")]
    json: bool,
    /// Time limit for an answer; without a unit: seconds
    #[arg(id = "top_timeout", long = "timeout", value_name = "TIME", default_value = "10s", value_parser = values::time)]
    timeout: Duration,
}

/// Server addresses and time limits.
struct Connector {
    servers: Vec<ServerAddress>,
    connect_timeout: Duration,
    timeout: Duration,
}

/// Shows a server live, or prints its state.
pub(super) async fn run(mut args: TopArgs) -> Result<u8, ToolError> {
    args.interval = args.interval.max(SHORTEST_INTERVAL);
    let connector = Connector {
        servers: args.server.resolve()?,
        connect_timeout: args.server.connect_timeout,
        timeout: args.timeout,
    };
    match (args.once, args.json) {
        (true, _) => batch::run(&args, &connector).await,
        (false, true) => batch::repeat(&args, &connector).await,
        (false, false) if io::stdout().is_terminal() && io::stdin().is_terminal() => {
            terminal::run(&args, connector).await
        }
        (false, false) => {
            Err(ToolError::Usage("standard input or output is not a terminal: use --once or --json".to_owned()))
        }
    }
}
