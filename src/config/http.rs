//! The HTTP interface: its options, and the settings that result from them.

use std::path::PathBuf;
use std::str::FromStr;

use clap::{ArgAction, Args};

use super::address::{ListenAddress, ListenArgument};
use super::queue::Secret;
use super::value;

/// The port of `--http-listen` without one: near 4730, unassigned, and not one that further Gearman servers
/// on the machine usually get (4731, 4732 and on).
const DEFAULT_PORT: u16 = 4780;

/// Where HTTP is served, and who may do what there.
#[derive(Args, Clone, Debug, PartialEq, Eq)]
#[command(next_help_heading = "HTTP")]
#[allow(clippy::struct_field_names, reason = "a field is the name of its option")]
pub(super) struct HttpArgs {
    /// Serve the dashboard, metrics and the JSON interface on this address, ADDRESS[:PORT]; off for none
    ///
    /// An address that this machine alone can reach needs no token. Where the default address is taken by
    /// another process, such as another server of this machine, the server runs without HTTP and says so in
    /// the log; an address that was asked for must be free.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:4780")]
    pub(super) http_listen: HttpListen,

    /// Token required for changes, as `Authorization: Bearer TOKEN`; the environment or a file hides it from
    /// `ps` [default: none]
    ///
    /// Without a token, changes are allowed on a loopback address and refused on any other. Read access needs
    /// no token.
    #[arg(long, value_name = "TEXT", value_parser = value::token)]
    http_token: Option<Secret>,

    /// Read the token from this file, which is opened before the user is switched [default: none]
    ///
    /// With --http-token too either of the two is good, so that a token can be changed without a moment in
    /// which none is.
    #[arg(long, value_name = "PATH")]
    http_token_file: Option<PathBuf>,

    /// Refuse every HTTP request that would change something
    #[arg(long)]
    http_read_only: bool,

    /// Maximum number of open HTTP connections
    #[arg(long, value_name = "N", default_value = "256", value_parser = value::count::<1, 1_000_000>)]
    http_max_connections: usize,

    /// The functions whose metrics are written: none, top:N (those with the most jobs since the start) or all
    ///
    /// Prometheus keeps a series for each number of each function: about 5 of a function without jobs, and 80
    /// of one whose jobs were timed. With many thousands of functions this bounds them. The metrics of the
    /// server as a whole remain.
    #[arg(long, value_name = "WHICH", default_value = "all")]
    http_metrics_functions: MetricsFunctions,

    /// Host name by which browsers may ask for this server; can be repeated [default: localhost, addresses,
    /// and the host name where others reach it]
    ///
    /// Web sites can let their own names point to your addresses. So no other names are served: a loopback
    /// address goes by localhost and addresses of loopback, any other by localhost, all addresses and the
    /// host name of the machine.
    #[arg(long, value_name = "NAME", action = ArgAction::Append, value_parser = value::host_name)]
    http_allowed_host: Vec<String>,
}

/// A value of `--http-listen`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum HttpListen {
    /// No HTTP.
    Off,
    /// This address, which is not a UNIX socket.
    At(ListenArgument),
}

impl FromStr for HttpListen {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "off" {
            return Ok(Self::Off);
        }
        if ["on", "yes", "true", "no", "false", "none"].iter().any(|word| text.eq_ignore_ascii_case(word)) {
            return Err(format!(
                "write off, or an address: 127.0.0.1:{DEFAULT_PORT} (this machine only) or *:{DEFAULT_PORT} (all addresses)"
            ));
        }
        match text.parse()? {
            ListenArgument::Unix(_) => Err("HTTP is served over TCP; give an address, or off".to_owned()),
            address => Ok(Self::At(address)),
        }
    }
}

/// The functions for which metrics are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MetricsFunctions {
    /// No function; only the metrics of the server as a whole.
    None,
    /// At most this many functions: those with the most jobs since the start of the server.
    Top(usize),
    /// Every function.
    All,
}

impl MetricsFunctions {
    /// Maximum number of functions; `None` for all.
    pub fn most(self) -> Option<usize> {
        match self {
            Self::None => Some(0),
            Self::Top(most) => Some(most),
            Self::All => None,
        }
    }
}

impl FromStr for MetricsFunctions {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "none" => Ok(Self::None),
            "all" => Ok(Self::All),
            _ => text
                .strip_prefix("top:")
                .and_then(|most| most.parse().ok())
                .filter(|most| *most > 0)
                .map(Self::Top)
                .ok_or_else(|| "write none, all, or top:N with a number N of functions, such as top:100".to_owned()),
        }
    }
}

/// The HTTP interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Http {
    /// The address to listen on; `None` for no HTTP. It is not a UNIX socket.
    pub listen: Option<ListenAddress>,
    /// The token that requests need to change something.
    pub token: Option<Secret>,
    /// A file with a second valid token.
    pub token_file: Option<PathBuf>,
    /// Whether all changes are refused.
    pub read_only: bool,
    /// Maximum number of open connections.
    pub max_connections: usize,
    /// The functions for which metrics are written.
    pub metrics_functions: MetricsFunctions,
    /// Names of this server, in lower case.
    pub hosts: Vec<String>,
}

impl HttpArgs {
    /// The settings that result from the options.
    pub(super) fn choice(self) -> Http {
        let listen = match self.http_listen {
            HttpListen::Off => None,
            HttpListen::At(address) => Some(address.with_port(DEFAULT_PORT)),
        };
        Http {
            listen,
            token: self.http_token,
            token_file: self.http_token_file,
            read_only: self.http_read_only,
            max_connections: self.http_max_connections,
            metrics_functions: self.http_metrics_functions,
            hosts: self.http_allowed_host,
        }
    }
}
