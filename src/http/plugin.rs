//! gearmand's HTTP protocol plugin (`--protocol http`): one request a connection, which submits one job.
//!
//! Each request is translated by a task between two sockets: the peer's, and one end of a socket pair, whose
//! other end the job server serves like any connection. So limits, listings and the handling of disconnected
//! clients are the same. The workload is streamed, and buffered only by the job server.
//!
//! Behavior of the original plugin that does harm is changed: no body is sent in a response to HEAD, data is
//! put before the result, progress and warnings are ignored, and a pipelined second request is not run
//! silently.

mod request;
mod response;

use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::ReadHalf;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::codec::Decoder;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, info};

use self::request::{HEAD_MAX, Job, Refusal, Request, Status};
use self::response::Answer;
use super::budget::{Budget, Share, append};
use crate::net::connection::Limits;
use crate::net::listener::{AcceptSettings, Accepted, Listener};
use crate::net::pressure::{Pressure, Registered};
use crate::process::socket::unacknowledged;
use crate::protocol::packet::{
    CodecError, Frame, FrameLimits, HEADER_SIZE, Header, Magic, Packet, PacketCodec, PacketType, split_arguments,
};
use crate::stats::account::{Amount, Part};

/// Timeout for the head of a request, and for each [`LEAST_PROGRESS`] of its workload, if the settings allow
/// a connection to be idle forever. A silent connection is useless here, since it serves one request only.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
/// Minimum number of bytes that a peer must send or read within its timeout. A slower peer would tie up the
/// server's memory.
const LEAST_PROGRESS: usize = 16 * 1024;
/// Memory of a peer in bytes, in addition to its connection to the job server and its result.
const CONNECTION: usize = 12 * 1024;
/// Maximum size of a workload chunk, in bytes.
const PIECE: usize = 64 * 1024;
/// Maximum number of bytes after a request. They are dropped.
const EXCESS_MAX: usize = 64 * 1024;
/// How long to wait for a peer that is still sending to read its response. Closing at once would reset the
/// connection and lose the response.
const LINGER: Duration = Duration::from_secs(2);

/// Accepts HTTP peers, and hands out binary protocol connections for them.
#[derive(Debug)]
pub struct PluginListener {
    listener: TcpListener,
    tasks: TaskTracker,
    /// Budget for results while they are collected and written.
    budget: Budget,
    pressure: Arc<Pressure>,
}

impl PluginListener {
    /// Translates connections accepted from `listener`, in tasks of `tasks`.
    pub const fn new(listener: TcpListener, tasks: TaskTracker, budget: Budget, pressure: Arc<Pressure>) -> Self {
        Self { listener, tasks, budget, pressure }
    }
}

impl Listener for PluginListener {
    type Stream = UnixStream;

    async fn accept_one(&self, settings: &AcceptSettings) -> io::Result<Accepted<UnixStream>> {
        let Accepted { stream: peer, peer: address } = self.listener.accept_one(settings).await?;
        let (stream, server) = UnixStream::pair()?;
        let (limits, name) = (settings.limits, address.clone());
        let (from_server, to_server) = server.into_split();
        let packets = Packets::new(from_server, &limits, &self.budget);
        let cancel = CancellationToken::new();
        let holder = self.pressure.add_task(format!("{name} (HTTP)"), cancel.clone());
        let mut amount = Amount::new(Arc::clone(self.pressure.account()), Part::Http);
        self.tasks.spawn(async move {
            amount.set(CONNECTION);
            let result = cancel.run_until_cancelled(serve(peer, packets, to_server, &limits, &holder)).await;
            match result.unwrap_or(Err(Unanswered::OutOfMemory)) {
                Ok(()) => debug!("answered an HTTP request of {name}"),
                Err(Unanswered::SlowReader) => info!("Closed {name}: slow reader over HTTP"),
                Err(error) => debug!("no answer to {name} over HTTP: {error}"),
            }
        });
        Ok(Accepted { stream, peer: address })
    }
}

/// Why a peer gets no response.
#[derive(Debug, thiserror::Error)]
enum Unanswered {
    #[error("unsupported request")]
    NoRequest,
    #[error("timeout while reading the request")]
    TooSlow,
    #[error("disconnected, or sent unexpected data")]
    Gone,
    #[error("the job server closed its connection")]
    Closed,
    #[error("slow reader")]
    SlowReader,
    #[error("slow reader, and memory is short")]
    OutOfMemory,
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Serves one request. The job server's side stays open until the response is written, so that the connection
/// counts.
async fn serve(
    mut peer: TcpStream,
    mut packets: Packets,
    mut to_server: OwnedWriteHalf,
    limits: &Limits,
    holder: &Registered,
) -> Result<(), Unanswered> {
    let mut received = BytesMut::new();
    let patience = limits.first_byte_timeout.unwrap_or(REQUEST_TIMEOUT);
    let request = tokio::select! {
        request = timeout(patience, read_head(&mut peer, &mut received)) => request.map_err(|_| Unanswered::TooSlow)??,
        // The job server sends something first only if it has too many connections, or stops.
        _ = packets.next() => return Err(Unanswered::Closed),
    };
    let request = match request.and_then(|request| check_size(request, limits)) {
        Ok(request) => request,
        Err(Refusal::Silent) => return Err(Unanswered::NoRequest),
        Err(Refusal::Status(version, status)) => {
            write(&mut peer, response::refused(version, status).into(), limits.patience.reading).await?;
            return finish(peer, true).await;
        }
    };
    let Some(job) = &request.job else {
        write(&mut peer, response::alive(request.version).into(), limits.patience.reading).await?;
        return finish(peer, !received.is_empty()).await;
    };
    if request.waits_for_continue && received.is_empty() {
        write(&mut peer, Bytes::from_static(response::CONTINUE), limits.patience.reading).await?;
    }
    to_server.write_all(&submission(job, request.length)).await?;
    let mut upload = Upload { received, missing: request.length, excess: 0 };
    let answer = tokio::select! {
        answer = packets.answer(job.is_background, limits.frames.packet) => answer?,
        end = upload.run(peer.split().0, to_server, patience) => return Err(end),
    };
    let is_sending = upload.missing > 0 || upload.excess > 0;
    match answer {
        Ok(answer) => {
            write(&mut peer, response::answered(&request, &answer).into(), limits.patience.reading).await?;
            if !request.is_head {
                let payload = answer.payload;
                holder.set_held(payload.len());
                write_counted(&mut peer, payload, limits.patience.reading, |size| holder.wrote(size)).await?;
            }
        }
        Err(status) => {
            write(&mut peer, response::refused(request.version, status).into(), limits.patience.reading).await?;
        }
    }
    finish(peer, is_sending).await
}

/// Reads the complete head. The part of the body that arrived with it stays in `received`.
async fn read_head(peer: &mut TcpStream, received: &mut BytesMut) -> Result<Result<Request, Refusal>, Unanswered> {
    let mut piece = [0; 1024];
    loop {
        let room = (HEAD_MAX - received.len()).min(piece.len());
        let size = peer.read(&mut piece[..room]).await?;
        if size == 0 {
            return Err(Unanswered::Gone);
        }
        received.extend_from_slice(&piece[..size]);
        match request::parse(received) {
            Ok(Some((request, size))) => {
                received.advance(size);
                return Ok(Ok(request));
            }
            Ok(None) if received.len() == HEAD_MAX => return Ok(Err(Refusal::Silent)),
            Ok(None) => {}
            Err(refusal) => return Ok(Err(refusal)),
        }
    }
}

/// Rejects a workload that exceeds the job server's packet limit.
fn check_size(request: Request, limits: &Limits) -> Result<Request, Refusal> {
    let arguments = request.job.as_ref().map_or(0, arguments_size);
    let size = request.length.saturating_add(arguments).saturating_add(HEADER_SIZE);
    if size > limits.frames.packet || u32::try_from(size).is_err() {
        return Err(Refusal::Status(request.version, Status::ContentTooLarge));
    }
    Ok(request)
}

/// Size of the arguments before the workload in a packet, in bytes.
fn arguments_size(job: &Job) -> usize {
    job.function.len() + 1 + job.unique.len() + 1
}

/// The packet that submits a job, without its workload.
fn submission(job: &Job, length: usize) -> Vec<u8> {
    // Checked before against the packet limit.
    let length = u32::try_from(arguments_size(job) + length).unwrap_or(u32::MAX);
    let header = Header { magic: Magic::Request, number: job.submission.number(), length };
    [&header.to_bytes()[..], &job.function, b"\0", &job.unique, b"\0"].concat()
}

/// The rest of a request.
struct Upload {
    /// Bytes that arrived with the head.
    received: BytesMut,
    /// Bytes of the workload that are not forwarded yet.
    missing: usize,
    /// Bytes received after the workload.
    excess: usize,
}

impl Upload {
    /// Forwards the workload, then watches the peer. Returns only when the peer can no longer be answered.
    async fn run(&mut self, mut peer: ReadHalf<'_>, mut to_server: OwnedWriteHalf, patience: Duration) -> Unanswered {
        if let Err(end) = self.hand_on(&mut peer, &mut to_server, patience).await {
            return end;
        }
        let mut piece = [0; 512];
        loop {
            match peer.read(&mut piece).await {
                // The job server handles the end of input: a foreground job is abandoned, but a handle is
                // still sent.
                Ok(0) => match to_server.shutdown().await {
                    Ok(()) => std::future::pending().await,
                    Err(error) => return error.into(),
                },
                Ok(size) => self.excess += size,
                Err(error) => return error.into(),
            }
            if self.excess > EXCESS_MAX {
                return Unanswered::Gone;
            }
        }
    }

    async fn hand_on(
        &mut self,
        peer: &mut ReadHalf<'_>,
        to_server: &mut OwnedWriteHalf,
        patience: Duration,
    ) -> Result<(), Unanswered> {
        let first = self.received.split_to(self.received.len().min(self.missing));
        self.excess = std::mem::take(&mut self.received).len();
        to_server.write_all(&first).await?;
        self.missing -= first.len();
        drop(first);
        let mut end = Instant::now() + patience;
        let mut progress = 0;
        while self.missing > 0 {
            timeout_at(end, peer.readable()).await.map_err(|_| Unanswered::TooSlow)??;
            // No buffer is allocated while the peer sends nothing.
            let mut piece = Vec::with_capacity(PIECE.min(self.missing)).limit(PIECE.min(self.missing));
            let size = match peer.try_read_buf(&mut piece) {
                Ok(0) => return Err(Unanswered::Gone),
                Ok(size) => size,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
                Err(error) => return Err(error.into()),
            };
            to_server.write_all(piece.get_ref()).await?;
            self.missing -= size;
            progress += size;
            if progress >= LEAST_PROGRESS {
                (progress, end) = (0, Instant::now() + patience);
            }
        }
        Ok(())
    }
}

/// The packets of the job server.
struct Packets {
    stream: OwnedReadHalf,
    codec: PacketCodec,
    received: BytesMut,
    /// The share for the largest packet.
    share: Share,
    /// The share for data that arrived before the result.
    data_share: Share,
}

impl Packets {
    fn new(stream: OwnedReadHalf, limits: &Limits, budget: &Budget) -> Self {
        // A line limit of 1: the job server sends text lines only to clients that sent one.
        let limits = FrameLimits { packet: limits.frames.packet, line: 1 };
        let (share, data_share) = (Share::of(budget), Share::of(budget));
        Self { stream, codec: PacketCodec { limits }, received: BytesMut::new(), share, data_share }
    }

    /// The next packet, or the status if there is no result. Cancel safe.
    async fn next(&mut self) -> Result<Result<Packet, Status>, Unanswered> {
        loop {
            match self.codec.decode(&mut self.received) {
                Ok(Some(Frame::Packet(packet))) => return Ok(Ok(packet)),
                Err(CodecError::TooLarge(_)) => return Ok(Err(Status::InternalServerError)),
                Ok(Some(Frame::Line(_))) | Err(_) => return Err(Unanswered::Closed),
                Ok(None) => {}
            }
            if let Some(head) = self.received.first_chunk::<HEADER_SIZE>()
                && let Ok(header) = Header::parse(head)
                && self.share.await_hold(header.packet_size()).await.is_err()
            {
                return Ok(Err(Status::ServiceUnavailable));
            }
            if self.stream.read_buf(&mut self.received).await? == 0 {
                return Err(Unanswered::Closed);
            }
        }
    }

    /// Waits for the end of the job, or for its handle if it is a background job. Data sent by the worker is
    /// part of the result, which is limited to `most` bytes.
    async fn answer(&mut self, is_background: bool, most: usize) -> Result<Result<Answer, Status>, Unanswered> {
        let mut data = Vec::new();
        loop {
            let packet = match self.next().await? {
                Ok(packet) => packet,
                Err(status) => return Ok(Err(status)),
            };
            let command = match packet.packet_type() {
                Some(PacketType::JobCreated) if is_background => "JOB_CREATED",
                Some(PacketType::WorkComplete) => "WORK_COMPLETE",
                Some(PacketType::WorkFail) => "WORK_FAIL",
                Some(PacketType::WorkException) => "WORK_EXCEPTION",
                Some(PacketType::Error) => "ERROR",
                Some(PacketType::WorkData) => {
                    let [_, piece] = packet.arguments().unwrap_or_default();
                    if let Err(status) = self.collect(&mut data, piece, most) {
                        return Ok(Err(status));
                    }
                    continue;
                }
                _ => continue,
            };
            let (handle, result) = cut(packet.body);
            let payload = match command {
                "WORK_COMPLETE" if data.is_empty() => result,
                "WORK_COMPLETE" => match self.collect(&mut data, &result, most) {
                    Ok(()) => data.into(),
                    Err(status) => return Ok(Err(status)),
                },
                "WORK_EXCEPTION" => result,
                // gearmand's response does not contain the text of an error: its code takes the place of the
                // handle.
                _ => Bytes::new(),
            };
            return Ok(Ok(Answer { handle, command, payload }));
        }
    }

    /// Appends a chunk to the data, up to `most` bytes.
    fn collect(&mut self, data: &mut Vec<u8>, piece: &[u8], most: usize) -> Result<(), Status> {
        let size = data.len() + piece.len();
        if size > most {
            return Err(Status::InternalServerError);
        }
        self.data_share.hold(size).map_err(|_| Status::ServiceUnavailable)?;
        append(data, piece, most);
        Ok(())
    }
}

/// Splits a packet's body into the first argument and the rest; a single argument is the whole body.
fn cut(body: Bytes) -> (Bytes, Bytes) {
    match split_arguments::<2>(&body) {
        Some([first, rest]) => (body.slice_ref(first), body.slice_ref(rest)),
        None => (body, Bytes::new()),
    }
}

/// Writes all bytes, to a peer that must read some of them within each `patience`.
async fn write(peer: &mut TcpStream, bytes: Bytes, patience: Option<Duration>) -> Result<(), Unanswered> {
    write_counted(peer, bytes, patience, |_| {}).await
}

/// The same, and calls `wrote` for each part that the kernel has accepted.
async fn write_counted(
    peer: &mut TcpStream,
    mut bytes: Bytes,
    patience: Option<Duration>,
    wrote: impl Fn(usize),
) -> Result<(), Unanswered> {
    while !bytes.is_empty() {
        let before = unacknowledged(peer.as_fd()).unwrap_or(0);
        let Some(patience) = patience else {
            wrote(peer.write_buf(&mut bytes).await?);
            continue;
        };
        if let Ok(written) = timeout(patience, peer.write_buf(&mut bytes)).await {
            wrote(written?);
            continue;
        }
        // The kernel signals writability only when there is much room. A slow peer may have read something
        // all the same.
        let taken = before.saturating_sub(unacknowledged(peer.as_fd()).unwrap_or(0));
        if taken < LEAST_PROGRESS {
            return Err(Unanswered::SlowReader);
        }
    }
    Ok(())
}

/// Closes the connection. If the peer is still sending, it first waits until the peer has read the response.
async fn finish(mut peer: TcpStream, is_sending: bool) -> Result<(), Unanswered> {
    peer.shutdown().await?;
    if is_sending {
        let mut piece = [0; 1024];
        let drain = async { while matches!(peer.read(&mut piece).await, Ok(1..)) {} };
        // A peer that sends for longer does not read.
        let _ = timeout(LINGER, drain).await;
    }
    Ok(())
}
