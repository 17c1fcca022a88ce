//! The desired state of a fleet, as a file says it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::contract::DEFAULT_FLEET;

/// What a fleet is to be like.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Desired {
    /// The fleet's name; workers of others are left alone.
    pub fleet: String,
    /// How often the monitor looks.
    #[serde(with = "time")]
    pub interval: Duration,
    /// How long a worker may take to answer.
    #[serde(with = "time")]
    pub answer_timeout: Duration,
    /// A worker that has not answered for so long counts no more, though its connection is still there.
    #[serde(with = "time")]
    pub forget_after: Duration,
    /// How long a new worker may take until it asks for its id.
    #[serde(with = "time")]
    pub start_timeout: Duration,
    /// Of how many functions a worker does jobs at a time. A worker runs one job at a time, whatever this is.
    pub functions_per_worker: usize,
    /// The most workers on a host, where `hosts` does not say otherwise.
    pub max_workers_per_host: usize,
    /// How many workers without functions each host keeps. The last worker of a host, whatever it does, is always kept: a
    /// host without any could not be told to start one.
    pub spares_per_host: usize,
    /// How long workers must have been too many until there are fewer, where a function does not say otherwise; and how
    /// long one without functions stays.
    #[serde(with = "time")]
    pub idle: Duration,
    /// The version that all workers are to be of; empty for any.
    pub version: String,
    /// How many workers of a host are replaced at a time.
    pub roll_parallel: usize,
    /// Hosts on which no worker is to be.
    pub stopped_hosts: BTreeSet<String>,
    /// What is different for single hosts.
    pub hosts: BTreeMap<String, Host>,
    /// The functions that the monitor takes care of. It leaves all others as they are.
    pub functions: BTreeMap<String, Function>,
}

/// What is different for a host.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Host {
    /// The most workers on it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_workers: Option<usize>,
}

/// How many workers a function is to have, where, and of which version.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Function {
    /// The fewest.
    pub min: usize,
    /// The most; as many as `min` where it is absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max: Option<usize>,
    /// Names of hosts, with `*` for any part of one; all where it is absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hosts: Option<Vec<String>>,
    /// More workers when more than so many jobs wait for each.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scale_up_queue: Option<u64>,
    /// More workers when the oldest job has waited longer.
    #[serde(with = "optional_time", skip_serializing_if = "Option::is_none")]
    pub scale_up_age: Option<Duration>,
    /// How many workers are added at a time for the age of the oldest job.
    pub step: usize,
    /// How long workers must have been too many until there are fewer.
    #[serde(with = "optional_time", skip_serializing_if = "Option::is_none")]
    pub idle: Option<Duration>,
    /// How long after workers were added no more are added.
    #[serde(with = "time")]
    pub cool_down: Duration,
    /// The version that its workers are to be of; where it is absent that of all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
}

impl Default for Desired {
    fn default() -> Self {
        Self {
            fleet: DEFAULT_FLEET.to_owned(),
            interval: Duration::from_secs(5),
            answer_timeout: Duration::from_secs(3),
            forget_after: Duration::from_secs(30),
            start_timeout: Duration::from_secs(30),
            functions_per_worker: 1,
            max_workers_per_host: 16,
            spares_per_host: 0,
            idle: Duration::from_mins(1),
            version: String::new(),
            roll_parallel: 1,
            stopped_hosts: BTreeSet::new(),
            hosts: BTreeMap::new(),
            functions: BTreeMap::new(),
        }
    }
}

impl Default for Function {
    fn default() -> Self {
        Self {
            min: 1,
            max: None,
            hosts: None,
            scale_up_queue: None,
            scale_up_age: None,
            step: 1,
            idle: None,
            cool_down: Duration::from_secs(10),
            version: None,
        }
    }
}

impl Function {
    /// The most workers.
    pub fn max(&self) -> usize {
        self.max.unwrap_or(self.min)
    }

    /// Whether it may be done on a host.
    pub fn is_for(&self, host: &str) -> bool {
        self.hosts.as_ref().is_none_or(|hosts| hosts.iter().any(|pattern| matches(pattern, host)))
    }
}

impl Desired {
    /// Reads a file's text.
    ///
    /// # Errors
    /// What is wrong where, and what is possible.
    pub fn parse(text: &str) -> Result<Self, String> {
        let desired: Self = toml::from_str(text).map_err(|error| error.to_string())?;
        desired.check()?;
        Ok(desired)
    }

    /// The text of a file that says this.
    ///
    /// # Errors
    /// Of the writer of TOML.
    pub fn to_toml(&self) -> Result<String, String> {
        toml::to_string_pretty(self).map_err(|error| error.to_string())
    }

    fn check(&self) -> Result<(), String> {
        super::contract::check_name(&self.fleet).map_err(|error| format!("fleet = \"{}\": {error}", self.fleet))?;
        for (name, function) in &self.functions {
            if function.max() < function.min {
                return Err(format!("functions.{name}: max {} is below min {}", function.max(), function.min));
            }
        }
        Ok(())
    }

    /// The most workers on a host.
    pub fn max_workers(&self, host: &str) -> usize {
        self.hosts.get(host).and_then(|host| host.max_workers).unwrap_or(self.max_workers_per_host)
    }
}

/// Whether a name is meant by a pattern, in which `*` stands for any letters.
fn matches(pattern: &str, name: &str) -> bool {
    let mut parts = pattern.split('*');
    let Some(mut rest) = name.strip_prefix(parts.next().unwrap_or_default()) else { return false };
    let mut last = None;
    for part in parts {
        if let Some(previous) = last.replace(part) {
            match rest.find(previous) {
                Some(at) => rest = &rest[at + previous.len()..],
                None => return false,
            }
        }
    }
    last.map_or(rest.is_empty(), |last| rest.ends_with(last))
}

/// Times are written as `90`, `90s`, `5m`, `2h` or `1d`, with a fraction if need be.
mod time {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer};

    #[derive(Deserialize)]
    #[serde(untagged)]
    pub(super) enum Written {
        Seconds(f64),
        Text(String),
    }

    impl Written {
        pub(super) fn duration(self) -> Result<Duration, String> {
            let (number, each) = match &self {
                Self::Seconds(seconds) => (*seconds, 1.0),
                Self::Text(text) => {
                    let number = text.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
                    let each = match text.strip_prefix(number).unwrap_or_default() {
                        "" | "s" => 1.0,
                        "ms" => 0.001,
                        "m" | "min" => 60.0,
                        "h" => 3_600.0,
                        "d" => 86_400.0,
                        _ => return Err(format!("\"{text}\": the units of time are ms, s, m, h and d")),
                    };
                    (number.trim().parse().map_err(|_| format!("\"{text}\" is no time such as 90s or 5m"))?, each)
                }
            };
            let seconds = number * each;
            if !(0.0..=1e9).contains(&seconds) {
                return Err("a time is from 0 to 1000000000 seconds".to_owned());
            }
            Ok(Duration::from_secs_f64(seconds))
        }
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(reader: D) -> Result<Duration, D::Error> {
        Written::deserialize(reader)?.duration().map_err(serde::de::Error::custom)
    }

    pub(super) fn serialize<S: Serializer>(time: &Duration, writer: S) -> Result<S::Ok, S::Error> {
        writer.serialize_str(&format!("{}s", time.as_secs_f64()))
    }
}

/// The same, where it may be absent.
mod optional_time {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer};

    use super::time::Written;

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(reader: D) -> Result<Option<Duration>, D::Error> {
        let written = Option::<Written>::deserialize(reader)?;
        written.map(Written::duration).transpose().map_err(serde::de::Error::custom)
    }

    #[allow(clippy::ref_option, reason = "serde calls it so")]
    pub(super) fn serialize<S: Serializer>(time: &Option<Duration>, writer: S) -> Result<S::Ok, S::Error> {
        match time {
            Some(time) => super::time::serialize(time, writer),
            None => writer.serialize_none(),
        }
    }
}
