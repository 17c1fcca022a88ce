//! The operator's settings that survive a restart: how they are written into a store, and read back.
//!
//! A setting has a name and a value, both of ASCII words separated by single spaces. Names and ids in them
//! are percent-encoded, byte for byte:
//!
//! | name | value |
//! | --- | --- |
//! | `function NAME` | some of `paused`, `running=MOST`, `queue=HIGH,NORMAL,LOW` |
//! | `client ID`, `client ID FUNCTION` | `disabled` or `draining` |
//! | `host ADDRESS`, `host ADDRESS FUNCTION` | the same |
//!
//! A setting at its default has no value, and a store does not have it. Words of a function's value that are
//! not understood are reported, and the rest is applied; names that begin with an unknown word are reported
//! as well. They may be from a newer version, so they are not removed from the store. But a setting is
//! written as a whole: the words of a function's value that were not understood are lost with that function's
//! next change. Rules for a connection end with it, and are not stored.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, percent_encode};

use super::control::{ControlError, WorkerSelector};
use super::effects::Effects;
use super::function::Function;
use super::ids::FunctionSlot;
use super::stored::StoreOp;
use super::{JobServer, WorkerMode};
use crate::protocol::FunctionName;

/// The encoded characters: all but alphanumeric ones, `-`, `.`, `_` and `:`.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b':');

/// The result of [`JobServer::restore_settings`].
#[derive(Debug, Default, PartialEq, Eq)]
pub struct RestoredSettings {
    /// The number of paused functions.
    pub paused: usize,
    /// The number of functions with a limit of running or queued jobs.
    pub limited: usize,
    /// The number of rules that withhold jobs from workers.
    pub rules: usize,
    /// Settings that are not, or not fully, in force: their names, and what is missing and why.
    pub left_out: Vec<(String, String)>,
}

impl JobServer {
    /// Restores the operator's settings after a restart, from names and values: see the head of
    /// `settings.rs`. Call it after the jobs are restored and before any peer is served.
    pub fn restore_settings(&mut self, settings: Vec<(String, String)>) -> RestoredSettings {
        let mut restored = RestoredSettings::default();
        for (name, value) in settings {
            if let Err(why) = self.restore_setting(&name, &value, &mut restored) {
                restored.left_out.push((name, why));
            }
        }
        self.debug_check_invariants();
        restored
    }

    fn restore_setting(&mut self, name: &str, value: &str, restored: &mut RestoredSettings) -> Result<(), String> {
        let mut words = name.split(' ');
        let kind = words.next().unwrap_or_default();
        let (about, function, rest) = (words.next().map(decoded), words.next().map(decoded), words.next());
        match (kind, about, function, rest) {
            ("function", Some(function), None, None) => self.restore_function(&function, value, restored),
            ("client", Some(id), function, None) => {
                self.restore_rule(&WorkerSelector::Client(id), function.as_deref(), value, restored)
            }
            ("host", Some(address), function, None) => {
                let address = String::from_utf8(address).map_err(|_| "the address is not valid UTF-8".to_owned())?;
                self.restore_rule(&WorkerSelector::Host(address), function.as_deref(), value, restored)
            }
            ("function" | "client" | "host", ..) => Err("the name has too few or too many words".to_owned()),
            _ => Err("unknown setting".to_owned()),
        }
    }

    fn restore_function(&mut self, name: &[u8], value: &str, restored: &mut RestoredSettings) -> Result<(), String> {
        let FunctionWords { paused, max_running, limits, not_understood } = FunctionWords::read(value);
        let is_limited = max_running > 0 || limits != [0; 3];
        if !paused && !is_limited {
            return Err(if not_understood.is_empty() { "it has no effect".to_owned() } else { not_understood });
        }
        let slot = self.function_for_setting(name, true).map_err(|error| error.to_string())?;
        let slot = slot.ok_or_else(|| ControlError::NoSuchFunction.to_string())?;
        let function = &mut self.functions[slot];
        (function.paused, function.max_running, function.limits) = (paused, max_running, limits);
        function.publish_settings();
        self.publish(slot);
        restored.paused += usize::from(paused);
        restored.limited += usize::from(is_limited);
        if not_understood.is_empty() { Ok(()) } else { Err(format!("{not_understood}; the rest is applied")) }
    }

    fn restore_rule(
        &mut self,
        selector: &WorkerSelector,
        function: Option<&[u8]>,
        value: &str,
        restored: &mut RestoredSettings,
    ) -> Result<(), String> {
        let mode = [WorkerMode::Disabled, WorkerMode::Draining].into_iter().find(|mode| rule_value(*mode) == value);
        let mode = mode.ok_or_else(|| format!("unknown value {value}"))?;
        self.insert_rule(selector, function, mode).map_err(|error| error.to_string())?;
        restored.rules += 1;
        Ok(())
    }

    /// Changes the settings of a function, and stores them.
    pub(super) fn decide(
        &mut self,
        slot: FunctionSlot,
        change: impl FnOnce(&mut Function),
        effects: &mut impl Effects,
    ) {
        let function = &mut self.functions[slot];
        let before = function_value(function);
        change(function);
        let value = function_value(function);
        if value != before && self.policy.keeps_jobs {
            effects.store(StoreOp::Set { name: function_key(&function.name), value });
        }
    }

    /// Removes the stored settings of a function that the operator drops.
    pub(super) fn forget_decisions(&self, function: &Function, effects: &mut impl Effects) {
        if self.policy.keeps_jobs && function_value(function).is_some() {
            effects.store(StoreOp::Set { name: function_key(&function.name), value: None });
        }
    }

    /// Stores a rule that was added, changed or removed.
    pub(super) fn store_rule(
        &self,
        selector: &WorkerSelector,
        function: Option<&FunctionName>,
        mode: Option<WorkerMode>,
        effects: &mut impl Effects,
    ) {
        if let Some(name) = rule_key(selector, function).filter(|_| self.policy.keeps_jobs) {
            effects.store(StoreOp::Set { name, value: mode.map(|mode| rule_value(mode).to_owned()) });
        }
    }
}

/// The parsed value of a function's setting.
struct FunctionWords {
    paused: bool,
    max_running: u32,
    limits: [u32; 3],
    /// Why some of its words are not in force; empty if all are.
    not_understood: String,
}

impl FunctionWords {
    fn read(value: &str) -> Self {
        let (mut paused, mut max_running, mut limits, mut complaints) = (false, 0, [0; 3], Vec::new());
        for word in value.split(' ') {
            let taken = match word.split_once('=') {
                None if word == "paused" => {
                    paused = true;
                    Ok(())
                }
                Some(("running", most)) => number(most).map(|most| max_running = most),
                Some(("queue", by_priority)) => three_numbers(by_priority).map(|numbers| limits = numbers),
                _ => Err(format!("unknown word {word}")),
            };
            complaints.extend(taken.err());
        }
        Self { paused, max_running, limits, not_understood: complaints.join("; ") }
    }
}

fn function_key(name: &FunctionName) -> String {
    format!("function {}", encoded(name.as_bytes()))
}

/// `None` if all settings are at their defaults.
fn function_value(function: &Function) -> Option<String> {
    let mut words = Vec::new();
    if function.paused {
        words.push("paused".to_owned());
    }
    if function.max_running > 0 {
        words.push(format!("running={}", function.max_running));
    }
    if function.limits != [0; 3] {
        let [high, normal, low] = function.limits;
        words.push(format!("queue={high},{normal},{low}"));
    }
    (!words.is_empty()).then(|| words.join(" "))
}

/// `None` for a connection, which does not outlive the server.
fn rule_key(selector: &WorkerSelector, function: Option<&FunctionName>) -> Option<String> {
    let whom = match selector {
        WorkerSelector::Connection(_) => return None,
        WorkerSelector::Client(id) => format!("client {}", encoded(id)),
        WorkerSelector::Host(address) => format!("host {}", encoded(address.as_bytes())),
    };
    Some(match function {
        Some(function) => format!("{whom} {}", encoded(function.as_bytes())),
        None => whom,
    })
}

fn rule_value(mode: WorkerMode) -> &'static str {
    match mode {
        WorkerMode::Disabled => "disabled",
        WorkerMode::Draining => "draining",
    }
}

fn encoded(bytes: &[u8]) -> String {
    percent_encode(bytes, ENCODED).to_string()
}

fn decoded(word: &str) -> Vec<u8> {
    percent_decode_str(word).collect()
}

fn number(text: &str) -> Result<u32, String> {
    text.parse().map_err(|_| format!("{text} is not a number of jobs"))
}

fn three_numbers(text: &str) -> Result<[u32; 3], String> {
    let numbers = text.split(',').map(number).collect::<Result<Vec<u32>, String>>()?;
    numbers.try_into().map_err(|_| format!("{text} must be three numbers: high,normal,low"))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::job_server::{ConnectionId, Event, Now, Policy, Rule};
    use crate::protocol::Response;
    use crate::stats::Stats;

    const NOW: Now = Now { monotonic_us: 0, unix_us: 0 };

    /// Records the settings that a store is told.
    #[derive(Default)]
    struct Told(Vec<(String, Option<String>)>);

    impl Effects for Told {
        fn send(&mut self, _: ConnectionId, _: Response<'_>) {}
        fn hold(&mut self, _: ConnectionId, _: usize) {}
        fn fill(&mut self, _: ConnectionId, _: u64, _: Response<'_>) {}
        fn store(&mut self, operation: StoreOp) {
            if let StoreOp::Set { name, value } = operation {
                self.0.push((name, value));
            }
        }
        fn report(&mut self, _: Event<'_>) {}
    }

    fn server(keeps_jobs: bool, max_functions: usize) -> JobServer {
        let policy = Policy { keeps_jobs, max_functions, ..Policy::default() };
        JobServer::new(policy, Arc::new(Stats::default()))
    }

    fn pairs(settings: &[(&str, &str)]) -> Vec<(String, String)> {
        settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    /// The settings that a store has of a server, if it has done all it was asked.
    fn settings(server: &JobServer) -> Vec<(String, String)> {
        let functions = server.functions.iter();
        let functions =
            functions.filter_map(|(_, function)| Some((function_key(&function.name), function_value(function)?)));
        let rules = server.list_rules(None).into_iter().filter_map(|Rule { selector, function, mode }| {
            Some((rule_key(&selector, function.as_ref())?, rule_value(mode).to_owned()))
        });
        let mut settings: Vec<(String, String)> = functions.chain(rules).collect();
        settings.sort_unstable();
        settings
    }

    #[test]
    fn each_decision_is_told_once_and_comes_back() {
        let (mut server, mut told) = (server(true, 100), Told::default());
        for _ in 0..2 {
            server.pause_function(NOW, b"a b\xff", true, &mut told).unwrap();
            server.limit_running(NOW, b"f", 3, &mut told).unwrap();
            server.limit_function(b"f", [1, 0, 2], &mut told).unwrap();
            let (client, host) = (WorkerSelector::Client(b"c%1 ".to_vec()), WorkerSelector::Host("::1".to_owned()));
            server.set_worker_mode(NOW, &client, None, WorkerMode::Disabled, &mut told).unwrap();
            server.set_worker_mode(NOW, &host, Some(b"f"), WorkerMode::Draining, &mut told).unwrap();
        }
        let kept = pairs(&[
            ("client c%251%20", "disabled"),
            ("function a%20b%FF", "paused"),
            ("function f", "running=3 queue=1,0,2"),
            ("host ::1 f", "draining"),
        ]);
        assert_eq!(told.0.len(), 5, "{:?}", told.0);
        assert_eq!(settings(&server), kept);

        let mut next = self::server(true, 100);
        let restored = next.restore_settings(kept.clone());
        assert_eq!(restored, RestoredSettings { paused: 1, limited: 1, rules: 2, left_out: Vec::new() });
        assert_eq!(settings(&next), kept);
    }

    #[test]
    fn what_is_as_in_the_beginning_is_taken_out() {
        let (mut server, mut told) = (server(true, 100), Told::default());
        server.restore_settings(pairs(&[
            ("function f", "paused"),
            ("function g", "running=1"),
            ("client c", "disabled"),
            ("client c f", "draining"),
        ]));
        server.pause_function(NOW, b"f", false, &mut told).unwrap();
        server.drop_function(b"g", &mut told);
        server.enable_workers(NOW, &WorkerSelector::Client(b"c".to_vec()), None, &mut told).unwrap();
        told.0.sort();
        let names = ["client c", "client c f", "function f", "function g"];
        assert_eq!(told.0, names.map(|name| (name.to_owned(), None)));
        assert_eq!(settings(&server), []);
    }

    #[test]
    fn what_makes_no_sense_or_is_newer_is_left_out_with_its_reason() {
        let long = format!("function {}", "f".repeat(513));
        let wrong = [
            (long.as_str(), "paused", "too long"),
            ("function %00", "paused", "NUL"),
            ("function f x", "paused", "words"),
            ("function f", "queue=1,2", "must be three numbers"),
            ("function f", "running=-1", "-1 is not a number of jobs"),
            ("function f", "shy", "unknown word shy"),
            ("function f", "running=0", "has no effect"),
            ("client c", "retired", "unknown value retired"),
            ("host %FF", "disabled", "not valid UTF-8"),
            ("planet mars", "disabled", "unknown setting"),
            ("", "", "unknown setting"),
        ];
        let wrong_ones: Vec<(&str, &str)> = wrong.iter().map(|(name, value, _)| (*name, *value)).collect();
        let mut server = server(true, 100);
        let restored = server.restore_settings(pairs(&wrong_ones));
        for ((name, why), (expected, _, reason)) in restored.left_out.iter().zip(wrong) {
            assert!(name == expected && why.contains(reason), "{name}: {why}");
        }
        assert_eq!(restored.left_out.len(), wrong.len());
        assert_eq!(settings(&server), []);
    }

    #[test]
    fn what_is_understood_is_in_force_and_the_rest_is_told() {
        let value = "shy paused queue=1,2 running=2";
        let (mut server, mut told) = (server(true, 100), Told::default());
        let restored = server.restore_settings(pairs(&[("function f", value)]));
        let why = "unknown word shy; 1,2 must be three numbers: high,normal,low; the rest is applied";
        let left_out = pairs(&[("function f", why)]);
        assert_eq!(restored, RestoredSettings { paused: 1, limited: 1, rules: 0, left_out });
        assert_eq!(settings(&server), pairs(&[("function f", "paused running=2")]));
        // The store keeps its entry until the next change of that function's settings.
        assert_eq!(told.0, []);
        server.limit_running(NOW, b"f", 3, &mut told).unwrap();
        assert_eq!(told.0, [("function f".to_owned(), Some("paused running=3".to_owned()))]);
    }

    #[test]
    fn limits_hold_for_what_comes_back() {
        let mut server = server(true, 1);
        let restored = server.restore_settings(pairs(&[("function f", "paused"), ("function g", "paused")]));
        assert_eq!((restored.paused, restored.left_out.len()), (1, 1), "{restored:?}");
        let rules: Vec<(String, String)> =
            (0..1001).map(|index| (format!("client {index}"), "disabled".to_owned())).collect();
        let restored = server.restore_settings(rules);
        assert_eq!((restored.rules, restored.left_out.len()), (1000, 1));
    }

    #[test]
    fn without_a_store_nothing_is_told() {
        let (mut server, mut told) = (server(false, 100), Told::default());
        server.pause_function(NOW, b"f", true, &mut told).unwrap();
        server
            .set_worker_mode(NOW, &WorkerSelector::Host("h".to_owned()), None, WorkerMode::Disabled, &mut told)
            .unwrap();
        assert_eq!(told.0, []);
    }
}
