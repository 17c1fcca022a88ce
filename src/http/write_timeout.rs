//! A socket that disconnects slow readers.

use std::io;
use std::os::fd::AsFd;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Sleep, sleep};

use crate::process::socket::unacknowledged;

/// How long a peer may read none of the waiting output.
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);
/// Minimum number of bytes that a slow reader must read in that time. A slower one would tie up the
/// connection.
const LEAST_PROGRESS: usize = 64 * 1024;

/// The socket of one connection.
pub(super) struct WriteTimeoutStream {
    socket: TcpStream,
    /// Runs while a write is blocked.
    timer: Option<Pin<Box<Sleep>>>,
    /// Bytes that the kernel had not delivered when the timer started.
    unacknowledged: usize,
}

impl WriteTimeoutStream {
    pub(super) fn new(socket: TcpStream) -> Self {
        Self { socket, timer: None, unacknowledged: 0 }
    }

    /// Passes on the result of a write, and fails if the peer has been reading too slowly for too long.
    fn watch<T>(&mut self, context: &mut Context<'_>, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.timer = None;
            return written;
        }
        loop {
            let timer = self.timer.get_or_insert_with(|| {
                self.unacknowledged = unacknowledged(self.socket.as_fd()).unwrap_or(0);
                Box::pin(sleep(WRITE_TIMEOUT))
            });
            if timer.as_mut().poll(context).is_pending() {
                return Poll::Pending;
            }
            // The kernel signals writability only when there is much room. A slow peer may have read
            // something all the same.
            let left = unacknowledged(self.socket.as_fd()).unwrap_or(0);
            self.timer = None;
            // The peer cannot read more than there is.
            if self.unacknowledged.saturating_sub(left) < LEAST_PROGRESS.min(self.unacknowledged / 2).max(1) {
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
        }
    }
}

impl AsyncRead for WriteTimeoutStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_read(context, buffer)
    }
}

impl AsyncWrite for WriteTimeoutStream {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.socket).poll_write(context, bytes);
        self.watch(context, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.socket).poll_write_vectored(context, pieces);
        self.watch(context, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(context)
    }
}
