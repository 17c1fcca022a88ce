//! Common mistakes in a configuration file: blanks around `=`, quotes, and the dashes and quotes of word
//! processors. Each is recognized, so that the message can say what to write. No secret is shown.

use super::super::queue;
use super::super::settings::Setting;

/// Replacement for a value that is not shown.
const HIDDEN: &str = "***";

/// The typographic dash that a text begins with, if it does.
pub(super) fn typographic_dash(text: &str) -> Option<char> {
    text.chars()
        .next()
        .filter(|letter| matches!(letter, '\u{2010}'..='\u{2015}' | '\u{2212}' | '\u{fe58}' | '\u{ff0d}'))
}

fn is_typographic_quote(letter: char) -> bool {
    matches!(letter, '\u{2018}'..='\u{201f}' | '\u{2039}' | '\u{203a}' | '\u{ab}' | '\u{bb}')
}

/// The first typographic quote or dash of a line.
pub(super) fn typographic(line: &str) -> Option<char> {
    line.chars().find(|letter| is_typographic_quote(*letter) || typographic_dash(&letter.to_string()).is_some())
}

/// A character with its code point, for looking it up.
pub(super) fn named(letter: char) -> String {
    format!("{letter} (U+{:04X})", u32::from(letter))
}

/// A value for a message, without secrets.
pub(super) fn shown(name: &str, value: &str) -> String {
    if queue::is_secret(name) { HIDDEN.to_owned() } else { value.to_owned() }
}

/// A piece of a line that is not an option, for a message. If the line may contain a secret, only the part
/// before an equals sign is shown.
pub(super) fn shown_piece(line: &str, piece: &str) -> String {
    let may_be_secret = ["password", "passwd", "pwd", "conninfo", "token", "secret", "://"];
    let lower = line.to_lowercase();
    if !may_be_secret.iter().any(|word| lower.contains(word)) {
        return piece.to_owned();
    }
    match piece.split_once('=') {
        Some((name, _)) => format!("{name}={HIDDEN}"),
        None if line.trim_start().starts_with(piece) => piece.to_owned(),
        None => HIDDEN.to_owned(),
    }
}

/// The message for an option with a typographic dash.
pub(super) fn of_dash(dash: char, piece: &str, line: &str) -> String {
    let is_dash = |letter: char| letter == '-' || typographic_dash(&letter.to_string()).is_some();
    let option = piece.trim_start_matches(is_dash);
    let plain = if option.chars().count() == 1 { "-" } else { "--" };
    format!(
        "an option begins with two hyphens (U+002D), not with the dash {} of a word processor; write {plain}{}",
        named(dash),
        shown_piece(line, option)
    )
}

/// The message for blanks around an equals sign.
pub(super) fn of_blanks(setting: Setting<'_>, value: &str) -> String {
    let (name, value) = (setting.name, shown(setting.name, value));
    format!("{name} has a blank beside its =, which ends the option here; write --{name}={value}")
}

/// The message for a value that ends too early. `next` is what follows it.
pub(super) fn of_cut(setting: Setting<'_>, next: &str) -> String {
    let (name, next) = (setting.name, shown(setting.name, next));
    format!(
        "the value of {name} ends at the blank before `{next}`: this format has no quotes. If `{next}` belongs to the value, \
         write the settings as TOML, {name} = 'VALUE', into a file such as gearmand.toml; if it is an option, it begins \
         with --"
    )
}

/// The quotes around a value in a format without quoting.
#[derive(Debug, PartialEq, Eq)]
pub(in super::super) enum Quotes {
    /// None.
    None,
    /// Plain quotes, which are a part of the value.
    Plain,
    /// Typographic quotes.
    Typographic(char),
}

/// Examines the ends of a value.
pub(in super::super) fn quotes(value: &str) -> Quotes {
    let (first, last) = (value.chars().next(), value.chars().next_back());
    if let Some(letter) = [first, last].into_iter().flatten().find(|letter| is_typographic_quote(*letter)) {
        return Quotes::Typographic(letter);
    }
    let is_plain = first == last && matches!(first, Some('"' | '\'')) && value.len() > 1;
    if is_plain { Quotes::Plain } else { Quotes::None }
}

/// The message for typographic quotes.
pub(in super::super) fn of_quotes(name: &str, letter: char) -> String {
    format!("the value of {name} has the quote {} of a word processor; write it without quotes", named(letter))
}

/// The warning about plain quotes.
pub(in super::super) fn plain_quotes(name: &str) -> String {
    format!("the quotes around the value of {name} are a part of it here; leave them out unless they are meant")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_of_a_line_are_not_shown() {
        for (line, piece, expected) in [
            ("port=4731", "port=4731", "port=4731"),
            ("mysql-password=swordfish", "mysql-password=swordfish", "mysql-password=***"),
            ("mysql-password swordfish", "swordfish", "***"),
            ("mysql-password swordfish", "mysql-password", "mysql-password"),
            ("--libpq-conninfo=host=h password=swordfish", "password=swordfish", "password=***"),
            ("queue mysql://u:swordfish@h/d", "mysql://u:swordfish@h/d", "***"),
        ] {
            assert_eq!(shown_piece(line, piece), expected, "{line}");
        }
    }

    #[test]
    fn quotes_are_told_apart() {
        for (value, expected) in [
            ("MySQL", Quotes::None),
            ("\"MySQL\"", Quotes::Plain),
            ("'MySQL'", Quotes::Plain),
            ("\"", Quotes::None),
            ("password='x'", Quotes::None),
            ("\u{201e}MySQL\u{201c}", Quotes::Typographic('\u{201e}')),
            ("MySQL\u{2019}", Quotes::Typographic('\u{2019}')),
            ("", Quotes::None),
        ] {
            assert_eq!(quotes(value), expected, "{value}");
        }
        assert_eq!(typographic("--a = \u{201c}b"), Some('\u{201c}'));
        assert_eq!(typographic("--a=b"), None);
    }
}
