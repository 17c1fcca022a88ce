//! What the operator has decided, as a store is told it and as it comes back.

use std::collections::BTreeMap;
use std::fmt::Write;

use gearmand::job_server::{RestoredSettings, WorkerMode};

use super::model::Model;
use super::model_control::{Controls, Whom};
use super::wire::{CLIENTS, FUNCTIONS, HOSTS};

/// By name.
pub(crate) type Settings = BTreeMap<String, String>;

impl Model {
    /// What a store is to have, once it has done what it was asked.
    pub(crate) fn settings(&self) -> Settings {
        let mut settings = Settings::new();
        for (function, name) in FUNCTIONS.iter().enumerate() {
            let mut words = Vec::new();
            let Controls { paused, max_running } = self.controls.get(&function).copied().unwrap_or_default();
            if paused {
                words.push("paused".to_owned());
            }
            if max_running > 0 {
                words.push(format!("running={max_running}"));
            }
            let [high, normal, low] = self.functions.get(&function).copied().unwrap_or_default();
            if high + normal + low > 0 {
                words.push(format!("queue={high},{normal},{low}"));
            }
            if !words.is_empty() {
                settings.insert(format!("function {}", word(name)), words.join(" "));
            }
        }
        let rules = self.rules.iter().filter_map(|((whom, function), how)| Some((name(*whom, *function)?, *how)));
        settings.extend(rules.map(|(name, how)| (name, value(how).to_owned())));
        settings
    }

    /// A new server has taken back what the store has. What it may have left out is taken from `settings`.
    pub(crate) fn settings_restored(&mut self, settings: &mut Settings, restored: &RestoredSettings) {
        let (mut paused, mut limited, mut rules) = (0, 0, 0);
        let left_out: Vec<&String> = restored.left_out.iter().map(|(name, _)| name).collect();
        for (name, value) in settings.clone() {
            let function = FUNCTIONS.iter().position(|function| name == format!("function {}", word(function)));
            let Some(function) = function else {
                self.rules.insert(rule(&name), how(&value));
                rules += 1;
                continue;
            };
            let is_one_too_many =
                !self.functions.contains_key(&function) && self.functions.len() >= self.policy.max_functions;
            if left_out.contains(&&name) {
                assert!(is_one_too_many || FUNCTIONS[function].is_empty(), "{name} {value} is not in force any more");
                settings.remove(&name);
                continue;
            }
            self.may_have_forgotten |= is_one_too_many;
            let (controls, limits) = parse(&value);
            paused += usize::from(controls.paused);
            limited += usize::from(controls.max_running > 0 || limits != [0; 3]);
            self.controls.insert(function, controls);
            if self.functions.insert(function, limits).is_none() {
                self.settings_only.insert(function);
            }
            self.note("had a function of which a decision outlived the server");
        }
        assert_eq!(
            (restored.paused, restored.limited, restored.rules),
            (paused, limited, rules),
            "what is said to be as before"
        );
        if rules > 0 {
            self.note("met a rule that outlived the server");
        }
    }
}

fn word(bytes: &[u8]) -> String {
    let mut word = String::new();
    for byte in bytes {
        if byte.is_ascii_alphanumeric() || b"-._:".contains(byte) {
            word.push(char::from(*byte));
        } else {
            write!(word, "%{byte:02X}").unwrap();
        }
    }
    word
}

/// Rules for a connection end with it.
fn name(whom: Whom, function: Option<usize>) -> Option<String> {
    let whom = match whom {
        Whom::Connection(_) => return None,
        Whom::Client(id) => format!("client {}", word(id)),
        Whom::Host(host) => format!("host {}", word(host.as_bytes())),
    };
    Some(function.map_or_else(|| whom.clone(), |function| format!("{whom} {}", word(FUNCTIONS[function]))))
}

fn rule(wanted: &str) -> (Whom, Option<usize>) {
    let everyone = CLIENTS.map(Whom::Client).into_iter().chain(HOSTS.map(Whom::Host));
    let functions = || [None].into_iter().chain((0..FUNCTIONS.len()).map(Some));
    let mut all = everyone.flat_map(|whom| functions().map(move |function| (whom, function)));
    all.find(|(whom, function)| name(*whom, *function).as_deref() == Some(wanted)).expect("a rule that was made")
}

fn value(how: WorkerMode) -> &'static str {
    match how {
        WorkerMode::Disabled => "disabled",
        WorkerMode::Draining => "draining",
    }
}

fn how(text: &str) -> WorkerMode {
    [WorkerMode::Disabled, WorkerMode::Draining].into_iter().find(|how| value(*how) == text).unwrap()
}

fn parse(value: &str) -> (Controls, [u32; 3]) {
    let (mut controls, mut limits) = (Controls::default(), [0; 3]);
    for word in value.split(' ') {
        match word.split_once('=') {
            Some(("running", most)) => controls.max_running = most.parse().unwrap(),
            Some(("queue", numbers)) => {
                let numbers: Vec<u32> = numbers.split(',').map(|number| number.parse().unwrap()).collect();
                limits = numbers.try_into().unwrap();
            }
            _ => controls.paused = word == "paused",
        }
    }
    (controls, limits)
}
