//! The desired state of a fleet, read from a file.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::Deserialize;

use super::contract::{DEFAULT_FLEET, VERSION_MAX, belongs_to_contract, check_name};
use super::time;

/// Maximum number of workers, and of functions per worker, that a file may contain.
pub const WORKERS_MAX: usize = 100_000;

/// Minimum and maximum of each time. The monitor waits for these, so a wrong value must not keep it from
/// reading a corrected one.
const INTERVALS: (Duration, Duration) = (Duration::from_millis(50), Duration::from_hours(1));
const ANSWER_TIMES: (Duration, Duration) = (Duration::from_millis(50), Duration::from_mins(1));
const WAITS: (Duration, Duration) = (Duration::from_millis(50), Duration::from_hours(24));

/// Desired state of a fleet.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Desired {
    /// Name of the fleet; workers of others are left alone.
    pub fleet: String,
    /// Interval of the monitor's main loop.
    #[serde(deserialize_with = "time::plain")]
    pub interval: Duration,
    /// Time limit for a worker's answer.
    #[serde(deserialize_with = "time::plain")]
    pub answer_timeout: Duration,
    /// A worker that has not answered for this long no longer counts, even if its connection still exists.
    #[serde(deserialize_with = "time::plain")]
    pub unresponsive_timeout: Duration,
    /// Time limit for a new worker to ask for its id.
    #[serde(deserialize_with = "time::plain")]
    pub start_timeout: Duration,
    /// Maximum number of functions in use per worker. A worker runs one job at a time in any case.
    pub functions_per_worker: usize,
    /// Maximum number of workers per host, unless `hosts` overrides it.
    pub max_workers_per_host: usize,
    /// Number of idle workers (without functions) that each host keeps. The last worker of a host is always
    /// kept, whatever it does: without any worker, a host could not be told to start one.
    pub idle_workers_per_host: usize,
    /// How long there must have been too many workers before scale-down, unless the function overrides it;
    /// also how long an idle worker is kept.
    #[serde(deserialize_with = "time::plain")]
    pub scale_down_after: Duration,
    /// Desired version of all workers; empty for any.
    pub version: String,
    /// How many workers of a host are replaced at a time. It may have this many above its limit meanwhile.
    pub max_surge_per_host: usize,
    /// Hosts without any workers.
    pub stopped_hosts: BTreeSet<String>,
    /// Overrides per host.
    pub hosts: BTreeMap<String, Host>,
    /// The functions that the monitor manages. It leaves all others alone.
    pub functions: BTreeMap<String, Function>,
}

/// Overrides for a host.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Host {
    /// Maximum number of workers on it.
    pub max_workers: Option<usize>,
}

/// Number of workers of a function, their hosts, and their version.
///
/// With neither `scale_up_queue` nor `scale_up_age`, one worker is added per `scale_up_cooldown` in which
/// jobs wait although all workers are present and busy. A function without any worker gets one as soon as a
/// job waits, whatever the rules.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Function {
    /// Minimum number of workers.
    pub min: usize,
    /// Maximum number of workers; defaults to `min`.
    pub max: Option<usize>,
    /// Host names, with `*` as a wildcard; all hosts if absent.
    pub hosts: Option<Vec<String>>,
    /// Scale up when more than this many jobs per worker wait.
    pub scale_up_queue: Option<u64>,
    /// Scale up when the oldest job has waited longer than this.
    #[serde(deserialize_with = "time::optional")]
    pub scale_up_age: Option<Duration>,
    /// How many workers are added at a time because of the age of the oldest job.
    pub scale_up_step: usize,
    /// How long there must have been too many workers before scale-down.
    #[serde(deserialize_with = "time::optional")]
    pub scale_down_after: Option<Duration>,
    /// Minimum time between two scale-ups.
    #[serde(deserialize_with = "time::plain")]
    pub scale_up_cooldown: Duration,
    /// Desired version of its workers; defaults to the fleet's.
    pub version: Option<String>,
}

impl Default for Desired {
    fn default() -> Self {
        Self {
            fleet: DEFAULT_FLEET.to_owned(),
            interval: Duration::from_secs(5),
            answer_timeout: Duration::from_secs(3),
            unresponsive_timeout: Duration::from_secs(30),
            start_timeout: Duration::from_secs(30),
            functions_per_worker: 1,
            max_workers_per_host: 16,
            idle_workers_per_host: 0,
            scale_down_after: Duration::from_mins(1),
            version: String::new(),
            max_surge_per_host: 1,
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
            scale_up_step: 1,
            scale_down_after: None,
            scale_up_cooldown: Duration::from_secs(10),
            version: None,
        }
    }
}

impl Function {
    /// Maximum number of workers.
    pub fn max(&self) -> usize {
        self.max.unwrap_or(self.min)
    }

    /// Whether it is allowed on a host.
    pub fn is_for(&self, host: &str) -> bool {
        self.hosts.as_ref().is_none_or(|hosts| hosts.iter().any(|pattern| matches(pattern, host)))
    }
}

impl Function {
    fn check(&self) -> Result<(), String> {
        check_number("min", self.min, 0)?;
        check_number("max", self.max(), 0)?;
        check_number("scale_up_step", self.scale_up_step, 1)?;
        if self.max() < self.min {
            return Err(format!("max is {}, below min, which is {}", self.max(), self.min));
        }
        if self.scale_up_queue == Some(0) {
            return Err("scale_up_queue is 0: it must be at least 1 (waiting jobs per worker)".to_owned());
        }
        check_version(self.version.as_deref().unwrap_or_default())?;
        let Some(hosts) = &self.hosts else { return Ok(()) };
        if hosts.is_empty() {
            return Err("hosts is empty: omit it to allow all hosts, or set max to 0".to_owned());
        }
        let is_name = |pattern: &String| check_name(&pattern.replace('*', "x")).is_ok();
        match hosts.iter().find(|pattern| !is_name(pattern)) {
            Some(pattern) => Err(format!("hosts: \"{pattern}\" is not a host name or pattern (* matches any part)")),
            None => Ok(()),
        }
    }
}

/// Validates a number in a file.
fn check_number(name: &str, number: usize, least: usize) -> Result<(), String> {
    if (least..=WORKERS_MAX).contains(&number) {
        Ok(())
    } else {
        Err(format!("{name} is {number}: it must be from {least} to {WORKERS_MAX}"))
    }
}

/// Validates a version in a file.
fn check_version(version: &str) -> Result<(), String> {
    match version.len() {
        0..=VERSION_MAX => Ok(()),
        length => Err(format!("version has {length} bytes: the limit is {VERSION_MAX}")),
    }
}

impl Desired {
    /// Parses a file's text.
    ///
    /// # Errors
    /// What is invalid and where, and which values are valid.
    pub fn parse(text: &str) -> Result<Self, String> {
        let desired: Self = toml::from_str(text).map_err(|error| error.to_string())?;
        desired.check()?;
        Ok(desired)
    }

    fn check(&self) -> Result<(), String> {
        check_name(&self.fleet).map_err(|error| format!("fleet = \"{}\": {error}", self.fleet))?;
        for (name, time, (least, most)) in [
            ("interval", self.interval, INTERVALS),
            ("answer_timeout", self.answer_timeout, ANSWER_TIMES),
            ("unresponsive_timeout", self.unresponsive_timeout, WAITS),
            ("start_timeout", self.start_timeout, WAITS),
        ] {
            if !(least..=most).contains(&time) {
                return Err(format!("{name} is {time:?}: it must be from {least:?} to {most:?}"));
            }
        }
        for (name, number) in [
            ("functions_per_worker", self.functions_per_worker),
            ("max_workers_per_host", self.max_workers_per_host),
            ("max_surge_per_host", self.max_surge_per_host),
        ] {
            check_number(name, number, 1)?;
        }
        check_number("idle_workers_per_host", self.idle_workers_per_host, 0)?;
        check_version(&self.version)?;
        for host in &self.stopped_hosts {
            check_name(host).map_err(|error| format!("stopped_hosts: \"{host}\" {error}"))?;
        }
        for (name, host) in &self.hosts {
            check_name(name).map_err(|error| format!("hosts: \"{name}\" {error}"))?;
            if let Some(most) = host.max_workers {
                check_number(&format!("hosts.{name}.max_workers"), most, 1)?;
            }
        }
        for (name, function) in &self.functions {
            if name.is_empty() || belongs_to_contract(name) {
                return Err(format!("functions: \"{name}\" is reserved for managing workers"));
            }
            function.check().map_err(|error| format!("functions.{name}: {error}"))?;
        }
        Ok(())
    }

    /// Maximum number of workers on a host.
    pub fn max_workers(&self, host: &str) -> usize {
        self.hosts.get(host).and_then(|host| host.max_workers).unwrap_or(self.max_workers_per_host)
    }

    /// The desired version for workers of a function; `None` for any.
    pub fn version_for(&self, function: &str) -> Option<&str> {
        let own = self.functions.get(function).and_then(|function| function.version.as_deref());
        Some(own.unwrap_or(&self.version)).filter(|version| !version.is_empty())
    }
}

/// Whether a name matches a pattern, in which `*` stands for any characters.
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

#[cfg(test)]
mod tests {
    use super::*;

    const EXAMPLE: &str = r#"
        fleet = "web"
        interval = 2
        scale_down_after = "2m"
        version = "2026-11-25"
        stopped_hosts = ["web9"]
        [hosts.web1]
        max_workers = 4
        [functions.mail]
        min = 2
        max = 10
        hosts = ["web*", "mail1"]
        scale_up_queue = 10
        scale_up_age = "1.5s"
        scale_down_after = "500ms"
        [functions."odd name.\u00e9"]
    "#;

    #[test]
    fn a_file_is_read_and_what_it_omits_has_its_default() {
        let desired = Desired::parse(EXAMPLE).unwrap();
        assert_eq!((desired.interval, desired.scale_down_after), (Duration::from_secs(2), Duration::from_mins(2)));
        assert_eq!((desired.max_workers("web1"), desired.max_workers("web2")), (4, 16));
        let mail = &desired.functions["mail"];
        assert_eq!((mail.max(), mail.scale_up_step), (10, 1));
        assert_eq!(
            (mail.scale_up_age, mail.scale_down_after),
            (Some(Duration::from_millis(1500)), Some(Duration::from_millis(500)))
        );
        assert_eq!(desired.functions["odd name.\u{e9}"].max(), 1);
        assert_eq!(Desired::parse("").unwrap(), Desired::default());
    }

    #[test]
    fn what_is_wrong_is_said_with_its_place() {
        for (text, said) in [
            ("fleet = \"a b\"", "fleet = \"a b\": must have 1 to 64"),
            ("fleets = \"a\"", "unknown field `fleets`"),
            ("interval = 0", "interval is 0"),
            ("interval = \"5 weeks\"", "\"5 weeks\": the units of time are ms, s, m, h and d"),
            ("interval = \"soon\"", "soon"),
            ("scale_down_after = -1", "a time is from 0"),
            ("max_surge_per_host = 0", "max_surge_per_host is 0: it must be from 1"),
            ("functions_per_worker = 100001", "functions_per_worker is 100001: it must be from 1 to 100000"),
            ("stopped_hosts = [\"a b\"]", "stopped_hosts: \"a b\""),
            ("[hosts.a]\nmax_workers = 0", "hosts.a.max_workers is 0"),
            ("[hosts.\"a b\"]", "hosts: \"a b\""),
            ("[functions.setId]", "\"setId\" is reserved for managing workers"),
            ("[functions.manage_a]", "\"manage_a\" is reserved for managing workers"),
            ("[functions.f]\nmin = 3\nmax = 2", "functions.f: max is 2, below min, which is 3"),
            ("[functions.f]\nmin = -1", "invalid value"),
            ("[functions.f]\nscale_up_step = 0", "functions.f: scale_up_step is 0"),
            ("[functions.f]\nscale_up_queue = 0", "functions.f: scale_up_queue is 0"),
            ("[functions.f]\nhosts = []", "functions.f: hosts is empty"),
            ("[functions.f]\nhosts = [\"a b\"]", "functions.f: hosts: \"a b\" is not a host name or pattern"),
        ] {
            let error = Desired::parse(text).expect_err(text);
            assert!(error.contains(said), "{text}: {error}");
        }
    }

    #[test]
    fn a_version_is_no_longer_than_what_a_worker_says() {
        for place in ["", "[functions.f]\n"] {
            let of = |length: usize| Desired::parse(&format!("{place}version = \"{}\"", "v".repeat(length)));
            assert!(of(VERSION_MAX).is_ok(), "{place}");
            let error = of(VERSION_MAX + 1).unwrap_err();
            assert!(error.contains("version has 257 bytes: the limit is 256"), "{error}");
        }
    }

    #[test]
    fn a_star_stands_for_any_part_of_a_name() {
        for (pattern, name, fits) in [
            ("web1", "web1", true),
            ("web1", "web11", false),
            ("*", "", true),
            ("web*", "web", true),
            ("web*", "we", false),
            ("*1", "web1", true),
            ("*1", "web12", false),
            ("w*b*1", "web-b-1", true),
            ("w*b*1", "wb", false),
            ("a*a", "a", false),
            ("**", "a", true),
            ("a*b*b", "ab", false),
        ] {
            assert_eq!(matches(pattern, name), fits, "{pattern} {name}");
        }
    }
}
