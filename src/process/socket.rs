//! What the kernel knows of a socket, and is told about it.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use nix::errno::Errno;
use nix::libc::{TIOCOUTQ, c_int, ioctl};
use socket2::SockRef;

/// How many bytes were written to a socket that its peer has not acknowledged yet.
///
/// # Errors
/// When the descriptor is no socket.
#[allow(unsafe_code)]
pub fn unacknowledged(socket: BorrowedFd<'_>) -> io::Result<usize> {
    let mut bytes: c_int = 0;
    // SAFETY: for sockets TIOCOUTQ (SIOCOUTQ) writes one int, to where the pointer to a live one says.
    let status = unsafe { ioctl(socket.as_raw_fd(), TIOCOUTQ, &raw mut bytes) };
    Errno::result(status)?;
    Ok(usize::try_from(bytes).unwrap_or(0))
}

/// Whether something that was written to a socket surely did not reach its peer: the peer was gone and has answered with a reset,
/// or has not acknowledged it. Takes the error that waits for the next call, if there is one.
pub fn has_undelivered(socket: BorrowedFd<'_>) -> bool {
    let is_reset = SockRef::from(&socket).take_error().is_ok_and(|error| error.is_some());
    is_reset || unacknowledged(socket).is_ok_and(|bytes| bytes > 0)
}

/// Has the kernel acknowledge at once what it has received, and what comes next.
///
/// libgearman's send buffer holds one segment of 64 KiB, as loopback has them. It goes on when that is acknowledged, which
/// a kernel that sees no answer coming delays by 40 ms: 20 seconds in all for a workload of 32 MiB. Where this is not
/// possible, as for UNIX sockets, it is not needed.
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
    fn what_is_no_socket_is_an_error() {
        let file = std::fs::File::open("/dev/null").unwrap();
        assert!(unacknowledged(file.as_fd()).is_err());
    }
}
