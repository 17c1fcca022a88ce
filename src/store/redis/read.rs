//! Decoding the Redis fields of a job.

use super::super::row::{Prefixes, RawRow, WORKLOAD_IS_UNIQUE};
use crate::job_server::StoredJob;

/// The fields in the order of the request. The workload is separate, since it is not always wanted.
pub(super) const FIELDS: &[&str] =
    &["id", "function", "unique", "priority", "handle", "when", "reducer", "submitted", "flags", "attempts"];
/// The fields of a side hash.
pub(super) const SIDE_FIELDS: &[&str] =
    &["id", "function", "unique", "handle", "when", "reducer", "submitted", "flags", "attempts"];
/// The workload's field.
pub(super) const DATA: &str = "data";

/// The values of [`FIELDS`], and of [`DATA`] if it was requested; `None` for a missing field.
pub(super) type Values = Vec<Option<Vec<u8>>>;

/// Whether the job coalesces by its workload.
pub(super) fn is_workload_unique(values: &Values) -> bool {
    let bytes = |index: usize| values.get(index).and_then(Option::as_deref);
    let flags = decimal(bytes(8), "flags").ok().flatten().unwrap_or(0);
    bytes(2) == Some(b"-") || flags & i64::from(WORKLOAD_IS_UNIQUE) != 0
}

/// Builds the job with this number from the values.
///
/// # Errors
/// The entry is invalid.
pub(super) fn job(number: i64, values: &Values, prefixes: &mut Prefixes) -> Result<StoredJob, String> {
    let bytes = |index: usize| values.get(index).and_then(Option::as_deref);
    let raw = RawRow {
        number,
        function: bytes(1),
        unique: bytes(2).unwrap_or_default(),
        priority: decimal(bytes(3), "priority")?,
        handle: bytes(4),
        due_s: decimal(bytes(5), "when")?.unwrap_or(0),
        reducer: bytes(6).unwrap_or_default(),
        submitted_s: decimal(bytes(7), "submitted")?.unwrap_or(0),
        flags: decimal(bytes(8), "flags")?.and_then(|flags| i32::try_from(flags).ok()).unwrap_or(0),
        attempts: decimal(bytes(9), "attempts")?.unwrap_or(0),
        workload: bytes(FIELDS.len()).unwrap_or_default(),
    };
    raw.job(prefixes)
}

/// A decimal number, saturated to the range of an `i64`.
pub(super) fn decimal(value: Option<&[u8]>, field: &str) -> Result<Option<i64>, String> {
    let Some(value) = value else { return Ok(None) };
    let number = std::str::from_utf8(value).ok().and_then(|text| text.parse::<i128>().ok());
    match number {
        Some(number) => Ok(Some(i64::try_from(number).unwrap_or(if number < 0 { i64::MIN } else { i64::MAX }))),
        None => Err(format!("its {field} is not a number")),
    }
}
