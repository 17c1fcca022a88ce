//! Parsers for the values of the tools' options.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::num::NonZeroU64;
use std::os::unix::ffi::OsStringExt;
use std::time::Duration;

use clap::builder::{OsStringValueParser, TypedValueParser};

use crate::protocol::names::{CLIENT_ID_MAX, FUNCTION_MAX, UNIQUE_MAX};
use crate::protocol::units::{self, TimeUnit};
use crate::protocol::{FunctionName, text};

/// Longest time that an option accepts: thirty years, far from where clocks overflow.
const LONGEST: Duration = Duration::from_hours(10_950 * 24);

/// A function name of at most [`FUNCTION_MAX`] bytes. The empty name is valid in the protocol.
pub(super) fn function_name() -> impl TypedValueParser<Value = FunctionName> {
    OsStringValueParser::new().try_map(to_function_name)
}

/// Converts a name that was read before.
pub(super) fn to_function_name(name: OsString) -> Result<FunctionName, String> {
    let name = name.into_vec();
    if name.len() > FUNCTION_MAX {
        Err(format!("longer than {FUNCTION_MAX} bytes"))
    } else {
        Ok(FunctionName::new(&name))
    }
}

/// A unique id of at most [`UNIQUE_MAX`] bytes.
pub(super) fn unique() -> impl TypedValueParser<Value = Vec<u8>> {
    OsStringValueParser::new().try_map(|unique: OsString| {
        let unique = unique.into_vec();
        if unique.len() > UNIQUE_MAX { Err(format!("longer than {UNIQUE_MAX} bytes")) } else { Ok(unique) }
    })
}

/// Client id of a worker. Listings separate their columns by spaces, so it must not contain any.
pub(super) fn client_id(id: &str) -> Result<String, String> {
    if id.is_empty() || id.len() > CLIENT_ID_MAX {
        return Err(format!("must have 1 to {CLIENT_ID_MAX} bytes"));
    }
    if id.contains(|letter: char| letter.is_whitespace() || letter.is_control()) {
        return Err("must not contain spaces or control characters".to_owned());
    }
    Ok(id.to_owned())
}

/// A time above zero; a number without a unit is in seconds.
pub(super) fn time(text: &str) -> Result<Duration, String> {
    let time = delay(text)?;
    if time.is_zero() { Err("must be above 0".to_owned()) } else { Ok(time) }
}

/// Like [`time`], but zero is valid.
pub(super) fn delay(text: &str) -> Result<Duration, String> {
    let time = units::time(text, TimeUnit::Seconds)?;
    if time > LONGEST { Err("the longest time is thirty years, 10950d".to_owned()) } else { Ok(time) }
}

/// An amount of memory in bytes, above zero.
pub(super) fn memory(text: &str) -> Result<NonZeroU64, String> {
    NonZeroU64::new(units::size(text)?).ok_or_else(|| "must be above 0".to_owned())
}

/// A whole number.
pub(super) fn count(text: &str) -> Result<u32, String> {
    text.parse().map_err(|_| format!("not a whole number from 0 to {}", u32::MAX))
}

/// A word of a text command. Spaces and line ends would make another command of it.
pub(super) fn admin_word(word: &str) -> Result<String, String> {
    if word.is_empty() {
        return Err("must not be empty".to_owned());
    }
    if word.contains(|letter: char| letter == ' ' || letter.is_control()) {
        return Err("must not contain spaces or control characters: the text protocol cannot express them".to_owned());
    }
    Ok(word.to_owned())
}

/// A name in a text command, written as listings show it: `\xNN` for a byte and `\e` for the empty name.
/// Bytes that cannot appear in a line are escaped this way; the rest stays as typed.
pub(super) fn admin_name() -> impl TypedValueParser<Value = String> {
    OsStringValueParser::new().map(|name: OsString| escaped(&name.into_vec()))
}

/// Selects the workers of a text command.
pub(super) fn workers() -> impl TypedValueParser<Value = String> {
    admin_name().try_map(|who: String| {
        let known =
            ["connection:", "client:", "host:"].iter().any(|kind| who.len() > kind.len() && who.starts_with(kind));
        if known { Ok(who) } else { Err("must be connection:ID, client:CLIENT_ID or host:ADDRESS".to_owned()) }
    })
}

/// Escapes a name as a word of a text command.
fn escaped(name: &[u8]) -> String {
    if name.is_empty() {
        return text::escaped(name);
    }
    let mut word = String::with_capacity(name.len());
    for chunk in name.utf8_chunks() {
        for letter in chunk.valid().chars() {
            if letter == ' ' || letter.is_ascii_control() {
                // Writing to a String does not fail.
                let _ = write!(word, "\\x{:02x}", u32::from(letter));
            } else {
                word.push(letter);
            }
        }
        for byte in chunk.invalid() {
            let _ = write!(word, "\\x{byte:02x}");
        }
    }
    word
}

/// A line of the text protocol.
pub(super) fn admin_line(line: &str) -> Result<String, String> {
    if line.contains(['\n', '\r', '\0']) {
        return Err("must be a single line".to_owned());
    }
    Ok(line.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_positive_and_finite() {
        assert_eq!(time("1.5"), Ok(Duration::from_millis(1500)));
        assert_eq!((time("5m"), time("1d")), (Ok(Duration::from_mins(5)), Ok(Duration::from_hours(24))));
        for strange in ["0", "0m", "-1", "nan", "inf", "1e300", "", "5y", "11000d"] {
            assert!(time(strange).is_err(), "{strange}");
        }
        assert_eq!(delay("0"), Ok(Duration::ZERO));
        assert!(memory("0").is_err() && memory("512M").is_ok());
    }

    #[test]
    fn a_word_cannot_smuggle_in_a_second_command() {
        assert!(admin_word("reverse").is_ok());
        for strange in ["", "a b", "a\nshutdown", "a\r"] {
            assert!(admin_word(strange).is_err(), "{strange:?}");
        }
        assert_eq!(escaped(b"a b\nc\xff\\x20\xc3\xa9"), "a\\x20b\\x0ac\\xff\\x20\u{e9}");
        assert!(admin_line("show jobs").is_ok());
        assert!(admin_line("version\nshutdown").is_err());
    }
}
