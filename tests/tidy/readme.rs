//! The README beside the program: its table of options, and the commands that it shows.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;

use clap::{Arg, Command, Subcommand};
use gearmand::client;
use gearmand::config::{RELOADABLE, command};
use gearmand::queue;

use super::source::root;

const BEGIN: &str = "<!-- options: written by `TIDY_WRITE=1 cargo test --test tidy` -->\n";
const END: &str = "<!-- end of options -->\n";

/// Headings of the options that do nothing here; they are listed by what they were for.
const NOT_LIVE: [&str; 2] = ["Not in this build", "Retired, without effect"];

const DEFAULT_IN_HELP: &str = " [default: ";

/// Compares the table with the options, or writes it where `TIDY_WRITE` is set.
pub(crate) fn options_are_up_to_date() {
    let path = root().join("README.md");
    let readme = fs::read_to_string(&path).expect("README.md");
    let (before, rest) = readme.split_once(BEGIN).expect("the mark before the options in README.md");
    let (table, after) = rest.split_once(END).expect("the mark after the options in README.md");
    let expected = options();
    if std::env::var_os("TIDY_WRITE").is_some() {
        fs::write(&path, format!("{before}{BEGIN}{expected}{END}{after}")).expect("write README.md");
    } else {
        assert_eq!(table, expected, "README.md has other options; TIDY_WRITE=1 cargo test --test tidy writes them");
    }
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
            let _ = write!(text, "\n**{heading}**\n\n| option | default | meaning |\n| --- | --- | --- |\n");
        }
        let name = option.get_long().unwrap_or_default();
        let reloaded = if RELOADABLE.contains(&name) { " (HUP)" } else { "" };
        let _ = writeln!(text, "| {} | {} | {}{reloaded} |", names(option), default(option), help(option));
    }
    for heading in NOT_LIVE {
        let _ = write!(text, "\n**{heading}**\n\n| options | |\n| --- | --- |\n");
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

/// Parses every `gearmand` command line in the README's code blocks.
pub(crate) fn commands_parse() {
    let readme = fs::read_to_string(root().join("README.md")).expect("README.md");
    let mut server = command();
    server = queue::Tool::augment_subcommands(client::Tool::augment_subcommands(server))
        .args_conflicts_with_subcommands(true);
    for name in ["man", "completions"] {
        server =
            server.subcommand(Command::new(name).arg(Arg::new("shell")).arg(Arg::new("directory").long("directory")));
    }
    let mut count = 0;
    for line in blocks(&readme).filter_map(gearmand_part) {
        let words = words(line);
        if let Err(error) = server.try_get_matches_from_mut(&words) {
            let shown =
                matches!(error.kind(), clap::error::ErrorKind::DisplayHelp | clap::error::ErrorKind::DisplayVersion);
            assert!(shown, "README.md shows a command that does not work: {line}\n{error}");
        }
        count += 1;
    }
    assert!(count >= 10, "only {count} commands were found in README.md");
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
