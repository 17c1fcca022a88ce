//! The documents beside the program: the table of options, the commands that they show, and their links.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::fs;
use std::path::{Component, Path, PathBuf};

use clap::error::ErrorKind;
use clap::{Arg, Command, Subcommand};
use gearmand::client;
use gearmand::config::{RELOADABLE, command};
use gearmand::store_tools;

use super::source::{root, tracked_files};

/// The page with the table of options.
const OPTIONS: &str = "docs/options.md";

const BEGIN: &str = "<!-- options: written by `TIDY_WRITE=1 cargo test --test tidy` -->\n";
const END: &str = "<!-- end of options -->\n";

/// Headings of the options that do nothing here; they are listed by what they were for.
const NOT_LIVE: [&str; 2] = ["Not in this build", "Retired, without effect"];

const DEFAULT_IN_HELP: &str = " [default: ";

/// The longest README, in lines: what a reader looks through before deciding.
const README_LINES: usize = 150;

/// Compares the table with the options, or writes it where `TIDY_WRITE` is set.
pub(crate) fn options_are_up_to_date() {
    let page = read(OPTIONS);
    let (before, rest) = page.split_once(BEGIN).expect("the mark before the options");
    let (table, after) = rest.split_once(END).expect("the mark after the options");
    let expected = options();
    if std::env::var_os("TIDY_WRITE").is_some() {
        fs::write(root().join(OPTIONS), format!("{before}{BEGIN}{expected}{END}{after}")).expect("write the options");
    } else {
        assert_eq!(table, expected, "{OPTIONS} has other options; TIDY_WRITE=1 cargo test --test tidy writes them");
    }
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The documents of the project, by path from its directory.
fn documents() -> Vec<String> {
    let mut documents = tracked_files();
    documents.retain(|path| Path::new(path).extension().is_some_and(|extension| extension == "md"));
    documents
}

/// The pages of the book.
fn pages() -> Vec<String> {
    let mut pages = documents();
    pages.retain(|path| path.starts_with("docs/"));
    assert!(pages.len() > 10, "only {} pages were found in docs/", pages.len());
    pages
}

/// All options of the server as tables, one a heading of its help.
fn options() -> String {
    let mut command = command();
    command.build();
    let mut text = String::new();
    let mut heading = "";
    for option in command.get_arguments().filter(|option| option.get_help_heading().is_some()) {
        let of_option = option.get_help_heading().unwrap_or_default();
        if NOT_LIVE.contains(&of_option) {
            continue;
        }
        if of_option != heading {
            heading = of_option;
            let _ = write!(text, "\n## {heading}\n\n| option | default | meaning |\n| --- | --- | --- |\n");
        }
        let name = option.get_long().unwrap_or_default();
        let reloaded = if RELOADABLE.contains(&name) { " (HUP)" } else { "" };
        let _ = writeln!(text, "| {} | {} | {}{reloaded} |", names(option), default(option), help(option));
    }
    for heading in NOT_LIVE {
        let _ = write!(text, "\n## {heading}\n\n| options | |\n| --- | --- |\n");
        let mut by_help: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for option in command.get_arguments().filter(|option| option.get_help_heading() == Some(heading)) {
            by_help.entry(help(option)).or_default().push(names(option));
        }
        for (help, names) in by_help {
            let _ = writeln!(text, "| {} | {help} |", names.join(", "));
        }
    }
    text.push('\n');
    text
}

fn names(option: &Arg) -> String {
    let long = option.get_long().expect("every option has a long name");
    let short = option.get_short().map(|letter| format!("`-{letter}`, ")).unwrap_or_default();
    let is_live = option.get_help_heading().is_some_and(|heading| !NOT_LIVE.contains(&heading));
    let value = option.get_value_names().filter(|_| is_live && option.get_action().takes_values());
    let value = value.map(|names| format!(" {}", names[0])).unwrap_or_default();
    format!("{short}`--{long}{value}`")
}

/// The default of an option; where that is no plain value, the help says it in brackets.
fn default(option: &Arg) -> String {
    let values: Vec<_> = option.get_default_values().iter().map(|value| value.to_string_lossy()).collect();
    if !option.get_action().takes_values() {
        "off".to_owned()
    } else if values.is_empty() {
        full_help(option).split_once(DEFAULT_IN_HELP).map_or("", |(_, text)| text.trim_end_matches(']')).to_owned()
    } else {
        format!("`{}`", values.join(","))
    }
}

fn help(option: &Arg) -> String {
    let help = full_help(option);
    help.split_once(DEFAULT_IN_HELP).map_or(help.as_str(), |(text, _)| text).to_owned()
}

fn full_help(option: &Arg) -> String {
    option.get_help().map(ToString::to_string).unwrap_or_default().replace('|', "\\|")
}

/// Parses every `gearmand` command line in the code blocks of the README and of all pages.
pub(crate) fn commands_parse() {
    let mut server = command();
    server = store_tools::Tool::augment_subcommands(client::Tool::augment_subcommands(server))
        .args_conflicts_with_subcommands(true);
    for name in ["man", "completions"] {
        server =
            server.subcommand(Command::new(name).arg(Arg::new("shell")).arg(Arg::new("directory").long("directory")));
    }
    let mut count = 0;
    for path in pages().into_iter().chain(["README.md".to_owned()]) {
        for line in blocks(&read(&path)).filter_map(gearmand_part) {
            if let Err(error) = server.try_get_matches_from_mut(words(line)) {
                let shown = matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion);
                assert!(shown, "{path} shows a command that does not work: {line}\n{error}");
            }
            count += 1;
        }
    }
    assert!(count >= 40, "only {count} commands were found in README.md and docs/");
}

/// The lines of the code blocks for a shell.
fn blocks(text: &str) -> impl Iterator<Item = &str> {
    let mut inside = false;
    text.lines().filter(move |line| {
        if line.starts_with("```") {
            inside = *line == "```sh";
            return false;
        }
        inside
    })
}

/// The part of a line that begins with the program and ends where the shell takes over.
fn gearmand_part(line: &str) -> Option<&str> {
    let start = if line.starts_with("gearmand ") { 0 } else { line.find("| gearmand ")? + 2 };
    let line = &line[start..];
    let mut quoted = false;
    let end = line.find(|c: char| {
        quoted ^= c == '\'';
        !quoted && "|&>#;".contains(c)
    });
    Some(line[..end.unwrap_or(line.len())].trim_end())
}

/// Splits a command line at spaces outside of single quotes.
fn words(line: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut quoted = false;
    for character in line.chars() {
        match character {
            '\'' => quoted = !quoted,
            ' ' if !quoted => words.push(String::new()),
            _ => words.last_mut().expect("never empty").push(character),
        }
    }
    words
}

/// Every relative link leads to a file that is there, and to a heading of it.
pub(crate) fn links_resolve() {
    let files: BTreeSet<PathBuf> = tracked_files().into_iter().map(PathBuf::from).collect();
    let mut broken = Vec::new();
    let mut count = 0;
    for path in documents() {
        for (number, target) in links(&read(&path)) {
            count += 1;
            let (file, anchor) = target.split_once('#').unwrap_or((&target, ""));
            let file = if file.is_empty() { PathBuf::from(&path) } else { beside(&path, file) };
            // A link to a directory is one to all that is in it.
            let is_there = files.iter().any(|known| known.starts_with(&file));
            let has_heading = || anchors(&read(&file.to_string_lossy())).contains(anchor);
            if !is_there || !(anchor.is_empty() || has_heading()) {
                broken.push(format!("{path}:{number}: {target}"));
            }
        }
    }
    assert!(broken.is_empty(), "these links lead nowhere:\n  {}", broken.join("\n  "));
    assert!(count >= 40, "only {count} links were found");
}

/// The table of contents has every page.
pub(crate) fn summary_has_every_page() {
    let summary = "docs/SUMMARY.md";
    let links = links(&read(summary));
    let listed: BTreeSet<PathBuf> = links.into_iter().map(|(_, link)| beside(summary, &link)).collect();
    let mut missing = pages();
    missing.retain(|page| page != summary && !listed.contains(Path::new(page)));
    assert!(missing.is_empty(), "{summary} lacks {missing:?}");
}

pub(crate) fn readme_is_short() {
    let lines = read("README.md").lines().count();
    assert!(lines <= README_LINES, "README.md has {lines} lines, at most {README_LINES}: move some to docs/");
}

/// The path from the directory of the project that a link in a document means.
fn beside(document: &str, link: &str) -> PathBuf {
    let mut path = Path::new(document).parent().expect("the path of a file").to_path_buf();
    for part in Path::new(link).components() {
        match part {
            Component::ParentDir => assert!(path.pop(), "{document} links out of the project: {link}"),
            Component::CurDir => {}
            _ => path.push(part),
        }
    }
    path
}

/// The relative links of a document, with the number of their line. Code holds none.
fn links(text: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for (number, line) in prose(text) {
        let outside_of_code: String = line.split('`').step_by(2).collect();
        let targets = outside_of_code.split("](").skip(1).filter_map(|rest| rest.split_once(')'));
        let relative = targets.map(|(target, _)| target).filter(|target| !target.contains("://"));
        found.extend(relative.map(|target| (number, target.to_owned())));
    }
    found
}

/// The anchors of the headings, as GitHub makes them: lower case, hyphens for spaces, no punctuation.
fn anchors(text: &str) -> BTreeSet<String> {
    let mut anchors = BTreeSet::new();
    for (_, line) in prose(text) {
        let title = line.trim_start_matches('#');
        let Some(title) = title.strip_prefix(' ').filter(|_| line.starts_with('#')) else { continue };
        let kept = title.trim().to_lowercase().replace(' ', "-");
        let anchor: String = kept.chars().filter(|c| c.is_alphanumeric() || "-_".contains(*c)).collect();
        let mut unique = anchor.clone();
        let mut copies = 0;
        while !anchors.insert(unique.clone()) {
            copies += 1;
            unique = format!("{anchor}-{copies}");
        }
    }
    anchors
}

/// The lines outside of code blocks, with their numbers from 1.
fn prose(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut inside = false;
    (1..).zip(text.lines()).filter(move |(_, line)| {
        let is_fence = line.trim_start().starts_with("```");
        inside ^= is_fence;
        !inside && !is_fence
    })
}

#[test]
fn links_and_anchors_are_found() {
    let text = "# A `b_c`, d!\n[x](y.md#z) `[n](o)` [w](https://v)\n```\n[n](o)\n# no\n```\n## A b_c d\n";
    assert_eq!(links(text), [(2, "y.md#z".to_owned())]);
    assert_eq!(anchors(text), BTreeSet::from(["a-b_c-d".to_owned(), "a-b_c-d-1".to_owned()]));
    assert_eq!(beside("docs/a.md", "../b/./c.md"), Path::new("b/c.md"));
}
