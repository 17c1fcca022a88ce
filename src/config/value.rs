//! The values of settings: numbers with a range, sizes, times, log targets.
//!
//! Every parser takes the text of one value and returns the typed value, or a reason that completes the
//! sentence "`NAME` cannot be `TEXT`: ". The caller knows the origin of the text.

use std::fmt;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use super::queue::Secret;
use crate::protocol::names::{HANDLE_PREFIX_MAX, IMPORT_HANDLE_PREFIX};
use crate::protocol::units::{self, TimeUnit};

/// A time that can be switched off: `None` means never.
///
/// The alias keeps the command line parser from treating the `Option` as "may be absent".
pub type OptionalDuration = Option<Duration>;
/// A number that can be left to the kernel or switched off: `None` means no value is set.
pub type OptionalCount = Option<u32>;
/// A size in bytes that can be computed: `None` means that none is set.
pub type OptionalSize = Option<u64>;
/// The number of attempts after which a job fails whose workers were lost: `None` and 0 mean no limit.
pub type Retries = Option<u8>;

/// The shortest HTTP token, in bytes.
const TOKEN_MIN: usize = 16;

/// The longest time for any setting: a year, far from the overflow of any clock.
const LONGEST: Duration = Duration::from_hours(365 * 24);

/// The format of log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// One line of text in gearmand's format.
    Human,
    /// One JSON object per line.
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

/// A protocol on a port of its own, besides gearmand's protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProtocolPlugin {
    /// HTTP: one request is one job.
    Http,
}

impl fmt::Display for ProtocolPlugin {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Http => formatter.write_str("http"),
        }
    }
}

impl FromStr for ProtocolPlugin {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "http" => Ok(Self::Http),
            _ => Err("there is no such protocol; gearmand knows http".to_owned()),
        }
    }
}

/// The main output of the log, besides syslog and journald.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogTarget {
    /// Append to this file, which HUP reopens.
    File(PathBuf),
    /// Standard error, written `stderr`.
    StandardError,
    /// No output, written `none`.
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

/// A whole number from `MIN` to `MAX`; `_` may separate its digits.
fn whole<const MIN: i64, const MAX: i64>(text: &str) -> Result<i64, String> {
    let digits = text.strip_prefix('-').unwrap_or(text);
    let separated = digits.starts_with(|first: char| first.is_ascii_digit()) && !digits.contains("__");
    let number = text.replace('_', "").parse::<i64>().ok().filter(|_| separated);
    number
        .filter(|number| (MIN..=MAX).contains(number))
        .ok_or_else(|| format!("this must be a whole number from {MIN} to {MAX}"))
}

/// A number of objects in memory, from `MIN` to `MAX`.
pub(super) fn count<const MIN: i64, const MAX: i64>(text: &str) -> Result<usize, String> {
    let number = whole::<MIN, MAX>(text)?;
    usize::try_from(number).map_err(|_| "number too large".to_owned())
}

/// A number for the kernel, from `MIN` to `MAX`.
pub(super) fn number<const MIN: i64, const MAX: i64>(text: &str) -> Result<u32, String> {
    let number = whole::<MIN, MAX>(text)?;
    u32::try_from(number).map_err(|_| format!("this must be a whole number up to {}", u32::MAX))
}

/// A number of threads: 0 means one per CPU.
pub(super) fn threads(text: &str) -> Result<usize, String> {
    let cpus = || std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    count::<0, 1024>(text).map(|threads| if threads == 0 { cpus() } else { threads })
}

/// Job retries: -1 means no limit.
pub(super) fn retries(text: &str) -> Result<Retries, String> {
    whole::<-1, 255>(text).map(|retries| u8::try_from(retries).ok())
}

/// A number of workers to wake up: 0 means all of them.
pub(super) fn wakeup(text: &str) -> Result<OptionalCount, String> {
    number::<0, 255>(text).map(|workers| (workers > 0).then_some(workers))
}

/// The number of keepalive probes: -1 leaves it to the kernel, which accepts at most 127.
pub(super) fn probes(text: &str) -> Result<OptionalCount, String> {
    kernel_number::<127>(text)
}

/// A keepalive time in seconds: -1 leaves it to the kernel, which accepts at most 32767.
pub(super) fn keepalive_seconds(text: &str) -> Result<OptionalDuration, String> {
    const MOST: u64 = 32767;
    if text == "-1" {
        return Ok(None);
    }
    let time = units::time(text, TimeUnit::Seconds).ok().filter(|time| time.subsec_nanos() == 0);
    let time = time.filter(|time| (1..=MOST).contains(&time.as_secs()));
    time.map(Some).ok_or_else(|| {
        format!("this must be a time of whole seconds from 1s to {MOST}s, or -1 for the kernel's own default")
    })
}

fn kernel_number<const MAX: i64>(text: &str) -> Result<OptionalCount, String> {
    match whole::<-1, MAX>(text) {
        Ok(-1) => Ok(None),
        Ok(value @ 1..) => Ok(u32::try_from(value).ok()),
        _ => Err(format!("this must be a whole number from 1 to {MAX}, or -1 for the kernel's own default")),
    }
}

/// Permission bits in octal.
pub(super) fn mode(text: &str) -> Result<u32, String> {
    let digits = text.strip_prefix("0o").unwrap_or(text);
    let bits = u32::from_str_radix(digits, 8).ok().filter(|bits| *bits <= 0o777);
    bits.filter(|_| !digits.starts_with('+'))
        .ok_or_else(|| "permissions are octal digits from 000 to 777, such as 660".to_owned())
}

/// A size in bytes from `MIN` to `MAX`, parsed by [`units::size`].
pub(super) fn bytes<const MIN: u64, const MAX: u64>(text: &str) -> Result<u64, String> {
    let size = Some(units::size(text)?);
    size.filter(|size| (MIN..=MAX).contains(size))
        .ok_or_else(|| format!("a size from {} to {} is needed, such as 64MiB", display_bytes(MIN), display_bytes(MAX)))
}

/// A size in bytes, or 0 for a computed one.
pub(super) fn bytes_or_automatic<const MIN: u64, const MAX: u64>(text: &str) -> Result<OptionalSize, String> {
    if bytes::<0, MAX>(text) == Ok(0) {
        return Ok(None);
    }
    bytes::<MIN, MAX>(text).map(Some).map_err(|error| format!("{error}, or 0 for automatic"))
}

/// A non-empty text.
pub(super) fn non_empty(text: &str) -> Result<String, String> {
    if text.is_empty() { Err("it is empty".to_owned()) } else { Ok(text.to_owned()) }
}

/// An HTTP token: long enough not to be guessed, of characters that a header can contain.
pub(super) fn token(text: &str) -> Result<Secret, String> {
    if text.len() < TOKEN_MIN {
        return Err(format!("a token has at least {TOKEN_MIN} characters; `openssl rand -hex 32` makes one"));
    }
    if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err("a token is made of ASCII letters, digits and signs, without spaces".to_owned());
    }
    Ok(Secret::from(text.to_owned()))
}

/// The name of a host, in lower case.
pub(super) fn host_name(text: &str) -> Result<String, String> {
    let allowed = |letter: char| letter.is_ascii_alphanumeric() || "-._".contains(letter);
    if text.is_empty() || !text.chars().all(allowed) {
        return Err("give a name such as jobs.example.org, without a scheme or a port".to_owned());
    }
    Ok(text.to_ascii_lowercase())
}

/// The port of another server, which cannot be 0.
pub(super) fn port(text: &str) -> Result<u16, String> {
    let port = whole::<1, 65_535>(text)?;
    u16::try_from(port).map_err(|_| "this must be a whole number from 1 to 65535".to_owned())
}

/// Formats a size in the largest unit that divides it.
pub(super) fn display_bytes(size: u64) -> String {
    let units = [(30, "GiB"), (20, "MiB"), (10, "KiB")];
    let fitting = units.into_iter().find(|(shift, _)| size > 0 && size.trailing_zeros() >= *shift);
    fitting.map_or_else(|| format!("{size} bytes"), |(shift, unit)| format!("{} {unit}", size >> shift))
}

/// A time of at least a millisecond; a number without a unit counts milliseconds.
pub(super) fn milliseconds(text: &str) -> Result<Duration, String> {
    let duration = duration(text, TimeUnit::Milliseconds)?;
    if duration.is_zero() { Err("the time must be at least 1ms".to_owned()) } else { Ok(duration) }
}

/// A time that 0 switches off; a number without a unit counts seconds.
pub(super) fn seconds_or_off(text: &str) -> Result<OptionalDuration, String> {
    duration(text, TimeUnit::Seconds).map(|duration| (!duration.is_zero()).then_some(duration))
}

fn duration(text: &str, bare: TimeUnit) -> Result<Duration, String> {
    let duration = units::time(text, bare)?;
    if duration > LONGEST { Err("the time must be at most a year, 365d".to_owned()) } else { Ok(duration) }
}

/// The prefix of job handles: text that needs no escaping in handles, in responses of the text protocol and
/// in commands.
pub(super) fn handle_prefix(text: &str) -> Result<String, String> {
    if text.is_empty() || text.len() > HANDLE_PREFIX_MAX {
        return Err(format!(
            "a prefix has 1 to {HANDLE_PREFIX_MAX} bytes, so that a handle with its number stays below the 64 bytes \
             which clients keep"
        ));
    }
    if text.contains(|letter: char| letter.is_whitespace() || letter.is_control()) {
        return Err("white space and control characters would break the text protocol".to_owned());
    }
    if text == IMPORT_HANDLE_PREFIX {
        return Err("this prefix is that of `gearmand import`, which must know its own jobs".to_owned());
    }
    Ok(text.to_owned())
}

/// A word for true or false, as the value of a switch in a file or in the environment.
pub(super) fn switch(text: &str) -> Result<bool, String> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "yes" | "on" | "1" => Ok(true),
        "false" | "no" | "off" | "0" => Ok(false),
        _ => Err("a switch is true or false".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_take_binary_units() {
        let size = bytes::<0, { 1 << 40 }>;
        for (text, expected) in [
            ("0", 0),
            ("1_000", 1_000),
            ("7b", 7),
            ("3k", 3 << 10),
            ("3 KiB", 3 << 10),
            ("64MiB", 64 << 20),
            ("64m", 64 << 20),
            ("2G", 2 << 30),
        ] {
            assert_eq!(size(text), Ok(expected), "{text}");
        }
        for text in ["", "k", "-1", "1.5b", "1MB", "1 2", "99999999999999999999", "18014398509481984k"] {
            assert!(size(text).is_err(), "{text}");
        }
        assert!(bytes::<1024, 4096>("1023").is_err());
        assert!(bytes::<1024, 4096>("4097").is_err());
    }

    #[test]
    fn sizes_are_written_in_the_largest_fitting_unit() {
        let written = [0, 1, 1024, 1536, 64 << 20, 3 << 30].map(display_bytes);
        assert_eq!(written, ["0 bytes", "1 bytes", "1 KiB", "1536 bytes", "64 MiB", "3 GiB"]);
    }

    #[test]
    fn times_take_units_and_can_be_off() {
        assert_eq!(seconds_or_off("30"), Ok(Some(Duration::from_secs(30))));
        assert_eq!(seconds_or_off("5m"), Ok(Some(Duration::from_mins(5))));
        assert_eq!(seconds_or_off("250ms"), Ok(Some(Duration::from_millis(250))));
        assert_eq!(seconds_or_off("0"), Ok(None));
        assert_eq!(milliseconds("100"), Ok(Duration::from_millis(100)));
        assert_eq!(milliseconds("2s"), Ok(Duration::from_secs(2)));
        assert_eq!(seconds_or_off("1d"), Ok(Some(Duration::from_hours(24))));
        assert_eq!(seconds_or_off("1.5s"), Ok(Some(Duration::from_millis(1500))));
        for text in ["", "s", "-1", "1y", "8761h", "18446744073709551615h"] {
            assert!(seconds_or_off(text).is_err(), "{text}");
        }
        assert!(milliseconds("0").is_err());
    }

    #[test]
    fn numbers_keep_their_range() {
        assert_eq!(count::<1, 10>("10"), Ok(10));
        for text in ["0", "11", "", "+5", "1__0", "_1", "0x5", "five", "-"] {
            assert!(count::<1, 10>(text).is_err(), "{text}");
        }
        assert_eq!((retries("-1"), retries("0"), retries("255")), (Ok(None), Ok(Some(0)), Ok(Some(255))));
        assert!(retries("256").is_err() && retries("-2").is_err());
        assert_eq!((wakeup("0"), wakeup("2")), (Ok(None), Ok(Some(2))));
        assert_eq!((probes("-1"), probes("127")), (Ok(None), Ok(Some(127))));
        assert!(probes("0").is_err() && probes("128").is_err());
        assert_eq!(keepalive_seconds("20s"), Ok(Some(Duration::from_secs(20))));
        assert_eq!(keepalive_seconds("2m"), Ok(Some(Duration::from_mins(2))));
        assert_eq!(keepalive_seconds("-1"), Ok(None));
        assert!(["0", "1.5s", "500ms", "10h", "x"].iter().all(|text| keepalive_seconds(text).is_err()));
        assert_eq!((mode("0660"), mode("600"), mode("0o777")), (Ok(0o660), Ok(0o600), Ok(0o777)));
        assert!(mode("1000").is_err() && mode("8").is_err() && mode("+7").is_err());
        assert!(threads("0").is_ok_and(|threads| threads >= 1));
    }

    #[test]
    fn handle_prefixes_leave_room_for_the_number() {
        assert!(handle_prefix(&"x".repeat(HANDLE_PREFIX_MAX)).is_ok());
        for text in [&"x".repeat(HANDLE_PREFIX_MAX + 1), "", "a b", "a\tb", "a\0"] {
            assert!(handle_prefix(text).is_err(), "{text:?}");
        }
    }
}
