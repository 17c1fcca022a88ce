//! Escaping of names in the text protocol. A name is any bytes; a word contains no separators and no line
//! ends.
//!
//! There are two ways to write a name. [`write_name`] is for the listings of C++ gearmand, whose bytes do not
//! change: a backslash is written as it is, so that a few names are ambiguous. [`write_escaped`] is for all
//! other listings: [`read_name`] reverses it for every name.

/// The word for the empty name; no other name is written like this.
const EMPTY: &[u8] = b"\\e";

/// Appends a name to a line of a listing of C++ gearmand.
///
/// A control character, or a space if spaces are separators, would break parsers of the listing: it is
/// written as `\xNN`. All other bytes are written unchanged.
pub fn write_name(name: &[u8], out: &mut Vec<u8>, space_separates: bool) {
    for byte in name {
        if byte.is_ascii_control() || (space_separates && *byte == b' ') {
            write_byte(*byte, out);
        } else {
            out.push(*byte);
        }
    }
}

/// Appends a name to a line of any other listing, as UTF-8 that [`read_name`] reverses.
///
/// Written as `\xNN` are control characters, bytes that are not UTF-8, a backslash that would be read as the
/// beginning of such an escape, and a space or comma if that is the separator. The empty name is `\e`, unless
/// the separator makes an empty word recognizable.
pub fn write_escaped(name: &[u8], out: &mut Vec<u8>, separator: u8) {
    if name.is_empty() && separator != b'\t' {
        out.extend_from_slice(EMPTY);
        return;
    }
    // Fast path: almost all names are like this, and listings are long.
    if name.iter().all(|byte| matches!(byte, b' '..=b'~') && *byte != separator && *byte != b'\\') {
        out.extend_from_slice(name);
        return;
    }
    let mut rest = name;
    for chunk in name.utf8_chunks() {
        for byte in chunk.valid().bytes() {
            let is_escape = byte == b'\\' && (escape(rest).is_some() || name == EMPTY);
            if byte.is_ascii_control() || byte == separator || is_escape {
                write_byte(byte, out);
            } else {
                out.push(byte);
            }
            rest = &rest[1..];
        }
        for byte in chunk.invalid() {
            write_byte(*byte, out);
        }
        rest = &rest[chunk.invalid().len()..];
    }
}

/// A name as one word of a command, which [`read_name`] reverses.
pub fn escaped(name: &[u8]) -> String {
    let mut word = Vec::with_capacity(name.len());
    write_escaped(name, &mut word, b' ');
    // Bytes that are not UTF-8 are escaped.
    String::from_utf8_lossy(&word).into_owned()
}

/// Reverses [`write_escaped`]: `\xNN` is a byte, `\e` alone the empty name, everything else is literal.
pub fn read_name(word: &[u8]) -> Vec<u8> {
    if word == EMPTY {
        return Vec::new();
    }
    let mut name = Vec::with_capacity(word.len());
    let mut rest = word;
    while let Some((first, after)) = rest.split_first() {
        if let Some((byte, after)) = escape(rest) {
            name.push(byte);
            rest = after;
        } else {
            name.push(*first);
            rest = after;
        }
    }
    name
}

fn write_byte(byte: u8, out: &mut Vec<u8>) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    out.extend_from_slice(b"\\x");
    out.extend([byte >> 4, byte & 15].map(|digit| HEX[usize::from(digit)]));
}

/// The byte of an escape at the beginning of `text`, and the rest.
fn escape(text: &[u8]) -> Option<(u8, &[u8])> {
    let [b'\\', b'x', high, low, after @ ..] = text else { return None };
    Some((hex_digit(*high)? << 4 | hex_digit(*low)?, after))
}

fn hex_digit(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|digit| u8::try_from(digit).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_classes_stay_readable() {
        for (name, word) in [
            (&br"Shop\Export\Csv"[..], r"Shop\Export\Csv"),
            (br"Shop\Export\xAdapter", r"Shop\Export\x5cxAdapter"),
            (br"CORP\xadams", r"CORP\x5cxadams"),
            (b"a b\nc\xff", r"a\x20b\x0ac\xff"),
            ("\u{e9}".as_bytes(), "\u{e9}"),
            (b"", r"\e"),
            (br"\e", r"\x5ce"),
            (br"\x4", r"\x4"),
            (b"\\\n", r"\\x0a"),
        ] {
            assert_eq!(escaped(name), word, "{name:?}");
            assert_eq!(read_name(word.as_bytes()), name, "{word}");
        }
    }
}
