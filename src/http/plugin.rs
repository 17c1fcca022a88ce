//! gearmand's HTTP protocol plugin (`--protocol http`): one request a connection, which submits one job.
//!
//! Each request is translated, by a task between two sockets: the peer's, and one end of a pair whose other end the job
//! server serves like any connection. Limits, listings, and what happens to a job whose client has gone are the same
//! for it. The workload is handed on as it comes, and is kept by nobody but the job server.
//!
//! What gearmand's own plugin cannot do without harm is done otherwise: the body of a response to HEAD is not sent, data
//! is put before the result, progress and warnings are passed over, and a second request is not run in silence.

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

/// How long a peer may take for the head of its request, and for each [`LEAST_PROGRESS`] of its workload, where the
/// settings give a connection for ever. There is no use in one that has said nothing, since it is good for one request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
/// What a peer must send, or take, within its time, in bytes. Less is no way to talk, but one to hold the server's memory.
const LEAST_PROGRESS: usize = 16 * 1024;
/// What a peer weighs beside its connection to the job server and beside its result, in bytes.
const CONNECTION: usize = 12 * 1024;
/// How much of a workload is handed on at once, in bytes.
const PIECE: usize = 64 * 1024;
/// How much a peer may send behind its request, in bytes. It is dropped.
const EXCESS_MAX: usize = 64 * 1024;
/// How long a peer that still sends may take to see its answer. Closing at once would reset the connection, answer and all.
const LINGER: Duration = Duration::from_secs(2);

/// Accepts peers that speak HTTP, and hands out connections that speak packets for them.
#[derive(Debug)]
pub struct PluginListener {
    listener: TcpListener,
    tasks: TaskTracker,
    /// What results take together while they are collected and written.
    budget: Budget,
    pressure: Arc<Pressure>,
}

impl PluginListener {
    /// Translates what is accepted from `listener` by tasks within `tasks`.
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
                Err(Unanswered::SlowReader) => info!("Closed {name}: it does not read its answer over HTTP"),
                Err(error) => debug!("no answer to {name} over HTTP: {error}"),
            }
        });
        Ok(Accepted { stream, peer: address })
    }
}

/// Why a peer gets no answer.
#[derive(Debug, thiserror::Error)]
enum Unanswered {
    #[error("what it sent is no request that gearmand answers")]
    NoRequest,
    #[error("its request did not come in time")]
    TooSlow,
    #[error("it went away, or sent what nobody asked for")]
    Gone,
    #[error("the job server closed its connection")]
    Closed,
    #[error("it does not take its answer")]
    SlowReader,
    #[error("memory is short, and it takes its answer too slowly")]
    OutOfMemory,
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Serves one request. The job server's side stays open until the answer is written, so that the connection counts.
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
        // It speaks first only to say that there are too many connections, or to stop.
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

/// Reads until the head is whole; what came of the body stays in `received`.
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

/// Refuses a workload that the job server would skip.
fn check_size(request: Request, limits: &Limits) -> Result<Request, Refusal> {
    let arguments = request.job.as_ref().map_or(0, arguments_size);
    let size = request.length.saturating_add(arguments).saturating_add(HEADER_SIZE);
    if size > limits.frames.packet || u32::try_from(size).is_err() {
        return Err(Refusal::Status(request.version, Status::ContentTooLarge));
    }
    Ok(request)
}

/// The size of what stands before the workload in a packet's body, in bytes.
fn arguments_size(job: &Job) -> usize {
    job.function.len() + 1 + job.unique.len() + 1
}

/// The packet that submits a job, up to where its workload begins.
fn submission(job: &Job, length: usize) -> Vec<u8> {
    // Checked before: it is at most what a packet may have.
    let length = u32::try_from(arguments_size(job) + length).unwrap_or(u32::MAX);
    let header = Header { magic: Magic::Request, number: job.submission.number(), length };
    [&header.to_bytes()[..], &job.function, b"\0", &job.unique, b"\0"].concat()
}

/// What a peer still sends.
struct Upload {
    /// Came with the head.
    received: BytesMut,
    /// What is not handed on yet of the workload, in bytes.
    missing: usize,
    /// What came behind it, in bytes.
    excess: usize,
}

impl Upload {
    /// Hands on the workload, then watches the peer. Returns only when there is nobody to answer any more.
    async fn run(&mut self, mut peer: ReadHalf<'_>, mut to_server: OwnedWriteHalf, patience: Duration) -> Unanswered {
        if let Err(end) = self.hand_on(&mut peer, &mut to_server, patience).await {
            return end;
        }
        let mut piece = [0; 512];
        loop {
            match peer.read(&mut piece).await {
                // The job server knows what an end of input means: a foreground job is given up, a handle is still told.
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
            // A peer that does not send owns no buffer.
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

/// What the job server says.
struct Packets {
    stream: OwnedReadHalf,
    codec: PacketCodec,
    received: BytesMut,
    /// What the largest packet takes.
    share: Share,
    /// What data takes that came before the result.
    data_share: Share,
}

impl Packets {
    fn new(stream: OwnedReadHalf, limits: &Limits, budget: &Budget) -> Self {
        // Lines are for those who have sent one.
        let limits = FrameLimits { packet: limits.frames.packet, line: 1 };
        let (share, data_share) = (Share::of(budget), Share::of(budget));
        Self { stream, codec: PacketCodec { limits }, received: BytesMut::new(), share, data_share }
    }

    /// The next packet, or why there is no result. What has come of it is kept when this is given up.
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

    /// Waits for the end of the job, or for its handle if it runs in the background. Data that a worker sends is part of
    /// its result, which has at most `most` bytes.
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
                // The text of an error is not part of gearmand's response: its code stands for the handle.
                _ => Bytes::new(),
            };
            return Ok(Ok(Answer { handle, command, payload }));
        }
    }

    /// Adds a piece to data that has at most `most` bytes.
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

/// The first argument and the rest of a packet's body; all of it where there is one argument.
fn cut(body: Bytes) -> (Bytes, Bytes) {
    match split_arguments::<2>(&body) {
        Some([first, rest]) => (body.slice_ref(first), body.slice_ref(rest)),
        None => (body, Bytes::new()),
    }
}

/// Writes all of it, to a peer that takes some of it within each `patience`.
async fn write(peer: &mut TcpStream, bytes: Bytes, patience: Option<Duration>) -> Result<(), Unanswered> {
    write_counted(peer, bytes, patience, |_| {}).await
}

/// The same, and tells `wrote` of each piece that the kernel has taken.
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
        // The kernel reports room only when there is much. A peer that reads slowly has taken something all the same.
        let taken = before.saturating_sub(unacknowledged(peer.as_fd()).unwrap_or(0));
        if taken < LEAST_PROGRESS {
            return Err(Unanswered::SlowReader);
        }
    }
    Ok(())
}

/// Closes the connection. While the peer sends, that waits until it has seen its answer.
async fn finish(mut peer: TcpStream, is_sending: bool) -> Result<(), Unanswered> {
    peer.shutdown().await?;
    if is_sending {
        let mut piece = [0; 1024];
        let drain = async { while matches!(peer.read(&mut piece).await, Ok(1..)) {} };
        // Whoever goes on for longer does not look.
        let _ = timeout(LINGER, drain).await;
    }
    Ok(())
}
