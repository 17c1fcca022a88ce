//! Setup of the HTTP interface.

use std::io;
use std::sync::Arc;

use tokio::net::UnixStream;
use tokio::runtime::Handle;
use tracing::{debug, warn};

use super::settings::accept_settings;
use crate::config::{Config, ListenAddress, read_promptly};
use crate::http::{self, Budget, Http, Parts, Settings, Tokens};
use crate::log_level::audit;
use crate::net::connection::Server;
use crate::net::listener::Acceptor;
use crate::process::listen::{Listeners, TcpTarget};
use crate::process::logging::LogHandle;

/// The accept backlog of the listeners.
const BACKLOG: i32 = 128;
/// Maximum size of a token file, in bytes.
const TOKEN_FILE_MAX: u64 = 4096;
/// Minimum length of a token, in bytes; the option has the same limit.
const TOKEN_MIN: usize = 16;

/// Sockets and tokens of the interface, which may take root privileges to obtain.
#[derive(Debug, Default)]
pub struct HttpReady {
    listeners: Listeners,
    tokens: Tokens,
    /// Why the interface is missing although it is not switched off.
    absent: Option<String>,
}

impl HttpReady {
    /// Binds the address and reads the token file.
    ///
    /// # Errors
    /// When an explicitly set address cannot be bound, or the file has no valid token.
    pub fn prepare(config: &Config, is_asked_for: bool) -> Result<Self, String> {
        let Some(address) = &config.http.listen else {
            return Ok(Self::default());
        };
        let target = match address {
            ListenAddress::All { port } => TcpTarget { host: None, port: *port },
            ListenAddress::Ip(address) => TcpTarget { host: Some(address.ip().to_string()), port: address.port() },
            ListenAddress::Host { name, port } => TcpTarget { host: Some(name.clone()), port: *port },
            ListenAddress::Unix(path) => return Err(format!("HTTP is not served on unix:{}", path.display())),
        };
        let listeners = match Listeners::bind(&[target], &[], BACKLOG) {
            Ok(listeners) => listeners,
            Err(error) if is_asked_for => {
                return Err(format!("HTTP: {error}; choose another address with --http-listen"));
            }
            Err(error) => {
                let absent =
                    format!("HTTP is not served: {error}; choose another address with --http-listen, or off for none");
                return Ok(Self { absent: Some(absent), ..Self::default() });
            }
        };
        Ok(Self { listeners, tokens: Tokens::new(read_tokens(config)?), absent: None })
    }

    /// The URLs of the interface, such as `http://127.0.0.1:4780`.
    pub(super) fn addresses(&self) -> Vec<String> {
        self.listeners.addresses().into_iter().map(|address| format!("http://{address}")).collect()
    }

    /// Starts the interface, if it has listeners. `addresses` are the Gearman addresses.
    pub(super) fn start(
        self,
        config: &Config,
        server: &Arc<Server>,
        acceptor: &Arc<Acceptor>,
        log: &LogHandle,
        addresses: Vec<String>,
        budget: Budget,
    ) -> io::Result<Option<Http>> {
        if let Some(absent) = &self.absent {
            audit!("{absent}");
        }
        if self.listeners.tcp.is_empty() {
            return Ok(None);
        }
        let is_open = |listener: &std::net::TcpListener| {
            listener.local_addr().is_ok_and(|address| !address.ip().to_canonical().is_loopback())
        };
        let has_token = config.http.token.is_some() || config.http.token_file.is_some();
        if !has_token && !config.http.read_only && self.listeners.tcp.iter().any(is_open) {
            warn!(
                "HTTP is reachable from other machines and no token is set: reads are open, changes are refused; set \
                 --http-token-file, or --http-read-only if that is intended"
            );
        }
        let accept = accept_settings(config);
        let settings = Settings {
            tokens: self.tokens,
            read_only: config.http.read_only,
            max_connections: config.http.max_connections,
            metrics_functions: config.http.metrics_functions.most(),
            hosts: config.http.hosts.clone(),
            addresses,
            own_name: nix::unistd::gethostname()
                .ok()
                .and_then(|name| Some(name.into_string().ok()?.to_ascii_lowercase())),
            max_packet_size: accept.limits.frames.packet,
            keep_alive: accept.keep_alive,
        };
        http::start(self.listeners.tcp, settings, parts(server, acceptor, log, budget)).map(Some)
    }
}

/// The token from the settings, and the one currently in the token file.
///
/// # Errors
/// When the file has no valid token.
pub(super) fn read_tokens(config: &Config) -> Result<Vec<String>, String> {
    let mut tokens: Vec<String> = config.http.token.iter().map(|token| token.reveal().to_owned()).collect();
    if let Some(path) = &config.http.token_file {
        let read = read_token(path).map_err(|why| format!("http-token-file {}: {why}", path.display()))?;
        tokens.push(read);
    }
    Ok(tokens)
}

/// The parts of the server that the interface uses.
fn parts(server: &Arc<Server>, acceptor: &Arc<Acceptor>, log: &LogHandle, budget: Budget) -> Parts {
    let clock = Arc::clone(&server.clock);
    let acceptor = Arc::clone(acceptor);
    // Its internal connections are served like all others, on the same threads.
    let runtime = Handle::current();
    let (job_runtime, hub, log) = (runtime.clone(), Arc::clone(&server.hub), log.clone());
    Parts {
        admin: Arc::clone(&server.admin),
        stats: server.hub.shared_stats(),
        budget,
        now: Box::new(move || clock.now()),
        sign_of_life: Box::new(move |beat| {
            let hub = Arc::clone(&hub);
            job_runtime.spawn(async move {
                // Taking the lock proves that no thread is stuck with it.
                hub.job_count();
                beat();
            });
        }),
        log_lines_left_out: Box::new(move || log.left_out()),
        connect: Box::new(move |stream, peer| {
            let acceptor = Arc::clone(&acceptor);
            runtime.spawn(async move {
                match UnixStream::from_std(stream) {
                    Ok(stream) => acceptor.adopt(stream, peer).await,
                    Err(error) => debug!("cannot serve a job of {peer} over HTTP: {error}"),
                }
            });
        }),
    }
}

/// Reads a token, which is the only line of its file.
fn read_token(path: &std::path::Path) -> Result<String, String> {
    let bytes = read_promptly(path, TOKEN_FILE_MAX).map_err(|error| error.to_string())?;
    if bytes.len() as u64 > TOKEN_FILE_MAX {
        return Err(format!("the file has more than {TOKEN_FILE_MAX} bytes; it must contain one line, the token"));
    }
    let text = String::from_utf8(bytes).map_err(|error| error.to_string())?;
    let token = text.trim();
    if token.len() < TOKEN_MIN || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(format!(
            "the file contains no valid token: one line of at least {TOKEN_MIN} ASCII letters, digits and signs, such \
             as from `openssl rand -hex 32`"
        ));
    }
    Ok(token.to_owned())
}
