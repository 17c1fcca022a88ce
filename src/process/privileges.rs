//! Startup tasks that need root privileges, and dropping privileges.

use std::ffi::CString;
use std::io;

use nix::errno::Errno;
use nix::sys::resource::{Resource, getrlimit, rlim_t, setrlimit};
use nix::unistd::{Gid, Uid, User, geteuid, getresgid, getresuid, initgroups, setresgid, setresuid};

/// Why the process did not switch to another user.
#[derive(Debug, thiserror::Error)]
pub enum PrivilegeError {
    /// Only root may switch users.
    #[error("Must be root to switch users.")]
    NotRoot,
    /// There is no user of this name.
    #[error("there is no user {0:?}")]
    UnknownUser(String),
    /// The user database could not be read.
    #[error("cannot look up user {name:?}: {source}")]
    Lookup {
        /// The name.
        name: String,
        /// The system error.
        source: io::Error,
    },
    /// The system refused a step.
    #[error("cannot become user {name:?}: {step}: {source}")]
    Refused {
        /// The name.
        name: String,
        /// The system call.
        step: &'static str,
        /// The system error.
        source: io::Error,
    },
    /// After the switch, root privileges could still be regained.
    #[error("became user {0:?}, but root privileges can be regained")]
    Regainable(String),
}

/// A user to switch to, looked up before any file is created for it.
#[derive(Clone, Debug)]
pub struct Account {
    name: String,
    uid: Uid,
    gid: Gid,
}

impl Account {
    /// Looks up a user by name.
    ///
    /// # Errors
    /// [`PrivilegeError::NotRoot`] when the process may not switch anyway, then
    /// [`PrivilegeError::UnknownUser`] and [`PrivilegeError::Lookup`].
    pub fn find(name: &str) -> Result<Self, PrivilegeError> {
        if !geteuid().is_root() {
            return Err(PrivilegeError::NotRoot);
        }
        match User::from_name(name) {
            Ok(Some(user)) => Ok(Self { name: user.name, uid: user.uid, gid: user.gid }),
            Ok(None) => Err(PrivilegeError::UnknownUser(name.to_owned())),
            Err(errno) => Err(PrivilegeError::Lookup { name: name.to_owned(), source: errno.into() }),
        }
    }

    /// The numeric user id, for files that the user should own.
    pub fn uid(&self) -> u32 {
        self.uid.as_raw()
    }

    /// The numeric id of the user's primary group.
    pub fn gid(&self) -> u32 {
        self.gid.as_raw()
    }
}

/// Switches to another user permanently: its groups, its primary group, its user id, in that order, each as
/// real, effective and saved. Then tries to switch back, which must fail.
///
/// gearmand drops all supplementary groups. Here the user keeps the groups that the system lists for it, such
/// as one that may read a TLS key.
///
/// # Errors
/// See [`PrivilegeError`]. The process must not continue after an error: it may be half switched.
pub fn drop_to(account: &Account) -> Result<(), PrivilegeError> {
    let refused =
        |step| move |errno: Errno| PrivilegeError::Refused { name: account.name.clone(), step, source: errno.into() };
    if !geteuid().is_root() {
        return Err(PrivilegeError::NotRoot);
    }
    let name = CString::new(account.name.as_str()).map_err(|_| PrivilegeError::UnknownUser(account.name.clone()))?;
    let (uid, gid) = (account.uid, account.gid);
    initgroups(&name, gid).map_err(refused("initgroups"))?;
    setresgid(gid, gid, gid).map_err(refused("setresgid"))?;
    setresuid(uid, uid, uid).map_err(refused("setresuid"))?;
    if uid.is_root() {
        return Ok(());
    }
    let user = getresuid().map_err(refused("getresuid"))?;
    let group = getresgid().map_err(refused("getresgid"))?;
    let root = Uid::from_raw(0);
    let switched =
        [user.real, user.effective, user.saved] == [uid; 3] && [group.real, group.effective, group.saved] == [gid; 3];
    if !switched || setresuid(root, root, root).is_ok() {
        return Err(PrivilegeError::Regainable(account.name.clone()));
    }
    Ok(())
}

/// The limit of open files could not be set.
#[derive(Debug, thiserror::Error)]
#[error(
    "cannot set the limit of open files to {wanted} (hard limit {hard}): {source}; give a smaller --file-descriptors"
)]
pub struct FileDescriptorError {
    wanted: u64,
    hard: u64,
    source: io::Error,
}

/// Sets the limit of open files (mostly sockets). Returns the limit then in force.
///
/// With a number (`-f N`) the soft limit becomes that number, and the hard limit is raised if it is lower.
/// Without one the soft limit is raised to the hard limit.
///
/// # Errors
/// When the requested number is refused: above the hard limit it takes root privileges, and the kernel has a
/// limit of its own (`fs.nr_open`). Without a number, missing privileges are not an error.
pub fn raise_file_descriptor_limit(wanted: Option<u64>) -> Result<u64, FileDescriptorError> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).map_err(|errno| FileDescriptorError {
        wanted: wanted.unwrap_or_default(),
        hard: 0,
        source: errno.into(),
    })?;
    let Some(wanted) = wanted else {
        // A sandbox may forbid the call; the current limit is good enough then.
        return Ok(match setrlimit(Resource::RLIMIT_NOFILE, hard, hard) {
            Ok(()) => hard,
            Err(_) => soft,
        });
    };
    let limit: rlim_t = wanted;
    setrlimit(Resource::RLIMIT_NOFILE, limit, hard.max(limit)).map_err(|errno| FileDescriptorError {
        wanted,
        hard,
        source: errno.into(),
    })?;
    Ok(limit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_is_found_by_name_only() {
        if !geteuid().is_root() {
            assert!(matches!(Account::find("nobody"), Err(PrivilegeError::NotRoot)));
            return;
        }
        let nobody = Account::find("nobody").unwrap();
        assert_ne!(nobody.uid(), 0);
        assert_ne!(nobody.gid(), 0);
        for unknown in ["no-such-user", "", "0", "a\0b"] {
            let error = Account::find(unknown).unwrap_err();
            assert!(
                matches!(error, PrivilegeError::UnknownUser(_) | PrivilegeError::Lookup { .. }),
                "{unknown:?}: {error}"
            );
        }
    }

    #[test]
    fn the_refusal_has_the_words_of_gearmand() {
        assert_eq!(PrivilegeError::NotRoot.to_string(), "Must be root to switch users.");
    }
}
