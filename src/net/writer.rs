//! Writes the output of a connection to its socket.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::io::AsyncWrite;

use super::connection::End;
use super::pressure::Registered;
use super::turn::{self, Turn, Turns};
use super::watch::Watch;
use crate::outbox::{Outbox, Output};
use crate::process::memory;

/// A turn ends after it has written this much, in bytes.
const WRITTEN_A_TURN: usize = 256 * 1024;
/// A connection with more than this to write needs a place for it, in bytes.
const SHORT_WRITE: usize = 32 * 1024;
/// The price of writing a KiB, which the kernel copies.
const WRITE_KIB: u32 = turn::SHORT / 64;

/// Writes the output in the outbox.
pub(super) struct Writer {
    /// Output that was taken from the outbox and is being written.
    output: Output,
    /// How much of it was written and is not yet reported to the outbox.
    written: usize,
    /// The place for long writes, used when the connection has no place for its requests.
    turn: Turn,
}

impl Writer {
    /// Creates a writer without output.
    pub(super) fn new(turns: Arc<Turns>) -> Self {
        Self { output: Output::default(), written: 0, turn: Turn::new(turns) }
    }

    /// Whether all output that was taken from the outbox is written.
    pub(super) fn is_empty(&self) -> bool {
        self.output.is_empty()
    }

    /// Gives up the place.
    pub(super) fn leave(&mut self) {
        self.turn.leave();
    }

    /// Writes the output. Ready when nothing is left. `requests` is the connection's turn for its requests:
    /// if it has a place, the connection writes there too.
    pub(super) fn poll_write(
        &mut self,
        context: &mut Context<'_>,
        mut stream: Pin<&mut impl AsyncWrite>,
        outbox: &Outbox,
        holder: &Registered,
        watch: &mut Watch,
        requests: &mut Turn,
    ) -> Poll<Result<(), End>> {
        let mut written_now = 0;
        loop {
            if self.output.is_empty() {
                let written = std::mem::take(&mut self.written);
                memory::note_freed(written);
                std::mem::take(&mut self.output).recycle();
                self.output = outbox.take(written, context.waker()).map_err(End::Closed)?;
                if self.output.is_empty() {
                    self.turn.leave();
                    return Poll::Ready(Ok(()));
                }
            }
            let Poll::Ready(most) = self.poll_may_write(context, written_now, requests.has_place()) else {
                return outbox.closed_at_once().map_or(Poll::Pending, |reason| Poll::Ready(Err(End::Closed(reason))));
            };
            let stream = stream.as_mut();
            let written = match self.output.write_with(most, |pieces| {
                let written = match pieces {
                    // Cheaper for the kernel.
                    [piece] => stream.poll_write(context, piece),
                    pieces => stream.poll_write_vectored(context, pieces),
                };
                match written {
                    Poll::Ready(result) => result.map_err(Some),
                    Poll::Pending => Err(None),
                }
            }) {
                Ok(0) => return Poll::Ready(Err(End::Io(io::ErrorKind::WriteZero.into()))),
                Ok(written) => written,
                Err(Some(error)) => return Poll::Ready(Err(End::Io(error))),
                Err(None) => {
                    if let Some(reason) = outbox.closed_at_once() {
                        return Poll::Ready(Err(End::Closed(reason)));
                    }
                    watch.start();
                    self.turn.leave();
                    return Poll::Pending;
                }
            };
            self.written += written;
            holder.wrote(written);
            watch.wrote(written);
            written_now += written;
            if written_now > SHORT_WRITE {
                let turn = if requests.has_place() { &mut *requests } else { &mut self.turn };
                let kib = u32::try_from(written / 1024).unwrap_or(u32::MAX);
                turn.spend_long(kib.saturating_mul(WRITE_KIB).max(1));
            }
        }
    }

    /// How many bytes may be written at once, in a turn that has written `written_now` bytes already.
    ///
    /// One result can be output for many connections, so a connection with much to write needs a place. There
    /// the kernel is offered everything: it copies as much as the socket has room for, up to 4 MiB, which
    /// takes a millisecond. Pieces of 256 KiB cost a fifth more CPU for results of 1 MiB.
    fn poll_may_write(&mut self, context: &mut Context<'_>, written_now: usize, has_place: bool) -> Poll<usize> {
        if has_place || written_now + self.output.len() <= SHORT_WRITE {
            if written_now >= WRITTEN_A_TURN {
                context.waker().wake_by_ref();
                return Poll::Pending;
            }
            return Poll::Ready(usize::MAX);
        }
        match self.turn.poll_long(context) {
            Poll::Ready(_) => Poll::Ready(usize::MAX),
            // Output that other connections wait for may be at the front.
            Poll::Pending if written_now == 0 && !self.turn.has_place() => Poll::Ready(SHORT_WRITE),
            Poll::Pending => Poll::Pending,
        }
    }
}
