//! A control group whose memory is limited, for a server that believes to be in a container.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use crate::common::wait_for;

/// Removed when this is dropped, which needs the server to have ended.
pub(crate) struct Group {
    directory: PathBuf,
    is_old: bool,
}

impl Group {
    /// A group whose processes may have so many bytes of memory.
    pub(crate) fn new(bytes: u64) -> Result<Self, String> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let (parent, is_old) = own_group()?;
        let name = format!("gearmand-test-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let directory = parent.join(name);
        let failed = |what: &str, error: std::io::Error| format!("{what} {}: {error}", directory.display());
        fs::create_dir(&directory).map_err(|error| failed("cannot make", error))?;
        let group = Self { directory: directory.clone(), is_old };
        fs::write(group.file("memory.limit_in_bytes", "memory.max"), bytes.to_string())
            .map_err(|error| failed("cannot limit the memory of", error))?;
        Ok(group)
    }

    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    /// The most memory that its processes have had, in KiB. Includes what the system keeps of their files.
    pub(crate) fn peak_kib(&self) -> u64 {
        let peak = fs::read_to_string(self.file("memory.max_usage_in_bytes", "memory.peak")).unwrap_or_default();
        peak.trim().parse::<u64>().unwrap_or(0) / 1024
    }

    fn file(&self, old: &str, new: &str) -> PathBuf {
        self.directory.join(if self.is_old { old } else { new })
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        wait_for("the end of the control group", || fs::remove_dir(&self.directory).ok());
    }
}

/// Why there is no such group here, where there is none.
pub(crate) fn why_not() -> Option<String> {
    Group::new(64 << 20).err()
}

/// The directory of this process's group, and whether it is one of the first version of control groups.
fn own_group() -> Result<(PathBuf, bool), String> {
    let own = fs::read_to_string("/proc/self/cgroup").map_err(|error| format!("/proc/self/cgroup: {error}"))?;
    let path_of = |wanted: &dyn Fn(&str) -> bool| {
        own.lines().find_map(|line| {
            let [_, controllers, path] = line.splitn(3, ':').collect::<Vec<_>>()[..] else { return None };
            wanted(controllers).then(|| path.trim_start_matches('/').to_owned())
        })
    };
    let root = Path::new("/sys/fs/cgroup");
    if let Some(path) = path_of(&|controllers| controllers.split(',').any(|one| one == "memory")) {
        return Ok((root.join("memory").join(path), true));
    }
    let path = path_of(&str::is_empty).ok_or("this process is in no control group")?;
    let directory = root.join(path);
    let controllers = fs::read_to_string(directory.join("cgroup.subtree_control")).unwrap_or_default();
    if !controllers.split_whitespace().any(|one| one == "memory") {
        return Err(format!("{} does not hand on the memory controller", directory.display()));
    }
    Ok((directory, false))
}
