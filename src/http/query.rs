//! Parses URLs: path segments and query parameters. Names are arbitrary bytes.

use std::borrow::Cow;
use std::str::FromStr;

use percent_encoding::percent_decode;

use super::answer::ApiError;

/// Query parameters, each at most once.
#[derive(Debug, Default)]
pub(super) struct Query(Vec<(String, Vec<u8>)>);

impl Query {
    /// Parses a query that may have only the `known` parameters.
    ///
    /// # Errors
    /// An unknown or repeated parameter. A misspelled filter must not select everything.
    pub(super) fn parse(text: Option<&str>, known: &[&str]) -> Result<Self, ApiError> {
        let mut parameters: Vec<(String, Vec<u8>)> = Vec::new();
        for pair in text.unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let name = String::from_utf8_lossy(&decode(name)).into_owned();
            if !known.contains(&name.as_str()) {
                let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
                let message = format!("unknown parameter {name:?}; known parameters: {known}");
                return Err(ApiError::bad("unknown_parameter", message));
            }
            if parameters.iter().any(|(earlier, _)| *earlier == name) {
                return Err(ApiError::bad("bad_parameter", format!("the parameter {name} is given twice")));
            }
            parameters.push((name, decode(value)));
        }
        Ok(Self(parameters))
    }

    /// A parameter as bytes.
    pub(super) fn bytes(&self, name: &str) -> Option<&[u8]> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_slice())
    }

    /// A parameter as text.
    pub(super) fn text(&self, name: &str) -> Result<Option<&str>, ApiError> {
        let text = self.bytes(name).map(std::str::from_utf8).transpose();
        text.map_err(|_| ApiError::bad("bad_parameter", format!("the parameter {name} is not UTF-8")))
    }

    /// A parameter that must be one of these words.
    pub(super) fn word(&self, name: &str, words: &[&str]) -> Result<Option<String>, ApiError> {
        match self.text(name)? {
            Some(text) if !words.contains(&text) => {
                let message = format!("{name} cannot be {text:?}; it is one of: {}", words.join(", "));
                Err(ApiError::bad("bad_parameter", message))
            }
            text => Ok(text.map(str::to_owned)),
        }
    }

    /// A parameter that must be a number; `wanted` describes it for the error message.
    pub(super) fn number<T: FromStr>(&self, name: &str, wanted: &str) -> Result<Option<T>, ApiError> {
        let Some(text) = self.text(name)? else { return Ok(None) };
        // `+1` is ambiguous in a query, so it is rejected.
        let number = text.parse().ok().filter(|_| text.starts_with(|first: char| first.is_ascii_digit()));
        match number {
            Some(number) => Ok(Some(number)),
            None => Err(ApiError::bad("bad_parameter", format!("{name} cannot be {text:?}; it is {wanted}"))),
        }
    }
}

/// Names that cannot be path segments: empty segments are not supported, and clients resolve `.` and `..`
/// even if encoded. They are prefixed by an equals sign, which no encoded name contains.
const NO_SEGMENTS: [(&str, &str); 3] = [("=", ""), ("=.", "."), ("=..", "..")];

fn no_segment(text: &str) -> Option<Vec<u8>> {
    NO_SEGMENTS.iter().find(|(written, _)| *written == text).map(|(_, name)| name.as_bytes().to_vec())
}

/// Decodes percent encoding, and `+` as a space.
fn decode(text: &str) -> Vec<u8> {
    if let Some(name) = no_segment(text) {
        return name;
    }
    let spaced: Cow<'_, str> = if text.contains('+') { text.replace('+', " ").into() } else { text.into() };
    percent_decode(spaced.as_bytes()).collect()
}

/// Decodes a path segment.
pub(super) fn segment(text: &str) -> Vec<u8> {
    no_segment(text).unwrap_or_else(|| percent_decode(text.as_bytes()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_any_bytes() {
        let query = Query::parse(Some("a=%ff+b&c&&d=x=y"), &["a", "c", "d"]).unwrap();
        assert_eq!(query.bytes("a"), Some(&b"\xff b"[..]));
        assert_eq!(query.bytes("c"), Some(&b""[..]));
        assert_eq!(query.bytes("d"), Some(&b"x=y"[..]));
        assert_eq!(query.bytes("e"), None);
        assert!(query.text("a").is_err());
    }

    #[test]
    fn names_that_are_no_segments_have_a_form_of_their_own() {
        for (written, name) in
            [("=", ""), ("=.", "."), ("=..", ".."), ("%3D", "="), ("%3D.", "=."), ("=...", "=..."), (".", ".")]
        {
            assert_eq!(segment(written), name.as_bytes(), "{written}");
            let query = Query::parse(Some(&format!("a={written}")), &["a"]).unwrap();
            assert_eq!(query.bytes("a"), Some(name.as_bytes()), "{written}");
        }
    }

    #[test]
    fn what_is_not_known_is_refused() {
        assert!(Query::parse(Some("b=1"), &["a"]).is_err());
        assert!(Query::parse(Some("a=1&a=2"), &["a"]).is_err());
        let query = Query::parse(Some("a=%2B1&b=-1&c=1&d="), &["a", "b", "c", "d"]).unwrap();
        for name in ["a", "b", "d"] {
            assert!(query.number::<u32>(name, "a number").is_err(), "{name}");
        }
        assert_eq!(query.number("c", "a number"), Ok(Some(1_u32)));
    }
}
