//! The basic types of the protocol, with their limits.

use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;

/// The longest unique id, in bytes. libgearman's `GEARMAN_MAX_UNIQUE_SIZE`.
pub const UNIQUE_MAX: usize = 64;
/// The longest job handle, in bytes. libgearman keeps 64 bytes for it, the last of them for a NUL.
pub const HANDLE_MAX: usize = 63;
/// The longest function name, in bytes. libgearman's `GEARMAN_FUNCTION_MAX_SIZE`.
pub const FUNCTION_MAX: usize = 512;
/// The longest reducer name, in bytes.
pub const REDUCER_MAX: usize = 64;
/// The longest server option name, in bytes.
pub const OPTION_MAX: usize = 63;
/// The longest client id that is kept, in bytes; longer ones are truncated.
pub const CLIENT_ID_MAX: usize = 127;
/// The longest number that is parsed, and the longest progress value that is passed on, in bytes.
pub const NUMBER_MAX: usize = 1024;
/// The longest prefix of job handles: it leaves space for a colon and a number of twelve digits.
pub const HANDLE_PREFIX_MAX: usize = HANDLE_MAX - 13;

/// The prefix of handles that `gearmand import` generates. No server assigns such handles.
pub const IMPORT_HANDLE_PREFIX: &str = "H:import";

/// Whether a prefix of job handles is valid: it leaves space for the number, and needs no escaping in text or
/// packets.
pub fn is_prefix(prefix: &str) -> bool {
    let is_strange = |letter: char| letter.is_whitespace() || letter.is_control();
    !prefix.is_empty() && prefix.len() <= HANDLE_PREFIX_MAX && !prefix.contains(is_strange)
}

/// An owned function name: any bytes, at most [`FUNCTION_MAX`], compared byte for byte. Cloning shares the
/// bytes.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FunctionName(Arc<[u8]>);

impl FunctionName {
    /// Copies `name`.
    pub fn new(name: &[u8]) -> Self {
        Self(Arc::from(name))
    }

    /// The bytes of the name.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl Borrow<[u8]> for FunctionName {
    fn borrow(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Display for FunctionName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.escape_ascii())
    }
}

impl fmt::Debug for FunctionName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", self.0.escape_ascii())
    }
}

/// The priority of a job. Jobs of higher priority are handed out first, across all functions that a worker
/// can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Priority {
    /// Before all others.
    High = 0,
    /// The default; also that of epoch and reduce jobs.
    Normal = 1,
    /// Only when no other job is ready.
    Low = 2,
}

impl Priority {
    /// All priorities in the order in which jobs are handed out.
    pub const ALL: [Self; 3] = [Self::High, Self::Normal, Self::Low];

    /// The name: `high`, `normal` or `low`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::High => "high",
            Self::Normal => "normal",
            Self::Low => "low",
        }
    }

    /// The priority with this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|priority| priority.name() == name)
    }

    /// 0 for high, 1 for normal, 2 for low: the numbers in gearmand's queue tables.
    pub const fn index(self) -> usize {
        self as usize
    }
}

/// The name that the server assigns to a job: `PREFIX:NUMBER`, at most [`HANDLE_MAX`] bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JobHandle<'a> {
    /// `H:` and the host name, unless configured otherwise. At most [`HANDLE_PREFIX_MAX`] bytes.
    pub prefix: &'a str,
    /// Counts from 1, with one counter for the whole server.
    pub number: u64,
}

impl JobHandle<'_> {
    /// Parses the number in a handle that this server assigned; `None` for any other bytes.
    ///
    /// Only the form that the server writes is accepted (no sign, no leading zero), so that a job has one
    /// handle.
    pub fn parse_number(prefix: &str, handle: &[u8]) -> Option<u64> {
        let digits = handle.strip_prefix(prefix.as_bytes())?.strip_prefix(b":")?;
        if digits.first() == Some(&b'0') {
            return None;
        }
        parse_decimal(digits)
    }

    /// Appends the handle to `out`.
    pub fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.prefix.as_bytes());
        out.push(b':');
        write_decimal(self.number, out);
    }

    /// How many bytes [`write`](Self::write) appends.
    pub fn len(&self) -> usize {
        self.prefix.len() + 1 + decimal_len(self.number)
    }

    /// A handle is never empty.
    pub const fn is_empty(&self) -> bool {
        false
    }
}

impl fmt::Display for JobHandle<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.prefix, self.number)
    }
}

/// Workloads of at least this size are kept by reference if possible, in bytes.
const SHARED_FROM: usize = 8 * 1024;
/// The same for workloads that are sent to several connections.
const COMMON_FROM: usize = 512;

/// Opaque bytes of a job or of its result, borrowed from the buffer they were read into.
///
/// A large workload has a buffer of its own, whose `owner` can be shared instead of being copied.
#[derive(Clone, Copy, Debug)]
pub struct Workload<'a> {
    bytes: &'a [u8],
    owner: Option<&'a Bytes>,
    is_common: bool,
}

impl<'a> Workload<'a> {
    /// Bytes that must be copied to be kept.
    pub const fn borrowed(bytes: &'a [u8]) -> Self {
        Self { bytes, owner: None, is_common: false }
    }

    /// A part of `owner`, which can be kept by reference counting.
    ///
    /// `bytes` must lie within `owner`; if it does not, keeping it copies.
    pub const fn shared(bytes: &'a [u8], owner: &'a Bytes) -> Self {
        Self { bytes, owner: Some(owner), is_common: false }
    }

    /// All of `owner`, which is sent to several connections: each should keep a reference even if it is
    /// small.
    pub fn common(owner: &'a Bytes) -> Self {
        Self { bytes: owner, owner: Some(owner), is_common: true }
    }

    /// Whether it can be kept by reference counting.
    pub const fn is_owned(&self) -> bool {
        self.owner.is_some()
    }

    /// Whether a connection that sends it should keep a reference rather than a copy: a reference takes 40
    /// bytes.
    pub const fn is_kept_by_reference(&self) -> bool {
        let least = if self.is_common { COMMON_FROM } else { SHARED_FROM };
        self.is_owned() && self.bytes.len() >= least
    }

    /// The bytes.
    pub const fn as_bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// The buffer that this workload is a part of, if it can be shared.
    pub const fn owner(&self) -> Option<&'a Bytes> {
        self.owner
    }

    /// A reference-counted handle to the bytes, without copying them; `None` if only a copy is possible.
    pub fn share(&self) -> Option<Bytes> {
        self.owner.map(|owner| if self.bytes.is_empty() { Bytes::new() } else { owner.slice_ref(self.bytes) })
    }
}

/// Parses decimal digits: at least one, no other characters, no overflow.
pub fn parse_decimal(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0_u64, |value, digit| {
        let digit = digit.checked_sub(b'0').filter(|digit| *digit <= 9)?;
        value.checked_mul(10)?.checked_add(u64::from(digit))
    })
}

/// Appends `value` in decimal.
pub fn write_decimal(mut value: u64, out: &mut Vec<u8>) {
    let mut digits = [0_u8; 20];
    let mut start = digits.len();
    loop {
        start -= 1;
        digits[start] = b'0' + u8::try_from(value % 10).unwrap_or(0);
        value /= 10;
        if value == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[start..]);
}

/// How many digits `value` has in decimal.
pub const fn decimal_len(value: u64) -> usize {
    match value.checked_ilog10() {
        Some(log) => log as usize + 1,
        None => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_handle_is_read_back_only_in_the_form_it_was_written() {
        let handle = JobHandle { prefix: "H:host", number: 907 };
        let mut bytes = Vec::new();
        handle.write(&mut bytes);
        assert_eq!(bytes, b"H:host:907");
        assert_eq!(handle.len(), bytes.len());
        assert_eq!(JobHandle::parse_number("H:host", &bytes), Some(907));
        for strange in [
            &b"H:host:0907"[..],
            b"H:host:",
            b"H:host:+907",
            b"H:host:907 ",
            b"H:other:907",
            b"H:host:0",
            b"H:host:99999999999999999999",
            b"",
        ] {
            assert_eq!(JobHandle::parse_number("H:host", strange), None);
        }
    }

    #[test]
    fn decimals_are_written_as_they_are_read() {
        for value in [0, 1, 9, 10, 99, 100, 12_345, u64::MAX] {
            let mut bytes = Vec::new();
            write_decimal(value, &mut bytes);
            assert_eq!(bytes, value.to_string().as_bytes());
            assert_eq!(bytes.len(), decimal_len(value));
            assert_eq!(parse_decimal(&bytes), Some(value));
        }
    }

    #[test]
    fn an_owned_workload_is_shared_and_not_copied() {
        let owner = Bytes::from(vec![7_u8; 100]);
        let workload = Workload::shared(&owner[40..], &owner);
        let kept = workload.share().unwrap();
        assert_eq!(kept.as_ptr(), owner[40..].as_ptr());
        assert!(Workload::borrowed(b"x").share().is_none());
        assert_eq!(Workload::shared(&[], &owner).share().unwrap().len(), 0);
    }
}
