//! Addresses to listen on, and ports by number or service name.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// The longest path of a UNIX socket in bytes: `sun_path` has 108 with the final NUL.
const LONGEST_SOCKET_PATH: usize = 107;

/// The file with the names of ports.
const SERVICES: &str = "/etc/services";

/// An address to listen on, complete with its port. Port 0 lets the kernel choose.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListenAddress {
    /// All addresses of this machine, IPv4 and, if the kernel supports it, IPv6.
    All {
        /// The TCP port.
        port: u16,
    },
    /// A single address.
    Ip(SocketAddr),
    /// A host name, or an address with a zone such as `fe80::1%eth0`; it is resolved when the server binds.
    Host {
        /// The name.
        name: String,
        /// The TCP port.
        port: u16,
    },
    /// A UNIX socket at this path.
    Unix(PathBuf),
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All { port } => write!(formatter, "*:{port}"),
            Self::Ip(address) => address.fmt(formatter),
            Self::Host { name, port } if name.contains(':') => write!(formatter, "[{name}]:{port}"),
            Self::Host { name, port } => write!(formatter, "{name}:{port}"),
            Self::Unix(path) => write!(formatter, "unix:{}", path.display()),
        }
    }
}

impl ListenAddress {
    /// The same host with another port; `None` for a UNIX socket.
    pub(super) fn with_port(&self, port: u16) -> Option<Self> {
        match self {
            Self::All { .. } => Some(Self::All { port }),
            Self::Ip(address) => Some(Self::Ip(SocketAddr::new(address.ip(), port))),
            Self::Host { name, .. } => Some(Self::Host { name: name.clone(), port }),
            Self::Unix(_) => None,
        }
    }
}

/// A value of `--listen`: an address with an optional port, which defaults to `--port`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum ListenArgument {
    All { port: Option<u16> },
    Ip { address: IpAddr, port: Option<u16> },
    Host { name: String, port: Option<u16> },
    Unix(PathBuf),
}

impl ListenArgument {
    /// Completes the address with the value of `--port`.
    pub(super) fn with_port(&self, default: u16) -> ListenAddress {
        match self {
            Self::All { port } => ListenAddress::All { port: port.unwrap_or(default) },
            Self::Ip { address, port } => ListenAddress::Ip(SocketAddr::new(*address, port.unwrap_or(default))),
            Self::Host { name, port } => ListenAddress::Host { name: name.clone(), port: port.unwrap_or(default) },
            Self::Unix(path) => ListenAddress::Unix(path.clone()),
        }
    }
}

impl FromStr for ListenArgument {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix("unix:") {
            return unix_socket(path);
        }
        if text.contains("://") {
            return Err("write the address without a scheme, such as 10.0.0.1:4730".to_owned());
        }
        if text.contains(['"', '\'']) {
            return Err("an address has no quotes; leave them out".to_owned());
        }
        let (host, port) = split_port(text)?;
        let port = port.map(self::port).transpose()?;
        if host == "*" {
            return Ok(Self::All { port });
        }
        if let (true, Some(port)) = (host.is_empty(), port) {
            return Err(format!(
                "an address stands before the port; write *:{port} (all addresses) or 127.0.0.1:{port} (this machine only)"
            ));
        }
        if let Ok(address) = host.parse() {
            return Ok(Self::Ip { address, port });
        }
        if is_number(host) {
            return Err(number_for_address(host, port));
        }
        let allowed = |letter: char| letter.is_alphanumeric() || "-._:%".contains(letter);
        if host.is_empty() || !host.chars().all(allowed) {
            return Err(
                "give an address, a host name or unix:/PATH, with :PORT where it differs from --port".to_owned()
            );
        }
        Ok(Self::Host { name: host.to_owned(), port })
    }
}

/// Whether the system would parse a number as an address, such as 24737 as 0.0.96.161 or 10.1 as 10.0.0.1. No
/// host name ends like this.
pub fn is_number(host: &str) -> bool {
    let last = host.rsplit('.').find(|part| !part.is_empty()).unwrap_or_default();
    let hexadecimal = last.strip_prefix("0x").or_else(|| last.strip_prefix("0X"));
    let is_decimal = !last.is_empty() && last.bytes().all(|digit| digit.is_ascii_digit());
    is_decimal || hexadecimal.is_some_and(|digits| digits.bytes().all(|digit| digit.is_ascii_hexdigit()))
}

/// The error for a number in place of an address.
fn number_for_address(host: &str, port: Option<u16>) -> String {
    match host.parse::<u16>().ok().filter(|_| port.is_none()) {
        Some(port) => format!(
            "a number alone is no address; for a port write 127.0.0.1:{port} (this machine only) or *:{port} (all \
             addresses)"
        ),
        None => {
            "this is neither a host name nor an address; an IPv4 address has four numbers, such as 10.0.0.1".to_owned()
        }
    }
}

/// Splits `host:port`, `[v6]:port`, `[v6]`, a bare IPv6 address or a name into host and port.
fn split_port(text: &str) -> Result<(&str, Option<&str>), String> {
    if let Some(rest) = text.strip_prefix('[') {
        let (host, after) = rest.split_once(']').ok_or("the closing ] is missing")?;
        let address = host.split_once('%').map_or(host, |(address, _zone)| address);
        if address.parse::<Ipv6Addr>().is_err() {
            return Err("only an IPv6 address stands in [ ]".to_owned());
        }
        return match after.strip_prefix(':') {
            Some(port) => Ok((host, Some(port))),
            None if after.is_empty() => Ok((host, None)),
            None => Err("after ] only :PORT can follow".to_owned()),
        };
    }
    match text.split_once(':') {
        Some((host, port)) if !port.contains(':') => Ok((host, Some(port))),
        Some(_) => {
            let address = text.split_once('%').map_or(text, |(address, _zone)| address);
            let parsed = address.parse::<Ipv6Addr>();
            parsed.map_err(|_| "this is no IPv6 address; with a port write [ADDRESS]:PORT")?;
            Ok((text, None))
        }
        None => Ok((text, None)),
    }
}

fn unix_socket(path: &str) -> Result<ListenArgument, String> {
    if path.is_empty() {
        return Err("the path is missing; write unix:/PATH".to_owned());
    }
    if path.len() > LONGEST_SOCKET_PATH {
        return Err(format!("the path of a UNIX socket has at most {LONGEST_SOCKET_PATH} bytes"));
    }
    Ok(ListenArgument::Unix(PathBuf::from(path)))
}

/// A TCP port: a number from 0 to 65535, or the name of a service in `/etc/services`.
pub(super) fn port(text: &str) -> Result<u16, String> {
    if text.starts_with(|first: char| first.is_ascii_digit() || first == '-' || first == '+') {
        return text.parse().map_err(|_| "a port is a number from 0 to 65535".to_owned());
    }
    if text.is_empty() {
        return Err("a port is a number from 0 to 65535 or the name of a service".to_owned());
    }
    let services = std::fs::read_to_string(Path::new(SERVICES)).unwrap_or_default();
    service_port(&services, text)
        .ok_or_else(|| format!("{SERVICES} has no TCP service of this name; a port is a number from 0 to 65535"))
}

/// Finds the TCP port of a service by name or alias in the text of `/etc/services`.
fn service_port(services: &str, name: &str) -> Option<u16> {
    services.lines().find_map(|line| {
        let line = line.split_once('#').map_or(line, |(line, _comment)| line);
        let mut words = line.split_whitespace();
        let official = words.next()?;
        let port = words.next()?.strip_suffix("/tcp")?;
        let named = official == name || words.any(|alias| alias == name);
        named.then(|| port.parse().ok()).flatten()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn services_are_found_by_name_and_alias() {
        let services = "# gearman 1/tcp\ndomain 53/udp\ndomain 53/tcp\ngearman\t4730/tcp\tgear job # jobs\nbad\n";
        assert_eq!(service_port(services, "gearman"), Some(4730));
        assert_eq!(service_port(services, "job"), Some(4730));
        assert_eq!(service_port(services, "domain"), Some(53));
        assert_eq!(service_port(services, "jobs"), None);
        assert_eq!(service_port("only 1/udp", "only"), None);
    }

    #[test]
    fn addresses_are_understood_or_refused() {
        let listen = |text: &str| text.parse::<ListenArgument>().map(|address| address.with_port(4730).to_string());
        for (text, expected) in [
            ("127.0.0.1", "127.0.0.1:4730"),
            ("127.0.0.1:1", "127.0.0.1:1"),
            ("::", "[::]:4730"),
            ("[::]", "[::]:4730"),
            ("[::1]:2", "[::1]:2"),
            ("localhost:0", "localhost:0"),
            ("fe80::1%eth0", "[fe80::1%eth0]:4730"),
            ("*", "*:4730"),
            ("unix:/run/g.sock", "unix:/run/g.sock"),
        ] {
            assert_eq!(listen(text).as_deref(), Ok(expected), "{text}");
        }
        let long = format!("unix:/{}", "x".repeat(LONGEST_SOCKET_PATH));
        for text in [
            "",
            ":4730",
            "localhost:",
            "localhost:x-no-such-service",
            "localhost:65536",
            "[::1",
            "[::1]x",
            "[localhost]:1",
            "1:2:3",
            "tcp://localhost",
            "a b",
            "a/b",
            "unix:",
            "24737",
            "10.1",
            "10.0.0.256",
            "0x7f000001",
            "0x7f000001:80",
            "4730:4730",
            "10.1.",
            &long,
        ] {
            assert!(listen(text).is_err(), "{text}");
        }
    }
}
