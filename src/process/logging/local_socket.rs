//! Datagrams to a daemon on this host, with a short timeout.

use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// How long to wait for a receiver to make room, in milliseconds. After a timeout the next datagrams do not
/// wait, until one is taken.
const WAIT_MS: u16 = 200;

/// The sending side of a local datagram socket, for syslog and the systemd journal.
#[derive(Debug)]
pub(super) struct LocalSocket {
    path: PathBuf,
    /// `None` while the receiver cannot be reached.
    socket: Option<UnixDatagram>,
    /// Whether the last datagram was dropped.
    is_stuck: bool,
    /// Dropped datagrams.
    lost: Arc<AtomicU64>,
}

impl LocalSocket {
    /// Creates a socket for the receiver at `path`, not connected yet. It counts dropped datagrams in `lost`.
    pub(super) fn new(path: &str, lost: Arc<AtomicU64>) -> Self {
        Self { path: PathBuf::from(path), socket: None, is_stuck: false, lost }
    }

    /// Connects, so that a missing receiver is reported at start.
    pub(super) fn connect(&mut self) -> io::Result<()> {
        self.socket = Some(self.connected()?);
        Ok(())
    }

    /// Sends one datagram. Reconnects to a receiver that was restarted. A datagram that is not taken in time
    /// is dropped.
    pub(super) fn send(&mut self, datagram: &[u8]) {
        let is_taken = match self.socket.as_ref().map(|socket| self.send_on(socket, datagram)) {
            Some(Ok(())) => true,
            Some(Err(error)) if error.kind() == io::ErrorKind::WouldBlock => false,
            Some(Err(_)) | None => {
                self.socket = self.connected().ok().filter(|socket| self.send_on(socket, datagram).is_ok());
                self.socket.is_some()
            }
        };
        self.is_stuck = !is_taken;
        if self.is_stuck {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn send_on(&self, socket: &UnixDatagram, datagram: &[u8]) -> io::Result<()> {
        match socket.send(datagram) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && !self.is_stuck => {
                let mut polled = [PollFd::new(socket.as_fd(), PollFlags::POLLOUT)];
                poll(&mut polled, PollTimeout::from(WAIT_MS))?;
                socket.send(datagram).map(drop)
            }
            result => result.map(drop),
        }
    }

    fn connected(&self) -> io::Result<UnixDatagram> {
        let socket = UnixDatagram::unbound()?;
        socket.set_nonblocking(true)?;
        socket.connect(&self.path)?;
        Ok(socket)
    }
}
