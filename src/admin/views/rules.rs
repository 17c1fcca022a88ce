//! Views of worker rules, which only the hub knows.

use std::collections::HashMap;
use std::sync::Arc;
use std::vec;

use super::pass::{Pass, Serial, Sum};
use super::{Views, function_id, lossy, worker_id};
use crate::admin::view::RuleView;
use crate::hub::Hub;
use crate::job_server::{Rule, WorkerMode, WorkerSelector};
use crate::stats::ConnectionGauges;

/// How many connections are examined for one piece.
const CONNECTIONS: usize = 256;
/// How many rules are shown in one piece.
const RULES: usize = 16;

/// The rules, read from the hub a bounded number at a time. Concurrent changes may or may not be seen.
#[derive(Debug)]
pub struct Rules {
    hub: Arc<Hub>,
    /// Only the rules for exactly these workers; `None` for all.
    selector: Option<WorkerSelector>,
    left: vec::IntoIter<Rule>,
    /// The last rule that was read.
    last: Option<Rule>,
    /// Views that are made and not returned yet.
    shown: vec::IntoIter<RuleView>,
    presence: Arc<Pass<Present>>,
    /// The first pass whose result is not older than this list.
    wanted: Serial,
}

/// Worker counts by client id and by address.
#[derive(Debug, Default)]
pub(super) struct Present {
    clients: HashMap<Vec<u8>, u64>,
    hosts: HashMap<String, u64>,
}

impl Sum for Present {
    fn add(&mut self, gauges: &ConnectionGauges, _: Option<usize>, _: usize) -> (usize, Option<usize>) {
        if gauges.with_identity(|_, functions| functions.is_empty()) {
            return (0, None);
        }
        match self.hosts.get_mut(&gauges.peer) {
            Some(count) => *count += 1,
            None => *self.hosts.entry(gauges.peer.clone()).or_default() += 1,
        }
        if let Some(id) = gauges.client_id() {
            *self.clients.entry(id).or_default() += 1;
        }
        (0, None)
    }
}

impl Present {
    fn count(&self, selector: &WorkerSelector) -> u64 {
        let count = match selector {
            // Its rules are removed with it.
            WorkerSelector::Connection(_) => return 1,
            WorkerSelector::Client(id) => self.clients.get(id),
            WorkerSelector::Host(address) => self.hosts.get(address),
        };
        count.copied().unwrap_or_default()
    }
}

impl Views {
    /// All worker rules, those for connections first.
    pub fn rules(&self) -> Rules {
        self.rules_of(None, Arc::default())
    }

    /// The same for the text protocol, where hundreds of listings may run on one thread: they share the
    /// counts.
    pub(in crate::admin) fn rules_in_shared_pieces(&self) -> Rules {
        self.rules_of(None, self.shared_presence.get())
    }

    /// The rules for exactly these workers.
    pub(in crate::admin) fn rules_for(&self, selector: WorkerSelector) -> Rules {
        self.rules_of(Some(selector), Arc::default())
    }

    fn rules_of(&self, selector: Option<WorkerSelector>, presence: Arc<Pass<Present>>) -> Rules {
        Rules {
            hub: Arc::clone(&self.hub),
            selector,
            left: Vec::new().into_iter(),
            shown: Vec::new().into_iter(),
            last: None,
            wanted: presence.next(),
            presence,
        }
    }
}

impl Rules {
    /// The next rules; empty while workers are counted, `None` after the last.
    pub(in crate::admin) fn next_piece(&mut self) -> Option<Vec<RuleView>> {
        let Some(present) = self.presence.resume(self.wanted, self.hub.stats(), CONNECTIONS) else {
            return Some(Vec::new());
        };
        if self.left.len() == 0 {
            // Threads that wait for the lock get it between two reads.
            self.hub.yield_to_waiters();
            let after = self.last.as_ref();
            let rules = match &self.selector {
                Some(selector) => self.hub.list_rules_for(selector, after),
                None => self.hub.list_rules(after),
            };
            self.last = Some(rules.last()?.clone());
            self.left = rules.into_iter();
        }
        let rules = self.left.by_ref().take(RULES);
        Some(rules.map(|rule| rule_view(&rule, present.count(&rule.selector))).collect())
    }
}

impl Iterator for Rules {
    type Item = RuleView;

    fn next(&mut self) -> Option<RuleView> {
        loop {
            if let Some(rule) = self.shown.next() {
                return Some(rule);
            }
            self.shown = self.next_piece()?.into_iter();
        }
    }
}

fn rule_view(rule: &Rule, workers: u64) -> RuleView {
    let (kind, name) = match &rule.selector {
        WorkerSelector::Connection(id) => ("connection", worker_id(*id).into_bytes()),
        WorkerSelector::Client(id) => ("client", id.clone()),
        WorkerSelector::Host(address) => ("host", address.clone().into_bytes()),
    };
    RuleView {
        who: format!("{kind}:{}", lossy(&name)),
        who_id: format!("{kind}:{}", function_id(&name)),
        function: rule.function.as_ref().map(|function| lossy(function.as_bytes())),
        function_id: rule.function.as_ref().map(|function| function_id(function.as_bytes())),
        mode: match rule.mode {
            WorkerMode::Disabled => "disabled",
            WorkerMode::Draining => "draining",
        },
        workers,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job_server::{Now, Policy};
    use crate::outbox::Outbox;
    use crate::stats::Stats;

    /// More rules than one read returns, of all kinds, with every boundary between two reads.
    #[test]
    fn every_rule_is_shown_once_and_in_order() {
        let now = Now { monotonic_us: 1, unix_us: 1_800_000_000_000_000 };
        let hub = Arc::new(Hub::new(Policy::default(), Arc::new(Stats::default()), None));
        let gauges = Arc::new(ConnectionGauges::new(0, String::new()));
        let id = hub.connect(gauges, Arc::new(Outbox::new(1 << 30, Arc::default()))).expect("the hub is open");
        let mut expected = Vec::new();
        let mut add_rules = |selector: WorkerSelector, functions: usize| {
            hub.set_worker_mode(now, &selector, None, WorkerMode::Disabled).unwrap();
            expected.push((
                rule_view(&Rule { selector: selector.clone(), function: None, mode: WorkerMode::Disabled }, 0).who,
                None,
            ));
            for index in 0..functions {
                let function = format!("f{index:04}");
                hub.set_worker_mode(now, &selector, Some(function.as_bytes()), WorkerMode::Draining).unwrap();
                expected.push((expected.last().unwrap().0.clone(), Some(function)));
            }
        };
        add_rules(WorkerSelector::Connection(id), 300);
        (0..5).for_each(|client| add_rules(WorkerSelector::Client(format!("c{client}").into_bytes()), 110));
        (0..260).for_each(|host| add_rules(WorkerSelector::Host(format!("h{host:03}")), 0));
        let views = Views::new(Arc::clone(&hub), "");
        let shown = |rules: Rules| rules.map(|rule| (rule.who, rule.function)).collect::<Vec<_>>();
        assert_eq!(shown(views.rules()), expected);
        assert_eq!(shown(views.rules_for(WorkerSelector::Connection(id))), expected[..301]);
        assert_eq!(shown(views.rules_for(WorkerSelector::Client(b"c1".to_vec()))), expected[301 + 111..301 + 222]);
        assert_eq!(shown(views.rules_for(WorkerSelector::Host("nobody".to_owned()))), []);
        // The last rule read may be removed meanwhile.
        let mut rules = views.rules();
        assert_eq!(rules.by_ref().take(256).count(), 256);
        hub.enable_workers(now, &WorkerSelector::Connection(id), None).unwrap();
        assert_eq!(shown(rules), expected[301..]);
        // A connection's rules are removed with it, whichever connection gets its slot.
        hub.set_worker_mode(now, &WorkerSelector::Connection(id), None, WorkerMode::Disabled).unwrap();
        hub.disconnect(now, id, crate::job_server::ConnectionEnd::default());
        assert_eq!(shown(views.rules_for(WorkerSelector::Connection(id))), []);
    }

    #[test]
    fn names_that_are_no_text_can_be_told_apart() {
        let rule = |id: &[u8]| {
            rule_view(
                &Rule { selector: WorkerSelector::Client(id.to_vec()), function: None, mode: WorkerMode::Disabled },
                0,
            )
        };
        assert_eq!(rule(b"a b").who_id, "client:a%20b");
        let (one, other) = (rule(b"\xff"), rule(b"\xfe"));
        assert_eq!(one.who, other.who);
        assert_eq!([one.who_id, other.who_id], ["client:%FF", "client:%FE"]);
    }
}
