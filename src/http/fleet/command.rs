//! Commands to managed workers and monitors.

use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::body::Bytes;
use axum::http::StatusCode;
use axum::response::Response;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::fan_out::{JobRequest, Reply, fan_out};
use super::to_json;
use super::view::{TEXT_MAX, cut};
use crate::fleet::contract::{ANSWER_MAX, BadAnswer, FLEET, NAME_MAX, Verb, WorkerId, check_name, read_bounded};
use crate::fleet::report::MonitorCommand;
use crate::http::Interface;
use crate::http::actions::{function, parse, read_small};
use crate::http::answer::{ApiError, json};
use crate::http::routes::{RequestContext, Route};
use crate::protocol::text::escaped;

/// Timeout for the answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// The body of a request with a command to a worker.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WorkerBody {
    verb: Verb,
    #[serde(default)]
    functions: Vec<String>,
}

/// The body of a request with a command to a monitor.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct MonitorBody {
    verb: MonitorVerb,
    host: Option<String>,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum MonitorVerb {
    Roll,
    Stop,
    Start,
}

/// A command that is ready to be sent.
struct Command {
    /// The function that receives it.
    function: String,
    workload: Vec<u8>,
    /// Description for the log.
    text: String,
}

#[derive(Serialize)]
struct Done {
    answer: Map<String, Value>,
}

/// Sends a command to a worker or a monitor, and returns its answer.
pub(in crate::http) async fn command(route: Route, mut context: RequestContext) -> Result<Response, ApiError> {
    context.query(&[])?;
    let body = std::mem::take(&mut context.body);
    let body = read_small(&context.headers, body).await?;
    let command = match route {
        Route::CommandWorker => Command::for_worker(&context.name, parse(&body)?)?,
        _ => Command::for_monitor(&context.name, parse(&body)?)?,
    };
    let RequestContext { interface, actor, .. } = context;
    let workers = interface.parts.stats.functions.get(command.function.as_bytes()).map(|entry| entry.workers.get());
    if workers.is_none_or(|workers| workers == 0) {
        return Err(nobody(route));
    }
    let permit = Arc::clone(&interface.actions).try_acquire_owned();
    let permit = permit.map_err(|_| ApiError::busy("too_many_actions", "too many concurrent actions; try again"))?;
    // A separate task, so that the command completes and is logged even if the client disconnects.
    let task = tokio::spawn(async move {
        let _permit = permit;
        let Command { function, workload, text } = command;
        let said = give(&interface, actor.address, function, workload).await;
        let how = said.as_ref().err().map_or("done", ApiError::message);
        interface.parts.admin.log_command(&text, how, &actor.text);
        // The client will want to see the effect, so invalidate the cache.
        interface.fleet.is_old.store(true, Ordering::Relaxed);
        said
    });
    match task.await {
        Ok(answer) => Ok(json(&Done { answer: answer? })),
        Err(_) => Err(ApiError::busy("stopped", "the server stopped before the action completed")),
    }
}

/// The error for a missing worker or monitor.
fn nobody(route: Route) -> ApiError {
    match route {
        Route::CommandWorker => ApiError::missing("no_such_worker", "there is no managed worker with this id"),
        _ => ApiError::missing("no_such_monitor", "no monitor of this fleet; `gearmand fleet run` starts one"),
    }
}

impl Command {
    fn for_worker(name: &[u8], WorkerBody { verb, functions }: WorkerBody) -> Result<Self, ApiError> {
        let id = String::from_utf8(name.to_vec()).ok().and_then(|id| WorkerId::try_from(id).ok());
        let id = id.ok_or_else(|| nobody(Route::CommandWorker))?;
        let wants_functions = matches!(verb, Verb::RegisterFunction | Verb::UnregisterFunction);
        if wants_functions == functions.is_empty() {
            let message =
                "functions is required to register or unregister functions, and is not allowed with other verbs";
            return Err(ApiError::bad("bad_body", message));
        }
        for name in &functions {
            if name.is_empty() {
                return Err(ApiError::bad(
                    "bad_function",
                    "a managed worker cannot have a function with an empty name",
                ));
            }
            function(name.clone().into_bytes())?;
        }
        let mut text = format!("fleet worker {id} {}", word(verb));
        for name in &functions {
            let _ = write!(text, " {}", escaped(name.as_bytes()));
        }
        let workload = to_json(&verb.request_for(functions));
        Ok(Self { function: id.manage_function(), workload, text: cut(text, TEXT_MAX) })
    }

    fn for_monitor(name: &[u8], MonitorBody { verb, host }: MonitorBody) -> Result<Self, ApiError> {
        let fleet = std::str::from_utf8(name).ok().filter(|fleet| check_name(fleet).is_ok());
        let fleet = fleet.ok_or_else(|| nobody(Route::CommandMonitor))?;
        if host.as_ref().is_some_and(|host| host.is_empty() || host.len() > NAME_MAX) {
            return Err(ApiError::bad("bad_body", format!("a host's name has 1 to {NAME_MAX} bytes")));
        }
        let host_text = host.as_deref().map_or_else(|| "all hosts".to_owned(), |host| escaped(host.as_bytes()));
        let needed = |host: Option<String>| {
            host.ok_or_else(|| ApiError::bad("bad_body", "host is required: the host to stop or start"))
        };
        let (command, verb) = match verb {
            MonitorVerb::Roll => (MonitorCommand::Roll { host }, "roll"),
            MonitorVerb::Stop => (MonitorCommand::Stop { host: needed(host)? }, "stop"),
            MonitorVerb::Start => (MonitorCommand::Start { host: needed(host)? }, "start"),
        };
        let text = format!("fleet monitor {fleet} {verb} {host_text}");
        Ok(Self { function: format!("{FLEET}{fleet}"), workload: to_json(&command), text })
    }
}

/// The name of a verb.
fn word(verb: Verb) -> String {
    String::from_utf8_lossy(&to_json(&verb)).trim_matches('"').to_owned()
}

/// Sends a command, and waits for the answer.
async fn give(
    interface: &Interface,
    peer: String,
    function: String,
    workload: Vec<u8>,
) -> Result<Map<String, Value>, ApiError> {
    let request = JobRequest { function, unique: "", workload: Bytes::from(workload), most: ANSWER_MAX };
    let mut said = None;
    let asked = fan_out(interface, peer, &[request], PATIENCE, |_, reply| said = Some(reply)).await;
    asked.map_err(|error| ApiError::busy("no_connection", format!("the job server closed the connection: {error}")))?;
    match said {
        Some(Reply::Answer(answer)) => read(&answer),
        Some(Reply::Failed(why)) => Err(no_sense(&why)),
        None => {
            let seconds = PATIENCE.as_secs();
            let message = format!("no answer within {seconds} s; the command may still be executed");
            Err(ApiError::new(StatusCode::GATEWAY_TIMEOUT, "no_answer", message))
        }
    }
}

/// The contents of a successful answer.
fn read(answer: &[u8]) -> Result<Map<String, Value>, ApiError> {
    read_bounded(answer, ANSWER_MAX).map_err(|error| match error {
        BadAnswer::Refused(why) => {
            ApiError::new(StatusCode::CONFLICT, "refused", format!("it refused: {}", cut(why, TEXT_MAX)))
        }
        other => no_sense(&other.to_string()),
    })
}

/// The error for an answer that violates the contract.
fn no_sense(why: &str) -> ApiError {
    let message = format!("its answer violates the contract: {}", cut(why.to_owned(), TEXT_MAX));
    ApiError::new(StatusCode::BAD_GATEWAY, "bad_answer", message)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn worker(name: &[u8], body: Value) -> Result<Command, ApiError> {
        Command::for_worker(name, serde_json::from_value(body).unwrap())
    }

    fn monitor(name: &[u8], body: Value) -> Result<Command, ApiError> {
        Command::for_monitor(name, serde_json::from_value(body).unwrap())
    }

    #[test]
    fn commands_are_what_the_contract_says() {
        let command = worker(b"web-1", json!({"verb": "registerFunction", "functions": ["a\nb"]})).unwrap();
        assert_eq!(command.function, "manage_web-1");
        assert_eq!(command.workload, br#"{"verb":"registerFunction","arguments":{"functions":["a\nb"]}}"#);
        assert_eq!(command.text, "fleet worker web-1 registerFunction a\\x0ab");
        assert_eq!(worker(b"a", json!({"verb": "reload"})).unwrap().workload, br#"{"verb":"reload"}"#);
        let command = monitor(b"web", json!({"verb": "stop", "host": "a"})).unwrap();
        assert_eq!((command.function.as_str(), command.text.as_str()), ("fleet_web", "fleet monitor web stop a"));
        assert_eq!(command.workload, br#"{"verb":"stop","arguments":{"host":"a"}}"#);
        assert!(monitor(b"web", json!({"verb": "roll"})).is_ok());
    }

    #[test]
    fn commands_that_make_no_sense_are_not_given() {
        for body in [
            json!({"verb": "registerFunction"}),
            json!({"verb": "exitWorker", "functions": ["f"]}),
            json!({"verb": "unregisterFunction", "functions": ["f", ""]}),
        ] {
            assert!(worker(b"a", body.clone()).is_err(), "{body}");
        }
        for (name, body) in [
            ("web", json!({"verb": "stop"})),
            ("web", json!({"verb": "roll", "host": ""})),
            ("a b", json!({"verb": "roll"})),
        ] {
            assert!(monitor(name.as_bytes(), body).is_err(), "{name}");
        }
    }
}
