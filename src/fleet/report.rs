//! What a monitor says of itself and its fleet: the answers of the function `fleet_<name>`.
//!
//! A monitor takes jobs of this function as a worker takes those of `manage_<id>`: a JSON object with `verb` and `arguments`
//! in, a JSON object with `ok` out. `status` is answered with a [`Report`]; all other verbs with `{"ok": true}` and what
//! they did in `did`, when they were taken over, not when all is done.

use serde::{Deserialize, Serialize};

use super::contract::Status;

/// What a monitor is asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
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
        #[serde(default)]
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

/// A monitor and its fleet.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Report {
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
    pub functions: Vec<FunctionReport>,
    /// The workers.
    pub workers: Vec<WorkerReport>,
    /// Hosts on which no worker is to be.
    pub stopped_hosts: Vec<String>,
    /// What cannot be reached, and why.
    pub unmet: Vec<String>,
    /// What is there and cannot be made use of, perhaps of other fleets.
    pub strange: Vec<String>,
    /// What it did lately, newest last.
    pub events: Vec<Event>,
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
    #[serde(default)]
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
