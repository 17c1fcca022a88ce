//! Connection to a server: one task writes requests and reads responses concurrently.

use std::time::{Duration, Instant};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio_util::codec::Decoder;

use super::ToolError;
use super::address::ServerAddress;
use super::answer::{Answer, BadAnswer};
use crate::protocol::packet::{CodecError, Frame, FrameLimits, HEADER_SIZE, Header, Magic, PacketCodec, PacketType};

/// Largest packet that is accepted from a server, in bytes. Memory grows with the bytes received, not with
/// the announced length.
pub(super) const PACKET_MAX: usize = 1 << 30;
/// How much of a skipped packet is inspected, in bytes: enough for a handle.
const BEGINNING: usize = 256;
/// Line limit of the packet codec, in bytes. No text is expected between packets; this suffices to detect it.
const LINE_MAX: usize = 8192;
/// How much of such a line is shown, in bytes.
const LINE_SHOWN: usize = 200;
/// Buffer space reserved for a read, in bytes.
const READ_SIZE: usize = 64 * 1024;

/// TCP keepalive: a vanished host is detected after a minute of silence and four unanswered probes.
const KEEPALIVE: TcpKeepalive =
    TcpKeepalive::new().with_time(Duration::from_mins(1)).with_interval(Duration::from_secs(15)).with_retries(4);
/// A server that sends nothing for half of this time gets an ECHO_REQ; after the full time the connection is
/// given up. A stopped or hung process keeps its connections open, so TCP keepalive does not detect it.
pub(super) const SILENCE: Duration = Duration::from_mins(2);
/// Limit of the data that is read ahead while something is being sent, in bytes.
const AHEAD_MAX: usize = 64 << 20;
/// TCP user timeout: sent data must be acknowledged within this time.
const USER_TIMEOUT: Duration = Duration::from_mins(1);

/// Why a connection is no longer usable.
#[derive(Debug, thiserror::Error)]
pub(super) enum ConnectionError {
    /// Not established in time.
    #[error("no connection within {0:?}")]
    Timeout(Duration),
    /// An I/O error, or invalid data was received.
    #[error(transparent)]
    Codec(#[from] CodecError),
    /// An I/O error.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// A packet that no server sends.
    #[error(transparent)]
    Answer(#[from] BadAnswer),
    /// A line of text where a packet was expected.
    #[error("the server sent text: {0}")]
    Text(String),
    /// Closed by the worker, because the command of a job could not be started.
    #[error("job returned to the server, cannot run its command: {0}")]
    Command(std::io::Error),
    /// Closed by the server.
    #[error("the server closed the connection")]
    Closed,
    /// The server did not even answer an ECHO_REQ.
    #[error("the server is silent: no data for {} s, not even the answer to an ECHO_REQ", .0.as_secs_f64())]
    Silent(Duration),
    /// The server sends without reading.
    #[error("the server keeps sending and reads nothing")]
    Flood,
    /// A job that was assigned without a GRAB_JOB. It is not run.
    #[error("the server assigned a job of {0} that was not requested; it was not run")]
    Unasked(String),
    /// A job of a function that was not registered. It is not run.
    #[error("the server assigned a job of {0}, which is not registered there; it was not run")]
    Foreign(String),
}

/// Both directions of a stream to a server.
pub(super) type Stream = (Box<dyn AsyncRead + Send + Unpin>, Box<dyn AsyncWrite + Send + Unpin>);

/// Connects, trying all addresses of the host name.
pub(super) async fn open(address: &ServerAddress, limit: Duration) -> Result<Stream, ConnectionError> {
    let connecting = async {
        match address {
            ServerAddress::Tcp { host, port } => {
                let stream = TcpStream::connect((host.as_str(), *port)).await?;
                stream.set_nodelay(true)?;
                let socket = SockRef::from(&stream);
                socket.set_tcp_keepalive(&KEEPALIVE)?;
                socket.set_tcp_user_timeout(Some(USER_TIMEOUT))?;
                let (reader, writer) = stream.into_split();
                Ok::<Stream, ConnectionError>((Box::new(reader) as _, Box::new(writer) as _))
            }
            ServerAddress::Unix(path) => {
                let (reader, writer) = UnixStream::connect(path).await?.into_split();
                Ok((Box::new(reader) as _, Box::new(writer) as _))
            }
        }
    };
    tokio::time::timeout(limit, connecting).await.map_err(|_| ConnectionError::Timeout(limit))?
}

/// Connects to the first reachable server.
///
/// # Errors
/// [`ToolError::Unreachable`] gives the reason for each server.
pub(super) async fn open_first(
    servers: &[ServerAddress],
    limit: Duration,
) -> Result<(&ServerAddress, Stream), ToolError> {
    let mut reasons = Vec::new();
    for address in servers {
        match open(address, limit).await {
            Ok(stream) => return Ok((address, stream)),
            Err(error) => reasons.push(format!("cannot connect to {address}: {error}")),
        }
    }
    Err(ToolError::Unreachable(reasons.join("; ")))
}

/// A connection that exchanges packets.
///
/// Requests are queued and sent while responses are awaited, so that neither side waits for the other to
/// read.
pub(super) struct Connection {
    reader: Box<dyn AsyncRead + Send + Unpin>,
    writer: Box<dyn AsyncWrite + Send + Unpin>,
    codec: PacketCodec,
    received: BytesMut,
    unsent: BytesMut,
    /// Bytes of a skipped packet that are still to be received.
    passed_over: usize,
    /// How long the server may be silent.
    silence: Duration,
    /// When data was received last.
    heard: Instant,
    /// Since when a liveness ECHO_REQ has been unanswered.
    asked: Option<Instant>,
    /// How many responses to such requests are outstanding.
    echoes: usize,
}

impl Connection {
    pub(super) fn new((reader, writer): Stream) -> Self {
        Self {
            reader,
            writer,
            codec: PacketCodec { limits: FrameLimits { packet: PACKET_MAX, line: LINE_MAX } },
            received: BytesMut::new(),
            unsent: BytesMut::new(),
            passed_over: 0,
            silence: SILENCE,
            heard: Instant::now(),
            asked: None,
            echoes: 0,
        }
    }

    /// Like [`new`](Self::new), with this limit on the server's silence.
    pub(super) fn with_silence(stream: Stream, silence: Duration) -> Self {
        Self { silence, ..Self::new(stream) }
    }

    /// If the next packet is longer than `most` bytes, returns its beginning and skips the rest, so that it
    /// takes no memory. Call it before [`try_receive`](Self::try_receive), which accepts packets of any
    /// length.
    pub(super) fn try_pass_over(&mut self, most: usize) -> Option<Bytes> {
        let skip = self.passed_over.min(self.received.len());
        self.received.advance(skip);
        self.passed_over -= skip;
        let header = Header::parse(self.received.first_chunk::<HEADER_SIZE>()?).ok()?;
        let size = header.packet_size();
        let is_begun = self.received.len() >= size.min(HEADER_SIZE + BEGINNING);
        if size <= most || !is_begun {
            return None;
        }
        let mut beginning = self.received.split_to(size.min(HEADER_SIZE + BEGINNING));
        beginning.advance(HEADER_SIZE);
        self.passed_over = size - HEADER_SIZE - beginning.len();
        Some(beginning.freeze())
    }

    /// Queues a request. The last argument may be the workload.
    ///
    /// # Errors
    /// When the arguments exceed the packet size limit.
    pub(super) fn request(&mut self, packet_type: PacketType, arguments: &[&[u8]]) -> Result<(), CodecError> {
        let size = arguments.iter().map(|argument| argument.len()).sum::<usize>() + arguments.len().saturating_sub(1);
        let length = u32::try_from(size).map_err(|_| CodecError::TooLarge(size))?;
        let header = Header { magic: Magic::Request, number: packet_type.number(), length };
        self.unsent.reserve(HEADER_SIZE + size);
        self.unsent.put_slice(&header.to_bytes());
        for (index, argument) in arguments.iter().enumerate() {
            if index > 0 {
                self.unsent.put_u8(0);
            }
            self.unsent.put_slice(argument);
        }
        Ok(())
    }

    /// Number of queued bytes.
    pub(super) fn unsent(&self) -> usize {
        self.unsent.len()
    }

    /// Returns a response that has already been read.
    pub(super) fn try_receive(&mut self) -> Result<Option<Answer>, ConnectionError> {
        if self.passed_over > 0 {
            return Ok(None);
        }
        loop {
            match self.codec.decode(&mut self.received)? {
                None => return Ok(None),
                Some(Frame::Packet(packet)) => match Answer::parse(&packet)? {
                    Answer::EchoRes if self.echoes > 0 => self.echoes -= 1,
                    answer => return Ok(Some(answer)),
                },
                Some(Frame::Line(line)) => {
                    let shown = line.get(..LINE_SHOWN).unwrap_or(&line);
                    return Err(ConnectionError::Text(shown.escape_ascii().to_string()));
                }
            }
        }
    }

    /// Waits for the next response and sends queued requests meanwhile. Cancel safe: dropping the future
    /// loses nothing.
    pub(super) async fn receive(&mut self) -> Result<Answer, ConnectionError> {
        loop {
            if let Some(answer) = self.try_receive()? {
                return Ok(answer);
            }
            self.turn().await?;
        }
    }

    /// Sends a part of the queue or reads a part of the input, whichever is possible first. Cancel safe:
    /// dropping the future loses nothing.
    pub(super) async fn turn(&mut self) -> Result<(), ConnectionError> {
        if self.received.capacity() - self.received.len() < READ_SIZE / 4 {
            self.received.reserve(READ_SIZE);
        }
        let due = self.asked.unwrap_or(self.heard) + self.silence / 2;
        tokio::select! {
            read = self.reader.read_buf(&mut self.received) => {
                if read? == 0 {
                    return Err(ConnectionError::Closed);
                }
                (self.heard, self.asked) = (Instant::now(), None);
                Ok(())
            }
            written = self.writer.write_buf(&mut self.unsent), if !self.unsent.is_empty() => match written? {
                0 => Err(ConnectionError::Closed),
                _ => Ok(()),
            },
            // The caller may not have polled for a long time: available data is read before the server is
            // given up.
            () = tokio::time::sleep_until(due.into()) => {
                if self.asked.is_some() {
                    return Err(ConnectionError::Silent(self.silence));
                }
                self.asked = Some(Instant::now());
                self.echoes += 1;
                Ok(self.request(PacketType::EchoReq, &[b"there?"])?)
            }
        }
    }

    /// Sends everything that is queued.
    pub(super) async fn flush(&mut self) -> Result<(), ConnectionError> {
        self.flush_to(0).await
    }

    /// Sends until at most `most` bytes are queued. Data received meanwhile is buffered, up to a limit.
    pub(super) async fn flush_to(&mut self, most: usize) -> Result<(), ConnectionError> {
        while self.unsent.len() > most {
            if self.received.len() > AHEAD_MAX {
                return Err(ConnectionError::Flood);
            }
            self.turn().await?;
        }
        Ok(())
    }

    /// Sends everything that is queued and waits until the server has processed it.
    ///
    /// Closing a connection with unread responses resets it; requests that the server has not read yet would
    /// then be lost.
    pub(super) async fn settle(&mut self) -> Result<(), ConnectionError> {
        self.request(PacketType::EchoReq, &[b"done"])?;
        while self.receive().await? != Answer::EchoRes {}
        Ok(())
    }
}
