//! Changes to the errors of the command line parser: secrets are removed, and tips are added.

use std::ffi::OsStr;

use clap::builder::StyledStr;
use clap::error::{ContextKind, ContextValue, ErrorKind};

use super::queue::is_secret;

/// Typographic dashes that word processors and web pages use for `-` and `--`, and the minus sign.
const DASHES: [char; 10] = [
    '\u{2010}', '\u{2011}', '\u{2012}', '\u{2013}', '\u{2014}', '\u{2015}', '\u{2212}', '\u{fe58}', '\u{fe63}',
    '\u{ff0d}',
];
/// Typographic quotes.
const QUOTES: [char; 10] = [
    '\u{2018}', '\u{2019}', '\u{201a}', '\u{201b}', '\u{201c}', '\u{201d}', '\u{201e}', '\u{201f}', '\u{ab}', '\u{bb}',
];

/// Removes the values of secret options from an error for the command line `words`. Adds what to write
/// instead of typographic dashes and quotes, which a shell treats as letters.
pub fn explain<S: AsRef<OsStr>>(error: &mut clap::Error, words: impl IntoIterator<Item = S>) {
    hide_secret(error);
    let text = error.to_string();
    let mut tips = Vec::new();
    for word in words {
        let Some(word) = word.as_ref().to_str().filter(|word| word.starts_with(DASHES)) else { continue };
        // An option that was parsed as a value is reported as missing.
        if text.contains(word) || error.kind() == ErrorKind::MissingRequiredArgument {
            let name = word.trim_start_matches(|letter| letter == '-' || DASHES.contains(&letter));
            let dashes = if name.chars().count() == 1 { "-" } else { "--" };
            tips.push(format!("'{word}' begins with a typographic dash, write '{dashes}{name}'"));
        }
    }
    if text.contains(QUOTES) {
        tips.push("typographic quotes are letters to the shell, write ' or \"".to_owned());
    }
    if tips.is_empty() {
        return;
    }
    let earlier = match error.remove(ContextKind::Suggested) {
        Some(ContextValue::StyledStrs(earlier)) => earlier,
        _ => Vec::new(),
    };
    let tips = tips.into_iter().map(StyledStr::from).chain(earlier).collect();
    error.insert(ContextKind::Suggested, ContextValue::StyledStrs(tips));
}

fn hide_secret(error: &mut clap::Error) {
    // "--name <VALUE>"
    let Some(ContextValue::String(option)) = error.get(ContextKind::InvalidArg) else { return };
    let name = option.trim_start_matches('-').split([' ', '=']).next().unwrap_or_default();
    if is_secret(name) && error.get(ContextKind::InvalidValue).is_some() {
        error.insert(ContextKind::InvalidValue, ContextValue::String("***".to_owned()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::command;

    /// The error message for a command line of the server.
    fn said(words: &[&str]) -> String {
        let line = std::iter::once(&"gearmand").chain(words);
        let mut error = command().try_get_matches_from(line).expect_err("an error");
        explain(&mut error, words);
        error.to_string()
    }

    #[test]
    fn secrets_are_not_repeated() {
        for words in [&["--http-token", "swordfish"][..], &["--http-token=swordfish"]] {
            let text = said(words);
            assert!(text.contains("'***'") && text.contains("16 characters") && !text.contains("swordfish"), "{text}");
        }
        assert!(said(&["--backlog", "swordfish"]).contains("'swordfish'"));
    }

    #[test]
    fn typographic_dashes_and_quotes_are_explained() {
        for (word, instead) in [
            ("\u{2013}port", "write '--port'"),
            ("\u{2014}port=4730", "write '--port=4730'"),
            ("\u{2212}p", "write '-p'"),
            ("\u{2013}-port", "write '--port'"),
        ] {
            let text = said(&[word, "4730"]);
            assert!(text.contains(word) && text.contains(instead), "{text}");
        }
        let text = said(&["--port", "\u{201c}4730\u{201d}"]);
        assert!(text.contains("typographic quotes"), "{text}");
        let text = said(&["--backlog", "x"]);
        assert!(!text.contains("typographic"), "{text}");
    }
}
