//! Our server beside the C++ gearmand that Debian packages: the same conversations with both, and the answers
//! compared.
//!
//! The conversations stand in `tests/parity/*.txt`; `script` says how they are written and run. Where our
//! answer differs on purpose it stands in `deviations`, with the reason. The test fails when another
//! difference appears, and when one of those is no longer there.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a failed expectation is how a test fails")]

mod common;

#[path = "parity/deviations.rs"]
mod deviations;
#[path = "parity/script.rs"]
mod script;

use std::collections::BTreeSet;
use std::fmt::Write;

use common::{Server, packet};
use deviations::{DEVIATIONS, Deviation};
use script::{Script, Step};

/// Options for both servers: handles are the same.
const BOTH: [&str; 2] = ["--job-handle-prefix", "H:t"];

/// A woken worker that does not come is not given up while a conversation lasts: gearmand never does that.
const OURS: [&str; 2] = ["--wakeup-timeout", "1h"];

/// With one thread gearmand always closes a connection whose packet it cannot use; with more it depends on a
/// race.
const THEIRS: [&str; 2] = ["-t", "1"];

fn scripts() -> Vec<Script> {
    [
        include_str!("parity/jobs.txt"),
        include_str!("parity/workers.txt"),
        include_str!("parity/packets.txt"),
        include_str!("parity/admin.txt"),
    ]
    .into_iter()
    .flat_map(script::parse)
    .collect()
}

/// Something that a server said otherwise than the other.
struct Difference<'a> {
    script: &'a Script,
    step: &'a Step,
    ours: String,
    theirs: String,
}

/// Runs a conversation with both servers.
fn differences(script: &Script) -> Vec<Difference<'_>> {
    let options = |own: [&'static str; 2]| -> Vec<&str> {
        BOTH.into_iter().chain(own).chain(script.options.iter().map(String::as_str)).collect()
    };
    let (ours, theirs) = std::thread::scope(|scope| {
        let ours = scope.spawn(|| script.run(&Server::ours(&options(OURS))));
        let theirs = scope.spawn(|| script.run(&Server::debian(&options(THEIRS))));
        (ours.join(), theirs.join())
    });
    let [ours, theirs] = [("our server", ours), ("gearmand", theirs)]
        .map(|(whose, result)| result.unwrap_or_else(|_| panic!("\"{}\" with {whose} came to no end", script.name)));
    let answers = ours.into_iter().zip(theirs);
    script
        .steps
        .iter()
        .zip(answers)
        .filter(|(_, (ours, theirs))| ours != theirs)
        .map(|(step, (ours, theirs))| Difference { script, step, ours, theirs })
        .collect()
}

/// Runs all conversations, some of them at the same time.
fn all_differences(scripts: &[Script]) -> Vec<Difference<'_>> {
    const THREADS: usize = 4;
    std::thread::scope(|scope| {
        let chunks = scripts.chunks(scripts.len().div_ceil(THREADS));
        let threads: Vec<_> =
            chunks.map(|chunk| scope.spawn(|| chunk.iter().flat_map(differences).collect::<Vec<_>>())).collect();
        threads.into_iter().flat_map(|thread| thread.join().expect("the reason stands above")).collect()
    })
}

impl Difference<'_> {
    fn is(&self, deviation: &Deviation) -> bool {
        self.is_at(deviation) && self.ours == deviation.ours && self.theirs == deviation.theirs
    }

    fn is_at(&self, deviation: &Deviation) -> bool {
        self.script.name == deviation.conversation && self.step.line == deviation.step
    }
}

#[test]
fn our_server_answers_as_gearmand_but_for_the_deviations() {
    let scripts = scripts();
    let differences = all_differences(&scripts);
    let mut report = String::new();
    for difference in &differences {
        if !DEVIATIONS.iter().any(|deviation| difference.is(deviation)) {
            let Difference { script, step, ours, theirs } = difference;
            let listed = DEVIATIONS.iter().any(|deviation| difference.is_at(deviation));
            let why = if listed { "differs in another way than listed" } else { "differs" };
            let _ = write!(
                report,
                "{why}:\n    Deviation {{\n        conversation: {:?},\n        step: r\"{}\",\n        \
                 ours: r#\"{ours}\"#,\n        theirs: r#\"{theirs}\"#,\n    }},\n",
                script.name, step.line
            );
        }
    }
    for deviation in DEVIATIONS {
        if !differences.iter().any(|difference| difference.is_at(deviation)) {
            let _ = writeln!(report, "no longer differs: \"{}\", {}", deviation.conversation, deviation.step);
        }
    }
    assert!(report.is_empty(), "\n{report}");
}

#[test]
fn every_packet_type_and_every_text_command_is_in_a_conversation() {
    let scripts = scripts();
    assert!(scripts.len() >= 60, "{} conversations", scripts.len());
    let steps = || scripts.iter().flat_map(|script| &script.steps);
    let sent: BTreeSet<u32> = steps().filter_map(Step::packet_type).collect();
    let all: BTreeSet<u32> = (1..=packet::STATUS_RES_UNIQUE).filter(|number| *number != 5).collect();
    assert_eq!(all.difference(&sent).collect::<Vec<_>>(), [&0; 0], "packet types that are not sent");
    for command in [
        "workers",
        "status",
        "prioritystatus",
        "show jobs",
        "show unique jobs",
        "cancel job",
        "create function",
        "drop function",
        "maxqueue",
        "getpid",
        "verbose",
        "version",
        "shutdown",
        "shutdown graceful",
    ] {
        let is_sent = steps().any(|step| step.text_line().is_some_and(|line| line.starts_with(command)));
        assert!(is_sent, "{command} is not sent");
    }
}

#[test]
fn every_deviation_is_of_one_step_and_has_a_reason() {
    let scripts = scripts();
    for deviation in DEVIATIONS {
        let Deviation { conversation, step, reason, .. } = deviation;
        let steps = scripts.iter().filter(|script| script.name == *conversation).flat_map(|script| &script.steps);
        assert_eq!(steps.filter(|known| known.line == *step).count(), 1, "\"{conversation}\", {step}");
        assert!(reason.len() > 20, "\"{conversation}\", {step}: {reason}");
        let same = DEVIATIONS.iter().filter(|other| (other.conversation, other.step) == (*conversation, *step));
        assert_eq!(same.count(), 1, "\"{conversation}\", {step} is listed twice");
    }
    let names: BTreeSet<&str> = scripts.iter().map(|script| script.name.as_str()).collect();
    assert_eq!(names.len(), scripts.len(), "two conversations of one name");
}
