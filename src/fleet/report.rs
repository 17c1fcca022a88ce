//! Report of a monitor about itself and its fleet: the answers of the function `fleet_<name>`.
//!
//! A monitor takes jobs of this function as a worker takes those of `manage_<id>`; the parent module has the
//! references.

use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize};

use super::contract::{BadAnswer, FUNCTIONS_MAX, Status, WorkerId, read_bounded};
use super::lenient;

/// Longest report that is read, in bytes: enough for the workers of a large fleet with all of their details.
pub const REPORT_MAX: usize = 16 << 20;
/// Maximum number of workers that are read from a report.
const WORKERS_MAX: usize = 1 << 16;
/// Maximum number of lines of each kind that are read: events, hosts, unmet goals.
const LINES_MAX: usize = 1 << 12;

/// A request to a monitor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "verb", content = "arguments", rename_all = "camelCase")]
pub enum MonitorCommand {
    /// Report the status of the fleet.
    Status,
    /// Replace the desired state.
    Apply {
        /// The new file's text.
        desired: String,
    },
    /// Replace workers, whatever their version.
    Roll {
        /// Only those of this host.
        #[serde(skip_serializing_if = "Option::is_none")]
        host: Option<String>,
    },
    /// End all workers of a host, and use none there.
    Stop {
        /// The host.
        host: String,
    },
    /// Use a host again.
    Start {
        /// The host.
        host: String,
    },
}

/// A [`MonitorCommand`] as serialized. Arguments that a verb does not have are ignored, as workers do.
#[derive(Deserialize)]
struct Asked {
    verb: Wanted,
    #[serde(default, deserialize_with = "lenient::object")]
    arguments: Arguments,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "camelCase")]
enum Wanted {
    Status,
    Apply,
    Roll,
    Stop,
    Start,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Arguments {
    desired: Option<String>,
    host: Option<String>,
}

impl<'de> Deserialize<'de> for MonitorCommand {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let Asked { verb, arguments: Arguments { desired, host } } = Asked::deserialize(deserializer)?;
        let which = |host: Option<String>| host.ok_or_else(|| D::Error::custom("\"arguments.host\" is missing"));
        Ok(match verb {
            Wanted::Status => Self::Status,
            Wanted::Apply => {
                Self::Apply { desired: desired.ok_or_else(|| D::Error::custom("\"arguments.desired\" is missing"))? }
            }
            Wanted::Roll => Self::Roll { host },
            Wanted::Stop => Self::Stop { host: which(host)? },
            Wanted::Start => Self::Start { host: which(host)? },
        })
    }
}

/// A monitor and its fleet, with details of each worker.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, bound(deserialize = "W: Deserialize<'de>"))]
pub struct Report<W = WorkerReport> {
    /// True.
    pub ok: bool,
    /// The fleet's name.
    pub fleet: String,
    /// Host of the monitor; empty if none is running.
    pub host: String,
    /// Its process id.
    pub pid: u64,
    /// Its start time, in seconds since 1970.
    pub started: f64,
    /// Desired version of all workers; empty for any.
    pub version: String,
    /// Whether nothing is to be done.
    pub settled: bool,
    /// Number of workers that are still to be replaced.
    pub outdated: usize,
    /// Number of workers waiting for an id.
    pub unnamed: u64,
    /// The functions that it manages.
    #[serde(deserialize_with = "lenient::list::<_, _, FUNCTIONS_MAX>")]
    pub functions: Vec<FunctionReport>,
    /// The workers.
    #[serde(deserialize_with = "lenient::list::<_, _, WORKERS_MAX>")]
    pub workers: Vec<W>,
    /// Hosts without any workers.
    #[serde(deserialize_with = "lenient::texts::<_, LINES_MAX>")]
    pub stopped_hosts: Vec<String>,
    /// Goals that cannot be reached, and why.
    #[serde(deserialize_with = "lenient::texts::<_, LINES_MAX>")]
    pub unmet: Vec<String>,
    /// Anomalies: things that exist but cannot be used, perhaps of other fleets.
    #[serde(deserialize_with = "lenient::texts::<_, LINES_MAX>")]
    pub strange: Vec<String>,
    /// Its latest actions, newest last.
    #[serde(deserialize_with = "lenient::list::<_, _, LINES_MAX>")]
    pub events: Vec<Event>,
}

impl<W> Default for Report<W> {
    fn default() -> Self {
        Self {
            ok: false,
            fleet: String::new(),
            host: String::new(),
            pid: 0,
            started: 0.0,
            version: String::new(),
            settled: false,
            outdated: 0,
            unnamed: 0,
            functions: Vec::new(),
            workers: Vec::new(),
            stopped_hosts: Vec::new(),
            unmet: Vec::new(),
            strange: Vec::new(),
            events: Vec::new(),
        }
    }
}

/// Parses a monitor's report.
///
/// # Errors
/// [`BadAnswer`].
pub fn read_report<'a, W: Deserialize<'a>>(answer: &'a [u8]) -> Result<Report<W>, BadAnswer> {
    read_bounded(answer, REPORT_MAX)
}

/// A function that a monitor manages.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct FunctionReport {
    /// Its name.
    pub function: String,
    /// Minimum number of workers.
    pub min: usize,
    /// Maximum number of workers.
    pub max: usize,
    /// Target number of workers.
    pub target: usize,
    /// Current number of workers.
    pub workers: usize,
    /// Number of waiting jobs.
    pub waiting: u64,
    /// Number of running jobs.
    pub running: u64,
    /// Whether the function is paused on the server, so that no workers are added.
    pub paused: bool,
    /// Age of the oldest waiting job, in seconds, if the server reports it.
    pub oldest: Option<f64>,
}

/// A worker of a fleet.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WorkerReport {
    /// Its last status.
    #[serde(flatten)]
    pub status: Status,
    /// How long it has not answered, in seconds.
    #[serde(default, deserialize_with = "lenient::fraction")]
    pub silent: f64,
    /// Whether it is to be replaced.
    #[serde(default)]
    pub outdated: bool,
}

/// The part of a [`WorkerReport`] that the worker does not report itself.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct MemberReport {
    /// Its id.
    pub id: WorkerId,
    /// Host name.
    #[serde(default, deserialize_with = "lenient::text")]
    pub host: String,
    /// How long it has not answered, in seconds.
    #[serde(default, deserialize_with = "lenient::fraction")]
    pub silent: f64,
    /// Whether it is to be replaced.
    #[serde(default)]
    pub outdated: bool,
}

/// An action of a monitor.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Event {
    /// Time, in seconds since 1970.
    pub at: f64,
    /// The action and its object.
    pub what: String,
    /// The reason.
    pub why: String,
    /// The error, if it failed.
    pub error: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wish_is_a_verb_with_the_arguments_that_it_needs() {
        let of = |text: &str| serde_json::from_str::<MonitorCommand>(text);
        let host = || "web1".to_owned();
        for (text, command) in [
            (r#"{"verb": "status"}"#, MonitorCommand::Status),
            (r#"{"verb": "status", "arguments": {}}"#, MonitorCommand::Status),
            (r#"{"arguments": {"host": "web1", "new": 1}, "verb": "status", "new": 1}"#, MonitorCommand::Status),
            (r#"{"verb": "roll"}"#, MonitorCommand::Roll { host: None }),
            (r#"{"verb": "roll", "arguments": null}"#, MonitorCommand::Roll { host: None }),
            (r#"{"verb": "roll", "arguments": []}"#, MonitorCommand::Roll { host: None }),
            (r#"{"verb": "roll", "arguments": {"host": null}}"#, MonitorCommand::Roll { host: None }),
            (r#"{"verb": "roll", "arguments": {"host": "web1"}}"#, MonitorCommand::Roll { host: Some(host()) }),
            (r#"{"verb": "stop", "arguments": {"host": "web1"}}"#, MonitorCommand::Stop { host: host() }),
            (r#"{"verb": "start", "arguments": {"host": "web1"}}"#, MonitorCommand::Start { host: host() }),
            (r#"{"verb": "apply", "arguments": {"desired": ""}}"#, MonitorCommand::Apply { desired: String::new() }),
        ] {
            assert_eq!(of(text).unwrap(), command, "{text}");
            assert_eq!(of(&serde_json::to_string(&command).unwrap()).unwrap(), command);
        }
        for (text, why) in [
            ("{}", "missing field `verb`"),
            (r#"{"verb": "dance"}"#, "unknown variant `dance`"),
            (r#"{"verb": "stop"}"#, "\"arguments.host\" is missing"),
            (r#"{"verb": "start", "arguments": {}}"#, "\"arguments.host\" is missing"),
            (r#"{"verb": "apply"}"#, "\"arguments.desired\" is missing"),
            (r#"{"verb": "roll", "arguments": ["web1"]}"#, "a list, expected an object"),
            (r#"{"verb": "roll", "arguments": {"host": 1}}"#, "expected a string"),
        ] {
            let error = of(text).unwrap_err().to_string();
            assert!(error.contains(why), "{text}: {error}");
        }
    }

    #[test]
    fn a_report_is_read_with_all_that_workers_say_or_without() {
        let answer = br#"{"ok": true, "pid": 1, "workers": [{"ok": true, "id": "a", "host": "h", "silent": 2,
            "count": [], "memory": 1.0}]}"#;
        let report = read_report::<WorkerReport>(answer).unwrap();
        assert_eq!((report.workers[0].status.activity.memory, report.workers[0].silent), (1, 2.0));
        let again = serde_json::to_vec(&report).unwrap();
        assert_eq!(read_report::<WorkerReport>(&again).unwrap(), report);
        let member = &read_report::<MemberReport>(answer).unwrap().workers[0];
        assert_eq!((member.id.as_str(), member.host.as_str(), member.outdated), ("a", "h", false));
        let refused = read_report::<MemberReport>(br#"{"ok": false, "error": "no"}"#);
        assert_eq!(refused, Err(BadAnswer::Refused("no".to_owned())));
        let long = vec![b' '; REPORT_MAX + 1];
        assert_eq!(read_report::<MemberReport>(&long), Err(BadAnswer::TooLong(REPORT_MAX)));
        let many = format!(r#"{{"ok": true, "unmet": [{}""]}}"#, "\"\",".repeat(5000));
        assert_eq!(read_report::<MemberReport>(many.as_bytes()).unwrap().unmet.len(), LINES_MAX);
    }
}
