//! The raw row of a job, before it is validated; shared by the database stores.

use std::sync::Arc;

use crate::job_server::{StoredJob, StoredParts};
use crate::protocol::names::is_prefix;
use crate::protocol::{FunctionName, JobHandle, Priority};

/// Flag of a job without a unique id: the value in the column or key for unique ids is not a unique id.
pub(super) const NO_UNIQUE: i32 = 1;
/// Flag of a job whose unique id is its workload, written as `-`.
pub(super) const WORKLOAD_IS_UNIQUE: i32 = 2;

/// The flags for this unique id.
pub(super) fn flags_of(unique: &[u8]) -> i32 {
    match unique {
        b"" => NO_UNIQUE,
        b"-" => WORKLOAD_IS_UNIQUE,
        _ => 0,
    }
}

/// A row as it was read. Columns that C++ gearmand does not write have the default that their absence stands
/// for.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct RawRow<'a> {
    /// See [`StoredJob::number`].
    pub(super) number: i64,
    /// The complete job handle.
    pub(super) handle: Option<&'a [u8]>,
    /// `None` where the column is NULL.
    pub(super) function: Option<&'a [u8]>,
    /// The value in the column for unique ids; the flags tell whether it is one.
    pub(super) unique: &'a [u8],
    /// [`NO_UNIQUE`], [`WORKLOAD_IS_UNIQUE`].
    pub(super) flags: i32,
    /// 0 high, 1 normal, 2 low; `None` is normal.
    pub(super) priority: Option<i64>,
    /// See [`StoredJob::due_s`].
    pub(super) due_s: i64,
    /// See [`StoredJob::reducer`].
    pub(super) reducer: &'a [u8],
    /// See [`StoredJob::submitted_s`].
    pub(super) submitted_s: i64,
    /// See [`StoredJob::attempts`].
    pub(super) attempts: i64,
    /// See [`StoredJob::workload`].
    pub(super) workload: &'a [u8],
}

impl RawRow<'_> {
    /// Validates the row and returns the job.
    ///
    /// # Errors
    /// The row is invalid. The text is for the operator.
    pub(super) fn job(&self, prefixes: &mut Prefixes) -> Result<StoredJob, String> {
        let Some(number) = u64::try_from(self.number).ok().filter(|number| *number > 0) else {
            return Err(format!("its number is {}", self.number));
        };
        let function = self.function.ok_or("it has no function name")?;
        let priority = match self.priority {
            None | Some(1) => Priority::Normal,
            Some(0) => Priority::High,
            Some(2) => Priority::Low,
            Some(other) => return Err(format!("its priority is {other}, not 0, 1 or 2")),
        };
        let unique = if self.flags & NO_UNIQUE != 0 {
            b""
        } else if self.flags & WORKLOAD_IS_UNIQUE != 0 {
            b"-"
        } else {
            // When C++ gearmand received 64 bytes, it may have stored 63 and a NUL. No unique id contains a
            // NUL.
            self.unique.strip_suffix(b"\0").unwrap_or(self.unique)
        };
        let parts = StoredParts {
            number,
            prefix: prefixes.of(self.handle, number),
            function: FunctionName::new(function),
            unique,
            reducer: self.reducer,
            priority,
            due_s: u64::try_from(self.due_s).map_err(|_| format!("its due time is {}", self.due_s))?,
            submitted_s: u64::try_from(self.submitted_s).unwrap_or(0),
            attempts: u16::try_from(self.attempts.max(0)).unwrap_or(u16::MAX),
            workload: self.workload,
        };
        StoredJob::new(parts).map_err(str::to_owned)
    }
}

/// A cache for handle prefixes: consecutive jobs usually have the same one.
#[derive(Clone, Debug)]
pub(super) struct Prefixes {
    default: Arc<str>,
    last: Arc<str>,
}

impl Prefixes {
    /// `default` is the prefix for jobs without a handle.
    pub(super) fn new(default: &Arc<str>) -> Self {
        Self { default: default.clone(), last: default.clone() }
    }

    /// The prefix for jobs without a handle.
    pub(super) fn default(&self) -> &Arc<str> {
        &self.default
    }

    /// The prefix of a handle, if the handle is valid and has this number. A job with an invalid handle is
    /// not lost: it gets the default prefix.
    fn of(&mut self, handle: Option<&[u8]>, number: u64) -> Arc<str> {
        let prefix = handle.and_then(|handle| {
            let colon = handle.iter().rposition(|byte| *byte == b':')?;
            let prefix = std::str::from_utf8(&handle[..colon]).ok()?;
            (is_prefix(prefix) && JobHandle::parse_number(prefix, handle) == Some(number)).then_some(prefix)
        });
        let Some(prefix) = prefix else { return self.default.clone() };
        if *self.last != *prefix {
            self.last = prefix.into();
        }
        self.last.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw_row() -> RawRow<'static> {
        RawRow { number: 7, function: Some(b"f"), unique: b"u", ..RawRow::default() }
    }

    fn prefixes() -> Prefixes {
        Prefixes::new(&Arc::from("H:default"))
    }

    #[test]
    fn flags_restore_the_unique_id_that_the_client_sent() {
        for sent in [&b""[..], b"-", b"u"] {
            let kept = if sent == b"u" { &b"u"[..] } else { b"H:x:7" };
            let job = RawRow { unique: kept, flags: flags_of(sent), ..raw_row() }.job(&mut prefixes()).unwrap();
            assert_eq!(job.unique(), sent);
        }
    }

    #[test]
    fn a_handle_of_another_form_is_replaced() {
        let handle_of = |handle: &'static [u8]| {
            let job = RawRow { handle: Some(handle), ..raw_row() }.job(&mut prefixes()).unwrap();
            job.handle().to_string()
        };
        assert_eq!(handle_of(b"H:there:7"), "H:there:7");
        for strange in [&b"H:there:8"[..], b"H:there", b"", b"\xff:7", b"H:there:07"] {
            assert_eq!(handle_of(strange), "H:default:7");
        }
    }

    #[test]
    fn what_makes_no_sense_is_named() {
        let long = [b'x'; 513];
        let reasons = [
            (RawRow { number: 0, ..raw_row() }, "number"),
            (RawRow { function: None, ..raw_row() }, "no function"),
            (RawRow { function: Some(b"a\0b"), ..raw_row() }, "NUL"),
            (RawRow { function: Some(&long), ..raw_row() }, "512 bytes"),
            (RawRow { number: i64::MAX, ..raw_row() }, "number"),
            (RawRow { priority: Some(3), ..raw_row() }, "priority is 3"),
            (RawRow { due_s: -1, ..raw_row() }, "due time"),
            (RawRow { unique: &long[..65], ..raw_row() }, "64 bytes"),
        ];
        for (raw, expected) in reasons {
            let reason = raw.job(&mut prefixes()).unwrap_err();
            assert!(reason.contains(expected), "{reason}");
        }
    }
}
