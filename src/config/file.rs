//! Settings from a configuration file, in one of two formats.
//!
//! gearmand's own format holds options as on the command line, `--port=4731`, split at white space without
//! any quoting; `#` at the start of a piece begins a comment. TOML holds `port = 4731`, with the long names
//! of the options as keys; a table is the first part of a name, so that `idle` in `[keepalive]` is
//! `keepalive-idle`.

pub(super) mod mistakes;

use std::collections::HashMap;
use std::ffi::OsStr;
use std::iter::Peekable;
use std::path::Path;
use std::sync::Arc;
use std::vec;

use toml::de::{DeTable, DeValue};

use self::mistakes::Quotes;
use super::args::NOT_IN_A_FILE;
use super::error::{ConfigError, Origin};
use super::promptly::read_promptly;
use super::settings::{Diagnostics, Entry, Setting, Settings};

/// Reads a file. Errors are added to the diagnostics.
pub(super) fn read(path: &Path, settings: &Settings, diagnostics: &mut Diagnostics) -> Vec<Entry> {
    let bytes = match read_promptly(path, u64::MAX) {
        Ok(bytes) => bytes,
        Err(error) => {
            let (path, reason) = (path.to_owned(), error.to_string());
            diagnostics.errors.push(ConfigError::Unreadable { path, reason });
            return Vec::new();
        }
    };
    let mut reader = Reader { path: path.into(), settings, diagnostics, entries: Vec::new(), lines: HashMap::new() };
    match String::from_utf8(bytes) {
        Ok(text) => {
            // Some editors write a byte order mark at the beginning of UTF-8 files.
            let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
            if is_toml(path, text) { reader.toml(text) } else { reader.options(text) }
        }
        Err(error) => {
            let valid = error.utf8_error().valid_up_to();
            let line = 1 + error.as_bytes().iter().take(valid).filter(|byte| **byte == b'\n').count();
            let is_utf16 = error.as_bytes().starts_with(b"\xff\xfe") || error.as_bytes().starts_with(b"\xfe\xff");
            let what = if is_utf16 { "the file is UTF-16 text" } else { "the line is not UTF-8 text" };
            reader.malformed(line, format!("{what}; save the file as UTF-8"));
        }
    }
    reader.entries
}

/// Detects the format: by the extension, else by the first line that is not empty or a comment.
fn is_toml(path: &Path, text: &str) -> bool {
    if path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("toml")) {
        return true;
    }
    let mut lines = text.lines().map(str::trim);
    let Some(first) = lines.find(|line| !line.is_empty() && !line.starts_with('#')) else {
        return false;
    };
    first.starts_with('[') || first.split_once(" =").is_some_and(|(key, _)| is_key(key.trim_end()))
}

/// Whether this is likely a key of TOML and not an option.
fn is_key(text: &str) -> bool {
    let key_letter = |letter: char| letter.is_ascii_alphanumeric() || "-_.\"'".contains(letter);
    !text.is_empty() && !text.starts_with('-') && text.chars().all(key_letter)
}

struct Reader<'a> {
    path: Arc<Path>,
    settings: &'a Settings,
    diagnostics: &'a mut Diagnostics,
    entries: Vec<Entry>,
    /// The line in which each setting was first given.
    lines: HashMap<String, usize>,
}

impl<'a> Reader<'a> {
    fn origin(&self, line: usize) -> Origin {
        Origin::File { path: Arc::clone(&self.path), line }
    }

    fn malformed(&mut self, line: usize, reason: String) {
        let origin = self.origin(line);
        self.diagnostics.errors.push(ConfigError::Malformed { reason, origin });
    }

    fn unknown(&mut self, line: usize, name: &str) {
        let nearest = self.settings.nearest(name).map(str::to_owned);
        let (name, origin) = (name.to_owned(), self.origin(line));
        self.diagnostics.errors.push(ConfigError::Unknown { name, nearest, origin });
    }

    /// Records that a setting occurs. Returns whether its value may be used.
    fn begin(&mut self, setting: Setting<'_>, line: usize) -> bool {
        let (name, origin) = (setting.name.to_owned(), self.origin(line));
        if NOT_IN_A_FILE.contains(&setting.name) {
            self.diagnostics.errors.push(ConfigError::NotInAFile { name, origin });
            return false;
        }
        match self.lines.insert(name.clone(), line) {
            Some(first_line) if !setting.is_list() => {
                self.diagnostics.errors.push(ConfigError::SetTwice { name, first_line, origin });
                false
            }
            _ => true,
        }
    }

    fn admit(&mut self, setting: Setting<'_>, value: &str, line: usize) {
        let origin = self.origin(line);
        self.settings.admit(setting, OsStr::new(value), &origin, &mut self.entries, self.diagnostics);
    }

    /// Reads gearmand's own format.
    fn options(&mut self, text: &str) {
        let mut pieces = pieces(text).into_iter().peekable();
        while let Some((line, piece)) = pieces.next() {
            let whole = text.lines().nth(line.saturating_sub(1)).unwrap_or(piece);
            if let Some(dash) = mistakes::typographic_dash(piece.trim_start_matches('-')) {
                self.malformed(line, mistakes::of_dash(dash, piece, whole));
                skip_line(&mut pieces, line);
            } else if let Some(long) = piece.strip_prefix("--") {
                self.long_option(line, long, &mut pieces);
            } else if let Some(letters) = piece.strip_prefix('-') {
                if let Some(setting) = self.letters(line, letters) {
                    let value = pieces.next().map(|(_, next)| next);
                    self.value(setting, value, line, &mut pieces);
                }
            } else {
                self.no_dash(line, piece, whole);
                skip_line(&mut pieces, line);
            }
        }
    }

    fn long_option<'text>(&mut self, line: usize, long: &'text str, pieces: &mut Pieces<'text>) {
        let (name, value) = long.split_once('=').map_or((long, None), |(name, value)| (name, Some(value)));
        let Some(setting) = self.long(line, name) else { return skip_value(pieces, line) };
        if setting.is_switch() {
            return self.option(setting, value, line);
        }
        let following = pieces.peek().copied().filter(|(next, piece)| *next == line && !piece.starts_with('-'));
        let equals = following.and_then(|(_, piece)| piece.strip_prefix('='));
        match (value, following, equals) {
            (None, _, Some(after)) => {
                pieces.next();
                let next = pieces.peek().filter(|(next, _)| *next == line && after.is_empty());
                let reason = mistakes::of_blanks(setting, next.map_or(after, |(_, piece)| piece));
                self.malformed(line, reason);
                skip_line(pieces, line);
            }
            (Some(""), Some((_, value)), _) => {
                self.malformed(line, mistakes::of_blanks(setting, value));
                skip_line(pieces, line);
            }
            (None, ..) => {
                let value = pieces.next().map(|(_, next)| next);
                self.value(setting, value, line, pieces);
            }
            (value, ..) => self.value(setting, value, line, pieces),
        }
    }

    /// Uses a value. Only another option may follow it.
    fn value(&mut self, setting: Setting<'_>, value: Option<&str>, line: usize, pieces: &mut Pieces<'_>) {
        let is_word = |piece: &str| !piece.starts_with('-') && mistakes::typographic_dash(piece).is_none();
        let next = pieces.peek().copied().filter(|(next, piece)| *next == line && is_word(piece));
        if let Some((_, next)) = next {
            self.malformed(line, mistakes::of_cut(setting, next));
            return skip_value(pieces, line);
        }
        if let Some(value) = value {
            match mistakes::quotes(value) {
                Quotes::None => {}
                Quotes::Plain => {
                    let origin = self.origin(line);
                    self.diagnostics.warnings.push(format!("{origin}: {}", mistakes::plain_quotes(setting.name)));
                }
                Quotes::Typographic(letter) => return self.malformed(line, mistakes::of_quotes(setting.name, letter)),
            }
        }
        self.option(setting, value, line);
    }

    /// Finds the setting of a long name. gearmand allows abbreviations in its file.
    fn long(&mut self, line: usize, name: &str) -> Option<Setting<'a>> {
        let settings = self.settings;
        if let Some(setting) = settings.find(name) {
            return Some(setting);
        }
        let candidates = if name.is_empty() { Vec::new() } else { settings.starting_with(name) };
        match candidates.as_slice() {
            [] => self.unknown(line, name),
            [setting] => {
                let origin = self.origin(line);
                let warning = format!("{origin}: --{name} is short for --{}; write the whole name", setting.name);
                self.diagnostics.warnings.push(warning);
                return Some(*setting);
            }
            several => {
                let candidates = several.iter().map(|setting| setting.name).collect::<Vec<_>>().join(", ");
                let (name, origin) = (name.to_owned(), self.origin(line));
                self.diagnostics.errors.push(ConfigError::Ambiguous { name, candidates, origin });
            }
        }
        None
    }

    /// Parses the letters after a single dash. Returns the setting whose value is the next piece.
    fn letters(&mut self, line: usize, letters: &str) -> Option<Setting<'a>> {
        let settings = self.settings;
        let mut rest = letters.chars();
        if letters.is_empty() {
            self.malformed(line, "a single dash sets nothing; remove it".to_owned());
        }
        while let Some(letter) = rest.next() {
            let Some(setting) = settings.find_letter(letter) else {
                // A long name after a single hyphen is a mistake: its value may be a secret, and is not
                // shown.
                let name = letters.split_once('=').map_or(letters, |(name, _)| name);
                self.unknown(line, &format!("-{name}"));
                return None;
            };
            if setting.is_switch() {
                self.option(setting, None, line);
            } else if rest.as_str().is_empty() {
                return Some(setting);
            } else {
                let value = rest.as_str();
                self.option(setting, Some(value.strip_prefix('=').unwrap_or(value)), line);
                return None;
            }
        }
        None
    }

    fn option(&mut self, setting: Setting<'_>, value: Option<&str>, line: usize) {
        if !self.begin(setting, line) {
            return;
        }
        match value {
            Some(value) => self.admit(setting, value, line),
            None if setting.is_switch() => self.admit(setting, "true", line),
            None => {
                let (name, origin) = (setting.name.to_owned(), self.origin(line));
                self.diagnostics.errors.push(ConfigError::MissingValue { name, origin });
            }
        }
    }

    fn no_dash(&mut self, line: usize, piece: &str, whole: &str) {
        let (name, value) = whole.split_once('=').unwrap_or((piece, ""));
        let (name, value) = (name.trim(), value.trim());
        let name = name.split_whitespace().last().unwrap_or(piece);
        let setting = self.settings.find(name).or_else(|| self.settings.find(self.settings.nearest(name)?));
        let instead = match setting {
            Some(setting) if setting.is_switch() => format!("--{}", setting.name),
            Some(setting) if value.is_empty() => format!("--{}=VALUE", setting.name),
            Some(setting) => format!("--{}={}", setting.name, mistakes::shown(setting.name, value)),
            None => "--NAME=VALUE".to_owned(),
        };
        let instead = format!("{instead}, or put # before a comment; a file in TOML has the extension .toml");
        let (piece, origin) = (mistakes::shown_piece(whole, piece), self.origin(line));
        self.diagnostics.errors.push(ConfigError::NoDash { piece, instead, origin });
    }

    /// Reads TOML.
    fn toml(&mut self, text: &str) {
        match DeTable::parse(text) {
            Ok(table) => self.table(text, "", table.get_ref()),
            Err(error) => {
                let line = line_of(text, error.span().map_or(0, |span| span.start));
                let letter = text.lines().nth(line - 1).and_then(mistakes::typographic).map(|letter| {
                    format!("; {} is of a word processor: write \" ' or - on the keyboard", mistakes::named(letter))
                });
                self.malformed(line, format!("this is not TOML: {}{}", error.message(), letter.unwrap_or_default()));
            }
        }
    }

    fn table(&mut self, text: &str, prefix: &str, table: &DeTable<'_>) {
        let settings = self.settings;
        // The map is in the order of the keys; messages are in the order of the file.
        let mut items: Vec<_> = table.iter().collect();
        items.sort_by_key(|(key, _)| key.span().start);
        for (key, value) in items {
            let line = line_of(text, key.span().start);
            let name = format!("{prefix}{}", key.get_ref());
            match value.get_ref() {
                DeValue::Table(inner) => self.table(text, &format!("{name}-"), inner),
                value => match settings.find(&name) {
                    None => self.unknown(line, &name),
                    Some(setting) => {
                        if self.begin(setting, line) {
                            self.toml_value(setting, value, line);
                        }
                    }
                },
            }
        }
    }

    fn toml_value(&mut self, setting: Setting<'_>, value: &DeValue<'_>, line: usize) {
        match value {
            DeValue::String(text) => self.admit(setting, text, line),
            DeValue::Integer(number) => self.admit(setting, &number.to_string(), line),
            DeValue::Boolean(on) => self.admit(setting, if *on { "true" } else { "false" }, line),
            DeValue::Array(values) if setting.is_list() => {
                for value in values {
                    self.toml_value(setting, value.get_ref(), line);
                }
            }
            DeValue::Array(_) | DeValue::Float(_) | DeValue::Datetime(_) | DeValue::Table(_) => {
                let wanted = if setting.is_list() { "a text or an array of texts" } else { "one text or whole number" };
                let reason = format!("{} cannot be of the type {}; give {wanted}", setting.name, value.type_str());
                self.malformed(line, reason);
            }
        }
    }
}

type Pieces<'text> = Peekable<vec::IntoIter<(usize, &'text str)>>;

/// Skips the rest of a line.
fn skip_line(pieces: &mut Pieces<'_>, line: usize) {
    while pieces.next_if(|(next, _)| *next == line).is_some() {}
}

/// Skips everything before the next option of a line.
fn skip_value(pieces: &mut Pieces<'_>, line: usize) {
    while pieces.next_if(|(next, piece)| *next == line && !piece.starts_with('-')).is_some() {}
}

/// Splits a text at white space, without its comments; each piece comes with its line, counted from 1.
fn pieces(text: &str) -> Vec<(usize, &str)> {
    let lines = (1..).zip(text.lines());
    let pieces = lines.flat_map(|(number, line)| {
        let words = line.split_whitespace().take_while(|word| !word.starts_with('#'));
        words.map(move |word| (number, word))
    });
    pieces.collect()
}

/// The number of the line, from 1, that contains this byte of the text.
fn line_of(text: &str, offset: usize) -> usize {
    1 + text.bytes().take(offset).filter(|byte| *byte == b'\n').count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_format_is_told_by_extension_and_first_line() {
        let conf = Path::new("/etc/gearmand.conf");
        for text in ["port = 1", "# a\n\n  port =1", "[max]\n", "\"port\" = 1"] {
            assert!(is_toml(conf, text), "{text}");
        }
        for text in ["", "# port = 1", "--port=1", "--port = 1", "port=1", "-p 1\nport = 1", "a b = 1"] {
            assert!(!is_toml(conf, text), "{text}");
        }
        assert!(is_toml(Path::new("x.TOML"), "--port=1"));
    }

    #[test]
    fn pieces_know_their_lines_and_end_at_comments() {
        let text = "--a  --b=x#y\r\n\n\t#--c\n--d # --e\n";
        assert_eq!(pieces(text), [(1, "--a"), (1, "--b=x#y"), (4, "--d")]);
    }

    #[test]
    fn lines_are_counted_from_one() {
        assert_eq!([0, 1, 2, 9].map(|offset| line_of("a\nb\n", offset)), [1, 1, 2, 3]);
    }
}
