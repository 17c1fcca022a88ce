//! The file with the desired state, and the state file beside it with manual overrides.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use crate::fleet::contract::WorkerId;
use crate::fleet::desired::Desired;

/// A larger file is rejected, in bytes.
const FILE_MAX: u64 = 1 << 20;

/// The desired state and its source.
pub(super) struct DesiredFile {
    path: PathBuf,
    /// Content of the file, plus the hosts that were stopped manually.
    desired: Desired,
    /// Hosts that the file itself stops.
    stopped_by_file: BTreeSet<String>,
    overrides: Overrides,
    mark: Option<Mark>,
    /// Why the current file is invalid. Its previous content stays in effect meanwhile.
    wrong: Option<String>,
}

/// Manual requests. They stay in effect until they are done or revoked, also across restarts of the monitor.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
struct Overrides {
    stopped_hosts: BTreeSet<String>,
    /// Workers that are still to be replaced.
    rolling: BTreeSet<WorkerId>,
}

/// Modification time and size, to detect that a file was written.
type Mark = (SystemTime, u64);

impl DesiredFile {
    /// Reads the file.
    ///
    /// # Errors
    /// Which file is invalid, and why.
    pub(super) fn open(path: &Path) -> Result<Self, String> {
        let mark = mark(path);
        let desired = read(path)?;
        let beside = beside(path);
        let overrides = match fs::read_to_string(&beside) {
            Ok(text) => toml::from_str(&text).map_err(|error| format!("{}: {error}", beside.display()))?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Overrides::default(),
            Err(error) => return Err(format!("cannot read {}: {error}", beside.display())),
        };
        let stopped_by_file = BTreeSet::new();
        let mut file =
            Self { path: path.to_owned(), desired: Desired::default(), stopped_by_file, overrides, mark, wrong: None };
        file.go_by(desired);
        Ok(file)
    }

    /// A desired state without a file, which wants nothing of this fleet.
    pub(super) fn none(fleet: &str) -> Self {
        let desired = Desired { fleet: fleet.to_owned(), ..Desired::default() };
        Self {
            path: PathBuf::new(),
            desired,
            stopped_by_file: BTreeSet::new(),
            overrides: Overrides::default(),
            mark: None,
            wrong: None,
        }
    }

    pub(super) const fn desired(&self) -> &Desired {
        &self.desired
    }

    fn go_by(&mut self, mut desired: Desired) {
        self.stopped_by_file.clone_from(&desired.stopped_hosts);
        desired.stopped_hosts.extend(self.overrides.stopped_hosts.iter().cloned());
        self.desired = desired;
    }

    /// Reads the file again if it was written since; `None` if it was not.
    ///
    /// # Errors
    /// Why it is invalid; its previous content stays in effect.
    pub(super) fn read_again(&mut self) -> Option<Result<(), String>> {
        if self.path.as_os_str().is_empty() {
            return None;
        }
        let now = mark(&self.path);
        if now == self.mark {
            return None;
        }
        self.mark = now;
        let result = read(&self.path).and_then(|desired| self.change_to(desired));
        self.wrong = result.as_ref().err().cloned();
        Some(result)
    }

    /// Why the current file is invalid.
    pub(super) const fn wrong(&self) -> Option<&String> {
        self.wrong.as_ref()
    }

    /// Reads both files again, since another monitor may have changed them.
    ///
    /// # Errors
    /// Which file is invalid, and why; the known state stays in effect.
    pub(super) fn take_over(&mut self) -> Result<(), String> {
        if self.path.as_os_str().is_empty() {
            return Ok(());
        }
        let file = Self::open(&self.path)?;
        self.check_fleet(&file.desired)?;
        *self = file;
        Ok(())
    }

    fn change_to(&mut self, desired: Desired) -> Result<(), String> {
        self.check_fleet(&desired)?;
        self.go_by(desired);
        Ok(())
    }

    fn check_fleet(&self, desired: &Desired) -> Result<(), String> {
        let (theirs, ours) = (&desired.fleet, &self.desired.fleet);
        if theirs == ours {
            return Ok(());
        }
        Err(format!("the file is for the fleet \"{theirs}\", this is the monitor of \"{ours}\""))
    }

    /// Writes this text to the file and puts it into effect.
    ///
    /// # Errors
    /// Why it is invalid, or why the file cannot be written; nothing is changed then.
    pub(super) fn replace(&mut self, text: &str) -> Result<String, String> {
        if text.len() as u64 > FILE_MAX {
            return Err(format!("desired state is longer than {FILE_MAX} bytes"));
        }
        let desired = Desired::parse(text)?;
        self.check_fleet(&desired)?;
        write(&self.path, text)?;
        self.mark = mark(&self.path);
        self.change_to(desired)?;
        Ok(format!("saved to {}", self.path.display()))
    }

    /// Whether the file itself stops a host.
    pub(super) fn stops(&self, host: &str) -> bool {
        self.stopped_by_file.contains(host)
    }

    /// Stops a host, or starts it again. This takes effect even if it cannot be saved.
    ///
    /// # Errors
    /// Why it will not survive a restart of the monitor.
    pub(super) fn stop(&mut self, host: &str, is_stopped: bool) -> Result<(), String> {
        if is_stopped {
            self.overrides.stopped_hosts.insert(host.to_owned());
            self.desired.stopped_hosts.insert(host.to_owned());
        } else {
            self.overrides.stopped_hosts.remove(host);
            self.desired.stopped_hosts.remove(host);
        }
        self.write_wishes()
    }

    /// The workers that were still to be replaced at the last save.
    pub(super) const fn rolling(&self) -> &BTreeSet<WorkerId> {
        &self.overrides.rolling
    }

    /// Saves which workers are still to be replaced, if they have changed.
    ///
    /// # Errors
    /// Why this will not survive a restart of the monitor.
    pub(super) fn keep_rolling(&mut self, rolling: &BTreeSet<WorkerId>) -> Result<(), String> {
        if self.overrides.rolling == *rolling {
            return Ok(());
        }
        self.overrides.rolling.clone_from(rolling);
        self.write_wishes()
    }

    fn write_wishes(&self) -> Result<(), String> {
        if self.path.as_os_str().is_empty() {
            return Ok(());
        }
        let text = toml::to_string(&self.overrides).map_err(|error| error.to_string());
        let written = text.and_then(|text| write(&beside(&self.path), &text));
        written.map_err(|error| format!("not saved, lost when the monitor restarts: {error}"))
    }
}

/// Path of the state file with the manual requests.
fn beside(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".state");
    PathBuf::from(name)
}

fn mark(path: &Path) -> Option<Mark> {
    let metadata = fs::metadata(path).ok()?;
    Some((metadata.modified().ok()?, metadata.len()))
}

fn read(path: &Path) -> Result<Desired, String> {
    let cannot = |error: io::Error| format!("cannot read {}: {error}", path.display());
    let size = fs::metadata(path).map_err(cannot)?.len();
    if size > FILE_MAX {
        return Err(format!("{} is longer than {FILE_MAX} bytes", path.display()));
    }
    let text = fs::read_to_string(path).map_err(cannot)?;
    Desired::parse(&text).map_err(|error| format!("{}: {error}", path.display()))
}

/// Replaces a file atomically.
fn write(path: &Path, text: &str) -> Result<(), String> {
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    let new = PathBuf::from(name);
    let cannot = |error: io::Error| format!("cannot write {}: {error}", path.display());
    let written = fs::write(&new, text).and_then(|()| {
        if let Ok(metadata) = fs::metadata(path) {
            fs::set_permissions(&new, metadata.permissions())?;
        }
        fs::File::open(&new)?.sync_all()?;
        fs::rename(&new, path)
    });
    written.map_err(|error| {
        // Remove the temporary file that could not be renamed.
        let _ = fs::remove_file(&new);
        cannot(error)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(text: &str) -> (tempfile::TempDir, PathBuf, DesiredFile) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("fleet.toml");
        fs::write(&path, text).unwrap();
        let file = DesiredFile::open(&path).unwrap();
        (directory, path, file)
    }

    #[test]
    fn a_file_that_is_written_again_is_read_again() {
        let (_directory, path, mut file) = file("idle_workers_per_host = 1\n");
        assert_eq!(file.read_again(), None);
        fs::write(&path, "idle_workers_per_host = 23\n").unwrap();
        assert_eq!(file.read_again(), Some(Ok(())));
        assert_eq!(file.desired().idle_workers_per_host, 23);
        // An invalid file is reported once and changes nothing.
        fs::write(&path, "spares = 4\n").unwrap();
        let error = file.read_again().unwrap().unwrap_err();
        assert!(error.contains("fleet.toml") && error.contains("spares"), "{error}");
        assert_eq!(file.read_again(), None);
        assert_eq!((file.desired().idle_workers_per_host, file.wrong()), (23, Some(&error)));
        fs::remove_file(&path).unwrap();
        assert!(file.read_again().unwrap().unwrap_err().contains("cannot read"));
        assert_eq!((file.desired().idle_workers_per_host, file.read_again()), (23, None));
        fs::write(&path, "idle_workers_per_host = 5\n").unwrap();
        assert_eq!(file.read_again(), Some(Ok(())));
        assert_eq!((file.desired().idle_workers_per_host, file.wrong()), (5, None));
    }

    #[test]
    fn a_text_takes_the_place_of_the_file_or_changes_nothing() {
        let (_directory, path, mut file) = file("fleet = \"web\"\n");
        for (text, said) in [("fleet = \"mail\"", "\"mail\""), ("flet = \"web\"", "flet")] {
            let error = file.replace(text).unwrap_err();
            assert!(error.contains(said), "{error}");
        }
        assert_eq!(fs::read_to_string(&path).unwrap(), "fleet = \"web\"\n");
        let text = "# ours\nfleet = \"web\"\nidle_workers_per_host = 5\n";
        file.replace(text).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), text);
        assert_eq!((file.desired().idle_workers_per_host, file.read_again()), (5, None));
    }

    #[test]
    fn a_stopped_host_is_stopped_until_it_is_started() {
        let (_directory, path, mut file) = file("stopped_hosts = [\"a\"]\n");
        file.stop("b", true).unwrap();
        let stopped = |file: &DesiredFile| file.desired().stopped_hosts.iter().cloned().collect::<Vec<_>>();
        assert_eq!(stopped(&file), ["a", "b"]);
        // This also survives a new version of the file, and another monitor that reads it.
        fs::write(&path, "interval = 1\n").unwrap();
        assert_eq!(file.read_again(), Some(Ok(())));
        assert_eq!(stopped(&file), ["b"]);
        assert_eq!(stopped(&DesiredFile::open(&path).unwrap()), ["b"]);
        file.stop("b", false).unwrap();
        assert!(stopped(&DesiredFile::open(&path).unwrap()).is_empty());
        // A monitor that was on standby meanwhile.
        let mut other = DesiredFile::open(&path).unwrap();
        file.stop("c", true).unwrap();
        other.take_over().unwrap();
        assert_eq!(stopped(&other), ["c"]);
    }

    #[test]
    fn what_is_still_to_be_replaced_is_known_after_a_restart() {
        let (_directory, path, mut file) = file("stopped_hosts = [\"a\"]\n");
        let rolling: BTreeSet<WorkerId> = ["x", "y"].map(|id| WorkerId::try_from(id.to_owned()).unwrap()).into();
        file.keep_rolling(&rolling).unwrap();
        file.stop("b", true).unwrap();
        let again = DesiredFile::open(&path).unwrap();
        assert_eq!(*again.rolling(), rolling);
        assert!(again.stops("a") && !again.stops("b"));
        file.keep_rolling(&BTreeSet::new()).unwrap();
        assert!(DesiredFile::open(&path).unwrap().rolling().is_empty());
    }
}
