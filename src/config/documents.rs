//! Manual pages and shell completions of the command line.

use std::io;

use clap::builder::PossibleValuesParser;
use clap::{Arg, Command, ValueHint};

use super::Level;
use super::queue::KINDS;
use super::unsupported::{Support, support};

/// The section of all manual pages.
const SECTION: &str = "8";

/// The command line without options that have no effect here, and with the possible values of the others,
/// which otherwise only their parsers know.
fn documented(command: Command) -> Command {
    command.mut_args(document).mut_subcommands(documented)
}

/// The same for completions. They have no hidden options, so options without effect are left out.
pub fn completed(command: Command) -> Command {
    let command = documented(command);
    let options = command.get_arguments().filter(|option| !option.is_hide_set()).cloned();
    Command::new("gearmand")
        .version(env!("CARGO_PKG_VERSION"))
        .about(command.get_about().cloned().unwrap_or_default())
        .args(options)
        .subcommands(command.get_subcommands().cloned())
}

fn document(option: Arg) -> Arg {
    if support(option.get_id().as_str()) != Support::Live {
        return option.hide(true);
    }
    if !option.get_action().takes_values() {
        return option;
    }
    let levels = ["always", "interval", "off"];
    let values: Vec<&str> = match option.get_id().as_str() {
        "verbose" => Level::ALL.iter().map(|level| level.name()).collect(),
        "log_format" => vec!["human", "json"],
        "protocol" => vec!["http"],
        "queue_type" => KINDS.iter().map(|(name, _)| *name).collect(),
        "durability" => levels.to_vec(),
        "http_metrics_functions" => vec!["none", "all", "top:"],
        _ => Vec::new(),
    };
    if !values.is_empty() {
        return option.value_parser(PossibleValuesParser::new(values));
    }
    let hint = match (option.get_id().as_str(), option.get_value_names().unwrap_or_default()) {
        ("user", _) => ValueHint::Username,
        (_, [name]) => match name.as_str() {
            "PATH" | "FILE" | "QUEUE" => ValueHint::FilePath,
            "DIR" => ValueHint::DirPath,
            "HOST" | "SERVER" | "ADDRESS" => ValueHint::Hostname,
            _ => return option,
        },
        _ => return option,
    };
    option.value_hint(hint)
}

/// A manual page: its name without the section, and its text for man(1).
pub struct Page {
    /// `gearmand`, or with hyphens `gearmand-admin-status`.
    pub name: String,
    /// The text in roff.
    pub text: Vec<u8>,
}

impl Page {
    /// The name of its file.
    pub fn file_name(&self) -> String {
        format!("{}.{SECTION}", self.name)
    }
}

/// The manual pages of the program, of its tools and of their actions.
///
/// # Errors
/// When writing fails.
pub fn pages(command: Command) -> io::Result<Vec<Page>> {
    let mut command = documented(command).disable_help_subcommand(true);
    command.build();
    let mut pages = Vec::new();
    write(&command, "", &mut pages)?;
    Ok(pages)
}

fn write(command: &Command, above: &str, pages: &mut Vec<Page>) -> io::Result<()> {
    let name = if above.is_empty() { command.get_name().to_owned() } else { format!("{above}-{}", command.get_name()) };
    let mut text = Vec::new();
    clap_mangen::Man::new(command.clone()).title(&name).section(SECTION).render(&mut text)?;
    pages.push(Page { name: name.clone(), text });
    command.get_subcommands().filter(|tool| !tool.is_hide_set()).try_for_each(|tool| write(tool, &name, pages))
}
