//! What the shim has written down: each change to the disk and each byte of the sockets, in one order.

use std::fs;
use std::ops::Range;
use std::path::Path;

/// What happened. The numbers are those of `shim.c`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A file or directory was opened. `offset` is 1 if it was not there before, and 2 if it was emptied.
    Opened,
    Closed,
    Written,
    /// `offset` is the new size.
    Resized,
    /// `offset` is the least size of now.
    Allocated,
    /// `detail` is 1 for a directory.
    Synced,
    /// A sync that was asked for and not made.
    SyncSkipped,
    Unlinked,
    /// Data: the old path, NUL, the new one.
    Renamed,
    /// `detail` is the port of the peer; and so it is for the next two.
    Sent,
    Received,
    Accepted,
    /// A process started.
    Started,
}

/// One thing that happened.
#[derive(Clone, Debug)]
pub(crate) struct Record {
    pub(crate) kind: Kind,
    pub(crate) fd: i32,
    /// The error number of a call that failed; 0 for success.
    pub(crate) error: i32,
    pub(crate) detail: u32,
    pub(crate) inode: u64,
    pub(crate) offset: u64,
    data: Range<usize>,
}

/// Everything that happened, in its order.
pub(crate) struct Trace {
    bytes: Vec<u8>,
    pub(crate) records: Vec<Record>,
}

const HEAD: usize = 40;

impl Trace {
    #[track_caller]
    pub(crate) fn read(path: &Path) -> Self {
        let bytes = fs::read(path).expect("the trace");
        let mut records = Vec::new();
        let mut at = 0;
        // While the server runs it may be writing the last one.
        while at + HEAD <= bytes.len() {
            let word = |offset: usize| {
                let from = at + offset;
                u32::from_ne_bytes(bytes[from..from + 4].try_into().expect("four bytes"))
            };
            let long = |offset: usize| {
                let from = at + offset;
                u64::from_ne_bytes(bytes[from..from + 8].try_into().expect("eight bytes"))
            };
            let length = usize::try_from(long(32)).expect("a length");
            let data = at + HEAD..at + HEAD + length;
            if data.end > bytes.len() {
                break;
            }
            let kind = kind(word(0), &bytes[data.clone()]);
            records.push(Record {
                kind,
                fd: word(4).cast_signed(),
                error: word(8).cast_signed(),
                detail: word(12),
                inode: long(16),
                offset: long(24),
                data,
            });
            at += HEAD + length;
        }
        Self { bytes, records }
    }

    /// The bytes that a record came with.
    pub(crate) fn data(&self, record: &Record) -> &[u8] {
        &self.bytes[record.data.clone()]
    }

    /// The path that a record names.
    pub(crate) fn path(&self, record: &Record) -> String {
        String::from_utf8_lossy(self.data(record)).into_owned()
    }
}

fn kind(number: u32, data: &[u8]) -> Kind {
    match number {
        1 => Kind::Opened,
        2 => Kind::Closed,
        3 => Kind::Written,
        4 => Kind::Resized,
        5 => Kind::Allocated,
        6 => Kind::Synced,
        7 => Kind::SyncSkipped,
        8 => Kind::Unlinked,
        9 => Kind::Renamed,
        10 => Kind::Sent,
        11 => Kind::Received,
        12 => panic!("the server changes files in a way that the model of the disk lacks: {}", data.escape_ascii()),
        13 => Kind::Accepted,
        14 => Kind::Started,
        other => panic!("record of kind {other}"),
    }
}
