//! What is decided in cases that a reader can check by hand, and what is said of it.

use gearmand::fleet::WorkerId;
use gearmand::fleet::desired::Desired;
use gearmand::fleet::reconcile::{Memory, Observed, Plan, Queue, Worker, dry_run, reconcile};

/// A fleet with a file's desired state, and workers written as `id host version in_use,... not_in_use,...`.
struct Case {
    desired: Desired,
    observed: Observed,
    memory: Memory,
}

fn id(id: &str) -> WorkerId {
    WorkerId::try_from(id.to_owned()).unwrap()
}

impl Case {
    fn new(desired: &str, workers: &[&str]) -> Self {
        let mut case = Self {
            desired: Desired::parse(desired).unwrap(),
            observed: Observed::default(),
            memory: Memory::default(),
        };
        case.observed.now_ms = 1_000_000;
        for worker in workers {
            case.put(worker);
        }
        case
    }

    /// Puts a worker there, or says anew what it does.
    fn put(&mut self, worker: &str) {
        let words: Vec<&str> = worker.split(' ').collect();
        let [name, host, version, in_use, not_in_use] = words[..] else { panic!("{worker}") };
        let set = |list: &str| list.split(',').filter(|name| *name != "-").map(str::to_owned).collect();
        let worker = Worker {
            host: host.to_owned(),
            version: version.to_owned(),
            in_use: set(in_use),
            not_in_use: set(not_in_use),
            ..Worker::default()
        };
        self.observed.workers.insert(id(name), worker);
    }

    fn wait(&mut self, seconds: u64) {
        self.observed.now_ms += seconds * 1_000;
    }

    fn queue(&mut self, function: &str, waiting: u64, running: u64) {
        self.observed.queues.insert(function.to_owned(), Queue { waiting, running, ..Queue::default() });
    }

    /// Decides, and returns what is to be done, as people read it.
    fn reconcile(&mut self) -> (Vec<String>, Plan) {
        let plan = reconcile(&self.desired, &self.observed, &self.memory);
        self.memory = plan.memory.clone();
        let said = plan.decisions.iter().map(|decision| {
            let action = serde_json::to_value(&decision.action).unwrap();
            let word = |key: &str| action[key].as_str().map(|word| format!(" {word}")).unwrap_or_default();
            let action = ["action", "worker", "by", "host", "function"].map(word).concat();
            format!("{}: {}", action.trim_start(), decision.why)
        });
        (said.collect(), plan)
    }

    fn expect(&mut self, expected: &[&str]) -> Plan {
        let (said, plan) = self.reconcile();
        assert_eq!(said, expected, "{plan:?}");
        plan
    }
}

#[test]
fn a_burst_is_met_and_given_back() {
    let mut case = Case::new(
        "scale_down_after = 60\n[functions.mail]\nmin = 1\nmax = 4\nscale_up_queue = 10",
        &["a web1 1 mail -", "b web1 1 - mail", "c web1 1 - mail"],
    );
    case.expect(&[]);
    case.queue("mail", 25, 1);
    case.expect(&[
        "register b mail: 3 workers for mail wanted, 1 there: 25 jobs wait for 1 worker, more than 10 each",
        "register c mail: 3 workers for mail wanted, 2 there: 25 jobs wait for 1 worker, more than 10 each",
    ]);
    case.put("b web1 1 mail -");
    case.put("c web1 1 mail -");
    case.queue("mail", 0, 0);
    case.wait(59);
    case.expect(&[]);
    case.wait(3);
    case.expect(&[
        "unregister c mail: 1 worker for mail wanted, 3 there: lower demand for 60s",
        "unregister b mail: 1 worker for mail wanted, 3 there: lower demand for 60s",
    ]);
}

#[test]
fn those_that_are_idle_stop_first_and_where_most_of_them_are() {
    let workers = ["a web1 1 mail -", "b web1 1 mail -", "c web2 1 mail -", "d web1 1 mail -"];
    let mut case = Case::new("[functions.mail]", &workers);
    case.observed.workers.get_mut(&id("d")).unwrap().running.insert("mail".to_owned());
    case.expect(&[
        "unregister b mail: 1 worker for mail wanted, 4 there: at least 1",
        "unregister a mail: 1 worker for mail wanted, 4 there: at least 1",
        "unregister c mail: 1 worker for mail wanted, 4 there: at least 1",
    ]);
}

#[test]
fn a_second_burst_waits_for_the_cool_down() {
    let text = "[functions.mail]\nmax = 9\nscale_up_queue = 10\nscale_up_cooldown = 20";
    let mut case = Case::new(text, &["a web1 1 mail -"]);
    for (seconds, waiting, target) in [(0, 0, 1), (1, 25, 3), (1, 60, 3), (18, 60, 3), (1, 35, 4), (1, 90, 4)] {
        case.wait(seconds);
        case.queue("mail", waiting, 1);
        assert_eq!(case.reconcile().1.targets["mail"], target, "after {seconds}s, {waiting} waiting");
    }
    // What must be is not waited for.
    case.desired.functions.get_mut("mail").unwrap().min = 6;
    assert_eq!(case.reconcile().1.targets["mail"], 6);
}

#[test]
fn jobs_that_wait_too_long_are_timed_here_if_the_server_does_not_tell() {
    let text = "[functions.mail]\nmax = 5\nscale_up_age = 30\nscale_up_step = 2";
    let mut case = Case::new(text, &["a web1 1 mail -", "b web1 1 - mail", "c web1 1 - mail"]);
    case.queue("mail", 1, 1);
    case.expect(&[]);
    case.wait(31);
    let why = "a job has waited for 31s, longer than 30s";
    let plan = case.expect(&[
        &format!("register b mail: 3 workers for mail wanted, 1 there: {why}"),
        &format!("register c mail: 3 workers for mail wanted, 2 there: {why}"),
    ]);
    assert_eq!(plan.targets["mail"], 3);
    // Those are not there yet: no more are asked for.
    case.wait(60);
    assert_eq!(case.reconcile().1.targets["mail"], 3);
    // In between none waited.
    case.put("b web1 1 mail -");
    case.put("c web1 1 mail -");
    case.queue("mail", 0, 3);
    case.reconcile();
    case.queue("mail", 1, 3);
    case.wait(20);
    case.expect(&[]);
}

#[test]
fn a_version_is_rolled_out_with_a_successor_first() {
    let mut case = Case::new("version = \"2\"\n[functions.mail]", &["a web1 1 mail -"]);
    let plan = case.expect(&["start a web1: replacement of a worker on web1"]);
    assert_eq!((plan.outdated.len(), plan.is_settled()), (1, false));
    case.expect(&[]);
    case.put("b web1 2 - mail");
    case.expect(&["register b mail: replacement of a worker on web1"]);
    // The registration was lost.
    case.expect(&["register b mail: replacement of a worker on web1"]);
    case.put("b web1 2 mail -");
    case.expect(&["exit a: a has version 1, wanted 2"]);
    // It finishes its job first: until then it is not done.
    let old = case.observed.workers.get_mut(&id("a")).unwrap();
    old.is_leaving = true;
    old.running.insert("mail".to_owned());
    let plan = case.expect(&[]);
    assert_eq!((plan.outdated.contains(&id("a")), plan.is_settled()), (true, false));
    case.observed.workers.get_mut(&id("a")).unwrap().running.clear();
    let plan = case.expect(&[]);
    assert_eq!((plan.outdated.contains(&id("a")), plan.is_settled()), (true, true));
    case.observed.workers.remove(&id("a"));
    let plan = case.expect(&[]);
    assert!(plan.is_settled() && plan.outdated.is_empty());
}

#[test]
fn one_that_is_to_be_replaced_and_is_missed_for_a_moment_is_still_replaced() {
    let mut case = Case::new("unresponsive_timeout = 30\n[functions.mail]", &["a web1 1 mail -", "b web1 1 mail -"]);
    case.memory.rolling.insert(id("b"));
    case.desired.functions.get_mut("mail").unwrap().min = 2;
    let worker = case.observed.workers.remove(&id("b")).unwrap();
    case.reconcile();
    case.wait(29);
    case.reconcile();
    case.observed.workers.insert(id("b"), worker);
    assert!(case.reconcile().1.outdated.contains(&id("b")));
    case.observed.workers.remove(&id("b"));
    case.reconcile();
    case.wait(30);
    case.reconcile();
    assert!(case.memory.rolling.is_empty() && case.memory.rolling_gone.is_empty());
}

#[test]
fn the_first_worker_waits_for_no_cool_down() {
    let text = "[functions.mail]\nmin = 0\nmax = 9\nscale_up_queue = 1\nscale_up_cooldown = 600\nscale_down_after = 5";
    let mut case = Case::new(text, &["a web1 1 - mail", "b web1 1 - mail"]);
    for (seconds, waiting, target) in [(0, 0, 0), (1, 1, 1), (60, 0, 0), (1, 5, 1), (1, 5, 1)] {
        case.wait(seconds);
        case.queue("mail", waiting, 0);
        assert_eq!(case.reconcile().1.targets["mail"], target, "after {seconds}s, {waiting} waiting");
    }
}

#[test]
fn a_host_without_the_new_code_is_told_of_and_tried_again_later() {
    let mut case = Case::new("version = \"2\"\n[functions.mail]", &["a web1 1 mail -", "z web2 1 - mail"]);
    case.expect(&["start a web1: replacement of a worker on web1"]);
    case.put("b web1 1 - mail");
    let plan = case.reconcile().1;
    let problem = "web1: started a worker of version 1 instead of 2; is the new code installed?";
    assert_eq!(plan.unmet, [format!("{problem}, next try in 30s")]);
    // Meanwhile the next host has its turn.
    assert_eq!(plan.memory.replacing.as_deref(), Some("web2"));
    assert_eq!(plan.counted["mail"], 1, "the old one still counts");
}

#[test]
fn an_idle_worker_is_right_if_its_version_is_wanted_for_something_that_it_could_do() {
    let text = "version = \"2\"\n[functions.index]\n[functions.mail]\nmin = 2\nversion = \"1\"";
    let mut case = Case::new(text, &["a web1 1 mail -", "b web1 2 index -"]);
    case.expect(&["start a web1: 2 workers for mail wanted, 1 there: at least 2"]);
    case.put("c web1 1 - index,mail");
    case.expect(&["register c mail: 2 workers for mail wanted, 1 there: at least 2"]);
    case.put("c web1 1 mail index");
    assert!(case.expect(&[]).is_settled());
    // One that could only do what is wanted of another version gives way.
    case.put("d web1 1 - index");
    case.put("e web1 2 - index");
    case.expect(&["exit d: d has version 1, wanted 2"]);
}

#[test]
fn functions_of_two_versions_are_not_hoped_for_from_one_worker() {
    let text = "functions_per_worker = 2\n[functions.index]\nversion = \"2\"\n[functions.mail]\nversion = \"1\"";
    let mut case = Case::new(text, &["a web1 3 x index,mail"]);
    case.expect(&[
        "start a web1: 1 worker for index wanted, 0 there: at least 1",
        "start a web1: 1 worker for mail wanted, 0 there: at least 1",
    ]);
}

#[test]
fn a_worker_that_does_not_come_is_waited_for_and_then_not_asked_for_all_the_time() {
    let mut case = Case::new("[functions.mail]\nmin = 2", &["a web1 1 mail -"]);
    let start = "start a web1: 2 workers for mail wanted, 1 there: at least 2";
    case.expect(&[start]);
    case.wait(29);
    assert!(case.expect(&[]).unmet.is_empty());
    case.wait(1);
    let plan = case.expect(&[]);
    let said = ["mail: 2 workers wanted, 1 there: cannot start workers on web1"].map(str::to_owned);
    assert_eq!(plan.unmet[..1], said);
    assert_eq!(plan.unmet[1], "web1: started worker did not register within 30s, next try in 30s");
    for pause in [30, 60, 120, 240, 480, 600, 600] {
        case.wait(pause - 1);
        case.expect(&[]);
        case.wait(1);
        case.expect(&[start]);
        case.wait(30);
        case.expect(&[]);
    }
    // One that comes makes all good.
    case.wait(600);
    case.expect(&[start]);
    case.put("b web1 1 - mail");
    case.expect(&["register b mail: 2 workers for mail wanted, 1 there: at least 2"]);
    assert!(case.memory.hosts.is_empty());
}

#[test]
fn a_function_moves_to_another_host() {
    let mut case = Case::new("[functions.mail]\nhosts = [\"web2\"]", &["a web1 1 mail -", "b web2 1 - mail"]);
    case.expect(&["register b mail: 1 worker for mail wanted, 0 there: at least 1"]);
    case.put("b web2 1 mail -");
    case.expect(&["unregister a mail: mail is not for web1; other workers took over"]);
}

#[test]
fn a_stopped_host_is_left_by_all() {
    let mut case = Case::new(
        "stopped_hosts = [\"web1\"]\n[functions.mail]",
        &["a web1 1 mail -", "b web1 1 - mail", "c web2 1 - mail"],
    );
    case.expect(&[
        "exit a: web1 is stopped",
        "exit b: web1 is stopped",
        "register c mail: 1 worker for mail wanted, 0 there: at least 1",
    ]);
}

#[test]
fn what_cannot_be_is_told() {
    let unmet = |text: &str, workers: &[&str]| Case::new(text, workers).reconcile().1.unmet;
    let mail = "[functions.mail]\nmin = 2";
    assert_eq!(unmet(mail, &[]), ["mail: 2 workers wanted, 0 there: no worker on an allowed host"]);
    let said = ["mail: 2 workers wanted, 0 there: no worker on an allowed host offers it"];
    assert_eq!(unmet(mail, &["a web1 1 - index"]), said);
    let full = format!("max_workers_per_host = 1\n{mail}");
    assert_eq!(unmet(&full, &["a web1 1 mail -"]), ["mail: 2 workers wanted, 1 there: no room for more on any host"]);
    let stopped = format!("stopped_hosts = [\"web1\"]\n{mail}");
    assert_eq!(
        unmet(&stopped, &["a web1 1 mail -"]),
        ["mail: 2 workers wanted, 0 there: all allowed hosts are stopped"]
    );
}

#[test]
fn what_a_function_must_have_comes_before_what_others_would_like() {
    let text = "max_workers_per_host = 2\n[functions.index]\nmax = 4\n[functions.mail]\nmin = 1";
    let mut case = Case::new(text, &["a web1 1 index mail", "b web1 1 index mail"]);
    case.expect(&["unregister b index: mail has 0 of at least 1, index is above its minimum"]);
    case.put("b web1 1 - index,mail");
    case.expect(&["register b mail: 1 worker for mail wanted, 0 there: at least 1"]);
}

#[test]
fn idle_workers_leave_after_a_while_but_the_last_of_its_kind() {
    let text = "scale_down_after = 60\nidle_workers_per_host = 1";
    let mut case = Case::new(text, &["a web1 1 - f", "b web1 1 - f", "c web1 1 - f", "d web1 1 - g"]);
    case.expect(&[]);
    case.wait(60);
    case.expect(&["exit c: no function in use for 60s", "exit b: no function in use for 60s"]);
    let mut case = Case::new("[hosts.web1]\nmax_workers = 2", &["a web1 1 - f", "b web1 1 - f", "c web1 1 x f"]);
    case.expect(&["exit b: web1 has more than 2 workers"]);
}

#[test]
fn a_worker_that_refuses_to_start_another_is_told_of_and_asked_again_later() {
    let mut case = Case::new("[functions.mail]\nmin = 2", &["a web1 1 mail -"]);
    let start = "start a web1: 2 workers for mail wanted, 1 there: at least 2";
    for pause in [30, 60, 120] {
        case.expect(&[start]);
        case.memory.start_failed("web1", &id("a"), "it says: no memory".to_owned(), case.observed.now_ms);
        assert!(case.memory.hosts["web1"].pending.is_empty());
        let plan = case.expect(&[]);
        assert_eq!(plan.unmet[1], format!("web1: it says: no memory, next try in {pause}s"));
        case.wait(pause - 1);
        case.expect(&[]);
        case.wait(1);
    }
}

#[test]
fn a_kind_of_worker_that_cannot_be_started_holds_back_no_other() {
    let text = "[functions.index]\nmin = 2\n[functions.mail]\nmin = 2";
    let mut case = Case::new(text, &["a web1 1 mail -", "b web1 1 index -"]);
    case.observed.workers.get_mut(&id("a")).unwrap().language = "php".to_owned();
    let mail = "start a web1: 2 workers for mail wanted, 1 there: at least 2";
    case.expect(&["start b web1: 2 workers for index wanted, 1 there: at least 2", mail]);
    case.memory.start_failed("web1", &id("a"), "it says: no memory".to_owned(), case.observed.now_ms);
    // The worker that appears is of the other kind.
    case.put("c web1 1 - index");
    let plan = case.expect(&["register c index: 2 workers for index wanted, 1 there: at least 2"]);
    let unmet = "mail: 2 workers wanted, 1 there: cannot start workers on web1";
    assert_eq!(plan.unmet, [unmet, "web1 (php): it says: no memory, next try in 30s"]);
    case.put("c web1 1 index -");
    case.desired.functions.get_mut("index").unwrap().min = 3;
    case.expect(&["start b web1: 3 workers for index wanted, 2 there: at least 3"]);
    case.put("d web1 1 index -");
    case.wait(29);
    case.expect(&[]);
    case.wait(1);
    case.expect(&[mail]);
}

#[test]
fn a_worker_of_another_kind_is_started_if_it_can_do_the_same() {
    let workers = ["a web1 1 mail -", "b web1 1 other mail", "c web1 1 other mail"];
    let mut case = Case::new("[functions.mail]\nmin = 2", &workers);
    for by in ["a", "b"] {
        case.expect(&[&format!("start {by} web1: 2 workers for mail wanted, 1 there: at least 2")]);
        case.memory.start_failed("web1", &id(by), "no".to_owned(), case.observed.now_ms);
    }
    // The third one is of the second kind.
    case.expect(&[]);
}

#[test]
fn a_kind_of_worker_that_cannot_be_started_holds_up_no_roll_of_others() {
    let text = "version = \"2\"\n[functions.index]\n[functions.mail]";
    let mut case = Case::new(text, &["a web1 1 mail -", "b web1 1 index -"]);
    case.expect(&["start a web1: replacement of a worker on web1"]);
    case.memory.start_failed("web1", &id("a"), "no".to_owned(), case.observed.now_ms);
    case.expect(&["start b web1: replacement of a worker on web1"]);
    case.put("c web1 2 - index");
    case.expect(&["register c index: replacement of a worker on web1"]);
    case.put("c web1 2 index -");
    case.expect(&["exit b: b has version 1, wanted 2"]);
    case.observed.workers.remove(&id("b"));
    case.wait(29);
    assert_eq!(case.expect(&[]).outdated_at_work, 1);
    case.wait(1);
    case.expect(&["start a web1: replacement of a worker on web1"]);
}

#[test]
fn a_worker_whose_functions_change_does_not_evade_the_backoff() {
    let mut case = Case::new("[functions.mail]\nmin = 2", &[]);
    let mut starts = 0;
    for number in 0..40 {
        case.put(&format!("a web1 1 mail other-{number}"));
        starts += case.reconcile().0.len();
        case.memory.start_failed("web1", &id("a"), "no".to_owned(), case.observed.now_ms);
    }
    assert_eq!(starts, 16);
}

#[test]
fn a_worker_on_a_full_host_stays_while_another_makes_room() {
    let text = "version = \"2\"\nmax_workers_per_host = 2\nmax_surge_per_host = 2\n\
                [functions.index]\n[functions.mail]\n[functions.report]";
    let old = ["a web1 1 mail index,report", "b web1 1 index mail,report"];
    let new = ["c web1 2 index mail,report", "d web1 2 report index,mail"];
    let mut case = Case::new(text, &[old, new].concat());
    case.expect(&["exit b: b has version 1, wanted 2"]);
    case.observed.workers.remove(&id("b"));
    case.expect(&["start a web1: replacement of a worker on web1"]);
}

#[test]
fn what_was_not_done_is_not_remembered() {
    let text = "version = \"2\"\n[functions.mail]\nmax = 3\nscale_up_queue = 1\n[functions.index]";
    let workers = ["a web1 1 mail -", "b web1 2 - mail", "c web2 2 - index", "d web2 2 - -"];
    let mut case = Case::new(text, &workers);
    case.memory = reconcile(&case.desired, &case.observed, &case.memory).memory;
    case.memory.hosts.clear();
    case.memory.successors.clear();
    case.wait(20);
    case.queue("mail", 3, 1);
    let before = case.memory.clone();
    let plan = dry_run(&case.desired, &case.observed, &case.memory);
    let decided = reconcile(&case.desired, &case.observed, &case.memory);
    assert_eq!((&plan.decisions, &plan.targets), (&decided.decisions, &decided.targets));
    assert!(!decided.memory.hosts.is_empty() && !decided.memory.successors.is_empty());
    assert!(plan.memory.hosts.is_empty() && plan.memory.successors.is_empty());
    let (then, now) = (&before.functions["mail"], &plan.memory.functions["mail"]);
    assert_eq!((then.target, then.grown_ms), (now.target, now.grown_ms));
    assert_ne!(decided.memory.functions["mail"].grown_ms, now.grown_ms);
    assert_eq!(now.waiting_since_ms, Some(case.observed.now_ms));
    assert_eq!(plan.memory.idle_since.keys().map(WorkerId::as_str).collect::<Vec<_>>(), ["b", "c", "d"]);
    // What is decided after that is what would have been decided before.
    let later = reconcile(&case.desired, &case.observed, &plan.memory);
    assert_eq!((later.decisions, later.targets), (decided.decisions, decided.targets));
}

#[test]
fn a_worker_that_refuses_a_function_is_not_asked_for_it_all_the_time() {
    let mut case = Case::new("scale_down_after = 60\n[functions.mail]", &["a web1 1 - mail", "z web1 1 x mail"]);
    let why = "1 worker for mail wanted, 0 there: at least 1";
    for pause in [30, 60, 120, 240, 480, 600, 600] {
        case.expect(&[&format!("register a mail: {why}")]);
        case.memory.refused(&id("a"), "mail", case.observed.now_ms);
        if pause == 30 {
            // Another one is tried, and then no more.
            case.expect(&[&format!("start a web1: {why}")]);
            case.put("b web1 1 - mail");
            case.expect(&[&format!("register b mail: {why}")]);
        }
        case.memory.refused(&id("b"), "mail", case.observed.now_ms + 1);
        let plan = case.expect(&[]);
        let said = format!("mail: 1 worker wanted, 0 there: 2 workers refuse it, next try in {pause}s");
        assert_eq!(plan.unmet, [said]);
        case.wait(pause - 1);
        case.expect(&[]);
        case.wait(1);
    }
    case.expect(&[&format!("register a mail: {why}")]);
    case.put("a web1 1 mail -");
    case.expect(&[]);
    assert!(!case.memory.refusals.contains_key(&id("a")));
    // One that refused is kept until that is long ago.
    case.wait(601);
    case.expect(&["exit b: no function in use for 2731s"]);
}

#[test]
fn functions_that_are_withheld_get_no_more_workers() {
    let workers = ["a web1 1 mail -", "b web1 1 - mail", "c web1 1 - mail"];
    let mut case = Case::new("[functions.mail]\nmax = 3\nscale_up_queue = 10", &workers);
    let queue = Queue { waiting: 100, running: 1, is_paused: true, ..Queue::default() };
    case.observed.queues.insert("mail".to_owned(), queue);
    case.expect(&[]);
    // No more than two may run, so a third worker would wait.
    case.observed.queues.insert("mail".to_owned(), Queue { is_paused: false, max_running: 2, ..queue });
    assert_eq!(case.reconcile().1.targets["mail"], 2);
}

#[test]
fn functions_go_to_the_hosts_that_do_least() {
    let all = "a,b,c,d";
    let workers = ["p web1", "q web1", "r web1", "s web1", "x web2", "y web2", "z web2"];
    let workers = workers.map(|worker| format!("{worker} 1 - {all}"));
    let workers: Vec<&str> = workers.iter().map(String::as_str).collect();
    let mut case = Case::new("[functions.a]\n[functions.b]\n[functions.c]\n[functions.d]", &workers);
    let why = |name: &str| format!("1 worker for {name} wanted, 0 there: at least 1");
    let expected = [("p", "a"), ("x", "b"), ("q", "c"), ("y", "d")];
    let expected = expected.map(|(worker, name)| format!("register {worker} {name}: {}", why(name)));
    case.expect(&expected.each_ref().map(String::as_str));
}

#[test]
fn workers_are_spread_again_when_a_host_is_back() {
    let workers = ["p web1 1 mail -", "q web1 1 mail -", "r web1 1 mail -", "s web1 1 - mail"];
    let mut case = Case::new("[functions.mail]\nmin = 3", &workers);
    case.expect(&[]);
    case.put("x web2 1 - mail");
    case.put("y web2 1 - mail");
    case.observed.workers.get_mut(&id("p")).unwrap().running.insert("mail".to_owned());
    let plan = case.expect(&["register x mail: spreading mail over hosts: web1 has more of it"]);
    assert!(plan.unmet.is_empty() && !plan.is_settled(), "{plan:?}");
    // It was lost on its way.
    case.expect(&["register x mail: spreading mail over hosts: web1 has more of it"]);
    case.put("x web2 1 mail -");
    // One that is idle gives way.
    case.expect(&["unregister q mail: web1 has more of mail than other hosts; a worker elsewhere took over"]);
    case.put("q web1 1 - mail");
    // Two and one is as even as three can be.
    assert!(case.expect(&[]).is_settled());
}

#[test]
fn one_worker_each_of_many_functions_is_spread_too() {
    let workers = ["p web1 1 a b,c", "q web1 1 b a,c", "r web1 1 c a,b", "x web2 1 - a,b,c"];
    let mut case = Case::new("[functions.a]\n[functions.b]\n[functions.c]", &workers);
    case.expect(&["register x a: spreading a over hosts: web1 has more of it"]);
    case.put("x web2 1 a b,c");
    case.expect(&["unregister p a: web1 has more of a than other hosts; a worker elsewhere took over"]);
    case.put("p web1 1 - a,b,c");
    assert!(case.expect(&[]).is_settled());
}

#[test]
fn a_move_that_cannot_be_made_is_given_up() {
    let workers = ["p web1 1 mail -", "q web1 1 mail -", "x web2 1 - mail"];
    let mut case = Case::new("[functions.mail]\nmin = 2\nhosts = [\"web*\"]", &workers);
    case.expect(&["register x mail: spreading mail over hosts: web1 has more of it"]);
    // The host is gone again.
    case.observed.workers.remove(&id("x"));
    let plan = case.expect(&[]);
    assert!(plan.is_settled() && plan.memory.spreading.is_none(), "{plan:?}");
    assert_eq!(plan.counted["mail"], 2);
}
