//! Server addresses: taken from the options first, then from the environment, then the default.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::{ToolError, values};
use crate::config::is_number;

/// The port that IANA has assigned to Gearman.
const DEFAULT_PORT: u16 = 4730;
const DEFAULT_HOST: &str = "127.0.0.1";
/// libgearman reads the first variable, Debian's `gearman` the second.
const ENVIRONMENT: [&str; 2] = ["GEARMAN_SERVERS", "GEARMAN_SERVER"];

/// The servers to connect to.
///
/// The argument ids have a prefix of their own: an option with the id of a server option would inherit that
/// option's value.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct ServerArgs {
    /// Server: HOST, HOST:PORT, [IPV6]:PORT or unix:/PATH; may be repeated, or be a list with commas
    ///
    /// The default is the environment variable GEARMAN_SERVERS or GEARMAN_SERVER, which may be such a list,
    /// or else 127.0.0.1:4730. `submit` and `admin` use the first reachable server, `work` serves all of
    /// them.
    #[arg(
        id = "tool_server",
        short = 's',
        long = "server",
        global = true,
        value_name = "SERVER",
        value_delimiter = ','
    )]
    servers: Vec<String>,
    /// Host of the server, as with Debian's tools
    #[arg(
        id = "tool_host",
        short = 'h',
        long = "host",
        global = true,
        value_name = "HOST",
        conflicts_with = "tool_server"
    )]
    host: Option<String>,
    /// Port of servers given without one [default: 4730]
    #[arg(id = "tool_port", short = 'p', long = "port", global = true, value_name = "PORT")]
    port: Option<u16>,
    /// Time limit for connecting to a server; without a unit: seconds
    #[arg(id = "tool_connect_timeout", long = "connect-timeout", global = true, value_name = "TIME", default_value = "5s", value_parser = values::time)]
    pub(super) connect_timeout: Duration,
    /// Print help
    #[arg(id = "tool_help", long = "help", global = true, action = clap::ArgAction::Help)]
    help: Option<bool>,
}

impl ServerArgs {
    /// Returns the servers in the order in which they were named: at least one, without duplicates.
    ///
    /// # Errors
    /// [`ToolError::Usage`] names the invalid address.
    pub(super) fn resolve(&self) -> Result<Vec<ServerAddress>, ToolError> {
        self.resolve_with(|name| std::env::var(name).ok())
    }

    fn resolve_with(&self, environment: impl Fn(&str) -> Option<String>) -> Result<Vec<ServerAddress>, ToolError> {
        let port = self.port.unwrap_or(DEFAULT_PORT);
        let mut names = self.servers.clone();
        names.extend(self.host.clone());
        if names.is_empty() && self.port.is_none() {
            let list = ENVIRONMENT.iter().find_map(|name| environment(name).filter(|list| !list.trim().is_empty()));
            names.extend(list.iter().flat_map(|list| list.split(',')).map(|name| name.trim().to_owned()));
            names.retain(|name| !name.is_empty());
        }
        if names.is_empty() {
            names.push(DEFAULT_HOST.to_owned());
        }
        let mut servers = Vec::new();
        for name in names {
            let server = ServerAddress::parse(&name, port)
                .map_err(|why| ToolError::Usage(format!("invalid server address \"{name}\": {why}")))?;
            // A server that is named twice would count each worker twice.
            if !servers.contains(&server) {
                servers.push(server);
            }
        }
        Ok(servers)
    }
}

/// The address of a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum ServerAddress {
    /// A host name or IP address, and a port.
    Tcp {
        /// Without brackets.
        host: String,
        /// Not 0.
        port: u16,
    },
    /// The path of a UNIX socket.
    Unix(PathBuf),
}

impl ServerAddress {
    fn parse(text: &str, default_port: u16) -> Result<Self, &'static str> {
        let text = text.trim();
        if let Some(path) = text.strip_prefix("unix:") {
            return if path.is_empty() { Err("it has no path") } else { Ok(Self::Unix(PathBuf::from(path))) };
        }
        let (host, port) = if let Some(rest) = text.strip_prefix('[') {
            let (host, after) = rest.split_once(']').ok_or("a bracket is missing")?;
            match after.strip_prefix(':') {
                None if !after.is_empty() => return Err("only a colon and a port may follow the bracket"),
                port => (host, port),
            }
        } else {
            match text.split_once(':') {
                // Several colons without brackets are an IPv6 address.
                Some((_, rest)) if rest.contains(':') => (text, None),
                Some((host, port)) => (host, Some(port)),
                None => (text, None),
            }
        };
        let port = match port {
            None => default_port,
            Some(port) => port.parse().map_err(|_| "the port is not a number up to 65535")?,
        };
        if port == 0 {
            return Err("port 0 is not a valid port");
        }
        if text.is_empty() {
            return Err("it is empty");
        }
        if host.contains('/') {
            return Err("a UNIX socket is written unix:/PATH");
        }
        if host.parse::<IpAddr>().is_err() && is_number(host) {
            return Err("a number alone is not a host (write HOST:PORT), and an IPv4 address has four numbers");
        }
        if host.contains(|letter: char| letter.is_whitespace() || letter.is_control()) {
            return Err("invalid character in the host");
        }
        Ok(Self::Tcp { host: if host.is_empty() { DEFAULT_HOST } else { host }.to_owned(), port })
    }
}

impl fmt::Display for ServerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Tcp { host, port } => write!(f, "{host}:{port}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str) -> String {
        ServerAddress::parse(text, 4730).map_or_else(str::to_owned, |address| address.to_string())
    }

    fn resolved(args: &ServerArgs, environment: &[(&str, &str)]) -> Vec<String> {
        let look_up =
            |name: &str| environment.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned());
        args.resolve_with(look_up).unwrap().iter().map(ToString::to_string).collect()
    }

    fn args(servers: &[&str], host: Option<&str>, port: Option<u16>) -> ServerArgs {
        ServerArgs {
            servers: servers.iter().map(ToString::to_string).collect(),
            host: host.map(str::to_owned),
            port,
            connect_timeout: Duration::from_secs(5),
            help: None,
        }
    }

    #[test]
    fn addresses_come_in_every_usual_form() {
        for (text, meaning) in [
            ("queue.example", "queue.example:4730"),
            ("queue.example:99", "queue.example:99"),
            (":99", "127.0.0.1:99"),
            ("::1", "[::1]:4730"),
            ("[::1]", "[::1]:4730"),
            ("[::1]:99", "[::1]:99"),
            ("unix:/run/gearmand.sock", "unix:/run/gearmand.sock"),
        ] {
            assert_eq!(shown(text), meaning);
        }
        for strange in
            ["host:port", "host:70000", "host:0", "[::1", "[::1]99", "unix:", "a b", "tcp://host:1", "4731", "10.1"]
        {
            assert!(ServerAddress::parse(strange, 4730).is_err(), "{strange}");
        }
    }

    #[test]
    fn options_go_before_the_environment_and_that_before_the_default() {
        let environment = [("GEARMAN_SERVERS", "a:1, b"), ("GEARMAN_SERVER", "c")];
        assert_eq!(resolved(&args(&["x", "y:2"], None, Some(9)), &environment), ["x:9", "y:2"]);
        assert_eq!(resolved(&args(&[], Some("x"), None), &environment), ["x:4730"]);
        assert_eq!(resolved(&args(&[], None, Some(9)), &environment), ["127.0.0.1:9"]);
        assert_eq!(resolved(&args(&[], None, None), &environment), ["a:1", "b:4730"]);
        assert_eq!(resolved(&args(&[], None, None), &environment[1..]), ["c:4730"]);
        assert_eq!(resolved(&args(&[], None, None), &[("GEARMAN_SERVERS", " ,")]), ["127.0.0.1:4730"]);
    }
}
