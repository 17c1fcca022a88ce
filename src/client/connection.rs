//! A connection to a server: requests out, answers in, by one task and without ever waiting for the one alone.

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

/// The largest packet that is taken from a server, in bytes. Memory grows with what arrives, not with what is announced.
pub(super) const PACKET_MAX: usize = 1 << 30;
/// As much of a packet that is passed over is looked at, in bytes: a handle fits in.
const BEGINNING: usize = 256;
/// No line of text is expected among packets; this is enough to see that one came.
const LINE_MAX: usize = 8192;
/// So much of it is said, in bytes.
const LINE_SHOWN: usize = 200;
/// Room for a read, in bytes.
const READ_SIZE: usize = 64 * 1024;

/// A host that has vanished without a word is noticed after a minute of silence and four unanswered questions.
const KEEPALIVE: TcpKeepalive =
    TcpKeepalive::new().with_time(Duration::from_mins(1)).with_interval(Duration::from_secs(15)).with_retries(4);
/// A server that says nothing for half of this time is asked whether it is there, and given up at its end. A stopped or hung
/// process keeps its connections, so that no probe of the system's finds it.
pub(super) const SILENCE: Duration = Duration::from_mins(2);
/// While something is sent, no more than this is read ahead, in bytes.
const AHEAD_MAX: usize = 64 << 20;
/// What was sent must be acknowledged within this time.
const USER_TIMEOUT: Duration = Duration::from_mins(1);

/// Why a connection is of no more use.
#[derive(Debug, thiserror::Error)]
pub(super) enum ConnectionError {
    /// It could not be made in time.
    #[error("no connection within {0:?}")]
    Timeout(Duration),
    /// It failed, or what came makes no sense.
    #[error(transparent)]
    Codec(#[from] CodecError),
    /// It failed.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// A packet that no server sends.
    #[error(transparent)]
    Answer(#[from] BadAnswer),
    /// A line of text where packets are spoken.
    #[error("the server sent text: {0}")]
    Text(String),
    /// Given up, because the command of a job could not be run.
    #[error("a job was given back, its command cannot be run: {0}")]
    Command(std::io::Error),
    /// The server closed it.
    #[error("the server closed the connection")]
    Closed,
    /// It does not even answer the question whether it is there.
    #[error("the server is silent: nothing came for {} s, not even the answer to an ECHO_REQ", .0.as_secs_f64())]
    Silent(Duration),
    /// It talks, and does not read.
    #[error("the server sends without end and reads nothing")]
    Flood,
    /// A job without a GRAB_JOB. It is not done.
    #[error("the server assigned a job of {0} that it was not asked for; it was not run")]
    Unasked(String),
    /// A job of a function that was not registered. It is not done.
    #[error("the server assigned a job of {0}, which is not registered there; it was not run")]
    Foreign(String),
}

/// Both directions of a stream to a server.
pub(super) type Stream = (Box<dyn AsyncRead + Send + Unpin>, Box<dyn AsyncWrite + Send + Unpin>);

/// Connects, trying all addresses that a host name has.
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

/// Connects to the first server that can be reached.
///
/// # Errors
/// [`ToolError::Unreachable`] says of each server why not.
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

/// A connection that speaks packets.
///
/// Requests are queued and leave while answers are awaited, so that neither side ever waits for the other to read.
pub(super) struct Connection {
    reader: Box<dyn AsyncRead + Send + Unpin>,
    writer: Box<dyn AsyncWrite + Send + Unpin>,
    codec: PacketCodec,
    received: BytesMut,
    unsent: BytesMut,
    /// Of a packet that is passed over: how many bytes are still to come.
    passed_over: usize,
    /// How long the server may be silent.
    silence: Duration,
    /// When something came from it last.
    heard: Instant,
    /// Since when it has owed the answer to the question whether it is there.
    asked: Option<Instant>,
    /// How many answers to that question are still to come.
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

    /// The same, to a server that may be silent for so long.
    pub(super) fn with_silence(stream: Stream, silence: Duration) -> Self {
        Self { silence, ..Self::new(stream) }
    }

    /// The beginning of a packet that is longer than `most` bytes, if one comes now; the rest of it is passed over, so that
    /// it takes no memory. To be asked before [`try_receive`](Self::try_receive), which takes packets of any length.
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
    /// When the arguments are longer than a packet can be.
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

    /// How many bytes are queued.
    pub(super) fn unsent(&self) -> usize {
        self.unsent.len()
    }

    /// An answer that has been read already.
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

    /// The next answer; meanwhile what is queued is sent. Nothing is lost when this is dropped before it is done.
    pub(super) async fn receive(&mut self) -> Result<Answer, ConnectionError> {
        loop {
            if let Some(answer) = self.try_receive()? {
                return Ok(answer);
            }
            self.turn().await?;
        }
    }

    /// Sends a part of what is queued or reads a part of what comes, whichever is possible first; nothing is lost when
    /// this is dropped before it is done.
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
            // Nobody may have looked for long: what is there is read before anybody is given up.
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

    /// Sends all that is queued.
    pub(super) async fn flush(&mut self) -> Result<(), ConnectionError> {
        self.flush_to(0).await
    }

    /// Sends until no more than so many bytes are queued. What comes meanwhile is kept, as far as that is not endless.
    pub(super) async fn flush_to(&mut self, most: usize) -> Result<(), ConnectionError> {
        while self.unsent.len() > most {
            if self.received.len() > AHEAD_MAX {
                return Err(ConnectionError::Flood);
            }
            self.turn().await?;
        }
        Ok(())
    }

    /// Sends all that is queued and waits until the server has worked through it.
    ///
    /// A connection that is closed with unread answers is reset, and what the server had not yet read is lost then.
    pub(super) async fn settle(&mut self) -> Result<(), ConnectionError> {
        self.request(PacketType::EchoReq, &[b"done"])?;
        while self.receive().await? != Answer::EchoRes {}
        Ok(())
    }
}
