//! Source of the jobs of `gearmand submit`: the command line, or standard input as a whole or line by line.

use std::ffi::OsString;
use std::io::{self, BufRead, BufReader, Read};
use std::os::unix::ffi::OsStringExt;

use bytes::Bytes;
use tokio::sync::mpsc;

use super::connection::PACKET_MAX;
use crate::protocol::FunctionName;

/// Number of jobs that may be read ahead.
const READ_AHEAD: usize = 1024;
/// Size of a read from standard input, in bytes.
const READ_SIZE: usize = 256 * 1024;

/// A job to submit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct NewJob {
    pub(super) function: FunctionName,
    pub(super) workload: Bytes,
}

/// Where the workloads come from.
#[derive(Debug)]
pub(super) enum Input {
    /// These words, one workload each.
    Words(Vec<OsString>),
    /// Each line of standard input, without its line end.
    Lines,
    /// All of standard input as one workload.
    Whole,
}

/// Starts reading ahead, as far as there is room. Each workload is submitted to each function.
///
/// Standard input is read by a thread of its own, which the end of the process does not wait for.
pub(super) fn start(input: Input, functions: Vec<FunctionName>) -> io::Result<mpsc::Receiver<io::Result<NewJob>>> {
    let (jobs, receiver) = mpsc::channel(READ_AHEAD);
    std::thread::Builder::new().name("source".to_owned()).spawn(move || {
        let stdin = BufReader::with_capacity(READ_SIZE, io::stdin());
        if let Err(error) = produce(input, stdin, &functions, &jobs) {
            // The error is dropped if the receiver is gone.
            let _ = jobs.blocking_send(Err(error));
        }
    })?;
    Ok(receiver)
}

fn produce(
    input: Input,
    mut stdin: impl BufRead,
    functions: &[FunctionName],
    jobs: &mpsc::Sender<io::Result<NewJob>>,
) -> io::Result<()> {
    // Returns false if the receiver is gone.
    let send = |workload: &Bytes| {
        functions.iter().all(|function| {
            let job = NewJob { function: function.clone(), workload: workload.clone() };
            jobs.blocking_send(Ok(job)).is_ok()
        })
    };
    match input {
        Input::Words(words) => {
            for word in words {
                if !send(&Bytes::from(word.into_vec())) {
                    break;
                }
            }
        }
        Input::Lines => {
            while let Some(line) = read_line(&mut stdin)? {
                if !send(&line) {
                    break;
                }
            }
        }
        Input::Whole => {
            let mut workload = Vec::new();
            stdin.take(PACKET_MAX as u64 + 1).read_to_end(&mut workload)?;
            send(&checked(workload)?);
        }
    }
    Ok(())
}

/// Reads a line without its `\n` or `\r\n`; the last line may lack it.
fn read_line(stdin: &mut impl BufRead) -> io::Result<Option<Bytes>> {
    let mut line = Vec::new();
    let count = stdin.take(PACKET_MAX as u64 + 1).read_until(b'\n', &mut line)?;
    if count == 0 {
        return Ok(None);
    }
    if line.pop_if(|last| *last == b'\n').is_some() {
        line.pop_if(|last| *last == b'\r');
    }
    checked(line).map(Some)
}

fn checked(workload: Vec<u8>) -> io::Result<Bytes> {
    if workload.len() > PACKET_MAX {
        return Err(io::Error::other(format!("workload exceeds {PACKET_MAX} bytes")));
    }
    Ok(Bytes::from(workload))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(input: Input, stdin: &[u8], functions: &[&str]) -> Vec<(String, String)> {
        let (sender, mut receiver) = mpsc::channel(100);
        let functions: Vec<_> = functions.iter().map(|name| FunctionName::new(name.as_bytes())).collect();
        produce(input, stdin, &functions, &sender).unwrap();
        drop(sender);
        let mut jobs = Vec::new();
        while let Some(job) = receiver.blocking_recv() {
            let job = job.unwrap();
            jobs.push((job.function.to_string(), job.workload.escape_ascii().to_string()));
        }
        jobs
    }

    fn workloads(jobs: &[(String, String)]) -> Vec<&str> {
        jobs.iter().map(|(_, workload)| workload.as_str()).collect()
    }

    #[test]
    fn workloads_are_words_lines_or_all_of_the_input() {
        let words = ["a b", ""].map(OsString::from).into();
        assert_eq!(workloads(&read(Input::Words(words), b"unread", &["f"])), ["a b", ""]);
        assert_eq!(workloads(&read(Input::Lines, b"a\r\n\nb\r\r\nc", &["f"])), ["a", "", "b\\r", "c"]);
        assert_eq!(workloads(&read(Input::Lines, b"", &["f"])), [""; 0]);
        assert_eq!(workloads(&read(Input::Whole, b"a\nb\n", &["f"])), ["a\\nb\\n"]);
        assert_eq!(workloads(&read(Input::Whole, b"", &["f"])), [""]);
    }

    #[test]
    fn each_workload_goes_to_each_function() {
        let jobs = read(Input::Lines, b"a\nb\n", &["f", "g"]);
        let expected = [("f", "a"), ("g", "a"), ("f", "b"), ("g", "b")];
        assert_eq!(jobs, expected.map(|(function, workload)| (function.to_owned(), workload.to_owned())));
    }
}
