//! What is said on `setId` and `manage_<id>`, as types. The module above describes it.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

/// The function of a worker that has no id yet.
pub const SET_ID: &str = "setId";
/// What the function by which a worker is managed begins with; its id follows.
pub const MANAGE: &str = "manage_";
/// What the function by which a monitor is asked begins with; the fleet's name follows.
pub const FLEET: &str = "fleet_";
/// The version of the contract.
pub const CONTRACT: u32 = 1;
/// The fleet of a worker that was not told any.
pub const DEFAULT_FLEET: &str = "default";
/// The environment variable that says the fleet.
pub const FLEET_NAME_VARIABLE: &str = "FLEET_NAME";
/// The environment variable that says the host's name, where that of the system is of no use.
pub const FLEET_HOST_VARIABLE: &str = "FLEET_HOST";

/// The longest id of a worker, and the longest name of a fleet or host, in bytes.
pub const NAME_MAX: usize = 64;
/// The longest answer that is read, in bytes: several thousand functions of usual names.
pub const ANSWER_MAX: usize = 1 << 20;
/// So many functions of a worker are looked at.
pub const FUNCTIONS_MAX: usize = 4096;

/// What tells one worker of a fleet from another: 1 to [`NAME_MAX`] letters, digits, `.`, `_` or `-`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct WorkerId(String);

/// A text that is no id or no name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("must have 1 to {NAME_MAX} letters, digits, dots, underscores or hyphens")]
pub struct BadName;

/// Whether a fleet can be called so.
///
/// # Errors
/// [`BadName`].
pub fn check_name(name: &str) -> Result<(), BadName> {
    let fits = |letter: u8| letter.is_ascii_alphanumeric() || b"._-".contains(&letter);
    if (1..=NAME_MAX).contains(&name.len()) && name.bytes().all(fits) { Ok(()) } else { Err(BadName) }
}

/// The fleet whose monitor a function asks; `None` for a function that asks none.
pub fn fleet_of_function(name: &[u8]) -> Option<&str> {
    let fleet = std::str::from_utf8(name.strip_prefix(FLEET.as_bytes())?).ok()?;
    check_name(fleet).is_ok().then_some(fleet)
}

impl WorkerId {
    /// The id that stands in a function's name; `None` for a function that manages no worker.
    pub fn of_function(name: &[u8]) -> Option<Self> {
        let id = name.strip_prefix(MANAGE.as_bytes())?;
        Self::try_from(std::str::from_utf8(id).ok()?.to_owned()).ok()
    }

    /// The function by which the worker is managed.
    pub fn manage_function(&self) -> String {
        format!("{MANAGE}{}", self.0)
    }

    /// The id itself.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for WorkerId {
    type Error = BadName;

    fn try_from(id: String) -> Result<Self, BadName> {
        check_name(&id).map(|()| Self(id))
    }
}

impl From<WorkerId> for String {
    fn from(id: WorkerId) -> Self {
        id.0
    }
}

impl fmt::Display for WorkerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The answer to `setId`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Introduction {
    /// True.
    pub ok: bool,
    /// [`CONTRACT`].
    #[serde(default)]
    pub contract: u32,
    /// The id that it has now.
    pub id: WorkerId,
    /// Its fleet.
    #[serde(default = "default_fleet")]
    pub fleet: String,
    /// The name of its host.
    #[serde(default)]
    pub host: String,
    /// Its process.
    #[serde(default)]
    pub pid: u64,
    /// What it is written in.
    #[serde(default)]
    pub language: String,
    /// The version of its own code.
    #[serde(default)]
    pub version: String,
    /// When it was started, in seconds since 1970.
    #[serde(default)]
    pub started: f64,
    /// All functions that it could do.
    #[serde(default)]
    pub functions: Vec<String>,
}

/// The answer to the verb `status`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// True.
    pub ok: bool,
    /// [`CONTRACT`].
    #[serde(default)]
    pub contract: u32,
    /// Its id.
    pub id: WorkerId,
    /// Its fleet.
    #[serde(default = "default_fleet")]
    pub fleet: String,
    /// The name of its host.
    #[serde(default)]
    pub host: String,
    /// Its process.
    #[serde(default)]
    pub pid: u64,
    /// What it is written in.
    #[serde(default)]
    pub language: String,
    /// The version of its own code.
    #[serde(default)]
    pub version: String,
    /// When it was started, in seconds since 1970.
    #[serde(default)]
    pub started: f64,
    /// How long it has been there, in seconds.
    #[serde(default)]
    pub uptime: f64,
    /// What it does.
    #[serde(default)]
    pub state: WorkerState,
    /// The functions that it does jobs of.
    #[serde(default, rename = "functionInUse")]
    pub in_use: Vec<String>,
    /// The functions that it could do jobs of, and does not.
    #[serde(default, rename = "functionNotUse")]
    pub not_in_use: Vec<String>,
    /// Jobs done of each function, failed ones included.
    #[serde(default)]
    pub count: BTreeMap<String, u64>,
    /// Jobs of each function that failed.
    #[serde(default)]
    pub failures: BTreeMap<String, u64>,
    /// The jobs that run now.
    #[serde(default)]
    pub running: Vec<Run>,
    /// What it has resident, in bytes.
    #[serde(default)]
    pub memory: u64,
}

/// A job that a worker runs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Run {
    /// The job's function.
    pub function: String,
    /// The job's handle.
    #[serde(default)]
    pub handle: String,
    /// When it began, in seconds since 1970.
    #[serde(default)]
    pub since: f64,
}

/// What a managed worker does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WorkerState {
    /// It runs a job.
    Working,
    /// It waits for one.
    #[default]
    Idle,
    /// It takes no more jobs and ends when the one that runs is done.
    Leaving,
}

/// What a worker is asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// What is to be done.
    pub verb: Verb,
    /// What with.
    #[serde(default, skip_serializing_if = "Arguments::is_empty")]
    pub arguments: Arguments,
}

/// The arguments of a [`Request`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Arguments {
    /// Those that are to be registered or dropped.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub functions: Vec<String>,
}

impl Arguments {
    fn is_empty(&self) -> bool {
        self.functions.is_empty()
    }
}

/// What can be asked of a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Verb {
    /// How it is.
    Status,
    /// Do jobs of these functions.
    RegisterFunction,
    /// Do no more jobs of these functions.
    UnregisterFunction,
    /// Start another worker.
    NewWorker,
    /// Finish and end.
    ExitWorker,
    /// Take up new code or settings.
    Reload,
    /// Which version it is.
    Version,
}

impl Verb {
    /// A request without arguments.
    pub fn request(self) -> Request {
        Request { verb: self, arguments: Arguments::default() }
    }

    /// A request about functions.
    pub fn request_for(self, functions: Vec<String>) -> Request {
        Request { verb: self, arguments: Arguments { functions } }
    }
}

/// The answer to what cannot be done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// False.
    pub ok: bool,
    /// What was wrong with what.
    #[serde(default)]
    pub error: String,
}

fn default_fleet() -> String {
    DEFAULT_FLEET.to_owned()
}

/// Reads an answer.
///
/// # Errors
/// What the worker said is wrong, or why its answer is none.
pub fn read_answer<'a, T: Deserialize<'a>>(answer: &'a [u8]) -> Result<T, String> {
    if answer.len() > ANSWER_MAX {
        return Err(format!("an answer of more than {ANSWER_MAX} bytes"));
    }
    match serde_json::from_slice::<Refusal>(answer) {
        Ok(Refusal { ok: false, error }) => Err(error),
        Ok(_) => serde_json::from_slice(answer).map_err(|error| format!("an answer that makes no sense: {error}")),
        Err(error) => Err(format!("an answer that is no JSON object with \"ok\": {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_words_that_a_listing_can_show() {
        let of = |name: &str| WorkerId::of_function(name.as_bytes()).map(String::from);
        assert_eq!(of("manage_web-1.a_b"), Some("web-1.a_b".to_owned()));
        for strange in ["manage_", "manage_a b", "setId", "manage_\u{e9}", &format!("manage_{}", "a".repeat(65))] {
            assert_eq!(of(strange), None, "{strange}");
        }
        assert_eq!(fleet_of_function(b"fleet_web"), Some("web"));
        assert_eq!([fleet_of_function(b"fleet_"), fleet_of_function(b"fleet_a b")], [None, None]);
    }

    #[test]
    fn an_answer_is_read_or_says_what_is_wrong() {
        let status = br#"{"ok": true, "id": "a", "functionInUse": ["f"], "state": "leaving", "new": 1}"#;
        let status: Status = read_answer(status).unwrap();
        assert_eq!(
            (status.in_use, status.state, status.fleet),
            (vec!["f".to_owned()], WorkerState::Leaving, "default".to_owned())
        );
        assert_eq!(read_answer::<Status>(br#"{"ok": false, "error": "no verb"}"#), Err("no verb".to_owned()));
        for strange in ["", "[]", "{}", "{\"ok\": 1}", "{\"ok\": true}", "{\"ok\": true, \"id\": \"a b\"}"] {
            assert!(read_answer::<Status>(strange.as_bytes()).is_err(), "{strange}");
        }
    }

    #[test]
    fn a_request_is_a_verb_and_its_arguments() {
        let said = |request: &Request| serde_json::to_string(request).unwrap();
        assert_eq!(said(&Verb::ExitWorker.request()), r#"{"verb":"exitWorker"}"#);
        let register = Verb::RegisterFunction.request_for(vec!["f".to_owned()]);
        assert_eq!(said(&register), r#"{"verb":"registerFunction","arguments":{"functions":["f"]}}"#);
    }
}
