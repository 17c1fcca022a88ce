//! Responses of a server to its clients and workers: decodes the packets that [`crate::protocol::Response`]
//! encodes.

use bytes::Bytes;

use super::listing::printable;
use super::terminal::cut;
use crate::protocol::packet::{Magic, Packet, PacketType};

/// Length limit of a server's error in messages, in characters.
const SAID_MAX: usize = 500;

/// A packet from the server. Its fields share the buffer that it was read into.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// NOOP: a job may be available, send a grab.
    Noop,
    /// NO_JOB: no job is available.
    NoJob,
    /// JOB_ASSIGN: a job to run.
    JobAssign(AssignedJob),
    /// JOB_CREATED: the handle of a submitted job.
    JobCreated(Bytes),
    /// Progress or result of a submitted job.
    Work {
        /// Handle of the job.
        handle: Bytes,
        /// What happened to it.
        event: WorkEvent,
    },
    /// A request was invalid, or invalid in this state. Both texts are truncated, and control characters are
    /// escaped.
    Error {
        /// Error code for programs.
        code: String,
        /// Error text for people.
        text: String,
    },
    /// OPTION_RES: the option is set.
    OptionRes,
    /// ECHO_RES.
    EchoRes,
}

/// Event of a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum WorkEvent {
    /// A part of the result.
    Data(Bytes),
    /// A warning.
    Warning(Bytes),
    /// Progress: a numerator and a denominator, as the worker wrote them.
    Status(Bytes, Bytes),
    /// The job is done: its result, or the last part of it.
    Complete(Bytes),
    /// The job failed.
    Fail,
    /// The job failed with a reason.
    Exception(Bytes),
}

/// A job that was assigned to a worker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct AssignedJob {
    pub(super) handle: Bytes,
    pub(super) function: Bytes,
    pub(super) unique: Bytes,
    pub(super) workload: Bytes,
}

/// A packet that a server does not send to a client, or with an invalid body.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid answer: packet of type {0}")]
pub(super) struct BadAnswer(u32);

impl Answer {
    /// Decodes a packet.
    pub(super) fn parse(packet: &Packet) -> Result<Self, BadAnswer> {
        let bad = BadAnswer(packet.number);
        if packet.magic != Magic::Response {
            return Err(bad);
        }
        match packet.packet_type().ok_or(bad)? {
            PacketType::Noop => Ok(Self::Noop),
            PacketType::NoJob => Ok(Self::NoJob),
            PacketType::OptionRes => Ok(Self::OptionRes),
            PacketType::EchoRes => Ok(Self::EchoRes),
            PacketType::JobCreated => Ok(Self::JobCreated(packet.body.clone())),
            PacketType::JobAssign => {
                let [handle, function, workload] = arguments(packet).ok_or(bad)?;
                Ok(Self::JobAssign(AssignedJob { handle, function, unique: Bytes::new(), workload }))
            }
            PacketType::JobAssignUniq => {
                let [handle, function, unique, workload] = arguments(packet).ok_or(bad)?;
                Ok(Self::JobAssign(AssignedJob { handle, function, unique, workload }))
            }
            PacketType::JobAssignAll => {
                let [handle, function, unique, _reducer, workload] = arguments(packet).ok_or(bad)?;
                Ok(Self::JobAssign(AssignedJob { handle, function, unique, workload }))
            }
            PacketType::Error => {
                let [code, text] = arguments(packet).ok_or(bad)?;
                Ok(Self::Error { code: said(&code), text: said(&text) })
            }
            packet_type => Self::parse_work(packet_type, packet).ok_or(bad),
        }
    }

    fn parse_work(packet_type: PacketType, packet: &Packet) -> Option<Self> {
        let (handle, event) = match packet_type {
            PacketType::WorkFail => {
                // C++ gearmand ends the handle with a NUL when it turns an exception into a failure.
                let length = packet.body.iter().position(|byte| *byte == 0).unwrap_or(packet.body.len());
                (packet.body.slice(..length), WorkEvent::Fail)
            }
            PacketType::WorkStatus => {
                let [handle, numerator, denominator] = arguments(packet)?;
                (handle, WorkEvent::Status(numerator, denominator))
            }
            PacketType::WorkData => with_payload(packet, WorkEvent::Data)?,
            PacketType::WorkWarning => with_payload(packet, WorkEvent::Warning)?,
            PacketType::WorkComplete => with_payload(packet, WorkEvent::Complete)?,
            PacketType::WorkException => with_payload(packet, WorkEvent::Exception)?,
            _ => return None,
        };
        Some(Self::Work { handle, event })
    }
}

/// Formats a server's text for people: one line of limited length.
fn said(bytes: &[u8]) -> String {
    cut(&printable(&String::from_utf8_lossy(bytes.get(..SAID_MAX).unwrap_or(bytes))), SAID_MAX)
}

fn with_payload(packet: &Packet, event: fn(Bytes) -> WorkEvent) -> Option<(Bytes, WorkEvent)> {
    let [handle, payload] = arguments(packet)?;
    Some((handle, event(payload)))
}

fn arguments<const COUNT: usize>(packet: &Packet) -> Option<[Bytes; COUNT]> {
    let arguments = packet.arguments::<COUNT>()?;
    Some(arguments.map(|argument| packet.body.slice_ref(argument)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(packet_type: PacketType, body: &'static [u8]) -> Result<Answer, BadAnswer> {
        let number = packet_type.number();
        Answer::parse(&Packet { magic: Magic::Response, number, body: Bytes::from_static(body) })
    }

    #[test]
    fn jobs_are_read_whichever_grab_they_answer() {
        let job = |unique: &'static [u8]| {
            Ok(Answer::JobAssign(AssignedJob {
                handle: Bytes::from_static(b"H:1"),
                function: Bytes::from_static(b"f"),
                unique: Bytes::from_static(unique),
                workload: Bytes::from_static(b"a\0b"),
            }))
        };
        assert_eq!(parsed(PacketType::JobAssign, b"H:1\0f\0a\0b"), job(b""));
        assert_eq!(parsed(PacketType::JobAssignUniq, b"H:1\0f\0u\0a\0b"), job(b"u"));
        assert_eq!(parsed(PacketType::JobAssignAll, b"H:1\0f\0u\0r\0a\0b"), job(b"u"));
    }

    #[test]
    fn a_failure_with_a_trailing_nul_is_that_of_the_handle() {
        let fail = Ok(Answer::Work { handle: Bytes::from_static(b"H:1"), event: WorkEvent::Fail });
        assert_eq!(parsed(PacketType::WorkFail, b"H:1"), fail);
        assert_eq!(parsed(PacketType::WorkFail, b"H:1\0"), fail);
    }

    #[test]
    fn an_error_is_one_short_line() {
        let Ok(Answer::Error { code, text }) = parsed(PacketType::Error, b"A\nB\0no\x1b[2J\xe2\x80\xae") else {
            panic!("no error");
        };
        assert_eq!((code.as_str(), text.as_str()), ("A\\x0aB", "no\\x1b[2J\\xe2\\x80\\xae"));
        let long: &'static [u8] = Box::leak([&b"A\0"[..], &vec![b'x'; 100_000]].concat().into_boxed_slice());
        assert!(matches!(parsed(PacketType::Error, long), Ok(Answer::Error { text, .. }) if text.len() <= SAID_MAX));
    }

    #[test]
    fn what_is_no_answer_is_refused() {
        assert_eq!(parsed(PacketType::WorkStatus, b"H:1\x001"), Err(BadAnswer(12)));
        assert_eq!(parsed(PacketType::CanDo, b"f"), Err(BadAnswer(1)));
        assert_eq!(Answer::parse(&Packet::request(PacketType::Noop, &[])), Err(BadAnswer(6)));
    }
}
