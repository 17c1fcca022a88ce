//! Outputs without a reader, or that accept nothing.

use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;

use nix::sys::stat::Mode;
use nix::unistd::mkfifo;

use tracing::info;

use super::super::build;
use super::super::tests::{finish, to_file};
use super::*;
use crate::log_level::Level;

/// More lines than the queue and a pipe hold.
const MANY: u64 = 30_000;

struct Fifo {
    path: PathBuf,
    _directory: tempfile::TempDir,
}

impl Fifo {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("fifo");
        mkfifo(&path, Mode::S_IRUSR | Mode::S_IWUSR).unwrap();
        Self { path, _directory: directory }
    }

    fn read(&self) -> BufReader<std::fs::File> {
        BufReader::new(OpenOptions::new().read(true).open(&self.path).unwrap())
    }
}

#[test]
fn a_fifo_without_a_reader_holds_up_nothing_and_its_lines_wait() {
    let fifo = Fifo::new();
    let (subscriber, handle) = build(&to_file(&fifo.path, Level::Info)).unwrap();
    tracing::subscriber::with_default(subscriber, || {
        info!("first");
        handle.reopen();
        info!("second");
        assert!(!handle.is_written());
        let mut lines = fifo.read().lines();
        for text in ["first", "second"] {
            let line = lines.next().unwrap().unwrap();
            assert!(line.ends_with(text), "{line}");
        }
        finish(&handle);
        // The reader closes, and the next one gets later lines.
        drop(lines);
        info!("for nobody");
        finish(&handle);
        assert_eq!(handle.left_out(), 1);
        info!("third");
        let lines: Vec<String> = fifo.read().lines().take(2).map(Result::unwrap).collect();
        assert!(lines[0].contains("1 log lines dropped (output too slow)"), "{lines:?}");
        assert!(lines[1].ends_with("third"), "{lines:?}");
    });
}

#[test]
fn what_a_full_pipe_does_not_take_is_counted_in_its_place() {
    let fifo = Fifo::new();
    let (subscriber, handle) = build(&to_file(&fifo.path, Level::Info)).unwrap();
    let reader = std::thread::scope(|scope| {
        // Opening it waits for the writer.
        let reader = scope.spawn(|| fifo.read());
        tracing::subscriber::with_default(subscriber, || {
            for number in 0..MANY {
                info!("number {number}");
            }
        });
        reader.join().unwrap()
    });
    let left_out = handle.left_out();
    assert!(left_out > 0 && !handle.is_written());
    drop(handle);
    let (mut next, mut missing) = (0, 0);
    // All loggers and the log handle are dropped: the writer writes what is left, and closes the pipe.
    for line in reader.lines().map(Result::unwrap) {
        if let Some((_, number)) = line.split_once("number ") {
            assert_eq!(number.parse::<u64>().unwrap(), next, "{line}");
            next += 1;
        } else {
            let (text, _) = line.split_once(" log lines dropped (output too slow)").unwrap();
            let count: u64 = text.rsplit(' ').next().unwrap().parse().unwrap();
            next += count;
            missing += count;
        }
    }
    assert_eq!((next, missing), (MANY, left_out));
}

#[test]
fn what_a_full_disk_does_not_take_is_counted() {
    let (subscriber, handle) = build(&to_file(Path::new("/dev/full"), Level::Info)).unwrap();
    tracing::subscriber::with_default(subscriber, || {
        info!("first");
        info!("second");
    });
    finish(&handle);
    assert_eq!(handle.left_out(), 2);
}
