//! Detection of peers that do not read.
//!
//! A peer may be busy for minutes and read nothing. As long as its kernel answers, it is alive: its queued
//! output is bounded by memory limits, and it is closed only after `--write-timeout`. The kernel's own
//! TCP_USER_TIMEOUT does not tell such a peer from a dead host, because it counts the time in which the
//! peer's window is closed. So TCP_USER_TIMEOUT is switched off on a socket whose peer acknowledges and takes
//! nothing, and switched on again when the peer takes something.
//!
//! A connection to which little is written is not watched: the kernel finds out if its peer is dead.

use std::future::Future;
use std::os::fd::BorrowedFd;
use std::pin::Pin;
use std::task::Context;
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep};

use crate::process::socket::{peer_state, set_user_timeout, unacknowledged};

/// The least that a peer must take within the write timeout, in bytes, if more was queued. A peer that takes
/// less is not reading but holding the server's memory.
const LEAST_PROGRESS: i64 = 16 * 1024;
/// How much is written to a peer before the watch starts, in bytes.
const UNWATCHED: usize = 1024;
/// The longest time between two checks.
const LOOK: Duration = Duration::from_secs(5);
/// The shortest time between two checks.
const SHORTEST_LOOK: Duration = Duration::from_millis(20);
/// The accuracy of the kernel's times.
const MARGIN: Duration = Duration::from_millis(50);
/// A host counts as dead after this many unanswered probes of a closed window. The kernel sends them at
/// growing intervals.
const DEAD_PROBES: u8 = 2;

/// How long a peer may take nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Patience {
    /// While its kernel answers; `None` for no limit.
    pub reading: Option<Duration>,
    /// While its kernel does not answer: the TCP_USER_TIMEOUT of its socket; `None` where the kernel decides.
    pub silence: Option<Duration>,
}

/// Why a peer is given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stuck {
    /// It reads nothing.
    NotReading,
    /// Its host does not answer.
    Silent,
}

/// The watch over one peer.
#[derive(Debug)]
pub(super) struct Watch {
    patience: Patience,
    /// Runs while output may be queued for the peer.
    timer: Option<Pin<Box<Sleep>>>,
    /// Total bytes handed to the kernel.
    written: i64,
    /// Bytes handed to the kernel since the peer had last taken everything.
    unwatched: usize,
    look: Option<Look>,
}

/// What the last check saw.
#[derive(Clone, Copy, Debug)]
struct Look {
    /// Bytes that the peer had taken, and when that count was first seen.
    taken: i64,
    taken_at: Instant,
    /// The same at the last time that the peer had taken enough.
    enough: i64,
    enough_at: Instant,
    /// The peer has taken everything that was queued at some check since then when it has taken this many
    /// bytes in total. `None` if more was queued than the kernel accepted.
    all: Option<i64>,
    /// Whether TCP_USER_TIMEOUT is off.
    is_patient: bool,
    has_dead_probes: bool,
}

impl Look {
    const fn first(taken: i64, now: Instant, all: Option<i64>) -> Self {
        Self { taken, taken_at: now, enough: taken, enough_at: now, all, is_patient: false, has_dead_probes: false }
    }
}

impl Watch {
    pub(super) const fn new(patience: Patience) -> Self {
        Self { patience, timer: None, written: 0, unwatched: 0, look: None }
    }

    /// Counts bytes that the kernel accepted for the peer.
    pub(super) fn wrote(&mut self, bytes: usize) {
        self.written = self.written.wrapping_add_unsigned(bytes as u64);
        self.unwatched = self.unwatched.saturating_add(bytes);
        if self.unwatched >= UNWATCHED {
            self.start();
        }
    }

    /// Starts the watch: the kernel accepts no more bytes for the peer. The caller polls afterwards.
    pub(super) fn start(&mut self) {
        if self.timer.is_none()
            && let Some(interval) = self.interval()
        {
            self.timer = Some(Box::pin(sleep(interval)));
        }
    }

    /// Checks the peer when it is due. `has_more`: more output is queued than the kernel has accepted.
    pub(super) fn poll(
        &mut self,
        context: &mut Context<'_>,
        socket: BorrowedFd<'_>,
        has_more: bool,
    ) -> Result<(), Stuck> {
        while let Some(timer) = &mut self.timer
            && timer.as_mut().poll(context).is_ready()
        {
            let waiting = unacknowledged(socket).unwrap_or(0);
            if waiting == 0 && !has_more {
                if self.look.take().is_some_and(|look| look.is_patient) {
                    set_user_timeout(socket, self.patience.silence);
                }
                self.timer = None;
                self.unwatched = 0;
                return Ok(());
            }
            let taken = self.written.wrapping_sub_unsigned(waiting as u64);
            self.look_at(socket, taken, has_more, Instant::now())?;
            if let (Some(timer), Some(interval)) = (&mut self.timer, self.patience.interval()) {
                timer.as_mut().reset(Instant::now() + interval);
            }
        }
        Ok(())
    }

    fn interval(&self) -> Option<Duration> {
        self.patience.interval()
    }

    fn look_at(&mut self, socket: BorrowedFd<'_>, taken: i64, has_more: bool, now: Instant) -> Result<(), Stuck> {
        let all = (!has_more).then_some(self.written);
        let Some(look) = &mut self.look else {
            self.look = Some(Look::first(taken, now, all));
            return Ok(());
        };
        // Little progress is enough from a peer that is sent little.
        let has_taken_all = look.all.is_some_and(|all| taken.wrapping_sub(all) >= 0);
        if taken.wrapping_sub(look.enough) >= LEAST_PROGRESS || has_taken_all {
            (look.enough, look.enough_at, look.all) = (taken, now, all);
        }
        look.all = look.all.or(all);
        if self.patience.reading.is_some_and(|most| now - look.enough_at >= most) {
            return Err(Stuck::NotReading);
        }
        let Some((silence, peer)) = self.patience.silence.zip(peer_state(socket)) else {
            return Ok(());
        };
        if taken != look.taken {
            (look.taken, look.taken_at) = (taken, now);
            if std::mem::take(&mut look.is_patient) {
                set_user_timeout(socket, Some(silence));
            }
        } else if !look.is_patient && peer.silent_for + MARGIN < now - look.taken_at {
            // The peer's kernel was heard after the last progress: its window is closed.
            look.is_patient = true;
            set_user_timeout(socket, None);
        }
        let had_dead_probes = std::mem::replace(&mut look.has_dead_probes, peer.unanswered_probes >= DEAD_PROBES);
        // The last probe may have been sent just now.
        if look.is_patient && had_dead_probes && look.has_dead_probes && peer.silent_for >= silence {
            return Err(Stuck::Silent);
        }
        Ok(())
    }
}

impl Patience {
    /// The time between two checks; `None` if nothing is limited.
    fn interval(&self) -> Option<Duration> {
        let shortest = self.reading.into_iter().chain(self.silence).min()?;
        Some((shortest / 4).clamp(SHORTEST_LOOK, LOOK))
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    use super::*;

    const PATIENCE: Patience = Patience { reading: Some(Duration::from_secs(1)), silence: None };
    const INTERVAL: Duration = Duration::from_millis(250);
    const PACKET: i64 = 100;

    /// The result of checks on a peer that has always taken all packets but the last few.
    fn looks(behind: i64, has_more: bool) -> Result<(), Stuck> {
        let (socket, _peer) = UnixStream::pair().expect("a pair of sockets");
        let mut watch = Watch::new(PATIENCE);
        let begin = Instant::now();
        for look in 1..=100 {
            watch.written += PACKET;
            let now = begin + INTERVAL * look;
            watch.look_at(socket.as_fd(), watch.written - behind * PACKET, has_more, now)?;
        }
        Ok(())
    }

    #[test]
    fn a_peer_that_is_sent_little_need_not_take_much() {
        for behind in 0..=3 {
            assert_eq!(looks(behind, false), Ok(()), "{behind} packets");
        }
        // It takes everything, but too late.
        assert_eq!(looks(6, false), Err(Stuck::NotReading));
        // The same little progress is not enough when more is queued than the kernel accepts.
        assert_eq!(looks(1, true), Err(Stuck::NotReading));
    }
}
