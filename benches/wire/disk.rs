//! The disk under the durable rows: its description, and the cost of a flush.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::failure::{Result, fail};
use crate::measuring::percentile;
use crate::options::Options;

/// Size of a write in bytes: about a small job.
const RECORD: usize = 256;
/// After this many records the file is overwritten from its start.
const RECORDS: u64 = 16 * 1024;

/// A directory for stores, removed when it is dropped. A benchmark that is killed leaves it behind; its name
/// shows the origin.
pub(crate) fn directory(options: &Options) -> Result<TempDir> {
    Ok(tempfile::Builder::new().prefix("gearmand-bench-").tempdir_in(&options.directory)?)
}

/// Median time of a write of 256 bytes and its `fdatasync`, over `length`, in microseconds.
///
/// The file has its full size from the start, so a flush does not have to write the size too: the minimum
/// that any log needs.
pub(crate) fn flush(directory: &Path, length: Duration) -> Result<f64> {
    let path = directory.join("flush");
    let file = File::create(&path)?;
    let record = [0x55; RECORD];
    let mut at = 0;
    for number in 0..RECORDS {
        file.write_all_at(&record, number * RECORD as u64)?;
    }
    file.sync_all()?;
    let mut latencies = Vec::new();
    let begun = Instant::now();
    while begun.elapsed() < length {
        let start = Instant::now();
        file.write_all_at(&record, at % RECORDS * RECORD as u64)?;
        file.sync_data()?;
        latencies.push(u32::try_from(start.elapsed().as_nanos()).unwrap_or(u32::MAX));
        at += 1;
    }
    fs::remove_file(path)?;
    Ok(percentile(&mut latencies, 50))
}

/// The directory, its file system and the device, as shown in the table.
pub(crate) fn describe(directory: &Path) -> Result<String> {
    let (device, kind) = mount(directory)?;
    Ok(format!("in {} ({kind} on {device})", directory.display()))
}

/// Fails on a file system without a disk.
pub(crate) fn expect_disk(directory: &Path) -> Result<()> {
    match mount(directory)? {
        (_, kind) if kind == "tmpfs" || kind == "ramfs" => {
            fail(format!("{} is a {kind}, which has no disk: name another --directory", directory.display()))
        }
        _ => Ok(()),
    }
}

/// Device and file system of the mount that holds `directory`: the longest mount point that is a prefix of
/// its path, and of equal ones the last.
fn mount(directory: &Path) -> Result<(String, String)> {
    let directory = fs::canonicalize(directory)?;
    let mounts = fs::read_to_string("/proc/self/mounts")?;
    let mut best: Option<(usize, (String, String))> = None;
    for line in mounts.lines() {
        let mut fields = line.split(' ');
        if let (Some(device), Some(point), Some(kind)) = (fields.next(), fields.next(), fields.next())
            && directory.starts_with(point)
            && best.as_ref().is_none_or(|(length, _)| point.len() >= *length)
        {
            best = Some((point.len(), (device.to_owned(), kind.to_owned())));
        }
    }
    match best {
        Some((_, found)) => Ok(found),
        None => fail(format!("no mount holds {}", directory.display())),
    }
}
