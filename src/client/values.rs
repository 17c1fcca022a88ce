//! Values of the tools' options, checked when the command line is read.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::num::NonZeroU64;
use std::os::unix::ffi::OsStringExt;
use std::time::Duration;

use clap::builder::{OsStringValueParser, TypedValueParser};

use crate::protocol::FunctionName;
use crate::protocol::names::{CLIENT_ID_MAX, FUNCTION_MAX, UNIQUE_MAX};

/// The longest time that an option takes, in seconds: thirty years, far from where clocks overflow.
const SECONDS_MAX: f64 = 1e9;

/// A function name of 1 to [`FUNCTION_MAX`] bytes.
pub(super) fn function_name() -> impl TypedValueParser<Value = FunctionName> {
    OsStringValueParser::new().try_map(to_function_name)
}

/// The same, of a name that was read before.
pub(super) fn to_function_name(name: OsString) -> Result<FunctionName, String> {
    let name = name.into_vec();
    match name.len() {
        0 => Err("a function has a name".to_owned()),
        length if length > FUNCTION_MAX => Err(format!("longer than {FUNCTION_MAX} bytes")),
        _ => Ok(FunctionName::new(&name)),
    }
}

/// A unique id of at most [`UNIQUE_MAX`] bytes.
pub(super) fn unique() -> impl TypedValueParser<Value = Vec<u8>> {
    OsStringValueParser::new().try_map(|unique: OsString| {
        let unique = unique.into_vec();
        if unique.len() > UNIQUE_MAX { Err(format!("longer than {UNIQUE_MAX} bytes")) } else { Ok(unique) }
    })
}

/// The id of a worker: it stands in a listing whose columns are separated by spaces.
pub(super) fn client_id(id: &str) -> Result<String, String> {
    if id.is_empty() || id.len() > CLIENT_ID_MAX {
        return Err(format!("must have 1 to {CLIENT_ID_MAX} bytes"));
    }
    if id.contains(|letter: char| letter.is_whitespace() || letter.is_control()) {
        return Err("must not contain spaces or control characters".to_owned());
    }
    Ok(id.to_owned())
}

/// A time in seconds, with a fraction if need be; above zero.
pub(super) fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "not a number of seconds".to_owned())?;
    if !(seconds > 0.0 && seconds <= SECONDS_MAX) {
        return Err(format!("must be above 0 and at most {SECONDS_MAX}"));
    }
    Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string())
}

/// The same, or a number with the unit s, m, h or d.
pub(super) fn time(text: &str) -> Result<Duration, String> {
    let number = text.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
    let each = match text.strip_prefix(number).unwrap_or_default() {
        "" | "s" => 1.0,
        "m" | "min" => 60.0,
        "h" => 3_600.0,
        "d" => 86_400.0,
        _ => return Err("the units of time are s, m, h and d".to_owned()),
    };
    let number: f64 = number.parse().map_err(|_| "not a time such as 90, 90s, 5m, 2h or 1d".to_owned())?;
    seconds(&(number * each).to_string())
}

/// An amount of memory in bytes, above zero; K, M and G are powers of 1024.
pub(super) fn memory(text: &str) -> Result<NonZeroU64, String> {
    let number = text.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
    let shift = match text.strip_prefix(number).unwrap_or_default() {
        "" => 0,
        "K" | "k" | "KiB" => 10,
        "M" | "m" | "MiB" => 20,
        "G" | "g" | "GiB" => 30,
        _ => return Err("the units of memory are K, M and G".to_owned()),
    };
    let number: u64 = number.parse().map_err(|_| "not an amount of memory such as 1048576, 512M or 2G".to_owned())?;
    let bytes = number.checked_mul(1 << shift).ok_or_else(|| "more than there can be".to_owned())?;
    NonZeroU64::new(bytes).ok_or_else(|| "must be above 0".to_owned())
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
        return Err(
            "must not contain spaces or control characters: the text protocol has no way to say them".to_owned()
        );
    }
    Ok(word.to_owned())
}

/// A name in a text command that C++ gearmand does not know: such commands read it as listings show it, with `\xNN` for a
/// byte. What could not stand in a line is said in this way, whatever else there is stays as it was typed.
pub(super) fn admin_name() -> impl TypedValueParser<Value = String> {
    OsStringValueParser::new().try_map(|name: OsString| match name.into_vec() {
        name if name.is_empty() => Err("must not be empty".to_owned()),
        name => Ok(escaped(&name)),
    })
}

/// Which workers a text command is about.
pub(super) fn workers() -> impl TypedValueParser<Value = String> {
    admin_name().try_map(|who: String| {
        let known =
            ["connection:", "client:", "host:"].iter().any(|kind| who.len() > kind.len() && who.starts_with(kind));
        if known { Ok(who) } else { Err("must be connection:ID, client:CLIENT_ID or host:ADDRESS".to_owned()) }
    })
}

/// A name as a word of a text command.
fn escaped(name: &[u8]) -> String {
    let mut word = String::with_capacity(name.len());
    for chunk in name.utf8_chunks() {
        for letter in chunk.valid().chars() {
            if letter == ' ' || letter.is_ascii_control() {
                // A String takes everything.
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

/// A line for the text protocol.
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
    fn seconds_are_positive_and_finite() {
        assert_eq!(seconds("1.5"), Ok(Duration::from_millis(1500)));
        for strange in ["0", "-1", "nan", "inf", "1e300", "", "5s"] {
            assert!(seconds(strange).is_err(), "{strange}");
        }
    }

    #[test]
    fn memory_has_units() {
        let read = |text: &str| memory(text).map(NonZeroU64::get);
        assert_eq!((read("1000"), read("512M"), read("2G")), (Ok(1000), Ok(512 << 20), Ok(2 << 30)));
        for strange in ["0", "", "-1", "1.5G", "5T", "99999999999G", "M"] {
            assert!(memory(strange).is_err(), "{strange}");
        }
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
