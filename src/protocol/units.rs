//! Times and sizes with units: one grammar for options, files and text commands.
//!
//! A value is a number and a unit, with or without a blank between them. The number may have a fraction, and
//! `_` between its digits. The default unit depends on the setting.

use std::time::Duration;

/// The unit of a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimeUnit {
    /// `ms`
    Milliseconds,
    /// `s`
    Seconds,
    /// `m`, `min`
    Minutes,
    /// `h`
    Hours,
    /// `d`
    Days,
}

impl TimeUnit {
    const fn milliseconds(self) -> u64 {
        match self {
            Self::Milliseconds => 1,
            Self::Seconds => 1_000,
            Self::Minutes => 60_000,
            Self::Hours => 3_600_000,
            Self::Days => 86_400_000,
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Milliseconds => "ms",
            Self::Seconds => "s",
            Self::Minutes => "m",
            Self::Hours => "h",
            Self::Days => "d",
        }
    }
}

/// Parses a time; `bare` is the unit of a number without one.
///
/// # Errors
/// The expected format of a time.
pub fn time(text: &str, bare: TimeUnit) -> Result<Duration, String> {
    read_time(text, bare).ok_or_else(|| {
        let bare = bare.name();
        format!("a time is a number with the unit ms, s, m, h or d (without one: {bare}), such as 90s, 5m or 1.5h")
    })
}

fn read_time(text: &str, bare: TimeUnit) -> Option<Duration> {
    let (number, unit) = Number::read(text)?;
    let unit = match unit.to_ascii_lowercase().as_str() {
        "" => bare,
        "ms" => TimeUnit::Milliseconds,
        "s" => TimeUnit::Seconds,
        "m" | "min" => TimeUnit::Minutes,
        "h" => TimeUnit::Hours,
        "d" => TimeUnit::Days,
        _ => return None,
    };
    let each = unit.milliseconds();
    let whole = Duration::from_millis(number.whole.checked_mul(each)?);
    whole.checked_add(Duration::from_millis(each).mul_f64(number.fraction))
}

/// Parses a size in bytes; units are powers of 1024.
///
/// # Errors
/// The expected format of a size.
pub fn size(text: &str) -> Result<u64, String> {
    read_size(text).ok_or_else(|| {
        "a size is a number of bytes, or a number with the unit KiB, MiB or GiB (short: k, m, g), such as 64MiB"
            .to_owned()
    })
}

fn read_size(text: &str) -> Option<u64> {
    let (number, unit) = Number::read(text)?;
    let shift = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kib" => 10,
        "m" | "mib" => 20,
        "g" | "gib" => 30,
        _ => return None,
    };
    let whole = number.whole.checked_mul(1 << shift)?;
    #[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    let fraction = (number.fraction * (1_u64 << shift) as f64) as u64;
    // A fraction of a byte is not a valid size.
    if shift == 0 && number.fraction > 0.0 { None } else { whole.checked_add(fraction) }
}

/// A non-negative number.
struct Number {
    whole: u64,
    /// From 0 to below 1.
    fraction: f64,
}

impl Number {
    /// Splits a text into its number and the rest.
    fn read(text: &str) -> Option<(Self, &str)> {
        let is_number = |letter: char| letter.is_ascii_digit() || letter == '_' || letter == '.';
        let (number, unit) = text.split_at(text.find(|letter| !is_number(letter)).unwrap_or(text.len()));
        let (whole, fraction) = number.split_once('.').map_or((number, None), |(whole, rest)| (whole, Some(rest)));
        let is_separated = |digits: &str| {
            let ends_with_digit = digits.ends_with(|last: char| last.is_ascii_digit());
            digits.starts_with(|first: char| first.is_ascii_digit()) && ends_with_digit && !digits.contains("__")
        };
        if !is_separated(whole) || !fraction.is_none_or(is_separated) {
            return None;
        }
        let fraction = fraction.map_or(Some(0.0), |digits| format!("0.{}", digits.replace('_', "")).parse().ok())?;
        Some((Self { whole: whole.replace('_', "").parse().ok()?, fraction }, unit.trim()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_one_grammar() {
        for (text, milliseconds) in [
            ("90", 90_000),
            ("90s", 90_000),
            ("1.5", 1_500),
            ("250ms", 250),
            ("5m", 300_000),
            ("5 min", 300_000),
            ("1.5h", 5_400_000),
            ("1d", 86_400_000),
            ("1_000 MS", 1_000),
            ("0", 0),
        ] {
            assert_eq!(time(text, TimeUnit::Seconds), Ok(Duration::from_millis(milliseconds)), "{text}");
        }
        assert_eq!(time("100", TimeUnit::Milliseconds), Ok(Duration::from_millis(100)));
        for text in
            ["", "s", "-1", "+1", "5y", "1.5.5", ".5", "5.", "1__0", "_1", "1_", "nan", "inf", "1e3", "5m3s", "0x5"]
        {
            assert!(time(text, TimeUnit::Seconds).is_err(), "{text}");
        }
        assert!(time("18446744073709551615d", TimeUnit::Seconds).is_err());
    }

    #[test]
    fn sizes_have_one_grammar() {
        for (text, bytes) in
            [("1000", 1000), ("512M", 512 << 20), ("2GiB", 2 << 30), ("1.5k", 1536), ("3 KiB", 3 << 10)]
        {
            assert_eq!(size(text), Ok(bytes), "{text}");
        }
        for text in ["", "k", "-1", "1.5", "1MB", "1 2", "99999999999999999999", "18014398509481984k", "5T"] {
            assert!(size(text).is_err(), "{text}");
        }
    }
}
