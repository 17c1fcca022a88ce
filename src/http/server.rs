//! Accepting HTTP connections and serving them.

use std::convert::Infallible;
use std::error::Error as _;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::sync::Arc;
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
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{sleep, timeout};
use tokio_util::task::TaskTracker;
use tracing::{debug, error, warn};

use super::stream::Stream;
use super::{Interface, STOP_TIMEOUT, guard, routes};
use crate::process::listen::tune;

/// How long a request's head may take to arrive, from the first byte on and after the answer before it.
const HEAD_TIMEOUT: Duration = Duration::from_secs(15);
/// The most bytes of a head, and of output that waits for the socket.
const BUFFER: usize = 32 * 1024;
/// The most header lines of a request.
const HEADERS: usize = 64;
/// How long accepting pauses after it failed for want of something.
const PAUSE: Duration = Duration::from_millis(200);
/// What those are told for whom there is no connection left.
const TOO_MANY: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\nconnection: close\r\nretry-after: 5\r\n\
    content-type: application/json\r\ncontent-length: 107\r\n\r\n\
    {\"error\":{\"code\":\"too_many_connections\",\"message\":\"there are too many connections (http-max-connections)\"}}";

/// A connection, as its requests see it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Peer {
    /// Who is at the other end.
    pub(super) address: IpAddr,
    /// Whether this machine alone reaches the address that listens.
    pub(super) is_local: bool,
}

/// Serves until the interface is stopped.
pub(super) async fn run(listeners: Vec<TcpListener>, interface: Arc<Interface>) {
    let router = routes::router(&interface);
    let tasks = TaskTracker::new();
    let slots = Arc::new(Semaphore::new(interface.settings.max_connections));
    for listener in listeners {
        let acceptor = Acceptor {
            interface: Arc::clone(&interface),
            router: router.clone(),
            slots: Arc::clone(&slots),
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
    // Whoever has not read until then does not read.
    let _ = timeout(STOP_TIMEOUT, tasks.wait()).await;
}

struct Acceptor {
    interface: Arc<Interface>,
    router: Router,
    slots: Arc<Semaphore>,
    tasks: TaskTracker,
}

impl Acceptor {
    /// Accepts from a listener until the interface is stopped, which closes its socket.
    async fn accept(self, listener: tokio::net::TcpListener, own: SocketAddr) {
        let is_local = own.ip().to_canonical().is_loopback();
        let stop = self.interface.stop.clone();
        while let Some(accepted) = stop.run_until_cancelled(listener.accept()).await {
            match accepted {
                Ok((socket, address)) => self.start(socket, Peer { address: address.ip().to_canonical(), is_local }),
                Err(error) if is_of_peer(&error) => debug!("an HTTP connection was given up: {error}"),
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
        let Ok(slot) = Arc::clone(&self.slots).try_acquire_owned() else {
            self.interface.counts.refused.add(1);
            debug!("refused the HTTP connection of {}: there are too many (http-max-connections)", peer.address);
            // It fits into the empty buffer of a new socket, or it is lost.
            let _ = socket.try_write(TOO_MANY);
            return;
        };
        self.tasks.spawn(serve(Arc::clone(&self.interface), self.router.clone(), socket, peer, slot));
    }
}

/// Whether accepting failed for a reason that lies in one peer.
fn is_of_peer(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset)
}

/// Serves one connection to its end.
async fn serve(interface: Arc<Interface>, router: Router, socket: TcpStream, peer: Peer, _slot: OwnedSemaphorePermit) {
    let _count = Count::of(&interface);
    let stop = interface.stop.clone();
    let stream = TokioIo::new(Stream::new(socket));
    let router = TowerToHyperService::new(router);
    let asked = Arc::clone(&interface);
    let service = service_fn(move |request| answer(Arc::clone(&asked), router.clone(), peer, request));
    let mut connection = std::pin::pin!(
        http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIMEOUT)
            .max_buf_size(BUFFER)
            .max_headers(HEADERS)
            .serve_connection(stream, service)
    );
    let result = tokio::select! {
        result = connection.as_mut() => result,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = result {
        // By our own clock, or by the kernel's (tcp-user-timeout).
        if error.source().and_then(|source| source.downcast_ref::<io::Error>()).is_some_and(is_timeout) {
            interface.counts.slow_readers.add(1);
        }
        debug!("the HTTP connection of {} ended: {error}", peer.address);
    }
}

fn is_timeout(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::TimedOut
}

/// Counts a connection while it lasts.
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
    request: Request<Incoming>,
) -> Result<Response, Infallible> {
    interface.counts.requests.add(1);
    let mut request = request.map(Body::new);
    let mut response = match guard::admit(&interface.settings, peer, &request) {
        Err(failure) => failure.into_response(),
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
    use super::TOO_MANY;

    #[test]
    fn the_refusal_is_as_long_as_it_says() {
        let text = std::str::from_utf8(TOO_MANY).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.contains(&format!("content-length: {}", body.len())), "{}", body.len());
    }
}
