//! Messages of `setId` and `manage_<id>`, as types. `docs/worker-contract.md` describes them.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Deserializer, Serialize};

use super::lenient;

/// Function of a worker that has no id yet.
pub const SET_ID: &str = "setId";
/// Prefix of a worker's management function; its id follows.
pub const MANAGE: &str = "manage_";
/// Prefix of a monitor's control function; the fleet's name follows.
pub const FLEET: &str = "fleet_";
/// Version of the contract.
pub const CONTRACT: u32 = 1;
/// Fleet of a worker without a configured one.
pub const DEFAULT_FLEET: &str = "default";
/// Environment variable with the fleet name.
pub const FLEET_NAME_VARIABLE: &str = "FLEET_NAME";
/// Environment variable with the host name, if the system's is unsuitable.
pub const FLEET_HOST_VARIABLE: &str = "FLEET_HOST";

/// The longest id of a worker, and the longest name of a fleet or host, in bytes.
pub const NAME_MAX: usize = 64;
/// The longest version, in bytes.
pub const VERSION_MAX: usize = 256;
/// The longest name of a function, in bytes.
pub const FUNCTION_MAX: usize = 512;
/// The longest handle of a job, in bytes.
pub const HANDLE_MAX: usize = 512;
/// Maximum number of running jobs that are read from a worker's status.
pub const RUNS_MAX: usize = 64;
/// Longest answer that is read, in bytes: enough for several thousand functions with usual names.
pub const ANSWER_MAX: usize = 1 << 20;
/// Maximum number of functions that are read from a worker's status.
pub const FUNCTIONS_MAX: usize = 4096;

/// Unique id of a worker in a fleet: 1 to [`NAME_MAX`] letters, digits, `.`, `_` or `-`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct WorkerId(String);

/// An invalid id or name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("must have 1 to {NAME_MAX} letters, digits, dots, underscores or hyphens")]
pub struct BadName;

/// Whether a fleet name is valid.
///
/// # Errors
/// [`BadName`].
pub fn check_name(name: &str) -> Result<(), BadName> {
    let fits = |letter: u8| letter.is_ascii_alphanumeric() || b"._-".contains(&letter);
    if (1..=NAME_MAX).contains(&name.len()) && name.bytes().all(fits) { Ok(()) } else { Err(BadName) }
}

/// Whether a function manages workers or monitors. A fleet does not run such functions as work.
pub fn belongs_to_contract(function: &str) -> bool {
    function == SET_ID || function.starts_with(MANAGE) || function.starts_with(FLEET)
}

/// The fleet whose monitor has this control function; `None` for other functions.
pub fn fleet_of_function(name: &[u8]) -> Option<&str> {
    let fleet = std::str::from_utf8(name.strip_prefix(FLEET.as_bytes())?).ok()?;
    check_name(fleet).is_ok().then_some(fleet)
}

impl WorkerId {
    /// The id in the name of a management function; `None` for other functions.
    pub fn of_function(name: &[u8]) -> Option<Self> {
        let id = name.strip_prefix(MANAGE.as_bytes())?;
        Self::try_from(std::str::from_utf8(id).ok()?.to_owned()).ok()
    }

    /// The worker's management function.
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

/// Identity of a worker: the fields that its answers to `setId` and `status` begin with.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Identity {
    /// True.
    pub ok: bool,
    /// [`CONTRACT`].
    #[serde(default, deserialize_with = "lenient::small")]
    pub contract: u32,
    /// Its id.
    pub id: WorkerId,
    /// Its fleet.
    #[serde(default = "default_fleet", deserialize_with = "fleet")]
    pub fleet: String,
    /// Host name.
    #[serde(default, deserialize_with = "lenient::text")]
    pub host: String,
    /// Process id.
    #[serde(default, deserialize_with = "lenient::whole")]
    pub pid: u64,
    /// Implementation language.
    #[serde(default, deserialize_with = "lenient::text")]
    pub language: String,
    /// Version of its own code.
    #[serde(default, deserialize_with = "lenient::text")]
    pub version: String,
    /// Start time, in seconds since 1970.
    #[serde(default, deserialize_with = "lenient::fraction")]
    pub started: f64,
}

/// Answer to `setId`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Introduction {
    /// The worker, with its new id.
    #[serde(flatten)]
    pub identity: Identity,
    /// All functions that it can run.
    #[serde(default, deserialize_with = "lenient::texts::<_, FUNCTIONS_MAX>")]
    pub functions: Vec<String>,
}

/// Answer to the verb `status`. [`Status::read`] parses it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// The worker.
    #[serde(flatten)]
    pub identity: Identity,
    /// Its activity.
    #[serde(flatten)]
    pub activity: Activity,
}

/// Activity of a worker: the fields of its status that change while it runs.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Activity {
    /// Time since its start, in seconds.
    #[serde(default, deserialize_with = "lenient::fraction")]
    pub uptime: f64,
    /// Its state.
    #[serde(default)]
    pub state: WorkerState,
    /// Functions in use: it runs their jobs.
    #[serde(default, rename = "functionInUse", deserialize_with = "lenient::texts::<_, FUNCTIONS_MAX>")]
    pub in_use: Vec<String>,
    /// Functions that it can run, but that are not in use.
    #[serde(default, rename = "functionNotUse", deserialize_with = "lenient::texts::<_, FUNCTIONS_MAX>")]
    pub not_in_use: Vec<String>,
    /// Number of finished jobs per function, failed ones included.
    #[serde(default, deserialize_with = "lenient::counts::<_, FUNCTIONS_MAX>")]
    pub count: BTreeMap<String, u64>,
    /// Number of failed jobs per function.
    #[serde(default, deserialize_with = "lenient::counts::<_, FUNCTIONS_MAX>")]
    pub failures: BTreeMap<String, u64>,
    /// Running jobs.
    #[serde(default, deserialize_with = "lenient::list::<_, _, RUNS_MAX>")]
    pub running: Vec<Run>,
    /// Resident memory, in bytes.
    #[serde(default, deserialize_with = "lenient::whole")]
    pub memory: u64,
}

/// A running job.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Run {
    /// Function of the job.
    #[serde(default, deserialize_with = "lenient::text")]
    pub function: String,
    /// Handle of the job.
    #[serde(default, deserialize_with = "lenient::text")]
    pub handle: String,
    /// Start time, in seconds since 1970.
    #[serde(default, deserialize_with = "lenient::fraction")]
    pub since: f64,
}

impl Status {
    /// Parses a worker's answer.
    ///
    /// Each part is read on its own. Read together, `flatten` would first store the whole answer, with all
    /// fields that are unknown here, in many times its size.
    ///
    /// # Errors
    /// The worker's reason for a refusal, or why the answer is invalid.
    pub fn read(answer: &[u8]) -> Result<Self, String> {
        Ok(Self { identity: read_answer(answer)?, activity: read_answer(answer)? })
    }

    /// Enforces the limits: truncates texts, and drops invalid function names.
    #[must_use]
    pub fn bounded(mut self) -> Self {
        let identity = &mut self.identity;
        for (text, most) in [
            (&mut identity.fleet, NAME_MAX),
            (&mut identity.host, NAME_MAX),
            (&mut identity.language, NAME_MAX),
            (&mut identity.version, VERSION_MAX),
        ] {
            cut(text, most);
        }
        let activity = &mut self.activity;
        for names in [&mut activity.in_use, &mut activity.not_in_use] {
            names.retain(|name| is_function(name));
            names.truncate(FUNCTIONS_MAX);
        }
        for counts in [&mut activity.count, &mut activity.failures] {
            counts.retain(|name, _| is_function(name));
            while counts.len() > FUNCTIONS_MAX {
                counts.pop_last();
            }
        }
        activity.running.truncate(RUNS_MAX);
        for run in &mut activity.running {
            cut(&mut run.function, FUNCTION_MAX);
            cut(&mut run.handle, HANDLE_MAX);
        }
        self
    }
}

/// Truncates a text to at most `most` bytes, at a character boundary.
pub fn cut(text: &mut String, most: usize) {
    text.truncate(text.floor_char_boundary(most));
}

/// Whether a function name is valid.
pub fn is_function(name: &str) -> bool {
    (1..=FUNCTION_MAX).contains(&name.len()) && !name.contains('\0')
}

/// State of a managed worker.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum WorkerState {
    /// Runs a job.
    Working,
    /// Waits for a job.
    #[default]
    Idle,
    /// Takes no more jobs and exits when the running one is done.
    Leaving,
}

impl WorkerState {
    /// Its name in the contract.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Working => "working",
            Self::Idle => "idle",
            Self::Leaving => "leaving",
        }
    }
}

impl<'de> Deserialize<'de> for WorkerState {
    /// Unknown states of newer versions are read as the default.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let word = lenient::text(deserializer)?;
        Ok([Self::Working, Self::Leaving].into_iter().find(|state| state.as_str() == word).unwrap_or_default())
    }
}

/// A request to a worker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// The action.
    pub verb: Verb,
    /// Its arguments.
    #[serde(default, skip_serializing_if = "Arguments::is_empty")]
    pub arguments: Arguments,
}

/// The arguments of a [`Request`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Arguments {
    /// Functions to register or unregister.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub functions: Vec<String>,
}

impl Arguments {
    fn is_empty(&self) -> bool {
        self.functions.is_empty()
    }
}

/// Action of a [`Request`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Verb {
    /// Report the status.
    Status,
    /// Take these functions into use.
    RegisterFunction,
    /// Take these functions out of use.
    UnregisterFunction,
    /// Start another worker.
    NewWorker,
    /// Finish the running job and exit.
    ExitWorker,
    /// Load new code or settings.
    Reload,
    /// Report the version.
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

/// Answer to a request that is refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// False.
    pub ok: bool,
    /// The reason.
    #[serde(default, deserialize_with = "lenient::text")]
    pub error: String,
}

fn default_fleet() -> String {
    DEFAULT_FLEET.to_owned()
}

fn fleet<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    lenient::text(deserializer).map(|name| if name.is_empty() { default_fleet() } else { name })
}

/// An invalid or negative answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadAnswer {
    /// The worker refused; this is its reason.
    #[error("{0}")]
    Refused(String),
    /// Longer than this many bytes.
    #[error("answer exceeds {0} bytes")]
    TooLong(usize),
    /// Not an object with `ok`, so it does not tell whether the request was carried out.
    #[error("answer is not a JSON object with \"ok\": {0}")]
    NoObject(String),
    /// Positive, but with contents that violate the contract.
    #[error("invalid answer: {0}")]
    NoSense(String),
}

/// Parses an answer of at most `most` bytes.
///
/// # Errors
/// [`BadAnswer`].
pub fn read_bounded<'a, T: Deserialize<'a>>(answer: &'a [u8], most: usize) -> Result<T, BadAnswer> {
    if answer.len() > most {
        return Err(BadAnswer::TooLong(most));
    }
    match serde_json::from_slice::<Refusal>(answer) {
        Ok(Refusal { ok: false, error }) => Err(BadAnswer::Refused(error)),
        Ok(_) => serde_json::from_slice(answer).map_err(|error| BadAnswer::NoSense(error.to_string())),
        Err(error) => Err(BadAnswer::NoObject(error.to_string())),
    }
}

/// Parses an answer of a worker.
///
/// # Errors
/// The worker's reason for a refusal, or why the answer is invalid.
pub fn read_answer<'a, T: Deserialize<'a>>(answer: &'a [u8]) -> Result<T, String> {
    read_bounded(answer, ANSWER_MAX).map_err(|error| error.to_string())
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
        let Status { identity, activity } = Status::read(status).unwrap();
        assert_eq!(
            (activity.in_use, activity.state, identity.fleet),
            (vec!["f".to_owned()], WorkerState::Leaving, "default".to_owned())
        );
        assert_eq!(Status::read(br#"{"ok": false, "error": "no verb"}"#), Err("no verb".to_owned()));
        for strange in ["", "[]", "{}", "{\"ok\": 1}", "{\"ok\": true}", "{\"ok\": true, \"id\": \"a b\"}"] {
            assert!(Status::read(strange.as_bytes()).is_err(), "{strange}");
        }
    }

    #[test]
    fn an_answer_has_its_fields_in_the_order_of_the_contract() {
        let head = concat!(
            r#"{"ok":true,"contract":1,"id":"a","fleet":"web","host":"h","pid":7,"language":"php","version":"2","#,
            r#""started":1.5,"#
        );
        let introduction = format!(r#"{head}"functions":["f","g"]}}"#);
        let read: Introduction = read_answer(introduction.as_bytes()).unwrap();
        assert_eq!(serde_json::to_string(&read).unwrap(), introduction);
        let status = format!(
            "{head}{}{}",
            r#""uptime":0.5,"state":"working","functionInUse":["f"],"functionNotUse":["g"],"count":{"f":3},"#,
            r#""failures":{},"running":[{"function":"f","handle":"H:1","since":2.5}],"memory":9}"#
        );
        let read = Status::read(status.as_bytes()).unwrap();
        assert_eq!(serde_json::to_string(&read).unwrap(), status);
        assert_eq!(serde_json::from_str::<Status>(&status).unwrap(), read);
    }

    #[test]
    fn a_request_is_a_verb_and_its_arguments() {
        let said = |request: &Request| serde_json::to_string(request).unwrap();
        assert_eq!(said(&Verb::ExitWorker.request()), r#"{"verb":"exitWorker"}"#);
        let register = Verb::RegisterFunction.request_for(vec!["f".to_owned()]);
        assert_eq!(said(&register), r#"{"verb":"registerFunction","arguments":{"functions":["f"]}}"#);
    }

    #[test]
    fn what_is_harmless_in_a_status_is_taken_for_what_was_meant() {
        let said = |more: &str| {
            let answer = format!(r#"{{"ok": true, "id": "a", {more}}}"#);
            Status::read(answer.as_bytes()).unwrap_or_else(|error| panic!("{more}: {error}"))
        };
        let none = said(r#""contract": null"#);
        let Status { identity, activity } = none.clone();
        for (more, expected) in [
            (r#""count": [], "failures": [1], "running": {}, "functionInUse": {}"#, none.clone()),
            (r#""count": null, "failures": null, "running": null, "functionNotUse": null"#, none.clone()),
            (r#""pid": null, "memory": -1, "started": -0.5, "uptime": "soon", "state": null"#, none.clone()),
            (r#""state": "dozing", "fleet": null, "host": null, "version": false"#, none.clone()),
            (
                r#""memory": 1.0, "pid": "4711", "started": "2.5", "version": 2, "contract": 1.0"#,
                Status {
                    identity: Identity { pid: 4711, started: 2.5, version: "2".to_owned(), contract: 1, ..identity },
                    activity: Activity { memory: 1, ..activity.clone() },
                },
            ),
            (
                r#""memory": 1e300, "functionInUse": {"0": "f", "2": 7}, "count": {"f": 2.0, "g": null}"#,
                Status {
                    activity: Activity {
                        memory: u64::MAX,
                        in_use: vec!["f".to_owned(), "7".to_owned()],
                        count: BTreeMap::from([("f".to_owned(), 2), ("g".to_owned(), 0)]),
                        ..activity
                    },
                    ..none.clone()
                },
            ),
        ] {
            assert_eq!(said(more), expected, "{more}");
        }
        for senseless in [r#""count": "many""#, r#""functionInUse": "f""#, r#""running": [1]"#, r#""pid": {}"#] {
            let answer = format!(r#"{{"ok": true, "id": "a", {senseless}}}"#);
            assert!(Status::read(answer.as_bytes()).unwrap_err().starts_with("invalid answer: "), "{senseless}");
        }
        let introduction: Introduction =
            read_answer(br#"{"ok": true, "id": "a", "pid": 1.0, "functions": {}, "started": null}"#).unwrap();
        assert_eq!((introduction.identity.pid, introduction.functions), (1, Vec::<String>::new()));
        assert_eq!(Status::read(br#"{"ok": false, "error": null}"#), Err(String::new()));
    }

    #[test]
    fn what_a_worker_says_is_bounded() {
        let many: Vec<String> = (0..5000).map(|number| format!("f{number}")).collect();
        let long = "\u{e4}".repeat(500);
        let status = serde_json::json!({
            "ok": true, "id": "a", "host": long, "version": long, "functionInUse": ["", "f", "x".repeat(513), "a\0b"],
            "functionNotUse": many, "count": {"": 1, "f": 2}, "running": vec![serde_json::json!({"handle": long}); 100],
        });
        let Status { identity, activity } = Status::read(status.to_string().as_bytes()).unwrap().bounded();
        assert_eq!((identity.host, identity.version), ("\u{e4}".repeat(32), "\u{e4}".repeat(128)));
        assert_eq!((activity.in_use, activity.not_in_use.len()), (vec!["f".to_owned()], FUNCTIONS_MAX));
        assert_eq!(activity.count, BTreeMap::from([("f".to_owned(), 2)]));
        assert_eq!((activity.running.len(), activity.running[0].handle.len()), (RUNS_MAX, 512));
        let mut whole = "v".repeat(VERSION_MAX);
        cut(&mut whole, VERSION_MAX);
        assert_eq!(whole.len(), VERSION_MAX);
    }

    #[test]
    fn some_functions_are_there_for_the_management_alone() {
        for (name, belongs) in
            [("setId", true), ("manage_a", true), ("fleet_web", true), ("setIds", false), ("f", false)]
        {
            assert_eq!(belongs_to_contract(name), belongs, "{name}");
        }
    }
}
