//! The table of settings, derived from the declarations of the command line.

use std::error::Error as _;
use std::ffi::{OsStr, OsString};

use clap::error::ErrorKind;
use clap::{Arg, ArgAction, ArgMatches, Command};

use super::args;
use super::error::{ConfigError, Origin};
use super::file::mistakes::{self, Quotes};
use super::queue;
use super::value;

/// A value of a setting from one source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    /// Long name of the setting.
    pub(super) name: String,
    /// The value; `true` or `false` for a switch.
    pub(super) value: OsString,
    /// Its origin.
    pub(super) origin: Origin,
}

/// Errors and warnings found while the sources were read.
#[derive(Debug, Default)]
pub(super) struct Diagnostics {
    pub(super) errors: Vec<ConfigError>,
    pub(super) warnings: Vec<String>,
}

/// One setting of the table.
#[derive(Clone, Copy)]
pub(super) struct Setting<'a> {
    arg: &'a Arg,
    /// The long name.
    pub(super) name: &'a str,
}

impl<'a> Setting<'a> {
    fn of(arg: &'a Arg) -> Option<Self> {
        arg.get_long().map(|name| Self { arg, name })
    }

    /// Whether it is a switch, without a value on the command line.
    pub(super) fn is_switch(self) -> bool {
        matches!(self.arg.get_action(), ArgAction::SetTrue)
    }

    /// Whether it can be given more than once.
    pub(super) fn is_list(self) -> bool {
        matches!(self.arg.get_action(), ArgAction::Append)
    }

    /// Its default value; empty for settings that are not set by default.
    pub(super) fn default(self) -> Vec<OsString> {
        if self.is_switch() {
            return vec!["false".into()];
        }
        self.arg.get_default_values().iter().map(|value| value.clone().into()).collect()
    }

    fn is_called(self, name: &str) -> bool {
        self.name == name || self.arg.get_all_aliases().is_some_and(|aliases| aliases.contains(&name))
    }
}

/// All settings.
pub(super) struct Settings {
    command: Command,
}

impl Settings {
    pub(super) fn new() -> Self {
        let mut command = args::command().disable_help_flag(true).disable_version_flag(true);
        command.build();
        Self { command }
    }

    /// All settings in the order of their declaration.
    pub(super) fn all(&self) -> impl Iterator<Item = Setting<'_>> {
        self.command.get_arguments().filter_map(Setting::of)
    }

    /// The setting with this long name; `_` is accepted for `-`.
    pub(super) fn find(&self, name: &str) -> Option<Setting<'_>> {
        let name = name.replace('_', "-");
        self.all().find(|setting| setting.is_called(&name))
    }

    /// The setting with this letter.
    pub(super) fn find_letter(&self, letter: char) -> Option<Setting<'_>> {
        self.all().find(|setting| setting.arg.get_short() == Some(letter))
    }

    /// The settings whose name starts with `start`.
    pub(super) fn starting_with(&self, start: &str) -> Vec<Setting<'_>> {
        self.all().filter(|setting| setting.name.starts_with(start)).collect()
    }

    /// The known name most similar to an unknown one; `None` if more than half of the letters differ.
    pub(super) fn nearest(&self, name: &str) -> Option<&str> {
        let name = name.replace('_', "-").to_ascii_lowercase();
        let (distance, setting) =
            self.all().map(|setting| (distance(setting.name, &name), setting)).min_by_key(|(distance, _)| *distance)?;
        (distance * 2 <= name.chars().count()).then_some(setting.name)
    }

    /// Validates a value from a source and records it as an entry, or as an error.
    pub(super) fn admit(
        &self,
        setting: Setting<'_>,
        value: &OsStr,
        origin: &Origin,
        entries: &mut Vec<Entry>,
        diagnostics: &mut Diagnostics,
    ) {
        match self.check(setting, value) {
            Ok(value) => entries.push(Entry { name: setting.name.to_owned(), value, origin: origin.clone() }),
            Err(reason) => diagnostics.errors.push(ConfigError::BadValue {
                // Quotes inside the value are often the reason.
                reason: match mistakes::quotes(&value.to_string_lossy()) {
                    Quotes::Plain => format!("{reason}; write it without quotes here"),
                    Quotes::None | Quotes::Typographic(_) => reason,
                },
                name: setting.name.to_owned(),
                value: if queue::is_secret(setting.name) { "***".into() } else { value.to_string_lossy().into_owned() },
                origin: origin.clone(),
            }),
        }
    }

    /// Validates one value. Returns it in the form in which it is kept, or the reason why it is invalid.
    fn check(&self, setting: Setting<'_>, value: &OsStr) -> Result<OsString, String> {
        if setting.is_switch() {
            return value::switch(&value.to_string_lossy()).map(|on| on.to_string().into());
        }
        match self.parse(&[long_option(setting.name, value)]) {
            Ok(_) => Ok(value.to_owned()),
            Err(error) => Err(reason(&error)),
        }
    }

    /// Parses options like the command line.
    pub(super) fn parse(&self, options: &[OsString]) -> Result<ArgMatches, clap::Error> {
        let program = std::iter::once(OsString::from("gearmand"));
        self.command.clone().try_get_matches_from(program.chain(options.iter().cloned()))
    }

    /// The settings given on the command line, in whatever larger command the options are.
    pub(super) fn given_in(&self, matches: &ArgMatches) -> Vec<Entry> {
        let mut entries = Vec::new();
        for setting in self.all() {
            let id = setting.arg.get_id().as_str();
            if matches.value_source(id) != Some(clap::parser::ValueSource::CommandLine) {
                continue;
            }
            for value in matches.get_raw(id).into_iter().flatten() {
                let name = setting.name.to_owned();
                entries.push(Entry { name, value: value.to_owned(), origin: Origin::CommandLine });
            }
        }
        entries
    }
}

/// Writes `--name=value`.
pub(super) fn long_option(name: &str, value: &OsStr) -> OsString {
    let mut option = OsString::from(format!("--{name}="));
    option.push(value);
    option
}

/// Why the command line parser rejected a value, in a few words.
fn reason(error: &clap::Error) -> String {
    match (error.source(), error.kind()) {
        (Some(source), _) => source.to_string(),
        (None, ErrorKind::InvalidUtf8) => "it is not UTF-8 text".to_owned(),
        (None, ErrorKind::InvalidValue) => "it is empty".to_owned(),
        (None, _) => error.to_string().lines().next().unwrap_or_default().to_owned(),
    }
}

/// The edit distance: how many letters to insert, remove or replace to turn one word into the other.
fn distance(left: &str, right: &str) -> usize {
    let right: Vec<char> = right.chars().collect();
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (line, letter) in left.chars().enumerate() {
        let mut diagonal = line;
        let mut before = line + 1;
        if let Some(first) = row.first_mut() {
            *first = before;
        }
        for (cell, other) in row.iter_mut().skip(1).zip(&right) {
            let replaced = diagonal + usize::from(letter != *other);
            diagonal = *cell;
            before = replaced.min(diagonal + 1).min(before + 1);
            *cell = before;
        }
    }
    row.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distance_counts_changed_letters() {
        for (left, right, expected) in
            [("", "", 0), ("", "abc", 3), ("port", "port", 0), ("port", "prot", 2), ("kitten", "sitting", 3)]
        {
            assert_eq!(distance(left, right), expected, "{left} {right}");
            assert_eq!(distance(right, left), expected, "{right} {left}");
        }
    }

    #[test]
    fn the_nearest_name_ignores_case_and_underscores() {
        let settings = Settings::new();
        assert_eq!(settings.nearest("MAX_CONECTIONS"), Some("max-connections"));
        assert_eq!(settings.nearest("lisen"), Some("listen"));
        assert_eq!(settings.nearest("prot"), Some("port"));
        assert_eq!(settings.nearest("bogus"), None);
    }

    #[test]
    fn settings_are_found_by_name_alias_and_letter() {
        let settings = Settings::new();
        let name = |setting: Option<Setting<'_>>| setting.map(|setting| setting.name.to_owned());
        assert_eq!(name(settings.find("max_output_buffer")).as_deref(), Some("max-output-buffer"));
        assert_eq!(name(settings.find("check-args")).as_deref(), Some("check"));
        assert_eq!(name(settings.find_letter('R')).as_deref(), Some("round-robin"));
        assert_eq!(name(settings.find("help")), None);
        assert_eq!(name(settings.find_letter('h')), None);
    }

    #[test]
    fn values_are_checked_by_the_parser_of_the_command_line() {
        let settings = Settings::new();
        let check = |name: &str, value: &str| {
            let setting = settings.find(name).expect("a known setting");
            settings.check(setting, value.as_ref())
        };
        assert_eq!(check("port", "1"), Ok("1".into()));
        assert!(check("port", "x").is_err_and(|reason| reason.contains("service")));
        assert_eq!(check("daemon", "Yes"), Ok("true".into()));
        assert_eq!(check("pid-file", ""), Err("it is empty".to_owned()));
    }

    #[test]
    fn text_that_is_not_utf8_is_refused_where_text_is_needed() {
        use std::os::unix::ffi::OsStrExt as _;
        let settings = Settings::new();
        let check = |name: &str| {
            let setting = settings.find(name).expect("a known setting");
            settings.check(setting, OsStr::from_bytes(b"/\xff"))
        };
        assert_eq!(check("user"), Err("it is not UTF-8 text".to_owned()));
        assert!(check("pid-file").is_ok(), "a path is any bytes");
    }
}
