//! Accepting connections: their limit, the error that refused peers get, and the lack of file descriptors.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use nix::errno::Errno;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, error, info, warn};

use super::connection::{Limits, Server, serve};
use crate::process::listen::{KeepAlive, tune};
use crate::protocol::{PeerError, Response};
use crate::stats::ConnectionGauges;

/// Pause after the first failure to accept for lack of a resource. It doubles each time.
const FIRST_PAUSE: Duration = Duration::from_millis(10);
/// How many connections are accepted in a row before the listener yields.
const ACCEPTED_A_TURN: u32 = 8;
/// The longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// Settings of newly accepted connections.
#[derive(Clone, Copy, Debug)]
pub struct AcceptSettings {
    /// Maximum number of open connections, of all listeners together.
    pub max_connections: usize,
    /// TCP keepalive, which detects dead peers.
    pub keep_alive: KeepAlive,
    /// The limits of each connection.
    pub limits: Limits,
}

/// Accepts connections and starts their tasks.
pub struct Acceptor {
    server: Arc<Server>,
    settings: RwLock<AcceptSettings>,
    open: AtomicUsize,
    tasks: TaskTracker,
    /// A spare descriptor. It is released when no descriptor is left, so that a peer can be accepted and sent
    /// an error.
    reserve: Mutex<Option<File>>,
}

/// An accepted connection, as a listener returns it.
pub struct Accepted<S> {
    /// The connection.
    pub stream: S,
    /// The peer's address without its port.
    pub peer: String,
}

/// A connection's socket.
pub trait Stream: AsyncRead + AsyncWrite + AsFd + AsRawFd + Unpin + Send + 'static {}

impl<S: AsyncRead + AsyncWrite + AsFd + AsRawFd + Unpin + Send + 'static> Stream for S {}

/// A listening socket.
pub trait Listener: Send + Sync + 'static {
    /// The type of its connections.
    type Stream: Stream;

    /// Accepts the next connection.
    fn accept_one(&self, settings: &AcceptSettings) -> impl Future<Output = io::Result<Accepted<Self::Stream>>> + Send;
}

impl Listener for TcpListener {
    type Stream = TcpStream;

    async fn accept_one(&self, settings: &AcceptSettings) -> io::Result<Accepted<TcpStream>> {
        let (stream, address) = self.accept().await?;
        if let Err(error) = tune(&stream.as_fd(), &settings.keep_alive) {
            // The peer is gone already; its connection will end by itself.
            debug!("cannot tune the connection of {address}: {error}");
        }
        Ok(Accepted { stream, peer: address.ip().to_canonical().to_string() })
    }
}

impl Listener for UnixListener {
    type Stream = UnixStream;

    async fn accept_one(&self, _: &AcceptSettings) -> io::Result<Accepted<UnixStream>> {
        let (stream, _) = self.accept().await?;
        Ok(Accepted { stream, peer: "unix".to_owned() })
    }
}

impl Acceptor {
    /// Creates an acceptor that spawns the tasks of its connections on `tasks`.
    pub fn new(server: Arc<Server>, settings: AcceptSettings, tasks: TaskTracker) -> Self {
        Self {
            server,
            settings: RwLock::new(settings),
            open: AtomicUsize::new(0),
            tasks,
            reserve: Mutex::new(open_reserve()),
        }
    }

    /// Changes the settings of new connections.
    pub fn set_settings(&self, settings: AcceptSettings) {
        *self.settings.write().unwrap_or_else(PoisonError::into_inner) = settings;
    }

    /// Accepts from a listener until `stop`, then closes its socket.
    pub async fn accept<L: Listener>(self: Arc<Self>, listener: L, stop: CancellationToken) {
        let mut pause = FIRST_PAUSE;
        let mut accepted_now = 0;
        loop {
            if accepted_now == ACCEPTED_A_TURN {
                accepted_now = 0;
                tokio::task::yield_now().await;
            }
            let Some(result) = stop.run_until_cancelled(listener.accept_one(&self.settings())).await else {
                return;
            };
            let error = match result {
                Ok(accepted) => {
                    pause = FIRST_PAUSE;
                    accepted_now += 1;
                    self.start(accepted).await;
                    continue;
                }
                Err(error) => error,
            };
            match error.raw_os_error().map(Errno::from_raw) {
                // The peer gave up before it was accepted.
                Some(Errno::ECONNABORTED | Errno::EINTR | Errno::EPROTO | Errno::EPERM) => continue,
                Some(Errno::EMFILE | Errno::ENFILE) => {
                    if pause == FIRST_PAUSE {
                        warn!("out of file descriptors ({error}): refusing new connections; raise --file-descriptors");
                    }
                    self.refuse_with_reserve(&listener).await;
                }
                _ => error!("cannot accept connections: {error}; retrying"),
            }
            if stop.run_until_cancelled(tokio::time::sleep(pause)).await.is_none() {
                return;
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Serves one end of a socket pair for a peer at this address that arrived by another protocol.
    pub async fn adopt(self: Arc<Self>, stream: UnixStream, peer: String) {
        self.start(Accepted { stream, peer }).await;
    }

    async fn start<S: Stream>(self: &Arc<Self>, accepted: Accepted<S>) {
        let AcceptSettings { max_connections, limits, .. } = self.settings();
        let Accepted { stream, peer } = accepted;
        let stats = self.server.hub.stats();
        if !self.server.pressure.account().has_room_for_connection() {
            stats.refused.add(1);
            info!("refused {peer}: memory limit reached (max-memory)");
            return refuse(stream, PeerError::NO_MEMORY_FOR_CONNECTION).await;
        }
        if self.open.fetch_add(1, Ordering::Relaxed) >= max_connections {
            self.open.fetch_sub(1, Ordering::Relaxed);
            stats.refused.add(1);
            info!("refused {peer}: connection limit of {max_connections} reached (max-connections)");
            return refuse(stream, PeerError::TOO_MANY_CONNECTIONS).await;
        }
        stats.accepted.add(1);
        debug!("Accepted connection from {peer}");
        let gauges = Arc::new(ConnectionGauges::new(stream.as_raw_fd(), peer));
        let acceptor = Arc::clone(self);
        self.tasks.spawn(async move {
            serve(Arc::clone(&acceptor.server), limits, gauges, stream).await;
            acceptor.open.fetch_sub(1, Ordering::Relaxed);
        });
    }

    /// Releases the spare descriptor to accept one connection, and sends its peer an error.
    async fn refuse_with_reserve(&self, listener: &impl Listener) {
        *self.reserve.lock().unwrap_or_else(PoisonError::into_inner) = None;
        if let Ok(Ok(accepted)) = tokio::time::timeout(FIRST_PAUSE, listener.accept_one(&self.settings())).await {
            self.server.hub.stats().refused.add(1);
            refuse(accepted.stream, PeerError::TOO_MANY_CONNECTIONS).await;
        }
        *self.reserve.lock().unwrap_or_else(PoisonError::into_inner) = open_reserve();
    }

    fn settings(&self) -> AcceptSettings {
        *self.settings.read().unwrap_or_else(PoisonError::into_inner)
    }
}

fn open_reserve() -> Option<File> {
    File::open("/dev/null").ok()
}

/// Sends the peer an error. The packet fits into the empty buffer of a new socket, or it is lost.
async fn refuse(mut stream: impl AsyncWrite + Unpin, why: PeerError) {
    use tokio::io::AsyncWriteExt;
    let packet = Response::Error(why).to_bytes();
    let _ = tokio::time::timeout(FIRST_PAUSE, stream.write_all(&packet)).await;
}
