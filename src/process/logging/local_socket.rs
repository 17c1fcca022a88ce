//! Datagrams to a daemon on this host, without ever waiting for it.

use std::io;
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

/// The sending side of a local datagram socket, as syslog and the systemd journal have one.
#[derive(Debug)]
pub(super) struct LocalSocket {
    path: PathBuf,
    /// `None` while the receiver cannot be reached.
    socket: Mutex<Option<UnixDatagram>>,
}

impl LocalSocket {
    /// A socket for the receiver at `path`, not connected yet.
    pub(super) fn new(path: &str) -> Self {
        Self { path: PathBuf::from(path), socket: Mutex::new(None) }
    }

    /// Connects, so that a receiver which is not there shows at start.
    pub(super) fn connect(&self) -> io::Result<()> {
        let socket = self.connected()?;
        *self.socket.lock().unwrap_or_else(PoisonError::into_inner) = Some(socket);
        Ok(())
    }

    /// Sends one datagram. A receiver that was restarted is connected to again; a datagram that is
    /// not taken at once is dropped, for the log must not hold up the server.
    pub(super) fn send(&self, datagram: &[u8]) {
        let mut socket = self.socket.lock().unwrap_or_else(PoisonError::into_inner);
        match socket.as_ref().map(|socket| socket.send(datagram)) {
            Some(Ok(_)) => return,
            Some(Err(error)) if error.kind() == io::ErrorKind::WouldBlock => return,
            Some(Err(_)) | None => {}
        }
        *socket = self.connected().ok().filter(|socket| socket.send(datagram).is_ok());
    }

    fn connected(&self) -> io::Result<UnixDatagram> {
        let socket = UnixDatagram::unbound()?;
        socket.set_nonblocking(true)?;
        socket.connect(&self.path)?;
        Ok(socket)
    }
}
