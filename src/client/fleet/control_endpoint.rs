//! The monitor's control endpoint: the function `fleet_<name>`, registered as a worker on each server.

use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;

use crate::client::address::ServerAddress;
use crate::client::answer::Answer;
use crate::client::backoff::Backoff;
use crate::client::connection::{self, Connection, ConnectionError};
use crate::client::job_runner::{UNSENT_MAX, foreign};
use crate::client::limit::tell_limited;
use crate::fleet::contract::Refusal;
use crate::fleet::report::MonitorCommand;
use crate::protocol::packet::PacketType;

/// How long a request may wait for the monitor.
const PATIENCE: Duration = Duration::from_secs(30);

/// A request, and the channel for its answer.
pub(super) struct ControlRequest {
    pub(super) command: MonitorCommand,
    pub(super) answer: oneshot::Sender<Result<String, String>>,
}

/// Answer to an accepted request.
#[derive(Serialize)]
struct Ack {
    ok: bool,
    did: String,
}

/// State of one endpoint connection.
#[derive(Clone)]
struct EndpointConnection {
    address: ServerAddress,
    connect_timeout: Duration,
    function: String,
    client_id: String,
    report: watch::Receiver<Arc<[u8]>>,
    requests: mpsc::Sender<ControlRequest>,
}

/// The endpoint. Dropping it ends its connections.
pub(super) struct ControlEndpoint {
    _connections: JoinSet<()>,
    pub(super) requests: mpsc::Receiver<ControlRequest>,
    report: watch::Sender<Arc<[u8]>>,
}

impl ControlEndpoint {
    /// Connects to each server.
    pub(super) fn open(
        servers: Vec<ServerAddress>,
        connect_timeout: Duration,
        function: &str,
        client_id: &str,
        report: Vec<u8>,
    ) -> Self {
        let (sender, requests) = mpsc::channel(16);
        let (publish, report) = watch::channel(Arc::from(report));
        let mut connections = JoinSet::new();
        for address in servers {
            let connection = EndpointConnection {
                address,
                connect_timeout,
                function: function.to_owned(),
                client_id: client_id.to_owned(),
                report: report.clone(),
                requests: sender.clone(),
            };
            connections.spawn(connection.run());
        }
        Self { _connections: connections, requests, report: publish }
    }

    /// Sets the report that answers the verb `status`.
    pub(super) fn publish(&self, report: Vec<u8>) {
        self.report.send_replace(Arc::from(report));
    }
}

impl EndpointConnection {
    async fn run(self) {
        let mut backoff = Backoff::new();
        loop {
            // The monitor reports servers that cannot be reached.
            if let Ok(stream) = connection::open(&self.address, self.connect_timeout).await {
                let mut connection = Connection::new(stream);
                let Err(error) = self.serve(&mut connection, &mut backoff).await else { return };
                tell_limited("fleet", format_args!("no connection to {}: {error}; trying again", self.address));
            }
            tokio::time::sleep(backoff.pause()).await;
        }
    }

    /// Answers requests until the connection is lost.
    async fn serve(&self, connection: &mut Connection, backoff: &mut Backoff) -> Result<(), ConnectionError> {
        connection.request(PacketType::SetClientId, &[self.client_id.as_bytes()])?;
        connection.request(PacketType::CanDo, &[self.function.as_bytes()])?;
        let mut done = None;
        loop {
            // Do not queue requests without limit for a server that answers but does not read.
            connection.flush_to(UNSENT_MAX).await?;
            connection.request(PacketType::GrabJob, &[])?;
            match connection.receive().await? {
                Answer::JobAssign(job) if *job.function != *self.function.as_bytes() => return Err(foreign(&job)),
                Answer::JobAssign(job) => {
                    backoff.reset();
                    let answer = self.answer(&job.workload).await;
                    connection.request(PacketType::WorkComplete, &[&job.handle, &answer])?;
                    done = Some(job.handle);
                }
                Answer::NoJob => {
                    done = None;
                    connection.request(PacketType::PreSleep, &[])?;
                    while connection.receive().await? != Answer::Noop {}
                }
                Answer::Error { code, text } => {
                    tell_limited("fleet", format_args!("server error from {}: {code}: {text}", self.address));
                    if let Some(handle) = done.take() {
                        // A rejected answer leaves the job unfinished and its client waiting.
                        connection.request(PacketType::WorkFail, &[&handle])?;
                    }
                }
                Answer::Noop | Answer::JobCreated(_) | Answer::Work { .. } | Answer::OptionRes | Answer::EchoRes => {}
            }
        }
    }

    async fn answer(&self, workload: &[u8]) -> Vec<u8> {
        let command = match serde_json::from_slice(workload) {
            Ok(MonitorCommand::Status) => return self.report.borrow().to_vec(),
            Ok(command) => command,
            Err(error) => return json(&refusal(format!("invalid request: {error}"))),
        };
        let (answer, answered) = oneshot::channel();
        let asked = async {
            self.requests.send(ControlRequest { command, answer }).await.ok()?;
            answered.await.ok()
        };
        match tokio::time::timeout(PATIENCE, asked).await {
            Ok(Some(Ok(did))) => json(&Ack { ok: true, did }),
            Ok(Some(Err(error))) => json(&refusal(error)),
            Ok(None) => json(&refusal("monitor is shutting down".to_owned())),
            Err(_) => json(&refusal("monitor is busy; the request may still be carried out".to_owned())),
        }
    }
}

fn refusal(error: String) -> Refusal {
    Refusal { ok: false, error }
}

fn json(value: &impl Serialize) -> Vec<u8> {
    // Serializing plain data does not fail.
    serde_json::to_vec(value).unwrap_or_default()
}
