//! Times in a file: `90`, `90s`, `5m`, `2h` or `1d`, optionally with a fraction.

use std::time::Duration;

use serde::de::Error;
use serde::{Deserialize, Deserializer};

/// A time as written in a file.
#[derive(Deserialize)]
#[serde(untagged)]
enum Written {
    Seconds(f64),
    Text(String),
}

impl Written {
    fn duration(self) -> Result<Duration, String> {
        let (number, each) = match &self {
            Self::Seconds(seconds) => (*seconds, 1.0),
            Self::Text(text) => {
                let number = text.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
                let each = match text.strip_prefix(number).unwrap_or_default() {
                    "" | "s" => 1.0,
                    "ms" => 0.001,
                    "m" | "min" => 60.0,
                    "h" => 3_600.0,
                    "d" => 86_400.0,
                    _ => return Err(format!("\"{text}\": the units of time are ms, s, m, h and d")),
                };
                (number.trim().parse().map_err(|_| format!("\"{text}\" is not a time such as 90s or 5m"))?, each)
            }
        };
        let seconds = number * each;
        if !(0.0..=1e9).contains(&seconds) {
            return Err("a time is from 0 to 1000000000 seconds".to_owned());
        }
        Ok(Duration::from_secs_f64(seconds))
    }
}

/// Reads a time.
pub(super) fn plain<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    Written::deserialize(deserializer)?.duration().map_err(D::Error::custom)
}

/// Reads an optional time.
pub(super) fn optional<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    let written = Option::<Written>::deserialize(deserializer)?;
    written.map(Written::duration).transpose().map_err(D::Error::custom)
}
