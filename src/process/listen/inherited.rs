//! Sockets passed by the service manager (systemd's `LISTEN_FDS` protocol).

use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};

use socket2::{Domain, Socket, Type};

use super::{ListenError, Listeners};

/// The descriptors have one owner: later calls get none.
static TAKEN: AtomicBool = AtomicBool::new(false);

/// The sockets passed to this process id, on the first call only.
pub(super) fn take() -> Result<Option<Listeners>, ListenError> {
    let descriptors = sd_notify::listen_fds().map_err(|error| ListenError::Inherited(error.to_string()))?;
    if descriptors.len() == 0 || TAKEN.swap(true, Ordering::SeqCst) {
        return Ok(None);
    }
    let mut listeners = Listeners::default();
    for descriptor in descriptors {
        listeners.add(descriptor, Socket::from(own(descriptor)))?;
    }
    Ok(Some(listeners))
}

#[allow(unsafe_code)]
fn own(descriptor: RawFd) -> OwnedFd {
    // SAFETY: the descriptor is open, or `listen_fds` would have failed to make it close-on-exec. By the
    // protocol it was left to this process before it started, so nothing here owns it, and `TAKEN` lets it be
    // owned only once.
    unsafe { OwnedFd::from_raw_fd(descriptor) }
}

impl Listeners {
    fn add(&mut self, descriptor: RawFd, socket: Socket) -> Result<(), ListenError> {
        let unusable = |why: &str| Err(ListenError::Inherited(format!("descriptor {descriptor}: {why}")));
        if !socket.is_listener().is_ok_and(|listens| listens) {
            return unusable("not a listening socket");
        }
        if socket.r#type().ok() != Some(Type::STREAM) {
            return unusable("not a stream socket");
        }
        if let Err(error) = socket.set_nonblocking(true) {
            return unusable(&error.to_string());
        }
        match socket.domain() {
            Ok(Domain::IPV4 | Domain::IPV6) => self.tcp.push(socket.into()),
            Ok(Domain::UNIX) => self.unix.push(socket.into()),
            _ => return unusable("neither TCP nor UNIX"),
        }
        Ok(())
    }
}
