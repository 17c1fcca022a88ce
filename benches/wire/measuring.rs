//! Measurements of a process from `/proc`, and medians.

use std::collections::HashSet;
use std::fs;
use std::time::Duration;

use crate::failure::{Failure, Result, fail};

/// CPU time of all threads of `pid`: the first number of each `schedstat`, in nanoseconds.
pub(crate) fn cpu(pid: u32) -> Result<Duration> {
    let mut nanoseconds = 0;
    for task in fs::read_dir(format!("/proc/{pid}/task")).map_err(|error| missing(pid, &error))? {
        let schedstat = fs::read_to_string(task?.path().join("schedstat"))?;
        let Some(time) = schedstat.split(' ').next().and_then(|field| field.parse::<u64>().ok()) else {
            return fail("this kernel keeps no schedstat");
        };
        nanoseconds += time;
    }
    Ok(Duration::from_nanos(nanoseconds))
}

/// Anonymous memory of `pid` in bytes: what it allocated, without its program text.
pub(crate) fn memory(pid: u32) -> Result<u64> {
    rolled_up(pid, "Anonymous:")
}

/// Resident memory of `pid` in bytes, including its program text and mapped files.
pub(crate) fn resident(pid: u32) -> Result<u64> {
    rolled_up(pid, "Rss:")
}

fn rolled_up(pid: u32, field: &str) -> Result<u64> {
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).map_err(|error| missing(pid, &error))?;
    let kibibytes = rollup
        .lines()
        .find_map(|line| line.strip_prefix(field))
        .and_then(|rest| rest.trim().strip_suffix(" kB").and_then(|number| number.parse::<u64>().ok()));
    match kibibytes {
        Some(kibibytes) => Ok(kibibytes * 1024),
        None => fail(format!("smaps_rollup has no {field}")),
    }
}

/// The TCP port that `pid` listens on, except `other`, if there is one: a socket of `/proc/net/tcp` among its
/// descriptors.
pub(crate) fn listening_port(pid: u32, other: Option<u16>) -> Result<Option<u16>> {
    let mut sockets = HashSet::new();
    for descriptor in fs::read_dir(format!("/proc/{pid}/fd")).map_err(|error| missing(pid, &error))? {
        // A descriptor may be closed between listing and reading it.
        if let Ok(target) = fs::read_link(descriptor?.path())
            && let Some(inode) = target.to_str().and_then(|text| text.strip_prefix("socket:["))
        {
            sockets.insert(inode.trim_end_matches(']').to_owned());
        }
    }
    for line in fs::read_to_string("/proc/net/tcp")?.lines().skip(1) {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        if let [_, local, _, "0A", _, _, _, _, _, inode, ..] = fields[..]
            && sockets.contains(inode)
            && let Some((_, port)) = local.split_once(':')
            && let Ok(port) = u16::from_str_radix(port, 16)
            && Some(port) != other
        {
            return Ok(Some(port));
        }
    }
    Ok(None)
}

fn missing(pid: u32, error: &std::io::Error) -> Failure {
    Failure::from(std::io::Error::other(format!("process {pid}: {error}")))
}

/// A count as a float; exact below 2^53.
#[expect(clippy::cast_precision_loss, reason = "counts, nanoseconds and bytes of a benchmark stay below 2^53")]
pub(crate) fn float(count: u64) -> f64 {
    count as f64
}

/// Microseconds per event; infinite if there were none.
pub(crate) fn microseconds_per(time: Duration, events: u64) -> f64 {
    time.as_secs_f64() * 1e6 / float(events)
}

/// The median of `values`; NaN if there are none.
pub(crate) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => f64::NAN,
        odd if odd % 2 == 1 => sorted[odd / 2],
        even => f64::midpoint(sorted[even / 2 - 1], sorted[even / 2]),
    }
}

/// The percentile `hundredths` of `values`: nanoseconds in, microseconds out.
pub(crate) fn percentile(values: &mut [u32], hundredths: usize) -> f64 {
    if values.is_empty() {
        return f64::NAN;
    }
    let at = (values.len() * hundredths / 100).min(values.len() - 1);
    f64::from(*values.select_nth_unstable(at).1) / 1e3
}
