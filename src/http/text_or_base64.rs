//! Serializes bytes as JSON: as text, or as base64 if they are not UTF-8. It streams, so the memory needed is
//! that of the input and not of the larger output.

use axum::body::Bytes;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::budget::Share;

/// Bytes serialized at a time. Each may take six bytes in JSON. A multiple of three needs no base64 padding.
const STEP: usize = 3 * 2048;

/// A JSON object with the bytes as `data` or `data_base64`, and other members before and after.
pub(super) struct TextOrBase64 {
    head: Vec<u8>,
    bytes: Bytes,
    is_text: bool,
    tail: Option<Vec<u8>>,
    _share: Share,
}

impl TextOrBase64 {
    /// `head` starts the object with the members before the bytes; `tail` ends it with those after them.
    pub(super) fn new(mut head: Vec<u8>, bytes: Bytes, tail: &[u8], share: Share) -> Self {
        let is_text = std::str::from_utf8(&bytes).is_ok();
        head.extend_from_slice(if is_text { b"\"data\":\"" } else { b"\"data_base64\":\"" });
        Self { head, bytes, is_text, tail: Some([b"\"", tail].concat()), _share: share }
    }

    /// The next chunk; `None` after the last.
    pub(super) fn piece(&mut self) -> Option<Bytes> {
        let tail = self.tail.as_ref()?.len();
        let mut piece = std::mem::take(&mut self.head);
        let step = self.bytes.split_to(self.step());
        if self.is_text {
            let text = String::from_utf8_lossy(&step);
            piece.extend_from_slice(&escaped(&text));
        } else {
            piece.extend_from_slice(STANDARD.encode(&step).as_bytes());
        }
        if self.bytes.is_empty() {
            piece.reserve(tail);
            piece.extend(self.tail.take().unwrap_or_default());
        }
        Some(piece.into())
    }

    /// The size of the next step. It does not split a character.
    fn step(&self) -> usize {
        let mut step = STEP.min(self.bytes.len());
        while self.is_text && self.bytes.get(step).is_some_and(|byte| byte & 0xc0 == 0x80) {
            step -= 1;
        }
        step
    }
}

/// Escapes text for a JSON string, without the quotes.
fn escaped(text: &str) -> Vec<u8> {
    // Serializing to memory cannot fail.
    let mut quoted = serde_json::to_vec(text).unwrap_or_default();
    quoted.pop();
    quoted.drain(..1.min(quoted.len()));
    quoted
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::{Value, json};

    use super::super::budget::Budget;
    use super::*;

    fn written(bytes: &[u8]) -> Value {
        let share = Share::of(&Budget::new(0, Arc::default()));
        let bytes = Bytes::copy_from_slice(bytes);
        let mut data = TextOrBase64::new(b"{\"a\":1,".to_vec(), bytes, b",\"b\":[]}", share);
        let mut whole = Vec::new();
        while let Some(piece) = data.piece() {
            assert!(piece.len() <= 64 * 1024, "{}", piece.len());
            whole.extend_from_slice(&piece);
        }
        serde_json::from_slice(&whole).unwrap()
    }

    #[test]
    fn pieces_make_a_whole() {
        for text in
            [String::new(), "ä\"\n".to_owned(), "a".repeat(STEP), "€𝄞\u{1}".repeat(STEP), "\u{1}".repeat(50_000)]
        {
            assert_eq!(written(text.as_bytes()), json!({"a": 1, "data": text, "b": []}));
        }
        for bytes in [vec![0xff], vec![0xfe; STEP], vec![0x80; 3 * STEP + 1]] {
            assert_eq!(written(&bytes), json!({"a": 1, "data_base64": STANDARD.encode(&bytes), "b": []}));
        }
    }
}
