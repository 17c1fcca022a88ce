//! Kernel state and options of sockets.

use std::io;
use std::mem::{offset_of, size_of};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::libc::{IPPROTO_TCP, TCP_INFO, TIOCOUTQ, c_int, getsockopt, ioctl, socklen_t, tcp_info};
use socket2::SockRef;

/// How many bytes written to a socket are not yet acknowledged by its peer.
///
/// # Errors
/// When the descriptor is not a socket.
#[allow(unsafe_code)]
pub fn unacknowledged(socket: BorrowedFd<'_>) -> io::Result<usize> {
    let mut bytes: c_int = 0;
    // SAFETY: for sockets TIOCOUTQ (SIOCOUTQ) writes one int through the pointer, which is valid.
    let status = unsafe { ioctl(socket.as_raw_fd(), TIOCOUTQ, &raw mut bytes) };
    Errno::result(status)?;
    Ok(usize::try_from(bytes).unwrap_or(0))
}

/// Whether data written to a socket certainly did not reach its peer: the peer was gone and answered with a
/// reset, or has not acknowledged it. Takes the socket's pending error, if there is one.
pub fn has_undelivered(socket: BorrowedFd<'_>) -> bool {
    let is_reset = SockRef::from(&socket).take_error().is_ok_and(|error| error.is_some());
    is_reset || unacknowledged(socket).is_ok_and(|bytes| bytes > 0)
}

/// The kernel's view of a TCP peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerState {
    /// Time since the peer last acknowledged anything, data or a probe.
    pub silent_for: Duration,
    /// Unanswered probes since the last answered one.
    pub unanswered_probes: u8,
}

/// The kernel's view of the peer of a socket; `None` for sockets other than TCP.
#[allow(unsafe_code)]
pub fn peer_state(socket: BorrowedFd<'_>) -> Option<PeerState> {
    // SAFETY: all fields are integers, for which zero is a valid value.
    let mut info: tcp_info = unsafe { std::mem::zeroed() };
    let mut size = socklen_t::try_from(size_of::<tcp_info>()).ok()?;
    let pointer = (&raw mut info).cast();
    // SAFETY: the kernel writes at most `size` bytes through the pointer, which is valid for the structure.
    let status = unsafe { getsockopt(socket.as_raw_fd(), IPPROTO_TCP, TCP_INFO, pointer, &raw mut size) };
    let has_fields = usize::try_from(size).ok()? >= offset_of!(tcp_info, tcpi_last_ack_recv) + size_of::<u32>();
    (status == 0 && has_fields).then(|| PeerState {
        silent_for: Duration::from_millis(u64::from(info.tcpi_last_ack_recv)),
        unanswered_probes: info.tcpi_probes,
    })
}

/// Sets how long sent bytes may stay unacknowledged before the kernel ends the connection; `None` leaves it
/// to the kernel. Has no effect on sockets other than TCP.
pub fn set_user_timeout(socket: BorrowedFd<'_>, timeout: Option<Duration>) {
    let _ = SockRef::from(&socket).set_tcp_user_timeout(timeout);
}

/// Makes the kernel acknowledge received data at once, and the next data too.
///
/// libgearman's send buffer holds one segment of 64 KiB, the size of loopback segments. It continues when
/// that is acknowledged, which a kernel that sees no response delays by 40 ms: 20 seconds in all for a
/// workload of 32 MiB. Where this is not possible, as for UNIX sockets, it is not needed.
pub fn acknowledge_at_once(socket: BorrowedFd<'_>) {
    let _ = SockRef::from(&socket).set_tcp_quickack(true);
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::os::fd::AsFd as _;
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn it_counts_what_the_peer_has_not_read() {
        let (mut one, mut other) = UnixStream::pair().unwrap();
        assert_eq!(unacknowledged(one.as_fd()).unwrap(), 0);
        one.write_all(&[0; 1000]).unwrap();
        assert!(unacknowledged(one.as_fd()).unwrap() > 0);
        other.read_exact(&mut [0; 1000]).unwrap();
        assert_eq!(unacknowledged(one.as_fd()).unwrap(), 0);
    }

    #[test]
    fn a_peer_is_heard_of() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let mut one = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut other, _) = listener.accept().unwrap();
        one.write_all(b"x").unwrap();
        other.read_exact(&mut [0]).unwrap();
        let state = peer_state(one.as_fd()).unwrap();
        assert!(state.silent_for < Duration::from_mins(1) && state.unanswered_probes == 0, "{state:?}");
        let (one, _other) = UnixStream::pair().unwrap();
        assert_eq!(peer_state(one.as_fd()), None);
    }

    #[test]
    fn what_is_no_socket_is_an_error() {
        let file = std::fs::File::open("/dev/null").unwrap();
        assert!(unacknowledged(file.as_fd()).is_err());
    }
}
