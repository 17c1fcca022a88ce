//! The rules of this house that a compiler does not know: which room may use which, how long files and
//! functions get, what every file says first, and that the documents tell the truth.
//!
//! A rule that does not fit a case gets an exception here, with the reason; an exception that is no longer
//! needed fails.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a failed expectation is how a test fails")]

#[path = "tidy/documents.rs"]
mod documents;
#[path = "tidy/layers.rs"]
mod layers;
#[path = "tidy/source.rs"]
mod source;

use std::collections::BTreeSet;
use std::fs;

use source::{Function, Source, root};

/// Lines in a file and in a function: of the program, and of its tests and benchmarks.
const FILE_LINES: usize = 600;
const FUNCTION_LINES: usize = 70;
const TEST_FILE_LINES: usize = 700;
const TEST_FUNCTION_LINES: usize = 100;

/// Columns of a comment on a line of its own. rustfmt knows those of code.
const COMMENT_COLUMNS: usize = 110;

/// What may be longer: a file, or a file and a function, and why.
const LONGER: &[(&str, &str)] = &[];

/// What the program does not call: the path, where it may, and what it does instead.
const NOT_CALLED: &[(&[&str], &[&str], &str)] = &[
    (&["thread", "sleep"], &[], "wait for the event, with a deadline"),
    (
        &["process", "exit"],
        &["src/process/detach.rs"],
        "return an ExitCode from main; only the parent of a detached server has nothing to clean up",
    ),
    (&["process", "abort"], &[], "a broken invariant panics, and a panic aborts"),
    (&["mpsc", "unbounded_channel"], &[], "nothing is queued without a bound"),
];

/// Words that belong to a workplace and not to the project.
const FOREIGN_WORDS: &[&str] = &["/work/", "helper-", "/home/", "/root/", "C:\\Users"];

/// Files in which such words are no slip.
const FOREIGN_WORDS_IN: &[&str] = &["tests/tidy.rs"];

/// The sources under `src/`, `tests/` and `benches/`.
fn sources() -> Vec<Source> {
    source::tracked_files().into_iter().filter(|path| source::is_rust(path)).map(Source::read).collect()
}

fn program() -> Vec<Source> {
    let mut program = sources();
    program.retain(|source| source.path.starts_with("src/"));
    assert!(program.len() > 20, "the sources of the program were not found");
    program
}

/// Fails with all that was found.
fn none(found: &[String], rule: &str) {
    assert!(found.is_empty(), "{rule}:\n  {}", found.join("\n  "));
}

#[test]
fn imports_point_down() {
    let program = program();
    none(&layers::violations(&program), "a room uses one that it must not know (tests/tidy/layers.rs)");
}

#[test]
fn rooms_are_those_of_the_crate() {
    let declared: BTreeSet<String> =
        program().iter().filter(|source| source.path != "src/main.rs").map(layers::room_of).collect();
    let known: BTreeSet<String> = layers::rooms().map(str::to_owned).chain(["lib".to_owned()]).collect();
    assert_eq!(declared, known, "src/ and the table of tests/tidy/layers.rs name different rooms");
}

#[test]
fn architecture_names_every_room() {
    let text = fs::read_to_string(root().join("ARCHITECTURE.md")).expect("ARCHITECTURE.md, the map of the code");
    let missing: Vec<String> =
        layers::rooms().filter(|room| !text.contains(&format!("`{room}`"))).map(str::to_owned).collect();
    none(&missing, "ARCHITECTURE.md does not name these rooms (as `room`)");
    let tracked = source::tracked_files();
    let lost: Vec<String> = source::quoted(&text)
        .filter(|word| source::is_rust(word) && word.contains('/'))
        .filter(|word| !tracked.iter().any(|path| path == word || *path == format!("src/{word}")))
        .map(str::to_owned)
        .collect();
    none(&lost, "ARCHITECTURE.md names files that do not exist");
}

#[test]
fn files_and_functions_are_short() {
    let mut unused: BTreeSet<&str> = LONGER.iter().map(|(what, _)| *what).collect();
    let mut found = Vec::new();
    let mut judge = |what: String, lines: usize, most: usize| {
        if lines > most && !unused.remove(what.as_str()) {
            found.push(format!("{what}: {lines} lines, at most {most}"));
        }
    };
    for source in sources() {
        let of_tests = !source.path.starts_with("src/");
        let most = if of_tests { TEST_FILE_LINES } else { FILE_LINES };
        judge(source.path.clone(), source.text.lines().count(), most);
        for Function { name, lines, in_test, .. } in source.functions() {
            let most = if of_tests || in_test { TEST_FUNCTION_LINES } else { FUNCTION_LINES };
            judge(format!("{}: {name}", source.path), lines, most);
        }
    }
    none(&found, "split these, so that each reads from the top");
    assert!(unused.is_empty(), "these exceptions are no longer needed: {unused:?}");
}

#[test]
fn comments_are_narrow() {
    let mut found = Vec::new();
    for source in sources() {
        for (number, line) in source.text.lines().enumerate() {
            let columns = line.chars().count();
            if line.trim_start().starts_with("//") && columns > COMMENT_COLUMNS {
                found.push(format!("{}:{}: {columns} columns", source.path, number + 1));
            }
        }
    }
    none(&found, &format!("a comment wraps at {COMMENT_COLUMNS} columns"));
}

#[test]
fn every_file_says_what_it_is() {
    let mut silent: Vec<String> =
        sources().into_iter().filter(|source| !source.text.starts_with("//! ")).map(|source| source.path).collect();
    // What tests.rs is says its name.
    silent.retain(|path| !path.ends_with("/tests.rs"));
    none(&silent, "a file begins with //! and what it is");
}

#[test]
fn nothing_gives_up_where_it_could_answer() {
    let mut found = Vec::new();
    for source in program() {
        for method in ["unwrap", "expect", "unwrap_err", "expect_err", "unwrap_unchecked"] {
            found.extend(source.method_calls(method).map(|line| format!("{}:{line}: .{method}()", source.path)));
        }
        for lint in ["unwrap_used", "expect_used", "panic"] {
            found.extend(source.allows(lint).map(|line| format!("{}:{line}: allows {lint}", source.path)));
        }
    }
    none(&found, "outside of tests an error is handled or passed on");
}

#[test]
fn what_is_not_called() {
    let program = program();
    for (path, exceptions, instead) in NOT_CALLED {
        let found: Vec<&Source> = program.iter().filter(|source| source.mentions(path)).collect();
        for source in &found {
            let excepted = exceptions.contains(&source.path.as_str());
            assert!(excepted, "{} calls {}: {instead}", source.path, path.join("::"));
        }
        assert_eq!(found.len(), exceptions.len(), "an exception for {} is no longer needed", path.join("::"));
    }
}

#[test]
fn nothing_is_left_for_later() {
    let marks = [["TO", "DO"], ["FIX", "ME"], ["XX", "X:"], ["dbg", "!("], ["todo", "!("], ["unimplemented", "!("]];
    let mut found = Vec::new();
    for path in source::tracked_files() {
        let Ok(text) = fs::read_to_string(root().join(&path)) else { continue };
        for (number, line) in text.lines().enumerate() {
            let left = marks.iter().map(|parts| parts.concat()).find(|mark| line.contains(mark.as_str()));
            found.extend(left.map(|mark| format!("{path}:{}: {mark}", number + 1)));
        }
    }
    none(&found, "do it, or file it where work is planned");
}

#[test]
fn the_project_speaks_of_itself_alone() {
    let mut found = Vec::new();
    for path in source::tracked_files() {
        let Ok(text) = fs::read_to_string(root().join(&path)) else { continue };
        if FOREIGN_WORDS_IN.contains(&path.as_str()) {
            continue;
        }
        for (number, line) in text.lines().enumerate() {
            let foreign = FOREIGN_WORDS.iter().find(|word| line.contains(**word));
            found.extend(foreign.map(|word| format!("{path}:{}: {word}", number + 1)));
        }
    }
    none(&found, "paths and words of one machine mean nothing on another");
}

#[test]
fn every_dependency_says_why() {
    let manifest = fs::read_to_string(root().join("Cargo.toml")).expect("Cargo.toml");
    let unexplained = source::unexplained_dependencies(&manifest);
    none(&unexplained, "a dependency stands under a comment that says what it is for, alone or with its like");
    assert!(!source::unexplained_dependencies("[dependencies]\nserde = \"1\"\n").is_empty());
    assert!(source::unexplained_dependencies("[dependencies]\n# Why.\nserde = \"1\"\ntoml = \"1\"\n").is_empty());
    assert!(!source::unexplained_dependencies("[dependencies]\n# Why.\nserde = \"1\"\n\ntoml = \"1\"\n").is_empty());
}

#[test]
fn documents_have_the_options_of_the_server() {
    documents::options_are_up_to_date();
}

#[test]
fn commands_in_documents_parse() {
    documents::commands_parse();
}

#[test]
fn links_in_documents_resolve() {
    documents::links_resolve();
}

#[test]
fn summary_has_every_page() {
    documents::summary_has_every_page();
}

#[test]
fn readme_is_short() {
    documents::readme_is_short();
}
