//! A client connection to the job server, inside the process, that a request uses to submit a job.

use std::io;
use std::os::unix::net::UnixStream as StdStream;

use bytes::{BufMut as _, Bytes, BytesMut};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio_util::codec::Decoder as _;

use super::Interface;
use super::budget::Share;
use crate::protocol::packet::{Frame, FrameLimits, HEADER_SIZE, Header, Magic, Packet, PacketCodec, PacketType};
use crate::protocol::request::leading_count;

/// Maximum size of a packet without its workload, in bytes.
const BESIDE: usize = 8 * 1024;
/// Read size, in bytes.
const READ: usize = 16 * 1024;

/// A packet that concerns the client's job.
#[derive(Debug)]
pub(super) enum JobEvent {
    Created(Bytes),
    Data(Bytes),
    Warning(Bytes),
    Status {
        numerator: u64,
        denominator: u64,
    },
    Complete(Bytes),
    Fail,
    Exception(Bytes),
    /// The server rejects the job: code and text.
    Refused(String, String),
    /// The server closed the connection.
    Ended,
}

/// The connection. Dropping it tells the server that the client of the job is gone.
pub(super) struct JobConnection {
    stream: UnixStream,
    codec: PacketCodec,
    received: BytesMut,
    /// Memory charged for the packet being received, and for the last one until its share is taken.
    share: Share,
}

/// Opens a connection to the job server, with `peer` as its address.
///
/// # Errors
/// No file descriptor is left.
pub(super) fn connect(interface: &Interface, peer: String) -> io::Result<UnixStream> {
    let (own, other) = StdStream::pair()?;
    own.set_nonblocking(true)?;
    other.set_nonblocking(true)?;
    (interface.parts.connect)(other, peer);
    UnixStream::from_std(own)
}

impl JobConnection {
    /// Opens a new connection with this peer address.
    ///
    /// # Errors
    /// No file descriptor is left.
    pub(super) fn open(interface: &Interface, peer: String) -> io::Result<Self> {
        let stream = connect(interface, peer)?;
        let packet = interface.settings.max_packet_size + BESIDE;
        let codec = PacketCodec { limits: FrameLimits { packet, line: BESIDE } };
        Ok(Self { stream, codec, received: BytesMut::new(), share: Share::new(interface) })
    }

    /// Sends a request.
    pub(super) async fn send(
        &mut self,
        packet_type: PacketType,
        arguments: &[&[u8]],
        workload: &[u8],
    ) -> io::Result<()> {
        let names: usize = arguments.iter().map(|argument| argument.len() + 1).sum();
        let length = u32::try_from(names + workload.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
        let header = Header { magic: Magic::Request, number: packet_type.number(), length };
        let mut head = Vec::with_capacity(HEADER_SIZE + names);
        head.put_slice(&header.to_bytes());
        for argument in arguments {
            head.put_slice(argument);
            head.put_u8(0);
        }
        self.stream.write_all(&head).await?;
        self.stream.write_all(workload).await
    }

    /// Takes the share charged for the last event.
    pub(super) fn take_share(&mut self) -> Share {
        self.share.take()
    }

    /// The next event. Cancel safe.
    ///
    /// # Errors
    /// A connection error, or out of memory if the budget for a large packet stays exhausted.
    pub(super) async fn next(&mut self) -> io::Result<JobEvent> {
        loop {
            while let Some(frame) = self.codec.decode(&mut self.received).map_err(io::Error::other)? {
                if let Frame::Packet(packet) = frame
                    && let Some(event) = event(&packet)
                {
                    return Ok(event);
                }
            }
            if self.received.is_empty() {
                // The last event was passed on.
                drop(self.share.take());
            }
            if let Some(head) = self.received.first_chunk::<HEADER_SIZE>()
                && let Ok(header) = Header::parse(head)
            {
                self.share.await_hold(header.packet_size()).await?;
            }
            self.received.reserve(READ);
            if self.stream.read_buf(&mut self.received).await? == 0 {
                return Ok(JobEvent::Ended);
            }
        }
    }
}

/// The event of a packet; `None` if the packet does not concern a job.
fn event(packet: &Packet) -> Option<JobEvent> {
    let payload = || {
        let [_handle, payload] = packet.arguments::<2>()?;
        Some(packet.body.slice_ref(payload))
    };
    match packet.packet_type()? {
        PacketType::JobCreated => Some(JobEvent::Created(packet.body.clone())),
        PacketType::WorkData => Some(JobEvent::Data(payload()?)),
        PacketType::WorkWarning => Some(JobEvent::Warning(payload()?)),
        PacketType::WorkComplete => Some(JobEvent::Complete(payload()?)),
        PacketType::WorkException => Some(JobEvent::Exception(payload()?)),
        PacketType::WorkFail => Some(JobEvent::Fail),
        PacketType::WorkStatus => {
            let [_handle, numerator, denominator] = packet.arguments::<3>()?;
            Some(JobEvent::Status { numerator: leading_count(numerator), denominator: leading_count(denominator) })
        }
        PacketType::Error => {
            let [code, text] = packet.arguments::<2>()?;
            let text_of = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            Some(JobEvent::Refused(text_of(code), text_of(text)))
        }
        _ => None,
    }
}
