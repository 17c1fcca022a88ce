//! Accepts and serves HTTP connections.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::convert::Infallible;
use std::error::Error as _;
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::Request;
use axum::response::{IntoResponse as _, Response};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, error, warn};

use super::answer::ApiError;
use super::write_timeout::WriteTimeoutStream;
use super::{Interface, STOP_TIMEOUT, guard, routes};
use crate::process::listen::tune;

/// Timeout for the head of a request, from its first byte and after the previous response.
const HEAD_TIMEOUT: Duration = Duration::from_secs(15);
/// The same for connections reserved for health checks.
const HEALTH_TIMEOUT: Duration = Duration::from_secs(5);
/// Number of reserved connections, in addition to the limit.
const HEALTH_CONNECTIONS: usize = 8;
/// Paths served on reserved connections.
const HEALTH_PATHS: [&str; 3] = ["/healthz", "/readyz", "/metrics"];
/// How long a rejected peer may take to read the reason, and how many may do so concurrently.
const LINGER: Duration = Duration::from_secs(1);
const LINGERING: usize = 32;
/// Maximum size of a request head, and of the output buffer, in bytes.
const BUFFER: usize = 32 * 1024;
/// Maximum number of headers of a request.
const HEADERS: usize = 64;
/// Delay after accept failed, for example without file descriptors.
const PAUSE: Duration = Duration::from_millis(200);
/// Response when the connection limit is reached.
const TOO_MANY: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\nconnection: close\r\nretry-after: 5\r\n\
    content-type: application/json\r\ncontent-length: 107\r\n\r\n\
    {\"error\":{\"code\":\"too_many_connections\",\"message\":\"there are too many connections (http-max-connections)\"}}";

/// The connection of a request.
#[derive(Clone, Copy, Debug)]
pub(super) struct Peer {
    /// Address of the peer.
    pub(super) address: IpAddr,
    /// Whether the listening address can be reached only from this machine.
    pub(super) is_local: bool,
}

/// Aborts the connection of a request, with unsent output.
#[derive(Clone)]
pub(super) struct Abort(pub(super) CancellationToken);

/// Connection limits.
#[derive(Clone)]
struct Slots {
    all: Arc<Semaphore>,
    for_health: Arc<Semaphore>,
    lingering: Arc<Semaphore>,
    /// Number of connections of each network.
    peers: Arc<Mutex<HashMap<IpAddr, usize>>>,
    /// Maximum number of connections of a network other than this machine.
    most_of_peer: usize,
}

/// A connection within the limits.
struct Slot {
    is_for_health: bool,
    _permit: OwnedSemaphorePermit,
    network: IpAddr,
    peers: Arc<Mutex<HashMap<IpAddr, usize>>>,
}

impl Slots {
    fn new(connections: usize) -> Self {
        Self {
            all: Arc::new(Semaphore::new(connections)),
            for_health: Arc::new(Semaphore::new(HEALTH_CONNECTIONS)),
            lingering: Arc::new(Semaphore::new(LINGERING)),
            peers: Arc::default(),
            most_of_peer: connections.div_ceil(2),
        }
    }

    fn take(&self, address: IpAddr) -> Option<Slot> {
        let network = network(address);
        let mut peers = self.peers.lock().unwrap_or_else(PoisonError::into_inner);
        if !address.is_loopback() && peers.get(&network).is_some_and(|count| *count >= self.most_of_peer) {
            return None;
        }
        let (permit, is_for_health) = match Arc::clone(&self.all).try_acquire_owned() {
            Ok(permit) => (permit, false),
            Err(_) => (Arc::clone(&self.for_health).try_acquire_owned().ok()?, true),
        };
        *peers.entry(network).or_default() += 1;
        Some(Slot { is_for_health, _permit: permit, network, peers: Arc::clone(&self.peers) })
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut peers = self.peers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Entry::Occupied(mut count) = peers.entry(self.network) {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
    }
}

/// The unit for counting peers. A single IPv6 client may have 2^64 addresses, so it is the /64 network.
fn network(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() >> 64 << 64)),
    }
}

/// Serves until the interface is stopped.
pub(super) async fn run(listeners: Vec<TcpListener>, interface: Arc<Interface>) {
    let router = routes::router(&interface);
    let tasks = TaskTracker::new();
    let slots = Slots::new(interface.settings.max_connections);
    for listener in listeners {
        let acceptor = Acceptor {
            interface: Arc::clone(&interface),
            router: router.clone(),
            slots: slots.clone(),
            tasks: tasks.clone(),
        };
        match listener.local_addr().and_then(|address| Ok((address, tokio::net::TcpListener::from_std(listener)?))) {
            Ok((address, listener)) => {
                tokio::spawn(acceptor.accept(listener, address));
            }
            Err(error) => error!("cannot serve HTTP: {error}"),
        }
    }
    interface.stop.cancelled().await;
    tasks.close();
    // A peer that has not read its response by then is not reading.
    let _ = timeout(STOP_TIMEOUT, tasks.wait()).await;
}

struct Acceptor {
    interface: Arc<Interface>,
    router: Router,
    slots: Slots,
    tasks: TaskTracker,
}

impl Acceptor {
    /// Accepts connections until the interface is stopped, which closes the listener.
    async fn accept(self, listener: tokio::net::TcpListener, own: SocketAddr) {
        let is_local = own.ip().to_canonical().is_loopback();
        let stop = self.interface.stop.clone();
        while let Some(accepted) = stop.run_until_cancelled(listener.accept()).await {
            match accepted {
                Ok((socket, address)) => self.start(socket, Peer { address: address.ip().to_canonical(), is_local }),
                Err(error) if is_of_peer(&error) => debug!("an HTTP connection failed before it was accepted: {error}"),
                Err(error) => {
                    warn!("cannot accept HTTP connections: {error}; trying again");
                    if stop.run_until_cancelled(sleep(PAUSE)).await.is_none() {
                        return;
                    }
                }
            }
        }
    }

    fn start(&self, socket: TcpStream, peer: Peer) {
        if let Err(error) = tune(&socket, &self.interface.settings.keep_alive) {
            debug!("cannot tune the HTTP connection of {}: {error}", peer.address);
        }
        let Some(slot) = self.slots.take(peer.address) else {
            self.interface.counts.refused.add(1);
            debug!("rejected the HTTP connection of {}: too many connections (http-max-connections)", peer.address);
            match Arc::clone(&self.slots.lingering).try_acquire_owned() {
                Ok(permit) => drop(self.tasks.spawn(refuse(socket, permit))),
                // It fits into the empty send buffer of a new socket, or is lost.
                Err(_) => drop(socket.try_write(TOO_MANY)),
            }
            return;
        };
        self.tasks.spawn(serve(Arc::clone(&self.interface), self.router.clone(), socket, peer, slot));
    }
}

/// Rejects a connection beyond the limit. Closing at once would reset it when its request arrives, and lose
/// the response.
async fn refuse(mut socket: TcpStream, _permit: OwnedSemaphorePermit) {
    let refusal = async {
        socket.write_all(TOO_MANY).await?;
        socket.shutdown().await?;
        let mut piece = [0; 1024];
        while socket.read(&mut piece).await? > 0 {}
        io::Result::Ok(())
    };
    // A peer that sends for longer does not read.
    let _ = timeout(LINGER, refusal).await;
}

/// Whether accept failed because of a single peer.
fn is_of_peer(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset)
}

/// Serves one connection to its end.
async fn serve(interface: Arc<Interface>, router: Router, socket: TcpStream, peer: Peer, slot: Slot) {
    let _count = Count::of(&interface);
    let is_for_health = slot.is_for_health;
    let abort = CancellationToken::new();
    let stop = interface.stop.clone();
    let stream = TokioIo::new(WriteTimeoutStream::new(socket));
    let router = TowerToHyperService::new(router);
    let asked = Arc::clone(&interface);
    let aborted = abort.clone();
    let service = service_fn(move |mut request| {
        request.extensions_mut().insert(Abort(aborted.clone()));
        answer(Arc::clone(&asked), router.clone(), peer, is_for_health, request)
    });
    let mut connection = std::pin::pin!(
        http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(if is_for_health { HEALTH_TIMEOUT } else { HEAD_TIMEOUT })
            .keep_alive(!is_for_health)
            .max_buf_size(BUFFER)
            .max_headers(HEADERS)
            .serve_connection(stream, service)
    );
    let result = tokio::select! {
        result = connection.as_mut() => result,
        () = abort.cancelled() => {
            interface.counts.slow_readers.add(1);
            debug!("the HTTP connection of {} was closed: slow reader", peer.address);
            return;
        }
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = result {
        // Our own timeout, or the kernel's (tcp-user-timeout).
        if error.source().and_then(|source| source.downcast_ref::<io::Error>()).is_some_and(is_timeout) {
            interface.counts.slow_readers.add(1);
        }
        debug!("the HTTP connection of {} was closed: {error}", peer.address);
    }
}

fn is_timeout(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::TimedOut
}

/// Counts an open connection.
struct Count(Arc<Interface>);

impl Count {
    fn of(interface: &Arc<Interface>) -> Self {
        interface.counts.connections.add(1);
        Self(Arc::clone(interface))
    }
}

impl Drop for Count {
    fn drop(&mut self) {
        // All connections are counted on one thread.
        let connections = &self.0.counts.connections;
        connections.set(connections.get().saturating_sub(1));
    }
}

async fn answer(
    interface: Arc<Interface>,
    router: TowerToHyperService<Router>,
    peer: Peer,
    is_for_health: bool,
    request: Request<Incoming>,
) -> Result<Response, Infallible> {
    interface.counts.requests.add(1);
    if is_for_health && !HEALTH_PATHS.contains(&request.uri().path()) {
        interface.counts.refused.add(1);
        let error = ApiError::busy("too_many_connections", "there are too many connections (http-max-connections)");
        return Ok(error.into_response());
    }
    let mut request = request.map(Body::new);
    let mut response = match guard::admit(&interface.settings, peer, &request) {
        Err(error) => error.into_response(),
        Ok(actor) => {
            request.extensions_mut().insert(actor);
            router.call(request).await?
        }
    };
    guard::harden(&mut response);
    Ok(response)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_takes_all_connections() {
        let slots = Slots::new(4);
        let address = |text: &str| text.parse::<IpAddr>().unwrap();
        let mut taken: Vec<_> = (0..2).map(|_| slots.take(address("10.0.0.1")).unwrap()).collect();
        assert!(slots.take(address("10.0.0.1")).is_none());
        // The rest of the network is the same peer.
        taken.push(slots.take(address("fd00::1")).unwrap());
        taken.push(slots.take(address("fd00::2:0:0:1")).unwrap());
        assert!(slots.take(address("fd00::3")).is_none());
        assert!(taken.iter().all(|slot| !slot.is_for_health));
        let health: Vec<_> = (0..HEALTH_CONNECTIONS).map(|_| slots.take(address("127.0.0.1")).unwrap()).collect();
        assert!(health.iter().all(|slot| slot.is_for_health));
        assert!(slots.take(address("127.0.0.1")).is_none());
        drop((taken, health));
        assert!(!slots.take(address("10.0.0.1")).unwrap().is_for_health);
        assert!(slots.peers.lock().unwrap().is_empty());
    }

    #[test]
    fn the_refusal_is_as_long_as_it_says() {
        let text = std::str::from_utf8(TOO_MANY).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.contains(&format!("content-length: {}", body.len())), "{}", body.len());
    }
}
