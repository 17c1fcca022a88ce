//! What a monitor says of itself and its fleet: the answers of the function `fleet_<name>`.
//!
//! A monitor takes jobs of this function as a worker takes those of `manage_<id>`; the module above says how.

use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize};

use super::contract::{BadAnswer, FUNCTIONS_MAX, Status, WorkerId, read_bounded};
use super::lenient;

/// The longest report that is read, in bytes: the workers of a large fleet with all that they say.
pub const REPORT_MAX: usize = 16 << 20;
/// So many workers of a report are looked at.
const WORKERS_MAX: usize = 1 << 16;
/// So many lines of each kind are looked at: events, hosts, what cannot be reached.
const LINES_MAX: usize = 1 << 12;

/// What a monitor is asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "verb", content = "arguments", rename_all = "camelCase")]
pub enum Wish {
    /// How the fleet is.
    Status,
    /// Another desired state, as the text of a file, in place of the present one.
    Apply {
        /// The text.
        desired: String,
    },
    /// Replace workers, whatever version they are of.
    Roll {
        /// Those of this host alone.
        #[serde(skip_serializing_if = "Option::is_none")]
        host: Option<String>,
    },
    /// End all workers of a host, and use none there.
    Stop {
        /// Which.
        host: String,
    },
    /// Use a host again.
    Start {
        /// Which.
        host: String,
    },
}

/// A [`Wish`] as it is written: arguments that a verb does not have are ignored, as by workers.
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

impl<'de> Deserialize<'de> for Wish {
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

/// A monitor and its fleet, with what is of use of each worker.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, bound(deserialize = "W: Deserialize<'de>"))]
pub struct Report<W = WorkerReport> {
    /// True.
    pub ok: bool,
    /// The fleet's name.
    pub fleet: String,
    /// Where the monitor runs; empty where none does.
    pub host: String,
    /// Its process.
    pub pid: u64,
    /// When it was started, in seconds since 1970.
    pub started: f64,
    /// The version that all workers are to be of; empty for any.
    pub version: String,
    /// Whether nothing is to be done.
    pub settled: bool,
    /// How many workers are still to be replaced.
    pub outdated: usize,
    /// How many workers wait for an id.
    pub unnamed: u64,
    /// The functions that it takes care of.
    #[serde(deserialize_with = "lenient::list::<_, _, FUNCTIONS_MAX>")]
    pub functions: Vec<FunctionReport>,
    /// The workers.
    #[serde(deserialize_with = "lenient::list::<_, _, WORKERS_MAX>")]
    pub workers: Vec<W>,
    /// Hosts on which no worker is to be.
    #[serde(deserialize_with = "lenient::texts::<_, LINES_MAX>")]
    pub stopped_hosts: Vec<String>,
    /// What cannot be reached, and why.
    #[serde(deserialize_with = "lenient::texts::<_, LINES_MAX>")]
    pub unmet: Vec<String>,
    /// What is there and cannot be made use of, perhaps of other fleets.
    #[serde(deserialize_with = "lenient::texts::<_, LINES_MAX>")]
    pub strange: Vec<String>,
    /// What it did lately, newest last.
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

/// Reads a monitor's report.
///
/// # Errors
/// [`BadAnswer`].
pub fn read_report<'a, W: Deserialize<'a>>(answer: &'a [u8]) -> Result<Report<W>, BadAnswer> {
    read_bounded(answer, REPORT_MAX)
}

/// A function that a monitor takes care of.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct FunctionReport {
    /// Its name.
    pub function: String,
    /// The fewest workers it may have.
    pub min: usize,
    /// The most.
    pub max: usize,
    /// How many it is to have now.
    pub target: usize,
    /// How many it has.
    pub workers: usize,
    /// Jobs that wait.
    pub waiting: u64,
    /// Jobs that run.
    pub running: u64,
    /// Whether the operator of the server withholds its jobs, so that no workers are added for them.
    pub paused: bool,
    /// The age of the oldest that waits, in seconds, where the server tells.
    pub oldest: Option<f64>,
}

/// A worker of a fleet.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WorkerReport {
    /// What it said last.
    #[serde(flatten)]
    pub status: Status,
    /// For how long it has not answered, in seconds.
    #[serde(default, deserialize_with = "lenient::fraction")]
    pub silent: f64,
    /// It is to be replaced.
    #[serde(default)]
    pub outdated: bool,
}

/// Of a [`WorkerReport`] what its worker does not say itself.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct MemberReport {
    /// Its id.
    pub id: WorkerId,
    /// The name of its host.
    #[serde(default, deserialize_with = "lenient::text")]
    pub host: String,
    /// For how long it has not answered, in seconds.
    #[serde(default, deserialize_with = "lenient::fraction")]
    pub silent: f64,
    /// It is to be replaced.
    #[serde(default)]
    pub outdated: bool,
}

/// Something that a monitor did.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Event {
    /// When, in seconds since 1970.
    pub at: f64,
    /// What, and to whom.
    pub what: String,
    /// Why.
    pub why: String,
    /// What went wrong, if it did.
    pub error: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wish_is_a_verb_with_the_arguments_that_it_needs() {
        let of = |text: &str| serde_json::from_str::<Wish>(text);
        let host = || "web1".to_owned();
        for (text, wish) in [
            (r#"{"verb": "status"}"#, Wish::Status),
            (r#"{"verb": "status", "arguments": {}}"#, Wish::Status),
            (r#"{"arguments": {"host": "web1", "new": 1}, "verb": "status", "new": 1}"#, Wish::Status),
            (r#"{"verb": "roll"}"#, Wish::Roll { host: None }),
            (r#"{"verb": "roll", "arguments": null}"#, Wish::Roll { host: None }),
            (r#"{"verb": "roll", "arguments": []}"#, Wish::Roll { host: None }),
            (r#"{"verb": "roll", "arguments": {"host": null}}"#, Wish::Roll { host: None }),
            (r#"{"verb": "roll", "arguments": {"host": "web1"}}"#, Wish::Roll { host: Some(host()) }),
            (r#"{"verb": "stop", "arguments": {"host": "web1"}}"#, Wish::Stop { host: host() }),
            (r#"{"verb": "start", "arguments": {"host": "web1"}}"#, Wish::Start { host: host() }),
            (r#"{"verb": "apply", "arguments": {"desired": ""}}"#, Wish::Apply { desired: String::new() }),
        ] {
            assert_eq!(of(text).unwrap(), wish, "{text}");
            assert_eq!(of(&serde_json::to_string(&wish).unwrap()).unwrap(), wish);
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
        assert_eq!((report.workers[0].status.memory, report.workers[0].silent), (1, 2.0));
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
