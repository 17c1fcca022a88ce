//! The server process: assembles the parts, serves, reloads, and shuts down in order.

mod descriptors;
pub mod http;
mod sampler;
mod settings;
mod store;

use std::future::pending;
use std::io::{IsTerminal as _, Write as _};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::net::{TcpListener, UnixListener};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{error, info, warn};

use self::http::HttpReady;
use self::settings::{accept_settings, memory_limits, policy};
use self::store::Keeper;
use crate::admin::{Admin, Process};
use crate::config::{Config, ConfigErrors, ListenAddress, LogTarget, QueueChoice, Resolved, Sources, resolve};
use crate::http::plugin::PluginListener;
use crate::http::{Budget, Http};
use crate::hub::Hub;
use crate::log_level::{audit, notice};
use crate::net::Clock;
use crate::net::connection::Server;
use crate::net::listener::Acceptor;
use crate::net::listings::{Listings, keep_order};
use crate::net::pressure::{self, Pressure};
use crate::net::timer::keep_time;
use crate::net::turn::Turns;
use crate::process::detach::Readiness;
use crate::process::listen::{Listeners, TcpTarget, UnixTarget};
use crate::process::logging::LogHandle;
use crate::process::notify::Notifier;
use crate::process::signals;
use crate::stats::Stats;
use crate::store::StoreError;
use crate::store::location::Location;
use crate::store::write_queue::WriteQueue;

/// How long connections may take to write their queued output when the server stops.
const STOP_TIMEOUT: Duration = Duration::from_secs(2);
/// How long readiness is delayed until the log is written, and how often that is checked.
const LOG_LIMIT: Duration = Duration::from_secs(1);
const LOG_INTERVAL: Duration = Duration::from_millis(1);
/// How often a draining server checks whether its jobs are done.
const DRAIN_INTERVAL: Duration = Duration::from_millis(50);

/// State that the process creates before its runtime.
pub struct Prepared {
    /// The sources of the settings, for a reload.
    pub sources: Arc<Sources>,
    /// The settings.
    pub resolved: Resolved,
    /// Bound sockets.
    pub listeners: Listeners,
    /// Bound sockets of the HTTP plugin.
    pub http_plugin: Listeners,
    /// Sockets and tokens of the HTTP interface.
    pub http: HttpReady,
    /// The store of background jobs; `None` for memory.
    pub location: Option<Location>,
    /// The running log.
    pub log: LogHandle,
    /// The connection to the service manager.
    pub notifier: Notifier,
    /// The channel to the process that waits for the daemon to be ready.
    pub readiness: Option<Readiness>,
}

/// The addresses to listen on, from the configuration.
pub fn targets(config: &Config, owner: Option<(u32, u32)>) -> (Vec<TcpTarget>, Vec<UnixTarget>) {
    targets_of(&config.listen, config.network.socket_mode, owner)
}

/// The addresses of the HTTP plugin, from the configuration; empty without it.
pub fn http_plugin_targets(config: &Config) -> Vec<TcpTarget> {
    targets_of(&config.http_plugin_addresses(), config.network.socket_mode, None).0
}

fn targets_of(addresses: &[ListenAddress], mode: u32, owner: Option<(u32, u32)>) -> (Vec<TcpTarget>, Vec<UnixTarget>) {
    let (mut tcp, mut unix) = (Vec::new(), Vec::new());
    for address in addresses {
        match address {
            ListenAddress::All { port } => tcp.push(TcpTarget { host: None, port: *port }),
            ListenAddress::Ip(address) => {
                tcp.push(TcpTarget { host: Some(address.ip().to_string()), port: address.port() });
            }
            ListenAddress::Host { name, port } => tcp.push(TcpTarget { host: Some(name.clone()), port: *port }),
            ListenAddress::Unix(path) => unix.push(UnixTarget { path: path.clone(), mode, owner }),
        }
    }
    (tcp, unix)
}

/// Serves until a signal or a command ends the server. Needs a tokio runtime.
pub async fn run(mut prepared: Prepared) -> ExitCode {
    let readiness = prepared.readiness.take();
    let is_logged_here = prepared.resolved.config.log.log_file == LogTarget::StandardError;
    let started = match Daemon::start(prepared).await {
        Ok(None) => return ExitCode::SUCCESS,
        Ok(Some(daemon)) => Ok(daemon),
        Err(error) => Err(format!("cannot start: {error}")),
    };
    match (started, readiness) {
        (Ok(daemon), readiness) => {
            if let Some(Err(error)) = readiness.map(Readiness::ready) {
                error!("cannot report readiness to the parent process: {error}");
                return ExitCode::FAILURE;
            }
            return daemon.serve().await;
        }
        (Err(failure), Some(readiness)) => {
            error!("{failure}");
            readiness.failed(&failure);
        }
        (Err(failure), None) => {
            error!("{failure}");
            if !is_logged_here && !std::io::stderr().is_terminal() {
                // The log may be elsewhere: the error is repeated on the standard error of a start from a
                // script.
                let _ = writeln!(std::io::stderr(), "gearmand: {failure}");
            }
        }
    }
    ExitCode::FAILURE
}

struct Daemon {
    sources: Arc<Sources>,
    resolved: Resolved,
    hub: Arc<Hub>,
    server: Arc<Server>,
    acceptor: Arc<Acceptor>,
    log: LogHandle,
    notifier: Notifier,
    /// When to send the next watchdog keepalive, if the service manager wants them.
    watchdog: Option<Interval>,
    addresses: Vec<String>,
    /// Stops the listeners, which closes their sockets.
    stop_listening: CancellationToken,
    connections: TaskTracker,
    location: Option<Location>,
    keeper: Option<Keeper>,
    shutdown_commands: mpsc::Receiver<bool>,
    http: Option<Http>,
    /// Removes the files of UNIX sockets when dropped.
    _listeners: Listeners,
    signals: Signals,
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
    drain: Signal,
    reload: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            drain: signal(SignalKind::user_defined1())?,
            reload: signal(SignalKind::hangup())?,
        })
    }
}

impl Signals {
    /// Waits for a signal that ends the process at once.
    async fn end(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => audit!("SIGTERM received during startup, stopping"),
            _ = self.interrupt.recv() => audit!("SIGINT received during startup, stopping"),
        }
    }
}

/// Process state for the text commands.
fn process(config: &Config, log: &LogHandle, shutdown: mpsc::Sender<bool>) -> Process {
    let log = log.clone();
    Process {
        version: env!("CARGO_PKG_VERSION"),
        allow_shutdown: AtomicBool::new(config.process.allow_shutdown),
        is_read_only: AtomicBool::new(config.process.admin_read_only),
        log_level: Box::new(move || log.level().name()),
        // A full channel already holds a command with the same effect.
        shutdown: Box::new(move |graceful| {
            let _ = shutdown.try_send(graceful);
        }),
    }
}

/// Accepts connections from the listeners until `stop`.
fn accept_from(listeners: &mut Listeners, acceptor: &Arc<Acceptor>, stop: &CancellationToken) -> std::io::Result<()> {
    for listener in std::mem::take(&mut listeners.tcp) {
        tokio::spawn(Arc::clone(acceptor).accept(TcpListener::from_std(listener)?, stop.clone()));
    }
    for listener in std::mem::take(&mut listeners.unix) {
        tokio::spawn(Arc::clone(acceptor).accept(UnixListener::from_std(listener)?, stop.clone()));
    }
    Ok(())
}

/// Accepts connections on the sockets of the HTTP plugin.
fn accept_from_plugin(
    listeners: Vec<std::net::TcpListener>,
    acceptor: &Arc<Acceptor>,
    stop: &CancellationToken,
    connections: &TaskTracker,
    budget: &Budget,
    pressure: &Arc<Pressure>,
) -> std::io::Result<()> {
    for listener in listeners {
        let listener = TcpListener::from_std(listener)?;
        let listener = PluginListener::new(listener, connections.clone(), budget.clone(), Arc::clone(pressure));
        tokio::spawn(Arc::clone(acceptor).accept(listener, stop.clone()));
    }
    Ok(())
}

/// The error for a queue that cannot be opened. For the default queue, which the operator did not configure
/// explicitly, it says how to start without it.
fn unusable(config: &Config, error: &StoreError) -> std::io::Error {
    std::io::Error::other(match config.queue {
        QueueChoice::Default => {
            format!("{error}; fix this, or start without this queue and keep jobs in memory with --queue-type builtin")
        }
        _ => error.to_string(),
    })
}

/// Logs the addresses of the server, and whether it keeps jobs.
fn say_where(addresses: &[String], plugin: &[String], keeps_jobs: bool) {
    audit!("gearmand {} listening on {}", env!("CARGO_PKG_VERSION"), addresses.join(", "));
    if !plugin.is_empty() {
        audit!("HTTP plugin listening on {}", plugin.join(", "));
    }
    if !keeps_jobs {
        audit!("jobs are kept in memory: queued jobs are lost when the server stops");
    }
}

/// A request to the running server.
enum Call {
    Stop,
    Drain,
    Reload,
    Watchdog,
    /// The jobs of the store cannot be read.
    Fail(StoreError),
}

impl Daemon {
    /// Returns `None` if a signal ended the server during the start.
    async fn start(prepared: Prepared) -> std::io::Result<Option<Self>> {
        let Prepared { sources, resolved, mut listeners, http_plugin, http, location, log, notifier, .. } = prepared;
        let config = &resolved.config;
        let mut handlers = Signals::new()?;
        // Signals received since the process has a pid file are handled now.
        signals::release()?;
        let stats = Arc::new(Stats::default());
        let memory = &stats.memory;
        memory.set_limit(memory_limits(config, location.is_some()).total);
        let queue = location.as_ref().map(|_| Arc::new(WriteQueue::new(Arc::clone(memory))));
        let pressure = Pressure::new(Arc::clone(memory));
        pressure::start(&pressure)?;
        let hub = Arc::new(Hub::new(policy(config, location.is_some()), Arc::clone(&stats), queue.clone()));
        let clock = Arc::new(Clock::start());
        let keeper = match location.as_ref().zip(queue) {
            None => None,
            Some((location, queue)) => tokio::select! {
                keeper = Keeper::start(location, config, &hub, &clock, queue) => {
                    Some(keeper.map_err(|error| unusable(config, &error))?)
                }
                () = handlers.end() => return Ok(None),
            },
        };
        let (shutdown, shutdown_commands) = mpsc::channel(1);
        let admin = Arc::new(Admin::new(Arc::clone(&hub), process(config, &log, shutdown)));
        let server = Arc::new(server_of(&hub, admin, &clock, pressure, config.process.threads));
        let connections = TaskTracker::new();
        let acceptor = Arc::new(Acceptor::new(Arc::clone(&server), accept_settings(config), connections.clone()));
        let gearman_addresses = listeners.addresses();
        let mut addresses = gearman_addresses.clone();
        addresses.extend(http.addresses());
        let stop_listening = CancellationToken::new();
        accept_from(&mut listeners, &acceptor, &stop_listening)?;
        let http_addresses = http_plugin.addresses();
        let budget = Budget::new(accept_settings(config).limits.frames.packet, Arc::clone(&stats.memory));
        accept_from_plugin(http_plugin.tcp, &acceptor, &stop_listening, &connections, &budget, &server.pressure)?;
        stats.max_connections.set(descriptors::most_connections(config) as u64);
        let http = http.start(config, &server, &acceptor, &log, gearman_addresses, budget)?;
        tokio::spawn(keep_time(Arc::clone(&hub), clock));
        tokio::spawn(keep_order(Arc::clone(&server.listings)));
        sampler::start(&server)?;
        listeners.notices.iter().chain(&http_plugin.notices).for_each(|text| notice!("{text}"));
        say_where(&addresses, &http_addresses, keeper.is_some());
        descriptors::report(&resolved);
        settle(&log).await;
        if let Err(error) = notifier.ready(&addresses) {
            warn!("cannot reach the service manager (NOTIFY_SOCKET): {error}");
        }
        Ok(Some(Self {
            sources,
            resolved,
            hub,
            server,
            acceptor,
            log,
            watchdog: notifier.watchdog_interval().map(ticks),
            notifier,
            addresses,
            stop_listening,
            connections,
            location,
            keeper,
            shutdown_commands,
            http,
            _listeners: listeners,
            signals: handlers,
        }))
    }

    async fn serve(mut self) -> ExitCode {
        let mut status = ExitCode::SUCCESS;
        loop {
            match self.next_call().await {
                Call::Reload => self.reload().await,
                Call::Watchdog => self.tell(Notifier::watchdog),
                Call::Drain => {
                    status = self.drain().await;
                    break;
                }
                Call::Stop => break,
                Call::Fail(error) => {
                    error!("cannot restore the whole queue, stopping: {error}");
                    status = ExitCode::FAILURE;
                    break;
                }
            }
        }
        self.stop().await;
        status
    }

    async fn next_call(&mut self) -> Call {
        let (signal, call) = tokio::select! {
            _ = self.signals.terminate.recv() => ("SIGTERM", Call::Stop),
            _ = self.signals.interrupt.recv() => ("SIGINT", Call::Stop),
            _ = self.signals.drain.recv() => ("SIGUSR1", Call::Drain),
            // Logged in the file that it opens.
            _ = self.signals.reload.recv() => return Call::Reload,
            // Logged with its sender.
            Some(graceful) = self.shutdown_commands.recv() => return if graceful { Call::Drain } else { Call::Stop },
            () = tick(&mut self.watchdog) => return Call::Watchdog,
            error = store::unreadable(&mut self.keeper) => return Call::Fail(error),
        };
        audit!("{signal} received");
        call
    }

    /// Rejects new connections and new jobs, and waits until the existing jobs are done or the drain timeout
    /// has passed. Returns the exit status.
    async fn drain(&mut self) -> ExitCode {
        let bound = self.resolved.config.timeouts.drain_timeout;
        let end = bound.map(|bound| Instant::now() + bound);
        audit!(
            "draining: new jobs and connections are rejected; jobs to wait for (running, or in memory only): {}",
            self.hub.jobs_to_drain()
        );
        self.tell(|notifier| notifier.status("Draining"));
        self.stop_listening.cancel();
        self.hub.start_draining();
        while self.hub.jobs_to_drain() > 0 {
            tokio::select! {
                () = sleep(DRAIN_INTERVAL) => {}
                () = sleep_until(end.unwrap_or_else(Instant::now)), if end.is_some() => {
                    audit!("drain timeout after {:?} (drain-timeout): stopping", bound.unwrap_or_default());
                    return ExitCode::SUCCESS;
                }
                call = self.next_call() => match call {
                    Call::Stop => return ExitCode::SUCCESS,
                    Call::Fail(error) => {
                        error!("cannot restore the whole queue, stopping: {error}");
                        return ExitCode::FAILURE;
                    }
                    Call::Reload => self.reload().await,
                    Call::Watchdog => self.tell(Notifier::watchdog),
                    Call::Drain => {}
                },
            }
        }
        ExitCode::SUCCESS
    }

    /// Logs which jobs the next start will find. Finished jobs whose removal failed are among them.
    fn tell_of_kept_jobs(&self) {
        let (jobs, store) = (self.hub.kept_job_count() as u64, &self.hub.stats().store);
        if self.hub.is_restoring() {
            audit!("stopping before all jobs were restored; unfinished jobs are kept for the next start");
            return;
        }
        match (store.missing(), store.pending_removals.get()) {
            (Some(missing), _) if jobs > 0 => error!(
                "stopping; {jobs} acknowledged jobs are lost: the queue file is missing, or they were only in \
                 memory: {missing}; a file that was moved away can be moved back before the next start"
            ),
            (Some(_), _) => audit!("stopping; no jobs are kept, and none is lost"),
            (None, 0) => audit!("stopping; {jobs} jobs are kept for the next start"),
            (None, ended) => {
                let kept = jobs + ended;
                audit!(
                    "stopping; {kept} jobs are kept for the next start, {ended} of them finished but not removed: \
                     they run again"
                );
            }
        }
    }

    async fn stop(mut self) {
        self.tell(Notifier::stopping);
        self.stop_listening.cancel();
        let keeper = self.keeper.take();
        if let Some(keeper) = &keeper {
            // Pending requests to the store are answered before connections are closed.
            self.hub.start_draining();
            keeper.answer_all(&self.hub).await;
        }
        self.hub.close();
        if let Some(keeper) = keeper {
            // Requests applied until now are written to the store.
            keeper.stop(self.hub.last_number()).await;
            self.tell_of_kept_jobs();
        }
        let lost = self.hub.job_count() - self.hub.kept_job_count();
        if lost > 0 {
            error!("stopping; {lost} jobs in memory are lost");
        }
        self.connections.close();
        if timeout(STOP_TIMEOUT, self.connections.wait()).await.is_err() {
            info!("{} connections closed with unsent output", self.connections.len());
        }
        if let Some(http) = self.http.take() {
            http.stop().await;
        }
        audit!("stopped");
    }

    /// HUP: reopens the log and reloads the configuration. An invalid configuration changes nothing.
    async fn reload(&mut self) {
        self.tell(Notifier::reloading);
        self.log.reopen();
        audit!("SIGHUP, reopening log file");
        match resolve_elsewhere(&self.sources).await.and_then(|fresh| self.resolved.reload_from(&fresh)) {
            Ok(reload) => {
                for warning in &reload.resolved.warnings {
                    warn!("{warning}");
                }
                if reload.needs_restart.is_empty() && reload.changed.is_empty() {
                    audit!("configuration reloaded: no setting has changed");
                }
                if !reload.needs_restart.is_empty() {
                    audit!(
                        "configuration reloaded: these settings changed and need a restart: {}",
                        reload.needs_restart.join(", ")
                    );
                }
                if !reload.changed.is_empty() {
                    audit!("configuration reloaded: these settings changed: {}", reload.changed.join(", "));
                }
                self.resolved = reload.resolved;
                self.apply_settings();
            }
            Err(errors) => error!("reload failed, keeping the running configuration: {errors}"),
        }
        settle(&self.log).await;
        self.tell(|notifier| notifier.ready(&self.addresses));
    }

    fn apply_settings(&self) {
        let config = &self.resolved.config;
        let is_durable = self.location.is_some();
        self.hub.stats().memory.set_limit(memory_limits(config, is_durable).total);
        self.hub.set_policy(self.server.clock.now(), &policy(config, is_durable));
        if let Some(location) = &self.location {
            store::publish(self.hub.stats(), location, config);
        }
        if let Some(keeper) = &self.keeper {
            keeper.reload(config);
        }
        self.acceptor.set_settings(accept_settings(config));
        self.hub.stats().max_connections.set(descriptors::most_connections(config) as u64);
        let process = &self.server.admin.process;
        process.allow_shutdown.store(config.process.allow_shutdown, Ordering::Relaxed);
        process.is_read_only.store(config.process.admin_read_only, Ordering::Relaxed);
        self.log.set_level(config.log.verbose);
        if let Some(http) = &self.http {
            match http::read_tokens(config) {
                Ok(tokens) => http.tokens.set(tokens),
                Err(why) => error!("keeping the previous HTTP tokens: {why}"),
            }
        }
    }

    fn tell(&self, say: impl FnOnce(&Notifier) -> std::io::Result<()>) {
        if let Err(error) = say(&self.notifier) {
            warn!("cannot reach the service manager: {error}");
        }
    }
}

/// Reads the configuration on a separate thread: the file system may be slow.
async fn resolve_elsewhere(sources: &Arc<Sources>) -> Result<Resolved, ConfigErrors> {
    let (done, result) = oneshot::channel();
    let of_thread = Arc::clone(sources);
    let run = move || drop(done.send(resolve(&of_thread)));
    match std::thread::Builder::new().name("config".to_owned()).spawn(run) {
        Ok(_) => result.await.unwrap_or_else(|_| resolve(sources)),
        Err(_) => resolve(sources),
    }
}

/// Waits briefly until the log is written: a program that waits for readiness may read the log at once.
async fn settle(log: &LogHandle) {
    let end = Instant::now() + LOG_LIMIT;
    while !log.is_written() && Instant::now() < end {
        sleep(LOG_INTERVAL).await;
    }
}

fn ticks(interval: Duration) -> Interval {
    let mut ticks = interval_at(Instant::now() + interval, interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}

/// The state that all connections share.
fn server_of(hub: &Arc<Hub>, admin: Arc<Admin>, clock: &Arc<Clock>, pressure: Arc<Pressure>, threads: usize) -> Server {
    Server {
        hub: Arc::clone(hub),
        admin,
        clock: Arc::clone(clock),
        listings: Arc::new(Listings::default()),
        pressure,
        turns: Arc::new(Turns::new(threads)),
    }
}

/// Waits for the next tick, if there is an interval. Calling it again does not postpone the tick.
async fn tick(interval: &mut Option<Interval>) {
    match interval {
        Some(interval) => {
            interval.tick().await;
        }
        None => pending().await,
    }
}
