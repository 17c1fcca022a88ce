//! Responses of a managed worker to `setId` and to each verb: always JSON, never a failure.

use serde_json::{Value, json};

use super::state::{End, LANGUAGE, Managed};
use crate::fleet::contract::{ANSWER_MAX, CONTRACT, Refusal, Verb, WorkerId};

/// How much of an invalid value is quoted, in characters.
const SHOWN: usize = 80;

/// Response to `setId`.
pub(super) fn set_id(worker: &Managed, workload: &[u8]) -> Vec<u8> {
    let id = match std::str::from_utf8(workload) {
        Ok(id) => WorkerId::try_from(id.to_owned()).map_err(|why| format!("an id {why}")),
        Err(_) => Err("an id must be a string".to_owned()),
    };
    written(id.and_then(|id| {
        let introduction = worker.name(id).map_err(|earlier| format!("worker already has the id {earlier}"))?;
        Ok(json!(introduction))
    }))
}

/// Response to a job of the worker's management function.
pub(super) async fn manage(worker: &Managed, function: &[u8], workload: &[u8]) -> Vec<u8> {
    written(match (WorkerId::of_function(function), read(workload)) {
        (None, _) => Err("not a function of a managed worker".to_owned()),
        (_, Err(why)) => Err(why),
        (Some(id), Ok(order)) => obey(worker, id, order).await,
    })
}

/// A valid request.
#[derive(Debug, PartialEq, Eq)]
enum Order {
    Plain(Verb),
    /// Take functions into use (true) or out of use (false).
    Use(Vec<String>, bool),
}

impl Order {
    /// Whether a leaving worker still accepts it.
    const fn is_for_leaving(&self) -> bool {
        !matches!(self, Self::Use(_, true) | Self::Plain(Verb::NewWorker | Verb::Reload))
    }
}

async fn obey(worker: &Managed, id: WorkerId, order: Order) -> Result<Value, String> {
    if worker.is_leaving() && !order.is_for_leaving() {
        return Err("worker is shutting down; ask another one".to_owned());
    }
    match order {
        Order::Use(names, in_use) => {
            let generation = worker.use_functions(&names, in_use).map_err(|name| {
                format!("\"arguments.functions\": \"{}\" is not available on this worker", shortened(&name))
            })?;
            worker.in_effect(generation).await;
            let (in_use, not_in_use) = worker.functions();
            Ok(json!({"ok": true, "functionInUse": in_use, "functionNotUse": not_in_use}))
        }
        Order::Plain(Verb::NewWorker) => Ok(json!({"ok": true, "pid": worker.supervisor.another().await?})),
        Order::Plain(Verb::ExitWorker) => {
            worker.leave(End::Stopped);
            Ok(json!({"ok": true, "state": "leaving"}))
        }
        Order::Plain(Verb::Reload) => Ok(json!({"ok": true, "version": worker.reload()?})),
        Order::Plain(Verb::Version) => {
            Ok(json!({"ok": true, "version": worker.version(), "language": LANGUAGE, "contract": CONTRACT}))
        }
        Order::Plain(_) => Ok(json!(worker.status(id))),
    }
}

/// Parses a request.
fn read(workload: &[u8]) -> Result<Order, String> {
    if workload.len() > ANSWER_MAX {
        return Err(format!("request exceeds {ANSWER_MAX} bytes"));
    }
    let request: Value = serde_json::from_slice(workload).map_err(|error| format!("workload is not JSON: {error}"))?;
    let Value::Object(mut request) = request else {
        return Err("workload is not a JSON object".to_owned());
    };
    let Some(Value::String(verb)) = request.remove("verb") else {
        return Err("\"verb\" is missing or not a string".to_owned());
    };
    let known = serde_json::from_value::<Verb>(Value::String(verb.clone()));
    let Ok(verb) = known else {
        return Err(format!("\"verb\": \"{}\" is unknown", shortened(&verb)));
    };
    Ok(match verb {
        Verb::RegisterFunction | Verb::UnregisterFunction => {
            let functions = match request.remove("arguments") {
                Some(Value::Object(mut arguments)) => arguments.remove("functions"),
                _ => None,
            };
            let names = functions.and_then(|functions| serde_json::from_value::<Vec<String>>(functions).ok());
            let names = names.ok_or_else(|| "\"arguments.functions\" is missing or not a list of names".to_owned())?;
            Order::Use(names, verb == Verb::RegisterFunction)
        }
        verb => Order::Plain(verb),
    })
}

fn shortened(text: &str) -> String {
    text.chars().take(SHOWN).collect()
}

fn written(answer: Result<Value, String>) -> Vec<u8> {
    let answer = answer.unwrap_or_else(|error| json!(Refusal { ok: false, error }));
    answer.to_string().into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_read_and_what_is_unknown_in_them_ignored() {
        let of = |workload: &str| read(workload.as_bytes());
        assert_eq!(of(r#"{"verb": "status", "arguments": [], "new": {}}"#), Ok(Order::Plain(Verb::Status)));
        let names = r#"{"verb": "registerFunction", "arguments": {"functions": ["a", "b"], "new": 1}}"#;
        assert_eq!(of(names), Ok(Order::Use(vec!["a".to_owned(), "b".to_owned()], true)));
        let none = r#"{"verb": "unregisterFunction", "arguments": {"functions": []}}"#;
        assert_eq!(of(none), Ok(Order::Use(Vec::new(), false)));
    }

    #[test]
    fn requests_that_make_no_sense_are_told_why() {
        let why = |workload: &[u8]| read(workload).unwrap_err();
        assert!(why(b"").starts_with("workload is not JSON"));
        assert!(why(b"{\"verb\": \"status\"").starts_with("workload is not JSON"));
        assert!(why(b"\xff\xfe").starts_with("workload is not JSON"));
        assert!(why("[".repeat(100_000).as_bytes()).starts_with("workload is not JSON"));
        assert_eq!(why(b"[1]"), "workload is not a JSON object");
        assert_eq!(why(b"{}"), "\"verb\" is missing or not a string");
        assert_eq!(why(b"{\"verb\": 3}"), "\"verb\" is missing or not a string");
        assert_eq!(why(b"{\"verb\": \"dance\"}"), "\"verb\": \"dance\" is unknown");
        let long = format!("{{\"verb\": \"{}\"}}", "\u{e9}".repeat(1000));
        assert_eq!(why(long.as_bytes()), format!("\"verb\": \"{}\" is unknown", "\u{e9}".repeat(SHOWN)));
        for arguments in ["null", "[]", "{}", "{\"functions\": \"a\"}", "{\"functions\": [1]}"] {
            let request = format!("{{\"verb\": \"registerFunction\", \"arguments\": {arguments}}}");
            assert_eq!(why(request.as_bytes()), "\"arguments.functions\" is missing or not a list of names");
        }
        assert_eq!(why(&vec![b' '; ANSWER_MAX + 1]), format!("request exceeds {ANSWER_MAX} bytes"));
    }
}
