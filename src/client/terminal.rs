//! Text on a terminal: display width, truncation, and removal of control characters.

use std::io::{self, IsTerminal};

use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

use super::listing::printable;

/// Last character of truncated text.
const CUT: char = '~';

/// Width of the terminal at standard output, in columns; `None` without a terminal, so that nothing is cut.
pub(crate) fn room() -> Option<usize> {
    let (terminal_size::Width(columns), _) = terminal_size::terminal_size_of(io::stdout())?;
    // A terminal whose size is not set reports 0.
    Some(usize::from(columns)).filter(|columns| *columns > 0)
}

/// Display width of a text, in columns.
pub(crate) fn width(text: &str) -> usize {
    text.width()
}

/// Truncates a text to at most `room` columns; a truncated text ends with a tilde.
pub(crate) fn cut(text: &str, room: usize) -> String {
    if width(text) <= room {
        return text.to_owned();
    }
    let mut left = room.saturating_sub(1);
    let fits = |letter: &char| {
        let taken = letter.width().unwrap_or(0);
        let is_room = taken <= left;
        left = left.saturating_sub(taken);
        is_room
    };
    let mut out: String = text.chars().take_while(fits).collect();
    if room > 0 {
        out.push(CUT);
    }
    out
}

/// Returns bytes of a peer unchanged unless `is_terminal`: for a terminal, control characters other than line
/// feed and tab are escaped.
pub(crate) fn harmless(bytes: &[u8], is_terminal: bool) -> Vec<u8> {
    if !is_terminal {
        return bytes.to_vec();
    }
    let text = String::from_utf8_lossy(bytes);
    let lines: Vec<String> = text
        .split('\n')
        .map(|line| line.strip_suffix('\r').unwrap_or(line).split('\t').map(printable).collect::<Vec<_>>().join("\t"))
        .collect();
    lines.join("\n").into_bytes()
}

/// Does the same for standard output.
pub(crate) fn harmless_on_stdout(bytes: &[u8]) -> Vec<u8> {
    harmless(bytes, io::stdout().is_terminal())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_cut_by_the_columns_that_they_take() {
        for (text, room, expected) in [
            ("short", 5, "short"),
            ("longer", 5, "long~"),
            // Each of these characters is two columns wide.
            ("\u{6f22}\u{5b57}\u{6f22}", 6, "\u{6f22}\u{5b57}\u{6f22}"),
            ("\u{6f22}\u{5b57}\u{6f22}", 5, "\u{6f22}\u{5b57}~"),
            ("\u{6f22}\u{5b57}\u{6f22}", 4, "\u{6f22}~"),
            ("x", 0, ""),
        ] {
            assert_eq!(cut(text, room), expected, "{text} in {room}");
            assert!(width(&cut(text, room)) <= room);
        }
    }

    #[test]
    fn a_terminal_is_not_commanded_and_a_pipe_gets_all() {
        let bytes = b"a\tb\r\n\x1b[2J\xc2\x9b\n.\n";
        assert_eq!(harmless(bytes, false), bytes);
        assert_eq!(harmless(bytes, true), b"a\tb\n\\x1b[2J\\xc2\\x9b\n.\n");
    }
}
