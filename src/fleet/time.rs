//! Times in a file: `90`, `90s`, `5m`, `2h` or `1d`, optionally with a fraction.

/// Serde module for a time.
pub(super) mod plain {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer};

    #[derive(Deserialize)]
    #[serde(untagged)]
    pub(super) enum Written {
        Seconds(f64),
        Text(String),
    }

    impl Written {
        pub(super) fn duration(self) -> Result<Duration, String> {
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

    pub(in super::super) fn deserialize<'de, D: Deserializer<'de>>(reader: D) -> Result<Duration, D::Error> {
        Written::deserialize(reader)?.duration().map_err(serde::de::Error::custom)
    }

    pub(in super::super) fn serialize<S: Serializer>(time: &Duration, writer: S) -> Result<S::Ok, S::Error> {
        writer.serialize_str(&format!("{}s", time.as_secs_f64()))
    }
}

/// Serde module for an optional time.
pub(super) mod optional {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer};

    use super::plain::Written;

    pub(in super::super) fn deserialize<'de, D: Deserializer<'de>>(reader: D) -> Result<Option<Duration>, D::Error> {
        let written = Option::<Written>::deserialize(reader)?;
        written.map(Written::duration).transpose().map_err(serde::de::Error::custom)
    }

    #[allow(clippy::ref_option, reason = "serde calls it so")]
    pub(in super::super) fn serialize<S: Serializer>(time: &Option<Duration>, writer: S) -> Result<S::Ok, S::Error> {
        match time {
            Some(time) => super::plain::serialize(time, writer),
            None => writer.serialize_none(),
        }
    }
}
