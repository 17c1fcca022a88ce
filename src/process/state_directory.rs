//! The default directory of the queue file: its location, and its owner.
//!
//! It is the directory that the service manager created (`$STATE_DIRECTORY`); else `/var/lib/gearmand` for
//! root; else `gearmand` in the user's state directory (`$XDG_STATE_HOME`, or `.local/state` at home).

use std::ffi::{OsStr, OsString};
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, fchown};
use std::path::{Path, PathBuf};

use nix::libc::{O_NOFOLLOW, O_NONBLOCK};
use nix::unistd::{AccessFlags, eaccess};

/// The state directory of root's server.
const OF_ROOT: &str = "/var/lib/gearmand";
/// Mode of a directory created here: not accessible to other users.
const MODE: u32 = 0o750;
/// Prefix of queue file names.
const FILE_START: &str = "gearmand-";
/// Suffixes of queue file names: SQLite keeps two more files beside its own, and a server holds a lock.
const FILE_ENDS: [&str; 5] = [".sqlite3", ".sqlite3-wal", ".sqlite3-shm", ".sqlite3.lock", ".sqlite3.reserve"];

/// The alternative, for the end of messages.
const OTHERWISE: &str = "or name a file with --queue-type libsqlite3 --libsqlite3-db";
/// How to create a directory for the server, for the end of messages.
const OF_ITS_OWN: &str = "create it for the user of the server (mkdir, chown; StateDirectory= in a systemd unit)";

/// The environment variables that determine the state directory.
#[derive(Clone, Debug, Default)]
pub struct Environment {
    /// `STATE_DIRECTORY`: the directories that systemd created for the service, separated by colons.
    pub state_directory: Option<OsString>,
    /// `XDG_STATE_HOME`.
    pub xdg_state_home: Option<OsString>,
    /// `HOME`.
    pub home: Option<OsString>,
}

impl Environment {
    /// The environment of the process.
    pub fn of_process() -> Self {
        let variable = std::env::var_os;
        Self {
            state_directory: variable("STATE_DIRECTORY"),
            xdg_state_home: variable("XDG_STATE_HOME"),
            home: variable("HOME"),
        }
    }
}

/// Why the state directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StateDirectoryError {
    /// The environment does not determine one.
    #[error("there is no state directory: HOME is not set; set it, or XDG_STATE_HOME, {OTHERWISE}")]
    Nowhere,
    /// A variable is not an absolute path.
    #[error("{variable} is {value:?}, which is not an absolute path; correct or unset it, {OTHERWISE}")]
    NotAbsolute {
        /// The variable.
        variable: &'static str,
        /// Its value.
        value: OsString,
    },
    /// No directory was named, the default one does not exist, and it cannot be created.
    #[error("the state directory {} does not exist and cannot be created: {source}; {OF_ITS_OWN}, {OTHERWISE}", path.display())]
    Missing {
        /// The directory.
        path: PathBuf,
        /// The system error.
        source: io::Error,
    },
    /// The path is not a directory.
    #[error("the state directory {} {what}, {OTHERWISE}", path.display())]
    Unfit {
        /// The path.
        path: PathBuf,
        /// What is there, and how to correct it.
        what: &'static str,
    },
    /// The named directory cannot be created, or the path is not a directory.
    #[error("cannot create the state directory {}: {source}; {OF_ITS_OWN}, {OTHERWISE}", path.display())]
    Make {
        /// The directory.
        path: PathBuf,
        /// The system error.
        source: io::Error,
    },
    /// The directory is not writable.
    #[error(
        "cannot write into the state directory {}: {source}; give it to user {user} (chown; StateDirectory= in a systemd \
         unit) or mount it writable, {OTHERWISE}",
        path.display()
    )]
    NotWritable {
        /// The directory.
        path: PathBuf,
        /// The numeric id of the user of this process.
        user: u32,
        /// The system error.
        source: io::Error,
    },
    /// The directory belongs to a third user.
    #[error("the state directory {} belongs to user {user}, whose server may use it; set STATE_DIRECTORY to another, {OTHERWISE}", path.display())]
    OfAnother {
        /// The directory.
        path: PathBuf,
        /// The numeric id of that user.
        user: u32,
    },
    /// The owner of the directory, or of a file in it, cannot be changed to the user that the server switches
    /// to.
    #[error("cannot give {} to the user of the server: {source}; give it to that user, {OTHERWISE}", path.display())]
    HandOver {
        /// The directory or the file.
        path: PathBuf,
        /// The system error.
        source: io::Error,
    },
}

impl StateDirectoryError {
    /// Whether this user has no state directory at all, and so no queue of an earlier start that could be
    /// missed.
    pub fn is_absence(&self) -> bool {
        matches!(self, Self::Nowhere | Self::Missing { .. })
    }
}

/// Determines the directory. Creates nothing.
///
/// # Errors
/// [`StateDirectoryError::Nowhere`] and [`StateDirectoryError::NotAbsolute`].
pub fn choose(environment: &Environment, is_root: bool) -> Result<PathBuf, StateDirectoryError> {
    if let Some(list) = given(environment.state_directory.as_ref()) {
        let first = list.as_bytes().split(|byte| *byte == b':').next().unwrap_or_default();
        return absolute("STATE_DIRECTORY", OsStr::from_bytes(first));
    }
    if is_root {
        return Ok(PathBuf::from(OF_ROOT));
    }
    if let Some(state_home) = given(environment.xdg_state_home.as_ref()) {
        return Ok(absolute("XDG_STATE_HOME", &state_home)?.join("gearmand"));
    }
    let home = given(environment.home.as_ref()).ok_or(StateDirectoryError::Nowhere)?;
    Ok(absolute("HOME", &home)?.join(".local/state/gearmand"))
}

/// The value of a variable that is set and not empty.
fn given(value: Option<&OsString>) -> Option<OsString> {
    value.cloned().filter(|value| !value.is_empty())
}

fn absolute(variable: &'static str, value: &OsStr) -> Result<PathBuf, StateDirectoryError> {
    let path = Path::new(value);
    if path.is_absolute() {
        Ok(path.to_owned())
    } else {
        Err(StateDirectoryError::NotAbsolute { variable, value: value.to_owned() })
    }
}

/// Determines the directory, creates it if it does not exist, and checks that it is writable.
///
/// With an owner (user and group) the directory and the queue files in it are given to that owner: call this
/// with root privileges, before they are dropped.
///
/// # Errors
/// See [`StateDirectoryError`].
pub fn prepare(
    environment: &Environment,
    is_root: bool,
    owner: Option<(u32, u32)>,
) -> Result<PathBuf, StateDirectoryError> {
    let path = choose(environment, is_root)?;
    make(&path).map_err(|source| {
        let path = path.clone();
        if let Some(what) = other_than_directory(&path) {
            return StateDirectoryError::Unfit { path, what };
        }
        let is_named =
            given(environment.state_directory.as_ref()).or(given(environment.xdg_state_home.as_ref())).is_some();
        if !is_named && is_missing(&path, environment) {
            StateDirectoryError::Missing { path, source }
        } else {
            StateDirectoryError::Make { path, source }
        }
    })?;
    if let Some(owner) = owner {
        hand_over(&path, owner)?;
    }
    eaccess(&path, AccessFlags::W_OK | AccessFlags::X_OK).map_err(|errno| StateDirectoryError::NotWritable {
        path: path.clone(),
        user: nix::unistd::geteuid().as_raw(),
        source: errno.into(),
    })?;
    Ok(path)
}

/// What the path is instead of a directory; `None` if it does not exist, is a directory, or cannot be
/// examined.
fn other_than_directory(path: &Path) -> Option<&'static str> {
    let is_link = fs::symlink_metadata(path).ok()?.is_symlink();
    match fs::metadata(path) {
        Ok(there) => (!there.is_dir()).then_some("is not a directory; move the file away"),
        Err(error) if is_link && error.kind() == io::ErrorKind::NotFound => {
            Some("is a dangling symbolic link; mount or create its target, or correct the link")
        }
        Err(_) => None,
    }
}

/// Whether the path does not exist. A dangling link counts as existing, since its disk may not be mounted; so
/// does a path that this user may not examine. The home of users without one is often not a directory.
fn is_missing(path: &Path, environment: &Environment) -> bool {
    match fs::symlink_metadata(path).map_err(|error| error.kind()) {
        Err(io::ErrorKind::NotFound) => true,
        Err(io::ErrorKind::NotADirectory) => {
            given(environment.home.as_ref()).is_some_and(|home| !Path::new(&home).is_dir())
        }
        _ => false,
    }
}

/// Creates the directory and its parents, and syncs them to disk: a power failure must not lose a queue with
/// its directory.
fn make(path: &Path) -> io::Result<()> {
    let new: Vec<&Path> = path.ancestors().take_while(|above| !above.exists()).collect();
    DirBuilder::new().recursive(true).mode(MODE).create(path)?;
    for above in new.iter().filter_map(|made| made.parent()) {
        File::open(above)?.sync_all()?;
    }
    Ok(())
}

/// The queue file of the server that listens on this port.
pub fn queue_file(directory: &Path, port: u16) -> PathBuf {
    directory.join(format!("{FILE_START}{port}{}", FILE_ENDS[0]))
}

fn hand_over(directory: &Path, owner: (u32, u32)) -> Result<(), StateDirectoryError> {
    let of = |path: &Path| {
        let path = path.to_owned();
        move |source| StateDirectoryError::HandOver { path, source }
    };
    let opened = File::open(directory).map_err(of(directory))?;
    // A server of another user may be using it.
    let of_whom = opened.metadata().map_err(of(directory))?.uid();
    if of_whom != 0 && of_whom != owner.0 {
        return Err(StateDirectoryError::OfAnother { path: directory.to_owned(), user: of_whom });
    }
    give(&opened, owner).map_err(of(directory))?;
    for entry in fs::read_dir(directory).map_err(of(directory))? {
        let entry = entry.map_err(of(directory))?;
        if is_queue_file(&entry.file_name()) {
            let path = entry.path();
            give_file(&path, owner).map_err(of(&path))?;
        }
    }
    Ok(())
}

fn is_queue_file(name: &OsStr) -> bool {
    let name = name.as_bytes();
    name.starts_with(FILE_START.as_bytes()) && FILE_ENDS.iter().any(|end| name.ends_with(end.as_bytes()))
}

/// Gives the queue file and the files beside it to the owner of their directory, if root created them in
/// another user's directory.
///
/// # Errors
/// The system error.
pub fn give_to_owner_of_directory(queue_file: &Path) -> io::Result<()> {
    let directory = queue_file.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let owner = fs::metadata(directory)?;
    if !nix::unistd::geteuid().is_root() || owner.uid() == 0 {
        return Ok(());
    }
    for ending in ["", "-wal", "-shm", ".lock", ".reserve"] {
        let mut path = queue_file.as_os_str().to_owned();
        path.push(ending);
        match give_file(Path::new(&path), (owner.uid(), owner.gid())) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

/// Changes the owner of a file. The owner of the directory may have put a link there: its target stays
/// root's.
fn give_file(path: &Path, owner: (u32, u32)) -> io::Result<()> {
    let file = OpenOptions::new().read(true).custom_flags(O_NOFOLLOW | O_NONBLOCK).open(path)?;
    let status = file.metadata()?;
    if !status.is_file() || status.nlink() != 1 {
        return Err(io::Error::other("not a regular file with a single link"));
    }
    give(&file, owner)
}

fn give(file: &File, (user, group): (u32, u32)) -> io::Result<()> {
    let status = file.metadata()?;
    if (status.uid(), status.gid()) == (user, group) { Ok(()) } else { fchown(file, Some(user), Some(group)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(state: &str, xdg: &str, home: &str) -> Environment {
        let some = |text: &str| Some(OsString::from(text));
        Environment { state_directory: some(state), xdg_state_home: some(xdg), home: some(home) }
    }

    #[test]
    fn the_directory_is_that_of_the_service_of_root_or_of_the_user() {
        for (environment, is_root, expected) in [
            (environment("/s/a:/s/b", "/x", "/h"), true, "/s/a"),
            (environment("/s/a", "/x", "/h"), false, "/s/a"),
            (environment("", "/x", "/h"), true, "/var/lib/gearmand"),
            (environment("", "/x", "/h"), false, "/x/gearmand"),
            (environment("", "", "/h"), false, "/h/.local/state/gearmand"),
        ] {
            assert_eq!(choose(&environment, is_root).unwrap(), Path::new(expected), "{environment:?}");
        }
    }

    #[test]
    fn a_directory_that_cannot_be_told_is_an_error_that_says_what_to_do() {
        for (environment, variable) in [
            (environment("", "", ""), "HOME"),
            (environment("state", "", "/h"), "STATE_DIRECTORY"),
            (environment(":/s", "", "/h"), "STATE_DIRECTORY"),
            (environment("", "state", "/h"), "XDG_STATE_HOME"),
            (environment("", "", "home"), "HOME"),
        ] {
            let error = choose(&environment, false).unwrap_err().to_string();
            assert!(error.contains(variable) && error.contains("--libsqlite3-db"), "{error}");
        }
    }

    #[test]
    fn queue_files_are_told_by_their_names() {
        assert_eq!(queue_file(Path::new("/s"), 4730), Path::new("/s/gearmand-4730.sqlite3"));
        let ours = ["", "-wal", "-shm", ".lock", ".reserve"].map(|end| format!("gearmand-1.sqlite3{end}"));
        assert!(ours.iter().all(|name| is_queue_file(name.as_ref())));
        assert!(
            !["gearmand.log", "other-1.sqlite3", "gearmand-1.sqlite3.bak"]
                .iter()
                .any(|name| is_queue_file(name.as_ref()))
        );
    }
}
