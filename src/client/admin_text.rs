//! Client side of the text protocol: sends a line and reads the response, which is kept byte for byte.

use std::io;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};

use super::connection::Stream;
use crate::protocol::text::{AdminCommand, END_OF_LIST};

/// Longest line of a response, in bytes: enough for a worker with ten thousand functions of the longest name.
const LINE_MAX: usize = 8 << 20;
/// Memory limit of a response, in bytes: enough for a listing of several million jobs. The fixed cost of each
/// line is counted too, so empty lines cannot get around the limit.
const ANSWER_MAX: usize = 512 << 20;
/// Approximate memory cost of a line and of a table cell, in addition to their text, in bytes.
const LINE_COST: usize = 48;
const CELL_COST: usize = 56;
/// Maximum number of columns in a table.
const COLUMNS_MAX: usize = 256;

/// Response of a server to a text command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum TextAnswer {
    /// `OK`, and the text after it.
    Ok(Vec<u8>),
    /// `ERR`, and the text after it.
    Err(Vec<u8>),
    /// The lines of a listing, without line ends and without the final dot.
    Listing(Vec<Vec<u8>>),
}

/// A response and the bytes it was parsed from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct RawAnswer {
    pub(super) wire: Vec<u8>,
    pub(super) answer: TextAnswer,
}

/// A connection for text commands.
pub(super) struct TextConnection {
    reader: BufReader<Box<dyn tokio::io::AsyncRead + Send + Unpin>>,
    writer: Box<dyn tokio::io::AsyncWrite + Send + Unpin>,
    /// Memory limit of a response, in bytes.
    most: usize,
}

impl TextConnection {
    pub(super) fn new((reader, writer): Stream) -> Self {
        Self { reader: BufReader::with_capacity(64 * 1024, reader), writer, most: ANSWER_MAX }
    }

    /// Like [`new`](Self::new), with a memory limit for each response, in bytes.
    pub(super) fn with_most(stream: Stream, most: usize) -> Self {
        Self { most, ..Self::new(stream) }
    }

    /// Sends a line and reads its response.
    ///
    /// The line ends with CRLF, since C++ gearmand cuts the last letter off a name that is followed by LF
    /// alone.
    ///
    /// # Errors
    /// When the connection fails, closes before the response is complete, or the response exceeds a limit.
    pub(super) async fn ask(&mut self, line: impl AsRef<[u8]>) -> io::Result<RawAnswer> {
        let line = line.as_ref();
        self.writer.write_all(&[line, b"\r\n"].concat()).await?;
        self.writer.flush().await?;
        let listing = is_listing(line);
        let mut wire = Vec::new();
        let mut lines = Vec::new();
        let (mut columns, mut taken) = (0, 0);
        loop {
            let begin = wire.len();
            self.read_line(&mut wire).await?;
            let text = &wire[begin..];
            let bare = text.strip_suffix(b"\n").unwrap_or(text);
            let bare = bare.strip_suffix(b"\r").unwrap_or(bare);
            // Lines of a listing end with a bare LF, so a function named ERR is not taken for an error.
            let single = lines.is_empty() && (!listing || text.ends_with(b"\r\n"));
            if single && let Some(rest) = after_word(bare, b"ERR") {
                return Ok(RawAnswer { answer: TextAnswer::Err(rest.to_vec()), wire });
            }
            if single && let Some(rest) = after_word(bare, b"OK") {
                return Ok(RawAnswer { answer: TextAnswer::Ok(rest.to_vec()), wire });
            }
            if text == END_OF_LIST || bare == b"." {
                return Ok(RawAnswer { answer: TextAnswer::Listing(lines), wire });
            }
            if lines.is_empty() && bare.starts_with(b"# ") {
                columns = bare.split(|byte| matches!(byte, b' ' | b'\t')).count() - 1;
                if columns > COLUMNS_MAX {
                    return Err(io::Error::other(format!("table has {columns} columns (limit {COLUMNS_MAX})")));
                }
            }
            taken += 2 * text.len() + LINE_COST + columns * CELL_COST;
            lines.push(bare.to_vec());
            if taken > self.most {
                let (count, most) = (lines.len(), self.most >> 20);
                return Err(io::Error::other(format!(
                    "listing is too large: {count} lines so far, memory limit {most} MiB"
                )));
            }
        }
    }

    async fn read_line(&mut self, out: &mut Vec<u8>) -> io::Result<()> {
        let limit = LINE_MAX as u64;
        let count = (&mut self.reader).take(limit).read_until(b'\n', out).await?;
        if out.last() == Some(&b'\n') && count > 0 {
            return Ok(());
        }
        if count == LINE_MAX {
            return Err(io::Error::other(format!("line exceeds {LINE_MAX} bytes")));
        }
        Err(io::Error::new(
            io::ErrorKind::UnexpectedEof,
            "connection closed by the server before the answer was complete",
        ))
    }
}

/// Whether the response to this line is a listing that ends with a dot.
pub(super) fn is_listing(line: &[u8]) -> bool {
    const NEW: [&[u8]; 2] = [b"show ", b"list "];
    if NEW.iter().any(|word| line.len() > word.len() && line[..word.len()].eq_ignore_ascii_case(word)) {
        return true;
    }
    matches!(
        AdminCommand::parse(line),
        Ok(AdminCommand::Workers
            | AdminCommand::Status
            | AdminCommand::PriorityStatus
            | AdminCommand::ShowJobs
            | AdminCommand::ShowUniqueJobs)
    )
}

/// Returns what follows `word` if the line begins with it.
fn after_word<'a>(line: &'a [u8], word: &[u8]) -> Option<&'a [u8]> {
    match line.strip_prefix(word)? {
        [] => Some(b""),
        [b' ', rest @ ..] => Some(rest),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn ask(line: &str, wire: &[u8]) -> io::Result<TextAnswer> {
        let (ours, mut theirs) = tokio::io::duplex(1 << 16);
        let (reader, writer) = tokio::io::split(ours);
        theirs.write_all(wire).await.unwrap();
        theirs.shutdown().await.unwrap();
        let answer = TextConnection::new((Box::new(reader), Box::new(writer))).ask(line).await?;
        let mut sent = vec![0; line.len() + 2];
        theirs.read_exact(&mut sent).await.unwrap();
        assert_eq!(sent, format!("{line}\r\n").as_bytes());
        assert_eq!(answer.wire, wire);
        Ok(answer.answer)
    }

    #[tokio::test]
    async fn answers_of_every_form_are_read() {
        assert_eq!(ask("getpid", b"OK 12\n").await.unwrap(), TextAnswer::Ok(b"12".to_vec()));
        assert_eq!(ask("create function f", b"OK\r\n").await.unwrap(), TextAnswer::Ok(Vec::new()));
        assert_eq!(
            ask("cancel job x", b"ERR UNKNOWN_JOB\r\n").await.unwrap(),
            TextAnswer::Err(b"UNKNOWN_JOB".to_vec())
        );
        assert_eq!(ask("status", b".\n").await.unwrap(), TextAnswer::Listing(Vec::new()));
        assert_eq!(ask("show jobs", b"ERR busy\r\n").await.unwrap(), TextAnswer::Err(b"busy".to_vec()));
        // A listing that is unknown to this program.
        assert_eq!(
            ask("clients", b"a\nb\n.\n").await.unwrap(),
            TextAnswer::Listing(vec![b"a".to_vec(), b"b".to_vec()])
        );
    }

    #[tokio::test]
    async fn names_that_look_like_an_answer_are_names() {
        let lines = vec![b"OK".to_vec(), b"ERR x".to_vec()];
        assert_eq!(ask("show unique jobs", b"OK\nERR x\n.\n").await.unwrap(), TextAnswer::Listing(lines));
    }

    #[tokio::test]
    async fn listings_without_an_end_are_given_up() {
        let tables = [
            ("# a b c\n".to_owned(), "\n"),
            (String::new(), "x\n"),
            (format!("#{}\n", " a".repeat(COLUMNS_MAX)), "\n"),
            (format!("#{}\n", " a".repeat(COLUMNS_MAX + 1)), "\n"),
        ];
        for (begin, line) in tables {
            let wire = begin + &line.repeat(30_000);
            let reader = std::io::Cursor::new(wire.into_bytes());
            let stream: Stream = (Box::new(reader), Box::new(tokio::io::sink()));
            let error = TextConnection::with_most(stream, 1 << 20).ask("show functions").await.unwrap_err().to_string();
            assert!(error.contains("listing is too large") || error.contains("257 columns"), "{error}");
        }
    }

    #[tokio::test]
    async fn an_answer_that_ends_early_is_none() {
        for wire in [&b""[..], b"OK", b"rev\t0\t0\t0\n"] {
            assert_eq!(ask("status", wire).await.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        }
    }
}
