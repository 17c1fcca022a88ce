//! The values of settings: numbers with a range, sizes, times, ports, addresses, levels.
//!
//! Every parser takes the text of one value and answers with the typed value or with a reason that reads
//! well after "`NAME` cannot be `TEXT`: ". Where the text came from is the caller's business.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

/// A time that can be switched off: `None` means never.
///
/// The alias keeps the command line parser from reading the `Option` as "may be absent".
pub type OptionalDuration = Option<Duration>;
/// A number that can be left to the kernel or to nobody: `None` means no value is set.
pub type OptionalCount = Option<u32>;
/// How often a job is tried again after its worker was lost: `None` means without end.
pub type Retries = Option<u8>;

/// The longest time that a setting takes: a year, far from the overflow of any clock.
const LONGEST: Duration = Duration::from_hours(365 * 24);

/// The longest path of a UNIX socket in bytes: `sun_path` has 108 with the final NUL.
const LONGEST_SOCKET_PATH: usize = 107;

/// The longest prefix of job handles in bytes.
///
/// Clients keep a handle in 64 bytes, the last one NUL: 63 less the colon and the 20 digits of the largest number.
pub(super) const LONGEST_HANDLE_PREFIX: usize = 42;

/// Where the names of ports are looked up.
const SERVICES: &str = "/etc/services";

/// How important a log line is, in gearmand's names, the most important first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Level {
    /// The server cannot go on.
    Fatal,
    /// Somebody must act at once.
    Alert,
    /// A part of the server has failed.
    Critical,
    /// An operation has failed; also every ERROR packet that is sent.
    Error,
    /// Something looks wrong, service goes on.
    Warning,
    /// Worth knowing in normal service, such as an accepted job.
    Notice,
    /// Connections that come and go.
    Info,
    /// Everything.
    Debug,
}

impl Level {
    /// All levels, the most important first.
    pub const ALL: [Self; 8] = [
        Self::Fatal,
        Self::Alert,
        Self::Critical,
        Self::Error,
        Self::Warning,
        Self::Notice,
        Self::Info,
        Self::Debug,
    ];

    /// The name as gearmand writes it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Fatal => "FATAL",
            Self::Alert => "ALERT",
            Self::Critical => "CRITICAL",
            Self::Error => "ERROR",
            Self::Warning => "WARNING",
            Self::Notice => "NOTICE",
            Self::Info => "INFO",
            Self::Debug => "DEBUG",
        }
    }
}

impl fmt::Display for Level {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(self.name())
    }
}

impl FromStr for Level {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let known = Self::ALL
            .into_iter()
            .find(|level| level.name().eq_ignore_ascii_case(text));
        known.ok_or_else(|| format!("the levels are {}", Self::ALL.map(Self::name).join(", ")))
    }
}

/// How log lines are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// One line of text as gearmand writes it.
    Human,
    /// One JSON object a line.
    Json,
}

impl FromStr for LogFormat {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "human" => Ok(Self::Human),
            "json" => Ok(Self::Json),
            _ => Err("the formats are human and json".to_owned()),
        }
    }
}

/// Where log lines go, besides syslog and journald.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogTarget {
    /// Appended to this file, which HUP opens anew.
    File(PathBuf),
    /// Standard error, written `stderr`.
    StandardError,
    /// Nowhere, written `none`.
    Nowhere,
}

impl FromStr for LogTarget {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "" => Err("give the path of a file, `stderr` or `none`".to_owned()),
            "stderr" => Ok(Self::StandardError),
            "none" => Ok(Self::Nowhere),
            path => Ok(Self::File(path.into())),
        }
    }
}

/// An address to listen on, complete with its port. Port 0 lets the kernel choose.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListenAddress {
    /// All addresses of this machine, IPv4 and, where the kernel has it, IPv6.
    All {
        /// The TCP port.
        port: u16,
    },
    /// One address.
    Ip(SocketAddr),
    /// A host name, or an address with a zone such as `fe80::1%eth0`; it is looked up when the server binds.
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

/// A value of `--listen`: an address whose port may be left to `--port`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum ListenArgument {
    All { port: Option<u16> },
    Ip { address: IpAddr, port: Option<u16> },
    Host { name: String, port: Option<u16> },
    Unix(PathBuf),
}

impl ListenArgument {
    /// Completes the address with the port of `--port`.
    pub(super) fn with_port(&self, default: u16) -> ListenAddress {
        match self {
            Self::All { port } => ListenAddress::All {
                port: port.unwrap_or(default),
            },
            Self::Ip { address, port } => {
                ListenAddress::Ip(SocketAddr::new(*address, port.unwrap_or(default)))
            }
            Self::Host { name, port } => ListenAddress::Host {
                name: name.clone(),
                port: port.unwrap_or(default),
            },
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
        let (host, port) = split_port(text)?;
        let port = port.map(self::port).transpose()?;
        if host == "*" {
            return Ok(Self::All { port });
        }
        if let Ok(address) = host.parse() {
            return Ok(Self::Ip { address, port });
        }
        let allowed = |letter: char| letter.is_alphanumeric() || "-._:%".contains(letter);
        if host.is_empty() || !host.chars().all(allowed) {
            return Err("give an address, a host name or unix:/PATH, with :PORT where it differs from --port".to_owned());
        }
        Ok(Self::Host {
            name: host.to_owned(),
            port,
        })
    }
}

/// Cuts `host:port`, `[v6]:port`, `[v6]`, a bare IPv6 address or a name into host and port.
fn split_port(text: &str) -> Result<(&str, Option<&str>), String> {
    if let Some(rest) = text.strip_prefix('[') {
        let (host, after) = rest.split_once(']').ok_or("the closing ] is missing")?;
        let address = host
            .split_once('%')
            .map_or(host, |(address, _zone)| address);
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
            let address = text
                .split_once('%')
                .map_or(text, |(address, _zone)| address);
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
        return Err(format!(
            "the path of a UNIX socket has at most {LONGEST_SOCKET_PATH} bytes"
        ));
    }
    Ok(ListenArgument::Unix(PathBuf::from(path)))
}

/// A TCP port: a number from 0 to 65535, or the name of a service in `/etc/services`.
pub(super) fn port(text: &str) -> Result<u16, String> {
    if text.starts_with(|first: char| first.is_ascii_digit() || first == '-' || first == '+') {
        return text
            .parse()
            .map_err(|_| "a port is a number from 0 to 65535".to_owned());
    }
    if text.is_empty() {
        return Err("a port is a number from 0 to 65535 or the name of a service".to_owned());
    }
    let services = std::fs::read_to_string(Path::new(SERVICES)).unwrap_or_default();
    service_port(&services, text).ok_or_else(|| {
        format!("{SERVICES} has no TCP service of this name; a port is a number from 0 to 65535")
    })
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

/// A whole number from `MIN` to `MAX`; `_` may separate its digits.
fn whole<const MIN: i64, const MAX: i64>(text: &str) -> Result<i64, String> {
    let digits = text.strip_prefix('-').unwrap_or(text);
    let separated =
        digits.starts_with(|first: char| first.is_ascii_digit()) && !digits.contains("__");
    let number = text
        .replace('_', "")
        .parse::<i64>()
        .ok()
        .filter(|_| separated);
    number
        .filter(|number| (MIN..=MAX).contains(number))
        .ok_or_else(|| format!("this must be a whole number from {MIN} to {MAX}"))
}

/// A number of things held in memory, from `MIN` to `MAX`.
pub(super) fn count<const MIN: i64, const MAX: i64>(text: &str) -> Result<usize, String> {
    let number = whole::<MIN, MAX>(text)?;
    usize::try_from(number).map_err(|_| "this machine cannot count so far".to_owned())
}

/// A number for the kernel, from `MIN` to `MAX`.
pub(super) fn number<const MIN: i64, const MAX: i64>(text: &str) -> Result<u32, String> {
    let number = whole::<MIN, MAX>(text)?;
    u32::try_from(number).map_err(|_| format!("this must be a whole number up to {}", u32::MAX))
}

/// How many threads: 0 asks for one a CPU.
pub(super) fn threads(text: &str) -> Result<usize, String> {
    let cpus = || std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    count::<0, 1024>(text).map(|threads| if threads == 0 { cpus() } else { threads })
}

/// Job retries: -1 is without end.
pub(super) fn retries(text: &str) -> Result<Retries, String> {
    whole::<-1, 255>(text).map(|retries| u8::try_from(retries).ok())
}

/// A number of workers to wake up: 0 is all of them.
pub(super) fn wakeup(text: &str) -> Result<OptionalCount, String> {
    number::<0, 255>(text).map(|workers| (workers > 0).then_some(workers))
}

/// The number of keep-alive probes: -1 leaves it to the kernel, which takes at most 127.
pub(super) fn probes(text: &str) -> Result<OptionalCount, String> {
    kernel_number::<127>(text)
}

/// A keep-alive time in seconds: -1 leaves it to the kernel, which takes at most 32767.
pub(super) fn keepalive_seconds(text: &str) -> Result<OptionalDuration, String> {
    let seconds = kernel_number::<32767>(text.strip_suffix('s').unwrap_or(text))?;
    Ok(seconds.map(|seconds| Duration::from_secs(seconds.into())))
}

fn kernel_number<const MAX: i64>(text: &str) -> Result<OptionalCount, String> {
    match whole::<-1, MAX>(text) {
        Ok(-1) => Ok(None),
        Ok(value @ 1..) => Ok(u32::try_from(value).ok()),
        _ => Err(format!(
            "this must be a whole number from 1 to {MAX}, or -1 for the kernel's own default"
        )),
    }
}

/// Permission bits in octal.
pub(super) fn mode(text: &str) -> Result<u32, String> {
    let digits = text.strip_prefix("0o").unwrap_or(text);
    let bits = u32::from_str_radix(digits, 8)
        .ok()
        .filter(|bits| *bits <= 0o777);
    bits.filter(|_| !digits.starts_with('+'))
        .ok_or_else(|| "permissions are octal digits from 000 to 777, such as 660".to_owned())
}

/// A size in bytes from `MIN` to `MAX` with an optional unit, each 1024 of the one before: k, m, g.
pub(super) fn bytes<const MIN: u64, const MAX: u64>(text: &str) -> Result<u64, String> {
    let (digits, unit) = split_unit(text);
    let factor = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => Some(1),
        "k" | "kib" => Some(1 << 10),
        "m" | "mib" => Some(1 << 20),
        "g" | "gib" => Some(1 << 30),
        _ => None,
    };
    let factor: u64 = factor.ok_or_else(|| {
        "a size is a number of bytes, or a number with the unit KiB, MiB or GiB (short: k, m, g), such as 64MiB".to_owned()
    })?;
    let size = digits
        .replace('_', "")
        .parse::<u64>()
        .ok()
        .and_then(|number| number.checked_mul(factor));
    size.filter(|size| (MIN..=MAX).contains(size))
        .ok_or_else(|| {
            format!(
                "a size from {} to {} is needed, such as 64MiB",
                display_bytes(MIN),
                display_bytes(MAX)
            )
        })
}

/// Writes a size in the largest unit that divides it.
pub(super) fn display_bytes(size: u64) -> String {
    let units = [(30, "GiB"), (20, "MiB"), (10, "KiB")];
    let fitting = units
        .into_iter()
        .find(|(shift, _)| size > 0 && size.trailing_zeros() >= *shift);
    fitting.map_or_else(
        || format!("{size} bytes"),
        |(shift, unit)| format!("{} {unit}", size >> shift),
    )
}

/// A time of at least a millisecond; a bare number counts milliseconds.
pub(super) fn milliseconds(text: &str) -> Result<Duration, String> {
    let duration = duration(text, "ms")?;
    if duration.is_zero() {
        Err("0 is no time; the shortest is 1ms".to_owned())
    } else {
        Ok(duration)
    }
}

/// A time that 0 switches off; a bare number counts seconds.
pub(super) fn seconds_or_off(text: &str) -> Result<OptionalDuration, String> {
    duration(text, "s").map(|duration| (!duration.is_zero()).then_some(duration))
}

fn duration(text: &str, bare_unit: &str) -> Result<Duration, String> {
    let (digits, unit) = split_unit(text);
    let milliseconds_each = match if unit.is_empty() { bare_unit } else { unit } {
        "ms" => Some(1),
        "s" => Some(1_000),
        "m" | "min" => Some(60_000),
        "h" => Some(3_600_000),
        _ => None,
    };
    let milliseconds = digits
        .replace('_', "")
        .parse::<u64>()
        .ok()
        .zip(milliseconds_each);
    let duration = milliseconds
        .and_then(|(number, each)| number.checked_mul(each))
        .map(Duration::from_millis);
    duration.filter(|duration| *duration <= LONGEST).ok_or_else(|| {
        format!("a time is a whole number with the unit ms, s, m or h (without one: {bare_unit}), at most a year")
    })
}

/// Cuts a value into its digits and the unit behind them.
fn split_unit(text: &str) -> (&str, &str) {
    let end = text
        .find(|letter: char| !letter.is_ascii_digit() && letter != '_')
        .unwrap_or(text.len());
    let (digits, unit) = text.split_at(end);
    (digits, unit.trim())
}

/// The prefix of job handles: text that survives in handles, in answers of the text protocol and in commands.
pub(super) fn handle_prefix(text: &str) -> Result<String, String> {
    if text.is_empty() || text.len() > LONGEST_HANDLE_PREFIX {
        return Err(format!(
            "a prefix has 1 to {LONGEST_HANDLE_PREFIX} bytes, so that a handle with its number stays below the 64 bytes \
             which clients keep"
        ));
    }
    if text.contains(|letter: char| letter.is_whitespace() || letter.is_control()) {
        return Err("white space and control characters would break the text protocol".to_owned());
    }
    Ok(text.to_owned())
}

/// The word for yes or no that a file or the environment gives to a switch.
pub(super) fn switch(text: &str) -> Result<bool, String> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "yes" | "on" | "1" => Ok(true),
        "false" | "no" | "off" | "0" => Ok(false),
        _ => Err("a switch is true or false".to_owned()),
    }
}
