//! The listening sockets: TCP on any number of addresses, UNIX sockets, and those passed by systemd.
//!
//! If an address cannot be bound, the start fails at once. When an address is in use, gearmand retries for 22
//! seconds, during which its supervisor believes that it has started. The usual reason is connections that
//! the previous process left in `TIME_WAIT`. `SO_REUSEADDR` handles that instead: a restart gets the port
//! back immediately.
//!
//! IPv6 sockets accept IPv6 only, like gearmand's, so that `0.0.0.0` and `[::]` can both be bound.

mod inherited;
mod unix_socket;

use std::collections::HashSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, ToSocketAddrs};
use std::os::fd::AsFd;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use nix::libc::{EACCES, EADDRINUSE, EADDRNOTAVAIL, EAFNOSUPPORT};
use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};

pub use unix_socket::{SocketFile, UnixTarget};

/// With port 0, how many ports are tried until one is free on every address.
const SHARED_PORT_TRIES: usize = 32;

/// Where to listen with TCP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TcpTarget {
    /// An IP address, or a host name, each of whose addresses is bound; `None` for all addresses of this
    /// host, IPv4 and IPv6.
    pub host: Option<String>,
    /// The port; 0 for a free one, if possible the same for all targets with 0.
    pub port: u16,
}

/// Listening non-blocking sockets, ready for a runtime.
#[derive(Debug, Default)]
pub struct Listeners {
    /// TCP listeners.
    pub tcp: Vec<TcpListener>,
    /// UNIX stream listeners.
    pub unix: Vec<UnixListener>,
    /// Removes the files of our own UNIX sockets when dropped.
    pub socket_files: Vec<SocketFile>,
    /// Notices for the log: an address family that this host does not have.
    pub notices: Vec<String>,
}

/// Why a listening socket cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// Another socket has the address.
    #[error(
        "cannot listen on {0}: the address is in use; \
         `ss -ltnp 'sport = :{port}'` shows by which process",
        port = .0.port()
    )]
    InUse(SocketAddr),
    /// The address cannot be bound for another reason.
    #[error("cannot listen on {address}: {source}{hint}", hint = hint(.address, .source))]
    Tcp {
        /// The address.
        address: SocketAddr,
        /// The system error.
        source: io::Error,
    },
    /// The host name has no address.
    #[error("cannot listen on {host:?}: {source}")]
    Resolve {
        /// The name.
        host: String,
        /// The resolver error.
        source: io::Error,
    },
    /// Another process answers on the UNIX socket.
    #[error(
        "cannot listen on unix:{path}: another process answers there; \
         `ss -lxp src {path}` shows which",
        path = .0.display()
    )]
    UnixInUse(PathBuf),
    /// The path exists and is not a socket; it is not touched.
    #[error("cannot listen on unix:{path}: exists and is not a socket", path = .0.display())]
    NotASocket(PathBuf),
    /// The UNIX socket cannot be created.
    #[error("cannot listen on unix:{path}: {source}", path = .path.display())]
    Unix {
        /// The socket's path.
        path: PathBuf,
        /// The system error.
        source: io::Error,
    },
    /// The sockets passed by the service manager cannot be used.
    #[error("socket activation: {0}")]
    Inherited(String),
}

fn hint(address: &SocketAddr, source: &io::Error) -> &'static str {
    if source.raw_os_error() == Some(EACCES) && address.port() < 1024 {
        "; ports below 1024 need root privileges or CAP_NET_BIND_SERVICE"
    } else if source.kind() == io::ErrorKind::AddrNotAvailable {
        "; no network interface of this host has this address, `ip addr` lists them"
    } else {
        ""
    }
}

impl Listeners {
    /// Binds all targets, or none: if one fails, the others are closed again.
    ///
    /// An address family that this host lacks is skipped with a notice as long as another address of the same
    /// target can be bound. `backlog` is the length of the kernel's accept queue (`net.core.somaxconn` caps
    /// it).
    ///
    /// # Errors
    /// The first target that cannot be bound, see [`ListenError`].
    pub fn bind(tcp: &[TcpTarget], unix: &[UnixTarget], backlog: i32) -> Result<Self, ListenError> {
        let mut listeners = Self::default();
        let candidates = candidates(tcp)?;
        listeners.bind_candidates(&candidates, |address| bind_tcp(address, backlog))?;
        for target in unix {
            let (listener, file) = unix_socket::bind(target, backlog)?;
            listeners.unix.push(listener);
            listeners.socket_files.push(file);
        }
        Ok(listeners)
    }

    /// Takes the sockets that systemd has bound (`LISTEN_FDS`), to be used instead of own ones; `None` if
    /// there are none. Call it once, before anything else: the sockets are meant for the process id that was
    /// started, so before the fork of `-d` too.
    ///
    /// # Errors
    /// When a passed descriptor is not a listening TCP or UNIX stream socket.
    pub fn inherited() -> Result<Option<Self>, ListenError> {
        inherited::take()
    }

    /// The addresses of the sockets: `127.0.0.1:4730`, `[::1]:4730`, `unix:/path`.
    pub fn addresses(&self) -> Vec<String> {
        let tcp = self.tcp.iter().filter_map(|listener| listener.local_addr().ok()).map(|address| address.to_string());
        let unix = self.unix.iter().map(unix_socket::name);
        tcp.chain(unix).collect()
    }

    /// Binds TCP candidates with `bind`. If the port chosen for the first address is taken on another, tries
    /// other ports.
    fn bind_candidates(
        &mut self,
        candidates: &[Candidate],
        bind: impl Fn(SocketAddr) -> io::Result<TcpListener>,
    ) -> Result<(), ListenError> {
        let mut tries = (1..=SHARED_PORT_TRIES).rev();
        loop {
            let share_port = tries.next().is_some();
            let mut attempt = Attempt::default();
            match attempt.bind(candidates, share_port, &bind) {
                Ok(()) => {
                    self.tcp = attempt.listeners;
                    self.notices = attempt.notices;
                    return Ok(());
                }
                Err(Failure::SharedPortTaken) => {}
                Err(Failure::Final(error)) => return Err(error),
            }
        }
    }
}

/// An address to bind, and the target it belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Candidate {
    address: SocketAddr,
    target: usize,
}

/// All addresses of the targets, without duplicates. An address covered by another target's wildcard is left
/// out, because the two would exclude each other.
fn candidates(targets: &[TcpTarget]) -> Result<Vec<Candidate>, ListenError> {
    let mut found = Vec::new();
    let mut seen = HashSet::new();
    for (target, TcpTarget { host, port }) in targets.iter().enumerate() {
        let addresses = match host {
            Some(host) => resolve(host, *port)?,
            None => {
                vec![SocketAddr::from((Ipv4Addr::UNSPECIFIED, *port)), SocketAddr::from((Ipv6Addr::UNSPECIFIED, *port))]
            }
        };
        found.extend(
            addresses.into_iter().filter(|address| seen.insert(*address)).map(|address| Candidate { address, target }),
        );
    }
    found.retain(|Candidate { address, .. }| {
        let wildcard: IpAddr = match address {
            SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        address.ip() == wildcard || !seen.contains(&SocketAddr::new(wildcard, address.port()))
    });
    Ok(found)
}

fn resolve(host: &str, port: u16) -> Result<Vec<SocketAddr>, ListenError> {
    let bare = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(host);
    (bare, port)
        .to_socket_addrs()
        .map(Iterator::collect)
        .map_err(|source| ListenError::Resolve { host: host.to_owned(), source })
}

/// One attempt to bind all candidates.
#[derive(Default)]
struct Attempt {
    listeners: Vec<TcpListener>,
    notices: Vec<String>,
    /// The port that the kernel chose for the first candidate with port 0.
    chosen: Option<u16>,
    /// Targets that have a listener.
    served: HashSet<usize>,
}

enum Failure {
    /// The port chosen for one address is taken on another: another port may be free on both.
    SharedPortTaken,
    Final(ListenError),
}

impl Attempt {
    fn bind(
        &mut self,
        candidates: &[Candidate],
        share_port: bool,
        bind: impl Fn(SocketAddr) -> io::Result<TcpListener>,
    ) -> Result<(), Failure> {
        let mut unavailable = Vec::new();
        for &Candidate { address, target } in candidates {
            let any_port = address.port() == 0;
            let mut wanted = address;
            if let (true, true, Some(port)) = (any_port, share_port, self.chosen) {
                wanted.set_port(port);
            }
            match bind(wanted) {
                Ok(listener) => {
                    if any_port && self.chosen.is_none() {
                        self.chosen = listener.local_addr().ok().map(|bound| bound.port());
                    }
                    self.served.insert(target);
                    self.listeners.push(listener);
                }
                Err(error) if any_port && is(&error, EADDRINUSE) && wanted != address => {
                    return Err(Failure::SharedPortTaken);
                }
                Err(error) if is(&error, EAFNOSUPPORT) || is(&error, EADDRNOTAVAIL) => {
                    unavailable.push((target, address, error));
                }
                Err(error) => return Err(Failure::Final(describe(wanted, error))),
            }
        }
        for (target, address, error) in unavailable {
            if !self.served.contains(&target) {
                return Err(Failure::Final(describe(address, error)));
            }
            self.notices.push(format!("not listening on {address}, which this host does not have: {error}"));
        }
        Ok(())
    }
}

fn is(error: &io::Error, code: i32) -> bool {
    error.raw_os_error() == Some(code)
}

fn describe(address: SocketAddr, source: io::Error) -> ListenError {
    if is(&source, EADDRINUSE) { ListenError::InUse(address) } else { ListenError::Tcp { address, source } }
}

fn bind_tcp(address: SocketAddr, backlog: i32) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.bind(&address.into())?;
    socket.listen(backlog)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

/// Detection of dead peers; `None` leaves a value to the kernel. A host that vanishes while its connection is
/// idle is given up after `idle + interval * count` or
/// [`effective_user_timeout`](Self::effective_user_timeout), whichever is later. A host that vanishes while
/// data is in flight is given up after the latter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KeepAlive {
    /// The longest silence before the first probe; whole seconds, 1 s to 32767 s. Each connection gets its
    /// own time between half of it and all of it, so that thousands are not probed at the same moment.
    pub idle: Option<Duration>,
    /// Time between probes; whole seconds, 1 s to 32767 s.
    pub interval: Option<Duration>,
    /// Unanswered probes after which the peer counts as dead, 1 to 127.
    pub count: Option<u32>,
    /// How long sent bytes, or probes, may stay unacknowledged; whole milliseconds. Sockets use
    /// [`effective_user_timeout`](Self::effective_user_timeout).
    pub user_timeout: Option<Duration>,
}

impl KeepAlive {
    /// The TCP_USER_TIMEOUT of the sockets: `user_timeout`, but at least as long as all probes take. The
    /// kernel ends an idle connection when this time has passed, even if only the first of its probes was
    /// lost.
    pub fn effective_user_timeout(&self) -> Option<Duration> {
        let probes = match (self.idle, self.interval, self.count) {
            (Some(idle), Some(interval), Some(count)) => idle + interval * count,
            _ => Duration::ZERO,
        };
        self.user_timeout.map(|timeout| timeout.max(probes))
    }
}

/// The silence before the first probe on connection `number`: whole seconds, as the kernel counts them,
/// between half of `longest` and all of it.
fn first_probe(longest: Duration, number: u64) -> Duration {
    let longest = longest.as_secs().max(1);
    let shortest = longest.div_ceil(2);
    Duration::from_secs(shortest + number % (longest - shortest + 1))
}

/// Configures an accepted TCP socket: no delay for small packets, and keepalive to detect dead peers. Closing
/// does not linger: the kernel delivers what is left to send.
///
/// # Errors
/// When the kernel refuses a value.
pub fn tune(socket: &impl AsFd, keep_alive: &KeepAlive) -> io::Result<()> {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let socket = SockRef::from(socket);
    socket.set_tcp_nodelay(true)?;
    socket.set_keepalive(true)?;
    let mut probes = TcpKeepalive::new();
    if let Some(idle) = keep_alive.idle {
        probes = probes.with_time(first_probe(idle, NUMBER.fetch_add(1, Ordering::Relaxed)));
    }
    if let Some(interval) = keep_alive.interval {
        probes = probes.with_interval(interval);
    }
    if let Some(count) = keep_alive.count {
        probes = probes.with_retries(count);
    }
    socket.set_tcp_keepalive(&probes)?;
    socket.set_tcp_user_timeout(keep_alive.effective_user_timeout())
}

#[cfg(test)]
mod tests;
